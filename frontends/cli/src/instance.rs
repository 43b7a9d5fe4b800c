//! The stores behind the mounts, opened as the configuration says: what a process has that owns a data directory.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use muxfs::{
    BlockStore, Env, Error, ErrorKind, Name, Prefix, Result,
    block::{Mem, MemOptions, Segments, SegmentsOptions, SegmentsStats, StripeCode},
    cas::Cas,
    cas_view::{CasViewOptions, Space},
    dag::{Dag, DagOptions, Profile},
    heads::{Heads, LogHeads, MemHeads},
    ipns::Records,
    media::{Media, MemLimit, MemMedia},
    mux::{Mount, MuxFs},
    pins::Pins,
    tree::{AutoCommit, Retention, Tree, TreeOptions},
    vfs::{FsStat, Fsid, Vfs, narrow::read_only_view, union::Slots, watch::Watch},
};
use muxfs_flist::{FlistVfs, KeptFlists};
use muxfs_local::{FileMedia, LocalOptions, LocalVfs};
use muxfs_s3::S3Store;
use muxfs_zstor::{OpenNode, Zstor};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    bucket::{self, BucketMount},
    commands::put::host,
    config::{self, Config},
    data_dir::{DataDir, private_dir},
    database::{self, Database},
    flist,
    mounts::Mounts,
    overlay,
    reload::Upkeep,
    sources::Elsewhere,
    zstor,
};

/// How much `/mem` may hold where the RAM's size cannot be told.
const MEM_LIMIT_UNKNOWN: u64 = 1 << 30;

/// To give room back, a segment of blocks is copied before it goes: it is one part in so many of its disk, within these bounds.
const SEGMENT_PART: u64 = 256;
const SEGMENT_LEN_MIN: u64 = 4 << 20;
const SEGMENT_LEN_MAX: u64 = 256 << 20;
/// Beside the length of a segment, blocks leave so much of a disk, in bytes, or one part in so many of a small one: some are
/// on their way when it is found to be full, and deletions are to be noted.
const DISK_RESERVE_LEN: u64 = 32 << 20;
const DISK_RESERVE_PART: u64 = 4;

/// The name of the head of a mount's tree.
pub(crate) const HEAD: &str = "main";
/// The space of a store that does not tell.
const UNKNOWN: FsStat = FsStat { bytes_total: 0, bytes_free: 0, inodes_total: 0, inodes_free: 0 };

/// Asks a store for its space.
pub(crate) type SpaceFn = Arc<dyn Fn() -> Result<FsStat> + Send + Sync>;

/// Every mount, opened.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) mux: MuxFs,
    /// All mounts, as commands and the frontends of the network see and change them.
    pub(crate) vfs: Arc<dyn Vfs>,
    /// Tells the mounts on this machine of each change.
    pub(crate) watch: Watch,
    /// Those mounts.
    pub(crate) mounts: Arc<Mounts>,
    pub(crate) config: Config,
    /// The configuration that holds now: of what can change, as it was read last.
    pub(crate) loaded: tokio::sync::Mutex<Config>,
    /// Told what a server does by itself.
    pub(crate) upkeep: tokio::sync::watch::Sender<Upkeep>,
    /// Whoever holds it verifies everything.
    pub(crate) verifying: tokio::sync::Mutex<()>,
    /// The block stores on disk.
    disks: Vec<Disk>,
    /// Whether it serves others for as long as it is there, and what it has in RAM is worth something.
    pub(crate) serves: bool,
    pins: Vec<Arc<Pins>>,
    slots: Arc<Slots>,
    /// Where mounts of kind `ipfs` look for what was not put here.
    elsewhere: Option<Elsewhere>,
    /// What mounts of kind `flist` keep of chunks.
    flist_kept: Vec<Arc<Segments>>,
    /// The file systems of mounts of kind `overlay`.
    pub(crate) overlays: Vec<Fsid>,
}

/// The blocks of a mount on disk.
#[derive(Debug)]
pub(crate) struct Disk {
    prefix: Prefix,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// As they are.
    Whole {
        segments: Arc<Segments>,
        /// Where the blocks are, and their index.
        media: [Arc<FileMedia>; 2],
    },
    /// In shards on nodes.
    Shards(Box<Zstor>),
    /// In packs in a bucket.
    Packs {
        store: S3Store,
        /// What of it is kept here.
        near: Option<Arc<Segments>>,
        /// Looks for what another machine commits, or whether it takes over.
        _watching: AbortOnDropHandle<()>,
    },
    /// In an SQLite file, or on a Redis server.
    Rows(Database),
}

