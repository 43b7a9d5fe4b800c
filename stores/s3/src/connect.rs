//! Where a bucket is, and who we are there.

use std::{fmt, sync::Arc};

use muxfs::{Env, Error, ErrorKind, Result};
use object_store::{
    RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
};

use crate::{
    bucket::{Bucket, Rest, S3Limits},
    http::Connector,
};

/// The region that servers other than AWS take for theirs.
const REGION: &str = "us-east-1";

/// Who we are: a key of S3. Its secret is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Credentials {
    /// The id of the key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// Of a key for a while.
    pub token: Option<String>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Credentials({})", self.access_key)
    }
}

/// A bucket and where it is.
///
/// ```toml
/// [[mount]]
/// kind = "s3"
/// prefix = "s"
/// endpoint = "https://s3.example.org"
/// bucket = "muxfs"
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Place {
    /// `https://HOST[:PORT]`, or `http://`; that of AWS in the region where absent.
    pub endpoint: Option<String>,
    /// Its name, which has to be there.
    pub bucket: String,
    /// What is in front of the names of all objects; empty for none.
    pub prefix: String,
    /// `us-east-1` where absent.
    pub region: Option<String>,
    /// Whether the bucket is in the path, not in the name of the host; where absent it is if there is an endpoint.
    pub path_style: Option<bool>,
}

impl fmt::Display for S3Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        match &self.endpoint {
            Some(endpoint) => write!(f, " at {endpoint}"),
            None => Ok(()),
        }
    }
}

impl S3Place {
    /// The bucket. Nobody is asked yet.
    ///
    /// ```
    /// use muxfs_s3::{S3Credentials, S3Limits, S3Place};
    /// let place = S3Place {
    ///     endpoint: Some("http://127.0.0.1:9000".into()),
    ///     bucket: "photos".into(),
    ///     prefix: "muxfs".into(),
    ///     region: None,
    ///     path_style: None,
    /// };
    /// let me = S3Credentials { access_key: "me".into(), secret_key: "secret".into(), token: None };
    /// let bucket = place.open(&me, S3Limits::default(), &muxfs::testing::env())?;
    /// assert_eq!(bucket.place(), "s3://photos at http://127.0.0.1:9000/muxfs");
    /// # Ok::<(), muxfs::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` for an endpoint, or a name, that cannot be.
    pub fn open(&self, me: &S3Credentials, limits: S3Limits, env: &Env) -> Result<Bucket> {
        self.open_as(Some(me), limits, env)
    }

    /// The bucket for who has no key, as it may be read by anybody. Nobody is asked yet.
    ///
    /// # Errors
    /// Those of [`S3Place::open`].
    pub fn open_unsigned(&self, limits: S3Limits, env: &Env) -> Result<Bucket> {
        self.open_as(None, limits, env)
    }

    fn open_as(&self, me: Option<&S3Credentials>, limits: S3Limits, env: &Env) -> Result<Bucket> {
        let bad = |why: &str| Error::new(ErrorKind::InvalidArgument, "s3.place").at(self).because(why);
        let is_name =
            !self.bucket.is_empty() && self.bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if !is_name {
            return Err(bad("a bucket has a name of letters, digits, '-', '.' and '_'"));
        }
        // Each attempt is made, and each wait is waited, above.
        let rest = Arc::new(Rest::default());
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(self.region.as_deref().unwrap_or(REGION))
            .with_retry(retry)
            // One object at a time goes, and not every server knows how to delete a list.
            .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true")
            .with_http_connector(Connector { rest: Arc::clone(&rest) });
        match me {
            None => builder = builder.with_skip_signature(true),
            Some(me) => {
                builder = builder.with_access_key_id(&me.access_key).with_secret_access_key(&me.secret_key);
                if let Some(token) = &me.token {
                    builder = builder.with_token(token);
                }
            }
        }
        let is_in_path = self.path_style.unwrap_or(self.endpoint.is_some());
        builder = builder.with_virtual_hosted_style_request(!is_in_path);
        if let Some(endpoint) = &self.endpoint {
            let (scheme, host) = endpoint.trim_end_matches('/').split_once("://").unwrap_or_default();
            if !matches!(scheme, "http" | "https") || host.is_empty() || host.contains('/') {
                return Err(bad("an endpoint is https://HOST[:PORT], or http:// where nobody listens in between"));
            }
            let host = if is_in_path { host.to_owned() } else { format!("{}.{host}", self.bucket) };
            builder = builder.with_endpoint(format!("{scheme}://{host}")).with_allow_http(scheme == "http");
        }
        let objects = builder.build().map_err(|error| bad(&error.to_string()))?;
        Ok(Bucket::new(Arc::new(objects), &self.prefix, &self.to_string(), limits, env).resting(rest))
    }
}
