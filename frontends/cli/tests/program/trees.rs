//! Working trees: written by name over NFS and FTP, kept over kill -9, committed, compared and restored.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, SystemTime},
};

use nfs3_client::{
    Nfs3Connection, Nfs3ConnectionBuilder,
    nfs3_types::{
        nfs3::{
            CREATE3args, LOOKUP3args, MKDIR3args, READ3args, WRITE3args, createhow3, diropargs3, filename3, nfs_fh3,
            sattr3, stable_how,
        },
        rpc::{auth_unix, opaque_auth},
        xdr_codec::Opaque,
    },
    tokio::{TokioConnector, TokioIo},
};
use tokio::net::TcpStream;

use crate::World;

pub(crate) type Nfs = Nfs3Connection<TokioIo<TcpStream>>;

/// Mounts `/`, as root: whoever that is to a server of another user.
pub(crate) async fn mount(addr: SocketAddr) -> Nfs {
    Nfs3ConnectionBuilder::new(TokioConnector, addr.ip().to_string(), "/")
        .connect_from_privileged_port(false)
        .credential(opaque_auth::auth_unix(&auth_unix::default()))
        .nfs3_port(addr.port())
        .mount_port(addr.port())
        .mount()
        .await
        .expect("mounted")
}

pub(crate) fn at<'a>(dir: &nfs_fh3, name: &'a str) -> diropargs3<'a> {
    diropargs3 { dir: dir.clone(), name: filename3(Opaque::borrowed(name.as_bytes())) }
}

pub(crate) async fn find(nfs: &mut Nfs, path: &str) -> nfs_fh3 {
    let mut handle = nfs.root_nfs_fh3();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        handle = nfs.lookup(&LOOKUP3args { what: at(&handle, part) }).await.expect("answered").unwrap().object;
    }
    handle
}

async fn mkdir(nfs: &mut Nfs, dir: &nfs_fh3, name: &str) -> nfs_fh3 {
    let args = MKDIR3args { where_: at(dir, name), attributes: sattr3::default() };
    nfs.mkdir(&args).await.expect("answered").unwrap();
    nfs.lookup(&LOOKUP3args { what: at(dir, name) }).await.expect("answered").unwrap().object
}

/// Makes a file, durably.
async fn write(nfs: &mut Nfs, dir: &nfs_fh3, name: &str, data: &[u8]) -> nfs_fh3 {
    let how = createhow3::UNCHECKED(sattr3::default());
    nfs.create(&CREATE3args { where_: at(dir, name), how }).await.expect("answered").unwrap();
    let file = nfs.lookup(&LOOKUP3args { what: at(dir, name) }).await.expect("answered").unwrap().object;
    let count = u32::try_from(data.len()).expect("short");
    let data = Opaque::borrowed(data);
    let args = WRITE3args { file: file.clone(), offset: 0, count, stable: stable_how::FILE_SYNC, data };
    assert_eq!(nfs.write(&args).await.expect("answered").unwrap().count, count);
    file
}

async fn read(nfs: &mut Nfs, file: &nfs_fh3) -> Vec<u8> {
    let args = READ3args { file: file.clone(), offset: 0, count: 1 << 20 };
    nfs.read(&args).await.expect("answered").unwrap().data.into_owned()
}

fn ftp(addr: SocketAddr) -> suppaftp::FtpStream {
    let mut ftp = suppaftp::FtpStream::connect(addr).expect("connected");
    ftp.login("anyone", "x").expect("loopback takes any name");
    ftp.transfer_type(suppaftp::types::FileType::Binary).expect("binary");
    ftp
}

/// What a server said is durable is there after kill -9, under the handles that clients hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_synced_survives_kill_9_under_its_handle() {
    for prefix in ["ipfs", "zstor"] {
        kill_and_find_again(prefix).await;
    }
}

