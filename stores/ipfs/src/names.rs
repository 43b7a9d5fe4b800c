//! Records of names that others know: all sources are asked at once, and the newest good record counts.
//!
//! Sits beside [`Sources`](crate::Sources), before the table of who publishes here. A record proves itself, so a source that
//! lies costs its answer and nothing else; one that is slow or silent is waited for as long as nobody else has answered, and
//! what it says late counts from then on. Spec: spec/ipns.md #from-elsewhere.

use std::{
    cmp::Ordering,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::{
    StreamExt as _,
    stream::{BoxStream, FuturesUnordered},
};
use muxfs::{
    Env, Error, ErrorKind, Result,
    ipns::{IpnsName, Record, Records},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep_until},
};

/// Of so many names it is kept what they led to: who asks for more has the one that was asked for longest ago let go.
const KEPT_COUNT_MAX: usize = 1024;
/// So many names are asked for at once; who wants one more waits. No source is asked for so many: it has a limit of its own, so
/// that who is slow with names is no slower with blocks.
const ASKED_COUNT_MAX: usize = 64;
/// Of so many names sources are waited for when somebody else gave a good record: as many as a source is asked for at once.
const LATE_COUNT_MAX: usize = 8;

/// How long others are waited for, and what they say is kept.
#[derive(Debug, Clone)]
pub struct NamesOptions {
    /// How long all of them together may take.
    pub time_max: Duration,
    /// How long who wants a name waits for the others when one gave a record that is good; what they say after that, within
    /// `time_max`, counts for who comes then.
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
/// Who wants one name at the same time waits for one look, which goes on though they do not wait any more. A good record that
/// was found is not let go for an older one, and while it is good it counts also where nobody answers any more.
pub struct NameSources {
    own: Arc<dyn Records>,
    others: Arc<Others>,
    kept: Mutex<HashMap<IpnsName, Kept>>,
}

/// Who is asked.
struct Others {
    sources: Vec<Arc<dyn Records>>,
    options: NamesOptions,
    now: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    asked: Arc<Semaphore>,
    late: Arc<Semaphore>,
}

/// What was found out about a name, and when it was asked for last.
struct Kept {
    used: Instant,
    look: Arc<watch::Sender<Look>>,
}

#[derive(Default)]
struct Look {
    record: Option<Record>,
    /// When somebody told of it last: from then on its time to live is counted.
    told: Option<Instant>,
    /// Why there may be another one; `None` where all said what they know.
    failure: Option<Arc<Error>>,
    /// Until when nobody is asked again; `None` before the first time.
    until: Option<Instant>,
    /// Whether who wants the name has to wait.
    is_asked: bool,
}

impl fmt::Debug for NameSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameSources")
            .field("own", &self.own)
            .field("sources", &self.others.sources)
            .finish_non_exhaustive()
    }
}

/// Which of two records counts, the greater: a good one before one whose time is over, and then the newer.
fn cmp(one: &Record, other: &Record, now: SystemTime) -> Ordering {
    one.is_good(now).cmp(&other.is_good(now)).then_with(|| one.cmp_age(other))
}

impl Look {
    fn is_due(&self) -> bool {
        !self.is_asked && self.until.is_none_or(|until| until <= Instant::now())
    }

    /// Takes what somebody told where it counts more than what was known; whether it does.
    fn take(&mut self, record: Record, now: SystemTime) -> Ordering {
        let order = self.record.as_ref().map_or(Ordering::Greater, |known| cmp(&record, known, now));
        if order.is_gt() {
            self.record = Some(record);
        }
        order
    }

    /// Notes how long the record that somebody told of now counts.
    fn keep(&mut self, options: &NamesOptions, now: SystemTime) {
        let left = self.record.as_ref().and_then(|record| Some((record, record.expires().duration_since(now).ok()?)));
        let keep = left.map(|(record, left)| record.ttl().clamp(options.ttl_min, options.ttl_max).min(left));
        self.told = Some(Instant::now());
        self.until = Some(Instant::now() + keep.unwrap_or(options.rest));
    }

    /// How long the record need not be asked for again, as it says itself.
    fn ttl_left(&self, record: &Record) -> Duration {
        let age = self.told.map_or(Duration::MAX, |told| told.elapsed());
        record.ttl().saturating_sub(age)
    }
}

/// A look under way; whoever waits for it is told, however it ends.
struct Asking {
    look: Arc<watch::Sender<Look>>,
    is_told: bool,
}

impl Asking {
    /// Ends the waiting.
    fn tell(&mut self, failure: Option<Error>, finish: impl FnOnce(&mut Look)) {
        self.is_told = true;
        self.look.send_modify(|look| {
            look.failure = failure.map(Arc::new);
            finish(look);
            look.is_asked = false;
        });
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.is_told {
            self.tell(Some(unavailable("the asking broke off".to_owned())), |_| {});
        }
    }
}

