//! Where namespaces live: a media for the list of them, and two for each.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use muxfs::{
    Error, ErrorKind, Result,
    media::{Media, MemMedia},
};
use muxfs_local::FileMedia;

/// Which media of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The records.
    Data,
    /// What is derived from them.
    Index,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Index => "index",
        }
    }
}

/// Where namespaces live. One engine at a time: whoever gives the media sees to it.
#[async_trait]
pub trait Home: Debug + Send + Sync + 'static {
    /// The media of the list of namespaces.
    ///
    /// # Errors
    /// `Unavailable` while another engine has it; and the environment's.
    async fn registry(&self) -> Result<Arc<dyn Media>>;

    /// A media of the namespace with this number, made if there is none. Not asked for again before it was dropped.
    ///
    /// # Errors
    /// The environment's.
    async fn media(&self, number: u64, part: Part) -> Result<Arc<dyn Media>>;

    /// The numbers of which there is something, ascending.
    ///
    /// # Errors
    /// The environment's.
    async fn numbers(&self) -> Result<Vec<u64>>;

    /// Removes all media of a number, which nobody uses any more. Idempotent.
    ///
    /// # Errors
    /// The environment's.
    async fn remove(&self, number: u64) -> Result<()>;

    /// How many bytes may still be written, as it was a moment ago; `None` where nobody knows. Asked for by every set.
    fn free_len(&self) -> Option<u64>;

    /// The path of a media, for people; empty where it has none.
    fn path(&self, number: u64, part: Part) -> String;
}

/// Namespaces in a directory: the list in `namespaces`, each in a directory of its number, with `data` and `index` in it.
///
/// One process at a time: the list is locked until the engine is dropped.
pub struct DirHome {
    path: PathBuf,
    /// What the disk said last, and when.
    free: Mutex<Option<(Instant, Option<u64>)>>,
}

impl Debug for DirHome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirHome({})", self.path.display())
    }
}

/// What was dropped a moment ago may still be written back: so often it is tried again to open it, and so long apart.
const OPEN_TRIES: u32 = 50;
const OPEN_WAIT: Duration = Duration::from_millis(20);

/// What a disk says of its room counts so long: less is written meanwhile than an engine leaves free, and a set costs no call
/// of the system.
const FREE_TIME: Duration = Duration::from_millis(10);

impl DirHome {
    /// A home in this directory, made with mode 0700 if there is none: passwords of namespaces are in it, in clear.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use muxfs_zdb::{DirHome, Engine, EngineOptions};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> muxfs::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let home = DirHome::open(&dir.path().join("node"))?;
    /// let engine = Engine::open(Arc::new(home), EngineOptions::new(&muxfs::testing::env())).await?;
    /// engine.close().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Denied`, `NoSpace`, `ReadOnly`, `Io`. That another process has it is told by [`Engine::open`](crate::Engine::open).
    pub fn open(path: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| io_error(path, error))?;
        Ok(Self { path: path.into(), free: Mutex::default() })
    }

    fn dir(&self, number: u64, part: Part) -> PathBuf {
        self.path.join(number.to_string()).join(part.name())
    }
}

#[async_trait]
impl Home for DirHome {
    async fn registry(&self) -> Result<Arc<dyn Media>> {
        let dir = self.path.join("namespaces");
        match open_media(|| FileMedia::open(&dir)).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(Error::new(ErrorKind::Unavailable, "zdb.open")
                .at(self.path.display())
                .because("another process serves this directory: stop it first, or choose another directory")),
            opened => opened,
        }
    }

    async fn media(&self, number: u64, part: Part) -> Result<Arc<dyn Media>> {
        let dir = self.dir(number, part);
        match part {
            Part::Data => open_media(|| FileMedia::open_ahead(&dir)).await,
            Part::Index => open_media(|| FileMedia::open(&dir)).await,
        }
    }

    async fn numbers(&self) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|error| io_error(&self.path, error))? {
            let entry = entry.map_err(|error| io_error(&self.path, error))?;
            // Nothing of another name is ours.
            let number =
                entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok().filter(|n| n.to_string() == name));
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    async fn remove(&self, number: u64) -> Result<()> {
        let path = self.path.join(number.to_string());
        let removed = tokio::task::spawn_blocking(move || match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&path, error)),
            _ => Ok(()),
        });
        removed.await.map_err(|stopped| Error::new(ErrorKind::Unavailable, "zdb.remove").because(stopped))?
    }

    fn free_len(&self) -> Option<u64> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        match *free {
            Some((asked, len)) if asked.elapsed() < FREE_TIME => len,
            _ => {
                let stat = rustix::fs::statvfs(&self.path).ok();
                let len = stat.and_then(|stat| stat.f_bavail.checked_mul(stat.f_frsize));
                *free = Some((Instant::now(), len));
                len
            }
        }
    }

    fn path(&self, number: u64, part: Part) -> String {
        self.dir(number, part).display().to_string()
    }
}

/// Opens a media, which may still be locked by what goes on in the background of one that was dropped.
async fn open_media(open: impl Fn() -> Result<FileMedia> + Send) -> Result<Arc<dyn Media>> {
    let mut tries = 0;
    loop {
        match open() {
            Err(error) if error.kind() == ErrorKind::Unavailable && tries < OPEN_TRIES => {
                tries += 1;
                tokio::time::sleep(OPEN_WAIT).await;
            }
            opened => return Ok(Arc::new(opened?)),
        }
    }
}

fn io_error(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Io,
    };
    Error::new(kind, "zdb.home").at(path.display()).because(error)
}

/// Namespaces in memory, for tests.
#[derive(Debug, Default)]
pub struct MemHome {
    medias: Mutex<BTreeMap<(u64, Part), Arc<MemMedia>>>,
    registry: Arc<MemMedia>,
}

#[async_trait]
impl Home for MemHome {
    async fn registry(&self) -> Result<Arc<dyn Media>> {
        Ok(Arc::clone(&self.registry) as Arc<dyn Media>)
    }

    async fn media(&self, number: u64, part: Part) -> Result<Arc<dyn Media>> {
        let mut medias = self.medias.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(medias.entry((number, part)).or_default()) as Arc<dyn Media>)
    }

    async fn numbers(&self) -> Result<Vec<u64>> {
        let medias = self.medias.lock().unwrap_or_else(PoisonError::into_inner);
        let mut numbers: Vec<u64> = medias.keys().map(|(number, _)| *number).collect();
        numbers.dedup();
        Ok(numbers)
    }

    async fn remove(&self, number: u64) -> Result<()> {
        let mut medias = self.medias.lock().unwrap_or_else(PoisonError::into_inner);
        medias.retain(|(of, _), _| *of != number);
        Ok(())
    }

    fn free_len(&self) -> Option<u64> {
        None
    }

    fn path(&self, _number: u64, _part: Part) -> String {
        String::new()
    }
}
