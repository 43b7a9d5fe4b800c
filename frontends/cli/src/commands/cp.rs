//! `cp`: from one mount into another, by whoever owns the data directory.
//!
//! What has a CID there becomes content here by its blocks, those that are missing; what has only a name is read as any
//! client would, and put as [`put`](super::put) puts what the host has. Spec: spec/cli.md #cp.

mod by_name;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{
    Cid, Error, ErrorKind, QfsPath, Result,
    cas::Cas,
    dag::{CopyProgress, Dag, OnCopyProgress},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    args,
    config::Config,
    instance::Instance,
    namespace::{Namespace, Place, from_text, to_text},
    opened::{InUse, mount_to_write},
    output::{Output, bytes, count},
    owner::names_a_place,
};

/// One thing that a copy has to say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "cp", rename_all = "snake_case")]
pub(crate) enum Copying {
    /// How far it is.
    Progress(Copied),
    /// What cannot be copied, as text.
    Skipped { path: String, why: String },
    /// It ended; always the last. The CID is that of what became content.
    Done {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cid: Option<String>,
        #[serde(flatten)]
        copied: Copied,
    },
}

/// What a copy did so far.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Copied {
    pub(crate) unit: Unit,
    /// How many were put.
    pub(crate) moved: u64,
    /// How long those are, so far as they were read.
    pub(crate) bytes: u64,
    /// How many were there.
    pub(crate) there: u64,
    pub(crate) skipped: u64,
}

/// What a copy counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Blocks,
    Files,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Files => "files",
        }
    }
}

/// Copies, and prints the path of what came of it.
pub(crate) async fn cp(namespace: &dyn Namespace, source: &QfsPath, target: &QfsPath, output: Output) -> Result<()> {
    let progress = output.progress(None);
    let mut said = namespace.cp(source, target);
    while let Some(news) = said.try_next().await? {
        match news {
            Copying::Progress(copied) => {
                progress.set_bytes(copied.bytes);
                let (unit, moved, there) = (copied.unit.name(), count(copied.moved), count(copied.there));
                progress.say(format!("{moved} {unit}, {there} were there"));
            }
            Copying::Skipped { path, why } => {
                let path =
                    from_text(&path).and_then(|path| QfsPath::parse(&path).ok()).map_or(path, |path| path.to_string());
                output.notice(&format!("skipped {path}: {why}"));
            }
            Copying::Done { cid, copied } => {
                drop(progress);
                let path = match &cid {
                    Some(cid) => QfsPath::content(target.prefix, &cid.parse()?),
                    None => target.clone(),
                };
                let Copied { unit, moved, bytes: len, there, skipped } = copied;
                if !output.json {
                    let skipped = if skipped == 0 { String::new() } else { format!(", {} skipped", count(skipped)) };
                    let (moved, there, unit) = (count(moved), count(there), unit.name());
                    output.notice(&format!("{moved} {unit}, {}, {there} were there{skipped}", bytes(len)));
                }
                let text = path.to_string();
                let value = json!({
                    "path": text, "cid": cid, "unit": unit, "moved": moved, "bytes": len, "there": there,
                    "skipped": skipped,
                });
                return output.result(text.as_bytes(), &value);
            }
        }
    }
    Err(Error::new(ErrorKind::Internal, "cp").at(source).because("the copy ended without a result"))
}

/// Who is told what a copy does, and counts it.
struct Told {
    out: mpsc::Sender<Result<Copying>>,
    unit: Unit,
    moved: AtomicU64,
    bytes: AtomicU64,
    there: AtomicU64,
    skipped: AtomicU64,
}

impl Told {
    fn new(out: mpsc::Sender<Result<Copying>>, unit: Unit) -> Self {
        let (moved, bytes, there, skipped) = Default::default();
        Self { out, unit, moved, bytes, there, skipped }
    }

    fn copied(&self) -> Copied {
        let now = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (moved, bytes) = (now(&self.moved), now(&self.bytes));
        Copied { unit: self.unit, moved, bytes, there: now(&self.there), skipped: now(&self.skipped) }
    }

    /// Counts some, and tells it where somebody takes it at once.
    fn add(&self, counter: &AtomicU64, some: u64) {
        counter.fetch_add(some, Ordering::Relaxed);
        self.out.try_send(Ok(Copying::Progress(self.copied()))).ok();
    }

    async fn skip(&self, path: &QfsPath, why: &str) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        let skipped = Copying::Skipped { path: to_text(&path.to_bytes()), why: why.into() };
        self.out.send(Ok(skipped)).await.ok();
    }
}

/// The work itself, by the process that has the mounts. To drop it ends it.
pub(crate) fn run<'a>(
    instance: &'a Instance,
    source: &'a QfsPath,
    target: &'a QfsPath,
) -> BoxStream<'a, Result<Copying>> {
    let (out, said) = mpsc::channel(16);
    let work = stream::once(async move {
        let done = copy(instance, source, target, &out).await;
        out.send(done).await.ok();
    });
    let said = stream::unfold(said, |mut said| async { said.recv().await.map(|item| (item, said)) });
    stream::select(work.filter_map(|()| std::future::ready(None)), said).boxed()
}

