//! The server: the listening socket, what all connections share, and the end of it.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use muxfs::{
    Error, ErrorKind, Result,
    vfs::{Ino, Vfs, narrow::read_only_view},
};
use nfs3_types::nfs3::writeverf3;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, MutexGuard, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    connection::{BUDGET, Connection},
    measure::Metrics,
    mount::Mounts,
    options::Options,
    outage::Outages,
    replies::Replies,
    room::Rooms,
    syncs::Syncs,
};

/// How long accepting pauses when the process has no file descriptor left: others must close first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often refused connections are told of: there may be thousands a second.
const REFUSED_EVERY: Duration = Duration::from_secs(10);
/// How many guarded changes can go on at a time.
const TURN_COUNT: usize = 64;

/// What the connections of one server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) options: Options,
    pub(crate) port: u16,
    pub(crate) verifier: Verifier,
    pub(crate) syncs: Syncs,
    pub(crate) replies: Arc<Replies>,
    /// Those of WRITE: they come by the thousand, and must not push out the others.
    pub(crate) write_replies: Arc<Replies>,
    pub(crate) outages: Outages,
    pub(crate) mounts: Mounts,
    pub(crate) metrics: Metrics,
    /// The bytes of calls and replies in flight, in units.
    pub(crate) budget: Arc<Semaphore>,
    pub(crate) rooms: Rooms,
    /// Begin nothing new.
    pub(crate) stop: CancellationToken,
    /// Stop at once.
    pub(crate) kill: CancellationToken,
    pub(crate) tasks: TaskTracker,
    connections: Arc<Semaphore>,
    refused: [Refusals; 2],
    turns: [Mutex<()>; TURN_COUNT],
}

impl Shared {
    /// Waits for the other guarded changes of a node, and perhaps of a few others.
    pub(crate) async fn turn(&self, ino: Ino) -> MutexGuard<'_, ()> {
        let [first, ..] = &self.turns;
        let turn = usize::try_from(ino.0.get() % TURN_COUNT as u64).ok().and_then(|index| self.turns.get(index));
        turn.unwrap_or(first).lock().await
    }
}

/// The write verifier: another one after a restart, and after a failed sync, so that clients send uncommitted data again.
#[derive(Debug)]
pub(crate) struct Verifier(AtomicU64);

impl Verifier {
    fn new(options: &Options) -> Self {
        let mut bytes = [0; 8];
        (options.env.fill)(&mut bytes);
        Self(AtomicU64::new(u64::from_be_bytes(bytes)))
    }

    pub(crate) fn current(&self) -> writeverf3 {
        writeverf3(self.0.load(Ordering::SeqCst).to_be_bytes())
    }

