//! What is read of the tables, and held against its checksum.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use muxfs::{
    BlockKey, Name, Result,
    block::BLOCK_LEN_MAX,
    heads::{HEAD_LEN_MAX, Version},
};
use rusqlite::{Connection, MAIN_DB, OptionalExtension as _, Row};

use crate::{
    batch::Refused,
    failed::{corrupt, failed},
    store::SqliteUsage,
};

const OP: &str = "sqlite.get";
const HEAD_OP: &str = "heads.load";

/// The checksum of a block under its key.
pub(crate) fn block_crc(key: &[u8], block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), block)
}

/// The checksum of a head.
pub(crate) fn head_crc(name: &[u8], number: i64, head: &[u8]) -> u32 {
    let front = crc32c::crc32c_append(crc32c::crc32c(name), &number.to_be_bytes());
    crc32c::crc32c_append(front, head)
}

pub(crate) fn version(number: i64) -> Version {
    Version(Bytes::copy_from_slice(&number.to_be_bytes()))
}

pub(crate) fn block(connection: &Connection, key: &BlockKey) -> Result<Option<Bytes>> {
    let read = || {
        let mut statement = connection.prepare_cached("SELECT crc, block FROM blocks WHERE key = ?1")?;
        let mut rows = statement.query([key.as_bytes()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let crc: i64 = row.get(0)?;
        let block = row.get_ref(1)?.as_blob()?;
        let is_good = crc == i64::from(block_crc(key.as_bytes(), block)) && block.len() <= BLOCK_LEN_MAX;
        Ok::<_, rusqlite::Error>(Some(is_good.then(|| Bytes::copy_from_slice(block))))
    };
    match read().map_err(|error| failed(OP, error))? {
        None => Ok(None),
        Some(Some(block)) => Ok(Some(block)),
        Some(None) => Err(corrupt(OP, "the block is not what was put")),
    }
}

/// A part of a block: no page of the rest of it is given back, and none before it read where SQLite knows the way.
pub(crate) fn part(connection: &mut Connection, key: &BlockKey, range: Range<usize>) -> Result<Option<Bytes>> {
    let mut read = || {
        // A row that is deleted may leave its number to another.
        let all = connection.transaction()?;
        let Some(id) = id_of(&all, key)? else { return Ok(None) };
        let blob = all.blob_open(MAIN_DB, "blocks", "block", id, true)?;
        let end = range.end.min(blob.len());
        let start = range.start.min(end);
        let mut part = BytesMut::zeroed(end - start);
        blob.read_at_exact(&mut part, start)?;
        Ok::<_, rusqlite::Error>(Some(part.freeze()))
    };
    read().map_err(|error| failed("sqlite.get_range", error))
}

pub(crate) fn id_of(connection: &Connection, key: &BlockKey) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT id FROM blocks WHERE key = ?1")?;
    statement.query_row([key.as_bytes()], |row| row.get(0)).optional()
}

pub(crate) fn has(connection: &Connection, key: &BlockKey) -> Result<bool> {
    id_of(connection, key).map(|id| id.is_some()).map_err(|error| failed("sqlite.has", error))
}

/// How long a block is; what SQLite tells without reading it.
pub(crate) fn len(connection: &Connection, key: &BlockKey) -> Result<Option<u64>> {
    let read = || {
        let mut statement = connection.prepare_cached("SELECT length(block) FROM blocks WHERE key = ?1")?;
        statement.query_row([key.as_bytes()], |row| row.get::<_, u32>(0)).optional()
    };
    Ok(read().map_err(|error| failed("sqlite.len", error))?.map(u64::from))
}

/// The keys behind one, ascending, so many at most; empty where there are none.
pub(crate) fn keys_after(connection: &Connection, last: Option<&BlockKey>, count: usize) -> Result<Vec<BlockKey>> {
    const OP: &str = "sqlite.keys";
    let last = last.map_or(&[][..], BlockKey::as_bytes);
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let read = || {
        let mut statement = connection.prepare_cached("SELECT key FROM blocks WHERE key > ?1 ORDER BY key LIMIT ?2")?;
        let rows = statement.query_map((last, count), |row| row.get::<_, Vec<u8>>(0))?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    let keys = read().map_err(|error| failed(OP, error))?;
    // Also what would make a listing go round for ever.
    if !std::iter::once(last).chain(keys.iter().map(Vec::as_slice)).is_sorted_by(|one, next| one < next) {
        return Err(corrupt(OP, "its keys are out of order"));
    }
    keys.iter().map(|key| BlockKey::new(key).map_err(|_| corrupt(OP, "a key is longer than any"))).collect()
}

/// A head, and the number of its swap. That there is none is believed where all heads are there that were ever set, as they
/// were: one whose name is damaged is not found under it, and a tree would begin anew.
pub(crate) fn head(connection: &mut Connection, name: &Name) -> Result<Option<(Bytes, i64)>> {
    let mut read = || {
        let all = connection.transaction()?;
        head_in(&all, name)
    };
    read().map_err(|refused| match refused {
        Refused::Sql(error) => failed(HEAD_OP, error),
        Refused::Found(error) => error,
    })
}

/// The same in a transaction.
pub(crate) fn head_in(all: &Connection, name: &Name) -> Result<Option<(Bytes, i64)>, Refused> {
    let bad = || Refused::Found(corrupt(HEAD_OP, "a head is not what was swapped"));
    let is_good = |row: &Row<'_>| {
        let (number, crc, head): (i64, i64, _) = (row.get(1)?, row.get(2)?, row.get_ref(3)?.as_blob()?);
        let is_good =
            crc == i64::from(head_crc(row.get_ref(0)?.as_blob()?, number, head)) && head.len() <= HEAD_LEN_MAX;
        Ok::<_, rusqlite::Error>(is_good.then(|| (Bytes::copy_from_slice(head), number)))
    };
    let mut statement = all.prepare_cached("SELECT name, number, crc, head FROM heads WHERE name = ?1")?;
    let mut rows = statement.query([name.as_bytes()])?;
    if let Some(row) = rows.next()? {
        return is_good(row)?.map(Some).ok_or_else(bad);
    }
    let mut statement = all.prepare_cached("SELECT name, number, crc, head FROM heads")?;
    let mut rows = statement.query([])?;
    let mut count = 0_i64;
    while let Some(row) = rows.next()? {
        if is_good(row)?.is_none() {
            return Err(bad());
        }
        count += 1;
    }
    let expected: i64 = all.query_row("SELECT head_count FROM totals WHERE id = 1", [], |row| row.get(0))?;
    if count == expected { Ok(None) } else { Err(bad()) }
}

/// What the file holds; all but the length of the log.
pub(crate) fn usage(connection: &Connection) -> Result<SqliteUsage> {
    let read = || {
        let (block_count, block_len) =
            connection.query_row("SELECT block_count, block_len FROM totals WHERE id = 1", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })?;
        let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0)).map(u64::from);
        let page_len = number("page_size")?;
        Ok::<_, rusqlite::Error>(SqliteUsage {
            block_count: block_count.max(0).unsigned_abs(),
            block_len: block_len.max(0).unsigned_abs(),
            file_len: number("page_count")? * page_len,
            free_len: number("freelist_count")? * page_len,
            log_len: 0,
        })
    };
    read().map_err(|error| failed("sqlite.usage", error))
}
