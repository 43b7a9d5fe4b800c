//! Ten thousand connections that say nothing, or only claim that they will: the server serves the next one.
//!
//! A test binary of its own, because it raises the limit of descriptors for the whole process, and takes most of them.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{sync::Arc, time::Duration};

use muxfs::{testing, testing::model::ModelFs, vfs::Vfs};
use muxfs_nfs::{Options, RECORD_LEN_MAX, serve};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// What the server is to bear.
const CONNECTION_COUNT: usize = 10_000;
/// Descriptors for everything else.
const SPARE_COUNT: u64 = 200;
/// Only a server that never answers takes as long.
const PATIENCE: Duration = Duration::from_mins(1);
/// The procedure NULL: record mark, xid 7, CALL, RPC 2, NFS, version 3, NULL, no credentials, no verifier.
const PING: [u32; 11] = [0x8000_0028, 7, 0, 2, 100_003, 3, 0, 0, 0, 0, 0];

#[tokio::test]
async fn ten_thousand_idle_connections_do_not_stop_the_server() {
    // Both ends of each connection are ours.
    let wanted = 2 * CONNECTION_COUNT as u64 + SPARE_COUNT;
    let mut maximum = getrlimit(Resource::Nofile).maximum;
    // Root may have more than the hard limit; all others have to do with it.
    if maximum.is_some_and(|maximum| maximum < wanted) {
        let more = Rlimit { current: Some(wanted), maximum: Some(wanted) };
        maximum = setrlimit(Resource::Nofile, more).map_or(maximum, |()| Some(wanted));
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let room = usize::try_from(maximum.unwrap_or(u64::MAX).saturating_sub(SPARE_COUNT) / 2).unwrap_or(usize::MAX);
    if room < CONNECTION_COUNT {
        let hard = maximum.unwrap_or(u64::MAX);
        muxfs::testing::skip(format_args!(
            "a hard limit of {hard} descriptors leaves room for {room} of {CONNECTION_COUNT} connections"
        ));
    }
    let vfs: Arc<dyn Vfs> = ModelFs::new(testing::env());
    let server = serve(vfs, Options { addr: ([127, 0, 0, 1], 0).into(), ..Options::default() }).unwrap();
    let (mut silent, mut claiming) = (Vec::new(), Vec::new());
    for index in 0..room.min(CONNECTION_COUNT) {
        let mut client = TcpStream::connect(server.local_addr()).await.unwrap();
        if index % 2 == 0 {
            client.write_u32(u32::try_from(RECORD_LEN_MAX).unwrap() | 1 << 31).await.unwrap();
            claiming.push(client);
        } else {
            silent.push(client);
        }
    }
    // The first of the silent, the last, and a new one are served.
    let new = TcpStream::connect(server.local_addr()).await.unwrap();
    for mut client in [silent.swap_remove(0), silent.pop().unwrap(), new] {
        for word in PING {
            client.write_u32(word).await.unwrap();
        }
        let mark = timeout(PATIENCE, client.read_u32()).await.expect("an answer").unwrap();
        assert_eq!(mark, 0x8000_0018);
    }
    server.shutdown().await;
}
