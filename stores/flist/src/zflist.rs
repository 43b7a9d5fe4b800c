//! The format of `zflist`, `.flist`: an SQLite table of Cap'n Proto directories and rights, each under a hash.
//!
//! A directory is found under the hash of its path, so what is below a directory is always longer by a name: a directory
//! whose key is not that of its own path, or of what it is said to be below, is refused, and no loop can be made.
//! Spec: spec/flist.md #flist.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use muxfs::{Error, ErrorKind, FileKind, Result, vfs::Rdev};
use rusqlite::OptionalExtension as _;

use crate::{
    capnp::{Fault, Message, Struct},
    chunk::{Chunk, blake2b_128, hex},
    database::Database,
    inode::{DirKey, Entry, Inode, NodeId, corrupt, name, size, target, time},
    values::Values,
};

/// What the number of a file's block length counts, in bytes.
const BLOCK_UNIT: u64 = 4096;
/// The block length of a file that names none, in bytes.
const BLOCK_LEN_DEFAULT: u64 = 512 << 10;
/// What zflist writes beside a pipe or a socket.
const NO_DATA: &[u8] = b"(nothing)";
/// So many rights are remembered: images have a few dozen.
const RIGHTS_COUNT_MAX: usize = 4096;
/// The longest key of rights, in bytes. Writers make 16 digits.
const RIGHTS_KEY_LEN_MAX: usize = 64;
/// Who owns what names nobody that is known, and what has no rights: as 0-fs has it.
const ID_UNKNOWN: u32 = 1000;
const MODE_UNKNOWN: u32 = 0o400;

/// Mode, owner and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rights {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// An opened `.flist`.
#[derive(Debug)]
pub(crate) struct Zflist {
    pub(crate) database: Database,
    rights: Mutex<HashMap<Vec<u8>, Rights>>,
    values: Values,
}

/// What a directory says of itself.
struct DirHead {
    path: Vec<u8>,
    rights_key: Vec<u8>,
    size: u64,
    mtime: u32,
    ctime: u32,
}

fn key_of(path: &[u8]) -> DirKey {
    blake2b_128(path)
}

/// A path as errors show it.
fn shown(path: &[u8]) -> String {
    format!("directory /{}", path.get(..200).unwrap_or(path).escape_ascii())
}

impl Zflist {
    /// Reads a database, and remembers directories with others that have the same `values`.
    pub(crate) fn new(database: Database, values: Values) -> Self {
        Self { database, rights: Mutex::default(), values }
    }

