//! Partitions: finds the slot of a row whose table is partitioned by a column.
//!
//! The keyspace of a table is that of its table group, so all tables of a group have the same
//! partitions.
//!
//! **Invariant:** a table is partitioned if it has a column of its own with the name of the
//! keyspace's partition column, the type of that column can be compared, and the table is neither
//! `kv` nor an internal table. In such a keyspace, the keys of all other tables of the group are
//! hashed over all slots of the group.
//! **Not here:** the function from key and partition to slot (`keyspace::partition_column`).

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{KeyLocation, ShardMap};
use crate::keyspace::list::ListSpace;
use crate::keyspace::partition_column::PartitionError;
use crate::keyspace::routing_step::{Explanation, RoutingStep};
use crate::keyspace::{KeyError, Keyspace, ShardKey, Slot};
use crate::slot_set::SlotSet;
use crate::table::Table;
use crate::table_group::{GroupNumber, TableGroup};
use crate::value::Value;

/// Name of the table of keys and values, whose rows are identified by their key alone.
const KEY_VALUES: &str = "kv";
/// Prefix of the names of tables that the system itself uses.
const INTERNAL: &str = "tessera_";

/// Returns the keyspace of a table, which is that of its group; `None` if the map does not contain
/// the group yet.
#[inline]
pub fn keyspace_of<'m>(map: &'m ShardMap, table: &Table) -> Option<&'m Keyspace> {
    map.groups().get(table.group()).map(|group| &group.keyspace)
}

/// Returns the names of the partition columns of all groups.
pub fn columns(map: &ShardMap) -> BTreeSet<&str> {
    map.groups().iter().filter_map(|(_, group)| group.keyspace.column()).collect()
}

/// Returns the column that names the partition of a row of a table; `None` if the shard key alone
/// determines the location of the row.
#[inline]
pub fn partition_column(map: &ShardMap, table: &Table) -> Option<usize> {
    column_in(keyspace_of(map, table)?, table)
}

/// Returns the value of the table's partition column as text; `None` if the table is not
/// partitioned, or `values` does not contain it.
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
    let keyspace = keyspace_of(map, table).ok_or(KeyError::UnknownGroup)?;
    let slot = match column_in(keyspace, table) {
        None => keyspace.slot_of_key(key),
        Some(column) => keyspace.slot_in(named(table, column, key, partition), key),
    };
    Ok(table.group().slot(slot.map_err(|error| hide_partition(map, table, error))?))
}

/// Returns the error of a row without a slot in a form that the client may see: if the partition
/// column is hidden in this view of the table, it names neither the column nor the partitions.
pub fn hide_partition(map: &ShardMap, table: &Table, error: KeyError) -> KeyError {
    let column = partition_column(map, table);
    let is_hidden = column.is_some_and(|column| !table.visible().has(column));
    if is_hidden && matches!(error, KeyError::Partition(_)) {
        return PartitionError::Hidden.into();
    }
    error
}

/// Returns the slot of a row of a table, with an explanation of the steps. If `table` is `None`,
/// the row is assumed to be in a table of the group `main` that has the partition column of the
/// keyspace, if there is one.
///
/// # Errors
/// [`KeyError`] if the keyspace has no slot for the row.
pub fn explain<'k>(
    map: &ShardMap,
    table: Option<&Table>,
    key: ShardKey<'k>,
    partition: Option<&str>,
) -> Result<Explanation<'k>, KeyError> {
    let Some(table) = table else {
        let keyspace = map.keyspace();
        return match keyspace.column() {
            Some(_) => keyspace.explain_in(partition, key),
            None => keyspace.explain(key),
        };
    };
    let keyspace = keyspace_of(map, table).ok_or(KeyError::UnknownGroup)?;
    let explained = match column_in(keyspace, table) {
        None => keyspace.explain_key(key),
        Some(column) => keyspace.explain_in(named(table, column, key, partition), key),
    };
    let Explanation { slot, mut steps } =
        explained.map_err(|error| hide_partition(map, table, error))?;
    let group = table.group();
    for step in &mut steps {
        if let RoutingStep::Partition { first, last, .. } = step {
            (*first, *last) = (group.slot(*first), group.slot(*last));
        }
    }
    Ok(Explanation { slot: group.slot(slot), steps })
}

