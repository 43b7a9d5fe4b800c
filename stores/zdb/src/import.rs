//! Import of the directories that 0-db keeps.
//!
//! Reads what 0-db 2 wrote: an index directory and a data directory, with one directory in each for a namespace. The
//! data files are the truth: every entry is checked against its checksum, and what is found is written as records of
//! ours, in the same order: history, deletion marks, timestamps, numbers and settings stay as they are. Then the index files are
//! held against it. A namespace is imported whole, under a number that has no name, and gets its name only when all of it was found
//! to be right and is durable. Spec: spec/zdb.md, "Import".

mod files;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use muxfs::{Error, ErrorKind, Result};
use rustix::fs::FlockOperation;

use self::files::{DataEntry, DataFile, Descriptor, IndexFile, numbered};
use crate::{
    engine::{DEFAULT_NAMESPACE, Engine, Importing, ModeRule},
    settings::{Mode, Settings},
    store::{Store, Want},
};

/// How much is read between two calls that tell the progress, in bytes.
const PROGRESS_LEN: u64 = 1 << 20;
/// More mismatches of one namespace than these tell nothing new.
const MISMATCH_COUNT_MAX: usize = 100;

/// Where 0-db kept what is imported.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its `--data`.
    pub data: PathBuf,
    /// Its `--index`.
    pub index: PathBuf,
}

/// How far an import is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The namespace that is being read.
    pub namespace: String,
    /// How many of its entries were read.
    pub entry_count: u64,
    /// How much of its data files was read, in bytes.
    pub done_len: u64,
    /// How long they are together, in bytes.
    pub len: u64,
}

/// Something that is not as 0-db writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The namespace.
    pub namespace: String,
    /// The file, as `d0` or `i0`.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong, in words.
    pub what: String,
}

/// What became of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its name.
    pub namespace: String,
    /// How many keys it has now.
    pub key_count: u64,
    /// How many records were written: current values, older ones and deletion marks.
    pub record_count: u64,
}

/// What an import came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What is there now.
    pub imported: Vec<Imported>,
    /// What was not imported because there is a namespace of that name with something in it.
    pub taken: Vec<String>,
    /// What was found wrong. A namespace with any of these is not imported.
    pub mismatches: Vec<Mismatch>,
}

/// Imports all namespaces of a 0-db that does not run. One that is here, empty, is replaced, settings included; one that
/// has something in it is left alone, and told in the report.
///
/// Reads files where it is called: for a program that does nothing else meanwhile.
///
/// # Errors
/// `NotFound` where there is no such directory; `Unavailable` while 0-db runs on it; and the media's. Namespaces that were
/// imported before stay.
pub async fn import(engine: &Engine, source: &Source, mut progress: impl FnMut(&Progress) + Send) -> Result<Report> {
    let _locks = (lock(&source.data)?, lock(&source.index)?);
    let mut report = Report::default();
    for name in namespaces(&source.index)? {
        let is_taken = engine.namespace(name.as_bytes()).is_some_and(|there| there.figures().next_id > 0);
        if is_taken {
            report.taken.push(name);
            continue;
        }
        let mut reader = Reader {
            name: name.clone(),
            data: source.data.join(&name),
            index: source.index.join(&name),
            mismatches: Vec::new(),
        };
        let imported = reader.import(engine, &mut progress).await?;
        report.mismatches.append(&mut reader.mismatches);
        match imported {
            Outcome::Imported(imported) => report.imported.push(imported),
            Outcome::Taken => report.taken.push(name),
            Outcome::Mismatched => {}
        }
    }
    Ok(report)
}

/// 0-db's checksum: CRC-32C that begins with 0 and is not inverted.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(u32::MAX, bytes)
}

/// Takes the lock that 0-db has while it runs, where there is one.
fn lock(dir: &Path) -> Result<Option<File>> {
    fs::metadata(dir).map_err(|error| io_error(dir, error))?;
    let path = dir.join(".lockfile");
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| io_error(&path, error))?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(ErrorKind::Unavailable, "zdb.import")
            .at(dir.display())
            .because("0-db runs on this directory: stop it first")),
        Err(error) => Err(io_error(&path, error.into())),
    }
}