    pub(crate) fn renew(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Counts refused connections for one reason, and says when the log is to hear of them.
#[derive(Debug)]
struct Refusals {
    reason: &'static str,
    /// When it was told last, and how many were not told since.
    told: std::sync::Mutex<(Option<Instant>, u64)>,
}

impl Refusals {
    fn new(reason: &'static str) -> Self {
        Self { reason, told: std::sync::Mutex::default() }
    }

    /// Counts one; how many more it stands for, if it is to be told.
    fn count(&self, now: Instant) -> Option<u64> {
        Metrics::refused(self.reason);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0.is_some_and(|last| now.saturating_duration_since(last) < REFUSED_EVERY) {
            told.1 += 1;
            return None;
        }
        let untold = told.1;
        *told = (Some(now), 0);
        Some(untold)
    }
}

/// A running server. Dropped, it stops accepting and ends its connections when their calls in flight are done.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

/// Serves a file system over NFS version 3, MOUNT version 3 and a port mapper, all on one TCP port.
///
/// Must be called in a Tokio runtime, which then runs the server.
///
/// ```
/// use muxfs::testing::{env, model::ModelFs};
/// # #[tokio::main]
/// # async fn main() -> muxfs::Result<()> {
/// let options = muxfs_nfs::Options { addr: ([127, 0, 0, 1], 0).into(), ..Default::default() };
/// let server = muxfs_nfs::serve(ModelFs::new(env()), options)?;
/// assert_ne!(server.local_addr().port(), 0);
/// server.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Io` where the address cannot be listened on; its message names the address.
pub fn serve(vfs: Arc<dyn Vfs>, options: Options) -> Result<Server> {
    serve_in(vfs, options, Rooms::default())
}

/// `serve`, with room for so many unfinished records.
pub(crate) fn serve_in(vfs: Arc<dyn Vfs>, options: Options, rooms: Rooms) -> Result<Server> {
    let failed = |error: io::Error| Error::new(ErrorKind::Io, "nfs.serve").at(options.addr).because(error);
    let listener = StdListener::bind(options.addr).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let shared = Arc::new(Shared {
        vfs: if options.read_only { read_only_view(vfs) } else { vfs },
        port: addr.port(),
        verifier: Verifier::new(&options),
        syncs: Syncs::default(),
        replies: Arc::default(),
        write_replies: Arc::default(),
        outages: Outages::default(),
        mounts: Mounts::default(),
        metrics: Metrics::default(),
        budget: Arc::new(Semaphore::new(BUDGET)),
        rooms,
        stop: CancellationToken::new(),
        kill: CancellationToken::new(),
        tasks: TaskTracker::new(),
        connections: Arc::new(Semaphore::new(options.connections_max.min(Semaphore::MAX_PERMITS))),
        refused: [Refusals::new("network"), Refusals::new("limit")],
        turns: [const { Mutex::const_new(()) }; TURN_COUNT],
        options,
    });
    shared.tasks.spawn(accept(shared.clone(), listener));
    tracing::info!("nfs.serve: listening on {addr}");
    Ok(Server { addr, shared })
}

impl Server {
    /// The address that it listens on, with the port that was free.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops: accepts nothing more, finishes the calls in flight for at most `shutdown_grace`, and closes.
    ///
    /// What clients have not committed is not synced: they keep it and send it again to the next server.
    pub async fn shutdown(self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if timeout(self.shared.options.shutdown_grace, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("nfs.shutdown: some calls did not end in time and were dropped");
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

/// Accepts until the server stops. No error of one connection, nor the want of file descriptors, ends it.
async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut number = 0;
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                number += 1;
                admit(&shared, stream, peer, number);
            }
            Err(error) if is_of_the_peer(&error) => tracing::debug!("nfs.accept: {error}"),
            Err(error) => {
                tracing::warn!("nfs.accept: {error}; trying again");
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

/// Whether a connection failed before it was accepted, and the next one is no worse for it.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr, number: u64) {
    let [by_network, by_limit] = &shared.refused;
    if !shared.options.allows(peer.ip()) {
        if let Some(more) = by_network.count(Instant::now()) {
            tracing::warn!("nfs.accept: {peer} is in none of the allowed networks (and {more} before it)");
        }
        return;
    }
    let Ok(permit) = shared.connections.clone().try_acquire_owned() else {
        if let Some(more) = by_limit.count(Instant::now()) {
            tracing::warn!("nfs.accept: {peer} is one connection too many (and {more} before it)");
        }
        return;
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("nfs.accept: {peer}: {error}");
        return;
    }
    let server = shared.clone();
    shared.tasks.spawn(async move {
        server.metrics.connections().increment(1);
        let kill = server.kill.clone();
        let connection = Connection::new(server.clone(), stream, peer, number);
        if let Some(Err(cause)) = kill.run_until_cancelled(connection.run()).await {
            tracing::debug!("nfs.connection: {peer}: {cause}");
        }
        server.metrics.connections().decrement(1);
        drop(permit);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_connections_do_not_fill_the_log() {
        let (refusals, begun) = (Refusals::new("limit"), Instant::now());
        let told: Vec<_> = (0..3).map(|_| refusals.count(begun)).collect();
        assert_eq!(told, [Some(0), None, None]);
        assert_eq!(refusals.count(begun + REFUSED_EVERY), Some(2));
        assert_eq!(refusals.count(begun + REFUSED_EVERY), None);
    }
}
