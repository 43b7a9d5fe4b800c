//! `_redirects`: what a site says of paths that it has nothing at. Only where the site has an origin of its own.
//!
//! A text of lines `FROM TO [STATUS]`, of which the first counts whose `FROM` is the path. Nothing here reads content: the
//! text comes in, and a path goes to what is to be answered. Formats: IPFS Web `_redirects` File Specification.
//! Spec: spec/http.md #sites.

use std::collections::HashSet;

use axum::http::StatusCode;
use muxfs::{
    Name,
    path::{PATH_LEN_MAX, PATH_PART_COUNT_MAX},
};

use crate::{
    failure::cause_of,
    target::{percent_decode, percent_encode_value},
};

/// What the file is called, at the root of a site.
pub(crate) const FILE: &str = "_redirects";
/// How long it may be, in bytes.
pub(crate) const FILE_LEN_MAX: u64 = 64 << 10;
/// How long an address may become, in bytes: as long as a path may that is asked for.
const TO_LEN_MAX: usize = 3 * PATH_LEN_MAX;
/// What `TO` knows by the asterisk of `FROM`.
const SPLAT: &str = "splat";

/// What is to be answered in the place of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// What is at another path of the site, with this status; as it stands in a URL. `line` says so.
    Instead { status: StatusCode, path: String, line: usize },
    /// That it is at another address.
    Elsewhere(StatusCode, String),
}

/// A line.
#[derive(Debug, Clone)]
struct Rule {
    line: usize,
    from: Vec<Part>,
    to: String,
    status: StatusCode,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Is(Vec<u8>),
    /// Any part, which `TO` knows by this name.
    Any(String),
    /// Any parts, or none.
    Rest,
}

impl Part {
    /// What `TO` knows it by.
    fn placeholder(&self) -> Option<&str> {
        match self {
            Self::Is(_) => None,
            Self::Any(name) => Some(name),
            Self::Rest => Some(SPLAT),
        }
    }
}

/// A file that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadLine {
    /// From 1.
    pub(crate) line: usize,
    pub(crate) why: String,
}

/// All lines of a file.
#[derive(Debug, Clone)]
pub(crate) struct Redirects(Vec<Rule>);

impl Redirects {
    pub(crate) fn parse(text: &[u8]) -> Result<Self, BadLine> {
        let mut rules = Vec::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let bad = |why: String| BadLine { line: index + 1, why };
            let line = std::str::from_utf8(line).map_err(|_| bad("it is no UTF-8".into()))?;
            let line = line.split_once('#').filter(|(before, _)| is_comment(before)).map_or(line, |(before, _)| before);
            if line.trim().is_empty() {
                continue;
            }
            rules.push(Rule::parse(index + 1, line.trim()).map_err(bad)?);
        }
        Ok(Self(rules))
    }

    /// What is to be answered for a path of the site, whose query is this.
    pub(crate) fn answer(&self, path: &[Name], query: &str) -> Result<Option<Answer>, BadLine> {
        self.0.iter().find_map(|rule| rule.answer(path, query)).transpose()
    }
}

/// Whether a `#` after this text begins a comment: a path has one within it only as a fragment of `TO`.
fn is_comment(before: &str) -> bool {
    before.is_empty() || before.ends_with([' ', '\t'])
}

impl Rule {
    fn parse(line: usize, text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split([' ', '\t']).filter(|field| !field.is_empty()).collect();
        let (from, to, status) = match fields[..] {
            [from, to] => (from, to, "301"),
            [from, to, status] => (from, to, status),
            _ => return Err("a line is FROM TO, or FROM TO STATUS".into()),
        };
        let status = match status {
            "200" | "301" | "302" | "303" | "307" | "308" | "404" | "410" | "451" => {
                StatusCode::from_bytes(status.as_bytes()).map_err(|error| error.to_string())?
            }
            _ => {
                let known = "200, 301, 302, 303, 307, 308, 404, 410 and 451";
                return Err(format!("{status:?} is no status that is known here, which are {known}"));
            }
        };
        if !from.starts_with('/') {
            return Err(format!("{from:?} does not begin with a slash: only paths of the site are led elsewhere"));
        }
        let is_url = to.starts_with("https://") || to.starts_with("http://");
        if !(to.starts_with('/') && !to.starts_with("//") || is_url && status.is_redirection()) {
            return Err(format!("{to:?} is no path of the site, nor, for a redirect, an address of http or https"));
        }
        if let Some(char) = to.chars().find(|char| char.is_control() || *char == '\\') {
            return Err(format!("{char:?} cannot stand in an address"));
        }
        let from = parts_of(from)?;
        let rule = Self { line, from, to: to.to_owned(), status };
        rule.check_to(is_url)?;
        Ok(rule)
    }

