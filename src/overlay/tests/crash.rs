//! The machine stops at any call of any disk: what is found then is a state that was, no older than the last sync, with all
//! that is as below where it was.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use super::*;
use crate::{
    Cid, Env,
    block::{Segments, SegmentsOptions},
    heads::LogHeads,
    testing::fault::{Crash, CrashMedia, Dice},
};

/// How many histories, and how long each is.
const SEED_COUNT: u64 = 14;
const STEP_COUNT: usize = 16;

/// A clock that stands still within a step, so that runs that look more often tell the same times.
#[derive(Debug, Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn env(&self) -> Env {
        let time = self.0.clone();
        let now = move || SystemTime::UNIX_EPOCH + Duration::from_secs(time.load(Ordering::Relaxed));
        Env { now: Arc::new(now), ..testing::env() }
    }
}

/// The disks of the tree, in one machine, and what it lies over, on another.
struct World {
    disks: [Arc<CrashMedia>; 4],
    crash: Arc<Crash>,
    lower: Arc<ModelFs>,
}

impl World {
    fn new(lower: &Arc<ModelFs>, crash: &Arc<Crash>) -> Self {
        let disks = [(); 4].map(|()| Arc::new(CrashMedia::new(crash.clone())));
        Self { disks, crash: crash.clone(), lower: lower.clone() }
    }

    fn restart(&self, seed: u64) -> Self {
        let crash = Crash::never();
        let next = |at: usize| Arc::new(self.disks[at].restart(seed * 4 + at as u64, crash.clone()));
        Self { disks: [0, 1, 2, 3].map(next), crash: crash.clone(), lower: self.lower.clone() }
    }

    async fn open(&self, clock: &Clock) -> Result<Overlay> {
        let [data, index, journal, heads] = self.disks.clone();
        let small = SegmentsOptions { segment_len_max: 1 << 14, ..Default::default() };
        let segments = Arc::new(Segments::open(data, index, small, &clock.env()).await?);
        let params = Params { chunk_len: 1024, width: 8, ..Profile::default().params() };
        let dag = Dag::new(segments, DagOptions { params, ..DagOptions::default() });
        let heads = Arc::new(LogHeads::open(heads, &clock.env()).await?);
        let options = TreeOptions { auto_commit: None, ..TreeOptions::new(name("main"), clock.env()) };
        let tree = Tree::open(dag, journal, heads, options).await?;
        let overlay = Overlay::new(tree, self.lower.clone()).over(Vec::new());
        overlay.ready().await?;
        Ok(overlay)
    }
}

struct Work {
    overlay: Overlay,
    dice: Dice,
    clock: Clock,
    /// How many changes were made, and how many the last sync covered.
    step: usize,
    synced: usize,
    /// The commits that were made.
    kept: Vec<Cid>,
}

