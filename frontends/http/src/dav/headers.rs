//! What WebDAV asks for in headers: how deep, to where, over what, for how long, and under which conditions.

use std::time::Duration;

use axum::http::{
    HeaderMap, HeaderName, StatusCode, Uri,
    header::{IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE},
    request::Parts,
};
use muxfs::Name;

use crate::{failure::Failure, guard, target::Target};

/// The longest that a lock lives without being refreshed, and how long it does where nobody says.
pub(crate) const LOCK_TIME_MAX: Duration = Duration::from_hours(1);
/// The most conditions of an `If`: each may cost a look at what is there.
const CONDITION_COUNT_MAX: usize = 64;

/// How far below a collection a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Zero,
    One,
    Infinity,
}

/// The one value of a header; an error for one that is there twice, or is no text.
fn value<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Failure> {
    let mut values = headers.get_all(HeaderName::from_static(name)).into_iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Failure::bad(format!("The request has more than one {name}."), "")),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| Failure::bad(format!("{name} is no text."), ""))?;
            Ok(Some(text.trim()))
        }
    }
}

/// `Depth` (RFC 4918 10.2); infinity where it is absent.
pub(crate) fn depth(headers: &HeaderMap) -> Result<Depth, Failure> {
    match value(headers, "depth")? {
        Some("0") => Ok(Depth::Zero),
        Some("1") => Ok(Depth::One),
        None => Ok(Depth::Infinity),
        Some(depth) if depth.eq_ignore_ascii_case("infinity") => Ok(Depth::Infinity),
        Some(other) => Err(Failure::bad(format!("There is no Depth {other:?}."), "It is 0, 1 or infinity.")),
    }
}

/// `Overwrite` (RFC 4918 10.6).
pub(crate) fn overwrite(headers: &HeaderMap) -> Result<bool, Failure> {
    match value(headers, "overwrite")? {
        None | Some("T" | "t") => Ok(true),
        Some("F" | "f") => Ok(false),
        Some(other) => Err(Failure::bad(format!("Overwrite is T or F, and not {other:?}."), "")),
    }
}

/// `Destination` (RFC 4918 10.3): a place of this server.
pub(crate) fn destination(request: &Parts, hosts: &[String]) -> Result<Target, Failure> {
    let Some(text) = value(&request.headers, "destination")? else {
        return Err(Failure::bad("The request says not where to: it has no Destination.", ""));
    };
    local(text, request, hosts)?.ok_or_else(|| {
        let why = format!("The destination {text:?} is on another server.");
        Failure::new(StatusCode::BAD_GATEWAY, why, "Fetch what is here, and send it there.")
    })
}

/// Where a URI of a header leads; `None` for another server's.
fn local(text: &str, request: &Parts, hosts: &[String]) -> Result<Option<Target>, Failure> {
    let bad =
        || Failure::bad(format!("{text:?} is no address of anything."), "It is an absolute one, or begins with /.");
    let uri: Uri = text.parse().map_err(|_| bad())?;
    if !uri.path().starts_with('/') {
        return Err(bad());
    }
    if let Some(authority) = uri.authority() {
        let is_own = guard::host(request).is_some_and(|host| host.eq_ignore_ascii_case(authority.as_str()));
        // A proxy may have told another Host than its clients know it by.
        let is_listed = guard::is_listed(authority.as_str(), hosts);
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        if !is_http || !(is_own || is_listed) {
            return Ok(None);
        }
    }
    // However long it is, it is not the address of the request.
    Target::parse(&uri).map(Some).map_err(|failure| Failure { status: StatusCode::BAD_REQUEST, ..failure })
}

/// `Timeout` (RFC 4918 10.7): the first that is understood, within bounds.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Duration, Failure> {
    let wanted = value(headers, "timeout")?.unwrap_or_default();
    let seconds = wanted.split(',').find_map(|one| one.trim().strip_prefix("Second-")?.parse().ok());
    Ok(seconds.map_or(LOCK_TIME_MAX, |seconds| Duration::from_secs(seconds).min(LOCK_TIME_MAX)))
}

/// `Lock-Token` (RFC 4918 10.5).
pub(crate) fn lock_token(headers: &HeaderMap) -> Result<&str, Failure> {
    let token = value(headers, "lock-token")?.and_then(|token| token.strip_prefix('<')?.strip_suffix('>'));
    token.ok_or_else(|| Failure::bad("The request says not which lock: it has no Lock-Token in angle brackets.", ""))
}

/// What an `If` says of a resource (RFC 4918 10.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It is locked with this token.
    Token(String),
    /// It has this entity tag.
    Etag(String),
}

/// Conditions that hold together, of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List {
    /// What it is about: `None` for what the request is about.
    pub(crate) of: Option<Of>,
    /// Whether each is to hold, or not to.
    pub(crate) conditions: Vec<(bool, State)>,
}

