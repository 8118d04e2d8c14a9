//! Shards of a read: determines to which shards a read is sent, from the keys and the partitions
//! that it names.
//!
//! **Invariant:** every row that meets the conditions of a read is in a slot that the route of the
//! read covers.
//! **Not here:** carrying out the reads (`reads`, `scatter`).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use model::keyspace::{KeyError, Keyspace, ShardKey, Slot};
use model::query::{Comparison, Condition, ReadQuery, Test};
use model::shard_map::partitions::{
    keyspace_of, location, partition_column, partition_slots, slots_of_key,
};
use model::shard_map::{KeyLocation, ShardMap, latest_since};
use model::slot_set::SlotSet;
use model::table::Table;
use model::topology::ShardNumber;
use model::value::{ColumnType, Value};

use super::Manager;

/// Shard keys that a read names, with their slots, grouped by shard.
pub(super) type KeysOfShards = BTreeMap<ShardNumber, Vec<(Slot, String)>>;

/// Shards to which a read is sent if its rows may be in more than one slot.
pub(super) enum Route {
    /// The shard of one key.
    Key(String, KeyLocation),
    /// The shards of several keys, or of a key in several partitions.
    Keys(KeysOfShards),
    /// The shards of these slots, which are those of the partitions that the filters name.
    Slots(SlotSet),
    /// All shards.
    Shards,
}

impl Route {
    /// Determines the route from the key of the request, or else from the keys in the filters, and
    /// from the partitions in the filters. Keys outside the keyspace and partitions that do not
    /// exist are ignored, because they have no rows.
    pub(super) fn of(
        query: &ReadQuery,
        key: Option<ShardKey<'_>>,
        (map, manager): (&ShardMap, &Manager),
    ) -> Self {
        let named = match key {
            Some(key) => Some(vec![key.as_str().to_owned()]),
            None => query.keys_named(),
        };
        if named.as_ref().is_some_and(Vec::is_empty) && query.is_bound {
            return Self::Keys(KeysOfShards::new());
        }
        let partitions = divided_by(&query.table, map).and_then(|by| query.values_named(by));
        let slots = named.and_then(|keys| slots_of(&keys, partitions.as_deref(), (query, map)));
        match slots {
            Some(slots) => Self::of_keys(slots, (map, manager)),
            None => partitions.map_or(Self::Shards, |names| {
                let slots = partition_slots(map, &query.table, names.iter().map(|name| &**name));
                if slots.is_empty() { Self::Shards } else { Self::Slots(slots) }
            }),
        }
    }

    fn of_keys(slots: BTreeSet<(Slot, String)>, (map, manager): (&ShardMap, &Manager)) -> Self {
        let place = |slot| manager.router.redirected(location(map, slot));
        let is_one = slots.len() == 1;
        let mut keys = KeysOfShards::new();
        for (slot, key) in slots {
            if is_one {
                return Self::Key(key, place(slot));
            }
            keys.entry(place(slot).shard).or_default().push((slot, key));
        }
        if keys.is_empty() { Self::Shards } else { Self::Keys(keys) }
    }

    /// Returns the latest epoch in which a slot of the route got its owner.
    pub(super) fn since(&self, map: &ShardMap) -> u64 {
        match self {
            Self::Key(_, place) => place.since,
            Self::Keys(keys) => {
                keys.values().flatten().map(|(slot, _)| map.since(*slot)).max().unwrap_or(0)
            }
            Self::Slots(slots) => slots.iter().map(|slot| map.since(slot)).max().unwrap_or(0),
            Self::Shards => latest_since(map),
        }
    }
}

/// Returns the location of the rows of a key that may meet the conditions of a read, if these rows
/// are in one slot. If the conditions name no partition, a key of a partitioned table has one slot
/// in each partition.
///
/// # Errors
/// [`KeyError`] if the keyspace has no slot for the key.
pub(super) fn single_place(
    query: &ReadQuery,
    key: ShardKey<'_>,
    map: &ShardMap,
) -> Result<Option<KeyLocation>, KeyError> {
    let Some(column) = divided_by(&query.table, map) else {
        return map.locate(&query.table, key, None).map(Some);
    };
    match query.values_named(column).as_deref() {
        Some([partition]) => Ok(map.locate(&query.table, key, Some(partition)).ok()),
        Some(_) | None => Ok(None),
    }
}

/// Adds the key of a request to the conditions of a read whose rows may be in several slots, so
/// that it can be carried out like a read without a key. Returns true if the key was added.
pub(super) fn spread(query: &mut ReadQuery, key: ShardKey<'_>, map: &ShardMap) -> bool {
    if !matches!(single_place(query, key, map), Ok(None)) {
        return false;
    }
    let key = Value::Text(key.as_str().to_owned());
    let test = Test::Compare(Comparison::Equal, key);
    query.conditions.push(Condition::Column(Table::SHARD_KEY, test));
    true
}

/// Removes the condition on the partition column from a read of one slot if every row of the slot
/// meets it; otherwise returns the read unchanged.
pub(super) fn within_partition<'q>(query: &'q ReadQuery, map: &ShardMap) -> Cow<'q, ReadQuery> {
    let Some(column) = divided_by(&query.table, map) else { return Cow::Borrowed(query) };
    // In a list-partitioned table, a partition has one value of the column, and a value of type
    // text has one notation. A range partition has many values, and a value of another type may
    // have several notations.
    let is_implied = matches!(keyspace_of(map, &query.table), Some(Keyspace::List(_)))
        && query.table.column(column).kind == ColumnType::Text;
    if is_implied { Cow::Owned(query.without_equality(column)) } else { Cow::Borrowed(query) }
}

/// Returns the partition column of a table, if rows of the same shard key can be in different
/// partitions.
pub(super) fn divided_by(table: &Table, map: &ShardMap) -> Option<usize> {
    partition_column(map, table).filter(|column| table.routing() != Some(*column))
}

/// Returns all slots in which rows of these keys may be, each with its key; `None` if there are too
/// many to list.
fn slots_of(
    keys: &[String],
    partitions: Option<&[Cow<'_, str>]>,
    (query, map): (&ReadQuery, &ShardMap),
) -> Option<BTreeSet<(Slot, String)>> {
    let is_divided = divided_by(&query.table, map).is_some();
    let mut slots = BTreeSet::new();
    for key in keys {
        let Ok(parsed) = ShardKey::parse(key) else { continue };
        let locate = |partition| map.locate(&query.table, parsed, partition).ok();
        let found: Vec<Slot> = match (is_divided, partitions) {
            (false, _) => locate(None).map(|place| place.slot).into_iter().collect(),
            (true, Some(names)) => {
                let places = names.iter().filter_map(|name| locate(Some(&**name)));
                places.map(|place| place.slot).collect()
            }
            (true, None) => slots_of_key(map, &query.table, parsed, ReadQuery::KEYS_MAX)?,
        };
        slots.extend(found.into_iter().map(|slot| (slot, key.clone())));
        if slots.len() > ReadQuery::KEYS_MAX {
            return None;
        }
    }
    Some(slots)
}
