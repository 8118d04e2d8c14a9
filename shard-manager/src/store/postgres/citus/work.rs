//! Work: the statements that a batch falls into on Citus, each for one of its shards alone.
//!
//! **Invariant:** statements come in the order of Citus' shards, and rows in the order in which they are given: so all
//! routers that know the same lock in one order.
//! **Not here:** their texts (`citus::sql`), running them (`transaction`, `upsert`).

use std::borrow::Cow;

use super::{Parts, sql};
use crate::row::RowWrite;
use crate::store::postgres::batch::{Row, Store};
use crate::store::postgres::statement::Bind;
use crate::store::postgres::transaction::{Locking, Work};
use crate::table::Table;
use crate::value::Value;

/// Rows of one statement. Each number of them is a text of its own, which is kept prepared: beyond some, powers of two
/// will do.
const ROWS_MAX: usize = 64;
/// Up to so many rows each number has its text.
const ROWS_EXACT: usize = 8;
/// Parameters of one statement; PostgreSQL's protocol counts them in 16 bits.
const PARAMETERS_MAX: usize = 32_000;

/// A statement for each row.
pub(in crate::store::postgres) fn locking(
    table: &Table,
    rows: &[Row],
    of: &[usize],
) -> Vec<Locking<'static>> {
    let text = sql::lock_row(table);
    let lock = |at: &usize| Locking {
        sql: Cow::Owned(text.clone()),
        binds: place(table, &rows[*at]),
        rows: vec![*at],
    };
    of.iter().map(lock).collect()
}

/// What stores rows of one table in one way.
pub(in crate::store::postgres) fn storing(
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

/// What upserts rows of one table that are given the same columns.
pub(in crate::store::postgres) fn upserting(
    parts: &Parts,
    table: &Table,
    (rows, shown): (&[(usize, &RowWrite)], bool),
    now: &Bind,
) -> Vec<Work<'static>> {
    let Some((_, first)) = rows.first() else { return Vec::new() };
    let set: Vec<usize> = first.set.iter().map(|(column, _)| *column).collect();
    let width = 2 + table.id().len() + set.len();
    let statement = |chunk: &[(usize, &RowWrite)]| {
        let mut binds = Vec::with_capacity(1 + chunk.len() * width);
        binds.push(now.clone());
        for (_, row) in chunk {
            binds.extend([Bind::integer(i32::from(row.slot.number())), Bind::text(&row.key)]);
            let ids = table.id().iter().zip(&row.id);
            let values = ids.chain(row.set.iter().map(|(column, value)| (column, value)));
            binds.extend(
                values.map(|(column, value)| Bind::value(table.column(*column).kind, value)),
            );
        }
        (Cow::Owned(sql::upsert(table, &set, shown, chunk.len())), binds)
    };
    let chunks = chunks(rows, |(_, row)| parts.of(&row.key), width);
    chunks.into_iter().map(statement).collect()
}

/// Rows of one of Citus' shards, as many as make a statement whose text is not one of too many.
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

/// Slot, shard key and id.
fn place(table: &Table, row: &Row) -> Vec<Bind> {
    let mut binds = vec![Bind::integer(i32::from(row.slot.number())), Bind::text(&row.key)];
    let ids = table.id().iter().zip(&row.id);
    binds.extend(ids.map(|(column, value)| Bind::value(table.column(*column).kind, value)));
    binds
}

/// All columns of a row that is there.
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
    fn no_statement_has_more_parameters_than_can_be_counted() {
        let keys = ["a"; 40];
        let chunks = chunks(&keys, |key| Parts::default().of(key), 3_000);
        assert!(chunks.iter().all(|chunk| chunk.len() * 3_000 < 65_536));
    }
}
