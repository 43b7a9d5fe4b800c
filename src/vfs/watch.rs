//! Who changes a file system tells who keeps copies of it: what makes caches of several frontends agree.
//!
//! A frontend whose client caches without asking (the kernel behind FUSE) is right only if it hears of each change that
//! comes through another frontend, and hears of it *before* the call that made the change returns. A [`Watch`] stands
//! between a file system and its frontends and gives each its own view: [`Watch::view`] for those that cache nothing,
//! [`Watch::caching_view`] for those that do. A change through one view is put before the [`Changes`] of every other, and
//! returns when each has seen to it. What is changed below the watch, past all views, nobody hears of.
//!
//! **What is on its way.** An answer that was made before a change may reach the client after the word of it. So an
//! answer that lets the client cache is given within [`Changes::settle`], which says whether anything has changed since
//! [`Changes::begin`]; while it is being given no change is told.
//!
//! **Who waits for whom.** Seeing to a change may need what another call through the same caching view holds at its
//! client (the kernel locks a directory for as long as a change in it is under way). Two such views that change the same
//! directory at the same time would then wait for each other. So a call stops waiting as soon as its own view has been
//! told of a change to a node that the call itself is about: what it holds is needed. The other view then sees to the
//! change as soon as its own call returns. A view that caches nothing is never waited for, so all else ends. How long one
//! that caches may take is its own affair: it says [`Changes::done`] in any case. Spec: spec/fuse.md #coherence.

mod gates;

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::{
    Changed, DirChanged, Ino, Lease, NewNode, Place, RemoveKind, RenameMode, Renamed, SetAttr, Vfs, XattrMode,
    XattrName,
};
use crate::{Error, ErrorKind, Name, Result, forward_vfs};
use gates::{Entered, Gates};

/// How many changes wait for one view before they become [`Change::Everything`]: bounds what a view that is slow, or
/// has stopped, costs.
pub const CHANGE_COUNT_MAX: usize = 64 * 1024;

/// How many renames that were refused are remembered until they are asked for again; one that is forgotten may be
/// refused once more.
const REFUSED_COUNT_MAX: usize = 64;

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node's attributes, and its content where `content` says so.
    Node {
        /// Which.
        ino: Ino,
        /// Whether its bytes changed too.
        content: bool,
    },
    /// What a name leads to, and with it the attributes and the listing of its directory.
    Name {
        /// The directory.
        dir: Ino,
        /// The name.
        name: Name,
    },
    /// More than can be told.
    Everything,
}

impl Change {
    /// The node it is about; `None` for all.
    pub fn ino(&self) -> Option<Ino> {
        match self {
            Self::Node { ino, .. } => Some(*ino),
            Self::Name { dir, .. } => Some(*dir),
            Self::Everything => None,
        }
    }
}

/// Whether a client knows a node: of others it need not hear.
pub type Knows = Box<dyn Fn(Ino) -> bool + Send + Sync>;

/// A file system whose frontends hear of each other's changes.
#[derive(Debug, Clone)]
pub struct Watch {
    hub: Arc<Hub>,
}

#[derive(Debug)]
struct Hub {
    vfs: Arc<dyn Vfs>,
    watchers: RwLock<Vec<Arc<Watcher>>>,
    /// Who changes names passes here, while there are watchers.
    gates: Gates,
}

impl Watch {
    /// Stands before `vfs`, which nobody changes but through the views that this gives.
    ///
    /// ```
    /// use muxfs::{testing, testing::model::ModelFs, vfs::watch::Watch};
    /// let watch = Watch::new(ModelFs::new(testing::env()));
    /// let nfs = watch.view();
    /// # drop(nfs);
    /// ```
    pub fn new(vfs: Arc<dyn Vfs>) -> Self {
        Self { hub: Arc::new(Hub { vfs, watchers: RwLock::default(), gates: Gates::default() }) }
    }

    /// A view for a frontend that keeps no copies.
    pub fn view(&self) -> Arc<dyn Vfs> {
        Arc::new(View { vfs: self.hub.vfs.clone(), hub: self.hub.clone(), own: None })
    }

