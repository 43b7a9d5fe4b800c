//! The operations of S3 that this frontend has: what a request asks for, and what it is told. One line each.

mod buckets;
mod copying;
mod listing;
mod reading;
mod tagging;
mod uploads;
mod writing;

use std::sync::Arc;

use s3s::{S3, S3Request, S3Response, S3Result, auth::Credentials, dto};

use crate::{Options, hashers::Hashers, objects::Buckets, receive::Receiver, tree::Work};

/// Whom clients are told that everything belongs to: who may do what is said by keys, and not by owners.
const OWNER: &str = "muxfs";

/// Answers requests.
#[derive(Debug)]
pub(crate) struct Frontend {
    buckets: Arc<Buckets>,
    hashers: Hashers,
    region: String,
    part_len_min: u64,
}

impl Frontend {
    pub(crate) fn new(buckets: Arc<Buckets>, options: &Options) -> Self {
        let region = options.region.clone();
        Self { buckets, hashers: Hashers::default(), region, part_len_min: options.part_len_min }
    }

    /// What was done with a file that is no object yet; where it failed the file is gone.
    async fn or_discard<T>(&self, work: &Work, done: S3Result<T>) -> S3Result<T> {
        if done.is_err() {
            self.buckets.tree.discard(work).await;
        }
        done
    }

    fn receiver(&self) -> Receiver<'_> {
        Receiver { tree: &self.buckets.tree, hashers: &self.hashers }
    }
}

fn owner() -> dto::Owner {
    dto::Owner { display_name: Some(OWNER.to_owned()), id: Some(OWNER.to_owned()) }
}

/// The key that signed a request.
fn id_of(credentials: Option<&Credentials>) -> Option<&str> {
    credentials.map(|shown| shown.access_key.as_str())
}

fn number(len: u64) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

type Asked<T> = S3Request<T>;
type Told<T> = S3Result<S3Response<T>>;

#[async_trait::async_trait]
impl S3 for Frontend {
    async fn list_buckets(&self, asked: Asked<dto::ListBucketsInput>) -> Told<dto::ListBucketsOutput> {
        self.all_buckets(asked).await
    }

    async fn create_bucket(&self, asked: Asked<dto::CreateBucketInput>) -> Told<dto::CreateBucketOutput> {
        self.new_bucket(asked).await
    }

    async fn head_bucket(&self, asked: Asked<dto::HeadBucketInput>) -> Told<dto::HeadBucketOutput> {
        self.look_at_bucket(&asked.input.bucket).await
    }

    async fn delete_bucket(&self, asked: Asked<dto::DeleteBucketInput>) -> Told<dto::DeleteBucketOutput> {
        self.buckets.remove_bucket(&asked.input.bucket).await?;
        Ok(S3Response::with_status(dto::DeleteBucketOutput {}, hyper::StatusCode::NO_CONTENT))
    }

    async fn get_bucket_location(
        &self,
        asked: Asked<dto::GetBucketLocationInput>,
    ) -> Told<dto::GetBucketLocationOutput> {
        self.location(&asked.input.bucket).await
    }

    async fn get_bucket_versioning(
        &self,
        asked: Asked<dto::GetBucketVersioningInput>,
    ) -> Told<dto::GetBucketVersioningOutput> {
        self.versioning(&asked.input.bucket).await
    }

    async fn put_bucket_versioning(
        &self,
        asked: Asked<dto::PutBucketVersioningInput>,
    ) -> Told<dto::PutBucketVersioningOutput> {
        self.set_versioning(asked.input).await
    }

    async fn get_bucket_tagging(&self, asked: Asked<dto::GetBucketTaggingInput>) -> Told<dto::GetBucketTaggingOutput> {
        self.bucket_tags(&asked.input.bucket).await
    }

    async fn put_bucket_tagging(&self, asked: Asked<dto::PutBucketTaggingInput>) -> Told<dto::PutBucketTaggingOutput> {
        self.set_bucket_tags(&asked.input.bucket, Some(asked.input.tagging)).await?;
        Ok(S3Response::with_status(dto::PutBucketTaggingOutput {}, hyper::StatusCode::NO_CONTENT))
    }

    async fn delete_bucket_tagging(
        &self,
        asked: Asked<dto::DeleteBucketTaggingInput>,
    ) -> Told<dto::DeleteBucketTaggingOutput> {
        self.set_bucket_tags(&asked.input.bucket, None).await?;
        Ok(S3Response::with_status(dto::DeleteBucketTaggingOutput {}, hyper::StatusCode::NO_CONTENT))
    }

    async fn get_bucket_acl(&self, asked: Asked<dto::GetBucketAclInput>) -> Told<dto::GetBucketAclOutput> {
        self.bucket_acl(&asked.input.bucket).await
    }

    async fn put_bucket_acl(&self, asked: Asked<dto::PutBucketAclInput>) -> Told<dto::PutBucketAclOutput> {
        self.set_bucket_acl(asked.input).await
    }

