//! Bytes of files in and out: read from wherever they are, written past the journal where whole chunks allow it.
//!
//! A chunk that is written whole, and begins where one begins in the DAG, is hashed and put at once, and the journal
//! holds its CID; all else goes to the journal as it is. `sync` flushes blocks first, so a record that is durable never
//! names a chunk that is not.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use bytes::{Bytes, BytesMut};

use super::{Shared, extent::Piece, ops::Part};
use crate::{
    Codec, Error, ErrorKind, Result,
    dag::DagLease,
    log::RECORD_BODY_LEN_MAX,
    vfs::{Changed, Ino},
};

/// How often a read asks again where the bytes are, when a commit moved them meanwhile.
const READ_ATTEMPT_MAX: u32 = 16;
/// One record of a copy holds at most so many bytes of the journal, and so many parts.
const COPY_LEN_MAX: u64 = 4 << 20;
const COPY_PART_COUNT_MAX: usize = 256;

impl Shared {
    pub(super) async fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        let mut attempt_count = 0;
        loop {
            let generation = self.lock().generation;
            let pieces = self.attempt(|attempt| attempt.read(ino, offset, len.into())).await?;
            match self.read_pieces(&pieces).await {
                // A commit that ended meanwhile removed what the journal had, or the collector what the old root had.
                Err(error)
                    if error.kind() == ErrorKind::NotFound
                        && attempt_count < READ_ATTEMPT_MAX
                        && self.lock().generation != generation =>
                {
                    attempt_count += 1;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let why = "bytes of this file are gone";
                    return Err(Error::new(ErrorKind::Corrupt, "tree.read").at(ino.0).because(error).at(why));
                }
                read => return read,
            }
        }
    }

    async fn read_pieces(&self, pieces: &[(Range<u64>, Piece)]) -> Result<Bytes> {
        if let [(range, piece)] = pieces {
            return self.read_piece(range, *piece).await;
        }
        let mut bytes = BytesMut::new();
        for (range, piece) in pieces {
            bytes.extend_from_slice(&self.read_piece(range, *piece).await?);
        }
        Ok(bytes.freeze())
    }

    /// The bytes of a piece, all of them.
    pub(super) async fn read_piece(&self, range: &Range<u64>, piece: Piece) -> Result<Bytes> {
        let too_long = || Error::new(ErrorKind::Internal, "tree.read").because("a piece longer than a read");
        let len = u32::try_from(range.end - range.start).map_err(|_| too_long())?;
        let bytes = match piece {
            Piece::Hole | Piece::Reserved => zeros(len as usize),
            Piece::Slice(cid, from) => self.dag.read_at(&cid, from, len).await?,
            Piece::Journal(pos, at) => {
                let body = self.log.read(pos).await?.body;
                let end = (at as usize).checked_add(len as usize).filter(|end| *end <= body.len());
                let end = end.ok_or_else(|| Error::new(ErrorKind::Corrupt, "tree.read").at(pos))?;
                body.slice(at as usize..end)
            }
        };
        if bytes.len() != len as usize {
            let why = "a file of the DAG is shorter than what it stands for";
            return Err(Error::new(ErrorKind::Corrupt, "tree.read").because(why));
        }
        Ok(bytes)
    }

    pub(super) async fn write(
        self: &Arc<Self>,
        ino: Ino,
        offset: u64,
        data: Bytes,
        clear_suid: bool,
    ) -> Result<Changed> {
        self.make_room().await?;
        // Until the journal names them, nobody else keeps the chunks that are put.
        let _session = self.dag.begin_write();
        let len = data.len() as u64;
        let parts = if self.whole_chunks(offset, len).is_some() {
            self.attempt(|attempt| attempt.can_write(ino, offset, len)).await?;
            self.put_chunks(offset, data).await?
        } else {
            vec![Part::Bytes(offset, data)]
        };
        let range = offset..offset.saturating_add(len);
        let _no_checkout = self.gate.read().await;
        self.attempt(|attempt| attempt.write(ino, &range, &parts, clear_suid)).await
    }

    /// The part of a write that is whole chunks of the DAG's.
    fn whole_chunks(&self, offset: u64, len: u64) -> Option<Range<u64>> {
        let params = self.dag.params();
        let chunk_len = u64::from(params.chunk_len);
        let start = offset.checked_next_multiple_of(chunk_len)?;
        let end = offset.checked_add(len)? / chunk_len * chunk_len;
        (params.raw_leaves && start < end).then_some(start..end)
    }

    /// Puts the whole chunks of a write, and tells what it is made of.
    async fn put_chunks(&self, offset: u64, data: Bytes) -> Result<Vec<Part>> {
        let end = offset + data.len() as u64;
        let Some(whole) = self.whole_chunks(offset, data.len() as u64) else {
            return Ok(vec![Part::Bytes(offset, data)]);
        };
        let cut = |range: Range<u64>| data.slice(place(range.start - offset)..place(range.end - offset));
        let mut parts = Vec::new();
        if offset < whole.start {
            parts.push(Part::Bytes(offset, cut(offset..whole.start)));
        }
        let step = u64::from(self.dag.params().chunk_len);
        let mut at = whole.start;
        while at < whole.end {
            let cid = self.dag.put_block(Codec::Raw, cut(at..at + step)).await?;
            self.chunk_count.fetch_add(1, Ordering::AcqRel);
            parts.push(Part::Slice(at..at + step, cid, 0));
            at += step;
        }
        if whole.end < end {
            parts.push(Part::Bytes(whole.end, cut(whole.end..end)));
        }
        Ok(parts)
    }

    pub(super) async fn copy_range(
        self: &Arc<Self>,
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
    ) -> Result<(u64, Changed)> {
        self.make_room().await?;
        let (len, pieces) = self.attempt(|attempt| attempt.copy_plan(from, to, len)).await?;
        let slices =
            pieces.iter().filter_map(|(_, piece)| if let Piece::Slice(cid, _) = piece { Some(cid) } else { None });
        // What is shared may lose its other owner before the copy is its own.
        let _leases: Vec<DagLease> =
            slices.collect::<HashSet<_>>().into_iter().map(|cid| self.dag.lease(cid)).collect();
        let mut parts = Vec::new();
        let mut journal_len = 0;
        let mut changed: Option<Changed> = None;
        let mut began = to.1;
        let mut last = to.1;
        for (range, piece) in split(pieces) {
            let target = range.start - from.1 + to.1..range.end - from.1 + to.1;
            last = target.end;
            parts.push(match piece {
                Piece::Hole | Piece::Reserved => Part::Hole(target),
                Piece::Slice(cid, at) => Part::Slice(target, cid, at),
                Piece::Journal(..) => {
                    journal_len += range.end - range.start;
                    Part::Bytes(target.start, self.read_piece(&range, piece).await?)
                }
            });
            if journal_len >= COPY_LEN_MAX || parts.len() >= COPY_PART_COUNT_MAX {
                let step = self.write_parts(to.0, began..last, &parts).await?;
                changed =
                    Some(Changed { before: changed.map_or(step.before, |changed| changed.before), after: step.after });
                (began, journal_len) = (last, 0);
                parts.clear();
            }
        }
        if began < last || changed.is_none() {
            let step = self.write_parts(to.0, began..last, &parts).await?;
            changed =
                Some(Changed { before: changed.map_or(step.before, |changed| changed.before), after: step.after });
        }
        let changed = changed.ok_or_else(|| Error::new(ErrorKind::Internal, "tree.copy_range"))?;
        Ok((len, changed))
    }

    async fn write_parts(self: &Arc<Self>, ino: Ino, range: Range<u64>, parts: &[Part]) -> Result<Changed> {
        self.change(|attempt| attempt.write(ino, &range, parts, false)).await
    }
}

/// Pieces of the journal in lengths that fit in one record.
fn split(pieces: Vec<(Range<u64>, Piece)>) -> impl Iterator<Item = (Range<u64>, Piece)> {
    const { assert!(COPY_LEN_MAX <= RECORD_BODY_LEN_MAX as u64 / 2) };
    pieces.into_iter().flat_map(|(range, piece)| {
        let step = if matches!(piece, Piece::Journal(..)) { COPY_LEN_MAX } else { u64::MAX };
        let (start, end) = (range.start, range.end);
        std::iter::successors(Some(start), move |at| at.checked_add(step).filter(|at| *at < end))
            .map(move |at| (at..at.saturating_add(step).min(end), piece.after(at - start)))
    })
}

/// A distance within one buffer as an index.
fn place(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

fn zeros(len: usize) -> Bytes {
    static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
    if len <= ZEROS.len() { Bytes::from_static(&ZEROS[..len]) } else { vec![0; len].into() }
}
