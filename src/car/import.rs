//! Taking a CAR into a [`Dag`]: what is below the wanted roots, verified, and nothing that somebody put beside it.
//!
//! A block is kept when something leads to it: a root, or a link of a block that is kept. In a CAR that was written depth
//! first or breadth first each block comes after what leads to it, and goes straight into the store. One that comes
//! before is held in memory until then, up to [`IMPORT_HELD_LEN_MAX`]: so a source fills the memory and the disk with
//! what was asked for and little more. A file that was written the other way round is better read through an
//! [`Archive`](super::Archive), which gives it in order.

use std::{
    collections::{HashMap, HashSet, hash_map},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use tokio::io::AsyncRead;

use super::{
    links::Links,
    read::{Reader, Section, at},
};
use crate::{
    Cid, Error, ErrorKind, Result,
    dag::{Dag, DagLease, WalkMemory, print},
};

/// How much of blocks that nothing led to yet is held in memory, in bytes.
pub const IMPORT_HELD_LEN_MAX: usize = 64 << 20;
/// How much the links may take in memory whose blocks did not come yet: some five million of them.
const WANTED_LEN_MAX: usize = 512 << 20;
/// What one of them takes beside its CID, with the place in its table.
const WANTED_ENTRY_LEN: usize = 72;
/// So many blocks are hashed at the same time, and so many are put.
const VERIFY_COUNT: usize = 4;
const PUT_COUNT_MAX: usize = 8;
/// So many missing blocks are named.
pub const MISSING_NAMED_MAX: usize = 32;

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// How much of the CAR was read, in bytes.
    pub offset: u64,
    /// How many blocks were put.
    pub block_count: u64,
}

/// Who is told how far an import is, after each section; what it does is waited for.
pub type OnImportProgress = Arc<dyn Fn(ImportProgress) + Send + Sync>;

/// What of a CAR is taken.
#[derive(Clone, Default)]
pub struct ImportOptions {
    /// The wanted roots; those that the CAR names, where this is empty.
    pub roots: Vec<Cid>,
    /// Takes every block, also what no wanted root leads to: from a source that is trusted not to fill the disk.
    pub all: bool,
    /// Refuses a CAR that lacks something below a wanted root which the store does not have either.
    pub whole: bool,
    /// Who is told how far it is.
    pub on_progress: Option<OnImportProgress>,
}

impl fmt::Debug for ImportOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { roots, all, whole, .. } = self;
        f.debug_struct("ImportOptions")
            .field("roots", roots)
            .field("all", all)
            .field("whole", whole)
            .finish_non_exhaustive()
    }
}

/// What an import did.
#[derive(Debug)]
pub struct ImportReport {
    /// The wanted roots, each with whether everything below it is in the store now: then it can be pinned.
    pub roots: Vec<(Cid, bool)>,
    /// Keep what is below the roots, also what the store had before, until they are pinned: drop them after that.
    pub leases: Vec<DagLease>,
    /// How many blocks were put; the store may have had them.
    pub block_count: u64,
    /// How long those are together, in bytes.
    pub len: u64,
    /// How many blocks were left out, because no wanted root leads to them or they came before.
    pub passed_count: u64,
    /// How many blocks below the wanted roots neither came nor are in the store.
    pub missing_count: u64,
    /// The first of those, [`MISSING_NAMED_MAX`] at most.
    pub missing: Vec<Cid>,
    /// How many blocks below the wanted roots are not what their codec says, so that what they lead to is not known.
    pub unreadable_count: u64,
}

impl ImportReport {
    /// Whether everything below every wanted root is in the store.
    pub fn is_whole(&self) -> bool {
        self.missing_count == 0 && self.unreadable_count == 0
    }
}

