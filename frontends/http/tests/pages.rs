//! The server's own pages: lists for programs and people, archives, and who is let in by a form.

mod web;

use std::{
    io::Write as _,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::future::join_all;
use muxfs::{
    Mount, MuxFs, Name, Prefix,
    testing::{env, model::ModelFs},
    vfs::{Ino, NewNode, SetAttr, Vfs},
};
use muxfs_http::{Counter, Options, Report, Reporter, Server};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use self::web::{Reply, TOKEN, ask, send, writing};

struct Site {
    server: Server,
    vfs: Arc<dyn Vfs>,
    model: Arc<ModelFs>,
}

#[derive(Debug)]
struct Known;

#[async_trait]
impl Reporter for Known {
    async fn report(&self) -> Report {
        let counters = vec![Counter { name: "sent".into(), value: 7, is_bytes: true }];
        Report { counters, stores: [("Nodes".to_owned(), json!({ "up": 3 }))].into_iter().collect() }
    }
}

fn name(name: &[u8]) -> Name {
    Name::new(name).expect("a name")
}

/// Counts how often it is asked, and may never answer.
#[derive(Debug, Default)]
struct Counting {
    asked: AtomicUsize,
    is_silent: bool,
}

#[async_trait]
impl Reporter for Counting {
    async fn report(&self) -> Report {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_silent {
            std::future::pending::<()>().await;
        }
        Report::default()
    }
}

impl Site {
    async fn new() -> Self {
        Self::with(Arc::new(Known)).await
    }

    async fn with(reporter: Arc<dyn Reporter>) -> Self {
        let model = ModelFs::new(env());
        let mut mux = MuxFs::new();
        mux.mount(Mount::location(Prefix::new("a").expect("a prefix"), model.clone(), env())).expect("mounts");
        let vfs = mux.vfs(&env()).await.expect("joins");
        let options = Options {
            addr: ([127, 0, 0, 1], 0).into(),
            writing: Some(writing(vfs)),
            reporter: Some(reporter),
            ..Options::default()
        };
        let server = muxfs_http::serve(mux, options).expect("listens");
        Self { server, vfs: model.clone(), model }
    }

    async fn make(&self, dir: Ino, at: &[u8], node: NewNode) -> Ino {
        self.vfs.create(dir, &name(at), node, SetAttr::default()).await.expect("made").node.ino
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        ask(self.server.local_addr(), "GET", path, headers).await
    }

    async fn json(&self, path: &str) -> Value {
        let reply = self.get(path, &[("Accept", "application/json")]).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")), "{}", reply.text());
        serde_json::from_slice(&reply.body).expect("JSON")
    }
}

/// Every name is in one part, with an address that leads to it, whatever it is made of.
#[tokio::test]
async fn programs_list_every_name_in_parts() {
    let site = Site::new().await;
    let root = site.vfs.root();
    for index in 0..5000 {
        site.make(root, format!("n{index}").as_bytes(), NewNode::File).await;
    }
    let odd = site.make(root, b"\xff<b>&\"\n", NewNode::Dir).await;
    let file = site.make(odd, b"f", NewNode::File).await;
    site.vfs.write(file, 0, "12345".into(), false).await.expect("written");
    site.make(root, b".muxfs-part.http.x", NewNode::File).await;
    let (mut names, mut from) = (Vec::new(), "0".to_owned());
    loop {
        let part = site.json(&format!("/a/?from={from}")).await;
        assert!(part["writable"] == true && part["history"] == false && part["pins"] == false);
        names.extend(part["entries"].as_array().expect("a list").clone());
        match part["next"].as_str() {
            Some(next) => next.clone_into(&mut from),
            None => break,
        }
    }
    let hrefs: std::collections::BTreeSet<&str> = names.iter().filter_map(|one| one["href"].as_str()).collect();
    assert_eq!((names.len(), hrefs.len()), (5001, 5001));
    let dir = names.iter().find(|one| one["kind"] == "dir").expect("there");
    assert_eq!((dir["href"].as_str(), dir["name"].as_str()), (Some("%FF%3Cb%3E&%22%0A"), Some("\u{fffd}<b>&\"\n")));
    let inner = site.json("/a/%FF%3Cb%3E&%22%0A/").await;
    assert_eq!(
        inner["entries"][0],
        json!({ "name": "f", "href": "f", "kind": "file", "size": 5, "mtime": inner["entries"][0]["mtime"] })
    );
    assert_eq!(site.json("/").await["entries"], json!([{ "name": "a", "href": "a", "kind": "dir" }]));
    for path in ["/a/?from=zz", "/a/nothing/", "/a/.muxfs-part.http.x"] {
        assert!(matches!(site.get(path, &[("Accept", "application/json")]).await.status, 400 | 404), "{path}");
    }
    let elsewhere = [("Accept", "application/json"), ("Origin", "http://evil.example")];
    assert_eq!(site.get("/a/", &elsewhere).await.status, 403);
}

/// A page of ours runs its own script and nothing that is shown in it.
#[tokio::test]
async fn pages_run_nothing_that_they_show() {
    let site = Site::new().await;
    let root = site.vfs.root();
    let hostile = b"\"'><script>x()<b>";
    site.make(root, hostile, NewNode::Dir).await;
    site.make(root, b"<!--rows--><!--nonce-->", NewNode::File).await;
    let index = site.make(root, b"index.html", NewNode::File).await;
    site.vfs.write(index, 0, "<script>x()</script>".into(), false).await.expect("written");
    let shown = site.get("/a/", &[]).await;
    assert!(
        shown.text() == "<script>x()</script>"
            && shown.header("content-security-policy").is_some_and(|policy| policy.starts_with("sandbox"))
    );
    let mut nonces = Vec::new();
    for path in ["/a/?list", "/a/%22%27%3E%3Cscript%3Ex%28%29%3Cb%3E/", "/", "/.muxfs/status"] {
        let page = site.get(path, &[]).await;
        let (text, policy) = (page.text(), page.header("content-security-policy").expect("a policy").to_owned());
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
        assert!(policy.starts_with("default-src 'none'; script-src 'nonce-") && !policy.contains("unsafe"), "{policy}");
        let nonce =
            policy.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).expect("a nonce").to_owned();
        assert_eq!(text.matches(&nonce).count(), 1, "{path}");
        assert_eq!(text.matches("<script").count(), 1, "{path}: {text}");
        assert!(!text.contains("<!--") || path == "/.muxfs/status", "{path}");
        nonces.push(nonce);
    }
    nonces.sort();
    nonces.dedup();
    assert_eq!(nonces.len(), 4, "another one each time");
    for (asset, kind) in [
        ("app.css", "text/css; charset=utf-8"),
        ("files.js", "text/javascript; charset=utf-8"),
        ("status.js", "text/javascript; charset=utf-8"),
    ] {
        let path = format!("/.muxfs/{asset}");
        let reply = site.get(&path, &[]).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(kind)));
        let etag = reply.header("etag").expect("a tag");
        assert_eq!(site.get(&path, &[("If-None-Match", etag)]).await.status, 304);
    }
    assert_eq!(site.get("/.muxfs/other", &[]).await.status, 404);
    let told = site.json("/.muxfs/status.json").await;
    assert_eq!(told["counters"], json!({ "sent": { "value": 7, "bytes": true } }));
    assert_eq!((told["stores"]["Nodes"]["up"].as_u64(), told["mounts"][0]["prefix"].as_str()), (Some(3), Some("a")));
}

