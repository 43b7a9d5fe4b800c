//! S3 through the program: its keys, and that it is served to those who have one alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use muxfs_s3_serve::Key;

use crate::{Server, WITHOUT_ZSTOR, World, webdav::ask};

#[path = "../../../s3/tests/s3/client.rs"]
pub(crate) mod client;

use client::Client;

#[test]
fn keys_are_made_listed_and_removed() {
    let world = World::new();
    assert_eq!(world.ok(&["s3", "key", "ls"]), "");
    let made = world.ok(&["s3", "key", "add", "ann", "--read-only", "--allow", "photos/2026/"]);
    let secret = made.lines().find_map(|line| line.strip_prefix("aws_secret_access_key = ")).expect("a secret");
    let file = world.path("data/s3/keys.toml");
    assert_eq!(fs::metadata(&file).expect("there").mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&file).expect("read").contains(secret));
    let listed = world.ok(&["s3", "key", "ls"]);
    assert!(listed.contains("ann  read-only") && listed.contains("photos/2026/") && !listed.contains(secret));
    world.fails(&["s3", "key", "add", "ann"], 2);
    world.fails(&["s3", "key", "add", "a b"], 2);
    world.fails(&["s3", "key", "rm", "bob"], 3);
    assert!(world.ok(&["s3", "key", "add", "bob", "--env"]).starts_with("export AWS_ACCESS_KEY_ID=bob\n"));
    world.ok(&["s3", "key", "rm", "ann"]);
    assert!(!world.ok(&["s3", "key", "ls"]).contains("ann"));
}

#[test]
fn who_has_no_key_is_refused() {
    let world = World::new();
    let server = world.serve(&["--s3", "127.0.0.1:0"]);
    let (status, answer) = ask(server.addr("s3"), "GET", "/", &[], b"");
    assert_eq!(status, 403, "{answer}");
    assert!(answer.contains("<Code>AccessDenied</Code>") && answer.contains("x-amz-request-id"), "{answer}");
}

/// What is on the disk of a bucket that many write to at once: each key with what was acknowledged last.
#[derive(Default)]
struct Acknowledged {
    /// `None` for a key that was removed.
    objects: BTreeMap<String, Option<Vec<u8>>>,
    /// Keys of which the last request was not answered: either is right.
    uncertain: BTreeSet<String>,
}

/// Serves a mount over S3, and a client of it.
async fn serve(world: &World, secret: &str) -> (Server, Client) {
    let server = world.serve(&["--s3", "127.0.0.1:0"]);
    let key = Key { id: "ann".into(), secret: secret.into(), read_only: false, allow: Vec::new() };
    let client = Client { addr: server.addr("s3"), key, skew: 0 };
    client.ask("GET", "/", &[], &[], b"").await.expect(200);
    (server, client)
}

/// A world whose buckets are in this mount, and the secret of `ann`.
pub(crate) fn world_of(root: &str) -> (World, String) {
    let world = World::new();
    let config = world.path("s3.toml");
    fs::write(&config, format!("{WITHOUT_ZSTOR}\n[s3]\nroot = \"{root}\"\n")).expect("written");
    let world = World { config: Some(config), ..world };
    let made = world.ok(&["s3", "key", "add", "ann"]);
    let secret = made.lines().find_map(|line| line.strip_prefix("aws_secret_access_key = ")).expect("a secret");
    (world, secret.to_owned())
}

/// Puts and removes keys of its own until the server is gone.
async fn write(ann: Client, writer: usize, done: &AtomicUsize) -> Acknowledged {
    let mut known = Acknowledged::default();
    for round in 0.. {
        let key = format!("dir-{writer}/key-{}", round % 7);
        let is_removal = round % 5 == 4;
        let body = format!("{writer} {round} ").repeat(1 + round % 50).into_bytes();
        let path = format!("/bucket/{key}");
        let told = if is_removal {
            ann.try_ask("DELETE", &path, &[], b"").await
        } else {
            ann.try_ask("PUT", &path, &[], &body).await
        };
        let Some(told) = told else {
            known.uncertain.insert(key);
            return known;
        };
        told.expect(if is_removal { 204 } else { 200 });
        known.objects.insert(key, (!is_removal).then_some(body));
        done.fetch_add(1, Ordering::Relaxed);
    }
    known
}