    /// A view for a frontend whose client caches, and the changes that come through other views: of the nodes that the
    /// client `knows`, and of the root. A rename through it may be `Stale`: the client is to look both names up and to
    /// ask again, and the second time it is made.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use muxfs::{Name, testing, testing::model::ModelFs};
    /// use muxfs::vfs::{NewNode, SetAttr, watch::{Change, Watch}};
    /// let watch = Watch::new(ModelFs::new(testing::env()));
    /// let (nfs, (fuse, changes)) = (watch.view(), watch.caching_view(Box::new(|_| true)));
    /// let (dir, name) = (nfs.root(), Name::new(b"a")?);
    /// let made = nfs.create(dir, &name, NewNode::File, SetAttr::default());
    /// let heard = async {
    ///     let (number, change) = changes.next().await;
    ///     changes.done(number);
    ///     change
    /// };
    /// let (made, heard) = tokio::join!(made, heard);
    /// assert_eq!(heard, Change::Name { dir, name });
    /// # fuse.release(made?.node.ino, 1);
    /// # Ok::<(), muxfs::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn caching_view(&self, knows: Knows) -> (Arc<dyn Vfs>, Changes) {
        let watcher = Arc::new(Watcher::new(knows));
        self.hub.watchers.write().unwrap_or_else(PoisonError::into_inner).push(watcher.clone());
        let view = View { vfs: self.hub.vfs.clone(), hub: self.hub.clone(), own: Some(watcher.clone()) };
        (Arc::new(view), Changes { watcher, hub: self.hub.clone() })
    }

    /// Tells every view that the file system was changed past all of them, as by a checkout; returns when each has seen
    /// to it.
    pub async fn everything_changed(&self) {
        self.hub.tell(Change::Everything).await;
    }

    /// Tells every view of one such change; returns when each has seen to it.
    pub async fn changed(&self, change: Change) {
        self.hub.tell(change).await;
    }
}

impl Hub {
    /// The views that are to hear of changes through `own`, besides itself.
    fn others(&self, own: Option<&Arc<Watcher>>) -> Vec<Arc<Watcher>> {
        let watchers = self.watchers.read().unwrap_or_else(PoisonError::into_inner);
        watchers.iter().filter(|watcher| own.is_none_or(|own| !Arc::ptr_eq(own, watcher))).cloned().collect()
    }

    /// Puts changes before every other view, and gives what to wait for.
    fn put(&self, changes: &[Change], own: Option<&Arc<Watcher>>) -> Vec<(Arc<Watcher>, u64)> {
        let root = self.vfs.root();
        let others = self.others(own);
        let told = |watcher: Arc<Watcher>| {
            let number = watcher.put(changes, root)?;
            Some((watcher, number))
        };
        others.into_iter().filter_map(told).collect()
    }

    /// Tells every view, and waits.
    async fn tell(&self, change: Change) {
        let changes = [change];
        seen_to(self.put(&changes, None), &changes, None).await;
    }

    /// Enters the gates of directories whose names a call changes, where there is anybody who keeps copies.
    async fn enter<'a, F: Future<Output = Entered<'a>>>(&'a self, enter: impl FnOnce(&'a Gates) -> F) -> Entered<'a> {
        let is_watched = !self.watchers.read().unwrap_or_else(PoisonError::into_inner).is_empty();
        if is_watched { enter(&self.gates).await } else { Entered::default() }
    }
}

/// What a rename moves, and where to.
type Names = [(Ino, Name); 2];

/// What one caching view is told.
struct Watcher {
    knows: Knows,
    /// Grows with each change that other views make. Held shared while an answer is given that lets the client cache.
    age: RwLock<u64>,
    queue: Mutex<Queue>,
    /// The number of the last change that was put into the queue.
    put: watch::Sender<u64>,
    /// The number of the last change that was seen to.
    done: watch::Sender<u64>,
    gone: AtomicBool,
    /// Renames that the client is to ask for again.
    refused: Mutex<VecDeque<Names>>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Those not yet done, by ascending number.
    changes: VecDeque<(u64, Change)>,
    /// The number of the last one that `next` gave.
    given: u64,
    last: u64,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (put, done) = (*self.put.borrow(), *self.done.borrow());
        f.debug_struct("Watcher").field("put", &put).field("done", &done).finish_non_exhaustive()
    }
}

