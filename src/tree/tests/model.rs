//! Random changes on a tree and on the model, with commits, restarts, collections and checkouts in between: both say the same.

use std::{collections::BTreeMap, fmt::Write as _};

use bytes::Bytes;

use super::{Ground, assert_sound, name};
use crate::{
    Cid, FileKind, Name, Result,
    dag::GcOptions,
    testing::{self, fault::Dice, model::ModelFs},
    vfs::{
        Attr, Ino, NewNode, Place, RemoveKind, RenameMode, SetAttr, Vfs, XattrMode, XattrName,
        ext::{list, read_to_end},
    },
};

/// How many changes are made, over all seeds.
const CHANGE_COUNT: usize = 100_000;
/// How many of them with one seed.
const SEED_LEN: usize = 5_000;

type Path = Vec<Name>;

/// A change, by paths: inode numbers differ.
#[derive(Debug)]
enum Step {
    Create(Path, NewNode),
    Remove(Path, RemoveKind),
    Rename(Path, Path, RenameMode),
    Link(Path, Path),
    Write(Path, u64, usize),
    Size(Path, u64),
    Mode(Path, u32),
    Punch(Path, u64, u64),
    Copy(Path, Path, u64, u64),
    Xattr(Path, Option<Bytes>),
}

async fn find(vfs: &dyn Vfs, path: &[Name]) -> Result<Ino> {
    let mut at = vfs.root();
    for name in path {
        let attr = vfs.lookup(at, name).await;
        vfs.release(at, 1);
        at = attr?.ino;
    }
    if path.is_empty() {
        vfs.retain(at);
    }
    Ok(at)
}

fn split(path: &[Name]) -> (&[Name], Name) {
    path.split_last().map_or((path, name("root")), |(last, above)| (above, last.clone()))
}

/// Takes a step, and tells how it went in words that both must use.
async fn take(vfs: &dyn Vfs, step: &Step, copies: bool) -> String {
    let mut leases = Vec::new();
    let told = try_take(vfs, step, copies, &mut leases).await;
    for ino in leases {
        vfs.release(ino, 1);
    }
    told.unwrap_or_else(|error| format!("{:?}", error.kind()))
}

