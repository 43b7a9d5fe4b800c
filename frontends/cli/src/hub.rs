//! What a configuration says of a hub, as the HTTP frontend takes it: and who reads flists for it, looks for their chunks,
//! and makes them.
//!
//! Whoever gives an flist chose what is in it: what is read of one is bounded in memory and in time.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use muxfs::{Error, ErrorKind, FileKind, Name, Result};
use muxfs_flist::{
    Chunk, Chunks, ChunksOptions, DEPTH_MAX, Entry, FLIST_LEN_MAX, Flist, Format, Route, SourceUrl,
    write::{self, CreateOptions, Source, Stores},
};
use muxfs_http::{Flists, Hub, HubFlist, HubNode, HubOptions};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    commands::{self, put::host},
    config::{self, Config, HubFormat},
    data_dir::private_dir,
    flist::with_key,
};

/// So many flists stay open for who looks into them.
const OPEN_COUNT_MAX: usize = 8;
/// What a walk may remember of directories, in bytes,
const PENDING_LEN_MAX: usize = 128 << 20;
/// and how long it may read all in all: a table without an index is read whole for each directory.
const WALK_TIME_MAX: Duration = Duration::from_mins(2);
/// So many chunks are asked for at a time,
const ASKED_COUNT_MAX: usize = 16;
/// so many are remembered to be there,
const KNOWN_COUNT_MAX: usize = 1 << 20;
/// and so long all of it may take.
const CHECK_TIME_MAX: Duration = Duration::from_mins(10);
/// So many chunks of a file are read of an flist at a time.
const CHUNK_COUNT: usize = 4096;
/// An flist, and an archive, may unpack to so many times what the longest that is taken has; an archive once as a whole, and each
/// of its layers.
const UNPACKED_FACTOR: u64 = 4;
const OP: &str = "hub.flist";

/// The file of the users.
pub(crate) fn users_file(config: &Config) -> PathBuf {
    let named = config.http.hub.as_ref().and_then(|hub| hub.users.clone());
    named.unwrap_or_else(|| config.data.join("hub/users"))
}

/// The hub of a configuration, over a data directory.
pub(crate) async fn open(hub: &config::Hub, config: &Config, data: &Path) -> Result<Hub> {
    let dir = hub.dir.clone().unwrap_or_else(|| data.join("hub/flists"));
    if hub.dir.is_none() {
        // One that somebody named and that is absent is misspelt, or its disk is not mounted.
        private_dir(&dir)?;
    }
    let scratch = data.join("scratch");
    private_dir(&scratch)?;
    let asked = |sources: &[config::FlistSource]| with_key(sources.iter().map(|source| &source.0));
    let stores = asked(&hub.stores);
    let sources = [stores.clone(), asked(&hub.sources)].concat();
    let routes: Vec<SourceUrl> = hub.routes.iter().map(|source| source.0.clone()).collect();
    let told = if routes.is_empty() { &stores } else { &routes };
    let options = HubOptions {
        dir,
        users: users_file(config),
        official: hub.official.clone(),
        is_public: hub.public,
        flist_len_max: hub.flist_max.0,
        archive_len_max: hub.archive_max.0,
        ending: match hub.format {
            HubFormat::Flist => ".flist",
            HubFormat::Fl => ".fl",
        },
        storage: told.iter().find(|url| !url.is_dir()).map(|url| url.public().to_string()),
    };
    let looks = !sources.is_empty() || hub.follow;
    let reader = Reader {
        scratch,
        chunks: Arc::new(Chunks::open(ChunksOptions { sources, follow: hub.follow, kept: None }).await?),
        looks,
        stores: if stores.is_empty() { None } else { Some(Arc::new(Stores::open(&stores)?)) },
        database_len_max: hub.flist_max.0.saturating_mul(UNPACKED_FACTOR).min(FLIST_LEN_MAX),
        unpacked_len_max: hub.archive_max.0.saturating_mul(UNPACKED_FACTOR),
        routes: (!routes.is_empty()).then(|| routes.iter().map(SourceUrl::route).collect()),
        open: Mutex::default(),
    };
    Hub::open(options, Arc::new(reader))
}

/// What tells a file from the one that replaced it.
type Stamp = (u64, u64, u64, i64, i64);

/// Reads flists of both formats, and makes them.
#[derive(Debug)]
struct Reader {
    scratch: PathBuf,
    /// Where chunks are looked for.
    chunks: Arc<Chunks>,
    /// Whether they are looked for anywhere.
    looks: bool,
    stores: Option<Arc<Stores>>,
    /// What the database of an flist may have, unpacked, in bytes.
    database_len_max: u64,
    /// What an archive may unpack to, with all its layers, in bytes.
    unpacked_len_max: u64,
    routes: Option<Vec<Route>>,
    /// Those that were looked into, the last one last.
    open: Mutex<Vec<(Stamp, Arc<Flist>)>>,
}

