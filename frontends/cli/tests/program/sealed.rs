//! Files that are read with their key alone, through a server and without.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::World;

fn put_and_read_back(world: &World) {
    let text = |name: &str| world.path(name).to_str().expect("UTF-8").to_owned();
    let (key, other, file, back) = (text("a.key"), text("b.key"), text("letter"), text("back"));
    let secret: Vec<u8> = (0..300_000_u64).map(|at| u8::try_from(at * at % 251).expect("below 251")).collect();
    fs::write(&file, &secret).expect("written");
    assert_eq!(world.ok(&["key", "new", &key]), key);
    world.ok(&["key", "new", &other]);
    world.fails(&["key", "new", &key], 1);

    let path = world.ok(&["put", "--key-file", &key, &file, "/ipfs"]);
    assert_ne!(world.ok(&["put", "--key-file", &key, &file, "/ipfs"]), path, "a salt is drawn for each");
    world.ok(&["put", "--key-file", &key, &file, "/local/letter"]);
    world.ok(&["put", "--key-file", &key, &file, "/ipfs/letter"]);
    for path in [&*path, "/local/letter", "/ipfs/letter"] {
        world.ok(&["get", "-f", path, &back]);
        let sealed = fs::read(&back).expect("there");
        assert_eq!(sealed.len(), 64 + secret.len() + 5 * 16, "five segments");
        assert!(!sealed.windows(16).any(|window| window == &secret[..16]));
        world.ok(&["get", "-f", "--key-file", &key, path, &back]);
        assert!(fs::read(&back).expect("there") == secret, "{path}");
        let seen = world.run(&["cat", "--key-file", &key, path]);
        assert!(seen.status.success() && seen.stdout == secret, "{path}");

        // Nothing is left or replaced by one that fails.
        fs::write(&back, "as it was").expect("written");
        world.fails(&["get", "-f", "--key-file", &other, path, &back], 6);
        assert_eq!(fs::read(&back).expect("there"), b"as it was");
    }

    let mut changed = fs::read(world.path("letter")).expect("there");
    world.ok(&["get", "-f", "/local/letter", &back]);
    changed.clone_from(&fs::read(&back).expect("there"));
    changed[200_000] ^= 1;
    fs::write(&back, &changed).expect("written");
    let changed = world.ok(&["put", &back, "/ipfs"]);
    let seen = world.run(&["cat", "--key-file", &key, &changed]);
    assert_eq!(seen.status.code(), Some(4));
    assert!(secret.starts_with(&seen.stdout), "what it gave is what was sealed");
    let plain = world.ok(&["put", &file, "/ipfs"]);
    world.fails(&["cat", "--key-file", &key, &plain], 4);
}

#[test]
fn without_a_server() {
    put_and_read_back(&World::new());
}

#[test]
fn through_a_server() {
    let world = World::new();
    let server = world.serve(&[]);
    put_and_read_back(&world);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn what_is_refused() {
    let world = World::new();
    let text = |name: &str| world.path(name).to_str().expect("UTF-8").to_owned();
    let (key, file) = (text("a.key"), text("letter"));
    fs::write(&file, "dear").expect("written");
    world.ok(&["key", "new", &key]);
    let error = world.fails(&["put", "--key-file", &text("none"), &file, "/ipfs"], 3);
    assert!(error.contains("muxfs key new"), "{error}");
    let tree = world.tree();
    let error = world.fails(&["put", "-r", "--key-file", &key, tree.to_str().expect("UTF-8"), "/ipfs"], 1);
    assert!(error.contains("only files are sealed"), "{error}");
    let dir = world.ok(&["put", "-r", tree.to_str().expect("UTF-8"), "/ipfs"]);
    world.fails(&["get", "--key-file", &key, &dir, &text("back")], 1);
    let plain = world.ok(&["put", &file, "/ipfs"]);
    world.fails(&["put", "--key-file", &key, &file, &plain], 2);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("set");
    let error = world.fails(&["cat", "--key-file", &key, &plain], 6);
    assert!(error.contains("chmod 600"), "{error}");
}
