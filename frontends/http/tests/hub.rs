//! Goal: the hub answers what clients of 0-hub ask, nobody changes what is not theirs, and nothing is half there or elsewhere.
//! Method: a server over a directory, with a reader for which an flist is what begins so, and requests as clients send them.

mod web;

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use muxfs::{
    Error, ErrorKind, FileKind, Mount, MuxFs, Name, Prefix,
    testing::{env, model::ModelFs},
};
use muxfs_http::{Flists, Hub, HubFlist, HubNode, HubOptions, HubUser, Options, Server, Token, with_hub_user};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::web::{Reply, TOKEN, ask, basic, send, writing};

const ALICE: &str = "alice-0123456789abcdef";
const BOB: &str = "bob-0123456789abcdef";
const FLIST_LEN_MAX: u64 = 1 << 20;

/// Takes for an flist what begins so, for one without its chunks what ends with `!`, and for an archive what begins so.
#[derive(Debug)]
struct Reader;

fn node(name: &str, kind: FileKind, size: u64) -> HubNode {
    let name = Name::new(name.as_bytes()).expect("a name");
    HubNode { name, kind, size, mode: 0o755, mtime: SystemTime::UNIX_EPOCH, target: "to <b>".into() }
}

fn read(file: &Path) -> muxfs::Result<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    if text.starts_with("flist") {
        return Ok(text);
    }
    Err(Error::new(ErrorKind::Corrupt, "test").because("it is no flist"))
}

#[async_trait]
impl Flists for Reader {
    fn look(&self, file: &Path) -> muxfs::Result<HubFlist> {
        let metadata =
            [("readme", "<script>alert(1)</script>"), ("environ", "{\"A\": \"1\"}"), ("content", &read(file)?)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()));
        Ok(HubFlist { format: "test".into(), metadata: metadata.into(), routes: vec!["<i>zdb".into()] })
    }

    fn list(&self, file: &Path, dir: &[Name]) -> muxfs::Result<Vec<HubNode>> {
        read(file)?;
        match &dir.iter().map(ToString::to_string).collect::<Vec<_>>()[..] {
            [] => Ok(vec![node("etc", FileKind::Dir, 4096), node("<b>", FileKind::Symlink, 6)]),
            [etc] if etc == "etc" => {
                Ok((0..1500).map(|index| node(&format!("f{index:04}"), FileKind::File, 7)).collect())
            }
            _ => Err(Error::new(ErrorKind::NotFound, "test")),
        }
    }

    fn walk(&self, file: &Path, tell: &mut (dyn FnMut(&[u8], &HubNode) -> bool + Send)) -> muxfs::Result<()> {
        let text = read(file)?;
        // One that is long, and goes bad at its end.
        let count = if text.contains("long") { 20_000 } else { 1 };
        if !tell(b"/etc", &node("etc", FileKind::Dir, 4096)) {
            return Ok(());
        }
        for _ in 0..count {
            if !tell(b"/etc/\"\xff", &node("f", FileKind::File, 7)) {
                return Ok(());
            }
        }
        if text.contains("bad") { Err(Error::new(ErrorKind::Corrupt, "test")) } else { Ok(()) }
    }

    async fn check(&self, file: &Path) -> muxfs::Result<()> {
        if !read(file)?.ends_with('!') {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, "test").at("/etc/f").because("its chunk abcd is not stored"))
    }

    async fn make(
        &self,
        archive: &Path,
        target: &Path,
        is_fl: bool,
        metadata: Vec<(String, String)>,
    ) -> muxfs::Result<()> {
        let text = fs::read_to_string(archive).expect("it is there");
        if !text.starts_with("archive") {
            return Err(Error::new(ErrorKind::Corrupt, "test").because("it is no archive"));
        }
        fs::write(target, format!("flist of {text} {is_fl} {metadata:?}")).expect("written");
        Ok(())
    }

    async fn merge(&self, files: &[PathBuf], target: &Path) -> muxfs::Result<()> {
        let all = files.iter().map(|file| read(file)).collect::<muxfs::Result<Vec<_>>>()?;
        fs::write(target, all.join("+")).expect("written");
        Ok(())
    }
}

struct World {
    dir: TempDir,
    server: Server,
}

impl World {
    fn new() -> Self {
        Self::with(Options::default(), false)
    }

