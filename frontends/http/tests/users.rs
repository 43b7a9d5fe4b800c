//! Users: who shows a name and a password reaches their home, and what they may there, and nothing else, in every way to ask.

mod web;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use muxfs::{
    Mount, MuxFs, Name, Prefix,
    testing::{Clock, env, model::ModelFs},
    vfs::{Lease, NewNode, SetAttr, Vfs, ext},
};
use muxfs_http::{Options, Server};

use self::web::{OWNER, Reply, TOKEN, basic, send, writing};

struct Site {
    server: Server,
    vfs: Arc<dyn Vfs>,
    _dir: tempfile::TempDir,
}

/// Hashed once: each takes its time.
static USERS: OnceLock<String> = OnceLock::new();

fn users() -> String {
    let mut text = "version = 1\n".to_owned();
    for (name, home, read_only) in [("ann", "/a/ann", false), ("bob", "/a/bob", true), ("eve", "/", false)] {
        text += &muxfs_users::user_line(name, &format!("{name}'s"), home, read_only, &env()).expect("a user");
    }
    text.replace("home = \"/\"\n", "home = \"/\"\nuid = 7\ngid = 7\n")
}

impl Site {
    /// Two mounts, `/a/ann/` and `/a/bob/` in the first, and three users: ann at home in her directory, bob who only reads his,
    /// and eve, at home everywhere, as user 7 of the system.
    async fn new(private: bool) -> Self {
        Self::with(Options { private, ..Options::default() }).await
    }

    async fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("users.toml");
        std::fs::write(&file, USERS.get_or_init(users)).expect("written");
        let mut mux = MuxFs::new();
        for prefix in ["a", "b"] {
            let model = ModelFs::new(env());
            mux.mount(Mount::location(Prefix::new(prefix).expect("a prefix"), model, env())).expect("mounts");
        }
        let vfs = mux.vfs(&env()).await.expect("joins");
        let options = Options {
            addr: ([127, 0, 0, 1], 0).into(),
            writing: Some(writing(vfs.clone())),
            users: Some(file),
            ..options
        };
        let site = Self { server: muxfs_http::serve(mux, options).expect("listens"), vfs, _dir: dir };
        for dir in ["/a/ann/", "/a/bob/", "/a/ann/d/", "/b/d/"] {
            assert_eq!(site.ask(OWNER, "MKCOL", dir, &[]).await.status, 201);
        }
        for file in ["/a/ann/f", "/a/bob/f", "/b/f"] {
            assert_eq!(site.ask(OWNER, "PUT", file, &[]).await.status, 201);
        }
        site
    }

    async fn ask(&self, who: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let headers = [&[("Authorization", who)], headers].concat();
        let body: &[u8] = if method == "PUT" { b"text" } else { b"" };
        send(self.server.local_addr(), method, path, &headers, body).await
    }

    async fn is_there(&self, path: &str) -> bool {
        let names = path.split('/').filter(|part| !part.is_empty());
        let names: Vec<_> = names.map(|part| Name::new(part.as_bytes()).expect("a name")).collect();
        ext::walk(&self.vfs, self.vfs.root(), &names).await.is_ok()
    }
}

