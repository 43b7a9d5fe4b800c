//! A repository by its paths, its streams, its transactions and its versions; and that it is what it was when opened again.

use std::{io::SeekFrom, sync::Arc};

use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::{OpenFile, Repo};
use crate::{
    ErrorKind, Name, Result,
    block::Mem,
    dag::GcOptions,
    heads::MemHeads,
    media::MemMedia,
    testing::{
        self,
        fault::{BlockCall, Dice, Fault, Faulty},
    },
    tree::{Quota, Retention, TreeOptions},
    vfs::SetAttr,
};

#[derive(Debug, Default)]
struct Ground {
    blocks: Arc<Mem>,
    journal: Arc<MemMedia>,
    heads: Arc<MemHeads>,
}

impl Ground {
    fn options() -> TreeOptions {
        let name = Name::new(b"repo").expect("a name");
        TreeOptions { auto_commit: None, ..TreeOptions::new(name, testing::env()) }
    }

    async fn create(&self) -> Result<Repo> {
        Repo::create(self.blocks.clone(), self.journal.clone(), self.heads.clone(), Self::options()).await
    }

    async fn open(&self) -> Result<Repo> {
        Repo::open(self.blocks.clone(), self.journal.clone(), self.heads.clone(), Self::options()).await
    }
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

async fn names(repo: &Repo, path: &str) -> Vec<String> {
    let mut names: Vec<_> =
        repo.read_dir(path).await.expect("listed").into_iter().map(|entry| entry.name.to_string()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn it_is_made_once_and_opened_as_it_was() {
    let ground = Ground::default();
    assert_eq!(kind(ground.open().await), Some(ErrorKind::NotFound));
    let repo = ground.create().await.expect("made");
    assert_eq!(kind(ground.create().await), Some(ErrorKind::Exists));
    repo.create_dir_all("a/b/c").await.expect("made");
    repo.create_dir_all("/a/b").await.expect("it is there");
    repo.write("a/b/c/file", "hello").await.expect("written");
    repo.write("/a/b/c/file", "hi").await.expect("written");
    repo.sync().await.expect("synced");
    drop(repo);
    let repo = ground.open().await.expect("opened");
    assert_eq!(repo.read("/a/b/c/file").await.expect("read"), "hi");
    let found = repo.metadata("a/b/c/file").await.expect("there");
    assert_eq!((found.size, found.nlink), (2, 1));
    repo.close().await.expect("closed");
    assert_eq!(kind(repo.write("x", "y").await), Some(ErrorKind::Unavailable));
    assert_eq!(ground.open().await.expect("opened").read("a/b/c/file").await.expect("read"), "hi");
}

#[tokio::test]
async fn paths_lead_where_they_say() {
    let repo = Ground::default().create().await.expect("made");
    repo.create_dir("d").await.expect("made");
    repo.write("d/file", "1").await.expect("written");
    assert_eq!(kind(repo.create_dir("d").await), Some(ErrorKind::Exists));
    assert_eq!(kind(repo.create_dir("no/d").await), Some(ErrorKind::NotFound));
    assert_eq!(kind(repo.create_dir_all("d/file/x").await), Some(ErrorKind::NotDir));
    assert_eq!(kind(repo.create_dir_all("d/file").await), Some(ErrorKind::NotDir));
    assert_eq!(kind(repo.read("d").await), Some(ErrorKind::IsDir));
    assert_eq!(kind(repo.read("/").await), Some(ErrorKind::IsDir));
    assert_eq!(kind(repo.write("", "x").await), Some(ErrorKind::IsDir));
    assert_eq!(kind(repo.write("d", "x").await), Some(ErrorKind::IsDir));
    assert_eq!(kind(repo.read("d/file/x").await), Some(ErrorKind::NotDir));
    for bad in ["a//b", "a/", "../a", "./a", "a\0b", "//"] {
        assert_eq!(kind(repo.read(bad).await), Some(ErrorKind::InvalidArgument), "{bad:?}");
    }
    assert_eq!(kind(repo.rename("/", "x").await), Some(ErrorKind::InvalidArgument));
    assert!(repo.exists("d/file").await.expect("asked") && repo.exists("/").await.expect("asked"));
    assert!(!repo.exists("d/none").await.expect("asked") && !repo.exists("d/file/none").await.expect("asked"));
    repo.write(b"d/\xff", "not UTF-8").await.expect("names are bytes");
    assert_eq!(repo.read(b"d/\xff").await.expect("read"), "not UTF-8");

    repo.copy("d/file", "copy").await.expect("copied");
    repo.copy("copy", "copy").await.expect("onto itself it does nothing");
    repo.write("d/file", "2").await.expect("written");
    assert_eq!(repo.read("copy").await.expect("read"), "1");
    repo.rename("copy", "d/file").await.expect("replaced");
    assert_eq!(repo.read("d/file").await.expect("read"), "1");
    assert_eq!(kind(repo.rename("d", "d/file/x").await), Some(ErrorKind::NotDir));
    assert_eq!(kind(repo.remove_file("d").await), Some(ErrorKind::IsDir));
    assert_eq!(kind(repo.remove_dir("d").await), Some(ErrorKind::NotEmpty));
    for number in 0..300 {
        repo.create_dir_all(format!("d/{}/{number}", number % 7)).await.expect("made");
        repo.write(format!("d/{}/{number}/file", number % 7), "x").await.expect("written");
    }
    repo.remove_dir_all("d").await.expect("removed");
    assert!(names(&repo, "/").await.is_empty());
    assert_eq!(kind(repo.remove_dir_all("d").await), Some(ErrorKind::NotFound));
    let free = repo.space().await.expect("asked").inodes_free;
    repo.write("last", "").await.expect("written");
    repo.remove_file("last").await.expect("removed");
    assert_eq!(repo.space().await.expect("asked").inodes_free, free, "no lease is left behind");
}

/// A stream and a vector of bytes take the same random calls, and say the same.
#[tokio::test]
async fn a_stream_is_what_a_vector_with_a_place_is() {
    let repo = Ground::default().create().await.expect("made");
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let mut file: OpenFile = repo.create_file("file").await.expect("made");
        let (mut model, mut pos) = (Vec::<u8>::new(), 0_usize);
        for _ in 0..200 {
            match dice.roll(8) {
                0..3 => {
                    let len = [1, 100, 70_000, 1_200_000][dice.roll(if seed < 4 { 4 } else { 3 })];
                    let data = dice.bytes(len);
                    file.write_all(&data).await.expect("written");
                    model.resize(model.len().max(pos + len), 0);
                    model[pos..pos + len].copy_from_slice(&data);
                    pos += len;
                }
                3..5 => {
                    let mut found = vec![0; [1, 1000, 300_000][dice.roll(3)]];
                    let wanted = &model[pos.min(model.len())..model.len().min(pos + found.len())];
                    let mut len = 0;
                    while len < found.len() {
                        match file.read(&mut found[len..]).await.expect("read") {
                            0 => break,
                            more => len += more,
                        }
                    }
                    assert!(found[..len] == *wanted, "seed {seed}, at {pos}");
                    pos += len;
                }
                5 => {
                    let to = dice.roll(model.len() + 1000);
                    let by = i64::try_from(to).expect("small") - i64::try_from(pos).expect("small");
                    let from_end = i64::try_from(to).expect("small") - i64::try_from(model.len()).expect("small");
                    let seek = [SeekFrom::Start(to as u64), SeekFrom::Current(by), SeekFrom::End(from_end)];
                    assert_eq!(file.seek(seek[dice.roll(3)]).await.expect("moved"), to as u64, "seed {seed}");
                    pos = to;
                }
                6 => {
                    let len = dice.roll(model.len() + 100);
                    file.set_len(len as u64).await.expect("cut");
                    model.resize(len, 0);
                }
                _ => {
                    let (at, data) = (dice.roll(model.len() + 10), dice.bytes(10));
                    file.write_at(at as u64, data.clone()).await.expect("written");
                    model.resize(model.len().max(at + 10), 0);
                    model[at..at + 10].copy_from_slice(&data);
                }
            }
        }
        assert!(file.seek(SeekFrom::End(-1 - i64::try_from(model.len()).expect("small"))).await.is_err());
        file.shutdown().await.expect("flushed");
        assert_eq!(file.len().await.expect("asked"), model.len() as u64);
        assert!(repo.read("file").await.expect("read") == model, "seed {seed}");
    }
}

/// A repository that takes so many bytes.
async fn narrow(bytes_max: u64) -> Repo {
    let quota = Quota { bytes_max: Some(bytes_max), inodes_max: None };
    let ground = Ground::default();
    let options = TreeOptions { quota, ..Ground::options() };
    Repo::create(ground.blocks, ground.journal, ground.heads, options).await.expect("made")
}

#[tokio::test]
async fn what_a_stream_could_not_write_it_writes_later() {
    let repo = narrow(4 * 4096).await;
    repo.write("in the way", vec![1; 3 * 4096]).await.expect("written");
    let mut file = repo.create_file("file").await.expect("made");
    let data = vec![2; 2 * 4096];
    file.write_all(&data).await.expect("gathered");
    for _ in 0..2 {
        assert!(file.flush().await.is_err(), "there is no room");
    }
    assert!(file.seek(SeekFrom::Current(5)).await.is_err() && file.sync().await.is_err());
    repo.remove_file("in the way").await.expect("removed");
    file.flush().await.expect("there is room");
    assert!(repo.read("file").await.expect("read") == data);
    assert_eq!(file.stream_position().await.expect("asked"), data.len() as u64);
}

#[tokio::test]
async fn calls_of_a_stream_are_made_in_their_order() {
    let ground = Ground::default();
    let repo = ground.create().await.expect("made");
    let mut file = repo.create_file("file").await.expect("made");
    file.write_all(b"abc").await.expect("gathered");
    file.set_len(0).await.expect("cut");
    file.flush().await.expect("flushed");
    assert_eq!(repo.read("file").await.expect("read"), "");
    file.rewind().await.expect("moved");
    file.write_all(b"abc").await.expect("gathered");
    file.write_at(1, "x").await.expect("written");
    file.flush().await.expect("flushed");
    assert_eq!(repo.read("file").await.expect("read"), "axc");
    file.write_all(b"d").await.expect("gathered");
    file.sync().await.expect("synced");
    assert_eq!(ground.open().await.expect("opened").read("file").await.expect("read"), "axcd");
}

#[tokio::test]
async fn a_copy_runs_as_nobody_else() {
    let repo = Ground::default().create().await.expect("made");
    for path in ["program", "there"] {
        repo.write(path, "run").await.expect("written");
        let ino = repo.metadata(path).await.expect("there").ino;
        let set = SetAttr { mode: Some(0o6755), uid: Some(1000), ..SetAttr::default() };
        repo.vfs.setattr(ino, set).await.expect("set");
    }
    for path in ["new", "there"] {
        repo.copy("program", path).await.expect("copied");
        assert_eq!(repo.metadata(path).await.expect("there").mode & 0o7777, 0o755);
    }
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_the_one_or_the_other() {
    let (blocks, ground) = (Arc::new(Faulty::new(Mem::default())), Ground::default());
    let repo = Repo::create(blocks.clone(), ground.journal, ground.heads, Ground::options()).await.expect("made");
    let (old, new) = (vec![1; 3 << 20], vec![2; (5 << 20) / 2]);
    repo.write("file", old).await.expect("written");
    blocks.fault_all(Fault::Delay);
    let before = blocks.calls(BlockCall::Read);
    let change = async {
        let begun = std::time::Instant::now();
        while blocks.calls(BlockCall::Read) == before {
            assert!(begun.elapsed() < std::time::Duration::from_mins(1), "it is being read");
            tokio::task::yield_now().await;
        }
        repo.write("file", new.clone()).await.expect("written");
        blocks.heal();
        blocks.release(1000);
    };
    let (found, ()) = tokio::join!(repo.read("file"), change);
    assert!(found.expect("read") == new);
}

#[tokio::test]
async fn a_part_of_a_change_is_never_committed() {
    let repo = narrow((3 << 20) + (64 << 10)).await;
    repo.write("old", "old").await.expect("written");
    let passed_over = repo.transaction(|repo| async move {
        assert!(repo.write("old", vec![1; 5 << 20]).await.is_err());
        repo.write("other", "other").await
    });
    assert_eq!(kind(passed_over.await), Some(ErrorKind::InvalidArgument));
    assert_eq!(names(&repo, "").await, ["old"]);
    assert_eq!(repo.read("old").await.expect("read"), "old");
    // What failed before it did anything is no part.
    let passed_over = repo.transaction(|repo| async move {
        assert_eq!(kind(repo.write("none/file", "x").await), Some(ErrorKind::NotFound));
        assert_eq!(kind(repo.copy("none", "other").await), Some(ErrorKind::NotFound));
        repo.write("other", "other").await
    });
    passed_over.await.expect("committed");
    assert_eq!(names(&repo, "").await, ["old", "other"]);
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing() {
    let ground = Ground::default();
    let repo = ground.create().await.expect("made");
    repo.write("old", "old").await.expect("written");
    let failed = repo.transaction(|repo| async move {
        repo.create_dir_all("a/b").await?;
        repo.rename("old", "a/b/old").await?;
        repo.copy("a/b/old", "copy").await?;
        let mut file = repo.create_file("stream").await?;
        file.write_all(b"streamed").await.expect("written");
        file.flush().await.expect("flushed");
        assert_eq!(repo.read("stream").await?, "streamed");
        assert_eq!(repo.read("copy").await?, "old");
        repo.read("absent").await
    });
    assert_eq!(kind(failed.await), Some(ErrorKind::NotFound));
    assert_eq!(names(&repo, "").await, ["old"]);
    let left = repo
        .transaction(|repo| async move {
            repo.create_dir_all("a/b").await?;
            repo.rename("old", "a/b/old").await?;
            assert_eq!(kind(repo.commit("").await), Some(ErrorKind::InvalidArgument));
            assert_eq!(kind(repo.versions("old").await), Some(ErrorKind::InvalidArgument));
            assert_eq!(kind(repo.transaction(|_| async { Ok(()) }).await), Some(ErrorKind::InvalidArgument));
            repo.remove_dir_all("a").await?;
            repo.write("new", "new").await?;
            repo.open_file("new").await
        })
        .await
        .expect("committed");
    assert_eq!(names(&repo, "").await, ["new"]);
    assert_eq!(kind(left.read_at(0, 9).await), Some(ErrorKind::Stale), "it was a file of the transaction");
    drop(left);
    repo.sync().await.expect("synced");
    assert_eq!(names(&ground.open().await.expect("opened"), "").await, ["new"]);
}

#[tokio::test]
async fn versions_are_counted_opened_and_restored() {
    let repo = Ground::default().create().await.expect("made");
    repo.create_dir("d").await.expect("made");
    repo.commit("none yet").await.expect("committed");
    for text in ["one", "two", "two", "three"] {
        repo.write("d/file", text).await.expect("written");
        repo.write("d/other", text.repeat(2)).await.expect("written");
        repo.commit(text).await.expect("committed");
        repo.write("between", text).await.expect("written");
        repo.commit("nothing of the file").await.expect("committed");
    }
    let read = async |repo: &Repo, path: &str| {
        let mut texts = Vec::new();
        for version in repo.versions(path).await.expect("asked") {
            let mut text = String::new();
            repo.open_version(&version).await.expect("opened").read_to_string(&mut text).await.expect("read");
            assert_eq!(version.len, text.len() as u64);
            texts.push(text);
        }
        texts
    };
    assert_eq!(read(&repo, "d/file").await, ["three", "two", "one"]);
    // By whatever name, and wherever.
    repo.rename("d", "e").await.expect("renamed");
    repo.rename("e/file", "e/moved").await.expect("renamed");
    repo.write("e/moved", "four").await.expect("written");
    assert_eq!(read(&repo, "e/moved").await, ["three", "two", "one"], "what is not committed is no version");
    repo.commit("").await.expect("committed");
    assert_eq!(read(&repo, "e/moved").await, ["four", "three", "two", "one"]);
    // One that is saved beside its name has another number each time.
    repo.write("e/other.new", "saved").await.expect("written");
    repo.rename("e/other.new", "e/other").await.expect("renamed");
    repo.commit("").await.expect("committed");
    assert_eq!(read(&repo, "e/other").await, ["saved", "threethree", "twotwo", "oneone"]);
    // A commit that came between the two has both: what has the name is the file.
    repo.write("e/other.new", "half").await.expect("written");
    repo.commit("").await.expect("committed");
    repo.write("e/other.new", "saved again").await.expect("written");
    repo.rename("e/other.new", "e/other").await.expect("renamed");
    assert_eq!(read(&repo, "e/other").await, ["saved", "threethree", "twotwo", "oneone"]);
    repo.write("e/other", "saved").await.expect("written");
    // One that went.
    repo.remove_file("e/other").await.expect("removed");
    assert_eq!(read(&repo, "e/other").await, ["saved", "threethree", "twotwo", "oneone"]);
    let versions = repo.versions("e/other").await.expect("asked");
    repo.restore("e/other", &versions[2]).await.expect("restored");
    assert_eq!(repo.read("e/other").await.expect("read"), "twotwo");
    // One that is open stays the same file.
    let file = repo.open_file("e/moved").await.expect("opened");
    let versions = repo.versions("e/moved").await.expect("asked");
    repo.restore("e/moved", &versions[3]).await.expect("restored");
    assert_eq!(file.read_at(0, 99).await.expect("read"), "one");
    repo.commit("").await.expect("committed");
    assert_eq!(read(&repo, "e/moved").await, ["one", "four", "three", "two", "one"]);
    assert_eq!(repo.history().await.expect("asked")[0].cid, repo.tree().head().0);
    assert_eq!(kind(repo.versions("e").await), Some(ErrorKind::IsDir));
    assert!(repo.versions("e/never").await.expect("asked").is_empty());
    let mut old = repo.open_version(&versions[0]).await.expect("opened");
    assert!(old.write_all(b"x").await.is_err() && old.set_len(0).await.is_err());
}

/// Holes come back as holes, long files without being read, and what is open is not collected.
#[tokio::test]
async fn a_version_is_kept_for_as_long_as_it_is_open() {
    let ground = Ground::default();
    let nothing = std::time::Duration::ZERO;
    let retention = Retention { all: nothing, hourly: nothing, daily: nothing };
    let options = TreeOptions { retention, ..Ground::options() };
    let repo = Repo::create(ground.blocks.clone(), ground.journal.clone(), ground.heads.clone(), options).await;
    let repo = repo.expect("made");
    let mut file = repo.create_file("sparse").await.expect("made");
    let data: Vec<u8> = (0..3_000_001_u32).map(|at| (at ^ at >> 9).to_le_bytes()[0]).collect();
    file.write_at(1 << 30, data.clone()).await.expect("written");
    file.set_len((1 << 30) + 4_000_000).await.expect("made longer");
    let before = file.metadata().await.expect("asked");
    repo.commit("").await.expect("committed");
    let version = repo.versions("sparse").await.expect("asked").remove(0);
    repo.write("sparse", "short").await.expect("written");
    repo.restore("sparse", &version).await.expect("restored");
    let after = file.metadata().await.expect("asked");
    assert_eq!((after.size, after.used), (before.size, before.used), "its holes are holes");
    assert!(file.read_at(1 << 30, 4_000_000).await.expect("read")[..data.len()] == data);
    repo.commit("").await.expect("committed");
    assert_eq!(file.metadata().await.expect("asked").cid, Some(version.cid));

    let old = repo.open_version(&version).await.expect("opened");
    repo.write("sparse", "short").await.expect("written");
    repo.commit("").await.expect("committed");
    repo.write("sparse", "shorter").await.expect("written");
    repo.commit("").await.expect("committed");
    let options = GcOptions::new(&testing::env());
    repo.collect_garbage(&options).await.expect("collected");
    assert!(old.read_at(1 << 30, 3_000_001).await.expect("read") == data);
    assert_eq!(kind(repo.open_version(&version).await), Some(ErrorKind::Stale));
    assert_eq!(kind(repo.restore("sparse", &version).await), Some(ErrorKind::Stale));
    drop(old);
    let report = repo.collect_garbage(&options).await.expect("collected");
    assert!(report.bytes_removed > 2_000_000, "{report:?}");
}