    fn with(options: Options, is_public: bool) -> Self {
        let dir = TempDir::new().expect("a directory");
        fs::create_dir_all(dir.path().join("hub/alice")).expect("made");
        fs::write(dir.path().join("hub/alice/one.flist"), "flist one").expect("written");
        let mut users = String::new();
        for (name, acts_for, token) in [("alice", &[][..], ALICE), ("bob", &["official"], BOB)] {
            let user = HubUser::new(name, acts_for, &Token::new(token).expect("a token")).expect("a user");
            users = with_hub_user(&users, &user).expect("added");
        }
        fs::write(dir.path().join("users"), users).expect("written");
        let server = serve(dir.path(), options, is_public);
        Self { dir, server }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("hub").join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).expect("there")
    }

    async fn get(&self, path: &str) -> Reply {
        ask(self.server.local_addr(), "GET", path, &[]).await
    }

    async fn json(&self, path: &str) -> Value {
        let reply = self.get(path).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")), "{}", reply.text());
        serde_json::from_slice(&reply.body).expect("JSON")
    }

    /// Asks as a user; the status, and what is told.
    async fn as_user(&self, token: &str, method: &str, path: &str) -> (u16, Value) {
        let shown = format!("bearer {token}");
        let reply = ask(self.server.local_addr(), method, path, &[("Authorization", &shown)]).await;
        (reply.status, serde_json::from_slice(&reply.body).unwrap_or_default())
    }

    /// Asks for a change that has to be made.
    async fn done(&self, token: &str, method: &str, path: &str) {
        assert_eq!(self.as_user(token, method, path).await, (200, json!({ "status": "success" })), "{method} {path}");
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Value) {
        let headers = [&[("Content-Type", "multipart/form-data; boundary=xyz")][..], headers].concat();
        let reply = send(self.server.local_addr(), "POST", path, &headers, body).await;
        (reply.status, serde_json::from_slice(&reply.body).unwrap_or_default())
    }

    async fn upload(&self, token: &str, file: &str, data: &[u8]) -> (u16, Value) {
        let shown = format!("Bearer {token}");
        self.post("/api/flist/me/upload-flist", &[("Authorization", &shown)], &form(file, data)).await
    }

    /// Whether nothing is left of what did not arrive.
    fn is_clean(&self) -> bool {
        let is_part = |entry: std::io::Result<fs::DirEntry>| {
            entry.expect("an entry").file_name().to_string_lossy().starts_with(".muxfs-part")
        };
        !fs::read_dir(self.path("")).expect("listed").any(is_part)
    }
}

/// A server of a hub, with a mount beside it.
fn serve(dir: &Path, options: Options, is_public: bool) -> Server {
    let hub = HubOptions {
        dir: dir.join("hub"),
        users: dir.join("users"),
        official: vec!["official".into()],
        is_public,
        flist_len_max: FLIST_LEN_MAX,
        archive_len_max: 2 * FLIST_LEN_MAX,
        ending: ".flist",
        storage: Some("zdb://chunks.example:9900".into()),
    };
    let hub = Hub::open(hub, Arc::new(Reader)).expect("opens");
    let mut mux = MuxFs::new();
    mux.mount(Mount::location(Prefix::new("mem").expect("a prefix"), ModelFs::new(env()), env())).expect("mounted");
    muxfs_http::serve(mux, Options { addr: ([127, 0, 0, 1], 0).into(), hub: Some(hub), ..options }).expect("listens")
}

fn form(file: &str, data: &[u8]) -> Vec<u8> {
    let head = format!("--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{file}\"\r\n\r\n");
    [head.as_bytes(), data, b"\r\n--xyz--\r\n"].concat()
}

#[tokio::test]
async fn anybody_lists_searches_and_downloads() {
    let world = World::new();
    let repositories = world.json("/api/repositories").await;
    let updated = repositories[0]["updated"].as_i64().expect("a time");
    assert_eq!(repositories, json!([{ "name": "alice", "official": false, "updated": updated }]));
    assert_eq!(world.json("/api/flist").await, json!(["alice/one.flist"]));
    assert_eq!(world.json("/api/search?q=ONE").await, json!(["alice/one.flist"]));
    assert_eq!(world.json("/api/search?q=two").await, json!([]));
    let list = world.json("/api/flist/alice").await;
    let time = list[0]["updated"].as_i64().expect("a time");
    let one = json!({ "name": "one.flist", "size": "0.00 KB", "updated": time, "type": "regular" });
    assert_eq!(list, json!([one]));
    assert_eq!(world.json("/api/fileslist").await, json!({ "alice": [one] }));
    let md5 = "071423860b2480722256aa916884d746"; // of md5sum
    let light = world.json("/api/flist/alice/one.flist/light").await;
    assert_eq!(light, json!({ "name": "one.flist", "size": 9, "updated": time, "type": "regular", "md5": md5 }));
    assert_eq!(world.json("/api/flist/alice/one/light").await, light, "the ending may be left out");
    let info = ask(world.server.local_addr(), "INFO", "/api/flist/alice/one.flist", &[]).await;
    assert_eq!(serde_json::from_slice::<Value>(&info.body).expect("JSON"), light);
    let content = world.json("/api/flist/alice/one.flist").await;
    let nodes = json!([{ "path": "/etc", "size": 4096 }, { "path": "/etc/\"\u{fffd}", "size": 7 }]);
    assert_eq!(
        content,
        json!({
            "content": nodes, "regular": 1, "directory": 1, "symlink": 0, "special": 0, "failure": 0, "fullsize": 7,
        })
    );
    let metadata = world.json("/api/flist/alice/one.flist/metadata").await;
    assert_eq!((&metadata["environ"], &metadata["content"]), (&json!({ "A": "1" }), &json!("flist one")));
    // The same below /hub, where no mount can be in the way.
    for base in ["", "/hub"] {
        let file = world.get(&format!("{base}/alice/one.flist")).await;
        assert_eq!((file.status, &file.body[..], file.header("content-length")), (200, &b"flist one"[..], Some("9")));
        assert_eq!(world.get(&format!("{base}/alice/one.flist.md5")).await.text(), format!("{md5}\n"));
        assert!(world.get(&format!("{base}/alice/one.txt")).await.text().contains("Source:   /alice/one.flist\n"));
        let told = world.json(&format!("{base}/alice/one.json")).await;
        assert_eq!((&told["checksum"], &told["storage"]), (&json!(md5), &json!("zdb://chunks.example:9900")));
        assert_eq!(world.json(&format!("{base}/api/flist")).await, json!(["alice/one.flist"]));
    }
    let etag = world.get("/alice/one.flist").await.header("etag").expect("a tag").to_owned();
    let again = ask(world.server.local_addr(), "GET", "/alice/one.flist", &[("If-None-Match", &etag)]).await;
    assert_eq!(again.status, 304);
    let part = ask(world.server.local_addr(), "GET", "/alice/one.flist", &[("Range", "bytes=6-")]).await;
    assert_eq!((part.status, part.text()), (206, "one".to_owned()));
    let head = ask(world.server.local_addr(), "HEAD", "/alice/one.flist", &[]).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("9"), 0));
    assert_eq!(world.get("/alice/one.flist.sig").await.status, 404);
    fs::write(world.path("alice/one.flist.sig"), "muxfs-flist-1 x y\n").expect("written");
    assert_eq!(world.get("/alice/one.flist.sig").await.text(), "muxfs-flist-1 x y\n");
    assert_eq!(world.json("/api/flist/alice").await, json!([one]), "what is no flist is not listed");
    for path in
        ["/alice/two.flist", "/bob/one.flist", "/api/flist/bob", "/api/flist/alice/two/light", "/hub/x/y/z", "/bob"]
    {
        assert_eq!(world.get(path).await.status, 404, "{path}");
    }
    assert_eq!(ask(world.server.local_addr(), "PUT", "/hub/alice/one.flist", &[]).await.status, 405);
    assert_eq!(world.get("/mem/").await.status, 200, "mounts are where they are");
}

