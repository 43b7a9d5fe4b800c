//! Addresses of sources: a directory, a 0-db namespace, a bucket of S3, an HTTP server, and for which ids.
//!
//! They stand in configurations, on command lines and in flists. What they keep secret is in none of the texts that are made of
//! them. Spec: spec/flist.md #sources.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::SystemTime};

use muxfs::{Env, Error, ErrorKind, Result};
use muxfs_ipfs::Url;
use muxfs_s3::{Bucket, S3Credentials, S3Limits, S3Place};
use muxfs_zstor::Password;

use crate::metadata::{Route, encoded};

/// Where a 0-db server listens that no port is named of.
const ZDB_PORT: u16 = 9900;
const OP: &str = "flist.source";

/// The address of a source.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Dir(PathBuf),
    Zdb { host: String, port: u16, namespace: Option<String>, password: Option<Password> },
    S3 { place: S3Place, who: Who },
    Http(Url),
}

/// Who asks a bucket.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// The address leaves it open: whoever has no key asks as anybody may.
    Unsaid,
    /// Nobody: anybody may read it.
    Nobody,
    Key(S3Credentials),
}

/// A source, and the ids that are there: text as `dir:///chunks`, `zdb://[:PASSWORD@]HOST[:9900][/NAMESPACE]`,
/// `s3://[KEY:SECRET@]HOST[:80]/BUCKET[/PREFIX][?region=REGION]` (`s3s://` over TLS), `https://HOST/PATH`, and before it where it
/// has not all of them `00-7f=`, their first byte from and to.
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
/// for url in ["dir:///srv/chunks", "00-7f=zdb://10.0.0.1:9900/flist", "s3s://s3.example:443/b", "https://hub.example/chunks"] {
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
            Address::S3 { place, who } => {
                let (scheme, server) = match place.endpoint.as_deref().and_then(|endpoint| endpoint.split_once("://")) {
                    Some(("https", server)) => ("s3s", server),
                    Some((_, server)) => ("s3", server),
                    None => ("s3", ""),
                };
                let user = match who {
                    Who::Unsaid => "",
                    Who::Nobody => "@",
                    Who::Key(_) => "***@",
                };
                write!(f, "{scheme}://{user}{server}/{}", place.bucket)?;
                if !place.prefix.is_empty() {
                    write!(f, "/{}", place.prefix)?;
                }
                place.region.iter().try_for_each(|region| write!(f, "?region={region}"))
            }
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

    /// The same without a password, or a key: as others may see it.
    #[must_use]
    pub fn public(&self) -> Self {
        let mut public = self.clone();
        match &mut public.address {
            Address::Zdb { password, .. } => *password = None,
            Address::S3 { who, .. } => *who = Who::Unsaid,
            Address::Dir(_) | Address::Http(_) => {}
        }
        public
    }

    /// The same, asked with this key where it is a bucket and leaves open who asks.
    #[must_use]
    pub fn with_key(mut self, key: &S3Credentials) -> Self {
        if let Address::S3 { who: who @ Who::Unsaid, .. } = &mut self.address {
            *who = Who::Key(key.clone());
        }
        self
    }

    /// The first byte of the ids that are there, from and to; and the address alone.
    /// Without its password, if it has one: whoever has an flist reads it.
    pub fn route(&self) -> Route {
        let whole = Self { first: 0, last: 255, ..self.public() };
        Route { first: self.first, last: self.last, url: whole.to_string() }
    }

    /// What a bucket fails with, and what to do where that is to say who asks.
    pub(crate) fn told(&self, error: Error) -> Error {
        match &self.address {
            Address::S3 { who: Who::Unsaid, .. } if error.kind() == ErrorKind::Denied => {
                let todo = "nobody says who asks: name KEY:SECRET@ in the address, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
                Error::new(ErrorKind::Denied, OP).because(format!("{error:#}; {todo}"))
            }
            _ => error,
        }
    }

    /// Whether it has a password, or a key, which no flist is told.
    pub fn has_password(&self) -> bool {
        matches!(self.address, Address::Zdb { password: Some(_), .. } | Address::S3 { who: Who::Key(_), .. })
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
            Some(("s3", rest)) => Self::parse_s3("http", rest),
            Some(("s3s" | "s3+tls" | "s3s+tls", rest)) => Self::parse_s3("https", rest),
            _ => Err("a source begins with dir://, zdb://, s3://, s3s://, http:// or https://".into()),
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
        let (host, port) = host_and_port(place)?;
        if host.is_empty() {
            return Err("the address of a 0-db server names a host, as zdb://HOST:9900/NAMESPACE".into());
        }
        let port = port.unwrap_or(ZDB_PORT);
        let namespace = namespace.filter(|namespace| !namespace.is_empty()).map(decoded).transpose()?;
        let texts = [Some(host), namespace.as_deref(), password.as_deref()];
        if texts.into_iter().flatten().any(|text| text.contains(char::is_control)) {
            return Err("a host, a namespace and a password have no control characters".into());
        }
        Ok(Self::Zdb { host: host.into(), port, namespace, password: password.map(Password::new) })
    }

    fn parse_s3(scheme: &str, rest: &str) -> Result<Self, String> {
        const FORM: &str =
            "a bucket is s3://[KEY:SECRET@]HOST[:PORT]/BUCKET[/PREFIX][?region=REGION], or s3s:// over TLS";
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (server, path) = rest.split_once('/').ok_or(FORM)?;
        let (user, place) = server.rsplit_once('@').map_or((None, server), |(user, place)| (Some(user), place));
        let who = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            None => Who::Unsaid,
            Some(("", "")) => Who::Nobody,
            Some((key, secret)) => {
                let (access_key, secret_key) = (decoded(key)?, decoded(secret)?);
                if access_key.is_empty() || secret_key.is_empty() {
                    return Err("in front of @ are the id of a key and its secret, or nothing for who has none".into());
                }
                if [&access_key, &secret_key].into_iter().any(|text| text.contains(char::is_control)) {
                    return Err("a key and its secret have no control characters".into());
                }
                Who::Key(S3Credentials { access_key, secret_key, token: None })
            }
        };
        let (host, port) = host_and_port(place)?;
        if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte)) {
            return Err(format!("the host is none: {FORM}"));
        }
        let port = port.unwrap_or(if scheme == "https" { 443 } else { 80 });
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.split('/').any(|part| !plain(part) || matches!(part, "" | "." | "..")) {
            return Err(format!(
                "a bucket, and what is in front of names in it, are of letters, digits and -._~: {FORM}"
            ));
        }
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let region = match query.map(|query| query.split_once('=')) {
            None => None,
            Some(Some(("region", region))) if plain(region) => Some(region.to_owned()).filter(|text| !text.is_empty()),
            Some(_) => return Err(format!("behind ? is the region alone: {FORM}")),
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let endpoint = Some(format!("{scheme}://{host}:{port}"));
        let place = S3Place { endpoint, bucket: bucket.into(), prefix: prefix.into(), region, path_style: Some(true) };
        open_bucket(&place, &Who::Unsaid, S3Limits::default()).map_err(|error| format!("{error:#}"))?;
        Ok(Self::S3 { place, who })
    }
}

