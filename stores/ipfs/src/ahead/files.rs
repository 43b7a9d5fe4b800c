//! Which files are read, from where to where, and what is known of their nodes.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use muxfs::{
    BlockKey, Cid, Codec,
    dag::{
        DAG_BLOCK_LEN_MAX,
        pb::PbNode,
        unixfs::{UnixfsData, UnixfsType},
    },
};

/// So many files are known, and so many parts of all of them together.
pub(super) const FILE_COUNT_MAX: usize = 64;
pub(super) const PLACE_COUNT_MAX: usize = 1 << 17;
/// So many stretches of a file are known that are read, those that were read last.
const RUN_COUNT_MAX: usize = 16;
/// So many nodes wait to be looked into until a block is missing, and so many bytes of them.
const UNREAD_COUNT_MAX: usize = 64;
const UNREAD_LEN_MAX: usize = 16 << 20;
/// A file whose CARs failed so often has no more.
const FAILURE_COUNT_MAX: u32 = 3;

/// A file that is read.
#[derive(Debug)]
pub(super) struct File {
    pub(super) cid: Cid,
    /// What is read in order, in bytes; the one that was read last is the last.
    runs: Mutex<VecDeque<Range<u64>>>,
    /// How often a CAR of it failed.
    failure_count: AtomicU32,
    /// The nodes that are known, by where their content begins.
    nodes: Mutex<HashSet<(Cid, u64)>>,
    /// Whether anybody looked into one.
    has_places: AtomicBool,
}

impl File {
    pub(super) fn new(cid: Cid) -> Self {
        Self {
            cid,
            runs: Mutex::default(),
            failure_count: AtomicU32::new(0),
            nodes: Mutex::default(),
            has_places: AtomicBool::new(false),
        }
    }

    fn nodes(&self) -> MutexGuard<'_, HashSet<(Cid, u64)>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runs(&self) -> MutexGuard<'_, VecDeque<Range<u64>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that bytes are read; where they follow others that are read they are one with those.
    fn read(&self, range: &Range<u64>) {
        let mut runs = self.runs();
        let before = runs.iter().rposition(|run| run.end == range.start && run.start < run.end);
        let start = before.and_then(|at| runs.remove(at)).map_or(range.start, |run| run.start);
        if runs.back().is_some_and(|last| *last == (start..range.end)) {
            return;
        }
        if runs.len() >= RUN_COUNT_MAX {
            runs.pop_front();
        }
        runs.push_back(start..range.end);
    }

    /// What is read of it in order that begins before `range` ends, and ends behind its beginning.
    fn run(&self, range: &Range<u64>) -> Option<Range<u64>> {
        self.runs().iter().rev().find(|run| run.start < range.end && run.end > range.start).cloned()
    }

    pub(super) fn failed(&self) {
        self.failure_count.fetch_add(1, Ordering::Relaxed);
    }

    /// Has no more CARs.
    pub(super) fn leave_cars(&self) {
        self.failure_count.store(FAILURE_COUNT_MAX, Ordering::Relaxed);
    }
}

/// Where a part lies in a file.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) file: Arc<File>,
    /// In bytes of the file; the root is all of it, however long that is.
    pub(super) range: Range<u64>,
}

impl Place {
    /// Whether it is the root, of which it is not known how long the file is.
    pub(super) fn is_root(&self) -> bool {
        self.range.end == u64::MAX
    }

    /// From where on it is read, in bytes: of a node that may be far behind where it begins.
    pub(super) fn begins(&self) -> u64 {
        self.file.run(&self.range).map_or(self.range.start, |run| run.start.max(self.range.start))
    }

    /// The bytes to ask for where this part is missing: from where on it is read those that are read in order, and once more
    /// as many as were read so far, so that who reads on never waits. `None` where that is no more than a block.
    pub(super) fn wanted(&self) -> Option<Range<u64>> {
        let run = self.file.run(&self.range)?;
        let start = run.start.max(self.range.start);
        let end = run.end.max(start.saturating_add(start - run.start));
        // What is longer than a block is a node, and what is read of it comes with it.
        let is_node = self.range.end - self.range.start > DAG_BLOCK_LEN_MAX as u64;
        let is_more = is_node || end > self.range.end;
        (is_more && self.file.failure_count.load(Ordering::Relaxed) < FAILURE_COUNT_MAX).then_some(start..end)
    }
}

/// A node that is looked into once a block is missing: what is here needs no CAR.
#[derive(Debug)]
struct Unread {
    file: Arc<File>,
    node: Cid,
    block: Bytes,
    offset: u64,
}

