//! Blocks that nobody of good will made: each is refused, or is read as what it says and nothing else.

use futures_util::StreamExt;

use super::{
    inode::Inode as Record,
    list::ListIndex,
    names::{Child, Entries, NameIndex, NameLeaf},
    node::put,
    radix::{InodeIndex, InodeLeaf},
    *,
};
use crate::{BlockKey, BlockStore};

/// The block of a node, from what was decoded of it.
fn encode(node: &AttrNode) -> Vec<u8> {
    match node {
        AttrNode::Root(root) => root.encode(),
        AttrNode::InodeIndex(index) => {
            let mut again = InodeIndex::default();
            index.children().for_each(|(at, id)| again.set(at, Some(id)));
            again.encode()
        }
        AttrNode::Inodes(leaf) => {
            let record =
                |record: &Bytes| Record::decode(record).and_then(|inode| inode.encode()).expect("decoded once");
            let records: Vec<_> = leaf.records().map(|(at, bytes)| (at, record(bytes).into())).collect();
            InodeLeaf::encode(leaf.number(), &records).expect("not empty")
        }
        AttrNode::NameIndex(index) => index.encode(),
        AttrNode::Names(leaf) => NameLeaf::encode(&leaf.entries),
        AttrNode::ListIndex(index) => index.encode(),
        AttrNode::List(list) => list.encode().expect("decoded once"),
    }
}

/// A small block of each kind.
async fn samples() -> Vec<Bytes> {
    let (_, dag) = dag();
    let mut model = Model { next_ino: 40_000, ..Model::default() };
    for (number, kind) in [
        (1, FileKind::Dir),
        (2, FileKind::File),
        (3, FileKind::Symlink),
        (4, FileKind::Fifo),
        (5, FileKind::CharDevice),
    ] {
        model.nodes.insert(ino(number), Node::new(kind));
    }
    let root = model.nodes.get_mut(&ino(1)).expect("there");
    root.add(&name("a"), ino(2));
    for name in colliding(2) {
        root.add(&name, ino(3)).expect("new");
    }
    let file = model.nodes.get_mut(&ino(2)).expect("there");
    file.data = Some(vec![0..4096, 8192..4096 * 1000]);
    file.parents = vec![(ino(1), name("a")), (ino(1), name("b"))];
    file.xattrs.insert(XattrName::new(b"user.a").expect("a name"), Bytes::from_static(b"value"));
    model.nodes.insert(ino(39_999), Node::new(FileKind::Socket));
    let attrs = model.build(&dag).await;

    let mut blocks = Vec::new();
    let mut left = vec![NodeId::of(&attrs.cid()).expect("a node")];
    while let Some(id) = left.pop() {
        let block = dag.get_block(&id.cid()).await.expect("a block");
        match &*load(&dag, id).await.expect("a node") {
            AttrNode::Root(root) => left.extend(root.inodes),
            AttrNode::InodeIndex(index) => left.extend(index.children().map(|(_, id)| id)),
            _ => {}
        }
        blocks.push(block);
    }
    let id = NodeId([7; 32]);
    let children = vec![(1, Child::Leaf(id, 8000)), (2, Child::Empty), (3, Child::Leaf(id, 5000))];
    let rest = (0..8).map(|_| (6, Child::Index(id)));
    blocks.push(NameIndex { children: children.into_iter().chain(rest).collect() }.encode().into());
    let entries = model.nodes[&ino(1)].names.values().map(|entry| {
        let encoded = names::encode_entry(entry).expect("an entry");
        (entry.rank, encoded.into())
    });
    blocks.push(NameLeaf::encode(&entries.collect::<Entries>()).into());
    blocks.push(ListIndex { children: vec![id, NodeId([8; 32])] }.encode().into());
    let lists = [&b"\x82\x66xattrs\x84\x41a\x42xy\x42ab\x40"[..], b"\x82\x67parents\x82\x05\x41n"];
    blocks.extend(lists.into_iter().chain([&b"\x82\x66ranges\x84\x00\x02\x18\x20\x01"[..]]).map(Bytes::from_static));
    blocks
}

