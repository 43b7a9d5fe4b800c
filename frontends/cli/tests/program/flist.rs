//! Flists: looked into by commands, mounted by a server and read over every frontend, their chunks from a directory, a 0-db
//! server, a web server, a bucket; and a source that is gone.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    Server, World,
    serving::read_over_nfs,
    zdb::{Client, node},
};

fn vectors() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/flist")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A world with both flists, whose `/flist` is as `more` says.
fn with_flists(more: &str) -> World {
    let world = World::new();
    let flists = world.path("flists");
    fs::create_dir(&flists).expect("made");
    fs::copy(vectors().join("small.flist"), flists.join("seed.flist")).expect("copied");
    fs::copy(vectors().join("small.fl"), flists.join("newer.fl")).expect("copied");
    let config = format!("[[mount]]\nkind = \"flist\"\nprefix = \"flist\"\ndir = \"{}\"\n{more}", text(&flists));
    fs::write(world.path("without-zstor.toml"), config).expect("written");
    world
}

fn chunks_dir() -> String {
    format!("dir://{}", text(&fs::canonicalize(vectors().join("chunks")).expect("it is there")))
}

fn over_http(addr: SocketAddr, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read");
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    answer.split_off(at + 4)
}

fn over_ftp(server: &Server, path: &str) -> Vec<u8> {
    let mut ftp = suppaftp::FtpStream::connect(server.addr("ftp")).expect("connected");
    ftp.login("anyone", "x").expect("loopback takes any name");
    ftp.transfer_type(suppaftp::types::FileType::Binary).expect("binary");
    ftp.retr_as_buffer(path).expect("there").into_inner()
}

/// The long file, as the command gives it: its chunks were verified.
fn big(world: &World) -> Vec<u8> {
    let flist = vectors().join("small.flist");
    let output = world.run(&["flist", "cat", "--source", &chunks_dir(), text(&flist), "/usr/share/man/big.txt"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.len(), 1_788_890);
    output.stdout
}

#[test]
fn commands_look_into_one() {
    let world = World::new();
    let big = big(&world);
    for name in ["small.flist", "small.fl"] {
        let flist = vectors().join(name);
        let flist = text(&flist);
        assert_eq!(world.ok(&["flist", "ls", flist]), "etc\nman\nusr");
        let all = world.ok(&["flist", "ls", "-R", flist]);
        let lines: Vec<_> = all.lines().collect();
        assert_eq!(lines.len(), 10, "{all}");
        assert!(lines.contains(&"usr/share/man/big.txt"), "{all}");
        let long = world.ok(&["flist", "ls", "-l", flist, "/etc"]);
        assert!(
            long.contains("-rwsr-xr-x") && long.contains("link -> passwd") && long.contains("prw-r--r--"),
            "{long}"
        );
        let stat: Value =
            serde_json::from_str(&world.ok(&["--json", "flist", "stat", flist, "usr/share"])).expect("JSON");
        assert_eq!((&stat["uid"], &stat["gid"], &stat["kind"]), (&1234.into(), &2345.into(), &"dir".into()));
        assert!(world.ok(&["flist", "stat", flist]).contains("Dir"));
        let source = chunks_dir();
        let cat = ["flist", "cat", "--source", &source, flist];
        assert_eq!(world.ok(&[&cat[..], &["/etc/passwd"]].concat()).len(), 10);
        assert!(world.run(&[&cat[..], &["/usr/share/man/big.txt"]].concat()).stdout == big);
        assert!(world.run(&[&cat[..], &["/etc/empty"]].concat()).stdout.is_empty());
        world.fails(&[&cat[..], &["/etc/absent"]].concat(), 3);
        world.fails(&[&cat[..], &["/etc"]].concat(), 1);
        world.fails(&[&cat[..], &["/etc/link"]].concat(), 2);
        world.ok(&["flist", "check", flist]);
        world.ok(&["flist", "check", "--chunks", "--source", &source, flist]);
        let output = world.run(&["flist", "check", "--chunks", flist]);
        assert_eq!(output.status.code(), Some(4), "no source");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains("/etc/passwd: ") && told.contains("big.txt"), "{told}");
        // Whom the flist names is asked only where that is wanted: nobody listens there, and a directory is never asked.
        let named = ["flist", "cat", flist, "/etc/passwd"];
        assert!(world.fails(&named, 1).contains("no source"), "nobody is asked");
        let code = if name == "small.flist" { 5 } else { 1 };
        world.fails(&[&named[..], &["--follow"]].concat(), code);
        world.fails(&["flist", "cat", "--source", "chunks", flist, "/etc/passwd"], 2);
    }
    let seed = world.ok(&["flist", "metadata", text(&vectors().join("small.flist"))]);
    assert!(seed.starts_with("format flist\nbackend: ") && seed.contains("entrypoint: [\"/bin/sh\"]"), "{seed}");
    assert!(seed.ends_with("route 00-ff zdb://127.0.0.1:19905/flist2"), "{seed}");
    let newer = world.ok(&["--json", "flist", "metadata", text(&vectors().join("small.fl"))]);
    let newer: Value = serde_json::from_str(&newer).expect("JSON");
    assert_eq!((&newer["format"], &newer["metadata"][0][0]), (&"fl".into(), &"author".into()));
    let none = world.path("none.fl");
    fs::write(&none, "nothing").expect("written");
    assert!(world.fails(&["flist", "ls", text(&none)], 4).contains("none.fl"));
}

