//! The configuration of zstor v2, which says where its 0-dbs are, and under which keys it has what it knows of a path.
//!
//! It is read field by field so that an error names the one that is wrong, and shows nothing of it: there are keys and
//! passwords in the file.

use std::{net::SocketAddr, path::Path};

use muxfs::{Error, ErrorKind, Result};
use toml::{Table, Value};

use super::{backend::ZdbInfo, checksum::Checksum, key::DataKey, placement::Rules};
use crate::Password;

/// So many namespaces have the metadata.
pub(crate) const META_COUNT: usize = 4;
/// What the configuration may have at its top, beside what is read: it is for the daemon.
const FIELDS_UNUSED: [&str; 6] =
    ["socket", "pid_file", "zdb_data_dir_path", "max_zdb_data_dir_size", "zdbfs_mountpoint", "prometheus_port"];

/// What there is to know of a zstor v2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// k, m, and what may be lost.
    pub rules: Rules,
    /// The directory that paths are relative to, where there is one.
    pub root: Option<String>,
    /// What files are encrypted with from now on, and their metadata.
    pub key: DataKey,
    /// What metadata may be encrypted with, too.
    pub meta_key: DataKey,
    /// What the keys of metadata begin with.
    pub prefix: String,
    /// The namespaces that have the metadata, in user mode.
    pub metas: [ZdbInfo; META_COUNT],
    /// Those that have the shards, in sequential mode, by what they are lost together with.
    pub groups: Vec<Vec<ZdbInfo>>,
}

/// Under which metadata are: the checksum of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetaKey(pub Checksum);

impl MetaKey {
    /// Returns that of a path, given as zstor v2 hashes it: see [`Config::hashed_path`].
    pub fn of(hashed_path: &str) -> Self {
        Self(Checksum::of(hashed_path.as_bytes()))
    }
}

