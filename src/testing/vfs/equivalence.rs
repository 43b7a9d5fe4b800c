//! The law above the laws: whatever is done, in whatever order, the file system answers as the model does.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::{Bed, name};
use crate::{
    Error, ErrorKind, FileKind, Name, Result,
    testing::{self, model::ModelFs},
    vfs::{Attr, FILE_LEN_MAX, Ino, Lease, NewNode, Place, RemoveKind, RenameMode, SetAttr, Vfs, ext::list},
};

/// How many histories the law tries: enough to meet every pair of calls, few enough for a disk.
const CASE_COUNT: u32 = 100;
/// The longest history.
const STEP_COUNT_MAX: usize = 40;
/// How often a failing history is made simpler before it is shown.
const SHRINK_COUNT_MAX: usize = 400;
/// Few names, so that they collide.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// One call. Nodes are numbered in the order in which both file systems gave them out.
#[derive(Debug, Clone)]
enum Step {
    Lookup(usize, usize),
    Parent(usize),
    Create(usize, usize, FileKind),
    Remove(usize, usize, RemoveKind, Option<usize>),
    Rename { from: (usize, usize), to: (usize, usize), mode: RenameMode, expect: Option<usize> },
    Link(usize, usize, usize),
    Write(usize, u64, usize, bool),
    Read(usize, u64, u32),
    SetSize(usize, u64),
    SetMode(usize, u32),
    List(usize),
    Readlink(usize),
    Resolve(usize),
    Forget(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = || 0..8usize;
    let named = || 0..NAMES.len();
    let kind = prop_oneof![
        4 => Just(FileKind::File), 4 => Just(FileKind::Dir), 1 => Just(FileKind::Symlink), 1 => Just(FileKind::Fifo)
    ];
    let offset = prop_oneof![4 => 0..10_000u64, 1 => Just(1 << 33), 1 => Just(FILE_LEN_MAX - 1), 1 => Just(u64::MAX)];
    let removal = prop_oneof![Just(RemoveKind::NonDir), Just(RemoveKind::Dir)];
    let mode = prop_oneof![
        3 => Just(RenameMode::Replace), 1 => Just(RenameMode::NoReplace), 1 => Just(RenameMode::Exchange)
    ];
    // The owner keeps its rights, so that it needs no privilege; setgid would be inherited by what only some file systems do.
    let mode_bits = (0..0o2000u32, any::<bool>()).prop_map(|(bits, suid)| bits | 0o700 | if suid { 0o4000 } else { 0 });
    let expect = || proptest::option::weighted(0.2, node());
    let step = prop_oneof![
        3 => (node(), named()).prop_map(|(dir, name)| Step::Lookup(dir, name)),
        1 => node().prop_map(Step::Parent),
        6 => (node(), named(), kind).prop_map(|(dir, name, kind)| Step::Create(dir, name, kind)),
        4 => (node(), named(), removal, expect()).prop_map(|(dir, name, kind, expect)| Step::Remove(dir, name, kind, expect)),
        6 => ((node(), named()), (node(), named()), mode, expect())
            .prop_map(|(from, to, mode, expect)| Step::Rename { from, to, mode, expect }),
        2 => (node(), node(), named()).prop_map(|(node, dir, name)| Step::Link(node, dir, name)),
        3 => (node(), offset.clone(), 0..6000usize, any::<bool>())
            .prop_map(|(node, offset, len, clear)| Step::Write(node, offset, len, clear)),
        2 => (node(), offset.clone(), 0..20_000u32).prop_map(|(node, offset, len)| Step::Read(node, offset, len)),
        2 => (node(), offset).prop_map(|(node, size)| Step::SetSize(node, size)),
        1 => (node(), mode_bits).prop_map(|(node, mode)| Step::SetMode(node, mode)),
        2 => node().prop_map(Step::List),
        1 => node().prop_map(Step::Readlink),
        1 => node().prop_map(Step::Resolve),
        1 => node().prop_map(Step::Forget),
    ];
    proptest::collection::vec(step, 1..STEP_COUNT_MAX)
}

/// What two file systems must agree on about a node: not its times, nor what a directory counts as size and links.
fn seen(attr: &Attr) -> String {
    let is_dir = attr.kind == FileKind::Dir;
    let (size, nlink) = if is_dir { (0, u32::from(attr.nlink > 0)) } else { (attr.size, attr.nlink) };
    format!("{:?} mode {:o} size {size} nlink {nlink}", attr.kind, attr.mode)
}

/// What a call told, in words that both must use.
enum Told {
    Words(String),
    /// A node, leased.
    Node(Box<Attr>),
}

fn node(attr: Attr) -> Told {
    Told::Node(Box::new(attr))
}

/// One of the two file systems, and the nodes it gave out.
struct Side {
    vfs: Arc<dyn Vfs>,
    nodes: Vec<Lease>,
}

impl Side {
    fn ino(&self, index: usize) -> Ino {
        self.nodes[index % self.nodes.len()].ino()
    }