/// Strictness in one sentence: what decodes has one form. Every byte of every kind of node is set to every value.
#[tokio::test]
async fn a_damaged_node_is_refused_or_is_another_node() {
    let samples = samples().await;
    assert_eq!(samples.len(), 12);
    for block in samples {
        assert_eq!(encode(&AttrNode::decode(&block).expect("a node")), block);
        for at in 0..block.len() {
            for change in 1..=255 {
                let mut damaged = block.to_vec();
                damaged[at] ^= change;
                let damaged = Bytes::from(damaged);
                match AttrNode::decode(&damaged) {
                    Ok(node) => assert_eq!(encode(&node), damaged, "byte {at} of {block:02x?}"),
                    Err(error) => assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported)),
                }
            }
            AttrNode::decode(&block.slice(..at)).expect_err("cut off");
        }
        AttrNode::decode(&[&block[..], b"\0"].concat().into()).expect_err("longer");
    }
}

fn why(block: &[u8]) -> String {
    format!("{:#}", AttrNode::decode(&Bytes::copy_from_slice(block)).expect_err("refused"))
}

#[test]
fn newer_programs_are_named() {
    let newer = why(b"\x83\x6bmuxfs-attrs\x02\xf6");
    assert!(newer.contains("not supported") && newer.contains("version 2") && newer.contains("newer"), "{newer}");
    let foreign = [&b"\x87\x6bmuxfs-attrs\x01\x01\0\0\xf6\xd8\x2a\x58\x25\0\x01\x71\x12\x20"[..], &[0; 32]].concat();
    let foreign = why(&foreign);
    assert!(foreign.contains("not supported") && foreign.contains("foreign"), "{foreign}");
}

#[test]
fn each_rule_refuses() {
    let link = [&b"\xd8\x2a\x58\x25\0\x01\x71\x12\x20"[..], &[9; 32]].concat();
    let index = |children: &[&[u8]]| {
        let count = u8::try_from(children.len()).expect("few");
        [&b"\x82\x6aname-index"[..], &[0x80 | count], &children.concat()].concat()
    };
    let leaf = |bits: u8, len: u16| [&[0x83, bits, 0x19], &len.to_be_bytes()[..], &link].concat();
    let raw = [&b"\x83\x6binode-index\x01\x81\xd8\x2a\x58\x25\0\x01\x55\x12\x20"[..], &[9; 32]].concat();
    let cases: [(&str, Vec<u8>, &str); 22] = [
        ("no list", b"\xa0".to_vec(), "a list is wanted"),
        ("no tag", b"\x81\x00".to_vec(), "text is wanted"),
        ("another tag", b"\x82\x61x\x80".to_vec(), "no such kind"),
        ("version 0", b"\x87\x6bmuxfs-attrs\0\x01\0\0\xf6\xf6".to_vec(), "no such version"),
        ("next is 0", b"\x87\x6bmuxfs-attrs\x01\0\0\0\xf6\xf6".to_vec(), "from 1 to 2^55"),
        ("no second link", b"\x87\x6bmuxfs-attrs\x01\x01\0\0\xf6\0".to_vec(), "null is wanted"),
        ("a root cut short", b"\x86\x6bmuxfs-attrs\x01\x01\0\0\xf6".to_vec(), "not as many"),
        ("no child", b"\x83\x6binode-index\0\x80".to_vec(), "one at least"),
        ("a child less", b"\x83\x6binode-index\x03\x80".to_vec(), "for each bit"),
        ("a link to a raw block", raw, "dag-cbor"),
        ("a leaf of none", b"\x84\x66inodes\0\0\x80".to_vec(), "one to 32 bits"),
        ("the number 0", b"\x84\x66inodes\0\x01\x81\x80".to_vec(), "number 0"),
        ("too high", b"\x84\x66inodes\x1b\0\x04\0\0\0\0\0\0\x01\x81\x80".to_vec(), "below 2^55"),
        ("no names", b"\x82\x65names\x80".to_vec(), "1 to 8192"),
        ("a name of two", b"\x82\x65names\x81\x82\x42..\x01".to_vec(), "neither . nor .."),
        ("an index of 0", b"\x82\x65names\x81\x83\x41a\x01\0".to_vec(), "1 to 65535"),
        ("a name twice", b"\x82\x65names\x82\x82\x41a\x01\x82\x41a\x02".to_vec(), "order of their ranks"),
        ("small halves", index(&[&leaf(1, 4000), &leaf(1, 4000)]), "fits in one leaf"),
        ("no halves", index(&[b"\x01", b"\x01"]), "fits in one leaf"),
        ("slots too few", index(&[&leaf(1, 8000)]), "64 slots"),
        ("slots too many", index(&[&leaf(1, 8000), &leaf(1, 8000), &leaf(1, 8000)]), "64 slots"),
        ("askew", index(&[&leaf(2, 8000), &leaf(1, 8000), &leaf(2, 8000)]), "where one of its depth can"),
    ];
    for (name, block, reason) in cases {
        let given = why(&block);
        assert!(given.contains(reason), "{name}: {given}");
    }
}

