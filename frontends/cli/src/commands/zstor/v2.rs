//! `zstor import` and `zstor export`: files from a zstor v2 into a mount, and back.
//!
//! The command speaks to the 0-dbs itself, with the configuration of that zstor v2; what it reads goes into the namespace as
//! what `put` puts does, to the server where one runs. Several files are under way at a time, as far as the memory goes
//! that they may take. One that fails stops no other, and is told at the end. Spec: spec/zstor-v2.md.

mod export;
mod import;

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::{Stream, TryStreamExt as _};
use muxfs::{Error, ErrorKind, QfsPath, Result};
use muxfs_zstor::v2::{Checksum, Checksummer, Cluster, Config, MEMORY_MAX_DEFAULT};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) use self::{
    export::{Export, export},
    import::{Import, import},
};
use crate::{
    args::{ZstorExport, ZstorImport},
    commands::{self, put::host},
    config::{self, ByteCount},
    instance::env,
    opened::{InUse, mount_to_write},
    output::{Output, Progress, bytes, count, told},
};

/// So many files are under way at a time: enough to keep several servers busy.
const FILES_AT_ONCE: usize = 8;
/// Memory is counted in so many bytes.
const MEMORY_UNIT: u64 = 1 << 20;

/// The zstor v2 of a configuration file, as it is with zstor v2 itself.
pub(crate) fn cluster(file: &Path) -> Result<Cluster> {
    let text = zeroize::Zeroizing::new(fs::read_to_string(file).map_err(|error| host(file, error))?);
    let config = Config::parse(&text).map_err(|error| error.at(file.display()))?;
    Ok(Cluster::new(config, env()))
}

/// A file that was done, as `--json` tells it.
#[derive(Debug, Serialize)]
struct Done<'a> {
    /// Where it is now: a path of ours, or of zstor v2.
    path: &'a str,
    /// Where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    /// The key of its metadata.
    key: String,
    /// How long it is; absent of one that was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// Whether it was there before, the same.
    there: bool,
}

/// Files that are imported or exported.
struct Batch {
    output: Output,
    progress: Progress,
    memory_max: u64,
    memory: Arc<Semaphore>,
    files: AtomicU64,
    there: AtomicU64,
    bytes: AtomicU64,
    failures: Mutex<Vec<(String, Error)>>,
}

impl Batch {
    fn begin(output: Output, memory_max: Option<ByteCount>) -> Self {
        let memory_max = memory_max.map_or(MEMORY_MAX_DEFAULT, |ByteCount(max)| max);
        let units = usize::try_from(memory_max.div_ceil(MEMORY_UNIT)).unwrap_or(usize::MAX);
        // No file may take more than the semaphore can be asked for at once.
        let units = units.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        let (files, there, bytes, failures) = Default::default();
        let memory = Arc::new(Semaphore::new(units));
        Self { output, progress: output.progress(None), memory_max, memory, files, there, bytes, failures }
    }

    /// Waits until there is room for a file that takes so many bytes of memory.
    ///
    /// # Errors
    /// `TooLarge` where there never is.
    async fn room(&self, len: u64) -> Result<OwnedSemaphorePermit> {
        if len > self.memory_max {
            let (takes, may) = (bytes(len), bytes(self.memory_max));
            let why = format!(
                "it is in memory whole, which may take {takes}, and {may} may be used: --memory lets it be more"
            );
            return Err(Error::new(ErrorKind::TooLarge, "zstor.v2.memory").because(why));
        }
        let units = u32::try_from(len.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.memory).acquire_many_owned(units).await;
        room.map_err(|closed| Error::new(ErrorKind::Internal, "zstor.v2.memory").because(closed))
    }

    fn done(&self, done: &Done<'_>) -> Result<()> {
        self.bytes.fetch_add(done.bytes.unwrap_or(0), Ordering::Relaxed);
        let counter = if done.there { &self.there } else { &self.files };
        counter.fetch_add(1, Ordering::Relaxed);
        self.progress.say(format!("{} files", count(self.files.load(Ordering::Relaxed))));
        self.output.result(done.path.as_bytes(), done)
    }

