//! `zstor export`: files from a mount so that zstor v2 retrieves them.

use std::path::{Path, PathBuf};

use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use muxfs::{Error, ErrorKind, QfsPath, Result};
use muxfs_zstor::v2::{Checksum, Cluster, MetaKey, Packer};

use super::{Batch, Done, FILES_AT_ONCE, current_dir};
use crate::{
    config::ByteCount,
    namespace::{Kind, Namespace, Place, Stat, to_text},
    output::Output,
};

/// What to export.
#[derive(Debug)]
pub(crate) struct Export<'a> {
    pub(crate) cluster: Cluster,
    pub(crate) sources: &'a [QfsPath],
    /// Whether directories, with all that is in them.
    pub(crate) recursive: bool,
    /// By which path zstor v2 is to know it; of several sources the directory.
    pub(crate) path: Option<&'a Path>,
    /// Whether other files are replaced.
    pub(crate) force: bool,
    pub(crate) memory: Option<ByteCount>,
    pub(crate) output: Output,
}

/// A file that is to be exported.
struct Wanted {
    source: QfsPath,
    /// In bytes.
    len: u64,
    /// By which path zstor v2 is to know it, as somebody gave it.
    path: PathBuf,
}

/// Exports files, and tells at the end what failed.
pub(crate) async fn export(namespace: &dyn Namespace, job: &Export<'_>) -> Result<()> {
    job.cluster.check_writable().await?;
    let mut wanted = Vec::new();
    for source in job.sources {
        let stat = namespace.stat(&Place::Path(source.clone())).await?;
        let path = path_of(job, source)?;
        find(namespace, job, (source.clone(), path), &stat, &mut wanted).await?;
    }
    let batch = Batch::begin(job.output, job.memory);
    let exporting = Exporting { namespace, job, batch: &batch, current_dir: current_dir()? };
    let each = stream::iter(wanted).map(|wanted| exporting.export(wanted));
    each.buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
    batch.end("exported")
}

/// By which path zstor v2 is to know a source.
fn path_of(job: &Export<'_>, source: &QfsPath) -> Result<PathBuf> {
    let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, "zstor.v2.export").at(source).because(why));
    let Some(last) = source.parts.last() else { return refuse("name a file, or a directory in the mount") };
    let Ok(last) = std::str::from_utf8(last.as_bytes()) else { return refuse("zstor v2 takes paths in UTF-8") };
    let Some(path) = job.path else {
        if source.cid().is_some() {
            return refuse("say with --as by which path zstor v2 is to know it: it has no name of its own");
        }
        // What its path in the mount is, with zstor v2 it is that below the root.
        let parts: Option<Vec<&str>> =
            source.parts.iter().map(|part| std::str::from_utf8(part.as_bytes()).ok()).collect();
        let Some(parts) = parts else { return refuse("zstor v2 takes paths in UTF-8") };
        let root = job.cluster.config().root.as_deref().unwrap_or("/");
        return Ok(Path::new(root).join(parts.join("/")));
    };
    let is_dir = job.sources.len() > 1 || path.as_os_str().as_encoded_bytes().ends_with(b"/");
    Ok(if is_dir { path.join(last) } else { path.to_owned() })
}

/// Adds a file, or those of a directory.
fn find<'a>(
    namespace: &'a dyn Namespace,
    job: &'a Export<'_>,
    (source, path): (QfsPath, PathBuf),
    stat: &'a Stat,
    wanted: &'a mut Vec<Wanted>,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        match stat.kind {
            Kind::File => wanted.push(Wanted { source, len: stat.size, path }),
            Kind::Dir if !job.recursive => {
                let error = Error::new(ErrorKind::IsDir, "zstor.v2.export").at(&source);
                return Err(error.because("export a directory with -r"));
            }
            Kind::Dir => {
                let place = Place::Path(source.clone());
                let entries: Vec<Stat> = namespace.list(&place).try_collect().await?;
                for stat in &entries {
                    let Ok(name) = std::str::from_utf8(stat.name.as_bytes()) else {
                        let name = to_text(stat.name.as_bytes());
                        job.output.notice(&format!("skipped {name:?} in {source}: zstor v2 takes paths in UTF-8"));
                        continue;
                    };
                    let below = (source.join(&stat.name), path.join(name));
                    find(namespace, job, below, stat, wanted).await?;
                }
            }
            _ => job.output.notice(&format!("skipped {source}: zstor v2 has files alone")),
        }
        Ok(())
    })
}

struct Exporting<'a> {
    namespace: &'a dyn Namespace,
    job: &'a Export<'a>,
    batch: &'a Batch,
    current_dir: PathBuf,
}

impl Exporting<'_> {
    /// Exports a file; what is wrong with it is noted. An error ends the whole command.
    async fn export(&self, wanted: Wanted) -> Result<()> {
        match self.try_export(&wanted).await {
            Ok((path, key, was_there)) => self.batch.done(&Done {
                path: &path,
                source: Some(&wanted.source.to_string()),
                key: key.0.to_string(),
                bytes: (!was_there).then_some(wanted.len),
                there: was_there,
            }),
            Err(error) => {
                self.batch.fail(wanted.source.to_string(), error);
                Ok(())
            }
        }
    }

    /// The path by which zstor v2 retrieves it, its key, and whether the same was there.
    async fn try_export(&self, wanted: &Wanted) -> Result<(String, MetaKey, bool)> {
        let (cluster, rules) = (&self.job.cluster, self.job.cluster.config().rules);
        let hashed = cluster.config().hashed_path(&wanted.path, &self.current_dir)?;
        let key = MetaKey::of(&hashed);
        let path = match &cluster.config().root {
            Some(root) => Path::new(root).join(&hashed).display().to_string(),
            None => hashed,
        };
        let memory_len = Packer::memory_len(wanted.len, rules.data_shards, rules.shards);
        let _room = self.batch.room(memory_len).await?;
        let (mut packer, mut pieces) = (Packer::default(), self.namespace.read(&wanted.source));
        let mut len = 0;
        while let Some(piece) = pieces.try_next().await? {
            len += piece.len() as u64;
            if len > wanted.len {
                break;
            }
            packer.add(&piece)?;
            self.batch.progress.add_bytes(piece.len() as u64);
        }
        if len != wanted.len {
            let why = "it changed while it was read: export it again";
            return Err(Error::new(ErrorKind::Unavailable, "zstor.v2.export").because(why));
        }
        let whole = packer.finish()?;
        let before = cluster.find(key).await?;
        if let Some(before) = &before
            && !self.job.force
        {
            return if before.checksum == whole.checksum {
                Ok((path, key, true))
            } else {
                Err(exists(&path, before.checksum))
            };
        }
        cluster.write(key, whole, before.as_ref()).await?;
        Ok((path, key, false))
    }
}

fn exists(path: &str, checksum: Checksum) -> Error {
    let why = format!("zstor v2 has another file there, with the checksum {checksum}, which --force replaces");
    Error::new(ErrorKind::Exists, "zstor.v2.export").at(path).because(why)
}
