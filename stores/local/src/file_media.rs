//! `Media` on files: a directory with one file per segment.
//!
//! The place on disk of every log we keep. A file is only written at its known end, with positioned writes; a sync is
//! `fdatasync` and, for a file that is new, `fsync` of the directory as well, so that its name survives too. Reads of
//! what the page cache holds are done where they are asked for, since they cost less than a change of thread; all else
//! goes to the blocking pool. Spec: spec/media.md.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, Result,
    media::{Durable, Media, Segment, SegmentId},
};
use rustix::{fs::FlockOperation, io::Errno};

use crate::buffers::{AROUND_LEN, Buffers, CHUNK_LEN, Class};

/// How many files stay open between calls: a store of any size must not use up the process's descriptors.
const FILES_OPEN_MAX: usize = 64;

/// Longer reads go to the blocking pool even if the page cache holds them: copying takes longer than the way there.
#[cfg(target_os = "linux")]
const INLINE_READ_LEN_MAX: usize = HALF.len;

/// Reads of about a chunk, a half and a quarter of one, which is what shards of it are, take buffers that were used before;
/// what is read is kept for a while, so not those that would leave much of it idle. 16 MiB wait for their next use at most.
const POOLED: [Class; 3] = [QUARTER, HALF, Class { len_min: 768 << 10, len: CHUNK_LEN, count_max: 8 }];
const QUARTER: Class = Class { len_min: 192 << 10, len: (256 << 10) + AROUND_LEN, count_max: 16 };
const HALF: Class = Class { len_min: 384 << 10, len: (512 << 10) + AROUND_LEN, count_max: 8 };

/// Where a process before this one may have left what it could not sync: in the segment it appended to last, and in the one
/// whose end it was about to make durable.
#[cfg(target_os = "linux")]
const NEWEST_COUNT: usize = 2;

/// How many parts one `pwritev` takes; the least that systems allow (`IOV_MAX`).
const PARTS_PER_WRITE: usize = 1024;

/// A [`Media`] in a directory: segment `n` is the file `n` as 16 hexadecimal digits and `.seg`.
///
/// Other files in the directory are left alone. One owner at a time, in this process and in others: the directory is
/// locked until the media is dropped and the last of its work in the background has ended.
pub struct FileMedia {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    /// Whether zeros are written ahead.
    ahead: bool,
    /// The directory, locked for as long as it is open.
    _lease: File,
    buffers: Buffers,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    segments: BTreeMap<SegmentId, Arc<Slot>>,
    /// The open files, most recently used last.
    open: VecDeque<(SegmentId, Arc<File>)>,
}

/// What is known about a segment.
#[derive(Default)]
struct Slot {
    /// Where it ends: moved when an append is complete, so that readers wait for no appender.
    len: AtomicU64,
    tail: Mutex<Tail>,
    /// Held while the file is synced. The system tells of what it could not write once: of two syncs at the same time
    /// only one would hear of it.
    syncing: Mutex<()>,
}

/// Locked by whoever appends.
#[derive(Default)]
struct Tail {
    /// Whether the directory entry is known to be durable.
    named: bool,
    /// Where it ended when it was synced last, by us.
    synced: u64,
    /// Where the zeros end that stand behind it; not behind `len` if there are none.
    zeros_end: u64,
    /// How many are written the next time.
    zeros_len: ZerosLen,
    /// How much was appended since it was last written back.
    unwritten_len: u64,
    /// Whether it is being written back.
    writing: bool,
    /// Why nothing more is appended or synced.
    failed: Option<String>,
}

/// After so much the disk is set to work without being asked, so that a later sync finds little left to do. Much more
/// than a sync costs, much less than a kernel lets gather by itself.
const WRITE_BACK_LEN: u64 = 16 << 20;

/// Syncs of no more than this at a time are made quicker by zeros ahead; more at a time takes longer than what they save.
const SMALL_LEN: u64 = 128 * 1024;
/// So many zeros are written ahead at first, and at most: a journal of little stays short, and one that is much used
/// grows in one of some hundred syncs.
const ZEROS_LEN_MIN: u64 = 64 * 1024;
const ZEROS_LEN_MAX: u64 = 1 << 20;

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// How many zeros are written ahead; 0 where the disk took none.
struct ZerosLen(u64);

impl Default for ZerosLen {
    fn default() -> Self {
        Self(ZEROS_LEN_MIN)
    }
}

