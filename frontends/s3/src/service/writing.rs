//! `PutObject`, `DeleteObject`, `DeleteObjects`.

use std::collections::{BTreeMap, HashMap};

use s3s::{
    S3ErrorCode, S3Response,
    dto::{
        self, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, PutObjectInput,
        PutObjectOutput, Timestamp, TimestampFormat,
    },
};

use super::{Asked, Frontend, Told, id_of, number, tagging};
use crate::{
    conditions::Conditions,
    failure::{S3Result, failed, refuse},
    names::KEY_LEN_MAX,
    record::{Record, said_sums, told_sums},
    sums::{Algorithm, Claimed},
};

/// The most that one request removes: AWS's limit.
const REMOVED_COUNT_MAX: usize = 1000;
/// The most bytes of names and values of a user's metadata: AWS's limit.
const METADATA_LEN_MAX: usize = 2048;

/// What an object is told with, as it was put with.
#[derive(Debug, Default)]
pub(super) struct Headers {
    pub(super) cache_control: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) expires: Option<Timestamp>,
    pub(super) redirect: Option<String>,
}

impl Headers {
    pub(super) fn kept(self) -> BTreeMap<String, String> {
        let expires = self.expires.and_then(|time| {
            let mut text = Vec::new();
            time.format(TimestampFormat::HttpDate, &mut text).ok()?;
            String::from_utf8(text).ok()
        });
        // How the bytes came says nothing of them.
        let codings = self.content_encoding.map(|codings| {
            let kept: Vec<_> = codings.split(',').map(str::trim).filter(|coding| *coding != "aws-chunked").collect();
            kept.join(", ")
        });
        let pairs = [
            ("cache-control", self.cache_control),
            ("content-disposition", self.content_disposition),
            ("content-encoding", codings.filter(|codings| !codings.is_empty())),
            ("content-language", self.content_language),
            ("content-type", self.content_type),
            ("expires", expires),
            ("x-amz-website-redirect-location", self.redirect),
        ];
        pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// The user's metadata, as it is kept. The CID that an answer told is not metadata that came with it.
pub(super) fn metadata(told: Option<HashMap<String, String>>) -> S3Result<BTreeMap<String, String>> {
    let kept: BTreeMap<_, _> = told.unwrap_or_default().into_iter().collect();
    if kept.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > METADATA_LEN_MAX {
        let why = "Your metadata headers exceed the maximum allowed metadata size";
        return refuse(S3ErrorCode::Custom("MetadataTooLarge".into()), why).map_err(|mut error: s3s::S3Error| {
            error.set_status_code(hyper::StatusCode::BAD_REQUEST);
            error
        });
    }
    Ok(kept)
}

/// Refuses keys that are none.
pub(super) fn check_key(key: &str) -> S3Result<()> {
    if key.len() > KEY_LEN_MAX {
        return refuse(S3ErrorCode::KeyTooLongError, "Your key is too long");
    }
    if key.is_empty() {
        return refuse(S3ErrorCode::InvalidArgument, "A key is not empty.");
    }
    Ok(())
}

impl Frontend {
    pub(super) async fn put(&self, asked: Asked<PutObjectInput>) -> Told<PutObjectOutput> {
        let Asked { input, headers, trailing_headers, .. } = asked;
        check_key(&input.key)?;
        super::buckets::check_acl(input.acl.as_ref().map(dto::ObjectCannedACL::as_str))?;
        if input.server_side_encryption.is_some() || input.sse_customer_algorithm.is_some() {
            return refuse(S3ErrorCode::NotImplemented, "What is encrypted is said by the mount, not by requests.");
        }
        // The library takes an empty one for none.
        if headers.get("content-md5").is_some_and(hyper::header::HeaderValue::is_empty) {
            return refuse(S3ErrorCode::InvalidDigest, "Content-MD5 is 16 bytes in Base64.");
        }
        let conditions =
            Conditions { if_match: input.if_match, if_none_match: input.if_none_match, ..Conditions::default() };
        let bucket = self.buckets.bucket(&input.bucket).await?;
        // What cannot be put does not have to be sent first.
        let old = self.buckets.find(&bucket.node, &input.key).await.map_err(failed)?;
        conditions.check_write(old.as_ref())?;
        let kept = Headers {
            cache_control: input.cache_control,
            content_disposition: input.content_disposition,
            content_encoding: input.content_encoding,
            content_language: input.content_language,
            content_type: input.content_type,
            expires: input.expires,
            redirect: input.website_redirect_location,
        };
        let record = Record {
            headers: kept.kept(),
            meta: metadata(input.metadata)?,
            tags: tagging::of_header(input.tagging.as_deref())?,
            ..Record::default()
        };
        let sums = said_sums!(input);
        let algorithm = input.checksum_algorithm.as_ref().map(|it| Algorithm::parse(it.as_str())).transpose()?;
        let claimed = Claimed { md5: input.content_md5, sums, trailers: trailing_headers, algorithm };
        let algorithms = claimed.algorithms(&headers);
        let work = self.buckets.tree.work_file(&bucket.node).await.map_err(failed)?;
        let put = async {
            let said = (&claimed, algorithms.as_slice());
            let came = self.receiver().receive(&work.file, input.body, input.content_length, said).await?;
            let record = Record { content: Some(came.clone()), ..record };
            let version = self.buckets.commit((&input.bucket, &input.key), &work, record, &conditions).await?;
            Ok((came, version))
        };
        let (content, version) = self.or_discard(&work, put.await).await?;
        Ok(S3Response::new(PutObjectOutput {
            checksum_type: content.sums.kind(),
            e_tag: Some(dto::ETag::Strong(content.etag)),
            version_id: version,
            ..told_sums!(PutObjectOutput, content.sums)
        }))
    }

    pub(super) async fn remove(&self, asked: DeleteObjectInput) -> Told<DeleteObjectOutput> {
        let conditions = Conditions { if_match: asked.if_match, ..Conditions::default() };
        if asked.if_match_size.is_some() || asked.if_match_last_modified_time.is_some() {
            self.check_exactly(
                (&asked.bucket, &asked.key),
                asked.version_id.as_deref(),
                asked.if_match_size,
                asked.if_match_last_modified_time.as_ref(),
            )
            .await?;
        }
        let place = (asked.bucket.as_str(), asked.key.as_str());
        let removed = self.buckets.delete(place, asked.version_id.as_deref(), &conditions).await?;
        let told = DeleteObjectOutput {
            delete_marker: removed.is_marker.then_some(true),
            version_id: removed.version,
            ..DeleteObjectOutput::default()
        };
        Ok(S3Response::with_status(told, hyper::StatusCode::NO_CONTENT))
    }

    /// Whether what is to be removed has this length and this time.
    async fn check_exactly(
        &self,
        (bucket, key): (&str, &str),
        version: Option<&str>,
        size: Option<i64>,
        time: Option<&Timestamp>,
    ) -> S3Result<()> {
        let bucket = self.buckets.bucket(bucket).await?;
        let object = self.object(&bucket, key, version).await?;
        let modified = Timestamp::from(crate::conditions::seconds(object.node.attr.mtime));
        if size.is_some_and(|size| size != number(object.size())) || time.is_some_and(|time| *time != modified) {
            return refuse(S3ErrorCode::PreconditionFailed, "At least one of the conditions does not hold.");
        }
        Ok(())
    }

    pub(super) async fn remove_many(&self, asked: Asked<DeleteObjectsInput>) -> Told<DeleteObjectsOutput> {
        let Asked { input, credentials, .. } = asked;
        let id = id_of(credentials.as_ref());
        let wanted = input.delete.objects;
        if wanted.is_empty() || wanted.len() > REMOVED_COUNT_MAX {
            return refuse(S3ErrorCode::MalformedXML, "One request removes 1 to 1000 objects.");
        }
        self.buckets.bucket(&input.bucket).await?;
        let is_quiet = input.delete.quiet.unwrap_or_default();
        let (mut removed, mut errors) = (Vec::new(), Vec::new());
        for one in wanted {
            let version = one.version_id.as_deref();
            let done = async {
                check_key(&one.key)?;
                if !self.buckets.keys.may_write(id, &input.bucket, &one.key) {
                    return refuse(S3ErrorCode::AccessDenied, "This key is for something else.");
                }
                if one.size.is_some() || one.last_modified_time.is_some() {
                    let time = one.last_modified_time.as_ref();
                    self.check_exactly((&input.bucket, &one.key), version, one.size, time).await?;
                }
                let if_match = one.e_tag.clone().map(dto::ETagCondition::ETag);
                let conditions = Conditions { if_match, ..Conditions::default() };
                self.buckets.delete((&input.bucket, &one.key), version, &conditions).await
            };
            match done.await {
                Ok(_) if is_quiet => {}
                Ok(done) => removed.push(dto::DeletedObject {
                    delete_marker: done.is_marker.then_some(true),
                    delete_marker_version_id: done.version.filter(|_| done.is_marker),
                    key: Some(one.key),
                    version_id: one.version_id,
                }),
                Err(failure) => errors.push(dto::Error {
                    code: Some(failure.code().as_str().to_owned()),
                    key: Some(one.key),
                    message: failure.message().map(str::to_owned),
                    version_id: one.version_id,
                }),
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(removed),
            errors: Some(errors),
            ..DeleteObjectsOutput::default()
        }))
    }
}
