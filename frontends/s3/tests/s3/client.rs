//! A client that signs what it is told to say.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    fmt::Write as _,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use muxfs_s3_serve::Key;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) addr: SocketAddr,
    pub(crate) key: Key,
    /// How many seconds its clock is ahead.
    pub(crate) skew: i64,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What stands between these tags, each time.
    pub(crate) fn all(&self, tag: &str) -> Vec<String> {
        let text = self.text();
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let inner = |part: &str| part.split_once(&close).map(|(inner, _)| inner.to_owned());
        text.split(&open).skip(1).filter_map(inner).collect()
    }

    pub(crate) fn one(&self, tag: &str) -> Option<String> {
        self.all(tag).into_iter().next()
    }

    /// Fails unless the status is this one.
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.text());
        self
    }

    /// Fails unless this is the error.
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        let told = self.one("Code").unwrap_or_default();
        assert_eq!((self.status, told.as_str()), (status, code), "{}\n{}", self.head, self.text());
        self
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    let short = if key.len() > 64 { Sha256::digest(key).to_vec() } else { key.to_vec() };
    block[..short.len()].copy_from_slice(&short);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(data).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

/// Text as an address has it, with or without slashes.
pub(crate) fn escape(text: &str, keeps_slash: bool) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (keeps_slash && byte == b'/') {
            escaped.push(char::from(byte));
        } else {
            _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// The time in the form of signatures.
pub(crate) fn date(skew: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let now = i64::try_from(now).expect("soon") + skew;
    let (days, rest) = (now.div_euclid(86_400), now.rem_euclid(86_400));
    // The civil calendar, from days: years begin in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

impl Client {
    fn signature(&self, date: &str, canonical: &str) -> String {
        let day = &date[..8];
        let scope = format!("{day}/us-east-1/s3/aws4_request");
        let hashed = hex(&Sha256::digest(canonical));
        let signed = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashed}");
        let mut secret = hmac(format!("AWS4{}", self.key.secret).as_bytes(), day.as_bytes());
        for part in ["us-east-1", "s3", "aws4_request", &signed] {
            secret = hmac(&secret, part.as_bytes());
        }
        hex(&secret)
    }

    /// Asks, signed by headers. `path` and the values of `query` are as they are meant.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let hash = hex(&Sha256::digest(body));
        self.ask_with(method, path, query, headers, body, &hash).await
    }

    /// The same with this hash of the body, right or wrong.
    pub(crate) async fn ask_with(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
        hash: &str,
    ) -> Reply {
        let head = self.head(method, (path, query), headers, body.len(), hash);
        send(self.addr, method, head.as_bytes(), body).await
    }

    /// What comes back from a server that may go away meanwhile.
    pub(crate) async fn try_ask(&self, method: &str, path: &str, query: &[(&str, &str)], body: &[u8]) -> Option<Reply> {
        let hash = hex(&Sha256::digest(body));
        let head = self.head(method, (path, query), &[], body.len(), &hash);
        try_send(self.addr, method, head.as_bytes(), body).await
    }

    /// The head of a request, signed.
    fn head(
        &self,
        method: &str,
        (path, query): (&str, &[(&str, &str)]),
        headers: &[(&str, &str)],
        len: usize,
        hash: &str,
    ) -> String {
        let (path, date, host) = (escape(path, true), date(self.skew), self.addr.to_string());
        let mut pairs: Vec<_> =
            query.iter().map(|(name, value)| format!("{}={}", escape(name, false), escape(value, false))).collect();
        pairs.sort();
        let query = pairs.join("&");
        let mut signed: Vec<(String, String)> = vec![
            ("host".into(), host),
            ("x-amz-content-sha256".into(), hash.into()),
            ("x-amz-date".into(), date.clone()),
        ];
        signed.extend(headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())));
        signed.sort();
        let lines: Vec<_> = signed.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let lines = lines.concat();
        let names = signed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{hash}");
        let signature = self.signature(&date, &canonical);
        let scope = format!("{}/us-east-1/s3/aws4_request", &date[..8]);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.key.id
        );
        let mark = if query.is_empty() { "" } else { "?" };
        let mut head = format!("{method} {path}{mark}{query} HTTP/1.1\r\nauthorization: {authorization}\r\n");
        head.extend(signed.iter().map(|(name, value)| format!("{name}: {value}\r\n")));
        _ = write!(head, "content-length: {len}\r\nconnection: close\r\n\r\n");
        head
    }

    /// The address at which anybody may do this for so many seconds.
    pub(crate) fn presigned(&self, method: &str, path: &str, seconds: u32) -> String {
        let (path, date) = (escape(path, true), date(self.skew));
        let credential = escape(&format!("{}/{}/us-east-1/s3/aws4_request", self.key.id, &date[..8]), false);
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={date}&X-Amz-Expires={seconds}\
             &X-Amz-SignedHeaders=host"
        );
        let canonical = format!("{method}\n{path}\n{query}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD", self.addr);
        format!("{path}?{query}&X-Amz-Signature={}", self.signature(&date, &canonical))
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], &[], b"").await
    }

    pub(crate) async fn put(&self, path: &str, body: &[u8]) -> Reply {
        self.ask("PUT", path, &[], &[], body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.ask("DELETE", path, &[], &[], b"").await
    }

    /// The keys and the common prefixes of a listing, page after page of `count`.
    pub(crate) async fn list(&self, bucket: &str, prefix: &str, delimiter: &str, count: usize) -> Vec<String> {
        let (mut found, mut token) = (Vec::new(), None::<String>);
        loop {
            let count = count.to_string();
            let mut query =
                vec![("list-type", "2"), ("max-keys", &count), ("prefix", prefix), ("encoding-type", "url")];
            if !delimiter.is_empty() {
                query.push(("delimiter", delimiter));
            }
            if let Some(token) = &token {
                query.push(("continuation-token", token));
            }
            let page = self.ask("GET", &format!("/{bucket}"), &query, &[], b"").await.expect(200);
            let mut names = page.all("Key");
            names.extend(
                page.all("CommonPrefixes")
                    .iter()
                    .map(|inner| inner.trim_start_matches("<Prefix>").trim_end_matches("</Prefix>").to_owned()),
            );
            let mut names: Vec<_> = names.iter().map(|name| unescape(name)).collect();
            names.sort();
            found.extend(names);
            token = page.one("NextContinuationToken");
            if token.is_none() {
                return found;
            }
        }
    }
}

