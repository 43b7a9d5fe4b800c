//! Overlays: an flist that is written to over NFS and FUSE, over kill -9 and a restart; and an flist of both, for which no chunk
//! is fetched that nobody changed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nfs3_client::nfs3_types::{
    nfs3::{
        CREATE3args, LOOKUP3args, Nfs3Result, READ3args, REMOVE3args, RENAME3args, WRITE3args, createhow3, nfs_fh3,
        nfsstat3, sattr3, stable_how,
    },
    xdr_codec::Opaque,
};

use crate::{
    Mount, World,
    trees::{Nfs, at, find, mount},
};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// What the long file of the tree below is made of.
fn long() -> Vec<u8> {
    (0..1_800_000u32).map(|at| u8::try_from(at % 241 + at / 524_288).unwrap_or(0)).collect()
}

/// A world with an flist of a tree, its chunks in a directory, and `/app` over it.
fn world_of(flist: &str) -> World {
    let world = World::new();
    let root = world.path("rootfs");
    fs::create_dir_all(root.join("usr/share/doc")).expect("made");
    fs::create_dir_all(root.join("etc")).expect("made");
    fs::write(root.join("etc/passwd"), "root:x:0:0").expect("written");
    fs::write(root.join("etc/hosts"), "127.0.0.1").expect("written");
    fs::write(root.join("usr/share/long"), long()).expect("written");
    fs::write(root.join("usr/share/doc/readme"), "read me").expect("written");
    std::os::unix::fs::symlink("usr/share", root.join("man")).expect("linked");
    fs::create_dir(world.path("flists")).expect("made");
    let (made, store) = (world.path("flists").join(flist), format!("dir://{}", text(&world.path("chunks"))));
    world.ok(&["flist", "create", text(&root), "-o", text(&made), "--store", &store, "--metadata", "author=me"]);
    let config = format!(
        "[[mount]]\nkind = \"ipfs\"\nprefix = \"ipfs\"\n[[mount]]\nkind = \"flist\"\nprefix = \"flist\"\ndir = \"{}\"\n\
         sources = [\"{store}\"]\ncache = 0\n[[mount]]\nkind = \"overlay\"\nprefix = \"app\"\nover = \"/flist/image\"\n",
        text(&world.path("flists"))
    );
    fs::write(world.path("without-zstor.toml"), config).expect("written");
    world
}

async fn write(nfs: &mut Nfs, file: &nfs_fh3, offset: u64, data: &[u8]) -> Result<(), nfsstat3> {
    let (file, count) = (file.clone(), u32::try_from(data.len()).expect("short"));
    let args = WRITE3args { file, offset, count, stable: stable_how::FILE_SYNC, data: Opaque::borrowed(data) };
    match nfs.write(&args).await.expect("answered") {
        Nfs3Result::Ok(done) => {
            assert_eq!(done.count, count);
            Ok(())
        }
        Nfs3Result::Err((status, _)) => Err(status),
    }
}

