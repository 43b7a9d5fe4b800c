//! A directory as a store of chunks, each a file `HH/ID`.
//!
//! After a sync that failed the pages of what it was to write count as written, and read as if they were. So a chunk that is as
//! old as the last such failure, or older, is written again where it is put: also by another process, which finds the time of it
//! in a file of the directory. Whoever began before it is told, whoever asked for that sync. Spec: spec/flist.md #making.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::SystemTime,
};

use muxfs::{Error, ErrorKind, Result};

use super::{arriving, stores::mode};
use crate::chunk::hex;

/// After so many bytes a directory is synced while more is written, so that little is left to wait for at the end.
const SYNCED_EACH: u64 = 32 << 20;
/// The file whose time is that of the last sync that failed.
const FAILED: &str = ".chunks-failed";
const FAILED_TEXT: &str = "A sync of this directory failed when this was written. Chunks that are older are written again when they are put.\n";
const OP: &str = "flist.store";

/// A directory, open from before anything is written, so that whatever fails to be written after that is told to who syncs it.
#[derive(Debug)]
pub(super) struct DirStore {
    path: PathBuf,
    open: fs::File,
    /// What was written since a sync began, in bytes.
    unsynced: AtomicU64,
    /// Locked while a sync is under way.
    syncing: Mutex<()>,
    failures: Mutex<Failures>,
    /// Makes durable what is in a directory.
    sync_files: fn(&Path, &fs::File) -> io::Result<()>,
}

/// Syncs that failed.
#[derive(Debug, Default)]
struct Failures {
    /// Those since it was opened.
    count: u64,
    /// What the last one of these failed with.
    why: Option<(ErrorKind, String)>,
    /// When the last one was, of any process. Chunks of then and before may be in memory alone.
    last: Option<SystemTime>,
}

fn failed(path: &Path, error: &io::Error) -> Error {
    super::io_failed(error).at(path.display())
}

