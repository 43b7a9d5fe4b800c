//! Calls as such: RPC errors, repetition, waiting, outages, panics, the end of the server.

use std::{sync::atomic::Ordering, time::Duration};

use muxfs::{testing::Clock, vfs::Fsid};
use muxfs_nfs::{Options, REPLY_COUNT_MAX, serve};

use crate::{
    gate::Gate,
    raw::{
        Args, Client, Credentials, EXIST, IO, JUKEBOX, MOUNT, NFS, NOENT, NOTDIR, OK, PORTMAP, Reply, model,
        model_with, options, until,
    },
};

/// The words of a reply behind its xid.
async fn answer(client: &mut Client, record: &[u8]) -> Vec<u32> {
    client.send_record(record).await;
    let reply = client.receive().await.unwrap();
    reply[4..].chunks_exact(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect()
}

#[tokio::test]
async fn rpc_says_what_is_wrong_with_a_call() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let accepted = |words: &[u32]| [&[1, 0, 0, 0][..], words].concat();
    for (program, procedure, args, want) in [
        (NFS, 0, &b""[..], accepted(&[0])),
        (MOUNT, 0, b"", accepted(&[0])),
        (PORTMAP, 0, b"", accepted(&[0])),
        ((100_004, 3), 0, b"", accepted(&[1])),
        ((NFS.0, 2), 0, b"", accepted(&[2, 3, 3])),
        ((NFS.0, 4), 0, b"", accepted(&[2, 3, 3])),
        ((MOUNT.0, 1), 0, b"", accepted(&[2, 3, 3])),
        ((PORTMAP.0, 3), 0, b"", accepted(&[2, 2, 2])),
        (NFS, 22, b"", accepted(&[3])),
        (NFS, u32::MAX, b"", accepted(&[3])),
        (MOUNT, 6, b"", accepted(&[3])),
        (PORTMAP, 1, b"", accepted(&[3])),
        (PORTMAP, 5, b"", accepted(&[3])),
        (NFS, 1, b"", accepted(&[4])),
        (NFS, 1, b"\0\0\0\x41", accepted(&[4])), // a handle of 65 bytes
        (NFS, 1, b"\xff\xff\xff\xff", accepted(&[4])),
        (NFS, 8, &[0; 8], accepted(&[4])),
        (MOUNT, 1, b"\0\0\x04\x01", accepted(&[4])), // a path of 1025 bytes
        (PORTMAP, 3, b"", accepted(&[4])),
    ] {
        let record = client.encode(9, program, procedure, args);
        assert_eq!(answer(&mut client, &record).await, want, "{program:?} {procedure} {args:?}");
    }
    let mut record = client.encode(9, NFS, 0, b"");
    record[11] = 3;
    assert_eq!(answer(&mut client, &record).await, [1, 1, 0, 2, 2], "RPC version 3");
    for (flavor, body, why) in [
        (1, &b"short"[..], 1), // AUTH_BADCRED
        (6, b"", 2),           // RPCSEC_GSS: AUTH_REJECTEDCRED
        (1, &[0; 404], 1),
    ] {
        client.credentials = Credentials { flavor, body: body.to_vec() };
        let record = client.encode(9, NFS, 0, b"");
        assert_eq!(answer(&mut client, &record).await, [1, 1, 1, why], "flavor {flavor}");
    }
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

#[tokio::test]
async fn directories_below_the_root_are_exports() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let dir = client.mkdir(&root, b"dir", 0o700).await;
    let inner = client.mkdir(&dir, b"in\xffner", 0o755).await;
    client.create(&root, b"file", 0o644).await;
    client.nfs(10, Args::new().opaque(&root).opaque(b"link").sattr(None, None).opaque(b"dir")).await;
    assert_eq!(client.mount(b"/dir").await, Ok(dir.clone()));
    assert_eq!(client.mount(b"//dir///in\xffner/").await, Ok(inner));
    assert_eq!(client.mount(b"/none").await, Err(NOENT));
    assert_eq!(client.mount(b"/file").await, Err(NOTDIR));
    assert_eq!(client.mount(b"/link").await, Err(NOTDIR), "symlinks are not followed");
    assert_eq!(client.mount(b"/file/x").await, Err(NOTDIR));
    for path in [&b""[..], b"dir", b"/dir/..", b"/.", b"/a\0b"] {
        assert_eq!(client.mount(path).await, Err(22), "{path:?}");
    }
    let mounted = async |client: &mut Client| {
        let mut reply = client.call(MOUNT, 2, Args::new()).await;
        let mut mounted = Vec::new();
        while reply.u32() == 1 {
            assert_eq!(reply.opaque(), b"127.0.0.1");
            mounted.push(reply.opaque());
        }
        assert!(reply.at_end());
        mounted
    };
    assert_eq!(mounted(&mut client).await, [&b"/"[..], b"/dir", b"//dir///in\xffner/"]);
    client.call(MOUNT, 3, Args::new().opaque(b"/dir")).await;
    assert_eq!(mounted(&mut client).await.len(), 2);
    client.call(MOUNT, 4, Args::new()).await;
    assert_eq!(mounted(&mut client).await.len(), 0);
    let mut exports = client.call(MOUNT, 5, Args::new()).await;
    assert_eq!((exports.u32(), exports.opaque()), (1, b"/".to_vec()));
    assert_eq!((exports.u32(), exports.opaque()), (1, b"127.0.0.0/8".to_vec()));
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

#[tokio::test]
async fn the_port_mapper_maps_to_its_own_port() {
    let (_fs, server) = model();
    let port = u32::from(server.local_addr().port());
    let mut client = Client::connect(server.local_addr()).await;
    for (program, version, protocol, want) in [
        (NFS.0, 3, 6, port),
        (MOUNT.0, 3, 6, port),
        (PORTMAP.0, 2, 6, port),
        (NFS.0, 4, 6, 0),
        (NFS.0, 3, 17, 0),
        (1, 1, 6, 0),
    ] {
        let args = Args::new().u32(program).u32(version).u32(protocol).u32(0);
        assert_eq!(client.call(PORTMAP, 3, args).await.u32(), want, "{program} {version} {protocol}");
    }
    let mut all = client.call(PORTMAP, 4, Args::new()).await;
    let mut count = 0;
    while all.u32() == 1 {
        all.u64();
        assert_eq!((all.u32(), all.u32()), (6, port));
        count += 1;
    }
    assert_eq!(count, 3);
    server.shutdown().await;
}

/// The story: the reply to a REMOVE was lost with its connection. Sent again it must not say NOENT of its own work, nor
/// a repeated CREATE say EXIST.
#[tokio::test]
async fn a_repeated_call_gets_the_same_reply_on_any_connection() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let place = Args::new().opaque(&root).opaque(b"a");
    for (xid, procedure, args, later) in
        [(70, 8, place.clone().u32(1).sattr(None, None), EXIST), (71, 12, place.clone(), NOENT)]
    {
        let record = client.encode(xid, NFS, procedure, &args.0);
        client.send_record(&record).await;
        let first = client.receive().await.unwrap();
        assert_eq!(first[24..28], [0; 4], "NFS3_OK");
        client.send_record(&record).await;
        assert_eq!(client.receive().await.unwrap(), first);
        let mut other = Client::connect(server.local_addr()).await;
        other.send_record(&record).await;
        assert_eq!(other.receive().await.unwrap(), first);
        assert_eq!(other.nfs(procedure, args).await.0, later, "with another xid it is another call");
    }
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

/// A client that breaks its connection sends its REMOVE again on the next one, and others have written meanwhile.
#[tokio::test]
async fn writes_push_no_other_reply_out() {
    let (_fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"written", 0o644).await;
    client.create(&root, b"a", 0o644).await;
    let record = client.encode(1_000_000, NFS, 12, &Args::new().opaque(&root).opaque(b"a").0);
    client.send_record(&record).await;
    assert_eq!(client.results(1_000_000).await.u32(), OK);
    for _ in 0..=REPLY_COUNT_MAX {
        assert_eq!(client.write(&file, 0, 0, b"x").await.0, OK);
    }
    client.send_record(&record).await;
    assert_eq!(client.results(1_000_000).await.u32(), OK, "not NOENT of its own work");
    server.shutdown().await;
}

/// A call still in progress is not begun again: a repetition on its connection is dropped, one on another connection is
/// answered with the reply of the first, and whoever is not waited for does not hold anybody up.
#[tokio::test]
async fn a_call_in_progress_is_made_once() {
    let gate = Gate::shut();
    let server = serve(gate.clone(), options()).unwrap();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    client.create(&root, b"a", 0o644).await;
    let record = client.encode(70, NFS, 12, &Args::new().opaque(&root).opaque(b"a").0);
    client.send_record(&record).await;
    client.send_record(&record).await;
    let mut other = Client::connect(server.local_addr()).await;
    other.send_record(&record).await;
    // Calls behind them are answered: the repetitions have been looked at.
    client.send_call(71, NFS, 0, Args::new()).await;
    client.results(71).await;
    other.send_call(71, NFS, 0, Args::new()).await;
    other.results(71).await;
    gate.let_through();
    assert_eq!(client.results(70).await.u32(), OK);
    assert_eq!(other.results(70).await.u32(), OK);
    assert_eq!(gate.arrived.load(Ordering::SeqCst), 1);
    client.send_call(72, NFS, 0, Args::new()).await;
    client.results(72).await;
    assert_eq!(gate.fs.lease_count(), 0);
    server.shutdown().await;
}

#[tokio::test]
async fn calls_overtake_one_that_waits() {
    let gate = Gate::shut();
    let server = serve(gate.clone(), options()).unwrap();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"a", 0o644).await;
    client.send_call(70, NFS, 6, Args::new().opaque(&file).u64(0).u32(10)).await;
    assert_eq!(client.getattr(&file).await.unwrap().size, 0);
    gate.let_through();
    assert_eq!(client.results(70).await.u32(), OK);
    assert_eq!(gate.fs.lease_count(), 0);
    server.shutdown().await;
}

