//! Makes flists of both formats, good ones and others, after spec/flist.md.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use rusqlite::{Connection, params};
use tempfile::TempDir;

use crate::{
    Chunk, Flist,
    chunk::{
        blake2b_128, hex,
        tests::{seal_aes, seal_xxtea},
    },
    write::words::Words,
};

/// How long chunks are.
const CHUNK_LEN: usize = 512 << 10;

/// A node to be made.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Dir,
    File(Vec<u8>),
    Symlink(Vec<u8>),
}

/// A directory with flists and their chunks, which goes when this does.
pub(crate) struct World {
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self { dir: TempDir::new().expect("a directory") };
        for name in ["flists", "chunks", "scratch"] {
            fs::create_dir(world.path(name)).expect("made");
        }
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn open(&self, name: &str) -> muxfs::Result<Flist> {
        Flist::open(&self.path("flists").join(name), &self.path("scratch"))
    }

    /// Stores what a file is made of.
    fn store(&self, data: &[u8], seal: fn(&[u8]) -> (Chunk, Vec<u8>)) -> Vec<Chunk> {
        let store = |part: &[u8]| {
            let (chunk, stored) = seal(part);
            fs::write(self.path("chunks").join(chunk.hex()), stored).expect("stored");
            chunk
        };
        data.chunks(CHUNK_LEN).map(store).collect()
    }

    /// Makes an `.fl` of nodes, each behind what it is in; and lets `change` do what it likes to it.
    pub(crate) fn fl(&self, name: &str, nodes: &[(String, What)], change: impl FnOnce(&Connection)) {
        let path = self.path("flists").join(name);
        let database = Connection::open(&path).expect("opens");
        database.execute_batch(FAST).expect("set");
        database.execute_batch(FL_SCHEMA).expect("tables");
        let insert = "INSERT INTO inode VALUES (?1, ?2, ?3, ?4, 7, 8, ?5, 0, 1000, 2000)";
        database.execute(insert, params![1, 0, "/", 4096, 0o040_755]).expect("a root");
        let mut inos = BTreeMap::from([("", 1i64)]);
        for (number, (path, what)) in nodes.iter().enumerate() {
            let ino = i64::try_from(number).expect("few") + 2;
            let (above, last) = path.rsplit_once('/').unwrap_or(("", path));
            let (size, mode) = match what {
                What::Dir => (4096, 0o040_755),
                What::File(data) => (data.len(), 0o100_644),
                What::Symlink(target) => (target.len(), 0o120_777),
            };
            let size = i64::try_from(size).expect("short");
            database.execute(insert, params![ino, inos[above], last, size, mode]).expect("an inode");
            inos.insert(path, ino);
            match what {
                What::Dir => {}
                What::Symlink(target) => {
                    database.execute("INSERT INTO extra VALUES (?1, ?2)", params![ino, target]).expect("a target");
                }
                What::File(data) => {
                    for chunk in self.store(data, seal_aes) {
                        let Chunk::Aes { id, key } = chunk else { unreachable!("it was sealed so") };
                        let insert = "INSERT INTO block VALUES (?1, ?2, ?3)";
                        database.execute(insert, params![ino, &id[..], &key[..]]).expect("a chunk");
                    }
                }
            }
        }
        change(&database);
    }

    /// Makes an `.flist` of nodes, each behind what it is in; and lets `change` do what it likes to its database.
    pub(crate) fn flist(&self, name: &str, nodes: &[(String, What)], change: impl FnOnce(&Connection)) {
        let database = self.path("scratch").join("made.sqlite3");
        let connection = Connection::open(&database).expect("opens");
        connection.execute_batch(FAST).expect("set");
        connection.execute_batch(FLIST_SCHEMA).expect("tables");
        let insert = |key: &str, value: &[u8]| {
            connection.execute("INSERT INTO entries VALUES (?1, ?2)", params![key, value]).expect("an entry");
        };
        insert(RIGHTS_KEY, &rights(0o755, 7, 8));
        let mut dirs: BTreeMap<&str, Vec<(&str, &What)>> = BTreeMap::from([("", Vec::new())]);
        for (path, what) in nodes {
            let (above, last) = path.rsplit_once('/').unwrap_or(("", path));
            dirs.get_mut(above).expect("it is there").push((last, what));
            if matches!(what, What::Dir) {
                dirs.insert(path, Vec::new());
            }
        }
        for (path, entries) in &dirs {
            let blob = self.dir_blob(path, entries);
            insert(&hex(&blake2b_128(path.as_bytes())), &blob);
        }
        change(&connection);
        drop(connection);
        let bytes = fs::read(&database).expect("read");
        fs::remove_file(&database).expect("removed");
        fs::write(self.path("flists").join(name), archive(&bytes)).expect("written");
    }

