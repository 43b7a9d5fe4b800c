//! Nodes of old commits that somebody leases: their numbers, and their handles.
//!
//! A number is derived from the commit and the number that the node had there, so a client finds the same one after a
//! restart; only what is leased is remembered. The handle is both:
//!
//! ```text
//! 0   1   'h'
//! 1   32  sha2-256 digest of the commit's CID
//! 33  8   inode number in the commit, big-endian
//! ```
//!
//! The root's handle is the first byte alone.

use std::{collections::HashMap, num::NonZeroU64};

use sha2::{Digest, Sha256};

use crate::{
    Cid, Codec, Error, ErrorKind, Result,
    vfs::{Handle, Ino},
};

const HANDLE_MAGIC: u8 = b'h';
const DIGEST_LEN: usize = 32;
/// Set in every derived number, with 52 bits of hash below: a mount leaves 53 bits to its history.
const DERIVED_BIT: u64 = 1 << 52;
/// How many numbers a node may have: the chance that all of them are taken is that of a broken hash.
const NUMBER_COUNT_MAX: u64 = 64;

/// A node of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) commit: Cid,
    pub(super) ino: Ino,
}

/// The leased nodes.
#[derive(Debug, Default)]
pub(super) struct Held {
    leased: HashMap<Ino, (Place, u64)>,
}

impl Held {
    /// The node of a leased number.
    pub(super) fn place(&self, ino: Ino) -> Option<Place> {
        self.leased.get(&ino).map(|(place, _)| *place)
    }

    /// The number of a node: the first of its numbers that no other node has.
    pub(super) fn number(&self, place: Place) -> Result<Ino> {
        let is_free = |ino: &Ino| self.leased.get(ino).is_none_or(|(there, _)| *there == place);
        (0..NUMBER_COUNT_MAX).map(|attempt| derive(&place, attempt)).find(is_free).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "history.number").because("every number of this node is taken by another")
        })
    }

    /// Leases a node.
    pub(super) fn adopt(&mut self, place: Place) -> Result<Ino> {
        let ino = self.number(place)?;
        self.leased.entry(ino).or_insert((place, 0)).1 += 1;
        Ok(ino)
    }

    pub(super) fn retain(&mut self, ino: Ino) {
        if let Some((_, count)) = self.leased.get_mut(&ino) {
            *count += 1;
        }
    }

    pub(super) fn release(&mut self, ino: Ino, count: u64) {
        if let Some((_, leases)) = self.leased.get_mut(&ino) {
            *leases = leases.saturating_sub(count);
            if *leases == 0 {
                self.leased.remove(&ino);
            }
        }
    }

    /// How many nodes are leased.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.leased.len()
    }
}

/// The `attempt`-th number of a node.
fn derive(place: &Place, attempt: u64) -> Ino {
    let mut hash = Sha256::new();
    hash.update(b"muxfs history 1");
    hash.update(attempt.to_be_bytes());
    hash.update(place.commit.digest());
    hash.update(place.ino.0.get().to_be_bytes());
    let first = hash.finalize().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    Ino(NonZeroU64::MIN.saturating_add((DERIVED_BIT | first & (DERIVED_BIT - 1)) - 1))
}

/// The handle of the root.
pub(super) fn root_handle() -> Handle {
    Handle(vec![HANDLE_MAGIC].into())
}

/// The handle of a node.
pub(super) fn encode(place: &Place) -> Result<Handle> {
    let digest: [u8; DIGEST_LEN] = place.commit.digest().try_into().map_err(|_| {
        Error::new(ErrorKind::Internal, "history.handle").at(place.commit).because("a commit's hash is sha2-256")
    })?;
    Ok(Handle([&[HANDLE_MAGIC][..], &digest, &place.ino.0.get().to_be_bytes()].concat().into()))
}

/// What a handle names; `None` for the root.
pub(super) fn decode(handle: &Handle) -> Result<Option<Place>> {
    let refuse = || Error::new(ErrorKind::InvalidArgument, "history.handle").because("not a handle of a history");
    let rest = handle.0.strip_prefix(&[HANDLE_MAGIC]).ok_or_else(refuse)?;
    if rest.is_empty() {
        return Ok(None);
    }
    let (digest, ino) = rest.split_first_chunk::<DIGEST_LEN>().ok_or_else(refuse)?;
    let ino = u64::from_be_bytes(ino.try_into().map_err(|_| refuse())?);
    let ino = NonZeroU64::new(ino).map(Ino).ok_or_else(refuse)?;
    Ok(Some(Place { commit: Cid::v1_sha256(Codec::DagCbor, *digest), ino }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::cid_of;

    fn place(number: u64) -> Place {
        Place { commit: cid_of(Codec::DagCbor, b"a commit"), ino: Ino(NonZeroU64::new(number).expect("not 0")) }
    }

    /// Numbers and handles are a promise to clients that hold them over an update.
    #[test]
    fn the_bytes_are_these() {
        assert_eq!(derive(&place(7), 0).0.get(), NUMBER);
        let handle = encode(&place(7)).expect("a handle");
        let expected = [b"h", place(7).commit.digest(), &[0, 0, 0, 0, 0, 0, 0, 7]].concat();
        assert_eq!((&handle.0[..], handle.0.len()), (&expected[..], 41));
        assert_eq!(decode(&handle).expect("a handle"), Some(place(7)));
        assert_eq!(decode(&root_handle()).expect("the root"), None);
    }

    const NUMBER: u64 = 0x12_fd5c_5483_a713;

    #[test]
    fn what_is_leased_is_remembered_and_nothing_else() {
        let mut held = Held::default();
        let ino = held.adopt(place(7)).expect("leases");
        assert_eq!(held.adopt(place(7)).expect("leases"), ino);
        held.retain(ino);
        held.release(ino, 2);
        assert_eq!(held.place(ino), Some(place(7)));
        held.release(ino, 99);
        assert_eq!((held.place(ino), held.len()), (None, 0));
        held.release(ino, 1);
        assert_eq!(held.number(place(7)).expect("a number"), ino, "the same again");
    }

    /// Two nodes whose numbers collide have two, for as long as both are leased.
    #[test]
    fn a_number_that_is_taken_is_not_given_again() {
        let mut held = Held::default();
        held.leased.insert(derive(&place(7), 0), (place(8), 1));
        assert_eq!(held.adopt(place(7)).expect("leases"), derive(&place(7), 1));
    }

    proptest! {
        /// Any bytes are a handle that encodes to them again, or refused.
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..50), fix: bool) {
            if let Some(first) = bytes.first_mut() && fix {
                *first = HANDLE_MAGIC;
            }
            if let Ok(Some(place)) = decode(&Handle(Bytes::copy_from_slice(&bytes))) {
                prop_assert_eq!(&encode(&place).expect("a handle").0[..], &bytes[..]);
            }
        }
    }
}
