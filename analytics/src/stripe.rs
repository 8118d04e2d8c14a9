//! Where threads leave what they saw, without meeting one another.
//!
//! Each thread has its stripe: a short list behind a lock that is practically never contended.
//! Whoever fills one, closes a slot or asks for figures moves the entries on.
//!
//! **Invariant:** an entry is in one stripe or in the slot it was moved to, never both, never lost.
//! **Invariant:** a lock of a stripe is held for one push or one drain, and no other lock is taken
//! under it.
//! **Not here:** no time. An entry belongs to the slot that is running when it is moved.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::histogram::counted_micros;
use crate::sample::{Operation, Outcome, Sample};

/// Twice the threads that record on a router of eight cores. More threads share, and stay correct.
const STRIPES: usize = 16;
/// Entries after which a stripe asks to be drained: 768 take about 6 µs to move.
const DRAIN_AT: usize = 768;
/// Room in a stripe. It is above `DRAIN_AT` by more than the threads that may push until the drain.
const CAPACITY: usize = 1_024;

const _: () = assert!(STRIPES.is_power_of_two(), "own() masks instead of dividing");
const _: () = assert!(size_of::<Entry>() == 8, "1,024 entries are 8 KiB");

/// A sample, packed into 8 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// 1 to 60,000,000.
    pub(crate) micros: u32,
    /// Index of the label, or the number of labels for "several or none".
    pub(crate) label: u16,
    pub(crate) operation: Operation,
    pub(crate) outcome: Outcome,
}

impl Entry {
    /// Packs a sample; `shards` is the number of labels there are.
    pub(crate) fn of(sample: &Sample, shards: u16) -> Self {
        Self {
            micros: counted_micros(sample.elapsed),
            label: sample.shard.map_or(shards, |shard| shard.min(shards)),
            operation: sample.operation,
            outcome: Outcome::of_status(sample.status),
        }
    }
}

/// All stripes of one recorder.
#[derive(Debug)]
pub(crate) struct Stripes {
    stripes: Box<[Stripe]>,
}

/// One list, alone on its cache lines so that neighbours do not slow each other down.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe {
    entries: Mutex<Vec<Entry>>,
}

impl Stripes {
    pub(crate) fn new() -> Self {
        let stripe = || Stripe { entries: Mutex::new(Vec::with_capacity(CAPACITY)) };
        Self { stripes: std::iter::repeat_with(stripe).take(STRIPES).collect() }
    }

    /// Leaves an entry in this thread's stripe. True when that stripe should be drained now.
    pub(crate) fn push(&self, entry: Entry) -> bool {
        let stripe = &self.stripes[own_index() & (STRIPES - 1)];
        let mut entries = stripe.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push(entry);
        entries.len() >= DRAIN_AT
    }

    /// Takes every entry out of this thread's stripe.
    pub(crate) fn drain_own(&self, take: impl FnMut(Entry)) {
        self.stripes[own_index() & (STRIPES - 1)].drain(take);
    }

    /// Takes every entry out of every stripe.
    pub(crate) fn drain_all(&self, mut take: impl FnMut(Entry)) {
        for stripe in &self.stripes {
            stripe.drain(&mut take);
        }
    }
}

impl Stripe {
    fn drain(&self, take: impl FnMut(Entry)) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.drain(..).for_each(take);
    }
}

/// A number of this thread's own, given when it first records.
fn own_index() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    const UNSET: usize = usize::MAX;
    thread_local! {
        static INDEX: Cell<usize> = const { Cell::new(UNSET) };
    }
    INDEX.with(|index| {
        if index.get() == UNSET {
            index.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        index.get()
    })
}
