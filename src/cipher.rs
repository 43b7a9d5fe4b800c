//! AES-256-GCM for encrypted blocks, sealed files and what stores seal, in place and with the tag apart: by AWS-LC where the
//! feature `aws-lc-rs` is on, else in Rust alone.
//!
//! Both make the same bytes. AWS-LC zeroes its keys when it frees them, `aes-gcm` does by its feature `zeroize`. That no
//! nonce is used twice under one key is for whoever seals to see to.

use std::fmt;

/// How long a nonce is, in bytes.
pub const NONCE_LEN: usize = 12;
/// How long a tag is, in bytes.
pub const TAG_LEN: usize = 16;

/// What is never to come twice under one key.
pub type Nonce = [u8; NONCE_LEN];
/// What tells whether sealed bytes are those that were sealed.
pub type Tag = [u8; TAG_LEN];

#[cfg(feature = "aws-lc-rs")]
use self::aws_lc as backend;
#[cfg(not(feature = "aws-lc-rs"))]
use self::portable as backend;

/// A key of AES-256-GCM: zeroed when dropped, never printed.
pub struct Cipher(backend::Cipher);

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher(..)")
    }
}

impl Cipher {
    /// Takes the key's bytes.
    ///
    /// ```
    /// use muxfs::cipher::Cipher;
    /// let (cipher, nonce, mut bytes) = (Cipher::new(&[7; 32]), [1; 12], *b"plain");
    /// let tag = cipher.seal(&nonce, b"its place", &mut bytes);
    /// assert!(!cipher.open(&nonce, b"another place", &mut bytes.clone(), &tag));
    /// assert!(cipher.open(&nonce, b"its place", &mut bytes, &tag));
    /// assert_eq!(&bytes, b"plain");
    /// ```
    pub fn new(key: &[u8; 32]) -> Self {
        Self(backend::Cipher::new(key))
    }

    /// Encrypts in place; `bound_to` is authenticated besides. No nonce may come twice under one key.
    pub fn seal(&self, nonce: &Nonce, bound_to: &[u8], plain: &mut [u8]) -> Tag {
        self.0.seal(nonce, bound_to, plain)
    }

    /// Decrypts in place; the bytes are good only if it says `true`.
    pub fn open(&self, nonce: &Nonce, bound_to: &[u8], sealed: &mut [u8], tag: &Tag) -> bool {
        self.0.open(nonce, bound_to, sealed, tag)
    }
}

#[cfg(feature = "aws-lc-rs")]
mod aws_lc {
    use aws_lc_rs::aead::{self, AES_256_GCM, Aad, LessSafeKey, UnboundKey};

    use super::{Nonce, Tag};

    pub(crate) struct Cipher(LessSafeKey);

    impl Cipher {
        pub(crate) fn new(key: &[u8; 32]) -> Self {
            Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key of AES-256 has 32 bytes")))
        }

        pub(crate) fn seal(&self, nonce: &Nonce, bound_to: &[u8], plain: &mut [u8]) -> Tag {
            let nonce = aead::Nonce::assume_unique_for_key(*nonce);
            let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(bound_to), plain);
            let tag = tag.expect("what is sealed at once is shorter than AES-GCM's limit of 64 GiB");
            tag.as_ref().try_into().expect("a tag of AES-GCM has 16 bytes")
        }

        pub(crate) fn open(&self, nonce: &Nonce, bound_to: &[u8], sealed: &mut [u8], tag: &Tag) -> bool {
            let nonce = aead::Nonce::assume_unique_for_key(*nonce);
            self.0.open_in_place_separate_tag(nonce, Aad::from(bound_to), tag, sealed).is_ok()
        }
    }
}

/// Where there is AWS-LC, tests hold it against this.
#[cfg(any(test, not(feature = "aws-lc-rs")))]
pub(crate) mod portable {
    use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};

    use super::{Nonce, Tag};

    pub(crate) struct Cipher(Aes256Gcm);

    impl Cipher {
        pub(crate) fn new(key: &[u8; 32]) -> Self {
            Self(Aes256Gcm::new(key.into()))
        }

        pub(crate) fn seal(&self, nonce: &Nonce, bound_to: &[u8], plain: &mut [u8]) -> Tag {
            let tag = self.0.encrypt_inout_detached(nonce.into(), bound_to, plain.into());
            tag.expect("what is sealed at once is shorter than AES-GCM's limit of 64 GiB").into()
        }

        pub(crate) fn open(&self, nonce: &Nonce, bound_to: &[u8], sealed: &mut [u8], tag: &Tag) -> bool {
            self.0.decrypt_inout_detached(nonce.into(), bound_to, sealed.into(), tag.into()).is_ok()
        }
    }
}