impl Config {
    /// Reads it.
    ///
    /// ```
    /// # let backend = |port: u16| format!("[[meta.config.backends]]\naddress = \"127.0.0.1:{port}\"\n");
    /// # let metas: String = (1..5).map(backend).collect();
    /// # let key = "0".repeat(64);
    /// # let rest = format!("[encryption]\nalgorithm = \"AES\"\nkey = \"{key}\"\n[compression]\nalgorithm = \"snappy\"\n[meta]\ntype = \"zdb\"\n[meta.config]\nprefix = \"p\"\n[meta.config.encryption]\nalgorithm = \"AES\"\nkey = \"{key}\"\n{metas}[[groups]]\n[[groups.backends]]\naddress = \"[::1]:9900\"\n[[groups.backends]]\naddress = \"[::1]:9901\"\n");
    /// use muxfs_zstor::v2::Config;
    /// let text = "minimal_shards = 1\nexpected_shards = 2\nredundant_groups = 0\nredundant_nodes = 1\n";
    /// let config = Config::parse(&format!("{text}{rest}"))?;
    /// assert_eq!(config.rules.data_shards, 1);
    /// let error = Config::parse(&rest).expect_err("it lacks what is above");
    /// assert!(format!("{error:#}").contains("minimal_shards is missing"));
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument`, which names the field.
    pub fn parse(text: &str) -> Result<Self> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            // Not the line itself: it may be that of a key.
            refused(format!("line {} is no TOML: {}", before.matches('\n').count() + 1, error.message()))
        })?;
        let mut top = Fields::of(table, String::new());
        for name in FIELDS_UNUSED {
            top.table.remove(name);
        }
        let (data_shards, shards) = (top.count("minimal_shards")?, top.count("expected_shards")?);
        let rules = Rules {
            data_shards,
            shards,
            redundant_groups: top.count("redundant_groups")?,
            redundant_nodes: top.count("redundant_nodes")?,
        };
        let root = top.optional_text("root")?;
        let mut encryption = top.fields("encryption")?;
        let key = encryption.key()?;
        let mut compression = top.fields("compression")?;
        compression.one_of("algorithm", "snappy")?;
        let mut meta = top.fields("meta")?;
        meta.one_of("type", "zdb")?;
        let mut meta = meta.fields("config")?;
        let prefix = meta.text("prefix")?;
        let meta_key = meta.fields("encryption")?.key()?;
        let metas = meta.backends()?;
        let found = metas.len();
        let metas = metas.try_into().map_err(|_| {
            refused(format!("meta.config.backends has {found} entries: zstor v2 keeps its metadata in exactly four"))
        })?;
        let groups = top.list("groups")?.into_iter().map(|mut group| group.backends()).collect::<Result<Vec<_>>>()?;
        if let Some(name) = top.table.keys().next() {
            return Err(refused(format!("{name} is no field of zstor v2: is it misspelt?")));
        }
        let config = Self { rules, root, key, meta_key, prefix, metas, groups };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let Rules { data_shards, shards, .. } = self.rules;
        if !(1..256).contains(&data_shards) || shards <= data_shards || shards > 256 {
            return Err(refused(format!(
                "minimal_shards is {data_shards} and expected_shards {shards}: the first is 1 to 255, the second more than that and 256 at most"
            )));
        }
        let count: usize = self.groups.iter().map(Vec::len).sum();
        if count < shards {
            return Err(refused(format!(
                "groups has {count} backends, and expected_shards is {shards}: each needs one"
            )));
        }
        Ok(())
    }

    /// Returns what zstor v2 hashes of a path: without `.` and `..`, and relative to the root where there is one. What is
    /// given relative is relative to that, else to `current_dir`.
    ///
    /// # Errors
    /// `InvalidArgument` where it is not below the root, or no text.
    pub fn hashed_path(&self, path: &Path, current_dir: &Path) -> Result<String> {
        let refuse =
            |why: String| Error::new(ErrorKind::InvalidArgument, "zstor.v2.path").at(path.display()).because(why);
        let root = self.root.as_ref().map(Path::new);
        let whole = root.unwrap_or(current_dir).join(path);
        let Some(text) = whole.to_str() else { return Err(refuse("zstor v2 takes paths in UTF-8".into())) };
        let mut parts: Vec<&str> = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        let Some(root) = root else {
            return if parts.is_empty() {
                Err(refuse("it names no file".into()))
            } else {
                Ok(format!("/{}", parts.join("/")))
            };
        };
        let clean = format!("/{}", parts.join("/"));
        let below = Path::new(&clean).strip_prefix(root).ok().and_then(Path::to_str).filter(|below| !below.is_empty());
        below
            .map(Into::into)
            .ok_or_else(|| refuse(format!("it is not below the root of this zstor v2, {}", root.display())))
    }

    /// Returns the whole key of metadata.
    pub(crate) fn key_text(&self, key: MetaKey) -> String {
        format!("{}{}", self.keys_begin(), key.0)
    }

    /// Returns what those keys begin with.
    pub(crate) fn keys_begin(&self) -> String {
        format!("/{}/meta/", self.prefix)
    }

    /// Reads a whole key; `None` if it is none of metadata.
    pub(crate) fn parse_key(&self, key: &[u8]) -> Option<MetaKey> {
        let hex = std::str::from_utf8(key.strip_prefix(self.keys_begin().as_bytes())?).ok()?;
        let is_hex = hex.len() == 32 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = u128::from_str_radix(hex, 16).ok().filter(|_| is_hex)?;
        Some(MetaKey(Checksum(number.to_be_bytes())))
    }
}

fn refused(why: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, "zstor.v2.config").because(why)
}

/// A table of the configuration, and where it is.
struct Fields {
    table: Table,
    at: String,
}

impl Fields {
    fn of(table: Table, at: String) -> Self {
        Self { table, at }
    }

    fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.into() } else { format!("{}.{name}", self.at) }
    }

    fn missing(&self, name: &str) -> Error {
        refused(format!("{} is missing", self.path(name)))
    }

    fn wrong(&self, name: &str, wanted: &str) -> Error {
        refused(format!("{} has to be {wanted}", self.path(name)))
    }

    fn take(&mut self, name: &str) -> Result<Value> {
        self.table.remove(name).ok_or_else(|| self.missing(name))
    }

    fn count(&mut self, name: &str) -> Result<usize> {
        let count = self.take(name)?.as_integer().and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| self.wrong(name, "a whole number that is not negative"))
    }

    fn optional_text(&mut self, name: &str) -> Result<Option<String>> {
        match self.table.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "text")),
        }
    }

    fn text(&mut self, name: &str) -> Result<String> {
        self.optional_text(name)?.ok_or_else(|| self.missing(name))
    }

    fn one_of(&mut self, name: &str, only: &str) -> Result<()> {
        if self.text(name)? == only {
            Ok(())
        } else {
            Err(self.wrong(name, &format!("{only:?}, the one that zstor v2 has")))
        }
    }

    fn fields(&mut self, name: &str) -> Result<Self> {
        match self.take(name)? {
            Value::Table(table) => Ok(Self::of(table, self.path(name))),
            _ => Err(self.wrong(name, "a table")),
        }
    }

    fn list(&mut self, name: &str) -> Result<Vec<Self>> {
        let Value::Array(items) = self.take(name)? else { return Err(self.wrong(name, "a list of tables")) };
        let of = |(count, item)| match item {
            Value::Table(table) => Ok(Self::of(table, format!("{}[{count}]", self.path(name)))),
            _ => Err(self.wrong(name, "a list of tables")),
        };
        items.into_iter().enumerate().map(of).collect()
    }

    fn key(&mut self) -> Result<DataKey> {
        self.one_of("algorithm", "AES")?;
        let text = zeroize::Zeroizing::new(self.text("key")?);
        DataKey::from_hex(&text).ok_or_else(|| self.wrong("key", "64 hex digits"))
    }

    fn backends(&mut self) -> Result<Vec<ZdbInfo>> {
        self.list("backends")?.into_iter().map(|mut backend| backend.backend()).collect()
    }

    fn backend(&mut self) -> Result<ZdbInfo> {
        let address: Option<SocketAddr> = self.text("address")?.parse().ok();
        let wanted = "an address and a port, as 192.0.2.1:9900 or [2001:db8::1]:9900; zstor v2 takes no names of hosts";
        Ok(ZdbInfo {
            address: address.ok_or_else(|| self.wrong("address", wanted))?,
            namespace: self.optional_text("namespace")?,
            password: self.optional_text("password")?.map(Password::new),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::v2) const TEXT: &str = r#"
minimal_shards = 2
expected_shards = 4
redundant_groups = 0
redundant_nodes = 1
root = "/virtualroot"
socket = "/tmp/zstor.sock"
[encryption]
algorithm = "AES"
key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
[compression]
algorithm = "snappy"
[meta]
type = "zdb"
[meta.config]
prefix = "pfx"
[meta.config.encryption]
algorithm = "AES"
key = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
[[meta.config.backends]]
address = "127.0.0.1:9900"
namespace = "meta"
password = "secret"
[[meta.config.backends]]
address = "127.0.0.1:9901"
[[meta.config.backends]]
address = "127.0.0.1:9902"
[[meta.config.backends]]
address = "[2001:db8::1]:9903"
[[groups]]
[[groups.backends]]
address = "127.0.0.1:9910"
namespace = "data"
password = "secret"
[[groups.backends]]
address = "127.0.0.1:9911"
[[groups]]
[[groups.backends]]
address = "127.0.0.1:9912"
[[groups.backends]]
address = "127.0.0.1:9913"
"#;

    #[test]
    fn a_whole_one() {
        let config = Config::parse(TEXT).expect("good");
        assert_eq!((config.rules.data_shards, config.rules.shards, config.rules.redundant_nodes), (2, 4, 1));
        assert_eq!(config.metas[0].to_string(), "meta on 127.0.0.1:9900");
        assert_eq!(config.metas[3].to_string(), "default on [2001:db8::1]:9903");
        assert_eq!(config.groups.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
        assert!(config.key != config.meta_key && !format!("{config:?}").contains("secret"));
    }

    #[test]
    fn what_is_wrong_is_named_and_not_shown() {
        for (from, to, told) in [
            ("minimal_shards = 2", "", "minimal_shards is missing"),
            ("minimal_shards = 2", "minimal_shards = -2", "minimal_shards has to be"),
            ("minimal_shards = 2", "minimal_shards = 4", "minimal_shards is 4 and expected_shards 4"),
            ("expected_shards = 4", "expected_shards = 5", "groups has 4 backends"),
            ("redundant_nodes", "redundant_node", "redundant_nodes is missing"),
            ("socket", "sockets", "sockets is no field"),
            ("key = \"0001", "key = \"01", "encryption.key has to be 64 hex digits"),
            ("key = \"ff01", "kex = \"ff01", "meta.config.encryption.key is missing"),
            ("\"snappy\"", "\"zstd\"", "compression.algorithm has to be \"snappy\""),
            ("127.0.0.1:9902", "localhost:9902", "meta.config.backends[2].address has to be"),
            ("127.0.0.1:9911", "127.0.0.1", "groups[0].backends[1].address has to be"),
            ("namespace = \"data\"", "namespace = 5", "groups[0].backends[0].namespace has to be text"),
            ("[[meta.config.backends]]\naddress = \"127.0.0.1:9901\"\n", "", "meta.config.backends has 3 entries"),
            ("key = \"0001", "key = 0001\"", "line 10 is no TOML"),
        ] {
            let text = TEXT.replacen(from, to, 1);
            assert_ne!(text, TEXT, "{from}");
            let error = Config::parse(&text).expect_err(told);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            let error = format!("{error:#}");
            assert!(error.contains(told), "{error}");
            assert!(!error.contains("02030405") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn paths_are_hashed_as_zstor_does() {
        let mut config = Config::parse(TEXT).expect("good");
        let of = |config: &Config, path: &str| config.hashed_path(Path::new(path), Path::new("/home/a"));
        for (path, hashed) in
            [("/virtualroot/n.txt", "n.txt"), ("n.txt", "n.txt"), ("/virtualroot/./a//b/../n.txt", "a/n.txt")]
        {
            assert_eq!(of(&config, path).expect("below the root"), hashed);
        }
        for path in ["/virtualroot", "/virtualroots/n.txt", "/virtualroot/../n.txt", "/n.txt", ""] {
            assert_eq!(of(&config, path).expect_err("not below").kind(), ErrorKind::InvalidArgument, "{path}");
        }
        config.root = None;
        for (path, hashed) in [("/a/../b", "/b"), ("n.txt", "/home/a/n.txt"), ("../../../x/", "/x")] {
            assert_eq!(of(&config, path).expect("a path"), hashed);
        }
        of(&config, "/..").expect_err("no file");
        let key = MetaKey::of("n.txt");
        let text = config.key_text(key);
        assert_eq!(text, "/pfx/meta/ba797df7c5be5891ee471b03e598c9d0");
        assert_eq!(config.parse_key(text.as_bytes()), Some(key));
        for other in [
            "/pfx/failures/ba797df7c5be5891ee471b03e598c9d0",
            "/pfx/meta/+a797df7c5be5891ee471b03e598c9d0",
            "/pfx/meta/",
        ] {
            assert_eq!(config.parse_key(other.as_bytes()), None);
        }
    }
}
