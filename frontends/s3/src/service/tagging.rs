//! Tags of objects and of buckets.

use s3s::{
    S3ErrorCode, S3Response,
    dto::{GetBucketTaggingOutput, GetObjectTaggingInput, GetObjectTaggingOutput, Tag, Tagging},
};

use super::{Frontend, Told};
use crate::{
    failure::{S3Result, failed, refuse},
    objects::Versioning,
};

/// AWS's limits: tags of an object and of a bucket, characters of a name and of a value.
const OBJECT_TAGS_MAX: usize = 10;
const BUCKET_TAGS_MAX: usize = 50;
const NAME_LEN_MAX: usize = 128;
const VALUE_LEN_MAX: usize = 256;

fn check(tags: Vec<(String, String)>, count_max: usize) -> S3Result<Vec<(String, String)>> {
    if tags.len() > count_max {
        return refuse(S3ErrorCode::InvalidTag, format!("There can be {count_max} tags at most."));
    }
    for (index, (name, value)) in tags.iter().enumerate() {
        if name.is_empty() || name.chars().count() > NAME_LEN_MAX {
            return refuse(S3ErrorCode::InvalidTag, "The TagKey you have provided is invalid");
        }
        if value.chars().count() > VALUE_LEN_MAX {
            return refuse(S3ErrorCode::InvalidTag, "The TagValue you have provided is invalid");
        }
        if tags.iter().take(index).any(|(other, _)| other == name) {
            return refuse(S3ErrorCode::InvalidTag, "Cannot provide multiple Tags with the same key");
        }
    }
    Ok(tags)
}

fn of_set(set: Tagging, count_max: usize) -> S3Result<Vec<(String, String)>> {
    let pair = |tag: Tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
    check(set.tag_set.into_iter().map(pair).collect(), count_max)
}

fn set_of(tags: &[(String, String)]) -> Vec<Tag> {
    tags.iter().map(|(name, value)| Tag { key: Some(name.clone()), value: Some(value.clone()) }).collect()
}

/// The tags of `x-amz-tagging`: the query of an address.
pub(super) fn of_header(text: Option<&str>) -> S3Result<Vec<(String, String)>> {
    let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (crate::keys::unescape(name), crate::keys::unescape(value))
    };
    let mut tags: Vec<_> = pairs.map(pair).collect();
    tags.sort();
    check(tags, OBJECT_TAGS_MAX)
}

impl Frontend {
    pub(super) async fn tags(&self, asked: GetObjectTaggingInput) -> Told<GetObjectTaggingOutput> {
        let bucket = self.buckets.bucket(&asked.bucket).await?;
        let object = self.object(&bucket, &asked.key, asked.version_id.as_deref()).await?;
        let version_id = (bucket.versioning() != Versioning::Off).then(|| object.record.version_name().to_owned());
        Ok(S3Response::new(GetObjectTaggingOutput { tag_set: set_of(&object.record.tags), version_id }))
    }

    /// Sets the tags of an object, or removes them; its version.
    pub(super) async fn set_tags(
        &self,
        (bucket, key): (&str, &str),
        version: Option<&str>,
        tags: Option<Tagging>,
    ) -> S3Result<Option<String>> {
        let tags = tags.map(|tags| of_set(tags, OBJECT_TAGS_MAX)).transpose()?.unwrap_or_default();
        let _turn = self.buckets.turns.of_key(bucket, key).await;
        let found = self.buckets.bucket(bucket).await?;
        let mut object = self.object(&found, key, version).await?;
        object.record.tags = tags;
        let tree = &self.buckets.tree;
        tree.set_record(object.node.ino(), &object.record).await.map_err(failed)?;
        tree.sync_node(object.node.ino()).await.map_err(failed)?;
        Ok((found.versioning() != Versioning::Off).then(|| object.record.version_name().to_owned()))
    }

    pub(super) async fn bucket_tags(&self, bucket: &str) -> Told<GetBucketTaggingOutput> {
        let bucket = self.buckets.bucket(bucket).await?;
        if bucket.record.tags.is_empty() {
            return refuse(S3ErrorCode::NoSuchTagSet, "The TagSet does not exist");
        }
        Ok(S3Response::new(GetBucketTaggingOutput { tag_set: set_of(&bucket.record.tags) }))
    }

    pub(super) async fn set_bucket_tags(&self, bucket: &str, tags: Option<Tagging>) -> S3Result<()> {
        let tags = tags.map(|tags| of_set(tags, BUCKET_TAGS_MAX)).transpose()?.unwrap_or_default();
        let _turn = self.buckets.turns.of_key(bucket, "").await;
        let mut bucket = self.buckets.bucket(bucket).await?;
        bucket.record.tags = tags;
        self.buckets.set_bucket(&bucket).await
    }
}
