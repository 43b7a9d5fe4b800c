//! The tree that an flist is made of, in memory: names, what is known of each node, and the chunks of the files.
//!
//! Whoever fills it names nodes by their path, in any order, as archives have them. Nothing of it is followed: a symlink is
//! a leaf, so no name leads out of the tree or somewhere else in it. What it may take is bounded: who makes an flist of
//! somebody else's archive does not choose how much memory that takes.

use std::collections::BTreeMap;

use bytes::Bytes;
use muxfs::{Error, ErrorKind, Name, Result, vfs::Rdev};

use crate::{chunk::Chunk, flist::DEPTH_MAX};

/// What a tree may take in memory, in bytes: some four million nodes, or 8 TB of chunks.
pub const TREE_LEN_MAX: usize = 1 << 30;
/// What a node takes beside its name and its target, about.
const NODE_LEN: usize = 256;
const OP: &str = "flist.tree";

/// What is known of a node beside what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// The twelve permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When its content changed, in seconds since 1970.
    pub mtime: u64,
}

impl About {
    /// Of a directory that nothing is said of but what is in it.
    pub const UNSAID_DIR: Self = Self { mode: 0o755, uid: 0, gid: 0, mtime: 0 };
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A directory.
    Dir,
    /// A file of so many bytes, and which content of the tree.
    File {
        /// Its length in bytes.
        len: u64,
        /// From [`Making::content`](super::Making::content).
        content: ContentId,
    },
    /// A symlink, and where it leads.
    Symlink(Bytes),
    /// A pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice(Rdev),
    /// A block device.
    BlockDevice(Rdev),
}

/// The content of a file of a tree; two files may have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentId(pub(crate) usize);

/// The chunks of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    /// How long each is but the last, in bytes.
    pub(crate) chunk_len: usize,
    pub(crate) chunks: Vec<Chunk>,
}

/// The number of a node.
pub(crate) type NodeIndex = usize;
/// That of the root.
pub(crate) const ROOT: NodeIndex = 0;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) about: About,
    pub(crate) what: What,
    /// Of a directory.
    pub(crate) entries: BTreeMap<Name, NodeIndex>,
    /// The last layer that put it or something in it.
    layer: u32,
}

impl Node {
    fn new(about: About, what: What, layer: u32) -> Self {
        Self { about, what, entries: BTreeMap::new(), layer }
    }
}

/// A tree that is being filled.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    /// Nodes that are in no directory any more.
    free: Vec<NodeIndex>,
    pub(crate) contents: Vec<Content>,
    layer: u32,
    len: usize,
    len_max: usize,
}

impl Default for Tree {
    fn default() -> Self {
        Self::within(TREE_LEN_MAX)
    }
}

fn refuse<T>(kind: ErrorKind, path: &[Name], why: impl Into<String>) -> Result<T> {
    Err(Error::new(kind, OP).at(shown(path)).because(why.into()))
}

/// A path as errors have it.
pub(crate) fn shown(path: &[Name]) -> String {
    let parts: Vec<_> = path.iter().map(|name| name.as_bytes().escape_ascii().to_string()).collect();
    format!("/{}", parts.join("/"))
}

impl Tree {
    /// An empty tree that may take so many bytes of memory.
    pub(crate) fn within(len_max: usize) -> Self {
        let root = Node::new(About::UNSAID_DIR, What::Dir, 0);
        Self { nodes: vec![root], free: Vec::new(), contents: Vec::new(), layer: 0, len: NODE_LEN, len_max }
    }

    /// Counts what is about to be taken.
    ///
    /// # Errors
    /// `TooLarge`.
    pub(crate) fn take(&mut self, len: usize) -> Result<()> {
        self.len = self.len.saturating_add(len);
        if self.len > self.len_max {
            let why = format!("the tree takes more than {} bytes of memory", self.len_max);
            return Err(Error::new(ErrorKind::TooLarge, OP).because(why));
        }
        Ok(())
    }

    pub(crate) fn node(&self, index: NodeIndex) -> Option<&Node> {
        self.nodes.get(index)
    }

    fn node_mut(&mut self, index: NodeIndex, path: &[Name]) -> Result<&mut Node> {
        let gone = || Error::new(ErrorKind::Internal, OP).at(shown(path)).because("the node is gone");
        self.nodes.get_mut(index).ok_or_else(gone)
    }

    /// A content with no chunk yet.
    pub(crate) fn new_content(&mut self, chunk_len: usize) -> ContentId {
        self.contents.push(Content { chunk_len, chunks: Vec::new() });
        ContentId(self.contents.len() - 1)
    }

    pub(crate) fn content(&self, id: ContentId) -> Option<&Content> {
        self.contents.get(id.0)
    }

    /// The node of a path; no symlink is followed.
    pub(crate) fn find(&self, path: &[Name]) -> Option<NodeIndex> {
        path.iter().try_fold(ROOT, |at, name| self.nodes.get(at)?.entries.get(name).copied())
    }

