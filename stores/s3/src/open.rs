//! Opening a store, and finding out what is new in it.
//!
//! From the pack that the fence names on no object was deleted: whatever follows it is found number by number, and the state
//! in the last one says which packs count. What a listing shows is asked nowhere.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt as _, stream};
use muxfs::{Error, ErrorKind, Result};

use crate::{
    bucket::{Bucket, Object, Put, When},
    fence::{self, Fence, check_conditions},
    kept::Kept,
    pack::{PackId, PackIndex, TRAILER_LEN, Trailer, object_name, payload},
    store::{Inner, S3Access, S3Options, S3Store},
};

/// So much of the end of a pack is read first, in bytes: the index of most.
const END_LEN: u64 = 32 << 10;
/// Of indexes that are longer one is read at a time, in bytes.
const LONG_LEN: u64 = 8 << 20;
/// Of so many packs that are lost each is told.
const TOLD_COUNT: usize = 10;
/// So many packs are looked at at once.
const AHEAD_COUNT: usize = 16;
/// Of writers that begin at the same time one wins each time; so often it is tried.
const BEGIN_COUNT_MAX: usize = 100;

impl S3Store {
    /// Opens the store in a bucket; who writes makes it where there is none.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{BlockKey, BlockStore};
    /// use muxfs_s3::{Bucket, S3Limits, S3Options, S3Store};
    /// use object_store::memory::InMemory;
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let (objects, env) = (Arc::new(InMemory::new()), muxfs::testing::env());
    /// let bucket = Arc::new(Bucket::new(objects, "", "s3://bucket", S3Limits::default(), &env));
    /// let store = S3Store::open(bucket.clone(), S3Options::new("me")).await?;
    /// store.put(&BlockKey::new(b"k")?, "block".into()).await?;
    /// store.flush().await?;
    /// let again = S3Store::open(bucket, S3Options::new("me")).await?;
    /// assert_eq!(again.get(&BlockKey::new(b"k")?).await?, Some("block".into()));
    /// # Ok::<(), muxfs::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// `Denied` where another writes there, naming it; `Unsupported` where the server cannot keep two writers apart; `NotFound`
    /// where there is nothing to follow; `Corrupt`, and those of the bucket.
    pub async fn open(bucket: Arc<Bucket>, options: S3Options) -> Result<Self> {
        let mut has_ended = true;
        let fence = if options.access == S3Access::Follow {
            let found = Fence::load(&bucket).await?;
            found.ok_or_else(|| {
                let why = "there is no store to follow: it is made by the first machine that writes there";
                bucket.error(ErrorKind::NotFound, "s3.open", "").because(why)
            })?
        } else {
            // Who is refused asks for nothing else.
            may_claim(&bucket, &options, Fence::load(&bucket).await?.as_ref().map(|(fence, _)| fence))?;
            check_conditions(&bucket).await?;
            let (fence, tag, ended) = claim(&bucket, &options).await?;
            has_ended = ended;
            (fence, tag)
        };
        let kept = match &options.kept {
            Some(dir) => Kept::open(dir, &fence.0.store).await,
            None => None,
        };
        let (epoch, tail, which) = (fence.0.epoch, fence.0.tail, (fence.0.store.clone(), fence.0.since));
        let store = Self::over(bucket, options, kept, which);
        let inner = &store.inner;
        inner.bucket.learn_ends(fence::NAME, END_LEN).await;
        if tail > 0 {
            inner.jump(tail).await?;
        } else if let Some(kept) = &inner.kept {
            kept.retain(|_| false).await;
        }
        if inner.is_follower() {
            inner.refresh().await?;
        } else {
            *inner.fence.lock().await = Some(fence);
            inner.begin(epoch, has_ended).await?;
            inner.advance_fence(false).await?;
        }
        if let Some(kept) = &inner.kept {
            let live = inner.log().state.live.clone();
            kept.retain(move |number| live.contains(number)).await;
        }
        Ok(store)
    }
}

