//! What a connection is to its client: which namespace it is in, with which rights, and the replies on their way.

use std::{io, sync::Arc};

use muxfs_zdb::Namespace;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use crate::{
    command::Command,
    output::Output,
    refusal::{Refusal, failed},
    server::Shared,
    socket::Socket,
};

/// How many bytes of replies are gathered before they are sent.
pub(crate) const OUTPUT_LEN_MAX: usize = 256 * 1024;
/// How many namespaces may have writes under way for one connection.
const WRITTEN_COUNT_MAX: usize = 16;

/// Why a connection ends before its peer ends it; for the log.
pub(crate) type Cause = muxfs::BoxError;

/// The client of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) server: Arc<Shared>,
    pub(crate) socket: Socket,
    /// Counted from 1.
    pub(crate) number: u64,
    pub(crate) output: Output,
    /// The one that it is in.
    pub(crate) namespace: Arc<Namespace>,
    /// Whether it may write there: it gave the password, or there was none.
    pub(crate) is_writer: bool,
    pub(crate) is_admin: bool,
    /// What a password is proved with.
    pub(crate) challenge: Option<String>,
    /// Where it wrote since replies were sent.
    written: Vec<Arc<Namespace>>,
    /// What it ran since then that others may wait for, and where.
    ran: Vec<(u64, Command)>,
}

/// What tells namespaces apart for as long as somebody has them, by whatever name.
pub(crate) fn identity(namespace: &Arc<Namespace>) -> u64 {
    Arc::as_ptr(namespace).addr() as u64
}

impl Client {
    pub(crate) fn new(server: Arc<Shared>, socket: Socket, number: u64) -> Self {
        let namespace = server.engine.default_namespace();
        let is_admin = server.options.admin.is_none();
        Self {
            server,
            socket,
            number,
            output: Output::default(),
            namespace,
            is_writer: true,
            is_admin,
            challenge: None,
            written: Vec::new(),
            ran: Vec::new(),
        }
    }

    /// Refuses who is not administrator.
    pub(crate) fn check_admin(&self) -> Result<(), Refusal> {
        if self.is_admin { Ok(()) } else { Err(Refusal::Denied) }
    }

    /// Remembers that the namespace was written to: the replies from here on wait until that is durable.
    pub(crate) async fn has_written(&mut self) {
        if self.written.iter().any(|written| Arc::ptr_eq(written, &self.namespace)) {
            return;
        }
        if self.written.len() == WRITTEN_COUNT_MAX {
            self.settle().await;
        }
        self.written.push(self.namespace.clone());
    }

    /// Remembers that a command was run, for those who wait for it.
    pub(crate) fn has_run(&mut self, command: Command) {
        let ran = (identity(&self.namespace), command);
        if self.server.watch.is_used() && !self.ran.contains(&ran) {
            self.ran.push(ran);
        }
    }

    /// Waits until what was written is durable, and keeps the promises, or breaks them.
    pub(crate) async fn settle(&mut self) {
        let mut failure = None;
        for namespace in self.written.drain(..) {
            if let Err(error) = namespace.durable().await {
                tracing::error!(namespace = namespace.name(), error = format!("{error:#}"), "writes are not durable");
                failure = Some(error.kind());
            }
        }
        match failure {
            None => self.output.keep(),
            Some(kind) => self.output.break_promises(failed(kind)),
        }
        for (namespace, command) in self.ran.drain(..) {
            self.server.watch.ran(self.number, namespace, command);
        }
    }

    /// Sends all replies, when what they promise is durable.
    ///
    /// # Errors
    /// Why nothing more can be sent.
    pub(crate) async fn flush(&mut self) -> Result<(), Cause> {
        self.settle().await;
        while self.output.len() > 0 {
            match self.output.write_to(&self.socket) {
                Ok(len) => self.server.metrics.sent(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let writable = timeout(self.server.options.stall_timeout, self.socket.writable());
                    writable.await.map_err(|_elapsed| "the client takes no replies")??;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends the replies that are there if they are many.
    pub(crate) async fn flush_if_long(&mut self) -> Result<(), Cause> {
        if self.output.len() >= OUTPUT_LEN_MAX { self.flush().await } else { Ok(()) }
    }

    /// Takes the room that reading a value takes.
    ///
    /// # Errors
    /// `Lost` if the client does not take the replies before it.
    pub(crate) async fn room_for_value(&mut self) -> Result<OwnedSemaphorePermit, Refusal> {
        if let Some(permit) = self.server.rooms.try_for_value() {
            return Ok(permit);
        }
        // Whoever waits has nothing itself: else all could wait for each other.
        self.flush().await.map_err(Refusal::Lost)?;
        self.server.rooms.for_value().await.map_err(|error| Refusal::Lost(error.into()))
    }

    /// Replies with a value.
    pub(crate) async fn reply_value(&mut self, value: bytes::Bytes, permit: OwnedSemaphorePermit) {
        if Output::is_long(value.len()) && self.output.is_promised() {
            self.settle().await;
        }
        self.output.value(value, permit);
    }
}
