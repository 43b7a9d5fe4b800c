//! From a name to content: record after record.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use super::{IpnsName, Record, Target};
use crate::{Cid, Error, ErrorKind, Name, Result};

/// The most names that one leads to the next of.
pub const NAME_COUNT_MAX: usize = 32;

/// Where records are looked up.
#[async_trait]
pub trait Records: Send + Sync + fmt::Debug {
    /// The newest record of a name that is known here, verified, be it still good or not; `None` where there is none.
    ///
    /// # Errors
    /// `Unavailable`, `Io`, and what is wrong with a record, as [`Record::verify`] has it.
    async fn record(&self, name: &IpnsName) -> Result<Option<Record>>;

    /// The same, and for how long whoever has it need not ask again: the record's time to live, or what is left of it where
    /// it was found a while ago. That a record may end before is not counted in.
    ///
    /// # Errors
    /// Those of [`record`](Self::record).
    async fn record_and_ttl(&self, name: &IpnsName) -> Result<Option<(Record, Duration)>> {
        Ok(self.record(name).await?.map(|record| {
            let ttl = record.ttl();
            (record, ttl)
        }))
    }
}

/// Where a name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The content.
    pub root: Cid,
    /// What is meant below it.
    pub path: Vec<Name>,
    /// How long that need not be asked again: what is left of what the records say, at most until one of them ends.
    pub ttl: Duration,
}

/// Follows a name, and names that it leads to, to content.
///
/// # Errors
/// `NotFound` for a name that has no record, or one that is not good at `now` any more; `Loop` past [`NAME_COUNT_MAX`] names;
/// what [`Record::target`] and `records` fail with.
pub async fn resolve(records: &dyn Records, name: &IpnsName, now: SystemTime) -> Result<Resolved> {
    const OP: &str = "ipns.resolve";
    let (mut name, mut below, mut ttl) = (name.clone(), Vec::new(), Duration::MAX);
    for _ in 0..NAME_COUNT_MAX {
        let Some((record, kept_for)) = records.record_and_ttl(&name).await? else {
            return Err(Error::new(ErrorKind::NotFound, OP).at(&name).because("no record of this name is known here"));
        };
        if !record.is_good(now) {
            let why = "the newest record of this name is not good any more: its owner has to publish it again";
            return Err(Error::new(ErrorKind::NotFound, OP).at(&name).because(why));
        }
        ttl = ttl.min(kept_for).min(record.expires().duration_since(now).unwrap_or_default());
        match record.target().map_err(|error| error.at(&name))? {
            Target::Content(root, mut path) => {
                path.append(&mut below);
                return Ok(Resolved { root, path, ttl });
            }
            Target::Name(next, mut path) => {
                path.append(&mut below);
                (name, below) = (next, path);
            }
        }
    }
    Err(Error::new(ErrorKind::Loop, OP).at(name).because("names lead to names without an end"))
}
