//! Versions: nothing that was put is lost until its version is removed.

mod s3;

use s3::{Client, Site};

async fn set(ann: &Client, status: &str) {
    let body = format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
    ann.ask("PUT", "/abc", &[("versioning", "")], &[], body.as_bytes()).await.expect(200);
}

async fn put(ann: &Client, path: &str, body: &[u8]) -> String {
    ann.put(path, body).await.expect(200).header("x-amz-version-id").expect("a version").to_owned()
}

async fn of_version(ann: &Client, path: &str, version: &str) -> s3::Reply {
    ann.ask("GET", path, &[("versionId", version)], &[], b"").await
}

#[tokio::test]
async fn every_version_is_read_until_it_is_removed() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    ann.put("/abc/dir/k", b"before").await.expect(200);
    set(&ann, "Enabled").await;
    let one = put(&ann, "/abc/dir/k", b"one").await;
    let two = put(&ann, "/abc/dir/k", b"two").await;
    assert_eq!(ann.get("/abc/dir/k").await.text(), "two");
    assert_eq!(site.file("abc/dir/k").await.as_deref(), Some(&b"two"[..]), "others see the latest");
    for (version, text) in [("null", "before"), (one.as_str(), "one"), (two.as_str(), "two")] {
        assert_eq!(of_version(&ann, "/abc/dir/k", version).await.expect(200).text(), text);
    }
    let listed = ann.ask("GET", "/abc", &[("versions", "")], &[], b"").await.expect(200);
    assert_eq!(listed.all("VersionId"), [two.as_str(), one.as_str(), "null"]);
    assert_eq!(listed.all("IsLatest"), ["true", "false", "false"]);
    // Removing makes a marker, and removing that brings back what was there.
    let removed = ann.delete("/abc/dir/k").await.expect(204);
    let marker = removed.header("x-amz-version-id").expect("a version").to_owned();
    assert_eq!(removed.header("x-amz-delete-marker"), Some("true"));
    let gone = ann.get("/abc/dir/k").await.refused(404, "NoSuchKey");
    assert_eq!(gone.header("x-amz-delete-marker"), Some("true"));
    assert!(ann.list("abc", "", "", 10).await.is_empty() && site.file("abc/dir/k").await.is_none());
    of_version(&ann, "/abc/dir/k", &marker).await.refused(405, "MethodNotAllowed");
    assert_eq!(of_version(&ann, "/abc/dir/k", &one).await.expect(200).text(), "one");
    ann.ask("DELETE", "/abc/dir/k", &[("versionId", &marker)], &[], b"").await.expect(204);
    assert_eq!(ann.get("/abc/dir/k").await.expect(200).text(), "two");
    // Removing the latest brings back the one before.
    ann.ask("DELETE", "/abc/dir/k", &[("versionId", &two)], &[], b"").await.expect(204);
    assert_eq!(ann.get("/abc/dir/k").await.expect(200).text(), "one");
    of_version(&ann, "/abc/dir/k", &two).await.refused(404, "NoSuchVersion");
    ann.delete("/abc").await.refused(409, "BucketNotEmpty");
    for version in [one.as_str(), "null", "never"] {
        ann.ask("DELETE", "/abc/dir/k", &[("versionId", version)], &[], b"").await.expect(204);
    }
    ann.get("/abc/dir/k").await.refused(404, "NoSuchKey");
    ann.delete("/abc").await.expect(204);
}

#[tokio::test]
async fn a_suspended_bucket_has_one_version_called_null() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    set(&ann, "Enabled").await;
    let one = put(&ann, "/abc/k", b"one").await;
    set(&ann, "Suspended").await;
    ann.put("/abc/k", b"two").await.expect(200);
    ann.put("/abc/k", b"three").await.expect(200);
    let listed = ann.ask("GET", "/abc", &[("versions", "")], &[], b"").await.expect(200);
    assert_eq!(listed.all("VersionId"), ["null", one.as_str()]);
    assert_eq!(of_version(&ann, "/abc/k", "null").await.text(), "three");
    ann.delete("/abc/k").await.expect(204);
    let listed = ann.ask("GET", "/abc", &[("versions", "")], &[], b"").await.expect(200);
    assert_eq!((listed.all("DeleteMarker").len(), listed.all("Version").len()), (1, 1));
    ann.ask("DELETE", "/abc/k", &[("versionId", "null")], &[], b"").await.expect(204);
    assert_eq!(ann.get("/abc/k").await.expect(200).text(), "one");
}