    async fn take(&self, step: &Step) -> Result<Told> {
        let names: Vec<Name> = NAMES.iter().map(|text| name(text)).collect();
        let vfs = &self.vfs;
        let place = |(dir, name): (usize, usize), expect: Option<usize>| Place {
            dir: self.ino(dir),
            name: &names[name],
            expect: expect.map(|index| self.ino(index)),
        };
        let set = SetAttr::default;
        let words = match step {
            Step::Lookup(dir, name) => return vfs.lookup(self.ino(*dir), &names[*name]).await.map(node),
            Step::Parent(dir) => {
                // Of other nodes a file system need not know it.
                let ino = self.ino(*dir);
                // Nor does a history leave the directory it began in.
                if ino == self.ino(0) || vfs.getattr(ino).await?.kind != FileKind::Dir {
                    return Ok(Told::Words("not asked".to_owned()));
                }
                return vfs.parent(ino).await.map(node);
            }
            Step::Create(dir, name, kind) => {
                let new = match kind {
                    FileKind::Dir => NewNode::Dir,
                    FileKind::Symlink => NewNode::Symlink("target".into()),
                    FileKind::Fifo => NewNode::Fifo,
                    _ => NewNode::File,
                };
                let private = SetAttr { mode: Some(0o700), ..set() };
                let made = vfs.create(self.ino(*dir), &names[*name], new, private).await?;
                return Ok(node(made.node));
            }
            Step::Link(file, dir, name) => {
                let made = vfs.link(self.ino(*file), self.ino(*dir), &names[*name]).await?;
                return Ok(node(made.node));
            }
            Step::Resolve(file) => {
                // Whether the handle of what lost its name still leads there is left open.
                let ino = self.ino(*file);
                if vfs.getattr(ino).await?.nlink == 0 {
                    return Ok(Told::Words("not asked".to_owned()));
                }
                return vfs.resolve(&vfs.handle(ino)?).await.map(node);
            }
            Step::Remove(dir, name, kind, expect) => {
                let removed = vfs.remove(place((*dir, *name), *expect), *kind).await?;
                format!("{}, in {}", seen(&removed.node), seen(&removed.dir.after))
            }
            Step::Rename { from, to, mode, expect } => {
                let renamed = vfs.rename(place(*from, *expect), place(*to, None), *mode).await?;
                format!("{}, from {}", seen(&renamed.node), seen(&renamed.from.after))
            }
            Step::Write(node, offset, len, clear) => {
                let data: Vec<u8> = (0..*len).map(|i| u8::try_from(i % 251 + 1).unwrap_or(1)).collect();
                let changed = vfs.write(self.ino(*node), *offset, data.into(), *clear).await?;
                format!("{} was {}", seen(&changed.after), changed.before.size)
            }
            Step::Read(node, offset, len) => {
                let data = vfs.read(self.ino(*node), *offset, *len).await?;
                let digest = data.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
                format!("{} bytes, {digest:x}", data.len())
            }
            Step::SetSize(node, size) => {
                let changed = vfs.setattr(self.ino(*node), SetAttr { size: Some(*size), ..set() }).await?;
                seen(&changed.after)
            }
            Step::SetMode(node, mode) => {
                let changed = vfs.setattr(self.ino(*node), SetAttr { mode: Some(*mode), ..set() }).await?;
                seen(&changed.after)
            }
            Step::List(dir) => {
                let mut names: Vec<Name> =
                    list(&**vfs, self.ino(*dir), 1000).await?.into_iter().map(|entry| entry.name).collect();
                names.sort();
                format!("{names:?}")
            }
            Step::Readlink(node) => format!("{:?}", vfs.readlink(self.ino(*node)).await?),
            Step::Forget(_) => String::new(),
        };
        Ok(Told::Words(words))
    }

