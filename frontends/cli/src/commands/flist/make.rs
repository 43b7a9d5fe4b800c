//! `flist create`, `export` and `add`: what is made an flist, and its chunks.

use std::{
    collections::HashSet,
    fmt,
    ops::Deref,
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{BlockKey, BlockStore, Error, ErrorKind, Name, QfsPath, Result};
use muxfs_flist::{
    Format, Route,
    write::{self, Changing, CreateOptions, Facts, Making, Report, Source, Stores, Tree, What},
};
use serde_json::json;

use super::{OP, change::names, open, walk};
use crate::{
    args::{self, FlistMaking, FlistStore},
    commands,
    flist::with_key,
    namespace::{Durable, Input, Kind, Namespace, Place, Stat, hex, to_text},
    output::{Output, bytes, count},
};

/// How often what was done is shown.
const SHOWN_EACH: Duration = Duration::from_millis(200);

/// Whether a command reads or writes a path of the namespace.
pub(crate) fn needs_namespace(flist: &args::Flist) -> bool {
    match flist {
        args::Flist::Export { .. } | args::Flist::Commit { .. } => true,
        args::Flist::Create { making, .. } | args::Flist::Add { making, .. } => {
            making.stores.iter().any(|store| matches!(store, FlistStore::Path(_)))
        }
        _ => false,
    }
}

/// Chunks as files `HH/ID` of a directory of the namespace.
struct Placed<T> {
    namespace: Arc<T>,
    dir: QfsPath,
    /// The directories that are there: to make one is durable, and waits for a disk.
    made: Mutex<HashSet<QfsPath>>,
}

impl<T> fmt::Debug for Placed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Placed({})", self.dir)
    }
}

impl<T> Placed<T> {
    fn path(&self, key: &BlockKey) -> Result<(QfsPath, QfsPath)> {
        let digits = hex(key.as_bytes());
        let dir = self.dir.join(&Name::new(digits.get(..2).unwrap_or_default().as_bytes())?);
        let file = dir.join(&Name::new(digits.as_bytes())?);
        Ok((dir, file))
    }
}

