//! Partitions: rows whose slot depends on a column, in a keyspace by a column.
//!
//! **Invariant:** a table is in partitions if one of its own columns is the column of the keyspace,
//! its type can be compared, and the table is not `kv`. The keys of all other tables are hashed
//! over all slots.
//! **Not here:** the function to the slot (`keyspace::partition_column`).

use std::borrow::Cow;

use super::{KeyLocation, ShardMap};
use crate::keyspace::list::ListSpace;
use crate::keyspace::partition_column::PartitionError;
use crate::keyspace::routing_step::Explanation;
use crate::keyspace::{KeyError, Keyspace, ShardKey, Slot};
use crate::placement::Placement;
use crate::slot_set::SlotSet;
use crate::table::Table;
use crate::topology::ShardNumber;
use crate::value::Value;

/// Table of keys and values: its rows are found by their key alone.
const KEY_VALUES: &str = "kv";
/// First letters of the names of internal tables.
const INTERNAL: &str = "tessera_";

/// Returns the column that says which partition a row of a table is in; `None` if the shard key
/// alone decides where the row is.
#[inline]
pub fn partition_column(map: &ShardMap, table: &Table) -> Option<usize> {
    find_column(map.keyspace().column()?, table)
}

/// Returns the value of the partition column among some values, as text.
pub fn partition_of<'v>(
    map: &ShardMap,
    table: &Table,
    values: &'v [(usize, Value)],
) -> Option<Cow<'v, str>> {
    let partition = partition_column(map, table)?;
    let (_, value) = values.iter().find(|(column, _)| *column == partition)?;
    value.key_text()
}

/// Returns the slot of a row of a table.
///
/// # Errors
/// [`KeyError`] if the keyspace has no slot for the row.
#[inline]
pub(super) fn slot_of_row(
    map: &ShardMap,
    table: &Table,
    key: ShardKey<'_>,
    partition: Option<&str>,
) -> Result<Slot, KeyError> {
    match partition_column(map, table) {
        None => map.keyspace().slot_of_key(key),
        Some(column) => {
            let given = named(table, column, key, partition)?;
            map.keyspace().slot_in(given, key)
        }
    }
}

/// Returns the slot of a row of a table and the steps that lead to it, for people. Without a
/// table the row has a partition if one is given.
///
/// # Errors
/// [`KeyError`] if the keyspace has no slot for the row.
pub fn explain<'k>(
    map: &ShardMap,
    table: Option<&Table>,
    key: ShardKey<'k>,
    partition: Option<&str>,
) -> Result<Explanation<'k>, KeyError> {
    let keyspace = map.keyspace();
    let Some(table) = table else {
        return match keyspace.column() {
            Some(_) => keyspace.explain_in(partition, key),
            None => keyspace.explain(key),
        };
    };
    match partition_column(map, table) {
        None => keyspace.explain_key(key),
        Some(column) => keyspace.explain_in(named(table, column, key, partition)?, key),
    }
}

/// Returns the location of a slot in this map.
#[inline]
pub fn location(map: &ShardMap, slot: Slot) -> KeyLocation {
    let (shard, since) = (map.owner(slot), map.since(slot));
    KeyLocation { slot, shard, epoch: map.epoch(), since }
}

/// Returns the slots of all rows of these partitions. A name that is none has no rows.
pub fn partition_slots<'p>(
    map: &ShardMap,
    partitions: impl IntoIterator<Item = &'p str>,
) -> SlotSet {
    let slots = partitions.into_iter().filter_map(|name| map.keyspace().slots_in(name).ok());
    slots.flatten().filter_map(Slot::new).collect()
}

/// Explains why keyspace and placement contradict each other, naming both settings; `None` if
/// they fit.
///
/// The placement `partitions` assigns the partitions of the keyspace `list` to shards. With
/// other partitions, or in a keyspace without any, its names have no meaning.
pub fn contradiction(map: &ShardMap) -> Option<String> {
    let Placement::Partitions(partitions) = map.placement() else { return None };
    match map.keyspace() {
        Keyspace::List(list) if partitions.are_blocks_of(list) => None,
        Keyspace::List(list) => Some(format!(
            "keyspace {list} and placement {partitions} have other partitions: give both the same names and \
             weights, in the same order"
        )),
        Keyspace::Hash | Keyspace::Modulo | Keyspace::Range(_) | Keyspace::Matrix(_) => {
            Some(format!(
                "placement {partitions} says where the partitions of keyspace list lie, and keyspace {} has none: \
                 use keyspace list with the same names and weights, or another placement",
                map.keyspace().name()
            ))
        }
    }
}

/// Explains why the owners of the slots put one partition of a keyspace by a column on several
/// shards; `None` if they do not. A new cluster keeps each partition on one shard; later moves
/// may divide one.
pub fn divided_partition(map: &ShardMap) -> Option<String> {
    // A range has a single slot.
    let Keyspace::List(list) = map.keyspace() else { return None };
    list.column()?;
    let mut partitions = list.partitions().iter();
    let (name, owners) = partitions.find_map(|partition| {
        let slots = (partition.first.number()..=partition.last.number()).filter_map(Slot::new);
        let mut owners: Vec<ShardNumber> = slots.map(|slot| map.owner(slot)).collect();
        owners.sort_unstable();
        owners.dedup();
        (owners.len() > 1).then_some((&partition.name, owners))
    })?;
    let shown = owners.iter().map(|owner| map.topology().name(*owner)).collect::<Vec<_>>();
    Some(format!(
        "placement {} puts the partition {name} of keyspace {list} on {}: a partition lies on one shard; name \
         it with placement {}",
        map.placement(),
        shown.join(" and "),
        example(list, map.topology().name(ShardNumber(0)))
    ))
}

/// Returns the column of a table that names the partitions of its rows.
fn find_column(name: &str, table: &Table) -> Option<usize> {
    if table.name() == KEY_VALUES || table.name().starts_with(INTERNAL) {
        return None;
    }
    table.own().find(|index| {
        let column = table.column(*index);
        column.name == name && column.kind.is_comparable()
    })
}

/// Returns the partition of a row: the given one, or that of its key if the routing column names
/// partitions.
fn named<'n>(
    table: &Table,
    column: usize,
    key: ShardKey<'n>,
    partition: Option<&'n str>,
) -> Result<Option<&'n str>, KeyError> {
    if table.routing() == Some(column) {
        return Ok(Some(key.as_str()));
    }
    if partition.is_none() && !table.visible().has(column) {
        return Err(PartitionError::Hidden.into());
    }
    Ok(partition)
}

/// Returns a placement with the first partitions of a list.
fn example(list: &ListSpace, shard: &str) -> String {
    const SHOWN_MAX: usize = 3;
    let partitions = list.partitions();
    let shown = partitions.iter().take(SHOWN_MAX);
    let mut parts: Vec<String> =
        shown.map(|part| format!("{}={}>{shard}", part.name, part.weight)).collect();
    if partitions.len() > SHOWN_MAX {
        parts.push("…".to_owned());
    }
    format!("partitions:{}", parts.join(","))
}
