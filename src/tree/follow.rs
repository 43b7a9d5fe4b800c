//! Following: a tree that another program writes is shown as its head has it by now.
//!
//! For who opened it over heads and blocks that only the other changes, with a journal of its own in which nothing is. What is
//! open stays open where the node is still there. Spec: spec/tree.md #following.

use std::sync::Arc;

use super::{
    Commit, Shared, Tree,
    attrs::Attrs,
    commit::{Next, lost},
    continued::continue_from,
    state::Base,
};
use crate::{Error, ErrorKind, Result};

impl Tree {
    /// Takes over what the head names by now, and tells whether that is another commit.
    ///
    /// Nodes that are not in it are gone: leased ones become `Stale`. After an error all is as before.
    ///
    /// # Errors
    /// `Unavailable` where something was changed here that no commit holds, or the head is that of another tree; those of heads and
    /// blocks.
    pub async fn follow(&self) -> Result<bool> {
        let shared = &self.shared;
        let (heads, known) = {
            let committer = shared.committer.lock().await;
            (Arc::clone(&committer.heads), committer.version.clone())
        };
        let (head, version) = heads.load(&shared.options.head).await?.ok_or_else(lost)?;
        if version == known {
            return Ok(false);
        }
        let cid = shared.commit_of(&head)?;
        let commit = Commit::get(&shared.dag, &cid).await.map_err(|error| error.at(cid))?;
        let attrs = commit.attrs.ok_or_else(|| Error::new(ErrorKind::Corrupt, "tree.follow").at(cid))?;
        let attrs = Attrs::open(&shared.dag, &attrs).await?;
        let base = Base { cid, commit: Arc::new(commit), attrs };
        let _nobody_writes = shared.gate.write().await;
        let mut committer = shared.committer.lock().await;
        if committer.version != known {
            return Ok(false);
        }
        if shared.has_changes() || committer.pending.is_some() {
            return Err(lost());
        }
        shared.log.rotate()?;
        let through = continue_from(&shared.log, cid).await?;
        let next = Next { base, history: Vec::new(), through, orphans: None };
        shared.begin(&mut committer, next).await?;
        // Read when somebody asks for it.
        committer.history = None;
        committer.version = version;
        Ok(true)
    }
}

impl Shared {
    /// Whether something was changed that is in no commit.
    pub(super) fn has_changes(&self) -> bool {
        let state = self.lock();
        !state.active.is_empty() || state.frozen.is_some()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;
    use crate::{
        BlockStore as _, Name,
        block::Mem,
        dag::{Dag, DagOptions},
        heads::MemHeads,
        media::MemMedia,
        testing,
        tree::TreeOptions,
        vfs::{NewNode, Place, RemoveKind, SetAttr, Vfs},
    };

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a name")
    }

    /// What is committed is seen, with the numbers it has there; what was changed on this side is never thrown away.
    #[tokio::test]
    async fn who_follows_sees_each_commit() {
        let (blocks, heads) = (Arc::new(Mem::default()), Arc::new(MemHeads::default()));
        let open = async || {
            let options = TreeOptions { auto_commit: None, ..TreeOptions::new(name("main"), testing::env()) };
            let dag = Dag::new(blocks.clone(), DagOptions::default());
            Tree::open(dag, Arc::new(MemMedia::default()), heads.clone(), options).await.expect("open")
        };
        let (writer, reader) = (open().await, open().await);
        assert!(!reader.follow().await.expect("follow"), "nothing is new");
        let mut seen = None;
        for n in 0..5 {
            let made = name(&format!("dir {n}"));
            let attr = writer.create(writer.root(), &made, NewNode::Dir, SetAttr::default()).await.expect("made");
            assert!(reader.lookup(reader.root(), &made).await.is_err(), "it is not committed");
            writer.commit("").await.expect("committed");
            assert!(reader.follow().await.expect("follow"));
            let found = reader.lookup(reader.root(), &made).await.expect("it is there");
            assert_eq!((found.ino, reader.head().0), (attr.node.ino, writer.head().0));
            seen = Some(found.ino);
        }
        let place = Place { dir: writer.root(), name: &name("dir 4"), expect: None };
        writer.remove(place, RemoveKind::Dir).await.expect("removed");
        writer.commit("").await.expect("committed");
        assert!(reader.follow().await.expect("follow"));
        assert!(reader.getattr(seen.expect("there was one")).await.is_err(), "what is gone is stale");

        reader.create(reader.root(), &name("own"), NewNode::Dir, SetAttr::default()).await.expect("made");
        writer.create(writer.root(), &name("other"), NewNode::Dir, SetAttr::default()).await.expect("made");
        writer.commit("").await.expect("committed");
        assert_eq!(reader.follow().await.expect_err("it has changes").kind(), ErrorKind::Unavailable);
        reader.lookup(reader.root(), &name("own")).await.expect("it is kept");
    }

    /// Blocks that are gone say nothing of names: who copies what is there does not remove what is not.
    #[tokio::test]
    async fn what_cannot_be_read_is_not_absent() {
        let (blocks, heads) = (Arc::new(Mem::default()), Arc::new(MemHeads::default()));
        let open = async || {
            let options = TreeOptions { auto_commit: None, ..TreeOptions::new(name("main"), testing::env()) };
            let dag = Dag::new(blocks.clone(), DagOptions::default());
            Tree::open(dag, Arc::new(MemMedia::default()), heads.clone(), options).await.expect("open")
        };
        let writer = open().await;
        for n in 0..2000 {
            let made = name(&format!("dir {n}"));
            writer.create(writer.root(), &made, NewNode::Dir, SetAttr::default()).await.expect("made");
        }
        writer.commit("").await.expect("committed");
        let reader = open().await;
        let keys: Vec<_> = blocks.keys().try_collect().await.expect("keys");
        for key in keys {
            blocks.delete(&key).await.expect("deleted");
        }
        let mut corrupt = 0;
        for n in 0..2000 {
            if let Err(error) = reader.lookup(reader.root(), &name(&format!("dir {n}"))).await {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:#}");
                corrupt += 1;
            }
        }
        assert!(corrupt > 0, "nothing was read");
    }
}
