//! Who may ask: what a web page of somebody else could make a browser do is refused.
//!
//! A page can have a name of its own lead to 127.0.0.1 (DNS rebinding) and would then read everything here as its own. Its
//! requests bear that name as `Host`, so only addresses, `localhost` and the names that the options list are served.
//! Spec: spec/http.md #who.

use std::net::IpAddr;

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Version,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, CACHE_CONTROL, HOST, VIA,
    },
    request::Parts,
    uri::Authority,
};

use crate::failure::Failure;

/// What may be done with what has a CID, and where nothing is written.
pub(crate) const METHODS: &str = "GET, HEAD, OPTIONS";

/// The name that a request asks for, with a port or without, where it has one: no browser omits it.
pub(crate) fn asked_host(request: &Parts) -> Result<Option<&str>, Failure> {
    let mut named = request.headers.get_all(HOST).into_iter();
    let header = named.next().map(|host| host.to_str().unwrap_or("?"));
    if named.next().is_some() {
        return Err(Failure::bad("The request has more than one Host.", ""));
    }
    // What the request line says counts, where it says something (RFC 9112 3.2.2).
    match (request.uri.authority(), header) {
        (Some(authority), _) => Ok(Some(authority.as_str())),
        (None, Some(header)) => Ok(Some(header)),
        (None, None) if request.version < Version::HTTP_11 => Ok(None),
        (None, None) => Err(Failure::bad("The request has no Host.", "")),
    }
}

/// Refuses a request whose `Host` is nobody's here.
pub(crate) fn check_host(request: &Parts, hosts: &[String]) -> Result<(), Failure> {
    let Some(host) = asked_host(request)? else { return Ok(()) };
    if is_known(host, hosts) {
        return Ok(());
    }
    let advice = "Use the address or localhost, or list the name under [http] hosts in the configuration.";
    Err(Failure::new(StatusCode::FORBIDDEN, format!("This server does not answer to the name {host:?}."), advice))
}

/// Whether a name, with a port or without, is one that is served.
fn is_known(host: &str, hosts: &[String]) -> bool {
    if let Some(v6) = host.strip_prefix('[') {
        return v6.split_once(']').is_some_and(|(v6, port)| {
            v6.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) && (port.is_empty() || is_port(port.strip_prefix(':')))
        });
    }
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    if port.is_some() && !is_port(port) {
        return false;
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || name == "localhost" || hosts.iter().any(|host| host.eq_ignore_ascii_case(&name))
}

pub(crate) fn is_port(text: Option<&str>) -> bool {
    text.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The name that a request asks for, with a port or without.
pub(crate) fn host(request: &Parts) -> Option<&str> {
    let named = || request.headers.get(HOST)?.to_str().ok();
    request.uri.authority().map(Authority::as_str).or_else(named)
}

/// Refuses what a page of another origin asks for, other than by leading its reader here.
///
/// Browsers say so: `Origin` in some requests, `Sec-Fetch-Site` in all, but those of old browsers, which cannot read the
/// answer either.
pub(crate) fn check_origin(request: &Parts, hosts: &[String]) -> Result<(), Failure> {
    let is_followed =
        value(request, "sec-fetch-mode") == Some("navigate") && value(request, "sec-fetch-dest") == Some("document");
    if is_own(request, hosts) && (is_near(request) || is_followed) {
        return Ok(());
    }
    let why = "What has a name here is for its own pages, and a page of another origin asked for it.";
    Err(Failure::new(StatusCode::FORBIDDEN, why, "Open the address itself."))
}

/// Refuses what a page of another origin would have a browser write, by whatever way, and with whosever rights.
pub(crate) fn check_writer(request: &Parts, hosts: &[String]) -> Result<(), Failure> {
    if is_own(request, hosts) && is_near(request) {
        return Ok(());
    }
    let why = "A page of another origin asked to write here.";
    Err(Failure::new(StatusCode::FORBIDDEN, why, "Write from a page of this server, or from a program."))
}

fn value<'a>(request: &'a Parts, name: &str) -> Option<&'a str> {
    request.headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// Whether the page that asks, if one does, is of this server.
