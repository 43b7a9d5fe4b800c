//! The laws of [`BlockStore`]: what every store of blocks keeps, and every layer over one.
//!
//! Who writes a store writes one line, [`block_store_laws!`](crate::block_store_laws), and gets a test for each law.
//!
//! ```
//! # use muxfs::block::Mem;
//! muxfs::block_store_laws!(mem, async { Mem::default() });
//! ```

use std::{collections::BTreeSet, future::poll_fn, pin::pin, sync::Arc, task::Poll};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::BoxFuture};

use crate::{BlockKey, BlockStore, ErrorKind, block::BLOCK_KEY_LEN_MAX, block::BLOCK_LEN_MAX};

/// Runs every law of [`BlockStore`] over a store, each as a test of its own.
///
/// `block_store_laws!(name, make)` makes a module `name` of tests; `make` is a future that gives a new, empty store, or
/// a [`Subject`] where there is more to say. A law that a store cannot keep is named with the reason, which the test
/// prints: `block_store_laws!(name, make, except: { a_law: "why" })`.
#[macro_export]
macro_rules! block_store_laws {
    ($module:ident, $make:expr $(, except: $except:tt)? $(,)?) => {
        $crate::laws!(block_store, $module, $make, [$($except)?],
            get_gives_what_was_put, what_was_never_put_is_none, put_twice_is_put_once, a_deleted_block_is_absent,
            a_block_comes_back_after_deletion, a_range_is_a_slice, what_is_opened_is_what_get_gives, the_longest_block_is_taken_and_no_longer_one,
            has_tells_whether_get_gives, a_length_is_told_without_the_block, keys_lists_what_is_there, keys_misses_nothing_that_stays, keys_are_bytes,
            an_empty_block_is_a_block, a_dropped_call_leaves_all_or_nothing, puts_of_one_key_at_once_agree,
            many_calls_at_once_do_not_mix, what_was_flushed_survives_reopening);
    };
}

/// A store under test.
pub struct Subject {
    store: Arc<dyn BlockStore>,
    reopen: Option<Reopen>,
    block_len_max: usize,
    key_len_max: usize,
}

type Reopen = Box<dyn Fn() -> BoxFuture<'static, Arc<dyn BlockStore>> + Send + Sync>;

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("store", &self.store).finish_non_exhaustive()
    }
}

impl<B: BlockStore> From<B> for Subject {
    fn from(store: B) -> Self {
        Self::over(Arc::new(store), None)
    }
}

impl Subject {
    fn over(store: Arc<dyn BlockStore>, reopen: Option<Reopen>) -> Self {
        Self { store, reopen, block_len_max: BLOCK_LEN_MAX, key_len_max: BLOCK_KEY_LEN_MAX }
    }

    /// A store and the way to open it again, which is taken when all that was opened before is dropped.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{BlockStore, block::{Segments, SegmentsOptions}, media::MemMedia, testing::block_store::Subject};
    /// async fn subject() -> Subject {
    ///     let (data, index) = (Arc::new(MemMedia::default()), Arc::new(MemMedia::default()));
    ///     Subject::reopening(move || {
    ///         let (data, index) = (data.clone(), index.clone());
    ///         Box::pin(async {
    ///             let store = Segments::open(data, index, SegmentsOptions::default(), &muxfs::testing::env()).await.unwrap();
    ///             Arc::new(store) as Arc<dyn BlockStore>
    ///         })
    ///     })
    ///     .await
    /// }
    /// muxfs::block_store_laws!(segments, subject());
    /// ```
    pub async fn reopening(open: impl Fn() -> BoxFuture<'static, Arc<dyn BlockStore>> + Send + Sync + 'static) -> Self {
        Self::over(open().await, Some(Box::new(open)))
    }

    /// The longest block and the longest key that it takes, in bytes: a layer adds to both, and so takes less than a
    /// store at the bottom.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{SecretKey, block::{Encrypt, Mem}, testing::block_store::Subject};
    /// async fn subject() -> Subject {
    ///     let encrypt = Encrypt::new(Arc::new(Mem::default()), SecretKey::new([7; 32]));
    ///     Subject::from(encrypt).with_limits(Encrypt::BLOCK_LEN_MAX, Encrypt::KEY_LEN_MAX)
    /// }
    /// muxfs::block_store_laws!(encrypt, subject());
    /// ```
    #[must_use]
    pub fn with_limits(mut self, block_len_max: usize, key_len_max: usize) -> Self {
        (self.block_len_max, self.key_len_max) = (block_len_max, key_len_max);
        self
    }
}

