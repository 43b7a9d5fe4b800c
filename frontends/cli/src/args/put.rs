//! What `put` and `get` are told: content in, and out again.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;

use crate::config::ProfileName;

#[derive(Debug, Args)]
pub(crate) struct Put {
    /// A file, a directory with -r, or - for standard input
    pub(crate) source: PathBuf,
    /// /ipfs, /mem, /ipfs/<cid> (must hash to it), or a name as /ipfs/name or /local/path [default: the default mount]
    pub(crate) target: Option<OsString>,
    /// Put a directory with all that is in it, hidden files included; symlinks are kept, and under a name in a working tree
    /// modes, times, hard links, holes, extended attributes, pipes and sockets too
    #[arg(short)]
    pub(crate) recursive: bool,
    /// Print the path without storing anything
    #[arg(long)]
    pub(crate) only_hash: bool,
    /// How content becomes a CID, with --only-hash [default: the configured profile]
    #[arg(long, value_enum, value_name = "P")]
    pub(crate) profile: Option<ProfileName>,
    /// Seal the file with the key in this file, so that nobody reads or changes it without; not a directory
    #[arg(long, value_name = "FILE", conflicts_with = "only_hash")]
    pub(crate) key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// What to copy
    #[arg(value_name = "PATH")]
    pub(crate) path: OsString,
    /// Where to; must not be there
    pub(crate) dest: PathBuf,
    /// Overwrite what is there
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Unseal the file with the key in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}