#[tokio::test]
async fn a_user_reaches_their_home_and_nothing_else() {
    let site = Site::new(false).await;
    let ann = basic("ann", "ann's");
    for (method, path, headers, status) in [
        ("GET", "/a/ann/f", &[][..], 200),
        ("GET", "/a/ann/", &[], 200),
        ("GET", "/a/ann/?format=tar", &[], 200),
        ("PROPFIND", "/a/ann/", &[("Depth", "1")], 207),
        ("PUT", "/a/ann/new", &[], 201),
        ("MKCOL", "/a/ann/e", &[], 201),
        ("COPY", "/a/ann/f", &[("Destination", "/a/ann/g")], 201),
        ("MOVE", "/a/ann/g", &[("Destination", "/a/ann/h")], 201),
        ("DELETE", "/a/ann/h", &[], 204),
        ("OPTIONS", "/", &[], 204),
        ("GET", "/.muxfs/app.css", &[], 200),
        // On the way home.
        ("GET", "/", &[], 302),
        ("GET", "/a/", &[], 302),
        ("PROPFIND", "/", &[("Depth", "1")], 207),
        // Elsewhere, whether it is there or not.
        ("GET", "/a/bob/f", &[], 403),
        ("GET", "/a/bob/nothing", &[], 403),
        ("GET", "/a/annette/f", &[], 403),
        ("GET", "/b/", &[], 403),
        ("GET", "/b/bafkqaaa", &[], 403),
        ("HEAD", "/b/f", &[], 403),
        ("PROPFIND", "/b/", &[("Depth", "0")], 403),
        ("PUT", "/b/new", &[], 403),
        ("DELETE", "/a/ann", &[], 403),
        ("MKCOL", "/a/ann", &[], 403),
        ("MOVE", "/a/ann", &[("Destination", "/a/ann/d/x")], 403),
        ("PUT", "/a/new", &[], 403),
        ("DELETE", "/a/bob/f", &[], 403),
        ("DELETE", "/a/ann/../bob/f", &[], 400),
        ("MKCOL", "/b/e", &[], 403),
        ("COPY", "/b/f", &[("Destination", "/a/ann/stolen")], 403),
        ("COPY", "/a/ann/f", &[("Destination", "/b/f")], 403),
        ("MOVE", "/a/ann/f", &[("Destination", "/a/bob/f")], 403),
        ("LOCK", "/b/f", &[], 403),
        ("PROPPATCH", "/b/f", &[], 403),
        ("GET", "/.muxfs/status.json", &[], 403),
        ("GET", "/.muxfs/pins/b", &[], 403),
    ] {
        let reply = site.ask(&ann, method, path, headers).await;
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
        if status == 302 {
            assert_eq!(reply.header("location"), Some("/a/ann/"));
        }
    }
    assert!(!site.is_there("/a/ann/stolen").await && !site.is_there("/b/new").await && site.is_there("/a/bob/f").await);
    let listed = site.ask(&ann, "PROPFIND", "/a/", &[("Depth", "1")]).await.text();
    assert!(listed.contains("<D:href>/a/ann/</D:href>") && !listed.contains("bob"), "{listed}");
    let listed = site.ask(&ann, "PROPFIND", "/", &[("Depth", "1")]).await.text();
    assert!(listed.contains("<D:href>/a/</D:href>") && !listed.contains("/b/"), "{listed}");
    // A condition says nothing of what is elsewhere.
    let tag = site.ask(OWNER, "GET", "/b/f", &[]).await.header("etag").expect("a tag").to_owned();
    let spying = format!("</b/f> ([{tag}])");
    assert_eq!(site.ask(&ann, "PUT", "/a/ann/new", &[("If", &spying)]).await.status, 412);
}

#[tokio::test]
async fn a_user_who_only_reads_changes_nothing() {
    let site = Site::new(true).await;
    let bob = basic("bob", "bob's");
    assert_eq!(site.ask(&bob, "GET", "/a/bob/f", &[]).await.status, 200);
    for method in ["PUT", "DELETE", "MKCOL", "COPY", "MOVE", "PROPPATCH", "LOCK", "UNLOCK"] {
        let reply = site.ask(&bob, method, "/a/bob/f", &[("Destination", "/a/bob/g")]).await;
        assert_eq!(reply.status, 403, "{method}");
    }
    let told = site.ask(&bob, "GET", "/a/bob/", &[("Accept", "application/json")]).await.text();
    assert!(told.contains("\"writable\":false"), "{told}");
}

/// Also behind a proxy that lets anybody in; and who shows what fits nobody is refused whatever they ask for.
#[tokio::test]
async fn a_name_and_a_password_have_to_fit() {
    for private in [false, true] {
        let site = Site::new(private).await;
        let own = ("ann", "ann's");
        for (name, password) in
            [own, ("ann", "bob's"), ("ann", ""), ("nobody", "ann's"), ("", "ann's"), ("ANN", "ann's")]
        {
            for _ in 0..2 {
                let reply = site.ask(&basic(name, password), "GET", "/a/ann/f", &[]).await;
                assert_eq!(reply.status, if (name, password) == own { 200 } else { 401 }, "{name} {password}");
            }
        }
        let reply = send(site.server.local_addr(), "GET", "/a/ann/f", &[], b"").await;
        assert_eq!(reply.status, if private { 401 } else { 200 }, "anybody");
        // The token is shown as anybody's password.
        assert_eq!(site.ask(&basic("ann", TOKEN), "GET", "/b/f", &[]).await.status, 200);
    }
}

