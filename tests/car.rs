//! Goal: CARs that others wrote are read as they meant them, and what we give of their DAGs is what they gave.
//!
//! Method: every archive of the published fixtures is read and put into a store; what is exported from its roots must be
//! the blocks that a path, its scope and its range name in the published cases of gateways, and the very bytes where the
//! archive was written depth first. Corrupt archives must be refused at the byte where they are corrupt. The fixtures are
//! not part of this repository but for a few; without them this says so and stops.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use muxfs::{
    BlockKey, BlockStore, Cid, Error, ErrorKind, Name,
    block::Mem,
    car::{self, ImportOptions, Reader, Section},
    dag::{Dag, DagOptions, ExportOptions, Scope},
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

/// The roots, the sections up to the end or an error, and the error.
async fn read(bytes: &[u8]) -> (Vec<Cid>, Vec<Section>, Option<Error>) {
    let mut sections = Vec::new();
    let mut reader = match Reader::open(bytes).await {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), sections, Some(error)),
    };
    let error = loop {
        match reader.next().await {
            Ok(Some(section)) => sections.push(section),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    (reader.roots().to_vec(), sections, error)
}

async fn dag_of(sections: &[Section]) -> Dag {
    let store = Arc::new(Mem::default());
    for section in sections {
        store.put(&BlockKey::from(&section.cid), section.block.clone()).await.expect("put");
    }
    Dag::new(store, DagOptions::default())
}

fn vector(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/vectors/car").join(name)).expect("a vector")
}

/// The examples of the specification, whose places were written down by hand.
#[tokio::test]
async fn the_examples_of_the_specification() {
    for (name, version) in [("carv1-basic", 1), ("carv2-basic", 2)] {
        let (bytes, about) = (vector(&format!("{name}.car")), vector(&format!("{name}.json")));
        let about: Value = serde_json::from_slice(&about).expect("JSON");
        let (roots, sections, error) = read(&bytes).await;
        assert!(error.is_none(), "{name}: {error:?}");
        assert_eq!(Reader::open(&bytes[..]).await.expect("a CAR").version(), version);
        let listed = about["blocks"].as_array().expect("blocks");
        assert_eq!(sections.len(), listed.len(), "{name}");
        for (section, listed) in sections.iter().zip(listed) {
            let cid = listed["cid"]["/"].as_str().expect("a CID");
            assert_eq!(section.cid.to_string(), cid);
            assert_eq!(section.offset, listed["offset"].as_u64().expect("an offset"), "{name} {cid}");
            assert_eq!(section.block.len() as u64, listed["blockLength"].as_u64().expect("a length"), "{name} {cid}");
        }
        let listed = about["header"]["roots"].as_array().expect("roots").iter();
        let listed: Vec<_> = listed.map(|root| root["/"].as_str().expect("a CID")).collect();
        assert_eq!(roots.iter().map(Cid::to_string).collect::<Vec<_>>(), listed, "{name}");
    }
}

/// Written again as they were read, archives of version 1 are the same bytes; exported from their root, most are too.
#[tokio::test]
async fn archives_of_others() {
    let Some(data) = data() else { return };
    let index = json(&data.join("fixtures/INDEX.json"));
    let (mut same, mut parts) = (0, BTreeSet::new());
    for (path, about) in index.as_object().expect("a map") {
        let is_whole = about["hash_mismatch"] == 0
            && about["blocks"] != 0
            && !path.contains("corrupt")
            && !path.contains("zero-len");
        if Path::new(path).extension() != Some("car".as_ref()) || !is_whole {
            continue;
        }
        let bytes = fs::read(data.join("fixtures").join(path)).expect("an archive");
        let (roots, sections, error) = read(&bytes).await;
        assert!(error.is_none(), "{path}: {error:?}");
        // Archives of Filecoin have a few blocks of identity CIDs, which are passed over.
        let identity_count =
            if path.ends_with("sample-v1.car") || path.ends_with("sample-wrapped-v2.car") { 6 } else { 0 };
        assert_eq!(sections.len() as u64 + identity_count, about["blocks"].as_u64().expect("a count"), "{path}");
        assert_eq!(roots.len(), about["roots"].as_array().expect("roots").len(), "{path}");
        if about["version"] != 1 || identity_count > 0 {
            continue;
        }
        let mut writer = car::Writer::new(Vec::new(), &roots).await.expect("memory");
        for section in &sections {
            writer.write(&section.cid, &section.block).await.expect("memory");
        }
        assert_eq!(writer.finish().await.expect("memory"), bytes, "{path}");
        let [root] = roots.as_slice() else { continue };
        let dag = dag_of(&sections).await;
        let exported = match car::export(&dag, root, &[], &ExportOptions::default()).await {
            Ok(stream) => stream.try_collect::<Vec<_>>().await.map(|pieces| pieces.concat()),
            Err(error) => Err(error),
        };
        // Through an import it is the same DAG, and a collection can follow it.
        let to = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let report = car::import(&to, &bytes[..], &ImportOptions::default())
            .await
            .unwrap_or_else(|error| panic!("{path}: {error:#}"));
        // One has a node under both versions of its CID: it is put once.
        assert_eq!(report.block_count + report.passed_count, sections.len() as u64, "{path}: {report:?}");
        assert_eq!((report.is_whole(), report.passed_count < 2), (exported.is_ok(), true), "{path}: {report:?}");
        let again = match car::export(&to, root, &[], &ExportOptions::default()).await {
            Ok(stream) => stream.try_collect::<Vec<_>>().await.map(|pieces| pieces.concat()),
            Err(error) => Err(error),
        };
        assert_eq!(again.ok(), exported.as_ref().ok().cloned(), "{path}");
        let checked = car::check(&bytes[..], None).await.expect("sound");
        assert_eq!(checked.missing_count, report.missing_count, "{path}");
        match exported {
            Ok(exported) if exported == bytes => same += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => _ = parts.insert(path.as_str()),
            other => panic!("{path}: {other:?}"),
        }
    }
    let expected = [
        "gateway-conformance/trustless_gateway_car/file-3k-and-3-blocks-missing-block.car",
        "kubo/partial-dag-scope-entity.car",
    ];
    assert_eq!(parts, BTreeSet::from(expected), "and nothing else is a part of a DAG");
    assert!(same >= 35, "{same} archives were exported as they were");
}

/// What gateways are tested with: paths, scopes and ranges, and the blocks that prove the answer.
#[tokio::test]
async fn what_gateways_are_asked_for() {
    let Some(data) = data() else { return };
    let cases = json(&data.join("gateway-cases.json"));
    let mut count = 0;
    for case in cases["cases"].as_array().expect("cases") {
        let (Some(expected), Some(fixture)) = (case["expect"]["car"]["blocks"].as_array(), case["fixture"].as_str())
        else {
            continue;
        };
        let (what, request) = (case["name"].as_str().expect("a name"), &case["request"]);
        let mut parts = request["path"].as_str().expect("a path").split('/').skip(2);
        let root: Cid = parts.next().expect("a CID").parse().expect("a CID");
        let path: Vec<Name> = parts.map(|part| Name::new(part.as_bytes()).expect("a name")).collect();
        let query = |key: &str| request["query"][key].as_str();
        let scope = match query("dag-scope") {
            Some("block") => Scope::Block,
            Some("entity") => Scope::Entity,
            _ => Scope::All,
        };
        let bytes = query("entity-bytes").map(|range| range.parse().expect("a range"));
        let duplicates = request["headers"]["Accept"].as_str().is_some_and(|accept| accept.contains("dups=y"));
        let options = ExportOptions { scope, bytes, duplicates, ..ExportOptions::default() };
        let (_, sections, _) = read(&fs::read(data.join("fixtures").join(fixture)).expect("an archive")).await;
        let dag = dag_of(&sections).await;
        let stream = match car::export(&dag, &root, &path, &options).await {
            Ok(stream) => stream,
            Err(error) => {
                assert!(what.contains("non-existing") && error.kind() == ErrorKind::NotFound, "{what}: {error:#}");
                continue;
            }
        };
        let pieces: Vec<Bytes> = stream.try_collect().await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        let (_, got, error) = read(&pieces.concat()).await;
        assert!(error.is_none(), "{what}: {error:?}");
        let got: Vec<String> = got.iter().map(|section| section.cid.to_string()).collect();
        let expected: Vec<&str> = expected.iter().map(|cid| cid.as_str().expect("a CID")).collect();
        assert_eq!(got, expected, "{what}");
        count += 1;
    }
    assert!(count >= 15, "{count} cases were held");
}

/// Where each corrupt archive is corrupt: found by another program.
#[tokio::test]
async fn corrupt_archives_are_refused_at_their_place() {
    let Some(data) = data() else { return };
    for (name, before, kind, at) in [
        ("sample-corrupt-pragma", 0, ErrorKind::Corrupt, 0),
        ("sample-rootless-v42", 0, ErrorKind::Unsupported, 0),
        // 1048 sections, of which six are of identity CIDs.
        ("sample-v1-tailing-corrupt-section", 1042, ErrorKind::Corrupt, 479_518),
        ("sample-v1-with-zero-len-section2", 20, ErrorKind::Corrupt, 20_819),
        // The offset of its data is below zero.
        ("sample-v2-corrupt-data-and-index", 0, ErrorKind::Corrupt, 11),
    ] {
        let bytes = fs::read(data.join(format!("fixtures/car/go-car-v2/{name}.car"))).expect("an archive");
        let (_, sections, error) = read(&bytes).await;
        let error = error.expect(name);
        assert_eq!((sections.len(), error.kind()), (before, kind), "{name}: {error:#}");
        assert!(format!("{error:#}").contains(&format!("at byte {at}:")), "{name}: {error:#}");
        let to = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let refused = car::import(&to, &bytes[..], &ImportOptions::default()).await.expect_err(name);
        assert_eq!(format!("{refused:#}"), format!("{error:#}"));
    }
}

/// Filecoin's: blake2b hashes, blocks in CIDs, bytes in text. A DAG of 1043 blocks in both versions of the file.
#[tokio::test]
async fn archives_of_filecoin_are_imported_whole() {
    let Some(data) = data() else { return };
    for name in ["sample-v1", "sample-wrapped-v2"] {
        let bytes = fs::read(data.join(format!("fixtures/car/go-car-v2/{name}.car"))).expect("an archive");
        let (roots, sections, _) = read(&bytes).await;
        let to = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let report = car::import(&to, &bytes[..], &ImportOptions::default()).await.expect(name);
        assert_eq!((report.block_count, report.passed_count), (1043, 0), "{report:?}");
        assert_eq!(report.roots, [(roots[0], true)]);
        let export = to.export(&roots[0], &[], &ExportOptions::default()).await.expect("begun");
        let got: Vec<Cid> = export.blocks().map_ok(|(cid, _)| cid).try_collect().await.expect("exported");
        assert_eq!(got, sections.iter().map(|section| section.cid).collect::<Vec<_>>(), "{name}");
    }
}
