//! Sealing and unsealing from the first byte to the last.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};

use super::format::{FileCipher, HEADER_LEN, SEALED_SEGMENT_LEN, SEGMENT_LEN, corrupt};
use crate::{Env, Error, Result, SecretKey, cipher::TAG_LEN};

/// Seals bytes as they come: gives the whole sealed file, in pieces of at most 64 KiB and 16 bytes, under a salt that
/// is drawn now. An error of `plain` is passed on and ends it.
///
/// In memory are one segment and the piece of `plain` that it is cut from.
///
/// ```
/// # use bytes::Bytes;
/// # use futures_util::{TryStreamExt, stream};
/// # use muxfs::{SecretKey, seal};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let key = SecretKey::new([7; 32]);
/// let plain = stream::iter([Ok::<_, muxfs::Error>(Bytes::from("attack at dawn"))]);
/// let sealed = seal::seal(&key, &muxfs::testing::env(), plain);
/// let unsealed: Vec<Bytes> = seal::unseal(&key, sealed).try_collect().await?;
/// assert_eq!(unsealed.concat(), b"attack at dawn");
/// # Ok::<(), muxfs::Error>(()) }).unwrap();
/// ```
pub fn seal<'a, E: Send + 'a>(
    key: &SecretKey,
    env: &Env,
    plain: impl Stream<Item = Result<Bytes, E>> + Send + 'a,
) -> impl Stream<Item = Result<Bytes, E>> + Send + 'a {
    let (cipher, header) = FileCipher::new(key, env);
    let begun = (Pieces::of(plain), cipher, 0);
    let segments = stream::try_unfold(begun, |(mut pieces, cipher, index)| async move {
        let Some((segment, is_last)) = pieces.next(SEGMENT_LEN).await? else { return Ok(None) };
        let sealed = cipher.seal(index, is_last, segment);
        Ok(Some((sealed, (pieces, cipher, index + 1))))
    });
    stream::iter([Ok(header)]).chain(segments)
}

/// Unseals a sealed file as it comes. Each piece that it gives is what was sealed; that the file is whole is known when
/// it ends without an error.
///
/// # Errors
/// `BadKey`, `Unsupported` and `Corrupt` as [`open`](super::open); those of `sealed`. The first ends it.
pub fn unseal<'a>(
    key: &SecretKey,
    sealed: impl Stream<Item = Result<Bytes>> + Send + 'a,
) -> impl Stream<Item = Result<Bytes>> + Send + 'a {
    let begun = (Pieces::of(sealed), Front::Header(key.clone()));
    stream::try_unfold(begun, |(mut pieces, front)| async move {
        let (cipher, index) = match front {
            Front::Segment(cipher, index) => (cipher, index),
            Front::Header(key) => {
                let (header, is_last) = pieces.next(HEADER_LEN as usize).await?.unwrap_or_default();
                let cipher = FileCipher::of_header(&key, &header)?;
                if is_last {
                    return Err(corrupt("it ends behind its header: it was cut"));
                }
                (cipher, 0)
            }
        };
        let Some((segment, is_last)) = pieces.next(SEALED_SEGMENT_LEN).await? else { return Ok(None) };
        if index > 0 && segment.len() <= TAG_LEN {
            return Err(corrupt("its last segment is empty: it was added to"));
        }
        let plain = cipher.open(index, is_last, segment)?;
        Ok::<_, Error>(Some((plain, (pieces, Front::Segment(cipher, index + 1)))))
    })
}

/// What comes next in a sealed file.
enum Front {
    Header(SecretKey),
    Segment(FileCipher, u64),
}

/// Bytes as they come, cut anew.
struct Pieces<'a, E> {
    source: Pin<Box<dyn Stream<Item = Result<Bytes, E>> + Send + 'a>>,
    /// What came and is not cut yet.
    rest: Bytes,
    is_over: bool,
}

impl<'a, E> Pieces<'a, E> {
    fn of(source: impl Stream<Item = Result<Bytes, E>> + Send + 'a) -> Self {
        Self { source: Box::pin(source), rest: Bytes::new(), is_over: false }
    }

    /// The next piece, of `len` bytes but for the last, which may be empty, and whether it is the last. `None` behind
    /// it.
    async fn next(&mut self, len: usize) -> Result<Option<(BytesMut, bool)>, E> {
        if self.is_over {
            return Ok(None);
        }
        // With room for the tag.
        let mut piece = BytesMut::with_capacity(len.min(SEGMENT_LEN) + TAG_LEN);
        loop {
            let taken = self.rest.split_to(self.rest.len().min(len - piece.len()));
            piece.extend_from_slice(&taken);
            // Only what comes behind a full one tells whether it is the last.
            if !self.rest.is_empty() {
                return Ok(Some((piece, false)));
            }
            let Some(more) = self.source.next().await else {
                self.is_over = true;
                return Ok(Some((piece, true)));
            };
            self.rest = more?;
        }
    }
}
