//! What a check finds: nothing in a tree that fits, and each lie that a tree can be made to tell, by its place.

use std::collections::BTreeMap;

use super::{
    super::{
        attrs::{self, Attrs, Change, Changes, InodeChange},
        commit_node::Commit,
        inode::NameEntry,
        open::Head,
    },
    *,
};
use crate::{
    BlockKey, BlockStore,
    dag::{Ipld, cbor},
    heads::Heads as _,
    rank::Rank,
    tree::inode::Meta,
    vfs::{Place, SetAttr},
};

/// The state of every kind of node, some of them changed since the commit, one without a name.
#[tokio::test]
async fn a_tree_that_fits_has_no_faults() {
    let tree = Ground::with_chunk_len(1024).open().await;
    let root = tree.root();
    let dir = make(&tree, root, "dir", NewNode::Dir).await;
    for number in 0..3000 {
        drop(make(&tree, dir.ino(), &format!("file {number}"), NewNode::File).await);
    }
    let link = make(&tree, dir.ino(), "link", NewNode::Symlink("to/there".into())).await;
    drop(make(&tree, root, "fifo", NewNode::Fifo).await);
    let file = make(&tree, root, "file", NewNode::File).await;
    tree.write(file.ino(), 10_000, "far out".into(), false).await.expect("write");
    let other = tree.link(file.ino(), dir.ino(), &name("other")).await.expect("link");
    tree.release(other.node.ino, 1);
    tree.commit("").await.expect("commit");
    let (found, report) = faults(&tree).await;
    assert_eq!(found, [""; 0]);
    assert_eq!((report.inode_count, report.name_count, report.foreign_dir_count), (3005, 3005, 0));

    let gone = make(&tree, root, "gone", NewNode::File).await;
    tree.write(gone.ino(), 0, "still open".into(), false).await.expect("write");
    for (dir, text) in [(root, "gone"), (dir.ino(), "file 7")] {
        let place = Place { dir, name: &name(text), expect: None };
        tree.remove(place, RemoveKind::NonDir).await.expect("remove");
    }
    tree.setattr(link.ino(), SetAttr { uid: Some(7), ..SetAttr::default() }).await.expect("setattr");
    let (found, report) = faults(&tree).await;
    assert_eq!(found, [""; 0]);
    assert_eq!((report.inode_count, report.name_count), (3005 + 3004, 3005 + 3004), "the head, and what is seen now");
    drop(gone);
    assert_sound(&tree, "nobody leases it any more").await;
}

/// A directory that came from elsewhere need not have the form that this program gives it; what it lists has to be right.
#[tokio::test]
async fn a_directory_from_elsewhere_keeps_its_form() {
    let ground = Ground::new();
    let other = ground.dag.with_params(Params { hamt_threshold: 0, ..Profile::default().params() });
    let file = other.import(&b"content"[..], UnixfsMeta::default()).await.expect("import");
    let entry = Ok(crate::dag::Entry { name: name("a"), link: file });
    let dir = other.put_dir(stream::iter([entry]).boxed()).await.expect("put");
    let tree = ground.open().await;
    tree.checkout(&dir.cid).await.expect("checkout");
    let (found, report) = faults(&tree).await;
    assert_eq!((found.len(), report.foreign_dir_count), (0, 1), "{found:?}");
}

/// A tree with `dir/file` (inodes 2 and 3), whose committed attributes `lie` changes: what the check says of it.
async fn lied(lie: impl FnOnce(&mut Lie)) -> Vec<String> {
    let ground = Ground::new();
    let tree = ground.open().await;
    let dir = make(&tree, tree.root(), "dir", NewNode::Dir).await;
    let file = make(&tree, dir.ino(), "file", NewNode::File).await;
    tree.write(file.ino(), 0, "hello".into(), false).await.expect("write");
    let (dir, file) = (dir.ino(), file.ino());
    tree.commit("").await.expect("commit");
    let (_, commit) = tree.head();
    let attrs = Attrs::open(&ground.dag, &commit.attrs.expect("attributes")).await.expect("they open");
    let inodes: Vec<_> =
        futures_util::TryStreamExt::try_collect(attrs::inodes(&ground.dag, &attrs)).await.expect("all");
    let kept = |inode: &attrs::Inode| InodeChange {
        meta: inode.meta,
        content: inode.content,
        target: inode.target.clone(),
        parents: None,
        data: Change::Keep,
        xattrs: None,
        names: BTreeMap::new(),
    };
    let mut lie_of = Lie {
        dir,
        file,
        inodes: inodes.iter().map(|(ino, inode): &(Ino, _)| (*ino, Some(kept(inode)))).collect(),
        next_ino: attrs.next_ino(),
        inode_count: attrs.inode_count(),
        used: attrs.used(),
        root: commit.root,
        claimed_next: None,
    };
    lie(&mut lie_of);
    let Lie { inodes, next_ino, inode_count, used, root, claimed_next, .. } = lie_of;
    let changes = Changes { inodes, next_ino, inode_count, used };
    let attrs = attrs::update(&ground.dag, Some(&attrs), changes).await.expect("put");
    let mut cid = attrs.cid();
    if let Some(next) = claimed_next {
        let block = ground.dag.get_block(&cid).await.expect("a block");
        let Ipld::List(mut fields) = cbor::decode(&block).expect("dag-cbor") else { panic!("a node is a list") };
        fields[2] = Ipld::Integer(next.into());
        cid = ground.dag.put_linked(&Ipld::List(fields)).await.expect("put");
    }
    let commit = Commit { attrs: Some(cid), root, ..(*commit).clone() };
    let head = Head { id: tree.shared.id, commit: commit.put(&ground.dag).await.expect("put") };
    let (_, version) = ground.heads.load(&name("main")).await.expect("load").expect("a head");
    let swapped = ground.heads.swap(&name("main"), Some(&version), head.encode().expect("encoded")).await;
    assert!(matches!(swapped, Ok(crate::heads::Swap::Done(_))));
    drop(tree);
    let tree = Ground { journal: Arc::default(), ..ground }.open().await;
    let (faults, report) = faults(&tree).await;
    assert_eq!(report.fault_count, faults.len() as u64);
    faults
}

