//! SQL: all statements except those of reads (`engine::select`, `key_reads`), in PostgreSQL's
//! dialect.
//!
//! Rows are sent as one array for each column. So a statement does not depend on the number of
//! rows, and each table has few different statements.
//!
//! **Invariant:** a statement consists of constants and of names from the table registry, and never
//! contains strings from clients; values are passed as numbered parameters.
//! **Not here:** running the statements (`statement`).

use std::fmt::Write as _;

use engine::sql_list::push_list;
use model::table::{Column, Table};
use model::value::ColumnType;

use super::db_error::STORED_OTHERWISE;

/// Settings of the session of a write lane (the queue of a shard's writes): rows are found by the
/// primary key, even in a new table without statistics.
pub(super) const LANE_SETTINGS: &str = "SET enable_seqscan=off; SET enable_hashjoin=off; \
    SET enable_mergejoin=off; SET enable_bitmapscan=off";

/// Takes the fence lock and returns those of the slots `$1` that may not be written here, each with
/// the reason (`refusals`). The reason is read after the lock was granted, as the slots are.
pub(super) const ENTER: &str =
    "SELECT s.slot,tessera_refused_now(s.slot) FROM unnest(tessera_enter($1,$2)) AS s(slot)";

/// Changes the slots `$1`: the function of the migration describes the parameters. Columns: the
/// number of slots that are not owned and forbid the change, null if the fence lock was not free in
/// time; and these slots, separated by commas.
pub(super) const CHANGE_SLOTS: &str = "SELECT cardinality(refused)::bigint,\
    array_to_string(refused,',') FROM tessera_change_slots($1,$2,$3,$4) AS refused";

/// Selects the number of slots of all table groups that the shard knows.
pub(super) const SLOT_COUNT: &str =
    "SELECT coalesce(max(8*length(bits)),0)::bigint FROM tessera_owned WHERE id=1";

/// Selects those of the slots `$1` that the shard owns.
pub(super) const OWNED_SLOTS: &str =
    "SELECT slot::bigint FROM tessera_slots WHERE slot=ANY($1) AND state IN ('owned','fenced')";

/// Condition that is true if, in the snapshot of the statement, the node answers reads of the slot
/// in the column `slot`. The bits of all slots are read once for a statement.
pub(super) const IS_READABLE: &str =
    "get_bit((SELECT bits FROM tessera_readable WHERE id=1),slot)=1";

/// Number of versions in a block: the number that was drawn and the ones after it. Between two
/// blocks, the same number of versions is left out, so that a version that must be one higher than
/// another stays below the next block.
pub(super) const VERSIONS_OF_BLOCK: usize = 2_048;

/// Makes the versions of a promoted primary differ from those that its predecessor has drawn and
/// that were lost in the failover. Each session that draws versions executes this before it draws
/// the first one.
pub(super) const BEGIN_TIMELINE: &str = "SELECT tessera_begin_timeline()";

/// Draws `$1` blocks of versions.
pub(super) const VERSIONS: &str = "SELECT nextval('tessera_version') FROM generate_series(1,$1)";

/// Returns the position up to which the log of the primary is on disk: all transactions committed
/// before this statement are below it.
pub(super) const POSITION: &str = "SELECT (pg_current_wal_flush_lsn()-'0/0')::bigint";

/// Selects the insert position of the node: the end of the last record of its log.
///
/// At the end of a page of the log the server names the position after the next page's header, of
/// 24 bytes, or 40 at the beginning of a segment. Replicas report the end of the record, so they
/// would not confirm that position before the next record.
pub(super) const INSERT_POSITION: &str = "SELECT (at-CASE WHEN mod(at,page)=24 THEN 24 \
    WHEN mod(at,segment)=40 THEN 40 ELSE 0 END)::bigint FROM (\
    SELECT pg_current_wal_insert_lsn()-'0/0' AS at,current_setting('wal_block_size')::numeric AS page,\
    pg_size_bytes(current_setting('wal_segment_size'))::numeric AS segment OFFSET 0) AS log";

/// Returns one row if there is a record of an idempotency key that was created from `$1` on and
/// before `$2`.
pub(super) const WITNESS: &str = "SELECT slot FROM tessera_idempotency
    WHERE created_at >= $1 AND created_at < $2 LIMIT 1";

/// Removes up to `$3` records of idempotency keys created from `$1` on and before `$2`, oldest
/// first, except those that another transaction has locked and those of slots that accept no writes
/// here. Returns their number.
pub(super) const FORGET: &str = "SELECT tessera_forget($1,$2,$3)";

