//! Rows: the rows that a batch may touch, each as it was and as it is after the changes so far.
//!
//! **Invariant:** all routers sort the rows in the same order, so that locking the rows cannot
//! cause a deadlock.
//! **Not here:** the results of changes (`batch_results`), the statements (`batch_statements`).

use std::collections::HashMap;
use std::sync::Arc;

use engine::WriteGroup;
use model::idempotency;
use model::keyspace::Slot;
use model::table::Table;
use model::value::{ColumnType, Value};

use crate::binary_value;
use crate::citus::Parts;

/// One row that a batch may touch.
pub(crate) struct Row {
    pub(crate) table: Arc<Table>,
    pub(crate) slot: Slot,
    pub(crate) key: String,
    pub(crate) id: Vec<Value>,
    /// Row when the batch began.
    pub(crate) before: Option<Vec<Value>>,
    /// Row after the changes so far.
    pub(crate) after: Option<Vec<Value>>,
    touched: bool,
    /// Number of changes of the batch that have written the row.
    pub(super) changes: u32,
}

/// Statement that stores a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Insert,
    Update,
    Remove,
}

impl Row {
    /// Returns the statement that stores the row; `None` if there is nothing to store.
    pub(crate) fn store(&self) -> Option<Store> {
        if !self.touched {
            return None;
        }
        match (&self.before, &self.after) {
            (None, None) => None,
            (None, Some(_)) => Some(Store::Insert),
            (Some(_), Some(_)) => Some(Store::Update),
            (Some(_), None) => Some(Store::Remove),
        }
    }
}

/// The rows that a batch may touch.
pub(crate) struct LockedRows {
    rows: Vec<Row>,
    /// Index of each row by its identity.
    places: HashMap<Vec<u8>, usize>,
}

/// Row before a change: its index, its image, and whether an earlier change had written it.
pub(super) type RowBefore = (usize, Option<Vec<Value>>, bool);

impl LockedRows {
    /// Returns the rows that these changes may touch and the records of their idempotency keys,
    /// sorted.
    pub(super) fn of(groups: &[WriteGroup<'_>], parts: Option<&Parts>) -> Self {
        let mut rows = Self { rows: Vec::new(), places: HashMap::new() };
        for change in groups.iter().flat_map(|group| group.rows) {
            rows.add(&change.table, change.slot, &change.key, &change.id);
            if let Some(key) = idempotency::key(change) {
                let id = [Value::Text(key.to_owned())];
                rows.add(&idempotency::TABLE, change.slot, &change.key, &id);
            }
        }
        rows.sort(parts);
        rows
    }

    fn add(&mut self, table: &Arc<Table>, slot: Slot, key: &str, id: &[Value]) {
        let next = self.rows.len();
        if *self.places.entry(place(table, slot, key, id)).or_insert(next) == next {
            let (table, key, id) = (Arc::clone(table), key.to_owned(), id.to_vec());
            let (before, after, touched, changes) = (None, None, false, 0);
            self.rows.push(Row { table, slot, key, id, before, after, touched, changes });
        }
    }

    /// Sorts the rows by table and, within a table, by slot and identity. On Citus, the rows of a
    /// table are sorted by Citus shard first.
    fn sort(&mut self, parts: Option<&Parts>) {
        let sorted = |row: &Row| {
            let part = parts.map_or(0, |parts| parts.of(&row.key));
            let place = place(&row.table, row.slot, &row.key, &row.id);
            (row.table.name().to_owned(), part, row.slot.number(), place)
        };
        self.rows.sort_by_cached_key(sorted);
        let numbered = self.rows.iter().enumerate();
        let placed = |row: &Row| place(&row.table, row.slot, &row.key, &row.id);
        self.places = numbered.map(|(at, row)| (placed(row), at)).collect();
    }

    /// Returns all rows, in order.
    pub(super) fn all(&self) -> &[Row] {
        &self.rows
    }

    /// Returns the index of a row; `None` if the batch does not touch it.
    pub(super) fn find(
        &self,
        table: &Table,
        (slot, key): (Slot, &str),
        id: &[Value],
    ) -> Option<usize> {
        self.places.get(&place(table, slot, key, id)).copied()
    }

    /// Returns a row whose stored values are to be completed.
    pub(super) fn row_mut(&mut self, at: usize) -> &mut Row {
        &mut self.rows[at]
    }

    /// Records an existing row.
    pub(super) fn found(&mut self, at: usize, image: Vec<Value>) {
        self.rows[at].before = Some(image.clone());
        self.rows[at].after = Some(image);
    }

    /// Changes a row, and returns the data with which the change can be undone.
    pub(super) fn set(&mut self, at: usize, after: Option<Vec<Value>>) -> RowBefore {
        let row = &mut self.rows[at];
        let before = std::mem::replace(&mut row.after, after);
        let undo = (at, before, row.touched);
        row.touched = true;
        row.changes += 1;
        undo
    }

    /// Undoes a change of a row.
    pub(super) fn restore(&mut self, at: usize, after: Option<Vec<Value>>, touched: bool) {
        (self.rows[at].after, self.rows[at].touched) = (after, touched);
    }
}

/// Returns the identity of a row in a batch. The slot is part of the identity, because rows of two
/// slots may have the same key and id.
fn place(table: &Table, slot: Slot, key: &str, id: &[Value]) -> Vec<u8> {
    let mut place = Vec::with_capacity(table.name().len() + key.len() + 16 * id.len() + 4);
    place.extend_from_slice(table.name().as_bytes());
    place.push(0);
    place.extend_from_slice(&slot.number().to_be_bytes());
    place.extend_from_slice(key.as_bytes());
    for (column, value) in table.id().iter().zip(id) {
        place.push(0);
        let kind = match table.column(*column).kind {
            // UUIDs stay text, which compares and sorts in the same way and need not be parsed.
            ColumnType::Uuid => ColumnType::Text,
            kind @ (ColumnType::Text
            | ColumnType::Timestamp
            | ColumnType::Bigint
            | ColumnType::Double
            | ColumnType::Boolean
            | ColumnType::Json) => kind,
        };
        binary_value::encode(&mut place, kind, value);
    }
    place
}

#[cfg(test)]
mod tests {
    use model::row_change::{Operation, RowWrite};

    use super::*;

    /// Returns an update of the row `ada` of a slot, with an idempotency key.
    fn change(slot: u16) -> RowWrite {
        let table = &*idempotency::TABLE;
        RowWrite {
            table: Arc::clone(table),
            operation: Operation::Update,
            slot: Slot::new(slot).expect("a slot"),
            key: "ada".to_owned(),
            id: vec![Value::Text("ada".to_owned())],
            set: Vec::new(),
            precondition: None,
            idempotency_key: Some("once".to_owned()),
            wants_row: false,
        }
    }

    #[test]
    fn rows_of_one_key_and_id_in_two_slots_are_two_rows_in_the_order_of_their_slots() {
        let changes = [change(258), change(2), change(258)];
        let groups = [WriteGroup { rows: &changes, atomic_rows: None }];
        let rows = LockedRows::of(&groups, None);
        let slots: Vec<u16> = rows.all().iter().map(|row| row.slot.number()).collect();
        assert_eq!(slots, [2, 2, 258, 258], "each row, and the record of its idempotency key");
        for (at, row) in rows.all().iter().enumerate() {
            assert_eq!(rows.find(&row.table, (row.slot, &row.key), &row.id), Some(at));
        }
    }
}
