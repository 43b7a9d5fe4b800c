//! Goal: vaults that were made once are read for ever, and the specification says all that a reader needs. Method: one that was
//! made when the format was is in spec/vectors; it is opened here, and by `read_vault.py`, which was written from the
//! specification and shares no code with this program. So are vaults that are made now, with and without an index.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use multibase::Base;
use muxfs::{heads::Swap, testing::skip};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{stops::Stops, *};
use crate::head::unlock;

const READER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/read_vault.py");

/// A vault, and one amid a rekey.
const VECTORS: [(&str, Rekey); 2] = [("vault.json", Rekey::None), ("vault-rekey.json", Rekey::Half)];

/// How far a vault is rekeyed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rekey {
    None,
    Half,
    Done,
}

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors").join(name)
}

fn lines(blocks: &BTreeMap<BlockKey, Bytes>) -> Vec<String> {
    let hex = |bytes: &[u8]| Base::Base16Lower.encode(bytes);
    let blocks = blocks.iter().map(|(key, block)| format!("{} {}", hex(key.as_bytes()), hex(&Sha256::digest(block))));
    let heads = HEADS.iter().map(|(name, head)| format!("head {} {}", hex(name.as_bytes()), hex(head.as_bytes())));
    blocks.chain(heads).collect()
}

/// What is below a vault, without what nobody reads.
async fn told(world: &World) -> Value {
    let mut objects = world.objects().await;
    for cover in unlock(&world.head().await, &password()).expect("good").2.covers {
        objects.remove(&BlockKey::new(&cover.0).expect("a key"));
    }
    let base64 = |bytes: &[u8]| Base::Base64Pad.encode(bytes);
    let objects: serde_json::Map<_, _> = objects
        .iter()
        .map(|(name, object)| (Base::Base16Lower.encode(name.as_bytes()), base64(object).into()))
        .collect();
    json!({ "head": base64(&world.head().await), "objects": objects })
}

