//! SQL: the texts of all statements but those of reads (`store::select`), in SQLite's dialect.
//!
//! **Invariant:** a text is made of constants and of names from the registry, never of a client's words;
//! values are numbered parameters.
//! **Not here:** running them (`batch`, `applier`), reads (`store::select`).

use std::fmt::Write as _;

use crate::table::Table;
use crate::value::ColumnType;

/// One parameter for each column, in the order of the table. The row must not exist.
pub(super) fn insert(table: &Table) -> String {
    write_all("INSERT", table)
}

/// The same, of a row that may exist: then nothing is done.
pub(super) fn insert_new(table: &Table) -> String {
    write_all("INSERT", table) + " ON CONFLICT DO NOTHING"
}

/// Parameters: the columns set, version, `updated_at`, then slot, shard key, id.
pub(super) fn update(table: &Table, set: &[usize]) -> String {
    let version = table.version();
    let columns: Vec<usize> = set.iter().copied().chain([version, version + 2]).collect();
    let mut sql = format!("UPDATE {} SET ", table.name());
    push_list(&mut sql, columns.iter().copied().zip(1..), |sql, (column, number)| {
        let _ = write!(sql, "{}=?{number}", table.column(column).name);
    });
    push_where_row(&mut sql, table, columns.len() + 1);
    sql
}

/// One parameter for each column, in the order of the table: what an after-image says, whatever was there.
pub(super) fn replace(table: &Table) -> String {
    write_all("INSERT OR REPLACE", table)
}

fn write_all(verb: &str, table: &Table) -> String {
    let mut sql = format!("{verb} INTO {} (", table.name());
    push_names(&mut sql, table, 0..table.columns().len());
    sql.push_str(") VALUES (");
    push_list(&mut sql, 1..=table.columns().len(), push_parameter);
    sql.push(')');
    sql
}

/// Parameters: slot, shard key, id. One row at most, its answered columns.
pub(super) fn select_row(table: &Table) -> String {
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, table, table.answered());
    let _ = write!(sql, " FROM {}", table.name());
    push_where_row(&mut sql, table, 1);
    sql
}

/// All rows of a table, all columns, in the order in which they are kept.
pub(super) fn select_all(table: &Table) -> String {
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, table, 0..table.columns().len());
    let _ = write!(sql, " FROM {} ORDER BY ", table.name());
    push_key(&mut sql, table);
    sql
}

/// Selects the rows of a table after a key (`after`) and up to another one (`until`), all columns,
/// in the order in which they are stored. Parameters: slot, shard key, id of each of the two that
/// is there.
pub(super) fn select_range(table: &Table, after: bool, until: bool) -> String {
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, table, 0..table.columns().len());
    let _ = write!(sql, " FROM {}", table.name());
    let width = table.id().len() + 2;
    let mut first = 1;
    for (sign, _) in [(">", after), ("<=", until)].into_iter().filter(|(_, is_there)| *is_there) {
        sql.push_str(if first == 1 { " WHERE (" } else { " AND (" });
        push_key(&mut sql, table);
        let _ = write!(sql, ") {sign} (");
        push_list(&mut sql, first..first + width, push_parameter);
        sql.push(')');
        first += width;
    }
    sql.push_str(" ORDER BY ");
    push_key(&mut sql, table);
    sql
}

fn push_key(sql: &mut String, table: &Table) {
    sql.push_str("slot,shard_key");
    for column in table.id() {
        let _ = write!(sql, ",{}", table.column(*column).name);
    }
}

/// The rows of a slot, all columns.
pub(super) fn select_slot(table: &Table, slot: i64) -> String {
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, table, 0..table.columns().len());
    let _ = write!(sql, " FROM {} WHERE slot={slot}", table.name());
    sql
}

/// Parameters: slot, shard key, id.
pub(super) fn remove(table: &Table) -> String {
    let mut sql = format!("DELETE FROM {}", table.name());
    push_where_row(&mut sql, table, 1);
    sql
}

fn push_where_row(sql: &mut String, table: &Table, first: usize) {
    let _ = write!(sql, " WHERE slot=?{first} AND shard_key=?{}", first + 1);
    for (column, number) in table.id().iter().zip(first + 2..) {
        let _ = write!(sql, " AND {}=?{number}", table.column(*column).name);
    }
}

fn push_names(sql: &mut String, table: &Table, columns: impl Iterator<Item = usize>) {
    push_list(sql, columns, |sql, column| sql.push_str(&table.column(column).name));
}

fn push_parameter(sql: &mut String, number: usize) {
    let _ = write!(sql, "?{number}");
}

fn push_list<T>(
    sql: &mut String,
    items: impl IntoIterator<Item = T>,
    mut push: impl FnMut(&mut String, T),
) {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            sql.push(',');
        }
        push(sql, item);
    }
}

