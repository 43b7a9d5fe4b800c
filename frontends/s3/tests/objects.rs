//! Objects are files and files are objects: what is put over S3 is read everywhere else, and the other way round.

mod s3;

use muxfs::{
    Name,
    vfs::{NewNode, SetAttr, ext},
};
use s3::{Site, key, send};

const MD5_OF_HELLO: &str = "\"5d41402abc4b2a76b9719d911017c592\"";

#[tokio::test]
async fn what_is_put_is_got_and_is_a_file() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/photos", b"").await.expect(200);
    let put = ann.put("/photos/2026/a b.jpg", b"hello").await.expect(200);
    assert_eq!(put.header("etag"), Some(MD5_OF_HELLO));
    let got = ann.get("/photos/2026/a b.jpg").await.expect(200);
    assert_eq!((got.text().as_str(), got.header("etag")), ("hello", Some(MD5_OF_HELLO)));
    assert_eq!(site.file("photos/2026/a b.jpg").await.as_deref(), Some(&b"hello"[..]));
    let head = ann.ask("HEAD", "/photos/2026/a b.jpg", &[], &[], b"").await.expect(200);
    assert_eq!((head.header("content-length"), head.body.len()), (Some("5"), 0));
    // Directories that were made for an object go with it; an empty bucket can be removed.
    ann.delete("/photos").await.refused(409, "BucketNotEmpty");
    ann.delete("/photos/2026/a b.jpg").await.expect(204);
    assert_eq!(site.file("photos/2026/a b.jpg").await, None);
    let (bucket, _) =
        ext::walk(&site.vfs, site.vfs.root(), &[Name::new(b"photos").expect("a name")]).await.expect("is");
    let none = site.vfs.lookup(bucket.ino(), &Name::new(b"2026").expect("a name")).await;
    assert!(none.is_err(), "the directory was made for the object alone");
    ann.get("/photos/2026/a b.jpg").await.refused(404, "NoSuchKey");
    ann.delete("/photos/2026/a b.jpg").await.expect(204);
    ann.delete("/photos").await.expect(204);
    ann.get("/photos/x").await.refused(404, "NoSuchBucket");
}

#[tokio::test]
async fn metadata_tags_and_checksums_come_back() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    let headers = [
        ("content-type", "text/x-note"),
        ("x-amz-meta-colour", "blue"),
        ("x-amz-tagging", "a=1&b=two%20words"),
        ("cache-control", "no-cache"),
        ("x-amz-checksum-crc32", "NhCmhg=="),
    ];
    ann.ask("PUT", "/abc/k", &[], &headers, b"hello").await.expect(200);
    let got = ann.ask("GET", "/abc/k", &[], &[("x-amz-checksum-mode", "ENABLED")], b"").await.expect(200);
    for (name, value) in [
        ("content-type", "text/x-note"),
        ("x-amz-meta-colour", "blue"),
        ("cache-control", "no-cache"),
        ("x-amz-tagging-count", "2"),
        ("x-amz-checksum-crc32", "NhCmhg=="),
    ] {
        assert_eq!(got.header(name), Some(value), "{}", got.head);
    }
    let tags = ann.ask("GET", "/abc/k", &[("tagging", "")], &[], b"").await.expect(200);
    assert_eq!(tags.all("Value"), ["1", "two words"]);
    // Wrong ones keep what was there.
    for (name, value, code) in [
        ("x-amz-checksum-crc32", "AAAAAA==", "BadDigest"),
        ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=", "InvalidDigest"),
        ("content-md5", "XUFAKrxLKna5cZ2REBfFkQ==", "BadDigest"),
    ] {
        ann.ask("PUT", "/abc/k", &[], &[(name, value)], b"hello").await.refused(400, code);
    }
    ann.ask_with("PUT", "/abc/k", &[], &[], b"other", &"0".repeat(64)).await.refused(400, "XAmzContentSHA256Mismatch");
    assert_eq!(ann.get("/abc/k").await.expect(200).text(), "hello");
    // A copy has them too, and shares the bytes.
    ann.ask("PUT", "/abc/copy", &[], &[("x-amz-copy-source", "/abc/k")], b"").await.expect(200);
    let copy = ann.get("/abc/copy").await.expect(200);
    assert_eq!((copy.header("etag"), copy.header("x-amz-meta-colour")), (Some(MD5_OF_HELLO), Some("blue")));
}

