//! The configuration: a TOML file, overridden by flags. Unknown keys are errors that name the key.
//!
//! Without a file there is a configuration all the same: `/mem`, `/local`, `/ipfs` and `/zstor`, served on loopback.
//! Each part of the file has its own here, which says what it holds and why it cannot be. Spec: spec/config.md.

mod care;
mod check;
mod flist;
mod hub;
mod ipfs;
mod mount;
mod server;
mod source;
mod text;
mod zstor;

use std::{
    fs,
    path::{Path, PathBuf},
};

use muxfs::{Error, ErrorKind, Prefix, Result};
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    care::{Gc, History, Scrub},
    flist::{FlistMount, FlistSource},
    hub::{Hub, HubFormat},
    ipfs::{Ipfs, IpfsSource},
    mount::{Mount, OverlayMount},
    server::{Ftp, Fuse, HTTP_ADDR, Http, Metrics, Nfs, Squash},
    source::Source,
    text::{ByteCount, Listen, PathText, PrefixText, ProfileName, Span},
    zstor::{ZstorAt, ZstorMount, ZstorNode},
};
use crate::s3::S3;

/// Everything that can be set. `muxfs config` prints the effective one, as a file that can be read again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The directory that this process owns: blocks, pins, keys, the lock.
    pub(crate) data: PathBuf,
    /// The prefix that `put` writes to where none is named; `None` picks by [`muxfs::MuxFs::default_write`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) default: Option<PrefixText>,
    /// How content becomes CIDs, in every content-addressed mount.
    pub(crate) profile: ProfileName,
    pub(crate) nfs: Nfs,
    pub(crate) ftp: Ftp,
    pub(crate) http: Http,
    pub(crate) s3: S3,
    pub(crate) fuse: Fuse,
    pub(crate) metrics: Metrics,
    pub(crate) gc: Gc,
    pub(crate) scrub: Scrub,
    pub(crate) history: History,
    pub(crate) ipfs: Ipfs,
    /// In the order in which they are listed at the root.
    pub(crate) mount: Vec<Mount>,
    /// What it is made of, to make it anew.
    #[serde(skip)]
    pub(crate) source: Source,
}

impl Default for Config {
    fn default() -> Self {
        let prefix = |text| PrefixText(Prefix::new(text).expect("a good prefix"));
        Self {
            data: default_data_dir(),
            default: None,
            profile: ProfileName::default(),
            nfs: Nfs::default(),
            ftp: Ftp::default(),
            http: Http::default(),
            s3: S3::default(),
            fuse: Fuse::default(),
            metrics: Metrics::default(),
            gc: Gc::default(),
            scrub: Scrub::default(),
            history: History::default(),
            ipfs: Ipfs::default(),
            mount: vec![
                Mount::Mem { prefix: prefix("mem"), limit: None },
                Mount::Local { prefix: prefix("local"), dir: None, read_only: false },
                Mount::Ipfs { prefix: prefix("ipfs"), is_async: false },
                Mount::Zstor(ZstorMount::new(prefix("zstor"))),
            ],
            source: Source::default(),
        }
    }
}

impl Config {
    /// Its mounts of kind `zstor`.
    pub(crate) fn zstors(&self) -> impl Iterator<Item = &ZstorMount> {
        self.mount.iter().filter_map(Mount::as_zstor)
    }

    /// That of a prefix.
    pub(crate) fn zstor(&self, prefix: Prefix) -> Option<&ZstorMount> {
        self.zstors().find(|mount| mount.prefix.0 == prefix)
    }

    /// Has nothing listen anywhere.
    pub(crate) fn listen_nowhere(&mut self) {
        for listen in [
            &mut self.nfs.listen,
            &mut self.ftp.listen,
            &mut self.http.listen,
            &mut self.s3.listen,
            &mut self.metrics.listen,
        ] {
            *listen = Listen(None);
        }
    }

    /// Reads a file, or takes the defaults where there is none.
    ///
    /// # Errors
    /// `Io` if the file cannot be read; `InvalidArgument` naming the key, line and column.
    pub(crate) fn load(file: Option<&Path>) -> Result<Self> {
        let Some(file) = file else { return Ok(Self::default()) };
        let text = fs::read_to_string(file).map_err(|error| {
            let kind = if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
            Error::new(kind, "config.read").at(file.display()).because(error)
        })?;
        Self::parse(&text).map_err(|error| error.at(file.display()))
    }

    /// Reads the text of a configuration.
    ///
    /// # Errors
    /// `InvalidArgument` naming the key, line and column.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| Error::new(ErrorKind::InvalidArgument, "config.parse").because(error))
    }

    /// Its text, which [`Config::parse`] reads again.
    pub(crate) fn to_text(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::new(ErrorKind::Internal, "config.print").because(error))
    }
}

/// `$XDG_DATA_HOME/muxfs`, else `~/.local/share/muxfs`, else `./muxfs-data`.
fn default_data_dir() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| PathBuf::from("muxfs-data"), |dir| dir.join("muxfs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back() {
        let config = Config::default();
        let text = toml::to_string(&config).expect("serialises");
        let back: Config = toml::from_str(&text).expect("parses");
        assert_eq!(toml::to_string(&back).expect("serialises"), text);
        back.check().expect("the default is good");
    }

    #[test]
    fn unknown_keys_are_named() {
        for (text, key) in [
            ("dat = \"x\"", "dat"),
            ("[nfs]\nlisen = \"off\"", "lisen"),
            ("[http.hub]\nstore = []", "store"),
            ("[[mount]]\nkind = \"local\"\nprefix = \"local\"\ndri = \"/x\"", "dri"),
            ("[[mount]]\nkind = \"local\"\nprefix = \"local\"\nasync = true", "async"),
            ("[[mount]]\nkind = \"zstor\"\nprefix = \"zstor\"\nparty = 2", "party"),
            ("[[mount]]\nkind = \"zstor\"\nprefix = \"zstor\"\nnodes = [{ dri = \"/x\" }]", "dri"),
        ] {
            let error = toml::from_str::<Config>(text).expect_err(text).to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn the_examples_are_good() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/configs");
        let is_whole = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.starts_with("zstor-") || name == "flists.toml" || name == "hub.toml" || name == "vault.toml"
        };
        let entries = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").path());
        let examples: Vec<_> = entries.filter(is_whole).collect();
        assert!(examples.len() >= 4);
        for path in examples {
            let text = fs::read_to_string(&path).expect("read");
            Config::parse(&text)
                .expect("parses")
                .check()
                .unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
        }
    }

    #[test]
    fn bad_values_are_refused() {
        for text in [
            "[nfs]\nlisten = \"localhost\"",
            "[[mount]]\nkind = \"mem\"\nprefix = \"toolong\"",
            "[[mount]]\nkind = \"tape\"\nprefix = \"tape\"",
            "[[mount]]\nkind = \"mem\"\nprefix = \"mem\"\nlimit = \"4 bananas\"",
            "profile = \"unixfs-v9\"",
        ] {
            toml::from_str::<Config>(text).expect_err(text);
        }
        let twice = "[[mount]]\nkind = \"mem\"\nprefix = \"a\"\n[[mount]]\nkind = \"ipfs\"\nprefix = \"a\"";
        toml::from_str::<Config>(twice).expect("parses").check().expect_err("the prefix is there twice");
        toml::from_str::<Config>("default = \"nope\"").expect("parses").check().expect_err("no such mount");
    }
}
