//! Objects: where they lie, how they come to be at one stroke, and how they go.
//!
//! What is new is whole and durable in the work directory of its bucket before it takes its name by one rename. Requests
//! for one key take turns there, so that a condition holds until the rename; what another frontend changes meanwhile is
//! noticed by the rename itself, and looked at again.

use std::sync::Arc;

use muxfs::{
    Error, ErrorKind, Name, Result,
    vfs::{RemoveKind, RenameMode, Vfs},
};
use s3s::S3ErrorCode;

use crate::{
    Options,
    budget::Budget,
    conditions::Conditions,
    failure::{S3Result, failed, refuse},
    keys::Keys,
    names::{self, Key, ODD, VERSIONS, WORK},
    record::Record,
    sorted::Windows,
    tree::{Node, Tree, Work},
    turns::Turns,
};

/// How often something is begun anew because another frontend was faster.
const TRY_COUNT: usize = 16;

/// The buckets.
#[derive(Debug)]
pub(crate) struct Buckets {
    pub(crate) tree: Arc<Tree>,
    root: Vec<Name>,
    pub(crate) keys: Keys,
    pub(crate) windows: Windows,
    pub(crate) turns: Turns,
}

/// Where an object lies.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "a page has a thousand of them at most")]
pub(crate) enum Place {
    /// It is the file of this name.
    File(Node, Name),
    /// It is the directory itself.
    Folder,
}

/// An object, or a version of one.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) node: Node,
    pub(crate) record: Record,
    pub(crate) place: Place,
}

impl Object {
    pub(crate) fn etag(&self) -> String {
        self.record.etag(&self.node.attr)
    }

    /// Length in bytes.
    pub(crate) fn size(&self) -> u64 {
        if matches!(self.place, Place::Folder) { 0 } else { self.node.attr.size }
    }
}

/// Whether a bucket keeps versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Versioning {
    Off,
    Enabled,
    Suspended,
}

/// A bucket.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    pub(crate) node: Node,
    pub(crate) record: Record,
}

impl Bucket {
    pub(crate) fn versioning(&self) -> Versioning {
        match self.record.versioning.as_deref() {
            Some("Enabled") => Versioning::Enabled,
            Some("Suspended") => Versioning::Suspended,
            _ => Versioning::Off,
        }
    }
}

