//! Goal: what zstor v2 wrote is read, whichever m shards and two parts of the metadata are lost, and no wrong bit of it goes
//! unnoticed; what is written here is the same to the bit.
//! Method: values that zstor v2 0.4.0 wrote (spec/vectors/zstor-v2), by themselves and served by doubles of its servers.

use std::{fs, path::PathBuf};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use muxfs::{ErrorKind, testing::fault::Dice};
use serde_json::Value;

use super::{
    config::{META_COUNT, tests::TEXT},
    directory,
    object::Object,
    shards::Code,
    *,
};
use crate::{
    Password,
    zdb::double::{Double, Fault as ServerFault},
};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/vectors/zstor-v2");
/// Each was stored in 2 + 2 shards of one value.
const SHARD_COUNT: usize = 4;

/// A file as zstor v2 left it.
struct Vector {
    name: &'static str,
    key: String,
    parts: Vec<Bytes>,
    metadata: Vec<u8>,
    shards: Vec<Bytes>,
    /// Of the others it is told by the checksum alone.
    plain: Option<Vec<u8>>,
}

fn vectors() -> Vec<Vector> {
    let dir = PathBuf::from(VECTORS);
    let manifest: Value =
        serde_json::from_slice(&fs::read(dir.join("manifest.json")).expect("a manifest")).expect("JSON");
    let of = |name: &'static str| {
        let dir = dir.join(name);
        let read = |file: String| Bytes::from(fs::read(dir.join(file)).expect("a vector"));
        Vector {
            name,
            key: manifest[name]["key"].as_str().expect("a key").into(),
            parts: (0..META_COUNT).map(|index| read(format!("meta_{index}.bin"))).collect(),
            metadata: read("meta_plain.bincode".into()).into(),
            shards: (0..SHARD_COUNT).map(|index| read(format!("shard_{index}_0.bin"))).collect(),
            plain: fs::read(dir.join("plain")).ok(),
        }
    };
    ["hello", "empty", "mixed_2_2", "rooted"].map(of).into()
}

/// Every choice of two of four.
fn pairs() -> impl Iterator<Item = [usize; 2]> {
    (0..4).flat_map(|second| (0..second).map(move |first| [first, second]))
}

async fn bytes_of(object: Object) -> Vec<u8> {
    let bytes: BytesMut = object.stream().try_collect().await.expect("it was read before");
    bytes.into()
}

#[test]
fn metadata_is_read_from_any_two_parts() {
    let config = Config::parse(TEXT).expect("good");
    for vector in vectors() {
        assert_eq!(config.parse_key(vector.key.as_bytes()).map(|key| config.key_text(key)), Some(vector.key));
        for kept in pairs() {
            let parts: Vec<Bytes> = kept.iter().map(|index| vector.parts[*index].clone()).collect();
            let bytes = directory::open(&parts, &[config.meta_key.clone(), config.key.clone()]).expect("opened");
            assert_eq!(*bytes, vector.metadata, "{} from {kept:?}", vector.name);
        }
        let metadata = Metadata::decode(&vector.metadata).expect("decoded");
        assert_eq!(*metadata.encode(), vector.metadata, "{}", vector.name);
        assert_eq!((metadata.data_shards, metadata.parity_shards, &metadata.key), (2, 2, &config.key));
        assert_eq!(metadata.shards[3].place.password, Some(Password::new("pw")));
    }
    assert_eq!(config.key_text(MetaKey::of("n.txt")), vectors()[3].key, "the path of the one with a root is known");
}

#[tokio::test]
async fn files_are_read_whichever_m_shards_are_lost() {
    for vector in vectors() {
        let metadata = Metadata::decode(&vector.metadata).expect("decoded");
        for (info, shard) in metadata.shards.iter().zip(&vector.shards) {
            assert_eq!(Checksum::of(shard), info.checksum);
        }
        for lost in pairs() {
            let shard = |index| (!lost.contains(&index)).then(|| vector.shards[index].to_vec());
            let object = Object::unpack(&metadata, (0..SHARD_COUNT).map(shard).collect(), Vec::new()).expect("read");
            let (len, bytes) = (object.len, bytes_of(object).await);
            assert_eq!((len, Checksum::of(&bytes)), (bytes.len() as u64, metadata.checksum));
            assert!(vector.plain.as_ref().is_none_or(|plain| *plain == bytes), "{} without {lost:?}", vector.name);
        }
    }
}

