//! The command line. Spec: spec/cli.md.

mod car;
mod cp;
mod flist;
mod hub;
mod ipfs;
mod key;
mod mount;
mod name;
mod put;
mod s3;
mod serve;
mod vault;
mod zdb;
mod zstor;

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};

pub(crate) use self::{
    car::{Car, CarExport, CarImport, CarScope},
    cp::Cp,
    flist::{Flist, FlistImport, FlistMaking, FlistPath, FlistSources, FlistStore},
    hub::{Hub, HubUser},
    ipfs::{Ipfs, IpfsPublish},
    key::Key,
    mount::{Mount, Umount},
    name::{Name, NamePublish},
    put::{Get, Put},
    s3::{S3, S3Key, S3KeyAdd},
    serve::Serve,
    vault::{Vault, VaultCreate, VaultOpen, VaultPasswd, VaultPlaceArgs},
    zdb::{NodeMode, NodeSync, Zdb, ZdbImport, ZdbServe},
    zstor::{Zstor, ZstorExport, ZstorImport, ZstorNode},
};
use crate::config::ByteCount;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed for another reason than those below
  2  wrong usage, configuration or path
  3  not found
  4  corrupt: bytes failed verification
  5  unavailable: another program owns the data directory, or a store is out of reach
  6  permission denied, or read-only
  130, 143  interrupted by SIGINT, by SIGTERM";

const EXAMPLES: &str = "\
Examples:
  muxfs serve                             serve all mounts over NFS and FTP on this machine
  muxfs put -r photos                     put a directory; prints /zstor/<cid>
  muxfs ls -l /zstor/<cid>                list it
  muxfs cat /zstor/<cid>/a.jpg > a.jpg    read a file, every byte verified
  muxfs get /zstor/<cid> photos-again     copy it back
  muxfs cp /ipfs/<cid> /zstor             keep it in /zstor too: the blocks that are missing there
  muxfs verify /zstor/<cid>               re-hash everything below it
  muxfs verify --all                      re-hash everything there is
  muxfs doctor                            look at the data directory and explain what is wrong
  muxfs car export /zstor/<cid> -o a.car  write it as a CAR file, which IPFS tools read
  muxfs ipfs publish /ipfs/photos         give it to the Kubo node of the configuration, to keep
  muxfs gc --dry-run                      tell what nothing keeps; without --dry-run remove it
  muxfs put -r photos /zstor/photos       copy a directory into the working tree, under a name
  muxfs commit -m 'before the move'       commit it; muxfs log lists the commits
  muxfs restore 2026-11-20T16-50-01Z /zstor/photos
                                          make it what it was then
  muxfs mount /zstor ~/files              use the working tree as a directory of this machine";

/// A number of bytes that is not zero.
fn some_bytes(text: &str) -> Result<ByteCount, String> {
    match text.parse()? {
        ByteCount(0) => Err("nothing would ever be read: leave it out to read as fast as possible".into()),
        some => Ok(some),
    }
}

