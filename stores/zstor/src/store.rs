//! The stack over the nodes: opening it, and what may be wrong then.
//!
//! Compress over Encrypt over Erasure: what is encrypted does not compress, and no node is to see anything. A directory
//! of the mount's own tells a first start, where nodes are made, from one where they are lost. Spec: spec/zstor.md.

use std::{
    fmt,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{FutureExt as _, StreamExt as _, future::join_all};
use muxfs::{
    BlockStore, Env, Error, ErrorKind, Result,
    block::{Compress, Encrypt, Erasure, ErasureNode, ErasureOptions, Keeping, Nowhere, SegmentsOptions, check_pins},
    heads::LogHeads,
    media::{Media, MemMedia, OverlayMedia},
    vfs::FsStat,
};
use muxfs_local::FileMedia;
use tokio::sync::{Mutex as AsyncMutex, mpsc::unbounded_channel, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    bucket::BucketNode,
    dir::{Dir, How, open_files},
    distinct::Distinct,
    heads::{HeadsOptions, NodeHeads},
    key::failed,
    mark::{Found, Mark},
    members::Members,
    node::{Look, Node, NodeStore, OpenNode, Place, SegmentsOptionsOf, check_places, one_place},
    ring::KeyRing,
    rotate::{Moved, Parts, Rotation, Rotator},
    scrub::{Scrub, Scrubber},
    settler::{Settler, Settling},
    space::space,
    zdb::Zdb,
};

/// The file of the data directory that tells that the nodes were made.
const MADE: &str = "store";
/// The file by which somebody says that the machine which wrote last is gone.
const TAKE_OVER: &str = "take-over";
/// The file that keeps everything from being deleted in a data directory that took over from another.
const PINS_LOST: &str = "pins-lost";
/// What a mount keeps besides, each in a directory of segments.
pub(crate) const PARTS: [&str; 3] = ["journal", "pins", "heads"];
/// Those that are there only after the store was opened: heads may be of an opening that was refused.
const PARTS_OF_OPEN: [&str; 2] = ["journal", "pins"];

/// What a store is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// For reading and writing; a new one is made.
    Write,
    /// Nothing is made or changed: what is written is kept in memory and lost.
    Look,
}

/// How a [`Zstor`] is laid out.
#[derive(Clone)]
pub struct ZstorOptions {
    /// k: so many shards give a block back.
    pub data_count: u8,
    /// m: so many may be lost.
    pub parity_count: u8,
    /// So many shards of a block may be on nodes of one group; `None` is m.
    pub group_shards_max: Option<u8>,
    /// At least k + m.
    pub nodes: Vec<Node>,
    /// How each node keeps its blocks.
    pub segments: SegmentsOptionsOf,
    /// Whether it may be changed.
    pub access: Access,
    /// The file that the keys are from, in which others may take their place; `None` where they cannot be replaced.
    pub key_file: Option<PathBuf>,
}

impl fmt::Debug for ZstorOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data_count, parity_count, nodes, access, .. } = self;
        write!(f, "ZstorOptions({data_count}+{parity_count} on {} nodes, {access:?})", nodes.len())
    }
}

impl ZstorOptions {
    /// k + m shards on these nodes, to be read and written.
    pub fn new(data_count: u8, parity_count: u8, nodes: Vec<Node>) -> Self {
        let segments: SegmentsOptionsOf = Arc::new(|_| SegmentsOptions::default());
        let access = Access::Write;
        Self { data_count, parity_count, group_shards_max: None, nodes, segments, access, key_file: None }
    }
}

/// Whether a mount keeps something in the directory that it has for itself.
pub(crate) fn has_parts(local: &Path, parts: &[&str]) -> bool {
    parts.iter().any(|part| std::fs::read_dir(local.join(part)).is_ok_and(|mut files| files.next().is_some()))
}

