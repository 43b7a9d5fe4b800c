//! Goal: the same content has the same CID in every store, and it is IPFS's. Method: the published vectors (byte i is
//! i mod 251) and a directory tree are put into /mem and, in segments, into /ipfs, and compared.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use muxfs::{
    BlockStore, Mount, MuxFs, Name, Prefix, Source,
    block::{Mem, Segments, SegmentsOptions},
    dag::{Dag, DagOptions, Entry, Ipld, Link, Profile, UnixfsMeta},
    media::MemMedia,
    pins::Pins,
};

async fn mount(prefix: &str, blocks: Arc<dyn BlockStore>, profile: Profile) -> Mount {
    let pins = Pins::open(Arc::new(MemMedia::default()), &muxfs::testing::env()).await.expect("pins");
    let dag = Dag::new(blocks, DagOptions { params: profile.params(), ..DagOptions::default() });
    Mount::cas(Prefix::new(prefix).expect("a prefix"), dag, Arc::new(pins))
}

async fn stores(profile: Profile) -> MuxFs {
    let (data, index) = (Arc::new(MemMedia::default()), Arc::new(MemMedia::default()));
    let segments =
        Segments::open(data, index, SegmentsOptions::default(), &muxfs::testing::env()).await.expect("segments");
    let mut mux = MuxFs::new();
    mux.mount(mount("mem", Arc::new(Mem::default()), profile).await).expect("mounts");
    mux.mount(mount("ipfs", Arc::new(segments), profile).await).expect("mounts");
    mux
}

fn bytes(len: u32) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251).expect("below 251")).collect()
}

#[tokio::test]
async fn content_has_the_cid_that_ipfs_gives_in_every_store() {
    let cases: [(Profile, u32, &str); 8] = [
        (Profile::UnixfsV1_2025, 0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (Profile::UnixfsV1_2025, 1, "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu"),
        (Profile::UnixfsV1_2025, 1_048_576, "bafkreidddocae7lltzjlkooe5a3tmiwsgazn7logjvqk7bzttsidpzhxne"),
        (Profile::UnixfsV1_2025, 1_048_577, "bafybeidjogjfwuhbzwopgd4bn3skcf5m6oz72xshywcndzxgqb623nfclu"),
        (Profile::UnixfsV0_2015, 0, "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"),
        (Profile::UnixfsV0_2015, 1, "QmS9JArPwa55ePgDnyg6TzX24mYTS1b1vLqWNebyVotKxQ"),
        (Profile::UnixfsV0_2015, 262_144, "QmeqfRyS3vkku7n6krqC3DgGMex3x2sCpSeKMDmrG13QQq"),
        (Profile::UnixfsV0_2015, 262_145, "QmUSjGawaz4ptvREcMKSMJneWCa5j8dAz2wSAAvHtW2rnB"),
    ];
    for (profile, len, cid) in cases {
        let mux = stores(profile).await;
        for prefix in ["mem", "ipfs"] {
            let path = mux.put(format!("/{prefix}"), bytes(len)).await.expect("put");
            assert_eq!(path.to_string(), format!("/{prefix}/{cid}"), "{len} bytes");
            let file = mux.open(&path).await.expect("open");
            assert!(file.read_at(0, len + 1).await.expect("read") == bytes(len), "{path} reads back");
        }
    }
}

#[tokio::test]
async fn linked_data_has_one_cid() {
    let mux = stores(Profile::default()).await;
    let value = || Source::LinkedData(Ipld::List(vec![Ipld::Null, Ipld::from("x")]));
    let (one, other) = (mux.put("/mem", value()).await, mux.put("/ipfs", value()).await);
    assert_eq!(one.expect("put").cid(), other.expect("put").cid());
}

/// The directory of the vectors, `foo` and a symlink to it, and one so large that it is sharded.
#[tokio::test]
async fn trees_have_one_cid() {
    let mux = stores(Profile::default()).await;
    let mut roots = Vec::new();
    for mount in mux.mounts() {
        let dag = mount.as_cas().expect("by content").dag();
        let empty = dag.put_dir(stream::empty().boxed()).await.expect("a directory");
        assert_eq!(empty.cid.to_string(), "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354");
        let file = dag.import(&bytes(10)[..], UnixfsMeta::default()).await.expect("a file");
        let entry = |i: u32| Ok(Entry { name: Name::new(format!("a file of some name {i}").as_bytes())?, link: file });
        let large = dag.put_dir(stream::iter((0..5000).map(entry)).boxed()).await.expect("a directory");
        let root = [("empty", empty), ("large", large)];
        let root = root.map(|(name, link): (&str, Link)| Ok(Entry { name: Name::new(name.as_bytes())?, link }));
        roots.push(dag.put_dir(stream::iter(root).boxed()).await.expect("a directory").cid);
    }
    assert_eq!(roots.len(), 2);
    assert_eq!(roots.first(), roots.last());
}
