//! A working tree on a local disk, without a frontend: what its calls cost beside the same on the host's file system.
//!
//! `cargo bench --bench tree`; `MUXFS_BENCH_DIR` names the directory (default: a temporary one), `MUXFS_BENCH_COUNT` the
//! number of small files (default 100,000). Host and tree take turns in one run; only their ratio counts.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use muxfs::{
    Name, Result,
    block::{Mem, Segments, SegmentsOptions},
    dag::{Dag, DagOptions},
    heads::{LogHeads, MemHeads},
    media::MemMedia,
    testing,
    tree::{Tree, TreeOptions},
    vfs::{Cookie, Ino, Listing, NewNode, SetAttr, Vfs},
};
use muxfs_local::FileMedia;

const MIB: usize = 1 << 20;
/// How much is written and read in one piece.
const LARGE_LEN: usize = 1024 * MIB;
/// How many small files are synced one by one, and by so many at a time.
const SYNC_COUNT: usize = 1000;
const TASK_COUNT: usize = 8;
/// How many small files are in one directory.
const DIR_LEN: usize = 1000;

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() != Some("--bench") {
        println!("only runs as a benchmark: cargo bench --bench tree");
        return Ok(());
    }
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = std::env::var_os("MUXFS_BENCH_DIR").map_or_else(|| temp.path().to_path_buf(), PathBuf::from);
    let count = std::env::var("MUXFS_BENCH_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(100_000);
    tokio::runtime::Runtime::new().expect("a runtime").block_on(bench(&dir, count))
}

async fn open(dir: &Path) -> Result<Tree> {
    let media = |name: &str| FileMedia::open(dir.join(name)).map(Arc::new);
    let env = testing::env();
    let blocks = Segments::open(media("blocks")?, media("index")?, SegmentsOptions::default(), &env).await?;
    let dag = Dag::new(Arc::new(blocks), DagOptions::default());
    let heads = Arc::new(LogHeads::open(media("heads")?, &env).await?);
    let journal = Arc::new(FileMedia::open_ahead(dir.join("journal"))?);
    Tree::open(dag, journal, heads, TreeOptions::new(Name::new(b"bench")?, env)).await
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn say(what: &str, count: usize, took: Duration) {
    println!("{what:44} {:12.0} /s", count as f64 / took.as_secs_f64());
}

async fn bench(dir: &Path, count: usize) -> Result<()> {
    let tree = open(&dir.join("tree")).await?;
    let host = dir.join("host");
    fs::create_dir_all(&host).expect("a directory");
    for round in 0..3 {
        large_host(&host);
        large(&tree, round).await?;
        synced_host(&host, 1);
        synced(&tree, 1).await?;
        synced_host(&host, TASK_COUNT);
        synced(&tree, TASK_COUNT).await?;
    }
    for _ in 0..3 {
        transactions(&in_memory().await?, "in memory", None, 1).await?;
        transactions(&tree, "on disk", None, 1).await?;
        synced_host(&host, 1);
        transactions(&tree, "synced each", Some(1), 1).await?;
        transactions(&tree, "of 10 files, synced each", Some(1), 10).await?;
        transactions(&tree, &format!("synced each, {TASK_COUNT} at a time"), Some(TASK_COUNT), 1).await?;
    }
    many(&tree, count).await?;
    few(&tree).await?;
    tree.close().await?;
    Ok(())
}

fn large_host(host: &Path) {
    let path = host.join("large");
    let data = vec![7; MIB];
    let began = Instant::now();
    let mut file = File::create(&path).expect("a file");
    for _ in 0..LARGE_LEN / MIB {
        file.write_all(&data).expect("written");
    }
    file.sync_all().expect("synced");
    say("host: sequential write, MiB", LARGE_LEN / MIB, began.elapsed());
    fs::remove_file(&path).expect("removed");
}

async fn remove(tree: &Tree, dir: Ino, name: &Name) -> Result<()> {
    let place = muxfs::vfs::Place { dir, name, expect: None };
    tree.remove(place, muxfs::vfs::RemoveKind::NonDir).await.map(drop)
}

async fn large(tree: &Tree, round: u8) -> Result<()> {
    let name = Name::new(b"large")?;
    let chunks: Vec<Bytes> = (0..LARGE_LEN / MIB)
        .map(|n| {
            // No two chunks are alike, or they would be one.
            let mut chunk = vec![round; MIB];
            chunk[..8].copy_from_slice(&n.to_le_bytes());
            chunk.into()
        })
        .collect();
    let began = Instant::now();
    let file = tree.create(tree.root(), &name, NewNode::File, SetAttr::default()).await?.node.ino;
    // As many at a time as a client over the network has.
    let tasks: Vec<_> = (0..TASK_COUNT)
        .map(|task| {
            let (tree, chunks) = (tree.clone(), chunks.clone());
            tokio::spawn(async move {
                for n in (task..chunks.len()).step_by(TASK_COUNT) {
                    tree.write(file, (n * MIB) as u64, chunks[n].clone(), false).await?;
                }
                Ok::<_, muxfs::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("it ends")?;
    }
    tree.sync(file).await?;
    say("tree: sequential write, MiB", LARGE_LEN / MIB, began.elapsed());
    let began = Instant::now();
    for n in 0..LARGE_LEN / MIB {
        assert_eq!(tree.read(file, (n * MIB) as u64, 1 << 20).await?.len(), MIB);
    }
    say("tree: sequential read, MiB", LARGE_LEN / MIB, began.elapsed());
    tree.release(file, 1);
    remove(tree, tree.root(), &name).await?;
    Ok(())
}

fn synced_host(host: &Path, threads: usize) {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for n in (thread..SYNC_COUNT).step_by(threads) {
                    let mut file = File::create(host.join(format!("synced{n}"))).expect("a file");
                    file.write_all(&[7; 4096]).expect("written");
                    file.sync_all().expect("synced");
                }
            });
        }
    });
    say(&format!("host: create, write 4 KiB, fsync, {threads} at a time"), SYNC_COUNT, began.elapsed());
    for n in 0..SYNC_COUNT {
        fs::remove_file(host.join(format!("synced{n}"))).expect("removed");
    }
}