#[derive(Debug, Default)]
pub(super) struct Files {
    /// The one that was read last is the last.
    known: VecDeque<Arc<File>>,
    pub(super) places: HashMap<BlockKey, Place>,
    /// Nodes that nobody looked into, and how long they are together.
    unread: VecDeque<Unread>,
    unread_len: usize,
}

impl Files {
    /// The file; it is the one that was read last.
    fn file(&mut self, cid: &Cid) -> Arc<File> {
        if let Some(last) = self.known.back().filter(|file| file.cid == *cid) {
            return last.clone();
        }
        let at = self.known.iter().position(|file| file.cid == *cid);
        let file = at.and_then(|at| self.known.remove(at)).unwrap_or_else(|| Arc::new(File::new(*cid)));
        self.known.push_back(file.clone());
        if self.known.len() > FILE_COUNT_MAX
            && let Some(oldest) = self.known.pop_front()
        {
            self.forget(&oldest);
        }
        file
    }

    /// Takes note that bytes of a file are read.
    pub(super) fn read(&mut self, cid: &Cid, range: &Range<u64>) {
        // Of anything else there is but one block.
        if cid.codec() == Some(Codec::DagPb) && !range.is_empty() {
            let file = self.file(cid);
            file.read(range);
            self.places.entry(cid.into()).or_insert(Place { file, range: 0..u64::MAX });
        }
    }

    /// Takes note of a node.
    pub(super) fn node(&mut self, file: &Cid, node: &Cid, block: &Bytes, offset: u64) {
        let file = self.file(file);
        if !file.nodes().insert((*node, offset)) {
            return;
        }
        self.unread_len += block.len();
        self.unread.push_back(Unread { file, node: *node, block: block.clone(), offset });
        while self.unread.len() > UNREAD_COUNT_MAX || self.unread_len > UNREAD_LEN_MAX {
            let Some(oldest) = self.next_unread() else { break };
            oldest.file.nodes().remove(&(oldest.node, oldest.offset));
        }
    }

    fn next_unread(&mut self) -> Option<Unread> {
        let next = self.unread.pop_front()?;
        self.unread_len -= next.block.len();
        Some(next)
    }

    /// Where a block lies in a file that is read.
    pub(super) fn place(&mut self, key: &BlockKey) -> Option<Place> {
        while let Some(Unread { file, block, offset, .. }) = self.next_unread() {
            self.look_into(&file, &block, offset);
        }
        self.places.get(key).cloned()
    }

    fn look_into(&mut self, file: &Arc<File>, block: &Bytes, offset: u64) {
        let Some(children) = children(block, offset) else { return };
        while self.places.len() + children.len() > PLACE_COUNT_MAX {
            let oldest = self.known.iter().find(|other| !Arc::ptr_eq(other, file)).cloned();
            let Some(oldest) = oldest else {
                // Of this one what was read so far goes.
                self.places.clear();
                file.nodes().clear();
                break;
            };
            self.forget(&oldest);
        }
        file.has_places.store(true, Ordering::Relaxed);
        // Of a part that is there twice the first counts.
        for (cid, range) in children.iter().rev() {
            self.places.insert(cid.into(), Place { file: file.clone(), range: range.clone() });
        }
    }

    /// Lets a file go. Another may have the same parts.
    fn forget(&mut self, file: &Arc<File>) {
        self.known.retain(|other| !Arc::ptr_eq(other, file));
        self.unread.retain(|unread| !Arc::ptr_eq(&unread.file, file));
        self.unread_len = self.unread.iter().map(|unread| unread.block.len()).sum();
        if file.has_places.load(Ordering::Relaxed) {
            self.places.retain(|_, place| !Arc::ptr_eq(&place.file, file));
        } else {
            self.places.remove(&BlockKey::from(&file.cid));
        }
    }
}

/// What a node of a file links to, and where in the file each lies; `None` where it is no such node, or has no parts.
pub(super) fn children(block: &Bytes, offset: u64) -> Option<Vec<(Cid, Range<u64>)>> {
    let node = PbNode::decode(block).ok()?;
    let message = UnixfsData::decode(&node.data?).ok()?;
    let is_file = matches!(message.kind, UnixfsType::File | UnixfsType::Raw);
    if !is_file || node.links.is_empty() || node.links.len() != message.blocksizes.len() {
        return None;
    }
    let mut start = offset.checked_add(message.data.len() as u64)?;
    let mut children = Vec::with_capacity(node.links.len());
    for (link, len) in node.links.iter().zip(message.blocksizes) {
        let end = start.checked_add(len)?;
        children.push((link.cid, start..end));
        start = end;
    }
    Some(children)
}

