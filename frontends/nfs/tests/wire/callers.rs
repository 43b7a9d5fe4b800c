//! Who may call, and as whom: credentials, squashing, permission bits, networks, ports, read-only.

use std::net::{Ipv4Addr, SocketAddr};

use muxfs_nfs::{Options, Squash};

use crate::raw::{ACCES, Args, Client, INVAL, NFS, OK, PERM, ROFS, model, model_with, nobody, options, unix};

const READ: u32 = 1;
const ALL: u32 = 0x3f;

async fn access(client: &mut Client, node: &[u8]) -> u32 {
    let (status, mut reply) = client.nfs(4, Args::new().opaque(node).u32(ALL)).await;
    assert_eq!((status, reply.post_op().is_some()), (OK, true));
    reply.u32()
}

#[tokio::test]
async fn permission_bits_bind_everybody_but_root() {
    let (fs, server) = model();
    let addr = server.local_addr();
    let mut root_user = Client::connect(addr).await;
    let root = root_user.root().await;
    let dir = root_user.mkdir(&root, b"dir", 0o777).await;
    let mut alice = Client::connect(addr).await.with(unix(10, 20, &[]));
    let mut group = Client::connect(addr).await.with(unix(11, 99, &[5, 20]));
    let mut other = Client::connect(addr).await.with(unix(12, 99, &[]));
    let mut anon = Client::connect(addr).await.with(nobody());
    let file = alice.create(&dir, b"file", 0o640).await;
    let attr = alice.getattr(&file).await.unwrap();
    assert_eq!((attr.uid, attr.gid), (10, 20), "what a caller makes is theirs");
    assert_eq!(alice.write(&file, 0, 2, b"mine").await.0, OK);
    assert_eq!(group.read(&file, 0, 9).await.unwrap().0, b"mine");
    assert_eq!(group.write(&file, 0, 2, b"x").await.0, ACCES);
    assert_eq!(other.read(&file, 0, 9).await, Err(ACCES));
    assert_eq!(anon.read(&file, 0, 9).await, Err(ACCES));
    assert_eq!(access(&mut alice, &file).await, READ | 4 | 8);
    assert_eq!(access(&mut group, &file).await, READ);
    assert_eq!(access(&mut anon, &file).await, 0);
    assert_eq!(access(&mut root_user, &dir).await, READ | 2 | 4 | 8 | 16);
    let chmod = |mode| Args::new().opaque(&file).sattr(Some(mode), None).u32(0);
    assert_eq!(other.nfs(2, chmod(0o777)).await.0, PERM);
    // There is no open in NFS: the owner goes on with a file that was made read-only after it was opened.
    assert_eq!(alice.nfs(2, chmod(0o000)).await.0, OK);
    assert_eq!(alice.write(&file, 0, 2, b"MINE").await.0, OK);
    assert_eq!(alice.read(&file, 0, 9).await.unwrap().0, b"MINE");
    assert_eq!(group.read(&file, 0, 9).await, Err(ACCES));
    assert_eq!(root_user.read(&file, 0, 9).await.unwrap().0, b"MINE");
    // Whoever may execute a file may read it: how else could it be executed?
    assert_eq!(alice.nfs(2, chmod(0o711)).await.0, OK);
    assert_eq!(other.read(&file, 0, 9).await.unwrap().0, b"MINE");
    assert_eq!(other.write(&file, 0, 2, b"x").await.0, ACCES);
    // The callers of one connection are kept apart.
    let mut shared = alice.with(unix(12, 99, &[]));
    assert_eq!(shared.write(&file, 0, 2, b"x").await.0, ACCES);
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

#[tokio::test]
async fn owners_are_bound_too_where_the_server_says_so() {
    let (fs, server) = model_with(Options { owner_override: false, squash: Some(Squash::None), ..options() });
    let mut root_user = Client::connect(server.local_addr()).await;
    let root = root_user.root().await;
    let dir = root_user.mkdir(&root, b"dir", 0o777).await;
    let mut alice = root_user.with(unix(10, 20, &[]));
    let file = alice.create(&dir, b"file", 0o400).await;
    assert_eq!(alice.write(&file, 0, 2, b"x").await.0, ACCES);
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

/// Whose a new directory is tells whom the server took the caller for.
#[tokio::test]
async fn squashing_makes_callers_anonymous() {
    for (squash, uid, want) in [
        (None, 0, 0),
        (Some(Squash::None), 0, 0),
        (Some(Squash::Root), 0, 4000),
        (Some(Squash::Root), 10, 10),
        (Some(Squash::All), 10, 4000),
    ] {
        let (fs, server) = model_with(Options { squash, anon_uid: 4000, anon_gid: 4001, ..options() });
        open_root(&*fs).await;
        let mut client = Client::connect(server.local_addr()).await.with(unix(uid, 77, &[]));
        let root = client.root().await;
        let made = client.mkdir(&root, b"d", 0o755).await;
        let attr = client.getattr(&made).await.unwrap();
        assert_eq!(attr.uid, want, "{squash:?} {uid}");
        assert_eq!(attr.gid, if squash == Some(Squash::All) { 4001 } else { 77 });
        let mut client = client.with(nobody());
        let made = client.mkdir(&root, b"e", 0o755).await;
        assert_eq!(client.getattr(&made).await.unwrap().uid, 4000, "AUTH_NONE is anonymous by any rule");
        server.shutdown().await;
    }
}

async fn open_root(fs: &dyn muxfs::vfs::Vfs) {
    let open = muxfs::vfs::SetAttr { mode: Some(0o777), ..Default::default() };
    fs.setattr(fs.root(), open).await.unwrap();
}

#[tokio::test]
async fn a_read_only_server_changes_nothing() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"a", 0o644).await;
    client.write(&file, 0, 2, b"kept").await;
    server.shutdown().await;

    let server = muxfs_nfs::serve(fs.clone(), Options { read_only: true, ..options() }).unwrap();
    let mut client = Client::connect(server.local_addr()).await;
    let at = |name: &[u8]| Args::new().opaque(&root).opaque(name);
    for (procedure, args) in [
        (2, Args::new().opaque(&file).sattr(Some(0o600), None).u32(0)),
        (7, Args::new().opaque(&file).u64(0).u32(1).u32(0).opaque(b"x")),
        (8, at(b"n").u32(0).sattr(None, None)),
        (8, at(b"a").u32(0).sattr(None, Some(0))),
        (8, at(b"n").u32(1).sattr(None, None)),
        (8, at(b"n").u32(2).u64(1)),
        (9, at(b"n").sattr(None, None)),
        (10, at(b"n").sattr(None, None).opaque(b"to")),
        (11, at(b"n").u32(7).sattr(None, None)),
        (12, at(b"a")),
        (13, at(b"a")),
        (14, at(b"a").opaque(&root).opaque(b"b")),
        (15, Args::new().opaque(&file).opaque(&root).opaque(b"b")),
    ] {
        assert_eq!(client.nfs(procedure, args).await.0, ROFS, "procedure {procedure}");
    }
    assert_eq!(access(&mut client, &file).await, READ);
    assert_eq!(client.read(&file, 0, 9).await.unwrap().0, b"kept");
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

#[tokio::test]
async fn only_allowed_networks_are_served() {
    let (_fs, server) = model_with(Options { allow: vec!["192.0.2.0/24".parse().unwrap()], ..options() });
    let mut client = Client::connect(server.local_addr()).await;
    assert_eq!(client.receive().await, None);
    server.shutdown().await;
}

#[tokio::test]
async fn unprivileged_ports_are_refused_where_the_server_says_so() {
    let (_fs, server) = model_with(Options { privileged_port: true, ..options() });
    let mut client = Client::connect(server.local_addr()).await;
    client.send_call(70, NFS, 0, Args::new()).await;
    client.results(70).await;
    for (program, procedure) in [(NFS, 1), (crate::raw::MOUNT, 1)] {
        client.send_call(71, program, procedure, Args::new().opaque(b"/")).await;
        let reply = client.receive().await.unwrap();
        assert_eq!(reply[4..], [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 5], "AUTH_TOOWEAK");
    }
    // From a port below 1024 it is answered; taking one needs a right that a test may not have.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    let bound = (600..1000).any(|port| socket.bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).is_ok());
    if bound {
        client.stream = socket.connect(server.local_addr()).await.unwrap();
        assert!(client.mount(b"/").await.is_ok());
    } else {
        muxfs::testing::skip("no port below 1024 can be bound here");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn devices_and_owners_are_for_root() {
    let (fs, server) = model();
    open_root(&*fs).await;
    let mut alice = Client::connect(server.local_addr()).await.with(unix(10, 20, &[]));
    let root = alice.root().await;
    let device = Args::new().opaque(&root).opaque(b"null").u32(4).sattr(None, None).u32(1).u32(3);
    assert_eq!(alice.nfs(11, device).await.0, PERM);
    let file = alice.create(&root, b"a", 0o644).await;
    let give_away = Args::new().opaque(&file).u32(0).u32(1).u32(11).u32(0).u32(0).u32(0).u32(0).u32(0);
    assert_eq!(alice.nfs(2, give_away).await.0, PERM);
    let (status, _) = alice.nfs(2, Args::new().opaque(&file).sattr(None, Some(u64::MAX)).u32(0)).await;
    assert!(status == crate::raw::FBIG || status == INVAL, "{status}");
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}
