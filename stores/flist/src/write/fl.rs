//! Writes the database of an `.fl`, as rfs reads it.
//!
//! Rows are written in the order of their numbers, which are those of a walk by name, and indexes at the end: equal trees make
//! equal files, and dense ones. Spec: spec/flist.md #fl.

use std::path::Path;

use muxfs::{Error, ErrorKind, Name, Result, vfs::Rdev};
use rusqlite::{
    Connection, ToSql, params,
    types::{ToSqlOutput, ValueRef},
};

use super::{
    DIR_LEN, Facts, failed,
    tree::{Node, NodeIndex, ROOT, Tree, What},
};
use crate::{
    chunk::Chunk,
    database::VALUE_LEN_MAX,
    rfs::{self, CHUNK_LEN},
};

const SCHEMA: &str = "
CREATE TABLE inode (ino INTEGER PRIMARY KEY, parent INTEGER, name VARCHAR(255), size INTEGER, uid INTEGER, gid INTEGER, mode INTEGER, rdev INTEGER, ctime INTEGER, mtime INTEGER);
CREATE TABLE extra (ino INTEGER PRIMARY KEY, data VARCHAR(4096));
CREATE TABLE block (ino INTEGER, id VARCHAR(32), key VARCHAR(32));
CREATE TABLE tag (key VARCHAR(10) PRIMARY KEY, value VARCHAR(255));
CREATE TABLE route (start INTEGER, end INTEGER, url VARCHAR(2048));
";
const INDEXES: &str = "CREATE INDEX parents ON inode (parent); CREATE INDEX block_ino ON block (ino);";

/// Bytes as SQLite's text: names need not be UTF-8.
struct Text<'a>(&'a [u8]);

impl ToSql for Text<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

/// The numbers of a device as Linux packs them into one.
fn packed(rdev: Rdev) -> i64 {
    let (major, minor) = (u64::from(rdev.major), u64::from(rdev.minor));
    let packed = (major & 0xfff) << 8 | (major & !0xfff) << 32 | minor & 0xff | (minor & !0xff) << 12;
    packed.cast_signed()
}

fn kind_bits(what: &What) -> u32 {
    match what {
        What::File { .. } => 0o100_000,
        What::Dir => 0o040_000,
        What::Symlink(_) => 0o120_000,
        What::BlockDevice(_) => 0o060_000,
        What::CharDevice(_) => 0o020_000,
        What::Fifo => 0o010_000,
        What::Socket => 0o140_000,
    }
}

/// Fills an empty database file.
pub(super) fn write(path: &Path, tree: &Tree, facts: &Facts) -> Result<()> {
    let mut connection = super::database(path)?;
    let transaction = connection.transaction().map_err(|error| failed(&error))?;
    transaction.execute_batch(SCHEMA).map_err(|error| failed(&error))?;
    write_tree(&transaction, tree)?;
    let tags = || -> rusqlite::Result<()> {
        let mut insert = transaction.prepare("INSERT INTO tag VALUES (?1, ?2)")?;
        for (key, value) in &facts.metadata {
            insert.execute([key, value])?;
        }
        let mut insert = transaction.prepare("INSERT INTO route VALUES (?1, ?2, ?3)")?;
        for route in &facts.routes {
            insert.execute(params![route.first, route.last, route.url])?;
        }
        transaction.execute_batch(INDEXES)
    };
    tags().map_err(|error| failed(&error))?;
    transaction.commit().map_err(|error| failed(&error))
}