/// Whether the writing may be taken over from whoever the fence names.
fn may_claim(bucket: &Bucket, options: &S3Options, fence: Option<&Fence>) -> Result<()> {
    let Some(fence) = fence else { return Ok(()) };
    if fence.ended || fence.writer == options.writer || options.access == S3Access::TakeOver {
        return Ok(());
    }
    let why = format!(
        "{} writes there, and has not said that it ended. Open it to follow, which only reads; or, if that machine is gone for \
         good or was stopped, open it to take over: nothing that it committed is lost, and it is refused from then on",
        fence.holder(bucket.env())
    );
    Err(bucket.error(ErrorKind::Denied, "s3.open", "").because(why))
}

/// Makes this the writer: the fence, its tag, and whether the writer before has ended.
async fn claim(bucket: &Bucket, options: &S3Options) -> Result<(Fence, Option<String>, bool)> {
    // It stays so where an attempt happened, and was not known to.
    let mut has_ended = true;
    let (writer, host, env) = (&options.writer, &options.host, bucket.env());
    for _ in 0..BEGIN_COUNT_MAX {
        let found = Fence::load(bucket).await?;
        may_claim(bucket, options, found.as_ref().map(|(fence, _)| fence))?;
        has_ended &= found.as_ref().is_none_or(|(fence, _)| fence.ended);
        let (next, when) = match found {
            None => (Fence::new(writer, host, env), When::Absent),
            Some((fence, tag)) => (fence.claimed(writer, host, env), When::Is(tag)),
        };
        if let Put::Done(tag) = next.put(bucket, when).await? {
            return Ok((next, tag, has_ended));
        }
        if let Some((there, tag)) = Fence::load(bucket).await?.filter(|(there, _)| *there == next) {
            return Ok((there, tag, has_ended));
        }
    }
    Err(bucket.error(ErrorKind::Unavailable, "s3.open", "").because("others open it at the same time"))
}

impl Inner {
    /// Puts the first pack of an epoch behind all that counts: from then on nothing does that others write.
    async fn begin(&self, epoch: u64, has_ended: bool) -> Result<()> {
        for _ in 0..BEGIN_COUNT_MAX {
            self.walk().await?;
            let (number, epoch_before, mut state) = {
                let log = self.log();
                (log.tail + 1, log.epoch, log.state.clone())
            };
            if epoch_before > epoch {
                return Err(self.passed_over().await);
            }
            state.live.insert(number, number);
            if !has_ended {
                state.posts.insert(number, number);
            }
            let id = PackId { number, epoch, nonce: self.nonce() };
            let pack = PackIndex { id, blocks: Vec::new(), deleted: Vec::new(), state };
            if self.place_first(&pack, epoch_before).await? {
                self.log().follow(&pack);
                return Ok(());
            }
        }
        Err(self.bucket.error(ErrorKind::Unavailable, "s3.open", "").because("another writes there all the time"))
    }

    /// Whether a pack is there under its number; not if that has one that counts.
    async fn place_first(&self, pack: &PackIndex, epoch_before: u64) -> Result<bool> {
        let (id, name, mut when) = (pack.id, object_name(pack.id.number), When::Absent);
        let payload = payload(std::iter::empty(), pack.encode());
        for _ in 0..BEGIN_COUNT_MAX {
            if let Put::Done(_) = self.bucket.put_if(&name, &payload, when).await? {
                return Ok(true);
            }
            when = match self.whose(id.number).await? {
                None => When::Absent,
                Some((there, _)) if there == id => return Ok(true),
                Some((there, _)) if there.epoch > id.epoch => return Err(self.passed_over().await),
                Some((there, tag)) if there.epoch < epoch_before => When::Is(tag),
                Some(_) => return Ok(false),
            };
        }
        Err(self.bucket.error(ErrorKind::Unavailable, "s3.open", &name).because("others write there at the same time"))
    }