/// What a committed state is made to say.
struct Lie {
    dir: Ino,
    file: Ino,
    inodes: BTreeMap<Ino, Option<InodeChange>>,
    next_ino: u64,
    inode_count: u64,
    used: u64,
    root: Cid,
    /// What the root of the attributes says instead.
    claimed_next: Option<u64>,
}

impl Lie {
    fn of(&mut self, ino: Ino) -> &mut InodeChange {
        self.inodes.get_mut(&ino).and_then(Option::as_mut).expect("it is there")
    }

    fn meta(&mut self, ino: Ino) -> &mut Meta {
        &mut self.of(ino).meta
    }

    fn entry(&mut self, dir: Ino, text: &str, ino: Option<Ino>) {
        let (rank, name) = (Rank::of(text.as_bytes()), name(text));
        self.of(dir).names.insert(rank, ino.map(|ino| NameEntry { rank, name, ino }));
    }
}

#[tokio::test]
async fn each_lie_is_found_by_its_place() {
    type Tell = fn(&mut Lie);
    let lies: [(&str, Tell); 17] = [
        ("directory 2 has not its name file", |lie| lie.entry(lie.dir, "file", None)),
        ("its name ghost leads to inode 99, which is not there", |lie| {
            lie.next_ino += 1 << 17;
            lie.entry(lie.dir, "ghost", Some(Ino(99.try_into().expect("not 0"))));
        }),
        ("its name second leads to inode 3, which does not know of it", |lie| {
            lie.entry(lie.dir, "second", Some(lie.file));
        }),
        ("its name file in directory 2 is that of inode 2", |lie| lie.entry(lie.dir, "file", Some(lie.dir))),
        ("it knows of 1 names that it has, and has to have 2", |lie| lie.meta(lie.file).nlink = 2),
        ("it has no name, and was kept", |lie| lie.meta(lie.file).nlink = 0),
        ("it has 1 names, and says 5", |lie| lie.meta(lie.dir).entry_count = 5),
        ("it has 0 directories in it, and 9 links", |lie| lie.meta(lie.dir).nlink = 9),
        ("the next number to give is 2100, so nothing can have this one", |lie| {
            let file = lie.inodes.get(&lie.file).cloned().expect("it is there");
            lie.inodes.insert(Ino(3000.try_into().expect("not 0")), file);
            lie.claimed_next = Some(2100);
        }),
        ("there are 3 inodes, and the tree says 4", |lie| lie.inode_count += 1),
        ("there are 4096 bytes taken by files, and the tree says 4097", |lie| lie.used += 1),
        ("it has 6 bytes, and its content", |lie| lie.meta(lie.file).size = 6),
        ("it says that it takes 8192 bytes, and takes 4096", |lie| lie.meta(lie.file).used = 8192),
        ("has something else as file", |lie| {
            let dir = lie.of(lie.dir).content;
            lie.of(lie.file).content = dir;
        }),
        ("its content", |lie| {
            let root = Ino(std::num::NonZeroU64::MIN);
            lie.of(lie.dir).content = lie.of(root).content;
        }),
        ("is not the content of the root directory", |lie| lie.root = lie.of(lie.dir).content.expect("a link").cid),
        ("no way leads up from this directory to the root", |lie| {
            let dir = lie.dir;
            lie.of(dir).parents = Some(vec![(dir, name("itself"))]);
            lie.entry(dir, "itself", Some(dir));
        }),
    ];
    for (wanted, lie) in lies {
        let found = lied(lie).await;
        assert!(found.iter().any(|fault| fault.contains(wanted)), "{wanted}: {found:#?}");
    }
    assert_eq!(lied(|_| ()).await, [""; 0], "what was not lied about");
}

/// A block that is gone is named, and hides nothing else.
#[tokio::test]
async fn what_is_lost_is_named_and_the_rest_is_checked() {
    let blocks = Arc::new(Mem::default());
    let ground = Ground { dag: Dag::new(blocks.clone(), DagOptions::default()), ..Ground::new() };
    let tree = ground.open().await;
    for number in 0..50 {
        let file = make(&tree, tree.root(), &format!("file {number}"), NewNode::File).await;
        let data = format!("content {number}").repeat(10);
        tree.write(file.ino(), 0, data.into(), false).await.expect("write");
    }
    tree.commit("").await.expect("commit");
    let lost = tree.lookup(tree.root(), &name("file 7")).await.expect("there").cid.expect("committed");
    drop(tree);
    blocks.delete(&BlockKey::from(&lost)).await.expect("deleted");
    let ground = Ground { dag: Dag::new(blocks, DagOptions::default()), ..ground };
    let (found, report) = faults(&ground.open().await).await;
    assert_eq!((found.len(), report.inode_count), (1, 51), "{found:?}");
    assert!(found[0].contains(&lost.to_string()), "{found:?}");
}
