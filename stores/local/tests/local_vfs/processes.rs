//! What only a process of its own can show: being killed, having no descriptors left, not being root.
//!
//! This program starts itself again with the name of a part to play and the directory to play it in.

use std::{
    io::{BufRead, BufReader},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use muxfs::{
    ErrorKind,
    vfs::{Handle, NewNode, Place, RenameMode, SetAttr, Vfs},
};
use muxfs_local::{LocalOptions, LocalVfs};
use rustix::process::{Resource, Rlimit};

use crate::world::{kind, name};

const PART: &str = "MUXFS_LOCAL_TEST_PART";
const PLACE: &str = "MUXFS_LOCAL_TEST_PLACE";
/// Whom nobody knows.
const NOBODY: u32 = 65534;

/// This program again, as one of its own tests.
fn play(test: &str, place: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(PART, test).env(PLACE, place);
    command
}

/// Where to play this part, in the process that was started for it.
fn part(test: &str) -> Option<PathBuf> {
    (std::env::var(PART).ok()? == test).then(|| PathBuf::from(std::env::var_os(PLACE).expect("a place")))
}

fn open(place: &Path) -> std::sync::Arc<LocalVfs> {
    LocalVfs::open(&place.join("root"), &place.join("handles"), LocalOptions::default()).expect("it opens")
}

fn stage() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("root")).expect("the root");
    dir
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2);
    digits.map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal")).collect()
}

#[tokio::test]
async fn handles_given_by_a_process_that_is_killed_are_good() {
    const TEST: &str = "processes::handles_given_by_a_process_that_is_killed_are_good";
    if let Some(place) = part(TEST) {
        let vfs = open(&place);
        for index in 0.. {
            let text = format!("f{index}");
            let made = vfs.create(vfs.root(), &name(&text), NewNode::File, SetAttr::default()).await.expect("made");
            vfs.write(made.node.ino, 0, text.clone().into(), false).await.expect("a write");
            println!("handle {text} {}", hex(&vfs.handle(made.node.ino).expect("a handle").0));
        }
    }
    let dir = stage();
    let mut child = play(TEST, dir.path()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut given = vec![];
    while given.len() < 500 {
        let line = lines.next().expect("it does not end by itself").expect("a line");
        // The test runner's own words may stand before ours.
        if let Some((_, rest)) = line.split_once("handle ")
            && let Some((text, handle)) = rest.split_once(' ')
        {
            given.push((text.to_owned(), unhex(handle)));
        }
    }
    child.kill().expect("killed");
    child.wait().expect("it is gone");
    let vfs = open(dir.path());
    for (text, handle) in given {
        let found = vfs.resolve(&Handle(handle.into())).await.expect("the handle is good");
        assert_eq!(vfs.read(found.ino, 0, 100).await.expect("a read"), text.as_bytes());
    }
}

#[tokio::test]
async fn a_process_without_descriptors_gives_up_cached_ones_and_goes_on() {
    const TEST: &str = "processes::a_process_without_descriptors_gives_up_cached_ones_and_goes_on";
    let Some(place) = part(TEST) else {
        let dir = stage();
        let status = play(TEST, dir.path()).status().expect("it runs");
        assert!(status.success());
        return;
    };
    let vfs = open(&place);
    let make = async |index: usize| {
        let text = name(&format!("f{index}"));
        vfs.create(vfs.root(), &text, NewNode::File, SetAttr::default()).await.map(|made| made.node.ino)
    };
    let mut files = vec![];
    for index in 0..100 {
        files.push(make(index).await.expect("made"));
    }
    // Others in this process take every descriptor there is.
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum: limit.maximum }).expect("set");
    let mut others = vec![];
    while let Ok(file) = std::fs::File::open("/dev/null") {
        others.push(file);
    }
    // Each of these opens something new; nothing may fail, for the cached ones can go.
    for (index, file) in files.iter().enumerate() {
        vfs.write(*file, 0, format!("{index}").into(), false).await.expect("a write");
    }
    for index in 100..150 {
        files.push(make(index).await.expect("made"));
    }
    // Then even those go to others: the call says that it cannot now, and can again when they come back.
    vfs.lookup(vfs.root(), &name("f0")).await.expect("found");
    let mut refused = None;
    for index in 0..1000 {
        others.extend(std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()));
        if let Err(error) = vfs.lookup(vfs.root(), &name(&format!("f{}", index % 150))).await {
            refused = Some(error.kind());
            break;
        }
    }
    assert!(matches!(refused, None | Some(ErrorKind::Unavailable)), "{refused:?}");
    drop(others);
    for (index, file) in files.iter().enumerate().take(100) {
        assert_eq!(vfs.read(*file, 0, 100).await.expect("a read"), format!("{index}").as_bytes());
    }
}