/// The same error without the file that it is about, which is one of this machine.
fn unnamed(error: &Error) -> Error {
    let unnamed = Error::new(error.kind(), OP);
    match std::error::Error::source(error) {
        Some(cause) => unnamed.because(cause.to_string()),
        None => unnamed,
    }
}

fn node(entry: &Entry) -> HubNode {
    let Entry { name, inode } = entry;
    HubNode {
        name: name.clone(),
        kind: inode.kind,
        size: inode.size,
        mode: inode.mode,
        mtime: inode.mtime,
        target: inode.target.clone(),
    }
}

/// A directory in the middle of a walk.
struct Level {
    /// How long the path of the directory is.
    len: usize,
    entries: std::vec::IntoIter<Entry>,
    weight: usize,
}

/// Tells of every node but the root, a directory before what is in it, each directory by name; until `tell` says `false`.
fn walk(flist: &Flist, mut tell: impl FnMut(&[u8], &Entry) -> Result<bool>) -> Result<()> {
    let (mut pending, mut spent) = (0, Duration::ZERO);
    let mut read = |inode: &muxfs_flist::Inode, len: usize, pending: &mut usize| {
        let since = Instant::now();
        let dir = flist.dir(inode)?;
        spent += since.elapsed();
        let weight = dir.weight();
        *pending += weight;
        let refuse = |why: &str| Err(Error::new(ErrorKind::TooLarge, OP).because(why));
        if *pending > PENDING_LEN_MAX {
            return refuse("its directories are too long to be walked through");
        }
        if spent > WALK_TIME_MAX {
            return refuse("it takes too long to be walked through");
        }
        let mut entries = dir.entries;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Level { len, entries: entries.into_iter(), weight })
    };
    let mut path = Vec::new();
    let mut levels = vec![read(&flist.root()?, 0, &mut pending)?];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.next() else {
            pending -= level.weight;
            levels.pop();
            continue;
        };
        path.truncate(level.len);
        path.push(b'/');
        path.extend_from_slice(entry.name.as_bytes());
        if !tell(&path, &entry)? {
            return Ok(());
        }
        if entry.inode.kind == FileKind::Dir {
            if levels.len() > DEPTH_MAX {
                let why = format!("it is more than {DEPTH_MAX} directories deep");
                return Err(Error::new(ErrorKind::Corrupt, OP).because(why));
            }
            levels.push(read(&entry.inode, path.len(), &mut pending)?);
        }
    }
    Ok(())
}

/// The chunks of a file, in parts, as many as its length needs.
fn chunks_of(flist: &Flist, entry: &Entry, mut take: impl FnMut(Vec<Chunk>) -> bool) -> Result<bool> {
    let (size, mut first) = (entry.inode.size, 0);
    loop {
        let (len, chunks) = flist.chunks(entry.inode.id, first, CHUNK_COUNT)?;
        let count = chunks.len();
        first += count as u64;
        if count < CHUNK_COUNT && first != size.div_ceil(len) {
            let why = format!("it has {size} bytes, for which its chunks are too few or too many");
            return Err(Error::new(ErrorKind::Corrupt, OP).because(why));
        }
        if count > 0 && !take(chunks) {
            return Ok(false);
        }
        if count < CHUNK_COUNT {
            return Ok(true);
        }
    }
}

impl Reader {
    /// The flist in a file, which may be open.
    fn flist(&self, file: &Path) -> Result<Arc<Flist>> {
        let about = fs::metadata(file).map_err(|error| host(file, error))?;
        let stamp = (about.dev(), about.ino(), about.len(), about.ctime(), about.ctime_nsec());
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = {
            let mut open = open();
            let at = open.iter().position(|(known, _)| *known == stamp);
            at.map(|at| {
                let found = open.remove(at);
                open.push(found.clone());
                found.1
            })
        };
        if let Some(flist) = known {
            return Ok(flist);
        }
        let flist = Arc::new(Flist::open_within(file, &self.scratch, self.database_len_max)?);
        let mut open = open();
        if open.len() == OPEN_COUNT_MAX {
            open.remove(0);
        }
        open.push((stamp, flist.clone()));
        Ok(flist)
    }
}

#[async_trait]
impl Flists for Reader {
    fn look(&self, file: &Path) -> Result<HubFlist> {
        let read = || {
            let flist = self.flist(file)?;
            let routes = flist.routes()?;
            let route = |route: &Route| format!("{:02x}-{:02x} {}", route.first, route.last, route.url);
            Ok(HubFlist {
                format: flist.format().to_string(),
                metadata: flist.metadata()?,
                routes: routes.iter().map(route).collect(),
            })
        };
        read().map_err(|error: Error| unnamed(&error))
    }

