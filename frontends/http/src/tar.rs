//! Content as a TAR, as it comes.
//!
//! The directories are walked twice, first to see that every member has a place below the root, so that an archive which
//! would write elsewhere is refused before its first byte; then to send it. Of a few blocks others can make as many members
//! as they like, and directories that list one name as often as they like: each entry that is read counts, and each part of
//! its path. Spec: spec/http.md #tar.

use std::vec;

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use muxfs::{
    Cid, Error, ErrorKind, FileKind, Result,
    dag::{
        Dag, Node,
        pb::PbNode,
        unixfs::{UnixfsData, UnixfsType},
    },
};

use crate::ustar::{END, Header, padding};

/// The most entries that are read for an archive, those of a name that is there twice included.
const ENTRY_COUNT_MAX: usize = 100_000;
/// The most parts that their paths have together: what a walk holds at most is as many times 32 bytes, and their bytes.
const PART_COUNT_MAX: usize = 1 << 20;
/// The deepest a member may lie: as deep as a path of ours.
const DEPTH_MAX: usize = 256;
/// The longest name of a member.
const NAME_LEN_MAX: usize = 4096;

/// The archive of what `root` is, its members below a name that is the root's CID.
///
/// # Errors
/// `InvalidArgument` where a member would lie outside, or could be led there; `Unsupported` past the limits; those of
/// reading the directories. Its items', as [`Dag::read_at`].
pub(crate) async fn stream(dag: &Dag, root: &Cid) -> Result<BoxStream<'static, Result<Bytes>>> {
    let lease = dag.lease(root);
    check(dag, root).await?;
    let walk = Walk::new(dag, root);
    let members = stream::try_unfold(walk, |mut walk| async move {
        let member = walk.next().await?;
        Ok::<_, Error>(member.map(|member| (member, walk)))
    });
    let dag = dag.clone();
    let bytes = members.map_ok(move |member| member.stream(&dag)).try_flatten();
    let end = stream::once(async { Ok(END) });
    let bytes = bytes.chain(end).map(move |piece| {
        // Held for as long as anything is read.
        let _ = &lease;
        piece
    });
    Ok(bytes.boxed())
}

/// Looks at every member.
async fn check(dag: &Dag, root: &Cid) -> Result<()> {
    let mut walk = Walk::new(dag, root);
    let (mut has_symlink, mut has_odd_name) = (false, false);
    while let Some(member) = walk.next().await? {
        has_symlink |= member.node.kind == FileKind::Symlink;
        has_odd_name |= member.is_odd;
    }
    // A member that is named by a way could be written through a link that an earlier member is.
    if has_symlink && has_odd_name {
        return Err(refuse("names that are ways, and symlinks, cannot stand in one archive"));
    }
    Ok(())
}

fn too_large(why: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, "http.tar").because(why)
}

fn refuse(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, "http.tar").because(why)
}

/// What becomes a member.
#[derive(Debug)]
struct Member {
    /// The parts of its name, the root's first.
    path: Vec<Bytes>,
    cid: Cid,
    node: Node,
    /// The target of a symlink.
    target: Bytes,
    /// Whether the name of it, or of what it lies in, is no name but a way.
    is_odd: bool,
}

/// A walk through directories, each before what is in it.
#[derive(Debug)]
struct Walk {
    dag: Dag,
    /// From the root to where it is: what is yet to come of each directory.
    open: Vec<vec::IntoIter<Child>>,
    /// How many entries were read, and how many parts their paths have together.
    entry_count: usize,
    part_count: usize,
}

/// An entry of a directory.
#[derive(Debug)]
struct Child {
    path: Vec<Bytes>,
    cid: Cid,
    is_odd: bool,
}

impl Walk {
    fn new(dag: &Dag, root: &Cid) -> Self {
        let root = Child { path: vec![root.to_string().into()], cid: *root, is_odd: false };
        Self { dag: dag.clone(), open: vec![vec![root].into_iter()], entry_count: 0, part_count: 0 }
    }

    async fn next(&mut self) -> Result<Option<Member>> {
        while let Some(dir) = self.open.last_mut() {
            let Some(child) = dir.next() else {
                self.open.pop();
                continue;
            };
            let Child { path, cid, is_odd } = child;
            // What is in memory is never waited for: others have their turn all the same.
            tokio::task::coop::consume_budget().await;
            let node = self.dag.stat(&cid).await?;
            let target = match node.kind {
                FileKind::Symlink => self.dag.read_symlink(&cid).await?,
                _ => Bytes::new(),
            };
            if node.kind == FileKind::Dir {
                let children = self.children(&path, &cid, is_odd).await?;
                self.open.push(children.into_iter());
            }
            return Ok(Some(Member { path, cid, node, target, is_odd }));
        }
        Ok(None)
    }

