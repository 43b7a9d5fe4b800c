//! How each kind of mount is opened: one function a kind, over what a working tree takes anywhere.

use std::{path::Path, sync::Arc};

use muxfs::{
    BlockStore, Error, ErrorKind, Name, Prefix, Result,
    block::{Mem, MemOptions, Segments, StripeCode},
    cas_view::{CasViewOptions, Space},
    dag::{Dag, DagOptions, Profile},
    heads::{Heads, LogHeads, MemHeads},
    media::{Media, MemMedia},
    mux::Mount,
    pins::Pins,
    tree::{AutoCommit, Retention, Tree, TreeOptions},
    vfs::{Vfs, narrow::read_only_view},
};
use muxfs_flist::{FlistVfs, KeptFlists};
use muxfs_local::{FileMedia, LocalOptions, LocalVfs};

use super::{
    HEAD, Parts,
    disk::{Disk, Kept},
    env, flist_dir, kept_flists_dir, local_dir, media,
    space::{SpaceFn, UNKNOWN, quarter_of_ram, room, room_of_both, segments_options, space_of_disk, space_of_ram},
};
use crate::{
    bucket::{self, BucketMount},
    commands::put::host,
    config::{self, ByteCount, Config, FlistMount, OverlayMount, ZstorMount},
    data_dir::{content_dir, private_dir},
    database, flist, overlay,
    sources::Elsewhere,
    vault::{self, VaultMount, Way},
    zstor,
};

/// A mount, and what is to be ended with it.
pub(super) struct Opened {
    pub(super) mount: Mount,
    pub(super) parts: Parts,
}

impl Opened {
    /// A mount with nothing of its own to end.
    fn alone(mount: Mount) -> Self {
        Self { mount, parts: Parts::default() }
    }

    fn on_disk(mount: Mount, disk: Disk, pins: Arc<Pins>) -> Self {
        Self { mount, parts: Parts { disk: Some(disk), pins: Some(pins), chunks: None } }
    }
}

/// When a working tree commits by itself, and what it keeps of that.
struct Commits {
    auto: Option<AutoCommit>,
    retention: Retention,
    /// Whether names outlive this process without a sync.
    write_through: bool,
}

/// Where a working tree is kept beside its blocks.
struct Below {
    journal: Arc<dyn Media>,
    heads: Arc<dyn Heads>,
    commits: Commits,
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

/// What all mounts are opened with, one after the other.
pub(super) struct Opening<'a> {
    pub(super) config: &'a Config,
    /// The path of the data directory.
    pub(super) data: &'a Path,
    pub(super) auto_commit: Option<&'a AutoCommit>,
    pub(super) elsewhere: Option<&'a Elsewhere>,
    /// What overlays may lie over.
    pub(super) flists: Vec<(Prefix, Arc<FlistVfs>)>,
}