/// Signed with a key of one data directory, and opened by a server of another that takes that key alone.
#[test]
fn signed_flists_are_opened_and_no_others() {
    let maker = World::new();
    let signer = maker.ok(&["name", "new", "images"]);
    let world = with_flists(&format!("sources = [\"{}\"]\nsigners = [\"{signer}\"]", chunks_dir()));
    let flist = world.path("flists/seed.flist");
    maker.fails(&["flist", "verify", text(&flist), "--signer", &signer], 4);
    maker.fails(&["flist", "sign", text(&flist)], 3);
    assert_eq!(maker.ok(&["flist", "sign", text(&flist), "--key", "images"]), signer);
    assert_eq!(world.ok(&["flist", "verify", text(&flist), "--signer", &signer]), signer);
    let server = world.serve(&[]);
    assert_eq!(world.ok(&["ls", "/flist"]), "newer\nseed", "what is there, also where it cannot be looked into");
    assert!(world.ok(&["ls", "-l", "/flist"]).contains("d---------"));
    assert_eq!(world.ok(&["cat", "/flist/seed/etc/passwd"]).len(), 10);
    assert!(world.fails(&["ls", "/flist/newer"], 4).contains("not signed"));
    drop(server);
}

/// A cache that cannot be opened is no reason to serve nothing.
#[test]
fn without_a_cache_a_server_reads_from_the_sources() {
    let world = with_flists(&format!("sources = [\"{}\"]", chunks_dir()));
    let big = big(&world);
    fs::create_dir_all(world.path("data/cache/flist")).expect("made");
    fs::write(world.path("data/cache/flist/flist"), "no directory").expect("written");
    let server = world.serve(&[]);
    assert!(world.run(&["cat", "/flist/newer/usr/share/man/big.txt"]).stdout == big);
    drop(server);
}

/// Whoever sends what is refused hears why, also where the answer is known before all is sent.
#[test]
fn what_is_refused_is_told_to_who_still_sends() {
    let world = with_flists("");
    let server = world.serve(&[]);
    let mine = world.path("mine");
    fs::File::create(&mine).and_then(|file| file.set_len(20 << 20)).expect("made");
    for _ in 0..5 {
        world.fails(&["put", text(&mine), "/flist/seed/mine"], 6);
    }
    drop(server);
}

/// Over every frontend; then from the cache, with no source left.
#[test]
fn a_server_mounts_them() {
    let chunks = World::new();
    let copied = chunks.path("chunks");
    let from = fs::canonicalize(vectors().join("chunks")).expect("it is there");
    assert!(
        std::process::Command::new("cp").args(["-r", text(&from), text(&copied)]).status().expect("runs").success()
    );
    let world = with_flists(&format!("sources = [\"dir://{}\"]\ncache = \"64MiB\"", text(&copied)));
    let big = big(&world);
    let server = world.serve(&[]);
    assert_eq!(world.ok(&["ls", "/flist"]), "newer\nseed");
    let everywhere = |server: &Server| {
        for flist in ["seed", "newer"] {
            let path = format!("/flist/{flist}/usr/share/man/big.txt");
            assert!(read_over_nfs(server.addr("nfs"), &path) == big, "NFS gave other bytes");
            assert!(over_ftp(server, &path) == big, "FTP gave other bytes");
            assert!(over_http(server.addr("http"), &path) == big, "HTTP gave other bytes");
            assert!(world.run(&["cat", &path]).stdout == big, "the command gave other bytes");
        }
    };
    everywhere(&server);
    let stat = world.ok(&["stat", "/flist/seed/etc/passwd"]);
    assert!(stat.contains("4755") && stat.contains("0:0"), "{stat}");
    let mine = world.path("mine");
    fs::write(&mine, "mine").expect("written");
    world.fails(&["put", text(&mine), "/flist/seed/mine"], 6);
    server.terminate();
    fs::remove_dir_all(&copied).expect("removed");
    let server = world.serve(&[]);
    everywhere(&server);
    // What was never read is not there, which is an error and no other bytes.
    world.fails(&["cat", "/flist/seed/etc/passwd"], 1);
    let dir = world.path("data/scratch");
    assert_eq!(fs::read_dir(dir).expect("listed").count(), 0, "what is unpacked has no name");
}

