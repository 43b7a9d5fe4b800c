//! Listings: pages of keys, of what they begin with, and of versions.

use s3s::S3Error;

use crate::{
    failure::{S3Result, failed},
    objects::{Bucket, Buckets, Object},
    versions::{made_at, time_of},
    walk::{Met, Spot, Walk, after, after_all},
};

/// The most that a page has: AWS's limit.
pub(crate) const PAGE_COUNT_MAX: i32 = 1000;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    pub(crate) prefix: String,
    /// Keys that have it behind the prefix are listed as what they begin with up to it; none where empty.
    pub(crate) delimiter: String,
    /// What came last of the page before, a key or what keys begin with.
    pub(crate) marker: Option<String>,
    /// Which of its versions came last.
    pub(crate) version_marker: Option<String>,
    pub(crate) count: usize,
}

/// What a listing tells.
#[derive(Debug)]
pub(crate) enum Item {
    Object(String, Box<Object>),
    /// A version, and whether it is the latest.
    Version(String, Box<Object>, bool),
    Prefix(String),
}

/// A page.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) items: Vec<Item>,
    pub(crate) is_truncated: bool,
    /// What came last, where there is more.
    pub(crate) last: Option<String>,
    pub(crate) last_version: Option<String>,
}

impl Query {
    /// What a key is listed as, where not by itself.
    fn rolled<'k>(&self, key: &'k str) -> Option<&'k str> {
        let behind = key.strip_prefix(self.prefix.as_str()).filter(|_| !self.delimiter.is_empty())?;
        let at = behind.find(&self.delimiter)?;
        key.get(..self.prefix.len() + at + self.delimiter.len())
    }

    /// The first key of the page; `None` where there can be none.
    fn lower(&self) -> Option<Vec<u8>> {
        let prefix = self.prefix.clone().into_bytes();
        let Some(marker) = &self.marker else { return Some(prefix) };
        let behind = match self.rolled(marker) {
            Some(rolled) if rolled == marker => after_all(marker.as_bytes())?,
            _ if self.version_marker.is_some() => marker.clone().into_bytes(),
            _ => after(marker.as_bytes()),
        };
        Some(behind.max(prefix))
    }

    /// Directories that are listed as one.
    fn passes(&self) -> Option<String> {
        (self.delimiter == "/").then(|| self.prefix.clone())
    }
}

impl Buckets {
    /// A page of the objects of a bucket, or of their versions.
    pub(crate) async fn list(&self, bucket: &Bucket, query: &Query, has_versions: bool) -> S3Result<Page> {
        let mut page = Page::default();
        let Some(lower) = query.lower().filter(|_| query.count > 0) else { return Ok(page) };
        let begin = |lower: Vec<u8>| async move {
            Walk::new(self, &bucket.node, &lower, query.passes(), has_versions).await.map_err(failed)
        };
        let mut walk = begin(lower).await?;
        let (mut last_key, mut last_prefix): (Option<String>, Option<String>) = (None, None);
        while let Some(met) = walk.next().await.map_err(failed)? {
            let (Met::Key(key, _) | Met::Dir(key)) = &met;
            if !key.starts_with(&query.prefix) {
                if key.as_bytes() > query.prefix.as_bytes() {
                    break;
                }
                continue;
            }
            if let Some(rolled) = query.rolled(key) {
                if last_prefix.as_deref() == Some(rolled) {
                    continue;
                }
                if matches!(met, Met::Key(..)) && !self.is_listed(bucket, &met, has_versions).await? {
                    continue;
                }
                if !page.push(query, Item::Prefix(rolled.to_owned())) {
                    break;
                }
                last_prefix = Some(rolled.to_owned());
                if matches!(met, Met::Key(..)) {
                    let Some(behind) = after_all(rolled.as_bytes()) else { break };
                    walk = begin(behind).await?;
                }
                continue;
            }
            let Met::Key(key, spot) = met else { continue };
            if last_key.as_ref() == Some(&key) {
                continue;
            }
            let is_full = if has_versions {
                !self.push_versions(bucket, query, &mut page, &key).await?
            } else {
                match self.at(&spot).await.map_err(failed)? {
                    Some(object) => !page.push(query, Item::Object(key.clone(), Box::new(object))),
                    None => continue,
                }
            };
            if is_full {
                break;
            }
            last_key = Some(key);
        }
        Ok(page)
    }

    async fn is_listed(&self, bucket: &Bucket, met: &Met, has_versions: bool) -> S3Result<bool> {
        match met {
            Met::Key(key, Spot::Versions) => {
                Ok(has_versions && !self.older(&bucket.node, key).await.map_err(failed)?.is_empty())
            }
            Met::Key(_, spot) => Ok(self.at(spot).await.map_err(failed)?.is_some()),
            Met::Dir(_) => Ok(true),
        }
    }

    /// The versions of a key, the latest first; `false` where the page is full.
    async fn push_versions(&self, bucket: &Bucket, query: &Query, page: &mut Page, key: &str) -> Result<bool, S3Error> {
        let current = self.find(&bucket.node, key).await.map_err(failed)?;
        let mut older = self.older(&bucket.node, key).await.map_err(failed)?;
        if let Some(current) = &current {
            older.retain(|object| object.record.version != current.record.version);
        }
        older.sort_by_key(|object| std::cmp::Reverse(made_at(object)));
        let all: Vec<_> = current.into_iter().chain(older).collect();
        // Where a page ended within the versions of this key, those up to there came already.
        let marker = query.version_marker.as_deref().filter(|_| query.marker.as_deref() == Some(key));
        let first = marker.map_or(0, |marker| behind(&all, marker));
        for (index, object) in all.into_iter().enumerate().skip(first) {
            if !page.push(query, Item::Version(key.to_owned(), Box::new(object), index == 0)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The index of the first version behind one, which may have been removed since it was listed.
fn behind(versions: &[Object], marker: &str) -> usize {
    if let Some(index) = versions.iter().position(|object| object.record.version_name() == marker) {
        return index + 1;
    }
    let older = |object: &Object| made_at(object) < time_of(marker).unwrap_or(u64::MAX);
    versions.iter().position(older).unwrap_or(versions.len())
}

impl Page {
    /// Adds an item, where the page is not full yet.
    fn push(&mut self, query: &Query, item: Item) -> bool {
        if self.items.len() == query.count {
            self.is_truncated = true;
            return false;
        }
        (self.last, self.last_version) = match &item {
            Item::Object(key, _) => (Some(key.clone()), None),
            Item::Version(key, object, _) => (Some(key.clone()), Some(object.record.version_name().to_owned())),
            Item::Prefix(prefix) => (Some(prefix.clone()), None),
        };
        self.items.push(item);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_behind_what_came_last() {
        let query = |prefix: &str, delimiter: &str, marker: &str| Query {
            prefix: prefix.into(),
            delimiter: delimiter.into(),
            marker: Some(marker.into()),
            ..Query::default()
        };
        for (query, lower) in [
            (query("", "", "a"), "a\0"),
            (query("", "/", "a/"), "a0"),
            (query("", "/", "a/b"), "a/b\0"),
            (query("b", "", "a"), "b"),
            (query("a/", "/", "a/b/"), "a/b0"),
            (query("a/", "/", "a/"), "a/\0"),
        ] {
            assert_eq!(query.lower().as_deref(), Some(lower.as_bytes()), "{query:?}");
        }
        assert_eq!(Query { prefix: "x".into(), ..Query::default() }.lower().as_deref(), Some(&b"x"[..]));
        assert_eq!(after_all(b"\xff\xff"), None);
    }
}
