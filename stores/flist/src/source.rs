//! Where chunks are: a directory, a 0-db namespace, an HTTP server, and for which ids.
//!
//! A source is nobody to trust, and nobody to wait for: what it gives is held against the id by who asked, and one that
//! is out of reach or silent rests for a while, so that a dead one costs one wait and not one for each chunk. Spec: spec/flist.md #sources.

use std::{
    fmt, fs,
    io::Read as _,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use muxfs::{Error, ErrorKind, Result};
use muxfs_ipfs::{HttpFiles, HttpOptions, Url};
use muxfs_zstor::{Password, ZdbValues};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    chunk::{STORED_LEN_MAX, hex},
    metadata::{Route, encoded},
};

/// So many chunks are asked of a source at a time.
const ASKED_COUNT_MAX: usize = 8;
/// How long a source may take for a chunk, to its last byte.
const SOURCE_TIME_MAX: Duration = Duration::from_secs(10);
/// One that failed is left alone for so long, and for twice as long with each failure more,
const REST_MIN: Duration = Duration::from_secs(1);
/// but no longer.
const REST_MAX: Duration = Duration::from_mins(1);
/// Where a 0-db server listens that no port is named of.
const ZDB_PORT: u16 = 9900;

const OP: &str = "flist.source";

/// The address of a source.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Dir(PathBuf),
    Zdb { host: String, port: u16, namespace: Option<String>, password: Option<Password> },
    Http(Url),
}

/// A source, and the ids that are there: text as `dir:///chunks`, `zdb://[:PASSWORD@]HOST[:9900][/NAMESPACE]`,
/// `https://HOST/PATH`, and before it where it has not all of them `00-7f=`, their first byte from and to.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceUrl {
    first: u8,
    last: u8,
    pub(crate) address: Address,
}

/// Reads what stands in a configuration; `InvalidArgument` says what is wrong with it.
///
/// ```
/// use muxfs_flist::SourceUrl;
/// for url in ["dir:///srv/chunks", "00-7f=zdb://10.0.0.1:9900/flist", "https://hub.example/chunks"] {
///     assert_eq!(url.parse::<SourceUrl>()?.to_string(), url);
/// }
/// assert!("dir://chunks".parse::<SourceUrl>().is_err());
/// # Ok::<(), muxfs::Error>(())
/// ```
impl FromStr for SourceUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text).map_err(|why| {
            // Not the text: it may have a password.
            Error::new(ErrorKind::InvalidArgument, OP).because(why)
        })
    }
}

/// As it is read; a password is not shown.
impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if (self.first, self.last) != (0, 255) {
            write!(f, "{:02x}-{:02x}=", self.first, self.last)?;
        }
        match &self.address {
            Address::Dir(dir) => write!(f, "dir://{}", dir.display()),
            Address::Http(url) => write!(f, "{url}"),
            Address::Zdb { host, port, namespace, password } => {
                let user = if password.is_some() { ":***@" } else { "" };
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                write!(f, "zdb://{user}{host}:{port}")?;
                namespace.iter().try_for_each(|namespace| write!(f, "/{}", encoded(namespace)))
            }
        }
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceUrl({self})")
    }
}

impl SourceUrl {
    fn parse(text: &str) -> Result<Self, String> {
        let (first, last, url) = match text.split_once('=') {
            Some((range, url)) if !range.contains(':') => {
                let byte = |digits: &str| if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None };
                let range = range.split_once('-').and_then(|(first, last)| Some((byte(first)?, byte(last)?)));
                let (first, last) = range.ok_or("the ids in front of = are two bytes in hex, as 00-7f=")?;
                (first, last, url)
            }
            _ => (0, 255, text),
        };
        if first > last {
            return Err("the ids in front of = go from the lower byte to the higher".into());
        }
        Ok(Self { first, last, address: Address::parse(url)? })
    }

    /// The same, of the ids from `first` to `last`.
    pub(crate) fn within(self, first: u8, last: u8) -> Self {
        Self { first, last, ..self }
    }

    /// Whether an id may be there.
    pub(crate) fn has(&self, id: &[u8]) -> bool {
        id.first().is_some_and(|byte| (self.first..=self.last).contains(byte))
    }

    /// The same without a password: as others may see it.
    #[must_use]
    pub fn public(&self) -> Self {
        let mut public = self.clone();
        if let Address::Zdb { password, .. } = &mut public.address {
            *password = None;
        }
        public
    }

    /// The first byte of the ids that are there, from and to; and the address alone.
    /// Without its password, if it has one: whoever has an flist reads it.
    pub fn route(&self) -> Route {
        let whole = Self { first: 0, last: 255, ..self.public() };
        Route { first: self.first, last: self.last, url: whole.to_string() }
    }

    /// Whether it has a password, which no flist is told.
    pub fn has_password(&self) -> bool {
        matches!(self.address, Address::Zdb { password: Some(_), .. })
    }

    /// Whether it is a directory of this machine.
    pub fn is_dir(&self) -> bool {
        matches!(self.address, Address::Dir(_))
    }
}

