//! A store below that fails, is full, or does not answer; heads that answer wrongly; two that write.

use std::sync::Mutex;

use async_trait::async_trait;
use muxfs::{
    ErrorKind, Result,
    heads::{Swap, Version},
    testing::fault::{BlockCall, Faulty},
};

use super::{stops::Stops, *};

fn over(faulty: &Arc<Faulty<Mem>>, heads: Arc<dyn Heads>) -> VaultPlace {
    place(faulty.clone(), heads, Clock::default().env(1))
}

/// Whatever call fails, nothing that was flushed is lost, what was not is tried again, and it ends well.
#[tokio::test]
async fn what_fails_is_tried_again_and_nothing_is_lost() {
    for call in [BlockCall::Put, BlockCall::Delete, BlockCall::Flush] {
        for failures in [1, 3] {
            let faulty = Arc::new(Faulty::new(Mem::default()));
            let heads = Arc::new(MemHeads::default());
            let vault = Vault::create(over(&faulty, heads.clone()), &password(), &options()).await.expect("made");
            let mut model = BTreeMap::new();
            for round in 0..10 {
                for n in round * 3..round * 3 + 3 {
                    put(&vault, &key(n), block(n, 9_000)).await;
                    model.insert(key(n), block(n, 9_000));
                }
                for _ in 0..failures {
                    faulty.fail_next(call, ErrorKind::NoSpace);
                }
                let mut tries = 0;
                while let Err(error) = vault.flush().await {
                    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:#}");
                    assert_eq!(all(&vault).await.expect("what is put is there"), model);
                    tries += 1;
                    assert!(tries <= failures, "it fails more often than the store below");
                }
                faulty.heal();
            }
            put(&vault, &key(1000), block(1000, 9_000)).await;
            model.insert(key(1000), block(1000, 9_000));
            flush(&vault).await;
            assert_eq!(faulty.inner().block_count(), counted(&vault).await, "{call:?} left objects behind");
            drop(vault);
            let vault = Vault::open(over(&faulty, heads), &password()).await.expect("open");
            assert_eq!(all(&vault).await.expect("all"), model);
            assert!(faulty.inner().block_count().is_multiple_of(4), "{call:?} left objects behind");
        }
    }
}

/// Full packs that cannot be put hold up whoever puts more, and tell why; when the store answers again all goes on.
#[tokio::test]
async fn a_store_that_is_away_is_waited_for_by_nobody_for_ever() {
    let faulty = Arc::new(Faulty::new(Mem::default()));
    let heads = Arc::new(MemHeads::default());
    let options = VaultOptions { compression: Compression::None, ..options() };
    let vault = Vault::create(over(&faulty, heads), &password(), &options).await.expect("made");
    put(&vault, &key(1000), block(1000, 100)).await;
    flush(&vault).await;
    faulty.set_offline(true);
    let mut model = BTreeMap::from([(key(1000), block(1000, 100))]);
    let mut refused = 0;
    for n in 0..40 {
        let bytes = Bytes::from(Dice::new(n as u64).bytes(30_000));
        match vault.put(&key(n), bytes.clone()).await {
            Ok(()) => drop(model.insert(key(n), bytes)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                refused += 1;
            }
        }
    }
    assert!(refused > 20, "memory is bounded: {refused} of 40 were refused");
    assert_eq!(vault.flush().await.expect_err("away").kind(), ErrorKind::Unavailable);
    faulty.heal();
    flush(&vault).await;
    assert_eq!(all(&vault).await.expect("all that was taken"), model);
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    /// It is done, and the answer is lost.
    LostAfter,
    /// It is not done, and the answer is lost.
    LostBefore,
    /// It is not done, and the answer is that another was faster.
    Wrong,
}

/// Heads that answer wrongly, once.
#[derive(Debug, Default)]
struct LosesAnswers {
    inner: MemHeads,
    next: Mutex<Option<Answer>>,
}

#[async_trait]
impl Heads for LosesAnswers {
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        self.inner.load(name).await
    }

    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        let next = self.next.lock().expect("whole").take();
        let lost = || muxfs::Error::new(ErrorKind::Unavailable, "test.swap");
        match next {
            None => self.inner.swap(name, expected, head).await,
            Some(Answer::LostAfter) => {
                drop(self.inner.swap(name, expected, head).await?);
                Err(lost())
            }
            Some(Answer::LostBefore) => Err(lost()),
            Some(Answer::Wrong) => Ok(Swap::Lost),
        }
    }
}

