//! Bad input: each gets the error that S3 has for it, and the server goes on.

mod s3;

use s3::{Client, Site, send};

#[tokio::test]
async fn who_cannot_sign_is_refused() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    let with = |change: fn(&mut Client)| {
        let mut other = ann.clone();
        change(&mut other);
        other
    };
    with(|it| it.key.secret.push('x')).get("/abc/k").await.refused(403, "SignatureDoesNotMatch");
    with(|it| it.key.id.push('x')).get("/abc/k").await.refused(403, "InvalidAccessKeyId");
    for skew in [-3600, 3600] {
        Client { skew, ..ann.clone() }.get("/abc/k").await.refused(403, "RequestTimeTooSkewed");
    }
    let bare = format!("GET /abc/k HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", ann.addr);
    send(ann.addr, "GET", bare.as_bytes(), b"").await.refused(403, "AccessDenied");
}

#[tokio::test]
async fn a_presigned_address_is_for_one_thing_and_for_a_time() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    ann.put("/abc/k", b"hello").await.expect(200);
    let ask = |method: &'static str, target: String| {
        let addr = ann.addr;
        let head = format!("{method} {target} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
        async move { send(addr, method, head.as_bytes(), b"").await }
    };
    let target = ann.presigned("GET", "/abc/k", 60);
    assert_eq!(ask("GET", target.clone()).await.expect(200).text(), "hello");
    ask("DELETE", target.clone()).await.refused(403, "SignatureDoesNotMatch");
    ask("GET", target.replace("/abc/k", "/abc/j")).await.refused(403, "SignatureDoesNotMatch");
    let late = Client { skew: -120, ..ann.clone() }.presigned("GET", "/abc/k", 60);
    ask("GET", late).await.refused(403, "AccessDenied");
}

#[tokio::test]
async fn bad_names_and_bodies_are_told_so() {
    let site = Site::new().await;
    let ann = site.ann();
    for bucket in ["/ab", "/Abc", "/a_b", "/192.168.0.1"] {
        ann.put(bucket, b"").await.refused(400, "InvalidBucketName");
    }
    ann.put("/abc", b"").await.expect(200);
    ann.put(&format!("/abc/{}", "k".repeat(1025)), b"").await.refused(400, "KeyTooLongError");
    ann.get("/nothing-here/k").await.refused(404, "NoSuchBucket");
    ann.ask("GET", "/abc", &[("max-keys", "-1")], &[], b"").await.refused(400, "InvalidArgument");
    ann.ask("GET", "/abc", &[("list-type", "2"), ("continuation-token", "!")], &[], b"")
        .await
        .refused(400, "InvalidArgument");
    // Entities that would unfold for ever, a list that does not end, and what is no XML at all.
    let bomb = r#"<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
        <Delete><Object><Key>&b;</Key></Object></Delete>"#;
    for body in [bomb, "<Delete><Object><Key>a</Key>", "not XML", "", "<Delete></Delete>", "<Delete/>"] {
        let refused = ann.ask("POST", "/abc", &[("delete", "")], &[], body.as_bytes()).await;
        assert_eq!(refused.status, 400, "{body:?}: {}", refused.text());
    }
    let deep = format!("<Delete>{}", "<a>".repeat(100_000));
    let refused = ann.ask("POST", "/abc", &[("delete", "")], &[], deep.as_bytes()).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    let many = "<Object><Key>a</Key></Object>".repeat(1001);
    ann.ask("POST", "/abc", &[("delete", "")], &[], format!("<Delete>{many}</Delete>").as_bytes())
        .await
        .refused(400, "MalformedXML");
    ann.ask("PUT", "/abc/k", &[], &[("x-amz-acl", "public-read")], b"")
        .await
        .refused(400, "AccessControlListNotSupported");
    let long = "v".repeat(3000);
    ann.ask("PUT", "/abc/k", &[], &[("x-amz-meta-a", &long)], b"").await.refused(400, "MetadataTooLarge");
    assert_eq!(ann.put("/abc/k", b"goes on").await.expect(200).status, 200);
}

/// Who was given a link to put one object has a header more to make it a copy of another one.
#[tokio::test]
async fn what_is_not_signed_changes_nothing() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    ann.put("/abc/private", b"secret").await.expect(200);
    let ask = |target: String, more: &'static str| {
        let addr = ann.addr;
        let head =
            format!("PUT {target} HTTP/1.1\r\nhost: {addr}\r\n{more}content-length: 0\r\nconnection: close\r\n\r\n");
        async move { send(addr, "PUT", head.as_bytes(), b"").await }
    };
    let target = ann.presigned("PUT", "/abc/public", 60);
    for more in ["x-amz-copy-source: /abc/private\r\n", "X-AMZ-Meta-A: b\r\n", "x-amz-tagging: a=b\r\n"] {
        ask(target.clone(), more).await.refused(403, "AccessDenied");
    }
    ann.get("/abc/public").await.refused(404, "NoSuchKey");
    ask(target, "").await.expect(200);
    let week = ann.presigned("PUT", "/abc/public", 604_800);
    ask(week, "").await.expect(200);
    let longer = ann.presigned("PUT", "/abc/public", 604_801);
    ask(longer, "").await.refused(400, "AuthorizationQueryParametersError");
    let old = format!("/abc/public?AWSAccessKeyId=ann&Expires=99999999999&Signature={}", "a".repeat(28));
    assert_eq!(ask(old, "").await.status, 403);
}