impl Watcher {
    fn new(knows: Knows) -> Self {
        let (put, done) = (watch::Sender::new(0), watch::Sender::new(0));
        let (age, queue, gone, refused) = Default::default();
        Self { knows, age, queue, put, done, gone, refused }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what the client knows of `changes` into the queue; the number to wait for, if there is one.
    fn put(&self, changes: &[Change], root: Ino) -> Option<u64> {
        // First: an answer that is given later is not cached, one that was given before is known to the client by now.
        *self.age.write().unwrap_or_else(PoisonError::into_inner) += 1;
        let known = |change: &&Change| change.ino().is_none_or(|ino| ino == root || (self.knows)(ino));
        let known: Vec<&Change> = changes.iter().filter(known).collect();
        if known.is_empty() || self.gone.load(Ordering::Acquire) {
            return None;
        }
        let mut queue = self.lock();
        for change in known {
            queue.last += 1;
            let number = queue.last;
            let waiting = queue.given;
            // One that waits to be given already stands for this one too.
            let same = queue.changes.back().is_some_and(|(number, last)| *number > waiting && last == change);
            if same {
                queue.last -= 1;
            } else if queue.changes.len() >= CHANGE_COUNT_MAX {
                queue.changes.clear();
                queue.changes.push_back((number, Change::Everything));
            } else {
                queue.changes.push_back((number, change.clone()));
            }
        }
        let last = queue.last;
        self.put.send_replace(last);
        Some(last)
    }

    /// Whether a change to one of the nodes that `changes` are about waits for this view.
    fn is_told_of(&self, changes: &[Change]) -> bool {
        self.is_told(|waiting| match waiting.ino() {
            Some(ino) => changes.iter().any(|change| change.ino().is_none_or(|own| own == ino)),
            None => true,
        })
    }

    /// Whether such a change waits for this view.
    fn is_told(&self, is_such: impl Fn(&Change) -> bool) -> bool {
        self.lock().changes.iter().any(|(_, waiting)| is_such(waiting))
    }

    /// Whether word of what these names lead to is on its way.
    fn is_told_of_names(&self, names: &Names) -> bool {
        self.is_told(|waiting| match waiting {
            Change::Node { .. } => false,
            Change::Name { dir, name } => names.iter().any(|(its_dir, its_name)| (its_dir, its_name) == (dir, name)),
            Change::Everything => true,
        })
    }

    fn refused(&self) -> MutexGuard<'_, VecDeque<Names>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this rename was refused when it was asked for before; that is forgotten now.
    fn has_refused(&self, names: &Names) -> bool {
        let mut refused = self.refused();
        let at = refused.iter().position(|before| before == names);
        at.and_then(|at| refused.remove(at)).is_some()
    }

    /// Remembers a rename that is refused.
    fn refuse(&self, names: &Names) {
        let mut refused = self.refused();
        if refused.len() == REFUSED_COUNT_MAX {
            refused.pop_front();
        }
        refused.push_back(names.clone());
    }

    /// Waits until this view has seen to change `number`, or a change to the same node waits for the view `own`.
    async fn seen_to(&self, number: u64, changes: &[Change], own: Option<&Arc<Self>>) {
        let mut done = self.done.subscribe();
        let seen = done.wait_for(|done| *done >= number);
        let Some(own) = own else {
            // The sender is in `self`.
            seen.await.ok();
            return;
        };
        let mut put = own.put.subscribe();
        let needed = async {
            while !own.is_told_of(changes) {
                if put.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            _ = seen => {}
            () = needed => {}
        }
    }
}

/// The changes that a caching view is to see to. When it is dropped nobody waits for the view any more.
#[derive(Debug)]
pub struct Changes {
    watcher: Arc<Watcher>,
    hub: Arc<Hub>,
}

impl Changes {
    /// The next change and its number, in the order in which they were made. To be called by one at a time.
    pub async fn next(&self) -> (u64, Change) {
        let mut put = self.watcher.put.subscribe();
        loop {
            {
                let mut queue = self.watcher.lock();
                let given = queue.given;
                if let Some((number, change)) = queue.changes.iter().find(|(number, _)| *number > given).cloned() {
                    queue.given = number;
                    return (number, change);
                }
            }
            // The sender is in `self.watcher`.
            put.changed().await.ok();
        }
    }

    /// Says that the client was told of all changes up to this number, or will not be.
    pub fn done(&self, number: u64) {
        let mut queue = self.watcher.lock();
        while queue.changes.front().is_some_and(|(first, _)| *first <= number) {
            queue.changes.pop_front();
        }
        drop(queue);
        self.watcher.done.send_if_modified(|done| {
            let is_later = number > *done;
            *done = number.max(*done);
            is_later
        });
    }

    /// The number of the first change that is not done yet.
    pub fn first_waiting(&self) -> Option<u64> {
        self.watcher.lock().changes.front().map(|(number, _)| *number)
    }

    /// The number of the last change so far.
    pub fn last(&self) -> u64 {
        *self.watcher.put.borrow()
    }

    /// To be called before an answer is looked for that the client may cache; what it gives goes to `settle`.
    pub fn begin(&self) -> u64 {
        *self.watcher.age.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an answer: `answer` hears whether no other view has changed anything since `begin`, so that the client may
    /// cache it. No change is told meanwhile, so it must not wait for anything.
    pub fn settle<T>(&self, begun: u64, answer: impl FnOnce(bool) -> T) -> T {
        let age = self.watcher.age.read().unwrap_or_else(PoisonError::into_inner);
        answer(*age == begun)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let mut watchers = self.hub.watchers.write().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
        drop(watchers);
        self.watcher.gone.store(true, Ordering::Release);
        self.done(u64::MAX);
    }
}

/// A file system as one frontend changes it.
#[derive(Debug)]
struct View {
    vfs: Arc<dyn Vfs>,
    hub: Arc<Hub>,
    /// Who is not told, since the client made the change itself.
    own: Option<Arc<Watcher>>,
}

/// What is told of a call whatever becomes of it: one that fails, or whose future is dropped, may have changed something,
/// and nobody waits for it then.
struct About<'a> {
    view: &'a View,
    changes: Vec<Change>,
    /// Left when the change is put.
    _entered: Entered<'a>,
}

impl View {
    /// For a call that changes no name.
    fn about(&self, changes: impl Into<Vec<Change>>) -> About<'_> {
        About { view: self, changes: changes.into(), _entered: Entered::default() }
    }

    /// For a call that changes names of `dir`.
    async fn about_name_in(&self, dir: Ino, changes: impl Into<Vec<Change>>) -> About<'_> {
        let entered = self.hub.enter(|gates| gates.enter(dir)).await;
        About { view: self, changes: changes.into(), _entered: entered }
    }

