//! The block of a commit: ties the content of a tree to its attributes, and names the commits before it.
//!
//! A dag-cbor map. Of its CIDs only the content and the attributes are links: what can be reached from a commit is the
//! state it stands for, so whoever walks, copies or pins one has exactly that. Earlier commits and snapshots are named by
//! the bytes of their CIDs: they are kept, or not, by whoever owns the head. Spec: spec/commit.md.

use std::{collections::BTreeMap, time::SystemTime};

use bytes::Bytes;

use super::attrs::{nanos_of, time_of};
use crate::{
    Cid, Codec, Error, ErrorKind, Result,
    dag::{DAG_BLOCK_LEN_MAX, Dag, DirSize, HAMT_FANOUT_MAX, HAMT_FANOUT_MIN, Ipld, Layout, Params, cbor},
};

/// The version that is written, and the newest that is read.
const VERSION: u64 = 1;
/// What every commit says it is.
const KIND: &str = "muxfs-commit";
/// The most earlier commits that are named: a month of hours and more, and the block stays small.
pub(crate) const PREV_COUNT_MAX: usize = 4096;
/// The most snapshots that are named.
pub(crate) const SNAPSHOT_COUNT_MAX: usize = 2048;
/// The longest name of a snapshot, in bytes: it shows up as a name in a directory.
pub(crate) const SNAPSHOT_NAME_LEN_MAX: usize = 255;
/// The longest note, in bytes.
pub(crate) const NOTE_LEN_MAX: usize = 4096;

/// A committed state of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// How the content became blocks: whoever changes it goes on in the same way.
    pub profile: Params,
    /// The root directory, `UnixFS`.
    pub root: Cid,
    /// The attribute tree; `None` for content that has none.
    pub attrs: Option<Cid>,
    /// The commits before it that were kept, newest first; their blocks may be gone.
    pub prev: Vec<Cid>,
    /// Commits with a name; their blocks may be gone once a later commit does not name them.
    pub snapshots: BTreeMap<String, Cid>,
    /// When it was made: from 1677 to 2262, to the nanosecond. Others are kept as the nearest of these.
    pub time: SystemTime,
    /// What was said about it; mostly nothing.
    pub note: String,
}

impl Commit {
    /// Reads a commit.
    ///
    /// # Errors
    /// `NotFound` if the block is absent; `Corrupt` if it is no commit; `Unsupported` if a newer program wrote it.
    pub async fn get(dag: &Dag, cid: &Cid) -> Result<Self> {
        if cid.codec() != Some(Codec::DagCbor) {
            return Err(corrupt("a commit is dag-cbor").at(cid));
        }
        Self::decode(&dag.get_block(cid).await?).map_err(|error| error.at(cid))
    }

    /// Puts the block, without a flush.
    ///
    /// # Errors
    /// `TooLarge` past 4096 commits before it, 2048 snapshots, 255 bytes of a snapshot's name, or 4096 bytes of note;
    /// those of putting.
    pub async fn put(&self, dag: &Dag) -> Result<Cid> {
        dag.put_block(Codec::DagCbor, self.encode()?).await
    }

    fn encode(&self) -> Result<Bytes> {
        self.check().map_err(|why| Error::new(ErrorKind::TooLarge, "commit.put").because(why))?;
        let weak = |cid: &Cid| Ipld::Bytes(cid.to_bytes().into());
        let snapshots = self.snapshots.iter().map(|(name, cid)| (name.clone(), weak(cid)));
        let map = [
            ("v", Ipld::from(VERSION)),
            ("kind", KIND.into()),
            ("note", self.note.as_str().into()),
            ("prev", Ipld::List(self.prev.iter().map(weak).collect())),
            ("root", self.root.into()),
            ("time", Ipld::Integer(nanos_of(self.time).into())),
            ("attrs", self.attrs.map_or(Ipld::Null, Ipld::from)),
            ("profile", encode_params(&self.profile)),
            ("snapshots", Ipld::Map(snapshots.collect())),
        ];
        cbor::encode(&Ipld::Map(map.map(|(key, value)| (key.to_owned(), value)).into())).map(Bytes::from)
    }

