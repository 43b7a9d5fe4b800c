//! The inodes somebody holds or held lately: identity, names last seen, leases, and the cache of descriptors.
//!
//! Everything here can be found again from the host: an entry that was forgotten costs a look into its directory. Kept
//! without fail are the leased entries and the directories above them, and the descriptor of a file that is leased and
//! has no name any more, for there is no other way to it. All else is bounded and goes by least recent use.

use std::{
    collections::HashMap,
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool, atomic::Ordering},
};

use lru::LruCache;
use muxfs::{
    Name,
    vfs::{INO_BITS, Ino},
};
use rustix::{fd::OwnedFd, io::Errno};

use super::host::Identity;

/// Entries kept beyond the leased ones: about 16 MiB.
const IDLE_COUNT_MAX: usize = 64 * 1024;
/// Names remembered of one inode: a file with more hard links is found by the last ones seen.
const HINT_COUNT_MAX: usize = 4;
/// As many steps from the root cost less than to read the path of a descriptor.
const STEP_COUNT_MAX: usize = 2;
/// The longest walk towards the root when a directory moves, against a cycle of outdated hints.
const WALK_COUNT_MAX: usize = 16 * 1024;

/// A name an inode was last seen under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) dir: Ino,
    pub(super) name: Name,
}

/// What the handle table has of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) stamp: u64,
    /// The host's number of the directory in which it is looked for after a restart.
    pub(super) parent: u64,
}

/// One step on the way from the root: the directory it begins in, and the inode that its name led to.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) dir: Arc<Anchor>,
    pub(super) name: Name,
    pub(super) id: Identity,
}

/// The descriptors of one inode.
#[derive(Debug)]
pub(super) struct Anchor {
    /// Stands for the inode and reads nothing: `O_PATH`, or the descriptor a file was created with.
    pub(super) fd: Arc<OwnedFd>,
    data: Mutex<Option<Data>>,
    used: AtomicBool,
    /// Held while a directory is read: the position is the descriptor's.
    pub(super) reading: Mutex<()>,
}

/// An open file, or a directory open for reading.
#[derive(Debug, Clone)]
pub(super) struct Data {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) is_writable: bool,
    /// Whether something was written since the last sync.
    unsynced: Arc<AtomicBool>,
}

impl Data {
    pub(super) fn new(fd: Arc<OwnedFd>, is_writable: bool) -> Self {
        Self { fd, is_writable, unsynced: Arc::default() }
    }

    /// Notes that something is being written.
    pub(super) fn writes(&self) {
        self.unsynced.store(true, Ordering::SeqCst);
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> Result<(), Errno> {
        // Before: what is written meanwhile is not covered.
        self.unsynced.store(false, Ordering::SeqCst);
        rustix::fs::fsync(&self.fd)
    }

    /// The same, where anything was written.
    pub(super) fn sync_written(&self) -> Result<(), Errno> {
        if self.unsynced.load(Ordering::SeqCst) { self.sync() } else { Ok(()) }
    }
}

impl Anchor {
    pub(super) fn new(fd: OwnedFd, data: Option<Data>) -> Arc<Self> {
        Self::with(Arc::new(fd), data)
    }

    /// Of a file that was just created: one descriptor for everything.
    pub(super) fn created(fd: OwnedFd) -> Arc<Self> {
        let fd = Arc::new(fd);
        Self::with(fd.clone(), Some(Data::new(fd, true)))
    }

    fn with(fd: Arc<OwnedFd>, data: Option<Data>) -> Arc<Self> {
        Arc::new(Self { fd, data: Mutex::new(data), used: AtomicBool::new(true), reading: Mutex::new(()) })
    }

