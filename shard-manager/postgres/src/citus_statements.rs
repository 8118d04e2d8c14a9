//! Citus statements: the statements of a batch on Citus, each for one of its shards alone.
//!
//! **Invariant:** statements are in the order of Citus' shards, and rows in the given order, so
//! that all routers with the same placement lock in one order.
//! **Not here:** the texts (`citus::sql`), running them (`batch_transaction`,
//! `upsert_transaction`).

use std::borrow::Cow;

use model::row_change::RowWrite;
use model::table::Table;
use model::value::Value;

use super::batch_results::{Row, Store};
use super::citus::{Parts, sql};
use super::sql::VERSIONS_OF_BLOCK;
use super::statement::{Bind, Locking, Work};

/// Maximum number of rows of one statement. Each number of rows is a text of its own, which stays
/// prepared, so large numbers are powers of two.
const ROWS_MAX: usize = 64;
/// Number of rows up to which each number has its text.
const ROWS_EXACT: usize = 8;
/// Maximum number of parameters of one statement, which PostgreSQL's protocol counts in 16 bits.
const PARAMETERS_MAX: usize = 32_000;

/// Returns the statements that lock rows, one for each row.
pub(super) fn locking(table: &Table, rows: &[Row], of: &[usize]) -> Vec<Locking<'static>> {
    let text = sql::lock_row(table);
    let lock = |at: &usize| Locking {
        sql: Cow::Owned(text.clone()),
        binds: place(table, &rows[*at]),
        rows: vec![*at],
    };
    of.iter().map(lock).collect()
}

/// Returns the statements that store rows of one table in one way.
pub(super) fn storing(
    parts: &Parts,
    table: &Table,
    (rows, of): (&[Row], &[usize]),
    store: Store,
) -> Vec<Work<'static>> {
    let all = |store: fn(&Table, usize) -> String| {
        let chunks = chunks(of, |at| parts.of(&rows[*at].key), table.columns().len());
        chunks
            .into_iter()
            .map(|chunk| {
                let binds = chunk.iter().flat_map(|at| image(table, &rows[*at])).collect();
                (Cow::Owned(store(table, chunk.len())), binds)
            })
            .collect()
    };
    match store {
        Store::Insert => all(sql::insert),
        Store::Update => all(sql::update),
        Store::Remove => {
            let text = sql::remove(table);
            of.iter().map(|at| (Cow::Owned(text.clone()), place(table, &rows[*at]))).collect()
        }
    }
}

/// Versions that a transaction has drawn and not given out yet.
pub(super) struct Versions {
    given: usize,
}

impl Versions {
    /// Returns the statement that lets a transaction write rows of these slots.
    pub(super) fn enter(slots: impl ExactSizeIterator<Item = i32>) -> (Self, Work<'static>) {
        (Self { given: 0 }, (Cow::Borrowed(sql::ENTER), vec![Bind::integers(slots)]))
    }

    /// Gives out this number of versions, from a new block if too few are left: the returned
    /// statement must then draw that block first.
    fn give(&mut self, count: usize) -> (usize, Option<Work<'static>>) {
        let is_empty = self.given + count > VERSIONS_OF_BLOCK;
        if is_empty {
            self.given = 0;
        }
        let first = self.given;
        self.given += count;
        (first, is_empty.then(|| (Cow::Borrowed(sql::DRAW), Vec::new())))
    }
}

