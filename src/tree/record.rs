//! What the journal of a tree says: the effects of each change, and which of them a commit holds.
//!
//! A record tells what became of each inode and name, never what was asked for: applying it needs nothing but the
//! record, so that replay after a crash runs the same code on the same bytes as the call did. One record is one change:
//! after a crash it is there whole or not at all. Spec: spec/journal.md.

use std::{
    num::NonZeroU64,
    ops::Range,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use super::{
    attrs::{INO_END, time_in_range},
    inode::Meta,
};
use crate::{
    Cid, Error, ErrorKind, FileKind, Name, Result,
    dag::wire::{put_varint, take_varint},
    log::{self, LogPos, RECORD_HEAD_LEN_MAX},
    media::SegmentId,
    rank::Rank,
    vfs::{FILE_LEN_MAX, Ino, Rdev, SYMLINK_LEN_MAX, XATTR_LEN_MAX, XattrName},
};

/// The version of the format; records of another are refused.
const VERSION: u8 = 1;
/// A change whose effects are in the record's head: the body is data.
const FORM_CHANGE: u8 = 0;
/// A change whose effects are in the record's body, behind the data, whose length is in the head.
const FORM_LONG_CHANGE: u8 = 1;
/// A commit begins.
const FORM_FREEZE: u8 = 2;
/// A commit is made.
const FORM_COMMIT: u8 = 3;
/// Blocks were flushed.
const FORM_FLUSH: u8 = 4;
/// The bytes of a chunk that went past the journal.
const FORM_CHUNK: u8 = 5;

/// One thing that a change did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The inode is now this.
    Inode(Ino, Meta),
    /// The symlink points there.
    Target(Ino, Bytes),
    /// The directory has, or has no longer, this name for this inode.
    Name { dir: Ino, rank: Rank, name: Name, ino: Ino, there: bool },
    /// The extended attribute has this value, or is gone.
    Xattr(Ino, XattrName, Option<Bytes>),
    /// The file has, from this offset on, so many bytes of the record's body, from `at` on.
    Data { ino: Ino, offset: u64, len: u32, at: u32 },
    /// The file has, in `range`, the bytes of a file of the DAG, from `from` on.
    Slice { ino: Ino, range: Range<u64>, cid: Cid, from: u64 },
    /// The file has a hole.
    Hole(Ino, Range<u64>),
    /// The file has zeros whose space is taken.
    Reserve(Ino, Range<u64>),
}

/// What a change adds to what all files together take; negative where it frees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) inodes: i64,
    pub(crate) bytes: i64,
}

impl Usage {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { inodes: self.inodes.saturating_add(other.inodes), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

/// A record of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// A change, and the data that its effects speak of.
    Change { effects: Vec<Effect>, usage: Usage, data: Bytes },
    /// A commit begins: it will hold all changes before this record.
    Freeze,
    /// The commit holds all changes before `through`, which is the place of a `Freeze`; it counts once the head names it.
    Commit { through: LogPos, cid: Cid },
    /// Every block that a record before `through` names, and that is still needed, is durable, or in a `Chunk` behind it.
    Flush { through: LogPos },
    /// The bytes of a block that records before name, and that the store may have lost.
    Chunk { cid: Cid, bytes: Bytes },
}

impl Record {
    pub(crate) fn encode(&self) -> log::Record {
        match self {
            Self::Change { effects, usage, data } => {
                let mut bytes = vec![VERSION, FORM_CHANGE];
                put_signed(&mut bytes, usage.inodes);
                put_signed(&mut bytes, usage.bytes);
                put_varint(&mut bytes, effects.len() as u64);
                for effect in effects {
                    effect.encode(&mut bytes);
                }
                if bytes.len() <= RECORD_HEAD_LEN_MAX {
                    return log::Record { head: bytes.into(), body: data.clone() };
                }
                let mut head = vec![VERSION, FORM_LONG_CHANGE];
                put_varint(&mut head, data.len() as u64);
                let body = [data, bytes.get(2..).unwrap_or_default()].concat();
                log::Record { head: head.into(), body: body.into() }
            }
            Self::Freeze => log::Record { head: Bytes::from_static(&[VERSION, FORM_FREEZE]), body: Bytes::new() },
            Self::Commit { through, cid } => {
                let mut bytes = vec![VERSION, FORM_COMMIT];
                put_pos(&mut bytes, *through);
                put_block(&mut bytes, &cid.to_bytes());
                log::Record { head: bytes.into(), body: Bytes::new() }
            }
            Self::Flush { through } => {
                let mut bytes = vec![VERSION, FORM_FLUSH];
                put_pos(&mut bytes, *through);
                log::Record { head: bytes.into(), body: Bytes::new() }
            }
            Self::Chunk { cid, bytes } => {
                let mut head = vec![VERSION, FORM_CHUNK];
                put_block(&mut head, &cid.to_bytes());
                log::Record { head: head.into(), body: bytes.clone() }
            }
        }
    }

