//! Room: the memory that bodies on their way in may take, of all clients together.
//!
//! A body is charged with what it holds, not with what it may come to hold. When room runs out, the body that has
//! brought least for what it holds gives way, of those whose clients are waited for: one that waits for its shards
//! does not. An address that holds more than its share gives way first, but only to another that needs room: many
//! clients of one proxy share its address, and may have all that nobody else wants.
//!
//! **Invariant:** what is charged is at most [`Room::BYTES_MAX`]; what a dropped share held is free.
//! **Not here:** what bodies hold (`body`, `routes::bulk`).

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::problem::{Code, Problem};

/// In which time a client's bytes count for a third of what they did: who pauses for longer is slow.
const PACE: Duration = Duration::from_secs(10);
/// What a client that has just come is taken to have brought: it has had no time to bring anything.
const CREDIT: f64 = 256.0 * 1024.0;
/// How often one that waits for room looks again at who might give way.
const LOOK: Duration = Duration::from_millis(100);

/// The room of a router.
#[derive(Debug, Default)]
pub struct Room {
    ledger: Mutex<Ledger>,
    /// Somebody holds less than before.
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
    /// What it brought lately: bytes fade with time.
    brought: f64,
    at: Instant,
    /// Its client, or room, is waited for: it may have to give way.
    waits: bool,
    gives_way: bool,
    cut: Arc<Notify>,
}

impl Holder {
    /// What it brought lately for each byte that it holds.
    fn worth(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64() / PACE.as_secs_f64();
        self.brought * (-age).exp() / self.bytes.max(1) as f64
    }
}

/// The part of the room that one body has.
#[derive(Debug)]
pub struct Share {
    room: Arc<Room>,
    number: u64,
    cut: Arc<Notify>,
}

impl Room {
    /// Bytes of bodies that may be held at once, by all clients. Taken apart they are a few times as large.
    pub const BYTES_MAX: usize = 128 << 20;
    /// How full the room may be made by what is held only to be faster.
    const SPARE_BYTES_MAX: usize = Self::BYTES_MAX / 2;

    /// A share for the body of a client at this address, which holds nothing yet.
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

    /// The address that holds most, if that is more than its share among several.
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

    /// Says whether somebody is waited for to whom this body may have to give way.
    fn wait(&self, waits: bool) {
        self.change(|holder| holder.waits = waits);
    }

    fn change(&self, change: impl FnOnce(&mut Holder)) {
        if let Some(holder) = self.room.ledger().holders.get_mut(&self.number) {
            change(holder);
        }
    }

    /// Holds so many more bytes if there is plenty of room now: by them something is faster that goes on without.
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

    /// Holds so many more bytes as soon as there is room for them; others may have to give way.
    ///
    /// # Errors
    /// TSR005 if this body has to give way itself, or there is no room until then.
    pub async fn grow(&self, bytes: usize, until: Instant) -> Result<(), Problem> {
        if self.room.ledger().try_grow(self.number, bytes, Room::BYTES_MAX) {
            return Ok(());
        }
        self.wait(true);
        let grown = self.grow_later(bytes, until).await;
        self.wait(false);
        grown
    }

    /// Whether it holds so many more bytes now; else others are to give way.
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
            // Whether it was freed or only time to look: the same is done.
            let _ = timeout_at(until.min(now + LOOK).into(), freed).await;
        }
    }

    /// Waits for something of the client, as long as this body has not to give way.
    ///
    /// # Errors
    /// TSR005 if it has.
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
