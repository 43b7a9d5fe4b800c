//! Stores below that fail at some call: once, or from then on, as where the program is stopped; before it is done, or with the
//! answer lost.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use muxfs::{
    Error, ErrorKind, Result,
    heads::{Swap, Version},
};

use super::*;

/// When calls fail, over blocks and heads together.
#[derive(Debug)]
pub(super) struct Stops {
    calls: AtomicU64,
    /// The first call that fails, counted from 0.
    pub(super) at: u64,
    /// Whether all later ones fail, too.
    pub(super) for_ever: bool,
    /// Whether what the first one asks for is done.
    pub(super) is_done: bool,
    pub(super) kind: ErrorKind,
}

impl Stops {
    pub(super) fn new(at: u64, for_ever: bool, is_done: bool) -> Arc<Self> {
        Arc::new(Self { calls: AtomicU64::new(0), at, for_ever, is_done, kind: ErrorKind::Unavailable })
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Whether the call that fails was made.
    pub(super) fn happened(&self) -> bool {
        self.calls() > self.at
    }

    /// Counts a call: whether it is done, and what is answered.
    fn call(&self) -> (bool, Result<()>) {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if call < self.at || call > self.at && !self.for_ever {
            return (true, Ok(()));
        }
        (call == self.at && self.is_done, Err(Error::new(self.kind, "test.stop")))
    }

    /// A place over a world whose calls fail.
    pub(super) fn place(self: &Arc<Self>, world: &World) -> VaultPlace {
        let blocks = Arc::new(StopBlocks { inner: world.blocks.clone(), stops: self.clone() });
        let heads = Arc::new(StopHeads { inner: world.heads.clone(), stops: self.clone() });
        place(blocks, heads, world.env.clone())
    }
}

#[derive(Debug)]
struct StopBlocks {
    inner: Arc<Mem>,
    stops: Arc<Stops>,
}

#[async_trait]
impl BlockStore for StopBlocks {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        self.stops.call().1?;
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
        self.stops.call().1?;
        self.inner.get_range(key, range).await
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        let (is_done, answer) = self.stops.call();
        if is_done {
            self.inner.put(key, block).await?;
        }
        answer
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        let (is_done, answer) = self.stops.call();
        if is_done {
            self.inner.delete(key).await?;
        }
        answer
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        self.stops.call().1?;
        self.inner.has(key).await
    }

    async fn block_len(&self, key: &BlockKey) -> Result<Option<u64>> {
        self.stops.call().1?;
        self.inner.block_len(key).await
    }

    async fn flush(&self) -> Result<()> {
        self.stops.call().1
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        match self.stops.call().1 {
            Ok(()) => self.inner.keys(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }
}

#[derive(Debug)]
struct StopHeads {
    inner: Arc<MemHeads>,
    stops: Arc<Stops>,
}

#[async_trait]
impl Heads for StopHeads {
    async fn load(&self, name: &Name) -> Result<Option<(Bytes, Version)>> {
        self.stops.call().1?;
        self.inner.load(name).await
    }

    async fn swap(&self, name: &Name, expected: Option<&Version>, head: Bytes) -> Result<Swap> {
        let (is_done, answer) = self.stops.call();
        let swapped = if is_done { self.inner.swap(name, expected, head).await? } else { Swap::Lost };
        answer.map(|()| swapped)
    }
}
