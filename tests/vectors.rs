//! Goal: the same bytes and names give the CIDs that IPFS gives. Method: every vector of
//! spec/vectors/unixfs-vectors.json, computed by an independent builder, and every CID that Kubo publishes for IPIP-499,
//! is put by its parameters; what was put is then read, looked up and listed again.

mod unixfs_vectors;

use std::{collections::HashSet, io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use chacha20::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use futures_util::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use muxfs::{
    BlockKey, BlockStore, Cid, Codec, FileKind, Name, Result,
    block::Mem,
    cid_of,
    dag::{
        Dag, DagOptions, Entry, Link, Params, Profile, ReadAt, UnixfsMeta, murmur3_x64_64,
        pb::PbNode,
        unixfs::{UnixfsData, UnixfsType},
    },
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::unixfs_vectors::{Input, Tree, hex, number, params, profile, small, text, vectors};

fn dag(params: Params) -> Dag {
    Dag::new(Arc::new(Mem::default()), DagOptions { params, ..DagOptions::default() })
}

/// Checks that what `cid` names is this.
fn check<'a>(tree: &'a Tree, dag: &'a Dag, cid: Cid, what: &'a str) -> BoxFuture<'a, ()> {
    Box::pin(async move {
        let node = dag.stat(&cid).await.expect(what);
        let expected = match tree {
            Tree::File(input, meta) => {
                assert_eq!((node.kind, node.size), (FileKind::File, input.len()), "{what}");
                check_content(dag, &cid, input, what).await;
                meta
            }
            Tree::Symlink(target, meta) => {
                assert_eq!((node.kind, node.size), (FileKind::Symlink, target.len() as u64), "{what}");
                assert_eq!(dag.read_symlink(&cid).await.expect(what), target.as_bytes(), "{what}");
                meta
            }
            Tree::Dir(children, meta) => {
                assert_eq!(node.kind, FileKind::Dir, "{what}");
                let listed: Vec<Entry> = dag.list(&cid, 0).try_collect().await.expect(what);
                assert_eq!(listed.len(), children.len(), "{what}");
                assert!(listed.is_sorted_by_key(|entry| murmur3_x64_64(entry.name.as_bytes())), "{what} by hash");
                for (index, entry) in listed.iter().enumerate() {
                    // Of the many in a large directory each hundredth will do.
                    if listed.len() < 400 || index % 100 == 0 {
                        let found = dag.lookup(&cid, &entry.name).await.expect(what);
                        assert_eq!(found.as_ref(), Some(entry), "{what}");
                    }
                    let name = entry.name.as_str().expect("text");
                    check(&children[name], dag, entry.link.cid, what).await;
                }
                let absent = Name::new(b"a name that no vector has").expect("a name");
                assert_eq!(dag.lookup(&cid, &absent).await.expect(what), None, "{what}");
                meta
            }
        };
        assert_eq!((node.mode, node.mtime), (expected.mode, expected.mtime), "{what}");
    })
}

async fn check_content(dag: &Dag, cid: &Cid, input: &Input, what: &str) {
    let (mut read, mut buf) = (0, Vec::new());
    let mut reader = dag.reader(cid, 0);
    while let Some(piece) = reader.try_next().await.expect(what) {
        buf.resize(piece.len(), 0);
        assert_eq!(input.read_at(read, &mut buf).expect("memory"), piece.len(), "{what}");
        assert!(buf == piece, "{what} at {read}");
        read += piece.len() as u64;
    }
    assert_eq!(read, input.len(), "{what}");
}

/// The blocks below a CID, each once: their number and length, as a vector counts them.
async fn unique_blocks(dag: &Dag, root: Cid) -> (u64, u64) {
    let (mut seen, mut count, mut len, mut left) = (HashSet::new(), 0, 0, vec![root]);
    while let Some(cid) = left.pop() {
        if !seen.insert(cid) {
            continue;
        }
        let block = dag.get_block(&cid).await.expect("a block that was put");
        (count, len) = (count + 1, len + block.len() as u64);
        if cid.codec() == Some(Codec::DagPb) {
            left.extend(PbNode::decode(&block).expect("a node that was put").links.iter().map(|link| link.cid));
        }
    }
    (count, len)
}

async fn root_kind(dag: &Dag, cid: &Cid) -> &'static str {
    let block = dag.get_block(cid).await.expect("the root");
    let data = PbNode::decode(&block).expect("dag-pb").data.expect("Data");
    match UnixfsData::decode(&data).expect("UnixFS").kind {
        UnixfsType::Directory => "basic",
        UnixfsType::HamtShard => "hamt",
        other => panic!("a directory that is a {other:?}"),
    }
}

