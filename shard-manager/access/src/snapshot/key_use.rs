//! Use of a key: the last day on which it was used.
//!
//! **Invariant:** a request marks the day with at most one store, and only the first of a day does.
//! **Not here:** storing the day in the catalog (the router).

use std::sync::atomic::{AtomicU32, Ordering};

/// Last day on which a key was used, counted from 1970; 0 for never.
#[derive(Debug, Default)]
pub(super) struct KeyUse {
    used_on: AtomicU32,
    /// Last day that the catalog has.
    stored: AtomicU32,
}

impl KeyUse {
    /// Creates the use of a key whose last day the catalog has.
    pub(super) fn new(used_on: Option<u32>) -> Self {
        let day = used_on.unwrap_or_default();
        Self { used_on: AtomicU32::new(day), stored: AtomicU32::new(day) }
    }

    /// Records that the key was used on a day.
    #[inline]
    pub(super) fn mark(&self, day: u32) {
        // Relaxed: the number protects no other memory.
        if self.used_on.load(Ordering::Relaxed) < day {
            self.used_on.fetch_max(day, Ordering::Relaxed);
        }
    }

    /// Takes over the day that the catalog has.
    pub(super) fn learn(&self, read: &Self) {
        let day = read.stored.load(Ordering::Relaxed);
        self.mark(day);
        self.confirm(day);
    }

    /// Returns the day, if the catalog does not have it.
    pub(super) fn unstored(&self) -> Option<u32> {
        let day = self.used_on.load(Ordering::Relaxed);
        (day > self.stored.load(Ordering::Relaxed)).then_some(day)
    }

    /// Records that the catalog has a day.
    pub(super) fn confirm(&self, day: u32) {
        self.stored.fetch_max(day, Ordering::Relaxed);
    }

    /// Returns the day.
    pub(super) fn used_on(&self) -> Option<u32> {
        Some(self.used_on.load(Ordering::Relaxed)).filter(|day| *day > 0)
    }
}
