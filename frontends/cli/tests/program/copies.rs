//! What `put -r` keeps of a directory in a working tree, beside names and bytes.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use muxfs::{
    Env, FileKind, Name,
    block::{Segments, SegmentsOptions},
    dag::{Dag, DagOptions},
    heads::LogHeads,
    tree::{Tree, TreeOptions},
    vfs::{Attr, Ino, Vfs as _, XattrName},
};
use muxfs_local::FileMedia;

use crate::{PATIENCE, World};

/// Opens the working tree of `/ipfs` as a program of its own would.
async fn open_tree(world: &World) -> Tree {
    let dir = world.path("data/mounts/ipfs");
    let media = |part: &str| Arc::new(FileMedia::open(dir.join(part)).expect("nobody has it"));
    let env = Env { now: Arc::new(SystemTime::now), fill: Arc::new(|bytes| bytes.fill(7)) };
    let blocks = Segments::open(media("blocks"), media("index"), SegmentsOptions::default(), &env).await;
    let dag = Dag::new(Arc::new(blocks.expect("the blocks open")), DagOptions::default());
    let heads = Arc::new(LogHeads::open(media("heads"), &env).await.expect("the heads open"));
    let options = TreeOptions { auto_commit: None, ..TreeOptions::new(Name::new(b"main").expect("a name"), env) };
    Tree::open(dag, media("journal"), heads, options).await.expect("the tree opens")
}

