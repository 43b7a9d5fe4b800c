//! Bytes of files in and out: read from wherever they are, written past the journal where whole chunks allow it.
//!
//! A chunk that is written whole, and begins where one begins in the DAG, is hashed and put at once, and the journal
//! holds its CID; all else goes to the journal as it is, and so does a chunk that the store cannot take now. `sync` flushes blocks first, so a record that is durable never
//! names a chunk that is not.

use std::{collections::HashSet, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Shared, extent::Piece, ops::Part, standing::Standing, transaction::UNPLACED};
use crate::{
    Cid, Codec, Error, ErrorKind, Result,
    dag::DagLease,
    log::{LogPos, RECORD_BODY_LEN_MAX},
    vfs::{Changed, Ino, READ_LEN_MAX},
};

/// How often a read asks again where the bytes are, when a commit moved them meanwhile.
const READ_ATTEMPT_MAX: u32 = 16;
/// How often a read finds bytes missing in one and the same place before it calls them lost: the same chunk may have been
/// overwritten, collected and written again between the two looks.
const READ_SAME_MAX: u32 = 2;
/// So many pieces of one read are read at a time: enough to hide a disk's latency.
const PIECE_COUNT: usize = 8;
/// One record of a copy holds at most so many bytes of the journal, and so many parts.
const COPY_LEN_MAX: u64 = 4 << 20;
const COPY_PART_COUNT_MAX: usize = 256;

impl Shared {
    pub(super) async fn read(&self, standing: &Standing, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        let len = len.min(READ_LEN_MAX);
        let (mut attempt_count, mut same_count) = (0, 0);
        let mut before = None;
        loop {
            let pieces = self.attempt(standing, |attempt| attempt.read(ino, offset, len.into())).await?;
            same_count = if before.as_ref() == Some(&pieces) { same_count + 1 } else { 0 };
            match self.read_pieces(standing, &pieces).await {
                // A commit that ended meanwhile removed what the journal had, or somebody wrote other bytes and the
                // collector removed these. What is missing where it is said to be again and again is lost.
                Err(error)
                    if error.kind() == ErrorKind::NotFound
                        && attempt_count < READ_ATTEMPT_MAX
                        && same_count < READ_SAME_MAX =>
                {
                    attempt_count += 1;
                    before = Some(pieces);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(Error::new(ErrorKind::Corrupt, "tree.read").at(ino.0).because(error));
                }
                read => return read,
            }
        }
    }

    async fn read_pieces(&self, standing: &Standing, pieces: &[(Range<u64>, Piece)]) -> Result<Bytes> {
        if let [(range, piece)] = pieces {
            return self.read_piece(standing, range, *piece).await;
        }
        let read = |(range, piece): (Range<u64>, Piece)| async move { self.read_piece(standing, &range, piece).await };
        let mut parts = stream::iter(pieces.to_vec()).map(read).buffered(PIECE_COUNT);
        let mut bytes = BytesMut::new();
        while let Some(part) = parts.try_next().await? {
            bytes.extend_from_slice(&part);
        }
        Ok(bytes.freeze())
    }

    /// The bytes of a piece, all of them.
    pub(super) async fn read_piece(&self, standing: &Standing, range: &Range<u64>, piece: Piece) -> Result<Bytes> {
        let too_long = || Error::new(ErrorKind::Internal, "tree.read").because("a piece longer than a read");
        let len = u32::try_from(range.end - range.start).map_err(|_| too_long())?;
        let bytes = match piece {
            Piece::Hole | Piece::Reserved => zeros(len as usize),
            Piece::Slice(cid, from) => match self.kept_at(&cid) {
                Some(pos) => self.read_journal(pos, place(from), len as usize).await?,
                None => self.dag.read_at(&cid, from, len).await?,
            },
            Piece::Journal(UNPLACED, at) => standing.read(at, len as usize)?,
            Piece::Journal(pos, at) => self.read_journal(pos, at as usize, len as usize).await?,
        };
        if bytes.len() != len as usize {
            let why = "a file of the DAG is shorter than what it stands for";
            return Err(Error::new(ErrorKind::Corrupt, "tree.read").because(why));
        }
        Ok(bytes)
    }

    /// Where the journal has the bytes of a chunk that the store may have lost.
    pub(super) fn kept_at(&self, cid: &Cid) -> Option<LogPos> {
        self.lock().kept.get(cid).copied()
    }

