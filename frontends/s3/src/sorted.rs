//! The names of a directory in the order of keys, by windows.
//!
//! A directory lists its names by their hash; keys are listed by their bytes, a directory's with the slash that follows
//! in them. So a directory is read through once for the names after some bound, of which the smallest are kept: a window.
//! Windows are remembered for as long as their directory does not change, so that page after page of a listing comes of
//! one reading. What is remembered is bounded in bytes, and so are a window and all together, those that listings are in
//! the middle of among them: where there is no room, names come by small windows, of which a listing holds one at a time.
//! Who wants the same directory at the same time waits for one reading. Spec: spec/s3.md #listing.

use std::{
    collections::{BTreeMap, BinaryHeap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use muxfs::{
    Name, Result,
    vfs::{Attr, Cookie, Ino},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    names::{self, KEY_LEN_MAX, is_reserved},
    record::{NULL_VERSION, is_version, nanos},
    tree::{Node, Tree},
};

/// The most names of a window, and about how much memory they take, in bytes.
const WINDOW_COUNT_MAX: usize = 128 << 10;
const WINDOW_LEN_MAX: usize = 32 << 20;
/// The same of one that there is no room for.
const SMALL_LEN_MAX: usize = 64 << 10;
/// About how much memory all take that are remembered, and all that there are, in bytes.
const REMEMBERED_LEN_MAX: usize = 96 << 20;
const ROOM_LEN: usize = 256 << 20;
/// What room is counted by, in bytes.
const ROOM_UNIT: usize = 1 << 10;
/// Directories of fewer names are read again: it costs no more than to remember them.
const REMEMBERED_COUNT_MIN: usize = 64;
/// So many directories are read at once.
const READER_COUNT: usize = 4;
/// What an entry takes beside its text, in bytes.
const ENTRY_LEN: usize = 48;
/// How long the clock of a file system may stand still, and one that tells whole seconds.
const TICK: Duration = Duration::from_millis(20);
const LONG_TICK: Duration = Duration::from_secs(2);

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
    /// What it takes of the room that there is; none: it is small.
    room: Option<OwnedSemaphorePermit>,
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

/// The windows that are remembered, and the room for all.
#[derive(Debug)]
pub(crate) struct Windows {
    held: Mutex<Held>,
    readers: Vec<tokio::sync::Mutex<()>>,
    room: Arc<Semaphore>,
}

impl Default for Windows {
    fn default() -> Self {
        Self::with_room(ROOM_LEN)
    }
}

/// Whether a change that is made from now on is told from all before.
fn is_settled(attr: &Attr, now: SystemTime) -> bool {
    // A counter tells them; where it is the time of the last change, all within a tick of that clock look like one.
    let tick = if nanos(attr.ctime).is_multiple_of(1_000_000_000) { LONG_TICK } else { TICK };
    attr.change != nanos(attr.ctime) || now.duration_since(attr.ctime).is_ok_and(|age| age > tick)
}

impl Windows {
    /// Some with room for so much, in bytes.
    pub(crate) fn with_room(len: usize) -> Self {
        let readers = (0..READER_COUNT).map(|_| tokio::sync::Mutex::default()).collect();
        Self { held: Mutex::default(), readers, room: Arc::new(Semaphore::new(len / ROOM_UNIT)) }
    }

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
        let now = (tree.env.now)();
        let attr = tree.vfs.getattr(dir.ino()).await?;
        if let Some(window) = self.find(place, attr.change, lower) {
            return Ok(window);
        }
        let mut room = self.room.clone().try_acquire_many_owned(units(WINDOW_LEN_MAX)).ok();
        let len_max = if room.is_some() { WINDOW_LEN_MAX } else { SMALL_LEN_MAX };
        let mut window = read(tree, dir, attr.change, (naming, lower), len_max).await?;
        let taken = room.as_mut().and_then(|room| room.split(units(window.len) as usize));
        let is_kept = taken.is_some() && window.entries.len() >= REMEMBERED_COUNT_MIN && is_settled(&attr, now);
        window.room = taken;
        let window = Arc::new(window);
        if is_kept {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).keep(place, &window);
        }
        Ok(window)
    }
}

/// So much room is this, in bytes.
fn units(len: usize) -> u32 {
    u32::try_from(len.div_ceil(ROOM_UNIT)).unwrap_or(u32::MAX)
}

/// Goes through the names of a directory in their order.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) dir: Node,
    naming: Naming,
    at: At,
}

/// Where a cursor is.
#[derive(Debug)]
enum At {
    /// Before the entry of this index.
    Within(Arc<Window>, usize),
    /// Before the first name that is not before this.
    Before(Vec<u8>),
}