/// Puts the blocks of a CAR, each verified; durable when it returns.
///
/// Nothing is pinned by it. What it puts, and what the store has below the roots, is safe from collection for as long as the
/// report lives: pin the roots that are whole before it is dropped. A root that is not whole must not be pinned: a collection
/// refuses to guess what belongs to it. Repeatable.
///
/// ```
/// # use std::sync::Arc;
/// # use muxfs::{Codec, block::Mem, car, dag::{Dag, DagOptions}};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
/// let cid = muxfs::cid_of(Codec::Raw, b"hello");
/// let mut writer = car::Writer::new(Vec::new(), &[cid]).await?;
/// writer.write(&cid, b"hello").await?;
/// let bytes = writer.finish().await?;
///
/// let report = car::import(&dag, bytes.as_slice(), &car::ImportOptions::default()).await?;
/// assert_eq!((report.roots.as_slice(), report.block_count), ([(cid, true)].as_slice(), 1));
/// assert_eq!(dag.get_block(&cid).await?, "hello");
/// # Ok::<(), muxfs::Error>(()) }).unwrap();
/// ```
///
/// # Errors
/// As [`Reader::next`], naming the place: what came before it was put, without a root. `InvalidArgument` where no roots
/// are named, by the options or the CAR, and not all is taken; `TooLarge` past [`IMPORT_HELD_LEN_MAX`]; `NotFound` where
/// it is to be whole and is not; those of [`BlockStore::put`](crate::BlockStore::put).
pub async fn import(dag: &Dag, source: impl AsyncRead + Send + Unpin, options: &ImportOptions) -> Result<ImportReport> {
    let _session = dag.begin_write();
    let reader = Reader::open(source).await?;
    let roots = if options.roots.is_empty() { reader.roots() } else { &options.roots }.to_vec();
    if roots.is_empty() && !options.all {
        return Err(Error::new(ErrorKind::InvalidArgument, "car.import")
            .because("the CAR names no roots: name those that are wanted, or take all"));
    }
    let mut import = Import::new(dag, &roots, options.all);
    let hashing = reader.hashing();
    let sections = stream::try_unfold(reader, |mut reader| async move {
        let section = reader.next_unverified().await?;
        Ok::<_, Error>(section.map(|section| ((section, reader.offset()), reader)))
    });
    let verified = sections.map(|section| async {
        let (section, offset) = section?;
        let verified = hashing.verify(&section.cid, &section.block).await;
        verified.map_err(|error| at(section.offset)(error.at(section.cid)))?;
        Ok::<_, Error>((section, offset))
    });
    let mut verified = std::pin::pin!(verified.buffered(VERIFY_COUNT));
    while let Some((section, offset)) = verified.try_next().await? {
        let begin = section.offset;
        import.section(section).await.map_err(at(begin))?;
        if let Some(tell) = &options.on_progress {
            tell(ImportProgress { offset, block_count: import.block_count });
        }
    }
    let report = import.finish(&roots).await?;
    if options.whole && !report.is_whole() {
        let (missing, unreadable) = (report.missing_count, report.unreadable_count);
        let first = report.missing.first().map(|cid| format!(", the first is {cid}")).unwrap_or_default();
        return Err(Error::new(ErrorKind::NotFound, "car.import")
            .because(format!("{missing} blocks are missing and {unreadable} are not readable{first}")));
    }
    Ok(report)
}

/// A block that came before what leads to it.
struct Held {
    cid: Cid,
    block: Bytes,
}

struct Import<'a> {
    dag: &'a Dag,
    all: bool,
    /// What was put.
    put: HashSet<[u8; 16]>,
    /// What was led to and did not come yet.
    wanted: HashMap<[u8; 16], Box<[u8]>>,
    wanted_len: usize,
    held: HashMap<[u8; 16], Held>,
    held_len: usize,
    putting: FuturesUnordered<BoxFuture<'a, Result<()>>>,
    block_count: u64,
    len: u64,
    passed_count: u64,
    links: Links,
}

impl<'a> Import<'a> {
    fn new(dag: &'a Dag, roots: &[Cid], all: bool) -> Self {
        let (put, wanted, held, putting) = (HashSet::new(), HashMap::new(), HashMap::new(), FuturesUnordered::new());
        let (block_count, len, passed_count) = (0, 0, 0);
        let mut import = Self {
            dag,
            all,
            put,
            wanted,
            wanted_len: 0,
            held,
            held_len: 0,
            putting,
            block_count,
            len,
            passed_count,
            links: Links::default(),
        };
        if !all {
            let roots = import.links.through(roots.to_vec());
            // Nothing is held yet.
            import.want(roots);
        }
        import
    }

