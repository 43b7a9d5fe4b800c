//! What a command can do with the namespace, whoever does it: this process, or the server that owns the data
//! directory. The words here are also those of the control protocol. Spec: spec/control.md.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use muxfs::{Cid, FileKind, Name, Prefix, QfsPath, Result, dag::Entry, dag::Link, vfs::Attr};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    commands::{
        car, cp, doctor, key,
        verify_all::{AllFinding, VerifyAll},
        zstor,
    },
    host_file::HostFile,
};

/// What is known of a path or of an entry of a directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stat {
    #[serde(with = "name_text")]
    pub(crate) name: Name,
    pub(crate) kind: Kind,
    /// In bytes.
    pub(crate) size: u64,
    /// The twelve permission bits.
    pub(crate) mode: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gid: Option<u32>,
    /// Seconds since 1970 and nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtime: Option<(i64, u32)>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "cid_text")]
    pub(crate) cid: Option<Cid>,
    /// Of a symlink.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "target_text")]
    pub(crate) target: Option<Bytes>,
    /// Of a device: major and minor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rdev: Option<(u32, u32)>,
    /// Of what an overlay has as it is below: where it lies there.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "target_text")]
    pub(crate) below: Option<Bytes>,
}

impl Stat {
    /// Of what is there and cannot be looked at, as an flist that is damaged: a directory that nobody may enter.
    pub(crate) fn unseen(name: Name) -> Self {
        Self {
            name,
            kind: Kind::Dir,
            size: 0,
            mode: 0,
            uid: None,
            gid: None,
            mtime: None,
            cid: None,
            target: None,
            rdev: None,
            below: None,
        }
    }

    pub(crate) fn of_attr(name: Name, attr: &Attr, target: Option<Bytes>) -> Self {
        Self {
            name,
            kind: attr.kind.into(),
            size: attr.size,
            mode: attr.mode,
            uid: Some(attr.uid),
            gid: Some(attr.gid),
            mtime: Some(seconds(attr.mtime)),
            cid: attr.cid,
            target,
            rdev: matches!(attr.kind, FileKind::CharDevice | FileKind::BlockDevice)
                .then_some((attr.rdev.major, attr.rdev.minor)),
            below: None,
        }
    }
}

/// Seconds since 1970, rounded down, and the nanoseconds above them.
pub(crate) fn seconds(time: SystemTime) -> (i64, u32) {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => (-seconds, 0),
                nanos => (-seconds - 1, 1_000_000_000 - nanos),
            }
        }
    }
}

/// The time of such seconds and nanoseconds, as near as the system can tell.
pub(crate) fn time((seconds, nanos): (i64, u32)) -> SystemTime {
    let (whole, nanos) = (Duration::from_secs(seconds.unsigned_abs()), Duration::from_nanos(nanos.into()));
    let epoch = SystemTime::UNIX_EPOCH;
    let second = if seconds < 0 { epoch.checked_sub(whole) } else { epoch.checked_add(whole) };
    second.and_then(|second| second.checked_add(nanos)).unwrap_or(epoch)
}

/// [`FileKind`], as the control protocol and `--json` spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl From<FileKind> for Kind {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::File => Self::File,
            FileKind::Dir => Self::Dir,
            FileKind::Symlink => Self::Symlink,
            FileKind::Fifo => Self::Fifo,
            FileKind::Socket => Self::Socket,
            FileKind::CharDevice => Self::CharDevice,
            FileKind::BlockDevice => Self::BlockDevice,
        }
    }
}

/// What a copy keeps of its source beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The twelve permission bits; those of a symlink mean nothing and stay.
    pub(crate) mode: Option<u32>,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// User and group, where they are kept.
    #[serde(default)]
    pub(crate) owner: Option<(u32, u32)>,
    /// Where the bytes are holes: first and length, in bytes.
    #[serde(default)]
    pub(crate) holes: Vec<(u64, u64)>,
    /// Extended attributes, as text.
    #[serde(default)]
    pub(crate) xattrs: Vec<(String, String)>,
}

/// A place in the namespace: its root, which lists the mounts, or a QFS path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Root,
    Path(QfsPath),
}

impl Place {
    /// Reads a path; one slash at its end is let go, as shells add it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        match bytes {
            b"/" => Ok(Self::Root),
            [path @ .., b'/'] if path.len() > 1 => QfsPath::parse(path).map(Self::Path),
            path => QfsPath::parse(path).map(Self::Path),
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Root => b"/".to_vec(),
            Self::Path(path) => path.to_bytes(),
        }
    }
}

/// When it is durable what is put by place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    /// When the call returns, and with it all that was put before.
    Now,
    /// With the next call that says now. A working tree keeps the order: what a crash leaves are the first of the changes.
    Later,
}