/// However many look at once, the stores are asked once; one that never answers is told as that, soon, and left alone then.
#[tokio::test]
async fn looking_at_the_status_is_cheap() {
    for is_silent in [false, true] {
        let counting = Arc::new(Counting { is_silent, ..Counting::default() });
        let site = Site::with(counting.clone()).await;
        let begun = Instant::now();
        let all = join_all((0..50).map(|_| site.json("/.muxfs/status.json"))).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let asked = counting.asked.load(Ordering::SeqCst);
        // On a machine that is slow, fifty answers may take more than the second for which one counts.
        let asked_max =
            if is_silent { 1 } else { 1 + usize::try_from(begun.elapsed().as_secs()).expect("a short time") };
        assert!((1..=asked_max).contains(&asked), "asked {asked} times");
        for told in all {
            assert_eq!(told["mounts"][0]["prefix"], "a");
            let silent = told["stores"]["Stores"].as_str();
            assert_eq!(silent.is_some_and(|why| why.contains("does not answer")), is_silent, "{told}");
        }
    }
}

/// Whoever hangs up before the answer has asked for those who come after.
#[tokio::test]
async fn who_hangs_up_has_nobody_asked_again() {
    let counting = Arc::new(Counting { is_silent: true, ..Counting::default() });
    let site = Site::with(counting.clone()).await;
    let addr = site.server.local_addr();
    for _ in 0..5 {
        let mut stream = tokio::net::TcpStream::connect(addr).await.expect("connects");
        let request = format!("GET /.muxfs/status.json HTTP/1.1\r\nHost: {addr}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let begun = Instant::now();
        while counting.asked.load(Ordering::SeqCst) == 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "it is asked");
            tokio::task::yield_now().await;
        }
    }
    assert!(site.json("/.muxfs/status.json").await["stores"]["Stores"].is_string());
    assert_eq!(counting.asked.load(Ordering::SeqCst), 1);
}

