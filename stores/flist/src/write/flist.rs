//! Writes an `.flist`, as zflist makes it: a database of Cap'n Proto messages, in tar, in gzip.
//!
//! Rows are written in the order of their keys, and the archive knows no time, no user and no name of a file of this machine:
//! equal trees make equal files. Spec: spec/flist.md #flist.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    path::Path,
};

use flate2::{Compression, GzBuilder};
use muxfs::{Error, ErrorKind, Result, vfs::Rdev};
use rusqlite::params;

use super::{
    DIR_LEN, Facts, failed,
    tree::{About, Node, Tree, What},
    words::Words,
};
use crate::{
    chunk::{Chunk, blake2b, blake2b_128, hex},
    database::VALUE_LEN_MAX,
    inode::DirKey,
};

const SCHEMA: &str = "CREATE TABLE entries (key VARCHAR(64) PRIMARY KEY, value BLOB);
CREATE TABLE metadata (key VARCHAR(64) PRIMARY KEY, value TEXT);";
/// What the length of a file's chunks counts, in bytes.
const BLOCK_UNIT: usize = 4096;
/// What a tar is padded to, as writers do.
const RECORD_LEN: u64 = 10240;

/// The words of data and the pointers of each struct.
const DIR: (usize, usize) = (2, 5);
const INODE: (usize, usize) = (3, 3);
const FILE: (usize, usize) = (1, 1);
const CHUNK: (usize, usize) = (0, 2);
const RIGHTS: (usize, usize) = (3, 3);

/// Fills an empty file with the archive; `scratch` is an empty one for the database, which may have so many bytes.
pub(super) fn write(file: &mut File, scratch: &Path, tree: &Tree, facts: &Facts, len_max: u64) -> Result<()> {
    write_database(scratch, tree, facts, len_max)?;
    let io = |error: io::Error| super::io_failed(&error);
    let mut database = File::open(scratch).map_err(io)?;
    let len = database.metadata().map_err(io)?.len();
    // Neither a time nor a name, and no system, all of which others would not have alike.
    let mut gzip =
        GzBuilder::new().mtime(0).operating_system(255).write(io::BufWriter::new(file), Compression::default());
    let done = (|| {
        gzip.write_all(&header(b"./", b'5', 0o755, 0))?;
        gzip.write_all(&header(b"./flistdb.sqlite3", b'0', 0o644, len))?;
        io::copy(&mut database, &mut gzip)?;
        // Padding, and two empty headers at the end.
        let at = 1024 + len.next_multiple_of(512);
        let padding = (at + 1024).next_multiple_of(RECORD_LEN) - (1024 + len);
        io::copy(&mut io::Read::take(io::repeat(0), padding), &mut gzip)?;
        gzip.finish()?.flush()
    })();
    done.map_err(io)
}

fn header(name: &[u8], kind: u8, mode: u32, len: u64) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| {
        header.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = *byte);
    };
    put(0, name);
    put(100, format!("{mode:07o}\0{:07o}\0{:07o}\0", 0, 0).as_bytes());
    // Digits while they suffice: 8 GiB is more than any that is read.
    put(124, format!("{len:011o}\0{:011o}\0        ", 0).as_bytes());
    put(156, &[kind]);
    put(257, b"ustar  \0");
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()).for_each(|(place, byte)| *place = byte);
    header
}

fn write_database(path: &Path, tree: &Tree, facts: &Facts, len_max: u64) -> Result<()> {
    let mut connection = super::database(path)?;
    let transaction = connection.transaction().map_err(|error| failed(&error))?;
    transaction.execute_batch(SCHEMA).map_err(|error| failed(&error))?;
    let mut insert = transaction.prepare("INSERT INTO entries VALUES (?1, ?2)").map_err(|error| failed(&error))?;
    let dirs = tree.dirs();
    let (mut keys, mut rights, mut len): (Vec<(DirKey, usize)>, _, _) = (Vec::new(), BTreeMap::new(), 0);
    // Each has its path, and all paths can be much longer than the tree.
    let mut take = |more: usize| {
        len += more as u64;
        if len > len_max { Err(super::too_long(len, len_max)) } else { Ok(()) }
    };
    for at in 0..dirs.count() {
        let path = dirs.path(at);
        take(path.len())?;
        keys.push((blake2b_128(&path), at));
    }
    keys.sort_unstable();
    for (key, at) in keys {
        let Some(node) = tree.node(dirs.index(at)) else { continue };
        let path = dirs.path(at);
        let named = |error: Error| error.at(format!("/{}", path.escape_ascii()));
        let message = dir_message(tree, &path, node, &mut rights).map_err(named)?;
        take(message.len() - path.len())?;
        insert.execute(params![hex(&key), message]).map_err(|error| failed(&error))?;
    }
    for (key, about) in &rights {
        insert.execute(params![key, rights_message(about)]).map_err(|error| failed(&error))?;
    }
    drop(insert);
    let mut insert = transaction.prepare("INSERT INTO metadata VALUES (?1, ?2)").map_err(|error| failed(&error))?;
    for (key, value) in &facts.metadata {
        insert.execute([key, value]).map_err(|error| failed(&error))?;
    }
    drop(insert);
    transaction.commit().map_err(|error| failed(&error))
}