    async fn read_journal(&self, pos: LogPos, at: usize, len: usize) -> Result<Bytes> {
        let body = if let Some(body) = self.recent.get(pos) {
            body
        } else {
            let body = self.log.read(pos).await?.body;
            self.recent.keep(pos, &body);
            body
        };
        let end = at.checked_add(len).filter(|end| *end <= body.len());
        let end = end.ok_or_else(|| Error::new(ErrorKind::Corrupt, "tree.read").at(pos))?;
        Ok(body.slice(at..end))
    }

    pub(super) async fn write(
        self: &Arc<Self>,
        standing: &Standing,
        ino: Ino,
        (offset, data): (u64, Bytes),
        clear_suid: bool,
    ) -> Result<Changed> {
        self.refuse_when_short()?;
        self.make_room().await?;
        // Until the journal names them, nobody else keeps the chunks that are put.
        let _session = self.dag.begin_write();
        let (range, parts) = self.parts(standing, ino, offset, data).await?;
        let _no_checkout = self.gate.read().await;
        self.attempt(standing, |attempt| attempt.write(ino, &range, &parts, clear_suid)).await
    }

    /// Writes what is as if it had always been there.
    pub(super) async fn bring(self: &Arc<Self>, standing: &Standing, ino: Ino, offset: u64, data: Bytes) -> Result<()> {
        self.refuse_when_short()?;
        self.make_room().await?;
        let _session = self.dag.begin_write();
        let (range, parts) = self.parts(standing, ino, offset, data).await?;
        let _no_checkout = self.gate.read().await;
        self.attempt(standing, |attempt| attempt.bring(ino, &range, &parts)).await
    }

    /// What is written where, and what it is made of: whole chunks are put.
    async fn parts(&self, standing: &Standing, ino: Ino, offset: u64, data: Bytes) -> Result<(Range<u64>, Vec<Part>)> {
        let len = data.len() as u64;
        let parts = if let Some(whole) = self.whole_chunks(offset, len) {
            self.attempt(standing, |attempt| attempt.can_write(ino, offset, len)).await?;
            self.put_chunks(offset, data, whole).await?
        } else {
            vec![Part::Bytes(offset, data)]
        };
        let parts = self.spill(standing, ino, parts).await?;
        Ok((offset..offset.saturating_add(len), parts))
    }

    /// Keeps the blocks of pieces that something keeps now.
    pub(super) fn leases(&self, pieces: impl IntoIterator<Item = Piece>) -> Vec<DagLease> {
        let cid = |piece| if let Piece::Slice(cid, _) = piece { Some(cid) } else { None };
        let cids: HashSet<Cid> = pieces.into_iter().filter_map(cid).collect();
        cids.iter().map(|cid| self.dag.lease(cid)).collect()
    }

    /// The part of a write that is whole chunks of the DAG's.
    fn whole_chunks(&self, offset: u64, len: u64) -> Option<Range<u64>> {
        let params = self.dag.params();
        let chunk_len = u64::from(params.chunk_len);
        let start = offset.checked_next_multiple_of(chunk_len)?;
        let end = offset.checked_add(len)? / chunk_len * chunk_len;
        (params.raw_leaves && start < end).then_some(start..end)
    }

    /// Puts the chunks of a write that are `whole`, and tells what it is made of.
    async fn put_chunks(&self, offset: u64, data: Bytes, whole: Range<u64>) -> Result<Vec<Part>> {
        let end = offset + data.len() as u64;
        let cut = |range: Range<u64>| data.slice(place(range.start - offset)..place(range.end - offset));
        let mut parts = Vec::new();
        if offset < whole.start {
            parts.push(Part::Bytes(offset, cut(offset..whole.start)));
        }
        let step = u64::from(self.dag.params().chunk_len);
        let mut at = whole.start;
        while at < whole.end {
            parts.push(self.put_piece(at, cut(at..at + step)).await?);
            at += step;
        }
        if whole.end < end {
            parts.push(Part::Bytes(whole.end, cut(whole.end..end)));
        }
        Ok(parts)
    }

    /// What of `parts` is more than the record of a transaction takes is put as blocks.
    async fn spill(&self, standing: &Standing, ino: Ino, parts: Vec<Part>) -> Result<Vec<Part>> {
        let Some(mut room) = standing.data_room() else { return Ok(parts) };
        let mut kept = Vec::with_capacity(parts.len());
        for part in parts {
            let Part::Bytes(offset, bytes) = part else {
                kept.push(part);
                continue;
            };
            if bytes.len() <= room {
                room -= bytes.len();
                kept.push(Part::Bytes(offset, bytes));
                continue;
            }
            self.attempt(standing, |attempt| attempt.can_write(ino, offset, bytes.len() as u64)).await?;
            let step = self.dag.params().chunk_len as usize;
            for at in (0..bytes.len()).step_by(step) {
                let piece = bytes.slice(at..bytes.len().min(at + step));
                kept.push(self.put_piece(offset + at as u64, piece).await?);
            }
        }
        Ok(kept)
    }

