//! Buckets that go: first their names, at one stroke, and then what is left of them.
//!
//! Nothing is put into a bucket while it is looked at for the last time and renamed to a hidden name beside the others;
//! what it still has, uploads and empty directories, may take long to remove, and nobody waits for that but who asked for
//! it. The next start takes away what was left. Spec: spec/s3.md #buckets.

use muxfs::{
    ErrorKind, Name, Result,
    vfs::{Cookie, RemoveKind, RenameMode},
};
use s3s::S3ErrorCode;

use crate::{
    failure::{S3Result, failed, refuse},
    names::{self, LEAVING, UPLOADS, WORK},
    objects::Buckets,
    tree::Node,
};

impl Buckets {
    /// Removes a bucket that has no object and no version; uploads and directories without any file go with it.
    pub(crate) async fn remove_bucket(&self, name: &str) -> S3Result<()> {
        let not_empty = || refuse(S3ErrorCode::BucketNotEmpty, "There are objects, versions or files in this bucket.");
        if self.has_object(&self.bucket(name).await?.node).await.map_err(failed)? {
            return not_empty();
        }
        let root = self.root().await.map_err(failed)?;
        let hidden = names::own(&format!("{LEAVING}{name}.{}", self.tree.unique()));
        let bucket = {
            // Looked at once more while nothing is put: what was acknowledged since is not removed.
            let _turn = self.turns.of_bucket(name).await;
            let bucket = self.bucket(name).await?.node;
            if self.has_object(&bucket).await.map_err(failed)? {
                return not_empty();
            }
            let (from, to) = ((&root, &names::own(name)), (&root, &hidden));
            self.tree.rename(from, to, None, RenameMode::NoReplace).await.map_err(failed)?;
            self.tree.order_names(&root).await.map_err(failed)?;
            bucket
        };
        if self.remove_left(&root, &hidden, bucket).await.map_err(failed)? { Ok(()) } else { not_empty() }
    }

    /// Removes what earlier servers left of buckets. What cannot be removed is told, and tried again at the next start.
    pub(crate) async fn remove_leaving(&self, root: &Node) -> Result<()> {
        let is_leaving = |name: &Name| name.as_bytes().starts_with(LEAVING.as_bytes());
        for (name, node) in self.tree.entries(root.ino()).await? {
            if !node.is_dir() || !is_leaving(&name) {
                continue;
            }
            if let Err(error) = self.remove_left(root, &name, node).await {
                tracing::warn!(hidden = %name, %error, "S3: what is left of a bucket cannot be removed");
            }
        }
        Ok(())
    }

    /// Removes what is left of a bucket, durably. `false` where another frontend was faster: what it put has the name of the
    /// bucket again, unless there is another of that name by now.
    async fn remove_left(&self, root: &Node, hidden: &Name, bucket: Node) -> Result<bool> {
        let is_gone = match self.remove_parts(root, hidden, &bucket).await {
            Err(more) if matches!(more.kind(), ErrorKind::NotEmpty | ErrorKind::NotDir) => false,
            removed => removed.map(|()| true)?,
        };
        let text = std::str::from_utf8(hidden.as_bytes()).ok().and_then(|text| text.strip_prefix(LEAVING));
        let named = text.and_then(|text| text.rsplit_once('.')).map(|(name, _)| name).filter(|it| names::is_bucket(it));
        if let Some(named) = named.filter(|_| !is_gone) {
            match self.tree.rename((root, hidden), (root, &names::own(named)), None, RenameMode::NoReplace).await {
                Err(taken) if taken.kind() == ErrorKind::Exists => {
                    tracing::warn!(%hidden, "S3: there are files in what was a bucket, and another has its name");
                }
                renamed => renamed?,
            }
        }
        self.tree.sync_names(root).await?;
        Ok(is_gone)
    }

    async fn remove_parts(&self, root: &Node, hidden: &Name, bucket: &Node) -> Result<()> {
        let tree = &self.tree;
        // What is not whole goes last: another frontend may have put a file.
        loop {
            let (entries, _) = tree.page(bucket.ino(), Cookie::START).await?;
            let dirs: Vec<_> = entries.into_iter().filter(|(entry, _)| !is_unfinished(entry)).collect();
            if dirs.is_empty() {
                break;
            }
            for (entry, dir) in dirs {
                tree.remove_dirs(bucket, &entry, dir).await?;
            }
        }
        for own in [WORK, UPLOADS].map(names::own) {
            if let Some(left) = tree.child(bucket.ino(), &own).await? {
                tree.remove_all(bucket, &own, left).await?;
            }
        }
        tree.remove(root, hidden, Some(bucket.ino()), RemoveKind::Dir).await
    }

    /// Whether there is an object, a version or a file in a bucket: the first one that is met tells.
    async fn has_object(&self, bucket: &Node) -> Result<bool> {
        let mut after = Some(Cookie::START);
        while let Some(cookie) = after {
            let (entries, next) = self.tree.page(bucket.ino(), cookie).await?;
            for (entry, node) in entries {
                if !is_unfinished(&entry) && self.has_file(&node).await? {
                    return Ok(true);
                }
            }
            after = next;
        }
        Ok(false)
    }

    /// Whether there is anything but directories at or below a node, or one that is an object.
    async fn has_file(&self, node: &Node) -> Result<bool> {
        let mut left = vec![node.clone()];
        while let Some(node) = left.pop() {
            if !node.is_dir() || self.tree.record(node.ino()).await?.is_folder {
                return Ok(true);
            }
            let mut after = Some(Cookie::START);
            while let Some(cookie) = after {
                let (entries, next) = self.tree.page(node.ino(), cookie).await?;
                for (_, node) in entries {
                    if !node.is_dir() {
                        return Ok(true);
                    }
                    left.push(node);
                }
                after = next;
            }
        }
        Ok(false)
    }
}

/// Whether a name in a bucket is that of what is not whole yet.
fn is_unfinished(name: &Name) -> bool {
    [WORK, UPLOADS].iter().any(|own| name.as_bytes() == own.as_bytes())
}
