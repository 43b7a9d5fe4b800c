//! What a journal continues: the commit that its changes were made on, and whether the head is that one.
//!
//! A journal and the head of its tree may be in two places, and one of them be put back to what it was while the other is not: a bucket
//! from a copy, a data directory from a backup. Changes that were made on one state and are played over another make a third
//! that never was. So a journal says from its beginning on which commit it continues, and one whose changes no commit of the head
//! holds is not played over that head. Spec: spec/journal.md #what-it-continues.

use std::sync::Arc;

use super::{Commit, TreeOptions, open::KIND, record::Record, state::Base};
use crate::{
    Cid, Error, ErrorKind, Name, Result,
    dag::Dag,
    log::{Log, LogOptions, LogPos},
    media::Media,
};

/// What to do about a journal and a head that do not belong together.
const ADVICE: &str = "Nothing of the journal was played, and nothing was changed. One of the two was put back to what it was, or another \
                      program went on with the head: bring back the one that belongs to the other. Or, to go on from what the head has \
                      and do without these changes, move the journal of this tree aside, and keep it for as long as they may be missed";

/// What is known of a journal while its records go by.
#[derive(Debug, Default)]
pub(super) struct Continued {
    /// The place of the first change.
    first: Option<LogPos>,
    /// Whether it says what it continues, before all changes. One of an earlier version does from its first commit on.
    is_said: bool,
    /// The last commit that it speaks of.
    last: Option<Cid>,
    /// Whether one of those that it speaks of is the head.
    has_head: bool,
    /// The freezes, and how many changes there were until each, of those that no commit of the head is known to hold.
    frozen: Vec<(LogPos, u64)>,
    /// How many changes came since.
    change_count: u64,
}

impl Continued {
    /// Takes note of the next record.
    pub(super) fn note(&mut self, pos: LogPos, record: &Record, head: &Base) {
        match record {
            Record::Change { .. } => {
                self.first.get_or_insert(pos);
                self.change_count += 1;
            }
            Record::Freeze => self.frozen.push((pos, std::mem::take(&mut self.change_count))),
            Record::Commit { through, cid } => {
                self.is_said |= self.first.is_none_or(|first| first > *through);
                self.last = Some(*cid);
                self.has_head |= *cid == head.cid;
                if *cid == head.cid || head.commit.prev.contains(cid) {
                    self.frozen.retain(|(frozen, _)| frozen > through);
                }
            }
            Record::Flush { .. } | Record::Chunk { .. } => {}
        }
    }

    /// Whether it says nothing yet.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.last.is_none()
    }

    /// The commit that it continues where that is another than the head.
    pub(super) fn other(&self) -> Option<Cid> {
        self.last.filter(|_| self.is_said && !self.has_head)
    }

    /// How many changes it has that no commit of the head is known to hold.
    pub(super) fn left_count(&self) -> u64 {
        self.frozen.iter().map(|(_, count)| count).sum::<u64>() + self.change_count
    }
}

/// Says in a journal that what follows is done on this commit, and gives the place from which on it says so.
pub(super) async fn continue_from(log: &Log, cid: Cid) -> Result<LogPos> {
    let through = log.append(Record::Freeze.encode()).await?;
    log.append(Record::Commit { through, cid }.encode()).await?;
    Ok(through)
}

/// Ties a journal that has nothing left to another head than it spoke of.
pub(super) async fn begin_anew(log: &Log, cid: Cid) -> Result<()> {
    log.rotate()?;
    let through = continue_from(log, cid).await?;
    log.sync().await?;
    log.drop_before(through).await
}

/// The refusal to play `count` changes that were made on the commit `on` over this head.
pub(super) async fn refusal(dag: &Dag, name: &Name, (on, count): (Cid, u64), head: &Base) -> Error {
    let how = if head.commit.prev.contains(&on) {
        "which came later"
    } else if Commit::get(dag, &on).await.is_ok_and(|commit| commit.prev.contains(&head.cid)) {
        "which came earlier"
    } else {
        "of which that one knows nothing"
    };
    let why = format!(
        "the journal has changes, {count}, that were made on the commit {on}, and the head {name} names the commit {}, {how}. {ADVICE}",
        head.cid
    );
    Error::new(ErrorKind::Denied, "tree.journal").because(why)
}

/// Refuses to make a new tree under a journal that has changes of one.
pub(super) async fn check_without_head(journal: &Arc<dyn Media>, options: &TreeOptions) -> Result<()> {
    let (mut count, mut last) = (0_u64, None);
    let log = Log::open(Arc::clone(journal), LogOptions::new(KIND, &options.env), |pos, record| {
        match Record::decode(&record).map_err(|error| error.at(pos))? {
            Record::Change { .. } => count += 1,
            Record::Commit { cid, .. } => last = Some(cid),
            Record::Freeze | Record::Flush { .. } | Record::Chunk { .. } => {}
        }
        Ok(())
    });
    drop(log.await?);
    if count == 0 {
        return Ok(());
    }
    let on = last.map_or_else(|| "a commit that it does not tell".to_owned(), |cid| format!("the commit {cid}"));
    let why = format!(
        "the journal has changes, {count}, that were made on {on}, and there is no head {}. {ADVICE}",
        options.head
    );
    Err(Error::new(ErrorKind::Denied, "tree.journal").because(why))
}