#[tokio::test]
async fn ranges_and_conditions_hold() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    ann.put("/abc/k", b"hello").await.expect(200);
    for (range, text, told) in [
        ("bytes=1-2", "el", "bytes 1-2/5"),
        ("bytes=3-", "lo", "bytes 3-4/5"),
        ("bytes=-2", "lo", "bytes 3-4/5"),
        ("bytes=0-99", "hello", "bytes 0-4/5"),
    ] {
        let got = ann.ask("GET", "/abc/k", &[], &[("range", range)], b"").await.expect(206);
        assert_eq!((got.text().as_str(), got.header("content-range")), (text, Some(told)));
    }
    ann.ask("GET", "/abc/k", &[], &[("range", "bytes=5-")], b"").await.refused(416, "InvalidRange");
    ann.ask("GET", "/abc/k", &[], &[("if-none-match", MD5_OF_HELLO)], b"").await.expect(304);
    ann.ask("GET", "/abc/k", &[], &[("if-match", "\"x\"")], b"").await.refused(412, "PreconditionFailed");
    ann.ask("PUT", "/abc/k", &[], &[("if-none-match", "*")], b"b").await.refused(412, "PreconditionFailed");
    ann.ask("PUT", "/abc/k", &[], &[("if-match", "\"x\"")], b"b").await.refused(412, "PreconditionFailed");
    ann.ask("PUT", "/abc/none", &[], &[("if-match", "\"x\"")], b"b").await.refused(404, "NoSuchKey");
    ann.ask("PUT", "/abc/k", &[], &[("if-match", MD5_OF_HELLO)], b"b").await.expect(200);
    assert_eq!(ann.get("/abc/k").await.text(), "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_put_a_new_key_one_does() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    for round in 0..5 {
        let path = format!("/abc/dir{round}/new");
        let puts = (0..8).map(|number: u8| {
            let (ann, path) = (ann.clone(), path.clone());
            tokio::spawn(async move { ann.ask("PUT", &path, &[], &[("if-none-match", "*")], &[number]).await.status })
        });
        let mut statuses = Vec::new();
        for put in puts.collect::<Vec<_>>() {
            statuses.push(put.await.expect("ends"));
        }
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 412].contains(status)), "{statuses:?}");
    }
}

/// Every key of S3 is an object, also those that no path can be, and those that are in each other's way.
#[tokio::test]
async fn odd_keys_are_keys() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    let (long, part) = ("k".repeat(1024), format!("x/{}", "p".repeat(300)));
    let keys = [
        "a",
        "a/b",
        "a/",
        "a//",
        "a//b",
        "/",
        "/a",
        "..",
        "a/../b",
        "a/./b",
        ".",
        "new\nline",
        "tab\t",
        "c/d/e",
        "c/d",
        "c",
        "\u{e4}/\u{1f600}",
        ".muxfs-s3.work/x",
        "d/.history/x",
        " ",
        "%2e%2e",
        "a+b&c=d?e#f",
        &long,
        &part,
    ];
    for (number, key) in keys.iter().enumerate() {
        ann.put(&format!("/abc/{key}"), number.to_string().as_bytes()).await.expect(200);
    }
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(ann.get(&format!("/abc/{key}")).await.expect(200).text(), number.to_string(), "{key:?}");
    }
    let mut sorted: Vec<_> = keys.map(str::to_owned).to_vec();
    sorted.sort();
    for count in [1, 7, 1000] {
        assert_eq!(ann.list("abc", "", "", count).await, sorted, "pages of {count}");
    }
    // Replaced and removed like others.
    ann.put("/abc/a", b"again").await.expect(200);
    assert_eq!(ann.get("/abc/a").await.text(), "again");
    for key in keys {
        ann.delete(&format!("/abc/{key}")).await.expect(204);
        ann.get(&format!("/abc/{key}")).await.refused(404, "NoSuchKey");
    }
    assert!(ann.list("abc", "", "", 1000).await.is_empty());
    ann.delete("/abc").await.expect(204);
}

/// A file that another frontend wrote is an object, and one that it changes has another tag and no old checksum.
#[tokio::test]
async fn files_of_other_frontends_are_objects() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    let (bucket, _) = ext::walk(&site.vfs, site.vfs.root(), &[Name::new(b"abc").expect("a name")]).await.expect("is");
    let name = Name::new(b"theirs").expect("a name");
    let made = site.vfs.create(bucket.ino(), &name, NewNode::File, SetAttr::default()).await.expect("made");
    site.vfs.write(made.node.ino, 0, bytes::Bytes::from_static(b"one"), false).await.expect("written");
    let first = ann.get("/abc/theirs").await.expect(200);
    let tag = first.header("etag").expect("a tag").to_owned();
    assert!(first.text() == "one" && tag.ends_with("-1\""), "no client takes {tag} for an MD5");
    site.vfs.write(made.node.ino, 0, bytes::Bytes::from_static(b"two"), false).await.expect("written");
    let second = ann.get("/abc/theirs").await.expect(200);
    assert!(second.text() == "two" && second.header("etag") != Some(&tag));
    site.vfs.release(made.node.ino, 1);
    ann.put("/abc/ours", b"hello").await.expect(200);
    let ours = site.vfs.lookup(bucket.ino(), &Name::new(b"ours").expect("a name")).await.expect("there");
    site.vfs.write(ours.ino, 0, bytes::Bytes::from_static(b"j"), false).await.expect("written");
    site.vfs.release(ours.ino, 1);
    let changed = ann.ask("GET", "/abc/ours", &[], &[("x-amz-checksum-mode", "ENABLED")], b"").await.expect(200);
    assert_eq!(changed.text(), "jello");
    assert!(changed.header("etag") != Some(MD5_OF_HELLO) && !changed.head.contains("x-amz-checksum-crc"));
    assert_eq!(ann.list("abc", "", "", 10).await, ["ours", "theirs"]);
}

