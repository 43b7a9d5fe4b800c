//! What the store below may do with a block, and what is made of it; keys, old and wrong.

use std::{collections::BTreeSet, sync::Mutex};

use bytes::{BufMut, BytesMut};
use futures_util::{FutureExt as _, future::BoxFuture};
use proptest::prelude::*;

use super::*;
use crate::{
    block::{BLOCK_LEN_MAX, Mem},
    cipher::{self, portable},
    testing::fault::{BlockCall, Dice, Fault, Faulty},
};

fn root(byte: u8) -> SecretKey {
    SecretKey::new([byte; 32])
}

fn key(n: u8) -> BlockKey {
    BlockKey::new(&[b'k', n]).expect("a key")
}

fn name(of: u8, root_byte: u8) -> BlockKey {
    Keys::new(root(root_byte)).name_of(&key(of)).expect("a short key")
}

fn block(n: u64, len: usize) -> Bytes {
    Dice::new(n).bytes(len).into()
}

/// An empty memory and a store over it.
fn fresh() -> (Arc<Mem>, Encrypt) {
    let inner = Arc::new(Mem::default());
    (inner.clone(), Encrypt::new(inner, root(1)))
}

/// Puts bytes where a block is, whatever was there.
async fn replace(inner: &Mem, name: &BlockKey, stored: Bytes) {
    inner.delete(name).await.expect("delete");
    inner.put(name, stored).await.expect("put");
}

async fn stored(inner: &Mem, name: &BlockKey) -> Bytes {
    inner.get(name).await.expect("get").expect("it is there")
}

async fn get(store: &Encrypt, n: u8) -> Result<Option<Bytes>> {
    store.get(&key(n)).await
}

async fn refused(store: &Encrypt, n: u8) -> ErrorKind {
    get(store, n).await.expect_err("refused").kind()
}

async fn keys(store: &Encrypt) -> Result<BTreeSet<BlockKey>> {
    store.keys().try_collect().await
}

/// The portable cipher is the oracle of the one that is used: the same bytes and tags, and each opens the other's.
#[test]
fn both_ciphers_make_the_same_bytes() {
    let mut dice = Dice::new(1);
    for len in (0..200).chain([1000, 4096, 65_535, 100_003, 1 << 20]) {
        let secret: [u8; 32] = dice.bytes(32).try_into().expect("32");
        let nonce: [u8; 12] = dice.bytes(12).try_into().expect("12");
        let (plain, bound_to) = (dice.bytes(len), dice.bytes(len % 60));
        let (used, portable) = (cipher::Cipher::new(&secret), portable::Cipher::new(&secret));
        let (mut ours, mut theirs) = (plain.clone(), plain.clone());
        let tags = (used.seal(&nonce, &bound_to, &mut ours), portable.seal(&nonce, &bound_to, &mut theirs));
        assert_eq!((&ours, tags.0), (&theirs, tags.1), "{len} bytes");
        assert!(used.open(&nonce, &bound_to, &mut theirs, &tags.1) && theirs == plain, "{len} bytes");
        assert!(portable.open(&nonce, &bound_to, &mut ours, &tags.0) && ours == plain, "{len} bytes");
        let mut tag = tags.0;
        tag[len % 16] ^= 1 << (len % 8);
        assert!(!used.open(&nonce, &bound_to, &mut plain.clone(), &tag), "{len} bytes under another tag");
    }
}

/// Every bit of what is stored counts: a block with one flipped is `Corrupt`, and what can be told without the whole block
/// is right or `Corrupt`.
#[tokio::test]
async fn any_flipped_bit_is_corrupt() {
    for len in [0, 1, 31, 32, 33, 100] {
        let inner = Arc::new(Faulty::new(Mem::default()));
        let store = Encrypt::new(inner.clone(), root(1));
        let whole = block(1, len);
        store.put(&key(0), whole.clone()).await.expect("put");
        for bit in 0..stored::stored_len(len) * 8 {
            inner.fault(&name(0, 1), Fault::FlipBit(bit));
            assert_eq!(refused(&store, 0).await, ErrorKind::Corrupt, "bit {bit} of {len} bytes");
            match store.block_len(&key(0)).await {
                Ok(told) => assert_eq!(told, Some(len as u64), "bit {bit}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {bit}"),
            }
            match store.get_range(&key(0), 3..20).await {
                Ok(told) => assert_eq!(told, Some(whole.slice(3.min(len)..20.min(len))), "bit {bit}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {bit}"),
            }
        }
        inner.heal();
        assert_eq!(get(&store, 0).await.expect("get"), Some(whole));
    }
}

