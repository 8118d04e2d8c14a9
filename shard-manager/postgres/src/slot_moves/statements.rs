//! Statements of moves, in PostgreSQL's dialect.
//!
//! **Invariant:** a statement consists of constants and of names from the table registry; values
//! are passed as numbered parameters.
//! **Not here:** the functions that they call (`migrations`).

use std::fmt::Write as _;

use engine::sql_list::push_list;
use model::table::Table;

use crate::sql::{column_type, place, push_names, push_row_hash, push_rows};

/// Expression for the slots `$1` together with the slots of the move `$2`.
macro_rules! slots {
    () => {
        "array_cat($1::integer[],ARRAY(SELECT number::integer FROM tessera_slot_moves,\
         json_array_elements_text(slots::json) AS number WHERE id=$2))"
    };
}

/// Takes the locks of a change. The function of the migration describes the parameters and the
/// result.
pub(super) const LOCK: &str = "SELECT tessera_lock_move($1,$2,$3,$4)";

/// Selects the records of all moves as JSON objects, each with a flag that is true if changes are
/// recorded for the move and the record was stored by a server with another system identifier than
/// `$1`. The feed of such a move (its stream of recorded changes) is given another beginning, so
/// that copies that have followed the former feed are not continued.
pub(super) const MOVES: &str = "SELECT (to_jsonb(own)-'system'||jsonb_build_object('begun',\
    begun+is_foreign::integer))::text,is_foreign FROM tessera_slot_moves AS own,\
    LATERAL (SELECT system<>$1 AND traced_after IS NOT NULL AS is_foreign) AS origin ORDER BY id";

/// Takes the locks like [`LOCK`], and in the same statement looks for changes of the move `$1` that
/// are not visible in the snapshot `$5`. The statement's own snapshot is older than the locks, so
/// it misses the changes of writes for which a lock had to wait. Used only by a sabotage mutation.
pub(super) const LOCK_AND_LOOK: &str = "SELECT holder,tessera_has_change(ARRAY(SELECT \
    number::integer FROM tessera_slot_moves,json_array_elements_text(slots::json) AS number \
    WHERE id=$1),$5) FROM (SELECT tessera_lock_move($1,$2,$3,$4) AS holder OFFSET 0) AS held";

/// Removes all recorded changes of the slots `$1`.
pub(super) const FORGET_CHANGES: &str = "DELETE FROM tessera_changes WHERE slot=ANY($1)";

/// Selects the states of the slots `$1` and of the slots of the move `$2`. Columns: slot, state,
/// end of the fence (the time without writes) in milliseconds, new owner.
pub(super) const STATES: &str = concat!(
    "SELECT slot::bigint,state,(extract(epoch FROM until)*1000)::bigint,moved_to FROM tessera_slots ",
    "WHERE slot=ANY(",
    slots!(),
    ")"
);

/// Selects the clock of the node in milliseconds, the highest version that a row may have, the
/// insert position of the log, and true if a change of the slots `$1` or of the move `$2` is
/// recorded that is not visible in the snapshot `$3`. Versions are drawn in blocks, and the counter
/// is the first version of the last block.
pub(super) const SCENE: &str = concat!(
    "SELECT (extract(epoch FROM clock_timestamp())*1000)::bigint,last_value+4095,",
    "(pg_current_wal_insert_lsn()-'0/0')::bigint,tessera_has_change(",
    slots!(),
    ",$3) FROM tessera_version"
);

/// Selects the names of the tables whose changes are not recorded.
pub(super) const UNRECORDED: &str = "SELECT tessera_unrecorded()";

/// Selects the tables whose triggers are enabled although no move needs them.
pub(crate) const NEEDLESSLY_RECORDED: &str = "SELECT tessera_needlessly_recorded()";

/// Enables the triggers of the table `$1`, whose id has the columns `$2`. The trigger function runs
/// with the settings `$3`.
pub(super) const ENABLE_RECORDING: &str = "SELECT tessera_enable_recording($1,$2,$3)";

/// Enables the triggers of a new table if changes are being recorded. Parameters: those of
/// [`ENABLE_RECORDING`].
pub(super) const ENABLE_RECORDING_OF_NEW: &str = "SELECT tessera_enable_recording($1,$2,$3) \
    WHERE EXISTS (SELECT FROM tessera_slot_moves WHERE traced_after IS NOT NULL)";

/// Disables the triggers of the table `$1`.
pub(super) const DISABLE_RECORDING: &str = "SELECT tessera_disable_recording($1)";

