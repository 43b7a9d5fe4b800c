//! An inode as a leaf of the radix tree holds it: a list by position, numbers that lie near others as differences.
//!
//! What may grow (parents, names, data ranges, extended attributes) is inline while it is short, else a link. All of it
//! is checked as the leaf is loaded; decoding one inode copies its hundred bytes, so that who keeps an inode does not
//! keep the whole block.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{
    INO_END,
    cache::{Halt, Nodes},
    list::Part,
    names::Names,
    node::expect_count,
    radix::NULL,
};
use crate::{
    FileKind, Name,
    dag::{
        Link,
        cbor::{Reader, write_content, write_head, write_int, write_link},
    },
    rank::Rank,
    tree::inode::{Meta, NameEntry},
    vfs::{Ino, Rdev, SYMLINK_LEN_MAX, XattrName},
};

/// Kinds as the `st_mode` of POSIX has them, above the twelve permission bits.
const KINDS: [(FileKind, u64); 7] = [
    (FileKind::Fifo, 0o01),
    (FileKind::CharDevice, 0o02),
    (FileKind::Dir, 0o04),
    (FileKind::BlockDevice, 0o06),
    (FileKind::File, 0o10),
    (FileKind::Symlink, 0o12),
    (FileKind::Socket, 0o14),
];
const PERMISSION_BITS: u32 = 12;

/// What a committed tree knows of a node.
#[derive(Debug, Clone)]
pub(crate) struct Inode {
    /// What does not grow.
    pub(crate) meta: Meta,
    /// The `UnixFS` node of a file, a directory or a symlink; `None` for all else.
    pub(crate) content: Option<Link>,
    /// The target of a symlink.
    pub(crate) target: Option<Bytes>,
    pub(super) parents: Part,
    pub(super) data: Option<Part>,
    pub(super) xattrs: Part,
    pub(super) names: Names,
}

impl Inode {
    /// The entry of a name in this directory.
    pub(crate) fn entry(&self, nodes: &mut dyn Nodes, name: &Name) -> Result<Option<NameEntry>, Halt> {
        self.names.entry(nodes, name)
    }

    /// At most `count` entries of this directory from a rank on, in the order of ranks.
    pub(crate) fn entries(&self, nodes: &mut dyn Nodes, from: Rank, count: usize) -> Result<Vec<NameEntry>, Halt> {
        self.names.entries(nodes, from, count)
    }

    /// All entries of this directory whose names share their hash bits with this rank, in the order of ranks.
    pub(crate) fn ranks(&self, nodes: &mut dyn Nodes, hash_of: Rank) -> Result<Vec<NameEntry>, Halt> {
        self.names.ranks(nodes, hash_of)
    }

    /// The extended attributes.
    pub(crate) fn xattrs(&self, nodes: &mut dyn Nodes) -> Result<BTreeMap<XattrName, Bytes>, Halt> {
        Ok(self.xattrs.items(nodes)?.into_iter().collect())
    }

    /// The names it has: directory and name, sorted.
    pub(crate) fn parents(&self, nodes: &mut dyn Nodes) -> Result<Vec<(Ino, Name)>, Halt> {
        self.parents.items(nodes)
    }

    /// The ranges of a sparse file that are not holes, in bytes, sorted, in whole units of 4 KiB; `None` where there are
    /// no holes.
    pub(crate) fn data(&self, nodes: &mut dyn Nodes) -> Result<Option<Vec<Range<u64>>>, Halt> {
        self.data.as_ref().map(|data| data.items(nodes)).transpose()
    }

