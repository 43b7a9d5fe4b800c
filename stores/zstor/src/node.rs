//! Nodes: where shards are. For now a directory each; another kind of place joins [`Place`].
//!
//! A directory that is gone keeps its open files, so that what is written there is lost without an error, and what is read
//! seems to be kept: with each call a node looks whether its mark is still in its place, and is lost from then on if not.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use muxfs::{
    BlockKey, BlockStore, Env, Error, ErrorKind, Result,
    block::{Segments, SegmentsOptions, SegmentsStats},
    media::{Media, OverlayMedia},
};
use muxfs_local::FileMedia;

use crate::{
    mark::{Found, Mark, StoreId, identity},
    store::Access,
};

/// The file by which a directory is known to be a node.
const MARK: &str = "muxfs-node";

/// A node, as a configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, in one line. Where shards belong follows from it, so it is kept for as long as the node is.
    pub name: String,
    /// What it is lost together with: a site, a rack.
    pub group: Option<String>,
    /// Where it keeps what it has.
    pub place: Place,
}

/// Where a node keeps what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A directory of this machine.
    Dir {
        /// Its path.
        path: PathBuf,
        /// Whether it is made for a new store; else it has to be there, as the place of a disk has.
        is_made: bool,
    },
}

impl Place {
    /// Where it is on this machine.
    pub fn dir(&self) -> &Path {
        let Self::Dir { path, .. } = self;
        path
    }

    fn mark(&self) -> PathBuf {
        self.dir().join(MARK)
    }
}

/// How the blocks of a node are kept: told its directory.
pub type SegmentsOptionsOf = Arc<dyn Fn(&Path) -> SegmentsOptions + Send + Sync>;

/// What a node's place looks like before it is opened.
#[derive(Debug)]
pub(crate) enum Look {
    /// It is the node.
    Marked,
    /// Somebody asked by an empty mark that it be taken.
    Offered,
    /// There is no mark, and perhaps no directory.
    Unmarked,
    /// It is a node of another store.
    Foreign,
    /// It cannot be used, and why.
    Lost(String),
}

impl Look {
    pub(crate) fn is_offered(&self) -> bool {
        matches!(self, Self::Offered)
    }
}

impl Node {
    pub(crate) fn look(&self, store: StoreId) -> Look {
        match Mark::find(&self.place.mark()) {
            Ok(Found::Nothing) => Look::Unmarked,
            Ok(Found::Empty) => Look::Offered,
            Ok(Found::Mark(mark)) if mark == Mark::new(store, &self.name) => Look::Marked,
            Ok(Found::Mark(mark)) if mark.store == store.to_string() => Look::Lost(format!(
                "it is the node {:?}, and the configuration calls it {:?}: give it its name there",
                mark.name, self.name
            )),
            Ok(Found::Mark(_)) => Look::Foreign,
            Ok(Found::Other(why)) => Look::Lost(why),
            Err(error) => Look::Lost(error.to_string()),
        }
    }

    /// Whether something of a store is known to be there.
    pub(crate) fn has_mark(&self) -> bool {
        !matches!(Mark::find(&self.place.mark()), Ok(Found::Nothing | Found::Empty))
    }

    /// Takes the directory for a store, making it where that is asked for.
    pub(crate) fn take(&self, store: StoreId) -> Result<()> {
        let Place::Dir { path, is_made } = &self.place;
        let failed = |error| crate::key::failed("zstor.take_node", path, error);
        if *is_made {
            // Opened as a media it is made durably.
            drop(FileMedia::open(path.join("blocks"))?);
        } else if !path.is_dir() {
            let why = "the directory of this node is not there: make it, or mount its disk";
            return Err(Error::new(ErrorKind::NotFound, "zstor.take_node").at(path.display()).because(why));
        }
        Mark::new(store, &self.name).write(&self.place.mark()).map_err(failed)
    }

