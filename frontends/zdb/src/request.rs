//! Requests cut out of what a client sends: arrays of bulk strings, as RESP2 has them, and nothing else.
//!
//! ```text
//! *3\r\n $3\r\nSET\r\n $5\r\nhello\r\n $5\r\nworld\r\n        without the spaces
//! ```
//! Every number is checked before anything is kept for it, and a claimed length reserves nothing: room grows with what came.
//! A request that breaks a limit or the format has the error that 0-db gives, after which the stream cannot be followed any
//! more and ends; `*0` alone is whole, and the next request follows it. A line may end without its `\r`, as 0-db takes it.
//! Spec: spec/zdb.md #requests.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::socket::Socket;

/// The most arguments of a request, with its command.
pub const ARGUMENT_COUNT_MAX: usize = 1024;
/// The longest argument, in bytes: the longest value.
pub const ARGUMENT_LEN_MAX: usize = 8 << 20;
/// The most bytes of all arguments of a request together: the longest value with its key, or 1,023 of the longest keys.
pub const REQUEST_LEN_MAX: usize = ARGUMENT_LEN_MAX + (1 << 20);
/// What is read at once where nothing longer is known to come: a few hundred small requests.
pub(crate) const READ_LEN: usize = 32 * 1024;
/// The first growth for a long argument; it doubles from there, so at most half of the room is unfilled.
const GROW_LEN_MIN: usize = 64 * 1024;
/// The longest line before an argument: a kind, a number below ten million, and zeros before it.
const LINE_LEN_MAX: usize = 64;

/// Why a request is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// It does not begin with `*` and a number.
    NotAnArray,
    /// `*0`. The next request can be read.
    NoArguments,
    TooManyArguments,
    /// An argument is no bulk string, or not as long as it was said to be.
    NotAString,
    TooBig,
}

impl Malformed {
    /// The error, as 0-db words it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::NotAnArray => "Malformed request, array expected",
            Self::NoArguments => "Missing arguments",
            Self::TooManyArguments => "Too many arguments",
            Self::NotAString => "Malformed query string",
            Self::TooBig => "Payload too big",
        }
    }

    /// Whether nothing that follows can be understood.
    pub(crate) fn ends_stream(self) -> bool {
        self != Self::NoArguments
    }
}

/// The receiving half: bytes in, requests out.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    bytes: BytesMut,
    /// How many arguments the request under way still lacks; 0 between requests.
    lacking: usize,
    /// Those that came.
    arguments: Vec<Bytes>,
    /// How long they are together.
    arguments_len: usize,
    /// How long the argument is whose line was read.
    begun: Option<usize>,
    /// The longest argument that this client ever completed: so much it may be trusted to send again.
    proved: usize,
}

