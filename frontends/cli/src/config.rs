//! The configuration: a TOML file, overridden by flags. Unknown keys are errors that name the key.
//!
//! Without a file there is a configuration all the same: `/mem`, `/local`, `/ipfs` and `/zstor`, served on loopback.
//! Spec: spec/config.md.

use std::{
    collections::BTreeSet,
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use muxfs::{Error, ErrorKind, Prefix, QfsPath, Result, dag::Profile, ipns::IpnsName, tree::Retention};
use muxfs_flist::{Profiles, SourceUrl as ChunkSourceUrl};
use muxfs_ipfs::SourceUrl;
use muxfs_zstor::{Password, ZdbAddress};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    bucket::{BucketAt, BucketMount},
    data_dir::content_dir,
    database::{RedisMount, SqliteMount},
    mounts::MountPoint,
    s3::S3,
    vault::VaultMount,
    zstor,
};

/// Where NFS listens if nothing else is said.
pub(crate) const NFS_ADDR: &str = "127.0.0.1:11111";
/// Where FTP listens if nothing else is said.
pub(crate) const FTP_ADDR: &str = "127.0.0.1:2121";
/// Where HTTP listens if nothing else is said.
pub(crate) const HTTP_ADDR: &str = "127.0.0.1:8080";

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

/// A file, and the flags that win over it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Source {
    pub(crate) file: Option<PathBuf>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) local: Option<PathBuf>,
    pub(crate) nfs: Option<Listen>,
    pub(crate) ftp: Option<Listen>,
    pub(crate) http: Option<Listen>,
    pub(crate) s3: Option<Listen>,
    pub(crate) metrics: Option<Listen>,
    pub(crate) mounts: Vec<MountPoint>,
    /// Whether those are all that is served: whatever the file says, nothing listens, and nothing else is mounted.
    pub(crate) is_mount_alone: bool,
    /// The file descriptor that gives the password of vaults of which nothing else says it.
    pub(crate) password_fd: Option<u32>,
}

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
    fn fault(&self, before: &[Mount]) -> Option<String> {
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

/// Flists, and where their chunks are. Spec: spec/flist.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FlistMount {
    pub(crate) prefix: PrefixText,
    /// The directory that has them, which must be there; `DATA/flists` where absent, made at the first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dir: Option<PathBuf>,
    /// Whether the directory has directories of flists, as that of a hub: `/flist/USER/NAME`.
    #[serde(default)]
    pub(crate) repositories: bool,
    /// Who is asked first, in order, for the chunks of every flist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sources: Vec<FlistSource>,
    /// Whether the servers are asked then that an flist itself names: who made it then chooses whom this machine talks to.
    #[serde(default)]
    pub(crate) follow: bool,
    /// The keys of which one has to have signed an flist for it to be opened; where empty, anybody's is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) signers: Vec<FlistSigner>,
    #[serde(default)]
    pub(crate) profiles: FlistProfiles,
    /// The most bytes of chunks that are kept on disk; 0 keeps none.
    #[serde(default = "FlistMount::cache_default")]
    pub(crate) cache: ByteCount,
}

impl FlistMount {
    fn cache_default() -> ByteCount {
        ByteCount(10 << 30)
    }
}

/// What is done about what starts touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FlistProfiles {
    Off,
    /// The chunks are fetched that the profile beside an flist names.
    #[default]
    Replay,
    /// Profiles are written.
    Record,
}

impl From<FlistProfiles> for Profiles {
    fn from(profiles: FlistProfiles) -> Self {
        match profiles {
            FlistProfiles::Off => Self::Off,
            FlistProfiles::Replay => Self::Replay,
            FlistProfiles::Record => Self::Record,
        }
    }
}

/// Whose key signs flists, as text: an IPNS name that holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FlistSigner(#[serde(with = "display_text")] pub(crate) IpnsName);

/// Who is asked for chunks, as text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FlistSource(#[serde(with = "display_text")] pub(crate) ChunkSourceUrl);

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