async fn try_take(vfs: &dyn Vfs, step: &Step, copies: bool, leases: &mut Vec<Ino>) -> Result<String> {
    let mut lease = async |path: &[Name]| -> Result<Ino> {
        let ino = find(vfs, path).await?;
        leases.push(ino);
        Ok(ino)
    };
    // A copy of a part of a page may or may not bring the zeros of the rest of it along.
    let used = |attr: &Attr| if copies { String::new() } else { format!(" used {}", attr.used) };
    let size = |attr: &Attr| if attr.kind == FileKind::Dir { 0 } else { attr.size };
    Ok(match step {
        Step::Create(path, node) => {
            let (above, name) = split(path);
            let made = vfs.create(lease(above).await?, &name, node.clone(), SetAttr::default()).await?;
            leases.push(made.node.ino);
            format!("{:o} {}", made.node.mode, made.dir.after.nlink)
        }
        Step::Remove(path, kind) => {
            let (above, name) = split(path);
            let dir = lease(above).await?;
            let removed = vfs.remove(Place { dir, name: &name, expect: None }, *kind).await?;
            format!("{} {}", removed.node.nlink, removed.dir.after.nlink)
        }
        Step::Rename(from, to, mode) => {
            let ((from_dir, from), (to_dir, to)) = (split(from), split(to));
            let (from_dir, to_dir) = (lease(from_dir).await?, lease(to_dir).await?);
            let place = |dir, name| Place { dir, name, expect: None };
            let renamed = vfs.rename(place(from_dir, &from), place(to_dir, &to), *mode).await?;
            format!("{} {} {}", renamed.from.after.nlink, renamed.to.after.nlink, renamed.node.nlink)
        }
        Step::Link(node, path) => {
            let (above, name) = split(path);
            let (ino, dir) = (lease(node).await?, lease(above).await?);
            let linked = vfs.link(ino, dir, &name).await?;
            leases.push(linked.node.ino);
            linked.node.nlink.to_string()
        }
        Step::Write(path, offset, len) => {
            let data = Dice::new(*offset + *len as u64).bytes(*len);
            let changed = vfs.write(lease(path).await?, *offset, data.into(), true).await?;
            format!("{} {}{}", changed.before.size, changed.after.size, used(&changed.after))
        }
        Step::Size(path, len) => {
            let set = SetAttr { size: Some(*len), ..SetAttr::default() };
            let changed = vfs.setattr(lease(path).await?, set).await?;
            format!("{}{}", changed.after.size, used(&changed.after))
        }
        Step::Mode(path, mode) => {
            let set = SetAttr { mode: Some(*mode), uid: Some(*mode), ..SetAttr::default() };
            let changed = vfs.setattr(lease(path).await?, set).await?;
            format!("{:o} {}", changed.after.mode, changed.after.uid)
        }
        Step::Punch(path, start, len) => {
            let changed = vfs.punch_hole(lease(path).await?, *start..start + len).await?;
            size(&changed.after).to_string()
        }
        Step::Copy(from, to, offset, len) => {
            let (from, to) = (lease(from).await?, lease(to).await?);
            let (len, changed) = vfs.copy_range((from, *offset), (to, 0), *len).await?;
            format!("{len} {}", changed.after.size)
        }
        Step::Xattr(path, value) => {
            let (ino, name) = (lease(path).await?, XattrName::new(b"user.x")?);
            let _ = match value {
                Some(value) => vfs.setxattr(ino, &name, value.clone(), XattrMode::Set).await?,
                None => vfs.removexattr(ino, &name).await?,
            };
            format!("{:?}", vfs.listxattr(ino).await?)
        }
    })
}

/// All that is seen of a file system, in the order of the names, and the paths of it.
async fn describe(vfs: &dyn Vfs) -> (String, Vec<Path>) {
    let mut lines = BTreeMap::new();
    let mut todo: Vec<(Path, Ino)> = vec![(Vec::new(), vfs.root())];
    let mut paths = vec![Vec::new()];
    while let Some((path, dir)) = todo.pop() {
        for entry in list(vfs, dir, usize::MAX).await.expect("list") {
            let attr = vfs.lookup(dir, &entry.name).await.expect("lookup");
            let path = [path.clone(), vec![entry.name]].concat();
            let content = match attr.kind {
                FileKind::File => read_to_end(vfs, attr.ino, 1 << 24).await.expect("read"),
                FileKind::Symlink => vfs.readlink(attr.ino).await.expect("readlink"),
                _ => Bytes::new(),
            };
            let mut line = String::new();
            let content = crate::cid_of(crate::Codec::Raw, &content);
            let xattrs = vfs.listxattr(attr.ino).await.expect("listxattr").len();
            let (kind, mode, uid, nlink) = (attr.kind, attr.mode, attr.uid, attr.nlink);
            write!(line, "{path:?} {kind:?} {mode:o} {uid} {nlink} {} {content} {xattrs}", attr.size).expect("written");
            lines.insert(path.clone(), line);
            paths.push(path.clone());
            if attr.kind == FileKind::Dir {
                todo.push((path, attr.ino));
            } else {
                vfs.release(attr.ino, 1);
            }
        }
        if dir != vfs.root() {
            vfs.release(dir, 1);
        }
    }
    (lines.into_values().collect::<Vec<_>>().join("\n"), paths)
}