/// Pages of versions go on within the versions of a key.
#[tokio::test]
async fn versions_are_listed_page_by_page() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    set(&ann, "Enabled").await;
    let mut expected = Vec::new();
    for key in ["a", "a//odd", "b/c"] {
        let mut versions = Vec::new();
        for number in 0..4 {
            versions.insert(0, (key.to_owned(), put(&ann, &format!("/abc/{key}"), &[number]).await));
        }
        expected.extend(versions);
    }
    let (mut found, mut after) = (Vec::new(), (String::new(), String::new()));
    loop {
        let query = [("versions", ""), ("max-keys", "3"), ("key-marker", &after.0), ("version-id-marker", &after.1)];
        let page = ann.ask("GET", "/abc", &query, &[], b"").await.expect(200);
        found.extend(page.all("Version").iter().map(|version| {
            let of =
                |tag: &str| s3::Reply { body: version.clone().into_bytes(), ..page.clone() }.one(tag).expect("a tag");
            (of("Key"), of("VersionId"))
        }));
        if page.one("IsTruncated").as_deref() != Some("true") {
            break;
        }
        after = (page.one("NextKeyMarker").expect("more"), page.one("NextVersionIdMarker").unwrap_or_default());
    }
    assert_eq!(found, expected);
}

/// Who empties a bucket lists a page, removes what is on it, and goes on behind its last version, which is gone by then.
#[tokio::test]
async fn a_bucket_is_emptied_page_by_page() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    ann.put("/abc/k", b"null").await.expect(200);
    set(&ann, "Enabled").await;
    for number in 0..4 {
        put(&ann, "/abc/k", &[number]).await;
    }
    ann.delete("/abc/k").await.expect(204);
    put(&ann, "/abc/other", b"x").await;
    let (mut after, mut removed) = ((String::new(), String::new()), 0);
    loop {
        let query = [("versions", ""), ("max-keys", "2"), ("key-marker", &after.0), ("version-id-marker", &after.1)];
        let page = ann.ask("GET", "/abc", &query, &[], b"").await.expect(200);
        for (key, version) in page.all("Key").iter().zip(page.all("VersionId")) {
            ann.ask("DELETE", &format!("/abc/{key}"), &[("versionId", &version)], &[], b"").await.expect(204);
            removed += 1;
        }
        if page.one("IsTruncated").as_deref() != Some("true") {
            break;
        }
        after = (page.one("NextKeyMarker").expect("more"), page.one("NextVersionIdMarker").unwrap_or_default());
    }
    assert_eq!(removed, 7);
    ann.delete("/abc").await.expect(204);
}

/// What another frontend puts in the place of a version is the null one then, and kept when it is replaced.
#[tokio::test]
async fn what_others_put_is_kept_when_it_is_replaced() {
    let site = Site::new().await;
    let ann = site.ann();
    ann.put("/abc", b"").await.expect(200);
    ann.put("/abc/k", b"old null").await.expect(200);
    set(&ann, "Enabled").await;
    let one = put(&ann, "/abc/k", b"one").await;
    site.replace("abc", "k", b"by NFS").await;
    let two = put(&ann, "/abc/k", b"two").await;
    assert_eq!(of_version(&ann, "/abc/k", "null").await.expect(200).text(), "by NFS");
    assert_eq!(of_version(&ann, "/abc/k", &two).await.expect(200).text(), "two");
    // That version was where the key says when it was replaced.
    of_version(&ann, "/abc/k", &one).await.refused(404, "NoSuchVersion");
}
