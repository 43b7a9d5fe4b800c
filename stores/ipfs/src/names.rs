//! Records of names that others know: all sources are asked at once, and the newest record counts.
//!
//! Sits beside [`Sources`](crate::Sources), before the table of who publishes here. A record proves itself, so a source that
//! lies costs its answer and nothing else; one that is slow or silent is waited for as long as nobody else has answered.
//! Spec: spec/ipns.md #from-elsewhere.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use muxfs::{
    Env, Error, ErrorKind, Result,
    ipns::{IpnsName, Record, Records},
};
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, sleep_until},
};

/// Of so many names it is kept what they led to: who asks for more has the one that was asked for longest ago let go.
const KEPT_COUNT_MAX: usize = 1024;

/// How long others are waited for, and what they say is kept.
#[derive(Debug, Clone)]
pub struct NamesOptions {
    /// How long all of them together may take.
    pub time_max: Duration,
    /// How long the others are waited for when one gave a record that is good.
    pub others_max: Duration,
    /// A record is kept for as long as it says, at least and at most; and never longer than it is good.
    pub ttl_min: Duration,
    /// See `ttl_min`.
    pub ttl_max: Duration,
    /// How long nobody is asked again for a name of which nobody had a good record.
    pub rest: Duration,
}

impl Default for NamesOptions {
    /// 20 s in all, 500 ms for others; records are kept for 5 s to 1 h, that there is none for 10 s.
    fn default() -> Self {
        Self {
            time_max: Duration::from_secs(20),
            others_max: Duration::from_millis(500),
            ttl_min: Duration::from_secs(5),
            ttl_max: Duration::from_hours(1),
            rest: Duration::from_secs(10),
        }
    }
}

/// The records that are known here, and of names that have no good one here those that others know.
///
/// Who wants one name at the same time waits for one look. A record that was found is not let go for an older one, and
/// while it is good it counts also where nobody answers any more.
pub struct NameSources {
    own: Arc<dyn Records>,
    sources: Vec<Arc<dyn Records>>,
    options: NamesOptions,
    now: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    kept: Mutex<HashMap<IpnsName, Kept>>,
}

/// What was found out about a name, and when it was asked for last.
struct Kept {
    used: Instant,
    look: Arc<AsyncMutex<Look>>,
}

#[derive(Default)]
struct Look {
    record: Option<Record>,
    /// Why there may be another one; `None` where all said what they know.
    failure: Option<Arc<Error>>,
    /// Until when nobody is asked again; `None` before the first time.
    until: Option<Instant>,
}

impl fmt::Debug for NameSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameSources").field("own", &self.own).field("sources", &self.sources).finish_non_exhaustive()
    }
}

/// Whichever counts.
fn newest(one: Option<Record>, other: Option<Record>) -> Option<Record> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if one.cmp_age(&other).is_ge() { one } else { other }),
        (one, other) => one.or(other),
    }
}

impl NameSources {
    /// Asks `sources` for what `own` has no good record of.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use muxfs::ipns::Records;
    /// use muxfs_ipfs::{Gateway, HttpOptions, NameSources, NamesOptions};
    /// # fn names(own: Arc<dyn Records>, env: &muxfs::Env) -> muxfs::Result<NameSources> {
    /// let gateway = Gateway::new("https://gateway.example".parse()?, HttpOptions::default());
    /// Ok(NameSources::new(own, vec![Arc::new(gateway)], NamesOptions::default(), env))
    /// # }
    /// ```
    pub fn new(own: Arc<dyn Records>, sources: Vec<Arc<dyn Records>>, options: NamesOptions, env: &Env) -> Self {
        Self { own, sources, options, now: env.now.clone(), kept: Mutex::default() }
    }

