//! Goal: layers are stores like others however they are stacked, and a stack that encrypts gives nothing away.
//! Method: the laws of blocks over a matrix of stacks; then everything that the lowest store was given (keys and bytes) is
//! searched for what must not be there, in any spelling, and damaged bit by bit. The bytes themselves are held against
//! vectors that an independent program made after spec/layers.md.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use multibase::Base;
use muxfs::{
    BlockKey, BlockStore, Codec, ErrorKind, SecretKey,
    block::{BLOCK_KEY_LEN_MAX, BLOCK_LEN_MAX, Cache, Compress, Encrypt, Mem, Segments, SegmentsOptions},
    block_store_laws, cid_of,
    dag::{Dag, DagOptions, UnixfsMeta},
    media::MemMedia,
    testing::{
        block_store::Subject,
        fault::{Dice, Fault, Faulty},
    },
};
use serde_json::Value;

/// Puts layers over a store.
type Stack = fn(Arc<dyn BlockStore>) -> Arc<dyn BlockStore>;

/// How much a frame of `Compress` has before the block.
const FRAME_HEADER_LEN: usize = BLOCK_LEN_MAX - Compress::BLOCK_LEN_MAX;

fn root() -> SecretKey {
    SecretKey::new(std::array::from_fn(|at| u8::try_from(at).expect("small")))
}

fn compress(inner: Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    Arc::new(Compress::new(inner))
}

fn encrypt(inner: Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    Arc::new(Encrypt::new(inner, root()))
}

fn encrypt_rotated(inner: Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    Arc::new(Encrypt::new(inner, root()).with_older_key(SecretKey::new([1; 32])))
}

fn compress_encrypt(inner: Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    compress(encrypt(inner))
}

fn encrypt_encrypt(inner: Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    encrypt_rotated(encrypt(inner))
}

fn over_mem(stack: Stack) -> Subject {
    Subject::from(stack(Arc::new(Mem::default())))
}

async fn over_segments(stack: Stack) -> Subject {
    let (data, index) = (Arc::new(MemMedia::default()), Arc::new(MemMedia::default()));
    Subject::reopening(move || {
        let (data, index) = (Arc::clone(&data), Arc::clone(&index));
        Box::pin(async move {
            // The one before may still be writing in the background, and a media has one owner.
            while Arc::strong_count(&data) > 2 || Arc::strong_count(&index) > 2 {
                tokio::task::yield_now().await;
            }
            let options =
                SegmentsOptions { segment_len_max: 10_000, memory_count_max: 16, ..SegmentsOptions::default() };
            stack(Arc::new(Segments::open(data, index, options, &muxfs::testing::env()).await.expect("open")))
        })
    })
    .await
}

/// What a stack takes that encrypts `count` times, below `above` bytes that a layer adds.
fn limited(subject: Subject, count: usize, above: usize) -> Subject {
    // Each size class but the first ends 128 KiB and more below what the one below takes.
    let block_len_max = if count == 1 { Encrypt::BLOCK_LEN_MAX } else { (62 << 17) + 32 };
    subject.with_limits(block_len_max - above, BLOCK_KEY_LEN_MAX - 16 * count)
}

fn compressed(subject: Subject) -> Subject {
    subject.with_limits(Compress::BLOCK_LEN_MAX, BLOCK_KEY_LEN_MAX)
}

block_store_laws!(compress_over_mem, async { compressed(over_mem(compress)) });
block_store_laws!(compress_over_segments, async { compressed(over_segments(compress).await) });
block_store_laws!(encrypt_over_mem, async { limited(over_mem(encrypt), 1, 0) });
block_store_laws!(encrypt_over_segments, async { limited(over_segments(encrypt).await, 1, 0) });
block_store_laws!(encrypt_after_a_rotation, async { limited(over_mem(encrypt_rotated), 1, 0) });
/// Replaces the root key before every eighth call, and moves what is there to it.
#[derive(Debug)]
struct Rotating {
    encrypt: Encrypt,
    call_count: tokio::sync::Mutex<u32>,
}