/// The name of a user or a group: nobody's machine is asked who that is.
fn name_of(id: u32) -> String {
    if id == 0 { "root".into() } else { id.to_string() }
}

/// The key of rights, which are remembered.
fn rights_key(about: &About, rights: &mut BTreeMap<String, About>) -> String {
    let About { mode, uid, gid, .. } = *about;
    let mode = mode & 0o7777;
    let text = format!("user:{}\ngroup:{}\nmode:0o{mode:o}\nuid:{uid}\ngid:{gid}", name_of(uid), name_of(gid));
    let key = hex(blake2b(8).hash(text.as_bytes()).as_bytes());
    rights.entry(key.clone()).or_insert(*about);
    key
}

fn rights_message(about: &About) -> Vec<u8> {
    let mut words = Words::default();
    let root = words.root(RIGHTS.0, RIGHTS.1);
    words.set(root, u64::from(about.mode & 0o7777));
    // Their default is -1, which is stored as 0.
    words.set(root + 1, !u64::from(about.uid));
    words.set(root + 2, !u64::from(about.gid));
    words.text(root + 3, name_of(about.uid).as_bytes());
    words.text(root + 4, name_of(about.gid).as_bytes());
    words.message()
}

/// A time twice, as that of a change and that of making: the other one a machine does not say twice alike.
fn times(about: &About) -> (u64, u64) {
    let seconds = about.mtime.min(u32::MAX.into());
    (seconds, seconds)
}

fn dir_message(tree: &Tree, path: &[u8], dir: &Node, rights: &mut BTreeMap<String, About>) -> Result<Vec<u8>> {
    let mut words = Words::default();
    let root = words.root(DIR.0, DIR.1);
    let (mtime, ctime) = times(&dir.about);
    words.set(root, DIR_LEN);
    words.set(root + 1, mtime | ctime << 32);
    let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => {
            path.split_at_checked(at).map_or((path, path), |(above, name)| (above, name.get(1..).unwrap_or(name)))
        }
        None => (&b""[..], path),
    };
    let texts = root + DIR.0;
    words.text(texts, name);
    words.text(texts + 1, path);
    words.text(texts + 3, hex(&blake2b_128(above)).as_bytes());
    words.text(texts + 4, rights_key(&dir.about, rights).as_bytes());
    let list = words.structs(texts + 2, dir.entries.len(), INODE.0, INODE.1);
    for (number, (name, index)) in dir.entries.iter().enumerate() {
        let Some(node) = tree.node(*index) else { continue };
        let item = list + number * (INODE.0 + INODE.1);
        let (mtime, ctime) = times(&node.about);
        let pointers = item + INODE.0;
        words.text(pointers, name.as_bytes());
        words.text(pointers + 2, rights_key(&node.about, rights).as_bytes());
        let (kind, size) = what_of(tree, path, name.as_bytes(), node, pointers + 1, &mut words)?;
        words.set(item, size);
        words.set(item + 1, kind | mtime << 32);
        words.set(item + 2, ctime);
        if words.len() > VALUE_LEN_MAX {
            let why = format!("the directory takes more than {VALUE_LEN_MAX} bytes in an .flist: make an .fl");
            return Err(Error::new(ErrorKind::TooLarge, "flist.write").because(why));
        }
    }
    Ok(words.message())
}

/// Writes what a node is at a pointer; the number of its kind, and its length.
fn what_of(
    tree: &Tree,
    path: &[u8],
    name: &[u8],
    node: &Node,
    pointer: usize,
    words: &mut Words,
) -> Result<(u64, u64)> {
    let mut special = |kind: u64, data: &[u8]| {
        let object = words.object(pointer, 1, 1);
        words.set(object, kind);
        words.data(object + 1, data);
        (3, 0)
    };
    let numbers = |rdev: &Rdev| format!("{},{}", rdev.major, rdev.minor).into_bytes();
    Ok(match &node.what {
        What::Socket => special(0, b""),
        What::BlockDevice(rdev) => special(1, &numbers(rdev)),
        What::CharDevice(rdev) => special(2, &numbers(rdev)),
        What::Fifo => special(3, b""),
        What::Dir => {
            let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let key = hex(&blake2b_128(&[path, slash, name].concat()));
            let object = words.object(pointer, 0, 1);
            words.text(object, key.as_bytes());
            (0, DIR_LEN)
        }
        What::Symlink(target) => {
            let object = words.object(pointer, 0, 1);
            words.text(object, target);
            (2, target.len() as u64)
        }
        What::File { len, content } => {
            let content = super::whole(tree, *content, *len)?;
            let object = words.object(pointer, FILE.0, FILE.1);
            words.set(object, (content.chunk_len / BLOCK_UNIT) as u64 & 0xffff);
            let list = words.structs(object + FILE.0, content.chunks.len(), CHUNK.0, CHUNK.1);
            for (number, chunk) in content.chunks.iter().enumerate() {
                let Chunk::Xxtea { id, key } = chunk else { return Err(super::other_format()) };
                words.data(list + number * CHUNK.1, id);
                words.data(list + number * CHUNK.1 + 1, key);
            }
            (1, *len)
        }
    })
}
