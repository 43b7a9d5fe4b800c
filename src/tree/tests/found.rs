//! What was wrong once, and how it showed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};

use super::{super::TreeOptions, Ground, make, name, options, root_equals_import};
use crate::{
    Env, ErrorKind, Result,
    block::Mem,
    dag::{Dag, DagOptions, Params, Profile, UnixfsMeta},
    media::{Media, MemMedia, Segment, SegmentId},
    testing::{
        self,
        fault::{BlockCall, Faulty, FaultyMedia, MediaCall},
    },
    tree::{AutoCommit, Quota, Tree},
    vfs::{FILE_LEN_MAX, NewNode, Place, RemoveKind, SetAttr, Vfs, XattrMode, XattrName},
};

/// A file that was removed while somebody had it open, and is there again after a checkout, was taken for one without a
/// name: what held it while it had none stood before the state that has it.
#[tokio::test]
async fn a_checkout_gives_an_open_file_its_name_back() {
    let tree = Ground::new().open().await;
    let root = tree.root();
    let file = make(&tree, root, "file", NewNode::File).await;
    tree.write(file.ino(), 0, "old".into(), false).await.expect("write");
    let before = tree.commit("before").await.expect("commit");
    let file_name = name("file");
    let place = Place { dir: root, name: &file_name, expect: None };
    tree.remove(place, RemoveKind::NonDir).await.expect("remove");
    tree.write(file.ino(), 0, "new".into(), false).await.expect("write");
    tree.commit("after").await.expect("commit");

    tree.checkout(&before).await.expect("checkout");
    assert_eq!(tree.getattr(file.ino()).await.expect("getattr").nlink, 1);
    assert_eq!(tree.read(file.ino(), 0, 9).await.expect("read"), "old");
    tree.remove(Place { dir: root, name: &file_name, expect: None }, RemoveKind::NonDir).await.expect("remove");
    assert_eq!(tree.getattr(file.ino()).await.expect("leased still").nlink, 0);
}

/// A note that no commit has room for was noticed only after the changes had been frozen for it, and then was in the way
/// of every later commit.
#[tokio::test]
async fn a_note_that_is_too_long_is_refused_and_in_nobodys_way() {
    let tree = Ground::new().open().await;
    make(&tree, tree.root(), "file", NewNode::File).await;
    let refused = tree.commit(&"n".repeat(4097)).await.expect_err("too long");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    tree.commit(&"n".repeat(4096)).await.expect("it fits");
    root_equals_import(&tree).await;
}

/// Pages reserved behind the end of a file were forgotten by a commit, but not what they take: that was counted twice
/// when they were written.
#[tokio::test]
async fn what_is_reserved_behind_the_end_outlives_a_commit() {
    let ground = Ground::new();
    let tree = ground.open().await;
    let file = make(&tree, tree.root(), "file", NewNode::File).await;
    tree.write(file.ino(), 0, "head".into(), false).await.expect("write");
    tree.allocate(file.ino(), 0..65536, true).await.expect("allocate");
    tree.commit("").await.expect("commit");
    let handle = tree.handle(file.ino()).expect("handle");
    drop((file, tree));

    let tree = ground.open().await;
    let attr = tree.resolve(&handle).await.expect("resolve");
    assert_eq!((attr.size, attr.used), (4, 65536));
    let changed = tree.write(attr.ino, 30_000, "tail".into(), false).await.expect("write");
    assert_eq!((changed.after.size, changed.after.used), (30_004, 65536));
    assert_eq!(tree.read(attr.ino, 2, 4).await.expect("read"), "ad\0\0");
    root_equals_import(&tree).await;
    let empty = SetAttr { size: Some(0), ..SetAttr::default() };
    assert_eq!(tree.setattr(attr.ino, empty).await.expect("cut").after.used, 0);
    root_equals_import(&tree).await;
}

/// Reserving all that a file can have was counted as freeing it, past any quota: the difference of two counts did not
/// fit in a signed number.
#[tokio::test]
async fn more_than_can_be_counted_is_not_reserved() {
    for bytes_max in [None, Some(1 << 20)] {
        let quota = Quota { bytes_max, inodes_max: None };
        let tree = Ground::new().open_with(TreeOptions { quota, ..options() }).await;
        let file = make(&tree, tree.root(), "file", NewNode::File).await;
        let refused = tree.allocate(file.ino(), 0..FILE_LEN_MAX, false).await.expect_err("too much");
        assert_eq!(refused.kind(), ErrorKind::NoSpace);
        assert_eq!(tree.getattr(file.ino()).await.expect("getattr").used, 0);
    }
    let tree = Ground::new().open().await;
    for (text, fits) in [("a", true), ("b", false)] {
        let file = make(&tree, tree.root(), text, NewNode::File).await;
        let reserved = tree.allocate(file.ino(), 0..(1 << 62) + 4096, false).await;
        assert_eq!(reserved.is_ok(), fits, "{text}");
    }
    tree.statfs(tree.root()).await.expect("statfs");
}