async fn check_vector(vector: &Value) {
    let (what, expect) = (text(vector, "id"), &vector["expect"]);
    let dag = dag(params(vector));
    let tree = Tree::of(vector);
    let link = tree.put(&dag).await.expect(what);
    assert_eq!((link.cid.to_string().as_str(), link.tsize), (text(expect, "cid"), number(expect, "tsize")), "{what}");
    let root = dag.get_block(&link.cid).await.expect(what);
    assert_eq!(root.len() as u64, number(expect, "root_block_len"), "{what}");
    if let Some(block) = expect["root_block_hex"].as_str() {
        assert_eq!(root, hex(block), "{what}");
    }
    let unique = (number(expect, "unique_blocks"), number(expect, "unique_block_bytes"));
    assert_eq!(unique_blocks(&dag, link.cid).await, unique, "{what}");
    check(&tree, &dag, link.cid, what).await;
    let Tree::File(input, meta) = &tree else {
        assert_eq!(root_kind(&dag, &link.cid).await, text(expect, "root_kind"), "{what}");
        return;
    };
    if input.len() < 16 << 20 {
        let mut bytes = vec![0; small(input.len())];
        for (index, piece) in bytes.chunks_mut(1 << 20).enumerate() {
            assert_eq!(input.read_at((index as u64) << 20, piece).expect("memory"), piece.len());
        }
        assert_eq!(hex(text(vector, "content_sha256")), Sha256::digest(&bytes).as_slice(), "{what}");
        // The same bytes through a reader, in pieces that fit no chunk.
        let pieces: Vec<_> = bytes.chunks(777).map(|piece| io::Result::Ok(Bytes::copy_from_slice(piece))).collect();
        let reader = tokio_util::io::StreamReader::new(stream::iter(pieces));
        assert_eq!(dag.import(reader, *meta).await.expect(what), link, "{what} through a reader");
    }
    // With metadata Kubo's command line makes leaves of dag-pb, whatever the profile says.
    if let Some(cid) = vector["kubo_cli_cid"].as_str() {
        let dag = self::dag(Params { raw_leaves: false, ..params(vector) });
        let link = dag.import_at(Arc::new(input.clone()), input.len(), *meta).await.expect(what);
        assert_eq!(link.cid.to_string(), cid, "{what} as Kubo's command line does it");
    }
}

async fn check_all(kind: &str, profile: &str) {
    let mut count = 0;
    for vector in vectors()["vectors"].as_array().expect("vectors") {
        if text(vector, "kind") == kind && text(vector, "profile") == profile {
            check_vector(vector).await;
            count += 1;
        }
    }
    assert!(count >= 28, "the file lost its vectors: {count} of {kind} in {profile}");
}

