//! `car`: out of one data directory and into another, with a server and without, and what is wrong with a file is told.

use std::fs;

use crate::{World, assert_same_tree};

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// A tree that was put, and its root as `/ipfs/<cid>`.
fn put(world: &World) -> String {
    let tree = world.tree();
    world.ok(&["put", "-r", tree.to_str().expect("UTF-8"), "/ipfs"])
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The places where sections begin.
fn offsets(world: &World, file: &str) -> Vec<usize> {
    let lines = world.ok(&["--json", "car", "ls", file]);
    let blocks = lines.lines().map(json).filter(|line| line["root"].is_null());
    blocks.map(|line| usize::try_from(line["offset"].as_u64().expect("an offset")).expect("short")).collect()
}

#[test]
fn out_of_one_directory_and_into_another() {
    for served in [true, false] {
        let (from, to) = (World::new(), World::new());
        let servers = served.then(|| (from.serve(&[]), to.serve(&[])));
        let path = put(&from);
        let cid = path.strip_prefix("/ipfs/").expect("a path");
        let car = from.path("tree.car");
        let file = text(&car);
        assert_eq!(from.ok(&["car", "export", &path, "-o", file]), file);
        let bytes = fs::read(&car).expect("written");
        from.fails(&["car", "export", &path, "-o", file], 1);
        from.ok(&["car", "export", cid, "-f", "-o", file]);
        assert_eq!(fs::read(&car).expect("written"), bytes, "the same again");
        assert_eq!(from.run(&["car", "export", &path]).stdout, bytes, "and to a pipe");

        let listed = to.ok(&["car", "ls", file]);
        assert!(listed.starts_with(&format!("root {cid}\n{cid} ")), "{listed}");
        assert!(to.ok(&["car", "verify", "--whole", file]).contains("nothing that is linked is missing"));
        assert_eq!(to.ok(&["car", "import", file, "--into", "/ipfs"]), path);
        assert_eq!(to.ok(&["pin", "ls"]), path);
        to.ok(&["gc"]);
        to.ok(&["verify", &path]);
        let out = to.path("out");
        to.ok(&["get", &path, text(&out)]);
        assert_same_tree(&from.path("tree"), &out);

        // From a pipe, and with what came before.
        let told = to.fed(&["--json", "car", "import", "-", "--whole"], &bytes);
        assert!(told.status.success());
        let told = json(std::str::from_utf8(&told.stdout).expect("UTF-8").trim());
        assert_eq!((&told["roots"][0]["pinned"], &told["missing"]), (&true.into(), &0.into()), "{told}");
        drop(servers);
    }
}

/// What breaks off leaves nothing pinned, and names the byte; a file of the wrong order is taken all the same.
#[test]
fn damaged_files_are_refused_at_their_place() {
    let from = World::new();
    let path = put(&from);
    let cid = path.strip_prefix("/ipfs/").expect("a path");
    let car = from.path("tree.car");
    from.ok(&["car", "export", &path, "-o", text(&car)]);
    let (bytes, offsets) = (fs::read(&car).expect("read"), offsets(&from, text(&car)));
    let last = *offsets.last().expect("a section");
    for served in [true, false] {
        let to = World::new();
        let server = served.then(|| to.serve(&[]));
        let damaged = to.path("damaged.car");
        for change in ["cut", "bit"] {
            let mut there = bytes.clone();
            if change == "cut" {
                there.truncate(bytes.len() - 1);
            } else {
                *there.last_mut().expect("bytes") ^= 1;
            }
            fs::write(&damaged, &there).expect("written");
            let place = format!("at byte {last}");
            for args in [&["car", "import"][..], &["car", "verify"], &["car", "ls"], &["car", "import", "--all"]] {
                let told = to.fails(&[args, &[text(&damaged)]].concat(), 4);
                assert!(told.contains(&place), "{args:?}, {change}: {told}");
            }
            let told = to.fed(&["car", "import", "-"], &there);
            assert_eq!(told.status.code(), Some(4), "{change}");
            assert!(String::from_utf8_lossy(&told.stderr).contains(&place), "{change}: {told:?}");
        }
        assert_eq!(to.ok(&["pin", "ls"]), "");

        // Cut between two sections it is sound, and a part: told, and not pinned.
        fs::write(&damaged, &bytes[..last]).expect("written");
        let told = json(&to.ok(&["--json", "car", "import", text(&damaged)]));
        assert_eq!((&told["missing"], &told["roots"][0]["pinned"]), (&1.into(), &false.into()), "{told}");
        to.fails(&["car", "import", "--whole", text(&damaged)], 3);
        assert!(to.ok(&["car", "verify", text(&damaged)]).contains("linked and not in it: 1"));
        to.fails(&["car", "verify", "--whole", text(&damaged)], 3);
        assert_eq!(to.ok(&["pin", "ls"]), "");
        // What is here of it goes out again as a part, and not as a whole.
        let part = to.path("part.car");
        to.fails(&["car", "export", cid, "-o", text(&part)], 3);
        assert!(!part.exists());
        let told = json(&to.ok(&["--json", "car", "export", &path, "--partial", "-o", text(&part)]));
        assert_eq!((&told["absent"], fs::read(&part).expect("written")), (&1.into(), bytes[..last].to_vec()));

        // The children first, as some programs write: the sections the other way round.
        let mut ends = offsets[1..].to_vec();
        ends.push(bytes.len());
        let mut reversed = bytes[..offsets[0]].to_vec();
        for (begin, end) in offsets.iter().zip(ends).rev() {
            reversed.extend_from_slice(&bytes[*begin..end]);
        }
        fs::write(&damaged, &reversed).expect("written");
        assert_eq!(to.ok(&["car", "import", text(&damaged)]), path);
        assert_eq!(to.ok(&["pin", "ls"]), path);
        drop(server);
    }
}

#[test]
fn parts_of_files_and_wrong_usage() {
    let world = World::new();
    let path = put(&world);
    let car = world.path("part.car");
    let file = text(&car);
    world.ok(&["car", "export", &path, "--scope", "block", "-o", file]);
    assert_eq!(offsets(&world, file).len(), 1);
    let big = world.path("big");
    let noise: Vec<u8> = (0..3_u32 << 20).map(|i| u8::try_from(i >> 14).expect("below 192")).collect();
    fs::write(&big, noise).expect("written");
    let big = world.ok(&["put", text(&big), "/ipfs"]);
    world.ok(&["car", "export", &big, "-f", "-o", file]);
    assert_eq!(offsets(&world, file).len(), 4);
    world.ok(&["car", "export", &big, "--bytes", "-1:*", "-f", "-o", file]);
    assert_eq!(offsets(&world, file).len(), 2);
    world.fails(&["car", "export", &big, "--bytes", "99999999:*", "-f", "-o", file], 2);
    world.fails(&["car", "export", &big, "--bytes", "9", "-f", "-o", file], 2);
    world.fails(&["car", "export", "/local", "-o", text(&world.path("none.car"))], 2);
    world.fails(&["car", "import", text(&world.path("none.car"))], 3);
    world.fails(&["car", "import"], 2);
    fs::write(&car, "no CAR at all").expect("written");
    for command in ["import", "ls", "verify"] {
        world.fails(&["car", command, file], 4);
    }
}
