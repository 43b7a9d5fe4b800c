//! CREATE, MKDIR, SYMLINK, MKNOD: RFC 1813 3.3.8 to 3.3.11. Their results look alike on the wire.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use muxfs::{
    ErrorKind, FileKind, Name,
    vfs::{DirChanged, NewNode, Rdev, SetAttr, SetTime},
};
use nfs3_types::nfs3::{
    CREATE3res, CREATE3resfail, CREATE3resok, Nfs3Option, Nfs3Result, createmode3, ftype3, nfsstat3, sattr3, specdata3,
    wcc_data,
};

use super::{Context, Node, fail, plain_name};
use crate::{
    attr::{post_op, set_attr, wcc, wcc_now},
    status::status,
    xdr::{Decoder, Malformed},
};

/// How often CREATE looks again at a name that others make and remove at the same time.
const RACE_COUNT_MAX: usize = 8;
/// The mode of what is made without one.
const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;
const SYMLINK_MODE: u32 = 0o777;

enum How {
    Unchecked(SetAttr),
    Guarded(SetAttr),
    Exclusive([u8; 8]),
}

pub(super) async fn create(cx: &Context, mut args: Decoder) -> Result<CREATE3res, Malformed> {
    let (dir, name) = (args.handle()?, args.name()?);
    let how = match args.fixed::<createmode3>()? {
        createmode3::UNCHECKED => How::Unchecked(set_attr(&args.fixed::<sattr3>()?)),
        createmode3::GUARDED => How::Guarded(set_attr(&args.fixed::<sattr3>()?)),
        createmode3::EXCLUSIVE => How::Exclusive(args.verifier()?),
    };
    Ok(match how {
        How::Guarded(set) => make(cx, &dir, &name, NewNode::File, with_mode(set, FILE_MODE)).await,
        How::Unchecked(set) => {
            let size = set.size;
            make_or_find(cx, &dir, &name, with_mode(set, FILE_MODE), &Found::Truncated(size)).await
        }
        How::Exclusive(verifier) => {
            let set = stamp(verifier);
            make_or_find(cx, &dir, &name, set, &Found::Stamped(verifier)).await
        }
    })
}

pub(super) async fn mkdir(cx: &Context, mut args: Decoder) -> Result<CREATE3res, Malformed> {
    let (dir, name) = (args.handle()?, args.name()?);
    let set = with_mode(set_attr(&args.fixed::<sattr3>()?), DIR_MODE);
    Ok(make(cx, &dir, &name, NewNode::Dir, SetAttr { size: None, ..set }).await)
}

pub(super) async fn symlink(cx: &Context, mut args: Decoder) -> Result<CREATE3res, Malformed> {
    let (dir, name) = (args.handle()?, args.name()?);
    let set = with_mode(set_attr(&args.fixed::<sattr3>()?), SYMLINK_MODE);
    let target = args.target()?;
    if target.is_empty() || target.contains(&0) {
        return Ok(refuse(cx, &dir, nfsstat3::NFS3ERR_INVAL).await);
    }
    let node = NewNode::Symlink(Bytes::copy_from_slice(&target));
    Ok(make(cx, &dir, &name, node, SetAttr { size: None, ..set }).await)
}

pub(super) async fn mknod(cx: &Context, mut args: Decoder) -> Result<CREATE3res, Malformed> {
    let (dir, name) = (args.handle()?, args.name()?);
    let kind: ftype3 = args.fixed()?;
    if !matches!(kind, ftype3::NF3CHR | ftype3::NF3BLK | ftype3::NF3SOCK | ftype3::NF3FIFO) {
        return Ok(refuse(cx, &dir, nfsstat3::NFS3ERR_BADTYPE).await);
    }
    let set = with_mode(set_attr(&args.fixed::<sattr3>()?), FILE_MODE);
    let mut rdev = || args.fixed::<specdata3>().map(|spec| Rdev { major: spec.specdata1, minor: spec.specdata2 });
    let node = match kind {
        ftype3::NF3CHR => NewNode::CharDevice(rdev()?),
        ftype3::NF3BLK => NewNode::BlockDevice(rdev()?),
        ftype3::NF3SOCK => NewNode::Socket,
        _ => NewNode::Fifo,
    };
    Ok(make(cx, &dir, &name, node, SetAttr { size: None, ..set }).await)
}

fn with_mode(mut set: SetAttr, mode: u32) -> SetAttr {
    set.mode.get_or_insert(mode);
    set
}

/// What may be found in place of a new file.
enum Found {
    /// Any file: it gets this size, if one is given.
    Truncated(Option<u64>),
    /// Only the file that this very call made before its reply was lost.
    Stamped([u8; 8]),
}

/// The times that an exclusive create gives its file: they hold the client's verifier, so that the call repeated, also
/// after a restart, knows its own work. The client then sets real times and mode. 31 bits of each half are kept: every
/// file system can store those seconds.
fn stamp(verifier: [u8; 8]) -> SetAttr {
    let bits = u64::from_be_bytes(verifier);
    let seconds = |bits: u64| SetTime::At(SystemTime::UNIX_EPOCH + Duration::from_secs(bits & 0x7fff_ffff));
    SetAttr { mode: Some(0), atime: Some(seconds(bits >> 32)), mtime: Some(seconds(bits)), ..SetAttr::default() }
}

