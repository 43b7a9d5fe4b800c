//! What a gateway says of files, directories and linked data, beyond the cases of others: made here, asked over the wire.

mod web;

use std::{
    collections::HashSet,
    time::{Duration, UNIX_EPOCH},
};

use futures_util::{StreamExt, stream};
use muxfs::{
    Cid, Codec, Name, Result,
    dag::{Dag, Entry, Ipld, Link, Params, Profile, UnixfsMeta, linked},
};
use muxfs_http::Options;

use self::web::{Reply, Site};

const IMMUTABLE: &str = "public, max-age=29030400, immutable";

async fn file(dag: &Dag, content: &[u8]) -> Link {
    dag.import(content, UnixfsMeta::default()).await.expect("memory")
}

async fn dir(dag: &Dag, entries: &[(&[u8], Link)]) -> Link {
    let entries: Vec<_> = entries
        .iter()
        .map(|(name, link)| Ok(Entry { name: Name::new(name).expect("a name"), link: *link }))
        .collect::<Vec<Result<Entry>>>();
    dag.put_dir(stream::iter(entries).boxed()).await.expect("memory")
}

fn same_but_for_the_body(get: &Reply, head: &Reply) {
    assert!(head.body.is_empty(), "HEAD has no body");
    let without_date = |reply: &Reply| {
        let mut headers = reply.headers.clone();
        // The policy of a page of ours is another one each time.
        headers.retain(|(name, value)| name != "date" && !value.contains("'nonce-"));
        headers.sort();
        headers
    };
    assert_eq!((head.status, without_date(head)), (get.status, without_date(get)));
}

