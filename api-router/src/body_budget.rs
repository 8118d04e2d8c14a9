//! Body budget: the memory that incoming bodies of all clients may take together.
//!
//! A body is charged with the bytes that it holds now, not with its announced length. When the
//! budget is exhausted, a body is evicted: of the bodies that wait for their clients, the one that
//! has received least for the bytes that it holds. A body that waits for its shards is not evicted.
//! An address that holds more than its share is evicted first, but only when another address needs
//! memory: the clients behind a proxy share its address, and may use all the memory that is free.
//!
//! Some memory of a connection is not charged: the read buffer of the framework (at most 256 KiB),
//! a part that waits for memory (at most 128 KiB), and a body of at most 64 KiB. The maximum number
//! of connections limits it.
//!
//! **Invariant:** at most [`BodyBudget::BYTES_MAX`] are charged; dropping a share returns its bytes
//! to the budget.
//! **Not here:** the content of bodies (`body_reader`, `routes::bulk`).

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::problem::{Code, Problem};

/// Time in which the weight of a client's bytes falls to a third: a client that pauses for longer
/// is slow.
const DECAY: Duration = Duration::from_secs(10);
/// Bytes credited to a new client, which has had no time to send any.
const INITIAL_CREDIT: f64 = 256.0 * 1024.0;
/// Interval at which a body that waits for memory checks again which bodies may be evicted.
const RECHECK_EVERY: Duration = Duration::from_millis(100);

/// Hint to a body that was evicted.
const AGAIN: &str =
    "send again after Retry-After, without pausing; if the response has next_index, from there";

/// Memory budget for the bodies of all clients of a router.
#[derive(Debug, Default)]
pub struct BodyBudget {
    state: Mutex<BudgetState>,
    /// Notified when a body holds less than before.
    freed: Notify,
}

#[derive(Debug, Default)]
struct BudgetState {
    /// True once no body is read further.
    is_closed: bool,
    held: usize,
    next: u64,
    shares: BTreeMap<u64, ShareState>,
}

#[derive(Debug)]
struct ShareState {
    address: Option<IpAddr>,
    bytes: usize,
    /// Bytes that were received recently: their weight fades with time.
    received: f64,
    at: Instant,
    /// True while the body waits for its client or for memory: it may be evicted.
    is_waiting: bool,
    is_evicted: bool,
    evicted: Arc<Notify>,
}

impl ShareState {
    /// Returns the bytes that were received recently for each byte that is held.
    fn activity(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64() / DECAY.as_secs_f64();
        self.received * (-age).exp() / self.bytes.max(1) as f64
    }
}

/// Share of one body in the budget.
#[derive(Debug)]
pub struct BudgetShare {
    budget: Arc<BodyBudget>,
    number: u64,
    evicted: Arc<Notify>,
}

impl BodyBudget {
    /// Maximum number of bytes that bodies of all clients may hold at once. Parsed they are a few
    /// times as large.
    pub const BYTES_MAX: usize = 128 << 20;
    /// Total of held bytes above which no more are granted to bodies that only save time with them.
    const SPARE_BYTES_MAX: usize = Self::BYTES_MAX / 2;

    /// Starts a share for the body of a client at this address; it holds nothing yet.
    pub fn open_share(self: &Arc<Self>, address: Option<IpAddr>) -> BudgetShare {
        let evicted = Arc::new(Notify::new());
        let share = ShareState {
            address,
            bytes: 0,
            received: INITIAL_CREDIT,
            at: Instant::now(),
            is_waiting: false,
            is_evicted: false,
            evicted: Arc::clone(&evicted),
        };
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        if state.is_closed {
            evicted.notify_one();
        }
        state.shares.insert(number, share);
        drop(state);
        BudgetShare { budget: Arc::clone(self), number, evicted }
    }

