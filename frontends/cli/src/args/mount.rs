//! What `mount` and `umount` are told.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;

pub(super) const HELP: &str = "\
Arguments:
  [PREFIX]  What to mount, as /ipfs or /ipfs/photos [default: the whole namespace]
  <DIR>     The directory of this machine to mount it on

A running server serves the mount, which then ends with it; else a process of its own does, until it is taken away.

Options:
  ro                  nothing can be changed
  allow_other         other users too; /etc/fuse.conf must say user_allow_other, except for root
  uid=N, gid=N        show everything as this user's, this group's
  prefix=PATH         as PREFIX
  noexec              no programs are run from it
  dev, suid           device files and setuid bits mean something; for root
  writeback_cache     the kernel sends what was written later: for a tree that nobody else changes
  no_passthrough      the kernel never reads and writes files below /local by itself, as it does for root
  data=DIR, config=FILE
                      as --data and --config, for /etc/fstab

Examples:
  muxfs mount /mnt/x
  muxfs mount /ipfs ~/photos
  muxfs mount -f -o ro,allow_other /local /mnt/local
  mount -t fuse.muxfs /ipfs /mnt/x            (as root; also in /etc/fstab)
  muxfs umount /mnt/x";

#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// What to mount, and where; told in the help by hand, which cannot say that the first of two may be left out
    #[arg(required = true, num_args = 1..=2, hide = true)]
    pub(crate) places: Vec<OsString>,
    /// Words between commas, listed below
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,
    /// Stay until the mount is taken away, or Ctrl-C or SIGTERM takes it
    #[arg(short, long)]
    pub(crate) foreground: bool,
    /// Tell the command that started this process when it is ready
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Umount {
    /// Where it is mounted
    pub(crate) dir: PathBuf,
    /// Also while programs use it; those keep it until they close what they have open
    #[arg(short, long)]
    pub(crate) lazy: bool,
}
