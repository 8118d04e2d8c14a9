//! Window: the time range of a query, which ends now.
//!
//! **Invariant:** a [`Window`] is 1 ms to 7 days long; its constructors make no other length.
//! **Not here:** rounding to the intervals of a ring (`history`).

use std::time::Duration;

/// Longest `timeRange`, in ms.
const TIME_RANGE_MAX_MS: u64 = 3_600_000;
/// Maximum number of characters of an invalid value that an error message quotes.
const ECHO_CHARS_MAX: usize = 40;

/// A time range that ends now: 1 ms to 7 days, 5 minutes by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    ms: u64,
}

impl Window {
    /// Longest window, and the time for which history is kept: 7 days.
    pub const MAX: Window = Window { ms: 7 * 86_400_000 };
    /// Values of `window=`, the shortest first.
    pub const NAMES: [&'static str; 7] = ["1m", "5m", "15m", "1h", "6h", "24h", "7d"];

    /// Parses the value of `window=`: one of [`Window::NAMES`], spelled exactly so.
    ///
    /// # Errors
    /// Returns [`WindowError::Name`] for any other value.
    pub fn parse(text: &str) -> Result<Self, WindowError> {
        match text {
            "1m" => Ok(Self { ms: 60_000 }),
            "5m" => Ok(Self { ms: 300_000 }),
            "15m" => Ok(Self { ms: 900_000 }),
            "1h" => Ok(Self { ms: 3_600_000 }),
            "6h" => Ok(Self { ms: 6 * 3_600_000 }),
            "24h" => Ok(Self { ms: 86_400_000 }),
            "7d" => Ok(Self::MAX),
            other => Err(WindowError::Name { given: echo(other) }),
        }
    }

    /// Parses the value of `timeRange=`: a whole number of ms, 1 to 3600000, digits only.
    ///
    /// # Errors
    /// Returns [`WindowError::TimeRange`] for any other value.
    pub fn parse_time_range(text: &str) -> Result<Self, WindowError> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let ms = digits.then(|| text.parse().ok()).flatten();
        match ms {
            Some(ms @ 1..=TIME_RANGE_MAX_MS) => Ok(Self { ms }),
            Some(_) | None => Err(WindowError::TimeRange { given: echo(text) }),
        }
    }

    /// Returns the window of a query string: `window=`, or the older spelling `timeRange=`. The
    /// default is 5 minutes.
    ///
    /// # Errors
    /// Returns the errors of [`Window::parse`] and [`Window::parse_time_range`], and
    /// [`WindowError::Both`] if both parameters are given, because they might contradict each
    /// other.
    pub fn from_query(window: Option<&str>, time_range: Option<&str>) -> Result<Self, WindowError> {
        match (window, time_range) {
            (None, None) => Ok(Self::default()),
            (Some(text), None) => Self::parse(text),
            (None, Some(text)) => Self::parse_time_range(text),
            (Some(_), Some(_)) => Err(WindowError::Both),
        }
    }

    /// Returns the window of the last `minutes`, limited to at least 1 minute and at most 7 days.
    pub(crate) fn of_minutes(minutes: u64) -> Self {
        Self { ms: minutes.saturating_mul(60_000).clamp(60_000, Self::MAX.ms) }
    }

    /// Returns the length of the window.
    pub const fn length(self) -> Duration {
        Duration::from_millis(self.ms)
    }
}

impl Default for Window {
    fn default() -> Self {
        Self { ms: 300_000 }
    }
}

/// Reason why a parameter does not specify a window. The message names what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// The value of `window` is not one of the names.
    #[error("window must be one of 1m, 5m, 15m, 1h, 6h, 24h, 7d; got \"{given}\"")]
    Name {
        /// The given value, cut after 40 characters.
        given: String,
    },
    /// The value of `timeRange` is not an integer in range.
    #[error("timeRange must be a whole number of milliseconds from 1 to 3600000; got \"{given}\"")]
    TimeRange {
        /// The given value, cut after 40 characters.
        given: String,
    },
    /// Both `window` and `timeRange` are given.
    #[error("window and timeRange exclude each other: give window=1m|5m|15m|1h|6h|24h|7d only")]
    Both,
}

fn echo(text: &str) -> String {
    text.chars().take(ECHO_CHARS_MAX).collect()
}