impl Disk {
    /// What it takes, in bytes.
    pub(crate) async fn len(&self) -> Result<u64> {
        let mut len = 0;
        match &self.kept {
            Kept::Whole { media, .. } => {
                for media in media {
                    len += media.segments().await?.iter().map(|segment| segment.len).sum::<u64>();
                }
            }
            Kept::Shards(zstor) => {
                for node in zstor.nodes() {
                    len += node.len().await?;
                }
            }
            Kept::Packs { store, .. } => len = store.usage().live_len + store.usage().dead_len,
            Kept::Rows(database) => len = database.len().await?,
        }
        Ok(len)
    }

    /// What holds the blocks: one, or one for each node that is there.
    pub(crate) fn all_segments(&self) -> Vec<Arc<Segments>> {
        match &self.kept {
            Kept::Whole { segments, .. } => vec![segments.clone()],
            Kept::Shards(zstor) => zstor.nodes().iter().filter_map(OpenNode::segments).collect(),
            Kept::Packs { .. } | Kept::Rows(_) => Vec::new(),
        }
    }

    /// What all of these hold: of blocks in shards, each shard.
    pub(crate) fn stats(&self) -> SegmentsStats {
        let packs = match &self.kept {
            Kept::Rows(database) => return database.stats(),
            Kept::Whole { .. } => Vec::new(),
            Kept::Shards(zstor) => zstor.nodes().iter().filter_map(OpenNode::packs).collect(),
            Kept::Packs { store, .. } => vec![store.clone()],
        };
        let of_packs = packs.iter().map(S3Store::usage).map(|usage| SegmentsStats {
            block_count: usage.block_count as u64,
            live_len: usage.live_len,
            dead_len: usage.dead_len,
        });
        let of_segments = self.all_segments().into_iter().map(|segments| segments.stats());
        of_segments.chain(of_packs).fold(SegmentsStats::default(), |all, stats| SegmentsStats {
            block_count: all.block_count + stats.block_count,
            live_len: all.live_len + stats.live_len,
            dead_len: all.dead_len + stats.dead_len,
        })
    }

    /// The nodes of blocks in shards; none of others.
    pub(crate) fn nodes(&self) -> Vec<OpenNode> {
        match &self.kept {
            Kept::Whole { .. } | Kept::Packs { .. } | Kept::Rows(_) => Vec::new(),
            Kept::Shards(zstor) => zstor.nodes(),
        }
    }

