//! `get`: copies a file or a directory out of the namespace.
//!
//! A file appears under its name only when it is whole. What is written stays below the destination: a symlink that is
//! there already is replaced, never followed.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use futures_util::{TryStreamExt as _, future::BoxFuture};
use muxfs::{Error, ErrorKind, QfsPath, Result, SecretKey};
use serde_json::json;

use super::{put::host, read::pieces};
use crate::{
    namespace::{Kind, Namespace, Place, Stat},
    output::{Output, Progress, bytes, count},
};

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
    let mut copied = Copied::default();
    copy.node(path.clone(), stat, dest.into(), &mut copied).await?;
    let skipped = if copied.skipped == 0 { String::new() } else { format!(", {} skipped", count(copied.skipped)) };
    if !output.json {
        output.notice(&format!("{} files, {}{skipped}", count(copied.files), bytes(copied.bytes)));
    }
    let text = dest.as_os_str().as_bytes();
    let value = json!({ "dest": String::from_utf8_lossy(text), "files": copied.files, "bytes": copied.bytes, "skipped": copied.skipped });
    output.result(text, &value)
}

impl Copy<'_> {
    fn node<'a>(
        &'a self,
        path: QfsPath,
        stat: Stat,
        dest: PathBuf,
        copied: &'a mut Copied,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match stat.kind {
                Kind::Dir => {
                    self.make_dir(&dest)?;
                    let place = Place::Path(path.clone());
                    let mut entries = self.namespace.list(&place);
                    while let Some(entry) = entries.try_next().await? {
                        let dest = dest.join(std::ffi::OsStr::from_bytes(entry.name.as_bytes()));
                        let mut path = path.clone();
                        path.parts.push(entry.name.clone());
                        self.node(path, entry, dest, copied).await?;
                    }
                    drop(entries);
                    set_mode(&dest, stat.mode)
                }
                Kind::Symlink => {
                    let target = stat.target.unwrap_or_default();
                    self.clear(&dest)?;
                    std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&target), &dest)
                        .map_err(|error| host(&dest, error))
                }
                Kind::File => {
                    copied.bytes += self.file(&path, stat.mode, &dest).await?;
                    copied.files += 1;
                    self.progress.say(format!("{} files", count(copied.files)));
                    Ok(())
                }
                Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                    copied.skipped += 1;
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
                fs::create_dir(dest).map_err(|error| host(dest, error))
            }
            Err(_) => fs::create_dir(dest).map_err(|error| host(dest, error)),
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
        // What an earlier, killed get of this process number left.
        fs::remove_file(&path).ok();
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

fn part_name(dest: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(format!(".muxfs-get-{}-", std::process::id()));
    // Short enough for any name: what makes it unique is the process.
    let tail = dest.file_name().unwrap_or_default().as_bytes();
    name.push(std::ffi::OsStr::from_bytes(tail.get(..200).unwrap_or(tail)));
    dest.with_file_name(name)
}

fn set_mode(dest: &Path, mode: u32) -> Result<()> {
    // Setuid, setgid and sticky bits of content from elsewhere are not taken over.
    fs::set_permissions(dest, fs::Permissions::from_mode(mode & 0o777)).map_err(|error| host(dest, error))
}
