//! SIGINT and SIGTERM, which end a server in order and a command in the middle, and SIGHUP, which has a server read its
//! configuration again.

use muxfs::{Error, ErrorKind, Result};
use tokio::signal::unix::{self, SignalKind};

/// Hears both signals from when it is made on; they end the process by themselves no more.
pub(crate) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

/// One of the two.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    /// What became of the process, for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupted",
            Self::Terminate => "terminated",
        }
    }

    /// What a shell makes of a process that the signal killed: 128 and its number.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Hears SIGHUP from now on, which ends the process no more.
pub(crate) fn hangup() -> Result<unix::Signal> {
    listen(SignalKind::hangup())
}

fn listen(kind: SignalKind) -> Result<unix::Signal> {
    unix::signal(kind).map_err(|error| Error::new(ErrorKind::Io, "signals").because(error))
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}
