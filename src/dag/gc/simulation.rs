//! Garbage collection among writers, committers, movers and readers, in every order that a seed gives.
//!
//! Goal: no block that a root, a lease or a session keeps is ever removed, and everything else is, in the end. Method:
//! all of them are futures over one [`Dag`] whose store lets the others run before and after each of its calls; who
//! goes on is chosen by dice. A model knows the roots, the leases and what the live sessions have put, and is asked at
//! each removal. One seed is one world: the same seed gives the same steps.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream, stream::BoxStream};

use super::{GcOptions, GcRoot, WriteSession};
use crate::{
    BlockKey, BlockStore, Cid, Codec, Name, Result,
    block::Mem,
    dag::{Dag, DagLease, DagOptions, Entry, Ipld, Params, Patch, Profile, UnixfsMeta, walk::for_each_link_of},
    testing::fault::Dice,
};

/// How many steps all worlds take together: so many calls of the store, before each of which anyone may run.
const STEP_COUNT: u64 = 1_000_000;
/// How many steps a world takes.
const WORLD_STEP_COUNT: u64 = 20_000;
const TASK_COUNT: usize = 9;
const SLOT_COUNT: usize = 5;

/// What must stay.
#[derive(Default)]
struct Model {
    /// What the world knows as heads and pins.
    slots: [Option<Cid>; SLOT_COUNT],
    /// Chunks that a journal names.
    journal: Vec<Cid>,
    leases: BTreeMap<u64, Cid>,
    /// What each live session has put.
    sessions: BTreeMap<u64, BTreeSet<BlockKey>>,
    /// What was put without a session while a collection ran, and the era of that.
    alone: Vec<(u64, BlockKey)>,
    /// Every root there ever was.
    history: Vec<Cid>,
    next_id: u64,
    removed: u64,
}

/// The store: everyone may run before and after each call.
struct Stepped {
    inner: Mem,
    model: Arc<Mutex<Model>>,
    steps: AtomicU64,
    /// The links of blocks that were looked at: content does not change.
    links: Mutex<HashMap<Cid, Vec<Cid>>>,
    era: Mutex<Option<u64>>,
}

impl std::fmt::Debug for Stepped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stepped(..)")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panicked")
}

/// Lets others run.
async fn step() {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Stepped {
    async fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        step().await;
    }

    /// What is in the store under a key, at this moment.
    fn peek(&self, cid: &Cid) -> Option<Bytes> {
        self.inner.get(&BlockKey::from(cid)).now_or_never().expect("at once").expect("memory does not fail")
    }

    /// Everything that is there and can be reached from `roots`; `absent` is called with what is not there.
    fn reached(&self, roots: impl IntoIterator<Item = Cid>, mut absent: impl FnMut(Cid)) -> BTreeSet<BlockKey> {
        let mut links = lock(&self.links);
        let mut to_visit: Vec<Cid> = roots.into_iter().collect();
        let (mut visited, mut keys) = (BTreeSet::new(), BTreeSet::new());
        while let Some(cid) = to_visit.pop() {
            if !visited.insert(cid) {
                continue;
            }
            let Some(block) = self.peek(&cid) else {
                absent(cid);
                continue;
            };
            keys.insert(BlockKey::from(&cid));
            let links = links.entry(cid).or_insert_with(|| {
                let mut found = Vec::new();
                for_each_link_of(&cid, &block, &mut |link| found.push(*link)).expect("a good block");
                found
            });
            to_visit.extend(links.iter());
        }
        keys
    }

    fn live(&self) -> BTreeSet<BlockKey> {
        let model = lock(&self.model);
        let roots: Vec<Cid> = model.slots.iter().flatten().chain(&model.journal).copied().collect();
        let leased: Vec<Cid> = model.leases.values().copied().collect();
        let mut live = self.reached(roots, |cid| panic!("{cid} is below a root and gone"));
        live.extend(self.reached(leased, |_| {}));
        live.extend(model.sessions.values().flatten().cloned());
        let era = *lock(&self.era);
        live.extend(model.alone.iter().filter(|(then, _)| Some(*then) == era).map(|(_, key)| key.clone()));
        live
    }
}

#[async_trait]
impl BlockStore for Stepped {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.step().await;
        let block = self.inner.get(key).await;
        self.step().await;
        block
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.step().await;
        self.inner.put(key, block).await?;
        self.step().await;
        Ok(())
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.step().await;
        assert!(!self.live().contains(key), "a live block is removed");
        lock(&self.model).removed += 1;
        self.inner.delete(key).await?;
        self.step().await;
        Ok(())
    }
    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        self.step().await;
        self.inner.block_len(key).await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.inner
            .keys()
            .then(move |key| async move {
                self.step().await;
                key
            })
            .boxed()
    }
}

