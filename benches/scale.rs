//! A working tree that is big or much overwritten, on a local disk, without a frontend.
//!
//! `cargo bench --bench scale -- root|overwrite`; `MUXFS_BENCH_DIR` names the directory (default: a temporary one).
//! `root`: as many small files as `MUXFS_BENCH_COUNT` says (default 1,000,000) beside the same on the host's file system;
//! opened, searched and committed by a process of its own, whose memory is told. `overwrite`: 4 KiB at random places of
//! 1 GiB, for as many seconds as `MUXFS_BENCH_SECONDS` says (default 600), with the commits, the history and the
//! collections that a server would have meanwhile.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::BoxStream};
use muxfs::{
    Env, Name, Result,
    block::{Segments, SegmentsOptions},
    dag::{Dag, DagOptions, GcOptions},
    heads::LogHeads,
    testing::fault::Dice,
    tree::{Tree, TreeOptions},
    vfs::{Cookie, Ino, Listing, NewNode, Place, RemoveKind, SetAttr, Vfs},
};
use muxfs_local::FileMedia;

/// How many files are in one directory.
const DIR_LEN: usize = 1000;
const LARGE_LEN: u64 = 1 << 30;
const PIECE_LEN: u32 = 4096;
/// After so many overwrites each writer syncs, as a database does now and then.
const SYNC_EVERY: u64 = 64;
const WRITERS: u64 = 4;
/// How often old space is collected while overwriting.
const COLLECT_EVERY: Duration = Duration::from_mins(2);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = std::env::var_os("MUXFS_BENCH_DIR").map_or_else(|| temp.path().to_path_buf(), PathBuf::from);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["root"] => runtime.block_on(root(&dir, number("MUXFS_BENCH_COUNT", 1_000_000))),
        ["overwrite"] => {
            runtime.block_on(overwrite(&dir, Duration::from_secs(number("MUXFS_BENCH_SECONDS", 600) as u64)))
        }
        ["reopen", dir] => runtime.block_on(reopen(Path::new(dir))),
        _ => {
            println!("only runs as a benchmark: cargo bench --bench scale -- root|overwrite");
            Ok(())
        }
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The tree below `dir`, and the store of its blocks.
async fn open(dir: &Path) -> Result<(Tree, Arc<Segments>)> {
    let media = |name: &str| FileMedia::open(dir.join(name)).map(Arc::new);
    let env = Env {
        now: Arc::new(std::time::SystemTime::now),
        fill: Arc::new(|bytes| {
            let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
            bytes.copy_from_slice(&Dice::new(seed.into()).bytes(bytes.len()));
        }),
    };
    let blocks = Arc::new(Segments::open(media("blocks")?, media("index")?, SegmentsOptions::default(), &env).await?);
    let dag = Dag::new(blocks.clone(), DagOptions::default());
    let heads = Arc::new(LogHeads::open(media("heads")?, &env).await?);
    let tree = Tree::open(dag, media("journal")?, heads, TreeOptions::new(Name::new(b"bench")?, env)).await?;
    Ok((tree, blocks))
}

/// What the kernel tells of this process's memory, in MiB.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap_or(0) / 1024
}

async fn make(tree: &Tree, count: usize) -> Result<()> {
    for number in 0..count.div_ceil(DIR_LEN) {
        let name = Name::new(format!("dir{number}").as_bytes())?;
        let dir = tree.create(tree.root(), &name, NewNode::Dir, SetAttr::default()).await?.node.ino;
        for n in number * DIR_LEN..count.min((number + 1) * DIR_LEN) {
            let name = Name::new(format!("file{n}").as_bytes())?;
            let made = tree.create(dir, &name, NewNode::File, SetAttr::default()).await?;
            tree.write(made.node.ino, 0, format!("the content of {n}").into(), false).await?;
            tree.release(made.node.ino, 1);
        }
        tree.release(dir, 1);
    }
    Ok(())
}

async fn root(dir: &Path, count: usize) -> Result<()> {
    let at = dir.join("tree");
    let began = Instant::now();
    let (tree, blocks) = open(&at).await?;
    make(&tree, count).await?;
    tree.close().await?;
    blocks.close().await?;
    say(&format!("tree: {count} files made and committed"), began.elapsed());
    println!("{:44} {:12} MiB", "tree: peak resident while making them", memory("VmHWM"));
    let began = Instant::now();
    let host = dir.join("host");
    for number in 0..count.div_ceil(DIR_LEN) {
        let dir = host.join(format!("dir{number}"));
        fs::create_dir_all(&dir).expect("a directory");
        for n in number * DIR_LEN..count.min((number + 1) * DIR_LEN) {
            fs::write(dir.join(format!("file{n}")), format!("the content of {n}")).expect("written");
        }
    }
    Command::new("sync").arg("-f").arg(&host).status().expect("synced");
    say(&format!("host: {count} files made and synced"), began.elapsed());
    let began = Instant::now();
    println!("{:44} {:12} entries", "host: found", find_host(&host));
    say("host: find with attributes", began.elapsed());
    for _ in 0..3 {
        let status = Command::new(std::env::current_exe().expect("this program")).arg("reopen").arg(&at).status();
        assert!(status.expect("it runs").success(), "it found everything");
    }
    Ok(())
}

fn find_host(dir: &Path) -> usize {
    let mut found = 0;
    for entry in fs::read_dir(dir).expect("a directory") {
        let entry = entry.expect("an entry");
        found += 1;
        if entry.metadata().expect("attributes").is_dir() {
            found += find_host(&entry.path());
        }
    }
    found
}

