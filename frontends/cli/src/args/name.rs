//! The commands for IPNS names.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use muxfs::ipns::IpnsName;
use muxfs_ipfs::Url;

use crate::{
    config::Span,
    names::{LIFETIMES, Label},
};

/// What to do with names.
#[derive(Debug, Subcommand)]
pub(crate) enum Name {
    /// Let the name of a key lead to content, and print it
    ///
    /// The record says until when; publish again before that, or let the name follow the path. Nothing is pinned by it.
    #[command(
        after_help = "Examples:\n  muxfs name publish /ipfs/photos\n  muxfs name publish /ipfs/site --follow --key site\n  muxfs name publish bafy... --key site --lifetime 30d\n  curl http://127.0.0.1:8080$(muxfs name publish /ipfs/site)/"
    )]
    Publish(NamePublish),
    /// Print where a name leads, by the records that are known here, else by those that the sources of /ipfs know
    #[command(after_help = "Examples:\n  muxfs name resolve k51...\n  muxfs name resolve site")]
    Resolve {
        /// A name as k51..., /ipns/k51... or 12D3Koo..., or the label of a key
        #[arg(value_name = "NAME|LABEL")]
        name: String,
    },
    /// List the keys: their labels, names, and where those lead
    Ls,
    /// Draw a key
    New {
        /// What it is called here
        #[arg(value_name = "LABEL")]
        label: Label,
    },
    /// Write a key to a new file, as libp2p and Kubo take it; who has it can publish the name
    #[command(after_help = "Examples:\n  muxfs name export site site.key\n  ipfs key import site site.key")]
    Export {
        /// What it is called here
        #[arg(value_name = "LABEL")]
        label: Label,
        /// The new file, which its owner alone reads
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Take an Ed25519 key that was exported elsewhere
    #[command(after_help = "Examples:\n  ipfs key export -o site.key site && muxfs name import site site.key")]
    Import {
        /// What it is to be called here
        #[arg(value_name = "LABEL")]
        label: Label,
        /// The file, as libp2p writes keys
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Take a record that was made elsewhere, where it is the newest of its name
    #[command(
        after_help = "Examples:\n  curl -s 'http://host:8080/ipns/k51...?format=ipns-record' > r && muxfs name accept k51... r"
    )]
    Accept {
        /// Whose it is
        #[arg(value_name = "NAME")]
        name: IpnsName,
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// How long a record is good that nothing renews, and one that a server does.
const LIFETIME: Duration = Duration::from_hours(365 * 24);
const LIFETIME_FOLLOWING: Duration = Duration::from_hours(30 * 24);

/// What is published.
#[derive(Debug, Args)]
pub(crate) struct NamePublish {
    /// A path below /ipfs, the CID of content, or another name as /ipns/k51...
    #[arg(value_name = "PATH|CID")]
    pub(crate) path: OsString,
    /// The label of the key whose name it is; self is made where there is none
    #[arg(long, value_name = "LABEL", default_value_t)]
    pub(crate) key: Label,
    /// Publish again after each commit that changes what is there, and before the record ends, for as long as a server runs
    ///
    /// Until the name is published without it. What is there is committed first.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Give the record to the Kubo node of the configuration too, for its network
    #[arg(long)]
    pub(crate) push: bool,
    /// Give it to the node whose RPC this is
    #[arg(long, value_name = "URL", value_parser = super::ipfs::rpc)]
    pub(crate) push_to: Option<Url>,
    /// How long the record is good, 5s to 36500d [default: 365d; 30d with --follow]
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub(crate) lifetime: Option<Span>,
    /// How long readers need not ask again
    #[arg(long, value_name = "TIME", default_value_t = Span(muxfs::ipns::TTL))]
    pub(crate) ttl: Span,
}

/// How long a record may be good.
fn lifetime(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if LIFETIMES.contains(&span.0) {
        return Ok(span);
    }
    let (least, most) = (Span(*LIFETIMES.start()), Span(*LIFETIMES.end()));
    Err(format!("a record is good for {least} to {most}: one of {span} would lead nowhere, or could not be let go"))
}

impl NamePublish {
    pub(crate) fn lifetime(&self) -> Span {
        self.lifetime.unwrap_or(Span(if self.follow { LIFETIME_FOLLOWING } else { LIFETIME }))
    }
}
