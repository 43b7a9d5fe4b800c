//! What a request says that it is for: the object with this tag, or one that changed since.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use s3s::{
    S3Error, S3ErrorCode,
    dto::{ETagCondition, Timestamp},
};

use crate::{
    failure::{S3Result, refuse},
    objects::Object,
};

/// The conditions of a request; none where nothing is set.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_field_names, reason = "these are the names of the headers")]
pub(crate) struct Conditions {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_modified_since: Option<Timestamp>,
    pub(crate) if_unmodified_since: Option<Timestamp>,
}

fn is(condition: &ETagCondition, etag: &str) -> bool {
    condition.as_etag().is_none_or(|wanted| wanted.value() == etag)
}

/// A time as S3 tells it: whole seconds.
pub(crate) fn seconds(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

impl Conditions {
    /// Whether an object may be read: RFC 9110 13.2.2, without ranges.
    ///
    /// # Errors
    /// `PreconditionFailed`, or `NotModified` with what a cache wants to know.
    pub(crate) fn check_read(&self, object: &Object) -> S3Result<()> {
        let (etag, modified) = (object.etag(), Timestamp::from(seconds(object.node.attr.mtime)));
        if let Some(condition) = &self.if_match {
            if !is(condition, &etag) {
                return failed();
            }
        } else if self.if_unmodified_since.as_ref().is_some_and(|since| modified > *since) {
            return failed();
        }
        let is_unchanged = match &self.if_none_match {
            Some(condition) => is(condition, &etag),
            None => self.if_modified_since.as_ref().is_some_and(|since| modified <= *since),
        };
        if !is_unchanged {
            return Ok(());
        }
        let mut unchanged = S3Error::new(S3ErrorCode::NotModified);
        if let Ok(value) = format!("\"{etag}\"").parse() {
            unchanged.set_headers([(hyper::header::ETAG, value)].into_iter().collect());
        }
        Err(unchanged)
    }

    /// Whether what is copied may be: as reading, but nothing is ever unchanged.
    pub(crate) fn check_source(&self, object: &Object) -> S3Result<()> {
        self.check_read(object).or_else(|_| failed())
    }

    /// Whether an object may be written, or removed.
    pub(crate) fn check_write(&self, there: Option<&Object>) -> S3Result<()> {
        let etag = there.map(Object::etag);
        match (&self.if_match, &etag) {
            (Some(_), None) => return refuse(S3ErrorCode::NoSuchKey, "There is nothing that could match."),
            (Some(condition), Some(etag)) if !is(condition, etag) => return failed(),
            _ => {}
        }
        match (&self.if_none_match, &etag) {
            (Some(condition), Some(etag)) if is(condition, etag) => failed(),
            _ => Ok(()),
        }
    }
}

fn failed<T>() -> S3Result<T> {
    refuse(S3ErrorCode::PreconditionFailed, "At least one of the conditions does not hold.")
}