#[tokio::test]
async fn a_block_cut_off_or_grown_is_corrupt() {
    let (inner, store) = fresh();
    store.put(&key(0), block(1, 300)).await.expect("put");
    let good = stored(&inner, &name(0, 1)).await;
    for len in 0..good.len() {
        replace(&inner, &name(0, 1), good.slice(..len)).await;
        assert_eq!(refused(&store, 0).await, ErrorKind::Corrupt, "{len} bytes of {}", good.len());
    }
    for more in [1, 16, 64, 128, 4096] {
        replace(&inner, &name(0, 1), [&good[..], &vec![0; more]].concat().into()).await;
        assert_eq!(refused(&store, 0).await, ErrorKind::Corrupt, "{more} bytes more");
    }
}

/// A block is bound to its key, and its parts to each other: nothing can be put together of what others put.
#[tokio::test]
async fn spliced_blocks_are_corrupt() {
    let (inner, store) = fresh();
    store.put(&key(0), block(0, 300)).await.expect("put");
    store.put(&key(1), block(1, 300)).await.expect("put");
    let (a, b) = (stored(&inner, &name(0, 1)).await, stored(&inner, &name(1, 1)).await);
    replace(&inner, &name(1, 1), a.clone()).await;
    assert_eq!(refused(&store, 1).await, ErrorKind::Corrupt, "A's bytes under B's name");
    assert_eq!(store.block_len(&key(1)).await.expect_err("A's").kind(), ErrorKind::Corrupt);
    replace(&inner, &name(1, 1), b).await;

    // Two blocks that were put under one key, one after the other, as Dag never would.
    store.delete(&key(0)).await.expect("delete");
    store.put(&key(0), block(2, 300)).await.expect("put");
    let other = stored(&inner, &name(0, 1)).await;
    for at in [48, 64, 80, 128, 200] {
        let spliced = [&a[..at], &other[at..]].concat();
        replace(&inner, &name(0, 1), spliced.into()).await;
        assert_eq!(refused(&store, 0).await, ErrorKind::Corrupt, "spliced at {at}");
    }

    // And one of the key before, under the name of the key now.
    let both = Encrypt::new(inner.clone(), root(2)).with_older_key(root(1));
    replace(&inner, &name(1, 2), stored(&inner, &name(1, 1)).await).await;
    assert_eq!(refused(&both, 1).await, ErrorKind::Corrupt, "both keys are known: it is no wrong key");
}

/// A wrong key is `BadKey` wherever a block is met, and a block of a newer program `Unsupported`; neither is damage.
#[tokio::test]
async fn another_key_is_bad_key() {
    let (inner, store) = fresh();
    store.check_key().await.expect("an empty store suits any key");
    store.put(&key(0), block(0, 300)).await.expect("put");
    store.check_key().await.expect("its own key");
    let wrong = Encrypt::new(inner.clone(), root(2));
    assert_eq!(wrong.check_key().await.expect_err("wrong").kind(), ErrorKind::BadKey);
    assert_eq!(keys(&wrong).await.expect_err("wrong").kind(), ErrorKind::BadKey);
    assert_eq!(wrong.keys().count().await, 1, "an error ends the list");
    assert_eq!(get(&wrong, 0).await.expect("another name"), None);
    replace(&inner, &name(0, 2), stored(&inner, &name(0, 1)).await).await;
    assert_eq!(refused(&wrong, 0).await, ErrorKind::BadKey);
    assert_eq!(wrong.block_len(&key(0)).await.expect_err("wrong").kind(), ErrorKind::BadKey);

    let mut newer = BytesMut::from(&stored(&inner, &name(0, 1)).await[..44]);
    newer[8] = 2;
    newer.put_u32_le(crc32c::crc32c(&newer));
    replace(&inner, &name(0, 1), newer.freeze()).await;
    assert_eq!(refused(&store, 0).await, ErrorKind::Unsupported);
}

