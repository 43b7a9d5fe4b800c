//! Looking after `/zstor` in a server: a scrub every so often, and what is counted of nodes and scrubs.
//!
//! A pass is begun when the last one was begun long enough ago, and at once where blocks may lack shards that nobody noted.
//! It reads no faster than the configuration says, waits while nodes are lost, makes way for whoever asks for a scrub, and
//! is gone on with by the next server. Spec: spec/zstor.md #scrub, #metrics.

use std::{
    collections::BTreeSet,
    num::NonZeroU64,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{join, join_all};
use muxfs::{Prefix, Result};
use muxfs_zstor::{ScrubTotals, Zstor};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{instance::Instance, reload::Upkeep};

/// A server looks so often whether a pass is due, and not before it has run so long.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(100);
/// A pass under way looks so often whether nodes are lost.
const LOST_EVERY: Duration = Duration::from_secs(1);
/// How each node does, is noted so often.
const NOTE_EVERY: Duration = Duration::from_secs(5);

/// Looks after every mount of kind `zstor` that was there at the start until `stop`.
pub(crate) async fn look_after(instance: Arc<Instance>, stop: CancellationToken) {
    // One that comes later is looked after from then on.
    let is_awaited = |prefix| instance.awaited().any(|awaited| awaited.prefix() == prefix);
    let there = instance.zstors().filter(|(prefix, _)| !is_awaited(*prefix));
    let all = there.map(|(prefix, store)| look_after_one(prefix, store, &instance));
    stop.run_until_cancelled(join_all(all)).await;
}

/// Looks after one, for ever.
pub(crate) async fn look_after_one(prefix: Prefix, store: &Zstor, instance: &Instance) {
    let config = || instance.upkeep.borrow().scrub.clone();
    if let Err(error) = store.scrubber().begin_serving().await {
        tracing::error!(%prefix, error = format!("{error:#}"), "it cannot be noted that a server runs: should it be killed, the next scrub is late");
    }
    // Everything of the mount is open by now.
    store.go_on_rotating();
    let noting = async {
        let mut noted = BTreeSet::new();
        loop {
            store.scrubber().look();
            store.set_settle_rate(NonZeroU64::new(config().max_rate.0));
            note(prefix, store, &mut noted);
            tokio::time::sleep(NOTE_EVERY).await;
        }
    };
    let scrubbing = async {
        loop {
            tokio::time::sleep(LOOK_EVERY.min(config().every.0).max(LOOK_EVERY_MIN)).await;
            // It may be another by now.
            let config = config();
            if !config.enabled {
                continue;
            }
            if !store.scrubber().is_due(config.every.0) || !store.scrubber().lost().is_empty() {
                continue;
            }
            if let Err(error) = scrub(prefix, store, instance.upkeep.subscribe()).await {
                tracing::warn!(%prefix, error = format!("{error:#}"), "a scrub was broken off, and is gone on with later");
            }
        }
    };
    join(noting, scrubbing).await;
}

/// Goes on with a pass until it ends, a node is lost, or somebody else wants to scrub; as fast as the configuration says now.
async fn scrub(prefix: Prefix, store: &Zstor, mut upkeep: watch::Receiver<Upkeep>) -> Result<()> {
    let rate = |upkeep: &Upkeep| NonZeroU64::new(upkeep.scrub.max_rate.0);
    let bytes_per_sec = rate(&upkeep.borrow_and_update());
    let Some(mut pass) = store.scrubber().scrub_in_background(bytes_per_sec).await? else { return Ok(()) };
    let mut until_wanted = pin!(pass.until_wanted());
    let (mut before, mut looked) = (pass.totals(), Instant::now());
    loop {
        let stepped = tokio::select! {
            biased;
            () = &mut until_wanted => return Ok(()),
            // A step that waits by the former rate is begun again.
            Ok(()) = upkeep.changed() => {
                pass.set_rate(rate(&upkeep.borrow_and_update()));
                continue;
            }
            stepped = pass.step() => stepped,
        };
        let (is_going_on, now) = (stepped?, pass.totals());
        counted(prefix, &before, &now);
        if !is_going_on {
            let ScrubTotals { blocks, bytes, bad, missing, healed, weak, unhealed, .. } = now;
            if unhealed > 0 {
                let first = now.named.iter().find(|named| !named.readable).map(|named| named.block.as_str());
                tracing::error!(%prefix, unhealed, first, "a scrub found blocks that cannot be healed: see muxfs zstor status");
            }
            tracing::info!(%prefix, blocks, bytes, bad, missing, healed, weak, unhealed, "all shards were read");
            return Ok(());
        }
        before = now;
        if looked.elapsed() >= LOST_EVERY {
            looked = Instant::now();
            let lost = store.scrubber().lost();
            if !lost.is_empty() {
                tracing::info!(%prefix, lost = lost.join(", "), "a scrub waits until nodes are back");
                return Ok(());
            }
        }
    }
}

/// Counts what a pass did between two moments.
pub(crate) fn counted(prefix: Prefix, before: &ScrubTotals, now: &ScrubTotals) {
    let add = |name: &'static str, before: u64, now: u64| {
        metrics::counter!(name, "mount" => prefix.to_string()).increment(now.saturating_sub(before));
    };
    add("muxfs_zstor_scrub_bytes_total", before.bytes, now.bytes);
    add("muxfs_zstor_scrub_bad_shards_total", before.bad, now.bad);
    add("muxfs_zstor_scrub_missing_shards_total", before.missing, now.missing);
    add("muxfs_zstor_scrub_healed_shards_total", before.healed, now.healed);
    add("muxfs_zstor_scrub_unhealed_blocks_total", before.unhealed, now.unhealed);
}

