//! Keeping the index: which packs go into a run with the next flush, and which runs are put together.
//!
//! A run is made of what is in the store below: of the directories of packs, and of older runs. Nothing waits for it but the flush
//! that makes it. Spec: spec/vault.md #index.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use muxfs::{ErrorKind, Result};

use crate::{
    flush::After,
    keys::{Keys, PackName},
    open::AHEAD_COUNT,
    pack::{self, Kind},
    runs::{Divider, Entry, Parts, Run, decode, encode},
    vault::{Inner, blocking},
};

/// A run is made when more packs than this are in none: so many names, and some more, a superblock has room for.
const FRESH_COUNT_MAX: usize = if cfg!(test) { 4 } else { 64 };
/// A run is put together with a new one unless it has so many times the packs.
const GROWTH: usize = 4;
/// Runs name at most so many packs that count no more: a superblock has room for as many, if no two of them follow each other.
const STALE_COUNT_MAX: usize = if cfg!(test) { 12 } else { 1500 };

/// The runs of an index.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs {
    pub(crate) runs: Vec<Arc<Run>>,
    /// Packs whose directories could not be read when a run was made: they are not tried again, but by the next opening.
    skipped: BTreeSet<u64>,
}

impl Runs {
    pub(crate) fn new(runs: Vec<Arc<Run>>) -> Self {
        Self { runs, skipped: BTreeSet::new() }
    }

    pub(crate) fn object_count(&self) -> usize {
        self.runs.iter().map(|run| run.objects.len()).sum()
    }

    /// The last pack of each run.
    pub(crate) fn last_objects(&self) -> Vec<PackName> {
        self.runs.iter().filter_map(|run| run.objects.last().copied()).collect()
    }

    /// The packs whose directories are in a run.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.runs.iter().flat_map(|run| run.names.keys().copied())
    }

    pub(crate) fn has(&self, number: u64) -> bool {
        self.runs.iter().any(|run| run.names.contains_key(&number))
    }

    /// The packs that are in no run, and may be in one.
    fn fresh(&self, names: &BTreeMap<u64, PackName>, through: u64, but: &BTreeSet<u64>) -> Vec<u64> {
        let is_fresh = |number: &u64| {
            *number != through && !but.contains(number) && !self.skipped.contains(number) && !self.has(*number)
        };
        names.keys().copied().filter(is_fresh).collect()
    }

    /// The packs that are to be in a new run, and which runs it takes the place of; `None` if all is well as it is.
    fn plan(
        &self,
        names: &BTreeMap<u64, PackName>,
        through: u64,
        but: &BTreeSet<u64>,
    ) -> Option<(Vec<u64>, Vec<usize>)> {
        let fresh = self.fresh(names, through, but);
        let stale_of = |run: &Run| run.names.keys().filter(|number| !names.contains_key(number)).count();
        let counts: Vec<_> = self.runs.iter().map(|run| (run.names.len(), stale_of(run))).collect();
        let mut merged: BTreeSet<usize> = BTreeSet::new();
        // What is mostly of packs that are gone.
        merged.extend((0..counts.len()).filter(|n| counts[*n].1 * 2 >= counts[*n].0));
        let mut stale: usize = counts.iter().map(|(_, stale)| stale).sum();
        let mut most: Vec<usize> = (0..counts.len()).collect();
        most.sort_unstable_by_key(|n| std::cmp::Reverse(counts[*n].1));
        for n in most {
            if stale > STALE_COUNT_MAX {
                merged.insert(n);
            }
            if merged.contains(&n) {
                stale -= counts[n].1;
            }
        }
        if fresh.len() > FRESH_COUNT_MAX {
            let mut len = fresh.len();
            let mut shortest: Vec<usize> = (0..counts.len()).collect();
            shortest.sort_unstable_by_key(|n| counts[*n].0 - counts[*n].1);
            for n in shortest {
                let (all, stale) = counts[n];
                if all - stale > len * GROWTH {
                    break;
                }
                merged.insert(n);
                len += all - stale;
            }
        } else if merged.is_empty() {
            return None;
        }
        Some((fresh, merged.into_iter().collect()))
    }
}

