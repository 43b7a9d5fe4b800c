//! Goal: what is exported to a zstor v2 is imported again the same, with two servers of each kind away, and nothing that is
//! damaged, missing or refused gets a name; each is told with what to do.
//! Method: doubles of a zstor v2's eight servers, in this process. That they are read and written as zstor v2 does it is
//! proved where the format is (`muxfs_zstor::v2`).

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use tokio::runtime::Runtime;

#[path = "../../../../stores/zstor/tests/double/mod.rs"]
mod double;

use self::double::Double;
use crate::World;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// What a tree has that zstor v2 takes.
const FILES: [&str; 4] = ["a.txt", ".hidden", "sub/long.bin", "sub/ünï code"];

/// The servers of a zstor v2: 2 + 2 shards in two groups.
struct Servers {
    metas: Vec<Double>,
    data: Vec<Double>,
    /// What they run on.
    _runtime: Runtime,
}

impl Servers {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let start = |_| runtime.block_on(Double::start());
        let (metas, data): (Vec<Double>, Vec<Double>) = ((0..4).map(start).collect(), (0..4).map(start).collect());
        for server in &metas {
            server.make("meta");
            server.set_password("meta", "secret");
        }
        for server in &data {
            server.make_sequential("data");
        }
        Self { metas, data, _runtime: runtime }
    }

    /// A configuration of them, below the root `/data`.
    fn config(&self, world: &World) -> PathBuf {
        let mut text = format!(
            "minimal_shards = 2\nexpected_shards = 4\nredundant_groups = 0\nredundant_nodes = 1\nroot = \"/data\"\n\
             [encryption]\nalgorithm = \"AES\"\nkey = \"{KEY}\"\n[compression]\nalgorithm = \"snappy\"\n\
             [meta]\ntype = \"zdb\"\n[meta.config]\nprefix = \"p\"\n[meta.config.encryption]\nalgorithm = \"AES\"\nkey = \"{KEY}\"\n"
        );
        for server in &self.metas {
            let address = server.address;
            write!(
                text,
                "[[meta.config.backends]]\naddress = \"{address}\"\nnamespace = \"meta\"\npassword = \"secret\"\n"
            )
            .expect("text");
        }
        for group in self.data.chunks(2) {
            text.push_str("[[groups]]\n");
            for server in group {
                write!(text, "[[groups.backends]]\naddress = \"{}\"\nnamespace = \"data\"\n", server.address)
                    .expect("text");
            }
        }
        let file = world.path("zstor.toml");
        fs::write(&file, text).expect("written");
        file
    }
}