/// After a clock was set back no commit was due until it had caught up.
#[tokio::test]
async fn a_clock_that_was_set_back_does_not_hold_commits_up() {
    let time = Arc::new(AtomicU64::new(1 << 20));
    let clock = time.clone();
    let now = move || SystemTime::UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::Relaxed));
    let env = Env { now: Arc::new(now), ..testing::env() };
    let options = TreeOptions { env, auto_commit: Some(AutoCommit::default()), ..options() };
    let tree = Ground::new().open_with(options).await;
    let before = tree.head().0;
    time.store(1000, Ordering::Relaxed);
    make(&tree, tree.root(), "file", NewNode::File).await;
    time.store(1040, Ordering::Relaxed);
    tree.tick().await.expect("tick");
    assert_ne!(tree.head().0, before, "40 s later");
}

/// A copy of many parts failed with `NotFound` when a commit removed the journal from below it.
#[tokio::test]
async fn commits_do_not_disturb_a_copy() {
    let ground = Ground::with_chunk_len(1 << 20);
    let tree = ground.open_with(TreeOptions { memory_len_max: 20_000, ..options() }).await;
    let from = make(&tree, tree.root(), "from", NewNode::File).await;
    let to = make(&tree, tree.root(), "to", NewNode::File).await;
    // Memory runs out again and again, so that the copy itself makes commits.
    let count = 2000_u64;
    for number in 0..count {
        tree.write(from.ino(), number * 100, vec![u8::try_from(number % 251).unwrap_or(0); 60].into(), false)
            .await
            .expect("write");
    }
    let committing = tree.clone();
    let (copied, committed) = tokio::join!(tree.copy_range((from.ino(), 0), (to.ino(), 0), u64::MAX >> 1), async {
        committing.write(from.ino(), 1 << 19, "more".into(), false).await?;
        committing.commit("").await
    });
    committed.expect("commit");
    let (len, changed) = copied.expect("copy");
    assert!(len >= (count - 1) * 100 + 60, "{len}");
    assert_eq!(changed.before.size, 0);
    let read = |ino| crate::vfs::ext::read_to_end(&tree, ino, 1 << 24);
    let (one, other) = (read(from.ino()).await.expect("read"), read(to.ino()).await.expect("read"));
    assert_eq!(one.slice(..200_000 - 40), other.slice(..200_000 - 40));
    root_equals_import(&tree).await;
}

/// The values that a layer keeps do not keep what they were cut from.
#[tokio::test]
async fn a_small_value_does_not_keep_a_large_message() {
    let tree = Ground::new().open().await;
    let xattr = XattrName::new(b"user.x").expect("a name");
    let message = Bytes::from(vec![7; 1 << 16]);
    tree.setxattr(tree.root(), &xattr, message.slice(5..9), XattrMode::Set).await.expect("set");
    make(&tree, tree.root(), "link", NewNode::Symlink(message.slice(..9))).await;
    assert!(message.is_unique(), "nobody else holds it");
}

/// A commit took the beginning of a long leaf for a chunk that is as long as it looked: what was copied from a file that
/// was cut elsewhere could not be read any more.
#[tokio::test]
async fn a_part_of_a_long_leaf_is_no_chunk() {
    let blocks = Arc::new(Mem::default());
    let dag = |chunk_len| {
        let params = Params { chunk_len, width: 8, ..Profile::default().params() };
        Dag::new(blocks.clone(), DagOptions { params, ..DagOptions::default() })
    };
    let bytes: Bytes = (0..8192_u32).map(|i| u8::try_from(i * 7 % 251).unwrap_or(0)).collect::<Vec<_>>().into();
    let elsewhere = dag(8192);
    let long = elsewhere.import(&bytes[..], UnixfsMeta::default()).await.expect("import");
    assert_eq!(long.cid.codec(), Some(crate::Codec::Raw), "one leaf");
    let entry = crate::dag::Entry { name: name("long"), link: long };
    let root = elsewhere.put_dir(stream::iter([Ok(entry)]).boxed()).await.expect("put_dir");

    let tree = Ground { dag: dag(1024), ..Ground::new() }.open().await;
    tree.checkout(&root.cid).await.expect("checkout");
    let from = tree.lookup(tree.root(), &name("long")).await.expect("lookup");
    let to = make(&tree, tree.root(), "to", NewNode::File).await;
    tree.copy_range((from.ino, 0), (to.ino(), 0), 1024).await.expect("copy");
    tree.copy_range((from.ino, 0), (to.ino(), 1024), 2048).await.expect("copy");
    tree.commit("").await.expect("commit");
    let read = crate::vfs::ext::read_to_end(&tree, to.ino(), 1 << 20).await.expect("read");
    assert_eq!(read, [&bytes[..1024], &bytes[..2048]].concat());
}