    /// Gives the room of what is dead back where it is not in segments; how many objects of a bucket went.
    pub(crate) async fn compact_others(&self) -> Result<u64> {
        match &self.kept {
            Kept::Packs { store, .. } => store.compact().await.map(|done| done.objects_deleted),
            Kept::Rows(database) => database.compact().await.map(|()| 0),
            Kept::Whole { .. } => Ok(0),
            Kept::Shards(zstor) => {
                let mut deleted = 0;
                for store in zstor.nodes().iter().filter_map(OpenNode::packs) {
                    match store.compact().await {
                        Ok(done) => deleted += done.objects_deleted,
                        // It is away, and is asked the next time.
                        Err(error) if error.kind() == ErrorKind::Unavailable => {
                            tracing::warn!("what is dead in a bucket gives its room back later: {error:#}");
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok(deleted)
            }
        }
    }

    /// Whether a quarter of it or more is dead.
    pub(crate) fn is_worth_compacting(&self) -> bool {
        let stats = self.stats();
        stats.dead_len >= stats.live_len / 3 && stats.dead_len > 0
    }

    /// Whether another machine may go on where this one ends.
    fn is_shared(&self) -> bool {
        matches!(self.kept, Kept::Packs { .. })
    }

    /// Ends the work with it; of what is shared others are told so only if `is_all_there`: nothing is left here alone.
    async fn close(&self, is_all_there: bool) -> Result<()> {
        match &self.kept {
            Kept::Whole { segments, .. } => segments.close().await,
            Kept::Shards(zstor) => zstor.close().await,
            Kept::Rows(database) => database.close().await,
            Kept::Packs { store, near, .. } => {
                let closed = if is_all_there { store.close().await } else { store.flush().await };
                match near {
                    Some(near) => closed.and(near.close().await),
                    None => closed,
                }
            }
        }
    }
}

impl Instance {
    /// Opens every mount of `config` over `data`; working trees commit by themselves as `auto_commit` says.
    ///
    /// # Errors
    /// Those of the stores, naming the mount.
    pub(crate) async fn open(config: Config, data: &DataDir, auto_commit: Option<&AutoCommit>) -> Result<Self> {
        let slots = Arc::new(Slots::open(media(&data.path().join("slots"))?, &env()).await?);
        let mut mux = MuxFs::new().with_slots(slots.clone());
        if let Some(default) = config.default {
            mux = mux.with_default_write(default.0);
        }
        let (mut disks, mut all_pins, mut flist_kept) = (Vec::new(), Vec::new(), Vec::new());
        let is_ipfs = |mount: &config::Mount| matches!(mount, config::Mount::Ipfs { .. });
        let elsewhere = if config.mount.iter().any(is_ipfs) {
            Box::pin(Elsewhere::open(data.path(), &config.ipfs, &env())).await?
        } else {
            None
        };
        let (serves, retention) = (auto_commit.is_some(), config.history.retention());
        // What overlays may lie over.
        let mut below: Vec<(Prefix, Arc<FlistVfs>)> = Vec::new();
        for mount in &config.mount {
            let prefix = mount.prefix();
            let opened = match mount {
                config::Mount::Local { dir, read_only, .. } => {
                    match dir {
                        // One that somebody named and that is absent is misspelt, or its disk is not mounted.
                        Some(dir) => named_dir(dir)?,
                        None => private_dir(&local_dir(data.path(), None))?,
                    }
                    let dir = local_dir(data.path(), dir.as_deref());
                    let handles = data.path().join("handles");
                    private_dir(&handles)?;
                    let options = LocalOptions { read_only: *read_only, ..LocalOptions::default() };
                    let vfs = LocalVfs::open(&dir, &handles.join(prefix.as_str()), options)?;
                    Mount::location(prefix, vfs, env())
                }
                config::Mount::Flist(mount) => {
                    let dir = flist_dir(data.path(), mount.dir.as_deref());
                    match &mount.dir {
                        Some(dir) => named_dir(dir)?,
                        None => private_dir(&dir)?,
                    }
                    let (chunks, kept) = Box::pin(flist::chunks(data.path(), mount, &env())).await?;
                    flist_kept.extend(kept);
                    let scratch = data.path().join("scratch");
                    private_dir(&scratch)?;
                    let mut flists = FlistVfs::new(dir, scratch, chunks, owner()).with_profiles(mount.profiles.into());
                    if mount.repositories {
                        flists = flists.of_repositories();
                    }
                    if let Some(signers) = flist::signers(mount)? {
                        flists = flists.signed_by(signers);
                    }
                    let flists = Arc::new(flists);
                    below.push((prefix, flists.clone()));
                    Mount::location(prefix, flists, env())
                }
                config::Mount::Overlay(mount) => {
                    let dir = content_dir(data.path(), prefix);
                    let commits = (auto_commit.cloned(), retention.clone(), mount.is_async);
                    let OnDisk { disk, blocks, pins, below: tree, space } = on_disk(prefix, &dir, commits).await?;
                    disks.push(disk);
                    all_pins.push(pins.clone());
                    let lower = below.iter().find(|(prefix, _)| *prefix == mount.over.0.prefix).map(|(_, vfs)| {
                        Arc::new(KeptFlists::new(vfs.clone(), kept_flists_dir(data.path(), prefix))) as Arc<dyn Vfs>
                    });
                    let tree = Box::pin(tree_over(dag(blocks, &config), tree)).await;
                    let tree = tree.map_err(|error| error.at(dir.display()))?;
                    let overlay = overlay::open(tree, lower.as_ref(), &mount.over.0).await;
                    let overlay = overlay.map_err(|error| error.at(format!("/{prefix}")))?;
                    Mount::overlay(prefix, pins, overlay, view_options(space, None))
                }
                config::Mount::Mem { limit, .. } => {
                    let limit = limit.map_or_else(quarter_of_ram, |limit| limit.0);
                    let len_max = usize::try_from(limit).unwrap_or(usize::MAX);
                    let mem = Arc::new(Mem::new(MemOptions { len_max }));
                    let space = space_of_ram(mem.limit());
                    let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &env()).await?);
                    let auto_commit = auto_commit.cloned();
                    let (journal, heads) = (Arc::new(MemMedia::within(mem.limit())), Arc::new(MemHeads::default()));
                    let retention = retention.clone();
                    let below =
                        Below { journal, heads, auto_commit, retention, write_through: false, room: space.clone() };
                    content(prefix, dag(mem, &config), pins, below, space, None).await?
                }
                config::Mount::Ipfs { is_async, .. } => {
                    let dir = content_dir(data.path(), prefix);
                    let commits = (auto_commit.cloned(), retention.clone(), *is_async);
                    let OnDisk { disk, blocks, pins, below, space } = on_disk(prefix, &dir, commits).await?;
                    disks.push(disk);
                    all_pins.push(pins.clone());
                    let others = elsewhere.as_ref().map(|elsewhere| elsewhere.blocks.clone());
                    let opened = Box::pin(content(prefix, dag(blocks, &config), pins, below, space, others)).await;
                    opened.map_err(|error| error.at(dir.display()))?
                }
                config::Mount::S3(mount) => {
                    let opened = Box::pin(in_bucket(&config, data, mount, (auto_commit.cloned(), retention.clone())));
                    let (opened, disk, pins) = opened.await.map_err(|error| error.at(format!("/{prefix}")))?;
                    disks.push(disk);
                    all_pins.push(pins);
                    opened
                }
                config::Mount::Sqlite(mount) => {
                    let opened = database::open_sqlite(data.path(), mount, &env()).await;
                    let commits = (auto_commit.cloned(), retention.clone(), mount.is_async);
                    let rows = Box::pin(in_rows(&config, prefix, opened, commits));
                    let (opened, disk, pins) = rows.await.map_err(|error| error.at(format!("/{prefix}")))?;
                    disks.push(disk);
                    all_pins.push(pins);
                    opened
                }
                config::Mount::Redis(mount) => {
                    let opened = database::open_redis(data.path(), mount, &env()).await;
                    let commits = (auto_commit.cloned(), retention.clone(), mount.is_async);
                    let rows = Box::pin(in_rows(&config, prefix, opened, commits));
                    let (opened, disk, pins) = rows.await.map_err(|error| error.at(format!("/{prefix}")))?;
                    disks.push(disk);
                    all_pins.push(pins);
                    opened
                }
                config::Mount::Zstor(mount) => {
                    if let Err(error) = StripeCode::new(mount.data, mount.parity)
                        && mount.is_default
                    {
                        tracing::warn!("there is no /{prefix} on this machine: {error:#}");
                        continue;
                    }
                    let (dir, env) = (zstor::local_dir(data.path(), mount), env());
                    let opened = zstor::open(data.path(), mount, &config.mount, &env).await;
                    let store = opened.map_err(|error| error.at(format!("/{prefix}")))?;
                    let pins = Pins::open(store.sealed("pins", media(&dir.join("pins"))?), &env).await?;
                    let pins = Arc::new(pins);
                    all_pins.push(pins.clone());
                    let journal = dir.join("journal");
                    private_dir(&journal)?;
                    let journal = store.sealed("journal", Arc::new(FileMedia::open_ahead(journal)?));
                    let space: SpaceFn = Arc::new(store.space());
                    let (auto_commit, retention) = (auto_commit.cloned(), retention.clone());
                    let below = Below {
                        journal,
                        heads: store.heads().clone(),
                        auto_commit,
                        retention,
                        write_through: mount.is_async,
                        room: room_of_both(&space, &space_of_disk(dir.clone())),
                    };
                    let opened = content(prefix, dag(store.blocks().clone(), &config), pins, below, space, None).await;
                    disks.push(Disk { prefix, kept: Kept::Shards(Box::new(store)) });
                    opened.map_err(|error| error.at(dir.display()))?
                }
            };
            mux.mount(opened)?;
        }
        let watch = Watch::new(mux.vfs(&env()).await?);
        let vfs = watch.view();
        let outside = fsids(&*vfs, &config, |mount| match mount {
            config::Mount::Local { .. } | config::Mount::Flist(_) => true,
            config::Mount::S3(bucket) => bucket.follow,
            _ => false,
        })
        .await?;
        let overlays = fsids(&*vfs, &config, |mount| matches!(mount, config::Mount::Overlay(_))).await?;
        Ok(Self {
            mux,
            vfs,
            overlays,
            mounts: Arc::new(Mounts::new(watch.clone(), outside)),
            watch,
            loaded: tokio::sync::Mutex::new(config.clone()),
            upkeep: tokio::sync::watch::Sender::new(Upkeep::of(&config)),
            config,
            verifying: tokio::sync::Mutex::default(),
            disks,
            serves,
            pins: all_pins,
            slots,
            elsewhere,
            flist_kept,
        })
    }

    /// Who is asked for records of names that are not known here.
    pub(crate) fn name_sources(&self) -> Vec<Arc<dyn Records>> {
        self.elsewhere.as_ref().map(|elsewhere| elsewhere.records.clone()).unwrap_or_default()
    }

    /// The blocks of a mount that has them on disk.
    pub(crate) fn disk(&self, prefix: Prefix) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.prefix == prefix)
    }

    /// The content-addressed mount at a prefix.
    ///
    /// # Errors
    /// `NotFound` naming the mounts there are; `InvalidArgument` for one that is not content-addressed.
    pub(crate) fn by_content(&self, prefix: Prefix) -> Result<&Arc<Cas>> {
        self.mux.mount_at(prefix)?.as_cas().ok_or_else(|| {
            let named: Vec<String> = self.all_by_content().map(|(prefix, _)| format!("/{prefix}")).collect();
            Error::new(ErrorKind::InvalidArgument, "mount")
                .at(format!("/{prefix}"))
                .because(format!("it is not content-addressed; those that are: {}", named.join(" ")))
        })
    }

    /// Every content-addressed mount.
    pub(crate) fn all_by_content(&self) -> impl Iterator<Item = (Prefix, &Arc<Cas>)> {
        self.mux.mounts().iter().filter_map(|mount| Some((mount.prefix(), mount.as_cas()?)))
    }

    /// The stores of all mounts of kind `zstor`.
    pub(crate) fn zstors(&self) -> impl Iterator<Item = (Prefix, &Zstor)> {
        self.disks.iter().filter_map(|disk| match &disk.kept {
            Kept::Whole { .. } | Kept::Packs { .. } | Kept::Rows(_) => None,
            Kept::Shards(zstor) => Some((disk.prefix, zstor.as_ref())),
        })
    }

    /// The block store of a mount that has one on disk, in the order in which its blocks lie there.
    pub(crate) fn segments_of(&self, prefix: Prefix) -> Option<&Segments> {
        match &self.disk(prefix)?.kept {
            Kept::Whole { segments, .. } => Some(segments),
            Kept::Shards(_) | Kept::Packs { .. } | Kept::Rows(_) => None,
        }
    }

    /// The working tree of a mount.
    ///
    /// # Errors
    /// `NotFound` naming the mounts there are; `InvalidArgument` for one that has none.
    pub(crate) fn tree(&self, prefix: Prefix) -> Result<&Tree> {
        self.mux.mount_at(prefix)?.as_tree().ok_or_else(|| {
            let named: Vec<String> = self.trees().map(|(prefix, _)| format!("/{prefix}")).collect();
            Error::new(ErrorKind::InvalidArgument, "mount")
                .at(format!("/{prefix}"))
                .because(format!("it has no working tree, and no commits; those that have: {}", named.join(" ")))
        })
    }

    /// Every working tree.
    pub(crate) fn trees(&self) -> impl Iterator<Item = (Prefix, &Tree)> {
        self.mux.mounts().iter().filter_map(|mount| Some((mount.prefix(), mount.as_tree()?)))
    }

    /// Commits what was written, and makes everything that was put or written durable, and the indexes too, so that the next
    /// opening has nothing to catch up with; nothing can be put or pinned after it. Without it nothing is lost that was
    /// durable before. A part that fails keeps no other from its end; the first error is told.
    pub(crate) async fn close(&self) -> Result<()> {
        let (mut closed, mut uncommitted) = (Ok(()), Vec::new());
        for (prefix, tree) in self.trees() {
            if self.disk(prefix).is_some_and(Disk::is_shared)
                && let Err(error) = tree.commit("").await
            {
                closed = closed.and(Err(error));
            }
            closed = closed.and(tree.close().await);
            // Also what was changed while the rest was being committed.
            if !tree.is_committed() {
                uncommitted.push(prefix);
            }
        }
        for (_, cas) in self.all_by_content() {
            closed = closed.and(cas.dag().flush().await);
        }
        closed = closed.and(self.vfs.sync(self.vfs.root()).await);
        for pins in &self.pins {
            closed = closed.and(pins.close().await);
        }
        for disk in &self.disks {
            closed = closed.and(disk.close(!uncommitted.contains(&disk.prefix)).await);
        }
        if let Some(elsewhere) = &self.elsewhere {
            closed = closed.and(elsewhere.close().await);
        }
        for kept in &self.flist_kept {
            closed = closed.and(kept.close().await);
        }
        closed.and(self.slots.close().await)
    }
}