/// One world, shared by those who live in it.
#[derive(Clone)]
struct World {
    store: Arc<Stepped>,
    dag: Dag,
    model: Arc<Mutex<Model>>,
}

/// A session and what the model knows of it; ends with both.
struct Session {
    world: World,
    id: u64,
    _keeps: WriteSession,
}

impl Session {
    fn begin(world: &World) -> Self {
        let session = world.dag.begin_write();
        let mut model = lock(&world.model);
        model.next_id += 1;
        let id = model.next_id;
        model.sessions.insert(id, BTreeSet::new());
        Self { world: world.clone(), id, _keeps: session }
    }

    /// Notes that a block was put in this session.
    fn note(&self, cid: &Cid) {
        assert!(self.world.store.peek(cid).is_some(), "a put was undone before it returned");
        if let Some(put) = lock(&self.world.model).sessions.get_mut(&self.id) {
            put.insert(BlockKey::from(cid));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The world may be falling apart after a failure.
        if let Ok(mut model) = self.world.model.lock() {
            model.sessions.remove(&self.id);
        }
    }
}

/// A lease and what the model knows of it; ends with both.
struct Leased {
    world: World,
    id: u64,
    lease: DagLease,
}

impl Leased {
    /// Leases the root in a slot, while it is there.
    fn slot(world: &World, slot: usize) -> Option<Self> {
        let cid = lock(&world.model).slots[slot]?;
        let leased = Self::of(world, world.dag.lease(&cid));
        Some(leased)
    }

    fn of(world: &World, lease: DagLease) -> Self {
        let mut model = lock(&world.model);
        model.next_id += 1;
        let id = model.next_id;
        model.leases.insert(id, *lease.cid());
        Self { world: world.clone(), id, lease }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Ok(mut model) = self.world.model.lock() {
            model.leases.remove(&self.id);
        }
    }
}

fn leaf(dice: &mut Dice) -> Bytes {
    format!("leaf {}", dice.roll(40)).into()
}

impl World {
    fn new() -> Self {
        let model = Arc::new(Mutex::new(Model::default()));
        let store = Arc::new(Stepped {
            inner: Mem::default(),
            model: Arc::clone(&model),
            steps: AtomicU64::new(0),
            links: Mutex::default(),
            era: Mutex::default(),
        });
        // Files of a few bytes have many chunks, and most reads are answered by the cache.
        let params = Params { chunk_len: 4, width: 3, ..Profile::default().params() };
        let dag = Dag::new(store.clone(), DagOptions { params, verified_len_max: 4000 });
        Self { store, dag, model }
    }

    fn set_slot(&self, slot: usize, root: Cid) {
        let mut model = lock(&self.model);
        model.slots[slot] = Some(root);
        model.history.push(root);
    }

    fn assert_whole(&self, root: &Cid) {
        self.store.reached([*root], |cid| panic!("{cid} was lost before its root {root} was committed"));
    }

    /// Puts leaves and nodes over them, some over what a slot holds, and makes the last a root, or forgets about it.
    async fn write(self, mut dice: Dice) -> Result<()> {
        let session = Session::begin(&self);
        let base = Leased::slot(&self, dice.roll(SLOT_COUNT));
        let mut cids: Vec<Cid> = base.iter().map(|base| *base.lease.cid()).collect();
        for _ in 0..=dice.roll(4) {
            let cid = self.dag.put_block(Codec::Raw, leaf(&mut dice)).await?;
            session.note(&cid);
            cids.push(cid);
        }
        for _ in 0..=dice.roll(3) {
            let children: Vec<Ipld> = (0..=dice.roll(3)).map(|_| cids[dice.roll(cids.len())].into()).collect();
            let cid = self.dag.put_linked(&Ipld::List(children)).await?;
            session.note(&cid);
            cids.push(cid);
        }
        if dice.roll(4) > 0 {
            let root = *cids.last().expect("leaves at least");
            self.assert_whole(&root);
            self.set_slot(dice.roll(SLOT_COUNT), root);
        }
        Ok(())
    }