impl FileMedia {
    /// Opens the directory, and makes it if there is none.
    ///
    /// ```
    /// use muxfs::media::{Media, SegmentId};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let media = muxfs_local::FileMedia::open(dir.path())?;
    /// media.append(SegmentId(0), "hello".into()).await?;
    /// media.sync(SegmentId(0)).await?;
    /// assert_eq!(media.read_at(SegmentId(0), 1, 3).await?, "ell");
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Unavailable` while another owner has the directory; `Denied`, `NoSpace`, `ReadOnly`, `Io`. All with the path.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir.as_ref(), false)
    }

    /// As `open`, for a log that is synced often, a little at a time: a sync that makes no file longer costs a disk less.
    ///
    /// Behind the segment that is appended to, zeros are written, at most 1 MiB and only while there is room. They are no
    /// part of it and go when the next segment begins or the media is dropped. After a crash they are at its end, as what
    /// a torn append leaves may be: for owners that know where what they wrote ends.
    ///
    /// ```
    /// use muxfs::media::{Media, SegmentId};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let media = muxfs_local::FileMedia::open_ahead(dir.path())?;
    /// assert_eq!(media.append(SegmentId(0), "hello".into()).await?, 0);
    /// media.sync(SegmentId(0)).await?;
    /// assert_eq!(media.segments().await?[0].len, 5);
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As `open`.
    pub fn open_ahead(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir.as_ref(), true)
    }

    fn open_with(dir: &Path, ahead: bool) -> Result<Self> {
        const OP: &str = "file_media.open";
        let dir = dir.to_path_buf();
        make_dir(&dir).map_err(|error| io_error(OP, &dir, error))?;
        let lease = lease(&dir)?;
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(|error| io_error(OP, &dir, error))? {
            let entry = entry.map_err(|error| io_error(OP, &dir, error))?;
            let Some(id) = entry.file_name().to_str().and_then(segment_of) else { continue };
            let len = entry.metadata().map_err(|error| io_error(OP, &entry.path(), error))?.len();
            segments.insert(id, Arc::new(Slot { len: len.into(), ..Slot::default() }));
        }
        let state = Mutex::new(State { segments, open: VecDeque::new() });
        let buffers = Buffers::new(&POOLED);
        let inner = Inner { dir, ahead, _lease: lease, buffers, state };
        #[cfg(target_os = "linux")]
        inner.forget_cached();
        Ok(Self { inner: Arc::new(inner) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        op: &'static str,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(stopped) => Err(Error::new(ErrorKind::Unavailable, op).at(self.inner.dir.display()).because(stopped)),
        }
    }
}

impl fmt::Debug for FileMedia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileMedia({})", self.inner.dir.display())
    }
}

#[async_trait]
impl Media for FileMedia {
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        self.append_vectored(segment, vec![bytes]).await
    }

    async fn append_vectored(&self, segment: SegmentId, parts: Vec<Bytes>) -> Result<u64> {
        let (offset, write_back) =
            self.blocking("file_media.append", move |inner| inner.append(segment, &parts)).await?;
        if write_back {
            let inner = Arc::clone(&self.inner);
            // Nobody waits: a failure is kept, for the next append or sync to tell.
            drop(tokio::task::spawn_blocking(move || inner.write_back(segment)));
        }
        Ok(offset)
    }

    async fn sync(&self, segment: SegmentId) -> Result<()> {
        self.blocking("file_media.sync", move |inner| inner.sync(segment)).await
    }

    async fn append_durable(&self, segment: SegmentId, parts: Vec<Bytes>, mark: Bytes) -> Result<Durable> {
        self.blocking("file_media.append", move |inner| inner.append_durable(segment, &parts, &mark)).await
    }

    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        #[cfg(target_os = "linux")]
        if len as usize <= INLINE_READ_LEN_MAX
            && let Some(bytes) = self.inner.read_cached(segment, offset, len)
        {
            return Ok(bytes);
        }
        self.blocking("file_media.read_at", move |inner| inner.read_at(segment, offset, len)).await
    }

    async fn segments(&self) -> Result<Vec<Segment>> {
        let state = self.inner.lock();
        Ok(state.segments.iter().map(|(id, slot)| Segment { id: *id, len: slot.len.load(Ordering::Acquire) }).collect())
    }

    async fn remove(&self, segment: SegmentId) -> Result<()> {
        self.blocking("file_media.remove", move |inner| inner.remove(segment)).await
    }
}

