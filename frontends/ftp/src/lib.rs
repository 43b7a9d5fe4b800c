//! The FTP frontend: serves any [`Vfs`] to FTP clients, in clear or under explicit TLS.
//!
//! ```text
//!   client --control--> session  (lines, login, TLS)  --> commands --> tree --> vfs::posix --> Vfs
//!          --data-----> wire     (passive, active)    --> transfer --> upload, listing ----^
//! ```
//!
//! It stands beside the other frontends and knows only [`muxfs`] and its users. An upload appears under its name when all of it is
//! durable and its client still there to be told, never before; 226 means that it is on disk. A broken one is kept for
//! a day for its user to resume. Names are bytes and travel as they are.
//!
//! The protocol is our own, not `libunftp`'s, whose control loop cannot be mended from outside: see
//! spec/adr/0010-ftp-control.md. Who embeds libunftp can serve any [`Vfs`] with the backend behind the feature `libunftp`.
//! Spec: spec/ftp.md; RFC 959, 1123, 2228, 2428, 2577, 3659, 4217.
//!
//! ```no_run
//! # async fn example() -> muxfs::Result<()> {
//! # let vfs = muxfs::testing::model::ModelFs::new(muxfs::testing::env());
//! let server = muxfs_ftp::serve(vfs, muxfs_ftp::Options::default()).await?;
//! println!("lftp ftp://{}", server.local_addr());
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod commands;
mod line;
mod listing;
mod options;
mod path;
mod reply;
mod session;
mod time;
mod tls;
mod transfer;
mod tree;
#[cfg(feature = "libunftp")]
mod unftp;
mod upload;
mod wire;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use muxfs::{Error, ErrorKind, Result, vfs::Vfs};
use muxfs_users::{Brake, HASHINGS_MAX, Users};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use crate::options::{Options, Tls};
#[cfg(feature = "libunftp")]
pub use crate::unftp::{Backend, NodeInfo};
use crate::{
    session::{Session, Shared},
    upload::Slots,
};

/// How long to wait where no connection can be accepted, as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running FTP server. Dropped, it ends at once; [`Server::shutdown`] lets transfers finish.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

/// Starts serving `vfs`, within a Tokio runtime. Connections are accepted when this returns.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> muxfs::Result<()> {
/// use muxfs::testing::{self, model::ModelFs};
/// let options = muxfs_ftp::Options { addr: ([127, 0, 0, 1], 0).into(), ..Default::default() };
/// let server = muxfs_ftp::serve(ModelFs::new(testing::env()), options).await?;
/// assert_ne!(server.local_addr().port(), 0);
/// server.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidArgument` for options that cannot be meant, a bad certificate or users file among them; `NotFound` where there is no users file; `Io` where the address cannot be
/// had.
pub async fn serve(vfs: Arc<dyn Vfs>, options: Options) -> Result<Server> {
    options.check()?;
    let tls = options.tls.as_ref().map(tls::config).transpose()?;
    let users = options.users.as_deref().map(Users::load).transpose()?;
    let failed = |error: std::io::Error| Error::new(ErrorKind::Io, "ftp.listen").at(options.addr).because(error);
    let listener = TcpListener::bind(options.addr).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let shared = Arc::new(Shared {
        vfs,
        options,
        users,
        tls,
        slots: Arc::new(Slots::default()),
        brake: Brake::default(),
        hashings: Semaphore::new(HASHINGS_MAX),
        closing: CancellationToken::new(),
        killed: CancellationToken::new(),
    });
    let tasks = TaskTracker::new();
    tasks.spawn(accept(listener, Arc::clone(&shared), tasks.clone()));
    tracing::info!(%address, tls = shared.tls.is_some(), "FTP listens");
    Ok(Server { address, shared, tasks })
}

impl Server {
    /// The address it listens on, with the port that was picked where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more connections, closes idle ones, waits for transfers under way for the grace of the options, and
    /// ends what is left.
    pub async fn shutdown(self) {
        self.shared.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(self.shared.options.shutdown_grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(count = self.tasks.len(), "FTP sessions are cut off");
            self.shared.killed.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        self.shared.killed.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(shared.options.sessions_max));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => drop(tasks.spawn(attend(Arc::clone(&shared), stream, place))),
                Err(_) => turn_away(stream).await,
            },
            Err(error) => {
                tracing::warn!(%error, "FTP cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn attend(shared: Arc<Shared>, stream: TcpStream, place: OwnedSemaphorePermit) {
    metrics::counter!("muxfs_ftp_sessions_total").increment(1);
    metrics::gauge!("muxfs_ftp_sessions").increment(1.0);
    match Session::new(shared, stream) {
        Ok(session) => session.run().await,
        Err(error) => tracing::debug!(%error, "an FTP connection was gone at once"),
    }
    metrics::gauge!("muxfs_ftp_sessions").decrement(1.0);
    drop(place);
}

/// A word that fits into the buffer of any socket, so that nobody waits for a client here.
async fn turn_away(mut stream: TcpStream) {
    metrics::counter!("muxfs_ftp_sessions_refused_total").increment(1);
    let said =
        tokio::time::timeout(ACCEPT_PAUSE, stream.write_all(b"421 Too many sessions: try again later.\r\n")).await;
    if said.is_err() {
        tracing::debug!("a client was turned away without a word");
    }
}