/// Whether there is something that only its key can read: in `local`, the directory that a mount has for itself, or on a
/// node. What must be asked before a key is made.
///
/// Of a 0-db server, or a bucket, that does not answer nobody knows: it is taken to have something.
pub async fn holds_data(nodes: &[Node], local: &Path, env: &Env) -> bool {
    local.join(MADE).exists()
        || has_parts(local, &PARTS)
        || join_all(nodes.iter().map(|node| node.has_mark(env))).await.contains(&true)
}

/// An open store.
#[derive(Debug)]
pub struct Zstor {
    blocks: Arc<dyn BlockStore>,
    pub(crate) shards: Erasure,
    pub(crate) heads: Arc<NodeHeads>,
    pub(crate) members: Arc<Members>,
    pub(crate) counts: (u8, u8),
    /// How a node is opened that comes.
    pub(crate) how: How,
    /// Whoever holds it changes which nodes there are.
    pub(crate) changing: AsyncMutex<()>,
    pub(crate) erasure: ErasureOptions,
    pub(crate) settler: Settler,
    settling: Mutex<Option<AbortOnDropHandle<()>>>,
    rotator: Rotator,
    rotating: Mutex<Option<AbortOnDropHandle<()>>>,
    scrubber: Scrubber,
}

impl Zstor {
    /// Opens the store of these nodes under these keys, which may be a single one; a new one is made. `local` is a directory that the mount has for
    /// itself on this machine, which is there.
    ///
    /// A node that is missing or cannot be opened is logged and passed over while k others are there: with k + 1 (k where
    /// m is at most 1) everything goes on, with k what is there can be read, and nothing be put. It is looked for in the
    /// background, and used when it is there. Calls are made in a tokio runtime whose timer is enabled.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{BlockKey, BlockStore};
    /// use muxfs_zstor::{Node, Place, RootKey, Zstor, ZstorOptions};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path();
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let env = muxfs::testing::env();
    /// let key = RootKey::make(&dir.join("key"), &env)?;
    /// let place = |n: u8| Place::Dir { path: dir.join(format!("node{n}")), is_made: true };
    /// let nodes = (0..3).map(|n| Node::new(format!("{n}"), place(n))).collect();
    /// let zstor = Zstor::open(&ZstorOptions::new(2, 1, nodes), &key, dir, &env).await?;
    /// zstor.blocks().put(&BlockKey::new(b"k")?, "two of three give it back".into()).await?;
    /// zstor.close().await?;
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `BadKey` if it was made under another key; `Unavailable` naming the nodes if more than m are lost; `NotFound` if a
    /// directory of a new store is not there, or the nodes have blocks, to be written, and nobody knows what names them;
    /// `Denied` if another machine has written the store since `local` did; `InvalidArgument` where shards cannot be placed so.
    pub async fn open(
        options: &ZstorOptions,
        keys: impl Into<KeyRing> + Send,
        local: &Path,
        env: &Env,
    ) -> Result<Self> {
        Self::open_with(options, keys.into(), local, env, options.data_count).await
    }

    /// Opens what there is of a store, however many nodes are lost, for who looks at them: of blocks it reads those that
    /// can be. Nothing is made or changed, whatever the options say.
    ///
    /// # Errors
    /// As [`open`](Self::open), except that no node has to be there.
    pub async fn look(
        options: &ZstorOptions,
        keys: impl Into<KeyRing> + Send,
        local: &Path,
        env: &Env,
    ) -> Result<Self> {
        Self::open_with(&ZstorOptions { access: Access::Look, ..options.clone() }, keys.into(), local, env, 0).await
    }