/// The file systems of some mounts.
pub(crate) async fn fsids(vfs: &dyn Vfs, config: &Config, which: fn(&config::Mount) -> bool) -> Result<Vec<Fsid>> {
    let mut fsids = Vec::new();
    for mount in config.mount.iter().filter(|mount| which(mount)) {
        let name = Name::new(mount.prefix().as_str().as_bytes())?;
        let attr = vfs.lookup(vfs.root(), &name).await?;
        vfs.release(attr.ino, 1);
        fsids.push(attr.fsid);
    }
    Ok(fsids)
}

/// The host directory of a local mount.
pub(crate) fn local_dir(data: &Path, dir: Option<&Path>) -> PathBuf {
    dir.map_or_else(|| data.join("local"), Into::into)
}

/// Where an overlay keeps the flist that it lies over.
pub(crate) fn kept_flists_dir(data: &Path, prefix: Prefix) -> PathBuf {
    content_dir(data, prefix).join("flist")
}

/// The directory of the flists of a mount.
pub(crate) fn flist_dir(data: &Path, dir: Option<&Path>) -> PathBuf {
    dir.map_or_else(|| data.join("flists"), Into::into)
}

/// Checks that a directory which the configuration names is there.
fn named_dir(dir: &Path) -> Result<()> {
    let refuse = |kind, why: &str| Err(Error::new(kind, "mount.local").at(dir.display()).because(why));
    match std::fs::metadata(dir) {
        Ok(there) if there.is_dir() => Ok(()),
        Ok(_) => refuse(ErrorKind::NotDir, "the directory to serve is something else"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            refuse(ErrorKind::NotFound, "the directory to serve is not there: make it first")
        }
        Err(error) => Err(host(dir, error)),
    }
}

