//! REMOVE, RMDIR, RENAME, LINK: RFC 1813 3.3.12 to 3.3.15.

use bytes::Bytes;
use muxfs::{
    Name,
    vfs::{Place, RemoveKind, RenameMode},
};
use nfs3_types::nfs3::{
    LINK3res, LINK3resfail, LINK3resok, Nfs3Option, Nfs3Result, REMOVE3res, REMOVE3resfail, REMOVE3resok, RENAME3res,
    RENAME3resfail, RENAME3resok, nfsstat3,
};

use super::{Context, Node, fail, plain_name};
use crate::{
    attr::{post_op, wcc, wcc_now},
    status::status,
    xdr::{Decoder, Malformed},
};

pub(super) async fn remove(cx: &Context, mut args: Decoder) -> Result<REMOVE3res, Malformed> {
    let (dir, name) = (args.handle()?, args.name()?);
    Ok(remove_name(cx, &dir, plain_name(&name, nfsstat3::NFS3ERR_INVAL), RemoveKind::NonDir).await)
}

/// Its results look like those of REMOVE.
pub(super) async fn rmdir(cx: &Context, mut args: Decoder) -> Result<REMOVE3res, Malformed> {
    let (dir, name) = (args.handle()?, args.name()?);
    let dots = if *name == *b"." { nfsstat3::NFS3ERR_INVAL } else { nfsstat3::NFS3ERR_EXIST };
    Ok(remove_name(cx, &dir, plain_name(&name, dots), RemoveKind::Dir).await)
}

async fn remove_name(cx: &Context, dir: &Bytes, name: Result<Name, nfsstat3>, kind: RemoveKind) -> REMOVE3res {
    let dir = match cx.resolve(dir).await {
        Ok(dir) => dir,
        Err(status) => return fail(status, REMOVE3resfail::default()),
    };
    let removed = match &name {
        Ok(name) => {
            let place = Place { dir: dir.ino(), name, expect: None };
            cx.identity.view.remove(place, kind).await.map_err(|error| status(&error))
        }
        Err(status) => Err(*status),
    };
    match removed {
        Ok(removed) => match cx.sync_names([&dir]).await {
            Ok(()) => Nfs3Result::Ok(REMOVE3resok { dir_wcc: wcc(&removed.dir) }),
            Err(status) => fail(status, REMOVE3resfail { dir_wcc: wcc(&removed.dir) }),
        },
        Err(status) => {
            let now = cx.now(dir.ino()).await;
            fail(status, REMOVE3resfail { dir_wcc: wcc_now(now.as_ref()) })
        }
    }
}

pub(super) async fn rename(cx: &Context, mut args: Decoder) -> Result<RENAME3res, Malformed> {
    let (from_dir, from_name) = (args.handle()?, args.name()?);
    let (to_dir, to_name) = (args.handle()?, args.name()?);
    let from = match cx.resolve(&from_dir).await {
        Ok(dir) => dir,
        Err(status) => return Ok(fail(status, RENAME3resfail::default())),
    };
    let to = match cx.resolve(&to_dir).await {
        Ok(dir) => dir,
        Err(status) => {
            let fromdir_wcc = wcc_now(cx.now(from.ino()).await.as_ref());
            return Ok(fail(status, RENAME3resfail { fromdir_wcc, todir_wcc: wcc_now(None) }));
        }
    };
    Ok(match rename_name(cx, (&from, &from_name), (&to, &to_name)).await {
        Ok(resok) => Nfs3Result::Ok(resok),
        Err(status) => {
            let fromdir_wcc = wcc_now(cx.now(from.ino()).await.as_ref());
            let todir_wcc = wcc_now(cx.now(to.ino()).await.as_ref());
            fail(status, RENAME3resfail { fromdir_wcc, todir_wcc })
        }
    })
}

async fn rename_name(cx: &Context, from: (&Node, &[u8]), to: (&Node, &[u8])) -> Result<RENAME3resok, nfsstat3> {
    let from_name = plain_name(from.1, nfsstat3::NFS3ERR_INVAL)?;
    let to_name = plain_name(to.1, nfsstat3::NFS3ERR_INVAL)?;
    let from_place = Place { dir: from.0.ino(), name: &from_name, expect: None };
    let to_place = Place { dir: to.0.ino(), name: &to_name, expect: None };
    let renamed =
        cx.identity.view.rename(from_place, to_place, RenameMode::Replace).await.map_err(|error| status(&error))?;
    cx.sync_names([from.0, to.0]).await?;
    Ok(RENAME3resok { fromdir_wcc: wcc(&renamed.from), todir_wcc: wcc(&renamed.to) })
}

pub(super) async fn link(cx: &Context, mut args: Decoder) -> Result<LINK3res, Malformed> {
    let (file, dir, name) = (args.handle()?, args.handle()?, args.name()?);
    let nothing = || LINK3resfail { file_attributes: Nfs3Option::None, linkdir_wcc: wcc_now(None) };
    let file = match cx.resolve(&file).await {
        Ok(file) => file,
        Err(status) => return Ok(fail(status, nothing())),
    };
    let dir = match cx.resolve(&dir).await {
        Ok(dir) => dir,
        Err(status) => {
            return Ok(fail(status, LINK3resfail { file_attributes: post_op(&file.attr), ..nothing() }));
        }
    };
    let linked = match plain_name(&name, nfsstat3::NFS3ERR_EXIST) {
        Ok(name) => cx.identity.view.link(file.ino(), dir.ino(), &name).await.map_err(|error| status(&error)),
        Err(status) => Err(status),
    };
    Ok(match linked {
        Ok(linked) => {
            let node = cx.adopt(linked.node);
            let (file_attributes, linkdir_wcc) = (post_op(&node.attr), wcc(&linked.dir));
            match cx.sync_names([&file, &dir]).await {
                Ok(()) => Nfs3Result::Ok(LINK3resok { file_attributes, linkdir_wcc }),
                Err(status) => fail(status, LINK3resfail { file_attributes, linkdir_wcc }),
            }
        }
        Err(status) => {
            let file_attributes = cx.now(file.ino()).await.as_ref().map_or(Nfs3Option::None, post_op);
            let linkdir_wcc = wcc_now(cx.now(dir.ino()).await.as_ref());
            fail(status, LINK3resfail { file_attributes, linkdir_wcc })
        }
    })
}
