//! The host directory answers as the model does, call by call, whatever the order of the calls.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use muxfs::{
    ErrorKind, FileKind, Result,
    testing::{self, model::ModelFs},
    vfs::{Attr, Ino, Listing, NewNode, Place, RemoveKind, RenameMode, SetAttr, SetTime, Vfs},
};
use proptest::prelude::*;

use crate::world::{World, name};

/// A node by the order in which nodes were first leased, a name by its index.
#[derive(Debug, Clone)]
enum Call {
    Create(usize, u8, u8),
    Lookup(usize, u8),
    Remove(usize, u8, bool),
    Rename((usize, u8), (usize, u8), u8),
    Link(usize, usize, u8),
    Write(usize, u16, u16, bool),
    Set(usize, u8, u16),
    Copy((usize, u16), (usize, u16), u16),
    Allocate(usize, u16, u16, bool),
    Punch(usize, u16, u16),
    Parent(usize),
    Forget(usize),
    Restart,
}

fn call() -> impl Strategy<Value = Call> {
    let node = || 0usize..12;
    let text = || 0u8..4;
    prop_oneof![
        6 => (node(), text(), 0u8..5).prop_map(|(dir, name, what)| Call::Create(dir, name, what)),
        3 => (node(), text()).prop_map(|(dir, name)| Call::Lookup(dir, name)),
        3 => (node(), text(), any::<bool>()).prop_map(|(dir, name, is_dir)| Call::Remove(dir, name, is_dir)),
        4 => ((node(), text()), (node(), text()), 0u8..3).prop_map(|(from, to, mode)| Call::Rename(from, to, mode)),
        2 => (node(), node(), text()).prop_map(|(node, dir, name)| Call::Link(node, dir, name)),
        3 => (node(), 0u16..9000, 0u16..5000, any::<bool>()).prop_map(|(n, at, len, suid)| Call::Write(n, at, len, suid)),
        3 => (node(), 0u8..8, any::<u16>()).prop_map(|(node, which, value)| Call::Set(node, which, value)),
        1 => ((node(), 0u16..9000), (node(), 0u16..9000), 0u16..5000).prop_map(|(f, t, len)| Call::Copy(f, t, len)),
        1 => (node(), 0u16..9000, 0u16..5000, any::<bool>()).prop_map(|(n, at, len, keep)| Call::Allocate(n, at, len, keep)),
        1 => (node(), 0u16..9000, 0u16..5000).prop_map(|(n, at, len)| Call::Punch(n, at, len)),
        1 => node().prop_map(Call::Parent),
        1 => node().prop_map(Call::Forget),
        1 => Just(Call::Restart),
    ]
}

/// What both must agree on. Sizes of directories, times and numbers are each one's own.
type Seen = (FileKind, u32, u32, Option<u64>);

fn seen(attr: &Attr) -> Seen {
    (attr.kind, attr.mode, attr.nlink, (attr.kind != FileKind::Dir).then_some(attr.size))
}

/// One file system and the nodes leased in it.
struct Side<'a> {
    vfs: &'a dyn Vfs,
    held: Vec<Ino>,
}

