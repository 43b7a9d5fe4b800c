//! Namespaces: made, set, emptied and removed, durably.

use std::sync::Arc;

use muxfs::ErrorKind;
use muxfs_zdb::{
    Create, Delete, Engine, EngineOptions, Mode, ModeRule, Refused, Remove, Set, Setting, Settings, Update,
};

use crate::home::{TestHome, open, options};

fn stored(key: &'static [u8]) -> Set {
    Set::Stored { key: key.into() }
}

#[tokio::test]
async fn they_are_listed_in_the_order_in_which_they_were_made() {
    let home = Arc::new(TestHome::default());
    let engine = open(home.clone()).await;
    for name in ["zebra", "ape", "Möwe"] {
        assert!(matches!(engine.create(name.as_bytes()).await.expect("create"), Create::Created(_)));
        assert!(matches!(engine.create(name.as_bytes()).await.expect("create"), Create::Taken));
    }
    assert_eq!(engine.remove(b"ape").await.expect("remove"), Remove::Removed);
    assert_eq!(engine.remove(b"ape").await.expect("remove"), Remove::Absent);
    assert_eq!(engine.remove(b"default").await.expect("remove"), Remove::IsDefault);
    engine.create(b"ape").await.expect("create");
    for _ in 0..2 {
        let engine = open(TestHome::load(&home.image().await).await).await;
        let names: Vec<_> = engine.namespaces().iter().map(|space| space.name().to_owned()).collect();
        assert_eq!(names, ["default", "zebra", "Möwe", "ape"]);
    }
}

#[tokio::test]
async fn a_name_is_no_path() {
    let engine = open(Arc::new(TestHome::default())).await;
    let long = [b'n'; 129];
    for name in [&b""[..], b"../x", b".", b"..", b".hidden", b"a/b", b"a\0b", b"a\nb", b"\xff", &long] {
        assert!(matches!(engine.create(name).await.expect("create"), Create::BadName), "{name:?}");
    }
    assert!(matches!(engine.create(&long[..128]).await.expect("create"), Create::Created(_)));
}

#[tokio::test]
async fn what_is_set_is_there_when_it_is_opened_again() {
    let home = Arc::new(TestHome::default());
    let engine = open(home.clone()).await;
    engine.create(b"set").await.expect("create");
    let space = engine.namespace(b"set").expect("it was made");
    for setting in [
        Setting::Password(Some("secret".into())),
        Setting::Public(false),
        Setting::MaxSize(77),
        Setting::Worm(true),
        Setting::Mode(Mode::Sequential),
        Setting::Lock(true),
        Setting::Freeze(true),
        Setting::History(false),
    ] {
        assert_eq!(engine.update(&space, setting).await.expect("update"), Update::Done);
    }
    let expected = Settings {
        password: Some("secret".into()),
        public: false,
        maxsize: 77,
        worm: true,
        mode: Mode::Sequential,
        locked: true,
        frozen: true,
        history: false,
    };
    assert_eq!(*space.settings(), expected);
    let engine = open(TestHome::load(&home.image().await).await).await;
    assert_eq!(*engine.namespace(b"set").expect("it is there").settings(), expected);
    assert!(!format!("{engine:?} {:?} {:?}", engine.namespaces(), expected).contains("secret"));
}

#[tokio::test]
async fn the_mode_of_a_namespace_in_use_stays() {
    let engine = open(Arc::new(TestHome::default())).await;
    let space = engine.default_namespace();
    for mode in [Mode::Sequential, Mode::User, Mode::Sequential] {
        assert_eq!(engine.update(&space, Setting::Mode(mode)).await.expect("mode"), Update::Done);
    }
    space.set(b"", "x".into(), None).await.expect("set");
    assert_eq!(engine.update(&space, Setting::Mode(Mode::User)).await.expect("mode"), Update::InUse);
    space.delete(&[0; 8], None).await.expect("delete");
    assert_eq!(engine.update(&space, Setting::Mode(Mode::User)).await.expect("mode"), Update::InUse);
    engine.flush(&space).await.expect("flush");
    assert_eq!(engine.update(&space, Setting::Mode(Mode::User)).await.expect("mode"), Update::Done);

    let options = EngineOptions { mode: ModeRule::Only(Mode::Sequential), ..options() };
    let engine = Engine::open(Arc::new(TestHome::default()), options).await.expect("open");
    let space = engine.default_namespace();
    assert_eq!(space.settings().mode, Mode::Sequential);
    assert_eq!(engine.update(&space, Setting::Mode(Mode::User)).await.expect("mode"), Update::FixedMode);
}

