//! Whether a tree fits together: names, inodes and contents, each against the others.
//!
//! Reads and never changes. First the commit that the head names is checked, with its content; then, where something
//! changed since, what is seen now, at one moment, whatever others do meanwhile. One bad thing hides no other: what cannot
//! be read is a fault, and the check goes on. Spec: spec/tree.md #checking.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    fmt,
    sync::Arc,
};

use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use super::{
    Tree,
    attrs::{self, AttrNode, Inode, NodeCache, NodeId},
    inode::{Meta, NameEntry},
    layer::Layer,
    sight::{Halt, Sight, Try, pages_of},
    state::{Base, ROOT, Reading},
};
use crate::{
    Cid, Error, ErrorKind, FileKind, Name, Result,
    block::Nowhere,
    dag::{Dag, DagLease, DagOptions, Entry},
    rank::Rank,
    vfs::Ino,
};

/// How much of the attribute tree is held in memory, in bytes.
const CACHE_LEN_MAX: usize = 16 << 20;
/// So many entries of a directory are looked at together.
const PAGE_COUNT: usize = 1024;
/// After so many inodes it is told how far the check is.
const PROGRESS_COUNT: u64 = 4096;

/// One thing that [`Tree::check`] has to say.
#[derive(Debug)]
pub enum Checked {
    /// So many inodes were looked at, of about so many.
    Progress {
        /// How many were.
        inode_count: u64,
        /// How many there are in all.
        inode_count_max: u64,
    },
    /// Something does not fit, or cannot be read: `Corrupt`, or what reading met. Its path says which inode, or which block.
    Fault(Error),
    /// The check ended; always the last.
    Done(CheckReport),
}

/// What a check went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// How many inodes: those of the head, and again those seen now, where something changed since.
    pub inode_count: u64,
    /// How many names of directories, counted like the inodes.
    pub name_count: u64,
    /// How many directories of the head list what they have to, in another form than this program gives them: they came
    /// from elsewhere.
    pub foreign_dir_count: u64,
    /// How many faults there were.
    pub fault_count: u64,
}

impl Tree {
    /// Checks that the tree fits together: each name has an inode and each inode exactly the names that lead to it; link
    /// counts, entry counts and totals are right; numbers are below the next one; every directory is below the root; no
    /// nameless node is kept but those that are leased; sizes are those of the contents; and each committed directory's
    /// content is what its names make, so that the root of the commit is that of an import.
    ///
    /// Reads the whole attribute tree, the blocks of directories and symlinks that have another form than expected, and
    /// the topmost block of each file; what is below is for [`Dag::walk`]. Changes nothing; others read, write and commit
    /// meanwhile, and what is checked stays as it was at the call. Memory: 16 MiB, some 20 bytes for a directory, the
    /// names of the directory that is looked at, and a copy of what changed since the last commit.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use muxfs::{Name, block, dag::{Dag, DagOptions}, heads::MemHeads, media::MemMedia, testing};
    /// use futures_util::StreamExt;
    /// use muxfs::tree::{Checked, Tree, TreeOptions};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let dag = Dag::new(Arc::new(block::Mem::default()), DagOptions::default());
    /// # let options = TreeOptions::new(Name::new(b"main")?, testing::env());
    /// # let tree = Tree::open(dag, Arc::new(MemMedia::default()), Arc::new(MemHeads::default()), options).await?;
    /// let mut found = tree.check();
    /// while let Some(found) = found.next().await {
    ///     match found {
    ///         Checked::Progress { .. } => {}
    ///         Checked::Fault(error) => panic!("{error:#}"),
    ///         Checked::Done(report) => assert_eq!(report.inode_count, 1),
    ///     }
    /// }
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    pub fn check(&self) -> BoxStream<'static, Checked> {
        let check = Check::begin(self);
        stream::unfold(check, |mut check| async { check.next().await.map(|found| (found, check)) }).boxed()
    }
}

