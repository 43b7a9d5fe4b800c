//! The one checksum of zstor v2, of files, shards, paths and metadata: `BLAKE2b` with a digest of 16 bytes and no key.

use std::fmt;

use blake2::{Blake2b, Digest as _, digest::consts::U16};

/// How long it is, in bytes.
pub(crate) const CHECKSUM_LEN: usize = 16;

/// BLAKE2b-128 of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum(pub [u8; CHECKSUM_LEN]);

impl Checksum {
    /// Returns that of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Blake2b::<U16>::digest(bytes).into())
    }
}

/// In lower-case hex.
impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({self})")
    }
}

/// The checksum of bytes that come one after the other. `Default` has seen none.
#[derive(Clone, Default)]
pub struct Checksummer(Blake2b<U16>);

impl fmt::Debug for Checksummer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Checksummer(..)")
    }
}

impl Checksummer {
    /// Takes the bytes that come next.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the checksum of all that came.
    pub fn finish(self) -> Checksum {
        Checksum(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of the empty string is published in many places.
    #[test]
    fn known_values() {
        assert_eq!(Checksum::of(b"").to_string(), "cae66941d9efbd404e4d88758ea67670");
        assert_eq!(Checksum::of(b"n.txt").to_string(), "ba797df7c5be5891ee471b03e598c9d0");
        let mut checksummer = Checksummer::default();
        b"n.txt".chunks(2).for_each(|part| checksummer.add(part));
        assert_eq!(checksummer.finish(), Checksum::of(b"n.txt"));
    }
}