fn write_tree(connection: &Connection, tree: &Tree) -> Result<()> {
    let rows = Rows::new(connection).map_err(|error| failed(&error));
    let mut rows = rows?;
    let root = tree.node(ROOT).ok_or_else(|| Error::new(ErrorKind::Internal, "flist.write"))?;
    rows.add(tree, (1, 0), b"/", root)?;
    // Numbers are given directory by directory: what is in one lies together.
    let mut numbers = vec![0i64; tree.slots()];
    if let Some(number) = numbers.get_mut(ROOT) {
        *number = 1;
    }
    let number_of = |numbers: &[i64], index: NodeIndex| numbers.get(index).copied().unwrap_or(0);
    let mut last = 1;
    let dirs = tree.dirs();
    for at in 0..dirs.count() {
        let dir = dirs.index(at);
        let Some(node) = tree.node(dir) else { continue };
        let below = node.entries.iter().filter_map(|(name, index)| Some((Name::as_bytes(name), tree.node(*index)?)));
        let len: usize = below.map(|(name, node)| rfs::row_len(name, target(&node.what))).sum();
        if node.entries.len() > rfs::ENTRY_COUNT_MAX || len > VALUE_LEN_MAX {
            let why = "the directory has more entries, or longer ones, than are read of an .fl";
            return Err(Error::new(ErrorKind::TooLarge, "flist.write")
                .at(format!("/{}", dirs.path(at).escape_ascii()))
                .because(why));
        }
        for (name, index) in &node.entries {
            last += 1;
            if let Some(number) = numbers.get_mut(*index) {
                *number = last;
            }
            let Some(below) = tree.node(*index) else { continue };
            let place = (last, number_of(&numbers, dir));
            let named = |error: Error| error.at(name);
            rows.add(tree, place, Name::as_bytes(name), below).map_err(named)?;
        }
    }
    Ok(())
}

fn target(what: &What) -> &[u8] {
    match what {
        What::Symlink(target) => target,
        _ => &[],
    }
}

struct Rows<'a> {
    inode: rusqlite::Statement<'a>,
    extra: rusqlite::Statement<'a>,
    block: rusqlite::Statement<'a>,
}

impl<'a> Rows<'a> {
    fn new(connection: &'a Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            inode: connection.prepare("INSERT INTO inode VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)")?,
            extra: connection.prepare("INSERT INTO extra VALUES (?1, ?2)")?,
            block: connection.prepare("INSERT INTO block VALUES (?1, ?2, ?3)")?,
        })
    }

    /// Writes a node under its number, in the directory of another.
    fn add(&mut self, tree: &Tree, (ino, parent): (i64, i64), name: &[u8], node: &Node) -> Result<()> {
        let about = &node.about;
        let size = match &node.what {
            What::Dir => DIR_LEN,
            What::File { len, .. } => *len,
            What::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        let rdev = match &node.what {
            What::CharDevice(rdev) | What::BlockDevice(rdev) => packed(*rdev),
            _ => 0,
        };
        let mode =
            kind_bits(&node.what) | if matches!(node.what, What::Symlink(_)) { 0o777 } else { about.mode & 0o7777 };
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let mtime = i64::try_from(about.mtime).unwrap_or(i64::MAX);
        let row = params![ino, parent, Text(name), size, about.uid, about.gid, mode, rdev, mtime];
        self.inode.execute(row).map_err(|error| failed(&error))?;
        match &node.what {
            What::Symlink(target) => {
                self.extra.execute(params![ino, &target[..]]).map_err(|error| failed(&error))?;
            }
            What::File { len, content } => {
                let content = super::whole(tree, *content, *len)?;
                if content.chunk_len as u64 != CHUNK_LEN && !content.chunks.is_empty() {
                    let why =
                        format!("its chunks have {} bytes, and an .fl has chunks of {CHUNK_LEN}", content.chunk_len);
                    return Err(Error::new(ErrorKind::InvalidArgument, "flist.write").because(why));
                }
                for chunk in &content.chunks {
                    let Chunk::Aes { id, key } = chunk else { return Err(super::other_format()) };
                    self.block.execute(params![ino, &id[..], &key[..]]).map_err(|error| failed(&error))?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_packed_as_they_are_unpacked() {
        for (major, minor, number) in
            [(1, 3, 0x0103), (8, 1, 0x0801), (0xabcd_05ef, 0x6789_ab12, 0xabcd_0678_9ab5_ef12u64)]
        {
            assert_eq!(packed(Rdev { major, minor }).cast_unsigned(), number);
        }
    }
}