    /// Tells of a call that gave a node away, leased; whoever stops waiting has no lease to give back.
    async fn given(&self, about: About<'_>, made: DirChanged) -> DirChanged {
        let lease = Lease::adopt(self.vfs.clone(), made.node.ino);
        about.told().await;
        // The caller's own.
        self.vfs.retain(lease.ino());
        made
    }

    /// The node that a rename replaces or exchanges, where anybody is to hear of it.
    async fn replaced_by(&self, to: &Place<'_>) -> Option<Ino> {
        if self.hub.others(self.own.as_ref()).is_empty() {
            return None;
        }
        let attr = self.vfs.lookup(to.dir, to.name).await.ok()?;
        self.vfs.release(attr.ino, 1);
        Some(attr.ino)
    }

    /// Refuses a rename by a client that does not know what has the names, or tells it to drop them afterwards.
    fn check_known(&self, names: &Names) -> Result<()> {
        let Some(own) = &self.own else { return Ok(()) };
        let again = own.has_refused(names);
        if !own.is_told_of_names(names) {
            return Ok(());
        }
        if !again {
            own.refuse(names);
            return Err(
                Error::new(ErrorKind::Stale, "watch.rename").because("others have changed the names: look again")
            );
        }
        let both = names_changed(names);
        // Nobody waits: the client holds the directories until the rename has returned.
        own.put(&both, self.hub.vfs.root());
        Ok(())
    }
}

impl About<'_> {
    /// Tells of a call that succeeded, and waits.
    async fn told(mut self) {
        let changes = std::mem::take(&mut self.changes);
        let (hub, own) = (&self.view.hub, self.view.own.as_ref());
        let told = hub.put(&changes, own);
        // Whoever is told may need to change names first.
        drop(self);
        seen_to(told, &changes, own).await;
    }
}

impl Drop for About<'_> {
    fn drop(&mut self) {
        if !self.changes.is_empty() {
            self.view.hub.put(&self.changes, self.view.own.as_ref());
        }
    }
}

