//! AES-256-GCM for encrypted blocks and sealed files, in place and with the tag apart: by AWS-LC where the feature
//! `aws-lc-rs` is on, else in Rust alone.
//!
//! Both make the same bytes. AWS-LC zeroes its keys when it frees them, `aes-gcm` does by its feature `zeroize`.

pub(crate) const NONCE_LEN: usize = 12;
pub(crate) const TAG_LEN: usize = 16;

pub(crate) type Nonce = [u8; NONCE_LEN];
pub(crate) type Tag = [u8; TAG_LEN];

#[cfg(feature = "aws-lc-rs")]
pub(crate) use self::aws_lc::Cipher;
#[cfg(not(feature = "aws-lc-rs"))]
pub(crate) use self::portable::Cipher;

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

        /// Decrypts; the bytes are good only if it says `true`.
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

        /// Decrypts; the bytes are good only if it says `true`.
        pub(crate) fn open(&self, nonce: &Nonce, bound_to: &[u8], sealed: &mut [u8], tag: &Tag) -> bool {
            self.0.decrypt_inout_detached(nonce.into(), bound_to, sealed.into(), tag.into()).is_ok()
        }
    }
}
