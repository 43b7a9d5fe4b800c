//! The server: ready files, restarts, ownership, and the same content over every frontend.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Command,
    time::Instant,
};

use crate::{PATIENCE, World, assert_same_tree};

#[test]
fn content_survives_kill_9_and_restart() {
    let world = World::new();
    let tree = world.tree();
    let server = world.serve(&[]);
    let path = world.ok(&["put", "-r", tree.to_str().expect("UTF-8")]);
    server.kill();
    let server = world.serve(&[]);
    world.ok(&["verify", &path]);
    let back = world.path("back");
    world.ok(&["get", &path, back.to_str().expect("UTF-8")]);
    assert_same_tree(&tree, &back);
    assert_eq!(server.terminate(), Some(0));
    assert!(!world.path("ready.json").exists(), "the ready file goes with the server");
}

/// Whoever waits for the ready file of a server must not read that of the one killed before it.
#[test]
fn a_ready_file_of_an_earlier_server_is_gone_before_anything_can_fail() {
    let world = World::new();
    let ready = world.path("ready.json");
    fs::write(&ready, b"{}").expect("written");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let addr = taken.local_addr().expect("bound").to_string();
    let ready_text = ready.to_str().expect("UTF-8");
    let told = world.fails(&["serve", "--nfs", &addr, "--ftp", "off", "--ready-file", ready_text], 1);
    assert!(told.contains(&addr) && told.contains("--nfs"), "it says what to do: {told}");
    assert!(!ready.exists(), "it told of a server that never was");
    let told = world.fails(&["serve", "--nfs", "off", "--ftp", &addr], 1);
    assert!(told.contains("--ftp"), "{told}");
    let told = world.fails(&["serve", "--nfs", "off", "--ftp", "off", "--http", &addr], 1);
    assert!(told.contains("--http") && told.contains(&addr), "{told}");
}

/// A put that waits for its input for ever held a server that was told to end for as long.
#[test]
fn a_command_that_waits_does_not_keep_the_server() {
    let world = World::new();
    let server = world.serve(&[]);
    let mut put = world.command();
    put.args(["put", "-", "/ipfs"]).stdin(std::process::Stdio::piped());
    put.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut put = put.spawn().expect("the program runs");
    // Bigger than what a pipe holds: once it is written, the put is on its way.
    let mut input = put.stdin.take().expect("piped");
    input.write_all(&vec![7; 4 << 20]).expect("it reads");
    assert_eq!(server.terminate(), Some(0));
    assert_ne!(put.wait().expect("it ends").code(), Some(0), "nothing was put");
    drop(input);
    assert_eq!(world.ok(&["pin", "ls"]), "");
}

/// A command says hello on one connection and may ask on another: a server that ended in between failed it, though the
/// directory was free a moment later.
#[test]
fn a_command_that_said_hello_is_answered_by_a_server_that_ends() {
    let world = World::new();
    let server = world.serve(&[]);
    let socket = server.ready["control"].as_str().expect("a path").to_owned();
    let ask = |call: &str| {
        let mut stream = UnixStream::connect(&socket).expect("it listens");
        write!(stream, "GET /v1/{call} HTTP/1.1\r\nhost: muxfs\r\nmuxfs-protocol: 1\r\n\r\n").expect("sent");
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("answered");
        assert_eq!(&status, b"HTTP/1.1 200", "{call}");
        stream
    };
    let hello = ask("hello");
    let ending = std::thread::spawn(|| server.terminate());
    let told = || fs::read_to_string(world.path("data/lock")).expect("there");
    let begun = Instant::now();
    while !told().contains(r#""socket":null"#) {
        assert!(begun.elapsed() < PATIENCE, "it does not end: {}", told());
        std::thread::yield_now();
    }
    drop((ask("pins"), hello));
    assert_eq!(ending.join().expect("no panic"), Some(0));
    world.ok(&["pin", "ls"]);
}

#[test]
fn one_server_owns_the_data() {
    let world = World::new();
    let server = world.serve(&[]);
    let told = world.fails(&["serve", "--nfs", "off", "--ftp", "off"], 5);
    assert!(told.contains(&server.ready["pid"].to_string()), "{told}");
}

