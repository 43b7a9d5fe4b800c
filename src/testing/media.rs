//! The laws of [`Media`]: what every disk under a log keeps.
//!
//! ```
//! # use muxfs::media::MemMedia;
//! muxfs::media_laws!(mem, async { MemMedia::default() });
//! ```

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    ErrorKind,
    media::{Media, Segment, SegmentId},
};

/// Runs every law of [`Media`] over a media, each as a test of its own.
///
/// `media_laws!(name, make)` makes a module `name` of tests; `make` is a future that gives a new, empty media, or a
/// [`Subject`]. Exceptions are named with a reason: `media_laws!(name, make, except: { a_law: "why" })`.
#[macro_export]
macro_rules! media_laws {
    ($module:ident, $make:expr $(, except: $except:tt)? $(,)?) => {
        $crate::laws!(media, $module, $make, [$($except)?],
            append_tells_where_it_begins, parts_are_one_append, a_read_is_short_only_at_the_end,
            what_does_not_exist_is_not_found, the_first_append_makes_the_segment, segments_ascend,
            a_removed_segment_is_gone, a_durable_append_is_three_calls, segments_are_apart, readers_see_whole_appends,
            what_was_synced_survives_reopening);
    };
}

/// What a media holds, to be damaged and loaded again.
#[cfg(test)]
pub(crate) type Image = std::collections::BTreeMap<SegmentId, Vec<u8>>;

/// Copies what a media holds.
#[cfg(test)]
pub(crate) async fn image(media: &dyn Media) -> Image {
    let mut image = Image::new();
    for segment in media.segments().await.expect("segments") {
        let len = u32::try_from(segment.len).expect("small");
        image.insert(segment.id, media.read_at(segment.id, 0, len).await.expect("read").to_vec());
    }
    image
}

/// A media that holds what an image says.
#[cfg(test)]
pub(crate) async fn load(image: &Image) -> Arc<crate::media::MemMedia> {
    let media = Arc::new(crate::media::MemMedia::default());
    for (id, bytes) in image {
        media.append(*id, bytes.clone().into()).await.expect("append");
    }
    media
}

/// A media under test.
pub struct Subject {
    media: Arc<dyn Media>,
    reopen: Option<Reopen>,
}

type Reopen = Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Media>> + Send + Sync>;

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("media", &self.media).finish_non_exhaustive()
    }
}

impl<M: Media> From<M> for Subject {
    fn from(media: M) -> Self {
        Self { media: Arc::new(media), reopen: None }
    }
}

impl Subject {
    /// A media and the way to open it again, which is taken when the one before is dropped.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{media::{Media, MemMedia}, testing::media::Subject};
    /// async fn subject() -> Subject {
    ///     let disk = Arc::new(MemMedia::default());
    ///     Subject::reopening(move || {
    ///         let disk = disk.clone();
    ///         Box::pin(async move { disk as Arc<dyn Media> })
    ///     })
    ///     .await
    /// }
    /// muxfs::media_laws!(mem, subject());
    /// ```
    pub async fn reopening(open: impl Fn() -> BoxFuture<'static, Arc<dyn Media>> + Send + Sync + 'static) -> Self {
        Self { media: open().await, reopen: Some(Box::new(open)) }
    }
}

const ID: SegmentId = SegmentId(7);

async fn append(media: &dyn Media, id: SegmentId, bytes: impl Into<Bytes>) -> u64 {
    media.append(id, bytes.into()).await.expect("append")
}

async fn read(media: &dyn Media, id: SegmentId, offset: u64, len: u32) -> Bytes {
    media.read_at(id, offset, len).await.expect("read")
}

/// `append` returns the offset at which its bytes are then read.
pub async fn append_tells_where_it_begins(subject: Subject) {
    let media = &*subject.media;
    let mut end = 0;
    for len in [1_u32, 10, 4095, 4096, 4097, 100_000, 0, 3] {
        let bytes = vec![u8::try_from(len % 251).unwrap_or(0); len as usize];
        assert_eq!(append(media, ID, bytes.clone()).await, end);
        assert_eq!(read(media, ID, end, len).await, bytes);
        end += u64::from(len);
    }
    assert_eq!(media.segments().await.expect("segments"), [Segment { id: ID, len: end }]);
}

