//! Connections: the stream that is clear or TLS, and how a data connection comes to be.
//!
//! Both ends of a data connection are the ones of the control connection: a passive one from another address is turned
//! away, an active one to another address is not made (RFC 2577: no stealing, no bouncing).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustix::net::RecvFlags;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How long a data connection, or a TLS handshake, may take to come about.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Connections from elsewhere that one passive port turns away before it closes.
const STRANGERS_MAX: usize = 16;

/// A TCP connection, in clear or under TLS.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Between the two, and after a handshake that failed.
    Closed,
}

impl Wire {
    /// Takes up TLS as its server.
    pub(crate) async fn secure(self, config: Arc<ServerConfig>) -> io::Result<Self> {
        let Self::Plain(stream) = self else { return Err(closed()) };
        let handshake = timeout(OPEN_TIMEOUT, TlsAcceptor::from(config).accept(stream));
        Ok(Self::Tls(Box::new(handshake.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)))
    }
}

impl Wire {
    /// Reads what the system has, whatever the runtime knows; nothing under TLS, which has no urgent bytes.
    pub(crate) fn late(&self, buffer: &mut [u8]) -> usize {
        match self {
            Self::Plain(stream) => rustix::net::recv(stream, buffer, RecvFlags::DONTWAIT).map_or(0, |(count, _)| count),
            Self::Tls(_) | Self::Closed => 0,
        }
    }
}

fn closed() -> io::Error {
    io::Error::from(io::ErrorKind::NotConnected)
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Closed => Poll::Ready(Err(closed())),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Closed => Poll::Ready(Err(closed())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Closed => Poll::Ready(Err(closed())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}

/// How the next data connection is to be made.
#[derive(Debug, Default)]
pub(crate) enum Endpoint {
    #[default]
    None,
    Passive(TcpListener),
    Active(SocketAddr),
}

impl Endpoint {
    /// Listens for a data connection on `local`, on a port of the range.
    pub(crate) fn listen(local: IpAddr, ports: &RangeInclusive<u16>, random: u16) -> io::Result<(Self, u16)> {
        let bind = |port: u16| {
            let socket = if local.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::new(local, port))?;
            let listener = socket.listen(8)?;
            let port = listener.local_addr()?.port();
            Ok((Self::Passive(listener), port))
        };
        // From a random port on, round once: a port that is guessed cannot be taken.
        let count = u32::from(ports.end() - ports.start()) + 1;
        let first = u32::from(random) % count;
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for step in 0..count {
            let Ok(port) = u16::try_from(u32::from(*ports.start()) + (first + step) % count) else { continue };
            match bind(port) {
                Ok(bound) => return Ok(bound),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Makes the data connection, under TLS if there is a certificate.
    pub(crate) async fn open(self, peer: IpAddr, tls: Option<Arc<ServerConfig>>) -> io::Result<Wire> {
        let stream = timeout(OPEN_TIMEOUT, self.connect(peer)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        match tls {
            Some(config) => Wire::Plain(stream).secure(config).await,
            None => Ok(Wire::Plain(stream)),
        }
    }

    async fn connect(self, peer: IpAddr) -> io::Result<TcpStream> {
        match self {
            Self::None => Err(closed()),
            Self::Active(address) => TcpStream::connect(address).await,
            Self::Passive(listener) => {
                for _ in 0..STRANGERS_MAX {
                    let (stream, from) = listener.accept().await?;
                    if from.ip() == peer {
                        return Ok(stream);
                    }
                    tracing::warn!(%from, "a data connection from another address was turned away");
                }
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        }
    }
}

/// The address of a PORT: six numbers.
pub(crate) fn parse_port(text: &str) -> Option<SocketAddr> {
    let mut numbers = text.split(',').map(|part| part.trim().parse::<u8>());
    let mut next = || numbers.next()?.ok();
    let ip = [next()?, next()?, next()?, next()?];
    let port = u16::from_be_bytes([next()?, next()?]);
    numbers.next().is_none().then(|| SocketAddr::from((ip, port)))
}

/// The address of an EPRT: `|1|ip|port|` or `|2|ip6|port|` (RFC 2428 2).
pub(crate) fn parse_extended_port(text: &str) -> Option<SocketAddr> {
    let separator = text.chars().next()?;
    let mut parts = text.split(separator);
    let (before, family, ip, port, after) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if !before.is_empty() || !after.is_empty() || parts.next().is_some() {
        return None;
    }
    let address = SocketAddr::new(ip.parse().ok()?, port.parse().ok()?);
    matches!((family, address), ("1", SocketAddr::V4(_)) | ("2", SocketAddr::V6(_))).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_strictly() {
        assert_eq!(parse_port("127,0,0,1,4,1"), Some(SocketAddr::from(([127, 0, 0, 1], 1025))));
        for bad in ["", "127,0,0,1,4", "127,0,0,1,4,1,1", "127,0,0,256,4,1", "a,b,c,d,e,f", "127.0.0.1,4,1"] {
            assert_eq!(parse_port(bad), None, "{bad}");
        }
        assert_eq!(parse_extended_port("|1|127.0.0.1|1025|"), Some(SocketAddr::from(([127, 0, 0, 1], 1025))));
        assert_eq!(parse_extended_port("!2!::1!99!").map(|address| address.port()), Some(99));
        for bad in ["", "|", "|1|::1|99|", "|2|127.0.0.1|99|", "|1|127.0.0.1|99", "|1|127.0.0.1|99999|", "|1|1|1|1|1|"]
        {
            assert_eq!(parse_extended_port(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn passive_ports_are_of_the_range_and_run_out() {
        let local = IpAddr::from([127, 0, 0, 1]);
        let (taken, port) = Endpoint::listen(local, &(49152..=65535), 7).expect("one of many");
        assert!((49152..=65535).contains(&port));
        assert!(Endpoint::listen(local, &(port..=port), 7).is_err(), "the only port is taken");
        drop(taken);
    }
}
