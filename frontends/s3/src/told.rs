//! What the library writes otherwise than AWS, and clients hold against it.
//!
//! An error has the id of its request in its body, where people find it; the tag of `GetObjectAttributes` has no quotes. Who
//! expects to be told to go on, and is not, is told that the connection ends.

use hyper::{
    Request, StatusCode,
    body::Body as HttpBody,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderValue},
};
use s3s::{Body, HttpResponse};

/// How a tag begins and ends in the body of `GetObjectAttributes`, escaped or not.
const QUOTED: [(&str, &str); 2] = [("<ETag>\"", "\"</ETag>"), ("<ETag>&quot;", "&quot;</ETag>")];

/// Whether a query asks for the attributes of an object.
pub(crate) fn is_attributes(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|pair| pair == "attributes" || pair.starts_with("attributes=")))
}

/// Whether a client waits for a `100 Continue` that does not come, since it has no body (RFC 9110, 10.1.1). botocore takes the
/// answer, and from then on the next one on this connection for a part of it: after an empty object it hangs.
pub(crate) fn expects_in_vain(request: &Request<impl HttpBody>) -> bool {
    request.headers().contains_key(EXPECT) && request.body().is_end_stream()
}

/// Says that nothing comes on this connection any more.
pub(crate) fn end_connection(answer: &mut HttpResponse) {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Makes an answer what AWS's would be. One whose body is not there as a whole stays as it is.
pub(crate) fn correct(answer: &mut HttpResponse, id: &HeaderValue, is_attributes: bool) {
    let is_error = answer.status() >= StatusCode::BAD_REQUEST;
    if !(is_error || is_attributes) {
        return;
    }
    let body = answer.body().bytes().and_then(|bytes| String::from_utf8(bytes.into()).ok());
    let Some(text) = body.filter(|text| !text.is_empty()) else { return };
    let corrected = match text.strip_suffix("</Error>") {
        Some(inner) if !inner.contains("<RequestId>") => {
            format!("{inner}<RequestId>{}</RequestId></Error>", id.to_str().unwrap_or_default())
        }
        _ => {
            QUOTED.iter().fold(text, |text, (begin, end)| text.replacen(begin, "<ETag>", 1).replacen(end, "</ETag>", 1))
        }
    };
    if answer.headers().contains_key(CONTENT_LENGTH) {
        answer.headers_mut().insert(CONTENT_LENGTH, corrected.len().into());
    }
    *answer.body_mut() = Body::from(corrected);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_an_id_and_tags_no_quotes() {
        let id = HeaderValue::from_static("0123");
        for (status, is_attributes, before, after) in [
            (404, false, "<Error><Code>a</Code></Error>", "<Error><Code>a</Code><RequestId>0123</RequestId></Error>"),
            (200, true, "<A><ETag>&quot;x-1&quot;</ETag></A>", "<A><ETag>x-1</ETag></A>"),
            (200, true, "<A><ETag>\"x-1\"</ETag></A>", "<A><ETag>x-1</ETag></A>"),
            (200, false, "<A><ETag>&quot;x&quot;</ETag></A>", "<A><ETag>&quot;x&quot;</ETag></A>"),
            (412, false, "", ""),
        ] {
            let mut answer = HttpResponse::new(Body::from(before.to_owned()));
            *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
            correct(&mut answer, &id, is_attributes);
            assert_eq!(answer.body().bytes().as_deref(), Some(after.as_bytes()), "{before}");
        }
        assert!(is_attributes(Some("a=b&attributes")) && !is_attributes(Some("x=attributes")) && !is_attributes(None));
    }
}
