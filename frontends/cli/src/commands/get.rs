//! `get`: copies a file or a directory out of the namespace.
//!
//! A file appears under its name only when it is whole. What is written stays below the destination: a symlink that is
//! there already is replaced, never followed.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    pin::pin,
};

use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use muxfs::{Error, ErrorKind, QfsPath, Result, SecretKey};
use serde_json::json;

use super::{put::host, read::pieces};
use crate::{
    instance::env,
    namespace::{Kind, Namespace, Place, Stat},
    output::{Output, Progress, bytes, count},
};

/// So many files come at once: what is far away is waited for once for all of them, not for each.
const TURN_COUNT: usize = 16;
/// A file of more bytes than this takes so many of the turns: by itself it keeps a link busy.
const LARGE_LEN: u64 = 1 << 20;
const LARGE_TURN_COUNT: usize = 4;

/// Where to, and how.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) dest: &'a Path,
    /// Overwrite what is there.
    pub(crate) force: bool,
    /// What the file was sealed with.
    pub(crate) keys: &'a [SecretKey],
    pub(crate) output: Output,
}

struct Copy<'a> {
    namespace: &'a dyn Namespace,
    job: &'a Job<'a>,
    progress: Progress,
}

/// Files that are being copied, while the walk goes on; and what was copied before.
#[derive(Default)]
struct UnderWay<'a> {
    /// Each gives the turns that it took, and how many bytes it has.
    files: FuturesUnordered<BoxFuture<'a, Result<(usize, u64)>>>,
    turns_taken: usize,
    /// Directories and the permissions that they get once all below them is there.
    dirs: Vec<(PathBuf, u32)>,
    copied: Copied,
}

/// Counts what was copied.
#[derive(Debug, Default, Clone, Copy)]
struct Copied {
    files: u64,
    bytes: u64,
    skipped: u64,
}

/// Copies `path` out.
pub(crate) async fn get(namespace: &dyn Namespace, path: &QfsPath, job: &Job<'_>) -> Result<()> {
    let &Job { dest, force, output, .. } = job;
    let stat = namespace.stat(&Place::Path(path.clone())).await?;
    if !job.keys.is_empty() && stat.kind != Kind::File {
        let kind = if stat.kind == Kind::Dir { ErrorKind::IsDir } else { ErrorKind::InvalidArgument };
        return Err(Error::new(kind, "get").at(path).because("only files are sealed: name one"));
    }
    if fs::symlink_metadata(dest).is_ok() && !force {
        return Err(Error::new(ErrorKind::Exists, "get").at(dest.display()).because("overwrite it with -f"));
    }
    let progress = output.progress((stat.kind == Kind::File).then_some(stat.size));
    let copy = Copy { namespace, job, progress };
    let mut under_way = UnderWay::default();
    copy.node(path.clone(), stat, dest.into(), &mut under_way).await?;
    under_way.wait_below(&copy.progress, 0).await?;
    for (dir, mode) in &under_way.dirs {
        set_mode(dir, *mode)?;
    }
    let copied = under_way.copied;
    let skipped = if copied.skipped == 0 { String::new() } else { format!(", {} skipped", count(copied.skipped)) };
    if !output.json {
        output.notice(&format!("{} files, {}{skipped}", count(copied.files), bytes(copied.bytes)));
    }
    let text = dest.as_os_str().as_bytes();
    let value = json!({ "dest": String::from_utf8_lossy(text), "files": copied.files, "bytes": copied.bytes, "skipped": copied.skipped });
    output.result(text, &value)
}

impl UnderWay<'_> {
    /// Waits for something, and goes on with the files meanwhile.
    async fn beside<T>(&mut self, progress: &Progress, other: impl Future<Output = T>) -> Result<T> {
        let mut other = pin!(other);
        loop {
            tokio::select! {
                Some(done) = self.files.next() => self.done(progress, done?),
                value = &mut other => return Ok(value),
            }
        }
    }

    /// Waits until at most so many turns are taken.
    async fn wait_below(&mut self, progress: &Progress, turns_max: usize) -> Result<()> {
        while self.turns_taken > turns_max
            && let Some(done) = self.files.next().await
        {
            self.done(progress, done?);
        }
        Ok(())
    }

    fn done(&mut self, progress: &Progress, (turns, len): (usize, u64)) {
        self.turns_taken -= turns;
        self.copied.files += 1;
        self.copied.bytes += len;
        progress.say(format!("{} files", count(self.copied.files)));
    }
}

