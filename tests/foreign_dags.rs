//! Goal: what others made is read as they meant it: real DAGs by Kubo, Filecoin and others, in archives (CAR).
//!
//! Method: every archive of the published fixtures is put into a store. Each block must verify and decode, and encode to
//! itself again; a walk from each root must find what the archive holds; and the paths that gateways are tested with
//! must end at the blocks those tests name. The fixtures are not part of this repository; without them this says so and
//! stops.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::StreamExt;
use multibase::Base;
use muxfs::{
    BlockKey, BlockStore, Cid, Codec, ErrorKind, Name,
    block::Mem,
    cid::SHA2_256,
    dag::{Dag, DagOptions, Ipld, cbor, linked},
};
use serde_json::Value;

/// The folder of data: below `MUXFS_SHARED`, or below a folder `shared` beside the repository.
fn data() -> Option<PathBuf> {
    let shared = env::var_os("MUXFS_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")), PathBuf::from);
    let folder = shared.join("data");
    if folder.is_dir() {
        return Some(folder);
    }
    muxfs::testing::skip(format_args!("no fixtures at {}; set MUXFS_SHARED to where they are", folder.display()));
    None
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// A varint at the front of `bytes`, which then begin after it.
fn varint(bytes: &mut &[u8]) -> usize {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        number |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return number;
        }
    }
    unreachable!("an archive of ours ends")
}

/// The roots and the blocks of an archive of version 1, or of one inside version 2.
fn read_car(mut bytes: &[u8]) -> (Vec<Cid>, Vec<(Cid, Bytes)>) {
    if bytes.starts_with(b"\x0a\xa1\x67version\x02") {
        let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let (offset, len) = (field(27), field(35));
        let (offset, len) = (usize::try_from(offset).expect("short"), usize::try_from(len).expect("short"));
        bytes = &bytes[offset..offset + len];
    }
    let mut roots = Vec::new();
    let header_len = varint(&mut bytes);
    let header = cbor::decode(&bytes[..header_len]).expect("a header is dag-cbor");
    if let Ipld::Map(header) = header
        && let Some(Ipld::List(links)) = header.get("roots")
    {
        roots.extend(links.iter().map(|link| if let Ipld::Link(cid) = link { **cid } else { panic!("no link") }));
    }
    bytes = &bytes[header_len..];
    let mut blocks = Vec::new();
    while !bytes.is_empty() {
        let len = varint(&mut bytes);
        let (section, rest) = bytes.split_at(len);
        let mut after = section;
        if section.starts_with(b"\x12\x20") {
            after = &section[34..];
        } else {
            (0..3).for_each(|_| _ = varint(&mut after));
            let digest_len = varint(&mut after);
            after = &after[digest_len..];
        }
        let cid = &section[..section.len() - after.len()];
        let cid = Cid::from_bytes(cid).unwrap_or_else(|error| panic!("{cid:02x?}: {error:#}"));
        blocks.push((cid, Bytes::copy_from_slice(after)));
        bytes = rest;
    }
    (roots, blocks)
}

async fn put(store: &Mem, blocks: &[(Cid, Bytes)]) {
    for (cid, block) in blocks {
        store.put(&BlockKey::from(cid), block.clone()).await.expect("put");
    }
}

