//! The scenario table of every wire, driven over WebDAV; names percent-encoded byte by byte.

mod web;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use muxfs::{
    ErrorKind, FileKind, Mount, MuxFs, Prefix,
    testing::{
        env,
        wire::{Ability, Answer, Client, Refusal, Stat},
    },
    vfs::Vfs,
};
use muxfs_http::{Options, Server};

use self::web::{OWNER, Reply, send, writing};

const AUTHORIZATION: (&str, &str) = ("Authorization", OWNER);

/// A client, and the server that lives as long as its clients.
#[derive(Debug)]
struct Dav(Arc<Server>);

/// Serves a file system as the mount `/a`.
async fn connect(vfs: Arc<dyn Vfs>) -> Arc<dyn Client> {
    let mut mux = MuxFs::new();
    mux.mount(Mount::location(Prefix::new("a").expect("a prefix"), vfs, env())).expect("mounts");
    let writing = writing(mux.vfs(&env()).await.expect("joins"));
    let options = Options { addr: ([127, 0, 0, 1], 0).into(), writing: Some(writing), ..Options::default() };
    Arc::new(Dav(Arc::new(muxfs_http::serve(mux, options).expect("listens"))))
}

/// The address of a path, without a slash at its end.
fn address(path: &[u8]) -> String {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    let encoded = parts.map(|part| part.iter().fold("/".to_owned(), |text, byte| text + &encode(*byte)));
    encoded.fold("/a".to_owned(), |text, part| text + &part)
}

fn encode(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || byte == b'.' { char::from(byte).to_string() } else { format!("%{byte:02X}") }
}

/// The bytes of a part of an address, as it stands in XML.
fn decode(part: &str) -> Vec<u8> {
    let part = part.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    let mut rest = part.bytes();
    let mut bytes = Vec::new();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                u8::from_str_radix(std::str::from_utf8(&digits).expect("ASCII"), 16).expect("hex digits")
            }
            byte => byte,
        });
    }
    bytes
}

/// What is between two texts, each time that they come.
fn between<'a>(text: &'a str, before: &'a str, after: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).map(move |rest| rest.split(after).next().expect("a beginning"))
}

/// What a status says that is no success; most say it of several kinds.
fn refusal(method: &str, reply: &Reply) -> Refusal {
    let kind = match (method, reply.status) {
        (_, 414) => ErrorKind::NameTooLong,
        (_, 507) => ErrorKind::NoSpace,
        ("PUT", 405) => ErrorKind::IsDir,
        ("MKCOL", 405) => ErrorKind::Exists,
        (_, 404) => ErrorKind::NotFound,
        (_, status) => return Refusal::Unnamed(format!("{status} {}", reply.text())),
    };
    Refusal::Kind(kind)
}

/// A date of RFC 9110, counted year by year: not the way the server does it.
fn moment(text: &str) -> SystemTime {
    const MONTHS: [(&str, u64); 12] = [
        ("Jan", 31),
        ("Feb", 28),
        ("Mar", 31),
        ("Apr", 30),
        ("May", 31),
        ("Jun", 30),
        ("Jul", 31),
        ("Aug", 31),
        ("Sep", 30),
        ("Oct", 31),
        ("Nov", 30),
        ("Dec", 31),
    ];
    let words: Vec<&str> = text.split([' ', ':']).collect();
    let number = |at: usize| words[at].parse::<u64>().expect("digits");
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (year, month) = (number(3), MONTHS.iter().position(|(name, _)| *name == words[2]).expect("a month"));
    let mut days: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    days += MONTHS[..month].iter().map(|(_, days)| days).sum::<u64>() + u64::from(month > 1 && is_leap(year));
    UNIX_EPOCH + Duration::from_secs((days + number(1) - 1) * 86_400 + number(4) * 3600 + number(5) * 60 + number(6))
}

impl Dav {
    async fn ask(&self, method: &str, address: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let reply = send(self.0.local_addr(), method, address, &[&[AUTHORIZATION], headers].concat(), body).await;
        assert!(reply.is_whole, "{method} {address} broke off");
        reply
    }