/// What an index is kept for.
pub(crate) struct Indexed<'a> {
    /// What the runs are under that there are.
    pub(crate) keys: Arc<Keys>,
    /// The packs of data that count,
    pub(crate) names: &'a BTreeMap<u64, PackName>,
    /// the last of them,
    pub(crate) through: u64,
    /// and those of which nobody knows what they say.
    pub(crate) but: &'a BTreeSet<u64>,
    pub(crate) epoch: u64,
}

impl Inner {
    /// Puts a run, where it is time, or where those that there are are under an older key; notes what it takes the place of.
    pub(crate) async fn keep_index(
        self: &Arc<Self>,
        runs: &mut Runs,
        kept: Indexed<'_>,
        after: &mut After,
    ) -> Result<()> {
        let Indexed { keys, names, through, but, epoch } = kept;
        let plan = if runs.runs.is_empty() || Arc::ptr_eq(&keys, &self.ring().newest) {
            runs.plan(names, through, but)
        } else {
            Some((runs.fresh(names, through, but), (0..runs.runs.len()).collect()))
        };
        let Some((mut fresh, merged)) = plan else { return Ok(()) };
        let mut entries = BTreeMap::new();
        for n in merged.into_iter().rev() {
            let run = runs.runs.remove(n);
            after.doomed.extend(run.objects.iter().copied());
            let counts = |number: &u64| names.contains_key(number);
            match self.load_run(&keys, run.objects.last().expect("a run is in one pack at least"), through).await {
                Ok((_, read)) => {
                    entries.extend(
                        read.into_iter().filter(|entry| counts(&entry.number)).map(|entry| (entry.number, entry)),
                    );
                }
                // The packs themselves say the same.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    fresh.extend(run.names.keys().copied().filter(counts));
                }
                Err(error) => return Err(error),
            }
        }
        let load = |number: u64| {
            let name = names.get(&number).copied();
            async move {
                let Some(name) = name else { return (number, None) };
                let loaded = self.load_directory(number, &name).await;
                (
                    number,
                    Some(loaded.map(|(trailer, mut directory)| {
                        directory.live = None;
                        Entry { number, name, items_end: trailer.items_end, directory: directory.encode().into() }
                    })),
                )
            }
            .boxed()
        };
        let mut loaded = stream::iter(fresh).map(load).buffer_unordered(AHEAD_COUNT).boxed();
        while let Some((number, loaded)) = loaded.next().await {
            match loaded {
                Some(Ok(entry)) => drop(entries.insert(number, entry)),
                Some(Err(error)) if error.kind() == ErrorKind::Corrupt => {
                    tracing::error!(number, error = format!("{error:#}"), "a pack of the vault is damaged");
                    runs.skipped.insert(number);
                }
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
        drop(loaded);
        if !entries.is_empty() {
            let run = self.put_run(entries, epoch).await?;
            after.kept.extend(run.objects.iter().copied());
            runs.runs.push(Arc::new(run));
        }
        Ok(())
    }

    async fn put_run(self: &Arc<Self>, entries: BTreeMap<u64, Entry>, epoch: u64) -> Result<Run> {
        let names = entries.iter().map(|(number, entry)| (*number, entry.name)).collect();
        let bytes = encode(entries.into_values());
        let (mut divider, mut objects) = (Divider::new(bytes.into(), self.pack_len), Vec::new());
        let mut unnamed = Vec::new();
        loop {
            let (name, inner) = (self.state().draw(&self.place.env), Arc::clone(self));
            let before = unnamed.clone();
            let sealed;
            (divider, sealed) = blocking(move || {
                let filled = divider.next(&inner.shrinker);
                let sealed = filled.map(|filled| {
                    let before = before.into_iter().take(filled.before_count).collect::<Vec<_>>();
                    let is_naming = !before.is_empty();
                    let directory = Parts { parts: filled.parts, before }.encode();
                    let items = filled.items.iter().map(Vec::as_slice);
                    let key = inner.ring().newest.pack(&name);
                    let sealed = pack::seal(&key, inner.pack_len, (Kind::Index, 0, epoch), items, &directory);
                    sealed.map(|sealed| (sealed, is_naming))
                });
                (divider, sealed)
            })
            .await?;
            let Some(sealed) = sealed else { return Ok(Run { objects, names }) };
            let (sealed, is_naming) = sealed?;
            self.put_object(&name, sealed).await?;
            if is_naming {
                unnamed.clear();
            }
            unnamed.push(name);
            objects.push(name);
        }
    }

    /// The run that ends in a pack: the packs that it is in, and what it says.
    ///
    /// # Errors
    /// `Corrupt` where any of it is damaged or gone.
    pub(crate) async fn load_run(
        &self,
        keys: &Keys,
        last: &PackName,
        through: u64,
    ) -> Result<(Vec<PackName>, Vec<Entry>)> {
        let (mut parts, mut objects, mut met) = (Vec::new(), Vec::new(), HashSet::new());
        let mut at = Some(*last);
        while let Some(name) = at {
            let (before, own) = self.load_parts(keys, &name).await?;
            let load = |name: PackName| async move { self.load_parts(keys, &name).await }.boxed();
            let others: Vec<PackName> = before.iter().skip(1).copied().collect();
            let mut loaded = stream::iter(others.clone()).map(load).buffered(AHEAD_COUNT).boxed();
            let mut group = Vec::new();
            while let Some(part) = loaded.next().await {
                group.extend(part?.1);
            }
            drop(loaded);
            group.extend(own);
            parts.push(group);
            objects.extend([name].into_iter().chain(others.into_iter().rev()));
            // None comes twice, whatever they say.
            at = before.first().copied().filter(|first| met.insert(*first));
        }
        objects.reverse();
        let pack_len = self.pack_len;
        blocking(move || {
            parts.reverse();
            let entries = decode(&Bytes::from(parts.concat()), through, pack_len)?;
            Ok((objects, entries))
        })
        .await?
    }
}

#[cfg(test)]
mod tests {
    use muxfs::testing::fault::Dice;

