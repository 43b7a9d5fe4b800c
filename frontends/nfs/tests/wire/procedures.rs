//! Each procedure byte by byte: what it does, and what its error bodies look like.
//!
//! Method: a client that builds and reads XDR itself, against the model file system. After each test no lease is out.

use crate::raw::{
    ACCES, Args, BADHANDLE, BADTYPE, Client, EXIST, FBIG, INVAL, ISDIR, NAMETOOLONG, NOENT, NOT_SYNC, NOTDIR, NOTEMPTY,
    OK, STALE, model, options,
};

#[tokio::test]
async fn a_file_is_made_written_read_and_removed() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"a", 0o640).await;
    let (status, mut reply) = client.write(&file, 0, 0, b"hello").await;
    assert_eq!(status, OK);
    assert_eq!(reply.wcc(), (true, true));
    assert_eq!((reply.u32(), reply.u32()), (5, 0), "five bytes, UNSTABLE");
    let verifier = reply.u64();
    assert!(reply.at_end());
    let (status, mut reply) = client.nfs(21, Args::new().opaque(&file).u64(0).u32(0)).await;
    assert_eq!((status, reply.wcc().1, reply.u64()), (OK, true, verifier), "COMMIT has the verifier of WRITE");
    assert_eq!(client.read(&file, 0, 100).await.unwrap(), (b"hello".to_vec(), true));
    assert_eq!(client.read(&file, 1, 3).await.unwrap(), (b"ell".to_vec(), false));
    assert_eq!(client.read(&file, 1, 4).await.unwrap(), (b"ello".to_vec(), true));
    assert_eq!(client.read(&file, 9, 4).await.unwrap(), (b"".to_vec(), true));
    assert_eq!(client.read(&file, u64::MAX, u32::MAX).await.unwrap(), (b"".to_vec(), true));
    let attr = client.getattr(&file).await.unwrap();
    assert_eq!((attr.kind, attr.mode, attr.size, attr.nlink), (1, 0o640, 5, 1));
    let (status, mut reply) = client.nfs(12, Args::new().opaque(&root).opaque(b"a")).await;
    assert_eq!((status, reply.wcc()), (OK, (true, true)));
    assert_eq!(client.getattr(&file).await, Err(STALE));
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

/// Error bodies have a length each: a client that reads on past a short one takes the next reply for its rest.
#[tokio::test]
async fn error_bodies_have_their_length() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let bad = b"\x09\x00no handle of ours";
    let two = |name: &[u8]| Args::new().opaque(bad).opaque(name);
    // Procedure, arguments, and the words of the error body: one for an absent post_op_attr, two for absent wcc_data.
    let table = [
        (1, Args::new().opaque(bad), 0),
        (2, Args::new().opaque(bad).sattr(None, None).u32(0), 2),
        (3, two(b"x"), 1),
        (4, Args::new().opaque(bad).u32(63), 1),
        (5, Args::new().opaque(bad), 1),
        (6, Args::new().opaque(bad).u64(0).u32(1), 1),
        (7, Args::new().opaque(bad).u64(0).u32(1).u32(0).opaque(b"x"), 2),
        (8, two(b"x").u32(0).sattr(None, None), 2),
        (8, two(b"x").u32(2).u64(1), 2),
        (9, two(b"x").sattr(None, None), 2),
        (10, two(b"x").sattr(None, None).opaque(b"to"), 2),
        (11, two(b"x").u32(7).sattr(None, None), 2),
        (11, two(b"x").u32(1), 2),
        (12, two(b"x"), 2),
        (13, two(b"x"), 2),
        (14, two(b"x").opaque(bad).opaque(b"y"), 4),
        (15, Args::new().opaque(bad).opaque(bad).opaque(b"y"), 3),
        (16, Args::new().opaque(bad).u64(0).u64(0).u32(4096), 1),
        (17, Args::new().opaque(bad).u64(0).u64(0).u32(4096).u32(4096), 1),
        (18, Args::new().opaque(bad), 1),
        (19, Args::new().opaque(bad), 1),
        (20, Args::new().opaque(bad), 1),
        (21, Args::new().opaque(bad).u64(0).u32(0), 2),
    ];
    for (procedure, args, words) in table {
        let (status, reply) = client.nfs(procedure, args).await;
        assert_eq!(status, BADHANDLE, "procedure {procedure}");
        assert_eq!(reply.rest(), vec![0; 4 * words], "procedure {procedure}");
    }
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