    async fn section(&mut self, Section { cid, block, .. }: Section) -> Result<()> {
        if cid.identity().is_some() {
            return Ok(());
        }
        let print = print(&cid);
        if self.put.contains(&print) || self.held.contains_key(&print) {
            self.passed_count += 1;
            return Ok(());
        }
        if self.all {
            return self.put(print, cid, block).await;
        }
        if !self.wanted.contains_key(&print) {
            self.held_len += block.len() + WANTED_ENTRY_LEN;
            if self.held_len > IMPORT_HELD_LEN_MAX {
                let why = "too many blocks come before anything leads to them: take them from the file itself, not from a pipe, or take all";
                return Err(Error::new(ErrorKind::TooLarge, "car.import").because(why));
            }
            self.held.insert(print, Held { cid, block });
            return Ok(());
        }
        let mut next = vec![(print, Held { cid, block })];
        while let Some((print, Held { cid, block })) = next.pop() {
            if let Some(wanted) = self.wanted.remove(&print) {
                self.wanted_len -= wanted.len() + WANTED_ENTRY_LEN;
            }
            let links = self.links.of(&cid, &block);
            self.put(print, cid, block).await?;
            next.extend(self.want(links));
            if self.wanted_len > WANTED_LEN_MAX {
                let why = "too many links lead to what did not come yet: take all, where the source is trusted";
                return Err(Error::new(ErrorKind::TooLarge, "car.import").because(why));
            }
        }
        Ok(())
    }

    /// Puts a block, together with a few others.
    async fn put(&mut self, print: [u8; 16], cid: Cid, block: Bytes) -> Result<()> {
        self.put.insert(print);
        self.block_count += 1;
        self.len += block.len() as u64;
        let dag = self.dag;
        self.putting.push(Box::pin(async move { dag.put_hashed(&cid, block).await }));
        while self.putting.len() >= PUT_COUNT_MAX {
            self.putting.try_next().await?;
        }
        Ok(())
    }

    /// Notes that something leads to these blocks, and gives those of them that were held.
    fn want(&mut self, links: Vec<Cid>) -> Vec<([u8; 16], Held)> {
        let mut found = Vec::new();
        for link in links {
            let print = print(&link);
            if self.put.contains(&print) {
                continue;
            }
            if let Some(held) = self.held.remove(&print) {
                self.held_len -= held.block.len() + WANTED_ENTRY_LEN;
                found.push((print, held));
            } else if let hash_map::Entry::Vacant(entry) = self.wanted.entry(print) {
                let cid: Box<[u8]> = link.to_bytes().into();
                self.wanted_len += cid.len() + WANTED_ENTRY_LEN;
                entry.insert(cid);
            }
        }
        found
    }

    /// Looks what is missing, and makes everything durable.
    async fn finish(mut self, roots: &[Cid]) -> Result<ImportReport> {
        while self.putting.try_next().await?.is_some() {}
        // What the store had nobody else may keep: a collection that is under way takes none of it from here on.
        let leases: Vec<_> = roots.iter().map(|root| self.dag.lease(root)).collect();
        if let Some(lease) = leases.first() {
            lease.settled().await;
        }
        let mut report = ImportReport {
            roots: Vec::new(),
            leases,
            block_count: self.block_count,
            len: self.len,
            passed_count: self.passed_count + self.held.len() as u64,
            missing_count: 0,
            missing: Vec::new(),
            unreadable_count: self.links.unreadable_count,
        };
        // The store may have had what did not come; then what is below that counts too.
        let mut memory = WalkMemory::default();
        let unsure: Vec<Cid> = if self.all {
            report.unreadable_count = 0;
            roots.to_vec()
        } else {
            self.wanted.values().map(|cid| Cid::from_bytes(cid)).collect::<Result<_>>()?
        };
        for cid in &unsure {
            let mut visits = self.dag.walk_on(cid, &mut memory);
            while let Some(visit) = visits.next().await {
                match visit.error.map(|error| (error.kind(), error)) {
                    None => {}
                    Some((ErrorKind::NotFound, _)) => {
                        report.missing_count += 1;
                        if report.missing.len() < MISSING_NAMED_MAX {
                            report.missing.push(visit.cid);
                        }
                    }
                    Some((ErrorKind::Corrupt, _)) => report.unreadable_count += 1,
                    Some((_, error)) => return Err(error),
                }
            }
        }
        for root in roots {
            let is_whole = report.is_whole() || (roots.len() > 1 && self.dag.check_whole(root).await.is_ok());
            report.roots.push((*root, is_whole));
        }
        // Also what others put meanwhile and the walk met.
        self.dag.flush().await?;
        Ok(report)
    }
}

#[cfg(test)]
mod tests;
