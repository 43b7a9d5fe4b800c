//! WebDAV: what is written over it is what the namespace holds then, whole and durable, and written by nobody else.

mod web;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use muxfs::{
    ErrorKind, FileKind, Mount, MuxFs, Name, Prefix, Result, forward_vfs,
    testing::{Clock, env, model::ModelFs},
    vfs::{
        Attr, Changed, Cookie, Ino, Lease, Listing, NewNode, Place, RenameMode, Renamed, SetAttr, SetTime, Vfs,
        XattrMode, XattrName, ext,
    },
};
use muxfs_http::{Options, Server, Writing};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};

use self::web::{OWNER, Reply, TOKEN, ask, reply, send, writing};

const BEARER: (&str, &str) = ("Authorization", OWNER);

/// Two mounts that are written, over model file systems.
struct Site {
    server: Server,
    models: [Arc<ModelFs>; 2],
    gate: Arc<Gate>,
    renames: Arc<Gate>,
    /// Of the second mount.
    renames_there: Arc<Gate>,
    vfs: Arc<dyn Vfs>,
}

/// Holds up whoever copies, or changes names, below it while it is closed.
#[derive(Debug)]
struct Gate {
    is_closed: AtomicBool,
    reached: Semaphore,
    open: Semaphore,
}

impl Gate {
    async fn pass(&self) {
        if self.is_closed.load(Ordering::SeqCst) {
            self.reached.add_permits(1);
            self.open.acquire().await.expect("open").forget();
        }
    }

    /// Waits until somebody stands before it.
    async fn reached(&self) {
        let reached = timeout(Duration::from_secs(30), self.reached.acquire()).await;
        reached.expect("somebody copies").expect("open").forget();
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }

    /// For who stands before it, and all who come.
    fn open(&self) {
        self.is_closed.store(false, Ordering::SeqCst);
        self.open.add_permits(1);
    }
}

/// A mount: a model that copies through a gate, and renames through another.
#[derive(Debug)]
struct Gated {
    model: Arc<ModelFs>,
    gate: Arc<Gate>,
    renames: Arc<Gate>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for Gated {
    forward_vfs!(model: root, lookup, parent, getattr, readdir, readlink, statfs, handle, resolve, retain, release);
    forward_vfs!(model: setattr, write, create, remove, link, allocate, punch_hole, seek, host_file);
    forward_vfs!(model: getxattr, listxattr, setxattr, removexattr, sync, sync_inode, expect);

    async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        let read = self.model.read(ino, offset, len).await;
        self.gate.pass().await;
        read
    }

    async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        let copied = self.model.copy_range(from, to, len).await;
        self.gate.pass().await;
        copied
    }

    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        let renamed = self.model.rename(from, to, mode).await;
        self.renames.pass().await;
        renamed
    }
}

fn name(name: &[u8]) -> Name {
    Name::new(name).expect("a name")
}

impl Site {
    async fn new() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        Self::with_async(options, &[]).await
    }

    /// The names of these mounts are durable some time later.
    async fn with_async(options: Options, asyncs: &[&str]) -> Self {
        let models = [ModelFs::new(env()), ModelFs::new(env())];
        let none = || Semaphore::new(0);
        let gate = || Arc::new(Gate { is_closed: AtomicBool::new(false), reached: none(), open: none() });
        let [gate, renames, open, renames_there] = [gate(), gate(), gate(), gate()];
        let gated = |model: &Arc<ModelFs>, gate: &Arc<Gate>, renames: &Arc<Gate>| {
            Arc::new(Gated { model: model.clone(), gate: gate.clone(), renames: renames.clone() })
        };
        let mounts = [("a", gated(&models[0], &gate, &renames)), ("b", gated(&models[1], &open, &renames_there))];
        let mut mux = MuxFs::new();
        for (prefix, vfs) in mounts {
            mux.mount(Mount::location(Prefix::new(prefix).expect("a prefix"), vfs, env())).expect("mounts");
        }
        let vfs = mux.vfs(&env()).await.expect("joins");
        let mut sync_names_except = Vec::new();
        for prefix in asyncs {
            let (_, attr) = ext::walk(&vfs, vfs.root(), &[name(prefix.as_bytes())]).await.expect("mounted");
            sync_names_except.push(attr.fsid);
        }
        let writing = Writing { sync_names_except, ..writing(vfs.clone()) };
        let options = Options { addr: ([127, 0, 0, 1], 0).into(), writing: Some(writing), ..options };
        Self { server: muxfs_http::serve(mux, options).expect("listens"), models, gate, renames, renames_there, vfs }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(method, path, headers, b"").await
    }

    /// Asks as who has the token.
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        send(self.server.local_addr(), method, path, &[&[BEARER], headers].concat(), body).await
    }

    async fn put(&self, path: &str, body: &[u8]) -> u16 {
        self.send("PUT", path, &[], body).await.status
    }

    async fn find(&self, path: &str) -> Result<(Lease, Attr)> {
        let names: Vec<Name> =
            path.split('/').filter(|part| !part.is_empty()).map(|part| name(part.as_bytes())).collect();
        ext::walk(&self.vfs, self.vfs.root(), &names).await
    }

    async fn read(&self, path: &str) -> Option<Bytes> {
        let (lease, _) = self.find(path).await.ok()?;
        Some(ext::read_to_end(&*self.vfs, lease.ino(), 1 << 30).await.expect("read"))
    }

    /// All names in a directory, those that nobody sees too.
    async fn names(&self, path: &str) -> BTreeSet<String> {
        let (lease, _) = self.find(path).await.expect("a directory");
        let page = self.vfs.readdir(lease.ino(), Cookie::START, 10_000, Listing::Names).await.expect("lists");
        page.entries.iter().map(|entry| entry.name.to_string()).collect()
    }

    fn leases(&self) -> u64 {
        self.models.iter().map(|model| model.lease_count()).sum()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.local_addr())
    }
}

