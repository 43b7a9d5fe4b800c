//! Attributes on the wire: `Attr` as fattr3, changes as `wcc_data`, and sattr3 as `SetAttr`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use muxfs::{
    FileKind,
    vfs::{Attr, Changed, INO_BITS, Ino, PreAttr, SetAttr, SetTime},
};
use nfs3_types::nfs3::{
    Nfs3Option, fattr3, fileid3, ftype3, nfstime3, post_op_attr, sattr3, set_atime, set_mtime, specdata3, wcc_attr,
    wcc_data,
};

/// The permission bits that a client may set: the twelve.
const MODE_MASK: u32 = 0o7777;

/// A time of the wire: seconds are unsigned, so what lies before 1970 or after 2106 becomes the nearest there is.
pub(crate) fn time(time: SystemTime) -> nfstime3 {
    let Ok(since) = time.duration_since(UNIX_EPOCH) else { return nfstime3::default() };
    match u32::try_from(since.as_secs()) {
        Ok(seconds) => nfstime3 { seconds, nseconds: since.subsec_nanos() },
        Err(_) => nfstime3 { seconds: u32::MAX, nseconds: 0 },
    }
}

/// A time off the wire: nanoseconds past a second carry over.
pub(crate) fn system_time(time: nfstime3) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.seconds.into()) + Duration::from_nanos(time.nseconds.into())
}

/// The mount's own inode number: the fsid tells mounts apart, the bits of the union need not.
pub(crate) fn fileid(ino: Ino) -> fileid3 {
    ino.0.get() & ((1 << INO_BITS) - 1)
}

pub(crate) fn fattr(attr: &Attr) -> fattr3 {
    fattr3 {
        type_: match attr.kind {
            FileKind::File => ftype3::NF3REG,
            FileKind::Dir => ftype3::NF3DIR,
            FileKind::Symlink => ftype3::NF3LNK,
            FileKind::Fifo => ftype3::NF3FIFO,
            FileKind::Socket => ftype3::NF3SOCK,
            FileKind::CharDevice => ftype3::NF3CHR,
            FileKind::BlockDevice => ftype3::NF3BLK,
        },
        mode: attr.mode & MODE_MASK,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        size: attr.size,
        used: attr.used,
        rdev: specdata3 { specdata1: attr.rdev.major, specdata2: attr.rdev.minor },
        fsid: attr.fsid.0,
        fileid: fileid(attr.ino),
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
    }
}

pub(crate) fn post_op(attr: &Attr) -> post_op_attr {
    Nfs3Option::Some(fattr(attr))
}

fn pre_op(before: &PreAttr) -> wcc_attr {
    wcc_attr { size: before.size, mtime: time(before.mtime), ctime: time(before.ctime) }
}

/// What a change did to a node.
pub(crate) fn wcc(changed: &Changed) -> wcc_data {
    wcc_data { before: Nfs3Option::Some(pre_op(&changed.before)), after: post_op(&changed.after) }
}

/// Where nothing is known to have changed: how the node is now, if that is known.
pub(crate) fn wcc_now(now: Option<&Attr>) -> wcc_data {
    wcc_data { before: Nfs3Option::None, after: now.map_or(Nfs3Option::None, post_op) }
}

pub(crate) fn set_attr(from: &sattr3) -> SetAttr {
    SetAttr {
        size: option(from.size),
        mode: option(from.mode).map(|mode| mode & MODE_MASK),
        uid: option(from.uid),
        gid: option(from.gid),
        atime: match from.atime {
            set_atime::DONT_CHANGE => None,
            set_atime::SET_TO_SERVER_TIME => Some(SetTime::Now),
            set_atime::SET_TO_CLIENT_TIME(at) => Some(SetTime::At(system_time(at))),
        },
        mtime: match from.mtime {
            set_mtime::DONT_CHANGE => None,
            set_mtime::SET_TO_SERVER_TIME => Some(SetTime::Now),
            set_mtime::SET_TO_CLIENT_TIME(at) => Some(SetTime::At(system_time(at))),
        },
    }
}

pub(crate) fn option<T: nfs3_types::xdr_codec::Pack + nfs3_types::xdr_codec::Unpack>(from: Nfs3Option<T>) -> Option<T> {
    match from {
        Nfs3Option::Some(value) => Some(value),
        Nfs3Option::None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_of_the_wire_become_the_nearest() {
        let table = [
            (UNIX_EPOCH - Duration::from_secs(1), (0, 0)),
            (UNIX_EPOCH + Duration::new(5, 7), (5, 7)),
            (UNIX_EPOCH + Duration::from_secs(u32::MAX.into()), (u32::MAX, 0)),
            (UNIX_EPOCH + Duration::from_secs(1 << 40), (u32::MAX, 0)),
        ];
        for (from, (seconds, nseconds)) in table {
            assert_eq!(time(from), nfstime3 { seconds, nseconds });
        }
        assert_eq!(system_time(nfstime3 { seconds: 5, nseconds: 7 }), UNIX_EPOCH + Duration::new(5, 7));
        assert!(system_time(nfstime3 { seconds: u32::MAX, nseconds: u32::MAX }) > UNIX_EPOCH);
    }
}
