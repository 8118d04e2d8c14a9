//! Usage: rows that callers with a quota have used here, on their way to the sums of all routers.
//!
//! Rows are collected into batches, each of one day. Once they are stored, the sums of all routers
//! are read; the part of a sum that exceeds the rows of this router was used elsewhere.
//!
//! **Invariant:** rows that were collected are in exactly one batch. The counters of a caller are
//! kept as long as anything in this process uses them, so no rows are counted twice or forgotten.
//! **Not here:** storing a batch (`engine::access_store`), the time at which it is done (the
//! router).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::caller_limits::LimitState;

/// Number of days whose sums are kept.
pub const DAYS_KEPT: u32 = 35;

/// Rows of callers on one day, which are stored together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageBatch {
    /// Number of the batch in this process, from 1.
    pub number: u64,
    /// The day, counted from 1970.
    pub day: u32,
    /// Names of callers and their rows, by name.
    pub rows: Vec<(Arc<str>, u64)>,
}

impl UsageBatch {
    /// Highest number of callers in a batch, so that storing it does not take long.
    pub const CALLERS_MAX: usize = 1_000;
}

/// Rows of all callers with a quota.
#[derive(Default)]
pub struct UsageLedger(Mutex<Ledger>);

#[derive(Default)]
struct Ledger {
    callers: HashMap<Arc<str>, Entry>,
    /// Rows that are in no batch yet, by day and caller.
    waiting: BTreeMap<(u32, Arc<str>), u64>,
    /// Number of the last batch.
    number: u64,
    /// Sums of callers that this router has not seen yet, on the day `sums_day`.
    sums: HashMap<Box<str>, u64>,
    sums_day: u32,
}

/// Counters of a caller, and what is known of its latest day and of the one before.
struct Entry {
    state: Arc<LimitState>,
    before: DayRows,
    latest: DayRows,
}

#[derive(Clone, Copy, Default)]
struct DayRows {
    day: u32,
    /// Rows of this router that were collected.
    collected: u64,
    /// Rows of this router that the sums contain.
    stored: u64,
}

impl DayRows {
    /// Returns the day and the rows that were used on it since the last call.
    fn collect(&mut self, used: u64) -> (u32, u64) {
        if used < self.collected {
            // A clock that was wrong has restarted the day.
            (self.collected, self.stored) = (0, 0);
        }
        (self.day, used - std::mem::replace(&mut self.collected, used))
    }
}

impl Entry {
    /// Returns the rows that were used since the last call, with their days.
    fn collect(&mut self) -> [(u32, u64); 2] {
        let [(before, used_before), (latest, used)] = self.state.day().days();
        if latest != self.latest.day {
            let begun = DayRows { day: latest, ..DayRows::default() };
            self.before = std::mem::replace(&mut self.latest, begun);
        }
        // While a day begins, the one before is not known for a moment.
        let is_known = before == self.before.day;
        let late = if is_known { self.before.collect(used_before) } else { (before, 0) };
        [late, self.latest.collect(used)]
    }

    /// Sets the rows that are used at other routers, given the sum of all routers.
    fn set_sum(&self, sum: u64, day: u32) {
        let stored = if self.latest.day == day { self.latest.stored } else { 0 };
        self.state.day().set_elsewhere(sum.saturating_sub(stored), day);
    }

    /// Returns true if the counters are no longer needed: nothing else refers to them, and they
    /// have no rows of this day.
    fn is_over(&self, today: u32) -> bool {
        Arc::strong_count(&self.state) == 1 && self.state.day().here(today) == 0
    }
}

impl UsageLedger {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the rows of a caller from now on. Returns its counters: `state`, or those that are
    /// known already.
    pub fn register(&self, name: String, state: Arc<LimitState>) -> Arc<LimitState> {
        let ledger = &mut *self.lock();
        if let Some(known) = ledger.callers.get(&*name) {
            return Arc::clone(&known.state);
        }
        if let Some(sum) = ledger.sums.remove(&*name) {
            state.day().set_elsewhere(sum, ledger.sums_day);
        }
        let (before, latest) = (DayRows::default(), DayRows::default());
        let entry = Entry { state: Arc::clone(&state), before, latest };
        ledger.callers.insert(name.into(), entry);
        state
    }

    /// Takes over the sums of all routers on this day. They must be read after every stored batch
    /// was confirmed.
    pub fn load(&self, day: u32, sums: Vec<(String, u64)>) {
        let ledger = &mut *self.lock();
        ledger.sums_day = day;
        ledger.sums.clear();
        for (name, sum) in sums {
            match ledger.callers.get(&*name) {
                Some(entry) => entry.set_sum(sum, day),
                None => drop(ledger.sums.insert(name.into(), sum)),
            }
        }
    }

    /// Collects the rows that were used since the last call, and forgets callers whose counters are
    /// no longer needed.
    pub fn collect(&self, today: u32) {
        let ledger = &mut *self.lock();
        if ledger.sums_day < today {
            ledger.sums.clear();
        }
        let waiting = &mut ledger.waiting;
        ledger.callers.retain(|name, entry| {
            for (day, rows) in entry.collect() {
                if rows > 0 {
                    *waiting.entry((day, Arc::clone(name))).or_default() += rows;
                }
            }
            !entry.is_over(today)
        });
        let kept = today.saturating_sub(DAYS_KEPT);
        waiting.retain(|(day, _), _| *day >= kept);
    }

    /// Takes the next batch of collected rows, beginning with the earliest day; `None` if there are
    /// no more.
    pub fn next_batch(&self) -> Option<UsageBatch> {
        let ledger = &mut *self.lock();
        let day = ledger.waiting.first_key_value()?.0.0;
        let of_day =
            ledger.waiting.range((day, Arc::<str>::from(""))..).take(UsageBatch::CALLERS_MAX);
        let of_day = of_day.take_while(|((other, _), _)| *other == day);
        let names: Vec<Arc<str>> = of_day.map(|((_, name), _)| Arc::clone(name)).collect();
        let take = |name: Arc<str>| {
            let rows = ledger.waiting.remove(&(day, Arc::clone(&name))).unwrap_or_default();
            (name, rows)
        };
        let rows = names.into_iter().map(take).collect();
        ledger.number += 1;
        Some(UsageBatch { number: ledger.number, day, rows })
    }

    /// Records that a batch is stored: from now on the sums contain it.
    pub fn confirm(&self, batch: &UsageBatch) {
        let ledger = &mut *self.lock();
        for (name, rows) in &batch.rows {
            let entry = ledger.callers.get_mut(name);
            // The sums of a past day limit nothing.
            if let Some(entry) = entry.filter(|entry| entry.latest.day == batch.day) {
                entry.latest.stored += rows;
            }
        }
    }

    /// Returns the number of callers whose rows are counted.
    pub fn callers(&self) -> usize {
        self.lock().callers.len()
    }
}

impl fmt::Debug for UsageLedger {
    /// Leaves out the names of tenants.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} callers", self.callers())
    }
}
