//! Nodes of old commits that somebody leases: their numbers, and their handles.
//!
//! A number is derived from the commit, the number that the node had there, and the list that leads to it, so a client
//! finds the same one after a restart; only what is leased is remembered. A list has the number of its directory. The
//! handle of a node is all three, that of a list its number:
//!
//! ```text
//! 0   1   'h': below the list of the root
//! 1   32  sha2-256 digest of the commit's CID
//! 33  8   inode number in the commit, big-endian
//!
//! 0   1   'd': below the list of another directory
//! 1   7   inode number of that directory, big-endian
//! 8   32  sha2-256 digest of the commit's CID
//! 40  7   inode number in the commit, big-endian
//! ```
//!
//! The handle of the root's list is the first byte alone, that of another the first eight.

use std::{collections::HashMap, num::NonZeroU64};

use sha2::{Digest, Sha256};

use crate::{
    Cid, Codec, Error, ErrorKind, Result,
    tree::state::ROOT,
    vfs::{Handle, Ino},
};

const HANDLE_MAGIC: u8 = b'h';
const DIR_HANDLE_MAGIC: u8 = b'd';
const DIGEST_LEN: usize = 32;
/// The bytes of a number in a handle that has two of them, so that it stays within what a mount leaves to its history:
/// numbers of a tree are below 2^55.
const NUMBER_LEN: usize = 7;
/// Set in every derived number, with 52 bits of hash below, and in the number of no list: a mount leaves 53 bits to its
/// history.
const DERIVED_BIT: u64 = 1 << 52;
/// How many numbers a node may have: the chance that all of them are taken is that of a broken hash.
const NUMBER_COUNT_MAX: u64 = 64;

/// A node of a commit, as it is met below a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The directory whose list it is.
    pub(super) top: Ino,
    pub(super) commit: Cid,
    pub(super) ino: Ino,
}

/// What a handle names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// The list of a directory.
    List(Ino),
    Node(Place),
}

/// The directory whose list has a number; `None` for the number of a node. A directory has none whose number is 2^52 or
/// more: no tree ever counted so far.
pub(super) fn list_of(ino: Ino) -> Option<Ino> {
    (ino.0.get() < DERIVED_BIT).then_some(ino)
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
    hash.update(if place.top == ROOT { b"muxfs history 1" } else { b"muxfs history 2" });
    hash.update(attempt.to_be_bytes());
    hash.update(place.commit.digest());
    hash.update(place.ino.0.get().to_be_bytes());
    if place.top != ROOT {
        hash.update(place.top.0.get().to_be_bytes());
    }
    let first = hash.finalize().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    Ino(NonZeroU64::MIN.saturating_add((DERIVED_BIT | first & (DERIVED_BIT - 1)) - 1))
}

/// The handle of a list or a node.
pub(super) fn encode(named: &Named) -> Result<Handle> {
    let refuse = |why| Error::new(ErrorKind::Internal, "history.handle").because(why);
    let short = |ino: Ino| match ino.0.get().to_be_bytes() {
        [0, number @ ..] => Ok(number),
        _ => Err(refuse("a number of a tree is below 2^55")),
    };
    let digest = |commit: &Cid| {
        <[u8; DIGEST_LEN]>::try_from(commit.digest()).map_err(|_| refuse("a commit's hash is sha2-256").at(commit))
    };
    let bytes = match named {
        Named::List(ROOT) => vec![HANDLE_MAGIC],
        Named::List(top) => [&[DIR_HANDLE_MAGIC][..], &short(*top)?].concat(),
        Named::Node(Place { top: ROOT, commit, ino }) => {
            [&[HANDLE_MAGIC][..], &digest(commit)?, &ino.0.get().to_be_bytes()].concat()
        }
        Named::Node(Place { top, commit, ino }) => {
            [&[DIR_HANDLE_MAGIC][..], &short(*top)?, &digest(commit)?, &short(*ino)?].concat()
        }
    };
    Ok(Handle(bytes.into()))
}