    async fn open_with(options: &ZstorOptions, keys: KeyRing, local: &Path, env: &Env, nodes_min: u8) -> Result<Self> {
        let &ZstorOptions { data_count, parity_count, .. } = options;
        let stored_min = usize::from(data_count) + usize::from(parity_count > 1);
        let made = local.join(MADE);
        let mark = Mark::new(keys.store_id(), "");
        let found = Mark::find(&made).map_err(|error| failed("zstor.open", &made, error))?;
        let is_begun_anew = found == Found::Empty;
        let is_made = match found {
            Found::Mark(found) if found == mark => true,
            Found::Mark(_) => return Err(bad_key()),
            Found::Nothing | Found::Empty => has_parts(local, &PARTS_OF_OPEN),
            Found::Other(why) => {
                return Err(Error::new(ErrorKind::Corrupt, "zstor.open").at(made.display()).because(why));
            }
        };
        // Before anything is made.
        Erasure::new(options.nodes.iter().map(|node| in_group(node, Arc::new(Nowhere))), erasure(options))?;
        check_places(&options.nodes)?;
        let (opened, mut filled) = unbounded_channel();
        let (store, segments) = (keys.store_id(), options.segments.clone());
        let how = How { store, access: options.access, segments, open_media: open_files(), env: env.clone(), opened };
        let (nodes, replaced) = open_nodes(options, &how, is_made).await?;
        // The others have what they had.
        while filled.try_recv().is_ok() {}
        for name in replaced {
            how.opened.send(name).ok();
        }
        let usable = nodes.iter().filter(|node| node.lost().is_none()).count();
        for node in &nodes {
            if let Some(why) = node.lost() {
                tracing::error!(node = node.name(), place = node.place(), "a node is lost until it comes back: {why}");
            }
        }
        if usable < usize::from(nodes_min) {
            return Err(too_few(&nodes, data_count, parity_count));
        }
        if usable < stored_min {
            tracing::error!(
                "no more nodes may be lost: what is written stays in the journal on this disk until some are back"
            );
        }
        let stores = options.nodes.iter().zip(&nodes).map(|(node, open)| in_group(node, open.store.clone()));
        let stores: Vec<_> = stores.collect();
        let parts = Parts::new(keys.clone(), env);
        let sealed = |part| Ok::<_, Error>(parts.seal(part, part_of(local, part, options.access)?));
        let heads = LogHeads::open(sealed("heads")?, env).await.map_err(|error| match error.kind() {
            ErrorKind::BadKey => bad_key(),
            _ => error.at(local.join("heads").display()),
        })?;
        // Before anything is put on the nodes, or mended there.
        let looked_at = ErasureOptions { repairs_max: 0, ..erasure(options) };
        let looked_at = Erasure::new(stores.iter().cloned(), looked_at)?;
        match encrypt(&looked_at, &keys).check_key().await {
            Err(error) if error.kind() == ErrorKind::BadKey => return Err(bad_key()),
            // Of so few nodes not even all keys can be listed.
            Err(error) if error.kind() == ErrorKind::Unavailable && usable < usize::from(data_count) => {}
            checked => checked?,
        }
        let heads_options = HeadsOptions {
            write_min: stored_min,
            access: options.access,
            is_known: is_made,
            is_exclusive: options.nodes.iter().all(|node| matches!(node.place, Place::Dir { .. })),
            takes_over: local.join(TAKE_OVER).exists(),
        };
        let holders = stores.iter().map(|node| (node.name.clone(), node.store.clone()));
        let heads = NodeHeads::open(holders, heads, &keys, heads_options, local.join(PINS_LOST), env).await?;
        let shards = Erasure::open(stores, erasure(options), sealed("owed")?, env).await?;
        let encrypt = Arc::new(encrypt(&shards, &keys));
        let is_nameless = !is_made && !is_begun_anew && heads.names().is_empty();
        if is_nameless && options.access == Access::Write && shards.keys().next().await.transpose()?.is_some() {
            return Err(no_names(local, &made));
        }
        if !is_made && options.access == Access::Write {
            mark.write(&made).map_err(|error| failed("zstor.open", &made, error))?;
        }
        let files = local.join("scrub");
        let members = Members::new(&options.nodes, nodes);
        let of_scrub = Scrub { shards: shards.clone(), encrypt: encrypt.clone(), members: members.clone() };
        let scrubber =
            Scrubber::open(of_scrub, &files, options.access, |media| parts.seal("scrub", media), env).await?;
        let heads = Arc::new(heads);
        // Those that are lost are looked for from now on.
        shards.probe_nodes();
        let is_written = options.access == Access::Write;
        let counts = (data_count, parity_count);
        let layout = (counts, options.group_shards_max);
        let settler = Settler::new(shards.clone(), heads.clone(), scrubber.clone(), members.clone(), layout);
        let settling = is_written.then(|| AbortOnDropHandle::new(tokio::spawn(settler.clone().run(filled))));
        let moved = Moved {
            shards: shards.clone(),
            encrypt: encrypt.clone(),
            heads: heads.clone(),
            members: members.clone(),
            parts,
            access: options.access,
            local: local.into(),
            file: options.key_file.clone(),
            counts,
        };
        let rotator = Rotator::new(moved, env);
        let blocks: Arc<dyn BlockStore> = Arc::new(Distinct::new(Arc::new(Compress::new(encrypt))));
        let (pins_lost, of_heads) = (local.join(PINS_LOST), heads.clone());
        // Nor when another machine has taken over, whose blocks nothing here leads to, or for as long as one that comes next may find
        // other heads than these.
        let blocks = Arc::new(Keeping::new(blocks, move || {
            let (pins, heads) = (check_pins(&pins_lost), of_heads.clone());
            async move {
                pins?;
                heads.check_alone().await
            }
            .boxed()
        }));
        let (changing, settling, rotating) = (AsyncMutex::default(), Mutex::new(settling), Mutex::default());
        let erasure = erasure(options);
        Ok(Self {
            blocks,
            shards,
            heads,
            members,
            counts,
            how,
            changing,
            erasure,
            settler,
            settling,
            rotator,
            rotating,
            scrubber,
        })
    }