impl Work {
    /// A directory and a node, by paths that mostly lead somewhere: nothing is looked into that the change does not need.
    async fn node(&mut self, paths: &[&str]) -> Result<Ino> {
        let path = paths[self.dice.roll(paths.len())];
        let mut at = self.overlay.root();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            at = self.overlay.lookup(at, &name(part)).await?.ino;
        }
        Ok(at)
    }

    async fn step(&mut self) -> Result<()> {
        self.clock.0.fetch_add(1, Ordering::Relaxed);
        match self.dice.roll(14) {
            0..2 => {
                self.overlay.sync(self.overlay.root()).await?;
                self.synced = self.step;
                return Ok(());
            }
            2 => {
                self.kept.push(self.overlay.tree().commit("").await?);
                self.synced = self.step;
                return Ok(());
            }
            3..5 if !self.kept.is_empty() => {
                // What stood is committed first: then it is as it was then, durably.
                let kept = self.kept[self.dice.roll(self.kept.len())];
                self.step += 1;
                self.kept.push(self.overlay.tree().checkout(&kept).await?);
                self.synced = self.step;
                return Ok(());
            }
            _ => {}
        }
        self.step += 1;
        match self.change().await {
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Io | ErrorKind::ReadOnly) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    async fn change(&mut self) -> Result<()> {
        const DIRS: [&str; 4] = ["", "b", "b/c", "c"];
        const FILES: [&str; 6] = ["a", "a", "b/a", "c", "b/c/a", "d"];
        let names = ["a", "b", "c", "d"].map(name);
        let (one, two) = (self.dice.roll(4), self.dice.roll(4));
        let (from, to) = (&names[one], &names[two]);
        let what = self.dice.roll(12);
        match what {
            0..4 => {
                let file = self.node(&FILES).await?;
                let (offset, len) = (self.dice.roll(6) as u64 * 700, [3, 1024, 3000][self.dice.roll(3)]);
                let data = self.dice.bytes(len);
                self.overlay.write(file, offset, data.into(), true).await?;
            }
            4 => {
                let file = self.node(&FILES).await?;
                let size = Some([0, 1000, 3000, 6000][self.dice.roll(4)]);
                self.overlay.setattr(file, SetAttr { size, mode: Some(0o604), ..SetAttr::default() }).await?;
            }
            5 => {
                let file = self.node(&FILES).await?;
                self.overlay.setattr(file, SetAttr { uid: Some(9), ..SetAttr::default() }).await?;
            }
            6 => {
                let dir = self.node(&DIRS).await?;
                let node = [NewNode::File, NewNode::Dir][self.dice.roll(2)].clone();
                self.overlay.create(dir, from, node, SetAttr::default()).await?;
            }
            7 => {
                let dir = self.node(&DIRS).await?;
                let kind = [RemoveKind::NonDir, RemoveKind::Dir][self.dice.roll(2)];
                self.overlay.remove(place(dir, from), kind).await?;
            }
            8 => {
                let (file, dir) = (self.node(&FILES).await?, self.node(&DIRS).await?);
                self.overlay.link(file, dir, to).await?;
            }
            9 => {
                let (file, target) = (self.node(&FILES).await?, self.node(&FILES).await?);
                self.overlay.copy_range((file, 100), (target, 0), 2000).await?;
            }
            _ => {
                let (dir, other) = (self.node(&DIRS).await?, self.node(&DIRS).await?);
                let mode = [RenameMode::Replace, RenameMode::Exchange][self.dice.roll(2)];
                self.overlay.rename(place(dir, from), place(other, to), mode).await?;
            }
        }
        Ok(())
    }
}

