//! The stores behind the mounts, opened as the configuration says: what a process has that owns a data directory.

mod disk;
mod opening;
mod space;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use muxfs::{
    Addressing, Env, Error, ErrorKind, Name, Prefix, Result,
    block::Segments,
    cas::Cas,
    ipns::Records,
    mux::{Later, Mount, MuxFs},
    pins::Pins,
    tree::{AutoCommit, Tree},
    vfs::{Fsid, Vfs, as_store::AsStore, union::Slots, watch::Watch},
};
use muxfs_local::FileMedia;
use muxfs_zstor::Zstor;

use self::opening::{Opened, Opening};
pub(crate) use self::{
    disk::Disk,
    space::{SpaceFn, segments_options, space_of_disk},
};
use crate::{
    config::{self, Config, ZstorMount},
    data_dir::{DataDir, content_dir, private_dir},
    mounts::Mounts,
    reload::Upkeep,
    sources::Elsewhere,
};

/// The name of the head of a mount's tree.
pub(crate) const HEAD: &str = "main";

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
    /// What is to be ended with each mount, in their order; nothing yet of one that is away.
    parts: Vec<OnceLock<Parts>>,
    /// The mounts that were away at the start.
    awaited: Vec<Awaited>,
    /// How working trees commit, in a server.
    auto_commit: Option<AutoCommit>,
    slots: Arc<Slots>,
    /// Where mounts of kind `ipfs` look for what was not put here.
    elsewhere: Option<Elsewhere>,
    /// The file systems of mounts of kind `overlay`.
    pub(crate) overlays: Vec<Fsid>,
    /// The QFS calls of mounts by place, as they are asked for, and whether who puts makes it durable: each knows which
    /// directories it looked through.
    pub(crate) places: Mutex<BTreeMap<(Prefix, bool), Arc<AsStore>>>,
}

/// What is to be ended with a mount.
#[derive(Debug, Default)]
struct Parts {
    /// The block store on disk.
    disk: Option<Disk>,
    /// Those on disk.
    pins: Option<Arc<Pins>>,
    /// What it keeps of chunks.
    chunks: Option<Arc<Segments>>,
}

/// A mount whose store was away at the start.
#[derive(Debug)]
pub(crate) struct Awaited {
    prefix: Prefix,
    later: Later,
    /// As the next look opens it.
    mount: Mutex<config::Mount>,
    /// Where its parts go.
    at: usize,
}

impl Awaited {
    pub(crate) fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// Why it is not there, until it is.
    pub(crate) fn absence(&self) -> Option<Error> {
        self.later.mount().absence()
    }

    /// Has it looked for on other nodes; whether they are others.
    pub(crate) fn set_nodes(&self, new: &ZstorMount) -> bool {
        match &mut *self.mount.lock().unwrap_or_else(PoisonError::into_inner) {
            config::Mount::Zstor(mount) if mount.nodes != new.nodes => {
                mount.nodes.clone_from(&new.nodes);
                true
            }
            _ => false,
        }
    }
}

