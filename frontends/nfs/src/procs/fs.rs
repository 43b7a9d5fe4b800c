//! FSSTAT, FSINFO, PATHCONF: RFC 1813 3.3.18 to 3.3.20.

use muxfs::path::NAME_LEN_MAX;
use nfs3_types::nfs3::{
    FSF3_CANSETTIME, FSF3_HOMOGENEOUS, FSF3_LINK, FSF3_SYMLINK, FSINFO3res, FSINFO3resfail, FSINFO3resok, FSSTAT3res,
    FSSTAT3resfail, FSSTAT3resok, Nfs3Result, PATHCONF3res, PATHCONF3resfail, PATHCONF3resok, nfstime3,
};

use super::{Context, data::FILE_LEN_MAX, fail, list};
use crate::{
    attr::post_op,
    record::TRANSFER_LEN_MAX,
    status::status,
    xdr::{Decoder, Malformed},
};

/// Transfers in multiples of this suit every store: a page.
const TRANSFER_MULTIPLE: u32 = 4096;
/// How many names a node may have, as far as anybody can tell from here: what ext4 allows. The `Vfs` has the last word.
const LINK_COUNT_MAX: u32 = 65_000;

pub(super) async fn fsstat(cx: &Context, mut args: Decoder) -> Result<FSSTAT3res, Malformed> {
    let root = args.handle()?;
    let node = match cx.resolve(&root).await {
        Ok(node) => node,
        Err(status) => return Ok(fail(status, FSSTAT3resfail::default())),
    };
    let obj_attributes = post_op(&node.attr);
    Ok(match cx.server.vfs.statfs(node.ino()).await {
        Ok(stat) => Nfs3Result::Ok(FSSTAT3resok {
            obj_attributes,
            tbytes: stat.bytes_total,
            fbytes: stat.bytes_free,
            abytes: stat.bytes_free,
            tfiles: stat.inodes_total,
            ffiles: stat.inodes_free,
            afiles: stat.inodes_free,
            invarsec: 0,
        }),
        Err(error) => fail(status(&error), FSSTAT3resfail { obj_attributes }),
    })
}

pub(super) async fn fsinfo(cx: &Context, mut args: Decoder) -> Result<FSINFO3res, Malformed> {
    let root = args.handle()?;
    Ok(match cx.resolve(&root).await {
        Ok(node) => Nfs3Result::Ok(FSINFO3resok {
            obj_attributes: post_op(&node.attr),
            rtmax: TRANSFER_LEN_MAX,
            rtpref: TRANSFER_LEN_MAX,
            rtmult: TRANSFER_MULTIPLE,
            wtmax: TRANSFER_LEN_MAX,
            wtpref: TRANSFER_LEN_MAX,
            wtmult: TRANSFER_MULTIPLE,
            dtpref: list::REPLY_LEN_MAX,
            maxfilesize: FILE_LEN_MAX,
            time_delta: nfstime3 { seconds: 0, nseconds: 1 },
            properties: FSF3_LINK | FSF3_SYMLINK | FSF3_HOMOGENEOUS | FSF3_CANSETTIME,
        }),
        Err(status) => fail(status, FSINFO3resfail::default()),
    })
}

pub(super) async fn pathconf(cx: &Context, mut args: Decoder) -> Result<PATHCONF3res, Malformed> {
    let object = args.handle()?;
    Ok(match cx.resolve(&object).await {
        Ok(node) => Nfs3Result::Ok(PATHCONF3resok {
            obj_attributes: post_op(&node.attr),
            linkmax: LINK_COUNT_MAX,
            name_max: u32::try_from(NAME_LEN_MAX).unwrap_or(u32::MAX),
            no_trunc: true,
            chown_restricted: true,
            case_insensitive: false,
            case_preserving: true,
        }),
        Err(status) => fail(status, PATHCONF3resfail::default()),
    })
}