fn draw(dice: &mut Dice, paths: &[Path], copies: bool) -> Step {
    let names = ["a", "b", "c", "d", "e"].map(name);
    let some = |dice: &mut Dice| paths[dice.roll(paths.len())].clone();
    let below = |dice: &mut Dice| {
        let mut path = some(dice);
        path.truncate(3);
        path.push(names[dice.roll(names.len())].clone());
        path
    };
    let offset = |dice: &mut Dice| [0, 5, 1023, 1024, 4096, 10_000][dice.roll(6)];
    match dice.roll(20) {
        0..4 => {
            let nodes = [NewNode::File, NewNode::File, NewNode::Dir, NewNode::Symlink("x".into()), NewNode::Fifo];
            Step::Create(below(dice), nodes[dice.roll(5)].clone())
        }
        4..7 => {
            let kind = if dice.roll(2) == 0 { RemoveKind::Dir } else { RemoveKind::NonDir };
            Step::Remove(some(dice), kind)
        }
        7..10 => {
            let mode = [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
            let (from, to) = (some(dice), below(dice));
            Step::Rename(from, to, mode[dice.roll(4)])
        }
        10 => Step::Link(some(dice), below(dice)),
        11..15 => {
            let len = [1, 100, 1024, 3000, 9000][dice.roll(5)];
            Step::Write(some(dice), offset(dice), len)
        }
        15 => Step::Size(some(dice), offset(dice)),
        16 => Step::Mode(some(dice), u32::try_from(dice.roll(0o7777)).unwrap_or(0)),
        17 => Step::Punch(some(dice), offset(dice), 4000),
        18 if copies => Step::Copy(some(dice), some(dice), offset(dice), 6000),
        _ => Step::Xattr(some(dice), (dice.roll(3) > 0).then(|| Bytes::from_static(b"value"))),
    }
}

async fn play(seed: u64, count: usize) {
    println!("seed {seed}");
    let copies = seed % 4 > 1;
    let mut dice = Dice::new(seed);
    let ground = Ground::with_chunk_len(1024);
    let model = ModelFs::new(testing::env());
    let mut tree = ground.open().await;
    let mut paths = vec![Vec::new()];
    let mut kept: Vec<(Cid, String)> = Vec::new();
    for number in 0..count {
        let step = draw(&mut dice, &paths, copies);
        let (found, wanted) = (take(&tree, &step, copies).await, take(&*model, &step, copies).await);
        assert_eq!(found, wanted, "seed {seed}, step {number}: {step:?}");
        match dice.roll(400) {
            0..20 => tree.sync(tree.root()).await.expect("sync"),
            20..30 => {
                let cid = tree.commit("").await.expect("commit");
                if dice.roll(5) == 0 {
                    kept.push((cid, describe(&tree).await.0));
                }
            }
            30..34 => {
                tree.sync(tree.root()).await.expect("sync");
                tree = ground.open().await;
            }
            35 => {
                let options = GcOptions::new(&testing::env());
                ground.dag.collect_garbage(|| tree.gc_roots(), &options).await.expect("it collects");
            }
            34 if !kept.is_empty() => {
                let now = describe(&tree).await.0;
                let here = tree.commit("").await.expect("commit");
                let (cid, then) = &kept[dice.roll(kept.len())];
                tree.checkout(cid).await.expect("checkout");
                assert_eq!(describe(&tree).await.0, *then, "seed {seed}, step {number}: checked out");
                tree.checkout(&here).await.expect("checkout");
                assert_eq!(describe(&tree).await.0, now, "seed {seed}, step {number}: and back");
            }
            _ => {}
        }
        if number % 50 == 49 {
            let (found, found_paths) = describe(&tree).await;
            let (wanted, _) = describe(&*model).await;
            assert_eq!(found, wanted, "seed {seed}, step {number}");
            paths = found_paths;
            if number % 250 == 249 {
                assert_sound(&tree, &format!("seed {seed}, step {number}")).await;
            }
        }
    }
    super::root_equals_import(&tree).await;
    assert_sound(&tree, &format!("seed {seed}, at the end")).await;
}

#[test]
fn a_hundred_thousand_changes_are_those_of_the_model() {
    let threads: Vec<_> = (0..2)
        .map(|half| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                for seed in (half..CHANGE_COUNT / SEED_LEN).step_by(2) {
                    runtime.block_on(play(seed as u64, SEED_LEN));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("both said the same");
    }
}