/// Text as it was before it was escaped, by XML and for an address.
pub(crate) fn unescape(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.expect("two digits"));
                let digits = std::str::from_utf8(&digits).expect("digits").to_owned();
                bytes.push(u8::from_str_radix(&digits, 16).expect("digits"));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// Sends exactly these bytes, and reads what comes back.
pub(crate) async fn send(addr: SocketAddr, method: &str, head: &[u8], body: &[u8]) -> Reply {
    try_send(addr, method, head, body).await.expect("an answer that is whole")
}

/// The same; `None` where no whole answer came.
async fn try_send(addr: SocketAddr, method: &str, head: &[u8], body: &[u8]) -> Option<Reply> {
    let mut stream = TcpStream::connect(addr).await.ok()?;
    stream.write_all(head).await.ok()?;
    // A server that refuses need not read it.
    stream.write_all(body).await.ok();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.ok();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let reply = Reply { status, head, body: bytes[end..].to_vec() };
    let body = match reply.header("transfer-encoding") {
        Some("chunked") => unchunk(&reply.body),
        _ => reply.body.clone(),
    };
    let is_whole = |len: &str| method == "HEAD" || len == body.len().to_string();
    reply.header("content-length").is_none_or(is_whole).then_some(Reply { body, ..reply })
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let len = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).expect("digits"), 16).expect("a length");
        if len == 0 {
            break;
        }
        all.extend_from_slice(&bytes[end + 2..end + 2 + len]);
        bytes = &bytes[end + 2 + len + 2..];
    }
    all
}