/// The clock and the randomness of the host.
pub(crate) fn env() -> Env {
    Env {
        now: Arc::new(SystemTime::now),
        fill: Arc::new(|buffer| getrandom::fill(buffer).expect("the host gives randomness")),
    }
}

/// A number that nobody can predict.
pub(crate) fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    (env().fill)(&mut bytes);
    u128::from_le_bytes(bytes)
}

pub(crate) fn media(dir: &Path) -> Result<Arc<FileMedia>> {
    private_dir(dir)?;
    FileMedia::open(dir).map(Arc::new)
}

fn dag(blocks: Arc<dyn BlockStore>, config: &Config) -> Dag {
    let params = Profile::from(config.profile).params();
    Dag::new(blocks, DagOptions { params, ..DagOptions::default() })
}

/// Where a working tree is kept beside its blocks, when it commits by itself, and what it keeps of that.
struct Below {
    journal: Arc<dyn Media>,
    heads: Arc<dyn Heads>,
    auto_commit: Option<AutoCommit>,
    retention: Retention,
    /// Whether names outlive this process without a sync.
    write_through: bool,
    /// What the tree may fill.
    room: SpaceFn,
}

/// Blocks on local disk, and the working tree over them.
struct OnDisk {
    disk: Disk,
    blocks: Arc<dyn BlockStore>,
    pins: Arc<Pins>,
    below: Below,
    space: SpaceFn,
}