async fn read(nfs: &mut Nfs, file: &nfs_fh3) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let args = READ3args { file: file.clone(), offset: bytes.len() as u64, count: 1 << 20 };
        let piece = nfs.read(&args).await.expect("answered").unwrap();
        bytes.extend_from_slice(&piece.data);
        if piece.eof {
            return bytes;
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// What the server said to be durable is there when it was killed, under the handles of before; what nobody changed is read
/// from the chunks still, and the flist is as it was.
#[test]
fn what_was_written_over_nfs_survives_a_kill() {
    let world = world_of("image.fl");
    let server = world.serve(&[]);
    let (runtime, mut changed) = (runtime(), long());
    changed[1_000_000..1_000_003].copy_from_slice(b"new");
    let handles = runtime.block_on(async {
        let mut nfs = mount(server.addr("nfs")).await;
        let app = find(&mut nfs, "/app").await;
        let long_file = find(&mut nfs, "/app/usr/share/long").await;
        assert_eq!(read(&mut nfs, &long_file).await, long());
        write(&mut nfs, &long_file, 1_000_000, b"new").await.expect("written");
        let how = createhow3::UNCHECKED(sattr3::default());
        nfs.create(&CREATE3args { where_: at(&app, "mine"), how }).await.expect("answered").unwrap();
        let mine = find(&mut nfs, "/app/mine").await;
        write(&mut nfs, &mine, 0, b"my own").await.expect("written");
        // A directory that nobody looked into moves as it is, and a name below goes for good.
        let usr = find(&mut nfs, "/app/usr/share").await;
        let renamed = RENAME3args { from: at(&usr, "doc"), to: at(&app, "docs") };
        nfs.rename(&renamed).await.expect("answered").unwrap();
        let etc = find(&mut nfs, "/app/etc").await;
        nfs.remove(&REMOVE3args { object: at(&etc, "passwd") }).await.expect("answered").unwrap();
        let hosts = find(&mut nfs, "/app/etc/hosts").await;
        [long_file, mine, hosts]
    });
    server.kill();
    let server = world.serve(&[]);
    runtime.block_on(async {
        let mut nfs = mount(server.addr("nfs")).await;
        let [long_file, mine, hosts] = &handles;
        // Its source is gone: what did not come is an error soon, and nothing of it changes.
        fs::rename(world.path("chunks"), world.path("away")).expect("renamed");
        let readme = find(&mut nfs, "/app/docs/readme").await;
        let args = READ3args { file: readme.clone(), offset: 0, count: 100 };
        assert!(matches!(nfs.read(&args).await.expect("answered"), Nfs3Result::Err(_)), "it cannot be read");
        write(&mut nfs, hosts, 0, b"x").await.expect_err("it cannot come");
        assert!(read(&mut nfs, long_file).await == changed, "what was written is here, and all of the file");
        assert_eq!(read(&mut nfs, mine).await, b"my own");
        fs::rename(world.path("away"), world.path("chunks")).expect("renamed");
        assert_eq!(read(&mut nfs, hosts).await, b"127.0.0.1");
        assert_eq!(read(&mut nfs, &readme).await, b"read me");
        let etc = find(&mut nfs, "/app/etc").await;
        let gone = nfs.lookup(&LOOKUP3args { what: at(&etc, "passwd") }).await.expect("answered");
        assert!(matches!(gone, Nfs3Result::Err(_)), "it was removed");
        let below = find(&mut nfs, "/flist/image/etc/passwd").await;
        assert_eq!(read(&mut nfs, &below).await, b"root:x:0:0");
    });
    world.ok(&["verify", "--all"]);
    server.terminate();
    assert!(world.ok(&["doctor"]).contains("/app"), "it is looked after");
}

/// The same through the kernel, by a process of its own: over a restart, with links, truncation and programs that read what
/// others write.
#[test]
#[cfg(target_os = "linux")]
fn what_was_written_over_fuse_survives_a_restart() {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

    use crate::mounting::unmounted;
    let world = world_of("image.flist");
    let Some(dir) = world.mount_dir() else { return };
    let _mount = Mount(&world, &dir);
    world.ok(&["mount", "/app", text(&dir)]);
    let share = dir.join("usr/share");
    let before = fs::metadata(share.join("long")).expect("there");
    let open = fs::File::open(share.join("long")).expect("opened");
    fs::hard_link(share.join("long"), dir.join("second")).expect("linked");
    fs::File::options().write(true).open(dir.join("second")).expect("opened").write_at(b"new", 5).expect("written");
    let mut piece = [0; 8];
    open.read_exact_at(&mut piece, 0).expect("read");
    assert_eq!(&piece[5..], b"new", "whoever has it open sees it");
    let after = fs::metadata(share.join("long")).expect("there");
    assert_eq!((after.ino(), after.len(), after.nlink()), (before.ino(), before.len(), 2));
    fs::write(dir.join("etc/hosts"), "cut and written").expect("written");
    fs::set_permissions(dir.join("etc/passwd"), fs::Permissions::from_mode(0o600)).expect("set");
    fs::rename(dir.join("usr"), dir.join("opt")).expect("renamed");
    fs::remove_file(dir.join("man")).expect("removed");
    assert_eq!(fs::read_to_string(dir.join("opt/share/doc/readme")).expect("there"), "read me");
    drop(open);
    unmounted(|| world.run(&["umount", text(&dir)]));
    world.ok(&["mount", "/app", text(&dir)]);
    let mut expected = long();
    expected[5..8].copy_from_slice(b"new");
    assert!(fs::read(dir.join("opt/share/long")).expect("there") == expected);
    assert_eq!(fs::metadata(dir.join("second")).expect("there").ino(), before.ino(), "numbers stay");
    assert_eq!(fs::read_to_string(dir.join("etc/hosts")).expect("there"), "cut and written");
    assert_eq!(fs::read_to_string(dir.join("etc/passwd")).expect("there"), "root:x:0:0");
    assert_eq!(fs::metadata(dir.join("etc/passwd")).expect("there").mode() & 0o7777, 0o600);
    fs::symlink_metadata(dir.join("man")).expect_err("removed");
    unmounted(|| world.run(&["umount", text(&dir)]));
}

/// Puts a file into the namespace.
fn put(world: &World, path: &str, bytes: &[u8]) {
    let output = world.fed(&["put", "-", path], bytes);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An flist of both is that of all that is seen, by an export that reads everything; and it is made while the chunks of what
/// nobody changed are out of reach.
#[test]
fn an_flist_of_both_is_made_without_fetching_what_nobody_changed() {
    for format in ["fl", "flist"] {
        let world = world_of(&format!("image.{format}"));
        let server = world.serve(&[]);
        let mut changed = long();
        changed.extend_from_slice(b"more");
        put(&world, "/app/etc/hosts", b"changed");
        put(&world, "/app/usr/share/long", &changed);
        put(&world, "/app/new", b"new");
        world.ok(&["rm", "/app/etc/passwd"]);
        // Looked into, and not changed.
        assert_eq!(world.ok(&["ls", "/app/usr/share/doc"]), "readme");
        let [both, whole] = ["both", "whole"].map(|name| world.path(&format!("{name}.{format}")));
        let (chunks, away) = (world.path("chunks"), world.path("away"));
        let store = format!("dir://{}", text(&world.path("more")));
        let commit = ["flist", "commit", "/app", "-o", text(&both), "--store", &store, "--metadata", "version=2"];
        fs::rename(&chunks, &away).expect("renamed");
        let told = world.ok(&[&["--json"], &commit[..]].concat());
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!((&told["nodes"], &told["bytes"]), (&10.into(), &(changed.len() + 10).into()), "{told}");
        fs::rename(&away, &chunks).expect("renamed");
        let all = format!("dir://{}", text(&world.path("all")));
        world.ok(&["flist", "export", "/app", "-o", text(&whole), "--store", &all]);
        assert_eq!(world.ok(&["flist", "diff", text(&whole), text(&both)]), "");
        let sources = ["--source", &format!("dir://{}", text(&chunks)), "--source", &store].map(str::to_owned);
        let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
        world.ok(&[&["flist", "check", "--chunks"], &sources[..], &[text(&both)]].concat());
        let cat = [&["flist", "cat"], &sources[..], &[text(&both), "/usr/share/doc/readme"]].concat();
        assert_eq!(world.ok(&cat), "read me");
        let metadata = world.ok(&["flist", "metadata", text(&both)]);
        assert!(metadata.contains("author: me") && metadata.contains("version: 2"), "{metadata}");
        // In the other format: everything is stored, and the flist names nothing of the one below.
        let other = world.path(if format == "fl" { "x.flist" } else { "x.fl" });
        let told = world.ok(&["--json", "flist", "commit", "/app", "-o", text(&other), "--store", &all]);
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        let bytes = changed.len() + b"changed".len() + b"new".len() + b"read me".len();
        assert_eq!((&told["nodes"], &told["bytes"]), (&10.into(), &bytes.into()), "{told}");
        let from = |path: &str| world.ok(&["flist", "cat", "--source", &all, text(&other), path]);
        assert_eq!([from("/usr/share/doc/readme"), from("/etc/hosts")], ["read me", "changed"]);
        world.ok(&["flist", "check", "--chunks", "--source", &all, text(&other)]);
        assert!(!world.ok(&["flist", "metadata", text(&other)]).contains(text(&chunks)));
        // Another file beside it takes its name, and nothing else.
        let beside = world.path("flists").join(format!("image.{}", if format == "fl" { "flist" } else { "fl" }));
        fs::copy(&other, &beside).expect("copied");
        assert_eq!(world.ok(&["cat", "/app/usr/share/doc/readme"]), "read me");
        world.ok(&commit);
        assert_eq!(world.ok(&["flist", "diff", text(&whole), text(&both)]), "");
        fs::remove_file(&beside).expect("removed");
        // Only where it is one.
        assert!(world.fails(&["flist", "commit", "/ipfs", "-o", text(&both), "--store", &store], 2).contains("/app"));
        // In the place of the one below, by another name of it: that is kept, and what did not come is as it was.
        let below = world.path("flists").join(format!("image.{format}"));
        let link = world.path(&format!("link.{format}"));
        std::os::unix::fs::symlink(&below, &link).expect("linked");
        let before = fs::read(&below).expect("there");
        world.ok(&["flist", "commit", "/app", "-o", text(&link), "--store", &store]);
        assert!(fs::read(&below).expect("there") != before);
        world.ok(&commit);
        assert_eq!(world.ok(&["flist", "diff", text(&whole), text(&both)]), "");
        server.terminate();
        let server = world.serve(&[]);
        let read = || [world.ok(&["cat", "/app/new"]), world.ok(&["cat", "/app/usr/share/doc/readme"])];
        assert_eq!(read(), ["new", "read me"]);
        fs::rename(&below, world.path("flists").join(format!("renamed.{format}"))).expect("renamed");
        assert_eq!(read(), ["new", "read me"]);
        server.terminate();
        // One that was not kept is not what another by its name is, and is not replaced.
        fs::remove_dir_all(world.path("data/mounts/app/flist")).expect("it was kept");
        fs::copy(&both, &below).expect("copied");
        let server = world.serve(&[]);
        assert_eq!(world.ok(&["cat", "/app/new"]), "new");
        assert!(world.fails(&["cat", "/app/usr/share/doc/readme"], 1).contains("replaced"));
        world.fails(&commit, 3);
        let refused = world.fails(&["flist", "commit", "/app", "-o", text(&link), "--store", &store], 2);
        assert!(refused.contains("/app lies over it"), "{refused}");
        server.terminate();
    }
}

/// An flist that is not there keeps no server from its start, nor a checkout: what is shown before a restart is shown after it.
#[test]
fn a_server_starts_whatever_is_below_and_whatever_was_checked_out() {
    let world = world_of("image.fl");
    let (flist, away) = (world.path("flists/image.fl"), world.path("image.fl"));
    fs::rename(&flist, &away).expect("renamed");
    let server = world.serve(&[]);
    put(&world, "/ipfs/else", b"served");
    let told = world.fails(&["ls", "/app"], 5);
    assert!(told.contains("overlay.begin") && told.contains("not there") && told.contains("(image)"), "{told}");
    assert!(world.ok(&["ls", "/"]).contains("app"));
    world.fails(&["flist", "commit", "/app", "-o", text(&world.path("x.fl")), "--store", "dir:///nowhere"], 3);
    fs::rename(&away, &flist).expect("renamed");
    let all = ["etc", "man", "usr"];
    assert_eq!(ls(&world, "/app"), all, "it begins with no restart");
    put(&world, "/app/etc/hosts", b"changed");
    let log = world.ok(&["log", "/app"]);
    let first = log.lines().last().and_then(|line| line.split(' ').next()).expect("a commit").to_owned();
    let mut server = Some(server);
    let mut restart = |world: &World| {
        server.take().expect("it runs").terminate();
        server = Some(world.serve(&[]));
    };
    for (commit, shown) in [(first.as_str(), &[][..]), ("below", &all[..]), ("dir", &["else"][..]), ("below", &all[..])]
    {
        let commit = if commit == "dir" { dir_of(&world) } else { commit.to_owned() };
        world.ok(&["checkout", &commit, "/app"]);
        assert_eq!(ls(&world, "/app"), shown, "{commit}");
        restart(&world);
        assert_eq!(ls(&world, "/app"), shown, "{commit}, after a restart");
    }
    assert_eq!(world.ok(&["cat", "/app/etc/hosts"]), "127.0.0.1", "what was changed is given up");
    // Away again: it is kept, and all is there.
    fs::rename(&flist, &away).expect("renamed");
    restart(&world);
    assert_eq!(ls(&world, "/app"), all);
    assert_eq!(world.ok(&["cat", "/app/usr/share/doc/readme"]), "read me");
    assert_eq!(world.ok(&["cat", "/ipfs/else"]), "served");
}

/// What is in a directory, by name.
fn ls(world: &World, path: &str) -> Vec<String> {
    let mut names: Vec<String> = world.ok(&["ls", path]).lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// The CID of a directory with the file `else` that is no state of the tree.
fn dir_of(world: &World) -> String {
    let dir = world.path("else");
    fs::create_dir(&dir).expect("made");
    fs::write(dir.join("else"), "other").expect("written");
    let path = world.ok(&["put", "-r", text(&dir), "/app"]);
    path.rsplit('/').next().expect("a CID").to_owned()
}

/// A file that changes comes in pieces: what the server takes of memory does not follow its length.
#[test]
#[cfg(target_os = "linux")]
fn a_long_file_comes_without_being_held_in_memory() {
    const LEN: u64 = 256 << 20;
    let world = world_of("image.fl");
    fs::File::create(world.path("rootfs/sparse")).and_then(|file| file.set_len(LEN)).expect("made");
    let store = format!("dir://{}", text(&world.path("chunks")));
    let flist: PathBuf = world.path("flists/image.fl");
    world.ok(&["flist", "create", text(&world.path("rootfs")), "-o", text(&flist), "--store", &store]);
    let server = world.serve(&[]);
    runtime().block_on(async {
        let mut nfs = mount(server.addr("nfs")).await;
        let file = find(&mut nfs, "/app/sparse").await;
        write(&mut nfs, &file, LEN, b"!").await.expect("written");
        let args = READ3args { file, offset: LEN - 1, count: 10 };
        assert_eq!(&*nfs.read(&args).await.expect("answered").unwrap().data, b"\0!");
    });
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).expect("read");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("told");
    let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    assert!(peak << 10 < LEN, "{peak} KiB at most for a file of {} KiB", LEN >> 10);
    println!("{peak} KiB at most for a file of {} KiB", LEN >> 10);
    server.terminate();
}