fn key(n: usize) -> BlockKey {
    BlockKey::new(format!("key {n}").as_bytes()).expect("a key")
}

/// Bytes of no pattern that a store could guess, others for every `n`.
fn block(n: usize, len: usize) -> Bytes {
    super::fault::Dice::new(n as u64).bytes(len).into()
}

async fn put(store: &dyn BlockStore, key: &BlockKey, block: Bytes) {
    store.put(key, block).await.expect("put");
}

async fn get(store: &dyn BlockStore, key: &BlockKey) -> Option<Bytes> {
    store.get(key).await.expect("get")
}

async fn keys(store: &dyn BlockStore) -> BTreeSet<BlockKey> {
    store.keys().try_collect().await.expect("keys")
}

/// A block is what was put, whatever its length.
pub async fn get_gives_what_was_put(subject: Subject) {
    let store = &*subject.store;
    for (n, len) in [1, 2, 7, 8, 9, 255, 4096, 65_537, 1 << 20].into_iter().enumerate() {
        put(store, &key(n), block(n, len)).await;
        assert_eq!(get(store, &key(n)).await, Some(block(n, len)), "{len} bytes");
    }
    for (n, len) in [1, 2, 7, 8, 9, 255, 4096, 65_537, 1 << 20].into_iter().enumerate() {
        assert_eq!(get(store, &key(n)).await, Some(block(n, len)), "{len} bytes, after others");
    }
}

/// What was never put is `None`, not an error.
pub async fn what_was_never_put_is_none(subject: Subject) {
    let store = &*subject.store;
    assert_eq!(get(store, &key(0)).await, None);
    put(store, &key(1), block(1, 10)).await;
    assert_eq!(get(store, &key(0)).await, None);
    assert_eq!(store.get_range(&key(0), 0..5).await.expect("get_range"), None);
    assert!(!store.has(&key(0)).await.expect("has"));
}

/// Putting the same block again changes nothing.
pub async fn put_twice_is_put_once(subject: Subject) {
    let store = &*subject.store;
    for _ in 0..3 {
        put(store, &key(0), block(0, 1000)).await;
        assert_eq!(get(store, &key(0)).await, Some(block(0, 1000)));
    }
    store.delete(&key(0)).await.expect("delete");
    assert_eq!(get(store, &key(0)).await, None, "one delete undoes all puts");
}

/// What was deleted is absent, and deleting what is absent is no error.
pub async fn a_deleted_block_is_absent(subject: Subject) {
    let store = &*subject.store;
    store.delete(&key(0)).await.expect("nothing to delete");
    put(store, &key(0), block(0, 100)).await;
    put(store, &key(1), block(1, 100)).await;
    for _ in 0..2 {
        store.delete(&key(0)).await.expect("delete");
        assert_eq!(get(store, &key(0)).await, None);
        assert!(!store.has(&key(0)).await.expect("has"));
    }
    assert_eq!(get(store, &key(1)).await, Some(block(1, 100)), "others stay");
}

/// After a delete another block can be put under the key: that is how bad bytes are replaced.
pub async fn a_block_comes_back_after_deletion(subject: Subject) {
    let store = &*subject.store;
    for n in 0..20 {
        put(store, &key(0), block(n, 100 + n)).await;
        assert_eq!(get(store, &key(0)).await, Some(block(n, 100 + n)));
        store.delete(&key(0)).await.expect("delete");
        assert_eq!(get(store, &key(0)).await, None);
    }
}