    /// All layers, from above.
    pub fn blocks(&self) -> &Arc<dyn BlockStore> {
        &self.blocks
    }

    /// The heads, which are on the nodes too: what a new machine finds is there.
    pub fn heads(&self) -> &Arc<NodeHeads> {
        &self.heads
    }

    /// The nodes that there are now.
    pub fn nodes(&self) -> Vec<OpenNode> {
        self.members.open()
    }

    /// How far it is that everything is where it belongs.
    pub fn settling(&self) -> Settling {
        self.settler.now()
    }

    /// Has no more read in a second than so many bytes, for what is moved to where it belongs, and as much for what is moved
    /// to another key; `None` is as fast as can be, as it is where nobody says anything.
    pub fn set_settle_rate(&self, bytes_per_sec: Option<NonZeroU64>) {
        self.settler.set_rate(bytes_per_sec);
        self.rotator.set_rate(bytes_per_sec);
    }

    /// A media that seals what it is given under the keys of the store, for what a mount keeps beside its blocks: `journal`
    /// and `pins`, each with a key of its own.
    pub fn sealed(&self, purpose: &str, media: Arc<dyn Media>) -> Arc<dyn Media> {
        self.rotator.seal(purpose, media)
    }

    /// Draws a new key, and writes it to the file of the keys, durably, before anything is put under it; from then on all
    /// is. Whether it did: where older keys are still being replaced, that goes on first. See
    /// [`go_on_rotating`](Self::go_on_rotating).
    ///
    /// # Errors
    /// `InvalidArgument` where [`ZstorOptions::key_file`] is `None`; `BadKey` if the file has other keys by now; `Denied` if
    /// another machine has the store; those of the file, and then all is as before, or the next opening has the new key.
    pub async fn rotate(&self) -> Result<bool> {
        self.rotator.rotate().await
    }

    /// Moves what is under older keys to the newest, in the background and until [`close`](Self::close); the older ones go from
    /// the file when there is nothing left. For who has opened everything that is [sealed](Self::sealed).
    pub fn go_on_rotating(&self) {
        let mut rotating = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        if rotating.is_none() {
            *rotating = Some(AbortOnDropHandle::new(tokio::spawn(self.rotator.clone().run())));
        }
    }

