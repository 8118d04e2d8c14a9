//! Room: the memory that incoming bodies of all clients may take together.
//!
//! A body is charged with the bytes that it holds, not with those that it may come to hold. When
//! room runs out, the body that has brought least for the bytes that it holds gives way, among
//! those that wait for their clients: a body that waits for its shards does not. An address that
//! holds more than its share gives way first, but only when another address needs room: the clients
//! behind a proxy share its address, and may use all the room that is free.
//!
//! **Invariant:** at most [`Room::BYTES_MAX`] are charged; dropping a share frees the bytes that it
//! held.
//! **Not here:** the content of bodies (`body`, `routes::bulk`).

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
const PACE: Duration = Duration::from_secs(10);
/// Bytes credited to a new client, which has had no time to bring any.
const CREDIT: f64 = 256.0 * 1024.0;
/// Interval at which a body that waits for room checks again which one may give way.
const LOOK: Duration = Duration::from_millis(100);

/// Room of a router.
#[derive(Debug, Default)]
pub struct Room {
    ledger: Mutex<Ledger>,
    /// Notified when a body holds less than before.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Ledger {
    held: usize,
    next: u64,
    holders: BTreeMap<u64, Holder>,
}

#[derive(Debug)]
struct Holder {
    address: Option<IpAddr>,
    bytes: usize,
    /// Bytes that it brought lately: their weight fades with time.
    brought: f64,
    at: Instant,
    /// True while it waits for its client or for room: it may have to give way.
    waits: bool,
    gives_way: bool,
    cut: Arc<Notify>,
}

impl Holder {
    /// Bytes that it brought lately for each byte that it holds.
    fn worth(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64() / PACE.as_secs_f64();
        self.brought * (-age).exp() / self.bytes.max(1) as f64
    }
}

/// Share of one body in the room.
#[derive(Debug)]
pub struct Share {
    room: Arc<Room>,
    number: u64,
    cut: Arc<Notify>,
}

impl Room {
    /// Most bytes that bodies of all clients may hold at once. Parsed they are a few times as
    /// large.
    pub const BYTES_MAX: usize = 128 << 20;
    /// Most bytes that may be held when some of them only save time.
    const SPARE_BYTES_MAX: usize = Self::BYTES_MAX / 2;

    /// Starts a share for the body of a client at this address; it holds nothing yet.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Share {
        let cut = Arc::new(Notify::new());
        let holder = Holder {
            address,
            bytes: 0,
            brought: CREDIT,
            at: Instant::now(),
            waits: false,
            gives_way: false,
            cut: Arc::clone(&cut),
        };
        let mut ledger = self.ledger();
        let number = ledger.next;
        ledger.next += 1;
        ledger.holders.insert(number, holder);
        drop(ledger);
        Share { room: Arc::clone(self), number, cut }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn try_grow(&mut self, number: u64, bytes: usize, most: usize) -> bool {
        let fits = self.held + bytes <= most;
        if let Some(holder) = self.holders.get_mut(&number).filter(|_| fits) {
            holder.bytes += bytes;
            self.held += bytes;
        }
        fits
    }

    /// Has bodies give way until so many more bytes of this one would fit. Those that do so already
    /// have not gone yet. If all the others that may go are not enough, none has to: those that do
    /// not wait for their clients are about to make room.
    fn make_way(&mut self, number: u64, bytes: usize) {
        let others = self.holders.iter().filter(|(other, _)| **other != number);
        let may_go = others.filter(|(_, one)| one.waits || one.gives_way);
        let most: usize = may_go.map(|(_, one)| one.bytes).sum();
        if self.held - most + bytes > Room::BYTES_MAX {
            return;
        }
        let going = |ledger: &Self| -> usize {
            ledger.holders.values().filter(|one| one.gives_way).map(|one| one.bytes).sum()
        };
        while self.held - going(self) + bytes > Room::BYTES_MAX {
            let Some(number) = self.least_worthy() else { return };
            if let Some(holder) = self.holders.get_mut(&number) {
                holder.gives_way = true;
                holder.cut.notify_one();
            }
        }
    }

    fn least_worthy(&self) -> Option<u64> {
        let now = Instant::now();
        let greedy = self.greedy_address();
        let may_go = |one: &&Holder| one.waits && !one.gives_way && one.bytes > 0;
        let least = |of: Option<Option<IpAddr>>| {
            let holders = self.holders.iter();
            let holders = holders
                .filter(|(_, one)| may_go(one) && of.is_none_or(|address| address == one.address));
            let by_worth = |(_, a): &(&u64, &Holder), (_, b): &(&u64, &Holder)| {
                a.worth(now).total_cmp(&b.worth(now))
            };
            holders.min_by(by_worth).map(|(number, _)| *number)
        };
        greedy.and_then(|address| least(Some(address))).or_else(|| least(None))
    }