impl Rotating {
    async fn rotated(&self) -> muxfs::Result<&Encrypt> {
        let mut count = self.call_count.lock().await;
        *count += 1;
        let key = |count: u32| SecretKey::new([u8::try_from(count / 8 % 256).unwrap_or_default(); 32]);
        if !count.is_multiple_of(8) {
            return Ok(&self.encrypt);
        }
        self.encrypt.set_keys(key(*count), [key(*count - 8)]).await;
        for name in self.encrypt.older_names().try_collect::<Vec<_>>().await? {
            self.encrypt.put_under_newest(&name).await?;
            self.encrypt.remove_older(&name).await?;
        }
        Ok(&self.encrypt)
    }
}

#[async_trait::async_trait]
impl BlockStore for Rotating {
    async fn get(&self, key: &BlockKey) -> muxfs::Result<Option<Bytes>> {
        self.rotated().await?.get(key).await
    }
    async fn get_range(&self, key: &BlockKey, range: std::ops::Range<usize>) -> muxfs::Result<Option<Bytes>> {
        self.rotated().await?.get_range(key, range).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> muxfs::Result<()> {
        self.rotated().await?.put(key, block).await
    }
    async fn delete(&self, key: &BlockKey) -> muxfs::Result<()> {
        self.rotated().await?.delete(key).await
    }
    async fn has(&self, key: &BlockKey) -> muxfs::Result<bool> {
        self.rotated().await?.has(key).await
    }
    async fn block_len(&self, key: &BlockKey) -> muxfs::Result<Option<u64>> {
        self.rotated().await?.block_len(key).await
    }
    async fn flush(&self) -> muxfs::Result<()> {
        self.encrypt.flush().await
    }
    fn keys(&self) -> futures_util::stream::BoxStream<'_, muxfs::Result<BlockKey>> {
        self.encrypt.keys()
    }
}

fn encrypt_while_rotating(inner: Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    let (encrypt, call_count) = (Encrypt::new(inner, SecretKey::new([0; 32])), 0.into());
    Arc::new(Rotating { encrypt, call_count })
}

block_store_laws!(encrypt_while_keys_are_replaced, async { limited(over_mem(encrypt_while_rotating), 1, 0) });
block_store_laws!(encrypt_twice, async { limited(over_mem(encrypt_encrypt), 2, 0) });
block_store_laws!(compress_encrypt_over_mem, async { limited(over_mem(compress_encrypt), 1, FRAME_HEADER_LEN) });
block_store_laws!(compress_encrypt_over_segments, async {
    limited(over_segments(compress_encrypt).await, 1, FRAME_HEADER_LEN)
});
block_store_laws!(compress_encrypt_over_a_cache, async {
    let cache = Cache::open(Arc::new(Mem::default()), Arc::new(Mem::default()), 1 << 20).await.expect("open");
    limited(Subject::from(compress_encrypt(Arc::new(cache))), 1, FRAME_HEADER_LEN)
});

/// All that a store was given.
async fn everything(store: &dyn BlockStore) -> Vec<(BlockKey, Bytes)> {
    let mut all = Vec::new();
    for key in store.keys().try_collect::<Vec<_>>().await.expect("keys") {
        let block = store.get(&key).await.expect("get").expect("it is listed");
        all.push((key, block));
    }
    all
}

/// How bytes can be written: as they are, and in the alphabets that names and tools write them in. Digits of one byte in
/// base64 and base32 depend on where it stands, so the bytes are written from each place.
fn spellings(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![bytes.to_vec()];
    for base in [Base::Base16Lower, Base::Base16Upper] {
        all.push(base.encode(bytes).into_bytes());
    }
    for (bases, group) in [
        (&[Base::Base64, Base::Base64Url][..], 3),
        (&[Base::Base32Lower, Base::Base32Upper, Base::Base32HexLower][..], 5),
    ] {
        for from in 0..group {
            let whole = (bytes.len() - from) / group * group;
            all.extend(bases.iter().map(|base| base.encode(&bytes[from..from + whole]).into_bytes()));
        }
    }
    all.push(Base::Base58Btc.encode(bytes).into_bytes());
    all
}

