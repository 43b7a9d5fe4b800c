//! The commands for flists.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use muxfs_flist::SourceUrl;

/// What to do with flists.
#[derive(Debug, Subcommand)]
pub(crate) enum Flist {
    /// List a directory of an flist
    ///
    /// No chunk is fetched. Flists of zflist (.flist) and of rfs (.fl) are read.
    #[command(
        after_help = "Examples:\n  muxfs flist ls ubuntu.flist\n  muxfs flist ls -l ubuntu.flist /etc\n  muxfs flist ls -R --json ubuntu.fl"
    )]
    Ls {
        #[command(flatten)]
        path: FlistPath,
        /// Mode, owner, size and time too
        #[arg(short)]
        long: bool,
        /// All below it too, each with its path
        #[arg(short = 'R', long)]
        recursive: bool,
    },
    /// Print the bytes of a file of an flist, each chunk fetched and verified
    #[command(
        after_help = "Examples:\n  muxfs flist cat --follow ubuntu.fl /etc/hostname\n  muxfs flist cat --source dir:///srv/chunks ubuntu.flist /bin/sh > sh"
    )]
    Cat {
        #[command(flatten)]
        sources: FlistSources,
        /// The flist
        #[arg(value_name = "FLIST")]
        flist: PathBuf,
        /// The file in it
        #[arg(value_name = "PATH")]
        path: std::ffi::OsString,
    },
    /// Print what an flist knows of a path
    #[command(after_help = "Examples:\n  muxfs flist stat ubuntu.flist /etc/passwd")]
    Stat {
        #[command(flatten)]
        path: FlistPath,
    },
    /// Print what an flist says of itself: its format, its metadata, and where its chunks are
    #[command(after_help = "Examples:\n  muxfs flist metadata ubuntu.flist\n  muxfs --json flist metadata ubuntu.fl")]
    Metadata {
        /// The flist
        #[arg(value_name = "FLIST")]
        flist: PathBuf,
    },
    /// Put what an flist describes into a mount as content, or into a working tree under a name
    ///
    /// Every chunk is fetched and verified. As content it has the CID that put -r gives the same tree, and is pinned. Under a
    /// name modes, times, pipes and sockets are kept too, and owners and devices where root imports; the next commit has it all.
    /// The last line printed is the path.
    #[command(
        after_help = "Examples:\n  muxfs flist import --follow ubuntu.fl /ipfs\n  muxfs flist import --source dir:///srv/chunks ubuntu.flist /zstor/ubuntu\n  muxfs commit /zstor"
    )]
    Import(FlistImport),
    /// Read all of an flist and name what is wrong with it
    ///
    /// Every directory, and that each file has its chunks; with --chunks every chunk is fetched and verified, too.
    #[command(
        after_help = "Exit code 4 where something is wrong or a chunk is missing, 5 where a source is out of reach.\n\nExamples:\n  muxfs flist check ubuntu.flist\n  muxfs flist check --chunks --source zdb://10.0.0.1:9900/flist ubuntu.flist"
    )]
    Check {
        #[command(flatten)]
        sources: FlistSources,
        /// Fetch and verify every chunk
        #[arg(long)]
        chunks: bool,
        /// The flist
        #[arg(value_name = "FLIST")]
        flist: PathBuf,
    },
}

/// What is imported.
#[derive(Debug, Args)]
pub(crate) struct FlistImport {
    #[command(flatten)]
    pub(crate) sources: FlistSources,
    /// The flist
    #[arg(value_name = "FLIST")]
    pub(crate) flist: PathBuf,
    /// A mount, as /ipfs, or a name in a working tree, as /ipfs/ubuntu [default: the default mount]
    #[arg(value_name = "TARGET")]
    pub(crate) target: Option<std::ffi::OsString>,
}

/// A place in an flist.
#[derive(Debug, Args)]
pub(crate) struct FlistPath {
    /// The flist
    #[arg(value_name = "FLIST")]
    pub(crate) flist: PathBuf,
    /// The path in it
    #[arg(value_name = "PATH", default_value = "/")]
    pub(crate) path: std::ffi::OsString,
}

/// Who is asked for chunks.
#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "these comments are the help, where brackets would show")]
pub(crate) struct FlistSources {
    /// Who is asked first for chunks, in order: dir:///DIR, zdb://[:PASSWORD@]HOST[:9900][/NAMESPACE], https://HOST/PATH;
    /// with 00-7f= in front those whose ids begin so
    #[arg(long = "source", value_name = "URL", value_parser = source)]
    pub(crate) sources: Vec<SourceUrl>,
    /// Then ask the servers that the flist itself names, at most 16, be they on the internet, this network or this machine
    #[arg(long)]
    pub(crate) follow: bool,
}

fn source(text: &str) -> Result<SourceUrl, String> {
    text.parse().map_err(|error: muxfs::Error| format!("{error:#}"))
}
