//! Passed over: a tree whose head another program goes on with, and what of it is nowhere else.
//!
//! Its journal is never played over what the other one does, so nothing that it would take from then on could become part of the
//! head. Spec: spec/tree.md #passed-over.

use std::sync::Arc;

use super::{Shared, Tree, open::KIND, record::Record};
use crate::{
    Env, Error, ErrorKind, Result,
    log::{Log, LogOptions},
    media::Media,
};

impl Tree {
    /// Says that another program has taken the head over, as `why` tells: from now on each change is `Denied`, and `sync` is where
    /// something is not committed, since none of it ever will be. Reading goes on.
    pub fn pass_over(&self, why: &str) {
        self.shared.lock().passed_over = Some(why.to_owned());
    }

    /// Whether a commit has all that was changed.
    pub fn is_committed(&self) -> bool {
        !self.shared.has_changes()
    }
}

impl Shared {
    /// Refuses to call durable what no commit will have.
    pub(super) fn refuse_what_is_lost(&self) -> Result<()> {
        let why = self.lock().passed_over.clone();
        match why {
            Some(why) if self.has_changes() => Err(Error::new(ErrorKind::Denied, "tree.sync").because(why)),
            _ => Ok(()),
        }
    }
}

/// How many changes a journal holds that no tree has open: those that were not committed, and, after a crash in the middle of
/// a commit, perhaps those of that one.
///
/// # Errors
/// As [`Log::open`]; `Corrupt` and `Unsupported` for records that cannot be read.
pub async fn uncommitted_count(journal: Arc<dyn Media>, env: &Env) -> Result<u64> {
    let mut count = 0;
    let log = Log::open(journal, LogOptions::new(KIND, env), |pos, record| {
        let record = Record::decode(&record).map_err(|error| error.at(pos))?;
        count += u64::from(matches!(record, Record::Change { .. }));
        Ok(())
    });
    log.await?.close().await?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Name,
        block::Mem,
        dag::{Dag, DagOptions},
        heads::MemHeads,
        media::MemMedia,
        testing,
        tree::TreeOptions,
        vfs::{NewNode, SetAttr, Vfs},
    };

    /// Who was passed over acknowledges nothing more that would be lost, and shows what there is; what is lost can be counted.
    #[tokio::test]
    async fn who_was_passed_over_acknowledges_nothing() {
        let name = |text: &str| Name::new(text.as_bytes()).expect("a name");
        let journal = Arc::new(MemMedia::default());
        let options = TreeOptions { auto_commit: None, ..TreeOptions::new(name("main"), testing::env()) };
        let dag = Dag::new(Arc::new(Mem::default()), DagOptions::default());
        let tree = Tree::open(dag, journal.clone(), Arc::new(MemHeads::default()), options).await.expect("open");
        let make = async |text: &str| tree.create(tree.root(), &name(text), NewNode::File, SetAttr::default()).await;
        make("committed").await.expect("made");
        tree.commit("").await.expect("committed");
        assert!(tree.is_committed());
        assert_eq!(uncommitted_count(journal.clone(), &testing::env()).await.expect("read"), 0);
        tree.pass_over("two writes there");
        tree.sync(tree.root()).await.expect("all is committed");
        let error = make("refused").await.expect_err("nobody would ever see it");
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(format!("{error:#}").contains("two writes there"), "{error:#}");
        tree.lookup(tree.root(), &name("committed")).await.expect("it is there");

        tree.shared.lock().passed_over = None;
        make("synced").await.expect("made");
        tree.sync(tree.root()).await.expect("synced");
        make("made").await.expect("made");
        assert!(!tree.is_committed());
        tree.pass_over("two writes there");
        assert_eq!(tree.sync(tree.root()).await.expect_err("it would be lost").kind(), ErrorKind::Denied);
        let late = tree.lookup(tree.root(), &name("made")).await.expect("it is there").ino;
        assert_eq!(tree.write(late, 0, "x".into(), false).await.expect_err("lost").kind(), ErrorKind::Denied);
        tree.close().await.expect_err("not all is durable");
        drop(tree);
        assert!(uncommitted_count(journal, &testing::env()).await.expect("read") >= 2);
    }
}