    /// Finds out what is new.
    pub(crate) async fn refresh(&self) -> Result<()> {
        let _turn = self.refreshing.lock().await;
        self.walk().await?;
        let tail = self.log().tail;
        match Fence::load(&self.bucket).await? {
            Some((fence, _)) if fence.tail > tail => {
                self.jump(fence.tail).await?;
                self.walk().await
            }
            Some(_) => Ok(()),
            None => Err(self.bucket.error(ErrorKind::Unavailable, "s3.follow", "").because("the store is gone")),
        }
    }

    /// Follows the packs behind the last one that is known, until there is none.
    async fn walk(&self) -> Result<()> {
        let next = self.log().tail + 1;
        if !self.step(self.load(next).await?) {
            return Ok(());
        }
        let mut ahead = stream::iter(next + 1..).map(|number| self.load(number)).buffered(AHEAD_COUNT);
        while let Some(pack) = ahead.next().await {
            if !self.step(pack?) {
                break;
            }
        }
        Ok(())
    }

    /// Follows a pack, if it is there and counts.
    fn step(&self, pack: Option<PackIndex>) -> bool {
        let mut log = self.log();
        // One of an epoch before was put too late.
        match pack.filter(|pack| pack.id.epoch >= log.epoch) {
            Some(pack) => {
                log.follow(&pack);
                true
            }
            None => false,
        }
    }