/// Adds the statements that upsert rows of one table with the same columns, and returns the indexes
/// of those that return rows. Without `versions` the batch must have only one row.
pub(super) fn upsert(
    work: &mut Vec<Work<'_>>,
    parts: &Parts,
    (table, rows, shown): (&Table, &[(usize, &RowWrite)], bool),
    now: &Bind,
    mut versions: Option<&mut Versions>,
) -> Vec<usize> {
    let Some((_, first)) = rows.first() else { return Vec::new() };
    let set: Vec<usize> = first.set.iter().map(|(column, _)| *column).collect();
    let width = 2 + table.id().len() + set.len();
    let mut returning_steps = Vec::new();
    for chunk in chunks(rows, |(_, row)| parts.of(&row.key), width) {
        let mut binds = Vec::with_capacity(2 + chunk.len() * width);
        binds.push(now.clone());
        let text = match versions.as_mut() {
            Some(versions) => {
                let (given, drawing) = versions.give(chunk.len());
                work.extend(drawing);
                binds.push(Bind::bigint(given as i64));
                sql::upsert_many(table, &set, shown, chunk.len())
            }
            None => sql::upsert_one(table, &set, shown),
        };
        for (_, row) in chunk {
            binds.extend([Bind::integer(i32::from(row.slot.number())), Bind::text(&row.key)]);
            let ids = table.id().iter().zip(&row.id);
            let values = ids.chain(row.set.iter().map(|(column, value)| (column, value)));
            binds.extend(
                values.map(|(column, value)| Bind::value(table.column(*column).kind, value)),
            );
        }
        returning_steps.push(work.len());
        work.push((Cow::Owned(text), binds));
    }
    returning_steps
}

/// Splits rows by Citus' shards, and the rows of each shard into chunks of such lengths that few
/// texts of statements are needed.
fn chunks<T>(rows: &[T], part: impl Fn(&T) -> usize, columns: usize) -> Vec<&[T]> {
    let most = (PARAMETERS_MAX / columns.max(1)).clamp(1, ROWS_MAX);
    let mut chunks = Vec::new();
    for mut rest in rows.chunk_by(|a, b| part(a) == part(b)) {
        while !rest.is_empty() {
            let left = rest.len().min(most);
            let count = if left <= ROWS_EXACT { left } else { 1 << left.ilog2() };
            let (chunk, others) = rest.split_at(count);
            chunks.push(chunk);
            rest = others;
        }
    }
    chunks
}

/// Returns the values of slot, shard key and id.
fn place(table: &Table, row: &Row) -> Vec<Bind> {
    let mut binds = vec![Bind::integer(i32::from(row.slot.number())), Bind::text(&row.key)];
    let ids = table.id().iter().zip(&row.id);
    binds.extend(ids.map(|(column, value)| Bind::value(table.column(*column).kind, value)));
    binds
}

/// Returns the values of all columns of an existing row.
fn image(table: &Table, row: &Row) -> Vec<Bind> {
    let mut binds = vec![Bind::integer(i32::from(row.slot.number())), Bind::text(&row.key)];
    let image = row.after.as_deref().unwrap_or_default();
    binds.extend(table.answered().zip(0..).map(|(column, at)| {
        Bind::value(table.column(column).kind, image.get(at).unwrap_or(&Value::Null))
    }));
    binds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_rows_falls_into_few_texts() {
        for count in 0..300 {
            let keys = vec!["a"; count];
            let chunks = chunks(&keys, |key| Parts::default().of(key), 4);
            assert_eq!(chunks.iter().map(|chunk| chunk.len()).sum::<usize>(), count);
            assert!(
                chunks
                    .iter()
                    .all(|chunk| [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64].contains(&chunk.len()))
            );
        }
    }

    #[test]
    fn no_version_of_a_block_is_given_out_twice() {
        let (mut versions, _) = Versions::enter([1].into_iter());
        for _ in 0..VERSIONS_OF_BLOCK / ROWS_MAX {
            assert!(versions.give(ROWS_MAX).1.is_none());
        }
        let (first, drawing) = versions.give(1);
        assert!(drawing.is_some(), "the block is used up");
        assert_eq!((first, versions.give(1).0), (0, 1));
    }

    #[test]
    fn no_statement_has_more_parameters_than_can_be_counted() {
        let keys = ["a"; 40];
        let chunks = chunks(&keys, |key| Parts::default().of(key), 3_000);
        assert!(chunks.iter().all(|chunk| chunk.len() * 3_000 < 65_536));
    }
}
