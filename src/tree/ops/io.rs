//! The bytes of files: where to read them, and what a write leaves.

use std::ops::Range;

use bytes::Bytes;

use super::super::{
    extent::Piece,
    inode::Meta,
    record::Effect,
    sight::{PAGE_LEN, Try, pages_of, refuse},
    state::{Attempt, Edit},
};
use crate::{
    Cid, Error, ErrorKind,
    vfs::{Changed, FILE_LEN_MAX, Ino, Seek},
};

/// How far a seek looks at first; twice as far each time, so that neither many pieces nor a long hole cost much.
const SEEK_LEN_MIN: u64 = 16 << 20;

/// Where the bytes of a range are, ascending and without a gap.
pub(in super::super) type Pieces = Vec<(Range<u64>, Piece)>;

/// A part of what is written to a file.
#[derive(Debug, Clone)]
pub(in super::super) enum Part {
    /// Bytes, from this offset on: for the journal.
    Bytes(u64, Bytes),
    /// Bytes that a file of the DAG has, from an offset of its own on.
    Slice(Range<u64>, Cid, u64),
    /// Zeros that take no space.
    Hole(Range<u64>),
}

/// The end of `len` bytes from `offset`, if a file may be that long.
fn end_of(offset: u64, len: u64, op: &'static str) -> Try<u64> {
    match offset.checked_add(len) {
        Some(end) if end <= FILE_LEN_MAX => Ok(end),
        _ => refuse(ErrorKind::TooLarge, op),
    }
}

