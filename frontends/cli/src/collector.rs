//! Garbage collection: what runs for `gc`, and what a server does by itself.
//!
//! A server looks every few seconds whether something was let go or put since it last collected a mount, and collects it
//! at most as often as the configuration says; sooner where the disk is nearly full. It goes at half speed, so that those
//! who read and write hardly notice. Whenever it is dropped it has removed some of the garbage and nothing else.
//! Spec: spec/gc.md, "In a server".

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{
    Cid, Error, ErrorKind, Prefix, Result,
    dag::{GcOptions, GcProgress, OnGcProgress},
    mux::Mount,
};
use tokio_util::sync::CancellationToken;

use crate::{
    instance::{Disk, Instance, env},
    namespace::{Collected, Collecting},
};

/// How much news may wait for who reads it; what is more is not told.
const NEWS_COUNT: usize = 16;
/// A deletion takes a little room: where there is none, what was deleted so far gives its room first, so often.
const NO_SPACE_COUNT_MAX: usize = 16;
/// A compaction that a listing of the keys held up is tried so often again, after so long.
const POSTPONED_COUNT_MAX: usize = 20;
const POSTPONED_WAIT: Duration = Duration::from_millis(100);
/// A server looks so often whether there is something to collect.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Where a disk is nearly full, a mount is collected at most so often.
const SHORT_EVERY: Duration = Duration::from_mins(1);
/// A disk is nearly full when less than one part in so many is free.
const SHORT_PART: u64 = 20;
/// The longest that a run at half speed pauses at a time.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Who is told what happens.
type Tell = Arc<dyn Fn(Collecting) + Send + Sync>;

/// Collects a mount, or every content-addressed one, and tells what it does.
pub(crate) fn collect_all(
    instance: &Instance,
    mount: Option<Prefix>,
    dry_run: bool,
) -> BoxStream<'_, Result<Collecting>> {
    let (out, news) = tokio::sync::mpsc::channel(NEWS_COUNT);
    let run = async move {
        for mount in mounts(instance, mount)? {
            let (tell, done) = (out.clone(), out.clone());
            let tell: Tell = Arc::new(move |news| {
                // Whoever does not read in time misses some progress.
                tell.try_send(news).ok();
            });
            let collected = collect(instance, mount, dry_run, Way::AtOnce, tell).await?;
            // Nobody may be left to read it.
            done.send(Collecting::Done(collected)).await.ok();
        }
        if mount.is_none() {
            instance.check_all_there()?;
        }
        Ok(())
    };
    let failed = stream::once(run).filter_map(async |done: Result<()>| done.err().map(Err));
    let news = stream::unfold(news, |mut news| async move { news.recv().await.map(|told| (Ok(told), news)) });
    stream::select(news, failed).boxed()
}

/// The mount that is named, or all that can be collected.
fn mounts(instance: &Instance, named: Option<Prefix>) -> Result<Vec<&Mount>> {
    if let Some(named) = named {
        instance.by_content(named)?;
        return Ok(vec![instance.mux.mount_at(named)?]);
    }
    let mounts = instance.mux.mounts().iter().filter(|mount| mount.as_cas().is_some());
    // The RAM of a command is empty.
    Ok(mounts.filter(|mount| instance.serves() || instance.disk(mount.prefix()).is_some()).collect())
}

/// How a run goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As fast as it can, for who waits; what is dead gives its room back.
    AtOnce,
    /// At half speed, beside those who work; room comes back where a quarter of it is dead.
    Beside,
}