#[async_trait]
impl<T: Deref<Target = dyn Namespace> + Send + Sync + 'static> BlockStore for Placed<T> {
    async fn get(&self, key: &BlockKey) -> Result<Option<Bytes>> {
        let (_, file) = self.path(key)?;
        match self.namespace.read(&file).try_collect::<Vec<Bytes>>().await {
            Ok(pieces) => Ok(Some(pieces.concat().into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn put(&self, key: &BlockKey, block: Bytes) -> Result<()> {
        let (dir, file) = self.path(key)?;
        let is_made =
            |made: &Mutex<HashSet<QfsPath>>| made.lock().unwrap_or_else(PoisonError::into_inner).contains(&dir);
        if !is_made(&self.made) {
            self.namespace.put_dir(&dir, Durable::Now).await?;
            self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(dir);
        }
        let input = Input::Stream(stream::once(std::future::ready(Ok(block))).boxed());
        self.namespace.put(&file, input, Durable::Now).await.map(drop)
    }

    async fn delete(&self, key: &BlockKey) -> Result<()> {
        self.namespace.delete(&self.path(key)?.1).await.map(drop)
    }

    async fn has(&self, key: &BlockKey) -> Result<bool> {
        self.namespace.has(&self.path(key)?.1).await
    }

    fn keys(&self) -> BoxStream<'_, Result<BlockKey>> {
        let why = "chunks of an flist are not listed";
        stream::once(std::future::ready(Err(Error::new(ErrorKind::Unsupported, OP).because(why)))).boxed()
    }
}

pub(super) async fn stores<T>(making: &FlistMaking, namespace: Option<&Arc<T>>) -> Result<Arc<Stores>>
where
    T: Deref<Target = dyn Namespace> + Send + Sync + 'static,
{
    let mut urls = Vec::new();
    let mut placed: Vec<Arc<dyn BlockStore>> = Vec::new();
    for store in &making.stores {
        match (store, namespace) {
            (FlistStore::Url(url), _) => urls.push(url.clone()),
            (FlistStore::Path(path), Some(namespace)) => {
                let dir = commands::path(path)?;
                namespace.put_dir(&dir, Durable::Now).await?;
                placed.push(Arc::new(Placed { namespace: namespace.clone(), dir, made: Mutex::default() }));
            }
            (FlistStore::Path(_), None) => return Err(Error::new(ErrorKind::Internal, OP)),
        }
    }
    let stores = placed.into_iter().fold(Stores::open(&with_key(&urls))?, Stores::with_blocks);
    Ok(Arc::new(stores))
}

/// Refuses to store chunks below what is read: each would be the bytes of others.
pub(super) fn check_stores_are_not_in(path: &QfsPath, making: &FlistMaking) -> Result<()> {
    for store in &making.stores {
        let FlistStore::Path(store) = store else { continue };
        let store = commands::path(store)?;
        if store.prefix == path.prefix && store.parts.starts_with(&path.parts) {
            let why = format!("it is in {path}, of which the flist is made: put the chunks elsewhere");
            return Err(Error::new(ErrorKind::InvalidArgument, OP).at(&store).because(why));
        }
    }
    Ok(())
}

pub(super) fn options(making: &FlistMaking) -> CreateOptions {
    CreateOptions {
        format: making.format,
        metadata: making.metadata.clone(),
        routes: routes(making),
        ..CreateOptions::default()
    }
}

pub(super) fn routes(making: &FlistMaking) -> Option<Vec<Route>> {
    (!making.routes.is_empty()).then(|| making.routes.iter().map(muxfs_flist::SourceUrl::route).collect())
}

/// Chunks of an flist stay where they are, and new ones are where `routes` say.
pub(super) fn add_routes(facts: &mut Facts, format: Format, routes: Vec<Route>) -> Result<()> {
    let (named, has_backend) = (facts.routes.clone(), format == Format::Flist && !facts.routes.is_empty());
    for route in routes {
        if named.contains(&route) {
            continue;
        }
        if has_backend && !route.url.starts_with("dir:") {
            let why =
                "an .flist names one 0-db server, and this one names another: put the chunks there, or make an .fl";
            return Err(Error::new(ErrorKind::InvalidArgument, OP).because(why));
        }
        facts.routes.push(route);
    }
    Ok(())
}

/// Shows what was done until `work` is.
pub(super) async fn shown<T>(
    progress: Arc<write::Progress>,
    work: impl Future<Output = Result<T>>,
    output: Output,
) -> Result<T> {
    let bar = output.progress(None);
    let mut work = std::pin::pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(SHOWN_EACH, &mut work).await {
            return done;
        }
        bar.set_bytes(progress.bytes.load(Ordering::Relaxed));
        bar.say(format!("{} nodes", count(progress.nodes.load(Ordering::Relaxed))));
    }
}

/// Tells what was made; the exit code is 1 where what it was made of did not hold still.
pub(super) fn print(target: &Path, report: &Report, output: Output) -> Result<ExitCode> {
    if !output.json {
        let note = |number, what| if number == 0 { String::new() } else { format!(", {} {what}", count(number)) };
        let note = note(report.skipped, "vanished while they were read")
            + &note(report.changed, "changed while they were read");
        output.notice(&format!(
            "{} nodes, {}{note}; {} chunks, {} of them new: {}; the flist has {}",
            count(report.nodes),
            bytes(report.bytes),
            count(report.chunks),
            count(report.chunks_stored),
            bytes(report.bytes_stored),
            bytes(report.len),
        ));
    }
    let text = target.as_os_str().as_encoded_bytes();
    let value = json!({
        "flist": to_text(text), "nodes": report.nodes, "bytes": report.bytes, "chunks": report.chunks,
        "chunks_stored": report.chunks_stored, "bytes_stored": report.bytes_stored, "len": report.len,
        "skipped": report.skipped, "changed": report.changed,
    });
    output.result(text, &value)?;
    Ok(if report.skipped + report.changed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes an flist of what is outside of the namespace, or puts that into one.
pub(crate) async fn create<T>(flist: &args::Flist, namespace: Option<&Arc<T>>, output: Output) -> Result<ExitCode>
where
    T: Deref<Target = dyn Namespace> + Send + Sync + 'static,
{
    match flist {
        args::Flist::Create { making, image, source, output: target } => {
            let options = CreateOptions { image: image.clone(), ..options(making) };
            write::format_of(target, options.format)?;
            let (source, stores) = (Source::of(source)?, stores(making, namespace).await?);
            let progress = options.progress.clone();
            let report = shown(progress, write::create(source, stores, target, options), output).await?;
            print(target, &report, output)
        }
        args::Flist::Add { making, flist, source, path, unpack } => {
            let source = if *unpack { Source::of(source)? } else { Source::Dir(source.clone()) };
            let _changing = Changing::begin(flist)?;
            let there = open(flist)?;
            if let Some(other) = making.format.filter(|format| *format != there.format()) {
                let why = format!("it is an .{}, and what is added to it does not make it an .{other}", there.format());
                return Err(Error::new(ErrorKind::InvalidArgument, OP).at(flist.display()).because(why));
            }
            let mut facts = Facts::of(&there)?;
            let tree = Tree::of(&there)?;
            let stores = stores(making, namespace).await?;
            write::check_routes(there.format(), &routes(making).unwrap_or_default())?;
            add_routes(&mut facts, there.format(), routes(making).unwrap_or_else(|| stores.routes()))
                .map_err(|error| error.at(flist.display()))?;
            let is_dir = |path: &[Name]| tree.get(path).is_some_and(|(_, what)| *what == What::Dir);
            let is_of_file = matches!(&source, Source::Dir(from) if !from.is_dir());
            if is_of_file && is_dir(&names(path)?) {
                let why =
                    "a file would take the place of a directory with all that is below it: say what it is called there";
                return Err(Error::new(ErrorKind::IsDir, OP).at(path.to_string_lossy()).because(why));
            }
            for (key, value) in &making.metadata {
                facts.set(key, value);
            }
            let options = CreateOptions { format: Some(there.format()), ..options(making) };
            let at = names(path)?;
            let work = async {
                let making = Making::begin(tree, stores, flist, &options)?;
                let (making, _) = making.fill(source, at).await?;
                making.finish(facts).await
            };
            let report = shown(options.progress.clone(), work, output).await?;
            print(flist, &report, output)
        }
        _ => Err(Error::new(ErrorKind::Internal, OP)),
    }
}

/// Makes an flist of a path of the namespace.
pub(crate) async fn export<T>(
    namespace: &Arc<T>,
    path: &QfsPath,
    (making, target): (&FlistMaking, &Path),
    output: Output,
) -> Result<ExitCode>
where
    T: Deref<Target = dyn Namespace> + Send + Sync + 'static,
{
    check_stores_are_not_in(path, making)?;
    let options = options(making);
    write::check_routes(write::format_of(target, options.format)?, options.routes.as_deref().unwrap_or_default())?;
    let stores = stores(making, Some(namespace)).await?;
    let mut facts = Facts { metadata: Vec::new(), routes: options.routes.clone().unwrap_or_else(|| stores.routes()) };
    for (key, value) in &options.metadata {
        facts.set(key, value);
    }
    let work = async {
        let mut making = Making::begin(Tree::default(), stores, target, &options)?;
        let root = namespace.stat(&Place::Path(path.clone())).await?;
        if root.kind != Kind::Dir {
            let why = "an flist is made of a directory";
            return Err(Error::new(ErrorKind::NotDir, OP).at(path).because(why));
        }
        let reads_all = |_: &mut Making, _: &Stat, _: &[Name]| Ok(false);
        walk::fill(&***namespace, &mut making, (path, &root), &options.progress, reads_all).await?;
        making.finish(facts).await
    };
    let report = shown(options.progress.clone(), work, output).await?;
    print(target, &report, output)
}
