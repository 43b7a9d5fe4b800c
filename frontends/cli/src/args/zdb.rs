//! The commands of a storage node.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use crate::config::{ByteCount, Listen, Span};

/// What to do with a storage node.
#[derive(Debug, Subcommand)]
pub(crate) enum Zdb {
    /// Serve the node whose directory --data names, until Ctrl-C or SIGTERM
    ///
    /// Namespaces of keys and values, over TCP and a Unix socket, to redis-cli, zstor, 0-db-fs and /zstor of MuxFS. What was
    /// replied to is durable. Without an administrator's password everybody who connects is administrator, as with 0-db; so
    /// it listens on loopback alone unless there is one.
    #[command(after_help = ZDB_SERVE_EXAMPLES)]
    Serve(ZdbServe),
    /// Bring over what a 0-db left in its directories, every entry checked
    ///
    /// With history, deletions, times, ids and settings. Neither the 0-db nor the node may run. A namespace is imported whole
    /// or not at all; one of which the node has something already is left alone.
    #[command(
        after_help = "Exit code 4 where something is not as 0-db writes it: such a namespace is not imported; 1 where a namespace was there.\n\nExamples:\n  muxfs zdb import --data /disk1/node --from-data /var/lib/zdb/data --from-index /var/lib/zdb/index"
    )]
    Import(ZdbImport),
}

const ZDB_SERVE_EXAMPLES: &str = "\
Examples:
  muxfs zdb serve --data /disk1/node
  muxfs zdb serve --data /disk1/node --namespace muxfs     a node of /zstor: zdb://127.0.0.1:9900/muxfs
  muxfs zdb serve --data /disk1/node --listen 192.0.2.1:9900 --admin-password-file /etc/muxfs/admin.password \\
      --namespace muxfs --password-file /etc/muxfs/zdb.password
  muxfs zdb serve --data /disk1/node --listen off --socket /run/muxfs/zdb.sock";

/// How a node is served.
#[derive(Debug, Args)]
pub(crate) struct ZdbServe {
    /// Where it listens over TCP; elsewhere than on loopback it takes --admin-password-file [default: 127.0.0.1:9900]
    #[arg(long, value_name = "ADDR|off")]
    pub(crate) listen: Option<Listen>,
    /// A Unix socket to listen on, too, for its owner and group
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// A file with the administrator's password in its first line
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_password_file: Option<PathBuf>,
    /// Make this namespace where there is none: in user mode, without history, as a node of /zstor wants it
    #[arg(long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// A file with its password in its first line: then it is private
    #[arg(long, value_name = "FILE", requires = "namespace")]
    pub(crate) password_file: Option<PathBuf>,
    /// Who gives the keys: clients, the node (numbers), or as each namespace says
    #[arg(long, value_enum, value_name = "MODE", default_value = "mixed")]
    pub(crate) mode: NodeMode,
    /// A data file is closed before it would grow longer [default: 256MiB]
    #[arg(long, value_name = "BYTES")]
    pub(crate) data_size: Option<ByteCount>,
    /// When writes are durable: before their replies, many with one sync (group), or at most so long after them, as 5s
    #[arg(long, value_name = "group|TIME", default_value = "group")]
    pub(crate) sync: NodeSync,
    /// The most connections at a time [default: 4096]
    #[arg(long, value_name = "COUNT")]
    pub(crate) connections_max: Option<usize>,
    /// Let an administrator end the node with STOP
    #[arg(long)]
    pub(crate) allow_stop: bool,
    /// Where metrics are served for Prometheus, at /metrics [default: off]
    #[arg(long, value_name = "ADDR|off")]
    pub(crate) metrics: Option<Listen>,
    /// Written when the node accepts, with its addresses in JSON; removed at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
}

/// What is brought over.
#[derive(Debug, Args)]
pub(crate) struct ZdbImport {
    /// What the 0-db had as --data
    #[arg(long, value_name = "DIR")]
    pub(crate) from_data: PathBuf,
    /// What it had as --index
    #[arg(long, value_name = "DIR")]
    pub(crate) from_index: PathBuf,
}

/// Who gives the keys of a node's namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum NodeMode {
    User,
    Seq,
    Mixed,
}

/// When writes to a node are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeSync {
    Group,
    Every(Duration),
}

impl std::str::FromStr for NodeSync {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "group" => Ok(Self::Group),
            text => match text.parse() {
                Ok(Span(Duration::ZERO)) | Err(_) => {
                    Err(format!("{text:?} is neither group nor a length of time as 5s"))
                }
                Ok(Span(every)) => Ok(Self::Every(every)),
            },
        }
    }
}
