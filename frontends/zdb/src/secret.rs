//! Passwords, and the challenge by which a client shows that it knows one without sending it.
//!
//! The proof of a password is `sha1(challenge ":" password)` in lower-case hex, as 0-db has it: SHA-1 is what its clients
//! speak. It keeps a password from who only listens; whoever can change what is sent takes the connection over all the same.

use std::fmt;

use muxfs::{Error, ErrorKind, Result};
use sha1::{Digest as _, Sha1};
use zeroize::Zeroizing;

/// The longest password, in bytes: as long as `AUTH` takes one.
pub const PASSWORD_LEN_MAX: usize = 128;
/// The length of a proof, in characters.
pub(crate) const PROOF_LEN: usize = 40;

/// The administrator's password. Zeroed when dropped, never printed.
#[derive(Clone)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Checks a password.
    ///
    /// ```
    /// use muxfs_zdb_serve::Password;
    /// assert!(Password::new("").is_err());
    /// assert_eq!(format!("{:?}", Password::new("secret")?), "Password(..)");
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` where it is empty, or longer than [`PASSWORD_LEN_MAX`].
    pub fn new(text: impl Into<Vec<u8>>) -> Result<Self> {
        let text = Zeroizing::new(text.into());
        if text.is_empty() || text.len() > PASSWORD_LEN_MAX {
            let why = format!("a password has 1 to {PASSWORD_LEN_MAX} bytes");
            return Err(Error::new(ErrorKind::InvalidArgument, "zdb.password").because(why));
        }
        Ok(Self(text))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Compares what a client gave with what it should have, in a time that does not tell how much of it is right.
pub(crate) fn is_same(given: &[u8], expected: &[u8]) -> bool {
    // Of digests, so that not even the length is told.
    let (given, expected) = (Sha1::digest(given), Sha1::digest(expected));
    given.iter().zip(expected.iter()).fold(0, |differ, (one, other)| differ | (one ^ other)) == 0
}

/// A challenge, in hex.
pub(crate) fn challenge(bytes: [u8; 8]) -> String {
    hex(&bytes)
}

/// Whether a client knows a password.
pub(crate) fn is_proof(given: &[u8], challenge: &str, password: &[u8]) -> bool {
    let mut hash = Sha1::new();
    hash.update(challenge);
    hash.update(b":");
    hash.update(password);
    is_same(given, hex(&hash.finalize()).as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.filter_map(|nibble| DIGITS.get(usize::from(nibble))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_the_hash_of_challenge_and_password() {
        let challenge = challenge([0x78, 0x87, 0x7a, 0xf0, 0xd9, 0xd2, 0x44, 0x2d]);
        assert_eq!(challenge, "78877af0d9d2442d");
        // printf %s 78877af0d9d2442d:secret | sha1sum
        let proof = b"c53b810d0ab380387d40d593989dec94486607cc";
        assert!(is_proof(proof, &challenge, b"secret"));
        assert!(!is_proof(proof, &challenge, b"Secret"));
        assert!(!is_proof(b"", &challenge, b"secret"));
        assert!(is_same(b"a", b"a") && !is_same(b"a", b"ab"));
    }
}