impl Address {
    fn parse(url: &str) -> Result<Self, String> {
        if url.starts_with("http://") || url.starts_with("https://") {
            return url.parse().map(Self::Http).map_err(|error: Error| format!("{error:#}"));
        }
        if let Some(dir) = url.strip_prefix("dir://") {
            let dir = PathBuf::from(dir);
            return if dir.is_absolute() {
                Ok(Self::Dir(dir))
            } else {
                Err("a directory has a full path, as dir:///chunks".into())
            };
        }
        match url.split_once("://") {
            Some(("zdb", rest)) => Self::parse_zdb(rest),
            Some((scheme @ ("s3" | "s3s" | "s3s+tls"), _)) => Err(format!("{scheme}:// is not read yet")),
            _ => Err("a source begins with dir://, zdb://, http:// or https://".into()),
        }
    }

    fn parse_zdb(rest: &str) -> Result<Self, String> {
        let (server, namespace) = rest.split_once('/').map_or((rest, None), |(server, path)| (server, Some(path)));
        if rest.contains(['?', '#']) {
            return Err("the address of a 0-db server has neither ? nor #".into());
        }
        let (user, place) = server.rsplit_once('@').map_or((None, server), |(user, place)| (Some(user), place));
        let password = user.map(|user| user.split_once(':').map_or("", |(_, password)| password));
        let password = password.filter(|password| !password.is_empty()).map(decoded).transpose()?;
        let (host, port) = if let Some(rest) = place.strip_prefix('[') {
            rest.split_once(']').ok_or("an IPv6 address ends with ]")?
        } else {
            place.find(':').map_or((place, ""), |at| place.split_at(at))
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => ZDB_PORT,
            None => return Err("behind the host of a 0-db server is its port, as :9900".into()),
            Some(digits) => digits.parse().ok().filter(|port| *port > 0).ok_or("a port is a number from 1 to 65535")?,
        };
        if host.is_empty() {
            return Err("the address of a 0-db server names a host, as zdb://HOST:9900/NAMESPACE".into());
        }
        let namespace = namespace.filter(|namespace| !namespace.is_empty()).map(decoded).transpose()?;
        let texts = [Some(host), namespace.as_deref(), password.as_deref()];
        if texts.into_iter().flatten().any(|text| text.contains(char::is_control)) {
            return Err("a host, a namespace and a password have no control characters".into());
        }
        Ok(Self::Zdb { host: host.into(), port, namespace, password: password.map(Password::new) })
    }
}

/// Text of an address, with its escapes undone.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let digits = rest.split_at_checked(2).and_then(|(digits, after)| {
                rest = after;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
            });
            bytes.push(digits.ok_or("behind % are two digits in hex")?);
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).map_err(|_| "an address is UTF-8".into())
}

/// Who is asked for chunks, and whether it is worth it.
#[derive(Debug)]
pub(crate) struct Source {
    url: SourceUrl,
    asked: Asked,
    /// Of a source, not of all: those who wait for a slow one hold up nobody who asks another.
    permits: Semaphore,
    rest: Mutex<Option<Rest>>,
}

#[derive(Debug)]
enum Asked {
    Dir(PathBuf),
    Zdb(ZdbValues),
    Http(HttpFiles),
}

/// It failed.
#[derive(Debug, Clone)]
struct Rest {
    until: Instant,
    len: Duration,
    why: String,
}

impl Source {
    pub(crate) fn new(url: SourceUrl) -> Arc<Self> {
        let asked = match &url.address {
            Address::Dir(dir) => Asked::Dir(dir.clone()),
            Address::Http(url) => Asked::Http(HttpFiles::new(url.clone(), HttpOptions::default())),
            Address::Zdb { host, port, namespace, password } => {
                Asked::Zdb(ZdbValues::new(host, *port, namespace.clone(), password.clone()))
            }
        };
        Arc::new(Self { url, asked, permits: Semaphore::new(ASKED_COUNT_MAX), rest: Mutex::default() })
    }

    pub(crate) fn url(&self) -> &SourceUrl {
        &self.url
    }

    /// Whether an id may be there.
    pub(crate) fn has(&self, id: &[u8]) -> bool {
        self.url.has(id)
    }

    /// What is stored under an id; `None` where it says that there is nothing. One that failed is not asked again for a while.
    ///
    /// # Errors
    /// Naming the source.
    pub(crate) async fn get(&self, id: &[u8]) -> Result<Option<Bytes>> {
        self.within(self.ask(id)).await
    }

