//! Record marking: RPC messages cut out of a TCP stream, and replies queued for it.
//!
//! A record is one or more fragments, each behind four bytes: the top bit says "last", the rest its length.
//! A claimed length reserves nothing: room grows with the bytes that really came, and a record past
//! [`RECORD_LEN_MAX`] ends the connection. Spec: RFC 5531 section 11.

use std::{collections::VecDeque, io, io::IoSlice};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};

use crate::{rpc::Reply, xdr::padding};

/// The most bytes of one READ or WRITE: what Linux and macOS ask for at most.
pub const TRANSFER_LEN_MAX: u32 = 1 << 20;
/// The longest record: a full WRITE, and room for its header, credentials and handle.
pub const RECORD_LEN_MAX: usize = (1 << 20) + 64 * 1024;
/// What is read at once where nothing longer is known to come: a few hundred small calls.
const READ_LEN: usize = 32 * 1024;
/// The first growth for a long record; it doubles from there, so at most half of the room is unfilled.
const GROW_LEN_MIN: usize = 64 * 1024;
/// The beginning of a record up to this moves to a buffer of its size: the one it was read into holds much more.
const CLAIM_LEN_MAX: usize = 64;
/// Parts of a reply below this are copied one behind the other: cheaper than one more slice to write.
const COPY_LEN_MAX: usize = 2 * 1024;
/// How many slices one write carries: Linux takes 1024, more than this gains nothing.
const SLICE_COUNT_MAX: usize = 32;

/// A record is longer than [`RECORD_LEN_MAX`]: the stream cannot be followed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

/// The receiving half: bytes in, records out.
#[derive(Debug, Default)]
pub(crate) struct Input {
    bytes: BytesMut,
    /// Earlier fragments of the record under way.
    assembled: BytesMut,
    /// The longest fragment this peer ever completed: so much it may be trusted to send again.
    proved: usize,
    /// How much is missing of the fragment at the front of `bytes`.
    missing: usize,
}

impl Input {
    /// The bytes of what has not come in whole.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.assembled.len()
    }

    /// The most that there will be after the next read.
    pub(crate) fn len_next(&self) -> usize {
        self.len() + self.worth_reading()
    }

    /// Whether a part of a record is waiting for the rest.
    pub(crate) fn is_partial(&self) -> bool {
        !self.bytes.is_empty() || !self.assembled.is_empty()
    }

    /// Cuts out the next whole record.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        loop {
            let Some(mark) = self.bytes.first_chunk::<4>() else {
                self.missing = 0;
                if self.bytes.is_empty() {
                    // An idle connection keeps no buffer: ten thousand of them cost next to nothing.
                    self.bytes = BytesMut::new();
                }
                return Ok(None);
            };
            let mark = u32::from_be_bytes(*mark);
            let (last, len) = (mark >> 31 == 1, (mark & 0x7fff_ffff) as usize);
            if self.assembled.len() + len > RECORD_LEN_MAX {
                return Err(TooLong);
            }
            if self.bytes.len() - 4 < len {
                self.missing = len - (self.bytes.len() - 4);
                if self.bytes.len() < CLAIM_LEN_MAX {
                    // Ten thousand that only claim cost as little.
                    self.bytes = BytesMut::from(&*self.bytes);
                }
                return Ok(None);
            }
            self.bytes.advance(4);
            self.proved = self.proved.max(len);
            let fragment = self.bytes.split_to(len);
            if last && self.assembled.is_empty() {
                return Ok(Some(fragment.freeze()));
            }
            self.assembled.extend_from_slice(&fragment);
            if last {
                return Ok(Some(std::mem::take(&mut self.assembled).freeze()));
            }
        }
    }

    /// Takes in what the socket has, at most as much as is worth at once. `Ok(0)` at the end of the stream.
    pub(crate) fn read_from(&mut self, stream: &TcpStream) -> io::Result<usize> {
        let len = self.worth_reading();
        self.bytes.reserve(len);
        stream.try_read_buf(&mut (&mut self.bytes).limit(len))
    }

    /// Past the end of a long fragment nothing is read, so that the next one begins in a buffer of its own and a WRITE
    /// is never moved.
    fn worth_reading(&self) -> usize {
        if self.missing <= READ_LEN {
            return READ_LEN;
        }
        self.missing.min(self.bytes.len().max(GROW_LEN_MIN).max(self.proved))
    }
}

/// The sending half: replies in, vectored writes out.
#[derive(Debug, Default)]
pub(crate) struct Output {
    segments: VecDeque<Segment>,
    /// Small replies since the last segment, one behind the other.
    tail: BytesMut,
    len: usize,
}

#[derive(Debug)]
struct Segment {
    bytes: Bytes,
    /// Gives the share of the server's budget back once this is sent.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Output {
    /// The bytes waiting to be sent.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Queues a reply, if there is one.
    pub(crate) fn extend(&mut self, reply: Option<Reply>) {
        if let Some(reply) = reply {
            self.push(reply);
        }
    }

    /// Queues a reply. What is long of it, a payload or a listing, is not copied, and keeps its share of the budget.
    pub(crate) fn push(&mut self, reply: Reply) {
        let (head, payload, mut permit) = reply.into_parts();
        self.len += head.len() + payload.len() + padding(payload.len());
        let padding = padding(payload.len());
        for part in [Bytes::from(head), payload] {
            if part.len() < COPY_LEN_MAX {
                self.tail.extend_from_slice(&part);
            } else {
                let before = self.tail.split().freeze();
                self.segments.extend((!before.is_empty()).then_some(Segment { bytes: before, _permit: None }));
                self.segments.push_back(Segment { bytes: part, _permit: permit.take() });
            }
        }
        self.tail.put_bytes(0, padding);
    }

