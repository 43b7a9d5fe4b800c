//! Goal: what is made reads back as what it was made of, the same each time, and hostile archives are refused.
//! Method: trees with every kind of node, directories, archives and images, made and read by the reader; by the independent
//! decoder of `tests/flist_vectors.py` where Python has what it needs.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use muxfs::{ErrorKind, FileKind, Name, vfs::Rdev};

use super::made::{World, content};
use crate::{
    Flist, Format, Inode, Route,
    write::{self, About, CreateOptions, Difference, Facts, Making, Report, Source, Stores, Tree, What, differences},
};

const LONG: u32 = 1_300_000;

pub(super) fn long() -> Vec<u8> {
    (0..LONG).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
}

fn names(path: &str) -> Vec<Name> {
    path.split('/').filter(|part| !part.is_empty()).map(|part| Name::new(part.as_bytes()).expect("a name")).collect()
}

pub(super) fn stores(world: &World) -> Arc<Stores> {
    let url = format!("dir://{}", world.path("chunks").display());
    Arc::new(Stores::open(&[url.parse().expect("an address")]).expect("made"))
}

pub(super) async fn create(world: &World, source: &Path, name: &str) -> muxfs::Result<Report> {
    let options = CreateOptions { metadata: vec![("author".into(), "me".into())], ..CreateOptions::default() };
    write::create(Source::of(source)?, stores(world), &world.path("flists").join(name), options).await
}

