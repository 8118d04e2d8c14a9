//! Groups: a batch of plain upserts, divided into statements.
//!
//! A statement stores rows of one table that set the same columns, and each row at most once. Most
//! batches have one table and one set of columns: their rows are sorted once, and an upsert that
//! repeats a row is then next to the earlier one.
//!
//! **Invariant:** of two upserts of one row, the later one is in a later group. The rows of a group
//! are in the order in which all routers lock rows.
//! **Not here:** the statements themselves (`upsert_transaction`, on Citus `citus_statements`).

use std::collections::HashMap;
use std::sync::Arc;

use engine::{WriteGroup, row_image};
use model::row_change::{Operation, RowWrite};
use model::table::Table;

use super::super::binary_value;
use super::super::citus::Parts;
use super::super::sql;

/// Maximum number of statements of one transaction. Batches with more use `batch_transaction`.
const GROUPS_MAX: usize = 16;

/// Upsert with its index in the batch.
pub(super) type Placed<'u> = (usize, &'u RowWrite);

/// Changes of one table that set the same columns, at most one for each row.
pub(super) struct Group<'u> {
    pub(super) table: &'u Arc<Table>,
    /// Rows with their indexes in the batch.
    pub(super) rows: Vec<Placed<'u>>,
    /// True if a client wants to see one of the rows.
    pub(super) shown: bool,
    /// Rows to lock first: all rows of the table in the batch, if it has several statements.
    pub(super) locked: Vec<Placed<'u>>,
}

impl<'u> Group<'u> {
    fn of(table: &'u Arc<Table>) -> Self {
        Self { table, rows: Vec::new(), shown: false, locked: Vec::new() }
    }

    fn add(&mut self, (place, change): Placed<'u>) {
        self.shown |= change.wants_row;
        self.rows.push((place, change));
    }
}

/// Identities of the rows of a batch, in the order of the batch.
struct RowKeys {
    bytes: Vec<u8>,
    /// End of each identity in `bytes`.
    ends: Vec<usize>,
}

impl RowKeys {
    fn of<'u>(changes: impl Iterator<Item = &'u RowWrite>) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for change in changes {
            push_row_key(&mut bytes, change);
            ends.push(bytes.len());
        }
        Self { bytes, ends }
    }

    fn get(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[place]]
    }
}

/// Groups these writes into statements; `None` if they must be applied by `batch_transaction`.
pub(super) fn groups<'u>(
    writes: &[WriteGroup<'u>],
    parts: Option<&Parts>,
) -> Option<Vec<Group<'u>>> {
    let changes = || writes.iter().flat_map(|write| write.rows);
    let Some(first) = changes().next() else { return Some(Vec::new()) };
    if !changes().all(is_unconditional) {
        return None;
    }
    let keys = RowKeys::of(changes());
    let has_room = parts.is_some() || keys.ends.len() <= sql::VERSIONS_OF_BLOCK;
    if has_room && changes().all(|change| is_alike(first, change)) {
        return if is_complete(first) { by_repetition(changes(), &keys, parts) } else { None };
    }
    if changes().all(is_complete) { by_shape(changes(), &keys, parts) } else { None }
}

/// Returns true for an upsert that may be stored without reading the row first, if it also
/// [`is_complete`].
fn is_unconditional(change: &RowWrite) -> bool {
    change.operation == Operation::Upsert
        && change.precondition.is_none()
        && change.idempotency_key.is_none()
        && row_image::needs_no_size_check(change)
}

/// Returns true if a new row would have exactly the values of the change. This depends only on the
/// table and on the columns that the change sets.
fn is_complete(change: &RowWrite) -> bool {
    change.missing().is_none() && !change.needs_defaults()
}

/// Returns true for changes of one table that set the same columns.
fn is_alike(a: &RowWrite, b: &RowWrite) -> bool {
    Arc::ptr_eq(&a.table, &b.table)
        && a.set.len() == b.set.len()
        && a.set.iter().zip(&b.set).all(|(a, b)| a.0 == b.0)
}

