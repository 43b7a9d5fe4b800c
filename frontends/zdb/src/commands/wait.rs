//! `WAIT command|* [timeout]`

use std::time::Duration;

use bytes::Bytes;

use super::number;
use crate::{
    command::Command,
    refusal::{Refusal, refuse},
};

/// The shortest timeout.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// The longest timeout.
pub const TIMEOUT_MAX: Duration = Duration::from_mins(30);
/// The timeout where none is given.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is waited for, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) command: Command,
    pub(crate) timeout: Duration,
}

/// Reads what a client wants to wait for.
pub(crate) fn wait(arguments: &[Bytes]) -> Result<Wait, Refusal> {
    let (command, timeout) = match arguments {
        [command] => (command, None),
        [command, timeout] => (command, Some(timeout)),
        _ => return refuse("Invalid arguments"),
    };
    let Some(command) = Command::of(command) else { return refuse("Unknown command to watch") };
    let timeout = match timeout {
        None => Some(TIMEOUT),
        Some(text) => number(text).map(Duration::from_millis),
    };
    match timeout.filter(|timeout| (TIMEOUT_MIN..=TIMEOUT_MAX).contains(timeout)) {
        Some(timeout) => Ok(Wait { command, timeout }),
        None => refuse("Invalid timeout"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for() {
        let read = |words: &[&str]| {
            let words: Vec<Bytes> = words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
            wait(&words).map_err(|refusal| match refusal {
                Refusal::Text(text) => text,
                other => panic!("{other:?}"),
            })
        };
        let of = |command, millis| Ok(Wait { command, timeout: Duration::from_millis(millis) });
        assert_eq!(read(&["*"]), of(Command::Any, 5000));
        assert_eq!(read(&["set", "100"]), of(Command::Set, 100));
        assert_eq!(read(&["PING", "1800000"]), of(Command::Ping, 1_800_000));
        for timeout in ["99", "1800001", "", "x", "-1", "18446744073709551616"] {
            assert_eq!(read(&["SET", timeout]), Err("Invalid timeout"), "{timeout}");
        }
        assert_eq!(read(&["nope"]), Err("Unknown command to watch"));
        assert_eq!(read(&[]), Err("Invalid arguments"));
        assert_eq!(read(&["SET", "100", "x"]), Err("Invalid arguments"));
    }
}
