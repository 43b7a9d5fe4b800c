//! Places in the order of a directory, as numbers that outlive what comes and goes in it.
//!
//! Content-addressed directories, and the list of pins, are ordered by the hash of the name. A rank is the top of that
//! hash and an index among the names that share it, so that a listing resumes from a number alone. Names that collide
//! can be made on purpose; the index has room for more of them than one directory block can hold.
//! Spec: spec/qfs.md, "Directory cookies".

use crate::{dag::murmur3_x64_64, vfs::Cookie};

/// Bits of a rank that count names with equal hash bits: a directory block of 2 MiB has no room for 2^16 names.
const INDEX_BITS: u32 = 16;
/// Bits of a rank that come from the hash: together 62, so that a cookie stays below 2^63 with one bit for itself.
const HASH_BITS: u32 = 46;
/// Set in every cookie made of a rank: keeps it clear of 0 to 2.
const COOKIE_BIT: u64 = 1 << (HASH_BITS + INDEX_BITS);

/// A place in the order of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Rank(u64);

impl Rank {
    /// The first place that a name of this spelling can have.
    pub(crate) fn of(name: &[u8]) -> Self {
        Self((murmur3_x64_64(name) >> (64 - HASH_BITS)) << INDEX_BITS)
    }

    /// The rank of these bits; `None` for bits that no rank has.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        (bits < COOKIE_BIT).then_some(Self(bits))
    }

    /// The rank as a number below 2^62.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// The least hash of the names that share this rank's hash bits.
    pub(crate) fn hash_min(self) -> u64 {
        (self.0 >> INDEX_BITS) << (64 - HASH_BITS)
    }

    /// The next place for a name with the same hash bits; `None` when all are taken.
    pub(crate) fn next(self) -> Option<Self> {
        let next = Self(self.0 + 1);
        (next.hash_min() == self.hash_min()).then_some(next)
    }

    /// The last place that a name with these hash bits can have.
    pub(crate) fn last(self) -> Self {
        Self(self.0 | ((1 << INDEX_BITS) - 1))
    }

    /// The cookie of the entry at this place.
    pub(crate) fn cookie(self) -> Cookie {
        Cookie(COOKIE_BIT | self.0)
    }

    /// The rank of a cookie; `None` for one that no entry has.
    pub(crate) fn from_cookie(cookie: Cookie) -> Option<Self> {
        Self::from_bits(cookie.0.checked_sub(COOKIE_BIT)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn indexes_run_out_where_the_hash_would_change() {
        let first = Rank::of(b"a");
        let all = std::iter::successors(Some(first), |rank| rank.next());
        assert_eq!(all.count(), 1 << INDEX_BITS);
    }

    proptest! {
        /// A cookie is below 2^63, none of the reserved ones, gives its rank back, and sorts as the hash does.
        #[test]
        fn cookies(a in "[^/\0]{1,20}", b in "[^/\0]{1,20}") {
            let rank = Rank::of(a.as_bytes());
            prop_assert!((3..1 << 63).contains(&rank.cookie().0));
            prop_assert_eq!(Rank::from_cookie(rank.cookie()), Some(rank));
            prop_assert!(rank.hash_min() <= murmur3_x64_64(a.as_bytes()));
            let other = Rank::of(b.as_bytes());
            if rank != other {
                prop_assert_eq!(rank < other, murmur3_x64_64(a.as_bytes()) < murmur3_x64_64(b.as_bytes()));
            }
        }

        #[test]
        fn other_cookies_are_of_no_rank(cookie in prop_oneof![0..COOKIE_BIT, (COOKIE_BIT * 2)..=u64::MAX]) {
            prop_assert_eq!(Rank::from_cookie(Cookie(cookie)), None);
        }
    }
}
