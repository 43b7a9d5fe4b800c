//! Looking through a CAR without a store: whether every block is its CID's, and what it links to and does not have.

use std::collections::{HashMap, HashSet};

use tokio::io::AsyncRead;

use super::{
    import::{ImportProgress, MISSING_NAMED_MAX, OnImportProgress},
    links::Links,
    read::{Reader, Section},
};
use crate::{Cid, Result, dag::print};

/// What a CAR holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// 1 or 2.
    pub version: u8,
    /// Its roots, each with whether its block is there.
    pub roots: Vec<(Cid, bool)>,
    /// How many different blocks it has.
    pub block_count: u64,
    /// How long those are together, in bytes.
    pub len: u64,
    /// How many sections hold a block that came before.
    pub duplicate_count: u64,
    /// How many blocks are linked, or are roots, and are not there: of a part of a DAG that is no fault.
    pub missing_count: u64,
    /// Some of those, [`MISSING_NAMED_MAX`] at most.
    pub missing: Vec<Cid>,
    /// How many blocks are not what their codec says, so that what they link to is not known.
    pub unreadable_count: u64,
}

/// Reads a CAR to its end. Memory: 16 bytes and some table for each block, and about a hundred for each link whose block
/// did not come yet.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let report = muxfs::car::check(&b"\x11\xa2eroots\x80gversion\x01"[..], None).await?;
/// assert_eq!((report.block_count, report.missing_count), (0, 0));
/// # Ok::<(), muxfs::Error>(()) }).unwrap();
/// ```
///
/// # Errors
/// As [`Reader::next`]: that of the first section that is wrong, naming the place.
pub async fn check(source: impl AsyncRead + Unpin, on_progress: Option<&OnImportProgress>) -> Result<CheckReport> {
    let mut reader = Reader::open(source).await?;
    let mut seen = Seen::default();
    let roots = seen.links.through(reader.roots().to_vec());
    seen.want(roots);
    let (mut block_count, mut len, mut duplicate_count) = (0, 0, 0);
    while let Some(section) = reader.next().await? {
        if seen.block(&section) {
            block_count += 1;
            len += section.block.len() as u64;
        } else {
            duplicate_count += 1;
        }
        if let Some(tell) = on_progress {
            tell(ImportProgress { offset: reader.offset(), block_count });
        }
    }
    let is_there = |root: &Cid| root.identity().is_some() || seen.there.contains(&print(root));
    Ok(CheckReport {
        version: reader.version(),
        roots: reader.roots().iter().map(|root| (*root, is_there(root))).collect(),
        block_count,
        len,
        duplicate_count,
        missing_count: seen.missing.len() as u64,
        missing: seen
            .missing
            .values()
            .take(MISSING_NAMED_MAX)
            .map(|cid| Cid::from_bytes(cid))
            .collect::<Result<_>>()?,
        unreadable_count: seen.links.unreadable_count,
    })
}

#[derive(Default)]
struct Seen {
    there: HashSet<[u8; 16]>,
    /// What is linked and did not come yet.
    missing: HashMap<[u8; 16], Box<[u8]>>,
    links: Links,
}

impl Seen {
    /// Whether the block is new.
    fn block(&mut self, Section { cid, block, .. }: &Section) -> bool {
        let print = print(cid);
        let is_new = self.there.insert(print);
        if is_new {
            self.missing.remove(&print);
            let links = self.links.of(cid, block);
            self.want(links);
        }
        is_new
    }

    fn want(&mut self, links: Vec<Cid>) {
        for link in links {
            let print = print(&link);
            if !self.there.contains(&print) {
                self.missing.entry(print).or_insert_with(|| link.to_bytes().into());
            }
        }
    }
}