impl<'s> Copy<'s> {
    fn node<'a>(
        &'s self,
        path: QfsPath,
        stat: Stat,
        dest: PathBuf,
        under_way: &'a mut UnderWay<'s>,
    ) -> BoxFuture<'a, Result<()>>
    where
        's: 'a,
    {
        Box::pin(async move {
            match stat.kind {
                Kind::Dir => {
                    self.make_dir(&dest)?;
                    let place = Place::Path(path.clone());
                    let mut entries = self.namespace.list(&place);
                    while let Some(entry) = under_way.beside(&self.progress, entries.try_next()).await?? {
                        let dest = dest.join(std::ffi::OsStr::from_bytes(entry.name.as_bytes()));
                        let mut path = path.clone();
                        path.parts.push(entry.name.clone());
                        self.node(path, entry, dest, under_way).await?;
                    }
                    drop(entries);
                    under_way.dirs.push((dest, stat.mode));
                    Ok(())
                }
                Kind::Symlink => {
                    let target = stat.target.unwrap_or_default();
                    self.clear(&dest)?;
                    std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&target), &dest)
                        .map_err(|error| host(&dest, error))
                }
                Kind::File => {
                    let turns = if stat.size > LARGE_LEN { LARGE_TURN_COUNT } else { 1 };
                    under_way.wait_below(&self.progress, TURN_COUNT - turns).await?;
                    under_way.turns_taken += turns;
                    under_way.files.push(Box::pin(async move {
                        let len = self.file(&path, stat.mode, &dest).await?;
                        Ok((turns, len))
                    }));
                    Ok(())
                }
                Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                    under_way.copied.skipped += 1;
                    self.job.output.notice(&format!("skipped {path}: not a file, directory or symlink"));
                    Ok(())
                }
            }
        })
    }

    fn make_dir(&self, dest: &Path) -> Result<()> {
        match fs::symlink_metadata(dest) {
            Ok(there) if there.is_dir() && self.job.force => Ok(()),
            Ok(_) => {
                self.clear(dest)?;
                create_dir(dest)
            }
            Err(_) => create_dir(dest),
        }
    }

    /// Makes room for what is not a directory.
    fn clear(&self, dest: &Path) -> Result<()> {
        match fs::symlink_metadata(dest) {
            Ok(there) if !self.job.force => {
                let what = if there.is_dir() { "a directory is there" } else { "overwrite it with -f" };
                Err(Error::new(ErrorKind::Exists, "get").at(dest.display()).because(what))
            }
            Ok(there) if there.is_dir() => Err(Error::new(ErrorKind::IsDir, "get")
                .at(dest.display())
                .because("a directory is there: remove it, it is not overwritten by something else")),
            Ok(_) => fs::remove_file(dest).map_err(|error| host(dest, error)),
            Err(_) => Ok(()),
        }
    }

    /// Writes a file beside its place and moves it there when it is whole.
    async fn file(&self, path: &QfsPath, mode: u32, dest: &Path) -> Result<u64> {
        if fs::symlink_metadata(dest).is_ok_and(|there| there.is_dir()) {
            return Err(Error::new(ErrorKind::IsDir, "get").at(dest.display()).because("a directory is there"));
        }
        let mut part = Part::create(dest)?;
        let mut len = 0;
        let mut pieces = pieces(self.namespace, path, self.job.keys);
        while let Some(piece) = pieces.try_next().await? {
            part.file.write_all(&piece).map_err(|error| host(dest, error))?;
            len += piece.len() as u64;
            self.progress.add_bytes(piece.len() as u64);
            // Where nothing is waited for, this is where the command can be interrupted.
            tokio::task::yield_now().await;
        }
        part.finish(Some(mode))?;
        Ok(len)
    }
}

/// A file that is not whole yet, beside its place. Dropped before it is finished, it is removed. Its errors name the
/// place, which is what the user knows of.
pub(super) struct Part<'a> {
    dest: &'a Path,
    path: PathBuf,
    pub(super) file: File,
    is_finished: bool,
}

impl<'a> Part<'a> {
    pub(super) fn create(dest: &'a Path) -> Result<Self> {
        let path = part_name(dest);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).open(&path).map_err(|error| host(dest, error))?;
        Ok(Self { dest, path, file, is_finished: false })
    }

    /// Puts it in its place, with these permissions; without, with those that the process's mask gives a new file.
    pub(super) fn finish(mut self, mode: Option<u32>) -> Result<()> {
        if let Some(mode) = mode {
            // Setuid, setgid and sticky bits of content from elsewhere are not taken over.
            let mode = fs::Permissions::from_mode(mode & 0o777);
            self.file.set_permissions(mode).map_err(|error| host(self.dest, error))?;
        }
        fs::rename(&self.path, self.dest).map_err(|error| host(self.dest, error))?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            // Best effort: the error that led here is the one to tell.
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Of this copy alone: others may copy to the same directory, be it from another machine. Short enough beside any name.
fn part_name(dest: &Path) -> PathBuf {
    dest.with_file_name(format!(".muxfs-get-{}", env().random_id()))
}

/// Makes a directory that nobody else looks into before it has its permissions.
fn create_dir(dest: &Path) -> Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dest).map_err(|error| host(dest, error))
}

fn set_mode(dest: &Path, mode: u32) -> Result<()> {
    // Setuid, setgid and sticky bits of content from elsewhere are not taken over.
    fs::set_permissions(dest, fs::Permissions::from_mode(mode & 0o777)).map_err(|error| host(dest, error))
}