/// A bucket, for who asks it. Nobody is asked yet.
///
/// # Errors
/// `InvalidArgument`, of which [`SourceUrl::from_str`] finds each.
pub(crate) fn open_bucket(place: &S3Place, who: &Who, limits: S3Limits) -> Result<Bucket> {
    // Pauses between attempts are drawn, and nothing else is.
    let fill = |bytes: &mut [u8]| {
        if aws_lc_rs::rand::fill(bytes).is_err() {
            bytes.fill(0);
        }
    };
    let env = Env { now: Arc::new(SystemTime::now), fill: Arc::new(fill) };
    match who {
        Who::Key(key) => place.open(key, limits, &env),
        Who::Unsaid | Who::Nobody => place.open_unsigned(limits, &env),
    }
}

/// The host of a server, that of IPv6 without its brackets, and its port, if one is named.
fn host_and_port(place: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        rest.split_once(']').ok_or("an IPv6 address ends with ]")?
    } else {
        place.find(':').map_or((place, ""), |at| place.split_at(at))
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return Err("behind the host of a server is its port, as :9900".into()),
        Some(digits) => Some(digits.parse().ok().filter(|port| *port > 0).ok_or("a port is a number from 1 to 65535")?),
    };
    Ok((host, port))
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
            ("s3://h/b", "s3://h:80/b"),
            ("s3s://h/b/", "s3s://h:443/b"),
            ("s3+tls://h:1/b", "s3s://h:1/b"),
            ("s3s+tls://h:1/b/c/d?region=eu-1", "s3s://h:1/b/c/d?region=eu-1"),
            ("40-7f=s3://KEY:p%40s@[::1]:9000/b?region=garage", "40-7f=s3://***@[::1]:9000/b?region=garage"),
            ("s3://@h:9000/b", "s3://@h:9000/b"),
        ] {
            let url: SourceUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("p@s"));
        }
        for bad in [
            "",
            "chunks",
            "dir://chunks",
            "s3://h",
            "s3://h/",
            "s3:///b",
            "s3://h/b//c",
            "s3://h/b/../c",
            "s3://h/b?endpoint=x",
            "s3://h/b?region=a&b=c",
            "s3://h/b?region=a%20b",
            "s3://KEY@h/b",
            "s3://:secret@h/b",
            "s3://K%0a:secret@h/b",
            "s3://h h/b",
            "s3://h:0/b",
            "s3://h/b#c",
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

    /// A key is told to nobody, and is asked with where the address leaves open who asks.
    #[test]
    fn a_key_is_for_its_server_alone() {
        let parse = |text: &str| text.parse::<SourceUrl>().expect(text);
        let key = S3Credentials { access_key: "ENV".into(), secret_key: "hidden".into(), token: None };
        for (text, has) in [("s3://h/b", true), ("s3://@h/b", false), ("s3://K:S@h/b", true), ("https://h", false)] {
            let url = parse(text).with_key(&key);
            assert_eq!(url.has_password(), has, "{text}");
            assert!(!url.public().has_password(), "{text}");
            let shown = format!("{url} {url:?} {} {}", url.route().url, url.public());
            assert!(!shown.contains("hidden") && !shown.contains("ENV") && !shown.contains("K:"), "{shown}");
        }
        assert_eq!(parse("40-7f=s3://K:S@h/b?region=r").route().url, "s3://h:80/b?region=r");
        let Address::S3 { who: Who::Key(own), .. } = parse("s3://K%2f:S%3a@h/b").with_key(&key).address else {
            panic!("a key")
        };
        assert_eq!((&*own.access_key, &*own.secret_key), ("K/", "S:"));
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