/// A list that is long is told in pieces, and one that turns out bad is broken off, or is a status where nothing was told.
#[tokio::test]
async fn what_goes_bad_is_broken_off() {
    let world = World::new();
    fs::write(world.path("alice/long.flist"), "flist long").expect("written");
    let nodes = world.json("/api/flist/alice/long").await["content"].as_array().expect("a list").len();
    assert_eq!(nodes, 20_001);
    fs::write(world.path("alice/bad.flist"), "flist bad").expect("written");
    assert_eq!(world.get("/api/flist/alice/bad").await.status, 400);
    fs::write(world.path("alice/bad.flist"), "flist long bad").expect("written");
    let reply = world.get("/api/flist/alice/bad").await;
    assert!(reply.status == 200 && !reply.is_whole, "{}", reply.status);
    fs::write(world.path("alice/none.flist"), "none").expect("written");
    for path in ["/api/flist/alice/none", "/api/flist/alice/none/metadata", "/alice/none.md", "/alice/none.flist/tree/"]
    {
        let reply = world.get(path).await;
        assert!((400..600).contains(&reply.status) && !reply.text().contains("hub/"), "{path}: {}", reply.text());
    }
}

#[tokio::test]
async fn pages_are_of_links_and_names_stay_names() {
    let world = World::new();
    let page = async |path: &str| {
        let reply = world.get(path).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html; charset=utf-8")), "{path}");
        let policy = reply.header("content-security-policy").expect("a policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("form-action 'self'"), "{policy}");
        let text = reply.text();
        assert!(!text.contains("<script") && !text.contains("<b>") && !text.contains("<i>"), "{path}: {text}");
        text
    };
    fs::create_dir(world.path("official")).expect("made");
    let all = page("/hub").await;
    assert!(all.contains("<a href=\"/hub/alice\">alice</a>") && all.contains("<form action=\"/hub\""), "{all}");
    assert!(all.find("/hub/official").expect("there") < all.find("/hub/alice").expect("there"), "official ones first");
    let found = page("/hub?q=ONE%22%3E%3Cscript%3E").await;
    assert!(found.contains("No flist") && found.contains("&lt;script&gt;"), "{found}");
    assert!(page("/hub?q=ONE").await.contains("<a href=\"/hub/alice/one.flist.md\">alice/one.flist</a>"));
    assert!(page("/alice").await.contains("<a href=\"/hub/alice/one.flist.md\">one.flist</a>"));
    let flist = page("/alice/one.flist.md").await;
    for part in [
        "<a href=\"/hub/alice/one.flist\">one.flist</a>",
        "&lt;script&gt;alert(1)",
        "071423860b2480722256aa916884d746",
        "<a href=\"/hub/alice/one.flist/tree/etc/\">etc</a>/",
        "&lt;b&gt; → to &lt;b&gt;",
        "&lt;i&gt;zdb",
    ] {
        assert!(flist.contains(part), "{part}: {flist}");
    }
    let dir = page("/hub/alice/one.flist/tree/etc/").await;
    assert!(dir.contains("f0999") && !dir.contains("f1000"), "a part of it");
    assert!(dir.contains("/hub/alice/one.flist/tree/etc/?from=1000"), "{dir}");
    assert!(page("/hub/alice/one.flist/tree/etc/?from=1000").await.contains("f1499"));
    for path in ["/hub/alice/one.flist/tree/no/", "/hub/alice/one.flist/tree/%2e%2e/", "/hub/no", "/hub/alice/tags/no"]
    {
        assert!(matches!(world.get(path).await.status, 400 | 404), "{path}");
    }
    let headers = [("Accept", "text/html")];
    let reply = ask(world.server.local_addr(), "GET", "/hub/alice/no.md", &headers).await;
    assert!(reply.status == 404 && reply.text().contains("<h1>"), "what went wrong is a page for people");
}

#[tokio::test]
async fn names_lead_nowhere_else() {
    let world = World::new();
    let outside = TempDir::new().expect("a directory");
    fs::write(outside.path().join("secret.flist"), "flist secret").expect("written");
    fs::write(world.dir.path().join("secret.flist"), "flist secret").expect("written");
    symlink(outside.path().join("secret.flist"), world.path("alice/out.flist")).expect("made");
    symlink("../../secret.flist", world.path("alice/up.flist")).expect("made");
    symlink(outside.path(), world.path("far")).expect("made");
    symlink(outside.path(), world.path("alice/.tag-far")).expect("made");
    symlink(outside.path(), world.path("alice/faraway")).expect("made");
    for path in [
        "/alice/out.flist",
        "/alice/up.flist",
        "/alice/out.flist.md5",
        "/alice/up.md",
        "/far/secret.flist",
        "/api/flist/far",
        "/api/flist/alice/out.flist",
        "/api/flist/alice/tags/far",
        "/alice/tags/far/secret.flist",
        "/api/flist/alice/faraway/taglink",
    ] {
        let reply = world.get(path).await;
        assert!(reply.status == 404 && !reply.text().contains("secret"), "{path}: {}", reply.text());
    }
    for path in [
        "/api/flist/..%2f/x",
        "/api/flist/alice/..",
        "/alice/..%2fone.flist",
        "/api/flist/.hidden",
        "/hub/.hidden/a.flist",
        "/hub/alice/.tag-far/secret.flist",
        "/hub/%00/a.flist",
        "/hub/a%0d%0ab/c.flist",
        "/hub/users",
    ] {
        assert!(matches!(world.get(path).await.status, 400 | 404), "{path}");
    }
    for name in [
        "a b.flist",
        ".x.flist",
        "..flist",
        "x.flist%00",
        "x\u{e9}.flist",
        "x.exe",
        &format!("{}.flist", "x".repeat(200)),
    ] {
        assert_eq!(world.upload(ALICE, name, b"flist").await.0, 400, "{name}");
    }
    // A path of the client's machine is none here.
    assert_eq!(world.upload(ALICE, "../bob/x.flist", b"flist").await.0, 200);
    assert!(world.path("alice/x.flist").exists() && !world.path("bob").exists());
    for path in ["..%2fx/rename/y", "x/rename/..%2f..%2fy", "x/link/.hidden", "promote/alice/x/.y", "x/y/tag/..%2f/z"] {
        let (status, _) = world.as_user(ALICE, "GET", &format!("/api/flist/me/{path}")).await;
        assert!(matches!(status, 400 | 404), "{path}: {status}");
    }
    assert!(world.is_clean());
}

#[tokio::test]
async fn who_may_change_what() {
    let world = World::new();
    let form = form("x.flist", b"flist");
    let path = "/api/flist/me/upload-flist";
    let (alice, bob) = (format!("Bearer {ALICE}"), format!("Bearer {BOB}"));
    assert_eq!(world.post(path, &[], &form).await.0, 401);
    assert_eq!(world.post(path, &[("Authorization", "Bearer wrong")], &form).await.0, 401);
    // As a browser would send by itself what it was told.
    assert_eq!(world.post(path, &[("Authorization", "Basic OmFsaWNlLTAxMjM0NTY3ODlhYmNkZWY=")], &form).await.0, 401);
    for foreign in [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "cross-site"), ("Host", "evil.example")] {
        let (status, _) = world.post(path, &[("Authorization", &alice), foreign], &form).await;
        assert!(matches!(status, 400 | 403), "{foreign:?}: {status}");
    }
    let reply = ask(world.server.local_addr(), "GET", "/api/flist/me", &[]).await;
    assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("Bearer realm=\"MuxFS hub\"")));
    assert!(reply.text().contains("\"status\":\"error\""), "{}", reply.text());
    assert!(!world.path("alice/x.flist").exists() && world.is_clean());
    let me = world.as_user(BOB, "GET", "/api/flist/me").await;
    assert_eq!(me, (200, json!({ "status": "success", "payload": { "username": "bob" } })));
    // For another repository, where the user may.
    let official = [("Authorization", &*bob), ("Cookie", "a=b; active-user=official")];
    assert_eq!(world.post(path, &official, &form).await.0, 200);
    assert_eq!(world.read("official/x.flist"), "flist");
    let others = [("Authorization", &*bob), ("Cookie", "active-user=alice")];
    assert_eq!(world.post(path, &others, &form).await.0, 403);
    // Nothing is anybody's that is not addressed as one's own.
    assert_eq!(world.as_user(BOB, "DELETE", "/api/flist/alice/one").await.0, 405);
    assert_eq!(world.as_user(BOB, "DELETE", "/api/flist/me/one").await.0, 404);
    assert_eq!(world.read("alice/one.flist"), "flist one");
    // A user who is taken out of the file has no rights from then on.
    fs::write(world.dir.path().join("users"), "").expect("written");
    assert_eq!(world.as_user(BOB, "GET", "/api/flist/me").await.0, 401);
}

