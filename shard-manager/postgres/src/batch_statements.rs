//! Batch statements: the statements that lock and store the rows of a batch, table by table.
//!
//! **Invariant:** rows are locked and stored in the order of the batch, which all routers share.
//! **Not here:** running them (`batch_transaction`, `triggered_tables`), the results of changes
//! (`batch_results`).

use std::borrow::Cow;
use std::sync::Arc;

use model::idempotency;
use model::table::Table;
use model::value::Value;

use super::batch_results::{Batch, Row, Store};
use super::binary_value;
use super::citus::Citus;
use super::citus_statements;
use super::statement::{Bind, Locking, RowView, Work};
use super::statement_cache::{StatementCache, TableStatements};

/// Adjacent rows of one table in a batch.
pub(super) struct Group {
    pub(super) statements: Arc<TableStatements>,
    /// Indexes of the rows in the batch.
    pub(super) rows: Vec<usize>,
}

impl Group {
    /// Returns true if the rows are the records of idempotency keys.
    pub(super) fn is_idempotency_records(&self) -> bool {
        self.statements.table.name() == idempotency::TABLE.name()
    }
}

/// Groups the rows of a batch by their tables.
pub(super) fn groups(batch: &Batch, statements: &mut StatementCache) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (at, row) in batch.rows().iter().enumerate() {
        match groups.last_mut().filter(|group| Arc::ptr_eq(&group.statements.table, &row.table)) {
            Some(group) => group.rows.push(at),
            None => groups.push(Group { statements: statements.of(&row.table), rows: vec![at] }),
        }
    }
    groups
}

/// Returns the statements that lock the rows of a group.
pub(super) fn locking<'g>(
    is_citus: bool,
    batch: &Batch,
    (group, rows): (&'g Group, &[usize]),
) -> Vec<(&'g Group, Locking<'g>)> {
    let table = &group.statements.table;
    let statements = if is_citus {
        citus_statements::locking(table, batch.rows(), rows)
    } else {
        let sql = Cow::Borrowed(&*group.statements.lock_rows);
        let binds = places(table, batch.rows(), rows);
        vec![Locking { sql, binds, rows: rows.to_vec() }]
    };
    statements.into_iter().map(|locking| (group, locking)).collect()
}

/// Returns the columns of a row that responses contain, which begin at column `first`.
pub(super) fn image(table: &Table, row: &RowView, first: usize) -> Vec<Value> {
    let columns = table.answered().zip(first..);
    let value = |(column, at): (usize, usize)| {
        let kind = table.column(column).kind;
        row.cell(at, |bytes| binary_value::decode(kind, bytes)).unwrap_or(Value::Null)
    };
    columns.map(value).collect()
}

/// Returns the statements that store the rows of a group.
pub(super) fn group_work<'g>(
    citus: Option<&Citus>,
    batch: &Batch,
    group: &'g Group,
) -> Vec<Work<'g>> {
    let ways = [Store::Insert, Store::Update, Store::Remove].into_iter();
    let work = ways.flat_map(|way| {
        let rows = group.rows.iter().copied();
        let rows = rows.filter(|at| batch.rows()[*at].store() == Some(way));
        storing(citus, batch, (group, &rows.collect::<Vec<_>>()), way)
    });
    work.collect()
}

/// Returns the statements that store these rows of a group in one way.
fn storing<'g>(
    citus: Option<&Citus>,
    batch: &Batch,
    (group, rows): (&'g Group, &[usize]),
    way: Store,
) -> Vec<Work<'g>> {
    let statements = &*group.statements;
    if rows.is_empty() {
        return Vec::new();
    }
    if let Some(citus) = citus {
        return citus_statements::storing(
            &citus.parts(),
            &statements.table,
            (batch.rows(), rows),
            way,
        );
    }
    let (sql, binds) = match way {
        Store::Insert => (&statements.insert, images(&statements.table, batch.rows(), rows)),
        Store::Update => (&statements.update, images(&statements.table, batch.rows(), rows)),
        Store::Remove => (&statements.remove, places(&statements.table, batch.rows(), rows)),
    };
    vec![(Cow::Borrowed(sql), binds)]
}

/// Returns the values of slots, shard keys and ids.
fn places(table: &Table, rows: &[Row], of: &[usize]) -> Vec<Bind> {
    let rows = || of.iter().map(|at| &rows[*at]);
    let mut binds = vec![
        Bind::integers(rows().map(|row| i32::from(row.slot.number()))),
        Bind::texts(rows().map(|row| row.key.as_str())),
    ];
    let ids = table.id().iter().enumerate();
    binds.extend(ids.map(|(index, column)| {
        Bind::values(table.column(*column).kind, rows().map(|row| &row.id[index]))
    }));
    binds
}

/// Returns the values of all columns of existing rows.
fn images(table: &Table, rows: &[Row], of: &[usize]) -> Vec<Bind> {
    let rows = || of.iter().map(|at| &rows[*at]);
    let mut binds = vec![
        Bind::integers(rows().map(|row| i32::from(row.slot.number()))),
        Bind::texts(rows().map(|row| row.key.as_str())),
    ];
    for column in table.answered() {
        let at = column - table.answered().start;
        let values = rows().map(|row| row.after.as_ref().map_or(&NULL, |image| &image[at]));
        binds.push(Bind::values(table.column(column).kind, values));
    }
    binds
}

const NULL: Value = Value::Null;
