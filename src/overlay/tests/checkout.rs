//! A checkout at any moment: what was asked for before it is done as if it was asked for after it, and nothing is half there.

use super::*;
use crate::{
    Cid,
    overlay::now::Now,
    testing::fault::Dice,
    vfs::{Cookie, Listing},
};

/// Has the call after so many calls below wait for a checkout.
fn checkout_at(ground: &Ground, overlay: &Arc<Overlay>, call: u64, commit: Cid) {
    let tree = overlay.tree().clone();
    ground.lower.then(call, async move { tree.checkout(&commit).await.map(drop).expect("checked out") });
}

/// What a directory shows, and shows again.
async fn names(overlay: &Arc<Overlay>, dir: Ino) -> Vec<String> {
    let names: Vec<String> =
        list(&**overlay, dir, 100).await.expect("listed").iter().map(|entry| entry.name.to_string()).collect();
    let mut sorted = names.clone();
    sorted.sort();
    sorted
}

/// The entries that came before a checkout are gone with it: the rest alone was taken for all there is.
#[tokio::test]
async fn a_directory_that_is_coming_comes_as_a_whole() {
    const COUNT: u64 = 7;
    let expected: Vec<String> = (0..COUNT).map(|number| format!("entry{number}")).collect();
    for call in 0..=COUNT / 2 {
        // Back to before anything of it came, and to where some of it had.
        for commits_at in [None, Some(call / 2)] {
            let fs = ModelFs::new(testing::env());
            let dir = make(&*fs, fs.root(), "dir", NewNode::Dir, Bytes::new()).await;
            for name in &expected {
                make(&*fs, dir, name, NewNode::File, content(3)).await;
            }
            let ground = Ground::over(fs);
            let overlay = ground.open().await;
            let (dir, _) = find(&overlay, "dir").await;
            let before = overlay.tree().commit("").await.expect("committed");
            if let Some(at) = commits_at.filter(|at| *at < call) {
                let (tree, lower) = (overlay.tree().clone(), ground.lower.clone());
                let then = overlay.tree().clone();
                ground.lower.then(at, async move {
                    let half = tree.commit("").await.expect("committed");
                    lower
                        .then(call - at - 1, async move { then.checkout(&half).await.map(drop).expect("checked out") });
                });
            } else {
                checkout_at(&ground, &overlay, call, before);
            }
            assert_eq!(names(&overlay, dir.ino()).await, expected, "a checkout at call {call} below");
            assert!(ground.lower.is_done(), "call {call} was made");
            drop((dir, overlay));
            let overlay = ground.open().await;
            let (dir, attr) = find(&overlay, "dir").await;
            assert_eq!((names(&overlay, dir.ino()).await, attr.nlink), (expected.clone(), 2));
        }
    }
}