/// `append_vectored` is `append` of the parts joined.
pub async fn parts_are_one_append(subject: Subject) {
    let media = &*subject.media;
    append(media, ID, "before ").await;
    let parts: Vec<Bytes> = vec!["one".into(), Bytes::new(), " two".into(), vec![b'x'; 70_000].into()];
    let joined = parts.concat();
    assert_eq!(media.append_vectored(ID, parts).await.expect("append"), 7);
    assert_eq!(read(media, ID, 7, 100_000).await, joined);
    assert_eq!(media.append_vectored(ID, Vec::new()).await.expect("append nothing"), 7 + joined.len() as u64);
}

/// A read gives all that was asked for and is there: it is short at the end of the segment and empty past it.
pub async fn a_read_is_short_only_at_the_end(subject: Subject) {
    let media = &*subject.media;
    append(media, ID, "0123456789").await;
    for (offset, len, expected) in
        [(0, 10, "0123456789"), (3, 4, "3456"), (8, 10, "89"), (10, 1, ""), (11, 5, ""), (u64::MAX, 9, ""), (2, 0, "")]
    {
        assert_eq!(read(media, ID, offset, len).await, expected, "{len} bytes at {offset}");
    }
}

/// Reading and syncing a segment that does not exist is `NotFound`, and does not make it.
pub async fn what_does_not_exist_is_not_found(subject: Subject) {
    let media = &*subject.media;
    assert_eq!(media.read_at(ID, 0, 1).await.expect_err("read").kind(), ErrorKind::NotFound);
    assert_eq!(media.sync(ID).await.expect_err("sync").kind(), ErrorKind::NotFound);
    assert_eq!(media.segments().await.expect("segments"), []);
}

/// The first append makes the segment, even one of nothing.
pub async fn the_first_append_makes_the_segment(subject: Subject) {
    let media = &*subject.media;
    assert_eq!(append(media, ID, "").await, 0);
    assert_eq!(media.segments().await.expect("segments"), [Segment { id: ID, len: 0 }]);
    assert_eq!(read(media, ID, 0, 1).await, "");
    media.sync(ID).await.expect("sync");
}

/// Segments are listed in the order of their numbers.
pub async fn segments_ascend(subject: Subject) {
    let media = &*subject.media;
    let ids = [5, 0, u64::MAX >> 1, 300, 1 << 40, 2];
    for id in ids {
        append(media, SegmentId(id), vec![0; 3]).await;
    }
    let mut sorted = ids.map(SegmentId);
    sorted.sort();
    let listed: Vec<_> = media.segments().await.expect("segments").iter().map(|segment| segment.id).collect();
    assert_eq!(listed, sorted);
}

/// What was removed is gone, and removing it again is no error.
pub async fn a_removed_segment_is_gone(subject: Subject) {
    let media = &*subject.media;
    append(media, ID, "gone").await;
    append(media, SegmentId(8), "stays").await;
    media.sync(ID).await.expect("sync");
    for _ in 0..2 {
        media.remove(ID).await.expect("remove");
        assert_eq!(media.read_at(ID, 0, 1).await.expect_err("read").kind(), ErrorKind::NotFound);
        assert_eq!(media.segments().await.expect("segments"), [Segment { id: SegmentId(8), len: 5 }]);
    }
    media.remove(SegmentId(99)).await.expect("nothing to remove");
}

