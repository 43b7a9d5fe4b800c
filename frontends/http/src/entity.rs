//! Content as an answer: its headers, the conditions of the request, and the parts that were asked for.
//!
//! Whatever is served as bytes of a known length goes through here, so that a block, a file and a symlink's target know
//! the same ranges and conditions (RFC 9110 8, 13, 14). The first piece is read before anything is answered: what cannot
//! be had, or is not what its CID says, is a status and not an answer that breaks off.

use std::{ops::Range, time::SystemTime};

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
        header::{
            ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
            CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
            X_CONTENT_TYPE_OPTIONS,
        },
        request::Parts,
    },
};
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use muxfs::{
    Result,
    calendar::{Utc, unix_secs},
};

use crate::{failure::Failure, range::Wanted, target::percent_encode_value};

/// Content that never changes, by its CID.
pub(crate) const IMMUTABLE: &str = "public, max-age=29030400, immutable";
/// What a browser must not run with the rights of this origin: scripts work, in an origin of their own that can read
/// nothing else here.
const SANDBOX: &str = "sandbox allow-downloads allow-forms allow-modals allow-pointer-lock allow-popups \
                       allow-popups-to-escape-sandbox allow-presentation allow-scripts";
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// The bytes of a part.
pub(crate) type Read = Box<dyn Fn(Range<u64>) -> BoxStream<'static, Result<Bytes>> + Send + Sync>;

/// Reads parts of what is in memory.
pub(crate) fn read_bytes(block: Bytes) -> Read {
    Box::new(move |range: Range<u64>| {
        let at = |offset: u64| usize::try_from(offset).map_or(block.len(), |offset| offset.min(block.len()));
        let part = block.slice(at(range.start)..at(range.end));
        stream::iter((!part.is_empty()).then_some(Ok(part))).boxed()
    })
}

/// Bytes of a known length, and what is said of them.
pub(crate) struct Entity {
    pub(crate) len: u64,
    pub(crate) content_type: String,
    /// With its quotation marks.
    pub(crate) etag: String,
    pub(crate) modified: Option<SystemTime>,
    /// What else is said.
    pub(crate) headers: HeaderMap,
    pub(crate) read: Read,
}

