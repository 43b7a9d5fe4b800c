//! Versions: what an object was before, kept where no listing of names has it.
//!
//! The newest version of a key lies where its key says, so that it is what every other frontend sees. Older ones and
//! delete markers lie in a hidden directory of the bucket, by the hash of the key and by version; what is replaced gets
//! a second name there before its first one is taken. Spec: spec/s3.md #versions.

use muxfs::{
    ErrorKind, Name, Result,
    vfs::{RemoveKind, RenameMode},
};
use s3s::S3ErrorCode;

use crate::{
    conditions::Conditions,
    failure::{S3Result, failed, refuse},
    names::{self, Key, VERSIONS},
    objects::{Bucket, Buckets, Object, Place, Versioning, is_race},
    record::{NULL_VERSION, Record, nanos},
    tree::Node,
};

/// How often something is begun anew because another frontend was faster.
const TRY_COUNT: usize = 16;

/// What a removal did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Removed {
    /// Whether a delete marker was made, or removed.
    pub(crate) is_marker: bool,
    /// The version that was made or removed; `None` where the bucket keeps none.
    pub(crate) version: Option<String>,
}

/// When a version was made, in nanoseconds since 1970.
pub(crate) fn made_at(object: &Object) -> u64 {
    let told = object.record.version.as_deref().and_then(|version| u64::from_str_radix(version.get(..16)?, 16).ok());
    told.map_or_else(|| nanos(object.node.attr.mtime), |inverse| u64::MAX - inverse)
}

impl Buckets {
    /// A version that no other has; newer ones sort before older ones.
    pub(crate) fn new_version(&self) -> String {
        let mut random = [0; 8];
        (self.tree.env.fill)(&mut random);
        format!("{:016x}{:016x}", u64::MAX - nanos((self.tree.env.now)()), u64::from_le_bytes(random))
    }

    /// Gives what is to be replaced a name among the versions, where its bucket keeps it.
    pub(crate) async fn keep(&self, bucket: &Node, key: &str, old: &Object, versioning: Versioning) -> Result<()> {
        let is_kept = match versioning {
            Versioning::Off => false,
            Versioning::Enabled => true,
            Versioning::Suspended => old.record.version.is_some(),
        };
        if !is_kept || matches!(old.place, Place::Folder) {
            return Ok(());
        }
        let dir = self.make_versions_dir(bucket, key).await?;
        match self.tree.vfs.link(old.node.ino(), dir.ino(), &names::own(old.record.version_name())).await {
            Ok(linked) => drop(self.tree.adopt(linked.node)),
            // Of a try before, which another frontend was faster than.
            Err(there) if there.kind() == ErrorKind::Exists => {}
            Err(other) => return Err(other),
        }
        self.tree.sync_names(&dir).await
    }

    async fn make_versions_dir(&self, bucket: &Node, key: &str) -> Result<Node> {
        let all = self.tree.own_dir(bucket, VERSIONS).await?;
        let name = names::hashed(key);
        let text = std::str::from_utf8(name.as_bytes()).unwrap_or_default();
        let dir = self.tree.own_dir(&all, text).await?;
        if self.tree.record(dir.ino()).await?.key.is_none() {
            let record = Record { key: Some(key.to_owned()), ..Record::default() };
            self.tree.set_record(dir.ino(), &record).await?;
            self.tree.sync_node(dir.ino()).await?;
        }
        Ok(dir)
    }