impl std::fmt::Display for ZstorAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

    fn new(prefix: PrefixText) -> Self {
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
    fn fault(&self) -> Option<String> {
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
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    fn fault(&self) -> Option<String> {
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
#[derive(Debug, Clone)]
pub(crate) struct PasswordText(pub(crate) Password);

impl<'de> Deserialize<'de> for PasswordText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Password::new(text)))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Nfs {
    pub(crate) listen: Listen,
    /// Networks that may connect, as `10.0.0.0/8`; only this machine where empty.
    pub(crate) allow: Vec<String>,
    pub(crate) read_only: bool,
    pub(crate) squash: Squash,
    /// Whom squashed callers become.
    pub(crate) anon_uid: u32,
    pub(crate) anon_gid: u32,
}

impl Default for Nfs {
    fn default() -> Self {
        Self {
            listen: Listen::at(NFS_ADDR),
            allow: Vec::new(),
            read_only: false,
            squash: Squash::Auto,
            anon_uid: 65534,
            anon_gid: 65534,
        }
    }
}

/// Which NFS callers become the anonymous one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Squash {
    /// None on loopback, root elsewhere.
    Auto,
    None,
    Root,
    All,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ftp {
    pub(crate) listen: Listen,
    /// A file of users; needed to listen anywhere but on loopback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) users: Option<PathBuf>,
    /// A certificate chain in PEM; with `tls_key` it turns explicit TLS on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Makes a certificate of its own at first start and keeps it in the data directory.
    pub(crate) tls_self_signed: bool,
    /// Refuses logins without TLS.
    pub(crate) tls_required: bool,
    /// The ports of passive transfers, first and last.
    pub(crate) passive_ports: [u16; 2],
    /// The address that passive replies name, where it is not the one the client came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) passive_host: Option<std::net::Ipv4Addr>,
}

impl Default for Ftp {
    fn default() -> Self {
        Self {
            listen: Listen::at(FTP_ADDR),
            users: None,
            tls_cert: None,
            tls_key: None,
            tls_self_signed: false,
            tls_required: false,
            passive_ports: [49152, 65535],
            passive_host: None,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Http {
    pub(crate) listen: Listen,
    /// The names that it answers to, beside addresses and `localhost`.
    pub(crate) hosts: Vec<String>,
    /// Whether who reads shows the token on loopback, too.
    pub(crate) private: bool,
    /// A file of users, each with a home; who has the token needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) users: Option<PathBuf>,
    /// Flists of several users; absent: there is no hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hub: Option<Hub>,
}

/// A hub of flists. Spec: spec/hub.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Hub {
    /// The directory of the repositories, which must be there; `DATA/hub/flists` where absent, made at the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dir: Option<PathBuf>,
    /// The file of the users; `DATA/hub/users` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) users: Option<PathBuf>,
    /// Whether anybody may read, wherever the server listens.
    pub(crate) public: bool,
    /// Repositories that are shown first.
    pub(crate) official: Vec<String>,
    /// Where the chunks go of what is made of archives, and where those of flists are looked for that are given.
    pub(crate) stores: Vec<FlistSource>,
    /// Where chunks are looked for beside the stores.
    pub(crate) sources: Vec<FlistSource>,
    /// Whether they are then looked for where a given flist says itself.
    pub(crate) follow: bool,
    /// Where flists that are made say that their chunks are; where empty, the stores without their passwords.
    pub(crate) routes: Vec<FlistSource>,
    /// The format of flists that are made of archives.
    pub(crate) format: HubFormat,
    /// The longest flist that is taken.
    pub(crate) flist_max: ByteCount,
    /// The longest archive that is taken.
    pub(crate) archive_max: ByteCount,
}

/// A format of flists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HubFormat {
    #[default]
    Flist,
    Fl,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            dir: None,
            users: None,
            public: false,
            official: Vec::new(),
            stores: Vec::new(),
            sources: Vec::new(),
            follow: false,
            routes: Vec::new(),
            format: HubFormat::default(),
            flist_max: ByteCount(256 << 20),
            archive_max: ByteCount(8 << 30),
        }
    }
}

