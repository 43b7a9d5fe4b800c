//! What a configuration says of an SQLite file or of a Redis server that has the blocks of a mount, and the head of its tree.
//!
//! One data directory has the journal and the pins that belong to them, and is the one that opens them: what it is called is
//! a head beside that of the tree.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use muxfs::{
    BlockStore, Env, Error, ErrorKind, Name, Result,
    block::SegmentsStats,
    heads::{Heads, Swap},
};
use muxfs_redis::{RedisAddress, RedisOptions, RedisStore};
use muxfs_sqlite::{SqliteOptions, SqliteStore};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    commands::doctor::Finding,
    config::PrefixText,
    data_dir::{content_dir, private_dir},
    host_file::read_password,
    instance::{SpaceFn, space_of_disk},
    output::count,
    sealing::Sealing,
    writer::{self, hostname},
};

const OP: &str = "database.mount";
/// The head that says which data directory that is.
const WRITER_HEAD: &[u8] = b"writer";
/// So much of its disk an SQLite file leaves to its log, and to what deletions write, in bytes.
const RESERVE_LEN: u64 = 128 << 20;

/// Blocks, and the head of their tree, in one SQLite file. Spec: spec/sqlite.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SqliteMount {
    pub(crate) prefix: PrefixText,
    /// The file, made at first start in a directory that is there; `DATA/mounts/PREFIX/blocks.sqlite` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<PathBuf>,
    /// The key that all is encrypted with, made by `muxfs key new`; where absent nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PathBuf>,
    /// As of an `ipfs` mount.
    #[serde(rename = "async", default)]
    pub(crate) is_async: bool,
}

/// Blocks, and the head of their tree, on a Redis server. Spec: spec/redis.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedisMount {
    pub(crate) prefix: PrefixText,
    /// `HOST:PORT`, or the path of a socket.
    pub(crate) server: RedisAddressText,
    /// Which of its databases.
    #[serde(default)]
    pub(crate) database: u32,
    /// As whom; the default user where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// A file with the password; which there is none of where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password_file: Option<PathBuf>,
    /// What all keys of the store begin with, and no others.
    #[serde(default = "RedisMount::below_default")]
    pub(crate) below: String,
    /// Whether a server is taken that may throw blocks away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) allow_eviction: bool,
    /// As of an `sqlite` mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PathBuf>,
    /// As of an `ipfs` mount.
    #[serde(rename = "async", default)]
    pub(crate) is_async: bool,
}

/// The address of a server, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RedisAddressText(pub(crate) RedisAddress);

impl Serialize for RedisAddressText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RedisAddressText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
    }
}

fn encrypted(key: Option<&PathBuf>) -> String {
    key.map_or_else(String::new, |key| format!(", encrypted with {}", key.display()))
}

impl SqliteMount {
    /// The file of the blocks.
    pub(crate) fn path(&self, data: &Path) -> PathBuf {
        self.file.clone().unwrap_or_else(|| content_dir(data, self.prefix.0).join("blocks.sqlite"))
    }

    /// Its files that the configuration names.
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.file.iter_mut().chain(&mut self.key)
    }

    /// What it is, for people.
    pub(crate) fn described(&self, data: &Path) -> String {
        format!("read and written{}, in {}", encrypted(self.key.as_ref()), self.path(data).display())
    }
}

impl RedisMount {
    fn below_default() -> String {
        "muxfs:".into()
    }

    /// Its files that the configuration names.
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.password_file.iter_mut().chain(&mut self.key)
    }

    /// What it is, for people.
    pub(crate) fn described(&self) -> String {
        let (key, below) = (encrypted(self.key.as_ref()), &self.below);
        format!("read and written{key}, on Redis at {}/{} below {below}", self.server.0, self.database)
    }

    fn options(&self, writer: String) -> Result<RedisOptions> {
        let password = self.password_file.as_deref().map(|file| read_password(file, OP)).transpose()?;
        Ok(RedisOptions {
            database: self.database,
            user: self.user.clone(),
            password,
            prefix: self.below.clone(),
            allow_eviction: self.allow_eviction,
            host: hostname(),
            ..RedisOptions::new(self.server.0.clone(), writer)
        })
    }
}

/// The store behind a mount.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    Sqlite(SqliteStore),
    Redis(RedisStore),
}

impl Database {
    /// What it takes, in bytes: on a server with all else that is there.
    pub(crate) async fn len(&self) -> Result<u64> {
        match self {
            Self::Sqlite(store) => store.usage().await.map(|usage| usage.file_len + usage.log_len),
            Self::Redis(store) => store.usage().await.map(|usage| usage.used_len),
        }
    }

    /// What it holds; nothing is known of a server.
    pub(crate) fn stats(&self) -> SegmentsStats {
        match self {
            Self::Sqlite(store) => {
                let stats = store.stats();
                SegmentsStats { block_count: stats.block_count, live_len: stats.block_len, dead_len: 0 }
            }
            Self::Redis(_) => SegmentsStats::default(),
        }
    }

    /// Gives the room of what was deleted back to the disk.
    pub(crate) async fn compact(&self) -> Result<()> {
        match self {
            Self::Sqlite(store) => store.compact().await,
            Self::Redis(_) => Ok(()),
        }
    }

    pub(crate) async fn close(&self) -> Result<()> {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Redis(store) => store.close().await,
        }
    }

    fn heads(&self) -> Arc<dyn Heads> {
        match self {
            Self::Sqlite(store) => Arc::new(store.clone()),
            Self::Redis(store) => Arc::new(store.clone()),
        }
    }

    fn blocks(&self) -> Arc<dyn BlockStore> {
        match self {
            Self::Sqlite(store) => Arc::new(store.clone()),
            Self::Redis(store) => Arc::new(store.clone()),
        }
    }
}

