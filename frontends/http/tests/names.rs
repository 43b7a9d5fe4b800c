//! Mounts by name: files and directories as they are now, for their own pages alone.

mod web;

use std::sync::Arc;

use muxfs::{
    FileKind, Mount, MuxFs, Name, Prefix,
    testing::{env, model::ModelFs},
    vfs::{Ino, NewNode, SetAttr, Vfs},
};
use muxfs_http::{Options, Server};

use self::web::{Reply, ask};

struct Local {
    server: Server,
    vfs: Arc<dyn Vfs>,
}

fn name(name: &[u8]) -> Name {
    Name::new(name).expect("a name")
}

impl Local {
    fn new() -> Self {
        let vfs: Arc<dyn Vfs> = ModelFs::new(env());
        let mut mux = MuxFs::new();
        mux.mount(Mount::location(Prefix::new("local").expect("a prefix"), vfs.clone(), env())).expect("mounts");
        let options = Options { addr: ([127, 0, 0, 1], 0).into(), ..Options::default() };
        Self { server: muxfs_http::serve(mux, options).expect("listens"), vfs }
    }

    async fn make(&self, dir: Ino, at: &[u8], node: NewNode) -> Ino {
        let made = self.vfs.create(dir, &name(at), node, SetAttr::default()).await.expect("made");
        made.node.ino
    }

    async fn write(&self, ino: Ino, offset: u64, bytes: &[u8]) {
        self.vfs.write(ino, offset, bytes.to_vec().into(), false).await.expect("written");
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        ask(self.server.local_addr(), "GET", path, headers).await
    }
}

#[tokio::test]
async fn what_has_a_name_is_read_as_it_is_now() {
    let local = Local::new();
    let root = local.vfs.root();
    let dir = local.make(root, b"a dir", NewNode::Dir).await;
    let file = local.make(dir, b"long.txt", NewNode::File).await;
    let content: Vec<u8> = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
    local.write(file, 0, &content).await;
    local.make(dir, b"<link>", NewNode::Symlink("../../etc".into())).await;
    local.make(dir, b"pipe", NewNode::Fifo).await;
    local.make(dir, b"sub", NewNode::Dir).await;

    let whole = local.get("/local/a%20dir/long.txt", &[]).await;
    assert!(whole.is_whole && whole.body == content);
    for (header, value) in [
        ("Cache-Control", "private, no-cache"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Content-Type", "text/plain; charset=utf-8"),
    ] {
        assert_eq!(whole.header(header), Some(value), "{header}");
    }
    assert!(whole.header("last-modified").is_some() && whole.header("access-control-allow-origin").is_none());
    let etag = whole.header("etag").expect("an etag");
    let range = [("Range", "bytes=1048570-2097160"), ("If-Range", etag)];
    let part = local.get("/local/a%20dir/long.txt", &range).await;
    assert!(part.status == 206 && part.body == content[1_048_570..=2_097_160]);
    assert_eq!(local.get("/local/a%20dir/long.txt", &[("If-None-Match", etag)]).await.status, 304);
    local.write(file, 5, b"other").await;
    let changed = local.get("/local/a%20dir/long.txt", &range).await;
    assert_eq!((changed.status, changed.body.len()), (200, content.len()), "the part is of something else");

    let list = local.get("/local/a%20dir/", &[]).await;
    let text = list.text();
    assert_eq!((list.status, list.header("cache-control")), (200, Some("no-store")));
    for line in [
        "<a href=\"/local/a%20dir/long.txt\">long.txt</a>",
        "<a href=\"/local/a%20dir/sub/\">sub</a>/",
        "&lt;link&gt;",
        "<a href=\"/local/a%20dir/..\">..</a>",
        "2.6 MiB",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(local.get("/", &[]).await.text().contains("<a href=\"/local/\">local</a>"));
    for (path, status) in [
        ("/local", 301),
        ("/local/", 200),
        ("/local/a%20dir", 301),
        ("/local/nothing", 404),
        ("/local/a%20dir/long.txt/x", 404),
        ("/local/a%20dir/%3Clink%3E/passwd", 404),
        ("/local/a%20dir/pipe", 403),
        ("/local/a%20dir/long.txt?format=raw", 406),
        ("/local/../etc/passwd", 400),
        ("/local/?from=x", 400),
        ("/other/", 404),
    ] {
        assert_eq!(local.get(path, &[]).await.status, status, "{path}");
    }
    let link = local.get("/local/a%20dir/%3Clink%3E", &[]).await;
    assert_eq!((link.text().as_str(), link.header("content-type")), ("../../etc", Some("inode/symlink")));
    assert_eq!(local.vfs.getattr(dir).await.expect("there").kind, FileKind::Dir);
}

#[tokio::test]
async fn pages_of_other_origins_get_nothing() {
    let local = Local::new();
    let file = local.make(local.vfs.root(), b"secret", NewNode::File).await;
    local.write(file, 0, b"secret").await;
    let own = format!("http://{}", local.server.local_addr());
    for (headers, status) in [
        (&[][..], 200),
        (&[("Origin", own.as_str())], 200),
        (&[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "cors")], 200),
        (&[("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")], 200),
        (&[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")], 200),
        (&[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")], 403),
        (&[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")], 403),
        (&[("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "cors")], 403),
        (&[("Origin", "http://evil.example")], 403),
        (&[("Origin", "null")], 403),
    ] {
        for path in ["/local/secret", "/local/nothing", "/local/", "/"] {
            let reply = local.get(path, headers).await;
            let expected = if path == "/local/nothing" && status == 200 { 404 } else { status };
            assert_eq!(reply.status, expected, "{path} {headers:?}");
            assert!(status == 200 || !reply.text().contains("secret"), "{path} {headers:?}");
        }
    }
}

/// Five thousand names come in parts; every one of them is in one.
#[tokio::test]
async fn a_large_directory_is_shown_in_parts() {
    let local = Local::new();
    for at in 0..5000 {
        local.make(local.vfs.root(), format!("entry-{at}").as_bytes(), NewNode::File).await;
    }
    let first = local.get("/local/", &[]).await.text();
    let next = first.split("rel=\"next\" href=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("more");
    let second = local.get(next, &[]).await.text();
    assert!(!second.contains("rel=\"next\""));
    let all = first + &second;
    let shown: std::collections::HashSet<&str> =
        all.split(['>', '<']).filter(|text| text.starts_with("entry-")).collect();
    assert_eq!(shown.len(), 5000);
}
