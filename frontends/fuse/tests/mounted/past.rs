//! The history of a working tree, in each of its directories: programs read it and copy from it, and what walks over a
//! directory never meets it.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use muxfs::{
    Mount, Prefix,
    block::Mem,
    cas_view::CasViewOptions,
    dag::{Dag, DagOptions},
    heads::MemHeads,
    media::MemMedia,
    pins::Pins,
    testing,
    tree::{Tree, TreeOptions},
    vfs::{NewNode, SetAttr, Vfs as _, watch::Watch},
};
use muxfs_fuse::{Mounted, Options, mount};
use rustix::io::Errno;
use tempfile::TempDir;

use super::{blocking, can_mount, is_root, name, names_in, unmounted, within_patience};

struct Bed {
    tree: Tree,
    mounted: Mounted,
    _dir: TempDir,
}

impl Bed {
    /// `None` where this machine cannot mount.
    async fn new() -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let (env, dag) = (testing::env(), Dag::new(Arc::new(Mem::default()), DagOptions::default()));
        let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let options = TreeOptions { auto_commit: None, owner: user, ..TreeOptions::new(name("main"), env.clone()) };
        let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await;
        let tree = tree.expect("the tree opens");
        let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &env).await.expect("opens"));
        let prefix = Prefix::new("mem").expect("a prefix");
        let content = Mount::content(prefix, pins, tree.clone(), CasViewOptions::default());
        let dir = tempfile::tempdir().expect("a directory");
        let watch = Watch::new(content.vfs().clone());
        let mounted = mount(&watch, dir.path(), Options::default()).await.expect("mounted");
        Some(Self { tree, mounted, _dir: dir })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.mounted.dir().join(path)
    }

    async fn commit(&self, name: &str) {
        self.tree.snapshot(name).await.expect("a snapshot");
    }

    async fn end(self) {
        unmounted(&self.mounted).await;
    }
}

