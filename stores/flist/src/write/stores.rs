//! Where chunks are written to: directories, 0-db namespaces, and what else keeps blocks; one or several, by id.
//!
//! A chunk goes to each of them that has ids like its own: to one where they share the ids, to all where they are replicas.
//! Each is asked first whether it has it. Spec: spec/flist.md #sources, #making.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use muxfs::{BlockKey, BlockStore, Error, ErrorKind, Result};
use muxfs_zstor::ZdbValues;
use tokio::time::timeout;

use super::arriving;
use crate::{
    chunk::{Chunk, hex},
    metadata::Route,
    source::{Address, SourceUrl},
};

/// How long a server may take for a chunk.
const STORE_TIME_MAX: Duration = Duration::from_secs(30);
/// After so many bytes a directory is synced while more is written, so that little is left to wait for at the end.
const SYNCED_EACH: u64 = 32 << 20;
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
    Blocks(Arc<dyn BlockStore>),
}

/// A directory, open from before anything is written, so that whatever fails to be written after that is told to who syncs it.
#[derive(Debug)]
struct DirStore {
    path: PathBuf,
    open: fs::File,
    /// What was written since a sync began, in bytes.
    unsynced: AtomicU64,
    /// What a sync failed with; locked while one is under way.
    failed: Mutex<Option<Error>>,
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
                Address::Http(_) => {
                    let why = "chunks are written to dir:// and zdb:// alone";
                    return Err(Error::new(ErrorKind::InvalidArgument, OP).at(url).because(why));
                }
            };
            stores.all.push(Store { url: Some(url.clone()), keeps });
        }
        Ok(stores)
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
                && fs::canonicalize(&dir.path).is_ok_and(|dir| dir.starts_with(&source))
            {
                let why =
                    format!("it is in {}, of which the flist is made: put the chunks elsewhere", source.display());
                return Err(Error::new(ErrorKind::InvalidArgument, OP).at(dir.path.display()).because(why));
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

    /// Makes durable what was put.
    pub(super) async fn flush(&self) -> Result<()> {
        for store in &self.all {
            match &store.keeps {
                Keeps::Dir(dir) => {
                    let dir = dir.clone();
                    let synced = tokio::task::spawn_blocking(move || dir.sync()).await;
                    synced.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))??;
                }
                Keeps::Zdb(_) => {}
                Keeps::Blocks(blocks) => blocks.flush().await?,
            }
        }
        Ok(())
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
                let late = |_elapsed| {
                    let why = format!("no answer within {STORE_TIME_MAX:?}");
                    Error::new(ErrorKind::Unavailable, OP).at(zdb).because(why)
                };
                timeout(STORE_TIME_MAX, asked).await.map_err(late).flatten()
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

fn failed(path: &Path, error: &io::Error) -> Error {
    super::io_failed(error).at(path.display())
}

/// Writes `HH/ID` of a directory, unless it or `ID` is there with these bytes: whole, or not at all. One of other bytes, as a loss of
/// power leaves, is replaced.
fn put_file(dir: &Path, id: &[u8], stored: &[u8]) -> Result<bool> {
    let digits = hex(id);
    let below = dir.join(digits.get(..2).unwrap_or_default());
    let path = below.join(&digits);
    if has_bytes(&path, stored) || has_bytes(&dir.join(&digits), stored) {
        return Ok(false);
    }
    let write = || {
        let mut file = arriving::begin(dir, arriving::CHUNK, &mode(0o644))?;
        file.write_all(stored)?;
        // On Linux the whole file system is synced at the end.
        if cfg!(not(target_os = "linux")) {
            file.as_file().sync_all()?;
        }
        match file.persist(&path) {
            Err(error) if error.error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&below)?;
                error.file.persist(&path)
            }
            other => other,
        }
        .map_err(|error| error.error)
    };
    write().map_err(|error| failed(&path, &error))?;
    Ok(true)
}

/// Whether a file has these bytes, and no others.
fn has_bytes(path: &Path, bytes: &[u8]) -> bool {
    let same = || -> io::Result<bool> {
        let mut file = fs::File::open(path)?;
        let about = file.metadata()?;
        if !about.is_file() || about.len() != bytes.len() as u64 {
            return Ok(false);
        }
        let (mut left, mut piece) = (bytes, [0; 16 << 10]);
        loop {
            let len = file.read(&mut piece)?;
            let read = piece.get(..len).unwrap_or_default();
            match left.strip_prefix(read) {
                Some([]) => return Ok(true),
                Some(rest) if len > 0 => left = rest,
                _ => return Ok(false),
            }
        }
    };
    same().unwrap_or(false)
}

/// Of what is made, as far as the umask lets it.
pub(super) fn mode(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

impl DirStore {
    fn open(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| failed(path, &error);
        fs::create_dir_all(path).map_err(failed)?;
        arriving::sweep(path, arriving::CHUNK);
        let open = fs::File::open(path).map_err(failed)?;
        Ok(Self { path: path.into(), open, unsynced: AtomicU64::new(0), failed: Mutex::default() })
    }

    /// Writes a chunk that is not there; whether it was not. After so many bytes the disk begins to write them.
    fn put(self: &Arc<Self>, id: &[u8], stored: &[u8]) -> Result<bool> {
        let is_new = put_file(&self.path, id, stored)?;
        let len = if is_new { stored.len() as u64 } else { 0 };
        if self.unsynced.fetch_add(len, Ordering::Relaxed) + len >= SYNCED_EACH
            && cfg!(target_os = "linux")
            && self.failed.try_lock().is_ok()
        {
            self.unsynced.store(0, Ordering::Relaxed);
            let this = self.clone();
            // What it fails with is told at the end.
            thread::spawn(move || drop(this.begin_sync()));
        }
        Ok(is_new)
    }

    fn begin_sync(&self) -> MutexGuard<'_, Option<Error>> {
        let mut already = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.sync_files() {
            already.get_or_insert(failed(&self.path, &error));
        }
        already
    }

    /// Makes durable what was put, here or by another program before.
    fn sync(&self) -> Result<()> {
        self.begin_sync().take().map_or(Ok(()), Err)
    }

    /// The whole file system: for thousands of chunks that is one wait, and not one for each.
    #[cfg(target_os = "linux")]
    fn sync_files(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.open)?)
    }

    /// The directories of files that were synced.
    #[cfg(not(target_os = "linux"))]
    fn sync_files(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::File::open(entry.path())?.sync_all()?;
            }
        }
        self.open.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a loss of power leaves of a chunk has its name and its length.
    #[test]
    fn a_chunk_of_other_bytes_is_written_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let (id, stored) = ([0xab; 32], vec![7; 100_000]);
        let path = dir.path().join("ab").join(hex(&id));
        assert!(put_file(dir.path(), &id, &stored).expect("put"));
        assert!(!put_file(dir.path(), &id, &stored).expect("it is there"));
        let mut last = stored.clone();
        *last.last_mut().expect("long") = 8;
        for other in [vec![0; stored.len()], last, Vec::new(), [&stored[..], b"x"].concat()] {
            fs::write(&path, &other).expect("written");
            assert!(put_file(dir.path(), &id, &stored).expect("put"), "{} bytes were believed", other.len());
            assert!(fs::read(&path).expect("read") == stored);
        }
        fs::rename(&path, dir.path().join(hex(&id))).expect("moved");
        assert!(!put_file(dir.path(), &id, &stored).expect("it is there, too"));
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2, "nothing is left on its way");
    }
}