/// Selects the names of the tables whose rows move, and an estimate of the number of rows of each.
pub(super) const ROW_ESTIMATES: &str = "SELECT own.name,greatest(c.reltuples,0)::bigint \
    FROM tessera_moving_tables AS own JOIN pg_class AS c ON c.oid=own.relation";

/// Locks existing rows in the given order. Parameters: slots, shard keys, ids. Columns: the number
/// of the row among the given ones, from 1, then its columns that responses contain.
pub(super) fn lock_rows(table: &Table) -> String {
    let mut sql = "SELECT k._n".to_owned();
    for column in table.answered() {
        let _ = write!(sql, ",t.{}", table.column(column).name);
    }
    sql.push_str(" FROM ");
    push_numbered_rows(&mut sql, table, &place(table), 1);
    sql.push_str(" CROSS JOIN LATERAL (SELECT ");
    push_names(&mut sql, "", table, table.answered());
    let _ = write!(sql, " FROM {} r", table.name());
    push_where_row(&mut sql, "r", table);
    sql + " FOR UPDATE) t"
}

/// Locks existing rows as [`lock_rows`] does, and returns nothing.
pub(super) fn hold_rows(table: &Table) -> String {
    let mut sql = "SELECT FROM ".to_owned();
    push_rows(&mut sql, table, &place(table), 1);
    let _ = write!(sql, " CROSS JOIN LATERAL (SELECT FROM {} r", table.name());
    push_where_row(&mut sql, "r", table);
    sql.push_str(" FOR UPDATE) t");
    sql
}

/// Stores new rows. Parameters: all columns.
pub(super) fn insert(table: &Table) -> String {
    let columns: Vec<usize> = (0..table.columns().len()).collect();
    let mut sql = format!("INSERT INTO {} (", table.name());
    push_names(&mut sql, "", table, columns.iter().copied());
    sql.push_str(") SELECT ");
    push_names(&mut sql, "k.", table, columns.iter().copied());
    sql.push_str(" FROM ");
    push_rows(&mut sql, table, &columns, 1);
    sql
}

/// Reads all columns of all rows, in the order of the primary key.
pub(super) fn select_all(table: &Table) -> String {
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, "", table, 0..table.columns().len());
    let _ = write!(sql, " FROM {} ORDER BY ", table.name());
    push_names(&mut sql, "", table, place(table).into_iter());
    sql
}

/// Reads the place of each row: slot, shard key, version, id, and the routing column and the
/// partition column if there are any.
pub(super) fn select_places(table: &Table, partition: Option<usize>) -> String {
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, "", table, place_columns(table, partition).into_iter());
    let _ = write!(sql, " FROM {}", table.name());
    sql
}

/// Returns the columns of [`select_places`].
pub(super) fn place_columns(table: &Table, partition: Option<usize>) -> Vec<usize> {
    let first = [Table::SLOT, Table::SHARD_KEY, table.version()].into_iter();
    first.chain(table.id().iter().copied()).chain(table.routing()).chain(partition).collect()
}

/// Selects, for each slot, the number of its rows and the sum of their hashes.
pub(super) fn slot_digests(table: &Table) -> String {
    let mut sql = "SELECT slot::bigint,count(*),sum(".to_owned();
    push_row_hash(&mut sql, table);
    let _ = write!(sql, ")::text FROM {} GROUP BY slot", table.name());
    sql
}

/// Selects the shard key, the id and the hash of each row of the slot `$1`.
pub(super) fn row_hashes(table: &Table) -> String {
    let mut sql = "SELECT shard_key,concat_ws('/',".to_owned();
    push_list(&mut sql, table.id(), |sql, column| {
        let _ = write!(sql, "{}::text", table.column(*column).name);
    });
    sql.push_str("),(");
    push_row_hash(&mut sql, table);
    let _ = write!(sql, ")::text FROM {} WHERE slot=$1", table.name());
    sql
}

/// Appends the hash of a row.
///
/// The hashes are those of hash partitioning, which do not depend on the server's version. JSON
/// has none, so its text is hashed.
pub(super) fn push_row_hash(sql: &mut String, table: &Table) {
    sql.push_str("hash_record_extended(ROW(");
    push_list(sql, 0..table.columns().len(), |sql, column| {
        let cast = if column_type(table, column) == "json" { "::text" } else { "" };
        let _ = write!(sql, "{}{cast}", table.column(column).name);
    });
    sql.push_str("),0)");
}

