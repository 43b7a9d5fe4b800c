//! The root of a commit is what `put -r --only-hash` gives of the same names and bytes, whatever way led there.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use crate::World;

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).expect("64 bits") % below
    }

    fn bytes(&mut self) -> Vec<u8> {
        // Nothing, less than a chunk, a chunk, and more of them.
        let len = [0, 1, 777, 262_144, 1 << 20, (1 << 20) + 1, 2_500_000][self.roll(7)];
        let byte = self.roll(256).to_le_bytes()[0];
        (0..len).map(|at: usize| at.to_le_bytes()[at % 3] ^ byte).collect()
    }

    /// A name of any bytes that a name may have.
    fn name(&mut self) -> OsString {
        let plain = ["a", "b.txt", "ünï", "with space", ".hidden", "c"][self.roll(6)];
        match self.roll(4) {
            0 => OsString::from_vec([plain.as_bytes(), b"\xff\xfe\x01"].concat()),
            1 => OsString::from(plain.repeat(1 + self.roll(20))),
            _ => OsString::from(plain),
        }
    }
}

/// The directories of a tree, itself included, and everything else in it.
fn nodes(tree: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut dirs, mut others, mut at) = (vec![tree.to_owned()], Vec::new(), 0);
    while let Some(dir) = dirs.get(at).cloned() {
        at += 1;
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let is_dir = fs::symlink_metadata(&path).expect("there").is_dir();
            if is_dir { dirs.push(path) } else { others.push(path) }
        }
    }
    (dirs, others)
}

/// Makes something new below a tree, where its name is free; a file may get other bytes.
fn grow(dice: &mut Dice, tree: &Path) {
    let (dirs, _) = nodes(tree);
    let path = dirs[dice.roll(dirs.len())].join(dice.name());
    match (dice.roll(6), fs::symlink_metadata(&path)) {
        (_, Ok(there)) if there.is_file() => fs::write(path, dice.bytes()).expect("written"),
        (_, Ok(_)) => {}
        (0 | 1, Err(_)) => fs::create_dir(path).expect("made"),
        (2, Err(_)) => std::os::unix::fs::symlink(dice.name(), path).expect("linked"),
        (_, Err(_)) => fs::write(path, dice.bytes()).expect("written"),
    }
}

/// Removes something from a tree, and the same from `/ipfs/tree`.
fn shrink(dice: &mut Dice, world: &World, tree: &Path) {
    let (dirs, others) = nodes(tree);
    let is_empty = |dir: &&PathBuf| *dir != tree && fs::read_dir(dir).expect("a directory").next().is_none();
    let candidates: Vec<&PathBuf> = dirs.iter().filter(is_empty).chain(&others).collect();
    let Some(path) = candidates.get(dice.roll(candidates.len().max(1))) else { return };
    if path.is_dir() && !path.is_symlink() { fs::remove_dir(path) } else { fs::remove_file(path) }.expect("removed");
    let name = path.strip_prefix(tree).expect("below");
    let target = [b"/ipfs/tree/".as_slice(), name.as_os_str().as_bytes()].concat();
    remove(world, target);
}

fn remove(world: &World, target: Vec<u8>) {
    let output = world.command().arg("rm").arg(OsString::from_vec(target)).output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The root of the last commit, and what the host's directory above the tree hashes to.
fn assert_equal(world: &World, above: &Path, when: &str) {
    world.ok(&["put", "-r", above.join("tree").to_str().expect("UTF-8"), "/ipfs/tree"]);
    world.ok(&["commit"]);
    let log = world.ok(&["--json", "log"]);
    let newest: serde_json::Value = serde_json::from_str(log.lines().next().expect("a commit")).expect("JSON");
    let hashed = world.ok(&["put", "-r", "--only-hash", above.to_str().expect("UTF-8")]);
    assert_eq!(Some(&*hashed), newest["root"].as_str().map(|root| format!("/ipfs/{root}")).as_deref(), "{when}");
}

#[test]
fn a_committed_root_is_that_of_an_import_of_the_same_tree() {
    for seed in 1..4 {
        println!("seed {seed}");
        let world = World::new();
        let server = (seed % 2 == 0).then(|| world.serve(&[]));
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let (above, tree) = (world.path("above"), world.path("above/tree"));
        fs::create_dir_all(&tree).expect("made");
        assert_equal(&world, &above, "empty");
        for round in 0..4 {
            (0..25).for_each(|_| grow(&mut dice, &tree));
            assert_equal(&world, &above, &format!("seed {seed}, round {round}: grown"));
            (0..6).for_each(|_| shrink(&mut dice, &world, &tree));
            assert_equal(&world, &above, &format!("seed {seed}, round {round}: shrunk"));
        }
        assert!(!world.ok(&["--json", "doctor"]).contains(r#""level":"error","check":"tree""#));
        drop(server);
    }
}

/// A directory that is too large for one block is sharded, and is none again when it is small.
#[test]
fn a_sharded_directory_comes_and_goes() {
    let world = World::new();
    let _server = world.serve(&[]);
    let (above, large) = (world.path("above"), world.path("above/tree/large"));
    fs::create_dir_all(&large).expect("made");
    let name = |number: u32| OsString::from_vec([format!("{number:0200}").as_bytes(), b"\xff"].concat());
    for number in 0..1020 {
        fs::write(large.join(name(number)), number.to_string().repeat(number as usize % 3)).expect("written");
    }
    assert_equal(&world, &above, "almost");
    for number in 1020..1150 {
        fs::write(large.join(name(number)), "").expect("written");
    }
    assert_equal(&world, &above, "sharded");
    let shards = world.ok(&["--json", "stat", "/ipfs/tree/large"]);
    assert!(shards.contains("\"cid\""), "{shards}");
    for number in 1000..1150 {
        fs::remove_file(large.join(name(number))).expect("removed");
        let target = [b"/ipfs/tree/large/".as_slice(), name(number).as_bytes()].concat();
        remove(&world, target);
    }
    assert_equal(&world, &above, "one block again");
}