    pub(super) fn data(&self) -> Option<Data> {
        self.used.store(true, Ordering::Relaxed);
        self.data.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_data(&self, data: Data) {
        *self.data.lock().unwrap_or_else(PoisonError::into_inner) = Some(data);
    }

    /// Closes the open file where it was not used since the last call, if `settle` is done with it; says whether the
    /// whole anchor should go, because it is that open file.
    pub(super) fn close_idle(&self, settle: impl FnOnce(&Data)) -> bool {
        if self.used.swap(false, Ordering::Relaxed) {
            return false;
        }
        let Some(data) = self.data.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return false };
        settle(&data);
        let mut open = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        // Used meanwhile: the next time.
        if self.used.load(Ordering::Relaxed) {
            return false;
        }
        open.take().is_some_and(|data| Arc::ptr_eq(&data.fd, &self.fd))
    }
}

#[derive(Debug)]
struct Entry {
    id: Identity,
    /// The latest last; empty only for the root and for what was renamed away under us.
    hints: Vec<Hint>,
    leases: u64,
    /// How many hints of other entries name this directory.
    children: u64,
    /// Of its handle.
    stamp: Option<Stamp>,
    /// Keeps a leased file without a name.
    orphan: Option<Arc<Anchor>>,
    change: Option<Arc<tokio::sync::Mutex<()>>>,
}

/// What is known of an inode, copied out of the table.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) id: Identity,
    pub(super) hints: Vec<Hint>,
    pub(super) stamp: Option<Stamp>,
}

/// Descriptors to close once the table is unlocked.
pub(super) type Closing = Vec<Arc<Anchor>>;

#[derive(Debug)]
pub(super) struct Nodes {
    root: Ino,
    entries: HashMap<Ino, Entry>,
    idle: LruCache<Ino, ()>,
    anchors: LruCache<Ino, Arc<Anchor>>,
    anchor_count_max: usize,
    /// Numbers of our own for inodes whose host number is still leased for one that is gone.
    aliases: HashMap<u64, Ino>,
    next_alias: u64,
}

impl Nodes {
    pub(super) fn new(root: Identity, anchor: Arc<Anchor>, anchor_count_max: usize) -> (Self, Ino) {
        let ino = Ino(NonZeroU64::new(root.number).expect("an identity's number is not 0"));
        let mut nodes = Self {
            root: ino,
            entries: HashMap::new(),
            idle: LruCache::unbounded(),
            anchors: LruCache::unbounded(),
            anchor_count_max: anchor_count_max.max(1),
            aliases: HashMap::new(),
            next_alias: 1 << (INO_BITS - 1),
        };
        let entry =
            Entry { id: root, hints: vec![], leases: 1, children: 0, stamp: None, orphan: Some(anchor), change: None };
        nodes.entries.insert(ino, entry);
        (nodes, ino)
    }

    /// The number an inode has here now; an entry of a gone inode that nobody leases makes room for it.
    fn number_for(&mut self, id: Identity, closing: &mut Closing) -> Ino {
        let plain = Ino(NonZeroU64::new(id.number).expect("an identity's number is not 0"));
        let ino = self.aliases.get(&id.number).copied().unwrap_or(plain);
        match self.entries.get(&ino) {
            Some(entry) if entry.id != id && entry.leases == 0 => {
                self.drop_entry(ino, closing);
                ino
            }
            Some(entry) if entry.id != id => {
                let alias = Ino(NonZeroU64::new(self.next_alias).expect("aliases begin above 0"));
                self.next_alias += 1;
                self.aliases.insert(id.number, alias);
                alias
            }
            _ => ino,
        }
    }

    /// Takes note of an inode seen under a name, and of a descriptor of it; leases it `leases` times.
    pub(super) fn meet(
        &mut self,
        id: Identity,
        hint: Option<Hint>,
        anchor: Option<Arc<Anchor>>,
        leases: u64,
        closing: &mut Closing,
    ) -> Ino {
        let ino = self.number_for(id, closing);
        let entry = self.entries.entry(ino).or_insert_with(|| Entry {
            id,
            hints: vec![],
            leases: 0,
            children: 0,
            stamp: None,
            orphan: None,
            change: None,
        });
        entry.leases += leases;
        if let Some(hint) = hint {
            self.add_hint(ino, hint);
        }
        if let Some(anchor) = anchor {
            self.keep(ino, anchor, closing);
        }
        self.settle(ino, closing);
        ino
    }

    /// Takes note of an inode that was just made, leased: whatever had its number is gone, even of the same birth.
    pub(super) fn meet_new(&mut self, id: Identity, hint: Hint, anchor: Arc<Anchor>, closing: &mut Closing) -> Ino {
        if let Some(ino) = self.ino_of(id.number)
            && self.entries.get(&ino).is_some_and(|entry| entry.leases == 0)
        {
            self.drop_entry(ino, closing);
        }
        self.meet(id, Some(hint), Some(anchor), 1, closing)
    }

