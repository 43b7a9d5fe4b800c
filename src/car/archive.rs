//! A CAR that can be read anywhere, as a store of its blocks: what was written children first is read roots first.
//!
//! The index is made by reading the file once from its beginning, and by nothing that the file says of itself. Blocks are
//! not verified here: a [`Dag`] above does that, as over any [`BlockStore`].

use std::{collections::HashMap, fmt, io, pin::Pin, sync::Arc, task};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::io::{AsyncRead, ReadBuf};

use super::{
    header,
    read::{Reader, at},
    write::section_of,
};
use crate::{
    BlockKey, BlockStore, Cid, Error, ErrorKind, Result,
    dag::{Absent, Dag, DagOptions, ExportLimits, ExportOptions, ReadAt, from_io},
};

/// The most sections of an archive: the index takes some 120 bytes for each.
pub const ARCHIVE_BLOCK_COUNT_MAX: usize = 1 << 24;

/// A CAR that can be read anywhere; its blocks by key, to be read and not to be written.
pub struct Archive {
    source: Arc<dyn ReadAt>,
    version: u8,
    roots: Vec<Cid>,
    /// Where the section begins, where the block does, and how long that is, in bytes.
    places: HashMap<BlockKey, Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    section: u64,
    block: u64,
    len: usize,
}

impl Archive {
    /// Reads the file once, to know where its blocks are.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Codec, car, cid_of};
    /// use bytes::Bytes;
    /// use futures_util::TryStreamExt;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (wanted, other) = (cid_of(Codec::Raw, b"wanted"), cid_of(Codec::Raw, b"other"));
    /// let mut writer = car::Writer::new(Vec::new(), &[wanted]).await?;
    /// writer.write(&other, b"other").await?;
    /// writer.write(&wanted, b"wanted").await?;
    /// let file = Bytes::from(writer.finish().await?);
    ///
    /// let archive = Arc::new(car::Archive::open(Arc::new(file)).await?);
    /// let car: Vec<Bytes> = archive.in_order(archive.roots()).try_collect().await?;
    /// assert!(car.concat().ends_with(b"wanted"));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Reader::next`], but that no block is verified; `TooLarge` past [`ARCHIVE_BLOCK_COUNT_MAX`].
    pub async fn open(source: Arc<dyn ReadAt>) -> Result<Self> {
        let mut reader = Reader::open(Cursor { source: source.clone(), offset: 0 }).await?;
        let mut places = HashMap::new();
        while let Some(section) = reader.next_unverified().await? {
            if section.cid.identity().is_some() {
                continue;
            }
            if places.len() >= ARCHIVE_BLOCK_COUNT_MAX {
                return Err(
                    Error::new(ErrorKind::TooLarge, "car.archive").because("a CAR of more than 16 million blocks")
                );
            }
            let len = section.block.len();
            let place = Place { section: section.offset, block: reader.offset() - len as u64, len };
            places.entry(BlockKey::from(&section.cid)).or_insert(place);
        }
        Ok(Self { source, version: reader.version(), roots: reader.roots().to_vec(), places })
    }

    /// 1 or 2.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// What the header says the roots are.
    pub fn roots(&self) -> &[Cid] {
        &self.roots
    }

    /// The same CAR, but that it has these roots, what they lead to and nothing else, depth first: what
    /// [`import`](super::import()) takes as it comes. What they lead to and the archive does not have is left out.
    ///
    /// # Errors
    /// Its items': `Corrupt` for a block that does not hash to its CID, naming the place.
    pub fn in_order(self: &Arc<Self>, roots: &[Cid]) -> BoxStream<'static, Result<Bytes>> {
        let archive = Arc::clone(self);
        // Nothing is kept: each block is asked for once.
        let dag = Dag::new(archive.clone(), DagOptions { verified_len_max: 0, ..DagOptions::default() });
        let there: Vec<Cid> = roots.iter().copied().filter(|root| archive.holds(root)).collect();
        let header = header::encode(roots);
        let sections = stream::iter(there).map(Ok::<_, Error>).and_then(move |root| {
            let (dag, archive) = (dag.clone(), archive.clone());
            async move {
                let absent = Absent::Skipped(Arc::new(|_| ()));
                let options = ExportOptions { absent, limits: ExportLimits::NONE, ..ExportOptions::default() };
                let at = move |error: Error| archive.at(error);
                let export = dag.export(&root, &[], &options).await.map_err(&at)?;
                Ok(export
                    .blocks()
                    .map_err(at)
                    .map_ok(|(cid, block)| stream::iter(section_of(&cid, block).into_iter().map(Ok))))
            }
        });
        stream::once(async move { header }).chain(sections.try_flatten().try_flatten()).boxed()
    }

    fn holds(&self, cid: &Cid) -> bool {
        cid.identity().is_some() || self.places.contains_key(&BlockKey::from(cid))
    }

    /// Says where in the file the block is that an error is about.
    fn at(&self, error: Error) -> Error {
        let cid: Option<Cid> = error.path().and_then(|path| path.parse().ok());
        match cid.and_then(|cid| self.places.get(&BlockKey::from(&cid))) {
            Some(place) => at(place.section)(error),
            None => error,
        }
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Archive(version {}, {} roots, {} blocks)", self.version, self.roots.len(), self.places.len())
    }
}

fn read_only() -> Error {
    Error::new(ErrorKind::ReadOnly, "car.archive").because("an archive is only read")
}

#[async_trait]
impl BlockStore for Archive {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        let Some(Place { block, len, .. }) = self.places.get(key).copied() else { return Ok(None) };
        let source = Arc::clone(&self.source);
        let read = move || {
            let mut bytes = BytesMut::zeroed(len);
            let mut done = 0;
            while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
                match source.read_at(block + done as u64, rest) {
                    Ok(0) => {
                        let why = "the file became shorter while it was read";
                        return Err(Error::new(ErrorKind::Unavailable, "car.archive").because(why));
                    }
                    Ok(count) => done += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(from_io("car.archive", error)),
                }
            }
            Ok(Some(bytes.freeze()))
        };
        crate::dag::on_thread(read).await
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        Ok(self.places.contains_key(key))
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        Ok(self.places.get(key).map(|place| place.len as u64))
    }

    async fn put(&self, _: &BlockKey, _: Bytes) -> Result<()> {
        Err(read_only())
    }

    async fn delete(&self, _: &BlockKey) -> Result<()> {
        Err(read_only())
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        stream::iter(self.places.keys().cloned().map(Ok)).boxed()
    }
}

/// Bytes that can be read anywhere, read from their beginning. It blocks for as long as the host takes to read a page.
struct Cursor {
    source: Arc<dyn ReadAt>,
    offset: u64,
}

impl AsyncRead for Cursor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> task::Poll<io::Result<()>> {
        let count = loop {
            match self.source.read_at(self.offset, buf.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.offset += count as u64;
        buf.advance(count);
        task::Poll::Ready(Ok(()))
    }
}
