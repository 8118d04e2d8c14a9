//! SQL: the texts of all statements but those of reads (`engine::select`), in SQLite's dialect.
//!
//! **Invariant:** a text consists of constants and of names from the registry, never of text from a
//! client; values are numbered parameters.
//! **Not here:** running the statements (`batch`, `applier`), reads (`engine::select`).

use std::fmt::Write as _;

use engine::sql_list::push_list;
use model::table::Table;
use model::value::ColumnType;

/// Inserts a row that must not exist. Parameters: each column, in the order of the table.
pub(super) fn insert(table: &Table) -> String {
    write_all("INSERT", table, "")
}

/// Inserts a row unless it exists. Parameters: each column, in the order of the table.
pub(super) fn insert_new(table: &Table) -> String {
    let mut sql = write_all("INSERT", table, "");
    push_conflict(&mut sql, table);
    sql + "NOTHING"
}

/// Updates a row. Parameters: the columns set, version, `updated_at`, then slot, shard key, id.
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

/// Stores an after-image, whether the row exists or not. Parameters: each column, in the order of
/// the table. `INSERT OR REPLACE` would delete other rows that a unique index finds. The alias
/// hides the name of the table: in one called `excluded`, `excluded.name` would be the old value.
pub(super) fn replace(table: &Table) -> String {
    let mut sql = write_all("INSERT", table, " AS stored");
    push_conflict(&mut sql, table);
    sql.push_str("UPDATE SET ");
    let place = |column: &usize| Table::PLACE.contains(column) || table.id().contains(column);
    let columns = (0..table.columns().len()).filter(|column| !place(column));
    push_list(&mut sql, columns, |sql, column| {
        let name = &table.column(column).name;
        let _ = write!(sql, "{name}=excluded.{name}");
    });
    sql
}

/// Stores an after-image like [`replace`], but only in a table without a unique index. It takes
/// less time, because SQLite searches the primary key once instead of twice. Parameters: those of
/// [`replace`].
pub(super) fn overwrite(table: &Table) -> String {
    write_all("INSERT OR REPLACE", table, "")
}

/// Appends the conflict clause, for a row whose primary key exists already. A row that a unique
/// index refuses remains an error.
fn push_conflict(sql: &mut String, table: &Table) {
    sql.push_str(" ON CONFLICT (");
    push_key(sql, table);
    sql.push_str(") DO ");
}

fn write_all(verb: &str, table: &Table, alias: &str) -> String {
    let mut sql = format!("{verb} INTO {}{alias} (", table.name());
    push_names(&mut sql, table, 0..table.columns().len());
    sql.push_str(") VALUES (");
    push_list(&mut sql, 1..=table.columns().len(), push_parameter);
    sql.push(')');
    sql
}

/// Selects the answered columns of a row. Parameters: slot, shard key, id.
pub(super) fn select_row(table: &Table) -> String {
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, table, table.answered());
    let _ = write!(sql, " FROM {}", table.name());
    push_where_row(&mut sql, table, 1);
    sql
}

/// Selects all rows of a table, all columns, in the order in which they are stored.
pub(super) fn select_all(table: &Table) -> String {
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, table, 0..table.columns().len());
    let _ = write!(sql, " FROM {} ORDER BY ", table.name());
    push_key(&mut sql, table);
    sql
}

/// Selects the rows of a table after a key (`after`) and up to another one (`until`), all columns,
/// in the order in which they are stored. Parameters: slot, shard key, id of each of the given
/// keys.
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

/// Selects the rows of a slot, all columns.
pub(super) fn select_slot(table: &Table, slot: i64) -> String {
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, table, 0..table.columns().len());
    let _ = write!(sql, " FROM {} WHERE slot={slot}", table.name());
    sql
}

/// Selects the rows of a slot after a key (`after`) and up to another one (`until`), all columns,
/// in the order in which they are stored. Parameters: shard key and id of each of the given keys.
pub(super) fn select_slot_range(table: &Table, slot: i64, after: bool, until: bool) -> String {
    let mut sql = select_slot(table, slot);
    let key: Vec<usize> =
        std::iter::once(Table::SHARD_KEY).chain(table.id().iter().copied()).collect();
    let mut first = 1;
    for (sign, _) in [(">", after), ("<=", until)].into_iter().filter(|(_, is_there)| *is_there) {
        sql.push_str(" AND (");
        push_names(&mut sql, table, key.iter().copied());
        let _ = write!(sql, ") {sign} (");
        push_list(&mut sql, first..first + key.len(), push_parameter);
        sql.push(')');
        first += key.len();
    }
    sql.push_str(" ORDER BY ");
    push_names(&mut sql, table, key.into_iter());
    sql
}

