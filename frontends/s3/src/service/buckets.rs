//! Buckets, and what is asked of them: where, whether with versions, and whose.

use muxfs::ErrorKind;
use s3s::{
    S3ErrorCode, S3Response,
    dto::{
        self, BucketCannedACL, BucketLocationConstraint, BucketVersioningStatus, CreateBucketInput, CreateBucketOutput,
        GetBucketAclOutput, GetBucketLocationOutput, GetBucketVersioningOutput, GetObjectAclInput, GetObjectAclOutput,
        Grant, Grantee, HeadBucketOutput, ListBucketsInput, ListBucketsOutput, Permission, PutBucketAclInput,
        PutBucketAclOutput, PutBucketVersioningInput, PutBucketVersioningOutput, PutObjectAclInput, PutObjectAclOutput,
        Timestamp,
    },
};

use super::{Asked, Frontend, OWNER, Told, id_of, owner};
use crate::{
    conditions::seconds,
    failure::{S3Result, failed, refuse},
    names,
    objects::{Bucket, Buckets},
    record::Record,
};

/// The region that has no name where one is asked for.
const FIRST_REGION: &str = "us-east-1";
/// The most buckets in an answer: AWS's limit.
const BUCKETS_MAX: i32 = 10_000;

/// Refuses what would let others in: who may do what is said by keys.
pub(super) fn check_acl(acl: Option<&str>) -> S3Result<()> {
    match acl {
        Some("public-read" | "public-read-write" | "authenticated-read") => {
            refuse(S3ErrorCode::AccessControlListNotSupported, "The bucket does not allow ACLs")
        }
        _ => Ok(()),
    }
}

fn grants() -> Vec<Grant> {
    let grantee = Grantee {
        display_name: Some(OWNER.to_owned()),
        email_address: None,
        id: Some(OWNER.to_owned()),
        type_: dto::Type::from_static(dto::Type::CANONICAL_USER),
        uri: None,
    };
    vec![Grant { grantee: Some(grantee), permission: Some(Permission::from_static(Permission::FULL_CONTROL)) }]
}

/// Whether a list of grants is the one that there is.
fn check_grants(policy: Option<&dto::AccessControlPolicy>) -> S3Result<()> {
    let is_ours = |grant: &Grant| {
        let is_owner = grant.grantee.as_ref().is_some_and(|grantee| grantee.id.as_deref() == Some(OWNER));
        is_owner && grant.permission.as_ref().is_some_and(|it| it.as_str() == Permission::FULL_CONTROL)
    };
    match policy {
        Some(policy) if !policy.grants.iter().flatten().all(is_ours) => {
            refuse(S3ErrorCode::AccessControlListNotSupported, "The bucket does not allow ACLs")
        }
        _ => Ok(()),
    }
}

impl Buckets {
    /// Keeps what is known of a bucket, durably.
    pub(crate) async fn set_bucket(&self, bucket: &Bucket) -> S3Result<()> {
        self.tree.set_record(bucket.node.ino(), &bucket.record).await.map_err(failed)?;
        self.tree.sync_node(bucket.node.ino()).await.map_err(failed)
    }
}

