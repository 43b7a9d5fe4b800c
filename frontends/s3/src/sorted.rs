//! The names of a directory in the order of keys, by windows.
//!
//! A directory lists its names by their hash; keys are listed by their bytes, a directory's with the slash that follows
//! in them. So a directory is read through once for the names after some bound, of which the smallest are kept: a window.
//! Windows are remembered for as long as their directory does not change, so that page after page of a listing comes of
//! one reading; what is remembered is bounded in bytes, and so is a window. Who wants the same directory at the same time
//! waits for one reading. Spec: spec/s3.md #listing.

use std::{
    collections::{BTreeMap, BinaryHeap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use muxfs::{
    Name, Result,
    vfs::{Cookie, Ino},
};

use crate::{
    names::{self, KEY_LEN_MAX, is_reserved},
    record::{NULL_VERSION, is_version, nanos},
    tree::{Node, Tree},
};

/// The most names of a window, and about how much memory they take, in bytes.
const WINDOW_COUNT_MAX: usize = 128 << 10;
const WINDOW_LEN_MAX: usize = 32 << 20;
/// About how much memory all take that are remembered, in bytes.
const REMEMBERED_LEN_MAX: usize = 96 << 20;
/// Directories of fewer names are read again: it costs no more than to remember them.
const REMEMBERED_COUNT_MIN: usize = 64;
/// So many directories are read at once.
const READER_COUNT: usize = 4;
/// What an entry takes beside its text, in bytes.
const ENTRY_LEN: usize = 48;

/// A name, by what keys have in its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// The name of a file; of a directory, with a slash behind; else as the naming says.
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

    fn len(&self) -> usize {
        ENTRY_LEN + self.key.len() + self.name.as_ref().map_or(0, |name| name.as_bytes().len())
    }
}

/// What the names of a directory stand for, and by what they are in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Naming {
    /// Parts of keys.
    Parts,
    /// Hashes of keys, which the records have: by those.
    Hashes,
    /// Uploads: by [`upload_order`].
    Uploads,
    /// Versions of a key, newest first: by [`version_order`].
    Versions,
}

/// Where an upload of a key comes: by the key, and then by its id. No order of two keys is another with what follows them,
/// for a NUL of a key is written as two characters that come after the two that end it.
pub(crate) fn upload_order(key: &str, id: &str) -> String {
    format!("{}\0\0{id}", upload_prefix(key))
}

/// What the order of all uploads begins with whose keys begin with this.
pub(crate) fn upload_prefix(prefix: &str) -> String {
    prefix.replace('\0', "\0\u{1}")
}

/// Where a version of this name comes that was made at this time, in nanoseconds since 1970.
pub(crate) fn version_order(version: &str, made: u64) -> String {
    if version == NULL_VERSION { format!("{:016x}{NULL_VERSION}", u64::MAX - made) } else { version.to_owned() }
}

/// Names in order.
#[derive(Debug)]
pub(crate) struct Window {
    change: u64,
    /// No name before it is here.
    lower: Vec<u8>,
    entries: Vec<Entry>,
    /// Whether none comes after the last one.
    is_last: bool,
    /// About what it takes in memory, in bytes.
    len: usize,
}

impl Window {
    /// The index of the first entry that is not before a bound.
    fn position(&self, lower: &[u8]) -> usize {
        self.entries.partition_point(|entry| entry.key.as_bytes() < lower)
    }

    fn covers(&self, lower: &[u8]) -> bool {
        self.lower.as_slice() <= lower
            && (self.is_last || self.entries.last().is_some_and(|last| last.key.as_bytes() >= lower))
    }
}

type Place = (Ino, Naming);

/// What is remembered: by its directory, and by when it was last asked for.
#[derive(Debug, Default)]
struct Held {
    windows: HashMap<Place, Vec<(u64, Arc<Window>)>>,
    by_use: BTreeMap<u64, Place>,
    uses: u64,
    len: usize,
}

impl Held {
    fn find(&mut self, place: Place, change: u64, lower: &[u8]) -> Option<Arc<Window>> {
        let windows = self.windows.get_mut(&place)?;
        let (used, window) = windows.iter_mut().find(|(_, it)| it.change == change && it.covers(lower))?;
        self.uses += 1;
        self.by_use.remove(used);
        self.by_use.insert(self.uses, place);
        *used = self.uses;
        Some(window.clone())
    }