/// Removes the rows of a shard key that have certain values in these columns. Parameters: slot,
/// shard key, the values.
pub(super) fn remove_with(table: &Table, columns: &[usize]) -> String {
    let mut sql = format!("DELETE FROM {} WHERE slot=?1 AND shard_key=?2", table.name());
    for (column, number) in columns.iter().zip(3..) {
        let _ = write!(sql, " AND {}=?{number}", table.column(*column).name);
    }
    sql
}

/// Removes a row. Parameters: slot, shard key, id.
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

/// Returns the type that a STRICT table declares for a column.
pub(super) fn declared_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Text | ColumnType::Timestamp | ColumnType::Json | ColumnType::Uuid => "TEXT",
        ColumnType::Bigint | ColumnType::Boolean => "INTEGER",
        ColumnType::Double => "REAL",
    }
}

/// Condition that writes of a slot are accepted at the time of this parameter: a fence counts only
/// from its beginning to its end, so a clock that is set back does not prolong it.
macro_rules! accepts_writes {
    ($now:literal) => {
        concat!(
            "(state = 'owned' OR (state = 'fenced' AND (until <= ",
            $now,
            " OR fenced_at > ",
            $now,
            ")))"
        )
    };
}

/// Selects those slots of the JSON array `?1` that may not be written here at the time `?2`, with
/// their states.
pub(super) const SLOTS_REFUSED: &str = concat!(
    "SELECT value, state, until, moved_to FROM json_each(?1)
    LEFT JOIN tessera_slots ON slot = value WHERE state IS NULL OR ",
    accepts_writes!("?2"),
    " IS NOT TRUE"
);

/// Selects the state of a slot.
pub(super) const SLOT_STATE: &str =
    "SELECT slot, state, until, moved_to FROM tessera_slots WHERE slot = ?1";

/// Selects the states of those slots of the JSON array `?1` that the shard knows.
pub(super) const SLOT_STATES: &str = "SELECT slot, state, until, moved_to FROM tessera_slots
    WHERE slot IN (SELECT value FROM json_each(?1))";

/// Selects all slots that the shard knows, and 1 for those that it owns.
pub(super) const OWNED_SLOTS: &str = "SELECT slot, state IN ('owned', 'fenced') FROM tessera_slots";

/// Sets the state of the slots of the JSON array `?1`.
pub(super) const SET_SLOTS: &str =
    "INSERT INTO tessera_slots (slot, state, fenced_at, until, moved_to)
    SELECT value, ?2, ?3, ?4, ?5 FROM json_each(?1) WHERE TRUE
    ON CONFLICT (slot) DO UPDATE SET state = excluded.state, fenced_at = excluded.fenced_at,
    until = excluded.until, moved_to = excluded.moved_to";

/// Stores the position at which the owned slots changed.
pub(super) const SET_GENERATION: &str = "UPDATE tessera_shard SET generation = ?1 WHERE id = 1";

/// Selects the position at which the owned slots changed.
pub(super) const GENERATION: &str = "SELECT generation FROM tessera_shard WHERE id = 1";

/// Subtracts from the number of rows of a table. A number that was wrong before must not prevent a
/// change of slots.
pub(super) const SUBTRACT_ROWS: &str =
    "UPDATE tessera_counts SET rows = max(rows - ?2, 0) WHERE name = ?1";

/// Adds to the number of foreign rows of a table.
pub(super) const ADD_FOREIGN_ROWS: &str =
    "INSERT INTO tessera_foreign_counts (name, rows) VALUES (?1, ?2)
    ON CONFLICT (name) DO UPDATE SET rows = rows + excluded.rows";

/// Subtracts from the number of foreign rows of a table.
pub(super) const SUBTRACT_FOREIGN_ROWS: &str =
    "UPDATE tessera_foreign_counts SET rows = max(rows - ?2, 0) WHERE name = ?1";

/// Selects the numbers of foreign rows.
pub(super) const FOREIGN_COUNTS: &str =
    "SELECT name, rows FROM tessera_foreign_counts WHERE rows > 0 ORDER BY name";