/// The same block under the same key is the same bytes, whoever puts it and when; anything else has another nonce.
#[tokio::test]
async fn a_block_put_twice_is_one_block() {
    let bytes_of = async |n: u8, block: Bytes| {
        let (inner, store) = fresh();
        store.put(&key(n), block).await.expect("put");
        stored(&inner, &name(n, 1)).await
    };
    let first = bytes_of(0, block(0, 300)).await;
    assert_eq!(bytes_of(0, block(0, 300)).await, first);
    let nonce = |stored: &Bytes| stored.slice(32..44);
    for other in [bytes_of(0, block(1, 300)).await, bytes_of(1, block(0, 300)).await, bytes_of(0, block(0, 299)).await]
    {
        assert_ne!(nonce(&other), nonce(&first));
        assert_ne!(other[80..128], first[80..128], "not even the length is the same to who looks");
    }
}

#[test]
fn the_longest_block_fits_and_a_full_chunk_costs_little() {
    assert!(stored::stored_len(Encrypt::BLOCK_LEN_MAX) <= BLOCK_LEN_MAX);
    assert!(stored::stored_len(Encrypt::BLOCK_LEN_MAX + 1) > BLOCK_LEN_MAX);
    // With the header of a layer above, 16 bytes, as without.
    assert_eq!(stored::stored_len((1 << 20) + 16), (1 << 20) + 128);
    assert_eq!(stored::stored_len(1 << 20), (1 << 20) + 128);
    assert_eq!(stored::stored_len(0), 128);
}

/// What was put under older keys is read, listed and deleted; what is put goes under the newest.
#[tokio::test]
async fn older_keys_are_read() {
    let inner = Arc::new(Mem::default());
    let (old, older) = (Encrypt::new(inner.clone(), root(2)), Encrypt::new(inner.clone(), root(3)));
    older.put(&key(0), block(0, 300)).await.expect("put");
    older.put(&key(1), block(1, 300)).await.expect("put");
    old.put(&key(1), block(1, 300)).await.expect("put");
    let store = Encrypt::new(inner.clone(), root(1)).with_older_key(root(2)).with_older_key(root(3));
    store.check_key().await.expect("all keys are known");
    for n in 0..2 {
        assert_eq!(get(&store, n).await.expect("get"), Some(block(n.into(), 300)));
        assert_eq!(store.block_len(&key(n)).await.expect("block_len"), Some(300));
        assert!(store.has(&key(n)).await.expect("has"));
    }
    assert_eq!(keys(&store).await.expect("keys"), [key(0), key(1)].into());
    store.put(&key(0), block(0, 300)).await.expect("put");
    assert!(inner.has(&name(0, 1)).await.expect("has"), "under the newest");
    for n in 0..2 {
        store.delete(&key(n)).await.expect("delete");
        assert_eq!(get(&store, n).await.expect("get"), None);
    }
    assert_eq!(inner.block_count(), 0, "under whatever key it was");
}

/// What is under a name that no key here opens hides none of the others.
#[tokio::test]
async fn a_damaged_name_is_passed_over() {
    let (inner, store) = fresh();
    store.put(&key(0), block(0, 300)).await.expect("put");
    store.put(&key(1), block(1, 300)).await.expect("put");
    let mut damaged = name(0, 1).as_bytes().to_vec();
    damaged[3] ^= 1;
    let bytes = stored(&inner, &name(0, 1)).await;
    inner.delete(&name(0, 1)).await.expect("delete");
    inner.put(&BlockKey::new(&damaged).expect("a key"), bytes).await.expect("put");
    inner.put(&BlockKey::new(b"x").expect("a key"), "not ours".into()).await.expect("put");
    assert_eq!(keys(&store).await.expect("keys"), [key(1)].into());
    store.check_key().await.expect("it is the right one");
}

/// A store below keeps what it has: once it was found to be damaged, a put replaces it.
#[tokio::test]
async fn a_put_replaces_what_was_found_to_be_bad() {
    let (inner, store) = fresh();
    store.put(&key(0), block(0, 300)).await.expect("put");
    let mut bytes = stored(&inner, &name(0, 1)).await.to_vec();
    bytes[200] ^= 1;
    replace(&inner, &name(0, 1), bytes.into()).await;
    assert_eq!(refused(&store, 0).await, ErrorKind::Corrupt);
    store.put(&key(0), block(0, 300)).await.expect("put");
    assert_eq!(get(&store, 0).await.expect("get"), Some(block(0, 300)));
}

