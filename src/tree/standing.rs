//! Which state of a tree a call is for: whoever needs several calls for one change has to know that no checkout came in between.
//!
//! A call of a tree is one point in time. [`Overlay`](crate::overlay::Overlay) needs several, with all the time in between that it
//! takes to fetch something: what it found out before a checkout says nothing of the nodes after it, which have the same
//! numbers. So it asks a tree that is of one state, every call of which is refused once that is gone. The lock under
//! which a call is made decides, so there is no time between to slip through, however a checkout came about; a gate that a
//! checkout waits at would have it wait for whatever is slow below.

use std::sync::{Arc, MutexGuard};

use super::{
    Shared, Tree,
    sight::{Try, refuse},
    state::Attempt,
    transaction::{Group, Grouped},
};
use crate::ErrorKind;

/// The state that calls are for: that after so many checkouts, or whatever there is; and the transaction they are in.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    checkout_count: Option<u64>,
    pub(super) transaction: Option<Arc<Group>>,
}

impl Standing {
    /// What the transaction has that calls are in.
    pub(super) fn group(&self) -> Option<MutexGuard<'_, Grouped>> {
        self.transaction.as_ref().map(|group| group.lock())
    }

    /// Whether calls are in a transaction.
    pub(super) fn is_grouped(&self) -> bool {
        self.transaction.is_some()
    }
}

impl Tree {
    /// Of whatever state there is.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, standing: Standing::default() }
    }

    /// The same tree until the next checkout: from then on each of its calls of the file system that looks at a node is refused
    /// (`Stale`), and changes nothing. Leases are those of the tree.
    pub(crate) fn as_it_stands(&self) -> Self {
        let checkout_count = Some(self.shared.lock().checkout_count);
        Self { shared: Arc::clone(&self.shared), standing: Standing { checkout_count, ..self.standing.clone() } }
    }

    /// Whether a checkout came since [`Tree::as_it_stands`].
    pub(crate) fn is_past(&self) -> bool {
        self.standing.checkout_count.is_some_and(|count| count != self.shared.lock().checkout_count)
    }
}

impl Attempt<'_> {
    /// Refuses what is for a state that is gone, or in a transaction that has ended.
    pub(super) fn stands(&self, standing: &Standing) -> Try<()> {
        match standing.checkout_count {
            Some(count) if count != self.state.checkout_count => refuse(ErrorKind::Stale, "tree.standing"),
            _ => Ok(self.group.as_ref().map_or(Ok(()), |group| group.stands())?),
        }
    }
}
