//! What is in the mounts: stores, pins, heads, journals and trees.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use muxfs::{
    BlockStore, Cid, Error, ErrorKind, Name, Prefix, Result,
    block::{Segments, SegmentsOptions},
    dag::{Dag, DagOptions, Profile},
    heads::{Heads, LogHeads},
    media::{Media, MemMedia, OverlayMedia},
    pins::Pins,
    tree::{Checked, Tree, TreeOptions},
    vfs::union::Slots,
};
use muxfs_local::FileMedia;
use muxfs_zstor::OpenNode;

use super::{Finding, Findings, place_of};
use crate::{
    bucket,
    config::{Config, FlistMount, Mount, ZstorMount},
    data_dir::content_dir,
    database,
    instance::{HEAD, Instance, env},
    output::{bytes, count},
    vault, zstor,
};

/// A clock that is behind by less is no reason to speak.
const AHEAD_MAX: Duration = Duration::from_mins(1);
/// So many faults of one kind are told; of more, how many.
const FAULT_COUNT_MAX: u64 = 100;
const NOTHING_YET: &str = "nothing was put there yet";
const LOST: &str = "muxfs verify --all names what is lost; put that content again, or restore a commit that has it";

/// Looks into the mounts that this process has open.
pub(crate) async fn of_instance(instance: &Instance, out: &Findings) {
    for mount in instance.mux.mounts() {
        if let Some(away) = mount.absence() {
            let advice =
                "bring back what it keeps all in: it is looked for every 30 seconds by a server, and by each command";
            out.tell(Finding::error("mount", &format!("/{}", mount.prefix()), format!("{away:#}"), advice)).await;
        }
    }
    for (prefix, cas) in instance.all_by_content() {
        let place = format!("/{prefix}");
        if let Some(disk) = instance.disk(prefix) {
            let (stats, what) = (disk.stats(), if disk.nodes().is_empty() { "blocks" } else { "shards" });
            let found = format!("{} {what}, {}", count(stats.block_count), bytes(stats.live_len));
            out.tell(Finding::ok("blocks", &place, found)).await;
            nodes(&place, &disk.nodes(), out).await;
        }
        pins(&place, cas.pins(), cas.dag(), out).await;
        if let Ok(tree) = instance.tree(prefix) {
            look_at_tree(&place, tree, out).await;
        }
    }
}

/// Looks into the mounts that nobody has open, and changes nothing.
pub(super) async fn offline(config: &Config, out: &Findings) {
    let slots = config.data.join("slots");
    if slots.exists() {
        let opened = async { Slots::open(over(&slots)?, &env()).await.map(drop) };
        let found = report(opened.await, "slots", &slots, "reads well");
        out.tell(found).await;
    }
    for mount in &config.mount {
        match mount {
            Mount::Mem { .. } => {}
            Mount::Local { dir, .. } | Mount::Flist(FlistMount { dir, .. }) => {
                // One that is not named is made.
                if let Some(dir) = dir.as_deref().filter(|dir| !dir.is_dir()) {
                    let advice = "make it, or mount the disk that has it, or name another in the configuration";
                    let (place, found) = (format!("/{}", mount.prefix()), format!("{} is no directory", dir.display()));
                    out.tell(Finding::error("local", &place, found, advice)).await;
                }
            }
            Mount::Ipfs { .. } | Mount::Overlay(_) => {
                let dir = content_dir(&config.data, mount.prefix());
                if dir.exists() {
                    closed_mount(config, mount.prefix(), &dir, out).await;
                } else {
                    out.tell(Finding::ok("blocks", &format!("/{}", mount.prefix()), NOTHING_YET)).await;
                }
            }
            Mount::S3(mount) => {
                for finding in bucket::look(&config.data, mount).await {
                    out.tell(finding).await;
                }
            }
            Mount::Sqlite(mount) => out.tell(database::look_sqlite(&config.data, mount).await).await,
            Mount::Redis(mount) => out.tell(database::look_redis(mount, &env()).await).await,
            Mount::Vault(mount) => out.tell(vault::look(&config.data, mount, &env()).await).await,
            Mount::Zstor(mount) => {
                if zstor::is_made(&config.data, mount).await {
                    closed_zstor(config, mount, out).await;
                } else {
                    out.tell(Finding::ok("nodes", &format!("/{}", mount.prefix.0), NOTHING_YET)).await;
                }
            }
        }
    }
}

