//! Sessions: who gets in, how far paths lead, what a listing tells, and what hostile or hasty clients get.

mod raw;

use std::{sync::Arc, time::Duration};

use muxfs::vfs::{NewNode, SetAttr, Vfs};
use muxfs_ftp::Options;
use muxfs_users::{FAILURES_MAX, user_line};
use raw::{Raw, at_rest, make, make_file, make_link, model, names, options, start};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A users file: ann at home in /ann, guest who only reads, root everywhere.
fn users_file() -> tempfile::NamedTempFile {
    let env = options().env;
    let mut text = "version = 1\n".to_owned();
    for (name, home, read_only) in [("ann", "/ann", false), ("guest", "/", true), ("lost", "/gone", false)] {
        text.push_str(&user_line(name, "secret", home, read_only, &env).expect("a user"));
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("writes");
    file
}

#[tokio::test]
async fn no_path_leads_out_of_the_root() {
    let fs = model().await;
    make_file(&fs, "dir/file", b"inside").await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    for (cwd, pwd) in [
        ("CWD ../../..", "/"),
        ("CWD dir", "/dir"),
        ("CWD ../../../dir/../dir", "/dir"),
        ("CWD /../..", "/"),
        ("CWD /dir/", "/dir"),
    ] {
        raw.want(cwd, 250).await;
        assert_eq!(raw.want("PWD", 257).await, format!("257 \"{pwd}\" is where you are.\r\n"), "{cwd}");
    }
    // What libunftp gets wrong: up after up is up.
    raw.want("CWD /dir", 250).await;
    raw.want("CWD ..", 250).await;
    raw.want("CDUP", 250).await;
    assert!(raw.want("PWD", 257).await.contains("\"/\""));
    raw.want("CWD dir/file", 550).await;
    raw.want("CWD none", 550).await;
    assert_eq!(raw.get("RETR ../../dir/./file").await, b"inside");
    raw.want("CWD dir", 250).await;
    assert!(raw.want("MLST file", 250).await.contains(" /dir/file\r\n"), "a relative MLST is of the working directory");
}

#[tokio::test]
async fn links_are_followed_and_never_lead_out() {
    let fs = model().await;
    make_file(&fs, "ann/file", b"ann's").await;
    make_file(&fs, "secret", b"root's").await;
    for (link, target) in [
        ("ann/good", "sub/../file"),
        ("ann/absolute", "/file"),
        ("ann/up", "../secret"),
        ("ann/far", "../../../../secret"),
        ("ann/rooted", "/secret"),
        ("ann/loop", "loop"),
        ("ann/dangling", "to/nothing"),
        ("ann/dir", "sub"),
    ] {
        make_link(&fs, link, target).await;
    }
    make(&fs, "ann/sub", NewNode::Dir, b"").await;
    let users = users_file();
    let server = start(fs.clone(), Options { users: Some(users.path().into()), ..options() }).await;
    let mut raw = Raw::enter_as(server.local_addr(), "ann", "secret").await;
    assert_eq!(raw.get("RETR good").await, b"ann's");
    assert_eq!(raw.get("RETR absolute").await, b"ann's", "an absolute target is counted from the home");
    for link in ["up", "far", "rooted", "loop", "dangling"] {
        raw.want(&format!("SIZE {link}"), 550).await;
        raw.passive().await;
        raw.want(&format!("RETR {link}"), 550).await;
    }
    raw.want("CWD dir", 250).await;
    assert!(raw.want("PWD", 257).await.contains("\"/dir\""));
    raw.want("CWD /", 250).await;
    // An upload through a link goes where it leads, and the link stays.
    assert_eq!(raw.put("STOR up", b"written").await, 226);
    assert_eq!(raw.get("RETR secret").await, b"written");
    assert!(raw.want("MLST up", 250).await.contains("type=OS.unix=slink:../secret;"));
    assert!(raw.lines("LIST").await.iter().any(|line| line.starts_with('l') && line.ends_with("up -> ../secret")));
    raw.want("DELE good", 250).await;
    assert_eq!(raw.get("RETR file").await, b"ann's", "only the link went");
    let mut all = Raw::enter_as(server.local_addr(), "guest", "secret").await;
    assert_eq!(all.get("RETR secret").await, b"root's", "nothing outside the home changed");
}

#[tokio::test]
async fn users_are_held_to_their_password_home_and_rights() {
    let fs = model().await;
    make_file(&fs, "ann/file", b"x").await;
    make_file(&fs, "file", b"x").await;
    let users = users_file();
    let server = start(fs.clone(), Options { users: Some(users.path().into()), ..options() }).await;
    let address = server.local_addr();
    let mut raw = Raw::connect(address).await;
    raw.want("LIST", 530).await;
    raw.want("PWD", 530).await;
    raw.want("PASS secret", 503).await;
    for (user, password) in [("ann", "wrong"), ("nobody", "secret")] {
        raw.want(&format!("USER {user}"), 331).await;
        raw.want(&format!("PASS {password}"), 530).await;
    }
    raw.want("USER lost", 331).await;
    raw.want("PASS secret", 530).await;
    assert_eq!(raw.reply().await.0, 421, "the third refusal ends the connection");
    assert_eq!(raw.try_reply().await, None);

    let mut ann = Raw::enter_as(address, "ann", "secret").await;
    assert!(ann.want("PWD", 257).await.contains("\"/\""));
    assert_eq!(ann.lines("NLST /").await, ["file"]);
    ann.want("USER guest", 503).await;
    let mut guest = Raw::enter_as(address, "guest", "secret").await;
    assert_eq!(guest.get("RETR file").await, b"x");
    for command in ["DELE file", "MKD d", "RMD ann", "RNFR file", "SITE CHMOD 777 file", "MFMT 20200102030405 file"] {
        guest.want(command, 550).await;
    }
    guest.passive().await;
    guest.want("STOR new", 550).await;
    assert!(guest.want("MLST file", 250).await.contains("perm=r;"));
}

#[tokio::test]
async fn guessing_is_braked() {
    let users = users_file();
    let server = start(model().await, Options { users: Some(users.path().into()), ..options() }).await;
    let mut refused = 0;
    while refused < FAILURES_MAX {
        let mut raw = Raw::connect(server.local_addr()).await;
        for _ in 0..2 {
            raw.want("USER ann", 331).await;
            raw.want("PASS guess", 530).await;
            refused += 1;
        }
    }
    let mut raw = Raw::connect(server.local_addr()).await;
    raw.want("USER ann", 331).await;
    assert!(raw.want("PASS secret", 530).await.contains("Too many"), "the right password comes too late");
}

#[tokio::test]
async fn permissions_are_those_of_the_user() {
    let fs = model().await;
    make_file(&fs, "theirs", b"x").await;
    let node = fs.lookup(fs.root(), &muxfs::Name::new(b"theirs").expect("a name")).await.expect("is there");
    let set = SetAttr { mode: Some(0o600), uid: Some(77_001), gid: Some(77_001), ..SetAttr::default() };
    fs.setattr(node.ino, set).await.expect("is given away");
    fs.release(node.ino, 1);
    let env = options().env;
    let line = user_line("eve", "secret", "/", false, &env).expect("a user");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("version = 1\n{line}uid = 77002\ngid = 77002\n")).expect("writes");
    let server = start(fs.clone(), Options { users: Some(file.path().into()), ..options() }).await;
    let mut eve = Raw::enter_as(server.local_addr(), "eve", "secret").await;
    eve.passive().await;
    eve.want("STOR theirs", 550).await;
    eve.want("SITE CHMOD 666 theirs", 550).await;
    let mut data = eve.begin("RETR theirs").await;
    let mut got = Vec::new();
    data.read_to_end(&mut got).await.expect("reads");
    assert_eq!((eve.reply().await.0, got.len()), (550, 0));
    assert_eq!(eve.put("STOR mine", b"x").await, 226);
    assert!(eve.want("MLST mine", 250).await.contains("unix.uid=77002;"));
}