impl Hub {
    /// Why it cannot be.
    fn fault(&self) -> Option<String> {
        let secret = self.routes.iter().find(|url| url.0.has_password())?;
        Some(format!("http.hub: whoever has an flist would read the password of the route {}", secret.0))
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: Listen::at(HTTP_ADDR), hosts: Vec::new(), private: false, users: None, hub: None }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fuse {
    /// What `serve` mounts on this machine.
    pub(crate) mounts: Vec<MountPoint>,
    /// Whether those are all that is served: whatever the file says, nothing listens, and nothing else is mounted.
    pub(crate) is_mount_alone: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) listen: Listen,
}

/// When a server removes what nothing keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Gc {
    pub(crate) enabled: bool,
    /// A mount is collected at most so often, and only after something was let go or put; sooner where its disk is
    /// nearly full.
    pub(crate) every: Span,
}

impl Default for Gc {
    fn default() -> Self {
        Self { enabled: true, every: Span(Duration::from_mins(15)) }
    }
}

/// When a server reads all shards of `/zstor` and heals them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Scrub {
    pub(crate) enabled: bool,
    /// A pass is begun so long after the last one was; sooner where blocks may lack what nobody noted.
    pub(crate) every: Span,
    /// The most bytes of shards that are read in a second.
    pub(crate) max_rate: ByteCount,
}

impl Default for Scrub {
    fn default() -> Self {
        Self { enabled: true, every: Span(Duration::from_hours(14 * 24)), max_rate: ByteCount(32 << 20) }
    }
}

/// Which commits of working trees stay.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct History {
    /// Every commit of so long ago,
    pub(crate) all: Span,
    /// the last of every hour so long,
    pub(crate) hourly: Span,
    /// and the last of every day so long.
    pub(crate) daily: Span,
}

impl Default for History {
    fn default() -> Self {
        let Retention { all, hourly, daily } = Retention::default();
        Self { all: Span(all), hourly: Span(hourly), daily: Span(daily) }
    }
}

impl History {
    pub(crate) fn retention(&self) -> Retention {
        Retention { all: self.all.0, hourly: self.hourly.0, daily: self.daily.0 }
    }
}

/// Where mounts of kind `ipfs` look for content that was not put here. Spec: spec/sources.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ipfs {
    /// The most bytes of blocks from there that are kept on disk; 0 keeps none.
    pub(crate) cache: ByteCount,
    /// Who is asked; where there is none, nobody.
    pub(crate) sources: Vec<IpfsSource>,
}

impl Default for Ipfs {
    fn default() -> Self {
        Self { cache: ByteCount(10 << 30), sources: Vec::new() }
    }
}

/// Who is asked for content: its address alone, or a table that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IpfsSource {
    pub(crate) url: SourceUrl,
    /// Of a Kubo node: the file whose first line says who we are.
    pub(crate) auth_file: Option<PathBuf>,
    /// Of a Kubo node: whether it looks in its network for what it has not.
    pub(crate) network: bool,
}

/// The table.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IpfsSourceTable {
    #[serde(with = "display_text")]
    url: SourceUrl,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    network: bool,
}

impl IpfsSource {
    /// Why it cannot be.
    fn fault(&self) -> Option<String> {
        let is_gateway = matches!(self.url, SourceUrl::Gateway(_));
        (is_gateway && (self.auth_file.is_some() || self.network)).then(|| {
            format!("ipfs: auth_file and network are for Kubo nodes, and {} is a gateway: kubo+{0} is a node", self.url)
        })
    }
}

