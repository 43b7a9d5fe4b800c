//! What a transaction does it does whole, and nobody sees a part of it; who is in its way is told, or it is.

use std::sync::Arc;

use bytes::Bytes;

use super::{Ground, assert_sound, make, name, options, root_equals_import};
use crate::{
    ErrorKind, Result,
    block::Mem,
    dag::{Dag, DagOptions, GcOptions},
    testing::{self, fault::Faulty},
    tree::{Quota, Transaction, Tree, TreeOptions},
    vfs::{
        Ino, Lease, NewNode, Place, RemoveKind, RenameMode, SetAttr, Vfs,
        ext::{list, read_to_end},
    },
};

async fn create(vfs: &dyn Vfs, dir: Ino, text: &str, node: NewNode) -> Result<Ino> {
    let made = vfs.create(dir, &name(text), node, SetAttr::default()).await?;
    vfs.release(made.node.ino, 1);
    Ok(made.node.ino)
}

async fn write_file(vfs: &dyn Vfs, text: &str, data: impl Into<Bytes> + Send) -> Result<Ino> {
    let ino = create(vfs, vfs.root(), text, NewNode::File).await?;
    vfs.write(ino, 0, data.into(), false).await?;
    Ok(ino)
}

async fn value(vfs: &dyn Vfs, ino: Ino) -> Result<u64> {
    Ok(u64::from_le_bytes(vfs.read(ino, 0, 8).await?.as_ref().try_into().expect("8 bytes")))
}

async fn remove(vfs: &dyn Vfs, text: &str) -> Result<()> {
    let name = name(text);
    let place = Place { dir: vfs.root(), name: &name, expect: None };
    vfs.remove(place, RemoveKind::NonDir).await.map(drop)
}

