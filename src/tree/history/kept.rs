//! Which commits a head keeps, and the names that they are listed by.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::sync::OnceCell;

use super::when;
use crate::{
    Cid, ErrorKind, Name, Result,
    dag::Dag,
    rank::Rank,
    tree::{Commit, attrs::Attrs},
};

/// The commits that a head keeps.
#[derive(Default)]
pub(super) struct Kept {
    /// `None` before the first was asked.
    pub(super) head: Option<Cid>,
    pub(super) commits: HashMap<Cid, Arc<Then>>,
    /// In the order of a listing.
    pub(super) entries: Vec<(Rank, Name, Arc<Then>)>,
}

/// A kept commit.
pub(super) struct Then {
    pub(super) cid: Cid,
    pub(super) commit: Arc<Commit>,
    /// Opened when it is first looked into.
    pub(super) attrs: OnceCell<Attrs>,
}

impl Then {
    fn new(cid: Cid, commit: Arc<Commit>) -> Arc<Self> {
        Arc::new(Self { cid, commit, attrs: OnceCell::new() })
    }
}

impl Kept {
    /// Loads what a head keeps; what was kept before is not read again.
    pub(super) async fn load(dag: &Dag, head: Cid, commit: Arc<Commit>, before: &Self) -> Result<Self> {
        let mut commits = HashMap::from([(head, Then::new(head, commit.clone()))]);
        let mut times = vec![head];
        for cid in commit.prev.iter().chain(commit.snapshots.values()) {
            let then = match (commits.get(cid), before.commits.get(cid)) {
                (Some(_), _) => continue,
                (None, Some(then)) => then.clone(),
                (None, None) => match Commit::get(dag, cid).await {
                    Ok(commit) => Then::new(*cid, Arc::new(commit)),
                    // A head may name commits that were not kept.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    // One that is bad hides no other.
                    Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                        tracing::warn!(commit = %cid, %error, "a kept commit cannot be read: the history goes without it");
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            commits.insert(*cid, then);
            times.push(*cid);
        }
        let times = times.iter().filter_map(|cid| commits.get(cid));
        let mut named: BTreeMap<String, Arc<Then>> = BTreeMap::new();
        for (name, then) in when::names(times.map(|then| (then.commit.time, then.cid, then))) {
            named.insert(name, then.clone());
        }
        // Who names a snapshot as another one was made, means the snapshot.
        for (name, cid) in &commit.snapshots {
            if let Some(then) = commits.get(cid) {
                named.insert(name.clone(), then.clone());
            }
        }
        let mut entries: Vec<(Rank, Name, Arc<Then>)> = Vec::with_capacity(named.len());
        for (name, then) in named {
            let Ok(name) = Name::new(name.as_bytes()) else { continue };
            entries.push((Rank::of(name.as_bytes()), name, then));
        }
        entries.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        for at in 1..entries.len() {
            let (before, after) = entries.split_at_mut(at);
            if let (Some((last, ..)), Some((rank, ..))) = (before.last(), after.first_mut())
                && last.hash_min() == rank.hash_min()
            {
                *rank = last.next().unwrap_or(*rank);
            }
        }
        Ok(Self { head: Some(head), commits, entries })
    }

    /// The commit of a name.
    pub(super) fn find(&self, name: &Name) -> Option<&Arc<Then>> {
        let first = Rank::of(name.as_bytes());
        let from = self.entries.partition_point(|(rank, ..)| *rank < first);
        let alike = self.entries.iter().skip(from).take_while(|(rank, ..)| *rank <= first.last());
        alike.map(|(_, kept, then)| (kept, then)).find(|(kept, _)| *kept == name).map(|(_, then)| then)
    }

    /// The head itself.
    pub(super) fn newest(&self) -> Option<&Arc<Then>> {
        self.commits.get(&self.head?)
    }
}
