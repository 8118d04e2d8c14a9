//! Key use: records the last day on which an API key was used.
//!
//! **Invariant:** a request writes the day with at most one atomic operation, and only if the day
//! is not recorded yet.
//! **Not here:** storing the day in the catalog (the router).

use std::sync::atomic::{AtomicU32, Ordering};

/// Last day on which a key was used, in days since 1970-01-01; 0 if it was never used.
#[derive(Debug, Default)]
pub(super) struct KeyUse {
    used_on: AtomicU32,
    /// Last day that is stored in the catalog.
    stored: AtomicU32,
}

impl KeyUse {
    /// Creates the use of a key from the last day that is stored in the catalog.
    pub(super) fn new(used_on: Option<u32>) -> Self {
        let day = used_on.unwrap_or_default();
        Self { used_on: AtomicU32::new(day), stored: AtomicU32::new(day) }
    }

    /// Records that the key was used on a day.
    #[inline]
    pub(super) fn mark(&self, day: u32) {
        // Relaxed ordering suffices: the number protects no other memory.
        if self.used_on.load(Ordering::Relaxed) < day {
            self.used_on.fetch_max(day, Ordering::Relaxed);
        }
    }

    /// Takes over the stored day from `read`, which was created from the catalog.
    pub(super) fn learn(&self, read: &Self) {
        let day = read.stored.load(Ordering::Relaxed);
        self.mark(day);
        self.confirm(day);
    }

    /// Returns the last day of use, if it is not stored in the catalog yet.
    pub(super) fn unstored(&self) -> Option<u32> {
        let day = self.used_on.load(Ordering::Relaxed);
        (day > self.stored.load(Ordering::Relaxed)).then_some(day)
    }

    /// Records that a day is stored in the catalog.
    pub(super) fn confirm(&self, day: u32) {
        self.stored.fetch_max(day, Ordering::Relaxed);
    }

    /// Returns the last day of use; `None` if the key was never used.
    pub(super) fn used_on(&self) -> Option<u32> {
        Some(self.used_on.load(Ordering::Relaxed)).filter(|day| *day > 0)
    }
}
