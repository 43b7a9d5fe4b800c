//! A load on a directory, whoever serves it: sequential and random transfer, small files, a source tree, git.
//!
//! One row a run, so that peers can take turns within a round: `benches/run fs` mounts them and calls it for each row
//! and directory in turn. Data are generated, incompressible, and no two MiB alike. **Cold** means that the kernel has
//! no page of the file, neither of the mount nor of what lies below it (`posix_fadvise`, after a sync); what a server
//! keeps in its own memory stays. **Warm** means that the very same was done just before.
//!
//! Usage: `fs ROW LABEL DIR BELOW`: `BELOW` is where the bytes of `DIR` really lie, which is `DIR` itself without a mount.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;
/// How many MiB the big file has, unless `MUXFS_BENCH_MIB` says.
const BIG_MIB: usize = 1024;
/// How many small files there are, unless `MUXFS_BENCH_FILES` says; and how many in one directory.
const SMALL_COUNT: usize = 20_000;
const SMALL_DIR_COUNT: usize = 200;
const SMALL_LEN: usize = 4096;
/// How many reads or writes of 4 KiB at random places.
const RANDOM_COUNT: usize = 8192;
const PAGE_LEN: usize = 4096;
/// What programs give to one `read` and `write`: that of `cp`.
const PIECE_LEN: usize = 128 << 10;
/// What is quick is done so many times in one measurement.
const WARM_COUNT: usize = 5;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Numbers that look random, the same from the same seed: `SplitMix64`.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            let noise = self.next().to_le_bytes();
            word.copy_from_slice(&noise[..word.len()]);
        }
    }
}

/// A seed that no other run has: content that was stored before would be stored for nothing.
fn fresh() -> Noise {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    #[allow(clippy::cast_possible_truncation, reason = "the low bits are the ones that differ")]
    Noise(now.as_nanos() as u64 ^ u64::from(std::process::id()) << 48)
}

fn number(name: &str, otherwise: usize) -> Result<usize> {
    Ok(std::env::var(name).map_or(Ok(otherwise), |text| text.parse())?)
}