/// What stands and is counted, at one moment.
struct Stand {
    base: Base,
    layers: [Option<Arc<Layer>>; 3],
    /// Nodes without a name that somebody leases.
    leased: HashSet<Ino>,
    next_ino: u64,
    inode_count: u64,
    used: u64,
    orphan_count: u64,
}

impl Stand {
    fn of(tree: &Tree) -> Self {
        let state = tree.shared.lock();
        let layers = [Some(Arc::new(state.active.clone())), state.frozen.clone(), Some(state.orphans.clone())];
        let nameless = layers.iter().flatten().flat_map(|layer| &layer.nodes).filter(|(_, node)| node.meta.nlink == 0);
        let leased = nameless.map(|(ino, _)| *ino).filter(|ino| state.leases.contains_key(ino)).collect();
        Self {
            base: state.base.clone(),
            leased,
            next_ino: state.next_ino,
            inode_count: state.inode_count,
            used: state.used,
            orphan_count: state.orphan_count,
            layers,
        }
    }

    /// Whether something changed since the commit.
    fn is_changed(&self) -> bool {
        self.layers.iter().flatten().any(|layer| !layer.nodes.is_empty() || !layer.names.is_empty())
    }

    /// The committed state alone.
    fn committed(&self) -> Self {
        let attrs = &self.base.attrs;
        Self {
            layers: [None, None, None],
            leased: HashSet::new(),
            next_ino: attrs.next_ino(),
            inode_count: attrs.inode_count(),
            used: attrs.used(),
            orphan_count: 0,
            base: self.base.clone(),
        }
    }
}

/// What is counted while a state is gone through.
#[derive(Default)]
struct Counts {
    seen: u64,
    inodes: u64,
    used: u64,
    orphans: u64,
    /// Directories that are known to be below the root, or were told not to be.
    placed: HashSet<Ino>,
}

struct Check {
    dag: Dag,
    /// Makes directories, to no place.
    scratch: Dag,
    /// What is being checked.
    stand: Stand,
    /// What is checked after it.
    later: Option<Stand>,
    /// Whether it is the committed state.
    committed: bool,
    inodes: BoxStream<'static, Result<(Ino, Option<Arc<Inode>>)>>,
    counts: Counts,
    cache: NodeCache,
    found: VecDeque<Checked>,
    report: CheckReport,
    done: bool,
    /// So that no collection takes what is checked.
    _lease: DagLease,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("report", &self.report).finish_non_exhaustive()
    }
}

impl Check {
    fn begin(tree: &Tree) -> Self {
        let now = Stand::of(tree);
        let dag = tree.dag().clone();
        let params = now.base.commit.profile;
        let (committed, later) = (now.committed(), now.is_changed().then_some(now));
        Self {
            // It links to the content as well.
            _lease: dag.lease(&committed.base.attrs.cid()),
            scratch: Dag::new(Arc::new(Nowhere), DagOptions { params, verified_len_max: 0 }),
            inodes: attrs::inodes(&dag, &committed.base.attrs).map_ok(|(ino, inode)| (ino, Some(inode))).boxed(),
            stand: committed,
            later,
            committed: true,
            counts: Counts::default(),
            cache: NodeCache::new(CACHE_LEN_MAX),
            found: VecDeque::new(),
            report: CheckReport::default(),
            done: false,
            dag,
        }
    }