/// All that an flist says of its nodes, and the hash of each file.
pub(super) fn told(flist: &Flist, world: &World) -> BTreeMap<String, String> {
    fn walk(flist: &Flist, world: &World, path: &str, inode: &Inode, found: &mut BTreeMap<String, String>) {
        let Inode { kind, mode, uid, gid, rdev, size, mtime, target, .. } = inode;
        let mut text = format!("{kind:?} {mode:o} {uid} {gid} {rdev:?} {size} {mtime:?} {target:?}");
        if *kind == FileKind::File {
            let bytes = content(flist, inode, &world.path("chunks")).expect("good");
            text = format!("{text} {}", blake3::hash(&bytes));
        }
        found.insert(format!("/{path}"), text);
        if *kind == FileKind::Dir {
            for entry in flist.dir(inode).expect("a directory").entries {
                let below = format!("{path}{}{}", if path.is_empty() { "" } else { "/" }, entry.name);
                walk(flist, world, &below, &entry.inode, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(flist, world, "", &flist.root().expect("a root"), &mut found);
    found
}

pub(super) fn of<'a>(found: &'a BTreeMap<String, String>, path: &str) -> &'a str {
    found.get(path).unwrap_or_else(|| panic!("{path} is not in {found:?}"))
}

/// A directory of this machine with what an ordinary user may make.
fn rootfs(world: &World) -> PathBuf {
    let root = world.path("rootfs");
    fs::create_dir_all(root.join("usr/bin")).expect("made");
    fs::create_dir(root.join("empty")).expect("made");
    fs::write(root.join("usr/bin/su"), b"#!/bin/sh\n").expect("written");
    fs::set_permissions(root.join("usr/bin/su"), fs::Permissions::from_mode(0o4755)).expect("set");
    fs::write(root.join("usr/long"), long()).expect("written");
    fs::write(root.join("usr/zeros"), vec![0; 1 << 20]).expect("written");
    fs::write(root.join("none"), b"").expect("written");
    fs::hard_link(root.join("usr/long"), root.join("again")).expect("linked");
    symlink("usr/bin", root.join("bin")).expect("linked");
    symlink("/nowhere", root.join("dangling")).expect("linked");
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, 0o640.into(), 0).expect("made");
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_reads_back_and_is_made_the_same_again() {
    let world = World::new();
    let root = rootfs(&world);
    for name in ["a.fl", "a.flist"] {
        let report = create(&world, &root, name).await.expect("made");
        assert_eq!(report.nodes, 12, "{report:?}");
        // Three of the long file, one of zeros, one of the program: each is stored once.
        assert_eq!((report.chunks, report.chunks_stored), (5, 5), "{report:?}");
        let flist = world.open(name).expect("opens");
        let found = told(&flist, &world);
        assert!(of(&found, "/usr/bin/su").starts_with("File 4755"), "{found:?}");
        assert!(of(&found, "/pipe").starts_with("Fifo 6"), "{found:?}");
        assert!(of(&found, "/bin").contains("usr/bin") && of(&found, "/dangling").contains("/nowhere"), "{found:?}");
        assert_eq!(of(&found, "/usr/long"), of(&found, "/again"));
        assert!(of(&found, "/usr/long").ends_with(&blake3::hash(&long()).to_string()));
        let about = fs::metadata(root.join("usr")).expect("there");
        assert_eq!(flist.dir(&flist.root().expect("a root")).expect("listed").entries.len(), 7);
        let (_, usr) = (0, flist.dir(&flist.root().expect("a root")).expect("listed"));
        let usr = &usr.find(&names("usr")[0]).expect("there").1.inode;
        assert_eq!(usr.mtime, about.modified().map(whole_seconds).expect("a time"));
        assert!(flist.metadata().expect("metadata").contains(&("author".into(), "me".into())));
        // Again, beside it: nothing is sent, and the file is the same.
        let again = create(&world, &root, &format!("b{}", &name[1..])).await.expect("made");
        assert_eq!((again.chunks, again.chunks_stored, again.bytes_stored), (5, 0, 0));
        let read = |name: &str| fs::read(world.path("flists").join(name)).expect("read");
        assert!(read(name) == read(&format!("b{}", &name[1..])), "{name}");
    }
    let left: Vec<_> =
        fs::read_dir(world.path("flists")).expect("listed").map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

/// A part of this machine's own system, and all of it where that is asked for: what it is made of is what it reads back as.
async fn a_root_reads_back(root: &Path) {
    use std::os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _};
    if !root.is_dir() {
        muxfs::testing::skip("this machine has no such directory");
        return;
    }
    let world = World::new();
    create(&world, root, "a.fl").await.expect("made");
    let flist = world.open("a.fl").expect("opens");
    let mut dirs = vec![(root.to_path_buf(), flist.root().expect("a root"))];
    let mut count = 0;
    while let Some((path, dir)) = dirs.pop() {
        let entries = flist.dir(&dir).expect("listed").entries;
        assert_eq!(fs::read_dir(&path).expect("listed").count(), entries.len(), "{}", path.display());
        for entry in entries {
            let path = path.join(std::ffi::OsStr::from_bytes(entry.name.as_bytes()));
            let (there, inode) = (fs::symlink_metadata(&path).expect("there"), entry.inode);
            count += 1;
            assert_eq!((inode.uid, inode.gid), (there.uid(), there.gid()), "{}", path.display());
            assert_eq!(inode.mtime, there.modified().map(whole_seconds).expect("a time"), "{}", path.display());
            assert_eq!(inode.mode, there.mode() & 0o7777, "{}", path.display());
            match inode.kind {
                FileKind::Dir => dirs.push((path, inode)),
                FileKind::Symlink => {
                    assert_eq!(fs::read_link(&path).expect("a link").as_os_str().as_bytes(), &inode.target[..]);
                }
                FileKind::File => {
                    let bytes = content(&flist, &inode, &world.path("chunks")).expect("good");
                    assert!(fs::read(&path).expect("read") == bytes, "{}", path.display());
                }
                _ => {}
            }
        }
    }
    println!("{count} nodes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_this_machine_reads_back() {
    a_root_reads_back(Path::new("/usr/share/zoneinfo")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "reads and writes gigabytes"]
async fn all_of_this_machine_reads_back() {
    let root = std::env::var_os("MUXFS_FLIST_ROOT").unwrap_or_else(|| "/usr".into());
    a_root_reads_back(Path::new(&root)).await;
}

fn whole_seconds(time: std::time::SystemTime) -> std::time::SystemTime {
    let since = time.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    std::time::UNIX_EPOCH + std::time::Duration::from_secs(since.as_secs())
}

/// A tree of every kind, which only root could make on a disk.
async fn every_kind(world: &World, name: &str) {
    let options = CreateOptions::default();
    let mut making =
        Making::begin(Tree::default(), stores(world), &world.path("flists").join(name), &options).expect("begun");
    let pieces = futures_util::stream::iter([Ok(long().into()), Ok("end".into())]);
    let (content, len) = making.content(Box::pin(pieces)).await.expect("read");
    assert_eq!(len, u64::from(LONG) + 3);
    let rdev = Rdev { major: 0xabc, minor: 0x1_2345 };
    for (path, mode, what) in [
        ("dev/sda", 0o660, What::BlockDevice(rdev)),
        ("dev/null", 0o666, What::CharDevice(Rdev { major: 1, minor: 3 })),
        ("dev/pipe", 0o600, What::Fifo),
        ("dev/socket", 0o7777, What::Socket),
        ("file", 0o2755, What::File { len, content }),
        ("link", 0o777, What::Symlink("dev".into())),
        ("", 0o1777, What::Dir),
    ] {
        making.put(&names(path), About { mode, uid: 70_000, gid: 8, mtime: 1_700_000_000 }, what).expect("put");
    }
    making.finish(Facts::default()).await.expect("made");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_node_reads_back_from_both_formats() {
    let world = World::new();
    every_kind(&world, "a.fl").await;
    every_kind(&world, "a.flist").await;
    let [fl, flist] = ["a.fl", "a.flist"].map(|name| told(&world.open(name).expect("opens"), &world));
    assert_eq!(fl, flist);
    assert!(of(&fl, "/dev/sda").starts_with("BlockDevice 660 70000 8 Rdev { major: 2748, minor: 74565 } 0"), "{fl:?}");
    assert!(of(&fl, "/dev/socket").starts_with("Socket 7777 70000 8"), "{fl:?}");
    assert!(of(&fl, "/").starts_with("Dir 1777 70000 8"), "{fl:?}");
    assert!(of(&fl, "/dev").starts_with("Dir 755 0 0"), "{fl:?}");
    assert_eq!(fl.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_is_written_again() {
    let world = World::new();
    for name in ["a.fl", "a.flist"] {
        every_kind(&world, name).await;
        let flist = world.open(name).expect("opens");
        let mut tree = Tree::of(&flist).expect("read");
        let mut facts = Facts::of(&flist).expect("read");
        let path = world.path("flists").join(name);
        write::save(&tree, &facts, &path, flist.format()).expect("written");
        let again = world.open(name).expect("opens");
        assert_eq!(told(&again, &world), told(&flist, &world));
        assert!(tree.remove(&names("dev")).expect("removed"));
        tree.set_about(&names("file"), |about| about.mode = 0o600).expect("set");
        facts.set("readme", "of two\nlines");
        facts.routes = vec![Route { first: 0, last: 255, url: "zdb://:a%40b@h:1/ns".into() }];
        write::save(&tree, &facts, &path, flist.format()).expect("written");
        let changed = world.open(name).expect("opens");
        let found = told(&changed, &world);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["/", "/file", "/link"]);
        assert!(of(&found, "/file").starts_with("File 600"), "{found:?}");
        assert_eq!(changed.routes().expect("routes"), facts.routes);
        assert!(changed.metadata().expect("read").contains(&("readme".into(), "of two\nlines".into())));
        let mut differs = Vec::new();
        let tell = |difference, path: &[u8]| {
            differs.push((difference, String::from_utf8_lossy(path).into_owned()));
            Ok(())
        };
        differences(&Tree::of(&flist).expect("read"), &tree, tell).expect("told");
        assert_eq!(differs.len(), 6, "{differs:?}");
        assert_eq!(differs[0], (Difference::Removed, "/dev".into()));
        assert_eq!(differs[5], (Difference::Changed, "/file".into()));
        // Of the one over the other, both are there.
        let mut both = Tree::of(&flist).expect("read");
        both.add(&changed).expect("added");
        assert_eq!(both.get(&names("file")).expect("there").0.mode, 0o600);
        assert!(both.get(&names("dev/null")).is_some());
        let other = if flist.format() == Format::Fl { Format::Flist } else { Format::Fl };
        let error = write::save(&both, &facts, &path, other).expect_err("other chunks");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(told(&world.open(name).expect("opens"), &world), found, "it stays as it was");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_go_where_their_ids_belong() {
    let world = World::new();
    let root = rootfs(&world);
    let dir = |name: &str| format!("dir://{}", world.path(name).display());
    let urls = [format!("00-7f={}", dir("low")), format!("80-ff={}", dir("high")), dir("chunks")];
    let urls = urls.map(|url| url.parse().expect("an address"));
    let open = |urls: &[crate::SourceUrl]| Arc::new(Stores::open(urls).expect("made"));
    let target = world.path("flists").join("a.fl");
    let make = |stores| write::create(Source::Dir(root.clone()), stores, &target, CreateOptions::default());
    let report = make(open(&urls)).await.expect("made");
    let count = |name: &str| -> Vec<String> {
        let dirs = fs::read_dir(world.path(name)).expect("listed").map(|entry| entry.expect("read").path());
        dirs.flat_map(|dir| fs::read_dir(dir).expect("listed"))
            .map(|entry| entry.expect("read").file_name().into_string().expect("hex"))
            .collect()
    };
    let (low, high, all) = (count("low"), count("high"), count("chunks"));
    assert_eq!((low.len() + high.len(), all.len()), (5, 5));
    assert!(low.iter().all(|name| &**name < "8") && high.iter().all(|name| &**name >= "8"));
    assert_eq!((report.chunks, report.chunks_stored), (5, 5));
    let routes = world.open("a.fl").expect("opens").routes().expect("routes");
    assert_eq!(
        routes.iter().map(|route| (route.first, route.last)).collect::<Vec<_>>(),
        [(0, 127), (128, 255), (0, 255)]
    );
    let error = make(open(&urls[..1])).await.expect_err("the others have no place");
    assert!(format!("{error:#}").contains("begin with 80"), "{error:#}");
    let http = ["http://127.0.0.1:1/".parse().expect("an address")];
    assert_eq!(Stores::open(&http).expect_err("it is only read").kind(), ErrorKind::InvalidArgument);
}

/// What an .flist would not say is refused, and not left out; and what it says wrongly can be put right.
#[tokio::test(flavor = "multi_thread")]
async fn an_flist_says_where_its_chunks_are_or_is_refused() {
    let world = World::new();
    let root = rootfs(&world);
    let route = |first, last, url: &str| Route { first, last, url: url.into() };
    let target = world.path("flists").join("a.flist");
    for routes in [
        vec![route(0, 255, "https://hub.example/chunks")],
        vec![route(0, 127, "zdb://h:1"), route(128, 255, "zdb://i:1")],
        vec![route(0, 255, "dir:///elsewhere")],
    ] {
        let options = CreateOptions { routes: Some(routes.clone()), ..CreateOptions::default() };
        let error =
            write::create(Source::Dir(root.clone()), stores(&world), &target, options).await.expect_err("none of them");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:#}");
        let facts = Facts { metadata: Vec::new(), routes };
        let is_dir = facts.routes.iter().all(|route| route.url.starts_with("dir:"));
        assert_eq!(write::save(&Tree::default(), &facts, &target, Format::Flist).is_ok(), is_dir);
    }
    create(&world, &root, "a.flist").await.expect("a store of this machine is nobody else's");
    let tree = Tree::of(&world.open("a.flist").expect("opens")).expect("read");
    let mut facts = Facts { metadata: vec![("backend".into(), "no JSON".into())], routes: Vec::new() };
    write::save(&tree, &facts, &target, Format::Flist).expect("as others make them");
    let bad = world.open("a.flist").expect("opens");
    assert_eq!(bad.routes().expect_err("no JSON").kind(), ErrorKind::Corrupt);
    assert_eq!(Facts::of(&bad).expect("as it stands"), facts);
    let good = r#"{"host":"h","port":9900}"#;
    assert_eq!(Route::of_backend(good).expect("good"), route(0, 255, "zdb://h:9900"));
    Route::of_backend("no JSON").expect_err("it means nothing");
    facts.set("backend", good);
    write::save(&tree, &facts, &target, Format::Flist).expect("written");
    assert_eq!(world.open("a.flist").expect("opens").routes().expect("read"), [route(0, 255, "zdb://h:9900")]);
}

/// A short archive, and gigabytes of rows: each name of a file has its chunks once more.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_one_file_are_refused_before_they_fill_a_disk() {
    let world = World::new();
    for name in ["a.fl", "a.flist"] {
        let target = world.path("flists").join(name);
        let mut making =
            Making::begin(Tree::default(), stores(&world), &target, &CreateOptions::default()).expect("begun");
        let pieces = futures_util::stream::iter([Ok(long().into())]);
        let (content, len) = making.content(Box::pin(pieces)).await.expect("read");
        for number in 0..1000 {
            making.put(&names(&format!("{number}")), About::UNSAID_DIR, What::File { len, content }).expect("put");
        }
        making.finish(Facts::default()).await.expect("made");
        let tree = Tree::of(&world.open(name).expect("opens")).expect("read");
        let format = write::format_of(&target, None).expect("named");
        let error = write::save_within(&tree, &Facts::default(), &target, format, 140_000).expect_err("too many");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(format!("{error:#}").contains("or more"), "it was not written to find out: {error:#}");
        write::save_within(&tree, &Facts::default(), &target, format, 1 << 20).expect("room for all");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_do_not_go_where_files_come_from() {
    let world = World::new();
    let root = rootfs(&world);
    for dir in ["rootfs", "rootfs/usr/chunks", "link/chunks"] {
        fs::remove_file(world.path("link")).ok();
        symlink(root.join("usr"), world.path("link")).expect("linked");
        let url = format!("dir://{}", world.path(dir).display()).parse().expect("an address");
        let stores = Arc::new(Stores::open(&[url]).expect("made"));
        let target = world.path("flists").join("a.fl");
        let error = write::create(Source::Dir(root.clone()), stores, &target, CreateOptions::default())
            .await
            .expect_err("each chunk would be in the next flist");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(format!("{error:#}").contains("elsewhere"), "{error:#}");
    }
}

/// What fails leaves what was there.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_making_leaves_no_half_flist() {
    let world = World::new();
    let root = rootfs(&world);
    create(&world, &root, "a.fl").await.expect("made");
    let before = fs::read(world.path("flists").join("a.fl")).expect("read");
    // Nobody listens there.
    let nowhere = Stores::open(&["zdb://127.0.0.1:1/ns".parse().expect("an address")]).expect("opened");
    let target = world.path("flists").join("a.fl");
    let made = write::create(Source::Dir(root.clone()), Arc::new(nowhere), &target, CreateOptions::default()).await;
    assert_eq!(made.expect_err("no store").kind(), ErrorKind::Unavailable);
    assert!(fs::read(&target).expect("read") == before);
    assert_eq!(fs::read_dir(world.path("flists")).expect("listed").count(), 1);
}

/// The small trees that zflist and rfs made flists of, made anew of what is in those.
#[tokio::test(flavor = "multi_thread")]
async fn the_fixtures_are_made_again() {
    let vectors = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/flist");
    let world = World::new();
    for (name, target) in [("small.flist", "x.flist"), ("small.fl", "x.fl")] {
        let flist = Flist::open(&vectors.join(name), &world.path("scratch")).expect("opens");
        let mut sources = vec![(names(""), flist.root().expect("a root"))];
        let options = CreateOptions::default();
        let mut making = Making::begin(Tree::default(), stores(&world), &world.path("flists").join(target), &options)
            .expect("begun");
        while let Some((path, inode)) = sources.pop() {
            let mtime = inode.mtime.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
            let about = About { mode: inode.mode, uid: inode.uid, gid: inode.gid, mtime };
            let what = match inode.kind {
                FileKind::Dir => {
                    let below = flist.dir(&inode).expect("listed").entries.into_iter();
                    sources.extend(below.map(|entry| ([&path[..], &[entry.name]].concat(), entry.inode)));
                    What::Dir
                }
                FileKind::Symlink => What::Symlink(inode.target.clone()),
                FileKind::Fifo => What::Fifo,
                FileKind::File => {
                    let bytes = content(&flist, &inode, &vectors.join("chunks")).expect("good");
                    let pieces = futures_util::stream::iter([Ok(bytes.into())]);
                    let (content, len) = making.content(Box::pin(pieces)).await.expect("read");
                    What::File { len, content }
                }
                kind => panic!("they have no {kind:?}"),
            };
            making.put(&path, about, what).expect("put");
        }
        making.finish(Facts::of(&flist).expect("read")).await.expect("made");
        // The chunks are those that the others made, byte for byte: what is read is read from theirs.
        let made = world.open(target).expect("opens");
        let mut differs = Vec::new();
        let tell = |difference, path: &[u8]| {
            differs.push((difference, path.to_vec()));
            Ok(())
        };
        differences(&Tree::of(&flist).expect("read"), &Tree::of(&made).expect("read"), tell).expect("told");
        assert!(differs.is_empty(), "{differs:?}");
        assert_eq!(made.metadata().expect("read"), flist.metadata().expect("read"));
        assert_eq!(made.routes().expect("read"), flist.routes().expect("read"));
    }
}

/// The independent reader finds in ours what ours finds.
#[tokio::test(flavor = "multi_thread")]
async fn an_independent_reader_reads_them() {
    let world = World::new();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/flist_vectors.py");
    every_kind(&world, "small.fl").await;
    every_kind(&world, "small.flist").await;
    let output = Command::new("python3").arg(script).arg("--in").arg(world.path("flists")).output();
    let output = match output {
        Ok(output) if output.status.success() => output,
        other => {
            let why = other.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
            assert!(
                why.as_ref().is_err() || why.as_ref().is_ok_and(|why| why.contains("ModuleNotFoundError")),
                "{why:?}"
            );
            muxfs::testing::skip("python3 with the package cryptography is not here");
            return;
        }
    };
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for name in ["small.fl", "small.flist"] {
        let nodes = found[name]["nodes"].as_object().expect("nodes");
        assert_eq!(nodes.len(), 8, "{nodes:?}");
        let file = &nodes["/file"];
        let bytes = [&long()[..], b"end"].concat();
        assert_eq!(file["blake2b"], crate::chunk::hex(&crate::chunk::blake2b_128(&bytes)));
        assert_eq!((&file["mode"], &file["uid"], &file["gid"]), (&0o2755.into(), &70_000.into(), &8.into()));
        assert_eq!(nodes["/dev/sda"]["kind"], "block_device");
        assert_eq!(nodes["/link"]["target"], "dev");
    }
}