    /// Decodes a record that was checked with its leaf.
    pub(super) fn decode(record: &[u8]) -> Result<Self, &'static str> {
        let record = Bytes::copy_from_slice(record);
        Self::read(&mut Reader::new(&record), &record)
    }

    /// Reads and checks a record; `block` is what the reader reads.
    pub(super) fn read(reader: &mut Reader<'_>, block: &Bytes) -> Result<Self, &'static str> {
        let count = reader.list()?;
        let mode = reader.uint()?;
        let kind = KINDS.iter().find(|(_, bits)| *bits == mode >> PERMISSION_BITS).ok_or("there is no such kind")?.0;
        let mut word = || u32::try_from(reader.uint()?).map_err(|_| "a number of 32 bits is wanted");
        let (uid, gid, nlink) = (word()?, word()?, word()?);
        let size = reader.uint()?;
        let used = near(size, reader)?;
        let mtime = nanos(reader.int()?)?;
        let ctime = near_time(mtime, reader)?;
        let atime = near_time(mtime, reader)?;
        let change = reader.uint()?;
        let parents = Part::read::<(Ino, Name)>(reader, block)?;
        let mut inode = Self {
            meta: Meta {
                kind,
                mode: u32::try_from(mode).unwrap_or_default() & ((1 << PERMISSION_BITS) - 1),
                uid,
                gid,
                nlink,
                rdev: Rdev::default(),
                size,
                entry_count: 0,
                used,
                atime: time_of(atime),
                mtime: time_of(mtime),
                ctime: time_of(ctime),
                change,
            },
            content: None,
            target: None,
            parents,
            data: None,
            xattrs: Part::empty(),
            names: Names::empty(),
        };
        inode.read_body(reader, block)?;
        match count {
            12 => {}
            13 => {
                inode.xattrs = Part::read::<(XattrName, Bytes)>(reader, block)?;
                if inode.xattrs.is_empty() {
                    return Err("no extended attributes are not written");
                }
            }
            _ => return Err("an inode is a list of 12 or 13"),
        }
        Ok(inode)
    }

    /// Reads what depends on the kind.
    fn read_body(&mut self, reader: &mut Reader<'_>, block: &Bytes) -> Result<(), &'static str> {
        match self.meta.kind {
            FileKind::File => {
                let count = reader.list()?;
                self.content = Some(read_content(self.meta.size, reader)?);
                match count {
                    2 => {}
                    3 => self.data = Some(Part::read::<Range<u64>>(reader, block)?),
                    _ => return Err("a file has a content, and ranges where it is sparse"),
                }
            }
            FileKind::Dir => {
                expect_count(reader.list()?, 4)?;
                self.content = Some(read_content(self.meta.size, reader)?);
                self.meta.entry_count = reader.uint()?;
                self.names = Names::read(reader, block)?;
            }
            FileKind::Symlink => {
                expect_count(reader.list()?, 3)?;
                self.content = Some(read_content(self.meta.size, reader)?);
                let target = reader.bytes()?;
                if target.len() > SYMLINK_LEN_MAX {
                    return Err("the target of a symlink has at most 4095 bytes");
                }
                self.target = Some(block.slice_ref(target));
            }
            FileKind::CharDevice | FileKind::BlockDevice => {
                expect_count(reader.list()?, 2)?;
                let mut word = || u32::try_from(reader.uint()?).map_err(|_| "a number of 32 bits is wanted");
                self.meta.rdev = Rdev { major: word()?, minor: word()? };
            }
            FileKind::Fifo | FileKind::Socket => {
                if !reader.null() {
                    return Err("a FIFO and a socket have nothing more");
                }
            }
        }
        Ok(())
    }

    /// Writes the record: the only form it has.
    pub(super) fn encode(&self) -> Result<Vec<u8>, &'static str> {
        let (meta, out) = (&self.meta, &mut Vec::new());
        write_head(4, if self.xattrs.is_empty() { 12 } else { 13 }, out);
        let kind = KINDS.iter().find(|(kind, _)| *kind == meta.kind).map_or(0, |(_, bits)| *bits);
        write_head(0, kind << PERMISSION_BITS | u64::from(meta.mode & ((1 << PERMISSION_BITS) - 1)), out);
        for word in [meta.uid, meta.gid, meta.nlink] {
            write_head(0, word.into(), out);
        }
        write_head(0, meta.size, out);
        write_int(i128::from(meta.used) - i128::from(meta.size), out)?;
        let [mtime, ctime, atime] = [meta.mtime, meta.ctime, meta.atime].map(|time| i128::from(nanos_of(time)));
        write_int(mtime, out)?;
        write_int(ctime - mtime, out)?;
        write_int(atime - mtime, out)?;
        write_head(0, meta.change, out);
        self.parents.write(out);
        self.write_body(out)?;
        if !self.xattrs.is_empty() {
            self.xattrs.write(out);
        }
        Ok(std::mem::take(out))
    }

    fn write_body(&self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        let content = self.content.as_ref().ok_or("files, directories and symlinks have a content");
        match self.meta.kind {
            FileKind::File => {
                write_head(4, if self.data.is_some() { 3 } else { 2 }, out);
                write_content_link(content?, self.meta.size, out)?;
                if let Some(data) = &self.data {
                    data.write(out);
                }
            }
            FileKind::Dir => {
                write_head(4, 4, out);
                write_content_link(content?, self.meta.size, out)?;
                write_head(0, self.meta.entry_count, out);
                self.names.write(out);
            }
            FileKind::Symlink => {
                write_head(4, 3, out);
                write_content_link(content?, self.meta.size, out)?;
                let target = self.target.as_ref().filter(|target| target.len() <= SYMLINK_LEN_MAX);
                write_content(2, target.ok_or("a symlink has a target of at most 4095 bytes")?, out);
            }
            FileKind::CharDevice | FileKind::BlockDevice => {
                write_head(4, 2, out);
                write_head(0, self.meta.rdev.major.into(), out);
                write_head(0, self.meta.rdev.minor.into(), out);
            }
            FileKind::Fifo | FileKind::Socket => out.push(NULL),
        }
        Ok(())
    }
}

