//! `CopyObject`: a file that shares the blocks of another.

use s3s::{
    S3ErrorCode, S3Response,
    dto::{
        self, CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, ETagCondition, MetadataDirective,
        TaggingDirective, Timestamp,
    },
};

use super::{
    Asked, Frontend, Told, id_of, tagging,
    writing::{Headers, check_key, metadata},
};
use crate::{
    conditions::{Conditions, seconds},
    failure::{S3Result, failed, refuse},
    objects::{Object, Versioning},
    record::{Content, Record, nanos, told_sums},
};

/// A condition of a header.
fn condition(headers: &hyper::HeaderMap, name: &hyper::header::HeaderName) -> S3Result<Option<ETagCondition>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match ETagCondition::parse_http_header(value.as_bytes()) {
        Ok(condition) => Ok(Some(condition)),
        Err(_) => refuse(S3ErrorCode::InvalidArgument, "A condition is an ETag, or an asterisk."),
    }
}

impl Frontend {
    /// What is copied from, if the key that asks may read it, and its version.
    pub(super) async fn source(
        &self,
        source: &CopySource,
        id: Option<&str>,
        conditions: &Conditions,
    ) -> S3Result<(Object, Option<String>)> {
        let CopySource::Bucket { bucket, key, version_id } = source else {
            return refuse(S3ErrorCode::NotImplemented, "There are no access points here.");
        };
        if !self.buckets.keys.may_read(id, bucket, key) {
            return refuse(S3ErrorCode::AccessDenied, "This key is for something else.");
        }
        let bucket = self.buckets.bucket(bucket).await?;
        let object = self.object(&bucket, key, version_id.as_deref()).await?;
        conditions.check_source(&object)?;
        let version = (bucket.versioning() != Versioning::Off).then(|| object.record.version_name().to_owned());
        Ok((object, version))
    }

    pub(super) async fn copy(&self, asked: Asked<CopyObjectInput>) -> Told<CopyObjectOutput> {
        let Asked { input, credentials, headers: told, .. } = asked;
        check_key(&input.key)?;
        super::buckets::check_acl(input.acl.as_ref().map(dto::ObjectCannedACL::as_str))?;
        let conditions = Conditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        };
        // The library has no fields for those of the target.
        let target_conditions = Conditions {
            if_match: condition(&told, &hyper::header::IF_MATCH)?,
            if_none_match: condition(&told, &hyper::header::IF_NONE_MATCH)?,
            ..Conditions::default()
        };
        let id = id_of(credentials.as_ref());
        let (source, source_version) = self.source(&input.copy_source, id, &conditions).await?;
        let is_new = |directive: Option<&str>, replace| directive == Some(replace);
        let has_meta =
            is_new(input.metadata_directive.as_ref().map(MetadataDirective::as_str), MetadataDirective::REPLACE);
        let has_tags =
            is_new(input.tagging_directive.as_ref().map(TaggingDirective::as_str), TaggingDirective::REPLACE);
        if let CopySource::Bucket { bucket, key, version_id: None } = &input.copy_source
            && (bucket.as_ref(), key.as_ref()) == (input.bucket.as_str(), input.key.as_str())
            && !has_meta
            && !has_tags
            && input.storage_class.is_none()
        {
            let why = "This copy request is illegal because it is trying to copy an object to itself without changing \
                       the object's metadata, storage class, website redirect location or encryption attributes.";
            return refuse(S3ErrorCode::InvalidRequest, why);
        }
        let (mut headers, mut meta) = (source.record.headers.clone(), source.record.meta.clone());
        if has_meta {
            let told = Headers {
                cache_control: input.cache_control,
                content_disposition: input.content_disposition,
                content_encoding: input.content_encoding,
                content_language: input.content_language,
                content_type: input.content_type,
                expires: input.expires,
                redirect: input.website_redirect_location,
            };
            (headers, meta) = (told.kept(), metadata(input.metadata)?);
        }
        let tags = if has_tags { tagging::of_header(input.tagging.as_deref())? } else { source.record.tags.clone() };
        let target = self.buckets.bucket(&input.bucket).await?;
        let tree = &self.buckets.tree;
        let work = tree.work_file(&target.node).await.map_err(failed)?;
        let copied = async {
            let size = source.size();
            if size > 0 && tree.copy((source.node.ino(), 0), (work.file.ino(), 0), size).await.map_err(failed)? != size
            {
                return refuse(S3ErrorCode::OperationAborted, "What is copied was changed meanwhile.");
            }
            let attr = tree.vfs.getattr(work.file.ino()).await.map_err(failed)?;
            // What was changed while it was copied is nothing that was ever said to be there.
            let now = tree.vfs.getattr(source.node.ino()).await.map_err(failed)?;
            if size > 0 && now.mtime != source.node.attr.mtime {
                return refuse(S3ErrorCode::OperationAborted, "What is copied was changed meanwhile.");
            }
            // The same bytes have the same ETag and checksums; of those that nobody knows none become known.
            let known = source.record.content_of(&source.node.attr).cloned();
            let content = match known {
                Some(known) => Some(Content { mtime: nanos(attr.mtime), ..known }),
                None if source.record.is_folder => Some(Content {
                    etag: crate::record::EMPTY_ETAG.to_owned(),
                    mtime: nanos(attr.mtime),
                    ..Content::default()
                }),
                None => None,
            };
            let record = Record { content, headers, meta, tags, ..Record::default() };
            let etag = record.etag(&attr);
            let sums = record.content.as_ref().map(|content| content.sums.clone()).unwrap_or_default();
            let place = (input.bucket.as_str(), input.key.as_str());
            let version = self.buckets.commit(place, &work, record, &target_conditions).await?;
            Ok((etag, sums, version, attr))
        };
        let (etag, sums, version, attr) = self.or_discard(&work, copied.await).await?;
        let result = CopyObjectResult {
            checksum_type: sums.kind(),
            e_tag: Some(dto::ETag::Strong(etag)),
            last_modified: Some(Timestamp::from(seconds(attr.mtime))),
            ..told_sums!(CopyObjectResult, sums)
        };
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(result),
            copy_source_version_id: source_version,
            version_id: version,
            ..CopyObjectOutput::default()
        }))
    }
}