#[tokio::test]
async fn a_swap_whose_answer_was_lost_is_found_out_about() {
    for answer in [Answer::LostAfter, Answer::LostBefore, Answer::Wrong] {
        let (faulty, heads) = (Arc::new(Faulty::new(Mem::default())), Arc::new(LosesAnswers::default()));
        let vault = Vault::create(over(&faulty, heads.clone()), &password(), &options()).await.expect("made");
        let mut model = BTreeMap::new();
        for n in 0..6 {
            put(&vault, &key(n), block(n, 20_000)).await;
            model.insert(key(n), block(n, 20_000));
            *heads.next.lock().expect("whole") = Some(answer);
            assert_eq!(vault.flush().await.expect_err("lost").kind(), ErrorKind::Unavailable);
            if n % 2 == 0 {
                flush(&vault).await;
            }
        }
        flush(&vault).await;
        assert_eq!(faulty.inner().block_count(), counted(&vault).await, "nothing is left behind");
        let other = Password::new("another").expect("a password");
        *heads.next.lock().expect("whole") = Some(answer);
        assert_eq!(vault.change_password(&other, CHEAP).await.expect_err("lost").kind(), ErrorKind::Unavailable);
        vault.change_password(&other, CHEAP).await.expect("changed");
        drop(vault);
        let vault = Vault::open(over(&faulty, heads.clone()), &other).await.expect("open");
        assert_eq!(all(&vault).await.expect("all"), model);
        assert!(faulty.inner().block_count().is_multiple_of(4));
        drop(vault);
        *heads.next.lock().expect("whole") = Some(answer);
        assert_eq!(Vault::open(over(&faulty, heads), &other).await.expect_err("lost").kind(), ErrorKind::Unavailable);
        let made = VaultPlace {
            heads: Arc::new(LosesAnswers { next: Mutex::new(Some(answer)), ..Default::default() }),
            ..World::new(9).place()
        };
        assert_eq!(
            Vault::create(made, &password(), &options()).await.expect_err("lost").kind(),
            ErrorKind::Unavailable
        );
    }
}

/// How many objects count.
async fn counted(vault: &Vault) -> usize {
    let head = vault.inner.head.lock().await;
    let current = &head.current;
    current.names().len() + current.superblock.covers.len() + current.runs.object_count()
}

/// A store whose next puts panic.
#[derive(Debug, Default)]
struct Panics {
    inner: Mem,
    next: std::sync::atomic::AtomicU32,
}

#[async_trait]
impl BlockStore for Panics {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.inner.get(key).await
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        use std::sync::atomic::Ordering::SeqCst;
        let is_next = self.next.fetch_update(SeqCst, SeqCst, |count| count.checked_sub(1)).is_ok();
        assert!(!is_next, "a store that panics");
        self.inner.put(key, block).await
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.inner.delete(key).await
    }

    fn keys(&self) -> futures_util::stream::BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

/// A flush that panics is no flush: the next one does what it did not.
#[tokio::test]
async fn a_store_that_panics_makes_no_flush_a_lie() {
    let (store, heads) = (Arc::new(Panics::default()), Arc::new(MemHeads::default()));
    let place = place(store.clone(), heads, Clock::default().env(1));
    let mut vault = Vault::create(place.clone(), &password(), &options()).await.expect("made");
    let mut model = BTreeMap::new();
    for n in 0..12 {
        // Some are of less than a pack, some of several.
        let bytes = Bytes::from(Dice::new(n as u64).bytes(if n % 3 == 0 { 150_000 } else { 1000 }));
        store.next.store(u32::try_from(n % 4).expect("small"), std::sync::atomic::Ordering::SeqCst);
        put(&vault, &key(n), bytes.clone()).await;
        model.insert(key(n), bytes);
        let mut failures = 0;
        while let Err(error) = vault.flush().await {
            assert_eq!(error.kind(), ErrorKind::Internal, "{error:#}");
            assert!(store.next.load(std::sync::atomic::Ordering::SeqCst) < 4, "it comes to an end");
            failures += 1;
            assert!(failures < 10);
        }
        drop(vault);
        vault = Vault::open(place.clone(), &password()).await.expect("open");
        assert_eq!(all(&vault).await.expect("all"), model);
    }
}

