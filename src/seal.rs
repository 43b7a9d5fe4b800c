//! Keys of sealed files. The sealing itself comes with the encrypted stores; until then the calls that take a key
//! answer `Unsupported`.

use std::fmt;

use zeroize::ZeroizeOnDrop;

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
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}