async fn synced(tree: &Tree, tasks: usize) -> Result<()> {
    let began = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let tree = tree.clone();
            tokio::spawn(async move {
                for n in (task..SYNC_COUNT).step_by(tasks) {
                    let name = Name::new(format!("synced{n}").as_bytes())?;
                    let made = tree.create(tree.root(), &name, NewNode::File, SetAttr::default()).await?;
                    tree.write(made.node.ino, 0, vec![7; 4096].into(), false).await?;
                    tree.sync(made.node.ino).await?;
                    tree.release(made.node.ino, 1);
                }
                Ok::<_, muxfs::Error>(())
            })
        })
        .collect();
    for task in running {
        task.await.expect("it ends")?;
    }
    say(&format!("tree: create, write 4 KiB, sync, {tasks} at a time"), SYNC_COUNT, began.elapsed());
    for n in 0..SYNC_COUNT {
        remove(tree, tree.root(), &Name::new(format!("synced{n}").as_bytes())?).await?;
    }
    Ok(())
}

async fn in_memory() -> Result<Tree> {
    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let options = TreeOptions::new(Name::new(b"bench")?, testing::env());
    Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await
}

/// Transactions that each make `files` files of 100 bytes in a directory of their task; where `synced` tells by how many
/// tasks, each is synced before the next.
async fn transactions(tree: &Tree, what: &str, synced: Option<usize>, files: usize) -> Result<()> {
    let (tasks, count) = (synced.unwrap_or(1), if synced.is_some() { SYNC_COUNT } else { 20 * SYNC_COUNT });
    let top = tree.create(tree.root(), &Name::new(b"transactions")?, NewNode::Dir, SetAttr::default()).await?.node.ino;
    let mut dirs = Vec::new();
    for task in 0..tasks {
        let name = Name::new(format!("{task}").as_bytes())?;
        dirs.push(tree.create(top, &name, NewNode::Dir, SetAttr::default()).await?.node.ino);
    }
    let began = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let (tree, dir) = (tree.clone(), dirs[task]);
            tokio::spawn(async move {
                for n in (task..count).step_by(tasks) {
                    tree.transaction(|t| async move {
                        for file in 0..files {
                            let name = Name::new(format!("{n} {file}").as_bytes())?;
                            let made = t.create(dir, &name, NewNode::File, SetAttr::default()).await?;
                            t.write(made.node.ino, 0, vec![7; 100].into(), false).await?;
                            t.release(made.node.ino, 1);
                        }
                        Ok(())
                    })
                    .await?;
                    if synced.is_some() {
                        tree.sync(tree.root()).await?;
                    }
                }
                Ok::<_, muxfs::Error>(())
            })
        })
        .collect();
    for task in running {
        task.await.expect("it ends")?;
    }
    say(&format!("tree: transactions {what}"), count, began.elapsed());
    for (task, dir) in dirs.into_iter().enumerate() {
        for n in (task..count).step_by(tasks) {
            for file in 0..files {
                remove(tree, dir, &Name::new(format!("{n} {file}").as_bytes())?).await?;
            }
        }
        remove_dir(tree, top, &format!("{task}")).await?;
    }
    remove_dir(tree, tree.root(), "transactions").await?;
    tree.release(top, 1);
    tree.commit("").await?;
    Ok(())
}

