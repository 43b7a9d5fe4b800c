//! All that is below a CID, as one CAR: for who takes all of it as it comes, and sees to it that it is what was asked for.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use muxfs::{
    Cid, Error, ErrorKind,
    block::{Checked, Subtree},
};
use tokio::time::{Instant, timeout};

use super::reading::{Broken, answered, learn, sections};
use crate::{cars::Of, gateway::Gateway, health::Source};

/// While it is waited for so long, so many blocks come, or so many bytes of them: else block by block is faster.
const PATIENCE: Duration = Duration::from_secs(10);
const COUNT_MIN: usize = 16;
const LEN_MIN: usize = 256 << 10;

/// How much came of late.
struct Pace {
    left: Duration,
    count: usize,
    len: usize,
}

impl Pace {
    fn new() -> Self {
        Self { left: PATIENCE, count: 0, len: 0 }
    }

    /// What comes next, if it does in time. That whoever takes it takes his time does not count.
    async fn keep<T>(&mut self, next: impl Future<Output = T>) -> Result<T, Broken> {
        let begun = Instant::now();
        let next = timeout(self.left, next).await;
        self.left = self.left.saturating_sub(begun.elapsed());
        next.map_err(|_| Broken::Off(Error::new(ErrorKind::Unavailable, "ahead.tree").because("it comes too slowly")))
    }

    fn count(&mut self, block: &Checked) {
        self.count += 1;
        self.len += block.block().len();
        if self.count >= COUNT_MIN || self.len >= LEN_MIN {
            *self = Self::new();
        }
    }
}

/// Reads it, as fast as it is taken.
pub(crate) fn tree<'a>(root: Cid, source: &'a Arc<Source>, gateway: &'a Gateway) -> Subtree<'a> {
    let begun = Instant::now();
    let opened = stream::once(async move { answered(source, begun, gateway.car_of_tree(&root).await) });
    let blocks = opened.flat_map(move |answer| match answer {
        Ok(answer) => sections(answer, gateway).boxed(),
        Err(broken) => stream::once(async { Err(broken) }).boxed(),
    });
    let coming = Some((blocks.boxed(), Pace::new(), false));
    let coming = stream::unfold(coming, move |coming| async move {
        let (mut blocks, mut pace, has_begun) = coming?;
        let next = match pace.keep(blocks.next()).await {
            Ok(next) => next,
            Err(broken) => Some(Err(broken)),
        };
        match next {
            Some(Ok(block)) => {
                pace.count(&block.1);
                Some((Ok(block), Some((blocks, pace, true))))
            }
            Some(Err(broken)) => {
                learn(Of::Tree, true, Err(&broken), (source, gateway), begun);
                Some((Err(broken.into_error()), None))
            }
            None => {
                // Whether that was all is for who takes it to see.
                if has_begun {
                    learn(Of::Tree, true, Ok(()), (source, gateway), begun);
                }
                None
            }
        }
    });
    coming.boxed()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use muxfs::{Codec, block::Checks, cid_of};
    use tokio::time::sleep;

    use super::*;

    /// What drips ends, however long each drop may take by itself; who takes his time ends nothing.
    #[tokio::test(start_paused = true)]
    async fn what_comes_slower_than_block_by_block_is_not_waited_for() {
        let bytes = Bytes::from_static(b"a drop");
        let block = Checks::new().check(&cid_of(Codec::Raw, &bytes), bytes).await.expect("its own");
        let (begun, mut pace) = (Instant::now(), Pace::new());
        while pace.keep(sleep(Duration::from_secs(3))).await.is_ok() {
            pace.count(&block);
        }
        assert_eq!(begun.elapsed(), PATIENCE);
        let mut pace = Pace::new();
        for _ in 0..1000 {
            assert!(pace.keep(sleep(Duration::from_millis(500))).await.is_ok());
            pace.count(&block);
            sleep(Duration::from_mins(1)).await;
        }
    }
}