    /// Remembers a window, and forgets those of its directory as it was before, and what was not asked for the longest.
    fn keep(&mut self, place: Place, window: &Arc<Window>) {
        self.forget(place, |_, old| old.change != window.change);
        self.uses += 1;
        self.by_use.insert(self.uses, place);
        self.windows.entry(place).or_default().push((self.uses, window.clone()));
        self.len += window.len;
        while self.len > REMEMBERED_LEN_MAX
            && let Some((used, place)) = self.by_use.first_key_value().map(|(used, place)| (*used, *place))
        {
            self.forget(place, |at, _| at == used);
        }
    }

    fn forget(&mut self, place: Place, is_it: impl Fn(u64, &Window) -> bool) {
        let Some(windows) = self.windows.get_mut(&place) else { return };
        let (by_use, len) = (&mut self.by_use, &mut self.len);
        windows.retain(|(used, window)| {
            let goes = is_it(*used, window);
            if goes {
                by_use.remove(used);
                *len -= window.len;
            }
            !goes
        });
        if windows.is_empty() {
            self.windows.remove(&place);
        }
    }
}

/// The windows that are remembered.
#[derive(Debug)]
pub(crate) struct Windows {
    held: Mutex<Held>,
    readers: Vec<tokio::sync::Mutex<()>>,
}

impl Default for Windows {
    fn default() -> Self {
        let readers = (0..READER_COUNT).map(|_| tokio::sync::Mutex::default()).collect();
        Self { held: Mutex::default(), readers }
    }
}

impl Windows {
    fn find(&self, place: Place, change: u64, lower: &[u8]) -> Option<Arc<Window>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).find(place, change, lower)
    }

    /// A window of a directory that has the first name that is not before `lower`.
    async fn window(&self, tree: &Tree, dir: &Node, naming: Naming, lower: &[u8]) -> Result<Arc<Window>> {
        let place = (dir.ino(), naming);
        let change = tree.vfs.getattr(dir.ino()).await?.change;
        if let Some(window) = self.find(place, change, lower) {
            return Ok(window);
        }
        let reader = usize::try_from(dir.ino().0.get() % READER_COUNT as u64).unwrap_or_default();
        let _reading = self.readers[reader].lock().await;
        // Whoever waited finds what was read meanwhile. What changes while it is read is read again next time.
        let change = tree.vfs.getattr(dir.ino()).await?.change;
        if let Some(window) = self.find(place, change, lower) {
            return Ok(window);
        }
        let window = Arc::new(read(tree, dir, change, naming, lower).await?);
        if window.entries.len() >= REMEMBERED_COUNT_MIN {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).keep(place, &window);
        }
        Ok(window)
    }
}

/// Goes through the names of a directory in their order.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) dir: Node,
    naming: Naming,
    window: Arc<Window>,
    index: usize,
}

impl Cursor {
    /// Begins at the first name that is not before `lower`.
    pub(crate) async fn new(
        (windows, tree): (&Windows, &Tree),
        dir: Node,
        naming: Naming,
        lower: &[u8],
    ) -> Result<Self> {
        let window = windows.window(tree, &dir, naming, lower).await?;
        let index = window.position(lower);
        Ok(Self { dir, naming, window, index })
    }

    /// The next name, from the next window where this one ends.
    pub(crate) async fn next(&mut self, (windows, tree): (&Windows, &Tree)) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.window.entries.get(self.index) {
                self.index += 1;
                return Ok(Some(entry.clone()));
            }
            if self.window.is_last {
                return Ok(None);
            }
            let Some(last) = self.window.entries.last() else { return Ok(None) };
            let lower = after(last.key.as_bytes());
            self.window = windows.window(tree, &self.dir, self.naming, &lower).await?;
            self.index = self.window.position(&lower);
        }
    }
}

/// The least that comes after a key.
pub(crate) fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// The least that comes after all that begins with this; `None` where nothing does.
pub(crate) fn after_all(prefix: &[u8]) -> Option<Vec<u8>> {
    let end = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut next = prefix[..=end].to_vec();
    next[end] += 1;
    Some(next)
}