/// As content it is what `put -r` makes of the tree, and under a name it keeps what the flist knows.
#[test]
fn they_are_imported() {
    let world = World::new();
    let big = big(&world);
    let source = chunks_dir();
    let path = |name: &str| vectors().join(name);
    let mut paths = Vec::new();
    for name in ["small.flist", "small.fl"] {
        let flist = path(name);
        let import = ["flist", "import", "--source", &source, text(&flist)];
        paths.push(world.ok(&[&import[..], &["/ipfs"]].concat()));
        world.fails(&[&import[..], &["/local"]].concat(), 2);
    }
    assert_eq!(paths[0], paths[1], "the same tree");
    let out = world.path("out");
    world.ok(&["get", &paths[0], text(&out)]);
    assert!(fs::read(out.join("usr/share/man/big.txt")).expect("read") == big);
    assert_eq!(fs::read_link(out.join("man")).expect("a symlink"), Path::new("/usr/share/man"));
    assert_eq!(world.ok(&["put", "-r", text(&out), "/ipfs"]), paths[0], "a CID as that of put");
    world.ok(&["verify", &paths[0]]);

    let flist = path("small.flist");
    assert_eq!(world.ok(&["flist", "import", "--source", &source, text(&flist), "/ipfs/image"]), "/ipfs/image");
    let stat = world.ok(&["stat", "/ipfs/image/etc/passwd"]);
    assert!(stat.contains("4755") && stat.contains("2017-07-14T02:40:00Z"), "{stat}");
    assert!(world.ok(&["stat", "/ipfs/image/etc/fifo"]).contains("Fifo"));
    assert!(world.run(&["cat", "/ipfs/image/usr/share/man/big.txt"]).stdout == big);
    let none = ["flist", "import", text(&flist), "/ipfs"];
    assert!(world.fails(&none, 1).contains("no source"), "it is told which chunk");
}

/// A 0-db server has what zflist put, and a web server what rfs did.
#[test]
fn chunks_come_from_servers() {
    let nodes = World::new();
    let zdb = node(&nodes, "zdb", &["--namespace", "flist2"]);
    let mut client = Client::connect(zdb.addr("zdb"));
    client.send(&[b"SELECT", b"flist2"]).expect("sent");
    client.reply().expect("a reply");
    let chunks = vectors().join("chunks");
    for entry in fs::read_dir(&chunks).expect("listed").map(|entry| entry.expect("an entry")) {
        let name = entry.file_name().into_string().expect("hex");
        if name.len() != 32 {
            continue;
        }
        let byte = |at: usize| u8::from_str_radix(&name[at * 2..at * 2 + 2], 16).expect("hex");
        let id: Vec<u8> = (0..16).map(byte).collect();
        client.send(&[b"SET", &id, &fs::read(entry.path()).expect("read")]).expect("sent");
        client.reply().expect("a reply");
    }
    let web = web_server(chunks);
    let sources = format!("sources = [\"zdb://{}/flist2\", \"http://{web}\"]", zdb.addr("zdb"));
    let world = with_flists(&sources);
    let big = big(&world);
    let server = world.serve(&[]);
    for flist in ["seed", "newer"] {
        assert!(world.run(&["cat", &format!("/flist/{flist}/usr/share/man/big.txt")]).stdout == big, "{flist}");
    }
    drop(server);
}

