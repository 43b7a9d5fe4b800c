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
