//! What IPNS names lead to, and their records.

mod web;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use muxfs::{
    Name, Result, SecretKey,
    dag::{Entry, UnixfsMeta},
    ipns::{IpnsName, LIFETIME, NameKey, Record, Records, TTL},
    testing::{env, model::ModelFs},
};
use muxfs_http::Options;

use self::web::{OWNER, Site, writing};

#[derive(Debug, Default)]
struct Known(Mutex<BTreeMap<IpnsName, Record>>);

impl Known {
    /// Lets the name of the key of a seed lead somewhere.
    fn publish(&self, seed: u8, value: &str, sequence: u64, expires: SystemTime) -> IpnsName {
        let key = NameKey::of_seed(SecretKey::new([seed; 32]));
        let record = Record::create(&key, value.as_bytes(), sequence, expires, TTL).expect("a record");
        self.0.lock().expect("records").insert(key.name().clone(), record);
        key.name().clone()
    }
}

#[async_trait]
impl Records for Known {
    async fn record(&self, name: &IpnsName) -> Result<Option<Record>> {
        Ok(self.0.lock().expect("records").get(name).cloned())
    }
}

#[tokio::test]
async fn a_name_leads_to_what_its_record_says() {
    let known = Arc::new(Known::default());
    let site = Site::with(Options { names: Some(known.clone()), ..Options::default() }).await;
    let file = |content: &'static [u8]| site.dag.import(content, UnixfsMeta::default());
    let (one, two) = (file(b"one\n").await.expect("memory"), file(b"two\n").await.expect("memory"));
    let mut roots = Vec::new();
    for link in [one, two] {
        let entry = Entry { name: Name::new(b"a.txt").expect("a name"), link };
        roots.push(site.dag.put_dir(stream::iter([Ok(entry)]).boxed()).await.expect("memory").cid);
    }
    let later = SystemTime::now() + LIFETIME;
    let name = known.publish(1, &format!("/ipfs/{}", roots[0]), 1, later);
    let path = format!("/ipns/{name}/a.txt");
    let reply = site.get(&path).await;
    assert_eq!((reply.status, reply.text().as_ref()), (200, "one\n"));
    for (header, value) in [
        ("Cache-Control", "public, max-age=300"),
        ("Etag", &format!("\"{}\"", one.cid)),
        ("X-Ipfs-Path", &path),
        ("X-Ipfs-Roots", &format!("{},{}", roots[0], one.cid)),
        ("Access-Control-Allow-Origin", "*"),
    ] {
        assert_eq!(reply.header(header), Some(value), "{header}");
    }
    assert_eq!(site.get(&format!("/ipns/{}/a.txt", name.cid())).await.body, b"one\n", "in base32");
    let through = known.publish(2, &format!("/ipns/{name}/a.txt"), 1, later);
    assert_eq!(site.get(&format!("/ipns/{through}")).await.body, b"one\n", "through another name");
    let moved = site.get(&format!("/ipns/{name}")).await;
    assert_eq!((moved.status, moved.header("location")), (301, Some(&*format!("/ipns/{name}/"))));
    let list = site.get(&format!("/ipns/{name}/")).await;
    assert!(list.status == 200 && list.text().contains("a.txt"), "{}", list.text());
    assert_eq!(list.header("Cache-Control"), Some("public, max-age=300"), "not for a week");
    let block = site.get(&format!("/ipns/{name}/a.txt?format=raw")).await;
    assert_eq!((block.status, block.header("Cache-Control")), (200, Some("public, max-age=300")));
    assert_eq!(site.get(&format!("/ipns/{name}/b")).await.status, 404);

    known.publish(1, &format!("/ipfs/{}", roots[1]), 2, later);
    let etag = format!("\"{}\"", one.cid);
    let changed = site.ask("GET", &path, &[("If-None-Match", &etag)]).await;
    assert_eq!((changed.status, changed.body), (200, b"two\n".to_vec()));

    known.publish(1, &format!("/ipfs/{}", roots[1]), 3, SystemTime::now() + Duration::from_secs(40));
    let soon = site.get(&path).await;
    let age: u64 = soon.header("Cache-Control").and_then(|kept| kept.rsplit_once('=')?.1.parse().ok()).expect("an age");
    assert!(age <= 40, "no longer than the record is good: {age}");
    known.publish(1, &format!("/ipfs/{}", roots[1]), 4, SystemTime::now() - Duration::from_secs(1));
    let old = site.get(&path).await;
    assert_eq!(old.status, 404);
    assert!(old.text().contains("publish"), "{}", old.text());
}

