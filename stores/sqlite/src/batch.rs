//! What is to be written, and the transaction that writes many of them.

use bytes::Bytes;
use muxfs::{
    BlockKey, Error, Name, Result,
    heads::{Swap, Version},
};
use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    failed::corrupt,
    rows::{block_crc, head_crc, head_in, id_of, version},
};

/// What somebody wants written.
#[derive(Debug)]
pub(crate) enum Write {
    /// In the place of what is there, where that was found to be bad.
    Put {
        key: BlockKey,
        block: Bytes,
        replaces: bool,
    },
    Delete {
        key: BlockKey,
    },
    Swap {
        name: Name,
        expected: Option<Version>,
        head: Bytes,
    },
    /// Nothing but that all before it is durable.
    Flush,
}

impl Write {
    /// Whether it is done when it is durable, and not before.
    pub(crate) fn is_synced(&self) -> bool {
        matches!(self, Self::Swap { .. } | Self::Flush)
    }
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Written {
    Done,
    Swapped(Swap),
}

/// One that waits to be told.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) write: Write,
    pub(crate) reply: oneshot::Sender<Result<Written>>,
    /// Its part of the memory for what waits.
    pub(crate) _room: Option<OwnedSemaphorePermit>,
}

/// What a transaction changed.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Changed {
    pub(crate) change_count: u64,
    pub(crate) is_synced: bool,
    pub(crate) has_deleted: bool,
    pub(crate) block_count: i64,
    pub(crate) block_len: i64,
    head_count: i64,
}

/// Why a transaction did not happen.
#[derive(Debug)]
pub(crate) enum Refused {
    /// By SQLite.
    Sql(rusqlite::Error),
    /// What it found there is wrong.
    Found(Error),
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Writes all of it in one transaction, or nothing. Where one of them is to be durable, or `is_dirty` says that something
/// before is and one asks for it, it is synced.
pub(crate) fn write_all<'a>(
    connection: &mut Connection,
    writes: impl Iterator<Item = &'a Write> + Clone,
    is_dirty: bool,
) -> Result<(Vec<Written>, Changed), Refused> {
    let wants_sync = writes.clone().any(Write::is_synced);
    // A commit that is not synced is there after the end of this process, and before all that is synced later.
    connection.pragma_update(None, "synchronous", if wants_sync { "FULL" } else { "NORMAL" })?;
    let all = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut changed = Changed::default();
    let mut written = Vec::new();
    for write in writes {
        written.push(write_one(&all, write, &mut changed)?);
    }
    if changed.change_count == 0 && !(wants_sync && is_dirty) {
        return Ok((written, changed));
    }
    changed.is_synced = wants_sync;
    // It changes a page in any case: where nothing is written nothing is synced either.
    let sql = "UPDATE totals SET block_count = block_count + ?1, block_len = block_len + ?2, head_count = head_count + ?3, \
               sync_count = sync_count + ?4 WHERE id = 1";
    let Changed { block_count, block_len, head_count, .. } = changed;
    all.prepare_cached(sql)?.execute(params![block_count, block_len, head_count, i64::from(wants_sync)])?;
    all.commit()?;
    Ok((written, changed))
}

fn write_one(connection: &Connection, write: &Write, changed: &mut Changed) -> Result<Written, Refused> {
    match write {
        Write::Put { key, block, replaces } => {
            if *replaces {
                delete(connection, key, changed)?;
            }
            let sql = "INSERT INTO blocks (key, crc, block) VALUES (?1, ?2, ?3) ON CONFLICT (key) DO NOTHING";
            let crc = block_crc(key.as_bytes(), block);
            if connection.prepare_cached(sql)?.execute(params![key.as_bytes(), crc, &block[..]])? > 0 {
                changed.change_count += 1;
                changed.block_count += 1;
                changed.block_len += i64::try_from(block.len()).unwrap_or(i64::MAX);
            }
            Ok(Written::Done)
        }
        Write::Delete { key } => {
            delete(connection, key, changed)?;
            Ok(Written::Done)
        }
        Write::Swap { name, expected, head } => {
            swap(connection, name, expected.as_ref(), head, changed).map(Written::Swapped)
        }
        Write::Flush => Ok(Written::Done),
    }
}

fn delete(connection: &Connection, key: &BlockKey, changed: &mut Changed) -> rusqlite::Result<()> {
    let Some(id) = id_of(connection, key)? else { return Ok(()) };
    let len: i64 = connection
        .prepare_cached("SELECT length(block) FROM blocks WHERE id = ?1")?
        .query_row([id], |row| row.get(0))?;
    connection.prepare_cached("DELETE FROM blocks WHERE id = ?1")?.execute([id])?;
    changed.change_count += 1;
    changed.has_deleted = true;
    changed.block_count -= 1;
    changed.block_len -= len;
    Ok(())
}

fn swap(
    connection: &Connection,
    name: &Name,
    expected: Option<&Version>,
    new: &Bytes,
    changed: &mut Changed,
) -> Result<Swap, Refused> {
    let found = head_in(connection, name)?;
    if found.map(|(_, number)| version(number)).as_ref() != expected {
        return Ok(Swap::Lost);
    }
    changed.head_count += i64::from(expected.is_none());
    // Ascending over all names, and no head is ever deleted: none comes twice.
    let sql = "SELECT coalesce(max(number), 0) FROM heads";
    let last: i64 = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    let Some(number) = last.checked_add(1) else {
        return Err(Refused::Found(corrupt("heads.swap", "no swap has so high a number as the last one")));
    };
    let crc = head_crc(name.as_bytes(), number, new);
    let sql = "INSERT INTO heads (name, number, crc, head) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT (name) DO UPDATE SET number = excluded.number, crc = excluded.crc, head = excluded.head";
    connection.prepare_cached(sql)?.execute(params![name.as_bytes(), number, crc, &new[..]])?;
    changed.change_count += 1;
    Ok(Swap::Done(version(number)))
}