    /// Imports files, puts a directory of them, changes one and commits the directory; the calls have their own
    /// sessions, and one around them keeps what lies between.
    async fn import(self, mut dice: Dice) -> Result<()> {
        let session = Session::begin(&self);
        let mut entries = Vec::new();
        for name in ["a", "b"] {
            let len = dice.roll(30);
            let content: Vec<u8> = (0..len).map(|_| b"xyz"[dice.roll(3)]).collect();
            let mut link = self.dag.import(&content[..], UnixfsMeta::default()).await?;
            self.assert_whole(&link.cid);
            if dice.roll(2) == 0 {
                let patch = stream::iter([Ok(Patch::Bytes(4, "zz".into()))]).boxed();
                link = self.dag.splice(&link.cid, patch, 20).await?;
                self.assert_whole(&link.cid);
            }
            session.note(&link.cid);
            entries.push(Entry { name: Name::new(name.as_bytes())?, link });
        }
        let mut dir = self.dag.put_dir(stream::iter(entries.clone().into_iter().map(Ok)).boxed()).await?.cid;
        if dice.roll(2) == 0 {
            let change = BTreeMap::from([(Name::new(b"c")?, Some(entries[0].link))]);
            dir = self.dag.patch_dir(&dir, &change).await?.cid;
        }
        self.assert_whole(&dir);
        self.set_slot(dice.roll(SLOT_COUNT), dir);
        Ok(())
    }

    /// Puts a chunk that the journal names from then on.
    async fn journal(self, mut dice: Dice) -> Result<()> {
        let session = Session::begin(&self);
        let chunk = self.dag.put_block(Codec::Raw, leaf(&mut dice)).await?;
        session.note(&chunk);
        lock(&self.model).journal.push(chunk);
        Ok(())
    }

    /// Commits what the journal names: puts the node above, not the chunks.
    async fn commit(self, mut dice: Dice) -> Result<()> {
        let session = Session::begin(&self);
        let chunks = lock(&self.model).journal.clone();
        let links = chunks.iter().map(|chunk| Ipld::from(*chunk)).collect();
        let root = self.dag.put_linked(&Ipld::List(links)).await?;
        session.note(&root);
        step().await;
        // Another may have committed them meanwhile, and its root be gone.
        let mut model = lock(&self.model);
        if chunks.iter().all(|chunk| model.journal.contains(chunk)) {
            model.journal.retain(|chunk| !chunks.contains(chunk));
            model.slots[dice.roll(SLOT_COUNT)] = Some(root);
            model.history.push(root);
        }
        Ok(())
    }

    /// Copies the root of a slot to another, slowly, and perhaps empties the first at once.
    async fn relocate(self, mut dice: Dice) -> Result<()> {
        let from = dice.roll(SLOT_COUNT);
        let Some(leased) = Leased::slot(&self, from) else { return Ok(()) };
        if dice.roll(2) == 0 {
            lock(&self.model).slots[from] = None;
        }
        for _ in 0..dice.roll(60) {
            step().await;
        }
        self.assert_whole(leased.lease.cid());
        self.set_slot(dice.roll(SLOT_COUNT), *leased.lease.cid());
        Ok(())
    }

    /// Makes a root again of what was one once, if all of it is still there.
    async fn revive(self, mut dice: Dice) -> Result<()> {
        let root = {
            let model = lock(&self.model);
            let Some(root) = model.history.get(dice.roll(model.history.len())) else { return Ok(()) };
            *root
        };
        let lease = self.dag.lease(&root);
        lease.settled().await;
        let _leased = Leased::of(&self, lease);
        let mut whole = true;
        self.store.reached([root], |_| whole = false);
        for _ in 0..dice.roll(60) {
            step().await;
        }
        if whole {
            self.assert_whole(&root);
            self.set_slot(dice.roll(SLOT_COUNT), root);
        }
        Ok(())
    }

    /// Reads everything below a root that may be replaced meanwhile.
    async fn read(self, mut dice: Dice) -> Result<()> {
        let Some(leased) = Leased::slot(&self, dice.roll(SLOT_COUNT)) else { return Ok(()) };
        let mut visits = self.dag.walk(leased.lease.cid());
        while let Some(visit) = visits.next().await {
            assert!(visit.error.is_none(), "{:?}", visit.error);
            self.dag.get_block(&visit.cid).await?;
        }
        Ok(())
    }

    /// Puts a block that nobody keeps: a collection that is under way when it returns must spare it.
    async fn put_alone(self, mut dice: Dice) -> Result<()> {
        let cid = self.dag.put_block(Codec::Raw, leaf(&mut dice)).await?;
        if let Some(era) = self.dag.epochs.collecting() {
            assert!(self.store.peek(&cid).is_some(), "a put was undone before it returned");
            lock(&self.model).alone.push((era, BlockKey::from(&cid)));
        }
        Ok(())
    }

