//! Makes flists of both formats: of a directory, an archive, an image, or what else fills a tree.
//!
//! ```text
//!   a source ---> Filler ---> Stores       chunks, each sent once: a directory, 0-db, blocks
//!                   '---> Tree ---> save   tables of .fl, or directories and rights of .flist
//! ```
//!
//! What is made depends on its input alone: names are sorted, there is no clock and nothing of this machine in it. It is
//! written to a file beside its place and renamed: who looks there finds what was there before, or all of the new one.
//!
//! ```no_run
//! # async fn run() -> muxfs::Result<()> {
//! use std::{path::Path, sync::Arc};
//! use muxfs_flist::write::{self, CreateOptions, Source, Stores};
//! let stores = Arc::new(Stores::open(&["dir:///srv/chunks".parse()?])?);
//! let source = Source::of(Path::new("./rootfs"))?;
//! let report = write::create(source, stores, Path::new("app.flist"), CreateOptions::default()).await?;
//! println!("{} nodes", report.nodes);
//! # Ok(())
//! # }
//! ```
//!
//! Spec: spec/flist.md #making.

pub(crate) mod arriving;
mod compare;
mod dir;
mod dir_store;
mod filler;
mod fl;
mod flist;
mod image;
mod layer;
mod load;
mod stores;
mod tar;
mod tree;
pub(crate) mod words;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream::BoxStream};
use muxfs::{Error, ErrorKind, Name, Result};
use rusqlite::Connection;

pub use self::{
    arriving::Changing,
    compare::{Difference, differences},
    filler::Progress,
    stores::Stores,
    tree::{About, ContentId, TREE_LEN_MAX, Tree, What},
};
use self::{
    filler::{CHUNK_LEN_MADE, Filled, Filler},
    image::Blobs,
    tar::Unpacking,
};
use crate::{Flist, Format, Inode, Route, metadata::backend_of, write::tree::Content};

/// The length of a directory, as every writer has it.
const DIR_LEN: u64 = 4096;
const OP: &str = "flist.write";

/// What an flist is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory of this machine. No symlink in it is followed.
    Dir(PathBuf),
    /// A directory that is an OCI layout: the image in it.
    Oci(PathBuf),
    /// A tar, packed or not; where it is what docker save writes, or an OCI layout, the image in it.
    Archive(PathBuf),
}

impl Source {
    /// What is at a path.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for what no flist is made of.
    pub fn of(path: &Path) -> Result<Self> {
        let about = std::fs::metadata(path).map_err(|error| io_failed(&error).at(path.display()))?;
        if about.is_dir() {
            let is_oci = path.join("oci-layout").is_file() && path.join("index.json").is_file();
            return Ok(if is_oci { Self::Oci(path.into()) } else { Self::Dir(path.into()) });
        }
        if about.is_file() {
            return Ok(Self::Archive(path.into()));
        }
        Err(Error::new(ErrorKind::InvalidArgument, OP)
            .at(path.display())
            .because("it is neither a directory nor an archive"))
    }

    /// Puts all of it into the tree below a path, an image only into the root, of several the one that is wanted; what it says of
    /// itself.
    fn fill(&self, filler: &mut Filler, at: &[Name], wanted: Option<&str>) -> Result<Vec<(String, String)>> {
        let image = match self {
            Self::Dir(dir) => return dir::fill(filler, dir, at),
            Self::Oci(dir) => Some(Blobs::Dir(dir.clone())),
            Self::Archive(path) => Blobs::of_tar(path, &filler.unpacking).map_err(|error| within(path, error))?,
        };
        match (self, image) {
            (Self::Archive(path) | Self::Oci(path), Some(blobs)) => {
                if !at.is_empty() {
                    let why = "an image is a whole tree: make an flist of it, and merge that";
                    return Err(Error::new(ErrorKind::InvalidArgument, OP).at(path.display()).because(why));
                }
                image::fill(filler, &blobs, wanted).map_err(|error| within(path, error))
            }
            (Self::Archive(path), None) => {
                let failed = |error: io::Error| io_failed(&error).at(path.display());
                let file = File::open(path).map_err(failed)?;
                let len = file.metadata().map_err(failed)?.len();
                let unpacking = filler.unpacking.clone();
                let put = tar::unpacked(file, len, &unpacking).and_then(|bytes| layer::put_tar(filler, bytes, at));
                put.map_err(|error| within(path, error)).map(|()| Vec::new())
            }
            (Self::Dir(_) | Self::Oci(_), _) => Ok(Vec::new()),
        }
    }
}

