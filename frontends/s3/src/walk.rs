//! The keys of a bucket in order: of its tree, and of what lies by its hash, as one.

use muxfs::{Name, Result};

use crate::{
    names::{self, KEY_LEN_MAX, ODD, VERSIONS},
    objects::{Buckets, Object, Place},
    sorted::{Cursor, Naming, Windows, after},
    tree::{Node, Tree},
};

/// A directory that is walked through.
#[derive(Debug)]
struct Level {
    names: Cursor,
    /// What the keys in it begin with.
    prefix: String,
    /// Whether the directory itself is looked at first: it may be an object.
    is_new: bool,
}

/// Something that a walk meets.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one is held of each place that is walked through")]
pub(crate) enum Met {
    /// A key and where it lies.
    Key(String, Spot),
    /// A directory with an object at or below it, where those are passed by.
    Dir(String),
}

/// Where a key lies.
#[derive(Debug, Clone)]
pub(crate) enum Spot {
    /// The file of this name.
    File(Node, Name),
    /// The directory.
    Folder(Node),
    /// Among its older versions.
    Versions,
}

impl Spot {
    fn rank(&self) -> u8 {
        u8::from(matches!(self, Self::Versions))
    }
}

/// A walk over the keys of a bucket, in order.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    buckets: &'a Buckets,
    levels: Vec<Level>,
    odd: Option<Level>,
    versions: Option<Level>,
    /// What came first of each of them and is not given yet.
    heads: [Option<Met>; 3],
    /// Directories below this prefix are passed by.
    passes: Option<String>,
}

impl<'a> Walk<'a> {
    /// Begins at the first key that is not before `lower`. With `passes`, a directory whose keys begin with that prefix is
    /// met as one. With `has_versions`, keys that have older versions are met for those, too.
    pub(crate) async fn new(
        buckets: &'a Buckets,
        bucket: &Node,
        lower: &[u8],
        passes: Option<String>,
        has_versions: bool,
    ) -> Result<Walk<'a>> {
        let mut walk =
            Self { buckets, levels: Vec::new(), odd: None, versions: None, heads: [None, None, None], passes };
        walk.descend(bucket.clone(), lower).await?;
        walk.odd = walk.by_hash(bucket, ODD, lower).await?;
        if has_versions {
            walk.versions = walk.by_hash(bucket, VERSIONS, lower).await?;
        }
        Ok(walk)
    }

    async fn by_hash(&self, bucket: &Node, own: &str, lower: &[u8]) -> Result<Option<Level>> {
        let Some(dir) = self.buckets.tree.child(bucket.ino(), &names::own(own)).await? else { return Ok(None) };
        self.level(dir, String::new(), Naming::Hashes, lower, false).await.map(Some)
    }

    async fn level(&self, dir: Node, prefix: String, naming: Naming, lower: &[u8], is_new: bool) -> Result<Level> {
        let names = Cursor::new(self.buckets.sorted(), dir, naming, lower).await?;
        Ok(Level { names, prefix, is_new })
    }

    /// Goes down by one: the directory above waits until this one ends.
    fn enter(&mut self, level: Level) {
        if let Some(above) = self.levels.last_mut() {
            above.names.rest();
        }
        self.levels.push(level);
    }

    /// Goes down to where the bound is.
    async fn descend(&mut self, bucket: Node, lower: &[u8]) -> Result<()> {
        let (mut dir, mut prefix, mut rest) = (bucket, String::new(), lower);
        loop {
            let slash = rest.iter().position(|byte| *byte == b'/');
            let part = slash.and_then(|slash| std::str::from_utf8(&rest[..slash]).ok());
            let name = part.and_then(|part| Name::new(part.as_bytes()).ok()).filter(|name| !names::is_reserved(name));
            let child = match &name {
                Some(name) => self.buckets.tree.child(dir.ino(), name).await?.filter(Node::is_dir),
                None => None,
            };
            let (Some(child), Some(part)) = (child, part) else {
                let level = self.level(dir, prefix, Naming::Parts, rest, false).await?;
                self.enter(level);
                return Ok(());
            };
            // What is at the bound and in the directory comes first, then what is after it here.
            let inside = &rest[part.len() + 1..];
            let behind = after(&rest[..=part.len()]);
            let is_first = inside.is_empty();
            let level =
                self.level(dir, prefix.clone(), Naming::Parts, if is_first { rest } else { &behind }, false).await?;
            self.enter(level);
            if is_first {
                return Ok(());
            }
            (dir, prefix, rest) = (child, format!("{prefix}{part}/"), inside);
        }
    }

    async fn next_of_tree(&mut self) -> Result<Option<Met>> {
        while let Some(level) = self.levels.last_mut() {
            if level.is_new {
                level.is_new = false;
                let dir = &level.names.dir;
                if self.buckets.tree.record(dir.ino()).await?.is_folder {
                    return Ok(Some(Met::Key(level.prefix.clone(), Spot::Folder(dir.clone()))));
                }
            }
            let Some(entry) = level.names.next(self.buckets.sorted()).await? else {
                self.levels.pop();
                continue;
            };
            let key = format!("{}{}", level.prefix, entry.key);
            let (dir, name) = (level.names.dir.clone(), entry.name()?);
            if key.len() > KEY_LEN_MAX {
                continue;
            }
            if !entry.is_dir() {
                return Ok(Some(Met::Key(key, Spot::File(dir, name))));
            }
            let Some(child) = self.buckets.tree.child(dir.ino(), &name).await?.filter(Node::is_dir) else { continue };
            if self.passes.as_ref().is_some_and(|prefix| key.starts_with(prefix) && key.len() > prefix.len()) {
                if self.has_object(&child).await? {
                    return Ok(Some(Met::Dir(key)));
                }
                continue;
            }
            let level = self.level(child, key, Naming::Parts, b"", true).await?;
            self.enter(level);
        }
        Ok(None)
    }

    /// Whether a directory is an object, or has one at any depth.
    async fn has_object(&self, dir: &Node) -> Result<bool> {
        let tree = &self.buckets.tree;
        let mut left = vec![dir.clone()];
        while let Some(dir) = left.pop() {
            if tree.record(dir.ino()).await?.is_folder {
                return Ok(true);
            }
            let mut after = Some(muxfs::vfs::Cookie::START);
            while let Some(cookie) = after {
                let (entries, next) = tree.page(dir.ino(), cookie).await?;
                for (name, node) in entries {
                    if names::is_reserved(&name) || std::str::from_utf8(name.as_bytes()).is_err() {
                        continue;
                    }
                    if node.is_file() {
                        return Ok(true);
                    }
                    if node.is_dir() {
                        left.push(node);
                    }
                }
                after = next;
            }
        }
        Ok(false)
    }

    async fn next_by_hash(&mut self, is_versions: bool) -> Result<Option<Met>> {
        let level = if is_versions { &mut self.versions } else { &mut self.odd };
        let Some(level) = level else { return Ok(None) };
        let Some(entry) = level.names.next(self.buckets.sorted()).await? else { return Ok(None) };
        let (dir, name) = (level.names.dir.clone(), entry.name()?);
        let spot = if is_versions { Spot::Versions } else { Spot::File(dir, name) };
        Ok(Some(Met::Key(entry.key.into(), spot)))
    }

    /// The next key, or directory that is passed by. A key that lies in several places is met for each.
    pub(crate) async fn next(&mut self) -> Result<Option<Met>> {
        for source in 0..self.heads.len() {
            if self.heads[source].is_none() {
                self.heads[source] = match source {
                    0 => self.next_of_tree().await?,
                    1 => self.next_by_hash(false).await?,
                    _ => self.next_by_hash(true).await?,
                };
                if self.heads[source].is_none() {
                    self.drain(source);
                }
            }
        }
        let least = (0..self.heads.len()).filter(|&source| self.heads[source].is_some()).min_by(|&one, &other| {
            let order = |source: usize| match &self.heads[source] {
                Some(Met::Key(key, spot)) => (key.clone(), spot.rank()),
                Some(Met::Dir(key)) => (key.clone(), 0),
                None => (String::new(), 0),
            };
            order(one).cmp(&order(other))
        });
        Ok(least.and_then(|source| self.heads[source].take()))
    }

    /// A source that has ended is not asked again.
    fn drain(&mut self, source: usize) {
        match source {
            0 => self.levels.clear(),
            1 => self.odd = None,
            _ => self.versions = None,
        }
    }
}