/// Where the node is known its attributes come with the error.
#[tokio::test]
async fn errors_carry_the_attributes_that_are_known() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"file", 0o644).await;
    let full = client.mkdir(&root, b"full", 0o755).await;
    client.create(&full, b"entry", 0o644).await;
    let one = |handle: &[u8]| Args::new().opaque(handle);
    let two = |handle: &[u8], name: &[u8]| Args::new().opaque(handle).opaque(name);
    let (status, mut reply) = client.nfs(3, two(&root, b"none")).await;
    assert_eq!((status, reply.post_op().is_some(), reply.at_end()), (NOENT, true, true));
    let (status, mut reply) = client.nfs(5, one(&file)).await;
    assert_eq!((status, reply.post_op().is_some(), reply.at_end()), (INVAL, true, true));
    let (status, mut reply) = client.nfs(6, one(&root).u64(0).u32(1)).await;
    assert_eq!((status, reply.post_op().is_some(), reply.at_end()), (ISDIR, true, true));
    let (status, mut reply) = client.nfs(2, one(&file).sattr(None, None).u32(1).u64(1)).await;
    assert_eq!((status, reply.wcc(), reply.at_end()), (NOT_SYNC, (false, true), true));
    let (status, mut reply) = client.nfs(7, one(&file).u64(i64::MAX as u64).u32(1).u32(0).opaque(b"x")).await;
    assert_eq!((status, reply.wcc(), reply.at_end()), (FBIG, (false, true), true));
    for (procedure, args, want) in [
        (8, two(&root, b"file").u32(1).sattr(None, None), EXIST),
        (9, two(&root, b"file").sattr(None, None), EXIST),
        (10, two(&root, b"file").sattr(None, None).opaque(b"to"), EXIST),
        (10, two(&root, b"new").sattr(None, None).opaque(b""), INVAL),
        (11, two(&root, b"file").u32(7).sattr(None, None), EXIST),
        (11, two(&root, b"new").u32(2), BADTYPE),
        (12, two(&root, b"none"), NOENT),
        (13, two(&root, b"none"), NOENT),
        (13, two(&root, b"file"), NOTDIR),
        (12, two(&root, b"full"), ISDIR),
        (13, two(&root, b"full"), NOTEMPTY),
    ] {
        let (status, mut reply) = client.nfs(procedure, args).await;
        assert_eq!((status, reply.wcc(), reply.at_end()), (want, (false, true), true), "procedure {procedure}");
    }
    let (status, mut reply) = client.nfs(14, two(&root, b"none").opaque(&root).opaque(b"x")).await;
    assert_eq!((status, reply.wcc(), reply.wcc(), reply.at_end()), (NOENT, (false, true), (false, true), true));
    let (status, mut reply) = client.nfs(15, one(&file).opaque(&root).opaque(b"file")).await;
    assert_eq!((status, reply.post_op().is_some(), reply.wcc(), reply.at_end()), (EXIST, true, (false, true), true));
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

