//! RESP2 as its clients speak it: requests as arrays of bulk strings, and replies of five kinds.
//!
//! A reply is read from what has come so far, and asked for again when more has; nothing is believed of a server: no
//! reply takes more memory than has come of it, none is nested deeper or longer than a reply of 0-db can be, and what is no
//! reply is `Corrupt`. Spec: spec/zstor.md #0-db.

use bytes::{Buf as _, Bytes, BytesMut};
use muxfs::{Error, ErrorKind, Result};

/// No line is longer: a kind, and a number or a message.
const LINE_LEN_MAX: usize = 4096;
/// No bulk string is longer: 0-db takes no longer value.
pub(crate) const BULK_LEN_MAX: usize = 8 << 20;
/// No array has more items.
const ITEM_COUNT_MAX: usize = 1 << 20;
/// An array in an array in an array: what `SCAN` replies with.
const DEPTH_MAX: usize = 4;
/// No reply is longer, with all that is in it.
const REPLY_LEN_MAX: usize = 64 << 20;

/// What a server replied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+`
    Simple(String),
    /// `-`: a refusal, and why.
    Error(String),
    /// `:`
    Number(i64),
    /// `$`
    Bulk(Bytes),
    /// `$-1` and `*-1`
    Nil,
    /// `*`
    Array(Vec<Self>),
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "zstor.resp").because(why)
}

/// What a request is on the wire, to be sent one after the other: its parts up to the longest, that one where it is, and
/// the rest.
pub fn request<'a>(parts: &[&'a [u8]]) -> (Vec<u8>, &'a [u8], Vec<u8>) {
    let longest = (0..parts.len()).max_by_key(|&index| parts[index].len());
    let (mut before, mut long, mut after) = (format!("*{}\r\n", parts.len()).into_bytes(), &[][..], Vec::new());
    for (index, &part) in parts.iter().enumerate() {
        let out = if long.is_empty() { &mut before } else { &mut after };
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        if Some(index) == longest {
            long = part;
            after.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(part);
            out.extend_from_slice(b"\r\n");
        }
    }
    (before, long, after)
}

/// What comes next.
enum Value {
    Whole(Reply),
    /// An array, whose items follow.
    Begun,
    /// More has to come.
    Cut,
}

/// Reads replies out of what comes in.
#[derive(Debug, Default)]
pub struct Replies {
    /// What came and was not read.
    pub buffer: BytesMut,
    /// Arrays that are not whole, the outermost first, and how many items each lacks.
    open: Vec<(Vec<Reply>, usize)>,
    /// How long the reply was so far.
    read_len: usize,
}

impl Replies {
    /// The next reply; `None` until more has come.
    ///
    /// # Errors
    /// `Corrupt`: nothing that comes afterwards can be read.
    #[allow(clippy::should_implement_trait, reason = "there may be more when it gives none")]
    pub fn next(&mut self) -> Result<Option<Reply>> {
        loop {
            let mut value = match self.value()? {
                Value::Whole(value) => value,
                Value::Begun => continue,
                Value::Cut => return Ok(None),
            };
            // What is whole may make the array whole that it is in.
            loop {
                let Some((items, lacking)) = self.open.last_mut() else {
                    self.read_len = 0;
                    return Ok(Some(value));
                };
                items.push(value);
                *lacking -= 1;
                if *lacking > 0 {
                    break;
                }
                value = Reply::Array(self.open.pop().map(|(items, _)| items).unwrap_or_default());
            }
        }
    }

    fn value(&mut self) -> Result<Value> {
        let Some((line_len, front_len)) = self.line()? else { return Ok(Value::Cut) };
        let line = self.buffer.get(..line_len).unwrap_or_default();
        let Some((kind, rest)) = line.split_first() else { return Err(corrupt("an empty line is no reply")) };
        let value = match kind {
            b'+' => Reply::Simple(String::from_utf8_lossy(rest).into_owned()),
            b'-' => Reply::Error(String::from_utf8_lossy(rest).into_owned()),
            b':' => Reply::Number(number(rest)?),
            b'$' => match number(rest)? {
                -1 => Reply::Nil,
                len => {
                    let len = within(len, BULK_LEN_MAX)?;
                    let whole_len = front_len + len + 2;
                    if self.buffer.len() < whole_len {
                        return Ok(Value::Cut);
                    }
                    self.count(whole_len)?;
                    self.buffer.advance(front_len);
                    let bytes = self.buffer.split_to(len).freeze();
                    if self.buffer.split_to(2) != b"\r\n"[..] {
                        return Err(corrupt("a string is longer than it was said to be"));
                    }
                    return Ok(Value::Whole(Reply::Bulk(bytes)));
                }
            },
            b'*' => match number(rest)? {
                -1 => Reply::Nil,
                0 => Reply::Array(Vec::new()),
                count => {
                    let count = within(count, ITEM_COUNT_MAX)?;
                    if self.open.len() == DEPTH_MAX {
                        return Err(corrupt("its arrays are nested too deeply"));
                    }
                    // Not as long as it is said to be: who says so need not send that.
                    self.open.push((Vec::new(), count));
                    self.count(front_len)?;
                    self.buffer.advance(front_len);
                    return Ok(Value::Begun);
                }
            },
            _ => return Err(corrupt("it begins like no reply")),
        };
        self.count(front_len)?;
        self.buffer.advance(front_len);
        Ok(Value::Whole(value))
    }