/// Groups changes that are all alike: the first change of each row is in the first group, the
/// second in the second.
fn by_repetition<'u>(
    changes: impl Iterator<Item = &'u RowWrite>,
    keys: &RowKeys,
    parts: Option<&Parts>,
) -> Option<Vec<Group<'u>>> {
    let mut rows: Vec<Placed<'u>> = changes.enumerate().collect();
    sort(&mut rows, keys, parts);
    let mut groups: Vec<Group<'u>> = Vec::with_capacity(1);
    let (mut repetitions, mut before) = (0, None);
    for (place, change) in rows {
        let key = keys.get(place);
        repetitions = if before == Some(key) { repetitions + 1 } else { 0 };
        before = Some(key);
        if repetitions == GROUPS_MAX {
            return None;
        }
        if repetitions == groups.len() {
            groups.push(Group::of(&change.table));
        }
        groups[repetitions].add((place, change));
    }
    lock_first(&mut groups, keys, parts);
    Some(groups)
}

/// Groups changes of several tables or of several sets of columns.
fn by_shape<'u>(
    changes: impl Iterator<Item = &'u RowWrite>,
    keys: &RowKeys,
    parts: Option<&Parts>,
) -> Option<Vec<Group<'u>>> {
    let mut groups: Vec<Group<'u>> = Vec::new();
    // Index of the last group that contains each row.
    let mut last: HashMap<(&str, &[u8]), usize> = HashMap::new();
    for (place, change) in changes.enumerate() {
        let row = (change.table.name(), keys.get(place));
        let after = last.get(&row).map_or(0, |group| group + 1);
        // On Citus, a group becomes several statements, and versions are drawn between them.
        let has_room =
            |group: &Group<'_>| parts.is_some() || group.rows.len() < sql::VERSIONS_OF_BLOCK;
        let fits = |group: &Group<'_>| has_room(group) && is_alike(group.rows[0].1, change);
        let found = groups.iter().skip(after).position(fits).map(|found| found + after);
        let at = match found {
            Some(at) => at,
            None if groups.len() == GROUPS_MAX => return None,
            None => {
                groups.push(Group::of(&change.table));
                groups.len() - 1
            }
        };
        groups[at].add((place, change));
        last.insert(row, at);
    }
    groups.iter_mut().for_each(|group| sort(&mut group.rows, keys, parts));
    groups.sort_by(|a, b| a.table.name().cmp(b.table.name()));
    groups
        .chunk_by_mut(|a, b| Arc::ptr_eq(a.table, b.table))
        .for_each(|of_table| lock_first(of_table, keys, parts));
    Some(groups)
}

/// Sorts rows of a table by slot and identity, on Citus by Citus shard first. All routers lock rows
/// in this order, as `batch_transaction` does, so that there are no deadlocks. Changes of one row
/// stay in the order of the batch.
fn sort(rows: &mut [Placed<'_>], keys: &RowKeys, parts: Option<&Parts>) {
    // The slot is the beginning of the identity.
    match parts {
        None => {
            rows.sort_unstable_by(|(a, _), (b, _)| keys.get(*a).cmp(keys.get(*b)).then(a.cmp(b)))
        }
        Some(parts) => {
            rows.sort_by_cached_key(|(place, row)| (parts.of(&row.key), keys.get(*place), *place));
        }
    }
}

/// If a table has several statements, locks all of its rows before the first, because each
/// statement by itself starts at the beginning of the lock order. Rows that do not exist yet cannot
/// be locked: routers that create the same rows with different columns may still conflict, and
/// retry.
fn lock_first(of_table: &mut [Group<'_>], keys: &RowKeys, parts: Option<&Parts>) {
    if of_table.len() < 2 {
        return;
    }
    let mut all: Vec<_> = of_table.iter().flat_map(|group| &group.rows).copied().collect();
    sort(&mut all, keys, parts);
    all.dedup_by(|a, b| keys.get(a.0) == keys.get(b.0));
    if all.len() > of_table[0].rows.len() {
        of_table[0].locked = all;
    }
}

/// Returns the identity of a row in its table.
pub(super) fn row_key(change: &RowWrite) -> Vec<u8> {
    let mut key = Vec::with_capacity(change.key.len() + 28);
    push_row_key(&mut key, change);
    key
}

/// Appends the identity of a row in its table. The slot is part of the identity, because rows of
/// two slots may have the same key and id.
fn push_row_key(key: &mut Vec<u8>, change: &RowWrite) {
    key.extend_from_slice(&slot_bytes(change));
    key.extend_from_slice(change.key.as_bytes());
    for (column, value) in change.table.id().iter().zip(&change.id) {
        key.push(0);
        binary_value::encode(key, change.table.column(*column).kind, value);
    }
}

/// Returns the slot of a row in PostgreSQL's binary format of an integer.
pub(super) fn slot_bytes(change: &RowWrite) -> [u8; 4] {
    i32::from(change.slot.number()).to_be_bytes()
}
