//! The storage backend in libunftp's own server, through suppaftp: what it can do, and what it refuses.

mod raw;

use std::sync::Arc;

use libunftp::ServerBuilder;
use muxfs::{testing, vfs::posix::Caller};
use muxfs_ftp::Backend;
use raw::{Raw, at_rest, make_file, make_link, model, names};
use tokio::net::TcpListener;

/// Serves one connection with libunftp.
async fn serve(backend: Backend) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        let server = ServerBuilder::new(Box::new(move || backend.clone())).build().expect("builds");
        server.service(stream).await.expect("serves");
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn libunftp_serves_a_file_system_with_it() {
    let fs = model().await;
    make_file(&fs, "home/file", b"0123456789").await;
    make_file(&fs, "secret", b"outside").await;
    make_link(&fs, "home/up", "../secret").await;
    let caller = Caller { uid: 0, gid: 0, groups: vec![] };
    let backend = Backend::open(fs.clone(), caller, "/home", testing::env()).await.expect("opens");
    let mut raw = Raw::enter_as(serve(backend).await, "anonymous", "x").await;
    assert_eq!(raw.get("RETR /file").await, b"0123456789");
    raw.want("REST 4", 350).await;
    assert_eq!(raw.get("RETR file").await, b"456789");
    let mut listed = raw.lines("NLST").await;
    listed.sort();
    assert_eq!(listed, ["file", "up"]);
    assert!(raw.lines("LIST").await.iter().any(|line| line.ends_with("up -> ../secret")));
    assert!(
        raw.lines("MLSD").await.iter().any(|line| line.starts_with("type=file;size=10;") && line.ends_with(" file"))
    );

    assert_eq!(raw.put("STOR new", b"one").await, 226);
    raw.want("REST 3", 350).await;
    assert_eq!(raw.put("STOR new", b" two").await, 226);
    assert_eq!(raw.put("APPE new", b" three").await, 226);
    assert_eq!(raw.get("RETR new").await, b"one two three");
    raw.want("MKD d", 257).await;
    raw.want("CWD d", 250).await;
    raw.want("CDUP", 250).await;
    raw.want("RNFR new", 350).await;
    raw.want("RNTO d/moved", 250).await;
    raw.want("RMD d", 550).await;
    raw.want("DELE d/moved", 250).await;
    raw.want("RMD d", 250).await;

    // What it would answer wrongly, it refuses.
    raw.want("MLST file", 550).await;
    assert!(raw.want("MLST /file", 250).await.contains("size=10;"));
    raw.want("CWD ..", 550).await;
    raw.want("SIZE up", 550).await;
    raw.want("SIZE ../../secret", 550).await;
    raw.send(b"MKD \xff\r\n").await;
    assert_eq!(raw.reply().await.0, 553);
    // The offset of a transfer that failed is still there for the next one, which never asked for it.
    raw.want("REST 5", 350).await;
    for command in ["RETR none", "STOR file"] {
        let data = raw.begin(command).await;
        assert_eq!(raw.reply().await.0, 550, "{command}");
        drop(data);
    }
    raw.want("REST 0", 350).await;
    assert_eq!(raw.get("RETR file").await, b"0123456789");
    assert_eq!(names(&fs).await.len(), 2);
    raw.want("QUIT", 221).await;
    let fs = Arc::clone(&fs);
    drop(raw);
    at_rest(&fs).await;
}
