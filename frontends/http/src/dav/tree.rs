//! Changes of the namespace that are whole or not at all, and durable when they return.
//!
//! What is new comes to be under a hidden name beside its place, and takes its own by one rename when it is whole and
//! durable; what was there goes after that. So nothing is ever absent that is replaced, and what is cut off leaves the
//! old behind, and a leftover of a hidden name, which goes when it is a day old and its directory is listed.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
    vec,
};

use bytes::Bytes;
use muxfs::{
    Env, Error, ErrorKind, FileKind, Name, Result,
    vfs::{
        Attr, Cookie, Fsid, Ino, Lease, Listing, NewNode, Place, RemoveKind, RenameMode, SetAttr, SetTime, Vfs,
        XattrMode, ext,
    },
};

/// What hidden names begin with: the same as FTP's, so that neither shows the other's.
const HIDDEN: &[u8] = b".muxfs-part.";
/// And so what this frontend makes, which nobody wants any more when it is old.
const OWN: &[u8] = b"http.";
/// And so what was there and is looked at before it goes, which may be all that is left of it.
const LEAVING: &[u8] = b"leaving.";
/// What the name of something begins with that was changed while it moved, and whose place was taken: everybody sees it.
const RESCUED: &[u8] = b"changed-while-moved-";
/// How long what a cut-off change left may be somebody's who is at it yet.
const HIDDEN_TIME: Duration = Duration::from_hours(24);
/// Entries asked for at once.
pub(crate) const PAGE_COUNT: usize = 512;
/// How much is copied by one call where blocks can be shared, and where they cannot, in bytes.
const SHARED_LEN: u64 = 64 << 20;
const COPIED_LEN: u32 = 1 << 20;
/// How many failures are told of one change.
const LEFT_COUNT_MAX: usize = 64;
/// The extended attributes that belong to content: they go along with it.
const CARRIED: &[u8] = b"user.";
/// The permission bits that a copy keeps: set-id bits vouched for other bytes.
const KEPT_MODE: u32 = 0o1777;
/// New directories are their owner's to change until they are whole.
const OPEN_MODE: u32 = 0o700;

/// Whether a name is of something that is not whole yet: nobody can ask for it.
pub(crate) fn is_hidden(name: &Name) -> bool {
    name.as_bytes().starts_with(HIDDEN)
}

/// Whether a hidden name is of something that this frontend was making.
fn is_own(name: &Name) -> bool {
    name.as_bytes().strip_prefix(HIDDEN).is_some_and(|rest| rest.starts_with(OWN))
}

/// A node with a lease.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) lease: Lease,
    pub(crate) attr: Attr,
}

impl Node {
    pub(crate) fn ino(&self) -> Ino {
        self.lease.ino()
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.attr.kind == FileKind::Dir
    }
}

/// Something that could not be removed: the names that lead to it from what was to go, and why.
pub(crate) type Left = (Vec<Name>, Error);

/// All mounts, as who writes may change them.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(crate) vfs: Arc<dyn Vfs>,
    /// The file systems whose names are durable when they are.
    pub(crate) sync_names_except: Vec<Fsid>,
    pub(crate) env: Env,
}

/// What of a node its copy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copying {
    /// A directory without what is in it.
    Shallow,
    /// All that is below it.
    Deep,
    /// That, and owners and times too: the copy is what stays of it.
    Moved,
}

/// A directory that is walked through.
struct Level {
    name: Name,
    node: Node,
    /// Where its copy is, where it is copied.
    copy: Option<Node>,
    entries: vec::IntoIter<(Name, Node)>,
    after: Option<Cookie>,
    is_kept: bool,
}

impl Level {
    fn new(name: Name, node: Node, copy: Option<Node>) -> Self {
        let entries = Vec::new().into_iter();
        Self { name, node, copy, entries, after: Some(Cookie::START), is_kept: false }
    }
}

impl Tree {
    fn adopt(&self, attr: Attr) -> Node {
        Node { lease: Lease::adopt(self.vfs.clone(), attr.ino), attr }
    }

