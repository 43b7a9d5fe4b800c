//! `GetObject`, `HeadObject`, `GetObjectAttributes`.

use std::ops::Range;

use s3s::{
    S3Error, S3ErrorCode, S3Response,
    dto::{
        self, Checksum, ChecksumMode, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectInput,
        GetObjectOutput, HeadObjectInput, HeadObjectOutput, ObjectAttributes, ObjectPart, Timestamp, TimestampFormat,
    },
};

use super::{Frontend, Told, number};
use crate::{
    body::body,
    conditions::{Conditions, seconds},
    failure::{S3Result, failed, refuse},
    objects::{Bucket, Object, Versioning},
    record::{Content, Sums, told_sums},
};

/// The type of what was put without one.
const CONTENT_TYPE: &str = "binary/octet-stream";

/// What of an object is asked for.
struct Wanted {
    conditions: Conditions,
    /// Whether checksums are asked for.
    has_sums: bool,
    range: Option<dto::Range>,
    part: Option<i32>,
    version: Option<String>,
}

/// What it is told with.
struct Found {
    object: Object,
    bytes: Range<u64>,
    /// Where the bytes are not all.
    content_range: Option<String>,
    /// The checksums that are told.
    sums: Sums,
    parts: Option<i32>,
    version: Option<String>,
}

/// What a request wants: one of two types of the library, with the same fields.
macro_rules! wanted {
    ($asked:ident) => {
        Wanted {
            conditions: Conditions {
                if_match: $asked.if_match,
                if_none_match: $asked.if_none_match,
                if_modified_since: $asked.if_modified_since,
                if_unmodified_since: $asked.if_unmodified_since,
            },
            has_sums: is_enabled($asked.checksum_mode.as_ref()),
            range: $asked.range,
            part: $asked.part_number,
            version: $asked.version_id,
        }
    };
}

/// What it is told of what was found, in the same way.
macro_rules! told {
    ($output:ident, $found:ident) => {{
        let Found { object, bytes, content_range, sums, parts, version } = $found;
        let header = |name: &str| object.record.headers.get(name).cloned();
        $output {
            accept_ranges: Some("bytes".to_owned()),
            cache_control: header("cache-control"),
            checksum_type: sums.kind(),
            content_disposition: header("content-disposition"),
            content_encoding: header("content-encoding"),
            content_language: header("content-language"),
            content_length: Some(number(bytes.end - bytes.start)),
            content_range,
            content_type: header("content-type").or_else(|| Some(CONTENT_TYPE.to_owned())),
            e_tag: Some(dto::ETag::Strong(object.etag())),
            expires: header("expires").and_then(|text| Timestamp::parse(TimestampFormat::HttpDate, &text).ok()),
            last_modified: Some(Timestamp::from(seconds(object.node.attr.mtime))),
            metadata: Some(object.record.metadata(&object.node.attr)).filter(|meta| !meta.is_empty()),
            parts_count: parts,
            version_id: version,
            website_redirect_location: header("x-amz-website-redirect-location"),
            ..told_sums!($output, sums)
        }
    }};
}

fn part_count(object: &Object) -> Option<i32> {
    let etag = object.etag();
    let content = object.record.content_of(&object.node.attr)?;
    let (_, count) = content.etag.split_once('-').filter(|_| content.etag == etag)?;
    count.parse().ok()
}

impl Frontend {
    /// The object, or the version of it, that is there.
    pub(super) async fn object(&self, bucket: &Bucket, key: &str, version: Option<&str>) -> S3Result<Object> {
        let buckets = &self.buckets;
        if let Some(version) = version {
            let found = buckets.find_version(&bucket.node, key, version).await?;
            if found.record.is_marker {
                let mut refused = S3Error::new(S3ErrorCode::MethodNotAllowed);
                refused.set_message("This version is a delete marker.");
                refused.set_headers(marker_headers(&found));
                return Err(refused);
            }
            return Ok(found);
        }
        if let Some(found) = buckets.find(&bucket.node, key).await.map_err(failed)? {
            return Ok(found);
        }
        let mut absent = S3Error::with_message(S3ErrorCode::NoSuchKey, "There is no such key.");
        if bucket.versioning() != Versioning::Off
            && let Some(marker) = buckets.marker(&bucket.node, key).await.map_err(failed)?
        {
            absent.set_headers(marker_headers(&marker));
        }
        Err(absent)
    }

