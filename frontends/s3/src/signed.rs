//! What a signature has to cover, beside what the library checks of it.
//!
//! The library holds a signature against the headers that it names. One that names too few would let others add what changes
//! a request: `x-amz-copy-source` makes a copy of an upload that a link was given for. So each `x-amz-…` header has to be
//! signed, and the host. Signatures of version 2 cover less, and no clock: they are for forms alone, whose policy says it
//! all. Spec: spec/s3.md #keys-and-rights.

use hyper::HeaderMap;
use s3s::{S3Error, S3ErrorCode};

use crate::{
    failure::{S3Result, refuse},
    keys::unescape,
};

/// How long a link may hold, in seconds: a week, as AWS has it.
const EXPIRY_MAX: u64 = 7 * 86_400;
/// Headers that say nothing but what the body is: they are held against it where they come.
const OF_THE_BODY: [&str; 1] = ["x-amz-content-sha256"];

/// The value of a name in a query, as it is meant.
fn of_query(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescape(found) == name).then(|| unescape(value))
    })
}

/// Refuses a request whose signature, which is right, does not cover what it asks for.
///
/// # Errors
/// `AccessDenied` for a header that is not signed; `InvalidRequest` for a signature of version 2;
/// `AuthorizationQueryParametersError` for a link for more than a week.
pub(crate) fn check(headers: &HeaderMap, query: &str) -> S3Result<()> {
    // Which the library looks for first.
    let is_old = of_query(query, "Signature").is_some();
    let authorization = headers.get(hyper::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let signed = match of_query(query, "X-Amz-SignedHeaders") {
        Some(signed) if !is_old && of_query(query, "X-Amz-Signature").is_some() => {
            let seconds = of_query(query, "X-Amz-Expires").and_then(|text| text.parse::<u64>().ok());
            if seconds.is_none_or(|seconds| seconds > EXPIRY_MAX) {
                return too_long();
            }
            signed
        }
        _ => {
            let parts = authorization.filter(|_| !is_old).and_then(|text| text.strip_prefix("AWS4-HMAC-SHA256"));
            let mut parts = parts.into_iter().flat_map(|text| text.split(','));
            let Some(signed) = parts.find_map(|part| part.trim().strip_prefix("SignedHeaders=")) else {
                let why =
                    "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.";
                return refuse(S3ErrorCode::InvalidRequest, why);
            };
            signed.to_owned()
        }
    };
    let is_signed = |name: &str| signed.split(';').any(|signed| signed.eq_ignore_ascii_case(name));
    let has_to_be = |name: &str| name == "host" || name.starts_with("x-amz-") && !OF_THE_BODY.contains(&name);
    match headers.keys().find(|name| has_to_be(name.as_str()) && !is_signed(name.as_str())) {
        Some(_) => refuse(S3ErrorCode::AccessDenied, "There were headers present in the request which were not signed"),
        None => Ok(()),
    }
}

fn too_long() -> S3Result<()> {
    let code = S3ErrorCode::Custom("AuthorizationQueryParametersError".into());
    let mut error = S3Error::with_message(code, "X-Amz-Expires must be less than a week (in seconds); 604800");
    error.set_status_code(hyper::StatusCode::BAD_REQUEST);
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().expect("a name"), value.parse().expect("a value"))).collect()
    }

    #[test]
    fn a_signature_covers_all_that_matters() {
        let by = |signed: &str| format!("AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders={signed}, Signature=c");
        let link = |signed: &str, expires: &str| {
            format!("X-Amz-Expires={expires}&X-Amz-SignedHeaders={signed}&X-Amz-Signature=c")
        };
        let copy = ("x-amz-copy-source", "/a/b");
        let all = by("host;x-amz-copy-source;x-amz-date");
        for (pairs, query, code) in [
            (vec![("authorization", all.as_str()), ("host", "h"), copy], String::new(), None),
            (vec![("authorization", by("host").as_str()), ("host", "h"), copy], String::new(), Some("AccessDenied")),
            (vec![("authorization", by("x-amz-date").as_str()), ("host", "h")], String::new(), Some("AccessDenied")),
            (vec![("authorization", "AWS id:signature"), ("host", "h")], String::new(), Some("InvalidRequest")),
            (vec![("host", "h")], "AWSAccessKeyId=a&Expires=1&Signature=c".into(), Some("InvalidRequest")),
            (vec![("host", "h"), ("x-amz-content-sha256", "e")], link("host", "604800"), None),
            (vec![("host", "h"), ("range", "bytes=0-1")], link("host", "1"), None),
            (vec![("host", "h"), copy], link("host", "1"), Some("AccessDenied")),
            (vec![("host", "h"), copy], link("host%3Bx-amz-copy-source", "1"), None),
            (vec![("host", "h")], link("host", "604801"), Some("AuthorizationQueryParametersError")),
            (vec![("host", "h")], link("host", "-1"), Some("AuthorizationQueryParametersError")),
        ] {
            let found = check(&headers(&pairs), &query).err();
            assert_eq!(found.as_ref().map(|error| error.code().as_str()), code, "{pairs:?} {query}");
        }
    }
}