fn str_of(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The lines of JSON that a command printed.
fn lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn what_is_exported_is_imported_again() {
    for served in [true, false] {
        let world = World::new();
        let mut servers = Servers::start();
        let config = servers.config(&world);
        let server = served.then(|| world.serve(&[]));
        let tree = world.tree();
        world.ok(&["put", "-r", str_of(&tree), "/ipfs/tree"]);
        let export = ["zstor", "export", "--zstor-config", str_of(&config), "-r", "/ipfs/tree", "--as", "photos"];
        let mut told: Vec<String> = world.ok(&export).lines().map(Into::into).collect();
        told.sort();
        let mut expected = FILES.map(|file| format!("/data/photos/{file}"));
        expected.sort();
        assert_eq!(told, expected, "the symlink is skipped");
        let again = lines(&world.ok(&[&["--json"], &export[..]].concat()));
        assert!(again.len() == 4 && again.iter().all(|line| line["there"] == true), "{again:?}");

        for index in [0, 3] {
            servers.metas[index].stop();
            servers.data[index].stop();
        }
        // The paths of three are known: two are named by a list, and one by itself.
        let list = world.path("list.txt");
        fs::write(&list, "/data/photos/.hidden\n/data/photos/sub/long.bin\r\n\n/data/never/stored\n").expect("written");
        let import = ["zstor", "import", "--zstor-config", str_of(&config), "--all", "--paths-from", str_of(&list)];
        let import = [&import[..], &["--to", "/ipfs/back", "photos/a.txt"]].concat();
        let results = lines(&world.ok(&[&["--json"], &import[..]].concat()));
        assert_eq!(results.len(), 4);
        for line in &results {
            let path = line["path"].as_str().expect("a path");
            let file = if let Some(source) = line["source"].as_str() {
                source.strip_prefix("photos/").expect("below what it was exported as")
            } else {
                assert_eq!(path, format!("/ipfs/back/by-key/{}", line["key"].as_str().expect("a key")));
                FILES[3]
            };
            let copy = world.path("copy");
            world.ok(&["get", "-f", path, str_of(&copy)]);
            assert!(fs::read(&copy).expect("read") == fs::read(tree.join(file)).expect("read"), "{path} is {file}");
        }
        let again = lines(&world.ok(&[&["--json"], &import[..]].concat()));
        assert!(again.iter().all(|line| line["there"] == true), "{again:?}");
        // What was changed since is not lost to an import.
        fs::write(world.path("new"), "changed since").expect("written");
        world.ok(&["put", str_of(&world.path("new")), "/ipfs/back/photos/a.txt"]);
        let error = world.fails(&import, 1);
        assert!(error.contains("not imported: photos/a.txt") && error.contains("--force"), "{error}");
        assert_eq!(world.ok(&["cat", "/ipfs/back/photos/a.txt"]), "changed since");
        world.ok(&[&import[..], &["--force"]].concat());
        assert_eq!(world.ok(&["cat", "/ipfs/back/photos/a.txt"]), "hello world");
        // Location-addressed mounts take them too.
        let copied =
            world.ok(&["zstor", "import", "--zstor-config", str_of(&config), "--to", "/local", "/data/photos/a.txt"]);
        assert_eq!((copied.as_str(), world.ok(&["cat", &copied])), ("/local/photos/a.txt", "hello world".into()));
        if let Some(server) = server {
            assert_eq!(server.terminate(), Some(0));
        }
    }
}

#[test]
fn what_is_damaged_or_missing_gets_no_name_and_is_told() {
    let world = World::new();
    let mut servers = Servers::start();
    let config = servers.config(&world);
    let put = |name: &str, text: &str| {
        fs::write(world.path(name), text).expect("written");
        world.ok(&["put", str_of(&world.path(name)), &format!("/ipfs/{name}")]);
        world.ok(&["zstor", "export", "--zstor-config", str_of(&config), &format!("/ipfs/{name}")]);
    };
    let import_to = |target: &str, more: &[&str], code| {
        let import = ["zstor", "import", "--zstor-config", str_of(&config), "--to", target];
        world.fails(&[&import[..], more].concat(), code)
    };
    let import = |more: &[&str], code| import_to("/ipfs/old", more, code);
    put("damaged", "it was whole once");
    servers.data[..3].iter().for_each(|server| server.damage("data"));
    put("whole", "it is whole");

    let error = import(&["/data/damaged", "whole", "/data/missing"], 4);
    for told in [
        "not imported: damaged: ",
        "its checksum is wrong",
        "not imported: missing: ",
        "has nothing under this path",
        "2 of 3 files were not imported",
    ] {
        assert!(error.contains(told), "{told}: {error}");
    }
    assert_eq!(world.ok(&["cat", "/ipfs/old/whole"]), "it is whole");
    assert_eq!(world.ok(&["ls", "/ipfs/old"]), "whole");
    import(&["missing"], 3);
    let error = import_to("/ipfs/other", &["whole", "--memory", "1MiB"], 1);
    assert!(error.contains("--memory lets it be more"), "{error}");

    // Each bit of what is wrong with the whole of it is told at once, with what to do.
    let text = fs::read_to_string(&config).expect("read");
    let with = |from: &str, to: &str| fs::write(&config, text.replace(from, to)).expect("written");
    with("minimal_shards = 2\n", "");
    assert!(import(&["whole"], 2).contains("minimal_shards is missing"));
    with(&KEY[..8], "ffffffff");
    let error = import(&["--all"], 6);
    assert!(error.contains("[encryption] key") && !error.contains(KEY), "{error}");
    with("secret", "wrong");
    assert!(import(&["--all"], 6).contains("Access denied"));
    fs::write(&config, &text).expect("written");
    servers.metas[..3].iter_mut().for_each(Double::stop);
    let error = import(&["--all"], 5);
    assert!(error.contains("two of the four metadata backends"), "{error}");
    assert!(error.contains(&servers.metas[2].address.to_string()), "{error}");
    let error = world.fails(&["zstor", "export", "--zstor-config", str_of(&config), "/ipfs/whole"], 5);
    assert!(error.contains("all four"), "{error}");
    assert!(import(&["/elsewhere"], 2).contains("not below the root"));
    let error = world.fails(&["zstor", "import", "--zstor-config", "/nowhere.toml", "--all"], 3);
    assert!(error.contains("/nowhere.toml"), "{error}");
    world.fails(&["zstor", "import", "--zstor-config", str_of(&config)], 2);
}