#[tokio::test]
async fn emptying_leaves_what_is_set() {
    let home = Arc::new(TestHome::default());
    let engine = open(home.clone()).await;
    let space = engine.default_namespace();
    engine.update(&space, Setting::MaxSize(1000)).await.expect("maxsize");
    for n in 0..100_u8 {
        space.set(&[n + 1], "x".into(), None).await.expect("set");
    }
    engine.flush(&space).await.expect("flush");
    assert!(space.is_empty());
    assert_eq!(space.set(b"new", "x".into(), None).await.expect("set"), stored(b"new"));
    space.durable().await.expect("durable");
    let image = home.image().await;
    // The list of namespaces, and data and index of one: what was emptied is gone from the disk.
    assert_eq!(image.len(), 3);
    let engine = open(TestHome::load(&image).await).await;
    assert_eq!((engine.default_namespace().len(), engine.default_namespace().settings().maxsize), (1, 1000));
}

#[tokio::test]
async fn whoever_holds_a_removed_namespace_is_told() {
    let engine = open(Arc::new(TestHome::default())).await;
    engine.create(b"gone").await.expect("create");
    let space = engine.namespace(b"gone").expect("it was made");
    space.set(b"key", "x".into(), None).await.expect("set");
    assert!(!space.is_removed());
    engine.remove(b"gone").await.expect("remove");
    assert!(space.is_removed() && engine.namespace(b"gone").is_none());
    assert_eq!(space.get(b"key").await.expect_err("gone").kind(), ErrorKind::Stale);
    assert_eq!(space.set(b"key", "x".into(), None).await.expect_err("gone").kind(), ErrorKind::Stale);
    assert_eq!(space.durable().await.expect_err("gone").kind(), ErrorKind::Stale);
    assert_eq!(engine.flush(&space).await.expect_err("gone").kind(), ErrorKind::Stale);
    assert_eq!(engine.update(&space, Setting::Worm(true)).await.expect_err("gone").kind(), ErrorKind::Stale);
    // One of the same name is another one.
    engine.create(b"gone").await.expect("create");
    assert_eq!(space.get(b"key").await.expect_err("gone").kind(), ErrorKind::Stale);
    assert!(engine.namespace(b"gone").expect("it was made").is_empty());
}