/// Removes the number of foreign rows of a table.
pub(super) const REMOVE_FOREIGN_COUNT: &str = "DELETE FROM tessera_foreign_counts WHERE name = ?1";

/// Removes the record of the slots of the JSON array `?1`.
pub(super) const REMOVE_SLOTS: &str =
    "DELETE FROM tessera_slots WHERE slot IN (SELECT value FROM json_each(?1))";

/// Selects the rows of all moves, each as a JSON object.
pub(super) const MOVES: &str = "SELECT json_object('id', id, 'role', role, 'other', other,
    'slots', slots, 'leg', leg, 'term', term, 'mover', mover, 'pass', pass, 'round', round,
    'feed_timeline', feed_timeline, 'feed_begun_timeline', feed_begun_timeline,
    'feed_begun', feed_begun, 'mark', mark, 'cursor', cursor, 'copied_to', copied_to,
    'traced_after', traced_after, 'begun_timeline', begun_timeline, 'begun', begun,
    'version', version, 'home_timeline', home_timeline, 'home', home)
    FROM tessera_moves ORDER BY id";

/// Stores the row of a move, a JSON object.
pub(super) const STORE_MOVE: &str = "INSERT OR REPLACE INTO tessera_moves
    (id, role, other, slots, leg, term, mover, pass, round, feed_timeline, feed_begun_timeline,
    feed_begun, mark, cursor, copied_to, traced_after, begun_timeline, begun, version,
    home_timeline, home)
    VALUES (?1->>'id', ?1->>'role', ?1->>'other', ?1->>'slots', ?1->>'leg', ?1->>'term',
    ?1->>'mover', ?1->>'pass', ?1->>'round', ?1->>'feed_timeline', ?1->>'feed_begun_timeline',
    ?1->>'feed_begun', ?1->>'mark', ?1->>'cursor', ?1->>'copied_to', ?1->>'traced_after',
    ?1->>'begun_timeline', ?1->>'begun', ?1->>'version', ?1->>'home_timeline', ?1->>'home')";

/// Removes the row of a move.
pub(super) const REMOVE_MOVE: &str = "DELETE FROM tessera_moves WHERE id = ?1";

/// Selects the numbers of rows in the slots of a move.
pub(super) const MOVE_COUNTS: &str = "SELECT name, rows FROM tessera_move_counts WHERE id = ?1";

/// Adds to the number of rows of a table in the slots of a move.
pub(super) const ADD_MOVE_ROWS: &str =
    "INSERT INTO tessera_move_counts (id, name, rows) VALUES (?1, ?2, ?3)
    ON CONFLICT (id, name) DO UPDATE SET rows = rows + excluded.rows";

/// Removes the numbers of rows in the slots of a move.
pub(super) const REMOVE_MOVE_COUNTS: &str = "DELETE FROM tessera_move_counts WHERE id = ?1";

/// Selects the entries of the log after a position.
pub(super) const ENTRIES_AFTER: &str =
    "SELECT position, changes FROM tessera_log WHERE position > ?1 ORDER BY position";

/// Selects the answered columns of the rows of a slot after a key, in the order in which they are
/// stored, and their shard key last. Parameters: slot, highest number of rows, and, if `after` is
/// true, shard key and id of the key after which the rows begin.
pub(super) fn select_chunk(table: &Table, after: bool) -> String {
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, table, table.answered());
    let _ = write!(sql, ",shard_key FROM {} WHERE slot=?1", table.name());
    if after {
        sql.push_str(" AND (shard_key");
        for column in table.id() {
            let _ = write!(sql, ",{}", table.column(*column).name);
        }
        sql.push_str(") > (");
        push_list(&mut sql, 3..4 + table.id().len(), push_parameter);
        sql.push(')');
    }
    sql.push_str(" ORDER BY shard_key");
    for column in table.id() {
        let _ = write!(sql, ",{}", table.column(*column).name);
    }
    sql.push_str(" LIMIT ?2+0");
    sql
}

/// Selects the id columns, the shard key and the slot of some rows in the slots of the JSON array
/// `?1`, at most `?2`.
pub(super) fn select_keys(table: &Table) -> String {
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, table, table.id().iter().copied());
    let _ = write!(
        sql,
        ",shard_key,slot FROM {} WHERE slot IN (SELECT value FROM json_each(?1)) LIMIT ?2+0",
        table.name()
    );
    sql
}