/// A directory of any size is listed whole, in parts that are no longer than others: for people, and for programs.
#[tokio::test]
async fn a_large_directory_is_listed_whole_and_part_by_part() {
    const COUNT: usize = 100_000;
    const PART_COUNT_MAX: usize = 4096;
    let site = Site::new().await;
    let leases = site.model.lease_count();
    for index in 0..COUNT {
        let name = name(format!("file-{index:06}").as_bytes());
        let made = site.model.create(site.model.root(), &name, NewNode::File, SetAttr::default());
        site.model.release(made.await.expect("made").node.ino, 1);
    }
    let expected: std::collections::BTreeSet<String> = (0..COUNT).map(|index| format!("file-{index:06}")).collect();
    let (mut of_programs, mut of_people) = (Vec::new(), Vec::new());
    let mut from = String::from("0");
    loop {
        let page = site.get(&format!("/a/?list&from={from}"), &[]).await;
        assert!(page.is_whole && page.status == 200);
        let names =
            page.text().split("href=\"/a/file-").skip(1).map(|rest| format!("file-{}", &rest[..6])).collect::<Vec<_>>();
        let told = site.json(&format!("/a/?from={from}")).await;
        let entries = told["entries"].as_array().expect("entries").clone();
        assert!(names.len() <= PART_COUNT_MAX && entries.len() <= PART_COUNT_MAX, "{} {}", names.len(), entries.len());
        assert!(page.body.len() < 4 << 20, "{}", page.body.len());
        of_people.extend(names);
        of_programs.extend(entries.iter().map(|entry| entry["name"].as_str().expect("a name").to_owned()));
        match told["next"].as_str() {
            Some(next) => {
                assert!(page.text().contains(&format!("from={next}")), "the page leads on to the next one");
                from = next.to_owned();
            }
            None => break,
        }
    }
    for listed in [of_programs, of_people] {
        assert_eq!(listed.len(), COUNT, "each once");
        assert!(listed.into_iter().collect::<std::collections::BTreeSet<_>>() == expected);
    }
    assert_eq!(site.model.lease_count(), leases, "nothing of it is held");
}

