//! What each caller may do to each kind of node, call by call, over the model.

use std::time::SystemTime;

use super::*;
use crate::{
    forward_vfs,
    testing::{self, model::ModelFs},
};

const OWNER: u32 = 10;
const GROUP: u32 = 20;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

fn caller(uid: u32, gid: u32, groups: &[u32]) -> Caller {
    Caller { uid, gid, groups: groups.to_vec() }
}

fn owned(mode: u32, uid: u32, gid: u32) -> SetAttr {
    SetAttr { mode: Some(mode), uid: Some(uid), gid: Some(gid), ..SetAttr::default() }
}

async fn make(fs: &ModelFs, dir: Ino, text: &str, node: NewNode, set: SetAttr) -> Ino {
    fs.create(dir, &name(text), node, set).await.expect("create").node.ino
}

fn kind_of<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

const DENIED: Option<ErrorKind> = Some(ErrorKind::Denied);
const NOT_PERMITTED: Option<ErrorKind> = Some(ErrorKind::NotPermitted);

#[tokio::test]
async fn the_bits_of_a_file_decide_what_is_read_and_written() {
    let fs = ModelFs::new(testing::env());
    let file = make(&fs, fs.root(), "f", NewNode::File, owned(0o642, OWNER, GROUP)).await;
    let cases = [
        (caller(OWNER, 1, &[]), None, None),
        (caller(11, GROUP, &[]), None, DENIED),
        (caller(11, 1, &[GROUP]), None, DENIED),
        (caller(11, 1, &[]), DENIED, None),
        (caller(0, 0, &[]), None, None),
    ];
    for (who, read, write) in cases {
        let view = posix(fs.clone(), who.clone());
        let (byte, at) = (Bytes::from_static(b"x"), 0);
        assert_eq!(kind_of(view.read(file, at, 1).await), read, "{who:?}");
        assert_eq!(kind_of(view.write(file, at, byte, false).await), write, "{who:?}");
        assert_eq!(kind_of(view.punch_hole(file, 0..1).await), write, "{who:?}");
        assert_eq!(kind_of(view.allocate(file, 0..1, true).await), write, "{who:?}");
        let size = SetAttr { size: Some(4), ..SetAttr::default() };
        assert_eq!(kind_of(view.setattr(file, size).await), write, "{who:?}");
        let user = XattrName::new(b"user.a").expect("a good name");
        assert_eq!(kind_of(view.setxattr(file, &user, Bytes::new(), XattrMode::Set).await), write, "{who:?}");
        fs.setxattr(file, &user, Bytes::new(), XattrMode::Set).await.expect("set");
        assert_eq!(kind_of(view.getxattr(file, &user).await), read, "{who:?}");
        let (may, attr) = access(&*fs, &who, file).await.expect("access");
        assert_eq!((may.read, may.write, attr.ino), (read.is_none(), write.is_none(), file), "{who:?}");
    }
}

#[tokio::test]
async fn the_bits_of_a_directory_decide_what_is_found_listed_and_named() {
    let fs = ModelFs::new(testing::env());
    let root = fs.root();
    fs.setattr(root, owned(0o755, 0, 0)).await.expect("setattr");
    // Mode of the others, and what a stranger may: look up, list, change names.
    let cases = [
        (0, false, false, false),
        (1, true, false, false),
        (2, false, false, false),
        (3, true, false, true),
        (4, false, true, false),
        (5, true, true, false),
        (6, false, true, false),
        (7, true, true, true),
    ];
    for (mode, search, list, change) in cases {
        let dir = make(&fs, root, &format!("d{mode}"), NewNode::Dir, owned(0o770 | mode, OWNER, GROUP)).await;
        let file = make(&fs, dir, "f", NewNode::File, owned(0o666, OWNER, GROUP)).await;
        let view = posix(fs.clone(), caller(11, 11, &[]));
        let unless = |may: bool| (!may).then_some(ErrorKind::Denied);
        assert_eq!(kind_of(view.lookup(dir, &name("f")).await), unless(search), "lookup {mode}");
        assert_eq!(kind_of(view.parent(dir).await), unless(search), "parent {mode}");
        let page = view.readdir(dir, Cookie::START, 10, Listing::Attrs).await;
        assert_eq!(page.as_ref().is_ok_and(|page| page.entries[0].attr.is_some()), list && search, "attrs {mode}");
        assert_eq!(kind_of(page), unless(list), "readdir {mode}");
        assert_eq!(kind_of(view.create(dir, &name("n"), NewNode::File, SetAttr::default()).await), unless(change));
        assert_eq!(kind_of(view.link(file, dir, &name("l")).await), unless(change), "link {mode}");
        let from = Place { dir, name: &name("f"), expect: None };
        let to = Place { name: &name("g"), ..from };
        assert_eq!(kind_of(view.rename(from, to, RenameMode::Replace).await), unless(change), "rename {mode}");
        let gone = Place { name: if change { &name("g") } else { &name("f") }, ..from };
        assert_eq!(kind_of(view.remove(gone, RemoveKind::NonDir).await), unless(change), "remove {mode}");
    }
}

