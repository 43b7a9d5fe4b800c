//! The machine stops at any call of any disk: what is found then is a state that was, no older than the last sync.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::{super::TreeOptions, assert_sound, name, options};
use crate::{
    BlockKey, BlockStore, Env, Error, ErrorKind, FileKind, Result,
    block::{Segments, SegmentsOptions},
    dag::{Dag, DagOptions, GcOptions, Params, Profile},
    heads::LogHeads,
    testing::{
        self,
        fault::{Crash, CrashMedia, Dice},
    },
    tree::{Retention, Tree},
    vfs::{Ino, NewNode, Place, RemoveKind, RenameMode, SetAttr, Vfs, XattrMode, XattrName, ext::list},
};

/// So short that a chunk is cheap to write, and a file of a few KiB has many.
const CHUNK_LEN: u32 = 1024;

/// A clock that stands still within a step, so that runs that look more often tell the same times.
#[derive(Debug, Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn env(&self) -> Env {
        let time = self.0.clone();
        let now = move || SystemTime::UNIX_EPOCH + Duration::from_secs(time.load(Ordering::Relaxed));
        Env { now: Arc::new(now), ..testing::env() }
    }

    fn tick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The four disks of a tree, in one machine.
#[derive(Debug)]
struct Disks([Arc<CrashMedia>; 4], Arc<Crash>);

impl Disks {
    fn new(crash: &Arc<Crash>) -> Self {
        Self([(); 4].map(|()| Arc::new(CrashMedia::new(crash.clone()))), crash.clone())
    }

    fn restart(&self, seed: u64, crash: &Arc<Crash>) -> Self {
        let next = |i: usize| Arc::new(self.0[i].restart(seed * 4 + i as u64, crash.clone()));
        Self([0, 1, 2, 3].map(next), crash.clone())
    }

    async fn open(&self, clock: &Clock) -> Result<(Tree, Arc<Segments>)> {
        self.open_while(clock, false).await
    }

    /// The same, while nodes of the store are away at times.
    async fn open_while(&self, clock: &Clock, is_away: bool) -> Result<(Tree, Arc<Segments>)> {
        let [data, index, journal, heads] = self.0.clone();
        let small = SegmentsOptions { segment_len_max: 1 << 14, ..Default::default() };
        let params = Params { chunk_len: CHUNK_LEN, width: 8, ..Profile::default().params() };
        let segments = Arc::new(Segments::open(data, index, small, &clock.env()).await?);
        let blocks: Arc<dyn BlockStore> = if is_away {
            Arc::new(Unproved { inner: segments.clone(), flush_count: AtomicU64::new(0) })
        } else {
            segments.clone()
        };
        let dag = Dag::new(blocks, DagOptions { params, ..Default::default() });
        let heads = Arc::new(LogHeads::open(heads, &clock.env()).await?);
        // A step takes a second: commits are let go soon, and what only they had is garbage.
        let retention = Retention { all: Duration::from_secs(5), hourly: Duration::ZERO, daily: Duration::ZERO };
        let options = TreeOptions { env: clock.env(), retention, ..options() };
        Ok((Tree::open(dag, journal, heads, options).await?, segments))
    }
}

/// A store that takes blocks and mostly cannot say that they are durable, as one whose nodes are away.
#[derive(Debug)]
struct Unproved {
    inner: Arc<Segments>,
    flush_count: AtomicU64,
}

#[async_trait]
impl BlockStore for Unproved {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.inner.get(key).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.inner.put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.inner.delete(key).await
    }
    async fn flush(&self) -> Result<()> {
        // The first of all is that of a new tree.
        if !self.flush_count.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            return Err(Error::new(ErrorKind::Unavailable, "unproved"));
        }
        self.inner.flush().await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

