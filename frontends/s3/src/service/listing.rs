//! `ListObjects`, `ListObjectsV2`, `ListObjectVersions`.

use std::fmt::Write as _;

use multibase::Base;
use s3s::{
    S3ErrorCode, S3Response,
    dto::{
        self, CommonPrefix, DeleteMarkerEntry, EncodingType, ListObjectVersionsInput, ListObjectVersionsOutput,
        ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, ObjectStorageClass,
        ObjectVersion, ObjectVersionStorageClass, Timestamp,
    },
};

use super::{Frontend, Told, number, owner};
use crate::{
    conditions::seconds,
    failure::{S3Result, refuse},
    list::{Item, PAGE_COUNT_MAX, Page, Query},
    objects::Object,
};

/// How many items a page may have that is asked for.
pub(super) fn count(asked: Option<i32>) -> S3Result<(i32, usize)> {
    match asked.unwrap_or(PAGE_COUNT_MAX) {
        ..0 => refuse(S3ErrorCode::InvalidArgument, "A page has no fewer than 0 items."),
        asked => Ok((asked, usize::try_from(asked.min(PAGE_COUNT_MAX)).unwrap_or_default())),
    }
}

/// Writes text as it was asked for: XML cannot have each character of a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer(bool);

impl Writer {
    pub(super) fn new(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self(false)),
            Some("url") => Ok(Self(true)),
            Some(_) => refuse(S3ErrorCode::InvalidArgument, "Invalid Encoding Method specified in Request"),
        }
    }

    pub(super) fn text(self, text: &str) -> String {
        if !self.0 {
            return text.to_owned();
        }
        let mut escaped = String::with_capacity(text.len());
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.*/".contains(&byte) {
                escaped.push(char::from(byte));
            } else {
                _ = write!(escaped, "%{byte:02X}");
            }
        }
        escaped
    }

    fn opt(self, text: Option<String>) -> Option<String> {
        text.map(|text| self.text(&text))
    }
}

/// What a page is told as.
struct Told2 {
    objects: Vec<dto::Object>,
    prefixes: Vec<CommonPrefix>,
}

fn told(page: &Page, writer: Writer, has_owner: bool) -> Told2 {
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    for item in &page.items {
        match item {
            Item::Object(key, object) => objects.push(one(key, object, writer, has_owner)),
            Item::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(writer.text(prefix)) }),
            Item::Found(..) | Item::Version(..) => {}
        }
    }
    Told2 { objects, prefixes }
}

fn one(key: &str, object: &Object, writer: Writer, has_owner: bool) -> dto::Object {
    let sums = object.record.content_of(&object.node.attr).map(|content| &content.sums);
    let algorithms = sums.map(|sums| {
        let has = crate::sums::ALL.into_iter().filter(|algorithm| algorithm.of(sums).is_some());
        has.map(|algorithm| dto::ChecksumAlgorithm::from_static(algorithm.name())).collect()
    });
    dto::Object {
        checksum_algorithm: algorithms,
        checksum_type: sums.and_then(crate::record::Sums::kind),
        e_tag: Some(dto::ETag::Strong(object.etag())),
        key: Some(writer.text(key)),
        last_modified: Some(Timestamp::from(seconds(object.node.attr.mtime))),
        owner: has_owner.then(owner),
        restore_status: None,
        size: Some(number(object.size())),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
    }
}

/// A token says what came last, in letters that go anywhere.
fn token(last: &str) -> String {
    Base::Base64Url.encode(last)
}

fn of_token(token: &str) -> S3Result<String> {
    let bytes = Base::Base64Url.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match bytes.filter(|_| !token.is_empty()) {
        Some(last) => Ok(last),
        None => refuse(S3ErrorCode::InvalidArgument, "The continuation token provided is incorrect"),
    }
}

