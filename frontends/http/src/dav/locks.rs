//! Locks (RFC 4918 6 and 7): who writes says so first, and others are kept from writing over it.
//!
//! In memory: they end with the server, and each with its time. They hold among those who write over HTTP, of whom each
//! knows a lock by its token; NFS, FTP and mounts see none of it, as with other servers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use muxfs::Name;
use tokio::time::Instant;

/// The most locks at once: each is looked at where a path may be locked.
pub(crate) const LOCK_COUNT_MAX: usize = 1024;

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lock {
    /// A URI that nobody can guess.
    pub(crate) token: String,
    /// What it is on.
    pub(crate) path: Vec<Name>,
    /// Whether it is on all that is below, too.
    pub(crate) is_deep: bool,
    pub(crate) is_shared: bool,
    /// Who has it, as they said: an element, as text.
    pub(crate) owner: String,
    /// When it ends by itself.
    pub(crate) until: Instant,
}

impl Lock {
    /// Whether it is on what is at `path`.
    fn covers(&self, path: &[Name]) -> bool {
        self.path == path || (self.is_deep && path.starts_with(&self.path))
    }

    /// How long it has yet.
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// What a change does to a path, as far as locks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch<'a> {
    /// It changes what is there; of a directory, which names are in it.
    Node(&'a [Name]),
    /// It makes, removes or replaces it with all that is below, and so changes the directory above.
    Tree(&'a [Name]),
}

/// Why there is no lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// By a lock on this.
    Locked(Vec<Name>),
    TooMany,
}

/// The locks of a server.
#[derive(Debug, Default)]
pub(crate) struct Locks(Mutex<Vec<Arc<Lock>>>);

impl Locks {
    /// Those that have not ended.
    fn live(&self) -> MutexGuard<'_, Vec<Arc<Lock>>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        locks.retain(|lock| lock.until > now);
        locks
    }

    /// The locks on what is at `path`.
    pub(crate) fn covering(&self, path: &[Name]) -> Vec<Arc<Lock>> {
        self.live().iter().filter(|lock| lock.covers(path)).cloned().collect()
    }

    /// Takes a lock.
    pub(crate) fn take(&self, lock: Lock) -> Result<Arc<Lock>, Refused> {
        let mut locks = self.live();
        let meets = |other: &&Arc<Lock>| {
            let is_met = other.covers(&lock.path) || (lock.is_deep && other.path.starts_with(&lock.path));
            is_met && !(other.is_shared && lock.is_shared)
        };
        if let Some(other) = locks.iter().find(meets) {
            return Err(Refused::Locked(other.path.clone()));
        }
        if locks.len() >= LOCK_COUNT_MAX {
            return Err(Refused::TooMany);
        }
        let lock = Arc::new(lock);
        locks.push(lock.clone());
        Ok(lock)
    }

    /// Gives the lock on `path` with one of these tokens more time; `None` where there is none.
    pub(crate) fn refresh(&self, path: &[Name], tokens: &[String], time: Duration) -> Option<Arc<Lock>> {
        let mut locks = self.live();
        let found = locks.iter_mut().find(|lock| lock.covers(path) && tokens.contains(&lock.token))?;
        Arc::make_mut(found).until = Instant::now() + time;
        Some(found.clone())
    }

    /// Gives the lock on `path` with this token back, and says whether there was one.
    pub(crate) fn give_back(&self, path: &[Name], token: &str) -> bool {
        let mut locks = self.live();
        let count = locks.len();
        locks.retain(|lock| !(lock.covers(path) && lock.token == token));
        locks.len() < count
    }

    /// Ends the locks on what went from `path`, and below it.
    pub(crate) fn forget(&self, path: &[Name]) {
        self.live().retain(|lock| !lock.path.starts_with(path));
    }

    /// Ends the locks on what is below `path`.
    pub(crate) fn forget_below(&self, path: &[Name]) {
        self.live().retain(|lock| lock.path == path || !lock.path.starts_with(path));
    }

