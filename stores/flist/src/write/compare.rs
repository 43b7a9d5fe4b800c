//! What differs between two trees.

use std::collections::BTreeSet;

use muxfs::{Name, Result};

use super::tree::{Content, Node, NodeIndex, ROOT, Tree, What};
use crate::chunk::Chunk;

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// It is in the second alone.
    Added,
    /// It is in the first alone.
    Removed,
    /// It is something else, or other things are known of it.
    Changed,
}

/// Tells of each path at which two trees differ, a directory before what is in it and by name. Files whose chunks are of two
/// formats are told apart by what is known of them alone.
///
/// # Errors
/// Those of `tell`.
pub fn differences(before: &Tree, after: &Tree, mut tell: impl FnMut(Difference, &[u8]) -> Result<()>) -> Result<()> {
    let entry = |node: Option<&Node>, name: &Name| node.and_then(|node| node.entries.get(name).copied());
    // One path, and of each that waits how much of it is above: all paths can be much longer than both trees.
    let mut path = Vec::new();
    let mut next: Vec<Waiting<'_>> = vec![Waiting { above: 0, name: None, old: Some(ROOT), new: Some(ROOT) }];
    while let Some(Waiting { above, name, old, new }) = next.pop() {
        path.truncate(above);
        if let Some(name) = name {
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
        }
        let shown = if path.is_empty() { b"/" } else { &path[..] };
        let (old, new) = (old.and_then(|index| before.node(index)), new.and_then(|index| after.node(index)));
        match (old, new) {
            (Some(_), None) => tell(Difference::Removed, shown)?,
            (None, Some(_)) => tell(Difference::Added, shown)?,
            (Some(old), Some(new)) if !is_alike((before, old), (after, new)) => tell(Difference::Changed, shown)?,
            _ => {}
        }
        let names: BTreeSet<&Name> = [old, new].into_iter().flatten().flat_map(|node| node.entries.keys()).collect();
        let below =
            |name| Waiting { above: path.len(), name: Some(name), old: entry(old, name), new: entry(new, name) };
        next.extend(names.into_iter().rev().map(below));
    }
    Ok(())
}

/// A path that is yet to be compared.
struct Waiting<'a> {
    /// The length of the path that it is below.
    above: usize,
    name: Option<&'a Name>,
    old: Option<NodeIndex>,
    new: Option<NodeIndex>,
}

fn is_alike((before, old): (&Tree, &Node), (after, new): (&Tree, &Node)) -> bool {
    match (&old.what, &new.what) {
        (What::File { len, content }, What::File { len: new_len, content: new_content }) => {
            let contents = before.content(*content).zip(after.content(*new_content));
            len == new_len && old.about == new.about && contents.is_some_and(|(old, new)| has_same_chunks(old, new))
        }
        (old_what, new_what) => old_what == new_what && old.about == new.about,
    }
}

fn has_same_chunks(old: &Content, new: &Content) -> bool {
    let is_other = |(old, new): (&Chunk, &Chunk)| std::mem::discriminant(old) != std::mem::discriminant(new);
    old.chunks == new.chunks || old.chunks.first().zip(new.chunks.first()).is_some_and(is_other)
}