/// Begins the recording of changes of the slots `$1` if `$2` is true, and ends it otherwise.
pub(super) const FOLLOW: &str = "SELECT tessera_follow($1,$2)";

/// Deletes at most `$1` recorded changes of slots that are not followed (whose changes are no
/// longer recorded), and returns the number of changes that it has found. If a concurrent
/// transaction begins to follow slots, the changes that are recorded from then on are not visible
/// in the snapshot of this statement, so they are not deleted. The changes are counted before the
/// deletion, because another session may delete the same ones meanwhile. Because of the
/// concatenation, the server decompresses the bits once instead of for each change.
pub(super) const DELETE_LEFT_CHANGES: &str = "WITH left_over AS MATERIALIZED (SELECT ctid AS place \
    FROM tessera_changes WHERE get_bit((SELECT bits||''::bytea FROM tessera_followed \
    WHERE id=1),slot)=0 LIMIT $1),gone AS (DELETE FROM tessera_changes WHERE ctid=ANY(ARRAY(SELECT place \
    FROM left_over))) SELECT count(*) FROM left_over";

/// Deletes recorded changes of the slots `$1` that are visible in the snapshot `$2`.
pub(super) const TRIM: &str = "DELETE FROM tessera_changes \
    WHERE slot=ANY($1) AND xid<pg_snapshot_xmax($2::text::pg_snapshot) \
    AND pg_visible_in_snapshot(xid,$2::text::pg_snapshot)";

/// Raises the version counter to `$1`.
pub(super) const RAISE_VERSION: &str = "SELECT setval('tessera_version',$1)";

/// Sets the state of the slots `$1` to `$2`, with the begin `$3` and the end `$4` of a fence in
/// milliseconds, and the shard `$5` to which the slots have moved. Parameters that do not apply to
/// the state are null.
pub(super) const STORE_STATES: &str = "INSERT INTO tessera_slots (slot,state,since,until,moved_to) \
    SELECT own,$2,to_timestamp($3::double precision/1000),to_timestamp($4::double precision/1000),$5 \
    FROM unnest($1) AS own ON CONFLICT (slot) DO UPDATE SET state=excluded.state,\
    since=excluded.since,until=excluded.until,moved_to=excluded.moved_to";

/// Removes the states of the slots `$1`.
pub(super) const REMOVE_STATES: &str = "DELETE FROM tessera_slots WHERE slot=ANY($1)";

/// Stores the record of a move, the JSON object `$1`, with the system identifier `$2`.
pub(super) const STORE_MOVE: &str = "INSERT INTO tessera_slot_moves \
    SELECT * FROM jsonb_populate_record(NULL::tessera_slot_moves,\
    $1::text::jsonb||jsonb_build_object('system',$2::text)) \
    ON CONFLICT (id) DO UPDATE SET (role,other,slots,leg,term,mover,pass,round,feed_timeline,\
    feed_begun_timeline,feed_begun,mark,cursor,copied_to,traced_after,begun_timeline,begun,version,\
    home_timeline,home,system)=(excluded.role,excluded.other,excluded.slots,excluded.leg,excluded.term,\
    excluded.mover,excluded.pass,excluded.round,excluded.feed_timeline,excluded.feed_begun_timeline,\
    excluded.feed_begun,excluded.mark,excluded.cursor,excluded.copied_to,excluded.traced_after,\
    excluded.begun_timeline,excluded.begun,excluded.version,excluded.home_timeline,excluded.home,\
    excluded.system)";

/// Removes the record of the move `$1`.
pub(super) const REMOVE_MOVE: &str = "DELETE FROM tessera_slot_moves WHERE id=$1";

/// Selects two flags: true if the shard has rows of the slots `$1`, and true if a change of these
/// slots is recorded that is not visible in the snapshot `$2`.
pub(super) const FACTS: &str = "SELECT tessera_has_rows($1),tessera_has_change($1,$2)";

/// Selects true if at least `$2` changes of the slots `$1` are recorded. They are counted only if
/// the statistics of the server, which cost nothing to read, show at least that number of changes
/// of all slots together.
pub(super) const HAS_TOO_MANY_CHANGES: &str = "SELECT CASE WHEN \
    pg_stat_get_live_tuples('tessera.tessera_changes'::regclass)<$2::bigint THEN false ELSE \
    (SELECT count(*) FROM (SELECT FROM tessera_changes WHERE slot=ANY($1) LIMIT $2::bigint) \
    AS first)>=$2::bigint END";

