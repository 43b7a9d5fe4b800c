//! The keys of zstor v2, and AES-256-GCM as it uses it: `nonce (12 bytes) || ciphertext || tag (16 bytes)`, bound to nothing
//! else.

use std::{fmt, fmt::Write as _, ops::Range};

use aes_gcm::{AeadInOut as _, Aes256Gcm, KeyInit as _};
use zeroize::Zeroizing;

/// How long a key is, in bytes.
const KEY_LEN: usize = 32;
/// In front of what is encrypted, in bytes.
pub(crate) const NONCE_LEN: usize = 12;
/// Behind it, in bytes.
pub(crate) const TAG_LEN: usize = 16;

/// A key of AES-256. Zeroed when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKey(Zeroizing<[u8; KEY_LEN]>);

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

impl DataKey {
    /// Takes its bytes.
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads one of 64 hex digits; `None` if it is none.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * KEY_LEN {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut key = Self::new([0; KEY_LEN]);
        for (byte, pair) in key.0.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(key)
    }

    /// Returns it in lower-case hex.
    pub(crate) fn to_hex(&self) -> Zeroizing<String> {
        let mut hex = Zeroizing::new(String::with_capacity(2 * KEY_LEN));
        for byte in self.0.iter() {
            _ = write!(hex, "{byte:02x}");
        }
        hex
    }

    /// Encrypts what is in the buffer behind [`NONCE_LEN`] bytes, which become the nonce, and adds the tag.
    pub(crate) fn seal(&self, nonce: [u8; NONCE_LEN], buffer: &mut Vec<u8>) {
        let (front, plain) = buffer.split_at_mut(NONCE_LEN);
        front.copy_from_slice(&nonce);
        let tag = self.cipher().encrypt_inout_detached(&nonce.into(), &[], plain.into());
        let tag: [u8; TAG_LEN] = tag.expect("what is in memory is shorter than AES-GCM's limit of 64 GiB").into();
        buffer.extend_from_slice(&tag);
    }

    /// Decrypts the buffer, and says where in it the plain bytes are; `None` where the tag is wrong, and the buffer is good
    /// for nothing then.
    pub(crate) fn open(&self, buffer: &mut [u8]) -> Option<Range<usize>> {
        let end = buffer.len().checked_sub(TAG_LEN).filter(|end| *end >= NONCE_LEN)?;
        let (front, tag) = buffer.split_at_mut(end);
        let (nonce, sealed) = front.split_at_mut(NONCE_LEN);
        let nonce = <[u8; NONCE_LEN]>::try_from(&*nonce).ok()?;
        let tag = <[u8; TAG_LEN]>::try_from(&*tag).ok()?;
        let opened = self.cipher().decrypt_inout_detached(&nonce.into(), &[], sealed.into(), &tag.into());
        opened.ok().map(|()| NONCE_LEN..end)
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&*self.0).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_hex_digits() {
        let text = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        let key = DataKey::from_hex(text).expect("a key");
        assert_eq!(*key.to_hex(), text);
        assert_eq!(DataKey::from_hex(&text.to_uppercase()), Some(key.clone()));
        for bad in ["", &text[1..], &text.replace('f', "g"), &format!("{text}00"), &"é".repeat(32)] {
            assert_eq!(DataKey::from_hex(bad), None, "{bad}");
        }
        assert_eq!(format!("{key:?}"), "DataKey(..)");
    }

    #[test]
    fn any_flipped_bit_and_any_other_length_is_refused() {
        let key = DataKey::new([7; 32]);
        for plain in [&b""[..], b"x", b"some more bytes than a block of the cipher has"] {
            let mut sealed = [&[0; NONCE_LEN][..], plain].concat();
            key.seal([9; NONCE_LEN], &mut sealed);
            let mut opened = sealed.clone();
            let range = key.open(&mut opened).expect("it is good");
            assert_eq!(&opened[range], plain);
            for bit in 0..sealed.len() * 8 {
                let mut flipped = sealed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(key.open(&mut flipped), None, "bit {bit}");
            }
            for len in 0..sealed.len() {
                assert_eq!(key.open(&mut sealed[..len].to_vec()), None, "{len} bytes");
            }
            assert_eq!(DataKey::new([8; 32]).open(&mut sealed), None);
        }
    }
}
