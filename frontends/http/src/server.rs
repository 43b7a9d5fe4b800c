//! The server: the socket that it listens on, its connections, and the end of it.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdTcpListener},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use muxfs::{Error, ErrorKind, MuxFs, Result};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Options, answer, dav::Locks, logins::Logins, ours::LastTold, stall::Stall, turn::Turns};

/// How long accepting pauses when the process has no file descriptor left: others must close first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that is one too many is kept to be told so.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(1);
/// The longest head of a request, in bytes: a longer one is told 431.
const HEAD_LEN_MAX: usize = 96 << 10;

/// What all connections of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) mux: MuxFs,
    pub(crate) options: Options,
    /// The users, where there are any.
    pub(crate) logins: Option<Logins>,
    /// The turns of answers that read.
    pub(crate) turns: Turns,
    /// Who keeps whom from writing.
    pub(crate) locks: Locks,
    /// What was told last of how the server does.
    pub(crate) told: LastTold,
    /// What goes on although nobody may be waiting for it any more.
    pub(crate) tasks: TaskTracker,
    /// Begin nothing new.
    closing: CancellationToken,
    /// Stop at once.
    pub(crate) killed: CancellationToken,
}

/// A running server. Dropped, it ends at once; [`Server::shutdown`] lets answers under way end.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

/// Serves the content of a namespace over HTTP, within a Tokio runtime. Connections are accepted when this returns.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> muxfs::Result<()> {
/// let options = muxfs_http::Options { addr: ([127, 0, 0, 1], 0).into(), ..Default::default() };
/// let server = muxfs_http::serve(muxfs::MuxFs::new(), options)?;
/// assert_ne!(server.local_addr().port(), 0);
/// server.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidArgument` for options that cannot be meant, a bad file of users among them; `NotFound` where there is no such file;
/// `Io` where the address cannot be had.
pub fn serve(mux: MuxFs, options: Options) -> Result<Server> {
    options.check()?;
    let logins = Logins::open(&options)?;
    let failed = |error: io::Error| Error::new(ErrorKind::Io, "http.listen").at(options.addr).because(error);
    let listener = StdTcpListener::bind(options.addr).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let (closing, killed) = (CancellationToken::new(), CancellationToken::new());
    let turns = Turns::new(options.answers_max);
    let (locks, told, tasks) = (Locks::default(), LastTold::default(), TaskTracker::new());
    let shared = Arc::new(Shared { mux, options, logins, turns, locks, told, tasks, closing, killed });
    shared.tasks.spawn(accept(listener, shared.clone()));
    tracing::info!(%addr, "HTTP listens");
    Ok(Server { addr, shared })
}

impl Server {
    /// The address that it listens on, with the port that was picked where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Accepts no more connections, closes idle ones, waits for answers under way for the grace of the options, and cuts
    /// off what is left.
    pub async fn shutdown(self) {
        self.shared.closing.cancel();
        let tasks = &self.shared.tasks;
        tasks.close();
        if timeout(self.shared.options.shutdown_grace, tasks.wait()).await.is_err() {
            tracing::warn!(count = tasks.len(), "HTTP connections are cut off");
            self.shared.killed.cancel();
            tasks.wait().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        self.shared.killed.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let tasks = &shared.tasks;
    let places = Arc::new(Semaphore::new(shared.options.connections_max.min(Semaphore::MAX_PERMITS)));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match places.clone().try_acquire_owned() {
                Ok(place) => drop(tasks.spawn(attend(shared.clone(), (stream, Peer(peer.ip())), place))),
                Err(_) => drop(tasks.spawn(turn_away(stream))),
            },
            Err(error) if is_of_the_peer(&error) => tracing::debug!(%error, "HTTP: a connection was gone at once"),
            Err(error) => {
                tracing::warn!(%error, "HTTP cannot accept a connection");
                shared.closing.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
}

/// Whether a connection failed before it was accepted, and the next one is no worse for it.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Where a request comes from: a client, or a proxy before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

async fn attend(shared: Arc<Shared>, (stream, peer): (TcpStream, Peer), place: OwnedSemaphorePermit) {
    metrics::gauge!("muxfs_http_connections").increment(1.0);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "HTTP: small answers may wait");
    }
    let stream = TokioIo::new(Stall::new(stream, shared.options.stall_timeout));
    let service = service_fn(|mut request: Request<Incoming>| {
        let shared = shared.clone();
        request.extensions_mut().insert(peer);
        async move { Ok::<_, Infallible>(answer::answer(&shared, request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(shared.options.head_timeout)
            .max_header_size(HEAD_LEN_MAX)
            .title_case_headers(true)
            .serve_connection(stream, service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = shared.killed.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP: a connection broke off");
    }
    metrics::gauge!("muxfs_http_connections").decrement(1.0);
    drop(place);
}

/// A word that fits into the buffer of any socket, so that nobody is waited for.
async fn turn_away(mut stream: TcpStream) {
    metrics::counter!("muxfs_http_connections_refused_total").increment(1);
    let answer =
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 22\r\n\r\n\
                   Too many connections.\n";
    if timeout(REFUSAL_TIME_MAX, stream.write_all(answer)).await.is_err() {
        tracing::debug!("HTTP: a client was turned away without a word");
    }
}