    /// The value under a key.
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let text = String::from_utf8_lossy(key);
        self.database.query("the table entries", |connection| {
            let mut statement = connection.prepare_cached("SELECT value FROM entries WHERE key = ?1")?;
            let value =
                statement.query_row([&*text], |row| Ok(row.get_ref(0)?.as_bytes_or_null()?.map(<[u8]>::to_vec)));
            value.optional().map(Option::flatten)
        })
    }

    /// The value of the directory under a key, read or remembered; `at` is what errors call it.
    fn dir_value(&self, key: &DirKey, at: &str) -> Result<Arc<[u8]>> {
        if let Some(value) = self.values.get(key) {
            return Ok(value);
        }
        let value = self.value(hex(key).as_bytes())?;
        let value: Arc<[u8]> = value.ok_or_else(|| corrupt(at, "the table entries does not have it"))?.into();
        self.values.keep(*key, value.clone());
        Ok(value)
    }

    /// Reads the directory under a key.
    ///
    /// # Errors
    /// `Corrupt` naming the directory, also where it is not there.
    fn dir<T>(&self, key: &DirKey, read: impl FnOnce(&DirHead, Struct<'_>) -> Result<T>) -> Result<T> {
        let at = format!("directory {}", hex(key));
        let value = self.dir_value(key, &at)?;
        let message = Message::new(&value).map_err(|why| corrupt(&at, why))?;
        let (root, head) = dir_head(&message).map_err(|why| corrupt(&at, why))?;
        if key_of(&head.path) != *key {
            return Err(corrupt(&at, format!("it says to be {}, whose key is another", shown(&head.path))));
        }
        read(&head, root)
    }

    pub(crate) fn root(&self) -> Result<Inode> {
        let key = key_of(b"");
        self.dir(&key, |head, _| {
            let rights = self.rights(&head.rights_key, "directory /")?;
            let time = |seconds: u32| time(seconds.into()).ok_or_else(|| corrupt("directory /", "its time is none"));
            Ok(Inode {
                id: NodeId::Root,
                kind: FileKind::Dir,
                mode: rights.mode,
                uid: rights.uid,
                gid: rights.gid,
                rdev: Rdev::default(),
                size: size(head.size, "directory /")?,
                mtime: time(head.mtime)?,
                ctime: time(head.ctime)?,
                target: bytes::Bytes::new(),
                dir_key: Some(key),
            })
        })
    }

    pub(crate) fn children(&self, key: &DirKey) -> Result<Vec<Entry>> {
        self.dir(key, |head, root| {
            let list = root.list(2).map_err(|why| corrupt(shown(&head.path), why))?;
            let entries = list.iter().enumerate();
            entries.map(|(index, item)| self.entry(key, head, u32::try_from(index).unwrap_or(u32::MAX), item)).collect()
        })
    }

    pub(crate) fn inode(&self, dir: &DirKey, index: u32) -> Result<Option<Inode>> {
        self.dir(dir, |head, root| {
            let list = root.list(2).map_err(|why| corrupt(shown(&head.path), why))?;
            let Some(item) = usize::try_from(index).ok().and_then(|index| list.get(index)) else { return Ok(None) };
            self.entry(dir, head, index, item).map(|entry| Some(entry.inode))
        })
    }

    /// The node that the directory under a key is.
    pub(crate) fn node_of_dir(&self, key: &DirKey) -> Result<NodeId> {
        let path = self.dir(key, |head, _| Ok(head.path.clone()))?;
        if path.is_empty() {
            return Ok(NodeId::Root);
        }
        let (above, last) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
            None => (&b""[..], &path[..]),
        };
        let dir = key_of(above);
        self.dir(&dir, |head, root| {
            let bad = |why: Fault| corrupt(shown(&head.path), why);
            for (index, item) in root.list(2).map_err(bad)?.iter().enumerate() {
                if item.text(0).map_err(bad)? == last {
                    return Ok(NodeId::Entry { dir, index: u32::try_from(index).unwrap_or(u32::MAX) });
                }
            }
            Err(corrupt(shown(&path), "the directory above does not have it"))
        })
    }

    /// The chunks of a file from the `first` on, `count` at most, and how long each of the file's is, but the last.
    pub(crate) fn chunks(&self, dir: &DirKey, index: u32, first: u64, count: usize) -> Result<(u64, Vec<Chunk>)> {
        self.dir(dir, |head, root| {
            let at = || format!("entry {index} of {}", shown(&head.path));
            let read = || -> std::result::Result<_, Fault> {
                let list = root.list(2)?;
                let item = usize::try_from(index).ok().and_then(|index| list.get(index)).ok_or("it is not there")?;
                let Some(file) = item.at(1)?.filter(|_| item.u16(8) == 1) else { return Err("it is no file".into()) };
                let blocks = file.list(0)?;
                let first = usize::try_from(first).unwrap_or(usize::MAX);
                let wanted = (first..blocks.len()).take(count).filter_map(|at| blocks.get(at));
                let chunks = wanted.map(|block| {
                    let hash = |number: usize| -> std::result::Result<[u8; 16], Fault> {
                        let hash = block.data(number)?;
                        hash.try_into().map_err(|_| format!("a hash of a chunk has {} bytes and not 16", hash.len()))
                    };
                    Ok(Chunk::Xxtea { id: hash(0)?, key: hash(1)? })
                });
                Ok((block_len(&file), chunks.collect::<std::result::Result<Vec<_>, Fault>>()?))
            };
            read().map_err(|why| corrupt(at(), why))
        })
    }

    fn entry(&self, dir: &DirKey, head: &DirHead, index: u32, item: Struct<'_>) -> Result<Entry> {
        let at = || format!("entry {index} of {}", shown(&head.path));
        let bad = |why: Fault| corrupt(at(), why);
        let name = name(item.text(0).map_err(bad)?, at())?;
        let at = || format!("{} in {}", name, shown(&head.path));
        let bad = |why: Fault| corrupt(at(), why);
        let rights = self.rights(item.text(2).map_err(bad)?, &at())?;
        let time = |seconds: u32| time(seconds.into()).ok_or_else(|| corrupt(at(), "its time is none"));
        let mut inode = Inode {
            id: NodeId::Entry { dir: *dir, index },
            kind: FileKind::File,
            mode: rights.mode,
            uid: rights.uid,
            gid: rights.gid,
            rdev: Rdev::default(),
            size: size(item.u64(0), at())?,
            mtime: time(item.u32(12))?,
            ctime: time(item.u32(16))?,
            target: bytes::Bytes::new(),
            dir_key: None,
        };
        let what = item.at(1).map_err(bad)?;
        match item.u16(8) {
            0 => {
                let path = if head.path.is_empty() {
                    name.as_bytes().to_vec()
                } else {
                    [&head.path, &b"/"[..], name.as_bytes()].concat()
                };
                let key = what.map(|dir| dir.text(0)).transpose().map_err(bad)?.unwrap_or_default();
                let expected = key_of(&path);
                if key != hex(&expected).as_bytes() {
                    let key = String::from_utf8_lossy(key.get(..64).unwrap_or(key)).into_owned();
                    return Err(corrupt(at(), format!("its key is {key:?}, and that of its path {}", hex(&expected))));
                }
                inode.kind = FileKind::Dir;
                inode.dir_key = Some(expected);
            }
            1 => {}
            2 => {
                let text = what.map(|link| link.text(0)).transpose().map_err(bad)?.unwrap_or_default();
                inode.kind = FileKind::Symlink;
                inode.mode = 0o777;
                inode.target = target(text, at())?;
                inode.size = inode.target.len() as u64;
            }
            3 => {
                let kind = what.map_or(4, |special| special.u16(0));
                let data = what.map(|special| special.data(0)).transpose().map_err(bad)?.unwrap_or_default();
                inode.size = 0;
                (inode.kind, inode.rdev) = special(kind, data).ok_or_else(|| {
                    let data = data.get(..64).unwrap_or(data).escape_ascii().to_string();
                    corrupt(at(), format!("{data:?} are not the numbers of a device, as 1,3"))
                })?;
            }
            kind => return Err(corrupt(at(), format!("it is of kind {kind}, which is none"))),
        }
        Ok(Entry { name, inode })
    }

    /// The rights under a key.
    fn rights(&self, key: &[u8], at: &str) -> Result<Rights> {
        let known = |rights: &Mutex<HashMap<Vec<u8>, Rights>>| {
            rights.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
        };
        if let Some(rights) = known(&self.rights) {
            return Ok(rights);
        }
        if key.len() > RIGHTS_KEY_LEN_MAX {
            return Err(corrupt(at, format!("the key of its rights has {} bytes", key.len())));
        }
        let unknown = Rights { mode: MODE_UNKNOWN, uid: ID_UNKNOWN, gid: ID_UNKNOWN };
        let rights = match self.value(key)? {
            None => unknown,
            Some(value) => read_rights(&value)
                .map_err(|why| corrupt(at, format!("its rights {}: {why}", String::from_utf8_lossy(key))))?,
        };
        let mut all = self.rights.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= RIGHTS_COUNT_MAX {
            all.clear();
        }
        all.insert(key.to_vec(), rights);
        Ok(rights)
    }

    /// What the table `metadata` says, in its order; nothing where there is none.
    pub(crate) fn metadata(&self) -> Result<Vec<(String, String)>> {
        if self.database.tables(&["metadata"])?.is_empty() {
            return Ok(Vec::new());
        }
        crate::metadata::pairs(&self.database, "metadata")
    }

    /// What the backend of the metadata is, as an address of a source; `None` where there is none.
    pub(crate) fn backend(&self) -> Result<Option<String>> {
        let Some((_, text)) = self.metadata()?.into_iter().find(|(key, _)| key == "backend") else { return Ok(None) };
        crate::metadata::backend_url(&text).map(Some).map_err(|why| {
            Error::new(ErrorKind::Corrupt, "flist.read").at(self.database.name()).because(format!("backend: {why}"))
        })
    }
}