impl Attempt<'_> {
    /// Where the bytes of a file are, as far as it has them.
    pub(in super::super) fn read(&mut self, ino: Ino, offset: u64, len: u64) -> Try<Pieces> {
        let meta = self.file(ino, "tree.read")?;
        let end = offset.saturating_add(len).min(meta.size);
        if offset >= end {
            return Ok(Vec::new());
        }
        self.sight(|sight| sight.pieces(ino, offset..end))
    }

    /// Where the next data or hole of a file begins, by pages: one in which any byte is data is data.
    pub(in super::super) fn seek(&mut self, ino: Ino, offset: u64, what: Seek) -> Try<Option<u64>> {
        let meta = self.file(ino, "tree.seek")?;
        if offset >= meta.size {
            return Ok(None);
        }
        let (mut at, mut len) = (offset / PAGE_LEN * PAGE_LEN, SEEK_LEN_MIN);
        while at < meta.size {
            let end = at.saturating_add(len).min(meta.size);
            let pieces = self.sight(|sight| sight.pieces(ino, at..end))?;
            let mut data = pieces.iter().filter(|(_, piece)| piece.is_data()).map(|(range, _)| pages_of(range));
            let found = match what {
                Seek::Data => data.next().map(|pages| pages.start),
                Seek::Hole => {
                    let hole = data.fold(at, |hole, pages| if pages.start > hole { hole } else { pages.end });
                    (hole < end).then_some(hole)
                }
            };
            if let Some(found) = found {
                return Ok(Some(found.max(offset)));
            }
            (at, len) = (end, len.saturating_mul(2));
        }
        Ok((what == Seek::Hole).then_some(meta.size))
    }

    /// Whether a file can take `len` bytes at `offset`: asked before blocks are put that only such a write needs.
    pub(in super::super) fn can_write(&mut self, ino: Ino, offset: u64, len: u64) -> Try<()> {
        let op = "tree.write";
        let meta = self.file(ino, op)?;
        let mut edit = Edit::default();
        edit.usage.bytes = self.grown(ino, &(offset..end_of(offset, len, op)?), &meta)?.cast_signed();
        self.check_usage(edit.usage, op)
    }

    /// Writes `parts`, which are ascending and apart and all in `range`.
    pub(in super::super) fn write(
        &mut self,
        ino: Ino,
        range: &Range<u64>,
        parts: &[Part],
        clear_suid: bool,
    ) -> Try<Changed> {
        let op = "tree.write";
        let before = self.file(ino, op)?;
        end_of(range.start, range.end.saturating_sub(range.start), op)?;
        if range.is_empty() {
            return self.unchanged(ino, &before);
        }
        let (mut after, edit) = self.written(ino, range, parts, &before, op)?;
        after.mtime = self.now;
        if clear_suid {
            after.mode &= !0o6000;
        }
        self.change_file(ino, &before, &mut after, edit, op)
    }

    /// Writes `parts` as if they had always been there: no time and no counter moves.
    pub(in super::super) fn bring(&mut self, ino: Ino, range: &Range<u64>, parts: &[Part]) -> Try<()> {
        let op = "tree.bring";
        let before = self.file(ino, op)?;
        end_of(range.start, range.end.saturating_sub(range.start), op)?;
        let (after, mut edit) = self.written(ino, range, parts, &before, op)?;
        let more = self.count_used(&before, &after, &mut edit, op)?;
        edit.effects.insert(0, Effect::Inode(ino, after));
        self.record(edit)?;
        self.grow_orphan(&after, more);
        Ok(())
    }

    /// What a file is after `parts` were written, but for its times, and the edit that makes it so.
    fn written(
        &mut self,
        ino: Ino,
        range: &Range<u64>,
        parts: &[Part],
        before: &Meta,
        op: &'static str,
    ) -> Try<(Meta, Edit)> {
        let mut after = *before;
        let mut edit = Edit::default();
        let journalled: Vec<&Bytes> =
            parts.iter().filter_map(|part| if let Part::Bytes(_, bytes) = part { Some(bytes) } else { None }).collect();
        edit.data = match journalled.as_slice() {
            [] => Bytes::new(),
            [one] => (*one).clone(),
            many => many.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>().concat().into(),
        };
        let mut at = 0;
        // Pages that two parts share are counted once.
        let mut counted = 0;
        for part in parts {
            let covered = match part {
                Part::Bytes(offset, bytes) => {
                    let Ok(len) = u32::try_from(bytes.len()) else { return refuse(ErrorKind::TooLarge, op) };
                    edit.effects.push(Effect::Data { ino, offset: *offset, len, at });
                    at += len;
                    *offset..*offset + u64::from(len)
                }
                Part::Slice(range, cid, from) => {
                    edit.effects.push(Effect::Slice { ino, range: range.clone(), cid: *cid, from: *from });
                    range.clone()
                }
                Part::Hole(range) => {
                    self.empty(ino, range.clone(), &mut after, &mut edit)?;
                    continue;
                }
            };
            let pages = pages_of(&covered);
            let grown = self.grown(ino, &(pages.start.max(counted)..pages.end), before)?;
            after.used = after.used.saturating_add(grown);
            counted = pages.end;
        }
        after.size = after.size.max(range.end);
        Ok((after, edit))
    }

    /// How many bytes the pages of `range` take that took none.
    fn grown(&mut self, ino: Ino, range: &Range<u64>, meta: &Meta) -> Try<u64> {
        let pages = pages_of(range);
        if pages.start >= meta.size && meta.used == 0 {
            return Ok(pages.end - pages.start);
        }
        let used = self.sight(|sight| sight.used(ino, pages.clone()))?;
        Ok((pages.end - pages.start).saturating_sub(used))
    }

    pub(in super::super) fn allocate(&mut self, ino: Ino, range: &Range<u64>, keep_size: bool) -> Try<Changed> {
        let op = "tree.allocate";
        let before = self.file(ino, op)?;
        if range.is_empty() {
            return refuse(ErrorKind::InvalidArgument, op);
        }
        end_of(range.end, 0, op)?;
        let mut after = before;
        let mut edit = Edit::default();
        let pages = pages_of(range);
        let pages = pages.start..pages.end.min(FILE_LEN_MAX);
        after.used = after.used.saturating_add(self.grown(ino, range, &before)?);
        // A range that takes space already keeps its bytes.
        for (part, piece) in self.sight(|sight| sight.pieces(ino, pages))? {
            if !piece.is_data() {
                edit.effects.push(Effect::Reserve(ino, part));
            }
        }
        if !keep_size {
            after.size = after.size.max(range.end);
        }
        after.mtime = self.now;
        self.change_file(ino, &before, &mut after, edit, op)
    }

    pub(in super::super) fn punch_hole(&mut self, ino: Ino, range: &Range<u64>) -> Try<Changed> {
        let op = "tree.punch_hole";
        let before = self.file(ino, op)?;
        if range.is_empty() {
            return refuse(ErrorKind::InvalidArgument, op);
        }
        let range = range.start..range.end.min(FILE_LEN_MAX);
        let mut after = before;
        let mut edit = Edit::default();
        if !range.is_empty() {
            self.empty(ino, range, &mut after, &mut edit)?;
        }
        after.mtime = self.now;
        self.change_file(ino, &before, &mut after, edit, op)
    }

    /// What `copy_range` copies: where the bytes of the source are; empty where there are none.
    pub(in super::super) fn copy_plan(&mut self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Try<(u64, Pieces)> {
        let op = "tree.copy_range";
        let source = self.file(from.0, op)?;
        self.file(to.0, op)?;
        let len = len.min(source.size.saturating_sub(from.1));
        end_of(to.1, len, op)?;
        if from.0 == to.0 && from.1.abs_diff(to.1) < len {
            return Err(Error::new(ErrorKind::InvalidArgument, op).because("the ranges overlap").into());
        }
        let pieces =
            if len == 0 { Vec::new() } else { self.sight(|sight| sight.pieces(from.0, from.1..from.1 + len))? };
        Ok((len, pieces))
    }
}
