//! Names that follow a working tree: published again after each commit that changed what they lead to, renewed before their
//! records end, and given to a Kubo node where that is wanted.
//!
//! What follows what stands in files beside the keys, so commands change it while a server runs. One that cannot be
//! published is told once, and tried again every minute. Spec: spec/ipns.md #following.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use muxfs::{
    Cid, Error, ErrorKind, QfsPath, Result,
    ipns::{Record, Records as _},
};
use muxfs_ipfs::NameSources;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    instance::{Instance, env, random_u128},
    names::{Follow, Label, Names},
    sources::names_among,
};

/// How often it is looked whether something was committed, or another name follows.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often all names are looked at, also where nothing happened; more often where a record is not good for long.
const LOOK_AT_ALL_EVERY: Duration = Duration::from_mins(1);
const LOOKS_A_LIFETIME: u32 = 4;
/// A network forgets records: a node is given them so often.
const PUSH_EVERY: Duration = Duration::from_hours(4);

/// Publishes what is followed, until `stop`.
pub(crate) async fn follow(instance: Arc<Instance>, names: Names, stop: CancellationToken) {
    let elsewhere = names_among(Arc::new(names.clone()), instance.name_sources(), &env());
    let mut follower =
        Follower { instance, names, elsewhere, seen: None, told: BTreeMap::new(), pushes: BTreeMap::new() };
    let work = async {
        loop {
            follower.look().await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

struct Follower {
    instance: Arc<Instance>,
    names: Names,
    elsewhere: NameSources,
    /// What was there at the last look at all names, and when the next one is due at the latest.
    seen: Option<(Seen, Instant)>,
    /// What went wrong with a name, to say so once.
    told: BTreeMap<Label, String>,
    pushes: BTreeMap<Label, Push>,
}

/// What tells that there may be something to publish.
#[derive(PartialEq, Eq)]
struct Seen {
    changed: Option<SystemTime>,
    heads: Vec<Cid>,
}

/// A record on its way to a node, or there.
struct Push {
    sequence: u64,
    begun: Instant,
    is_taken: Arc<AtomicBool>,
    task: AbortOnDropHandle<()>,
}

impl Push {
    fn is_due(&self, record: &Record) -> bool {
        let every = if self.is_taken.load(Ordering::Relaxed) { PUSH_EVERY } else { LOOK_AT_ALL_EVERY };
        self.task.is_finished() && (self.sequence != record.sequence() || self.begun.elapsed() >= every)
    }
}

impl Follower {
    async fn look(&mut self) {
        let heads = self.instance.trees().map(|(_, tree)| tree.head().0).collect();
        let seen = Seen { changed: self.names.changed(), heads };
        if self.seen.as_ref().is_some_and(|(before, until)| *before == seen && Instant::now() < *until) {
            return;
        }
        self.seen = Some((seen, Instant::now() + LOOK_AT_ALL_EVERY));
        let follows = match self.names.follows() {
            Ok(follows) => follows,
            Err(error) => return tracing::error!("which names follow what cannot be read: {error:#}"),
        };
        let read = follows.iter().filter_map(|(_, follow)| follow.as_ref().ok());
        let shortest = read.map(|follow| follow.lifetime.0 / LOOKS_A_LIFETIME).min();
        if let (Some(shortest), Some((_, until))) = (shortest, &mut self.seen) {
            *until = (*until).min(Instant::now() + shortest);
        }
        self.pushes.retain(|label, _| follows.iter().any(|(follow, _)| follow == label));
        for (label, follow) in follows {
            let published = match follow {
                Ok(follow) => self.publish(&label, &follow).await.map(|record| (follow, record)),
                Err(error) => Err(error),
            };
            match published {
                Ok((follow, record)) => {
                    self.told.remove(&label);
                    if let Some(record) = record {
                        self.push(&label, &follow, record);
                    }
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    if self.told.get(&label) != Some(&why) {
                        tracing::warn!(%label, "a name does not follow what it is to, and is tried again: {why}");
                        self.told.insert(label, why);
                    }
                }
            }
        }
    }

    /// Publishes a name where it leads elsewhere, or half of its time is over; its newest record, unless it follows something
    /// else by now.
    async fn publish(&self, label: &Label, follow: &Follow) -> Result<Option<Record>> {
        let value = self.value(follow).await?;
        let key = self.names.key(label)?;
        if let Some(known) = self.names.lasting(&key, follow, &value)? {
            return Ok(Some(known));
        }
        let is_first = self.names.record(key.name()).await?.is_none();
        let (seen, failure) = if is_first { self.elsewhere.sequence_elsewhere(key.name()).await } else { (None, None) };
        if let Some(failure) = failure {
            tracing::warn!(
                %label,
                "not every source tells which record of a name it knows; who has one with a higher number goes on with that: {failure:#}"
            );
        }
        self.names.publish_followed(label, follow, seen, self.value(follow)).await
    }

    /// Where the name is to lead: to what the last commit has at the path.
    async fn value(&self, follow: &Follow) -> Result<String> {
        let path: QfsPath = follow.path.parse()?;
        let mount = self.instance.mux.mount_at(path.prefix)?;
        let tree = mount.as_tree().ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "names.follow").at(&path).because("it is in no working tree")
        })?;
        let found = tree.dag().resolve(&tree.head().1.root, &path.parts).await;
        Ok(format!("/ipfs/{}", found.map_err(|error| error.at(&path))?.cid))
    }

    /// Gives a record to the node that is to have it, beside whatever else goes on.
    fn push(&mut self, label: &Label, follow: &Follow, record: Record) {
        let Some(to) = &follow.push else { return };
        if self.pushes.get(label).is_some_and(|push| !push.is_due(&record)) {
            return;
        }
        let (sequence, begun) = (record.sequence(), Instant::now());
        let is_taken = Arc::new(AtomicBool::new(false));
        let (node, taken, label_told) = (to.node(&self.instance.config.ipfs), is_taken.clone(), label.clone());
        let task = tokio::spawn(async move {
            let put = async { node?.put_record(&record, random_u128()).await };
            match put.await {
                Ok(()) => taken.store(true, Ordering::Relaxed),
                Err(error) => tracing::warn!(label = %label_told, "no node took its record: {error:#}"),
            }
        });
        self.pushes.insert(label.clone(), Push { sequence, begun, is_taken, task: AbortOnDropHandle::new(task) });
    }
}
