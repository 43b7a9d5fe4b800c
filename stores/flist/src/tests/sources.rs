//! Goal: chunks come from the first source that has them, verified, and no source costs more than it may.
//! Method: directories as sources, one of which has what it should not, and a server that never answers, on a clock that
//! is moved by who waits.

use std::{fs, path::Path, sync::Arc};

use muxfs::{
    ErrorKind,
    block::Mem,
    testing::fault::{BlockCall, Faulty},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::Instant,
};

use super::made::World;
use crate::{
    Chunk, Chunks, ChunksOptions, Route,
    chunk::tests::{seal_aes, seal_xxtea},
};

const PLAIN: &[u8] = b"some bytes of a file";

async fn chunks(sources: &[String], follow: bool) -> Chunks {
    let sources = sources.iter().map(|url| url.parse().expect(url)).collect();
    Chunks::open(ChunksOptions { sources, follow, kept: None }).await.expect("opens")
}

fn dir(path: &Path) -> String {
    format!("dir://{}", path.display())
}

/// Two directories, and a chunk that is in neither.
fn world() -> (World, [String; 2], Chunk, Vec<u8>) {
    let world = World::new();
    let (chunk, stored) = seal_aes(PLAIN);
    let urls = ["one", "two"].map(|name| {
        fs::create_dir(world.path(name)).expect("made");
        dir(&world.path(name))
    });
    (world, urls, chunk, stored)
}

async fn get(chunks: &Chunks, routes: &[Route], chunk: Chunk) -> muxfs::Result<bytes::Bytes> {
    chunks.get(&Arc::new(chunks.sources(routes)), chunk, PLAIN.len()).await
}

#[tokio::test]
async fn the_first_source_that_has_it_gives_it() {
    let (world, urls, chunk, stored) = world();
    let error = get(&chunks(&urls, true).await, &[], chunk).await.expect_err("nobody has it");
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(format!("{error:#}").contains(&chunk.hex()) && format!("{error:#}").contains("none of 2"), "{error:#}");
    // In the second one, in a directory of its own; in the first something else.
    let hex = chunk.hex();
    fs::create_dir(world.path("two").join(&hex[..2])).expect("made");
    fs::write(world.path("two").join(&hex[..2]).join(&hex), &stored).expect("stored");
    assert_eq!(get(&chunks(&urls, true).await, &[], chunk).await.expect("the second"), PLAIN);
    fs::write(world.path("one").join(&hex), b"others").expect("stored");
    assert_eq!(get(&chunks(&urls, true).await, &[], chunk).await.expect("the second"), PLAIN);
    let error = get(&chunks(&urls[..1], true).await, &[], chunk).await.expect_err("others");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(format!("{error:#}").contains("one"), "{error:#}");
    // A pipe that nobody writes to is none.
    let pipe = world.path("one").join(&hex);
    fs::remove_file(&pipe).expect("removed");
    fs::create_dir(&pipe).expect("made");
    assert_eq!(get(&chunks(&urls, true).await, &[], chunk).await.expect("the second"), PLAIN);
}

#[tokio::test]
async fn a_source_is_asked_for_its_ids_alone() {
    let (world, [one, _], chunk, stored) = world();
    fs::write(world.path("one").join(chunk.hex()), &stored).expect("stored");
    let first = chunk.id()[0];
    let (has, lacks) =
        (format!("{first:02x}-{first:02x}={one}"), format!("{:02x}-{0:02x}={one}", first.wrapping_add(1)));
    assert_eq!(get(&chunks(&[has], true).await, &[], chunk).await.expect("there"), PLAIN);
    let error = get(&chunks(&[lacks], true).await, &[], chunk).await.expect_err("not there");
    assert!(format!("{error:#}").contains("there is no source for it"), "{error:#}");
}