async fn make(cx: &Context, dir: &Bytes, name: &[u8], node: NewNode, set: SetAttr) -> CREATE3res {
    let (dir, name) = match place(cx, dir, name).await {
        Ok(place) => place,
        Err(failed) => return failed,
    };
    match cx.identity.view.create(dir.ino(), &name, node, set).await {
        Ok(made) => reply_made(cx, &dir, made).await,
        Err(error) => failed_in(cx, &dir, status(&error)).await,
    }
}

async fn make_or_find(cx: &Context, dir: &Bytes, name: &[u8], set: SetAttr, found: &Found) -> CREATE3res {
    let (dir, name) = match place(cx, dir, name).await {
        Ok(place) => place,
        Err(failed) => return failed,
    };
    for _ in 0..RACE_COUNT_MAX {
        let refused = match cx.identity.view.create(dir.ino(), &name, NewNode::File, set.clone()).await {
            Ok(made) => return reply_made(cx, &dir, made).await,
            Err(error) => error,
        };
        // Taking a file that is there needs no right to make one.
        if !matches!(refused.kind(), ErrorKind::Exists | ErrorKind::Denied | ErrorKind::ReadOnly) {
            return failed_in(cx, &dir, status(&refused)).await;
        }
        match cx.identity.view.lookup(dir.ino(), &name).await {
            Ok(attr) => return reply_found(cx, &dir, cx.adopt(attr), found).await,
            Err(error) if error.kind() == ErrorKind::NotFound && refused.kind() == ErrorKind::Exists => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return failed_in(cx, &dir, status(&refused)).await,
            Err(error) => return failed_in(cx, &dir, status(&error)).await,
        }
    }
    failed_in(cx, &dir, nfsstat3::NFS3ERR_JUKEBOX).await
}

async fn place(cx: &Context, dir: &Bytes, name: &[u8]) -> Result<(Node, Name), CREATE3res> {
    let dir = cx.resolve(dir).await.map_err(|status| fail(status, CREATE3resfail::default()))?;
    match plain_name(name, nfsstat3::NFS3ERR_EXIST) {
        Ok(name) => Ok((dir, name)),
        Err(status) => Err(failed_in(cx, &dir, status).await),
    }
}

async fn reply_made(cx: &Context, dir: &Node, made: DirChanged) -> CREATE3res {
    let (node, dir_wcc) = (cx.adopt(made.node), wcc(&made.dir));
    match cx.sync_names([&node, dir]).await {
        Ok(()) => reply(cx, &node, dir_wcc),
        Err(status) => fail(status, CREATE3resfail { dir_wcc }),
    }
}

async fn reply_found(cx: &Context, dir: &Node, mut node: Node, found: &Found) -> CREATE3res {
    let taken = match (node.attr.kind, found) {
        (FileKind::File, Found::Truncated(None)) => Ok(()),
        (FileKind::File, Found::Truncated(size)) => {
            let set = SetAttr { size: *size, ..SetAttr::default() };
            match cx.identity.view.setattr(node.ino(), set).await {
                Ok(changed) => {
                    node.attr = changed.after;
                    cx.sync_names([&node]).await
                }
                Err(error) => Err(status(&error)),
            }
        }
        (FileKind::File, Found::Stamped(verifier)) if is_stamped(&node, *verifier) => Ok(()),
        _ => Err(nfsstat3::NFS3ERR_EXIST),
    };
    match taken {
        Ok(()) => reply(cx, &node, wcc_now(cx.now(dir.ino()).await.as_ref())),
        Err(status) => failed_in(cx, dir, status).await,
    }
}

fn is_stamped(node: &Node, verifier: [u8; 8]) -> bool {
    let stamp = stamp(verifier);
    node.attr.size == 0
        && stamp.atime == Some(SetTime::At(node.attr.atime))
        && stamp.mtime == Some(SetTime::At(node.attr.mtime))
}

fn reply(cx: &Context, node: &Node, dir_wcc: wcc_data) -> CREATE3res {
    match cx.handle(node.ino()) {
        Ok(handle) => {
            Nfs3Result::Ok(CREATE3resok { obj: Nfs3Option::Some(handle), obj_attributes: post_op(&node.attr), dir_wcc })
        }
        Err(status) => fail(status, CREATE3resfail { dir_wcc }),
    }
}

async fn refuse(cx: &Context, dir: &Bytes, status: nfsstat3) -> CREATE3res {
    match cx.resolve(dir).await {
        Ok(dir) => failed_in(cx, &dir, status).await,
        Err(status) => fail(status, CREATE3resfail::default()),
    }
}

async fn failed_in(cx: &Context, dir: &Node, status: nfsstat3) -> CREATE3res {
    let now = cx.now(dir.ino()).await;
    fail(status, CREATE3resfail { dir_wcc: wcc_now(now.as_ref()) })
}
