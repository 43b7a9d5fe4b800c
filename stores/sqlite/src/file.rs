//! The file: its tables, how it is told from those of others, and how a connection to it is set up.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use muxfs::{Error, ErrorKind, Result, block::BLOCK_LEN_MAX};
use rusqlite::{Connection, OpenFlags, config::DbConfig, limits::Limit};

use crate::failed::{corrupt, failed};

/// Tells the file from those of other programs: `MuxB`.
const APPLICATION_ID: i32 = 0x4d75_7842;
/// The version of the tables.
const FORMAT: i32 = 1;
/// The tables as SQLite keeps them. What it made of `UNIQUE` and `PRIMARY KEY` has no text.
const TABLES: [(&str, &str); 3] = [
    (
        "blocks",
        "CREATE TABLE blocks (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, crc INTEGER NOT NULL, block BLOB NOT NULL) STRICT",
    ),
    (
        "heads",
        "CREATE TABLE heads (name BLOB PRIMARY KEY, number INTEGER NOT NULL, crc INTEGER NOT NULL, head BLOB NOT NULL) STRICT, WITHOUT ROWID",
    ),
    (
        "totals",
        "CREATE TABLE totals (id INTEGER PRIMARY KEY, block_count INTEGER NOT NULL, block_len INTEGER NOT NULL, head_count INTEGER NOT NULL, sync_count INTEGER NOT NULL) STRICT",
    ),
];
/// How long a page is, in bytes: of a long block each is one of a chain, of small ones many are in one.
pub(crate) const PAGE_LEN: u32 = 8192;
/// A row is no longer, in bytes: a block, its key, and what SQLite adds.
const ROW_LEN_MAX: usize = BLOCK_LEN_MAX + 4096;
/// What the log holds before it is put into the file, in bytes. It is cut off there, too.
pub(crate) const LOG_LEN: u32 = 64 << 20;
/// Another process may hold the file for a moment: an administrator's shell, or one that reads.
const BUSY_TIME_MAX: Duration = Duration::from_secs(10);
/// What a connection keeps of the file in memory, in KiB.
const CACHE_KIB_WRITER: i32 = 16 << 10;
const CACHE_KIB_READER: i32 = 2 << 10;
const OP: &str = "sqlite.open";

/// How a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Write,
    Read,
    /// Of a file that nobody changes, in a place where nothing can be made beside it.
    ReadUnchanging,
}

/// A file of SQLite's beside the database.
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(suffix);
    name.into()
}

/// The one path of a database: links are followed, so that it has one lock.
///
/// # Errors
/// `NotFound` where its directory is absent; `Io`.
pub(crate) fn one_path(path: &Path) -> Result<PathBuf> {
    let io = |error: io::Error| io_error(path, error);
    let path = std::path::absolute(path).map_err(io)?;
    match path.canonicalize() {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match (path.parent(), path.file_name()) {
            (Some(dir), Some(name)) => Ok(dir.canonicalize().map_err(io)?.join(name)),
            _ => Err(io(error)),
        },
        Err(error) => Err(io(error)),
    }
}

fn io_error(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    };
    Error::new(kind, OP).at(path.display()).because(error)
}

/// Opens the file to write and makes what is lacking of it; who calls has its lock. `len_max` bounds the file, in bytes.
///
/// # Errors
/// `InvalidArgument` where it is another program's; `Unsupported` where it is of a newer version; `Corrupt`, `NoSpace`, `Io`.
pub(crate) fn open_writer(path: &Path, len_max: Option<u64>) -> Result<Connection> {
    // So that it is nobody else's to read; what SQLite makes beside it is like it.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_made) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io_error(path, error)),
    }
    let mut connection = connect(path, Mode::Write)?;
    let is_new = make(&mut connection).map_err(|error| failed(OP, error).at(path.display()))?;
    if is_new {
        let dir = path.parent().unwrap_or(path);
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| io_error(dir, error))?;
    }
    check(&connection, path)?;
    let set = || {
        let journal: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update_and_check(None, "wal_autocheckpoint", LOG_LEN / PAGE_LEN, |_| Ok(()))?;
        connection.pragma_update_and_check(None, "journal_size_limit", LOG_LEN, |_| Ok(()))?;
        if let Some(len_max) = len_max {
            let page_len: u64 = connection.pragma_query_value(None, "page_size", |row| row.get::<_, u32>(0))?.into();
            let count = u32::try_from(len_max / page_len.max(1)).unwrap_or(u32::MAX - 1).max(1);
            connection.pragma_update_and_check(None, "max_page_count", count, |_| Ok(()))?;
        }
        // What a process that was killed committed may be there and not be durable: this syncs it, too.
        connection.execute("UPDATE totals SET sync_count = sync_count + 1 WHERE id = 1", [])?;
        Ok::<_, rusqlite::Error>(journal)
    };
    let journal = set().map_err(|error| failed(OP, error).at(path.display()))?;
    if journal != "wal" {
        let why = "the file system has no memory that processes share, which SQLite's write-ahead log needs";
        return Err(Error::new(ErrorKind::Unsupported, OP).at(path.display()).because(why));
    }
    Ok(connection)
}

