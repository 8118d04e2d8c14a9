//! Tests of the statements into which plain upserts are grouped.

use std::sync::Arc;

use model::keyspace::Slot;
use model::row_change::Operation;
use model::table::Column;

use super::*;

fn table() -> Arc<Table> {
    let column = |name, nullable| Column::new(name, ColumnType::Text, nullable);
    let columns = vec![column("id", false), column("first", true), column("second", true)];
    Arc::new(Table::new("things", columns, &["id".to_owned()], None).expect("a sound table"))
}

/// Returns an upsert of the row `ada` of a slot that sets this column.
fn change(table: &Arc<Table>, slot: u16, column: usize) -> RowWrite {
    let text = || Value::Text("ada".to_owned());
    RowWrite {
        table: Arc::clone(table),
        operation: Operation::Upsert,
        slot: Slot::new(slot).expect("a slot"),
        key: "ada".to_owned(),
        id: vec![text()],
        set: vec![(column, text())],
        precondition: None,
        idempotency_key: None,
        wants_row: false,
    }
}

fn slots(rows: &[(usize, &RowWrite)]) -> Vec<u16> {
    rows.iter().map(|(_, row)| row.slot.number()).collect()
}

#[test]
fn rows_of_one_key_and_id_in_two_slots_are_stored_by_one_statement() {
    let table = table();
    let changes = [change(&table, 2, 3), change(&table, 1, 3)];
    let writes = [WriteGroup { rows: &changes, atomic_rows: None }];
    let groups = groups(&writes, None).expect("plain upserts");
    let found: Vec<Vec<u16>> = groups.iter().map(|group| slots(&group.rows)).collect();
    assert_eq!(found, [[1, 2]]);
}

#[test]
fn rows_of_one_key_and_id_in_two_slots_are_both_locked_before_the_first_of_two_statements() {
    let table = table();
    let changes = [change(&table, 2, 3), change(&table, 1, 4)];
    let writes = [WriteGroup { rows: &changes, atomic_rows: None }];
    let groups = groups(&writes, None).expect("plain upserts");
    let found: Vec<Vec<u16>> = groups.iter().map(|group| slots(&group.rows)).collect();
    assert_eq!(found, [[2], [1]]);
    assert_eq!(slots(&groups[0].locked), [1, 2]);
}

#[test]
fn each_repetition_of_a_row_is_stored_by_a_later_statement_in_the_order_of_the_batch() {
    let table = table();
    let changes = [2, 1, 2, 2, 3, 1].map(|slot| change(&table, slot, 3));
    let writes = [WriteGroup { rows: &changes, atomic_rows: None }];
    let groups = groups(&writes, None).expect("plain upserts");
    let found: Vec<Vec<usize>> =
        groups.iter().map(|group| group.rows.iter().map(|(place, _)| *place).collect()).collect();
    assert_eq!(found, [vec![1, 0, 4], vec![5, 2], vec![3]]);
    assert!(groups.iter().all(|group| group.locked.is_empty()), "the first locks every row");
}
