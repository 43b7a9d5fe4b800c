//! The server: the sockets that it listens on, what all connections share, and the end of it.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use muxfs::{Error, ErrorKind, Result};
use muxfs_zdb::Engine;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    client::Client,
    connection::Connection,
    measure::{Metrics, TELL_EVERY, tell_namespaces},
    options::Options,
    room::Rooms,
    socket::Socket,
    watch::Watch,
};

/// How long accepting pauses when the process has no file descriptor left: others must close first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that is one too many is kept to be told so.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(1);

/// What the connections of one server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) options: Options,
    pub(crate) rooms: Rooms,
    pub(crate) watch: Watch,
    pub(crate) metrics: Metrics,
    /// When it began.
    pub(crate) booted: SystemTime,
    /// Drawn when it began.
    pub(crate) instance: u32,
    /// A client said `STOP`.
    pub(crate) asked_to_stop: CancellationToken,
    /// Begin nothing new.
    pub(crate) stop: CancellationToken,
    /// Stop at once.
    kill: CancellationToken,
    tasks: TaskTracker,
    connections: Arc<Semaphore>,
    connection_count: AtomicU64,
}

/// A running server. Dropped, it stops accepting and ends its connections when what they run is done.
#[derive(Debug)]
pub struct Server {
    addr: Option<SocketAddr>,
    socket: Option<SocketFile>,
    shared: Arc<Shared>,
}

/// Serves an engine to clients of 0-db.
///
/// Must be called in a Tokio runtime, which then runs the server. The engine stays open when the server ends: whoever
/// opened it closes it.
///
/// ```
/// use std::sync::Arc;
/// use muxfs_zdb::{Engine, EngineOptions, MemHome};
/// # #[tokio::main]
/// # async fn main() -> muxfs::Result<()> {
/// let options = EngineOptions::new(&muxfs::testing::env());
/// let engine = Engine::open(Arc::new(MemHome::default()), options).await?;
/// let options = muxfs_zdb_serve::Options { addr: Some(([127, 0, 0, 1], 0).into()), ..Default::default() };
/// let server = muxfs_zdb_serve::serve(engine.clone(), options)?;
/// assert!(server.local_addr().is_some_and(|addr| addr.port() != 0));
/// server.shutdown().await;
/// engine.close().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidArgument` where it would listen nowhere, or elsewhere than on loopback without an administrator's password;
/// `Unavailable` where another server has the Unix socket; `Io` where an address cannot be listened on.
pub fn serve(engine: Engine, options: Options) -> Result<Server> {
    serve_in(engine, options, Rooms::default())
}

/// `serve`, with so much room.
pub(crate) fn serve_in(engine: Engine, options: Options, rooms: Rooms) -> Result<Server> {
    options.check()?;
    let tcp = options.addr.map(listen_on_tcp).transpose()?;
    let unix = options.socket.as_deref().map(|path| listen_on_unix(path, options.socket_mode)).transpose()?;
    let addr = tcp.as_ref().map(|(_, addr)| *addr);
    let mut instance = [0; 4];
    (options.env.fill)(&mut instance);
    let shared = Arc::new(Shared {
        engine,
        rooms,
        watch: Watch::default(),
        metrics: Metrics::default(),
        booted: (options.env.now)(),
        instance: u32::from_le_bytes(instance),
        asked_to_stop: CancellationToken::new(),
        stop: CancellationToken::new(),
        kill: CancellationToken::new(),
        tasks: TaskTracker::new(),
        connections: Arc::new(Semaphore::new(options.connections_max.min(Semaphore::MAX_PERMITS))),
        connection_count: AtomicU64::new(0),
        options,
    });
    if let Some((listener, addr)) = tcp {
        shared.tasks.spawn(accept(shared.clone(), Listener::Tcp(listener)));
        tracing::info!("zdb.serve: listening on {addr}");
    }
    shared.tasks.spawn(tell_in_time(shared.clone()));
    let mut socket = None;
    if let Some((listener, file)) = unix {
        shared.tasks.spawn(accept(shared.clone(), Listener::Unix(listener)));
        tracing::info!("zdb.serve: listening on {}", file.path.display());
        socket = Some(file);
    }
    Ok(Server { addr, socket, shared })
}