impl Requests {
    /// The bytes of what has not come in whole, and of whole requests that were not taken out.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.arguments_len
    }

    /// The most that there will be after the next read.
    pub(crate) fn len_next(&self) -> usize {
        self.len() + self.worth_reading()
    }

    /// Whether a part of a request is waiting for the rest.
    pub(crate) fn is_partial(&self) -> bool {
        self.lacking > 0 || !self.bytes.is_empty()
    }

    /// Takes out the next whole request: its command and arguments, never empty. `None` until more has come.
    ///
    /// # Errors
    /// What is wrong with it; see [`Malformed::ends_stream`].
    pub(crate) fn next(&mut self) -> Result<Option<Vec<Bytes>>, Malformed> {
        if self.lacking == 0 {
            let Some(count) = self.line(b'*', Malformed::NotAnArray)? else { return Ok(None) };
            match count {
                0 => return Err(Malformed::NoArguments),
                count if count > ARGUMENT_COUNT_MAX => return Err(Malformed::TooManyArguments),
                count => self.lacking = count,
            }
        }
        while self.lacking > 0 {
            let len = match self.begun {
                Some(len) => len,
                None => match self.line(b'$', Malformed::NotAString)? {
                    None => return Ok(None),
                    Some(len) if len > ARGUMENT_LEN_MAX || self.arguments_len + len > REQUEST_LEN_MAX => {
                        return Err(Malformed::TooBig);
                    }
                    Some(len) => *self.begun.insert(len),
                },
            };
            if self.bytes.len() < len + 2 {
                return Ok(None);
            }
            let argument = self.bytes.split_to(len).freeze();
            if self.bytes.split_to(2) != b"\r\n"[..] {
                return Err(Malformed::NotAString);
            }
            self.begun = None;
            self.lacking -= 1;
            self.arguments_len += len;
            self.proved = self.proved.max(len);
            self.arguments.push(argument);
        }
        self.arguments_len = 0;
        Ok(Some(std::mem::take(&mut self.arguments)))
    }

    /// Reads a line of a kind and a number.
    fn line(&mut self, kind: u8, malformed: Malformed) -> Result<Option<usize>, Malformed> {
        let front = self.bytes.get(..LINE_LEN_MAX).unwrap_or(&self.bytes);
        let Some(first) = front.first() else {
            // An idle connection keeps no buffer: ten thousand of them cost next to nothing.
            self.bytes = BytesMut::new();
            return Ok(None);
        };
        if *first != kind {
            return Err(malformed);
        }
        let Some(end) = front.iter().position(|byte| *byte == b'\n') else {
            return if front.len() == LINE_LEN_MAX { Err(malformed) } else { Ok(None) };
        };
        let digits = front.get(1..end).unwrap_or_default();
        let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
        let number = number(digits).ok_or(malformed)?;
        self.bytes.advance(end + 1);
        Ok(Some(number))
    }

    /// Takes in what a client has sent, at most as much as is worth at once. `Ok(0)` at its end.
    pub(crate) fn read_from(&mut self, socket: &Socket) -> io::Result<usize> {
        let len = self.worth_reading();
        self.bytes.reserve(len);
        socket.try_read(&mut (&mut self.bytes).limit(len))
    }

    /// Past the end of a long argument nothing is read, so that it is alone in its buffer.
    fn worth_reading(&self) -> usize {
        let missing = self.begun.map_or(0, |len| (len + 2).saturating_sub(self.bytes.len()));
        if missing <= READ_LEN {
            return READ_LEN;
        }
        missing.min(self.bytes.len().max(GROW_LEN_MIN).max(self.proved))
    }
}

