//! What a mount is told: who may use it, what it shows, what the kernel may cache and for how long.

use std::time::Duration;

use muxfs::{Name, vfs::Fsid};

/// How a mount behaves. Plain data; the default is safe: only the user who mounts, and every cache coherent.
///
/// ```
/// let options = muxfs_fuse::Options::default();
/// assert!(!options.allow_other && !options.write_back);
/// ```
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own, named where it is set")]
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory to mount, as names from the root of the watched file system on. Default: none, the root itself.
    pub below: Vec<Name>,
    /// The first field of `/proc/mounts` and of `df`. Default: `muxfs`.
    pub source: String,
    /// Lets other users in than the one who mounts; for another than root `/etc/fuse.conf` must allow it. Default: no.
    pub allow_other: bool,
    /// Refuses every change with EROFS. Default: no.
    pub read_only: bool,
    /// Honours device files; for root alone. Default: no.
    pub dev: bool,
    /// Honours setuid bits; for root alone. Default: no.
    pub suid: bool,
    /// Refuses to run programs. Default: no.
    pub no_exec: bool,
    /// Shows every node as this user's, and gives new ones to them. Default: `None`, the owner of each.
    pub uid: Option<u32>,
    /// The same for the group.
    pub gid: Option<u32>,
    /// Lets the kernel keep written pages and send them later. For a tree that nobody else changes: what is written is
    /// not seen by other frontends until then. Default: no.
    pub write_back: bool,
    /// File systems that are also changed past MuxFS, as host directories are, by their fsid. Default: none.
    pub outside: Vec<Fsid>,
    /// Lets the kernel read and write the files of those by itself, where it can (Linux 6.9) and this process is root; not
    /// with `write_back`. Default: yes.
    pub passthrough: bool,
    /// How long the kernel may believe what it knows of those. Default: 1 s.
    pub outside_timeout: Duration,
    /// How long a call waits for a store that is out of reach before it fails with EIO. Default: 30 s.
    pub unavailable_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            below: Vec::new(),
            source: "muxfs".into(),
            allow_other: false,
            read_only: false,
            dev: false,
            suid: false,
            no_exec: false,
            uid: None,
            gid: None,
            write_back: false,
            outside: Vec::new(),
            passthrough: true,
            outside_timeout: Duration::from_secs(1),
            unavailable_after: Duration::from_secs(30),
        }
    }
}