    /// Puts a hint last; of a directory it is the only one.
    fn add_hint(&mut self, ino: Ino, hint: Hint) {
        let Some(entry) = self.entries.get(&ino) else { return };
        if ino == self.root || entry.hints.last() == Some(&hint) {
            return;
        }
        if entry.id.kind == muxfs::FileKind::Dir {
            self.cut_cycle(ino, hint.dir);
            self.take_hints(ino, |_| true);
        } else {
            self.take_hints(ino, |other| *other == hint);
            let oldest = self.entries.get(&ino).filter(|entry| entry.hints.len() >= HINT_COUNT_MAX);
            if let Some(oldest) = oldest.and_then(|entry| entry.hints.first()).cloned() {
                self.take_hints(ino, |other| *other == oldest);
            }
        }
        if let Some(dir) = self.entries.get_mut(&hint.dir) {
            dir.children += 1;
            self.idle.pop(&hint.dir);
            if let Some(entry) = self.entries.get_mut(&ino) {
                entry.hints.push(hint);
            }
        }
    }

    /// Where others moved a directory into what was below it, the hints would form a ring: opens it.
    fn cut_cycle(&mut self, ino: Ino, dir: Ino) {
        let mut at = dir;
        for _ in 0..WALK_COUNT_MAX {
            let Some(above) = self.entries.get(&at).and_then(|entry| entry.hints.last()).map(|hint| hint.dir) else {
                return;
            };
            if above == ino {
                self.take_hints(at, |_| true);
                return;
            }
            at = above;
        }
    }

    fn take_hints(&mut self, ino: Ino, which: impl Fn(&Hint) -> bool) {
        let Some(entry) = self.entries.get_mut(&ino) else { return };
        let mut dirs = vec![];
        entry.hints.retain(|hint| {
            let goes = which(hint);
            if goes {
                dirs.push(hint.dir);
            }
            !goes
        });
        for dir in dirs {
            if let Some(above) = self.entries.get_mut(&dir) {
                above.children = above.children.saturating_sub(1);
                if above.children == 0 && above.leases == 0 {
                    self.idle.put(dir, ());
                }
            }
        }
    }

    /// Notes that a name went; the inode may have others.
    pub(super) fn lose_name(&mut self, ino: Ino, dir: Ino, name: &Name) {
        self.take_hints(ino, |hint| hint.dir == dir && hint.name == *name);
    }

    /// Caches a descriptor.
    pub(super) fn keep(&mut self, ino: Ino, anchor: Arc<Anchor>, closing: &mut Closing) {
        if !self.entries.contains_key(&ino) {
            closing.push(anchor);
            return;
        }
        closing.extend(self.anchors.put(ino, anchor));
        while self.anchors.len() > self.anchor_count_max {
            closing.extend(self.anchors.pop_lru().map(|(_, anchor)| anchor));
        }
    }

    /// Takes a cached descriptor away.
    pub(super) fn lose_anchor(&mut self, ino: Ino, closing: &mut Closing) {
        closing.extend(self.anchors.pop(&ino));
    }

    /// Gives up the less used half of the cached descriptors: the process has no more.
    pub(super) fn shed(&mut self) -> Closing {
        let count = self.anchors.len().div_ceil(2);
        (0..count).filter_map(|_| self.anchors.pop_lru()).map(|(_, anchor)| anchor).collect()
    }

    /// Puts an entry where its leases and children say: among the idle, of which the oldest go.
    fn settle(&mut self, ino: Ino, closing: &mut Closing) {
        match self.entries.get(&ino) {
            Some(entry) if entry.leases == 0 && entry.children == 0 => {
                self.idle.put(ino, ());
            }
            _ => {
                self.idle.pop(&ino);
            }
        }
        while self.idle.len() > IDLE_COUNT_MAX {
            let Some((oldest, ())) = self.idle.pop_lru() else { break };
            self.drop_entry(oldest, closing);
        }
    }

    fn drop_entry(&mut self, ino: Ino, closing: &mut Closing) {
        self.take_hints(ino, |_| true);
        self.idle.pop(&ino);
        closing.extend(self.anchors.pop(&ino));
        if let Some(entry) = self.entries.remove(&ino) {
            closing.extend(entry.orphan);
            if self.aliases.get(&entry.id.number) == Some(&ino) {
                self.aliases.remove(&entry.id.number);
            }
        }
    }