/// `get_range` gives what slicing the block gives, cut off at its end and empty past it.
pub async fn a_range_is_a_slice(subject: Subject) {
    let store = &*subject.store;
    let whole = block(0, 1000);
    put(store, &key(0), whole.clone()).await;
    put(store, &key(1), Bytes::new()).await;
    let edges = [0, 1, 499, 500, 999, 1000, 1001, usize::MAX];
    for start in edges {
        for end in edges {
            let slice = if start < end { whole.slice(start.min(1000)..end.min(1000)) } else { Bytes::new() };
            let range = store.get_range(&key(0), start..end).await.expect("get_range");
            assert_eq!(range, Some(slice), "{start}..{end}");
            let range = store.get_range(&key(1), start..end).await.expect("get_range");
            assert_eq!(range, Some(Bytes::new()), "{start}..{end} of nothing");
        }
    }
}

/// `get_opened` gives what the layer above says to the bytes that `get` gives: also that they are wrong.
pub async fn what_is_opened_is_what_get_gives(subject: Subject) {
    let store = &*subject.store;
    let whole = block(0, 1000);
    put(store, &key(0), whole.clone()).await;
    let opened = store.get_opened(&key(0), &|bytes| Ok(bytes.slice(1..))).await.expect("get_opened");
    assert_eq!(opened.expect("it is there").expect("as was said"), whole.slice(1..));
    for kind in [ErrorKind::Corrupt, ErrorKind::BadKey] {
        let refused = store.get_opened(&key(0), &|_| Err(crate::Error::new(kind, "law.open"))).await;
        let said = refused.expect("get_opened").expect("it is there").expect_err("as was said");
        assert_eq!(said.kind(), kind);
    }
    assert_eq!(get(store, &key(0)).await, Some(whole), "what was refused is kept");
    let absent = store.get_opened(&key(1), &|_| panic!("there is nothing to open")).await;
    assert!(absent.expect("get_opened").is_none());
}

/// A block of the greatest length is taken; a longer one is `TooLarge` and leaves nothing.
pub async fn the_longest_block_is_taken_and_no_longer_one(subject: Subject) {
    let (store, len_max) = (&*subject.store, subject.block_len_max);
    put(store, &key(0), block(0, len_max)).await;
    assert!(get(store, &key(0)).await == Some(block(0, len_max)), "the longest block comes back");
    assert_eq!(store.block_len(&key(0)).await.expect("block_len"), Some(len_max as u64));
    for len in [len_max + 1, BLOCK_LEN_MAX + 1] {
        let error = store.put(&key(1), block(1, len)).await.expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert_eq!(get(store, &key(1)).await, None);
    }
}

/// `has` says what `get` would.
pub async fn has_tells_whether_get_gives(subject: Subject) {
    let store = &*subject.store;
    for n in 0..8 {
        put(store, &key(n), block(n, n)).await;
    }
    for n in (0..8).step_by(2) {
        store.delete(&key(n)).await.expect("delete");
    }
    for n in 0..10 {
        assert_eq!(store.has(&key(n)).await.expect("has"), get(store, &key(n)).await.is_some(), "key {n}");
    }
}

/// `block_len` is the length of what `get` gives.
pub async fn a_length_is_told_without_the_block(subject: Subject) {
    let store = &*subject.store;
    for n in 0..8 {
        put(store, &key(n), block(n, n * 1000)).await;
    }
    store.delete(&key(5)).await.expect("delete");
    for n in 0..10 {
        let len = get(store, &key(n)).await.map(|block| block.len() as u64);
        assert_eq!(store.block_len(&key(n)).await.expect("block_len"), len, "key {n}");
    }
}

/// Every key that is there is listed, and none that is not.
pub async fn keys_lists_what_is_there(subject: Subject) {
    let store = &*subject.store;
    assert_eq!(keys(store).await, BTreeSet::new());
    for n in 0..300 {
        put(store, &key(n), block(n, n % 50)).await;
    }
    for n in (0..300).step_by(3) {
        store.delete(&key(n)).await.expect("delete");
    }
    for n in (0..300).step_by(9) {
        put(store, &key(n), block(n, 5)).await;
    }
    let expected = (0..300).filter(|n| n % 3 != 0 || n % 9 == 0).map(key).collect();
    assert_eq!(keys(store).await, expected);
    store.flush().await.expect("flush");
    assert_eq!(keys(store).await, expected);
}

