//! The control connection's lines: bounded, with the telnet bytes taken out, split into a verb and an argument.
//!
//! A line is bytes, not text: names are. RFC 959 3.1 (telnet), RFC 3659 2.2 (one space ends the verb, every further
//! one belongs to the argument).

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line taken, in bytes: a path of 4096, every byte of it doubled by telnet, and a verb.
pub(crate) const LINE_LEN_MAX: usize = 2 * 4096 + 64;

const IAC: u8 = 0xff;

/// One line from the client, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Command(Command),
    /// Longer than [`LINE_LEN_MAX`]: it was dropped as it came.
    TooLong,
}

/// A verb in upper case and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) verb: String,
    pub(crate) arg: Vec<u8>,
}

impl Command {
    fn parse(line: &[u8]) -> Self {
        let mut parts = line.splitn(2, |byte| *byte == b' ');
        let verb = parts.next().unwrap_or_default();
        Self {
            verb: String::from_utf8_lossy(verb).to_ascii_uppercase(),
            arg: parts.next().unwrap_or_default().to_vec(),
        }
    }

    /// The argument as text, where it has to be text: a number, a mode, a name of a user.
    pub(crate) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.arg).ok().map(str::trim)
    }
}

/// Cuts a stream into lines; keeps at most [`LINE_LEN_MAX`] bytes of an unfinished one.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: BytesMut,
    scanned: usize,
    dropping: bool,
}

impl Lines {
    /// The next line; `None` at the end of the stream. Dropping the future loses nothing.
    ///
    /// `late` takes what is there although nobody was told: a read ends before an urgent byte, which the runtime takes
    /// for the end of what came, and an ABOR ends in one.
    pub(crate) async fn next<R: AsyncRead + Unpin + Send>(
        &mut self,
        from: &mut R,
        late: fn(&R, &mut [u8]) -> usize,
    ) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            if from.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
            let mut more = [0; 16];
            let count = late(from, &mut more);
            self.buffer.extend_from_slice(more.get(..count).unwrap_or_default());
        }
    }

    /// Forgets what came in clear before TLS began: nobody can slip commands in (RFC 4217 15).
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn take(&mut self) -> Option<Line> {
        let unseen = self.buffer.get(self.scanned..).unwrap_or_default();
        let Some(end) = unseen.iter().position(|byte| *byte == b'\n').map(|at| self.scanned + at) else {
            self.scanned = self.buffer.len();
            if self.scanned > LINE_LEN_MAX {
                self.buffer.clear();
                self.scanned = 0;
                self.dropping = true;
            }
            return None;
        };
        let line = self.buffer.split_to(end + 1);
        self.scanned = 0;
        if std::mem::take(&mut self.dropping) || line.len() > LINE_LEN_MAX {
            return Some(Line::TooLong);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Some(Line::Command(Command::parse(&without_telnet(line))))
    }
}

/// Takes out telnet commands (an ABOR comes after IP and DM); a doubled IAC, and one that begins no command, is a byte.
fn without_telnet(line: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != IAC {
            clean.push(byte);
            continue;
        }
        match after.split_first() {
            Some((0xfb..=0xfe, option)) => rest = option.get(1..).unwrap_or_default(),
            Some((0xf0..=0xfa, next)) => rest = next,
            Some((&IAC, next)) => {
                clean.push(IAC);
                rest = next;
            }
            _ => clean.push(IAC),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_of(mut bytes: &[u8]) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        while let Some(line) = lines.next(&mut bytes, |_, _| 0).await.expect("a slice does not fail") {
            all.push(line);
        }
        all
    }

    fn command(verb: &str, arg: &[u8]) -> Line {
        Line::Command(Command { verb: verb.into(), arg: arg.to_vec() })
    }

    #[tokio::test]
    async fn a_line_is_a_verb_and_all_that_follows_one_space() {
        let got = lines_of(b"user  two spaces \r\nNOOP\n\r\nRETR \xe9\xff\xffx\r\ncut").await;
        let want =
            [command("USER", b" two spaces "), command("NOOP", b""), command("", b""), command("RETR", b"\xe9\xffx")];
        assert_eq!(got, want, "an unfinished line is none");
    }

    #[tokio::test]
    async fn telnet_commands_are_taken_out() {
        assert_eq!(lines_of(b"\xff\xf4\xff\xf2ABOR\r\n").await, [command("ABOR", b"")]);
        assert_eq!(lines_of(b"\xff\xfd\x06NOOP\r\n").await, [command("NOOP", b"")]);
        assert_eq!(lines_of(b"DELE \xffa\xff\r\n").await, [command("DELE", b"\xffa\xff")]);
    }

    #[tokio::test]
    async fn a_line_without_end_costs_no_memory_and_the_next_one_counts() {
        let mut lines = Lines::default();
        let flood = vec![b'a'; 4 * LINE_LEN_MAX];
        let mut stream = tokio_util::io::StreamReader::new(futures_util::stream::iter(
            std::iter::repeat_n(flood, 64)
                .chain([b"\r\nNOOP\r\n".to_vec()])
                .map(|chunk| Ok::<_, io::Error>(bytes::Bytes::from(chunk))),
        ));
        assert_eq!(lines.next(&mut stream, |_, _| 0).await.expect("reads"), Some(Line::TooLong));
        assert!(lines.buffer.capacity() <= 8 * LINE_LEN_MAX, "{}", lines.buffer.capacity());
        assert_eq!(lines.next(&mut stream, |_, _| 0).await.expect("reads"), Some(command("NOOP", b"")));
    }
}