impl Inner {
    /// Where the parts begin, and whether it is time to write back.
    fn append(&self, segment: SegmentId, parts: &[Bytes]) -> Result<(u64, bool)> {
        const OP: &str = "file_media.append";
        let path = self.path(segment);
        let file = self.file(segment, true).map_err(|error| io_error(OP, &path, error))?;
        let slot = Arc::clone(self.lock().segments.entry(segment).or_default());
        if slot.len.load(Ordering::Acquire) == 0 {
            self.drop_zeros(|other| other != segment);
        }
        let mut tail = lock(&slot.tail);
        tail.usable(OP, &path)?;
        let offset = slot.len.load(Ordering::Acquire);
        match write_all_at(&file, parts, offset) {
            Ok(()) => {
                let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
                slot.len.store(offset + len, Ordering::Release);
                tail.unwritten_len += len;
                let write_back = tail.unwritten_len >= WRITE_BACK_LEN && !tail.writing;
                tail.writing |= write_back;
                Ok((offset, write_back))
            }
            Err(error) => {
                // A later, shorter append must not leave the rest of this one behind it as if it had been appended.
                tail.zeros_end = 0;
                if let Err(second) = file.set_len(offset) {
                    tail.failed = Some(format!("a part of a failed append could not be cut off: {second}"));
                }
                Err(io_error(OP, &path, error))
            }
        }
    }

    fn append_durable(&self, segment: SegmentId, parts: &[Bytes], mark: &Bytes) -> Result<Durable> {
        let (offset, mut write_back) = self.append(segment, parts)?;
        let synced = self.sync(segment);
        let marked = synced.as_ref().ok().and_then(|()| self.append(segment, std::slice::from_ref(mark)).ok());
        write_back |= marked.is_some_and(|(_, write_back)| write_back);
        if write_back && let Ok(slot) = self.slot("file_media.write_back", segment) {
            // It has just been written.
            lock(&slot.tail).writing = false;
        }
        Ok(Durable { offset, synced, is_marked: marked.is_some() })
    }

    fn write_back(&self, segment: SegmentId) {
        let Ok(slot) = self.slot("file_media.write_back", segment) else { return };
        if let Err(error) = self.sync(segment)
            // One that was removed meanwhile needs no sync.
            && self.slot("file_media.write_back", segment).is_ok()
        {
            tracing::warn!(error = %format_args!("{error:#}"), "segments could not be written back");
        }
        lock(&slot.tail).writing = false;
    }

    fn sync(&self, segment: SegmentId) -> Result<()> {
        const OP: &str = "file_media.sync";
        let path = self.path(segment);
        let slot = self.slot(OP, segment)?;
        let _turn = lock(&slot.syncing);
        let file = self.file(segment, false);
        let (named, end) = {
            let mut tail = lock(&slot.tail);
            tail.usable(OP, &path)?;
            tail.unwritten_len = 0;
            let end = slot.len.load(Ordering::Acquire);
            if self.ahead
                && let Ok(file) = &file
            {
                tail.write_zeros(file, end);
            }
            (tail.named, end)
        };
        let synced =
            file.and_then(|file| file.sync_data()).and_then(|()| if named { Ok(()) } else { sync_dir(&self.dir) });
        let mut tail = lock(&slot.tail);
        match synced {
            Ok(()) => {
                tail.named = true;
                tail.synced = end;
                Ok(())
            }
            Err(error) => {
                // The kernel may have dropped what it could not write: asking again would lie.
                tail.failed = Some(format!("a sync failed: {error}"));
                Err(io_error(OP, &path, error))
            }
        }
    }

    /// Cuts off the zeros behind segments that are not appended to any more.
    fn drop_zeros(&self, which: impl Fn(SegmentId) -> bool) {
        if !self.ahead {
            return;
        }
        let slots: Vec<_> = self.lock().segments.iter().map(|(id, slot)| (*id, Arc::clone(slot))).collect();
        for (segment, slot) in slots.into_iter().filter(|(id, _)| which(*id)) {
            let mut tail = lock(&slot.tail);
            let end = slot.len.load(Ordering::Acquire);
            // Left there they do no harm.
            if tail.zeros_end > end && self.file(segment, false).is_ok_and(|file| file.set_len(end).is_ok()) {
                tail.zeros_end = 0;
            }
        }
    }