/// Selects the snapshot of the transaction.
pub(super) const SNAPSHOT: &str = "SELECT pg_current_snapshot()::text";

/// Selects the transactions of the first `$3` changes of the slots `$1` that are not visible in the
/// snapshot `$2`, and for each transaction the number of these changes.
pub(super) const CHANGED_BY: &str = "SELECT xid::text::bigint,count(*) FROM (SELECT xid \
    FROM tessera_changes WHERE slot=ANY($1) AND xid>=pg_snapshot_xmin($2::text::pg_snapshot) \
    AND NOT pg_visible_in_snapshot(xid,$2::text::pg_snapshot) ORDER BY xid LIMIT $3) AS first \
    GROUP BY xid ORDER BY xid";

/// Selects the keys of the slots `$1` that were changed by transactions that have an id below `$3`
/// and are not visible in the snapshot `$2`. Columns: table, slot, shard key, values of the id as a
/// JSON array.
pub(super) const CHANGED_KEYS: &str = "SELECT DISTINCT table_name,slot::bigint,shard_key,\
    array_to_json(ids)::text FROM tessera_changes \
    WHERE slot=ANY($1) AND xid>=pg_snapshot_xmin($2::text::pg_snapshot) \
    AND NOT pg_visible_in_snapshot(xid,$2::text::pg_snapshot) AND xid<$3::text::xid8 \
    ORDER BY 1,2,3,4";

/// Selects, for each column of the table `$1` in order, the object id of the table's row type, the
/// name of the column, and the object id of the column's type.
pub(super) const ROW_TYPE: &str = "SELECT c.reltype::bigint,a.attname::text,a.atttypid::bigint \
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid=c.oid \
    WHERE c.oid=to_regclass($1) AND a.attnum>0 AND NOT a.attisdropped ORDER BY a.attnum";

/// Selects the columns of each unique index of the table `$1` except the primary key, as a JSON
/// array of names. Expression indexes and partial indexes are left out, because only an operator
/// can have created them.
pub(super) const UNIQUE_COLUMNS: &str = "SELECT array_to_json(array_agg(a.attname::text))::text \
    FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid=i.indrelid AND a.attnum=ANY(i.indkey) \
    WHERE i.indrelid=to_regclass($1) AND i.indisunique AND NOT i.indisprimary \
    AND i.indexprs IS NULL AND i.indpred IS NULL GROUP BY i.indexrelid";

/// Selects the valid unique indexes of the tables `$1`, each with its table and its columns as in
/// [`UNIQUE_COLUMNS`]. An index that is being built or dropped is left out, because rows may
/// violate it.
pub(super) const UNIQUE_INDEXES: &str = "SELECT t.relname,\
    array_to_json(array_agg(a.attname::text))::text FROM unnest($1::text[]) AS t(relname) \
    JOIN pg_index AS i ON i.indrelid=to_regclass('public.'||quote_ident(t.relname)) \
    JOIN pg_attribute AS a ON a.attrelid=i.indrelid AND a.attnum=ANY(i.indkey) \
    WHERE i.indisunique AND i.indisvalid \
    AND NOT i.indisprimary AND i.indexprs IS NULL AND i.indpred IS NULL \
    GROUP BY t.relname,i.indexrelid";

/// Removes each stored row that has the same slot, shard key and values in the columns `unique` of
/// a unique index as one of the given rows. Parameters: all columns of the given rows.
///
/// Rows of other shard keys stay, even if they have the same values in an index that an operator
/// has created, because they may belong to slots that the shard owns.
pub(super) fn displace_rows(table: &Table, unique: &[usize]) -> String {
    let columns: Vec<usize> = (0..table.columns().len()).collect();
    let mut sql = format!("DELETE FROM {} r USING ", table.name());
    push_rows(&mut sql, table, &columns, 1);
    sql.push_str(" WHERE r.slot=k.slot AND r.shard_key=k.shard_key");
    for column in unique.iter().filter(|column| !Table::PLACE.contains(column)) {
        let name = &table.column(*column).name;
        let _ = write!(sql, " AND r.{name}=k.{name}");
    }
    sql
}

/// Stores new rows. Parameter: an array of rows of the table. The statement contains the object id
/// of their type in a comment: a table that was dropped and created again has another id, so
/// another statement is prepared for it.
pub(super) fn insert_rows(table: &Table, row_type: u32) -> String {
    let columns = 0..table.columns().len();
    let mut sql = format!("INSERT INTO {} (", table.name());
    push_names(&mut sql, "", table, columns.clone());
    sql.push_str(") SELECT ");
    push_names(&mut sql, "k.", table, columns);
    let _ = write!(sql, " FROM unnest($1::public.{}[]/*{row_type}*/) AS k", table.name());
    sql
}

