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
    sorted::{Cursor, Naming, version_order},
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
    object.record.version.as_deref().and_then(time_of).unwrap_or_else(|| nanos(object.node.attr.mtime))
}

/// When a version of this name was made; `None` for `null`, and for what is none.
fn time_of(version: &str) -> Option<u64> {
    let inverse = u64::from_str_radix(version.get(..16)?, 16).ok()?;
    Some(u64::MAX - inverse)
}

/// Where a version comes among those of its key.
pub(crate) fn order_of(object: &Object) -> String {
    version_order(object.record.version_name(), made_at(object))
}

/// Older versions of a key, newest first.
#[derive(Debug)]
pub(crate) struct Older(Cursor);

impl Older {
    pub(crate) async fn next(&mut self, buckets: &Buckets) -> Result<Option<Object>> {
        while let Some(entry) = self.0.next(buckets.sorted()).await? {
            if let Some(object) = buckets.file(&self.0.dir, &entry.name()?).await? {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }
}

impl Buckets {
    /// A version that no other has; newer ones sort before older ones, and before the one they replace whatever the clock
    /// says.
    pub(crate) fn new_version(&self, old: Option<&Object>) -> String {
        let mut random = [0; 8];
        (self.tree.env.fill)(&mut random);
        let at = nanos((self.tree.env.now)()).max(old.map_or(0, |old| made_at(old).saturating_add(1)));
        format!("{:016x}{:016x}", u64::MAX - at, u64::from_le_bytes(random))
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
        let name = names::own(old.record.version_name());
        loop {
            match self.tree.vfs.link(old.node.ino(), dir.ino(), &name).await {
                Ok(linked) => {
                    drop(self.tree.adopt(linked.node));
                    break;
                }
                Err(there) if there.kind() == ErrorKind::Exists => {}
                Err(other) => return Err(other),
            }
            match self.tree.child(dir.ino(), &name).await? {
                // Of a try before, which another frontend was faster than.
                Some(there) if there.ino() == old.node.ino() => break,
                // There is one null, and the file that another frontend put is the newer one.
                Some(other) => self.tree.remove(&dir, &name, Some(other.ino()), RemoveKind::NonDir).await?,
                None => {}
            }
        }
        self.tree.order_names(&dir).await
    }

    async fn make_versions_dir(&self, bucket: &Node, key: &str) -> Result<Node> {
        let all = self.tree.own_dir(bucket, VERSIONS).await?;
        let name = names::hashed(key);
        loop {
            if let Some(there) = self.tree.child(all.ino(), &name).await? {
                return Ok(there);
            }
            let record = Record { key: Some(key.to_owned()), ..Record::default() };
            self.tree.own_dir_with(bucket, &all, &name, &record).await?;
        }
    }

    /// Removes the version that is called null from among the older ones: there is a newer one of that name.
    pub(crate) async fn drop_null(&self, bucket: &Node, key: &str) -> Result<()> {
        let Some((_, dir)) = self.versions_dir(bucket, key).await? else { return Ok(()) };
        match self.tree.remove(&dir, &names::own(NULL_VERSION), None, RemoveKind::NonDir).await {
            Err(none) if none.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// The versions of a key beside the one that lies where the key says, newest first, from a bound on in their order;
    /// `None` where there never were any.
    pub(crate) async fn older(&self, bucket: &Node, key: &str, lower: &[u8]) -> Result<Option<Older>> {
        let Some((_, dir)) = self.versions_dir(bucket, key).await? else { return Ok(None) };
        Ok(Some(Older(Cursor::new(self.sorted(), dir, Naming::Versions, lower).await?)))
    }

    /// The newest of them, but for one.
    pub(crate) async fn newest(&self, bucket: &Node, key: &str, but: Option<&str>) -> Result<Option<Object>> {
        let Some(mut older) = self.older(bucket, key, b"").await? else { return Ok(None) };
        while let Some(object) = older.next(self).await? {
            if but != Some(object.record.version_name()) {
                return Ok(Some(object));
            }
        }
        Ok(None)
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
        let _turn = self.turns.of_key(bucket, key).await;
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
        let version = (versioning == Versioning::Enabled).then(|| self.new_version(current));
        let marker = Record { is_marker: true, version, ..Record::default() };
        if let Some(current) = current {
            self.keep(&bucket.node, key, current, versioning).await?;
        }
        let dir = self.make_versions_dir(&bucket.node, key).await?;
        self.put_marker(bucket, &dir, &marker).await?;
        match current {
            Some(current) => self.take_away(&bucket.node, key, current).await?,
            None => self.tree.sync_names(&dir).await?,
        }
        Ok(Removed { is_marker: true, version: Some(marker.version_name().to_owned()) })
    }

    async fn put_marker(&self, bucket: &Bucket, dir: &Node, marker: &Record) -> Result<()> {
        let work = self.tree.work_file(&bucket.node).await?;
        self.tree.set_record(work.file.ino(), marker).await?;
        self.tree.order_node(&work.file).await?;
        let name = names::own(marker.version_name());
        self.tree.rename((&work.dir, &work.name), (dir, &name), None, RenameMode::Replace).await?;
        self.tree.order_names(dir).await
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
            let next = self.newest(&bucket.node, key, Some(version)).await?.filter(|next| !next.record.is_marker);
            if is_current {
                // Before a stop took it away from where its key says, it may have had a name here already.
                self.forget_copy(&bucket.node, key, version).await?;
                match &next {
                    Some(next) => self.put_back_over(&bucket.node, key, &object, next).await?,
                    None => self.take_away(&bucket.node, key, &object).await?,
                }
            } else {
                // First what is seen from then on: a stop between leaves both, and never neither.
                if let Some(next) = next.filter(|_| current.is_none()) {
                    self.put_back(&bucket.node, key, &next).await?;
                }
                if let Place::File(dir, name) = &object.place {
                    self.tree.remove(dir, name, Some(object.node.ino()), RemoveKind::NonDir).await?;
                    self.tree.sync_names(dir).await?;
                }
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

    /// Puts an older version in the place of the one that lies where its key says, at one stroke.
    async fn put_back_over(&self, bucket: &Node, key: &str, current: &Object, next: &Object) -> Result<()> {
        let (Place::File(from, name), Place::File(to, last)) = (&next.place, &current.place) else {
            self.take_away(bucket, key, current).await?;
            return self.put_back(bucket, key, next).await;
        };
        if self.is_odd(bucket, to).await? && next.record.key.is_none() {
            self.set_key(key, next).await?;
        }
        self.tree.rename((from, name), (to, last), Some(current.node.ino()), RenameMode::Replace).await?;
        self.tree.sync_names(to).await?;
        self.tree.sync_names(from).await
    }

    /// Says in the record of a version which key it is of, for where that is not seen from its name.
    async fn set_key(&self, key: &str, object: &Object) -> Result<()> {
        let record = Record { key: Some(key.to_owned()), ..object.record.clone() };
        self.tree.set_record(object.node.ino(), &record).await?;
        self.tree.sync_node(object.node.ino()).await
    }

    /// Puts an older version where its key says, if nothing is there.
    async fn put_back(&self, bucket: &Node, key: &str, newest: &Object) -> Result<()> {
        let Place::File(dir, name) = &newest.place else { return Ok(()) };
        if let Key::File(dirs, last) = Key::parse(key)
            && let Some(to) = self.tree.make_dirs(bucket, &dirs).await?
            && self.tree.child(to.ino(), &last).await?.is_none()
        {
            self.tree.rename((dir, name), (&to, &last), None, RenameMode::NoReplace).await?;
            self.tree.sync_names(&to).await?;
            return self.tree.sync_names(dir).await;
        }
        self.set_key(key, newest).await?;
        let odd = self.tree.own_dir(bucket, names::ODD).await?;
        self.tree.rename((dir, name), (&odd, &names::hashed(key)), None, RenameMode::NoReplace).await?;
        self.tree.sync_names(&odd).await?;
        self.tree.sync_names(dir).await
    }

    /// The newest delete marker of a key that has nothing where the key says.
    pub(crate) async fn marker(&self, bucket: &Node, key: &str) -> Result<Option<Object>> {
        Ok(self.newest(bucket, key, None).await?.filter(|newest| newest.record.is_marker))
    }
}
