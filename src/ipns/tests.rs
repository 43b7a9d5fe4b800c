//! Records that another program made, and what becomes of ours.

use std::{
    collections::BTreeMap,
    env, fs,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{ErrorKind, Name, Result, SecretKey, calendar::unix_secs};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../spec/vectors/ipns.json")).expect("JSON")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().expect(name)
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).expect("ASCII"), 16).expect("hex")).collect()
}

fn key() -> NameKey {
    NameKey::of_seed(SecretKey::new([7; 32]))
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

#[test]
fn keys_have_the_names_that_others_give_them() {
    let vectors = vectors();
    for case in vectors["names"].as_array().expect("names") {
        let name: IpnsName = text(case, "cid").parse().expect("a name");
        assert_eq!(text(case, "base58").parse::<IpnsName>().expect("a name"), name);
        assert_eq!(name.to_string(), text(case, "cid"));
        assert_eq!(IpnsName::of_key(&key::PublicKey::decode(&bytes(text(case, "key"))).expect("a key")), name);
        assert_eq!(IpnsName::from_multihash(name.multihash_bytes()).expect("a name"), name);
        assert_eq!(name.cid().to_string().parse::<IpnsName>().expect("a name"), name, "base32");
    }
    let seed: [u8; 32] = bytes(text(&vectors, "seed")).try_into().expect("32 bytes");
    let key = NameKey::of_seed(SecretKey::new(seed));
    assert_eq!(key.name().to_string(), text(&vectors["names"][0], "cid"));
    let exported = bytes(text(&vectors, "exported"));
    assert_eq!(**key.encode(), *exported);
    assert_eq!(NameKey::decode(&exported).expect("a key").name(), key.name());
    // Old programs repeat the public half.
    let old = [&[8, 1, 0x12, 96], &exported[4..], &exported[36..]].concat();
    assert_eq!(NameKey::decode(&old).expect("a key").name(), key.name());
    let mut wrong = exported.clone();
    wrong[40] ^= 1;
    for bad in [&wrong[..], &exported[..67], &[], &[8, 0, 0x12, 1, 0]] {
        assert_eq!(NameKey::decode(bad).expect_err("no key").kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn what_is_no_name_is_refused() {
    for text in [
        "",
        "bafkqaaa",
        "QmYjtig7VJQ6XsnUjqqJvj7QaMcCAwtrgNdahSiFofrE7oX",
        "k51",
        "12D3Koo0",
        "k2k4r8o3cnfdon57mervel4seo2ax7gptbkgtf7lhzh8k0d9tz0kt76u/a",
        "example.org",
    ] {
        assert_eq!(text.parse::<IpnsName>().expect_err(text).kind(), ErrorKind::InvalidArgument, "{text}");
    }
    assert!("x".repeat(1 << 20).parse::<IpnsName>().is_err());
}

#[test]
fn records_of_another_program_are_judged_as_it_says() {
    for case in vectors()["cases"].as_array().expect("cases") {
        let what = text(case, "what");
        let name: IpnsName = text(case, "name").parse().expect("a name");
        let verdict = Record::verify(&name, &bytes(text(case, "record")));
        if text(case, "verdict") != "ok" {
            let error = verdict.expect_err(what);
            assert_eq!(format!("{:?}", error.kind()), text(case, "verdict"), "{what}: {error}");
            assert!(error.path().is_some_and(|path| path == name.to_string()), "{what}: {error} names it");
            continue;
        }
        let record = verdict.expect(what);
        assert_eq!(record.value(), text(case, "value").as_bytes(), "{what}");
        assert_eq!(Some(record.sequence()), case["sequence"].as_u64(), "{what}");
        assert_eq!(Some(unix_secs(record.expires())), case["expires"][0].as_i64(), "{what}");
        let nanos = record.expires().duration_since(UNIX_EPOCH).expect("later").subsec_nanos();
        assert_eq!(Some(nanos.into()), case["expires"][1].as_u64(), "{what}");
        assert_eq!(Some(record.ttl().as_nanos()), case["ttl_ns"].as_u64().map(u128::from), "{what}");
        assert!(record.is_good(record.expires() - LIFETIME) && !record.is_good(record.expires()));
    }
}

/// Ed25519 signs the same bytes in the same way: what we make is what the other program made.
#[test]
fn a_record_of_ours_is_what_another_program_makes() {
    let vectors = vectors();
    let seed: [u8; 32] = bytes(text(&vectors, "seed")).try_into().expect("32 bytes");
    let key = NameKey::of_seed(SecretKey::new(seed));
    let theirs = bytes(text(&vectors["cases"][0], "record"));
    let read = Record::verify(key.name(), &theirs).expect("good");
    let ours = Record::create(&key, read.value(), read.sequence(), read.expires(), read.ttl()).expect("made");
    assert_eq!(ours.as_bytes(), &theirs);
    assert_eq!(ours, read);
}

#[test]
fn the_newest_of_two_counts() {
    let (key, time) = (key(), now());
    let record = |value: &[u8], sequence, lifetime| {
        Record::create(&key, value, sequence, time + lifetime, TTL).expect("a record")
    };
    let one = record(b"/ipfs/bafkqaaa", 1, LIFETIME);
    let ordered = [
        one.clone(),
        record(b"/ipfs/bafkqaaa", 1, LIFETIME * 2),
        record(b"/ipfs/bafkqaaa", 2, LIFETIME),
        record(b"/ipfs/bafkqaaa", u64::MAX, TTL),
    ];
    for pair in ordered.windows(2) {
        assert!(pair[0].cmp_age(&pair[1]).is_lt() && pair[1].cmp_age(&pair[0]).is_gt());
    }
    assert!(one.cmp_age(&one).is_eq());
    let other = record(b"/ipfs/bafkqabtimvwgy3yk", 1, LIFETIME);
    assert!(one.cmp_age(&other).is_ne() && one.cmp_age(&other) == other.cmp_age(&one).reverse());
}

#[test]
fn targets_are_paths_of_content_and_names() {
    let name = key().name().clone();
    let cid = "bafkqaaa".parse().expect("a CID");
    let parts = |names: &[&str]| names.iter().map(|name| crate::Name::new(name.as_bytes()).expect("a name")).collect();
    for (value, target) in [
        ("/ipfs/bafkqaaa".to_owned(), Target::Content(cid, Vec::new())),
        ("/ipfs/bafkqaaa//a/b/".to_owned(), Target::Content(cid, parts(&["a", "b"]))),
        ("bafkqaaa".to_owned(), Target::Content(cid, Vec::new())),
        (format!("/ipns/{name}/x"), Target::Name(name, parts(&["x"]))),
    ] {
        assert_eq!(Target::parse(value.as_bytes()).expect(&value), target);
    }
    assert_eq!(Target::parse(&[1, 0x55, 0, 0]).expect("the bytes of a CID"), Target::Content(cid, Vec::new()));
    for (value, kind) in [
        ("", ErrorKind::InvalidArgument),
        ("/", ErrorKind::InvalidArgument),
        ("/ipfs", ErrorKind::InvalidArgument),
        ("/ipfs/bafkqaaa/..", ErrorKind::InvalidArgument),
        ("/local/a", ErrorKind::InvalidArgument),
        ("/ipns/example.org", ErrorKind::Unsupported),
        ("https://example.org", ErrorKind::InvalidArgument),
    ] {
        assert_eq!(Target::parse(value.as_bytes()).expect_err(value).kind(), kind, "{value}");
        let (key, expires) = (key(), now() + LIFETIME);
        assert_eq!(Record::create(&key, value.as_bytes(), 1, expires, TTL).expect_err(value).kind(), kind, "{value}");
    }
}

#[derive(Debug, Default)]
struct Known(BTreeMap<IpnsName, Record>);

impl Known {
    /// Lets the name of the key of a seed lead somewhere.
    fn publish(&mut self, seed: u8, value: &str, lifetime: Duration, ttl: Duration) -> IpnsName {
        let key = NameKey::of_seed(SecretKey::new([seed; 32]));
        let record = Record::create(&key, value.as_bytes(), 1, now() + lifetime, ttl).expect("a record");
        self.0.insert(key.name().clone(), record);
        key.name().clone()
    }
}

#[async_trait::async_trait]
impl Records for Known {
    async fn record(&self, name: &IpnsName) -> Result<Option<Record>> {
        Ok(self.0.get(name).cloned())
    }
}

#[tokio::test]
async fn names_lead_to_content_through_names() {
    let mut known = Known::default();
    let one = known.publish(1, "/ipfs/bafkqaaa/a", LIFETIME, TTL);
    let two = known.publish(2, &format!("/ipns/{one}/b/c"), LIFETIME, TTL * 2);
    let three = known.publish(3, &format!("/ipns/{two}/d"), Duration::from_secs(7), TTL);
    let path =
        |names: &[&str]| names.iter().map(|name| Name::new(name.as_bytes()).expect("a name")).collect::<Vec<_>>();
    let root = "bafkqaaa".parse().expect("a CID");
    for (name, names, ttl) in [
        (&one, &["a"][..], TTL),
        (&two, &["a", "b", "c"], TTL),
        (&three, &["a", "b", "c", "d"], Duration::from_secs(7)),
    ] {
        let resolved = resolve(&known, name, now()).await.expect("it leads somewhere");
        assert_eq!(resolved, Resolved { root, path: path(names), ttl });
    }
    let later = now() + Duration::from_secs(7);
    assert!(resolve(&known, &two, later).await.is_ok());
    let error = resolve(&known, &three, later).await.expect_err("not any more");
    assert_eq!((error.kind(), error.path()), (ErrorKind::NotFound, Some(three.to_string().as_str())));

    let first = known.publish(5, "/ipfs/bafkqaaa", LIFETIME, TTL);
    let round = known.publish(4, &format!("/ipns/{first}"), LIFETIME, TTL);
    known.publish(5, &format!("/ipns/{round}"), LIFETIME, TTL);
    assert_eq!(resolve(&known, &round, now()).await.expect_err("a circle").kind(), ErrorKind::Loop);
    let nobody = NameKey::of_seed(SecretKey::new([9; 32])).name().clone();
    let lost = known.publish(6, &format!("/ipns/{nobody}"), LIFETIME, TTL);
    let error = resolve(&known, &lost, now()).await.expect_err("nothing is known of it");
    assert_eq!((error.kind(), error.path()), (ErrorKind::NotFound, Some(nobody.to_string().as_str())));
}

#[test]
fn what_does_not_fit_is_not_made() {
    let (key, time) = (key(), now());
    let long = format!("/ipfs/bafkqaaa{}", "/abcdefghi".repeat(1100));
    let error = Record::create(&key, long.as_bytes(), 1, time, TTL).expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let far = crate::calendar::of_unix_secs(253_402_300_800).expect("the year 10000");
    assert_eq!(
        Record::create(&key, b"/ipfs/bafkqaaa", 1, far, TTL).expect_err("far").kind(),
        ErrorKind::InvalidArgument
    );
}

/// Whose signatures were made by Kubo: those that are good are told from those that its gateways refuse.
#[test]
fn records_of_the_conformance_suite_are_judged_as_it_says() {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let folder = env::var_os("MUXFS_SHARED").map_or(beside, PathBuf::from).join("data/fixtures/gateway-conformance");
    if !folder.is_dir() {
        crate::testing::skip("MUXFS_SHARED names no directory of fixtures");
        return;
    }
    let mut seen = 0;
    for group in ["ipns_records", "gateway-cache", "subdomain_gateway", "path_gateway_dag"] {
        for file in fs::read_dir(folder.join(group)).expect("it is there") {
            let path = file.expect("it is there").path();
            if path.extension().is_none_or(|extension| extension != "ipns-record") {
                continue;
            }
            let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
            let (name, kind) = stem.split_once('_').unwrap_or((stem, ""));
            let is_bad = ["v1", "v1-v2-broken-signature-v2", "v1-v2-broken-v1-value"].contains(&kind);
            let verdict = Record::verify(&name.parse().expect(name), &fs::read(&path).expect("it is there"));
            assert_eq!(verdict.is_err(), is_bad, "{stem}: {verdict:?}");
            if let Ok(record) = verdict {
                assert!(record.target().is_ok(), "{stem}: {}", record.value().escape_ascii());
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 12);
}

proptest! {
    #[test]
    fn what_is_made_is_read(sequence: u64, secs in 0..200_000_000_000u64, ttl: u32, part in "[a-z]{1,20}") {
        let expires = UNIX_EPOCH + Duration::from_secs(secs);
        let (key, value) = (key(), format!("/ipfs/bafkqaaa/{part}"));
        let ttl = Duration::from_nanos(ttl.into());
        let made = Record::create(&key, value.as_bytes(), sequence, expires, ttl).expect("made");
        prop_assert_eq!(Record::verify(key.name(), made.as_bytes()).expect("good"), made);
    }

    /// One bit of what is signed, or of the signature, and it is refused.
    #[test]
    fn a_flipped_bit_is_refused(at: prop::sample::Index, bit in 0..8u8) {
        let key = key();
        let made = Record::create(&key, b"/ipfs/bafkqaaa", 1, now(), TTL).expect("made");
        let mut bytes = made.as_bytes().to_vec();
        bytes[at.index(made.as_bytes().len())] ^= 1_u8 << bit;
        prop_assert!(Record::verify(key.name(), &bytes).is_err());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), tail in 0..3usize) {
        let key = key();
        let made = Record::create(&key, b"/ipfs/bafkqaaa", 1, now(), TTL).expect("made");
        let joined = [&made.as_bytes()[..made.as_bytes().len() * tail / 2], &bytes].concat();
        // Behind a whole record it may be fields that nobody knows.
        if let Ok(record) = Record::verify(key.name(), &joined) {
            prop_assert_eq!(record.value(), b"/ipfs/bafkqaaa");
        }
        Target::parse(&bytes).ok();
        NameKey::decode(&bytes).ok();
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        text.parse::<IpnsName>().ok();
    }
}
