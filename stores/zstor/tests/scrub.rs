//! Goal: a scrub over node directories finds and heals what was lost and damaged there; however often it is interrupted,
//! each block is done once; one at a time; and a pass is due exactly when something may be lacking that nobody noted.
//! Method: directories are emptied and their files damaged between two openings, passes are dropped after some steps, and
//! stores are closed, or not.

mod released;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use muxfs::{BlockKey, BlockStore, Cid, ErrorKind, block::BlockShare};
use muxfs_zstor::{Node, Place, RootKey, ScrubPass, ScrubTotals, Zstor, ZstorOptions};
use tempfile::TempDir;

use released::released;

const BLOCKS: u64 = 40;
const NEVER: Duration = Duration::MAX;

struct World(TempDir);

impl World {
    async fn with_blocks() -> Self {
        let world = Self(tempfile::tempdir().expect("a directory"));
        fs::create_dir(world.local()).expect("made");
        let zstor = world.open().await;
        for n in 0..BLOCKS {
            zstor.blocks().put(&key(n), block(n)).await.expect("put");
        }
        zstor.blocks().flush().await.expect("flushed");
        // The first pass of a store is due when it is made.
        finish(zstor.scrubber().scrub(false, None).await.expect("begun")).await;
        zstor.close().await.expect("closed");
        world
    }

    fn local(&self) -> PathBuf {
        self.0.path().join("local")
    }

    fn node(&self, n: usize) -> PathBuf {
        self.0.path().join(format!("node{n}"))
    }

    async fn open(&self) -> Zstor {
        let node = |n: usize| Node {
            name: format!("{n}"),
            group: Some(format!("rack {}", n / 2)),
            place: Place::Dir { path: self.node(n), is_made: true },
            is_drained: false,
        };
        let options = ZstorOptions::new(4, 2, (0..6).map(node).collect());
        released(self.0.path()).await;
        Zstor::open(&options, &RootKey::new([7; 32]), &self.local(), &muxfs::testing::env()).await.expect("opens")
    }

    /// Empties a node as who replaces its disk does.
    fn replace(&self, n: usize) {
        fs::remove_dir_all(self.node(n)).expect("removed");
        fs::create_dir(self.node(n)).expect("made");
        fs::write(self.node(n).join("muxfs-node"), "").expect("written");
    }
}

/// As content has keys: the multihash of a CID.
fn key(n: u64) -> BlockKey {
    BlockKey::new(&[&[0x12, 32][..], &[u8::try_from(n).expect("few"); 32]].concat()).expect("a key")
}

fn cid(n: u64) -> String {
    Cid::from_bytes(&[&[1, 0x55][..], key(n).as_bytes()].concat()).expect("a CID").to_string()
}

fn block(n: u64) -> Bytes {
    (0..20_000).map(|at: u64| (at * (n + 1) % 251).to_le_bytes()[0]).collect::<Vec<_>>().into()
}

async fn finish(mut pass: ScrubPass) -> ScrubTotals {
    while pass.step().await.expect("a step") {}
    pass.totals()
}

/// Flips a byte in the middle of the longest file of a directory.
fn damage(dir: &Path) {
    let files = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").path());
    let longest = files.max_by_key(|file| fs::metadata(file).expect("there").len()).expect("one");
    let mut bytes = fs::read(&longest).expect("read");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(longest, bytes).expect("written");
}

#[tokio::test]
async fn what_nodes_lack_and_what_rots_is_healed_and_then_others_may_be_lost() {
    let world = World::with_blocks().await;
    damage(&world.node(4).join("blocks"));
    let zstor = world.open().await;
    let totals = finish(zstor.scrubber().scrub(false, None).await.expect("begun")).await;
    assert_eq!((totals.missing, totals.bad, totals.healed), (0, 1, 1), "{totals:?}");
    zstor.close().await.expect("closed");
    drop(zstor);
    world.replace(1);
    let zstor = world.open().await;
    assert!(zstor.scrubber().is_due(NEVER), "a node has nothing");
    let totals = finish(zstor.scrubber().scrub(false, None).await.expect("begun")).await;
    // It is being filled by itself meanwhile.
    assert!(totals.missing <= BLOCKS && totals.missing == totals.healed && totals.bad == 0, "{totals:?}");
    assert_eq!((totals.blocks, totals.weak, totals.unhealed), (BLOCKS, 0, 0), "{totals:?}");
    assert!(!zstor.scrubber().is_due(NEVER) && zstor.scrubber().is_due(Duration::ZERO));
    let again = finish(zstor.scrubber().scrub(false, None).await.expect("begun")).await;
    assert_eq!((again.bad, again.missing, again.healed), (0, 0, 0), "{again:?}");
    zstor.close().await.expect("closed");
    drop(zstor);
    for n in [0, 3] {
        fs::remove_dir_all(world.node(n)).expect("removed");
    }
    let zstor = world.open().await;
    for n in 0..BLOCKS {
        assert_eq!(zstor.blocks().get(&key(n)).await.expect("read"), Some(block(n)));
    }
}