/// The names of all namespaces, the default one first.
fn namespaces(index: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(index).map_err(|error| io_error(index, error))? {
        let entry = entry.map_err(|error| io_error(index, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().join("zdb-namespace").is_file() {
            names.push(name);
        }
    }
    names.sort_by_key(|name| (name != DEFAULT_NAMESPACE, name.clone()));
    Ok(names)
}

fn io_error(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Io,
    };
    Error::new(kind, "zdb.import").at(path.display()).because(error)
}

enum Outcome {
    Imported(Imported),
    Taken,
    Mismatched,
}

/// Reads one namespace of 0-db.
struct Reader {
    name: String,
    data: PathBuf,
    index: PathBuf,
    mismatches: Vec<Mismatch>,
}

impl Reader {
    async fn import(&mut self, engine: &Engine, progress: &mut (impl FnMut(&Progress) + Send)) -> Result<Outcome> {
        let Some((settings, indexes)) = self.settings(engine.mode_rule())? else { return Ok(Outcome::Mismatched) };
        let importing = engine.begin_import(settings.mode).await?;
        match self.fill(&importing, &indexes, progress).await {
            Ok(record_count) if self.mismatches.is_empty() => {
                let key_count = importing.store.lock().len();
                if engine.end_import(importing, &self.name, settings).await? {
                    Ok(Outcome::Imported(Imported { namespace: self.name.clone(), key_count, record_count }))
                } else {
                    Ok(Outcome::Taken)
                }
            }
            filled => {
                engine.give_up_import(importing).await;
                filled.map(|_| Outcome::Mismatched)
            }
        }
    }

    /// Writes what the data files have and holds the index files against it; how many records.
    async fn fill(
        &mut self,
        importing: &Importing,
        indexes: &BTreeMap<u32, PathBuf>,
        progress: &mut (impl FnMut(&Progress) + Send),
    ) -> Result<u64> {
        let store = &importing.store;
        let files = numbered(&self.data, 'd').map_err(|error| io_error(&self.data, error))?;
        self.check_numbers("d", &files);
        let mut told = Progress { namespace: self.name.clone(), entry_count: 0, done_len: 0, len: 0 };
        for path in files.values() {
            told.len += fs::metadata(path).map_err(|error| io_error(path, error))?.len();
        }
        progress(&told);
        let mut told_len = 0;
        for (number, path) in &files {
            let file = format!("d{number}");
            let mut reader = match DataFile::open(path).map_err(|error| io_error(path, error))? {
                Ok(reader) => reader,
                Err(what) => {
                    self.mismatch(&file, 0, what);
                    continue;
                }
            };
            let before = told.done_len;
            loop {
                let offset = reader.offset();
                let entry = match reader.next().map_err(|error| io_error(path, error))? {
                    Ok(Some(entry)) => entry,
                    Ok(None) => break,
                    Err(what) => {
                        self.mismatch(&file, offset, what);
                        break;
                    }
                };
                told.entry_count += 1;
                told.done_len = before + reader.offset();
                if told.done_len >= told_len + PROGRESS_LEN {
                    told_len = told.done_len;
                    progress(&told);
                }
                // What is wrong is told to the end, but written is nothing more.
                if self.check_entry(store, &file, offset, &entry) && self.mismatches.is_empty() {
                    put(store, entry).await?;
                }
            }
            told.done_len = before + fs::metadata(path).map_err(|error| io_error(path, error))?.len();
        }
        progress(&told);
        if self.mismatches.is_empty() {
            self.check_index(store, indexes).await?;
        }
        Ok(told.entry_count)
    }

    /// What is set about the namespace, and its index files; `None` where that cannot be told.
    fn settings(&mut self, rule: ModeRule) -> Result<Option<(Settings, BTreeMap<u32, PathBuf>)>> {
        let path = self.index.join("zdb-namespace");
        let bytes = fs::read(&path).map_err(|error| io_error(&path, error))?;
        let Some(descriptor) = Descriptor::decode(&bytes) else {
            self.mismatch("zdb-namespace", 0, "it is none of version 1".into());
            return Ok(None);
        };
        if descriptor.name != self.name.as_bytes() {
            self.mismatch("zdb-namespace", 0, "it is of a namespace of another name".into());
        }
        let indexes = numbered(&self.index, 'i').map_err(|error| io_error(&self.index, error))?;
        self.check_numbers("i", &indexes);
        let Some(first) = indexes.values().next() else { return Ok(None) };
        let mode = match IndexFile::open(first).map_err(|error| io_error(first, error))? {
            Ok(index) => index.mode,
            Err(what) => {
                self.mismatch("i0", 0, what);
                return Ok(None);
            }
        };
        if let ModeRule::Only(only) = rule
            && only != mode
        {
            let what = "the namespace is in another mode than all of this node are";
            self.mismatch("i0", 28, what.into());
        }
        let Descriptor { public, worm, maxsize, password, .. } = descriptor;
        let settings = Settings { password, public, maxsize, worm, ..Settings::new(mode) };
        Ok(self.mismatches.is_empty().then_some((settings, indexes)))
    }

    /// Whether files are numbered without a gap, from 0 on.
    fn check_numbers(&mut self, kind: &str, files: &BTreeMap<u32, PathBuf>) {
        let missing = (0..).zip(files.keys()).find(|(wanted, number)| wanted != *number).map(|(wanted, _)| wanted);
        let missing = missing.or(files.is_empty().then_some(0));
        if let Some(number) = missing {
            self.mismatch(&format!("{kind}{number}"), 0, "the file is missing".into());
        }
    }

    fn check_entry(&mut self, store: &Store, file: &str, offset: u64, entry: &DataEntry) -> bool {
        if store.name(&entry.key).is_none() {
            self.mismatch(file, offset, "its key is none of a sequential namespace".into());
            return false;
        }
        if !entry.is_deleted && crc(&entry.value) != entry.crc {
            self.mismatch(file, offset, "the value fails its checksum".into());
            return false;
        }
        true
    }

    /// Holds the index files against what was written: the same keys, values of the same length and time.
    async fn check_index(&mut self, store: &Arc<Store>, indexes: &BTreeMap<u32, PathBuf>) -> Result<()> {
        let (mut count, mut id) = (0, 0_u64);
        for (number, path) in indexes {
            let file = format!("i{number}");
            let mut reader = match IndexFile::open(path).map_err(|error| io_error(path, error))? {
                Ok(reader) if reader.mode == store.mode() => reader,
                Ok(_) => {
                    self.mismatch(&file, 28, "the index file is of another mode".into());
                    continue;
                }
                Err(what) => {
                    self.mismatch(&file, 0, what);
                    continue;
                }
            };
            loop {
                let offset = reader.offset();
                let item = match reader.next().map_err(|error| io_error(path, error))? {
                    Ok(Some(item)) => item,
                    Ok(None) => break,
                    Err(what) => {
                        self.mismatch(&file, offset, what);
                        break;
                    }
                };
                id += 1;
                if item.is_deleted {
                    continue;
                }
                count += 1;
                match store.find(&item.key, Want::Head).await? {
                    None => self.mismatch(&file, offset, "the data files have no value of this key".into()),
                    Some(found) if found.value_len != item.len || found.head.timestamp != item.timestamp => {
                        self.mismatch(&file, offset, "the data files have another value of this key".into());
                    }
                    Some(_) => {}
                }
            }
        }
        let key_count = store.lock().len();
        if self.mismatches.is_empty() && count != key_count {
            let what = format!("the index files have {count} keys, the data files {key_count}");
            self.mismatch("i0", 0, what);
        }
        // Every item took a number, whatever became of it.
        if store.mode() == Mode::Sequential {
            store.note(id).await?;
        }
        Ok(())
    }

    fn mismatch(&mut self, file: &str, offset: u64, what: String) {
        if self.mismatches.len() < MISMATCH_COUNT_MAX {
            self.mismatches.push(Mismatch { namespace: self.name.clone(), file: file.into(), offset, what });
        }
    }
}

async fn put(store: &Arc<Store>, entry: DataEntry) -> Result<()> {
    let DataEntry { key, value, timestamp, is_deleted, .. } = entry;
    store.import(key, (!is_deleted).then_some(value), timestamp).await
}
