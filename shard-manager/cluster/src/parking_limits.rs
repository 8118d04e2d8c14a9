//! Parking limits: the limits and counters of parked writes. A write is parked if a shard has
//! refused its slot; it then waits until a shard accepts the slot.
//!
//! **Invariant:** the parked rows exceed neither [`ROWS_MAX`] in number nor [`BYTES_MAX`] in size.
//! Each row is counted from its refusal until its wait ends.
//! **Not here:** the wait itself (`shard::slot_wait`), the choice of the shard to which a row is
//! sent next (`manager::data::waiting_rows`).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use model::stats::{PARKED_WAITS_MS, ParkedStats};

/// Maximum number of parked rows: as many as there are operations in 16 full lanes (queues of
/// writes).
pub const ROWS_MAX: usize = 65_536;
/// Maximum size in bytes of all parked rows together, so that large rows cannot exhaust memory.
pub const BYTES_MAX: usize = 64 << 20;

/// The counters of a cluster's parked writes.
#[derive(Debug, Default)]
pub struct ParkedWrites {
    rows: AtomicUsize,
    bytes: AtomicUsize,
    total: AtomicU64,
    refused: AtomicU64,
    longest: AtomicU64,
    /// Histogram of the waits that have ended: the number of rows in each bucket. A row is counted
    /// in the first bucket of [`PARKED_WAITS_MS`] whose bound its wait did not exceed; the last
    /// bucket counts longer waits.
    waits: [AtomicU64; PARKED_WAITS_MS.len() + 1],
    /// Sum of the waits of all these rows, in microseconds.
    waited: AtomicU64,
}

/// Guard that counts rows as parked until it is dropped.
pub struct ParkedRows<'p> {
    parked: &'p ParkedWrites,
    rows: usize,
    bytes: usize,
    since: Instant,
}

impl ParkedWrites {
    /// Counts rows as parked; returns `None` if they would exceed a limit.
    pub fn park(&self, rows: usize, bytes: usize) -> Option<ParkedRows<'_>> {
        let all_rows = self.rows.fetch_add(rows, Ordering::Relaxed) + rows;
        let all_bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut parked = ParkedRows { parked: self, rows, bytes, since: Instant::now() };
        if all_rows > ROWS_MAX || all_bytes > BYTES_MAX {
            parked.leave();
            self.refused.fetch_add(rows as u64, Ordering::Relaxed);
            return None;
        }
        self.total.fetch_add(rows as u64, Ordering::Relaxed);
        Some(parked)
    }

    /// Returns the counters.
    pub fn stats(&self) -> ParkedStats {
        ParkedStats {
            rows: self.rows.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            rows_max: ROWS_MAX,
            bytes_max: BYTES_MAX,
            total: self.total.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            longest: Duration::from_micros(self.longest.load(Ordering::Relaxed)),
            waits: self.waits.each_ref().map(|rows| rows.load(Ordering::Relaxed)),
            waited: Duration::from_micros(self.waited.load(Ordering::Relaxed)),
        }
    }

    /// Counts rows whose wait has ended.
    fn count(&self, rows: usize, wait: Duration) {
        let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        self.longest.fetch_max(wait_us, Ordering::Relaxed);
        let is_within = |bound: &u32| wait <= Duration::from_millis(u64::from(*bound));
        let bucket = PARKED_WAITS_MS.iter().position(is_within).unwrap_or(PARKED_WAITS_MS.len());
        self.waits[bucket].fetch_add(rows as u64, Ordering::Relaxed);
        self.waited.fetch_add(wait_us.saturating_mul(rows as u64), Ordering::Relaxed);
    }
}

impl ParkedRows<'_> {
    /// Returns the time for which the rows have waited.
    pub fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    fn leave(&mut self) {
        self.parked.rows.fetch_sub(self.rows, Ordering::Relaxed);
        self.parked.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        (self.rows, self.bytes) = (0, 0);
    }
}

impl Drop for ParkedRows<'_> {
    fn drop(&mut self) {
        if self.rows > 0 {
            self.parked.count(self.rows, self.waited());
        }
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_over_a_limit_do_not_wait_and_take_no_room() {
        let parked = ParkedWrites::default();
        let most = parked.park(ROWS_MAX, 10);
        assert!(most.is_some() && parked.park(1, 1).is_none());
        drop(most);
        assert!(parked.park(1, BYTES_MAX + 1).is_none());
        let stats = parked.stats();
        assert_eq!((stats.rows, stats.bytes), (0, 0));
        assert_eq!((stats.total, stats.refused), (ROWS_MAX as u64, 2));
    }

    #[test]
    fn each_row_that_has_waited_is_counted_by_the_time_of_its_wait() {
        let parked = ParkedWrites::default();
        for (rows, ms) in [(3, 1), (2, 100), (1, 101), (4, 999_999)] {
            parked.count(rows, Duration::from_millis(ms));
        }
        let stats = parked.stats();
        let counted = PARKED_WAITS_MS.into_iter().map(Some).chain([None]).zip(stats.waits);
        let counted: Vec<_> = counted.filter(|(_, rows)| *rows > 0).collect();
        assert_eq!(counted, [(Some(1), 3), (Some(100), 2), (Some(120), 1), (None, 4)]);
        assert_eq!(stats.waited, Duration::from_millis(3 + 200 + 101 + 4 * 999_999));
    }
}