/// What a set is refused for, in the order in which 0-db looks.
#[tokio::test]
async fn refusals() {
    let engine = open(Arc::new(TestHome::default())).await;
    let space = engine.default_namespace();
    space.set(b"there", "12345".into(), None).await.expect("set");
    let long = vec![b'k'; 256];
    let refused = |set: muxfs::Result<Set>| match set {
        Ok(Set::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(space.set(&long, "x".into(), None).await), Refused::KeyTooLong);
    let huge = vec![0; (8 << 20) + 1];
    assert_eq!(refused(space.set(b"key", huge.into(), None).await), Refused::ValueTooLong);
    assert_eq!(refused(space.set(b"", "x".into(), None).await), Refused::KeyNeeded);
    engine.update(&space, Setting::MaxSize(7)).await.expect("maxsize");
    assert_eq!(space.set(b"a", "12".into(), None).await.expect("set"), stored(b"a"));
    assert_eq!(refused(space.set(b"b", "1".into(), None).await), Refused::Quota);
    // What takes the place of something needs only what it is longer by.
    assert_eq!(space.set(b"there", "abcde".into(), None).await.expect("set"), stored(b"there"));
    assert_eq!(refused(space.set(b"there", "abcdef".into(), None).await), Refused::Quota);
    engine.update(&space, Setting::MaxSize(3)).await.expect("maxsize");
    assert_eq!(refused(space.set(b"there", "abcd".into(), None).await), Refused::Quota);
    assert_eq!(space.delete(b"there", None).await.expect("delete"), Delete::Deleted);
    assert_eq!(space.set(b"b", "1".into(), None).await.expect("set"), stored(b"b"));
    engine.update(&space, Setting::Worm(true)).await.expect("worm");
    assert_eq!(refused(space.set(b"b", "1".into(), None).await), Refused::Worm);
    assert_eq!(space.delete(b"b", None).await.expect("delete"), Delete::Refused(Refused::Worm));
    assert_eq!(space.delete(b"absent", None).await.expect("delete"), Delete::Absent);
    engine.update(&space, Setting::Lock(true)).await.expect("lock");
    assert_eq!(refused(space.set(b"b", "1".into(), None).await), Refused::Locked);
    assert_eq!(space.delete(b"absent", None).await.expect("delete"), Delete::Refused(Refused::Locked));
    engine.update(&space, Setting::Freeze(true)).await.expect("freeze");
    assert_eq!(refused(space.set(b"b", "1".into(), None).await), Refused::Frozen);
    assert_eq!(space.get(b"b").await.expect("get").map(|entry| entry.value), Some("1".into()));

    engine.create(b"seq").await.expect("create");
    let seq = engine.namespace(b"seq").expect("it was made");
    engine.update(&seq, Setting::Mode(Mode::Sequential)).await.expect("mode");
    for key in [&b"abc"[..], &[0; 8], &[255; 8], &[0; 9]] {
        assert_eq!(refused(seq.set(key, "x".into(), None).await), Refused::UnknownId);
    }
}

/// As 0-db gives numbers: five are added, one is set, one deleted; the next is the seventh.
#[tokio::test]
async fn a_set_takes_a_number_and_a_deletion_none() {
    let engine = open(Arc::new(TestHome::default())).await;
    let space = engine.default_namespace();
    engine.update(&space, Setting::Mode(Mode::Sequential)).await.expect("mode");
    let id = |n: u64| n.to_le_bytes();
    for n in 0..5 {
        let set = space.set(b"", format!("value-{n}").into(), None).await.expect("set");
        assert_eq!(set, Set::Stored { key: id(n).to_vec().into() });
    }
    assert_eq!(
        space.set(&id(1), "updated".into(), None).await.expect("set"),
        Set::Stored { key: id(1).to_vec().into() }
    );
    assert_eq!(space.set(&id(1), "updated".into(), None).await.expect("set"), Set::Same);
    assert_eq!(space.delete(&id(2), None).await.expect("delete"), Delete::Deleted);
    assert_eq!(space.set(b"", "next".into(), None).await.expect("set"), Set::Stored { key: id(6).to_vec().into() });
    assert_eq!(space.get(&id(5)).await.expect("get"), None);
    assert_eq!(space.figures().next_id, 7);
}

/// A place that a client made up is no version, or an error; never a value of another key.
#[tokio::test]
async fn a_hostile_place_is_no_version() {
    let engine = open(Arc::new(TestHome::default())).await;
    let space = engine.default_namespace();
    for n in 0..30_u8 {
        space.set(&[n % 3 + 1], vec![n; 300].into(), Some(n.into())).await.expect("set");
    }
    let known = space.history(&[1], None).await.expect("history").expect("it is there").previous.expect("there is one");
    assert_eq!(space.history(&[2], Some(known)).await.expect("history"), None);
    assert_eq!(space.history(&[9], None).await.expect("history"), None);
    for file in 0..5_u32 {
        for offset in 0..4200_u32 {
            let at = [file.to_le_bytes(), offset.to_le_bytes()].concat().try_into().expect("8 bytes");
            match space.history(&[1], Some(at)).await {
                Ok(Some(version)) => assert_eq!(version.value[0] % 3, 0),
                Ok(None) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidArgument),
            }
            if let Ok(Some(raw)) = space.raw(file, offset).await {
                assert!(raw.key.is_empty() || raw.key.len() == 1);
            }
        }
    }
    assert_eq!(space.figures().data_faults, 0);
}
