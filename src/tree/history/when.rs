//! Times as names: when a commit was made, in UTC, without a colon, which some systems cannot have in a name.

use std::time::SystemTime;

use crate::Cid;

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

/// A time to the second, in the calendar of days since 1970, by the civil-from-days algorithm.
fn utc(time: SystemTime) -> String {
    let seconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        // Down to the second before.
        Err(before) => {
            let before = before.duration();
            -i64::try_from(before.as_secs()).unwrap_or(i64::MAX) - i64::from(before.subsec_nanos() > 0)
        }
    };
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years begin in March here, so that the day that comes and goes is the last; 400 of them are always as long.
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
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