#[tokio::test]
async fn blocks_of_others_verify_decode_and_encode_to_themselves() {
    let Some(data) = data() else { return };
    let index = json(&data.join("fixtures/INDEX.json"));
    let (mut counts, mut undecoded) = (BTreeMap::new(), BTreeSet::new());
    for (path, about) in index.as_object().expect("a map") {
        let is_whole = about["hash_mismatch"] == 0
            && about["blocks"] != 0
            && !path.contains("corrupt")
            && !path.contains("zero-len");
        if Path::new(path).extension() != Some("car".as_ref()) || !is_whole {
            continue;
        }
        let (roots, blocks) = read_car(&fs::read(data.join("fixtures").join(path)).expect("an archive"));
        assert_eq!(blocks.len() as u64, about["blocks"].as_u64().expect("a count"), "{path}");
        let store = Arc::new(Mem::default());
        let dag = Dag::new(store.clone(), DagOptions::default());
        put(&store, &blocks).await;
        for (cid, block) in &blocks {
            assert_eq!(dag.get_block(cid).await.unwrap_or_else(|error| panic!("{path}: {error:#}")), block);
            let Some(codec) = cid.codec() else { continue };
            let value = match linked::decode(codec, block) {
                Ok(value) => value,
                // Filecoin keeps bytes in text: legal in Go, not in dag-cbor. The block can be had, the value cannot.
                Err(error) if format!("{error:#}").contains("text is UTF-8") => {
                    undecoded.insert(*cid);
                    continue;
                }
                Err(error) => panic!("{path}, {cid}: {error:#}"),
            };
            assert_eq!(linked::encode(codec, &value).expect("decoded"), block, "{path}, {cid}");
            *counts.entry((codec, cid.hash_code())).or_insert(0) += 1;
        }
        let held: BTreeSet<_> = blocks.iter().map(|(cid, _)| BlockKey::from(cid)).collect();
        for root in roots {
            let mut visits = dag.walk(&root);
            while let Some(visit) = visits.next().await {
                let is_held = visit.cid.identity().is_some() || held.contains(&BlockKey::from(&visit.cid));
                let kind = visit.error.map(|error| error.kind());
                let wanted = if undecoded.contains(&visit.cid) {
                    Some(ErrorKind::Corrupt)
                } else {
                    (!is_held).then_some(ErrorKind::NotFound)
                };
                assert_eq!(kind, wanted, "{path}, {}", visit.cid);
            }
        }
    }
    let tried = |codec, hash| counts.get(&(codec, hash)).copied().unwrap_or(0);
    assert!(tried(Codec::DagPb, SHA2_256) > 600 && tried(Codec::DagJson, SHA2_256) > 100, "{counts:?}");
    assert!(tried(Codec::DagCbor, SHA2_256) > 100 && tried(Codec::DagCbor, 0xb220) > 1800, "{counts:?}");
    assert!(undecoded.len() <= 140, "{} blocks hold bytes in text", undecoded.len());
}

/// A path as gateways take it, `/ipfs/<cid>/part/…` in percent-encoding.
fn parse(path: &str) -> (Cid, Vec<Name>) {
    let mut parts = path.strip_prefix("/ipfs/").expect("a path of IPFS").split('/').filter(|part| !part.is_empty());
    let root = parts.next().expect("a CID").parse().expect("a CID");
    let name = |part: &str| {
        let mut name = Vec::new();
        let mut rest = part.as_bytes();
        while let Some((byte, after)) = rest.split_first() {
            let (byte, after) = match byte {
                b'%' => {
                    let digits = std::str::from_utf8(&after[..2]).expect("two digits");
                    (u8::from_str_radix(digits, 16).expect("two digits"), &after[2..])
                }
                byte => (*byte, after),
            };
            name.push(byte);
            rest = after;
        }
        Name::new(&name).expect("a name")
    };
    (root, parts.map(name).collect())
}

#[tokio::test]
async fn paths_of_gateways_end_where_they_should() {
    let Some(data) = data() else { return };
    let cases = json(&data.join("gateway-cases.json"));
    let (mut found, mut refused) = (0, 0);
    for case in cases["cases"].as_array().expect("a list") {
        let Some(archive) = case["fixture"].as_str() else { continue };
        let name = case["name"].as_str().expect("a name");
        let store = Arc::new(Mem::default());
        let (_, blocks) = read_car(&fs::read(data.join("fixtures").join(archive)).expect("an archive"));
        put(&store, &blocks).await;
        let dag = Dag::new(store, DagOptions::default());
        let (root, parts) = parse(case["request"]["path"].as_str().expect("a path"));
        let query = &case["request"]["query"];
        let end = dag.resolve(&root, &parts).await;
        if name == "path below a file" || name.starts_with("car: non-existing") {
            let kind = end.expect_err(name).kind();
            let wanted = if name == "path below a file" { ErrorKind::NotDir } else { ErrorKind::NotFound };
            assert_eq!(kind, wanted, "{name}");
            refused += 1;
            continue;
        }
        let end = end.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert!(end.within.is_empty(), "{name}");
        // Of the blocks that prove a path the last is where it ends, if nothing below that was asked for.
        if query["dag-scope"] == "block" {
            let last = case["expect"]["car"]["blocks"].as_array().and_then(|blocks| blocks.last()).expect("a block");
            assert_eq!(end.cid.to_string(), last.as_str().expect("a CID"), "{name}");
            found += 1;
        }
        let is_raw = query["format"] == "raw" || case["request"]["headers"]["Accept"] == "application/vnd.ipld.raw";
        if let (true, Some(200), Some(body)) =
            (is_raw, case["expect"]["status"].as_u64(), case["expect"]["body_hex"].as_str())
        {
            assert_eq!(Base::Base16Lower.encode(dag.get_block(&end.cid).await.expect(name)), body, "{name}");
            found += 1;
        }
        if name.starts_with("car default") || name.starts_with("symlink") || name.starts_with("percent") {
            dag.get_block(&end.cid).await.expect(name);
            found += 1;
        }
    }
    assert!(found >= 8 && refused == 2, "{found} and {refused} of the cases are about paths");
}
