//! The bytes of a sealed file: its header, and its segments with their keys and nonces. Spec: spec/sealed.md #files.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use zeroize::Zeroizing;

use crate::{
    Env, Error, ErrorKind, Result, SecretKey,
    cipher::{Cipher, NONCE_LEN, TAG_LEN},
};

pub(super) const HEADER_LEN: u32 = 64;
/// Plain bytes in each segment but the last: what a read of one byte decrypts.
pub(super) const SEGMENT_LEN: usize = 64 << 10;
pub(super) const SEALED_SEGMENT_LEN: usize = SEGMENT_LEN + TAG_LEN;

const MAGIC: &[u8; 8] = b"MUXSEALF";
const VERSION: u8 = 1;
const SALT_LEN: usize = 16;
const CHECK_LEN: usize = 16;
const CHECK_CONTEXT: &[u8] = b"muxfs sealed file 1: check of the key";
const SEGMENTS_CONTEXT: &[u8] = b"muxfs sealed file 1: key of the segments";

pub(super) fn corrupt(why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, "seal.open").because(why.to_string())
}

/// What seals and opens the segments of one file.
pub(super) struct FileCipher(Cipher);

impl fmt::Debug for FileCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileCipher(..)")
    }
}

impl FileCipher {
    /// For a new file, and the header that it begins with.
    pub(super) fn new(key: &SecretKey, env: &Env) -> (Self, Bytes) {
        let mut salt = [0; SALT_LEN];
        (env.fill)(&mut salt);
        Self::salted(key, salt)
    }

    pub(super) fn salted(key: &SecretKey, salt: [u8; SALT_LEN]) -> (Self, Bytes) {
        let mut header = BytesMut::with_capacity(HEADER_LEN as usize);
        header.put_slice(MAGIC);
        header.put_u8(VERSION);
        header.put_bytes(0, 7);
        header.put_slice(&salt);
        header.put_slice(&check(key, &salt));
        header.put_bytes(0, 12);
        header.put_u32_le(crc32c::crc32c(&header));
        (Self::of_salt(key, &salt), header.freeze())
    }

    fn of_salt(key: &SecretKey, salt: &[u8]) -> Self {
        let mut derived = Zeroizing::new([0; 32]);
        key.derive(&[SEGMENTS_CONTEXT, salt], &mut *derived);
        Self(Cipher::new(&derived))
    }

    /// For the file that begins with this header.
    ///
    /// # Errors
    /// `BadKey`; `Unsupported` for a newer version; `Corrupt` for all else that is no header.
    pub(super) fn of_header(key: &SecretKey, header: &[u8]) -> Result<Self> {
        let foreign = || corrupt("it does not begin as a sealed file does: it is none, or damaged");
        let Some((said, crc)) = header.split_last_chunk::<4>().filter(|_| header.len() == HEADER_LEN as usize) else {
            return Err(foreign());
        };
        if !said.starts_with(MAGIC) || *crc != crc32c::crc32c(said).to_le_bytes() {
            return Err(foreign());
        }
        if said[8] > VERSION {
            return Err(Error::new(ErrorKind::Unsupported, "seal.open").because("it was sealed by a newer MuxFS"));
        }
        let (salt, rest) = said[16..].split_at(SALT_LEN);
        let (said_check, zeros) = rest.split_at(CHECK_LEN);
        if said[8] != VERSION || said[9..16].iter().chain(zeros).any(|byte| *byte != 0) {
            return Err(foreign());
        }
        // The check is as public as the salt, so nothing is learned from how long comparing them takes.
        if *said_check != check(key, salt) {
            return Err(Error::new(ErrorKind::BadKey, "seal.open").because("the file was sealed with another key"));
        }
        Ok(Self::of_salt(key, salt))
    }

    /// Seals a segment in its buffer.
    pub(super) fn seal(&self, index: u64, is_last: bool, mut segment: BytesMut) -> Bytes {
        let tag = self.0.seal(&nonce(index, is_last), &[], &mut segment);
        segment.put_slice(&tag);
        segment.freeze()
    }

    /// Opens a segment in its buffer.
    ///
    /// # Errors
    /// `Corrupt` if it is not that segment of that file as it was sealed.
    pub(super) fn open(&self, index: u64, is_last: bool, mut sealed: BytesMut) -> Result<Bytes> {
        let tag = sealed.len().checked_sub(TAG_LEN).map(|len| sealed.split_off(len));
        let tag = tag.as_deref().and_then(|tag| tag.try_into().ok());
        match tag {
            Some(tag) if self.0.open(&nonce(index, is_last), &[], &mut sealed, tag) => Ok(sealed.freeze()),
            _ => Err(corrupt(format!(
                "what stands at byte {} is not what was sealed there: it was changed, moved, cut or added to",
                place(index)
            ))),
        }
    }
}

fn check(key: &SecretKey, salt: &[u8]) -> [u8; CHECK_LEN] {
    let mut check = [0; CHECK_LEN];
    key.derive(&[CHECK_CONTEXT, salt], &mut check);
    check
}

/// The key is of one file, so which segment it is makes it unique; that it is the last cannot be said of another.
fn nonce(index: u64, is_last: bool) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[0] = is_last.into();
    nonce[4..].copy_from_slice(&index.to_le_bytes());
    nonce
}

/// Where a segment begins in the sealed file.
pub(super) fn place(index: u64) -> u64 {
    u64::from(HEADER_LEN) + index * SEALED_SEGMENT_LEN as u64
}

/// How many plain bytes are in a sealed file of this length; `None` where none has it, or no file system takes it.
pub(super) fn plain_len(sealed_len: u64) -> Option<u64> {
    i64::try_from(sealed_len).ok()?;
    let (tag, step) = (TAG_LEN as u64, SEALED_SEGMENT_LEN as u64);
    let body = sealed_len.checked_sub(u64::from(HEADER_LEN)).filter(|body| *body >= tag)?;
    let count = body.div_ceil(step);
    // Only that of an empty file is empty.
    let last = body - (count - 1) * step;
    (last > tag || body == tag).then(|| body - count * tag)
}

/// Which segment is the last of a file of so many plain bytes.
pub(super) fn last_of(plain_len: u64) -> u64 {
    plain_len.saturating_sub(1) / SEGMENT_LEN as u64
}