/// Good blocks in wrong places: linked from where others are wanted.
#[tokio::test]
async fn misplaced_nodes_are_found_out() {
    let (_, dag) = dag();
    let mut one = Node::new(FileKind::Dir);
    (0..3000).for_each(|number| drop(one.add(&name(format!("{number}")), ino(2))));
    let model = Model { nodes: [(ino(1), one)].into(), next_ino: 100 };
    let attrs = model.build(&dag).await;
    let top = attrs.root().inodes.expect("not empty");
    let AttrNode::InodeIndex(index) = &*load(&dag, top).await.expect("a node") else { panic!("an index") };
    let leaf = index.child(0).expect("a leaf");
    let inode = lookup(&dag, |nodes| attrs.inode(nodes, ino(1))).await.expect("looked up").expect("there");
    let names::Names::Node(names) = inode.names else { panic!("many names") };

    let find = |inodes: NodeId, number: u64| {
        let root = Root { next_ino: 100, inode_count: 1, used: 0, inodes: Some(inodes) };
        let dag = &dag;
        async move {
            let cid = put(dag, root.encode()).await.expect("put").cid();
            let attrs = Attrs::open(dag, &cid).await.expect("a root");
            lookup(dag, |nodes| attrs.inode(nodes, ino(number))).await.map(|found| found.is_some())
        }
    };
    let shifted = |id: NodeId| {
        let mut index = InodeIndex::default();
        index.set(1, Some(id));
        put(&dag, index.encode())
    };
    assert!(find(top, 1).await.expect("in place"));
    for (what, root) in
        [("no index", leaf), ("names", names), ("the root itself", NodeId::of(&attrs.cid()).expect("a node"))]
    {
        assert_eq!(find(root, 1).await.expect_err(what).kind(), ErrorKind::Corrupt, "{what}");
    }
    let other = shifted(leaf).await.expect("put");
    assert_eq!(find(other, 33).await.expect_err("numbers 0 to 31 at 32").kind(), ErrorKind::Corrupt);
    let deep = shifted(top).await.expect("put");
    assert_eq!(find(deep, 33).await.expect_err("an index for a leaf").kind(), ErrorKind::Corrupt);

    // The halves of the directory, one where the other should be.
    let AttrNode::NameIndex(index) = &*load(&dag, names).await.expect("a node") else { panic!("an index") };
    let mut children = index.children.clone();
    let last = children.len() - 1;
    children.swap(0, last);
    let swapped = put(&dag, NameIndex { children }.encode()).await.expect("put");
    let lying: Vec<_> = index
        .children
        .iter()
        .map(|(bits, child)| match child {
            Child::Leaf(id, len) => (*bits, Child::Leaf(*id, len - 1)),
            other => (*bits, *other),
        })
        .collect();
    let lying = put(&dag, NameIndex { children: lying }.encode()).await.expect("put");
    let mut wrong = NameIndex { children: Vec::new() };
    wrong.children.extend((0..64).map(|_| (6, Child::Index(names))));
    let wrong = put(&dag, wrong.encode()).await.expect("put");
    for (what, id) in [("swapped", swapped), ("another length", lying), ("everywhere the same", wrong)] {
        let inode = Record {
            names: names::Names::Node(id),
            ..(*lookup(&dag, |nodes| attrs.inode(nodes, ino(1))).await.expect("looked up").expect("there")).clone()
        };
        let error = lookup(&dag, |nodes| inode.entries(nodes, first(), usize::MAX)).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}");
    }
}