    /// Removes the version that is called null from among the older ones: there is a newer one of that name.
    pub(crate) async fn drop_null(&self, bucket: &Node, key: &str) -> Result<()> {
        let Some((_, dir)) = self.versions_dir(bucket, key).await? else { return Ok(()) };
        match self.tree.remove(&dir, &names::own(NULL_VERSION), None, RemoveKind::NonDir).await {
            Err(none) if none.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// The versions of a key beside the one that lies where the key says, newest first.
    pub(crate) async fn older(&self, bucket: &Node, key: &str) -> Result<Vec<Object>> {
        let Some((_, dir)) = self.versions_dir(bucket, key).await? else { return Ok(Vec::new()) };
        self.older_in(&dir).await
    }

    pub(crate) async fn older_in(&self, dir: &Node) -> Result<Vec<Object>> {
        let mut found = Vec::new();
        for (name, node) in self.tree.entries(dir.ino()).await? {
            if node.is_file() {
                let record = self.tree.record(node.ino()).await?;
                found.push(Object { node, record, place: Place::File(dir.clone(), name) });
            }
        }
        found.sort_by_key(|object| std::cmp::Reverse(made_at(object)));
        Ok(found)
    }

    /// A version of an object, a delete marker among them.
    pub(crate) async fn find_version(&self, bucket: &Node, key: &str, version: &str) -> S3Result<Object> {
        if let Some(current) = self.find(bucket, key).await.map_err(failed)?
            && current.record.version_name() == version
        {
            return Ok(current);
        }
        let none = || refuse(S3ErrorCode::NoSuchVersion, "There is no such version of this key.");
        let Ok(name) = Name::new(version.as_bytes()) else { return none() };
        let Some((_, dir)) = self.versions_dir(bucket, key).await.map_err(failed)? else { return none() };
        match self.file(&dir, &name).await.map_err(failed)? {
            Some(object) => Ok(object),
            None => none(),
        }
    }

    /// Removes an object, or one version of it, durably; what is not there is removed already.
    pub(crate) async fn delete(
        &self,
        (bucket, key): (&str, &str),
        version: Option<&str>,
        conditions: &Conditions,
    ) -> S3Result<Removed> {
        let _turn = self.turn(bucket, key).await;
        for _ in 0..TRY_COUNT {
            let found = self.bucket(bucket).await?;
            let current = self.find(&found.node, key).await.map_err(failed)?;
            if version.is_none() {
                conditions.check_write(current.as_ref())?;
            }
            let removed = match version {
                Some(version) => self.delete_version(&found, key, current.as_ref(), version, conditions).await?,
                None => self.delete_current(&found, key, current.as_ref()).await,
            };
            match removed {
                Ok(removed) => return Ok(removed),
                Err(raced) if is_race(&raced) => {}
                Err(other) => return Err(failed(other)),
            }
        }
        refuse(S3ErrorCode::OperationAborted, "Something else changes this key all the time.")
    }

    async fn delete_current(&self, bucket: &Bucket, key: &str, current: Option<&Object>) -> Result<Removed> {
        let versioning = bucket.versioning();
        if versioning == Versioning::Off {
            if let Some(current) = current {
                self.take_away(&bucket.node, key, current).await?;
            }
            return Ok(Removed::default());
        }
        // The marker first: what ends here is not removed yet, and listed twice by nobody.
        let version = (versioning == Versioning::Enabled).then(|| self.new_version());
        let marker = Record { is_marker: true, version, ..Record::default() };
        if let Some(current) = current {
            self.keep(&bucket.node, key, current, versioning).await?;
        }
        let dir = self.make_versions_dir(&bucket.node, key).await?;
        self.put_marker(bucket, &dir, &marker).await?;
        if let Some(current) = current {
            self.take_away(&bucket.node, key, current).await?;
        }
        Ok(Removed { is_marker: true, version: Some(marker.version_name().to_owned()) })
    }

    async fn put_marker(&self, bucket: &Bucket, dir: &Node, marker: &Record) -> Result<()> {
        let work = self.tree.work_file(&bucket.node).await?;
        self.tree.set_record(work.file.ino(), marker).await?;
        self.tree.sync_node(work.file.ino()).await?;
        let name = names::own(marker.version_name());
        self.tree.rename((&work.dir, &work.name), (dir, &name), None, RenameMode::Replace).await?;
        self.tree.sync_names(dir).await
    }

    async fn delete_version(
        &self,
        bucket: &Bucket,
        key: &str,
        current: Option<&Object>,
        version: &str,
        conditions: &Conditions,
    ) -> S3Result<Result<Removed>> {
        let is_current = current.is_some_and(|current| current.record.version_name() == version);
        let told = Removed { is_marker: false, version: Some(version.to_owned()) };
        let object = match self.find_version(&bucket.node, key, version).await {
            Ok(object) => object,
            Err(none) if *none.code() == S3ErrorCode::NoSuchVersion => {
                conditions.check_write(None)?;
                return Ok(Ok(told));
            }
            Err(other) => return Err(other),
        };
        conditions.check_write(Some(&object))?;
        let removed = async {
            if is_current {
                // Before a stop took it away from where its key says, it may have had a name here already.
                self.forget_copy(&bucket.node, key, version).await?;
                self.take_away(&bucket.node, key, &object).await?;
            } else if let Place::File(dir, name) = &object.place {
                self.tree.remove(dir, name, Some(object.node.ino()), RemoveKind::NonDir).await?;
                self.tree.sync_names(dir).await?;
            }
            if is_current || current.is_none() {
                self.promote(&bucket.node, key).await?;
            }
            if let Some((all, dir)) = self.versions_dir(&bucket.node, key).await? {
                drop(dir);
                self.remove_empty(&all, &names::hashed(key)).await?;
            }
            Ok(Removed { is_marker: object.record.is_marker, ..told })
        };
        Ok(removed.await)
    }

    async fn forget_copy(&self, bucket: &Node, key: &str, version: &str) -> Result<()> {
        let Some((_, dir)) = self.versions_dir(bucket, key).await? else { return Ok(()) };
        match self.tree.remove(&dir, &names::own(version), None, RemoveKind::NonDir).await {
            Err(none) if none.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Puts the newest of the older versions where its key says, if it is no delete marker and nothing is there.
    async fn promote(&self, bucket: &Node, key: &str) -> Result<()> {
        let older = self.older(bucket, key).await?;
        let Some(newest) = older.into_iter().next().filter(|newest| !newest.record.is_marker) else { return Ok(()) };
        let Place::File(dir, name) = &newest.place else { return Ok(()) };
        if let Key::File(dirs, last) = Key::parse(key)
            && let Some(to) = self.tree.make_dirs(bucket, &dirs).await?
            && self.tree.child(to.ino(), &last).await?.is_none()
        {
            self.tree.rename((dir, name), (&to, &last), None, RenameMode::NoReplace).await?;
            self.tree.sync_names(&to).await?;
            return self.tree.sync_names(dir).await;
        }
        let record = Record { key: Some(key.to_owned()), ..newest.record.clone() };
        self.tree.set_record(newest.node.ino(), &record).await?;
        let odd = self.tree.own_dir(bucket, names::ODD).await?;
        self.tree.rename((dir, name), (&odd, &names::hashed(key)), None, RenameMode::NoReplace).await?;
        self.tree.sync_names(&odd).await?;
        self.tree.sync_names(dir).await
    }

    /// The newest delete marker of a key that has nothing where the key says.
    pub(crate) async fn marker(&self, bucket: &Node, key: &str) -> Result<Option<Object>> {
        let older = self.older(bucket, key).await?;
        Ok(older.into_iter().next().filter(|newest| newest.record.is_marker))
    }
}