/// A number of digits alone; beyond every limit where it is longer than any.
fn number(digits: &[u8]) -> Option<usize> {
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    all_digits.then(|| {
        digits.iter().fold(0_usize, |number, digit| number.saturating_mul(10).saturating_add(usize::from(digit - b'0')))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What came of a stream: the requests, and the error that ended it.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Read {
        requests: Vec<Vec<Bytes>>,
        empty_count: usize,
        end: Option<Malformed>,
    }

    impl Read {
        fn take(&mut self, requests: &mut Requests) {
            while self.end.is_none() {
                match requests.next() {
                    Ok(Some(request)) => self.requests.push(request),
                    Ok(None) => break,
                    Err(Malformed::NoArguments) => self.empty_count += 1,
                    Err(malformed) => self.end = Some(malformed),
                }
            }
        }
    }

    fn read(parts: &[&[u8]]) -> Read {
        let (mut requests, mut read) = (Requests::default(), Read::default());
        for part in parts {
            requests.bytes.extend_from_slice(part);
            read.take(&mut requests);
        }
        read
    }

    fn request(arguments: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            bytes.extend(format!("${}\r\n", argument.len()).into_bytes());
            bytes.extend(argument);
            bytes.extend(b"\r\n");
        }
        bytes
    }

    #[test]
    fn what_is_no_request_has_the_error_of_0_db() {
        let table: [(&[u8], Option<Malformed>); 20] = [
            (b"+1\r\n$4\r\nPING\r\n", Some(Malformed::NotAnArray)),
            (b"PING\r\n", Some(Malformed::NotAnArray)),
            (b"\r\n", Some(Malformed::NotAnArray)),
            (b"G", Some(Malformed::NotAnArray)),
            (b"*\r\n", Some(Malformed::NotAnArray)),
            (b"*-1\r\n", Some(Malformed::NotAnArray)),
            (b"*x\r\n", Some(Malformed::NotAnArray)),
            (b"*1025\r\n", Some(Malformed::TooManyArguments)),
            (b"*99999999999999999999999999\r\n", Some(Malformed::TooManyArguments)),
            (b"*1\r\n*1\r\n$1\r\nX\r\n", Some(Malformed::NotAString)),
            (b"*1\r\n:", Some(Malformed::NotAString)),
            (b"*1\r\n$-1\r\n", Some(Malformed::NotAString)),
            (b"*1\r\n$1\r\nXXX", Some(Malformed::NotAString)),
            (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8388609\r\n", Some(Malformed::TooBig)),
            (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$99999999999999999999\r\n", Some(Malformed::TooBig)),
            (b"*1024\r\n$4\r\nMGET\r\n", None),
            (b"*1\r\n$8388608\r\n", None),
            (b"*1\n$4\nPING\r\n", None),
            (b"*00000000000000000000000000000000000000000000000000000000000000000000", Some(Malformed::NotAnArray)),
            (b"*", None),
        ];
        for (bytes, end) in table {
            assert_eq!(read(&[bytes]).end, end, "{:?}", String::from_utf8_lossy(bytes));
        }
        let read = read(&[b"*0\r\n*1\r\n$4\r\nPING\r\n*0\r\n"]);
        assert_eq!((read.empty_count, read.end), (2, None));
        assert_eq!(read.requests, [[Bytes::from("PING")]]);
    }

    /// All that 1,024 arguments of 8 MiB could claim.
    #[test]
    fn arguments_are_limited_together() {
        let long = vec![0; ARGUMENT_LEN_MAX];
        let mut bytes = request(&[b"SET".to_vec(), vec![b'k'; 255], long.clone()]);
        assert_eq!(read(&[&bytes]).requests.len(), 1);
        bytes = request(&[b"SET".to_vec(), long.clone(), long]);
        assert_eq!(read(&[&bytes]).end, Some(Malformed::TooBig));
    }

    proptest! {
        /// However a stream is cut, the same requests come out of it.
        #[test]
        fn requests_come_out_whole(
            sent in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..6), 0..8),
            cuts in prop::collection::vec(1_usize..90, 1..6),
        ) {
            let bytes: Vec<u8> = sent.iter().flat_map(|arguments| request(arguments)).collect();
            let (mut parts, mut rest, mut cut) = (Vec::new(), &bytes[..], cuts.iter().cycle());
            while let Some(len) = cut.next().filter(|_| !rest.is_empty()) {
                let (part, after) = rest.split_at(rest.len().min(*len));
                parts.push(part);
                rest = after;
            }
            let read = read(&parts);
            prop_assert_eq!(read.end, None);
            let expected: Vec<Vec<Bytes>> =
                sent.into_iter().map(|arguments| arguments.into_iter().map(Bytes::from).collect()).collect();
            prop_assert_eq!(read.requests, expected);
        }

        /// Whatever comes, nothing panics, no number makes it hold what did not come, and cuts make no difference.
        #[test]
        fn anything_is_read_the_same_in_pieces_and_holds_no_more_than_came(
            pieces in prop::collection::vec(
                prop_oneof![
                    any::<Vec<u8>>(),
                    (0_u64..3000).prop_map(|n| format!("*{n}\r\n").into_bytes()),
                    prop_oneof![0_u64..40, any::<u64>()].prop_map(|n| format!("${n}\r\n").into_bytes()),
                    prop::collection::vec(any::<u8>(), 0..40).prop_map(|argument| request(&[argument])),
                    Just(b"\r\n".to_vec()),
                ],
                0..12),
        ) {
            let bytes: Vec<u8> = pieces.concat();
            let (mut requests, mut slowly) = (Requests::default(), Read::default());
            for (sent_len, byte) in bytes.iter().enumerate() {
                if slowly.end.is_some() {
                    break;
                }
                requests.bytes.extend_from_slice(&[*byte]);
                slowly.take(&mut requests);
                prop_assert!(requests.len() <= sent_len + 1);
                prop_assert!(requests.arguments.capacity() <= 4 + 2 * sent_len);
                prop_assert!(requests.worth_reading() <= READ_LEN.max(GROW_LEN_MIN).max(2 * (sent_len + 1)));
            }
            prop_assert_eq!(slowly, read(&[&bytes]));
        }
    }
}
