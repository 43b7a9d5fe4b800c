//! `zstor import`: files from a zstor v2 into a mount.
//!
//! zstor v2 keeps no paths, but hashes of them: it is asked for a file by its path, or lists hashes. So all of it is
//! imported under names only as far as somebody has the paths, and the rest under the hashes.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muxfs::{Error, ErrorKind, Name, QfsPath, Result};
use muxfs_zstor::v2::{Cluster, MetaKey};
use tokio::sync::Mutex as AsyncMutex;

use super::{Batch, Done, FILES_AT_ONCE, checksum_of, current_dir};
use crate::{
    commands::put::{entries, host},
    config::ByteCount,
    namespace::{Durable, Input, Kind, Namespace, Place},
    output::Output,
};

/// Below it are files whose paths nobody told.
const BY_KEY: &str = "by-key";

/// What to import.
#[derive(Debug)]
pub(crate) struct Import<'a> {
    pub(crate) cluster: Cluster,
    /// As zstor v2 was given them.
    pub(crate) paths: &'a [PathBuf],
    /// Whether all that it has metadata of.
    pub(crate) all: bool,
    /// A file of paths, one a line, or a directory whose files they are.
    pub(crate) paths_from: Option<&'a Path>,
    /// Whether other files are replaced.
    pub(crate) force: bool,
    pub(crate) memory: Option<ByteCount>,
    pub(crate) output: Output,
}

/// A file that is to be imported: its metadata's key, and its path as zstor v2 hashes it, if that is known.
type Wanted = (MetaKey, Option<String>);

/// Imports below `target`, and tells at the end what failed.
pub(crate) async fn import(namespace: &dyn Namespace, target: &QfsPath, job: &Import<'_>) -> Result<()> {
    let wanted = wanted(job).await?;
    let batch = Batch::begin(job.output, job.memory);
    let importing = Importing { namespace, target, job, batch: &batch, dirs: AsyncMutex::default() };
    let each = stream::iter(wanted).map(|(key, path)| importing.import(key, path));
    each.buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
    batch.end("imported")
}

/// All that is to be imported.
async fn wanted(job: &Import<'_>) -> Result<Vec<Wanted>> {
    let (config, current_dir) = (job.cluster.config(), current_dir()?);
    let hashed = |path: &PathBuf| config.hashed_path(path, &current_dir);
    let named = job.paths.iter().map(hashed).collect::<Result<Vec<_>>>()?;
    let told = job.paths_from.map(paths_from).transpose()?.unwrap_or_default();
    let told = told.iter().map(hashed).collect::<Result<Vec<_>>>()?;
    let by_key = |paths: Vec<String>| -> BTreeMap<MetaKey, String> {
        paths.into_iter().map(|path| (MetaKey::of(&path), path)).collect()
    };
    let (mut named, mut told) = (by_key(named), by_key(told));
    if !job.all {
        named.append(&mut told);
        return Ok(named.into_iter().map(|(key, path)| (key, Some(path))).collect());
    }
    let listing = job.cluster.list().await?;
    for error in &listing.failed {
        job.output.notice(&format!("not listed, which is no harm while two others are: {error:#}"));
    }
    let mut wanted = Vec::with_capacity(listing.keys.len());
    for key in listing.keys {
        let path = told.remove(&key);
        wanted.push((key, named.remove(&key).or(path)));
    }
    if !told.is_empty() {
        job.output.notice(&format!("paths that zstor v2 has nothing under: {}", told.len()));
    }
    // Those that were asked for are failures.
    wanted.extend(named.into_iter().map(|(key, path)| (key, Some(path))));
    Ok(wanted)
}

