//! `muxfs s3`: the keys that requests are signed with.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum S3 {
    /// Add, list and remove the keys that requests are signed with
    #[command(subcommand)]
    Key(S3Key),
}

#[derive(Debug, Subcommand)]
pub(crate) enum S3Key {
    /// Make a key, and print it with its secret
    ///
    /// A server that runs knows it within seconds. The file, s3/keys.toml in the data directory unless the configuration
    /// names another, has the secrets as they are, since a signature can be checked by nobody else: keep it to yourself.
    #[command(
        after_help = "Examples:\n  muxfs s3 key add\n  muxfs s3 key add --read-only --allow photos --allow backup/laptop/\n  eval \"$(muxfs s3 key add --env)\" && aws --endpoint-url http://127.0.0.1:9000 s3 ls"
    )]
    Add(S3KeyAdd),
    /// List the keys, without their secrets
    #[command(after_help = "Examples:\n  muxfs s3 key ls\n  muxfs --json s3 key ls")]
    Ls,
    /// Remove keys
    #[command(after_help = "Examples:\n  muxfs s3 key rm QX7Y2ZP4N6ABCDEFGHIJ")]
    Rm {
        /// Their ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct S3KeyAdd {
    /// Its id [default: 20 letters and digits]
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
    /// The key may change nothing
    #[arg(long)]
    pub(crate) read_only: bool,
    /// What it is for, a bucket or a bucket and what keys begin with; may be given again [default: everything]
    #[arg(long, value_name = "BUCKET[/PREFIX]")]
    pub(crate) allow: Vec<String>,
    /// Print it as commands for a shell
    #[arg(long)]
    pub(crate) env: bool,
}
