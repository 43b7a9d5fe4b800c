//! The names of this data directory: the keys that we sign with, and the newest record of each name that is known here.
//!
//! `DATA/names` has a file for each, `LABEL.key` as libp2p writes keys, which its owner alone reads, `NAME.ipns-record`, and
//! `LABEL.follow` where a name follows a working tree. Each is replaced at one stroke, so that a server reads it while a command
//! writes. Spec: spec/ipns.md #on-this-machine.

use std::{
    fmt, fs,
    io::{self, Read as _},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use muxfs::{
    BoxError, Error, ErrorKind, Result,
    ipns::{IpnsName, NameKey, RECORD_LEN_MAX, Record, Records},
};
use muxfs_ipfs::Kubo;
use serde::{Deserialize, Serialize};

use crate::{
    commands::put::host,
    config::{Ipfs, Span},
    data_dir::private_dir,
    host_file::{Editing, Mode, read_password_file, remove, replace},
    instance::env,
    sources::publish_node,
};

/// The label of the key that is taken where none is named.
const OWN: &str = "self";
const LABEL_LEN_MAX: usize = 64;
/// The longest file that says what a name follows, in bytes: a path and an address.
const FOLLOW_LEN_MAX: u64 = 64 << 10;
/// How long a record is good, at least, so that a server can make it anew before, and at most.
pub(crate) const LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_hours(36_500 * 24);

/// What a key is called here: 1 to 64 of `a` to `z`, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Label(String);

impl Label {
    pub(crate) fn is_own(&self) -> bool {
        self.0 == OWN
    }
}

impl Default for Label {
    fn default() -> Self {
        Self(OWN.to_owned())
    }
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        if text.is_empty() || text.len() > LABEL_LEN_MAX || !text.bytes().all(is_plain) {
            return Err(format!("{text:?} is no label of a key: 1 to 64 of a to z, digits, - and _"));
        }
        if text.parse::<IpnsName>().is_ok() {
            return Err(format!("{text:?} is a name: a label has to be told from one"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Keys and records.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    dir: PathBuf,
}

/// What a record is to say.
#[derive(Debug)]
pub(crate) struct Publication<'a> {
    /// Where the name is to lead, as `/ipfs/CID`.
    pub(crate) value: &'a str,
    pub(crate) lifetime: Duration,
    pub(crate) ttl: Duration,
    /// The highest sequence number that others have seen of the name.
    pub(crate) seen: Option<u64>,
}

/// What of a working tree a name follows: a server publishes it again after each commit that changed it, and before a record
/// ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Follow {
    /// `/ipfs`, or a path below it.
    pub(crate) path: String,
    /// How long each record is good.
    pub(crate) lifetime: Span,
    pub(crate) ttl: Span,
    /// The Kubo node that is given each record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) push: Option<Push>,
}

/// A Kubo node that is given records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Push {
    /// The first of the configuration.
    First,
    /// The one at this address.
    To(String),
}

impl Push {
    /// The node.
    ///
    /// # Errors
    /// `InvalidArgument` where there is none; those of its file.
    pub(crate) fn node(&self, ipfs: &Ipfs) -> Result<Kubo> {
        match self {
            Self::First => publish_node(ipfs, None),
            Self::To(url) => publish_node(ipfs, Some(&url.parse()?)),
        }
    }
}

impl Follow {
    /// Whether this is not the record to have: it leads elsewhere, or half of its time is over.
    fn is_to_replace(&self, known: &Record, value: &str) -> bool {
        known.value() != value.as_bytes() || known.expires() < SystemTime::now() + self.lifetime.0 / 2
    }
}

impl Names {
    /// Those of a data directory, which need not be there.
    pub(crate) fn of(data: &Path) -> Self {
        Self { dir: data.join("names") }
    }

    fn key_file(&self, label: &Label) -> PathBuf {
        self.dir.join(format!("{label}.key"))
    }

    fn follow_file(&self, label: &Label) -> PathBuf {
        self.dir.join(format!("{label}.follow"))
    }

    fn record_file(&self, name: &IpnsName) -> PathBuf {
        self.dir.join(format!("{name}.ipns-record"))
    }

    /// The key of a label.
    ///
    /// # Errors
    /// `NotFound` where there is none; `Denied` where others than its owner may read it.
    pub(crate) fn key(&self, label: &Label) -> Result<NameKey> {
        let file = self.key_file(label);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, "names.key")
                .at(label)
                .because(format!("there is no such key: make it with muxfs name new {label}")),
            _ => host(&file, error),
        };
        NameKey::decode(&read_password_file(&file, "names.key", failed)?).map_err(|error| error.at(file.display()))
    }

    /// The keys, by their labels.
    pub(crate) fn keys(&self) -> Result<Vec<(Label, NameKey)>> {
        self.labels(".key")?.into_iter().map(|label| Ok((label.clone(), self.key(&label)?))).collect()
    }

    /// The labels that have a file with this ending.
    fn labels(&self, ending: &str) -> Result<Vec<Label>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| host(&self.dir, error))?,
        };
        let mut labels = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| host(&self.dir, error))?.file_name();
            labels.extend(name.to_str().and_then(|name| name.strip_suffix(ending)?.parse::<Label>().ok()));
        }
        labels.sort();
        Ok(labels)
    }

    /// When a file came, went or was replaced last; `None` where there is none.
    pub(crate) fn changed(&self) -> Option<SystemTime> {
        fs::metadata(&self.dir).and_then(|dir| dir.modified()).ok()
    }

    /// The names that follow something, and what, where that can be read: one file that is wrong stops no other name.
    pub(crate) fn follows(&self) -> Result<Vec<(Label, Result<Follow>)>> {
        let of_label = |label: Label| self.follow_of(&label).transpose().map(|follow| (label, follow));
        // One may go meanwhile.
        Ok(self.labels(".follow")?.into_iter().filter_map(of_label).collect())
    }

    /// What the name of a label follows.
    ///
    /// # Errors
    /// `Corrupt` where its file says something else; the disk's.
    pub(crate) fn follow_of(&self, label: &Label) -> Result<Option<Follow>> {
        let file = self.follow_file(label);
        let mut bytes = Vec::new();
        match read_up_to(&file, FOLLOW_LEN_MAX, &mut bytes) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read?,
        }
        let refuse = |why: BoxError| {
            let why = format!("{why}: publish the name again, with --follow or without");
            Error::new(ErrorKind::Corrupt, "names.follow").at(file.display()).because(why)
        };
        let follow: Follow = serde_json::from_slice(&bytes).map_err(|error| refuse(error.into()))?;
        if !LIFETIMES.contains(&follow.lifetime.0) {
            return Err(refuse(format!("no record is good for {}", follow.lifetime).into()));
        }
        Ok(Some(follow))
    }

    /// Has the name of a label follow something, or nothing, durably.
    fn set_follow(&self, label: &Label, follow: Option<&Follow>) -> Result<()> {
        let file = self.follow_file(label);
        let Some(follow) = follow else {
            return remove(&file).map_err(|error| host(&file, error));
        };
        let text = serde_json::to_vec_pretty(follow)
            .map_err(|error| Error::new(ErrorKind::Internal, "names.follow").because(error))?;
        replace(&file, &text, Mode::Given(0o600)).map_err(|error| host(&file, error))
    }

    /// Draws a key.
    ///
    /// # Errors
    /// `Exists` where the label has one.
    pub(crate) async fn generate(&self, label: &Label) -> Result<NameKey> {
        let _editing = self.edit().await?;
        self.generate_alone(label)
    }

    fn generate_alone(&self, label: &Label) -> Result<NameKey> {
        let key = NameKey::generate(&env());
        self.keep_key(label, &key)?;
        Ok(key)
    }

    /// Takes a key that was exported elsewhere.
    ///
    /// # Errors
    /// `Exists` where the label has one.
    pub(crate) async fn import(&self, label: &Label, key: &NameKey) -> Result<()> {
        let _editing = self.edit().await?;
        self.keep_key(label, key)
    }

    fn keep_key(&self, label: &Label, key: &NameKey) -> Result<()> {
        let file = self.key_file(label);
        if fs::symlink_metadata(&file).is_ok() {
            return Err(Error::new(ErrorKind::Exists, "names.key")
                .at(label)
                .because("there is a key of this label: who lost it could never publish its name again"));
        }
        replace(&file, &key.encode(), Mode::Given(0o600)).map_err(|error| host(&file, error))
    }

    /// Lets the name of a key lead somewhere, and follow something from now on, or nothing; the key that is taken where none
    /// is named is made where there is none.
    ///
    /// The sequence number goes up each time: of two records with one number that which is good longer counts, be it the
    /// older one. What a server is told to follow is durable before the record: one that stops in between does not go on with
    /// what was followed before.
    pub(crate) async fn publish(
        &self,
        label: &Label,
        publication: &Publication<'_>,
        follow: Option<&Follow>,
    ) -> Result<Record> {
        let _editing = self.edit().await?;
        let key = match self.key(label) {
            Err(error) if error.kind() == ErrorKind::NotFound && label.is_own() => self.generate_alone(label)?,
            key => key?,
        };
        let record = self.next(label, &key, publication)?;
        self.set_follow(label, follow)?;
        self.keep(&record)?;
        Ok(record)
    }

    /// Lets a name that follows something lead where that is now, which `value` looks up when nobody else publishes: what was
    /// looked up before might be older than what somebody published meanwhile. The newest record, be it an earlier one that
    /// says the same and is good for long enough; `None` where the name follows something else by now. `seen` as in a
    /// [`Publication`].
    pub(crate) async fn publish_followed(
        &self,
        label: &Label,
        follow: &Follow,
        seen: Option<u64>,
        value: impl Future<Output = Result<String>> + Send,
    ) -> Result<Option<Record>> {
        let _editing = self.edit().await?;
        if self.follow_of(label)?.as_ref() != Some(follow) {
            return Ok(None);
        }
        let (value, key) = (value.await?, self.key(label)?);
        if let Some(known) = self.read(key.name())?
            && !follow.is_to_replace(&known, &value)
        {
            return Ok(Some(known));
        }
        let publication = Publication { value: &value, lifetime: follow.lifetime.0, ttl: follow.ttl.0, seen };
        let record = self.next(label, &key, &publication)?;
        self.keep(&record)?;
        Ok(Some(record))
    }

    /// The newest record of a key that is known here, unless it is to be replaced by one that leads to `value`.
    pub(crate) fn lasting(&self, key: &NameKey, follow: &Follow, value: &str) -> Result<Option<Record>> {
        Ok(self.read(key.name())?.filter(|known| !follow.is_to_replace(known, value)))
    }

    /// The record after all that are known.
    fn next(&self, label: &Label, key: &NameKey, publication: &Publication<'_>) -> Result<Record> {
        let Publication { value, lifetime, ttl, seen } = *publication;
        let before = self.read(key.name())?.map(|before| before.sequence()).max(seen);
        let sequence = before.map_or(Some(0), |before| before.checked_add(1)).ok_or_else(|| {
            let error = Error::new(ErrorKind::TooLarge, "names.publish").at(label);
            error.because("the name has no sequence numbers left")
        })?;
        let expires = SystemTime::now().checked_add(lifetime).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "names.publish").because("no time is that far away")
        })?;
        Record::create(key, value.as_bytes(), sequence, expires, ttl)
    }

    /// Takes a record that was made elsewhere; whether it is newer than what was known.
    pub(crate) async fn accept(&self, record: &Record) -> Result<bool> {
        let _editing = self.edit().await?;
        if self.read(record.name())?.is_some_and(|known| known.cmp_age(record).is_ge()) {
            return Ok(false);
        }
        self.keep(record)?;
        Ok(true)
    }

    fn keep(&self, record: &Record) -> Result<()> {
        let file = self.record_file(record.name());
        replace(&file, record.as_bytes(), Mode::Given(0o644)).map_err(|error| host(&file, error))
    }

    fn read(&self, name: &IpnsName) -> Result<Option<Record>> {
        let file = self.record_file(name);
        match read_record(&file) {
            Ok(bytes) => Record::verify(name, &bytes).map(Some).map_err(|error| error.at(file.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One command at a time changes what is here.
    async fn edit(&self) -> Result<Editing> {
        private_dir(&self.dir)?;
        Editing::begin(&self.key_file(&Label::default())).await
    }
}

/// The bytes of a file that may be a record; of a longer one as many as say that it is none.
pub(crate) fn read_record(file: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_up_to(file, RECORD_LEN_MAX as u64 + 1, &mut bytes)?;
    Ok(bytes)
}

/// Reads a file of the host, or as much of its beginning.
pub(crate) fn read_up_to(file: &Path, len_max: u64, bytes: &mut Vec<u8>) -> Result<()> {
    let opened = fs::File::open(file).map_err(|error| host(file, error))?;
    io::Read::take(opened, len_max).read_to_end(bytes).map(drop).map_err(|error| host(file, error))
}

#[async_trait]
impl Records for Names {
    async fn record(&self, name: &IpnsName) -> Result<Option<Record>> {
        // A short file.
        self.read(name)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const LATER: Duration = Duration::from_hours(1);
    const CONTENTS: [&str; 2] = ["/ipfs/bafkqaaa", "/ipfs/bafkqaaik"];

    struct World {
        _dir: tempfile::TempDir,
        names: Names,
        label: Label,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let names = Names::of(dir.path());
            Self { names, _dir: dir, label: Label::default() }
        }

        async fn publish(&self, value: &str, seen: Option<u64>, follow: Option<&Follow>) -> Result<Record> {
            let publication = Publication { value, lifetime: LATER, ttl: LATER, seen };
            self.names.publish(&self.label, &publication, follow).await
        }
    }

    fn follow() -> Follow {
        Follow { path: "/ipfs/site".into(), lifetime: Span(LATER), ttl: Span(LATER), push: None }
    }

    /// A name that was published elsewhere leads nowhere new with a record that is numbered as if it had not been.
    #[tokio::test]
    async fn the_next_record_is_above_all_that_were_seen() {
        let world = World::new();
        for (seen, expected) in [(Some(41), 42), (None, 43), (Some(7), 44), (Some(100), 101)] {
            let record = world.publish(CONTENTS[0], seen, None).await.expect("published");
            assert_eq!(record.sequence(), expected);
        }
        let error = world.publish(CONTENTS[0], Some(u64::MAX), None).await.expect_err("there is none above");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }

    /// Stopped before the record is there, a server must not go on with what the name followed before: it would lead back.
    #[tokio::test]
    async fn what_is_followed_no_more_ends_before_the_record_changes() {
        let world = World::new();
        let record = world.publish(CONTENTS[0], None, Some(&follow())).await.expect("published");
        // What the record is written to first cannot be written.
        let part = world.names.record_file(record.name()).with_extension(format!("part-{}", std::process::id()));
        fs::create_dir_all(part.join("in the way")).expect("made");
        world.publish(CONTENTS[1], None, None).await.expect_err("the disk refuses");
        assert_eq!(world.names.follow_of(&world.label).expect("read"), None);
        let other = Follow { path: "/ipfs/other".into(), ..follow() };
        world.publish(CONTENTS[1], None, Some(&other)).await.expect_err("the disk refuses");
        assert_eq!(world.names.follow_of(&world.label).expect("read"), Some(other));
        assert_eq!(world.names.record(record.name()).await.expect("read"), Some(record));
    }

    /// What a server looks up, and what somebody publishes meanwhile, cannot pass each other.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_does_not_lead_a_name_back() {
        let world = World::new();
        world.publish(CONTENTS[0], None, Some(&follow())).await.expect("published");
        let world = std::sync::Arc::new(world);
        let ((begun, begins), (goes_on, go_on)) = (oneshot::channel(), oneshot::channel());
        let server = tokio::spawn({
            let world = world.clone();
            async move {
                let value = async {
                    begun.send(()).expect("it is waited for");
                    go_on.await.expect("it is told");
                    Ok("/ipfs/bafkqaail".to_owned())
                };
                world.names.publish_followed(&world.label, &follow(), None, value).await
            }
        });
        begins.await.expect("the server looks");
        let by = world.clone();
        let mut newer = tokio::spawn(async move { by.publish(CONTENTS[1], None, Some(&follow())).await });
        let waits = tokio::time::timeout(Duration::from_millis(100), &mut newer).await;
        assert!(waits.is_err(), "it published what the server would take back");
        goes_on.send(()).expect("the server waits");
        let older = server.await.expect("no panic").expect("published").expect("it follows");
        let newer = newer.await.expect("no panic").expect("published");
        assert!(newer.sequence() > older.sequence());
        assert_eq!(world.names.record(newer.name()).await.expect("read"), Some(newer));
    }

    #[tokio::test]
    async fn one_file_that_is_wrong_stops_no_other_name() {
        let world = World::new();
        world.publish(CONTENTS[0], None, Some(&follow())).await.expect("published");
        let good = serde_json::to_string(&follow()).expect("text");
        for (label, text) in [("a", "{}"), ("b", "no JSON"), ("c", &good.replace("1h", "0s"))] {
            fs::write(world.names.follow_file(&label.parse().expect("a label")), text).expect("written");
        }
        let follows = world.names.follows().expect("read");
        let read: Vec<_> = follows.iter().map(|(label, follow)| (label.to_string(), follow.is_ok())).collect();
        let expected = [("a", false), ("b", false), ("c", false), ("self", true)];
        assert_eq!(read, expected.map(|(label, is_read)| (label.to_owned(), is_read)));
        let errors = follows.iter().filter_map(|(_, follow)| follow.as_ref().err());
        assert!(errors.into_iter().all(|error| format!("{error:#}").contains(".follow")), "they name the file");
    }
}