async fn kill_and_find_again(prefix: &str) {
    let on = |path: &str| path.replacen("ipfs", prefix, 1);
    let world = World::of(prefix);
    let server = world.serve(&[]);
    let mut nfs = mount(server.addr("nfs")).await;
    let ipfs = find(&mut nfs, &on("ipfs")).await;
    let dir = mkdir(&mut nfs, &ipfs, "src").await;
    let file = write(&mut nfs, &dir, "a.txt", b"over NFS").await;
    // Names that were acknowledged, and nothing after them, are durable as well.
    let inner = mkdir(&mut nfs, &dir, "inner").await;
    let mut client = ftp(server.addr("ftp"));
    client.put_file(on("/ipfs/src/b.txt"), &mut &b"over FTP"[..]).expect("uploaded");
    client.put_file("/mem/gone.txt", &mut &b"in RAM"[..]).expect("uploaded");
    server.kill();

    let server = world.serve(&[]);
    let mut nfs = mount(server.addr("nfs")).await;
    assert_eq!(read(&mut nfs, &file).await, b"over NFS");
    assert_eq!(find(&mut nfs, &on("ipfs/src")).await, dir);
    assert_eq!(find(&mut nfs, &on("ipfs/src/inner")).await, inner);
    let other = find(&mut nfs, &on("ipfs/src/b.txt")).await;
    assert_eq!(read(&mut nfs, &other).await, b"over FTP");
    let mut client = ftp(server.addr("ftp"));
    assert_eq!(client.retr_as_buffer(&on("/ipfs/src/a.txt")).expect("there").into_inner(), b"over NFS");
    assert_eq!(client.nlst(Some(&on("/ipfs"))).expect("a listing"), ["src"]);
    assert_eq!(client.nlst(Some("/mem")).expect("a listing").len(), 0);
    // A name that is a CID stays what it means.
    let cid = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    client.mkdir(format!("/{prefix}/{cid}")).expect_err("it means content");
    // A clean end commits, and the handle is as good after it.
    assert_eq!(server.terminate(), Some(0));
    let server = world.serve(&[]);
    let mut nfs = mount(server.addr("nfs")).await;
    assert_eq!(read(&mut nfs, &file).await, b"over NFS");
    let log = world.ok(&["log"]);
    assert!(log.lines().count() >= 2, "the first commit and that of the end: {log}");
    // The history is read over every wire, by names that `log` lists.
    let then = log.split_ascii_whitespace().nth(1).expect("a name");
    let mut client = ftp(server.addr("ftp"));
    for path in [format!("/{prefix}/.history/{then}/src/b.txt"), format!("/{prefix}/src/.history/{then}/b.txt")] {
        assert_eq!(client.retr_as_buffer(&path).expect("there").into_inner(), b"over FTP");
        client.rm(&path).expect_err("the past cannot be changed");
        let old = find(&mut nfs, &path).await;
        assert_eq!(read(&mut nfs, &old).await, b"over FTP");
        assert_eq!(world.ok(&["cat", &path]), "over FTP");
    }
    assert!(client.nlst(Some(&on("/ipfs/src/.history"))).expect("a listing").contains(&then.to_owned()));
    assert!(!client.list(Some(&*on("-a /ipfs/src"))).expect("a listing").concat().contains(".history"), "hidden");
    client.mkdir(on("/ipfs/src/.history")).expect_err("the name is taken");
}

