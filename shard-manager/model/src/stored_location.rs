//! Stored location: the slot and shard that a stored row must have, to check rows against the map.
//!
//! **Not here:** reading the rows (`audit` of `postgres` and of `sqlite`).

use crate::idempotency;
use crate::keyspace::{KeyError, ShardKey, Slot};
use crate::shard_map::partitions::{location, may_hold};
use crate::shard_map::{KeyLocation, ShardMap};
use crate::table::Table;

/// Difference between the slot of a stored row and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MisplacedRow {
    /// Contents that were found.
    pub found: String,
    /// Contents that its key requires.
    pub expected: String,
}

/// Returns the location of a row like [`stored_location`], if there is one, and the difference if
/// the row is in another slot or in none.
pub fn checked_location(
    map: &ShardMap,
    (table, slot): (&Table, i64),
    key: &str,
    partition: Option<&str>,
) -> (Option<KeyLocation>, Option<MisplacedRow>) {
    let place = match stored_location(map, (table, slot), key, partition) {
        Ok(place) => place,
        Err(error) => {
            let (found, expected) = (error.to_string(), "a key of the keyspace".to_owned());
            return (None, Some(MisplacedRow { found, expected }));
        }
    };
    if slot == i64::from(place.slot.number()) {
        return (Some(place), None);
    }
    let cause = if partition.is_some() { "its key and partition say" } else { "its key says" };
    let found = format!("its slot column says {slot}");
    let expected = format!("{}, as {cause}", place.slot);
    (Some(place), Some(MisplacedRow { found, expected }))
}

/// Returns the location of a row of a table, by its stored key and the value of its partition
/// column. `slot` is the one in which it is stored.
///
/// The record of an idempotency key is stored with the row that was written, so its slot depends on
/// the group and the partition of that row, which it does not contain: any slot that may have a row
/// of its key is accepted.
///
/// # Errors
/// [`KeyError`] if the keyspace has no slot for the row.
pub fn stored_location(
    map: &ShardMap,
    (table, slot): (&Table, i64),
    key: &str,
    partition: Option<&str>,
) -> Result<KeyLocation, KeyError> {
    let key = ShardKey::parse(key)?;
    if table.name() == idempotency::TABLE.name() {
        let stored = u16::try_from(slot).ok().and_then(Slot::new);
        if let Some(stored) = stored.filter(|stored| may_hold(map, *stored, key)) {
            return Ok(location(map, stored));
        }
    }
    map.locate(table, key, partition)
}
