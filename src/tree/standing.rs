//! Which state of a tree a call is for: whoever needs several calls for one change has to know that no checkout came in between.
//!
//! A call of a tree is one point in time. [`Overlay`](crate::overlay::Overlay) needs several, with all the time in between that it
//! takes to fetch something: what it found out before a checkout says nothing of the nodes after it, which have the same
//! numbers. So it asks a tree that is of one state, every call of which is refused once that is gone. The lock under
//! which a call is made decides, so there is no time between to slip through, however a checkout came about; a gate that a
//! checkout waits at would have it wait for whatever is slow below.

use std::sync::Arc;

use super::{
    Shared, Tree,
    sight::{Try, refuse},
    state::Attempt,
};
use crate::ErrorKind;

/// The state that calls are for: that after so many checkouts, or whatever there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Standing(Option<u64>);

impl Tree {
    /// Of whatever state there is.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, standing: Standing::default() }
    }

    /// The same tree until the next checkout: from then on each of its calls of the file system that looks at a node is refused
    /// (`Stale`), and changes nothing. Leases are those of the tree.
    pub(crate) fn as_it_stands(&self) -> Self {
        let standing = Standing(Some(self.shared.lock().checkout_count));
        Self { shared: Arc::clone(&self.shared), standing }
    }

    /// Whether a checkout came since [`Tree::as_it_stands`].
    pub(crate) fn is_past(&self) -> bool {
        self.standing.0.is_some_and(|count| count != self.shared.lock().checkout_count)
    }
}

impl Attempt<'_> {
    /// Refuses what is for a state that is gone.
    pub(super) fn stands(&self, standing: Standing) -> Try<()> {
        match standing.0 {
            Some(count) if count != self.state.checkout_count => refuse(ErrorKind::Stale, "tree.standing"),
            _ => Ok(()),
        }
    }
}