/// A resource that a list is tagged with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Of {
    Here(Vec<Name>),
    /// On another server, of which nothing is known.
    Elsewhere,
}

/// The lists of an `If`, of which one has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct If(pub(crate) Vec<List>);

impl If {
    /// Reads the header; `None` where there is none.
    pub(crate) fn of(request: &Parts, hosts: &[String]) -> Result<Option<Self>, Failure> {
        let Some(text) = value(&request.headers, "if")? else { return Ok(None) };
        let bad = |what: &str| Failure::bad(format!("The header If cannot be read: {what}."), "See RFC 4918 10.4.");
        let (mut rest, mut of, mut lists, mut count) = (text, None, Vec::new(), 0);
        let mut is_tag_used = true;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('<') {
                let (tag, after) = after.split_once('>').ok_or_else(|| bad("a tag does not end"))?;
                let is_mixed = lists.last().is_some_and(|list: &List| list.of.is_none());
                if is_mixed || !is_tag_used {
                    return Err(bad("a tag stands where none can"));
                }
                of = Some(local(tag, request, hosts)?.map_or(Of::Elsewhere, |target| Of::Here(target.parts)));
                (rest, is_tag_used) = (after.trim_start(), false);
                continue;
            }
            let inner = rest.strip_prefix('(').ok_or_else(|| bad("a list does not begin"))?;
            let (conditions, after) = conditions(inner).ok_or_else(|| bad("a list has no conditions, or no end"))?;
            count += conditions.len();
            if count > CONDITION_COUNT_MAX {
                return Err(bad("it has too many conditions"));
            }
            lists.push(List { of: of.clone(), conditions });
            (rest, is_tag_used) = (after.trim_start(), true);
        }
        if lists.is_empty() || !is_tag_used {
            return Err(bad("it ends too early"));
        }
        Ok(Some(Self(lists)))
    }

    /// The tokens of all lists: to name one is to have it.
    pub(crate) fn tokens(&self) -> Vec<String> {
        let conditions = self.0.iter().flat_map(|list| &list.conditions);
        conditions
            .filter_map(|(_, state)| match state {
                State::Token(token) => Some(token.clone()),
                State::Etag(_) => None,
            })
            .collect()
    }
}

/// The conditions up to a closing parenthesis, and what follows it.
fn conditions(mut rest: &str) -> Option<(Vec<(bool, State)>, &str)> {
    let mut conditions = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(')') {
            return (!conditions.is_empty()).then_some((conditions, after));
        }
        let is_not = rest.get(..3).is_some_and(|word| word.eq_ignore_ascii_case("not"));
        if is_not {
            rest = rest.get(3..)?.trim_start();
        }
        let (state, after) = if let Some(token) = rest.strip_prefix('<') {
            let (token, after) = token.split_once('>')?;
            (State::Token(token.to_owned()), after)
        } else {
            // A tag may have a bracket in it, and ends with a quotation mark.
            let (tag, after) = rest.strip_prefix('[')?.split_once("\"]")?;
            (State::Etag(format!("{}\"", tag.trim_start())), after)
        };
        conditions.push((!is_not, state));
        rest = after;
    }
}

/// Whether what is there is what a change is meant for (RFC 9110 13.1): `etag` is that of what is there.
pub(crate) fn is_meant(headers: &HeaderMap, etag: Option<&str>, modified: Option<&str>) -> bool {
    let has = |name: HeaderName, is_strong: bool| {
        let mut tags = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok()).peekable();
        tags.peek()?;
        let same =
            |tag: &str| etag.is_some_and(|etag| tag == etag || (!is_strong && tag.strip_prefix("W/") == Some(etag)));
        Some(tags.any(|list| list.split(',').map(str::trim).any(|tag| (tag == "*" && etag.is_some()) || same(tag))))
    };
    let unmodified = || {
        let since = headers.get(IF_UNMODIFIED_SINCE).and_then(|value| value.to_str().ok());
        // As servers do that have many clocks behind them: the very time that was told.
        since.is_none_or(|since| modified == Some(since.trim()))
    };
    has(IF_MATCH, true).unwrap_or_else(unmodified) && !has(IF_NONE_MATCH, false).unwrap_or(false)
}

/// Whether a change is to make something new and nothing else.
pub(crate) fn is_for_new(headers: &HeaderMap) -> bool {
    headers.get(IF_NONE_MATCH).is_some_and(|value| value.as_bytes().trim_ascii() == b"*")
}

