//! What is committed equals the model after any batches of changes, and how it came about cannot be told from it.

use chacha20::rand_core::SeedableRng;
use futures_util::TryStreamExt;
use proptest::prelude::*;

use super::*;
use crate::{BlockKey, BlockStore};

const KINDS: [FileKind; 7] = [
    FileKind::File,
    FileKind::Dir,
    FileKind::Symlink,
    FileKind::Fifo,
    FileKind::Socket,
    FileKind::CharDevice,
    FileKind::BlockDevice,
];

/// Changes some of the model, and gives the changes that say so.
fn batch(model: &mut Model, rng: &mut ChaCha20Rng) -> BTreeMap<Ino, Option<InodeChange>> {
    let mut changes = BTreeMap::new();
    for _ in 0..below(rng, 40) {
        // Mostly the next number; now and then a gap that makes the tree higher.
        model.next_ino += if below(rng, 30) == 0 { below(rng, 100_000) } else { 0 };
        let number = ino(model.next_ino);
        model.next_ino += 1;
        let kind = KINDS[usize::try_from(below(rng, 7)).expect("small")];
        let mut node = Node::new(kind);
        scatter(&mut node, rng);
        changes.insert(number, Some(node.whole()));
        model.nodes.insert(number, node);
    }
    let numbers: Vec<Ino> = model.nodes.keys().copied().collect();
    for number in numbers {
        if changes.contains_key(&number) {
            continue;
        }
        match below(rng, 8) {
            0 => {
                model.nodes.remove(&number);
                changes.insert(number, None);
            }
            1 | 2 => {
                let node = model.nodes.get_mut(&number).expect("there");
                changes.insert(number, Some(change(node, rng)));
            }
            _ => {}
        }
    }
    changes.insert(ino(model.next_ino - 1), model.nodes.get(&ino(model.next_ino - 1)).map(Node::whole));
    changes
}

/// Gives a node numbers of all sizes.
fn scatter(node: &mut Node, rng: &mut ChaCha20Rng) {
    let mut number = || rng.next_u64() >> (rng.next_u64() % 64);
    let meta = &mut node.meta;
    meta.mode = (number() & 0o7777).try_into().expect("twelve bits");
    [meta.uid, meta.gid, meta.nlink] = [(); 3].map(|()| (number() >> 32).try_into().expect("32 bits"));
    [meta.size, meta.used, meta.change] = [(); 3].map(|()| number());
    [meta.atime, meta.mtime, meta.ctime] = [(); 3].map(|()| at(number().cast_signed()));
    if let Some(link) = &mut node.content {
        *link = content(number());
    }
    if node.meta.kind == FileKind::Symlink {
        node.target = Some(vec![b't'; usize::try_from(number() % 4096).expect("small")].into());
    }
}

/// Changes a node in one respect or two.
fn change(node: &mut Node, rng: &mut ChaCha20Rng) -> InodeChange {
    if below(rng, 2) == 0 {
        scatter(node, rng);
    }
    let mut change = node.bare();
    match (node.meta.kind, below(rng, 4)) {
        (_, 0) => {
            let count = [0, 1, 3, 60][usize::try_from(below(rng, 4)).expect("small")];
            let names = (0..count).map(|_| (ino(below(rng, 1 << 40) + 1), name(below(rng, 1 << 50).to_string())));
            let mut parents: Vec<_> = names.collect();
            change.parents = Some(parents.clone());
            parents.sort();
            node.parents = parents;
        }
        (_, 1) => {
            let count = [0, 1, 3, 60][usize::try_from(below(rng, 4)).expect("small")];
            let len = usize::try_from(below(rng, 300)).expect("small");
            let xattr =
                |number: u64| (XattrName::new(number.to_string().as_bytes()).expect("a name"), vec![7; len].into());
            node.xattrs = (0..count).map(|_| xattr(below(rng, 1 << 20))).collect();
            change.xattrs = Some(node.xattrs.clone());
        }
        (FileKind::File, 2) => {
            let count = below(rng, 3) * below(rng, 400);
            let mut end = 0;
            let ranges = (0..count).map(|_| {
                let start = end + 4096 * (1 + below(rng, 100));
                end = start + 4096 * (1 + below(rng, 100));
                start..end
            });
            let ranges: Vec<_> = ranges.collect();
            node.data = (below(rng, 4) > 0).then_some(ranges);
            change.data = Change::Set(node.data.clone());
        }
        (FileKind::Dir, _) => change_names(node, &mut change, rng),
        _ => {}
    }
    change.meta = node.meta;
    change
}