impl Server {
    /// The address that it listens on, with the port that was free; `None` where it does not listen over TCP.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// The path of its Unix socket.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_ref().map(|file| file.path.as_path())
    }

    /// Waits until an administrator says `STOP`, which [`Options::stop_allowed`] allows.
    pub async fn asked_to_stop(&self) {
        self.shared.asked_to_stop.cancelled().await;
    }

    /// Stops: accepts nothing more, finishes the requests under way for at most `shutdown_grace`, and closes.
    ///
    /// What was replied to is durable, as the engine's rule says; the rest is as if its client had gone.
    pub async fn shutdown(self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if timeout(self.shared.options.shutdown_grace, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("zdb.shutdown: some requests did not end in time and were dropped");
            self.shared.kill.cancel();
            self.shared.tasks.wait().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

fn failed(at: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::new(ErrorKind::Io, "zdb.serve").at(at).because(error)
}

fn listen_on_tcp(addr: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let listen = || {
        let listener = StdTcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        Ok((TcpListener::from_std(listener)?, addr))
    };
    listen().map_err(failed(addr))
}

/// The file of a Unix socket, which goes when the server does, unless another one took its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Its device and inode.
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.id) {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Nobody can connect before the socket has its mode: it is made beside its place.
fn listen_on_unix(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile)> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let why = "something else is there: name another path for the socket";
            return Err(Error::new(ErrorKind::InvalidArgument, "zdb.serve").at(path.display()).because(why));
        }
        Ok(_) if StdUnixStream::connect(path).is_ok() => {
            let why = "another server listens there: stop it, or name another path for the socket";
            return Err(Error::new(ErrorKind::Unavailable, "zdb.serve").at(path.display()).because(why));
        }
        // What a killed server left, or nothing.
        Ok(_) | Err(_) => {}
    }
    let mut part = path.as_os_str().to_owned();
    part.push("~");
    let part = PathBuf::from(part);
    let listen = || {
        fs::remove_file(&part)
            .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        let listener = StdUnixListener::bind(&part)?;
        fs::set_permissions(&part, fs::Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let file = fs::symlink_metadata(&part)?;
        fs::rename(&part, path)?;
        Ok((listener, SocketFile { path: path.to_owned(), id: (file.dev(), file.ino()) }))
    };
    listen().map_err(|error| {
        fs::remove_file(&part).ok();
        failed(path.display())(error)
    })
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Socket, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
                Ok((Socket::Tcp(stream), peer.to_string()))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), "a Unix socket".into()))
            }
        }
    }
}

/// Keeps the gauges of namespaces up to date until the server stops.
async fn tell_in_time(shared: Arc<Shared>) {
    let mut told = BTreeSet::new();
    let goes_on = async || shared.stop.run_until_cancelled(sleep(TELL_EVERY)).await.is_some();
    loop {
        tell_namespaces(&shared.engine, &mut told);
        if !goes_on().await {
            return;
        }
    }
}

/// Accepts until the server stops. No error of one connection, nor the want of file descriptors, ends it.
async fn accept(shared: Arc<Shared>, listener: Listener) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => admit(&shared, socket, peer),
            Err(error) if is_of_the_peer(&error) => tracing::debug!("zdb.accept: {error}"),
            Err(error) => {
                tracing::warn!("zdb.accept: {error}; trying again");
                shared.stop.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
}

/// Whether a connection failed before it was accepted, and the next one is no worse for it.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, InvalidInput, NotConnected,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | InvalidInput | NotConnected
    )
}

fn admit(shared: &Arc<Shared>, socket: Socket, peer: String) {
    let Ok(permit) = shared.connections.clone().try_acquire_owned() else {
        Metrics::refused("limit");
        tracing::debug!("zdb.accept: {peer} is one connection too many");
        shared.tasks.spawn(async move {
            // It is told if its socket takes that at once, as a new one does.
            if timeout(REFUSAL_TIME_MAX, socket.writable()).await.is_ok() {
                socket.try_write_vectored(&[io::IoSlice::new(b"-Too many connections\r\n")]).ok();
            }
        });
        return;
    };
    shared.metrics.totals.clients.fetch_add(1, Ordering::Relaxed);
    let number = shared.connection_count.fetch_add(1, Ordering::Relaxed) + 1;
    let server = shared.clone();
    shared.tasks.spawn(async move {
        server.metrics.connections().increment(1);
        let kill = server.kill.clone();
        let connection = Connection::new(Client::new(server.clone(), socket, number));
        if let Some(Err(cause)) = kill.run_until_cancelled(connection.run()).await {
            tracing::debug!("zdb.connection: {peer}: {cause}");
        }
        server.metrics.connections().decrement(1);
        drop(permit);
    });
}
