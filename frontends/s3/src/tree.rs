//! The file system as this frontend uses it: nodes with leases, records, and changes that are durable when they return.

use std::sync::Arc;

use bytes::Bytes;
use muxfs::{
    Env, Error, ErrorKind, FileKind, Name, Result,
    vfs::{
        Attr, Cookie, Fsid, Ino, Lease, Listing, NewNode, Place, RemoveKind, RenameMode, SetAttr, Vfs, XattrMode,
        XattrName, ext,
    },
};

use crate::{
    budget::Budget,
    names::{self, WORK},
    record::{ATTRIBUTE, Record},
};

/// Entries asked for at once.
const PAGE_COUNT: usize = 1024;
/// How much is copied by one call where blocks are shared, and where they cannot be, in bytes.
const SHARED_LEN: u64 = 256 << 20;
const COPIED_LEN: u32 = 1 << 20;
/// The permission bits of what is new, and of what nobody else is to look at.
const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;
const PRIVATE_MODE: u32 = 0o700;

/// A node with a lease.
#[derive(Debug, Clone)]
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

    pub(crate) fn is_file(&self) -> bool {
        self.attr.kind == FileKind::File
    }
}

/// All that is served, as its caller may change it.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) sync_names_except: Vec<Fsid>,
    pub(crate) ordered: Vec<Fsid>,
    pub(crate) budget: Budget,
    pub(crate) env: Env,
}

impl Tree {
    pub(crate) fn adopt(&self, attr: Attr) -> Node {
        Node { lease: Lease::adopt(self.vfs.clone(), attr.ino), attr }
    }

    /// The node at a path.
    pub(crate) async fn find(&self, path: &[Name]) -> Result<Node> {
        let (lease, attr) = ext::walk(&self.vfs, self.vfs.root(), path).await?;
        Ok(Node { lease, attr })
    }