#[test]
fn listening_elsewhere_takes_more_than_an_address() {
    let world = World::new();
    assert!(world.fails(&["serve", "--nfs", "0.0.0.0:0", "--ftp", "off"], 2).contains("nfs.allow"));
    assert!(world.fails(&["serve", "--ftp", "0.0.0.0:0", "--nfs", "off"], 2).contains("users"));
    world.fails(&["serve", "--nfs", "nowhere"], 2);
}

#[test]
fn put_reads_over_ftp_and_nfs() {
    let world = World::new();
    let tree = world.tree();
    let server = world.serve(&[]);
    let path = world.ok(&["put", "-r", tree.to_str().expect("UTF-8")]);
    let long = fs::read(tree.join("sub/long.bin")).expect("read");

    let mut ftp = suppaftp::FtpStream::connect(server.addr("ftp")).expect("connected");
    ftp.login("anyone", "x").expect("loopback takes any name");
    ftp.transfer_type(suppaftp::types::FileType::Binary).expect("binary");
    let over_ftp = ftp.retr_as_buffer(&format!("{path}/sub/long.bin")).expect("there").into_inner();
    assert!(over_ftp == long, "FTP gave other bytes");
    ftp.quit().expect("bye");

    let over_nfs = read_over_nfs(server.addr("nfs"), &format!("{path}/sub/long.bin"));
    assert!(over_nfs == long, "NFS gave other bytes");
    assert_eq!(server.terminate(), Some(0));
}

/// As a person would ask: by CID, by path, for a part, for a directory, for a block.
#[test]
fn put_reads_over_http() {
    let curl = |args: &[&str]| Command::new("curl").args(["-s", "--fail", "--max-time", "60"]).args(args).output();
    if curl(&["--version"]).is_err() {
        eprintln!("SKIPPED: there is no curl");
        return;
    }
    let world = World::new();
    let (tree, config) = (world.tree(), world.path("muxfs.toml"));
    fs::write(&config, "[http]\nhosts = [\"files.example.org\"]\n").expect("written");
    let server = world.serve(&["--config", config.to_str().expect("UTF-8")]);
    let (zstor, ipfs) = (["put", "-r", tree.to_str().expect("UTF-8")], tree.to_str().expect("UTF-8"));
    let long = fs::read(tree.join("sub/long.bin")).expect("read");
    for path in [world.ok(&zstor), world.ok(&["put", "-r", ipfs, "/ipfs"])] {
        let url = |rest: &str| format!("http://{}{path}{rest}", server.addr("http"));
        let get = |args: &[&str]| {
            let got = curl(args).expect("curl runs");
            assert!(got.status.success(), "{args:?}: {}", got.status);
            got.stdout
        };
        assert!(get(&[&url("/sub/long.bin")]) == long, "HTTP gave other bytes");
        assert!(get(&["-r", "1000-1048600", &url("/sub/long.bin")]) == long[1000..=1_048_600]);
        assert!(get(&["-L", &url("")]).windows(8).any(|text| text == b"Index of"));
        let block = get(&[&url("?format=raw")]);
        let cid = path.rsplit('/').next().and_then(|cid| cid.parse::<muxfs::Cid>().ok()).expect("a CID");
        cid.verify(&block).expect("the block of the CID");
        let refused = curl(&["-H", "Host: evil.example", &url("/sub/long.bin")]).expect("curl runs");
        assert!(!refused.status.success() && refused.stdout.is_empty());
        get(&["-H", "Host: files.example.org", &url("/sub/long.bin")]);
    }
    assert_eq!(server.terminate(), Some(0));
}

/// Two servers of one machine, of which nobody said where HTTP is to listen: the second one works all the same.
#[test]
fn the_default_address_of_http_may_be_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:8080");
    let world = World::new();
    let ready = world.path("ready");
    let mut command = world.command();
    command.args(["serve", "--quiet", "--nfs", "127.0.0.1:0", "--ftp", "127.0.0.1:0"]);
    let mut child = command.arg("--ready-file").arg(&ready).spawn().expect("the program runs");
    let begun = Instant::now();
    while !ready.exists() {
        assert!(begun.elapsed() < PATIENCE && child.try_wait().expect("a child").is_none(), "it is not ready");
        std::thread::yield_now();
    }
    let told = fs::read_to_string(&ready).expect("read");
    assert!(told.contains("\"nfs\"") && !told.contains("\"http\""), "{told}");
    child.kill().expect("killed");
    child.wait().expect("it ended");
    drop(taken);
}

