//! Uploads in parts, as clients ask for them.

use bytes::Bytes;
use s3s::{
    S3ErrorCode, S3Response,
    dto::{
        self, AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm, ChecksumType, CommonPrefix,
        CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CopyPartResult, CreateMultipartUploadInput,
        CreateMultipartUploadOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput,
        ListPartsOutput, MultipartUpload, Part, Timestamp, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput,
        UploadPartOutput,
    },
};

use super::{
    Asked, Frontend, OWNER, Told, id_of,
    listing::{Writer, count},
    number, owner, tagging,
    writing::{Headers, check_key, metadata},
};
use crate::{
    begun::{self, Begun},
    conditions::{Conditions, seconds},
    failure::{S3Result, failed, refuse},
    multipart::Upload,
    objects::{Buckets, Object},
    receive::{BODY_LEN_MAX, hex},
    record::{Content, Record, nanos, said_sums, told_sums},
    sums::{Algorithm, Claimed, Hashing},
    tree::Work,
};

/// How much of what is copied is hashed at a time, in bytes.
const READ_LEN: u64 = 1 << 20;

fn initiator() -> dto::Initiator {
    dto::Initiator { display_name: Some(OWNER.to_owned()), id: Some(OWNER.to_owned()) }
}

fn begun_at(upload: &Upload) -> Option<Timestamp> {
    let since = std::time::Duration::from_nanos(upload.record.begun?);
    Some(Timestamp::from(seconds(std::time::UNIX_EPOCH + since)))
}

fn kind_of(upload: &Upload) -> Option<ChecksumType> {
    let kind = if upload.record.is_composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
    upload.record.algorithm.as_ref().map(|_| ChecksumType::from_static(kind))
}

