//! How much of bodies is held in memory at once: many slow clients take no more than some fast ones.
//!
//! Bodies go by pieces of a MiB, which is what a working tree keeps as one block. So many of those are there for all
//! connections together; one that finds none goes on by small pieces. Spec: spec/s3.md #limits.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The lengths of large and of small pieces, in bytes.
pub(crate) const LARGE_LEN: usize = 1 << 20;
pub(crate) const SMALL_LEN: usize = 64 << 10;
/// How many large pieces there are at once.
const LARGE_COUNT_MAX: usize = 256;

/// What there is for all connections.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Semaphore>);

/// A piece that may be held: for as long as this is.
#[derive(Debug)]
pub(crate) struct Allowed(Option<OwnedSemaphorePermit>);

impl Allowed {
    /// The length of the piece, in bytes.
    pub(crate) fn len(&self) -> usize {
        if self.0.is_some() { LARGE_LEN } else { SMALL_LEN }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_COUNT_MAX)))
    }
}

impl Budget {
    /// A large piece where there is one, or a small one.
    pub(crate) fn piece(&self) -> Allowed {
        Allowed(self.0.clone().try_acquire_owned().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_are_few() {
        let budget = Budget::default();
        let mut held: Vec<_> = (0..LARGE_COUNT_MAX).map(|_| budget.piece()).collect();
        assert!(held.iter().all(|piece| piece.len() == LARGE_LEN));
        assert_eq!(budget.piece().len(), SMALL_LEN);
        held.pop();
        assert_eq!(budget.piece().len(), LARGE_LEN);
    }
}