#[cfg(test)]
mod tests {
    use muxfs::{cid_of, dag::pb::PbLink};

    use super::*;

    /// A node of ten leaves of 1000 bytes.
    fn node(seed: usize) -> (Cid, Bytes) {
        let mut message = UnixfsData::new(UnixfsType::File);
        message.blocksizes = vec![1000; 10];
        message.filesize = Some(10_000);
        let link = |n: usize| PbLink { cid: leaf(seed, n), name: Some(Bytes::new()), tsize: Some(1000) };
        let node = PbNode { links: (0..10).map(link).collect(), data: Some(message.encode().into()) };
        let block = node.encode();
        (cid_of(Codec::DagPb, &block), block)
    }

    fn leaf(seed: usize, n: usize) -> Cid {
        cid_of(Codec::Raw, &(seed * 10 + n).to_le_bytes())
    }

    #[test]
    fn what_is_known_of_files_is_bounded() {
        let mut files = Files::default();
        for seed in 0..200 {
            let (cid, block) = node(seed);
            for _ in 0..2 {
                files.read(&cid, &(0..u64::MAX));
                files.node(&cid, &cid, &block, 0);
            }
            if seed % 3 == 0 {
                assert!(
                    files.place(&BlockKey::from(&leaf(seed, 9))).is_some_and(|place| place.range == (9000..10_000))
                );
            }
        }
        files.place(&BlockKey::from(&leaf(0, 0)));
        assert_eq!((files.known.len(), files.unread.len(), files.unread_len), (FILE_COUNT_MAX, 0, 0));
        assert_eq!(files.places.len(), FILE_COUNT_MAX * 11, "each with its root");
        // One of more parts than are kept in mind goes on with those that come.
        let file = cid_of(Codec::DagPb, b"long");
        files.read(&file, &(0..u64::MAX));
        for seed in 0..=PLACE_COUNT_MAX / 10 {
            let (cid, block) = node(seed);
            files.node(&file, &cid, &block, seed as u64 * 10_000);
            assert!(files.place(&BlockKey::from(&leaf(seed, 5))).is_some_and(|place| place.wanted().is_some()));
        }
        assert!(files.places.len() <= PLACE_COUNT_MAX);
    }

    #[test]
    fn as_much_is_wanted_as_is_read_in_order() {
        let file = Arc::new(File::new(cid_of(Codec::DagPb, b"")));
        let wanted = |start: u64| Place { file: file.clone(), range: start..start + 1000 }.wanted();
        assert_eq!(wanted(0), None, "nobody reads it");
        file.read(&(100..200));
        assert_eq!(wanted(0), None, "one leaf is asked for by itself");
        file.read(&(5500..7000));
        assert_eq!((wanted(5000), wanted(6000), wanted(7000)), (Some(5500..7000), None, None));
        // The next reads follow it.
        file.read(&(7000..8000));
        assert_eq!(wanted(7000), Some(7000..8500), "once more as much");
        file.read(&(8000..9000));
        assert_eq!(wanted(8000), Some(8000..10_500));
        // Somebody jumps about in a file that another reads whole.
        file.read(&(0..u64::MAX));
        assert_eq!(wanted(20_000), Some(20_000..u64::MAX));
        file.read(&(20_100..20_200));
        assert_eq!((wanted(20_000), wanted(21_000)), (None, Some(21_000..u64::MAX)));
        for _ in 0..FAILURE_COUNT_MAX {
            file.failed();
        }
        assert_eq!(wanted(21_000), None);
    }

    /// A node in the middle of a long file may be of gigabytes: what is before the bytes that are read is not asked for.
    #[test]
    fn of_a_node_no_more_is_wanted_than_is_read() {
        const GIB: u64 = 1 << 30;
        let file = Arc::new(File::new(cid_of(Codec::DagPb, b"")));
        let node = Place { file: file.clone(), range: 4 * GIB..5 * GIB };
        assert_eq!((node.wanted(), node.begins()), (None, 4 * GIB));
        file.read(&(5 * GIB - 100..5 * GIB - 50));
        assert_eq!((node.wanted(), node.begins()), (Some(5 * GIB - 100..5 * GIB - 50), 5 * GIB - 100));
        file.read(&(4 * GIB + 7..u64::MAX));
        assert_eq!((node.wanted(), node.begins()), (Some(4 * GIB + 7..u64::MAX), 4 * GIB + 7));
        file.read(&(GIB..u64::MAX));
        assert_eq!((node.wanted(), node.begins()), (Some(4 * GIB..u64::MAX), 4 * GIB));
    }
}
