//! Values: the sizes, rates and times that options take.
//!
//! **Not here:** the options that take them (`options`).

use std::time::Duration;

/// Maximum number of bytes of a value in a write.
const VALUE_BYTES_MAX: u32 = 1 << 20;
/// Minimum rate, in requests per second: one request in about a quarter of an hour.
const RATE_MIN: f64 = 0.001;
/// Maximum rate, in requests per second. It is far above the rate that one process can reach.
const RATE_MAX: f64 = 1e6;

/// Sizes of values, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValueSize {
    pub(crate) least: u32,
    pub(crate) most: u32,
}

impl std::fmt::Display for ValueSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..{}", self.least, self.most)
    }
}

impl std::str::FromStr for ValueSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let size = |text: &str| text.parse::<u32>().ok().filter(|&size| size <= VALUE_BYTES_MAX);
        match (size(least), size(most)) {
            (Some(least), Some(most)) if least <= most && most > 0 => Ok(Self { least, most }),
            _ => Err(format!("bytes as 100 or 100..2000, at most {VALUE_BYTES_MAX}")),
        }
    }
}

/// Parses a rate.
pub(super) fn parse_rate(raw: &str) -> Result<f64, String> {
    match raw.parse::<f64>() {
        Ok(rate) if (RATE_MIN..=RATE_MAX).contains(&rate) => Ok(rate),
        _ => Err(format!("requests per second, from {RATE_MIN} to {RATE_MAX}")),
    }
}

/// Parses a time such as `1h30m`, `90s` or `90` in the same way as goose; `None` if goose would
/// refuse the string.
pub(crate) fn parse_time(raw: &str) -> Option<Duration> {
    if let Ok(seconds) = raw.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (mut total, mut number) = (0_u64, String::new());
    for letter in raw.chars() {
        let unit = match letter {
            '0'..='9' => {
                number.push(letter);
                continue;
            }
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        total += number.parse::<u64>().ok()? * unit;
        number.clear();
    }
    number.is_empty().then_some(Duration::from_secs(total))
}
