//! Sealed files: AES-256-GCM in segments that are read anywhere, under a key that the caller has and a salt that is
//! drawn for each. What they hold, nobody reads or changes without the key, whatever store they are in.
//!
//! How long they are is not hidden. Sealing the same bytes again gives others, and so another CID. Spec: spec/sealed.md
//! #files.

use std::{fmt, io::Cursor};

use blake3::Hasher;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};
use zeroize::{Zeroize, ZeroizeOnDrop};

pub use self::{
    file::open,
    stream::{seal, unseal},
};
use crate::{Env, Error, ErrorKind, Result, Source};

mod file;
mod format;
mod stream;
#[cfg(test)]
mod tests;

/// `source`, sealed with [`seal()`].
///
/// # Errors
/// `InvalidArgument` for linked data: only files of bytes are sealed.
pub fn source(key: &SecretKey, source: Source, env: &Env) -> Result<Source> {
    let plain: Box<dyn AsyncRead + Send + Unpin> = match source {
        Source::Bytes(bytes) => Box::new(Cursor::new(bytes)),
        Source::Reader(reader) => reader,
        Source::LinkedData(_) => {
            let error = Error::new(ErrorKind::InvalidArgument, "seal.source");
            return Err(
                error.because("linked data may be a directory, which stays plain: only files of bytes are sealed")
            );
        }
    };
    let sealed = seal(key, env, ReaderStream::with_capacity(plain, format::SEGMENT_LEN));
    Ok(Source::Reader(Box::new(StreamReader::new(Box::pin(sealed)))))
}

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
