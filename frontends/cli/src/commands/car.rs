//! `car export|import|ls|verify`: DAGs out into a file and in from one.
//!
//! The file is opened here, and its bytes go to and come from whoever owns the data directory. A file that can be read
//! anywhere is sent in the order in which it can be taken as it comes, whatever order it was written in.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use muxfs::{
    Cid, Error, ErrorKind, Prefix, QfsPath, Result,
    car::{self, Archive, ImportOptions, ImportProgress, OnImportProgress, Reader},
    dag::{Absent, EntityBytes, ExportLimits, ExportOptions},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::{get::Part, put::host};
use crate::{
    args::{self, CarImport, CarScope},
    config::Config,
    host_file::HostFile,
    instance::Instance,
    namespace::{Input, Namespace},
    opened::{InUse, mount_to_write},
    output::{Output, Progress, bytes, count},
};

/// How much of a stream is read at once.
const READ_LEN: usize = 256 << 10;

/// What is exported of a DAG.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Export {
    pub(crate) scope: CarScope,
    /// As `--bytes` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<String>,
    pub(crate) duplicates: bool,
    pub(crate) partial: bool,
}

/// A piece of an export.
#[derive(Debug)]
pub(crate) enum Piece {
    Bytes(Bytes),
    /// A block that was left out.
    Absent(Cid),
}

/// As a frame of the control protocol: a byte that says which, and its bytes.
impl Piece {
    const BYTES: u8 = 0;
    const ABSENT: u8 = 1;

    pub(crate) fn encode(&self) -> Bytes {
        let (kind, bytes) = match self {
            Self::Bytes(bytes) => (Self::BYTES, bytes.clone()),
            Self::Absent(cid) => (Self::ABSENT, cid.to_bytes().into()),
        };
        [&[kind], &bytes[..]].concat().into()
    }

    pub(crate) fn decode(frame: &Bytes) -> Result<Self> {
        match frame.first() {
            Some(&Self::BYTES) => Ok(Self::Bytes(frame.slice(1..))),
            Some(&Self::ABSENT) => Cid::from_bytes(frame.get(1..).unwrap_or_default()).map(Self::Absent),
            _ => Err(Error::new(ErrorKind::Internal, "control.car").because("a piece of a kind that is not known")),
        }
    }
}

/// What is taken of a CAR; the rest of it is its bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Import {
    /// Those that the CAR names, where there are none.
    pub(crate) roots: Vec<String>,
    pub(crate) all: bool,
    pub(crate) whole: bool,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Imported {
    pub(crate) roots: Vec<ImportedRoot>,
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
    /// Blocks that were left out.
    pub(crate) passed: u64,
    /// Blocks that are neither in the file nor in the store.
    pub(crate) missing: u64,
    /// The first of those.
    pub(crate) missing_first: Vec<String>,
    /// Blocks that are not what their codec says.
    pub(crate) unreadable: u64,
}

/// A root, and whether everything below it is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImportedRoot {
    pub(crate) cid: String,
    pub(crate) whole: bool,
}

/// Writes what a path leads to, and tells what was left out.
pub(crate) async fn export(namespace: &dyn Namespace, args: &args::CarExport, output: Output) -> Result<()> {
    if args.output.is_none() && io::stdout().is_terminal() {
        let why = "a CAR is no text: name a file with -o, or send it to another program";
        return Err(Error::new(ErrorKind::InvalidArgument, "car.export").because(why));
    }
    let path = match args.path.to_str().and_then(|text| text.parse::<Cid>().ok()) {
        Some(cid) => QfsPath::content(namespace.default_write().await?, &cid),
        None => super::path(&args.path)?,
    };
    let root = super::root_of(namespace, &path, "car.export").await?;
    let file = args.output.as_deref();
    if file.is_some_and(|file| file.symlink_metadata().is_ok()) && !args.force {
        let file = file.unwrap_or(Path::new("-"));
        return Err(Error::new(ErrorKind::Exists, "car.export").at(file.display()).because("overwrite it with -f"));
    }
    let bytes_asked = args.bytes.map(|bytes| bytes.to_string());
    let options = Export { scope: args.scope, bytes: bytes_asked, duplicates: args.duplicates, partial: args.partial };
    let mut pieces = namespace.car_export(path.prefix, &root, &options);
    // The first before the file is made: what cannot be exported at all leaves nothing.
    let mut next = pieces.try_next().await?;
    let mut part = file.map(Part::create).transpose()?;
    let progress = output.progress(None);
    let (mut len, mut absent) = (0, 0_u64);
    while let Some(piece) = next {
        match piece {
            Piece::Bytes(piece) => {
                match (&mut part, file) {
                    (Some(part), Some(file)) => part.file.write_all(&piece).map_err(|error| host(file, error))?,
                    _ => crate::output::raw(&piece)?,
                }
                len += piece.len() as u64;
                progress.add_bytes(piece.len() as u64);
            }
            Piece::Absent(cid) => {
                absent += 1;
                output.notice(&format!("left out {cid}: it is not here"));
            }
        }
        // Where nothing is waited for, this is where the command can be interrupted.
        tokio::task::yield_now().await;
        next = pieces.try_next().await?;
    }
    drop(pieces);
    if absent > 0 {
        output.notice(&format!("blocks that are not here and were left out: {}", count(absent)));
    }
    let (Some(part), Some(file)) = (part, file) else { return Ok(()) };
    part.file.sync_all().map_err(|error| host(file, error))?;
    part.finish(None)?;
    let text = file.as_os_str().as_bytes();
    let value =
        json!({ "file": String::from_utf8_lossy(text), "root": root.to_string(), "bytes": len, "absent": absent });
    output.result(text, &value)
}

