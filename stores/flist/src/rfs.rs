//! The format of `rfs`, `.fl`: SQLite tables of inodes, targets of symlinks, chunks, tags and routes.
//!
//! An inode is the row of its number, which has its directory: so it is in one directory at most; with the root in none, what
//! is found from it is a tree, whatever else the table, or an index of it, says. Spec: spec/flist.md #fl.

use muxfs::{FileKind, Result, vfs::Rdev};
use rusqlite::{OptionalExtension as _, Row, types::ValueRef};

use crate::{
    chunk::Chunk,
    database::{Database, VALUE_LEN_MAX},
    inode::{Entry, Inode, NodeId, corrupt, name, size, target, time},
    metadata::{Route, pairs},
};

/// The number of the root.
const ROOT: u64 = 1;
/// How long the chunks of a file are, but the last, in bytes.
pub(crate) const CHUNK_LEN: u64 = 512 << 10;
/// The most entries of a directory.
pub(crate) const ENTRY_COUNT_MAX: usize = 1 << 20;
/// The most routes.
const ROUTE_COUNT_MAX: usize = 1024;

/// An inode, by its number; the last column is the target of a symlink. It is looked up in the table itself, by what no two rows
/// have alike: an index could have other rows.
const INODE: &str = "SELECT rowid, parent, name, size, uid, gid, mode, rdev, ctime, mtime, \
    CASE WHEN mode & 61440 = 40960 THEN (SELECT data FROM extra WHERE extra.ino = inode.rowid) END \
    FROM inode NOT INDEXED WHERE rowid = ?1";

/// An opened `.fl`.
#[derive(Debug)]
pub(crate) struct Rfs {
    pub(crate) database: Database,
}

/// A row as it stands there.
struct Raw {
    ino: i64,
    parent: i64,
    name: Vec<u8>,
    size: i64,
    uid: i64,
    gid: i64,
    mode: i64,
    rdev: i64,
    ctime: i64,
    mtime: i64,
    target: Vec<u8>,
}

/// What an entry takes while its directory is read, in bytes.
pub(crate) fn row_len(name: &[u8], target: &[u8]) -> usize {
    size_of::<Raw>() + name.len() + target.len()
}

impl Raw {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let bytes =
            |at: usize| Ok::<_, rusqlite::Error>(row.get_ref(at)?.as_bytes_or_null()?.unwrap_or_default().to_vec());
        // What is not there is 0, as readers have it.
        let number = |at: usize| match row.get_ref(at)? {
            ValueRef::Null => Ok(0),
            _ => row.get::<_, i64>(at),
        };
        Ok(Self {
            ino: number(0)?,
            parent: number(1)?,
            name: bytes(2)?,
            size: number(3)?,
            uid: number(4)?,
            gid: number(5)?,
            mode: number(6)?,
            rdev: number(7)?,
            ctime: number(8)?,
            mtime: number(9)?,
            target: bytes(10)?,
        })
    }

    fn len(&self) -> usize {
        row_len(&self.name, &self.target)
    }

    fn inode(&self) -> Result<Inode> {
        let at = format!("inode {}", self.ino);
        let unsigned = |what: &str, number: i64| {
            u64::try_from(number).map_err(|_| corrupt(&at, format!("its {what} cannot be {number}")))
        };
        let id = |what: &str, number: i64| {
            u32::try_from(number).map_err(|_| corrupt(&at, format!("its {what} cannot be {number}")))
        };
        let seconds = |what: &str, number: i64| {
            let found = unsigned(what, number)?;
            time(found).ok_or_else(|| corrupt(&at, format!("its {what} cannot be {number}")))
        };
        let kind = match self.mode & 0o170_000 {
            0o100_000 => FileKind::File,
            0o040_000 => FileKind::Dir,
            0o120_000 => FileKind::Symlink,
            0o060_000 => FileKind::BlockDevice,
            0o020_000 => FileKind::CharDevice,
            0o010_000 => FileKind::Fifo,
            0o140_000 => FileKind::Socket,
            _ => return Err(corrupt(&at, format!("its mode {:o} is that of nothing", self.mode))),
        };
        let is_symlink = kind == FileKind::Symlink;
        let target = if is_symlink { target(&self.target, &at)? } else { bytes::Bytes::new() };
        let len = match kind {
            FileKind::File | FileKind::Dir => size(unsigned("size", self.size)?, &at)?,
            _ => target.len() as u64,
        };
        let is_device = matches!(kind, FileKind::BlockDevice | FileKind::CharDevice);
        let number = unsigned("number", self.ino)?;
        Ok(Inode {
            id: if number == ROOT { NodeId::Root } else { NodeId::Row(number) },
            kind,
            mode: if is_symlink { 0o777 } else { u32::try_from(self.mode & 0o7777).unwrap_or(0) },
            uid: id("uid", self.uid)?,
            gid: id("gid", self.gid)?,
            rdev: if is_device { rdev(unsigned("rdev", self.rdev)?) } else { Rdev::default() },
            size: len,
            mtime: seconds("mtime", self.mtime)?,
            ctime: seconds("ctime", self.ctime)?,
            target,
            dir_key: None,
        })
    }
}

/// The numbers of a device as Linux packs them into one.
fn rdev(packed: u64) -> Rdev {
    let low = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0);
    let major = low(packed >> 8) & 0xfff | low(packed >> 32) & !0xfff;
    let minor = low(packed) & 0xff | low(packed >> 12) & !0xff;
    Rdev { major, minor }
}

fn number(ino: u64) -> i64 {
    i64::try_from(ino).unwrap_or(-1)
}

