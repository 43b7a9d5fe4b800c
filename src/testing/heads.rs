//! The laws of [`Heads`]: what every place of mutable pointers keeps.
//!
//! ```
//! # use muxfs::heads::MemHeads;
//! muxfs::heads_laws!(mem, async { MemHeads::default() });
//! ```

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::linear::{Call, Model, Role, check};
use crate::{
    ErrorKind, Name,
    heads::{HEAD_LEN_MAX, Heads, Swap, Version},
};

/// Runs every law of [`Heads`] over an implementation, each as a test of its own.
///
/// `heads_laws!(name, make)` makes a module `name` of tests; `make` is a future that gives new, empty heads, or a
/// [`Subject`]. Exceptions are named with a reason: `heads_laws!(name, make, except: { a_law: "why" })`.
#[macro_export]
macro_rules! heads_laws {
    ($module:ident, $make:expr $(, except: $except:tt)? $(,)?) => {
        $crate::laws!(heads, $module, $make, [$($except)?],
            what_was_never_set_is_none, a_swap_needs_the_version_that_is_there, a_version_never_comes_back,
            of_many_swappers_one_wins, names_are_apart, heads_are_bytes, what_was_swapped_survives_reopening);
    };
}

/// Heads under test.
pub struct Subject {
    heads: Arc<dyn Heads>,
    reopen: Option<Reopen>,
    len_max: usize,
}

type Reopen = Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Heads>> + Send + Sync>;

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("heads", &self.heads).finish_non_exhaustive()
    }
}

impl<H: Heads> From<H> for Subject {
    fn from(heads: H) -> Self {
        Self { heads: Arc::new(heads), reopen: None, len_max: HEAD_LEN_MAX }
    }
}

impl Subject {
    /// Heads and the way to open them again, which is taken when the ones before are dropped.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::{heads::{Heads, LogHeads}, media::MemMedia, testing::heads::Subject};
    /// async fn subject() -> Subject {
    ///     let media = Arc::new(MemMedia::default());
    ///     Subject::reopening(move || {
    ///         let media = media.clone();
    ///         Box::pin(async { Arc::new(LogHeads::open(media, &muxfs::testing::env()).await.unwrap()) as Arc<dyn Heads> })
    ///     })
    ///     .await
    /// }
    /// muxfs::heads_laws!(log, subject());
    /// ```
    pub async fn reopening(open: impl Fn() -> BoxFuture<'static, Arc<dyn Heads>> + Send + Sync + 'static) -> Self {
        Self { heads: open().await, reopen: Some(Box::new(open)), len_max: HEAD_LEN_MAX }
    }

