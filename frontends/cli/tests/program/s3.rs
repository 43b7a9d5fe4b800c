//! S3 through the program: its keys, and that it is served to those who have one alone.

use std::{fs, os::unix::fs::MetadataExt as _};

use crate::{World, webdav::ask};

#[test]
fn keys_are_made_listed_and_removed() {
    let world = World::new();
    assert_eq!(world.ok(&["s3", "key", "ls"]), "");
    let made = world.ok(&["s3", "key", "add", "ann", "--read-only", "--allow", "photos/2026/"]);
    let secret = made.lines().find_map(|line| line.strip_prefix("aws_secret_access_key = ")).expect("a secret");
    let file = world.path("data/s3/keys.toml");
    assert_eq!(fs::metadata(&file).expect("there").mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&file).expect("read").contains(secret));
    let listed = world.ok(&["s3", "key", "ls"]);
    assert!(listed.contains("ann  read-only") && listed.contains("photos/2026/") && !listed.contains(secret));
    world.fails(&["s3", "key", "add", "ann"], 2);
    world.fails(&["s3", "key", "add", "a b"], 2);
    world.fails(&["s3", "key", "rm", "bob"], 3);
    assert!(world.ok(&["s3", "key", "add", "bob", "--env"]).starts_with("export AWS_ACCESS_KEY_ID=bob\n"));
    world.ok(&["s3", "key", "rm", "ann"]);
    assert!(!world.ok(&["s3", "key", "ls"]).contains("ann"));
}

#[test]
fn who_has_no_key_is_refused() {
    let world = World::new();
    let server = world.serve(&["--s3", "127.0.0.1:0"]);
    let (status, answer) = ask(server.addr("s3"), "GET", "/", &[], b"");
    assert_eq!(status, 403, "{answer}");
    assert!(answer.contains("<Code>AccessDenied</Code>") && answer.contains("x-amz-request-id"), "{answer}");
}