#[tokio::test]
async fn names_are_bytes_with_limits() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let dir = client.mkdir(&root, b"dir", 0o755).await;
    assert_eq!(client.lookup(&dir, b".").await, Ok(dir.clone()));
    assert_eq!(client.lookup(&dir, b"..").await, Ok(root.clone()));
    assert_eq!(client.lookup(&root, b"..").await, Ok(root.clone()));
    for (name, lookup, create, remove, rmdir) in [
        (&b""[..], ACCES, ACCES, ACCES, ACCES),
        (b".", OK, EXIST, INVAL, INVAL),
        (b"..", OK, EXIST, INVAL, EXIST),
        (b"a/b", INVAL, INVAL, INVAL, INVAL),
        (b"a\0b", INVAL, INVAL, INVAL, INVAL),
        (&[b'n'; 256], NAMETOOLONG, NAMETOOLONG, NAMETOOLONG, NAMETOOLONG),
        (&[b'n'; 16_384], NAMETOOLONG, NAMETOOLONG, NAMETOOLONG, NAMETOOLONG),
        (&[b'n'; 255], NOENT, OK, OK, NOENT),
        (b"\xff\xfe not text", NOENT, OK, OK, NOENT),
    ] {
        let args = || Args::new().opaque(&dir).opaque(name);
        let shown = name.escape_ascii();
        assert_eq!(client.nfs(3, args()).await.0, lookup, "LOOKUP {shown}");
        assert_eq!(client.nfs(8, args().u32(1).sattr(None, None)).await.0, create, "CREATE {shown}");
        assert_eq!(client.nfs(12, args()).await.0, remove, "REMOVE {shown}");
        assert_eq!(client.nfs(13, args()).await.0, rmdir, "RMDIR {shown}");
    }
    let to_dot = Args::new().opaque(&root).opaque(b"dir").opaque(&root).opaque(b".");
    assert_eq!(client.nfs(14, to_dot).await.0, INVAL);
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

#[tokio::test]
async fn unchecked_create_takes_what_is_there_and_truncates() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"a", 0o644).await;
    client.write(&file, 0, 2, b"hello").await;
    let unchecked = |name: &[u8], size| Args::new().opaque(&root).opaque(name).u32(0).sattr(Some(0o600), size);
    for (size, want) in [(None, 5), (Some(0), 0)] {
        let (status, mut reply) = client.nfs(8, unchecked(b"a", size)).await;
        assert_eq!((status, reply.u32(), reply.opaque()), (OK, 1, file.clone()));
        let attr = reply.post_op().unwrap();
        assert_eq!((attr.size, attr.mode), (want, 0o644), "the mode of a file that is there stays");
    }
    client.mkdir(&root, b"dir", 0o755).await;
    assert_eq!(client.nfs(8, unchecked(b"dir", None)).await.0, EXIST);
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

/// The story: the reply to an exclusive create was lost and the server restarted, with it the reply cache. The client
/// sends the call again and must find that the file is its own; anybody else's verifier meets EXIST.
#[tokio::test]
async fn an_exclusive_create_repeated_after_a_restart_knows_its_file() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let exclusive = |verifier: u64| Args::new().opaque(&root).opaque(b"a").u32(2).u64(verifier);
    let (status, mut reply) = client.nfs(8, exclusive(0xfedc_ba98_8765_4321)).await;
    assert_eq!((status, reply.u32()), (OK, 1));
    let file = reply.opaque();
    server.shutdown().await;

    let server = muxfs_nfs::serve(fs.clone(), options()).unwrap();
    let mut client = Client::connect(server.local_addr()).await;
    let (status, mut reply) = client.nfs(8, exclusive(0xfedc_ba98_8765_4321)).await;
    assert_eq!((status, reply.u32(), reply.opaque()), (OK, 1, file.clone()));
    assert_eq!(client.nfs(8, exclusive(7)).await.0, EXIST);
    // The client sets real times, and the file is an ordinary one.
    let times = Args::new().opaque(&file).u32(1).u32(0o644).u32(0).u32(0).u32(0).u32(1).u32(1).u32(0);
    assert_eq!(client.nfs(2, times).await.0, OK);
    assert_eq!(client.nfs(8, exclusive(0xfedc_ba98_8765_4321)).await.0, EXIST);
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

#[tokio::test]
async fn a_guard_lets_one_of_two_changes_through() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"a", 0o644).await;
    let ctime = client.getattr(&file).await.unwrap().ctime;
    let chmod = |mode| Args::new().opaque(&file).sattr(Some(mode), None).u32(1).u64(ctime);
    assert_eq!(client.nfs(2, chmod(0o600)).await.0, OK);
    assert_eq!(client.nfs(2, chmod(0o666)).await.0, NOT_SYNC);
    assert_eq!(client.getattr(&file).await.unwrap().mode, 0o600, "what is refused is not done");
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

