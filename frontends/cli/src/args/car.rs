//! The commands for CAR files.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use muxfs::{
    Cid,
    dag::{EntityBytes, Scope},
};

/// What to do with CAR files.
#[derive(Debug, Subcommand)]
pub(crate) enum Car {
    /// Write what a path leads to as a CAR file
    ///
    /// Its root is what the path leads to; its blocks stand depth first. It is a CAR of version 1, which IPFS tools read.
    #[command(
        after_help = "Examples:\n  muxfs car export /ipfs/photos -o photos.car\n  muxfs car export bafy... > photos.car\n  muxfs car export /ipfs/<cid> --scope entity --bytes 0:1048575 -o front.car"
    )]
    Export(CarExport),
    /// Take the blocks of CAR files into a mount, and pin their roots
    ///
    /// Every block is verified, and only what the roots lead to is taken. A root that lacks something is not pinned, and told:
    /// what came of it stays until garbage is collected. CARs of version 1 and 2 are read.
    #[command(
        after_help = "Examples:\n  muxfs car import photos.car\n  muxfs car import a.car b.car --into /ipfs\n  curl -s 'http://127.0.0.1:8080/ipfs/<cid>?format=car' | muxfs car import - --root <cid> --whole"
    )]
    Import(CarImport),
    /// List the roots and the blocks of a CAR file, every block verified
    ///
    /// For each block its CID, its length and where its section begins, in bytes.
    #[command(after_help = "Examples:\n  muxfs car ls photos.car\n  muxfs car ls --json photos.car")]
    Ls {
        /// The file, or - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Re-hash every block of a CAR file, and tell what it links to and does not have
    #[command(
        after_help = "Exit code 4 where a block is not its CID's or the file is damaged, 3 where a root is not in it, or with --whole anything.\n\nExamples:\n  muxfs car verify photos.car\n  muxfs car verify --whole photos.car"
    )]
    Verify {
        /// The file, or - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Fail where anything that is linked is not in it
        #[arg(long)]
        whole: bool,
    },
}

/// What is exported.
#[derive(Debug, Args)]
pub(crate) struct CarExport {
    /// A path, or a CID in the default mount
    #[arg(value_name = "PATH|CID")]
    pub(crate) path: OsString,
    /// The file to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Overwrite the file
    #[arg(short, long, requires = "output")]
    pub(crate) force: bool,
    /// Which blocks: all; what it takes to read a file or list a directory; the root alone
    #[arg(long, value_enum, value_name = "SCOPE", default_value = "all")]
    pub(crate) scope: CarScope,
    /// Of a file only what these bytes are in: both ends counted in, from the end where below zero, * for the end
    #[arg(long, value_name = "FROM:TO", allow_hyphen_values = true)]
    pub(crate) bytes: Option<EntityBytes>,
    /// Write a block each time that it is met, not the first time only
    #[arg(long)]
    pub(crate) duplicates: bool,
    /// Leave out blocks that are not here, and tell them, instead of failing
    #[arg(long)]
    pub(crate) partial: bool,
}

/// [`Scope`], as the command line and the control protocol spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CarScope {
    Block,
    Entity,
    All,
}

impl From<CarScope> for Scope {
    fn from(scope: CarScope) -> Self {
        match scope {
            CarScope::Block => Self::Block,
            CarScope::Entity => Self::Entity,
            CarScope::All => Self::All,
        }
    }
}

/// What is imported, and where to.
#[derive(Debug, Args)]
pub(crate) struct CarImport {
    /// CAR files, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The mount [default: the default mount]
    #[arg(long, value_name = "PREFIX")]
    pub(crate) into: Option<OsString>,
    /// Take what is below this CID instead of the roots that the file names; may be given again
    #[arg(long = "root", value_name = "CID")]
    pub(crate) roots: Vec<Cid>,
    /// Take every block, also what no root leads to, which stays until garbage is collected
    #[arg(long)]
    pub(crate) all: bool,
    /// Fail where something below a root is neither in the file nor here
    #[arg(long)]
    pub(crate) whole: bool,
}
