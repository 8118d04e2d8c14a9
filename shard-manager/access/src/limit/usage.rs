//! Usage: collects the rows that callers with a quota have used at this router, to add them to the
//! sums of all routers in the catalog.
//!
//! Rows are collected into batches, each of one day. After the batches are stored, the sums of all
//! routers are read from the catalog. The part of a sum that exceeds the stored rows of this router
//! was used at other routers.
//!
//! **Invariant:** each collected row is in exactly one batch, unless it waits for longer than
//! [`DAYS_KEPT`] days, after which it is dropped. The counters of a caller are kept as long as
//! anything in this process refers to them, so no rows are counted twice or forgotten.
//! **Not here:** storing a batch (`engine::access_store`), deciding when batches are stored (the
//! router).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::caller_limits::LimitState;

/// Number of days whose sums are kept.
pub const DAYS_KEPT: u32 = 35;

/// Numbers of rows that callers used on one day. They are stored together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageBatch {
    /// Number of the batch in this process, from 1.
    pub number: u64,
    /// The day, in days since 1970-01-01.
    pub day: u32,
    /// Name of each caller and number of its rows, sorted by name.
    pub rows: Vec<(Arc<str>, u64)>,
}

impl UsageBatch {
    /// Maximum number of callers in a batch. It is limited so that storing a batch does not take
    /// long.
    pub const CALLERS_MAX: usize = 1_000;
}

/// Ledger of the rows that callers with a quota have used at this router.
#[derive(Default)]
pub struct UsageLedger(Mutex<Ledger>);

#[derive(Default)]
struct Ledger {
    callers: HashMap<Arc<str>, Entry>,
    /// Number of collected rows that are in no batch yet, by day and caller.
    waiting: BTreeMap<(u32, Arc<str>), u64>,
    /// Number of the last batch.
    number: u64,
    /// Sums of all routers on the day `sums_day`, for callers that have no counters at this router
    /// yet.
    sums: HashMap<Box<str>, u64>,
    sums_day: u32,
}

/// Counters of a caller, with its collected rows on the latest day on which it used rows and on the
/// day before that.
struct Entry {
    state: Arc<LimitState>,
    before: DayRows,
    latest: DayRows,
}

#[derive(Clone, Copy, Default)]
struct DayRows {
    day: u32,
    /// Number of rows of this day that were used at this router and have been collected.
    collected: u64,
    /// Number of these rows that are stored, so that the sums of all routers contain them.
    stored: u64,
}

impl DayRows {
    /// Returns the day and the number of rows that were used on it since the last call. `used` is
    /// the total number of rows used on it at this router.
    fn collect(&mut self, used: u64) -> (u32, u64) {
        if used < self.collected {
            // The counter went back because a wrong clock made the day begin again.
            (self.collected, self.stored) = (0, 0);
        }
        (self.day, used - std::mem::replace(&mut self.collected, used))
    }
}

impl Entry {
    /// Returns the numbers of rows that were used since the last call, each with its day.
    fn collect(&mut self) -> [(u32, u64); 2] {
        let [(before, used_before), (latest, used)] = self.state.day().days();
        if latest != self.latest.day {
            let begun = DayRows { day: latest, ..DayRows::default() };
            self.before = std::mem::replace(&mut self.latest, begun);
        }
        // For a moment after a new day has begun, `days` does not return the day before it yet.
        let is_known = before == self.before.day;
        let late = if is_known { self.before.collect(used_before) } else { (before, 0) };
        [late, self.latest.collect(used)]
    }

    /// Sets the number of rows that the caller has used at other routers: the sum of all routers
    /// minus the stored rows of this router.
    fn set_sum(&self, sum: u64, day: u32) {
        let stored = if self.latest.day == day { self.latest.stored } else { 0 };
        self.state.day().set_elsewhere(sum.saturating_sub(stored), day);
    }

    /// Returns true if the counters are no longer needed: nothing else refers to them, and the
    /// caller has used no rows here today.
    fn is_over(&self, today: u32) -> bool {
        Arc::strong_count(&self.state) == 1 && self.state.day().here(today) == 0
    }
}

impl UsageLedger {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a caller, so that its rows are collected from now on. Returns its counters: those
    /// of an earlier registration if there is one, otherwise `state`.
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

    /// Takes over the sums of all routers on this day. They must have been read after every stored
    /// batch was confirmed: otherwise rows of this router would count as rows of other routers as
    /// well.
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

    /// Collects the rows that were used since the last call, and removes callers whose counters are
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

    /// Takes the next batch of collected rows, from the earliest day that has some; `None` if no
    /// collected rows are left.
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

    /// Records that a batch was stored, so that sums that are read from now on contain its rows.
    pub fn confirm(&self, batch: &UsageBatch) {
        let ledger = &mut *self.lock();
        for (name, rows) in &batch.rows {
            let entry = ledger.callers.get_mut(name);
            // The sums of a past day no longer limit a caller, so they are not tracked.
            if let Some(entry) = entry.filter(|entry| entry.latest.day == batch.day) {
                entry.latest.stored += rows;
            }
        }
    }

    /// Returns the number of callers that are registered.
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