impl Buckets {
    /// What sorted names come of.
    pub(crate) fn sorted(&self) -> (&Windows, &Tree) {
        (&self.windows, &self.tree)
    }

    /// The object at a spot; `None` where it is gone by now, and for versions.
    pub(crate) async fn at(&self, spot: &Spot) -> Result<Option<Object>> {
        match spot {
            Spot::File(dir, name) => self.file(dir, name).await,
            Spot::Folder(node) => {
                let record = self.tree.record(node.ino()).await?;
                Ok(record.is_folder.then(|| Object { node: node.clone(), record, place: Place::Folder }))
            }
            Spot::Versions => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use muxfs::{
        testing::{env, model::ModelFs},
        vfs::Vfs as _,
    };

    use super::*;
    use crate::{Options, record::Record};

    /// However deep it is: what a listing is in the middle of is one window where there is no room for more.
    #[tokio::test]
    async fn a_walk_without_room_holds_one_window() {
        let vfs = ModelFs::new(env());
        let mut buckets = Buckets::open(vfs.clone(), &Options::default()).await.expect("opens");
        Arc::get_mut(&mut buckets).expect("nobody else has it").windows = Windows::with_room(0);
        let tree = buckets.tree.clone();
        let root = tree.adopt(vfs.getattr(vfs.root()).await.expect("there"));
        tree.make_bucket(&root, &names::own("abc"), &Record::default()).await.expect("made");
        let bucket = tree.child(root.ino(), &names::own("abc")).await.expect("looks").expect("there");
        let parts: Vec<_> = (0..20).map(|_| names::own("d")).collect();
        let deepest = tree.make_dirs(&bucket, &parts).await.expect("made").expect("nothing in the way");
        for (dir, name) in [(&deepest, "k"), (&deepest, "l"), (&bucket, "z")] {
            let work = tree.work_file(&bucket).await.expect("made");
            let to = (dir, &names::own(name));
            tree.rename((&work.dir, &work.name), to, None, muxfs::vfs::RenameMode::NoReplace).await.expect("moved");
        }
        let mut walk = Walk::new(&buckets, &bucket, b"", None, false).await.expect("begins");
        let mut keys = Vec::new();
        while let Some(Met::Key(key, _)) = walk.next().await.expect("walks") {
            let (_, above) = walk.levels.split_last().expect("the walk is somewhere");
            assert!(above.iter().all(|level| level.names.is_resting()), "{key}");
            keys.push(key);
        }
        let deep = "d/".repeat(20);
        assert_eq!(keys, [format!("{deep}k"), format!("{deep}l"), "z".to_owned()]);
    }
}
