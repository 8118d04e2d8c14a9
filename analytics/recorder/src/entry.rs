//! Entry: a sample in a worker's queue, packed into 40 bytes without pointers.
//!
//! Some samples also have a [`Detail`] with the text of the key and the trace id, which are too
//! long to be queued for every request.
//!
//! **Not here:** the queues (`worker`), the sums (`current_second`).

use crate::histogram::{counted_micros, part_micros};
use crate::sample::{Labels, Operation, Outcome, Role, Sample};
use crate::shard_labels::{NO_SHARD, ShardLabels};

/// Maximum length of a key whose text is kept, in bytes; a request with a longer key is counted
/// without that text.
pub(crate) const KEY_BYTES_MAX: usize = 256;
/// Maximum number of entries in a queue, which take 160 KiB.
pub(crate) const ENTRIES_MAX: usize = 4_096;
/// Maximum number of details in a queue, which take 80 KiB.
pub(crate) const DETAILS_MAX: usize = 256;
/// Slot number of a request that has no slot.
const NO_SLOT: u16 = u16::MAX;

const _: () = assert!(size_of::<Entry>() == 40, "4,096 entries are 160 KiB");
const _: () = assert!(Labels::SLOTS_MAX <= NO_SLOT as usize, "no slot has the number of none");

/// A sample, packed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Hash of the key; 0 without a key.
    pub(crate) hash: u64,
    /// Time in s since 1970 UTC.
    pub(crate) second: u32,
    /// Duration of the request in µs, 1 to 60,000,000. Its parts `queue` and `database` may be 0.
    pub(crate) elapsed: u32,
    pub(crate) queue: u32,
    pub(crate) database: u32,
    /// Index of the shard's label; [`NO_SHARD`] if several shards or none took part.
    pub(crate) shard: u16,
    slot: u16,
    pub(crate) status: u16,
    pub(crate) fanout: u16,
    /// Index of the route's label; for a route without a label, the number of labels.
    pub(crate) route: u8,
    pub(crate) operation: Operation,
    pub(crate) role: Option<Role>,
    pub(crate) outcome: Outcome,
}

impl Entry {
    /// Packs a sample; `shape` holds the number of routes and slots, and `shards` the names of the
    /// shards.
    pub(crate) fn of(
        sample: &Sample<'_>,
        hash: u64,
        second: u32,
        (shape, shards): (Shape, &ShardLabels),
    ) -> Self {
        Self {
            hash,
            second,
            elapsed: counted_micros(sample.elapsed),
            queue: part_micros(sample.queue),
            database: part_micros(sample.database),
            shard: sample.shard.map_or(NO_SHARD, |shard| shards.index(shard)),
            slot: sample.slot.filter(|&slot| slot < shape.slots).unwrap_or(NO_SLOT),
            status: sample.status,
            fanout: sample.fanout,
            route: sample.route.min(shape.routes),
            operation: sample.operation,
            role: sample.role,
            outcome: Outcome::of_status(sample.status),
        }
    }

    /// Returns the slot of the key, if there is one.
    pub(crate) fn slot(&self) -> Option<u16> {
        (self.slot != NO_SLOT).then_some(self.slot)
    }

    /// Returns the time spent neither in queues nor in the database, in µs.
    pub(crate) fn rest(&self) -> u32 {
        self.elapsed.saturating_sub(self.queue).saturating_sub(self.database)
    }
}

/// Number of routes and number of slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) routes: u8,
    pub(crate) slots: u16,
}

impl Shape {
    /// # Panics
    /// Panics if there are more labels than [`Labels`] allows, or two shards of one name.
    pub(crate) fn of(labels: &Labels) -> Self {
        let Labels { routes, shards, slots } = labels;
        assert!(routes.len() <= Labels::ROUTES_MAX, "at most {} routes", Labels::ROUTES_MAX);
        assert!(shards.len() <= Labels::SHARDS_MAX, "at most {} shards", Labels::SHARDS_MAX);
        assert!(*slots <= Labels::SLOTS_MAX, "at most {} slots", Labels::SLOTS_MAX);
        let repeated = shards.iter().enumerate().find(|(at, shard)| shards[..*at].contains(shard));
        assert!(repeated.is_none(), "shard labels are distinct: {repeated:?}");
        Self { routes: routes.len() as u8, slots: *slots as u16 }
    }
}

/// Key and trace id of a request. Only a few requests have a detail in addition to their entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detail {
    pub(crate) entry: Entry,
    pub(crate) trace: Option<[u8; 16]>,
    key_bytes: u16,
    key: [u8; KEY_BYTES_MAX],
}

impl Detail {
    pub(crate) fn of(entry: Entry, sample: &Sample<'_>) -> Self {
        let text = sample.key.filter(|key| key.len() <= KEY_BYTES_MAX).unwrap_or_default();
        let mut key = [0; KEY_BYTES_MAX];
        key[..text.len()].copy_from_slice(text.as_bytes());
        Self { entry, trace: sample.trace, key_bytes: text.len() as u16, key }
    }

    /// Returns the text of the key, if it is short enough.
    pub(crate) fn key(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.key[..usize::from(self.key_bytes)]).ok()?;
        (!text.is_empty()).then_some(text)
    }
}
