//! Nothing outside the root is ever read or written, whatever others do to names meanwhile.
//!
//! The adversary is a thread with every right on the host that swaps directories for symlinks, and moves directories
//! out and in again, as fast as it can, while calls go through the file system. What stands outside is compared at
//! the end, and no call may ever give its bytes or its numbers away.

use std::{
    collections::BTreeMap,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::SystemTime,
};

use muxfs::{
    ErrorKind,
    vfs::{Listing, NewNode, Place, RemoveKind, RenameMode, SetAttr, SetTime, Vfs, XattrMode, XattrName},
};
use rustix::fs::{CWD, RenameFlags};

use crate::world::{World, kind, name};

/// Enough rounds for thousands of swaps between any two calls of the host.
const ROUNDS: usize = 2000;

/// Runs until it is dropped.
struct Adversary {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Adversary {
    fn start(mut swap: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                swap();
                count += 1;
            }
            count
        });
        Self { stop, thread: Some(thread) }
    }

    /// How often it swapped.
    fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().expect("it ends")
    }
}

fn exchange(one: &Path, two: &Path) {
    rustix::fs::renameat_with(CWD, one, CWD, two, RenameFlags::EXCHANGE).expect("exchanged");
}

/// All that stands below a directory, with what a write or a change of attributes would change.
fn picture(dir: &Path) -> BTreeMap<String, (Vec<u8>, u32, u64, SystemTime)> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let meta = path.symlink_metadata().expect("it is there");
        let bytes = if meta.is_file() { std::fs::read(&path).expect("a read") } else { vec![] };
        let modified = meta.modified().expect("a time");
        all.insert(path.display().to_string(), (bytes, meta.mode(), meta.nlink(), modified));
        if meta.is_dir() {
            all.extend(picture(&path));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_swapped_for_a_symlink_leads_nowhere() {
    let world = World::new();
    let root = world.root();
    std::fs::write(world.outside("f"), "SECRET").expect("a write");
    std::fs::create_dir(world.outside("sub")).expect("a directory");
    std::fs::create_dir(world.host("x")).expect("a directory");
    std::fs::write(world.host("x/f"), "inside").expect("a write");
    std::fs::create_dir(world.host("x/sub")).expect("a directory");
    symlink(world.outside(""), world.host("y")).expect("a symlink");
    let before = picture(&world.outside(""));

    let (x, y) = (world.host("x"), world.host("y"));
    let adversary = Adversary::start(move || exchange(&x, &y));
    let (file, made, sub) = (name("f"), name("made"), name("sub"));
    let mut read = 0;
    for round in 0..ROUNDS {
        let Ok(dir) = world.lookup(root, if round % 2 == 0 { "x" } else { "y" }).await else { continue };
        if let Ok(found) = world.vfs.lookup(dir.ino, &file).await {
            if let Ok(text) = world.text(found.ino).await {
                assert_ne!(text, "SECRET");
                read += 1;
            }
            drop(world.vfs.write(found.ino, 0, "inside".into(), true).await);
            drop(world.vfs.setattr(found.ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await);
            world.vfs.release(found.ino, 1);
        }
        for node in [NewNode::File, NewNode::Dir, NewNode::Symlink("f".into())] {
            if let Ok(new) = world.vfs.create(dir.ino, &made, node, SetAttr::default()).await {
                world.vfs.release(new.node.ino, 1);
            }
            for kind in [RemoveKind::NonDir, RemoveKind::Dir] {
                drop(world.vfs.remove(Place { dir: dir.ino, name: &made, expect: None }, kind).await);
            }
        }
        let from = Place { dir: dir.ino, name: &sub, expect: None };
        drop(world.vfs.rename(from, Place { dir: root, name: &sub, expect: None }, RenameMode::NoReplace).await);
        let back = Place { dir: root, name: &sub, expect: None };
        drop(world.vfs.rename(back, Place { dir: dir.ino, name: &sub, expect: None }, RenameMode::NoReplace).await);
        if let Ok(page) = world.vfs.readdir(dir.ino, muxfs::vfs::Cookie::START, 100, Listing::Attrs).await {
            page.entries.iter().filter(|entry| entry.attr.is_some()).for_each(|entry| world.vfs.release(entry.ino, 1));
        }
        world.vfs.release(dir.ino, 1);
    }
    assert!(adversary.stop() > 0 && read > 0, "both sides had their turns");
    assert_eq!(picture(&world.outside("")), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_moved_out_and_in_never_shows_what_is_around_it() {
    let world = World::new();
    let root = world.root();
    std::fs::create_dir_all(world.host("a/b/c")).expect("directories");
    std::fs::write(world.outside("secret"), "SECRET").expect("a write");
    let outside = std::fs::metadata(world.outside("")).expect("it is there").ino();
    let above = std::fs::metadata(world.top()).expect("it is there").ino();

    let a = world.lookup(root, "a").await.expect("found").ino;
    let b = world.lookup(a, "b").await.expect("found").ino;
    let (inside, out) = (world.host("a/b"), world.outside("b"));
    let adversary = Adversary::start(move || {
        std::fs::rename(&inside, &out).expect("out");
        std::fs::rename(&out, &inside).expect("in");
    });
    let secret = name("secret");
    for _ in 0..ROUNDS {
        if let Ok(parent) = world.vfs.parent(b).await {
            let number = parent.ino.0.get();
            assert!(number != outside && number != above, "the directory outside was given away");
            assert_eq!(kind(world.vfs.lookup(parent.ino, &secret).await), ErrorKind::NotFound);
            world.vfs.release(parent.ino, 1);
        }
        if let Ok(c) = world.lookup(b, "c").await {
            world.vfs.release(c.ino, 1);
        }
    }
    assert!(adversary.stop() > 0);

    // Out for good: everything that is held below it is refused, though its descriptors are open.
    let file = world.file(b, "f", "inside").await.ino;
    let handle = world.vfs.handle(file).expect("a handle");
    std::fs::rename(world.host("a/b"), world.outside("b")).expect("out");
    let before = picture(&world.outside(""));
    assert_eq!(kind(world.text(file).await), ErrorKind::Stale);
    assert_eq!(kind(world.vfs.write(file, 0, "x".into(), false).await), ErrorKind::Stale);
    assert_eq!(kind(world.vfs.getattr(b).await), ErrorKind::Stale);
    assert_eq!(kind(world.lookup(b, "f").await), ErrorKind::Stale);
    assert_eq!(kind(world.vfs.parent(b).await), ErrorKind::Stale);
    assert_eq!(kind(world.vfs.resolve(&handle).await), ErrorKind::Stale);
    let set = SetAttr::default();
    assert_eq!(kind(world.vfs.create(b, &name("n"), NewNode::File, set).await), ErrorKind::Stale);
    assert_eq!(kind(world.vfs.link(file, a, &name("l")).await), ErrorKind::Stale);
    assert_eq!(picture(&world.outside("")), before);

    // And back in again: found where it was.
    std::fs::rename(world.outside("b"), world.host("a/b")).expect("in");
    assert_eq!(world.text(file).await.expect("found"), "inside");
}

#[tokio::test]
async fn a_symlink_is_changed_itself_and_never_what_it_names() {
    let world = World::new();
    std::fs::write(world.outside("f"), "SECRET").expect("a write");
    symlink(world.outside("f"), world.host("link")).expect("a symlink");
    symlink(world.outside(""), world.host("dir")).expect("a symlink");
    let before = picture(&world.outside(""));
    let link = world.lookup(world.root(), "link").await.expect("found").ino;
    let dir = world.lookup(world.root(), "dir").await.expect("found").ino;
    assert_eq!(kind(world.text(link).await), ErrorKind::InvalidArgument);
    assert_eq!(kind(world.vfs.write(link, 0, "x".into(), true).await), ErrorKind::InvalidArgument);
    assert_eq!(kind(world.lookup(dir, "f").await), ErrorKind::NotDir);
    let size = SetAttr { size: Some(0), ..SetAttr::default() };
    assert_eq!(kind(world.vfs.setattr(link, size).await), ErrorKind::InvalidArgument);
    let old = SystemTime::UNIX_EPOCH;
    let set = SetAttr { mode: Some(0o777), mtime: Some(SetTime::At(old)), ..SetAttr::default() };
    assert_eq!(world.vfs.setattr(link, set).await.expect("its own time").after.mtime, old);
    if rustix::process::geteuid().is_root() {
        let owner = SetAttr { uid: Some(7), ..SetAttr::default() };
        assert_eq!(world.vfs.setattr(link, owner).await.expect("its own owner").after.uid, 7);
    }
    let note = XattrName::new(b"user.note").expect("a name");
    let refused = kind(world.vfs.setxattr(link, &note, "x".into(), XattrMode::Set).await);
    assert!(matches!(refused, ErrorKind::NotPermitted | ErrorKind::Unsupported));
    let linked = world.vfs.link(link, world.root(), &name("second")).await.expect("a second name of the symlink");
    assert_eq!(linked.node.ino, link);
    assert_eq!(picture(&world.outside("")), before);
    assert_eq!(std::fs::metadata(world.outside("f")).expect("it is there").uid(), rustix::process::geteuid().as_raw());
}

/// Takes a mount away at the end of a test, failed or not.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let ended = Command::new("umount").arg(self.0).status();
        assert!(ended.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[tokio::test]
async fn a_mount_point_is_listed_and_not_entered() {
    let world = World::new();
    std::fs::create_dir(world.host("m")).expect("a directory");
    std::fs::write(world.outside("f"), "SECRET").expect("a write");
    let here = world.lookup(world.root(), "m").await.expect("found").ino;
    let point = world.host("m");
    // A bind mount of the same device: its numbers look like ours.
    let mounted = Command::new("mount").arg("--bind").arg(world.outside("")).arg(&point).status();
    if !mounted.is_ok_and(|status| status.success()) {
        muxfs::testing::skip("mounting needs root");
        return;
    }
    let _mounted = Mounted(&point);
    assert_eq!(kind(world.lookup(world.root(), "m").await), ErrorKind::CrossDevice);
    let entries = world.list(world.root(), 10, Listing::Attrs).await;
    assert!(matches!(entries.as_slice(), [entry] if entry.name == name("m") && entry.attr.is_none()));
    assert_eq!(kind(world.lookup(here, "f").await), ErrorKind::NotFound, "what is below the mount is still the same");
    assert_eq!(kind(world.remove(world.root(), "m", RemoveKind::Dir).await), ErrorKind::CrossDevice);
    let (m, n) = (name("m"), name("n"));
    let to = Place { dir: world.root(), name: &n, expect: None };
    let from = Place { dir: world.root(), name: &m, expect: None };
    assert_eq!(kind(world.vfs.rename(from, to, RenameMode::Replace).await), ErrorKind::CrossDevice);
}

/// Directories near the root are checked by walking to them again, deeper ones by the path of their descriptor. Both see
/// one that was moved out, also where a symlink to it, or another directory, took its place.
#[tokio::test]
async fn a_directory_moved_out_is_stale_however_deep_it_was() {
    for depth in 1..=4 {
        for in_its_place in ["nothing", "symlink", "directory"] {
            let world = World::new();
            let (top, outside) = (world.host("d0"), world.outside("d0"));
            let mut below = world.host("");
            let mut at = world.root();
            for level in 0..depth {
                below.push(format!("d{level}"));
                at = world.make(at, &format!("d{level}"), NewNode::Dir).await.ino;
            }
            std::fs::write(below.join("secret"), "x").expect("written");
            world.lookup(at, "secret").await.expect("still inside");
            // The topmost goes, and takes all below it along.
            std::fs::rename(&top, &outside).expect("moved");
            match in_its_place {
                "symlink" => symlink(&outside, &top).expect("made"),
                "directory" => std::fs::create_dir_all(&below).expect("made"),
                _ => {}
            }
            let what = format!("depth {depth}, {in_its_place} in its place");
            assert_eq!(kind(world.lookup(at, "secret").await), ErrorKind::Stale, "{what}");
            assert_eq!(kind(world.vfs.getattr(at).await), ErrorKind::Stale, "{what}");
            let made = world.vfs.create(at, &name("new"), NewNode::File, SetAttr::default()).await;
            assert_eq!(kind(made), ErrorKind::Stale, "{what}");
        }
    }
}