    /// Takes over the state after the pack that the fence names, or one that it names meanwhile.
    async fn jump(&self, tail: u64) -> Result<()> {
        let mut tail = tail;
        'again: loop {
            let Some(last) = self.load(tail).await? else {
                tail = self.moved_on(tail).await?;
                continue;
            };
            let known: BTreeSet<u64> = self.log().index.packs().map(|(number, _)| number).collect();
            let missing: Vec<u64> = last.state.live.numbers().filter(|number| !known.contains(number)).collect();
            if known.is_empty() {
                self.check_kept(&missing).await?;
            }
            let mut lost_count = 0;
            let mut packs = stream::iter(missing)
                .map(|number| async move {
                    if let Some(kept) = &self.kept
                        && let Some(pack) = kept.get(number).await
                    {
                        return (number, Ok(Some(pack)));
                    }
                    let loaded = self.load(number).await;
                    if let (Some(kept), Ok(Some(pack))) = (&self.kept, &loaded) {
                        kept.put(vec![Arc::new(pack.clone())]).await;
                    }
                    (number, loaded)
                })
                .buffered(AHEAD_COUNT);
            while let Some((number, loaded)) = packs.next().await {
                let why = match loaded {
                    Ok(Some(pack)) => {
                        self.log().index.add(&pack);
                        continue;
                    }
                    Ok(None) => match self.moved_on(tail).await {
                        Ok(moved) => {
                            tail = moved;
                            continue 'again;
                        }
                        Err(error) if error.kind() == ErrorKind::Corrupt => "its object is gone".into(),
                        Err(error) => return Err(error),
                    },
                    Err(error) if error.kind() == ErrorKind::Corrupt => format!("{error:#}"),
                    Err(error) => return Err(error),
                };
                lost_count += 1;
                if lost_count <= TOLD_COUNT {
                    let (place, pack) = (self.bucket.place(), object_name(number));
                    tracing::error!(place, pack, why, "a pack is lost: put again what was in it");
                }
                self.log().unreadable.insert(number, why);
            }
            if lost_count > TOLD_COUNT {
                tracing::error!(place = self.bucket.place(), lost_count, "more packs are lost");
            }
            self.log().advance(&last);
            return Ok(());
        }
    }

    /// Throws the indexes that are kept here away where they are of another history, as after the bucket was put back to what it was:
    /// then numbers were given again. Packs are one line, so the newest of them tells for all before it, and for none after it: those
    /// are read from the bucket.
    async fn check_kept(&self, live: &[u64]) -> Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let Some(newest) = kept.newest_of(live.to_vec()).await else {
            kept.retain(|_| false).await;
            return Ok(());
        };
        match self.whose(newest.number).await {
            Ok(Some((there, _))) if there == newest => kept.retain(move |number| number <= newest.number).await,
            Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
            Ok(_) | Err(_) => kept.retain(|_| false).await,
        }
        Ok(())
    }

    /// The pack that the fence names by now, where one was deleted.
    ///
    /// # Errors
    /// `Corrupt` where nobody did that who may.
    async fn moved_on(&self, tail: u64) -> Result<u64> {
        match Fence::load(&self.bucket).await? {
            Some((fence, _)) if fence.tail > tail => Ok(fence.tail),
            _ => {
                let why = "the object is gone, and this store did not delete it";
                Err(self.bucket.error(ErrorKind::Corrupt, "s3.open", &object_name(tail)).because(why))
            }
        }
    }

    /// The index of a pack; `None` if there is none of that number.
    pub(crate) async fn load(&self, number: u64) -> Result<Option<PackIndex>> {
        Ok(self.load_end(number).await?.map(|(pack, _)| pack))
    }

    /// The index of a pack, and the end of its object that was read for that.
    pub(crate) async fn load_end(&self, number: u64) -> Result<Option<(PackIndex, Object)>> {
        let name = object_name(number);
        let at = |error: Error| error.at(format!("{}/{name}", self.bucket.place()));
        // Every pack has a trailer.
        let len = if self.bucket.gives_short_ends() { END_LEN } else { TRAILER_LEN as u64 };
        let Some(mut end) = self.bucket.get_end(&name, len).await? else { return Ok(None) };
        let trailer = Trailer::decode(&end.bytes).map_err(at)?;
        let len = u64::from(trailer.index_len) + TRAILER_LEN as u64;
        // Long ones one behind the other: nobody knows who wrote them.
        let _turn = if len > LONG_LEN { Some(self.long.lock().await) } else { None };
        if len > end.bytes.len() as u64 && len <= end.len {
            match self.bucket.get_end(&name, len).await? {
                Some(whole) => end = whole,
                None => return Ok(None),
            }
        }
        let pack = PackIndex::decode(&end.bytes).map_err(at)?;
        if pack.id.number != number {
            return Err(at(Error::new(ErrorKind::Corrupt, "s3.pack").because("it is another pack")));
        }
        Ok(Some((pack, end)))
    }

    /// Notes in the fence up to where all is there, and whether this writer has ended: before anything older is deleted.
    ///
    /// # Errors
    /// `Denied` when another has taken over; those of the bucket.
    pub(crate) async fn advance_fence(&self, ended: bool) -> Result<()> {
        let mut held = self.fence.lock().await;
        for _ in 0..BEGIN_COUNT_MAX {
            let Some((fence, tag)) = held.clone() else { return Err(self.passed_over().await) };
            if fence.ended && !ended {
                // Another may have begun that deletes, too.
                self.check_writer()?;
            }
            let (writer, tail) = (&self.options.writer, self.log().tail);
            let next = Fence { ended, tail, ..fence.next(writer, &self.options.host, self.bucket.env()) };
            if let Put::Done(tag) = next.put(&self.bucket, When::Is(tag)).await? {
                *held = Some((next, tag));
                let mut log = self.log();
                log.fence_tail = log.fence_tail.max(tail);
                return Ok(());
            }
            match Fence::load(&self.bucket).await? {
                // An attempt of before whose answer was lost.
                Some((there, tag)) if there.is_of(writer, fence.epoch) => *held = Some((there, tag)),
                _ => {
                    *held = None;
                    let error = self.passed_over().await;
                    self.log().fenced = std::error::Error::source(&error).map(ToString::to_string);
                    return Err(error);
                }
            }
        }
        Err(self.bucket.error(ErrorKind::Unavailable, "s3.fence", "").because("the fence changes all the time"))
    }
}