    /// Notes that an inode is gone from the host. A leased one stays, with its descriptor.
    pub(super) fn gone(&mut self, ino: Ino, anchor: Option<Arc<Anchor>>, closing: &mut Closing) {
        let Some(entry) = self.entries.get_mut(&ino) else {
            closing.extend(anchor);
            return;
        };
        if entry.leases == 0 {
            closing.extend(anchor);
            self.drop_entry(ino, closing);
            return;
        }
        if entry.orphan.is_none() {
            entry.orphan = self.anchors.pop(&ino).or(anchor);
        }
        self.take_hints(ino, |_| true);
    }

    pub(super) fn retain(&mut self, ino: Ino) {
        if let Some(entry) = self.entries.get_mut(&ino) {
            entry.leases = entry.leases.saturating_add(1);
            self.idle.pop(&ino);
        }
    }

    /// Leases an inode with the handle's stamp; `None` where it is not known here under that stamp.
    pub(super) fn lease_stamped(&mut self, number: u64, stamp: u64) -> Option<Ino> {
        let plain = Ino(NonZeroU64::new(number)?);
        let ino = [self.aliases.get(&number).copied(), Some(plain)]
            .into_iter()
            .flatten()
            .find(|ino| self.entries.get(ino).is_some_and(|entry| entry.stamp.is_some_and(|own| own.stamp == stamp)))?;
        self.retain(ino);
        Some(ino)
    }

    pub(super) fn release(&mut self, ino: Ino, count: u64) -> Closing {
        let mut closing = vec![];
        if ino == self.root {
            return closing;
        }
        if let Some(entry) = self.entries.get_mut(&ino) {
            entry.leases = entry.leases.saturating_sub(count);
            if entry.leases == 0 && entry.orphan.is_some() {
                self.drop_entry(ino, &mut closing);
            } else {
                self.settle(ino, &mut closing);
            }
        }
        closing
    }

    pub(super) fn known(&self, ino: Ino) -> Option<Known> {
        let entry = self.entries.get(&ino)?;
        Some(Known { id: entry.id, hints: entry.hints.clone(), stamp: entry.stamp })
    }

    pub(super) fn lease_count(&self, ino: Ino) -> u64 {
        self.entries.get(&ino).map_or(0, |entry| entry.leases)
    }

    pub(super) fn is_leased(&self, ino: Ino) -> bool {
        self.lease_count(ino) > 0
    }

    pub(super) fn id(&self, ino: Ino) -> Option<Identity> {
        self.entries.get(&ino).map(|entry| entry.id)
    }

    /// The number under which an inode of the host is known here.
    pub(super) fn ino_of(&self, number: u64) -> Option<Ino> {
        self.aliases.get(&number).copied().or_else(|| NonZeroU64::new(number).map(Ino))
    }

    pub(super) fn set_stamp(&mut self, ino: Ino, stamp: Stamp) {
        if let Some(entry) = self.entries.get_mut(&ino) {
            entry.stamp = Some(stamp);
        }
    }

    /// The descriptor of an inode, and whether it is kept for want of a name.
    pub(super) fn anchor(&mut self, ino: Ino) -> Option<(Arc<Anchor>, bool)> {
        if let Some(orphan) = self.entries.get(&ino)?.orphan.clone() {
            return Some((orphan, true));
        }
        self.anchors.get(&ino).cloned().map(|anchor| (anchor, false))
    }

    /// The way from the root to a directory, its last step first; `None` where it is longer than the path of its
    /// descriptor is dear, or a directory on it is not open.
    pub(super) fn way(&mut self, ino: Ino) -> Option<Vec<Step>> {
        let mut way = Vec::with_capacity(STEP_COUNT_MAX);
        let mut at = ino;
        while at != self.root {
            let entry = self.entries.get(&at)?;
            let hint = entry.hints.last()?;
            if entry.id.kind != muxfs::FileKind::Dir || way.len() == STEP_COUNT_MAX {
                return None;
            }
            let (id, above, name) = (entry.id, hint.dir, hint.name.clone());
            way.push(Step { dir: self.anchor(above)?.0, name, id });
            at = above;
        }
        Some(way)
    }

    /// Every cached descriptor, for the sweep.
    pub(super) fn anchors(&self) -> Vec<(Ino, Arc<Anchor>)> {
        self.anchors.iter().map(|(ino, anchor)| (*ino, anchor.clone())).collect()
    }

    /// What changes of one inode wait for each other on.
    pub(super) fn change_lock(&mut self, ino: Ino) -> Option<Arc<tokio::sync::Mutex<()>>> {
        let entry = self.entries.get_mut(&ino)?;
        Some(entry.change.get_or_insert_default().clone())
    }
}