/// Which spelling of `secret` is in a key or a block of the store.
async fn found(store: &dyn BlockStore, secret: &[u8]) -> Option<Vec<u8>> {
    let all = everything(store).await;
    spellings(secret).into_iter().find(|spelling| {
        let in_bytes = |bytes: &[u8]| bytes.windows(spelling.len()).any(|seen| seen == &spelling[..]);
        all.iter().any(|(key, block)| in_bytes(key.as_bytes()) || in_bytes(block))
    })
}

/// A file with a name and a body that must not be seen is put by a DAG; nothing of it is found in what the lowest store
/// was given. The same search finds them where nothing encrypts.
#[tokio::test]
async fn neither_names_nor_bytes_nor_cids_reach_the_store_below() {
    let (name, body) = ("a canary of a name", Dice::new(1).bytes(100_000));
    for (stack, hides) in [(compress_encrypt as Stack, true), (encrypt, true), (compress, false)] {
        let inner = Arc::new(Mem::default());
        let dag = Dag::new(stack(inner.clone()), DagOptions::default());
        let file = dag.import(&body[..], UnixfsMeta::default()).await.expect("import");
        let text = cid_of(Codec::Raw, name.repeat(20).as_bytes());
        dag.put_block(Codec::Raw, name.repeat(20).into()).await.expect("put");
        let secrets = [
            name.as_bytes().to_vec(),
            body[1000..1016].to_vec(),
            file.cid.multihash_bytes(),
            file.cid.multihash_bytes()[2..].to_vec(),
            text.multihash_bytes(),
            text.to_string().into_bytes(),
        ];
        let mut seen = 0;
        for secret in &secrets {
            seen += usize::from(found(&*inner, secret).await.is_some());
        }
        // The text of a CID is nowhere in any case, and the name only where it was not compressed away.
        assert!(if hides { seen == 0 } else { seen >= 4 }, "{seen} of {} secrets are seen", secrets.len());
    }
}

/// Neither does the exact length of a block: blocks of about one length are as long as each other below, and no number
/// there is the length.
#[tokio::test]
async fn exact_lengths_do_not_reach_the_store_below() {
    for stack in [compress_encrypt as Stack, encrypt] {
        let mut lens = Vec::new();
        for len in 9_900..9_932_usize {
            let inner = Arc::new(Mem::default());
            let block = Bytes::from(Dice::new(1).bytes(len));
            stack(inner.clone()).put(&BlockKey::from(&cid_of(Codec::Raw, &block)), block).await.expect("put");
            let (_, below) = everything(&*inner).await.remove(0);
            for (at, field) in below.windows(4).enumerate() {
                let said = u32::from_le_bytes(field.try_into().expect("four")) as usize;
                let said_be = u32::from_be_bytes(field.try_into().expect("four")) as usize;
                assert!(said != len && said_be != len, "its length is in clear at {at}");
            }
            lens.push(below.len());
        }
        assert_eq!(lens, vec![lens[0]; lens.len()], "lengths are rounded up");
    }
}

/// Any bit that flips below the whole stack makes the block `Corrupt`, and one that is given for another does.
#[tokio::test]
async fn damage_below_the_stack_is_corrupt() {
    let inner = Arc::new(Faulty::new(Mem::default()));
    let store = compress_encrypt(inner.clone());
    let (a, b) = (BlockKey::new(b"a").expect("a key"), BlockKey::new(b"b").expect("a key"));
    store.put(&a, Dice::new(1).bytes(200).into()).await.expect("put");
    store.put(&b, vec![7; 5000].into()).await.expect("put");
    let below = everything(inner.inner()).await;
    for key in [&a, &b] {
        let block = store.get(key).await.expect("get").expect("it is there");
        for bit in 0..below.iter().map(|(_, block)| block.len() * 8).max().expect("two") {
            inner.fault_all(Fault::FlipBit(bit));
            assert_eq!(store.get(key).await.expect_err("damaged").kind(), ErrorKind::Corrupt, "bit {bit}");
        }
        inner.heal();
        assert_eq!(store.get(key).await.expect("get"), Some(block));
    }
    inner.fault(&below[0].0, Fault::Lie(below[1].1.clone()));
    inner.fault(&below[1].0, Fault::Lie(below[0].1.clone()));
    for key in [&a, &b] {
        assert_eq!(store.get(key).await.expect_err("another's").kind(), ErrorKind::Corrupt);
    }
}