    fn decode(block: &[u8]) -> Result<Self> {
        let Ipld::Map(mut map) = cbor::decode(block)? else { return Err(corrupt("a commit is a map")) };
        if map.get("kind") != Some(&KIND.into()) {
            return Err(corrupt("it does not say that it is a commit"));
        }
        match map.remove("v") {
            Some(Ipld::Integer(version)) if version > VERSION.into() => {
                return Err(Error::new(ErrorKind::Unsupported, "commit.decode").because(format!(
                    "a commit of version {version}: this program reads version {VERSION}, a newer MuxFS wrote it"
                )));
            }
            Some(Ipld::Integer(version)) if version == VERSION.into() => {}
            _ => return Err(corrupt("there is no such version of a commit")),
        }
        if map.len() != 8 {
            return Err(corrupt("a commit has nine entries"));
        }
        Self::read(&map).map_err(corrupt)
    }

    fn read(map: &BTreeMap<String, Ipld>) -> Result<Self, &'static str> {
        let (Some(Ipld::List(prev)), Some(Ipld::Map(snapshots))) = (map.get("prev"), map.get("snapshots")) else {
            return Err("the commits before are a list, and the snapshots a map");
        };
        let (Some(Ipld::Link(root)), Some(Ipld::String(note))) = (map.get("root"), map.get("note")) else {
            return Err("the root is a link, and the note is text");
        };
        let (Some(Ipld::Integer(nanos)), Some(Ipld::Map(params))) = (map.get("time"), map.get("profile")) else {
            return Err("the time is a number, and the parameters are a map");
        };
        let attrs = match map.get("attrs") {
            Some(Ipld::Link(cid)) => Some(**cid),
            Some(Ipld::Null) => None,
            _ => return Err("the attributes are a link, or null"),
        };
        let weak = |value: &Ipld| match value {
            Ipld::Bytes(bytes) => Cid::from_bytes(bytes).map_err(|_| "another commit is named by the bytes of a CID"),
            _ => Err("another commit is named by the bytes of a CID"),
        };
        let snapshots = snapshots.iter().map(|(name, cid)| Ok((name.clone(), weak(cid)?)));
        let commit = Self {
            profile: decode_params(params)?,
            root: **root,
            attrs,
            prev: prev.iter().map(weak).collect::<Result<_, _>>()?,
            snapshots: snapshots.collect::<Result<_, &str>>()?,
            time: time_of(i64::try_from(*nanos).map_err(|_| "a time is from -2^63 to 2^63-1 nanoseconds")?),
            note: note.clone(),
        };
        commit.check().map(|()| commit)
    }

    /// Checks the limits.
    fn check(&self) -> Result<(), &'static str> {
        if self.prev.len() > PREV_COUNT_MAX {
            return Err("a commit names at most 4096 commits before it");
        }
        if self.snapshots.len() > SNAPSHOT_COUNT_MAX {
            return Err("a commit names at most 2048 snapshots");
        }
        if self.snapshots.keys().any(|name| name.is_empty() || name.len() > SNAPSHOT_NAME_LEN_MAX) {
            return Err("the name of a snapshot has 1 to 255 bytes");
        }
        if self.note.len() > NOTE_LEN_MAX {
            return Err("a note has at most 4096 bytes");
        }
        Ok(())
    }
}

fn corrupt(why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, "commit.decode").because(why)
}

const LAYOUTS: [(Layout, &str); 2] = [(Layout::Balanced, "balanced"), (Layout::Trickle, "trickle")];
const DIR_SIZES: [(DirSize, &str); 2] = [(DirSize::BlockBytes, "block"), (DirSize::LinksBytes, "links")];

fn encode_params(params: &Params) -> Ipld {
    let layout = LAYOUTS.iter().find(|(layout, _)| *layout == params.layout).map_or("", |(_, word)| *word);
    let dir_size = DIR_SIZES.iter().find(|(size, _)| *size == params.dir_size).map_or("", |(_, word)| *word);
    let map = [
        ("cid_version", Ipld::from(u64::from(params.cid_version))),
        ("raw_leaves", Ipld::Bool(params.raw_leaves)),
        ("chunk_len", u64::from(params.chunk_len).into()),
        ("layout", layout.into()),
        ("width", u64::from(params.width).into()),
        ("hamt_fanout", u64::from(params.hamt_fanout).into()),
        ("hamt_threshold", u64::from(params.hamt_threshold).into()),
        ("dir_size", dir_size.into()),
    ];
    Ipld::Map(map.map(|(key, value)| (key.to_owned(), value)).into())
}

