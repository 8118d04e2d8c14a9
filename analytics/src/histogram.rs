//! Latencies of many requests: record, merge, ask for a quantile.
//!
//! Three significant digits from 1 µs to 60 s, on `hdrhistogram` with `u32` counters: 17,408
//! buckets, 68 KiB, fixed. [`LatencyHistogram::encode`] gives the sparse form (HDR V2) that
//! finished slots are kept in.
//!
//! **Invariant:** merging encoded histograms gives the quantiles of one histogram that saw every
//! value, exactly while each encoded one is within [`EncodedHistogram::LOSSLESS_BYTES_MAX`], else
//! within 0.5 %.
//! **Invariant:** an encoded histogram is at most [`EncodedHistogram::BYTES_MAX`] long.
//! **Not here:** no averages of percentiles, no time.

use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};

/// Slowest latency told apart, in µs: 60 s is the longest deadline a client may ask for.
const MICROS_MAX: u32 = 60_000_000;
/// Digits while recording and merging: at most 0.1 % error.
const DIGITS: u8 = 3;
/// Digits of a histogram too wide to keep at three: buckets 0.8 % wide, answered by their middle.
const DIGITS_COARSE: u8 = 2;

/// Whole µs of a latency as they are counted: 1 to 60,000,000.
pub(crate) fn counted_micros(elapsed: Duration) -> u32 {
    u32::try_from(elapsed.as_micros()).map_or(MICROS_MAX, |micros| micros.clamp(1, MICROS_MAX))
}

/// Latencies from 1 µs to 60 s (slower counts as 60 s), three significant digits. 68 KiB.
#[derive(Clone, Debug)]
pub struct LatencyHistogram {
    counts: Histogram<u32>,
}

impl LatencyHistogram {
    /// An empty histogram.
    pub fn new() -> Self {
        Self { counts: empty(DIGITS) }
    }

    /// Counts one latency.
    pub fn record(&mut self, elapsed: Duration) {
        self.record_micros(counted_micros(elapsed));
    }

    /// Counts one latency of 1 to [`MICROS_MAX`] µs.
    pub(crate) fn record_micros(&mut self, micros: u32) {
        self.counts.saturating_record(u64::from(micros));
    }

    /// How many latencies were counted.
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    /// The latency that the share `quantile` (0.0 to 1.0) of all did not exceed: the upper edge of
    /// its bucket. Zero when nothing was counted.
    pub fn quantile(&self, quantile: f64) -> Duration {
        within_range(self.counts.value_at_quantile(quantile))
    }

    /// The slowest latency counted, to three digits. Zero when nothing was counted.
    pub fn max(&self) -> Duration {
        within_range(self.counts.max())
    }

    /// Adds all that `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        self.counts.add(&other.counts).expect("both have the same bounds");
    }

    /// Adds all that was counted when `encoded` was made.
    pub fn merge_encoded(&mut self, encoded: &EncodedHistogram) {
        let decoded: Histogram<u32> = Deserializer::new()
            .deserialize(&mut &*encoded.bytes)
            .expect("only `encode` makes these bytes");
        if decoded.sigfig() == DIGITS {
            self.counts.add(&decoded).expect("both have the same bounds");
            return;
        }
        for bucket in decoded.iter_recorded() {
            let middle = decoded.median_equivalent(bucket.value_iterated_to());
            let middle = middle.min(u64::from(MICROS_MAX));
            self.counts.saturating_record_n(middle, bucket.count_at_value());
        }
    }

    /// The compact form of what was counted.
    pub fn encode(&self) -> EncodedHistogram {
        let mut bytes = encode(&self.counts);
        if bytes.len() > EncodedHistogram::LOSSLESS_BYTES_MAX {
            let mut coarse = empty(DIGITS_COARSE);
            coarse.add(&self.counts).expect("both reach to 60 s");
            bytes = encode(&coarse);
        }
        debug_assert!(bytes.len() <= EncodedHistogram::BYTES_MAX, "2560 counts of 5 bytes");
        EncodedHistogram { bytes: bytes.into() }
    }

    /// Forgets everything; the memory stays.
    pub(crate) fn reset(&mut self) {
        self.counts.reset();
    }
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self::new()
    }
}

/// A histogram at rest: the HDR V2 bytes, which hold only what was counted.
#[derive(Clone, Debug)]
pub struct EncodedHistogram {
    bytes: Box<[u8]>,
}

impl EncodedHistogram {
    /// Longest form that keeps three digits. About 3,000 different latencies fit, more than
    /// five seconds of a healthy shard show; a wider one is kept at two digits.
    pub const LOSSLESS_BYTES_MAX: usize = 4_096;
    /// Longest form of all: a header of 40 bytes and 2,560 counts of two digits, 5 bytes each at
    /// most.
    pub const BYTES_MAX: usize = 40 + 2_560 * 5;

    /// Length in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }
}

fn empty(digits: u8) -> Histogram<u32> {
    Histogram::new_with_bounds(1, u64::from(MICROS_MAX), digits).expect("constant valid bounds")
}

fn encode(counts: &Histogram<u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(counts, &mut bytes).expect("a Vec takes every write");
    bytes
}

/// The upper edge of the last bucket lies above 60 s: no answer may say so.
fn within_range(micros: u64) -> Duration {
    Duration::from_micros(micros.min(u64::from(MICROS_MAX)))
}