    /// Reads a record, strictly: what it accepts encodes to the same bytes.
    ///
    /// # Errors
    /// `Unsupported` for a newer version; `Corrupt`.
    pub(crate) fn decode(record: &log::Record) -> Result<Self> {
        let (version, rest) = record.head.split_first().ok_or_else(|| corrupt("an empty record"))?;
        if *version != VERSION {
            return Err(Error::new(ErrorKind::Unsupported, "tree.journal").because(format!(
                "a record of version {version}, and this program knows {VERSION}: a newer muxfs wrote it"
            )));
        }
        let (form, mut rest) = rest.split_first().ok_or_else(|| corrupt("a record without a form"))?;
        match *form {
            FORM_CHANGE => {
                let (effects, usage) = changes(rest, record.body.len())?;
                Ok(Self::Change { effects, usage, data: record.body.clone() })
            }
            FORM_LONG_CHANGE => {
                let data_len = usize::try_from(take(&mut rest)?).unwrap_or(usize::MAX);
                ended(rest)?;
                let halves = record.body.split_at_checked(data_len);
                let (_, bytes) = halves.ok_or_else(|| corrupt("data that the record does not hold"))?;
                if bytes.len() + 2 <= RECORD_HEAD_LEN_MAX {
                    return Err(corrupt("effects that belong in the head"));
                }
                let (effects, usage) = changes(bytes, data_len)?;
                Ok(Self::Change { effects, usage, data: record.body.slice(..data_len) })
            }
            FORM_FREEZE if rest.is_empty() && record.body.is_empty() => Ok(Self::Freeze),
            FORM_COMMIT if record.body.is_empty() => {
                let (through, cid) = (take_pos(&mut rest)?, take_cid(&mut rest)?);
                ended(rest)?;
                Ok(Self::Commit { through, cid })
            }
            FORM_FLUSH if record.body.is_empty() => {
                let through = take_pos(&mut rest)?;
                ended(rest)?;
                Ok(Self::Flush { through })
            }
            FORM_CHUNK => {
                let cid = take_cid(&mut rest)?;
                ended(rest)?;
                Ok(Self::Chunk { cid, bytes: record.body.clone() })
            }
            _ => Err(corrupt("a record of no known form")),
        }
    }
}

fn changes(mut rest: &[u8], data_len: usize) -> Result<(Vec<Effect>, Usage)> {
    let usage = Usage { inodes: take_signed(&mut rest)?, bytes: take_signed(&mut rest)? };
    let count = take(&mut rest)?;
    // Not reserved for: the count is a claim.
    let mut effects = Vec::new();
    for _ in 0..count {
        effects.push(Effect::decode(&mut rest, data_len)?);
    }
    ended(rest)?;
    Ok((effects, usage))
}

impl Effect {
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        match self {
            Self::Inode(ino, meta) => {
                to.push(1);
                put_varint(to, ino.0.get());
                put_meta(to, meta);
            }
            Self::Target(ino, target) => {
                to.push(2);
                put_varint(to, ino.0.get());
                put_block(to, target);
            }
            Self::Name { dir, rank, name, ino, there } => {
                to.push(if *there { 3 } else { 4 });
                put_varint(to, dir.0.get());
                to.extend_from_slice(&rank.bits().to_le_bytes());
                put_block(to, name.as_bytes());
                put_varint(to, ino.0.get());
            }
            Self::Xattr(ino, name, value) => {
                to.push(if value.is_some() { 5 } else { 6 });
                put_varint(to, ino.0.get());
                put_block(to, name.as_bytes());
                if let Some(value) = value {
                    put_block(to, value);
                }
            }
            Self::Data { ino, offset, len, at } => {
                to.push(7);
                put_varint(to, ino.0.get());
                put_varint(to, *offset);
                put_varint(to, (*len).into());
                put_varint(to, (*at).into());
            }
            Self::Slice { ino, range, cid, from } => {
                to.push(8);
                put_varint(to, ino.0.get());
                put_range(to, range);
                put_block(to, &cid.to_bytes());
                put_varint(to, *from);
            }
            Self::Hole(ino, range) => {
                to.push(9);
                put_varint(to, ino.0.get());
                put_range(to, range);
            }
            Self::Reserve(ino, range) => {
                to.push(10);
                put_varint(to, ino.0.get());
                put_range(to, range);
            }
        }
    }

