//! What 0-db 2.0.7 left: its directories, made by the program itself (data directories of `transcript.json`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use muxfs::ErrorKind;
use muxfs_zdb::{
    Engine, EngineOptions, Mode, ModeRule,
    import::{Report, Source, import},
};

use crate::home::{TestHome, open, options};

/// The directories of 0-db, in a directory of their own; absent where they cannot be had.
fn fixture(dir: &Path) -> Source {
    let archive = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/engine/zdb-dirs.tgz");
    let unpacked = Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(dir).status().expect("tar");
    assert!(unpacked.success());
    Source { data: dir.join("data"), index: dir.join("index") }
}

async fn imported(engine: &Engine, source: &Source) -> Report {
    let mut told = Vec::new();
    let report = import(engine, source, |progress| told.push(progress.clone())).await.expect("import");
    assert!(told.iter().all(|progress| progress.done_len <= progress.len));
    report
}

#[tokio::test]
async fn all_of_it_is_there() {
    let dir = tempfile::tempdir().expect("tempdir");
    let source = fixture(dir.path());
    let home = Arc::new(TestHome::default());
    let engine = open(home.clone()).await;
    let report = imported(&engine, &source).await;
    assert_eq!(report.mismatches, []);
    assert_eq!(report.taken, [] as [&str; 0]);
    let counts: Vec<_> = report.imported.iter().map(|one| (one.namespace.as_str(), one.key_count)).collect();
    assert_eq!(counts, [("default", 0), ("seq1", 14), ("user1", 5)]);

    for engine in [&engine, &open(TestHome::load(&home.image().await).await).await] {
        let user = engine.namespace(b"user1").expect("it was imported");
        let settings = user.settings();
        assert_eq!(settings.password.as_deref(), Some(&b"secret"[..]));
        assert_eq!((settings.public, settings.worm, settings.maxsize), (true, false, 10_000_000));
        assert_eq!(settings.mode, Mode::User);
        let version = user.history(b"hello", None).await.expect("history").expect("it is there");
        assert_eq!((&version.value[..], version.timestamp), (&b"world2"[..], 0x6b00_2f46));
        let before = user.history(b"hello", version.previous).await.expect("history").expect("it was there");
        assert_eq!((&before.value[..], before.previous), (&b"world"[..], None));
        for (key, value) in
            [(&b"bin\0key"[..], Some(&b"v"[..])), (b"k3", None), (b"long", Some(b"v")), (b"new", Some(b"ok"))]
        {
            let entry = user.get(key).await.expect("get");
            assert_eq!(entry.as_ref().map(|entry| &entry.value[..]), value, "{key:?}");
        }
        assert!(user.get(&[b'k'; 255]).await.expect("get").is_some());

        let seq = engine.namespace(b"seq1").expect("it was imported");
        assert_eq!(seq.settings().mode, Mode::Sequential);
        let value = async |id: u64| seq.get(&id.to_le_bytes()).await.expect("get").map(|entry| entry.value);
        assert_eq!(value(0).await.as_deref(), Some(&b"value-0"[..]));
        assert_eq!(value(1).await.as_deref(), Some(&b"updated"[..]));
        assert_eq!((value(2).await, value(5).await, value(16).await), (None, None, None));
        for id in 6..16 {
            assert_eq!(value(id).await.map(|value| value.len()), Some(100_000), "{id}");
        }
        assert_eq!(seq.figures().next_id, 16);
    }
}

#[tokio::test]
async fn what_is_there_is_left_alone() {
    let dir = tempfile::tempdir().expect("tempdir");
    let source = fixture(dir.path());
    let engine = open(Arc::new(TestHome::default())).await;
    engine.create(b"user1").await.expect("create");
    let user = engine.namespace(b"user1").expect("it was made");
    user.set(b"mine", "x".into(), None).await.expect("set");
    let report = imported(&engine, &source).await;
    assert_eq!(report.taken, ["user1"]);
    assert_eq!(report.imported.len(), 2);
    assert_eq!(user.len(), 1);
    // A second time nothing is imported twice.
    let report = imported(&engine, &source).await;
    assert_eq!(report.taken, ["seq1", "user1"]);
}