fn dir_head<'a>(message: &'a Message<'a>) -> std::result::Result<(Struct<'a>, DirHead), Fault> {
    let root = message.root()?;
    let head = DirHead {
        path: root.text(1)?.to_vec(),
        rights_key: root.text(4)?.to_vec(),
        size: root.u64(0),
        mtime: root.u32(8),
        ctime: root.u32(12),
    };
    Ok((root, head))
}

/// How long the blocks of a file are, in bytes.
fn block_len(file: &Struct<'_>) -> u64 {
    match u64::from(file.u16(0)) * BLOCK_UNIT {
        0 => BLOCK_LEN_DEFAULT,
        len => len,
    }
}

fn read_rights(value: &[u8]) -> std::result::Result<Rights, Fault> {
    let message = Message::new(value)?;
    let root = message.root()?;
    // Their default is -1, which the encoding stores as 0.
    let id = |offset: usize, name: usize| -> std::result::Result<u32, Fault> {
        let id = !root.u64(offset);
        if id == u64::MAX {
            return Ok(id_of_name(root.text(name)?));
        }
        u32::try_from(id).map_err(|_| format!("{} is no number of a user or a group", id.cast_signed()))
    };
    Ok(Rights { mode: u32::from(root.u16(0)) & 0o7777, uid: id(8, 0)?, gid: id(16, 1)? })
}