    /// How far the replacing of keys is, now and as it goes on.
    pub fn rotation(&self) -> watch::Receiver<Rotation> {
        self.rotator.now()
    }

    /// What goes through all shards and heals them.
    pub fn scrubber(&self) -> &Scrubber {
        &self.scrubber
    }

    /// What tells how much fits: what the nodes have, less what shards take more than blocks. A node that is lost tells
    /// nothing, and none that has not answered within a tenth of a second.
    pub fn space(&self) -> impl Fn() -> Result<FsStat> + Send + Sync + 'static {
        let (members, counts) = (self.members.clone(), self.counts);
        move || {
            let nodes = members.all();
            // Nothing more is put on those that are drained.
            let live = nodes.iter().filter(|member| !member.node.is_drained).map(|member| &member.open);
            let live: Vec<_> = live.filter(|node| node.lost().is_none()).map(|node| &node.store).collect();
            let rooms = |deadline| {
                for node in &live {
                    Arc::clone(node).ask_room();
                }
                live.iter().filter_map(|node| node.room(deadline)).collect()
            };
            space(rooms, counts)
        }
    }

    /// Makes what was put durable and writes indexes down; nothing can be put afterwards. Lost nodes keep no other from
    /// its end, and are no error: it was said when they were found. One that takes longer than half a minute is left
    /// alone: what was flushed is durable all the same.
    ///
    /// # Errors
    /// Those of the nodes that are there, the first.
    pub async fn close(&self) -> Result<()> {
        let settling = self.settling.lock().unwrap_or_else(PoisonError::into_inner).take();
        let rotating = self.rotating.lock().unwrap_or_else(PoisonError::into_inner).take();
        for moving in settling.into_iter().chain(rotating) {
            moving.abort();
            // It has the nodes until it has ended.
            moving.await.ok();
        }
        let noted = self.scrubber.close().await;
        let heads = self.heads.close().await;
        // What mends has to end before what it writes to.
        let owed = self.shards.close().await;
        let nodes = self.nodes();
        let closed: Result<()> = join_all(nodes.iter().map(|node| node.store.close())).await.into_iter().collect();
        closed.and(heads).and(owed).and(noted)
    }
}

/// The media of a part that the mount has for itself; who only looks changes nothing there.
fn part_of(local: &Path, part: &str, access: Access) -> Result<Arc<dyn Media>> {
    let dir = local.join(part);
    Ok(match access {
        Access::Write => Arc::new(FileMedia::open(dir)?),
        Access::Look if dir.is_dir() => Arc::new(OverlayMedia::new(Arc::new(FileMedia::open(dir)?))),
        Access::Look => Arc::new(MemMedia::default()),
    })
}

fn encrypt(shards: &Erasure, keys: &KeyRing) -> Encrypt {
    let (newest, older) = keys.of("blocks");
    let encrypt = Encrypt::new(Arc::new(shards.clone()), newest);
    let encrypt = older.into_iter().fold(encrypt, Encrypt::with_older_key);
    keys.former_blocks().fold(encrypt, Encrypt::with_retired_key)
}

fn erasure(options: &ZstorOptions) -> ErasureOptions {
    let &ZstorOptions { data_count, parity_count, group_shards_max, access, .. } = options;
    let default = ErasureOptions::default();
    // Who only looks repairs nothing: it would be repaired in memory alone.
    let repairs_max = if access == Access::Look { 0 } else { default.repairs_max };
    ErasureOptions { data_count, parity_count, group_shards_max, repairs_max, ..default }
}

pub(crate) fn in_group(node: &Node, store: Arc<dyn BlockStore>) -> ErasureNode {
    let made = ErasureNode { is_drained: node.is_drained, ..ErasureNode::new(node.name.clone(), store) };
    match &node.group {
        Some(group) => made.in_group(group.clone()),
        None => made,
    }
}