    fn dir_blob(&self, path: &str, entries: &[(&str, &What)]) -> Vec<u8> {
        let mut words = Words::default();
        let root = words.root(2, 5);
        words.text(root + 2, path.rsplit('/').next().unwrap_or(path).as_bytes());
        words.text(root + 3, path.as_bytes());
        words.text(root + 6, RIGHTS_KEY.as_bytes());
        let list = words.structs(root + 4, entries.len(), 3, 3);
        for (number, (name, what)) in entries.iter().enumerate() {
            let item = list + number * 6;
            words.text(item + 3, name.as_bytes());
            words.text(item + 5, RIGHTS_KEY.as_bytes());
            words.0[item + 1] = 2000 << 32;
            words.0[item + 2] = 1000;
            match what {
                What::Dir => {
                    let below = if path.is_empty() { (*name).to_owned() } else { format!("{path}/{name}") };
                    let dir = words.object(item + 4, 0, 1);
                    words.text(dir, hex(&blake2b_128(below.as_bytes())).as_bytes());
                }
                What::File(data) => {
                    words.0[item] = data.len() as u64;
                    words.0[item + 1] |= 1;
                    let file = words.object(item + 4, 1, 1);
                    words.0[file] = 128;
                    let chunks = self.store(data, seal_xxtea);
                    let blocks = words.structs(file + 1, chunks.len(), 0, 2);
                    for (at, chunk) in chunks.iter().enumerate() {
                        let Chunk::Xxtea { id, key } = chunk else { unreachable!("it was sealed so") };
                        words.data(blocks + at * 2, id);
                        words.data(blocks + at * 2 + 1, key);
                    }
                }
                What::Symlink(target) => {
                    words.0[item + 1] |= 2;
                    let link = words.object(item + 4, 0, 1);
                    words.text(link, target);
                }
            }
        }
        words.message()
    }
}

/// The key that the rights of all that is made here have.
pub(crate) const RIGHTS_KEY: &str = "0123456789abcdef";

/// Nothing that is made here has to outlive a crash.
const FAST: &str = "PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF;";

const FLIST_SCHEMA: &str = "CREATE TABLE entries (key VARCHAR(64) PRIMARY KEY, value BLOB);
    CREATE TABLE metadata (key VARCHAR(64) PRIMARY KEY, value TEXT);";

const FL_SCHEMA: &str = "CREATE TABLE inode (ino INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER, name VARCHAR(255),
        size INTEGER, uid INTEGER, gid INTEGER, mode INTEGER, rdev INTEGER, ctime INTEGER, mtime INTEGER);
    CREATE INDEX parents ON inode (parent);
    CREATE TABLE extra (ino INTEGER PRIMARY KEY, data VARCHAR(4096));
    CREATE TABLE block (ino INTEGER, id VARCHAR(32), key VARCHAR(32));
    CREATE INDEX block_ino ON block (ino);
    CREATE TABLE tag (key VARCHAR(10) PRIMARY KEY, value VARCHAR(255));
    CREATE TABLE route (start integer, end integer, url VARCHAR(2048));";

/// Rights as a message.
pub(crate) fn rights(mode: u16, uid: i64, gid: i64) -> Vec<u8> {
    let mut words = Words::default();
    let root = words.root(3, 3);
    words.0[root] = mode.into();
    words.0[root + 1] = !uid.cast_unsigned();
    words.0[root + 2] = !gid.cast_unsigned();
    words.message()
}

/// A database as an archive has it.
pub(crate) fn archive(database: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..17].copy_from_slice(b"./flistdb.sqlite3");
    header[124..136].copy_from_slice(format!("{:011o}\0", database.len()).as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&header).expect("memory");
    encoder.write_all(database).expect("memory");
    encoder.write_all(&vec![0; database.len().next_multiple_of(512) - database.len() + 1024]).expect("memory");
    encoder.finish().expect("memory")
}

/// All bytes of a file of an flist, from the chunks in a directory.
pub(crate) fn content(flist: &Flist, inode: &crate::Inode, chunks: &Path) -> muxfs::Result<Vec<u8>> {
    let (len, found) = flist.chunks(inode.id, 0, 1000)?;
    let mut bytes = Vec::new();
    for chunk in found {
        let name = chunk.hex();
        let stored = fs::read(chunks.join(&name)).or_else(|_| fs::read(chunks.join(&name[..2]).join(&name)));
        let left = usize::try_from(inode.size.min(bytes.len() as u64 + len)).expect("short") - bytes.len();
        bytes.extend(chunk.open(&stored.expect("it is there"), left)?);
    }
    Ok(bytes)
}