/// What changes of a file of 5000 bytes, and what it holds then.
type Change = (&'static str, fn(&mut Vec<u8>));

/// The file `a`, its bytes below changed in each way that needs them.
const CHANGES: [Change; 5] = [
    ("write", |bytes| bytes[100..103].copy_from_slice(b"new")),
    ("cut", |bytes| bytes.truncate(4500)),
    ("allocate", |bytes| bytes.resize(6000, 0)),
    ("punch", |bytes| bytes[1000..2000].fill(0)),
    ("copy", |bytes| bytes.copy_within(3000..3100, 10)),
];

async fn change(overlay: &Overlay, ino: Ino, what: &str) -> Result<()> {
    match what {
        "write" => overlay.write(ino, 100, "new".into(), false).await.map(drop),
        "cut" => overlay.setattr(ino, SetAttr { size: Some(4500), ..SetAttr::default() }).await.map(drop),
        "allocate" => overlay.allocate(ino, 0..6000, false).await.map(drop),
        "punch" => overlay.punch_hole(ino, 1000..2000).await.map(drop),
        _ => overlay.copy_range((ino, 3000), (ino, 10), 100).await.map(drop),
    }
}

/// What came before a checkout was a hole after it, and the file was said to be whole; and the bytes below went into a file
/// that somebody had changed.
#[tokio::test]
async fn a_file_that_is_coming_comes_as_a_whole() {
    for (what, expected) in CHANGES {
        for (call, is_changed) in [(0, false), (1, false), (2, false), (0, true), (1, true), (2, true)] {
            let at = format!("{what}, a checkout at call {call} below, to one that was changed: {is_changed}");
            let (ground, _) = built().await;
            let overlay = ground.open().await;
            let (a, _) = find(&overlay, "a").await;
            let pristine = overlay.tree().commit("").await.expect("committed");
            let mut bytes = content(5000).to_vec();
            let mut target = pristine;
            if is_changed {
                bytes.reverse();
                bytes.truncate(4800);
                overlay.setattr(a.ino(), SetAttr { size: Some(4800), ..SetAttr::default() }).await.expect("cut");
                overlay.write(a.ino(), 0, bytes.clone().into(), false).await.expect("written");
                target = overlay.tree().commit("").await.expect("committed");
                overlay.tree().checkout(&pristine).await.expect("checked out");
            }
            checkout_at(&ground, &overlay, call, target);
            change(&overlay, a.ino(), what).await.expect("done");
            assert!(ground.lower.is_done(), "{at}");
            expected(&mut bytes);
            assert_eq!(overlay.read(a.ino(), 0, 10_000).await.expect("read"), bytes, "{at}");
            overlay.tree().commit("").await.expect("committed");
            drop((a, overlay));
            let overlay = ground.open().await;
            let (a, attr) = find(&overlay, "a").await;
            assert_eq!(attr.size, bytes.len() as u64, "{at}");
            assert_eq!(overlay.read(a.ino(), 0, 10_000).await.expect("read"), bytes, "{at}");
        }
    }
}

/// Between what was found out and the change that needs it: the change would be one of a file whose bytes are below again,
/// or of a directory that only seems to be empty.
#[tokio::test]
async fn what_was_found_out_before_a_checkout_changes_nothing_after_it() {
    let (ground, fs) = built().await;
    let overlay = ground.open().await;
    let [(a, _), (b, _), (c, _)] = [find(&overlay, "a").await, find(&overlay, "b").await, find(&overlay, "b/c").await];
    let pristine = overlay.tree().commit("").await.expect("committed");
    let now = || Now { overlay: &overlay, tree: overlay.tree().as_it_stands() };
    let then = now();
    then.own(a.ino()).await.expect("it came");
    then.fill(c.ino()).await.expect("it came");
    overlay.tree().checkout(&pristine).await.expect("checked out");
    assert!(then.tree.is_past() && !now().tree.is_past());
    let (root, text, xattr) = (overlay.root(), name("new"), XattrName::new(b"user.x").expect("a name"));
    let (from, to) = (place(root, &text), place(b.ino(), &text));
    let tree = &then.tree;
    let size = SetAttr { size: Some(1), ..SetAttr::default() };
    let refused = [
        tree.write(a.ino(), 0, "x".into(), false).await.map(drop),
        tree.write(a.ino(), 0, content(4096), false).await.map(drop),
        tree.setattr(a.ino(), size).await.map(drop),
        tree.allocate(a.ino(), 0..10, false).await.map(drop),
        tree.punch_hole(a.ino(), 0..10).await.map(drop),
        tree.copy_range((a.ino(), 0), (a.ino(), 5), 5).await.map(drop),
        tree.setxattr(a.ino(), &xattr, "x".into(), XattrMode::Set).await.map(drop),
        tree.removexattr(a.ino(), &xattr).await.map(drop),
        tree.create(root, &text, NewNode::File, SetAttr::default()).await.map(drop),
        tree.link(a.ino(), root, &text).await.map(drop),
        tree.rename(from, to, RenameMode::Replace).await.map(drop),
        tree.remove(place(b.ino(), &name("c")), RemoveKind::Dir).await.map(drop),
        tree.bring(a.ino(), 0, "x".into()).await,
        tree.take_over(a.ino(), &overlay.names.below, &SetAttr::default()).await.map(drop),
        // Nor is anything told of it.
        tree.read(a.ino(), 0, 10).await.map(drop),
        tree.lookup(root, &name("a")).await.map(drop),
        tree.readdir(root, Cookie::START, 10, Listing::Names).await.map(drop),
        tree.getxattr(a.ino(), &overlay.names.below).await.map(drop),
        then.seen(overlay.tree().getattr(a.ino()).await.expect("there")).await.map(drop),
    ];
    for (call, done) in refused.into_iter().enumerate() {
        assert_eq!(done.map_err(|error| error.kind()), Err(ErrorKind::Stale), "call {call}");
    }
    assert_eq!(describe(&*overlay).await.expect("described"), describe(&*fs).await.expect("described"));
}

/// Readers, writers and checkouts at once, over something slow: a file is as below or as it was written, and never in
/// between, and a directory is never less than it is.
#[tokio::test]
async fn whoever_works_while_checkouts_come_meets_nothing_half_there() {
    const TURN_COUNT: usize = 400;
    let (ground, _) = built().await;
    let overlay = ground.open().await;
    // What has a number in all states is there in all of them.
    drop((find(&overlay, "a").await, find(&overlay, "b").await));
    let pristine = overlay.tree().commit("").await.expect("committed");
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut workers = Vec::new();
    for seed in 0..4 {
        let (overlay, is_over, mut dice) = (overlay.clone(), is_over.clone(), Dice::new(seed));
        workers.push(tokio::spawn(async move {
            let mut work_count = 0;
            while !is_over.load(Ordering::Relaxed) {
                work_count += 1;
                let (Ok(a), Ok(b)) = (
                    overlay.lookup(overlay.root(), &name("a")).await,
                    overlay.lookup(overlay.root(), &name("b")).await,
                ) else {
                    panic!("they are never away");
                };
                let done = match dice.roll(5) {
                    0 => overlay.write(a.ino, dice.roll(4000) as u64, "!".into(), false).await.map(drop),
                    1 => overlay.copy_range((a.ino, 500), (a.ino, 3000), 700).await.map(drop),
                    2 => {
                        // Written by nobody: what is seen of it is what is below.
                        let entries = list(&*overlay, b.ino, 10).await.expect("listed");
                        assert_eq!(entries.len(), 3, "a directory that is less than it is");
                        Ok(())
                    }
                    3 => {
                        let attr = overlay.getattr(a.ino).await.expect("it is there");
                        assert_eq!(attr.size, 5000);
                        Ok(())
                    }
                    _ => {
                        let bytes = overlay.read(a.ino, 0, 10_000).await.expect("read");
                        assert_eq!(bytes.len(), 5000, "a file of which a part came");
                        assert!(!bytes.contains(&0), "zeros that nobody wrote");
                        Ok(())
                    }
                };
                done.expect("a checkout is no reason to fail");
                overlay.release(a.ino, 1);
                overlay.release(b.ino, 1);
                tokio::task::yield_now().await;
            }
            work_count
        }));
    }
    let (mut dice, mut kept) = (Dice::new(9), vec![pristine]);
    for _ in 0..TURN_COUNT {
        if dice.roll(3) == 0 {
            kept.push(overlay.tree().commit("").await.expect("committed"));
        } else {
            // The youngest are kept.
            let youngest = kept.len().saturating_sub(20);
            let to = if dice.roll(2) == 0 { 0 } else { youngest + dice.roll(kept.len() - youngest) };
            overlay.tree().checkout(&kept[to]).await.expect("checked out");
        }
        for _ in 0..dice.roll(30) {
            tokio::task::yield_now().await;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    for worker in workers {
        assert!(worker.await.expect("no panic") > 100, "it did something");
    }
}