/// Reads rows by their keys. Parameters: slots, shard keys, and for each column of the id the
/// values as strings. If `is_bounded` is true, reads only rows up to a key, whose slot, shard key
/// and id are further parameters.
pub(super) fn select_rows(table: &Table, is_bounded: bool) -> String {
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, "r.", table, 0..table.columns().len());
    sql.push_str(" FROM ");
    push_text_keys(&mut sql, table);
    let _ = write!(sql, " JOIN {} r ON ", table.name());
    push_is_key(&mut sql, table);
    if is_bounded {
        let first = table.id().len() + 3;
        sql.push_str(" WHERE (");
        push_names(&mut sql, "r.", table, place(table).into_iter());
        sql.push_str(")<=(");
        push_list(&mut sql, place(table).into_iter().zip(first..), |sql, (column, number)| {
            let _ = write!(sql, "${number}::{}", column_type(table, column));
        });
        sql.push(')');
    }
    sql
}

/// Removes rows by their keys. Parameters: those of [`select_rows`].
pub(super) fn remove_rows(table: &Table) -> String {
    let mut sql = format!("DELETE FROM {} r USING ", table.name());
    push_text_keys(&mut sql, table);
    sql.push_str(" WHERE ");
    push_is_key(&mut sql, table);
    sql
}

/// Reads at most `$2` rows of the slot `$1` in the order of their keys. If `has_begun` is true,
/// reads only rows after a key, whose shard key and id are further parameters.
pub(super) fn select_chunk(table: &Table, has_begun: bool) -> String {
    let key: Vec<usize> = place(table).into_iter().skip(1).collect();
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, "", table, 0..table.columns().len());
    let _ = write!(sql, " FROM {} WHERE slot=$1", table.name());
    if has_begun {
        sql.push_str(" AND (");
        push_names(&mut sql, "", table, key.iter().copied());
        sql.push_str(")>(");
        push_list(&mut sql, key.iter().zip(3..), |sql, (column, number)| {
            let _ = write!(sql, "${number}::{}", column_type(table, *column));
        });
        sql.push(')');
    }
    sql.push_str(" ORDER BY ");
    push_names(&mut sql, "", table, key.iter().copied());
    sql + " LIMIT $2"
}

/// Deletes at most `$2` rows of the slots `$1`, those of the lowest slots first. Returns the number
/// of deleted rows and the highest of their slots.
pub(super) fn delete_batch(table: &Table) -> String {
    let name = table.name();
    format!(
        "WITH gone AS (DELETE FROM {name} WHERE ctid=ANY(ARRAY(SELECT ctid FROM {name} \
         WHERE slot=ANY($1) ORDER BY slot LIMIT $2)) RETURNING slot) SELECT count(*),max(slot)::bigint FROM gone"
    )
}

/// Selects, for each of the slots `$1`, the number of its rows and the sum of their hashes.
pub(super) fn digest(table: &Table) -> String {
    let mut sql = "SELECT slot::bigint,count(*),sum(".to_owned();
    push_row_hash(&mut sql, table);
    let _ = write!(sql, ")::text FROM {} WHERE slot=ANY($1) GROUP BY slot", table.name());
    sql
}

/// Selects the shard key, the id and the hash of at most `$2` rows of the slot `$1`, in the order
/// of their keys. If `has_begun` is true, selects only rows after a key, and if `is_bounded` is
/// true, only rows up to a key. The shard key and the id of each bound are further parameters.
pub(super) fn row_hashes(table: &Table, has_begun: bool, is_bounded: bool) -> String {
    let key: Vec<usize> = place(table).into_iter().skip(1).collect();
    let mut sql = "SELECT ".to_owned();
    push_names(&mut sql, "", table, key.iter().copied());
    sql.push_str(",(");
    push_row_hash(&mut sql, table);
    let _ = write!(sql, ")::text FROM {} WHERE slot=$1", table.name());
    let (mut first, bounds) = (3, [(">", has_begun), ("<=", is_bounded)]);
    for (sign, _) in bounds.into_iter().filter(|(_, is_there)| *is_there) {
        sql.push_str(" AND (");
        push_names(&mut sql, "", table, key.iter().copied());
        let _ = write!(sql, "){sign}(");
        push_list(&mut sql, key.iter().zip(first..), |sql, (column, number)| {
            let _ = write!(sql, "${number}::{}", column_type(table, *column));
        });
        sql.push(')');
        first += key.len();
    }
    sql.push_str(" ORDER BY ");
    push_names(&mut sql, "", table, key.iter().copied());
    sql + " LIMIT $2"
}