/// A browser shows a name and a password once, in a form, and then a cookie, which is that user's.
#[tokio::test]
async fn a_form_lets_in_a_user() {
    let site = Site::new(true).await;
    let addr = site.server.local_addr();
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let wrong = send(addr, "POST", "/.muxfs/login", &form, b"user=ann&token=bob%27s").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    let reply = send(addr, "POST", "/.muxfs/login", &form, b"user=ann&token=ann%27s").await;
    let cookie = reply.header("set-cookie").expect("a cookie");
    assert!(reply.status == 204 && cookie.contains("HttpOnly; SameSite=Strict") && !cookie.contains("ann"), "{cookie}");
    let pair = cookie.split(';').next().expect("a pair");
    for (path, status) in [("/a/ann/f", 200), ("/b/f", 403)] {
        assert_eq!(send(addr, "GET", path, &[("Cookie", pair)], b"").await.status, status, "{path}");
    }
    assert_eq!(send(addr, "PUT", "/a/ann/f", &[("Cookie", pair)], b"x").await.status, 204);
}

/// One with a number in the system is that user there, whoever the server is.
#[tokio::test]
async fn a_user_of_the_system_may_what_that_one_may() {
    let site = Site::new(false).await;
    let names = [Name::new(b"a").expect("a name")];
    let (root, _) = ext::walk(&site.vfs, site.vfs.root(), &names).await.expect("there");
    for (name, mode, uid) in [("roots", 0o700, 0), ("eves", 0o700, 7)] {
        let set = SetAttr { mode: Some(mode), uid: Some(uid), gid: Some(uid), ..SetAttr::default() };
        let name = Name::new(name.as_bytes()).expect("a name");
        let made = site.vfs.create(root.ino(), &name, NewNode::Dir, set).await.expect("made");
        drop(Lease::adopt(site.vfs.clone(), made.node.ino));
    }
    let eve = basic("eve", "eve's");
    for (method, path, status) in [
        ("PUT", "/a/eves/f", 201),
        ("GET", "/a/eves/f", 200),
        ("PUT", "/a/roots/f", 403),
        ("GET", "/a/roots/", 403),
        ("GET", "/a/ann/f", 200),
        ("PUT", "/a/ann/f", 403),
    ] {
        let reply = site.ask(&eve, method, path, &[]).await;
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
    }
}

/// Who asks is found out before there is a turn, and however long that takes: a wrong token takes a second.
#[tokio::test]
async fn who_is_refused_takes_no_turn() {
    let patience = Duration::from_millis(10);
    let site = Site::with(Options { answers_max: 1, answer_timeout: patience, ..Options::default() }).await;
    for shown in [basic("ann", "bob's"), "Bearer wrong".to_owned()] {
        let reply = site.ask(&shown, "GET", "/a/ann/f", &[]).await;
        assert_eq!(reply.status, 401, "{}", reply.text());
    }
    let twice = [("Authorization", &*basic("ann", "ann's"))];
    for method in ["GET", "PUT", "PROPFIND"] {
        let reply = site.ask(OWNER, method, "/a/ann/f", &twice).await;
        assert_eq!(reply.status, 400, "{method}: whose is it? {}", reply.text());
    }
}

/// What was cut off long ago goes where its directory is listed by who may take it away.
#[tokio::test]
async fn a_user_clears_up_at_home_alone() {
    let clock = Clock::default();
    let site = Site::with(Options { env: clock.env(1), ..Options::default() }).await;
    for dir in ["a", "a/ann"] {
        let names: Vec<_> = dir.split('/').map(|part| Name::new(part.as_bytes()).expect("a name")).collect();
        let (dir, _) = ext::walk(&site.vfs, site.vfs.root(), &names).await.expect("there");
        let hidden = Name::new(b".muxfs-part.http.x").expect("a name");
        let made = site.vfs.create(dir.ino(), &hidden, NewNode::File, SetAttr::default()).await.expect("made");
        drop(Lease::adopt(site.vfs.clone(), made.node.ino));
    }
    clock.advance(Duration::from_hours(25));
    let (ann, left) = (basic("ann", "ann's"), async |path: &str| site.is_there(path).await);
    for (who, path, expected) in
        [(&*ann, "/a/", (true, true)), (&*ann, "/a/ann/", (true, false)), (OWNER, "/a/", (false, false))]
    {
        assert_eq!(site.ask(who, "PROPFIND", path, &[("Depth", "1")]).await.status, 207);
        let there = (left("/a/.muxfs-part.http.x").await, left("/a/ann/.muxfs-part.http.x").await);
        assert_eq!(there, expected, "{path}");
    }
}
