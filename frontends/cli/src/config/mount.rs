//! The mounts, each a prefix and what is behind it, and those of them that take few words.

use std::path::{Path, PathBuf};

use muxfs::Prefix;
use serde::{Deserialize, Serialize};

use super::{ByteCount, FlistMount, PathText, PrefixText, ZstorMount};
use crate::{
    bucket::BucketMount,
    database::{RedisMount, SqliteMount},
    vault::VaultMount,
    zstor,
};

/// One mount: a prefix and the kind of store behind it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Mount {
    /// Blocks in RAM, gone when the server stops.
    Mem {
        prefix: PrefixText,
        /// The most bytes of blocks it holds; a quarter of the RAM where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<ByteCount>,
    },
    /// A host directory, read and written in place.
    Local {
        prefix: PrefixText,
        /// `DATA/local` where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dir: Option<PathBuf>,
        #[serde(default)]
        read_only: bool,
    },
    /// Blocks on local disk below the data directory, with the CIDs that IPFS gives.
    Ipfs {
        prefix: PrefixText,
        /// Replies to a change of names or attributes before it is durable, as other servers do that are told so.
        #[serde(rename = "async", default)]
        is_async: bool,
    },
    /// Encrypted blocks in shards on nodes.
    Zstor(ZstorMount),
    /// Blocks in a bucket of S3.
    S3(BucketMount),
    /// Blocks in one SQLite file.
    Sqlite(SqliteMount),
    /// Blocks on a Redis server.
    Redis(RedisMount),
    /// Blocks in a vault, which is in any store that learns nothing of them.
    Vault(VaultMount),
    /// A directory of flists, read as they are, their chunks from elsewhere.
    Flist(FlistMount),
    /// A working tree over an flist.
    Overlay(OverlayMount),
}

impl Mount {
    pub(crate) fn prefix(&self) -> Prefix {
        match self {
            Self::Mem { prefix, .. } | Self::Local { prefix, .. } | Self::Ipfs { prefix, .. } => prefix.0,
            Self::Zstor(zstor) => zstor.prefix.0,
            Self::S3(bucket) => bucket.prefix.0,
            Self::Sqlite(mount) => mount.prefix.0,
            Self::Redis(mount) => mount.prefix.0,
            Self::Vault(mount) => mount.prefix.0,
            Self::Flist(flist) => flist.prefix.0,
            Self::Overlay(overlay) => overlay.prefix.0,
        }
    }

    /// It, where it is one of kind `zstor`.
    pub(crate) fn as_zstor(&self) -> Option<&ZstorMount> {
        if let Self::Zstor(zstor) = self { Some(zstor) } else { None }
    }

    /// Whether it has content by CID and a tree over it, kept when the server stops.
    pub(crate) fn is_content(&self) -> bool {
        match self {
            Self::Ipfs { .. } | Self::Zstor(_) | Self::S3(_) | Self::Sqlite(_) | Self::Redis(_) | Self::Vault(_) => {
                true
            }
            Self::Mem { .. } | Self::Local { .. } | Self::Flist(_) | Self::Overlay(_) => false,
        }
    }

    /// The file of the key, or of the password, that all is encrypted with, where there is one.
    pub(crate) fn key_file(&self, data: &Path) -> Option<PathBuf> {
        match self {
            Self::Zstor(zstor) => Some(zstor::key_file(data, zstor)),
            Self::S3(bucket) => bucket.key.clone(),
            Self::Sqlite(mount) => mount.key.clone(),
            Self::Redis(mount) => mount.key.clone(),
            Self::Vault(mount) => mount.password_file.clone().or_else(|| mount.key_file.clone()),
            Self::Mem { .. } | Self::Local { .. } | Self::Ipfs { .. } | Self::Flist(_) | Self::Overlay(_) => None,
        }
    }
}

/// A working tree over an flist, or over a directory of one. Spec: spec/overlay.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OverlayMount {
    pub(crate) prefix: PrefixText,
    /// The flist, or the directory in it, in a mount of kind `flist` above: `/flist/app`.
    pub(crate) over: PathText,
    /// As of an `ipfs` mount.
    #[serde(rename = "async", default)]
    pub(crate) is_async: bool,
}

impl OverlayMount {
    /// Why it cannot be, with these mounts before it.
    pub(super) fn fault(&self, before: &[Mount]) -> Option<String> {
        let over = &self.over.0;
        let is_in = |mount: &Mount| match mount {
            Mount::Flist(flist) => flist.prefix.0 == over.prefix && over.parts.len() > usize::from(flist.repositories),
            _ => false,
        };
        if before.iter().any(is_in) {
            return None;
        }
        let why = "names no flist of a mount of kind flist that stands before it; as /flist/app, with repositories /flist/alice/app";
        Some(format!("mount: over = {:?} of /{} {why}", over.to_string(), self.prefix.0))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Config, *};

    #[test]
    fn names_are_durable_unless_it_is_said() {
        let mount = |more: &str| {
            let text = format!("[[mount]]\nkind = \"ipfs\"\nprefix = \"ipfs\"\n{more}");
            toml::from_str::<Config>(&text).expect("parses").mount.remove(0)
        };
        assert!(matches!(mount(""), Mount::Ipfs { is_async: false, .. }));
        assert!(matches!(mount("async = true"), Mount::Ipfs { is_async: true, .. }));
    }

    #[test]
    fn an_overlay_lies_over_an_flist_of_a_mount_above() {
        let flists = "[[mount]]\nkind = \"flist\"\nprefix = \"flist\"\n";
        let over = |path: &str| format!("[[mount]]\nkind = \"overlay\"\nprefix = \"app\"\nover = \"{path}\"\n");
        let check = |text: &str| Config::parse(text).expect("parses").check();
        for path in ["/flist/app", "/flist/app/usr/share"] {
            let text = format!("{flists}{}", over(path));
            check(&text).expect("good");
            let printed = Config::parse(&text).expect("parses").to_text().expect("printed");
            assert!(printed.contains(&format!("over = \"{path}\"")), "{printed}");
        }
        for text in [format!("{flists}{}", over("/flist")), format!("{}{flists}", over("/flist/app")), over("/mem/app")]
        {
            let error = check(&text).expect_err("over what?");
            assert!(format!("{error:#}").contains("of /app"), "{error:#}");
        }
        Config::parse(&over("flist/app")).expect_err("no path");
        let flists = format!("{flists}repositories = true\n");
        check(&format!("{flists}{}", over("/flist/alice/app"))).expect("good");
        check(&format!("{flists}{}", over("/flist/alice"))).expect_err("it is no flist");
    }
}
