//! What a request may ask for that is not there, and must not be passed over.
//!
//! Most of what S3 knows and this frontend does not is an operation of its own, and refused by its name. These are headers of
//! operations that are there: who appends, locks or encrypts would believe that it was done. Spec: spec/s3.md #not-there.

use hyper::HeaderMap;
use s3s::S3ErrorCode;

use crate::failure::{S3Result, refuse};

/// Headers by what they begin with, the error and what is said of it.
const ABSENT: [(&str, S3ErrorCode, &str); 4] = [
    ("x-amz-write-offset-bytes", S3ErrorCode::NotImplemented, "Objects are put whole here, and not appended to."),
    ("x-amz-object-lock-", S3ErrorCode::NotImplemented, "Objects cannot be locked here."),
    (
        "x-amz-server-side-encryption",
        S3ErrorCode::NotImplemented,
        "What is encrypted is said by the mount, not by requests.",
    ),
    ("x-amz-grant-", S3ErrorCode::AccessControlListNotSupported, "The bucket does not allow ACLs"),
];

/// Refuses a request that asks for what is not there.
pub(crate) fn check(headers: &HeaderMap) -> S3Result<()> {
    for name in headers.keys() {
        if let Some((_, code, why)) = ABSENT.iter().find(|(absent, ..)| name.as_str().starts_with(absent)) {
            return refuse(code.clone(), *why);
        }
    }
    Ok(())
}
