//! Goal: agree with the other implementations of the IPLD codecs, block for block.
//!
//! Method: the published fixtures. Every positive one is decoded from each of its codecs and encoded to each of the
//! others; bytes and CIDs must be those of the files. Every negative one must be refused. The fixtures are not part of
//! this repository; without them this says so and stops.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use bytes::Bytes;
use muxfs::{
    Cid, Codec, ErrorKind, cid_of,
    dag::{Ipld, json, linked},
};
use serde_json::Value;

/// The folder of the fixtures: below `MUXFS_SHARED`, or below a folder `shared` beside the repository.
fn fixtures() -> Option<PathBuf> {
    let shared = env::var_os("MUXFS_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")), PathBuf::from);
    let folder = shared.join("data/fixtures/codec-fixtures");
    if folder.is_dir() {
        return Some(folder);
    }
    muxfs::testing::skip(format_args!("no codec fixtures at {}; set MUXFS_SHARED to where they are", folder.display()));
    None
}

fn codec(extension: &str) -> Codec {
    match extension {
        "dag-pb" => Codec::DagPb,
        "dag-cbor" => Codec::DagCbor,
        "dag-json" => Codec::DagJson,
        _ => panic!("a codec without a name here: {extension}"),
    }
}

#[test]
fn positive_fixtures_agree_in_every_codec() {
    let Some(folder) = fixtures() else { return };
    let mut counts = BTreeMap::new();
    for fixture in fs::read_dir(folder.join("fixtures")).expect("the fixtures") {
        let fixture = fixture.expect("a fixture").path();
        if !fixture.is_dir() {
            continue;
        }
        let blocks: Vec<(Codec, Cid, Bytes)> = fs::read_dir(&fixture)
            .expect("a folder")
            .map(|file| {
                let path = file.expect("a file").path();
                let part =
                    |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).expect("text").to_owned();
                let cid = part(path.file_stem()).parse().expect("a CID");
                (codec(&part(path.extension())), cid, fs::read(&path).expect("a block").into())
            })
            .collect();
        for (from, cid, block) in &blocks {
            *counts.entry(from.code()).or_insert(0) += 1;
            let name = format!("{} as {from:?}", fixture.display());
            assert_eq!(cid_of(*from, block), *cid, "{name}");
            cid.verify(block).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            let value = linked::decode(*from, block).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            for (to, cid, expected) in &blocks {
                let encoded =
                    linked::encode(*to, &value).unwrap_or_else(|error| panic!("{name}, to {to:?}: {error:#}"));
                assert_eq!(encoded, expected, "{name}, to {to:?}");
                assert_eq!(cid_of(*to, &encoded), *cid, "{name}, to {to:?}");
            }
        }
    }
    assert_eq!(
        counts.into_iter().collect::<Vec<_>>(),
        [(0x70, 17), (0x71, 128), (0x0129, 128)],
        "every published block was tried"
    );
}

fn negatives(path: &str) -> Option<Vec<Value>> {
    let file = fixtures()?.join("negative-fixtures").join(path);
    let cases: Value = serde_json::from_slice(&fs::read(&file).expect("a file")).expect("JSON");
    Some(cases.as_array().expect("a list").clone())
}

fn unhex(text: &str) -> Bytes {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("base16");
    (0..text.len()).step_by(2).map(digit).collect::<Vec<_>>().into()
}

#[test]
fn negative_fixtures_are_not_decoded() {
    let files = [
        (Codec::DagCbor, "dag-cbor/decode/duplicate-keys.json", 1),
        (Codec::DagJson, "dag-json/decode/duplicate-keys.json", 1),
        (Codec::DagPb, "dag-pb/decode/edges.json", 9),
    ];
    for (codec, path, count) in files {
        let Some(cases) = negatives(path) else { return };
        assert_eq!(cases.len(), count, "{path}");
        for case in cases {
            let block = unhex(case["hex"].as_str().expect("base16"));
            let error = linked::decode(codec, &block).expect_err(&case.to_string());
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{case}");
        }
    }
}

#[test]
fn negative_fixtures_are_not_encoded() {
    for (path, count) in [("dag-pb/encode/basic-datamodel-kinds.json", 11), ("dag-pb/encode/invalid-forms.json", 67)] {
        let Some(cases) = negatives(path) else { return };
        assert_eq!(cases.len(), count, "{path}");
        for case in cases {
            // As the fixtures write them, keys are in order and there is no white space to mind.
            let text = case["dag-json"].to_string();
            let value: Ipld = json::decode(text.as_bytes()).unwrap_or_else(|error| panic!("{case}: {error:#}"));
            let error = linked::encode(Codec::DagPb, &value).expect_err(&case.to_string());
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{case}");
        }
    }
}
