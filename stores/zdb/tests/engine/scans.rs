//! Scans while others write: every key that is there throughout is given.

use std::{collections::BTreeSet, sync::Arc};

use muxfs::testing::fault::Dice;
use muxfs_zdb::{Direction, Mode, Namespace, Page, ScanLimit, Setting};

use crate::{
    home::{TestHome, open, options},
    model::{listed, namespace},
};

/// Scans in pages of a few, writing between them whatever the dice say, and returns what was given.
async fn scan_and_write(space: &Namespace, direction: Direction, dice: &mut Dice) -> Vec<Vec<u8>> {
    let mut seen = Vec::new();
    let mut cursor: Option<[u8; 17]> = None;
    for n in 0..100_000 {
        let limit = ScanLimit { count: 1 + dice.roll(3), ..ScanLimit::default() };
        match space.scan(direction, cursor.as_ref().map(|cursor| &cursor[..]), limit).await.expect("scan") {
            Page::Keys { next, keys } => {
                seen.extend(keys.into_iter().map(|key| key.key.to_vec()));
                cursor = Some(next);
            }
            Page::End => return seen,
            Page::BadCursor => panic!("a cursor that was given is good"),
        }
        // In the end writing ceases, or a scan forward would go on.
        if n > 60 {
            continue;
        }
        for _ in 0..3 {
            let stays = format!("stays {}", dice.roll(30)).into_bytes();
            let other = format!("other {}", dice.roll(30)).into_bytes();
            match dice.roll(4) {
                0 => drop(space.set(&stays, dice.bytes(60).into(), None).await.expect("set")),
                1 => drop(space.set(&other, dice.bytes(300).into(), None).await.expect("set")),
                2 => drop(space.delete(&other, None).await.expect("delete")),
                _ => {}
            }
        }
        if dice.roll(8) == 0 {
            space.compact().await.expect("compact");
        }
    }
    panic!("the scan does not end");
}

#[tokio::test]
async fn a_key_that_stays_is_given_whatever_is_written() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let engine = open(Arc::new(TestHome::default())).await;
        let space = namespace(&engine, "scan", Mode::User, seed % 2 == 0).await;
        for n in 0..30 {
            space.set(format!("stays {n}").as_bytes(), dice.bytes(200).into(), None).await.expect("set");
        }
        for direction in [Direction::Forward, Direction::Backward] {
            let seen: BTreeSet<_> = scan_and_write(&space, direction, &mut dice).await.into_iter().collect();
            for n in 0..30 {
                let key = format!("stays {n}").into_bytes();
                assert!(seen.contains(&key), "seed {seed}: {direction:?} does not give {n}");
            }
        }
    }
}

/// RSCAN of a key that was written again after the scan had begun: 0-db, whose record of it stands behind the cursor then,
/// does not give it.
#[tokio::test]
async fn a_scan_backward_gives_what_moved_behind_it() {
    let engine = open(Arc::new(TestHome::default())).await;
    let space = engine.default_namespace();
    for key in [b"a", b"b", b"c"] {
        space.set(key, "1".into(), None).await.expect("set");
    }
    let limit = ScanLimit { count: 1, ..ScanLimit::default() };
    let Page::Keys { next, keys } = space.scan(Direction::Backward, None, limit).await.expect("scan") else {
        panic!("there are keys")
    };
    assert_eq!(keys[0].key, "c");
    space.set(b"a", "2".into(), None).await.expect("set");
    let mut seen = Vec::new();
    let mut cursor = next;
    while let Page::Keys { next, keys } = space.scan(Direction::Backward, Some(&cursor), limit).await.expect("scan") {
        seen.push(keys[0].key.clone());
        cursor = next;
    }
    assert_eq!(seen, ["b", "a"]);
}