/// Selects the shard key and the id of at most `$4` rows of the table `$2` in the slot `$1` that
/// have recorded changes that are not visible in the snapshot `$3`.
pub(super) fn changed_keys(table: &Table) -> String {
    let mut sql = "SELECT DISTINCT shard_key".to_owned();
    for (column, number) in table.id().iter().zip(1..) {
        let _ = write!(sql, ",ids[{number}]::{} AS _{number}", column_type(table, *column));
    }
    sql + " FROM tessera_changes WHERE slot=$1 AND table_name=$2 \
         AND xid>=pg_snapshot_xmin($3::text::pg_snapshot) \
         AND NOT pg_visible_in_snapshot(xid,$3::text::pg_snapshot) LIMIT $4"
}

/// Appends `unnest($1::integer[],$2::text[],…) AS k(slot,shard_key,_1,…)`.
fn push_text_keys(sql: &mut String, table: &Table) {
    sql.push_str("unnest($1::integer[],$2::text[]");
    for number in 0..table.id().len() {
        let _ = write!(sql, ",${}::text[]", number + 3);
    }
    sql.push_str(") AS k(slot,shard_key");
    for number in 1..=table.id().len() {
        let _ = write!(sql, ",_{number}");
    }
    sql.push(')');
}

fn push_is_key(sql: &mut String, table: &Table) {
    sql.push_str("r.slot=k.slot AND r.shard_key=k.shard_key");
    for (column, number) in table.id().iter().zip(1..) {
        let name = &table.column(*column).name;
        let _ = write!(sql, " AND r.{name}=k._{number}::{}", column_type(table, *column));
    }
}

#[cfg(test)]
mod tests {
    use model::idempotency;

    use super::*;

    #[test]
    fn rows_are_found_by_the_texts_of_their_keys() {
        let table = &idempotency::TABLE;
        assert_eq!(
            remove_rows(table),
            "DELETE FROM tessera_idempotency r USING unnest($1::integer[],$2::text[],$3::text[]) \
             AS k(slot,shard_key,_1) WHERE r.slot=k.slot AND r.shard_key=k.shard_key AND \
             r.idempotency_key=k._1::text"
        );
        assert!(select_rows(table, true).ends_with(
            " WHERE (r.slot,r.shard_key,r.idempotency_key)<=($4::integer,$5::text,$6::text)"
        ));
    }

    #[test]
    fn a_chunk_goes_on_after_a_key_in_the_order_of_the_primary_key() {
        let sql = select_chunk(&idempotency::TABLE, true);
        let end = "WHERE slot=$1 AND (shard_key,idempotency_key)>($3::text,$4::text) \
            ORDER BY shard_key,idempotency_key LIMIT $2";
        assert!(sql.ends_with(end), "{sql}");
    }

    #[test]
    fn rows_with_a_unique_value_of_a_row_are_found_by_all_columns_of_the_index_within_its_key() {
        let name = &idempotency::TABLE.column(2).name;
        let end = format!("WHERE r.slot=k.slot AND r.shard_key=k.shard_key AND r.{name}=k.{name}");
        // The second index is one that an operator has made.
        for unique in [&[Table::SLOT, Table::SHARD_KEY, 2][..], &[2]] {
            let sql = displace_rows(&idempotency::TABLE, unique);
            let start = "DELETE FROM tessera_idempotency r USING unnest($1::integer[],";
            assert!(sql.starts_with(start) && sql.ends_with(&end), "{sql}");
        }
    }

    #[test]
    fn hashes_of_rows_are_read_between_two_keys() {
        let sql = row_hashes(&idempotency::TABLE, true, true);
        let end = "WHERE slot=$1 AND (shard_key,idempotency_key)>($3::text,$4::text) \
            AND (shard_key,idempotency_key)<=($5::text,$6::text) \
            ORDER BY shard_key,idempotency_key LIMIT $2";
        assert!(sql.ends_with(end), "{sql}");
        let sql = row_hashes(&idempotency::TABLE, false, true);
        assert!(sql.contains("WHERE slot=$1 AND (shard_key,idempotency_key)<=($3::text,$4::text)"));
    }
}
