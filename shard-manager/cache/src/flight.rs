//! Flight: one read that answers all who ask the same at the same time.
//!
//! The first leads and reads; the others wait for it. What they get must prove itself to them as anything else that they
//! did not read themselves. A leader that fails, or whose client leaves, hands over to the next.
//!
//! **Invariant:** of one question at most one flight is in the air that readers can still board.
//! **Not here:** reading, and what is enough for whom (`cache`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::entry::Entry;
use super::shape::Name;
use super::vitals::ServedBy;

/// Locks that all flights share, so that readers of different keys seldom wait for each other.
const PARTS: usize = 32;

type Aboard = HashMap<u128, Vec<([u8; 16], Arc<Flight>)>>;

/// All that are in the air, by the hash of their key and their field.
#[derive(Default)]
pub(super) struct Flights {
    parts: [Mutex<Aboard>; PARTS],
}

/// One read.
#[derive(Default)]
pub(super) struct Flight {
    /// When its read began: what was written before somebody asked is surely only in a read that began later.
    begun: OnceLock<Instant>,
    /// Whether somebody has written what it is about, since it was begun.
    voided: AtomicBool,
    /// `None` in it: it failed.
    landed: OnceLock<Option<Arc<Landed>>>,
    told: Notify,
}

/// What a flight brought.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) entry: Arc<Entry>,
    pub(super) served_by: ServedBy,
}

/// What a reader is on a flight.
pub(super) enum Boarded {
    /// It is to read.
    Leader(Lead),
    /// It is to wait.
    Follower(Arc<Flight>),
}

/// The leader's part of a flight. When it is dropped, nobody boards it any more, and if it has not landed it has failed.
pub(super) struct Lead {
    flights: Arc<Flights>,
    key_hash: u128,
    flight: Arc<Flight>,
}

impl Flights {
    /// Boards the flight of this question, or begins one.
    pub(super) fn board(self: &Arc<Self>, name: &Name) -> Boarded {
        let mut part = self.part(name.key_hash);
        let of_key = part.entry(name.key_hash).or_default();
        if let Some((_, flight)) = of_key.iter().find(|(field, _)| *field == name.field) {
            return Boarded::Follower(Arc::clone(flight));
        }
        let flight = Arc::<Flight>::default();
        of_key.push((name.field, Arc::clone(&flight)));
        let (flights, key_hash) = (Arc::clone(self), name.key_hash);
        Boarded::Leader(Lead { flights, key_hash, flight })
    }

    /// Somebody has written rows of this key: who comes now does not board what was begun before.
    pub(super) fn void(&self, key_hash: u128) {
        let Some(gone) = self.part(key_hash).remove(&key_hash) else { return };
        gone.iter().for_each(|(_, flight)| flight.voided.store(true, Ordering::SeqCst));
    }

    fn part(&self, key_hash: u128) -> MutexGuard<'_, Aboard> {
        let part = &self.parts[key_hash as usize % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Whether its read began, and not before then.
    pub(super) fn began_after(&self, then: Instant) -> bool {
        self.begun.get().is_some_and(|begun| *begun >= then)
    }

    /// What it brought, when it has; `None` if it failed.
    ///
    /// Cancel safety: nothing is missed.
    pub(super) async fn landed(&self) -> Option<Arc<Landed>> {
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            // Before the look, so that what happens after it is not missed.
            told.as_mut().enable();
            if let Some(landed) = self.landed.get() {
                return landed.clone();
            }
            told.await;
        }
    }
}

impl Lead {
    /// Told before it reads.
    pub(super) fn begin(&self) {
        // It reads once.
        let _ = self.flight.begun.set(Instant::now());
    }

    /// Nobody boards it any more. What is known to be of use to some only is not to be met by those for whom it was not.
    pub(super) fn leave(&self) {
        let mut part = self.flights.part(self.key_hash);
        if let Some(of_key) = part.get_mut(&self.key_hash) {
            of_key.retain(|(_, flight)| !Arc::ptr_eq(flight, &self.flight));
            if of_key.is_empty() {
                part.remove(&self.key_hash);
            }
        }
    }

    /// Told when it has read: those who wait get this. Who comes later gets it as well, until this is dropped.
    pub(super) fn land(&self, landed: Arc<Landed>) {
        // It lands once.
        let _ = self.flight.landed.set(Some(landed));
        self.flight.told.notify_waiters();
    }

    /// Whether somebody has written what it is about meanwhile.
    pub(super) fn is_voided(&self) -> bool {
        self.flight.voided.load(Ordering::SeqCst)
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.leave();
        // After that, so that whoever learns that it failed does not board it again.
        let _ = self.flight.landed.set(None);
        self.flight.told.notify_waiters();
    }
}
