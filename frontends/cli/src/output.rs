//! What commands print: results on standard output, plain or as JSON; everything else on standard error.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::Arc,
    time::{Duration, SystemTime},
};

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use muxfs::{Error, ErrorKind, Result};
use serde::Serialize;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Output {
    /// Prints one result: `plain`, or `value` as a line of JSON.
    pub(crate) fn result<T: Serialize + ?Sized>(self, plain: &[u8], value: &T) -> Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            let line = serde_json::to_vec(value);
            let line = line.map_err(|error| Error::new(ErrorKind::Internal, "output").because(error))?;
            out.write_all(&line).map_err(closed)?;
        } else {
            out.write_all(plain).map_err(closed)?;
        }
        out.write_all(b"\n").and_then(|()| out.flush()).map_err(closed)
    }

    /// Tells the user something that is no result.
    pub(crate) fn notice(self, text: &str) {
        if !self.quiet {
            told(text);
        }
    }

    /// A bar of `total` bytes, or a count where the total is not known; nothing unless on a terminal.
    pub(crate) fn progress(self, total: Option<u64>) -> Progress {
        let shown = !self.quiet && io::stderr().is_terminal();
        let bar = match total {
            Some(total) => ProgressBar::new(total)
                .with_style(style("{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} eta {eta} {msg}")),
            None => ProgressBar::new_spinner().with_style(style("{spinner} {bytes} {binary_bytes_per_sec} {msg}")),
        };
        bar.set_draw_target(if shown { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() });
        Progress { bar: Arc::new(Bar(bar)) }
    }
}

impl Output {
    /// A bar of `total` bytes of which `done` were done before: they tell nothing of how long the rest takes.
    pub(crate) fn progress_from(self, done: u64, total: u64) -> Progress {
        let progress = self.progress(Some(total));
        progress.set_bytes(done);
        progress.bar.0.reset_eta();
        progress
    }
}

/// How long ago a moment was, given in seconds since 1970.
pub(crate) fn ago(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{} ago", HumanDuration(now.saturating_sub(Duration::from_secs(seconds))))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is good")
}

/// Writes a line to standard error. A terminal or a pipe that is gone stops no work, as a panic of `eprintln` would.
pub(crate) fn told(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}

/// Prints bytes as they are.
pub(crate) fn raw(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(closed)
}

/// A reader that goes away, as `head` does, is no reason to complain.
fn closed(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Error::new(ErrorKind::Io, "output").because(error)
}

/// Progress of long work, on standard error; cleared with its last clone.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    bar: Arc<Bar>,
}

#[derive(Debug)]
struct Bar(ProgressBar);

impl Progress {
    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.bar.0.inc(bytes);
    }

    pub(crate) fn set_bytes(&self, bytes: u64) {
        self.bar.0.set_position(bytes);
    }

    pub(crate) fn say(&self, text: String) {
        self.bar.0.set_message(text);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// `1 234 567` and `1.18 MiB`, for people.
pub(crate) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

pub(crate) fn bytes(number: u64) -> String {
    HumanBytes(number).to_string()
}
