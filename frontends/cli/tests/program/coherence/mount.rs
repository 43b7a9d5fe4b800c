//! A program that uses a FUSE mount: what it is told may come out of the kernel's caches.

use std::{
    fs::{self, File, Permissions},
    io::{Error, ErrorKind, Result},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use muxfs::testing::linear::Role::{Change, Copy, Read};
use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};

use super::{
    Client, Directory, Log, Span,
    model::{Found, NAMES, Name, Op},
};

const XATTR: &str = "user.note";

pub(super) struct MountClient {
    who: String,
    mounted: PathBuf,
    /// The part of a path that is mounted.
    prefix: &'static str,
}

impl MountClient {
    pub(super) fn new(who: &str, mounted: &Path, prefix: &'static str) -> Self {
        Self { who: who.into(), mounted: mounted.into(), prefix }
    }

    fn in_dir<'a>(&'a self, dir: &Directory, log: &'a mut Log) -> Work<'a> {
        let below = dir.path.strip_prefix(self.prefix).expect("it reaches it").trim_start_matches('/');
        Work { dir: self.mounted.join(below), who: &self.who, log }
    }
}

impl Client for MountClient {
    fn who(&self) -> &str {
        &self.who
    }

    fn reaches(&self, dir: &Directory) -> bool {
        dir.path.starts_with(self.prefix)
    }

    fn work(&mut self, dir: &Directory, log: &mut Log) {
        let mut work = self.in_dir(dir, log);
        for _ in 0..work.log.count {
            work.step(dir.has_links);
        }
    }

    fn look(&mut self, dir: &Directory, log: &mut Log) {
        let mut work = self.in_dir(dir, log);
        for name in 0..NAMES.len() {
            work.stat(name);
            work.open(name, false);
        }
        work.list();
    }
}

struct Work<'a> {
    dir: PathBuf,
    who: &'a str,
    log: &'a mut Log,
}

fn absent<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