/// Takes CAR files in, one after the other, and prints the paths of their roots.
pub(crate) async fn import(
    namespace: &dyn Namespace,
    mount: Prefix,
    args: &args::CarImport,
    output: Output,
) -> Result<()> {
    for file in &args.files {
        let source = Taken::open(file, args, output).await.map_err(of("car.import", file))?;
        let options =
            Import { roots: args.roots.iter().map(Cid::to_string).collect(), all: args.all, whole: args.whole };
        let failed = source.failed.clone();
        let imported = namespace.car_import(mount, source.input, &options).await;
        // What is wrong with the file is told by who reads it, not by who waits for its bytes.
        let failed = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let imported = imported.map_err(|error| of("car.import", file)(failed.unwrap_or(error)))?;
        drop(source.progress);
        let mut told = Vec::new();
        for root in &imported.roots {
            let cid: Cid = root.cid.parse()?;
            let path = QfsPath::content(mount, &cid).to_string();
            if !root.whole {
                output.notice(&format!("{path} is not whole and was not pinned: it stays until garbage is collected"));
            }
            told.push(json!({ "cid": root.cid, "path": path, "pinned": root.whole }));
            if !output.json {
                output.result(path.as_bytes(), &())?;
            }
        }
        if output.json {
            let Imported { blocks, bytes, passed, missing, missing_first, unreadable, .. } = &imported;
            let value = json!({
                "file": file.to_string_lossy(), "roots": told, "blocks": blocks, "bytes": bytes, "passed": passed,
                "missing": missing, "missing_first": missing_first, "unreadable": unreadable,
            });
            output.result(b"", &value)?;
        }
        tell(&imported, output);
    }
    Ok(())
}

fn tell(imported: &Imported, output: Output) {
    let Imported { blocks, bytes: len, passed, missing, missing_first, unreadable, .. } = imported;
    if output.json {
        return;
    }
    let passed = if *passed == 0 { String::new() } else { format!(", {} left out", count(*passed)) };
    output.notice(&format!("{} blocks, {}{passed}", count(*blocks), bytes(*len)));
    for cid in missing_first {
        output.notice(&format!("missing {cid}"));
    }
    if *missing > 0 {
        output.notice(&format!("missing blocks: {}", count(*missing)));
    }
    if *unreadable > 0 {
        output.notice(&format!("blocks that are not what their codec says: {}", count(*unreadable)));
    }
}

/// Names the file that an error is of, beside the block that it may be about.
fn of(op: &'static str, file: &Path) -> impl Fn(Error) -> Error {
    move |error| match error.path() {
        Some(path) if Path::new(path) != file => {
            Error::new(error.kind(), op).at(file.display()).because(format!("{error:#}"))
        }
        _ => error.at(file.display()),
    }
}

/// A CAR that is being sent.
struct Taken {
    input: Input,
    /// Shown until it is dropped.
    progress: Progress,
    /// Why no more of it came.
    failed: Arc<Mutex<Option<Error>>>,
}

