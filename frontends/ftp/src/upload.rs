//! Uploads: what arrives goes to a hidden partial and takes its name only when it is whole and durable.
//!
//! A partial lies in the directory of the name it is for and is called `.muxfs-part.`, 16 hex digits of the user's
//! hash, `.`, 32 of the name's. The same user finds it again by both and goes on where it ends; nobody else does. It
//! lives for a day. Continuing a file that exists (APPE, or STOR after REST) writes in place: its first bytes are
//! already what the client wants. Spec: spec/ftp.md #uploads.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use muxfs::{
    Error, ErrorKind, FileKind, Name, Result,
    vfs::{Attr, Fsid, Ino, RemoveKind, posix::Access},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    path::PARTIAL_PREFIX,
    reply::RESTART_OP,
    tree::{Found, Last, Node, Tree, plain_file},
};

/// How long an upload waits for an older one of the same user to the same name, which it breaks off.
const SLOT_WAIT: Duration = Duration::from_secs(5);

type Place = (Fsid, Ino, Name);

/// The uploads under way: one to a name.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    busy: Mutex<HashMap<Place, (String, CancellationToken)>>,
    freed: Notify,
}

/// The right to write to one name; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    place: Place,
    /// Cancelled when the same user begins anew: the session that held the slot is as good as gone.
    pub(crate) superseded: CancellationToken,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.place);
        self.slots.freed.notify_waiters();
    }
}

impl Slots {
    async fn acquire(self: &Arc<Self>, place: Place, user: &str) -> Result<Slot> {
        let wait = async {
            loop {
                let freed = self.freed.notified();
                tokio::pin!(freed);
                freed.as_mut().enable();
                if let Some(slot) = self.try_acquire(&place, user) {
                    return slot;
                }
                freed.await;
            }
        };
        tokio::time::timeout(SLOT_WAIT, wait).await.map_err(|_| {
            Error::new(ErrorKind::Unavailable, "ftp.upload").because("another upload to this name is under way")
        })
    }

    fn try_acquire(self: &Arc<Self>, place: &Place, user: &str) -> Option<Slot> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((owner, superseded)) = busy.get(place) {
            if owner == user {
                superseded.cancel();
            }
            return None;
        }
        let superseded = CancellationToken::new();
        busy.insert(place.clone(), (user.to_owned(), superseded.clone()));
        drop(busy);
        Some(Slot { slots: Arc::clone(self), place: place.clone(), superseded })
    }
}

/// Where an upload begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    At(u64),
    End,
}

/// Who uploads, and by which clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uploader<'a> {
    pub(crate) tree: &'a Arc<Tree>,
    pub(crate) user: &'a str,
    pub(crate) now: SystemTime,
    pub(crate) lifetime: Duration,
}

#[derive(Debug)]
enum Goal {
    /// A partial that is to appear as `name`, in place of `old`.
    Appear { dir: Box<Node>, partial: Name, name: Name, old: Option<Box<Attr>> },
    /// The file itself; `cut` ends it where the upload ends.
    InPlace { cut: bool },
}

/// An upload under way.
#[derive(Debug)]
pub(crate) struct Upload {
    tree: Arc<Tree>,
    file: Node,
    offset: u64,
    goal: Goal,
    pub(crate) slot: Slot,
}

/// Two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

fn user_part(user: &str) -> String {
    hex(blake3::hash(user.as_bytes()).as_bytes().get(..8).unwrap_or_default())
}

/// What the partial of `name` is called for `user`.
fn partial_name(user: &str, name: &Name) -> Name {
    let of_name = hex(blake3::hash(name.as_bytes()).as_bytes().get(..16).unwrap_or_default());
    let text = [PARTIAL_PREFIX, user_part(user).as_bytes(), b".", of_name.as_bytes()].concat();
    Name::new(&text).expect("61 letters, digits and dots")
}