    /// Lets the system forget what it holds of the newest segments and need not write any more: what a failed sync of a
    /// process before this one could not write is called clean and shown until it is forgotten, and is not on the disk.
    #[cfg(target_os = "linux")]
    fn forget_cached(&self) {
        // Numbers of 2^63 and more are of copies, which come and go beside those that they are of.
        let of = |copies: bool| {
            let state = self.lock();
            let such = state.segments.keys().rev().filter(|segment| (segment.0 >> 63 == 1) == copies);
            such.take(NEWEST_COUNT).copied().collect::<Vec<_>>()
        };
        for segment in [of(false), of(true)].concat() {
            let Ok(file) = File::open(self.path(segment)) else { continue };
            // Where it does not help it does not harm.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }

    /// The bytes if the page cache holds them all; anything else is left to `read_at`, which also finds the error.
    #[cfg(target_os = "linux")]
    fn read_cached(&self, segment: SegmentId, offset: u64, len: u32) -> Option<Bytes> {
        use rustix::io::{ReadWriteFlags, preadv2};

        let end = self.lock().segments.get(&segment)?.len.load(Ordering::Acquire);
        let len = usize::try_from(end.saturating_sub(offset).min(u64::from(len))).ok()?;
        let file = self.cached(segment)?;
        let mut buffer = self.buffers.take(len);
        let wanted = buffer.get_mut(..len)?;
        let read = preadv2(&file, &mut [io::IoSliceMut::new(wanted)], offset, ReadWriteFlags::NOWAIT).ok();
        // A buffer that is not given on goes back.
        let bytes = self.buffers.give(buffer, len);
        (read == Some(len)).then_some(bytes)
    }

    fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        const OP: &str = "file_media.read_at";
        let end = self.slot(OP, segment)?.len.load(Ordering::Acquire);
        let Ok(len) = usize::try_from(end.saturating_sub(offset).min(u64::from(len))) else {
            return Err(Error::new(ErrorKind::TooLarge, OP));
        };
        let mut buffer = self.buffers.take(len);
        let wanted = buffer.get_mut(..len).unwrap_or_default();
        self.file(segment, false)
            .and_then(|file| file.read_exact_at(wanted, offset))
            .map_err(|error| io_error(OP, &self.path(segment), error))?;
        Ok(self.buffers.give(buffer, len))
    }

    fn remove(&self, segment: SegmentId) -> Result<()> {
        const OP: &str = "file_media.remove";
        let path = self.path(segment);
        let _closed = {
            let mut state = self.lock();
            state.segments.remove(&segment);
            let at = state.open.iter().position(|(id, _)| *id == segment);
            at.and_then(|at| state.open.remove(at))
        };
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(&self.dir).map_err(|error| io_error(OP, &self.dir, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error(OP, &path, error)),
        }
    }

    fn slot(&self, op: &'static str, segment: SegmentId) -> Result<Arc<Slot>> {
        let slot = self.lock().segments.get(&segment).cloned();
        slot.ok_or_else(|| Error::new(ErrorKind::NotFound, op).at(self.path(segment).display()))
    }

    fn cached(&self, segment: SegmentId) -> Option<Arc<File>> {
        let mut state = self.lock();
        let index = state.open.iter().rposition(|(id, _)| *id == segment)?;
        if index + 1 == state.open.len() {
            return state.open.back().map(|(_, file)| Arc::clone(file));
        }
        let entry = state.open.remove(index)?;
        let file = Arc::clone(&entry.1);
        state.open.push_back(entry);
        Some(file)
    }

    fn file(&self, segment: SegmentId, create: bool) -> io::Result<Arc<File>> {
        if let Some(file) = self.cached(segment) {
            return Ok(file);
        }
        let path = self.path(segment);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create);
        let file = Arc::new(match options.open(&path) {
            // A store on a read-only disk can still be read.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(&path)?,
            opened => opened?,
        });
        // Closed without the lock: who reads from memory waits for no disk.
        let _closed = {
            let mut state = self.lock();
            let closed = (state.open.len() >= FILES_OPEN_MAX).then(|| state.open.pop_front());
            state.open.push_back((segment, Arc::clone(&file)));
            closed
        };
        Ok(file)
    }