/// The nonce is in front of the first shard.
#[tokio::test]
async fn the_same_file_and_nonce_make_the_same_shards() {
    for vector in vectors() {
        let metadata = Metadata::decode(&vector.metadata).expect("decoded");
        let whole = vector.shards.iter().map(|shard| Some(shard.to_vec())).collect();
        let plain = bytes_of(Object::unpack(&metadata, whole, Vec::new()).expect("read")).await;
        let mut packer = Packer::default();
        plain.chunks(7777).for_each(|piece| packer.add(piece).expect("added"));
        let ready = packer.finish().expect("packed");
        assert_eq!(ready.checksum, metadata.checksum);
        // The first shard of a short file may be shorter than the nonce.
        let nonce = [&vector.shards[0][..], &vector.shards[1]].concat()[..12].try_into().expect("12 bytes");
        let code = Code::new(2, 2).expect("a code");
        assert!(ready.into_shards(&code, &metadata.key, nonce).expect("cut") == vector.shards, "{}", vector.name);
    }
}

/// Four servers of metadata and four of shards, and a configuration of them.
struct World {
    metas: Vec<Double>,
    data: Vec<Double>,
    config: Config,
}

impl World {
    async fn new() -> Self {
        let (mut metas, mut data) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            metas.push(Double::start().await);
            data.push(Double::start().await);
        }
        let mut config = Config::parse(TEXT).expect("good");
        config.root = None;
        for (info, server) in config.metas.iter_mut().zip(&metas) {
            *info =
                ZdbInfo { address: server.address, namespace: Some("meta".into()), password: Some(Password::new("m")) };
            server.make("meta");
            server.set_password("meta", "m");
        }
        for (info, server) in config.groups.iter_mut().flatten().zip(&data) {
            *info = ZdbInfo { address: server.address, namespace: None, password: None };
            server.make_sequential("default");
        }
        Self { metas, data, config }
    }

    fn cluster(&self) -> Cluster {
        Cluster::new(self.config.clone(), muxfs::testing::env())
    }

    /// Has a file of zstor v2, with shard i on server i. What it knows of it names other servers, so that is written anew.
    async fn with(vector: &Vector) -> (Self, MetaKey) {
        let world = Self::new().await;
        let mut metadata = Metadata::decode(&vector.metadata).expect("decoded");
        for (index, shard) in metadata.shards.iter_mut().enumerate() {
            shard.place = ZdbInfo { address: world.data[index].address, namespace: None, password: None };
            world.data[index].set("default", &shard.keys[0].to_bytes(), &vector.shards[index]);
        }
        let key = world.config.parse_key(vector.key.as_bytes()).expect("a key");
        let parts = directory::cut(&metadata.encode(), &world.config.key, [5; 12]).expect("cut");
        for (server, part) in world.metas.iter().zip(parts) {
            server.set("meta", vector.key.as_bytes(), &part);
        }
        (world, key)
    }

    async fn try_read(&self, key: MetaKey) -> muxfs::Result<Object> {
        let cluster = self.cluster();
        let metadata = cluster.find(key).await?.expect("it is there");
        cluster.read(&metadata).await
    }

    async fn write(&self, path: &str, bytes: &[u8]) -> muxfs::Result<MetaKey> {
        let mut packer = Packer::default();
        packer.add(bytes)?;
        let (cluster, key) = (self.cluster(), MetaKey::of(path));
        let before = cluster.find(key).await?;
        cluster.write(key, packer.finish()?, before.as_ref()).await.map(|()| key)
    }
}