#[test]
fn the_file_has_all_vectors() {
    let vectors = vectors();
    assert_eq!(vectors["vectors"].as_array().expect("vectors").len(), 283);
    assert_eq!(vectors["murmur3_x64_64"].as_array().expect("vectors").len(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_unixfs_v1_2025() {
    check_all("file", "unixfs-v1-2025").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_unixfs_v0_2015() {
    check_all("file", "unixfs-v0-2015").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_kubo_cidv1_legacy() {
    check_all("file", "kubo-cidv1-legacy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_of_unixfs_v1_2025() {
    check_all("tree", "unixfs-v1-2025").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_of_unixfs_v0_2015() {
    check_all("tree", "unixfs-v0-2015").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_of_kubo_cidv1_legacy() {
    check_all("tree", "kubo-cidv1-legacy").await;
}

#[test]
fn murmur3_of_names() {
    for vector in vectors()["murmur3_x64_64"].as_array().expect("vectors") {
        let digest = murmur3_x64_64(text(vector, "name").as_bytes()).to_be_bytes();
        assert_eq!(hex(text(vector, "digest_be_hex")), &digest[..], "{vector}");
    }
}

fn keystream(seed: &str) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(Sha256::digest(seed).into())
}

/// A file of `ChaCha20` keystream: key = SHA-256 of the seed, nonce and counter 0.
struct Keystream {
    seed: &'static str,
    len: u64,
}

impl ReadAt for Keystream {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = small::<usize>(self.len.saturating_sub(offset)).min(buf.len());
        assert_eq!(offset % 4, if wanted == 0 { offset % 4 } else { 0 }, "chunks begin at words");
        let mut rng = keystream(self.seed);
        rng.set_word_pos((offset / 4).into());
        rng.fill_bytes(&mut buf[..wanted]);
        Ok(wanted)
    }
}

/// Keeps nodes and forgets leaves, which are large: what is tested is the CID.
#[derive(Debug, Default)]
struct OnlyNodes(Mem);

const LEAF_LEN_MIN: usize = 200_000;

#[async_trait]
impl BlockStore for OnlyNodes {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.0.get(key).await
    }
    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        if block.len() >= LEAF_LEN_MIN { Ok(()) } else { self.0.put(key, block).await }
    }
    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.0.delete(key).await
    }
    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        self.0.keys()
    }
}

/// A file or a directory of IPIP-499.
enum Published {
    Hello,
    File(&'static str, u64),
    /// The file of one byte more that comes next, without that byte: a gigabyte need not be made twice.
    Cut(u64),
    /// Files of content "x" under names of these lengths, drawn from the keystream.
    Dir(&'static str, Vec<usize>),
}

async fn check_published(profile_name: &str, cases: &[Published]) {
    let vectors = vectors();
    let published = vectors["kubo_published_ipip499"]["cases"][profile_name].as_array().expect("cases");
    assert_eq!(published.len(), cases.len());
    let params = profile(profile_name);
    let only_hash = Dag::new(Arc::new(OnlyNodes::default()), DagOptions { params, ..DagOptions::default() });
    let mut last = None;
    // From the end, so that what is cut is there.
    for (expected, case) in published.iter().zip(cases).rev() {
        let link = match case {
            Published::Hello => only_hash.import(&b"hello world"[..], UnixfsMeta::default()).await,
            Published::File(seed, len) => {
                only_hash.import_at(Arc::new(Keystream { seed, len: *len }), *len, UnixfsMeta::default()).await
            }
            Published::Cut(len) => {
                let longer: Link = last.expect("a longer file");
                only_hash.splice(&longer.cid, stream::empty().boxed(), *len).await
            }
            Published::Dir(seed, lens) => {
                let mut bytes = vec![0; lens.iter().sum()];
                keystream(seed).fill_bytes(&mut bytes);
                let alphabet = b"abcdefghijklmnopqrstuvwxyz01234567890-_";
                for byte in &mut bytes {
                    *byte = alphabet[usize::from(*byte) % alphabet.len()];
                }
                let link = only_hash.import(&b"x"[..], UnixfsMeta::default()).await.expect("a byte");
                let mut rest = bytes.as_slice();
                let entries: Vec<_> = lens
                    .iter()
                    .map(|len| {
                        let (name, tail) = rest.split_at(*len);
                        rest = tail;
                        Ok(Entry { name: Name::new(name)?, link })
                    })
                    .collect();
                only_hash.put_dir(stream::iter(entries).boxed()).await
            }
        };
        let link = link.expect("it is put");
        last = Some(link);
        assert_eq!(link.cid.to_string(), text(expected, "cid"), "{profile_name}: {}", text(expected, "input"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn published_for_unixfs_v0_2015() {
    let width = 174 * 262_144;
    let cases = [
        Published::Hello,
        Published::File("chunk-v0-seed", 262_144),
        Published::File("chunk-v0-seed", 262_145),
        Published::File("v0-seed", width),
        Published::File("v0-seed", width + 1),
        Published::Dir("hamt-unixfs-v0-2015", vec![30; 4096]),
        Published::Dir("hamt-unixfs-v0-2015", vec![31; 4033]),
    ];
    check_published("unixfs-v0-2015", &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn published_for_unixfs_v1_2025() {
    let lens = |last| [vec![11; 4765], vec![last]].concat();
    let cases = [
        Published::Hello,
        Published::File("chunk-v1-seed", 1 << 20),
        Published::File("chunk-v1-seed", (1 << 20) + 1),
        Published::Cut(1 << 30),
        Published::File("v1-2025-seed", (1 << 30) + 1),
        Published::Dir("hamt-unixfs-v1-2025", lens(21)),
        Published::Dir("hamt-unixfs-v1-2025", lens(22)),
    ];
    check_published("unixfs-v1-2025", &cases).await;
}

/// The default profile gives raw leaves the CID of their bytes: what every other store of content computes, too.
#[tokio::test]
async fn a_small_file_is_its_raw_block() {
    let link =
        dag(Profile::default().params()).import(&b"hello world"[..], UnixfsMeta::default()).await.expect("memory");
    assert_eq!(link, Link { cid: cid_of(Codec::Raw, b"hello world"), tsize: 11 });
}
