//! SQL: the texts that differ on Citus.
//!
//! Citus refuses joins of arrays with rows, or executes them on the coordinator. So a statement
//! contains one row or a list of values, and all rows of a statement are on one of Citus' shards.
//!
//! **Invariant:** a text consists of constants and of names from the registry; values are numbered
//! parameters (as in `sql`).
//! **Not here:** the grouping of rows (`citus_statements`).

use std::fmt::Write as _;

use engine::sql_list::push_list;
use model::query::ReadQuery;
use model::table::Table;

use crate::sql::{column_type, place, push_names};

/// Selects the creation time of the last of the `$3` oldest records of idempotency keys created
/// from `$1` on and before `$2`.
pub(crate) const OLDEST: &str = "SELECT max(created_at) FROM (SELECT created_at FROM \
    tessera_idempotency WHERE created_at >= $1 AND created_at < $2 ORDER BY created_at LIMIT $3) AS oldest";

/// Removes the records of idempotency keys created from `$1` until `$2`.
pub(crate) const FORGET: &str =
    "DELETE FROM tessera_idempotency WHERE created_at >= $1 AND created_at <= $2 RETURNING 1";

/// Locks an existing row. Parameters: slot, shard key, id. Columns: 1, then its columns that
/// responses contain.
pub(crate) fn lock_row(table: &Table) -> String {
    let mut sql = "SELECT 1::bigint,".to_owned();
    push_names(&mut sql, "r.", table, table.answered());
    let _ = write!(sql, " FROM {} r", table.name());
    push_where_row(&mut sql, table);
    sql + " FOR UPDATE"
}

/// Removes a row. Parameters: slot, shard key, id.
pub(crate) fn remove(table: &Table) -> String {
    let mut sql = format!("DELETE FROM {} r", table.name());
    push_where_row(&mut sql, table);
    sql
}

/// Stores this number of new rows. Parameters: all columns of the first row, then of the next.
/// The alias hides the name of the table: in [`update`], one called `excluded` would be ambiguous.
pub(crate) fn insert(table: &Table, rows: usize) -> String {
    let columns: Vec<usize> = (0..table.columns().len()).collect();
    let mut sql = format!("INSERT INTO {} AS r (", table.name());
    push_names(&mut sql, "", table, columns.iter().copied());
    sql.push_str(") VALUES ");
    let mut next = 1;
    push_list(&mut sql, 0..rows, |sql, _| {
        sql.push('(');
        push_parameters(sql, table, &columns, &mut next);
        sql.push(')');
    });
    sql
}

/// Updates this number of existing, locked rows. Parameters: all columns of the first row, then of
/// the next.
pub(crate) fn update(table: &Table, rows: usize) -> String {
    let places = place(table);
    let changed = (0..table.columns().len()).filter(|column| !places.contains(column));
    let mut sql = insert(table, rows);
    push_on_conflict(&mut sql, table);
    push_list(&mut sql, changed, |sql, column| {
        let name = &table.column(column).name;
        let _ = write!(sql, "{name}=excluded.{name}");
    });
    sql
}

/// Takes the fence lock and draws a block of versions for this session. If one of the slots `$1`
/// may not be written here, it fails by dividing by zero, and the transaction with it.
pub(crate) const ENTER: &str = "SELECT nextval('tessera_version')/\
    (cardinality(tessera_enter($1,false))=0)::integer::bigint";

/// Draws one more block of versions.
pub(crate) const DRAW: &str = "SELECT nextval('tessera_version')";

/// Updates the columns `set` of one row, or inserts it. Parameters: the time, then slot, shard key,
/// id and the columns `set`. Columns: those of the upsert on plain PostgreSQL.
///
/// The coordinator takes the fence lock and draws a version before it sends anything to a worker.
/// For a slot that may not be written here the version is null, which no row may have.
pub(crate) fn upsert_one(table: &Table, set: &[usize], shown: bool) -> String {
    let version = |sql: &mut String, _: usize| sql.push_str("tessera_enter_one($2::integer)");
    upsert(table, (set, shown), (1, 2), version)
}

/// Upserts this number of rows, in a transaction that has drawn versions. Parameters: the time, the
/// number of versions of the block that were given out, then the values of each row as in
/// [`upsert_one`]. Calling a function for each row would double the time.
pub(crate) fn upsert_many(table: &Table, set: &[usize], shown: bool, rows: usize) -> String {
    upsert(table, (set, shown), (rows, 3), |sql, row| {
        let _ = write!(sql, "currval('tessera.tessera_version')+$2::bigint+{row}");
    })
}