#[tokio::test]
async fn uploads_are_checked_and_bounded() {
    let world = World::new();
    let (status, told) = world.upload(BOB, "x.flist", b"none").await;
    assert!(status == 400 && told["message"].as_str().expect("why").contains("it is no flist"), "{told}");
    let (status, told) = world.upload(BOB, "x.flist", b"flist!").await;
    let why = told["message"].as_str().expect("why");
    assert!(status == 400 && why.contains("/etc/f") && why.contains("chunk abcd"), "{told}");
    let large = [&b"flist"[..], &vec![0; 2 << 20]].concat();
    assert_eq!(world.upload(BOB, "x.flist", &large).await.0, 413);
    assert!(world.is_clean() && !world.path("bob/x.flist").exists());
    let (status, told) = world.upload(BOB, "x.flist", b"flist two").await;
    assert_eq!((status, &told["payload"]["name"]), (200, &json!("x.flist")), "{told}");
    assert_eq!(told["payload"]["files"]["response"]["regular"], 1);
    assert_eq!(world.read("bob/x.flist"), "flist two");
    let shown = format!("Bearer {BOB}");
    let headers = [("Authorization", &*shown), ("X-Original-Name", "/tmp/dir/other.fl")];
    assert_eq!(world.post("/api/flist/me/upload-flist", &headers, &form("x", b"flist")).await.0, 200);
    assert_eq!(world.read("bob/other.fl"), "flist");

    let metadata = b"--xyz\r\nContent-Disposition: form-data; name=\"metadata-a\"\r\n\r\n1\r\n\
                     --xyz\r\nContent-Disposition: form-data; name=\"metadata-backend\"\r\n\r\n2\r\n";
    let body = [&metadata[..], &form("app.tar.gz", b"archive")].concat();
    let (status, told) = world.post("/api/flist/me/upload", &headers[..1], &body).await;
    assert_eq!((status, &told["payload"]["name"]), (200, &json!("app.flist")), "{told}");
    assert_eq!(world.read("bob/app.flist"), "flist of archive false [(\"a\", \"1\")]");
    for (path, file) in [("upload", "b.tar"), ("docker", "c.tar"), ("upload", "d.fl.tar.zst")] {
        let (status, told) = world.post(&format!("/api/flist/me/{path}"), &headers[..1], &form(file, b"archive")).await;
        assert_eq!(status, 200, "{told}");
    }
    assert!(world.path("bob/b.flist").exists() && world.path("bob/c.flist").exists());
    assert!(world.read("bob/d.fl").contains("true"));
    for (file, data) in [("app.tar.gz", &b"none"[..]), ("app.zip", b"archive"), ("app.flist", b"archive")] {
        assert_eq!(world.post("/api/flist/me/upload", &headers[..1], &form(file, data)).await.0, 400, "{file}");
    }
    let image = [headers[0], ("Content-Type", "application/x-www-form-urlencoded")];
    let reply = send(world.server.local_addr(), "POST", "/api/flist/me/docker", &image, b"image=redis").await;
    assert!(reply.status == 501 && reply.text().contains("docker save"), "{}", reply.text());
    assert!(world.is_clean());
}

