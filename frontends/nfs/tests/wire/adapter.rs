//! The adapter for `nfsserve`, through that crate's own server, which answers what its dispatcher can.

use muxfs::{testing, testing::model::ModelFs};
use muxfs_nfs::nfsserve_adapter::NfsserveAdapter;
use nfsserve::{
    nfs::{nfsstat3, sattr3},
    tcp::{NFSTcp, NFSTcpListener},
    vfs::NFSFileSystem,
};

use crate::raw::{Args, Client, NOENT, NOTEMPTY, OK};

#[tokio::test]
async fn files_go_through_nfsserve() {
    let fs = ModelFs::new(testing::env());
    let listener = NFSTcpListener::bind("127.0.0.1:0", NfsserveAdapter::new(fs.clone())).await.unwrap();
    let addr = ([127, 0, 0, 1], listener.get_listen_port()).into();
    let serving = tokio::spawn(async move { listener.handle_forever().await });
    let mut client = Client::connect(addr).await;
    let root = client.root().await;
    let dir = client.mkdir(&root, b"dir", 0o755).await;
    let file = client.create(&dir, b"a", 0o640).await;
    let synced = fs.sync_count();
    assert_eq!(client.write(&file, 0, 0, b"hello").await.0, OK);
    assert!(fs.sync_count() > synced, "nfsserve says FILE_SYNC, so it is");
    assert_eq!(client.read(&file, 1, 100).await, Ok((b"ello".to_vec(), true)));
    assert_eq!(client.lookup(&dir, b"a").await, Ok(file.clone()));
    assert_eq!(client.lookup(&dir, b"b").await, Err(NOENT));
    assert_eq!(client.nfs(13, Args::new().opaque(&root).opaque(b"dir")).await.0, NOTEMPTY);
    assert_eq!(client.nfs(14, Args::new().opaque(&dir).opaque(b"a").opaque(&root).opaque(b"b")).await.0, OK);
    assert_eq!(client.getattr(&file).await.unwrap().size, 5);
    assert_eq!(client.nfs(12, Args::new().opaque(&root).opaque(b"b")).await.0, OK);
    assert_eq!(client.nfs(13, Args::new().opaque(&root).opaque(b"dir")).await.0, OK);
    serving.abort();
}

#[tokio::test]
async fn listings_continue_and_every_lease_comes_back() {
    let fs = ModelFs::new(testing::env());
    let adapter = NfsserveAdapter::new(fs.clone());
    let root = adapter.root_dir();
    for index in 0..50 {
        adapter.create(root, &format!("{index}").into_bytes().as_slice().into(), sattr3::default()).await.unwrap();
    }
    let (mut names, mut after) = (Vec::new(), 0);
    loop {
        let page = adapter.readdir(root, after, 7).await.unwrap();
        assert!(page.entries.len() <= 7);
        after = page.entries.last().map_or(after, |entry| entry.fileid);
        names.extend(page.entries.into_iter().map(|entry| entry.name.0));
        if page.end {
            break;
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 50);
    // Another adapter remembers no place, and finds it.
    let other = NfsserveAdapter::new(fs.clone());
    assert!(!other.readdir(root, after - 1, 7).await.unwrap().entries.is_empty());
    assert!(matches!(other.readdir(root, u64::MAX, 7).await, Err(nfsstat3::NFS3ERR_BAD_COOKIE)));
    assert!(matches!(other.getattr(0).await, Err(nfsstat3::NFS3ERR_BADHANDLE)));
    assert!(matches!(other.getattr(u64::MAX).await, Err(nfsstat3::NFS3ERR_STALE)));
    drop((adapter, other));
    assert_eq!(fs.lease_count(), 0);
}