/// The type that a STRICT table declares for a column.
pub(super) fn declared_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Text | ColumnType::Timestamp | ColumnType::Json | ColumnType::Uuid => "TEXT",
        ColumnType::Bigint | ColumnType::Boolean => "INTEGER",
        ColumnType::Double => "REAL",
    }
}

/// Those of the slots in the JSON array `?1` that may not be written here at the time `?2`.
pub(super) const SLOTS_NOT_OWNED: &str = "SELECT value FROM json_each(?1) WHERE NOT EXISTS (
    SELECT 1 FROM tessera_slots WHERE slot = value
    AND (state = 'owned' OR (state = 'fenced' AND until < ?2)))";

/// Appends the batch's after-images to the change log.
pub(super) const APPEND_LOG: &str =
    "INSERT INTO tessera_log (position, at, changes) VALUES (?1, ?2, ?3)";

/// Keeps the counters that only grow.
pub(super) const SET_COUNTERS: &str =
    "UPDATE tessera_shard SET version = ?1, position = ?2 WHERE id = 1";

/// Adds to the number of rows of a table.
pub(super) const ADD_ROWS: &str = "UPDATE tessera_counts SET rows = rows + ?2 WHERE name = ?1";

/// Keeps where a replica stands.
pub(super) const SET_REPLICA: &str =
    "UPDATE tessera_shard SET version = ?1, position = ?2, timeline = ?3 WHERE id = 1";

/// A commit that is there for its sync.
pub(super) const COUNT_SYNC: &str = "UPDATE tessera_shard SET syncs = syncs + 1 WHERE id = 1";

/// How many rows a table has.
pub(super) const COUNTED: &str = "SELECT rows FROM tessera_counts WHERE name = ?1";

/// Where a file stands.
pub(super) const POSITION: &str = "SELECT position FROM tessera_shard WHERE id = 1";

/// Up to `?3` log entries after position `?1`, made at `?2` or before.
pub(super) const LOG_AFTER: &str = "SELECT position, changes FROM tessera_log
    WHERE position > ?1 AND at <= ?2 ORDER BY position LIMIT ?3+0";

/// The first position of the log and its bytes.
pub(super) const LOG_EXTENT: &str = "SELECT min(position), sum(length(changes)) FROM tessera_log";

/// One row, if the log holds anything.
pub(super) const LOG_FIRST: &str = "SELECT position FROM tessera_log LIMIT 1";

/// Removes log entries up to a position.
pub(super) const TRIM_LOG: &str =
    "DELETE FROM tessera_log WHERE position <= ?1 RETURNING length(changes)";

/// The record of an idempotency key: parameters slot, shard key, key.
pub(super) const REMEMBERED: &str = "SELECT fingerprint, answer FROM tessera_idempotency
    WHERE slot = ?1 AND shard_key = ?2 AND idempotency_key = ?3";

/// One row, if there is a record that was made from `?1` on and before `?2`.
pub(super) const WITNESS: &str =
    "SELECT 1 FROM tessera_idempotency WHERE created_at >= ?1 AND created_at < ?2 LIMIT 1";

/// Up to `?3` records made from `?1` on and before `?2`.
pub(super) const FORGOTTEN: &str =
    "SELECT slot, shard_key, idempotency_key FROM tessera_idempotency
    WHERE created_at >= ?1 AND created_at < ?2 ORDER BY created_at LIMIT ?3+0";

/// The slots that a file knows of.
pub(super) const SLOTS: &str = "SELECT slot, state FROM tessera_slots ORDER BY slot";

/// The tables of a file that neither Tessera nor anybody through it has made.
pub(super) const STRANGE_TABLES: &str = "SELECT name FROM sqlite_schema WHERE type = 'table'
    AND name NOT LIKE 'tessera\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
    AND name <> '__diesel_schema_migrations'
    AND name NOT IN (SELECT name FROM tessera_tables) ORDER BY name";

/// The migrations that a file has had.
pub(super) const MIGRATED: &str = "SELECT version FROM __diesel_schema_migrations ORDER BY version";

/// Who signed a shard's file; of every schema that there was.
pub(super) const SIGNED: &str = "SELECT cluster_id, shard FROM tessera_shard";

/// Who a cluster is and the names of its shards; of every schema that there was.
pub(super) const CLUSTER: &str = "SELECT cluster_id, shards, ready FROM tessera_cluster";

/// One row, if a catalog is of a schema that notes the timelines of its shards.
pub(super) const HAS_TIMELINES: &str =
    "SELECT name FROM pragma_table_info('tessera_cluster') WHERE name = 'timelines'";

/// Writes one snapshot of all that the file holds into a new one.
pub(super) const VACUUM_INTO: &str = "VACUUM INTO ?1";

/// A second database beside the file, and one snapshot of it written into a new file.
pub(super) const ATTACH_TAKEN: &str = "ATTACH ?1 AS taken";
pub(super) const VACUUM_TAKEN_INTO: &str = "VACUUM taken INTO ?1";