/// What the independent reader says of a vault; `None` where it cannot run here.
fn read(vault: &Path, password: &str) -> Option<Result<Vec<String>, String>> {
    let probe = Command::new("python3").args(["-c", "import cryptography.hazmat.primitives.kdf.argon2"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skip("no python3 with cryptography 44: the independent reader of vaults was not run");
        return None;
    }
    let output = Command::new("python3").arg(READER).arg(vault).arg(password).output().expect("python3 runs");
    let text = |bytes| String::from_utf8(bytes).expect("ASCII");
    Some(if output.status.success() {
        Ok(text(output.stdout).lines().map(str::to_owned).collect())
    } else {
        Err(text(output.stderr))
    })
}

async fn made(with_index: bool, rekey: Rekey) -> (World, Vault, BTreeMap<BlockKey, Bytes>) {
    let (world, mut model) = (World::new(21), BTreeMap::new());
    let cost = Cost { memory_kib: 64, passes: 2, lanes: 2 };
    let vault = world.create(&VaultOptions { compression: Compression::Lz4, cost, ..options() }).await;
    let count = if with_index { 90 } else { 8 };
    for n in 0..count {
        let bytes = if with_index { Dice::new(n as u64).bytes(55_000) } else { block(n % 6, n * 1500).to_vec() };
        put(&vault, &key(n), bytes.clone().into()).await;
        model.insert(key(n), Bytes::from(bytes));
        if rekey != Rekey::None && n == count / 2 {
            assert!(vault.rekey(&password()).await.expect("begun"));
        }
        if rekey == Rekey::Half && n == count * 3 / 4 && with_index {
            assert!(!vault.rekey_some(1).await.expect("goes on").is_done);
        }
        if n % 4 == 3 {
            vault.delete(&key(n / 2)).await.expect("delete");
            model.remove(&key(n / 2));
            flush(&vault).await;
        }
    }
    if with_index {
        vault.compact().await.expect("compact");
    }
    while rekey == Rekey::Done && !vault.rekey_some(1 << 20).await.expect("goes on").is_done {}
    put(&vault, &key(1000), Bytes::new()).await;
    model.insert(key(1000), Bytes::new());
    flush(&vault).await;
    for (name, head) in HEADS {
        assert!(matches!(vault.swap(&head_name(name), None, head.into()).await.expect("swap"), Swap::Done(_)));
    }
    (world, vault, model)
}

const HEADS: [(&str, &str); 2] = [("main", "the newest"), ("other", "")];

fn head_name(name: &str) -> Name {
    Name::new(name.as_bytes()).expect("a name")
}

#[tokio::test]
async fn a_vault_of_before_is_read() {
    for (file, rekey) in VECTORS {
        let file = vector(file);
        let text = fs::read_to_string(&file).expect("the vector");
        let vector: Value = serde_json::from_str(&text).expect("JSON");
        let expected: Vec<&str> =
            vector["blocks"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert!(expected.len() > 4, "there are blocks");
        let base64 =
            |value: &Value| Bytes::from(Base::Base64Pad.decode(value.as_str().expect("text")).expect("base64"));
        let objects = vector["objects"].as_object().expect("objects").iter().map(|(name, object)| {
            let name = Base::Base16Lower.decode(name).expect("base16");
            (BlockKey::new(&name).expect("a key"), base64(object))
        });
        let world = World::of(&objects.collect(), base64(&vector["head"]), 1).await;
        let vault = world.open().await.expect("open");
        assert_eq!(lines(&all(&vault).await.expect("all")), expected);
        for (name, head) in HEADS {
            assert_eq!(vault.load(&head_name(name)).await.expect("load").expect("there").0, head);
        }
        assert_eq!(vault.rekey_left().is_some(), rekey == Rekey::Half);
        if let Some(read) = read(&file, "correct horse") {
            assert_eq!(read.expect("read"), expected);
        }
    }
}

/// Reads a vault with the independent reader, which is to find these blocks, and no other password good and no damage.
fn check_reader(told: &Value, model: &BTreeMap<BlockKey, Bytes>, step: usize) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), told.to_string()).expect("written");
    let Some(found) = read(file.path(), "correct horse") else { return };
    assert_eq!(found.expect("read"), lines(model));
    let refused = read(file.path(), "correct horsf").expect("it runs").expect_err("a wrong password");
    assert!(refused.contains("the password is wrong"), "{refused}");
    // Each pack matters: with another byte in it nothing is read.
    for name in told["objects"].as_object().expect("objects").keys().step_by(step) {
        let mut damaged = told.clone();
        let object = damaged["objects"][name].as_str().expect("text");
        let other = if object.as_bytes()[1000] == b'A' { "B" } else { "A" };
        damaged["objects"][name] = format!("{}{other}{}", &object[..1000], &object[1001..]).into();
        fs::write(file.path(), damaged.to_string()).expect("written");
        let found = read(file.path(), "correct horse").expect("it runs");
        assert!(found.is_err(), "a changed byte is not seen");
    }
}

#[tokio::test]
async fn an_independent_reader_reads_what_is_made_now() {
    for rekey in [Rekey::None, Rekey::Half, Rekey::Done] {
        for with_index in [false, true] {
            let (world, vault, model) = made(with_index, rekey).await;
            assert_eq!(with_index, !vault.inner.head.lock().await.current.runs.runs.is_empty());
            assert_eq!(vault.rekey_left().is_some(), rekey == Rekey::Half);
            check_reader(&told(&world).await, &model, if with_index { 9 } else { 1 });
        }
    }
}

/// Also where a rekey was stopped at its beginning, and index and covers are still under the older key.
#[tokio::test]
async fn an_independent_reader_reads_what_a_crash_leaves_of_a_rekey() {
    let (whole, vault, model) = made(true, Rekey::None).await;
    drop(vault);
    let (objects, head) = (whole.objects().await, whole.head().await);
    for at in 0.. {
        let (world, stops) = (World::of(&objects, head.clone(), 7).await, Stops::new(at, true, false));
        if let Ok(vault) = Vault::open(stops.place(&world), &password()).await {
            vault.rekey(&password()).await.expect_err("it is stopped");
        }
        let superblock = unlock(&world.head().await, &password()).expect("good").2;
        if superblock.older.is_some_and(|older| older.with_index) {
            check_reader(&told(&world).await, &model, 30);
            break;
        }
    }
}

/// Writes the vectors anew: only where a format is new.
#[tokio::test]
#[ignore = "for who makes another format"]
async fn make_the_vectors() {
    for (file, rekey) in VECTORS {
        let (world, vault, model) = made(false, rekey).await;
        drop(vault);
        let mut told = told(&world).await;
        told["blocks"] = lines(&model).into();
        fs::write(vector(file), serde_json::to_string_pretty(&told).expect("JSON") + "\n").expect("written");
    }
}
