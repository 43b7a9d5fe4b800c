//! READDIR and READDIRPLUS: sizes to the byte, cookies that outlive changes, pages that never stop a client.

use std::collections::BTreeSet;

use crate::raw::{Args, BAD_COOKIE, Client, NOTDIR, OK, TOOSMALL, model, options, unix};

/// What one page holds.
struct Page {
    names: Vec<Vec<u8>>,
    cookies: Vec<u64>,
    full: usize,
    eof: bool,
    /// The length of the result behind its status.
    len: usize,
    dir_len: usize,
}

async fn page(client: &mut Client, plus: bool, dir: &[u8], cookie: u64, count: u32) -> Result<Page, u32> {
    let args = Args::new().opaque(dir).u64(cookie).u64(0).u32(count);
    let (status, mut reply) = if plus { client.nfs(17, args.u32(count)).await } else { client.nfs(16, args).await };
    let len = reply.rest().len();
    assert_eq!(reply.post_op().map(|attr| attr.kind), Some(2), "a directory");
    if status != OK {
        assert!(reply.at_end());
        return Err(status);
    }
    assert_eq!(reply.u64(), 0, "the cookie verifier");
    let mut page = Page { names: vec![], cookies: vec![], full: 0, eof: false, len, dir_len: 0 };
    while reply.u32() == 1 {
        let before = reply.rest().len();
        let fileid = reply.u64();
        page.names.push(reply.opaque());
        page.cookies.push(reply.u64());
        page.dir_len += 4 + before - reply.rest().len();
        if plus {
            let attr = reply.post_op();
            let handle = (reply.u32() == 1).then(|| reply.opaque());
            assert_eq!(attr.is_some(), handle.is_some());
            assert!(attr.is_none_or(|attr| attr.fileid == fileid));
            page.full += usize::from(attr.is_some());
        }
    }
    page.eof = reply.u32() == 1;
    assert!(reply.at_end());
    assert!(page.eof || !page.names.is_empty(), "an empty page that is not the end stops a client for ever");
    Ok(page)
}

pub(crate) async fn all(client: &mut Client, plus: bool, dir: &[u8], count: u32) -> Vec<Vec<u8>> {
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        let page = page(client, plus, dir, cookie, count).await.unwrap();
        assert!(page.len <= count as usize, "{} bytes where {count} were asked for", page.len);
        cookie = page.cookies.last().copied().unwrap_or(cookie);
        names.extend(page.names);
        if page.eof {
            return names;
        }
    }
}

/// Every size of page gives the same listing, each name once, and no page is longer than asked.
#[tokio::test]
async fn pages_of_any_size_give_the_same_listing() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    for index in 0..60 {
        let name = vec![b'a' + u8::try_from(index % 26).unwrap(); 1 + index * 3];
        client.create(&root, &name, 0o644).await;
    }
    for plus in [false, true] {
        let want = all(&mut client, plus, &root, 1 << 20).await;
        assert_eq!((&*want[0], &*want[1], want.len()), (&b"."[..], &b".."[..], 62));
        assert_eq!(want.iter().collect::<BTreeSet<_>>().len(), 62);
        // The longest name takes 180 bytes; an entry alone must fit.
        for count in (320..700).step_by(7).chain([1000, 4096, 8192]) {
            assert_eq!(all(&mut client, plus, &root, count).await, want, "{count}");
        }
    }
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