fn names_of(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Waits until something is so, at most for as long as a slow machine needs.
#[allow(clippy::future_not_send, reason = "a test waits for it where it is")]
async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let waited = timeout(Duration::from_secs(30), async {
        while !is().await {
            sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// By when it was made, which no client can say; and what another frontend may go on with is left alone.
#[tokio::test]
async fn what_was_cut_off_goes_after_a_day() {
    let clock = Clock::default();
    let site = Site::with(Options { env: clock.env(1), ..Options::default() }).await;
    let (_, dir) = site.find("a").await.expect("there");
    let old = SetAttr { mtime: Some(SetTime::At(UNIX_EPOCH)), ..SetAttr::default() };
    for hidden in [".muxfs-part.http.x", ".muxfs-part.ftp.x"] {
        let made = site.vfs.create(dir.ino, &name(hidden.as_bytes()), NewNode::File, old.clone()).await.expect("made");
        site.vfs.release(made.node.ino, 1);
    }
    let mut left = Vec::new();
    for hours in [0, 23, 2] {
        clock.advance(Duration::from_hours(hours));
        assert_eq!(site.ask("PROPFIND", "/a/", &[("Depth", "1")]).await.status, 207);
        left.push((site.find("a/.muxfs-part.http.x").await.is_ok(), site.find("a/.muxfs-part.ftp.x").await.is_ok()));
    }
    assert_eq!(left, [(true, true), (true, true), (false, true)]);
}

/// Of two that know the same, one wins.
#[tokio::test]
async fn of_two_that_change_what_they_know_one_wins() {
    let site = Site::new().await;
    for round in 0..20 {
        let path = format!("/a/f{round}");
        site.put(&path, b"old").await;
        let etag = site.ask("GET", &path, &[]).await.header("etag").expect("an etag").to_owned();
        let known = [("If-Match", etag.as_str())];
        let (one, two) = tokio::join!(site.send("PUT", &path, &known, b"one"), site.send("PUT", &path, &known, b"two"));
        let mut statuses = [one.status, two.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [204, 412], "{}{}", one.text(), two.text());
        let won = if one.status == 204 { "one" } else { "two" };
        assert_eq!(site.read(&format!("a/f{round}")).await.expect("there"), won);
    }
}

#[tokio::test]
async fn a_listing_names_no_more_than_it_can_be_told() {
    let site = Site::new().await;
    let asked = |names: String| format!("<propfind xmlns='DAV:'><prop>{names}</prop></propfind>");
    let many = (0..300).map(|n| format!("<p{n}/>")).collect::<Vec<_>>().concat();
    let long = format!("<x:p xmlns:x='{}'/>", "&quot;".repeat(1000));
    let longer = (0..8).map(|n| long.replace("x:p", &format!("x:p{n}"))).collect::<Vec<_>>().concat();
    for (names, status) in [(many, 400), (long, 207), (longer, 400)] {
        let reply = site.send("PROPFIND", "/a/", &[("Depth", "0")], asked(names).as_bytes()).await;
        assert_eq!(reply.status, status, "{}", reply.text());
    }
}

#[tokio::test]
async fn what_is_written_is_what_the_namespace_holds() {
    let site = Site::new().await;
    let leases = site.leases();
    let long: Vec<u8> = (0..900_000u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(site.ask("MKCOL", "/a/d/", &[]).await.status, 201);
    for (body, status) in [(&b"one"[..], 201), (b"two", 204), (b"", 204), (&long, 204)] {
        let syncs = site.models[0].sync_count();
        assert_eq!(site.put("/a/d/f", body).await, status);
        assert!(site.models[0].sync_count() >= syncs + 2, "the bytes and the name are durable before the answer");
        assert_eq!(site.read("a/d/f").await.expect("there"), body);
        let got = ask(site.server.local_addr(), "GET", "/a/d/f", &[]).await;
        assert!(got.is_whole && got.body == body);
    }
    let put = site.send("PUT", "/a/d/%ff%3Cb%3E", &[("X-OC-Mtime", "784111777.5")], b"odd").await;
    assert_eq!((put.status, put.header("x-oc-mtime")), (201, Some("accepted")));
    let got = site.ask("GET", "/a/d/%FF%3Cb%3E", &[]).await;
    assert_eq!(
        (got.header("last-modified"), got.header("etag")),
        (Some("Sun, 06 Nov 1994 08:49:37 GMT"), put.header("etag"))
    );

    let to = |path: &str| site.url(path);
    for (method, from, to, status) in [
        ("COPY", "/a/d/f", to("/a/g"), 201),
        ("COPY", "/a/d", to("/a/e"), 201),
        ("COPY", "/a/d", to("/b/e"), 201),
        ("MOVE", "/a/g", to("/a/e/g"), 201),
        ("MOVE", "/a/e/g", to("/a/e/f"), 204),
        ("COPY", "/a/d/%ff%3cb%3e", to("/a/e/f"), 204),
        ("MOVE", "/a/d", to("/b/d"), 201),
        ("MOVE", "/b/d", to("/a/d"), 201),
    ] {
        let reply = site.ask(method, from, &[("Destination", &to)]).await;
        assert_eq!(reply.status, status, "{method} {from} {to}: {}", reply.text());
    }
    assert_eq!(site.read("a/e/f").await.expect("there"), "odd");
    assert_eq!(site.read("b/e/f").await.expect("there"), long);
    assert_eq!(site.names("a").await, names_of(&["d", "e"]));
    assert_eq!(site.ask("DELETE", "/a/e", &[]).await.status, 204);
    assert_eq!(site.ask("DELETE", "/a/e", &[]).await.status, 404);
    assert_eq!(site.names("a").await, names_of(&["d"]));
    until("all that was looked at is let go", async || site.leases() == leases).await;
}

/// A copy that replaces a directory leaves nothing of it, and one that fails leaves all of it.
#[tokio::test]
async fn what_is_replaced_is_replaced_whole() {
    let site = Site::new().await;
    for dir in ["/a/old/", "/a/old/x/", "/a/new/", "/a/new/y/"] {
        assert_eq!(site.ask("MKCOL", dir, &[]).await.status, 201);
    }
    site.put("/a/old/x/f", b"old").await;
    site.put("/a/new/y/g", b"new").await;
    let not_over = [("Destination", "/a/old"), ("Overwrite", "F")];
    assert_eq!(site.ask("COPY", "/a/new", &not_over).await.status, 412);
    assert_eq!(site.ask("MOVE", "/a/new", &not_over).await.status, 412);
    site.models[0].fail(Some(ErrorKind::NoSpace));
    assert_eq!(site.ask("COPY", "/a/new", &[("Destination", "/a/old")]).await.status, 507);
    assert_eq!(site.put("/a/old/x/f", b"newer").await, 507);
    site.models[0].fail(None);
    assert_eq!(site.read("a/old/x/f").await.expect("there"), "old");
    assert_eq!(site.ask("COPY", "/a/new", &[("Destination", "/a/old")]).await.status, 204);
    assert_eq!(site.names("a/old").await, names_of(&["y"]));
    assert_eq!(site.read("a/old/y/g").await.expect("there"), "new");
    site.put("/a/f", b"file").await;
    assert_eq!(site.ask("MOVE", "/a/f", &[("Destination", "/a/old")]).await.status, 204);
    assert_eq!(site.read("a/old").await.expect("a file"), "file");
    assert_eq!(site.ask("MOVE", "/a/new", &[("Destination", "/a/old")]).await.status, 204);
    assert_eq!(site.ask("COPY", "/a/old", &[("Destination", "/a/flat"), ("Depth", "0")]).await.status, 201);
    assert_eq!((site.names("a").await, site.names("a/flat").await), (names_of(&["flat", "old"]), names_of(&[])));
}

/// Who locks a place while something is copied to it has it: the copy, or what was to be moved, does not appear.
#[tokio::test]
async fn a_lock_that_is_taken_meanwhile_keeps_a_copy_out() {
    for (method, source, to, locked) in [
        ("COPY", "/a/f", "/a/goal", "/a/goal"),
        ("COPY", "/a/d", "/a/goal", "/a/goal"),
        ("COPY", "/a/f", "/b/goal", "/b/goal"),
        ("COPY", "/a/f", "/a/e/goal", "/a/e"),
        ("MOVE", "/a/f", "/b/goal", "/b/goal"),
        ("MOVE", "/a/d", "/b/goal", "/a/d/f"),
    ] {
        let site = Site::new().await;
        for dir in ["/a/d", "/a/e"] {
            site.ask("MKCOL", dir, &[]).await;
        }
        site.put("/a/f", b"one").await;
        site.put("/a/d/f", b"two").await;
        let (names, leases) = ([site.names("a").await, site.names("a/e").await, site.names("b").await], site.leases());
        site.gate.close();
        let destination = [("Destination", to)];
        let (done, token) = tokio::join!(site.ask(method, source, &destination), async {
            site.gate.reached().await;
            let lock = site.send("LOCK", locked, &[], LOCK.as_bytes()).await;
            assert!([200, 201].contains(&lock.status), "{}", lock.text());
            site.gate.open();
            lock.header("lock-token").expect("a token").to_owned()
        });
        assert_eq!(done.status, 423, "{method} {source} {to}: {}", done.text());
        let is_made = locked.ends_with("goal");
        if is_made {
            let held = format!("({token})");
            assert_eq!(site.read(locked).await.expect("the lock made it").len(), 0);
            assert_eq!(site.ask("DELETE", locked, &[("If", &held)]).await.status, 204);
        }
        let now = [site.names("a").await, site.names("a/e").await, site.names("b").await];
        assert_eq!(now, names, "{method} {source} {to}: nothing is left of it");
        assert_eq!(site.read("a/d/f").await.expect("there"), "two");
        until("all that was looked at is let go", async || site.leases() == leases).await;
    }
}

/// From one mount to another a copy takes the place, with times and all, and the source goes; nothing of it is left.
#[tokio::test]
async fn what_moves_to_another_mount_is_there_whole_and_nowhere_else() {
    let site = Site::new().await;
    let leases = site.leases();
    site.ask("MKCOL", "/a/d", &[]).await;
    site.ask("MKCOL", "/a/d/e", &[]).await;
    for path in ["/a/d/f", "/a/d/e/g"] {
        assert_eq!(site.send("PUT", path, &[("X-OC-Mtime", "784111777")], path.as_bytes()).await.status, 201);
    }
    assert_eq!(site.send("PROPPATCH", "/a/d/f", &[], PATCH.as_bytes()).await.status, 207);
    let (dir, _) = site.find("a/d/e").await.expect("there");
    let old = SetAttr { mode: Some(0o750), mtime: Some(SetTime::At(UNIX_EPOCH)), ..SetAttr::default() };
    site.vfs.setattr(dir.ino(), old).await.expect("set");
    drop(dir);
    // What keeps it from moving leaves it where it is.
    site.put("/b/there", b"x").await;
    let not_over = [("Destination", "/b/there"), ("Overwrite", "F")];
    assert_eq!(site.ask("MOVE", "/a/d", &not_over).await.status, 412);
    let wrong = [("Destination", "/b/d"), ("If", "(<urn:uuid:other>)")];
    assert_eq!(site.ask("MOVE", "/a/d", &wrong).await.status, 412);
    for (full, status) in [(1, 507), (0, 507)] {
        site.models[full].fail(Some(ErrorKind::NoSpace));
        assert_eq!(site.ask("MOVE", "/a/d", &[("Destination", "/b/d")]).await.status, status);
        site.models[full].fail(None);
    }
    assert_eq!((site.names("a").await, site.names("b").await), (names_of(&["d"]), names_of(&["there"])));
    assert_eq!(site.ask("MOVE", "/a/d", &[("Destination", "/b/there")]).await.status, 204);
    assert_eq!((site.names("a").await, site.names("b").await), (names_of(&[]), names_of(&["there"])));
    assert_eq!(site.read("b/there/e/g").await.expect("there"), "/a/d/e/g");
    let (_, attr) = site.find("b/there/f").await.expect("there");
    assert_eq!(attr.mtime, UNIX_EPOCH + Duration::from_secs(784_111_777));
    let (_, attr) = site.find("b/there/e").await.expect("there");
    assert_eq!((attr.mtime, attr.mode), (UNIX_EPOCH, 0o750));
    let both = "<D:propfind xmlns:D='DAV:'><D:prop><a xmlns='urn:x'/></D:prop></D:propfind>";
    let told = site.send("PROPFIND", "/b/there/f", &[("Depth", "0")], both.as_bytes()).await.text();
    assert!(told.contains("200 OK"), "{told}");
    until("all that was looked at is let go", async || site.leases() == leases).await;
}

/// What is written while something moves to another mount is not deleted with what was copied.
#[tokio::test]
async fn what_changes_while_it_moves_is_not_lost() {
    for (changed, content) in [("/a/d/f", "changed"), ("/a/d/e/new", "new")] {
        let site = Site::new().await;
        site.ask("MKCOL", "/a/d", &[]).await;
        site.ask("MKCOL", "/a/d/e", &[]).await;
        site.put("/a/d/f", b"old").await;
        site.gate.close();
        let destination = [("Destination", "/b/d")];
        let (moved, ()) = tokio::join!(site.ask("MOVE", "/a/d", &destination), async {
            site.gate.reached().await;
            assert!(site.put(changed, content.as_bytes()).await < 300);
            site.gate.open();
        });
        assert_eq!(moved.status, 409, "{}", moved.text());
        assert_eq!(site.read(changed).await.expect("there"), content);
        assert_eq!((site.names("a").await, site.names("b").await), (names_of(&["d"]), names_of(&[])));
    }
}

/// So does what is written after the last look at it where it was; who took its place keeps that.
#[tokio::test]
async fn what_changes_while_it_leaves_is_beside_who_took_its_place() {
    for is_taken in [false, true] {
        let site = Site::new().await;
        site.ask("MKCOL", "/a/d", &[]).await;
        site.put("/a/d/f", b"old").await;
        let (file, _) = site.find("a/d/f").await.expect("there");
        site.renames.close();
        let destination = [("Destination", "/b/d")];
        let (moved, ()) = tokio::join!(site.ask("MOVE", "/a/d", &destination), async {
            site.renames.reached().await;
            site.vfs.write(file.ino(), 0, Bytes::from_static(b"new"), false).await.expect("written");
            if is_taken {
                let (dir, _) = site.find("a").await.expect("there");
                let made =
                    site.vfs.create(dir.ino(), &name(b"d"), NewNode::Dir, SetAttr::default()).await.expect("made");
                site.vfs.release(made.node.ino, 1);
            }
            site.renames.open();
        });
        assert_eq!(moved.status, 409, "{}", moved.text());
        assert_eq!(site.read("b/d/f").await.expect("there"), "old");
        let names = site.names("a").await;
        let kept =
            names.iter().find(|name| name.starts_with("changed-while-moved-") || !is_taken).expect("it is in sight");
        assert_eq!(
            (names.len(), site.read(&format!("a/{kept}/f")).await.expect("there")),
            (1 + usize::from(is_taken), "new".into())
        );
    }
}

/// Where its place cannot be had back it is under a hidden name, whole, and that it went wrong is told.
#[tokio::test]
async fn what_cannot_be_put_back_is_not_lost() {
    let site = Site::new().await;
    site.ask("MKCOL", "/a/d", &[]).await;
    site.put("/a/d/f", b"old").await;
    let (file, _) = site.find("a/d/f").await.expect("there");
    site.renames.close();
    let (moved, ()) = tokio::join!(site.ask("MOVE", "/a/d", &[("Destination", "/b/d")]), async {
        site.renames.reached().await;
        site.vfs.write(file.ino(), 0, Bytes::from_static(b"new"), false).await.expect("written");
        site.models[0].fail(Some(ErrorKind::Io));
        site.renames.open();
    });
    site.models[0].fail(None);
    assert!(moved.status == 500 && moved.text().contains("the source stays"), "{}", moved.text());
    assert_eq!(site.read("b/d/f").await.expect("there"), "old");
    let names = site.names("a").await;
    let hidden = names.first().filter(|name| name.starts_with(".muxfs-part.leaving.")).expect("out of sight");
    assert_eq!((names.len(), site.read(&format!("a/{hidden}/f")).await.expect("there")), (1, "new".into()));
    // Nobody removes it, however old it grows.
    assert_eq!(site.ask("PROPFIND", "/a/", &[("Depth", "1")]).await.status, 207);
    assert_eq!(site.names("a").await, names);
}

/// A source goes when its copy is durable, by its name too, whatever is promised of the mounts; and stays where that fails.
#[tokio::test]
async fn a_source_goes_when_its_copy_is_durable() {
    for asyncs in [&[][..], &["b"], &["a", "b"]] {
        let site = Site::with_async(Options::default(), asyncs).await;
        let destination = [("Destination", "/b/f")];
        site.put("/a/f", b"text").await;
        // A copy need not have a durable name there.
        let syncs = site.models[1].sync_count();
        assert_eq!(site.ask("COPY", "/a/f", &[("Destination", "/b/copy")]).await.status, 201);
        assert_eq!(site.models[1].sync_count() - syncs, if asyncs.is_empty() { 2 } else { 1 });

        site.renames_there.close();
        let (moved, ()) = tokio::join!(site.ask("MOVE", "/a/f", &destination), async {
            site.renames_there.reached().await;
            site.models[1].fail(Some(ErrorKind::Io));
            site.renames_there.open();
        });
        site.models[1].fail(None);
        assert_eq!(moved.status, 500, "{}", moved.text());
        assert_eq!((site.names("a").await, site.read("a/f").await), (names_of(&["f"]), Some("text".into())));

        let syncs = site.models[1].sync_count();
        site.renames.close();
        let (moved, durable) = tokio::join!(site.ask("MOVE", "/a/f", &destination), async {
            // The source is out of sight, and there yet.
            site.renames.reached().await;
            let durable = site.models[1].sync_count() - syncs;
            site.renames.open();
            durable
        });
        assert!(moved.status < 300 && durable >= 2, "{}: {durable}", moved.text());
        assert_eq!((site.names("a").await, site.read("b/f").await), (names_of(&[]), Some("text".into())));
    }
}

/// A right, an owner or an attribute that is set while something moves is no less of a change; and what FTP left to be
/// gone on with is not deleted.
#[tokio::test]
async fn what_is_no_content_is_not_lost_either() {
    let site = Site::new().await;
    site.ask("MKCOL", "/a/d", &[]).await;
    site.put("/a/d/f", b"old").await;
    site.gate.close();
    let destination = [("Destination", "/b/d")];
    let (moved, ()) = tokio::join!(site.ask("MOVE", "/a/d", &destination), async {
        site.gate.reached().await;
        let (dir, _) = site.find("a/d").await.expect("there");
        let set = SetAttr { mode: Some(0o700), ..SetAttr::default() };
        site.vfs.setattr(dir.ino(), set).await.expect("set");
        site.gate.open();
    });
    assert_eq!(moved.status, 409, "{}", moved.text());
    let (dir, _) = site.find("a/d").await.expect("there");
    let partial = name(b".muxfs-part.ftp.1");
    let made = site.vfs.create(dir.ino(), &partial, NewNode::File, SetAttr::default()).await.expect("made");
    site.vfs.release(made.node.ino, 1);
    assert_eq!(site.ask("MOVE", "/a/d", &destination).await.status, 201);
    assert_eq!(site.names("b/d").await, names_of(&[".muxfs-part.ftp.1", "f"]));
}

/// A client that goes away, stands still or announces more than it sends leaves the old file and nothing else.
#[tokio::test]
async fn a_cut_upload_leaves_what_was_there() {
    let site = Site::with(Options { stall_timeout: Duration::from_secs(2), ..Options::default() }).await;
    site.put("/a/f", b"old").await;
    let chunked = "Transfer-Encoding: chunked\r\n\r\n300000\r\n";
    for (head, ends) in [
        ("Content-Length: 5000000\r\n\r\n", true),
        (chunked, true),
        ("Content-Length: 5000000\r\n\r\n", false),
        (chunked, false),
    ] {
        for path in ["/a/f", "/a/new"] {
            let mut stream = TcpStream::connect(site.server.local_addr()).await.expect("connects");
            let request = format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n{head}");
            stream.write_all(request.as_bytes()).await.expect("sent");
            stream.write_all(&vec![b'x'; 3_000_000]).await.expect("sent");
            until("the upload is under way", async || site.names("a").await.len() == 2).await;
            assert_eq!(site.ask("GET", "/a/", &[]).await.text().matches("muxfs-part").count(), 0, "nobody sees it");
            let listed = site.ask("PROPFIND", "/a/", &[("Depth", "1")]).await;
            assert_eq!(listed.text().matches("<D:response>").count(), 2, "{}", listed.text());
            if ends {
                drop(stream);
            } else {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.ok();
                assert_eq!(reply(&all, false).status, 408);
            }
            until("nothing is left of it", async || site.names("a").await == names_of(&["f"])).await;
            assert_eq!(site.read("a/f").await.expect("there"), "old");
        }
    }
}

#[tokio::test]
async fn a_file_that_replaces_another_keeps_what_belongs_to_the_name() {
    let site = Site::new().await;
    let (root, _) = site.find("a").await.expect("there");
    let set = SetAttr { mode: Some(0o4640), uid: Some(7), gid: Some(8), ..SetAttr::default() };
    let made = site.vfs.create(root.ino(), &name(b"f"), NewNode::File, set).await.expect("made");
    let note = XattrName::new(b"user.note").expect("a name");
    site.vfs.setxattr(made.node.ino, &note, "kept".into(), XattrMode::Set).await.expect("set");
    assert_eq!(site.put("/a/f", b"new").await, 204);
    let (now, attr) = site.find("a/f").await.expect("there");
    assert_eq!((attr.mode, attr.uid, attr.gid, attr.size), (0o640, 7, 8, 3));
    assert_eq!(site.vfs.getxattr(now.ino(), &note).await.expect("there"), "kept");
    assert_ne!(attr.ino, made.node.ino, "who had it open goes on reading what it was");
}

#[tokio::test]
async fn methods_refuse_what_they_cannot_do() {
    let site = Site::new().await;
    site.ask("MKCOL", "/a/d", &[]).await;
    site.put("/a/f", b"x").await;
    let (root, _) = site.find("a").await.expect("there");
    site.vfs.create(root.ino(), &name(b"l"), NewNode::Symlink("f".into()), SetAttr::default()).await.expect("made");
    for (method, path, headers, body, status) in [
        ("MKCOL", "/a/d", &[][..], "", 405),
        ("MKCOL", "/a/f", &[], "", 405),
        ("MKCOL", "/a/x/y", &[], "", 409),
        ("MKCOL", "/a/f/y", &[], "", 409),
        ("MKCOL", "/a/z", &[], "body", 415),
        ("MKCOL", "/c", &[], "", 403),
        ("PUT", "/a/d", &[], "x", 405),
        ("PUT", "/a/new/", &[], "x", 405),
        ("PUT", "/a/x/y", &[], "x", 409),
        ("PUT", "/a/l", &[], "x", 409),
        ("PUT", "/a", &[], "x", 403),
        ("PUT", "/a/f", &[("Content-Range", "bytes 0-0/1")], "x", 400),
        ("PUT", "/a/f", &[("X-OC-Mtime", "soon")], "x", 400),
        ("PUT", "/a/.muxfs-part.x", &[], "x", 403),
        ("PUT", "/a/f", &[("If-None-Match", "*")], "x", 412),
        ("PUT", "/a/f", &[("If-Match", "\"other\"")], "x", 412),
        ("PUT", "/a/new", &[("If-Match", "*")], "x", 412),
        ("DELETE", "/a", &[], "", 403),
        ("DELETE", "/", &[], "", 403),
        ("DELETE", "/a/d", &[("Depth", "0")], "", 400),
        ("DELETE", "/a/f/", &[], "", 404),
        ("MOVE", "/a", &[("Destination", "/c")], "", 403),
        ("COPY", "/a/d", &[("Destination", "/a/d/e")], "", 403),
        ("COPY", "/a/d", &[("Destination", "/a/d")], "", 403),
        ("MOVE", "/a/d", &[("Destination", "/a")], "", 403),
        ("COPY", "/a/d", &[("Destination", "/a/.muxfs-part.x")], "", 403),
        ("COPY", "/a/d", &[("Destination", "/a/n"), ("Depth", "1")], "", 400),
        ("COPY", "/a/d", &[("Destination", "/x/n")], "", 409),
        ("COPY", "/a/d", &[("Destination", "http://other.example/a/n")], "", 502),
        ("COPY", "/a/d", &[("Destination", "/a/../b/n")], "", 400),
        ("COPY", "/a/d", &[("Destination", "/a/%2e%2e/b")], "", 400),
        ("COPY", "/a/d", &[("Destination", "/a/x%2fy")], "", 400),
        ("COPY", "/a/d", &[("Destination", "/a/n"), ("Overwrite", "maybe")], "", 400),
        ("COPY", "/a/d", &[], "", 400),
        ("COPY", "/a/nothing", &[("Destination", "/a/n")], "", 404),
        ("PROPFIND", "/a", &[("Depth", "infinity")], "", 403),
        ("PROPFIND", "/a", &[], "", 403),
        ("PROPFIND", "/a/nothing", &[("Depth", "0")], "", 404),
        ("PROPFIND", "/c", &[("Depth", "0")], "", 404),
        ("PROPPATCH", "/a/f", &[], "", 400),
        ("UNLOCK", "/a/f", &[], "", 400),
        ("UNLOCK", "/a/f", &[("Lock-Token", "<urn:uuid:none>")], "", 409),
        ("LOCK", "/a/f", &[], "", 400),
        ("LOCK", "/a/f", &[], "<x/>", 400),
        ("PATCH", "/a/f", &[], "x", 405),
        ("POST", "/a/f", &[], "x", 405),
    ] {
        let reply = site.send(method, path, headers, body.as_bytes()).await;
        assert_eq!(reply.status, status, "{method} {path} {headers:?}: {}", reply.text());
    }
    assert_eq!(site.names("a").await, names_of(&["d", "f", "l"]));
    assert_eq!((site.read("a/f").await.expect("there"), site.names("a/d").await), ("x".into(), names_of(&[])));
    assert_eq!(site.find("a/l").await.expect("there").1.kind, FileKind::Symlink);
}

/// Every way to write, with every way to say who one is.
#[tokio::test]
async fn who_writes_shows_the_token() {
    let site = Site::new().await;
    site.put("/a/f", b"old").await;
    let basic = "Basic bWU6MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let addr = site.server.local_addr();
    for method in ["PUT", "DELETE", "MKCOL", "COPY", "MOVE", "PROPPATCH", "LOCK", "UNLOCK"] {
        let reply = send(addr, method, "/a/f", &[("Destination", "/a/g")], b"").await;
        assert_eq!(reply.status, 401, "{method}");
        assert!(reply.text().contains("muxfs http token"), "{method}: {}", reply.text());
        assert!(reply.header("www-authenticate").is_some_and(|ways| ways.starts_with("Basic")), "{method}");
    }
    for wrong in ["Bearer 0123456789abcdef0123456789abcdeg", "Basic OnNlY3JldA==", "Digest x"] {
        for method in ["PUT", "GET", "PROPFIND"] {
            let reply = send(addr, method, "/a/f", &[("Authorization", wrong)], b"").await;
            assert_eq!(reply.status, 401, "{method} {wrong}");
        }
    }
    assert_eq!(site.read("a/f").await.expect("there"), "old");
    for (headers, method, status) in [
        (&[][..], "GET", 200),
        (&[("Depth", "0")], "PROPFIND", 207),
        (&[("Authorization", basic)], "PUT", 204),
        (&[BEARER], "PUT", 204),
    ] {
        assert_eq!(send(addr, method, "/a/f", headers, b"").await.status, status, "{method} {headers:?}");
    }
}

/// A page of another origin gets nothing written, though the browser would show the token for it.
#[tokio::test]
async fn pages_of_other_origins_write_nothing() {
    let site = Site::new().await;
    let (addr, own) = (site.server.local_addr(), site.url(""));
    site.put("/a/f", b"old").await;
    let other_port = format!("http://127.0.0.1:{}", addr.port().wrapping_add(1).max(1));
    for (headers, status) in [
        (&[("Origin", own.as_str())][..], 204),
        (&[("Origin", own.as_str()), ("Sec-Fetch-Site", "same-origin")], 204),
        (&[("Sec-Fetch-Site", "none")], 204),
        (&[("Origin", "http://evil.example")], 403),
        (&[("Origin", &other_port)], 403),
        (&[("Origin", "null")], 403),
        (&[("Origin", "")], 403),
        (&[("Sec-Fetch-Site", "cross-site")], 403),
        (&[("Sec-Fetch-Site", "same-site")], 403),
        (&[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")], 403),
        (&[("Origin", own.as_str()), ("Sec-Fetch-Site", "cross-site")], 403),
    ] {
        for with_token in [true, false] {
            let token: &[(&str, &str)] = if with_token { &[BEARER] } else { &[] };
            let reply = send(addr, "PUT", "/a/f", &[token, headers].concat(), b"new").await;
            let expected = if with_token || status == 403 { status } else { 401 };
            assert_eq!(reply.status, expected, "{headers:?} {with_token}");
        }
    }
    let rebound = [("Host", "evil.example"), BEARER];
    for method in ["PUT", "DELETE", "MKCOL", "PROPFIND"] {
        assert_eq!(ask(addr, method, "/a/f", &rebound).await.status, 403, "{method}");
    }
    let preflight =
        ask(addr, "OPTIONS", "/a/f", &[("Origin", "http://evil.example"), ("Access-Control-Request-Method", "PUT")]);
    assert_eq!(preflight.await.header("access-control-allow-methods"), None);
}

#[tokio::test]
async fn where_a_server_is_private_reading_needs_the_token_too() {
    let site = Site::with(Options { private: true, ..Options::default() }).await;
    let addr = site.server.local_addr();
    for (method, path) in
        [("GET", "/"), ("GET", "/a/"), ("GET", "/a/bafkqaaa"), ("OPTIONS", "/a/"), ("PROPFIND", "/a/")]
    {
        assert_eq!(ask(addr, method, path, &[]).await.status, 401, "{method} {path}");
    }
    assert_eq!(ask(addr, "GET", "/a/", &[BEARER]).await.status, 200);
}

const LOCK: &str = "<?xml version='1.0'?><D:lockinfo xmlns:D='DAV:'><D:lockscope><D:exclusive/></D:lockscope>\
                    <D:locktype><D:write/></D:locktype><D:owner>me &amp; <x xmlns='y'/></D:owner></D:lockinfo>";

#[tokio::test]
async fn what_is_locked_is_written_by_who_has_the_lock() {
    let site = Site::new().await;
    site.ask("MKCOL", "/a/d", &[]).await;
    site.put("/a/d/f", b"old").await;
    let lock = site.send("LOCK", "/a/d", &[("Timeout", "Second-100")], LOCK.as_bytes()).await;
    assert_eq!(lock.status, 200, "{}", lock.text());
    let token = lock.header("lock-token").expect("a token").to_owned();
    assert!(
        lock.text().contains("<D:timeout>Second-100</D:timeout>") && lock.text().contains("me &amp; <x xmlns=\"y\"/>")
    );
    let (held, wrong) = (format!("({token})"), "(<urn:uuid:other>)");
    let tagged = format!("<{}> ({token})", site.url("/a/d/"));
    for (method, path, to) in [
        ("PUT", "/a/d/f", ""),
        ("PUT", "/a/d/new", ""),
        ("MKCOL", "/a/d/e", ""),
        ("DELETE", "/a/d/f", ""),
        ("DELETE", "/a/d", ""),
        ("MOVE", "/a/d/f", "/a/g"),
        ("PROPPATCH", "/a/d/f", ""),
    ] {
        let headers = if to.is_empty() { vec![] } else { vec![("Destination", to)] };
        let body: &[u8] = if method == "PROPPATCH" { PATCH.as_bytes() } else { b"" };
        let reply = site.send(method, path, &headers, body).await;
        assert_eq!(reply.status, 423, "{method} {path}");
        assert!(reply.text().contains("<D:lock-token-submitted><D:href>/a/d</D:href>"), "{}", reply.text());
        let reply = site.send(method, path, &[&headers[..], &[("If", wrong)]].concat(), body).await;
        assert_eq!(reply.status, 412, "{method} {path}");
    }
    site.put("/a/out", b"x").await;
    assert_eq!(site.ask("COPY", "/a/out", &[("Destination", "/a/d/f")]).await.status, 423);
    assert_eq!(site.ask("COPY", "/a/d/f", &[("Destination", "/a/out")]).await.status, 204, "reading is nobody's loss");
    assert_eq!(site.send("LOCK", "/a/d/f", &[], LOCK.as_bytes()).await.status, 423);
    assert_eq!(site.send("PUT", "/a/d/f", &[("If", &held)], b"new").await.status, 204);
    assert_eq!(site.send("PUT", "/a/d/new", &[("If", &tagged)], b"new").await.status, 201);
    let found = site.ask("PROPFIND", "/a/d/f", &[("Depth", "0")]).await.text();
    assert!(found.contains("<D:lockroot><D:href>/a/d/</D:href></D:lockroot>"), "{found}");
    assert_eq!(site.ask("LOCK", "/a/d/f", &[("If", &held), ("Timeout", "Second-7")]).await.status, 200);
    assert_eq!(site.ask("UNLOCK", "/a/d", &[("Lock-Token", &token)]).await.status, 204);
    assert_eq!(site.put("/a/d/f", b"newer").await, 204);
    // A lock on nothing makes it, and goes with it.
    let lock = site.send("LOCK", "/a/d/null", &[], LOCK.as_bytes()).await;
    let token = format!("({})", lock.header("lock-token").expect("a token"));
    assert_eq!((lock.status, site.read("a/d/null").await.expect("there").len()), (201, 0));
    assert_eq!(site.ask("DELETE", "/a/d/null", &[("If", &token)]).await.status, 204);
    assert_eq!(site.put("/a/d/null", b"free").await, 201);
}

const PATCH: &str = "<D:propertyupdate xmlns:D='DAV:' xmlns:x='urn:x'><D:set><D:prop xml:lang='de'><x:a>1<x:b c='d'/></x:a><D:displayname>Näme</D:displayname></D:prop></D:set></D:propertyupdate>";

#[tokio::test]
async fn properties_are_kept_with_what_they_are_of() {
    let site = Site::new().await;
    site.put("/a/f&<", b"x").await;
    site.put("/a/f", b"x").await;
    assert_eq!(site.send("PROPPATCH", "/a/f", &[], PATCH.as_bytes()).await.status, 207);
    let both = "<D:propfind xmlns:D='DAV:'><D:prop><a xmlns='urn:x'/><D:displayname/><D:getcontentlength/><none xmlns='urn:x'/></D:prop></D:propfind>";
    let told = async |path: &str| site.send("PROPFIND", path, &[("Depth", "0")], both.as_bytes()).await.text();
    let expected = "<a xmlns=\"urn:x\" xml:lang=\"de\">1<b c=\"d\"/></a><displayname xmlns=\"DAV:\" xml:lang=\"de\">Näme</displayname>\
                    <D:getcontentlength>1</D:getcontentlength></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>\
                    <D:propstat><D:prop><none xmlns=\"urn:x\"/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status>";
    assert!(told("/a/f").await.contains(expected), "{}", told("/a/f").await);
    site.ask("COPY", "/a/f", &[("Destination", "/a/g")]).await;
    site.ask("MOVE", "/a/f", &[("Destination", "/a/h")]).await;
    site.put("/a/h", b"y").await;
    for path in ["/a/g", "/a/h"] {
        assert!(told(path).await.contains(expected), "{path}");
    }
    // One that cannot be changed keeps all others from it.
    let mixed = PATCH.replace("<D:displayname>", "<D:getetag/><D:displayname>").replace(">1<", ">2<");
    let refused = site.send("PROPPATCH", "/a/g", &[], mixed.as_bytes()).await.text();
    assert!(refused.contains("403 Forbidden") && refused.contains("424 Failed Dependency"), "{refused}");
    assert!(told("/a/g").await.contains(expected));
    let long = PATCH.replace(">1<", &format!(">{}<", "x".repeat(40_000)));
    assert!(site.send("PROPPATCH", "/a/g", &[], long.as_bytes()).await.text().contains("200 OK"));
    let other = long.replace("x:a>", "x:other>");
    assert!(site.send("PROPPATCH", "/a/g", &[], other.as_bytes()).await.text().contains("507 Insufficient Storage"));
    let remove = PATCH.replace("D:set>", "D:remove>");
    assert!(site.send("PROPPATCH", "/a/g", &[], remove.as_bytes()).await.text().contains("200 OK"));
    assert!(told("/a/g").await.contains("<a xmlns=\"urn:x\"/><displayname xmlns=\"DAV:\"/>"));
    let (lease, _) = site.find("a/g").await.expect("there");
    assert!(site.vfs.listxattr(lease.ino()).await.expect("lists").is_empty());
}

/// A list has every name once, as an address that leads to it, and as XML whatever it is.
#[tokio::test]
async fn lists_lead_to_what_they_list() {
    let site = Site::new().await;
    let (root, _) = site.find("a").await.expect("there");
    let mut expected = BTreeSet::from(["/a/".to_owned()]);
    for index in 0..1500 {
        let text = format!("n {index} &<>\"'%?#;=ä");
        site.vfs.create(root.ino(), &name(text.as_bytes()), NewNode::File, SetAttr::default()).await.expect("made");
    }
    site.vfs.create(root.ino(), &name(b"\xff\n\x01"), NewNode::Dir, SetAttr::default()).await.expect("made");
    let listed = site.ask("PROPFIND", "/a", &[("Depth", "1")]).await;
    assert!(listed.is_whole && listed.status == 207);
    let text = listed.text();
    let hrefs: Vec<String> = text
        .split("<D:response><D:href>")
        .skip(1)
        .map(|rest| rest.split('<').next().expect("an end").replace("&amp;", "&"))
        .collect();
    for index in 0..1500 {
        expected.insert(format!("/a/n%20{index}%20&%3C%3E%22%27%25%3F%23%3B=%C3%A4"));
    }
    expected.insert("/a/%FF%0A%01/".to_owned());
    assert_eq!(hrefs.len(), expected.len());
    assert_eq!(hrefs.iter().cloned().collect::<BTreeSet<_>>(), expected);
    for path in ["/a/n%207%20&%3C%3E%22%27%25%3F%23%3B=%C3%A4", "/a/%FF%0A%01/"] {
        assert_eq!(site.ask("PROPFIND", path, &[("Depth", "0")]).await.status, 207, "{path}");
        assert_eq!(site.ask("DELETE", path, &[]).await.status, 204, "{path}");
    }
    let mounts = site.ask("PROPFIND", "/", &[("Depth", "1")]).await.text();
    assert!(
        mounts.contains("<D:href>/</D:href>")
            && mounts.contains("<D:href>/a/</D:href>")
            && mounts.contains("<D:href>/b/</D:href>")
    );
}

/// Bodies that would eat memory or the stack are refused, and the server goes on.
#[tokio::test]
async fn hostile_bodies_are_refused() {
    let site = Site::new().await;
    site.put("/a/f", b"x").await;
    let bomb = "<!DOCTYPE l [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;'>]><l>&b;</l>";
    let outside = "<!DOCTYPE l [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><l>&a;</l>";
    let deep = "<a>".repeat(20_000);
    let wide = format!("<D:propfind xmlns:D='DAV:'><D:prop>{}</D:prop></D:propfind>", "<D:a/>".repeat(9000));
    let long = "x".repeat((64 << 10) + 1);
    for (body, status) in
        [(bomb, 400), (outside, 400), (&deep, 400), (&wide, 400), (&long, 413), ("<a", 400), ("\0", 400)]
    {
        for method in ["PROPFIND", "PROPPATCH", "LOCK"] {
            let reply = site.send(method, "/a/f", &[("Depth", "0")], body.as_bytes()).await;
            assert_eq!(reply.status, status, "{method}: {}", reply.text());
        }
    }
    let addr = site.server.local_addr();
    assert_eq!(send(addr, "PROPFIND", "/a/f", &[("Depth", "0")], deep.as_bytes()).await.status, 400);
    assert_eq!(site.ask("PROPFIND", "/a/f", &[("Depth", "0")]).await.status, 207);
}

/// A directory a thousand deep goes as any other.
#[tokio::test]
async fn what_is_deep_is_copied_and_removed() {
    let site = Site::new().await;
    let (mut at, _) = site.find("a").await.expect("there");
    for _ in 0..1000 {
        let made = site.vfs.create(at.ino(), &name(b"d"), NewNode::Dir, SetAttr::default()).await.expect("made");
        at = Lease::adopt(site.vfs.clone(), made.node.ino);
    }
    drop(at);
    assert_eq!(site.ask("COPY", "/a/d", &[("Destination", "/a/e")]).await.status, 201);
    assert_eq!(site.ask("DELETE", "/a/d", &[]).await.status, 204);
    assert_eq!(site.ask("DELETE", "/a/e", &[]).await.status, 204);
    assert_eq!(site.models[0].node_count(), 1);
}