impl Instance {
    /// Opens every mount of `config` over `data`; working trees commit by themselves as `auto_commit` says. A mount whose store
    /// is away comes later, but for one that is alone.
    ///
    /// # Errors
    /// Those of the stores, naming the mount.
    pub(crate) async fn open(config: Config, data: &DataDir, auto_commit: Option<&AutoCommit>) -> Result<Self> {
        let slots = Arc::new(Slots::open(media(&data.path().join("slots"))?, &env()).await?);
        let mut mux = MuxFs::new().with_slots(slots.clone());
        if let Some(default) = config.default {
            mux = mux.with_default_write(default.0);
        }
        let is_ipfs = |mount: &config::Mount| matches!(mount, config::Mount::Ipfs { .. });
        let elsewhere = if config.mount.iter().any(is_ipfs) {
            Box::pin(Elsewhere::open(data.path(), &config.ipfs, &env())).await?
        } else {
            None
        };
        let (mut parts, mut awaited) = (Vec::new(), Vec::new());
        let mut opening = Opening {
            config: &config,
            data: data.path(),
            auto_commit,
            elsewhere: elsewhere.as_ref(),
            flists: Vec::new(),
        };
        for mount in &config.mount {
            match opening.open(mount).await {
                Ok(None) => {}
                Ok(Some(opened)) => {
                    mux.mount(opened.mount)?;
                    parts.push(OnceLock::from(opened.parts));
                }
                Err(error) if is_away(&error, mount) && config.mount.len() > 1 => {
                    tracing::warn!("/{} is away, all else is there: {error:#}", mount.prefix());
                    let later = Later::new(mount.prefix(), addressing(mount), &error, &env());
                    mux.mount(later.mount())?;
                    let (prefix, mount) = (mount.prefix(), Mutex::new(mount.clone()));
                    awaited.push(Awaited { prefix, later, mount, at: parts.len() });
                    parts.push(OnceLock::new());
                }
                Err(error) => return Err(error),
            }
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
            parts,
            awaited,
            auto_commit: auto_commit.cloned(),
            slots,
            elsewhere,
            places: Mutex::default(),
        })
    }

    /// The mounts that were away at the start.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = &Awaited> {
        self.awaited.iter()
    }

    /// Opens one that is away, and fills it. For one caller at a time, until it is there.
    ///
    /// # Errors
    /// Those of the stores, naming the mount.
    pub(crate) async fn open_awaited(&self, awaited: &Awaited) -> Result<()> {
        let mut opening = Opening {
            config: &self.config,
            data: &self.config.data,
            auto_commit: self.auto_commit.as_ref(),
            elsewhere: self.elsewhere.as_ref(),
            flists: Vec::new(),
        };
        let mount = awaited.mount.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let opened = opening.open(&mount).await.inspect_err(|error| awaited.later.still_away(error))?;
        let (Some(Opened { mount, parts }), Some(place)) = (opened, self.parts.get(awaited.at)) else {
            return Err(Error::new(ErrorKind::Internal, "mount.await").at(format!("/{}", awaited.prefix())));
        };
        // Its parts first: whoever finds the mount finds them.
        if place.set(parts).is_err() {
            return Err(Error::new(ErrorKind::Exists, "mount.await").at(format!("/{}", awaited.prefix())));
        }
        awaited.later.come(mount)
    }

    /// The content-addressed mount that is named, or else every one.
    ///
    /// # Errors
    /// As [`Instance::by_content`]; where none is named, as [`Instance::check_all_there`].
    pub(crate) fn named_or_all(&self, named: Option<Prefix>) -> Result<Vec<(Prefix, &Arc<Cas>)>> {
        if let Some(prefix) = named {
            return Ok(vec![(prefix, self.by_content(prefix)?)]);
        }
        self.check_all_there()?;
        Ok(self.all_by_content().collect())
    }

    /// Checks that no mount is away, for who speaks of all.
    ///
    /// # Errors
    /// Why the first of them is.
    pub(crate) fn check_all_there(&self) -> Result<()> {
        self.mux.mounts().iter().find_map(Mount::absence).map_or(Ok(()), Err)
    }

    /// Whether it serves others for as long as it is there, and what it has in RAM is worth something.
    pub(crate) fn serves(&self) -> bool {
        self.auto_commit.is_some()
    }

    fn parts(&self) -> impl Iterator<Item = &Parts> {
        self.parts.iter().filter_map(OnceLock::get)
    }

    /// The block stores on disk.
    fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.parts().filter_map(|parts| parts.disk.as_ref())
    }

    /// Who is asked for records of names that are not known here.
    pub(crate) fn name_sources(&self) -> Vec<Arc<dyn Records>> {
        self.elsewhere.as_ref().map(|elsewhere| elsewhere.records.clone()).unwrap_or_default()
    }

    /// The blocks of a mount that has them on disk.
    pub(crate) fn disk(&self, prefix: Prefix) -> Option<&Disk> {
        self.disks().find(|disk| disk.prefix == prefix)
    }

    /// The mount at a prefix.
    ///
    /// # Errors
    /// `NotFound` naming the mounts there are; `Unavailable` for one that is away.
    pub(crate) fn there(&self, prefix: Prefix) -> Result<&Mount> {
        let mount = self.mux.mount_at(prefix)?;
        mount.absence().map_or(Ok(mount), Err)
    }

    /// The content-addressed mount at a prefix.
    ///
    /// # Errors
    /// `NotFound` naming the mounts there are; `InvalidArgument` for one that is not content-addressed; `Unavailable` for one
    /// that is away.
    pub(crate) fn by_content(&self, prefix: Prefix) -> Result<&Arc<Cas>> {
        self.there(prefix)?.as_cas().ok_or_else(|| {
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
        self.disks().filter_map(|disk| Some((disk.prefix, disk.zstor()?)))
    }

    /// The same, for who speaks of the one that is named, or else of all.
    ///
    /// # Errors
    /// Why one of those is away.
    pub(crate) fn zstors_there(&self, named: Option<Prefix>) -> Result<Vec<(Prefix, &Zstor)>> {
        let is_meant = |prefix| self.config.zstor(prefix).is_some() && named.is_none_or(|named| named == prefix);
        let away = self.awaited.iter().filter(|awaited| is_meant(awaited.prefix)).find_map(Awaited::absence);
        away.map_or_else(|| Ok(self.zstors().collect()), Err)
    }

    /// The block store of a mount that has one on disk, in the order in which its blocks lie there.
    pub(crate) fn segments_of(&self, prefix: Prefix) -> Option<&Segments> {
        self.disk(prefix)?.segments()
    }

    /// The working tree of a mount.
    ///
    /// # Errors
    /// `NotFound` naming the mounts there are; `InvalidArgument` for one that has none; `Unavailable` for one that is away.
    pub(crate) fn tree(&self, prefix: Prefix) -> Result<&Tree> {
        self.there(prefix)?.as_tree().ok_or_else(|| {
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
        for pins in self.parts().filter_map(|parts| parts.pins.as_ref()) {
            closed = closed.and(pins.close().await);
        }
        for disk in self.disks() {
            closed = closed.and(disk.close(!uncommitted.contains(&disk.prefix)).await);
        }
        if let Some(elsewhere) = &self.elsewhere {
            closed = closed.and(elsewhere.close().await);
        }
        for kept in self.parts().filter_map(|parts| parts.chunks.as_ref()) {
            closed = closed.and(kept.close().await);
        }
        closed.and(self.slots.close().await)
    }
}

/// Whether a mount could not be opened because what it keeps all in, elsewhere, is not there now.
fn is_away(error: &Error, mount: &config::Mount) -> bool {
    use config::Mount::{Redis, S3, Zstor};

    // Not a vault: to open it takes its password, and who gave that is not asked again and again.
    error.kind() == ErrorKind::Unavailable && matches!(mount, S3(_) | Redis(_) | Zstor(_))
}

/// How a mount is addressed that may be away: by content, but for one that is only read.
fn addressing(mount: &config::Mount) -> Addressing {
    let is_read = matches!(mount, config::Mount::S3(bucket) if bucket.follow);
    if is_read { Addressing::Location } else { Addressing::Content }
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
