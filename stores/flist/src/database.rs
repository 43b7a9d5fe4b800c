//! An SQLite file that somebody else made, opened so that it can only be read and costs a bounded amount.
//!
//! Nothing that its schema could run is run: only ordinary tables are read, without computed columns, views and triggers are
//! off, and functions in the schema are not trusted. How much of a schema there is is looked at before SQLite does: it
//! takes time that grows faster than their number. A query that takes too many steps or too long is ended, also that which
//! reads the schema; a value that is too long is refused. The file is opened as one that nobody changes, so that no lock,
//! journal or shared memory is made beside it.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use muxfs::{Error, ErrorKind, Result};
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig, limits::Limit};

use crate::chunk::hex;

/// The longest value that is read, in bytes: a directory of some hundred thousand entries.
pub(crate) const VALUE_LEN_MAX: usize = 64 << 20;
/// How many steps of SQLite's machine a query may take: some ten for each row it looks at.
const STEP_COUNT_MAX: u64 = 1 << 28;
/// How long a query may take: that of the longest directory takes some seconds.
const QUERY_TIME_MAX: Duration = Duration::from_secs(20);
/// The most tables and indexes of a schema, which those of flists have some ten of.
const SCHEMA_COUNT_MAX: u16 = 64;
/// The longest of them in SQL, in bytes, and the most columns.
const SQL_LEN_MAX: i32 = 1 << 14;
const COLUMN_COUNT_MAX: i32 = 100;
/// The longest pattern of LIKE, in bytes: what matches a long one can take for ever.
const PATTERN_LEN_MAX: i32 = 50;
/// What SQLite takes of memory for all databases of the process together, in bytes.
const HEAP_LEN_MAX: i64 = 512 << 20;
/// What a schema that is read has.
const SCHEMA_SQL: [&[u8]; 5] =
    [b"CREATE TABLE ", b"CREATE INDEX ", b"CREATE UNIQUE INDEX ", b"CREATE VIEW ", b"CREATE TRIGGER "];
/// Of the header of the file: how long a page is, which change of it this is, how many pages it has, and at which change they were counted.
const PAGE_LEN_AT: usize = 16;
const CHANGE_AT: usize = 24;
const PAGE_COUNT_AT: usize = 28;
const COUNTED_CHANGE_AT: usize = 92;
/// Of the first page, behind it: what kind it is and how many entries of the schema it has.
const PAGE_KIND_AT: usize = 100;
const ENTRY_COUNT_AT: usize = 103;
const HEAD_LEN: usize = 108;
/// A page that has entries itself.
const LEAF_KIND: u8 = 13;
/// After so many steps they are counted.
const STEP_COUNT_EACH: u32 = 1 << 12;
const OP: &str = "flist.database";
/// What a connection keeps of the file in memory, in KiB.
const CACHE_KIB: i32 = 2048;

/// A database that is read.
pub(crate) struct Database {
    connection: Mutex<Connection>,
    budget: Arc<Mutex<Budget>>,
    name: String,
}

/// What the query that is under way may still take.
struct Budget {
    /// In units of [`STEP_COUNT_EACH`].
    step_count: u64,
    until: Instant,
}

impl Budget {
    fn new() -> Self {
        Self { step_count: STEP_COUNT_MAX / u64::from(STEP_COUNT_EACH), until: Instant::now() + QUERY_TIME_MAX }
    }