/// What `import` and `put` read.
pub(crate) enum Input {
    /// A regular file of the host.
    File(HostFile),
    /// Bytes as they come.
    Stream(BoxStream<'static, std::io::Result<Bytes>>),
}

impl Input {
    /// The length where it is known before the end, else 0: a stream is counted as it is read.
    pub(crate) fn len_known(&self) -> u64 {
        match self {
            Self::File(file) => file.len,
            Self::Stream(_) => 0,
        }
    }
}

/// One thing that `verify` has to say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub(crate) enum Finding {
    /// So far this many blocks and bytes were read and hashed to their CIDs.
    Progress { blocks: u64, bytes: u64 },
    /// A block that is missing or wrong.
    Bad { cid: String, error: String },
    /// The walk ended; always the last.
    Done { blocks: u64, bytes: u64, bad: u64 },
}

/// One thing that `gc` has to say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "gc", rename_all = "snake_case")]
pub(crate) enum Collecting {
    /// So many blocks that have links were met on the way down from what is kept.
    Marking { mount: String, nodes: u64 },
    /// So many blocks were looked at: what stays, and what is gone or would be.
    Sweeping { mount: String, blocks_kept: u64, blocks_removed: u64 },
    /// The room of what is gone goes back to the disk.
    Compacting { mount: String },
    /// A mount is done.
    Done(Collected),
}

/// What a garbage collection did in a mount, or would do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Collected {
    pub(crate) mount: String,
    pub(crate) dry_run: bool,
    pub(crate) blocks_kept: u64,
    /// Told by a dry run, which has the time to ask.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) bytes_kept: Option<u64>,
    /// Of those that are kept, what only stays because it was put since somebody began to put.
    pub(crate) blocks_fresh: u64,
    pub(crate) blocks_removed: u64,
    pub(crate) bytes_removed: u64,
    /// What the blocks and their index take on disk; absent of a mount that is in RAM.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) disk_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) disk_after: Option<u64>,
    pub(crate) seconds: f64,
}

/// Keeps something from being collected until it is dropped.
pub(crate) struct Hold {
    _keeps: Box<dyn std::any::Any + Send + Sync>,
}

impl Hold {
    pub(crate) fn new<T: Send + Sync + 'static>(keeps: T) -> Self {
        Self { _keeps: Box::new(keeps) }
    }
}

/// A commit of a working tree that is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Logged {
    /// Its CID.
    pub(crate) commit: String,
    /// The CID of its content.
    pub(crate) root: String,
    /// Its names in the history: when it was made, and the snapshots that name it.
    pub(crate) names: Vec<String>,
    /// When it was made: seconds since 1970 and nanoseconds.
    pub(crate) time: (i64, u32),
    pub(crate) note: String,
}

/// A path at which two commits differ.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub(crate) enum Difference {
    Added { path: String },
    Removed { path: String },
    Changed { path: String },
    Renamed { from: String, to: String },
}

