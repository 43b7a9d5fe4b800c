//! Mounts of kind `zstor`: shards of encrypted blocks, and the nodes that have them.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use muxfs_zstor::{Password, ZdbAddress};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::PrefixText;
use crate::{bucket::BucketAt, data_dir::content_dir};

/// Shards of encrypted blocks, and where they are. Spec: spec/zstor.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ZstorMount {
    pub(crate) prefix: PrefixText,
    /// k: so many shards give a block back.
    #[serde(default = "ZstorMount::data_default")]
    pub(crate) data: u8,
    /// m: so many nodes may be lost.
    #[serde(default = "ZstorMount::parity_default")]
    pub(crate) parity: u8,
    /// The most shards of a block on nodes of one group; m where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group_max: Option<u8>,
    /// The file of the key; `DATA/zstor/key` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PathBuf>,
    /// As of an `ipfs` mount.
    #[serde(rename = "async", default)]
    pub(crate) is_async: bool,
    /// `DATA/zstor/nodes/0` to k + m - 1 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nodes: Option<Vec<ZstorNode>>,
    /// Whether nobody asked for it: where the processor cannot do it, there is none.
    #[serde(skip)]
    pub(crate) is_default: bool,
    /// Whether a vault is on these nodes, and the mount is that of the vault.
    #[serde(skip)]
    pub(crate) has_vault: bool,
}

/// Shards on nodes that have a vault: a [`ZstorMount`] whose nodes and key are named.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ZstorAt {
    #[serde(default = "ZstorMount::data_default")]
    data: u8,
    #[serde(default = "ZstorMount::parity_default")]
    parity: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group_max: Option<u8>,
    pub(crate) key: PathBuf,
    nodes: Vec<ZstorNode>,
}

impl ZstorAt {
    /// The same as a mount, that of the vault.
    pub(crate) fn mount(&self, prefix: PrefixText) -> ZstorMount {
        let Self { data, parity, group_max, .. } = *self;
        let (key, nodes) = (Some(self.key.clone()), Some(self.nodes.clone()));
        ZstorMount {
            data,
            parity,
            group_max,
            key,
            nodes,
            is_default: false,
            has_vault: true,
            ..ZstorMount::new(prefix)
        }
    }

    /// Its files that the configuration names.
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        std::iter::once(&mut self.key).chain(self.nodes.iter_mut().flat_map(ZstorNode::files_mut))
    }

    /// Why it cannot be.
    pub(crate) fn fault(&self) -> Option<String> {
        self.nodes.iter().find_map(ZstorNode::fault)
    }
}

impl fmt::Display for ZstorAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} + {} shards on {} nodes", self.data, self.parity, self.nodes.len())
    }
}

impl ZstorMount {
    /// Where it keeps what is not on the nodes.
    pub(crate) fn local_dir(&self, data: &Path) -> PathBuf {
        let dir = content_dir(data, self.prefix.0);
        if self.has_vault { dir.join("nodes") } else { dir }
    }

    fn data_default() -> u8 {
        4
    }

    fn parity_default() -> u8 {
        2
    }

    pub(super) fn new(prefix: PrefixText) -> Self {
        let (data, parity) = (Self::data_default(), Self::parity_default());
        Self {
            prefix,
            data,
            parity,
            group_max: None,
            key: None,
            is_async: false,
            nodes: None,
            is_default: true,
            has_vault: false,
        }
    }

    /// Why it cannot be.
    pub(super) fn fault(&self) -> Option<String> {
        let prefix = self.prefix.0;
        if prefix.as_str() != "zstor" && (self.nodes.is_none() || self.key.is_none()) {
            return Some(format!(
                "mount: /{prefix} is not /zstor, which alone has a key and nodes by default: name its own"
            ));
        }
        if let Some(why) = self.nodes.iter().flatten().find_map(ZstorNode::fault) {
            return Some(format!("mount: {why}"));
        }
        let names = self.nodes.iter().flatten().filter_map(|node| node.name.as_ref());
        let bad = names.into_iter().find(|name| name.is_empty() || name.chars().any(char::is_control))?;
        Some(format!("mount: {bad:?} is no name of a node: it is text in one line"))
    }
}