impl Work<'_> {
    fn path(&self, name: Name) -> PathBuf {
        self.dir.join(NAMES[name])
    }

    fn step(&mut self, has_links: bool) {
        let name = self.log.name();
        match self.log.dice.roll(16) {
            0 | 1 => self.stat(name),
            2..=4 => self.open(name, false),
            5..=8 => self.open(name, true),
            9 => self.list(),
            10 | 11 => self.create(name),
            12 => self.remove(name),
            _ if has_links => self.link(name),
            13 => self.save(name),
            _ => self.rename(name),
        }
    }

    fn stat(&mut self, name: Name) {
        let span = self.log.begin();
        let attr = absent(fs::symlink_metadata(self.path(name)));
        let span = self.log.end(span);
        let Some(attr) = attr else { return self.log.told(span, Copy, Op::Absent(name)) };
        let found = self.log.found(span, Copy, name);
        self.attributes(span, found, &attr);
    }

    fn attributes(&mut self, span: Span, found: Found, attr: &fs::Metadata) {
        self.log.told(span, Copy, Op::Len(found, usize::try_from(attr.len()).expect("short")));
        self.log.told(span, Copy, Op::Mode(found, attr.mode() & 0o7777));
        self.log.told(span, Copy, Op::Links(found, usize::try_from(attr.nlink()).expect("few")));
    }

    /// Opens a file and does some things to it.
    fn open(&mut self, name: Name, write: bool) {
        let span = self.log.begin();
        let file = absent(File::options().read(true).write(write).open(self.path(name)));
        let span = self.log.end(span);
        let Some(file) = file else { return self.log.told(span, Copy, Op::Absent(name)) };
        let found = self.log.found(span, Copy, name);
        let count = if write { 1 + self.log.dice.roll(3) } else { 1 };
        for _ in 0..count {
            if write {
                self.change(&file, found);
            }
            self.read(&file, found);
        }
    }

    fn read(&mut self, file: &File, found: Found) {
        match self.log.dice.roll(5) {
            0 => {
                let span = self.log.begin();
                let attr = file.metadata().expect("it is open");
                let span = self.log.end(span);
                self.attributes(span, found, &attr);
            }
            1 => {
                let mut value = [0; 16];
                let span = self.log.begin();
                let got = fgetxattr(file, XATTR, &mut value);
                let span = self.log.end(span);
                let value = match got {
                    Ok(len) => Some(value[..len].to_vec()),
                    Err(rustix::io::Errno::NODATA) => None,
                    Err(error) => panic!("getxattr: {error}"),
                };
                // No kernel keeps these.
                self.log.told(span, Read, Op::Xattr(found, value));
            }
            _ => {
                let mut bytes = [0; 64];
                let span = self.log.begin();
                let len = file.read_at(&mut bytes, 0).expect("it is open");
                let span = self.log.end(span);
                // The kernel takes the length and the bytes one after the other.
                self.log.told(span, Copy, Op::ReadLen(found, len));
                self.log.told(span, Copy, Op::BytesFrom(found, 0, bytes[..len].to_vec()));
            }
        }
    }

    fn change(&mut self, file: &File, found: Found) {
        let kind = self.log.dice.roll(8);
        let (len, mode) = (self.log.dice.roll(12), self.log.mode());
        let (offset, bytes) = self.log.patch();
        let span = self.log.begin();
        let (changed, op): (Result<()>, _) = match kind {
            0 => (file.set_len(len as u64), Op::Cut(found, len)),
            1 | 2 => (file.set_permissions(Permissions::from_mode(mode)), Op::SetMode(found, mode)),
            3 => {
                let set = fsetxattr(file, XATTR, &bytes, XattrFlags::empty());
                (set.map_err(Error::from), Op::SetXattr(found, Some(bytes)))
            }
            4 => match fremovexattr(file, XATTR) {
                Ok(()) => (Ok(()), Op::SetXattr(found, None)),
                Err(rustix::io::Errno::NODATA) => (Ok(()), Op::Xattr(found, None)),
                Err(error) => (Err(error.into()), Op::Xattr(found, None)),
            },
            _ => (file.write_all_at(&bytes, offset as u64), Op::Write(found, offset, bytes)),
        };
        let span = self.log.end(span);
        changed.unwrap_or_else(|error| panic!("{} {op:?}: {error}", self.who));
        let role = if matches!(op, Op::Xattr(..)) { Read } else { Change };
        self.log.told(span, role, op);
    }

    fn list(&mut self) {
        let span = self.log.begin();
        let names: Vec<_> =
            fs::read_dir(&self.dir).expect("listed").map(|entry| entry.expect("listed").file_name()).collect();
        let span = self.log.end(span);
        self.log.listed(span, Copy, |name| names.iter().any(|listed| listed == name));
    }

    fn create(&mut self, name: Name) {
        let (node, mode) = (self.log.number(), 0o600);
        let span = self.log.begin();
        let created = File::options().write(true).create_new(true).mode(mode).open(self.path(name));
        let span = self.log.end(span);
        match created {
            Ok(_) => self.log.told(span, Change, Op::Create(name, node, mode)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => self.log.told(span, Copy, Op::Present(name)),
            Err(error) => panic!("{} create: {error}", self.who),
        }
    }

    /// Replaces a file as editors do.
    fn save(&mut self, name: Name) {
        let (node, bytes, other) = (self.log.number(), self.log.body(), self.dir.join(format!("new-{}", self.who)));
        fs::write(&other, &bytes).expect("written");
        let span = self.log.begin();
        fs::rename(&other, self.path(name)).expect("renamed");
        let span = self.log.end(span);
        self.log.told(span, Change, Op::Put(name, node, bytes));
    }

    fn remove(&mut self, name: Name) {
        let span = self.log.begin();
        let removed = absent(fs::remove_file(self.path(name)));
        let span = self.log.end(span);
        match removed {
            Some(()) => self.log.told(span, Change, Op::Remove(name)),
            None => self.log.told(span, Copy, Op::Absent(name)),
        }
    }

    fn rename(&mut self, from: Name) {
        let to = self.log.other_than(from);
        let span = self.log.begin();
        let renamed = absent(fs::rename(self.path(from), self.path(to)));
        let span = self.log.end(span);
        match renamed {
            Some(()) => self.log.told(span, Change, Op::RenameSeen(from, to)),
            None => self.log.told(span, Copy, Op::Absent(from)),
        }
    }

    fn link(&mut self, from: Name) {
        let (to, found) = (self.log.other_than(from), self.log.number());
        let span = self.log.begin();
        let linked = fs::hard_link(self.path(from), self.path(to));
        let span = self.log.end(span);
        match linked {
            Ok(()) => {
                self.log.told(span, Copy, Op::Find(from, found, 0));
                self.log.told(span, Change, Op::Link(found, to));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => self.log.told(span, Copy, Op::Present(to)),
            // Of the name, or of the file that had it a moment ago.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => panic!("{} link: {error}", self.who),
        }
    }
}
