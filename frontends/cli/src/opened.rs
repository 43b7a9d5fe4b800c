//! Who does the work of a command: the server that owns the data directory, or this process, which then owns it for as long
//! as it takes.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use muxfs::{Error, ErrorKind, QfsPath, Result, vfs::Vfs};

use crate::{
    config::{Config, Mount},
    control::Client,
    data_dir::{Access, DataDir},
    instance::Instance,
    namespace::Namespace,
};

/// How long a server may take to answer on the socket that it told.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
const CONNECT_POLL: Duration = Duration::from_millis(50);

/// The file system that a command has opened.
pub(crate) type VfsInUse = Arc<OnceLock<Weak<dyn Vfs>>>;

/// What a command has opened.
pub(crate) struct InUse {
    pub(crate) vfs: VfsInUse,
    pub(crate) own: OnceLock<Arc<Own>>,
}

impl InUse {
    /// The stores of the data directory, opened here unless a server has them.
    pub(crate) async fn open(&self, config: Config) -> Result<Opened> {
        let mut refused = None;
        loop {
            match DataDir::own_or_ask(&config.data).await? {
                // A command leaves it to a server, or to `commit`, when to commit what it wrote: the journal keeps it.
                Access::Owner(data) => {
                    let instance = Box::pin(Instance::open(config, &data, None)).await?;
                    self.vfs.set(Arc::downgrade(&instance.vfs)).ok();
                    let own = Arc::new(Own { instance, is_closed: AtomicBool::new(false), _data: data });
                    self.own.set(own.clone()).ok();
                    return Ok(Opened::Own(own));
                }
                Access::Server(holder) => {
                    let socket = holder.socket.ok_or_else(|| Error::new(ErrorKind::Internal, "main.open"))?;
                    match Client::connect(socket).await {
                        // What a killed server left, read before its successor wrote its own.
                        Err(error)
                            if error.kind() == ErrorKind::Unavailable
                                && refused.get_or_insert_with(Instant::now).elapsed() < CONNECT_WAIT_MAX =>
                        {
                            tokio::time::sleep(CONNECT_POLL).await;
                        }
                        connected => return connected.map(Opened::Server),
                    }
                }
            }
        }
    }
}

/// Who does the work.
pub(crate) enum Opened {
    Own(Arc<Own>),
    Server(Client),
}

/// The stores, by a process that owns them.
pub(crate) struct Own {
    instance: Instance,
    is_closed: AtomicBool,
    _data: DataDir,
}

impl Own {
    /// Ends the work with them; does nothing the second time.
    pub(crate) async fn close(&self) -> Result<()> {
        if self.is_closed.swap(true, Ordering::Relaxed) { Ok(()) } else { self.instance.close().await }
    }
}

impl Opened {
    pub(crate) async fn close(&self) -> Result<()> {
        match self {
            Self::Own(own) => own.close().await,
            Self::Server(_) => Ok(()),
        }
    }
}

impl std::ops::Deref for Opened {
    type Target = dyn Namespace;
    fn deref(&self) -> &Self::Target {
        match self {
            Self::Own(own) => &own.instance,
            Self::Server(client) => client,
        }
    }
}

/// The server that owns the data directory, if one does. Opens no store and makes no directory.
pub(crate) async fn server(config: &Config) -> Result<Option<Client>> {
    let Some(socket) = DataDir::socket_told(&config.data) else { return Ok(None) };
    match Client::connect(socket).await {
        // What a killed server left.
        Err(error) if error.kind() == ErrorKind::Unavailable => Ok(None),
        connected => connected.map(Some),
    }
}

/// The mount that a command puts into, if there is one.
///
/// # Errors
/// `Unavailable` where that would be the RAM of this process.
pub(crate) fn mount_to_write<'a>(
    op: &'static str,
    served: &Opened,
    config: &'a Config,
    target: &QfsPath,
) -> Result<Option<&'a Mount>> {
    let mount = config.mount.iter().find(|mount| mount.prefix() == target.prefix);
    if matches!((served, mount), (Opened::Own(_), Some(Mount::Mem { .. }))) {
        return Err(Error::new(ErrorKind::Unavailable, op).at(target).because(
            "this mount is the RAM of a server, and none is running: start one with muxfs serve, or choose another mount",
        ));
    }
    Ok(mount)
}
