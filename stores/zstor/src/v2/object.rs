//! A file as zstor v2 has it in its shards, and back: its bytes in snappy's frame format, encrypted, padded and cut.
//!
//! Encryption has one tag for all of a file, so nothing of it can be told to be good before all of it is there: compressed
//! it is held in memory whole, and never otherwise. An empty file is compressed to nothing, without even the bytes that
//! a stream begins with. Spec: spec/zstor-v2.md #object.

use std::{
    fmt,
    io::{self, Cursor, Read as _, Write as _},
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{Error, ErrorKind, Result};
use snap::{read::FrameDecoder, write::FrameEncoder};

use super::{
    checksum::{Checksum, Checksummer},
    cluster::Fault,
    key::{DataKey, NONCE_LEN, TAG_LEN},
    metadata::Metadata,
    shards::Code,
};

/// So much is decompressed at a time, in bytes.
const PIECE_LEN: usize = 256 << 10;
/// Snappy's frames make so much of what does not shrink, at most: 8 bytes more for each 64 KiB, and 10 in front.
const FRAME_GROWTH: u64 = 8;
const FRAME_LEN: u64 = 64 << 10;

/// A file that was read from its shards, every checksum of which is right.
pub struct Object {
    compressed: Bytes,
    /// How long the file is, in bytes.
    pub len: u64,
    /// Shards that were found damaged or missing on the way, or on servers that could not be asked.
    pub faults: Vec<Fault>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("len", &self.len).field("faults", &self.faults).finish_non_exhaustive()
    }
}

impl Object {
    /// Puts a file together from its shards, at their indices, of which k are enough. It takes the processor for a while.
    ///
    /// # Errors
    /// `Corrupt` where they are too few, or what they give is not the file.
    pub(super) fn unpack(metadata: &Metadata, shards: Vec<Option<Vec<u8>>>, faults: Vec<Fault>) -> Result<Self> {
        let code = Code::new(metadata.data_shards, metadata.parity_shards)?;
        let mut sealed = code.join(shards)?;
        let Some(range) = metadata.key.open(&mut sealed) else {
            return Err(corrupt(
                "its shards are what they should be, and the key that is told for them opens them not",
            ));
        };
        let compressed = Bytes::from(sealed).slice(range);
        let (mut decoder, mut piece) = (FrameDecoder::new(&compressed[..]), vec![0; PIECE_LEN]);
        let (mut checksummer, mut len) = (Checksummer::default(), 0);
        loop {
            let read = decoder.read(&mut piece).map_err(|error| corrupt("its snappy is damaged").because(error))?;
            let Some(read) = piece.get(..read).filter(|read| !read.is_empty()) else { break };
            checksummer.add(read);
            len += read.len() as u64;
        }
        let found = checksummer.finish();
        if found != metadata.checksum {
            return Err(corrupt(&format!(
                "the file has the checksum {found}, and was stored with {}",
                metadata.checksum
            )));
        }
        Ok(Self { compressed, len, faults })
    }

    /// Returns its bytes in order.
    pub fn stream(self) -> BoxStream<'static, io::Result<Bytes>> {
        let decoder = FrameDecoder::new(Cursor::new(self.compressed));
        let pieces = stream::try_unfold(decoder, |mut decoder| async move {
            let (mut piece, mut len) = (vec![0; PIECE_LEN], 0);
            while let Some(room) = piece.get_mut(len..).filter(|room| !room.is_empty()) {
                match decoder.read(room)? {
                    0 => break,
                    read => len += read,
                }
            }
            piece.truncate(len);
            Ok((len > 0).then(|| (Bytes::from(piece), decoder)))
        });
        pieces.boxed()
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "zstor.v2.object").because(why.to_owned())
}

/// Compresses a file as it comes. `Default` has none of it yet.
pub struct Packer {
    encoder: FrameEncoder<Vec<u8>>,
    checksummer: Checksummer,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packer(..)")
    }
}

impl Default for Packer {
    fn default() -> Self {
        Self { encoder: FrameEncoder::new(vec![0; NONCE_LEN]), checksummer: Checksummer::default() }
    }
}

/// A file that was compressed, and is to be cut.
pub struct Packed {
    /// Behind room for a nonce.
    compressed: Vec<u8>,
    /// Of the file.
    pub checksum: Checksum,
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed").field("checksum", &self.checksum).finish_non_exhaustive()
    }
}

impl Packer {
    /// Takes the bytes that come next.
    ///
    /// # Errors
    /// `Internal`.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.checksummer.add(bytes);
        self.encoder.write_all(bytes).map_err(internal)
    }

    /// Returns how long it is so far, compressed, in bytes.
    pub fn compressed_len(&self) -> u64 {
        self.encoder.get_ref().len() as u64
    }

    /// Ends the file.
    ///
    /// # Errors
    /// `Internal`.
    pub fn finish(self) -> Result<Packed> {
        let compressed = self.encoder.into_inner().map_err(|error| internal(error.into_error()))?;
        Ok(Packed { compressed, checksum: self.checksummer.finish() })
    }

    /// Returns how much memory a file of so many bytes takes at most until it is written as k + m shards, in bytes.
    pub fn memory_len(len: u64, data_shards: usize, shards: usize) -> u64 {
        let compressed = len.saturating_add((len / FRAME_LEN + 1) * FRAME_GROWTH + 10);
        let whole = compressed.saturating_add((NONCE_LEN + TAG_LEN + data_shards) as u64);
        // The buffer grows by doubling while nobody knows how much it will be, then once more for the parity.
        whole.saturating_mul(2).saturating_add(whole / data_shards.max(1) as u64 * shards as u64)
    }
}

fn internal(error: io::Error) -> Error {
    Error::new(ErrorKind::Internal, "zstor.v2.pack").because(error)
}

impl Packed {
    /// Encrypts and cuts it. It takes the processor for a while.
    pub(super) fn into_shards(mut self, code: &Code, key: &DataKey, nonce: [u8; NONCE_LEN]) -> Result<Vec<Bytes>> {
        key.seal(nonce, &mut self.compressed);
        code.split(self.compressed)
    }
}
