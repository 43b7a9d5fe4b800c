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

mod came;
mod coming;
mod files;
mod reading;
mod tree;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use muxfs::{
    BlockKey, Cid, Codec, Name,
    block::{Checked, Expected},
};

use self::files::{Files, Place};
pub(crate) use self::{came::STALL_MAX, coming::Coming, tree::tree};
use crate::{cars::Of, health::Source};

/// So many CARs come at once, of files and of paths. Another takes the place of one that came to its end or that nobody reads; who
/// reads is not disturbed by who comes later.
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
    pub(crate) fn find(&self, key: &BlockKey, source: impl FnOnce(Of) -> Option<Arc<Source>>) -> Option<Awaited> {
        let mut known = self.known();
        known.coming.retain(|coming| !coming.is_done());
        let place = known.files.place(key);
        let offset = place.as_ref().filter(|place| !place.is_root()).map(|place| place.range.start);
        let at = known.coming.iter().position(|coming| coming.join(key, place.as_ref()));
        let coming = match at {
            Some(at) => known.coming.remove(at),
            None => known.begin(key, place.as_ref(), source)?,
        };
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
    /// Asks for a CAR that a block comes in, if there is room for one more.
    fn begin(
        &mut self,
        key: &BlockKey,
        place: Option<&Place>,
        source: impl FnOnce(Of) -> Option<Arc<Source>>,
    ) -> Option<Arc<Coming>> {
        if let Some(place) = place {
            let range = place.wanted()?;
            // What is read of the file comes without the root, where that was there before.
            if place.is_root() && self.coming.iter().any(|coming| coming.brings(&place.file, range.start)) {
                return None;
            }
            let source = source(Of::File)?;
            return self.make_room().then(|| Coming::of_file(place, range, source));
        }
        let at = self.paths.iter().position(|(root, ..)| root == key)?;
        let (_, root, parts) = self.paths.remove(at)?;
        let source = source(Of::Path)?;
        self.make_room().then(|| Coming::of_path(root, parts, source))
    }

    /// Makes room for one CAR more; whether there is.
    fn make_room(&mut self) -> bool {
        if self.coming.len() < CAR_COUNT_MAX {
            return true;
        }
        let over = self.coming.iter().position(|coming| coming.is_over());
        let spare = over.or_else(|| self.coming.iter().position(|coming| coming.is_idle()));
        spare.map(|at| self.coming.remove(at)).is_some()
    }

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{future::FutureExt as _, poll};
    use muxfs::{block::Mem, cid_of};
    use tokio::time::advance;

    use super::*;
    use crate::{Gateway, HttpOptions};

    fn file(n: usize) -> Cid {
        cid_of(Codec::DagPb, &n.to_le_bytes())
    }

    /// Of seven who read at once each once took the place of another, so that none of them had a CAR for long.
    #[tokio::test(start_paused = true)]
    async fn who_reads_keeps_a_place_and_who_does_not_gives_it() {
        // It never answers.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("an address");
        let gateway = Arc::new(Gateway::new(url, HttpOptions::default()));
        let source = Arc::new(Source::new(Arc::new(Mem::default()), Some(gateway)));
        let ahead = Ahead::default();
        let find = |n: usize| {
            ahead.expect(&Expected::File { file: &file(n), range: 0..u64::MAX });
            ahead.find(&BlockKey::from(&file(n)), |_| Some(source.clone()))
        };
        let mut waiting = Vec::new();
        for n in 0..CAR_COUNT_MAX {
            let awaited = find(n).expect("there is room");
            let mut block = async move { awaited.block().await }.boxed();
            assert!(poll!(&mut block).is_pending());
            waiting.push(block);
        }
        advance(Duration::from_secs(5)).await;
        assert!(find(100).is_none(), "all of them wait");
        // One has what it waited for.
        drop(waiting.remove(3));
        assert!(find(100).is_none(), "it reads on");
        advance(Duration::from_secs(1)).await;
        assert!(find(100).is_some_and(|awaited| awaited.coming.source().gateway.is_some()), "it read no more");
        assert!(find(101).is_none());
        assert_eq!(ahead.known().coming.len(), CAR_COUNT_MAX);
        for n in (0..CAR_COUNT_MAX).filter(|n| *n != 3) {
            assert!(find(n).is_some(), "{n} has its place");
        }
        // One that came to its end gives its place at once.
        ahead.known().coming[4].give_up(Duration::ZERO, false);
        assert!(find(101).is_some());
    }
}
