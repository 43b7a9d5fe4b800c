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
    /// Of a directory: the last layer that took away all that those below it have there, 0 where none did.
    cleared: u32,
}

impl Node {
    fn new(about: About, what: What, layer: u32) -> Self {
        Self { about, what, entries: BTreeMap::new(), layer, cleared: 0 }
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
        self.put_in(dir, name, about, what).map(drop)
    }

    /// Puts a node into a directory, as [`Tree::put`] does; its number.
    ///
    /// # Errors
    /// `TooLarge` where the tree takes too much memory.
    pub(crate) fn put_in(&mut self, dir: NodeIndex, name: &Name, about: About, what: What) -> Result<NodeIndex> {
        let layer = self.layer;
        if let Some(there) = self.node_mut(dir, &[])?.entries.get(name).copied() {
            let node = self.node_mut(there, &[])?;
            node.layer = layer;
            if (&node.what, &what) == (&What::Dir, &What::Dir) {
                node.about = about;
                return Ok(there);
            }
            self.node_mut(dir, &[])?.entries.remove(name);
            self.release(vec![(name.clone(), there)])?;
        }
        self.attach(dir, name, Node::new(about, what, layer))
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
    ///
    /// # Errors
    /// `NotDir` where something above is no directory.
    pub(crate) fn remove_below(&mut self, path: &[Name]) -> Result<()> {
        let Some(index) = self.find_below_dirs(path)? else { return Ok(()) };
        if self.node(index).is_some_and(|node| node.layer < self.layer) {
            return self.remove(path).map(drop);
        }
        self.clear_from(index).map(drop)
    }

    /// Removes what layers below this one have in a directory; how many directories were looked through for it.
    ///
    /// # Errors
    /// `NotDir` where it, or something above, is none.
    pub(crate) fn clear_below(&mut self, path: &[Name]) -> Result<usize> {
        match self.find_below_dirs(path)? {
            Some(dir) if self.node(dir).is_some_and(|node| node.what != What::Dir) => {
                refuse(ErrorKind::NotDir, path, "it is no directory")
            }
            Some(dir) => self.clear_from(dir),
            None => Ok(0),
        }
    }

    /// The node of a path all above which is directories, as far as it is there.
    fn find_below_dirs(&self, path: &[Name]) -> Result<Option<NodeIndex>> {
        let mut at = ROOT;
        for (depth, name) in path.iter().enumerate() {
            let Some(node) = self.node(at) else { return Ok(None) };
            if node.what != What::Dir {
                let above = shown(path.get(..depth).unwrap_or(path));
                return refuse(ErrorKind::NotDir, path, format!("{above} is no directory"));
            }
            let Some(below) = node.entries.get(name) else { return Ok(None) };
            at = *below;
        }
        Ok(Some(at))
    }

    /// Removes what layers below this one have in a node and below it. A directory is looked through once for each layer: what
    /// is put into it after that is of this one.
    fn clear_from(&mut self, node: NodeIndex) -> Result<usize> {
        let (layer, mut dirs, mut gone, mut count) = (self.layer, vec![node], Vec::new(), 0);
        while let Some(dir) = dirs.pop() {
            if std::mem::replace(&mut self.node_mut(dir, &[])?.cleared, layer) == layer {
                continue;
            }
            count += 1;
            let entries = std::mem::take(&mut self.node_mut(dir, &[])?.entries);
            // What is of this layer has above it what is, too.
            let is_of_layer = |index: &NodeIndex| self.node(*index).is_some_and(|node| node.layer >= layer);
            let (stay, go): (BTreeMap<_, _>, BTreeMap<_, _>) =
                entries.into_iter().partition(|(_, index)| is_of_layer(index));
            dirs.extend(stay.values());
            self.node_mut(dir, &[])?.entries = stay;
            gone.extend(go);
        }
        self.release(gone)?;
        Ok(count)
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
        let (mut dirs, mut next) = (Vec::new(), vec![DirAt { above: 0, name: None, index: ROOT }]);
        while let Some(dir) = next.pop() {
            let (above, entries) = (dirs.len(), self.node(dir.index).map(|node| &node.entries));
            dirs.push(dir);
            for (name, index) in entries.into_iter().flatten().rev() {
                if self.node(*index).is_some_and(|node| node.what == What::Dir) {
                    next.push(DirAt { above, name: Some(name), index: *index });
                }
            }
        }
        Dirs(dirs)
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

/// See [`Tree::dirs`]. Paths are put together where one is wanted: all of them can be much longer than the tree.
pub(crate) struct Dirs<'a>(Vec<DirAt<'a>>);

struct DirAt<'a> {
    /// Which of the directories it is in.
    above: usize,
    /// Of the root none.
    name: Option<&'a Name>,
    index: NodeIndex,
}

impl Dirs<'_> {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The number of the node of one, counted from 0.
    pub(crate) fn index(&self, at: usize) -> NodeIndex {
        self.0.get(at).map_or(ROOT, |dir| dir.index)
    }