/// What a command can do.
#[async_trait]
pub(crate) trait Namespace: Send + Sync {
    /// What is known of a path. A symlink at its end is not followed.
    async fn stat(&self, place: &Place) -> Result<Stat>;
    /// The entries of a directory; a file is its own only entry.
    fn list<'a>(&'a self, place: &'a Place) -> BoxStream<'a, Result<Stat>>;
    /// The bytes of a file, from its beginning.
    fn read<'a>(&'a self, path: &'a QfsPath) -> BoxStream<'a, Result<Bytes>>;
    async fn has(&self, path: &QfsPath) -> Result<bool>;
    /// Stores a file; by content it is pinned, and durable whatever is said.
    async fn put(&self, path: &QfsPath, input: Input, durable: Durable) -> Result<QfsPath>;
    async fn delete(&self, path: &QfsPath) -> Result<bool>;
    /// Copies from a path to another, in this mount or another: of content the blocks that are missing there.
    fn cp<'a>(&'a self, source: &'a QfsPath, target: &'a QfsPath) -> BoxStream<'a, Result<cp::Copying>>;
    /// Makes a directory of a location-addressed mount; one that is there stays as it is.
    async fn put_dir(&self, path: &QfsPath, durable: Durable) -> Result<()>;
    /// Puts a symlink into a location-addressed mount.
    async fn put_symlink(&self, path: &QfsPath, target: Bytes, durable: Durable) -> Result<()>;
    /// Gives what is at `source` by place one more name; what is there and no directory is replaced.
    async fn put_link(&self, source: &QfsPath, target: &QfsPath, durable: Durable) -> Result<()>;
    /// Puts a pipe, a socket or a device by place; likewise.
    async fn put_node(&self, path: &QfsPath, kind: Kind, rdev: (u32, u32), durable: Durable) -> Result<()>;
    /// Gives what was put by place what its source had, its time last.
    async fn keep(&self, path: &QfsPath, kept: &Kept, durable: Durable) -> Result<()>;

    /// Commits what a working tree holds; the head where nothing changed.
    async fn commit(&self, mount: Prefix, note: &str) -> Result<Cid>;
    /// The kept commits, newest first; of a path, those in which it is not what it was before.
    async fn log(&self, path: &QfsPath) -> Result<Vec<Logged>>;
    /// What changed at and below a path from one commit to another, each given by a name of `log`, its CID, or `head`.
    fn diff<'a>(&'a self, path: &'a QfsPath, before: &'a str, after: &'a str) -> BoxStream<'a, Result<Difference>>;
    /// Commits, and names the commit.
    async fn snapshot(&self, mount: Prefix, name: &str) -> Result<Cid>;
    /// Removes such a name.
    async fn remove_snapshot(&self, mount: Prefix, name: &str) -> Result<()>;
    /// Makes a working tree what a commit says, or a directory by its CID; commits what it was. The new head.
    async fn checkout(&self, mount: Prefix, commit: &str) -> Result<Cid>;
    /// Makes `target` what `path` was in a commit, and gives how many nodes that are; commits what it was.
    async fn restore(&self, commit: &str, path: &QfsPath, target: &QfsPath) -> Result<u64>;

    /// The prefix that `put` writes to where none is named.
    async fn default_write(&self) -> Result<Prefix>;

    /// Puts a file into a content-addressed mount; neither pinned nor durable until [`Namespace::pin`] is, nor kept but
    /// by a [`Namespace::hold`].
    async fn import(&self, mount: Prefix, input: Input) -> Result<Link>;
    async fn import_symlink(&self, mount: Prefix, target: Bytes) -> Result<Link>;
    async fn import_dir(&self, mount: Prefix, entries: Vec<Entry>) -> Result<Link>;
    /// Keeps from being collected what is put into a mount from now on, and what is below `cid`, if there is one: for
    /// who puts many things before he pins what is above them, and for who pins what nothing keeps yet.
    async fn hold(&self, mount: Prefix, cid: Option<&Cid>) -> Result<Hold>;
    /// Removes what nothing keeps in a mount, or in each, and gives its room back; or only tells what it would remove.
    fn gc(&self, mount: Option<Prefix>, dry_run: bool) -> BoxStream<'_, Result<Collecting>>;
    /// Pins a root, durably, with everything that was imported before. Whether it was new.
    async fn pin(&self, mount: Prefix, cid: &Cid) -> Result<bool>;
    /// Whether it was pinned.
    async fn unpin(&self, mount: Prefix, cid: &Cid) -> Result<bool>;
    /// The pins of a mount, or of every content-addressed one.
    async fn pins(&self, mount: Option<Prefix>) -> Result<Vec<(Prefix, Cid)>>;
    /// Re-hashes what is reachable from a content-addressed path, or from all pins of a mount.
    fn verify<'a>(&'a self, path: &'a QfsPath) -> BoxStream<'a, Result<Finding>>;
    /// Re-hashes every block, and looks whether all that roots need is there; goes on where it stopped.
    fn verify_all<'a>(&'a self, options: &'a VerifyAll) -> BoxStream<'a, Result<AllFinding>>;
    /// The blocks below a CID, as a CAR.
    fn car_export<'a>(
        &'a self,
        mount: Prefix,
        root: &'a Cid,
        options: &'a car::Export,
    ) -> BoxStream<'a, Result<car::Piece>>;
    /// Puts the blocks of a CAR into a content-addressed mount and pins the roots that are whole then, all durably.
    async fn car_import(&self, mount: Prefix, input: Input, options: &car::Import) -> Result<car::Imported>;
    /// What is wrong with what is in the mounts, and what is not.
    fn doctor(&self) -> BoxStream<'_, Result<doctor::Finding>>;
    /// How the nodes of a mount of kind `zstor` do, or of each.
    async fn zstor_status(&self, mount: Option<Prefix>) -> Result<Vec<zstor::Status>>;
    /// What could be read and written without the nodes and groups of these names.
    async fn zstor_plan(&self, mount: Option<Prefix>, lose: &[String]) -> Result<zstor::Plan>;
    /// Reads all shards and heals what is bad or missing; goes on where it stopped.
    fn zstor_scrub<'a>(&'a self, options: &'a zstor::Scrub) -> BoxStream<'a, Result<zstor::Scrubbing>>;
    /// Draws a new key for a mount of kind `zstor`, or goes on with the one that was drawn, and tells how far it is.
    fn key_rotate<'a>(&'a self, options: &'a key::Rotate) -> BoxStream<'a, Result<key::Rotating>>;
    /// The configuration of whoever does the work, in TOML.
    async fn config(&self) -> Result<String>;
}