    /// Refuses a `TO` that no address, or no path of the site, can be, whatever its placeholders stand for.
    fn check_to(&self, is_url: bool) -> Result<(), String> {
        let none: &[Name] = &[];
        let found: Vec<_> = self.from.iter().filter_map(Part::placeholder).map(|name| (name, none)).collect();
        let too_long = || format!("TO is longer than {TO_LEN_MAX} bytes");
        fill(&self.to, &found).ok_or_else(too_long)?;
        if is_url {
            return Ok(());
        }
        for part in path_in(&self.to).split('/').filter(|part| !part.is_empty()) {
            let filled = fill(part, &found).ok_or_else(too_long)?;
            let octets = percent_decode(filled.as_bytes()).ok_or("a % in TO is not followed by two hex digits")?;
            // What a placeholder stands for may make a name of it.
            if fill(part, &[]).is_some_and(|plain| plain == filled) {
                Name::new(&octets).map_err(|error| format!("a part of TO is no name: {}", cause_of(&error)))?;
            }
        }
        Ok(())
    }

    fn answer(&self, path: &[Name], query: &str) -> Option<Result<Answer, BadLine>> {
        let mut found: Vec<(&str, &[Name])> = Vec::new();
        let mut rest = path;
        for part in &self.from {
            match part {
                Part::Rest => found.push((SPLAT, std::mem::take(&mut rest))),
                Part::Is(_) | Part::Any(_) => {
                    let (first, others) = rest.split_at_checked(1)?;
                    match part {
                        Part::Is(wanted) if first.iter().any(|name| wanted != name.as_bytes()) => return None,
                        Part::Any(name) => found.push((name, first)),
                        Part::Is(_) | Part::Rest => {}
                    }
                    rest = others;
                }
            }
        }
        if !rest.is_empty() {
            return None;
        }
        let Some(mut to) = fill(&self.to, &found) else {
            let why = format!("TO becomes longer than {TO_LEN_MAX} bytes");
            return Some(Err(BadLine { line: self.line, why }));
        };
        if to.starts_with("//") {
            // Where nothing was found for what stood between: it would be the name of a host.
            to = format!("/{}", to.trim_start_matches('/'));
        }
        Some(Ok(if self.status.is_redirection() {
            Answer::Elsewhere(self.status, with_query(&to, query))
        } else {
            Answer::Instead { status: self.status, path: path_in(&to).to_owned(), line: self.line }
        }))
    }
}

/// The parts of a `FROM`.
fn parts_of(from: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    for part in from.split('/').filter(|part| !part.is_empty()) {
        if parts.last() == Some(&Part::Rest) {
            return Err("an asterisk is the last part".into());
        }
        let part = match part.strip_prefix(':') {
            _ if part == "*" => Part::Rest,
            Some(name) if is_placeholder(name) && name != SPLAT => Part::Any(name.to_owned()),
            Some(_) => return Err(format!("{part:?} is no placeholder: those are letters, digits and _")),
            None if part.contains('*') => return Err("an asterisk is a part of its own, the last one".into()),
            None => Part::Is(percent_decode(part.as_bytes()).unwrap_or_else(|| part.into())),
        };
        if matches!(part, Part::Any(_)) && parts.contains(&part) {
            return Err("a placeholder is in FROM twice".into());
        }
        if parts.len() >= PATH_PART_COUNT_MAX {
            return Err(format!("FROM has more than the {PATH_PART_COUNT_MAX} parts that a path may have"));
        }
        parts.push(part);
    }
    Ok(parts)
}

/// An address without its query and fragment.
fn path_in(to: &str) -> &str {
    to.split(['?', '#']).next().unwrap_or_default()
}