    /// Whether whoever has `tokens` may make these changes; else what the lock is on that keeps them from it.
    pub(crate) fn check(&self, touched: &[Touch<'_>], tokens: &[String]) -> Result<(), Vec<Name>> {
        let locks = self.live();
        let closed_by = |path: &[Name]| {
            let mut on_it = locks.iter().filter(|lock| lock.covers(path)).peekable();
            let first = on_it.peek().copied();
            // Of several shared ones one is enough.
            first.filter(|_| !on_it.any(|lock| tokens.contains(&lock.token)))
        };
        for touch in touched {
            let (path, is_tree) = match *touch {
                Touch::Node(path) => (path, false),
                Touch::Tree(path) => (path, true),
            };
            let above = path.split_last().map(|(_, above)| above).filter(|_| is_tree);
            let below = locks.iter().filter(|lock| is_tree && lock.path.starts_with(path)).map(|lock| &*lock.path);
            if let Some(lock) = above.into_iter().chain([path]).chain(below).find_map(closed_by) {
                return Err(lock.path.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<Name> {
        text.split('/')
            .filter(|part| !part.is_empty())
            .map(|part| Name::new(part.as_bytes()).expect("a name"))
            .collect()
    }

    fn lock(token: &str, at: &str, is_deep: bool, is_shared: bool) -> Lock {
        let until = Instant::now() + Duration::from_mins(1);
        Lock { token: token.into(), path: path(at), is_deep, is_shared, owner: String::new(), until }
    }

    #[tokio::test(start_paused = true)]
    async fn locks_keep_each_other_out() {
        let locks = Locks::default();
        locks.take(lock("1", "/m/a", true, false)).expect("free");
        locks.take(lock("2", "/m/b", false, true)).expect("free");
        locks.take(lock("3", "/m/b", false, true)).expect("both share it");
        for (at, is_deep, is_shared) in
            [("/m/a", false, false), ("/m/a/x/y", false, true), ("/m", true, true), ("/m/b", false, false)]
        {
            let refused = locks.take(lock("4", at, is_deep, is_shared)).expect_err(at);
            assert!(matches!(refused, Refused::Locked(_)), "{at}");
        }
        locks.take(lock("5", "/m", false, false)).expect("not on what is below");
        locks.take(lock("6", "/m/b/x", true, false)).expect("not on what is above");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_needs_the_tokens_of_what_it_touches() {
        let locks = Locks::default();
        locks.take(lock("dir", "/m/d", false, false)).expect("free");
        locks.take(lock("deep", "/m/e", true, false)).expect("free");
        locks.take(lock("leaf", "/m/f/g/h", false, false)).expect("free");
        let (d, dx, ex, f, fi) = (path("/m/d"), path("/m/d/x"), path("/m/e/x"), path("/m/f"), path("/m/f/i"));
        for (touch, token) in [
            (Touch::Node(&d), Some("dir")),
            (Touch::Node(&dx), None),
            (Touch::Tree(&dx), Some("dir")),
            (Touch::Node(&ex), Some("deep")),
            (Touch::Tree(&ex), Some("deep")),
            (Touch::Node(&f), None),
            (Touch::Tree(&f), Some("leaf")),
            (Touch::Tree(&fi), None),
        ] {
            assert_eq!(locks.check(&[touch], &[]).is_ok(), token.is_none(), "{touch:?}");
            assert_eq!(locks.check(&[touch], &["other".into()]).is_ok(), token.is_none(), "{touch:?}");
            assert!(locks.check(&[touch], &token.map(str::to_owned).into_iter().collect::<Vec<_>>()).is_ok());
        }
        locks.forget(&f);
        assert!(locks.check(&[Touch::Tree(&f)], &[]).is_ok());
        assert!(!locks.give_back(&d, "deep") && locks.give_back(&d, "dir") && !locks.give_back(&d, "dir"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_ends_with_its_time_unless_it_gets_more() {
        let locks = Locks::default();
        let at = path("/m/a");
        locks.take(lock("1", "/m/a", true, false)).expect("free");
        tokio::time::advance(Duration::from_secs(50)).await;
        assert!(locks.refresh(&at, &["2".into()], Duration::from_mins(1)).is_none());
        assert!(locks.refresh(&path("/m/a/b"), &["1".into()], Duration::from_mins(1)).is_some());
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(locks.covering(&at).len(), 1);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(locks.covering(&at).is_empty() && locks.take(lock("2", "/m", true, false)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_not_more_locks_than_can_be_looked_at() {
        let locks = Locks::default();
        for index in 0..LOCK_COUNT_MAX {
            locks.take(lock("t", &format!("/m/{index}"), false, false)).expect("room");
        }
        assert_eq!(locks.take(lock("t", "/m/x", false, false)), Err(Refused::TooMany));
    }
}
