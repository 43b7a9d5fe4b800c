//! Mounts in an SQLite file and on a Redis server, through the program.

#[path = "../../../../stores/redis/tests/server/mod.rs"]
pub(crate) mod server;

use std::{fs, path::Path};

use crate::{World, assert_same_tree, private, put};
use server::Server as Redis;

/// A server that syncs before each reply, and lets in who knows the word.
pub(crate) const REDIS: &[&str] = &["--appendonly", "yes", "--appendfsync", "always", "--requirepass", "open sesame"];

pub(crate) fn address(redis: &Redis) -> String {
    redis.address().to_string()
}

/// A machine with an example, but for where things are.
fn machine(example: &str, places: &[(&str, &str)]) -> World {
    let world = World::by_default();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/configs").join(example);
    let mut text = fs::read_to_string(file).expect("read");
    let (etc, lib) = (world.path("etc").display().to_string(), world.path("lib").display().to_string());
    for dir in [&etc, &lib] {
        fs::create_dir(dir).expect("made");
    }
    for (from, to) in [("/etc/muxfs", &*etc), ("/var/lib/muxfs", &*lib)].into_iter().chain(places.iter().copied()) {
        text = text.replace(from, to);
    }
    let config = world.path("config.toml");
    fs::write(&config, text).expect("written");
    private(&world.path("etc/redis.password"), "open sesame\n");
    World { config: Some(config), ..world }
}

fn new_key(world: &World, name: &str) {
    world.ok(&["key", "new", world.path("etc").join(name).to_str().expect("UTF-8")]);
}

