//! Sites, `http://CID.ipfs.localhost/`: an origin of its own, its paths and what it says of those that lead nowhere.

mod web;

use std::{env, fs, path::PathBuf};

use futures_util::{StreamExt, stream};
use muxfs::{
    BlockKey, BlockStore as _, Cid, Codec, Name, cid_of,
    dag::{Dag, Entry, Ipld, Link, UnixfsMeta},
};

use self::web::{Reply, Site};

async fn file(dag: &Dag, content: &[u8]) -> Link {
    dag.import(content, UnixfsMeta::default()).await.expect("memory")
}

async fn dir(dag: &Dag, entries: &[(&str, Link)]) -> Link {
    let entry = |(name, link): &(&str, Link)| Ok(Entry { name: Name::new(name.as_bytes())?, link: *link });
    let entries: Vec<_> = entries.iter().map(entry).collect();
    dag.put_dir(stream::iter(entries).boxed()).await.expect("memory")
}

/// Asks as a browser does that was led to the host of a CID.
async fn ask(site: &Site, method: &str, cid: &Cid, path: &str, headers: &[(&str, &str)]) -> Reply {
    // A label has no capitals to tell apart, so a CID of version 0 goes as the same node of version 1.
    let cid = match cid.version() {
        0 => Cid::v1_sha256(Codec::DagPb, cid.digest().try_into().expect("32 bytes")),
        _ => *cid,
    };
    let host = format!("{cid}.ipfs.localhost:8080");
    site.ask(method, path, &[&[("Host", host.as_str())], headers].concat()).await
}

async fn get(site: &Site, cid: &Cid, path: &str) -> Reply {
    ask(site, "GET", cid, path, &[]).await
}

/// A site with a file `_redirects`.
async fn with_redirects(site: &Site, redirects: &[u8]) -> Cid {
    let dag = &site.dag;
    let (one, page) = (file(dag, b"one").await, file(dag, b"<p>nothing here").await);
    let sub = dir(dag, &[("there.txt", one)]).await;
    let entries = [("_redirects", file(dag, redirects).await), ("one.txt", one), ("404.html", page), ("sub", sub)];
    dir(dag, &entries).await.cid
}

#[tokio::test]
async fn a_site_begins_at_the_slash() {
    let site = Site::new().await;
    let home = file(&site.dag, b"<script src=/a.js></script>").await;
    let sub = dir(&site.dag, &[("a b.txt", file(&site.dag, b"hello").await)]).await;
    let root = dir(&site.dag, &[("index.html", home), ("sub", sub)]).await.cid;

    let reply = get(&site, &root, "/").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "<script src=/a.js></script>"));
    assert_eq!(reply.header("content-security-policy"), None, "it may run: its origin is its own");
    assert_eq!(reply.header("x-ipfs-path"), Some(format!("/ipfs/{root}/").as_str()));
    assert_eq!(reply.header("etag"), Some(format!("\"{root}\"").as_str()));
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    let beside = site.get(&format!("/ipfs/{root}/")).await;
    assert!(beside.header("content-security-policy").is_some_and(|policy| policy.starts_with("sandbox")));

    let moved = get(&site, &root, "/sub?x=1").await;
    assert_eq!((moved.status, moved.header("location")), (301, Some("/sub/?x=1")));
    assert_eq!(get(&site, &root, "/sub/a%20b.txt").await.text(), "hello");
    let list = get(&site, &root, "/sub/").await.text();
    assert!(list.contains("href=\"/sub/a%20b.txt\"") && list.contains("href=\"/sub/..\""), "{list}");
    assert!(list.contains(&format!("href=\"//localhost:8080/ipfs/{}?", sub_file(&site).await)), "{list}");
    assert_eq!(get(&site, &root, "/nothing").await.status, 404);
    assert_eq!(get(&site, &root, "/..").await.status, 400);
    // Blocks are had there as well, and a service worker sees this site alone.
    assert_eq!(get(&site, &root, "/sub?format=raw").await.status, 200);
    let worker = [("Service-Worker", "script")];
    assert_eq!(ask(&site, "GET", &root, "/", &worker).await.status, 200);
    assert_eq!(site.ask("GET", &format!("/ipfs/{root}/"), &worker).await.status, 400);

    // In base36, in capitals, and linked data.
    let upper = format!("{}.IPFS.LOCALHOST", root.to_string().to_ascii_uppercase());
    assert_eq!(site.ask("GET", "/sub/a%20b.txt", &[("Host", &upper)]).await.text(), "hello");
    let value = site.dag.put_linked(&Ipld::List(vec![root.into()])).await.expect("memory");
    assert_eq!(get(&site, &value, "/0/sub/a%20b.txt").await.text(), "hello");
    let page = ask(&site, "GET", &value, "/", &[("Accept", "text/html")]).await.text();
    assert!(page.contains(&format!("href=\"//localhost:8080/ipfs/{root}\"")), "{page}");
}