#[tokio::test]
async fn a_record_comes_as_it_was_signed() {
    let known = Arc::new(Known::default());
    let site = Site::with(Options { names: Some(known.clone()), ..Options::default() }).await;
    let name = known.publish(1, "/ipfs/bafkqaaa", 7, SystemTime::now() + LIFETIME);
    let path = format!("/ipns/{name}?format=ipns-record");
    let media_type = "application/vnd.ipfs.ipns-record";
    for reply in [site.get(&path).await, site.ask("GET", &format!("/ipns/{name}"), &[("Accept", media_type)]).await] {
        assert_eq!((reply.status, reply.header("Content-Type")), (200, Some(media_type)));
        let read = Record::verify(&name, &reply.body).expect("good");
        assert_eq!((read.sequence(), read.value()), (7, &b"/ipfs/bafkqaaa"[..]));
        let disposition = format!("attachment; filename=\"{name}.ipns-record\"");
        assert_eq!(reply.header("Content-Disposition"), Some(disposition.as_str()));
        assert_eq!(reply.header("Cache-Control"), Some("public, max-age=300"));
        let etag = reply.header("Etag").expect("an etag");
        let again = site.ask("GET", &path, &[("If-None-Match", etag)]).await;
        assert_eq!((again.status, again.body.len()), (304, 0));
        let head = site.ask("HEAD", &path, &[]).await;
        assert_eq!((head.status, head.header("Etag"), head.body.len()), (200, Some(etag), 0));
        assert_eq!(head.header("Content-Length"), Some(&*reply.body.len().to_string()));
    }
    // Who asks for a record judges it.
    known.publish(1, "/ipfs/bafkqaaa", 8, SystemTime::now() - LIFETIME);
    assert_eq!(site.get(&path).await.status, 200);
    let nobody = NameKey::of_seed(SecretKey::new([9; 32]));
    for (path, status) in [
        (format!("/ipns/{}?format=ipns-record", nobody.name()), 404),
        (format!("/ipns/{}", nobody.name()), 404),
        (format!("/ipns/{name}/a?format=ipns-record"), 400),
        ("/ipns".to_owned(), 400),
        ("/ipns/bafkqaaa".to_owned(), 400),
        ("/ipns/example.org/a".to_owned(), 400),
        ("/ipns/%FF%FE".to_owned(), 400),
    ] {
        let reply = site.get(&path).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
    }
}

#[tokio::test]
async fn where_no_names_are_there_is_no_such_path() {
    let site = Site::new().await;
    assert_eq!(site.get("/ipns/k51qzi5uqu5dlkw8pxuw9qmqayfdeh4kfebhmreauqdc6a7c3y7d5i9fi8mk9w").await.status, 404);
}

/// Who asks for another MuxFS, or wants no more than what is here, has nobody else asked.
#[tokio::test]
async fn names_that_others_know_are_for_who_may_have_them_asked() {
    let (own, all) = (Arc::new(Known::default()), Arc::new(Known::default()));
    let options = Options { names: Some(own.clone()), names_elsewhere: Some(all.clone()), ..Options::default() };
    let site = Site::with(options).await;
    let file = site.dag.import(&b"one\n"[..], UnixfsMeta::default()).await.expect("memory").cid;
    let name = all.publish(1, &format!("/ipfs/{file}"), 1, SystemTime::now() + LIFETIME);
    let (path, label) = (format!("/ipns/{name}"), format!("{name}.ipns.localhost"));
    for (path, host) in [(path.as_str(), "localhost"), ("/", &label)] {
        assert_eq!(site.ask("GET", path, &[("Host", host)]).await.body, b"one\n", "{path}");
        for held_only in [("Via", "1.1 muxfs"), ("Cache-Control", "only-if-cached")] {
            assert_eq!(site.ask("GET", path, &[("Host", host), held_only]).await.status, 404, "{path}");
        }
    }
    let record = format!("{path}?format=ipns-record");
    assert_eq!(site.get(&record).await.status, 200);
    assert_eq!(site.ask("GET", &record, &[("Via", "1.1 muxfs")]).await.status, 404);
}

/// The site of a name has the `_redirects` of what the name leads to, also where that is below a CID; and it is told to nobody
/// who may not read.
#[tokio::test]
async fn a_site_of_a_name_redirects() {
    for is_private in [false, true] {
        let known = Arc::new(Known::default());
        let writing = is_private.then(|| writing(ModelFs::new(env())));
        let names: Option<Arc<dyn Records>> = Some(known.clone());
        let site = Site::with(Options { names, writing, private: is_private, ..Options::default() }).await;
        let mut entries = Vec::new();
        for (name, text) in [
            ("404.html", "none"),
            ("_redirects", "/old/* /new/:splat 302\n/x /one 200\n/* /404.html 404\n"),
            ("one", "one"),
        ] {
            let link = site.dag.import(text.as_bytes(), UnixfsMeta::default()).await.expect("memory");
            entries.push(Ok(Entry { name: Name::new(name.as_bytes()).expect("a name"), link }));
        }
        let pages = site.dag.put_dir(stream::iter(entries).boxed()).await.expect("memory");
        let entry = Entry { name: Name::new(b"pages").expect("a name"), link: pages };
        let root = site.dag.put_dir(stream::iter([Ok(entry)]).boxed()).await.expect("memory");
        let later = SystemTime::now() + LIFETIME;
        for (seed, value) in [(1, format!("/ipfs/{}", pages.cid)), (2, format!("/ipfs/{}/pages", root.cid))] {
            let host = format!("{}.ipns.localhost", known.publish(seed, &value, 1, later));
            for (path, status, location, text) in [
                ("/one", 200, None, "one"),
                ("/old/a/b", 302, Some("/new/a/b"), ""),
                ("/x", 200, None, "one"),
                ("/nothing", 404, None, "none"),
            ] {
                let reply = site
                    .ask("GET", path, &[("Host", host.as_str()), ("Authorization", OWNER)][..=usize::from(is_private)])
                    .await;
                let found = (reply.status, reply.header("location"), reply.text());
                assert_eq!(found, (status, location, text.to_owned()), "{value}{path}");
                if !is_private {
                    continue;
                }
                let refused = site.ask("GET", path, &[("Host", &host)]).await;
                assert_eq!((refused.status, refused.header("location")), (401, None), "{path}");
            }
        }
    }
}