/// The length and the first bytes are told by the front alone: the rest need not even be there.
#[tokio::test]
async fn the_front_tells_without_the_rest() {
    let (inner, store) = fresh();
    let whole = block(0, 5000);
    store.put(&key(0), whole.clone()).await.expect("put");
    let front = stored(&inner, &name(0, 1)).await.slice(..FRONT_END);
    replace(&inner, &name(0, 1), front).await;
    assert_eq!(store.block_len(&key(0)).await.expect("block_len"), Some(5000));
    assert_eq!(store.get_range(&key(0), 0..32).await.expect("get_range"), Some(whole.slice(..32)));
    assert_eq!(store.get_range(&key(0), 0..33).await.expect_err("the rest").kind(), ErrorKind::Corrupt);
}

#[test]
fn keys_are_never_printed() {
    let (_, store) = fresh();
    assert_eq!(format!("{store:?}"), "Encrypt { inner: Mem(0 blocks, 0 of 1073741824 bytes), .. }");
    assert_eq!(format!("{:?}", store.ring().newest), "Keys(..)");
}

/// A memory that does something else before it gives what is under a name, once.
#[derive(Debug, Default)]
struct Interposed {
    mem: Mem,
    before: Mutex<Option<Before>>,
}

struct Before(BlockKey, BoxFuture<'static, ()>);

impl fmt::Debug for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Before({:?})", self.0)
    }
}

impl Interposed {
    /// Does `what` before the block under this name is asked for the next time.
    fn before(&self, name: BlockKey, what: impl Future<Output = ()> + Send + 'static) {
        *self.before.lock().expect("whole") = Some(Before(name, what.boxed()));
    }

    async fn asked(&self, name: &BlockKey) {
        let what = self.before.lock().expect("whole").take_if(|before| before.0 == *name);
        if let Some(Before(_, what)) = what {
            what.await;
        }
    }
}

#[async_trait]
impl BlockStore for Interposed {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.asked(key).await;
        self.mem.get(key).await
    }
    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        self.asked(key).await;
        self.mem.get_range(key, range).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        self.mem.put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.mem.delete(key).await
    }
    async fn has(&self, key: &BlockKey) -> Result<bool> {
        self.asked(key).await;
        self.mem.has(key).await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.mem.keys()
    }
}

/// Moves everything under the newest key.
async fn rekey(store: &Encrypt) -> Result<()> {
    for name in store.older_names().try_collect::<Vec<_>>().await? {
        store.put_under_newest(&name).await?;
        store.flush().await?;
        assert!(store.remove_older(&name).await?, "it is under the newest, or gone");
    }
    Ok(())
}

/// A reader that did not find a block under the newest key, and is overtaken by who moves it there before it asks for the
/// older name, was told that it is absent. So was one that knew the old key alone.
#[tokio::test]
async fn a_block_that_is_moved_meanwhile_is_never_absent() {
    type Ask = fn(Arc<Encrypt>) -> BoxFuture<'static, bool>;
    let asks: [Ask; 3] = [
        |store| async move { get(&store, 0).await.expect("get").is_some() }.boxed(),
        |store| async move { store.block_len(&key(0)).await.expect("block_len").is_some() }.boxed(),
        |store| async move { store.has(&key(0)).await.expect("has") }.boxed(),
    ];
    for ask in asks {
        for is_begun in [true, false] {
            let inner = Arc::new(Interposed::default());
            let store = Arc::new(Encrypt::new(inner.clone(), root(1)));
            store.put(&key(0), block(0, 300)).await.expect("put");
            if is_begun {
                store.set_keys(root(2), [root(1)]).await;
            }
            let moving = store.clone();
            inner.before(name(0, 1), async move {
                moving.set_keys(root(2), [root(1)]).await;
                rekey(&moving).await.expect("rekey");
                moving.set_keys(root(2), []).await;
            });
            assert!(ask(store.clone()).await, "it was there all the time");
            assert_eq!(inner.mem.block_count(), 1);
            assert!(inner.mem.has(&name(0, 2)).await.expect("has"));
        }
    }
}