/// An index that leads to the same block again and again would be many times as long as its blocks.
#[tokio::test]
async fn a_list_that_repeats_itself() {
    let (_, dag) = dag();
    let list = put(&dag, b"\x82\x66ranges\x82\x00\x02".to_vec()).await.expect("put");
    let mut id = list;
    for _ in 0..3 {
        id = put(&dag, ListIndex { children: vec![id; 512] }.encode()).await.expect("put");
    }
    let mut deep = list;
    for _ in 0..20 {
        deep = put(&dag, ListIndex { children: vec![deep] }.encode()).await.expect("put");
    }
    let xattrs = put(&dag, b"\x82\x66xattrs\x82\x41a\x40".to_vec()).await.expect("put");
    for (what, id) in [("again and again", id), ("too deep", deep), ("of another kind", xattrs)] {
        let part = list::Part::Node(id);
        let error = lookup(&dag, |nodes| part.items::<Range<u64>>(nodes)).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}");
    }
}

/// One lost leaf is told of, and hides nothing but itself.
#[tokio::test]
async fn a_walk_goes_on_past_what_is_lost() {
    let (store, dag) = dag();
    let nodes = (1..200).map(|number| (ino(number), Node::new(FileKind::File)));
    let attrs = Model { nodes: nodes.collect(), next_ino: 200 }.build(&dag).await;
    let before: Vec<_> = inodes(&dag, &attrs).collect().await;
    assert!(before.len() == 199 && before.iter().all(Result::is_ok));
    let AttrNode::InodeIndex(index) = &*load(&dag, attrs.root().inodes.expect("not empty")).await.expect("a node")
    else {
        panic!("an index")
    };
    let lost = index.child(2).expect("a leaf").cid();
    store.delete(&BlockKey::from(&lost)).await.expect("deleted");
    let fresh = Dag::new(store, DagOptions::default());
    let after: Vec<_> = inodes(&fresh, &attrs).collect().await;
    assert_eq!(after.iter().filter(|found| found.is_ok()).count(), 199 - 32);
    let errors: Vec<_> = after.into_iter().filter_map(Result::err).collect();
    assert!(
        matches!(&*errors, [error] if error.kind() == ErrorKind::NotFound && error.path() == Some(&lost.to_string()))
    );
    assert_eq!(reach::blocks(&fresh, &attrs).await.1, 1);
}

/// Ten blocks that look like 2^54 leaves: a walk ends, and each block of the tree is met once.
#[tokio::test]
async fn a_walk_of_few_blocks_that_look_like_many_ends() {
    let (_, dag) = dag();
    let mut trees = Vec::new();
    for mode in [0o644, 0o600] {
        let mut node = Node::new(FileKind::File);
        node.meta.mode = mode;
        let record = Bytes::from(decoded(&node).encode().expect("a record"));
        let mut id = put(&dag, InodeLeaf::encode(0, &[(1, record)]).expect("a leaf")).await.expect("put");
        for _ in 0..9 {
            let mut index = InodeIndex::default();
            (0..64).for_each(|at| index.set(at, Some(id)));
            id = put(&dag, index.encode()).await.expect("put");
        }
        let root = Root { next_ino: INO_END, inode_count: 1, used: 0, inodes: Some(id) };
        let cid = put(&dag, root.encode()).await.expect("put").cid();
        trees.push(Attrs::open(&dag, &cid).await.expect("a root"));
    }
    let [one, other] = &*trees else { panic!("two trees") };
    let found: Vec<_> = inodes(&dag, one).collect().await;
    assert_eq!((found.len(), found.iter().filter(|found| found.is_ok()).count()), (1001, 1));
    let found: Vec<_> = diff(&dag, one, other).collect().await;
    assert_eq!((found.len(), found.iter().filter(|found| found.is_ok()).count()), (1001, 1));
    assert_eq!(reach::blocks(&dag, one).await.0.len(), 11);
}

/// An inode without parts.
fn decoded(node: &Node) -> Record {
    Record {
        meta: node.meta,
        content: node.content,
        target: None,
        parents: list::Part::empty(),
        data: None,
        xattrs: list::Part::empty(),
        names: names::Names::empty(),
    }
}
