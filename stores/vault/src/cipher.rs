//! What seals: one of two ciphers, chosen when a vault is made, under keys each of which seals one object.
//!
//! A nonce is the place of what is sealed in its object, so no two of one object are alike; and no two objects have one key
//! ([`keys`](crate::keys)). Spec: spec/vault.md #nonces.

use std::fmt;

use chacha20poly1305::{AeadInOut as _, KeyInit as _, XChaCha20Poly1305};
use muxfs::cipher::{Cipher as Aes, NONCE_LEN, Tag};

/// How everything in a vault is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cipher {
    /// Fast where the processor has AES in hardware, as those of servers and desktops have.
    #[default]
    Aes256Gcm,
    /// As fast as software gets without, and takes the same time whatever the key.
    XChaCha20Poly1305,
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::XChaCha20Poly1305 => "XChaCha20-Poly1305",
        })
    }
}

impl Cipher {
    /// Its number in a header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::XChaCha20Poly1305 => 2,
        }
    }

    /// The cipher of a number; for any other one of them, under which nothing that was sealed opens.
    pub(crate) fn of_number(number: u8) -> Self {
        if number == Self::XChaCha20Poly1305.number() { Self::XChaCha20Poly1305 } else { Self::Aes256Gcm }
    }
}

/// The key of one object.
pub(crate) enum ObjectKey {
    Aes(Aes),
    XChaCha(XChaCha20Poly1305),
}

impl ObjectKey {
    pub(crate) fn new(cipher: Cipher, key: &[u8; 32]) -> Self {
        match cipher {
            Cipher::Aes256Gcm => Self::Aes(Aes::new(key)),
            Cipher::XChaCha20Poly1305 => Self::XChaCha(XChaCha20Poly1305::new(key.into())),
        }
    }

    /// Encrypts what stands at a place of the object, which is asked for once; `bound_to` is authenticated besides.
    pub(crate) fn seal(&self, place: u32, bound_to: &[u8], bytes: &mut [u8]) -> Tag {
        match self {
            Self::Aes(aes) => aes.seal(&nonce::<NONCE_LEN>(place), bound_to, bytes),
            Self::XChaCha(xchacha) => {
                let tag = xchacha.encrypt_inout_detached(&nonce::<24>(place).into(), bound_to, bytes.into());
                tag.expect("what is sealed at once is shorter than 256 GiB").into()
            }
        }
    }

    /// Decrypts; the bytes are good only if it says `true`.
    pub(crate) fn open(&self, place: u32, bound_to: &[u8], bytes: &mut [u8], tag: &Tag) -> bool {
        match self {
            Self::Aes(aes) => aes.open(&nonce::<NONCE_LEN>(place), bound_to, bytes, tag),
            Self::XChaCha(xchacha) => {
                xchacha.decrypt_inout_detached(&nonce::<24>(place).into(), bound_to, bytes.into(), tag.into()).is_ok()
            }
        }
    }
}

fn nonce<const N: usize>(place: u32) -> [u8; N] {
    let mut nonce = [0; N];
    nonce.iter_mut().zip(place.to_le_bytes()).for_each(|(to, from)| *to = from);
    nonce
}
