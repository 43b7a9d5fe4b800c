//! Uploads in parts: whole or not there, sharing blocks, and there again after a restart.

mod s3;

use s3::{Client, Reply, Site, key};

async fn begin(ann: &Client, path: &str, headers: &[(&str, &str)]) -> String {
    let begun = ann.ask("POST", path, &[("uploads", "")], headers, b"").await.expect(200);
    begun.one("UploadId").expect("an id")
}

async fn part(ann: &Client, path: &str, id: &str, number: u32, body: &[u8]) -> String {
    let query = [("partNumber", number.to_string()), ("uploadId", id.to_owned())];
    let query: Vec<_> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let put = ann.ask("PUT", path, &query, &[], body).await.expect(200);
    put.header("etag").expect("a tag").trim_matches('"').to_owned()
}

async fn complete(ann: &Client, path: &str, id: &str, parts: &[(u32, &str)]) -> Reply {
    let list: Vec<_> = parts
        .iter()
        .map(|(number, etag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"))
        .collect();
    let body = format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", list.concat());
    ann.ask("POST", path, &[("uploadId", id)], &[], body.as_bytes()).await
}

#[tokio::test]
async fn parts_become_one_object_in_their_order() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    let id = begin(&ann, "/abc/dir/big", &[("x-amz-meta-a", "b"), ("content-type", "text/plain")]).await;
    let two = part(&ann, "/abc/dir/big", &id, 7, b"second of the parts").await;
    part(&ann, "/abc/dir/big", &id, 2, b"to be sent again").await;
    let one = part(&ann, "/abc/dir/big", &id, 2, b"first of all parts").await;
    assert_eq!(ann.list("abc", "", "", 10).await, Vec::<String>::new(), "nothing is there yet");
    let listed = ann.ask("GET", "/abc/dir/big", &[("uploadId", &id)], &[], b"").await.expect(200);
    assert_eq!(
        (listed.all("PartNumber"), listed.all("Size")),
        (vec!["2".into(), "7".into()], vec!["18".into(), "19".into()])
    );
    let listed = ann.ask("GET", "/abc", &[("uploads", "")], &[], b"").await.expect(200);
    assert_eq!((listed.all("UploadId"), listed.all("Key")), (vec![id.clone()], vec!["dir/big".to_owned()]));
    for (parts, code) in [
        (vec![(7, two.as_str()), (2, one.as_str())], "InvalidPartOrder"),
        (vec![(2, two.as_str())], "InvalidPart"),
        (vec![(3, one.as_str())], "InvalidPart"),
        (vec![], "MalformedXML"),
    ] {
        complete(&ann, "/abc/dir/big", &id, &parts).await.refused(400, code);
    }
    let parts = [(2, one.as_str()), (7, two.as_str())];
    let done = complete(&ann, "/abc/dir/big", &id, &parts).await.expect(200);
    let etag = done.one("ETag").expect("a tag");
    assert!(etag.contains("-2"), "{etag}");
    let got = ann.get("/abc/dir/big").await.expect(200);
    assert_eq!(got.text(), "first of all partssecond of the parts");
    assert_eq!((got.header("x-amz-meta-a"), got.header("content-type")), (Some("b"), Some("text/plain")));
    let second = ann.ask("GET", "/abc/dir/big", &[("partNumber", "2")], &[], b"").await.expect(206);
    assert_eq!((second.text().as_str(), second.header("x-amz-mp-parts-count")), ("second of the parts", Some("2")));
    // Who did not hear the answer asks again, and is told the same.
    assert_eq!(complete(&ann, "/abc/dir/big", &id, &parts).await.expect(200).one("ETag"), Some(etag));
    ann.ask("DELETE", "/abc/dir/big", &[("uploadId", &id)], &[], b"").await.refused(404, "NoSuchUpload");
    ann.delete("/abc/dir/big").await.expect(204);
    ann.delete("/abc").await.expect(204);
}

#[tokio::test]
async fn small_parts_are_refused_and_an_abort_leaves_nothing() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    let id = begin(&ann, "/abc/k", &[]).await;
    let one = part(&ann, "/abc/k", &id, 1, b"too small").await;
    let two = part(&ann, "/abc/k", &id, 2, b"x").await;
    complete(&ann, "/abc/k", &id, &[(1, &one), (2, &two)]).await.refused(400, "EntityTooSmall");
    for number in ["0", "10001"] {
        let query = [("partNumber", number), ("uploadId", id.as_str())];
        ann.ask("PUT", "/abc/k", &query, &[], b"x").await.refused(400, "InvalidArgument");
    }
    ann.ask("DELETE", "/abc/k", &[("uploadId", &id)], &[], b"").await.expect(204);
    ann.ask("PUT", "/abc/k", &[("partNumber", "1"), ("uploadId", &id)], &[], b"x").await.refused(404, "NoSuchUpload");
    assert!(ann.ask("GET", "/abc", &[("uploads", "")], &[], b"").await.expect(200).all("Upload").is_empty());
}

