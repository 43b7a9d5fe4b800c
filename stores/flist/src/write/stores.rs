//! Where chunks are written to: directories, 0-db namespaces, buckets of S3, and what else keeps blocks; one or several, by id.
//!
//! A chunk goes to each of them that has ids like its own: to one where they share the ids, to all where they are replicas.
//! Each is asked first whether it has it. Spec: spec/flist.md #sources, #making.

use std::{fmt, fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use muxfs::{BlockKey, BlockStore, Error, ErrorKind, Result};
use muxfs_s3::{Bucket, S3Limits};
use muxfs_zstor::ZdbValues;
use tokio::time::timeout;

use super::dir_store::DirStore;
use crate::{
    address::{Address, SourceUrl, open_bucket},
    chunk::{Chunk, hex},
    metadata::Route,
};

/// How long a server may take for a chunk.
const STORE_TIME_MAX: Duration = Duration::from_secs(30);
const OP: &str = "flist.store";

/// Where chunks are written to.
#[derive(Debug, Default)]
pub struct Stores {
    all: Vec<Store>,
}

#[derive(Debug)]
struct Store {
    url: Option<SourceUrl>,
    keeps: Keeps,
}

#[derive(Debug)]
enum Keeps {
    Dir(Arc<DirStore>),
    Zdb(ZdbValues),
    S3(Bucket),
    Blocks(Arc<dyn BlockStore>),
}

impl Stores {
    /// Writes to what is at these addresses. Directories are made; of the others nobody is asked yet.
    ///
    /// # Errors
    /// `InvalidArgument` for an address that is only read; those of making a directory.
    pub fn open(urls: &[SourceUrl]) -> Result<Self> {
        let mut stores = Self::default();
        for url in urls {
            let keeps = match &url.address {
                Address::Dir(dir) => Keeps::Dir(Arc::new(DirStore::open(dir)?)),
                Address::Zdb { host, port, namespace, password } => {
                    Keeps::Zdb(ZdbValues::new(host, *port, namespace.clone(), password.clone()))
                }
                Address::S3 { place, who } => Keeps::S3(open_bucket(place, who, S3Limits::default())?),
                Address::Http(_) => {
                    let why = "chunks are written to dir://, zdb:// and s3:// alone";
                    return Err(Error::new(ErrorKind::InvalidArgument, OP).at(url).because(why));
                }
            };
            stores.all.push(Store { url: Some(url.clone()), keeps });
        }
        Ok(stores)
    }

    #[cfg(test)]
    pub(super) fn of_dir(dir: Arc<DirStore>) -> Self {
        Self { all: vec![Store { url: None, keeps: Keeps::Dir(dir) }] }
    }

    /// Writes to blocks too, each chunk under its id.
    #[must_use]
    pub fn with_blocks(mut self, blocks: Arc<dyn BlockStore>) -> Self {
        self.all.push(Store { url: None, keeps: Keeps::Blocks(blocks) });
        self
    }

    /// Sees to it that every chunk has a place.
    ///
    /// # Errors
    /// `InvalidArgument` where there is an id that none of them takes.
    pub(crate) fn check(&self) -> Result<()> {
        let lost = (0..=u8::MAX).find(|first| !self.all.iter().any(|store| store.has(&[*first])));
        lost.map_or(Ok(()), |first| {
            let why = format!("chunks whose ids begin with {first:02x} have no store");
            Err(Error::new(ErrorKind::InvalidArgument, OP).because(why))
        })
    }

    /// Refuses directories that are within one that is read: each chunk would be the bytes of others.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(super) fn check_not_in(&self, source: &Path) -> Result<()> {
        let Ok(source) = fs::canonicalize(source) else { return Ok(()) };
        for store in &self.all {
            if let Keeps::Dir(dir) = &store.keeps
                && fs::canonicalize(dir.path()).is_ok_and(|dir| dir.starts_with(&source))
            {
                let why =
                    format!("it is in {}, of which the flist is made: put the chunks elsewhere", source.display());
                return Err(Error::new(ErrorKind::InvalidArgument, OP).at(dir.path().display()).because(why));
            }
        }
        Ok(())
    }

    /// Where readers find what is written, as an flist says it: without passwords.
    pub fn routes(&self) -> Vec<Route> {
        self.all.iter().filter_map(|store| store.url.as_ref()).map(SourceUrl::route).collect()
    }

    /// Whether a store answers over a network, so that many chunks are to be under way.
    pub(super) fn is_remote(&self) -> bool {
        self.all.iter().any(|store| !matches!(store.keeps, Keeps::Dir(_)))
    }

    /// Stores a chunk wherever it belongs; whether it had to be written anywhere.
    pub(super) async fn put(&self, chunk: &Chunk, stored: &[u8]) -> Result<bool> {
        let mut is_new = false;
        for store in self.all.iter().filter(|store| store.has(chunk.id())) {
            is_new |=
                store.put(chunk.id(), stored).await.map_err(|error| error.at(format!("chunk {}", chunk.hex())))?;
        }
        Ok(is_new)
    }

    /// How often a sync of any of them has failed: who is to put chunks keeps it for [`Stores::flush`].
    pub(super) fn failure_count(&self) -> u64 {
        self.dirs().map(|dir| dir.failure_count()).sum()
    }

    fn dirs(&self) -> impl Iterator<Item = &Arc<DirStore>> {
        self.all.iter().filter_map(|store| match &store.keeps {
            Keeps::Dir(dir) => Some(dir),
            _ => None,
        })
    }

    /// Makes durable what was put since so many syncs had failed.
    ///
    /// # Errors
    /// What one failed with since then, whoever asked for it: what it did not write another does not, either.
    pub(super) async fn flush(&self, failure_count: u64) -> Result<()> {
        for store in &self.all {
            match &store.keeps {
                Keeps::Dir(dir) => {
                    let dir = dir.clone();
                    let synced = tokio::task::spawn_blocking(move || dir.sync()).await;
                    synced.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?;
                }
                Keeps::Zdb(_) | Keeps::S3(_) => {}
                Keeps::Blocks(blocks) => blocks.flush().await?,
            }
        }
        if self.failure_count() == failure_count {
            return Ok(());
        }
        Err(self.dirs().find_map(|dir| dir.failure()).unwrap_or_else(|| Error::new(ErrorKind::Internal, OP)))
    }
}