impl Entity {
    /// Answers a request with this content.
    pub(crate) async fn answer(
        self,
        request: &Parts,
        boundary: impl FnOnce() -> String,
    ) -> Result<Response<Body>, Failure> {
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = self.headers.clone();
        let headers = response.headers_mut();
        set(headers, ETAG, &self.etag);
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let modified = self.modified.and_then(http_date);
        if let Some(modified) = &modified {
            set(headers, LAST_MODIFIED, modified);
        }
        if is_unchanged(&request.headers, &self.etag, modified.as_deref()) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        set(headers, CONTENT_TYPE, &self.content_type);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if is_active(&self.content_type) {
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(SANDBOX));
        }
        let wanted = match request.headers.get(RANGE).and_then(|value| value.to_str().ok()) {
            // RFC 9110 14.2: a range means something for GET alone.
            Some(range) if request.method == Method::GET && self.is_still(&request.headers, modified.as_deref()) => {
                Wanted::parse(range, self.len)
            }
            _ => Wanted::Whole,
        };
        match wanted {
            Wanted::Nothing => {
                *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
                for name in [CONTENT_TYPE, CONTENT_DISPOSITION, CACHE_CONTROL] {
                    response.headers_mut().remove(name);
                }
                set(response.headers_mut(), CONTENT_RANGE, &format!("bytes */{}", self.len));
            }
            Wanted::Whole => {
                let whole = vec![(Bytes::new(), 0..self.len)];
                self.put(&mut response, whole, request).await?;
            }
            Wanted::Parts(parts) => {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let pieces = match <[Range<u64>; 1]>::try_from(parts) {
                    Ok([part]) => {
                        set(response.headers_mut(), CONTENT_RANGE, &content_range(&part, self.len));
                        vec![(Bytes::new(), part)]
                    }
                    Err(parts) => {
                        let boundary = boundary();
                        let pieces = self.multipart(&boundary, parts);
                        let content_type = format!("multipart/byteranges; boundary={boundary}");
                        set(response.headers_mut(), CONTENT_TYPE, &content_type);
                        pieces
                    }
                };
                self.put(&mut response, pieces, request).await?;
            }
        }
        Ok(response)
    }

    /// Whether what the range was made for is what is here (RFC 9110 13.1.5).
    fn is_still(&self, headers: &HeaderMap, modified: Option<&str>) -> bool {
        let Some(expected) = headers.get(IF_RANGE) else { return true };
        let expected = expected.to_str().unwrap_or_default().trim();
        (expected == self.etag && !expected.starts_with("W/")) || Some(expected) == modified
    }

    /// Bytes, each before a part of the content: the headers of the parts, and the end.
    fn multipart(&self, boundary: &str, parts: Vec<Range<u64>>) -> Vec<(Bytes, Range<u64>)> {
        let head = |(index, part): (usize, Range<u64>)| {
            let line = if index == 0 { "" } else { "\r\n" };
            let (content_type, range) = (&self.content_type, content_range(&part, self.len));
            let head = format!("{line}--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {range}\r\n\r\n");
            (head.into(), part)
        };
        let mut pieces: Vec<_> = parts.into_iter().enumerate().map(head).collect();
        pieces.push((format!("\r\n--{boundary}--\r\n").into(), 0..0));
        pieces
    }

    /// Puts bytes and parts into a response, one after the other.
    async fn put(
        self,
        response: &mut Response<Body>,
        pieces: Vec<(Bytes, Range<u64>)>,
        request: &Parts,
    ) -> Result<(), Failure> {
        let len = pieces.iter().map(|(head, part)| head.len() as u64 + (part.end - part.start)).sum::<u64>();
        set(response.headers_mut(), CONTENT_LENGTH, &len.to_string());
        if request.method == Method::HEAD {
            return Ok(());
        }
        let read = self.read;
        let mut bytes = stream::iter(pieces).flat_map(move |(head, part)| {
            let head = stream::iter((!head.is_empty()).then_some(Ok(head)));
            if part.is_empty() { head.boxed() } else { head.chain(read(part)).boxed() }
        });
        let mut first = Vec::new();
        while first.iter().map(Bytes::len).sum::<usize>() as u64 <= FIRST_LEN_MIN
            && let Some(piece) = bytes.next().await
        {
            first.push(piece?);
        }
        *response.body_mut() = Body::from_stream(stream::iter(first.into_iter().map(Ok)).chain(bytes));
        Ok(())
    }
}

/// How much is at hand before anything is answered: more than the head of a part is long.
const FIRST_LEN_MIN: u64 = 512;

/// Sets a header whose value is ours, or was encoded; what cannot stand in a header is left out.
pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    } else {
        tracing::debug!(%name, "HTTP: a header is left out, its value has no form");
    }
}

fn content_range(part: &Range<u64>, len: u64) -> String {
    format!("bytes {}-{}/{len}", part.start, part.end - 1)
}

/// Whether whoever asked has what is here already (RFC 9110 13.1.2 and 13.1.3).
pub(crate) fn is_unchanged(headers: &HeaderMap, etag: &str, modified: Option<&str>) -> bool {
    let mut tags = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok()).peekable();
    if tags.peek().is_none() {
        // As servers do that have many clocks behind them: the very time that was told.
        let since = headers.get(IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
        return since.is_some() && since.map(str::trim) == modified;
    }
    let strong = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    tags.any(|list| list.split(',').map(str::trim).any(|tag| tag == "*" || strong(tag) == strong(etag)))
}

/// Whether a browser would run what is in it.
fn is_active(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.ends_with("html") || essence.ends_with("xml") || essence.ends_with("xsl") || essence.ends_with("+xslt")
}