#[tokio::test]
async fn links_tags_and_what_else_has_a_name() {
    let world = World::new();
    assert_eq!(world.upload(BOB, "x.flist", b"flist two").await.0, 200);
    world.done(BOB, "GET", "/api/flist/me/x/link/latest").await;
    world.done(BOB, "GET", "/api/flist/me/other/crosslink/alice/one").await;
    let link = fs::read_link(world.path("bob/other.flist")).expect("a link");
    assert_eq!(link.to_str(), Some("../alice/one.flist"));
    assert_eq!(world.get("/bob/other.flist").await.text(), "flist one");
    let list = world.json("/api/flist/bob").await;
    assert_eq!((&list[0]["target"], &list[0]["type"]), (&json!("x.flist"), &json!("symlink")), "{list}");
    assert_eq!((&list[1]["target"], &list[1]["size"]), (&json!("alice/one.flist"), &json!("0.00 KB")), "{list}");
    let light = world.json("/api/flist/bob/other/light").await;
    assert_eq!(
        (&light["type"], &light["target"], &light["size"]),
        (&json!("symlink"), &json!("../alice/one.flist"), &json!(9))
    );
    // A link is led elsewhere, an flist is not replaced by one.
    world.done(BOB, "GET", "/api/flist/me/latest/crosslink/alice/one").await;
    assert_eq!(world.get("/bob/latest.flist").await.text(), "flist one");
    assert_eq!(world.as_user(BOB, "GET", "/api/flist/me/latest/link/x").await.0, 409);
    assert_eq!(world.as_user(BOB, "GET", "/api/flist/me/x/link/x").await.0, 409);
    assert_eq!(world.as_user(BOB, "GET", "/api/flist/me/none/link/y").await.0, 404);

    world.done(ALICE, "GET", "/api/flist/me/v1/app/tag/bob/x").await;
    world.done(ALICE, "GET", "/api/flist/me/v1/base/tag/alice/one").await;
    assert_eq!(
        fs::read_link(world.path("alice/.tag-v1/app.flist")).expect("a link").to_str(),
        Some("../../bob/x.flist")
    );
    let tag = world.json("/api/flist/alice/tags/v1").await;
    assert_eq!(
        (&tag[0]["name"], &tag[0]["target"], &tag[1]["name"]),
        (&json!("app.flist"), &json!("bob/x.flist"), &json!("base.flist"))
    );
    assert_eq!(world.get("/alice/tags/v1/app.flist").await.text(), "flist two");
    assert!(world.get("/hub/alice/tags/v1").await.text().contains("/hub/alice/tags/v1/app.flist"));
    let list = world.json("/api/flist/alice").await;
    assert_eq!((&list[0]["name"], &list[0]["type"]), (&json!("v1"), &json!("tag")), "{list}");
    world.done(BOB, "GET", "/api/flist/me/stable/crosstag/alice/v1").await;
    assert_eq!(world.json("/api/flist/bob/stable/taglink").await, json!({ "target": "alice/tags/v1" }));
    let list = world.json("/api/flist/bob").await;
    let stable = list.as_array().expect("a list").iter().find(|entry| entry["name"] == "stable").expect("there");
    assert_eq!((&stable["type"], &stable["target"]), (&json!("taglink"), &json!("alice/tags/v1")));
    for path in ["x/crosstag/alice/v1", "y.flist/crosstag/alice/v1"] {
        assert_eq!(world.as_user(BOB, "GET", &format!("/api/flist/me/{path}")).await.0, 409, "{path}");
    }
    assert_eq!(world.as_user(BOB, "GET", "/api/flist/me/y/crosstag/alice/v2").await.0, 404);
    world.done(BOB, "DELETE", "/api/flist/me/stable").await;
    assert_eq!(world.get("/api/flist/bob/stable/taglink").await.status, 404);
    world.done(ALICE, "DELETE", "/api/flist/me/v1/app/tag/bob/x").await;
    assert_eq!(world.json("/api/flist/alice/tags/v1").await.as_array().expect("a list").len(), 1);
    world.done(ALICE, "DELETE", "/api/flist/me/v1/base/tag/alice/one").await;
    assert_eq!(world.get("/api/flist/alice/tags/v1").await.status, 404, "the last one takes the tag along");
    assert_eq!(world.as_user(ALICE, "DELETE", "/api/flist/me/v1/base/tag/alice/one").await.0, 404);

    // What is promoted is a copy, and the link that had its name leads nowhere any more.
    let (status, told) = world.as_user(BOB, "GET", "/api/flist/me/promote/alice/one/other").await;
    assert_eq!((status, &told["payload"]["destination"]["filename"]), (200, &json!("other.flist")));
    assert!(!fs::symlink_metadata(world.path("bob/other.flist")).expect("there").is_symlink());
    assert_eq!(world.read("alice/one.flist"), "flist one", "it was a link to this");
    world.done(BOB, "GET", "/api/flist/me/other/rename/mine").await;
    assert_eq!(world.read("bob/mine.flist"), "flist one");
    let shown = format!("Bearer {BOB}");
    let merge = async |target: &str, list: &str| {
        let headers = [("Authorization", &*shown), ("Content-Type", "application/json")];
        let path = format!("/api/flist/me/merge/{target}");
        send(world.server.local_addr(), "POST", &path, &headers, list.as_bytes()).await.status
    };
    assert_eq!(merge("both", "[\"bob/mine\", \"bob/x.flist\"]").await, 200);
    assert_eq!(world.read("bob/both.flist"), "flist one+flist two");
    assert_eq!(merge("both", "[\"bob/none\"]").await, 404);
    for bad in
        ["", "{}", "[]", "[\"mine\"]", "[\"../bob/mine\"]", "[1]", &format!("[{}\"a/b\"]", "\"a/b\",".repeat(64))]
    {
        assert_eq!(merge("both", bad).await, 400, "{bad}");
    }
    world.done(BOB, "DELETE", "/api/flist/me/mine").await;
    assert_eq!(world.as_user(BOB, "DELETE", "/api/flist/me/mine").await.0, 404);
    assert!(world.is_clean());
}

