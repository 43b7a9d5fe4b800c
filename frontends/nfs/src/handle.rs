//! File handles: what a client keeps of a node, across restarts of either side.
//!
//! ```text
//! offset  bytes
//! 0       1      version: 1
//! 1       1      flags: 0; any other is refused
//! 2       1..62  the handle of the Vfs
//! ```
//! Bytes that cannot be such a handle are BADHANDLE, a handle whose node is gone is STALE. Spec: spec/nfs.md #handles.

use bytes::{Bytes, BytesMut};
use muxfs::vfs::Handle;
use nfs3_types::{
    nfs3::{NFS3_FHSIZE, nfs_fh3, nfsstat3},
    xdr_codec::Opaque,
};

const VERSION: u8 = 1;
const FLAGS: u8 = 0;
const HEADER: [u8; 2] = [VERSION, FLAGS];

/// The longest handle of a `Vfs` that fits on the wire.
pub const VFS_HANDLE_LEN_MAX: usize = NFS3_FHSIZE - HEADER.len();

/// Puts a handle of the `Vfs` on the wire. SERVERFAULT for one that does not fit: a bug of the `Vfs`.
pub(crate) fn encode(handle: &Handle) -> Result<nfs_fh3, nfsstat3> {
    if handle.0.is_empty() || handle.0.len() > VFS_HANDLE_LEN_MAX {
        return Err(nfsstat3::NFS3ERR_SERVERFAULT);
    }
    let mut bytes = BytesMut::with_capacity(HEADER.len() + handle.0.len());
    bytes.extend_from_slice(&HEADER);
    bytes.extend_from_slice(&handle.0);
    Ok(nfs_fh3 { data: Opaque::owned(bytes.into()) })
}

/// Takes a handle of the `Vfs` off the wire.
pub(crate) fn decode(bytes: &Bytes) -> Result<Handle, nfsstat3> {
    match bytes.strip_prefix(&HEADER) {
        Some([_, ..]) if bytes.len() <= NFS3_FHSIZE => Ok(Handle(bytes.slice(HEADER.len()..))),
        _ => Err(nfsstat3::NFS3ERR_BADHANDLE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_our_version_and_flags_are_read() {
        let bad: [&'static [u8]; 6] = [b"", b"\x01", b"\x01\x00", b"\x02\x00abc", b"\x01\x01abc", &[1; 65]];
        for bytes in bad {
            assert_eq!(decode(&Bytes::from_static(bytes)), Err(nfsstat3::NFS3ERR_BADHANDLE), "{bytes:?}");
        }
        assert!(encode(&Handle(Bytes::from_static(&[7; VFS_HANDLE_LEN_MAX]))).is_ok());
        for len in [0, VFS_HANDLE_LEN_MAX + 1] {
            assert_eq!(encode(&Handle(vec![7; len].into())), Err(nfsstat3::NFS3ERR_SERVERFAULT));
        }
    }

    proptest! {
        #[test]
        fn a_handle_comes_back(bytes in prop::collection::vec(any::<u8>(), 1..=VFS_HANDLE_LEN_MAX)) {
            let handle = Handle(bytes.into());
            let wire = encode(&handle).expect("fits").data.into_owned();
            prop_assert!(wire.len() <= NFS3_FHSIZE);
            prop_assert_eq!(decode(&wire.into()), Ok(handle));
        }
    }
}
