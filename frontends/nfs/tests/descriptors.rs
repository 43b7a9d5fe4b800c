//! A process without a free file descriptor: accepting fails, and the server must neither end nor spin.
//!
//! A test binary of its own, because the limit that it sets holds for the whole process.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{fs::File, sync::Arc, time::Duration};

use muxfs::{testing, testing::model::ModelFs, vfs::Vfs};
use muxfs_nfs::{Options, serve};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Only a server that never answers takes as long.
const PATIENCE: Duration = Duration::from_mins(1);

/// The procedure NULL: record mark, xid 7, CALL, RPC 2, NFS, version 3, NULL, no credentials, no verifier.
const PING: [u32; 11] = [0x8000_0028, 7, 0, 2, 100_003, 3, 0, 0, 0, 0, 0];

#[tokio::test]
async fn the_want_of_descriptors_passes() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), maximum }).unwrap();
    let vfs: Arc<dyn Vfs> = ModelFs::new(testing::env());
    let server = serve(vfs, Options { addr: ([127, 0, 0, 1], 0).into(), ..Options::default() }).unwrap();

    let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    // The one free descriptor goes to the client; the server has none to accept it with.
    files.pop().unwrap();
    let mut client = TcpStream::connect(server.local_addr()).await.unwrap();
    for word in PING {
        client.write_u32(word).await.unwrap();
    }
    let early = timeout(Duration::from_millis(250), client.read_u32()).await;
    assert!(early.is_err(), "it cannot have been accepted: {early:?}");
    drop(files);
    let mark = timeout(PATIENCE, client.read_u32()).await.expect("the server accepts again").unwrap();
    assert_eq!(mark, 0x8000_0018);
    server.shutdown().await;
}