    /// Evicts all bodies, including later ones, because the router is shutting down. Each ends when
    /// it next waits for its client or for memory.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.shares.values().for_each(|share| share.evicted.notify_one());
        drop(state);
        // Bodies that wait for memory check again.
        self.freed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, BudgetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the problem of a body that was evicted.
    fn eviction(&self) -> Problem {
        if self.state().is_closed {
            return Problem::new(Code::TSR005, "the router is shutting down").hint(AGAIN);
        }
        budget_exhausted()
    }
}

impl BudgetState {
    fn try_grow(&mut self, number: u64, bytes: usize, limit: usize) -> bool {
        let fits = self.held + bytes <= limit;
        if let Some(share) = self.shares.get_mut(&number).filter(|_| fits) {
            share.bytes += bytes;
            self.held += bytes;
        }
        fits
    }

    /// Evicts bodies until `bytes` more would fit for the body `number`. Evicted bodies may still
    /// hold their bytes. If all bodies that may be evicted are not enough, none is: those that do
    /// not wait for their clients are about to free memory.
    fn evict_for(&mut self, number: u64, bytes: usize) {
        let others = self.shares.iter().filter(|(other, _)| **other != number);
        let may_be_evicted = others.filter(|(_, one)| one.is_waiting || one.is_evicted);
        let evictable: usize = may_be_evicted.map(|(_, one)| one.bytes).sum();
        if self.held - evictable + bytes > BodyBudget::BYTES_MAX {
            return;
        }
        let going = |state: &Self| -> usize {
            state.shares.values().filter(|one| one.is_evicted).map(|one| one.bytes).sum()
        };
        while self.held - going(self) + bytes > BodyBudget::BYTES_MAX {
            let Some(number) = self.least_active() else { return };
            if let Some(share) = self.shares.get_mut(&number) {
                share.is_evicted = true;
                share.evicted.notify_one();
            }
        }
    }

    fn least_active(&self) -> Option<u64> {
        let now = Instant::now();
        let greedy = self.greediest_address();
        let may_be_evicted = |one: &&ShareState| one.is_waiting && !one.is_evicted && one.bytes > 0;
        let least = |of: Option<Option<IpAddr>>| {
            let shares = self.shares.iter();
            let shares = shares.filter(|(_, one)| {
                may_be_evicted(one) && of.is_none_or(|address| address == one.address)
            });
            let by_activity = |(_, a): &(&u64, &ShareState), (_, b): &(&u64, &ShareState)| {
                a.activity(now).total_cmp(&b.activity(now))
            };
            shares.min_by(by_activity).map(|(number, _)| *number)
        };
        greedy.and_then(|address| least(Some(address))).or_else(|| least(None))
    }

    /// Returns the address that holds the most bytes, if there are several addresses and it holds
    /// more than an equal share.
    fn greediest_address(&self) -> Option<Option<IpAddr>> {
        let mut held: BTreeMap<Option<IpAddr>, usize> = BTreeMap::new();
        for one in self.shares.values() {
            *held.entry(one.address).or_default() += one.bytes;
        }
        let share = BodyBudget::BYTES_MAX / held.len().max(1);
        let (address, bytes) = held.iter().max_by_key(|(_, bytes)| **bytes)?;
        (held.len() > 1 && *bytes > share).then_some(*address)
    }
}

impl BudgetShare {
    /// Adds bytes that the client has sent.
    pub fn add_received(&self, bytes: usize) {
        let now = Instant::now();
        self.change(|share| {
            let age = now.saturating_duration_since(share.at).as_secs_f64() / DECAY.as_secs_f64();
            share.received = share.received * (-age).exp() + bytes as f64;
            share.at = now;
        });
    }

    /// Records if the body waits for its client or for memory, and so may be evicted.
    fn set_waiting(&self, is_waiting: bool) {
        self.change(|share| share.is_waiting = is_waiting);
    }

    fn change(&self, change: impl FnOnce(&mut ShareState)) {
        if let Some(share) = self.budget.state().shares.get_mut(&self.number) {
            change(share);
        }
    }

    /// Holds this many more bytes if at most half of the budget is then in use: for bytes that only
    /// save time. Returns true if it does.
    pub fn try_grow(&self, bytes: usize) -> bool {
        self.budget.state().try_grow(self.number, bytes, BodyBudget::SPARE_BYTES_MAX)
    }

