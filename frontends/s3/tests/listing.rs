//! Listings against a model: the keys as a sorted set, cut by prefix and delimiter.

mod s3;

use std::collections::BTreeSet;

use s3::Site;

/// What a listing of these keys is.
fn model(keys: &BTreeSet<String>, prefix: &str, delimiter: &str) -> Vec<String> {
    let listed = keys.iter().filter_map(|key| key.strip_prefix(prefix)).map(|rest| {
        let at = if delimiter.is_empty() { None } else { rest.find(delimiter) };
        format!("{prefix}{}", at.map_or(rest, |at| &rest[..at + delimiter.len()]))
    });
    let set: BTreeSet<_> = listed.collect();
    set.into_iter().collect()
}

/// A small generator of the same numbers each time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn key(&mut self) -> String {
        let parts = ["a", "b", "a-b", "a.b", "a0", "", "z", "\u{e4}", "..", "b/"];
        let count = 1 + self.below(3);
        let part = |draw: &mut Self| parts[usize::try_from(draw.below(10)).expect("small")];
        let picked: Vec<_> = (0..count).map(|_| part(self)).collect();
        let key = picked.join("/");
        if key.is_empty() { "a".to_owned() } else { key }
    }
}

#[tokio::test]
async fn every_listing_is_that_of_the_model() {
    for seed in 1..4 {
        let mut draw = Draw(seed);
        let site = Site::new().await;
        let ann = site.ann();
        ann.put("/abc", b"").await.expect(200);
        let mut keys = BTreeSet::new();
        for _ in 0..60 {
            let key = draw.key();
            if draw.below(4) == 0 {
                ann.delete(&format!("/abc/{key}")).await.expect(204);
                keys.remove(&key);
            } else {
                ann.put(&format!("/abc/{key}"), b"x").await.expect(200);
                keys.insert(key);
            }
        }
        for (prefix, delimiter) in [
            ("", ""),
            ("", "/"),
            ("a", "/"),
            ("a/", "/"),
            ("a/b", ""),
            ("b/", "/"),
            ("a/", "b"),
            ("", "b/"),
            ("none", "/"),
            ("/", "/"),
            ("a//", "/"),
            ("\u{e4}", ""),
        ] {
            let expected = model(&keys, prefix, delimiter);
            for count in [1, 3, 1000] {
                let found = ann.list("abc", prefix, delimiter, count).await;
                assert_eq!(found, expected, "seed {seed}, {prefix:?} {delimiter:?}, pages of {count}, of {keys:?}");
            }
        }
        // What comes after a key that need not be there.
        for start in ["", "a", "a/", "a/b", "b", "zz", "a-"] {
            let query = [("list-type", "2"), ("start-after", start)];
            let page = ann.ask("GET", "/abc", &query, &[], b"").await.expect(200);
            let expected: Vec<_> = keys.iter().filter(|key| key.as_str() > start).cloned().collect();
            assert_eq!(page.all("Key"), expected, "seed {seed}, after {start:?}");
            let page = ann.ask("GET", "/abc", &[("marker", start)], &[], b"").await.expect(200);
            assert_eq!(page.all("Key"), expected, "seed {seed}, after {start:?}, version 1");
        }
    }
}