/// What `ftp-user` makes is what the server reads: the user logs in with the password that was typed, below its home.
/// What it printed was no users file by itself, for want of a version.
#[test]
fn a_user_that_the_program_made_logs_in() {
    let world = World::new();
    let (users, config) = (world.path("users"), world.path("muxfs.toml"));
    let into = users.to_str().expect("UTF-8");
    for name in ["zoe", "ann"] {
        let args = ["ftp-user", name, "--home", "/local/ann", "--read-only", "--users", into];
        let made = world.fed(&args, b"correct horse\n");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert_eq!(world.fed(&args, b"other\n").status.code(), Some(2), "{name} is there");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&users).expect("there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    fs::write(&config, format!("[ftp]\nusers = {users:?}\n")).expect("written");
    fs::create_dir_all(world.path("data/local/ann")).expect("made");
    fs::write(world.path("data/local/ann/a.txt"), b"hello").expect("written");
    let server = world.serve(&["--config", config.to_str().expect("UTF-8")]);
    let login = |name: &str, password: &str| {
        let mut ftp = suppaftp::FtpStream::connect(server.addr("ftp")).expect("connected");
        ftp.login(name, password).map(|()| ftp)
    };
    let mut ftp = login("ann", "correct horse").expect("logged in");
    assert_eq!(ftp.retr_as_buffer("/a.txt").expect("there").into_inner(), b"hello", "below the home");
    ftp.put_file("/b.txt", &mut &b"x"[..]).expect_err("read-only");
    assert!(login("ann", "wrong horse").is_err(), "another password");
    assert!(login("bob", "correct horse").is_err(), "another name");
    ftp.quit().expect("bye");
}

/// Reads a file as an NFS client does: MNT, a LOOKUP for each part, READ until the end.
pub(crate) fn read_over_nfs(addr: std::net::SocketAddr, path: &str) -> Vec<u8> {
    use nfs3_client::{
        Nfs3ConnectionBuilder,
        nfs3_types::{
            nfs3::{LOOKUP3args, READ3args, diropargs3, filename3},
            xdr_codec::Opaque,
        },
        tokio::TokioConnector,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut nfs = Nfs3ConnectionBuilder::new(TokioConnector, addr.ip().to_string(), "/")
            .connect_from_privileged_port(false)
            .nfs3_port(addr.port())
            .mount_port(addr.port())
            .mount()
            .await
            .expect("mounted");
        let mut handle = nfs.root_nfs_fh3();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let what = diropargs3 { dir: handle, name: filename3(Opaque::borrowed(part.as_bytes())) };
            handle = nfs.lookup(&LOOKUP3args { what }).await.expect("answered").unwrap().object;
        }
        let mut bytes = Vec::new();
        loop {
            let args = READ3args { file: handle.clone(), offset: bytes.len() as u64, count: 1 << 20 };
            let piece = nfs.read(&args).await.expect("answered").unwrap();
            bytes.extend_from_slice(&piece.data);
            if piece.eof {
                break;
            }
        }
        nfs.unmount().await.expect("unmounted");
        bytes
    })
}

#[test]
fn metrics_count_what_happens() {
    use std::io::{Read as _, Write as _};
    let world = World::new();
    let server = world.serve(&["--metrics", "127.0.0.1:0"]);
    let mut ftp = suppaftp::FtpStream::connect(server.addr("ftp")).expect("connected");
    ftp.login("anyone", "x").expect("loopback takes any name");
    ftp.quit().expect("bye");
    let mut http = std::net::TcpStream::connect(server.addr("metrics")).expect("connected");
    http.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    http.read_to_string(&mut text).expect("answered");
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("muxfs_ftp_"), "{text}");
}