fn read_content(size: u64, reader: &mut Reader<'_>) -> Result<Link, &'static str> {
    Ok(Link { cid: reader.cid()?, tsize: near(size, reader)? })
}

fn write_content_link(link: &Link, size: u64, out: &mut Vec<u8>) -> Result<(), &'static str> {
    write_link(&link.cid.to_bytes(), out);
    write_int(i128::from(link.tsize) - i128::from(size), out)
}

/// A number that is written as its distance from another.
fn near(from: u64, reader: &mut Reader<'_>) -> Result<u64, &'static str> {
    u64::try_from(i128::from(from) + reader.int()?).map_err(|_| "a length is from 0 to 2^64-1")
}

fn near_time(from: i64, reader: &mut Reader<'_>) -> Result<i64, &'static str> {
    nanos(i128::from(from) + reader.int()?)
}

fn nanos(nanos: i128) -> Result<i64, &'static str> {
    i64::try_from(nanos).map_err(|_| "a time is from -2^63 to 2^63-1 nanoseconds")
}

/// The number of an inode.
pub(super) fn read_ino(reader: &mut Reader<'_>) -> Result<Ino, &'static str> {
    let number = NonZeroU64::new(reader.uint()?).filter(|number| number.get() < INO_END);
    number.map(Ino).ok_or("the number of an inode is from 1 to 2^55-1")
}

/// The time that is kept of a time: the nearest from 1677-09-21 to 2262-04-11, what 64 bits of nanoseconds can count.
pub(crate) fn time_in_range(at: SystemTime) -> SystemTime {
    time_of(nanos_of(at))
}

/// Nanoseconds since 1970, as far as 64 bits count.
pub(crate) fn nanos_of(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(-i128::try_from(before.duration().as_nanos()).unwrap_or(i128::MAX)).unwrap_or(i64::MIN)
        }
    }
}

/// The time so many nanoseconds after 1970.
pub(crate) fn time_of(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    let time = if nanos < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH) // No system counts fewer years than 64 bits of nanoseconds.
}