/// The cursor of a key is its place in a scan of either direction.
#[tokio::test]
async fn a_scan_begins_at_a_key() {
    for mode in [Mode::User, Mode::Sequential] {
        let engine = open(Arc::new(TestHome::default())).await;
        let space = namespace(&engine, "cursor", mode, true).await;
        let mut keys = Vec::new();
        for n in 0..20_u8 {
            let key: &[u8] = if mode == Mode::User { &[n + 1] } else { b"" };
            let set = space.set(key, vec![n; 500].into(), None).await.expect("set");
            let muxfs_zdb::Set::Stored { key } = set else { panic!("it is new") };
            keys.push(key);
        }
        let limit = ScanLimit { count: 100, time: std::time::Duration::MAX };
        for (at, key) in keys.iter().enumerate() {
            let cursor = space.key(key).await.expect("key").expect("it is there").cursor;
            for (direction, expected) in [
                (Direction::Forward, keys[at + 1..].to_vec()),
                (Direction::Backward, keys[..at].iter().rev().cloned().collect()),
            ] {
                let given = match space.scan(direction, Some(&cursor), limit).await.expect("scan") {
                    Page::Keys { keys, .. } => keys.into_iter().map(|key| key.key).collect(),
                    Page::End => Vec::new(),
                    Page::BadCursor => panic!("it is good"),
                };
                assert_eq!(given, expected, "{mode:?} {direction:?} from {at}");
            }
        }
    }
}

/// Cursors that nobody gave are refused, or a place in the scan like any other.
#[tokio::test]
async fn a_hostile_cursor_is_refused() {
    for mode in [Mode::User, Mode::Sequential] {
        let engine = open(Arc::new(TestHome::default())).await;
        let space = namespace(&engine, "cursor", mode, true).await;
        for n in 0..20_u8 {
            let key: &[u8] = if mode == Mode::User { &[n + 1] } else { b"" };
            space.set(key, vec![n; 500].into(), None).await.expect("set");
        }
        let mut dice = Dice::new(9);
        let limit = ScanLimit::default();
        let Page::Keys { next, .. } = space.scan(Direction::Forward, None, limit).await.expect("scan") else {
            panic!("there are keys")
        };
        for n in 0..2000 {
            let mut cursor = next.to_vec();
            match n % 4 {
                0 => cursor = dice.bytes(17),
                1 => cursor.truncate(dice.roll(17)),
                2 => cursor[dice.roll(17)] ^= 1 << dice.roll(8),
                _ => cursor = [&[u8::try_from(dice.roll(5)).expect("small")], &dice.bytes(16)[..]].concat(),
            }
            for direction in [Direction::Forward, Direction::Backward] {
                drop(space.scan(direction, Some(&cursor), limit).await.expect("no error of the media"));
            }
        }
        assert_eq!(space.scan(Direction::Forward, Some(b"short"), limit).await.expect("scan"), Page::BadCursor);
        assert_eq!(space.scan(Direction::Forward, Some(&[9; 17]), limit).await.expect("scan"), Page::BadCursor);
    }
}

/// A page ends when its time is over, but has a key at least.
#[tokio::test]
async fn a_page_has_a_key_at_least() {
    let engine = open(Arc::new(TestHome::default())).await;
    let space = engine.default_namespace();
    for n in 0..50_u8 {
        space.set(&[n + 1], vec![n; 10].into(), None).await.expect("set");
    }
    let limit = ScanLimit { count: 100, time: std::time::Duration::ZERO };
    let Page::Keys { keys, .. } = space.scan(Direction::Forward, None, limit).await.expect("scan") else {
        panic!("there are keys")
    };
    assert_eq!(keys.len(), 1);
    assert_eq!(listed(&space, Direction::Forward, 1).await.len(), 50);
    let empty = namespace(&engine, "empty", Mode::User, true).await;
    for direction in [Direction::Forward, Direction::Backward] {
        assert_eq!(empty.scan(direction, None, limit).await.expect("scan"), Page::End);
    }
    assert_eq!(options().file_len_max, 4096);
    engine.update(&empty, Setting::Worm(true)).await.expect("worm");
}
