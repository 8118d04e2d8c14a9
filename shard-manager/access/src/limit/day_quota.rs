//! Day quota: counts the rows that a caller has used on a day in UTC at this router, and keeps the
//! number that it has used at the other routers.
//!
//! **Invariant:** no rows of a day are lost, even if several threads add rows at midnight, because
//! day and rows are packed into one atomic number. Rows that a thread adds with yesterday's date
//! after another thread has begun today count toward today. Therefore neither such a thread nor a
//! clock that goes back past midnight restarts a quota. The rows of a day remain known until the
//! next day ends.
//! **Not here:** the exchange of the numbers with the other routers through the catalog (`usage`).

use std::sync::atomic::{AtomicU64, Ordering};

/// Number of low bits of a packed number that hold the number of rows. The other bits hold the day,
/// counted from 1970.
const ROWS_BITS: u32 = 40;
const ROWS_MAX: u64 = (1 << ROWS_BITS) - 1;

/// Number of rows that a caller has used on one day.
#[derive(Debug, Default)]
pub struct DayQuota {
    here: AtomicU64,
    /// Final value of `here` for the last day before the current one.
    before: AtomicU64,
    elsewhere: AtomicU64,
}

impl DayQuota {
    /// Adds rows that were used at this router on this day. Returns the number of rows used on this
    /// day at all routers, as far as it is known here.
    pub fn add(&self, rows: u64, day: u32) -> u64 {
        let add = |known: u64| {
            let day = latest(known, day);
            pack(rows_of(known, day).saturating_add(rows), day)
        };
        // Relaxed ordering suffices: the number protects no other memory.
        let known =
            self.here.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |known| Some(add(known)));
        let known = known.unwrap_or_else(|known| known);
        let here = add(known);
        if day_of(known) != day_of(here) {
            // Only the thread whose rows began the new day gets here.
            self.before.store(known, Ordering::Relaxed);
        }
        self.total(here, day)
    }

    /// Returns the number of rows used on this day at all routers, as far as it is known here.
    pub fn used(&self, day: u32) -> u64 {
        self.total(self.here.load(Ordering::Relaxed), day)
    }

    fn total(&self, here: u64, day: u32) -> u64 {
        let day = latest(here, day);
        rows_of(here, day) + self.elsewhere(day)
    }

    /// Returns the number of rows used on this day at this router.
    pub fn here(&self, day: u32) -> u64 {
        rows_of(self.here.load(Ordering::Relaxed), day)
    }

    /// Returns the last two days on which rows were used at this router, earlier day first, with
    /// the number of rows on each. For a moment after a new day has begun, the first entry is still
    /// that of an older day.
    pub fn days(&self) -> [(u32, u64); 2] {
        let read = |packed: &AtomicU64| packed.load(Ordering::Relaxed);
        let unpack = |packed: u64| (day_of(packed), packed & ROWS_MAX);
        // `here` is read first: if a new day begins between the two reads, the next call returns
        // it.
        let here = read(&self.here);
        [unpack(read(&self.before)), unpack(here)]
    }

    /// Sets the number of rows used on this day at the other routers.
    pub fn set_elsewhere(&self, rows: u64, day: u32) {
        self.elsewhere.store(pack(rows, day), Ordering::Relaxed);
    }

    fn elsewhere(&self, day: u32) -> u64 {
        rows_of(self.elsewhere.load(Ordering::Relaxed), day)
    }
}

/// Returns the day toward which rows of `day` count: the next day if another thread has already
/// begun it, otherwise `day`. If the counter holds a day further ahead, that day came from a wrong
/// clock and is ignored.
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