impl Opening<'_> {
    /// Opens a mount; `None` for one that comes by default and cannot be on this machine.
    ///
    /// # Errors
    /// Those of the stores, naming the mount.
    pub(super) async fn open(&mut self, mount: &config::Mount) -> Result<Option<Opened>> {
        let opened = match mount {
            config::Mount::Local { prefix, dir, read_only } => self.local(prefix.0, dir.as_deref(), *read_only)?,
            config::Mount::Flist(mount) => Box::pin(self.flist(mount)).await?,
            config::Mount::Overlay(mount) => Box::pin(self.overlay(mount)).await?,
            config::Mount::Mem { prefix, limit } => Box::pin(self.mem(prefix.0, *limit)).await?,
            config::Mount::Ipfs { prefix, is_async } => Box::pin(self.ipfs(prefix.0, *is_async)).await?,
            config::Mount::S3(mount) => {
                Box::pin(self.bucket(mount)).await.map_err(|error| error.at(format!("/{}", mount.prefix.0)))?
            }
            config::Mount::Sqlite(mount) => {
                let opened = database::open_sqlite(self.data, mount, &env()).await;
                Box::pin(self.rows(mount.prefix.0, opened, mount.is_async)).await?
            }
            config::Mount::Redis(mount) => {
                let opened = database::open_redis(self.data, mount, &env()).await;
                Box::pin(self.rows(mount.prefix.0, opened, mount.is_async)).await?
            }
            config::Mount::Vault(mount) => {
                Box::pin(self.vault(mount)).await.map_err(|error| error.at(format!("/{}", mount.prefix.0)))?
            }
            config::Mount::Zstor(mount) => {
                if let Err(error) = StripeCode::new(mount.data, mount.parity)
                    && mount.is_default
                {
                    tracing::warn!("there is no /{} on this machine: {error:#}", mount.prefix.0);
                    return Ok(None);
                }
                Box::pin(self.zstor(mount)).await?
            }
        };
        Ok(Some(opened))
    }

    fn commits(&self, write_through: bool) -> Commits {
        Commits { auto: self.auto_commit.cloned(), retention: self.config.history.retention(), write_through }
    }

    fn dag(&self, blocks: Arc<dyn BlockStore>) -> Dag {
        let params = Profile::from(self.config.profile).params();
        Dag::new(blocks, DagOptions { params, ..DagOptions::default() })
    }

    fn local(&self, prefix: Prefix, dir: Option<&Path>, read_only: bool) -> Result<Opened> {
        match dir {
            // One that somebody named and that is absent is misspelt, or its disk is not mounted.
            Some(dir) => named_dir(dir)?,
            None => private_dir(&local_dir(self.data, None))?,
        }
        let dir = local_dir(self.data, dir);
        let handles = self.data.join("handles");
        private_dir(&handles)?;
        let options = LocalOptions { read_only, ..LocalOptions::default() };
        let vfs = LocalVfs::open(&dir, &handles.join(prefix.as_str()), options)?;
        Ok(Opened::alone(Mount::location(prefix, vfs, env())))
    }

    async fn flist(&mut self, mount: &FlistMount) -> Result<Opened> {
        let (prefix, dir) = (mount.prefix.0, flist_dir(self.data, mount.dir.as_deref()));
        match &mount.dir {
            Some(dir) => named_dir(dir)?,
            None => private_dir(&dir)?,
        }
        let (chunks, kept) = Box::pin(flist::chunks(self.data, mount, &env())).await?;
        let scratch = self.data.join("scratch");
        private_dir(&scratch)?;
        let mut flists = FlistVfs::new(dir, scratch, chunks, owner()).with_profiles(mount.profiles.into());
        if mount.repositories {
            flists = flists.of_repositories();
        }
        if let Some(signers) = flist::signers(mount)? {
            flists = flists.signed_by(signers);
        }
        let flists = Arc::new(flists);
        self.flists.push((prefix, flists.clone()));
        let mount = Mount::location(prefix, flists, env());
        Ok(Opened { mount, parts: Parts { chunks: kept, ..Parts::default() } })
    }

    async fn overlay(&self, mount: &OverlayMount) -> Result<Opened> {
        let (prefix, over) = (mount.prefix.0, &mount.over.0);
        let dir = content_dir(self.data, prefix);
        let OnDisk { disk, blocks, pins, below, space } = self.on_disk(prefix, &dir, mount.is_async).await?;
        let lower =
            self.flists.iter().find(|(prefix, _)| *prefix == over.prefix).map(|(_, vfs)| {
                Arc::new(KeptFlists::new(vfs.clone(), kept_flists_dir(self.data, prefix))) as Arc<dyn Vfs>
            });
        let tree = Box::pin(tree_over(self.dag(blocks), below)).await;
        let tree = tree.map_err(|error| error.at(dir.display()))?;
        let overlay = overlay::open(tree, lower.as_ref(), over).await;
        let overlay = overlay.map_err(|error| error.at(format!("/{prefix}")))?;
        let mount = Mount::overlay(prefix, pins.clone(), overlay, view_options(space, None));
        Ok(Opened::on_disk(mount, disk, pins))
    }

    async fn mem(&self, prefix: Prefix, limit: Option<ByteCount>) -> Result<Opened> {
        let limit = limit.map_or_else(quarter_of_ram, |limit| limit.0);
        let len_max = usize::try_from(limit).unwrap_or(usize::MAX);
        let mem = Arc::new(Mem::new(MemOptions { len_max }));
        let space = space_of_ram(mem.limit());
        let pins = Arc::new(Pins::open(Arc::new(MemMedia::default()), &env()).await?);
        let below = Below {
            journal: Arc::new(MemMedia::within(mem.limit())),
            heads: Arc::new(MemHeads::default()),
            commits: self.commits(false),
            room: space.clone(),
        };
        content(prefix, self.dag(mem), pins, below, space, None).await.map(Opened::alone)
    }

    async fn ipfs(&self, prefix: Prefix, is_async: bool) -> Result<Opened> {
        let dir = content_dir(self.data, prefix);
        let OnDisk { disk, blocks, pins, below, space } = self.on_disk(prefix, &dir, is_async).await?;
        let others = self.elsewhere.map(|elsewhere| elsewhere.blocks.clone());
        let mount = Box::pin(content(prefix, self.dag(blocks), pins.clone(), below, space, others)).await;
        Ok(Opened::on_disk(mount.map_err(|error| error.at(dir.display()))?, disk, pins))
    }

    /// Opens what a mount has on local disk, in `dir`.
    async fn on_disk(&self, prefix: Prefix, dir: &Path, is_async: bool) -> Result<OnDisk> {
        let space = space_of_disk(dir.to_owned());
        let (blocks, index, env) = (media(&dir.join("blocks"))?, media(&dir.join("index"))?, env());
        let segments = Segments::open(blocks.clone(), index.clone(), segments_options(&space, 1), &env);
        let segments = Arc::new(segments.await.map_err(|error| error.at(dir.display()))?);
        let disk = Disk { prefix, kept: Kept::Whole { segments: segments.clone(), media: [blocks, index] } };
        let pins = Arc::new(Pins::open(media(&dir.join("pins"))?, &env).await?);
        let heads = Arc::new(LogHeads::open(media(&dir.join("heads"))?, &env).await?);
        let below = Below { journal: journal(dir)?, heads, commits: self.commits(is_async), room: room(&space) };
        Ok(OnDisk { disk, blocks: segments, pins, below, space })
    }

    /// Opens what a mount has in a bucket, to write it or to see what another writes.
    async fn bucket(&self, mount: &BucketMount) -> Result<Opened> {
        let (prefix, env) = (mount.prefix.0, env());
        let opened = bucket::open(self.data, mount, &env).await?;
        let local = mount.local_dir(self.data);
        let pins = Arc::new(Pins::open(opened.sealing.media("pins", media(&local.join("pins"))?, &env), &env).await?);
        let space = space_of_disk(local);
        let heads: Arc<dyn Heads> = Arc::new(opened.store.clone());
        let mut commits = self.commits(mount.is_async);
        let journal: Arc<dyn Media> = if mount.follow {
            if heads.load(&Name::new(HEAD.as_bytes())?).await?.is_none() {
                let why = "nothing was committed there yet: start again when there is something to follow";
                return Err(Error::new(ErrorKind::NotFound, "s3.mount").because(why));
            }
            commits.auto = None;
            Arc::new(MemMedia::default())
        } else {
            opened.sealing.media("journal", journal_in(&opened.journal)?, &env)
        };
        let below = Below { journal, heads, commits, room: room(&space) };
        let tree = tree_over(self.dag(opened.blocks.clone()), below).await;
        let tree = tree.map_err(|error| at_journal(error, &opened.journal))?;
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
        Ok(Opened::on_disk(made, Disk { prefix, kept }, pins))
    }

    /// Opens what a mount has in an SQLite file or on a Redis server.
    async fn rows(&self, prefix: Prefix, opened: Result<database::Opened>, is_async: bool) -> Result<Opened> {
        let open = async {
            let (opened, env) = (opened?, env());
            let pins = opened.sealing.media("pins", media(&opened.local.join("pins"))?, &env);
            let pins = Pins::open(pins, &env).await?;
            let journal = opened.sealing.media("journal", journal(&opened.local)?, &env);
            let (pins, space) = (Arc::new(pins), opened.space.clone());
            let room = room_of_both(&space, &space_of_disk(opened.local.clone()));
            let below = Below { journal, heads: opened.heads, commits: self.commits(is_async), room };
            let mount = content(prefix, self.dag(opened.blocks), pins.clone(), below, space, None).await;
            let mount = mount.map_err(|error| at_journal(error, &opened.local.join("journal")))?;
            Ok(Opened::on_disk(mount, Disk { prefix, kept: Kept::Rows(opened.database) }, pins))
        };
        open.await.map_err(|error: Error| error.at(format!("/{prefix}")))
    }

    /// Opens what a mount has in a vault, to write it or to read what was committed last.
    async fn vault(&self, mount: &VaultMount) -> Result<Opened> {
        let (prefix, env) = (mount.prefix.0, env());
        let opened = vault::open(self.config, mount, &env).await?;
        let mut commits = self.commits(mount.is_async);
        let journal = opened.journal.unwrap_or_else(|| {
            commits.auto = None;
            Arc::new(MemMedia::default())
        });
        let (space, pins, vault) = (opened.space, opened.pins, opened.vault);
        let room = room_of_both(&space, &space_of_disk(opened.local));
        let below = Below { journal, heads: vault.vault.clone(), commits, room };
        let mut made = content(prefix, self.dag(vault.blocks.clone()), pins.clone(), below, space, None).await?;
        if mount.way == Way::Read {
            made = Mount::location(prefix, read_only_view(made.vfs().clone()), env);
        }
        Ok(Opened::on_disk(made, Disk { prefix, kept: Kept::Vault(Box::new(vault)) }, pins))
    }

    /// Opens what a mount has in shards on nodes.
    async fn zstor(&self, mount: &ZstorMount) -> Result<Opened> {
        let (prefix, dir, env) = (mount.prefix.0, content_dir(self.data, mount.prefix.0), env());
        let opened = zstor::open(self.data, mount, &self.config.mount, &env).await;
        let store = opened.map_err(|error| error.at(format!("/{prefix}")))?;
        let pins = Arc::new(Pins::open(store.sealed("pins", media(&dir.join("pins"))?), &env).await?);
        let space: SpaceFn = Arc::new(store.space());
        let below = Below {
            journal: store.sealed("journal", journal(&dir)?),
            heads: store.heads().clone(),
            commits: self.commits(mount.is_async),
            room: room_of_both(&space, &space_of_disk(dir.clone())),
        };
        let made = content(prefix, self.dag(store.blocks().clone()), pins.clone(), below, space, None).await;
        let made = made.map_err(|error| error.at(dir.display()))?;
        Ok(Opened::on_disk(made, Disk { prefix, kept: Kept::Shards(Box::new(store)) }, pins))
    }
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

/// The journal of a mount that has `dir`.
fn journal(dir: &Path) -> Result<Arc<dyn Media>> {
    journal_in(&dir.join("journal"))
}

fn journal_in(journal: &Path) -> Result<Arc<dyn Media>> {
    private_dir(journal)?;
    Ok(Arc::new(FileMedia::open_ahead(journal)?))
}

/// Says where the journal is that is not played.
fn at_journal(error: Error, journal: &Path) -> Error {
    if error.op() == "tree.journal" { error.at(journal.display()) } else { error }
}

async fn tree_over(dag: Dag, below: Below) -> Result<Tree> {
    let Below { journal, heads, commits, room } = below;
    let Commits { auto: auto_commit, retention, write_through } = commits;
    // What cannot be told now is not known: writing finds out.
    let room = Arc::new(move || room().unwrap_or(UNKNOWN));
    let options = TreeOptions::new(Name::new(HEAD.as_bytes())?, env());
    let options = TreeOptions { owner: owner(), room, auto_commit, retention, write_through, ..options };
    Tree::open(dag, journal, heads, options).await
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
