//! Tells the kernel what other frontends changed, before the calls that changed it return.
//!
//! Telling may block: the kernel takes the lock of a directory to drop a name of it, and that of a page to drop the page,
//! and it holds either for as long as a request of ours about it is under way. So it happens on a thread of its own, on
//! which no request waits but those of other mounts (`vfs::watch` says how those are kept from waiting for each other).
//! Whoever waits for a kernel that does not let go is let go after [`TOLD_WITHIN`].

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use fuser::{INodeNo, Notifier};
use muxfs::{
    Error, ErrorKind, Name, Result,
    vfs::{Ino, ext, watch::Change},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::interval,
};
use tokio_util::sync::CancellationToken;

use crate::server::Shared;

/// How long a change through another frontend waits until this kernel has been told of it. Only a kernel that is stuck
/// takes as long; the change is then seen here a moment after it returned.
pub const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked whether the kernel is stuck.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How many names of the root are dropped after a change of everything: each one more keeps what it was for a while.
const NAME_COUNT_MAX: usize = 1 << 20;

/// Begins to tell, until `stop`; the future is ready when that has ended, and nothing of `shared` is held any more.
pub(crate) fn start(
    shared: Arc<Shared>,
    notifier: Notifier,
    mut own: mpsc::UnboundedReceiver<Change>,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + use<>> {
    let watching = tokio::spawn(watchdog(shared.clone(), stop.clone()));
    let (over, told) = oneshot::channel();
    let tell = move || {
        let runtime = shared.runtime.clone();
        let teller = Teller { shared, notifier };
        loop {
            let next = async {
                tokio::select! {
                    () = stop.cancelled() => None,
                    Some(change) = own.recv() => Some((None, change)),
                    (number, change) = teller.shared.changes.next() => Some((Some(number), change)),
                }
            };
            let Some((number, change)) = runtime.block_on(next) else { break };
            teller.tell(change);
            if let Some(number) = number {
                teller.shared.changes.done(number);
            }
        }
        drop(teller);
        // Nobody waits for it once the runtime is gone.
        over.send(()).ok();
    };
    let failed = |error| Error::new(ErrorKind::Internal, "fuse.notify").because(error);
    thread::Builder::new().name("fuse-notify".into()).spawn(tell).map_err(failed)?;
    Ok(async move {
        watching.await.ok();
        told.await.ok();
    })
}

/// Lets go whoever waits for a kernel that is stuck.
async fn watchdog(shared: Arc<Shared>, stop: CancellationToken) {
    let mut ticks = interval(LOOK_EVERY);
    let mut stuck: Option<(u64, Instant)> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(first) = shared.changes.first_waiting() else {
            stuck = None;
            continue;
        };
        match stuck {
            Some((number, since)) if number == first => {
                if since.elapsed() > TOLD_WITHIN {
                    tracing::warn!("the kernel does not take word of changes: nobody waits for it any more");
                    shared.changes.done(shared.changes.last());
                }
            }
            _ => stuck = Some((first, Instant::now())),
        }
    }
}

struct Teller {
    shared: Arc<Shared>,
    notifier: Notifier,
}

impl Teller {
    fn tell(&self, change: Change) {
        match change {
            Change::Node { ino, content } => self.node(ino, content),
            Change::Name { dir, name } => self.name(dir, &name),
            Change::Everything => {
                for ino in self.shared.nodes.all() {
                    self.node(ino, true);
                }
                // A directory that is dropped takes along all below it.
                let vfs = &self.shared.vfs;
                match self.shared.runtime.block_on(ext::list(&**vfs, vfs.root(), NAME_COUNT_MAX)) {
                    Ok(entries) => entries.iter().for_each(|entry| self.name(vfs.root(), &entry.name)),
                    Err(error) => tracing::warn!("what the kernel knows of names may be old: {error:#}"),
                }
            }
        }
    }

    /// Drops the attributes of a node, and its pages or its listing.
    fn node(&self, ino: Ino, content: bool) {
        let offset = if content { 0 } else { -1 };
        let told = self.notifier.inval_inode(INodeNo(self.shared.nodes.id(ino)), offset, 0);
        told.unwrap_or_else(|error| tracing::debug!(%error, "the kernel does not take word of a node"));
    }

    /// Drops a name, and then the attributes and the listing of its directory: to drop a name waits for the lock of the
    /// directory, and so for who is just taking up a listing from before.
    fn name(&self, dir: Ino, name: &Name) {
        let id = INodeNo(self.shared.nodes.id(dir));
        let told = self.notifier.inval_entry(id, OsStr::from_bytes(name.as_bytes()));
        told.unwrap_or_else(|error| tracing::debug!(%error, "the kernel does not take word of a name"));
        self.node(dir, true);
    }
}