/// What a process costs that begins with a big root: to open it, to search all of it, to commit a little.
async fn reopen(dir: &Path) -> Result<()> {
    let began = Instant::now();
    let (tree, blocks) = open(dir).await?;
    say("tree: opened", began.elapsed());
    let before = memory("VmRSS");
    let began = Instant::now();
    let found = find(&tree, tree.root()).await?;
    println!("{:44} {found:12} entries", "tree: found");
    say("tree: find with attributes", began.elapsed());
    println!("{:44} {:12} MiB", "tree: resident after opening", before);
    println!("{:44} {:12} MiB", "tree: resident after the find", memory("VmRSS"));
    for _ in 0..5 {
        for n in 0..10 {
            let name = Name::new(format!("few{n}").as_bytes())?;
            if let Ok(made) = tree.create(tree.root(), &name, NewNode::File, SetAttr::default()).await {
                tree.release(made.node.ino, 1);
            } else {
                let place = Place { dir: tree.root(), name: &name, expect: None };
                tree.remove(place, RemoveKind::NonDir).await?;
            }
        }
        let began = Instant::now();
        tree.commit("").await?;
        say("tree: a commit of 10 changes", began.elapsed());
    }
    tree.close().await?;
    blocks.close().await
}

fn find(tree: &Tree, dir: Ino) -> futures_util::future::BoxFuture<'_, Result<usize>> {
    Box::pin(async move {
        let (mut found, mut at) = (0, Cookie::START);
        loop {
            let page = tree.readdir(dir, at, DIR_LEN, Listing::Attrs).await?;
            for entry in &page.entries {
                found += 1;
                if entry.attr.as_ref().is_some_and(|attr| attr.kind == muxfs::file::FileKind::Dir) {
                    found += find(tree, entry.ino).await?;
                }
                tree.release(entry.ino, 1);
            }
            at = page.entries.last().map_or(at, |entry| entry.cookie);
            if page.eof {
                return Ok(found);
            }
        }
    })
}

/// 4 KiB at random places of a file, and what of it all is on the disk in the end.
async fn overwrite(dir: &Path, during: Duration) -> Result<()> {
    let at = dir.join("tree");
    let (tree, blocks) = open(&at).await?;
    let name = Name::new(b"large")?;
    let file = tree.create(tree.root(), &name, NewNode::File, SetAttr::default()).await?.node.ino;
    let mut dice = Dice::new(1);
    for offset in (0..LARGE_LEN).step_by(1 << 20) {
        tree.write(file, offset, dice.bytes(1 << 20).into(), false).await?;
    }
    tree.commit("").await?;
    let before = used(&at);
    let written_before = written_by_process();
    let began = Instant::now();
    let written = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (tree, written) = (tree.clone(), Arc::clone(&written));
            tokio::spawn(async move {
                let mut dice = Dice::new(writer + 2);
                for count in 1.. {
                    if began.elapsed() > during {
                        break;
                    }
                    let offset = dice.bits() % (LARGE_LEN / u64::from(PIECE_LEN)) * u64::from(PIECE_LEN);
                    let piece = dice.bytes(PIECE_LEN as usize);
                    tree.write(file, offset, piece.into(), false).await?;
                    if count % SYNC_EVERY == 0 {
                        tree.sync(file).await?;
                    }
                    written.fetch_add(PIECE_LEN.into(), Ordering::Relaxed);
                }
                tree.sync(file).await
            })
        })
        .collect();
    // What a server does beside: commits by themselves, and collections.
    let ticker = tokio::spawn({
        let tree = tree.clone();
        async move {
            loop {
                let wait = tree.tick().await.unwrap_or(Duration::from_secs(1));
                tokio::time::sleep(wait.min(Duration::from_secs(1))).await;
            }
        }
    });
    let collector = tokio::spawn({
        let (tree, blocks) = (tree.clone(), Arc::clone(&blocks));
        async move {
            loop {
                tokio::time::sleep(COLLECT_EVERY).await;
                collect(&tree, &blocks).await.expect("it collects");
            }
        }
    });
    for writer in writers {
        writer.await.expect("it ends")?;
    }
    ticker.abort();
    collector.abort();
    tree.commit("").await?;
    let written = written.load(Ordering::Relaxed);
    let kept = used(&at);
    let mib = |bytes: u64| bytes >> 20;
    println!("overwritten in {:.0} s                       {:12} MiB", during.as_secs_f64(), mib(written));
    println!("{:44} {:12} commits", "history kept", commits(&tree).await?);
    println!("{:44} {:12} MiB", "disk used before", mib(before));
    println!("{:44} {:12} MiB", "disk used after", mib(kept));
    ratio("stored per byte written, all of the last hour kept", kept.saturating_sub(before), written);
    ratio("given to the disk per byte written", written_by_process() - written_before, written);
    tree.close().await?;
    blocks.close().await
}

async fn commits(tree: &Tree) -> Result<usize> {
    Ok(muxfs::tree::History::new(tree.clone()).kept().await?.len())
}

async fn collect(tree: &Tree, blocks: &Segments) -> Result<()> {
    let options = GcOptions { dry_run: false, secret: [7; 32], on_progress: None };
    let roots = || -> BoxStream<'_, _> { tree.gc_roots().boxed() };
    tree.dag().collect_garbage(roots, &options).await?;
    blocks.compact().await?;
    Ok(())
}

/// The bytes of all files below a directory, as the disk counts them.
fn used(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += used(&entry.path()),
            Ok(metadata) => bytes += metadata.blocks() * 512,
            // Gone since it was listed.
            Err(_) => {}
        }
    }
    bytes
}

fn written_by_process() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn say(what: &str, took: Duration) {
    println!("{what:44} {:12.1} ms", took.as_secs_f64() * 1e3);
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 KiB")]
fn ratio(what: &str, of: u64, to: u64) {
    println!("{what:50} {:6.2}", of as f64 / to.max(1) as f64);
}