    async fn found(&self, bucket: &str, key: &str, wanted: Wanted) -> S3Result<Found> {
        let bucket = self.buckets.bucket(bucket).await?;
        let object = self.object(&bucket, key, wanted.version.as_deref()).await?;
        wanted.conditions.check_read(&object)?;
        let size = object.size();
        let (mut bytes, mut is_part) = (0..size, false);
        let parts = wanted.part.and(part_count(&object));
        if let Some(part) = wanted.part {
            if wanted.range.is_some() {
                return refuse(S3ErrorCode::InvalidRequest, "A part, or a range: not both.");
            }
            (bytes, is_part) = (of_part(&object, part)?, parts.is_some());
        }
        if let Some(range) = wanted.range {
            let Ok(range) = range.check(size) else {
                let mut refused = S3Error::new(S3ErrorCode::InvalidRange);
                refused.set_message("The requested range is not satisfiable");
                if let Ok(value) = format!("bytes */{size}").parse() {
                    refused.set_headers([(hyper::header::CONTENT_RANGE, value)].into_iter().collect());
                }
                return Err(refused);
            };
            (bytes, is_part) = (range, true);
        }
        let content = object.record.content_of(&object.node.attr);
        let sums = match (content, wanted.part) {
            // A part has its own, and they are of the kind of the object's.
            (Some(content), Some(part)) if parts.is_some() => of_parts(content, part),
            (Some(content), _) if wanted.has_sums && !is_part => content.sums.clone(),
            _ => Sums::default(),
        };
        let content_range =
            (is_part && !bytes.is_empty()).then(|| format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1));
        let version = (bucket.versioning() != Versioning::Off).then(|| object.record.version_name().to_owned());
        Ok(Found { object, bytes, content_range, sums, parts, version })
    }

    pub(super) async fn read(&self, asked: GetObjectInput) -> Told<GetObjectOutput> {
        let found = self.found(&asked.bucket, &asked.key, wanted!(asked)).await?;
        let (node, bytes) = (found.object.node.clone(), found.bytes.clone());
        let blob = body(self.buckets.tree.clone(), node, bytes.start, bytes.end - bytes.start).await?;
        let tag_count = i32::try_from(found.object.record.tags.len()).ok().filter(|count| *count > 0);
        Ok(S3Response::new(GetObjectOutput { body: Some(blob), tag_count, ..told!(GetObjectOutput, found) }))
    }

    pub(super) async fn look(&self, asked: HeadObjectInput) -> Told<HeadObjectOutput> {
        let found = self.found(&asked.bucket, &asked.key, wanted!(asked)).await?;
        let tag_count = found.object.record.tags.len();
        let told = told!(HeadObjectOutput, found);
        let is_part = told.content_range.is_some();
        let status = if is_part { hyper::StatusCode::PARTIAL_CONTENT } else { hyper::StatusCode::OK };
        let mut response = S3Response::with_status(told, status);
        if tag_count > 0 {
            // The library has no field for it here.
            response.headers.insert("x-amz-tagging-count", tag_count.into());
        }
        Ok(response)
    }

    pub(super) async fn attributes(&self, asked: GetObjectAttributesInput) -> Told<GetObjectAttributesOutput> {
        let bucket = self.buckets.bucket(&asked.bucket).await?;
        let object = self.object(&bucket, &asked.key, asked.version_id.as_deref()).await?;
        let is_wanted = |name: &str| {
            // Several may come in one header.
            let mut wanted = asked.object_attributes.iter().flat_map(|attribute| attribute.as_str().split(','));
            wanted.any(|wanted| wanted.trim() == name)
        };
        let content = object.record.content_of(&object.node.attr);
        let sums = content.map(|content| content.sums.clone()).unwrap_or_default();
        let parts = part_count(&object).map(|total| {
            let marker = asked.part_number_marker.unwrap_or_default();
            let count = usize::try_from(asked.max_parts.unwrap_or(1000)).unwrap_or_default();
            let kept = content.map(|content| content.parts.as_slice()).unwrap_or_default();
            let mut left = kept.iter().filter(|part| part.number > marker);
            let told: Vec<_> = left.by_ref().take(count).collect();
            let is_truncated = left.next().is_some();
            let part = |part: &&crate::record::PartRecord| ObjectPart {
                part_number: Some(part.number),
                size: Some(number(part.size)),
                ..told_sums!(ObjectPart, part.sums.clone())
            };
            // As AWS does: of parts without checksums there is only how many they are.
            let has_sums = kept.iter().any(|part| !part.sums.is_empty());
            dto::GetObjectAttributesParts {
                is_truncated: Some(is_truncated),
                max_parts: Some(asked.max_parts.unwrap_or(1000)),
                next_part_number_marker: told.last().map(|part| part.number),
                part_number_marker: Some(marker),
                parts: has_sums.then(|| told.iter().map(part).collect()),
                total_parts_count: Some(total),
            }
        });
        Ok(S3Response::new(GetObjectAttributesOutput {
            checksum: (is_wanted(ObjectAttributes::CHECKSUM) && !sums.is_empty())
                .then(|| Checksum { checksum_type: sums.kind(), ..told_sums!(Checksum, sums.clone()) }),
            e_tag: is_wanted(ObjectAttributes::ETAG).then(|| dto::ETag::Strong(object.etag())),
            last_modified: Some(Timestamp::from(seconds(object.node.attr.mtime))),
            object_parts: parts.filter(|_| is_wanted(ObjectAttributes::OBJECT_PARTS)),
            object_size: is_wanted(ObjectAttributes::OBJECT_SIZE).then(|| number(object.size())),
            storage_class: is_wanted(ObjectAttributes::STORAGE_CLASS)
                .then(|| dto::StorageClass::from_static(dto::StorageClass::STANDARD)),
            version_id: (bucket.versioning() != Versioning::Off).then(|| object.record.version_name().to_owned()),
            ..GetObjectAttributesOutput::default()
        }))
    }
}

