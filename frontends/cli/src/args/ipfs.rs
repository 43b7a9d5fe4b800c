//! The commands for others of the IPFS network.

use std::ffi::OsString;

use clap::{Args, Subcommand};
use muxfs_ipfs::Url;

/// What to do with a Kubo node.
#[derive(Debug, Subcommand)]
pub(crate) enum Ipfs {
    /// Give a Kubo node what a path leads to, and have it kept there
    ///
    /// All blocks below it go to the node in one request, and the root is pinned there: from then on the node has it for the
    /// IPFS network. What the node keeps already is not sent again. The last line printed is the path that everybody reads
    /// it by. Whoever has the CID can read it then, also what was encrypted here, as all of /zstor is.
    #[command(
        after_help = "The node is the first of [ipfs] sources in the configuration that begins with kubo+http:// or kubo+https://, and who\nwe are there is in its auth_file.\n\nExamples:\n  muxfs ipfs publish /ipfs/photos\n  muxfs ipfs publish bafy... --name 'photos of 2026'\n  muxfs ipfs publish /zstor/<cid> --to http://127.0.0.1:5001"
    )]
    Publish(IpfsPublish),
}

/// What is published.
#[derive(Debug, Args)]
pub(crate) struct IpfsPublish {
    /// A path, or a CID in the default mount
    #[arg(value_name = "PATH|CID")]
    pub(crate) path: OsString,
    /// The RPC of another node than that of the configuration, or of one of several
    #[arg(long, value_name = "URL", value_parser = rpc)]
    pub(crate) to: Option<Url>,
    /// The name of the pin at the node
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Send all of it, also where the node says that it keeps it
    #[arg(long)]
    pub(crate) again: bool,
}

/// An address, as the configuration has it or without `kubo+`.
pub(super) fn rpc(text: &str) -> Result<Url, String> {
    text.strip_prefix("kubo+").unwrap_or(text).parse().map_err(|error: muxfs::Error| format!("{error:#}"))
}