    fn decode(rest: &mut &[u8], data_len: usize) -> Result<Self> {
        let tag = take_byte(rest)?;
        let ino = take_ino(rest)?;
        Ok(match tag {
            1 => Self::Inode(ino, take_meta(rest)?),
            2 => {
                let target = take_block(rest, SYMLINK_LEN_MAX)?;
                Self::Target(ino, Bytes::copy_from_slice(target))
            }
            3 | 4 => {
                let (bits, after) =
                    rest.split_first_chunk::<8>().ok_or_else(|| corrupt("an effect that ends early"))?;
                *rest = after;
                let rank = Rank::from_bits(u64::from_le_bytes(*bits)).ok_or_else(|| corrupt("no rank"))?;
                let name = Name::new(take_block(rest, 255)?).map_err(|error| corrupt("a bad name").because(error))?;
                if rank.hash_min() != Rank::of(name.as_bytes()).hash_min() {
                    return Err(corrupt("a rank of another name"));
                }
                Self::Name { dir: ino, rank, name, ino: take_ino(rest)?, there: tag == 3 }
            }
            5 | 6 => {
                let name = XattrName::new(take_block(rest, 255)?).map_err(|error| corrupt("a name").because(error))?;
                let value = if tag == 5 { Some(take_block(rest, XATTR_LEN_MAX)?) } else { None };
                Self::Xattr(ino, name, value.map(Bytes::copy_from_slice))
            }
            7 => {
                let (offset, len, at) = (take(rest)?, narrow(take(rest)?)?, narrow(take(rest)?)?);
                let fits = u64::from(at) + u64::from(len) <= data_len as u64;
                let in_file = offset.checked_add(len.into()).is_some_and(|end| end <= FILE_LEN_MAX);
                if len == 0 || !fits || !in_file {
                    return Err(corrupt("data that the record does not hold"));
                }
                Self::Data { ino, offset, len, at }
            }
            8 => {
                let (range, cid, from) = (take_range(rest)?, take_cid(rest)?, take(rest)?);
                Self::Slice { ino, range, cid, from }
            }
            9 => Self::Hole(ino, take_range(rest)?),
            10 => Self::Reserve(ino, take_range(rest)?),
            _ => return Err(corrupt("an effect of no known kind")),
        })
    }
}

const KINDS: [FileKind; 7] = [
    FileKind::File,
    FileKind::Dir,
    FileKind::Symlink,
    FileKind::Fifo,
    FileKind::Socket,
    FileKind::CharDevice,
    FileKind::BlockDevice,
];

fn put_meta(to: &mut Vec<u8>, meta: &Meta) {
    to.push(KINDS.iter().position(|kind| *kind == meta.kind).and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX));
    for number in [meta.mode, meta.uid, meta.gid, meta.nlink, meta.rdev.major, meta.rdev.minor] {
        put_varint(to, number.into());
    }
    for number in [meta.size, meta.entry_count, meta.used, meta.change] {
        put_varint(to, number);
    }
    for time in [meta.atime, meta.mtime, meta.ctime] {
        put_time(to, time);
    }
}