/// Selects the number of rows of a table in the slots of the JSON array `?1`.
pub(super) fn count_slots(table: &Table) -> String {
    let table = table.name();
    format!("SELECT count(*) FROM {table} WHERE slot IN (SELECT value FROM json_each(?1))")
}

/// Selects the highest version of the rows of a table in the slots of the JSON array `?1`.
pub(super) fn max_version(table: &Table) -> String {
    let table = table.name();
    format!("SELECT max(version) FROM {table} WHERE slot IN (SELECT value FROM json_each(?1))")
}

/// Appends an entry to the change log. Parameters: position, time, lines.
pub(super) const APPEND_LOG: &str =
    "INSERT INTO tessera_log (position, at, changes) VALUES (?1, ?2, ?3)";

/// Stores the counters, which only grow.
pub(super) const SET_COUNTERS: &str =
    "UPDATE tessera_shard SET version = ?1, position = ?2 WHERE id = 1";

/// Adds to the number of rows of a table.
pub(super) const ADD_ROWS: &str = "UPDATE tessera_counts SET rows = rows + ?2 WHERE name = ?1";

/// Stores the version, position and timeline of a replica.
pub(super) const SET_REPLICA: &str =
    "UPDATE tessera_shard SET version = ?1, position = ?2, timeline = ?3 WHERE id = 1";

/// Changes a counter, so that its commit syncs the file.
pub(super) const COUNT_SYNC: &str = "UPDATE tessera_shard SET syncs = syncs + 1 WHERE id = 1";

/// Selects the number of rows of a table.
pub(super) const COUNTED: &str = "SELECT rows FROM tessera_counts WHERE name = ?1";

/// Selects the position of a file.
pub(super) const POSITION: &str = "SELECT position FROM tessera_shard WHERE id = 1";

/// Selects up to `?3` log entries after position `?1`, up to position `?2`.
pub(super) const LOG_AFTER: &str = "SELECT position, changes FROM tessera_log
    WHERE position > ?1 AND position <= ?2 ORDER BY position LIMIT ?3+0";

/// Selects the first position of the log, and the bytes of all its entries.
pub(super) const LOG_EXTENT: &str = "SELECT min(position), sum(length(changes)) FROM tessera_log";

/// Selects the first position of the log.
pub(super) const LOG_START: &str = "SELECT min(position) FROM tessera_log";

/// Selects one row if the log has any entry.
pub(super) const LOG_FIRST: &str = "SELECT position FROM tessera_log LIMIT 1";

/// Selects the log entries up to a position, with their bytes. Returning them from the deletion
/// would read all pages of each entry twice.
pub(super) const LOG_SIZES: &str =
    "SELECT position, length(changes) FROM tessera_log WHERE position <= ?1 ORDER BY position";

/// Removes log entries up to a position.
pub(super) const TRIM_LOG: &str = "DELETE FROM tessera_log WHERE position <= ?1";

/// Selects the record of an idempotency key. Parameters: slot, shard key, key.
pub(super) const REMEMBERED: &str = "SELECT fingerprint, answer FROM tessera_idempotency
    WHERE slot = ?1 AND shard_key = ?2 AND idempotency_key = ?3";

/// Selects one row if there is a record created from `?1` on and before `?2`.
pub(super) const WITNESS: &str =
    "SELECT 1 FROM tessera_idempotency WHERE created_at >= ?1 AND created_at < ?2 LIMIT 1";

/// Selects up to `?3` records created from `?1` on and before `?2`, in slots that accept writes at
/// the time `?4` and are not in a move.
pub(super) const FORGOTTEN: &str = concat!(
    "SELECT slot, shard_key, idempotency_key FROM tessera_idempotency AS record
    WHERE created_at >= ?1 AND created_at < ?2
    AND EXISTS (SELECT 1 FROM tessera_slots WHERE slot = record.slot AND ",
    accepts_writes!("?4"),
    ") AND NOT EXISTS (SELECT 1 FROM tessera_moves, json_each(tessera_moves.slots)
    WHERE value = record.slot) ORDER BY created_at LIMIT ?3+0"
);

/// Selects the slots in a file.
pub(super) const SLOTS: &str = "SELECT slot, state FROM tessera_slots ORDER BY slot";

/// Selects tables of a file that were created neither by Tessera nor through it.
pub(super) const UNDECLARED_TABLES: &str = "SELECT name FROM sqlite_schema WHERE type = 'table'
    AND name NOT LIKE 'tessera\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
    AND name <> '__diesel_schema_migrations'
    AND name NOT IN (SELECT name FROM tessera_tables) ORDER BY name";