/// Reading a file in small steps read the whole record of the journal for each.
#[tokio::test]
async fn small_reads_of_a_long_record_read_it_once() {
    let media = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let Ground { dag, heads, .. } = Ground::with_chunk_len(1 << 20);
    let tree = Tree::open(dag, media.clone(), heads, options()).await.expect("open");
    let file = make(&tree, tree.root(), "file", NewNode::File).await;
    tree.write(file.ino(), 0, vec![7; 1 << 19].into(), false).await.expect("write");
    tree.write(file.ino(), 1 << 19, vec![8; 1 << 18].into(), false).await.expect("write");
    tree.sync(file.ino()).await.expect("sync");
    let before = media.calls(MediaCall::Read);
    for page in 0..192 {
        let read = tree.read(file.ino(), page * 4096, 4096).await.expect("read");
        assert_eq!(read, vec![if page < 128 { 7 } else { 8 }; 4096]);
    }
    let count = media.calls(MediaCall::Read) - before;
    assert!(count <= 4, "{count} reads of the media for 192 pages of two records");
}

/// A media that appends nothing before it is let.
#[derive(Debug)]
struct Gated {
    inner: Arc<dyn Media>,
    gate: tokio::sync::RwLock<()>,
}

#[async_trait]
impl Media for Gated {
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        let _open = self.gate.read().await;
        self.inner.append(segment, bytes).await
    }
    async fn sync(&self, segment: SegmentId) -> Result<()> {
        self.inner.sync(segment).await
    }
    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        self.inner.read_at(segment, offset, len).await
    }
    async fn segments(&self) -> Result<Vec<Segment>> {
        self.inner.segments().await
    }
    async fn remove(&self, segment: SegmentId) -> Result<()> {
        self.inner.remove(segment).await
    }
}

/// A tree that hands each change to the system before it answers leased the node of a call that then failed, or was given
/// up: nobody knew of that lease, so nobody gave it back, and what was removed later was kept for ever.
#[tokio::test]
async fn a_node_that_nobody_was_given_is_leased_by_nobody() {
    let faulty = Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
    let media = Arc::new(Gated { inner: faulty.clone(), gate: tokio::sync::RwLock::default() });
    let (ground, options) = (Ground::new(), TreeOptions { write_through: true, ..options() });
    let tree = Tree::open(ground.dag, media.clone(), ground.heads, options).await.expect("open");
    let root = tree.root();
    let file = make(&tree, root, "file", NewNode::File).await;
    let leases = || tree.shared.lock().leases.clone();
    let before = leases();

    let names = ["failed", "failed link", "given up", "given up link"].map(name);
    let [failed, failed_link, given_up, given_up_link] = &names;
    faulty.fail_next(MediaCall::Append, ErrorKind::NoSpace);
    let refused = tree.create(root, failed, NewNode::File, SetAttr::default()).await.expect_err("no room");
    assert_eq!((refused.kind(), leases()), (ErrorKind::NoSpace, before.clone()));
    faulty.fail_next(MediaCall::Append, ErrorKind::NoSpace);
    tree.link(file.ino(), root, failed_link).await.expect_err("no room");
    assert_eq!(leases(), before);

    let closed = media.gate.write().await;
    let creating = tree.create(root, given_up, NewNode::Dir, SetAttr::default());
    assert!(creating.now_or_never().is_none(), "it waits for the system");
    assert!(tree.link(file.ino(), root, given_up_link).now_or_never().is_none(), "it waits for the system");
    assert_eq!(leases(), before);
    drop(closed);
    for there in &names {
        // They were made all the same, and can be told now.
        let found = tree.lookup(root, there).await.expect("it is there");
        tree.release(found.ino, 1);
    }
    assert_eq!(leases(), before);
}

/// A tree that could not commit when it was closed, on a full disk for one, gave up what no sync had covered, though the
/// journal had room for it.
#[tokio::test]
async fn what_cannot_be_committed_at_the_end_is_in_the_journal() {
    let blocks = Arc::new(Faulty::new(Mem::default()));
    let ground = Ground { dag: Dag::new(blocks.clone(), DagOptions::default()), ..Ground::new() };
    let tree = ground.open_with(TreeOptions { auto_commit: Some(AutoCommit::default()), ..options() }).await;
    let file = make(&tree, tree.root(), "file", NewNode::File).await;
    tree.write(file.ino(), 0, "kept".into(), false).await.expect("write");
    blocks.fail_next(BlockCall::Put, ErrorKind::NoSpace);
    assert_eq!(tree.close().await.expect_err("no room").kind(), ErrorKind::NoSpace);
    tree.write(file.ino(), 0, "lost".into(), false).await.expect_err("it has ended");
    drop((file, tree));

    let tree = ground.open().await;
    let file = tree.lookup(tree.root(), &name("file")).await.expect("lookup");
    assert_eq!(tree.read(file.ino, 0, 9).await.expect("read"), "kept");
    root_equals_import(&tree).await;
}