#[tokio::test]
async fn a_failed_sync_is_an_error_and_changes_the_verifier() {
    let gate = Gate::open();
    let server = serve(gate.clone(), options()).unwrap();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"a", 0o644).await;
    let unstable = async |client: &mut Client| {
        let (status, mut reply) = client.write(&file, 0, 0, b"x").await;
        assert_eq!(status, OK);
        reply.wcc();
        (reply.u64(), reply.u64()).1
    };
    let before = unstable(&mut client).await;
    assert_eq!(unstable(&mut client).await, before);
    gate.fails_sync.store(true, Ordering::SeqCst);
    let (status, mut reply) = client.nfs(21, Args::new().opaque(&file).u64(0).u32(0)).await;
    assert_eq!((status, reply.wcc(), reply.at_end()), (IO, (false, true), true));
    let (status, mut reply) = client.write(&file, 0, 2, b"x").await;
    assert_eq!((status, reply.wcc(), reply.at_end()), (IO, (true, true), true));
    let (status, _) = client.nfs(9, Args::new().opaque(&root).opaque(b"d").sattr(None, None)).await;
    assert_eq!(status, IO, "a name that is not durable was not made");
    gate.fails_sync.store(false, Ordering::SeqCst);
    assert_ne!(unstable(&mut client).await, before, "what was not committed is sent again");
    assert_eq!(gate.fs.lease_count(), 0);
    server.shutdown().await;
}