/// What is seen, looked at from beside: who looks has entries come, which a run that nobody watches would not have. The tree
/// says what is as below, and the file system below what that is.
async fn seen(world: &World, overlay: &Overlay) -> Result<String> {
    async fn tell(tree: &dyn Vfs, lower: &ModelFs, dir: Dir, path: String, text: &mut String) -> Result<()> {
        let mut found = Vec::new();
        match dir {
            Dir::Here(ino) => {
                for entry in list(tree, ino, 1000).await? {
                    let attr = tree.lookup(ino, &entry.name).await?;
                    let mark = XattrName::new(BELOW_XATTR.as_bytes())?;
                    let below =
                        tree.getxattr(attr.ino, &mark).await.ok().map(|mark| Below::decode(&mark)).transpose()?;
                    let below = match below {
                        Some(below) => Some(lower.resolve(&below.handle).await?),
                        None => None,
                    };
                    found.push((entry.name, Some(attr), below));
                }
            }
            Dir::Below(ino) => {
                for entry in list(lower, ino, 1000).await? {
                    found.push((entry.name.clone(), None, Some(lower.lookup(ino, &entry.name).await?)));
                }
            }
        }
        for (name, here, below) in found {
            let path = format!("{path}/{name}");
            let Some(known) = here.as_ref().or(below.as_ref()) else { continue };
            let (kind, mode, uid, mtime) = (known.kind, known.mode, known.uid, known.mtime);
            let (vfs, from): (&dyn Vfs, _) = below.as_ref().map_or((tree, known), |below| (lower, below));
            let bytes = match kind {
                FileKind::File => read_to_end(vfs, from.ino, 1 << 24).await?,
                FileKind::Symlink => vfs.readlink(from.ino).await?,
                _ => Bytes::new(),
            };
            let nlink = if kind == FileKind::Dir { 0 } else { known.nlink };
            let digest = crate::cid_of(crate::Codec::Raw, &bytes);
            writeln!(text, "{path} {kind:?} {mode:o} {uid} {nlink} {mtime:?} {} {digest}", bytes.len())
                .expect("text is written");
            if kind == FileKind::Dir {
                let dir = match (&here, &below) {
                    (_, Some(below)) => Dir::Below(below.ino),
                    _ => Dir::Here(known.ino),
                };
                Box::pin(tell(tree, lower, dir, path, text)).await?;
            }
        }
        Ok(())
    }
    let tree = overlay.tree();
    let mark = XattrName::new(BELOW_XATTR.as_bytes())?;
    let is_waiting = tree.getxattr(tree.root(), &mark).await.is_ok();
    let top = if is_waiting { Dir::Below(world.lower.root()) } else { Dir::Here(tree.root()) };
    let mut text = String::new();
    tell(tree, &world.lower, top, String::new(), &mut text).await?;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

#[derive(Clone, Copy)]
enum Dir {
    Here(Ino),
    Below(Ino),
}

async fn run(seed: u64, world: &World, states: Option<&mut Vec<String>>) -> Option<Work> {
    let clock = Clock::default();
    let overlay = world.open(&clock).await.ok()?;
    let mut work = Work { overlay, dice: Dice::new(seed), clock, step: 0, synced: 0, kept: Vec::new() };
    let mut told = Vec::new();
    if states.is_some() {
        told.push(seen(world, &work.overlay).await.expect("it is described"));
    }
    for _ in 0..STEP_COUNT {
        let before = work.step;
        if work.step().await.is_err() {
            break;
        }
        if states.is_some() && work.step > before {
            told.push(seen(world, &work.overlay).await.expect("it is described"));
        }
    }
    if let Some(states) = states {
        *states = told;
    }
    Some(work)
}

/// What was seen when a commit was made is seen when it is checked out, whatever came and changed in between.
#[tokio::test]
async fn a_checkout_shows_what_was_seen_then() {
    const LONG: usize = 120;
    let lower = ModelFs::new(testing::env());
    build(&*lower, lower.root()).await;
    let mut checkout_count = 0;
    for seed in 100..100 + SEED_COUNT {
        let world = World::new(&lower, &Crash::never());
        let clock = Clock::default();
        let overlay = world.open(&clock).await.expect("it opens");
        let mut work = Work { overlay, dice: Dice::new(seed), clock, step: 0, synced: 0, kept: Vec::new() };
        let mut kept: Vec<(Cid, String, String)> = Vec::new();
        for step in 0..LONG {
            work.step().await.expect("nothing fails");
            if step % 10 == 9 {
                let cid = work.overlay.tree().commit("").await.expect("committed");
                let found = seen(&world, &work.overlay).await.expect("described");
                // Who looks has more come, which the commit has not: what is seen is the same.
                kept.push((cid, found, describe(&work.overlay).await.expect("described")));
            }
            if step % 15 == 14 {
                let (cid, found, shown) = &kept[work.dice.roll(kept.len())];
                work.overlay.tree().checkout(cid).await.expect("checked out");
                assert_eq!(seen(&world, &work.overlay).await.expect("described"), *found, "seed {seed}, step {step}");
                assert_eq!(describe(&work.overlay).await.expect("described"), *shown, "seed {seed}, step {step}");
                checkout_count += 1;
            }
        }
    }
    assert!(checkout_count >= 100);
}

#[tokio::test]
async fn a_crash_at_any_call_leaves_a_state_no_older_than_the_last_sync() {
    let lower = ModelFs::new(testing::env());
    build(&*lower, lower.root()).await;
    let mut points = 0;
    for seed in 0..SEED_COUNT {
        let mut states = Vec::new();
        Box::pin(run(seed, &World::new(&lower, &Crash::never()), Some(&mut states))).await.expect("it opens");
        let counted = World::new(&lower, &Crash::never());
        Box::pin(run(seed, &counted, None)).await.expect("it opens");
        for call in 0..counted.crash.calls() {
            let stopped = World::new(&lower, &Crash::at(call));
            let work = Box::pin(run(seed, &stopped, None)).await;
            let (synced, issued) = work.as_ref().map_or((0, 0), |work| (work.synced, work.step));
            drop(work);
            let world = stopped.restart(seed ^ call);
            let at = format!("seed {seed}, call {call}");
            let overlay = world.open(&Clock::default()).await.unwrap_or_else(|error| panic!("{at}: {error:#}"));
            let found = seen(&world, &overlay).await.unwrap_or_else(|error| panic!("{at}: {error:#}"));
            let last = issued.min(states.len() - 1);
            assert!(
                states[synced..=last].contains(&found),
                "{at}: {found}\nis none of the states {synced} to {last}, the first of which is\n{}",
                states[synced]
            );
            // What the overlay itself shows is that, and the tree below fits together.
            let shown = describe(&overlay).await.unwrap_or_else(|error| panic!("{at}: {error:#}"));
            assert_eq!(shown.lines().count(), found.lines().count(), "{at}");
            overlay.tree().commit("").await.unwrap_or_else(|error| panic!("{at}: {error:#}"));
            assert_eq!(describe(&overlay).await.expect("described"), shown, "{at}: after a commit");
            points += 1;
        }
    }
    println!("{points} crash points");
    assert!(points >= 800, "only {points} crash points");
}
