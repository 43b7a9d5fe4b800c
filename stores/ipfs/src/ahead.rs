//! Blocks that come before they are asked for: in one CAR what would else be a request for each.
//!
//! ```text
//! expect(path a/b/c) .. get(root) --> GET /ipfs/ROOT/a/b/c?format=car&dag-scope=block
//! get(a), get(b), get(c) ------------.       |
//!                                    '-- each verified
//! expect(bytes of a file) .. get(leaf 3) --> GET /ipfs/FILE?format=car&dag-scope=entity&entity-bytes=FROM:TO
//! get(leaf 4), get(leaf 5) -----------.           |
//!                                     '-- each verified, at most a window of them in memory
//! ```
//!
//! Sits in [`Sources`](crate::Sources), before the requests for single blocks, which are what is left wherever this does not
//! work: a gateway that refuses, breaks off, stands still, or sends something else. Whoever reads tells what
//! ([`BlockStore::expect`](muxfs::BlockStore::expect)); nothing is asked for before the first block of it is missing. Here is
//! what was told and what comes; how it comes is in [`coming`], and from whom in [`reading`]. Spec: spec/sources.md #read-ahead.

mod coming;
mod files;
mod reading;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use muxfs::{
    BlockKey, Cid, Codec, Name,
    block::{Checked, Expected},
};

pub(crate) use self::coming::Coming;
use self::files::Files;
use crate::health::Source;

/// So many CARs come at once, of files and of paths. The one that was used longest ago goes for another.
const CAR_COUNT_MAX: usize = 6;
/// So many paths are known that are walked, those that were begun last.
const PATH_COUNT_MAX: usize = 16;
/// A path longer than this is walked step by step, in bytes.
const PATH_LEN_MAX: usize = 2 << 10;

/// What is about to be read, and what comes of it.
#[derive(Debug, Default)]
pub(crate) struct Ahead(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    files: Files,
    /// The one that was begun last is the last.
    paths: VecDeque<(BlockKey, Cid, Vec<Name>)>,
    /// The one that was used last is the last.
    coming: Vec<Arc<Coming>>,
}

impl Ahead {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what is about to be read.
    pub(crate) fn expect(&self, expected: &Expected<'_>) {
        match expected {
            Expected::Path { root, parts } => self.known().expect_path(root, parts),
            Expected::File { file, range } => self.known().files.read(file, range),
            Expected::Node { file, node, block, offset } => self.known().files.node(file, node, block, *offset),
        }
    }

    /// What a block comes in; `None` where it is to be asked for by itself. `source` is who is asked for a CAR now.
    pub(crate) fn find(&self, key: &BlockKey, source: impl FnOnce() -> Option<Arc<Source>>) -> Option<Awaited> {
        let mut known = self.known();
        known.coming.retain(|coming| !coming.is_done());
        let place = known.files.place(key);
        let offset = place.as_ref().filter(|place| !place.is_root()).map(|place| place.range.start);
        let at = known.coming.iter().position(|coming| coming.join(key, place.as_ref()));
        let coming = match (at, place) {
            (Some(at), _) => known.coming.remove(at),
            (None, Some(place)) => {
                let range = place.wanted()?;
                Coming::of_file(&place, range, source()?)
            }
            (None, None) => {
                let at = known.paths.iter().position(|(root, ..)| root == key)?;
                let (_, root, parts) = known.paths.remove(at)?;
                let source = source()?;
                if !source.gateway.as_ref().is_some_and(|gateway| gateway.gives_paths()) {
                    return None;
                }
                Coming::of_path(root, parts, source)
            }
        };
        if known.coming.len() >= CAR_COUNT_MAX {
            known.coming.remove(0);
        }
        known.coming.push(coming.clone());
        Some(Awaited { coming, key: key.clone(), offset })
    }
}

/// A block that comes in a CAR.
#[derive(Debug)]
pub(crate) struct Awaited {
    pub(crate) coming: Arc<Coming>,
    key: BlockKey,
    /// Where it lies in its file, if it is a part of one.
    offset: Option<u64>,
}

impl Awaited {
    /// The block, once it is there; `None` where it does not come.
    pub(crate) async fn block(&self) -> Option<Checked> {
        self.coming.wait(&self.key, self.offset).await
    }
}

impl Known {
    fn expect_path(&mut self, root: &Cid, parts: &[Name]) {
        let len: usize = parts.iter().map(|part| part.as_bytes().len() + 1).sum();
        // In dag-json a link is text.
        let may_lead_on = matches!(root.codec(), Some(Codec::DagPb | Codec::DagCbor));
        if parts.is_empty() || len > PATH_LEN_MAX || !may_lead_on {
            return;
        }
        let key = BlockKey::from(root);
        self.paths.retain(|(root, ..)| *root != key);
        if self.paths.len() >= PATH_COUNT_MAX {
            self.paths.pop_front();
        }
        self.paths.push_back((key, *root, parts.to_vec()));
    }
}
