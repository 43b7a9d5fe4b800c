//! Where chunks are written to: directories, 0-db namespaces, and what else keeps blocks; one or several, by id.
//!
//! A chunk goes to each of them that has ids like its own: to one where they share the ids, to all where they are replicas.
//! Each is asked first whether it has it. Spec: spec/flist.md #sources, #making.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
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
    Dir(PathBuf),
    Zdb(ZdbValues),
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
                Address::Dir(dir) => {
                    fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
                    arriving::sweep(dir, arriving::CHUNK);
                    Keeps::Dir(dir.clone())
                }
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
                && fs::canonicalize(dir).is_ok_and(|dir| dir.starts_with(&source))
            {
                let why =
                    format!("it is in {}, of which the flist is made: put the chunks elsewhere", source.display());
                return Err(Error::new(ErrorKind::InvalidArgument, OP).at(dir.display()).because(why));
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
                    let synced = tokio::task::spawn_blocking(move || sync(&dir)).await;
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
            Keeps::Dir(dir) => put_file(dir, id, stored),
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
        // Linux syncs the whole file system at the end.
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

/// All that was written to a file system, by others too: for thousands of chunks that is one wait, and not one for each.
#[cfg(target_os = "linux")]
fn sync(dir: &Path) -> Result<()> {
    let synced = fs::File::open(dir).and_then(|open| rustix::fs::syncfs(&open).map_err(io::Error::from));
    synced.map_err(|error| failed(dir, &error))
}

/// The directories whose files are synced.
#[cfg(not(target_os = "linux"))]
fn sync(dir: &Path) -> Result<()> {
    let synced = (|| {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::File::open(entry.path())?.sync_all()?;
            }
        }
        fs::File::open(dir)?.sync_all()
    })();
    synced.map_err(|error| failed(dir, &error))
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
