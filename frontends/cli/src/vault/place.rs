//! Where the objects of a vault are: what a configuration or a command line calls it, and the stores that it stands for.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use muxfs::{
    BlockStore, Cid, Codec, Env, Error, ErrorKind, Name, Prefix, Result,
    block::{Segments, SegmentsStats},
    heads::{Heads, LogHeads},
    media::{Media, OverlayMedia},
};
use muxfs_local::FileMedia;
use muxfs_redis::{RedisAccess, RedisOptions, RedisStore};
use muxfs_s3::{S3Access, S3Limits, S3Options, S3Store};
use muxfs_sqlite::{SqliteOptions, SqliteStore};
use muxfs_zstor::{BucketPlace, OpenNode, Zstor};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    bucket::BucketAt,
    commands::put::host,
    config::{PrefixText, ZstorAt, ZstorMount},
    data_dir::{content_dir, private_dir},
    database::{Database, RedisAddressText},
    host_file::read_password,
    instance::{SpaceFn, media, segments_options, space_of_disk},
    take_over, writer, zstor,
};

const OP: &str = "vault.place";
/// What whoever has the vault in a directory open has locked.
pub(crate) const LOCK: &str = "lock";
/// The name of the head of a vault in its store.
const HEAD: &[u8] = b"vault";
/// So much of its disk an SQLite file leaves to its log, in bytes.
const RESERVE_LEN: u64 = 128 << 20;

/// Where a vault is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VaultStore {
    /// A directory that is the vault's alone.
    Dir(PathBuf),
    /// An SQLite file that is the vault's alone.
    Sqlite(PathBuf),
    /// A Redis server.
    Redis(RedisAt),
    /// A bucket of S3.
    S3(BucketAt),
    /// Shards on nodes of its own.
    Zstor(ZstorAt),
}

/// A Redis server that has a vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedisAt {
    /// `HOST:PORT`, or the path of a socket.
    server: RedisAddressText,
    /// Which of its databases.
    #[serde(default)]
    database: u32,
    /// As whom; the default user where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// A file with the password of the server; there is none where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password_file: Option<PathBuf>,
    /// What all keys begin with, and no others.
    #[serde(default = "RedisAt::below_default")]
    below: String,
    /// Whether a server is taken that may throw away what it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    allow_eviction: bool,
}

impl RedisAt {
    fn below_default() -> String {
        "muxfs:".into()
    }

    fn options(&self, writer: String) -> Result<RedisOptions> {
        let password = self.password_file.as_deref().map(|file| read_password(file, OP)).transpose()?;
        Ok(RedisOptions {
            database: self.database,
            user: self.user.clone(),
            password,
            prefix: self.below.clone(),
            allow_eviction: self.allow_eviction,
            ..RedisOptions::new(self.server.0.clone(), writer)
        })
    }
}

impl std::fmt::Display for VaultStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dir(dir) => write!(f, "{}", dir.display()),
            Self::Sqlite(file) => write!(f, "sqlite:{}", file.display()),
            Self::Redis(redis) => write!(f, "redis://{}/{} below {}", redis.server.0, redis.database, redis.below),
            Self::S3(bucket) => write!(f, "{}", bucket.node()),
            Self::Zstor(nodes) => write!(f, "{nodes}"),
        }
    }
}

/// Whether a store is to have a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// One is there.
    Vault,
    /// One is to be made: nothing is there.
    Nothing,
}

impl VaultStore {
    /// Reads what a command line says: `dir://PATH`, `sqlite:FILE`, or a path.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that cannot be made absolute.
    pub(crate) fn parse(text: &std::ffi::OsStr) -> Result<Self> {
        let absolute = |path: &Path| {
            std::path::absolute(path)
                .map_err(|error| Error::new(ErrorKind::InvalidArgument, OP).at(path.display()).because(error))
        };
        match text.to_str() {
            Some(text) if text.starts_with("dir://") => absolute(Path::new(&text["dir://".len()..])).map(Self::Dir),
            Some(text) if text.starts_with("sqlite:") => {
                let path = text["sqlite:".len()..].trim_start_matches("//");
                absolute(Path::new(path)).map(Self::Sqlite)
            }
            _ => absolute(Path::new(text)).map(Self::Dir),
        }
    }

    /// A name for the place, which is the same each time.
    pub(crate) fn id(&self) -> String {
        let text = match self {
            Self::Dir(path) => format!("dir {}", canonical(path).display()),
            Self::Sqlite(path) => format!("sqlite {}", canonical(path).display()),
            Self::Redis(_) | Self::S3(_) | Self::Zstor(_) => self.to_string(),
        };
        Cid::v1_sha256(Codec::Raw, Sha256::digest(text.as_bytes()).into()).to_string()
    }