    /// Every node's attributes and every file's beginning, for the end of a history.
    async fn state(&self) -> Result<Vec<String>> {
        let mut state = Vec::new();
        for node in &self.nodes {
            let attr = self.vfs.getattr(node.ino()).await?;
            let data =
                if attr.kind == FileKind::File { self.vfs.read(node.ino(), 0, 20_000).await? } else { Bytes::new() };
            state.push(format!("{} {:?}", seen(&attr), data.iter().map(|byte| u64::from(*byte)).sum::<u64>()));
        }
        Ok(state)
    }
}

fn told(result: &Result<Told>) -> String {
    match result {
        Ok(Told::Words(words)) => words.clone(),
        Ok(Told::Node(attr)) => seen(attr),
        Err(error) => format!("{:?}", error.kind()),
    }
}

fn is(error: &Result<Told>, kind: ErrorKind) -> bool {
    error.as_ref().is_err_and(|error: &Error| error.kind() == kind)
}

/// Plays one history on both sides; what they disagreed on, if they did.
async fn play(model: &mut Side, other: &mut Side, steps: &[Step]) -> std::result::Result<(), String> {
    // Which number of the one is which of the other.
    let mut same: BTreeMap<Ino, Ino> = BTreeMap::from([(model.nodes[0].ino(), other.nodes[0].ino())]);
    for (index, step) in steps.iter().enumerate() {
        if let Step::Forget(node) = step {
            let node = node % model.nodes.len();
            if node > 0 {
                model.nodes.swap_remove(node);
                other.nodes.swap_remove(node);
            }
            continue;
        }
        // What this file system does not have at all, or is too small for, the model is not asked to do either.
        let answer = other.take(step).await;
        if is(&answer, ErrorKind::Unsupported) || is(&answer, ErrorKind::TooLarge) {
            continue;
        }
        let expected = model.take(step).await;
        let (found, wanted) = (told(&answer), told(&expected));
        if let Ok(Told::Node(attr)) = &answer {
            other.nodes.push(Lease::adopt(other.vfs.clone(), attr.ino));
        }
        if let Ok(Told::Node(attr)) = &expected {
            model.nodes.push(Lease::adopt(model.vfs.clone(), attr.ino));
        }
        if found != wanted {
            return Err(format!("step {index}, {step:?}: {found}; the model: {wanted}"));
        }
        if let (Ok(Told::Node(attr)), Ok(Told::Node(wanted))) = (&answer, &expected)
            && *same.entry(wanted.ino).or_insert(attr.ino) != attr.ino
        {
            return Err(format!("step {index}, {step:?}: another node than the model's"));
        }
    }
    let inos: std::collections::BTreeSet<Ino> = same.values().copied().collect();
    if inos.len() != same.len() {
        return Err("two nodes of the model are one here".to_owned());
    }
    let (found, wanted) = (other.state().await, model.state().await);
    match (found, wanted) {
        (Ok(found), Ok(wanted)) if found == wanted => Ok(()),
        (found, wanted) => Err(format!("in the end: {found:?}; the model: {wanted:?}")),
    }
}

/// A directory at the root of a file system, where a history begins: a fresh one, where there is none of that number.
async fn begin(vfs: &Arc<dyn Vfs>, number: usize) -> Side {
    let (set, name) = (SetAttr { mode: Some(0o755), ..SetAttr::default() }, name(&format!("history{number}")));
    let dir = match vfs.lookup(vfs.root(), &name).await {
        Ok(there) => there.ino,
        Err(_) => vfs.create(vfs.root(), &name, NewNode::Dir, set).await.expect("create").node.ino,
    };
    Side { vfs: vfs.clone(), nodes: vec![Lease::adopt(vfs.clone(), dir)] }
}

/// Plays `case_count` histories drawn from `seed` on `vfs` and on a model, and panics with the simplest one that it finds
/// on which they disagree.
#[expect(clippy::future_not_send, reason = "what proptest draws from stays on one thread")]
pub async fn compare(vfs: Arc<dyn Vfs>, case_count: u32, seed: u64) {
    compare_with(ModelFs::new(testing::env()), vfs, case_count, seed).await;
}

/// [`compare`] with a model that may hold something already: what `vfs` holds, too. A history that finds a directory
/// `history0`, `history1`, … of its number at the root begins there.
#[expect(clippy::future_not_send, reason = "what proptest draws from stays on one thread")]
pub async fn compare_with(model: Arc<dyn Vfs>, vfs: Arc<dyn Vfs>, case_count: u32, seed: u64) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config { failure_persistence: None, ..Config::default() }, rng);
    let strategy = steps();
    let mut number = 0;
    for case in 0..case_count {
        let mut tree = strategy.new_tree(&mut runner).expect("steps are drawn");
        let mut shortest: Option<(Vec<Step>, String)> = None;
        for _ in 0..SHRINK_COUNT_MAX {
            let steps = tree.current();
            let (mut one, mut other) = (begin(&model, number).await, begin(&vfs, number).await);
            number += 1;
            let moved = match play(&mut one, &mut other, &steps).await {
                Ok(()) if shortest.is_none() => break,
                Ok(()) => tree.complicate(),
                Err(why) => {
                    shortest = Some((steps, why));
                    tree.simplify()
                }
            };
            if !moved {
                break;
            }
        }
        if let Some((steps, why)) = shortest {
            panic!("seed {seed}, case {case}: {why}\nthe history: {steps:#?}");
        }
    }
}

/// Random histories: equal answers, equal nodes, equal content, and equal refusals.
#[expect(clippy::future_not_send, reason = "what proptest draws from stays on one thread")]
pub async fn behaves_like_the_model(bed: &Bed) {
    compare(bed.vfs.clone(), CASE_COUNT, 1).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::posix::{Caller, posix};

    /// The law can fail: a caller who is refused what the model allows is found, and told in few steps.
    #[tokio::test]
    #[should_panic(expected = "the model:")]
    async fn a_difference_is_found() {
        let model = ModelFs::new(testing::env());
        model.setattr(model.root(), SetAttr { mode: Some(0o777), ..SetAttr::default() }).await.expect("setattr");
        let stranger = Caller { uid: 1, gid: 1, groups: Vec::new() };
        compare(posix(model, stranger), CASE_COUNT, 1).await;
    }

    /// Histories of another seed than the law's, on the model itself behind nothing.
    #[tokio::test]
    async fn the_model_equals_itself_and_keeps_no_lease() {
        let model = ModelFs::new(testing::env());
        compare(model.clone(), 300, 2).await;
        assert_eq!(model.lease_count(), 0);
    }
}