impl At {
    async fn new((windows, tree): (&Windows, &Tree), dir: &Node, naming: Naming, lower: &[u8]) -> Result<Self> {
        let window = windows.window(tree, dir, naming, lower).await?;
        let index = window.position(lower);
        Ok(Self::Within(window, index))
    }
}

impl Cursor {
    /// Begins at the first name that is not before `lower`.
    pub(crate) async fn new(of: (&Windows, &Tree), dir: Node, naming: Naming, lower: &[u8]) -> Result<Self> {
        let at = At::new(of, &dir, naming, lower).await?;
        Ok(Self { dir, naming, at })
    }

    /// The next name, from the next window where this one ends.
    pub(crate) async fn next(&mut self, of: (&Windows, &Tree)) -> Result<Option<Entry>> {
        loop {
            let lower = match &mut self.at {
                At::Within(window, index) => {
                    if let Some(entry) = window.entries.get(*index) {
                        *index += 1;
                        return Ok(Some(entry.clone()));
                    }
                    match window.entries.last() {
                        Some(last) if !window.is_last => after(last.key.as_bytes()),
                        _ => return Ok(None),
                    }
                }
                At::Before(lower) => lower.clone(),
            };
            self.at = At::new(of, &self.dir, self.naming, &lower).await?;
        }
    }

    /// Holds no window that there is no room for until the next name is asked for.
    pub(crate) fn rest(&mut self) {
        let At::Within(window, index) = &self.at else { return };
        if window.room.is_some() {
            return;
        }
        let next = window.entries.get(*index).map(|next| next.key.as_bytes().to_vec());
        let lower = next.or_else(|| window.entries.last().map(|last| after(last.key.as_bytes())));
        self.at = At::Before(lower.unwrap_or_else(|| window.lower.clone()));
    }

    #[cfg(test)]
    pub(crate) fn is_resting(&self) -> bool {
        matches!(self.at, At::Before(_))
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

async fn read(
    tree: &Tree,
    dir: &Node,
    change: u64,
    (naming, lower): (Naming, &[u8]),
    len_max: usize,
) -> Result<Window> {
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
            while (smallest.len() > WINDOW_COUNT_MAX || len > len_max)
                && let Some(greatest) = smallest.pop()
            {
                len -= greatest.len();
                is_last = false;
            }
        }
        next = behind;
    }
    let entries = smallest.into_sorted_vec();
    Ok(Window { change, lower: lower.to_vec(), entries, is_last, len, room: None })
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use muxfs::{
        forward_vfs,
        testing::{Clock, model::ModelFs},
        vfs::{DirPage, Listing, NewNode, SetAttr, Vfs},
    };

    use super::*;
    use crate::budget::Budget;

    /// A file system that tells changes apart by a clock that moves every 10 ms, as those of hosts do, and counts its listings.
    #[derive(Debug)]
    struct Coarse {
        vfs: Arc<ModelFs>,
        listed: AtomicUsize,
    }

    #[async_trait]
    #[deny(clippy::missing_trait_methods)]
    impl Vfs for Coarse {
        forward_vfs!(vfs: root, lookup, expect, parent, read, host_file, readlink, statfs, handle, resolve, retain, release);
        forward_vfs!(vfs: setattr, write, create, remove, rename, link, allocate, punch_hole, copy_range, seek);
        forward_vfs!(vfs: getxattr, listxattr, setxattr, removexattr, sync, sync_inode);

        async fn getattr(&self, ino: Ino) -> Result<Attr> {
            let attr = self.vfs.getattr(ino).await?;
            let ticks = nanos(attr.ctime) / 10_000_000 * 10_000_000;
            Ok(Attr { ctime: SystemTime::UNIX_EPOCH + Duration::from_nanos(ticks), change: ticks, ..attr })
        }

        async fn readdir(&self, dir: Ino, after: Cookie, count: usize, listing: Listing) -> Result<DirPage> {
            self.listed.fetch_add(usize::from(after == Cookie::START), Ordering::SeqCst);
            self.vfs.readdir(dir, after, count, listing).await
        }
    }

    /// A directory of files, and its tree.
    async fn site(count: usize) -> (Arc<Coarse>, Tree, Node, Clock) {
        let clock = Clock::default();
        clock.advance(Duration::from_millis(15));
        let vfs = Arc::new(Coarse { vfs: ModelFs::new(clock.env(1)), listed: AtomicUsize::new(0) });
        let (sync_names_except, ordered) = (Vec::new(), Vec::new());
        let tree = Tree { vfs: vfs.clone(), sync_names_except, ordered, budget: Budget::default(), env: clock.env(2) };
        let root = tree.adopt(vfs.getattr(vfs.root()).await.expect("there"));
        for number in 0..count {
            put(&tree, &root, &format!("f{number:05}")).await;
        }
        (vfs, tree, root, clock)
    }