/// Puts, deletions, flushes and compactions at once: nothing is lost, and nothing that counts no more is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_goes_on_beside_a_flush_leaves_nothing_behind() {
    let world = World::new(1);
    let vault = Arc::new(world.create(&options()).await);
    let mut tasks = Vec::new();
    for task in 0..4_usize {
        let vault = vault.clone();
        tasks.push(tokio::spawn(async move {
            let mut model = BTreeMap::new();
            for n in (0..60).map(|n| task * 1000 + n) {
                put(&vault, &key(n), block(n, n * 997 % 60_000)).await;
                model.insert(key(n), block(n, n * 997 % 60_000));
                if n % 3 == 0 {
                    let before = n - n % 1000 / 2;
                    vault.delete(&key(before)).await.expect("delete");
                    model.remove(&key(before));
                }
                match n % 20 {
                    task if task < 4 => flush(&vault).await,
                    10 => assert_eq!(vault.compact().await.expect("compact").damaged, 0),
                    _ => {}
                }
            }
            model
        }));
    }
    let mut model = BTreeMap::new();
    for task in tasks {
        model.extend(task.await.expect("no panic"));
    }
    put(&vault, &key(9999), Bytes::new()).await;
    model.insert(key(9999), Bytes::new());
    flush(&vault).await;
    assert_eq!(all(&vault).await.expect("all"), model);
    assert_eq!(world.blocks.block_count(), counted(&vault).await, "something is left behind");
    assert_eq!(vault.check().await.expect("check").damaged, Vec::<String>::new());
    drop(vault);
    assert_eq!(all(&world.open().await.expect("open")).await.expect("all"), model);
}

/// What a runtime leaves that ends, another one puts.
#[test]
fn a_runtime_that_ends_holds_up_nobody() {
    let run = || tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let world = World::new(1);
    let bytes = Bytes::from(Dice::new(1).bytes(200_000));
    let vault = run().block_on(async {
        let vault = world.create(&options()).await;
        put(&vault, &key(1), bytes.clone()).await;
        vault
    });
    run().block_on(async {
        assert!(!vault.inner.state().sealed.is_empty(), "a full pack was never sent");
        flush(&vault).await;
        assert_eq!(world.open().await.expect("open").get(&key(1)).await.expect("get"), Some(bytes));
    });
}

/// Of two that opened a vault the first is refused, and harms nothing: neither by what it puts nor by what it deletes.
#[tokio::test]
async fn whoever_was_passed_over_writes_nothing() {
    let world = World::new(1);
    let first = world.create(&options()).await;
    put(&first, &key(1), block(1, 10_000)).await;
    flush(&first).await;
    put(&first, &key(2), block(2, 200_000)).await;
    let second = World { env: Clock::default().env(77), ..world.clone() }.open().await.expect("open");
    assert_eq!(second.get(&key(2)).await.expect("get"), None, "that was never flushed");
    put(&second, &key(3), block(3, 10_000)).await;
    // What was in a pack that is gone by now is not damaged, but another's.
    let mut away = Vec::new();
    for (name, object) in world.objects().await {
        world.blocks.delete(&name).await.expect("delete");
        away.push((name, object));
    }
    let fresh = first.get(&key(1)).await;
    for (name, object) in away {
        world.blocks.put(&name, object).await.expect("put");
    }
    let from_memory = fresh.as_ref().is_ok_and(|got| *got == Some(block(1, 10_000)));
    assert!(from_memory || fresh.is_err_and(|error| error.kind() == ErrorKind::Denied));
    assert_eq!(first.flush().await.expect_err("passed over").kind(), ErrorKind::Denied);
    for _ in 0..2 {
        assert_eq!(first.put(&key(4), block(4, 10)).await.expect_err("passed over").kind(), ErrorKind::Denied);
        assert_eq!(first.delete(&key(1)).await.expect_err("passed over").kind(), ErrorKind::Denied);
        assert_eq!(first.flush().await.expect_err("passed over").kind(), ErrorKind::Denied);
        assert_eq!(first.compact().await.expect_err("passed over").kind(), ErrorKind::Denied);
        assert_eq!(first.get(&key(1)).await.expect_err("passed over").kind(), ErrorKind::Denied);
        assert_eq!(first.has(&key(1)).await.expect_err("passed over").kind(), ErrorKind::Denied);
        assert!(first.keys().try_collect::<Vec<_>>().await.is_err());
    }
    flush(&second).await;
    drop(first);
    let third = World { env: Clock::default().env(78), ..world.clone() }.open().await.expect("open");
    let expected = BTreeMap::from([(key(1), block(1, 10_000)), (key(3), block(3, 10_000))]);
    assert_eq!(all(&third).await.expect("all"), expected);
    assert!(world.blocks.block_count().is_multiple_of(4), "what the first one left is gone");
}

