//! The names of this data directory: the keys that we sign with, and the newest record of each name that is known here.
//!
//! `DATA/names` has a file for each, `LABEL.key` as libp2p writes keys, which its owner alone reads, `NAME.ipns-record`, and
//! `LABEL.follow` where a name follows a working tree. Each is replaced at one stroke, so that a server reads it while a command
//! writes. Spec: spec/ipns.md #on-this-machine.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use muxfs::{
    Error, ErrorKind, Result,
    ipns::{IpnsName, NameKey, RECORD_LEN_MAX, Record, Records},
};
use muxfs_ipfs::Kubo;
use serde::{Deserialize, Serialize};

use crate::{
    commands::put::host,
    config::{Ipfs, Span},
    data_dir::private_dir,
    host_file::{Editing, Mode, read_password_file, replace},
    instance::env,
    sources::publish_node,
};

/// The label of the key that is taken where none is named.
const OWN: &str = "self";
const LABEL_LEN_MAX: usize = 64;
/// The longest file that says what a name follows, in bytes: a path and an address.
const FOLLOW_LEN_MAX: u64 = 64 << 10;

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

/// Who publishes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By<'a> {
    /// Somebody who says where the name is to lead from now on: it follows nothing more.
    Hand,
    /// Somebody who says what it is to follow from now on.
    Following(&'a Follow),
    /// A server, if the name still follows this.
    Server(&'a Follow),
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

    /// The names that follow something.
    pub(crate) fn follows(&self) -> Result<Vec<(Label, Follow)>> {
        let mut follows = Vec::new();
        for label in self.labels(".follow")? {
            // One may go meanwhile.
            follows.extend(self.follow_of(&label)?.map(|follow| (label, follow)));
        }
        Ok(follows)
    }

    /// What the name of a label follows.
    pub(crate) fn follow_of(&self, label: &Label) -> Result<Option<Follow>> {
        let file = self.follow_file(label);
        let mut bytes = Vec::new();
        match read_up_to(&file, FOLLOW_LEN_MAX, &mut bytes) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read?,
        }
        let read = serde_json::from_slice(&bytes);
        read.map(Some).map_err(|error| Error::new(ErrorKind::Corrupt, "names.follow").at(file.display()).because(error))
    }

    /// Has the name of a label follow something, or nothing.
    fn set_follow(&self, label: &Label, follow: Option<&Follow>) -> Result<()> {
        let file = self.follow_file(label);
        let Some(follow) = follow else {
            return match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(host(&file, error)),
                _ => Ok(()),
            };
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

    /// Lets the name of a key lead somewhere; the key that is taken where none is named is made where there is none.
    ///
    /// The sequence number goes up each time: of two records with one number that which is good longer counts, be it the
    /// older one. `None` where a server is told that the name follows something else by now.
    pub(crate) async fn publish(
        &self,
        label: &Label,
        publication: &Publication<'_>,
        by: By<'_>,
    ) -> Result<Option<Record>> {
        let _editing = self.edit().await?;
        if let By::Server(follow) = by
            && self.follow_of(label)?.as_ref() != Some(follow)
        {
            return Ok(None);
        }
        let key = match self.key(label) {
            Err(error) if error.kind() == ErrorKind::NotFound && label.is_own() => self.generate_alone(label)?,
            key => key?,
        };
        let Publication { value, lifetime, ttl } = *publication;
        let sequence = match self.read(key.name())? {
            None => 0,
            Some(before) => before.sequence().checked_add(1).ok_or_else(|| {
                let error = Error::new(ErrorKind::TooLarge, "names.publish").at(label);
                error.because("the name has no sequence numbers left")
            })?,
        };
        let expires = SystemTime::now().checked_add(lifetime).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "names.publish").because("no time is that far away")
        })?;
        let record = Record::create(&key, value.as_bytes(), sequence, expires, ttl)?;
        self.keep(&record)?;
        match by {
            By::Hand => self.set_follow(label, None)?,
            By::Following(follow) => self.set_follow(label, Some(follow))?,
            By::Server(_) => {}
        }
        Ok(Some(record))
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