/// Collects a mount and gives the room back.
async fn collect(instance: &Instance, mount: &Mount, dry_run: bool, way: Way, tell: Tell) -> Result<Collected> {
    let (begun, prefix, disk) = (Instant::now(), mount.prefix(), instance.disk(mount.prefix()));
    let disk_before = len_on(disk).await?;
    let options =
        GcOptions { dry_run, on_progress: Some(on_progress(prefix, way, tell.clone())), ..GcOptions::new(&env()) };
    let mut attempt_count = 0;
    let report = loop {
        match (mount.collect_garbage(&options).await, disk) {
            (Err(error), Some(disk)) if error.kind() == ErrorKind::NoSpace && attempt_count < NO_SPACE_COUNT_MAX => {
                attempt_count += 1;
                if compact(disk).await? == 0 {
                    return Err(error);
                }
            }
            (report, _) => break report.map_err(|error| not_whole(prefix, error))?,
        }
    };
    let mut disk_after = disk_before;
    if let Some(disk) = disk.filter(|disk| !dry_run && (way == Way::AtOnce || disk.is_worth_compacting())) {
        tell(Collecting::Compacting { mount: prefix.to_string() });
        compact(disk).await.map_err(|error| no_room_to_copy(prefix, error))?;
        disk_after = len_on(Some(disk)).await?;
    }
    Ok(Collected {
        mount: prefix.to_string(),
        dry_run,
        blocks_kept: report.blocks_kept,
        bytes_kept: report.bytes_kept,
        blocks_fresh: report.blocks_fresh,
        blocks_removed: report.blocks_removed,
        bytes_removed: report.bytes_removed,
        disk_before,
        disk_after,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// What it means that something is missing below what is kept.
fn not_whole(prefix: Prefix, error: Error) -> Error {
    if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) {
        return error;
    }
    let why = format!(
        "something that is kept is not all there, so nothing was removed (muxfs verify names what is bad; unpin it, or put it again): {error:#}"
    );
    Error::new(ErrorKind::Corrupt, "gc").at(format!("/{prefix}")).because(why)
}

/// What it means that the disk is full when all garbage is gone.
fn no_room_to_copy(prefix: Prefix, error: Error) -> Error {
    if error.kind() != ErrorKind::NoSpace {
        return error;
    }
    let why = "the garbage was removed, and its room comes back when there is room to copy what lies between: make some on the disk, and collect again";
    Error::new(ErrorKind::NoSpace, "gc").at(format!("/{prefix}")).because(why)
}

async fn len_on(disk: Option<&Disk>) -> Result<Option<u64>> {
    match disk {
        Some(disk) => disk.len().await.map(Some),
        None => Ok(None),
    }
}

/// Gives the room of what is dead back, and tells how many segments went.
async fn compact(disk: &Disk) -> Result<u64> {
    let mut segments_removed = disk.compact_others().await?;
    for _ in 0..POSTPONED_COUNT_MAX {
        let mut postponed = false;
        for segments in disk.all_segments() {
            let report = segments.compact().await?;
            segments_removed += report.segments_removed;
            postponed |= report.postponed;
        }
        if !postponed {
            break;
        }
        tokio::time::sleep(POSTPONED_WAIT).await;
    }
    Ok(segments_removed)
}

/// Tells how far a run is, and makes it pause for as long as it worked, if it goes beside others.
fn on_progress(prefix: Prefix, way: Way, tell: Tell) -> OnGcProgress {
    let resumed = Arc::new(Mutex::new(Instant::now()));
    Arc::new(move |progress| {
        let mount = prefix.to_string();
        tell(match progress {
            GcProgress::Marking { nodes } => Collecting::Marking { mount, nodes },
            GcProgress::Sweeping { blocks_kept, blocks_removed } => {
                Collecting::Sweeping { mount, blocks_kept, blocks_removed }
            }
        });
        let resumed = resumed.clone();
        async move {
            if way == Way::Beside {
                let worked = resumed.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
                tokio::time::sleep(worked.min(PAUSE_MAX)).await;
                *resumed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
        }
        .boxed()
    })
}

/// What tells that there may be something to collect: it changes with every commit, pin and put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    head: Option<Cid>,
    pins: u64,
    stored: u64,
}

impl Mark {
    fn of(instance: &Instance, mount: &Mount) -> Self {
        Self {
            head: mount.as_tree().map(|tree| tree.head().0),
            pins: mount.as_cas().map_or(0, |cas| cas.pins().generation()),
            stored: instance.disk(mount.prefix()).map_or(0, |disk| disk.stats().live_len),
        }
    }
}

/// When a mount was last collected, and what it held then.
struct Last {
    when: Instant,
    mark: Option<Mark>,
}

/// Collects every mount whenever it is time, until `stop`.
pub(crate) async fn collect_in_time(instance: Arc<Instance>, stop: CancellationToken) {
    let begun = Instant::now();
    let mut lasts: HashMap<Prefix, Last> = HashMap::new();
    let work = async {
        loop {
            let every = instance.upkeep.borrow().gc.every.0;
            tokio::time::sleep(LOOK_EVERY.min(every).max(Duration::from_millis(100))).await;
            // It may be another by now.
            let config = instance.upkeep.borrow().gc.clone();
            if !config.enabled {
                continue;
            }
            for mount in mounts(&instance, None).unwrap_or_default() {
                let last = lasts.entry(mount.prefix()).or_insert(Last { when: begun, mark: None });
                let mark = Mark::of(&instance, mount);
                if last.mark == Some(mark) {
                    continue;
                }
                let every = if is_short(mount).await { SHORT_EVERY.min(config.every.0) } else { config.every.0 };
                if last.when.elapsed() < every {
                    continue;
                }
                run(&instance, mount).await;
                // What was put meanwhile is not in it, and is looked at again.
                let stored = Mark::of(&instance, mount).stored;
                *last = Last { when: Instant::now(), mark: Some(Mark { stored, ..mark }) };
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Whether the disk of a mount is nearly full.
async fn is_short(mount: &Mount) -> bool {
    let vfs = mount.vfs();
    vfs.statfs(vfs.root()).await.is_ok_and(|space| space.bytes_free < space.bytes_total / SHORT_PART)
}

/// One run, with what it counts.
async fn run(instance: &Instance, mount: &Mount) {
    let (prefix, begun) = (mount.prefix(), Instant::now());
    let label = prefix.to_string();
    let done = collect(instance, mount, false, Way::Beside, Arc::new(|_| {})).await;
    metrics::histogram!("muxfs_gc_seconds", "mount" => label.clone()).record(begun.elapsed());
    let result = if done.is_ok() { "ok" } else { "failed" };
    metrics::counter!("muxfs_gc_runs_total", "mount" => label.clone(), "result" => result).increment(1);
    match done {
        Ok(collected) => {
            let Collected { blocks_kept, blocks_removed, bytes_removed, disk_before, disk_after, .. } = collected;
            metrics::counter!("muxfs_gc_removed_blocks_total", "mount" => label.clone()).increment(blocks_removed);
            metrics::counter!("muxfs_gc_removed_bytes_total", "mount" => label).increment(bytes_removed);
            tracing::info!(%prefix, blocks_kept, blocks_removed, bytes_removed, disk_before, disk_after, "garbage was collected");
        }
        Err(error) => {
            tracing::error!(%prefix, error = format!("{error:#}"), "garbage was not collected, and is tried again");
        }
    }
}