/// Dropped after a few steps, with and without the store being closed behind it.
#[tokio::test]
async fn an_interrupted_pass_is_gone_on_with() {
    let world = World::with_blocks().await;
    damage(&world.node(2).join("blocks"));
    let mut pieces = 0;
    let totals = loop {
        let zstor = world.open().await;
        let mut pass = zstor.scrubber().scrub(false, None).await.expect("begun");
        assert_eq!(pass.is_resumed(), pieces > 0);
        pieces += 1;
        let mut is_going_on = true;
        for _ in 0..9 {
            is_going_on = is_going_on && pass.step().await.expect("a step");
        }
        let totals = pass.totals();
        drop(pass);
        if !is_going_on {
            break totals;
        }
        let state = zstor.scrubber().state();
        assert_eq!(state.current.as_ref(), Some(&totals), "{pieces}");
        zstor.close().await.expect("closed");
    };
    assert_eq!((pieces, totals.blocks, totals.shards), (5, BLOCKS, 6 * BLOCKS));
    assert_eq!((totals.bad, totals.healed, totals.unhealed), (1, 1, 0));
}

#[tokio::test]
async fn who_is_asked_takes_over_and_only_one_does() {
    let world = World::with_blocks().await;
    let zstor = world.open().await;
    let scrubber = zstor.scrubber();
    let mut background = scrubber.scrub_in_background(None).await.expect("begun").expect("nobody else does");
    for _ in 0..10 {
        assert!(background.step().await.expect("a step"));
    }
    assert!(scrubber.scrub_in_background(None).await.expect("no error").is_none(), "one at a time");
    let until_wanted = background.until_wanted();
    assert!(until_wanted.now_or_never().is_none());
    let asked = tokio::spawn({
        let scrubber = scrubber.clone();
        async move { scrubber.scrub(false, None).await }
    });
    background.until_wanted().await;
    drop(background);
    let pass = asked.await.expect("no panic").expect("its turn");
    assert!(pass.is_resumed() && pass.totals().blocks == 10);
    assert_eq!(scrubber.scrub(false, None).await.expect_err("one at a time").kind(), ErrorKind::Unavailable);
    assert!(scrubber.scrub_in_background(None).await.expect("no error").is_none());
    assert_eq!(finish(pass).await.blocks, BLOCKS);
    let anew = scrubber.scrub(true, None).await.expect("begun");
    assert!(!anew.is_resumed() && anew.totals().blocks == 0);
}

#[tokio::test]
async fn a_pass_is_due_when_something_may_be_lacking_that_nobody_noted() {
    let world = World::with_blocks().await;
    let is_due = async |zstor: &Zstor| zstor.scrubber().is_due(NEVER);
    let zstor = world.open().await;
    assert!(!is_due(&zstor).await, "all was closed in good order");
    zstor.scrubber().begin_serving().await.expect("noted");
    drop(zstor);
    let zstor = world.open().await;
    assert!(is_due(&zstor).await, "it ended without a word");
    // Half a pass does not do, nor does a whole one without all nodes.
    let mut pass = zstor.scrubber().scrub(false, None).await.expect("begun");
    for _ in 0..5 {
        assert!(pass.step().await.expect("a step"));
    }
    drop(pass);
    assert!(is_due(&zstor).await);
    finish(zstor.scrubber().scrub(false, None).await.expect("begun")).await;
    assert!(!is_due(&zstor).await);
    zstor.close().await.expect("closed");
    drop(zstor);

    fs::rename(world.node(5), world.0.path().join("away")).expect("moved");
    let zstor = world.open().await;
    zstor.blocks().put(&key(99), block(99)).await.expect("without one");
    let totals = finish(zstor.scrubber().scrub(false, None).await.expect("begun")).await;
    assert_eq!((totals.weak, totals.unhealed), (BLOCKS + 1, 0));
    assert!(totals.named.iter().all(|named| named.readable && named.why.starts_with("5: ")), "{totals:?}");
    assert!((0..BLOCKS).any(|n| totals.named[0].block == cid(n)), "by its CID: {totals:?}");
    assert!(!is_due(&zstor).await, "what a lost node misses is owed to it");
    zstor.close().await.expect("closed");
    drop(zstor);
    for file in fs::read_dir(world.local().join("scrub")).expect("listed") {
        let bytes = fs::read(file.expect("an entry").path()).expect("read");
        let text = String::from_utf8_lossy(&bytes);
        assert!(!bytes.is_empty() && !text.contains(&totals.named[0].block) && !text.contains("began"));
    }
    fs::rename(world.0.path().join("away"), world.node(5)).expect("moved back");
    let zstor = world.open().await;
    let totals = finish(zstor.scrubber().scrub(false, None).await.expect("begun")).await;
    assert!(totals.missing <= 1 && totals.weak == 0, "the last block may be mended already: {totals:?}");
    // What was put there and not synced nobody can owe to it.
    assert!(!is_due(&zstor).await);
    fs::rename(world.node(5), world.0.path().join("away")).expect("moved");
    zstor.blocks().put(&key(98), block(98)).await.expect("without one");
    assert_eq!(zstor.status().await.loss.spare, Some(1));
    assert!(is_due(&zstor).await, "a node went");
    zstor.close().await.expect("closed");
    drop(zstor);
    fs::rename(world.0.path().join("away"), world.node(5)).expect("moved back");
    let zstor = world.open().await;
    assert!(is_due(&zstor).await, "it is back");
    finish(zstor.scrubber().scrub(false, None).await.expect("begun")).await;
    assert!(!is_due(&zstor).await);
}