impl Store {
    fn has(&self, id: &[u8]) -> bool {
        self.url.as_ref().is_none_or(|url| url.has(id))
    }

    /// Stores a chunk that is not there; whether it was not.
    async fn put(&self, id: &[u8], stored: &[u8]) -> Result<bool> {
        match &self.keeps {
            Keeps::Dir(dir) => dir.put(id, stored),
            Keeps::Zdb(zdb) => {
                let asked = async {
                    if zdb.has(id).await? {
                        return Ok(false);
                    }
                    zdb.set(id, stored).await.map(|()| true)
                };
                in_time(zdb, asked).await
            }
            Keeps::S3(bucket) => {
                let name = hex(id);
                let asked = async {
                    if bucket.has(&name).await? {
                        return Ok(false);
                    }
                    bucket.put(&name, Bytes::copy_from_slice(stored)).await.map(|()| true)
                };
                in_time(bucket.place(), asked).await.map_err(|error| match &self.url {
                    Some(url) => url.told(error),
                    None => error,
                })
            }
            Keeps::Blocks(blocks) => {
                let key = BlockKey::new(id)?;
                if blocks.has(&key).await? {
                    return Ok(false);
                }
                blocks.put(&key, stored.to_vec().into()).await.map(|()| true)
            }
        }
    }
}

/// What a server answers, if it does in time.
async fn in_time<T>(server: impl fmt::Display, asked: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_elapsed| {
        let why = format!("no answer within {STORE_TIME_MAX:?}");
        Error::new(ErrorKind::Unavailable, OP).at(server).because(why)
    };
    timeout(STORE_TIME_MAX, asked).await.map_err(late).flatten()
}

/// Of what is made, as far as the umask lets it.
pub(super) fn mode(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}