/// What a handle names.
///
/// # Errors
/// `InvalidArgument` for what `encode` never gives.
pub(super) fn decode(handle: &Handle) -> Result<Named> {
    let refuse = || Error::new(ErrorKind::InvalidArgument, "history.handle").because("not a handle of a history");
    let number = |bytes: &[u8]| {
        let mut whole = [0; size_of::<u64>()];
        whole.get_mut(size_of::<u64>().checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
        NonZeroU64::new(u64::from_be_bytes(whole)).map(Ino)
    };
    let node = |top: Ino, bytes: &[u8], len: usize| {
        let (digest, ino) = bytes.split_first_chunk::<DIGEST_LEN>()?;
        let ino = number(ino).filter(|_| ino.len() == len)?;
        Some(Named::Node(Place { top, commit: Cid::v1_sha256(Codec::DagCbor, *digest), ino }))
    };
    let named = match &handle.0[..] {
        [HANDLE_MAGIC] => Some(Named::List(ROOT)),
        [HANDLE_MAGIC, rest @ ..] => node(ROOT, rest, size_of::<u64>()),
        [DIR_HANDLE_MAGIC, rest @ ..] => rest.split_first_chunk::<NUMBER_LEN>().and_then(|(top, rest)| {
            let top = number(top).and_then(list_of).filter(|top| *top != ROOT)?;
            if rest.is_empty() { Some(Named::List(top)) } else { node(top, rest, NUMBER_LEN) }
        }),
        _ => None,
    };
    named.ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::cid_of;

    fn ino(number: u64) -> Ino {
        Ino(NonZeroU64::new(number).expect("not 0"))
    }

    fn place(number: u64) -> Place {
        below(1, number)
    }

    fn below(top: u64, number: u64) -> Place {
        Place { top: ino(top), commit: cid_of(Codec::DagCbor, b"a commit"), ino: ino(number) }
    }

    /// Numbers and handles are a promise to clients that hold them over an update.
    #[test]
    fn the_bytes_are_these() {
        assert_eq!(derive(&place(7), 0).0.get(), NUMBER);
        assert_eq!(derive(&below(5, 7), 0).0.get(), NUMBER_BELOW_5);
        let commit = place(7).commit;
        let digest = commit.digest();
        let table = [
            (Named::List(ROOT), b"h".to_vec()),
            (Named::Node(place(7)), [b"h", digest, &[0, 0, 0, 0, 0, 0, 0, 7]].concat()),
            (Named::List(ino(0x05_0403)), b"d\0\0\0\0\x05\x04\x03".to_vec()),
            (Named::Node(below(5, 7)), [b"d\0\0\0\0\0\0\x05", digest, &[0, 0, 0, 0, 0, 0, 7]].concat()),
        ];
        for (named, bytes) in table {
            assert_eq!(encode(&named).expect("a handle").0, bytes);
            assert_eq!(decode(&Handle(bytes.into())).expect("a handle"), named);
        }
        let longest = Named::Node(below((1 << 52) - 1, (1 << 55) - 1));
        assert_eq!(encode(&longest).expect("a handle").0.len(), 47, "all that a mount leaves");
    }

    const NUMBER: u64 = 0x12_fd5c_5483_a713;
    const NUMBER_BELOW_5: u64 = 0x12_fb29_35ab_1006;

    /// Each thing has one handle: none is a second spelling of another.
    #[test]
    fn what_is_no_handle_is_refused() {
        let digest = [7; 32];
        let table: [&[u8]; 9] = [
            b"",
            b"x",
            b"d",
            b"d\0\0\0\0\0\0\0",
            b"d\0\0\0\0\0\0\x01",
            b"d\x10\0\0\0\0\0\0",
            &[b"d\0\0\0\0\0\0\x05", &digest[..], &[0; 7]].concat(),
            &[b"d\0\0\0\0\0\0\x05", &digest[..], &[0, 0, 0, 0, 0, 0, 0, 7]].concat(),
            &[b"h", &digest[..], &[0, 0, 0, 0, 0, 0, 7]].concat(),
        ];
        for bytes in table {
            let error = decode(&Handle(Bytes::copy_from_slice(bytes))).expect_err("no handle");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", bytes.escape_ascii());
        }
    }

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
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..50), fix in 0..3_u8) {
            match &mut bytes[..] {
                [first, ..] if fix == 1 => *first = HANDLE_MAGIC,
                [first, second, ..] if fix == 2 => (*first, *second) = (DIR_HANDLE_MAGIC, *second & 0xf),
                _ => {}
            }
            if let Ok(named) = decode(&Handle(Bytes::copy_from_slice(&bytes))) {
                prop_assert_eq!(&encode(&named).expect("a handle").0[..], &bytes[..]);
            }
        }
    }
}