impl Side<'_> {
    fn node(&self, index: usize) -> Ino {
        self.held.get(index % self.held.len()).copied().unwrap_or(self.vfs.root())
    }

    fn hold(&mut self, attr: &Attr) -> Seen {
        self.held.push(attr.ino);
        seen(attr)
    }

    /// Makes a call; what it told.
    async fn make(&mut self, call: &Call) -> Result<Seen> {
        let text = |index: u8| name(&char::from(b'a' + index).to_string());
        let owned = SetAttr { mode: Some(0o640), ..SetAttr::default() };
        match *call {
            Call::Create(dir, to, what) => {
                let node = match what {
                    0 | 1 => NewNode::File,
                    2 | 3 => NewNode::Dir,
                    _ => NewNode::Symlink("target".into()),
                };
                let made = self.vfs.create(self.node(dir), &text(to), node, owned).await?;
                Ok(self.hold(&made.node))
            }
            Call::Lookup(dir, of) => {
                let found = self.vfs.lookup(self.node(dir), &text(of)).await?;
                Ok(self.hold(&found))
            }
            Call::Remove(dir, of, is_dir) => {
                let kind = if is_dir { RemoveKind::Dir } else { RemoveKind::NonDir };
                let place = Place { dir: self.node(dir), name: &text(of), expect: None };
                self.vfs.remove(place, kind).await.map(|removed| seen(&removed.node))
            }
            Call::Rename(from, to, mode) => {
                let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][usize::from(mode)];
                let (old, new) = (text(from.1), text(to.1));
                let from = Place { dir: self.node(from.0), name: &old, expect: None };
                let to = Place { dir: self.node(to.0), name: &new, expect: None };
                self.vfs.rename(from, to, mode).await.map(|renamed| seen(&renamed.node))
            }
            Call::Link(node, dir, to) => {
                let linked = self.vfs.link(self.node(node), self.node(dir), &text(to)).await?;
                Ok(self.hold(&linked.node))
            }
            Call::Write(node, at, len, clear_suid) => {
                let data = Bytes::from(vec![b'0' + u8::try_from(len % 10).expect("a digit"); len.into()]);
                let changed = self.vfs.write(self.node(node), at.into(), data, clear_suid).await?;
                Ok(seen(&changed.after))
            }
            Call::Set(node, which, value) => {
                let time = SetTime::At(SystemTime::UNIX_EPOCH + Duration::from_secs(value.into()));
                let set = SetAttr {
                    size: (which & 1 != 0).then_some(value.into()),
                    mode: (which & 2 != 0).then_some(u32::from(value) & 0o7777),
                    mtime: (which & 4 != 0).then_some(time),
                    ..SetAttr::default()
                };
                self.vfs.setattr(self.node(node), set).await.map(|changed| seen(&changed.after))
            }
            Call::Copy(from, to, len) => {
                let from = (self.node(from.0), from.1.into());
                let to = (self.node(to.0), to.1.into());
                self.vfs.copy_range(from, to, len.into()).await.map(|(_, changed)| seen(&changed.after))
            }
            Call::Allocate(node, at, len, keep) => {
                let range = u64::from(at)..u64::from(at) + u64::from(len);
                self.vfs.allocate(self.node(node), range, keep).await.map(|changed| seen(&changed.after))
            }
            Call::Punch(node, at, len) => {
                let range = u64::from(at)..u64::from(at) + u64::from(len);
                self.vfs.punch_hole(self.node(node), range).await.map(|changed| seen(&changed.after))
            }
            Call::Parent(node) => {
                let node = self.node(node);
                let above = self.vfs.parent(node).await?;
                let below = self.vfs.getattr(node).await?;
                if below.kind == FileKind::Dir || below.nlink == 1 {
                    return Ok(self.hold(&above));
                }
                // Of several directories that have a name of it, any will do.
                assert_eq!(above.kind, FileKind::Dir);
                self.vfs.release(above.ino, 1);
                Ok(seen(&below))
            }
            Call::Forget(node) => {
                if self.held.len() > 1 {
                    let index = 1 + node % (self.held.len() - 1);
                    self.vfs.release(self.held.swap_remove(index), 1);
                }
                self.vfs.getattr(self.vfs.root()).await.map(|attr| seen(&attr))
            }
            Call::Restart => self.vfs.getattr(self.vfs.root()).await.map(|attr| seen(&attr)),
        }
    }

    /// Every path there is, with what it leads to.
    async fn tree(&self) -> Vec<(String, Seen, Bytes)> {
        self.nodes().await.into_iter().map(|(path, attr, content)| (path, seen(&attr), content)).collect()
    }

    /// What has more names than one.
    async fn linked(&self) -> impl Iterator<Item = Ino> {
        let several = |attr: &Attr| attr.kind != FileKind::Dir && attr.nlink > 1;
        self.nodes().await.into_iter().filter_map(move |(_, attr, _)| several(&attr).then_some(attr.ino))
    }

    async fn nodes(&self) -> Vec<(String, Attr, Bytes)> {
        let mut found = vec![];
        let mut todo = vec![(String::new(), self.vfs.root())];
        while let Some((path, dir)) = todo.pop() {
            let page = self.vfs.readdir(dir, muxfs::vfs::Cookie::START, 1000, Listing::Attrs).await.expect("a page");
            assert!(page.eof);
            for entry in page.entries {
                let attr = entry.attr.expect("attributes");
                let path = format!("{path}/{}", entry.name);
                let content = match attr.kind {
                    FileKind::File => self.vfs.read(attr.ino, 0, 1 << 20).await.expect("a read"),
                    FileKind::Symlink => self.vfs.readlink(attr.ino).await.expect("a target"),
                    _ => Bytes::new(),
                };
                if attr.kind == FileKind::Dir {
                    todo.push((path.clone(), attr.ino));
                }
                found.push((path, attr, content));
            }
        }
        found.sort_by(|one, two| one.0.cmp(&two.0));
        found
    }
}