    /// Takes some steps; whether it is spent.
    fn is_spent(&mut self) -> bool {
        self.step_count = self.step_count.saturating_sub(1);
        self.step_count == 0 || Instant::now() > self.until
    }
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
    /// `Corrupt` where it is no SQLite database, or one with other than some tables and indexes; `Io`.
    pub(crate) fn open(path: &Path, name: String) -> Result<Self> {
        check_head(path).map_err(|error| error.at(&name))?;
        let budget = Arc::new(Mutex::new(Budget::new()));
        let spent = budget.clone();
        let opened = (|| {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
            let mut connection = Connection::open_with_flags(uri(path), flags)?;
            // Before anything else: what comes next reads the schema.
            let each = i32::try_from(STEP_COUNT_EACH).unwrap_or(i32::MAX);
            let is_spent = move || spent.lock().unwrap_or_else(PoisonError::into_inner).is_spent();
            connection.progress_handler(each, Some(is_spent))?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
            connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::try_from(VALUE_LEN_MAX).unwrap_or(i32::MAX))?;
            connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_LEN_MAX)?;
            connection.set_limit(Limit::SQLITE_LIMIT_COLUMN, COLUMN_COUNT_MAX)?;
            connection.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, PATTERN_LEN_MAX)?;
            connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
            connection.pragma_update(None, "hard_heap_limit", HEAP_LEN_MAX)?;
            // Neither files nor indexes are made to answer a query.
            connection.pragma_update(None, "temp_store", "memory")?;
            connection.pragma_update(None, "automatic_index", false)?;
            connection.pragma_update(None, "cell_size_check", true)?;
            connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
            connection.pragma_update(None, "mmap_size", 0)?;
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        })();
        match opened {
            Ok(connection) => {
                let this = Self { connection: Mutex::new(connection), budget, name };
                this.check_schema()?;
                Ok(this)
            }
            Err(error) => Err(failed(&error, "it cannot be opened").at(name)),
        }
    }

    /// Refuses what runs something to be read, as virtual tables do.
    fn check_schema(&self) -> Result<()> {
        let other = self.query("its schema", |connection| {
            let mut statement = connection.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let sql = row.get_ref(0)?.as_bytes()?;
                if !SCHEMA_SQL.iter().any(|known| sql.starts_with(known)) {
                    return Ok(Some(String::from_utf8_lossy(sql).chars().take(40).collect::<String>()));
                }
            }
            Ok(None)
        })?;
        other.map_or(Ok(()), |sql| {
            let why = format!("its schema has {sql:?}, and only ordinary tables are read");
            Err(Error::new(ErrorKind::Corrupt, OP).at(&self.name).because(why))
        })
    }

    /// Carries out a query; `what` says what it reads.
    ///
    /// # Errors
    /// `Corrupt` where the database is damaged or is not what it should be, `TooLarge`, `Io`; they name it.
    pub(crate) fn query<T>(&self, what: &str, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        *self.budget.lock().unwrap_or_else(PoisonError::into_inner) = Budget::new();
        query(&connection).map_err(|error| failed(&error, what).at(&self.name))
    }

    /// The ordinary tables there are, of those named.
    pub(crate) fn tables<'a>(&self, names: &[&'a str]) -> Result<Vec<&'a str>> {
        self.query("its tables", |connection| {
            // A column that is computed runs what its maker wrote, and one called rowid hides the number of a row.
            let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1 AND rootpage > 1 \
                AND sql LIKE 'CREATE TABLE %' AND NOT EXISTS \
                (SELECT 1 FROM pragma_table_xinfo(?1) AS c WHERE c.hidden <> 0 OR lower(c.name) = 'rowid')";
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

/// Looks at how much of a schema a file has, which is on its first page, before SQLite reads all of it.
fn check_head(path: &Path) -> Result<()> {
    let failed = |error: io::Error| Error::new(ErrorKind::Io, OP).because(error);
    let refuse = |why: String| Err(Error::new(ErrorKind::Corrupt, OP).because(why));
    let mut head = Vec::new();
    let file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    file.take(HEAD_LEN as u64).read_to_end(&mut head).map_err(failed)?;
    let (Some(kind), Some([high, low])) = (head.get(PAGE_KIND_AT), head.get(ENTRY_COUNT_AT..ENTRY_COUNT_AT + 2)) else {
        return refuse(format!("it has {} bytes, and is no database", head.len()));
    };
    if *kind != LEAF_KIND || u16::from_be_bytes([*high, *low]) > SCHEMA_COUNT_MAX {
        return refuse(format!(
            "its schema is not the {SCHEMA_COUNT_MAX} entries at most, on its first page, that are read"
        ));
    }
    if let Some(told) = len_told(&head).filter(|told| *told > len) {
        return refuse(format!("it is cut off, or being written: it has {len} bytes of {told}"));
    }
    Ok(())
}

/// How long a database says that it is, in bytes, where what it says counts.
fn len_told(head: &[u8]) -> Option<u64> {
    let word = |at: usize| head.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_be_bytes);
    let page_len = match head.get(PAGE_LEN_AT..PAGE_LEN_AT + 2)? {
        [0, 1] => 1 << 16,
        len => u64::from(u16::from_be_bytes(len.try_into().ok()?)),
    };
    // Who does not know of the count leaves another change with it.
    let is_count_of_this_change = word(CHANGE_AT)? == word(COUNTED_CHANGE_AT)?;
    is_count_of_this_change.then_some(u64::from(word(PAGE_COUNT_AT)?) * page_len)
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
    Error::new(kind, OP).because(why)
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