/// A media of the directory that keeps every change in memory; an empty one where there is no directory.
fn over(dir: &Path) -> Result<Arc<dyn Media>> {
    if !dir.exists() {
        return Ok(Arc::new(MemMedia::default()));
    }
    Ok(Arc::new(OverlayMedia::new(Arc::new(FileMedia::open(dir)?))))
}

fn report(result: Result<()>, check: &str, place: &Path, found: &str) -> Finding {
    match result {
        Ok(()) => Finding::ok(check, &place.display(), found),
        Err(error) => failure(check, place, &error),
    }
}

/// What to do about a log that cannot be opened.
fn failure(check: &str, place: &Path, error: &Error) -> Finding {
    let advice = match error.kind() {
        ErrorKind::Unsupported => "use the newer muxfs that wrote it",
        ErrorKind::Unavailable => "end the process that has it open",
        ErrorKind::Denied | ErrorKind::NotPermitted | ErrorKind::ReadOnly => "run muxfs as the owner of the files",
        _ => "keep a copy of the directory; look at the disk (dmesg, smartctl); bring the file back from a backup",
    };
    Finding::error(check, &place_of(error, place), format!("{error:#}"), advice)
}

/// A mount on disk, part by part: what cannot be opened does not hide the others.
async fn closed_mount(config: &Config, prefix: Prefix, dir: &Path, out: &Findings) {
    let place = format!("/{prefix}");
    let Some(segments) = blocks(&place, dir, out).await else { return };
    let has_blocks = segments.stats().block_count > 0;
    let media = |part: &str| over(&dir.join(part));
    let heads = async { Ok(Arc::new(LogHeads::open(media("heads")?, &env()).await?) as Arc<dyn Heads>) };
    besides(config, (prefix, dir), (segments, has_blocks), heads.await, &media, out).await;
}

/// A mount of blocks in shards: its nodes, and then as others.
async fn closed_zstor(config: &Config, mount: &ZstorMount, out: &Findings) {
    let (prefix, place) = (mount.prefix.0, format!("/{}", mount.prefix.0));
    let store = match zstor::look(&config.data, mount, &env()).await {
        Ok(opened) => opened,
        Err(error) => {
            let advice = match error.kind() {
                ErrorKind::BadKey | ErrorKind::Denied => "see to the key: nobody reads anything without it",
                ErrorKind::Unavailable => "bring nodes back: mount their disks, and end other programs that use them",
                _ => "mend what is said; nothing was changed",
            };
            return out.tell(Finding::error("nodes", &place, format!("{error:#}"), advice)).await;
        }
    };
    nodes(&place, &store.nodes(), out).await;
    let has_blocks = store.nodes().iter().filter_map(OpenNode::segments).any(|node| node.stats().block_count > 0);
    let dir = content_dir(&config.data, mount.prefix.0);
    let sealed = |part: &str| Ok(store.sealed(part, over(&dir.join(part))?));
    let heads = Ok(store.heads().clone() as Arc<dyn Heads>);
    besides(config, (prefix, &dir), (store.blocks().clone(), has_blocks), heads, &sealed, out).await;
}

/// Which nodes are there.
async fn nodes(place: &str, nodes: &[OpenNode], out: &Findings) {
    let mut live = 0;
    for node in nodes {
        let Some(why) = node.lost() else {
            live += 1;
            continue;
        };
        let found = format!("the node {} is lost: {why}", node.name());
        let advice = "bring it back: mount its disk, see who may read it; a server takes it by itself then";
        out.tell(Finding::error("nodes", &node.place(), found, advice)).await;
    }
    if !nodes.is_empty() {
        out.tell(Finding::ok("nodes", place, format!("{live} of {} are there", nodes.len()))).await;
    }
}

