//! The addresses of sources, as a configuration names them.

use std::{fmt, str::FromStr};

use hyper::Uri;
use muxfs::{Error, ErrorKind, Result};

/// The longest address, in characters.
const URL_LEN_MAX: usize = 1024;
/// What an address of a Kubo node begins with.
const KUBO_PREFIX: &str = "kubo+";

/// A server, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) is_tls: bool,
    /// A name, an IPv4 address, or an IPv6 address in brackets; in lower case.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// What stands in the `Host` header.
    pub(crate) fn authority(&self) -> String {
        if self.port == self.default_port() { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// The host as it is looked up and as a certificate names it.
    pub(crate) fn host_bare(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    fn default_port(&self) -> u16 {
        if self.is_tls { 443 } else { 80 }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.authority())
    }
}

/// The address of an HTTP server: `http://HOST[:PORT][/PATH]`, or `https`. Everything asked of it is below its path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Url {
    pub(crate) origin: Origin,
    /// Empty, or a slash and more, without one at its end.
    pub(crate) path: String,
}

impl Url {
    /// A path and query below this address.
    pub(crate) fn below(&self, rest: &str) -> String {
        format!("{}{rest}", self.path)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

/// Reads an address; `InvalidArgument` says what is wrong with it.
impl FromStr for Url {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|why| {
            let shown: String = text.chars().take(128).collect();
            Error::new(ErrorKind::InvalidArgument, "ipfs.url").at(shown.escape_debug()).because(why)
        })
    }
}

fn parse(text: &str) -> Result<Url, &'static str> {
    if text.len() > URL_LEN_MAX {
        return Err("an address has at most 1024 characters");
    }
    if text.contains(['?', '#']) {
        return Err("an address ends with a path: it has no ? and no #");
    }
    if text.contains('@') {
        return Err("a user and a password do not belong into an address: a Kubo node's stand in its auth_file");
    }
    let uri: Uri = text.parse().map_err(|_| "not an address as https://HOST or http://HOST:PORT")?;
    let url = of_uri(&uri)?;
    if matches!(url.path.rsplit('/').next(), Some("ipfs" | "ipns")) {
        return Err("give what comes before /ipfs");
    }
    if url.path.split('/').any(|part| part == "." || part == "..") {
        return Err("a path without . and ..");
    }
    Ok(url)
}

/// An address with a scheme and a host; its query is let go.
fn of_uri(uri: &Uri) -> Result<Url, &'static str> {
    let is_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("an address begins with https:// or http://"),
    };
    let authority = uri.authority().ok_or("an address names a host")?;
    let host = authority.host().to_ascii_lowercase();
    let is_bare = host.trim_start_matches('[').trim_end_matches(']');
    if is_bare.is_empty() || authority.as_str().contains('@') {
        return Err("an address names a host, and nobody who logs in there");
    }
    let port = match authority.port() {
        Some(port) if port.as_u16() == 0 => return Err("port 0 is none"),
        Some(port) => port.as_u16(),
        // A colon with no number, or one too large, behind it.
        None if authority.as_str().trim_start_matches(authority.host()).starts_with(':') => {
            return Err("a port is a number from 1 to 65535");
        }
        None if is_tls => 443,
        None => 80,
    };
    Ok(Url { origin: Origin { is_tls, host, port }, path: uri.path().trim_end_matches('/').to_owned() })
}

/// Where a redirect leads that `from` answered: a server, and the path and query there.
pub(crate) fn redirected(from: &Origin, location: &str) -> Result<(Origin, String), &'static str> {
    if location.len() > 8 * URL_LEN_MAX {
        return Err("a redirect longer than addresses are");
    }
    let location = location.split_once('#').map_or(location, |(before, _)| before);
    let uri: Uri = if let Some(rest) = location.strip_prefix("//") {
        format!("{}://{rest}", if from.is_tls { "https" } else { "http" }).parse()
    } else {
        location.parse()
    }
    .map_err(|_| "a redirect to what is no address")?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    if uri.scheme().is_none() && uri.authority().is_none() {
        return if path.starts_with('/') { Ok((from.clone(), path)) } else { Err("a redirect to a relative path") };
    }
    let to = of_uri(&uri)?.origin;
    if from.is_tls && !to.is_tls {
        return Err("a redirect from https to http");
    }
    Ok((to, path))
}

