//! IPNS names: their records, and how long what they lead to may be kept. Spec: spec/http.md #ipns.

use std::time::Duration;

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderValue, Method, Response, StatusCode,
        header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS},
        request::Parts,
    },
};
use muxfs::{
    Name,
    dag::murmur3_x64_64,
    ipns::{IpnsName, Records},
};

use crate::{
    entity::{disposition, is_unchanged, set},
    failure::Failure,
    format::Format,
};

/// Answers with the record of a name, be it still good or not: who asks for one judges it.
pub(crate) async fn record(
    records: &dyn Records,
    name: &IpnsName,
    request: &Parts,
    below: &[Name],
) -> Result<Response<Body>, Failure> {
    if !below.is_empty() {
        return Err(Failure::bad("A record is of a name, and has no path below it.", "Leave the path out."));
    }
    let Some((record, ttl)) = records.record_and_ttl(name).await? else {
        return Err(Failure::new(StatusCode::NOT_FOUND, "No record of this name is known here.", ""));
    };
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    let etag = format!("\"{:x}\"", murmur3_x64_64(record.as_bytes()));
    set(headers, ETAG, &etag);
    set(headers, CACHE_CONTROL, &format!("public, max-age={}", ttl.as_secs()));
    if is_unchanged(&request.headers, &etag, None) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(Format::IpnsRecord.media_type()));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(record.as_bytes().len()));
    set(headers, CONTENT_DISPOSITION, &disposition(true, &format!("{name}.ipns-record")));
    if request.method != Method::HEAD {
        *response.body_mut() = Body::from(record.as_bytes().clone());
    }
    Ok(response)
}

/// What a name leads to stays what it is for as long as its records say, not for ever.
pub(crate) fn keep_no_longer(headers: &mut HeaderMap, ttl: Duration) {
    if headers.get(CACHE_CONTROL).is_none_or(|kept| kept.as_bytes().starts_with(b"public")) {
        set(headers, CACHE_CONTROL, &format!("public, max-age={}", ttl.as_secs()));
    }
}
