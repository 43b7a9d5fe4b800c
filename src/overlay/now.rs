//! An overlay as it is until the next checkout of its tree.
//!
//! A call finds out what did not come, fetches it, and only then changes something: with a checkout in between it would take
//! what came for all there is, or write into a file whose bytes are below again. So every call is made on the tree
//! [as it stands](Tree::as_it_stands), is refused as a whole where that is gone, and begins again.

use super::{Below, Overlay};
use crate::{
    ErrorKind, FileKind, Result,
    tree::Tree,
    vfs::{Attr, Changed, Ino, Lease, Place, Vfs as _, XattrName},
};

/// An overlay until the next checkout: what is found out of a node is true of it for as long as its calls are not refused.
pub(super) struct Now<'a> {
    pub(super) overlay: &'a Overlay,
    pub(super) tree: Tree,
}

impl Overlay {
    /// Makes a call, and makes it again where a checkout came in between: it was of a state that is gone, and changed nothing
    /// of this one.
    pub(super) async fn now<'a, T, F>(&'a self, call: impl Fn(Now<'a>) -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        loop {
            let tree = self.tree.as_it_stands();
            match call(Now { overlay: self, tree: tree.clone() }).await {
                Err(_) if tree.is_past() => {}
                done => return done,
            }
        }
    }
}

impl Now<'_> {
    pub(super) async fn said(&self, ino: Ino, name: &XattrName) -> Result<Option<Below>> {
        match self.tree.getxattr(ino, name).await {
            Ok(value) => Below::decode(&value).map(Some),
            Err(error) if error.kind() == ErrorKind::NoAttr => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where a directory is below whose entries did not come yet. Once they came they are here until a checkout.
    pub(super) async fn dir_below(&self, ino: Ino) -> Result<Option<Below>> {
        Ok(self.said(ino, &self.overlay.names.below).await?.filter(|below| !below.is_file))
    }

    /// Where a file is below whose bytes did not come yet. Once they came they are here until a checkout.
    pub(super) async fn file_below(&self, ino: Ino) -> Result<Option<Below>> {
        Ok(self.said(ino, &self.overlay.names.below).await?.filter(|below| below.is_file))
    }

    /// What a node of the tree looks like. No CID is told: what the tree holds of it is not all of it.
    pub(super) async fn seen(&self, attr: Attr) -> Result<Attr> {
        let attr = Attr { cid: None, ..attr };
        if attr.kind != FileKind::File {
            return Ok(attr);
        }
        match self.file_below(attr.ino).await {
            Ok(Some(below)) => Ok(below.seen(&attr)),
            // The bytes may have come since it was looked at.
            Ok(None) => self.tree.getattr(attr.ino).await.map(|attr| Attr { cid: None, ..attr }),
            // Nobody holds it, and its last name just went.
            Err(error) if error.kind() == ErrorKind::Stale && !self.tree.is_past() => Ok(attr),
            Err(error) => Err(error),
        }
    }

    /// The same of a leased node, which is given back where it cannot be told, or nobody waits for it any more.
    pub(super) async fn leased(&self, attr: Attr) -> Result<Attr> {
        let lease = Lease::adopt(self.overlay.upper.clone(), attr.ino);
        let attr = self.seen(attr).await?;
        // The caller's own.
        self.tree.retain(lease.ino());
        Ok(attr)
    }

    /// The same of a node that was just changed: what is done is not done again because of a checkout that came since.
    pub(super) async fn done(&self, attr: Attr) -> Result<Attr> {
        match self.seen(attr.clone()).await {
            Err(_) if self.tree.is_past() => Ok(Attr { cid: None, ..attr }),
            seen => seen,
        }
    }

    /// A change of a node that leaves its bytes as they are, and where they are.
    pub(super) async fn about(
        &self,
        ino: Ino,
        change: impl Future<Output = Result<Changed>> + Send,
    ) -> Result<Changed> {
        let _shared = self.overlay.gate(ino).read().await;
        let below = self.file_below(ino).await?;
        let changed = plain(change.await?);
        Ok(match below {
            Some(below) => below.changed(&changed),
            None => changed,
        })
    }

    /// The node of a name of the tree, if it is there.
    pub(super) async fn there(&self, place: &Place<'_>) -> Option<(Lease, FileKind)> {
        let attr = self.tree.lookup(place.dir, place.name).await.ok()?;
        Some((Lease::adopt(self.overlay.upper.clone(), attr.ino), attr.kind))
    }
}

/// A change, without a CID.
pub(super) fn plain(mut changed: Changed) -> Changed {
    changed.after.cid = None;
    changed
}