fn take_meta(rest: &mut &[u8]) -> Result<Meta> {
    let kind = *KINDS.get(usize::from(take_byte(rest)?)).ok_or_else(|| corrupt("no kind of node"))?;
    let mut short = || narrow(take(rest)?);
    let (mode, uid, gid, nlink, major, minor) = (short()?, short()?, short()?, short()?, short()?, short()?);
    let (size, entry_count, used, change) = (take(rest)?, take(rest)?, take(rest)?, take(rest)?);
    let (atime, mtime, ctime) = (take_time(rest)?, take_time(rest)?, take_time(rest)?);
    if mode > 0o7777 || size > FILE_LEN_MAX {
        return Err(corrupt("a mode or a size that no node has"));
    }
    let rdev = Rdev { major, minor };
    Ok(Meta { kind, mode, uid, gid, nlink, rdev, size, entry_count, used, atime, mtime, ctime, change })
}

/// Seconds since 1970, rounded down, and nanoseconds.
fn put_time(to: &mut Vec<u8>, time: SystemTime) {
    let (seconds, nanos) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let (seconds, nanos) = (i64::try_from(before.as_secs()).unwrap_or(i64::MAX), before.subsec_nanos());
            if nanos == 0 { (-seconds, 0) } else { (-seconds - 1, 1_000_000_000 - nanos) }
        }
    };
    put_signed(to, seconds);
    put_varint(to, nanos.into());
}

fn take_time(rest: &mut &[u8]) -> Result<SystemTime> {
    let seconds = take_signed(rest)?;
    let nanos = narrow(take(rest)?)?;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if seconds < 0 { epoch.checked_sub(whole) } else { epoch.checked_add(whole) };
    time.filter(|_| nanos < 1_000_000_000)
        .and_then(|time| time.checked_add(Duration::from_nanos(nanos.into())))
        .filter(|time| time_in_range(*time) == *time)
        .ok_or_else(|| corrupt("a time that no node has"))
}

fn put_block(to: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn put_pos(to: &mut Vec<u8>, pos: LogPos) {
    put_varint(to, pos.segment.0);
    put_varint(to, pos.offset.into());
}

fn put_range(to: &mut Vec<u8>, range: &Range<u64>) {
    put_varint(to, range.start);
    put_varint(to, range.end - range.start);
}

/// Small numbers of either sign are short: 0, -1, 1, -2, 2 … in that order.
fn put_signed(to: &mut Vec<u8>, number: i64) {
    put_varint(to, (number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned());
}

fn take_signed(rest: &mut &[u8]) -> Result<i64> {
    let bits = take(rest)?;
    Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed())
}

fn take(rest: &mut &[u8]) -> Result<u64> {
    take_varint(rest, true).map_err(|_| corrupt("a bad number"))
}

fn take_byte(rest: &mut &[u8]) -> Result<u8> {
    let (byte, after) = rest.split_first().ok_or_else(|| corrupt("an effect that ends early"))?;
    *rest = after;
    Ok(*byte)
}

fn take_ino(rest: &mut &[u8]) -> Result<Ino> {
    let number = NonZeroU64::new(take(rest)?).filter(|number| number.get() < INO_END);
    number.map(Ino).ok_or_else(|| corrupt("a number that no inode has"))
}

fn take_pos(rest: &mut &[u8]) -> Result<LogPos> {
    Ok(LogPos { segment: SegmentId(take(rest)?), offset: narrow(take(rest)?)? })
}

fn take_range(rest: &mut &[u8]) -> Result<Range<u64>> {
    let (start, len) = (take(rest)?, take(rest)?);
    let end = start.checked_add(len).filter(|end| *end <= FILE_LEN_MAX && len > 0);
    end.map(|end| start..end).ok_or_else(|| corrupt("a range that no file has"))
}

fn take_block<'a>(rest: &mut &'a [u8], len_max: usize) -> Result<&'a [u8]> {
    let len = usize::try_from(take(rest)?).ok().filter(|len| *len <= len_max);
    let (block, after) = len.and_then(|len| rest.split_at_checked(len)).ok_or_else(|| corrupt("a length too great"))?;
    *rest = after;
    Ok(block)
}

fn take_cid(rest: &mut &[u8]) -> Result<Cid> {
    Cid::from_bytes(take_block(rest, 255)?).map_err(|error| corrupt("a bad CID").because(error))
}

fn narrow(number: u64) -> Result<u32> {
    u32::try_from(number).map_err(|_| corrupt("a number that is too great"))
}

fn ended(rest: &[u8]) -> Result<()> {
    if rest.is_empty() { Ok(()) } else { Err(corrupt("bytes behind a record's end")) }
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "tree.journal").because(why)
}