/// Bytes as text: as they are where they are UTF-8, else NUL and their hex digits, which no text here begins with.
pub(crate) fn to_text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| format!("\0{}", hex(bytes)), Into::into)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn from_text(text: &str) -> Option<Vec<u8>> {
    let Some(digits) = text.strip_prefix('\0') else { return Some(text.into()) };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

pub(crate) mod name_text {
    use super::{Deserialize, Deserializer, Name, Serializer, de, from_text, to_text};

    pub(crate) fn serialize<S: Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_text(name.as_bytes()))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = from_text(&text).ok_or_else(|| de::Error::custom("a name in hex is whole bytes"))?;
        Name::new(&bytes).map_err(de::Error::custom)
    }
}

mod target_text {
    use super::{Bytes, Deserialize, Deserializer, Serializer, de, from_text, to_text};

    #[allow(clippy::ref_option, reason = "serde gives a reference to the field")]
    pub(crate) fn serialize<S: Serializer>(target: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
        match target {
            Some(target) => serializer.serialize_str(&to_text(target)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let bytes = from_text(&text).ok_or_else(|| de::Error::custom("a target in hex is whole bytes"))?;
        Ok(Some(bytes.into()))
    }
}

mod cid_text {
    use super::{Cid, Deserialize, Deserializer, Serializer, de};

    #[allow(clippy::ref_option, reason = "serde gives a reference to the field")]
    pub(crate) fn serialize<S: Serializer>(cid: &Option<Cid>, serializer: S) -> Result<S::Ok, S::Error> {
        match cid {
            Some(cid) => serializer.collect_str(cid),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cid>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        text.parse().map(Some).map_err(de::Error::custom)
    }
}

/// A [`Link`] or an [`Entry`], as the control protocol carries it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LinkText {
    cid: String,
    tsize: u64,
}

impl From<Link> for LinkText {
    fn from(link: Link) -> Self {
        Self { cid: link.cid.to_string(), tsize: link.tsize }
    }
}

impl TryFrom<LinkText> for Link {
    type Error = muxfs::Error;
    fn try_from(text: LinkText) -> Result<Self> {
        Ok(Self { cid: text.cid.parse()?, tsize: text.tsize })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EntryText {
    #[serde(with = "name_text")]
    name: Name,
    #[serde(flatten)]
    link: LinkText,
}

impl From<Entry> for EntryText {
    fn from(entry: Entry) -> Self {
        Self { name: entry.name, link: entry.link.into() }
    }
}

impl TryFrom<EntryText> for Entry {
    type Error = muxfs::Error;
    fn try_from(text: EntryText) -> Result<Self> {
        Ok(Self { name: text.name, link: text.link.try_into()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_json() {
        for bytes in [b"plain".as_slice(), "ünï".as_bytes(), b"\xff\xfe", b"0a"] {
            let name = Name::new(bytes).expect("a good name");
            let stat = Stat {
                name: name.clone(),
                kind: Kind::Symlink,
                size: 1,
                mode: 0o777,
                uid: None,
                gid: None,
                mtime: Some((-1, 999_999_999)),
                cid: None,
                target: Some(Bytes::copy_from_slice(bytes)),
                rdev: None,
                below: None,
            };
            let text = serde_json::to_string(&stat).expect("serialises");
            let back: Stat = serde_json::from_str(&text).expect("parses");
            assert_eq!((back.name, back.target.as_deref()), (name, Some(bytes)));
        }
    }

    #[test]
    fn times_round_down() {
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(seconds(epoch + Duration::new(1, 5)), (1, 5));
        assert_eq!(seconds(epoch - Duration::new(1, 5)), (-2, 999_999_995));
        assert_eq!(seconds(epoch - Duration::from_secs(3)), (-3, 0));
        for at in [epoch + Duration::new(1, 5), epoch - Duration::new(1, 5), epoch - Duration::from_secs(3)] {
            assert_eq!(time(seconds(at)), at);
        }
    }

    #[test]
    fn places() {
        assert_eq!(Place::parse(b"/").expect("the root"), Place::Root);
        assert_eq!(Place::parse(b"/mem/").expect("a mount").to_bytes(), b"/mem");
        for bad in [b"".as_slice(), b"//", b"mem", b"/mem//"] {
            Place::parse(bad).expect_err("refused");
        }
    }
}