#[tokio::test]
async fn listings_tell_what_is_there() {
    let fs = model().await;
    make_file(&fs, "d/ü \"q\"", b"12345").await;
    make_file(&fs, "d/.dot", b"").await;
    make_file(&fs, "d/line\nbreak", b"").await;
    make(&fs, "d/sub", NewNode::Dir, b"").await;
    make(&fs, "d/pipe", NewNode::Fifo, b"").await;
    make_link(&fs, "d/semi", "a;b").await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    let mut got = raw.lines("NLST d").await;
    got.sort();
    assert_eq!(got, [".dot", "pipe", "semi", "sub", "ü \"q\""]);
    assert_eq!(raw.lines("LIST -la d").await.len(), 5);
    assert_eq!(raw.lines("NLST d/.dot").await, ["d/.dot"]);
    let long = raw.lines("LIST d").await;
    let line = |end: &str| long.iter().find(|line| line.ends_with(end)).unwrap_or_else(|| panic!("{end} in {long:?}"));
    assert!(line("ü \"q\"").starts_with("-rw-rw-rw-   1 ") && line("ü \"q\"").contains("            5 "));
    assert!(line(" sub").starts_with("drwxrwxrwx"));
    assert!(line(" pipe").starts_with("prw-rw-rw-"));
    let facts = raw.lines("MLSD d").await;
    let of = |end: &str| facts.iter().find(|line| line.ends_with(end)).unwrap_or_else(|| panic!("{end} in {facts:?}"));
    let file = of(" ü \"q\"");
    assert!(file.starts_with("type=file;size=5;modify=2023111422"), "{file}");
    assert!(file.contains("perm=adfrw;") && file.contains("unix.mode=0666;") && file.contains("unix.uid=0;"), "{file}");
    assert!(of(" sub").starts_with("type=dir;modify=") && of(" sub").contains("perm=cdeflmp;"));
    assert!(of(" semi").starts_with("type=OS.unix=symlink;"));
    assert!(of(" pipe").starts_with("type=OS.unix=fifo;"));
    raw.passive().await;
    raw.want("MLSD d/.dot", 501).await;
    raw.passive().await;
    raw.want("RETR d/pipe", 553).await;
    raw.want("MKD d/a \"b\"", 257).await;
    raw.want("CWD d/a \"b\"", 250).await;
    assert!(raw.want("PWD", 257).await.starts_with("257 \"/d/a \"\"b\"\"\" "));

    let hiding = start(fs.clone(), Options { hide_dot_files: true, ..options() }).await;
    let mut raw = Raw::enter(hiding.local_addr()).await;
    assert!(!raw.lines("NLST d").await.contains(&".dot".to_owned()));
    assert!(raw.lines("LIST -a d").await.iter().any(|line| line.ends_with(" .dot")));
    raw.want("SIZE d/.dot", 213).await;
}