/// What was acknowledged is there after a restart: objects, parts and uploads; what was not whole is gone.
#[tokio::test]
async fn a_restart_loses_nothing_that_was_acknowledged() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    ann.put("/abc/dir/k", b"kept").await.expect(200);
    let id = begin(&ann, "/abc/big", &[]).await;
    let one = part(&ann, "/abc/big", &id, 1, b"of before the restart").await;
    // Half of a body, and then nothing: it never becomes anything.
    let head = ann.presigned("PUT", "/abc/half", 60);
    let request = format!("PUT {head} HTTP/1.1\r\nhost: {}\r\ncontent-length: 100\r\n\r\nhalf", ann.addr);
    let mut cut = tokio::net::TcpStream::connect(ann.addr).await.expect("connects");
    tokio::io::AsyncWriteExt::write_all(&mut cut, request.as_bytes()).await.expect("sends");
    drop(cut);
    let Site { server, vfs } = site;
    server.shutdown().await;
    let site = Site::over(vfs, vec![key("ann")]).await;
    let ann = site.ann();
    assert_eq!(ann.get("/abc/dir/k").await.expect(200).text(), "kept");
    ann.get("/abc/half").await.refused(404, "NoSuchKey");
    let two = part(&ann, "/abc/big", &id, 2, b"x").await;
    complete(&ann, "/abc/big", &id, &[(1, &one), (2, &two)]).await.expect(200);
    assert_eq!(ann.get("/abc/big").await.text(), "of before the restartx");
    for path in ["/abc/dir/k", "/abc/big", "/abc"] {
        ann.delete(path).await.expect(204);
    }
}

#[tokio::test]
async fn a_part_can_be_copied() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    ann.put("/abc/source", b"0123456789abcdef0123").await.expect(200);
    let id = begin(&ann, "/abc/k", &[]).await;
    let query = [("partNumber", "1"), ("uploadId", id.as_str())];
    let copy = |range| [("x-amz-copy-source", "/abc/source"), ("x-amz-copy-source-range", range)];
    let one = ann.ask("PUT", "/abc/k", &query, &copy("bytes=0-15"), b"").await.expect(200);
    let one = one.one("ETag").expect("a tag").replace("&quot;", "");
    ann.ask("PUT", "/abc/k", &query, &copy("bytes=5-50"), b"").await.refused(416, "InvalidRange");
    ann.ask("PUT", "/abc/k", &query, &copy("bytes=x"), b"").await.refused(400, "InvalidArgument");
    let two = part(&ann, "/abc/k", &id, 2, b"!").await;
    complete(&ann, "/abc/k", &id, &[(1, one.trim_matches('"')), (2, &two)]).await.expect(200);
    assert_eq!(ann.get("/abc/k").await.text(), "0123456789abcdef!");
}

/// Pages go on behind an upload that was aborted since, and tell what keys begin with once.
#[tokio::test]
async fn uploads_are_listed_page_by_page_while_they_go() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    for key in ["a/1", "a/2", "b", "b", "b", "c"] {
        begin(&ann, &format!("/abc/{key}"), &[]).await;
    }
    let (mut after, mut keys, mut prefixes) = ((String::new(), String::new()), Vec::new(), Vec::new());
    loop {
        let query = [
            ("uploads", ""),
            ("delimiter", "/"),
            ("max-uploads", "1"),
            ("key-marker", &after.0),
            ("upload-id-marker", &after.1),
        ];
        let page = ann.ask("GET", "/abc", &query, &[], b"").await.expect(200);
        for (key, id) in page.all("Key").iter().zip(page.all("UploadId")) {
            ann.ask("DELETE", &format!("/abc/{key}"), &[("uploadId", &id)], &[], b"").await.expect(204);
            keys.push(key.clone());
        }
        prefixes.extend(page.all("CommonPrefixes"));
        if page.one("IsTruncated").as_deref() != Some("true") {
            break;
        }
        after = (page.one("NextKeyMarker").expect("more"), page.one("NextUploadIdMarker").unwrap_or_default());
    }
    assert_eq!((keys.join(" "), prefixes.len()), ("b b b c".to_owned(), 1));
}