#[tokio::test]
async fn a_file_is_what_it_is() {
    let site = Site::new().await;
    let mtime = Some(UNIX_EPOCH + Duration::from_secs(784_111_777));
    let dated = site.dag.import(&b"hello"[..], UnixfsMeta { mode: None, mtime }).await.expect("memory");
    let root = dir(&site.dag, &[(b"a b.txt", file(&site.dag, b"hello\n").await), (b"dated.bin", dated)]).await.cid;

    let reply = site.get(&format!("/ipfs/{root}/a%20b.txt")).await;
    let child = file(&site.dag, b"hello\n").await.cid;
    assert_eq!((reply.status, reply.text().as_str()), (200, "hello\n"));
    for (name, value) in [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", "6"),
        ("Accept-Ranges", "bytes"),
        ("Etag", &format!("\"{child}\"")),
        ("Cache-Control", IMMUTABLE),
        ("X-Ipfs-Path", &format!("/ipfs/{root}/a%20b.txt")),
        ("X-Ipfs-Roots", &format!("{root},{child}")),
        ("X-Content-Type-Options", "nosniff"),
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    assert_eq!((reply.header("last-modified"), reply.header("content-disposition")), (None, None));

    let dated = site.get(&format!("/ipfs/{root}/dated.bin")).await;
    assert_eq!(dated.header("last-modified"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    for (query, disposition) in [
        ("?filename=c.html", Some("inline; filename=\"c.html\"")),
        ("?download=true", Some("attachment; filename=\"a b.txt\"")),
        ("?download=true&filename=c", Some("attachment; filename=\"c\"")),
        ("?download=false", None),
    ] {
        let reply = site.get(&format!("/ipfs/{root}/a%20b.txt{query}")).await;
        assert_eq!(reply.header("content-disposition"), disposition, "{query}");
    }
    let named = site.get(&format!("/ipfs/{child}?filename=c.html")).await;
    assert_eq!(named.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(named.header("content-security-policy").is_some_and(|policy| policy.starts_with("sandbox ")));
}

#[tokio::test]
async fn a_directory_shows_its_index_or_a_list() {
    let site = Site::new().await;
    let page = file(&site.dag, b"<p>home").await;
    let with_index = dir(&site.dag, &[(b"index.html", page)]).await;
    let not_a_file = dir(&site.dag, &[(b"index.html", with_index)]).await;
    let names: [&[u8]; 4] = [b"<i>.txt", b"\xff", b"zoe's & co", b"index"];
    let listed = dir(&site.dag, &names.map(|name| (name, page))).await;
    let root = dir(&site.dag, &[(b"site", with_index), (b"odd", not_a_file), (b"a%b", listed)]).await.cid;

    let home = site.get(&format!("/ipfs/{root}/site/")).await;
    assert_eq!((home.status, home.text().as_str()), (200, "<p>home"));
    assert_eq!(home.header("etag"), Some(format!("\"{}\"", with_index.cid).as_str()));
    assert_eq!(home.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(home.header("x-ipfs-roots"), Some(format!("{root},{}", with_index.cid).as_str()));

    let moved = site.get(&format!("/ipfs//{root}/a%25b?filename=x&y=%2f")).await;
    let location = format!("/ipfs/{root}/a%25b/?filename=x&y=%2f");
    assert_eq!((moved.status, moved.header("location")), (301, Some(location.as_str())));

    let odd = site.get(&format!("/ipfs/{root}/odd/")).await;
    assert!(odd.text().contains(">index.html</a>"), "an index that is no file is an entry");

    let list = site.get(&format!("/ipfs/{root}/a%25b/")).await;
    let text = list.text();
    assert_eq!((list.status, list.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(text.contains("<title>Index of /ipfs/") && text.contains("&lt;i&gt;.txt") && !text.contains("<i>"));
    assert!(text.contains(&format!("href=\"/ipfs/{root}/a%25b/%FF\"")), "{text}");
    assert!(text.contains(&format!("<a href=\"/ipfs/{root}/a%25b/..\">..</a>")), "{text}");
    assert!(!site.get(&format!("/ipfs/{root}/")).await.text().contains("/..\""), "above a CID there is nothing");
    let etag = list.header("etag").expect("an etag").to_owned();
    assert!(etag.starts_with("\"DirIndex-") && etag.ends_with(&format!("_CID-{}\"", listed.cid)));
    for tag in [etag.clone(), format!("W/{etag}"), format!("\"a\", {etag}")] {
        let again = site.ask("GET", &format!("/ipfs/{root}/a%25b/"), &[("If-None-Match", &tag)]).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{tag}");
    }
}

/// Ten thousand entries come in parts; every one of them is in one part at least.
#[tokio::test]
async fn a_large_directory_is_shown_in_parts() {
    let site = Site::new().await;
    let link = file(&site.dag, b"").await;
    let names: Vec<_> = (0..10_000).map(|at| format!("entry-{at}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_bytes(), link)).collect();
    let root = dir(&site.dag, &entries).await.cid;
    let (mut path, mut pages) = (format!("/ipfs/{root}/"), Vec::new());
    loop {
        let page = site.get(&path).await.text();
        let next = page.split("rel=\"next\" href=\"").nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned);
        pages.push(page);
        let Some(next) = next else { break };
        path = next;
    }
    assert_eq!(pages.len(), 3);
    let shown: HashSet<&str> = pages.iter().flat_map(|page| page.split(['>', '<'])).collect();
    assert!(names.iter().all(|name| shown.contains(name.as_str())));
    assert_eq!(site.get(&format!("/ipfs/{root}/?from=x")).await.status, 400);
}

fn other_codec(code: &[u8], block: &[u8]) -> Cid {
    let raw = muxfs::cid_of(Codec::Raw, block);
    Cid::from_bytes(&[&[1], code, raw.multihash_bytes().as_slice()].concat()).expect("a CID")
}

#[tokio::test]
async fn linked_data_in_its_own_form_only() {
    let site = Site::new().await;
    let dag = &site.dag;
    let leaf = file(dag, b"leaf").await.cid;
    let value = |inner: Ipld| Ipld::Map([("a".to_owned(), inner), ("b".to_owned(), Ipld::from(leaf))].into());
    let cbor = dag.put_linked(&value(Ipld::List(vec![Ipld::String("<x>".into())]))).await.expect("memory");
    let json = linked::encode(Codec::DagJson, &value(Ipld::Null)).expect("a value");
    let json = dag.put_block(Codec::DagJson, json).await.expect("memory");
    for block in [&b"{\"plain\": 1}"[..], b"\xa0"] {
        dag.put_block(Codec::Raw, block.to_vec().into()).await.expect("memory");
    }
    let plain_json = other_codec(&[0x80, 0x04], b"{\"plain\": 1}");
    let plain_cbor = other_codec(&[0x51], b"\xa0");
    let git = other_codec(&[0x78], b"\xa0");

    let (is_json, is_cbor) = ("application/vnd.ipld.dag-json", "application/vnd.ipld.dag-cbor");
    for (cid, query, accept, status, content_type) in [
        (cbor, "", "*/*", 200, is_cbor),
        (cbor, "?format=dag-cbor", "text/html", 200, is_cbor),
        (cbor, "?format=cbor", "*/*", 200, "application/cbor"),
        (cbor, "", "application/cbor", 200, "application/cbor"),
        (cbor, "?format=dag-json", "*/*", 406, ""),
        (cbor, "?format=json", "*/*", 406, ""),
        (cbor, "", "application/vnd.ipld.dag-json", 406, ""),
        (cbor, "", "application/json, */*", 200, is_cbor),
        (cbor, "", "text/html", 200, "text/html; charset=utf-8"),
        (cbor, "?format=raw", "*/*", 200, "application/vnd.ipld.raw"),
        (cbor, "?format=tar", "*/*", 406, ""),
        (json, "", "*/*", 200, is_json),
        (json, "", "application/json", 200, "application/json"),
        (json, "?format=dag-cbor", "*/*", 406, ""),
        (json, "", "text/html", 200, "text/html; charset=utf-8"),
        (plain_json, "", "text/html", 200, "application/json"),
        (plain_json, "?format=json", "*/*", 200, "application/json"),
        (plain_json, "?format=dag-json", "*/*", 406, ""),
        (plain_cbor, "", "*/*", 200, "application/cbor"),
        (plain_cbor, "?format=json", "*/*", 406, ""),
        (git, "", "*/*", 406, ""),
        (git, "?format=raw", "*/*", 200, "application/vnd.ipld.raw"),
        (leaf, "?format=dag-json", "*/*", 406, ""),
        (leaf, "?format=json", "*/*", 200, "application/json"),
        (leaf, "", "application/json", 200, "text/plain; charset=utf-8"),
    ] {
        let reply = site.ask("GET", &format!("/ipfs/{cid}{query}"), &[("Accept", accept)]).await;
        assert_eq!(reply.status, status, "{cid}{query} {accept}: {}", reply.text());
        if status == 200 {
            assert_eq!(reply.header("content-type"), Some(content_type), "{cid}{query} {accept}");
        }
    }
    let reply = site.get(&format!("/ipfs/{cbor}")).await;
    assert_eq!(reply.body, dag.get_block(&cbor).await.expect("memory"));
    let told = (reply.header("etag"), reply.header("content-disposition"));
    let expected = (format!("\"{cbor}.dag-cbor\""), format!("attachment; filename=\"{cbor}.cbor\""));
    assert_eq!(told, (Some(expected.0.as_str()), Some(expected.1.as_str())));
    let reply = site.get(&format!("/ipfs/{json}")).await;
    assert_eq!(reply.header("content-disposition"), Some(format!("inline; filename=\"{json}.json\"").as_str()));

    let page = site.ask("GET", &format!("/ipfs/{cbor}/"), &[("Accept", "text/html")]).await;
    assert!(page.text().contains("&lt;x&gt;") && page.text().contains(&format!("href=\"/ipfs/{leaf}\"")));
    assert!(page.header("etag").is_some_and(|etag| etag.starts_with("\"DagIndex-")));
    assert_eq!(page.header("content-disposition"), None);
    // A path leads through values to blocks; to end at a value has no answer.
    for (path, status) in [("/a", 501), ("/a/0", 501), ("/a/1", 404), ("/b", 200), ("/c", 404), ("/b/x", 404)] {
        assert_eq!(site.get(&format!("/ipfs/{cbor}{path}")).await.status, status, "{path}");
    }
    let through = site.get(&format!("/ipfs/{cbor}/b")).await;
    assert_eq!(through.header("x-ipfs-roots"), Some(format!("{cbor},{leaf}").as_str()));
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let site = Site::new().await;
    let leaf = file(&site.dag, b"hello").await;
    let value = site.dag.put_linked(&Ipld::from(leaf.cid)).await.expect("memory");
    let symlink = site.dag.put_symlink(b"a.txt", UnixfsMeta::default()).await.expect("memory");
    let root = dir(&site.dag, &[(b"a.txt", leaf), (b"link", symlink)]).await.cid;
    for path in [
        format!("/ipfs/{root}/a.txt"),
        format!("/ipfs/{root}/a.txt?format=raw"),
        format!("/ipfs/{root}"),
        format!("/ipfs/{root}/"),
        format!("/ipfs/{root}/link"),
        format!("/ipfs/{root}/nothing"),
        format!("/ipfs/{value}"),
        "/ipfs/nothing".to_owned(),
        "/".to_owned(),
    ] {
        let (get, head) = (site.get(&path).await, site.ask("HEAD", &path, &[]).await);
        assert!(get.is_whole && get.header("content-length").is_some(), "{path}");
        same_but_for_the_body(&get, &head);
    }
}

/// A part of a long file, over the wire and through leaves, is the slice.
#[tokio::test]
async fn parts_of_a_long_file() {
    let site = Site::new().await;
    let content: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    let params = Params { chunk_len: 4096, width: 5, ..Profile::default().params() };
    let cid = file(&site.dag.with_params(params), &content).await.cid;
    for (range, slice) in [
        ("bytes=0-0", 0..1),
        ("bytes=4095-4096", 4095..4097),
        ("bytes=4096-700000", 4096..700_001),
        ("bytes=-5000", 795_000..800_000),
        ("bytes=799999-", 799_999..800_000),
        ("bytes=0-", 0..800_000),
    ] {
        let reply = site.ask("GET", &format!("/ipfs/{cid}"), &[("Range", range)]).await;
        assert_eq!((reply.status, reply.is_whole), (206, true), "{range}");
        assert!(reply.body == content[slice], "{range}");
    }
    let two = site.ask("GET", &format!("/ipfs/{cid}"), &[("Range", "bytes=5-6,790000-799999")]).await;
    assert!(two.header("content-type").is_some_and(|value| value.starts_with("multipart/byteranges; boundary=")));
    assert!(two.is_whole && two.body.windows(10_000).any(|window| window == &content[790_000..]));
    let whole = site.get(&format!("/ipfs/{cid}")).await;
    assert!(whole.is_whole && whole.body == content);
}

#[tokio::test]
async fn what_is_refused_says_why() {
    let site = Site::new().await;
    let leaf = file(&site.dag, b"hello").await.cid;
    let absent = muxfs::cid_of(Codec::Raw, b"absent");
    for (method, path, headers, status, word) in [
        ("GET", "/ipfs/foobar", &[][..], 400, "CID"),
        ("GET", "/ipfs/foobar/below?format=raw", &[], 400, "CID"),
        ("GET", "/nope/foobar", &[], 404, "/ipfs"),
        ("GET", &format!("/ipfs/{absent}"), &[], 404, "never put here"),
        (
            "GET",
            &format!("/ipfs/{absent}"),
            &[("Cache-Control", "no-transform, Only-If-Cached")],
            412,
            "only-if-cached",
        ),
        ("GET", &format!("/ipfs/{leaf}?format=zip"), &[], 400, "tar"),
        ("GET", &format!("/ipfs/{leaf}?format=ipns-record"), &[], 400, "IPNS"),
        ("GET", &format!("/ipfs/{leaf}"), &[("Service-Worker", "script")], 400, "worker"),
        ("POST", &format!("/ipfs/{leaf}"), &[("Content-Length", "0")], 405, "writes nothing"),
        ("DELETE", &format!("/ipfs/{leaf}"), &[], 405, "writes nothing"),
        ("GET", &format!("/ipfs/{leaf}"), &[("Host", "evil.example")], 403, "evil.example"),
        ("GET", &format!("/ipfs/{leaf}"), &[("Host", "127.0.0.1"), ("Host", "evil.example")], 400, "Host"),
        ("GET", &format!("http://evil.example/ipfs/{leaf}"), &[], 403, "evil.example"),
        ("GET", &format!("/ipfs/{leaf}/x"), &[], 404, "nothing below"),
    ] {
        let reply = site.ask(method, path, headers).await;
        assert_eq!(reply.status, status, "{method} {path} {headers:?}: {}", reply.text());
        assert!(reply.text().contains(word), "{method} {path}: {}", reply.text());
        assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
        let for_people = site.ask(method, path, &[headers, &[("Accept", "text/html")]].concat()).await;
        assert!(for_people.status == status && for_people.text().starts_with("<!doctype html>"), "{path}");
    }
    let allowed = site.ask("POST", "/ipfs/x", &[("Content-Length", "0")]).await;
    assert_eq!(allowed.header("allow"), Some("GET, HEAD, OPTIONS"));
    let asked_by_a_page = async |method, path: String| {
        let reply = site.ask(method, &path, &[("Origin", "https://a.example")]).await;
        (reply.status, reply.header("access-control-allow-origin").map(str::to_owned))
    };
    assert_eq!(asked_by_a_page("OPTIONS", format!("/ipfs/{leaf}/")).await, (204, Some("*".to_owned())));
    assert_eq!(asked_by_a_page("GET", format!("/zstor/{leaf}")).await, (200, None), "served, and not to be read");
}

#[tokio::test]
async fn a_name_that_is_listed_is_answered_to() {
    let hosts = vec!["files.example.org".to_owned()];
    let site = Site::with(Options { hosts, ..Options::default() }).await;
    for (host, status) in [("files.example.org", 200), ("localhost:1", 200), ("other.example.org", 403)] {
        assert_eq!(site.ask("GET", "/ipfs/bafkqaaa", &[("Host", host)]).await.status, status, "{host}");
    }
}