/// A multiplexing content-addressed filesystem.
///
/// One namespace: /mem (RAM), /local (a host directory), /ipfs (local disk) and /zstor (encrypted, on six directories of
/// which two may be lost), served over NFSv3 and FTP. All but /local keep every commit, and content is read there by CID
/// too. Commands given while a server runs are carried out by it.
#[derive(Debug, Parser)]
#[command(name = "muxfs", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "these comments are the help, where backticks would show")]
pub(crate) struct Global {
    /// The configuration, in TOML; the defaults where absent
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The directory that holds blocks, pins and the lock [default: $XDG_DATA_HOME/muxfs]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The host directory at /local, which must be there [default: DATA/local, made where absent]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) local: Option<PathBuf>,
    /// The open file descriptor whose first line is the password of a vault, where nothing else says it [default: asked on the terminal]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) password_fd: Option<u32>,
    /// Print results as JSON, one value a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress, no notices; errors are still told
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the namespace over NFS and FTP until Ctrl-C or SIGTERM
    Serve(Serve),
    /// Mount the namespace, or a part of it, on a directory of this machine
    #[command(after_help = mount::HELP, override_usage = "muxfs mount [OPTIONS] [PREFIX] <DIR>")]
    Mount(Mount),
    /// Take a mount away, when everything written through it is durable
    #[command(after_help = "Examples:\n  muxfs umount /mnt/x\n  muxfs umount -l /mnt/x")]
    Umount(Umount),
    /// Put a file or a directory; the last line printed is its path
    #[command(
        after_help = "Examples:\n  muxfs put a.txt\n  muxfs put -r photos /ipfs/photos\n  muxfs put -r photos /ipfs\n  muxfs put -r photos /local/photos\n  tar c . | muxfs put - /mem\n  muxfs put --only-hash -r photos\n  muxfs key new mine.key && muxfs put --key-file mine.key a.txt /ipfs"
    )]
    Put(Put),
    /// Copy from one mount into another: of content only the blocks that are missing there
    #[command(after_help = cp::HELP)]
    Cp(Cp),
    /// Copy a file or a directory out
    #[command(
        after_help = "Examples:\n  muxfs get /ipfs/<cid> photos\n  muxfs get -f /local/a.txt a.txt\n  muxfs get --key-file mine.key /ipfs/<cid> a.txt"
    )]
    Get(Get),
    /// Print the bytes of files
    Cat {
        /// Paths as /ipfs/<cid>/a.txt
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<OsString>,
        /// Unseal them with the key in this file
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
    /// List a directory; / lists the mounts, a mount its working tree
    Ls {
        /// The directory, or a file
        #[arg(default_value = "/", value_name = "PATH")]
        path: OsString,
        /// Mode, size, time and CID too
        #[arg(short)]
        long: bool,
    },
    /// Print what is known of a path
    Stat {
        #[arg(value_name = "PATH")]
        path: OsString,
    },
    /// Say whether a path is there: exit code 0 or 3
    Has {
        #[arg(value_name = "PATH")]
        path: OsString,
    },
    /// Remove a file or an empty directory; of a path by CID, its pin
    Rm {
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<OsString>,
    },
    /// List, add and remove pins: the roots to keep
    #[command(subcommand)]
    Pin(Pin),
    /// Remove what nothing keeps, and give its room back
    ///
    /// Kept is what is pinned, what working trees and their kept commits hold, and what is being put. A server does it by
    /// itself; it goes on beside everything else, and an interrupted one has removed some of the garbage.
    #[command(after_help = "Examples:\n  muxfs gc --dry-run\n  muxfs gc\n  muxfs --json gc /ipfs")]
    Gc {
        /// The mount [default: every content-addressed one]
        #[arg(value_name = "MOUNT")]
        mount: Option<OsString>,
        /// Only tell what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Re-hash everything reachable from a path and name what is missing or corrupt
    #[command(
        after_help = "Exit code 4 where something is missing or corrupt.\n\nExamples:\n  muxfs verify /ipfs/<cid>\n  muxfs verify --all\n  muxfs verify --all --max-rate 20MiB /ipfs\n  muxfs --json verify --all"
    )]
    Verify {
        /// A content-addressed path, or a mount for all its pins; with --all a mount [default: all]
        #[arg(value_name = "PATH", required_unless_present = "all")]
        path: Option<OsString>,
        /// Re-hash every block there is, reachable or not, then look whether pins and commits have all they need; goes on
        /// where it was interrupted
        #[arg(long)]
        all: bool,
        /// Begin again
        #[arg(long, requires = "all")]
        restart: bool,
        /// Read no more than so much in a second, as 20MiB
        #[arg(long, requires = "all", value_name = "BYTES", value_parser = some_bytes)]
        max_rate: Option<ByteCount>,
    },
    /// Look at the data directory and what is around it, and explain what is wrong; changes nothing
    #[command(
        after_help = "Asks the server where one runs. Exit code 1 where something is an error.\n\nExamples:\n  muxfs doctor\n  muxfs --quiet doctor             only what is not well\n  muxfs --json doctor | jq 'select(.level == \"error\")'"
    )]
    Doctor,
    /// Commit what a working tree holds now; prints the commit's CID
    #[command(
        after_help = "It also commits by itself.\n\nExamples:\n  muxfs commit\n  muxfs commit -m 'all photos' /ipfs"
    )]
    Commit {
        /// The mount [default: the default mount]
        #[arg(value_name = "PREFIX")]
        mount: Option<OsString>,
        /// A note that the commit keeps
        #[arg(short = 'm', long, default_value = "", value_name = "NOTE", hide_default_value = true)]
        note: String,
    },
    /// List the kept commits, newest first; of a path, those that changed it
    #[command(after_help = "Examples:\n  muxfs log\n  muxfs log /ipfs/photos/a.jpg\n  ls /mnt/ipfs/.history")]
    Log {
        /// A mount, or a path in its working tree [default: the default mount]
        #[arg(value_name = "PATH")]
        path: Option<OsString>,
    },
    /// Tell what was added (A), removed (D), changed (M) and renamed (R) from one commit to another
    #[command(
        after_help = "Examples:\n  muxfs diff 2026-11-20T16-50-01Z head\n  muxfs diff before-the-move head /ipfs/photos"
    )]
    Diff {
        /// The first commit: a name that log lists, a CID, or head
        #[arg(value_name = "A")]
        before: String,
        /// The second
        #[arg(value_name = "B")]
        after: String,
        /// Only what is there and below [default: the default mount]
        #[arg(value_name = "PATH")]
        path: Option<OsString>,
    },
    /// Commit, and name the commit so that it stays
    #[command(after_help = "Examples:\n  muxfs snapshot before-the-move\n  muxfs snapshot --remove before-the-move")]
    Snapshot {
        /// The name: it is also the directory .history/NAME
        name: String,
        /// The mount [default: the default mount]
        #[arg(value_name = "PREFIX")]
        mount: Option<OsString>,
        /// Remove the name instead
        #[arg(long)]
        remove: bool,
    },
    /// Make the whole working tree what a commit says; what it held is committed first
    #[command(
        after_help = "Examples:\n  muxfs checkout before-the-move\n  muxfs checkout <cid of a commit or a directory> /ipfs"
    )]
    Checkout {
        /// A name that log lists, the CID of a commit or of a directory, or head
        commit: String,
        /// The mount [default: the default mount]
        #[arg(value_name = "PREFIX")]
        mount: Option<OsString>,
    },
    /// Make a path what it was in a commit; what it is now is committed first
    #[command(
        after_help = "Examples:\n  muxfs restore 2026-11-20T16-50-01Z /ipfs/photos\n  muxfs restore before-the-move /ipfs/a.txt /ipfs/a-then.txt"
    )]
    Restore {
        /// A name that log lists, a CID, or head
        #[arg(value_name = "TIME|COMMIT")]
        commit: String,
        /// What to restore
        #[arg(value_name = "PATH")]
        path: OsString,
        /// Where to; what is there is replaced [default: PATH]
        #[arg(value_name = "DEST")]
        dest: Option<OsString>,
    },
    /// Carry DAGs in and out as CAR files, which IPFS tools read and write
    #[command(subcommand)]
    Car(Car),
    /// Make flists and look into them: images of which a small file names the chunks, which are elsewhere
    #[command(subcommand)]
    Flist(Flist),
    /// Give what is here to a node of the IPFS network
    #[command(subcommand)]
    Ipfs(Ipfs),
    /// Let names that stay lead to content that changes (IPNS)
    #[command(subcommand)]
    Name(Name),
    /// Look at /zstor and after it: its nodes, what more may be lost, scrub and repair; and move from and to zstor v2
    #[command(subcommand)]
    Zstor(Zstor),
    /// Run a storage node that speaks the protocol of 0-db, for /zstor, zstor and others
    #[command(subcommand)]
    Zdb(Zdb),
    /// Make vaults and look after them: trees in a store that learns nothing of them
    #[command(subcommand)]
    Vault(Vault),
    /// Make keys, and put another in the place of that of /zstor
    #[command(subcommand)]
    Key(Key),
    /// Print the effective configuration, as a file that --config takes
    Config,
    /// Have the server read its configuration again: what can change while it runs changes, and the rest is told
    ///
    /// The same as SIGHUP, with an answer: nodes of /zstor, gc and scrub change.
    #[command(after_help = "Examples:\n  muxfs reload\n  muxfs --data /var/lib/muxfs reload")]
    Reload,
    /// Make a user for the users file of FTP and HTTP; reads the password from standard input
    FtpUser {
        /// Add the user to this file, which is made where absent; else its lines are printed
        #[arg(long, value_name = "FILE")]
        users: Option<PathBuf>,
        /// The user's name
        name: String,
        /// The directory below which the user stays, as /local/alice
        #[arg(long, default_value = "/", value_name = "PATH")]
        home: String,
        /// The user may not change anything
        #[arg(long)]
        read_only: bool,
    },
    /// What lets programs and people write over HTTP
    #[command(subcommand)]
    Http(Http),
    /// Say who may ask over S3
    #[command(subcommand)]
    S3(S3),
    /// Say who may give flists to the hub of a server
    #[command(subcommand)]
    Hub(Hub),
    /// Print completions for a shell
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Http {
    /// Print the token: whoever shows it may write, and read where a server listens elsewhere than on loopback
    ///
    /// A server makes it at its first start. WebDAV clients take it as the password of any user. Remove its file,
    /// http/token in the data directory, and start the server again to have another one.
    #[command(
        after_help = "Examples:\n  curl -u :$(muxfs http token) -T a.txt http://127.0.0.1:8080/ipfs/a.txt\n  rclone config create mux webdav url http://127.0.0.1:8080 vendor other user me pass $(muxfs http token) --obscure"
    )]
    Token,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Pin {
    /// List the pins of a mount, or of all
    Ls {
        #[arg(value_name = "PREFIX")]
        mount: Option<OsString>,
    },
    /// Keep what is below a path, after checking that all of it is here
    Add {
        #[arg(value_name = "PATH")]
        path: OsString,
    },
    /// Keep it no longer
    Rm {
        #[arg(value_name = "PATH")]
        path: OsString,
    },
}