    /// Its path without a slash in front, that of the root empty.
    pub(crate) fn path(&self, at: usize) -> Vec<u8> {
        let (mut parts, mut at) = (Vec::new(), at);
        while let Some(DirAt { above, name: Some(name), .. }) = self.0.get(at) {
            parts.push(name.as_bytes());
            at = *above;
        }
        parts.reverse();
        parts.join(&b'/')
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
        let dirs = tree.dirs();
        let names = |at: usize| {
            let dir = String::from_utf8(dirs.path(at)).expect("UTF-8");
            let node = tree.node(dirs.index(at)).expect("a directory");
            node.entries.keys().map(|name| format!("{dir}/{name}")).collect::<Vec<_>>()
        };
        (0..dirs.count()).flat_map(names).collect()
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

    /// A layer that says of a directory, or of all in it, again and again that it is opaque.
    #[test]
    fn a_directory_is_looked_through_once_for_a_layer() {
        let mut tree = Tree::default();
        let put = |tree: &mut Tree, name: &str| {
            (0..100).try_for_each(|dir| tree.put(&path(&format!("a/{dir}/{name}")), ABOUT, What::Fifo)).expect("put");
        };
        put(&mut tree, "below");
        tree.begin_layer();
        put(&mut tree, "mine");
        let mut looked = 0;
        for _ in 0..50 {
            looked += tree.clear_below(&path("a")).expect("cleared");
            for dir in 0..100 {
                looked += tree.clear_below(&path(&format!("a/{dir}"))).expect("cleared");
            }
            tree.put(&path("a/new/x"), ABOUT, What::Fifo).expect("put");
        }
        // Those there are, and what is in them.
        assert!(looked <= 300, "{looked} directories were looked through");
        assert_eq!(tree.count(), 1 + 1 + 200 + 2, "what is of this layer stays");
    }

    #[test]
    fn nothing_is_taken_away_through_what_is_no_directory() {
        let mut tree = Tree::default();
        tree.put(&path("link"), ABOUT, What::Symlink(Bytes::from_static(b"dir"))).expect("put");
        tree.put(&path("dir/x"), ABOUT, What::Fifo).expect("put");
        tree.begin_layer();
        assert_eq!(tree.remove_below(&path("link/x")).expect_err("a symlink").kind(), ErrorKind::NotDir);
        assert_eq!(tree.clear_below(&path("link")).expect_err("a symlink").kind(), ErrorKind::NotDir);
        assert_eq!(tree.clear_below(&path("dir/x")).expect_err("a pipe").kind(), ErrorKind::NotDir);
        tree.remove_below(&path("absent/x")).expect("nothing is there");
        tree.remove_below(&path("link")).expect("the symlink itself");
        assert_eq!(tree.count(), 3);
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
