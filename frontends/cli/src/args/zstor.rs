//! The arguments of `zstor`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand};

use super::some_bytes;
use crate::config::ByteCount;

#[derive(Debug, Subcommand)]
pub(crate) enum Zstor {
    /// Tell how each node does, how many more may be lost, what waits for repair and what the scrub found
    #[command(
        after_help = "Asks the server where one runs; else looks by itself, and changes nothing.\n\nExamples:\n  muxfs zstor status\n  muxfs --json zstor status | jq '.nodes[] | select(.lost)'"
    )]
    Status {
        /// The mount [default: every one of its kind]
        #[arg(value_name = "MOUNT")]
        mount: Option<OsString>,
    },
    /// Tell what could be read and written without some nodes, besides those that are lost
    #[command(
        after_help = "Exit code 0 where all could be read and written, 6 where all could be read and not all written, 5 else.\n\nExamples:\n  muxfs zstor plan --lose 0,3\n  muxfs zstor plan --lose 'rack 1'"
    )]
    Plan {
        /// Names of nodes, or of groups for all of their nodes, between commas; may be given again
        #[arg(long, required = true, value_name = "NODES")]
        lose: Vec<String>,
        /// The mount [default: the only one of its kind]
        #[arg(value_name = "MOUNT")]
        mount: Option<OsString>,
    },
    /// Read every shard, heal what is bad or missing, and name what cannot be healed; goes on where it was interrupted
    ///
    /// A server does it by itself every so often; this goes on with the pass that it is in.
    #[command(
        after_help = "Exit code 4 where something could not be healed.\n\nExamples:\n  muxfs zstor scrub\n  muxfs zstor scrub --max-rate 20MiB\n  muxfs --json zstor scrub"
    )]
    Scrub {
        /// The mount [default: every one of its kind]
        #[arg(value_name = "MOUNT")]
        mount: Option<OsString>,
        /// Begin again
        #[arg(long)]
        restart: bool,
        /// Read no more than so much in a second, as 20MiB
        #[arg(long, value_name = "BYTES", value_parser = some_bytes)]
        max_rate: Option<ByteCount>,
    },
    /// Add a node, empty one, or remove one that is empty or lost, while everything is used
    #[command(subcommand)]
    Node(ZstorNode),
    /// Bring every block back to full strength: a scrub of everything from the beginning, as fast as it goes
    #[command(
        after_help = "Exit code 4 where something could not be healed, 5 where blocks are left weak because nodes are lost.\nTo go on with one that was interrupted: muxfs zstor scrub\n\nExamples:\n  muxfs zstor repair"
    )]
    Repair {
        /// The mount [default: every one of its kind]
        #[arg(value_name = "MOUNT")]
        mount: Option<OsString>,
    },
    /// Bring what zstor v2 stored into a mount, every checksum verified on the way
    ///
    /// Reads the 0-dbs of a zstor v2 as its configuration file names them: any m shards of a file may be lost, and any two
    /// of the four metadata backends. A file gets its name when all of it was read and is what was stored; what could not be
    /// imported is listed at the end. What is there already, the same, is passed by, so an interrupted import goes on when it
    /// is given again.
    ///
    /// zstor v2 keeps no paths, only hashes of them. With --all, files whose paths nobody tells are called by-key/HASH;
    /// --paths-from tells paths: a list of them, as find prints, or a directory that still has the files.
    #[command(
        after_help = "Exit code 4 where a file is damaged beyond what its shards make good, else 6 where a key is wrong, 5 where too few\nbackends answer, 3 where zstor v2 has nothing under a path.\n\nExamples:\n  muxfs zstor import --zstor-config /etc/zstor.toml /data/a.img\n  muxfs zstor import --zstor-config zstor.toml --to /zstor/old /data/a.img /data/b.img\n  muxfs zstor import --zstor-config zstor.toml --paths-from list.txt --to /ipfs/old\n  muxfs zstor import --zstor-config zstor.toml --all --paths-from /data --to /zstor/old\n  muxfs --json zstor import --zstor-config zstor.toml --all --to /zstor/old"
    )]
    Import(ZstorImport),
    /// Write files so that zstor v2 retrieves them
    ///
    /// Shards go to the backends of its configuration file, by its rules for groups and nodes; metadata go to all four of its
    /// metadata backends. What zstor v2 has already, the same, is passed by.
    #[command(
        after_help = "Examples:\n  muxfs zstor export --zstor-config /etc/zstor.toml /zstor/data/a.img        as /data/a.img\n  muxfs zstor export --zstor-config zstor.toml /ipfs/<cid> --as /data/a.img\n  muxfs zstor export --zstor-config zstor.toml -r /zstor/photos --as /data/photos\n  zstor_v2 -c zstor.toml retrieve -f /data/a.img                             gets it back"
    )]
    Export(ZstorExport),
}