#[tokio::test]
async fn the_write_verifier_changes_with_each_start() {
    let fs = muxfs::testing::model::ModelFs::new(muxfs::testing::env());
    let mut verifiers = Vec::new();
    for _ in 0..3 {
        let server = muxfs_nfs::serve(fs.clone(), options()).unwrap();
        let mut client = Client::connect(server.local_addr()).await;
        let root = client.root().await;
        let made = Args::new().opaque(&root).opaque(b"a").u32(0).sattr(None, None);
        client.nfs(8, made).await;
        let file = client.lookup(&root, b"a").await.unwrap();
        for stable in [0, 1, 2] {
            let (status, mut reply) = client.write(&file, 0, stable, b"x").await;
            reply.wcc();
            assert_eq!((status, reply.u32(), reply.u32()), (OK, 1, if stable == 0 { 0 } else { 2 }));
            let verifier = reply.u64();
            if verifiers.last() != Some(&verifier) {
                verifiers.push(verifier);
            }
        }
        server.shutdown().await;
    }
    verifiers.sort_unstable();
    verifiers.dedup();
    assert_eq!(verifiers.len(), 3);
}

#[tokio::test]
async fn every_kind_of_node_can_be_made() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let at = |name: &[u8]| Args::new().opaque(&root).opaque(name);
    for (name, args, kind) in [
        (&b"chr"[..], at(b"chr").u32(4).sattr(None, None).u32(1).u32(3), 4),
        (b"blk", at(b"blk").u32(3).sattr(None, None).u32(8).u32(1), 3),
        (b"sock", at(b"sock").u32(6).sattr(None, None), 6),
        (b"fifo", at(b"fifo").u32(7).sattr(None, None), 7),
    ] {
        let (status, mut reply) = client.nfs(11, args).await;
        assert_eq!((status, reply.u32()), (OK, 1), "{name:?}");
        let handle = reply.opaque();
        assert_eq!(reply.post_op().unwrap().kind, kind);
        assert_eq!(reply.wcc(), (true, true));
        assert_eq!(client.getattr(&handle).await.unwrap().kind, kind);
    }
    let (status, mut reply) = client.nfs(10, at(b"link").sattr(None, None).opaque(b"../some/where")).await;
    assert_eq!((status, reply.u32()), (OK, 1));
    let link = reply.opaque();
    let (status, mut reply) = client.nfs(5, Args::new().opaque(&link)).await;
    assert_eq!((status, reply.post_op().unwrap().kind, reply.opaque()), (OK, 5, b"../some/where".to_vec()));
    let fifo = client.lookup(&root, b"fifo").await.unwrap();
    let (status, mut reply) = client.nfs(15, Args::new().opaque(&fifo).opaque(&root).opaque(b"second")).await;
    assert_eq!((status, reply.post_op().unwrap().nlink, reply.wcc()), (OK, 2, (true, true)));
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

#[tokio::test]
async fn the_file_system_describes_itself() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let (status, mut reply) = client.nfs(18, Args::new().opaque(&root)).await;
    assert_eq!((status, reply.post_op().is_some()), (OK, true));
    let numbers: Vec<u64> = (0..6).map(|_| reply.u64()).collect();
    assert!(numbers[0] >= numbers[1] && numbers[1] > 0 && numbers[3] >= numbers[4], "{numbers:?}");
    assert_eq!((reply.u32(), reply.at_end()), (0, true));
    let (status, mut reply) = client.nfs(19, Args::new().opaque(&root)).await;
    assert_eq!((status, reply.post_op().is_some()), (OK, true));
    let sizes: Vec<u32> = (0..7).map(|_| reply.u32()).collect();
    assert_eq!([sizes[0], sizes[3]], [1 << 20; 2], "rtmax, wtmax");
    assert_eq!((reply.u64(), reply.u64(), reply.u32()), (i64::MAX as u64, 1, 0x1b));
    let (status, mut reply) = client.nfs(20, Args::new().opaque(&root)).await;
    assert_eq!((status, reply.post_op().is_some()), (OK, true));
    assert_eq!((reply.u32(), reply.u32()), (65_000, 255));
    assert_eq!([reply.u32(), reply.u32(), reply.u32(), reply.u32()], [1, 1, 0, 1]);
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}