    fn path(&self, segment: SegmentId) -> PathBuf {
        self.dir.join(format!("{:016x}.seg", segment.0))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.drop_zeros(|_| true);
    }
}

impl Tail {
    /// Writes zeros behind `end` where few are left, for the next syncs to find the file as long as they need it; they
    /// become durable together with what is synced now.
    ///
    /// Not in the first sync: who looks at the length tells a segment that was torn at birth from one that was durable.
    fn write_zeros(&mut self, file: &File, end: u64) {
        let ZerosLen(len) = self.zeros_len;
        if self.synced == 0 || end - self.synced > SMALL_LEN || self.zeros_end.saturating_sub(end) > len / 8 {
            return;
        }
        let mut at = self.zeros_end.max(end);
        let wanted = end + len;
        while at < wanted {
            let count = ZEROS.len().min(usize::try_from(wanted - at).unwrap_or(ZEROS.len()));
            if file.write_all_at(&ZEROS[..count], at).is_err() {
                // The disk is full, or nearly so: what is left of it is for what has to be kept.
                self.zeros_len = ZerosLen(0);
                self.zeros_end = if file.set_len(end).is_ok() { 0 } else { wanted };
                return;
            }
            at += count as u64;
        }
        self.zeros_end = wanted;
        self.zeros_len = ZerosLen((len * 2).min(ZEROS_LEN_MAX));
    }

    fn usable(&self, op: &'static str, path: &Path) -> Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(why) => Err(Error::new(ErrorKind::Io, op).at(path.display()).because(why.clone())),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard changes in single steps, so a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn segment_of(name: &str) -> Option<SegmentId> {
    let digits = name.strip_suffix(".seg")?;
    let well_formed = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    well_formed.then(|| u64::from_str_radix(digits, 16).ok())?.map(SegmentId)
}

/// Makes a directory and those above it, each durably.
fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_dir(parent)?;
    match fs::create_dir(dir) {
        // Made by another at the same time; what is no directory is met when it is read.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_dir(parent),
    }
}