/// The host tells a failed write-back once, to whichever sync comes first: also to that of a SETATTR. A COMMIT after it
/// succeeds, and what it "committed" is lost, unless its verifier says otherwise.
#[tokio::test]
async fn a_failed_sync_of_attributes_changes_the_verifier_too() {
    let gate = Gate::open();
    let server = serve(gate.clone(), options()).unwrap();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"a", 0o644).await;
    let (status, reply) = client.write(&file, 0, 0, b"x").await;
    assert_eq!(status, OK);
    gate.fails_sync.store(true, Ordering::SeqCst);
    let (status, _) = client.nfs(2, Args::new().opaque(&file).sattr(Some(0o600), None).u32(0)).await;
    assert_eq!(status, IO);
    gate.fails_sync.store(false, Ordering::SeqCst);
    let (status, committed) = client.nfs(21, Args::new().opaque(&file).u64(0).u32(0)).await;
    assert_eq!(status, OK);
    assert_ne!(verifier_at_the_end(&committed), verifier_at_the_end(&reply), "the write is sent again");
    server.shutdown().await;
}

/// WRITE and COMMIT end with the verifier.
fn verifier_at_the_end(reply: &Reply) -> Vec<u8> {
    reply.bytes.last_chunk::<8>().unwrap().to_vec()
}