fn upsert(
    table: &Table,
    (set, shown): (&[usize], bool),
    (rows, first): (usize, usize),
    push_version: impl Fn(&mut String, usize),
) -> String {
    let given: Vec<usize> = place(table).into_iter().chain(set.iter().copied()).collect();
    let version = table.version();
    let stamps = [version, version + 1, version + 2];
    let mut sql = format!("INSERT INTO {} AS r (", table.name());
    push_names(&mut sql, "", table, given.iter().copied().chain(stamps));
    sql.push_str(") VALUES ");
    let mut next = first;
    push_list(&mut sql, 0..rows, |sql, row| {
        sql.push('(');
        push_parameters(sql, table, &given, &mut next);
        sql.push(',');
        push_version(sql, row);
        sql.push_str(",$1::timestamptz,$1::timestamptz)");
    });
    push_on_conflict(&mut sql, table);
    for column in set {
        let name = &table.column(*column).name;
        let _ = write!(sql, "{name}=excluded.{name},");
    }
    sql.push_str("version=greatest(excluded.version,r.version+1),updated_at=excluded.updated_at");
    sql.push_str(" RETURNING (r.xmax=0),");
    let reported = if shown { table.answered() } else { version..version + 1 };
    push_names(&mut sql, "r.", table, place(table).into_iter().chain(reported));
    sql
}

/// Reads the rows of one key. Parameters: slot, shard key, maximum number of rows. Columns: 1, then
/// `columns`.
pub(crate) fn point(query: &ReadQuery, columns: &[usize]) -> String {
    let table = &query.table;
    let mut sql = "SELECT 1::bigint,".to_owned();
    push_names(&mut sql, "r.", table, columns.iter().copied());
    let _ = write!(sql, " FROM {} r WHERE r.slot=$1 AND r.shard_key=$2 ORDER BY ", table.name());
    push_names(&mut sql, "r.", table, table.id().iter().copied());
    sql + " LIMIT $3"
}

fn push_parameters(sql: &mut String, table: &Table, columns: &[usize], next: &mut usize) {
    push_list(sql, columns, |sql, column| {
        let _ = write!(sql, "${next}::{}", column_type(table, *column));
        *next += 1;
    });
}

fn push_on_conflict(sql: &mut String, table: &Table) {
    sql.push_str(" ON CONFLICT (");
    push_names(sql, "", table, place(table).into_iter());
    sql.push_str(") DO UPDATE SET ");
}

fn push_where_row(sql: &mut String, table: &Table) {
    for (number, column) in (1..).zip(place(table)) {
        let joint = if number == 1 { "WHERE" } else { "AND" };
        let _ = write!(sql, " {joint} r.{}=${number}", table.column(column).name);
    }
}

#[cfg(test)]
mod tests {
    use model::idempotency;

    use super::*;

    #[test]
    fn rows_are_lists_of_values() {
        assert_eq!(
            upsert_many(&idempotency::TABLE, &[3], false, 2),
            "INSERT INTO tessera_idempotency AS r (slot,shard_key,idempotency_key,fingerprint,version,created_at,\
             updated_at) VALUES ($3::integer,$4::text,$5::text,$6::text,\
             currval('tessera.tessera_version')+$2::bigint+0,$1::timestamptz,$1::timestamptz),($7::integer,$8::text,\
             $9::text,$10::text,currval('tessera.tessera_version')+$2::bigint+1,$1::timestamptz,$1::timestamptz) \
             ON CONFLICT (slot,shard_key,idempotency_key) DO UPDATE SET \
             fingerprint=excluded.fingerprint,version=greatest(excluded.version,r.version+1),\
             updated_at=excluded.updated_at RETURNING (r.xmax=0),r.slot,r.shard_key,r.idempotency_key,r.version"
        );
    }

    #[test]
    fn a_row_is_named_by_its_whole_primary_key() {
        assert_eq!(
            remove(&idempotency::TABLE),
            "DELETE FROM tessera_idempotency r WHERE r.slot=$1 AND r.shard_key=$2 AND r.idempotency_key=$3"
        );
    }
}