    /// Sends as much as the socket takes without waiting, and says how much that was.
    pub(crate) fn write_to(&mut self, stream: &TcpStream) -> io::Result<usize> {
        let mut sent = 0;
        while self.len > 0 {
            let mut slices = [IoSlice::new(&[]); SLICE_COUNT_MAX];
            let queued = self.segments.iter().map(|segment| segment.bytes.as_ref()).chain([self.tail.as_ref()]);
            let count = slices.iter_mut().zip(queued).map(|(slice, bytes)| *slice = IoSlice::new(bytes)).count();
            match stream.try_write_vectored(slices.get(..count).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    sent += written;
                    self.drop_front(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.len == 0 {
            self.tail = BytesMut::new();
        }
        Ok(sent)
    }

    fn drop_front(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(segment) = self.segments.front_mut() {
            if written < segment.bytes.len() {
                segment.bytes.advance(written);
                return;
            }
            written -= segment.bytes.len();
            self.segments.pop_front();
        }
        self.tail.advance(written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fragment(bytes: &[u8], last: bool) -> Vec<u8> {
        let mark = u32::try_from(bytes.len()).expect("is short") | u32::from(last) << 31;
        [&mark.to_be_bytes(), bytes].concat()
    }

    fn feed(input: &mut Input, bytes: &[u8]) -> Result<Vec<Bytes>, TooLong> {
        input.bytes.extend_from_slice(bytes);
        std::iter::from_fn(|| input.next().transpose()).collect()
    }

    proptest! {
        /// However the stream is cut into fragments and reads, the same records come out.
        #[test]
        fn records_come_out_whole(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            cuts in prop::collection::vec(1usize..90, 1..6),
            reads in prop::collection::vec(1usize..90, 1..6),
        ) {
            let mut stream = Vec::new();
            let mut cut = cuts.iter().cycle();
            for record in &records {
                let mut rest = record.as_slice();
                loop {
                    let len = rest.len().min(*cut.next().expect("cycles"));
                    let (piece, after) = rest.split_at(len);
                    rest = after;
                    stream.extend(fragment(piece, rest.is_empty()));
                    if rest.is_empty() { break }
                }
            }
            let mut input = Input::default();
            let mut got = Vec::new();
            let mut rest = stream.as_slice();
            for len in reads.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*len));
                got.extend(feed(&mut input, piece).expect("is short"));
                rest = after;
                if rest.is_empty() { break }
            }
            prop_assert_eq!(got, records);
            prop_assert!(!input.is_partial());
        }
    }

    #[test]
    fn a_claimed_length_reserves_nothing_and_one_past_the_limit_ends_the_stream() {
        let mut input = Input::default();
        let longest = u32::try_from(RECORD_LEN_MAX).expect("fits") | 1 << 31;
        assert_eq!(feed(&mut input, &longest.to_be_bytes()), Ok(vec![]));
        assert!(input.worth_reading() <= GROW_LEN_MIN);
        assert_eq!(feed(&mut Input::default(), &(longest + 1).to_be_bytes()), Err(TooLong));
        assert_eq!(feed(&mut Input::default(), &[0xff; 4]), Err(TooLong));
        let halves = [fragment(&vec![0; RECORD_LEN_MAX / 2 + 1], false), fragment(&vec![0; RECORD_LEN_MAX / 2], true)];
        assert_eq!(feed(&mut Input::default(), &halves.concat()), Err(TooLong));
    }

    #[test]
    fn an_idle_connection_keeps_no_buffer() {
        let mut input = Input::default();
        assert_eq!(feed(&mut input, &fragment(&[7; 5000], true)).map(|records| records.len()), Ok(1));
        assert_eq!(input.bytes.capacity(), 0);
    }

    /// A listing has no payload, only a long head: its share of the budget went back before it was sent, and a peer that
    /// took no replies held memory that nobody counted.
    #[test]
    fn a_long_reply_keeps_its_share_of_the_budget_until_it_is_sent() {
        let budget = std::sync::Arc::new(tokio::sync::Semaphore::new(10));
        let mut output = Output::default();
        for (listing_len, payload_len) in [(COPY_LEN_MAX, 0), (0, COPY_LEN_MAX), (COPY_LEN_MAX, COPY_LEN_MAX)] {
            let mut reply = Reply::accepted(7);
            reply.put_encoded(&vec![0; listing_len]).put_payload(vec![0; payload_len].into());
            reply.hold(budget.clone().try_acquire_many_owned(2).expect("there is room"));
            output.push(reply);
        }
        assert_eq!(budget.available_permits(), 4);
        output.drop_front(output.len());
        assert_eq!((output.len(), budget.available_permits()), (0, 10));
        let mut short = Reply::accepted(7);
        short.hold(budget.clone().try_acquire_many_owned(2).expect("there is room"));
        output.push(short);
        assert_eq!(budget.available_permits(), 10);
    }

    #[test]
    fn what_was_sent_is_dropped_across_segments() {
        let mut output = Output::default();
        for payload in [vec![1; 5], vec![2; COPY_LEN_MAX + 1], vec![3; 1]] {
            let mut reply = Reply::accepted(7);
            reply.set_payload(payload.into());
            output.push(reply);
        }
        let total = output.len();
        let queued = |output: &Output| -> Vec<u8> {
            output.segments.iter().flat_map(|s| s.bytes.to_vec()).chain(output.tail.to_vec()).collect()
        };
        let all = queued(&output);
        assert_eq!(all.len(), total);
        for step in [1, 30, 2000, 100, 1].into_iter().cycle() {
            let step = step.min(output.len());
            output.drop_front(step);
            assert_eq!(queued(&output), all[total - output.len()..]);
            if output.len() == 0 {
                break;
            }
        }
    }
}