    /// Puts bytes of a file as a block past the journal, where the store takes it.
    async fn put_piece(&self, at: u64, bytes: Bytes) -> Result<Part> {
        match self.dag.put_block(Codec::Raw, bytes.clone()).await {
            Ok(cid) => {
                self.lock().put_past(cid);
                Ok(Part::Slice(at..at + bytes.len() as u64, cid, 0))
            }
            // A store whose nodes are away takes it with a later commit; until then it is durable here.
            Err(error) if error.kind() == ErrorKind::Unavailable => Ok(Part::Bytes(at, bytes)),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn copy_range(
        self: &Arc<Self>,
        standing: &Standing,
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
    ) -> Result<(u64, Changed)> {
        self.refuse_when_short()?;
        self.make_room().await?;
        let mut copy = Copy { standing, from, to, len, done: 0, changed: None };
        let mut attempt_count = 0;
        loop {
            let before = copy.done;
            if let Some(changed) = self.copy_as_planned(&mut copy).await? {
                return Ok((copy.done, changed));
            }
            // A commit moved the bytes: they are looked for again, from where the copy is.
            attempt_count = if copy.done > before { 0 } else { attempt_count + 1 };
            if attempt_count > READ_ATTEMPT_MAX {
                let why = "commits moved the bytes again and again";
                return Err(Error::new(ErrorKind::Unavailable, "tree.copy_range").because(why));
            }
        }
    }

    /// Copies what is left, from where the bytes are now; `None` if a commit moved them before all was copied: what was
    /// planned may name blocks that nothing keeps any more.
    async fn copy_as_planned(self: &Arc<Self>, copy: &mut Copy<'_>) -> Result<Option<Changed>> {
        let (from, to) = ((copy.from.0, copy.from.1 + copy.done), (copy.to.0, copy.to.1 + copy.done));
        let left = copy.len - copy.done;
        let plan = self.attempt(copy.standing, |attempt| {
            let (len, pieces) = attempt.copy_plan(from, to, left)?;
            // What is shared may lose its other owner before the copy is its own: leased while that is known to keep it.
            let leases = self.leases(pieces.iter().map(|(_, piece)| *piece));
            Ok((attempt.state.generation, len, pieces, leases))
        });
        let (generation, len, pieces, leases) = plan.await?;
        let _leases = copy.standing.hold(leases);
        let mut pieces = split(pieces).peekable();
        loop {
            let mut parts = Vec::new();
            let mut journal_len = 0;
            let begin = copy.to.1 + copy.done;
            let mut end = begin;
            while journal_len < COPY_LEN_MAX && parts.len() < COPY_PART_COUNT_MAX {
                let Some((range, piece)) = pieces.next() else { break };
                let target = range.start - from.1 + to.1..range.end - from.1 + to.1;
                end = target.end;
                parts.push(match piece {
                    Piece::Hole | Piece::Reserved => Part::Hole(target),
                    Piece::Slice(cid, at) => Part::Slice(target, cid, at),
                    Piece::Journal(..) => {
                        journal_len += range.end - range.start;
                        match self.read_piece(copy.standing, &range, piece).await {
                            Err(_) if self.lock().generation != generation => return Ok(None),
                            bytes => Part::Bytes(target.start, bytes?),
                        }
                    }
                });
            }
            let range = begin..end;
            let parts = self.spill(copy.standing, copy.to.0, parts).await?;
            let step = self.change(copy.standing, |attempt| {
                if attempt.state.generation != generation {
                    return Ok(None);
                }
                attempt.write(to.0, &range, &parts, false).map(Some)
            });
            let Some(step) = step.await? else { return Ok(None) };
            copy.done += end - begin;
            let before = copy.changed.as_ref().map_or(step.before, |changed| changed.before);
            let changed = Changed { before, after: step.after };
            if pieces.peek().is_none() {
                debug_assert_eq!(end - to.1, len, "pieces have no gap");
                return Ok(Some(changed));
            }
            copy.changed = Some(changed);
        }
    }
}

/// A copy of a range under way.
struct Copy<'a> {
    standing: &'a Standing,
    from: (Ino, u64),
    to: (Ino, u64),
    len: u64,
    /// How much of it is copied.
    done: u64,
    changed: Option<Changed>,
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

/// A distance within one buffer as an index, or one that no buffer has.
fn place(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

fn zeros(len: usize) -> Bytes {
    static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
    if len <= ZEROS.len() { Bytes::from_static(&ZEROS[..len]) } else { vec![0; len].into() }
}