    /// What is in a directory, by name; of a name that is there twice, the first.
    async fn children(&mut self, dir: &[Bytes], cid: &Cid, is_odd: bool) -> Result<Vec<Child>> {
        let Self { dag, entry_count, part_count, .. } = self;
        let mut children = Vec::new();
        let mut push = |name: &[u8], cid: Cid| {
            let (path, is_way) = below(dir, name)?;
            *entry_count += 1;
            *part_count += path.len();
            children.push(Child { path, cid, is_odd: is_odd || is_way });
            if *entry_count > ENTRY_COUNT_MAX {
                return Err(too_large("an archive has at most 100,000 members"));
            }
            if *part_count > PART_COUNT_MAX {
                return Err(too_large("the paths of the members have too many parts"));
            }
            Ok(())
        };
        let node = PbNode::decode(&dag.get_block(cid).await?)?;
        let is_basic = node
            .data
            .is_some_and(|data| UnixfsData::decode(&data).is_ok_and(|message| message.kind == UnixfsType::Directory));
        if is_basic {
            // As it stands there: names that no file can have are ways, and show in lists nowhere.
            for link in &node.links {
                push(link.name.as_deref().unwrap_or_default(), link.cid)?;
            }
        } else {
            let mut entries = dag.list(cid, 0);
            while let Some(entry) = entries.try_next().await? {
                push(entry.name.as_bytes(), entry.link.cid)?;
            }
        }
        children.sort_by(|a, b| a.path.cmp(&b.path));
        children.dedup_by(|second, first| second.path == first.path);
        Ok(children)
    }
}

/// Where a name leads from a directory, and whether it is a way rather than a name.
fn below(dir: &[Bytes], name: &[u8]) -> Result<(Vec<Bytes>, bool)> {
    let mut path = dir.to_vec();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                path.pop();
            }
            part if part.contains(&0) => return Err(refuse("a name holds NUL")),
            part => path.push(Bytes::copy_from_slice(part)),
        }
        // The root's own name is no way to leave it by and come back.
        if path.is_empty() {
            return Err(refuse("a name leads out of the archive"));
        }
    }
    let len: usize = path.iter().map(|part| part.len() + 1).sum();
    if path.len() > DEPTH_MAX || len > NAME_LEN_MAX {
        return Err(too_large("a name is too long, or too deep"));
    }
    let is_way = path.len() != dir.len() + 1 || path.last().is_none_or(|last| last != name);
    if dir.starts_with(&path) {
        return Err(refuse("a name leads to the directory that it is in"));
    }
    Ok((path, is_way))
}

impl Member {
    /// Its header, its content, and zeros up to a whole record.
    fn stream(self, dag: &Dag) -> BoxStream<'static, Result<Bytes>> {
        let header = stream::iter([Ok(self.header().into())]);
        let size = self.node.size;
        if self.node.kind != FileKind::File || size == 0 {
            return header.boxed();
        }
        header.chain(dag.range_reader(&self.cid, 0..size)).chain(stream::iter(padding(size).map(Ok))).boxed()
    }

    fn header(&self) -> Vec<u8> {
        let header = Header {
            path: self.path.join(&b'/'),
            kind: self.node.kind,
            size: self.node.size,
            mode: self.node.mode,
            mtime: self.node.mtime,
            target: self.target.clone(),
        };
        header.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_stay_below_the_root() {
        let dir = [Bytes::from_static(b"root"), Bytes::from_static(b"a")];
        let found = |name: &[u8]| below(&dir, name).ok().map(|(path, is_way)| (path.join(&b'/'), is_way));
        for (name, path) in [
            (&b"b"[..], Some((&b"root/a/b"[..], false))),
            (b"../b", Some((b"root/b", true))),
            (b"x/y", Some((b"root/a/x/y", true))),
            (b"./b", Some((b"root/a/b", true))),
            (b"/b", Some((b"root/a/b", true))),
            (b"", None),
            (b".", None),
            (b"..", None),
            (b"../..", None),
            (b"../../b", None),
            (b"../../root/b", None),
            (b"../../../b", None),
            (b"a\0", None),
        ] {
            assert_eq!(found(name), path.map(|(path, is_way)| (path.to_vec(), is_way)), "{}", name.escape_ascii());
        }
    }
}
