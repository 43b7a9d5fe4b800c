//! The indexes of packs, kept on this machine: what is here need not be read from the bucket when a store is opened.
//!
//! One small file for each pack, its name the number. Each holds its checksum, and is lost without loss; all are of one line of packs,
//! which whoever opens compares with that in the bucket.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use crate::pack::{PackId, PackIndex, number_of};

/// A directory of indexes.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    dir: PathBuf,
}

impl Kept {
    /// Those of one store in a directory, which is made where it is absent; `None` if nothing can be kept there.
    pub(crate) async fn open(dir: &Path, store: &str) -> Option<Self> {
        let dir = dir.join(store);
        let made = run({
            let dir = dir.clone();
            move || fs::create_dir_all(dir)
        });
        match made.await? {
            Ok(()) => Some(Self { dir }),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "the indexes of packs are not kept here");
                None
            }
        }
    }

    fn file(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:016x}"))
    }

    /// The index of a pack, if it is here and whole.
    pub(crate) async fn get(&self, number: u64) -> Option<PackIndex> {
        let file = self.file(number);
        let bytes = run(move || fs::read(file)).await?.ok()?;
        PackIndex::decode(&Bytes::from(bytes)).ok().filter(|index| index.id.number == number)
    }

    /// Which pack is the newest of these, ascending, whose index is here and whole.
    pub(crate) async fn newest_of(&self, numbers: Vec<u64>) -> Option<PackId> {
        let dir = self.dir.clone();
        let mut here = run(move || {
            let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
            let here = entries.filter_map(|entry| entry.file_name().to_str().and_then(number_of));
            here.filter(|number| numbers.binary_search(number).is_ok()).collect::<Vec<_>>()
        })
        .await?;
        here.sort_unstable();
        for number in here.into_iter().rev() {
            if let Some(pack) = self.get(number).await {
                return Some(pack.id);
            }
        }
        None
    }

    /// Keeps the indexes of packs that count.
    pub(crate) async fn put(&self, packs: Vec<Arc<PackIndex>>) {
        let files: Vec<_> = packs.iter().map(|pack| (self.file(pack.id.number), pack.encode())).collect();
        run(move || {
            for (file, bytes) in files {
                // Half of one is found out when it is read.
                if let Err(error) = fs::write(&file, bytes) {
                    tracing::debug!(file = %file.display(), %error, "an index is not kept");
                }
            }
        })
        .await;
    }

    /// Lets those go that are not needed any more.
    pub(crate) async fn retain(&self, is_live: impl Fn(u64) -> bool + Send + 'static) {
        let dir = self.dir.clone();
        run(move || {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let number = entry.file_name().to_str().and_then(number_of);
                if number.is_some_and(|number| !is_live(number)) {
                    fs::remove_file(entry.path()).ok();
                }
            }
        })
        .await;
    }
}

/// On a thread that may wait for a disk.
async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
