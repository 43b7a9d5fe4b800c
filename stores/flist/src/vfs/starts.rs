//! What starts touch: noted while an flist is read, and fetched when it is opened the next time.
//!
//! Both go on in the background for as long as the flist is open, and hold up nobody: what is fetched so are the chunks that
//! whoever reads would fetch himself, some at a time, and he joins what is under way. Spec: spec/flist.md #profiles.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{Open, blocking, files::Files, lock};
use crate::{
    Inode,
    profile::{Profile, profile_path},
};

/// So many chunks are fetched at a time: fewer than are asked of one source, so that who reads others is not behind all.
const REPLAYED_COUNT: usize = 6;
/// A start is recorded for so long after the flist was opened,
const RECORDED_TIME: Duration = Duration::from_mins(5);
/// and written that often, where there is more.
const WRITTEN_EACH: Duration = Duration::from_secs(5);

/// What is done about what starts touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profiles {
    /// Nothing.
    Off,
    /// Fetches what the profile beside an flist names when it is opened, where it has one.
    #[default]
    Replay,
    /// Writes a profile beside each flist that is opened, in the place of the one it has, of what is touched in the first
    /// five minutes.
    Record,
}

/// Something that goes on until it is dropped.
#[derive(Debug)]
pub(super) struct Start(JoinHandle<()>);

impl Drop for Start {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Start {
    pub(super) fn begin(profiles: Profiles, open: &Arc<Open>, files: &Arc<Files>) -> Option<Self> {
        let open = Arc::downgrade(open);
        Some(Self(match profiles {
            Profiles::Off => return None,
            Profiles::Replay => tokio::spawn(replay(open, Arc::downgrade(files))),
            Profiles::Record => tokio::spawn(record(open)),
        }))
    }
}

/// Fetches what the profile of an flist names.
async fn replay(open: Weak<Open>, files: Weak<Files>) {
    let read = {
        let Some(open) = open.upgrade() else { return };
        blocking(move || Profile::read(&profile_path(&open.place.path), open.flist.id())).await
    };
    let profile = match read {
        Ok(Some(profile)) => profile,
        Ok(None) => return,
        Err(error) => return tracing::warn!("the profile of an flist is not used: {error:#}"),
    };
    let mut last: Option<Arc<Inode>> = None;
    let mut found = Vec::with_capacity(profile.touched().len());
    for (node, index) in profile.touched() {
        if last.as_ref().is_none_or(|last| last.id != *node) {
            let (Some(open), node) = (open.upgrade(), *node) else { return };
            last = open.query(move |flist| flist.inode(node)).await.ok().flatten().map(Arc::new);
        }
        // What is not there is passed over: its checksum says that it was written so.
        found.extend(last.clone().map(|inode| (inode, *index)));
    }
    let fetch = |(inode, index): (Arc<Inode>, u64)| {
        let (open, files) = (open.upgrade(), files.upgrade());
        async move {
            let (Some(open), Some(files)) = (open, files) else { return false };
            // What fails is told to who reads it, and nobody is asked again and again for it.
            files.bytes(&open, &inode, index).await.is_ok()
        }
    };
    let mut fetched = stream::iter(found).map(fetch).buffered(REPLAYED_COUNT);
    while fetched.next().await == Some(true) {}
}

/// Writes what is touched of an flist beside it.
async fn record(open: Weak<Open>) {
    let begun = Instant::now();
    let mut ticks = interval_at(begun + WRITTEN_EACH, WRITTEN_EACH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = 0;
    while begun.elapsed() < RECORDED_TIME {
        ticks.tick().await;
        let Some(open) = open.upgrade() else { return };
        let Some(profile) = open.touched.as_ref().map(|touched| lock(touched).clone()) else { return };
        let count = profile.touched().len();
        if count > written {
            let done = blocking(move || profile.write(&profile_path(&open.place.path), open.flist.id())).await;
            if let Err(error) = done {
                return tracing::warn!("what a start touches cannot be written: {error:#}");
            }
            written = count;
        }
    }
}