    async fn put(tree: &Tree, dir: &Node, name: &str) {
        let made =
            tree.vfs.create(dir.ino(), &names::own(name), NewNode::File, SetAttr::default()).await.expect("made");
        drop(tree.adopt(made.node));
    }

    /// All names, with a rest after each so many.
    async fn all(windows: &Windows, tree: &Tree, dir: &Node, rest_after: usize) -> Vec<String> {
        let mut cursor = Cursor::new((windows, tree), dir.clone(), Naming::Parts, b"").await.expect("lists");
        let mut found = Vec::new();
        while let Some(entry) = cursor.next((windows, tree)).await.expect("lists") {
            found.push(entry.key.into());
            if found.len() % rest_after == 0 {
                cursor.rest();
            }
        }
        found
    }

    #[tokio::test]
    async fn what_came_in_the_same_tick_is_listed() {
        let (vfs, tree, root, clock) = site(100).await;
        let windows = Windows::default();
        assert_eq!(all(&windows, &tree, &root, 1000).await.len(), 100);
        let before = vfs.getattr(root.ino()).await.expect("there").change;
        put(&tree, &root, "later").await;
        assert_eq!(vfs.getattr(root.ino()).await.expect("there").change, before, "the clock stood still");
        assert_eq!(all(&windows, &tree, &root, 1000).await.len(), 101);
        // Once that is past what was read is good for all that come.
        clock.advance(Duration::from_secs(1));
        all(&windows, &tree, &root, 1000).await;
        let listed = vfs.listed.load(Ordering::SeqCst);
        assert_eq!(all(&windows, &tree, &root, 1000).await.len(), 101);
        assert_eq!(vfs.listed.load(Ordering::SeqCst), listed);
    }

    #[tokio::test]
    async fn a_clock_of_whole_seconds_is_waited_for_longer() {
        let (_, tree, root, _) = site(0).await;
        let attr = tree.vfs.getattr(root.ino()).await.expect("there");
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        for (ctime, now, is_counter, expected) in [
            (10_001, 10_001, true, true),
            (10_001, 10_010, false, false),
            (10_001, 10_030, false, true),
            (10_001, 9_000, false, false),
            (10_000, 11_900, false, false),
            (10_000, 12_100, false, true),
        ] {
            let change = if is_counter { 7 } else { nanos(at(ctime)) };
            let attr = Attr { ctime: at(ctime), change, ..attr.clone() };
            assert_eq!(is_settled(&attr, at(now)), expected, "{ctime} {now} {is_counter}");
        }
    }

    #[tokio::test]
    async fn names_come_by_small_windows_where_there_is_no_room() {
        let (vfs, tree, root, clock) = site(2000).await;
        clock.advance(Duration::from_secs(1));
        let expected: Vec<_> = (0..2000).map(|number| format!("f{number:05}")).collect();
        let windows = Windows::with_room(WINDOW_LEN_MAX);
        let mut first = Cursor::new((&windows, &tree), root.clone(), Naming::Parts, b"").await.expect("lists");
        let At::Within(window, _) = &first.at else { panic!("it is at its first name") };
        assert!(window.is_last && window.room.is_some(), "there was room for all");
        assert_eq!(windows.room.available_permits(), (WINDOW_LEN_MAX / ROOM_UNIT) - units(window.len) as usize);
        first.rest();
        assert!(!first.is_resting(), "it has its room");
        // Another directory has none while that one is held.
        let windows = Windows { held: Mutex::default(), ..windows };
        let listed = vfs.listed.load(Ordering::SeqCst);
        let mut second = Cursor::new((&windows, &tree), root.clone(), Naming::Parts, b"f00010").await.expect("lists");
        let At::Within(window, _) = &second.at else { panic!("it is at its first name") };
        assert!(!window.is_last && window.len <= SMALL_LEN_MAX && window.room.is_none(), "{}", window.len);
        second.rest();
        assert!(second.is_resting());
        let next = second.next((&windows, &tree)).await.expect("lists").expect("more");
        assert_eq!(&*next.key, "f00010");
        assert!(vfs.listed.load(Ordering::SeqCst) > listed + 1, "what has no room is not remembered");
        assert_eq!(all(&windows, &tree, &root, 1000).await, expected);
        assert_eq!(all(&Windows::with_room(0), &tree, &root, 300).await.len(), 2000);
    }

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
        let window = |change, len| {
            Arc::new(Window { change, lower: Vec::new(), entries: Vec::new(), is_last: true, len, room: None })
        };
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