    /// Heads that take less: all of them and their names have at most so many bytes together.
    #[must_use]
    pub fn with_len_max(self, len_max: usize) -> Self {
        Self { len_max, ..self }
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

async fn load(heads: &dyn Heads, text: &str) -> Option<(Bytes, Version)> {
    heads.load(&name(text)).await.expect("load")
}

async fn swap(heads: &dyn Heads, text: &str, expected: Option<&Version>, head: impl Into<Bytes>) -> Option<Version> {
    match heads.swap(&name(text), expected, head.into()).await.expect("swap") {
        Swap::Done(version) => Some(version),
        Swap::Lost => None,
    }
}

/// A head that never was set is `None`.
pub async fn what_was_never_set_is_none(subject: Subject) {
    assert_eq!(load(&*subject.heads, "main").await, None);
}

/// A swap is done only where the head has the expected version; one that is lost changes nothing.
pub async fn a_swap_needs_the_version_that_is_there(subject: Subject) {
    let heads = &*subject.heads;
    let first = swap(heads, "main", None, "one").await.expect("it never was set");
    assert_eq!(load(heads, "main").await, Some(("one".into(), first.clone())));
    assert_eq!(swap(heads, "main", None, "two").await, None, "it is set already");
    assert_eq!(load(heads, "main").await, Some(("one".into(), first.clone())));
    let second = swap(heads, "main", Some(&first), "two").await.expect("the version is right");
    assert_eq!(swap(heads, "main", Some(&first), "three").await, None, "the version is old");
    assert_eq!(swap(heads, "other", Some(&first), "x").await, None, "what never was set has no version");
    assert_eq!(load(heads, "other").await, None);
    assert_eq!(load(heads, "main").await, Some(("two".into(), second)));
}

/// No version is had twice, not even where the same bytes are set again.
pub async fn a_version_never_comes_back(subject: Subject) {
    let heads = &*subject.heads;
    let mut seen: Vec<Version> = Vec::new();
    for n in 0..20 {
        let version = swap(heads, "main", seen.last(), if n % 2 == 0 { "even" } else { "odd" }).await;
        let version = version.expect("the version is right");
        assert!(!seen.contains(&version));
        seen.push(version);
    }
}

/// Of many who swap the same version at the same time one wins.
pub async fn of_many_swappers_one_wins(subject: Subject) {
    let mut current = None;
    for round in 0..10 {
        let swappers: Vec<_> = (0..8)
            .map(|n| {
                let (heads, current) = (Arc::clone(&subject.heads), current.clone());
                tokio::spawn(async move { swap(&*heads, "main", current.as_ref(), format!("{round}.{n}")).await })
            })
            .collect();
        let mut winners = Vec::new();
        for (n, swapper) in swappers.into_iter().enumerate() {
            winners.extend(swapper.await.expect("no panic").map(|version| (format!("{round}.{n}"), version)));
        }
        assert_eq!(winners.len(), 1);
        let (head, version) = winners.remove(0);
        assert_eq!(load(&*subject.heads, "main").await, Some((head.into(), version.clone())));
        current = Some(version);
    }
}

/// Names are apart, and are bytes.
pub async fn names_are_apart(subject: Subject) {
    let heads = &*subject.heads;
    let names: Vec<_> = [&b"a"[..], b"aa", b"A", b"\xff\xfe", &[b'n'; 255]].map(Name::new).into();
    for (n, name) in names.iter().enumerate() {
        let name = name.as_ref().expect("a name");
        let swapped = heads.swap(name, None, format!("{n}").into()).await.expect("swap");
        assert!(matches!(swapped, Swap::Done(_)));
    }
    for (n, name) in names.iter().enumerate() {
        let loaded = heads.load(name.as_ref().expect("a name")).await.expect("load");
        assert_eq!(loaded.expect("it is set").0, format!("{n}"));
    }
}

/// A head is any bytes, none included, up to its limit; past it `TooLarge`.
pub async fn heads_are_bytes(subject: Subject) {
    let (heads, len_max) = (&*subject.heads, subject.len_max);
    // Where names count, too, that of this one does.
    let longest = if len_max < HEAD_LEN_MAX { len_max - "main".len() } else { HEAD_LEN_MAX };
    let mut version = None;
    for bytes in [Bytes::new(), Bytes::from_static(b"\0\xff"), vec![7; longest].into()] {
        version = swap(heads, "main", version.as_ref(), bytes.clone()).await;
        assert_eq!(load(heads, "main").await.expect("it is set").0, bytes);
    }
    let too_long = vec![0; longest + 1];
    let error = heads.swap(&name("main"), version.as_ref(), too_long.into()).await.expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

/// A swap that was done is there after opening again, with its version.
pub async fn what_was_swapped_survives_reopening(subject: Subject) {
    let Subject { mut heads, reopen, .. } = subject;
    let Some(reopen) = reopen else {
        crate::testing::skip(format_args!(
            "what_was_swapped_survives_reopening: {heads:?} is given no way to open again"
        ));
        return;
    };
    let mut versions: Vec<Version> = Vec::new();
    for round in 0..30 {
        let version = swap(&*heads, "main", versions.last(), format!("{round}")).await.expect("the version is right");
        assert!(!versions.contains(&version), "no version comes back");
        drop(heads);
        heads = reopen().await;
        assert_eq!(load(&*heads, "main").await, Some((format!("{round}").into(), version.clone())));
        versions.push(version);
    }
}

/// What a client asked of a head, and was told: versions by their bytes.
#[derive(Debug)]
enum Asked {
    Load(Option<Bytes>),
    /// The version that was expected, and the one that it then had; `None` where it was lost.
    Swap(Option<Bytes>, Option<Bytes>),
}

/// One head.
struct OneHead;

impl Model for OneHead {
    type State = Option<Bytes>;
    type Op = Asked;

    fn step(&self, state: &Option<Bytes>, op: &Asked) -> Option<Option<Bytes>> {
        match op {
            Asked::Load(told) => (told == state).then(|| state.clone()),
            Asked::Swap(expected, Some(new)) => (expected == state).then(|| Some(new.clone())),
            Asked::Swap(expected, None) => (expected != state).then(|| state.clone()),
        }
    }

    fn looks(&self, op: &Asked) -> bool {
        matches!(op, Asked::Load(_) | Asked::Swap(_, None))
    }
}

/// What clients at once are told by `load` and `swap` can have happened one after the other. No part of the laws that the
/// macro runs: it takes heads whose calls do not fail, one of `places` for each client, which show the same heads.
///
/// ```
/// use std::sync::Arc;
/// use muxfs::{heads::{Heads, MemHeads}, testing::heads::calls_at_once_can_be_put_in_order};
/// # tokio::runtime::Builder::new_multi_thread().build().unwrap().block_on(async {
/// let heads: Arc<dyn Heads> = Arc::new(MemHeads::default());
/// calls_at_once_can_be_put_in_order(vec![heads; 4], 20).await;
/// # });
/// ```
pub async fn calls_at_once_can_be_put_in_order(places: Vec<Arc<dyn Heads>>, round_count: usize) {
    let clock = Arc::new(AtomicU64::new(0));
    let clients = places.into_iter().enumerate().map(|(n, heads)| {
        let clock = Arc::clone(&clock);
        tokio::spawn(async move {
            let now = || clock.fetch_add(1, Ordering::SeqCst);
            let (name, who) = (name("main"), format!("client {n}"));
            let mut calls = Vec::new();
            for round in 0..round_count {
                let begun = now();
                let found = heads.load(&name).await.expect("load").map(|(_, version)| version);
                let op = Asked::Load(found.as_ref().map(|version| version.0.clone()));
                calls.push(Call { who: who.clone(), role: Role::Read, op, begun, returned: Some(now()) });
                let begun = now();
                let swap = heads.swap(&name, found.as_ref(), format!("{n} {round}").into()).await.expect("swap");
                let (role, told) = match swap {
                    Swap::Done(version) => (Role::Change, Some(version.0)),
                    Swap::Lost => (Role::Read, None),
                };
                let op = Asked::Swap(found.map(|version| version.0), told);
                calls.push(Call { who: who.clone(), role, op, begun, returned: Some(now()) });
            }
            calls
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut calls = Vec::new();
    for client in clients {
        calls.extend(client.await.expect("no panic"));
    }
    assert!(calls.iter().filter(|call| call.role == Role::Change).count() >= round_count, "somebody wins");
    if let Err(refuted) = check(&OneHead, vec![None], calls) {
        panic!("{refuted}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        heads::{LogHeads, MemHeads},
        media::MemMedia,
    };

    async fn log() -> Subject {
        let media = Arc::new(MemMedia::default());
        Subject::reopening(move || {
            let media = Arc::clone(&media);
            Box::pin(async {
                Arc::new(LogHeads::open(media, &crate::testing::env()).await.expect("open")) as Arc<dyn Heads>
            })
        })
        .await
    }

    crate::heads_laws!(mem, async { MemHeads::default() });
    crate::heads_laws!(in_a_log, log());
}