    /// What is kept of a name, and who asks for it waits for.
    fn look_of(&self, name: &IpnsName) -> Arc<AsyncMutex<Look>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.contains_key(name)
            && kept.len() >= KEPT_COUNT_MAX
            && let Some(oldest) = kept.iter().min_by_key(|(_, kept)| kept.used).map(|(name, _)| name.clone())
        {
            kept.remove(&oldest);
        }
        let used = Instant::now();
        let of_name = kept.entry(name.clone()).or_insert_with(|| Kept { used, look: Arc::default() });
        of_name.used = used;
        of_name.look.clone()
    }

    /// Asks everybody, and waits for those who may know something newer.
    async fn ask(&self, name: &IpnsName) -> (Option<Record>, Option<Error>) {
        let mut deadline = Instant::now() + self.options.time_max;
        let mut asked: FuturesUnordered<_> = self.sources.iter().map(|source| source.record(name)).collect();
        let (mut found, mut failure) = (None, None);
        loop {
            let answer = tokio::select! {
                biased;
                answer = asked.next() => answer,
                () = sleep_until(deadline) => {
                    let secs = self.options.time_max.as_secs_f32();
                    failure.get_or_insert_with(|| unavailable(format!("not every source answered in {secs} s")));
                    break;
                }
            };
            match answer {
                None => break,
                Some(Ok(Some(record))) if record.name() == name => {
                    if record.is_good((self.now)()) {
                        deadline = deadline.min(Instant::now() + self.options.others_max);
                    }
                    found = newest(found, Some(record));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::debug!(%name, error = format!("{error:#}"), "a source gives no record");
                    failure.get_or_insert(error);
                }
            }
        }
        (found, failure)
    }

    /// Asks, and notes how long that counts.
    async fn renew(&self, name: &IpnsName, look: &mut Look) {
        let (found, failure) = self.ask(name).await;
        let (now, is_told) = ((self.now)(), found.is_some());
        look.record = newest(look.record.take(), found);
        look.failure = failure.map(Arc::new);
        let good_for = look.record.as_ref().and_then(|record| {
            let left = record.expires().duration_since(now).ok()?;
            Some(record.ttl().clamp(self.options.ttl_min, self.options.ttl_max).min(left))
        });
        let keep = good_for.filter(|_| is_told).unwrap_or(self.options.rest);
        look.until = Some(Instant::now() + keep);
    }
}

fn unavailable(why: String) -> Error {
    Error::new(ErrorKind::Unavailable, "names.record").because(why)
}