/// The file of a form is held in memory before anybody knows who sends it.
#[tokio::test]
async fn a_form_of_anybody_is_small_or_refused() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    let field = "--x\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n";
    let file = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n";
    let form = |len: usize, said: usize| {
        let body = [field.as_bytes(), file.as_bytes(), &vec![b'a'; len]].concat();
        let head = format!(
            "POST /abc HTTP/1.1\r\nhost: {}\r\ncontent-type: multipart/form-data; boundary=x\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n",
            ann.addr,
            body.len() + said
        );
        (head, body)
    };
    let (head, mut body) = form(100, "\r\n--x--\r\n".len());
    body.extend_from_slice(b"\r\n--x--\r\n");
    send(ann.addr, "POST", head.as_bytes(), &body).await.refused(403, "AccessDenied");
    // It says that a gigabyte follows, and is refused after 16 MiB of it.
    let (head, body) = form((16 << 20) + 1, 1 << 30);
    send(ann.addr, "POST", head.as_bytes(), &body).await.refused(400, "EntityTooLarge");
}

/// What is not there is not passed over: the client would believe that it was done.
#[tokio::test]
async fn what_is_not_there_is_refused() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    ann.put("/abc/k", b"whole").await.expect(200);
    for (name, value, status, code) in [
        ("x-amz-write-offset-bytes", "5", 501, "NotImplemented"),
        ("x-amz-object-lock-mode", "COMPLIANCE", 501, "NotImplemented"),
        ("x-amz-server-side-encryption", "AES256", 501, "NotImplemented"),
        ("x-amz-grant-read", "id=other", 400, "AccessControlListNotSupported"),
    ] {
        ann.ask("PUT", "/abc/k", &[], &[(name, value)], b" and more").await.refused(status, code);
    }
    assert_eq!(ann.get("/abc/k").await.text(), "whole");
    let copy = [("x-amz-copy-source", "/abc/k"), ("if-none-match", "*")];
    ann.put("/abc/other", b"there").await.expect(200);
    ann.ask("PUT", "/abc/other", &[], &copy, b"").await.refused(412, "PreconditionFailed");
    ann.ask("PUT", "/abc/another", &[], &copy, b"").await.expect(200);
    assert_eq!(ann.get("/abc/other").await.text(), "there");
}

/// `DeleteObjects` says its keys in its body, where no path is parsed.
#[tokio::test]
async fn keys_that_are_none_are_not_removed() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    let on = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    ann.ask("PUT", "/abc", &[("versioning", "")], &[], on).await.expect(200);
    let long = "k".repeat(1025);
    let body = format!("<Delete><Object><Key></Key></Object><Object><Key>{long}</Key></Object></Delete>");
    let told = ann.ask("POST", "/abc", &[("delete", "")], &[], body.as_bytes()).await.expect(200);
    assert_eq!(told.all("Code"), ["InvalidArgument", "KeyTooLongError"]);
    let listed = ann.ask("GET", "/abc", &[("versions", "")], &[], b"").await.expect(200);
    assert!(listed.all("DeleteMarker").is_empty(), "{}", listed.text());
}

/// Every key that S3 allows is one, comes back as it was, and hurts none beside it.
#[tokio::test]
async fn every_key_comes_back_as_it_was() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    ann.put("/other", b"").await.expect(200);
    ann.put("/other/k", b"untouched").await.expect(200);
    let long = "k".repeat(1024);
    let deep = "d/".repeat(511) + "ee";
    let keys = [
        "..",
        "../other/k",
        "a/../../other/k",
        "./a",
        "a//b",
        "//",
        "/",
        "/a",
        "a",
        "a/",
        "a/b",
        "a/b/c",
        "a\0b",
        "\u{1}\u{7f}\u{85}",
        "tab\tline\nreturn\r",
        "<&>\"' +%2e%2e?#",
        "\u{1f600}/\u{0130}/\u{fffd}",
        ".history/x",
        ".muxfs-s3.keys/x",
        ".muxfs-s3.work",
        long.as_str(),
        deep.as_str(),
    ];
    for key in keys {
        ann.put(&format!("/abc/{key}"), key.as_bytes()).await.expect(200);
    }
    for key in keys {
        assert_eq!(ann.get(&format!("/abc/{key}")).await.expect(200).body, key.as_bytes(), "{key:?}");
    }
    let mut sorted: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
    sorted.sort();
    for count in [1000, 3] {
        assert_eq!(ann.list("abc", "", "", count).await, sorted, "pages of {count}");
    }
    assert_eq!(ann.get("/other/k").await.text(), "untouched");
    for key in keys {
        ann.delete(&format!("/abc/{key}")).await.expect(204);
        ann.get(&format!("/abc/{key}")).await.refused(404, "NoSuchKey");
    }
    ann.delete("/abc").await.expect(204);
    assert_eq!(ann.get("/other/k").await.text(), "untouched");
}

/// Bytes that are not those that were signed are none, and what they were to replace stays.
#[tokio::test]
async fn other_bytes_than_those_that_were_signed_are_refused() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    ann.put("/abc/k", b"before").await.expect(200);
    let other = s3::hex(&[7; 32]);
    for body in [&b"forged"[..], b""] {
        let told = ann.ask_with("PUT", "/abc/k", &[], &[], body, &other).await;
        told.refused(400, "XAmzContentSHA256Mismatch");
    }
    for (name, value, code) in [
        ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==", "BadDigest"),
        ("content-md5", "no", "InvalidDigest"),
        ("x-amz-checksum-crc32", "AAAAAA==", "BadDigest"),
    ] {
        ann.ask("PUT", "/abc/k", &[], &[(name, value)], b"other").await.refused(400, code);
    }
    assert_eq!(ann.get("/abc/k").await.text(), "before");
}