/// What an flist names is asked if that is wanted, but never a directory of this machine.
#[tokio::test]
async fn routes_of_flists_are_followed_where_it_is_allowed() {
    let (world, [one, _], chunk, stored) = world();
    fs::write(world.path("one").join(chunk.hex()), &stored).expect("stored");
    let route = |url: &str| [Route { first: 0, last: 255, url: url.into() }];
    for (url, follow, why) in [
        (one.as_str(), true, "where the flist was made"),
        ("dir://relative", true, "full path"),
        ("zdb://127.0.0.1:1", false, "not followed"),
        ("s3://host/bucket", false, "not followed"),
        ("s3://host", true, "s3://[KEY:SECRET@]HOST"),
    ] {
        let error = get(&chunks(&[], follow).await, &route(url), chunk).await.expect_err(url);
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(format!("{error:#}").contains(why), "{error:#}");
    }
    let many: Vec<_> = (1..40).flat_map(|port| route(&format!("zdb://127.0.0.1:{port}"))).collect();
    let error = format!("{:?}", chunks(&[], true).await.sources(&many));
    assert!(error.contains("127.0.0.1:16") && !error.contains("127.0.0.1:17"), "{error}");
    let error = get(&chunks(&[], true).await, &route("zdb://127.0.0.1:1"), chunk).await.expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

/// What is wrong with one file of a directory, or forbidden on a server, tells nothing of the others.
#[tokio::test]
async fn a_source_does_not_rest_for_one_chunk() {
    let (world, [one, _], chunk, stored) = world();
    fs::write(world.path("one").join(chunk.hex()), &stored).expect("stored");
    let (bad, _) = seal_aes(b"other bytes");
    std::os::unix::fs::symlink(bad.hex(), world.path("one").join(bad.hex())).expect("a loop");
    let chunks = chunks(&[one], true).await;
    let sources = Arc::new(chunks.sources(&[]));
    let error = chunks.get(&sources, bad, 11).await.expect_err("it leads to itself");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(chunks.get(&sources, chunk, PLAIN.len()).await.expect("that one is there"), PLAIN);
}

/// The address of a server that gives every request this status.
async fn server_that_says(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            if stream.read(&mut request).await.is_ok() {
                // Whoever asked may be gone.
                stream.write_all(answer.as_bytes()).await.ok();
            }
        }
    });
    url
}

/// A server that fails for one file gives others; one that says that it cannot answer now is left alone.
#[tokio::test]
async fn a_server_rests_where_it_says_so_and_not_for_one_file() {
    for (status, rests) in [
        ("500 Internal Server Error", false),
        ("501 Not Implemented", false),
        ("400 Bad Request", false),
        ("503 Service Unavailable", true),
        ("502 Bad Gateway", true),
        ("429 Too Many Requests", true),
    ] {
        let (_, _, chunk, _) = world();
        let chunks = chunks(&[server_that_says(status).await], true).await;
        let sources = Arc::new(chunks.sources(&[]));
        for time in 0..2 {
            let error = chunks.get(&sources, chunk, PLAIN.len()).await.expect_err(status);
            assert_eq!(error.kind(), ErrorKind::Unavailable, "another one may have it");
            let is_resting = format!("{error:#}").contains("a moment ago");
            assert_eq!(is_resting, rests && time == 1, "{status}: {error:#}");
        }
    }
}

#[tokio::test]
async fn what_is_forbidden_is_not_there() {
    let url = server_that_says("403 Forbidden").await;
    let (_, _, chunk, _) = world();
    let error = get(&chunks(&[url], true).await, &[], chunk).await.expect_err("not there");
    assert!(error.kind() == ErrorKind::Io && format!("{error:#}").contains("none of 1"), "{error:#}");
}

/// It costs one wait, and then none for a while; another source is asked as if it were not there.
#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_costs_a_bounded_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let _silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    for (scheme, path) in [("zdb", ""), ("http", ""), ("s3", "/bucket")] {
        let (world, [one, _], chunk, stored) = world();
        let dead = chunks(&[format!("{scheme}://{address}{path}")], true).await;
        let start = Instant::now();
        let error = get(&dead, &[], chunk).await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(format!("{error:#}").contains(scheme), "{error:#}");
        assert!(start.elapsed().as_secs() <= 10, "{:?}", start.elapsed());
        let start = Instant::now();
        let error = get(&dead, &[], chunk).await.expect_err("it rests");
        assert!(format!("{error:#}").contains("a moment ago"), "{error:#}");
        assert!(start.elapsed().is_zero());
        fs::write(world.path("one").join(chunk.hex()), &stored).expect("stored");
        let both = chunks(&[format!("{scheme}://{address}{path}"), one], true).await;
        assert_eq!(get(&both, &[], chunk).await.expect("the other"), PLAIN);
    }
}

/// Those who wait for one source hold up nobody who asks another, and wait no longer than for a chunk in all.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_silent_source_holds_up_nobody_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent = [Route { first: 0, last: 255, url: format!("zdb://{}", listener.local_addr().expect("an address")) }];
    let (world, [one, _], chunk, stored) = world();
    fs::write(world.path("one").join(chunk.hex()), &stored).expect("stored");
    let chunks = Arc::new(chunks(&[one], true).await);
    let asks: Vec<_> = (0..100u8)
        .map(|byte| {
            let (chunks, sources) = (chunks.clone(), Arc::new(chunks.sources(&silent)));
            let (chunk, _) = seal_aes(&[byte / 2]);
            tokio::spawn(async move { chunks.get(&sources, chunk, 1).await })
        })
        .collect();
    // All of them wait, and the clock has not moved.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let start = Instant::now();
    assert_eq!(get(&chunks, &[], chunk).await.expect("of the other"), PLAIN);
    assert!(start.elapsed().as_secs() < 3, "{:?}", start.elapsed());
    for ask in asks {
        let error = ask.await.expect("no panic").expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    assert!(start.elapsed().as_secs() <= 30, "{:?}", start.elapsed());
}

