//! Nodes: where shards are. A directory ([`dir`](crate::dir)), a namespace of a 0-db server ([`zdb`](crate::zdb)), or a bucket of S3
//! ([`bucket`](crate::bucket)).

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;
use muxfs::{
    BlockKey, BlockStore, Env, Error, ErrorKind, Result,
    block::{Segments, SegmentsOptions},
};
use muxfs_s3::S3Store;
use tokio::sync::mpsc::unbounded_channel;

use crate::{
    bucket::{BucketNode, BucketPlace},
    files::lost,
    mark::{Found, Mark, StoreId},
    space::DiskRoom,
    store::Access,
    zdb::{Password, Zdb, ZdbPlace},
};

/// Where the mark is on a node that has nothing but blocks: no shard's key, as it does not end in the number of a slot.
pub(crate) const MARK_KEY: &[u8] = b"muxfs-node";

/// Refuses the key of the mark to who asks for shards.
pub(crate) fn check_key(key: &BlockKey) -> Result<()> {
    if key.as_bytes() == MARK_KEY {
        let why = "this key is taken: the mark of the node is there";
        return Err(Error::new(ErrorKind::InvalidArgument, "zstor.node").because(why));
    }
    Ok(())
}

/// A node, as a configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, in one line. Where shards belong follows from it, so it is kept for as long as the node is.
    pub name: String,
    /// What it is lost together with: a site, a rack.
    pub group: Option<String>,
    /// Where it keeps what it has.
    pub place: Place,
    /// Whether nothing new is put there, and what it has is put elsewhere.
    pub is_drained: bool,
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
    /// A namespace of a 0-db server.
    Zdb(ZdbPlace),
    /// A bucket of S3.
    S3(BucketPlace),
}

impl Place {
    /// Its directory, where it is one.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Self::Dir { path, .. } => Some(path),
            Self::Zdb(_) | Self::S3(_) => None,
        }
    }

    /// Whether both are the same, as far as can be told without looking.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dir { path, .. }, Self::Dir { path: other, .. }) => {
                matches!((std::path::absolute(path), std::path::absolute(other)), (Ok(path), Ok(other)) if path == other)
            }
            (Self::Zdb(place), Self::Zdb(other)) => {
                place.address == other.address && place.namespace == other.namespace
            }
            (Self::S3(place), Self::S3(other)) => {
                let prefix = |place: &BucketPlace| place.place.prefix.trim_matches('/').to_owned();
                let (one, other_one) = (&place.place, &other.place);
                one.endpoint == other_one.endpoint && one.bucket == other_one.bucket && prefix(place) == prefix(other)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir { path, .. } => write!(f, "{}", path.display()),
            Self::Zdb(place) => write!(f, "{place}"),
            Self::S3(place) => write!(f, "{place}"),
        }
    }
}

/// How the blocks of a node are kept: told its directory. Called on a thread that may wait.
pub type SegmentsOptionsOf = Arc<dyn Fn(&Path) -> SegmentsOptions + Send + Sync>;

/// What a node's place looks like before it is opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is the node.
    Marked,
    /// Somebody asked by an empty mark that it be taken.
    Offered,
    /// There is no mark, and perhaps no place.
    Unmarked,
    /// It is a node of another store.
    Foreign,
    /// It cannot be used, and why.
    Lost(String),
}

impl Look {
    pub(crate) fn of(found: Found, expected: &Mark) -> Self {
        match found {
            Found::Nothing => Self::Unmarked,
            Found::Empty => Self::Offered,
            Found::Mark(found) if found == *expected => Self::Marked,
            Found::Mark(found) if found.store == expected.store => Self::Lost(format!(
                "it is the node {:?}, and the configuration calls it {:?}: give it its name there",
                found.name, expected.name
            )),
            Found::Mark(_) => Self::Foreign,
            Found::Other(why) => Self::Lost(why),
        }
    }

    /// Why it makes it no node; `None` if it does.
    pub(crate) fn refusal(&self, access: Access, unmarked: impl Fn() -> String) -> Option<String> {
        match self {
            Self::Marked => None,
            Self::Offered if access == Access::Write => None,
            Self::Offered => Some("it is to be taken by the next who writes".into()),
            Self::Unmarked => Some(unmarked()),
            Self::Foreign => Some("it is a node of another store".into()),
            Self::Lost(why) => Some(why.clone()),
        }
    }
}