/// Selects names and texts of the indexes of the table `?1` that were created through Tessera.
pub(super) const INDEXES_OF: &str = "SELECT name, sql FROM sqlite_schema
    WHERE type = 'index' AND tbl_name = ?1 AND name LIKE 'tessera\\_ix\\_%' ESCAPE '\\'";

/// Selects the tables with an index that was created through Tessera and is unique.
pub(super) const UNIQUE_INDEXES: &str = "SELECT tbl_name FROM sqlite_schema WHERE type = 'index'
    AND sql LIKE 'CREATE UNIQUE%' AND name LIKE 'tessera\\_ix\\_%' ESCAPE '\\'";

/// Selects the table and the columns, as a JSON array, of each unique index of all rows of a table.
/// A column that is an expression is null.
pub(super) const UNIQUE_COLUMNS: &str = "SELECT own.tbl_name,
    (SELECT json_group_array(part.name) FROM pragma_index_info(own.name) AS part)
    FROM sqlite_schema AS own WHERE own.type = 'index' AND own.sql LIKE 'CREATE UNIQUE%'
    AND own.sql NOT LIKE '%)%WHERE%'";

/// Selects one row if there is an index of this name.
pub(super) const INDEX_NAMED: &str =
    "SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?1";

/// Selects the migrations that ran on a file.
pub(super) const MIGRATED: &str = "SELECT version FROM __diesel_schema_migrations ORDER BY version";

/// Selects the owner of a shard's file, under every schema.
pub(super) const SIGNED: &str = "SELECT cluster_id, shard FROM tessera_shard";

/// Selects the id of a cluster and the names of its shards, under every schema.
pub(super) const CLUSTER: &str = "SELECT cluster_id, shards, ready FROM tessera_cluster";

/// Returns a row if a file has a table of migrations.
pub(super) const HAS_MIGRATIONS: &str =
    "SELECT 1 FROM sqlite_schema WHERE name = '__diesel_schema_migrations'";

/// Selects the names of the shards that have files, by number, if they have a table of their own.
/// Files of a joining shard may be incomplete, and contain no rows.
pub(super) const SHARD_NAMES: &str =
    "SELECT name FROM tessera_shards WHERE state NOT IN ('joining', 'retired') ORDER BY number";

/// Inserts the first owner of every slot from a list of numbers of shards, in the order of slots.
pub(super) const FILL_OWNERS: &str = "INSERT INTO tessera_owners (group_name, slot, shard, since)
    SELECT ?1, key, value, 1 FROM json_each(?2)";

/// Inserts the first owners of the slots of new groups, from a JSON array of pairs of slot and
/// shard.
pub(super) const ADD_OWNERS: &str = "INSERT INTO tessera_owners (group_name, slot, shard, since)
    SELECT ?1, value ->> 0, value ->> 1, ?3 FROM json_each(?2)";

/// Selects the owners of all slots, by slot.
pub(super) const OWNERS: &str =
    "SELECT slot, shard, since FROM tessera_owners WHERE group_name = ?1 ORDER BY slot";

/// Changes the owner of some slots.
pub(super) const SET_OWNERS: &str = "UPDATE tessera_owners
    SET shard = ?1, since = ?2, floor_timeline = ?3, floor_position = ?4, came_from = ?5
    WHERE group_name = ?6 AND slot IN (SELECT value FROM json_each(?7))";

/// Returns a row if a catalog has a table of API keys.
pub(super) const HAS_ACCESS_KEYS: &str =
    "SELECT 1 FROM sqlite_schema WHERE name = 'tessera_access_keys'";

/// Returns a row if a catalog has API keys.
pub(super) const ANY_ACCESS_KEY: &str = "SELECT 1 FROM tessera_access_keys LIMIT 1";

/// Selects one row if the schema of a catalog contains the timelines of its shards.
pub(super) const HAS_TIMELINES: &str =
    "SELECT name FROM pragma_table_info('tessera_cluster') WHERE name = 'timelines'";

/// Writes one snapshot of the file into a new one.
pub(super) const VACUUM_INTO: &str = "VACUUM INTO ?1";

/// Attaches a second database; the statement below writes one snapshot of it into a new file.
pub(super) const ATTACH_TAKEN: &str = "ATTACH ?1 AS taken";
pub(super) const VACUUM_TAKEN_INTO: &str = "VACUUM taken INTO ?1";