/// An error of an archive, of which it may name a part.
fn within(archive: &Path, error: Error) -> Error {
    Error::new(error.kind(), OP).at(archive.display()).because(error)
}

/// What an flist says beside its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Pairs of text, each key once.
    pub metadata: Vec<(String, String)>,
    /// Where its chunks are.
    pub routes: Vec<Route>,
}

impl Facts {
    /// Sets a pair, in the place of the one of that key or behind all.
    pub fn set(&mut self, key: &str, value: &str) {
        match self.metadata.iter_mut().find(|(there, _)| there == key) {
            Some((_, there)) => *there = value.into(),
            None => self.metadata.push((key.into(), value.into())),
        }
    }

    /// Removes a pair; whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        let count = self.metadata.len();
        self.metadata.retain(|(there, _)| there != key);
        self.metadata.len() < count
    }
}

/// How an flist is made.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Absent: what the name of the file ends in, `.flist` or `.fl`.
    pub format: Option<Format>,
    /// Set beside what the source says of itself, in its place where both say something.
    pub metadata: Vec<(String, String)>,
    /// Where it says that its chunks are; absent: the stores, without their passwords.
    pub routes: Option<Vec<Route>>,
    /// Which image of several: its name, or how that ends, as `alpine:3.20` or `3.20`.
    pub image: Option<String>,
    /// The directory where a packed archive that may be an image is unpacked, into a file without a name; absent: that for
    /// temporary files.
    pub scratch: Option<PathBuf>,
    /// How many bytes an archive, and each layer of an image, may unpack to, all together; absent: no more than what each may for its
    /// own length.
    pub unpacked_len_max: Option<u64>,
    /// Told what was done so far.
    pub progress: Arc<Progress>,
}

/// What was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Nodes, with the root.
    pub nodes: u64,
    /// Bytes of files that were read.
    pub bytes: u64,
    /// Different chunks of what was read.
    pub chunks: u64,
    /// Those that a store had not.
    pub chunks_stored: u64,
    /// Their bytes, as they are stored.
    pub bytes_stored: u64,
    /// The length of the flist, in bytes.
    pub len: u64,
    /// What vanished while it was read, and is not in it.
    pub skipped: u64,
    /// Files that were changed while they were read: what was read of them is in it.
    pub changed: u64,
}

/// Makes an flist of `source` at `target`, which is replaced when all of it is stored, durably. The chunks are stored before;
/// where it fails, those that were stay.
///
/// # Errors
/// `InvalidArgument` where neither the options nor the name say the format, or chunks have no store; `TooLarge` where the tree
/// takes more than [`TREE_LEN_MAX`] bytes of memory; `Corrupt` for an archive that is damaged or has names that no tree has;
/// those of reading and of the stores.
pub async fn create(source: Source, stores: Arc<Stores>, target: &Path, options: CreateOptions) -> Result<Report> {
    let making = Making::begin(Tree::default(), stores.clone(), target, &options)?;
    // Before all of it is read.
    check_routes(making.format, options.routes.as_deref().unwrap_or_default())?;
    let routes = options.routes.unwrap_or_else(|| stores.routes());
    let (making, found) = making.fill(source, Vec::new()).await?;
    let mut facts = Facts { metadata: found, routes };
    for (key, value) in &options.metadata {
        facts.set(key, value);
    }
    making.finish(facts).await
}