    /// Whether something is stored under an id, as it says itself: nothing is fetched, but of HTTP, and none verified.
    ///
    /// # Errors
    /// Those of [`Source::get`].
    pub(crate) async fn has_stored(&self, id: &[u8]) -> Result<bool> {
        let asked = async {
            match &self.asked {
                Asked::Zdb(zdb) => zdb.has(id).await,
                Asked::Http(_) => self.ask(id).await.map(|stored| stored.is_some()),
                Asked::Dir(dir) => {
                    let paths = paths(dir, id);
                    let look = move || paths.iter().any(|path| fs::metadata(path).is_ok_and(|about| about.is_file()));
                    let looked = tokio::task::spawn_blocking(look).await;
                    looked.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))
                }
            }
        };
        self.within(asked).await
    }

    /// What it answers, if it is to be asked now and answers in time.
    async fn within<T>(&self, asked: impl Future<Output = Result<T>>) -> Result<T> {
        let permit = self.permits.acquire().await;
        let _permit = permit.map_err(|closed| Error::new(ErrorKind::Internal, OP).because(closed))?;
        // It may have failed for those who were before.
        let resting = self.rest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(rest) = resting.filter(|rest| Instant::now() < rest.until) {
            return Err(self.unavailable(format!("it failed a moment ago: {}", rest.why)));
        }
        let asked = timeout(SOURCE_TIME_MAX, asked).await;
        let late = || self.unavailable(format!("no answer within {SOURCE_TIME_MAX:?}"));
        let answered = asked.unwrap_or_else(|_elapsed| Err(late()));
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        match &answered {
            Ok(_) => *rest = None,
            // One value that it does not give, or not as it should be, tells nothing of the others.
            Err(error) if error.kind() != ErrorKind::Unavailable || self.url.is_dir() => {}
            // Those that were asked beside it tell nothing more.
            Err(_) if rest.as_ref().is_some_and(|rest| Instant::now() < rest.until) => {}
            Err(error) => {
                let len = rest.as_ref().map_or(REST_MIN, |rest| (rest.len * 2).min(REST_MAX));
                *rest = Some(Rest { until: Instant::now() + len, len, why: format!("{error:#}") });
            }
        }
        answered
    }

    fn unavailable(&self, why: String) -> Error {
        Error::new(ErrorKind::Unavailable, OP).at(&self.url).because(why)
    }

    async fn ask(&self, id: &[u8]) -> Result<Option<Bytes>> {
        let digits = hex(id);
        let front = digits.get(..2).unwrap_or_default();
        match &self.asked {
            Asked::Zdb(zdb) => zdb.get(id).await,
            Asked::Http(http) => match http.get(&format!("/{front}/{digits}"), STORED_LEN_MAX).await? {
                Some(stored) => Ok(Some(stored)),
                None => http.get(&format!("/{digits}"), STORED_LEN_MAX).await,
            },
            Asked::Dir(dir) => {
                let paths = paths(dir, id);
                let read = tokio::task::spawn_blocking(move || {
                    paths.iter().find_map(|path| read_file(path).transpose()).transpose()
                });
                read.await.map_err(|error| Error::new(ErrorKind::Internal, OP).because(error))?
            }
        }
    }
}

/// Where a directory may have a chunk.
fn paths(dir: &Path, id: &[u8]) -> [PathBuf; 2] {
    let digits = hex(id);
    [dir.join(digits.get(..2).unwrap_or_default()).join(&digits), dir.join(&digits)]
}

/// The bytes of a file; `None` where it is not there.
fn read_file(path: &Path) -> Result<Option<Bytes>> {
    let failed = |error: std::io::Error| Error::new(ErrorKind::Unavailable, OP).at(path.display()).because(error);
    let absent = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
    };
    let about = match fs::metadata(path) {
        Ok(about) if about.is_file() => about,
        // Nobody waits for what a pipe may give.
        Ok(_) => return Ok(None),
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0).min(STORED_LEN_MAX));
    match fs::File::open(path) {
        Ok(file) => file.take(STORED_LEN_MAX as u64).read_to_end(&mut bytes).map_err(failed)?,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    Ok(Some(bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for (text, shown) in [
            ("dir:///a b", "dir:///a b"),
            ("zdb://h", "zdb://h:9900"),
            ("zdb://h:1/ns", "zdb://h:1/ns"),
            ("zdb://[::1]:2/ns", "zdb://[::1]:2/ns"),
            ("80-ff=zdb://:p%40s@h:1/ns", "80-ff=zdb://:***@h:1/ns"),
            ("http://h:81/chunks/", "http://h:81/chunks"),
            ("00-ff=https://h", "https://h"),
        ] {
            let url: SourceUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("p@s"));
        }
        for bad in [
            "",
            "chunks",
            "dir://chunks",
            "s3://h/b",
            "zdb://",
            "zdb://:9900/ns",
            "zdb://h:0",
            "zdb://h:x",
            "zdb://[::1",
            "zdb://h?x",
            "zdb://:%4@h",
            "zdb://h/a%0d%0aSET",
            "zdb://:a%00@h/ns",
            "zdb://h\n/ns",
            "http://h/a\r\nb",
            "0-ff=dir:///a",
            "ff-00=dir:///a",
            "x=dir:///a",
        ] {
            let error = bad.parse::<SourceUrl>().expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn a_source_has_the_ids_of_its_range() {
        let url: SourceUrl = "10-1f=dir:///a".parse().expect("good");
        for (byte, has) in [(0x0f, false), (0x10, true), (0x1f, true), (0x20, false)] {
            assert_eq!(url.has(&[byte, 0]), has);
        }
        assert!(!url.has(&[]));
    }
}
