//! The command that copies between mounts.

use std::ffi::OsString;

use clap::Args;

pub(super) const HELP: &str = "\
Examples:
  muxfs cp /ipfs/<cid> /zstor             the same CID in both: prints /zstor/<cid>
  muxfs cp /zstor/<cid> /ipfs             and back: moves what changed
  muxfs cp /ipfs/<cid> /ipfs              fetch from the sources what is not here, and pin it
  muxfs cp /zstor/photos /ipfs            what a name leads to now, as content
  muxfs cp /local/photos /zstor/photos    a directory, under a name
  muxfs cp /ipfs/<cid>/a.jpg /local/a.jpg";

/// What is copied, and where to.
#[derive(Debug, Args)]
pub(crate) struct Cp {
    /// A path in any mount: a directory is copied with all that is in it
    pub(crate) source: OsString,
    /// /zstor, /ipfs or /mem for content, which is pinned then; /zstor/<cid> if it must be that; or a name as /zstor/name
    /// or /local/path: a directory that is there gets what the source has, files are replaced
    pub(crate) dest: OsString,
}
