//! An SQLite file that somebody else made, opened so that it can only be read and costs a bounded amount.
//!
//! Nothing that its schema could run is run: only ordinary tables are read, views and triggers are off, and functions in
//! the schema are not trusted. A query that takes too many steps is ended, a value that is too long is refused. The file
//! is opened as one that nobody changes, so that no lock, journal or shared memory is made beside it.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use muxfs::{Error, ErrorKind, Result};
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig, limits::Limit};

use crate::chunk::hex;

/// The longest value that is read, in bytes: a directory of some hundred thousand entries.
pub(crate) const VALUE_LEN_MAX: usize = 64 << 20;
/// How many steps of SQLite's machine a query may take: some ten for each row it looks at.
const STEP_COUNT_MAX: u64 = 1 << 28;
/// After so many steps they are counted.
const STEP_COUNT_EACH: u32 = 1 << 12;
/// What a connection keeps of the file in memory, in KiB.
const CACHE_KIB: i32 = 2048;

/// A database that is read.
pub(crate) struct Database {
    connection: Mutex<Connection>,
    /// How many steps the query took that is under way, in units of [`STEP_COUNT_EACH`].
    steps: Arc<AtomicU64>,
    name: String,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Database({})", self.name)
    }
}

impl Database {
    /// Opens the file at `path`; errors call it `name`.
    ///
    /// # Errors
    /// `Corrupt` where it is no SQLite database, `Io`.
    pub(crate) fn open(path: &Path, name: String) -> Result<Self> {
        let steps = Arc::new(AtomicU64::new(0));
        let counted = steps.clone();
        let opened = (|| {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
            let mut connection = Connection::open_with_flags(uri(path), flags)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
            connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::try_from(VALUE_LEN_MAX).unwrap_or(i32::MAX))?;
            connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
            connection.pragma_update(None, "cell_size_check", true)?;
            connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
            connection.pragma_update(None, "mmap_size", 0)?;
            connection.pragma_update(None, "query_only", true)?;
            let each = i32::try_from(STEP_COUNT_EACH).unwrap_or(i32::MAX);
            let is_over = move || counted.fetch_add(1, Ordering::Relaxed) > STEP_COUNT_MAX / u64::from(STEP_COUNT_EACH);
            connection.progress_handler(each, Some(is_over))?;
            Ok(connection)
        })();
        match opened {
            Ok(connection) => Ok(Self { connection: Mutex::new(connection), steps, name }),
            Err(error) => Err(failed(&error, "it cannot be opened").at(name)),
        }
    }

    /// Carries out a query; `what` says what it reads.
    ///
    /// # Errors
    /// `Corrupt` where the database is damaged or is not what it should be, `TooLarge`, `Io`; they name it.
    pub(crate) fn query<T>(&self, what: &str, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        self.steps.store(0, Ordering::Relaxed);
        query(&connection).map_err(|error| failed(&error, what).at(&self.name))
    }

    /// The ordinary tables there are, of those named.
    pub(crate) fn tables<'a>(&self, names: &[&'a str]) -> Result<Vec<&'a str>> {
        self.query("its tables", |connection| {
            let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1 AND rootpage > 1";
            let mut statement = connection.prepare_cached(sql)?;
            let there = names.iter().filter_map(|name| match statement.exists([name]) {
                Ok(true) => Some(Ok(*name)),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            });
            there.collect()
        })
    }

    /// What errors call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// What SQLite's error means to a caller.
fn failed(error: &rusqlite::Error, what: &str) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::TooBig) => ErrorKind::TooLarge,
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::SystemIoFailure) => ErrorKind::Io,
        Some(ErrorCode::OutOfMemory) => ErrorKind::Internal,
        // Also a column that is not there or of another type, and a query that does not end.
        _ => ErrorKind::Corrupt,
    };
    let why = match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => format!("{what}: to read it takes longer than of any flist"),
        _ => format!("{what}: {error}"),
    };
    Error::new(kind, "flist.database").because(why)
}

/// A path as SQLite takes it with parameters: what is neither a letter nor a digit of it in hex.
fn uri(path: &Path) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(byte);
    let encoded = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .map(|byte| if plain(byte) { char::from(*byte).to_string() } else { format!("%{}", hex(&[*byte])) });
    format!("file:{}?mode=ro&immutable=1", encoded.collect::<String>())
}