/// Has the kernel drop the pages of all files below a directory.
fn evict(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            evict(&entry.path())?;
        } else if kind.is_file()
            && let Ok(file) = File::open(entry.path())
        {
            drop_pages(&file)?;
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn drop_pages(file: &File) -> Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

#[cfg(target_os = "linux")]
fn sync_all(dir: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

#[cfg(not(target_os = "linux"))]
fn drop_pages(_file: &File) -> Result<()> {
    Err("FUSE is served on Linux only".into())
}

#[cfg(not(target_os = "linux"))]
fn sync_all(_dir: &Path) -> Result<()> {
    Err("FUSE is served on Linux only".into())
}

/// Makes the big file cold.
fn chill(big: &Path, below: &Path) -> Result<()> {
    let file = File::open(big)?;
    file.sync_all()?;
    drop_pages(&file)?;
    // What the server wrote by itself meanwhile too: dirty pages cannot be dropped.
    sync_all(below)?;
    evict(below)
}

fn read_all(path: &Path) -> Result<()> {
    let (mut file, mut piece, mut len) = (File::open(path)?, vec![0; PIECE_LEN], 0);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            got => len += got,
        }
    }
    if len as u64 == fs::metadata(path)?.len() { Ok(()) } else { Err("a file reads short".into()) }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

fn git(dir: &Path, args: &[&str]) -> Result<()> {
    let identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"];
    run(Command::new("git").arg("-C").arg(dir).args(identity).args(["-c", "safe.directory=*"]).args(args))
}

fn find(dir: &Path) -> Result<()> {
    // Asks for the attributes of each.
    run(Command::new("find").arg(dir).args(["-printf", "%s %m %T@\n"]))
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

fn random_places(noise: &mut Noise, len: u64) -> Vec<u64> {
    let pages = (len / PAGE_LEN as u64).max(1);
    (0..RANDOM_COUNT).map(|_| noise.next() % pages * PAGE_LEN as u64).collect()
}

fn random_read(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    let mut page = [0; PAGE_LEN];
    for place in random_places(&mut Noise(7), file.metadata()?.len()) {
        file.read_exact_at(&mut page, place)?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [row, label, dir, below] = args.as_slice() else {
        println!("SKIPPED: fs ROW LABEL DIR BELOW; benches/run fs mounts the directories");
        return Ok(());
    };
    let (dir, below) = (PathBuf::from(dir), PathBuf::from(below));
    let [big, small, tree, repository] = ["big", "small", "tree", "repository"].map(|name| dir.join(name));
    let mib = number("MUXFS_BENCH_MIB", BIG_MIB)?;
    let small_count = number("MUXFS_BENCH_FILES", SMALL_COUNT)?;
    let told = |what: &str, value: f64, unit: &str| println!("{label} {what} {value:.1} {unit}");
    match row.as_str() {
        "write" => {
            let mut data = vec![0; mib * MIB];
            fresh().fill(&mut data);
            let took = timed(|| {
                let mut file = File::create(&big)?;
                data.chunks(PIECE_LEN).try_for_each(|piece| file.write_all(piece))?;
                Ok(file.sync_all()?)
            })?;
            told("sequential write, fsync", rate(mib, took), "MiB/s");
        }
        "read" => {
            chill(&big, &below)?;
            told("sequential read, cold", rate(mib, timed(|| read_all(&big))?), "MiB/s");
            told("sequential read, warm", rate(mib, timed(|| read_all(&big))?), "MiB/s");
        }
        "random" => {
            chill(&big, &below)?;
            told("random 4 KiB read, cold", rate(RANDOM_COUNT, timed(|| random_read(&big))?), "reads/s");
            told("random 4 KiB read, warm", rate(RANDOM_COUNT, timed(|| random_read(&big))?), "reads/s");
        }
        "random-write" => {
            let mut noise = fresh();
            let file = OpenOptions::new().write(true).open(&big)?;
            let places = random_places(&mut noise, file.metadata()?.len());
            let mut data = vec![0; RANDOM_COUNT * PAGE_LEN];
            noise.fill(&mut data);
            let took = timed(|| {
                for (page, place) in data.chunks(PAGE_LEN).zip(&places) {
                    file.write_all_at(page, *place)?;
                }
                Ok(file.sync_all()?)
            })?;
            told("random 4 KiB write, fsync", rate(RANDOM_COUNT, took), "writes/s");
        }
        "small" => {
            let mut data = vec![0; small_count * SMALL_LEN];
            fresh().fill(&mut data);
            let parts = small_count.div_ceil(SMALL_DIR_COUNT);
            (0..parts).try_for_each(|part| fs::create_dir_all(small.join(part.to_string())))?;
            let took = timed(|| {
                for (index, bytes) in data.chunks(SMALL_LEN).enumerate() {
                    let part = small.join((index / SMALL_DIR_COUNT).to_string());
                    File::create(part.join(format!("file-{index}")))?.write_all(bytes)?;
                }
                Ok(())
            })?;
            told("create, write, close", rate(small_count, took), "files/s");
            fs::remove_dir_all(&small)?;
        }
        "tree" => {
            let tar = std::env::var("MUXFS_BENCH_TAR")?;
            fs::create_dir(&tree)?;
            let took = timed(|| run(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&tree)))?;
            let count = count_files(&tree)?;
            told("untar", rate(count, took), "files/s");
            told("rm -r", rate(count, timed(|| run(Command::new("rm").arg("-r").arg(&tree)))?), "files/s");
        }
        "repository" => {
            let tar = std::env::var("MUXFS_BENCH_TAR")?;
            fs::create_dir(&repository)?;
            run(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&repository))?;
            git(&repository, &["init", "-q"])?;
            git(&repository, &["add", "-A"])?;
            git(&repository, &["commit", "-q", "-m", "all"])?;
        }
        "walk" => {
            let count = count_files(&repository)?;
            find(&repository)?;
            let took = timed(|| (0..WARM_COUNT).try_for_each(|_| find(&repository)))?;
            told("find, warm", rate(count * WARM_COUNT, took), "files/s");
            git(&repository, &["status", "--porcelain"])?;
            let took = timed(|| (0..WARM_COUNT).try_for_each(|_| git(&repository, &["status", "--porcelain"])))?;
            told("git status, warm", rate(WARM_COUNT, took), "runs/s");
        }
        _ => return Err(format!("no row {row}").into()),
    }
    io::stdout().flush()?;
    Ok(())
}

fn count_files(dir: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}