impl Rfs {
    fn row(&self, ino: u64) -> Result<Option<Raw>> {
        self.database.query("the table inode", |connection| {
            let mut statement = connection.prepare_cached(INODE)?;
            statement.query_row([number(ino)], Raw::of).optional()
        })
    }

    pub(crate) fn root(&self) -> Result<Inode> {
        let root = self.row(ROOT)?.ok_or_else(|| corrupt("inode 1", "there is no root"))?.inode()?;
        if root.kind != FileKind::Dir {
            return Err(corrupt("inode 1", "the root is no directory"));
        }
        Ok(root)
    }

    pub(crate) fn inode(&self, ino: u64) -> Result<Option<Inode>> {
        self.row(ino)?.map(|row| row.inode()).transpose()
    }

    pub(crate) fn parent(&self, ino: u64) -> Result<NodeId> {
        let row = self.row(ino)?.ok_or_else(|| corrupt(format!("inode {ino}"), "it is not there"))?;
        match u64::try_from(row.parent) {
            Ok(ROOT) => Ok(NodeId::Root),
            Ok(parent) if parent > 0 && parent != ino => Ok(NodeId::Row(parent)),
            _ => Err(corrupt(format!("inode {ino}"), format!("it cannot be in the directory {}", row.parent))),
        }
    }

    pub(crate) fn children(&self, dir: u64) -> Result<Vec<Entry>> {
        let rows = self.database.query("the table inode", |connection| {
            // The root is in no directory, whatever its row says.
            let sql = "SELECT rowid FROM inode WHERE parent = ?1 AND rowid <> 1 LIMIT ?2";
            let limit = i64::try_from(ENTRY_COUNT_MAX + 1).unwrap_or(i64::MAX);
            let mut statement = connection.prepare_cached(sql)?;
            let numbers = statement.query_map((number(dir), limit), |row| row.get(0))?;
            let mut numbers = numbers.collect::<rusqlite::Result<Vec<i64>>>()?;
            if numbers.len() > ENTRY_COUNT_MAX {
                return Ok(None);
            }
            numbers.sort_unstable();
            let mut statement = connection.prepare_cached(INODE)?;
            let (mut found, mut len) = (Vec::new(), 0);
            for number in numbers {
                let row = statement.query_row([number], Raw::of)?;
                len += row.len();
                if len > VALUE_LEN_MAX {
                    return Ok(None);
                }
                found.push(row);
            }
            Ok(Some(found))
        })?;
        let rows = rows.ok_or_else(|| {
            let why = format!("the directory has more than {ENTRY_COUNT_MAX} entries, or longer ones than can be");
            corrupt(format!("inode {dir}"), why)
        })?;
        if let Some(row) = rows.iter().find(|row| row.parent != number(dir)) {
            let why = format!("an index has it in the directory {dir}, and its row in {}", row.parent);
            return Err(corrupt(format!("inode {}", row.ino), why));
        }
        let entry = |row: &Raw| Ok(Entry { name: name(&row.name, format!("inode {}", row.ino))?, inode: row.inode()? });
        rows.iter().map(entry).collect()
    }

    /// The chunks of a file from the `first` on, `count` at most, and how long each of the file's is, but the last.
    pub(crate) fn chunks(&self, ino: u64, first: u64, count: usize) -> Result<(u64, Vec<Chunk>)> {
        let pairs = self.database.query("the table block", |connection| {
            let sql = "SELECT id, key FROM block WHERE ino = ?1 ORDER BY rowid LIMIT ?2 OFFSET ?3";
            let mut statement = connection.prepare_cached(sql)?;
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            let rows = statement.query_map((number(ino), count, number(first)), |row| {
                let bytes = |at: usize| {
                    Ok::<_, rusqlite::Error>(row.get_ref(at)?.as_bytes_or_null()?.unwrap_or_default().to_vec())
                };
                Ok((bytes(0)?, bytes(1)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let hash = |bytes: Vec<u8>| {
            <[u8; 32]>::try_from(bytes).map_err(|bytes| {
                corrupt(format!("inode {ino}"), format!("a hash of a chunk has {} bytes", bytes.len()))
            })
        };
        let chunks = pairs.into_iter().map(|(id, key)| Ok(Chunk::Aes { id: hash(id)?, key: hash(key)? }));
        Ok((CHUNK_LEN, chunks.collect::<Result<_>>()?))
    }

    /// The tags, in their order.
    pub(crate) fn metadata(&self) -> Result<Vec<(String, String)>> {
        if self.database.tables(&["tag"])?.is_empty() {
            return Ok(Vec::new());
        }
        pairs(&self.database, "tag")
    }

    /// Where its chunks are, in the order in which they were written.
    pub(crate) fn routes(&self) -> Result<Vec<Route>> {
        if self.database.tables(&["route"])?.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.database.query("the table route", |connection| {
            let sql = format!("SELECT start, end, url FROM route ORDER BY rowid LIMIT {ROUTE_COUNT_MAX}");
            let mut statement = connection.prepare_cached(&sql)?;
            let rows = statement
                .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let route = |(first, last, url): (i64, i64, String)| {
            let byte = |number: i64| u8::try_from(number).map_err(|_| corrupt(format!("route {url}"), "0 to 255"));
            Ok(Route { first: byte(first)?, last: byte(last)?, url: url.clone() })
        };
        rows.into_iter().map(route).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_unpacked_as_linux_packs_them() {
        for (packed, major, minor) in [
            (0x0103, 1, 3),
            (0x0801, 8, 1),
            (0xabcd_0678_9ab5_ef12, 0xabcd_05ef, 0x6789_ab12),
            (u64::MAX, u32::MAX, u32::MAX),
        ] {
            assert_eq!(rdev(packed), Rdev { major, minor }, "{packed:x}");
        }
    }
}