impl Others {
    fn now(&self) -> SystemTime {
        (self.now)()
    }

    /// What each says, as it comes; what is about another name is nothing.
    fn answers<'a>(&'a self, name: &'a IpnsName) -> BoxStream<'a, Result<Option<Record>>> {
        let asked: FuturesUnordered<_> = self.sources.iter().map(|source| source.record(name)).collect();
        let own = move |record: &Record| record.name() == name;
        let answers = asked.map(move |answer| {
            let answer = answer.map(|record| record.filter(own));
            answer.inspect_err(|error| {
                tracing::debug!(%name, error = format!("{error:#}"), "a source gives no record");
            })
        });
        answers.boxed()
    }

    fn silence(&self) -> Error {
        unavailable(format!("not every source answered in {} s", self.options.time_max.as_secs_f32()))
    }

    /// Asks everybody, tells who waits when those who may know something newer had their time, and goes on for who is late.
    async fn ask(&self, name: &IpnsName, look: Arc<watch::Sender<Look>>, place: OwnedSemaphorePermit) {
        let end = Instant::now() + self.options.time_max;
        let mut asking = Asking { look: look.clone(), is_told: false };
        let (mut deadline, mut failure, mut is_found, mut place) = (end, None, false, Some(place));
        let mut answers = self.answers(name);
        let finish = |is_found: bool| {
            move |look: &mut Look| {
                if is_found {
                    look.keep(&self.options, self.now());
                } else {
                    look.until = Some(Instant::now() + self.options.rest);
                }
            }
        };
        loop {
            let answer = tokio::select! {
                biased;
                answer = answers.next() => answer,
                () = sleep_until(deadline) => {
                    if deadline == end && !asking.is_told {
                        failure.get_or_insert_with(|| self.silence());
                    }
                    if !asking.is_told {
                        asking.tell(failure.take(), finish(is_found));
                    }
                    if deadline == end {
                        return;
                    }
                    deadline = end;
                    let Ok(late) = self.late.clone().try_acquire_owned() else { return };
                    place = Some(late);
                    continue;
                }
            };
            match answer {
                None => break,
                Some(Ok(Some(record))) => {
                    if record.is_good(self.now()) && !asking.is_told {
                        deadline = deadline.min(Instant::now() + self.options.others_max);
                    }
                    look.send_if_modified(|look| {
                        let order = look.take(record, self.now());
                        // Who tells of an older one does not know the one that counts.
                        is_found |= order.is_ge();
                        if order.is_gt() && asking.is_told {
                            look.keep(&self.options, self.now());
                        }
                        order.is_gt()
                    });
                }
                Some(Ok(None)) => {}
                Some(Err(error)) => _ = failure.get_or_insert(error),
            }
        }
        if !asking.is_told {
            asking.tell(failure, finish(is_found));
        }
        drop(place);
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
        let places = |count| Arc::new(Semaphore::new(count));
        let (asked, late) = (places(ASKED_COUNT_MAX), places(LATE_COUNT_MAX));
        let others = Others { sources, options, now: env.now.clone(), asked, late };
        Self { own, others: Arc::new(others), kept: Mutex::default() }
    }

    /// The highest sequence number that a source has seen of a name, be its record good or not, and why there may be a higher
    /// one. All of them are waited for, and nothing of it is kept: for who publishes the next record.
    pub async fn sequence_elsewhere(&self, name: &IpnsName) -> (Option<u64>, Option<Error>) {
        let end = Instant::now() + self.others.options.time_max;
        let (mut highest, mut failure) = (None, None);
        let mut answers = self.others.answers(name);
        loop {
            tokio::select! {
                biased;
                answer = answers.next() => match answer {
                    None => break,
                    Some(Ok(record)) => highest = highest.max(record.map(|record| record.sequence())),
                    Some(Err(error)) => _ = failure.get_or_insert(error),
                },
                () = sleep_until(end) => {
                    failure.get_or_insert_with(|| self.others.silence());
                    break;
                }
            }
        }
        (highest, failure)
    }

    /// What is kept of a name, and who asks for it waits for.
    fn look_of(&self, name: &IpnsName) -> Arc<watch::Sender<Look>> {
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

    /// Has everybody asked where that is due, by a task that nobody who goes away ends.
    async fn renew(&self, name: &IpnsName, look: &Arc<watch::Sender<Look>>) -> Result<()> {
        if !look.borrow().is_due() {
            return Ok(());
        }
        let place = self.others.asked.clone().acquire_owned().await;
        let place = place.map_err(|error| unavailable(error.to_string()))?;
        let begins = look.send_if_modified(|look| {
            let is_due = look.is_due();
            look.is_asked |= is_due;
            is_due
        });
        if begins {
            let (others, name, look) = (self.others.clone(), name.clone(), look.clone());
            tokio::spawn(async move { others.ask(&name, look, place).await });
        }
        Ok(())
    }
}

fn unavailable(why: String) -> Error {
    Error::new(ErrorKind::Unavailable, "names.record").because(why)
}

#[async_trait]
impl Records for NameSources {
    async fn record(&self, name: &IpnsName) -> Result<Option<Record>> {
        Ok(self.record_and_ttl(name).await?.map(|(record, _)| record))
    }