#[tokio::test]
async fn two_servers_of_each_kind_may_be_away() {
    let vectors = vectors();
    for lost in pairs() {
        let (mut world, key) = World::with(&vectors[0]).await;
        for index in lost {
            world.metas[index].stop();
            world.data[index].stop();
        }
        let object = world.try_read(key).await.expect("read");
        // Data shards are asked first, and for each of those that is away another.
        let away_count = lost.iter().filter(|index| **index < 2).count();
        let is_next_away = away_count == 1 && lost.contains(&2);
        assert_eq!(object.faults.len(), away_count + usize::from(is_next_away), "{lost:?}");
        assert!(object.faults.iter().all(|fault| fault.kind == ErrorKind::Unavailable));
        assert_eq!(Some(bytes_of(object).await), vectors[0].plain);
        let listing = world.cluster().list().await.expect("listed");
        assert_eq!((listing.keys.into_iter().collect::<Vec<_>>(), listing.failed.len()), (vec![key], 2));
        // A third is one too many.
        let third = (0..4).find(|index| !lost.contains(index)).expect("two are left");
        world.data[third].stop();
        let error = world.try_read(key).await.expect_err("three shards are away");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
        world.metas[third].stop();
        let error = world.try_read(key).await.expect_err("three parts are away");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
        assert!(format!("{error:#}").contains(&world.metas[third].address.to_string()), "{error:#}");
        world.cluster().list().await.expect_err("what is on one alone cannot be read");
    }
}

/// They are waited for no longer than until they are late.
#[tokio::test]
async fn servers_that_hang_hold_up_nobody() {
    let vector = &vectors()[0];
    let (world, key) = World::with(vector).await;
    for index in [0, 1] {
        world.metas[index].set_fault(ServerFault::Hang);
        world.data[index].set_fault(ServerFault::Hang);
    }
    let object = world.try_read(key).await.expect("read");
    assert_eq!(object.faults, [], "they may yet answer");
    assert_eq!(Some(bytes_of(object).await), vector.plain);
}

#[tokio::test]
async fn any_flipped_bit_of_a_shard_is_found() {
    let vector = &vectors()[0];
    let (world, key) = World::with(vector).await;
    let id = 171u64.to_le_bytes();
    for (index, shard) in vector.shards.iter().enumerate() {
        for bit in 0..shard.len() * 8 {
            let mut flipped = shard.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            world.data[index].set("default", &id, &flipped);
            let object = world.try_read(key).await.expect("two others are enough");
            let told = object.faults.iter().any(|fault| fault.kind == ErrorKind::Corrupt);
            assert_eq!(told, index < 2, "parity is not read where it is not needed");
            if bit == 0 {
                // With the two others gone it is one too many.
                let others = [(index + 1) % 4, (index + 2) % 4];
                for other in others {
                    world.data[other].remove("default", &id);
                }
                let error = world.try_read(key).await.expect_err("one sound shard is left");
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:#}");
                for other in others {
                    world.data[other].set("default", &id, &vector.shards[other]);
                }
            }
        }
        world.data[index].set("default", &id, shard);
    }
}

#[tokio::test]
async fn any_flipped_bit_of_metadata_is_found() {
    let vector = &vectors()[3];
    let (world, key) = World::with(vector).await;
    let part = world.metas[2].value("meta", vector.key.as_bytes()).expect("there");
    for index in [0, 1] {
        world.metas[index].remove("meta", vector.key.as_bytes());
    }
    let cluster = world.cluster();
    for bit in 0..part.len() * 8 {
        let mut flipped = part.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        world.metas[2].set("meta", vector.key.as_bytes(), &flipped);
        let error = cluster.find(key).await.expect_err("one part is left");
        // The number of the part has no checksum, so it is the encryption that tells.
        let kinds: &[ErrorKind] =
            if bit < 8 { &[ErrorKind::BadKey, ErrorKind::Corrupt] } else { &[ErrorKind::Corrupt] };
        assert!(kinds.contains(&error.kind()), "bit {bit}: {error:#}");
    }
    world.metas[2].remove("meta", vector.key.as_bytes());
    assert_eq!(cluster.find(key).await.expect("asked"), None, "three of four have nothing of it");
}