/// The number of a user or a group that is known by name alone. Who has the name on this machine does not matter: the
/// same flist is the same everywhere.
fn id_of_name(name: &[u8]) -> u32 {
    if name == b"root" {
        return 0;
    }
    std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()).unwrap_or(ID_UNKNOWN)
}

/// What a special file is; `None` for a device without its numbers.
///
/// zflist leaves the type 0, which is that of a socket, whatever it is, and writes `(nothing)` beside a pipe or a socket:
/// of the two a pipe is what images have.
fn special(kind: u16, data: &[u8]) -> Option<(FileKind, Rdev)> {
    let device = rdev(data);
    Some(match (kind, device) {
        (0 | 2, Some(rdev)) => (FileKind::CharDevice, rdev),
        (1, Some(rdev)) => (FileKind::BlockDevice, rdev),
        (1 | 2, None) => return None,
        (0, None) if data == NO_DATA => (FileKind::Fifo, Rdev::default()),
        (0, None) => (FileKind::Socket, Rdev::default()),
        (3, _) => (FileKind::Fifo, Rdev::default()),
        // What its maker did not know either: an empty file.
        _ => (FileKind::File, Rdev::default()),
    })
}

fn rdev(data: &[u8]) -> Option<Rdev> {
    let text = std::str::from_utf8(data).ok()?.trim_end_matches('\0');
    let (major, minor) = text.split_once(',')?;
    Some(Rdev { major: major.trim().parse().ok()?, minor: minor.trim().parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_files_are_told_by_their_type_or_their_data() {
        let rdev = Rdev { major: 1, minor: 3 };
        for (kind, data, found) in [
            (0, &b"(nothing)"[..], Some((FileKind::Fifo, Rdev::default()))),
            (0, b"", Some((FileKind::Socket, Rdev::default()))),
            (0, b"1,3", Some((FileKind::CharDevice, rdev))),
            (1, b"1,3", Some((FileKind::BlockDevice, rdev))),
            (2, b"1, 3\0", Some((FileKind::CharDevice, rdev))),
            (3, b"(nothing)", Some((FileKind::Fifo, Rdev::default()))),
            (4, b"", Some((FileKind::File, Rdev::default()))),
            (1, b"(nothing)", None),
            (2, b"1,x", None),
            (2, b"-1,3", None),
        ] {
            assert_eq!(special(kind, data), found, "{kind} {data:?}");
        }
    }

    /// The directory is there once, though each of its entries is looked at by itself.
    #[test]
    fn a_directory_is_read_once_for_all_its_entries() {
        let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/flist/small.flist");
        let world = crate::tests::made::World::new();
        let unpacked = world.path("scratch/database");
        let packed = std::fs::File::open(path).expect("opens");
        crate::archive::unpack(packed, 1 << 20, &mut std::fs::File::create(&unpacked).expect("made"), 1 << 30)
            .expect("unpacked");
        let values = crate::values::AllValues::default().of(crate::FlistId([0; 16]));
        let flist = Zflist::new(Database::open(&unpacked, "small".into()).expect("opens"), values);
        let key = blake2b_128(b"etc");
        let first = flist.dir_value(&key, "etc").expect("read");
        for entry in flist.children(&key).expect("listed") {
            let NodeId::Entry { dir, index } = entry.inode.id else { panic!("an entry") };
            flist.inode(&dir, index).expect("read").expect("there");
        }
        let again = flist.dir_value(&key, "etc").expect("remembered");
        assert!(Arc::ptr_eq(&first, &again));
    }

    #[test]
    fn names_of_users_are_numbers_or_nobody_known() {
        for (name, id) in [(&b"root"[..], 0), (b"1234", 1234), (b"", 1000), (b"www-data", 1000), (b"-7", 1000)] {
            assert_eq!(id_of_name(name), id);
        }
    }
}