/// Entries that stay are met exactly once, although others come and go between the pages.
#[tokio::test]
async fn a_listing_survives_changes() {
    for plus in [false, true] {
        let (fs, server) = model();
        let mut client = Client::connect(server.local_addr()).await;
        let root = client.root().await;
        for index in 0..40 {
            client.create(&root, format!("stays {index}").as_bytes(), 0o644).await;
            client.create(&root, format!("goes {index}").as_bytes(), 0o644).await;
        }
        let (mut seen, mut cookie, mut round) = (Vec::new(), 0, 0);
        loop {
            let page = page(&mut client, plus, &root, cookie, 400).await.unwrap();
            seen.extend(page.names);
            if page.eof {
                break;
            }
            cookie = *page.cookies.last().unwrap();
            client.nfs(12, Args::new().opaque(&root).opaque(format!("goes {round}").as_bytes())).await;
            if round < 30 {
                client.create(&root, format!("comes {round}").as_bytes(), 0o644).await;
            }
            round += 1;
        }
        assert!(round > 5);
        for index in 0..40 {
            let name = format!("stays {index}").into_bytes();
            assert_eq!(seen.iter().filter(|seen| **seen == name).count(), 1, "{index}");
        }
        let distinct: BTreeSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "none twice");
        assert_eq!(fs.lease_count(), 0);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn pages_that_cannot_be_are_refused() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let file = client.create(&root, b"file", 0o644).await;
    for plus in [false, true] {
        for count in [0, 1, 104, 127] {
            assert_eq!(page(&mut client, plus, &root, 0, count).await.err(), Some(TOOSMALL), "{count}");
        }
        assert_eq!(page(&mut client, plus, &root, 1 << 63, 4096).await.err(), Some(BAD_COOKIE));
        let empty = client.mkdir(&root, if plus { b"d" } else { b"e" }, 0o755).await;
        let page = page(&mut client, plus, &empty, 2, 4096).await.unwrap();
        assert!(page.names.is_empty() && page.eof);
    }
    let (status, _) = client.nfs(16, Args::new().opaque(&file).u64(0).u64(0).u32(4096)).await;
    assert_eq!(status, NOTDIR);
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

/// The story: an entry whose attributes and handle do not fit in `maxcount` would be TOOSMALL for ever.
#[tokio::test]
async fn an_entry_too_long_with_attributes_comes_without() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    client.create(&root, &[b'n'; 200], 0o644).await;
    // Room for the frame, the name and its cookie, and two absent options.
    let count = 88 + 16 + 24 + 200 + 8;
    let first = page(&mut client, true, &root, 2, count).await.unwrap();
    assert_eq!((first.names.len(), first.full, first.len), (1, 0, count as usize));
    assert_eq!(page(&mut client, true, &root, 2, count - 1).await.err(), Some(TOOSMALL));
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

/// `dircount` bounds names and cookies, but never to nothing.
#[tokio::test]
async fn dircount_bounds_a_page_but_for_its_first_entry() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    for index in 0..20 {
        client.create(&root, format!("{index}").as_bytes(), 0o644).await;
    }
    for (dircount, want) in [(0, 1), (28, 1), (56, 2), (57, 2), (84, 3)] {
        let args = Args::new().opaque(&root).u64(2).u64(0).u32(dircount).u32(1 << 16);
        let (status, mut reply) = client.nfs(17, args).await;
        assert_eq!(status, OK);
        reply.post_op();
        reply.u64();
        let mut count = 0;
        while reply.u32() == 1 {
            assert!(reply.u64() != 0 && !reply.opaque().is_empty() && reply.u64() > 2);
            assert!(reply.post_op().is_some() && reply.u32() == 1 && !reply.opaque().is_empty());
            count += 1;
        }
        assert_eq!((count, reply.u32()), (want, 0), "dircount {dircount}");
    }
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

/// Who may read a directory but not search it gets names alone, and no handle to go on with.
#[tokio::test]
async fn a_directory_that_may_not_be_searched_lists_names_alone() {
    let (fs, server) = model();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let dir = client.mkdir(&root, b"dir", 0o744).await;
    client.create(&dir, b"file", 0o644).await;
    let mut other = client.with(unix(10, 10, &[]));
    let listed = page(&mut other, true, &dir, 2, 4096).await.unwrap();
    assert_eq!((listed.names, listed.full), (vec![b"file".to_vec()], 0));
    assert_eq!(other.lookup(&dir, b"file").await, Err(crate::raw::ACCES));
    assert_eq!(fs.lease_count(), 0);
    server.shutdown().await;
}

/// The story: content does not know what is above it, so after a restart a directory is found by the handle that a
/// client kept but its ".." is not; READDIR answered STALE for it, and the client took its whole mount for gone.
#[tokio::test]
async fn a_directory_of_content_is_listed_after_a_restart() {
    use std::sync::Arc;

    use muxfs::{
        Name,
        block::Mem,
        cas_view::{CasView, CasViewOptions},
        dag::{Dag, DagOptions, Entry, UnixfsMeta},
        media::MemMedia,
        pins::Pins,
    };

    let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
    let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await.unwrap());
    let file = dag.import(&b"x"[..], UnixfsMeta::default()).await.unwrap();
    let entry = Entry { name: Name::new(b"file").unwrap(), link: file };
    let dir = dag.put_dir(Box::pin(futures_util::stream::iter([Ok(entry)]))).await.unwrap();
    let start = || {
        let view = CasView::new(dag.clone(), pins.clone(), CasViewOptions::default());
        muxfs_nfs::serve(Arc::new(view), options()).unwrap()
    };

    let server = start();
    let mut client = Client::connect(server.local_addr()).await;
    let root = client.root().await;
    let handle = client.lookup(&root, dir.cid.to_string().as_bytes()).await.unwrap();
    server.shutdown().await;

    let server = start();
    let mut client = Client::connect(server.local_addr()).await;
    for plus in [false, true] {
        assert_eq!(all(&mut client, plus, &handle, 4096).await, [&b"."[..], b"..", b"file"]);
    }
    server.shutdown().await;
}