    /// Opens what it keeps.
    pub(crate) async fn open(&self, access: Access, options: SegmentsOptions, env: &Env) -> Result<Dir> {
        let mark = self.place.mark();
        let identity = identity(&mark).map_err(|error| crate::key::failed("zstor.open_node", &mark, error))?;
        let files =
            [FileMedia::open(self.place.dir().join("blocks"))?, FileMedia::open(self.place.dir().join("index"))?];
        let files = files.map(Arc::new);
        let [blocks, index] = files.each_ref().map(|media| -> Arc<dyn Media> {
            match access {
                Access::Write => media.clone(),
                Access::Look => Arc::new(OverlayMedia::new(media.clone())),
            }
        });
        let segments = Arc::new(Segments::open(blocks, index, options, env).await?);
        Ok(Dir { name: self.name.clone(), mark, identity, segments, files, gone: OnceLock::new() })
    }
}

/// A node that was there when the store was opened.
pub(crate) struct Dir {
    name: String,
    mark: PathBuf,
    identity: (u64, u64),
    segments: Arc<Segments>,
    files: [Arc<FileMedia>; 2],
    /// Set when its directory is found to be gone.
    gone: OnceLock<String>,
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dir({})", self.mark.display())
    }
}

impl Dir {
    /// Whether it never kept a block.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.stats() == SegmentsStats::default()
    }

    /// Refuses what is not known to be kept; one that was gone once is not trusted again.
    fn look(&self) -> Result<()> {
        if let Some(why) = self.gone.get() {
            return Err(lost(why));
        }
        let why = match identity(&self.mark) {
            Ok(there) if there == self.identity => return Ok(()),
            Ok(_) => "another directory came to its place".into(),
            Err(error) => format!("its directory is gone: {error}"),
        };
        if self.gone.set(why.clone()).is_ok() {
            tracing::error!(node = self.name, mark = %self.mark.display(), "a node is lost until the next start: {why}");
        }
        Err(lost(&why))
    }
}

fn lost(why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "zstor.node").because(why.to_owned())
}

#[async_trait]
impl BlockStore for Dir {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.look()?;
        self.segments.get(key).await
    }
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        self.look()?;
        self.segments.get_range(key, range).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.look()?;
        self.segments.put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.look()?;
        self.segments.delete(key).await
    }
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        self.look()?;
        self.segments.has(key).await
    }
    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        self.look()?;
        self.segments.block_len(key).await
    }
    async fn flush(&self) -> Result<()> {
        self.look()?;
        self.segments.flush().await?;
        // What was synced into a directory that went meanwhile is not kept.
        self.look()
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        match self.look() {
            Ok(()) => self.segments.keys(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }
}

/// A node that was lost before the store was opened.
#[derive(Debug)]
pub(crate) struct Lost(pub(crate) String);

#[async_trait]
impl BlockStore for Lost {
    async fn get(&self, _: &BlockKey) -> Result<Option<Bytes>> {
        Err(lost(&self.0))
    }
    async fn put(&self, _: &BlockKey, _: Bytes) -> Result<()> {
        Err(lost(&self.0))
    }
    async fn delete(&self, _: &BlockKey) -> Result<()> {
        Err(lost(&self.0))
    }
    async fn flush(&self) -> Result<()> {
        Err(lost(&self.0))
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        stream::iter([Err(lost(&self.0))]).boxed()
    }
}

/// A node of an open store.
#[derive(Debug, Clone)]
pub struct OpenNode {
    pub(crate) node: Node,
    pub(crate) state: Result<Arc<Dir>, String>,
}

impl OpenNode {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.node.name
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.node.place.dir()
    }

    /// Why nothing is read or written there; `None` where all is well.
    pub fn lost(&self) -> Option<&str> {
        match &self.state {
            Ok(dir) => dir.gone.get().map(String::as_str),
            Err(why) => Some(why),
        }
    }

    /// Its shards; `None` if it was lost when the store was opened.
    pub fn segments(&self) -> Option<&Arc<Segments>> {
        self.state.as_ref().ok().map(|dir| &dir.segments)
    }

    /// What it takes, in bytes, its index included; 0 if it was lost when the store was opened.
    ///
    /// # Errors
    /// `Io`.
    pub async fn len(&self) -> Result<u64> {
        let mut len = 0;
        for media in self.state.iter().flat_map(|dir| &dir.files) {
            len += media.segments().await?.iter().map(|segment| segment.len).sum::<u64>();
        }
        Ok(len)
    }
}
