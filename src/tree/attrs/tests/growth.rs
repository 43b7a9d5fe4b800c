//! What a tree costs: the length of its blocks, and how many of them a change rewrites.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use chacha20::rand_core::SeedableRng;
use futures_util::{TryStreamExt, stream::BoxStream};

use super::*;
use crate::{BlockKey, BlockStore};

/// A store that counts the blocks that it did not have, and their lengths.
#[derive(Debug, Default)]
struct Counting {
    inner: Mem,
    count: AtomicUsize,
    len: AtomicUsize,
    len_max: AtomicUsize,
    get_count: AtomicUsize,
}

impl Counting {
    fn take(&self) -> (usize, usize, usize) {
        let take = |number: &AtomicUsize| number.swap(0, Ordering::Relaxed);
        (take(&self.count), take(&self.len), take(&self.len_max))
    }
}

#[async_trait]
impl BlockStore for Counting {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.get_count.fetch_add(1, Ordering::Relaxed);
        self.inner.get(key).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        if !self.inner.has(key).await? {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.len.fetch_add(block.len(), Ordering::Relaxed);
            self.len_max.fetch_max(block.len(), Ordering::Relaxed);
        }
        self.inner.put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.inner.delete(key).await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

fn counting() -> (Arc<Counting>, Dag) {
    let blocks = Arc::new(Counting::default());
    (Arc::clone(&blocks), Dag::new(Arc::clone(&blocks) as Arc<dyn BlockStore>, DagOptions::default()))
}

/// Files as they come: times a moment apart, numbers in sequence, names of usual length, all in one directory.
fn files(count: u64) -> Model {
    let mut model = Model { next_ino: count + 2, ..Model::default() };
    let mut root = Node::new(FileKind::Dir);
    for number in 2..count + 2 {
        let mut file = Node::new(FileKind::File);
        file.meta.size = number * 37 % 100_000;
        file.meta.used = file.meta.size;
        file.meta.change = number;
        file.meta.mtime = file.meta.atime + Duration::from_micros(number % 5000);
        file.meta.ctime = file.meta.mtime;
        let name = name(format!("IMG_{number:07}.jpeg"));
        file.parents = vec![(ino(1), name.clone())];
        file.content = Some(Link { cid: cid_of(Codec::Raw, &number.to_be_bytes()), tsize: file.meta.size });
        root.add(&name, ino(number));
        model.nodes.insert(ino(number), file);
    }
    model.nodes.insert(ino(1), root);
    model
}

/// 100,000 files in one directory: less than 150 bytes of attributes for each; a change to ten of them, wherever they
/// are, rewrites a leaf and two or three index nodes for each at most, and so does the removal of ten names.
#[tokio::test]
async fn a_hundred_thousand_files() {
    let (blocks, dag) = counting();
    let count = 100_000;
    let mut model = files(count);
    let mut attrs = model.build(&dag).await;
    let (block_count, len, len_max) = blocks.take();
    assert!(len / 100_000 < 150, "{} bytes for each inode", len / 100_000);
    assert!(len_max < 10_000, "{len_max} bytes in a block");
    assert!(block_count < 9_000, "{block_count} blocks");

    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let built = attrs.clone();
    for _ in 0..5 {
        let picked: Vec<Ino> = (0..10).map(|_| ino(2 + below(&mut rng, count))).collect();
        let touched = picked.iter().filter_map(|ino| {
            let node = model.nodes.get_mut(ino)?;
            node.meta.mode ^= 1;
            Some((*ino, Some(node.bare())))
        });
        let touched = touched.collect();
        attrs = update(&dag, Some(&attrs), model.changes(touched)).await.expect("updates");
        let (block_count, len, _) = blocks.take();
        assert!(block_count <= 10 * 2 + 2 + 1, "{block_count} blocks for ten inodes");
        assert!(len < 80_000, "{len} bytes for ten inodes");
    }

    // What changed is found without reading what did not.
    let fresh = Dag::new(Arc::clone(&blocks) as Arc<dyn BlockStore>, DagOptions::default());
    blocks.get_count.store(0, Ordering::Relaxed);
    let changed: Vec<Difference> = diff(&fresh, &built, &attrs).try_collect().await.expect("whole");
    assert!((1..=50).contains(&changed.len()), "{} inodes", changed.len());
    let get_count = blocks.get_count.load(Ordering::Relaxed);
    assert!(get_count <= 2 * (50 * 2 + 2), "{get_count} blocks read for {} inodes", changed.len());

    let root = model.nodes.get_mut(&ino(1)).expect("the root");
    let mut change = root.bare();
    let gone: Vec<Rank> = root.names.keys().copied().step_by(10_000).collect();
    for rank in gone {
        root.names.remove(&rank);
        change.names.insert(rank, None);
    }
    attrs = update(&dag, Some(&attrs), model.changes([(ino(1), Some(change))].into())).await.expect("updates");
    let (block_count, len, _) = blocks.take();
    assert!(block_count <= 10 * 2 + 1 + 4, "{block_count} blocks for ten names");
    assert!(len < 130_000, "{len} bytes for ten names");

    // A look-up through nodes in memory loads only the way to it.
    let inode = lookup(&dag, |nodes| attrs.inode(nodes, ino(1))).await.expect("looked up").expect("the root");
    let mut cache = NodeCache::new(1 << 20);
    let mut loaded = 0;
    let wanted = name("IMG_0000777.jpeg");
    let found = loop {
        match inode.entry(&mut cache, &wanted) {
            Ok(found) => break found,
            Err(Halt::Missing(id)) => cache.insert(id, load(&dag, id).await.expect("loads")),
            Err(Halt::Failed(error)) => panic!("{error:#}"),
        }
        loaded += 1;
    };
    assert_eq!(found.map(|entry| entry.ino), Some(ino(777)));
    assert!(loaded <= 4, "{loaded} nodes for a name");
}

/// From nothing to 3,000 names and back to none, in steps that halve and join leaves: the shape is always the one shape.
#[tokio::test]
async fn a_directory_grows_and_shrinks() {
    let (_, dag) = dag();
    let mut model = Model { nodes: [(ino(1), Node::new(FileKind::Dir))].into(), next_ino: 10_000 };
    let mut attrs = model.build(&dag).await;
    let empty = attrs.cid();
    let all: Vec<Name> = (0..3000).map(|number| name(format!("{number:0>60}"))).collect();
    let mut there = 0;
    for count in [1, 5, 12, 100, 130, 3000, 2900, 1000, 140, 100, 9, 1, 0] {
        let root = model.nodes.get_mut(&ino(1)).expect("the root");
        let mut change = root.bare();
        for name in all.iter().take(there.max(count)).skip(there.min(count)) {
            if count > there {
                let entry = root.add(name, ino(77)).expect("new");
                change.names.insert(entry.rank, Some(entry));
            } else {
                root.names.remove(&Rank::of(name.as_bytes()));
                root.meta.entry_count -= 1;
                change.names.insert(Rank::of(name.as_bytes()), None);
            }
        }
        change.meta = root.meta;
        there = count;
        attrs = update(&dag, Some(&attrs), model.changes([(ino(1), Some(change))].into())).await.expect("updates");
        model.check(&dag, &attrs).await;
        assert_eq!(attrs.cid(), model.build(&dag).await.cid(), "{count} names");
    }
    assert_eq!(attrs.cid(), empty);
}

/// Names whose hashes were made equal are told apart by their index, however deep that makes the trie.
#[tokio::test]
async fn names_that_collide() {
    let (_, dag) = dag();
    let names = colliding(1000);
    let mut root = Node::new(FileKind::Dir);
    for name in &names {
        root.add(name, ino(5)).expect("new");
    }
    (0..500).for_each(|number| drop(root.add(&name(number.to_string()), ino(6))));
    let hashes = names.iter().map(|name| Rank::of(name.as_bytes()));
    assert!(hashes.clone().all(|rank| Some(rank) == hashes.clone().next()), "they do collide");
    let mut model = Model { nodes: [(ino(1), root)].into(), next_ino: 10 };
    let attrs = model.build(&dag).await;
    model.check(&dag, &attrs).await;

    let root = model.nodes.get_mut(&ino(1)).expect("the root");
    let mut change = root.bare();
    let gone: Vec<Rank> = root.names.keys().copied().filter(|rank| rank.bits() & 7 != 0).collect();
    for rank in gone {
        root.names.remove(&rank);
        change.names.insert(rank, None);
    }
    let attrs = update(&dag, Some(&attrs), model.changes([(ino(1), Some(change))].into())).await.expect("updates");
    model.check(&dag, &attrs).await;
    assert_eq!(attrs.cid(), model.build(&dag).await.cid());
}

/// A range more in the middle of 20,000 moves no cuts but its own.
#[tokio::test]
async fn a_long_list_changes_where_it_changes() {
    let (blocks, dag) = counting();
    let mut file = Node::new(FileKind::File);
    file.data = Some((0..20_000).map(|number| number * 16_384..number * 16_384 + 4096).collect());
    let mut model = Model { nodes: [(ino(1), file)].into(), next_ino: 2 };
    let attrs = model.build(&dag).await;
    let (block_count, _, len_max) = blocks.take();
    assert!(block_count > 20 && len_max < 64 << 10, "{block_count} blocks, {len_max} bytes");
    let file = model.nodes.get_mut(&ino(1)).expect("the file");
    if let Some(data) = &mut file.data {
        data.insert(10_001, 163_848_192..163_852_288);
    }
    let mut change = file.bare();
    change.data = Change::Set(file.data.clone());
    let attrs = update(&dag, Some(&attrs), model.changes([(ino(1), Some(change))].into())).await.expect("updates");
    let (block_count, _, _) = blocks.take();
    assert!(block_count <= 6, "{block_count} blocks");
    model.check(&dag, &attrs).await;
}

/// Memory stays within its bound, and what was used last stays.
#[tokio::test]
async fn the_cache_is_bounded() {
    let (_, dag) = dag();
    let attrs = files(5000).build(&dag).await;
    let mut cache = NodeCache::new(100_000);
    let mut again = 0;
    for number in 1..5000 {
        let mut loads = 0;
        loop {
            match attrs.inode(&mut cache, ino(number)) {
                Ok(found) => break assert!(found.is_some()),
                Err(Halt::Missing(id)) => cache.insert(id, load(&dag, id).await.expect("loads")),
                Err(Halt::Failed(error)) => panic!("{error:#}"),
            }
            loads += 1;
        }
        again += loads;
        let shown = format!("{cache:?}");
        let len: usize = shown.split(' ').nth(2).and_then(|len| len.parse().ok()).expect("a length");
        assert!(len <= 100_000, "{shown}");
    }
    assert!(again < 200, "{again} loads: the upper nodes stay, and a leaf is loaded once");
}
