//! What a peer can claim, send or leave undone: it costs that peer its connection, and nobody else anything.

use std::time::Duration;

use muxfs_nfs::{CALLS_IN_FLIGHT_MAX, Options, RECORD_LEN_MAX, serve};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::io::AsyncReadExt;

use crate::{
    gate::Gate,
    raw::{Args, Client, MOUNT, NFS, OK, PORTMAP, model, model_with, options, until},
};

/// How many connections a test keeps: two descriptors each, below the usual limit of 1024.
const MANY: usize = 400;

#[tokio::test]
async fn bad_records_end_their_own_connection_only() {
    let (_fs, server) = model();
    let mut good = Client::connect(server.local_addr()).await;
    let root = good.root().await;
    let too_long = (u32::try_from(RECORD_LEN_MAX).unwrap() + 1) | 1 << 31;
    let no_call = [&0x8000_0008_u32.to_be_bytes()[..], &[0; 3], &[7], &[0; 3], &[1]].concat();
    for bytes in [
        &0xffff_ffff_u32.to_be_bytes()[..], // 2 GiB claimed
        &0x7fff_ffff_u32.to_be_bytes(),
        &too_long.to_be_bytes(),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &no_call,
        &0x8000_0000_u32.to_be_bytes(), // a record without a byte
    ] {
        let mut bad = Client::connect(server.local_addr()).await;
        bad.send(bytes).await;
        assert_eq!(bad.receive().await, None, "{bytes:?}");
        assert!(good.getattr(&root).await.is_ok());
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_truncated_record_ends_its_connection_only() {
    let (_fs, server) = model();
    let mut good = Client::connect(server.local_addr()).await;
    let root = good.root().await;
    let whole = good.encode(7, NFS, 1, &Args::new().opaque(&root).0);
    for len in [0, 1, 3, 10, whole.len() - 1] {
        let mut bad = Client::connect(server.local_addr()).await;
        let mark = u32::try_from(whole.len()).unwrap() | 1 << 31;
        bad.send(&[&mark.to_be_bytes(), &whole[..len]].concat()).await;
        bad.stream.shutdown_write().await;
        assert_eq!(bad.receive().await, None, "{len}");
    }
    assert!(good.getattr(&root).await.is_ok());
    server.shutdown().await;
}

trait ShutdownWrite {
    async fn shutdown_write(&mut self);
}

impl ShutdownWrite for tokio::net::TcpStream {
    async fn shutdown_write(&mut self) {
        tokio::io::AsyncWriteExt::shutdown(self).await.unwrap();
    }
}

/// A peer that has sent all it wants still gets its replies.
#[tokio::test]
async fn calls_before_the_end_of_the_stream_are_answered() {
    let gate = Gate::shut();
    let server = serve(gate.clone(), options()).unwrap();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"a", 0o644).await;
    client.send_call(70, NFS, 6, Args::new().opaque(&file).u64(0).u32(9)).await;
    client.stream.shutdown_write().await;
    until("the call arrives", || gate.arrived.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    gate.let_through();
    assert_eq!(client.results(70).await.u32(), OK);
    assert_eq!(client.receive().await, None);
    server.shutdown().await;
}

#[tokio::test]
async fn a_call_may_come_in_pieces_and_many_at_once() {
    let (_fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let record = client.encode(7, NFS, 1, &Args::new().opaque(&root).0);
    let mut fragments = Vec::new();
    for (index, piece) in record.chunks(5).enumerate() {
        let last = u32::from((index + 1) * 5 >= record.len()) << 31;
        fragments.extend((u32::try_from(piece.len()).unwrap() | last).to_be_bytes());
        fragments.extend(piece);
    }
    for byte in fragments {
        client.send(&[byte]).await;
    }
    assert_eq!(client.results(7).await.u32(), OK);
    let mut many = Vec::new();
    for xid in 100..600 {
        let record = client.encode(xid, NFS, 1, &Args::new().opaque(&root).0);
        many.extend((u32::try_from(record.len()).unwrap() | 1 << 31).to_be_bytes());
        many.extend(record);
    }
    client.send(&many).await;
    for xid in 100..600 {
        assert_eq!(client.results(xid).await.u32(), OK, "calls that do not wait are answered in order");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn idle_connections_do_not_stop_the_server() {
    let (_fs, server) = model();
    let mut idle = Vec::new();
    for _ in 0..MANY {
        let mut client = Client::connect(server.local_addr()).await;
        // The longest record there may be is claimed, and never sent.
        client.send(&(u32::try_from(RECORD_LEN_MAX).unwrap() | 1 << 31).to_be_bytes()).await;
        idle.push(client);
    }
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    assert!(client.getattr(&root).await.is_ok());
    server.shutdown().await;
}

#[tokio::test]
async fn connections_past_the_limit_are_closed_and_come_back() {
    let (_fs, server) = model_with(Options { connections_max: 2, ..options() });
    let mut first = Client::connect(server.local_addr()).await;
    let root = first.root().await;
    let mut second = Client::connect(server.local_addr()).await;
    assert!(second.getattr(&root).await.is_ok());
    let mut third = Client::connect(server.local_addr()).await;
    assert_eq!(third.receive().await, None);
    drop(first);
    loop {
        let mut again = Client::connect(server.local_addr()).await;
        again.send_call(70, NFS, 0, Args::new()).await;
        if again.receive().await.is_some() {
            break;
        }
    }
    server.shutdown().await;
}

#[tokio::test]
async fn idle_and_stalled_peers_are_closed() {
    let soon = Duration::from_millis(20);
    let (_fs, server) = model_with(Options { idle_timeout: soon, ..options() });
    assert_eq!(Client::connect(server.local_addr()).await.receive().await, None, "idle");
    server.shutdown().await;
    let (_fs, server) = model_with(Options { stall_timeout: soon, ..options() });
    let mut stalled = Client::connect(server.local_addr()).await;
    stalled.send(&[0x80, 0]).await;
    assert_eq!(stalled.receive().await, None, "in the middle of a record mark");
    let mut stalled = Client::connect(server.local_addr()).await;
    stalled.send(&[0x80, 0, 0, 64, 1, 2, 3]).await;
    assert_eq!(stalled.receive().await, None, "in the middle of a record");
    server.shutdown().await;
}

/// A peer that asks for much and takes nothing: its calls stop being read, others are served, and in the end it is cut
/// off and gives everything back.
#[tokio::test]
async fn a_peer_that_takes_no_replies_is_cut_off() {
    let (fs, server) = model_with(Options { stall_timeout: Duration::from_secs(2), ..options() });
    let mut greedy = Client::connect(server.local_addr()).await;
    let root = greedy.root().await;
    let file = greedy.create(&root, b"a", 0o644).await;
    for chunk in 0..4 {
        greedy.write(&file, chunk << 20, 0, &vec![7; 1 << 20]).await;
    }
    for xid in 100..1000 {
        let args = Args::new().opaque(&file).u64(u64::from(xid % 4) << 20).u32(1 << 20);
        let record = greedy.encode(xid, NFS, 6, &args.0);
        let mark = (u32::try_from(record.len()).unwrap() | 1 << 31).to_be_bytes();
        // The server may have stopped reading, or closed: both are what is asked for.
        if greedy.stream.try_write(&[&mark[..], &record].concat()).is_err() {
            break;
        }
    }
    let mut good = Client::connect(server.local_addr()).await;
    assert!(good.getattr(&root).await.is_ok());
    let mut buffer = vec![0; 1 << 16];
    let mut got = 0;
    // Reading only now: what the socket still held comes, then the end. 900 replies never do.
    until("it is cut off", || fs.lease_count() == 0).await;
    tokio::time::timeout(Duration::from_mins(1), async {
        while let Ok(len @ 1..) = greedy.stream.read(&mut buffer).await {
            got += len;
            if got >= 900 << 20 {
                return;
            }
        }
    })
    .await
    .unwrap();
    assert!(good.getattr(&root).await.is_ok());
    server.shutdown().await;
}

#[tokio::test]
async fn calls_in_flight_are_bounded() {
    let gate = Gate::shut();
    let server = serve(gate.clone(), options()).unwrap();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"a", 0o644).await;
    let total = u32::try_from(CALLS_IN_FLIGHT_MAX).unwrap() + 50;
    for xid in 0..total {
        client.send_call(1000 + xid, NFS, 6, Args::new().opaque(&file).u64(0).u32(9)).await;
    }
    let arrived = || gate.arrived.load(std::sync::atomic::Ordering::SeqCst);
    until("all that may be are in flight", || arrived() == CALLS_IN_FLIGHT_MAX).await;
    // Whatever else is answered meanwhile shows that the server had the time to read on, and did not.
    let mut other = Client::connect(server.local_addr()).await;
    for _ in 0..100 {
        assert!(other.getattr(&root).await.is_ok());
    }
    assert_eq!(arrived(), CALLS_IN_FLIGHT_MAX);
    gate.let_through();
    for _ in 0..total {
        client.receive().await.unwrap();
    }
    assert_eq!(gate.fs.lease_count(), 0);
    server.shutdown().await;
}

/// A valid call of each procedure, to be broken.
fn valid_calls(root: &[u8], file: &[u8]) -> Vec<((u32, u32), u32, Args)> {
    let one = |handle: &[u8]| Args::new().opaque(handle);
    let at = |name: &[u8]| Args::new().opaque(root).opaque(name);
    let mut calls: Vec<_> = [
        (1, one(file)),
        (2, one(file).sattr(Some(0o600), Some(9)).u32(1).u64(1)),
        (3, at(b"a")),
        (4, one(file).u32(63)),
        (5, one(file)),
        (6, one(file).u64(0).u32(100)),
        (7, one(file).u64(0).u32(5).u32(0).opaque(b"hello")),
        (8, at(b"n").u32(0).sattr(Some(0o644), None)),
        (8, at(b"x").u32(2).u64(77)),
        (9, at(b"d").sattr(Some(0o755), None)),
        (10, at(b"s").sattr(None, None).opaque(b"to")),
        (11, at(b"f").u32(7).sattr(None, None)),
        (11, at(b"c").u32(4).sattr(None, None).u64(1)),
        (12, at(b"n")),
        (13, at(b"d")),
        (14, at(b"s").opaque(root).opaque(b"t")),
        (15, one(file).opaque(root).opaque(b"l")),
        (16, one(root).u64(0).u64(0).u32(4096)),
        (17, one(root).u64(0).u64(0).u32(4096).u32(4096)),
        (18, one(root)),
        (19, one(root)),
        (20, one(root)),
        (21, one(file).u64(0).u32(0)),
    ]
    .into_iter()
    .map(|(procedure, args)| (NFS, procedure, args))
    .collect();
    calls.push((MOUNT, 1, Args::new().opaque(b"/")));
    calls.push((MOUNT, 2, Args::new()));
    calls.push((PORTMAP, 3, Args::new().u32(NFS.0).u32(3).u32(6).u32(0)));
    calls
}

/// Any valid call with bytes changed, cut off or added is answered or ends its connection: no panic, no hang, no lease
/// left over.
#[test]
fn broken_calls_are_answered_or_end_their_connection() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (fs, server, calls) = runtime.block_on(async {
        let (fs, server) = model();
        let mut client = Client::connect(server.local_addr()).await;
        let root = client.root().await;
        let file = client.create(&root, b"a", 0o644).await;
        let calls = valid_calls(&root, &file);
        let records: Vec<_> =
            calls.iter().map(|(program, procedure, args)| client.encode(7, *program, *procedure, &args.0)).collect();
        (fs, server, records)
    });
    let strategy = (
        0..calls.len(),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        any::<prop::sample::Index>(),
        prop::option::weighted(0.3, prop::collection::vec(any::<u8>(), 0..40)),
    );
    let mut runner = TestRunner::new(ProptestConfig { cases: 600, ..ProptestConfig::default() });
    runner
        .run(&strategy, |(which, changes, cut, tail)| {
            let mut record = calls[which].clone();
            for (at, byte) in &changes {
                let at = at.index(record.len());
                record[at] = *byte;
            }
            if let Some(tail) = tail {
                record.truncate(cut.index(record.len()));
                record.extend(tail);
            }
            runtime.block_on(async {
                let mut client = Client::connect(server.local_addr()).await;
                client.send_record(&record).await;
                client.stream.shutdown_write().await;
                while client.receive().await.is_some() {}
            });
            prop_assert_eq!(fs.lease_count(), 0);
            Ok(())
        })
        .unwrap();
    runtime.block_on(server.shutdown());
}