/// Opens the file to read; how, where it is known already.
///
/// # Errors
/// As [`open_writer`]; `NotFound`.
pub(crate) fn open_reader(path: &Path) -> Result<(Connection, Mode)> {
    fs::metadata(path).map_err(|error| io_error(path, error))?;
    let opened = connect(path, Mode::Read).and_then(|connection| check(&connection, path).map(|()| connection));
    let Err(error) = opened else { return opened.map(|connection| (connection, Mode::Read)) };
    // In a directory that cannot be written the log and its shared memory cannot be made, nor are they needed.
    let has_log = fs::metadata(beside(path, "-wal")).is_ok_and(|log| log.len() > 0);
    if has_log || matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::InvalidArgument | ErrorKind::Unsupported) {
        return Err(error);
    }
    let connection = connect(path, Mode::ReadUnchanging)?;
    check(&connection, path)?;
    Ok((connection, Mode::ReadUnchanging))
}

/// One more connection to a file that was checked.
pub(crate) fn connect(path: &Path, mode: Mode) -> Result<Connection> {
    let open = || {
        let access = match mode {
            Mode::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
            Mode::Read | Mode::ReadUnchanging => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = match mode {
            Mode::ReadUnchanging => Connection::open_with_flags(uri(path), flags | OpenFlags::SQLITE_OPEN_URI)?,
            Mode::Write | Mode::Read => Connection::open_with_flags(path, flags)?,
        };
        connection.busy_timeout(BUSY_TIME_MAX)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::try_from(ROW_LEN_MAX).unwrap_or(i32::MAX))?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        let cache = if mode == Mode::Write { CACHE_KIB_WRITER } else { CACHE_KIB_READER };
        connection.pragma_update(None, "temp_store", "memory")?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.pragma_update(None, "cache_size", -cache)?;
        Ok(connection)
    };
    open().map_err(|error| failed(OP, error).at(path.display()))
}

/// Makes the tables where there is nothing at all. Whether it did.
fn make(connection: &mut Connection) -> rusqlite::Result<bool> {
    if connection.pragma_query_value(None, "application_id", |row| row.get::<_, i32>(0))? != 0
        || connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))? != 0
    {
        return Ok(false);
    }
    connection.pragma_update(None, "page_size", PAGE_LEN)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    let all = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for (_, sql) in TABLES {
        all.execute(sql, [])?;
    }
    all.execute("INSERT INTO totals VALUES (1, 0, 0, 0, 0)", [])?;
    all.pragma_update(None, "application_id", APPLICATION_ID)?;
    all.pragma_update(None, "user_version", FORMAT)?;
    all.commit()?;
    Ok(true)
}

/// Whether the file is one of ours.
fn check(connection: &Connection, path: &Path) -> Result<()> {
    let at = |error: rusqlite::Error| failed(OP, error).at(path.display());
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(at);
    let id = number("application_id")?;
    if id != APPLICATION_ID {
        let why = format!("it is an SQLite database, but no store of MuxFS: its application_id is {id:#010x}");
        return Err(Error::new(ErrorKind::InvalidArgument, OP).at(path.display()).because(why));
    }
    let format = number("user_version")?;
    if format != FORMAT {
        let why = format!("its tables are of version {format}, and this program knows version {FORMAT}");
        return Err(Error::new(ErrorKind::Unsupported, OP).at(path.display()).because(why));
    }
    let tables = || {
        // What ANALYZE made is somebody's, and does no harm.
        let sql =
            "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name LIMIT 100";
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?)))?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    let tables = tables().map_err(at)?;
    let tables: Vec<_> = tables.iter().map(|(name, sql)| (name.as_str(), sql.as_deref().unwrap_or_default())).collect();
    if tables != TABLES {
        let names: Vec<_> = tables.iter().map(|(name, _)| *name).collect();
        let why = format!("its tables are not those of version {FORMAT}: {}", names.join(", "));
        return Err(corrupt(OP, why).at(path.display()));
    }
    Ok(())
}

/// A path as SQLite takes it with parameters: what is neither a letter nor a digit of it in hex.
fn uri(path: &Path) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(byte);
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    let encoded = bytes.map(|byte| if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02x}") });
    format!("file:{}?immutable=1", encoded.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in a directory where nothing can be made is read as one that nobody changes, whatever its name is.
    #[test]
    fn a_file_that_nobody_changes_needs_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a file?mode=memory&x=%41#1.sqlite");
        drop(open_writer(&path, None).expect("made"));
        let connection = connect(&path, Mode::ReadUnchanging).expect("opened");
        check(&connection, &path).expect("it is one of ours");
        let names: Vec<_> =
            fs::read_dir(dir.path()).expect("listed").map(|entry| entry.expect("an entry").path()).collect();
        assert_eq!(names, [path]);
    }

    /// A crash while it is made leaves nothing, or all of it but the log: the next opening goes on from there.
    #[test]
    fn what_is_half_made_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, is_made) in [("empty", false), ("no log yet", true)] {
            let path = dir.path().join(name);
            File::create(&path).expect("made");
            if is_made {
                assert!(make(&mut connect(&path, Mode::Write).expect("opened")).expect("made"));
            }
            let connection = open_writer(&path, None).expect("opened");
            check(&connection, &path).expect("it is one of ours");
            let vacuum: i32 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0)).expect("told");
            assert_eq!(vacuum, 2, "incremental");
        }
    }
}