/// A form lets in who has the token, and no page of another origin; the cookie it gives writes.
#[tokio::test]
async fn a_form_lets_in_who_has_the_token() {
    let site = Site::new().await;
    let addr = site.server.local_addr();
    let form = format!("token={TOKEN}");
    let long = format!("token={}", "x".repeat(5000));
    for (path, headers, body, status) in [
        ("/.muxfs/login", &[][..], "token=wrong", 401),
        ("/.muxfs/login", &[], "", 401),
        ("/.muxfs/login", &[], "%", 400),
        ("/.muxfs/login", &[], &long, 400),
        ("/.muxfs/login", &[("Origin", "http://evil.example")], &form, 403),
        ("/.muxfs/login", &[("Sec-Fetch-Site", "cross-site")], &form, 403),
        ("/.muxfs/other", &[], &form, 404),
        ("/a/", &[], &form, 405),
    ] {
        let reply = send(addr, "POST", path, headers, body.as_bytes()).await;
        assert_eq!(reply.status, status, "{path} {headers:?} {}: {}", body.len(), reply.text());
        assert_eq!(reply.header("set-cookie"), None);
    }
    let reply = send(addr, "POST", "/.muxfs/login", &[], form.as_bytes()).await;
    let cookie = reply.header("set-cookie").expect("a cookie").to_owned();
    assert!(reply.status == 204 && cookie.contains("HttpOnly; SameSite=Strict") && !cookie.contains(TOKEN), "{cookie}");
    let pair = cookie.split(';').next().expect("a pair");
    assert_eq!(send(addr, "PUT", "/a/f", &[("Cookie", pair)], b"x").await.status, 201);
    let elsewhere = [("Cookie", pair), ("Origin", "http://evil.example")];
    assert_eq!(send(addr, "PUT", "/a/f", &elsewhere, b"y").await.status, 403);
    assert_eq!(send(addr, "PUT", "/a/f", &[("Cookie", "muxfs-session=0")], b"y").await.status, 401);
    let by_script = send(addr, "PUT", "/a/f", &[("X-Requested-With", "XMLHttpRequest")], b"y").await;
    assert_eq!(by_script.header("www-authenticate"), Some("Bearer realm=\"MuxFS\""), "the browser asks nobody itself");
    let out = send(addr, "POST", "/.muxfs/logout", &[("Cookie", pair)], b"").await;
    assert!(out.header("set-cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")));
}

/// What tar unpacks is what the directory holds.
#[tokio::test]
async fn a_directory_is_had_as_a_tar() {
    if Command::new("tar").arg("--version").output().is_err() {
        muxfs::testing::skip("there is no tar");
        return;
    }
    let site = Site::new().await;
    let long = "ü".repeat(120);
    let dir = site.make(site.vfs.root(), b"d", NewNode::Dir).await;
    let sub = site.make(dir, long.as_bytes(), NewNode::Dir).await;
    let content: Vec<u8> = (0..600_000u32).flat_map(u32::to_le_bytes).collect();
    for (at, bytes) in [(dir, &b"one"[..]), (sub, &content)] {
        let file = site.make(at, b"f", NewNode::File).await;
        site.vfs.write(file, 0, bytes.to_vec().into(), false).await.expect("written");
    }
    for index in 0..1200 {
        site.make(dir, format!("n{index}").as_bytes(), NewNode::File).await;
    }
    site.make(dir, b"link", NewNode::Symlink("f".into())).await;
    site.make(dir, b"pipe", NewNode::Fifo).await;
    site.make(dir, b".muxfs-part.http.x", NewNode::File).await;
    let leases = site.model.lease_count();
    let reply = site.get("/a/d/?format=tar", &[]).await;
    assert!(reply.is_whole && reply.status == 200);
    assert_eq!(reply.header("content-disposition"), Some("attachment; filename=\"d.tar\""));
    let out = tempfile::tempdir().expect("a directory");
    let mut tar = Command::new("tar")
        .args(["x", "-C"])
        .arg(out.path())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    tar.stdin.take().expect("piped").write_all(&reply.body).expect("it reads");
    assert!(tar.wait().expect("it ends").success());
    let read = |path: &str| std::fs::read(out.path().join("d").join(path)).expect(path);
    assert!(read("f") == b"one" && read(&format!("{long}/f")) == content);
    assert_eq!(std::fs::read_link(out.path().join("d/link")).expect("a link").to_str(), Some("f"));
    assert_eq!(std::fs::read_dir(out.path().join("d")).expect("lists").count(), 1203);
    for (path, status) in [("/a/d/f?format=tar", 406), ("/a/d/?format=zip", 406), ("/a/nothing?format=tar", 404)] {
        assert_eq!(site.get(path, &[]).await.status, status, "{path}");
    }
    assert_eq!(site.model.lease_count(), leases, "all that was looked at is let go");
}