/// What a delete marker is told with.
fn marker_headers(marker: &Object) -> hyper::HeaderMap {
    let mut headers = hyper::HeaderMap::new();
    headers.insert("x-amz-delete-marker", hyper::header::HeaderValue::from_static("true"));
    if let Ok(version) = marker.record.version_name().parse() {
        headers.insert("x-amz-version-id", version);
    }
    headers
}

/// The bytes of a part of an object; those of one that came whole are its first.
fn of_part(object: &Object, part: i32) -> S3Result<Range<u64>> {
    let none = || refuse(S3ErrorCode::InvalidPart, "The requested partnumber is not satisfiable");
    let Some(content) = object.record.content_of(&object.node.attr).filter(|_| part_count(object).is_some()) else {
        return if part == 1 { Ok(0..object.size()) } else { none() };
    };
    // Parts are counted from 1 as they follow each other.
    let Some(index) = usize::try_from(part).ok().and_then(|part| part.checked_sub(1)) else { return none() };
    let Some(found) = content.parts.get(index) else { return none() };
    let start: u64 = content.parts.iter().take(index).map(|before| before.size).sum();
    Ok(start..start + found.size)
}

fn is_enabled(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

/// The checksums of a part, counted from 1.
fn of_parts(content: &Content, part: i32) -> Sums {
    let index = usize::try_from(part).ok().and_then(|part| part.checked_sub(1));
    let found = index.and_then(|index| content.parts.get(index)).map(|part| part.sums.clone()).unwrap_or_default();
    if found.is_empty() { found } else { Sums { is_composite: content.sums.is_composite, ..found } }
}