/// Notes how the nodes do now, and how long ago all shards were read. Of those that were `noted` before and are nodes no more
/// nothing is known any more; a gauge cannot be taken back.
#[expect(clippy::cast_precision_loss, reason = "counts and times, for a graph")]
fn note(prefix: Prefix, store: &Zstor, noted: &mut BTreeSet<String>) {
    let mount = prefix.to_string();
    let lost = store.scrubber().lost();
    let up = |name: &str| metrics::gauge!("muxfs_zstor_node_up", "mount" => mount.clone(), "node" => name.to_owned());
    let answer_time = |name: &str| metrics::gauge!("muxfs_zstor_node_answer_seconds", "mount" => mount.clone(), "node" => name.to_owned());
    let nodes: Vec<_> = store.answer_times().collect();
    for gone in noted.iter().filter(|noted| nodes.iter().all(|(name, _)| name != *noted)) {
        up(gone).set(f64::NAN);
        answer_time(gone).set(f64::NAN);
    }
    *noted = nodes.iter().map(|(name, _)| name.clone()).collect();
    for (name, time) in nodes {
        up(&name).set(if lost.contains(&name) { 0.0 } else { 1.0 });
        if let Some(time) = time {
            answer_time(&name).set(time.as_secs_f64());
        }
    }
    let waiting = store.repairs_waiting() as f64;
    metrics::gauge!("muxfs_zstor_repairs_waiting", "mount" => mount.clone()).set(waiting);
    let waiting = store.deletions_waiting() as f64;
    metrics::gauge!("muxfs_zstor_deletions_waiting", "mount" => mount.clone()).set(waiting);
    let rotation = store.rotation().borrow().clone();
    let under_way = if rotation.is_under_way { 1.0 } else { 0.0 };
    metrics::gauge!("muxfs_zstor_key_rotation", "mount" => mount.clone()).set(under_way);
    let remaining = rotation.remaining.unwrap_or_default() as f64;
    metrics::gauge!("muxfs_zstor_key_rotation_blocks_left", "mount" => mount.clone()).set(remaining);
    let settling = store.settling();
    let settled = if settling.is_settled { 1.0 } else { 0.0 };
    metrics::gauge!("muxfs_zstor_settled", "mount" => mount.clone()).set(settled);
    metrics::counter!("muxfs_zstor_moved_blocks_total", "mount" => mount.clone()).absolute(settling.moved);
    if let Some(last) = store.scrubber().state().last {
        metrics::gauge!("muxfs_zstor_scrub_covered_since_seconds", "mount" => mount).set(last.began as f64);
    }
}
