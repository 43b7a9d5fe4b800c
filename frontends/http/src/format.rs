//! In which form content is wanted: `?format=`, or else what `Accept` ranks highest.
//!
//! The address wins over the header (IPIP-523): a link says the same to everybody. Spec: spec/http.md #formats.

use axum::http::{HeaderMap, header};

use crate::{failure::Failure, target::Query};

/// A form of content other than what it is by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The block where the path ends.
    Raw,
    /// Blocks, with those that prove the path.
    Car,
    /// Files and directories in an archive.
    Tar,
    DagJson,
    DagCbor,
    Json,
    Cbor,
    IpnsRecord,
}

impl Format {
    const ALL: [Self; 8] =
        [Self::Raw, Self::Car, Self::Tar, Self::DagJson, Self::DagCbor, Self::Json, Self::Cbor, Self::IpnsRecord];

    /// What `?format=` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Car => "car",
            Self::Tar => "tar",
            Self::DagJson => "dag-json",
            Self::DagCbor => "dag-cbor",
            Self::Json => "json",
            Self::Cbor => "cbor",
            Self::IpnsRecord => "ipns-record",
        }
    }

    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Raw => "application/vnd.ipld.raw",
            Self::Car => "application/vnd.ipld.car",
            Self::Tar => "application/x-tar",
            Self::DagJson => "application/vnd.ipld.dag-json",
            Self::DagCbor => "application/vnd.ipld.dag-cbor",
            Self::Json => "application/json",
            Self::Cbor => "application/cbor",
            Self::IpnsRecord => "application/vnd.ipfs.ipns-record",
        }
    }
}

/// In which form content is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// None where it is wanted as what it is.
    pub(crate) format: Option<Format>,
    /// Whether the address says so.
    pub(crate) is_in_query: bool,
    /// Whether a page for people is wanted rather than data.
    pub(crate) html: bool,
    /// Whether whoever asked also takes any other form.
    pub(crate) or_other: bool,
    /// The parameters of the CAR that `Accept` names, keys in lower case.
    pub(crate) car: Vec<(String, String)>,
}

impl Wanted {
    pub(crate) fn of(query: &Query, headers: &HeaderMap) -> Result<Self, Failure> {
        let items = accepted(headers);
        let car = items.iter().find(|item| item.media_type == Format::Car.media_type());
        let car = car.map(|item| item.parameters.clone()).unwrap_or_default();
        if let Some(name) = query.get("format") {
            let format = Format::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
                let advice = "Formats are raw, car, tar, dag-json, dag-cbor, json and cbor.";
                Failure::bad(format!("There is no format {name:?}."), advice)
            })?;
            return Ok(Self { format: Some(format), is_in_query: true, car, ..Self::default() });
        }
        let or_other =
            items.is_empty() || items.iter().any(|item| matches!(item.media_type.as_str(), "*/*" | "text/html"));
        // Of equal rank the first: a sort would keep the order, and so does looking for what is truly greater.
        let best = items.into_iter().reduce(|best, item| if item.rank > best.rank { item } else { best });
        let best = best.map(|item| item.media_type).unwrap_or_default();
        let format = Format::ALL.into_iter().find(|format| format.media_type() == best);
        Ok(Self { format, is_in_query: false, html: best == "text/html", or_other, car })
    }
}

/// A media type of an `Accept` header.
struct Item {
    media_type: String,
    parameters: Vec<(String, String)>,
    /// The quality, in thousandths.
    rank: u16,
}

/// What is accepted at all, in the order in which it is named.
fn accepted(headers: &HeaderMap) -> Vec<Item> {
    let values = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(item).filter(|item| item.rank > 0).collect()
}

fn item(text: &str) -> Option<Item> {
    let mut pieces = text.split(';').map(str::trim);
    let media_type = pieces.next()?.to_ascii_lowercase();
    if media_type.is_empty() {
        return None;
    }
    let (mut parameters, mut rank) = (Vec::new(), 1000);
    for (key, value) in pieces.filter_map(|piece| piece.split_once('=')) {
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim().trim_matches('"'));
        if key == "q" {
            rank = quality(value);
        } else {
            parameters.push((key, value.to_owned()));
        }
    }
    Some(Item { media_type, parameters, rank })
}

/// A quality in thousandths: `0.5` is 500. What is no quality counts as none given.
fn quality(text: &str) -> u16 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction: String = fraction.chars().chain("000".chars()).take(3).collect();
    match (whole.parse::<u16>(), fraction.parse::<u16>()) {
        (Ok(whole), Ok(fraction)) => (whole.min(1) * 1000 + fraction).min(1000),
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(query: &str, accept: &[&str]) -> Wanted {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(header::ACCEPT, value.parse().expect("a header"));
        }
        Wanted::of(&Query::parse(query).expect("a query"), &headers).expect("known")
    }

    #[test]
    fn the_address_wins_over_the_header() {
        let found = wanted("format=car", &["application/vnd.ipld.raw"]);
        assert_eq!((found.format, found.is_in_query), (Some(Format::Car), true));
        let found = wanted("format=car", &["application/vnd.ipld.car; version=1; order=unk;dups=y"]);
        let car: Vec<_> = found.car.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(car, [("version", "1"), ("order", "unk"), ("dups", "y")]);
        let nonsense = Query::parse("format=RAW").expect("a query");
        assert!(Wanted::of(&nonsense, &HeaderMap::new()).is_err());
    }

    #[test]
    fn the_header_is_ranked() {
        for (accept, format, html, or_other) in [
            (&[][..], None, false, true),
            (&["*/*"], None, false, true),
            (&["application/vnd.ipld.raw"], Some(Format::Raw), false, false),
            (&["APPLICATION/vnd.ipld.RAW"], Some(Format::Raw), false, false),
            (&["application/vnd.ipld.raw;q=0.4, application/vnd.ipld.car;q=0.5"], Some(Format::Car), false, false),
            (&["application/vnd.ipld.raw;q=0"], None, false, true),
            (&["application/json, text/plain, */*"], Some(Format::Json), false, true),
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], None, true, true),
            (&["text/html", "application/vnd.ipld.raw"], None, true, true),
            (&["image/webp,*/*;q=0.1"], None, false, true),
        ] {
            let found = wanted("", accept);
            assert_eq!((found.format, found.html, found.or_other), (format, html, or_other), "{accept:?}");
        }
    }
}