fn is_own(request: &Parts, hosts: &[String]) -> bool {
    value(request, "origin").is_none_or(|origin| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| {
            let is_host = host(request).is_some_and(|host| authority.eq_ignore_ascii_case(host));
            // A proxy may have told another Host than its clients know it by.
            is_host || is_listed(authority, hosts)
        })
    })
}

/// Whether a host, with a port or without, has one of the names that were listed.
pub(crate) fn is_listed(authority: &str, hosts: &[String]) -> bool {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if is_port(Some(port)) => name,
        _ => authority,
    };
    hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
}

/// Whether a browser says that it asks for a page of this server, or for its user; others say nothing.
fn is_near(request: &Parts) -> bool {
    matches!(value(request, "sec-fetch-site"), None | Some("same-origin" | "none"))
}

/// Whether nobody else is to be asked for what is wanted.
pub(crate) fn only_if_cached(headers: &HeaderMap) -> bool {
    words(headers, &CACHE_CONTROL).any(|directive| directive.eq_ignore_ascii_case("only-if-cached"))
}

/// Whether another MuxFS asks, for somebody who asked it (RFC 9110 7.6.3).
pub(crate) fn is_via_muxfs(headers: &HeaderMap) -> bool {
    words(headers, &VIA).any(|hop| {
        let mut words = hop.split_ascii_whitespace();
        words.nth(1).is_some_and(|by| by.eq_ignore_ascii_case("muxfs"))
    })
}

/// What stands between the commas of a header.
fn words<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Lets pages of any origin read an answer: who knows the CID of public content may have it.
pub(crate) fn allow_every_origin(headers: &mut HeaderMap) {
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type, Range, User-Agent, X-Requested-With"),
        (
            ACCESS_CONTROL_EXPOSE_HEADERS,
            "Content-Length, Content-Range, X-Chunked-Output, X-Ipfs-Path, X-Ipfs-Roots, X-Stream-Output",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_the_names_that_are_listed_are_ours() {
        let request = |origin| {
            let request = axum::http::Request::builder().uri("/local/a").header(HOST, "127.0.0.1:8080");
            request.header("origin", origin).body(()).expect("a request").into_parts().0
        };
        let hosts = ["files.example".to_owned()];
        for origin in ["http://127.0.0.1:8080", "https://files.example", "https://Files.example:8443"] {
            assert!(check_writer(&request(origin), &hosts).is_ok(), "{origin}");
            assert!(check_origin(&request(origin), &hosts).is_ok(), "{origin}");
        }
        for origin in [
            "null",
            "https://files.example.evil",
            "https://evil.files.example",
            "http://127.0.0.1:8081",
            "http://localhost:8080",
            "ftp://files.example",
            "https://files.example:80x",
            "https://[files.example",
        ] {
            assert!(check_writer(&request(origin), &hosts).is_err(), "{origin}");
            assert!(check_origin(&request(origin), &hosts).is_err(), "{origin}");
        }
    }

    #[test]
    fn who_asks_for_another_is_known() {
        let headers = |name: HeaderName, value| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        for via in ["1.1 muxfs", "1.0 fred, 1.1 MuxFS (x)", "HTTP/1.1 muxfs"] {
            assert!(is_via_muxfs(&headers(VIA, via)), "{via}");
        }
        for via in ["", "1.1 proxy", "1.1 proxy (muxfs)", "muxfs"] {
            assert!(!is_via_muxfs(&headers(VIA, via)), "{via}");
        }
        assert!(only_if_cached(&headers(CACHE_CONTROL, "no-store, Only-If-Cached")));
        assert!(!only_if_cached(&headers(CACHE_CONTROL, "no-cache")));
    }

    #[test]
    fn names_that_are_served() {
        let hosts = ["files.example.org".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "192.168.1.7:80",
            "[::1]",
            "[::1]:8080",
            "localhost",
            "LocalHost:8080",
            "localhost.",
            "files.example.org",
            "Files.Example.Org:443",
        ] {
            assert!(is_known(host, &hosts), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.example:8080",
            "files.example.org.evil.example",
            "127.0.0.1:80:90",
            "127.0.0.1:x",
            "[::1",
            "[127.0.0.1]",
            "[evil]:80",
            "::1",
            "user@127.0.0.1",
            "example.org",
        ] {
            assert!(!is_known(host, &hosts), "{host}");
        }
    }
}
