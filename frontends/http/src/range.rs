//! Ranges of bytes, as RFC 9110 14 has them.
//!
//! Bounded: a request for many or overlapping parts, which costs its sender nothing and the server much, gets the whole
//! (RFC 9110 17.15).

use std::ops::Range;

/// The most parts that one answer has.
pub(crate) const RANGE_COUNT_MAX: usize = 32;

/// What a `Range` header means for content of some length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: there is no range, or none that means anything.
    Whole,
    /// These parts, in the order in which they were asked for; one at least, none of them empty.
    Parts(Vec<Range<u64>>),
    /// Nothing that is there.
    Nothing,
}

impl Wanted {
    /// Reads the value of a `Range` header, for content of `len` bytes.
    pub(crate) fn parse(header: &str, len: u64) -> Self {
        let Some((unit, specs)) = header.split_once('=') else { return Self::Whole };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Self::Whole;
        }
        let mut parts = Vec::new();
        for spec in specs.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
            match part(spec, len) {
                None => return Self::Whole,
                Some(range) if range.is_empty() => {}
                Some(range) => parts.push(range),
            }
            if parts.len() > RANGE_COUNT_MAX {
                return Self::Whole;
            }
        }
        if parts.is_empty() {
            return if specs.contains(|char: char| char.is_ascii_digit()) { Self::Nothing } else { Self::Whole };
        }
        let wanted: u64 = parts.iter().map(|part| part.end - part.start).fold(0, u64::saturating_add);
        if wanted > len {
            return Self::Whole;
        }
        Self::Parts(parts)
    }
}

/// One part, cut to what is there: empty where nothing of it is; `None` where it is no range.
fn part(spec: &str, len: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        return Some(len.saturating_sub(number(last)?)..len);
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    (first <= last).then(|| first.min(len)..last.saturating_add(1).min(len))
}

/// Digits; more than fit mean more than there is.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(part: Range<u64>) -> Wanted {
        Wanted::Parts([part].into())
    }

    #[test]
    fn ranges_and_what_they_mean_of_ten_bytes() {
        for (header, wanted) in [
            ("bytes=0-0", one(0..1)),
            ("bytes=0-", one(0..10)),
            ("bytes=9-100", one(9..10)),
            ("bytes=-3", one(7..10)),
            ("bytes=-30", one(0..10)),
            ("Bytes=6-8, 0-1", Wanted::Parts(vec![6..9, 0..2])),
            ("bytes=3-4,,20-30", one(3..5)),
            ("bytes=3-99999999999999999999999", one(3..10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=5-3", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=--3", Wanted::Whole),
            ("bytes=+1-3", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes 1-2", Wanted::Whole),
            ("items=1-2", Wanted::Whole),
            ("bytes=0-8,1-9", Wanted::Whole),
        ] {
            assert_eq!(Wanted::parse(header, 10), wanted, "{header}");
        }
        let many = (0..=RANGE_COUNT_MAX).map(|at| format!("{0}-{0}", 2 * at)).collect::<Vec<_>>().join(",");
        assert_eq!(Wanted::parse(&format!("bytes={many}"), 1000), Wanted::Whole);
    }

    #[test]
    fn of_nothing_no_part_can_be_had() {
        assert_eq!(Wanted::parse("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(Wanted::parse("bytes=-5", 0), Wanted::Nothing);
    }

    proptest! {
        #[test]
        fn parts_lie_within_and_are_never_empty(header in "bytes=[-0-9, ]{0,40}", len in 0..2000u64) {
            if let Wanted::Parts(parts) = Wanted::parse(&header, len) {
                prop_assert!(!parts.is_empty() && parts.iter().all(|part| part.start < part.end && part.end <= len));
            }
        }
    }
}
