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
    let mut next: Vec<(Vec<u8>, Option<NodeIndex>, Option<NodeIndex>)> = vec![(b"/".to_vec(), Some(ROOT), Some(ROOT))];
    while let Some((path, old, new)) = next.pop() {
        let (old, new) = (old.and_then(|index| before.node(index)), new.and_then(|index| after.node(index)));
        match (old, new) {
            (Some(_), None) => tell(Difference::Removed, &path)?,
            (None, Some(_)) => tell(Difference::Added, &path)?,
            (Some(old), Some(new)) if !is_alike((before, old), (after, new)) => tell(Difference::Changed, &path)?,
            _ => {}
        }
        let entry = |node: Option<&Node>, name: &Name| node.and_then(|node| node.entries.get(name).copied());
        let names: BTreeSet<&Name> = [old, new].into_iter().flatten().flat_map(|node| node.entries.keys()).collect();
        let slash: &[u8] = if path == b"/" { b"" } else { b"/" };
        let below = names.into_iter().rev();
        next.extend(below.map(|name| ([&path, slash, name.as_bytes()].concat(), entry(old, name), entry(new, name))));
    }
    Ok(())
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