/// What others keep in the same store stays there.
#[tokio::test]
async fn blocks_of_others_are_left_alone() {
    let world = World::new(1);
    let theirs = [BlockKey::new(&[5; 24]).expect("a key"), BlockKey::new(b"x").expect("a key")];
    for key in &theirs {
        put_raw(&world, key).await;
    }
    let other = World { heads: Arc::default(), env: Clock::default().env(9), ..world.clone() };
    let vaults = [world.create(&options()).await, other.create(&options()).await];
    for (n, vault) in vaults.iter().enumerate() {
        put(vault, &key(n), block(n, 30_000)).await;
        flush(vault).await;
    }
    drop(vaults);
    for (n, world) in [&world, &other].into_iter().enumerate() {
        let vault = World { env: Clock::default().env(100 + n as u64), ..world.clone() }.open().await.expect("open");
        assert_eq!(all(&vault).await.expect("all"), BTreeMap::from([(key(n), block(n, 30_000))]));
    }
    for key in &theirs {
        assert!(world.blocks.has(key).await.expect("has"));
    }
}

async fn put_raw(world: &World, key: &BlockKey) {
    world.blocks.put(key, vec![1; 1000].into()).await.expect("put");
}

/// Heads of which the first answer comes late: when a vault has been flushed meanwhile.
#[derive(Debug)]
struct Late {
    inner: Arc<MemHeads>,
    other: Mutex<Option<Vault>>,
}

#[async_trait]
impl Heads for Late {
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        let loaded = self.inner.load(name).await;
        let other = self.other.lock().expect("whole").take();
        if let Some(other) = other {
            other.flush().await?;
        }
        loaded
    }

    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        self.inner.swap(name, expected, head).await
    }
}

/// Who opens a vault while another one flushes, and so meets parts of an index and packs that are gone, finds what was flushed.
#[tokio::test]
async fn an_opening_beside_a_flush_finds_the_newer_state() {
    let world = World::new(1);
    let vault = world.create(&VaultOptions { compression: Compression::None, ..options() }).await;
    let bytes = |n: usize| Bytes::from(Dice::new(n as u64).bytes(60_000));
    for n in 0..6 {
        put(&vault, &key(n), bytes(n)).await;
    }
    flush(&vault).await;
    let before = world.objects().await;
    let runs = vault.inner.head.lock().await.current.runs.runs.clone();
    assert!(!runs.is_empty(), "there is an index");
    for n in 0..5 {
        vault.delete(&key(n)).await.expect("delete");
    }
    let heads = Late { inner: world.heads.clone(), other: Mutex::new(Some(vault)) };
    let place = place(world.blocks.clone(), Arc::new(heads), Clock::default().env(77));
    let vault = Vault::open(place, &password()).await.expect("open");
    let gone = runs.iter().flat_map(|run| &run.objects).map(|name| BlockKey::new(&name.0).expect("a key"));
    let now = world.objects().await;
    assert!(gone.into_iter().all(|name| before.contains_key(&name) && !now.contains_key(&name)), "it met what is gone");
    assert_eq!(all(&vault).await.expect("all"), BTreeMap::from([(key(5), bytes(5))]));
    put(&vault, &key(100), bytes(100)).await;
    flush(&vault).await;
}

