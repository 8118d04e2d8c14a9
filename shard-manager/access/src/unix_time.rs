//! Unix time: times in seconds since 1970 in UTC, the unit of the expiry times of keys and tokens.
//!
//! **Invariant:** a time lies between 1970 and the end of year 9999, so adding a lifetime never
//! overflows.
//! **Not here:** reading a clock; elapsed time, which [`limit`](crate::limit) measures as a
//! [`std::time::Duration`].

use chrono::{DateTime, SecondsFormat};

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

impl UnixTime {
    /// Last second of year 9999.
    pub const MAX: Self = Self(253_402_300_799);
    const DAY: u64 = 86_400;

    /// Returns the time this many seconds after the beginning of 1970, or [`UnixTime::MAX`] if it
    /// would be later.
    #[inline]
    pub fn from_seconds(seconds: u64) -> Self {
        Self(seconds.min(Self::MAX.0))
    }

    /// Returns the number of seconds since 1970.
    #[inline]
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// Returns the time this many seconds later, or [`UnixTime::MAX`] if it would be later than
    /// that.
    #[inline]
    #[must_use]
    pub fn plus(self, seconds: u64) -> Self {
        Self::from_seconds(self.0.saturating_add(seconds))
    }

    /// Returns the number of seconds from `earlier` to this time; 0 if `earlier` is in fact later.
    #[inline]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the day in UTC, as the number of days since 1970-01-01.
    #[inline]
    pub fn day(self) -> u32 {
        (self.0 / Self::DAY) as u32
    }

    /// Returns the number of seconds until the next day in UTC begins.
    #[inline]
    pub fn until_next_day(self) -> u64 {
        Self::DAY - self.0 % Self::DAY
    }

    /// Returns the date of a day, such as `2027-01-31`. The day is the number of days since
    /// 1970-01-01.
    pub fn format_day(day: u32) -> String {
        let mut text = Self::from_seconds(u64::from(day) * Self::DAY).format();
        text.truncate("2027-01-31".len());
        text
    }

    /// Parses a time in RFC 3339 format, such as `2027-01-31T12:00:00Z`; fractions of a second are
    /// dropped. Returns `None` if the string has another format or the time is before 1970.
    pub fn parse(text: &str) -> Option<Self> {
        let seconds = DateTime::parse_from_rfc3339(text).ok()?.timestamp();
        u64::try_from(seconds).ok().map(Self::from_seconds)
    }

    /// Formats the time in RFC 3339 format in UTC.
    pub fn format(self) -> String {
        let time =
            i64::try_from(self.0).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        time.unwrap_or(DateTime::UNIX_EPOCH).to_rfc3339_opts(SecondsFormat::Secs, true)
    }
}