    fn fail(&self, what: String, error: Error) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push((what, error));
    }

    /// Tells what came of it all.
    ///
    /// # Errors
    /// Where a file failed, by the gravest reason.
    fn end(self, verb: &str) -> Result<()> {
        let Self { output, progress, files, there, bytes: len, failures, .. } = self;
        drop(progress);
        let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        failures.sort_by(|(one, _), (other, _)| one.cmp(other));
        let (files, there) = (files.into_inner(), there.into_inner());
        let before = if there == 0 { String::new() } else { format!("; {} were there before", count(there)) };
        output.notice(&format!("{} files {verb}, {}{before}", count(files), bytes(len.into_inner())));
        for (what, error) in &failures {
            told(&format!("not {verb}: {what}: {error:#}"));
        }
        let Some(kind) = gravest(failures.iter().map(|(_, error)| error.kind())) else { return Ok(()) };
        let why = format!("{} of {} files were not {verb}", failures.len(), failures.len() as u64 + files + there);
        Err(Error::new(kind, "zstor.v2").because(why))
    }
}

/// What most needs somebody to do something.
fn gravest(kinds: impl Iterator<Item = ErrorKind>) -> Option<ErrorKind> {
    let rank = |kind: &ErrorKind| match kind {
        ErrorKind::Corrupt => 4,
        ErrorKind::BadKey => 3,
        ErrorKind::Unavailable => 2,
        ErrorKind::NotFound => 1,
        _ => 0,
    };
    kinds.max_by_key(rank)
}

/// The checksum that zstor v2 has of such bytes.
async fn checksum_of(pieces: impl Stream<Item = Result<bytes::Bytes>> + Send) -> Result<Checksum> {
    let add = |mut checksummer: Checksummer, piece: bytes::Bytes| async move {
        checksummer.add(&piece);
        Ok(checksummer)
    };
    Ok(pieces.try_fold(Checksummer::default(), add).await?.finish())
}

/// The directory that relative paths are in.
fn current_dir() -> Result<std::path::PathBuf> {
    std::env::current_dir().map_err(|error: io::Error| Error::new(ErrorKind::Io, "zstor.v2.path").because(error))
}

/// Carries out `zstor import`: what it reads goes to whoever owns the data directory.
pub(crate) async fn run_import(
    config: config::Config,
    in_use: &InUse,
    args: &ZstorImport,
    output: Output,
) -> Result<()> {
    let job = Import {
        cluster: cluster(&args.zstor_config)?,
        paths: &args.paths,
        all: args.all,
        paths_from: args.paths_from.as_deref(),
        force: args.force,
        memory: args.memory,
        output,
    };
    let target = args.to.as_deref().map(commands::path).transpose()?;
    let served = in_use.open(config).await?;
    let target = match target {
        Some(target) => target,
        None => QfsPath { prefix: served.default_write().await?, parts: Vec::new() },
    };
    mount_to_write("zstor.import", &served, &config::Config::parse(&served.config().await?)?, &target)?;
    if target.cid().is_some() {
        return Err(Error::new(ErrorKind::InvalidArgument, "zstor.import")
            .at(&target)
            .because("files are imported under names: give a directory by its name, as /ipfs/old"));
    }
    // What was imported before one failed stays.
    let done = import(&*served, &target, &job).await;
    served.close().await?;
    done
}

/// Carries out `zstor export`, with what whoever owns the data directory has.
pub(crate) async fn run_export(
    config: config::Config,
    in_use: &InUse,
    args: &ZstorExport,
    output: Output,
) -> Result<()> {
    let sources = commands::paths(&args.sources)?;
    let job = Export {
        cluster: cluster(&args.zstor_config)?,
        sources: &sources,
        recursive: args.recursive,
        path: args.path.as_deref(),
        force: args.force,
        memory: args.memory,
        output,
    };
    let served = in_use.open(config).await?;
    let done = export(&*served, &job).await;
    served.close().await?;
    done
}