    use super::*;

    fn name(number: u64) -> PackName {
        let mut name = PackName([0; 24]);
        name.0[..8].copy_from_slice(&number.to_le_bytes());
        name
    }

    /// However many packs come and go: there are few runs, each pack is written into one a few times only, what is in none or
    /// counts no more has room in a superblock, and no pack is in two.
    #[test]
    fn runs_are_few_and_are_written_seldom() {
        let (mut runs, mut names, mut dice) = (Runs::default(), BTreeMap::new(), Dice::new(1));
        let (mut written, mut came) = (0, 0);
        for through in 1..1500 {
            names.insert(through, name(through));
            came += 1;
            if dice.roll(3) == 0 {
                let gone = names.keys().nth(dice.roll(names.len())).copied().filter(|gone| *gone < through);
                gone.map(|gone| names.remove(&gone));
            }
            if let Some((mut fresh, merged)) = runs.plan(&names, through, &BTreeSet::new()) {
                for n in merged.into_iter().rev() {
                    fresh.extend(runs.runs.remove(n).names.keys().filter(|number| names.contains_key(number)));
                }
                written += fresh.len();
                let names = fresh.into_iter().map(|number| (number, name(number))).collect();
                runs.runs.push(Arc::new(Run { objects: Vec::new(), names }));
            }
            let all: Vec<u64> = runs.numbers().collect();
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "none is in two");
            assert!(runs.runs.len() <= 8, "{} runs of {} packs", runs.runs.len(), names.len());
            let fresh = names.keys().filter(|number| !runs.has(**number)).count();
            assert!(fresh <= FRESH_COUNT_MAX + 1, "{fresh} packs are in none");
            let stale = all.iter().filter(|number| !names.contains_key(number)).count();
            assert!(stale <= STALE_COUNT_MAX, "{stale} packs count no more");
        }
        assert!(written < came * 30, "{written} directories were written for {came} packs");
    }

    #[test]
    fn what_was_skipped_is_not_tried_each_time() {
        let names: BTreeMap<_, _> = (0..20).map(|number| (number, name(number))).collect();
        let mut runs = Runs::default();
        let (fresh, merged) = runs.plan(&names, 19, &[3].into()).expect("there is much");
        assert!(merged.is_empty() && fresh.len() == 18 && !fresh.contains(&19) && !fresh.contains(&3));
        runs.skipped.extend(fresh);
        assert_eq!(runs.plan(&names, 19, &[3].into()), None);
    }
}