impl Serialize for IpfsSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { url, auth_file, network } = self.clone();
        if auth_file.is_none() && !network {
            return serializer.collect_str(&url);
        }
        IpfsSourceTable { url, auth_file, network }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for IpfsSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> de::Visitor<'de> for Form {
            type Value = IpfsSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a table with url")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<IpfsSource, E> {
                let url = text.parse().map_err(|error: Error| E::custom(format!("{error:#}")))?;
                Ok(IpfsSource { url, auth_file: None, network: false })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<IpfsSource, A::Error> {
                let table = IpfsSourceTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let IpfsSourceTable { url, auth_file, network } = table;
                Ok(IpfsSource { url, auth_file, network })
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// What is written as text and read from it.
mod display_text {
    use std::{fmt::Display, str::FromStr};

    use super::{Deserialize, Deserializer, Error, Serializer, de};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err = Error>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|error: Error| de::Error::custom(format!("{error:#}")))
    }
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

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the key.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::new(ErrorKind::InvalidArgument, "config.check").because(why));
        let mut seen = BTreeSet::new();
        for (at, mount) in self.mount.iter().enumerate() {
            if !seen.insert(mount.prefix()) {
                return refuse(format!("mount: the prefix {:?} is there twice", mount.prefix().as_str()));
            }
            if let Mount::Zstor(zstor) = mount
                && let Some(why) = zstor.fault()
            {
                return refuse(why);
            }
            if let Mount::S3(bucket) = mount
                && let Some(why) = bucket.fault()
            {
                return refuse(format!("mount: {why}"));
            }
            if let Mount::Vault(vault) = mount
                && let Some(why) = vault.fault()
            {
                return refuse(format!("mount: {why}"));
            }
            if let Mount::Overlay(overlay) = mount
                && let Some(why) = overlay.fault(self.mount.get(..at).unwrap_or_default())
            {
                return refuse(why);
            }
        }
        if let Some(PrefixText(default)) = self.default
            && !seen.contains(&default)
        {
            return refuse(format!("default: there is no mount {:?}", default.as_str()));
        }
        if let Some(why) = self.ipfs.sources.iter().find_map(IpfsSource::fault) {
            return refuse(why);
        }
        if let Some(why) = self.http.hub.as_ref().and_then(Hub::fault) {
            return refuse(why);
        }
        for point in &self.fuse.mounts {
            point.fuse_options().map_err(|error| error.at(point.dir.display()))?;
        }
        if self.scrub.max_rate.0 == 0 {
            return refuse(
                "scrub: with a max_rate of 0 nothing would ever be read: to turn it off, enabled = false".into(),
            );
        }
        if self.ftp.tls_cert.is_some() != self.ftp.tls_key.is_some() {
            return refuse("ftp: tls_cert and tls_key go together".into());
        }
        if self.ftp.tls_cert.is_some() && self.ftp.tls_self_signed {
            return refuse("ftp: tls_self_signed is for those who have no tls_cert".into());
        }
        if self.ftp.passive_ports[0] > self.ftp.passive_ports[1] || self.ftp.passive_ports[0] == 0 {
            return refuse("ftp: passive_ports are the first and the last port, as [49152, 65535]".into());
        }
        Ok(())
    }
}

/// `$XDG_DATA_HOME/muxfs`, else `~/.local/share/muxfs`, else `./muxfs-data`.
fn default_data_dir() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| PathBuf::from("muxfs-data"), |dir| dir.join("muxfs"))
}

/// A prefix as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PrefixText(pub(crate) Prefix);

impl Serialize for PrefixText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for PrefixText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Prefix::new(text.trim_start_matches('/')).map(Self).map_err(|error| de::Error::custom(format!("{error:#}")))
    }
}

/// A path of the namespace as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathText(pub(crate) QfsPath);

impl Serialize for PathText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PathText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        QfsPath::parse(text.as_bytes()).map(Self).map_err(|error| de::Error::custom(format!("{error:#}")))
    }
}

/// Where a frontend listens, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Listen(pub(crate) Option<SocketAddr>);