/// Updates existing rows. Parameters: all columns.
pub(super) fn update(table: &Table) -> String {
    let columns: Vec<usize> = (0..table.columns().len()).collect();
    let place = place(table);
    let changed = columns.iter().copied().filter(|column| !place.contains(column));
    let mut sql = format!("UPDATE {} r SET ", table.name());
    push_list(&mut sql, changed, |sql, column| {
        let name = &table.column(column).name;
        let _ = write!(sql, "{name}=k.{name}");
    });
    sql.push_str(" FROM ");
    push_rows(&mut sql, table, &columns, 1);
    push_where_row(&mut sql, "r", table);
    sql
}

/// Removes rows. Parameters: slots, shard keys, ids.
pub(super) fn remove(table: &Table) -> String {
    let mut sql = format!("DELETE FROM {} r USING ", table.name());
    push_rows(&mut sql, table, &place(table), 1);
    push_where_row(&mut sql, "r", table);
    sql
}

/// Wraps a statement of [`insert`], [`update`] or [`remove`] so that it fails unless it affects
/// every row that it is given: a trigger, a rule or a policy may skip some rows without an error.
/// To fail, the statement casts a sentence to a number.
pub(super) fn require_all_rows(table: &Table, statement: &str) -> String {
    let name = table.name();
    format!(
        "WITH done AS ({statement} RETURNING 1) SELECT CASE count(*) WHEN cardinality($1) THEN 0 \
         ELSE ('{STORED_OTHERWISE}{name}; '||count(*)||' of '||cardinality($1))::integer END FROM done"
    )
}

/// Form of an upsert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UpsertMode {
    /// True if the upsert returns the rows as stored, false if it returns only their versions.
    pub(super) returns_rows: bool,
    /// True if all rows are expected to be new. The statement then costs half as much, but fails if
    /// a row exists.
    pub(super) expects_new: bool,
    /// True if there is only one row. Its values are sent as single values instead of arrays, which
    /// halves the cost too.
    pub(super) single_row: bool,
}

/// Updates the columns `set` of rows, or inserts the rows, except those whose slots may not be
/// written here. Parameters: the time, then slots, shard keys, ids, and the columns `set`. Columns:
/// true if the row is new, slot, shard key, ids, then its columns that responses contain or only
/// its version, depending on the mode.
///
/// The lock is taken before the first row is read: the join returns no row before its slot was
/// looked up among the barred ones. Versions are drawn under the lock. A row that another router
/// has changed since then has a higher version and gets the next one.
pub(super) fn upsert(table: &Table, set: &[usize], mode: UpsertMode) -> String {
    let given: Vec<usize> = place(table).into_iter().chain(set.iter().copied()).collect();
    let version = table.version();
    let stamps = [version, version + 1, version + 2];
    let mut sql = String::new();
    if !mode.single_row {
        sql.push_str(
            "WITH own AS MATERIALIZED (SELECT tessera_enter($2,false) AS strange,\
            nextval('tessera_version') AS version) ",
        );
    }
    let _ = write!(sql, "INSERT INTO {} AS r (", table.name());
    push_names(&mut sql, "", table, given.iter().copied().chain(stamps));
    sql.push_str(") SELECT ");
    if mode.single_row {
        push_list(&mut sql, given.iter().zip(2..), |sql, (column, number)| {
            let _ = write!(sql, "${number}::{}", column_type(table, *column));
        });
        sql.push_str(
            ",own.version,$1,$1 FROM (SELECT tessera_enter_one($2) AS version OFFSET 0) own",
        );
        sql.push_str(" WHERE own.version IS NOT NULL");
    } else {
        push_names(&mut sql, "k.", table, given.iter().copied());
        sql.push_str(",own.version+k._n-1,$1,$1 FROM own,");
        push_numbered_rows(&mut sql, table, &given, 2);
        sql.push_str(" WHERE k.slot<>ALL(own.strange)");
    }
    if !mode.expects_new {
        sql.push_str(" ON CONFLICT (slot,shard_key");
        for column in table.id() {
            let _ = write!(sql, ",{}", table.column(*column).name);
        }
        sql.push_str(") DO UPDATE SET ");
        for column in set {
            let name = &table.column(*column).name;
            let _ = write!(sql, "{name}=excluded.{name},");
        }
        sql.push_str(
            "version=greatest(excluded.version,r.version+1),updated_at=excluded.updated_at",
        );
    }
    sql.push_str(" RETURNING (r.xmax=0),");
    let reported = if mode.returns_rows { table.answered() } else { version..version + 1 };
    push_names(&mut sql, "r.", table, place(table).into_iter().chain(reported));
    sql
}

/// Returns the columns that identify a row.
pub(super) fn place(table: &Table) -> Vec<usize> {
    [Table::SLOT, Table::SHARD_KEY].into_iter().chain(table.id().iter().copied()).collect()
}