async fn read(tree: &Tree, dir: &Node, change: u64, naming: Naming, lower: &[u8]) -> Result<Window> {
    let (mut smallest, mut len) = (BinaryHeap::<Entry>::new(), 0);
    let (mut next, mut is_last) = (Some(Cookie::START), true);
    while let Some(cookie) = next {
        let (entries, behind) = tree.page(dir.ino(), cookie).await?;
        for (name, node) in entries {
            let Some(entry) = entry_of(tree, name, &node, naming).await? else { continue };
            if entry.key.as_bytes() < lower || !is_last && smallest.peek().is_some_and(|greatest| entry > *greatest) {
                continue;
            }
            len += entry.len();
            smallest.push(entry);
            while (smallest.len() > WINDOW_COUNT_MAX || len > WINDOW_LEN_MAX)
                && let Some(greatest) = smallest.pop()
            {
                len -= greatest.len();
                is_last = false;
            }
        }
        next = behind;
    }
    let entries = smallest.into_sorted_vec();
    Ok(Window { change, lower: lower.to_vec(), entries, is_last, len })
}

/// What an entry of a directory is in a listing; `None` where it is nothing in it.
async fn entry_of(tree: &Tree, name: Name, node: &Node, naming: Naming) -> Result<Option<Entry>> {
    let text = std::str::from_utf8(name.as_bytes()).ok();
    let key: Option<Box<str>> = match (naming, text) {
        (_, None) => None,
        (Naming::Parts, Some(text)) => {
            if is_reserved(&name) || !(node.is_dir() || node.is_file()) {
                return Ok(None);
            }
            let key = if node.is_dir() { format!("{text}/").into() } else { text.into() };
            return Ok(Some(Entry { key, name: None }));
        }
        (Naming::Hashes, Some(_)) => {
            let key = tree.record(node.ino()).await?.key;
            key.filter(|key| (1..=KEY_LEN_MAX).contains(&key.len()) && names::hashed(key) == name).map(Into::into)
        }
        (Naming::Uploads, Some(id)) => {
            let key = tree.record(node.ino()).await?.key;
            key.filter(|key| key.len() <= KEY_LEN_MAX).map(|key| upload_order(&key, id).into())
        }
        (Naming::Versions, Some(version)) => {
            let is_one = node.is_file() && (version == NULL_VERSION || is_version(version));
            is_one.then(|| version_order(version, nanos(node.attr.mtime)).into())
        }
    };
    Ok(key.map(|key| Entry { key, name: Some(name) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_in_the_order_of_their_keys() {
        let mut keys = ["a", "a\0", "a\0\0", "a\0b", "a\u{1}", "ab", "b", "", "\0"];
        keys.sort_unstable();
        let orders: Vec<_> = keys.iter().flat_map(|key| ["0", "f"].map(|id| upload_order(key, id))).collect();
        assert!(orders.is_sorted(), "{orders:?}");
        for (key, prefix) in [("a\0b", "a\0"), ("a\0b", "a"), ("ab", "a\0"), ("a", "a\0")] {
            let begins = upload_order(key, "0").starts_with(&upload_prefix(prefix));
            assert_eq!(begins, key.starts_with(prefix), "{key:?} {prefix:?}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut held = Held::default();
        let window =
            |change, len| Arc::new(Window { change, lower: Vec::new(), entries: Vec::new(), is_last: true, len });
        let place = |number: u64| (Ino(std::num::NonZeroU64::new(number).expect("not 0")), Naming::Parts);
        let third = REMEMBERED_LEN_MAX / 3;
        for number in 1..=3 {
            held.keep(place(number), &window(1, third));
        }
        assert!(held.find(place(1), 1, b"x").is_some(), "all fit");
        held.keep(place(4), &window(1, third));
        assert!(held.find(place(2), 1, b"").is_none(), "the one that was not asked for the longest went");
        assert!(held.find(place(1), 1, b"").is_some());
        held.keep(place(1), &window(2, third));
        assert!(held.find(place(1), 1, b"").is_none() && held.find(place(1), 2, b"").is_some());
        assert_eq!((held.len, held.by_use.len()), (3 * third, 3));
    }
}