/// Adds and removes names; long ones, so that few of them already take several leaves.
fn change_names(node: &mut Node, change: &mut InodeChange, rng: &mut ChaCha20Rng) {
    let (remove, add) = (below(rng, 5), [0, 3, 20, 150][usize::try_from(below(rng, 4)).expect("small")]);
    let gone: Vec<Rank> = node.names.keys().copied().filter(|_| below(rng, 4) < remove).collect();
    for rank in gone {
        node.names.remove(&rank);
        node.meta.entry_count -= 1;
        change.names.insert(rank, None);
    }
    let collisions = colliding(6);
    for _ in 0..add {
        let name = match below(rng, 30) {
            0 => collisions[usize::try_from(below(rng, 6)).expect("small")].clone(),
            _ => name(format!("{:0>200}", below(rng, 1 << 40))),
        };
        if let Some(entry) = node.add(&name, ino(below(rng, 1 << 50) + 1)) {
            change.names.insert(entry.rank, Some(entry));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// After each of some batches: equal to the model, by every way of asking, and the same CID as one that was built at
    /// one stroke.
    #[test]
    fn any_history_gives_the_same_tree(seed: u64, batches in 1..6_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(check_history(seed, batches));
    }
}

async fn check_history(seed: u64, batches: usize) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let (_, dag) = dag();
    let mut model = Model { next_ino: 1, ..Model::default() };
    let mut attrs: Option<Attrs> = None;
    for _ in 0..batches {
        let before = model.clone();
        model.next_ino += 1;
        let changes = batch(&mut model, &mut rng);
        let next = update(&dag, attrs.as_ref(), model.changes(changes)).await.expect("updates");
        let opened = Attrs::open(&dag, &next.cid()).await.expect("opens");
        model.check(&dag, &opened).await;
        assert_eq!(model.build(&dag).await.cid(), next.cid());
        if let Some(attrs) = &attrs {
            check_diff(&dag, (&before, attrs), (&model, &next)).await;
            check_diff(&dag, (&model, &next), (&before, attrs)).await;
        }
        check_walks(&model).await;
        attrs = Some(next);
    }
}

/// The model gave a name a second place where the first of its hash had become free below it.
#[tokio::test]
async fn a_name_has_one_place_also_where_a_lower_one_is_free() {
    check_history(6_318_739_381_076_682_726, 4).await;
}

/// What differs is what differs in the model.
async fn check_diff(dag: &Dag, before: (&Model, &Attrs), after: (&Model, &Attrs)) {
    let found: Vec<Difference> = diff(dag, before.1, after.1).try_collect().await.expect("whole");
    let mut numbers: Vec<Ino> = before.0.nodes.keys().chain(after.0.nodes.keys()).copied().collect();
    numbers.sort();
    numbers.dedup();
    numbers.retain(|ino| before.0.nodes.get(ino) != after.0.nodes.get(ino));
    assert_eq!(found.iter().map(|difference| difference.ino).collect::<Vec<_>>(), numbers);
    for Difference { ino, before: old, after: new } in found {
        for (model, inode) in [(before.0, old), (after.0, new)] {
            match (model.nodes.get(&ino), inode) {
                (Some(node), Some(inode)) => assert_eq!(node.meta, inode.meta),
                (node, inode) => assert_eq!((node.is_some(), inode.is_some()), (false, false)),
            }
        }
    }
}

/// A walk meets every inode, in order, and every block that was put, and no others.
async fn check_walks(model: &Model) {
    let (store, dag) = dag();
    let attrs = model.build(&dag).await;
    let walked: Vec<(Ino, Arc<Inode>)> = inodes(&dag, &attrs).try_collect().await.expect("whole");
    assert!(
        walked.iter().map(|(ino, inode)| (ino, inode.meta)).eq(model.nodes.iter().map(|(ino, node)| (ino, node.meta)))
    );
    let mut met: Vec<BlockKey> = reach::blocks(&dag, &attrs).await.0.iter().map(BlockKey::from).collect();
    met.sort();
    let mut all: Vec<BlockKey> = store.keys().try_collect().await.expect("keys");
    all.sort();
    assert_eq!(met, all);
}

/// Equal names in two directories are the same blocks, whatever the order in which they came.
#[tokio::test]
async fn equal_directories_share_their_blocks() {
    let (blocks, dag) = dag();
    let mut one = Node::new(FileKind::Dir);
    (0..2000).for_each(|number| drop(one.add(&name(format!("file {number}")), ino(number + 10))));
    let mut model = Model { nodes: [(ino(1), one.clone())].into(), next_ino: 3 };
    let attrs = model.build(&dag).await;
    let before = blocks.block_count();
    model.nodes.insert(ino(2), one.clone());
    let changes = model.changes([(ino(2), Some(one.whole()))].into());
    update(&dag, Some(&attrs), changes).await.expect("updates");
    assert_eq!(blocks.block_count() - before, 2, "a leaf of inodes and a root");
}

/// A name whose rank is another's, a number past the next, a directory without content: bugs above are found, not kept.
#[tokio::test]
async fn what_no_tree_makes_is_refused() {
    let (_, dag) = dag();
    let good = Node::new(FileKind::Dir);
    let refused = |number: u64, change: InodeChange| {
        let changes = Changes { inodes: [(ino(number), Some(change))].into(), next_ino: 10, inode_count: 1, used: 0 };
        let dag = &dag;
        async move { update(dag, None, changes).await.expect_err("refused").kind() }
    };
    let entry = NameEntry { rank: Rank::of(b"b"), name: name("a"), ino: ino(2) };
    let mut misplaced = good.whole();
    misplaced.names.insert(entry.rank, Some(entry));
    let empty = InodeChange { content: None, ..good.whole() };
    let mut overlapping = Node::new(FileKind::File);
    overlapping.data = Some(vec![0..8192, 4096..8192]);
    for (number, change) in [(1, misplaced), (1, empty), (1, overlapping.whole()), (10, good.whole())] {
        assert_eq!(refused(number, change).await, ErrorKind::Internal);
    }
}