/// An flist that is being made: files are put into its tree, then it is finished.
#[derive(Debug)]
pub struct Making {
    filler: Filler,
    target: PathBuf,
    format: Format,
    image: Option<String>,
}

impl Making {
    /// Begins with a tree, whose chunks are of the same format.
    ///
    /// # Errors
    /// Those of [`create`] for its arguments.
    pub fn begin(tree: Tree, stores: Arc<Stores>, target: &Path, options: &CreateOptions) -> Result<Self> {
        let format = format_of(target, options.format)?;
        let scratch = options.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let unpacking = Unpacking::new(scratch, options.unpacked_len_max.unwrap_or(u64::MAX));
        let filler = Filler::new(tree, format, stores, (options.progress.clone(), unpacking))?;
        Ok(Self { filler, target: target.into(), format, image: options.image.clone() })
    }

    /// Puts a source below a path, over what is there; with what it says of itself.
    ///
    /// # Errors
    /// Those of [`create`]; `InvalidArgument` for an image below another path than the root.
    pub async fn fill(mut self, source: Source, at: Vec<Name>) -> Result<(Self, Vec<(String, String)>)> {
        blocking(move || {
            let found = source.fill(&mut self.filler, &at, self.image.as_deref())?;
            Ok((self, found))
        })
        .await
    }

    /// Puts a node, in the place of what is there. A file has a content of [`Making::content`].
    ///
    /// # Errors
    /// Those of [`Tree::put`].
    pub fn put(&mut self, path: &[Name], about: About, what: What) -> Result<()> {
        self.filler.progress.nodes.fetch_add(1, Ordering::Relaxed);
        self.filler.tree.put(path, about, what)
    }

    /// Removes what is at a path, with all that is below it; whether it was there.
    ///
    /// # Errors
    /// Those of [`Tree::remove`].
    pub fn remove(&mut self, path: &[Name]) -> Result<bool> {
        self.filler.tree.remove(path)
    }

    /// The content of a file whose bytes come in pieces of any length, and how many they are.
    ///
    /// # Errors
    /// Those of the pieces and of the stores.
    pub async fn content(&mut self, mut pieces: BoxStream<'_, Result<Bytes>>) -> Result<(ContentId, u64)> {
        let content = self.filler.tree.new_content(CHUNK_LEN_MADE);
        let (mut waiting, mut index, mut len) = (BytesMut::new(), 0, 0);
        while let Some(piece) = pieces.next().await {
            waiting.extend_from_slice(&piece?);
            while waiting.len() >= CHUNK_LEN_MADE {
                self.filler.push_async(content, index, waiting.split_to(CHUNK_LEN_MADE).freeze()).await?;
                (index, len) = (index + 1, len + CHUNK_LEN_MADE as u64);
            }
        }
        if !waiting.is_empty() {
            len += waiting.len() as u64;
            self.filler.push_async(content, index, waiting.freeze()).await?;
        }
        Ok((content, len))
    }

    /// Puts a node of an flist of the same format, of which `about` is known, with all that is below it and the chunks of its
    /// files. None of them is fetched.
    ///
    /// # Errors
    /// Those of [`Tree::of`].
    pub fn reuse(&mut self, path: &[Name], about: About, flist: &Flist, inode: &Inode) -> Result<()> {
        let before = self.filler.tree.count();
        self.filler.tree.add_at(path, about, flist, inode)?;
        let more = self.filler.tree.count().saturating_sub(before);
        self.filler.progress.nodes.fetch_add(more as u64, Ordering::Relaxed);
        Ok(())
    }

    /// What is at a path by now.
    pub fn get(&self, path: &[Name]) -> Option<(&About, &What)> {
        self.filler.tree.get(path)
    }

