//! Goal: shards and places are what spec/erasure.md says, and are made by the fast code. Method:
//! `erasure_vectors.py`, which was written from that page and shares no code with this program, made
//! spec/vectors/erasure.json; it is run again, and its blocks are put, read from the nodes, and put together.

use std::{fs, process::Command, sync::Arc};

use bytes::Bytes;
use muxfs::{
    BlockKey, BlockStore,
    block::{Erasure, ErasureNode, ErasureOptions, Mem, StripeCode},
    testing::skip,
};
use serde_json::Value;

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/spec/vectors/erasure.json");
const MAKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/erasure_vectors.py");

fn vectors(of: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_slice(&fs::read(VECTORS).expect("the vectors")).expect("JSON");
    vectors[of].as_array().expect("a list").clone()
}

fn hex(value: &Value) -> Bytes {
    let text = value.as_str().expect("text");
    multibase::Base::Base16Lower.decode(text).expect("base16").into()
}

fn number(value: &Value) -> u8 {
    value.as_u64().and_then(|number| number.try_into().ok()).expect("a small number")
}

fn options(vector: &Value) -> ErasureOptions {
    ErasureOptions { data_count: number(&vector["k"]), parity_count: number(&vector["m"]), ..ErasureOptions::default() }
}

#[test]
fn the_program_that_made_the_vectors_makes_them_again() {
    let python = Command::new("python3").arg(MAKER).output();
    match python {
        Ok(output) if output.status.success() => {
            assert!(output.stdout == fs::read(VECTORS).expect("the vectors"), "other vectors than those in spec/");
        }
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => skip(format_args!("no python3 ({error}): the vectors of shards were not made again")),
    }
}

#[tokio::test]
async fn shards_are_those_of_the_vectors() {
    let vectors = vectors("stripes");
    assert!(vectors.len() > 8, "one of each");
    for vector in &vectors {
        let (options, block) = (options(vector), hex(&vector["block"]));
        let shards: Vec<_> = vector["shards"].as_array().expect("a list").iter().map(hex).collect();
        let code = StripeCode::new(options.data_count, options.parity_count).expect("a code");
        assert_eq!(code.encode(&block).expect("encode"), shards, "{options:?}");
        // From parity as far as there is any.
        let last = shards.len() - usize::from(options.data_count);
        assert_eq!(code.decode(&shards[last..]).expect("decode"), block, "{options:?}");
        assert!(code.decode(&shards[last + 1..]).is_err(), "one is lacking");

        // On the nodes the same, each where it belongs.
        let nodes: Vec<_> = shards.iter().map(|_| Arc::new(Mem::default())).collect();
        let named = nodes.iter().enumerate().map(|(n, node)| ErasureNode::new(n.to_string(), Arc::clone(node)));
        let store = Erasure::new(named, options).expect("room");
        let key = BlockKey::new(b"key").expect("a key");
        store.put(&key, block).await.expect("put");
        for (name, shard) in store.nodes_of(&key).into_iter().zip(&shards) {
            let node = &nodes[name.parse::<usize>().expect("a number")];
            let slot = BlockKey::new(b"key\0").expect("a key");
            assert_eq!(node.get(&slot).await.expect("get").as_ref(), Some(shard), "{options:?}, node {name}");
        }
    }
}

#[test]
fn places_are_those_of_the_vectors() {
    for vector in vectors("places") {
        let nodes = vector["nodes"].as_array().expect("a list").iter().map(|node| {
            let new = ErasureNode::new(node["name"].as_str().expect("a name"), Mem::default());
            match node["group"].as_str() {
                Some(group) => new.in_group(group),
                None => new,
            }
        });
        let store = Erasure::new(nodes, options(&vector)).expect("room");
        let order: Vec<_> = vector["order"].as_array().expect("a list").iter().map(|name| name.as_str()).collect();
        let nodes = store.nodes_of(&BlockKey::new(&hex(&vector["key"])).expect("a key"));
        assert_eq!(nodes.into_iter().map(Some).collect::<Vec<_>>(), order);
    }
}

/// Parity is computed by the library's code in C. Without its feature `simd-accel` the bytes would be the same and all
/// else twelve times slower, and nothing would tell: so this program is linked to that code by its name.
#[test]
#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(target_env = "msvc")))]
fn parity_is_computed_with_simd() {
    #[expect(unsafe_code, reason = "only its address is taken: that it is there is the test")]
    unsafe extern "C" {
        fn reedsolomon_gal_mul(low: *const u8, high: *const u8, input: *const u8, out: *mut u8, len: usize) -> usize;
    }
    assert_ne!(reedsolomon_gal_mul as *const () as usize, 0);
}