    /// Asks for what is answered with nothing but success.
    async fn done(&self, method: &str, address: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer<()> {
        let reply = self.ask(method, address, headers, body).await;
        if matches!(reply.status, 201 | 204) { Ok(()) } else { Err(refusal(method, &reply)) }
    }

    async fn read(&self, path: &[u8], range: Option<String>) -> Answer<Vec<u8>> {
        let headers: Vec<_> = range.iter().map(|range| ("Range", range.as_str())).collect();
        let reply = self.ask("GET", &address(path), &headers, b"").await;
        match reply.status {
            200 | 206 => Ok(reply.body),
            // What HTTP holds against a range, the scenarios call the end of the file.
            416 => Ok(Vec::new()),
            // Only a directory has a slash at its end.
            301 => Err(Refusal::Kind(ErrorKind::IsDir)),
            _ => Err(refusal("GET", &reply)),
        }
    }

    async fn find(&self, path: &[u8], depth: &str) -> Answer<String> {
        let reply = self.ask("PROPFIND", &address(path), &[("Depth", depth)], b"").await;
        if reply.status == 207 { Ok(reply.text()) } else { Err(refusal("PROPFIND", &reply)) }
    }
}

#[async_trait]
impl Client for Dav {
    fn cannot(&self, ability: Ability) -> Option<&'static str> {
        match ability {
            Ability::BinaryNames | Ability::LineBreakNames | Ability::Sync => None,
            Ability::WriteWithin | Ability::WritePastEnd => Some("PUT replaces a file, and Content-Range is refused"),
            Ability::RemoveByKind => {
                Some("DELETE, and MOVE with Overwrite, take a directory with all below it (RFC 4918 9.6.1, 9.9.3)")
            }
        }
    }

    async fn another(&self) -> Arc<dyn Client> {
        Arc::new(Self(self.0.clone()))
    }

    async fn mkdir(&self, path: &[u8]) -> Answer<()> {
        self.done("MKCOL", &address(path), &[], b"").await
    }

    async fn put(&self, path: &[u8], data: &[u8]) -> Answer<()> {
        self.done("PUT", &address(path), &[], data).await
    }

    /// As programs write that know whole files alone.
    async fn write_at(&self, path: &[u8], offset: u64, data: &[u8]) -> Answer<()> {
        let mut all = self.read(path, None).await?;
        all.truncate(usize::try_from(offset).expect("64 bits"));
        all.extend_from_slice(data);
        self.put(path, &all).await
    }

    async fn get(&self, path: &[u8]) -> Answer<Vec<u8>> {
        self.read(path, None).await
    }

    async fn get_range(&self, path: &[u8], offset: u64, len: usize) -> Answer<Vec<u8>> {
        let last = offset + u64::try_from(len).expect("64 bits") - 1;
        self.read(path, Some(format!("bytes={offset}-{last}"))).await
    }

    async fn list(&self, path: &[u8]) -> Answer<Vec<Vec<u8>>> {
        let listed = self.find(path, "1").await?;
        let mut responses = between(&listed, "<D:response>", "</D:response>");
        let own = responses.next().expect("itself");
        if !own.contains("<D:collection/>") {
            return Err(Refusal::Kind(ErrorKind::NotDir));
        }
        let name = |response: &str| {
            let href = between(response, "<D:href>", "</D:href>").next().expect("an address");
            decode(href.trim_end_matches('/').rsplit('/').next().expect("a name"))
        };
        Ok(responses.map(name).collect())
    }

    async fn stat(&self, path: &[u8]) -> Answer<Stat> {
        let found = self.find(path, "0").await?;
        let property = |name: &str| {
            let (before, after) = (format!("<D:{name}>"), format!("</D:{name}>"));
            found.split_once(&before).and_then(|(_, rest)| rest.split_once(&after)).map(|(value, _)| value.to_owned())
        };
        let kind = if found.contains("<D:collection/>") { FileKind::Dir } else { FileKind::File };
        let size = property("getcontentlength").map_or(0, |digits| digits.parse().expect("a number"));
        Ok(Stat { kind, size, mtime: moment(&property("getlastmodified").expect("a date")) })
    }

    async fn rename(&self, from: &[u8], to: &[u8]) -> Answer<()> {
        self.done("MOVE", &address(from), &[("Destination", &address(to))], b"").await
    }

    async fn remove(&self, path: &[u8]) -> Answer<()> {
        self.done("DELETE", &address(path), &[], b"").await
    }

    async fn rmdir(&self, path: &[u8]) -> Answer<()> {
        let removed = self.done("DELETE", &(address(path) + "/"), &[], b"").await;
        removed.map_err(|refusal| match refusal {
            // There is nothing of this name, or no directory.
            Refusal::Kind(ErrorKind::NotFound) => Refusal::Unnamed("404".to_owned()),
            other => other,
        })
    }
}

muxfs::wire_laws!(webdav, connect);
muxfs::wire_laws!(webdav_on_a_working_tree, connect, on: muxfs::testing::wire::working_tree());
