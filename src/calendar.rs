//! Moments as people write them: the Gregorian calendar, in UTC.
//!
//! Shared by whatever shows a time: the names of kept commits, FTP's listings, the program's. Without leap seconds, as
//! POSIX counts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_SECS: i64 = 86_400;
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment in UTC, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Utc {
    /// The year, 0 for 1 BC and so on down.
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    /// 0 to 23.
    pub hour: i64,
    /// 0 to 59.
    pub minute: i64,
    /// 0 to 59.
    pub second: i64,
}

impl Utc {
    /// The moment so many seconds after the beginning of 1970; before it, where that is negative.
    ///
    /// ```
    /// use muxfs::calendar::Utc;
    /// let moment = Utc::of_unix(-1);
    /// assert_eq!((moment.year, moment.month, moment.day, moment.second), (1969, 12, 31, 59));
    /// ```
    pub fn of_unix(seconds: i64) -> Self {
        // Years begin in March here, so that the day that comes and goes is the last; 400 of them are always as long.
        let (days, rest) = (seconds.div_euclid(DAY_SECS) + 719_468, seconds.rem_euclid(DAY_SECS));
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    /// Seconds since the beginning of 1970; `None` for what is no moment, as 30 February or 24:00. A leap second, 60, is the
    /// second before it, as clocks here count none.
    ///
    /// ```
    /// use muxfs::calendar::Utc;
    /// let day = Utc { year: 2024, month: 2, day: 29, hour: 0, minute: 0, second: 0 };
    /// assert_eq!(day.to_unix(), Some(1_709_164_800));
    /// assert_eq!(Utc { year: 2023, ..day }.to_unix(), None);
    /// ```
    pub fn to_unix(&self) -> Option<i64> {
        let Self { year, month, day, hour, minute, second } = *self;
        let is_time = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..=60).contains(&second);
        let is_near = (-1_000_000_000..=1_000_000_000).contains(&year);
        if !is_time || !is_near || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        // Years begin in March here, so that the day that comes and goes is the last.
        let from_march = year - i64::from(month <= 2);
        let (era, of_era) = (from_march.div_euclid(400), from_march.rem_euclid(400));
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
        let seconds = days * DAY_SECS + hour * 3600 + minute * 60 + second.min(59);
        // A day that the month does not have comes out as another date.
        let back = Self::of_unix(seconds);
        (back.month == month && back.day == day).then_some(seconds)
    }

    /// The month in three letters, as `ls` and HTTP have it; `Jan` for what is none.
    ///
    /// ```
    /// use muxfs::calendar::Utc;
    /// assert_eq!(Utc::of_unix(-1).month_name(), "Dec");
    /// ```
    pub fn month_name(&self) -> &'static str {
        let index = usize::try_from(self.month).ok().and_then(|month| month.checked_sub(1));
        index.and_then(|index| MONTHS.get(index)).copied().unwrap_or("Jan")
    }
}

/// Rounded down to the second.
impl From<SystemTime> for Utc {
    fn from(time: SystemTime) -> Self {
        Self::of_unix(unix_secs(time))
    }
}

/// The moment so many seconds after the beginning of 1970, or before it; `None` where the system cannot tell it.
pub fn of_unix_secs(seconds: i64) -> Option<SystemTime> {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) }
}

/// The seconds since the beginning of 1970, rounded down; of a time too far to count, the furthest.
pub fn unix_secs(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX / 2),
        Err(before) => {
            let before = before.duration();
            -i64::try_from(before.as_secs()).unwrap_or(i64::MAX / 2) - i64::from(before.subsec_nanos() > 0)
        }
    }
}