#[cfg(test)]
mod tests {
    use muxfs::FileKind;

    use super::*;

    const ROOT: u64 = 2;

    fn anchor() -> Arc<Anchor> {
        Anchor::new(std::fs::File::open("/dev/null").expect("it is there").into(), None)
    }

    fn identity(number: u64, birth: i64, kind: FileKind) -> Identity {
        Identity { number, birth, kind }
    }

    fn nodes() -> (Nodes, Ino) {
        Nodes::new(identity(ROOT, 0, FileKind::Dir), anchor(), 4)
    }

    fn hint(dir: Ino, text: &str) -> Hint {
        Hint { dir, name: Name::new(text.as_bytes()).expect("a name") }
    }

    #[test]
    fn a_number_leased_for_a_file_that_is_gone_is_not_given_to_another() {
        let (mut nodes, root) = nodes();
        let mut closing = vec![];
        let old = identity(7, 1, FileKind::File);
        let new = identity(7, 2, FileKind::File);
        let first = nodes.meet(old, Some(hint(root, "a")), None, 1, &mut closing);
        let second = nodes.meet(new, Some(hint(root, "a")), None, 1, &mut closing);
        assert_ne!(first, second);
        assert_eq!((nodes.id(first), nodes.id(second)), (Some(old), Some(new)));
        assert_eq!(
            nodes.meet(new, Some(hint(root, "a")), None, 1, &mut closing),
            second,
            "the same while it is leased"
        );
        nodes.release(first, 1);
        nodes.release(second, 2);

        // With nobody to tell them apart the number is the host's again.
        let third = identity(7, 3, FileKind::File);
        let ino = nodes.meet_new(third, hint(root, "a"), anchor(), &mut closing);
        assert_eq!(nodes.id(ino), Some(third));
        assert!(nodes.id(first).is_none_or(|id| id != new), "nobody's lease leads to another file");
    }

    #[test]
    fn leased_entries_and_the_way_to_them_stay_while_idle_ones_go() {
        let (mut nodes, root) = nodes();
        let mut closing = vec![];
        let dir = nodes.meet(identity(10, 0, FileKind::Dir), Some(hint(root, "d")), None, 0, &mut closing);
        let file = nodes.meet(identity(11, 0, FileKind::File), Some(hint(dir, "f")), None, 1, &mut closing);
        for number in 0..IDLE_COUNT_MAX as u64 + 100 {
            let id = identity(1000 + number, 0, FileKind::File);
            nodes.meet(id, Some(hint(root, "x")), Some(anchor()), 0, &mut closing);
            closing.clear();
        }
        assert!(nodes.entries.len() <= IDLE_COUNT_MAX + 3 && nodes.anchors.len() <= 4);
        assert!(nodes.known(file).is_some() && nodes.known(dir).is_some());
        closing.extend(nodes.release(file, 1));
        assert_eq!(nodes.idle.len(), IDLE_COUNT_MAX, "now it may go too");
    }

    #[test]
    fn directories_that_others_turned_inside_out_leave_no_ring() {
        let (mut nodes, root) = nodes();
        let mut closing = vec![];
        let one = identity(10, 0, FileKind::Dir);
        let two = identity(11, 0, FileKind::Dir);
        let a = nodes.meet(one, Some(hint(root, "a")), None, 1, &mut closing);
        let b = nodes.meet(two, Some(hint(a, "b")), None, 1, &mut closing);
        // Others move b up and a into it; only a's new place is seen.
        nodes.meet(one, Some(hint(b, "a")), None, 0, &mut closing);
        let (a, b) = (nodes.known(a).expect("leased"), nodes.known(b).expect("leased"));
        assert_eq!((a.hints.len(), b.hints.len()), (1, 0), "the outdated hint went");
    }

    #[test]
    fn more_leases_given_back_than_taken_do_no_harm() {
        let (mut nodes, root) = nodes();
        let mut closing = vec![];
        let file = nodes.meet(identity(10, 0, FileKind::File), Some(hint(root, "a")), None, 1, &mut closing);
        nodes.release(file, u64::MAX);
        nodes.release(root, u64::MAX);
        assert_eq!(nodes.lease_count(file), 0);
        assert!(nodes.anchor(root).is_some());
    }
}