/// Everything that is seen of a tree, as text.
pub(super) async fn describe(tree: &Tree) -> Result<String> {
    let mut text = String::new();
    let mut todo = vec![(String::new(), tree.root())];
    while let Some((path, dir)) = todo.pop() {
        for entry in list(tree, dir, usize::MAX).await? {
            let attr = tree.lookup(dir, &entry.name).await?;
            let path = format!("{path}/{}", entry.name);
            let content = match attr.kind {
                FileKind::File => crate::vfs::ext::read_to_end(tree, attr.ino, 1 << 24).await?,
                FileKind::Symlink => tree.readlink(attr.ino).await?,
                _ => Bytes::new(),
            };
            let mut xattrs = BTreeMap::new();
            for name in tree.listxattr(attr.ino).await? {
                xattrs.insert(name.clone(), tree.getxattr(attr.ino, &name).await?);
            }
            writeln!(
                text,
                "{path} {} {:?} {:o} {} {} {} {:?} {} {} {xattrs:?}",
                attr.ino.0,
                attr.kind,
                attr.mode,
                attr.uid,
                attr.nlink,
                attr.size,
                attr.mtime,
                attr.used,
                crate::cid_of(crate::Codec::Raw, &content)
            )
            .expect("text is written");
            if attr.kind == FileKind::Dir {
                todo.push((path, attr.ino));
            }
            tree.release(attr.ino, 1);
        }
    }
    let room = tree.statfs(tree.root()).await?;
    writeln!(text, "{} {}", room.bytes_free, room.inodes_free).expect("text is written");
    Ok(text)
}

/// Removes what nothing keeps, and gives its room back.
async fn collect(tree: &Tree, segments: &Segments, secret: u8) -> Result<()> {
    let options = GcOptions { secret: [secret; 32], ..GcOptions::new(&testing::env()) };
    tree.dag().collect_garbage(|| tree.gc_roots(), &options).await?;
    segments.compact().await?;
    Ok(())
}

/// A workload under way.
struct Work {
    tree: Tree,
    segments: Arc<Segments>,
    dice: Dice,
    clock: Clock,
    /// How many changes were made.
    step: usize,
    /// The changes that the last sync or commit covered.
    synced: usize,
    /// The last number that was given.
    last: Option<Ino>,
    /// Whether nodes of the store are away at times.
    is_away: bool,
    crash: Arc<Crash>,
}

impl Work {
    fn pick(&mut self, from: &[Ino]) -> Option<Ino> {
        from.get(self.dice.roll(from.len())).copied()
    }

    /// One step: a change, a sync or a commit. What a change refuses is as good.
    async fn step(&mut self) -> Result<()> {
        self.clock.tick();
        match self.dice.roll(20) {
            0..2 => {
                self.tree.sync(self.tree.root()).await?;
                self.synced = self.step;
                return Ok(());
            }
            2 => {
                let committed = self.tree.commit("").await.map(drop);
                if committed.is_ok() {
                    self.synced = self.step;
                }
                return self.unless_away(committed);
            }
            3 => {
                let secret = u8::try_from(self.dice.roll(256)).unwrap_or(0);
                let collected = collect(&self.tree, &self.segments, secret).await;
                return self.unless_away(collected);
            }
            4..6 => return self.transaction().await,
            _ => {}
        }
        // Counted before it is tried: where the machine stops it may have happened.
        self.step += 1;
        let tree = self.tree.clone();
        self.try_change(&tree).await
    }

