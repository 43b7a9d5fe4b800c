//! Tells the kernel what other frontends changed, before the calls that changed it return.
//!
//! Telling may block: the kernel takes the lock of a directory to drop a name of it, and that of a page to drop the page,
//! and it holds either for as long as a request of ours about it is under way. So it happens on a thread of its own, on
//! which no request waits but those of other mounts (`vfs::watch` says how those are kept from waiting for each other).
//! Whoever waits for a kernel that does not let go is let go after [`TOLD_WITHIN`].

use std::{
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use fuser::{INodeNo, Notifier};
use muxfs::{
    Error, ErrorKind, Name, Result,
    vfs::{Ino, ext, watch::Change},
};
use rustix::io::Errno;
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
/// How long the kernel has to take up a node that it was given, before it counts as one that it will not have.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(1);
/// How long it is let alone at first, and at most, until it is asked whether it has.
const TAKEN_UP_PAUSES: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(5));
/// How many names of the root are dropped after a change of everything: each one more keeps what it was for a while.
const NAME_COUNT_MAX: usize = 1 << 20;

/// Begins to tell, until `stop`; the future is ready when that has ended, and nothing of `shared` is held any more.
pub(crate) fn start(
    shared: Arc<Shared>,
    notifier: Notifier,
    device: OwnedFd,
    mut own: mpsc::UnboundedReceiver<Change>,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + use<>> {
    let watching = tokio::spawn(watchdog(shared.clone(), stop.clone()));
    let (over, told) = oneshot::channel();
    let tell = move || {
        let runtime = shared.runtime.clone();
        let teller = Teller { shared, notifier, device };
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
    /// What the notifier writes to, too: it does not tell whether the kernel had a node.
    device: OwnedFd,
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
    ///
    /// A node may change between the answer that gives it to the kernel and the moment at which the kernel has it: word
    /// that comes in between is about a node that the kernel does not know, and what the answer said would be believed
    /// for ever. So one that it was given and has not is told of again.
    fn node(&self, ino: Ino, content: bool) {
        let word = inval_inode(self.shared.nodes.id(ino), content);
        let told = until_taken_up(|| rustix::io::write(&self.device, &word).map(drop), || self.shared.nodes.knows(ino));
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

/// Word that a node's attributes are to be dropped, and with `content` its pages or its listing: `fuse_out_header` and
/// `fuse_notify_inval_inode_out` of Linux's `fuse.h`.
fn inval_inode(id: u64, content: bool) -> [u8; 40] {
    const LEN: u32 = 40;
    const NOTIFY_INVAL_INODE: i32 = 2;
    const NO_REQUEST: u64 = 0;
    const TO_THE_END: i64 = 0;
    let offset: i64 = if content { 0 } else { -1 };
    let mut word = [0; LEN as usize];
    let fields: [&[u8]; 6] = [
        &LEN.to_ne_bytes(),
        &NOTIFY_INVAL_INODE.to_ne_bytes(),
        &NO_REQUEST.to_ne_bytes(),
        &id.to_ne_bytes(),
        &offset.to_ne_bytes(),
        &TO_THE_END.to_ne_bytes(),
    ];
    let bytes = fields.into_iter().flatten();
    word.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
    word
}

/// Tells the kernel of a node until it has it, `knows` says that it gave it back, or it takes too long.
fn until_taken_up(tell: impl Fn() -> Result<(), Errno>, knows: impl Fn() -> bool) -> Result<(), Errno> {
    let (mut pause, pause_max) = TAKEN_UP_PAUSES;
    let begun = Instant::now();
    loop {
        match tell() {
            Err(Errno::NOENT) if knows() && begun.elapsed() < TAKEN_UP_WITHIN => {}
            Err(Errno::NOENT) => return Ok(()),
            told => return told,
        }
        thread::sleep(pause);
        pause = (pause * 2).min(pause_max);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_the_kernel_was_given_and_has_not_yet_is_told_again() {
        let (told, known) = (Cell::new(0), Cell::new(true));
        let tell = || {
            told.set(told.get() + 1);
            if told.get() < 4 { Err(Errno::NOENT) } else { Ok(()) }
        };
        assert_eq!(until_taken_up(tell, || known.get()), Ok(()));
        assert_eq!(told.take(), 4);
        // It gave the node back.
        known.set(false);
        assert_eq!(until_taken_up(tell, || known.get()), Ok(()));
        assert_eq!(told.take(), 1);
        assert_eq!(until_taken_up(|| Err(Errno::NODEV), || true), Err(Errno::NODEV), "it is gone itself");
        assert_eq!(until_taken_up(|| Err(Errno::NOENT), || true), Ok(()), "it will never have it");
    }
}