/// Each call of the stores below fails once, before it is done or after: it is told, tried again by the next one, and nothing is lost
/// or left behind.
#[tokio::test]
async fn a_call_that_fails_once_costs_nothing() {
    let whole = World::new(1);
    let vault = whole.create(&VaultOptions { compression: Compression::None, ..options() }).await;
    let mut model = BTreeMap::new();
    for n in 0..6 {
        put(&vault, &key(n), block(n, 50_000)).await;
        model.insert(key(n), block(n, 50_000));
        flush(&vault).await;
    }
    drop(vault);
    let (objects, head) = (whole.objects().await, whole.head().await);
    for is_done in [false, true] {
        for at in 0.. {
            let (world, stops) = (World::of(&objects, head.clone(), 7).await, Stops::new(at, false, is_done));
            let vault = match Vault::open(stops.place(&world), &password()).await {
                Ok(vault) => vault,
                Err(_) => Vault::open(stops.place(&world), &password()).await.expect("the second time"),
            };
            let (mut model, mut failures) = (model.clone(), 0);
            for n in 10..14 {
                while let Err(error) = vault.put(&key(n), block(n, 90_000)).await {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
                    failures += 1;
                    assert!(failures < 3, "call {at}: {error:#}");
                }
                model.insert(key(n), block(n, 90_000));
            }
            // Of a pack that could not be put whoever comes next is told, as soon as it is known.
            while let Err(error) = vault.delete(&key(0)).await {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
                failures += 1;
                assert!(failures < 3, "call {at}: {error:#}");
            }
            model.remove(&key(0));
            while let Err(error) = vault.flush().await {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
                failures += 1;
                assert!(failures < 3, "call {at}: {error:#}");
            }
            if let Err(error) = vault.compact().await {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
                vault.compact().await.expect("the second time");
            }
            if all(&vault).await.is_err() {
                assert_eq!(all(&vault).await.expect("the second time"), model);
            }
            let checked = match vault.check().await {
                Ok(checked) => checked,
                Err(_) => vault.check().await.expect("the second time"),
            };
            assert_eq!(checked.damaged, Vec::<String>::new(), "call {at}");
            put(&vault, &key(1000), Bytes::new()).await;
            model.insert(key(1000), Bytes::new());
            if vault.flush().await.is_err() {
                flush(&vault).await;
            }
            let is_over = !stops.happened();
            if !is_over {
                // What could not be deleted is by the next one.
                put(&vault, &key(1001), Bytes::new()).await;
                model.insert(key(1001), Bytes::new());
                flush(&vault).await;
            }
            assert_eq!(world.blocks.block_count(), counted(&vault).await, "call {at} leaves objects behind");
            drop(vault);
            assert_eq!(all(&world.open().await.expect("open")).await.expect("all"), model, "call {at}");
            if is_over {
                break;
            }
        }
    }
}

/// A store with room for so many objects.
#[derive(Debug, Default)]
struct Small {
    inner: Mem,
    room: std::sync::atomic::AtomicUsize,
}

#[async_trait]
impl BlockStore for Small {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.inner.get(key).await
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        if self.inner.block_count() >= self.room.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(muxfs::Error::new(ErrorKind::NoSpace, "test.put"));
        }
        self.inner.put(key, block).await
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.inner.delete(key).await
    }

    fn keys(&self) -> futures_util::stream::BoxStream<'_, Result<BlockKey>> {
        self.inner.keys()
    }
}

/// A store that fills up, wherever in a flush that is: it is told, what was flushed is there, for who opens it anew too, and with
/// more room all goes on.
#[tokio::test]
async fn a_store_that_fills_up_loses_nothing() {
    for room in 4..24 {
        let (store, heads) = (Arc::new(Small::default()), Arc::new(MemHeads::default()));
        store.room.store(room, std::sync::atomic::Ordering::SeqCst);
        let place = place(store.clone(), heads, Clock::default().env(1));
        let options = VaultOptions { compression: Compression::None, ..options() };
        let vault = Vault::create(place.clone(), &password(), &options).await.expect("made");
        let (mut model, mut flushed, mut n) = (BTreeMap::new(), BTreeMap::new(), 0);
        let full = loop {
            let bytes = Bytes::from(Dice::new(n as u64).bytes(30_000));
            let done = match vault.put(&key(n), bytes.clone()).await {
                Ok(()) => {
                    model.insert(key(n), bytes);
                    vault.flush().await
                }
                refused => refused,
            };
            match done {
                Ok(()) => flushed.clone_from(&model),
                Err(error) => break error,
            }
            n += 1;
            assert!(n < 100, "it never fills up");
        };
        assert_eq!(full.kind(), ErrorKind::NoSpace, "{full:#}");
        assert_eq!(all(&vault).await.expect("all"), model, "what was taken is there");
        if room % 2 == 0 {
            store.room.store(room + 8, std::sync::atomic::Ordering::SeqCst);
            flush(&vault).await;
            flushed = model;
            assert_eq!(store.inner.block_count(), counted(&vault).await, "nothing is left behind");
        }
        drop(vault);
        let vault = Vault::open(place, &password()).await.expect("open");
        assert_eq!(all(&vault).await.expect("all"), flushed, "what was flushed is there");
        assert_eq!(vault.check().await.expect("check").damaged, Vec::<String>::new());
    }
}