impl Frontend {
    pub(super) async fn begin(&self, asked: CreateMultipartUploadInput) -> Told<CreateMultipartUploadOutput> {
        check_key(&asked.key)?;
        super::buckets::check_acl(asked.acl.as_ref().map(dto::ObjectCannedACL::as_str))?;
        let algorithm = asked.checksum_algorithm.as_ref().map(|it| Algorithm::parse(it.as_str())).transpose()?;
        let is_composite = match (algorithm, asked.checksum_type.as_ref().map(ChecksumType::as_str)) {
            (None, None) => false,
            (None, Some(_)) => {
                let why = "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.";
                return refuse(S3ErrorCode::InvalidRequest, why);
            }
            (Some(algorithm), None) => algorithm.is_composite_by_itself(),
            (Some(Algorithm::Sha1 | Algorithm::Sha256), Some(ChecksumType::FULL_OBJECT)) => {
                return refuse(S3ErrorCode::InvalidRequest, "A hash of all bytes does not follow from those of parts.");
            }
            (Some(Algorithm::Crc64Nvme), Some(ChecksumType::COMPOSITE)) => {
                return refuse(S3ErrorCode::InvalidRequest, "CRC64NVME is of all bytes.");
            }
            (Some(_), Some(kind)) => kind == ChecksumType::COMPOSITE,
        };
        let bucket = self.buckets.bucket(&asked.bucket).await?;
        let kept = Headers {
            cache_control: asked.cache_control,
            content_disposition: asked.content_disposition,
            content_encoding: asked.content_encoding,
            content_language: asked.content_language,
            content_type: asked.content_type,
            expires: asked.expires,
            redirect: asked.website_redirect_location,
        };
        let record = Record {
            headers: kept.kept(),
            meta: metadata(asked.metadata)?,
            tags: tagging::of_header(asked.tagging.as_deref())?,
            algorithm: algorithm.map(|algorithm| algorithm.name().to_owned()),
            is_composite,
            ..Record::default()
        };
        let id = self.buckets.begin(&bucket, &asked.key, record).await?;
        let kind = if is_composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(asked.bucket),
            checksum_algorithm: algorithm.map(|algorithm| ChecksumAlgorithm::from_static(algorithm.name())),
            checksum_type: algorithm.map(|_| ChecksumType::from_static(kind)),
            key: Some(asked.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    pub(super) async fn part(&self, asked: Asked<UploadPartInput>) -> Told<UploadPartOutput> {
        let Asked { input, headers, trailing_headers, .. } = asked;
        Buckets::check_part(input.part_number)?;
        let bucket = self.buckets.bucket(&input.bucket).await?;
        let upload = self.buckets.upload(&bucket, &input.key, &input.upload_id).await?;
        let sums = said_sums!(input);
        let algorithm = input.checksum_algorithm.as_ref().map(|it| Algorithm::parse(it.as_str())).transpose()?;
        let claimed = Claimed { md5: input.content_md5, sums, trailers: trailing_headers, algorithm };
        let mut algorithms = claimed.algorithms(&headers);
        let wanted = upload.algorithm().unwrap_or(Algorithm::Crc64Nvme);
        if !algorithms.contains(&wanted) {
            algorithms.push(wanted);
        }
        let work = self.buckets.tree.work_file(&bucket.node).await.map_err(failed)?;
        let put = async {
            let told = (&claimed, algorithms.as_slice());
            let came = self.receiver().receive(&work.file, input.body, input.content_length, told).await?;
            self.buckets.put_part(&upload, input.part_number, &work, came.clone()).await?;
            Ok(came)
        };
        let content = self.or_discard(&work, put.await).await?;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(dto::ETag::Strong(content.etag)),
            ..told_sums!(UploadPartOutput, content.sums)
        }))
    }

    pub(super) async fn copied_part(&self, asked: Asked<UploadPartCopyInput>) -> Told<UploadPartCopyOutput> {
        let Asked { input, credentials, .. } = asked;
        Buckets::check_part(input.part_number)?;
        let bucket = self.buckets.bucket(&input.bucket).await?;
        let upload = self.buckets.upload(&bucket, &input.key, &input.upload_id).await?;
        let conditions = Conditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        };
        let id = id_of(credentials.as_ref());
        let (source, source_version) = self.source(&input.copy_source, id, &conditions).await?;
        let range = of_range(input.copy_source_range.as_deref(), source.size())?;
        let work = self.buckets.tree.work_file(&bucket.node).await.map_err(failed)?;
        let put = async {
            let content = self.copy_hashed(&source, range, &work, &upload).await?;
            self.buckets.put_part(&upload, input.part_number, &work, content.clone()).await?;
            Ok(content)
        };
        let content = self.or_discard(&work, put.await).await?;
        let attr = self.buckets.tree.vfs.getattr(work.file.ino()).await.map_err(failed)?;
        let result = CopyPartResult {
            e_tag: Some(dto::ETag::Strong(content.etag)),
            last_modified: Some(Timestamp::from(seconds(attr.mtime))),
            ..told_sums!(CopyPartResult, content.sums)
        };
        Ok(S3Response::new(UploadPartCopyOutput {
            copy_part_result: Some(result),
            copy_source_version_id: source_version,
            ..UploadPartCopyOutput::default()
        }))
    }

    /// Copies a part of an object, sharing its blocks, and reads what was copied for its hashes.
    async fn copy_hashed(
        &self,
        source: &Object,
        range: std::ops::Range<u64>,
        work: &Work,
        upload: &Upload,
    ) -> S3Result<Content> {
        let (tree, len) = (&self.buckets.tree, range.end - range.start);
        if len > 0 {
            let copied =
                tree.copy((source.node.ino(), range.start), (work.file.ino(), 0), len).await.map_err(failed)?;
            if copied != len {
                return refuse(S3ErrorCode::OperationAborted, "What is copied was changed meanwhile.");
            }
        }
        let mut hashing = Hashing::new(&[upload.algorithm().unwrap_or(Algorithm::Crc64Nvme)]);
        let mut at = 0;
        while at < len {
            let wanted = u32::try_from((len - at).min(READ_LEN)).unwrap_or(u32::MAX);
            let bytes: Bytes = tree.vfs.read(work.file.ino(), at, wanted).await.map_err(failed)?;
            if bytes.is_empty() {
                break;
            }
            at += bytes.len() as u64;
            hashing.give(&self.hashers, bytes).await.map_err(failed)?;
        }
        let hashed = hashing.finish();
        let mtime = nanos(tree.vfs.getattr(work.file.ino()).await.map_err(failed)?.mtime);
        Ok(Content { etag: hex(&hashed.md5), size: len, mtime, sums: hashed.sums, parts: Vec::new() })
    }

    pub(super) async fn complete(&self, asked: CompleteMultipartUploadInput) -> Told<CompleteMultipartUploadOutput> {
        let bucket = self.buckets.bucket(&asked.bucket).await?;
        let location = Some(format!("/{}/{}", asked.bucket, asked.key));
        let upload = match self.buckets.upload(&bucket, &asked.key, &asked.upload_id).await {
            Err(gone) if *gone.code() == S3ErrorCode::NoSuchUpload => {
                let Some(done) = self.buckets.completed(&bucket, &asked.key, &asked.upload_id).await? else {
                    return Err(gone);
                };
                let content = done.record.content_of(&done.node.attr);
                let sums = content.map(|content| content.sums.clone()).unwrap_or_default();
                return Ok(S3Response::new(CompleteMultipartUploadOutput {
                    bucket: Some(asked.bucket),
                    checksum_type: sums.kind(),
                    e_tag: Some(dto::ETag::Strong(done.etag())),
                    key: Some(asked.key),
                    location,
                    ..told_sums!(CompleteMultipartUploadOutput, sums)
                }));
            }
            upload => upload?,
        };
        if let Some(kind) = &asked.checksum_type
            && kind_of(&upload).is_some_and(|wanted| wanted.as_str() != kind.as_str())
        {
            return refuse(S3ErrorCode::InvalidRequest, "The upload was begun with another type of checksum.");
        }
        let parts = asked.multipart_upload.and_then(|list| list.parts).unwrap_or_default();
        let conditions =
            Conditions { if_match: asked.if_match, if_none_match: asked.if_none_match, ..Conditions::default() };
        let said = said_sums!(asked);
        let place = (asked.bucket.as_str(), asked.key.as_str());
        let wanted = (&said, self.part_len_min);
        let (content, version) = self.buckets.complete(place, &upload, &parts, wanted, &conditions).await?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(asked.bucket),
            checksum_type: content.sums.kind(),
            e_tag: Some(dto::ETag::Strong(content.etag)),
            key: Some(asked.key),
            location,
            version_id: version,
            ..told_sums!(CompleteMultipartUploadOutput, content.sums)
        }))
    }

    pub(super) async fn abort(&self, asked: AbortMultipartUploadInput) -> Told<AbortMultipartUploadOutput> {
        let bucket = self.buckets.bucket(&asked.bucket).await?;
        let upload = self.buckets.upload(&bucket, &asked.key, &asked.upload_id).await?;
        self.buckets.abort(&bucket, &upload).await?;
        Ok(S3Response::with_status(AbortMultipartUploadOutput::default(), hyper::StatusCode::NO_CONTENT))
    }

    pub(super) async fn parts(&self, asked: ListPartsInput) -> Told<ListPartsOutput> {
        let (count_asked, count) = count(asked.max_parts)?;
        let bucket = self.buckets.bucket(&asked.bucket).await?;
        let upload = self.buckets.upload(&bucket, &asked.key, &asked.upload_id).await?;
        let marker = asked.part_number_marker.unwrap_or_default();
        let mut left = self.buckets.parts(&upload).await?.into_iter().filter(|part| part.number > marker);
        let told: Vec<_> = left
            .by_ref()
            .take(count)
            .map(|part| Part {
                e_tag: Some(dto::ETag::Strong(part.content.etag)),
                last_modified: Some(Timestamp::from(seconds(part.node.attr.mtime))),
                part_number: Some(part.number),
                size: Some(number(part.content.size)),
                ..told_sums!(Part, part.content.sums)
            })
            .collect();
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(asked.bucket),
            checksum_algorithm: upload.algorithm().map(|it| ChecksumAlgorithm::from_static(it.name())),
            checksum_type: kind_of(&upload),
            initiator: Some(initiator()),
            is_truncated: Some(left.next().is_some()),
            key: Some(asked.key),
            max_parts: Some(count_asked),
            next_part_number_marker: told.last().and_then(|part| part.part_number),
            owner: Some(owner()),
            part_number_marker: Some(marker),
            parts: Some(told),
            storage_class: Some(dto::StorageClass::from_static(dto::StorageClass::STANDARD)),
            upload_id: Some(asked.upload_id),
            ..ListPartsOutput::default()
        }))
    }

    pub(super) async fn uploads(&self, asked: ListMultipartUploadsInput) -> Told<ListMultipartUploadsOutput> {
        let (count_asked, count) = count(asked.max_uploads)?;
        let writer = Writer::new(asked.encoding_type.as_ref())?;
        let bucket = self.buckets.bucket(&asked.bucket).await?;
        let (prefix, delimiter) = (asked.prefix.unwrap_or_default(), asked.delimiter.unwrap_or_default());
        let query = begun::Query {
            prefix: prefix.clone(),
            delimiter: delimiter.clone(),
            key_marker: asked.key_marker.unwrap_or_default(),
            id_marker: asked.upload_id_marker.unwrap_or_default(),
            count,
        };
        let page = self.buckets.uploads(&bucket, &query).await.map_err(failed)?;
        let next = match page.items.last() {
            Some(Begun::Upload(key, upload)) => (Some(key.clone()), Some(upload.id.clone())),
            Some(Begun::Prefix(prefix)) => (Some(prefix.clone()), None),
            None => (None, None),
        };
        let (mut told, mut prefixes) = (Vec::new(), Vec::new());
        for item in page.items {
            match item {
                Begun::Prefix(prefix) => prefixes.push(prefix),
                Begun::Upload(key, upload) => told.push(MultipartUpload {
                    checksum_algorithm: upload.algorithm().map(|it| ChecksumAlgorithm::from_static(it.name())),
                    checksum_type: kind_of(&upload),
                    initiated: begun_at(&upload),
                    initiator: Some(initiator()),
                    key: Some(writer.text(&key)),
                    owner: Some(owner()),
                    storage_class: Some(dto::StorageClass::from_static(dto::StorageClass::STANDARD)),
                    upload_id: Some(upload.id),
                }),
            }
        }
        let prefix_of = |prefix: String| CommonPrefix { prefix: Some(writer.text(&prefix)) };
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(asked.bucket),
            common_prefixes: Some(prefixes.into_iter().map(prefix_of).collect()),
            delimiter: Some(writer.text(&delimiter)).filter(|text| !text.is_empty()),
            encoding_type: asked.encoding_type,
            is_truncated: Some(page.is_truncated),
            key_marker: Some(writer.text(&query.key_marker)),
            max_uploads: Some(count_asked),
            next_key_marker: next.0.map(|key| writer.text(&key)),
            next_upload_id_marker: next.1,
            prefix: Some(writer.text(&prefix)),
            upload_id_marker: Some(query.id_marker),
            uploads: Some(told),
            ..ListMultipartUploadsOutput::default()
        }))
    }
}

/// What of an object of `size` bytes is copied: all where nothing is said.
fn of_range(text: Option<&str>, size: u64) -> S3Result<std::ops::Range<u64>> {
    let Some(text) = text else {
        if size > BODY_LEN_MAX {
            return refuse(S3ErrorCode::InvalidRequest, "A part has at most 5 GiB: copy a range.");
        }
        return Ok(0..size);
    };
    let bad = || refuse(S3ErrorCode::InvalidArgument, "x-amz-copy-source-range is as bytes=0-9, within the source.");
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else { return bad() };
    let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) else { return bad() };
    if first > last {
        return bad();
    }
    if last >= size {
        return refuse(S3ErrorCode::InvalidRange, "The requested range is not satisfiable");
    }
    Ok(first..last + 1)
}