impl Frontend {
    pub(super) async fn all_buckets(&self, asked: Asked<ListBucketsInput>) -> Told<ListBucketsOutput> {
        let Asked { input, credentials, .. } = asked;
        let (buckets, id) = (&self.buckets, id_of(credentials.as_ref()));
        let count = input.max_buckets.unwrap_or(BUCKETS_MAX);
        if !(1..=BUCKETS_MAX).contains(&count) {
            return refuse(S3ErrorCode::InvalidArgument, "max-buckets is from 1 to 10000.");
        }
        let root = buckets.root().await.map_err(failed)?;
        let all = buckets.all(&root).await.map_err(failed)?;
        let (prefix, after) = (input.prefix.clone().unwrap_or_default(), input.continuation_token);
        let is_asked = |name: &str| {
            buckets.keys.sees(id, name)
                && name.starts_with(&prefix)
                && after.as_deref().is_none_or(|after| name > after)
        };
        let mut left = all.into_iter().filter(|(name, _)| is_asked(name)).map(|(name, node)| dto::Bucket {
            bucket_region: None,
            creation_date: Some(Timestamp::from(seconds(node.attr.ctime.min(node.attr.atime)))),
            name: Some(name),
        });
        let told: Vec<_> = left.by_ref().take(usize::try_from(count).unwrap_or_default()).collect();
        let last = left.next().and(told.last()).and_then(|bucket| bucket.name.clone());
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(told),
            continuation_token: last,
            owner: Some(owner()),
            prefix: input.prefix,
        }))
    }

    pub(super) async fn new_bucket(&self, asked: Asked<CreateBucketInput>) -> Told<CreateBucketOutput> {
        let Asked { input, credentials, .. } = asked;
        if !names::is_bucket(&input.bucket) {
            return refuse(S3ErrorCode::InvalidBucketName, "The specified bucket is not valid.");
        }
        check_acl(input.acl.as_ref().map(BucketCannedACL::as_str))?;
        if input.object_lock_enabled_for_bucket == Some(true) {
            return refuse(S3ErrorCode::NotImplemented, "Objects cannot be locked here.");
        }
        let asked = input.create_bucket_configuration.and_then(|asked| asked.location_constraint);
        if asked.is_some_and(|region| region.as_str() != self.region && !region.as_str().is_empty()) {
            return refuse(S3ErrorCode::InvalidLocationConstraint, "The specified location-constraint is not valid");
        }
        let maker = id_of(credentials.as_ref()).map(str::to_owned);
        let root = self.buckets.root().await.map_err(failed)?;
        let record = Record { maker: maker.clone(), ..Record::default() };
        let location = Some(format!("/{}", input.bucket));
        match self.buckets.tree.make_bucket(&root, &names::own(&input.bucket), &record).await {
            Ok(()) => Ok(S3Response::new(CreateBucketOutput { location })),
            Err(taken) if taken.kind() == ErrorKind::Exists => {
                let there = self.buckets.look(&input.bucket).await.map_err(failed)?;
                match there {
                    // As AWS has it in its first region: who made it makes it again.
                    Some(there) if there.record.maker == maker => Ok(S3Response::new(CreateBucketOutput { location })),
                    _ => refuse(S3ErrorCode::BucketAlreadyExists, "The requested bucket name is not available."),
                }
            }
            Err(refused) if refused.kind() == ErrorKind::InvalidArgument => {
                refuse(S3ErrorCode::InvalidBucketName, "Nothing can have this name here.")
            }
            Err(other) => Err(failed(other)),
        }
    }

    pub(super) async fn look_at_bucket(&self, bucket: &str) -> Told<HeadBucketOutput> {
        self.buckets.bucket(bucket).await?;
        Ok(S3Response::new(HeadBucketOutput {
            bucket_region: Some(self.region.clone()),
            ..HeadBucketOutput::default()
        }))
    }

    pub(super) async fn location(&self, bucket: &str) -> Told<GetBucketLocationOutput> {
        self.buckets.bucket(bucket).await?;
        let region = Some(self.region.clone()).filter(|region| region != FIRST_REGION);
        let location_constraint = region.map(BucketLocationConstraint::from);
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
    }

    pub(super) async fn versioning(&self, bucket: &str) -> Told<GetBucketVersioningOutput> {
        let bucket = self.buckets.bucket(bucket).await?;
        let status = bucket.record.versioning.map(BucketVersioningStatus::from);
        Ok(S3Response::new(GetBucketVersioningOutput { mfa_delete: None, status }))
    }

    pub(super) async fn set_versioning(&self, asked: PutBucketVersioningInput) -> Told<PutBucketVersioningOutput> {
        let dto::VersioningConfiguration { mfa_delete, status } = asked.versioning_configuration;
        if mfa_delete.is_some_and(|it| it.as_str() == dto::MFADelete::ENABLED) {
            return refuse(S3ErrorCode::NotImplemented, "There is no MFA here.");
        }
        let status = status.map(|status| status.as_str().to_owned());
        let Some(status) = status.filter(|status| ["Enabled", "Suspended"].contains(&status.as_str())) else {
            let code = S3ErrorCode::IllegalVersioningConfigurationException;
            return refuse(code, "Versioning is Enabled or Suspended.");
        };
        let _turn = self.buckets.turns.of_key(&asked.bucket, "").await;
        let mut bucket = self.buckets.bucket(&asked.bucket).await?;
        bucket.record.versioning = Some(status);
        self.buckets.set_bucket(&bucket).await?;
        Ok(S3Response::new(PutBucketVersioningOutput {}))
    }

    pub(super) async fn bucket_acl(&self, bucket: &str) -> Told<GetBucketAclOutput> {
        self.buckets.bucket(bucket).await?;
        Ok(S3Response::new(GetBucketAclOutput { grants: Some(grants()), owner: Some(owner()) }))
    }

    pub(super) async fn set_bucket_acl(&self, asked: PutBucketAclInput) -> Told<PutBucketAclOutput> {
        self.buckets.bucket(&asked.bucket).await?;
        check_acl(asked.acl.as_ref().map(BucketCannedACL::as_str))?;
        check_grants(asked.access_control_policy.as_ref())?;
        Ok(S3Response::new(PutBucketAclOutput {}))
    }

    pub(super) async fn object_acl(&self, asked: GetObjectAclInput) -> Told<GetObjectAclOutput> {
        let bucket = self.buckets.bucket(&asked.bucket).await?;
        self.object(&bucket, &asked.key, asked.version_id.as_deref()).await?;
        Ok(S3Response::new(GetObjectAclOutput {
            grants: Some(grants()),
            owner: Some(owner()),
            ..GetObjectAclOutput::default()
        }))
    }

    pub(super) async fn set_object_acl(&self, asked: PutObjectAclInput) -> Told<PutObjectAclOutput> {
        let bucket = self.buckets.bucket(&asked.bucket).await?;
        self.object(&bucket, &asked.key, asked.version_id.as_deref()).await?;
        check_acl(asked.acl.as_ref().map(dto::ObjectCannedACL::as_str))?;
        check_grants(asked.access_control_policy.as_ref())?;
        Ok(S3Response::new(PutObjectAclOutput::default()))
    }
}