/// A key that is present from the first item to the last is listed, whatever is put and deleted meanwhile.
pub async fn keys_misses_nothing_that_stays(subject: Subject) {
    let store = &*subject.store;
    for n in 0..200 {
        put(store, &key(n), block(n, 20)).await;
    }
    let mut listed = BTreeSet::new();
    let mut stream = store.keys();
    let mut n = 0;
    while let Some(next) = stream.next().await {
        listed.insert(next.expect("keys"));
        if n < 200 {
            // Half of what was there goes while it is listed, and as much comes.
            if n % 2 == 0 {
                store.delete(&key(n)).await.expect("delete");
            }
            put(store, &key(1000 + n), block(n, 20)).await;
            n += 1;
        }
    }
    for n in (1..200).step_by(2) {
        assert!(listed.contains(&key(n)), "key {n} stayed and is not listed");
    }
    let possible: BTreeSet<_> = (0..200).chain(1000..1200).map(key).collect();
    assert!(listed.is_subset(&possible), "only what was put is listed");
}

/// Keys are bytes: of any value, from 1 to 255 of them or what a layer takes, and one that begins another is another.
/// A longer one is `InvalidArgument` to `put`, and absent to all else.
pub async fn keys_are_bytes(subject: Subject) {
    let (store, len_max) = (&*subject.store, subject.key_len_max);
    let mut all = vec![
        vec![0],
        vec![0, 0],
        vec![0xff],
        vec![0xff; len_max],
        vec![0; len_max],
        b"a/../b\n".to_vec(),
        b"\xc3\x28".to_vec(),
    ];
    all.extend((0..=255).map(|byte| vec![7, byte]));
    let all: Vec<_> = all.iter().map(|bytes| BlockKey::new(bytes).expect("a key")).collect();
    for (n, key) in all.iter().enumerate() {
        put(store, key, block(n, 16)).await;
    }
    for len in len_max + 1..=BLOCK_KEY_LEN_MAX {
        let key = BlockKey::new(&vec![0; len]).expect("a key");
        assert_eq!(store.put(&key, block(0, 16)).await.expect_err("too long").kind(), ErrorKind::InvalidArgument);
        assert_eq!(get(store, &key).await, None);
        assert!(!store.has(&key).await.expect("has"));
        store.delete(&key).await.expect("delete");
    }
    for (n, key) in all.iter().enumerate() {
        assert_eq!(get(store, key).await, Some(block(n, 16)), "{key:?}");
    }
    assert_eq!(keys(store).await, all.into_iter().collect());
}

/// An empty block is there, and is not the same as none.
pub async fn an_empty_block_is_a_block(subject: Subject) {
    let store = &*subject.store;
    put(store, &key(0), Bytes::new()).await;
    assert_eq!(get(store, &key(0)).await, Some(Bytes::new()));
    assert!(store.has(&key(0)).await.expect("has"));
    store.delete(&key(0)).await.expect("delete");
    assert_eq!(get(store, &key(0)).await, None);
}

/// A call that is dropped before it returns happened whole or not at all, and hinders none after it.
pub async fn a_dropped_call_leaves_all_or_nothing(subject: Subject) {
    let store = &*subject.store;
    for polls in 0..12 {
        let key = key(polls);
        poll_some(store.put(&key, block(polls, 300_000)), polls).await;
        let found = get(store, &key).await;
        assert!(found.is_none() || found == Some(block(polls, 300_000)), "a part after {polls} polls");
        poll_some(store.flush(), polls).await;
        put(store, &key, block(polls, 300_000)).await;
        poll_some(store.get(&key), polls).await;
        assert!(get(store, &key).await == Some(block(polls, 300_000)), "put after a dropped put");
        poll_some(store.delete(&key), polls).await;
        let found = get(store, &key).await;
        assert!(found.is_none() || found == Some(block(polls, 300_000)), "a part after {polls} polls of delete");
        store.delete(&key).await.expect("delete after a dropped delete");
        assert_eq!(get(store, &key).await, None);
    }
    store.flush().await.expect("flush");
}

