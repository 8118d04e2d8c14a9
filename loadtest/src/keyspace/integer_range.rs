//! Integer range: makes keys that are integers between two split points.
//!
//! A range may have too few integers for keys that contain the number of their run, so keys are
//! also distinguished by their number of leading zeros.
//!
//! **Invariant:** different indexes of a run result in different keys, all of which lie in the
//! range.
//! **Not here:** the index of a key, and keys before the first and after the last split point
//! (`keyspace`).

/// Minimum number of digits of a key in a range between split points. Integer keys outside such
/// ranges have fewer digits.
const DIGITS_MIN: usize = 46;
/// Number of different lengths that such a key may have.
const LENGTHS: u64 = 128;
/// Divisor of the number of keys of a range. The quotient is the maximum number of keys of one run.
const OF_A_RUN: u64 = 4;
/// Number of purposes of a key.
pub(super) const KINDS: u64 = 5;

/// Range of integers between two split points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IntegerRange {
    from: i128,
    /// Number of keys that can lie in the range.
    keys: u64,
}

impl IntegerRange {
    /// Returns the range from `from` (inclusive) to `below` (exclusive); `None` if it has too few
    /// keys for a run.
    pub(super) fn new(from: i128, below: i128) -> Option<Self> {
        let integers = u64::try_from(below.saturating_sub(from)).unwrap_or(u64::MAX);
        let keys = integers.min(u64::from(u32::MAX)) * LENGTHS;
        (keys >= OF_A_RUN * KINDS).then_some(Self { from, keys })
    }

    /// Returns the key with this index of a run; `None` if the run has no further keys in the
    /// range.
    pub(super) fn key(self, run: u64, index: u64) -> Option<String> {
        if index >= self.keys / OF_A_RUN {
            return None;
        }
        // Multiplicative hashing: successive runs begin far apart.
        let start = run.wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.keys;
        let place = (start + index) % self.keys;
        let integer = self.from + i128::from(place / LENGTHS);
        let digits = DIGITS_MIN + (place % LENGTHS) as usize;
        let sign = if integer < 0 { "-" } else { "" };
        Some(format!("{sign}{:0>digits$}", integer.unsigned_abs()))
    }
}
