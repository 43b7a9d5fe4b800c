//! Homes whose media crash, fail and rot.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use muxfs::{
    Error, ErrorKind, Result,
    media::{Media, MemMedia, SegmentId},
    testing::fault::{Crash, CrashMedia, Dice, FaultyMedia},
};
use muxfs_zdb::{Engine, EngineOptions, Home, Part};

/// Which media; the list of namespaces is `None`.
pub(crate) type Which = Option<(u64, Part)>;

/// What all media of a home hold.
pub(crate) type Image = BTreeMap<Which, BTreeMap<SegmentId, Vec<u8>>>;

/// Files so short that every test has several.
pub(crate) fn options() -> EngineOptions {
    EngineOptions { file_len_max: 4096, compact_len_min: 1024, ..EngineOptions::new(&muxfs::testing::env()) }
}

pub(crate) async fn open(home: Arc<dyn Home>) -> Engine {
    Engine::open(home, options()).await.expect("open")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A home in a machine that stops.
#[derive(Debug)]
pub(crate) struct CrashHome {
    crash: Arc<Crash>,
    medias: Mutex<BTreeMap<Which, Arc<CrashMedia>>>,
    /// Directories that are gone, until a crash brings them back.
    removed: Mutex<BTreeMap<Which, Arc<CrashMedia>>>,
}

impl CrashHome {
    pub(crate) fn new(crash: Arc<Crash>) -> Arc<Self> {
        Arc::new(Self { crash, medias: Mutex::default(), removed: Mutex::default() })
    }

    /// The same disk after the machine started again.
    pub(crate) fn restart(&self, seed: u64, crash: &Arc<Crash>) -> Arc<Self> {
        let mut dice = Dice::new(seed);
        let mut medias = lock(&self.medias).clone();
        for (which, media) in lock(&self.removed).iter() {
            if dice.roll(2) == 0 {
                medias.entry(*which).or_insert_with(|| Arc::clone(media));
            }
        }
        let restart =
            |(which, media): (Which, Arc<CrashMedia>)| (which, Arc::new(media.restart(dice.bits(), Arc::clone(crash))));
        let medias = medias.into_iter().map(restart).collect();
        Arc::new(Self { crash: Arc::clone(crash), medias: Mutex::new(medias), removed: Mutex::default() })
    }

    fn get(&self, which: Which) -> Arc<dyn Media> {
        let make = || Arc::new(CrashMedia::new(Arc::clone(&self.crash)));
        Arc::clone(lock(&self.medias).entry(which).or_insert_with(make)) as Arc<dyn Media>
    }
}

#[async_trait]
impl Home for CrashHome {
    async fn registry(&self) -> Result<Arc<dyn Media>> {
        Ok(self.get(None))
    }
    async fn media(&self, number: u64, part: Part) -> Result<Arc<dyn Media>> {
        Ok(self.get(Some((number, part))))
    }
    async fn numbers(&self) -> Result<Vec<u64>> {
        Ok(numbers(lock(&self.medias).keys()))
    }
    async fn remove(&self, number: u64) -> Result<()> {
        if self.crash.happened() {
            return Err(Error::new(ErrorKind::Unavailable, "crash_home"));
        }
        let mut medias = lock(&self.medias);
        for part in [Part::Data, Part::Index] {
            if let Some(media) = medias.remove(&Some((number, part))) {
                lock(&self.removed).insert(Some((number, part)), media);
            }
        }
        Ok(())
    }
    fn free_len(&self) -> Option<u64> {
        None
    }
    fn path(&self, _number: u64, _part: Part) -> String {
        String::new()
    }
}

fn numbers<'a>(whiches: impl Iterator<Item = &'a Which>) -> Vec<u64> {
    let mut numbers: Vec<u64> = whiches.filter_map(|which| Some((*which)?.0)).collect();
    numbers.dedup();
    numbers
}

/// A home whose media can be looked at, changed and made to fail.
#[derive(Debug)]
pub(crate) struct TestHome {
    medias: Mutex<BTreeMap<Which, Arc<FaultyMedia>>>,
    free_len: AtomicU64,
}

impl Default for TestHome {
    fn default() -> Self {
        Self { medias: Mutex::default(), free_len: AtomicU64::new(u64::MAX) }
    }
}

impl TestHome {
    /// A home that holds what an image says.
    pub(crate) async fn load(image: &Image) -> Arc<Self> {
        let home = Self::default();
        for (which, segments) in image {
            let media = MemMedia::default();
            for (id, bytes) in segments {
                media.append(*id, bytes.clone().into()).await.expect("append");
            }
            lock(&home.medias).insert(*which, Arc::new(FaultyMedia::new(Arc::new(media))));
        }
        Arc::new(home)
    }

    /// What it holds: the same as a process that was killed leaves.
    pub(crate) async fn image(&self) -> Image {
        let medias = lock(&self.medias).clone();
        let mut image = Image::new();
        for (which, media) in medias {
            let mut segments = BTreeMap::new();
            for segment in media.segments().await.expect("segments") {
                let len = u32::try_from(segment.len).expect("small");
                segments.insert(segment.id, media.read_at(segment.id, 0, len).await.expect("read").to_vec());
            }
            image.insert(which, segments);
        }
        image
    }

    pub(crate) fn get(&self, which: Which) -> Arc<FaultyMedia> {
        let make = || Arc::new(FaultyMedia::new(Arc::new(MemMedia::default())));
        Arc::clone(lock(&self.medias).entry(which).or_insert_with(make))
    }

    /// The data of the namespace that was made last.
    pub(crate) fn newest_data(&self) -> Arc<FaultyMedia> {
        let number = numbers(lock(&self.medias).keys()).into_iter().max().expect("a namespace");
        self.get(Some((number, Part::Data)))
    }

    pub(crate) fn set_free_len(&self, len: u64) {
        self.free_len.store(len, Ordering::Relaxed);
    }
}

#[async_trait]
impl Home for TestHome {
    async fn registry(&self) -> Result<Arc<dyn Media>> {
        Ok(self.get(None))
    }
    async fn media(&self, number: u64, part: Part) -> Result<Arc<dyn Media>> {
        Ok(self.get(Some((number, part))))
    }
    async fn numbers(&self) -> Result<Vec<u64>> {
        Ok(numbers(lock(&self.medias).keys()))
    }
    async fn remove(&self, number: u64) -> Result<()> {
        lock(&self.medias).retain(|which, _| which.is_none_or(|(of, _)| of != number));
        Ok(())
    }
    fn free_len(&self) -> Option<u64> {
        Some(self.free_len.load(Ordering::Relaxed))
    }
    fn path(&self, _number: u64, _part: Part) -> String {
        String::new()
    }
}
