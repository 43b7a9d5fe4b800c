//! What `serve` is told.

use std::path::PathBuf;

use clap::Args;

use crate::config::Listen;

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where NFS listens [default: 127.0.0.1:11111]
    #[arg(long, value_name = "ADDR|off")]
    pub(crate) nfs: Option<Listen>,
    /// Where FTP listens [default: 127.0.0.1:2121]
    #[arg(long, value_name = "ADDR|off")]
    pub(crate) ftp: Option<Listen>,
    /// Where HTTP listens [default: 127.0.0.1:8080, if nothing else listens there]
    #[arg(long, value_name = "ADDR|off")]
    pub(crate) http: Option<Listen>,
    /// Where S3 listens, as 127.0.0.1:9000 [default: off]
    #[arg(long, value_name = "ADDR|off")]
    pub(crate) s3: Option<Listen>,
    /// Where metrics are served for Prometheus, at /metrics [default: off]
    #[arg(long, value_name = "ADDR|off")]
    pub(crate) metrics: Option<Listen>,
    /// Mount the namespace on this directory, too; may be given again
    #[arg(long, value_name = "DIR")]
    pub(crate) mount: Vec<PathBuf>,
    /// Written when all frontends accept, with their addresses in JSON; removed at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
}
