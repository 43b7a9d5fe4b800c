//! `put`: a file, standard input, or a directory with all that is in it.

use std::{
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt as _, fs::FileTypeExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use muxfs::{
    Error, ErrorKind, Name, Prefix, QfsPath, Result, SecretKey,
    block::Nowhere,
    dag::{Dag, DagOptions, Entry, Link, Profile, UnixfsMeta},
    seal,
};
use serde_json::json;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::{
    args,
    config::{Config, Mount},
    host_file::{HostFile, open_entry},
    instance::env,
    namespace::{Input, Namespace},
    opened::{InUse, mount_to_write},
    output::{Output, Progress, bytes, count},
    owner,
};

/// How many files of a directory are read at once: enough to keep the hashing cores busy, few enough to bound memory.
pub(crate) const FILES_AT_ONCE: usize = 8;
/// How much of standard input is read at once.
const STDIN_LEN: usize = 256 << 10;

/// What to put, and where.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) source: &'a Path,
    pub(crate) recursive: bool,
    /// What the file is sealed with.
    pub(crate) key: Option<&'a SecretKey>,
    pub(crate) output: Output,
}

/// Where the blocks go.
#[async_trait]
pub(crate) trait Importer: Send + Sync {
    async fn file(&self, input: Input) -> Result<Link>;
    async fn symlink(&self, target: Bytes) -> Result<Link>;
    async fn dir(&self, entries: Vec<Entry>) -> Result<Link>;
}

/// Into a mount.
struct Mounted<'a> {
    namespace: &'a dyn Namespace,
    mount: Prefix,
}

#[async_trait]
impl Importer for Mounted<'_> {
    async fn file(&self, input: Input) -> Result<Link> {
        self.namespace.import(self.mount, input).await
    }
    async fn symlink(&self, target: Bytes) -> Result<Link> {
        self.namespace.import_symlink(self.mount, target).await
    }
    async fn dir(&self, entries: Vec<Entry>) -> Result<Link> {
        self.namespace.import_dir(self.mount, entries).await
    }
}

/// Nowhere: only the hash is wanted.
struct Hashed(Dag);

#[async_trait]
impl Importer for Hashed {
    async fn file(&self, input: Input) -> Result<Link> {
        match input {
            Input::File(file) => {
                let len = file.len;
                self.0.import_at(Arc::new(file), len, UnixfsMeta::default()).await
            }
            Input::Stream(stream) => self.0.import(StreamReader::new(stream), UnixfsMeta::default()).await,
        }
    }
    async fn symlink(&self, target: Bytes) -> Result<Link> {
        self.0.put_symlink(&target, UnixfsMeta::default()).await
    }
    async fn dir(&self, entries: Vec<Entry>) -> Result<Link> {
        self.0.put_dir(stream::iter(entries.into_iter().map(Ok)).boxed()).await
    }
}

/// Prints the path that the source would get, and stores nothing.
pub(crate) async fn only_hash(job: &Job<'_>, profile: Profile, prefix: Prefix) -> Result<()> {
    let options = DagOptions { params: profile.params(), verified_len_max: 0 };
    let importer = Hashed(Dag::new(Arc::new(Nowhere), options));
    let walk = Walk::begin(job, &importer)?;
    let link = walk.source().await?;
    walk.print(&QfsPath { prefix, parts: vec![Name::new(link.cid.to_string().as_bytes())?] })
}

/// How the source is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As content, which is pinned.
    Content,
    /// Under names, with modes and times kept or not.
    Place {
        /// Whether they are.
        keep: bool,
    },
}

/// Puts the source and prints its path.
pub(crate) async fn put(namespace: &dyn Namespace, job: &Job<'_>, target: &QfsPath, way: Way) -> Result<()> {
    let importer = Mounted { namespace, mount: target.prefix };
    let walk = Walk::begin(job, &importer)?;
    if let Way::Place { keep } = way {
        walk.copy_in(namespace, target, keep).await?;
        return walk.print(target);
    }
    if !matches!((target.cid(), target.parts.len()), (None, 0) | (Some(_), 1)) {
        return Err(Error::new(ErrorKind::InvalidArgument, "put")
            .at(target)
            .because(format!("content goes to /{0} or to /{0}/<cid>, by no other name", target.prefix)));
    }
    if job.key.is_some() && target.cid().is_some() {
        return Err(Error::new(ErrorKind::InvalidArgument, "put").at(target).because(
            "each time a file is sealed it gets another CID, which is not known before: put it to the mount",
        ));
    }
    // Until the pin, nothing else keeps what is imported.
    let _hold = namespace.hold(target.prefix, None).await?;
    let link = walk.source().await?;
    match target.cid() {
        Some(cid) if cid.multihash_bytes() == link.cid.multihash_bytes() && cid.codec() == link.cid.codec() => {}
        Some(cid) => {
            return Err(Error::new(ErrorKind::InvalidArgument, "put")
                .at(target)
                .because(format!("the content hashes to {}, not to {cid}; nothing was pinned", link.cid)));
        }
        None => {}
    }
    namespace.pin(target.prefix, &link.cid).await?;
    walk.print(&QfsPath { prefix: target.prefix, parts: vec![Name::new(link.cid.to_string().as_bytes())?] })
}