/// Takes back what only the model knew: a directory that has a name which the host did not see since its start.
fn unknown(model: &mut Side<'_>, call: &Call, found: Seen, of: &HashSet<Ino>) -> bool {
    let Call::Parent(index) = *call else { return false };
    let was_held = found.0 == FileKind::Dir;
    let above = was_held.then(|| model.held.pop()).flatten();
    let is_unknown = of.contains(&model.node(index));
    if let Some(above) = above {
        model.vfs.release(above, 1);
    }
    is_unknown
}

/// What a refusal is called; of one that both may refuse for two reasons, either will do.
fn alike(call: &Call, host: ErrorKind, model: ErrorKind) -> bool {
    // Which of two wrong things a rename or a copy is told first is the host's choice.
    host == model || matches!(call, Call::Rename(..) | Call::Copy(..) | Call::Link(..))
}

async fn agree(calls: Vec<Call>) {
    let mut world = World::new();
    let model = ModelFs::new(testing::env());
    let set = SetAttr { mode: Some(0o755), ..SetAttr::default() };
    world.vfs.setattr(world.root(), set.clone()).await.expect("set");
    model.setattr(model.root(), set).await.expect("set");
    let mut theirs = Side { held: vec![model.root()], vfs: &*model };
    let mut held = vec![world.root()];
    // What had several names at a restart: of those the host knows the ones that were seen since.
    let mut unseen = HashSet::new();
    for (index, call) in calls.iter().enumerate() {
        if matches!(call, Call::Restart) {
            // Nodes with a name are found again by their handles; the others go with the process.
            let mut handles = vec![];
            for ino in held.split_off(1) {
                let lives = world.vfs.getattr(ino).await.expect("leased").nlink > 0;
                handles.push(lives.then(|| world.vfs.handle(ino).expect("a handle")));
            }
            world = world.restarted();
            let mut kept = vec![theirs.held[0]];
            for (handle, their) in handles.into_iter().zip(theirs.held.split_off(1)) {
                match handle {
                    None => model.release(their, 1),
                    Some(handle) => match world.vfs.resolve(&handle).await {
                        Ok(found) => {
                            held.push(found.ino);
                            kept.push(their);
                        }
                        Err(error) => {
                            let is_lost = error.kind() == ErrorKind::Stale && unseen.contains(&their);
                            assert!(is_lost, "call {index}: {error:?}");
                            model.release(their, 1);
                        }
                    },
                }
            }
            theirs.held = kept;
            unseen.extend(theirs.linked().await);
        }
        let mut ours = Side { held: std::mem::take(&mut held), vfs: &*world.vfs };
        match (ours.make(call).await, theirs.make(call).await) {
            (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "call {index}: {call:?}"),
            (Err(ours), Err(theirs)) => {
                assert!(alike(call, ours.kind(), theirs.kind()), "call {index}: {call:?}: {ours:?}, {theirs:?}");
            }
            (Err(error), Ok(found))
                if error.kind() == ErrorKind::NotDir && unknown(&mut theirs, call, found, &unseen) => {}
            (ours, theirs) => panic!("call {index}: {call:?}: {ours:?}, {theirs:?}"),
        }
        held = ours.held;
    }
    let ours = Side { held, vfs: &*world.vfs };
    assert_eq!(ours.tree().await, theirs.tree().await);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_host_and_the_model_agree(calls in prop::collection::vec(call(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(agree(calls));
    }
}