async fn copy(
    instance: &Instance,
    source: &QfsPath,
    target: &QfsPath,
    out: &mpsc::Sender<Result<Copying>>,
) -> Result<Copying> {
    let mount = instance.mux.mount_at(target.prefix).map_err(|error| error.at(target))?;
    if let Some(cas) = mount.as_cas().filter(|_| !names_a_place(target)) {
        return into_content(instance, source, target, cas, out).await;
    }
    let told = Arc::new(Told::new(out.clone(), Unit::Files));
    by_name::put(instance, source, target, mount.as_tree().is_some(), &told).await?;
    Ok(Copying::Done { cid: None, copied: told.copied() })
}

/// Makes the source content of a mount, and pins it.
async fn into_content(
    instance: &Instance,
    source: &QfsPath,
    target: &QfsPath,
    cas: &Cas,
    out: &mpsc::Sender<Result<Copying>>,
) -> Result<Copying> {
    if target.parts.len() > 1 {
        let why = format!("content goes to /{0} or to /{0}/<cid>, by no other name", target.prefix);
        return Err(Error::new(ErrorKind::InvalidArgument, "cp").at(target).because(why));
    }
    // Until the pin, nothing else keeps what is put.
    let _session = cas.dag().begin_write();
    let (root, copied) = if let Some((from, root)) = content_of(instance, source).await? {
        check_wanted(target, &root)?;
        let told = out.clone();
        let tell: OnCopyProgress = Arc::new(move |moved| {
            told.try_send(Ok(Copying::Progress(of_blocks(moved)))).ok();
        });
        let report = cas.dag().copy_from(&from, &root, Some(&tell)).await;
        let report = report.map_err(|error| of_blocks_between(&error, source, target))?;
        (root, of_blocks(report.moved))
    } else {
        let told = Arc::new(Told::new(out.clone(), Unit::Files));
        let root = by_name::import(instance, source, cas.dag(), &told).await.map_err(|error| error.at(target))?;
        check_wanted(target, &root)?;
        (root, told.copied())
    };
    cas.pin(&root).await.map_err(|error| error.at(target))?;
    Ok(Copying::Done { cid: Some(root.to_string()), copied })
}

fn of_blocks(CopyProgress { block_count, len, there_count }: CopyProgress) -> Copied {
    Copied { unit: Unit::Blocks, moved: block_count, bytes: len, there: there_count, skipped: 0 }
}

/// Names what was to be copied, or where to, beside the block that an error is about.
fn of_blocks_between(error: &Error, source: &QfsPath, target: &QfsPath) -> Error {
    let kind = error.kind();
    let named = Error::new(kind, "cp");
    match kind {
        ErrorKind::NotFound | ErrorKind::Corrupt => named.at(source).because(format!("{error:#}")),
        ErrorKind::NoSpace | ErrorKind::Quota | ErrorKind::ReadOnly => named.at(target).because(format!("{error:#}")),
        // Either may have failed.
        _ => named.at(format!("{source} to {target}")).because(format!("{error:#}")),
    }
}

/// Refuses what is not what the target asks for.
fn check_wanted(target: &QfsPath, root: &Cid) -> Result<()> {
    let Some(wanted) = target.cid() else { return Ok(()) };
    if wanted.multihash_bytes() == root.multihash_bytes() && wanted.codec_code() == root.codec_code() {
        return Ok(());
    }
    let why = format!("the source is {root}, not {wanted}; nothing was pinned");
    Err(Error::new(ErrorKind::InvalidArgument, "cp").at(target).because(why))
}

/// The blocks that a source is made of and the CID they are below: of what a CID leads to those that it is read with, which
/// may be far away; of what has a name and is committed those of its mount. `None` of what is no content yet.
async fn content_of(instance: &Instance, source: &QfsPath) -> Result<Option<(Dag, Cid)>> {
    let mount = instance.mux.mount_at(source.prefix).map_err(|error| error.at(source))?;
    let Some(cas) = mount.as_cas() else { return Ok(None) };
    if source.cid().is_some() {
        let root = super::root_of(instance, source, "cp").await?;
        return Ok(Some((cas.reading_dag().clone(), root)));
    }
    let stat = instance.stat(&Place::Path(source.clone())).await?;
    Ok(stat.cid.map(|cid| (cas.dag().clone(), cid)))
}

/// Carries out the command, by whoever owns the data directory.
pub(crate) async fn command(config: Config, in_use: &InUse, args: &args::Cp, output: Output) -> Result<()> {
    let (source, target) = (super::path(&args.source)?, super::path(&args.dest)?);
    let served = in_use.open(config).await?;
    mount_to_write("cp", &served, &Config::parse(&served.config().await?)?, &target)?;
    // What was copied before it failed stays.
    let done = cp(&*served, &source, &target, output).await;
    served.close().await?;
    done
}
