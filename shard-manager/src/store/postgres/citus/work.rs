//! Work: the statements that a batch falls into on Citus, each for one of its shards alone.
//!
//! **Invariant:** statements come in the order of Citus' shards, and rows in the order in which they are given: so all
//! routers that know the same lock in one order.
//! **Not here:** their texts (`citus::sql`), running them (`transaction`, `upsert`).

use std::borrow::Cow;

use super::{Parts, sql};
use crate::row_change::RowWrite;
use crate::store::postgres::batch::{Row, Store};
use crate::store::postgres::sql::VERSIONS_OF_BLOCK;
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

/// The versions that a transaction has drawn and not given out yet.
pub(in crate::store::postgres) struct Versions {
    given: usize,
}

impl Versions {
    /// Lets a transaction write rows of these slots.
    pub(in crate::store::postgres) fn enter(
        slots: impl ExactSizeIterator<Item = i32>,
    ) -> (Self, Work<'static>) {
        (Self { given: 0 }, (Cow::Borrowed(sql::ENTER), vec![Bind::integers(slots)]))
    }

    /// Gives out so many, of a new block if there are not so many left: then that has to be drawn first.
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

/// Adds what upserts rows of one table that are given the same columns, and tells which statements tell of rows. Without
/// versions there is one row, and no other.
pub(in crate::store::postgres) fn upsert(
    work: &mut Vec<Work<'_>>,
    parts: &Parts,
    (table, rows, shown): (&Table, &[(usize, &RowWrite)], bool),
    now: &Bind,
    mut versions: Option<&mut Versions>,
) -> Vec<usize> {
    let Some((_, first)) = rows.first() else { return Vec::new() };
    let set: Vec<usize> = first.set.iter().map(|(column, _)| *column).collect();
    let width = 2 + table.id().len() + set.len();
    let mut telling = Vec::new();
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
        telling.push(work.len());
        work.push((Cow::Owned(text), binds));
    }
    telling
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
