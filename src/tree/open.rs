//! Opening a tree: the head, and the journal since.
//!
//! Spec: spec/tree.md #opening.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::{Mutex as AsyncMutex, RwLock};

use super::{
    Commit, ID_LEN, Shared, Tree, TreeOptions,
    attrs::{self, Attrs, Change, Changes, InodeChange, NodeCache},
    commit::{Committer, Pending},
    continued::{self, Continued},
    inode::Meta,
    layer::Layer,
    ops::new_meta,
    recent::Recent,
    record::{Effect, Record, Usage},
    state::{Base, ROOT, State},
};
use crate::{
    Cid, Codec, Error, ErrorKind, Result,
    dag::{Dag, Ipld, cbor},
    heads::{Heads, Swap, Version},
    log::{self, Each, Log, LogOptions, LogPos, Replayed},
    media::Media,
    vfs::NewNode,
};

/// What journals hold.
pub(super) const KIND: &str = "journal";
/// The version of a head.
const HEAD_VERSION: i128 = 1;

/// Opens a tree: see [`Tree::open`].
pub(super) async fn open(
    dag: Dag,
    journal: Arc<dyn Media>,
    heads: Arc<dyn Heads>,
    options: TreeOptions,
) -> Result<Tree> {
    let (head, version) = if let Some((bytes, version)) = heads.load(&options.head).await? {
        (Head::decode(&bytes).map_err(|error| error.at(&options.head))?, version)
    } else {
        continued::check_without_head(&journal, &options).await?;
        create(&dag, &*heads, &options).await?
    };
    let commit = Commit::get(&dag, &head.commit).await.map_err(|error| error.at(head.commit))?;
    let Some(attrs) = commit.attrs else {
        let why = "a root without attributes cannot be a working tree: check it out into one";
        return Err(Error::new(ErrorKind::Unsupported, "tree.open").at(head.commit).because(why));
    };
    let attrs = Attrs::open(&dag, &attrs).await?;
    let base = Base { cid: head.commit, commit: Arc::new(commit), attrs };
    let fresh = || Replay::new(State::new(base.clone(), NodeCache::new(options.memory_len_max)));
    let mut replay = fresh();
    let log = Log::open(journal, LogOptions::new(KIND, &options.env), |pos, record| {
        replay.record(pos, &record).map_err(|error| error.at(pos))
    })
    .await?;
    if let Some(on) = replay.continued.other() {
        match replay.continued.left_count() {
            0 => {
                continued::begin_anew(&log, base.cid).await?;
                replay = fresh();
            }
            count => return Err(continued::refusal(&dag, &options.head, (on, count), &base).await),
        }
    } else if replay.continued.is_empty() {
        continued::continue_from(&log, base.cid).await?;
        replay = fresh();
    }
    let mut undone = false;
    if let Some(cut) = first_absent(&dag, &replay.unflushed()).await? {
        // No sync covered that record, nor any after it.
        replay = Replay { cut: Some(cut), ..fresh() };
        log.replay(
            false,
            &mut Each(|found: Replayed| {
                let record = log::Record { head: found.head, body: found.body };
                replay.record(found.pos, &record).map_err(|error| error.at(found.pos))
            }),
        )
        .await?;
        undone = true;
    }
    let (mut state, pending) = replay.finish();
    state.free_orphans();
    let committer = Committer::new(heads, version, pending);
    let shared = Shared {
        dag,
        log,
        options,
        id: head.id,
        state: Mutex::new(state),
        recent: Recent::default(),
        committer: AsyncMutex::new(committer),
        flushed: AsyncMutex::new(0),
        gate: RwLock::new(()),
        reserving: AsyncMutex::new(()),
    };
    if undone {
        // What is undone must never be replayed again below what comes now: the journal begins anew.
        let mut committer = shared.committer.lock().await;
        if committer.pending.is_some() {
            shared.write_out(&mut committer).await?;
        }
        shared.freeze(&mut committer, "").await?;
        shared.write_out(&mut committer).await?;
        drop(committer);
    }
    Ok(Tree::new(Arc::new(shared)))
}