    async fn try_change(&mut self, vfs: &dyn Vfs) -> Result<()> {
        match self.change(vfs).await {
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Io | ErrorKind::ReadOnly) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Several changes that are one, or none, with syncs, commits and collections in between.
    async fn transaction(&mut self) -> Result<()> {
        let transaction = self.tree.begin();
        for _ in 0..self.dice.roll(8) {
            self.try_change(&transaction).await?;
            match self.dice.roll(12) {
                0 => {
                    self.tree.sync(self.tree.root()).await?;
                    self.synced = self.step;
                }
                1 => {
                    let committed = self.tree.commit("").await.map(drop);
                    if committed.is_ok() {
                        self.synced = self.step;
                    }
                    self.unless_away(committed)?;
                }
                2 => {
                    let collected = collect(&self.tree, &self.segments, 3).await;
                    self.unless_away(collected)?;
                }
                _ => {}
            }
        }
        self.step += 1;
        if self.dice.roll(4) > 0 {
            let ended = transaction.commit().await;
            assert!(ended.is_ok() || self.crash.happened(), "nobody was in its way: {ended:?}");
            ended?;
        }
        Ok(())
    }

    /// What nodes that are away do not do now, they do later.
    fn unless_away(&self, done: Result<()>) -> Result<()> {
        done.or_else(|error| {
            let is_away = self.is_away && error.kind() == ErrorKind::Unavailable && !self.crash.happened();
            if is_away { Ok(()) } else { Err(error) }
        })
    }

    async fn nodes(vfs: &dyn Vfs) -> Result<(Vec<Ino>, Vec<Ino>)> {
        let (mut dirs, mut others) = (vec![vfs.root()], Vec::new());
        let mut at = 0;
        while let Some(dir) = dirs.get(at).copied() {
            at += 1;
            for entry in list(vfs, dir, 1000).await? {
                match vfs.getattr(entry.ino).await?.kind {
                    FileKind::Dir => dirs.push(entry.ino),
                    _ => others.push(entry.ino),
                }
            }
        }
        Ok((dirs, others))
    }

    async fn change(&mut self, tree: &dyn Vfs) -> Result<()> {
        let (dirs, others) = Self::nodes(tree).await?;
        let names = ["a", "b", "c", "d"].map(name);
        let dir = self.pick(&dirs).unwrap_or(self.tree.root());
        let other_dir = self.pick(&dirs).unwrap_or(dir);
        let file = self.pick(&others).unwrap_or(dir);
        let (one, two) = (self.dice.roll(4), self.dice.roll(4));
        let (from, to) = (&names[one], &names[two]);
        let place = |dir, name| Place { dir, name, expect: None };
        let offset = self.dice.roll(8) as u64 * 512;
        match self.dice.roll(16) {
            0..4 => {
                let node =
                    [NewNode::File, NewNode::File, NewNode::Dir, NewNode::Symlink("to/there".into()), NewNode::Fifo];
                let node = node[self.dice.roll(5)].clone();
                let made = tree.create(dir, from, node, SetAttr::default()).await?;
                self.last = self.last.max(Some(made.node.ino));
                tree.release(made.node.ino, 1);
            }
            4..8 => {
                // Whole chunks and parts of chunks, at their borders and across them.
                let len = [10, 512, 1024, 3000][self.dice.roll(4)];
                let data = self.dice.bytes(len);
                tree.write(file, offset, data.into(), true).await?;
            }
            8 => {
                tree.setattr(file, SetAttr { size: Some(offset), ..Default::default() }).await?;
            }
            9 => {
                tree.setattr(file, SetAttr { mode: Some(0o600), uid: Some(7), ..Default::default() }).await?;
            }
            10 => {
                let made = tree.link(file, dir, from).await?;
                tree.release(made.node.ino, 1);
            }
            11 => {
                tree.remove(place(dir, from), RemoveKind::NonDir).await?;
            }
            12 => {
                tree.remove(place(dir, from), RemoveKind::Dir).await?;
            }
            13 => {
                let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][self.dice.roll(3)];
                tree.rename(place(dir, from), place(other_dir, to), mode).await?;
            }
            14 => {
                let xattr = XattrName::new(b"user.x")?;
                match self.dice.roll(2) {
                    0 => {
                        tree.setxattr(file, &xattr, "value".into(), XattrMode::Set).await?;
                    }
                    _ => {
                        tree.removexattr(file, &xattr).await?;
                    }
                }
            }
            _ => match self.dice.roll(3) {
                0 => {
                    tree.punch_hole(file, offset..offset + 2048).await?;
                }
                1 => {
                    tree.allocate(file, offset..offset + 5000, false).await?;
                }
                _ => {
                    let source = self.pick(&others).unwrap_or(file);
                    tree.copy_range((source, 0), (file, offset), 2048).await?;
                }
            },
        }
        Ok(())
    }
}