    async fn get_object_acl(&self, asked: Asked<dto::GetObjectAclInput>) -> Told<dto::GetObjectAclOutput> {
        self.object_acl(asked.input).await
    }

    async fn put_object_acl(&self, asked: Asked<dto::PutObjectAclInput>) -> Told<dto::PutObjectAclOutput> {
        self.set_object_acl(asked.input).await
    }

    async fn list_objects(&self, asked: Asked<dto::ListObjectsInput>) -> Told<dto::ListObjectsOutput> {
        self.list_first(asked.input).await
    }

    async fn list_objects_v2(&self, asked: Asked<dto::ListObjectsV2Input>) -> Told<dto::ListObjectsV2Output> {
        self.list_second(asked.input).await
    }

    async fn list_object_versions(
        &self,
        asked: Asked<dto::ListObjectVersionsInput>,
    ) -> Told<dto::ListObjectVersionsOutput> {
        self.list_versions(asked.input).await
    }

    async fn get_object(&self, asked: Asked<dto::GetObjectInput>) -> Told<dto::GetObjectOutput> {
        self.read(asked.input).await
    }

    async fn head_object(&self, asked: Asked<dto::HeadObjectInput>) -> Told<dto::HeadObjectOutput> {
        self.look(asked.input).await
    }

    async fn get_object_attributes(
        &self,
        asked: Asked<dto::GetObjectAttributesInput>,
    ) -> Told<dto::GetObjectAttributesOutput> {
        self.attributes(asked.input).await
    }

    async fn put_object(&self, asked: Asked<dto::PutObjectInput>) -> Told<dto::PutObjectOutput> {
        self.put(asked).await
    }

    async fn copy_object(&self, asked: Asked<dto::CopyObjectInput>) -> Told<dto::CopyObjectOutput> {
        Box::pin(self.copy(asked)).await
    }

    async fn delete_object(&self, asked: Asked<dto::DeleteObjectInput>) -> Told<dto::DeleteObjectOutput> {
        self.remove(asked.input).await
    }

    async fn delete_objects(&self, asked: Asked<dto::DeleteObjectsInput>) -> Told<dto::DeleteObjectsOutput> {
        self.remove_many(asked).await
    }

    async fn get_object_tagging(&self, asked: Asked<dto::GetObjectTaggingInput>) -> Told<dto::GetObjectTaggingOutput> {
        self.tags(asked.input).await
    }

    async fn put_object_tagging(&self, asked: Asked<dto::PutObjectTaggingInput>) -> Told<dto::PutObjectTaggingOutput> {
        let dto::PutObjectTaggingInput { bucket, key, version_id, tagging, .. } = asked.input;
        let version_id = self.set_tags((&bucket, &key), version_id.as_deref(), Some(tagging)).await?;
        Ok(S3Response::new(dto::PutObjectTaggingOutput { version_id }))
    }

    async fn delete_object_tagging(
        &self,
        asked: Asked<dto::DeleteObjectTaggingInput>,
    ) -> Told<dto::DeleteObjectTaggingOutput> {
        let dto::DeleteObjectTaggingInput { bucket, key, version_id, .. } = asked.input;
        let version_id = self.set_tags((&bucket, &key), version_id.as_deref(), None).await?;
        Ok(S3Response::with_status(dto::DeleteObjectTaggingOutput { version_id }, hyper::StatusCode::NO_CONTENT))
    }

    async fn create_multipart_upload(
        &self,
        asked: Asked<dto::CreateMultipartUploadInput>,
    ) -> Told<dto::CreateMultipartUploadOutput> {
        self.begin(asked.input).await
    }

    async fn upload_part(&self, asked: Asked<dto::UploadPartInput>) -> Told<dto::UploadPartOutput> {
        self.part(asked).await
    }

    async fn upload_part_copy(&self, asked: Asked<dto::UploadPartCopyInput>) -> Told<dto::UploadPartCopyOutput> {
        self.copied_part(asked).await
    }

    async fn complete_multipart_upload(
        &self,
        asked: Asked<dto::CompleteMultipartUploadInput>,
    ) -> Told<dto::CompleteMultipartUploadOutput> {
        self.complete(asked.input).await
    }

    async fn abort_multipart_upload(
        &self,
        asked: Asked<dto::AbortMultipartUploadInput>,
    ) -> Told<dto::AbortMultipartUploadOutput> {
        self.abort(asked.input).await
    }

    async fn list_parts(&self, asked: Asked<dto::ListPartsInput>) -> Told<dto::ListPartsOutput> {
        self.parts(asked.input).await
    }

    async fn list_multipart_uploads(
        &self,
        asked: Asked<dto::ListMultipartUploadsInput>,
    ) -> Told<dto::ListMultipartUploadsOutput> {
        self.uploads(asked.input).await
    }
}
