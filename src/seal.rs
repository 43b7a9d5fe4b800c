//! Keys of sealed files. The sealing itself comes with the encrypted stores; until then the calls that take a key
//! answer `Unsupported`.

use std::fmt;

use blake3::Hasher;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A 256-bit key: zeroed when dropped, never printed.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// Takes the key's bytes.
    ///
    /// ```
    /// let key = muxfs::SecretKey::new([7; 32]);
    /// assert_eq!(format!("{key:?}"), "SecretKey(..)");
    /// ```
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Fills `derived` with the keyed BLAKE3 of all parts, one behind another. Where one part ends is not hashed: the
    /// first says what the others are.
    ///
    /// ```
    /// let mut id = [0; 16];
    /// muxfs::SecretKey::new([7; 32]).derive(&[b"id of ", b"a store"], &mut id);
    /// assert_eq!(id, blake3::keyed_hash(&[7; 32], b"id of a store").as_bytes()[..16]);
    /// ```
    pub fn derive(&self, parts: &[&[u8]], derived: &mut [u8]) {
        let mut hasher = Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        let mut reader = hasher.finalize_xof();
        reader.fill(derived);
        hasher.zeroize();
        reader.zeroize();
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}