/// Writes `HH/ID` of a directory, unless it or `ID` is there with these bytes, written after a time: whole, or not at all. One of other
/// bytes, as a loss of power leaves, is replaced.
fn put_file(dir: &Path, id: &[u8], stored: &[u8], after: Option<SystemTime>) -> Result<bool> {
    let digits = hex(id);
    let below = dir.join(digits.get(..2).unwrap_or_default());
    let path = below.join(&digits);
    if has_bytes(&path, stored, after) || has_bytes(&dir.join(&digits), stored, after) {
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

/// Whether a file has these bytes, and no others, and was written after a time.
fn has_bytes(path: &Path, bytes: &[u8], after: Option<SystemTime>) -> bool {
    let same = || -> io::Result<bool> {
        let mut file = fs::File::open(path)?;
        let about = file.metadata()?;
        if !about.is_file() || about.len() != bytes.len() as u64 {
            return Ok(false);
        }
        if let Some(after) = after
            && about.modified()? <= after
        {
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

impl DirStore {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| failed(path, &error);
        fs::create_dir_all(path).map_err(failed)?;
        arriving::sweep(path, arriving::CHUNK);
        let open = fs::File::open(path).map_err(failed)?;
        // After the directory was opened: what failed before that is told by this, what fails afterwards by a sync.
        let last = match fs::metadata(path.join(FAILED)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            about => Some(about.and_then(|about| about.modified()).map_err(failed)?),
        };
        Ok(Self {
            path: path.into(),
            open,
            unsynced: AtomicU64::new(0),
            syncing: Mutex::default(),
            failures: Mutex::new(Failures { last, ..Failures::default() }),
            sync_files,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many syncs failed since it was opened.
    pub(super) fn failure_count(&self) -> u64 {
        self.failures().count
    }

    /// What the last one of these failed with.
    pub(super) fn failure(&self) -> Option<Error> {
        let failures = self.failures();
        failures.why.as_ref().map(|(kind, why)| Error::new(*kind, OP).at(self.path.display()).because(why.clone()))
    }

    /// Writes a chunk that is not there; whether it was not. After so many bytes the disk begins to write them.
    pub(super) fn put(self: &Arc<Self>, id: &[u8], stored: &[u8]) -> Result<bool> {
        let after = self.failures().last;
        let is_new = put_file(&self.path, id, stored, after)?;
        let len = if is_new { stored.len() as u64 } else { 0 };
        if self.unsynced.fetch_add(len, Ordering::Relaxed) + len >= SYNCED_EACH
            && cfg!(target_os = "linux")
            && self.syncing.try_lock().is_ok()
        {
            self.unsynced.store(0, Ordering::Relaxed);
            let this = self.clone();
            // What it fails with is told at the end.
            thread::spawn(move || this.sync());
        }
        Ok(is_new)
    }

    /// Makes durable what was put, here or by another program before; where that fails, it is counted.
    pub(super) fn sync(&self) {
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(error) = (self.sync_files)(&self.path, &self.open) else { return };
        let note = self.path.join(FAILED);
        let noted = fs::write(&note, FAILED_TEXT).and_then(|()| fs::metadata(&note)?.modified());
        if let Err(error) = &noted {
            tracing::warn!(path = %note.display(), %error, "what a failed sync left is known to this process alone");
        }
        let mut failures = self.failures();
        failures.count += 1;
        failures.why = Some((super::io_failed(&error).kind(), error.to_string()));
        failures.last = Some(noted.unwrap_or_else(|_| SystemTime::now()));
    }
}

/// The whole file system: for thousands of chunks that is one wait, and not one for each.
#[cfg(target_os = "linux")]
fn sync_files(_: &Path, open: &fs::File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(open)?)
}

/// The directories of files that were synced.
#[cfg(not(target_os = "linux"))]
fn sync_files(path: &Path, open: &fs::File) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    open.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::{self, CreateOptions, Source, Stores};

    /// What a loss of power leaves of a chunk has its name and its length.
    #[test]
    fn a_chunk_of_other_bytes_is_written_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let (id, stored) = ([0xab; 32], vec![7; 100_000]);
        let path = dir.path().join("ab").join(hex(&id));
        assert!(put_file(dir.path(), &id, &stored, None).expect("put"));
        assert!(!put_file(dir.path(), &id, &stored, None).expect("it is there"));
        let mut last = stored.clone();
        *last.last_mut().expect("long") = 8;
        for other in [vec![0; stored.len()], last, Vec::new(), [&stored[..], b"x"].concat()] {
            fs::write(&path, &other).expect("written");
            assert!(put_file(dir.path(), &id, &stored, None).expect("put"), "{} bytes were believed", other.len());
            assert!(fs::read(&path).expect("read") == stored);
        }
        fs::rename(&path, dir.path().join(hex(&id))).expect("moved");
        assert!(!put_file(dir.path(), &id, &stored, None).expect("it is there, too"));
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2, "nothing is left on its way");
    }

    fn fails(_: &Path, _: &fs::File) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    /// The pages of what a sync did not write count as written: an flist was made of chunks that the second try found in memory, and
    /// the disk had not.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_sync_did_not_write_is_written_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let (source, chunks, target) = (dir.path().join("source"), dir.path().join("chunks"), dir.path().join("a.fl"));
        fs::create_dir(&source).expect("made");
        for number in 0..3 {
            fs::write(source.join(number.to_string()), [number; 1000]).expect("written");
        }
        let stores = |store: DirStore| Arc::new(Stores::of_dir(Arc::new(store)));
        let make = |stores: &Arc<Stores>| {
            write::create(Source::Dir(source.clone()), stores.clone(), &target, CreateOptions::default())
        };
        let mut open = DirStore::open(&chunks).expect("opened");
        open.sync_files = fails;
        let stores_failing = stores(open);
        for _ in 0..2 {
            let error = make(&stores_failing).await.expect_err("it is not durable");
            assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:#}");
            assert!(!target.exists(), "an flist without chunks");
        }
        // By the process that it failed in, and by another.
        let again = make(&stores_failing).await;
        drop(again.expect_err("it fails again"));
        let others = stores(DirStore::open(&chunks).expect("opened"));
        assert_eq!(make(&others).await.expect("made").chunks_stored, 3, "what is in memory alone was believed");
        // As if that had been a while ago: what was written since is there.
        let note = fs::File::options().write(true).open(chunks.join(FAILED)).expect("it is told");
        note.set_modified(SystemTime::UNIX_EPOCH).expect("set");
        let others = stores(DirStore::open(&chunks).expect("opened"));
        assert_eq!(make(&others).await.expect("made").chunks_stored, 0);
    }

    /// Several may be at it, and one sync is that of all.
    #[test]
    fn a_failure_is_told_to_all_who_began_before_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut open = DirStore::open(dir.path()).expect("opened");
        let (id, stored) = ([0xab; 32], [7; 100]);
        open.sync_files = fails;
        let mut open = Arc::new(open);
        assert!(open.put(&id, &stored).expect("put"));
        assert!(!open.put(&id, &stored).expect("it is there"));
        let before = open.failure_count();
        open.sync();
        assert!(open.put(&id, &stored).expect("it is written again"));
        Arc::get_mut(&mut open).expect("nobody else has it").sync_files = sync_files;
        open.sync();
        assert_eq!(open.failure_count(), before + 1, "whoever began before it is told, and nobody else");
        assert_eq!(open.failure().expect("told").kind(), ErrorKind::NoSpace);
    }
}