/// Chunks that are files of a working tree, read by another server over HTTP.
#[test]
fn chunks_in_a_mount_are_read_over_http() {
    let (maker, reader) = (World::new(), with_flists(""));
    let server = maker.serve(&[]);
    let root = maker.path("rootfs");
    fs::create_dir(&root).expect("made");
    let long: Vec<u8> =
        (0..9_000_000u32).map(|at| u8::try_from((at / 7 + at / 65_536) % 251).expect("small")).collect();
    fs::write(root.join("long"), &long).expect("written");
    for (flist, store) in [("a.fl", "muxfs:/ipfs/chunks"), ("a.flist", "muxfs:/local/chunks")] {
        let made = reader.path("flists").join(flist);
        let told = maker.ok(&["--json", "flist", "create", text(&root), "-o", text(&made), "--store", store]);
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!((&told["chunks"], &told["chunks_stored"]), (&18.into(), &18.into()), "{told}");
        // What is there is not stored again.
        let again = maker.ok(&["--json", "flist", "create", text(&root), "-o", text(&made), "--store", store]);
        let again: Value = serde_json::from_str(&again).expect("JSON");
        assert_eq!(again["chunks_stored"], 0);
    }
    let url = |mount: &str| format!("http://{}/{mount}/chunks", server.addr("http"));
    let more = format!("sources = [\"{}\", \"{}\"]", url("ipfs"), url("local"));
    let config = reader.path("without-zstor.toml");
    fs::write(&config, format!("{}{more}", fs::read_to_string(&config).expect("read"))).expect("written");
    let reading = reader.serve(&[]);
    for flist in ["a.fl", "a.flist"] {
        assert!(reader.run(&["cat", &format!("/flist/{flist}/long")]).stdout == long, "{flist}");
    }
    drop((reading, server));
}

/// Serves the files below a directory, one a connection, until the process ends.
fn web_server(dir: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = Vec::new();
            let mut piece = [0; 1024];
            while !request.windows(4).any(|four| four == b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(len) if len > 0 => request.extend(&piece[..len]),
                    _ => break,
                }
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
            let (status, body) = match fs::read(dir.join(path)) {
                Ok(body) => ("200 OK", body),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // Whoever asked may be gone.
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).ok();
        }
    });
    addr
}