/// Polls a call so many times at most, then drops it.
async fn poll_some<T>(call: impl Future<Output = T>, polls: usize) {
    let mut call = pin!(call);
    for _ in 0..polls {
        let polled = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        if polled.is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Of several puts of one key at the same time all succeed, and one block is there, whole.
pub async fn puts_of_one_key_at_once_agree(subject: Subject) {
    for round in 0..10 {
        let puts: Vec<_> = (0..8)
            .map(|n| {
                let store = Arc::clone(&subject.store);
                tokio::spawn(async move { store.put(&key(round), block(n, 5000 + n)).await })
            })
            .collect();
        for put in puts {
            put.await.expect("no panic").expect("put");
        }
        let found = get(&*subject.store, &key(round)).await.expect("there is one");
        assert!((0..8).any(|n| found == block(n, 5000 + n)), "one of those that were put");
    }
    assert_eq!(keys(&*subject.store).await, (0..10).map(key).collect());
}

/// Many calls at the same time give each what it asked for.
pub async fn many_calls_at_once_do_not_mix(subject: Subject) {
    let tasks: Vec<_> = (0..32)
        .map(|task| {
            let store = Arc::clone(&subject.store);
            tokio::spawn(async move {
                for n in (0..20).map(|n| task * 100 + n) {
                    put(&*store, &key(n), block(n, 100 + n)).await;
                    assert_eq!(get(&*store, &key(n)).await, Some(block(n, 100 + n)));
                    if n % 3 == 0 {
                        store.delete(&key(n)).await.expect("delete");
                    }
                    if n % 7 == 0 {
                        store.flush().await.expect("flush");
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    for n in (0..32).flat_map(|task| (0..20).map(move |n| task * 100 + n)) {
        let expected = (n % 3 != 0).then(|| block(n, 100 + n));
        assert_eq!(get(&*subject.store, &key(n)).await, expected);
    }
}

/// What was flushed is there when the store is opened again; so is what was deleted gone.
pub async fn what_was_flushed_survives_reopening(subject: Subject) {
    let Subject { mut store, reopen, .. } = subject;
    let Some(reopen) = reopen else {
        crate::testing::skip(format_args!(
            "what_was_flushed_survives_reopening: {store:?} is given no way to open again"
        ));
        return;
    };
    for round in 0..4 {
        for n in 0..50 {
            put(&*store, &key(round * 50 + n), block(n, n * 10)).await;
        }
        for n in 0..10 {
            store.delete(&key(round * 50 + n)).await.expect("delete");
        }
        store.flush().await.expect("flush");
        drop(store);
        store = reopen().await;
        for n in (0..=round).flat_map(|round| (0..50).map(move |n| round * 50 + n)) {
            let expected = (n % 50 >= 10).then(|| block(n % 50, n % 50 * 10));
            assert_eq!(get(&*store, &key(n)).await, expected, "key {n} after {round} reopenings");
        }
        let expected = (0..(round + 1) * 50).filter(|n| n % 50 >= 10).map(key).collect();
        assert_eq!(keys(&*store).await, expected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        block::{Mem, Segments, SegmentsOptions},
        media::MemMedia,
        testing::fault::Faulty,
    };

    async fn segments(options: SegmentsOptions) -> Subject {
        let (data, index) = (Arc::new(MemMedia::default()), Arc::new(MemMedia::default()));
        Subject::reopening(move || {
            let (data, index, options) = (Arc::clone(&data), Arc::clone(&index), options.clone());
            Box::pin(async {
                // The one before may still be writing in the background, and a media has one owner.
                while Arc::strong_count(&data) > 2 || Arc::strong_count(&index) > 2 {
                    tokio::task::yield_now().await;
                }
                let store = Segments::open(data, index, options, &crate::testing::env()).await.expect("open");
                Arc::new(store) as Arc<dyn BlockStore>
            })
        })
        .await
    }

    fn tiny() -> SegmentsOptions {
        SegmentsOptions { segment_len_max: 10_000, memory_count_max: 16, ..SegmentsOptions::default() }
    }

    crate::block_store_laws!(mem, async { Mem::default() });
    crate::block_store_laws!(segments_as_they_are, segments(SegmentsOptions::default()));
    crate::block_store_laws!(segments_with_many_runs, segments(tiny()));
    crate::block_store_laws!(without_faults, async { Faulty::new(Mem::default()) });
    crate::block_store_laws!(behind_an_arc, async { Arc::new(Mem::default()) });
}