/// A block that is deleted between being read and being put under the newest key stays deleted.
#[tokio::test]
async fn a_block_that_is_deleted_while_it_is_moved_stays_deleted() {
    let inner = Arc::new(Interposed::default());
    let store = Arc::new(Encrypt::new(inner.clone(), root(1)));
    store.put(&key(0), block(0, 300)).await.expect("put");
    store.set_keys(root(2), [root(1)]).await;
    let (told, deleted) = tokio::sync::oneshot::channel();
    let deleting = store.clone();
    inner.before(name(0, 1), async move {
        let deletion = tokio::spawn(async move { deleting.delete(&key(0)).await });
        // It has begun, and waits.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        told.send(deletion).expect("somebody waits");
    });
    store.put_under_newest(&name(0, 1)).await.expect("put");
    deleted.await.expect("sent").await.expect("it ends").expect("delete");
    assert_eq!((get(&store, 0).await.expect("get"), inner.mem.block_count()), (None, 0));
}

/// What is put while keys are replaced is under the newest when that has returned, or is found by who moves blocks then. Who
/// replaces them waits for that; who puts and deletes meanwhile does not, though a node takes ever so long.
#[tokio::test(start_paused = true)]
async fn a_put_under_way_is_waited_for() {
    let inner = Arc::new(Faulty::new(Mem::default()));
    let store = Arc::new(Encrypt::new(inner.clone(), root(1)));
    inner.set_answer_time(std::time::Duration::from_secs(9));
    let putting = tokio::spawn({
        let store = store.clone();
        async move { store.put(&key(0), block(0, 300)).await }
    });
    while inner.calls(BlockCall::Put) == 0 {
        tokio::task::yield_now().await;
    }
    let replacing = tokio::spawn({
        let store = store.clone();
        async move { store.set_keys(root(2), [root(1)]).await }
    });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    inner.set_answer_time(std::time::Duration::ZERO);
    store.put(&key(1), block(1, 300)).await.expect("put");
    store.delete(&key(2)).await.expect("deleted");
    assert!(!putting.is_finished(), "the others waited for a node that is slow");
    assert!(!replacing.is_finished(), "a put is under way under the key of before");
    putting.await.expect("it ends").expect("put");
    replacing.await.expect("it ends");
    assert_eq!(store.older_names().count().await, 1, "it is found, and the other is under the newest");
}

/// Moves are broken off at each call of the store below, in both ways: what was put is read at every moment, another moving
/// ends it, and then there is nothing that the old key knows.
#[tokio::test]
async fn moving_goes_on_after_any_failure() {
    for call in [BlockCall::Read, BlockCall::Put, BlockCall::Delete, BlockCall::Flush, BlockCall::Keys] {
        for count in 0..4 {
            let inner = Arc::new(Faulty::new(Mem::default()));
            let store = Encrypt::new(inner.clone(), root(1));
            for n in 0..4 {
                store.put(&key(n), block(n.into(), 300)).await.expect("put");
            }
            store.set_keys(root(2), [root(1)]).await;
            for _ in 0..count {
                let name = store.older_names().try_next().await.expect("listed").expect("not all are moved");
                store.put_under_newest(&name).await.expect("put");
                store.remove_older(&name).await.expect("removed");
            }
            inner.fail_next(call, ErrorKind::Io);
            rekey(&store).await.expect_err("broken off");
            // As another process finds it.
            let store = Encrypt::new(inner.clone(), root(2)).with_older_key(root(1));
            for n in 0..4 {
                assert_eq!(get(&store, n).await.expect("get"), Some(block(n.into(), 300)), "{call:?} {count}");
            }
            rekey(&store).await.expect("goes on");
            assert_eq!(inner.inner().block_count(), 4, "nothing is there twice");
            let (old, new) = (Encrypt::new(inner.clone(), root(1)), Encrypt::new(inner.clone(), root(2)));
            assert_eq!(old.check_key().await.expect_err("the old key").kind(), ErrorKind::BadKey);
            assert_eq!(old.older_names().count().await, 0);
            for n in 0..4 {
                assert_eq!(get(&old, n).await.expect("get"), None);
                assert_eq!(get(&new, n).await.expect("get"), Some(block(n.into(), 300)));
            }
        }
    }
}

