//! Where those who change names let one pass alone who moves a name by what it believes to be there.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::vfs::Ino;

/// Directories share so many gates: a store that is slow to change one holds up few others.
const GATE_COUNT: usize = 256;

/// A gate for each directory.
#[derive(Debug)]
pub(super) struct Gates(Vec<RwLock<()>>);

/// Through a gate, until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Entered<'a> {
    _shared: Option<RwLockReadGuard<'a, ()>>,
    _alone: [Option<RwLockWriteGuard<'a, ()>>; 2],
}

impl Default for Gates {
    fn default() -> Self {
        Self((0..GATE_COUNT).map(|_| RwLock::default()).collect())
    }
}

impl Gates {
    /// Waits until nobody is alone with the names of `dir`.
    pub(super) async fn enter(&self, dir: Ino) -> Entered<'_> {
        let shared = match self.0.get(index(dir)) {
            Some(gate) => Some(gate.read().await),
            None => None,
        };
        Entered { _shared: shared, ..Entered::default() }
    }

    /// Waits until nobody else changes names of these directories, and keeps them out.
    pub(super) async fn enter_alone(&self, dirs: [Ino; 2]) -> Entered<'_> {
        // By order, so that no two wait for each other.
        let mut wanted = dirs.map(index);
        wanted.sort_unstable();
        let [first, second] = wanted;
        let mut alone = [None, None];
        for (held, at) in alone.iter_mut().zip([Some(first), (second != first).then_some(second)]) {
            if let Some(gate) = at.and_then(|at| self.0.get(at)) {
                *held = Some(gate.write().await);
            }
        }
        Entered { _alone: alone, ..Entered::default() }
    }
}

/// The numbers of one tree come one after another.
fn index(dir: Ino) -> usize {
    usize::try_from(dir.0.get() % GATE_COUNT as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{
        num::NonZeroU64,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn dir(number: u64) -> Ino {
        Ino(NonZeroU64::new(number).expect("not 0"))
    }

    fn waits<T>(entering: impl Future<Output = T>) -> bool {
        matches!(pin!(entering).poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
    }

    #[tokio::test]
    async fn one_is_alone_with_two_directories_and_several_share_one() {
        let gates = Gates::default();
        let alone = gates.enter_alone([dir(7), dir(3)]).await;
        for taken in [3, 7] {
            assert!(waits(gates.enter(dir(taken))));
            assert!(waits(gates.enter_alone([dir(1), dir(taken)])));
        }
        let _elsewhere = (gates.enter(dir(5)).await, gates.enter(dir(5)).await);
        assert!(waits(gates.enter_alone([dir(5), dir(5)])));
        drop(alone);
        // A directory twice, and one that shares its gate with it.
        drop(gates.enter_alone([dir(7), dir(7)]).await);
        drop(gates.enter_alone([dir(7), dir(7 + GATE_COUNT as u64)]).await);
    }
}