    async fn clear(self, mut dice: Dice) -> Result<()> {
        step().await;
        lock(&self.model).slots[dice.roll(SLOT_COUNT)] = None;
        Ok(())
    }

    async fn collect(self, mut dice: Dice) -> Result<()> {
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&dice.bits().to_le_bytes());
        let options = GcOptions { dry_run: dice.roll(5) == 0, secret, on_progress: None };
        let roots = || {
            *lock(&self.store.era) = self.dag.epochs.collecting();
            let model = lock(&self.model);
            let slots = model.slots.iter().flatten().map(|cid| GcRoot::Dag(*cid));
            let journal = model.journal.iter().map(|cid| GcRoot::Block(*cid));
            let roots: Vec<_> = slots.chain(journal).map(Ok).collect();
            stream::iter(roots)
                .then(async |root| {
                    step().await;
                    root
                })
                .boxed()
        };
        let removed = lock(&self.model).removed;
        let report = self.dag.collect_garbage(roots, &options).await?;
        assert!(!options.dry_run || lock(&self.model).removed >= removed);
        assert!(report.blocks_fresh <= report.blocks_kept);
        Ok(())
    }

    /// Somebody new, chosen by the dice.
    fn spawn(&self, dice: &mut Dice) -> BoxFuture<'static, Result<()>> {
        let (world, own) = (self.clone(), Dice::new(dice.bits()));
        match dice.roll(16) {
            0..3 => world.write(own).boxed(),
            3..5 => world.import(own).boxed(),
            5..7 => world.journal(own).boxed(),
            7 => world.commit(own).boxed(),
            8 => world.relocate(own).boxed(),
            9 => world.revive(own).boxed(),
            10..12 => world.read(own).boxed(),
            12 => world.put_alone(own).boxed(),
            13 => world.clear(own).boxed(),
            _ => world.collect(own).boxed(),
        }
    }

    /// Lives for `count` steps and gives a number that stands for all that happened.
    fn live(&self, seed: u64, count: u64) -> u64 {
        let mut dice = Dice::new(seed);
        let mut tasks: Vec<_> = (0..TASK_COUNT).map(|_| self.spawn(&mut dice)).collect();
        let mut context = Context::from_waker(Waker::noop());
        let mut digest = 0_u64;
        while self.store.steps.load(Ordering::Relaxed) < count {
            let at = dice.roll(TASK_COUNT);
            // Now and then somebody goes away in the middle.
            let done = dice.roll(500) == 0
                || match tasks[at].poll_unpin(&mut context) {
                    Poll::Ready(done) => {
                        done.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
                        true
                    }
                    Poll::Pending => false,
                };
            if done {
                tasks[at] = self.spawn(&mut dice);
            }
            let model = lock(&self.model);
            digest = digest.rotate_left(5) ^ self.store.steps.load(Ordering::Relaxed) ^ (model.removed << 32);
        }
        digest
    }

    /// When all is quiet, two runs leave exactly what the roots keep: what one mistakes for marked the next does not.
    fn end(&self, seed: u64) {
        for round in 0..3 {
            *lock(&self.store.era) = None;
            let mut collection = self.clone().collect(Dice::new(seed + round)).boxed();
            let mut context = Context::from_waker(Waker::noop());
            while collection.poll_unpin(&mut context).is_pending() {}
        }
        let there: BTreeSet<BlockKey> =
            self.store.inner.keys().try_collect().now_or_never().expect("at once").expect("memory does not fail");
        lock(&self.model).alone.clear();
        assert!(there == self.store.live(), "seed {seed}: garbage is left");
    }
}

#[test]
fn no_live_block_is_removed_and_all_garbage_is() {
    let (mut removed, mut steps) = (0, 0);
    for seed in 0..STEP_COUNT / WORLD_STEP_COUNT {
        let world = World::new();
        world.live(seed, WORLD_STEP_COUNT);
        steps += world.store.steps.load(Ordering::Relaxed);
        world.end(seed);
        removed += lock(&world.model).removed;
    }
    assert!(steps >= STEP_COUNT && removed > steps / 1000, "{removed} blocks removed in {steps} steps");
}

#[test]
fn a_seed_is_a_world() {
    let digest = |seed| World::new().live(seed, 2000);
    assert_eq!(digest(7), digest(7));
    assert_ne!(digest(7), digest(8));
}
