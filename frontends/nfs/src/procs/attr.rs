//! GETATTR, SETATTR, ACCESS: RFC 1813 3.3.1, 3.3.2, 3.3.4.

use muxfs::{
    FileKind,
    vfs::{
        Attr,
        posix::{Access, Caller},
    },
};
use nfs3_types::{
    nfs3::{
        ACCESS3_DELETE, ACCESS3_EXECUTE, ACCESS3_EXTEND, ACCESS3_LOOKUP, ACCESS3_MODIFY, ACCESS3_READ, ACCESS3res,
        ACCESS3resfail, ACCESS3resok, GETATTR3res, GETATTR3resok, Nfs3Result, SETATTR3res, SETATTR3resfail,
        SETATTR3resok, nfsstat3, sattr3, sattrguard3,
    },
    xdr_codec::Void,
};

use super::{Context, fail};
use crate::{
    attr::{fattr, option, post_op, set_attr, time, wcc, wcc_now},
    status::status,
    xdr::{Decoder, Malformed},
};

pub(super) async fn getattr(cx: &Context, mut args: Decoder) -> Result<GETATTR3res, Malformed> {
    let object = args.handle()?;
    Ok(match cx.resolve(&object).await {
        Ok(node) => Nfs3Result::Ok(GETATTR3resok { obj_attributes: fattr(&node.attr) }),
        Err(status) => fail(status, Void),
    })
}

pub(super) async fn setattr(cx: &Context, mut args: Decoder) -> Result<SETATTR3res, Malformed> {
    let object = args.handle()?;
    let set = set_attr(&args.fixed::<sattr3>()?);
    let guard = option(args.fixed::<sattrguard3>()?);
    let node = match cx.resolve(&object).await {
        Ok(node) => node,
        Err(status) => return Ok(fail(status, SETATTR3resfail::default())),
    };
    // Guarded changes of one node take turns, so that of two with the same guard one is NOT_SYNC.
    let _turn = match guard {
        Some(_) => Some(cx.server.turn(node.ino()).await),
        None => None,
    };
    if let Some(ctime) = guard {
        let now = cx.now(node.ino()).await;
        if now.as_ref().is_none_or(|attr| time(attr.ctime) != ctime) {
            return Ok(fail(nfsstat3::NFS3ERR_NOT_SYNC, SETATTR3resfail { obj_wcc: wcc_now(now.as_ref()) }));
        }
    }
    Ok(match cx.identity.view.setattr(node.ino(), set).await {
        Ok(changed) => match cx.sync_names([&node]).await {
            Ok(()) => Nfs3Result::Ok(SETATTR3resok { obj_wcc: wcc(&changed) }),
            Err(status) => fail(status, SETATTR3resfail { obj_wcc: wcc(&changed) }),
        },
        Err(error) => {
            let now = cx.now(node.ino()).await;
            fail(status(&error), SETATTR3resfail { obj_wcc: wcc_now(now.as_ref()) })
        }
    })
}

pub(super) async fn access(cx: &Context, mut args: Decoder) -> Result<ACCESS3res, Malformed> {
    let object = args.handle()?;
    let asked = args.u32()?;
    Ok(match cx.resolve(&object).await {
        Ok(node) => {
            let mut access = asked & granted(&node.attr, &cx.identity.caller);
            if cx.server.options.read_only {
                access &= !(ACCESS3_MODIFY | ACCESS3_EXTEND | ACCESS3_DELETE);
            }
            Nfs3Result::Ok(ACCESS3resok { obj_attributes: post_op(&node.attr), access })
        }
        Err(status) => fail(status, ACCESS3resfail::default()),
    })
}

/// What a caller may do by the permission bits. Bits that make no sense for the kind are not granted: the client must
/// not take EXECUTE on a directory, or LOOKUP on a file, for an answer.
fn granted(attr: &Attr, caller: &Caller) -> u32 {
    let Access { read, write, execute } = caller.access(attr);
    let mut granted = if read { ACCESS3_READ } else { 0 };
    if attr.kind == FileKind::Dir {
        granted |= if execute { ACCESS3_LOOKUP } else { 0 };
        granted |= if write && execute { ACCESS3_MODIFY | ACCESS3_EXTEND | ACCESS3_DELETE } else { 0 };
    } else {
        granted |= if execute { ACCESS3_EXECUTE } else { 0 };
        granted |= if write { ACCESS3_MODIFY | ACCESS3_EXTEND } else { 0 };
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;
    use muxfs::vfs::{Fsid, Ino, Rdev};
    use std::{num::NonZeroU64, time::UNIX_EPOCH};

    fn node(kind: FileKind, mode: u32) -> Attr {
        Attr {
            ino: Ino(NonZeroU64::MIN),
            fsid: Fsid(0),
            kind,
            mode,
            uid: 10,
            gid: 20,
            nlink: 1,
            rdev: Rdev::default(),
            size: 0,
            used: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            change: 0,
            cid: None,
        }
    }

    /// Callers by class, modes by bit, kinds: what is granted.
    #[test]
    fn access_follows_the_bits() {
        const RW_DIR: u32 = ACCESS3_READ | ACCESS3_LOOKUP | ACCESS3_MODIFY | ACCESS3_EXTEND | ACCESS3_DELETE;
        const WRITE: u32 = ACCESS3_MODIFY | ACCESS3_EXTEND;
        let table = [
            (FileKind::File, 0o640, 10, 99, ACCESS3_READ | WRITE),
            (FileKind::File, 0o640, 11, 20, ACCESS3_READ),
            (FileKind::File, 0o640, 11, 99, 0),
            (FileKind::File, 0o047, 10, 20, 0), // the owner is only the owner
            (FileKind::File, 0o701, 11, 99, ACCESS3_EXECUTE),
            (FileKind::File, 0o000, 0, 0, ACCESS3_READ | WRITE),
            (FileKind::File, 0o100, 0, 0, ACCESS3_READ | WRITE | ACCESS3_EXECUTE),
            (FileKind::Dir, 0o755, 10, 20, RW_DIR),
            (FileKind::Dir, 0o755, 11, 99, ACCESS3_READ | ACCESS3_LOOKUP),
            (FileKind::Dir, 0o702, 11, 99, 0), // writing in a directory takes searching it
            (FileKind::Dir, 0o000, 0, 0, RW_DIR),
        ];
        for (kind, mode, uid, gid, want) in table {
            let caller = Caller { uid, gid, groups: vec![] };
            assert_eq!(granted(&node(kind, mode), &caller), want, "{kind:?} {mode:o} {uid} {gid}");
        }
        let member = Caller { uid: 11, gid: 99, groups: vec![5, 20] };
        assert_eq!(granted(&node(FileKind::File, 0o640), &member), ACCESS3_READ);
    }
}