#[tokio::test]
async fn a_protocol_without_open_lets_the_owner_read_and_write() {
    let fs = ModelFs::new(testing::env());
    let file = make(&fs, fs.root(), "f", NewNode::File, owned(0o001, OWNER, GROUP)).await;
    let options = PosixOptions { owner_override: true };
    let cases = [
        (caller(OWNER, 1, &[]), None, None),
        (caller(11, GROUP, &[]), DENIED, DENIED),
        // May execute, hence read.
        (caller(11, 11, &[]), None, DENIED),
    ];
    for (who, read, write) in cases {
        let view = posix_with(fs.clone(), who.clone(), options);
        assert_eq!(kind_of(view.read(file, 0, 1).await), read, "{who:?}");
        assert_eq!(kind_of(view.write(file, 0, Bytes::from_static(b"x"), false).await), write, "{who:?}");
        assert_eq!(kind_of(posix(fs.clone(), who).write(file, 0, Bytes::new(), false).await), DENIED);
    }
}

#[tokio::test]
async fn what_an_owner_may_set_and_others_may_not() {
    let at = Some(SetTime::At(SystemTime::UNIX_EPOCH));
    let now = Some(SetTime::Now);
    let set = SetAttr::default;
    // What is set, and what becomes of it for: the owner (in groups 20 and 21), a stranger who may write, one who may
    // not.
    let cases = [
        ("mode", SetAttr { mode: Some(0o600), ..set() }, [None, NOT_PERMITTED, NOT_PERMITTED]),
        ("uid away", SetAttr { uid: Some(11), ..set() }, [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED]),
        ("uid kept", SetAttr { uid: Some(OWNER), ..set() }, [None, NOT_PERMITTED, NOT_PERMITTED]),
        ("gid of theirs", SetAttr { gid: Some(21), ..set() }, [None, NOT_PERMITTED, NOT_PERMITTED]),
        ("gid of others", SetAttr { gid: Some(22), ..set() }, [NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED]),
        ("mtime", SetAttr { mtime: at, ..set() }, [None, NOT_PERMITTED, NOT_PERMITTED]),
        ("atime, mtime now", SetAttr { atime: at, mtime: now, ..set() }, [None, NOT_PERMITTED, NOT_PERMITTED]),
        ("now", SetAttr { atime: now, mtime: now, ..set() }, [None, None, DENIED]),
        ("size", SetAttr { size: Some(1), ..set() }, [None, None, DENIED]),
        ("nothing", set(), [None, None, None]),
    ];
    for (what, set, expected) in cases {
        let fs = ModelFs::new(testing::env());
        let open = make(&fs, fs.root(), "open", NewNode::File, owned(0o666, OWNER, GROUP)).await;
        let shut = make(&fs, fs.root(), "shut", NewNode::File, owned(0o644, OWNER, GROUP)).await;
        let owner = posix(fs.clone(), caller(OWNER, GROUP, &[21]));
        let stranger = posix(fs.clone(), caller(11, 11, &[]));
        let found = [
            kind_of(owner.setattr(open, set.clone()).await),
            // The owner's success may have changed whose it is.
            kind_of({
                fs.setattr(open, owned(0o666, OWNER, GROUP)).await.expect("reset");
                stranger.setattr(open, set.clone()).await
            }),
            kind_of(stranger.setattr(shut, set.clone()).await),
        ];
        assert_eq!(found, expected, "{what}");
        let root = posix(fs.clone(), caller(0, 0, &[]));
        assert_eq!(kind_of(root.setattr(shut, set).await), None, "{what}");
    }
}

