//! Tally: counters of the cache's events, which many threads can update at low cost.
//!
//! The counters exist several times, in stripes. Each thread counts in one stripe, which it shares
//! with few others, so that threads seldom contend for the same cache line of the processor.
//!
//! **Not here:** the events that are counted (`cache`).

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const STRIPES: usize = 16;

/// Kind of event that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Hit,
    Miss,
    Stale,
    Bypass,
    Fill,
    Rejected,
    Error,
    Invalidation,
    LocalHit,
    TooInfrequent,
}

const COUNTS: usize = Count::TooInfrequent as usize + 1;

#[derive(Default)]
#[repr(align(128))]
struct Stripe([AtomicU64; COUNTS]);

/// Counters of all kinds of events.
#[derive(Default)]
pub(super) struct Tally([Stripe; STRIPES]);

thread_local! {
    static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn own() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    OWN.with(|own| {
        if own.get() == usize::MAX {
            own.set(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
        }
        own.get()
    })
}

impl Tally {
    /// Counts one event of this kind.
    pub(super) fn count(&self, what: Count) {
        self.add(what, 1);
    }

    /// Counts several events of this kind.
    pub(super) fn add(&self, what: Count, more: u64) {
        self.0[own()].0[what as usize].fetch_add(more, Ordering::Relaxed);
    }

    /// Returns the number of events of this kind since the process began.
    pub(super) fn of(&self, what: Count) -> u64 {
        self.0.iter().map(|stripe| stripe.0[what as usize].load(Ordering::Relaxed)).sum()
    }
}