#[tokio::test]
async fn what_is_written_is_read_by_the_same_rules() {
    let world = World::new().await;
    let (mut dice, text) = (Dice::new(5), vec![b'x'; 200_000]);
    let noise: Vec<u8> = (0..700_000).flat_map(|_| dice.bits().to_le_bytes()).collect();
    for (path, bytes) in [("/empty", &b""[..]), ("/one", b"1"), ("/text", &text), ("/noise", &noise)] {
        let key = world.write(path, bytes).await.expect("written");
        let metadata = world.cluster().find(key).await.expect("asked").expect("there");
        assert_eq!(metadata.checksum, Checksum::of(bytes));
        // Two shards in each group, each on a server of its own.
        let mut places: Vec<_> = metadata.shards.iter().map(|shard| shard.place.address.port()).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 4);
        assert!(metadata.shards.iter().all(|shard| shard.keys.len() == if path == "/noise" { 2 } else { 1 }));
        assert_eq!(bytes_of(world.try_read(key).await.expect("read")).await, bytes, "{path}");
    }
    assert_eq!(world.cluster().list().await.expect("listed").keys.len(), 4);
    let key = world.write("/one", b"another").await.expect("written over");
    assert_eq!(bytes_of(world.try_read(key).await.expect("read")).await, b"another");
}

#[tokio::test]
async fn a_write_that_cannot_be_whole_leaves_nothing_to_be_found() {
    let mut world = World::new().await;
    world.data[3].stop();
    let error = world.write("/a", b"a").await.expect_err("each shard needs a server");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:#}").contains(&world.data[3].address.to_string()), "{error:#}");
    world.data[3].restart().await;
    world.write("/a", b"a").await.expect("it is back");
    world.metas[1].stop();
    world.cluster().check_writable().await.expect_err("one of four is away");
    let error = world.write("/b", b"b").await.expect_err("one of four is away");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
    assert_eq!(world.cluster().find(MetaKey::of("/b")).await.expect("asked"), None);
    assert_eq!(world.cluster().list().await.expect("listed").keys.len(), 1);
}

#[tokio::test]
async fn a_wrong_key_password_or_mode_is_told() {
    let vector = &vectors()[0];
    let (mut world, key) = World::with(vector).await;
    let (good, other) = (world.config.key.clone(), DataKey::new([9; 32]));
    world.config.key = other.clone();
    let error = world.try_read(key).await.expect_err("another key");
    assert_eq!(error.kind(), ErrorKind::BadKey);
    assert!(format!("{error:#}").contains("[encryption] key"), "{error:#}");
    // Where zstor v2 replaced the metadata backends it used the other key.
    world.config.meta_key = good.clone();
    world.try_read(key).await.expect("read");
    world.config.key = good;
    for info in &mut world.config.metas {
        info.password = Some(Password::new("wrong"));
    }
    let error = world.try_read(key).await.expect_err("another password");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:#}");
    for (info, server) in world.config.metas.iter_mut().zip(&world.data) {
        *info = ZdbInfo { address: server.address, namespace: None, password: None };
    }
    let error = world.try_read(key).await.expect_err("these have shards");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(format!("{error:#}").contains("sequential mode"), "{error:#}");
}

/// All that is known of the file says that it is good, but for its own checksum: zstor v2 would give it.
#[test]
fn a_file_that_is_another_is_not_given() {
    let vector = &vectors()[0];
    let mut metadata = Metadata::decode(&vector.metadata).expect("decoded");
    metadata.checksum = Checksum::of(b"another file");
    let whole = || vector.shards.iter().map(|shard| Some(shard.to_vec())).collect();
    assert_eq!(Object::unpack(&metadata, whole(), Vec::new()).expect_err("another").kind(), ErrorKind::Corrupt);
    metadata.key = DataKey::new([0; 32]);
    assert_eq!(Object::unpack(&metadata, whole(), Vec::new()).expect_err("no key").kind(), ErrorKind::Corrupt);
}