/// What a program prints; it must succeed and have nothing to complain of.
fn output(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{command:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_read_and_restored_as_it_was() {
    let Some(bed) = Bed::new().await else { return };
    let (src, file) = (bed.path("src"), bed.path("src/deep/main.rs"));
    let made = file.clone();
    blocking(move || {
        fs::create_dir_all(made.parent().expect("it has one")).expect("made");
        fs::write(&made, "one").expect("written");
    })
    .await;
    bed.commit("first").await;
    let (dir, lib) = (src.clone(), bed.path("lib"));
    blocking(move || {
        assert_eq!(fs::read_to_string(dir.join(".history/first/deep/main.rs")).expect("then"), "one");
        fs::write(dir.join("deep/main.rs"), "two, and longer").expect("written");
        fs::rename(&dir, &lib).expect("renamed");
    })
    .await;
    bed.commit("second").await;
    let (root, lib) = (bed.path(""), bed.path("lib"));
    blocking(move || {
        let then = lib.join(".history/first");
        // What was committed meanwhile is there at once, under a directory whatever it is called by now.
        let listed = names_in(&lib.join(".history"));
        assert!(["first", "second"].iter().all(|name| listed.iter().any(|listed| listed == name)), "{listed:?}");
        assert_eq!(fs::read_to_string(then.join("deep/main.rs")).expect("then"), "one");
        assert_eq!(fs::read_to_string(lib.join("deep/.history/first/main.rs")).expect("then"), "one");
        assert_eq!(fs::read_to_string(root.join(".history/first/src/deep/main.rs")).expect("then"), "one");
        assert_eq!(fs::write(then.join("deep/main.rs"), "").expect_err("then").kind(), ErrorKind::ReadOnlyFilesystem);
        // Programs that walk up and down find each directory once.
        let mut inos = BTreeSet::new();
        for path in [
            "lib",
            "lib/.history",
            "lib/.history/first",
            "lib/.history/first/deep",
            "lib/deep/.history/first",
            "lib/.history/first/deep/main.rs",
            ".history",
            ".history/first",
            ".history/first/src",
            ".history/first/src/deep",
        ] {
            assert!(inos.insert(fs::metadata(root.join(path)).expect(path).ino()), "{path}");
        }
        let pwd = output(Command::new("/bin/pwd").current_dir(then.join("deep")));
        assert_eq!(Path::new(pwd.trim_end()), then.join("deep").canonicalize().expect("there"));
        for (up, is) in [("..", &then), ("../..", &lib.join(".history")), ("../../..", &lib)] {
            let up = fs::metadata(then.join("deep").join(up)).expect("above");
            assert_eq!(up.ino(), fs::metadata(is).expect("there").ino());
        }
        // Restoring is copying.
        output(Command::new("cp").arg("-a").arg(then.join("deep/main.rs")).arg(lib.join("deep")));
        assert_eq!(fs::read_to_string(lib.join("deep/main.rs")).expect("now"), "one");
        output(Command::new("cp").arg("-a").arg(then.join("deep")).arg(lib.join("again")));
        assert_eq!(fs::read_to_string(lib.join("again/main.rs")).expect("now"), "one");
    })
    .await;
    bed.end().await;
}

/// Two ways lead to a file of a commit; programs take both at once and no one is sent astray.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn both_ways_to_what_was_are_taken_at_once() {
    let Some(bed) = Bed::new().await else { return };
    let dir = bed.path("a/b/c");
    blocking(move || {
        fs::create_dir_all(&dir).expect("made");
        fs::write(dir.join("file"), "then").expect("written");
    })
    .await;
    bed.commit("then").await;
    let ways = ["a/.history/then/b/c", ".history/then/a/b/c", "a/b/c/.history/then", "a/b/.history/then/c"];
    let mut workers = Vec::new();
    for way in ways {
        let path = bed.path(way);
        workers.push(tokio::spawn(blocking(move || {
            for _ in 0..200 {
                assert_eq!(fs::read_to_string(path.join("file")).expect("then"), "then");
                assert_eq!(names_in(&path), ["file"]);
            }
        })));
    }
    for worker in workers {
        within_patience(worker).await.expect("no panic");
    }
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_walks_over_a_directory_meets_it() {
    let Some(bed) = Bed::new().await else { return };
    let (root, dir) = (bed.path(""), bed.path("dir"));
    let made = dir.clone();
    blocking(move || {
        fs::create_dir_all(made.join("sub")).expect("made");
        fs::write(made.join("sub/file"), "1").expect("written");
    })
    .await;
    bed.commit("then").await;
    blocking(move || {
        let taken = dir.join(".history");
        assert!(fs::metadata(&taken).expect("hidden, and there").is_dir());
        assert_eq!(names_in(&dir), ["sub"]);
        let all = output(Command::new("find").arg(&dir));
        assert_eq!(all.lines().count(), 3, "{all}");
        let tar = Command::new("tar").arg("-cf-").arg("dir").current_dir(&root).output().expect("it runs");
        assert!(tar.status.success() && !tar.stdout.windows(8).any(|bytes| bytes == b".history"));
        // The name is taken, and what is there stays.
        let refused =
            |result: io::Result<()>| Errno::from_io_error(&result.expect_err("refused")).expect("the kernel's");
        assert_eq!(refused(fs::create_dir(&taken)), Errno::EXIST);
        assert_eq!(refused(fs::File::create_new(&taken).map(drop)), Errno::EXIST);
        assert_eq!(refused(fs::write(&taken, "")), Errno::ISDIR);
        assert_eq!(refused(fs::hard_link(dir.join("sub/file"), &taken)), Errno::EXIST);
        assert_eq!(refused(fs::rename(dir.join("sub"), &taken)), Errno::INVAL);
        assert_eq!(refused(fs::rename(&taken, dir.join("moved"))), Errno::ROFS);
        assert_eq!(refused(fs::remove_dir(&taken)), Errno::ROFS);
        // Of who is not root the kernel asks the mode first.
        assert!(matches!(refused(fs::create_dir(taken.join("new"))), Errno::ROFS | Errno::ACCESS));
        assert_eq!(names_in(&dir), ["sub"]);
        fs::metadata(dir.join("sub/.history/then/file")).expect("in the kernel's caches");
        output(Command::new("rm").arg("-r").arg(&dir));
        fs::metadata(&taken).expect_err("gone with its directory");
        assert_eq!(fs::read_to_string(root.join(".history/then/dir/sub/file")).expect("then"), "1");
    })
    .await;
    bed.end().await;
}

/// A directory that came from elsewhere may have such a name: it is met, read and removed, and then there is the history.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_that_name_is_there_until_it_is_removed() {
    let Some(bed) = Bed::new().await else { return };
    if !is_root() {
        return;
    }
    let (root, set) = (bed.tree.root(), SetAttr::default());
    let dir = bed.tree.create(root, &name("dir"), NewNode::Dir, set.clone()).await.expect("made").node.ino;
    let taken = bed.tree.create(dir, &name(".history"), NewNode::File, set).await.expect("below the join").node.ino;
    bed.tree.write(taken, 0, "mine".into(), false).await.expect("written");
    bed.commit("then").await;
    let dir = bed.path("dir");
    blocking(move || {
        let taken = dir.join(".history");
        assert_eq!(names_in(&dir), [".history"]);
        assert_eq!(fs::read_to_string(&taken).expect("read"), "mine");
        fs::write(&taken, "changed").expect("written in place");
        assert_eq!(fs::read_to_string(&taken).expect("read"), "changed");
        fs::remove_file(&taken).expect("removed");
        assert_eq!(fs::read_to_string(dir.join(".history/then/.history")).expect("then"), "mine");
        assert_eq!(names_in(&dir), [""; 0]);
        fs::remove_dir(&dir).expect("empty");
    })
    .await;
    bed.end().await;
}
