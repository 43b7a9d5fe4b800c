//! Writing a `CARv1`: a header, then a section for each block, as it comes.

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{header, section};
use crate::{Cid, Error, ErrorKind, Result, dag::Export};

/// Sections of blocks up to this length, in bytes, are given in one piece: to copy them costs less than to hand over one
/// piece more.
const COPIED_LEN_MAX: usize = 64 << 10;

/// The bytes of a `CARv1` with the blocks of an export; its one root is the block where the path ended. Pieces are never
/// empty, and at most a little longer than a block. Ends after the first error: the CAR is cut off then.
///
/// # Errors
/// Its items', as [`Export::blocks`].
pub fn stream(export: Export) -> BoxStream<'static, Result<Bytes>> {
    let header = header::encode(&[export.end().cid]);
    let sections = export.blocks().map_ok(|(cid, block)| stream::iter(section_of(&cid, block).into_iter().map(Ok)));
    stream::once(async move { header }).chain(sections.try_flatten()).boxed()
}

pub(super) fn section_of(cid: &Cid, block: Bytes) -> Vec<Bytes> {
    let mut head = section::head(cid, block.len());
    if block.len() > COPIED_LEN_MAX {
        return vec![head.into(), block];
    }
    head.extend_from_slice(&block);
    vec![head.into()]
}

/// Writes a `CARv1` of blocks that the caller has.
#[derive(Debug)]
pub struct Writer<W> {
    pub(super) sink: W,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes the header. Small writes follow: a sink that is slow with them wants a buffer.
    ///
    /// ```
    /// # use muxfs::{Codec, car, cid_of};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let cid = cid_of(Codec::Raw, b"hello");
    /// let mut writer = car::Writer::new(Vec::new(), &[cid]).await?;
    /// writer.write(&cid, b"hello").await?;
    /// let bytes = writer.finish().await?;
    /// let mut reader = car::Reader::open(bytes.as_slice()).await?;
    /// assert_eq!(reader.roots(), [cid]);
    /// assert_eq!(reader.next().await?.expect("a section").block, "hello");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `TooLarge` past [`ROOT_COUNT_MAX`](super::ROOT_COUNT_MAX); `Io`.
    pub async fn new(mut sink: W, roots: &[Cid]) -> Result<Self> {
        sink.write_all(&header::encode(roots)?).await.map_err(failed)?;
        Ok(Self { sink })
    }

    /// Writes a section. That the block is the CID's is the caller's promise.
    ///
    /// # Errors
    /// `TooLarge` for a block longer than [`DAG_BLOCK_LEN_MAX`](crate::dag::DAG_BLOCK_LEN_MAX), which no reader takes;
    /// `Io`: what was written is cut off then.
    pub async fn write(&mut self, cid: &Cid, block: &[u8]) -> Result<()> {
        debug_assert!(cid.verify(block).is_ok(), "the caller has other bytes");
        if block.len() > crate::dag::DAG_BLOCK_LEN_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "car.write").at(cid).because("a block has at most 2 MiB"));
        }
        self.sink.write_all(&section::head(cid, block.len())).await.map_err(failed)?;
        self.sink.write_all(block).await.map_err(failed)
    }

    /// Flushes the sink and gives it back.
    ///
    /// # Errors
    /// `Io`.
    pub async fn finish(mut self) -> Result<W> {
        self.sink.flush().await.map_err(failed)?;
        Ok(self.sink)
    }
}

fn failed(error: std::io::Error) -> Error {
    crate::dag::from_io("car.write", error)
}