/// A node of a [`ZstorMount`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ZstorNode {
    /// A directory, which must be there. Either this, `zdb` or `s3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dir: Option<PathBuf>,
    /// A 0-db server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) zdb: Option<ZdbAddressText>,
    /// Which of its namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// What it takes to write there; not printed.
    #[serde(default, skip_serializing)]
    pub(crate) password: Option<PasswordText>,
    /// A file with it instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password_file: Option<PathBuf>,
    /// A bucket of S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) s3: Option<BucketAt>,
    /// Whether the first start makes the namespace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) make: bool,
    /// Where shards belong follows from it; where absent it is `dir`, or namespace and address, or where the bucket is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// What it is lost together with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// Whether nothing new is put there, and what it has is put elsewhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) drain: bool,
}

impl ZstorNode {
    /// Its files that the configuration names.
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let credentials = self.s3.as_mut().and_then(|bucket| bucket.credentials.as_mut());
        self.dir.iter_mut().chain(&mut self.password_file).chain(credentials)
    }

    /// Why it cannot be.
    pub(super) fn fault(&self) -> Option<String> {
        let has_password = self.password.is_some() || self.password_file.is_some();
        let count = [self.dir.is_some(), self.zdb.is_some(), self.s3.is_some()].into_iter().filter(|is| *is).count();
        if count != 1 {
            return Some("a node is a dir, a zdb or an s3".into());
        }
        match (&self.zdb, &self.s3) {
            (Some(zdb), _) if self.namespace.is_none() => Some(format!("the node on {} lacks its namespace", zdb.0)),
            (Some(_), _) if self.password.is_some() && self.password_file.is_some() => {
                Some("password and password_file: one of them".into())
            }
            (Some(_), _) => None,
            (None, _) if self.namespace.is_some() || has_password || self.make => {
                Some("namespace, password and make go with zdb alone".into())
            }
            (None, bucket) => bucket.as_ref().and_then(BucketAt::fault),
        }
    }
}

/// The address of a 0-db server, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ZdbAddressText(pub(crate) ZdbAddress);

impl Serialize for ZdbAddressText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ZdbAddressText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
    }
}

/// A password, which is read and never printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PasswordText(pub(crate) Password);

impl<'de> Deserialize<'de> for PasswordText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Password::new(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn nodes_and_keys_are_named_where_they_cannot_be_told() {
        let check = |text: &str| Config::parse(text).expect("parses").check();
        let mount = "[[mount]]\nkind = \"zstor\"\nprefix = ";
        check(&format!("{mount}\"zstor\"")).expect("has defaults");
        let error = check(&format!("{mount}\"arc\"\nkey = \"/k\"")).expect_err("whose nodes?");
        assert!(format!("{error:#}").contains("/arc"), "{error:#}");
        check(&format!("{mount}\"arc\"\nnodes = [{{ dir = \"/a\" }}]")).expect_err("whose key?");
        check(&format!("{mount}\"arc\"\nkey = \"/k\"\nnodes = [{{ dir = \"/a\", name = \"a b\" }}]")).expect("good");
        check(&format!("{mount}\"zstor\"\nnodes = [{{ dir = \"/a\", name = \"a\\nb\" }}]")).expect_err("two lines");
    }

    #[test]
    fn a_node_is_a_directory_or_a_namespace_and_its_password_is_not_printed() {
        let mount =
            |nodes: &str| Config::parse(&format!("[[mount]]\nkind = \"zstor\"\nprefix = \"zstor\"\nnodes = [{nodes}]"));
        let zdb = "zdb = \"127.0.0.1:9900\"";
        for bad in [
            "{}".into(),
            "{ dir = \"/a\", make = true }".into(),
            format!("{{ {zdb} }}"),
            format!("{{ dir = \"/a\", {zdb}, namespace = \"n\" }}"),
            format!("{{ {zdb}, namespace = \"n\", password = \"p\", password_file = \"/p\" }}"),
        ] {
            mount(&bad).expect("parses").check().expect_err(&bad);
        }
        mount("{ zdb = \"localhost:9900\", namespace = \"n\" }").expect_err("names are not resolved");
        let good =
            mount(&format!("{{ {zdb}, namespace = \"n\", password = \"secret\", make = true }}")).expect("parses");
        good.check().expect("good");
        let printed = toml::to_string(&good).expect("serialises");
        assert!(printed.contains("127.0.0.1:9900") && !printed.contains("secret"), "{printed}");
        assert!(!format!("{good:?}").contains("secret"));
    }
}