/// Ten thousand entries come without a look at each: a model that counts nothing would take long, and every lease is
/// given back.
#[tokio::test]
async fn a_large_directory_is_listed_once_and_leaves_nothing() {
    let fs = model().await;
    for index in 0..10_000 {
        make_file(&fs, &format!("f{index:05}"), b"").await;
    }
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    let mut got = raw.lines("NLST").await;
    got.sort();
    assert!(got.iter().cloned().eq((0..10_000).map(|index| format!("f{index:05}"))));
    assert_eq!(raw.lines("MLSD").await.len(), 10_000);
    // A client that goes away in the middle of one.
    let mut data = raw.begin("LIST").await;
    data.read_exact(&mut [0; 100]).await.expect("reads");
    drop(data);
    let code = raw.reply().await.0;
    assert!(code == 426 || code == 226, "{code}");
    raw.want("NOOP", 200).await;
    drop(raw);
    at_rest(&fs).await;
}

#[tokio::test]
async fn names_are_changed() {
    let fs = model().await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    assert_eq!(raw.put("STOR a", b"a").await, 226);
    assert_eq!(raw.put("STOR b", b"b").await, 226);
    raw.want("RNTO c", 503).await;
    raw.want("RNFR none", 550).await;
    raw.want("RNFR a", 350).await;
    raw.want("RNTO b", 250).await;
    assert_eq!(raw.get("RETR b").await, b"a", "renamed over");
    raw.want("RNFR b", 350).await;
    raw.want("NOOP", 200).await;
    raw.want("RNTO c", 250).await;
    raw.want("RNFR c", 350).await;
    raw.want("PWD", 257).await;
    raw.want("RNTO d", 503).await;
    raw.want("MKD d", 257).await;
    raw.want("MKD d", 550).await;
    raw.want("DELE d", 550).await;
    raw.want("RMD c", 550).await;
    raw.want("RMD /", 553).await;
    raw.want("RMD d", 250).await;
    raw.want("SITE CHMOD 4755 c", 200).await;
    assert!(raw.want("MLST c", 250).await.contains("unix.mode=04755;"));
    for bad in ["SITE CHMOD 8 c", "SITE CHMOD 77777 c", "SITE CHMOD c", "SITE CHMOD -1 c"] {
        raw.want(bad, 501).await;
    }
    raw.want("SITE CID c", 550).await;
    raw.want("SITE HELP", 214).await;
    raw.want("SITE NONSENSE", 504).await;
    assert_eq!(raw.want("MFMT 20200102030405 c", 213).await, "213 Modify=20200102030405; /c\r\n");
    assert_eq!(raw.want("MDTM c", 213).await, "213 20200102030405\r\n");
    raw.want("MFMT yesterday c", 501).await;
    assert_eq!(names(&fs).await, ["c"]);
}