/// Whether a change is to be made only to what is known.
pub(crate) fn is_conditional(headers: &HeaderMap) -> bool {
    headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE) || headers.contains_key("if")
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn request(headers: &[(&str, &str)]) -> Parts {
        let request = headers
            .iter()
            .fold(Request::builder().header("host", "here:80"), |request, (name, value)| request.header(*name, *value));
        request.body(()).expect("a request").into_parts().0
    }

    fn names(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| Name::new(name.as_bytes()).expect("a name")).collect()
    }

    #[test]
    fn a_destination_is_here_or_refused() {
        let hosts = ["files.example".to_owned()];
        let lead = |text: &str| destination(&request(&[("destination", text)]), &hosts);
        for text in ["/a/b%20c", "http://here:80/a/b%20c", "https://HERE:80/a/b%20c", "https://files.example/a/b%20c"] {
            assert_eq!(lead(text).expect(text).parts, names(&["a", "b c"]), "{text}");
        }
        for text in ["http://there:80/a", "http://here/a", "http://here:81/a", "ftp://here:80/a", "http://x@here:80/a"]
        {
            assert_eq!(lead(text).expect_err(text).status, StatusCode::BAD_GATEWAY, "{text}");
        }
        for text in ["", "a", "*", "here:80", "/a/../b", "/a/%2e%2e/b", "/a%2fb", "/a%00", "/%zz", "http://", "http:a"]
        {
            assert_eq!(lead(text).expect_err(text).status, StatusCode::BAD_REQUEST, "{text}");
        }
        let long = format!("/a/{}", "a".repeat(256));
        assert_eq!(lead(&long).expect_err("too long").status, StatusCode::BAD_REQUEST);
        let twice = request(&[("destination", "/a"), ("destination", "/b")]);
        assert_eq!(destination(&twice, &hosts).expect_err("two").status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn conditions_are_read_as_the_rfc_writes_them() {
        let read = |text: &str| If::of(&request(&[("if", text)]), &[]).map(|read| read.expect("there"));
        let token = |token: &str| State::Token(token.into());
        let found = read("(<urn:uuid:1> [\"a]\"]) (Not <DAV:no-lock>[W/\"b\"])").expect("two lists");
        assert_eq!(found.0[0].conditions, [(true, token("urn:uuid:1")), (true, State::Etag("\"a]\"".into()))]);
        assert_eq!(found.0[1].conditions, [(false, token("DAV:no-lock")), (true, State::Etag("W/\"b\"".into()))]);
        let found = read("<http://here:80/a/> (<x>) ([\"e\"]) <http://there/> (Not <y>)").expect("tagged");
        let of: Vec<_> = found.0.iter().map(|list| list.of.clone()).collect();
        assert_eq!(of, [Some(Of::Here(names(&["a"]))), Some(Of::Here(names(&["a"]))), Some(Of::Elsewhere)]);
        assert_eq!(found.tokens(), ["x", "y"]);
        let many = "(<x>)".repeat(CONDITION_COUNT_MAX + 1);
        for text in ["", "(", "()", "(<x>", "<x>", "(<x>) <y> (<z>)", "<a> <b> (<x>)", "(x)", "(Not)", "(<x>) y", &many]
        {
            assert_eq!(read(text).expect_err(text).status, StatusCode::BAD_REQUEST, "{text}");
        }
    }

    #[test]
    fn changes_are_for_what_they_are_meant_for() {
        let tag = Some("\"a\"");
        for (name, value, etag, is) in [
            ("if-match", "\"a\"", tag, true),
            ("if-match", "\"b\", \"a\"", tag, true),
            ("if-match", "W/\"a\"", tag, false),
            ("if-match", "*", tag, true),
            ("if-match", "*", None, false),
            ("if-match", "\"a\"", None, false),
            ("if-none-match", "*", tag, false),
            ("if-none-match", "*", None, true),
            ("if-none-match", "W/\"a\"", tag, false),
            ("if-none-match", "\"b\"", tag, true),
            ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT", tag, true),
            ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:36 GMT", tag, false),
            ("x", "", tag, true),
        ] {
            let headers = request(&[(name, value)]).headers;
            assert_eq!(is_meant(&headers, etag, Some("Sun, 06 Nov 1994 08:49:37 GMT")), is, "{name}: {value} {etag:?}");
        }
    }

    #[test]
    fn depths_and_times() {
        for (text, found) in [("0", Some(Depth::Zero)), ("Infinity", Some(Depth::Infinity)), ("2", None), ("", None)] {
            assert_eq!(depth(&request(&[("depth", text)]).headers).ok(), found, "{text}");
        }
        for (text, secs) in
            [("Infinite", 3600), ("Second-10", 10), ("Infinite, Second-4100000000", 3600), ("Second--1", 3600)]
        {
            assert_eq!(timeout(&request(&[("timeout", text)]).headers).expect("a time").as_secs(), secs, "{text}");
        }
    }
}
