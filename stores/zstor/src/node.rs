//! Nodes: where shards are.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use muxfs::{
    Error, ErrorKind, Result,
    block::{Segments, SegmentsOptions},
};

use crate::{
    dir::Dir,
    mark::{Found, Mark},
};

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
}

/// How the blocks of a node are kept: told its directory. Called on a thread that may wait.
pub type SegmentsOptionsOf = Arc<dyn Fn(&Path) -> SegmentsOptions + Send + Sync>;

impl Node {
    /// Whether something of a store is known to be there.
    pub(crate) fn has_mark(&self) -> bool {
        !matches!(Mark::find(&self.place.dir().join("muxfs-node")), Ok(Found::Nothing | Found::Empty))
    }
}

/// Refuses nodes that are named as one place; links are seen through when they are opened.
pub(crate) fn check_places(nodes: &[Node]) -> Result<()> {
    for (count, node) in nodes.iter().enumerate() {
        let path = std::path::absolute(node.place.dir());
        let same = |other: &&Node| matches!((&path, std::path::absolute(other.place.dir())), (Ok(path), Ok(other)) if *path == other);
        if let Some(other) = nodes.iter().take(count).find(same) {
            return Err(one_place(&other.name, &node.name, node.place.dir()));
        }
    }
    Ok(())
}

pub(crate) fn one_place(one: &str, other: &str, place: &Path) -> Error {
    let why =
        format!("the nodes {one:?} and {other:?} are one directory, and would be lost together: give each its own");
    Error::new(ErrorKind::InvalidArgument, "zstor.open").at(place.display()).because(why)
}

/// A node of an open store.
#[derive(Clone)]
pub struct OpenNode {
    pub(crate) dir: Arc<Dir>,
}

impl fmt::Debug for OpenNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenNode").field("name", &self.name()).field("lost", &self.lost()).finish_non_exhaustive()
    }
}

impl OpenNode {
    /// Its name.
    pub fn name(&self) -> &str {
        self.dir.name()
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Why nothing is read or written there, as far as is known; `None` where all is well. It is asked again and again in
    /// the background, and there by itself when it can be.
    pub fn lost(&self) -> Option<String> {
        self.dir.lost()
    }

    /// Its shards; `None` while it is lost.
    pub fn segments(&self) -> Option<Arc<Segments>> {
        self.dir.segments()
    }

    /// What it takes, in bytes, its index included; 0 while it is lost.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn len(&self) -> Result<u64> {
        self.dir.len().await
    }
}
