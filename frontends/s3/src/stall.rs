//! A connection that ends when its other end takes nothing any more.
//!
//! hyper limits how long a head may take to arrive, and not how long an answer may take to leave: a client that asks for
//! a large file and reads none of it would hold a connection, and what was fetched ahead, for ever.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use metrics::Counter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// A connection, and how long it may stand still while something is to be sent.
pub(crate) struct Stall {
    stream: TcpStream,
    timeout: Duration,
    /// Since when nothing could be sent, as a timer; none while sending goes on.
    standing: Option<Pin<Box<Sleep>>>,
    received: Counter,
    sent: Counter,
}

impl Stall {
    pub(crate) fn new(stream: TcpStream, timeout: Duration) -> Self {
        let received = metrics::counter!("muxfs_s3_received_bytes_total");
        let sent = metrics::counter!("muxfs_s3_sent_bytes_total");
        Self { stream, timeout, standing: None, received, sent }
    }

    fn watch(&mut self, cx: &mut Context<'_>, sent: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(sent) = &sent {
            self.standing = None;
            self.sent.increment(*sent.as_ref().unwrap_or(&0) as u64);
        }
        if sent.is_ready() {
            return sent;
        }
        let timeout = self.timeout;
        let timer = self.standing.get_or_insert_with(|| Box::pin(sleep(timeout)));
        if timer.as_mut().poll(cx).is_ready() {
            timer.as_mut().reset(Instant::now() + timeout);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing any more")));
        }
        Poll::Pending
    }
}

impl AsyncRead for Stall {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.received.increment((buf.filled().len() - before) as u64);
        read
    }
}

impl AsyncWrite for Stall {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