/// Waits until all have seen to what they were told.
async fn seen_to(told: Vec<(Arc<Watcher>, u64)>, changes: &[Change], own: Option<&Arc<Watcher>>) {
    for (watcher, number) in told {
        watcher.seen_to(number, changes, own).await;
    }
}

fn node(ino: Ino, content: bool) -> Change {
    Change::Node { ino, content }
}

fn name_in(dir: Ino, name: &Name) -> Change {
    Change::Name { dir, name: name.clone() }
}

fn names_changed(names: &Names) -> [Change; 2] {
    names.each_ref().map(|(dir, name)| name_in(*dir, name))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Vfs for View {
    forward_vfs!(vfs: root, lookup, expect, parent, getattr, readdir, read, host_file, readlink, statfs, handle);
    forward_vfs!(vfs: resolve, retain, release, seek, getxattr, listxattr, sync, sync_inode);

    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Changed> {
        let about = self.about([node(ino, set.size.is_some())]);
        let changed = self.vfs.setattr(ino, set).await?;
        about.told().await;
        Ok(changed)
    }

    async fn write(&self, ino: Ino, offset: u64, data: Bytes, clear_suid: bool) -> Result<Changed> {
        let about = self.about([node(ino, true)]);
        let changed = self.vfs.write(ino, offset, data, clear_suid).await?;
        about.told().await;
        Ok(changed)
    }

    async fn create(&self, dir: Ino, name: &Name, node: NewNode, set: SetAttr) -> Result<DirChanged> {
        let about = self.about_name_in(dir, [name_in(dir, name)]).await;
        let made = self.vfs.create(dir, name, node, set).await?;
        Ok(self.given(about, made).await)
    }

    async fn remove(&self, place: Place<'_>, kind: RemoveKind) -> Result<DirChanged> {
        let mut about = self.about_name_in(place.dir, [name_in(place.dir, place.name)]).await;
        let removed = self.vfs.remove(place, kind).await?;
        about.changes.push(node(removed.node.ino, false));
        about.told().await;
        Ok(removed)
    }

    async fn rename(&self, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Renamed> {
        let names = [from, to].map(|place| (place.dir, place.name.clone()));
        let entered = self.hub.enter(|gates| gates.enter_alone([from.dir, to.dir])).await;
        self.check_known(&names)?;
        let changes = names_changed(&names).into();
        let mut about = About { view: self, changes, _entered: entered };
        about.changes.extend(self.replaced_by(&to).await.map(|ino| node(ino, false)));
        let renamed = self.vfs.rename(from, to, mode).await?;
        about.changes.push(node(renamed.node.ino, false));
        about.told().await;
        Ok(renamed)
    }

    async fn link(&self, ino: Ino, dir: Ino, name: &Name) -> Result<DirChanged> {
        let about = self.about_name_in(dir, [name_in(dir, name), node(ino, false)]).await;
        let made = self.vfs.link(ino, dir, name).await?;
        Ok(self.given(about, made).await)
    }

    async fn allocate(&self, ino: Ino, range: Range<u64>, keep_size: bool) -> Result<Changed> {
        let about = self.about([node(ino, true)]);
        let changed = self.vfs.allocate(ino, range, keep_size).await?;
        about.told().await;
        Ok(changed)
    }

    async fn punch_hole(&self, ino: Ino, range: Range<u64>) -> Result<Changed> {
        let about = self.about([node(ino, true)]);
        let changed = self.vfs.punch_hole(ino, range).await?;
        about.told().await;
        Ok(changed)
    }

    async fn copy_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(u64, Changed)> {
        let about = self.about([node(to.0, true)]);
        let copied = self.vfs.copy_range(from, to, len).await?;
        about.told().await;
        Ok(copied)
    }

    async fn setxattr(&self, ino: Ino, name: &XattrName, value: Bytes, mode: XattrMode) -> Result<Changed> {
        let about = self.about([node(ino, false)]);
        let changed = self.vfs.setxattr(ino, name, value, mode).await?;
        about.told().await;
        Ok(changed)
    }

    async fn removexattr(&self, ino: Ino, name: &XattrName) -> Result<Changed> {
        let about = self.about([node(ino, false)]);
        let changed = self.vfs.removexattr(ino, name).await?;
        about.told().await;
        Ok(changed)
    }
}

#[cfg(test)]
mod tests;
