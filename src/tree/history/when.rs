//! Times as names: when a commit was made, in UTC, without a colon, which some systems cannot have in a name.

use std::time::SystemTime;

use crate::{Cid, calendar::Utc};

/// How many of the last characters of a CID tell commits of one second apart.
const CID_LEN: usize = 8;

/// The names of commits: `2026-11-20T16-50-01Z`; of all but the oldest of one second, `-` and the end of the CID follow.
pub(super) fn names<T>(commits: impl Iterator<Item = (SystemTime, Cid, T)>) -> Vec<(String, T)> {
    let mut commits: Vec<(SystemTime, String, T)> =
        commits.map(|(time, cid, it)| (time, cid.to_string(), it)).collect();
    commits.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
    let mut names: Vec<(String, T)> = Vec::with_capacity(commits.len());
    let mut last = String::new();
    for (time, cid, it) in commits {
        let plain = utc(time);
        let end = cid.get(cid.len().saturating_sub(CID_LEN)..).unwrap_or(&cid);
        let name = if plain == last { format!("{plain}-{end}") } else { plain.clone() };
        last = plain;
        names.push((name, it));
    }
    names
}

/// A time to the second, without the colons that some file systems refuse.
fn utc(time: SystemTime) -> String {
    let Utc { year, month, day, hour, minute, second } = Utc::from(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Codec, cid_of};

    #[test]
    fn times_are_utc() {
        let cases = [
            (0, "1970-01-01T00-00-00Z"),
            (951_827_696, "2000-02-29T12-34-56Z"),
            (1_795_193_401, "2026-11-20T16-50-01Z"),
            (4_102_444_799, "2099-12-31T23-59-59Z"),
            (9_223_372_036, "2262-04-11T23-47-16Z"),
        ];
        for (seconds, text) in cases {
            let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 999_999_999);
            assert_eq!(utc(time), text);
        }
        assert_eq!(utc(SystemTime::UNIX_EPOCH - Duration::from_nanos(1)), "1969-12-31T23-59-59Z");
    }

    /// A name tells one commit, and stays what it is when newer commits come.
    #[test]
    fn names_are_unique_and_stay() {
        let commit = |nanos, text: &str| {
            (SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos), cid_of(Codec::DagCbor, text.as_bytes()), ())
        };
        let first = [commit(5, "a"), commit(7, "b")];
        let more = [commit(5, "a"), commit(7, "b"), commit(9, "c"), commit(1_000_000_000, "d")];
        let text = |commits: &[(SystemTime, Cid, ())]| -> Vec<String> {
            names(commits.iter().rev().copied()).into_iter().map(|(name, ())| name).collect()
        };
        let (few, many) = (text(&first), text(&more));
        let end = cid_of(Codec::DagCbor, b"b").to_string();
        assert_eq!(few, ["1970-01-01T00-00-00Z".to_owned(), format!("1970-01-01T00-00-00Z-{}", &end[end.len() - 8..])]);
        assert_eq!(few[..], many[..2]);
        assert_eq!(many[3], "1970-01-01T00-00-01Z");
        assert_eq!(many.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    }
}