/// What a configuration names as a source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SourceUrl {
    /// A trustless gateway, as another MuxFS is one: `https://HOST`.
    Gateway(Url),
    /// The RPC of a Kubo node: `kubo+http://HOST:PORT`.
    Kubo(Url),
}

/// Reads what stands in a configuration; `InvalidArgument` says what is wrong with it.
///
/// ```
/// use muxfs_ipfs::SourceUrl;
/// assert!(matches!("https://gateway.example".parse(), Ok(SourceUrl::Gateway(_))));
/// assert!(matches!("kubo+http://127.0.0.1:5001".parse(), Ok(SourceUrl::Kubo(_))));
/// assert!("ftp://gateway.example".parse::<SourceUrl>().is_err());
/// ```
impl FromStr for SourceUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix(KUBO_PREFIX) {
            Some(rest) => rest.parse().map(Self::Kubo),
            None => text.parse().map(Self::Gateway),
        }
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(url) => write!(f, "{url}"),
            Self::Kubo(url) => write!(f, "{KUBO_PREFIX}{url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print() {
        for (text, printed, port) in [
            ("https://trustless-gateway.link", "https://trustless-gateway.link", 443),
            ("https://Gateway.Example:443/", "https://gateway.example", 443),
            ("http://127.0.0.1:8080/a/b/", "http://127.0.0.1:8080/a/b", 8080),
            ("http://[::1]:8080", "http://[::1]:8080", 8080),
            ("http://[::1]", "http://[::1]", 80),
        ] {
            let url: Url = text.parse().expect(text);
            assert_eq!((url.to_string().as_str(), url.origin.port), (printed, port), "{text}");
            let source: SourceUrl = format!("kubo+{text}").parse().expect(text);
            assert_eq!((source.to_string(), &source), (format!("kubo+{printed}"), &SourceUrl::Kubo(url)));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        let long = format!("http://a/{}", "a".repeat(URL_LEN_MAX));
        for (text, word) in [
            ("", "https://"),
            ("gateway.example", "https://"),
            ("ftp://a", "begins with"),
            ("https://", "https://"),
            ("http://a:0", "port"),
            ("http://a:99999", "port"),
            ("http://a:", "port"),
            ("http://u:p@a", "auth_file"),
            ("http://a?x=1", "no ?"),
            ("http://a/#x", "no #"),
            ("http://a b", "https://HOST"),
            ("https://ipfs.example/ipfs/", "before /ipfs"),
            ("http://a/../b", ".."),
            (&long, "1024"),
        ] {
            let error = text.parse::<Url>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(format!("{error:#}").contains(word), "{text}: {error:#}");
        }
    }

    #[test]
    fn redirects_lead_on_and_never_out_of_tls() {
        let of = |text: &str| text.parse::<Url>().expect("good").origin;
        let tls = of("https://a.example");
        for (location, to, path) in [
            ("/x?y=1", "https://a.example", "/x?y=1"),
            ("//b.example/x", "https://b.example", "/x"),
            ("https://b.example:444/x?y#z", "https://b.example:444", "/x?y"),
            ("https://b.example", "https://b.example", "/"),
        ] {
            assert_eq!(redirected(&tls, location), Ok((of(to), path.to_owned())), "{location}");
        }
        for bad in ["http://a.example/x", "x/y", "", "ftp://a/x", "https://u@b/x", "ht tp://a"] {
            redirected(&tls, bad).expect_err(bad);
        }
        assert!(redirected(&of("http://a.example"), "http://b.example/x").is_ok());
    }
}
