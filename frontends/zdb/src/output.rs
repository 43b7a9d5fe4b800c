//! Replies on their way to a client: written one behind the other, sent in one piece where they are short.
//!
//! The reply to a write is promised: it is here when the write was begun, and leaves when the write is durable, or becomes
//! an error where it could not be made so. Long values are not copied, and keep their share of the server's room until they
//! are sent. Spec: spec/zdb.md #what-a-reply-promises.

use std::{collections::VecDeque, io, io::IoSlice, ops::Range};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;

use crate::{room::shrink, socket::Socket};

/// Values below this are copied behind what is there: cheaper than one more slice to write.
const COPY_LEN_MAX: usize = 16 * 1024;
/// How many slices one write carries.
const SLICE_COUNT_MAX: usize = 32;

#[derive(Debug)]
struct Segment {
    bytes: Bytes,
    /// Gives the share of the server's room back once this is sent.
    _permit: Option<OwnedSemaphorePermit>,
}

/// The sending half of a connection.
#[derive(Debug, Default)]
pub(crate) struct Output {
    segments: VecDeque<Segment>,
    /// Replies since the last segment.
    tail: BytesMut,
    /// Where in `tail` replies are that are promised, in order.
    promised: Vec<Range<usize>>,
    len: usize,
}

impl Output {
    /// The bytes waiting to be sent.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn put(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.tail.extend_from_slice(part);
            self.len += part.len();
        }
    }

    fn line(&mut self, kind: u8, number: u64) {
        // No number is longer.
        let mut digits = [0_u8; 20];
        let mut rest = number;
        let mut begin = digits.len();
        for (at, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            (rest, begin) = (rest / 10, at);
            if rest == 0 {
                break;
            }
        }
        self.put(&[&[kind], digits.get(begin..).unwrap_or_default(), b"\r\n"]);
    }

    /// `+`
    pub(crate) fn simple(&mut self, text: &str) {
        self.put(&[b"+", text.as_bytes(), b"\r\n"]);
    }

    /// `-`: a refusal, and why, in one line.
    pub(crate) fn error(&mut self, text: &str) {
        self.put(&[b"-", text.as_bytes(), b"\r\n"]);
    }

    /// `:`
    pub(crate) fn number(&mut self, number: u64) {
        self.line(b':', number);
    }

    /// `$-1`
    pub(crate) fn nil(&mut self) {
        self.put(&[b"$-1\r\n"]);
    }

    /// `*`: so many replies follow, which are its items.
    pub(crate) fn array(&mut self, count: usize) {
        self.line(b'*', count as u64);
    }

    /// `$`
    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        self.line(b'$', bytes.len() as u64);
        self.put(&[bytes, b"\r\n"]);
    }

    /// `$`: a value, with the room that was taken for it.
    ///
    /// What is promised has to be settled first where it [is long](Self::is_long).
    pub(crate) fn value(&mut self, value: Bytes, mut permit: OwnedSemaphorePermit) {
        if !Self::is_long(value.len()) {
            self.bulk(&value);
            return;
        }
        debug_assert!(self.promised.is_empty(), "a promise is in the tail");
        shrink(&mut permit, value.len());
        self.line(b'$', value.len() as u64);
        let before = self.tail.split().freeze();
        self.len += value.len();
        self.segments.push_back(Segment { bytes: before, _permit: None });
        self.segments.push_back(Segment { bytes: value, _permit: Some(permit) });
        self.put(&[b"\r\n"]);
    }

    /// Whether a value of so many bytes is not copied.
    pub(crate) fn is_long(len: usize) -> bool {
        len >= COPY_LEN_MAX
    }

    /// Writes a reply that holds once what was begun before it is durable.
    pub(crate) fn promise(&mut self, write: impl FnOnce(&mut Self)) {
        let begin = self.tail.len();
        write(self);
        self.promised.push(begin..self.tail.len());
    }

    /// Whether a reply is promised: nothing can be sent before it is kept.
    pub(crate) fn is_promised(&self) -> bool {
        !self.promised.is_empty()
    }

    /// Keeps the promises.
    pub(crate) fn keep(&mut self) {
        self.promised.clear();
    }

    /// Breaks them: each such reply becomes an error.
    pub(crate) fn break_promises(&mut self, text: &str) {
        let (before, mut from) = (self.tail.split(), 0);
        self.len -= before.len();
        for promised in std::mem::take(&mut self.promised) {
            self.put(&[before.get(from..promised.start).unwrap_or_default()]);
            self.error(text);
            from = promised.end;
        }
        self.put(&[before.get(from..).unwrap_or_default()]);
    }

    /// Sends as much as the socket takes without waiting.
    pub(crate) fn write_to(&mut self, socket: &Socket) -> io::Result<usize> {
        debug_assert!(self.promised.is_empty(), "what is sent cannot be taken back");
        let mut slices = [IoSlice::new(&[]); SLICE_COUNT_MAX];
        let queued = self.segments.iter().map(|segment| segment.bytes.as_ref()).chain([self.tail.as_ref()]);
        let count = slices.iter_mut().zip(queued).map(|(slice, bytes)| *slice = IoSlice::new(bytes)).count();
        let written = socket.try_write_vectored(slices.get(..count).unwrap_or_default())?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.drop_front(written);
        Ok(written)
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
        if self.len == 0 {
            // An idle connection keeps no buffer.
            self.tail = BytesMut::new();
        }
    }

    /// Takes out all that is waiting.
    #[cfg(test)]
    fn take(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        for segment in self.segments.drain(..) {
            all.extend_from_slice(&segment.bytes);
        }
        all.extend_from_slice(&self.tail.split());
        assert_eq!(all.len(), std::mem::take(&mut self.len));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::Rooms;

    #[tokio::test]
    async fn replies_are_those_of_resp() {
        let (mut output, rooms) = (Output::default(), Rooms::default());
        output.simple("OK");
        output.error("Key not found");
        for number in [0, 7, 10, u64::MAX] {
            output.number(number);
        }
        output.nil();
        output.array(2);
        output.bulk(b"a\r\nb");
        output.bulk(b"");
        output.value("short".into(), rooms.for_value().await.expect("room"));
        assert_eq!(
            output.take(),
            b"+OK\r\n-Key not found\r\n:0\r\n:7\r\n:10\r\n:18446744073709551615\r\n$-1\r\n*2\r\n$4\r\na\r\nb\r\n$0\r\n\r\n$5\r\nshort\r\n"
        );
        let long = vec![b'x'; COPY_LEN_MAX];
        let expected = [b":1\r\n$16384\r\n", &long[..], b"\r\n:2\r\n"].concat();
        for sent_len in [0, 3, 4, 12, 13, 100, COPY_LEN_MAX + 12, COPY_LEN_MAX + 14] {
            let mut output = Output::default();
            output.number(1);
            output.value(long.clone().into(), rooms.for_value().await.expect("room"));
            output.number(2);
            assert_eq!(output.len(), expected.len());
            output.drop_front(sent_len);
            assert_eq!(output.take(), expected.split_at(sent_len).1);
        }
    }

    #[test]
    fn a_promise_that_is_broken_becomes_an_error_where_it_was() {
        for broken in [false, true] {
            let mut output = Output::default();
            output.number(1);
            output.promise(|output| output.bulk(b"k"));
            output.promise(|output| output.simple("OK"));
            output.number(2);
            output.promise(|output| output.bulk(b"l"));
            assert!(output.is_promised());
            let expected: &[u8] = if broken {
                output.break_promises("No");
                b":1\r\n-No\r\n-No\r\n:2\r\n-No\r\n"
            } else {
                output.keep();
                b":1\r\n$1\r\nk\r\n+OK\r\n:2\r\n$1\r\nl\r\n"
            };
            assert!(!output.is_promised());
            assert_eq!(output.take(), expected);
        }
    }
}
