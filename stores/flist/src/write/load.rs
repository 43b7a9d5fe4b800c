//! An flist that is there, as a tree: to change it, and to write it again.

use std::time::SystemTime;

use bytes::Bytes;
use muxfs::{Error, ErrorKind, FileKind, Name, Result};

use super::{
    Facts, Tree, What,
    tree::{About, Content, NodeIndex, shown},
};
use crate::{DEPTH_MAX, Entry, Flist, Format, Inode};

/// Chunks that are read at a time.
const CHUNKS_AT_ONCE: usize = 1 << 16;
const OP: &str = "flist.load";

fn about(inode: &Inode) -> About {
    let mtime = inode.mtime.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    About { mode: inode.mode, uid: inode.uid, gid: inode.gid, mtime }
}

impl Facts {
    /// What an flist says of itself. A `backend` of an `.flist` that means no source is kept as it stands, so that it can be changed.
    ///
    /// # Errors
    /// Those of [`Flist::metadata`] and [`Flist::routes`].
    pub fn of(flist: &Flist) -> Result<Self> {
        let routes = match (flist.format(), flist.routes()) {
            (Format::Flist, Err(error)) if error.kind() == ErrorKind::Corrupt => Vec::new(),
            (_, routes) => routes?,
        };
        let mut facts = Self { metadata: Vec::new(), routes };
        for (key, value) in flist.metadata()? {
            facts.set(&key, &value);
        }
        Ok(facts)
    }
}

impl Tree {
    /// The tree of an flist, with the chunks of its files. None of them is fetched.
    ///
    /// # Errors
    /// `Corrupt` as of reading it; `TooLarge` as of [`Tree::put`].
    pub fn of(flist: &Flist) -> Result<Self> {
        let mut tree = Self::default();
        tree.add(flist)?;
        Ok(tree)
    }

    /// Puts what an flist has over what is there: where both have a name, that of the flist counts, but directories are
    /// one.
    ///
    /// # Errors
    /// Those of [`Tree::of`].
    pub fn add(&mut self, flist: &Flist) -> Result<()> {
        let root = flist.root()?;
        self.add_at(&[], about(&root), flist, &root)
    }

    /// Puts a node of an flist, of which `known` is known, at a path, with all that is below it. No chunk is fetched.
    ///
    /// # Errors
    /// Those of [`Tree::of`].
    pub(crate) fn add_at(&mut self, at: &[Name], known: About, flist: &Flist, inode: &Inode) -> Result<()> {
        let what = self.what(flist, inode).map_err(|error| error.at(shown(at)))?;
        self.put(at, known, what)?;
        let Some(top) = self.find(at).filter(|_| inode.kind == FileKind::Dir) else { return Ok(()) };
        // One path, and of each directory that waits where in the tree it is: all paths can be much longer than the flist.
        let mut path: Vec<Name> = at.to_vec();
        let mut dirs: Vec<(Option<Name>, usize, NodeIndex, Inode)> =
            vec![(at.last().cloned(), at.len(), top, inode.clone())];
        while let Some((name, depth, at, dir)) = dirs.pop() {
            path.truncate(depth.saturating_sub(1));
            path.extend(name);
            if depth > DEPTH_MAX {
                let why = format!("it is more than {DEPTH_MAX} directories deep");
                return Err(Error::new(ErrorKind::Corrupt, OP).because(why));
            }
            for Entry { name, inode } in flist.dir(&dir)?.entries {
                let named = |error: Error| error.at(shown(&[&path[..], std::slice::from_ref(&name)].concat()));
                let what = self.what(flist, &inode).map_err(named)?;
                let below = self.put_in(at, &name, about(&inode), what).map_err(named)?;
                if inode.kind == FileKind::Dir {
                    dirs.push((Some(name), depth + 1, below, inode));
                }
            }
        }
        Ok(())
    }

    fn what(&mut self, flist: &Flist, inode: &Inode) -> Result<What> {
        Ok(match inode.kind {
            FileKind::Dir => What::Dir,
            FileKind::Symlink => What::Symlink(Bytes::clone(&inode.target)),
            FileKind::Fifo => What::Fifo,
            FileKind::Socket => What::Socket,
            FileKind::CharDevice => What::CharDevice(inode.rdev),
            FileKind::BlockDevice => What::BlockDevice(inode.rdev),
            FileKind::File => {
                let (mut chunks, mut chunk_len) = (Vec::new(), 0);
                loop {
                    let (len, more) = flist.chunks(inode.id, chunks.len() as u64, CHUNKS_AT_ONCE)?;
                    chunk_len = usize::try_from(len).unwrap_or(usize::MAX).max(chunk_len);
                    let count = more.len();
                    self.take(std::mem::size_of_val(&more[..]))?;
                    chunks.extend(more);
                    if count < CHUNKS_AT_ONCE {
                        break;
                    }
                }
                let content = self.new_content(chunk_len);
                if let Some(place) = self.contents.get_mut(content.0) {
                    *place = Content { chunk_len, chunks };
                }
                What::File { len: inode.size, content }
            }
        })
    }
}