/// A block put twice, by two programs, is the same bytes under the same name.
#[tokio::test]
async fn a_stack_is_deterministic() {
    let mut all = Vec::new();
    for _ in 0..2 {
        let inner = Arc::new(Mem::default());
        let store = compress_encrypt(inner.clone());
        for len in [0, 1, 100, 10_000] {
            let block = Bytes::from(Dice::new(1).bytes(len));
            for _ in 0..2 {
                store.put(&BlockKey::from(&cid_of(Codec::Raw, &block)), block.clone()).await.expect("put");
            }
        }
        assert_eq!(inner.block_count(), 4);
        all.push(everything(&*inner).await);
    }
    assert_eq!(all[0], all[1]);
}

fn bytes(value: &Value, field: &str) -> Bytes {
    let text = value[field].as_str().unwrap_or_else(|| panic!("{field} is text: {value}"));
    Base::Base16Lower.decode(text).expect("hexadecimal").into()
}

fn vectors(of: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../spec/vectors/layers.json")).expect("JSON");
    assert_eq!(bytes(&all, "key"), &root().as_bytes()[..]);
    let vectors = all[of].as_array().expect("a list").clone();
    assert!(!vectors.is_empty());
    vectors
}

#[tokio::test]
async fn encrypted_blocks_are_those_of_an_independent_program() {
    for vector in vectors("encrypt") {
        let inner = Arc::new(Mem::default());
        let key = BlockKey::new(&bytes(&vector, "key")).expect("a key");
        encrypt(inner.clone()).put(&key, bytes(&vector, "block")).await.expect("put");
        let name = BlockKey::new(&bytes(&vector, "name")).expect("a name");
        assert_eq!(everything(&*inner).await, [(name, bytes(&vector, "stored"))]);
        assert_eq!(encrypt(inner).get(&key).await.expect("get"), Some(bytes(&vector, "block")));
    }
}

/// What another snappy compressed is read; what does not shrink is the same bytes.
#[tokio::test]
async fn frames_of_an_independent_program_are_read() {
    let key = BlockKey::new(b"k").expect("a key");
    for vector in vectors("compress") {
        let (block, frame) = (bytes(&vector, "block"), bytes(&vector, "frame"));
        let theirs = Arc::new(Mem::default());
        theirs.put(&key, frame.clone()).await.expect("put");
        assert_eq!(compress(theirs).get(&key).await.expect("get"), Some(block.clone()));
        let ours = Arc::new(Mem::default());
        compress(ours.clone()).put(&key, block.clone()).await.expect("put");
        let ours = ours.get(&key).await.expect("get").expect("it is there");
        assert_eq!(ours[..12], frame[..12], "headers agree: it shrinks for both or for neither");
        assert!(ours == frame || block.len() + FRAME_HEADER_LEN > frame.len());
    }
}

#[tokio::test]
async fn stacked_blocks_of_an_independent_program_are_read() {
    for vector in vectors("compress over encrypt") {
        let inner = Arc::new(Mem::default());
        let name = BlockKey::new(&bytes(&vector, "name")).expect("a name");
        inner.put(&name, bytes(&vector, "stored")).await.expect("put");
        let key = BlockKey::new(&bytes(&vector, "key")).expect("a key");
        assert_eq!(compress_encrypt(inner).get(&key).await.expect("get"), Some(bytes(&vector, "block")));
    }
}
