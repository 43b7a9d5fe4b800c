//! Blocks made shorter: a layer over any store.
//!
//! Stands above [`Encrypt`](super::Encrypt), since what is encrypted does not compress. Snappy, because what does not
//! shrink costs it next to nothing: such a block is stored as it is, behind the same header. Bytes from below are
//! trusted in nothing: what a frame claims is held against its limits before memory is taken for it.
//! Spec: spec/layers.md #compress.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::BoxStream;
use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::{BLOCK_LEN_MAX, BlockKey, BlockStore, bad::Bad};
use crate::{Error, ErrorKind, Result};

const MAGIC: &[u8; 4] = b"MUXZ";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 16;

/// Snappy makes at most 64 bytes of three: what claims more is no snappy, and gets no memory.
const SNAPPY_RATIO_MAX: usize = 22;

/// What is kept for the next puts: so many buffers, for as many at once.
const SCRATCH_COUNT_MAX: usize = 4;
/// A longer buffer is given back: blocks of a DAG need no longer one.
const SCRATCH_LEN_MAX: usize = 3 << 20;

/// A [`BlockStore`] over another that compresses what it is given, with snappy; what does not shrink is stored.
///
/// Keys are those of the store below. A block has at most [`Compress::BLOCK_LEN_MAX`] bytes, and fewer where the store
/// below takes fewer. Beyond the laws of `BlockStore`: what is no frame of this layer is `Corrupt`, a frame of a newer
/// version `Unsupported`. It does not look for damage inside of a block: who reads verifies.
pub struct Compress {
    inner: Arc<dyn BlockStore>,
    scratch: Mutex<Vec<Scratch>>,
    bad: Bad,
}

/// What compressing takes besides the block, kept from one put to another.
struct Scratch {
    encoder: Encoder,
    output: Vec<u8>,
}

impl fmt::Debug for Compress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compress").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Compress {
    /// The longest block, in bytes: the longest that any store takes, less the header.
    pub const BLOCK_LEN_MAX: usize = BLOCK_LEN_MAX - HEADER_LEN;

    /// Compresses what goes into `inner`.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{BlockKey, BlockStore, block::{Compress, Mem}};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let inner = Arc::new(Mem::default());
    /// let store = Compress::new(inner.clone());
    /// let key = BlockKey::new(b"k")?;
    /// store.put(&key, vec![7; 1000].into()).await?;
    /// assert_eq!(store.get(&key).await?, Some(vec![7; 1000].into()));
    /// assert!(inner.block_len(&key).await? < Some(100));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn new(inner: Arc<dyn BlockStore>) -> Self {
        Self { inner, scratch: Mutex::default(), bad: Bad::default() }
    }

    /// The frame of a block.
    fn encode(&self, block: &[u8]) -> Bytes {
        let scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut scratch = scratch.unwrap_or_else(|| Scratch { encoder: Encoder::new(), output: Vec::new() });
        let len_max = max_compress_len(block.len());
        if scratch.output.len() < len_max {
            scratch.output.resize(len_max, 0);
        }
        // No block is too long for snappy; were one, it would not shrink.
        let compressed =
            scratch.encoder.compress(block, &mut scratch.output).ok().and_then(|len| scratch.output.get(..len));
        let frame = match compressed {
            Some(compressed) if compressed.len() < block.len() => Method::Snappy.frame(block.len(), compressed),
            _ => Method::Stored.frame(block.len(), block),
        };
        if scratch.output.len() <= SCRATCH_LEN_MAX {
            let mut kept = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < SCRATCH_COUNT_MAX {
                kept.push(scratch);
            }
        }
        frame
    }
}

/// How the bytes behind a header are the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Stored = 0,
    Snappy = 1,
}

impl Method {
    fn frame(self, block_len: usize, body: &[u8]) -> Bytes {
        let mut frame = BytesMut::with_capacity(HEADER_LEN + body.len());
        frame.put_slice(MAGIC);
        frame.put_u8(VERSION);
        frame.put_u8(self as u8);
        frame.put_u16_le(0);
        frame.put_u32_le(u32::try_from(block_len).unwrap_or(u32::MAX));
        frame.put_u32_le(crc32c::crc32c(&frame));
        frame.put_slice(body);
        frame.freeze()
    }
}

/// What a frame says of itself.
struct Header {
    method: Method,
    /// How long the block is, in bytes, at most [`Compress::BLOCK_LEN_MAX`].
    block_len: usize,
}

impl Header {
    /// # Errors
    /// `Corrupt`; `Unsupported` for a newer version.
    fn decode(frame: &[u8]) -> Result<Self> {
        let header = frame.split_first_chunk().and_then(|(said, behind)| Some((*said, *behind.first_chunk()?)));
        let Some((said, crc)) = header else { return Err(corrupt("it is shorter than a header")) };
        if !said.starts_with(MAGIC) || crc32c::crc32c(&said) != u32::from_le_bytes(crc) {
            return Err(corrupt("it does not begin as a frame of this layer does"));
        }
        let [_, _, _, _, version, method, zero0, zero1, len @ ..]: [u8; HEADER_LEN - 4] = said;
        if version > VERSION {
            return Err(
                Error::new(ErrorKind::Unsupported, "compress.get").because("a newer MuxFS compressed the block")
            );
        }
        let method = match method {
            0 => Method::Stored,
            1 => Method::Snappy,
            _ => return Err(corrupt("its method is unknown")),
        };
        let block_len = u32::from_le_bytes(len) as usize;
        if version < VERSION || [zero0, zero1] != [0, 0] || block_len > Compress::BLOCK_LEN_MAX {
            return Err(corrupt("its header says what none does"));
        }
        Ok(Self { method, block_len })
    }
}

/// The block of a frame.
///
/// # Errors
/// As [`Header::decode`].
fn decode(frame: &Bytes) -> Result<Bytes> {
    let Header { method, block_len } = Header::decode(frame)?;
    let body = frame.slice(HEADER_LEN..);
    match method {
        Method::Stored if body.len() == block_len => Ok(body),
        Method::Stored => Err(corrupt("it is not as long as its header says")),
        Method::Snappy => {
            let said = decompress_len(&body).map_err(|error| corrupt("its snappy is damaged").because(error))?;
            if said != block_len || block_len.div_ceil(SNAPPY_RATIO_MAX) > body.len() {
                return Err(corrupt("it cannot be as long as it says"));
            }
            let mut block = vec![0; block_len];
            let decoded = Decoder::new().decompress(&body, &mut block);
            decoded.map_err(|error| corrupt("its snappy is damaged").because(error))?;
            Ok(block.into())
        }
    }
}

fn corrupt(why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "compress.get").because(why)
}

// A range is cut out of the whole block, as the trait does by itself: where a part of it lies below is known for stored
// frames alone, and finding out would cost the store below two calls.
#[async_trait]
impl BlockStore for Compress {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        let Some(frame) = self.inner.get(key).await? else { return Ok(None) };
        self.bad.note(key, decode(&frame)).map(Some)
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        if block.len() > Self::BLOCK_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "compress.put"));
        }
        self.bad.put(&*self.inner, key, self.encode(&block)).await
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        self.inner.has(key).await
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        let Some(start) = self.inner.get_range(key, 0..HEADER_LEN).await? else { return Ok(None) };
        let header = self.bad.note(key, Header::decode(&start))?;
        Ok(Some(header.block_len as u64))
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}