    /// What is at a path.
    pub fn get(&self, path: &[Name]) -> Option<(&About, &What)> {
        let node = self.node(self.find(path)?)?;
        Some((&node.about, &node.what))
    }

    /// Puts a node at a path, in directories that are made where there are none. What was there goes, but for what is in
    /// a directory that becomes another one.
    ///
    /// # Errors
    /// `NotDir` where something above is no directory, and of the root where it is to be none; `TooLarge` where it is more
    /// than [`DEPTH_MAX`] directories deep, or the tree takes too much memory.
    pub fn put(&mut self, path: &[Name], about: About, what: What) -> Result<()> {
        if path.len() > DEPTH_MAX {
            return refuse(ErrorKind::TooLarge, path, format!("it is more than {DEPTH_MAX} directories deep"));
        }
        let Some((name, above)) = path.split_last() else {
            if what != What::Dir {
                return refuse(ErrorKind::NotDir, path, "the root is a directory");
            }
            self.node_mut(ROOT, path)?.about = about;
            return Ok(());
        };
        let mut dir = ROOT;
        for (depth, name) in above.iter().enumerate() {
            dir = match self.node_mut(dir, path)?.entries.get(name).copied() {
                Some(there) => there,
                None => self.attach(dir, name, Node::new(About::UNSAID_DIR, What::Dir, self.layer))?,
            };
            let layer = self.layer;
            let node = self.node_mut(dir, path)?;
            node.layer = layer;
            if node.what != What::Dir {
                let at = shown(path.get(..=depth).unwrap_or(path));
                return refuse(ErrorKind::NotDir, path, format!("{at} is no directory"));
            }
        }
        if let Some(there) = self.node_mut(dir, path)?.entries.get(name).copied() {
            let layer = self.layer;
            let node = self.node_mut(there, path)?;
            node.layer = layer;
            if (&node.what, &what) == (&What::Dir, &What::Dir) {
                node.about = about;
                return Ok(());
            }
            self.remove(path)?;
        }
        self.attach(dir, name, Node::new(about, what, self.layer)).map(drop)
    }

    fn attach(&mut self, dir: NodeIndex, name: &Name, node: Node) -> Result<NodeIndex> {
        self.take(weight(name, &node))?;
        let index = if let Some(index) = self.free.pop() {
            *self.node_mut(index, &[])? = node;
            index
        } else {
            self.nodes.push(node);
            self.nodes.len() - 1
        };
        self.node_mut(dir, &[])?.entries.insert(name.clone(), index);
        Ok(index)
    }

    /// Changes what is known of what is at a path.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn set_about(&mut self, path: &[Name], change: impl FnOnce(&mut About)) -> Result<()> {
        let Some(index) = self.find(path) else { return refuse(ErrorKind::NotFound, path, "it is not there") };
        change(&mut self.node_mut(index, path)?.about);
        Ok(())
    }

    /// Removes what is at a path, and all below it; whether anything was there. Of the root it removes what is in it.
    ///
    /// # Errors
    /// `Internal`.
    pub fn remove(&mut self, path: &[Name]) -> Result<bool> {
        let Some((name, above)) = path.split_last() else {
            self.clear(path)?;
            return Ok(true);
        };
        let Some(dir) = self.find(above) else { return Ok(false) };
        let Some(index) = self.node_mut(dir, path)?.entries.remove(name) else { return Ok(false) };
        self.release(vec![(name.clone(), index)])?;
        Ok(true)
    }

    /// Removes all that is in a directory.
    ///
    /// # Errors
    /// `Internal`.
    pub fn clear(&mut self, path: &[Name]) -> Result<()> {
        let Some(dir) = self.find(path) else { return Ok(()) };
        let below = std::mem::take(&mut self.node_mut(dir, path)?.entries);
        self.release(below.into_iter().collect())
    }

    /// Begins another layer: [`Tree::remove_below`] and [`Tree::clear_below`] spare what is put from now on.
    pub(crate) fn begin_layer(&mut self) {
        self.layer = self.layer.saturating_add(1);
    }

    /// Removes what layers below this one have at a path.
    pub(crate) fn remove_below(&mut self, path: &[Name]) -> Result<()> {
        let Some(index) = self.find(path) else { return Ok(()) };
        if self.node(index).is_some_and(|node| node.layer < self.layer) {
            return self.remove(path).map(drop);
        }
        self.clear_below(path)
    }

    /// Removes what layers below this one have in a directory.
    pub(crate) fn clear_below(&mut self, path: &[Name]) -> Result<()> {
        let Some(dir) = self.find(path) else { return Ok(()) };
        let (mut dirs, mut gone) = (vec![dir], Vec::new());
        while let Some(dir) = dirs.pop() {
            let entries: Vec<_> =
                self.node_mut(dir, path)?.entries.iter().map(|(name, index)| (name.clone(), *index)).collect();
            for (name, index) in entries {
                // What is of this layer has above it what is, too.
                if self.node_mut(index, path)?.layer < self.layer {
                    self.node_mut(dir, path)?.entries.remove(&name);
                    gone.push((name, index));
                } else {
                    dirs.push(index);
                }
            }
        }
        self.release(gone)
    }

    fn release(&mut self, mut gone: Vec<(Name, NodeIndex)>) -> Result<()> {
        while let Some((name, index)) = gone.pop() {
            let node = self.node_mut(index, &[])?;
            let freed = weight(&name, node);
            gone.extend(std::mem::take(&mut node.entries));
            self.len = self.len.saturating_sub(freed);
            self.free.push(index);
        }
        Ok(())
    }

    /// The directories, each before those in it and by name.
    pub(crate) fn dirs(&self) -> Dirs<'_> {
        Dirs { tree: self, next: vec![(Vec::new(), ROOT)] }
    }

    /// One more than the highest number of a node.
    pub(crate) fn slots(&self) -> usize {
        self.nodes.len()
    }

    /// How many nodes there are, with the root.
    pub fn count(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}

