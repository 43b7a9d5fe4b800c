//! Handles of content: the CID and the number, so that a node can be found again by a server that never met it.
//!
//! ```text
//! 0   1     tag: 1 raw, 2 dag-pb, 3 dag-cbor, 4 dag-json, each of a CIDv1 with sha2-256
//!                5 a CIDv0
//!                6 any other CID, in place of which stands the sha2-256 of its binary form
//! 1   32    digest
//! 33  8     inode number, big-endian
//! ```
//!
//! The root's handle is one byte, 0. A CID of tag 6 is found again only while the server remembers it: after a restart
//! such a handle is stale, and its client looks the name up again. Formats are forever: another form gets another tag.

use std::num::NonZeroU64;

use bytes::{BufMut, BytesMut};
use sha2::{Digest, Sha256};

use crate::{
    Cid, Codec, Error, ErrorKind, Result,
    cid::SHA2_256,
    vfs::{Handle, Ino},
};

use super::nodes::is_derived;

const TAG_ROOT: u8 = 0;
const TAG_V0: u8 = 5;
const TAG_LONG: u8 = 6;
/// The tags of CIDs of version 1 with sha2-256.
const TAGS_V1: [(u8, Codec); 4] = [(1, Codec::Raw), (2, Codec::DagPb), (3, Codec::DagCbor), (4, Codec::DagJson)];
const HANDLE_LEN: usize = 41;

/// What a handle names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    Cid(Cid),
    /// The sha2-256 of a CID's binary form.
    Long([u8; 32]),
}

/// Whether a CID does not fit in a handle.
pub(super) fn is_long(cid: &Cid) -> bool {
    tag(cid).0 == TAG_LONG
}

/// The sha2-256 of a CID's binary form.
pub(super) fn long_digest(cid: &Cid) -> [u8; 32] {
    Sha256::digest(cid.to_bytes()).into()
}

fn tag(cid: &Cid) -> (u8, [u8; 32]) {
    let short = (cid.hash_code() == SHA2_256).then(|| <[u8; 32]>::try_from(cid.digest()).ok()).flatten();
    let tag = match cid.version() {
        0 => Some(TAG_V0),
        _ => TAGS_V1.iter().find(|(_, codec)| cid.codec() == Some(*codec)).map(|(tag, _)| *tag),
    };
    tag.zip(short).unwrap_or_else(|| (TAG_LONG, long_digest(cid)))
}

/// The handle of the root.
pub(super) fn root() -> Handle {
    Handle(vec![TAG_ROOT].into())
}

/// The handle of a node.
pub(super) fn encode(cid: &Cid, ino: Ino) -> Handle {
    let (tag, digest) = tag(cid);
    let mut handle = BytesMut::with_capacity(HANDLE_LEN);
    handle.put_u8(tag);
    handle.put_slice(&digest);
    handle.put_u64(ino.0.get());
    Handle(handle.freeze())
}

/// What a handle names; `None` for the root.
pub(super) fn decode(handle: &Handle) -> Result<Option<(Named, Ino)>> {
    let refuse = || Error::new(ErrorKind::InvalidArgument, "cas_view.handle").because("not a handle of this mount");
    let (tag, rest) = handle.0.split_first().ok_or_else(refuse)?;
    if *tag == TAG_ROOT && rest.is_empty() {
        return Ok(None);
    }
    let (digest, ino) = rest.split_first_chunk::<32>().ok_or_else(refuse)?;
    let ino = NonZeroU64::new(u64::from_be_bytes(ino.try_into().map_err(|_| refuse())?)).map(Ino).ok_or_else(refuse)?;
    if !is_derived(ino) {
        return Err(refuse());
    }
    let v1 = TAGS_V1.iter().find(|(known, _)| known == tag).map(|(_, codec)| Cid::v1_sha256(*codec, *digest));
    let named = match *tag {
        TAG_V0 => Named::Cid(Cid::v0_sha256(*digest)),
        TAG_LONG => Named::Long(*digest),
        _ => Named::Cid(v1.ok_or_else(refuse)?),
    };
    Ok(Some((named, ino)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::cid_of;

    fn ino() -> Ino {
        Ino(NonZeroU64::new(1 << 55 | 7).expect("not 0"))
    }

    #[test]
    fn a_handle_names_its_cid_and_its_number() {
        let v0 = Cid::v0_sha256([7; 32]);
        for cid in [Codec::Raw, Codec::DagPb, Codec::DagCbor, Codec::DagJson]
            .map(|codec| cid_of(codec, b"x"))
            .iter()
            .chain([&v0])
        {
            let handle = encode(cid, ino());
            assert_eq!(handle.0.len(), HANDLE_LEN);
            assert_eq!(decode(&handle).expect("a handle"), Some((Named::Cid(*cid), ino())));
        }
        let identity: Cid = "bafkqaaa".parse().expect("a CID");
        assert!(is_long(&identity));
        let named = decode(&encode(&identity, ino())).expect("a handle");
        assert_eq!(named, Some((Named::Long(long_digest(&identity)), ino())));
        assert_eq!(decode(&root()).expect("the root"), None);
    }

    /// The bytes are a promise to clients that hold them over an update.
    #[test]
    fn the_bytes_are_these() {
        let cid = Cid::v1_sha256(Codec::DagPb, [0xab; 32]);
        let expected = [&[2][..], &[0xab; 32], &[0, 0x80, 0, 0, 0, 0, 0, 7]].concat();
        assert_eq!(encode(&cid, ino()).0, expected);
    }

    proptest! {
        /// Any bytes are a handle that encodes to them again, or refused.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..50), tag in 0..8_u8) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = tag;
            }
            if let Ok(Some((Named::Cid(cid), ino))) = decode(&Handle(Bytes::copy_from_slice(&bytes))) {
                prop_assert_eq!(encode(&cid, ino).0, bytes);
            }
        }
    }
}
