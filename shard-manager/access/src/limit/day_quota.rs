//! Quota of a day in UTC: rows that a caller has used here, and those that other routers report.
//!
//! **Invariant:** rows are never lost within a day, even while threads add rows at midnight: day
//! and rows are one atomic number. Rows of a thread that still has yesterday's date count toward
//! today, so such a thread, or a clock that goes back over midnight, does not restart a quota. The
//! rows of a day remain known until the next day ends.
//! **Not here:** the transfer of the sums to the catalog and back (`usage`).

use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of the number of rows; the other bits hold the day.
const ROWS_BITS: u32 = 40;
const ROWS_MAX: u64 = (1 << ROWS_BITS) - 1;

/// Rows used on one day.
#[derive(Debug, Default)]
pub struct DayQuota {
    here: AtomicU64,
    /// Final value of `here` on the day before.
    before: AtomicU64,
    elsewhere: AtomicU64,
}

impl DayQuota {
    /// Adds rows that were used here on this day. Returns all rows used on it, including those of
    /// other routers, as far as they are known here.
    pub fn add(&self, rows: u64, day: u32) -> u64 {
        let add = |known: u64| {
            let day = latest(known, day);
            pack(rows_of(known, day).saturating_add(rows), day)
        };
        // Relaxed: the number protects no other memory.
        let known =
            self.here.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |known| Some(add(known)));
        let known = known.unwrap_or_else(|known| known);
        let here = add(known);
        if day_of(known) != day_of(here) {
            // Only the thread that has begun the day gets here.
            self.before.store(known, Ordering::Relaxed);
        }
        self.total(here, day)
    }

    /// Returns the rows used on this day, as far as they are known here.
    pub fn used(&self, day: u32) -> u64 {
        self.total(self.here.load(Ordering::Relaxed), day)
    }

    fn total(&self, here: u64, day: u32) -> u64 {
        let day = latest(here, day);
        rows_of(here, day) + self.elsewhere(day)
    }

    /// Returns the rows used on this day at this router.
    pub fn here(&self, day: u32) -> u64 {
        rows_of(self.here.load(Ordering::Relaxed), day)
    }

    /// Returns the days on which rows were used at this router, with the rows: the day before the
    /// latest one, and the latest. While a day begins, the one before is not returned for a moment.
    pub fn days(&self) -> [(u32, u64); 2] {
        let read = |packed: &AtomicU64| packed.load(Ordering::Relaxed);
        let unpack = |packed: u64| (day_of(packed), packed & ROWS_MAX);
        // `here` is read first: a day that begins in between is the latest one of the next call.
        let here = read(&self.here);
        [unpack(read(&self.before)), unpack(here)]
    }

    /// Sets the rows used on this day at other routers.
    pub fn set_elsewhere(&self, rows: u64, day: u32) {
        self.elsewhere.store(pack(rows, day), Ordering::Relaxed);
    }

    fn elsewhere(&self, day: u32) -> u64 {
        rows_of(self.elsewhere.load(Ordering::Relaxed), day)
    }
}

/// Returns the day toward which rows of `day` count: the next day, if other threads have begun it.
/// Days further ahead come from a clock that was wrong, and are ignored.
fn latest(known: u64, day: u32) -> u32 {
    let next = day.saturating_add(1);
    if day_of(known) == next { next } else { day }
}

fn pack(rows: u64, day: u32) -> u64 {
    u64::from(day) << ROWS_BITS | rows.min(ROWS_MAX)
}

fn day_of(packed: u64) -> u32 {
    (packed >> ROWS_BITS) as u32
}

fn rows_of(packed: u64, day: u32) -> u64 {
    if packed >> ROWS_BITS == u64::from(day) { packed & ROWS_MAX } else { 0 }
}