/// The place of the first record that names a block which the store does not have.
async fn first_absent(dag: &Dag, named: &[(LogPos, Cid)]) -> Result<Option<LogPos>> {
    for (pos, cid) in named {
        if !dag.has_block(cid).await? {
            return Ok(Some(*pos));
        }
    }
    Ok(None)
}

/// A journal that is being replayed.
struct Replay {
    state: State,
    /// The layers that froze and that no commit is known to hold, oldest first, and the sum of all usage until then.
    frozen: Vec<(Pending, Layer, Usage)>,
    /// The sum of what all records so far said of the usage, and what of it the base counts. Both may be below zero: the
    /// base may hold the end of what is replayed from its beginning.
    usage: Usage,
    counted: Usage,
    /// Blocks that records name and of which it is not known that they are durable.
    unflushed: Vec<(LogPos, Cid)>,
    /// Nothing from here on counts.
    cut: Option<LogPos>,
    continued: Continued,
}

impl Replay {
    fn new(state: State) -> Self {
        let (usage, counted, continued) = Default::default();
        Self { state, frozen: Vec::new(), usage, counted, unflushed: Vec::new(), cut: None, continued }
    }

    /// Applies one record.
    fn record(&mut self, pos: LogPos, record: &log::Record) -> Result<()> {
        let is_cut = self.cut.is_some_and(|cut| pos >= cut);
        let state = &mut self.state;
        let decoded = Record::decode(record)?;
        self.continued.note(pos, &decoded, &state.base);
        match decoded {
            // What the head names was made, wherever its record is: only changes can be undone.
            Record::Change { .. } | Record::Flush { .. } | Record::Freeze if is_cut => {}
            Record::Change { effects, usage, .. } => {
                for effect in &effects {
                    if let Effect::Slice { cid, .. } = effect {
                        self.unflushed.push((pos, *cid));
                    }
                }
                state.apply(pos, effects, Usage::default());
                self.usage.inodes = self.usage.inodes.saturating_add(usage.inodes);
                self.usage.bytes = self.usage.bytes.saturating_add(usage.bytes);
                let len = record.head.len().saturating_add(record.body.len());
                state.active.journal_len = state.active.journal_len.saturating_add(len as u64);
            }
            Record::Flush { through } => self.unflushed.retain(|(pos, _)| *pos >= through),
            // Also behind a cut: what it is for came before.
            Record::Chunk { cid, bytes } => {
                state.kept.insert(cid, pos);
                state.active.journal_len = state.active.journal_len.saturating_add(bytes.len() as u64);
            }
            Record::Freeze => {
                // A commit of nothing that failed, such as a checkout, was not tried again.
                if self.frozen.last().is_some_and(|(_, layer, _)| layer.is_empty()) {
                    self.frozen.pop();
                }
                let State { next_ino, inode_count, used, .. } = *state;
                let pending = Pending { through: pos, next_ino, inode_count, used, note: String::new() };
                self.frozen.push((pending, std::mem::take(&mut state.active), self.usage));
            }
            Record::Commit { through, cid } if cid == state.base.cid => {
                state.kept.retain(|_, pos| *pos >= through);
                // The base holds all before `through`, and counted it.
                let committed = self.frozen.iter().rposition(|(pending, ..)| pending.through <= through);
                let Some(last) = committed else { return Ok(()) };
                self.unflushed.retain(|(pos, _)| *pos >= through);
                if let Some((_, _, usage)) = self.frozen.drain(..=last).next_back() {
                    self.counted = usage;
                }
            }
            // One that never became the head, or whose successor did.
            Record::Commit { .. } => {}
        }
        Ok(())
    }

    /// The records that name blocks which are durable only if the store has them.
    fn unflushed(&self) -> Vec<(LogPos, Cid)> {
        let is_kept = |pos, cid| self.state.kept.get(cid).is_some_and(|kept| *kept > pos);
        self.unflushed.iter().filter(|(pos, cid)| !is_kept(*pos, cid)).copied().collect()
    }