#[async_trait]
impl Records for NameSources {
    /// The newest record that is known here or elsewhere; `Unavailable` where there is none, and somebody could not be asked.
    async fn record(&self, name: &IpnsName) -> Result<Option<Record>> {
        let own = self.own.record(name).await?;
        if self.sources.is_empty() || own.as_ref().is_some_and(|own| own.is_good((self.now)())) {
            return Ok(own);
        }
        let look = self.look_of(name);
        let mut look = look.lock().await;
        if look.until.is_none_or(|until| until <= Instant::now()) {
            self.renew(name, &mut look).await;
        }
        match (newest(own, look.record.clone()), &look.failure) {
            (None, Some(failure)) => {
                Err(Error::new(ErrorKind::Unavailable, "names.record").at(name).because(failure.clone()))
            }
            (newest, _) => Ok(newest),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use muxfs::{SecretKey, ipns::NameKey, testing};

    use super::*;

    /// What a source does when it is asked.
    #[derive(Debug, Clone)]
    enum Says {
        Record(Record),
        Nothing,
        Fails,
        /// Never.
        Silence,
    }

    #[derive(Debug)]
    struct Someone {
        says: Mutex<Says>,
        asked: AtomicUsize,
    }

    impl Someone {
        fn new(says: Says) -> Arc<Self> {
            Arc::new(Self { says: Mutex::new(says), asked: AtomicUsize::new(0) })
        }

        fn say(&self, says: Says) {
            *self.says.lock().expect("no panic") = says;
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    #[async_trait]
    impl Records for Someone {
        async fn record(&self, _name: &IpnsName) -> Result<Option<Record>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let says = self.says.lock().expect("no panic").clone();
            match says {
                Says::Record(record) => Ok(Some(record)),
                Says::Nothing => Ok(None),
                Says::Fails => Err(unavailable("a test says so".into())),
                Says::Silence => std::future::pending().await,
            }
        }
    }

    fn key(seed: u8) -> NameKey {
        NameKey::of_seed(SecretKey::new([seed; 32]))
    }

    fn record(seed: u8, sequence: u64, good_for: i64, ttl: u64) -> Record {
        let now = (testing::env().now)();
        let span = Duration::from_secs(good_for.unsigned_abs());
        let expires = if good_for < 0 { now - span } else { now + span };
        Record::create(&key(seed), b"/ipfs/bafkqaaa", sequence, expires, Duration::from_secs(ttl)).expect("a record")
    }

    fn names(own: Says, sources: &[&Arc<Someone>]) -> (NameSources, Arc<Someone>) {
        let own = Someone::new(own);
        let sources = sources.iter().map(|source| Arc::clone(source) as Arc<dyn Records>).collect();
        (NameSources::new(own.clone(), sources, NamesOptions::default(), &testing::env()), own)
    }

    async fn sequence(names: &NameSources) -> Option<u64> {
        names.record(key(1).name()).await.expect("an answer").map(|record| record.sequence())
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_record_of_our_own_asks_nobody_and_an_old_one_does() {
        let source = Someone::new(Says::Record(record(1, 9, 1000, 300)));
        let (names, own) = names(Says::Record(record(1, 3, 1000, 300)), &[&source]);
        assert_eq!((sequence(&names).await, source.asked()), (Some(3), 0));
        own.say(Says::Record(record(1, 3, -1, 300)));
        assert_eq!((sequence(&names).await, source.asked()), (Some(9), 1));
        own.say(Says::Nothing);
        assert_eq!((sequence(&names).await, source.asked()), (Some(9), 1), "it is kept");
    }

    /// The newest counts, also where a source that says an older one is faster, and a stranger's never.
    #[tokio::test(start_paused = true)]
    async fn the_newest_record_of_all_counts() {
        let sources = [record(1, 4, 1000, 300), record(1, 7, 1000, 300), record(2, 99, 1000, 300)];
        let sources = sources.map(|record| Someone::new(Says::Record(record)));
        let (names, _) = names(Says::Nothing, &[&sources[0], &sources[1], &sources[2]]);
        assert_eq!(sequence(&names).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_source_is_waited_for_no_longer_than_needed() {
        let (silent, source) = (Someone::new(Says::Silence), Someone::new(Says::Record(record(1, 4, 1000, 300))));
        let (both, _) = names(Says::Nothing, &[&silent, &source]);
        let begun = Instant::now();
        assert_eq!(sequence(&both).await, Some(4));
        assert!(begun.elapsed() <= NamesOptions::default().others_max, "{:?}", begun.elapsed());
        // Alone, for as long as it may take.
        let (alone, _) = names(Says::Nothing, &[&silent]);
        let begun = Instant::now();
        let error = alone.record(key(1).name()).await.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(begun.elapsed() <= NamesOptions::default().time_max + Duration::from_millis(10));
        // Who comes soon after waits for nobody.
        let begun = Instant::now();
        alone.record(key(1).name()).await.expect_err("nobody answered");
        assert_eq!((begun.elapsed(), silent.asked()), (Duration::ZERO, 2));
    }

    /// What was found is kept for its time, renewed after it, not let go for an older one, and good while nobody answers.
    #[tokio::test(start_paused = true)]
    async fn what_was_found_is_kept_and_renewed() {
        let source = Someone::new(Says::Record(record(1, 4, 100_000, 60)));
        let (names, _) = names(Says::Nothing, &[&source]);
        for seconds in [0, 59] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!((sequence(&names).await, source.asked()), (Some(4), 1));
        }
        source.say(Says::Record(record(1, 5, 100_000, 60)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!((sequence(&names).await, source.asked()), (Some(5), 2));
        for (says, asked) in [(Says::Record(record(1, 2, 100_000, 60)), 3), (Says::Fails, 4), (Says::Nothing, 5)] {
            source.say(says);
            tokio::time::advance(Duration::from_secs(61)).await;
            assert_eq!((sequence(&names).await, source.asked()), (Some(5), asked));
        }
        // A time to live of nothing, and of for ever.
        for (ttl, soon) in [(0, 4), (u64::MAX / 2_000_000_000, 3599)] {
            let source = Someone::new(Says::Record(record(1, 4, 100_000, ttl)));
            let (names, _) = super::tests::names(Says::Nothing, &[&source]);
            for (seconds, asked) in [(0, 1), (soon, 1), (2, 2)] {
                tokio::time::advance(Duration::from_secs(seconds)).await;
                assert_eq!((sequence(&names).await, source.asked()), (Some(4), asked), "{ttl}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn that_nobody_knows_a_name_is_told_apart_from_that_nobody_answers() {
        let (knows_not, fails) = (Someone::new(Says::Nothing), Someone::new(Says::Fails));
        let (absent, _) = names(Says::Nothing, &[&knows_not]);
        assert_eq!(sequence(&absent).await, None);
        assert_eq!((sequence(&absent).await, knows_not.asked()), (None, 1), "it is asked once in a while");
        let (unknown, _) = names(Says::Nothing, &[&knows_not, &fails]);
        assert_eq!(unknown.record(key(1).name()).await.expect_err("one failed").kind(), ErrorKind::Unavailable);
        let (ended, _) = names(Says::Record(record(1, 3, -1, 300)), &[&fails]);
        assert_eq!(sequence(&ended).await, Some(3), "for who looks when it ended");
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_names_are_kept_and_no_more() {
        let source = Someone::new(Says::Nothing);
        let (names, _) = names(Says::Nothing, &[&source]);
        for seed in 0..KEPT_COUNT_MAX + 100 {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            let name = NameKey::of_seed(SecretKey::new(bytes));
            assert_eq!(names.record(name.name()).await.expect("an answer"), None);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(names.kept.lock().expect("no panic").len(), KEPT_COUNT_MAX);
    }
}