/// What was acknowledged is there after `kill -9` in the midst of it, and nothing else but what was under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    for root in ["/ipfs", "/local"] {
        let (world, secret) = world_of(root);
        let (server, ann) = serve(&world, &secret).await;
        ann.put("/bucket", b"").await.expect(200);
        if ann.put("/bucket/first", b"x").await.status == 501 {
            muxfs::testing::skip("the temporary directory has no extended attributes");
            continue;
        }
        let done = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (ann, done) = (ann.clone(), done.clone());
                tokio::spawn(async move { write(ann, writer, &done).await })
            })
            .collect();
        while done.load(Ordering::Relaxed) < 200 {
            tokio::task::yield_now().await;
        }
        server.kill();
        let mut known = Acknowledged::default();
        for writer in writers {
            let found = writer.await.expect("it wrote");
            known.objects.extend(found.objects);
            known.uncertain.extend(found.uncertain);
        }
        let (server, ann) = serve(&world, &secret).await;
        known.objects.insert("first".into(), Some(b"x".to_vec()));
        for (key, body) in known.objects.iter().filter(|(key, _)| !known.uncertain.contains(*key)) {
            let got = ann.get(&format!("/bucket/{key}")).await;
            match body {
                Some(body) => assert!(got.expect(200).body == *body, "{root} {key}"),
                None => drop(got.refused(404, "NoSuchKey")),
            }
        }
        let there = |(key, body): (&String, &Option<Vec<u8>>)| body.is_some().then(|| key.clone());
        let expected: BTreeSet<_> = known.objects.iter().filter_map(there).collect();
        let listed: BTreeSet<_> = ann.list("bucket", "", "", 1000).await.into_iter().collect();
        let differing: Vec<_> = expected.symmetric_difference(&listed).collect();
        assert!(differing.iter().all(|key| known.uncertain.contains(*key)), "{root}: {differing:?}");
        assert_eq!(server.terminate(), Some(0));
    }
}

/// An upload of 64 MiB goes on after `kill -9`: no part comes again; and what it became outlives another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_after_kill_9() {
    const PART_LEN: usize = 8 << 20;
    let (world, secret) = world_of("/ipfs");
    let (server, ann) = serve(&world, &secret).await;
    ann.put("/bucket", b"").await.expect(200);
    let whole: Vec<u8> = (0..PART_LEN * 8).map(|at| u8::try_from(at * 31 / 7 % 251).expect("small")).collect();
    let id = ann.ask("POST", "/bucket/big", &[("uploads", "")], &[], b"").await.expect(200);
    let id = id.one("UploadId").expect("an id");
    let put = async |ann: &Client, numbers: std::ops::Range<usize>| {
        for number in numbers {
            let named = number.to_string();
            let body = &whole[(number - 1) * PART_LEN..number * PART_LEN];
            ann.ask("PUT", "/bucket/big", &[("partNumber", &named), ("uploadId", &id)], &[], body).await.expect(200);
        }
    };
    put(&ann, 1..5).await;
    // One more is cut off in its midst.
    let cut = ann.clone();
    let (part, cut_id) = (whole[..PART_LEN].to_vec(), id.clone());
    let under_way = tokio::spawn(async move {
        cut.try_ask("PUT", "/bucket/big", &[("partNumber", "5"), ("uploadId", &cut_id)], &part).await
    });
    server.kill();
    under_way.await.expect("it ended");
    let (server, ann) = serve(&world, &secret).await;
    ann.get("/bucket/big").await.refused(404, "NoSuchKey");
    let parts = ann.ask("GET", "/bucket/big", &[("uploadId", &id)], &[], b"").await.expect(200);
    assert_eq!(parts.all("PartNumber")[..4], ["1", "2", "3", "4"], "they came");
    put(&ann, 5..9).await;
    let parts = ann.ask("GET", "/bucket/big", &[("uploadId", &id)], &[], b"").await.expect(200);
    let list: Vec<_> = parts
        .all("PartNumber")
        .iter()
        .zip(parts.all("ETag"))
        .map(|(number, etag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"))
        .collect();
    let list = format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", list.concat());
    let done = ann.ask("POST", "/bucket/big", &[("uploadId", &id)], &[], list.as_bytes()).await.expect(200);
    server.kill();
    let (server, ann) = serve(&world, &secret).await;
    let got = ann.get("/bucket/big").await.expect(200);
    assert!(got.body == whole, "every byte of it");
    assert_eq!(
        got.header("etag").map(|etag| etag.replace('"', "")),
        done.one("ETag").map(|etag| etag.replace("&quot;", "").replace('"', ""))
    );
    // Who did not hear the answer asks again.
    ann.ask("POST", "/bucket/big", &[("uploadId", &id)], &[], list.as_bytes()).await.expect(200);
    assert_eq!(server.terminate(), Some(0));
}