impl Buckets {
    /// Looks at the root, and takes away what an earlier server left half done. What cannot be taken away is told and stays: it
    /// is no object, and keeps nobody from the others. Nor does a root that cannot be looked at now.
    pub(crate) async fn open(vfs: Arc<dyn Vfs>, options: &Options) -> Result<Arc<Self>> {
        let tree = Arc::new(Tree {
            vfs,
            sync_names_except: options.sync_names_except.clone(),
            ordered: options.ordered.clone(),
            budget: Budget::default(),
            env: options.env.clone(),
        });
        let (root, keys) = (options.root.clone(), options.keys.clone());
        let buckets = Self { tree, root, keys, windows: Windows::default(), turns: Turns::default() };
        match buckets.clear().await {
            // What it is in may be away: it is asked again with each request.
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tracing::warn!("S3: what was left of uploads is removed by a later start: {error:#}");
            }
            cleared => cleared?,
        }
        Ok(Arc::new(buckets))
    }

    async fn clear(&self) -> Result<()> {
        let root = self.root().await?;
        if !root.is_dir() {
            return Err(Error::new(ErrorKind::NotDir, "s3.root").because("buckets are the directories of a directory"));
        }
        for (name, bucket) in self.all(&root).await? {
            if let Err(error) = self.clear_work(&bucket).await {
                tracing::warn!(%name, %error, "S3: what was left of uploads to a bucket cannot be removed");
            }
        }
        self.remove_leaving(&root).await
    }

    async fn clear_work(&self, bucket: &Node) -> Result<()> {
        let work = names::own(WORK);
        match self.tree.child(bucket.ino(), &work).await? {
            Some(left) => self.tree.remove_all(bucket, &work, left).await,
            None => Ok(()),
        }
    }

    // ---- buckets

    pub(crate) async fn root(&self) -> Result<Node> {
        self.tree.find(&self.root).await
    }

    /// The directories that are buckets, by name.
    pub(crate) async fn all(&self, root: &Node) -> Result<Vec<(String, Node)>> {
        let entries = self.tree.entries(root.ino()).await?;
        let named = |(name, node): (Name, Node)| {
            let text = std::str::from_utf8(name.as_bytes()).ok()?;
            (node.is_dir() && names::is_bucket(text)).then(|| (text.to_owned(), node))
        };
        let mut found: Vec<_> = entries.into_iter().filter_map(named).collect();
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found)
    }

    /// A bucket, if there is one.
    pub(crate) async fn look(&self, name: &str) -> Result<Option<Bucket>> {
        if !names::is_bucket(name) {
            return Ok(None);
        }
        let root = self.root().await?;
        let Some(node) = self.tree.child(root.ino(), &names::own(name)).await?.filter(Node::is_dir) else {
            return Ok(None);
        };
        let record = self.tree.record(node.ino()).await?;
        Ok(Some(Bucket { node, record }))
    }

    pub(crate) async fn bucket(&self, name: &str) -> S3Result<Bucket> {
        match self.look(name).await.map_err(failed)? {
            Some(bucket) => Ok(bucket),
            None => refuse(S3ErrorCode::NoSuchBucket, "There is no such bucket."),
        }
    }

    // ---- finding

    /// The object of a key, as it is now.
    pub(crate) async fn find(&self, bucket: &Node, key: &str) -> Result<Option<Object>> {
        let found = match Key::parse(key) {
            Key::File(dirs, last) => match self.tree.dirs(bucket, &dirs).await?.and_then(|mut chain| chain.pop()) {
                Some(dir) => self.file(&dir, &last).await?,
                None => None,
            },
            Key::Folder(dirs) => match self.tree.dirs(bucket, &dirs).await?.and_then(|mut chain| chain.pop()) {
                Some(node) => {
                    let record = self.tree.record(node.ino()).await?;
                    record.is_folder.then_some(Object { node, record, place: Place::Folder })
                }
                None => None,
            },
            Key::Odd => None,
        };
        if found.is_some() {
            return Ok(found);
        }
        match self.tree.child(bucket.ino(), &names::own(ODD)).await? {
            Some(odd) => self.file(&odd, &names::hashed(key)).await,
            None => Ok(None),
        }
    }

    /// The object that is a file.
    pub(crate) async fn file(&self, dir: &Node, name: &Name) -> Result<Option<Object>> {
        let Some(node) = self.tree.child(dir.ino(), name).await?.filter(Node::is_file) else { return Ok(None) };
        let record = self.tree.record(node.ino()).await?;
        Ok(Some(Object { node, record, place: Place::File(dir.clone(), name.clone()) }))
    }

    // ---- putting

    /// Gives what is whole in the work directory its key, durably, if the conditions hold; keeps what was there as a
    /// version where the bucket keeps them. What it is of then, with its version.
    pub(crate) async fn commit(
        &self,
        (bucket, key): (&str, &str),
        work: &Work,
        mut record: Record,
        conditions: &Conditions,
    ) -> S3Result<Option<String>> {
        let _turn = self.turns.of_key(bucket, key).await;
        for _ in 0..TRY_COUNT {
            let found = self.bucket(bucket).await?;
            let old = self.find(&found.node, key).await.map_err(failed)?;
            conditions.check_write(old.as_ref())?;
            let versioning = found.versioning();
            record.version = (versioning == Versioning::Enabled).then(|| self.new_version(old.as_ref()));
            record.key = (Key::parse(key) == Key::Odd).then(|| key.to_owned());
            let put = async {
                self.tree.set_record(work.file.ino(), &record).await?;
                self.tree.order_node(&work.file).await?;
                if let Some(old) = &old {
                    self.keep(&found.node, key, old, versioning).await?;
                }
                self.install(&found.node, key, work, &mut record, (old.as_ref(), versioning)).await?;
                if versioning == Versioning::Suspended {
                    self.drop_null(&found.node, key).await?;
                }
                Ok(())
            };
            match put.await {
                Ok(()) => {
                    let version = record.version.clone();
                    return Ok(version);
                }
                Err(raced) if is_race(&raced) => {}
                Err(other) => return Err(failed(other)),
            }
        }
        refuse(S3ErrorCode::OperationAborted, "Something else changes this key all the time.")
    }

    async fn install(
        &self,
        bucket: &Node,
        key: &str,
        work: &Work,
        record: &mut Record,
        (old, versioning): (Option<&Object>, Versioning),
    ) -> Result<()> {
        let tree = &self.tree;
        let from = (&work.dir, &work.name);
        if let Some(Object { place: Place::File(dir, name), node, .. }) = old {
            if dir.attr.ino != bucket.ino() && record.key.is_none() && self.is_odd(bucket, dir).await? {
                record.key = Some(key.to_owned());
                tree.set_record(work.file.ino(), record).await?;
                tree.order_node(&work.file).await?;
            }
            tree.rename(from, (dir, name), Some(node.ino()), RenameMode::Replace).await?;
            return tree.sync_names(dir).await;
        }
        match Key::parse(key) {
            Key::File(dirs, last) => {
                if let Some(dir) = tree.make_dirs(bucket, &dirs).await? {
                    match tree.rename(from, (&dir, &last), None, RenameMode::NoReplace).await {
                        Err(taken) if taken.kind() == ErrorKind::Exists => {
                            if self.file(&dir, &last).await?.is_some() {
                                return Err(taken);
                            }
                        }
                        renamed => {
                            renamed?;
                            return tree.sync_names(&dir).await;
                        }
                    }
                }
            }
            Key::Folder(dirs)
                if versioning == Versioning::Off && record.content.as_ref().is_none_or(|it| it.size == 0) =>
            {
                if let Some(dir) = tree.make_dirs(bucket, &dirs).await? {
                    let is_made = tree.record(dir.ino()).await?.is_made;
                    let folder = Record { is_folder: true, is_made, key: None, ..record.clone() };
                    tree.set_record(dir.ino(), &folder).await?;
                    tree.sync_node(dir.ino()).await?;
                    tree.discard(work).await;
                    return Ok(());
                }
            }
            Key::Folder(_) | Key::Odd => {}
        }
        if record.key.is_none() {
            record.key = Some(key.to_owned());
            tree.set_record(work.file.ino(), record).await?;
            tree.order_node(&work.file).await?;
        }
        let odd = tree.own_dir(bucket, ODD).await?;
        tree.rename(from, (&odd, &names::hashed(key)), None, RenameMode::NoReplace).await?;
        tree.sync_names(&odd).await?;
        match old {
            Some(folder) => self.unmark(folder).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn is_odd(&self, bucket: &Node, dir: &Node) -> Result<bool> {
        let odd = self.tree.child(bucket.ino(), &names::own(ODD)).await?;
        Ok(odd.is_some_and(|odd| odd.ino() == dir.ino()))
    }

    /// Makes a directory that was an object too one that is none.
    async fn unmark(&self, folder: &Object) -> Result<()> {
        let record = Record { is_made: folder.record.is_made, ..Record::default() };
        self.tree.set_record(folder.node.ino(), &record).await?;
        self.tree.sync_node(folder.node.ino()).await
    }

    // ---- removing

    /// Takes an object away that is there now, durably, and the directories that were made for it and are empty.
    pub(crate) async fn take_away(&self, bucket: &Node, key: &str, object: &Object) -> Result<()> {
        match &object.place {
            Place::File(dir, name) => {
                self.tree.remove(dir, name, Some(object.node.ino()), RemoveKind::NonDir).await?;
                self.tree.sync_names(dir).await?;
            }
            Place::Folder => self.unmark(object).await?,
        }
        self.prune(bucket, key).await
    }

    /// Takes the empty directories away that were made for a key.
    pub(crate) async fn prune(&self, bucket: &Node, key: &str) -> Result<()> {
        let (Key::File(dirs, _) | Key::Folder(dirs)) = Key::parse(key) else { return Ok(()) };
        let Some(chain) = self.tree.dirs(bucket, &dirs).await? else { return Ok(()) };
        for (pair, name) in chain.windows(2).zip(&dirs).rev() {
            let [above, dir] = pair else { break };
            let record = self.tree.record(dir.ino()).await?;
            if !record.is_made || record.is_folder {
                break;
            }
            match self.tree.remove(above, name, Some(dir.ino()), RemoveKind::Dir).await {
                Ok(()) => {}
                Err(kept) if kept.kind() == ErrorKind::NotEmpty || is_race(&kept) => break,
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Removes a directory of ours that is empty.
    pub(crate) async fn remove_empty(&self, dir: &Node, name: &Name) -> Result<()> {
        match self.tree.remove(dir, name, None, RemoveKind::Dir).await {
            Err(kept) if matches!(kept.kind(), ErrorKind::NotEmpty | ErrorKind::NotFound) => Ok(()),
            removed => removed,
        }
    }

    /// The directory of the versions of a key.
    pub(crate) async fn versions_dir(&self, bucket: &Node, key: &str) -> Result<Option<(Node, Node)>> {
        let Some(all) = self.tree.child(bucket.ino(), &names::own(VERSIONS)).await? else { return Ok(None) };
        let dir = self.tree.child(all.ino(), &names::hashed(key)).await?;
        Ok(dir.map(|dir| (all, dir)))
    }
}

/// Whether something was not as it had been looked at: it is looked at again.
pub(crate) fn is_race(error: &Error) -> bool {
    use ErrorKind::{Exists, IsDir, NotDir, NotFound, Stale};
    matches!(error.kind(), Exists | IsDir | NotDir | NotFound | Stale)
}