#[tokio::test]
async fn setuid_and_setgid_go_when_they_should() {
    enum Act {
        Write,
        Truncate,
        Punch,
        Chown,
        Chmod,
    }
    // By whom (the file is user 10's, group 20's, mode 6777), what they do, and the mode after.
    let cases = [
        (caller(11, 11, &[]), Act::Write, 0o777),
        (caller(OWNER, GROUP, &[]), Act::Write, 0o777),
        (caller(0, 0, &[]), Act::Write, 0o6777),
        (caller(11, 11, &[]), Act::Truncate, 0o777),
        (caller(0, 0, &[]), Act::Truncate, 0o6777),
        (caller(11, 11, &[]), Act::Punch, 0o777),
        (caller(OWNER, GROUP, &[]), Act::Chown, 0o777),
        (caller(0, 0, &[]), Act::Chown, 0o777),
        (caller(OWNER, GROUP, &[]), Act::Chmod, 0o6755),
        // Who is not in the file's group cannot make it setgid.
        (caller(OWNER, 1, &[]), Act::Chmod, 0o4755),
        (caller(0, 0, &[]), Act::Chmod, 0o6755),
    ];
    for (index, (who, act, mode)) in cases.into_iter().enumerate() {
        let fs = ModelFs::new(testing::env());
        let file = make(&fs, fs.root(), "f", NewNode::File, owned(0o6777, OWNER, GROUP)).await;
        let view = posix(fs.clone(), who);
        match act {
            Act::Write => view.write(file, 0, Bytes::from_static(b"x"), false).await,
            Act::Truncate => view.setattr(file, SetAttr { size: Some(0), ..SetAttr::default() }).await,
            Act::Punch => view.punch_hole(file, 0..1).await,
            Act::Chown => view.setattr(file, SetAttr { gid: Some(GROUP), ..SetAttr::default() }).await,
            Act::Chmod => view.setattr(file, SetAttr { mode: Some(0o6755), ..SetAttr::default() }).await,
        }
        .expect("allowed");
        assert_eq!(fs.getattr(file).await.expect("getattr").mode, mode, "case {index}");
    }
}