/// The paths in a file, one a line, or those of the files of a directory.
fn paths_from(source: &Path) -> Result<Vec<PathBuf>> {
    if !fs::metadata(source).map_err(|error| host(source, error))?.is_dir() {
        let text = fs::read(source).map_err(|error| host(source, error))?;
        let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        return Ok(lines
            .filter(|line| !line.is_empty())
            .map(|line| std::ffi::OsStr::from_bytes(line).into())
            .collect());
    }
    let whole = std::path::absolute(source).map_err(|error| host(source, error))?;
    let (mut dirs, mut files) = (vec![whole], Vec::new());
    while let Some(dir) = dirs.pop() {
        let found = entries(&dir)?;
        let path = |name: &Name| dir.join(std::ffi::OsStr::from_bytes(name.as_bytes()));
        dirs.extend(found.dirs.iter().map(path).collect::<Vec<_>>());
        files.extend(found.leaves.iter().filter(|(_, is_symlink)| !is_symlink).map(|(name, _)| path(name)));
    }
    Ok(files)
}

struct Importing<'a> {
    namespace: &'a dyn Namespace,
    target: &'a QfsPath,
    job: &'a Import<'a>,
    batch: &'a Batch,
    /// Those that are there, by this command or before it.
    dirs: AsyncMutex<HashSet<Vec<u8>>>,
}

impl Importing<'_> {
    /// Imports a file; what is wrong with it is noted. An error ends the whole command.
    async fn import(&self, key: MetaKey, path: Option<String>) -> Result<()> {
        let name = path.clone().unwrap_or_else(|| format!("{BY_KEY}/{}", key.0));
        match self.try_import(key, &name).await {
            Ok((target, len)) => self.batch.done(&Done {
                path: &target.to_string(),
                source: path.as_deref(),
                key: key.0.to_string(),
                bytes: len,
                there: len.is_none(),
            }),
            Err(error) => {
                self.batch.fail(path.unwrap_or_else(|| format!("the file whose path hashes to {}", key.0)), error);
                Ok(())
            }
        }
    }

    /// Its path, and how long it is if it was not there.
    async fn try_import(&self, key: MetaKey, name: &str) -> Result<(QfsPath, Option<u64>)> {
        let cluster = &self.job.cluster;
        let Some(metadata) = cluster.find(key).await? else {
            let why = "zstor v2 has nothing under this path, which has to be the one that it was given";
            return Err(Error::new(ErrorKind::NotFound, "zstor.v2.import").because(why));
        };
        let mut target = self.target.clone();
        for part in name.split('/').filter(|part| !part.is_empty()) {
            target = target.join(&Name::new(part.as_bytes())?);
        }
        match self.namespace.stat(&Place::Path(target.clone())).await {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDir) => {}
            Err(error) => return Err(error),
            Ok(there) => {
                let is_file = there.kind == Kind::File;
                if is_file && checksum_of(self.namespace.read(&target)).await? == metadata.checksum {
                    return Ok((target, None));
                }
                if !is_file || !self.job.force {
                    let why = "something else is there, which --force replaces if it is a file";
                    return Err(Error::new(ErrorKind::Exists, "zstor.v2.import").at(&target).because(why));
                }
            }
        }
        let _room = self.batch.room(metadata.memory_len()).await?;
        let object = cluster.read(&metadata).await?;
        for fault in &object.faults {
            self.job.output.notice(&format!("{name} is whole without {}", fault.why));
        }
        self.make_dirs(&target).await?;
        let (len, progress) = (object.len, self.batch.progress.clone());
        let stream = object.stream().inspect_ok(move |piece| progress.add_bytes(piece.len() as u64));
        // All of it was held against its checksum: only now it gets its name, whole.
        self.namespace.put(&target, Input::Stream(stream.boxed()), Durable::Now).await?;
        Ok((target, Some(len)))
    }

    /// Makes the directories above a path.
    async fn make_dirs(&self, path: &QfsPath) -> Result<()> {
        let mut dirs = self.dirs.lock().await;
        for count in 1..path.parts.len() {
            let dir = QfsPath { prefix: path.prefix, parts: path.parts[..count].to_vec() };
            if !dirs.contains(&dir.to_bytes()) {
                self.namespace.put_dir(&dir, Durable::Now).await?;
                dirs.insert(dir.to_bytes());
            }
        }
        Ok(())
    }
}