    /// The node at a path.
    pub(crate) async fn find(&self, path: &[Name]) -> Result<Node> {
        let (lease, attr) = ext::walk(&self.vfs, self.vfs.root(), path).await?;
        Ok(Node { lease, attr })
    }

    /// The node of a name; `None` if there is none.
    pub(crate) async fn child(&self, dir: Ino, name: &Name) -> Result<Option<Node>> {
        match self.vfs.lookup(dir, name).await {
            Ok(attr) => Ok(Some(self.adopt(attr))),
            Err(absent) if absent.kind() == ErrorKind::NotFound => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Some entries of a directory, and where to go on; `None` at its end.
    pub(crate) async fn page(&self, dir: Ino, after: Cookie) -> Result<(Vec<(Name, Node)>, Option<Cookie>)> {
        let page = self.vfs.readdir(dir, after, PAGE_COUNT, Listing::Attrs).await?;
        let next = page.entries.last().map(|entry| entry.cookie).filter(|_| !page.eof);
        // All that came with attributes came leased: adopted before anything can fail.
        let entries: Vec<_> =
            page.entries.into_iter().map(|entry| (entry.name, entry.attr.map(|attr| self.adopt(attr)))).collect();
        let mut nodes = Vec::with_capacity(entries.len());
        for (name, node) in entries {
            let node = match node {
                Some(node) => Some(node),
                None => self.child(dir, &name).await?,
            };
            nodes.extend(node.map(|node| (name, node)));
        }
        Ok((nodes, next))
    }

    /// Whether an entry is what a change left that was cut off long ago.
    pub(crate) fn is_leftover(&self, name: &Name, attr: &Attr) -> bool {
        // Not by when it was written: that is what the client says, or what the copied had.
        let age = (self.env.now)().duration_since(attr.ctime).unwrap_or_default();
        // Another frontend's may be gone on with, and are that one's to remove.
        is_own(name) && age > HIDDEN_TIME
    }

    /// A hidden name that nobody else picks.
    fn hidden_name(&self) -> Name {
        self.name_of(&[HIDDEN, OWN])
    }

    /// A name that nobody else picks.
    fn name_of(&self, beginning: &[&[u8]]) -> Name {
        let text = self.env.random_id();
        Name::new(&[&beginning.concat(), text.as_bytes()].concat())
            .expect("letters, digits, dots and a hyphen: 56 at most")
    }

    // ---- durability

    pub(crate) async fn sync_node(&self, ino: Ino) -> Result<()> {
        self.vfs.sync_inode(ino).await
    }

    /// Makes the names of a directory durable, if that is promised of its file system.
    pub(crate) async fn sync_names(&self, dir: &Node) -> Result<()> {
        if self.sync_names_except.contains(&dir.attr.fsid) { Ok(()) } else { self.sync_node(dir.ino()).await }
    }

    // ---- what is new

    /// A new file that nobody sees, in a directory.
    pub(crate) async fn create_hidden(&self, dir: &Node, mode: u32) -> Result<(Name, Node)> {
        let (name, set) = (self.hidden_name(), SetAttr { mode: Some(mode), ..SetAttr::default() });
        let file = self.vfs.create(dir.ino(), &name, NewNode::File, set).await?;
        Ok((name, self.adopt(file.node)))
    }

    /// Removes what is at a hidden name, where something failed already that is told.
    pub(crate) async fn discard(&self, dir: &Node, name: &Name) {
        match self.remove_all(dir, name).await {
            Ok(left) if left.is_empty() => {}
            Ok(left) => tracing::warn!(%name, count = left.len(), "HTTP: what was cut off stays for a day"),
            Err(error) => tracing::warn!(%name, error = format!("{error:#}"), "HTTP: what was cut off stays for a day"),
        }
    }

    /// Moves `from` to `to`, at one moment, and removes what was there, if `replaces`. A file that `expected` names is replaced
    /// only while it is that one.
    ///
    /// # Errors
    /// `Exists` where something is there and not to be replaced; `Stale` or `NotFound` where something else is there than was
    /// expected.
    pub(crate) async fn install(
        &self,
        from: (&Node, &Name),
        to: (&Node, &Name),
        replaces: bool,
        expected: Option<Ino>,
    ) -> Result<()> {
        let place = |(dir, name): (&Node, &'_ Name)| (dir.ino(), name.clone());
        let (from_at, to_at) = (place(from), place(to));
        let rename = |mode| {
            let (from, to) = (from_at.clone(), to_at.clone());
            async move {
                let from = Place { dir: from.0, name: &from.1, expect: None };
                self.vfs.rename(from, Place { dir: to.0, name: &to.1, expect: expected }, mode).await
            }
        };
        if !replaces {
            rename(RenameMode::NoReplace).await?;
            return self.sync_both(from.0, to.0).await;
        }
        let (from_node, to_node) = (self.child(from.0.ino(), from.1).await?, self.child(to.0.ino(), to.1).await?);
        match (from_node.map(|node| node.is_dir()), to_node.map(|node| node.is_dir())) {
            (Some(true), Some(_)) | (_, Some(true)) => {
                rename(RenameMode::Exchange).await?;
                // What was there goes out of sight first: it may be large.
                let hidden = self.hidden_name();
                let old = Place { dir: from_at.0, name: &from_at.1, expect: None };
                let away = Place { dir: from_at.0, name: &hidden, expect: None };
                self.vfs.rename(old, away, RenameMode::NoReplace).await?;
                self.sync_both(from.0, to.0).await?;
                self.discard(from.0, &hidden).await;
                Ok(())
            }
            _ => {
                rename(RenameMode::Replace).await?;
                self.sync_both(from.0, to.0).await
            }
        }
    }

    /// Writes the name of a node in another way, which finds the same node: as file systems have it that take capitals and
    /// small letters for one.
    pub(crate) async fn respell(&self, from: (&Node, &Name), to: (&Node, &Name)) -> Result<()> {
        let old = Place { dir: from.0.ino(), name: from.1, expect: None };
        let new = Place { dir: to.0.ino(), name: to.1, expect: None };
        self.vfs.rename(old, new, RenameMode::Replace).await?;
        self.sync_both(from.0, to.0).await
    }

    async fn sync_both(&self, from: &Node, to: &Node) -> Result<()> {
        self.sync_names(to).await?;
        if from.ino() == to.ino() { Ok(()) } else { self.sync_names(from).await }
    }

    /// Gives what replaces a file the mode and the extended attributes of that one.
    pub(crate) async fn take_after(&self, new: &Node, old: &Node) -> Result<()> {
        self.carry(old, new).await?;
        self.give(old, new).await?;
        let mode = SetAttr { mode: Some(old.attr.mode & KEPT_MODE), ..SetAttr::default() };
        self.vfs.setattr(new.ino(), mode).await.map(drop)
    }

    /// Carries the extended attributes of content along.
    async fn carry(&self, from: &Node, to: &Node) -> Result<()> {
        if !matches!(from.attr.kind, FileKind::File | FileKind::Dir) {
            return Ok(());
        }
        let names = match self.vfs.listxattr(from.ino()).await {
            Err(none) if none.kind() == ErrorKind::Unsupported => return Ok(()),
            names => names?,
        };
        for name in names.iter().filter(|name| name.as_bytes().starts_with(CARRIED)) {
            match self.vfs.getxattr(from.ino(), name).await {
                Ok(value) => match self.vfs.setxattr(to.ino(), name, value, XattrMode::Set).await {
                    // A mount that keeps none can still keep the bytes.
                    Err(none) if none.kind() == ErrorKind::Unsupported => return Ok(()),
                    set => set.map(drop)?,
                },
                Err(gone) if gone.kind() == ErrorKind::NoAttr => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    // ---- copies

    /// Copies a node to a hidden name in a directory, durably.
    ///
    /// # Errors
    /// Of the first thing that could not be copied, with its path below the node; nothing is left then.
    pub(crate) async fn copy_hidden(&self, from: Node, dir: &Node, how: Copying) -> Result<Name> {
        let name = self.hidden_name();
        let copied = async {
            let root = self.copy_into(from, dir, &name, how).await?;
            if root.is_dir() {
                // One call for all that is below.
                return self.vfs.sync(self.vfs.root()).await;
            }
            self.sync_node(root.ino()).await
        };
        if let Err(error) = copied.await {
            self.discard(dir, &name).await;
            return Err(error);
        }
        Ok(name)
    }

    async fn copy_into(&self, from: Node, dir: &Node, name: &Name, how: Copying) -> Result<Node> {
        let first = self.copy_node(&from, dir.ino(), name).await?;
        let root = Node { lease: first.lease.clone(), attr: first.attr.clone() };
        if !from.is_dir() || how == Copying::Shallow {
            self.close_copy(&from, &first, how).await?;
            return Ok(root);
        }
        let mut levels = vec![Level::new(name.clone(), from, Some(first))];
        while let Some(level) = levels.last_mut() {
            let Some(copy) = &level.copy else { break };
            if let Some((name, node)) = level.entries.next() {
                // What another frontend left to be gone on with moves along.
                if is_hidden(&name) && (how != Copying::Moved || is_own(&name)) {
                    continue;
                }
                let at = |error: Error| error.at(format!("{name:?}"));
                let copied = self.copy_node(&node, copy.ino(), &name).await.map_err(at)?;
                if node.is_dir() {
                    levels.push(Level::new(name, node, Some(copied)));
                } else {
                    self.close_copy(&node, &copied, how).await.map_err(at)?;
                }
            } else if let Some(after) = level.after {
                let (entries, next) = self.page(level.node.ino(), after).await?;
                (level.entries, level.after) = (entries.into_iter(), next);
            } else {
                self.close_copy(&level.node, copy, how).await?;
                levels.pop();
            }
        }
        Ok(root)
    }

    /// Copies one node without what is below it.
    async fn copy_node(&self, from: &Node, dir: Ino, name: &Name) -> Result<Node> {
        let mode = from.attr.mode & KEPT_MODE;
        let (new, mode) = match from.attr.kind {
            FileKind::File => (NewNode::File, Some(mode | 0o200)),
            FileKind::Dir => (NewNode::Dir, Some(mode | OPEN_MODE)),
            FileKind::Symlink => (NewNode::Symlink(self.vfs.readlink(from.ino()).await?), None),
            FileKind::Fifo => (NewNode::Fifo, Some(mode)),
            FileKind::Socket => (NewNode::Socket, Some(mode)),
            FileKind::CharDevice => (NewNode::CharDevice(from.attr.rdev), Some(mode)),
            FileKind::BlockDevice => (NewNode::BlockDevice(from.attr.rdev), Some(mode)),
        };
        let copy = self.vfs.create(dir, name, new, SetAttr { mode, ..SetAttr::default() }).await?;
        let copy = self.adopt(copy.node);
        if from.attr.kind == FileKind::File {
            self.copy_bytes(from, &copy).await?;
        }
        Ok(copy)
    }

    /// Ends the copy of a node: its mode is what it is to be.
    async fn close_copy(&self, from: &Node, copy: &Node, how: Copying) -> Result<()> {
        self.carry(from, copy).await?;
        if how == Copying::Moved {
            self.give(from, copy).await?;
        }
        let mode = from.attr.mode & KEPT_MODE;
        let has_mode = from.attr.kind == FileKind::Symlink || copy.attr.mode & KEPT_MODE == mode;
        let mtime = (how == Copying::Moved).then_some(SetTime::At(from.attr.mtime));
        let set = SetAttr { mode: (!has_mode).then_some(mode), mtime, ..SetAttr::default() };
        if set == SetAttr::default() { Ok(()) } else { self.vfs.setattr(copy.ino(), set).await.map(drop) }
    }

    /// Gives a node the owner of another, as far as the server may.
    async fn give(&self, from: &Node, to: &Node) -> Result<()> {
        if (from.attr.uid, from.attr.gid) == (to.attr.uid, to.attr.gid) {
            return Ok(());
        }
        let owner = SetAttr { uid: Some(from.attr.uid), gid: Some(from.attr.gid), ..SetAttr::default() };
        match self.vfs.setattr(to.ino(), owner).await {
            Err(other) if !matches!(other.kind(), ErrorKind::NotPermitted | ErrorKind::Denied) => Err(other),
            _ => Ok(()),
        }
    }

    async fn copy_bytes(&self, from: &Node, to: &Node) -> Result<()> {
        let mut at = 0;
        loop {
            match self.vfs.copy_range((from.ino(), at), (to.ino(), at), SHARED_LEN).await {
                Ok((0, _)) => return Ok(()),
                Ok((len, _)) => at += len,
                Err(other) if matches!(other.kind(), ErrorKind::Unsupported | ErrorKind::CrossDevice) => break,
                Err(other) => return Err(other),
            }
        }
        let mut piece = self.vfs.read(from.ino(), at, COPIED_LEN).await?;
        while !piece.is_empty() {
            let next = at + piece.len() as u64;
            let (written, read) = tokio::join!(
                self.vfs.write(to.ino(), at, std::mem::replace(&mut piece, Bytes::new()), false),
                self.vfs.read(from.ino(), next, COPIED_LEN)
            );
            written?;
            (piece, at) = (read?, next);
        }
        Ok(())
    }

    // ---- moving from one file system to another

    /// Whether names can be taken out of a directory: known before all that is below one is copied for nothing.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn may_take_from(&self, dir: &Node) -> Result<()> {
        let (name, _file) = self.create_hidden(dir, 0o600).await?;
        self.discard(dir, &name).await;
        Ok(())
    }

    /// What tells the state of a node, and of all that is below it, from another; what it is called itself does not count.
    pub(crate) async fn state(&self, ino: Ino) -> Result<blake3::Hash> {
        let mut state = blake3::Hasher::new();
        let note = |state: &mut blake3::Hasher, name: &[u8], attr: &Attr, change: u64| {
            let mtime = attr.mtime.duration_since(UNIX_EPOCH).map_or_else(
                |before| -i128::try_from(before.duration().as_nanos()).unwrap_or(i128::MAX),
                |after| i128::try_from(after.as_nanos()).unwrap_or(i128::MAX),
            );
            state.update(&(name.len() as u64).to_le_bytes()).update(name);
            for number in [attr.ino.0.get(), attr.size, change] {
                state.update(&number.to_le_bytes());
            }
            for number in [attr.mode, attr.uid, attr.gid] {
                state.update(&number.to_le_bytes());
            }
            state.update(&mtime.to_le_bytes());
        };
        let attr = self.vfs.getattr(ino).await?;
        // Another name of its own is a change, too.
        note(&mut state, b"", &attr, 0);
        if attr.kind != FileKind::Dir {
            return Ok(state.finalize());
        }
        self.vfs.retain(ino);
        let mut levels = vec![Level::new(self.hidden_name(), self.adopt(attr), None)];
        while let Some(level) = levels.last_mut() {
            if let Some((name, node)) = level.entries.next() {
                note(&mut state, name.as_bytes(), &node.attr, node.attr.change);
                if node.is_dir() {
                    levels.push(Level::new(name, node, None));
                }
            } else if let Some(after) = level.after {
                let (entries, next) = self.page(level.node.ino(), after).await?;
                (level.entries, level.after) = (entries.into_iter(), next);
            } else {
                state.update(b"end");
                levels.pop();
            }
        }
        Ok(state.finalize())
    }

    /// Removes what is at a place, with all that is below it, if it is in that state yet; whether it was. It goes out of sight
    /// first, so that who changes it later finds nothing to change, and is looked at once more there.
    ///
    /// # Errors
    /// Those of taking it out of sight, with the place as it was, and those of putting it back, with what was changed under its hidden
    /// name, which the log tells. What cannot be removed then is told there, too.
    pub(crate) async fn remove_unchanged(
        &self,
        (dir, name): (&Node, &Name),
        ino: Ino,
        state: blake3::Hash,
    ) -> Result<bool> {
        // Where it is first: it is long out of sight only where nobody is at it.
        if self.state(ino).await? != state {
            return Ok(false);
        }
        let hidden = self.name_of(&[HIDDEN, LEAVING]);
        let place = Place { dir: dir.ino(), name, expect: Some(ino) };
        let away = Place { dir: dir.ino(), name: &hidden, expect: None };
        self.vfs.rename(place, away, RenameMode::NoReplace).await?;
        if !self.state(ino).await.is_ok_and(|now| now == state) {
            let back = self.put_back(dir, &hidden, name).await;
            return back.map(|()| false).inspect_err(|error| {
                let error = format!("{error:#}");
                tracing::error!(%name, %hidden, error, "HTTP: what was changed while it moved may be under its hidden name yet");
            });
        }
        self.sync_names(dir).await?;
        self.discard(dir, &hidden).await;
        Ok(true)
    }

    /// Gives what went out of sight its name back, or one beside it where somebody took that.
    async fn put_back(&self, dir: &Node, hidden: &Name, name: &Name) -> Result<()> {
        let at = |name| Place { dir: dir.ino(), name, expect: None };
        match self.vfs.rename(at(hidden), at(name), RenameMode::NoReplace).await {
            Err(taken) if taken.kind() == ErrorKind::Exists => {
                let beside = self.name_of(&[RESCUED]);
                self.vfs.rename(at(hidden), at(&beside), RenameMode::NoReplace).await?;
                tracing::warn!(%name, %beside, "HTTP: what was changed while it moved is beside its place, which was taken");
            }
            back => back.map(drop)?,
        }
        self.sync_names(dir).await
    }

    // ---- removing

    /// Removes a name with all that is below it, and tells what could not go; what is above that stays too.
    pub(crate) async fn remove_all(&self, dir: &Node, name: &Name) -> Result<Vec<Left>> {
        let Some(node) = self.child(dir.ino(), name).await? else {
            return Err(Error::new(ErrorKind::NotFound, "http.remove"));
        };
        if !node.is_dir() {
            self.remove(dir.ino(), name, &node).await?;
            return Ok(Vec::new());
        }
        let (mut levels, mut left): (Vec<Level>, Vec<Left>) = (vec![Level::new(name.clone(), node, None)], Vec::new());
        while let Some(level) = levels.last_mut() {
            if let Some((name, node)) = level.entries.next() {
                if node.is_dir() {
                    levels.push(Level::new(name, node, None));
                    continue;
                }
                if let Err(error) = self.remove(level.node.ino(), &name, &node).await {
                    level.is_kept = true;
                    tell(&mut left, &levels, &name, error);
                }
                continue;
            }
            if let Some(after) = level.after {
                match self.page(level.node.ino(), after).await {
                    Ok((entries, next)) => (level.entries, level.after) = (entries.into_iter(), next),
                    Err(error) => {
                        (level.is_kept, level.after) = (true, None);
                        let Some(level) = levels.pop() else { break };
                        tell(&mut left, &levels, &level.name, error);
                        levels.push(level);
                    }
                }
                continue;
            }
            let Some(level) = levels.pop() else { break };
            let above = levels.last().map_or(dir.ino(), |above| above.node.ino());
            let removed = if level.is_kept {
                Ok(false)
            } else {
                self.remove(above, &level.name, &level.node).await.map(|()| true)
            };
            let is_gone = removed.unwrap_or_else(|error| {
                tell(&mut left, &levels, &level.name, error);
                false
            });
            if !is_gone && let Some(above) = levels.last_mut() {
                above.is_kept = true;
            }
        }
        Ok(left)
    }

    /// Removes one name; one that is gone already is as good.
    async fn remove(&self, dir: Ino, name: &Name, node: &Node) -> Result<()> {
        let kind = if node.is_dir() { RemoveKind::Dir } else { RemoveKind::NonDir };
        match self.vfs.remove(Place { dir, name, expect: Some(node.ino()) }, kind).await {
            Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map(drop),
        }
    }
}

fn tell(left: &mut Vec<Left>, levels: &[Level], name: &Name, error: Error) {
    if left.len() < LEFT_COUNT_MAX {
        // The first is what was to go itself.
        let above = levels.iter().skip(1).map(|level| level.name.clone());
        let own = (!levels.is_empty()).then(|| name.clone());
        left.push((above.chain(own).collect(), error));
    }
}