    fn list(&self, file: &Path, dir: &[Name]) -> Result<Vec<HubNode>> {
        let read = || {
            let flist = self.flist(file)?;
            let mut at = flist.root()?;
            for name in dir {
                let found = flist.dir(&at)?.find(name).map(|(_, entry)| entry.inode.clone());
                at = found.ok_or_else(|| Error::new(ErrorKind::NotFound, OP))?;
            }
            let mut entries = flist.dir(&at)?.entries;
            entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            Ok(entries.iter().map(node).collect())
        };
        read().map_err(|error: Error| unnamed(&error))
    }

    fn walk(&self, file: &Path, tell: &mut (dyn FnMut(&[u8], &HubNode) -> bool + Send)) -> Result<()> {
        let walked = self.flist(file).and_then(|flist| walk(&flist, |path, entry| Ok(tell(path, &node(entry)))));
        walked.map_err(|error| unnamed(&error))
    }

    async fn check(&self, file: &Path) -> Result<()> {
        if !self.looks {
            let why =
                "this hub looks for chunks nowhere, so it takes no flists: [http.hub] stores or sources name where";
            return Err(Error::new(ErrorKind::Unsupported, OP).because(why));
        }
        // Nobody looks into it but this: it may be refused.
        let (path, scratch, len_max) = (file.to_owned(), self.scratch.clone(), self.database_len_max);
        let chunks = self.chunks.clone();
        let opened = blocking(move || {
            let flist = Flist::open_within(&path, &scratch, len_max)?;
            flist.metadata()?;
            let sources = chunks.sources_of(&flist)?;
            Ok((flist, sources))
        });
        let (flist, sources) = opened.await.map_err(|error| unnamed(&error))?;
        let (send, receive) = mpsc::channel::<Result<(Arc<str>, Chunk)>>(4 * ASKED_COUNT_MAX);
        tokio::task::spawn_blocking(move || {
            let mut known = HashSet::new();
            let walked = walk(&flist, |path, entry| {
                if entry.inode.kind != FileKind::File {
                    return Ok(true);
                }
                let shown: Arc<str> = String::from_utf8_lossy(path).into();
                let told = chunks_of(&flist, entry, |chunks| {
                    chunks.into_iter().all(|chunk| {
                        let mut id = [0; 32];
                        id.iter_mut().zip(chunk.id()).for_each(|(place, byte)| *place = *byte);
                        let is_new = known.len() >= KNOWN_COUNT_MAX || known.insert(id);
                        !is_new || send.blocking_send(Ok((shown.clone(), chunk))).is_ok()
                    })
                });
                told.map_err(|error| unnamed(&error).at(&shown))
            });
            if let Err(error) = walked {
                // Who asked may be gone.
                send.blocking_send(Err(error)).ok();
            }
        });
        let (receive, count) = (tokio::sync::Mutex::new(receive), AtomicU64::new(0));
        let ask = || async {
            while let Some(part) = receive.lock().await.recv().await {
                let (path, chunk) = part?;
                if !self.chunks.has(&sources, &chunk).await? {
                    let why =
                        format!("its chunk {} is stored nowhere where this hub looks: store it first", chunk.hex());
                    return Err(Error::new(ErrorKind::NotFound, OP).at(path).because(why));
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let checked = timeout(CHECK_TIME_MAX, try_join_all((0..ASKED_COUNT_MAX).map(|_| ask()))).await;
        let late = |_elapsed| {
            let count = count.load(Ordering::Relaxed);
            let why = format!("after {CHECK_TIME_MAX:?} {count} of its chunks were found, and not all were asked for");
            Error::new(ErrorKind::Unavailable, OP).because(why)
        };
        checked.map_err(late).flatten().map(drop)
    }

    async fn make(&self, archive: &Path, target: &Path, is_fl: bool, metadata: Vec<(String, String)>) -> Result<()> {
        let Some(stores) = self.stores.clone() else {
            let why = "this hub stores no chunks, so it takes flists, and makes none: [http.hub] stores names where to";
            return Err(Error::new(ErrorKind::Unsupported, OP).because(why));
        };
        let options = CreateOptions {
            format: Some(if is_fl { Format::Fl } else { Format::Flist }),
            metadata,
            routes: self.routes.clone(),
            scratch: Some(self.scratch.clone()),
            unpacked_len_max: Some(self.unpacked_len_max),
            ..CreateOptions::default()
        };
        let made = write::create(Source::Archive(archive.to_owned()), stores, target, options).await;
        made.map(drop).map_err(|error| unnamed(&error))
    }

    async fn merge(&self, files: &[PathBuf], target: &Path) -> Result<()> {
        let (files, target) = (files.to_vec(), target.to_owned());
        blocking(move || commands::flist::merge(&files, &target)).await.map_err(|error| unnamed(&error))
    }
}

/// Carries out what waits for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?
}