    async fn next(&mut self) -> Option<Checked> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Some(found);
            }
            if self.done {
                return None;
            }
            match self.inodes.next().await {
                Some(Ok((ino, inode))) => self.inode(ino, inode).await,
                Some(Err(error)) => self.fault(error),
                None => self.end_of_state().await,
            }
        }
    }

    fn fault(&mut self, error: Error) {
        self.report.fault_count += 1;
        self.found.push_back(Checked::Fault(error));
    }

    /// Tells that an inode is not as it has to be.
    fn wrong(&mut self, ino: Ino, why: impl Into<String>) {
        let since = if self.committed { "" } else { ", as changed since the last commit" };
        let error = Error::new(ErrorKind::Corrupt, "tree.check").at(format_args!("inode {}{since}", ino.0));
        self.fault(error.because(why.into()));
    }

    /// What was counted against what the tree says, and on to the next state.
    async fn end_of_state(&mut self) {
        let Counts { inodes, used, orphans, .. } = std::mem::take(&mut self.counts);
        let stand = &self.stand;
        let totals = [
            ("inodes", inodes, stand.inode_count),
            ("bytes taken by files", used, stand.used),
            ("nameless nodes", orphans, stand.orphan_count),
        ];
        for (what, counted, said) in totals {
            if counted != said {
                self.wrong(ROOT, format!("there are {counted} {what}, and the tree says {said}"));
            }
        }
        let root = self.stand.base.commit.root;
        if self.committed {
            match self.look(|sight| sight.base(ROOT)).await {
                Ok(Some(inode)) if inode.content.is_some_and(|link| link.cid == root) => {}
                Ok(_) => {
                    let why = format!("the commit's root, {root}, is not the content of the root directory");
                    self.wrong(ROOT, why);
                }
                Err(error) => self.fault(error),
            }
        }
        if let Some(now) = self.later.take() {
            self.inodes = all_inodes(&self.dag, &now);
            self.stand = now;
            self.committed = false;
        } else {
            self.done = true;
            self.found.push_back(Checked::Done(self.report));
        }
    }

    /// Looks at the state, and loads what that needs.
    async fn look<T: Send>(&mut self, mut look: impl FnMut(&mut Sight<'_>) -> Try<T> + Send) -> Result<T> {
        let mut held: HashMap<NodeId, Arc<AttrNode>> = HashMap::new();
        loop {
            let missing = {
                let mut reading = Reading { held: &held, cache: &mut self.cache };
                let [active, frozen, orphans] = &self.stand.layers;
                let layers = [None, active.as_deref(), frozen.as_deref(), orphans.as_deref()];
                match look(&mut Sight { layers, base: &self.stand.base.attrs, nodes: &mut reading, seen: None }) {
                    Ok(value) => return Ok(value),
                    Err(Halt::Error(error)) => return Err(error),
                    Err(Halt::NoNumber | Halt::Undecided) => return Err(Error::new(ErrorKind::Internal, "tree.check")),
                    Err(Halt::Missing(ids)) => ids,
                }
            };
            for id in missing {
                let node = attrs::load(&self.dag, id).await?;
                self.cache.insert(id, Arc::clone(&node));
                held.insert(id, node);
            }
        }
    }

    async fn inode(&mut self, ino: Ino, inode: Option<Arc<Inode>>) {
        self.counts.seen += 1;
        if self.counts.seen.is_multiple_of(PROGRESS_COUNT) {
            let (inode_count, inode_count_max) = (self.counts.seen, self.stand.inode_count.max(self.counts.seen));
            self.found.push_back(Checked::Progress { inode_count, inode_count_max });
        }
        if let Err(error) = self.try_inode(ino, inode).await {
            let error = if error.path().is_none() { error.at(format_args!("inode {}", ino.0)) } else { error };
            self.fault(error);
        }
    }

    async fn try_inode(&mut self, ino: Ino, inode: Option<Arc<Inode>>) -> Result<()> {
        if ino.0.get() >= self.stand.next_ino {
            let next = self.stand.next_ino;
            self.wrong(ino, format!("the next number to give is {next}, so nothing can have this one"));
            return Ok(());
        }
        let Some(meta) = self.look(|sight| sight.meta(ino)).await? else { return Ok(()) };
        if meta.nlink == 0 {
            // Of a number that was taken in advance, or of a node that went, only that is known.
            if self.stand.leased.contains(&ino) {
                self.counts.orphans += 1;
            } else if self.committed {
                self.wrong(ino, "it has no name, and was kept");
            }
            return Ok(());
        }
        self.report.inode_count += 1;
        self.counts.inodes += 1;
        self.counts.used = self.counts.used.saturating_add(meta.used);
        self.parents(ino, &meta).await?;
        match meta.kind {
            FileKind::Dir => {
                self.placed(ino).await?;
                let names = self.names(ino, &meta).await?;
                if let (true, Some(inode)) = (self.committed, inode) {
                    self.dir_content(ino, &inode, names).await?;
                }
            }
            FileKind::Symlink => {
                let target = self.look(|sight| sight.target(ino)).await?;
                if target.as_ref().map(|target| target.len() as u64) != Some(meta.size) {
                    self.wrong(ino, format!("the target of the symlink is not {} bytes long", meta.size));
                }
                if let (true, Some(link)) = (self.committed, inode.and_then(|inode| inode.content))
                    && Some(self.dag.read_symlink(&link.cid).await?) != target
                {
                    self.wrong(ino, format!("its content, {}, has another target", link.cid));
                }
            }
            FileKind::File => {
                if let (true, Some(inode)) = (self.committed, inode) {
                    self.file_content(ino, &inode).await?;
                }
            }
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {}
        }
        Ok(())
    }

    /// The names that an inode says it has.
    async fn parents(&mut self, ino: Ino, meta: &Meta) -> Result<()> {
        let parents = self.look(|sight| sight.parents(ino)).await?;
        let wanted = match meta.kind {
            FileKind::Dir => u64::from(ino != ROOT),
            _ => meta.nlink.into(),
        };
        if parents.len() as u64 != wanted {
            self.wrong(ino, format!("it knows of {} names that it has, and has to have {wanted}", parents.len()));
        }
        for (dir, name) in parents {
            let entry = self.look(|sight| sight.entry(dir, &name)).await?;
            match entry {
                Some(entry) if entry.ino == ino => {}
                Some(entry) => {
                    self.wrong(ino, format!("its name {name} in directory {} is that of inode {}", dir.0, entry.ino.0));
                }
                None => self.wrong(ino, format!("directory {} has not its name {name}", dir.0)),
            }
        }
        Ok(())
    }

    /// Climbs from a directory to one that is known to be below the root.
    async fn placed(&mut self, dir: Ino) -> Result<()> {
        let (mut way, mut at) = (BTreeSet::new(), dir);
        while at != ROOT && !self.counts.placed.contains(&at) {
            let above = self.look(|sight| sight.parents(at)).await?.into_iter().next();
            match above {
                Some((above, _)) if way.insert(at) => at = above,
                _ => {
                    self.wrong(dir, "no way leads up from this directory to the root");
                    break;
                }
            }
        }
        self.counts.placed.extend(way);
        Ok(())
    }

    /// Goes through the names of a directory; gives them with their contents, of a committed one.
    async fn names(&mut self, dir: Ino, meta: &Meta) -> Result<Vec<Entry>> {
        let (mut count, mut sub_count, mut listed) = (0, 0, Vec::new());
        let mut from = Rank::from_bits(0);
        while let Some(first) = from {
            let page: Vec<NameEntry> = self.look(|sight| sight.entries(dir, first, PAGE_COUNT)).await?;
            from =
                page.last().filter(|_| page.len() == PAGE_COUNT).and_then(|last| Rank::from_bits(last.rank.bits() + 1));
            for NameEntry { rank, name, ino } in page {
                count += 1;
                if Rank::of(name.as_bytes()).hash_min() != rank.hash_min() {
                    self.wrong(dir, format!("its name {name} is at a place of other names"));
                }
                let child = self.look(|sight| sight.meta(ino)).await?.filter(|meta| meta.nlink > 0);
                let Some(child) = child else {
                    self.wrong(dir, format!("its name {name} leads to inode {}, which is not there", ino.0));
                    continue;
                };
                sub_count += u64::from(child.kind == FileKind::Dir);
                let back = (dir, name);
                if !self.look(|sight| sight.parents(ino)).await?.contains(&back) {
                    self.wrong(dir, format!("its name {} leads to inode {}, which does not know of it", back.1, ino.0));
                }
                if self.committed
                    && let Some(link) = self.look(|sight| sight.base(ino)).await?.and_then(|inode| inode.content)
                {
                    listed.push(Entry { name: back.1, link });
                }
            }
        }
        self.report.name_count += count;
        if meta.entry_count != count {
            self.wrong(dir, format!("it has {count} names, and says {}", meta.entry_count));
        }
        if u64::from(meta.nlink) != 2 + sub_count {
            self.wrong(dir, format!("it has {sub_count} directories in it, and {} links", meta.nlink));
        }
        Ok(listed)
    }

    /// The content of a committed directory: what its names make, or at least what lists the same.
    async fn dir_content(&mut self, dir: Ino, inode: &Inode, names: Vec<Entry>) -> Result<()> {
        let Some(link) = inode.content else { return Ok(()) };
        let entries = stream::iter(names.iter().cloned().map(Ok)).boxed();
        if self.scratch.put_dir(entries).await?.cid == link.cid {
            return Ok(());
        }
        self.report.foreign_dir_count += 1;
        let mut wanted: HashMap<Name, Cid> = names.into_iter().map(|entry| (entry.name, entry.link.cid)).collect();
        let dag = self.dag.clone();
        let mut listed = dag.list(&link.cid, 0);
        while let Some(Entry { name, link: listed }) = listed.try_next().await? {
            match wanted.remove(&name) {
                Some(cid) if cid == listed.cid => {}
                Some(_) => self.wrong(dir, format!("its content, {}, has something else as {name}", link.cid)),
                None => self.wrong(dir, format!("its content, {}, has {name}, and it has not", link.cid)),
            }
        }
        for name in wanted.into_keys() {
            self.wrong(dir, format!("its content, {}, has not {name}, and it has", link.cid));
        }
        Ok(())
    }

    /// The content of a committed file: as long as the file, and as full.
    async fn file_content(&mut self, ino: Ino, inode: &Inode) -> Result<()> {
        let Some(link) = inode.content else { return Ok(()) };
        let Meta { size, used, .. } = inode.meta;
        let node = self.dag.stat(&link.cid).await?;
        if node.kind != FileKind::File || node.size != size {
            self.wrong(ino, format!("it has {size} bytes, and its content, {}, has {}", link.cid, node.size));
        }
        let ranges = self.look(|sight| Ok(inode.data(sight.nodes)?)).await?;
        // One of very many ranges is kept as one without holes, and takes what its pages took.
        let (least, most) = match ranges {
            Some(ranges) => {
                let len = ranges.iter().map(|range| range.end - range.start).sum();
                (len, len)
            }
            None => (0, pages_of(&(0..size)).end),
        };
        if !(least..=most).contains(&used) {
            self.wrong(ino, format!("it says that it takes {used} bytes, and takes {most}"));
        }
        Ok(())
    }
}

/// The inodes of the base that did not change, then those that did.
fn all_inodes(dag: &Dag, stand: &Stand) -> BoxStream<'static, Result<(Ino, Option<Arc<Inode>>)>> {
    let changed: BTreeSet<Ino> = stand.layers.iter().flatten().flat_map(|layer| layer.nodes.keys().copied()).collect();
    let later = changed.clone();
    let base = attrs::inodes(dag, &stand.base.attrs).try_filter_map(move |(ino, inode)| {
        std::future::ready(Ok((!changed.contains(&ino)).then_some((ino, Some(inode)))))
    });
    base.chain(stream::iter(later).map(|ino| Ok((ino, None)))).boxed()
}