impl Frontend {
    pub(super) async fn list_first(&self, asked: ListObjectsInput) -> Told<ListObjectsOutput> {
        let (count_asked, count) = count(asked.max_keys)?;
        let writer = Writer::new(asked.encoding_type.as_ref())?;
        let bucket = self.buckets.bucket(&asked.bucket).await?;
        let query = Query {
            prefix: asked.prefix.clone().unwrap_or_default(),
            delimiter: asked.delimiter.clone().unwrap_or_default(),
            marker: asked.marker.clone().filter(|marker| !marker.is_empty()),
            version_marker: None,
            count,
        };
        let page = self.buckets.list(&bucket, &query, false).await?;
        let Told2 { objects, prefixes } = told(&page, writer, true);
        // As AWS does: without a delimiter the last key says it.
        let next = page.last.filter(|_| page.is_truncated && !query.delimiter.is_empty());
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(asked.bucket),
            prefix: Some(writer.text(&query.prefix)),
            marker: Some(writer.text(&asked.marker.unwrap_or_default())),
            max_keys: Some(count_asked),
            is_truncated: Some(page.is_truncated),
            contents: Some(objects),
            common_prefixes: Some(prefixes),
            delimiter: writer.opt(asked.delimiter.filter(|delimiter| !delimiter.is_empty())),
            next_marker: writer.opt(next),
            encoding_type: asked.encoding_type,
            ..ListObjectsOutput::default()
        }))
    }

    pub(super) async fn list_second(&self, asked: ListObjectsV2Input) -> Told<ListObjectsV2Output> {
        let (count_asked, count) = count(asked.max_keys)?;
        let writer = Writer::new(asked.encoding_type.as_ref())?;
        let bucket = self.buckets.bucket(&asked.bucket).await?;
        let marker = match asked.continuation_token.as_ref().filter(|token| !token.is_empty()) {
            Some(token) => Some(of_token(token)?),
            None => asked.start_after.clone().filter(|after| !after.is_empty()),
        };
        let query = Query {
            prefix: asked.prefix.clone().unwrap_or_default(),
            delimiter: asked.delimiter.clone().unwrap_or_default(),
            marker,
            version_marker: None,
            count,
        };
        let page = self.buckets.list(&bucket, &query, false).await?;
        let Told2 { objects, prefixes } = told(&page, writer, asked.fetch_owner.unwrap_or_default());
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(asked.bucket),
            prefix: Some(writer.text(&query.prefix)),
            max_keys: Some(count_asked),
            key_count: Some(i32::try_from(page.items.len()).unwrap_or(i32::MAX)),
            continuation_token: asked.continuation_token,
            is_truncated: Some(page.is_truncated),
            next_continuation_token: page.last.filter(|_| page.is_truncated).map(|last| token(&last)),
            contents: Some(objects),
            common_prefixes: Some(prefixes),
            delimiter: writer.opt(asked.delimiter.filter(|delimiter| !delimiter.is_empty())),
            encoding_type: asked.encoding_type,
            start_after: writer.opt(asked.start_after),
            ..ListObjectsV2Output::default()
        }))
    }

    pub(super) async fn list_versions(&self, asked: ListObjectVersionsInput) -> Told<ListObjectVersionsOutput> {
        let (count_asked, count) = count(asked.max_keys)?;
        let writer = Writer::new(asked.encoding_type.as_ref())?;
        let bucket = self.buckets.bucket(&asked.bucket).await?;
        let query = Query {
            prefix: asked.prefix.clone().unwrap_or_default(),
            delimiter: asked.delimiter.clone().unwrap_or_default(),
            marker: asked.key_marker.clone().filter(|marker| !marker.is_empty()),
            version_marker: asked.version_id_marker.clone().filter(|marker| !marker.is_empty()),
            count,
        };
        let page = self.buckets.list(&bucket, &query, true).await?;
        let (mut versions, mut markers, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
        for item in &page.items {
            match item {
                Item::Version(key, object, is_latest) if object.record.is_marker => markers.push(DeleteMarkerEntry {
                    is_latest: Some(*is_latest),
                    key: Some(writer.text(key)),
                    last_modified: Some(Timestamp::from(seconds(object.node.attr.mtime))),
                    owner: Some(owner()),
                    version_id: Some(object.record.version_name().to_owned()),
                }),
                Item::Version(key, object, is_latest) => versions.push(ObjectVersion {
                    e_tag: Some(dto::ETag::Strong(object.etag())),
                    is_latest: Some(*is_latest),
                    key: Some(writer.text(key)),
                    last_modified: Some(Timestamp::from(seconds(object.node.attr.mtime))),
                    owner: Some(owner()),
                    size: Some(number(object.size())),
                    storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
                    version_id: Some(object.record.version_name().to_owned()),
                    ..ObjectVersion::default()
                }),
                Item::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(writer.text(prefix)) }),
                Item::Found(..) | Item::Object(..) => {}
            }
        }
        let is_truncated = page.is_truncated;
        Ok(S3Response::new(ListObjectVersionsOutput {
            common_prefixes: Some(prefixes),
            delete_markers: Some(markers),
            delimiter: writer.opt(asked.delimiter.filter(|delimiter| !delimiter.is_empty())),
            encoding_type: asked.encoding_type,
            is_truncated: Some(is_truncated),
            key_marker: Some(writer.text(&asked.key_marker.unwrap_or_default())),
            max_keys: Some(count_asked),
            name: Some(asked.bucket),
            next_key_marker: writer.opt(page.last.filter(|_| is_truncated)),
            next_version_id_marker: page.last_version.filter(|_| is_truncated),
            prefix: Some(writer.text(&query.prefix)),
            version_id_marker: Some(asked.version_id_marker.unwrap_or_default()),
            versions: Some(versions),
            ..ListObjectVersionsOutput::default()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_carry_what_came_last() {
        for last in ["a", "a/b c\u{e4}\n", "/"] {
            assert_eq!(of_token(&token(last)).expect("a token"), last);
        }
        for bad in ["", "!", "_w"] {
            of_token(bad).expect_err(bad);
        }
    }

    #[test]
    fn text_is_escaped_where_that_is_asked_for() {
        let url = EncodingType::from_static("url");
        let writer = Writer::new(Some(&url)).expect("known");
        assert_eq!(writer.text("a b/c+\u{e4}\n"), "a%20b/c%2B%C3%A4%0A");
        assert_eq!(Writer::new(None).expect("none").text("a b"), "a b");
    }
}