/// A chunk that two flists have is fetched once; what is kept is what is stored, and is verified again.
#[tokio::test]
async fn what_was_fetched_is_kept_encrypted_and_read_without_a_source() {
    let (world, [one, _], chunk, stored) = world();
    let path = world.path("one").join(chunk.hex());
    fs::write(&path, &stored).expect("stored");
    let kept = Arc::new(Mem::default());
    let open = || async {
        let options = ChunksOptions {
            sources: vec![one.parse().expect("an address")],
            follow: true,
            kept: Some((kept.clone(), 1 << 20)),
        };
        Chunks::open(options).await.expect("opens")
    };
    assert_eq!(get(&open().await, &[], chunk).await.expect("fetched"), PLAIN);
    fs::remove_file(&path).expect("removed");
    assert_eq!(get(&open().await, &[], chunk).await.expect("kept"), PLAIN);
    let key = muxfs::BlockKey::new(chunk.id()).expect("a key");
    let there = muxfs::BlockStore::get(&*kept, &key).await.expect("read").expect("there");
    assert_eq!(there, stored);
    assert!(!there.windows(5).any(|part| part == &PLAIN[..5]));
}

/// Who asks whether a chunk is stored is told without it being fetched, and is not told no where nobody can know.
#[tokio::test(start_paused = true)]
async fn whether_a_chunk_is_stored_is_asked() {
    let (world, [one, two], chunk, stored) = world();
    let chunks = chunks(&[one, two], true).await;
    assert!(!chunks.has(&chunks.sources(&[]), &chunk).await.expect("asked"), "nobody has it");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent = [Route { first: 0, last: 255, url: format!("zdb://{}", listener.local_addr().expect("an address")) }];
    let error = chunks.has(&chunks.sources(&silent), &chunk).await.expect_err("one that may have it is silent");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&chunk.hex()), "{error:#}");
    fs::write(world.path("two").join(chunk.hex()), &stored).expect("stored");
    assert!(chunks.has(&chunks.sources(&silent), &chunk).await.expect("the other has it"));
}

/// A disk that is full is not written to for every chunk that is read.
#[tokio::test(start_paused = true)]
async fn what_is_full_is_left_alone_for_a_while() {
    let (world, [one, _], _, _) = world();
    let kept = Arc::new(Faulty::new(Mem::default()));
    kept.fail_next(BlockCall::Put, ErrorKind::NoSpace);
    let sources = vec![one.parse().expect("an address")];
    let options = ChunksOptions { sources, follow: false, kept: Some((kept.clone(), 1 << 20)) };
    let chunks = Chunks::open(options).await.expect("opens");
    let read = async |byte: u8| {
        let (chunk, stored) = seal_aes(&[byte]);
        fs::write(world.path("one").join(chunk.hex()), &stored).expect("stored");
        let got = chunks.get(&Arc::new(chunks.sources(&[])), chunk, 1).await;
        assert_eq!(got.expect("read all the same"), [byte][..]);
    };
    for byte in 0..5 {
        read(byte).await;
    }
    assert_eq!(kept.calls(BlockCall::Put), 1, "it was full");
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    for byte in 5..8 {
        read(byte).await;
    }
    assert_eq!(kept.calls(BlockCall::Put), 4, "there is room again");
}

#[tokio::test]
async fn what_is_asked_for_at_once_is_fetched_once() {
    let (world, [one, _], _, _) = world();
    let (chunk, stored) = seal_xxtea(PLAIN);
    let path = world.path("one").join(chunk.hex());
    fs::write(&path, &stored).expect("stored");
    let chunks = chunks(&[one], true).await;
    let sources = Arc::new(chunks.sources(&[]));
    let all = (0..50).map(|_| chunks.get(&sources, chunk, PLAIN.len()));
    for got in futures_util::future::join_all(all).await {
        assert_eq!(got.expect("fetched"), PLAIN);
    }
    fs::remove_file(&path).expect("removed");
    assert_eq!(chunks.get(&sources, chunk, PLAIN.len()).await.expect("in memory"), PLAIN);
    let error = chunks.get(&sources, chunk, 7).await.expect_err("another length");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}
