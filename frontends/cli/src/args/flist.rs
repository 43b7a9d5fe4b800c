//! The commands for flists.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use muxfs::ipns::IpnsName;
use muxfs_flist::{Format, SourceUrl};

use crate::names::Label;

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
    /// Print what an flist says of itself: its format, its metadata, and where its chunks are; or change it
    #[command(
        after_help = "Examples:\n  muxfs flist metadata ubuntu.flist\n  muxfs --json flist metadata ubuntu.fl\n  muxfs flist metadata --set 'entrypoint=[\"/bin/sh\"]' --rm readme ubuntu.flist\n  muxfs flist metadata --route https://hub.example/chunks ubuntu.fl"
    )]
    Metadata {
        /// Set a pair, and write the flist again
        #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
        set: Vec<(String, String)>,
        /// Remove a pair
        #[arg(long = "rm", value_name = "KEY")]
        remove: Vec<String>,
        /// Where its chunks are, instead of what it says: several are all of them
        #[arg(long = "route", value_name = "URL", value_parser = route)]
        routes: Vec<SourceUrl>,
        /// The flist
        #[arg(value_name = "FLIST")]
        flist: PathBuf,
    },
    /// Make an flist of a directory, a tar, a docker-save archive or an OCI layout
    ///
    /// The chunks go to each --store that has their ids: first they are asked whether they have them. The same input makes
    /// the same bytes. Of an image the layers are put over each other, and its entrypoint, environ, port, volume, workdir
    /// and user are in the metadata. An flist of a path of the namespace is made by export.
    #[command(
        after_help = "Examples:\n  muxfs flist create ./rootfs -o app.flist --store dir:///srv/chunks\n  docker save alpine > alpine.tar && muxfs flist create alpine.tar -o alpine.fl --store zdb://10.0.0.1:9900/flist\n  muxfs flist create root.tar.zst -o root.fl --store 00-7f=dir:///disk1 --store 80-ff=dir:///disk2 --route https://hub.example/chunks\n  muxfs flist create ./rootfs -o app.fl --store muxfs:/zstor/chunks\n  muxfs flist create ./rootfs -o app.fl --store 's3s://s3.example.org/chunks?region=eu-1'"
    )]
    Create {
        #[command(flatten)]
        making: FlistMaking,
        /// Which image, of an archive or a layout of several: its name, or the end of it, as alpine:3.20 or 3.20
        #[arg(long, value_name = "NAME")]
        image: Option<String>,
        /// A directory, an OCI layout, or an archive: tar, tar.gz, tar.zst, tar.xz, docker save
        #[arg(value_name = "SRC")]
        source: PathBuf,
        /// The flist that is made
        #[arg(short, long, value_name = "FLIST")]
        output: PathBuf,
    },
    /// Make an flist of a path of the namespace: content by its CID, a name in a working tree, an flist of /flist
    ///
    /// It is what create does of a directory, and the way back of import. What has no owner, mode or time in the namespace
    /// is of root, 0644 or 0755, and of 1970.
    #[command(
        after_help = "Examples:\n  muxfs flist export /ipfs/<cid> -o site.fl --store dir:///srv/chunks\n  muxfs flist export /zstor/ubuntu -o ubuntu.flist --store zdb://10.0.0.1:9900/flist"
    )]
    Export {
        #[command(flatten)]
        making: FlistMaking,
        /// A directory of the namespace
        #[arg(value_name = "PATH")]
        path: std::ffi::OsString,
        /// The flist that is made
        #[arg(short, long, value_name = "FLIST")]
        output: PathBuf,
    },
    /// Make an flist of an overlay: of what was changed, and of the flist it lies over
    ///
    /// What nobody changed keeps the chunks that the flist below names, and none of them is fetched; files that were changed
    /// are cut into chunks and stored. Metadata and routes are those of the flist below, and with them the stores. It
    /// has the format of the flist below, unless its name or --format says the other: then every file is read and stored. It takes the
    /// place of no flist that an overlay lies over.
    #[command(
        after_help = "Examples:\n  muxfs flist commit /app -o app2.fl --store dir:///srv/chunks\n  muxfs flist commit /app -o app2.flist --store zdb://10.0.0.1:9900/flist --metadata version=2\n  muxfs flist diff app.fl app2.fl"
    )]
    Commit {
        #[command(flatten)]
        making: FlistMaking,
        /// The mount of an overlay, as /app
        #[arg(value_name = "MOUNT")]
        path: std::ffi::OsString,
        /// The flist that is made
        #[arg(short, long, value_name = "FLIST")]
        output: PathBuf,
    },
    /// Put a file, a directory or an archive into an flist, over what is there
    #[command(
        after_help = "Examples:\n  muxfs flist add app.flist ./motd /etc/motd --store dir:///srv/chunks\n  muxfs flist add app.fl --unpack ./more.tar.gz / --store dir:///srv/chunks"
    )]
    Add {
        #[command(flatten)]
        making: FlistMaking,
        /// The flist, which is replaced
        #[arg(value_name = "FLIST")]
        flist: PathBuf,
        /// A file, a directory, or with --unpack an archive
        #[arg(value_name = "SRC")]
        source: PathBuf,
        /// Its path in the flist
        #[arg(value_name = "PATH")]
        path: std::ffi::OsString,
        /// Put what is in an archive, and not the archive
        #[arg(long)]
        unpack: bool,
    },
    /// Remove paths from an flist, with all below them; chunks stay where they are
    #[command(after_help = "Examples:\n  muxfs flist rm app.flist /var/cache /tmp/x")]
    Rm {
        /// The flist, which is replaced
        #[arg(value_name = "FLIST")]
        flist: PathBuf,
        /// The paths
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<std::ffi::OsString>,
    },
    /// Change the mode of paths of an flist
    #[command(after_help = "Examples:\n  muxfs flist chmod app.flist 4755 /bin/su")]
    Chmod {
        /// The flist, which is replaced
        #[arg(value_name = "FLIST")]
        flist: PathBuf,
        /// In octal digits
        #[arg(value_name = "MODE", value_parser = octal)]
        mode: u32,
        /// The paths
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<std::ffi::OsString>,
    },
    /// Make one flist of several of one format
    ///
    /// Where several have a name, the first that has it counts; directories are one. The same is true of the metadata. It names all their routes.
    #[command(after_help = "Examples:\n  muxfs flist merge app.flist base.flist -o whole.flist")]
    Merge {
        /// The flists
        #[arg(value_name = "FLIST", required = true)]
        flists: Vec<PathBuf>,
        /// The flist that is made
        #[arg(short, long, value_name = "FLIST")]
        output: PathBuf,
    },
    /// Print the paths at which two flists differ: + added, - removed, M changed
    #[command(
        after_help = "Of two formats chunks have nothing to compare: files are then told by kind, length, mode, owner and time.\n\nExamples:\n  muxfs flist diff old.flist new.flist"
    )]
    Diff {
        /// The one before
        #[arg(value_name = "BEFORE")]
        before: PathBuf,
        /// The one after
        #[arg(value_name = "AFTER")]
        after: PathBuf,
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
    /// Sign an flist, so that mounts that take the key alone open it
    ///
    /// The signature is in the file FLIST.sig beside it, where those of other keys stay. Every byte of the flist is signed:
    /// whoever changes its tree, its metadata or its routes signs it anew. Prints the name of the key.
    #[command(
        after_help = "Examples:\n  muxfs name new images\n  muxfs flist sign ubuntu.flist --key images\n  in the configuration of who mounts it: signers = [\"k51...\"]"
    )]
    Sign {
        /// The flist
        #[arg(value_name = "FLIST")]
        flist: PathBuf,
        /// The label of the key, as name ls lists them
        #[arg(long, value_name = "LABEL", default_value_t)]
        key: Label,
    },
    /// Check that one of some keys signed an flist, and print the name of the key
    #[command(
        after_help = "Exit code 4 where none of them did, or the flist was changed since.\n\nExamples:\n  muxfs flist verify ubuntu.flist --signer k51..."
    )]
    Verify {
        /// The flist
        #[arg(value_name = "FLIST")]
        flist: PathBuf,
        /// The name of a key that is taken, as k51...
        #[arg(long = "signer", value_name = "NAME", required = true)]
        signers: Vec<IpnsName>,
    },
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
    /// Who is asked first for chunks, in order: dir:///DIR, zdb://[:PASSWORD@]HOST[:9900][/NAMESPACE],
    /// s3://[KEY:SECRET@]HOST[:80]/BUCKET[/PREFIX][?region=REGION] (s3s:// over TLS), https://HOST/PATH; with 00-7f= in front those
    /// whose ids begin so. A bucket without KEY:SECRET@ is asked with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, if they are set
    #[arg(long = "source", value_name = "URL", value_parser = source)]
    pub(crate) sources: Vec<SourceUrl>,
    /// Then ask the servers that the flist itself names, at most 16, be they on the internet, this network or this machine
    #[arg(long)]
    pub(crate) follow: bool,
}