/// A start is worth more than how far a scrub was.
#[tokio::test]
async fn what_cannot_be_read_of_scrubs_costs_a_pass() {
    let world = World::with_blocks().await;
    damage(&world.local().join("scrub"));
    let zstor = world.open().await;
    assert!(zstor.scrubber().is_due(NEVER));
    assert_eq!(finish(zstor.scrubber().scrub(false, None).await.expect("begun")).await.blocks, BLOCKS);
    zstor.close().await.expect("closed");
}

#[tokio::test]
async fn a_store_tells_how_it_does_and_what_would_be() {
    let world = World::with_blocks().await;
    let zstor = world.open().await;
    let status = zstor.status().await;
    assert_eq!((status.loss.readable, status.loss.spare), (BlockShare::All, Some(2)));
    for node in &status.nodes {
        assert!(node.lost.is_none() && node.answer_time.is_some() && node.len > Some(1000), "{node:?}");
        assert!(node.free > Some(0));
    }
    let plan = async |lose: &[&str]| zstor.plan(&lose.iter().map(ToString::to_string).collect::<Vec<_>>()).await;
    let of = |plan: muxfs_zstor::ZstorPlan| (plan.lose, plan.loss.readable, plan.loss.writable, plan.loss.spare);
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (all, none) = (BlockShare::All, BlockShare::None);
    assert_eq!(of(plan(&["3"]).await.expect("told")), (names(&["3"]), all, all, Some(1)));
    assert_eq!(of(plan(&["rack 2"]).await.expect("told")), (names(&["4", "5"]), all, none, Some(0)));
    assert_eq!(of(plan(&["rack 2", "5, 0"]).await.expect("told")), (names(&["0", "4", "5"]), none, none, None));
    let error = plan(&["0,six"]).await.expect_err("none");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let told = format!("{error:#}");
    assert!(told.contains("six") && told.contains("0, 1, 2, 3, 4, 5") && told.contains("rack 0, rack 1"), "{told}");

    fs::remove_dir_all(world.node(1)).expect("removed");
    let plan = plan(&["3", "1"]).await.expect("told");
    assert_eq!((plan.lose.len(), plan.lost_now.len(), plan.loss.spare), (2, 0, Some(0)));
    let status = zstor.status().await;
    let lost: Vec<_> = status.nodes.iter().filter(|node| node.lost.is_some()).map(|node| &*node.name).collect();
    assert_eq!((lost, status.loss.spare), (vec!["1"], Some(1)));
    zstor.close().await.expect("closed");
    drop(zstor);

    // However few are there, who looks is told.
    for n in [0, 2, 3, 4] {
        fs::remove_dir_all(world.node(n)).expect("removed");
    }
    let of_number = |n: usize| Node {
        name: format!("{n}"),
        group: None,
        place: Place::Dir { path: world.node(n), is_made: true },
        is_drained: false,
    };
    let options = ZstorOptions::new(4, 2, (0..6).map(of_number).collect());
    let zstor = Zstor::look(&options, &RootKey::new([7; 32]), &world.local(), &muxfs::testing::env()).await;
    let status = zstor.expect("opens").status().await;
    assert_eq!(status.nodes.iter().filter(|node| node.lost.is_some()).count(), 5);
    assert_eq!((status.loss.readable, status.loss.spare), (none, None));
}