/// The store of a node, which is there when its place is, and looked for by a probe when it is not.
#[async_trait]
pub(crate) trait NodeStore: BlockStore {
    fn name(&self) -> &str;
    /// Its place as text.
    fn place(&self) -> &str;
    /// Looks at its place, and gives what tells it from others, where something does.
    async fn look(&self) -> (Look, Option<(u64, u64)>);
    /// Why a look makes it no node; `None` if it does.
    fn refusal(&self, look: &Look) -> Option<String>;
    /// Uses another password from the next connection on, where it has one.
    fn set_password(&self, _password: Option<Password>) {}
    /// Takes the place for the store, making it where that is asked for.
    async fn take(&self) -> Result<()>;
    /// Opens what it keeps, unless that is being done.
    async fn open(&self) -> Result<()>;
    /// Looks for it where it is lost, and opens it if it is there: taken first, where that was asked for.
    ///
    /// # Errors
    /// `Unavailable` with the reason why it stays lost; those of taking and opening.
    async fn come_back(&self) -> Result<()> {
        let (look, _) = self.look().await;
        if let Some(why) = self.refusal(&look) {
            self.lose(&why);
            return Err(lost(&why));
        }
        if look == Look::Offered {
            self.take().await?;
        }
        self.open().await?;
        tracing::info!(node = self.name(), place = self.place(), "a node is back");
        Ok(())
    }
    /// What is open is not used again.
    fn lose(&self, why: &str);
    /// Why nothing is read or written there, as far as is known.
    fn lost(&self) -> Option<String>;
    /// Whether it is there and has no block.
    fn is_empty(&self) -> bool;
    /// What it takes, in bytes; 0 while it is lost.
    async fn len(&self) -> Result<u64>;
    /// Has it told how much room there is.
    fn ask_room(self: Arc<Self>);
    /// What it told, if that comes before the deadline.
    fn room(&self, deadline: Instant) -> Option<DiskRoom>;
    /// Its blocks, where this process keeps them.
    fn segments(&self) -> Option<Arc<Segments>> {
        None
    }
    /// Its blocks, where they are in packs.
    fn packs(&self) -> Option<S3Store> {
        None
    }
    /// Makes all durable; it does not come back.
    async fn close(&self) -> Result<()>;
}

impl Node {
    /// A node in no group.
    pub fn new(name: impl Into<String>, place: Place) -> Self {
        Self { name: name.into(), group: None, place, is_drained: false }
    }

    /// Whether something of a store is known to be there, or may be where nobody answers.
    pub(crate) async fn has_mark(&self, env: &Env) -> bool {
        match &self.place {
            Place::Dir { path, .. } => {
                !matches!(Mark::find(&path.join("muxfs-node")), Ok(Found::Nothing | Found::Empty))
            }
            Place::Zdb(place) => {
                let (opened, _) = unbounded_channel();
                let zdb = Zdb::new(&self.name, place, (StoreId::default(), Access::Look), opened);
                !matches!(zdb.look().await.0, Look::Unmarked | Look::Offered)
            }
            Place::S3(place) => {
                let (opened, _) = unbounded_channel();
                let bucket = BucketNode::of(&self.name, place, (StoreId::default(), Access::Look), env, opened);
                !matches!(bucket.look().await.0, Look::Unmarked | Look::Offered)
            }
        }
    }
}

/// Refuses nodes that are named as one place; links are seen through when they are opened.
pub(crate) fn check_places(nodes: &[Node]) -> Result<()> {
    for (count, node) in nodes.iter().enumerate() {
        if let Some(other) = nodes.iter().take(count).find(|other| other.place.is(&node.place)) {
            return Err(one_place(&other.name, &node.name, &node.place.to_string()));
        }
    }
    Ok(())
}

pub(crate) fn one_place(one: &str, other: &str, place: &str) -> Error {
    let why = format!("the nodes {one:?} and {other:?} are one place, and would be lost together: give each its own");
    Error::new(ErrorKind::InvalidArgument, "zstor.open").at(place).because(why)
}

/// A node of an open store.
#[derive(Clone)]
pub struct OpenNode {
    pub(crate) store: Arc<dyn NodeStore>,
}

impl fmt::Debug for OpenNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenNode").field("name", &self.name()).field("lost", &self.lost()).finish_non_exhaustive()
    }
}

impl OpenNode {
    /// Its name.
    pub fn name(&self) -> &str {
        self.store.name()
    }

    /// Where it is: its directory, or its namespace and server.
    pub fn place(&self) -> &str {
        self.store.place()
    }

    /// Why nothing is read or written there, as far as is known; `None` where all is well. It is asked again and again in
    /// the background, and there by itself when it can be.
    pub fn lost(&self) -> Option<String> {
        self.store.lost()
    }

    /// Its shards; `None` while it is lost, and where a server keeps them.
    pub fn segments(&self) -> Option<Arc<Segments>> {
        self.store.segments()
    }

    /// Its shards in a bucket; `None` while it is lost, and where they are elsewhere.
    pub fn packs(&self) -> Option<S3Store> {
        self.store.packs()
    }

    /// Whether it is there, and nothing was ever kept there.
    pub(crate) fn is_empty(&self) -> bool {
        self.lost().is_none() && self.store.is_empty()
    }

    /// What it takes, in bytes, its index included; 0 while it is lost.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn len(&self) -> Result<u64> {
        self.store.len().await
    }
}