#[tokio::test]
async fn keys_do_what_they_are_for() {
    let (vfs, ()) = muxfs::testing::wire::working_tree().await;
    let mut reader = key("reader");
    reader.read_only = true;
    let mut some = key("some");
    some.allow = vec!["abc/in/".to_owned()];
    let site = Site::over(vfs, vec![key("ann"), reader.clone(), some.clone()]).await;
    let ann = site.ann();
    let reader = s3::Client { key: reader, ..ann.clone() };
    let some = s3::Client { key: some, ..ann.clone() };
    for bucket in ["/abc", "/other"] {
        ann.put(bucket, b"").await.expect(200);
    }
    ann.put("/abc/in/a", b"a").await.expect(200);
    ann.put("/abc/out", b"b").await.expect(200);
    reader.get("/abc/out").await.expect(200);
    reader.put("/abc/x", b"").await.refused(403, "AccessDenied");
    reader.delete("/abc/out").await.refused(403, "AccessDenied");
    some.put("/abc/in/b", b"b").await.expect(200);
    some.get("/abc/out").await.refused(403, "AccessDenied");
    some.put("/abc/out", b"x").await.refused(403, "AccessDenied");
    some.delete("/abc").await.refused(403, "AccessDenied");
    some.ask("GET", "/abc", &[], &[], b"").await.refused(403, "AccessDenied");
    assert_eq!(some.list("abc", "in/", "", 10).await, ["in/a", "in/b"]);
    let copy = [("x-amz-copy-source", "/abc/out")];
    some.ask("PUT", "/abc/in/c", &[], &copy, b"").await.refused(403, "AccessDenied");
    let many = b"<Delete><Object><Key>out</Key></Object><Object><Key>in/b</Key></Object></Delete>";
    let removed = some.ask("POST", "/abc", &[("delete", "")], &[], many).await.expect(200);
    assert!(removed.text().contains("AccessDenied") && removed.all("Deleted").len() == 1, "{}", removed.text());
    assert_eq!(some.get("/").await.expect(200).all("Name"), ["abc"]);
    assert_eq!(ann.get("/").await.expect(200).all("Name"), ["abc", "other"]);
}

/// A bucket that is removed while something is put into it: what was acknowledged is there, or the bucket never was empty.
#[tokio::test]
async fn removing_a_bucket_removes_nothing_that_was_put() {
    let site = Site::new().await;
    let ann = site.ann();
    for round in 0..40 {
        ann.put("/abc", b"").await.expect(200);
        ann.put("/abc/dir/before", b"x").await.expect(200);
        let emptied = async {
            ann.delete("/abc/dir/before").await.expect(204);
            ann.delete("/abc").await.status
        };
        let (put, removed) = tokio::join!(ann.put("/abc/dir/k", b"kept"), emptied);
        if put.status == 200 {
            assert_eq!(removed, 409, "round {round}: it has an object");
            assert_eq!(ann.get("/abc/dir/k").await.expect(200).text(), "kept");
            ann.delete("/abc/dir/k").await.expect(204);
            ann.delete("/abc").await.expect(204);
        }
    }
}

/// What AWS's own clients compare and people ask about: a tag without quotes, and the id of a request that failed.
#[tokio::test]
async fn answers_are_written_as_aws_does() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    let tag = ann.put("/abc/k", b"x").await.expect(200).header("etag").expect("a tag").replace('"', "");
    let wanted = [("x-amz-object-attributes", "ETag")];
    let told = ann.ask("GET", "/abc/k", &[("attributes", "")], &wanted, b"").await.expect(200);
    assert_eq!(told.one("ETag"), Some(tag));
    let refused = ann.get("/abc/none").await.refused(404, "NoSuchKey");
    assert_eq!(refused.one("RequestId").as_deref(), refused.header("x-amz-request-id"));
}

/// botocore sends it before empty files, too, and takes what comes next on the connection for a part of this answer.
#[tokio::test]
async fn a_connection_ends_where_an_empty_body_was_to_be_told_to_go_on() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    let (link, host) = (ann.presigned("PUT", "/abc/k", 60), site.server.local_addr());
    let head = format!("PUT {link} HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\ncontent-length: 0\r\n\r\n");
    let told = send(host, "PUT", head.as_bytes(), b"").await.expect(200);
    assert_eq!(told.header("connection"), Some("close"), "{}", told.head);
}