/// A block that cannot be read stays under its older key, and one that is put under no other is not removed.
#[tokio::test]
async fn what_cannot_be_moved_stays() {
    let (inner, store) = fresh();
    store.put(&key(0), block(0, 300)).await.expect("put");
    let mut bytes = stored(&inner, &name(0, 1)).await.to_vec();
    bytes[200] ^= 1;
    replace(&inner, &name(0, 1), bytes.into()).await;
    store.set_keys(root(2), [root(1)]).await;
    assert_eq!(store.put_under_newest(&name(0, 1)).await.expect_err("bad").kind(), ErrorKind::Corrupt);
    assert!(!store.remove_older(&name(0, 1)).await.expect("asked"));
    assert!(inner.has(&name(0, 1)).await.expect("has"));
    assert_eq!(store.put_under_newest(&name(1, 2)).await.expect("asked"), None, "of the newest key");
}

/// What comes back under a key that was replaced, with a node that was away, is passed over; what is of a key that never
/// was one of this store is not.
#[tokio::test]
async fn what_is_of_a_retired_key_is_passed_over() {
    let (inner, store) = fresh();
    store.put(&key(0), block(0, 300)).await.expect("put");
    let old = stored(&inner, &name(0, 1)).await;
    store.set_keys(root(2), [root(1)]).await;
    rekey(&store).await.expect("rekey");
    store.set_keys(root(2), []).await;
    inner.put(&name(0, 1), old).await.expect("put");
    let opened = Encrypt::new(inner.clone(), root(2)).with_retired_key(Encrypt::key_id(root(1)));
    for store in [&store, &opened] {
        assert_eq!(keys(store).await.expect("keys"), [key(0)].into());
        store.check_key().await.expect("its own key");
        assert_eq!(get(store, 0).await.expect("get"), Some(block(0, 300)));
    }
    Encrypt::new(inner.clone(), root(3)).put(&key(1), block(1, 300)).await.expect("put");
    assert_eq!(keys(&opened).await.expect_err("another key").kind(), ErrorKind::BadKey);
}

proptest! {
    /// Any bytes below, with a good header before them or not, are refused; none panics.
    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600), header in 0..3usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (inner, store) = fresh();
            store.put(&key(0), block(0, 300)).await.expect("put");
            let good = stored(&inner, &name(0, 1)).await;
            let bytes = [&good[..[0, 48, FRONT_END][header]], &bytes].concat();
            replace(&inner, &name(0, 1), bytes.into()).await;
            assert_eq!(refused(&store, 0).await, ErrorKind::Corrupt);
        });
    }

    /// Names turn back into their keys, and nothing else does.
    #[test]
    fn names_turn_back(bytes in proptest::collection::vec(any::<u8>(), 1..=Encrypt::KEY_LEN_MAX), flip in any::<prop::sample::Index>()) {
        let (keys, key) = (Keys::new(root(1)), BlockKey::new(&bytes).expect("a key"));
        let name = keys.name_of(&key).expect("short enough");
        prop_assert_eq!(keys.key_of(&name), Some(key.clone()));
        prop_assert_eq!(Keys::new(root(2)).key_of(&name), None);
        prop_assert_eq!(keys.key_of(&key), None);
        let mut other = name.as_bytes().to_vec();
        let at = flip.index(other.len() * 8);
        other[at / 8] ^= 1 << (at % 8);
        prop_assert_eq!(keys.key_of(&BlockKey::new(&other).expect("a key")), None);
    }

    /// A range of what was put is a range of what comes back, within the front, beyond it, and across its end.
    #[test]
    fn ranges_are_slices(len in 0..200usize, start in 0..80usize, end in 0..80usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let ((_, store), plain) = (fresh(), Mem::default());
            store.put(&key(0), block(0, len)).await.expect("put");
            plain.put(&key(0), block(0, len)).await.expect("put");
            let expected = plain.get_range(&key(0), start..end).await.expect("get_range");
            assert_eq!(store.get_range(&key(0), start..end).await.expect("get_range"), expected);
        });
    }
}