    /// Returns the address that holds most, if that is more than its share among several.
    fn greedy_address(&self) -> Option<Option<IpAddr>> {
        let mut held: BTreeMap<Option<IpAddr>, usize> = BTreeMap::new();
        for one in self.holders.values() {
            *held.entry(one.address).or_default() += one.bytes;
        }
        let share = Room::BYTES_MAX / held.len().max(1);
        let (address, bytes) = held.iter().max_by_key(|(_, bytes)| **bytes)?;
        (held.len() > 1 && *bytes > share).then_some(*address)
    }
}

impl Share {
    /// Counts bytes that the client has brought.
    pub fn bring(&self, bytes: usize) {
        let now = Instant::now();
        self.change(|holder| {
            let age = now.saturating_duration_since(holder.at).as_secs_f64() / PACE.as_secs_f64();
            holder.brought = holder.brought * (-age).exp() + bytes as f64;
            holder.at = now;
        });
    }

    /// Records if the body waits for its client or for room, and so may have to give way.
    fn wait(&self, waits: bool) {
        self.change(|holder| holder.waits = waits);
    }

    fn change(&self, change: impl FnOnce(&mut Holder)) {
        if let Some(holder) = self.room.ledger().holders.get_mut(&self.number) {
            change(holder);
        }
    }

    /// Holds this many more bytes if there is plenty of room now: for bytes that only save time.
    pub fn try_grow(&self, bytes: usize) -> bool {
        self.room.ledger().try_grow(self.number, bytes, Room::SPARE_BYTES_MAX)
    }

    /// Holds fewer bytes.
    pub fn shrink(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut ledger = self.room.ledger();
        if let Some(holder) = ledger.holders.get_mut(&self.number) {
            let bytes = bytes.min(holder.bytes);
            holder.bytes -= bytes;
            ledger.held -= bytes;
        }
        drop(ledger);
        self.room.freed.notify_waiters();
    }

    /// Holds this many more bytes as soon as there is room for them; others may have to give way.
    ///
    /// # Errors
    /// TSR005 if this body has to give way itself, or no room is free in time.
    pub async fn grow(&self, bytes: usize, until: Instant) -> Result<(), Problem> {
        if self.room.ledger().try_grow(self.number, bytes, Room::BYTES_MAX) {
            return Ok(());
        }
        self.wait(true);
        let grown = self.grow_later(bytes, until).await;
        self.wait(false);
        grown
    }

    /// Returns true if it holds this many more bytes now; otherwise others must give way.
    fn grow_or_make_way(&self, bytes: usize) -> Result<bool, Problem> {
        let mut ledger = self.room.ledger();
        if ledger.holders.get(&self.number).is_none_or(|one| one.gives_way) {
            return Err(crowded());
        }
        let grown = ledger.try_grow(self.number, bytes, Room::BYTES_MAX);
        if !grown {
            ledger.make_way(self.number, bytes);
        }
        Ok(grown)
    }

    async fn grow_later(&self, bytes: usize, until: Instant) -> Result<(), Problem> {
        loop {
            let freed = self.room.freed.notified();
            if self.grow_or_make_way(bytes)? {
                return Ok(());
            }
            let now = Instant::now();
            if now >= until {
                return Err(crowded());
            }
            // Freed room or the next check: both are handled alike.
            let _ = timeout_at(until.min(now + LOOK).into(), freed).await;
        }
    }

    /// Waits for the client until this body has to give way.
    ///
    /// # Errors
    /// TSR005 if it has to give way.
    pub async fn unless_cut<T>(&self, awaited: impl Future<Output = T>) -> Result<T, Problem> {
        self.wait(true);
        let came = tokio::select! {
            biased;
            () = self.cut.notified() => Err(crowded()),
            came = awaited => Ok(came),
        };
        self.wait(false);
        came
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut ledger = self.room.ledger();
        if let Some(holder) = ledger.holders.remove(&self.number) {
            ledger.held -= holder.bytes;
        }
        drop(ledger);
        self.room.freed.notify_waiters();
    }
}

fn crowded() -> Problem {
    let most = Room::BYTES_MAX >> 20;
    let detail = format!(
        "the bodies of all clients fill the {most} MiB that there are for them, and this one brings least for what it holds"
    );
    Problem::new(Code::TSR005, detail)
        .hint("send again after Retry-After, without pausing; if next_index is told, from there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_gives_way_unless_that_makes_enough_room() {
        let room = Arc::new(Room::default());
        let share = |bytes| {
            let share = room.enter(None);
            assert!(room.ledger().try_grow(share.number, bytes, Room::BYTES_MAX));
            share
        };
        let _busy = share(Room::BYTES_MAX - 1_000);
        let (waiting, late) = (share(500), share(100));
        waiting.wait(true);
        late.wait(true);
        let gives_way = |share: &Share| room.ledger().holders[&share.number].gives_way;
        assert!(!late.grow_or_make_way(2_000).unwrap());
        assert!(!gives_way(&waiting) && !gives_way(&late), "all of them are not enough");
        assert!(!late.grow_or_make_way(800).unwrap());
        assert!(gives_way(&waiting), "without it there is room");
    }
}