fn weight(name: &Name, node: &Node) -> usize {
    let target = if let What::Symlink(target) = &node.what { target.len() } else { 0 };
    NODE_LEN + name.as_bytes().len() + target
}

/// See [`Tree::dirs`].
pub(crate) struct Dirs<'a> {
    tree: &'a Tree,
    next: Vec<(Vec<u8>, NodeIndex)>,
}

impl<'a> Iterator for Dirs<'a> {
    /// The path of a directory without a slash in front, its number, and the node.
    type Item = (Vec<u8>, NodeIndex, &'a Node);

    fn next(&mut self) -> Option<Self::Item> {
        let (path, index) = self.next.pop()?;
        let node = self.tree.node(index)?;
        for (name, below) in node.entries.iter().rev() {
            if self.tree.node(*below).is_some_and(|below| below.what == What::Dir) {
                let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                self.next.push(([&path, slash, name.as_bytes()].concat(), *below));
            }
        }
        Some((path, index, node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<Name> {
        text.split('/')
            .filter(|part| !part.is_empty())
            .map(|part| Name::new(part.as_bytes()).expect("a name"))
            .collect()
    }

    const ABOUT: About = About { mode: 0o644, uid: 1, gid: 2, mtime: 3 };

    fn paths(tree: &Tree) -> Vec<String> {
        let names = |(path, _, node): (Vec<u8>, _, &Node)| {
            let dir = String::from_utf8(path).expect("UTF-8");
            node.entries.keys().map(|name| format!("{dir}/{name}")).collect::<Vec<_>>()
        };
        tree.dirs().flat_map(names).collect()
    }

    #[test]
    fn nodes_are_put_in_any_order_and_found_by_name() {
        let mut tree = Tree::default();
        tree.put(&path("b/c/file"), ABOUT, What::Fifo).expect("put");
        tree.put(&path("a"), ABOUT, What::Socket).expect("put");
        tree.put(&path("b"), ABOUT, What::Dir).expect("it keeps what is in it");
        tree.put(&path(""), ABOUT, What::Dir).expect("the root");
        assert_eq!(paths(&tree), ["/a", "/b", "b/c", "b/c/file"]);
        assert_eq!(tree.get(&path("b")), Some((&ABOUT, &What::Dir)));
        assert_eq!(tree.get(&path("b/c")), Some((&About::UNSAID_DIR, &What::Dir)));
        tree.put(&path("b"), ABOUT, What::Fifo).expect("what was in it goes");
        assert_eq!(paths(&tree), ["/a", "/b"]);
        assert!(tree.remove(&path("b")).expect("good") && !tree.remove(&path("b")).expect("good"));
        assert_eq!(tree.count(), 2);
    }

    /// A symlink that an archive makes, and a name below it.
    #[test]
    fn nothing_is_put_through_what_is_no_directory() {
        let mut tree = Tree::default();
        tree.put(&path("link"), ABOUT, What::Symlink(Bytes::from_static(b"/etc"))).expect("put");
        let error = tree.put(&path("link/passwd"), ABOUT, What::Fifo).expect_err("no directory");
        assert_eq!(error.kind(), ErrorKind::NotDir);
        assert_eq!(tree.put(&[], ABOUT, What::Fifo).expect_err("the root").kind(), ErrorKind::NotDir);
        let deep = vec![Name::new(b"x").expect("a name"); DEPTH_MAX + 1];
        assert_eq!(tree.put(&deep, ABOUT, What::Dir).expect_err("too deep").kind(), ErrorKind::TooLarge);
    }

    /// What goes makes room again; what is added beyond what there is room for is refused.
    #[test]
    fn a_tree_takes_so_much_memory_and_no_more() {
        let mut tree = Tree::within(100 * NODE_LEN);
        for _ in 0..1000 {
            tree.put(&path("a/b/c"), ABOUT, What::Fifo).expect("there is room");
            tree.remove(&path("a")).expect("good");
        }
        let put = (0..1000).try_for_each(|at| tree.put(&path(&format!("{at}")), ABOUT, What::Fifo));
        assert_eq!(put.expect_err("no room").kind(), ErrorKind::TooLarge);
        assert!(tree.count() < 101, "{}", tree.count());
    }
}
