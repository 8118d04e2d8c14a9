//! Body budget: limits the memory that the incoming request bodies of all clients take together.
//!
//! A body is charged with the bytes that it holds now, not with its announced length. When the
//! budget is exhausted, a body is evicted (its request fails with TSR005). Only bodies that wait
//! for their clients or for memory may be evicted: first the one that has recently received the
//! fewest bytes in relation to the bytes that it holds. A body that waits for its shards is not
//! evicted. If a client address holds more than an equal share, its bodies are evicted first, but
//! only while another address has a body too: the clients behind a proxy share its address, and may
//! use all the memory that is free.
//!
//! Some memory of a connection is not charged: the read buffer of the web framework (at most 256
//! KiB), a received part that waits for memory (at most 128 KiB), and a body of at most 64 KiB. The
//! maximum number of connections limits the total of this memory.
//!
//! **Invariant:** at most [`BodyBudget::BYTES_MAX`] bytes are charged; dropping a share returns its
//! bytes to the budget.
//! **Not here:** the content of bodies (`body_reader`, `routes::bulk`).

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::problem::{Code, Problem};

/// Time in which the weight of received bytes falls to about a third (1/e): a client that pauses
/// for longer counts as slow.
const DECAY: Duration = Duration::from_secs(10);
/// Number of bytes that count as received when a body begins, because its client has had no time to
/// send any.
const INITIAL_CREDIT: f64 = 256.0 * 1024.0;
/// Interval at which a body that waits for memory checks again which bodies may be evicted.
const RECHECK_EVERY: Duration = Duration::from_millis(100);

/// Hint in the response to a request whose body was evicted.
const AGAIN: &str =
    "send again after Retry-After, without pausing; if the response has next_index, from there";

/// Memory budget for the bodies of all clients of a router.
#[derive(Debug, Default)]
pub struct BodyBudget {
    state: Mutex<BudgetState>,
    /// Notified when a body returns bytes to the budget.
    freed: Notify,
}

#[derive(Debug, Default)]
struct BudgetState {
    /// True once the router is shutting down: all bodies are then evicted.
    is_closed: bool,
    held: usize,
    next: u64,
    shares: BTreeMap<u64, ShareState>,
}

#[derive(Debug)]
struct ShareState {
    address: Option<IpAddr>,
    bytes: usize,
    /// Number of recently received bytes at the time `at`, each weighted by its age (see `DECAY`).
    received: f64,
    at: Instant,
    /// True while the body waits for its client or for memory: only then may it be evicted.
    is_waiting: bool,
    is_evicted: bool,
    evicted: Arc<Notify>,
}

impl ShareState {
    /// Returns the number of recently received bytes per held byte.
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
    /// Maximum number of bytes that bodies of all clients may hold at once. Once parsed, a body
    /// takes a few times as much memory.
    pub const BYTES_MAX: usize = 128 << 20;
    /// Total number of held bytes up to which bodies may also hold bytes that they could do
    /// without, and that only save time.
    const SPARE_BYTES_MAX: usize = Self::BYTES_MAX / 2;

    /// Starts a share for the body of a client at this address; the share holds no bytes yet.
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
        // Wake the bodies that wait for memory: they find that the budget is closed.
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

    /// Evicts bodies until `bytes` more bytes of the body `number` will fit once all evicted bodies
    /// have freed theirs, which happens later. If evicting all bodies that may be evicted would not
    /// make enough room, none is evicted: the other bodies, which are being processed, are about to
    /// free memory.
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
    /// Records that the client has sent this many bytes.
    pub fn add_received(&self, bytes: usize) {
        let now = Instant::now();
        self.change(|share| {
            let age = now.saturating_duration_since(share.at).as_secs_f64() / DECAY.as_secs_f64();
            share.received = share.received * (-age).exp() + bytes as f64;
            share.at = now;
        });
    }

    /// Records whether the body waits for its client or for memory, so that it may be evicted.
    fn set_waiting(&self, is_waiting: bool) {
        self.change(|share| share.is_waiting = is_waiting);
    }

    fn change(&self, change: impl FnOnce(&mut ShareState)) {
        if let Some(share) = self.budget.state().shares.get_mut(&self.number) {
            change(share);
        }
    }

    /// Charges this many more bytes, which only save time, if at most half of the budget is in use
    /// afterwards. Returns true if they were charged.
    pub fn try_grow(&self, bytes: usize) -> bool {
        self.budget.state().try_grow(self.number, bytes, BodyBudget::SPARE_BYTES_MAX)
    }

    /// Returns this many bytes to the budget.
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

    /// Charges this many more bytes as soon as there is room for them; bodies may be evicted to
    /// make room.
    ///
    /// # Errors
    /// TSR005 if this body is evicted itself, if no memory becomes free in time, or if there is not
    /// enough room and the router is shutting down.
    pub async fn grow(&self, bytes: usize, until: Instant) -> Result<(), Problem> {
        if self.budget.state().try_grow(self.number, bytes, BodyBudget::BYTES_MAX) {
            return Ok(());
        }
        self.set_waiting(true);
        let grown = self.wait_and_grow(bytes, until).await;
        self.set_waiting(false);
        grown
    }

    /// Charges this many more bytes and returns true if they fit; otherwise evicts bodies to make
    /// room and returns false.
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
            // The result is ignored: the loop checks again after a wake-up as well as after the
            // interval.
            let _ = timeout_at(until.min(now + RECHECK_EVERY).into(), freed).await;
        }
    }

    /// Waits for `awaited`, which comes from the client, unless this body is evicted first.
    ///
    /// # Errors
    /// TSR005 if this body is evicted, or the router is shutting down.
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