fn is_placeholder(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn encode(name: &Name) -> String {
    percent_encode_value(name.as_bytes())
}

/// `to` with what was found for the names that stand in it after colons, and no octet that an address has not; `None` past
/// [`TO_LEN_MAX`].
fn fill(to: &str, found: &[(&str, &[Name])]) -> Option<String> {
    let mut filled = String::new();
    let mut rest = to;
    while let Some(char) = rest.chars().next() {
        let name_len = match rest.strip_prefix(':') {
            Some(after) => after.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count(),
            None => 0,
        };
        let name = rest.get(1..=name_len).unwrap_or_default();
        if let Some((_, names)) = found.iter().find(|(known, _)| name_len > 0 && *known == name) {
            let parts: Vec<String> = names.iter().map(encode).collect();
            filled.push_str(&parts.join("/"));
            rest = &rest[1 + name_len..];
        } else {
            let (this, after) = rest.split_at(char.len_utf8());
            if char.is_ascii() {
                filled.push(char);
            } else {
                filled.push_str(&percent_encode_value(this));
            }
            rest = after;
        }
        if filled.len() > TO_LEN_MAX {
            return None;
        }
    }
    Some(filled)
}

/// An address with the parameters of the request that it does not have itself.
fn with_query(to: &str, query: &str) -> String {
    let (address, fragment) = to.split_once('#').map_or((to, None), |(address, fragment)| (address, Some(fragment)));
    let own: HashSet<&str> =
        address.split_once('?').map(|(_, query)| query.split('&').map(key).collect()).unwrap_or_default();
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !own.contains(key(pair))).collect();
    let mut merged = address.to_owned();
    if !kept.is_empty() {
        merged.push(if address.contains('?') { '&' } else { '?' });
        merged.push_str(&kept.join("&"));
    }
    if let Some(fragment) = fragment {
        merged.push('#');
        merged.push_str(fragment);
    }
    merged
}