/// `append_durable` is `append_vectored`, `sync` and `append` in one; other calls may come before and after.
pub async fn a_durable_append_is_three_calls(subject: Subject) {
    let media = &*subject.media;
    let mut expected = Vec::new();
    // Also past the megabyte that a disk may have made ready.
    for n in 0_usize..60 {
        let parts: Vec<Bytes> = vec![n.to_string().into(), Bytes::new(), vec![b'x'; n * 700].into()];
        let mark = format!("<{n}>");
        let joined = parts.concat();
        let durable = media.append_durable(ID, parts, mark.clone().into()).await.expect("append");
        assert_eq!(durable.offset, expected.len() as u64);
        durable.synced.expect("sync");
        assert!(durable.is_marked);
        expected.extend(joined);
        expected.extend(mark.bytes());
        if n % 7 == 0 {
            assert_eq!(append(media, ID, "between").await, expected.len() as u64);
            expected.extend(b"between");
        }
        if n % 11 == 0 {
            media.sync(ID).await.expect("sync");
        }
    }
    let len = u32::try_from(expected.len()).expect("small");
    assert_eq!(media.segments().await.expect("segments"), [Segment { id: ID, len: len.into() }]);
    assert!(read(media, ID, 0, len + 1).await == expected);
}

/// What is done to one segment does not show in another.
pub async fn segments_are_apart(subject: Subject) {
    let media = &*subject.media;
    for round in 0..50 {
        for id in 0..4 {
            append(media, SegmentId(id), format!("{id}:{round} ")).await;
        }
    }
    for id in 0..4 {
        let expected: String = (0..50).map(|round| format!("{id}:{round} ")).collect::<Vec<_>>().concat();
        assert_eq!(read(media, SegmentId(id), 0, 10_000).await, expected);
    }
}

/// While one appends, readers see everything up to the listed end, and nothing that was not appended.
pub async fn readers_see_whole_appends(subject: Subject) {
    append(&*subject.media, ID, vec![0; 100]).await;
    let appender = Arc::clone(&subject.media);
    let appending = tokio::spawn(async move {
        for n in 1..100 {
            append(&*appender, ID, vec![n; 100 * usize::from(n)]).await;
        }
    });
    loop {
        let done = appending.is_finished();
        let len = subject.media.segments().await.expect("segments")[0].len;
        let bytes = read(&*subject.media, ID, 0, u32::try_from(len).expect("small")).await;
        assert_eq!(bytes.len() as u64, len);
        let mut at = 0;
        for n in 0.. {
            if at == bytes.len() {
                break;
            }
            let len = 100 * usize::from(n).max(1);
            assert!(bytes[at..at + len].iter().all(|byte| *byte == n), "append {n} is whole");
            at += len;
        }
        if done {
            break;
        }
        tokio::task::yield_now().await;
    }
    appending.await.expect("no panic");
}

/// What was synced is there when the media is opened again.
pub async fn what_was_synced_survives_reopening(subject: Subject) {
    let Subject { mut media, reopen } = subject;
    let Some(reopen) = reopen else {
        crate::testing::skip(format_args!(
            "what_was_synced_survives_reopening: {media:?} is given no way to open again"
        ));
        return;
    };
    let mut expected = String::new();
    for round in 0..4 {
        let text = format!("round {round}, ");
        append(&*media, ID, text.clone()).await;
        expected += &text;
        append(&*media, SegmentId(100 + round), "x").await;
        media.sync(ID).await.expect("sync");
        media.sync(SegmentId(100 + round)).await.expect("sync");
        if round == 2 {
            media.remove(SegmentId(100)).await.expect("remove");
        }
        drop(media);
        media = reopen().await;
        assert_eq!(read(&*media, ID, 0, 1000).await, expected);
    }
    let listed: Vec<_> = media.segments().await.expect("segments").iter().map(|segment| segment.id.0).collect();
    assert_eq!(listed, [7, 101, 102, 103]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        media::MemMedia,
        testing::fault::{Crash, CrashMedia, FaultyMedia},
    };

    crate::media_laws!(mem, async { MemMedia::default() });
    crate::media_laws!(crash, async { CrashMedia::new(Crash::never()) });
    crate::media_laws!(faulty, async { FaultyMedia::new(Arc::new(MemMedia::default())) });
    crate::media_laws!(behind_an_arc, async { Arc::new(MemMedia::default()) });
}