/// Every command on commits, as a server does it and as the command does it by itself.
#[test]
fn commits_are_listed_compared_and_restored() {
    for (prefix, served) in [("ipfs", true), ("ipfs", false), ("zstor", true), ("zstor", false)] {
        let on = |path: &str| path.replacen("ipfs", prefix, 1);
        let world = World::of(prefix);
        let server = served.then(|| world.serve(&[]));
        let source = world.path("x");
        let put = |text: &str, path: &str| {
            let path = &*on(path);
            fs::write(&source, text).expect("written");
            assert_eq!(world.ok(&["put", source.to_str().expect("UTF-8"), path]), path);
        };
        put("one", "/ipfs/docs/a.txt");
        put("stays", "/ipfs/docs/b.txt");
        let first = world.ok(&["commit", "-m", "the first"]);
        assert_eq!(world.ok(&["commit"]), first, "nothing changed");
        world.ok(&["snapshot", "then"]);
        put("two", "/ipfs/docs/a.txt");
        put("new", "/ipfs/c.txt");
        let second = world.ok(&["commit"]);
        assert_ne!(first, second);

        let log = world.ok(&["log"]);
        let lines: Vec<&str> = log.lines().collect();
        assert!(lines[0].starts_with(&second), "{log}");
        let named = lines.iter().find(|line| line.starts_with(&first)).expect("it is kept");
        // A server may have committed by itself just before: that commit has no note.
        assert!(named.contains("then") && (served || named.contains("the first")), "{log}");
        let of_path = world.ok(&["log", &on("/ipfs/docs/b.txt")]);
        assert_eq!(of_path.lines().count(), 1, "one commit brought it: {of_path}");
        assert!(of_path.starts_with(&first), "{of_path}");

        let mut diff: Vec<String> = world.ok(&["diff", &first, "head"]).lines().map(Into::into).collect();
        diff.sort();
        assert!(diff.contains(&on("A /ipfs/c.txt")), "{diff:?}");
        assert!(diff.contains(&on("M /ipfs/docs/a.txt")), "{diff:?}");
        assert!(!diff.iter().any(|line| line.contains("b.txt")), "{diff:?}");
        assert!(!world.ok(&["diff", "then", "head", &on("/ipfs/docs")]).contains("c.txt"));
        let json = world.ok(&["--json", "diff", "then", "head", &on("/ipfs/c.txt")]);
        assert_eq!(json, on(r#"{"change":"added","path":"/ipfs/c.txt"}"#));

        // The past is there to read by name, and by the CID of its root.
        assert_eq!(world.ok(&["cat", &on("/ipfs/.history/then/docs/a.txt")]), "one");
        let root = world.ok(&["--json", "log"]);
        let oldest: serde_json::Value =
            serde_json::from_str(root.lines().find(|line| line.contains(&first)).expect("kept")).expect("JSON");
        let path = format!("/{prefix}/{}/docs/a.txt", oldest["root"].as_str().expect("a CID"));
        assert_eq!(world.ok(&["cat", &path]), "one");

        // One file back, beside what is there; then a directory, in its place.
        world.ok(&["restore", "then", &on("/ipfs/docs/a.txt"), &on("/ipfs/a-then.txt")]);
        assert_eq!(world.ok(&["cat", &on("/ipfs/a-then.txt")]), "one");
        put("later", "/ipfs/docs/d.txt");
        world.ok(&["restore", "then", &on("/ipfs/docs")]);
        assert_eq!(world.ok(&["ls", &on("/ipfs/docs")]), "a.txt\nb.txt");
        assert_eq!(world.ok(&["cat", &on("/ipfs/docs/a.txt")]), "one");
        assert_eq!(world.ok(&["ls", &on("/ipfs")]), "a-then.txt\nc.txt\ndocs");
        // Nothing was lost by it.
        let head =
            world.ok(&["log"]).lines().next().and_then(|line| line.split(' ').nth(1)).expect("a name").to_owned();
        assert_eq!(world.ok(&["cat", &format!("/{prefix}/.history/{head}/docs/d.txt")]), "later");

        // All of it back.
        world.ok(&["checkout", "then"]);
        assert_eq!(world.ok(&["ls", &on("/ipfs")]), "docs");
        world.ok(&["snapshot", "--remove", "then"]);
        assert!(world.fails(&["snapshot", "--remove", "then"], 3).contains("no snapshot"));
        for args in [&["diff", "nope", "head"][..], &["restore", "nope", &on("/ipfs/docs")], &["checkout", "nope"]] {
            assert!(world.fails(args, 3).contains("the newest are"), "{args:?}");
        }
        assert!(world.fails(&["restore", "head", &on("/ipfs")], 2).contains("check the commit out"));
        assert!(world.fails(&["commit", "/local"], 2).contains(&on("/ipfs")));
        drop(server);
    }
}

/// A directory that is put under a name keeps what it is: bytes, links, permissions and times.
#[test]
fn a_directory_is_put_into_the_tree_with_its_modes_and_times() {
    let world = World::new();
    let tree = world.tree();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 5_000);
    fs::set_permissions(tree.join("a.txt"), fs::Permissions::from_mode(0o751)).expect("set");
    for path in ["a.txt", "sub"] {
        fs::File::open(tree.join(path)).expect("opened").set_modified(old).expect("set");
    }
    let server = world.serve(&[]);
    // A name that means something else there is said to be left out, and the rest is put.
    let taken = tree.join("sub/.history");
    fs::create_dir(&taken).expect("made");
    fs::write(taken.join("of the host"), "").expect("written");
    let put = world.run(&["put", "-r", tree.to_str().expect("UTF-8"), "/ipfs/photos/all"]);
    assert!(put.status.success() && String::from_utf8_lossy(&put.stderr).contains("sub/.history"), "{put:?}");
    fs::remove_dir_all(&taken).expect("removed");
    fs::File::open(tree.join("sub")).expect("opened").set_modified(old).expect("set");
    assert_eq!(world.ok(&["put", "-r", tree.to_str().expect("UTF-8"), "/ipfs/photos/all"]), "/ipfs/photos/all");
    let back = world.path("back");
    world.ok(&["get", "/ipfs/photos/all", back.to_str().expect("UTF-8")]);
    crate::assert_same_tree(&tree, &back);
    for (path, mode) in [("a.txt", Some(0o751)), ("sub", None)] {
        let text = world.ok(&["--json", "stat", &format!("/ipfs/photos/all/{path}")]);
        let stat: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(stat["mtime"], serde_json::json!([1_000_000_000, 5_000]), "{text}");
        assert!(mode.is_none_or(|mode| stat["mode"] == mode), "{text}");
    }
    // The same bytes under the same names have one CID, however they came.
    let commit = world.ok(&["commit"]);
    let stat: serde_json::Value =
        serde_json::from_str(&world.ok(&["--json", "stat", "/ipfs/photos/all"])).expect("JSON");
    let hashed = world.ok(&["put", "-r", "--only-hash", tree.to_str().expect("UTF-8")]);
    assert_eq!(format!("/ipfs/{}", stat["cid"].as_str().expect("committed")), hashed);
    // Once more it finds all of it there; a file that changed since is put again.
    world.ok(&["put", "-r", tree.to_str().expect("UTF-8"), "/ipfs/photos/all"]);
    assert_eq!(world.ok(&["commit"]), commit, "nothing changed");
    fs::write(tree.join("a.txt"), b"HELLO WORLD").expect("written");
    world.ok(&["put", "-r", tree.to_str().expect("UTF-8"), "/ipfs/photos/all"]);
    assert_eq!(world.ok(&["cat", "/ipfs/photos/all/a.txt"]), "HELLO WORLD");
    drop(server);
}
