//! Stored location: computes the slot and shard where a stored row belongs, to check stored rows
//! against the shard map.
//!
//! **Not here:** reading the rows (`audit` of `postgres` and of `sqlite`).

use crate::idempotency;
use crate::keyspace::{KeyError, ShardKey, Slot};
use crate::shard_map::partitions::{location, may_hold};
use crate::shard_map::{KeyLocation, ShardMap};
use crate::table::Table;

/// Contradiction between the slot in which a row is stored and the slot that its key requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MisplacedRow {
    /// Description of what was found in the row.
    pub found: String,
    /// Description of what the key of the row requires instead.
    pub expected: String,
}

/// Returns the location where a row belongs ([`stored_location`]), if it has one, and a description
/// of the contradiction if the row is stored in another slot or has no valid location.
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

/// Returns the location where a row of a table belongs, according to its stored key and the value
/// of its partition column. `slot` is the slot in which it is stored.
///
/// The record of an idempotency key is stored in the slot of the row that was written. That slot
/// depends on the table group and the partition of the row, which the record does not contain.
/// Therefore the stored slot is accepted if any row with the same shard key may be in it.
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