const STEP_COUNT: usize = 40;

/// Runs the workload of `seed` until the machine stops; tells what was seen after each change, if `watched`.
async fn run(seed: u64, disks: &Disks, states: Option<&mut Vec<String>>) -> Option<Work> {
    let clock = Clock::default();
    let is_away = seed % 3 == 2;
    let (tree, segments) = disks.open_while(&clock, is_away).await.ok()?;
    let (dice, crash) = (Dice::new(seed), disks.1.clone());
    let mut work = Work { tree, segments, dice, clock, step: 0, synced: 0, last: None, is_away, crash };
    let mut told = Vec::new();
    let watched = states.is_some();
    if watched {
        told.push(describe(&work.tree).await.expect("it is described"));
    }
    for _ in 0..STEP_COUNT {
        let before = work.step;
        if work.step().await.is_err() {
            break;
        }
        if watched && work.step > before {
            told.push(describe(&work.tree).await.expect("it is described"));
        }
    }
    if let Some(states) = states {
        *states = told;
    }
    Some(work)
}

/// How many machine stops a run of the workload is tried with.
async fn crash_everywhere(seed: u64) -> u64 {
    let mut states = Vec::new();
    let calls = {
        run(seed, &Disks::new(&Crash::never()), Some(&mut states)).await.expect("it opens");
        // Describing costs calls too: count those of a run without.
        let crash = Crash::never();
        run(seed, &Disks::new(&crash), None).await.expect("it opens");
        crash.calls()
    };
    let mut points = 0;
    for call in 0..calls {
        let crash = Crash::at(call);
        let stopped = Disks::new(&crash);
        let work = run(seed, &stopped, None).await;
        let (synced, issued) = work.as_ref().map_or((0, 0), |work| (work.synced, work.step));
        let given = work.as_ref().and_then(|work| work.last);
        drop(work);
        // The first recovery is stopped too, now and then.
        let again = if call.is_multiple_of(3) { Crash::at(call % 97) } else { Crash::never() };
        let mut disks = stopped.restart(seed ^ call, &again);
        if again.happened() || disks.open(&Clock::default()).await.is_err() {
            let never = Crash::never();
            disks = disks.restart(seed ^ call ^ 1, &never);
        }
        let never = Crash::never();
        let disks = disks.restart(seed ^ call ^ 2, &never);
        let tree = disks.open(&Clock::default()).await;
        let (tree, segments) = tree.unwrap_or_else(|error| panic!("seed {seed}, call {call}: {error:#}"));
        let found = describe(&tree).await.unwrap_or_else(|error| panic!("seed {seed}, call {call}: {error:#}"));
        let last = issued.min(states.len() - 1);
        assert!(
            states[synced..=last].contains(&found),
            "seed {seed}, call {call}: {found}\nis none of the states {synced} to {last}, the first of which is\n{}",
            states[synced]
        );
        assert_sound(&tree, &format!("seed {seed}, call {call}")).await;
        // All of it is there, and what is not garbage stays.
        collect(&tree, &segments, 7).await.unwrap_or_else(|error| panic!("seed {seed}, call {call}: {error:#}"));
        assert_eq!(describe(&tree).await.expect("described"), found, "seed {seed}, call {call}: after a collection");
        // It goes on from there: what is committed is what is seen, and equals an import.
        tree.commit("").await.unwrap_or_else(|error| panic!("seed {seed}, call {call}: {error:#}"));
        assert_eq!(describe(&tree).await.expect("described"), found, "seed {seed}, call {call}: after a commit");
        assert_sound(&tree, &format!("seed {seed}, call {call}: after a commit")).await;
        // A number that the crash undid is in somebody's handle: it is not given again.
        let (root, unused) = (tree.root(), name("unused"));
        let made = tree.create(root, &unused, NewNode::File, SetAttr::default()).await.expect("create");
        assert!(Some(made.node.ino) > given, "seed {seed}, call {call}: {:?} after {given:?}", made.node.ino);
        points += 1;
    }
    points
}