/// An open database, and what a mount over it is made of.
pub(crate) struct Opened {
    pub(crate) database: Database,
    pub(crate) blocks: Arc<dyn BlockStore>,
    pub(crate) heads: Arc<dyn Heads>,
    /// Where what the mount has besides is.
    pub(crate) local: PathBuf,
    /// What it has room for.
    pub(crate) space: SpaceFn,
    pub(crate) sealing: Sealing,
}

/// Opens the file of a mount.
///
/// # Errors
/// Those of the key; those of [`SqliteStore::open`]; `Denied` where another data directory has it.
pub(crate) async fn open_sqlite(data: &Path, mount: &SqliteMount, env: &Env) -> Result<Opened> {
    let (local, sealing) = (content_dir(data, mount.prefix.0), Sealing::load(mount.key.as_deref())?);
    private_dir(&local)?;
    let path = mount.path(data);
    let space = space_of_disk(path.parent().unwrap_or(&local).to_owned());
    let of_disk = space.clone();
    let is_full = move || of_disk().is_ok_and(|space| space.bytes_free < RESERVE_LEN.min(space.bytes_total / 2));
    let options = SqliteOptions { is_full: Some(Arc::new(is_full)), ..SqliteOptions::default() };
    let database = Database::Sqlite(SqliteStore::open(path, options).await?);
    opened(database, local, space, sealing, env).await
}

/// Opens what a mount has on a server.
///
/// # Errors
/// Those of the key and the password; those of [`RedisStore::open`]; `Denied` where another data directory has it.
pub(crate) async fn open_redis(data: &Path, mount: &RedisMount, env: &Env) -> Result<Opened> {
    let (local, sealing) = (content_dir(data, mount.prefix.0), Sealing::load(mount.key.as_deref())?);
    private_dir(&local)?;
    let options = mount.options(writer::known_or_drawn(&local, env)?)?;
    let database = Database::Redis(RedisStore::open(options, env).await?);
    // The journal is here; what a server has room for is not told in time.
    let space = space_of_disk(local.clone());
    opened(database, local, space, sealing, env).await
}

async fn opened(database: Database, local: PathBuf, space: SpaceFn, sealing: Sealing, env: &Env) -> Result<Opened> {
    let heads = database.heads();
    let begin = async {
        let blocks = sealing.blocks(database.blocks()).await?;
        claim(&*heads, writer::known_or_drawn(&local, env)?).await?;
        Ok(blocks)
    };
    match begin.await {
        Ok(blocks) => Ok(Opened { database, blocks, heads, local, space, sealing }),
        Err(error) => {
            // Whose it is may begin; that this one could not end there says nothing more.
            database.close().await.ok();
            Err(error)
        }
    }
}

/// Says that this data directory has the journal and the pins of a store.
///
/// # Errors
/// `Denied` where another has.
async fn claim(heads: &dyn Heads, me: String) -> Result<()> {
    let (name, me) = (Name::new(WRITER_HEAD)?, Bytes::from(me));
    loop {
        match heads.load(&name).await? {
            Some((found, _)) if found == me => return Ok(()),
            Some(_) => {
                let why = "another data directory has the journal and the pins of what is there: serve it with that one, or move its \
                           directory mounts/PREFIX here";
                return Err(Error::new(ErrorKind::Denied, OP).because(why));
            }
            None => {
                if let Swap::Done(_) = heads.swap(&name, None, me.clone()).await? {
                    return Ok(());
                }
            }
        }
    }
}

/// Looks at the file of a mount, and changes nothing there.
pub(crate) async fn look_sqlite(data: &Path, mount: &SqliteMount) -> Finding {
    const CHECK: &str = "sqlite";
    let path = mount.path(data);
    let look = async {
        let options = SqliteOptions { read_only: true, ..SqliteOptions::default() };
        let store = SqliteStore::open(&path, options).await?;
        let usage = store.usage().await?;
        store.close().await?;
        Ok::<_, Error>(usage)
    };
    match look.await {
        Ok(usage) => Finding::ok(CHECK, &path.display(), format!("{} blocks", count(usage.block_count))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Finding::ok(CHECK, &path.display(), "nothing was put there yet")
        }
        Err(error) => {
            Finding::error(CHECK, &path.display(), format!("{error:#}"), "mend what is said; nothing was changed")
        }
    }
}

/// Looks at the server of a mount, and changes nothing there.
pub(crate) async fn look_redis(mount: &RedisMount, env: &Env) -> Finding {
    const CHECK: &str = "redis";
    let place = mount.server.0.to_string();
    let look = async {
        let options = RedisOptions { access: muxfs_redis::RedisAccess::Look, ..mount.options("doctor".into())? };
        RedisStore::open(options, env).await
    };
    match look.await {
        Ok(store) => Finding::ok(CHECK, &place, format!("it answers; what it acknowledges is {}", store.durability())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Finding::ok(CHECK, &place, "it answers, and nothing was put there yet")
        }
        Err(error) => {
            let advice = match error.kind() {
                ErrorKind::Unavailable => "see whether the server is right, and whether this machine reaches it",
                ErrorKind::Denied => "see to the user and the password, and to what they may do",
                _ => "mend what is said; nothing was changed",
            };
            Finding::error(CHECK, &place, format!("{error:#}"), advice)
        }
    }
}