async fn names(vfs: &dyn Vfs) -> Vec<String> {
    let mut names: Vec<_> = list(vfs, vfs.root(), 10_000).await.expect("listed").into_iter().collect();
    names.sort_by(|one, other| one.name.cmp(&other.name));
    names.into_iter().map(|entry| entry.name.to_string()).collect()
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[tokio::test]
async fn nobody_sees_any_of_it_before_all_of_it() {
    let ground = Ground::new();
    let tree = ground.open().await;
    let old = write_file(&tree, "old", "old").await.expect("written");
    let t = tree.begin();
    let dir = create(&t, t.root(), "dir", NewNode::Dir).await.expect("made");
    create(&t, dir, "below", NewNode::Symlink("there".into())).await.expect("made");
    t.write(old, 3, " and new".into(), false).await.expect("written");
    t.setattr(old, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.expect("set");
    let (from, to) = (name("old"), name("moved"));
    let place = |name| Place { dir: t.root(), name, expect: None };
    t.rename(place(&from), place(&to), RenameMode::Replace).await.expect("renamed");
    assert_eq!(names(&t).await, ["dir", "moved"]);
    assert_eq!(t.read(old, 0, 99).await.expect("read"), "old and new");

    // A commit, a sync and a collection in between find what was before, and leave what is to come.
    tree.commit("in between").await.expect("committed");
    tree.sync(tree.root()).await.expect("synced");
    tree.dag().collect_garbage(|| tree.gc_roots(), &GcOptions::new(&testing::env())).await.expect("collected");
    assert_eq!(names(&tree).await, ["old"]);
    assert_eq!(tree.read(old, 0, 99).await.expect("read"), "old");
    assert_eq!(tree.getattr(old).await.expect("there").mode, 0o644);
    assert_eq!(kind(tree.getattr(dir).await), Some(ErrorKind::Stale), "no such number yet");

    let again = t.clone();
    t.commit().await.expect("committed");
    assert_eq!(names(&tree).await, ["dir", "moved"]);
    assert_eq!(tree.read(old, 0, 99).await.expect("read"), "old and new");
    assert_eq!(kind(again.getattr(old).await), Some(ErrorKind::Stale), "it has ended");
    assert_eq!(kind(again.commit().await), Some(ErrorKind::Stale));
    tree.sync(tree.root()).await.expect("synced");
    let tree = ground.open().await;
    assert_eq!(names(&tree).await, ["dir", "moved"]);
    assert_eq!(tree.read(old, 0, 99).await.expect("read"), "old and new");
    root_equals_import(&tree).await;
    assert_sound(&tree, "after a restart").await;
}

#[tokio::test]
async fn what_fails_or_is_dropped_was_never_there() {
    let tree = Ground::new().open().await;
    let kept = write_file(&tree, "kept", "kept").await.expect("written");
    let before = tree.uncommitted_len();
    let failed = tree.transaction(|t| async move {
        write_file(&t, "new", "new").await?;
        remove(&t, "kept").await?;
        t.lookup(t.root(), &name("absent")).await
    });
    assert_eq!(kind(failed.await), Some(ErrorKind::NotFound));
    let dropped = tree.begin();
    write_file(&dropped, "new", "new").await.expect("written");
    drop(dropped);
    assert_eq!(names(&tree).await, ["kept"]);
    assert_eq!(tree.read(kept, 0, 9).await.expect("read"), "kept");
    assert_eq!(tree.uncommitted_len(), before, "the journal has none of it");
    assert_sound(&tree, "after it").await;
}

#[tokio::test]
async fn what_others_changed_refuses_it_and_it_begins_again() {
    let tree = Ground::new().open().await;
    let file = write_file(&tree, "file", "1").await.expect("written");
    let other = write_file(&tree, "other", "1").await.expect("written");
    // It read what another wrote.
    let t = tree.begin();
    t.read(file, 0, 9).await.expect("read");
    t.write(other, 0, "2".into(), false).await.expect("written");
    tree.write(file, 0, "3".into(), false).await.expect("nobody waits");
    assert_eq!(kind(t.read(file, 0, 9).await), Some(ErrorKind::Unavailable), "nothing at odds is seen");
    assert!(t.is_outdated());
    assert_eq!(kind(t.commit().await), Some(ErrorKind::Unavailable));
    assert_eq!(tree.read(other, 0, 9).await.expect("read"), "1");
    // A name that was not there is there.
    let t = tree.begin();
    assert_eq!(kind(t.lookup(t.root(), &name("new")).await), Some(ErrorKind::NotFound));
    t.write(other, 0, "2".into(), false).await.expect("written");
    write_file(&tree, "new", "").await.expect("written");
    assert_eq!(kind(t.commit().await), Some(ErrorKind::Unavailable));
    // What goes by neither is committed: a directory that it only passed may change.
    let dir = create(&tree, tree.root(), "dir", NewNode::Dir).await.expect("made");
    let t = tree.begin();
    let found = t.lookup(t.root(), &name("dir")).await.expect("there");
    create(&t, found.ino, "below", NewNode::File).await.expect("made");
    t.release(found.ino, 1);
    write_file(&tree, "beside", "").await.expect("written");
    t.commit().await.expect("committed");
    assert_eq!(list(&tree, dir, 9).await.expect("listed").len(), 1);
    // A transaction as a whole begins again, and sees what is new.
    let mut tries = 0;
    let seen = tree.transaction(|t| {
        tries += 1;
        let (tree, is_first) = (tree.clone(), tries == 1);
        async move {
            let seen = t.read(file, 0, 9).await?;
            if is_first {
                tree.write(file, 0, "4".into(), false).await?;
            }
            t.write(other, 0, seen.clone(), false).await?;
            Ok(seen)
        }
    });
    assert_eq!(seen.await.expect("committed"), "4");
    assert_eq!((tries, tree.read(other, 0, 9).await.expect("read")), (2, "4".into()));
    assert_sound(&tree, "after it").await;
}

/// What is in one of two places at every moment is not told to be in none; and nothing of a transaction goes on after it.
#[tokio::test]
async fn an_error_is_of_what_was_at_one_moment() {
    let tree = Ground::new().open().await;
    let dirs = [
        create(&tree, tree.root(), "one", NewNode::Dir).await.expect("made"),
        create(&tree, tree.root(), "two", NewNode::Dir).await.expect("made"),
    ];
    let wanted = create(&tree, dirs[1], "wanted", NewNode::File).await.expect("made");
    let file = name("wanted");
    let mut left = Vec::new();
    let found = tree.transaction(|t| {
        left.push(t.clone());
        let (tree, file, is_first) = (tree.clone(), file.clone(), left.len() == 1);
        async move {
            if let Ok(found) = t.lookup(dirs[0], &file).await {
                return Ok(found.ino);
            }
            if is_first {
                let place = |dir| Place { dir, name: &file, expect: None };
                tree.rename(place(dirs[1]), place(dirs[0]), RenameMode::Replace).await?;
            }
            t.lookup(dirs[1], &file).await.map(|found| found.ino)
        }
    });
    assert_eq!(found.await.expect("it was there all the time"), wanted);
    assert_eq!(left.len(), 2);
    let failed = tree.transaction(|t| {
        left.push(t.clone());
        async move {
            write_file(&t, "new", "").await?;
            t.lookup(t.root(), &name("absent")).await
        }
    });
    assert_eq!(kind(failed.await), Some(ErrorKind::NotFound));
    assert_eq!(left.len(), 3, "it was so, and is told at once");
    for t in left {
        assert!(matches!(kind(t.commit().await), Some(ErrorKind::Stale | ErrorKind::Unavailable)), "it has ended");
    }
    assert_eq!(names(&tree).await, ["one", "two"]);
}

#[tokio::test]
async fn a_checkout_ends_what_was_begun_before() {
    let tree = Ground::new().open().await;
    let file = write_file(&tree, "file", "1").await.expect("written");
    let cid = tree.commit("").await.expect("committed");
    tree.write(file, 0, "2".into(), false).await.expect("written");
    let t = tree.begin();
    t.write(file, 0, "3".into(), false).await.expect("written");
    tree.checkout(&cid).await.expect("checked out");
    assert_eq!(kind(t.read(file, 0, 9).await), Some(ErrorKind::Stale));
    assert!(t.is_outdated());
    assert_eq!(kind(t.commit().await), Some(ErrorKind::Stale));
    assert_eq!(tree.read(file, 0, 9).await.expect("read"), "1");
    // What is done is done: nobody is to do it again.
    let t = tree.begin();
    t.write(file, 0, "4".into(), false).await.expect("written");
    t.clone().commit().await.expect("committed");
    tree.checkout(&cid).await.expect("checked out");
    assert!(!t.is_outdated());
}

/// Money goes from one file to another, over and over, by several at a time, while others commit and sync: its sum stays,
/// and a transaction that reads all files is told it in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_at_once_are_as_one_after_the_other() {
    const ACCOUNTS: u64 = 4;
    let ground = Ground::new();
    let tree = ground.open().await;
    let mut accounts = Vec::new();
    for number in 0..ACCOUNTS {
        accounts.push(write_file(&tree, &format!("{number}"), 100_u64.to_le_bytes().to_vec()).await.expect("written"));
    }
    let sum = async |tree: &Tree, accounts: &[Ino]| {
        let accounts = accounts.to_vec();
        let sum = tree.transaction(|t| {
            let accounts = accounts.clone();
            async move {
                let mut sum = 0;
                for ino in accounts {
                    sum += value(&t, ino).await?;
                }
                Ok(sum)
            }
        });
        sum.await.expect("read")
    };
    let tasks: Vec<_> = (0..4_usize)
        .map(|task| {
            let (tree, accounts) = (tree.clone(), accounts.clone());
            tokio::spawn(async move {
                let mut done = 0;
                for round in 0..50_usize {
                    let (from, to) = (accounts[(task + round) % 4], accounts[(task + round * 3 + 1) % 4]);
                    if from == to {
                        continue;
                    }
                    let moved = tree.transaction(|t| async move {
                        let (one, other) = (value(&t, from).await?, value(&t, to).await?);
                        if one == 0 {
                            return Ok(());
                        }
                        t.write(from, 0, (one - 1).to_le_bytes().to_vec().into(), false).await?;
                        tokio::task::yield_now().await;
                        t.write(to, 0, (other + 1).to_le_bytes().to_vec().into(), false).await.map(drop)
                    });
                    match moved.await {
                        Ok(()) => done += 1,
                        // The others were in its way again and again.
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}"),
                    }
                    match round % 8 {
                        0 => tree.sync(tree.root()).await.expect("sync"),
                        3 => drop(tree.commit("").await.expect("commit")),
                        _ => {}
                    }
                }
                done
            })
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(sum(&tree, &accounts).await, ACCOUNTS * 100);
        tokio::task::yield_now().await;
    }
    for task in tasks {
        assert!(task.await.expect("it ends") > 0);
    }
    assert_eq!(sum(&tree, &accounts).await, ACCOUNTS * 100);
    root_equals_import(&tree).await;
    tree.sync(tree.root()).await.expect("sync");
    let tree = ground.open().await;
    assert_eq!(sum(&tree, &accounts).await, ACCOUNTS * 100);
}

/// Bytes beyond what a record takes are blocks before it, and nothing takes them while the transaction lives.
#[tokio::test]
async fn it_holds_any_number_of_bytes() {
    let ground = Ground::new();
    let tree = ground.open().await;
    let collect = || async {
        tree.dag().collect_garbage(|| tree.gc_roots(), &GcOptions::new(&testing::env())).await.expect("collected")
    };
    let bytes = |number: u32| -> Bytes {
        (0..700_001_u32).map(|at| (at.wrapping_mul(31) ^ at >> 8 ^ number).to_le_bytes()[0]).collect()
    };
    let t = tree.begin();
    let file = create(&t, t.root(), "file", NewNode::File).await.expect("made");
    let copy = create(&t, t.root(), "copy", NewNode::File).await.expect("made");
    for number in 0..20_u32 {
        t.write(file, u64::from(number) * 700_001, bytes(number), false).await.expect("written");
        collect().await;
    }
    let (count, _) = t.copy_range((file, 0), (copy, 0), u64::MAX).await.expect("copied");
    assert_eq!(count, 20 * 700_001);
    let whole: Vec<u8> = (0..20).flat_map(bytes).collect();
    assert!(read_to_end(&t, file, 1 << 30).await.expect("read") == whole, "as the transaction sees it");
    t.commit().await.expect("committed");
    collect().await;
    tree.sync(tree.root()).await.expect("synced");
    let tree = ground.open().await;
    assert!(read_to_end(&tree, file, 1 << 30).await.expect("read") == whole, "after a restart");
    tree.commit("").await.expect("committed");
    assert!(read_to_end(&tree, copy, 1 << 30).await.expect("read") == whole, "after a commit");
    root_equals_import(&tree).await;
}

/// What is too much is refused, call by call, and what was taken before can be committed.
#[tokio::test]
async fn it_holds_no_more_than_one_record() {
    let tree = Ground::new().open().await;
    let t = tree.begin();
    let mut made = 0;
    let refused = loop {
        match create(&t, t.root(), &format!("a file with quite a long name, the {made}th"), NewNode::File).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::TooLarge, "{refused:#}");
    assert!(made > 15_000, "{made}");
    t.commit().await.expect("committed");
    assert_eq!(tree.getattr(tree.root()).await.expect("there").nlink, 2);
    assert_eq!(list(&tree, tree.root(), 100_000).await.expect("listed").len(), made);

    // A store that takes nothing now leaves the bytes to the record.
    let store = Arc::new(Faulty::new(Mem::default()));
    let dag = Dag::new(store.clone(), DagOptions::default());
    let tree = Ground { dag, ..Ground::new() }.open().await;
    let file = create(&tree, tree.root(), "file", NewNode::File).await.expect("made");
    store.set_offline(true);
    let t = tree.begin();
    let mut len = 0;
    let refused = loop {
        match t.write(file, len, vec![7; 100_000].into(), false).await {
            Ok(_) => len += 100_000,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::TooLarge, "{refused:#}");
    assert!(len > 7 << 20, "{len}");
    t.commit().await.expect("the journal takes it");
    assert_eq!(tree.getattr(file).await.expect("there").size, len);

    // A transaction that goes by too much.
    let tree = Ground::new().open().await;
    let t = tree.begin();
    let refused = loop {
        let absent = name(&format!("{made}"));
        made += 1;
        match t.lookup(t.root(), &absent).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => break kind(other),
        }
    };
    assert_eq!(refused, Some(ErrorKind::TooLarge));
}

#[tokio::test]
async fn nodes_without_a_name_count_for_as_long_as_they_are_leased() {
    let page = 4096;
    let quota = Quota { bytes_max: Some(4 * page), inodes_max: Some(4) };
    let tree = Ground::new().open_with(TreeOptions { quota, ..options() }).await;
    let room = async |tree: &Tree| {
        let room = tree.statfs(tree.root()).await.expect("statfs");
        (room.bytes_free / page, room.inodes_free)
    };
    let old = make(&tree, tree.root(), "old", NewNode::File).await;
    tree.write(old.ino(), 0, vec![1; 4096].into(), false).await.expect("written");
    assert_eq!(room(&tree).await, (3, 2));

    // One that is open loses its name, grows, and another comes in its place.
    let t = tree.begin();
    remove(&t, "old").await.expect("removed");
    t.write(old.ino(), 4096, vec![2; 4096].into(), false).await.expect("it is open");
    write_file(&t, "old", vec![3; 4096]).await.expect("written");
    assert_eq!(room(&tree).await, (3, 2), "nobody sees it yet");
    t.commit().await.expect("committed");
    assert_eq!(room(&tree).await, (1, 1));
    assert_eq!(tree.getattr(old.ino()).await.expect("it is open").used, 2 * page);
    // It grows once more, without a name from the beginning.
    let t = tree.begin();
    t.write(old.ino(), 8192, vec![2; 4096].into(), false).await.expect("it is open");
    t.commit().await.expect("committed");
    assert_eq!(room(&tree).await, (0, 1));
    // And goes while a transaction has it.
    let t = tree.begin();
    let ino = old.ino();
    t.setattr(ino, SetAttr { size: Some(0), ..SetAttr::default() }).await.expect("cut");
    drop(old);
    assert_eq!(kind(t.commit().await), Some(ErrorKind::Stale));
    assert_eq!(room(&tree).await, (3, 2));

    // What only the transaction ever had.
    let t = tree.begin();
    let open = t.create(t.root(), &name("brief"), NewNode::File, SetAttr::default()).await.expect("made").node.ino;
    t.write(open, 0, vec![4; 4096].into(), false).await.expect("written");
    remove(&t, "brief").await.expect("removed");
    t.commit().await.expect("committed");
    assert_eq!(room(&tree).await, (2, 1));
    assert_eq!(tree.read(open, 0, 3).await.expect("it is open"), [4; 3].as_slice());
    tree.release(open, 1);
    assert_eq!(room(&tree).await, (3, 2));

    // Two at once have room each, and not both.
    let dir = make(&tree, tree.root(), "d", NewNode::Dir).await;
    let (one, two) = (tree.begin(), tree.begin());
    create(&one, tree.root(), "f", NewNode::File).await.expect("made");
    create(&two, dir.ino(), "f", NewNode::File).await.expect("made");
    one.commit().await.expect("committed");
    assert_eq!(kind(two.commit().await), Some(ErrorKind::NoSpace));
    assert_sound(&tree, "after it").await;
}

/// Two that pass a quota only together, and touch nothing in common.
#[tokio::test]
async fn a_quota_holds_for_transactions_at_once() {
    let quota = Quota { bytes_max: Some(3 * 4096), inodes_max: None };
    let tree = Ground::new().open_with(TreeOptions { quota, ..options() }).await;
    let files =
        [make(&tree, tree.root(), "a", NewNode::File).await, make(&tree, tree.root(), "b", NewNode::File).await];
    let both = [tree.begin(), tree.begin()];
    for (t, file) in both.iter().zip(&files) {
        t.write(file.ino(), 0, vec![5; 2 * 4096].into(), false).await.expect("room for one");
        assert_eq!(kind(t.write(file.ino(), 8192, vec![5; 2 * 4096].into(), false).await), Some(ErrorKind::NoSpace));
    }
    let [one, two] = both;
    one.commit().await.expect("committed");
    let refused = two.commit().await.expect_err("no room for both");
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert_eq!(tree.getattr(files[1].ino()).await.expect("there").size, 0);
}

/// A part of a transaction may hold what it met: leases are given back to it after it has ended.
#[tokio::test]
async fn leases_outlive_it() {
    let tree = Ground::new().open().await;
    let t: Arc<Transaction> = Arc::new(tree.begin());
    let made = t.create(t.root(), &name("a"), NewNode::File, SetAttr::default()).await.expect("made").node.ino;
    let lease = Lease::adopt(t.clone(), made);
    Transaction::clone(&t).commit().await.expect("committed");
    remove(&tree, "a").await.expect("removed");
    assert_eq!(tree.getattr(made).await.expect("it is leased").nlink, 0);
    drop(lease);
    assert_eq!(kind(tree.getattr(made).await), Some(ErrorKind::Stale));
}
