//! Who serves the mounts: where each protocol listens, and whom it lets in.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Hub, Listen};
use crate::mounts::MountPoint;

/// Where NFS listens if nothing else is said.
const NFS_ADDR: &str = "127.0.0.1:11111";
/// Where FTP listens if nothing else is said.
const FTP_ADDR: &str = "127.0.0.1:2121";
/// Where HTTP listens if nothing else is said.
pub(crate) const HTTP_ADDR: &str = "127.0.0.1:8080";

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