async fn sub_file(site: &Site) -> Cid {
    file(&site.dag, b"hello").await.cid
}

/// Nothing but content: no names, no pages of ours, no changes, whatever is asked for by whomever; and no other host.
#[tokio::test]
async fn there_is_nothing_else_on_a_site() {
    let site = Site::new().await;
    let root = dir(&site.dag, &[("a.txt", file(&site.dag, b"a").await)]).await.cid;
    for path in ["/ipfs/", "/zstor/", "/.muxfs/status", "/.muxfs/status.json", "/mem", &format!("/ipfs/{root}/a.txt")] {
        let reply = get(&site, &root, path).await;
        assert_eq!(reply.status, 404, "{path}: {}", reply.text());
    }
    for method in ["POST", "PUT", "DELETE", "PROPFIND", "MKCOL", "MOVE", "LOCK"] {
        let reply = ask(&site, method, &root, "/a.txt", &[]).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD, OPTIONS")), "{method}");
    }
    assert_eq!(ask(&site, "OPTIONS", &root, "/a.txt", &[]).await.status, 204);
    for host in [
        "x.ipfs.localhost".to_owned(),
        format!("{root}.ipfs.localhost.evil.example"),
        format!("{root}.ipfs.evil.example"),
        format!("{root}.zstor.localhost"),
        format!("a.{root}.ipfs.localhost"),
    ] {
        assert_eq!(site.ask("GET", "/", &[("Host", &host)]).await.status, 403, "{host}");
    }
    let absent = cid_of(Codec::Raw, b"absent");
    assert_eq!(get(&site, &absent, "/").await.status, 404);
}

#[tokio::test]
async fn what_leads_nowhere_is_redirected() {
    let site = Site::new().await;
    let redirects = b"# Old names\n/one /one.txt\n/old/:name /sub/:name 302\n/sub/* /one.txt 200\n/gone/* /404.html 410\n\
                      /shop/* https://shop.example/:splat 307\n/one.txt /404.html 404\n/dead /nothing 200\n/list/* /sub 404\n/home /sub 200\n\
                      /* /404.html 404\n";
    let root = with_redirects(&site, redirects).await;
    for (path, status, location, text) in [
        ("/one", 301, Some("/one.txt"), ""),
        ("/one?a=b", 301, Some("/one.txt?a=b"), ""),
        ("/old/there.txt", 302, Some("/sub/there.txt"), ""),
        ("/sub/there.txt", 200, None, "one"),
        ("/sub/not/there", 200, None, "one"),
        ("/gone/a/b", 410, None, "<p>nothing here"),
        ("/shop/a%2520b/c", 307, Some("https://shop.example/a%2520b/c"), ""),
        // What is there is not led elsewhere.
        ("/one.txt", 200, None, "one"),
        ("/one.txt/below", 404, None, "<p>nothing here"),
        ("/any/where", 404, None, "<p>nothing here"),
    ] {
        let reply = get(&site, &root, path).await;
        assert_eq!((reply.status, reply.header("location")), (status, location), "{path}: {}", reply.text());
        assert_eq!(reply.text(), text, "{path}");
        let head = ask(&site, "HEAD", &root, path, &[]).await;
        assert_eq!((head.status, head.body.is_empty()), (status, true), "{path}");
    }
    assert_eq!(get(&site, &root, "/dead").await.status, 404, "a rule that leads nowhere");
    // A directory keeps the status of its rule: nobody is sent to its slash.
    for (path, status) in [("/list/x", 404), ("/home", 200)] {
        let list = get(&site, &root, path).await;
        assert_eq!((list.status, list.header("location")), (status, None), "{path}: {}", list.text());
        assert!(list.text().contains("href=\"/sub/there.txt\""), "{path}: {}", list.text());
    }
    let page = get(&site, &root, "/x").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    // What was asked for is not there: whoever has the page, or wants a part of it, is told so too.
    let etag = page.header("etag").expect("a tag").to_owned();
    for header in [("If-None-Match", etag.as_str()), ("Range", "bytes=0-1")] {
        let reply = ask(&site, "GET", &root, "/x", &[header]).await;
        assert_eq!((reply.status, reply.text().as_str()), (404, "<p>nothing here"), "{header:?}");
    }
    // Blocks are not there, wherever a page leads.
    assert_eq!(get(&site, &root, "/x?format=raw").await.header("content-type"), Some("text/plain; charset=utf-8"));
    // On the origin that all content shares it means nothing.
    assert_eq!(site.get(&format!("/ipfs/{root}/one")).await.status, 404);
    assert!(site.get(&format!("/ipfs/{root}/_redirects")).await.text().starts_with("# Old names"));

    // A block that is absent is not taken for a path that leads nowhere.
    let kept = file(&site.dag, b"kept elsewhere").await;
    let root =
        dir(&site.dag, &[("_redirects", file(&site.dag, b"/* /a 200").await), ("a", kept), ("b", kept)]).await.cid;
    site.blocks.delete(&BlockKey::from(&kept.cid)).await.expect("deleted");
    assert_eq!(get(&site, &root, "/b").await.status, 404);
}