#[test]
fn a_crash_at_any_call_leaves_a_state_no_older_than_the_last_sync() {
    let threads: Vec<_> = (0..THREAD_COUNT)
        .map(|first| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                runtime.block_on(async {
                    let (mut points, mut seed) = (0, first);
                    while points < point_count() / THREAD_COUNT {
                        points += crash_everywhere(seed).await;
                        seed += THREAD_COUNT;
                    }
                    (points, seed)
                })
            })
        })
        .collect();
    for thread in threads {
        let (points, seed) = thread.join().expect("no state was lost");
        println!("{points} crash points of each {THREAD_COUNT}th seed below {seed}");
    }
}

/// Each takes the next seed that is its own.
const THREAD_COUNT: u64 = 2;

/// How many crash points are tried at least, whatever a seed comes to: 10,000, or as `MUXFS_CRASH_POINTS` says.
fn point_count() -> u64 {
    std::env::var("MUXFS_CRASH_POINTS").map_or(10_000, |text| text.parse().expect("a number of crash points"))
}

/// A server that is killed has told its clients of names that no sync covers, where it was told not to wait for one. They
/// were lost, though the system never went down: nothing had been handed to it yet.
#[tokio::test]
async fn a_tree_that_writes_through_loses_no_name_when_its_process_is_killed() {
    for write_through in [true, false] {
        let (crash, clock) = (Crash::never(), Clock::default());
        let disk = Arc::new(CrashMedia::new(crash.clone()));
        let dag = Dag::new(Arc::new(crate::block::Mem::default()), DagOptions::default());
        let heads = Arc::new(crate::heads::MemHeads::default());
        let options = TreeOptions { write_through, env: clock.env(), ..options() };
        let open = |journal| Tree::open(dag.clone(), journal, heads.clone(), options.clone());
        let tree = open(disk.clone()).await.expect("the tree opens");
        let root = tree.root();
        let new = |kind| (kind, SetAttr { mode: Some(0o700), ..SetAttr::default() });
        let mut inos = Vec::new();
        for (text, (kind, set)) in
            [("dir", new(NewNode::Dir)), ("gone", new(NewNode::File)), ("old", new(NewNode::File))]
        {
            inos.push(tree.create(root, &name(text), kind, set).await.expect("create").node.ino);
        }
        tree.sync(root).await.expect("sync");
        // None of these waits for a disk.
        let place = |text| (root, text);
        let (gone, old, linked) = (name("gone"), name("old"), name("linked"));
        let at = |(dir, name)| Place { dir, name, expect: None };
        tree.remove(at(place(&gone)), RemoveKind::NonDir).await.expect("remove");
        tree.rename(at(place(&old)), at((inos[0], &old)), RenameMode::Replace).await.expect("rename");
        tree.link(inos[2], root, &linked).await.expect("link");
        let (link, set) = new(NewNode::Symlink("target".into()));
        tree.create(inos[0], &name("symlink"), link, set).await.expect("create");
        tree.setattr(inos[2], SetAttr { mode: Some(0o640), ..SetAttr::default() }).await.expect("setattr");
        let before = describe(&tree).await.expect("it can be read");
        let killed = Arc::new(disk.reopen(crash));
        drop(tree);
        let after = describe(&open(killed).await.expect("the tree opens")).await.expect("it can be read");
        assert_eq!(after == before, write_through, "before:\n{before}after:\n{after}");
    }
}