/// The directory of what a mount has on local disk.
fn content_dir(data: &Path, prefix: Prefix) -> PathBuf {
    data.join("mounts").join(prefix.as_str())
}

/// Opens what a mount has on local disk, in `dir`.
async fn on_disk(
    prefix: Prefix,
    dir: &Path,
    (auto_commit, retention, write_through): (Option<AutoCommit>, Retention, bool),
) -> Result<OnDisk> {
    let space = space_of_disk(dir.to_owned());
    let (blocks, index, env) = (media(&dir.join("blocks"))?, media(&dir.join("index"))?, env());
    let segments = Segments::open(blocks.clone(), index.clone(), segments_options(&space, 1), &env);
    let segments = Arc::new(segments.await.map_err(|error| error.at(dir.display()))?);
    let disk = Disk { prefix, kept: Kept::Whole { segments: segments.clone(), media: [blocks, index] } };
    let pins = Arc::new(Pins::open(media(&dir.join("pins"))?, &env).await?);
    let heads = Arc::new(LogHeads::open(media(&dir.join("heads"))?, &env).await?);
    let journal = dir.join("journal");
    private_dir(&journal)?;
    let journal = Arc::new(FileMedia::open_ahead(journal)?);
    let below = Below { journal, heads, auto_commit, retention, write_through, room: room(&space) };
    Ok(OnDisk { disk, blocks: segments, pins, below, space })
}