/// Two servers have one directory: each sees at once what the other did, users too.
#[tokio::test]
async fn a_second_server_sees_the_same() {
    let world = World::new();
    let second = serve(world.dir.path(), Options::default(), false);
    assert_eq!(world.upload(ALICE, "one.flist", b"flist newer").await.0, 200);
    let get = async |path: &str| ask(second.local_addr(), "GET", path, &[]).await;
    assert_eq!(get("/alice/one.flist").await.text(), "flist newer");
    let md5 = get("/alice/one.flist.md5").await.text();
    assert_eq!(world.get("/alice/one.flist.md5").await.text(), md5);
    world.done(ALICE, "GET", "/api/flist/me/v1/app/tag/alice/one").await;
    assert_eq!(get("/alice/tags/v1/app.flist").await.text(), "flist newer");
    let carol = HubUser::new("carol", &[], &Token::new("carol-0123456789abcdef").expect("a token")).expect("a user");
    let users =
        with_hub_user(&fs::read_to_string(world.dir.path().join("users")).expect("read"), &carol).expect("added");
    fs::write(world.dir.path().join("users"), users).expect("written");
    for addr in [world.server.local_addr(), second.local_addr()] {
        let shown = [("Authorization", "Bearer carol-0123456789abcdef")];
        assert_eq!(ask(addr, "GET", "/api/flist/me", &shown).await.status, 200);
    }
}