impl Listen {
    pub(crate) fn at(addr: &str) -> Self {
        Self(Some(addr.parse().expect("a good address")))
    }
}

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse()
            .map(|addr| Self(Some(addr)))
            .map_err(|_| format!("{text:?} is not an address and port as 127.0.0.1:11111 or [::1]:0, nor off"))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(addr) => write!(f, "{addr}"),
            None => f.write_str("off"),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A length of time: text as `90s`, `15m`, `1h`, `30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

/// The units of time, the longest first, in seconds.
const SPAN_UNITS: [(&str, u64); 4] = [("d", 24 * 3600), ("h", 3600), ("m", 60), ("s", 1)];

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = SPAN_UNITS.iter().find(|(name, _)| *name == unit.trim());
        let (_, unit) = unit.ok_or_else(|| format!("{text:?} is not a length of time as 90s, 15m, 1h or 30d"))?;
        let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a length of time as 15m"))?;
        let seconds = number.checked_mul(*unit).ok_or_else(|| format!("{text:?} is longer than can be counted"))?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (name, unit) =
            SPAN_UNITS.iter().find(|(_, unit)| seconds > 0 && seconds.is_multiple_of(*unit)).unwrap_or(&("s", 1));
        write!(f, "{}{name}", seconds / unit)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A number of bytes: `1048576`, or text as `512MiB`, `4GiB`, `1GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct ByteCount(pub(crate) u64);

impl FromStr for ByteCount {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim() {
            "" | "B" => 1,
            "kB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return Err(format!("{text:?}: the units are B kB MB GB TB KiB MiB GiB TiB")),
        };
        let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a number of bytes as 512MiB"))?;
        number.checked_mul(unit).map(Self).ok_or_else(|| format!("{text:?} is more than 2^64 bytes"))
    }
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Self(number)),
            Form::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// The name of a profile of CIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
pub(crate) enum ProfileName {
    #[default]
    #[serde(rename = "unixfs-v1-2025")]
    #[value(name = "unixfs-v1-2025")]
    UnixfsV1_2025,
    #[serde(rename = "unixfs-v0-2015")]
    #[value(name = "unixfs-v0-2015")]
    UnixfsV0_2015,
    #[serde(rename = "kubo-cidv1-legacy")]
    #[value(name = "kubo-cidv1-legacy")]
    KuboCidV1Legacy,
}

