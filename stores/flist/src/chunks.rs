//! The bytes of chunks: in memory, on disk, or from the sources in turn, verified wherever they come from.
//!
//! One of these serves all flists: a chunk that two of them have is kept once, and those who want it of the same sources at
//! the same time share one fetching of it. What is kept on disk is what is stored, encrypted. Spec: spec/flist.md #reading.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use lru::LruCache;
use muxfs::{BlockKey, BlockStore, Error, ErrorKind, Result, block::Cache};
use tokio::time::{Instant, timeout_at};

use crate::{
    Flist, Inode,
    address::SourceUrl,
    chunk::Chunk,
    memory::{Memory, Want},
    metadata::Route,
    source::Source,
};

/// How long a chunk may take, from all sources together and with all waiting.
const CHUNK_TIME_MAX: Duration = Duration::from_secs(30);
/// How long nothing is kept after the disk was full.
const FULL_TIME: Duration = Duration::from_mins(1);
/// So many sources are asked of those that an flist names.
const FOLLOWED_COUNT_MAX: usize = 16;
/// Sources of flists that are remembered with what is known of them.
const SOURCE_COUNT_MAX: usize = 256;

const OP: &str = "flist.fetch";

/// Who is asked for the chunks of an flist, in order.
#[derive(Debug, Default)]
pub struct Sources {
    all: Vec<Arc<Source>>,
    /// What the flist names and nobody asks, and why.
    left_out: Vec<String>,
}

/// Reads chunks, from sources and from what is kept of them.
pub struct Chunks {
    /// Who is asked first, for every flist.
    first: Vec<Arc<Source>>,
    follows: bool,
    /// Those that flists name.
    known: Mutex<LruCache<String, Arc<Source>>>,
    wanted: Arc<Wanted>,
    stored: Arc<dyn BlockStore>,
    memory: Memory,
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunks").field("first", &self.first).field("follows", &self.follows).finish_non_exhaustive()
    }
}

/// Where chunks are looked for.
#[derive(Debug, Clone, Default)]
pub struct ChunksOptions {
    /// Who is asked first, in order.
    pub sources: Vec<SourceUrl>,
    /// Whether those are asked then that the flist names, at most 16: who made it then chooses whom this machine talks to.
    /// Directories that it names are not: they are of the machine on which it was made.
    pub follow: bool,
    /// Keeps what is stored, at most so many bytes of it. It is nobody else's.
    pub kept: Option<(Arc<dyn BlockStore>, u64)>,
}

impl Chunks {
    /// Reads as `options` say. Nobody is asked yet.
    ///
    /// # Errors
    /// Those of what is kept; `InvalidArgument` for an address that is none.
    pub async fn open(options: ChunksOptions) -> Result<Self> {
        let wanted = Arc::new(Wanted::default());
        let stored: Arc<dyn BlockStore> = match options.kept {
            Some((kept, len_max)) => {
                let kept = Arc::new(Full { kept, until: Mutex::default() });
                Arc::new(Cache::open(wanted.clone(), kept, len_max).await?)
            }
            None => wanted.clone(),
        };
        let count = std::num::NonZeroUsize::new(SOURCE_COUNT_MAX).unwrap_or(std::num::NonZeroUsize::MIN);
        Ok(Self {
            first: options.sources.into_iter().map(Source::new).collect::<Result<_>>()?,
            follows: options.follow,
            known: Mutex::new(LruCache::new(count)),
            wanted,
            stored,
            memory: Memory::default(),
        })
    }

    /// Who is asked for the chunks of an flist.
    ///
    /// # Errors
    /// Those of [`Flist::routes`].
    pub fn sources_of(&self, flist: &Flist) -> Result<Arc<Sources>> {
        Ok(Arc::new(self.sources(&flist.routes()?)))
    }

    /// The bytes of a file of an flist in its chunk `index`, from 0 on; `None` behind the last. It waits for the disk, which
    /// has the flist.
    ///
    /// # Errors
    /// Those of [`Flist::chunks`]; `Corrupt` where the file has fewer chunks than its length needs, or a chunk is another;
    /// `Unavailable` where a source that may have it is out of reach; `Io` where none has it.
    pub async fn read(
        &self,
        sources: &Arc<Sources>,
        flist: &Flist,
        inode: &Inode,
        index: u64,
    ) -> Result<Option<Bytes>> {
        if inode.size == 0 {
            return Ok(None);
        }
        let (len, chunks) = flist.chunks(inode.id, index, 1)?;
        let left = inode.size.saturating_sub(index.saturating_mul(len)).min(len);
        if left == 0 {
            return Ok(None);
        }
        let chunk = chunks.first().ok_or_else(|| {
            let why = format!("a file has {} bytes, and no chunk {index} of {len} bytes", inode.size);
            Error::new(ErrorKind::Corrupt, OP).because(why)
        })?;
        self.get(sources, *chunk, usize::try_from(left).unwrap_or(usize::MAX)).await.map(Some)
    }