    /// The state after the last record, and the commit that was under way.
    fn finish(mut self) -> (State, Option<Pending>) {
        // What names a whole file is a copy of something committed.
        let chunks = self.unflushed().into_iter().filter(|(_, cid)| cid.codec() == Some(Codec::Raw));
        self.state.inherited = chunks.map(|(_, cid)| cid).collect();
        let count = self.state.naming_count;
        self.state.unproved = self.state.inherited.iter().map(|cid| (*cid, count)).collect();
        (self.state.inode_count, self.state.used) = self.totals(self.usage);
        let Some((mut pending, mut layer, usage)) = self.frozen.pop() else { return (self.state, None) };
        (pending.inode_count, pending.used) = self.totals(usage);
        // Commits that found no room: each began anew with what had changed since.
        while let Some((_, below, _)) = self.frozen.pop() {
            layer.settle_on(below, |_| false);
        }
        self.state.frozen = Some(Arc::new(layer));
        (self.state, Some(pending))
    }

    /// How many inodes there were and how many bytes they took when the usage summed up to `usage`.
    fn totals(&self, usage: Usage) -> (u64, u64) {
        let base = &self.state.base.attrs;
        let inodes = usage.inodes.saturating_sub(self.counted.inodes);
        let bytes = usage.bytes.saturating_sub(self.counted.bytes);
        (base.inode_count().saturating_add_signed(inodes), base.used().saturating_add_signed(bytes))
    }
}

/// Makes an empty tree and its head.
async fn create(dag: &Dag, heads: &dyn Heads, options: &TreeOptions) -> Result<(Head, Version)> {
    let now = (options.env.now)();
    let mut id = [0; ID_LEN];
    (options.env.fill)(&mut id);
    let root = dag.put_dir(stream::empty().boxed()).await?;
    let (uid, gid) = options.owner;
    let meta = Meta { uid, gid, ..new_meta(&NewNode::Dir, now) };
    let change = InodeChange {
        meta,
        content: Some(root),
        target: None,
        parents: None,
        data: Change::Keep,
        xattrs: None,
        names: BTreeMap::new(),
    };
    let inodes = BTreeMap::from([(ROOT, Some(change))]);
    let changes = Changes { inodes, next_ino: ROOT.0.get() + 1, inode_count: 1, used: 0 };
    let attrs = attrs::update(dag, None, changes).await?;
    let commit = Commit {
        profile: *dag.params(),
        root: root.cid,
        attrs: Some(attrs.cid()),
        prev: Vec::new(),
        snapshots: BTreeMap::new(),
        time: now,
        note: String::new(),
    };
    let head = Head { id, commit: commit.put(dag).await? };
    dag.flush().await?;
    match heads.swap(&options.head, None, head.encode()?).await? {
        Swap::Done(version) => Ok((head, version)),
        Swap::Lost => Err(super::commit::lost()),
    }
}

/// What the head of a tree says.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) id: [u8; ID_LEN],
    pub(super) commit: Cid,
}