    fn count(&mut self, len: usize) -> Result<()> {
        // Each value takes memory, however short it is.
        self.read_len += len + size_of::<Reply>();
        if self.read_len > REPLY_LEN_MAX { Err(corrupt("a reply is too long")) } else { Ok(()) }
    }

    /// How long the line is that is next, without and with its end.
    fn line(&self) -> Result<Option<(usize, usize)>> {
        let front = self.buffer.get(..LINE_LEN_MAX).unwrap_or(&self.buffer);
        match front.windows(2).position(|end| end == b"\r\n") {
            Some(len) => Ok(Some((len, len + 2))),
            None if front.len() == LINE_LEN_MAX => Err(corrupt("a line is too long")),
            None => Ok(None),
        }
    }
}

fn number(text: &[u8]) -> Result<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let parsed = std::str::from_utf8(text).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| corrupt("a number is none"))
}

fn within(len: i64, len_max: usize) -> Result<usize> {
    usize::try_from(len).ok().filter(|len| *len <= len_max).ok_or_else(|| corrupt("a length is out of bounds"))
}

#[cfg(test)]
mod tests {
    use muxfs::testing::fault::Dice;

    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Reply>> {
        let mut replies = Replies { buffer: bytes.into(), ..Replies::default() };
        let mut all = Vec::new();
        while let Some(reply) = replies.next()? {
            all.push(reply);
        }
        Ok(all)
    }

    fn samples() -> (Vec<u8>, Vec<Reply>) {
        let bytes = b"+OK\r\n-No such\r\n:-42\r\n$5\r\na\r\nbc\r\n$0\r\n\r\n$-1\r\n*0\r\n*-1\r\n*2\r\n$1\r\nc\r\n*1\r\n*3\r\n$1\r\nk\r\n:7\r\n:8\r\n";
        let entry = Reply::Array(vec![Reply::Bulk("k".into()), Reply::Number(7), Reply::Number(8)]);
        let replies = vec![
            Reply::Simple("OK".into()),
            Reply::Error("No such".into()),
            Reply::Number(-42),
            Reply::Bulk("a\r\nbc".into()),
            Reply::Bulk("".into()),
            Reply::Nil,
            Reply::Array(Vec::new()),
            Reply::Nil,
            Reply::Array(vec![Reply::Bulk("c".into()), Reply::Array(vec![entry])]),
        ];
        (bytes.to_vec(), replies)
    }

    #[test]
    fn replies_read_the_same_wherever_they_are_cut() {
        let (bytes, expected) = samples();
        assert_eq!(all(&bytes).expect("good"), expected);
        for len in 1..bytes.len() {
            let (mut replies, mut read) = (Replies::default(), Vec::new());
            for part in bytes.chunks(len) {
                replies.buffer.extend_from_slice(part);
                while let Some(reply) = replies.next().expect("good") {
                    read.push(reply);
                }
            }
            assert_eq!(read, expected, "in parts of {len}");
        }
    }

    #[test]
    fn a_request_is_an_array_of_strings() {
        for (parts, expected) in [
            (&[&b"SET"[..], b"k\r\n", b""][..], &b"*3\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$0\r\n\r\n"[..]),
            (&[b"SET", b"k", b"value"], b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n"),
            (&[b"SELECT", b"ns"], b"*2\r\n$6\r\nSELECT\r\n$2\r\nns\r\n"),
            (&[b""], b"*1\r\n$0\r\n\r\n"),
        ] {
            let (before, long, after) = request(parts);
            assert_eq!([&before[..], long, &after].concat(), expected);
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bad in [
            &b"OK\r\n"[..],
            b"\r\n",
            b":\r\n",
            b":1x\r\n",
            b":+1\r\n",
            b":99999999999999999999\r\n",
            b"$-2\r\n",
            b"$8388609\r\n",
            b"$1\r\nabc\r\n",
            b"*1048577\r\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        ] {
            assert_eq!(all(bad).expect_err("bad").kind(), ErrorKind::Corrupt, "{:?}", String::from_utf8_lossy(bad));
        }
        all(&[b'+'; LINE_LEN_MAX]).expect_err("it never ends");
    }

    /// Numbers that a server makes up cost it bytes, not us.
    #[test]
    fn nothing_is_allocated_that_did_not_come() {
        let mut replies =
            Replies { buffer: b"*1048576\r\n*1048576\r\n*1048576\r\n$8388608\r\nabc"[..].into(), ..Replies::default() };
        assert_eq!(replies.next().expect("not yet wrong"), None);
        assert!(replies.open.iter().all(|(items, _)| items.capacity() == 0));
        let mut long = b"*1048576\r\n".to_vec();
        long.extend(b"*0\r\n".repeat(1 << 20));
        let kind = all(&long).map_err(|error| error.kind());
        // Either it fits or it is refused; it never grows beyond the limit.
        assert!(matches!(kind, Ok(_) | Err(ErrorKind::Corrupt)));
    }

    #[test]
    fn damaged_replies_never_panic() {
        let (bytes, _) = samples();
        let mut dice = Dice::new(7);
        for _ in 0..20_000 {
            let mut damaged = bytes.clone();
            for _ in 0..=dice.roll(4) {
                let at = dice.roll(damaged.len());
                damaged[at] = u8::try_from(dice.roll(256)).expect("a byte");
            }
            // Whatever comes of it.
            all(&damaged).ok();
        }
    }
}