#[tokio::test]
async fn data_connections_go_only_where_the_client_is() {
    let fs = model().await;
    make_file(&fs, "f", b"content").await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    raw.want("PORT 10,0,0,1,40,0", 504).await;
    raw.want("PORT 127,0,0,1,0,25", 504).await;
    raw.want("PORT 1,2,3", 501).await;
    raw.want("EPRT |1|10.0.0.1|40000|", 504).await;
    raw.want("RETR f", 425).await;
    let listener = raw.active().await;
    raw.want("RETR f", 150).await;
    let (mut data, _) = listener.accept().await.expect("the server connects");
    let mut got = Vec::new();
    data.read_to_end(&mut got).await.expect("reads");
    assert_eq!((raw.reply().await.0, got.as_slice()), (226, b"content".as_slice()));
    // One that does not come about is answered, and the session goes on.
    let listener = raw.active().await;
    drop(listener);
    raw.want("RETR f", 150).await;
    assert_eq!(raw.reply().await.0, 425);
    // A stranger on the passive port is turned away, and the client still gets through.
    let text = raw.want("EPSV", 229).await;
    let port: u16 = text.split('|').nth(3).expect("a port").parse().expect("a number");
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 2], 0).into()).expect("another address of loopback");
    let mut stranger = socket.connect(([127, 0, 0, 1], port).into()).await.expect("connects");
    raw.want("RETR f", 150).await;
    let mut data = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    data.read_to_end(&mut ours).await.expect("reads");
    assert_eq!((raw.reply().await.0, ours.as_slice()), (226, b"content".as_slice()));
    drop(stranger.read_to_end(&mut theirs).await);
    assert!(theirs.is_empty());
    raw.want("EPSV 2", 522).await;
    raw.want("EPSV ALL", 200).await;
    raw.want("PASV", 503).await;
    raw.want("PORT 127,0,0,1,40,0", 503).await;
}

#[tokio::test]
async fn commands_given_ahead_are_answered_in_order() {
    let fs = model().await;
    make_file(&fs, "f", b"12345").await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    raw.send(b"SIZE f\r\nPWD\r\nMDTM f\r\nNOOP\r\nCWD none\r\n").await;
    let mut codes = Vec::new();
    for _ in 0..5 {
        codes.push(raw.reply().await.0);
    }
    assert_eq!(codes, [213, 257, 213, 200, 550]);
    // While a transfer runs they wait: more of them than are taken at once.
    let mut data = raw.begin("STOR g").await;
    raw.send(&b"SIZE g\r\n".repeat(40)).await;
    data.write_all(b"123").await.expect("sends");
    drop(data);
    assert_eq!(raw.reply().await.0, 226);
    for _ in 0..40 {
        assert_eq!(raw.reply().await, (213, "213 3\r\n".into()));
    }
    let mut data = raw.begin("STOR h").await;
    data.write_all(b"123").await.expect("sends");
    raw.send(b"QUIT\r\n").await;
    drop(data);
    assert_eq!((raw.reply().await.0, raw.reply().await.0), (226, 221), "QUIT waits for the transfer");
    assert_eq!(raw.try_reply().await, None);
    assert!(names(&fs).await.contains(&"h".to_owned()));
}