/// What is at the place of a node, not looked at yet.
pub(crate) fn new_store(Node { name, place, .. }: &Node, how: &How) -> Arc<dyn NodeStore> {
    match place {
        Place::Dir { path, is_made } => Dir::new(name, path, *is_made, how.clone()),
        Place::Zdb(place) => Zdb::new(name, place, (how.store, how.access), how.opened.clone()),
        Place::S3(place) => BucketNode::new(name, place, how),
    }
}

/// Opens the nodes that are there; in a new store all of them are taken first.
/// Also gives the names of those that were taken in the place of others, and so lack what those had.
async fn open_nodes(options: &ZstorOptions, how: &How, is_made: bool) -> Result<(Vec<OpenNode>, Vec<String>)> {
    let dirs: Vec<_> = options.nodes.iter().map(|node| new_store(node, how)).collect();
    let (looks, places): (Vec<_>, Vec<_>) = join_all(dirs.iter().map(|dir| dir.look())).await.into_iter().unzip();
    for (count, (dir, place)) in dirs.iter().zip(&places).enumerate() {
        let same = places.iter().take(count).position(|other| place.is_some() && other == place);
        if let Some(other) = same.and_then(|other| dirs.get(other)) {
            return Err(one_place(other.name(), dir.name(), dir.place()));
        }
    }
    if looks.contains(&Look::Foreign) && !looks.contains(&Look::Marked) {
        return Err(bad_key());
    }
    join_all(dirs.iter().zip(&looks).map(async |(dir, look)| {
        if *look == Look::Marked {
            // The node knows why it is lost.
            dir.open().await.ok();
        }
    }))
    .await;
    // A first start that was broken off has made some nodes. Where one has blocks, it is this machine that is new.
    let is_empty = |(dir, look): (&Arc<dyn NodeStore>, &Look)| *look != Look::Marked || dir.is_empty();
    let is_new = !is_made && dirs.iter().zip(&looks).all(is_empty);
    let mut replaced = Vec::new();
    for (dir, look) in dirs.iter().zip(&looks) {
        let is_taken = options.access == Access::Write && (*look == Look::Offered || *look == Look::Unmarked && is_new);
        match look {
            Look::Marked => {}
            _ if is_taken => match dir.take().await {
                Ok(()) => {
                    drop(dir.open().await);
                    replaced.extend((!is_new).then(|| dir.name().to_owned()));
                }
                Err(error) if is_new => return Err(error),
                Err(error) => dir.lose(&format!("{error:#}")),
            },
            look => dir.lose(&dir.refusal(look).unwrap_or_default()),
        }
    }
    Ok((dirs.into_iter().map(|store| OpenNode { store }).collect(), replaced))
}

fn bad_key() -> Error {
    Error::new(ErrorKind::BadKey, "zstor.open")
        .because("what is there was put under another key: nothing is lost, bring back the key that it was made with, or that took its place since")
}

/// Who collects garbage keeps what names lead to: without them, nothing.
fn no_names(local: &Path, made: &Path) -> Error {
    let why = format!(
        "the nodes have blocks, and what names them is not in {}: bring that directory back from where you keep a copy. \
         To begin anew without names, so that what nothing leads to is collected: touch {}",
        local.display(),
        made.display()
    );
    Error::new(ErrorKind::NotFound, "zstor.open").because(why)
}

fn too_few(nodes: &[OpenNode], data_count: u8, parity_count: u8) -> Error {
    let lost = nodes.iter().filter_map(|node| Some(format!("{} ({}: {})", node.name(), node.place(), node.lost()?)));
    let lost: Vec<_> = lost.collect();
    let why = format!(
        "{} of {} nodes are lost, and with {data_count}+{parity_count} no more than {parity_count} may be: bring back {}",
        lost.len(),
        nodes.len(),
        lost.join(", ")
    );
    Error::new(ErrorKind::Unavailable, "zstor.open").because(why)
}
