//! The hub of flists through the program: users, what is given and made and where its chunks are, what survives, and an flist
//! that is given being mounted.

use std::{
    fs,
    io::Write as _,
    net::{Shutdown, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use crate::{Server, World, webdav::ask};

fn vectors() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/flist")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A world with a hub whose chunks go to a directory, a mount of what alice has in it, one of what everybody has, and an overlay over an
/// flist of that.
fn with_hub(more: &str) -> World {
    let world = World::new();
    fs::create_dir_all(world.path("flists/alice")).expect("made");
    let config = format!(
        "[http.hub]\ndir = \"{0}\"\nstores = [\"dir://{1}\"]\n{more}\n\
         [[mount]]\nkind = \"flist\"\nprefix = \"flist\"\ndir = \"{0}/alice\"\nsources = [\"dir://{1}\"]\n\
         [[mount]]\nkind = \"flist\"\nprefix = \"users\"\ndir = \"{0}\"\nrepositories = true\nsources = [\"dir://{1}\"]\n\
         [[mount]]\nkind = \"overlay\"\nprefix = \"app\"\nover = \"/users/alice/app\"\n",
        text(&world.path("flists")),
        text(&world.path("chunks")),
    );
    fs::write(world.path("without-zstor.toml"), config).expect("written");
    world
}

fn form(file: &str, data: &[u8]) -> Vec<u8> {
    let head = format!("--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{file}\"\r\n\r\n");
    [head.as_bytes(), data, b"\r\n--xyz--\r\n"].concat()
}

fn upload(server: &Server, token: &str, kind: &str, file: &str, data: &[u8]) -> (u16, String) {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", &*bearer), ("Content-Type", "multipart/form-data; boundary=xyz")];
    ask(server.addr("http"), "POST", &format!("/api/flist/me/{kind}"), &headers, &form(file, data))
}

fn get(server: &Server, path: &str) -> (u16, String) {
    ask(server.addr("http"), "GET", path, &[], b"")
}

/// What is told, which may come in one chunk.
fn json(answer: &str) -> Value {
    let body = answer.split_once("\r\n\r\n").expect("a head").1;
    let (from, to) = (body.find('{').expect("an object"), body.rfind('}').expect("its end"));
    serde_json::from_str(&body[from..=to]).expect("JSON")
}

#[test]
fn users_are_made_listed_and_removed() {
    let world = with_hub("");
    let token = world.ok(&["hub", "user", "add", "alice"]);
    assert!(token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{token}");
    let file = world.path("data/hub/users");
    assert_eq!(fs::metadata(&file).expect("there").mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(&file).expect("read").contains(&token));
    world.ok(&["hub", "user", "add", "bob", "--acts-for", "official", "--acts-for", "apps"]);
    assert_eq!(world.ok(&["hub", "user", "ls"]), "alice\nbob official apps");
    let told = world.ok(&["--json", "hub", "user", "ls"]);
    assert!(told.contains("{\"acts_for\":[\"official\",\"apps\"],\"user\":\"bob\"}"), "{told}");
    for bad in ["", "../alice", ".alice", "me", "flist"] {
        world.fails(&["hub", "user", "add", bad], 2);
    }
    let server = world.serve(&[]);
    let me = |token: &str| {
        let bearer = format!("Bearer {token}");
        ask(server.addr("http"), "GET", "/api/flist/me", &[("Authorization", &bearer)], b"").0
    };
    assert_eq!(me(&token), 200);
    // A server that runs follows: another token, then none.
    let other = world.ok(&["hub", "user", "add", "alice"]);
    assert_eq!((me(&token), me(&other)), (401, 200));
    world.ok(&["hub", "user", "rm", "alice"]);
    assert_eq!(me(&other), 401);
    world.fails(&["hub", "user", "rm", "alice"], 3);
    assert_eq!(world.ok(&["hub", "user", "ls"]), "bob official apps");
    assert_eq!(server.terminate(), Some(0));
}

/// An flist is taken when all its chunks are there, named where one is not; what is acknowledged survives, and is mounted.
#[test]
fn flists_are_given_checked_kept_and_mounted() {
    let world = with_hub("");
    let token = world.ok(&["hub", "user", "add", "alice"]);
    let server = world.serve(&[]);
    for name in ["small.flist", "small.fl"] {
        let flist = fs::read(vectors().join(name)).expect("read");
        let (status, told) = upload(&server, &token, "upload-flist", name, &flist);
        assert!(status == 400 && told.contains("its chunk "), "{told}");
        assert!(!told.contains(text(&world.path("flists"))), "no path of the machine: {told}");
    }
    // All chunks but one.
    let chunks = world.path("chunks");
    assert!(
        Command::new("cp")
            .arg("-r")
            .args([vectors().join("chunks").join("."), chunks.clone()])
            .status()
            .expect("run")
            .success()
    );
    let output = world.ok(&[
        "--json",
        "flist",
        "check",
        "--chunks",
        "--source",
        &format!("dir://{}", text(&chunks)),
        text(&vectors().join("small.flist")),
    ]);
    assert_eq!(output, "", "all are there");
    let mut files = Vec::new();
    for dir in fs::read_dir(&chunks).expect("listed") {
        let dir = dir.expect("an entry").path();
        if dir.is_dir() {
            files.extend(fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").path()));
        } else {
            files.push(dir);
        }
    }
    let flist = fs::read(vectors().join("small.flist")).expect("read");
    // Of both flists: what the first does not name it does not miss.
    let mut missed = 0;
    for file in &files {
        let aside = world.path("aside");
        fs::rename(file, &aside).expect("moved");
        let (status, told) = upload(&server, &token, "upload-flist", "app.flist", &flist);
        let name = file.file_name().and_then(|name| name.to_str()).expect("hex");
        if status != 200 {
            assert!(status == 400 && told.contains(name), "{told}");
            missed += 1;
        }
        fs::rename(&aside, file).expect("moved back");
    }
    assert!((1..files.len()).contains(&missed), "{missed} of {}", files.len());
    let (status, told) = upload(&server, &token, "upload-flist", "app.flist", &flist);
    assert_eq!(status, 200, "{told}");
    let counts = &json(&told)["payload"]["files"]["response"];
    assert!(counts["regular"].as_u64() > Some(0) && counts["fullsize"].as_u64() > Some(1_788_890), "{told}");

    // Half of another one, then the power goes.
    let mut half = TcpStream::connect(server.addr("http")).expect("connected");
    let body = form("app.flist", &flist);
    let head = format!(
        "POST /api/flist/me/upload-flist HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    half.write_all(&[head.as_bytes(), &body[..body.len() / 2]].concat()).expect("sent");
    let part = || {
        let names = fs::read_dir(world.path("flists")).expect("listed").map(|entry| entry.expect("an entry").path());
        names.filter(|path| text(path).contains(".muxfs-part-")).collect::<Vec<_>>()
    };
    while part().is_empty() {
        std::thread::yield_now();
    }
    server.kill();
    half.shutdown(Shutdown::Both).ok();
    // As it is seen some minutes later.
    for left in part() {
        let file = fs::File::options().write(true).open(left).expect("opened");
        file.set_modified(SystemTime::now() - Duration::from_mins(10)).expect("set");
    }
    let server = world.serve(&[]);
    assert!(part().is_empty(), "what did not arrive is removed");
    assert_eq!(fs::read(world.path("flists/alice/app.flist")).expect("there"), flist);
    let content = json(&get(&server, "/api/flist/alice/app").1);
    let paths: Vec<_> =
        content["content"].as_array().expect("a list").iter().filter_map(|node| node["path"].as_str()).collect();
    assert!(paths.contains(&"/usr/share/man/big.txt"), "{paths:?}");
    assert_eq!(json(&get(&server, "/api/flist/alice/app/metadata").1)["entrypoint"][0], "/bin/sh");
    let (status, page) = get(&server, "/hub/alice/app.flist/tree/usr/share/man/");
    assert!(status == 200 && page.contains("big.txt"), "{page}");
    assert!(get(&server, "/alice/app.md").1.contains("/bin/sh"));
    // The repository is a mount, too.
    let (status, _) = get(&server, "/flist/app/usr/share/man/big.txt");
    assert_eq!(status, 200);
    for path in ["/flist/app", "/users/alice/app", "/app"] {
        assert_eq!(world.run(&["cat", &format!("{path}/usr/share/man/big.txt")]).stdout.len(), 1_788_890, "{path}");
    }
    assert_eq!(world.ok(&["ls", "/users"]), "alice");
    // A commit of it may take its place.
    let both = world.path("flists/alice/app.flist");
    let store = format!("dir://{}", text(&chunks));
    world.ok(&["rm", "/app/usr/share/man/big.txt"]);
    world.ok(&["flist", "commit", "/app", "-o", text(&both), "--store", &store]);
    world.fails(&["cat", "/users/alice/app/usr/share/man/big.txt"], 3);
    assert!(world.ok(&["ls", "/users/alice/app/usr/share"]).contains("man"));
    assert_eq!(server.terminate(), Some(0));
}

/// An archive becomes an flist whose chunks are in the store, an image too; two become one, of which the first wins.
#[test]
fn archives_become_flists() {
    let world = with_hub("format = \"fl\"");
    let token = world.ok(&["hub", "user", "add", "alice"]);
    let server = world.serve(&[]);
    let tar = |dir: &str, file: &str, gzip: bool| {
        let flags = if gzip { "-czf" } else { "-cf" };
        let made =
            Command::new("tar").args([flags, text(&world.path(file)), "-C", text(&world.path(dir)), "."]).status();
        assert!(made.expect("tar runs").success());
        fs::read(world.path(file)).expect("read")
    };
    fs::create_dir_all(world.path("one/etc")).expect("made");
    fs::write(world.path("one/etc/name"), "one").expect("written");
    fs::write(world.path("one/etc/long"), vec![7; 1_000_000]).expect("written");
    let (status, told) = upload(&server, &token, "upload", "one.tar.gz", &tar("one", "one.tar.gz", true));
    assert_eq!((status, &json(&told)["payload"]["name"]), (200, &"one.fl".into()), "{told}");

    fs::create_dir_all(world.path("two/etc")).expect("made");
    fs::write(world.path("two/etc/name"), "two").expect("written");
    fs::write(world.path("two/etc/more"), "more").expect("written");
    fs::create_dir(world.path("image")).expect("made");
    tar("two", "image/layer.tar", false);
    let sum = Command::new("sha256sum").arg(world.path("image/layer.tar")).output().expect("sha256sum runs");
    let sum = String::from_utf8_lossy(&sum.stdout).split(' ').next().expect("a digest").to_owned();
    let config = format!(
        r#"{{"config": {{"Cmd": ["/bin/sh"], "Env": ["A=1"]}}, "rootfs": {{"type": "layers", "diff_ids": ["sha256:{sum}"]}}}}"#
    );
    fs::write(world.path("image/config.json"), config).expect("written");
    let manifest = r#"[{"Config": "config.json", "RepoTags": ["two:latest"], "Layers": ["layer.tar"]}]"#;
    fs::write(world.path("image/manifest.json"), manifest).expect("written");
    let (status, told) = upload(&server, &token, "docker", "two.tar", &tar("image", "two.tar", false));
    assert_eq!((status, &json(&told)["payload"]["name"]), (200, &"two.fl".into()), "{told}");
    let metadata = json(&get(&server, "/api/flist/alice/two.fl/metadata").1);
    assert_eq!((&metadata["entrypoint"][0], &metadata["environ"]["A"]), (&"/bin/sh".into(), &"1".into()), "{metadata}");

    let bearer = format!("Bearer {token}");
    let merge = ask(
        server.addr("http"),
        "POST",
        "/api/flist/me/merge/both",
        &[("Authorization", &bearer)],
        b"[\"alice/one.fl\", \"alice/two.fl\"]",
    );
    assert_eq!(merge.0, 200, "{}", merge.1);
    for (path, expected) in
        [("/one/etc/name", "one"), ("/two/etc/name", "two"), ("/both/etc/name", "one"), ("/both/etc/more", "more")]
    {
        assert_eq!(world.ok(&["cat", &format!("/flist{path}")]), expected, "{path}");
    }
    assert_eq!(world.run(&["cat", "/flist/both/etc/long"]).stdout, vec![7; 1_000_000]);
    // What was made is checked like any other when it is given again.
    let made = fs::read(world.path("flists/alice/both.fl")).expect("read");
    assert_eq!(upload(&server, &token, "upload-flist", "again.fl", &made).0, 200);
    let (status, told) = upload(&server, &token, "upload", "bad.tar.gz", b"no archive");
    assert!(status == 400 && !told.contains("muxfs-part"), "{told}");
    assert_eq!(server.terminate(), Some(0));
}

/// Each thing that the client of 0-hub can ask for, as it asks; the program itself, where `MUXFS_ZFLIST` names it.
#[test]
fn zflist_is_a_client() {
    let Some(zflist) = std::env::var_os("MUXFS_ZFLIST") else {
        muxfs::testing::skip("MUXFS_ZFLIST names no program zflist");
        return;
    };
    let world = with_hub("");
    let tokens = ["alice", "bob"].map(|user| world.ok(&["hub", "user", "add", user]));
    fs::create_dir(world.path("root")).expect("made");
    fs::write(world.path("root/motd"), "hello").expect("written");
    let store = format!("dir://{}", text(&world.path("chunks")));
    let create = |name: &str| {
        let file = world.path(name);
        world.ok(&["flist", "create", text(&world.path("root")), "-o", text(&file), "--store", &store]);
        file
    };
    let (app, other) = (create("app.flist"), create("other.flist"));
    let archive = world.path("made.tar.gz");
    let tar = Command::new("tar").args(["-czf", text(&archive), "-C", text(&world.path("root")), "."]).status();
    assert!(tar.expect("tar runs").success());
    let server = world.serve(&[]);
    fs::create_dir(world.path("work")).expect("made");
    let hub = |user: usize, args: &[&str]| {
        let mut command = Command::new(&zflist);
        command.arg(world.path("work")).arg("hub").args(args).env("ZFLIST_HUB_TOKEN", &tokens[user]);
        let output = command.env("ZFLIST_HUB", format!("http://{}", server.addr("http"))).output().expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for (user, args, told) in [
        (0, &["login"][..], ""),
        (0, &["username"], "alice"),
        (0, &["upload", text(&app)], ""),
        (0, &["upload", text(&other)], ""),
        (0, &["upload", text(&archive)], ""),
        (0, &["symlink", "app.flist", "latest.flist"], ""),
        (0, &["readlink", "alice/latest.flist"], "app.flist"),
        (0, &["rename", "other.flist", "second.flist"], ""),
        (0, &["merge", "merged.flist", "alice/app.flist", "alice/second.flist"], ""),
        (1, &["promote", "alice/app.flist", "mine.flist"], ""),
        (1, &["crosslink", "linked.flist", "alice", "app.flist"], ""),
        (1, &["readlink", "bob/linked.flist"], "../alice/app.flist"),
        (1, &["tag", "v1", "app.flist", "alice", "app.flist"], ""),
        (1, &["tag", "v1", "too.flist", "alice", "made.flist"], ""),
        (0, &["crosstag", "stable", "bob", "v1"], ""),
        (0, &["taglink", "alice/stable"], "bob/tags/v1"),
        (1, &["untag", "v1", "too.flist", "alice", "made.flist"], ""),
        (0, &["delete", "second.flist"], ""),
    ] {
        let (is_done, found) = hub(user, args);
        assert!(is_done && found.contains(told), "{args:?}: {found}");
    }
    assert!(!hub(0, &["delete", "second.flist"]).0, "it is gone");
    for path in [
        "alice/app",
        "alice/latest",
        "alice/made",
        "alice/merged",
        "bob/mine",
        "bob/linked",
        "bob/tags/v1/app",
        "alice/stable/app",
    ] {
        assert_eq!(world.ok(&["cat", &format!("/users/{path}/motd")]), "hello", "{path}");
    }
    assert_eq!(server.terminate(), Some(0));
}

/// Without a word where chunks are nothing is taken, since nothing could be read.
#[test]
fn without_stores_nothing_is_taken() {
    let world = World::new();
    fs::write(world.path("without-zstor.toml"), "[http.hub]\n[[mount]]\nkind = \"mem\"\nprefix = \"mem\"\n")
        .expect("written");
    let token = world.ok(&["hub", "user", "add", "alice"]);
    let server = world.serve(&[]);
    let flist = fs::read(vectors().join("small.flist")).expect("read");
    for (kind, name) in [("upload-flist", "a.flist"), ("upload", "a.tar")] {
        let (status, told) = upload(&server, &token, kind, name, &flist);
        assert!(status == 501 && told.contains("[http.hub] stores"), "{told}");
    }
    assert_eq!(get(&server, "/api/repositories").0, 200);
    assert_eq!(server.terminate(), Some(0));
}
