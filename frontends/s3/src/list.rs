//! Listings: pages of keys, of what they begin with, and of versions.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muxfs::{Name, Result};
use s3s::S3Error;

use crate::{
    failure::{S3Result, failed},
    objects::{Bucket, Buckets, Object},
    record::is_version,
    sorted::{after, after_all},
    versions::order_of,
    walk::{Met, Spot, Walk},
};

/// The most that a page has: AWS's limit.
pub(crate) const PAGE_COUNT_MAX: i32 = 1000;

/// How many objects are looked at at once: enough to hide where they lie.
const LOOK_COUNT: usize = 16;

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
    /// A key that is to be looked at: none is left once the page is whole.
    Found(String, Box<Spot>),
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
                !page.push(query, Item::Found(key.clone(), Box::new(spot)))
            };
            if is_full {
                break;
            }
            last_key = Some(key);
        }
        self.look_at(&mut page).await?;
        Ok(page)
    }

    /// Looks at the objects that were found, several at a time. One that went meanwhile is not listed.
    async fn look_at(&self, page: &mut Page) -> S3Result<()> {
        let look = |item| async move {
            match item {
                Item::Found(key, spot) => {
                    let object = self.at(&spot).await.map_err(failed)?;
                    Ok::<_, S3Error>(object.map(|object| Item::Object(key, Box::new(object))))
                }
                other => Ok(Some(other)),
            }
        };
        let items: Vec<_> = page.items.drain(..).map(look).collect();
        let looked: Vec<_> = stream::iter(items).buffered(LOOK_COUNT).try_collect().await?;
        page.items = looked.into_iter().flatten().collect();
        Ok(())
    }

    async fn is_listed(&self, bucket: &Bucket, met: &Met, has_versions: bool) -> S3Result<bool> {
        match met {
            Met::Key(key, Spot::Versions) => {
                Ok(has_versions && self.newest(&bucket.node, key, None).await.map_err(failed)?.is_some())
            }
            Met::Key(_, spot) => Ok(self.at(spot).await.map_err(failed)?.is_some()),
            Met::Dir(_) => Ok(true),
        }
    }

    /// The versions of a key, the latest first; `false` where the page is full.
    async fn push_versions(&self, bucket: &Bucket, query: &Query, page: &mut Page, key: &str) -> S3Result<bool> {
        let current = self.find(&bucket.node, key).await.map_err(failed)?;
        // Where a page ended within the versions of this key, those up to there came already.
        let marker = query.version_marker.as_deref().filter(|_| query.marker.as_deref() == Some(key));
        let lower = match marker {
            Some(marker) => self.behind(bucket, key, current.as_ref(), marker).await.map_err(failed)?,
            None => Behind::Nothing,
        };
        let mut is_latest = matches!(lower, Behind::Nothing);
        let name = current.as_ref().map(|current| current.record.version_name().to_owned());
        if let Some(current) = current.filter(|current| lower.has(current)) {
            if !page.push(query, Item::Version(key.to_owned(), Box::new(current), true)) {
                return Ok(false);
            }
            is_latest = false;
        }
        let Some(mut older) = self.older(&bucket.node, key, lower.bound()).await.map_err(failed)? else {
            return Ok(true);
        };
        while let Some(object) = older.next(self).await.map_err(failed)? {
            if name.as_deref() == Some(object.record.version_name()) {
                continue;
            }
            if !page.push(query, Item::Version(key.to_owned(), Box::new(object), is_latest)) {
                return Ok(false);
            }
            is_latest = false;
        }
        Ok(true)
    }

    /// What is behind a version that came last, which may have been removed since.
    async fn behind(&self, bucket: &Bucket, key: &str, current: Option<&Object>, marker: &str) -> Result<Behind> {
        if current.is_some_and(|current| current.record.version_name() == marker) {
            return Ok(Behind::Current);
        }
        if is_version(marker) {
            return Ok(Behind::Order(after(marker.as_bytes())));
        }
        // When the one called null was made is known as long as it is there.
        let Some((_, dir)) = self.versions_dir(&bucket.node, key).await? else { return Ok(Behind::Nothing) };
        let Ok(name) = Name::new(marker.as_bytes()) else { return Ok(Behind::Nothing) };
        Ok(match self.file(&dir, &name).await? {
            Some(object) => Behind::Order(after(order_of(&object).as_bytes())),
            None => Behind::Nothing,
        })
    }
}

/// Where the versions of a key go on.
enum Behind {
    /// At the first one.
    Nothing,
    /// Behind the one that lies where the key says.
    Current,
    /// Here, in their order.
    Order(Vec<u8>),
}

impl Behind {
    /// Whether the version that lies where the key says is still to come.
    fn has(&self, current: &Object) -> bool {
        match self {
            Self::Nothing => true,
            Self::Current => false,
            Self::Order(lower) => order_of(current).as_bytes() >= lower.as_slice(),
        }
    }

    fn bound(&self) -> &[u8] {
        match self {
            Self::Order(lower) => lower,
            Self::Nothing | Self::Current => b"",
        }
    }
}

impl Page {
    /// Adds an item, where the page is not full yet.
    fn push(&mut self, query: &Query, item: Item) -> bool {
        if self.items.len() == query.count {
            self.is_truncated = true;
            return false;
        }
        (self.last, self.last_version) = match &item {
            Item::Found(key, _) | Item::Object(key, _) => (Some(key.clone()), None),
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
