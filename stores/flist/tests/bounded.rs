//! Goal: changing an flist takes memory as its tree does, also where its paths together are a thousand times as long.
//! Method: one directory a thousand others deep, with five thousand in it; the most that the process, which is this test's alone,
//! ever had of memory, as the kernel counts it.

use std::{collections::BTreeMap, path::Path};

use muxfs::Name;
use muxfs_flist::{
    Flist, Format,
    write::{About, Facts, Tree, What, differences, save},
};

const DEPTH: usize = 1000;
const DIR_COUNT: usize = 5000;
/// All paths together have 1.3 GB.
const MEMORY_KIB_MAX: u64 = 300 << 10;

fn memory_kib_max() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[test]
fn paths_that_wait_take_no_memory() {
    if memory_kib_max().is_none() {
        muxfs::testing::skip("this system does not tell how much memory a process had");
        return;
    }
    let name = |text: String| Name::new(text.as_bytes()).expect("a name");
    let mut path: Vec<Name> = (0..DEPTH).map(|_| name("d".repeat(255))).collect();
    let mut tree = Tree::default();
    for number in 0..DIR_COUNT {
        path.truncate(DEPTH);
        path.push(name(format!("{number}")));
        tree.put(&path, About::UNSAID_DIR, What::Dir).expect("put");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let target = dir.path().join("deep.fl");
    save(&tree, &Facts::default(), &target, Format::Fl).expect("written");
    let open = |path: &Path| Flist::open(path, dir.path()).expect("opens");
    let mut again = Tree::of(&open(&target)).expect("read");
    again.add(&open(&target)).expect("over itself");
    assert_eq!(again.count(), tree.count());
    let mut kinds = BTreeMap::new();
    let tell = |difference, path: &[u8]| {
        *kinds.entry((format!("{difference:?}"), path.len())).or_insert(0) += 1;
        Ok(())
    };
    again.set_about(&path, |about| about.mode = 0).expect("there");
    differences(&tree, &again, tell).expect("told");
    assert_eq!(kinds.into_values().sum::<u32>(), 1);
    // An .flist has each path: what would be too long for any reader is refused.
    let memory = memory_kib_max().expect("told before");
    assert!(memory < MEMORY_KIB_MAX, "it took {memory} KiB");
}