/// The same with calls that overlap: what was written before a sync failed, and answered after it, is sent again.
#[tokio::test]
async fn no_call_that_overlaps_a_failed_sync_claims_that_its_data_is_safe() {
    // How stable the write is to be, and the call that is under way while another one's sync fails.
    for (stable, holds_write) in [(0, true), (2, true), (2, false), (0, false)] {
        let gate = Gate::shut();
        let server = serve(gate.clone(), options()).unwrap();
        let mut client = Client::connect(server.local_addr()).await;
        let mut other = Client::connect(server.local_addr()).await;
        let root = client.root().await;
        let file = client.create(&root, b"a", 0o644).await;
        // Of another node: syncs of one wait for each other.
        let failing = client.create(&root, b"b", 0o644).await;
        let write = Args::new().opaque(&file).u64(0).u32(1).u32(stable).opaque(b"x");
        let commit = || Args::new().opaque(&file).u64(0).u32(0);
        gate.holds_write.store(holds_write, Ordering::SeqCst);
        gate.holds_sync.store(!holds_write, Ordering::SeqCst);
        client.send_call(70, NFS, 7, write).await;
        let mut written = None;
        if stable == 0 && !holds_write {
            written = Some(client.results(70).await);
            client.send_call(71, NFS, 21, commit()).await;
        }
        until("the call is held", || gate.arrived.load(Ordering::SeqCst) == 1).await;
        gate.fails_sync.store(true, Ordering::SeqCst);
        assert_eq!(other.nfs(21, Args::new().opaque(&failing).u64(0).u32(0)).await.0, IO);
        gate.fails_sync.store(false, Ordering::SeqCst);
        gate.let_through();
        if stable == 2 {
            assert_eq!(client.results(70).await.u32(), JUKEBOX, "held in its write: {holds_write}");
        } else {
            let (mut written, mut committed) = match written {
                Some(written) => (written, client.results(71).await),
                None => (client.results(70).await, other.call(NFS, 21, commit()).await),
            };
            assert_eq!((written.u32(), committed.u32()), (OK, OK));
            assert_ne!(verifier_at_the_end(&written), verifier_at_the_end(&committed), "{holds_write}");
        }
        assert_eq!(gate.fs.lease_count(), 0);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn names_are_synced_before_the_reply_if_the_server_says_so() {
    for (promised, except) in [(true, Vec::new()), (false, Vec::new()), (true, vec![Fsid(0)])] {
        let sync_names = promised && except.is_empty();
        let (fs, server) = model_with(Options { sync_names: promised, sync_names_except: except, ..options() });
        let mut client = Client::connect(server.local_addr()).await;
        let root = client.root().await;
        let at = |name: &[u8]| Args::new().opaque(&root).opaque(name);
        let file = client.create(&root, b"a", 0o644).await;
        let mut synced = fs.sync_count();
        assert_eq!(synced > 0, sync_names);
        for (procedure, args) in [
            (2, Args::new().opaque(&file).sattr(Some(0o600), None).u32(0)),
            (9, at(b"d").sattr(None, None)),
            (10, at(b"s").sattr(None, None).opaque(b"to")),
            (11, at(b"f").u32(7).sattr(None, None)),
            (14, at(b"f").opaque(&root).opaque(b"g")),
            (15, Args::new().opaque(&file).opaque(&root).opaque(b"l")),
            (12, at(b"l")),
            (13, at(b"d")),
        ] {
            assert_eq!(client.nfs(procedure, args).await.0, OK, "procedure {procedure}");
            assert_eq!(fs.sync_count() > synced, sync_names, "procedure {procedure}");
            synced = fs.sync_count();
        }
        server.shutdown().await;
    }
}

/// An outage is "try again" until it has lasted, then an error; the clock is the test's.
#[tokio::test]
async fn unavailable_is_jukebox_for_a_while() {
    let (gate, clock) = (Gate::open(), Clock::default());
    let server = serve(gate.clone(), Options { env: clock.env(0), ..options() }).unwrap();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"a", 0o644).await;
    gate.is_away.store(true, Ordering::SeqCst);
    for (pass, want) in [(0, JUKEBOX), (10, JUKEBOX), (19, JUKEBOX), (1, IO), (10, IO)] {
        clock.advance(Duration::from_secs(pass));
        let (status, mut reply) = client.nfs(6, Args::new().opaque(&file).u64(0).u32(9)).await;
        assert_eq!((status, reply.post_op().is_some(), reply.at_end()), (want, true, true));
    }
    gate.is_away.store(false, Ordering::SeqCst);
    assert_eq!(client.read(&file, 0, 9).await, Ok((vec![], true)));
    gate.is_away.store(true, Ordering::SeqCst);
    assert_eq!(client.read(&file, 0, 9).await, Err(JUKEBOX), "another outage begins");
    assert_eq!(gate.fs.lease_count(), 0);
    server.shutdown().await;
}

/// The story: a client that is told to try again does so with the same xid, and must not be told the same for two
/// minutes out of the reply cache.
#[tokio::test]
async fn try_again_is_not_kept() {
    let gate = Gate::open();
    let server = serve(gate.clone(), options()).unwrap();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let record = client.encode(70, NFS, 9, &Args::new().opaque(&root).opaque(b"d").sattr(None, None).0);
    gate.fs.fail(Some(muxfs::ErrorKind::Unavailable));
    client.send_record(&record).await;
    assert_eq!(client.results(70).await.u32(), JUKEBOX);
    gate.fs.fail(None);
    client.send_record(&record).await;
    assert_eq!(client.results(70).await.u32(), OK);
    server.shutdown().await;
}

#[tokio::test]
async fn a_panic_is_one_callers_system_error() {
    let gate = Gate::open();
    gate.panics.store(true, Ordering::SeqCst);
    let server = serve(gate.clone(), options()).unwrap();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let record = client.encode(9, NFS, 5, &Args::new().opaque(&root).0);
    assert_eq!(answer(&mut client, &record).await, [1, 0, 0, 0, 5], "SYSTEM_ERR");
    assert!(client.getattr(&root).await.is_ok());
    assert_eq!(gate.fs.lease_count(), 0);
    server.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_in_flight_and_closes() {
    let gate = Gate::shut();
    let server = serve(gate.clone(), options()).unwrap();
    let addr = server.local_addr();
    let (mut client, mut idle) = (Client::connect(addr).await, Client::connect(addr).await);
    let root = client.root().await;
    let file = client.create(&root, b"a", 0o644).await;
    client.send_call(70, NFS, 6, Args::new().opaque(&file).u64(0).u32(9)).await;
    until("the call arrives", || gate.arrived.load(Ordering::SeqCst) == 1).await;
    let shutdown = tokio::spawn(server.shutdown());
    assert_eq!(idle.receive().await, None, "who waits for nothing is closed at once");
    assert!(!shutdown.is_finished());
    gate.let_through();
    assert_eq!(client.results(70).await.u32(), OK);
    assert_eq!(client.receive().await, None);
    shutdown.await.unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err(), "nobody listens");
    assert_eq!(gate.fs.lease_count(), 0);
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let gate = Gate::shut();
    let server = serve(gate.clone(), Options { shutdown_grace: Duration::ZERO, ..options() }).unwrap();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"a", 0o644).await;
    client.send_call(70, NFS, 6, Args::new().opaque(&file).u64(0).u32(9)).await;
    until("the call arrives", || gate.arrived.load(Ordering::SeqCst) == 1).await;
    server.shutdown().await;
    assert_eq!(client.receive().await, None);
    assert_eq!(gate.fs.lease_count(), 0, "a call that was dropped gives its leases back");
}