impl Head {
    pub(super) fn encode(&self) -> Result<Bytes> {
        let map = BTreeMap::from([
            ("commit".to_owned(), Ipld::Link(Box::new(self.commit))),
            ("id".to_owned(), Ipld::Bytes(self.id.to_vec().into())),
            ("v".to_owned(), Ipld::Integer(HEAD_VERSION)),
        ]);
        Ok(cbor::encode(&Ipld::Map(map))?.into())
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let op = "tree.open";
        let corrupt = || Error::new(ErrorKind::Corrupt, op).because("the head is not that of a tree");
        let Ipld::Map(map) = cbor::decode(bytes)? else { return Err(corrupt()) };
        match map.get("v") {
            Some(Ipld::Integer(HEAD_VERSION)) => {}
            Some(Ipld::Integer(version)) if *version > HEAD_VERSION => {
                return Err(Error::new(ErrorKind::Unsupported, op).because(format!(
                    "a head of version {version}, and this program knows {HEAD_VERSION}: a newer muxfs wrote it"
                )));
            }
            _ => return Err(corrupt()),
        }
        match (map.get("id"), map.get("commit"), map.len()) {
            (Some(Ipld::Bytes(id)), Some(Ipld::Link(commit)), 3) => {
                Ok(Self { id: id.as_ref().try_into().map_err(|_| corrupt())?, commit: **commit })
            }
            _ => Err(corrupt()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::{Codec, block::Mem, cid_of, dag::DagOptions, heads::MemHeads, media::SegmentId, testing, vfs::Ino};

    /// A crash between the swap of the head and the cut of the journal, while a chunk was written that no flush covered:
    /// the journal is replayed as far as that record, and the record of the commit is behind it. What the commit held was
    /// counted again.
    #[tokio::test]
    async fn what_the_head_holds_is_no_change_wherever_its_record_is() {
        let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let options = TreeOptions::new(crate::Name::new(b"main").expect("a name"), testing::env());
        let (head, _) = create(&dag, &MemHeads::default(), &options).await.expect("it is made");
        let commit = Commit::get(&dag, &head.commit).await.expect("a commit");
        let attrs = Attrs::open(&dag, &commit.attrs.expect("attributes")).await.expect("they open");
        let base = Base { cid: head.commit, commit: Arc::new(commit), attrs };
        let (inode_count, used) = (base.attrs.inode_count(), base.attrs.used());

        let at = |offset| LogPos { segment: SegmentId(1), offset };
        let ino = Ino(NonZeroU64::MIN);
        let change = |effects| Record::Change { effects, usage: Usage { inodes: 1, bytes: 4096 }, data: Bytes::new() };
        let absent = cid_of(Codec::Raw, b"never flushed");
        let records = [
            change(Vec::new()),
            Record::Freeze,
            change(Vec::new()),
            change(vec![Effect::Slice { ino, range: 0..1024, cid: absent, from: 0 }]),
            Record::Commit { through: at(1), cid: head.commit },
            change(Vec::new()),
        ];
        let replay = |cut| {
            let state = State::new(base.clone(), NodeCache::new(1 << 20));
            let mut replay = Replay { cut, ..Replay::new(state) };
            for (offset, record) in (0..).zip(&records) {
                replay.record(at(offset), &record.encode()).expect("it is replayed");
            }
            replay
        };
        let absent = first_absent(&dag, &replay(None).unflushed()).await.expect("looked for");
        assert_eq!(absent, Some(at(3)));
        let (state, pending) = replay(absent).finish();
        assert!(pending.is_none(), "the commit was made");
        // One change came after the freeze and before what is undone.
        assert_eq!((state.inode_count, state.used), (inode_count + 1, used + 4096));
        assert!(state.active.journal_len > 0, "what is replayed is to be committed, and needs room");
    }

    /// The base may hold the end of what is replayed from its beginning: what was removed before it froze is counted off
    /// twice on the way, and that must not get lost at zero.
    #[tokio::test]
    async fn what_the_base_holds_is_counted_once() {
        let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let options = TreeOptions::new(crate::Name::new(b"main").expect("a name"), testing::env());
        let (head, _) = create(&dag, &MemHeads::default(), &options).await.expect("created");
        let commit = Commit::get(&dag, &head.commit).await.expect("there");
        let inodes = BTreeMap::new();
        let used = Changes { inodes, next_ino: 9, inode_count: 2, used: 4096 };
        let attrs = Attrs::open(&dag, &commit.attrs.expect("it has attributes")).await.expect("opened");
        let attrs = attrs::update(&dag, Some(&attrs), used).await.expect("updated");
        let base = Base { cid: head.commit, commit: Arc::new(commit), attrs };
        let at = |offset| LogPos { segment: SegmentId(1), offset };
        let removed =
            Record::Change { effects: Vec::new(), usage: Usage { inodes: -1, bytes: -4096 }, data: Bytes::new() };
        let commit = Record::Commit { through: at(2), cid: head.commit };
        let mut replay = Replay::new(State::new(base, NodeCache::new(1 << 20)));
        for (offset, record) in (0..).zip([&removed, &removed, &Record::Freeze, &removed, &commit]) {
            replay.record(at(offset), &record.encode()).expect("it is replayed");
        }
        let (state, _) = replay.finish();
        assert_eq!((state.inode_count, state.used), (1, 0));
    }
}