    /// The newest record that is known here or elsewhere, a good one before one that is not, and what is left of its time to
    /// live; `Unavailable` where there is none, and somebody could not be asked.
    async fn record_and_ttl(&self, name: &IpnsName) -> Result<Option<(Record, Duration)>> {
        let own = self.own.record(name).await?;
        if self.others.sources.is_empty() || own.as_ref().is_some_and(|own| own.is_good(self.others.now())) {
            return Ok(own.map(|own| {
                let ttl = own.ttl();
                (own, ttl)
            }));
        }
        let look = self.look_of(name);
        self.renew(name, &look).await?;
        let mut told = look.subscribe();
        let look = told.wait_for(|look| !look.is_asked).await.map_err(|error| unavailable(error.to_string()))?;
        match (own, &look.record) {
            (Some(own), Some(record)) if cmp(&own, record, self.others.now()).is_ge() => {
                Ok(Some((own, Duration::ZERO)))
            }
            (_, Some(record)) => Ok(Some((record.clone(), look.ttl_left(record)))),
            (Some(own), None) => Ok(Some((own, Duration::ZERO))),
            (None, None) => match &look.failure {
                Some(failure) => {
                    Err(Error::new(ErrorKind::Unavailable, "names.record").at(name).because(failure.clone()))
                }
                None => Ok(None),
            },
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
        /// After so many seconds.
        Late(u64, Record),
    }

    #[derive(Debug)]
    struct Someone {
        says: Mutex<Says>,
        asked: AtomicUsize,
        /// How many wait for an answer.
        waiting: Arc<()>,
    }

    impl Someone {
        fn new(says: Says) -> Arc<Self> {
            Arc::new(Self { says: Mutex::new(says), asked: AtomicUsize::new(0), waiting: Arc::default() })
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
            let _waiting = self.waiting.clone();
            let says = self.says.lock().expect("no panic").clone();
            match says {
                Says::Record(record) => Ok(Some(record)),
                Says::Nothing => Ok(None),
                Says::Fails => Err(unavailable("a test says so".into())),
                Says::Silence => std::future::pending().await,
                Says::Late(seconds, record) => {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    Ok(Some(record))
                }
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

    /// Who is late keeps nobody waiting, and counts all the same.
    #[tokio::test(start_paused = true)]
    async fn what_comes_late_counts_from_then_on() {
        let soon = Someone::new(Says::Record(record(1, 4, 100_000, 300)));
        let (late, older) = (
            Someone::new(Says::Late(3, record(1, 7, 100_000, 60))),
            Someone::new(Says::Late(5, record(1, 3, 100_000, 300))),
        );
        let (names, _) = names(Says::Nothing, &[&soon, &late, &older]);
        let begun = Instant::now();
        assert_eq!(sequence(&names).await, Some(4));
        assert!(begun.elapsed() <= NamesOptions::default().others_max, "{:?}", begun.elapsed());
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!((sequence(&names).await, soon.asked(), late.asked()), (Some(7), 1, 1));
        // It is kept for as long as it says itself, since it came.
        tokio::time::sleep(Duration::from_secs(51)).await;
        assert_eq!((sequence(&names).await, soon.asked()), (Some(7), 1));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!((sequence(&names).await, soon.asked()), (Some(7), 2));
        // One that comes when nobody is waited for any more does not.
        late.say(Says::Late(60, record(1, 9, 100_000, 60)));
        tokio::time::sleep(Duration::from_secs(400)).await;
        assert_eq!(sequence(&names).await, Some(7));
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!((sequence(&names).await, Arc::strong_count(&late.waiting)), (Some(7), 2), "the one of now");
    }

    #[tokio::test(start_paused = true)]
    async fn of_few_names_those_who_are_late_are_waited_for() {
        let silent = Someone::new(Says::Silence);
        let mut found = Vec::new();
        for seed in 0..u8::try_from(LATE_COUNT_MAX).expect("few") + 5 {
            let source = Someone::new(Says::Record(record(seed, 4, 1000, 300)));
            found.push((source, seed));
        }
        let sources: Vec<_> = found.iter().map(|(source, _)| source).chain([&silent]).collect();
        let (names, _) = names(Says::Nothing, &sources);
        for (_, seed) in &found {
            names.record(key(*seed).name()).await.expect("an answer").expect("a record");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(Arc::strong_count(&silent.waiting) - 1, LATE_COUNT_MAX);
        tokio::time::sleep(NamesOptions::default().time_max).await;
        assert_eq!(Arc::strong_count(&silent.waiting), 1, "not for ever");
    }

    /// Whoever keeps a record that has ended by now, or has one that was never good, hides nothing by its number.
    #[tokio::test(start_paused = true)]
    async fn a_record_that_is_over_hides_no_good_one() {
        let (ended, good) = (record(1, 9, -1, 300), record(1, 4, 1000, 300));
        let sources = [Someone::new(Says::Record(ended.clone())), Someone::new(Says::Record(good))];
        let (one, _) = names(Says::Nothing, &[&sources[0], &sources[1]]);
        assert_eq!(sequence(&one).await, Some(4));
        let (two, _) = names(Says::Record(ended.clone()), &[&sources[1]]);
        assert_eq!(sequence(&two).await, Some(4));
        sources[1].say(Says::Record(ended));
        tokio::time::sleep(Duration::from_secs(301)).await;
        assert_eq!((sequence(&two).await, sources[1].asked()), (Some(4), 3));
    }

    /// Whoever has it from here keeps it no longer than if they had asked its source when we did.
    #[tokio::test(start_paused = true)]
    async fn a_record_that_was_kept_is_given_on_with_what_is_left_of_its_time() {
        let source = Someone::new(Says::Record(record(1, 4, 100_000, 60)));
        let (names, _) = names(Says::Nothing, &[&source]);
        for (seconds, left) in [(0, 60), (40, 20), (21, 60), (59, 1)] {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let now = (testing::env().now)();
            let resolved = muxfs::ipns::resolve(&names, key(1).name(), now).await.expect("it is good");
            // The clock of timers has milliseconds.
            assert_eq!((resolved.ttl + Duration::from_millis(500)).as_secs(), left, "{seconds}");
        }
        source.say(Says::Fails);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (_, left) = names.record_and_ttl(key(1).name()).await.expect("it counts on").expect("a record");
        assert_eq!(left, Duration::ZERO);
    }

    /// Nor does who tells of an older one say that the newer is still what counts: its time to live once began anew.
    #[tokio::test(start_paused = true)]
    async fn an_older_record_does_not_renew_a_newer_one() {
        let source = Someone::new(Says::Record(record(1, 9, 100_000, 60)));
        let (names, _) = names(Says::Nothing, &[&source]);
        let told = async || names.record_and_ttl(key(1).name()).await.expect("it counts on").expect("a record");
        assert_eq!(told().await.1, Duration::from_mins(1));
        source.say(Says::Record(record(1, 4, 100_000, 60)));
        for asked in [2, 3] {
            tokio::time::sleep(Duration::from_mins(2)).await;
            let (record, left) = told().await;
            assert_eq!((record.sequence(), left, source.asked()), (9, Duration::ZERO, asked));
        }
        source.say(Says::Record(record(1, 9, 100_000, 60)));
        tokio::time::sleep(NamesOptions::default().rest).await;
        assert_eq!(told().await.1, Duration::from_mins(1), "somebody knows it");
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_ends_no_look() {
        let late = Someone::new(Says::Late(2, record(1, 4, 1000, 300)));
        let (names, _) = names(Says::Nothing, &[&late]);
        for _ in 0..3 {
            let asked = tokio::time::timeout(Duration::from_millis(500), names.record(key(1).name())).await;
            assert!(asked.is_err(), "it is late");
        }
        assert_eq!((sequence(&names).await, late.asked()), (Some(4), 1));
    }

    /// Also of a record that is over: the next one has to have a higher number than every one before.
    #[tokio::test(start_paused = true)]
    async fn who_publishes_is_told_the_highest_number() {
        let ended = Someone::new(Says::Record(record(1, 9, -1, 300)));
        let (late, stranger) =
            (Someone::new(Says::Late(9, record(1, 12, 1000, 300))), Someone::new(Says::Record(record(2, 99, 1000, 1))));
        let (names, _) = super::tests::names(Says::Nothing, &[&ended, &late, &stranger]);
        let (highest, failure) = names.sequence_elsewhere(key(1).name()).await;
        assert!((highest, failure.is_none()) == (Some(12), true), "{highest:?}");
        late.say(Says::Silence);
        let (highest, failure) = names.sequence_elsewhere(key(1).name()).await;
        assert!((highest, failure.is_some()) == (Some(9), true), "{highest:?}");
        late.say(Says::Fails);
        assert!(names.sequence_elsewhere(key(1).name()).await.1.is_some());
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