/// What a directory of the host holds.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) dirs: Vec<Name>,
    /// Files, and symlinks, which say so.
    pub(super) leaves: Vec<(Name, bool)>,
    /// Pipes, sockets and devices.
    pub(super) others: Vec<Name>,
}

/// What a directory of the host holds.
pub(super) fn entries(path: &Path) -> Result<Entries> {
    let mut entries = Entries::default();
    for entry in fs::read_dir(path).map_err(|error| host(path, error))? {
        let entry = entry.map_err(|error| host(path, error))?;
        let name = Name::new(entry.file_name().as_bytes()).map_err(|error| error.at(entry.path().display()))?;
        let kind = entry.file_type().map_err(|error| host(&entry.path(), error))?;
        if kind.is_dir() {
            entries.dirs.push(name);
        } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
            entries.others.push(name);
        } else {
            entries.leaves.push((name, kind.is_symlink()));
        }
    }
    Ok(entries)
}

/// A walk over the source.
pub(super) struct Walk<'a> {
    pub(super) job: &'a Job<'a>,
    importer: &'a dyn Importer,
    progress: Progress,
    files: AtomicU64,
    bytes: Arc<AtomicU64>,
    skipped: AtomicU64,
}

impl<'a> Walk<'a> {
    fn begin(job: &'a Job<'a>, importer: &'a dyn Importer) -> Result<Self> {
        let total = if job.source == Path::new("-") {
            None
        } else {
            let metadata = fs::metadata(job.source).map_err(|error| host(job.source, error))?;
            if metadata.is_dir() && !job.recursive {
                return Err(Error::new(ErrorKind::IsDir, "put")
                    .at(job.source.display())
                    .because("put a directory with -r"));
            }
            if metadata.is_dir() && job.key.is_some() {
                return Err(Error::new(ErrorKind::IsDir, "put").at(job.source.display()).because(
                    "only files are sealed, no directories: seal an archive, as tar c DIR | muxfs put --key-file FILE -",
                ));
            }
            metadata.is_file().then_some(metadata.len())
        };
        let progress = job.output.progress(total);
        let (files, bytes, skipped) = Default::default();
        Ok(Self { job, importer, progress, files, bytes, skipped })
    }

    /// Puts the whole source. A symlink named on the command line is followed; those below it are kept.
    async fn source(&self) -> Result<Link> {
        let metadata = if self.job.source == Path::new("-") { None } else { fs::metadata(self.job.source).ok() };
        match metadata {
            Some(metadata) if metadata.is_dir() => self.dir(self.job.source.into()).await,
            _ => self.leaf(self.job.source, false).await.map_err(|error| match error.path() {
                None => error.at(self.job.source.display()),
                Some(_) => error,
            }),
        }
    }

    pub(super) fn open(&self, path: &Path) -> Result<Input> {
        let plain = self.open_plain(path)?;
        let Some(key) = self.job.key else { return Ok(plain) };
        let bytes = Arc::clone(&self.bytes);
        let plain = match plain {
            Input::Stream(stream) => stream,
            Input::File(file) => {
                let count = move |piece: &Bytes| {
                    bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
                };
                file.stream().inspect_ok(count).boxed()
            }
        };
        Ok(Input::Stream(seal::seal(key, &env(), plain).boxed()))
    }

    fn open_plain(&self, path: &Path) -> Result<Input> {
        if path == Path::new("-") {
            return Ok(self.counted(tokio::io::stdin()));
        }
        let below = path != self.job.source;
        let opened = if below { open_entry(path) } else { File::open(path) };
        let file = opened.map_err(|error| host(path, error))?;
        let metadata = file.metadata().map_err(|error| host(path, error))?;
        if metadata.is_file() {
            return Ok(Input::File(HostFile { file, len: metadata.len(), progress: self.progress.clone() }));
        }
        if below {
            return Err(Error::new(ErrorKind::Unavailable, "put")
                .at(path.display())
                .because("it was a file when its directory was listed: put it again"));
        }
        // A pipe or a device that was named: read to its end.
        Ok(self.counted(tokio::fs::File::from_std(file)))
    }

    /// A stream whose length shows only as it is read.
    fn counted(&self, source: impl tokio::io::AsyncRead + Send + 'static) -> Input {
        let (progress, bytes) = (self.progress.clone(), Arc::clone(&self.bytes));
        let stream = ReaderStream::with_capacity(source, STDIN_LEN).inspect_ok(move |piece| {
            bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            progress.add_bytes(piece.len() as u64);
        });
        Input::Stream(stream.boxed())
    }