    /// The files that the configuration names.
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let (one, nodes) = match self {
            Self::Dir(path) | Self::Sqlite(path) => (Some(path), None),
            Self::Redis(redis) => (redis.password_file.as_mut(), None),
            Self::S3(bucket) => (bucket.credentials.as_mut(), None),
            Self::Zstor(nodes) => (None, Some(nodes)),
        };
        one.into_iter().chain(nodes.into_iter().flat_map(ZstorAt::files_mut))
    }

    /// Why it cannot be.
    pub(crate) fn fault(&self) -> Option<String> {
        match self {
            Self::S3(bucket) => bucket.fault(),
            Self::Zstor(nodes) => nodes.fault(),
            Self::Dir(_) | Self::Sqlite(_) | Self::Redis(_) => None,
        }
    }

    /// Opens the store; `local` is what its mount, `prefix`, has below `data`.
    ///
    /// # Errors
    /// `NotFound` where a vault is wanted and there is none; `Exists` where there is something and nothing is wanted; `Unavailable` where
    /// another process has it; those of the stores.
    pub(crate) async fn open(&self, data: &Path, prefix: Prefix, want: Want, env: &Env) -> Result<OpenStore> {
        let local = content_dir(data, prefix);
        let opened = match self {
            Self::Dir(dir) => open_dir(dir, want, env).await?,
            Self::Sqlite(file) => {
                if want == Want::Vault && !file.exists() {
                    return Err(self.absent());
                }
                let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let space = space_of_disk(dir.to_owned());
                let of_disk = space.clone();
                let is_full =
                    move || of_disk().is_ok_and(|space| space.bytes_free < RESERVE_LEN.min(space.bytes_total / 2));
                let options = SqliteOptions { is_full: Some(Arc::new(is_full)), ..SqliteOptions::default() };
                let store = SqliteStore::open(file.clone(), options).await?;
                let (blocks, heads) = (Arc::new(store.clone()), Arc::new(store.clone()));
                OpenStore { below: Below::Rows(Database::Sqlite(store)), blocks, heads, space }
            }
            Self::Redis(redis) => {
                private_dir(&local)?;
                let options = redis.options(writer::known_or_drawn(&local, env)?)?;
                let takes_over = take_over::file(&local).exists();
                let access = if takes_over { RedisAccess::TakeOver } else { RedisAccess::Write };
                let store = RedisStore::open(RedisOptions { access, ..options }, env).await;
                let store = store.map_err(|error| self.advised(error, &local))?;
                let (blocks, heads) = (Arc::new(store.clone()), Arc::new(store.clone()));
                let space = space_of_disk(local);
                OpenStore { below: Below::Rows(Database::Redis(store)), blocks, heads, space }
            }
            Self::S3(at) => {
                private_dir(&local)?;
                writer::known_or_drawn(&local, env)?;
                let store = open_bucket(at.asked_by(data, prefix)?, None, env).await;
                let store = store.map_err(|error| self.advised(error, &local))?;
                let (blocks, heads) = (Arc::new(store.clone()), Arc::new(store.clone()));
                OpenStore { below: Below::Packs(store), blocks, heads, space: space_of_disk(local) }
            }
            Self::Zstor(nodes) => {
                let mount = nodes.mount(PrefixText(prefix));
                if want == Want::Vault && !zstor::is_made(data, &mount).await {
                    return Err(self.absent());
                }
                open_nodes(data, &mount, env).await?
            }
        };
        let found = opened.heads.load(&head()?).await;
        let fault = match (found, want) {
            // What a head says that is there already, as that of a vault that was destroyed, the vault's own code knows.
            (Ok(Some(_)), _) | (Ok(None), Want::Nothing) => return Ok(opened),
            (Ok(None), Want::Vault) => self.absent(),
            (Err(error), _) => error,
        };
        // Why it cannot be used says more than how it ended.
        opened.below.close().await.ok();
        Err(fault)
    }

    /// Where another machine writes: what to do.
    fn advised(&self, error: Error, local: &Path) -> Error {
        if error.kind() != ErrorKind::Denied || !matches!(error.op(), "s3.open" | "redis.open") {
            return error;
        }
        let why = format!("{error:#}. To take over, an empty file {}", take_over::file(local).display());
        Error::new(ErrorKind::Denied, OP).at(self).because(why)
    }

    fn absent(&self) -> Error {
        let why = "there is no vault: muxfs vault create makes one";
        Error::new(ErrorKind::NotFound, "vault.open").at(self).because(why)
    }

    /// Whether a vault is there, found out without changing anything.
    ///
    /// # Errors
    /// Those of the stores.
    pub(crate) async fn has_vault(&self, data: &Path, prefix: Prefix, env: &Env) -> Result<bool> {
        let head = head()?;
        let found = match self {
            Self::Dir(dir) => {
                let heads = dir.join("heads");
                if !heads.exists() {
                    return Ok(false);
                }
                let media: Arc<dyn Media> = Arc::new(OverlayMedia::new(Arc::new(FileMedia::open(heads)?)));
                LogHeads::open(media, env).await?.load(&head).await?
            }
            Self::Sqlite(file) => {
                if !file.exists() {
                    return Ok(false);
                }
                let options = SqliteOptions { read_only: true, ..SqliteOptions::default() };
                let store = SqliteStore::open(file.clone(), options).await?;
                let found = store.load(&head).await;
                store.close().await?;
                found?
            }
            Self::Redis(redis) => {
                let options = RedisOptions { access: RedisAccess::Look, ..redis.options("doctor".into())? };
                match RedisStore::open(options, env).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                    store => store?.load(&head).await?,
                }
            }
            Self::S3(at) => match open_bucket(at.asked_by(data, prefix)?, Some(S3Access::Follow), env).await {
                Err(error) if error.kind() == ErrorKind::NotFound && error.op() == "s3.open" => return Ok(false),
                store => store?.load(&head).await?,
            },
            Self::Zstor(nodes) => {
                let mount = nodes.mount(PrefixText(prefix));
                if !zstor::is_made(data, &mount).await {
                    return Ok(false);
                }
                zstor::look(data, &mount, env).await?.heads().load(&head).await?
            }
        };
        Ok(found.is_some())
    }
}

