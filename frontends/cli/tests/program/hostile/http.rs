//! HTTP and WebDAV: a path in every spelling that means it.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use muxfs::testing::hostile::{HostilePath, Sort};

use super::{Exception, Verdict, Wire, is_no_cid};

/// How a path can be written in an address.
fn spellings(path: &HostilePath) -> Vec<Vec<u8>> {
    let all = |spell: &dyn Fn(u8) -> Vec<u8>| -> Vec<u8> {
        path.parts
            .iter()
            .flat_map(|part| [b"/".to_vec(), part.iter().flat_map(|byte| spell(*byte)).collect()].concat())
            .collect()
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let mut spellings = vec![
        all(&|byte| if is_plain(byte) { vec![byte] } else { format!("%{byte:02X}").into_bytes() }),
        all(&|byte| format!("%{byte:02x}").into_bytes()),
    ];
    let is_sayable = |byte: &u8| matches!(byte, b'!'..=b'~') && !b"%?#/\"<>\\^`{|}".contains(byte);
    if path.parts.iter().flatten().all(is_sayable) {
        spellings.push(all(&|byte| vec![byte]));
    }
    spellings
}

/// The head and the body of an answer.
fn ask(addr: SocketAddr, method: &str, path: &[u8], headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).expect("connected");
    let rest = format!(" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    // Who is refused early may find the connection closed before all was said.
    stream.write_all(&[method.as_bytes(), b" ", path, rest.as_bytes()].concat()).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer to {method} {}: {answer:?}", path.escape_ascii())), answer)
}

fn verdict(status: u16, answer: &str) -> Verdict {
    match status {
        404 => Verdict::NotFound,
        400 => Verdict::Invalid,
        // A head of which one line is all there may be and more.
        414 | 431 => Verdict::TooLong,
        other => panic!("{other} is no verdict: {answer}"),
    }
}

/// The header's or the element's number.
fn number(answer: &str, before: &str) -> u64 {
    let rest = answer.split_once(before).unwrap_or_else(|| panic!("no {before:?}: {answer}")).1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

pub(super) struct Http(SocketAddr);

impl Http {
    pub(super) fn new(addr: SocketAddr) -> Self {
        Self(addr)
    }
}

impl Wire for Http {
    fn name(&self) -> &'static str {
        "HTTP"
    }

    fn exception(&self, path: &HostilePath) -> Option<Exception> {
        let is_plain = !matches!(path.sort, Sort::Dots | Sort::NoName) && super::expected(path) == Verdict::NotFound;
        (is_plain && is_no_cid(path)).then_some(Exception::Says(
            Verdict::Invalid,
            "gateways call it a bad request where a CID has to be and none is",
        ))
    }

    fn look(&mut self, path: &HostilePath) -> Verdict {
        let verdicts = spellings(path).into_iter().map(|spelling| {
            let (status, answer) = ask(self.0, "HEAD", &spelling, "");
            match status {
                200 => Verdict::File(number(&answer.to_ascii_lowercase(), "\r\ncontent-length: ")),
                301 => Verdict::Dir,
                status => verdict(status, &answer),
            }
        });
        let verdicts: Vec<_> = verdicts.collect();
        assert!(verdicts.iter().all(|other| other == &verdicts[0]), "{}: {verdicts:?}", path.shown());
        verdicts[0]
    }

    fn writes(&self) -> bool {
        false
    }

    fn make_dir(&mut self, path: &HostilePath) -> Verdict {
        panic!("it is WebDAV that makes {}", path.shown())
    }

    fn remove_dir(&mut self, path: &HostilePath) {
        panic!("it is WebDAV that removes {}", path.shown())
    }
}

pub(super) struct WebDav {
    addr: SocketAddr,
    headers: String,
}

impl WebDav {
    pub(super) fn new(addr: SocketAddr, token: &str) -> Self {
        Self { addr, headers: format!("Authorization: Bearer {token}\r\nContent-Length: 0\r\n") }
    }
}

impl Wire for WebDav {
    fn name(&self) -> &'static str {
        "WebDAV"
    }

    fn exception(&self, path: &HostilePath) -> Option<Exception> {
        (path.sort == Sort::Kept)
            .then_some(Exception::Says(Verdict::Invalid, "names that are kept for uploads are refused, not looked for"))
    }

    fn look(&mut self, path: &HostilePath) -> Verdict {
        let headers = format!("{}Depth: 0\r\n", self.headers);
        let (status, answer) = ask(self.addr, "PROPFIND", &spellings(path)[0], &headers);
        match status {
            207 if answer.contains("<D:collection/>") => Verdict::Dir,
            207 => Verdict::File(number(&answer, "<D:getcontentlength>")),
            403 if path.sort == Sort::Kept => Verdict::Invalid,
            status => verdict(status, &answer),
        }
    }

    fn make_dir(&mut self, path: &HostilePath) -> Verdict {
        match ask(self.addr, "MKCOL", &spellings(path)[0], &self.headers) {
            (201, _) => Verdict::Made,
            (403, _) if path.sort == Sort::Kept => Verdict::Invalid,
            (status, answer) => verdict(status, &answer),
        }
    }

    fn remove_dir(&mut self, path: &HostilePath) {
        let (status, answer) = ask(self.addr, "DELETE", &spellings(path)[0], &self.headers);
        assert_eq!(status, 204, "{}: {answer}", path.shown());
    }
}