    /// Stores what is left, and writes the flist.
    ///
    /// # Errors
    /// Those of [`create`].
    pub async fn finish(self, facts: Facts) -> Result<Report> {
        let Self { filler, target, format, .. } = self;
        let told = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let [bytes, skipped, changed] =
            [told(&filler.progress.bytes), told(&filler.progress.skipped), told(&filler.progress.changed)];
        let (tree, Filled { chunks, chunks_stored, bytes_stored }) = filler.finish().await?;
        let nodes = tree.count() as u64;
        let len = blocking(move || save(&tree, &facts, &target, format)).await?;
        Ok(Report { nodes, bytes, chunks, chunks_stored, bytes_stored, len, skipped, changed })
    }
}

/// What waits for the disk and takes the processor.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?
}

/// The format of what is made at a path.
///
/// # Errors
/// `InvalidArgument` where neither says it.
pub fn format_of(target: &Path, format: Option<Format>) -> Result<Format> {
    let ending = target.extension().and_then(|ending| ending.to_str());
    format
        .or(match ending {
            Some("flist") => Some(Format::Flist),
            Some("fl") => Some(Format::Fl),
            _ => None,
        })
        .ok_or_else(|| {
            let why = "its name ends in .flist or .fl, or its format is named";
            Error::new(ErrorKind::InvalidArgument, OP).at(target.display()).because(why)
        })
}

/// Writes a tree as an flist, durably, and gives its length in bytes. What was at `target` is replaced when it is whole; whoever made
/// the tree of that holds a [`Changing`] of it, or what another program changed meanwhile is lost.
///
/// # Errors
/// `InvalidArgument` where its chunks are those of the other format, and where an `.flist` has routes of which it can name none; `TooLarge` where a directory is too long for an `.flist`, or the
/// whole for any reader; `NoSpace`, `Io`.
pub fn save(tree: &Tree, facts: &Facts, target: &Path, format: Format) -> Result<u64> {
    save_within(tree, facts, target, format, crate::FLIST_LEN_MAX)
}

/// The same of one that may have so many bytes.
pub(crate) fn save_within(tree: &Tree, facts: &Facts, target: &Path, format: Format, len_max: u64) -> Result<u64> {
    let named = |error: Error| error.at(target.display());
    let io = |error: io::Error| named(io_failed(&error));
    // What is replaced is the file, not a link to it; whoever could not read it cannot read the new one.
    let target = &fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
    let permissions = fs::metadata(target).map_or_else(|_| stores::mode(0o644), |there| there.permissions());
    let dir = match target.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    check_chunk_count(tree, format, len_max).map_err(named)?;
    arriving::sweep(dir, arriving::FLIST);
    let temporary = || arriving::begin(dir, arriving::FLIST, &permissions);
    let mut file = temporary().map_err(io)?;
    match format {
        Format::Fl => fl::write(file.path(), tree, facts),
        Format::Flist => {
            let scratch = temporary().map_err(io)?;
            let facts = with_backend(facts).map_err(named)?;
            flist::write(file.as_file_mut(), scratch.path(), tree, &facts, len_max)
        }
    }
    .map_err(named)?;
    let len = file.as_file().metadata().map_err(io)?.len();
    if len > len_max {
        return Err(named(too_long(len, len_max)));
    }
    file.as_file().sync_all().map_err(io)?;
    file.persist(target).map_err(|error| io(error.error))?;
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    Ok(len)
}

fn too_long(len: u64, len_max: u64) -> Error {
    Error::new(ErrorKind::TooLarge, OP).because(format!("it would have {len} bytes or more, and {len_max} are read"))
}