impl Taken {
    async fn open(path: &Path, args: &args::CarImport, output: Output) -> Result<Self> {
        let failed: Arc<Mutex<Option<Error>>> = Arc::default();
        let (pieces, progress): (BoxStream<'static, Result<Bytes>>, _) = match open(path)? {
            Some((file, Some(len))) if !args.all => {
                // The index first: it is read twice, and seen once.
                let unseen = Output { quiet: true, ..output }.progress(None);
                let archive = Arc::new(Archive::open(Arc::new(HostFile { file, len, progress: unseen })).await?);
                let roots = if args.roots.is_empty() { archive.roots() } else { &args.roots }.to_vec();
                (archive.in_order(&roots), output.progress(Some(len)))
            }
            opened => {
                let (reader, len) = reader(opened);
                let failed = |error| Error::new(ErrorKind::Io, "car.import").because(error);
                (ReaderStream::with_capacity(reader, READ_LEN).map_err(failed).boxed(), output.progress(len))
            }
        };
        let (counted, slot) = (progress.clone(), failed.clone());
        let input = pieces.map(move |piece| match piece {
            Ok(piece) => {
                counted.add_bytes(piece.len() as u64);
                Ok(piece)
            }
            Err(error) => {
                let text = format!("{error:#}");
                slot.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                Err(io::Error::other(text))
            }
        });
        Ok(Self { input: Input::Stream(input.boxed()), progress, failed })
    }
}

/// A file, and how long it is where it is a regular one; none for standard input.
type Opened = Option<(File, Option<u64>)>;

fn open(path: &Path) -> Result<Opened> {
    if path == Path::new("-") {
        return Ok(None);
    }
    let file = File::open(path).map_err(|error| host(path, error))?;
    let metadata = file.metadata().map_err(|error| host(path, error))?;
    if metadata.is_dir() {
        return Err(Error::new(ErrorKind::IsDir, "car").at(path.display()).because("name a CAR file"));
    }
    Ok(Some((file, metadata.is_file().then_some(metadata.len()))))
}

/// The same from its beginning.
fn reader(opened: Opened) -> (Box<dyn AsyncRead + Send + Unpin>, Option<u64>) {
    match opened {
        Some((file, len)) => (Box::new(tokio::fs::File::from_std(file)), len),
        None => (Box::new(tokio::io::stdin()), None),
    }
}

/// Prints the roots and the blocks of a file.
pub(crate) async fn ls(path: &Path, output: Output) -> Result<()> {
    let listed = async {
        let (source, _) = reader(open(path)?);
        let mut reader = Reader::open(source).await?;
        for root in reader.roots() {
            output.result(format!("root {root}").as_bytes(), &json!({ "root": root.to_string() }))?;
        }
        while let Some(section) = reader.next().await? {
            let (cid, len, offset) = (section.cid.to_string(), section.block.len(), section.offset);
            let value = json!({ "cid": cid, "codec": section.cid.codec_code(), "bytes": len, "offset": offset });
            output.result(format!("{cid} {len} {offset}").as_bytes(), &value)?;
        }
        Ok(())
    };
    listed.await.map_err(of("car.ls", path))
}

/// Hashes every block of a file, and tells what is not in it.
///
/// # Errors
/// `Corrupt` at the first section that is wrong; `NotFound` where a root is not in the file, or with `whole` anything.
pub(crate) async fn verify(path: &Path, whole: bool, output: Output) -> Result<()> {
    let (source, len) = reader(open(path)?);
    let progress = output.progress(len);
    let shown = progress.clone();
    let tell: OnImportProgress = Arc::new(move |at: ImportProgress| {
        shown.set_bytes(at.offset);
        if at.block_count.is_multiple_of(256) {
            shown.say(format!("{} blocks", count(at.block_count)));
        }
    });
    let report = car::check(source, Some(&tell)).await.map_err(of("car.verify", path))?;
    drop((progress, tell));
    let absent: Vec<String> =
        report.roots.iter().filter(|(_, there)| !there).map(|(root, _)| root.to_string()).collect();
    let missing: Vec<String> = report.missing.iter().map(Cid::to_string).collect();
    let value = json!({
        "version": report.version, "roots": report.roots.len(), "roots_absent": absent, "blocks": report.block_count,
        "bytes": report.len, "duplicates": report.duplicate_count, "missing": report.missing_count,
        "missing_first": missing, "unreadable": report.unreadable_count,
    });
    if !output.json {
        for cid in &missing {
            output.notice(&format!("missing {cid}"));
        }
        if report.unreadable_count > 0 {
            output.notice(&format!("blocks that are not what their codec says: {}", count(report.unreadable_count)));
        }
    }
    let (blocks, len) = (count(report.block_count), bytes(report.len));
    let lacks = match report.missing_count {
        0 => "nothing that is linked is missing".to_owned(),
        some => format!("linked and not in it: {}", count(some)),
    };
    output.result(format!("{blocks} blocks, {len}: all as their CIDs say; {lacks}").as_bytes(), &value)?;
    let not_found = |why: String| Err(Error::new(ErrorKind::NotFound, "car.verify").at(path.display()).because(why));
    match absent.first() {
        Some(root) => not_found(format!("the root {root} is not in it")),
        None if whole && report.missing_count > 0 => not_found(lacks),
        None if whole && report.unreadable_count > 0 => {
            not_found(format!("what {} blocks lead to cannot be read", count(report.unreadable_count)))
        }
        None => Ok(()),
    }
}