/// Where chunks go when an flist is made, and what it says of that.
#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "these comments are the help, where brackets would show")]
pub(crate) struct FlistMaking {
    /// Where chunks go: dir:///DIR, zdb://[:PASSWORD@]HOST[:9900][/NAMESPACE] or s3://[KEY:SECRET@]HOST[:80]/BUCKET[/PREFIX] (s3s://
    /// over TLS), with 00-7f= in front those whose ids begin so; or muxfs:/PATH of the namespace. Several that have the same ids
    /// each get all of them. A bucket without KEY:SECRET@ is asked with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    #[arg(long = "store", value_name = "URL", value_parser = store, required = true)]
    pub(crate) stores: Vec<FlistStore>,
    /// Where the flist says that its chunks are [default: the stores, without passwords and keys]
    #[arg(long = "route", value_name = "URL", value_parser = route)]
    pub(crate) routes: Vec<SourceUrl>,
    /// Set a pair of its metadata
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) metadata: Vec<(String, String)>,
    /// Its format, flist or fl [default: what its name ends in]
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    pub(crate) format: Option<Format>,
}

/// Where chunks go.
#[derive(Debug, Clone)]
pub(crate) enum FlistStore {
    Url(SourceUrl),
    /// A directory of the namespace.
    Path(std::ffi::OsString),
}

fn store(text: &str) -> Result<FlistStore, String> {
    match text.strip_prefix("muxfs:") {
        Some(path) if path.starts_with('/') => Ok(FlistStore::Path(path.into())),
        Some(_) => Err("behind muxfs: is a path of the namespace, as muxfs:/zstor/chunks".into()),
        None => source(text).map(FlistStore::Url),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a pair is KEY=VALUE")?;
    if key.is_empty() { Err("the key is empty".into()) } else { Ok((key.into(), value.into())) }
}

fn format(text: &str) -> Result<Format, String> {
    match text {
        "flist" => Ok(Format::Flist),
        "fl" => Ok(Format::Fl),
        _ => Err("flist or fl".into()),
    }
}

fn octal(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| "a mode is octal digits, from 0 to 7777".into())
}

/// An address that an flist names. Whoever has the flist reads it, so it has no password.
fn route(text: &str) -> Result<SourceUrl, String> {
    let url = source(text)?;
    if url.has_password() {
        return Err("whoever has the flist would read the password, or the key: name the address without it".into());
    }
    Ok(url)
}

fn source(text: &str) -> Result<SourceUrl, String> {
    text.parse().map_err(|error: muxfs::Error| format!("{error:#}"))
}
