//! `flist`: looks into one flist, which is a file like any other: no server and no data directory takes part.

mod change;
mod commit;
mod import;
mod make;
mod signing;
mod walk;

use std::{ffi::OsStr, fmt::Write as _, os::unix::ffi::OsStrExt as _, path::Path, process::ExitCode, sync::Arc};

pub(crate) use self::{
    change::merge,
    commit::commit,
    import::import,
    make::{create, export, needs_namespace},
    signing::sign,
};
use muxfs::{Error, ErrorKind, FileKind, Name, QfsPath, Result};
use muxfs_flist::{Chunks, ChunksOptions, DEPTH_MAX, Entry, Flist, Inode, Sources};
use serde_json::{Value, json};

use super::list::{mode, shown, utc};
use crate::{
    args::{self, FlistImport, FlistPath, FlistSources},
    config::{Config, Mount},
    exit_code,
    flist::with_key,
    namespace::{Stat, seconds, to_text},
    opened::{InUse, Opened, mount_to_write},
    output::{self, Output, count, told},
    owner,
};

const OP: &str = "flist";

/// Carries out one of the commands.
pub(crate) async fn flist(command: &args::Flist, output: Output) -> Result<ExitCode> {
    match command {
        args::Flist::Ls { path, long, recursive } => ls(path, *long, *recursive, output)?,
        args::Flist::Stat { path } => stat(path, output)?,
        args::Flist::Metadata { set, remove, routes, flist } => {
            if !(set.is_empty() && remove.is_empty() && routes.is_empty()) {
                change::metadata(flist, set, remove, routes)?;
            }
            metadata(flist, output)?;
        }
        args::Flist::Rm { flist, paths } => change::rm(flist, paths)?,
        args::Flist::Chmod { flist, mode, paths } => change::chmod(flist, *mode, paths)?,
        args::Flist::Merge { flists, output: target } => merge(flists, target)?,
        args::Flist::Diff { before, after } => change::diff(before, after, output)?,
        args::Flist::Verify { flist, signers } => signing::verify(flist, signers, output)?,
        args::Flist::Sign { .. }
        | args::Flist::Import(_)
        | args::Flist::Create { .. }
        | args::Flist::Export { .. }
        | args::Flist::Commit { .. }
        | args::Flist::Add { .. } => {
            return Err(Error::new(ErrorKind::Internal, OP).because("it needs a namespace or a data directory, or may"));
        }
        args::Flist::Cat { sources, flist, path } => cat(flist, path, sources, output).await?,
        args::Flist::Check { sources, chunks, flist } => {
            return check(flist, chunks.then_some(sources), output).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path) -> Result<Flist> {
    Flist::open(path, &std::env::temp_dir())
}

/// What a path in an flist leads to; no symlink is followed. With it its name, that of the root `/`.
fn find(flist: &Flist, path: &OsStr) -> Result<(Vec<u8>, Inode)> {
    let (mut name, mut at) = (b"/".to_vec(), flist.root()?);
    for part in path.as_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        let found = flist.dir(&at).map_err(|error| error.at(path.display()))?;
        let part = Name::new(part)?;
        let found = found.find(&part).map(|(_, entry)| entry.inode.clone());
        at = found.ok_or_else(|| Error::new(ErrorKind::NotFound, OP).at(path.display()))?;
        name = part.as_bytes().to_vec();
    }
    Ok((name, at))
}

/// A node as `ls` and `stat` of the namespace tell of one.
fn stat_of(name: &Name, inode: &Inode) -> Stat {
    Stat {
        name: name.clone(),
        kind: inode.kind.into(),
        size: inode.size,
        mode: inode.mode,
        uid: Some(inode.uid),
        gid: Some(inode.gid),
        mtime: Some(seconds(inode.mtime)),
        cid: None,
        target: (inode.kind == FileKind::Symlink).then(|| inode.target.clone()),
        below: None,
        rdev: matches!(inode.kind, FileKind::CharDevice | FileKind::BlockDevice)
            .then_some((inode.rdev.major, inode.rdev.minor)),
    }
}

/// The same as JSON, with its name or its path, which may be that of the root.
fn value_of(name: &[u8], stat: &Stat) -> Result<Value> {
    let value = serde_json::to_value(stat);
    let mut value = value.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?;
    value["name"] = to_text(name).into();
    Ok(value)
}

/// What is in a directory, so many directories below that where a walk began.
fn dir_at(flist: &Flist, dir: &Inode, depth: usize) -> Result<Vec<Entry>> {
    if depth > DEPTH_MAX {
        let why = format!("it is more than {DEPTH_MAX} directories deep");
        return Err(Error::new(ErrorKind::Corrupt, OP).because(why));
    }
    Ok(flist.dir(dir)?.entries)
}

/// A directory that a walk is yet to look into. Its path is put together then: those of all that wait can be much longer than the
/// flist.
struct Below {
    /// How long the path is of the directory that it is in, with a slash behind; that of the first has it as it is.
    above: usize,
    name: Option<Name>,
    inode: Inode,
    depth: usize,
}

/// Makes of the path of a walk that of a directory, with a slash behind.
fn enter(path: &mut Vec<u8>, above: usize, name: Option<&Name>) {
    path.truncate(above);
    if let Some(name) = name {
        path.extend_from_slice(name.as_bytes());
        path.push(b'/');
    }
}

fn ls(path: &FlistPath, long: bool, recursive: bool, output: Output) -> Result<()> {
    let flist = open(&path.flist)?;
    let (name, inode) = find(&flist, &path.path)?;
    if inode.kind != FileKind::Dir {
        return line(&name, &inode, long, output);
    }
    let mut path = Vec::new();
    let mut dirs = vec![Below { above: 0, name: None, inode, depth: 0 }];
    while let Some(Below { above, name, inode: dir, depth }) = dirs.pop() {
        enter(&mut path, above, name.as_ref());
        let mut entries = dir_at(&flist, &dir, depth).map_err(|error| error.at(path.escape_ascii()))?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut below = Vec::new();
        for Entry { name, inode } in entries {
            line(&[&path[..], name.as_bytes()].concat(), &inode, long, output)?;
            if recursive && inode.kind == FileKind::Dir {
                below.push(Below { above: path.len(), name: Some(name), inode, depth: depth + 1 });
            }
        }
        // The first of them is the next.
        dirs.extend(below.into_iter().rev());
    }
    Ok(())
}

/// Prints a node on one line.
fn line(name: &[u8], inode: &Inode, long: bool, output: Output) -> Result<()> {
    let stat = stat_of(&any_name()?, inode);
    let mut line = Vec::new();
    if long {
        let time = stat.mtime.map_or_else(|| "-".into(), utc);
        let size = stat.rdev.map_or_else(|| inode.size.to_string(), |(major, minor)| format!("{major},{minor}"));
        let head = format!("{} {:>5} {:>5} {size:>12} {time} ", mode(&stat), inode.uid, inode.gid);
        line.extend_from_slice(head.as_bytes());
    }
    line.extend_from_slice(&shown(name));
    if let (true, Some(target)) = (long, &stat.target) {
        line.extend_from_slice(b" -> ");
        line.extend_from_slice(&shown(target));
    }
    output.result(&line, &value_of(name, &stat)?)
}

/// A [`Stat`] has a name, which is replaced by what may be a path.
fn any_name() -> Result<Name> {
    Name::new(b"-")
}

fn stat(path: &FlistPath, output: Output) -> Result<()> {
    let flist = open(&path.flist)?;
    let (name, inode) = find(&flist, &path.path)?;
    let stat = stat_of(&any_name()?, &inode);
    let mut lines = format!(
        "kind   {:?}\nsize   {}\nmode   {} {:04o}\nowner  {}:{}",
        stat.kind,
        stat.size,
        mode(&stat),
        stat.mode,
        inode.uid,
        inode.gid
    );
    if let Some(mtime) = stat.mtime {
        _ = write!(lines, "\nmtime  {}", utc(mtime));
    }
    if let Some((major, minor)) = stat.rdev {
        _ = write!(lines, "\nrdev   {major},{minor}");
    }
    if let Some(target) = &stat.target {
        _ = write!(lines, "\ntarget {}", String::from_utf8_lossy(&shown(target)));
    }
    output.result(lines.as_bytes(), &value_of(&name, &stat)?)
}

/// Prints the format, the metadata and the routes, one a line; with `--json` all in one value.
fn metadata(path: &Path, output: Output) -> Result<()> {
    let flist = open(path)?;
    // A backend that means no source is shown as it stands, before it is an error.
    let (pairs, told) = (flist.metadata()?, flist.routes());
    let routes = told.as_deref().unwrap_or_default();
    let mut lines = format!("format {}", flist.format());
    for (key, value) in &pairs {
        let [key, value] = [key, value].map(|text| String::from_utf8_lossy(&shown_lines(text)).into_owned());
        _ = write!(lines, "\n{key}: {value}");
    }
    for route in routes {
        let url = String::from_utf8_lossy(&shown(route.url.as_bytes())).into_owned();
        _ = write!(lines, "\nroute {:02x}-{:02x} {url}", route.first, route.last);
    }
    let value = json!({
        "format": flist.format().to_string(),
        "metadata": pairs.iter().map(|(key, value)| json!([key, value])).collect::<Vec<_>>(),
        "routes": routes
            .iter()
            .map(|route| json!({ "first": route.first, "last": route.last, "url": route.url }))
            .collect::<Vec<_>>(),
    });
    output.result(lines.as_bytes(), &value)?;
    told.map(drop)
}

/// Text of several lines without what could drive a terminal.
fn shown_lines(text: &str) -> Vec<u8> {
    let keep = |byte: u8| byte == b'\n' || byte == b'\t' || !byte.is_ascii_control();
    text.bytes().map(|byte| if keep(byte) { byte } else { b'?' }).collect()
}

async fn chunks_of(flist: &Flist, sources: &FlistSources) -> Result<(Chunks, Arc<Sources>)> {
    let options = ChunksOptions { sources: with_key(&sources.sources), follow: sources.follow, kept: None };
    let chunks = Chunks::open(options).await?;
    let sources = chunks.sources_of(flist)?;
    Ok((chunks, sources))
}

async fn cat(path: &Path, file: &OsStr, sources: &FlistSources, output: Output) -> Result<()> {
    let flist = open(path)?;
    let (_, inode) = find(&flist, file)?;
    match inode.kind {
        FileKind::File => {}
        FileKind::Dir => return Err(Error::new(ErrorKind::IsDir, OP).at(file.display())),
        _ => {
            let why = "it is no file";
            return Err(Error::new(ErrorKind::InvalidArgument, OP).at(file.display()).because(why));
        }
    }
    let (chunks, sources) = chunks_of(&flist, sources).await?;
    let progress = output.progress(Some(inode.size));
    let mut index = 0;
    while let Some(bytes) = chunks.read(&sources, &flist, &inode, index).await? {
        output::raw(&bytes)?;
        progress.add_bytes(bytes.len() as u64);
        index += 1;
    }
    Ok(())
}

/// What a check found.
#[derive(Debug, Default)]
struct Found {
    nodes: u64,
    bytes: u64,
    worst: Option<ErrorKind>,
    wrong: u64,
}

impl Found {
    /// Tells of something that is wrong.
    fn tell(&mut self, path: &[u8], error: &Error, output: Output) -> Result<()> {
        self.wrong += 1;
        let kind = match error.kind() {
            // No source has it: it is missing.
            ErrorKind::Io | ErrorKind::TooLarge => ErrorKind::Corrupt,
            kind => kind,
        };
        if self.worst != Some(ErrorKind::Corrupt) {
            self.worst = Some(kind);
        }
        let text = String::from_utf8_lossy(&shown(path)).into_owned();
        let value = json!({ "path": to_text(path), "error": format!("{error:#}") });
        output.result(format!("{text}: {error:#}").as_bytes(), &value)
    }
}

async fn check(path: &Path, sources: Option<&FlistSources>, output: Output) -> Result<ExitCode> {
    let flist = open(path)?;
    flist.metadata()?;
    flist.routes()?;
    let reading = match sources {
        Some(sources) => Some(chunks_of(&flist, sources).await?),
        None => None,
    };
    let (mut found, progress) = (Found { nodes: 1, ..Found::default() }, output.progress(None));
    let mut above = b"/".to_vec();
    let mut dirs = vec![Below { above: 1, name: None, inode: flist.root()?, depth: 0 }];
    while let Some(Below { above: len, name, inode: dir, depth }) = dirs.pop() {
        enter(&mut above, len, name.as_ref());
        let entries = match dir_at(&flist, &dir, depth) {
            Ok(entries) => entries,
            Err(error) => {
                found.tell(&above, &error, output)?;
                continue;
            }
        };
        for Entry { name, inode } in entries {
            found.nodes += 1;
            match inode.kind {
                FileKind::Dir => {
                    dirs.push(Below { above: above.len(), name: Some(name), inode, depth: depth + 1 });
                }
                FileKind::File => {
                    let path = || [&above[..], name.as_bytes()].concat();
                    let checked = check_file(&flist, &inode, reading.as_ref()).await;
                    match checked {
                        Ok(()) => found.bytes += inode.size,
                        Err(error) => found.tell(&path(), &error, output)?,
                    }
                    progress.set_bytes(found.bytes);
                }
                _ => {}
            }
        }
    }
    drop(progress);
    if !output.json {
        let chunks = if reading.is_some() { ", every chunk verified" } else { "; chunks were not fetched" };
        told(&format!("{} nodes, {} bytes{chunks}; {} wrong", count(found.nodes), count(found.bytes), found.wrong));
    }
    Ok(found.worst.map_or(ExitCode::SUCCESS, |kind| ExitCode::from(exit_code(kind))))
}

/// Sees to it that a file has its chunks, no fewer and no more.
async fn check_file(flist: &Flist, inode: &Inode, reading: Option<&(Chunks, Arc<Sources>)>) -> Result<()> {
    let (len, _) = flist.chunks(inode.id, 0, 0)?;
    let wanted = inode.size.div_ceil(len);
    // The last that it needs is there, and none behind it.
    let (_, last) = flist.chunks(inode.id, wanted.saturating_sub(1), 2)?;
    if last.len() as u64 != wanted.min(1) {
        let why = format!("it has {} bytes, for which its chunks are too few or too many", inode.size);
        return Err(Error::new(ErrorKind::Corrupt, OP).because(why));
    }
    if let Some((chunks, sources)) = reading {
        let mut index = 0;
        while chunks.read(sources, flist, inode, index).await?.is_some() {
            index += 1;
        }
    }
    Ok(())
}

/// Carries out `flist import`, by whoever owns the data directory.
pub(crate) async fn run_import(config: Config, in_use: &InUse, args: &FlistImport, output: Output) -> Result<()> {
    let target = args.target.as_deref().map(super::path).transpose()?;
    let served = in_use.open(config).await?;
    let target = match target {
        Some(target) => target,
        None => QfsPath { prefix: served.default_write().await?, parts: Vec::new() },
    };
    let config = Config::parse(&served.config().await?)?;
    let mount = mount_to_write("flist.import", &served, &config, &target)?;
    let by_name = owner::names_a_place(&target);
    let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidArgument, "flist.import").at(&target).because(why));
    match mount {
        Some(Mount::Local { .. } | Mount::Flist(_)) => {
            return refuse(
                "an flist is imported into a content-addressed mount; read it below /flist to copy it elsewhere",
            );
        }
        _ if !by_name && !target.parts.is_empty() => return refuse("content goes to the mount, by no name of its own"),
        _ => {}
    }
    // What was imported before one failed stays.
    let done = import(&*served, &args.flist, &args.sources, (&target, by_name), output).await;
    served.close().await?;
    done
}

/// Carries out what makes an flist, of the host or of the namespace.
pub(crate) async fn run_make(config: Config, in_use: &InUse, flist: &args::Flist, output: Output) -> Result<ExitCode> {
    if !needs_namespace(flist) {
        return create::<Opened>(flist, None, output).await;
    }
    let served = Arc::new(in_use.open(config).await?);
    let done = match flist {
        args::Flist::Export { making, path, output: target } => {
            export(&served, &super::path(path)?, (making, target), output).await
        }
        args::Flist::Commit { making, path, output: target } => {
            let config = Config::parse(&served.config().await?)?;
            commit(&served, &config, &super::path(path)?, (making, target), output).await
        }
        flist => create(flist, Some(&served), output).await,
    };
    served.close().await?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_have_a_depth() {
        let flist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/flist/small.fl");
        let flist = open(&flist).expect("opens");
        let root = flist.root().expect("a root");
        assert!(!dir_at(&flist, &root, DEPTH_MAX).expect("as deep as may be").is_empty());
        let error = dir_at(&flist, &root, DEPTH_MAX + 1).expect_err("deeper");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
