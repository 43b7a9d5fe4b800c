//! How blocks are read: from what is on its way, or as a part of a pack in the bucket, where it is now.

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use muxfs::{BlockKey, Error, ErrorKind, Result};

use crate::{
    ahead::{AHEAD_COUNT, Plan},
    index::Location,
    log::{Failure, Found},
    pack::object_name,
    store::Inner,
};

/// A block that is read while its pack is rewritten is looked up so often.
const LOOKUP_COUNT_MAX: usize = 8;

impl Inner {
    /// The bytes of a block, or a part of them.
    pub(crate) async fn read(self: &Arc<Self>, key: &BlockKey, part: Option<Range<usize>>) -> Result<Option<Bytes>> {
        let mut last = None;
        for _ in 0..LOOKUP_COUNT_MAX {
            let found = self.log().find(key);
            let location = match found {
                Found::Here(block) => return Ok(Some(cut(&block, part))),
                Found::At(location) => location,
                Found::Absent => return self.absent(),
            };
            if last == Some(location) {
                return Err(self.lost(key, location, "its object is gone"));
            }
            if let Some(block) = self.read_at(key, location, part.clone()).await? {
                return Ok(Some(block));
            }
            // Moved meanwhile, as this knows by now, or finds out.
            last = Some(location);
            if self.is_follower() {
                self.refresh().await?;
            }
        }
        Err(self.bucket.error(ErrorKind::Unavailable, "s3.get", "").because("the block is moved again and again"))
    }

    async fn read_at(
        self: &Arc<Self>,
        key: &BlockKey,
        location: Location,
        part: Option<Range<usize>>,
    ) -> Result<Option<Bytes>> {
        let Location { number, offset, len, crc } = location;
        let (name, len) = (object_name(number), u64::from(len));
        let (from, to) = part.clone().map_or((0, len), |part| {
            let end = (part.end as u64).min(len);
            ((part.start as u64).min(end), end)
        });
        if from == to {
            return Ok(Some(Bytes::new()));
        }
        if part.is_none()
            && let Some(block) = self.cut_ahead(location).await?
            && crc32c::crc32c(&block) == crc
        {
            return Ok(Some(block));
        }
        let range = u64::from(offset) + from..u64::from(offset) + to;
        // What is damaged on the way is not damaged the next time.
        for _ in 0..2 {
            match self.bucket.get_range(&name, range.clone()).await? {
                None => return Ok(None),
                // A part is checked by who asks for it.
                Some(block) if part.is_some() || crc32c::crc32c(&block) == crc => return Ok(Some(block)),
                Some(_) => {}
            }
        }
        Err(self.lost(key, location, "its bytes are damaged"))
    }

    /// A block out of a window, where its reader reads on; `None` where it is to be asked for alone.
    async fn cut_ahead(self: &Arc<Self>, location: Location) -> Result<Option<Bytes>> {
        let packs: Vec<_> = {
            let log = self.log();
            // What is on its way is in memory.
            log.index
                .ends_from(location.number)
                .take_while(|(number, _)| *number <= log.tail)
                .take(1 + AHEAD_COUNT)
                .collect()
        };
        if packs.first().is_none_or(|(number, _)| *number != location.number) {
            return Ok(None);
        }
        let fetch = |number, range| {
            let bucket = Arc::clone(&self.bucket);
            let fetched = async move { bucket.get_range(&object_name(number), range).await };
            fetched.map(|fetched| fetched.map_err(|error| Failure::from(&error))).boxed().shared()
        };
        let (found, opened) = match self.ahead().plan(&location, &packs, fetch) {
            Plan::Alone => return Ok(None),
            Plan::Windows { found, opened } => (found, opened),
        };
        for window in opened.clone() {
            let inner = Arc::clone(self);
            // Whoever asked may go away: a window that nobody fetches would stand in the way of all who read there later.
            drop(self.tasks.spawn(async move {
                if !matches!(window.fetch.clone().await, Ok(Some(_))) {
                    inner.ahead().forget(&window);
                }
            }));
        }
        // Not a slice: whoever keeps a block keeps no window.
        let (mut block, mut at) = (BytesMut::with_capacity(location.len as usize), u64::from(location.offset));
        for window in found {
            let bytes = match window.fetch.clone().await {
                Ok(Some(bytes)) => bytes,
                // What another began may have had the worse time: then the block is asked for alone.
                Err(failure) if opened.iter().any(|other| other.is(&window)) => return Err(failure.into()),
                Ok(None) | Err(_) => return Ok(None),
            };
            let from = usize::try_from(at - window.range.start).unwrap_or(usize::MAX);
            let rest = bytes.get(from..).unwrap_or_default();
            let part = rest.get(..location.len as usize - block.len()).unwrap_or(rest);
            block.extend_from_slice(part);
            at = window.range.end;
        }
        Ok(Some(block.freeze()))
    }

    /// The error of a block that is not what it was; whoever puts it again replaces it.
    pub(crate) fn lost(&self, key: &BlockKey, location: Location, why: &str) -> Error {
        let mut log = self.log();
        if log.index.get(key) == Some(location) {
            log.rotten.insert(key.clone());
        }
        self.bucket.error(ErrorKind::Corrupt, "s3.get", &object_name(location.number)).because(why)
    }

    /// What is not in the index is absent if all of that is known.
    fn absent(&self) -> Result<Option<Bytes>> {
        match self.log().unreadable.first_key_value() {
            None => Ok(None),
            Some((number, why)) => {
                let why = format!("nobody knows whether it was in this pack, which cannot be read: {why}");
                Err(self.bucket.error(ErrorKind::Corrupt, "s3.get", &object_name(*number)).because(why))
            }
        }
    }

    pub(crate) fn check_good(&self, key: &BlockKey) -> Result<()> {
        if self.log().rotten.contains(key) {
            return Err(self.bucket.error(ErrorKind::Corrupt, "s3.get", "").because("the block is damaged"));
        }
        Ok(())
    }
}

fn cut(block: &Bytes, part: Option<Range<usize>>) -> Bytes {
    let Some(part) = part else { return block.clone() };
    let end = part.end.min(block.len());
    block.slice(part.start.min(end)..end)
}