/// A path without symlinks, as far as it is there.
fn canonical(path: &Path) -> PathBuf {
    let (mut there, mut rest) = (path, Vec::new());
    loop {
        if let Ok(found) = fs::canonicalize(there) {
            return rest.iter().rev().fold(found, |path, part| path.join(part));
        }
        let (Some(above), Some(name)) = (there.parent(), there.file_name()) else { return path.to_owned() };
        rest.push(name);
        there = above;
    }
}

/// What the head of a vault is called.
pub(crate) fn head() -> Result<Name> {
    Name::new(HEAD)
}

async fn open_bucket(asked: BucketPlace, access: Option<S3Access>, env: &Env) -> Result<S3Store> {
    let BucketPlace { place, me, writer, host, kept, takes_over } = asked;
    let me = me.ok_or_else(|| Error::new(ErrorKind::Internal, OP).because("nobody says who asks"))?;
    let bucket = Arc::new(place.open(&me, S3Limits::default(), env)?);
    let access = access.unwrap_or(if takes_over { S3Access::TakeOver } else { S3Access::Write });
    S3Store::open(bucket, S3Options { access, host, kept, ..S3Options::new(writer) }).await
}

async fn open_nodes(data: &Path, mount: &ZstorMount, env: &Env) -> Result<OpenStore> {
    let local = mount.local_dir(data);
    private_dir(&content_dir(data, mount.prefix.0))?;
    private_dir(&local)?;
    if take_over::file(&content_dir(data, mount.prefix.0)).exists() {
        take_over::ask(&local)?;
    }
    let store = zstor::open(data, mount, &[], env).await?;
    // Nobody pins anything below a vault, which knows what of it counts.
    take_over::find_pins(&local)?;
    let (blocks, heads) = (store.blocks().clone(), store.heads().clone());
    let space: SpaceFn = Arc::new(store.space());
    Ok(OpenStore { below: Below::Nodes(Box::new(store)), blocks, heads, space })
}

