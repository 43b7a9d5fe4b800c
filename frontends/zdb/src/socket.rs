//! A connected socket, TCP or Unix, as a connection uses it: waited for, then read or written without waiting.

use std::io::{self, IoSlice};

use bytes::BufMut;
use tokio::net::{TcpStream, UnixStream};

/// One of the two.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Waits until something has come, or the peer sends no more.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    /// Waits until something can be sent.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
        }
    }

    pub(crate) fn try_read(&self, bytes: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read_buf(bytes),
            Self::Unix(stream) => stream.try_read_buf(bytes),
        }
    }

    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
        }
    }

    /// Tells the peer that nothing more comes; what it still sends can be read.
    pub(crate) fn end(&self) {
        let how = rustix::net::Shutdown::Write;
        // A peer that is gone knows.
        match self {
            Self::Tcp(stream) => rustix::net::shutdown(stream, how).ok(),
            Self::Unix(stream) => rustix::net::shutdown(stream, how).ok(),
        };
    }
}
