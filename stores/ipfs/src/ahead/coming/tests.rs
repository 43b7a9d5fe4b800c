//! CARs that come as a test says, on a clock of its own: no test waits, and no gateway is asked.

use bytes::Bytes;
use futures_util::poll;
use muxfs::{
    Codec,
    block::{Checks, Mem},
    cid_of,
};

use super::{super::came::STALL_MAX, *};
use crate::{HttpOptions, gateway::Gateway};

const LEAF_LEN: usize = 1 << 20;

async fn block(n: usize) -> Checked {
    let block = Bytes::from([&n.to_le_bytes()[..], &vec![0; LEAF_LEN - 8]].concat());
    Checks::new().check(&cid_of(Codec::Raw, &block), block).await.expect("its own")
}

/// One that comes as a test says.
fn of_nothing(file: Option<Arc<File>>, source: Arc<Source>, state: Arc<State>) -> Coming {
    Coming { file, source, state, _task: AbortOnDropHandle::new(tokio::spawn(async {})) }
}

async fn coming(count: usize) -> (Coming, Vec<Checked>) {
    let blocks = futures_util::future::join_all((0..count).map(block)).await;
    let file = Arc::new(File::new(cid_of(Codec::DagPb, b"")));
    let source = Arc::new(Source::new(Arc::new(Mem::default()), None));
    let state = State::new(Came::new(0..(count * LEAF_LEN) as u64, 0, None));
    (of_nothing(Some(file), source, state), blocks)
}

fn at(n: usize) -> u64 {
    (n * LEAF_LEN) as u64
}

/// No more than a window waits for a reader; one that waits for what is behind it lets what it did not want go.
#[tokio::test(start_paused = true)]
async fn so_much_is_kept_of_what_nobody_asked_for_yet() {
    let (coming, blocks) = coming(20).await;
    let fits = WINDOW_LEN / LEAF_LEN;
    let keep = |n: usize| coming.state.keep(blocks[n].clone(), at(n + 1));
    let wait = |n: usize| coming.wait(blocks[n].key(), Some(at(n)));
    for n in 0..fits {
        keep(n).await;
    }
    let mut next = Box::pin(keep(fits));
    assert!(poll!(&mut next).is_pending(), "the window is full");
    assert!(wait(0).await.expect("it came") == blocks[0]);
    next.await;
    // The reader jumped to what comes next.
    let mut waiting = Box::pin(wait(fits + 1));
    assert!(poll!(&mut waiting).is_pending());
    keep(fits + 1).await;
    assert!(waiting.await.expect("it came") == blocks[fits + 1]);
    assert!(coming.state.came().len() <= WINDOW_LEN);
    assert!(wait(1).await.is_none(), "it was let go, and is asked for by itself");
    assert!(wait(0).await.is_none(), "it was given");
}

/// What a path leads through comes once, each block led to by one before, and no more of it than paths have.
#[tokio::test]
async fn no_path_is_longer_than_paths_are() {
    let checked = async |block: Vec<u8>| {
        let block = Bytes::from(block);
        Checks::new().check(&cid_of(Codec::DagCbor, &block), block).await.expect("its own")
    };
    // From the last to the first: each holds the key of the next.
    let mut blocks = vec![checked(b"end".to_vec()).await];
    for _ in 0..PASSED_COUNT_MAX {
        let key = blocks.last().expect("one").key().as_bytes().to_vec();
        blocks.push(checked(key).await);
    }
    blocks.reverse();
    let state = State::new(Came::new(0..0, 0, Some(blocks[0].key().clone())));
    let refused = |block: &Checked| state.keep_passed(block.clone()).expect_err("refused").kind();
    assert_eq!(refused(&blocks[1]), ErrorKind::Corrupt, "nothing led to it yet");
    for block in &blocks[..PASSED_COUNT_MAX] {
        state.keep_passed(block.clone()).expect("it is led to");
        assert_eq!(refused(block), ErrorKind::Corrupt, "it came");
    }
    assert_eq!(refused(&blocks[PASSED_COUNT_MAX]), ErrorKind::TooLarge);
}

/// Also where it came to its end, and also while something that is nobody's comes.
#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_goes() {
    let (coming, blocks) = coming(4).await;
    coming.state.keep(blocks[0].clone(), at(1)).await;
    let begun = Instant::now();
    coming.state.left().await;
    assert_eq!(begun.elapsed(), IDLE_MAX);
    coming.state.end();
    assert!(!coming.is_done(), "what is there may be asked for");
    coming.state.idle().await;
    coming.state.clear();
    assert!(coming.is_done());
}

/// While somebody waits it is not left, and who waits is told when it is over.
#[tokio::test(start_paused = true)]
async fn who_waits_is_told_of_the_end() {
    let (coming, blocks) = coming(4).await;
    let mut waiting = Box::pin(coming.wait(blocks[3].key(), Some(at(3))));
    assert!(poll!(&mut waiting).is_pending());
    let mut left = Box::pin(coming.state.left());
    assert!(poll!(&mut left).is_pending());
    tokio::time::advance(10 * IDLE_MAX).await;
    assert!(poll!(&mut left).is_pending());
    coming.give_up(Duration::from_secs(2), false);
    assert!(waiting.await.is_none());
    left.await;
    assert!(coming.wait(blocks[2].key(), Some(at(2))).await.is_none(), "the next one does not wait at all");
}

