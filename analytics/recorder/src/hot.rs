//! Hot keys: finds the most requested keys with the Space-Saving algorithm (Metwally, Agrawal, El
//! Abbadi 2005).
//!
//! There is a fixed number of counters. A key without a counter takes over the counter with the
//! lowest count; that count becomes the error of the new key's count. Counters with equal counts
//! form a list, and these lists are linked in the order of their counts, so that each request takes
//! constant time.
//!
//! **Invariant:** a count is at least the number of requests of its key, and at most that number
//! plus the error. The error is at most the number of all requests divided by the number of
//! counters. Every key with more requests than this quotient has a counter.
//! **Not here:** the text of every key. Only some samples contain the text of their key, which is
//! enough because a hot key occurs often.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::entry::Entry;
use crate::sample::Operation;

/// Number of counters. A key with more than 1/512 of the requests certainly has a counter.
pub(crate) const COUNTERS: usize = 512;
/// Index that marks the end of a linked list.
const END: u16 = u16::MAX;

/// Counters of the most requested keys.
#[derive(Debug)]
pub(crate) struct HotKeys {
    places: HashMap<u64, u16, BuildHasherDefault<Hashed>>,
    counters: Vec<Counter>,
    /// One rank for each distinct count. A freed rank is reused.
    ranks: Vec<Rank>,
    free: Vec<u16>,
    lowest: u16,
    highest: u16,
}

/// Counts of one key.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    hash: u64,
    pub(crate) count: u64,
    pub(crate) error: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) shard: u16,
    pub(crate) slot: Option<u16>,
    pub(crate) key: Option<Arc<str>>,
    rank: u16,
    before: u16,
    after: u16,
}

/// List of all counters with the same count.
#[derive(Clone, Copy, Debug)]
struct Rank {
    count: u64,
    first: u16,
    lower: u16,
    higher: u16,
}

/// Hasher that returns its input, because the keys are hashes.
#[derive(Debug, Default)]
pub(crate) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

impl HotKeys {
    pub(crate) fn new() -> Self {
        Self {
            places: HashMap::with_capacity_and_hasher(COUNTERS, BuildHasherDefault::default()),
            counters: Vec::with_capacity(COUNTERS),
            ranks: Vec::with_capacity(COUNTERS + 1),
            free: Vec::with_capacity(COUNTERS + 1),
            lowest: END,
            highest: END,
        }
    }

    /// Counts a request that has a key.
    pub(crate) fn count(&mut self, entry: &Entry) {
        let place = match self.places.get(&entry.hash) {
            Some(&place) => place,
            None => self.counter_for(entry),
        };
        let counter = &mut self.counters[usize::from(place)];
        match entry.operation {
            Operation::Read => counter.reads += 1,
            Operation::Write => counter.writes += 1,
        }
        self.raise(place);
    }

    /// Sets the text of a key that has a counter.
    pub(crate) fn name(&mut self, hash: u64, key: &str) {
        let Some(&place) = self.places.get(&hash) else { return };
        let counter = &mut self.counters[usize::from(place)];
        if counter.key.is_none() {
            counter.key = Some(key.into());
        }
    }

    /// Returns the counters, highest first.
    pub(crate) fn ranked(&self) -> impl Iterator<Item = &Counter> {
        let follow = |at: u16| (at != END).then_some(at);
        let ranks = std::iter::successors(follow(self.highest), move |&rank| {
            follow(self.ranks[usize::from(rank)].lower)
        });
        ranks.flat_map(move |rank| {
            let first = follow(self.ranks[usize::from(rank)].first);
            let places = std::iter::successors(first, move |&place| {
                follow(self.counters[usize::from(place)].after)
            });
            places.map(|place| &self.counters[usize::from(place)])
        })
    }

    /// Resets the counters, and keeps the memory.
    pub(crate) fn reset(&mut self) {
        self.places.clear();
        self.counters.clear();
        self.ranks.clear();
        self.free.clear();
        (self.lowest, self.highest) = (END, END);
    }

    /// Returns a counter for a key without one: a new one, or the one with the lowest count, which
    /// the key takes over.
    fn counter_for(&mut self, entry: &Entry) -> u16 {
        let mut counter = Counter {
            hash: entry.hash,
            count: 0,
            error: 0,
            reads: 0,
            writes: 0,
            shard: entry.shard,
            slot: entry.slot(),
            key: None,
            rank: END,
            before: END,
            after: END,
        };
        let place = if self.counters.len() < COUNTERS {
            self.counters.push(counter);
            self.counters.len() as u16 - 1
        } else {
            let place = self.ranks[usize::from(self.lowest)].first;
            let old = &mut self.counters[usize::from(place)];
            self.places.remove(&old.hash);
            (counter.count, counter.error) = (old.count, old.count);
            (counter.rank, counter.before, counter.after) = (old.rank, old.before, old.after);
            *old = counter;
            place
        };
        self.places.insert(entry.hash, place);
        place
    }

    /// Increments a counter, and moves the counter to the rank of its new count.
    fn raise(&mut self, place: u16) {
        let (rank, count) = {
            let counter = &mut self.counters[usize::from(place)];
            counter.count += 1;
            (counter.rank, counter.count)
        };
        let higher = if rank == END { self.lowest } else { self.ranks[usize::from(rank)].higher };
        let fits = higher != END && self.ranks[usize::from(higher)].count == count;
        if rank != END && !fits && self.is_alone(place) {
            self.ranks[usize::from(rank)].count = count;
            return;
        }
        let target = if fits { higher } else { self.insert_rank(count, rank, higher) };
        if rank != END {
            self.detach(place, rank);
        }
        let first = self.ranks[usize::from(target)].first;
        if first != END {
            self.counters[usize::from(first)].before = place;
        }
        let counter = &mut self.counters[usize::from(place)];
        (counter.rank, counter.before, counter.after) = (target, END, first);
        self.ranks[usize::from(target)].first = place;
    }

    fn is_alone(&self, place: u16) -> bool {
        let counter = &self.counters[usize::from(place)];
        counter.before == END && counter.after == END
    }

    fn insert_rank(&mut self, count: u64, lower: u16, higher: u16) -> u16 {
        let rank = Rank { count, first: END, lower, higher };
        let place = match self.free.pop() {
            Some(place) => {
                self.ranks[usize::from(place)] = rank;
                place
            }
            None => {
                self.ranks.push(rank);
                self.ranks.len() as u16 - 1
            }
        };
        self.link(lower, place);
        self.link(place, higher);
        place
    }

    fn detach(&mut self, place: u16, rank: u16) {
        let (before, after) = {
            let counter = &self.counters[usize::from(place)];
            (counter.before, counter.after)
        };
        if after != END {
            self.counters[usize::from(after)].before = before;
        }
        if before != END {
            self.counters[usize::from(before)].after = after;
            return;
        }
        self.ranks[usize::from(rank)].first = after;
        if after == END {
            let Rank { lower, higher, .. } = self.ranks[usize::from(rank)];
            self.link(lower, higher);
            self.free.push(rank);
        }
    }

    /// Links two ranks. `END` stands for the position below the lowest and above the highest rank.
    fn link(&mut self, lower: u16, higher: u16) {
        match lower {
            END => self.lowest = higher,
            rank => self.ranks[usize::from(rank)].higher = higher,
        }
        match higher {
            END => self.highest = lower,
            rank => self.ranks[usize::from(rank)].lower = lower,
        }
    }
}