/// Returns the location that this map gives a slot.
#[inline]
pub fn location(map: &ShardMap, slot: Slot) -> KeyLocation {
    let (shard, since) = map.owners.get(slot.index());
    KeyLocation { slot, shard, epoch: map.epoch(), since }
}

/// Returns all slots in which rows of a table with these partitions may be stored. A partition that
/// does not exist adds no slots.
pub fn partition_slots<'p>(
    map: &ShardMap,
    table: &Table,
    partitions: impl IntoIterator<Item = &'p str>,
) -> SlotSet {
    let (keyspace, group) = (keyspace_of(map, table), table.group());
    let slots = partitions.into_iter().filter_map(|name| keyspace?.slots_in(name).ok());
    slots.flatten().filter_map(Slot::new).map(|slot| group.slot(slot)).collect()
}

/// Returns the slot that a row with this key would have in each partition of a table; `None` if
/// there are more than `most` of them.
pub fn slots_of_key(
    map: &ShardMap,
    table: &Table,
    key: ShardKey<'_>,
    most: usize,
) -> Option<Vec<Slot>> {
    let slots = keyspace_of(map, table)?.slots_of_key(key, most)?;
    Some(slots.into_iter().map(|slot| table.group().slot(slot)).collect())
}

/// Returns true if a row with this key may be stored in a slot, in any table of the slot's group
/// and in any partition.
pub fn may_hold(map: &ShardMap, slot: Slot, key: ShardKey<'_>) -> bool {
    let number = GroupNumber::of(slot);
    let (Some(group), Some(slot)) = (map.groups().get(number), number.within(slot)) else {
        return false;
    };
    let keyspace = &group.keyspace;
    let in_a_partition = || {
        let slots = keyspace.column().and_then(|_| keyspace.slots_of_key(key, usize::MAX));
        slots.is_some_and(|slots| slots.contains(&slot))
    };
    keyspace.slot_of_key(key) == Ok(slot) || in_a_partition()
}

/// Explains, in a keyspace by a column, why a partition of a group is divided among several shards;
/// `None` if each partition is on one shard. A new group must keep each partition on one shard;
/// later moves may divide a partition.
pub fn divided_partition(map: &ShardMap, group: GroupNumber) -> Option<String> {
    let TableGroup { keyspace, placement, .. } = map.groups().get(group)?;
    // A range has a single slot.
    let Keyspace::List(list) = keyspace else { return None };
    list.column()?;
    let all = map.groups().owners(group);
    let mut partitions = list.partitions().iter();
    let (name, owners) = partitions.find_map(|partition| {
        let mut owners = all.get(partition.first.index()..=partition.last.index())?.to_vec();
        owners.sort_unstable();
        owners.dedup();
        (owners.len() > 1).then_some((&partition.name, owners))
    })?;
    let shown = owners.iter().map(|owner| map.topology().name(*owner)).collect::<Vec<_>>();
    Some(format!(
        "placement {placement} puts the partition {name} of keyspace {list} on {}: a partition lies on one shard; \
         name it with placement {}",
        shown.join(" and "),
        example(list, map.topology().name(*all.iter().min()?))
    ))
}

/// Returns the column that names the partition of a row of this table. `keyspace` must be that of
/// the table's group.
#[inline]
fn column_in(keyspace: &Keyspace, table: &Table) -> Option<usize> {
    find_column(keyspace.column()?, table)
}

/// Returns the column with this name, if it can be the partition column of the table.
fn find_column(name: &str, table: &Table) -> Option<usize> {
    if table.name() == KEY_VALUES || table.name().starts_with(INTERNAL) {
        return None;
    }
    table.own().find(|index| {
        let column = table.column(*index);
        column.name == name && column.kind.is_comparable()
    })
}

/// Returns the partition of a row: its shard key if the routing column is also the partition
/// column, and `partition` otherwise.
fn named<'n>(
    table: &Table,
    column: usize,
    key: ShardKey<'n>,
    partition: Option<&'n str>,
) -> Option<&'n str> {
    if table.routing() == Some(column) { Some(key.as_str()) } else { partition }
}

/// Returns an example of a placement `partitions` for an error message, with the first partitions
/// of a list, all on one shard.
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