impl Uploader<'_> {
    fn is_alive(&self, partial: &Attr) -> bool {
        let age = self.now.duration_since(partial.mtime).unwrap_or_default();
        partial.kind == FileKind::File && age <= self.lifetime
    }

    /// This user's unfinished upload to a name that has nothing else.
    pub(crate) async fn partial(&self, found: &Found) -> Result<Option<Node>> {
        let Found { dir, name: Some(name), node: None } = found else { return Ok(None) };
        let partial = self.tree.child(dir, &partial_name(self.user, name)).await?;
        Ok(partial.filter(|node| self.is_alive(&node.attr)))
    }

    /// Forgets this user's unfinished upload to a name, and says whether there was one.
    pub(crate) async fn forget(&self, dir: &Node, name: &Name) -> Result<bool> {
        match self.tree.remove(dir, &partial_name(self.user, name), RemoveKind::NonDir).await {
            Ok(()) => Ok(true),
            Err(absent) if absent.kind() == ErrorKind::NotFound => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Whether a name in a directory is a partial that may go when the directory goes, or when it is listed.
    pub(crate) fn is_leftover(&self, name: &Name, attr: &Attr, mine_too: bool) -> bool {
        let Some(rest) = name.as_bytes().strip_prefix(PARTIAL_PREFIX) else { return false };
        attr.kind == FileKind::File
            && (!self.is_alive(attr) || mine_too && rest.starts_with(user_part(self.user).as_bytes()))
    }

    /// Makes everything ready to receive.
    ///
    /// # Errors
    /// `Denied` where the file is not this user's to write; `InvalidArgument` for an offset past what is there;
    /// `Unavailable` while another user uploads to the name; and those of the file system.
    pub(crate) async fn begin(&self, slots: &Arc<Slots>, path: &[Name], start: Start) -> Result<Upload> {
        self.tree.writable()?;
        let found = self.tree.find(path, Last::Follow).await?;
        let (dir, Some(name)) = (found.dir, found.name) else {
            return Err(Error::new(ErrorKind::IsDir, "ftp.upload"));
        };
        let slot = slots.acquire((dir.attr.fsid, dir.ino(), name.clone()), self.user).await?;
        // Looked up again: what held the slot before may have changed it.
        let (file, offset, goal) = match self.tree.child(&dir, &name).await? {
            Some(old) => self.over(dir, name, old, start).await?,
            None => self.anew(dir, name, start).await?,
        };
        Ok(Upload { tree: Arc::clone(self.tree), file, offset, goal, slot })
    }

    async fn over(&self, dir: Node, name: Name, old: Node, start: Start) -> Result<(Node, u64, Goal)> {
        plain_file(&old.attr)?;
        if !self.tree.may(&old.attr, Access::WRITE) {
            return Err(Error::new(ErrorKind::Denied, "ftp.upload"));
        }
        match start {
            Start::At(0) => {
                let old = Some(Box::new(old.attr.clone()));
                self.fresh(dir, name, old).await
            }
            Start::At(offset) if offset > old.attr.size => Err(past_the_end()),
            Start::At(offset) => Ok((old, offset, Goal::InPlace { cut: true })),
            Start::End => {
                let end = old.attr.size;
                Ok((old, end, Goal::InPlace { cut: false }))
            }
        }
    }

    async fn anew(&self, dir: Node, name: Name, start: Start) -> Result<(Node, u64, Goal)> {
        let partial = partial_name(self.user, &name);
        let left = self.tree.child(&dir, &partial).await?.filter(|node| self.is_alive(&node.attr));
        let (left, offset) = match (left, start) {
            (_, Start::At(0)) | (None, Start::End) => return self.fresh(dir, name, None).await,
            (Some(left), Start::At(offset)) if offset <= left.attr.size => (left, offset),
            (Some(left), Start::End) => {
                let end = left.attr.size;
                (left, end)
            }
            (_, Start::At(_)) => return Err(past_the_end()),
        };
        if offset < left.attr.size {
            self.tree.truncate(&left, offset).await?;
        }
        Ok((left, offset, Goal::Appear { dir: Box::new(dir), partial, name, old: None }))
    }

    async fn fresh(&self, dir: Node, name: Name, old: Option<Box<Attr>>) -> Result<(Node, u64, Goal)> {
        self.forget(&dir, &name).await?;
        let partial = partial_name(self.user, &name);
        let file = self.tree.create_file(&dir, &partial).await?;
        Ok((file, 0, Goal::Appear { dir: Box::new(dir), partial, name, old }))
    }
}

fn past_the_end() -> Error {
    Error::new(ErrorKind::InvalidArgument, RESTART_OP)
        .because("nothing is there to start after: the offset is too large")
}

impl Upload {
    /// Adds bytes at the end.
    pub(crate) async fn write(&mut self, data: Bytes) -> Result<()> {
        let len = data.len() as u64;
        self.tree.write(&self.file, self.offset, data).await?;
        self.offset += len;
        Ok(())
    }

    /// Makes what arrived durable: the slow half of a good end.
    pub(crate) async fn settle(&self) -> Result<()> {
        self.tree.sync(&self.file).await
    }

    /// Makes the file appear: the half of a good end that others see.
    pub(crate) async fn appear(&self) -> Result<()> {
        match &self.goal {
            Goal::InPlace { cut } => {
                if *cut && self.tree.attr(&self.file).await?.size > self.offset {
                    self.tree.truncate(&self.file, self.offset).await?;
                    self.tree.sync(&self.file).await?;
                }
                Ok(())
            }
            Goal::Appear { dir, partial, name, old } => {
                if let Some(old) = old {
                    self.tree.take_after(&self.file, old).await?;
                    self.tree.sync_names(&self.file).await?;
                }
                self.tree.appear(dir, partial, &self.file, name).await
            }
        }
    }

    /// Ends an upload that is not whole: what was to replace a file goes, what was to be a new one stays for later.
    pub(crate) async fn abandon(self) {
        let ended = match &self.goal {
            Goal::Appear { dir, partial, old, .. } if old.is_some() || self.offset == 0 => {
                self.tree.remove(dir, partial, RemoveKind::NonDir).await
            }
            Goal::Appear { dir, .. } => match self.settle().await {
                Ok(()) => self.tree.sync_names(dir).await,
                failed => failed,
            },
            Goal::InPlace { .. } => self.settle().await,
        };
        if let Err(error) = ended {
            tracing::warn!(error = format!("{error:#}"), "an upload that broke off could not be put by");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_is_of_one_user_and_one_name() {
        let name = |text: &[u8]| Name::new(text).expect("a name");
        let (a, b) = (name(b"a"), name(b"b"));
        assert_eq!(partial_name("ann", &a), partial_name("ann", &a));
        assert_ne!(partial_name("ann", &a), partial_name("ann", &b));
        assert_ne!(partial_name("ann", &a), partial_name("bob", &a));
        let longest = partial_name("ann", &name(&[b'x'; 255]));
        assert!(longest.as_bytes().starts_with(PARTIAL_PREFIX) && longest.as_bytes().len() == 61);
    }

    fn place(number: u64) -> Place {
        let ino = Ino(std::num::NonZeroU64::new(number).expect("not 0"));
        (Fsid(0), ino, Name::new(b"x").expect("a name"))
    }

    #[tokio::test]
    async fn one_user_takes_a_slot_over_and_another_waits() {
        let slots = Arc::new(Slots::default());
        let first = slots.acquire(place(1), "ann").await.expect("free");
        let other_place = slots.acquire(place(2), "bob").await.expect("free");
        assert!(slots.try_acquire(&place(1), "bob").is_none());
        assert!(!first.superseded.is_cancelled(), "bob cannot break ann's upload off");
        let superseded = first.superseded.clone();
        let holder = tokio::spawn(async move {
            superseded.cancelled().await;
            drop(first);
        });
        let second = slots.acquire(place(1), "ann").await.expect("taken over");
        holder.await.expect("ends");
        drop((second, other_place));
        assert!(slots.busy.lock().expect("not poisoned").is_empty());
    }
}