/// Numbers that nothing could be built by are refused: they come from outside.
fn decode_params(map: &BTreeMap<String, Ipld>) -> Result<Params, &'static str> {
    if map.len() != 8 {
        return Err("there are eight parameters");
    }
    let number = |key, least: u32, most: u32| match map.get(key) {
        Some(Ipld::Integer(number)) => u32::try_from(*number)
            .ok()
            .filter(|number| (least..=most).contains(number))
            .ok_or("a parameter is out of range"),
        _ => Err("a parameter is missing, or no number"),
    };
    let word = |key| match map.get(key) {
        Some(Ipld::String(word)) => Ok(word.as_str()),
        _ => Err("a parameter is missing, or no word"),
    };
    let (layout, dir_size) = (word("layout")?, word("dir_size")?);
    let Some(Ipld::Bool(raw_leaves)) = map.get("raw_leaves") else { return Err("leaves are raw, or not") };
    let params = Params {
        cid_version: u8::from(number("cid_version", 0, 1)? == 1),
        raw_leaves: *raw_leaves,
        chunk_len: number("chunk_len", 1, u32::try_from(DAG_BLOCK_LEN_MAX).unwrap_or(u32::MAX))?,
        layout: LAYOUTS.iter().find(|(_, word)| *word == layout).ok_or("there is no such layout")?.0,
        width: number("width", 2, u32::MAX)?,
        hamt_fanout: number("hamt_fanout", HAMT_FANOUT_MIN, HAMT_FANOUT_MAX)?,
        hamt_threshold: number("hamt_threshold", 0, u32::MAX)?,
        dir_size: DIR_SIZES.iter().find(|(_, word)| *word == dir_size).ok_or("there is no such size rule")?.0,
    };
    if params.hamt_fanout.is_power_of_two() { Ok(params) } else { Err("the fanout is a power of two") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::StreamExt;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        block::Mem,
        cid::tests::any_cid,
        cid_of,
        dag::{DagOptions, Profile},
    };

    fn any_commit() -> impl Strategy<Value = Commit> {
        let profile =
            prop_oneof![Just(Profile::UnixfsV1_2025), Just(Profile::UnixfsV0_2015), Just(Profile::KuboCidV1Legacy)];
        let snapshots = proptest::collection::btree_map(".{1,20}", any_cid(), 0..4);
        let cids = (any_cid(), proptest::option::of(any_cid()), proptest::collection::vec(any_cid(), 0..4));
        (profile, any::<bool>(), cids, snapshots, any::<i64>(), ".{0,50}").prop_map(
            |(profile, trickle, (root, attrs, prev), snapshots, nanos, note)| {
                let layout = if trickle { Layout::Trickle } else { Layout::Balanced };
                let params = Params { layout, ..profile.params() };
                Commit { profile: params, root, attrs, prev, snapshots, time: time_of(nanos), note }
            },
        )
    }

    fn sample() -> Commit {
        Commit {
            profile: Profile::default().params(),
            root: cid_of(Codec::DagPb, b"\x0a\x02\x08\x01"),
            attrs: None,
            prev: vec![cid_of(Codec::DagCbor, b"before")],
            snapshots: [("monday".to_owned(), cid_of(Codec::DagCbor, b"monday"))].into(),
            time: time_of(-1),
            note: String::new(),
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(commit in any_commit()) {
            let block = commit.encode().expect("within the limits");
            prop_assert_eq!(Commit::decode(&block).expect("its block"), commit);
        }
    }

    /// What decodes has one form: every byte is set to every value.
    #[test]
    fn a_damaged_commit_is_refused_or_is_another_commit() {
        let block = sample().encode().expect("a commit");
        for at in 0..block.len() {
            for change in 1..=255 {
                let mut damaged = block.to_vec();
                damaged[at] ^= change;
                match Commit::decode(&damaged) {
                    Ok(commit) => assert_eq!(commit.encode().expect("decoded"), damaged),
                    Err(error) => assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported)),
                }
            }
        }
    }

    #[test]
    fn each_rule_refuses() {
        let Ipld::Map(map) = cbor::decode(&sample().encode().expect("a commit")).expect("dag-cbor") else {
            panic!("a map")
        };
        let params = |key: &str, value: Ipld| {
            let Some(Ipld::Map(mut params)) = map.get("profile").cloned() else { panic!("a map") };
            params.insert(key.to_owned(), value);
            Ipld::Map(params)
        };
        let cases: [(&str, Ipld, ErrorKind, &str); 19] = [
            ("v", Ipld::Integer(2), ErrorKind::Unsupported, "version 2: this program reads version 1, a newer MuxFS"),
            ("v", Ipld::Integer(0), ErrorKind::Corrupt, "no such version"),
            ("v", "1".into(), ErrorKind::Corrupt, "no such version"),
            ("kind", "commit".into(), ErrorKind::Corrupt, "does not say"),
            ("more", Ipld::Integer(1), ErrorKind::Corrupt, "nine entries"),
            ("note", "n".repeat(4097).as_str().into(), ErrorKind::Corrupt, "4096 bytes"),
            ("note", Ipld::Null, ErrorKind::Corrupt, "text"),
            ("root", Ipld::Null, ErrorKind::Corrupt, "a link"),
            ("attrs", Ipld::Integer(1), ErrorKind::Corrupt, "or null"),
            ("time", Ipld::Integer(1 << 63), ErrorKind::Corrupt, "2^63-1"),
            ("prev", Ipld::List(vec![sample().root.into()]), ErrorKind::Corrupt, "bytes of a CID"),
            ("prev", Ipld::List(vec![Bytes::from_static(b"no").into()]), ErrorKind::Corrupt, "bytes of a CID"),
            ("snapshots", Ipld::List(Vec::new()), ErrorKind::Corrupt, "a map"),
            ("profile", params("width", Ipld::Integer(1)), ErrorKind::Corrupt, "out of range"),
            ("profile", params("chunk_len", Ipld::Integer(0)), ErrorKind::Corrupt, "out of range"),
            ("profile", params("hamt_fanout", Ipld::Integer(100)), ErrorKind::Corrupt, "power of two"),
            ("profile", params("layout", "flat".into()), ErrorKind::Corrupt, "no such layout"),
            ("profile", params("more", Ipld::Integer(1)), ErrorKind::Corrupt, "eight"),
            ("profile", Ipld::Null, ErrorKind::Corrupt, "a map"),
        ];
        for (key, value, kind, reason) in cases {
            let mut map = map.clone();
            map.insert(key.to_owned(), value);
            let error = Commit::decode(&cbor::encode(&Ipld::Map(map)).expect("a block")).expect_err(key);
            assert_eq!(error.kind(), kind, "{key}");
            assert!(format!("{error:#}").contains(reason), "{key}: {error:#}");
        }
        let prev = vec![sample().root; PREV_COUNT_MAX + 1];
        let error = Commit { prev, ..sample() }.encode().expect_err("too many");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }

    /// A commit at all limits is a block that stores take.
    #[tokio::test]
    async fn limits_are_inclusive() {
        let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let name = |number: usize| format!("{number:0>SNAPSHOT_NAME_LEN_MAX$}");
        let commit = Commit {
            prev: vec![sample().root; PREV_COUNT_MAX],
            snapshots: (0..SNAPSHOT_COUNT_MAX).map(|number| (name(number), sample().root)).collect(),
            note: "n".repeat(NOTE_LEN_MAX),
            ..sample()
        };
        let cid = commit.put(&dag).await.expect("put");
        assert_eq!(Commit::get(&dag, &cid).await.expect("loads"), commit);
    }

    /// Whoever walks a commit meets its state, and not the commits before it, whose blocks may be gone.
    #[tokio::test]
    async fn a_walk_meets_one_state() {
        let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let root = dag.put_block(Codec::DagPb, Bytes::from_static(b"\x0a\x02\x08\x01")).await.expect("put");
        let attrs = dag.put_linked(&Ipld::Null).await.expect("put");
        let cid = Commit { root, attrs: Some(attrs), ..sample() }.put(&dag).await.expect("put");
        let mut met: Vec<_> = dag.walk(&cid).map(|visit| (visit.cid, visit.error.is_some())).collect().await;
        met.sort();
        let mut expected = vec![(cid, false), (root, false), (attrs, false)];
        expected.sort();
        assert_eq!(met, expected);
    }
}