fn key(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> Vec<Name> {
        let decode = |part: &str| percent_decode(part.as_bytes()).expect("octets");
        text.split('/').filter(|part| !part.is_empty()).map(|part| Name::new(&decode(part)).expect("a name")).collect()
    }

    fn answered(file: &str, asked: &str) -> Option<(u16, String)> {
        let (asked, query) = asked.split_once('?').unwrap_or((asked, ""));
        let redirects = Redirects::parse(file.as_bytes()).unwrap_or_else(|bad| panic!("{file}: {bad:?}"));
        let answer = redirects.answer(&path(asked), query).unwrap_or_else(|bad| panic!("{file}: {bad:?}"));
        answer.map(|answer| match answer {
            Answer::Instead { status, path: to, .. } | Answer::Elsewhere(status, to) => (status.as_u16(), to),
        })
    }

    #[test]
    fn paths_are_led_elsewhere() {
        let cases = [
            ("/a /b", "/a", Some((301, "/b"))),
            ("/a /b", "/a/", Some((301, "/b"))),
            ("/a /b", "/a/c", None),
            ("/a /b", "/A", None),
            ("/a\t/b\t302", "/a", Some((302, "/b"))),
            ("# x\n\n  /a  /b  303  # why\r\n/a /c", "/a", Some((303, "/b"))),
            ("/a /b#c 307", "/a", Some((307, "/b#c"))),
            ("/a /one 200\n/a /two 200", "/a", Some((200, "/one"))),
            ("/a https://example.com:8080/:b?c=:d", "/a", Some((301, "https://example.com:8080/:b?c=:d"))),
            ("/:y/:m/:t /:t/:m/:y/:y 308", "/2022/06/x", Some((308, "/x/06/2022/2022"))),
            ("/:y/:m /:m", "/2022", None),
            ("/p/* /q/:splat", "/p/a/b%2520c", Some((301, "/q/a/b%2520c"))),
            ("/p/* /q/:splat", "/p/", Some((301, "/q/"))),
            ("/p/* /q/:splat", "/pp/a", None),
            ("/* /index.html 200", "/any/where", Some((200, "/index.html"))),
            ("/* /index.html?:splat 200", "/a%26b", Some((200, "/index.html"))),
            ("/:a/* https://x.example/:splat/:a/:splatter", "/1/2/3", Some((301, "https://x.example/2/3/1/:splatter"))),
            ("/caf%C3%A9 /ok 410", "/caf%c3%a9", Some((410, "/ok"))),
            ("/caf\u{e9} /\u{f6}:x 451", "/caf%c3%a9", Some((451, "/%C3%B6:x"))),
            ("/:x /y/:x 404", "/%2e%2e%20%0a", Some((404, "/y/..%20%0A"))),
            // What the address has itself counts; what the request has is kept.
            ("/a /b", "/a?x=1&y=2", Some((301, "/b?x=1&y=2"))),
            ("/a /b?x=3#z", "/a?x=1&y=2", Some((301, "/b?x=3&y=2#z"))),
            ("/a /b 200", "/a?x=1", Some((200, "/b"))),
            ("", "/a", None),
        ];
        for (file, asked, expected) in cases {
            assert_eq!(answered(file, asked), expected.map(|(status, to)| (status, to.to_owned())), "{file} {asked}");
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        for (file, line, why) in [
            ("/a", 1, "a line is"),
            ("# fine\n\n/a /b 301 x", 3, "a line is"),
            ("/a /b\n/a /b 500", 2, "no status"),
            ("/a /b 301!", 1, "no status"),
            ("/a /b 0301", 1, "no status"),
            ("a /b", 1, "begin with a slash"),
            ("https://x.example/a /b", 1, "begin with a slash"),
            ("/a b", 1, "no path"),
            ("/a javascript:alert(1)", 1, "no path"),
            ("/a //evil.example", 1, "no path"),
            ("/a https://x.example 200", 1, "no path"),
            ("/a https://x.example 404", 1, "no path"),
            ("/a /b\u{7f}", 1, "cannot stand"),
            ("/a /\\evil.example", 1, "cannot stand"),
            ("/:a/:b/:a /b", 1, "twice"),
            ("/:/x /b", 1, "no placeholder"),
            ("/:splat /b", 1, "no placeholder"),
            ("/*/a /b", 1, "asterisk"),
            ("/a* /b", 1, "asterisk"),
            ("/a/** /b", 1, "asterisk"),
            ("/a /b\n/a /../b", 2, "no name"),
            ("/a /b/%2e 200", 1, "no name"),
            ("/a /b%2fc 404", 1, "no name"),
            ("/a /%zz 404", 1, "two hex digits"),
            ("/:a /%:a 404", 1, "two hex digits"),
            (&format!("/a /{} 404", "b".repeat(256)), 1, "no name"),
            (&format!("/a https://x.example/{}", "b".repeat(TO_LEN_MAX)), 1, "TO is longer"),
            (&format!("{} /b", "/a".repeat(PATH_PART_COUNT_MAX + 1)), 1, "256 parts"),
        ] {
            let bad = Redirects::parse(file.as_bytes()).expect_err(file);
            assert!(bad.line == line && bad.why.contains(why), "{file}: {bad:?}");
        }
        for fine in [&format!("{}/* /b", "/a".repeat(PATH_PART_COUNT_MAX - 1)), "/:a /.:a 200", "/a /b?%zz#/.. 200"] {
            Redirects::parse(fine.as_bytes()).unwrap_or_else(|bad| panic!("{fine}: {bad:?}"));
        }
        let bad = Redirects::parse(b"/a /b\n/\xff /b").expect_err("no UTF-8");
        assert_eq!((bad.line, bad.why.as_str()), (2, "it is no UTF-8"));
    }

    /// A few bytes of a file cannot become many of an answer.
    #[test]
    fn an_address_does_not_grow_without_end() {
        let file = format!("/a /b\n/* /{}", ":splat".repeat(10_900));
        let redirects = Redirects::parse(file.as_bytes()).expect("a file");
        let long = path(&format!("/{}", "x".repeat(255)).repeat(15));
        let bad = redirects.answer(&long, "").expect_err("too long");
        assert!(bad.line == 2 && bad.why.contains("longer than") && bad.why.len() < 100, "{bad:?}");
        assert_eq!(answered(&file, "/"), Some((301, "/".to_owned())));
    }

    proptest! {
        /// Whatever the file and the path are, an answer stays within the site or is an address of http: never another scheme, a
        /// host that the path chose, or a line of its own in the head.
        #[test]
        fn no_path_chooses_a_host(
            file in "(/[:*a-c/]{0,8} (/|https://h[.]example/)[:*a-c/?#]{0,12}( 30[1278]| 200)?\n){0,4}",
            names in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..6), 0..4),
        ) {
            let names: Vec<Name> = names.iter().filter_map(|name| Name::new(name).ok()).collect();
            let answer = Redirects::parse(file.as_bytes()).and_then(|redirects| redirects.answer(&names, ""));
            if let Ok(Some(Answer::Instead { path: to, .. } | Answer::Elsewhere(_, to))) = answer {
                prop_assert!(to.starts_with("https://h.example/") || to.starts_with('/') && !to.starts_with("//"), "{to:?}");
                prop_assert!(to.bytes().all(|byte| byte.is_ascii_graphic()), "{to:?}");
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(file in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(redirects) = Redirects::parse(&file) {
                redirects.answer(&path("/a/b"), "c=d").ok();
            }
        }
    }
}
