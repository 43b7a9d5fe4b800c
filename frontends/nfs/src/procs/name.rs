//! LOOKUP, READLINK: RFC 1813 3.3.3, 3.3.5.

use muxfs::FileKind;
use nfs3_types::{
    nfs3::{
        LOOKUP3res, LOOKUP3resfail, LOOKUP3resok, Nfs3Option, Nfs3Result, READLINK3res, READLINK3resfail,
        READLINK3resok, nfspath3, nfsstat3,
    },
    xdr_codec::Opaque,
};

use super::{Context, Node, fail, plain_name};
use crate::{
    attr::post_op,
    status::status,
    xdr::{Decoder, Malformed},
};

pub(super) async fn lookup(cx: &Context, mut args: Decoder) -> Result<LOOKUP3res, Malformed> {
    let (dir, name) = (args.handle()?, args.name()?);
    let dir = match cx.resolve(&dir).await {
        Ok(dir) => dir,
        Err(status) => return Ok(fail(status, LOOKUP3resfail::default())),
    };
    let found = match find(cx, &dir, &name).await {
        Ok(node) => cx.handle(node.ino()).map(|object| (object, node)),
        Err(status) => Err(status),
    };
    let dir_attributes = post_op(&dir.attr);
    Ok(match found {
        Ok((object, node)) => {
            Nfs3Result::Ok(LOOKUP3resok { object, obj_attributes: post_op(&node.attr), dir_attributes })
        }
        Err(status) => fail(status, LOOKUP3resfail { dir_attributes }),
    })
}

async fn find(cx: &Context, dir: &Node, name: &[u8]) -> Result<Node, nfsstat3> {
    if dir.attr.kind != FileKind::Dir {
        return Err(nfsstat3::NFS3ERR_NOTDIR);
    }
    let found = match name {
        b"." => {
            cx.server.vfs.retain(dir.ino());
            Ok(dir.attr.clone())
        }
        b".." => cx.identity.view.parent(dir.ino()).await,
        _ => cx.identity.view.lookup(dir.ino(), &plain_name(name, nfsstat3::NFS3ERR_INVAL)?).await,
    };
    found.map(|attr| cx.adopt(attr)).map_err(|error| status(&error))
}

pub(super) async fn readlink(cx: &Context, mut args: Decoder) -> Result<READLINK3res<'static>, Malformed> {
    let symlink = args.handle()?;
    let node = match cx.resolve(&symlink).await {
        Ok(node) => node,
        Err(status) => return Ok(fail(status, READLINK3resfail { symlink_attributes: Nfs3Option::None })),
    };
    let symlink_attributes = post_op(&node.attr);
    Ok(match cx.identity.view.readlink(node.ino()).await {
        Ok(target) => {
            let data = nfspath3(Opaque::owned(target.into()));
            Nfs3Result::Ok(READLINK3resok { symlink_attributes, data })
        }
        Err(error) => fail(status(&error), READLINK3resfail { symlink_attributes }),
    })
}