#[tokio::test]
async fn what_is_created_is_the_callers() {
    let fs = ModelFs::new(testing::env());
    let plain = make(&fs, fs.root(), "plain", NewNode::Dir, owned(0o777, 1, 2)).await;
    let setgid = make(&fs, fs.root(), "setgid", NewNode::Dir, owned(0o2777, 1, 2)).await;
    let view = posix(fs.clone(), caller(10, 20, &[21]));
    let with = |mode| SetAttr { mode: Some(mode), ..SetAttr::default() };
    // In which directory, what, with which mode, and the group and mode it gets.
    let cases = [
        (plain, NewNode::File, 0o640, 20, 0o640),
        (plain, NewNode::Dir, 0o750, 20, 0o750),
        (plain, NewNode::File, 0o2755, 20, 0o2755),
        (setgid, NewNode::File, 0o640, 2, 0o640),
        (setgid, NewNode::Dir, 0o750, 2, 0o2750),
        (setgid, NewNode::Fifo, 0o600, 2, 0o600),
        // Not in the group that is inherited: no setgid program of that group.
        (setgid, NewNode::File, 0o2755, 2, 0o755),
    ];
    for (index, (dir, node, asked, gid, got)) in cases.into_iter().enumerate() {
        let made = view.create(dir, &name(&format!("n{index}")), node, with(asked)).await.expect("create").node;
        assert_eq!((made.uid, made.gid, made.mode), (10, gid, got), "case {index}");
    }
    let refused = [
        view.create(plain, &name("x"), NewNode::CharDevice(super::super::Rdev::default()), SetAttr::default()).await,
        view.create(plain, &name("x"), NewNode::File, owned(0o644, 11, 20)).await,
        view.create(plain, &name("x"), NewNode::File, owned(0o644, 10, 22)).await,
    ];
    assert_eq!(refused.map(kind_of), [NOT_PERMITTED; 3]);
    let made = view.create(plain, &name("y"), NewNode::File, owned(0o644, 10, 21)).await.expect("a group of theirs");
    assert_eq!(made.node.gid, 21);
    assert_eq!(kind_of(fs.lookup(plain, &name("x")).await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn in_a_sticky_directory_names_belong_to_their_owners() {
    // Whose directory, whose node, and whether user 10 may remove, rename and replace it.
    for (dir_uid, node_uid, may) in [(1, 10, true), (10, 11, true), (1, 11, false)] {
        let fs = ModelFs::new(testing::env());
        let dir = make(&fs, fs.root(), "tmp", NewNode::Dir, owned(0o1777, dir_uid, 1)).await;
        make(&fs, dir, "a", NewNode::File, owned(0o666, node_uid, 1)).await;
        make(&fs, dir, "mine", NewNode::File, owned(0o666, 10, 1)).await;
        let leases = fs.lease_count();
        let view = posix(fs.clone(), caller(10, 10, &[]));
        let unless = (!may).then_some(ErrorKind::NotPermitted);
        let a = Place { dir, name: &name("a"), expect: None };
        let mine = Place { name: &name("mine"), ..a };
        let b = Place { name: &name("b"), ..a };
        assert_eq!(kind_of(view.rename(a, mine, RenameMode::Exchange).await), unless);
        if may {
            view.rename(a, mine, RenameMode::Exchange).await.expect("and back");
        }
        assert_eq!(kind_of(view.rename(mine, a, RenameMode::Replace).await), unless);
        let (back, first) = if may { (a, mine) } else { (mine, b) };
        view.rename(back, first, RenameMode::Replace).await.expect("their own, to a free name");
        let rest = if may { mine } else { a };
        assert_eq!(kind_of(view.remove(rest, RemoveKind::NonDir).await), unless, "{dir_uid} {node_uid}");
        assert_eq!(fs.lease_count(), leases, "what was looked at was given back");
    }
}

#[tokio::test]
async fn a_directory_that_gets_another_parent_must_be_writable() {
    let fs = ModelFs::new(testing::env());
    let one = make(&fs, fs.root(), "one", NewNode::Dir, owned(0o777, 1, 1)).await;
    let two = make(&fs, fs.root(), "two", NewNode::Dir, owned(0o777, 1, 1)).await;
    make(&fs, one, "shut", NewNode::Dir, owned(0o755, 1, 1)).await;
    make(&fs, one, "open", NewNode::Dir, owned(0o777, 1, 1)).await;
    make(&fs, one, "file", NewNode::File, owned(0o600, 1, 1)).await;
    let view = posix(fs.clone(), caller(10, 10, &[]));
    for (text, crossing) in [("shut", DENIED), ("open", None), ("file", None)] {
        let from = Place { dir: one, name: &name(text), expect: None };
        let other = name(&format!("{text}2"));
        let beside = Place { name: &other, ..from };
        view.rename(from, beside, RenameMode::Replace).await.expect("within one directory");
        assert_eq!(kind_of(view.rename(beside, Place { dir: two, ..from }, RenameMode::Replace).await), crossing);
    }
    let (shut, open) = (name("shut2"), name("open"));
    let (shut, open) = (Place { dir: one, name: &shut, expect: None }, Place { dir: two, name: &open, expect: None });
    assert_eq!(kind_of(view.rename(open, shut, RenameMode::Exchange).await), DENIED, "it would move the other way");
}

/// What the caller expects is not overwritten by what the check found.
#[tokio::test]
async fn a_caller_who_believes_something_else_is_told() {
    let fs = ModelFs::new(testing::env());
    let dir = make(&fs, fs.root(), "tmp", NewNode::Dir, owned(0o1777, 1, 1)).await;
    let one = make(&fs, dir, "one", NewNode::File, owned(0o666, 10, 1)).await;
    make(&fs, dir, "two", NewNode::File, owned(0o666, 10, 1)).await;
    let view = posix(fs.clone(), caller(10, 10, &[]));
    let place = Place { dir, name: &name("two"), expect: Some(one) };
    assert_eq!(kind_of(view.remove(place, RemoveKind::NonDir).await), Some(ErrorKind::Stale));
    view.remove(Place { expect: None, ..place }, RemoveKind::NonDir).await.expect("as it is");
}

#[tokio::test]
async fn attributes_of_other_name_spaces() {
    let fs = ModelFs::new(testing::env());
    let file = make(&fs, fs.root(), "f", NewNode::File, owned(0o666, OWNER, GROUP)).await;
    let names = ["user.a", "trusted.a", "security.a", "system.a"]
        .map(|text| XattrName::new(text.as_bytes()).expect("a good name"));
    for name in &names {
        fs.setxattr(file, name, Bytes::new(), XattrMode::Set).await.expect("set");
    }
    let no_attr = Some(ErrorKind::NoAttr);
    let cases = [
        (caller(OWNER, 1, &[]), [None, no_attr, None, None], [None, NOT_PERMITTED, NOT_PERMITTED, None]),
        (caller(11, 1, &[]), [None, no_attr, None, None], [None, NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED]),
        (caller(0, 0, &[]), [None; 4], [None; 4]),
    ];
    for (who, get, set) in cases {
        let view = posix(fs.clone(), who.clone());
        for ((name, get), set) in names.iter().zip(get).zip(set) {
            assert_eq!(kind_of(view.getxattr(file, name).await), get, "{who:?} {name:?}");
            assert_eq!(kind_of(view.setxattr(file, name, Bytes::new(), XattrMode::Set).await), set, "{who:?} {name:?}");
            assert_eq!(kind_of(view.removexattr(file, name).await), set, "{who:?} {name:?}");
            fs.setxattr(file, name, Bytes::new(), XattrMode::Set).await.expect("set again");
        }
        let listed = view.listxattr(file).await.expect("list").len();
        assert_eq!(listed, if who.is_root() { 4 } else { 3 });
    }
}

/// A file system in which somebody else is quick: between the look at `tmp/n` and the change that follows, `n` becomes
/// another node, as often as it is told to.
#[derive(Debug)]
struct Racing {
    model: Arc<ModelFs>,
    races_left: std::sync::atomic::AtomicUsize,
}

impl Racing {
    async fn swap(&self, dir: Ino) {
        let left = std::sync::atomic::Ordering::Relaxed;
        if self.races_left.fetch_update(left, left, |races| races.checked_sub(1)).is_err() {
            return;
        }
        let place = Place { dir, name: &name("n"), expect: None };
        if let Err(error) = self.model.remove(place, RemoveKind::NonDir).await {
            assert_eq!(error.kind(), ErrorKind::NotFound, "there was none yet");
        }
        let other = make(&self.model, dir, "n", NewNode::File, owned(0o666, 11, 11)).await;
        self.model.release(other, 1);
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for Racing {
    forward_vfs!(model: root, parent, getattr, readdir, read, readlink, statfs, handle, resolve, retain, release);
    forward_vfs!(model: setattr, write, create, remove, rename, link, allocate, punch_hole, copy_range, seek);
    forward_vfs!(model: getxattr, listxattr, setxattr, removexattr, sync, sync_inode, host_file, expect);

    async fn lookup(&self, dir: Ino, name: &Name) -> Result<Attr> {
        let found = self.model.lookup(dir, name).await;
        if name.as_bytes() == b"n" {
            self.swap(dir).await;
        }
        found
    }
}

/// In a sticky directory user 10 removes their own `n`, while user 11 puts theirs in its place just after the look; and
/// renames over a free `n`, which is free no more. Either way the node of user 11 stays.
#[tokio::test]
async fn the_sticky_bit_cannot_be_raced() {
    for (races, there) in [(1, true), (1, false), (100, true)] {
        let model = ModelFs::new(testing::env());
        let dir = make(&model, model.root(), "tmp", NewNode::Dir, owned(0o1777, 1, 1)).await;
        make(&model, dir, "mine", NewNode::File, owned(0o666, 10, 10)).await;
        if there {
            make(&model, dir, "n", NewNode::File, owned(0o666, 10, 10)).await;
        }
        let racing = Racing { model: model.clone(), races_left: races.into() };
        let view = posix(Arc::new(racing), caller(10, 10, &[]));
        let n = Place { dir, name: &name("n"), expect: None };
        let result = if there {
            view.remove(n, RemoveKind::NonDir).await.map(drop)
        } else {
            view.rename(Place { name: &name("mine"), ..n }, n, RenameMode::Replace).await.map(drop)
        };
        assert_eq!(kind_of(result), NOT_PERMITTED, "{races} races, there: {there}");
        let stays = model.lookup(dir, &name("n")).await.expect("it stays");
        assert_eq!(stays.uid, 11);
    }
}