    /// Whether a source says that it has a chunk. Nothing is fetched but of HTTP servers, and nothing verified.
    ///
    /// # Errors
    /// `Unavailable` where none has it, and one that may is out of reach; it names the chunk.
    pub async fn has(&self, sources: &Sources, chunk: &Chunk) -> Result<bool> {
        let mut failed = None;
        for source in sources.all.iter().filter(|source| source.has(chunk.id())) {
            match source.has_stored(chunk.id()).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        let unavailable =
            |error| Error::new(ErrorKind::Unavailable, OP).at(format!("chunk {}", chunk.hex())).because(error);
        failed.map_or(Ok(false), |error: Error| Err(unavailable(error)))
    }

    /// Who is asked for the chunks of an flist that names these routes.
    pub(crate) fn sources(&self, routes: &[Route]) -> Sources {
        let mut sources = Sources { all: self.first.clone(), left_out: Vec::new() };
        for route in routes {
            match route.url.parse::<SourceUrl>().map(|url| url.within(route.first, route.last)) {
                Err(error) => sources.left_out.push(format!("a route of the flist: {error:#}")),
                Ok(url) if url.is_dir() => {
                    sources.left_out.push(format!("{url} is of the machine where the flist was made"));
                }
                Ok(url) if !self.follows => sources.left_out.push(format!("{url} is not followed")),
                Ok(_) if sources.all.len() >= self.first.len() + FOLLOWED_COUNT_MAX => {
                    sources.left_out.push(format!("of an flist {FOLLOWED_COUNT_MAX} sources are followed"));
                    break;
                }
                Ok(url) => {
                    let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                    let name = format!("{:02x}-{:02x}={}", route.first, route.last, route.url);
                    match known.try_get_or_insert(name, || Source::new(url)) {
                        Ok(source) => sources.all.push(source.clone()),
                        Err(error) => sources.left_out.push(format!("a route of the flist: {error:#}")),
                    }
                }
            }
        }
        sources
    }

    /// The bytes of a chunk, `len` of them.
    ///
    /// # Errors
    /// `Unavailable` where a source that may have it is out of reach; `Io` where none has it; `Corrupt` where what they
    /// have is another. They name the chunk.
    pub(crate) async fn get(&self, sources: &Arc<Sources>, chunk: Chunk, len: usize) -> Result<Bytes> {
        let named = |error: Error| error.at(format!("chunk {}", chunk.hex()));
        let deadline = Instant::now() + CHUNK_TIME_MAX;
        // What one flist fails to fetch of its sources tells nothing of those of another.
        let want = Want { chunk, len, sources: Arc::as_ptr(sources).addr() };
        let fetch = || async {
            let fetched = timeout_at(deadline, self.fetch(sources, chunk, len)).await;
            fetched.unwrap_or_else(|_elapsed| Err(late()))
        };
        // Who joined a fetching that was given up by who began it fetches in his own time.
        let got = timeout_at(deadline, self.memory.get_or_fetch(want, fetch)).await;
        let bytes = got.map_err(|_elapsed| named(late()))?;
        let bytes = bytes.map_err(|error| named(Error::new(error.kind(), OP).because(error)))?;
        if bytes.len() == len {
            return Ok(bytes);
        }
        let why = format!("it has {} bytes, and its file has {len} there", bytes.len());
        Err(named(Error::new(ErrorKind::Corrupt, OP).because(why)))
    }

    async fn fetch(&self, sources: &Arc<Sources>, chunk: Chunk, len: usize) -> Result<Bytes> {
        let key = BlockKey::new(chunk.id())?;
        let stored = {
            let _asking = self.wanted.ask(key.clone(), chunk, sources.clone());
            self.stored.get(&key).await?
        };
        let stored = stored.ok_or_else(|| {
            let mut why = match sources.all.iter().filter(|source| source.has(chunk.id())).count() {
                0 => "there is no source for it".to_owned(),
                count => format!("none of {count} sources has it"),
            };
            for left_out in &sources.left_out {
                why = format!("{why}; {left_out}");
            }
            Error::new(ErrorKind::Io, OP).because(why)
        })?;
        let opened = tokio::task::spawn_blocking(move || chunk.open(&stored, len)).await;
        opened.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?
    }
}

fn late() -> Error {
    Error::new(ErrorKind::Unavailable, OP).because(format!("no source gave it within {CHUNK_TIME_MAX:?}"))
}

/// What is kept, on a disk that may be full: then nothing is written to it for a while.
#[derive(Debug)]
struct Full {
    kept: Arc<dyn BlockStore>,
    until: Mutex<Option<Instant>>,
}

impl Full {
    fn until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl BlockStore for Full {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.kept.get(key).await
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        if self.until().is_some_and(|until| Instant::now() < until) {
            return Err(Error::new(ErrorKind::NoSpace, OP).because("the disk was full a moment ago"));
        }
        let put = self.kept.put(key, block).await;
        match &put {
            Err(error) if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Quota) => {
                tracing::warn!("no more chunks of flists are kept for {FULL_TIME:?}: {error:#}");
                *self.until() = Some(Instant::now() + FULL_TIME);
            }
            _ => *self.until() = None,
        }
        put
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.kept.delete(key).await
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        self.kept.has(key).await
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        self.kept.block_len(key).await
    }