/// What a mount has besides its blocks, each part in the media of its name.
async fn besides(
    config: &Config,
    (prefix, dir): (Prefix, &Path),
    (blocks, has_blocks): (Arc<dyn BlockStore>, bool),
    heads: Result<Arc<dyn Heads>>,
    media: &(dyn Fn(&str) -> Result<Arc<dyn Media>> + Sync),
    out: &Findings,
) {
    let place = format!("/{prefix}");
    let params = Profile::from(config.profile).params();
    let dag = Dag::new(blocks, DagOptions { params, ..DagOptions::default() });

    let at = dir.join("pins");
    let opened = async { Pins::open(media("pins")?, &env()).await };
    match opened.await {
        Ok(kept) => pins(&place, &kept, &dag, out).await,
        Err(error) => out.tell(failure("pins", &at, &error)).await,
    }

    let at = dir.join("heads");
    let opened = async {
        let heads = heads?;
        let head = heads.load(&Name::new(HEAD.as_bytes())?).await?;
        Ok::<_, Error>((heads, head.is_some()))
    };
    let heads = match opened.await {
        Ok((heads, true)) => heads,
        Ok((_, false)) if !has_blocks => return,
        Ok((_, false)) => {
            let advice = "bring the directory back from a backup: a server that starts now makes an empty tree. \
                          Content that is pinned is still read by its CID";
            let found = "the tree has no head, and the store has blocks";
            return out.tell(Finding::error("heads", &at.display(), found, advice)).await;
        }
        Err(error) => return out.tell(failure("heads", &at, &error)).await,
    };
    out.tell(Finding::ok("heads", &at.display(), "reads well")).await;

    let at = dir.join("journal");
    let opened = async {
        let journal = media("journal")?;
        let len: u64 = journal.segments().await?.iter().map(|segment| segment.len).sum();
        let options = TreeOptions { auto_commit: None, ..TreeOptions::new(Name::new(HEAD.as_bytes())?, env()) };
        Ok::<_, Error>((Tree::open(dag, journal, heads, options).await?, len))
    };
    match opened.await {
        Ok((tree, len)) => {
            out.tell(Finding::ok("journal", &at.display(), format!("{}, can be replayed", bytes(len)))).await;
            look_at_tree(&place, &tree, out).await;
        }
        Err(error) => out.tell(failure("journal", &at, &error)).await,
    }
}

/// Opens the blocks of a mount, and holds its index against its files.
async fn blocks(place: &str, dir: &Path, out: &Findings) -> Option<Arc<Segments>> {
    let at = dir.join("blocks");
    let built = Arc::new(AtomicBool::new(false));
    let told = built.clone();
    let options = SegmentsOptions {
        on_build_index: Some(Arc::new(move |_| told.store(true, Ordering::Relaxed))),
        ..SegmentsOptions::default()
    };
    let opened = async {
        let data = over(&at)?;
        let len: u64 = data.segments().await?.iter().map(|segment| segment.len).sum();
        let segments = Segments::open(data, over(&dir.join("index"))?, options, &env()).await?;
        let mut keys = segments.keys_from(None);
        let mut key_count = 0_u64;
        while keys.try_next().await?.is_some() {
            key_count += 1;
        }
        drop(keys);
        Ok::<_, Error>((segments, len, key_count))
    };
    let (segments, len, key_count) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            out.tell(failure("blocks", &at, &error)).await;
            return None;
        }
    };
    let stats = segments.stats();
    let found = format!("{} blocks, {} of {} on the disk", count(stats.block_count), bytes(stats.live_len), bytes(len));
    if key_count != stats.block_count || stats.live_len + stats.dead_len > len {
        let found = format!("{found}, and the files hold {} blocks: some were destroyed or cut off", count(key_count));
        out.tell(Finding::error("blocks", place, found, LOST)).await;
    } else {
        out.tell(Finding::ok("blocks", place, found)).await;
    }
    if built.load(Ordering::Relaxed) {
        let found = "it is missing or damaged, and was built from the blocks for this look";
        let advice = "nothing is lost: the next muxfs that opens the directory builds it again, which takes a while";
        out.tell(Finding::warning("index", &dir.join("index").display(), found, advice)).await;
    } else {
        out.tell(Finding::ok("index", &dir.join("index").display(), "belongs to the blocks")).await;
    }
    Some(Arc::new(segments))
}