#[derive(Debug, Args)]
pub(crate) struct ZstorImport {
    /// The configuration of zstor v2, in TOML, with its keys
    #[arg(long, value_name = "FILE")]
    pub(crate) zstor_config: PathBuf,
    /// Files by the paths that zstor v2 was given; relative to its root, where it has one
    #[arg(value_name = "PATH", required_unless_present_any = ["all", "paths_from"])]
    pub(crate) paths: Vec<PathBuf>,
    /// All that zstor v2 has
    #[arg(long)]
    pub(crate) all: bool,
    /// A file of such paths, one a line, or a directory whose files they are; with --all, names for what it has
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) paths_from: Option<PathBuf>,
    /// The directory below which files get their paths [default: the default mount]
    #[arg(long, value_name = "PATH")]
    pub(crate) to: Option<OsString>,
    /// Replace files that are there and other ones
    #[arg(short, long)]
    pub(crate) force: bool,
    /// How much memory files may take that are under way; a larger one is refused [default: 2GiB]
    #[arg(long, value_name = "BYTES", value_parser = some_bytes)]
    pub(crate) memory: Option<ByteCount>,
}

#[derive(Debug, Args)]
pub(crate) struct ZstorExport {
    /// The configuration of zstor v2, in TOML, with its keys
    #[arg(long, value_name = "FILE")]
    pub(crate) zstor_config: PathBuf,
    /// What to export
    #[arg(required = true, value_name = "SOURCE")]
    pub(crate) sources: Vec<OsString>,
    /// By which path zstor v2 is to know it; of several, or with a slash at its end, the directory
    /// [default: as in the mount]
    #[arg(long = "as", value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
    /// Export directories with all files in them
    #[arg(short)]
    pub(crate) recursive: bool,
    /// Replace other files that zstor v2 has there; write the same ones again
    #[arg(short, long)]
    pub(crate) force: bool,
    /// How much memory files may take that are under way; a larger one is refused [default: 2GiB]
    #[arg(long, value_name = "BYTES", value_parser = some_bytes)]
    pub(crate) memory: Option<ByteCount>,
}

/// What to do with a node. It edits the configuration file, and has the server take it up.
#[derive(Debug, Subcommand)]
pub(crate) enum ZstorNode {
    /// Add a directory, which is there, or a namespace of a 0-db server; shards that belong there are moved there
    #[command(
        after_help = "Edits the configuration file of the server, or that of --config, and keeps its comments.\n\nExamples:\n  muxfs zstor node add /disk7/muxfs\n  muxfs zstor node add /disk8/muxfs --name disk8 --group 'rack 2' --wait\n  muxfs zstor node add zdb://192.0.2.7:9900/muxfs --password-file /etc/muxfs/zdb.password"
    )]
    Add {
        /// A directory, or zdb://ADDRESS:PORT/NAMESPACE
        #[arg(value_name = "DIR|zdb://…")]
        place: String,
        /// Its name, which it keeps [default: the directory, or NAMESPACE on ADDRESS]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// What it is lost together with: a rack, a site
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// A file with the password of the namespace in its first line
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Wait until everything is where it belongs
        #[arg(long)]
        wait: bool,
        /// The mount [default: the only one of its kind]
        #[arg(long, value_name = "MOUNT")]
        mount: Option<OsString>,
    },
    /// Put nothing more on a node, and what it has on others; status says when it is empty
    #[command(
        after_help = "Refused where too few nodes or groups would be left.\n\nExamples:\n  muxfs zstor node drain disk3 --wait && muxfs zstor node rm disk3\n  muxfs zstor node drain disk3 --undo"
    )]
    Drain {
        /// The name of the node, as status has it
        #[arg(value_name = "NAME")]
        name: String,
        /// Use it again
        #[arg(long)]
        undo: bool,
        /// Wait until everything is where it belongs
        #[arg(long)]
        wait: bool,
        /// The mount [default: the only one of its kind]
        #[arg(long, value_name = "MOUNT")]
        mount: Option<OsString>,
    },
    /// Remove a node that was drained and is empty; its directory may go then
    #[command(
        after_help = "Examples:\n  muxfs zstor node rm disk3\n  muxfs zstor node rm disk4 --lost    it is gone for good: what it had is made anew from the others"
    )]
    Rm {
        /// The name of the node, as status has it
        #[arg(value_name = "NAME")]
        name: String,
        /// It is lost, and is not coming back
        #[arg(long)]
        lost: bool,
        /// Wait until everything is where it belongs
        #[arg(long)]
        wait: bool,
        /// The mount [default: the only one of its kind]
        #[arg(long, value_name = "MOUNT")]
        mount: Option<OsString>,
    },
}
