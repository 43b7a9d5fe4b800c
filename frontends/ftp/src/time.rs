//! Times as FTP writes them: `YYYYMMDDHHMMSS` in UTC (RFC 3659 2.3) and the two forms of `ls -l`.

use std::time::SystemTime;

use muxfs::calendar::{Utc, of_unix_secs, unix_secs};

const DAY_SECS: i64 = 86_400;
/// Half a year, as `ls` counts it: an older time shows its year instead of the hour.
const RECENT_SECS: i64 = 365 * DAY_SECS / 2;

/// `YYYYMMDDHHMMSS`.
pub(crate) fn stamp(time: SystemTime) -> String {
    let Utc { year, month, day, hour, minute, second } = time.into();
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

/// The time of a `YYYYMMDDHHMMSS`, with a fraction or not; `None` if it is none.
pub(crate) fn parse_stamp(text: &str) -> Option<SystemTime> {
    let (digits, fraction) = text.split_once('.').unwrap_or((text, ""));
    if digits.len() != 14 || !digits.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| digits.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    Utc { year, month, day, hour, minute, second }.to_unix().and_then(of_unix_secs)
}

/// What `ls -l` shows: month, day and the hour, or the year of what is old or to come.
pub(crate) fn listed(time: SystemTime, now: SystemTime) -> String {
    let moment = Utc::from(time);
    let (Utc { year, day, hour, minute, .. }, name) = (moment, moment.month_name());
    let age = unix_secs(now).saturating_sub(unix_secs(time));
    if (-DAY_SECS..RECENT_SECS).contains(&age) {
        format!("{name} {day:>2} {hour:02}:{minute:02}")
    } else {
        format!("{name} {day:>2}  {year}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> SystemTime {
        of_unix_secs(secs).expect("a time of a system")
    }

    /// The seconds are what `date -u -d … +%s` says.
    const KNOWN: [(i64, &str); 7] = [
        (0, "19700101000000"),
        (951_782_399, "20000228235959"),
        (951_782_400, "20000229000000"),
        (1_577_934_245, "20200102030405"),
        (4_107_542_399, "21000228235959"),
        (4_107_542_400, "21000301000000"),
        (-1, "19691231235959"),
    ];

    #[test]
    fn stamps_are_those_of_date() {
        for (secs, text) in KNOWN {
            assert_eq!(stamp(at(secs)), text);
            assert_eq!(parse_stamp(text), Some(at(secs)));
        }
        assert_eq!(parse_stamp("20200102030405.123"), Some(at(1_577_934_245)));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in
            ["", "2020", "20201302030405", "20200230000000", "20200102250000", "2020010203040x", "+2020010203040"]
        {
            assert_eq!(parse_stamp(text), None, "{text}");
        }
    }

    #[test]
    fn a_listing_shows_the_hour_or_the_year() {
        let now = at(1_577_934_245);
        assert_eq!(listed(at(1_577_934_245 - 86_400), now), "Jan  1 03:04");
        assert_eq!(listed(at(1_577_934_245 - 200 * 86_400), now), "Jun 16  2019");
        assert_eq!(listed(at(1_577_934_245 + 3 * 86_400), now), "Jan  5  2020");
    }

    proptest::proptest! {
        #[test]
        fn a_stamp_reads_back(secs in -2_000_000_000i64..200_000_000_000) {
            proptest::prop_assert_eq!(parse_stamp(&stamp(at(secs))), Some(at(secs)));
        }
    }
}