/// Opens what a mount has in a bucket, to write it or to see what another writes.
async fn in_bucket(
    config: &Config,
    data: &DataDir,
    mount: &BucketMount,
    (auto_commit, retention): (Option<AutoCommit>, Retention),
) -> Result<(Mount, Disk, Arc<Pins>)> {
    let (prefix, env) = (mount.prefix.0, env());
    let opened = bucket::open(data.path(), mount, &env).await?;
    let local = mount.local_dir(data.path());
    let pins = Arc::new(Pins::open(bucket::pins_media(&opened, &local, &env)?, &env).await?);
    let space = space_of_disk(local);
    let heads: Arc<dyn Heads> = Arc::new(opened.store.clone());
    let (journal, auto_commit): (Arc<dyn Media>, _) = if mount.follow {
        if heads.load(&Name::new(HEAD.as_bytes())?).await?.is_none() {
            let why = "nothing was committed there yet: start again when there is something to follow";
            return Err(Error::new(ErrorKind::NotFound, "s3.mount").because(why));
        }
        (Arc::new(MemMedia::default()), None)
    } else {
        private_dir(&opened.journal)?;
        (opened.sealed("journal", Arc::new(FileMedia::open_ahead(opened.journal.clone())?), &env), auto_commit)
    };
    let below = Below { journal, heads, auto_commit, retention, write_through: mount.is_async, room: room(&space) };
    let tree = tree_over(dag(opened.blocks.clone(), config), below).await?;
    let watching = if mount.follow {
        bucket::follow(tree.clone())
    } else {
        bucket::guard(tree.clone(), opened.store.clone(), opened.journal.clone())
    };
    let mut made = Mount::content(prefix, pins.clone(), tree, view_options(space, None));
    if mount.follow {
        made = Mount::location(prefix, read_only_view(made.vfs().clone()), env);
    }
    let kept = Kept::Packs { store: opened.store, near: opened.near, _watching: watching };
    Ok((made, Disk { prefix, kept }, pins))
}

/// Opens what a mount has in an SQLite file or on a Redis server.
async fn in_rows(
    config: &Config,
    prefix: Prefix,
    opened: Result<database::Opened>,
    (auto_commit, retention, write_through): (Option<AutoCommit>, Retention, bool),
) -> Result<(Mount, Disk, Arc<Pins>)> {
    let (opened, env) = (opened?, env());
    let pins = Pins::open(opened.sealed("pins", media(&opened.local.join("pins"))?, &env), &env).await?;
    let (pins, journal) = (Arc::new(pins), opened.local.join("journal"));
    private_dir(&journal)?;
    let journal = opened.sealed("journal", Arc::new(FileMedia::open_ahead(journal)?), &env);
    let space = opened.space.clone();
    let room = room_of_both(&space, &space_of_disk(opened.local.clone()));
    let below = Below { journal, heads: opened.heads, auto_commit, retention, write_through, room };
    let made = content(prefix, dag(opened.blocks, config), pins.clone(), below, space, None).await?;
    Ok((made, Disk { prefix, kept: Kept::Rows(opened.database) }, pins))
}