/// What asks for a token else asks for it here, and any user's is one; what is public asks nobody.
#[tokio::test]
async fn who_may_read() {
    let private = || Options { private: true, writing: Some(writing(ModelFs::new(env()))), ..Options::default() };
    let world = World::with(private(), false);
    let reads = async |world: &World, headers: &[(&str, &str)]| {
        ask(world.server.local_addr(), "GET", "/alice/one.flist", headers).await.status
    };
    assert_eq!(reads(&world, &[]).await, 401);
    assert_eq!(reads(&world, &[("Authorization", "Bearer wrong-0123456789abcdef")]).await, 401);
    // Who is asked is told what is taken: a browser asks people for the token, or for a user of the server.
    let offered = world.get("/alice/one.flist").await.header("www-authenticate").map(str::to_owned);
    assert!(offered.as_ref().is_some_and(|ways| ways.starts_with("Basic")), "{offered:?}");
    assert_eq!(reads(&world, &[("Authorization", &basic("anybody", TOKEN))]).await, 200);
    for token in [ALICE, BOB, TOKEN] {
        assert_eq!(reads(&world, &[("Authorization", &format!("Bearer {token}"))]).await, 200, "{token}");
    }
    let evil = [("Authorization", &*format!("Bearer {ALICE}")), ("Origin", "http://evil.example")];
    assert_eq!(reads(&world, &evil).await, 403);
    let world = World::with(private(), true);
    assert_eq!(reads(&world, &[]).await, 200);
    let reply = ask(world.server.local_addr(), "GET", "/api/repositories", &[("Origin", "http://a.example")]).await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, Some("*")));
    assert_eq!(world.get("/mem/").await.status, 401, "nothing else is public");
    let elsewhere = [("Host", "evil.example")];
    assert_eq!(reads(&world, &elsewhere).await, 403);
}

/// A user of the server whose home is not everything gets at no flist, by no address of the hub, but of one that is public; and
/// the token of a user of the hub counts whoever else a browser is.
#[tokio::test]
async fn users_of_the_server_read_what_is_in_no_home_where_theirs_is_all() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("users");
    let mut users = "version = 1\n".to_owned();
    for (name, home) in [("ann", "/mem/ann"), ("hubert", "/hub"), ("eve", "/")] {
        users += &muxfs_users::user_line(name, "secret", home, false, &env()).expect("a user");
    }
    fs::write(&file, users).expect("written");
    for (private, is_public) in [(false, false), (true, false), (false, true), (true, true)] {
        let options = Options {
            private,
            writing: Some(writing(ModelFs::new(env()))),
            users: Some(file.clone()),
            ..Options::default()
        };
        let world = World::with(options, is_public);
        let addr = world.server.local_addr();
        let get = async |shown: &[(&str, &str)], path: &str| ask(addr, "GET", path, shown).await.status;
        for path in [
            "/hub",
            "/hub/",
            "/hub/alice",
            "/hub/alice/one.flist",
            "/alice/one.flist",
            "/alice/one.flist.md5",
            "/hub/alice/one.md",
            "/hub/alice/one.flist/tree/",
            "/api/flist",
            "/api/fileslist",
            "/api/search?q=one",
            "/hub/api/flist/alice",
            "/api/flist/alice/one.flist",
            "/hub/nothing.flist",
        ] {
            let told = get(&[("Authorization", &basic("eve", "secret"))], path).await;
            assert!(![401, 403].contains(&told), "{path} is there for who is at home everywhere: {told}");
            for name in ["ann", "hubert"] {
                let of_user = get(&[("Authorization", &basic(name, "secret"))], path).await;
                assert_eq!(of_user, if is_public { told } else { 403 }, "{name} {path}");
            }
        }
        let wrong = get(&[("Authorization", &basic("eve", "wrong"))], "/hub").await;
        assert_eq!(wrong, if is_public { 200 } else { 401 });
        // Nobody changes the hub by a password, be it the right one.
        for name in ["ann", "eve"] {
            assert_eq!(get(&[("Authorization", &basic(name, "secret"))], "/api/flist/me").await, 401, "{name}");
        }
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let logged = send(addr, "POST", "/.muxfs/login", &form, b"user=ann&token=secret").await;
        let cookie = logged.header("set-cookie").and_then(|cookie| cookie.split(';').next()).expect("a cookie");
        assert_eq!(get(&[("Cookie", cookie)], "/hub").await, if is_public { 200 } else { 403 });
        let alice = format!("Bearer {ALICE}");
        let both = [("Cookie", cookie), ("Authorization", &*alice)];
        assert_eq!((get(&both, "/hub").await, get(&both, "/api/flist/me").await), (200, 200));
        assert_eq!(get(&[("Authorization", &alice)], "/mem/").await, 401, "of the hub alone");
    }
}