/// Whether the root of every pin is there.
async fn pins(place: &str, pins: &Pins, dag: &Dag, out: &Findings) {
    let (mut list, mut pin_count, mut bad_count) = (pins.list(), 0_u64, 0_u64);
    loop {
        match list.try_next().await {
            Ok(Some(pin)) => {
                pin_count += 1;
                if let Err(error) = dag.get_block(&pin).await {
                    // It may have gone meanwhile, and been collected.
                    if pins.contains(&pin) {
                        bad_count += 1;
                        if bad_count <= FAULT_COUNT_MAX {
                            out.tell(Finding::error("pins", &format!("{place}/{pin}"), format!("{error:#}"), LOST))
                                .await;
                        }
                    }
                }
            }
            Ok(None) => break,
            Err(error) => return out.tell(Finding::error("pins", place, format!("{error:#}"), LOST)).await,
        }
    }
    if bad_count == 0 {
        out.tell(Finding::ok("pins", place, format!("{} pins, the roots of all are there", count(pin_count)))).await;
    } else if bad_count > FAULT_COUNT_MAX {
        let found = format!("the roots of {} of {} pins are missing or bad", count(bad_count), count(pin_count));
        out.tell(Finding::error("pins", place, found, LOST)).await;
    }
}

/// A tree: its commits, and whether it fits together.
async fn look_at_tree(place: &str, tree: &Tree, out: &Findings) {
    commits(place, tree, out).await;
    let mut found = tree.check();
    while let Some(found) = found.next().await {
        match found {
            Checked::Progress { .. } => {}
            Checked::Fault(error) => {
                let place = format!("{place} {}", error.path().unwrap_or_default());
                let advice =
                    "keep a copy of the data directory and report it; muxfs restore brings back what a kept commit has";
                out.tell(Finding::error("tree", &place, format!("{error:#}"), advice)).await;
            }
            Checked::Done(report) => {
                let found = format!(
                    "{} inodes and {} names looked at, {} faults",
                    count(report.inode_count),
                    count(report.name_count),
                    count(report.fault_count)
                );
                if report.fault_count == 0 {
                    out.tell(Finding::ok("tree", place, found)).await;
                } else {
                    out.tell(Finding::error("tree", place, found, LOST)).await;
                }
            }
        }
    }
}

/// Whether what the head keeps is there, and not from the future.
async fn commits(place: &str, tree: &Tree, out: &Findings) {
    let (head, commit) = tree.head();
    let now = SystemTime::now();
    if let Ok(ahead) = commit.time.duration_since(now)
        && ahead > AHEAD_MAX
    {
        let found = format!("the last commit was made {} s in the future", ahead.as_secs());
        let advice = "set the clock: commits are kept and listed by their times";
        out.tell(Finding::warning("clock", place, found, advice)).await;
    }
    let kept: BTreeSet<Cid> = commit.prev.iter().chain(commit.snapshots.values()).copied().collect();
    let mut lost = 0;
    for cid in &kept {
        if let Err(error) = tree.dag().get_block(cid).await {
            // Another head may keep it no longer.
            if tree.head().0 == head {
                lost += 1;
                if lost <= FAULT_COUNT_MAX {
                    out.tell(Finding::error("commits", &format!("{place} {cid}"), format!("{error:#}"), LOST)).await;
                }
            }
        }
    }
    let found =
        format!("the head is {head}; {} kept before it, {} snapshots", commit.prev.len(), commit.snapshots.len());
    out.tell(Finding::ok("commits", place, found)).await;
}