    /// Holds fewer bytes.
    pub fn shrink(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut state = self.budget.state();
        if let Some(share) = state.shares.get_mut(&self.number) {
            let bytes = bytes.min(share.bytes);
            share.bytes -= bytes;
            state.held -= bytes;
        }
        drop(state);
        self.budget.freed.notify_waiters();
    }

    /// Holds this many more bytes as soon as there is memory for them; others may be evicted.
    ///
    /// # Errors
    /// TSR005 if this body is evicted itself, no memory is free in time, or none is free and the
    /// router is shutting down.
    pub async fn grow(&self, bytes: usize, until: Instant) -> Result<(), Problem> {
        if self.budget.state().try_grow(self.number, bytes, BodyBudget::BYTES_MAX) {
            return Ok(());
        }
        self.set_waiting(true);
        let grown = self.wait_and_grow(bytes, until).await;
        self.set_waiting(false);
        grown
    }

    /// Holds this many more bytes and returns true if they fit; otherwise evicts other bodies.
    fn grow_or_evict(&self, bytes: usize) -> Result<bool, Problem> {
        let mut state = self.budget.state();
        let is_evicted = state.shares.get(&self.number).is_none_or(|one| one.is_evicted);
        if is_evicted || state.is_closed {
            drop(state);
            return Err(self.budget.eviction());
        }
        let grown = state.try_grow(self.number, bytes, BodyBudget::BYTES_MAX);
        if !grown {
            state.evict_for(self.number, bytes);
        }
        Ok(grown)
    }

    async fn wait_and_grow(&self, bytes: usize, until: Instant) -> Result<(), Problem> {
        loop {
            let freed = self.budget.freed.notified();
            if self.grow_or_evict(bytes)? {
                return Ok(());
            }
            let now = Instant::now();
            if now >= until {
                return Err(budget_exhausted());
            }
            // The loop checks again, whether memory was freed or the interval has passed.
            let _ = timeout_at(until.min(now + RECHECK_EVERY).into(), freed).await;
        }
    }

    /// Waits for `awaited`, which comes from the client, unless this body is evicted first.
    ///
    /// # Errors
    /// TSR005 if it is evicted, or the router is shutting down.
    pub async fn unless_evicted<T>(&self, awaited: impl Future<Output = T>) -> Result<T, Problem> {
        self.set_waiting(true);
        let came = tokio::select! {
            biased;
            () = self.evicted.notified() => Err(self.budget.eviction()),
            came = awaited => Ok(came),
        };
        self.set_waiting(false);
        came
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        if let Some(share) = state.shares.remove(&self.number) {
            state.held -= share.bytes;
        }
        drop(state);
        self.budget.freed.notify_waiters();
    }
}

fn budget_exhausted() -> Problem {
    let limit = BodyBudget::BYTES_MAX >> 20;
    let detail = format!(
        "the bodies of all clients fill the {limit} MiB of memory for them, and this one has \
         received least for the bytes that it holds"
    );
    Problem::new(Code::TSR005, detail).hint(AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_gives_way_unless_that_makes_enough_room() {
        let budget = Arc::new(BodyBudget::default());
        let share = |bytes| {
            let share = budget.open_share(None);
            assert!(budget.state().try_grow(share.number, bytes, BodyBudget::BYTES_MAX));
            share
        };
        let _busy = share(BodyBudget::BYTES_MAX - 1_000);
        let (waiting, late) = (share(500), share(100));
        waiting.set_waiting(true);
        late.set_waiting(true);
        let is_evicted = |share: &BudgetShare| budget.state().shares[&share.number].is_evicted;
        assert!(!late.grow_or_evict(2_000).unwrap());
        assert!(!is_evicted(&waiting) && !is_evicted(&late), "all of them are not enough");
        assert!(!late.grow_or_evict(800).unwrap());
        assert!(is_evicted(&waiting), "without it there is budget");
    }
}