/// Locks a directory; whoever has it open already is another owner, in this process too.
fn lease(dir: &Path) -> Result<File> {
    const OP: &str = "file_media.open";
    let file = File::open(dir).map_err(|error| io_error(OP, dir, error))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(Error::new(ErrorKind::Unavailable, OP).at(dir.display()).because(
            "these segments are in use: by another process, or by a store in this one that is still open or was not closed",
        )),
        Err(error) => Err(io_error(OP, dir, error.into())),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn write_all_at(file: &File, parts: &[Bytes], mut offset: u64) -> io::Result<()> {
    for group in parts.chunks(PARTS_PER_WRITE) {
        let slices: Vec<_> = group.iter().map(|part| IoSlice::new(part)).collect();
        let mut written = match rustix::io::pwritev(file, &slices, offset) {
            Ok(written) => written,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        // What the system left over, part by part.
        for part in group {
            let done = written.min(part.len());
            written -= done;
            file.write_all_at(&part[done..], offset + done as u64)?;
            offset += part.len() as u64;
        }
    }
    Ok(())
}

fn io_error(op: &'static str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        io::ErrorKind::QuotaExceeded => ErrorKind::Quota,
        io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        io::ErrorKind::FileTooLarge => ErrorKind::TooLarge,
        _ => ErrorKind::Io,
    };
    Error::new(kind, op).at(path.display()).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn subject() -> muxfs::testing::media::Subject {
        let dir = Arc::new(tempfile::tempdir().expect("tempdir"));
        muxfs::testing::media::Subject::reopening(move || {
            let dir = Arc::clone(&dir);
            Box::pin(async move { Arc::new(open(dir.path())) as Arc<dyn Media> })
        })
        .await
    }

    muxfs::media_laws!(in_files, subject());

    async fn subject_ahead() -> muxfs::testing::media::Subject {
        let dir = Arc::new(tempfile::tempdir().expect("tempdir"));
        muxfs::testing::media::Subject::reopening(move || {
            let dir = Arc::clone(&dir);
            Box::pin(async move { Arc::new(open_ahead(dir.path())) as Arc<dyn Media> })
        })
        .await
    }

    muxfs::media_laws!(in_files_with_zeros_ahead, subject_ahead());

    fn open_ahead(dir: &Path) -> FileMedia {
        FileMedia::open_ahead(dir).expect("a temporary directory opens")
    }

    fn file_len(dir: &Path, segment: u64) -> u64 {
        fs::metadata(dir.join(format!("{segment:016x}.seg"))).expect("it is there").len()
    }

    /// Every sync of a file that had grown made the file system write down its new length: a journal of its own, waited for.
    #[tokio::test]
    async fn small_syncs_seldom_make_a_file_longer() {
        let dir = tempfile::tempdir().expect("tempdir");
        let media = open_ahead(dir.path());
        let id = SegmentId(0);
        let (mut lens, mut appended) = (std::collections::BTreeSet::new(), 0);
        media.append(id, vec![1; 64].into()).await.expect("append");
        media.sync(id).await.expect("sync");
        assert_eq!(file_len(dir.path(), 0), 64, "nothing stands behind a header that is not durable yet");
        for n in 0..1000_u32 {
            let len = 300 + (n * 37) % 4000;
            let durable =
                media.append_durable(id, vec![vec![2; len as usize].into()], "mark".into()).await.expect("append");
            durable.synced.expect("sync");
            appended += u64::from(len) + 4;
            lens.insert(file_len(dir.path(), 0));
            assert!(file_len(dir.path(), 0) <= 64 + appended + ZEROS_LEN_MAX);
        }
        assert!(lens.len() < 12, "{} lengths in 1000 syncs", lens.len());
        assert_eq!(media.segments().await.expect("segments"), [Segment { id, len: 64 + appended }]);

        media.append(SegmentId(1), "next".into()).await.expect("append");
        assert_eq!(file_len(dir.path(), 0), 64 + appended, "one that is not appended to any more keeps no zeros");
        for _ in 0..3 {
            media.append_durable(SegmentId(1), vec!["more".into()], Bytes::new()).await.expect("append");
        }
        assert!(file_len(dir.path(), 1) > 16);
        drop(media);
        assert_eq!(file_len(dir.path(), 1), 16, "and none does when all is closed");
    }

    /// Much at a time would be written twice for nothing.
    #[tokio::test]
    async fn large_syncs_write_no_zeros() {
        let dir = tempfile::tempdir().expect("tempdir");
        let media = open_ahead(dir.path());
        for n in 1..=5 {
            media.append(SegmentId(0), vec![1; 1 << 20].into()).await.expect("append");
            media.sync(SegmentId(0)).await.expect("sync");
            assert_eq!(file_len(dir.path(), 0), n << 20);
        }
    }

    /// What a killed process leaves: its zeros too. The next one finds its records and goes on.
    #[tokio::test]
    async fn a_log_ends_where_zeros_begin() {
        let (dir, killed) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
        let options = muxfs::log::LogOptions::new("test", &muxfs::testing::env());
        let log = muxfs::log::Log::open(Arc::new(open_ahead(dir.path())), options.clone(), |_, _| Ok(()))
            .await
            .expect("open");
        for n in 0..50_u8 {
            log.append(vec![n; 100]).await.expect("append");
            log.sync().await.expect("sync");
        }
        for entry in fs::read_dir(dir.path()).expect("it is there") {
            let path = entry.expect("it is there").path();
            fs::copy(&path, killed.path().join(path.file_name().expect("it has one"))).expect("copied");
        }
        assert!(file_len(killed.path(), 0) >= ZEROS_LEN_MIN);
        for round in 0..3 {
            let mut seen = Vec::new();
            let each = |_, record: muxfs::log::Record| {
                seen.push(record.body);
                Ok(())
            };
            let log =
                muxfs::log::Log::open(Arc::new(open_ahead(killed.path())), options.clone(), each).await.expect("open");
            assert_eq!(seen, (0..50 + round).map(|n| Bytes::from(vec![n; 100])).collect::<Vec<_>>());
            log.append(vec![50 + round; 100]).await.expect("append");
            log.close().await.expect("close");
        }
    }

    /// Zeros are not worth the last of a disk: the file is as long as what it holds, and grows as far as it can.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_takes_no_zeros_and_nothing_fails() {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("it is there");
        let mut tail = Tail { synced: 64, ..Tail::default() };
        tail.write_zeros(&full, 100);
        assert_eq!(tail.zeros_len.0, 0);
        let dir = tempfile::tempdir().expect("tempdir");
        let file = File::create(dir.path().join("file")).expect("create");
        file.set_len(100).expect("set");
        tail.zeros_end = 0;
        tail.write_zeros(&file, 100);
        assert_eq!(file.metadata().expect("metadata").len(), 100, "and it is not tried again");
    }

    fn open(dir: &Path) -> FileMedia {
        FileMedia::open(dir).expect("a temporary directory opens")
    }

    #[tokio::test]
    async fn what_was_appended_is_there_after_opening_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let id = SegmentId(0xab);
        let media = open(dir.path());
        media.append_vectored(id, vec!["he".into(), "".into(), "llo".into()]).await.expect("append");
        media.sync(id).await.expect("sync");
        drop(media);
        let media = open(dir.path());
        assert_eq!(media.segments().await.expect("segments"), [Segment { id, len: 5 }]);
        assert_eq!(media.append(id, "!".into()).await.expect("append"), 5);
        assert_eq!(media.read_at(id, 0, 100).await.expect("read"), "hello!");
        assert!(dir.path().join("00000000000000ab.seg").exists());
    }

    /// Two owners appended over each other, where a store was opened again before the first had ended.
    #[tokio::test]
    async fn a_directory_has_one_owner() {
        let dir = tempfile::tempdir().expect("tempdir");
        let media = open(dir.path());
        let error = FileMedia::open(dir.path()).expect_err("it is in use");
        assert_eq!((error.kind(), error.path()), (ErrorKind::Unavailable, dir.path().to_str()));
        drop(media);
        let log = muxfs::log::LogOptions::new("test", &muxfs::testing::env());
        for n in 0..20_usize {
            let mut count = 0;
            let media = Arc::new(open(dir.path()));
            let opened = muxfs::log::Log::open(media, log.clone(), |_, _| {
                count += 1;
                Ok(())
            });
            let log = opened.await.expect("open");
            assert_eq!(count, n);
            log.append(vec![1; 600_000]).await.expect("append");
            FileMedia::open(dir.path()).expect_err("it is in use");
            log.close().await.expect("close");
        }
    }

    #[test]
    fn directories_above_are_made_as_well() {
        let dir = tempfile::tempdir().expect("tempdir");
        let deep = dir.path().join("a/b/../b/c");
        open(&deep);
        open(&deep);
        assert!(dir.path().join("a/b/c").is_dir());
        fs::write(dir.path().join("file"), "mine").expect("write");
        FileMedia::open(dir.path().join("file")).expect_err("it is no directory");
        FileMedia::open(dir.path().join("file/below")).expect_err("it is no directory");
    }

    #[tokio::test]
    async fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in ["1.seg", "000000000000000A.seg", "+00000000000000a.seg", "readme", "0000000000000001.seg.bak"] {
            fs::write(dir.path().join(name), "mine").expect("write");
        }
        assert_eq!(open(dir.path()).segments().await.expect("segments"), []);
    }

    #[tokio::test]
    async fn more_parts_than_one_write_takes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let media = open(dir.path());
        let parts: Vec<_> = (0..2 * PARTS_PER_WRITE + 3).map(|n| Bytes::from(n.to_string())).collect();
        let joined = parts.concat();
        media.append_vectored(SegmentId(0), parts).await.expect("append");
        let len = u32::try_from(joined.len()).expect("small");
        assert_eq!(media.read_at(SegmentId(0), 0, len).await.expect("read"), joined);
    }

    #[tokio::test]
    async fn more_segments_than_open_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let media = open(dir.path());
        for n in 0..2 * FILES_OPEN_MAX as u64 {
            media.append(SegmentId(n), n.to_string().into()).await.expect("append");
        }
        for n in 0..2 * FILES_OPEN_MAX as u64 {
            assert_eq!(media.read_at(SegmentId(n), 0, 9).await.expect("read"), n.to_string());
        }
        assert!(media.inner.lock().open.len() <= FILES_OPEN_MAX);
    }

    /// A file gone behind our back is an error with its path, and reading does not make it again.
    #[tokio::test]
    async fn an_error_names_the_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        open(dir.path()).append(SegmentId(3), "x".into()).await.expect("append");
        let media = open(dir.path());
        let path = dir.path().join("0000000000000003.seg");
        fs::remove_file(&path).expect("remove");
        let error = media.read_at(SegmentId(3), 0, 1).await.expect_err("it is gone");
        assert_eq!((error.kind(), error.path()), (ErrorKind::NotFound, path.to_str()));
        assert!(!path.exists());
    }
}