async fn remove_dir(tree: &Tree, dir: Ino, name: &str) -> Result<()> {
    let place = muxfs::vfs::Place { dir, name: &Name::new(name.as_bytes())?, expect: None };
    tree.remove(place, muxfs::vfs::RemoveKind::Dir).await.map(drop)
}

/// Many small files: made, committed, looked up, listed.
async fn many(tree: &Tree, count: usize) -> Result<()> {
    let began = Instant::now();
    let top = tree.create(tree.root(), &Name::new(b"many")?, NewNode::Dir, SetAttr::default()).await?.node.ino;
    let mut dirs = Vec::new();
    for number in 0..count.div_ceil(DIR_LEN) {
        let name = Name::new(format!("dir{number}").as_bytes())?;
        dirs.push(tree.create(top, &name, NewNode::Dir, SetAttr::default()).await?.node.ino);
    }
    for n in 0..count {
        let name = Name::new(format!("file{n}").as_bytes())?;
        let made = tree.create(dirs[n / DIR_LEN], &name, NewNode::File, SetAttr::default()).await?;
        tree.write(made.node.ino, 0, format!("the content of {n}").into(), false).await?;
        tree.release(made.node.ino, 1);
    }
    say("tree: small files made", count, began.elapsed());
    let began = Instant::now();
    tree.commit("").await?;
    say("tree: small files committed", count, began.elapsed());
    for round in ["cold", "warm"] {
        let began = Instant::now();
        for n in 0..count {
            let n = n * 7919 % count;
            let found = tree.lookup(dirs[n / DIR_LEN], &Name::new(format!("file{n}").as_bytes())?).await?;
            tree.release(found.ino, 1);
        }
        say(&format!("tree: look-ups, {round}"), count, began.elapsed());
    }
    let began = Instant::now();
    for dir in &dirs {
        let mut at = Cookie::START;
        loop {
            let page = tree.readdir(*dir, at, 1000, Listing::Attrs).await?;
            for entry in &page.entries {
                tree.release(entry.ino, 1);
            }
            at = page.entries.last().map_or(at, |entry| entry.cookie);
            if page.eof {
                break;
            }
        }
    }
    say("tree: entries listed with attributes", count, began.elapsed());
    Ok(())
}

/// What a commit costs in which little changed.
async fn few(tree: &Tree) -> Result<()> {
    for _ in 0..5 {
        for n in 0..10 {
            let name = Name::new(format!("few{n}").as_bytes())?;
            match tree.create(tree.root(), &name, NewNode::File, SetAttr::default()).await {
                Ok(made) => tree.release(made.node.ino, 1),
                Err(_) => remove(tree, tree.root(), &name).await?,
            }
        }
        let began = Instant::now();
        tree.commit("").await?;
        println!("{:44} {:12.1} ms", "tree: a commit of 10 changes", began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}
