//! Another master key for a vault: killed at any moment it goes on, and what is beside the vault comes under other keys, too.

use std::{
    collections::BTreeSet,
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{SECRET, create, files, machine, machine_over, put, strs, text, with_password};
use crate::{PATIENCE, World};

/// What each sealed segment of the journal and the pins begins with: its salt, which is another when it is sealed anew.
fn headers(world: &World) -> BTreeSet<Vec<u8>> {
    let mut headers = BTreeSet::new();
    for file in files(&world.path("data/mounts/v")) {
        let bytes = fs::read(&file).expect("read");
        if bytes.starts_with(b"MUXSEALM") {
            headers.insert(bytes.get(..64).expect("a header has 64 bytes").to_vec());
        }
    }
    headers
}

/// A commit, a pin, and something that is in the journal alone when the server is killed. The CID of what is pinned.
fn fill(world: &World) -> String {
    create(world, "/v");
    let server = world.serve(&[]);
    put(world, "committed", "/v/committed");
    fs::write(world.path("file"), "pinned").expect("written");
    let pinned = world.ok(&["put", text(&world.path("file")), "/v"]);
    world.ok(&["commit", "/v"]);
    put(world, SECRET, "/v/synced");
    server.kill();
    pinned.trim().to_owned()
}

fn info(world: &World) -> Value {
    let args = with_password(world, "info", &["/v"]);
    serde_json::from_str(&world.ok(&[&["--json"], &strs(&args)[..]].concat())).expect("JSON")
}

/// What `rekey` tells beside its result.
fn rekeyed(world: &World) -> String {
    let output = world.run(&strs(&with_password(world, "rekey", &["/v"])));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    told
}

#[test]
fn one_that_is_killed_at_any_moment_goes_on_and_loses_nothing() {
    let world = machine();
    let pinned = fill(&world);
    let before = headers(&world);
    assert!(before.len() >= 2, "journal and pins");
    let args = with_password(&world, "rekey", &["/v"]);
    let mut after = Duration::from_millis(10);
    loop {
        let mut child = world.command().args(&args).stdout(Stdio::null()).spawn().expect("the program runs");
        let begun = Instant::now();
        let ended = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break Some(status);
            }
            if begun.elapsed() > after {
                child.kill().expect("killed");
                child.wait().expect("a child");
                break None;
            }
            std::thread::yield_now();
        };
        if let Some(status) = ended {
            assert!(status.success(), "{status}");
            break;
        }
        assert_eq!(world.ok(&["cat", "/v/synced"]), SECRET);
        after = after.mul_f64(1.5);
        assert!(after < PATIENCE, "it does not end");
    }
    let now = info(&world);
    assert_eq!((&now["is_beside_settled"], &now["rekey_packs_left"]), (&Value::Bool(true), &Value::Null), "{now}");
    assert!(headers(&world).is_disjoint(&before), "something is under the keys of before");
    assert_eq!(world.ok(&["cat", "/v/synced", "/v/committed", &pinned]), format!("{SECRET}committedpinned"));
    world.ok(&["gc", "/v"]);
    assert_eq!(world.ok(&["cat", &pinned]), "pinned");
}

/// Another machine rekeys: the keys of before stay until the one that has the journal comes, which loses nothing.
#[test]
fn who_has_the_journal_seals_it_anew_when_it_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = format!("dir = \"{}\"", text(&dir.path().join("vault")));
    let (one, two) = (machine_over(&store), machine_over(&store));
    let pinned = fill(&one);
    let before = headers(&one);
    let told = rekeyed(&two);
    assert!(told.contains("when it opens the vault"), "{told}");
    let told = rekeyed(&two);
    assert!(told.contains("rekey it again"), "{told}");
    assert_eq!(info(&two)["is_beside_settled"], false);
    assert!(!headers(&one).is_disjoint(&before), "nobody did it yet");

    assert_eq!(one.ok(&["cat", "/v/synced", &pinned]), format!("{SECRET}pinned"));
    assert!(headers(&one).is_disjoint(&before), "something is under the keys of before");
    assert_eq!(info(&two)["is_beside_settled"], true);
    let told = rekeyed(&one);
    assert!(!told.contains("when it opens"), "{told}");
    assert_eq!(one.ok(&["cat", "/v/synced", &pinned]), format!("{SECRET}pinned"));
}