/// How what is served may be called: shown, or saved as a file.
pub(crate) fn disposition(is_attachment: bool, filename: &str) -> String {
    let kind = if is_attachment { "attachment" } else { "inline" };
    let plain: String = filename
        .chars()
        .map(|char| match char {
            '"' | '\\' => '_',
            ' '..='~' => char,
            _ => '_',
        })
        .collect();
    if plain == filename {
        return format!("{kind}; filename=\"{plain}\"");
    }
    format!("{kind}; filename=\"{plain}\"; filename*=UTF-8''{}", percent_encode_value(filename))
}

/// A moment as headers have it (RFC 9110 5.6.7); `None` for one whose year has not four digits.
pub(crate) fn http_date(time: SystemTime) -> Option<String> {
    let moment = Utc::from(time);
    let (Utc { year, day, hour, minute, second, .. }, month) = (moment, moment.month_name());
    let of_week = unix_secs(time).div_euclid(86_400).rem_euclid(7);
    let of_week = DAYS.get(usize::try_from(of_week).ok()?)?;
    (0..=9999)
        .contains(&year)
        .then(|| format!("{of_week}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT"))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::LazyLock,
        time::{Duration, UNIX_EPOCH},
    };

    use axum::body::to_bytes;
    use proptest::prelude::*;

    use super::*;

    fn entity(content: &'static [u8]) -> Entity {
        let read = move |range: Range<u64>| {
            let range = usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small");
            // In small pieces, as from many leaves.
            let pieces = content[range].chunks(7).map(|piece| Ok(Bytes::from_static(piece)));
            stream::iter(pieces.collect::<Vec<_>>()).boxed()
        };
        Entity {
            len: content.len() as u64,
            content_type: "text/plain".into(),
            etag: "\"tag\"".into(),
            modified: Some(UNIX_EPOCH + Duration::from_secs(784_111_777)),
            headers: HeaderMap::new(),
            read: Box::new(read),
        }
    }

    async fn ask(content: &'static [u8], method: Method, headers: &[(HeaderName, &str)]) -> (Response<()>, Bytes) {
        let mut request = axum::http::Request::builder().method(method).body(()).expect("a request").into_parts().0;
        for (name, value) in headers {
            request.headers.append(name, value.parse().expect("a header"));
        }
        let response = entity(content).answer(&request, || "BOUNDARY".into()).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("a body");
        if let Some(len) = parts.headers.get(CONTENT_LENGTH).filter(|_| request.method == Method::GET) {
            assert_eq!(len, body.len().to_string().as_str(), "the length that was told");
        }
        (Response::from_parts(parts, ()), body)
    }

    #[tokio::test]
    async fn conditions() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (headers, status) in [
            (&[][..], 200),
            (&[(IF_NONE_MATCH, "\"tag\"")], 304),
            (&[(IF_NONE_MATCH, "W/\"tag\"")], 304),
            (&[(IF_NONE_MATCH, "\"a\", \"b\" ,\"tag\"")], 304),
            (&[(IF_NONE_MATCH, "\"a\""), (IF_NONE_MATCH, "\"tag\"")], 304),
            (&[(IF_NONE_MATCH, "*")], 304),
            (&[(IF_NONE_MATCH, "tag")], 200),
            (&[(IF_NONE_MATCH, "\"other\""), (IF_MODIFIED_SINCE, date)], 200),
            (&[(IF_MODIFIED_SINCE, date)], 304),
            (&[(IF_MODIFIED_SINCE, "yesterday")], 200),
            (&[(RANGE, "bytes=1-2")], 206),
            (&[(RANGE, "bytes=1-2"), (IF_RANGE, "\"tag\"")], 206),
            (&[(RANGE, "bytes=1-2"), (IF_RANGE, date)], 206),
            (&[(RANGE, "bytes=1-2"), (IF_RANGE, "W/\"tag\"")], 200),
            (&[(RANGE, "bytes=1-2"), (IF_RANGE, "\"other\"")], 200),
            (&[(RANGE, "bytes=5-")], 416),
        ] {
            let (response, body) = ask(b"hello", Method::GET, headers).await;
            assert_eq!(response.status(), status, "{headers:?}");
            assert_eq!(body.is_empty(), matches!(status, 304 | 416), "{headers:?}");
        }
        let (response, _) = ask(b"hello", Method::GET, &[(RANGE, "bytes=5-")]).await;
        assert_eq!(response.headers()[CONTENT_RANGE], "bytes */5");
    }

    #[tokio::test]
    async fn several_parts() {
        let (response, body) = ask(b"hello world", Method::GET, &[(RANGE, "bytes=6-8,0-1")]).await;
        assert_eq!(response.headers()[CONTENT_TYPE], "multipart/byteranges; boundary=BOUNDARY");
        let expected = "--BOUNDARY\r\nContent-Type: text/plain\r\nContent-Range: bytes 6-8/11\r\n\r\nwor\r\n\
                        --BOUNDARY\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/11\r\n\r\nhe\r\n--BOUNDARY--\r\n";
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn head_tells_what_get_would() {
        for headers in [&[][..], &[(RANGE, "bytes=1-2")], &[(IF_NONE_MATCH, "*")]] {
            let (head, body) = ask(b"hello", Method::HEAD, headers).await;
            assert!(body.is_empty());
            let without: Vec<_> = headers.iter().filter(|(name, _)| name != RANGE).cloned().collect();
            let (get, _) = ask(b"hello", Method::GET, &without).await;
            assert_eq!((head.status(), head.headers()), (get.status(), get.headers()), "{headers:?}");
        }
    }

    #[test]
    fn names_of_files_stay_in_their_quotes() {
        for (name, expected) in [
            ("a b.txt", "inline; filename=\"a b.txt\""),
            ("a\".exe", "inline; filename=\"a_.exe\"; filename*=UTF-8''a%22.exe"),
            ("a\r\nX: y", "inline; filename=\"a__X: y\"; filename*=UTF-8''a%0D%0AX%3A%20y"),
            ("testтест.tar", "inline; filename=\"test____.tar\"; filename*=UTF-8''test%D1%82%D0%B5%D1%81%D1%82.tar"),
        ] {
            assert_eq!(disposition(false, name), expected);
        }
    }

    #[test]
    fn what_a_browser_runs_is_kept_apart() {
        for active in ["text/html", "text/html; charset=utf-8", "image/svg+xml", "application/xhtml+xml", "text/xml"] {
            assert!(is_active(active), "{active}");
        }
        assert!(!is_active("text/plain; charset=utf-8") && !is_active("application/pdf"));
    }

    static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| (0..=250).cycle().take(300).collect());

    proptest! {
        /// What is asked for with a range is what a slice is.
        #[test]
        fn ranges_are_slices(from in 0..320usize, to in 0..320usize, suffix in any::<bool>()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let header = if suffix { format!("bytes=-{from}") } else { format!("bytes={from}-{to}") };
            let (response, body) = runtime.block_on(ask(&CONTENT, Method::GET, &[(RANGE, &header)]));
            let expected = match () {
                () if suffix => Some(300 - from.min(300)..300),
                () if from > to => None,
                () => Some(from.min(300)..(to + 1).min(300)),
            };
            match expected {
                None => prop_assert_eq!((response.status(), &body[..]), (StatusCode::OK, &CONTENT[..])),
                Some(range) if range.is_empty() => {
                    prop_assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE);
                }
                Some(range) => {
                    prop_assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
                    let told = format!("bytes {}-{}/300", range.start, range.end - 1);
                    prop_assert_eq!(&response.headers()[CONTENT_RANGE], told.as_str());
                    prop_assert_eq!(&body[..], &CONTENT[range]);
                }
            }
        }
    }
}