/// Appends `unnest($1::integer[],$2::text[],…) AS k(slot,shard_key,…)`.
pub(super) fn push_rows(sql: &mut String, table: &Table, columns: &[usize], first: usize) {
    push_arrays(sql, table, columns, first);
    sql.push_str(" AS k(");
    push_names(sql, "", table, columns.iter().copied());
    sql.push(')');
}

/// Appends the rows with a column `_n` that counts them from 1. No column of a table has that name.
fn push_numbered_rows(sql: &mut String, table: &Table, columns: &[usize], first: usize) {
    push_arrays(sql, table, columns, first);
    sql.push_str(" WITH ORDINALITY AS k(");
    push_names(sql, "", table, columns.iter().copied());
    sql.push_str(",_n)");
}

fn push_arrays(sql: &mut String, table: &Table, columns: &[usize], first: usize) {
    sql.push_str("unnest(");
    push_list(sql, columns.iter().zip(first..), |sql, (column, number)| {
        let _ = write!(sql, "${number}::{}[]", column_type(table, *column));
    });
    sql.push(')');
}

fn push_where_row(sql: &mut String, row: &str, table: &Table) {
    for (index, column) in place(table).into_iter().enumerate() {
        let name = &table.column(column).name;
        let joint = if index == 0 { "WHERE" } else { "AND" };
        let _ = write!(sql, " {joint} {row}.{name}=k.{name}");
    }
}

pub(super) fn push_names(
    sql: &mut String,
    of: &str,
    table: &Table,
    columns: impl Iterator<Item = usize>,
) {
    push_list(sql, columns, |sql, column| {
        let _ = write!(sql, "{of}{}", table.column(column).name);
    });
}

pub(super) fn column_type(table: &Table, column: usize) -> &'static str {
    if column == Table::SLOT { "integer" } else { type_name(table.column(column).kind) }
}

fn type_name(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Text => "text",
        ColumnType::Bigint => "bigint",
        ColumnType::Double => "double precision",
        ColumnType::Boolean => "boolean",
        ColumnType::Timestamp => "timestamptz",
        ColumnType::Json => "json",
        ColumnType::Uuid => "uuid",
    }
}

/// Creates a table in the form that `migrations/README.md` describes.
pub(super) fn create(table: &Table) -> String {
    let mut sql = format!("CREATE TABLE public.{} (", table.name());
    for column in columns(table) {
        sql.push_str(&column);
        sql.push(',');
    }
    sql.push_str("PRIMARY KEY (slot,shard_key");
    for column in table.id() {
        let _ = write!(sql, ",{}", table.column(*column).name);
    }
    sql + "))"
}

/// Returns the declarations of the columns of a table.
pub(super) fn columns(table: &Table) -> Vec<String> {
    let column = |(index, Column { name, kind, nullable, .. }): (usize, &Column)| {
        let collation = if *kind == ColumnType::Text { " COLLATE \"C\"" } else { "" };
        let null = if *nullable { "" } else { " NOT NULL" };
        format!("{name} {}{collation}{null}", column_type(table, index))
    };
    table.columns().iter().enumerate().map(column).collect()
}

#[cfg(test)]
mod tests {
    use model::idempotency;

    use super::*;

    #[test]
    fn a_statement_that_affects_fewer_rows_than_it_is_given_fails() {
        assert_eq!(
            require_all_rows(&idempotency::TABLE, &remove(&idempotency::TABLE)),
            "WITH done AS (DELETE FROM tessera_idempotency r USING \
             unnest($1::integer[],$2::text[],$3::text[]) AS k(slot,shard_key,idempotency_key) WHERE r.slot=k.slot AND \
             r.shard_key=k.shard_key AND r.idempotency_key=k.idempotency_key RETURNING 1) SELECT CASE count(*) \
             WHEN cardinality($1) THEN 0 ELSE ('tessera: not all rows were stored in tessera_idempotency; '\
             ||count(*)||' of '||cardinality($1))::integer END FROM done"
        );
    }

    #[test]
    fn rows_are_numbered_in_the_order_of_their_parameters() {
        assert_eq!(
            lock_rows(&idempotency::TABLE),
            "SELECT k._n,t.idempotency_key,t.fingerprint,t.answer,t.version,t.created_at,t.updated_at \
             FROM unnest($1::integer[],$2::text[],$3::text[]) WITH ORDINALITY AS \
             k(slot,shard_key,idempotency_key,_n) CROSS JOIN LATERAL (SELECT \
             idempotency_key,fingerprint,answer,version,created_at,updated_at FROM tessera_idempotency r \
             WHERE r.slot=k.slot AND r.shard_key=k.shard_key AND r.idempotency_key=k.idempotency_key \
             FOR UPDATE) t"
        );
    }
}
