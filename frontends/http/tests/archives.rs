//! DAGs as archives: what of them is in it, what refuses, and that the tools of others read them.

mod web;

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, UNIX_EPOCH},
};

use futures_util::{StreamExt, stream};
use muxfs::{
    Codec, Name,
    dag::{
        Dag, Entry, Ipld, Link, UnixfsMeta,
        pb::{PbLink, PbNode},
    },
};

use self::web::{Site, read_car};

async fn file(dag: &Dag, content: &[u8]) -> Link {
    dag.import(content, UnixfsMeta::default()).await.expect("memory")
}

async fn dir(dag: &Dag, entries: &[(&[u8], Link)]) -> Link {
    let entry = |(name, link): &(&[u8], Link)| Ok(Entry { name: Name::new(name).expect("a name"), link: *link });
    dag.put_dir(stream::iter(entries.iter().map(entry).collect::<Vec<_>>()).boxed()).await.expect("memory")
}

/// A directory with names that no file has.
async fn odd_dir(dag: &Dag, entries: &[(&'static [u8], Link)]) -> Link {
    let link = |(name, link): &(&'static [u8], Link)| PbLink {
        cid: link.cid,
        name: Some((*name).into()),
        tsize: Some(link.tsize),
    };
    let node = PbNode { links: entries.iter().map(link).collect(), data: Some(b"\x08\x01"[..].into()) };
    Link { cid: dag.put_block(Codec::DagPb, node.encode()).await.expect("memory"), tsize: 0 }
}

#[tokio::test]
async fn a_car_has_what_was_asked_for() {
    let site = Site::new().await;
    let (a, b) = (file(&site.dag, b"a").await, file(&site.dag, b"b").await);
    let below = dir(&site.dag, &[(b"a", a), (b"again", a), (b"b", b)]).await;
    let root = dir(&site.dag, &[(b"below", below)]).await;
    let value = site.dag.put_linked(&Ipld::List(vec![Ipld::from(below.cid), Ipld::Null])).await.expect("memory");
    let [root, below, a, b] = [root, below, a, b].map(|link| link.cid);
    for (path, cids) in [
        (format!("{root}?format=car"), vec![root, below, a, b]),
        (format!("{root}?format=car&car-dups=y"), vec![root, below, a, a, b]),
        (format!("{root}/below?format=car&dag-scope=entity"), vec![root, below]),
        (format!("{root}/below/b?format=car&dag-scope=block"), vec![root, below, b]),
        (format!("{value}/0/b?format=car"), vec![value, below, b]),
        (format!("{value}/1?format=car&dag-scope=block"), vec![value]),
        ("bafkqaaa?format=car".to_owned(), vec![]),
        ("bafkqabtimvwgy3yk?format=car&car-dups=y".to_owned(), vec![]),
    ] {
        let reply = site.get(&format!("/ipfs/{path}")).await;
        assert_eq!((reply.status, reply.is_whole), (200, true), "{path}: {}", reply.text());
        assert_eq!(read_car(&reply.body).1, cids, "{path}");
    }
    let reply = site.get(&format!("/ipfs/{root}/below?format=car")).await;
    for (name, value) in [
        ("Content-Type", "application/vnd.ipld.car; version=1; order=dfs; dups=n"),
        ("Content-Disposition", &format!("attachment; filename=\"{below}.car\"")),
        ("Accept-Ranges", "none"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Ipfs-Roots", &format!("{root},{below}")),
        ("Cache-Control", "public, max-age=29030400, immutable"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    assert_eq!(read_car(&reply.body).0, [below]);
    let etag = reply.header("etag").expect("an etag");
    assert!(etag.starts_with(&format!("W/\"{root}.car.")), "{etag}");
    let again = site.ask("GET", &format!("/ipfs/{root}/below?format=car"), &[("If-None-Match", etag)]).await;
    assert_eq!((again.status, again.header("content-length")), (304, None));
    let other = site.ask("GET", &format!("/ipfs/{root}/below?format=car&car-dups=y"), &[("If-None-Match", etag)]).await;
    assert_eq!(other.status, 200, "other blocks");
    let head = site.ask("HEAD", &format!("/ipfs/{root}/below?format=car"), &[]).await;
    assert_eq!((head.status, head.header("etag"), head.body.len()), (200, Some(etag), 0));
    // Nobody knows it, and an empty body would tell that there is none.
    assert_eq!(head.header("content-length"), None);
    let options = site.ask("OPTIONS", &format!("/ipfs/{root}/below"), &[]).await;
    assert_eq!((options.status, options.header("content-length")), (204, None));
    for (path, status) in [
        (format!("{root}?format=car&car-version=2"), 400),
        (format!("{root}?format=car&dag-scope=most"), 400),
        (format!("{a}?format=car&entity-bytes=5:9"), 400),
        (format!("{root}/nothing?format=car"), 404),
        (format!("{}?format=car", muxfs::cid_of(Codec::Raw, b"absent")), 404),
    ] {
        assert_eq!(site.get(&format!("/ipfs/{path}")).await.status, status, "{path}");
    }
}

fn tar(args: &[&str], archive: &[u8]) -> Option<std::process::Output> {
    let mut child = Command::new("tar").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    child.stdin.take().expect("piped").write_all(archive).expect("it reads");
    Some(child.wait_with_output().expect("it ends"))
}

#[tokio::test]
async fn tar_takes_a_directory_apart() {
    let site = Site::new().await;
    let dag = &site.dag;
    let long = "long-".repeat(40);
    let content: Vec<u8> = (0..1_500_000u32).map(|at| u8::try_from(at % 251).expect("a byte")).collect();
    let mtime = Some(UNIX_EPOCH + Duration::from_secs(784_111_777));
    let dated = dag.import(&b"dated"[..], UnixfsMeta { mode: Some(0o4750), mtime }).await.expect("memory");
    let files = [(long.as_bytes(), file(dag, &content).await), ("źł.txt".as_bytes(), file(dag, b"").await)];
    let below = dir(dag, &files).await;
    let link = dag.put_symlink(b"dated", UnixfsMeta::default()).await.expect("memory");
    let root = dir(dag, &[(b"below", below), (b"dated", dated), (b"link", link)]).await.cid;

    let reply = site.get(&format!("/ipfs/{root}?format=tar")).await;
    assert_eq!((reply.status, reply.is_whole, reply.body.len() % 512), (200, true, 0));
    for (name, value) in [
        ("Content-Type", "application/x-tar"),
        ("Content-Disposition", &format!("attachment; filename=\"{root}.tar\"")),
        ("Etag", &format!("W/\"{root}.x-tar\"")),
        ("Accept-Ranges", "none"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    let into = tempfile::tempdir().expect("a directory");
    let Some(output) = tar(&["-x", "-C", into.path().to_str().expect("UTF-8")], &reply.body) else {
        muxfs::testing::skip("there is no tar");
        return;
    };
    assert!(output.status.success());
    let there = into.path().join(root.to_string());
    assert!(fs::read(there.join("below").join(&long)).expect("there") == content);
    assert_eq!(fs::read(there.join("below/źł.txt")).expect("there"), b"");
    assert_eq!(fs::read_link(there.join("link")).expect("there").to_str(), Some("dated"));
    let metadata = fs::metadata(there.join("dated")).expect("there");
    assert_eq!(metadata.modified().ok(), mtime);
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
    assert_eq!(mode & 0o4000, 0, "a set-id bit does not travel");

    let leaf = site.get(&format!("/ipfs/{root}/dated?format=tar&filename=testтест.tar")).await;
    let told = "attachment; filename=\"test____.tar\"; filename*=UTF-8''test%D1%82%D0%B5%D1%81%D1%82.tar";
    assert_eq!((leaf.status, leaf.header("content-disposition")), (200, Some(told)));
    let listed = tar(&["-t"], &leaf.body).expect("there is a tar");
    assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), dated.cid.to_string());
}

/// Whoever takes an archive apart must not have it write elsewhere.
#[tokio::test]
async fn an_archive_stays_below_its_root() {
    let site = Site::new().await;
    let dag = &site.dag;
    let leaf = file(dag, b"x").await;
    let out = dag.put_symlink(b"/etc", UnixfsMeta::default()).await.expect("memory");
    let up = odd_dir(dag, &[(b"../file", leaf)]).await;
    let inside = dir(dag, &[(b"a", dir(dag, &[(b"b", up)]).await)]).await;
    let reply = site.get(&format!("/ipfs/{}?format=tar", inside.cid)).await;
    assert_eq!(reply.status, 200, "it leads to another place inside");
    if let Some(listed) = tar(&["-t"], &reply.body) {
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains(&format!("{}/a/file\n", inside.cid)) && !listed.contains(".."), "{listed}");
    }
    let through = odd_dir(dag, &[(b"a", out), (b"a/passwd", leaf)]).await;
    for root in [
        up,
        through,
        odd_dir(dag, &[(b"../../x", leaf)]).await,
        odd_dir(dag, &[(b"x/../../../x", leaf)]).await,
        odd_dir(dag, &[(b"..", leaf)]).await,
        odd_dir(dag, &[(b"", leaf)]).await,
        odd_dir(dag, &[(b"a\0b", leaf)]).await,
        dir(dag, &[(b"a", odd_dir(dag, &[(b"../../x", leaf)]).await)]).await,
    ] {
        let reply = site.get(&format!("/ipfs/{}?format=tar", root.cid)).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
    }
}

/// 2^20 ways through twenty blocks: neither archive goes on for ever.
#[tokio::test]
async fn a_few_blocks_do_not_become_many() {
    let site = Site::new().await;
    let mut root = file(&site.dag, b"x").await;
    for _ in 0..20 {
        root = dir(&site.dag, &[(b"a", root), (b"b", root)]).await;
    }
    let refused = site.get(&format!("/ipfs/{}?format=tar", root.cid)).await;
    assert_eq!(refused.status, 501, "{}", refused.text());
    let car = site.get(&format!("/ipfs/{}?format=car", root.cid)).await;
    assert_eq!((car.is_whole, read_car(&car.body).1.len()), (true, 21));
}

/// One name, listed so often that it fills a block, in a directory that is listed under many: few members, and thousands of
/// millions of entries to look at. And directories in each other, each with as many entries as there may be.
#[tokio::test]
async fn entries_that_are_no_members_count_too() {
    let site = Site::new().await;
    let empty = Link { cid: "bafkqaaa".parse().expect("a CID"), tsize: 0 };
    let crowd = odd_dir(&site.dag, &vec![(&b"a"[..], empty); 30_000]).await;
    let names: Vec<String> = (0..1000).map(|n| format!("{n}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_bytes(), crowd)).collect();
    let wide = dir(&site.dag, &entries).await;
    let mut deep = odd_dir(&site.dag, &vec![(&b"b"[..], empty); 9_000]).await;
    for _ in 0..40 {
        let mut entries = vec![(&b"b"[..], empty); 9_000];
        entries[0] = (b"a", deep);
        deep = odd_dir(&site.dag, &entries).await;
    }
    for cid in [wide.cid, deep.cid] {
        let refused = site.get(&format!("/ipfs/{cid}?format=tar")).await;
        assert_eq!(refused.status, 501, "{}", refused.text());
    }
}