/// The connection ends in the middle of a form: what was there stays, and nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_upload_leaves_the_old_one() {
    let world = World::new();
    let form = form("one.flist", b"flist other");
    for len in [0, 10, form.len() - 8] {
        let mut stream = TcpStream::connect(world.server.local_addr()).expect("connected");
        let head = format!(
            "POST /api/flist/me/upload-flist HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ALICE}\r\n\
             Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: {}\r\n\r\n",
            form.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&form[..len])).expect("sent");
        drop(stream);
    }
    assert_eq!(world.upload(ALICE, "two.flist", b"flist two").await.0, 200);
    assert_eq!(
        (world.read("alice/one.flist"), world.read("alice/two.flist")),
        ("flist one".into(), "flist two".into())
    );
    while !world.is_clean() {
        tokio::task::yield_now().await;
    }
}

/// A repository has half of the uploads at most: whoever keeps them waiting keeps nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn one_repository_does_not_hold_all_uploads() {
    let world = World::new();
    let parts = || {
        let all = fs::read_dir(world.path("")).expect("listed");
        all.filter(|entry| {
            let entry = entry.as_ref().expect("an entry");
            entry.file_name().to_string_lossy().starts_with(".muxfs-part")
        })
        .count()
    };
    let held: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(world.server.local_addr()).expect("connected");
            let head = format!(
                "POST /api/flist/me/upload-flist HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ALICE}\r\n\
                 Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: 1000\r\n\r\n--xyz"
            );
            stream.write_all(head.as_bytes()).expect("sent");
            stream
        })
        .collect();
    while parts() < held.len() {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.upload(ALICE, "two.flist", b"flist two").await.0, 503);
    assert_eq!(world.upload(BOB, "two.flist", b"flist two").await.0, 200);
    drop(held);
    while parts() > 0 {
        tokio::task::yield_now().await;
    }
    let mut status = 503;
    while status == 503 {
        status = world.upload(ALICE, "two.flist", b"flist two").await.0;
    }
    assert_eq!(status, 200);
}

/// Signatures are of some bytes, and are nowhere beside others.
#[tokio::test]
async fn signatures_go_where_their_bytes_go() {
    let world = World::new();
    let sign = |path: &str| fs::write(world.path(path), "muxfs-flist-1 x y\n").expect("written");
    sign("alice/one.flist.sig");
    world.done(ALICE, "GET", "/api/flist/me/one/rename/two").await;
    assert_eq!(world.get("/alice/two.flist.sig").await.text(), "muxfs-flist-1 x y\n");
    assert!(!world.path("alice/one.flist.sig").exists());
    assert_eq!(world.as_user(BOB, "GET", "/api/flist/me/promote/alice/two/x").await.0, 200);
    assert_eq!(world.read("bob/x.flist.sig"), "muxfs-flist-1 x y\n");
    assert_eq!(world.upload(ALICE, "two.flist", b"flist newer").await.0, 200);
    assert_eq!(world.get("/alice/two.flist.sig").await.status, 404);
    // One without any in the place of one that has some.
    assert_eq!(world.as_user(BOB, "GET", "/api/flist/me/promote/alice/two/x").await.0, 200);
    assert!(!world.path("bob/x.flist.sig").exists() && world.read("bob/x.flist") == "flist newer");
    sign("bob/x.flist.sig");
    world.done(BOB, "DELETE", "/api/flist/me/x").await;
    assert!(!world.path("bob/x.flist.sig").exists() && world.is_clean());
}

/// What an ended server left goes, what another one receives just now stays.
#[tokio::test]
async fn what_did_not_arrive_is_removed_at_the_next_start() {
    let world = World::new();
    let old = SystemTime::now() - Duration::from_hours(1);
    for (name, time) in [
        (".muxfs-part-left", old),
        (".muxfs-part-held", old),
        (".flist-left", old),
        (".muxfs-part-new", SystemTime::now()),
    ] {
        let file = fs::File::create(world.path(name)).expect("made");
        file.set_modified(time).expect("set");
    }
    std::os::unix::fs::symlink("nowhere", world.path(".muxfs-part-link")).expect("linked");
    let touched = std::process::Command::new("touch")
        .args(["-h", "-t", "200001010000"])
        .arg(world.path(".muxfs-part-link"))
        .status();
    assert!(touched.expect("it runs").success());
    let held = fs::File::open(world.path(".muxfs-part-held")).expect("opened");
    held.lock().expect("locked");
    let _second = serve(world.dir.path(), Options::default(), false);
    let left = [".muxfs-part-left", ".muxfs-part-held", ".flist-left", ".muxfs-part-new"]
        .map(|name| world.path(name).exists());
    assert_eq!(left, [false, true, false, true]);
    assert!(fs::symlink_metadata(world.path(".muxfs-part-link")).is_err(), "a link that got no name goes, too");
    assert_eq!(world.read("alice/one.flist"), "flist one");
}
