//! The files of a node: a media whose calls cannot hang whoever makes them, in a directory that may go.
//!
//! A directory that is gone keeps its open files, so that what is written there is lost without an error; and another that
//! came to its place would get the files that are made by name. So the mark of the node is looked at before each of these
//! and each put, around a flush, and now and then. Spec: spec/zstor.md #nodes.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, Result,
    media::{Durable, Media, Segment, SegmentId},
};
use tokio::{runtime::Handle, time::Instant};

use crate::{
    calls::{CALL_TIME_MAX, Calls, SYNC_TIME_MAX},
    mark::{Identity, identity},
};

/// The mark is looked at so often at most for reads: a put takes what it reads for what is kept.
const LOOK_AGE_MAX: Duration = Duration::from_millis(20);

/// Whether the directory of a node is still the one that was opened.
#[derive(Debug)]
pub(crate) struct Watch {
    mark: PathBuf,
    identity: Identity,
    looks: Arc<Calls>,
    /// Why it is not.
    gone: OnceLock<String>,
    looked: Mutex<Instant>,
    is_looking: AtomicBool,
}

impl Watch {
    pub(crate) fn new(mark: PathBuf, identity: Identity, looks: Arc<Calls>) -> Arc<Self> {
        let looked = Mutex::new(Instant::now());
        Arc::new(Self { mark, identity, looks, gone: OnceLock::new(), looked, is_looking: AtomicBool::new(false) })
    }

    /// Why it is not trusted any more, as far as is known.
    pub(crate) fn gone(&self) -> Option<&str> {
        self.gone.get().map(String::as_str)
    }

    /// Has it trusted no more.
    pub(crate) fn give_up(&self, why: String) {
        // The first reason is the one.
        self.gone.set(why).ok();
    }

    fn check(&self) -> Result<()> {
        match self.gone() {
            Some(why) => Err(lost(why)),
            None => Ok(()),
        }
    }

    /// Looks.
    ///
    /// # Errors
    /// `Unavailable` if it is gone, or its disk does not say.
    pub(crate) async fn look(&self) -> Result<()> {
        self.check()?;
        let mark = self.mark.clone();
        match self.looks.run(CALL_TIME_MAX, move || identity(&mark)).await? {
            Ok(there) if there == self.identity => {}
            Ok(_) => self.give_up("another directory came to its place".into()),
            Err(error) => self.give_up(format!("its directory is gone: {error}")),
        }
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.check()
    }

    /// Looks, unless that was done a moment ago, or is being done for another.
    ///
    /// # Errors
    /// As `look`.
    pub(crate) async fn look_if_due(self: &Arc<Self>) -> Result<()> {
        let is_due = self.looked.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= LOOK_AGE_MAX;
        if !is_due || self.is_looking.swap(true, Ordering::Relaxed) {
            return self.check();
        }
        let me = Arc::clone(self);
        // To its end, also if whoever asks gives up.
        let looking = tokio::spawn(async move {
            let looked = me.look().await;
            me.is_looking.store(false, Ordering::Relaxed);
            looked
        });
        looking.await.unwrap_or_else(|stopped| Err(Error::new(ErrorKind::Unavailable, "zstor.node").because(stopped)))
    }
}

/// What a call of a node that is lost ends with.
pub(crate) fn lost(why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "zstor.node").because(why.to_owned())
}

/// A [`Media`] of a node.
#[derive(Debug)]
pub(crate) struct Files {
    /// There until it is dropped.
    media: Option<Arc<dyn Media>>,
    calls: Arc<Calls>,
    watch: Arc<Watch>,
    /// The newest segment that there is a file of.
    newest: AtomicU64,
}

impl Files {
    pub(crate) async fn open(media: Arc<dyn Media>, calls: Arc<Calls>, watch: Arc<Watch>) -> Result<Self> {
        let newest = media.segments().await?.last().map_or(0, |segment| segment.id.0);
        Ok(Self { media: Some(media), calls, watch, newest: newest.into() })
    }

    /// How many bytes they have.
    pub(crate) async fn len(&self) -> Result<u64> {
        Ok(self.segments().await?.iter().map(|segment| segment.len).sum())
    }

    fn media(&self) -> Result<Arc<dyn Media>> {
        self.watch.check()?;
        self.media.clone().ok_or_else(|| lost("it is closed"))
    }

    /// A file that is made by its name is made in the directory that was opened.
    async fn make(&self, segment: SegmentId) -> Result<()> {
        if segment.0 > self.newest.load(Ordering::Acquire) {
            self.watch.look().await?;
            self.newest.fetch_max(segment.0, Ordering::AcqRel);
        }
        Ok(())
    }
}

#[async_trait]
impl Media for Files {
    async fn append(&self, segment: SegmentId, bytes: Bytes) -> Result<u64> {
        self.append_vectored(segment, vec![bytes]).await
    }
    async fn append_vectored(&self, segment: SegmentId, parts: Vec<Bytes>) -> Result<u64> {
        self.make(segment).await?;
        let media = self.media()?;
        self.calls.follow(CALL_TIME_MAX, async move { media.append_vectored(segment, parts).await }).await
    }
    async fn sync(&self, segment: SegmentId) -> Result<()> {
        let media = self.media()?;
        self.calls.follow(SYNC_TIME_MAX, async move { media.sync(segment).await }).await
    }
    async fn append_durable(&self, segment: SegmentId, parts: Vec<Bytes>, mark: Bytes) -> Result<Durable> {
        self.make(segment).await?;
        let media = self.media()?;
        self.calls.follow(SYNC_TIME_MAX, async move { media.append_durable(segment, parts, mark).await }).await
    }
    async fn read_at(&self, segment: SegmentId, offset: u64, len: u32) -> Result<Bytes> {
        let media = self.media()?;
        self.calls.follow(CALL_TIME_MAX, async move { media.read_at(segment, offset, len).await }).await
    }
    async fn segments(&self) -> Result<Vec<Segment>> {
        // In memory.
        self.media()?.segments().await
    }
    async fn remove(&self, segment: SegmentId) -> Result<()> {
        self.watch.look().await?;
        let media = self.media()?;
        self.calls.follow(CALL_TIME_MAX, async move { media.remove(segment).await }).await
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let media = self.media.take();
        // Files of a disk that does not answer may take as long to close.
        if (self.watch.gone().is_some() || self.calls.check().is_err())
            && let Ok(runtime) = Handle::try_current()
        {
            drop(runtime.spawn_blocking(move || drop(media)));
        }
    }
}
