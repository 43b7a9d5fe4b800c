//! Goal: programs come ahead of who starts them, and keep nothing from who reads something else.
//! Method: what is kept after their beginning was read; and a server that holds its answers back while fifty are begun.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use futures_util::StreamExt as _;
use muxfs::{
    BlockKey, BlockStore as _,
    block::Mem,
    testing::fault::Dice,
    vfs::{Vfs, ext},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    made::{What, World},
    mount::name,
};
use crate::{Chunks, ChunksOptions, FlistVfs};

/// Who starts a program reads it in any order, a page after the other, each of which would be waited for.
#[tokio::test]
async fn a_program_comes_whole_when_its_beginning_is_read() {
    let world = World::new();
    let mut dice = Dice::new(5);
    let mut node = |name: &str, first: &[u8]| {
        let data = [first, &dice.bytes(4 * (512 << 10))].concat();
        (name.to_owned(), What::File(data))
    };
    world.fl("a.fl", &[node("script", b"#!/bin/sh"), node("program", b"\x7fELF")], |_| {});
    let kept = Arc::new(Mem::default());
    let source = format!("dir://{}", world.path("chunks").display()).parse().expect("an address");
    let options = ChunksOptions { sources: vec![source], kept: Some((kept.clone(), 1 << 30)), follow: false };
    let chunks = Arc::new(Chunks::open(options).await.expect("opens"));
    let vfs: Arc<dyn Vfs> = Arc::new(FlistVfs::new(world.path("flists"), world.path("scratch"), chunks, (7, 8)));
    let read = async |file: &str, offset| {
        let (node, _) = ext::walk(&vfs, vfs.root(), &[name("a"), name(file)]).await.expect("there");
        vfs.read(node.ino(), offset, 100).await.expect("read");
    };
    read("script", 0).await;
    // Not its beginning.
    read("program", 9).await;
    assert_eq!(kept.keys().count().await, 2, "what was read");
    read("program", 0).await;
    while kept.keys().count().await < 6 {
        tokio::task::yield_now().await;
    }
    let flist = world.open("a.fl").expect("opens");
    let root = flist.dir(&flist.root().expect("a root")).expect("read");
    let program = root.find(&name("program")).expect("there").1.inode.id;
    for chunk in flist.chunks(program, 0, 10).expect("told").1 {
        assert!(kept.has(&BlockKey::new(chunk.id()).expect("short")).await.expect("told"), "of nothing else");
    }
}

/// Each asks for some chunks ahead, and all of them together leave room for who reads something else of the same source.
#[tokio::test]
async fn programs_that_are_fetched_ahead_hold_up_nobody() {
    const PROGRAM_COUNT: usize = 50;
    let world = World::new();
    let mut dice = Dice::new(6);
    let mut node = |name: String, len: usize| (name, What::File([&b"\x7fELF"[..], &dice.bytes(len)].concat()));
    let mut nodes: Vec<_> = (0..PROGRAM_COUNT).map(|number| node(format!("{number}"), 2 * (512 << 10))).collect();
    nodes.push(node("other".into(), 100));
    world.fl("a.fl", &nodes, |_| {});
    // The beginnings are in a directory; what is fetched ahead is on a server that holds each answer back until it is told to go on.
    let flist = world.open("a.fl").expect("opens");
    let root = flist.dir(&flist.root().expect("a root")).expect("read");
    fs::create_dir(world.path("first")).expect("made");
    for entry in &root.entries {
        if entry.name != name("other") {
            let (_, chunks) = flist.chunks(entry.inode.id, 0, 1).expect("told");
            let file = chunks[0].hex();
            fs::rename(world.path("chunks").join(&file), world.path("first").join(&file)).expect("moved");
        }
    }
    let other = flist.chunks(root.find(&name("other")).expect("there").1.inode.id, 0, 1).expect("told").1[0].hex();
    let server = Holding::listen(world.path("chunks"), other).await;
    let sources = [format!("dir://{}", world.path("first").display()), server.url.clone()];
    let sources = sources.iter().map(|url| url.parse().expect(url)).collect();
    let chunks = Chunks::open(ChunksOptions { sources, follow: false, kept: None }).await.expect("opens");
    let vfs: Arc<dyn Vfs> =
        Arc::new(FlistVfs::new(world.path("flists"), world.path("scratch"), Arc::new(chunks), (7, 8)));
    for number in 0..PROGRAM_COUNT {
        let (node, _) = ext::walk(&vfs, vfs.root(), &[name("a"), name(&number.to_string())]).await.expect("there");
        assert_eq!(vfs.read(node.ino(), 0, 4).await.expect("its beginning"), "\x7fELF");
    }
    while server.asked().0 == 0 {
        tokio::task::yield_now().await;
    }
    let (node, _) = ext::walk(&vfs, vfs.root(), &[name("a"), name("other")]).await.expect("there");
    assert_eq!(vfs.read(node.ino(), 0, 4).await.expect("not behind all of them"), "\x7fELF");
    server.go.add_permits(10_000);
    // Two chunks of each, the last of which has four bytes.
    while server.asked().1 < 2 * PROGRAM_COUNT {
        tokio::task::yield_now().await;
    }
    let (most, ..) = server.asked();
    assert!(most <= 6, "{most} chunks were fetched ahead at a time");
}

/// A server of the files of a directory, which holds back each answer but of one.
struct Holding {
    url: String,
    go: Arc<Semaphore>,
    /// How many are waiting, the most that ever were, and all that were answered.
    counts: Arc<Mutex<(usize, usize, usize)>>,
    _serving: AbortOnDropHandle<()>,
}

impl Holding {
    async fn listen(dir: PathBuf, at_once: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (go, counts) = (Arc::new(Semaphore::new(0)), Arc::<Mutex<_>>::default());
        let serve = {
            let (go, counts) = (go.clone(), counts.clone());
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (dir, at_once, go, counts) = (dir.clone(), at_once.clone(), go.clone(), counts.clone());
                    tokio::spawn(async move { Self::answer(stream, &dir, &at_once, &go, &counts).await.ok() });
                }
            }
        };
        Self { url, go, counts, _serving: AbortOnDropHandle::new(tokio::spawn(serve)) }
    }

    async fn answer(
        mut stream: TcpStream,
        dir: &Path,
        at_once: &str,
        go: &Semaphore,
        counts: &Mutex<(usize, usize, usize)>,
    ) -> io::Result<()> {
        let (mut request, mut len) = (vec![0; 4096], 0);
        while !request[..len].ends_with(b"\r\n\r\n") {
            match stream.read(&mut request[len..]).await? {
                0 => return Ok(()),
                read => len += read,
            }
        }
        let request = String::from_utf8_lossy(&request[..len]).into_owned();
        let path = request.split(' ').nth(1).unwrap_or_default();
        let found = fs::read(dir.join(path.trim_start_matches('/')));
        if found.is_ok() && !path.ends_with(at_once) {
            {
                let mut counts = counts.lock().expect("no panic");
                counts.0 += 1;
                counts.1 = counts.1.max(counts.0);
            }
            go.acquire().await.expect("open").forget();
            let mut counts = counts.lock().expect("no panic");
            (counts.0, counts.2) = (counts.0 - 1, counts.2 + 1);
        }
        let (status, body) = found.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await
    }

    /// The most that ever waited at a time, and how many were answered.
    fn asked(&self) -> (usize, usize) {
        let counts = self.counts.lock().expect("no panic");
        (counts.1, counts.2)
    }
}
