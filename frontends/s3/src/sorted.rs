//! The names of a directory in the order of keys, by windows.
//!
//! A directory lists its names by their hash; keys are listed by their bytes, a directory's with the slash that follows
//! in them. So a directory is read through once for the names after some bound, of which the smallest are kept: a window.
//! Windows are remembered for as long as their directory does not change, so that page after page of a listing comes of
//! one reading; what is remembered is bounded, and so is a window. Spec: spec/s3.md #listing.

use std::{
    collections::{BinaryHeap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use muxfs::{
    Name, Result,
    vfs::{Cookie, Ino},
};

use crate::{
    names::is_reserved,
    tree::{Node, Tree},
};

/// The most names of a window.
const WINDOW_COUNT_MAX: usize = 128 << 10;
/// The most names that are remembered in all.
const REMEMBERED_COUNT_MAX: usize = 512 << 10;

/// A name, by what keys have in its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// The name of a file; of a directory, with a slash behind. Of what lies by its hash, the key.
    pub(crate) key: Box<str>,
    /// The name, where it is another.
    pub(crate) name: Option<Name>,
}

impl Entry {
    pub(crate) fn is_dir(&self) -> bool {
        self.name.is_none() && self.key.ends_with('/')
    }

    pub(crate) fn name(&self) -> Result<Name> {
        self.name.clone().map_or_else(|| Name::new(self.key.trim_end_matches('/').as_bytes()), Ok)
    }
}

/// What the names of a directory stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// Parts of keys.
    Parts,
    /// Hashes of keys, which the records have.
    Hashes,
}

/// Names in order.
#[derive(Debug)]
pub(crate) struct Window {
    dir: Ino,
    change: u64,
    naming: Naming,
    /// No name before it is here.
    lower: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    /// Whether none comes after the last one.
    pub(crate) is_last: bool,
}

impl Window {
    /// The index of the first entry that is not before a bound.
    pub(crate) fn position(&self, lower: &[u8]) -> usize {
        self.entries.partition_point(|entry| entry.key.as_bytes() < lower)
    }

    fn covers(&self, lower: &[u8]) -> bool {
        self.lower.as_slice() <= lower
            && (self.is_last || self.entries.last().is_some_and(|last| last.key.as_bytes() >= lower))
    }
}

/// The windows that are remembered, the latest last.
#[derive(Debug, Default)]
pub(crate) struct Windows(Mutex<VecDeque<Arc<Window>>>);

impl Windows {
    /// A window of a directory that has the first name that is not before `lower`.
    pub(crate) async fn window(&self, tree: &Tree, dir: &Node, naming: Naming, lower: &[u8]) -> Result<Arc<Window>> {
        let change = tree.vfs.getattr(dir.ino()).await?.change;
        let is_it = |window: &Arc<Window>| {
            (window.dir, window.change, window.naming) == (dir.ino(), change, naming) && window.covers(lower)
        };
        {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(index) = held.iter().position(is_it)
                && let Some(window) = held.remove(index)
            {
                held.push_back(window.clone());
                return Ok(window);
            }
        }
        let window = Arc::new(read(tree, dir, change, naming, lower).await?);
        // What changed meanwhile is read again next time.
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|old| old.dir != window.dir || old.change == window.change);
        held.push_back(window.clone());
        let mut count: usize = held.iter().map(|window| window.entries.len()).sum();
        while count > REMEMBERED_COUNT_MAX
            && let Some(old) = held.pop_front()
        {
            count -= old.entries.len();
        }
        Ok(window)
    }
}

async fn read(tree: &Tree, dir: &Node, change: u64, naming: Naming, lower: &[u8]) -> Result<Window> {
    let mut smallest = BinaryHeap::new();
    let (mut after, mut is_last) = (Some(Cookie::START), true);
    while let Some(cookie) = after {
        let (entries, next) = tree.page(dir.ino(), cookie).await?;
        for (name, node) in entries {
            let Some(entry) = entry_of(tree, name, &node, naming).await? else { continue };
            if entry.key.as_bytes() < lower {
                continue;
            }
            smallest.push(entry);
            if smallest.len() > WINDOW_COUNT_MAX {
                smallest.pop();
                is_last = false;
            }
        }
        after = next;
    }
    let entries = smallest.into_sorted_vec();
    Ok(Window { dir: dir.ino(), change, naming, lower: lower.to_vec(), entries, is_last })
}

/// What an entry of a directory is in a listing; `None` where it is nothing in it.
async fn entry_of(tree: &Tree, name: Name, node: &Node, naming: Naming) -> Result<Option<Entry>> {
    match naming {
        Naming::Parts => {
            if is_reserved(&name) || !(node.is_dir() || node.is_file()) {
                return Ok(None);
            }
            let Ok(text) = std::str::from_utf8(name.as_bytes()) else { return Ok(None) };
            let key = if node.is_dir() { format!("{text}/").into() } else { text.into() };
            Ok(Some(Entry { key, name: None }))
        }
        Naming::Hashes => {
            let key = tree.record(node.ino()).await?.key;
            Ok(key.map(|key| Entry { key: key.into(), name: Some(name) }))
        }
    }
}