#[tokio::test]
async fn another_mode_is_told() {
    let dir = tempfile::tempdir().expect("tempdir");
    let source = fixture(dir.path());
    let options = EngineOptions { mode: ModeRule::Only(Mode::User), ..options() };
    let engine = Engine::open(Arc::new(TestHome::default()), options).await.expect("open");
    let report = imported(&engine, &source).await;
    assert_eq!(report.mismatches.iter().map(|mismatch| mismatch.namespace.as_str()).collect::<Vec<_>>(), ["seq1"]);
    assert!(engine.namespace(b"seq1").is_none());
}

#[tokio::test]
async fn a_directory_that_is_not_there_or_in_use_is_told() {
    let dir = tempfile::tempdir().expect("tempdir");
    let source = fixture(dir.path());
    let engine = open(Arc::new(TestHome::default())).await;
    let absent = Source { data: dir.path().join("absent"), ..source.clone() };
    assert_eq!(import(&engine, &absent, |_| ()).await.expect_err("absent").kind(), ErrorKind::NotFound);
    let lock = fs::File::open(source.data.join(".lockfile")).expect("0-db leaves it");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    assert_eq!(import(&engine, &source, |_| ()).await.expect_err("in use").kind(), ErrorKind::Unavailable);
}

/// Every byte of a file that can be told to be wrong: the namespace is not there, or it is right.
#[tokio::test]
async fn damage_is_listed_and_nothing_half_imported() {
    let dir = tempfile::tempdir().expect("tempdir");
    let source = fixture(dir.path());
    fs::remove_dir_all(source.data.join("seq1")).expect("remove");
    fs::remove_dir_all(source.index.join("seq1")).expect("remove");
    let mut told = 0;
    for (path, header_len) in [
        (source.data.join("user1/d0"), 28),
        (source.index.join("user1/i0"), 29),
        (source.index.join("user1/zdb-namespace"), 0),
    ] {
        let whole = fs::read(&path).expect("read");
        for at in (0..whole.len()).step_by(3) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            fs::write(&path, &damaged).expect("write");
            let home = Arc::new(TestHome::default());
            let engine = open(home.clone()).await;
            let report = imported(&engine, &source).await;
            let is_imported = report.imported.iter().any(|one| one.namespace == "user1");
            assert_eq!(is_imported, report.mismatches.is_empty(), "{} byte {at}", path.display());
            assert_eq!(engine.namespace(b"user1").is_some(), is_imported);
            if !is_imported {
                told += 1;
                // The list of namespaces and the default one.
                assert_eq!(home.image().await.len(), 3, "nothing is left over");
            }
            // A value is never another.
            if let Some(user) = engine.namespace(b"user1") {
                let value = user.get(b"hello").await.expect("get").map(|entry| entry.value);
                assert!(value.is_none() || value.as_deref() == Some(b"world2"), "{} byte {at}", path.display());
                assert!(at > header_len || header_len == 0 || at >= 8);
            }
        }
        fs::write(&path, &whole).expect("write");
    }
    assert!(told > 300, "{told} were told");
}

#[tokio::test]
async fn a_missing_file_is_told() {
    for file in ["d0", "d1"] {
        let dir = tempfile::tempdir().expect("tempdir");
        let source = fixture(dir.path());
        fs::remove_file(source.data.join("seq1").join(file)).expect("remove");
        let engine = open(Arc::new(TestHome::default())).await;
        let report = imported(&engine, &source).await;
        assert!(!report.mismatches.is_empty(), "{file}");
        assert!(engine.namespace(b"seq1").is_none() && engine.namespace(b"user1").is_some());
    }
}