#[tokio::test]
async fn nonsense_is_answered_and_costs_nothing() {
    let fs = model().await;
    let server = start(fs.clone(), options()).await;
    let mut raw = Raw::connect(server.local_addr()).await;
    for _ in 0..64 {
        raw.send(&vec![b'A'; 64 * 1024]).await;
    }
    assert_eq!(raw.ask("").await.0, 500);
    for line in
        [b"\r\n".as_slice(), b"\0\0\0\r\n", b"\xff\xff\xff\r\n", b"USER\r\n", b"USER \xff\xfe\xfd\r\n", b"PASS\r\n"]
    {
        raw.send(line).await;
        let code = raw.reply().await.0;
        assert!((500..=530).contains(&code), "{line:?}: {code}");
    }
    let mut raw = Raw::enter(server.local_addr()).await;
    for command in ["REST x", "REST -1", "TYPE", "MODE Z", "STRU R", "OPTS", "MKD", "DELE", "SIZE", "XYZZY", "STAT /"] {
        let code = raw.ask(command).await.0;
        assert!((500..=553).contains(&code), "{command}: {code}");
    }
    raw.send(b"MKD a\rb\r\n").await;
    assert_eq!(raw.reply().await.0, 553);
    raw.send(b"MKD a\0b\r\n").await;
    assert_eq!(raw.reply().await.0, 553);
    raw.want(&format!("MKD {}", "x".repeat(256)), 553).await;
    raw.want(&format!("MKD {}", "y/".repeat(3000)), 553).await;
    raw.want("REST 18446744073709551615", 350).await;
    raw.passive().await;
    raw.want("STOR f", 554).await;
    assert!(names(&fs).await.is_empty());
}

#[tokio::test]
async fn no_more_sessions_than_allowed_and_room_again_when_one_ends() {
    let fs = model().await;
    let server = start(fs.clone(), Options { sessions_max: 2, ..options() }).await;
    let first = Raw::enter(server.local_addr()).await;
    let _second = Raw::enter(server.local_addr()).await;
    let mut greeting = String::new();
    let mut third = TcpStream::connect(server.local_addr()).await.expect("connects");
    third.read_to_string(&mut greeting).await.expect("reads");
    assert!(greeting.starts_with("421 "), "{greeting}");
    drop(first);
    let room = async {
        loop {
            let mut stream = TcpStream::connect(server.local_addr()).await.expect("connects");
            let mut code = [0; 3];
            if stream.read_exact(&mut code).await.is_ok() && &code == b"220" {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), room).await.expect("a place is free again");
}

#[tokio::test]
async fn a_silent_session_and_a_stalled_transfer_end() {
    let fs = model().await;
    let server = start(fs.clone(), Options { idle_timeout: Duration::from_secs(2), ..options() }).await;
    let mut raw = Raw::enter(server.local_addr()).await;
    let _data = raw.begin("STOR f").await;
    assert_eq!(raw.reply().await.0, 426);
    assert_eq!(raw.reply().await.0, 421);
    assert_eq!(raw.try_reply().await, None);
    assert!(names(&fs).await.is_empty());
    at_rest(&fs).await;
}

#[tokio::test]
async fn a_shutdown_lets_transfers_finish_and_closes_the_rest() {
    let fs = model().await;
    let server = start(fs.clone(), options()).await;
    let address = server.local_addr();
    let mut idle = Raw::enter(address).await;
    let mut busy = Raw::enter(address).await;
    let mut data = busy.begin("STOR f").await;
    data.write_all(b"to the end").await.expect("sends");
    let shutdown = tokio::spawn(server.shutdown());
    assert_eq!(idle.reply().await.0, 421);
    assert!(!shutdown.is_finished());
    drop(data);
    assert_eq!((busy.reply().await.0, busy.reply().await.0), (226, 421));
    shutdown.await.expect("ends");
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!((names(&fs).await, fs.lease_count()), (vec!["f".to_owned()], 0));

    let server = start(fs.clone(), Options { shutdown_grace: Duration::ZERO, ..options() }).await;
    let mut busy = Raw::enter(server.local_addr()).await;
    let _data = busy.begin("STOR g").await;
    server.shutdown().await;
    assert_eq!(busy.try_reply().await, None, "after the grace nobody is waited for");
    at_rest(&fs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_work_at_once() {
    let fs = model().await;
    let server = Arc::new(start(fs.clone(), options()).await);
    let mut all = Vec::new();
    for index in 0u8..16 {
        let address = server.local_addr();
        all.push(tokio::spawn(async move {
            let mut raw = Raw::enter(address).await;
            let content = vec![index; 300_000 + usize::from(index)];
            assert_eq!(raw.put(&format!("STOR f{index}"), &content).await, 226);
            assert!(raw.get(&format!("RETR f{index}")).await == content, "other bytes came back");
            raw.want("QUIT", 221).await;
        }));
    }
    for one in all {
        one.await.expect("works");
    }
    assert_eq!(names(&fs).await.len(), 16);
    at_rest(&fs).await;
}