/// Refuses what is longer for its chunks alone, before any is written: each name of a file names all of them.
fn check_chunk_count(tree: &Tree, format: Format, len_max: u64) -> Result<()> {
    let each = match format {
        Format::Fl => 64,
        Format::Flist => 48,
    };
    let dirs = tree.dirs();
    let nodes = (0..dirs.count()).filter_map(|at| tree.node(dirs.index(at))).flat_map(|dir| dir.entries.values());
    let count_of = |index: &usize| match tree.node(*index).map(|node| &node.what) {
        Some(What::File { content, .. }) => tree.content(*content).map_or(0, |content| content.chunks.len() as u64),
        _ => 0,
    };
    let len = nodes.map(count_of).fold(0u64, u64::saturating_add).saturating_mul(each);
    if len > len_max { Err(too_long(len, len_max)) } else { Ok(()) }
}

/// Refuses routes of which an flist of a format can name none.
///
/// # Errors
/// `InvalidArgument`.
pub fn check_routes(format: Format, routes: &[Route]) -> Result<()> {
    let is_backend = |route: &Route| (route.first, route.last) == (0, 255) && backend_of(&route.url).is_some();
    match routes.first() {
        Some(lost) if format == Format::Flist && !routes.iter().any(is_backend) => {
            let why =
                "an .flist names one 0-db server that has all chunks (zdb://…), and nothing else: an .fl names others";
            Err(Error::new(ErrorKind::InvalidArgument, OP).at(&lost.url).because(why))
        }
        _ => Ok(()),
    }
}

/// An `.flist` names one 0-db server, in its metadata: where they have none, the first that has all ids. Directories are of the
/// machine where it is made, and nobody else is told of them.
///
/// # Errors
/// `InvalidArgument` where it would say of none of its routes.
fn with_backend(facts: &Facts) -> Result<Facts> {
    let mut facts = facts.clone();
    if facts.metadata.iter().any(|(key, _)| key == "backend") {
        return Ok(facts);
    }
    facts.routes.retain(|route| !route.url.starts_with("dir:"));
    check_routes(Format::Flist, &facts.routes)?;
    let mut whole = facts.routes.iter().filter(|route| (route.first, route.last) == (0, 255));
    if let Some(backend) = whole.find_map(|route| backend_of(&route.url)) {
        facts.set("backend", &backend);
    }
    Ok(facts)
}

/// The content of a file that has all its chunks.
fn whole(tree: &Tree, id: ContentId, len: u64) -> Result<&Content> {
    let content = tree.content(id).ok_or_else(|| Error::new(ErrorKind::Internal, OP).because("a content is gone"))?;
    let count = len.div_ceil(content.chunk_len.max(1) as u64);
    if content.chunks.len() as u64 == count {
        return Ok(content);
    }
    let why = format!("a file of {len} bytes has {} chunks and not {count}", content.chunks.len());
    Err(Error::new(ErrorKind::Corrupt, OP).because(why))
}

fn other_format() -> Error {
    let why = "its chunks are those of the other format: they cannot be told without reading them";
    Error::new(ErrorKind::InvalidArgument, OP).because(why)
}

/// An empty database that is to be filled in one go: nothing of it has to outlive a crash, before it is whole.
fn database(path: &Path) -> Result<Connection> {
    let opened = (|| {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "page_size", 4096)?;
        connection.pragma_update(None, "encoding", "UTF-8")?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "cache_size", -16_384)?;
        connection.query_row("PRAGMA journal_mode = OFF", [], |_| Ok(()))?;
        Ok(connection)
    })();
    opened.map_err(|error| failed(&error))
}

/// What SQLite's error means to who writes.
fn failed(error: &rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => ErrorKind::NoSpace,
        Some(rusqlite::ErrorCode::TooBig) => ErrorKind::TooLarge,
        Some(rusqlite::ErrorCode::ConstraintViolation) => ErrorKind::InvalidArgument,
        _ => ErrorKind::Io,
    };
    Error::new(kind, OP).because(error.to_string())
}

/// What an error of the system means.
fn io_failed(error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        io::ErrorKind::NotADirectory => ErrorKind::NotDir,
        _ => ErrorKind::Io,
    };
    Error::new(kind, OP).because(error.to_string())
}