/// A gateway that nobody reaches, as a source.
fn a_gateway() -> (Arc<Gateway>, Arc<Source>) {
    let url = "http://127.0.0.1:1".parse().expect("an address");
    let gateway = Arc::new(Gateway::new(url, HttpOptions::default()));
    (gateway.clone(), Arc::new(Source::new(Arc::new(Mem::default()), Some(gateway))))
}

/// A path once cost two seconds for each of its parts, at a gateway that answers everything but CARs of paths: that such a
/// CAR was waited for in vain, or another source was faster, was not noted before the first block of it had come.
#[tokio::test(start_paused = true)]
async fn a_gateway_whose_cars_hang_is_left_without_them() {
    let file = || Some(Arc::new(File::new(cid_of(Codec::DagPb, b""))));
    let give_up: fn(&Coming) = |coming| coming.give_up(STALL_MAX, false);
    let outrun: fn(&Coming) = |coming| coming.outrun(coming.state.begun);
    for (of, ends) in [(Of::Path, give_up), (Of::Path, outrun), (Of::File, give_up)] {
        let (gateway, source) = a_gateway();
        let mut count = 0;
        while gateway.cars().are_given(of) {
            count += 1;
            let came = Came::new(0..10, 0, None);
            let coming = of_nothing((of == Of::File).then(file).flatten(), source.clone(), State::new(came));
            tokio::time::advance(STALL_MAX).await;
            ends(&coming);
        }
        assert_eq!(count, 3, "{of:?}");
    }
}

/// All that wait in one pause are outrun by it: a CAR once ended since three of them had been. One that pauses often, or for
/// long, ends.
#[tokio::test(start_paused = true)]
async fn a_pause_is_one_however_many_wait() {
    let (coming, blocks) = coming(20).await;
    let pause = async |millis: u64| {
        let begun = Instant::now();
        tokio::time::advance(Duration::from_millis(millis)).await;
        for _ in 0..16 {
            coming.outrun(begun);
        }
    };
    pause(300).await;
    pause(300).await;
    assert!(!coming.is_over(), "it is one");
    for (n, block) in blocks.into_iter().enumerate().take(2) {
        coming.state.keep(block, at(n + 1)).await;
        assert!(!coming.is_over(), "{n}");
        pause(300).await;
    }
    assert!(coming.is_over(), "others were faster in three");
    let (coming, _) = self::coming(1).await;
    let begun = Instant::now();
    while !coming.is_over() {
        let waits_since = Instant::now();
        tokio::time::advance(Duration::from_millis(100)).await;
        coming.outrun(waits_since);
    }
    assert_eq!(begun.elapsed(), STALL_MAX, "nothing comes");
}

/// A root is for who came first: whoever else wants it once waited for it until the CAR was given up.
#[tokio::test(start_paused = true)]
async fn a_root_that_was_given_is_waited_for_by_nobody() {
    let root = block(1).await;
    let file = Arc::new(File::new(Cid::from_bytes(&[&[1, 0x70], root.key().as_bytes()].concat()).expect("a CID")));
    let place = Place { file: file.clone(), range: 0..u64::MAX };
    let (_, source) = a_gateway();
    let state = State::new(Came::new(0..u64::MAX, 0, Some(root.key().clone())));
    let coming = of_nothing(Some(file.clone()), source, state);
    assert!(coming.join(root.key(), Some(&place)), "it comes");
    let (mut one, mut other) = (Box::pin(coming.wait(root.key(), None)), Box::pin(coming.wait(root.key(), None)));
    assert!(poll!(&mut one).is_pending() && poll!(&mut other).is_pending());
    coming.state.keep(root.clone(), 0).await;
    assert!(one.await.expect("it came") == root);
    assert!(other.await.is_none(), "it was given");
    assert!(!coming.join(root.key(), Some(&place)), "it comes no more");
    assert!(coming.brings(&file, 0), "what is read of the file does");
}

/// Of a node that begins far before what is read of it, what lies behind it is not waited for as if it came.
#[tokio::test]
async fn what_is_not_asked_for_is_not_waited_for() {
    let far = 100 << 30;
    let file = Arc::new(File::new(cid_of(Codec::DagPb, b"")));
    let (_, source) = a_gateway();
    let coming = of_nothing(Some(file.clone()), source, State::new(Came::new(0..u64::MAX, far, None)));
    let key = |n: u64| BlockKey::from(&cid_of(Codec::Raw, &n.to_le_bytes()));
    let joins = |range: Range<u64>| {
        let place = Place { file: file.clone(), range };
        coming.join(&key(place.range.start), Some(&place))
    };
    assert_eq!(coming.state.ask(), far..u64::MAX);
    assert!(joins(0..2 * far), "the node");
    assert!(joins(far - 10..far + 10) && joins(far..far + 10), "what is read");
    assert!(!joins(far - 10..far) && !joins(far + REACH_LEN..far + REACH_LEN + 10));
}