async fn open_dir(dir: &Path, want: Want, env: &Env) -> Result<OpenStore> {
    let refuse = |kind, why: &str| Err(Error::new(kind, OP).at(dir.display()).because(why));
    match (fs::read_dir(dir), want) {
        (Ok(entries), Want::Nothing) => {
            let is_other =
                |entry: &io::Result<fs::DirEntry>| entry.as_ref().map_or(true, |entry| entry.file_name() != LOCK);
            // One that was a vault has both; what has heads alone is the directory of some mount.
            let was_vault = dir.join("heads").exists() && dir.join(LOCK).exists();
            if !was_vault && entries.into_iter().any(|entry| is_other(&entry)) {
                return refuse(
                    ErrorKind::Exists,
                    "the directory has something in it: a vault takes an empty one, or a new one",
                );
            }
        }
        (Ok(_), Want::Vault) if dir.join("heads").exists() => {}
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound && want == Want::Nothing => private_dir(dir)?,
        (Err(error), _) if error.kind() != io::ErrorKind::NotFound => return Err(host(dir, error)),
        _ => return Err(VaultStore::Dir(dir.into()).absent()),
    }
    let at = dir.join(LOCK);
    let lock = File::options().write(true).create(true).truncate(false).open(&at).map_err(|error| host(&at, error))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return refuse(ErrorKind::Unavailable, "another process has this vault open: end it there first");
        }
        Err(error) => return Err(host(&at, error.into())),
    }
    let space = space_of_disk(dir.to_owned());
    let (blocks, index) = (media(&dir.join("blocks"))?, media(&dir.join("index"))?);
    let segments = Segments::open(blocks.clone(), index.clone(), segments_options(&space, 1), env).await?;
    let heads = Arc::new(LogHeads::open(media(&dir.join("heads"))?, env).await?);
    let segments = Arc::new(segments);
    let below = Below::Whole { segments: segments.clone(), media: [blocks, index], lock };
    Ok(OpenStore { below, blocks: segments, heads, space })
}

/// An open store, which has a vault or is to have one.
pub(crate) struct OpenStore {
    pub(crate) below: Below,
    pub(crate) blocks: Arc<dyn BlockStore>,
    pub(crate) heads: Arc<dyn Heads>,
    /// What it has room for.
    pub(crate) space: SpaceFn,
}

/// What the objects of a vault are in.
#[derive(Debug)]
pub(crate) enum Below {
    Whole { segments: Arc<Segments>, media: [Arc<FileMedia>; 2], lock: File },
    Rows(Database),
    Packs(S3Store),
    Nodes(Box<Zstor>),
}

impl Below {
    /// What it takes, in bytes.
    pub(crate) async fn len(&self) -> Result<u64> {
        match self {
            Self::Whole { media, .. } => {
                let mut len = 0;
                for media in media {
                    len += media.segments().await?.iter().map(|segment| segment.len).sum::<u64>();
                }
                Ok(len)
            }
            Self::Rows(database) => database.len().await,
            Self::Packs(store) => Ok(store.usage().live_len + store.usage().dead_len),
            Self::Nodes(store) => zstor::len(store).await,
        }
    }

    /// What is dead in it, in bytes.
    pub(crate) fn dead_len(&self) -> u64 {
        match self {
            Self::Whole { segments, .. } => segments.stats().dead_len,
            Self::Rows(database) => {
                let SegmentsStats { dead_len, .. } = database.stats();
                dead_len
            }
            Self::Packs(store) => store.usage().dead_len,
            Self::Nodes(store) => zstor::dead_len(store),
        }
    }

    /// Keeps others away from the directory of a vault for as long as it is there, also when the store is closed.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn keep_lock(&self) -> io::Result<Option<File>> {
        match self {
            Self::Whole { lock, .. } => lock.try_clone().map(Some),
            Self::Rows(_) | Self::Packs(_) | Self::Nodes(_) => Ok(None),
        }
    }

    /// The segments of objects on disks, which are compacted as others are.
    pub(crate) fn segments(&self) -> Vec<Arc<Segments>> {
        match self {
            Self::Whole { segments, .. } => vec![segments.clone()],
            Self::Rows(_) | Self::Packs(_) => Vec::new(),
            Self::Nodes(store) => store.nodes().iter().filter_map(OpenNode::segments).collect(),
        }
    }

    /// The store that has its objects in shards.
    pub(crate) fn nodes(&self) -> Option<&Zstor> {
        match self {
            Self::Nodes(store) => Some(store),
            Self::Whole { .. } | Self::Rows(_) | Self::Packs(_) => None,
        }
    }

    /// Gives the room of what was deleted back, but of segments.
    pub(crate) async fn compact(&self) -> Result<u64> {
        match self {
            Self::Whole { .. } => Ok(0),
            Self::Nodes(store) => zstor::compact_packs(store).await,
            Self::Rows(database) => database.compact().await.map(|()| 0),
            Self::Packs(store) => store.compact().await.map(|done| done.objects_deleted),
        }
    }

    /// Ends the work with it.
    pub(crate) async fn close(&self) -> Result<()> {
        match self {
            Self::Whole { segments, .. } => segments.close().await,
            Self::Rows(database) => database.close().await,
            Self::Packs(store) => store.close().await,
            Self::Nodes(store) => store.close().await,
        }
    }
}