impl From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Self {
        match name {
            ProfileName::UnixfsV1_2025 => Self::UnixfsV1_2025,
            ProfileName::UnixfsV0_2015 => Self::UnixfsV0_2015,
            ProfileName::KuboCidV1Legacy => Self::KuboCidV1Legacy,
        }
    }
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
    fn a_hub_is_there_where_it_is_named() {
        let parse = |text: &str| Config::parse(text).expect("parses");
        assert!(parse("[http]\nprivate = true").http.hub.is_none());
        let config = parse(
            "[http.hub]\nofficial = [\"apps\"]\nstores = [\"zdb://:secret@h/n\"]\nformat = \"fl\"\nflist_max = \"1MiB\"",
        );
        config.check().expect("good");
        let text = config.to_text().expect("printed");
        assert!(!text.contains("secret"), "{text}");
        let hub = parse(&text).http.hub.expect("a hub");
        assert_eq!(
            (hub.format, hub.flist_max, &hub.official[..]),
            (HubFormat::Fl, ByteCount(1 << 20), &["apps".to_owned()][..])
        );
        let error =
            parse("[http.hub]\nroutes = [\"zdb://:p@h/n\"]").check().expect_err("whoever has an flist reads it");
        assert!(format!("{error:#}").contains("password"), "{error:#}");
    }

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

    #[test]
    fn sources_are_addresses_or_tables_and_a_bad_one_is_named_with_its_line() {
        let text = "[ipfs]\ncache = \"1GiB\"\nsources = [\n  \"https://gateway.example\",\n  { url = \"kubo+http://[::1]:5001\", \
                    auth_file = \"/k\", network = true },\n  \"kubo+http://127.0.0.1:5001\",\n]\n";
        let config = Config::parse(text).expect("parses");
        config.check().expect("good");
        let urls: Vec<_> = config.ipfs.sources.iter().map(|source| source.url.to_string()).collect();
        assert_eq!(urls, ["https://gateway.example", "kubo+http://[::1]:5001", "kubo+http://127.0.0.1:5001"]);
        assert_eq!(config.ipfs.cache, ByteCount(1 << 30));
        let again = Config::parse(&config.to_text().expect("prints")).expect("parses");
        assert_eq!(again.ipfs, config.ipfs);
        for (bad, word) in [
            ("sources = [\n\"https://a.example\",\n\"gateway.example\"]", "line 4"),
            ("sources = [{ url = \"https://u:p@a.example\" }]", "auth_file"),
            ("sources = [{ url = \"https://a.example\", autfile = \"x\" }]", "autfile"),
            ("sources = [7]", "an address, or a table"),
            ("source = []", "source"),
        ] {
            let error = Config::parse(&format!("[ipfs]\n{bad}")).expect_err(bad);
            assert!(format!("{error:#}").contains(word), "{bad}: {error:#}");
        }
        let gateway = "[ipfs]\nsources = [{ url = \"https://a.example\", network = true }]";
        let error = Config::parse(gateway).expect("parses").check().expect_err("a gateway");
        assert!(format!("{error:#}").contains("kubo+https://a.example"), "{error:#}");
        assert_eq!(Config::default().ipfs.sources, [], "nobody is asked by default");
    }

    #[test]
    fn sources_of_flists_are_addresses_whose_passwords_are_not_printed() {
        let mount = |more: &str| Config::parse(&format!("[[mount]]\nkind = \"flist\"\nprefix = \"flist\"\n{more}"));
        let Mount::Flist(flist) = mount("").expect("parses").mount.remove(0) else { panic!("it is one") };
        assert!(!flist.follow && flist.dir.is_none() && flist.cache == ByteCount(10 << 30));
        let good = mount(
            "sources = [\"dir:///chunks\", \"00-7f=zdb://:secret@h:1/ns\"]\nfollow = true\ncache = 0\n\
            signers = [\"k51qzi5uqu5dm0t4vbwri4lkg76q03b4x9tsvekgvbu4zli6454ff7w8wdosa4\"]",
        );
        let good = good.expect("parses");
        good.check().expect("good");
        let text = good.to_text().expect("prints");
        assert!(text.contains("00-7f=zdb://:***@h:1/ns") && !text.contains("secret"), "{text}");
        for (bad, word) in [
            ("sources = [\"chunks\"]", "dir://"),
            ("sources = [\"s3://h\"]", "a bucket is s3://"),
            ("sorces = []", "sorces"),
            ("signers = [\"me\"]", "k51"),
            ("cache = \"much\"", "units"),
            ("profiles = \"all\"", "replay"),
        ] {
            let error = mount(bad).expect_err(bad);
            assert!(format!("{error:#}").contains(word), "{bad}: {error:#}");
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

    #[test]
    fn spans() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("15m", 900), ("1 h", 3600), ("30d", 2_592_000), ("60s", 60)] {
            let span: Span = text.parse().expect(text);
            assert_eq!(span.0, Duration::from_secs(seconds), "{text}");
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        for text in ["", "m", "15", "-1s", "1.5h", "15min", "99999999999999999999d", "9999999999999999d"] {
            text.parse::<Span>().expect_err(text);
        }
    }

    #[test]
    fn byte_counts() {
        for (text, bytes) in [("0", 0), ("12", 12), ("1KiB", 1024), ("2 MiB", 2 << 20), ("1GB", 1_000_000_000)] {
            assert_eq!(text.parse::<ByteCount>(), Ok(ByteCount(bytes)), "{text}");
        }
        for text in ["", "GiB", "-1", "1.5GiB", "1gib", "99999999999TiB"] {
            text.parse::<ByteCount>().expect_err(text);
        }
    }
}