/// What `ls` says where nothing can be opened.
fn refused(world: &World, path: &str) -> String {
    let output = world.run(&["ls", path]);
    assert!(!output.status.success(), "it was not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What is synced and what is committed survives `kill -9`; garbage goes; pins stay; the configuration is printed as it can be read.
fn a_tree_lives_there(world: &World, mount: &str) {
    let at = |name: &str| format!("{mount}/{name}");
    let server = world.serve(&[]);
    let tree = world.tree();
    world.ok(&["put", "-r", tree.to_str().expect("UTF-8"), &at("tree")]);
    world.ok(&["commit", "-m", "one", mount]);
    put(world, "synced", &at("synced"));
    server.kill();

    let server = world.serve(&[]);
    assert_eq!(world.ok(&["cat", &at("synced")]), "synced");
    world.ok(&["get", &at("tree"), world.path("back").to_str().expect("UTF-8")]);
    assert_same_tree(&tree, &world.path("back"));
    fs::write(world.path("file"), "garbage").expect("written");
    let garbage = world.ok(&["put", world.path("file").to_str().expect("UTF-8"), mount]);
    fs::write(world.path("file"), "pinned").expect("written");
    let pinned = world.ok(&["put", world.path("file").to_str().expect("UTF-8"), mount]);
    world.ok(&["rm", garbage.trim()]);
    world.ok(&["gc", mount]);
    assert_eq!(world.ok(&["cat", pinned.trim()]), "pinned");
    world.ok(&["commit", "-m", "two", mount]);
    assert_eq!(server.terminate(), Some(0));

    assert_eq!(world.ok(&["cat", &at("synced")]), "synced");
    let printed = world.ok(&["config"]);
    fs::write(world.config.as_ref().expect("named"), &printed).expect("written");
    assert_eq!(world.ok(&["config"]), printed);
    assert_eq!(world.ok(&["cat", pinned.trim()]), "pinned");
    let found = world.ok(&["doctor"]);
    assert!(found.contains(mount) || found.contains("sqlite") || found.contains("redis"), "{found}");
}

#[test]
fn a_tree_in_an_sqlite_file() {
    let world = machine("sqlite.toml", &[]);
    let told = refused(&world, "/q");
    assert!(told.contains("q.key") && told.contains("muxfs key new"), "{told}");
    new_key(&world, "q.key");
    a_tree_lives_there(&world, "/q");
    let bytes = fs::read(world.path("lib/q.sqlite")).expect("read");
    assert!(!bytes.windows(6).any(|bytes| bytes == b"synced"), "it is encrypted");

    // Another data directory has neither journal nor pins of it.
    let other = machine("sqlite.toml", &[]);
    fs::copy(world.path("etc/q.key"), other.path("etc/q.key")).expect("copied");
    fs::copy(world.path("lib/q.sqlite"), other.path("lib/q.sqlite")).expect("copied");
    let told = refused(&other, "/q");
    assert!(told.contains("another data directory"), "{told}");

    // A key that is being replaced for another mount: what is there would be encrypted with one key, what comes with another.
    new_key(&world, "newer.key");
    let line = |name: &str| {
        let text = fs::read_to_string(world.path("etc").join(name)).expect("read");
        text.lines().find(|line| line.starts_with("muxfs-key 1")).expect("a key").replace("key 1", "key 2")
    };
    fs::write(world.path("etc/q.key"), format!("{}\n{}\n", line("newer.key"), line("q.key"))).expect("written");
    let told = refused(&world, "/q");
    assert!(told.contains("into a file of its own"), "{told}");
}

/// The file is put back from a backup, and the journal beside it is that of later: it was played over what it did not belong to.
#[test]
fn a_file_that_is_put_back_alone_is_refused() {
    let world = machine("sqlite.toml", &[]);
    new_key(&world, "q.key");
    put(&world, "one", "/q/one");
    world.ok(&["commit", "-m", "one", "/q"]);
    let (lib, later, journal) = (world.path("lib"), world.path("later"), world.path("data/mounts/q/journal"));
    let earlier = fs::read(lib.join("q.sqlite")).expect("read");
    let server = world.serve(&[]);
    put(&world, "two", "/q/two");
    world.ok(&["commit", "-m", "two", "/q"]);
    put(&world, "three", "/q/three");
    server.kill();

    let put_back = || {
        fs::create_dir(&lib).expect("made");
        fs::write(lib.join("q.sqlite"), &earlier).expect("written");
    };
    fs::rename(&lib, &later).expect("moved");
    put_back();
    for _ in 0..2 {
        let told = refused(&world, "/q");
        assert!(told.contains("were made on the commit") && told.contains("aside"), "{told}");
        assert!(told.contains(journal.to_str().expect("UTF-8")), "{told}");
    }
    // What it says is what helps: the file that belongs to the journal, or the journal aside.
    fs::remove_dir_all(&lib).expect("removed");
    fs::rename(&later, &lib).expect("moved");
    assert_eq!(world.ok(&["cat", "/q/three"]), "three");
    let server = world.serve(&[]);
    put(&world, "four", "/q/four");
    server.kill();
    fs::remove_dir_all(&lib).expect("removed");
    put_back();
    let told = refused(&world, "/q");
    assert!(told.contains("aside"), "{told}");
    fs::rename(&journal, world.path("aside")).expect("moved");
    assert_eq!(world.ok(&["cat", "/q/one"]), "one");
    assert!(refused(&world, "/q/two").contains("not found"));
}

#[tokio::test]
async fn a_tree_on_a_redis_server() {
    let Some(mut redis) = Redis::start(REDIS) else { return };
    let address = address(&redis);
    let places = [("127.0.0.1:6379", &*address)];
    let world = machine("redis.toml", &places);
    new_key(&world, "r.key");
    a_tree_lives_there(&world, "/r");

    let other = machine("redis.toml", &places);
    fs::copy(world.path("etc/r.key"), other.path("etc/r.key")).expect("copied");
    let told = refused(&other, "/r");
    assert!(told.contains("another data directory") || told.contains("writes there"), "{told}");
    fs::write(other.path("etc/redis.password"), "shut\n").expect("written");
    let told = refused(&other, "/r");
    assert!(told.contains("WRONGPASS"), "{told}");

    // A server that dies and comes back has all of it.
    redis.kill();
    let told = refused(&world, "/r");
    assert!(told.contains("unavailable"), "{told}");
    assert!(redis.run(), "it starts again");
    assert_eq!(world.ok(&["cat", "/r/synced"]), "synced");
}