    async fn flush(&self) -> Result<()> {
        self.kept.flush().await
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.kept.keys()
    }
}

/// The store below the cache: it has what the sources have of those who ask just now. So what one flist names is never
/// asked of the sources of another, and what both have is kept once.
#[derive(Debug, Default)]
struct Wanted(Mutex<AllAsking>);

/// Who asks for what, and of whom.
type AllAsking = HashMap<BlockKey, Vec<(Chunk, Arc<Sources>)>>;

/// Somebody asks, until it is dropped.
struct Asking<'a> {
    wanted: &'a Wanted,
    key: BlockKey,
    sources: Arc<Sources>,
}

impl Wanted {
    fn lock(&self) -> MutexGuard<'_, AllAsking> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, key: BlockKey, chunk: Chunk, sources: Arc<Sources>) -> Asking<'_> {
        self.lock().entry(key.clone()).or_default().push((chunk, sources.clone()));
        Asking { wanted: self, key, sources }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut all = self.wanted.lock();
        if let Some(asking) = all.get_mut(&self.key) {
            if let Some(at) = asking.iter().position(|(_, sources)| Arc::ptr_eq(sources, &self.sources)) {
                asking.swap_remove(at);
            }
            if asking.is_empty() {
                all.remove(&self.key);
            }
        }
    }
}

impl Sources {
    /// What is stored under the id of a chunk, from the first source that has it.
    async fn get(&self, chunk: &Chunk) -> Result<Option<Bytes>> {
        let mut failed: Option<Error> = None;
        for source in self.all.iter().filter(|source| source.has(chunk.id())) {
            let error = match source.get(chunk.id()).await {
                Ok(None) => continue,
                Ok(Some(stored)) if chunk.is(&stored) => return Ok(Some(stored)),
                Ok(Some(stored)) => {
                    let why = format!("it gives {} bytes that do not hash to it", stored.len());
                    Error::new(ErrorKind::Corrupt, OP).at(source.url()).because(why)
                }
                Err(error) => error,
            };
            tracing::debug!(source = %source.url(), chunk = chunk.hex(), "a source fails: {error:#}");
            // One that is out of reach might have the right one; one that refuses to tell gives none whoever asks again.
            let weight = |error: &Error| match error.kind() {
                ErrorKind::Denied | ErrorKind::NotFound => 0,
                ErrorKind::Corrupt => 1,
                _ => 2,
            };
            if failed.as_ref().is_none_or(|failed| weight(failed) < weight(&error)) {
                failed = Some(error);
            }
        }
        match failed {
            None => Ok(None),
            Some(error) => {
                let kind = match error.kind() {
                    ErrorKind::Denied | ErrorKind::NotFound => ErrorKind::Io,
                    ErrorKind::Corrupt => ErrorKind::Corrupt,
                    _ => ErrorKind::Unavailable,
                };
                Err(Error::new(kind, OP).because(error))
            }
        }
    }
}

#[async_trait]
impl BlockStore for Wanted {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        let asking = self.lock().get(key).cloned().unwrap_or_default();
        let mut failed = None;
        for (chunk, sources) in asking {
            match sources.get(&chunk).await {
                Ok(None) => {}
                Ok(Some(stored)) => return Ok(Some(stored)),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    async fn put(&self, _key: &BlockKey, _block: Bytes) -> Result<()> {
        Err(Error::new(ErrorKind::ReadOnly, OP))
    }

    async fn delete(&self, _key: &BlockKey) -> Result<()> {
        Err(Error::new(ErrorKind::ReadOnly, OP))
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        Ok(self.get(key).await?.is_some())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        stream::empty().boxed()
    }
}