#[tokio::test]
async fn a_bad_file_is_told_with_its_line() {
    let site = Site::new().await;
    for (redirects, why) in [
        (&b"/a /b\n/c /d 999"[..], "line 2: \"999\" is no status"),
        (b"/a javascript:alert(1)", "line 1: "),
        (b"\n\n/\xff /b", "line 3: it is no UTF-8"),
        (&b"/from /to 301\n".repeat(5000), "at most 65536 bytes"),
        (b"/a /b\n/* /%zz 404", "line 2: "),
        (
            format!("/a /b\n/:name /{}:name 404", "x".repeat(250)).as_bytes(),
            "line 2: TO becomes no path: A part of the path is no name",
        ),
        (format!("/a /b\n/* /{} 404", ":splat".repeat(10_000)).as_bytes(), "line 2: TO becomes longer"),
    ] {
        let root = with_redirects(&site, redirects).await;
        let reply = get(&site, &root, "/nothing").await;
        assert!(reply.text().len() < 1000, "{why}");
        assert!(reply.status == 500 && reply.text().contains(why), "{why}: {}", reply.text());
        assert_eq!(get(&site, &root, "/one.txt").await.status, 200, "what is there is there");
    }
}

/// The files of the conformance suite of IPFS gateways, and what it asks of them.
#[tokio::test]
async fn conformance() {
    let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
    let folder = env::var_os("MUXFS_SHARED").map_or(beside, PathBuf::from);
    let folder = folder.join("data/fixtures/gateway-conformance/redirects_file");
    let Ok(car) = fs::read(folder.join("redirects.car")) else {
        let place = folder.display();
        muxfs::testing::skip(format_args!("no redirects.car at {place}; set MUXFS_SHARED to where shared is"));
        return;
    };
    let site = Site::new().await;
    site.load(&car).await;
    let all = web::read_car(&car).0[0];
    let named = |name: &'static str| {
        let dag = site.dag.clone();
        async move {
            let entry = dag.lookup(&all, &Name::new(name.as_bytes()).expect("a name")).await.expect("a directory");
            entry.unwrap_or_else(|| panic!("{name} in the fixture")).link.cid
        }
    };
    let examples = named("examples").await;
    for (path, status, location) in [
        ("/redirect-one", 301, Some("/one.html")),
        ("/301-redirect-one", 301, Some("/one.html")),
        ("/302-redirect-two", 302, Some("/two.html")),
        ("/200-index", 200, None),
        ("/posts/2022/01/01/hello-world", 301, Some("/articles/2022/01/01/hello-world")),
        ("/splat/one.html", 301, Some("/redirected-splat/one.html")),
        ("/not-found/has-no-redirects-entry", 404, None),
        ("/gone/has-no-redirects-entry", 410, None),
        ("/unavail/has-no-redirects-entry", 451, None),
        ("/has-no-redirects-entry", 200, None),
    ] {
        let reply = get(&site, &examples, path).await;
        assert_eq!((reply.status, reply.header("location")), (status, location), "{path}: {}", reply.text());
    }
    let codes = named("good-codes").await;
    for code in [301, 302, 303, 307, 308] {
        let reply = get(&site, &codes, &format!("/a{code}")).await;
        assert_eq!((reply.status, reply.header("location")), (code, Some(format!("/b{code}").as_str())));
    }
    for bad in ["bad-codes", "forced", "invalid", "too-large"] {
        let reply = get(&site, &named(bad).await, "/not-there").await;
        assert_eq!(reply.status, 500, "{bad}: {}", reply.text());
    }
}