/// The export itself, by the owner of the blocks.
pub(crate) fn export_of<'a>(
    instance: &'a Instance,
    mount: Prefix,
    root: &'a Cid,
    options: &'a Export,
) -> BoxStream<'a, Result<Piece>> {
    let begun = async move {
        let absent: Arc<Mutex<Vec<Cid>>> = Arc::default();
        let told = absent.clone();
        let skip = move |cid: &Cid| told.lock().unwrap_or_else(PoisonError::into_inner).push(*cid);
        let options = ExportOptions {
            scope: options.scope.into(),
            bytes: options.bytes.as_deref().map(str::parse::<EntityBytes>).transpose()?,
            duplicates: options.duplicates,
            absent: if options.partial { Absent::Skipped(Arc::new(skip)) } else { Absent::Refused },
            // Who asks is the owner of the blocks.
            limits: ExportLimits::NONE,
        };
        let pieces = car::export(instance.by_content(mount)?.dag(), root, &[], &options).await?;
        // What was met on the way to a piece is told before it, and what was met last at the end.
        let pieces = pieces.map_ok(Some).chain(stream::iter([Ok(None)])).map_ok(move |piece| {
            let left_out = std::mem::take(&mut *absent.lock().unwrap_or_else(PoisonError::into_inner));
            let pieces = left_out.into_iter().map(Piece::Absent).chain(piece.map(Piece::Bytes));
            stream::iter(pieces.map(Ok).collect::<Vec<_>>())
        });
        Ok::<_, Error>(pieces.try_flatten())
    };
    stream::once(begun).try_flatten().boxed()
}

/// The import itself, by the owner of the blocks, who pins the roots that are whole: between another's call and his own a
/// collection could take what is below one.
pub(crate) async fn import_of(instance: &Instance, mount: Prefix, input: Input, options: &Import) -> Result<Imported> {
    let cas = instance.by_content(mount)?;
    let options = ImportOptions {
        roots: options.roots.iter().map(|root| root.parse()).collect::<Result<_>>()?,
        all: options.all,
        whole: options.whole,
        on_progress: None,
    };
    let stream = match input {
        Input::File(file) => file.stream(),
        Input::Stream(stream) => stream,
    };
    let _session = cas.dag().begin_write();
    let report = car::import(cas.dag(), StreamReader::new(stream), &options).await?;
    for (root, _) in report.roots.iter().filter(|(_, is_whole)| *is_whole) {
        cas.pin(root).await?;
    }
    let roots = report.roots.iter().map(|(cid, whole)| ImportedRoot { cid: cid.to_string(), whole: *whole });
    Ok(Imported {
        roots: roots.collect(),
        blocks: report.block_count,
        bytes: report.len,
        passed: report.passed_count,
        missing: report.missing_count,
        missing_first: report.missing.iter().map(Cid::to_string).collect(),
        unreadable: report.unreadable_count,
    })
}

/// Carries out `car import`, by whoever owns the data directory.
pub(crate) async fn run_import(config: Config, in_use: &InUse, args: &CarImport, output: Output) -> Result<()> {
    let served = in_use.open(config).await?;
    let mount = super::mount_or_default(&*served, args.into.as_deref()).await?;
    let target = QfsPath { prefix: mount, parts: Vec::new() };
    mount_to_write("car.import", &served, &Config::parse(&served.config().await?)?, &target)?;
    // What was imported before one failed stays.
    let done = import(&*served, mount, args, output).await;
    served.close().await?;
    done
}
