//! One file of a mounted working tree, exercised by the calls that programs have: in memory and past the kernel's cache
//! too. `MUXFS_EXERCISE_STEPS` says how much is done.
//!
//! The file is exercised by another process than the one that serves it. Who touches memory that is mapped from a mount
//! holds the lock of the process's memory while the mount is asked, and a thread that answers may need that lock.

use std::{
    env,
    fs::File,
    io::{self, BufRead as _, BufReader},
    ops::Range,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, mpsc},
};

use bytes::Bytes;
use memmap2::{MmapMut, MmapOptions};
use muxfs::{
    testing::{
        self,
        exerciser::{Bed, Commits, Plan, Verb, Way, exercise},
    },
    vfs::watch::Watch,
};
use muxfs_fuse::{Options, mount};
use rustix::fs::{Advice, FallocateFlags, OFlags, copy_file_range, fadvise, fallocate};
use tokio::runtime::Builder;

use super::{PATIENCE, can_mount, unmounted};

/// How many steps each test takes: with and without commits they are 200,000.
const STEP_COUNT: u64 = 100_000;
/// Names the mounted directory to the process that exercises a file of it.
const DIR: &str = "MUXFS_EXERCISE_DIR";
/// What that process prints, at the end of a line, for each settling of the file.
const SETTLED: &str = "settled";

/// A file of a mount; what is read and written goes past the kernel's cache every other time.
struct Program {
    path: PathBuf,
    cached: File,
    direct: File,
    call_count: usize,
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = i32::try_from(flags.bits()).expect("flags of open(2)");
    File::options().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path)
}

impl Program {
    fn new(path: PathBuf) -> Self {
        let cached = open(&path, OFlags::empty()).expect("made");
        let direct = open(&path, OFlags::DIRECT).expect("opened");
        Self { path, cached, direct, call_count: 0 }
    }

    fn file(&mut self) -> &File {
        self.call_count += 1;
        if self.call_count.is_multiple_of(2) { &self.cached } else { &self.direct }
    }

    #[expect(unsafe_code, reason = "nobody but this test changes the file, and never while it is mapped")]
    fn map(&self, offset: u64, len: u64) -> io::Result<MmapMut> {
        let len = usize::try_from(len).expect("is short");
        unsafe { MmapOptions::new().offset(offset).len(len).map_mut(&self.cached) }
    }

    fn change(&self, range: &Range<u64>, flags: FallocateFlags) -> io::Result<()> {
        Ok(fallocate(&self.cached, flags, range.start, range.end - range.start)?)
    }
}

impl Way for Program {
    fn verbs(&self) -> &'static [Verb] {
        use Verb::{Allocate, Copy, Len, MapRead, MapWrite, Punch, Read, SetLen, Settle, Write, Zero};
        &[Read, Write, Len, SetLen, Punch, Zero, Allocate, Copy, MapRead, MapWrite, Settle]
    }

    fn read(&mut self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).expect("is short")];
        let (file, mut done) = (self.file(), 0);
        while done < bytes.len() {
            match file.read_at(&mut bytes[done..], range.start + done as u64)? {
                0 => break,
                count => done += count,
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn write(&mut self, offset: u64, data: Bytes) -> io::Result<()> {
        self.file().write_all_at(&data, offset)
    }

    fn len(&mut self) -> io::Result<u64> {
        Ok(self.cached.metadata()?.len())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.cached.set_len(len)
    }

    /// Opens the file again, without anything in the kernel's cache.
    fn settle(&mut self) -> io::Result<()> {
        self.cached.sync_all()?;
        fadvise(&self.cached, 0, None, Advice::DontNeed)?;
        self.cached = open(&self.path, OFlags::empty())?;
        self.direct = open(&self.path, OFlags::DIRECT)?;
        println!("{SETTLED}");
        Ok(())
    }

    fn punch(&mut self, range: Range<u64>) -> io::Result<()> {
        self.change(&range, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)
    }

    fn zero(&mut self, range: Range<u64>) -> io::Result<()> {
        self.change(&range, FallocateFlags::ZERO_RANGE)
    }

    fn allocate(&mut self, range: Range<u64>) -> io::Result<()> {
        self.change(&range, FallocateFlags::empty())
    }

    fn copy(&mut self, from: Range<u64>, to: u64) -> io::Result<()> {
        let (mut from, mut to, len) = (from.start, to, usize::try_from(from.end - from.start).expect("is short"));
        let mut rest = len;
        while rest > 0 {
            match copy_file_range(&self.cached, Some(&mut from), &self.cached, Some(&mut to), rest)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => rest -= count,
            }
        }
        Ok(())
    }

    fn map_read(&mut self, range: Range<u64>) -> io::Result<Vec<u8>> {
        Ok(self.map(range.start, range.end - range.start)?.to_vec())
    }

    fn map_write(&mut self, offset: u64, data: Bytes) -> io::Result<()> {
        self.map(offset, data.len() as u64)?.copy_from_slice(&data);
        Ok(())
    }
}

/// Mounts a tree, and has another process exercise files of it.
fn exercised(name: &str, commits: Commits) {
    if !can_mount() {
        return;
    }
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let mut bed = runtime.block_on(Bed::new(commits));
    let watch = Watch::new(Arc::new(bed.tree.clone()));
    let mounted = runtime.block_on(mount(&watch, dir.path(), Options::default())).expect("mounted");

    let mut child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "--ignored", "--nocapture", "exercise::the_files_of_a_directory"])
        .env(DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let (send, lines) = mpsc::channel();
    let out = BufReader::new(child.stdout.take().expect("is piped"));
    let reader = std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if line.ends_with(SETTLED) => bed.settle(&runtime).expect("committed"),
            Ok(_) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                eprintln!("{name}: hung for {PATIENCE:?}");
                std::process::abort();
            }
        }
    }
    assert!(child.wait().expect("has ended").success(), "{name}: the process that exercises says above what is wrong");
    reader.join().expect("it does not panic").ok();
    runtime.block_on(unmounted(&mounted));
}

#[test]
fn a_mounted_file_holds_what_was_written_before_any_commit() {
    exercised("FUSE without commits", Commits::Never);
}

#[test]
fn a_mounted_file_holds_what_was_written_whenever_commits_come() {
    exercised("FUSE with commits", Commits::Beside);
}

#[test]
#[ignore = "is what the other tests start in a process of its own"]
fn the_files_of_a_directory() {
    let Some(dir) = env::var_os(DIR).map(PathBuf::from) else {
        testing::skip(format_args!("{DIR} names no directory"));
        return;
    };
    exercise("FUSE", Plan::from_env(STEP_COUNT), |seed| Program::new(dir.join(seed.to_string())));
}