/// Made into a bucket with the key of the environment, which is in no flist, and mounted with that of the configuration; then the
/// bucket is gone.
#[test]
fn chunks_are_in_a_bucket() {
    let there = World::new();
    let config = there.path("without-zstor.toml");
    let before = fs::read_to_string(&config).expect("read");
    fs::write(&config, format!("{before}\n[s3]\nroot = \"/ipfs\"\n")).expect("written");
    let made = there.ok(&["s3", "key", "add", "ann"]);
    let secret = made.lines().find_map(|line| line.strip_prefix("aws_secret_access_key = ")).expect("a secret");
    let buckets = there.serve(&["--s3", "127.0.0.1:0"]);
    fs::create_dir(there.path("empty")).expect("made");
    there.ok(&["put", "-r", text(&there.path("empty")), "/ipfs/chunks"]);
    let place = format!("{}/chunks", buckets.addr("s3"));
    let (open, mine) = (format!("s3://{place}"), format!("s3://ann:{secret}@{place}"));

    let world = with_flists(&format!("sources = [\"{mine}\"]\ncache = 0"));
    let root = world.path("rootfs");
    fs::create_dir(&root).expect("made");
    fs::write(root.join("long"), vec![7; 700_000]).expect("written");
    fs::write(root.join("other"), "other").expect("written");
    let flist = world.path("flists/app.fl");
    let args = ["flist", "create", text(&root), "-o", text(&flist), "--store", &open];
    let told = world.fails(&args, 6);
    assert!(told.contains("AWS_ACCESS_KEY_ID"), "{told}");
    let with_key = |args: &[&str]| {
        let mut command = world.command_for(args);
        command.env("AWS_ACCESS_KEY_ID", "ann").env("AWS_SECRET_ACCESS_KEY", secret).args(args);
        command.output().expect("the program runs")
    };
    let output = with_key(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(world.ok(&["flist", "metadata", text(&flist)]).ends_with(&format!("route 00-ff {open}")));
    let cat = ["flist", "cat", "--source", &open, text(&flist), "/other"];
    assert_eq!(with_key(&cat).stdout, b"other");
    assert!(world.fails(&cat, 1).contains("AWS_ACCESS_KEY_ID"));
    assert!(
        with_key(&["flist", "cat", "--follow", text(&flist), "/other"]).stdout.is_empty(),
        "a flist chose the server"
    );
    let wrong = ["flist", "create", text(&root), "-o", text(&flist), "--store", &open, "--route", &mine];
    assert!(world.fails(&wrong, 2).contains("would read"));
    assert!(!world.ok(&["config"]).contains(secret));

    let server = world.serve(&[]);
    assert!(over_http(server.addr("http"), "/flist/app/long") == vec![7; 700_000]);
    drop(buckets);
    let told = world.fails(&["cat", "/flist/app/other"], 5);
    assert!(told.contains("s3://chunks at http://127.0.0.1") && !told.contains(secret), "{told}");
    drop(server);
}

/// Made of a directory, read over every command, changed, exported again: the same tree.
#[test]
fn flists_are_made_changed_and_exported() {
    let world = World::new();
    let root = world.path("rootfs");
    fs::create_dir_all(root.join("etc")).expect("made");
    fs::write(root.join("etc/passwd"), "root:x:0:0").expect("written");
    fs::write(root.join("long"), vec![7; 1_500_000]).expect("written");
    std::os::unix::fs::symlink("etc/passwd", root.join("link")).expect("linked");
    let store = format!("dir://{}", text(&world.path("chunks")));
    for name in ["a.fl", "a.flist"] {
        let flist = world.path(name);
        let flist = text(&flist);
        let made = world.ok(&["--json", "flist", "create", text(&root), "-o", flist, "--store", &store]);
        let made: Value = serde_json::from_str(&made).expect("JSON");
        assert_eq!((&made["nodes"], &made["chunks"], &made["flist"]), (&5.into(), &3.into(), &flist.into()), "{made}");
        assert_eq!(world.ok(&["flist", "ls", "-R", flist]), "etc\nlink\nlong\netc/passwd");
        assert_eq!(world.ok(&["flist", "cat", "--source", &store, flist, "/etc/passwd"]), "root:x:0:0");
        world.ok(&["flist", "check", "--chunks", "--source", &store, flist]);
        // A change, and what differs.
        let before = world.path(&format!("before-{name}"));
        fs::copy(flist, &before).expect("copied");
        world.ok(&["flist", "chmod", flist, "4711", "/long"]);
        world.ok(&["flist", "rm", flist, "link"]);
        world.fails(&["flist", "rm", flist, "link"], 3);
        world.ok(&["flist", "add", flist, text(&root.join("etc")), "/srv/etc", "--store", &store]);
        // A file takes the place of no directory.
        world.fails(&["flist", "add", flist, text(&root.join("etc/passwd")), "/srv/etc", "--store", &store], 1);
        let other = if name == "a.fl" { "flist" } else { "fl" };
        let long = root.join("long");
        let again = ["flist", "add", flist, text(&long), "/again", "--store", &store];
        assert!(world.fails(&[&again[..], &["--format", other]].concat(), 2).contains("does not make it"));
        if name == "a.flist" {
            let route = ["--route", "https://hub.example/chunks"];
            assert!(world.fails(&[&again[..], &route].concat(), 2).contains("one 0-db server"));
            let create = ["flist", "create", text(&root), "-o", flist, "--store", &store];
            assert!(world.fails(&[&create[..], &route].concat(), 2).contains("one 0-db server"));
            world.fails(&["flist", "metadata", "--set", "backend=no JSON", flist], 2);
        }
        world.ok(&["flist", "metadata", "--set", "readme=what it is", flist]);
        assert!(world.ok(&["flist", "metadata", flist]).contains("readme: what it is"));
        let diff = world.ok(&["flist", "diff", text(&before), flist]);
        assert_eq!(diff, "- /link\nM /long\n+ /srv\n+ /srv/etc\n+ /srv/etc/passwd");
        // Over the other one: what either has.
        let whole = world.path(&format!("whole-{name}"));
        world.ok(&["flist", "merge", flist, text(&before), "-o", text(&whole)]);
        assert_eq!(world.ok(&["flist", "diff", flist, text(&whole)]), "+ /link");
        world.ok(&["flist", "check", "--chunks", "--source", &store, text(&whole)]);
        // Into the namespace, and out of it.
        let path = world.ok(&["flist", "import", "--source", &store, text(&whole), "/ipfs"]);
        let back = world.path(&format!("back-{name}"));
        world.ok(&["flist", "export", path.trim(), "-o", text(&back), "--store", &store]);
        assert_eq!(world.ok(&["flist", "cat", "--source", &store, text(&back), "/srv/etc/passwd"]), "root:x:0:0");
        let again = world.ok(&["flist", "import", "--source", &store, text(&back), "/ipfs"]);
        assert_eq!(again, path);
    }
    // Chunks as files of a working tree.
    let placed = world.path("placed.fl");
    world.ok(&["flist", "create", text(&root), "-o", text(&placed), "--store", "muxfs:/ipfs/chunks"]);
    assert_eq!(world.ok(&["ls", "/ipfs/chunks"]).lines().count(), 3);
    world.fails(&["flist", "create", text(&root), "-o", text(&world.path("none")), "--store", &store], 2);
    world.fails(&["flist", "create", text(&root), "-o", text(&world.path("x.fl")), "--store", "http://127.0.0.1:1"], 2);
    world.fails(
        &["flist", "create", text(&world.path("absent")), "-o", text(&world.path("x.fl")), "--store", &store],
        3,
    );
    world.fails(
        &["flist", "merge", text(&world.path("a.fl")), text(&world.path("a.flist")), "-o", text(&world.path("x.fl"))],
        2,
    );
}

/// Chunks of each are found by what the merged one says: the routes of all, or one server for both.
#[test]
fn merging_loses_no_place_of_chunks() {
    let world = World::new();
    let root = world.path("rootfs");
    fs::create_dir(&root).expect("made");
    fs::write(root.join("file"), "x").expect("written");
    let store = format!("dir://{}", text(&world.path("chunks")));
    for (name, route) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.2")] {
        for ending in ["fl", "flist"] {
            let (made, route) = (world.path(&format!("{name}.{ending}")), format!("zdb://{route}:9900/images"));
            world.ok(&["flist", "create", text(&root), "-o", text(&made), "--store", &store, "--route", &route]);
        }
    }
    let merge = |names: [&str; 2]| {
        let paths = names.map(|name| world.path(name));
        let ending = names[0].rsplit_once('.').expect("an ending").1;
        let [a, b, both] =
            [&paths[0], &paths[1], &world.path(&format!("both.{ending}"))].map(|path| text(path).to_owned());
        ["flist", "merge", &a, &b, "-o", &both].map(str::to_owned)
    };
    let both = merge(["b.fl", "a.fl"]);
    world.ok(&both.each_ref().map(String::as_str));
    let told = world.ok(&["flist", "metadata", &both[5]]);
    let at = |text: &str| told.find(text).unwrap_or_else(|| panic!("{text} is lost: {told}"));
    assert!(at("10.0.0.2") < at("10.0.0.1"), "the first is asked first: {told}");
    let refused = world.fails(&merge(["a.flist", "b.flist"]).each_ref().map(String::as_str), 2);
    assert!(refused.contains("two servers") && !world.path("both.flist").exists(), "{refused}");
    world.ok(&merge(["b.flist", "c.flist"]).each_ref().map(String::as_str));
}