async fn find(tree: &Tree, path: &str) -> Attr {
    let mut at: Option<Attr> = None;
    for part in path.split('/') {
        let dir: Ino = at.as_ref().map_or_else(|| tree.root(), |attr| attr.ino);
        at = Some(tree.lookup(dir, &Name::new(part.as_bytes()).expect("a name")).await.expect(path));
    }
    at.expect("a path")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_holes_pipes_attributes_and_owners_are_kept() {
    for served in [true, false] {
        let world = World::new();
        let source = world.path("source");
        fs::create_dir_all(source.join("sub")).expect("made");
        fs::write(source.join("one"), "linked").expect("written");
        fs::set_permissions(source.join("one"), fs::Permissions::from_mode(0o4711)).expect("set");
        fs::hard_link(source.join("one"), source.join("two")).expect("linked");
        fs::hard_link(source.join("one"), source.join("sub/three")).expect("linked");
        symlink("one", source.join("symlink")).expect("linked");
        let sparse = fs::File::create(source.join("sparse")).expect("made");
        sparse.set_len(8 << 20).expect("long");
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 4 << 20).expect("written");
        let pipe = source.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o640.into(), 0).expect("a pipe");
        let root = rustix::process::geteuid().is_root();
        if root {
            lchown(source.join("sub"), Some(1234), Some(5678)).expect("given");
            lchown(source.join("one"), Some(12), Some(34)).expect("given");
            fs::set_permissions(source.join("one"), fs::Permissions::from_mode(0o4711)).expect("set");
        } else {
            eprintln!("SKIPPED: owners are kept by root, and this is not root");
        }
        let xattr =
            rustix::fs::setxattr(source.join("one"), "user.note", b"kept \xff", rustix::fs::XattrFlags::empty());
        let has_xattrs = xattr.is_ok();
        if !has_xattrs {
            eprintln!("SKIPPED: the file system of the test has no extended attributes");
        }
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::open(source.join("one")).expect("opened").set_modified(old).expect("set");

        let server = served.then(|| world.serve(&[]));
        let put = || world.ok(&["put", "-r", source.to_str().expect("UTF-8"), "/ipfs/copy"]);
        put();
        let commit = world.ok(&["commit"]);
        put();
        assert_eq!(world.ok(&["commit"]), commit, "once more finds all of it there");
        if let Some(server) = server {
            assert_eq!(server.terminate(), Some(0));
        }
        let tree = open_tree(&world).await;
        let one = find(&tree, "copy/one").await;
        let others = [find(&tree, "copy/two").await.ino, find(&tree, "copy/sub/three").await.ino];
        assert_eq!((others, one.nlink), ([one.ino, one.ino], 3));
        assert_eq!((one.mode, one.mtime), (0o4711, old));
        let sparse = find(&tree, "copy/sparse").await;
        assert_eq!(sparse.size, 8 << 20);
        assert_eq!(tree.read(sparse.ino, 4 << 20, 13).await.expect("read"), "in the middle");
        if fs::metadata(source.join("sparse")).expect("there").blocks() * 512 < 1 << 20 {
            assert!(sparse.used < 1 << 20, "holes stay holes: {}", sparse.used);
        } else {
            eprintln!("SKIPPED: the file system of the test has no holes");
        }
        let pipe = find(&tree, "copy/pipe").await;
        assert_eq!((pipe.kind, pipe.mode), (FileKind::Fifo, 0o640));
        let link = find(&tree, "copy/symlink").await;
        let modified = fs::symlink_metadata(source.join("symlink")).expect("there").modified().expect("a time");
        assert_eq!((link.kind, link.mtime), (FileKind::Symlink, modified));
        if root {
            let sub = find(&tree, "copy/sub").await;
            assert_eq!((sub.uid, sub.gid, one.uid, one.gid), (1234, 5678, 12, 34));
        }
        if has_xattrs {
            let name = XattrName::new(b"user.note").expect("a name");
            assert_eq!(tree.getxattr(one.ino, &name).await.expect("kept"), &b"kept \xff"[..]);
        }
        drop(tree);
        assert!(!world.ok(&["--json", "doctor"]).contains(r#""level":"error","check":"tree""#));
    }
}

/// Files are made durable many at a time. All are when the command says so; and a server that is killed before leaves whole files
/// or none, over which the same command goes on.
#[test]
fn many_files_are_whole_or_absent_after_a_kill_and_there_when_it_was_said() {
    const COUNT: usize = 1000;
    let text = |n: usize| format!("file {n}\n").repeat(1 + n % 300);
    let world = World::new();
    let source = world.path("source");
    for dir in 0..10 {
        fs::create_dir_all(source.join(format!("{dir}"))).expect("made");
    }
    for n in 0..COUNT {
        fs::write(source.join(format!("{}/{n}", n % 10)), text(n)).expect("written");
    }
    let put = ["put", "-r", source.to_str().expect("UTF-8"), "/ipfs/copy"];

    let server = world.serve(&[]);
    let mut under_way = world.command().args(put).stderr(Stdio::null()).spawn().expect("the program runs");
    let begun = Instant::now();
    while !world.run(&["has", "/ipfs/copy/1/1"]).status.success() {
        assert!(begun.elapsed() < PATIENCE, "nothing is put");
    }
    server.kill();
    under_way.wait().expect("a child");

    let server = world.serve(&[]);
    let left = world.path("left");
    // Where nothing was made durable yet, nothing of it is there.
    let got = world.run(&["get", "/ipfs/copy", left.to_str().expect("UTF-8")]);
    assert!(matches!(got.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&got.stderr));
    for dir in fs::read_dir(&left).into_iter().flatten() {
        for file in fs::read_dir(dir.expect("an entry").path()).expect("a directory") {
            let file = file.expect("an entry").path();
            let name = file.file_name().and_then(|name| name.to_str()).expect("UTF-8");
            if !name.starts_with(".muxfs-put-") {
                let n = name.parse().expect("a number");
                assert!(fs::read_to_string(&file).expect("read") == text(n), "{}", file.display());
            }
        }
    }
    world.ok(&put);
    server.kill();

    let _server = world.serve(&[]);
    world.ok(&["get", "/ipfs/copy", world.path("back").to_str().expect("UTF-8")]);
    for n in 0..COUNT {
        let file = world.path("back").join(format!("{}/{n}", n % 10));
        assert!(fs::read_to_string(&file).expect("there") == text(n), "{}", file.display());
    }
}