    /// The node of a name; `None` if there is none, or if `dir` is no directory.
    pub(crate) async fn child(&self, dir: Ino, name: &Name) -> Result<Option<Node>> {
        match self.vfs.lookup(dir, name).await {
            Ok(attr) => Ok(Some(self.adopt(attr))),
            Err(absent) if matches!(absent.kind(), ErrorKind::NotFound | ErrorKind::NotDir) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// The directory that these names lead to, of directories alone.
    pub(crate) async fn dirs(&self, from: &Node, path: &[Name]) -> Result<Option<Vec<Node>>> {
        let mut chain = vec![from.clone()];
        for name in path {
            let at = chain.last().map_or(from, |node| node);
            match self.child(at.ino(), name).await? {
                Some(node) if node.is_dir() => chain.push(node),
                _ => return Ok(None),
            }
        }
        Ok(Some(chain))
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

    /// All entries of a directory that this frontend keeps small.
    pub(crate) async fn entries(&self, dir: Ino) -> Result<Vec<(Name, Node)>> {
        let (mut all, mut after) = (Vec::new(), Some(Cookie::START));
        while let Some(cookie) = after {
            let (entries, next) = self.page(dir, cookie).await?;
            all.extend(entries);
            after = next;
        }
        Ok(all)
    }

    // ---- records

    /// The record of a node; an empty one where there is none, or none that can be read.
    pub(crate) async fn record(&self, ino: Ino) -> Result<Record> {
        match self.vfs.getxattr(ino, &attribute()).await {
            Ok(bytes) => Ok(Record::parse(&bytes)),
            Err(none) if matches!(none.kind(), ErrorKind::NoAttr | ErrorKind::Unsupported) => Ok(Record::default()),
            Err(other) => Err(other),
        }
    }

    pub(crate) async fn set_record(&self, ino: Ino, record: &Record) -> Result<()> {
        let bytes =
            serde_json::to_vec(record).map_err(|error| Error::new(ErrorKind::Internal, "s3.record").because(error))?;
        self.vfs.setxattr(ino, &attribute(), Bytes::from(bytes), XattrMode::Set).await.map(drop)
    }

    // ---- durability

    pub(crate) async fn sync_node(&self, ino: Ino) -> Result<()> {
        self.vfs.sync_inode(ino).await
    }

    /// Makes the names of a directory durable, if that is promised of its file system.
    pub(crate) async fn sync_names(&self, dir: &Node) -> Result<()> {
        if self.sync_names_except.contains(&dir.attr.fsid) { Ok(()) } else { self.sync_node(dir.ino()).await }
    }

    /// Whether a crash that keeps what is done next keeps what was done before, and the names are made durable after it all.
    fn is_ordered(&self, fsid: Fsid) -> bool {
        self.ordered.contains(&fsid) && !self.sync_names_except.contains(&fsid)
    }

    /// Sees to it that a node is durable before what is done next, and is made durable at its end.
    pub(crate) async fn order_node(&self, node: &Node) -> Result<()> {
        if self.is_ordered(node.attr.fsid) { Ok(()) } else { self.sync_node(node.ino()).await }
    }

    /// The same of the names of a directory.
    pub(crate) async fn order_names(&self, dir: &Node) -> Result<()> {
        if self.is_ordered(dir.attr.fsid) { Ok(()) } else { self.sync_names(dir).await }
    }

    // ---- what is new

    /// A name that nobody else picks, of letters and digits.
    pub(crate) fn unique(&self) -> String {
        self.env.random_id()
    }

    /// A directory of ours, made where it is not there.
    pub(crate) async fn own_dir(&self, dir: &Node, text: &str) -> Result<Node> {
        let name = names::own(text);
        loop {
            if let Some(there) = self.child(dir.ino(), &name).await? {
                return Ok(there);
            }
            let set = SetAttr { mode: Some(PRIVATE_MODE), ..SetAttr::default() };
            match self.vfs.create(dir.ino(), &name, NewNode::Dir, set).await {
                Ok(made) => {
                    let made = self.adopt(made.node);
                    self.order_names(dir).await?;
                    return Ok(made);
                }
                Err(taken) if taken.kind() == ErrorKind::Exists => {}
                Err(other) => return Err(other),
            }
        }
    }

    /// A directory with a record in a directory of ours: it has its record from the moment it has its name. `false` where
    /// the name is taken.
    pub(crate) async fn own_dir_with(&self, bucket: &Node, at: &Node, name: &Name, record: &Record) -> Result<bool> {
        let work = self.own_dir(bucket, WORK).await?;
        let temporary = names::own(&self.unique());
        let set = SetAttr { mode: Some(PRIVATE_MODE), ..SetAttr::default() };
        let made = self.adopt(self.vfs.create(work.ino(), &temporary, NewNode::Dir, set).await?.node);
        let moved = async {
            self.set_record(made.ino(), record).await?;
            self.order_node(&made).await?;
            self.rename((&work, &temporary), (at, name), None, RenameMode::NoReplace).await?;
            self.order_names(at).await
        };
        match moved.await {
            Ok(()) => Ok(true),
            Err(failure) => {
                self.remove_all(&work, &temporary, made).await.ok();
                if failure.kind() == ErrorKind::Exists { Ok(false) } else { Err(failure) }
            }
        }
    }

    /// A new file in the bucket's work directory, which nobody asks for.
    pub(crate) async fn work_file(&self, bucket: &Node) -> Result<Work> {
        let dir = self.own_dir(bucket, WORK).await?;
        let name = names::own(&self.unique());
        let set = SetAttr { mode: Some(FILE_MODE), ..SetAttr::default() };
        let file = self.vfs.create(dir.ino(), &name, NewNode::File, set).await?;
        Ok(Work { file: self.adopt(file.node), dir, name })
    }

    /// Removes a file of work that came to nothing, where something failed already that is told.
    pub(crate) async fn discard(&self, work: &Work) {
        if let Err(error) = self.remove(&work.dir, &work.name, None, RemoveKind::NonDir).await
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(error = format!("{error:#}"), "S3: what was cut off stays until the next start");
        }
    }

    /// The last of these directories below `from`, each made that is not there; `None` where something else is in the way.
    pub(crate) async fn make_dirs(&self, from: &Node, path: &[Name]) -> Result<Option<Node>> {
        let mut at = from.clone();
        for name in path {
            at = loop {
                match self.child(at.ino(), name).await? {
                    Some(node) if node.is_dir() => break node,
                    Some(_) => return Ok(None),
                    None => {}
                }
                let set = SetAttr { mode: Some(DIR_MODE), ..SetAttr::default() };
                match self.vfs.create(at.ino(), name, NewNode::Dir, set).await {
                    Ok(made) => {
                        let made = self.adopt(made.node);
                        self.set_record(made.ino(), &Record { is_made: true, ..Record::default() }).await?;
                        self.order_names(&at).await?;
                        break made;
                    }
                    Err(taken) if taken.kind() == ErrorKind::Exists => {}
                    Err(other) => return Err(other),
                }
            };
        }
        Ok(Some(at))
    }

    /// A bucket.
    pub(crate) async fn make_bucket(&self, root: &Node, name: &Name, record: &Record) -> Result<()> {
        let set = SetAttr { mode: Some(DIR_MODE), ..SetAttr::default() };
        let made = self.vfs.create(root.ino(), name, NewNode::Dir, set).await?;
        let made = self.adopt(made.node);
        self.set_record(made.ino(), record).await?;
        self.order_node(&made).await?;
        self.sync_names(root).await
    }

    /// Takes a name away, if the node is the one that it is believed to be.
    pub(crate) async fn remove(&self, dir: &Node, name: &Name, expect: Option<Ino>, kind: RemoveKind) -> Result<()> {
        self.vfs.remove(Place { dir: dir.ino(), name, expect }, kind).await.map(drop)
    }

    /// Moves a name; `mode` and `expect` say over what.
    pub(crate) async fn rename(
        &self,
        from: (&Node, &Name),
        to: (&Node, &Name),
        expect: Option<Ino>,
        mode: RenameMode,
    ) -> Result<()> {
        let from = Place { dir: from.0.ino(), name: from.1, expect: None };
        self.vfs.rename(from, Place { dir: to.0.ino(), name: to.1, expect }, mode).await.map(drop)
    }

    /// Removes what has a name: a directory with all that is in it.
    pub(crate) async fn remove_all(&self, dir: &Node, name: &Name, node: Node) -> Result<()> {
        if !node.is_dir() {
            return self.remove(dir, name, None, RemoveKind::NonDir).await;
        }
        self.remove_levels(dir, name, node, true).await
    }

    /// Removes a directory that has nothing but directories, at any depth.
    ///
    /// # Errors
    /// `NotEmpty` once it meets anything else: directories before it may be gone.
    pub(crate) async fn remove_dirs(&self, dir: &Node, name: &Name, node: Node) -> Result<()> {
        self.remove_levels(dir, name, node, false).await
    }

    async fn remove_levels(&self, dir: &Node, name: &Name, node: Node, with_files: bool) -> Result<()> {
        // Each level: its directory, the name and the directory it is in; taken away when it is empty.
        let mut levels = vec![(dir.clone(), name.clone(), node)];
        while let Some((above, name, node)) = levels.last().cloned() {
            let (entries, _) = self.page(node.ino(), Cookie::START).await?;
            let mut has_dirs = false;
            for (entry, child) in entries {
                if child.is_dir() {
                    levels.push((node.clone(), entry, child));
                    has_dirs = true;
                    break;
                }
                if !with_files {
                    return Err(Error::new(ErrorKind::NotEmpty, "s3.remove_dirs"));
                }
                self.remove(&node, &entry, None, RemoveKind::NonDir).await?;
            }
            if has_dirs {
                continue;
            }
            match self.remove(&above, &name, None, RemoveKind::Dir).await {
                Err(more) if more.kind() == ErrorKind::NotEmpty => {}
                removed => {
                    removed?;
                    levels.pop();
                }
            }
        }
        Ok(())
    }

    /// Copies bytes from one file to another, sharing blocks where that can be, and says how many: less than `len` only at
    /// the end of the source.
    pub(crate) async fn copy(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<u64> {
        let mut done = 0;
        while done < len {
            let (source, target) = ((from.0, from.1 + done), (to.0, to.1 + done));
            let copied = match self.vfs.copy_range(source, target, (len - done).min(SHARED_LEN)).await {
                Ok((copied, _)) => copied,
                Err(none) if matches!(none.kind(), ErrorKind::Unsupported | ErrorKind::CrossDevice) => {
                    let len = u32::try_from(len - done).unwrap_or(u32::MAX).min(COPIED_LEN);
                    let bytes = self.vfs.read(source.0, source.1, len).await?;
                    let copied = bytes.len() as u64;
                    if copied > 0 {
                        self.vfs.write(target.0, target.1, bytes, false).await?;
                    }
                    copied
                }
                Err(other) => return Err(other),
            };
            if copied == 0 {
                break;
            }
            done += copied;
        }
        Ok(done)
    }
}

/// A file that is not whole yet, and where it lies meanwhile.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) dir: Node,
    pub(crate) name: Name,
    pub(crate) file: Node,
}

fn attribute() -> XattrName {
    XattrName::new(ATTRIBUTE).expect("letters and dots")
}