/// What was acknowledged is there: of those that come at the same time some may be told to come again, and none is lost.
#[test]
fn additions_at_the_same_time_lose_nothing() {
    let world = World::new();
    let root = world.path("rootfs");
    fs::create_dir(&root).expect("made");
    let (flist, store) = (world.path("a.fl"), format!("dir://{}", text(&world.path("chunks"))));
    world.ok(&["flist", "create", text(&root), "-o", text(&flist), "--store", &store]);
    let add = |number: u32| {
        let source = world.path(&format!("file-{number}"));
        fs::write(&source, format!("{number}")).expect("written");
        world.run(&["flist", "add", text(&flist), text(&source), &format!("/{number}"), "--store", &store])
    };
    let added: Vec<u32> = std::thread::scope(|scope| {
        let adding: Vec<_> = (0..6).map(|number| scope.spawn(move || (number, add(number)))).collect();
        let done = adding.into_iter().map(|adding| adding.join().expect("no panic"));
        let mut added = Vec::new();
        for (number, output) in done {
            match output.status.code() {
                Some(0) => added.push(number),
                code => assert_eq!(code, Some(5), "{}", String::from_utf8_lossy(&output.stderr)),
            }
        }
        added
    });
    assert!(!added.is_empty(), "one of them was first");
    let listed = world.ok(&["flist", "ls", text(&flist)]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), added.iter().map(u32::to_string).collect::<Vec<_>>());
}
