//! Listings of uploads that were begun: by key and by id, which is by time, page by page.

use muxfs::{Name, Result};

use crate::{
    multipart::Upload,
    names::{self, UPLOADS},
    objects::{Bucket, Buckets},
    sorted::{Cursor, Naming, after_all, upload_order, upload_prefix},
    tree::Node,
};

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    pub(crate) prefix: String,
    /// Keys that have it behind the prefix are listed as what they begin with up to it; none where empty.
    pub(crate) delimiter: String,
    /// What came last of the page before, a key or what keys begin with; empty at the first.
    pub(crate) key_marker: String,
    /// Which upload of that key came last; empty where all did.
    pub(crate) id_marker: String,
    pub(crate) count: usize,
}

/// What a listing tells.
#[derive(Debug)]
pub(crate) enum Begun {
    Upload(String, Box<Upload>),
    Prefix(String),
}

/// A page.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) items: Vec<Begun>,
    pub(crate) is_truncated: bool,
}

impl Query {
    /// What a key is listed as, where not by itself.
    fn rolled(&self, key: &str) -> Option<String> {
        let rest = key.strip_prefix(&self.prefix).filter(|_| !self.delimiter.is_empty())?;
        let at = rest.find(&self.delimiter)?;
        Some(format!("{}{}", self.prefix, &rest[..at + self.delimiter.len()]))
    }

    /// Where the page begins; `None` where nothing can be.
    fn lower(&self) -> Option<Vec<u8>> {
        let prefix = upload_prefix(&self.prefix).into_bytes();
        if self.key_marker.is_empty() {
            return Some(prefix);
        }
        let behind = if self.rolled(&self.key_marker).as_ref() == Some(&self.key_marker) {
            after_all(upload_prefix(&self.key_marker).as_bytes())?
        } else if self.id_marker.is_empty() {
            after_all(upload_order(&self.key_marker, "").as_bytes())?
        } else {
            crate::sorted::after(upload_order(&self.key_marker, &self.id_marker).as_bytes())
        };
        Some(behind.max(prefix))
    }
}

impl Buckets {
    /// A page of the uploads of a bucket that were begun and not ended.
    pub(crate) async fn uploads(&self, bucket: &Bucket, query: &Query) -> Result<Page> {
        let mut page = Page::default();
        let Some(lower) = query.lower().filter(|_| query.count > 0) else { return Ok(page) };
        let Some(all) = self.tree.child(bucket.node.ino(), &names::own(UPLOADS)).await? else { return Ok(page) };
        let begin = async |lower: &[u8]| Cursor::new(self.sorted(), all.clone(), Naming::Uploads, lower).await;
        let mut cursor = begin(&lower).await?;
        while let Some(entry) = cursor.next(self.sorted()).await? {
            let Some(upload) = self.upload_at(&all, &entry.name()?).await? else { continue };
            let key = upload.record.key.clone().unwrap_or_default();
            if !key.starts_with(&query.prefix) {
                break;
            }
            if page.items.len() == query.count {
                page.is_truncated = true;
                break;
            }
            let Some(rolled) = query.rolled(&key) else {
                page.items.push(Begun::Upload(key, Box::new(upload)));
                continue;
            };
            let behind = after_all(upload_prefix(&rolled).as_bytes());
            page.items.push(Begun::Prefix(rolled));
            let Some(behind) = behind else { break };
            cursor = begin(&behind).await?;
        }
        Ok(page)
    }

    /// The upload of this name; `None` where it ended meanwhile.
    async fn upload_at(&self, all: &Node, name: &Name) -> Result<Option<Upload>> {
        let Some(dir) = self.tree.child(all.ino(), name).await?.filter(Node::is_dir) else { return Ok(None) };
        let record = self.tree.record(dir.ino()).await?;
        let id = String::from_utf8_lossy(name.as_bytes()).into_owned();
        Ok(record.key.is_some().then_some(Upload { id, dir, record }))
    }
}