async fn tree_over(dag: Dag, below: Below) -> Result<Tree> {
    let Below { auto_commit, retention, write_through, room, .. } = below;
    // What cannot be told now is not known: writing finds out.
    let room = Arc::new(move || room().unwrap_or(UNKNOWN));
    let options = TreeOptions::new(Name::new(HEAD.as_bytes())?, env());
    let options = TreeOptions { owner: owner(), room, auto_commit, retention, write_through, ..options };
    Tree::open(dag, below.journal, below.heads, options).await
}

/// What is seen by CID, and the root of a new tree, belong to the server, as files that it made would.
async fn content(
    prefix: Prefix,
    dag: Dag,
    pins: Arc<Pins>,
    below: Below,
    space: SpaceFn,
    elsewhere: Option<Arc<dyn BlockStore>>,
) -> Result<Mount> {
    let tree = tree_over(dag, below).await?;
    Ok(Mount::content(prefix, pins, tree, view_options(space, elsewhere)))
}

fn view_options(space: SpaceFn, elsewhere: Option<Arc<dyn BlockStore>>) -> CasViewOptions {
    let (uid, gid) = owner();
    CasViewOptions { uid, gid, space: Space::new(move || space()), elsewhere }
}

/// The user and the group of this process.
fn owner() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// What blocks leave of a disk is not for a tree either: so it can always commit.
fn room(space: &SpaceFn) -> SpaceFn {
    let (reserve_len, space) = (reserve_len(space().map_or(0, |space| space.bytes_total)), space.clone());
    Arc::new(move || space().map(|space| FsStat { bytes_free: space.bytes_free.saturating_sub(reserve_len), ..space }))
}

/// What there is room for where blocks are and where the journal is.
fn room_of_both(blocks: &SpaceFn, journal: &SpaceFn) -> SpaceFn {
    let (blocks, journal) = (room(blocks), room(journal));
    Arc::new(move || {
        let (blocks, journal) = (blocks()?, journal()?);
        Ok(FsStat { bytes_free: blocks.bytes_free.min(journal.bytes_free), ..blocks })
    })
}

/// Segments in a directory leave a little of the disk, so that what is removed can be noted, and what is left be moved;
/// stores that share a disk leave it together.
pub(crate) fn segments_options(space: &SpaceFn, store_count: u64) -> SegmentsOptions {
    let bytes_total = space().map_or(0, |space| space.bytes_total);
    let (space, reserve_len) = (space.clone(), reserve_len(bytes_total));
    let is_full = move || space().is_ok_and(|space| space.bytes_free < reserve_len);
    let segment_len_max = u32::try_from(segment_len(bytes_total / store_count.max(1))).unwrap_or(u32::MAX);
    SegmentsOptions { segment_len_max, is_full: Some(Arc::new(is_full)), ..SegmentsOptions::default() }
}

/// How long segments of blocks are on a disk of so many bytes.
fn segment_len(bytes_total: u64) -> u64 {
    (bytes_total / SEGMENT_PART).clamp(SEGMENT_LEN_MIN, SEGMENT_LEN_MAX)
}

/// How much blocks leave of a disk of so many bytes.
fn reserve_len(bytes_total: u64) -> u64 {
    segment_len(bytes_total) + (bytes_total / DISK_RESERVE_PART).min(DISK_RESERVE_LEN)
}

/// What the disk has that `dir` is on.
pub(crate) fn space_of_disk(dir: PathBuf) -> SpaceFn {
    Arc::new(move || {
        let stat = rustix::fs::statvfs(&dir).map_err(|error| host(&dir, error.into()))?;
        Ok(FsStat {
            bytes_total: stat.f_blocks.saturating_mul(stat.f_frsize),
            bytes_free: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes_total: 0,
            inodes_free: 0,
        })
    })
}

/// What the limit leaves.
fn space_of_ram(limit: Arc<MemLimit>) -> SpaceFn {
    Arc::new(move || {
        let bytes_total = limit.len_max() as u64;
        let bytes_free = bytes_total.saturating_sub(limit.used_len() as u64);
        Ok(FsStat { bytes_total, bytes_free, inodes_total: 0, inodes_free: 0 })
    })
}

fn quarter_of_ram() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let info = rustix::system::sysinfo();
        let unit = u64::from(info.mem_unit.max(1));
        match info.totalram.saturating_mul(unit) / 4 {
            0 => MEM_LIMIT_UNKNOWN,
            quarter => quarter,
        }
    }
    #[cfg(not(target_os = "linux"))]
    MEM_LIMIT_UNKNOWN
}