    /// Tells that what is neither file, directory nor symlink is skipped.
    pub(super) fn skip(&self, path: &Path, why: &str) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        self.job.output.notice(&format!("skipped {}: {why}", path.display()));
    }

    fn dir(&self, path: PathBuf) -> BoxFuture<'_, Result<Link>> {
        Box::pin(async move {
            let Entries { dirs, leaves, others } = entries(&path)?;
            for name in others {
                let path = path.join(std::ffi::OsStr::from_bytes(name.as_bytes()));
                self.skip(&path, "not a file, directory or symlink");
            }
            let leaves = stream::iter(leaves).map(|(name, is_symlink)| {
                let path = path.join(std::ffi::OsStr::from_bytes(name.as_bytes()));
                async move {
                    let link = self.leaf(&path, is_symlink).await.map_err(|error| error.at(path.display()))?;
                    Ok::<_, Error>(Entry { name, link })
                }
            });
            let mut entries: Vec<Entry> = leaves.buffer_unordered(FILES_AT_ONCE).try_collect().await?;
            for name in dirs {
                let link = self.dir(path.join(std::ffi::OsStr::from_bytes(name.as_bytes()))).await?;
                entries.push(Entry { name, link });
            }
            self.importer.dir(entries).await.map_err(|error| error.at(path.display()))
        })
    }

    async fn leaf(&self, path: &Path, symlink: bool) -> Result<Link> {
        if symlink {
            let target = fs::read_link(path).map_err(|error| host(path, error))?;
            return self.importer.symlink(Bytes::copy_from_slice(target.as_os_str().as_bytes())).await;
        }
        let input = self.open(path)?;
        let len = input.len_known();
        let link = self.importer.file(input).await?;
        self.count(len);
        Ok(link)
    }

    /// Counts a file that was put.
    pub(super) fn count(&self, len: u64) {
        let files = self.files.fetch_add(1, Ordering::Relaxed) + 1;
        self.bytes.fetch_add(len, Ordering::Relaxed);
        self.progress.say(format!("{} files", count(files)));
    }

    fn print(&self, path: &QfsPath) -> Result<()> {
        let (files, len) = (self.files.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let skipped = self.skipped.load(Ordering::Relaxed);
        if self.job.recursive && !self.job.output.json {
            let note = if skipped == 0 { String::new() } else { format!(", {} skipped", count(skipped)) };
            self.job.output.notice(&format!("{} files, {}{note}", count(files), bytes(len)));
        }
        let text = path.to_string();
        let value = json!({ "path": text, "cid": path.cid().map(|cid| cid.to_string()), "files": files, "bytes": len, "skipped": skipped });
        self.job.output.result(text.as_bytes(), &value)
    }
}

/// An error of the host's file system.
pub(crate) fn host(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::AlreadyExists => ErrorKind::Exists,
        io::ErrorKind::NotADirectory => ErrorKind::NotDir,
        io::ErrorKind::IsADirectory => ErrorKind::IsDir,
        io::ErrorKind::DirectoryNotEmpty => ErrorKind::NotEmpty,
        io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        _ => ErrorKind::Io,
    };
    Error::new(kind, "host").at(path.display()).because(error)
}

/// Carries out the command, by whoever owns the data directory.
pub(crate) async fn run(config: Config, in_use: &InUse, args: &args::Put, output: Output) -> Result<()> {
    let keys = super::key::of_files(args.key_file.as_deref())?;
    let job = Job { source: &args.source, recursive: args.recursive, key: keys.first(), output };
    let target = args.target.as_deref().map(super::path).transpose()?;
    if args.only_hash {
        let profile = Profile::from(args.profile.unwrap_or(config.profile));
        let prefix = target.map_or_else(|| Prefix::new("ipfs"), |target| Ok(target.prefix))?;
        return only_hash(&job, profile, prefix).await;
    }
    let served = in_use.open(config).await?;
    // A server does the work with its own configuration, whatever this command was given.
    let config = Config::parse(&served.config().await?)?;
    if args.profile.is_some_and(|profile| profile != config.profile) {
        return Err(Error::new(ErrorKind::InvalidArgument, "put.profile").because(
            "the profile belongs to the whole data directory, so that the same content has the same CID everywhere: set it in the configuration, or use --profile with --only-hash",
        ));
    }
    let target = match target {
        Some(target) => target,
        None => QfsPath { prefix: served.default_write().await?, parts: Vec::new() },
    };
    let mount = mount_to_write("put", &served, &config, &target)?;
    let way = match mount {
        Some(Mount::Local { .. }) => Way::Place { keep: false },
        _ if owner::names_a_place(&target) => Way::Place { keep: true },
        _ => Way::Content,
    };
    put(&*served, &job, &target, way).await?;
    served.close().await
}