#[tokio::test]
async fn a_server_that_is_not_root_acts_as_itself() {
    const TEST: &str = "processes::a_server_that_is_not_root_acts_as_itself";
    let Some(place) = part(TEST) else {
        if !rustix::process::geteuid().is_root() {
            muxfs::testing::skip("only root can start a process that is somebody else");
            return;
        }
        let dir = stage();
        for path in ["", "root"] {
            chown(dir.path().join(path), Some(NOBODY), Some(NOBODY)).expect("given away");
        }
        std::fs::write(dir.path().join("root/roots"), "root's").expect("a write");
        std::fs::write(dir.path().join("root/secret"), "root's").expect("a write");
        let secret = dir.path().join("root/secret");
        std::fs::set_permissions(secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
        match play(TEST, dir.path()).uid(NOBODY).gid(NOBODY).status() {
            Ok(status) => assert!(status.success()),
            Err(error) => muxfs::testing::skip(format_args!("this program cannot be started by another user: {error}")),
        }
        return;
    };
    let vfs = open(&place);
    let root = vfs.root();
    let set = SetAttr { uid: Some(1000), gid: Some(1000), mode: Some(0o640), ..SetAttr::default() };
    for (text, node) in [("file", NewNode::File), ("dir", NewNode::Dir), ("link", NewNode::Symlink("x".into()))] {
        let made = vfs.create(root, &name(text), node, set.clone()).await.expect("made").node;
        assert_eq!((made.uid, made.gid), (NOBODY, NOBODY), "{text} is the server's own");
    }
    let file = vfs.lookup(root, &name("file")).await.expect("found");
    assert_eq!(file.mode, 0o640);
    let give = SetAttr { uid: Some(1000), mode: Some(0o777), ..SetAttr::default() };
    assert_eq!(kind(vfs.setattr(file.ino, give).await), ErrorKind::NotPermitted);
    assert_eq!(vfs.getattr(file.ino).await.expect("attributes").mode, 0o640, "nothing was set");
    let own = SetAttr { uid: Some(NOBODY), mode: Some(0o600), ..SetAttr::default() };
    assert_eq!(vfs.setattr(file.ino, own).await.expect("its own").after.mode, 0o600);

    let roots = vfs.lookup(root, &name("roots")).await.expect("found").ino;
    let mode = SetAttr { mode: Some(0o777), ..SetAttr::default() };
    assert_eq!(kind(vfs.setattr(roots, mode).await), ErrorKind::NotPermitted);
    assert_eq!(kind(vfs.write(roots, 0, "x".into(), false).await), ErrorKind::Denied);
    assert_eq!(vfs.read(roots, 0, 10).await.expect("everybody may read it"), "root's");
    let secret = vfs.lookup(root, &name("secret")).await.expect("found").ino;
    assert_eq!(kind(vfs.read(secret, 0, 10).await), ErrorKind::Denied);
    vfs.sync(secret).await.expect("made durable without being read");
    let device = NewNode::CharDevice(muxfs::vfs::Rdev { major: 1, minor: 3 });
    assert_eq!(kind(vfs.create(root, &name("null"), device, SetAttr::default()).await), ErrorKind::NotPermitted);

    // A file without the right to write is written by whoever created it, as NFS clients expect.
    let sealed = SetAttr { mode: Some(0o444), ..SetAttr::default() };
    let sealed = vfs.create(root, &name("sealed"), NewNode::File, sealed).await.expect("made").node.ino;
    vfs.write(sealed, 0, "x".into(), false).await.expect("a write");

    // Handles need no privilege.
    let handle = vfs.handle(file.ino).expect("a handle");
    let (from, to) = (name("file"), name("moved"));
    let place_of = |name| Place { dir: root, name, expect: None };
    vfs.rename(place_of(&from), place_of(&to), RenameMode::Replace).await.expect("renamed");
    drop(vfs);
    let vfs = open(&place);
    assert_eq!(vfs.resolve(&handle).await.expect("found").ino, file.ino);
}
