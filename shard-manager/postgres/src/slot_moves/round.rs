//! Round: the rows that a copy reads in one step, all in one snapshot.
//!
//! A round contains the rows that have changed since the last round, and a chunk: the next rows in
//! the order of their keys. The cursor is the key up to which rows were copied. A changed key is
//! sent as its removal, followed by the row that it has in the snapshot, if there is one and the
//! copy has reached it. Rows beyond the cursor come with the chunk that reaches them.
//!
//! If too many keys have changed for one round, the round contains only the changes of transactions
//! with an id below a limit, and no chunk. Transactions below the limit that are still open belong
//! to a later round.
//!
//! **Invariant:** once a round is stored, the copy has, for all rows up to the cursor of the round,
//! every change that its mark covers; every other change is in a later round.
//! **Not here:** the rows of one slot (`chunk`), storing a round (`move_change`).

use std::collections::BTreeMap;

use diesel::QueryResult;
use engine::copy_key::CopyKey;
use engine::move_record::move_name;
use engine::slot_move::{
    RoundError, RoundQuery, RoundRead, RoundRows, RoundTable, SlotDigest, recorded_feed,
};
use engine::stored_move::StoredMove;
use model::table::Table;
use moves::identity::MoveId;
use moves::mark::Mark;
use moves::move_row::{CopyCursor, MoveRow};
use moves::round::CopyRound;

use super::chunk::{Chunk, id_binds};
use super::facts::ONE_SNAPSHOT;
use super::move_change::tables;
use super::move_metadata::{self, slot_bind};
use super::move_session::{MoveSession, end};
use super::{digests, snapshot_mark, statements};
use crate::db_error::unreadable;
use crate::row_arrays::ColumnArrays;
use crate::statement::{Bind, RowView, Statement, for_each_row, load, run};

/// Maximum number of bytes of the changed keys of a round and their rows, unless one transaction
/// has changed more.
const CHANGED_BYTES_MAX: usize = 2 << 20;
/// Maximum number of changed keys of a round, unless one transaction has changed more.
const KEYS_MAX: usize = 5_000;
/// Maximum number of keys that one transaction may have changed. If it has changed more, the copy
/// begins again, which costs less memory.
const KEYS_OF_ONE_MAX: usize = 100_000;
/// Number of changes that are counted to find those of a round. Counting all changes would take
/// longer the further a copy is behind.
const CHANGES_COUNTED: usize = 4 * KEYS_MAX;
/// Maximum number of bytes of the keys and rows that one transaction may have changed. If there are
/// more, the copy begins again, which costs less memory.
const BYTES_OF_ONE_MAX: usize = 64 << 20;
/// Number of keys whose rows one statement reads.
const KEYS_TOGETHER: usize = 500;

type RoundResult<T> = QueryResult<Result<T, RoundError>>;

/// Reads the next round.
pub(super) async fn read(session: &mut MoveSession, query: &RoundQuery) -> RoundResult<RoundRead> {
    run(&session.connection, ONE_SNAPSHOT).await?;
    let read = read_in_snapshot(session, query).await?;
    end(session, read).await
}

async fn read_in_snapshot(session: &MoveSession, query: &RoundQuery) -> RoundResult<RoundRead> {
    let present = snapshot(session).await?;
    let row = row(session, query.id).await?;
    let feed = row.as_ref().and_then(|row| recorded_feed(row, session.timeline));
    let Some(feed) = feed else { return Ok(Err(RoundError::LostChanges)) };
    let base = &query.base;
    let mut reading = RoundReading::begin(session, query).await?;
    let mut mark = present.clone();
    if !base.is_empty() {
        if base.feed != feed || snapshot_mark::is_beyond(&base.mark, &present) {
            return Ok(Err(RoundError::LostChanges));
        }
        match reading.read_changes(&base.mark, &present).await? {
            Ok(reached) => mark = reached,
            Err(error) => return Ok(Err(error)),
        }
    }
    let cursor = if mark == present {
        match reading.read_chunk().await? {
            Ok(cursor) => cursor,
            Err(error) => return Ok(Err(error)),
        }
    } else {
        query.base_cursor.clone()
    };
    let has_all = mark == present;
    let has_digests = query.wants_digests && has_all;
    let digests = if has_digests { Some(reading.digests().await?) } else { None };
    let next = base.after_round(feed, mark);
    let (base, base_cursor) = (base.clone(), query.base_cursor.clone());
    let changes = reading.changes;
    let rows = with_unique(session, reading.rows()).await?;
    Ok(Ok(RoundRead {
        round: CopyRound { base, base_cursor, next, cursor, is_comparison: false },
        changes,
        has_all,
        rows,
        digests,
    }))
}

async fn snapshot(session: &MoveSession) -> QueryResult<Mark> {
    let statement = Statement { sql: statements::SNAPSHOT, binds: &[], cached: true };
    let rows = load(&session.connection, statement).await?;
    let text = rows.first().and_then(|row| row.text(0)).unwrap_or_default();
    Ok(snapshot_mark::parse(&text)?)
}

/// Reads the shard's record of a move.
pub(super) async fn row(session: &MoveSession, id: MoveId) -> QueryResult<Option<MoveRow>> {
    let binds = [session.system_bind()];
    let moves = Statement { sql: statements::MOVES, binds: &binds, cached: true };
    let stored = move_metadata::stored(&load(&session.connection, moves).await?)?;
    let name = move_name(id);
    let found = stored.iter().find(|stored| stored.name() == name);
    Ok(found.map(StoredMove::row).transpose()?)
}

/// Transactions of the first recorded changes that are not visible in a snapshot.
struct ChangedBy {
    /// Id of each transaction and the number of its changes, in the order of the ids.
    transactions: Vec<(u64, usize)>,
    /// False if the last of these transactions, or a later one, may have made more changes.
    is_whole: bool,
}

/// Key that has changed.
struct ChangedKey {
    slot: u16,
    key: String,
    /// Values of the id columns, as strings.
    ids: Vec<String>,
}

impl ChangedKey {
    fn bytes(&self) -> usize {
        self.key.len() + self.ids.iter().map(String::len).sum::<usize>()
    }
}

/// Rows of one table.
#[derive(Default)]
struct TableRows {
    removed: Option<ColumnArrays>,
    rows: Option<ColumnArrays>,
}

/// Round that is being read.
struct RoundReading<'r> {
    session: &'r MoveSession,
    query: &'r RoundQuery,
    /// All tables, by name.
    tables: Vec<Table>,
    /// Key up to which the copy has rows; `None` if the copy is empty or complete.
    copied_to: Option<CopyKey>,
    found: BTreeMap<String, TableRows>,
    changes: usize,
    bytes: usize,
}

impl<'r> RoundReading<'r> {
    async fn begin(session: &'r MoveSession, query: &'r RoundQuery) -> QueryResult<Self> {
        let copied_to = match &query.base_cursor {
            CopyCursor::Through(key) => Some(CopyKey::parse(key)?),
            CopyCursor::Empty | CopyCursor::Whole => None,
        };
        let tables = tables(session).await?;
        let found = BTreeMap::new();
        Ok(Self { session, query, tables, copied_to, found, changes: 0, bytes: 0 })
    }

    /// Reads the changes that a mark does not cover, and returns the mark that covers them too: the
    /// present snapshot, or an earlier mark if there are too many changes. If the rows of the
    /// changes are too large, fewer changes are read.
    async fn read_changes(&mut self, base: &Mark, present: &Mark) -> RoundResult<Mark> {
        // A transfer of the slots back to their source begins with a mark that covers no change,
        // for which `shown` returns an empty snapshot. It returns `None` only for a mark of another
        // engine.
        let Some(seen) = snapshot_mark::shown(base) else {
            return Ok(Err(RoundError::LostChanges));
        };
        let mut changed_by = self.changed_by(&seen, CHANGES_COUNTED).await?;
        let mut keys_max = KEYS_MAX;
        loop {
            let until = match last_transaction(&changed_by.transactions, present, keys_max) {
                Ok(None) if !changed_by.is_whole => {
                    changed_by = self.changed_by(&seen, KEYS_OF_ONE_MAX + 1).await?;
                    continue;
                }
                Ok(until) => until,
                Err(error) => return Ok(Err(error)),
            };
            let is_single = keys_max <= 1;
            if self.read_changed_rows(&seen, until, is_single).await? {
                let advanced = |until| snapshot_mark::advanced(base, until, present);
                return Ok(Ok(until.map_or(present.clone(), advanced)));
            }
            if is_single {
                return Ok(Err(RoundError::LostChanges));
            }
            keys_max /= 8;
        }
    }

    /// Counts, for each transaction, the recorded changes that are not visible in a snapshot, among
    /// the first `most` of them.
    async fn changed_by(&self, seen: &str, most: usize) -> QueryResult<ChangedBy> {
        let binds = [slot_bind(&self.query.slots), Bind::text(seen), Bind::bigint(most as i64)];
        let statement = Statement { sql: statements::CHANGED_BY, binds: &binds, cached: true };
        let rows = load(&self.session.connection, statement).await?;
        let number = |row: &RowView, column| row.bigint(column).unwrap_or(0).max(0).cast_unsigned();
        let transactions: Vec<_> =
            rows.iter().map(|row| (number(row, 0), number(row, 1) as usize)).collect();
        let counted: usize = transactions.iter().map(|(_, count)| count).sum();
        // If `most` is above `KEYS_OF_ONE_MAX`, the counted changes are enough for the decision,
        // even if there are more.
        let is_whole = counted < most || most > KEYS_OF_ONE_MAX;
        Ok(ChangedBy { transactions, is_whole })
    }

    /// Reads the keys that transactions with an id below `until` have changed, and the rows of
    /// these keys. Returns false if they are too large for a round or, if `is_single` is true, for
    /// one transaction.
    async fn read_changed_rows(
        &mut self,
        seen: &str,
        until: Option<u64>,
        is_single: bool,
    ) -> QueryResult<bool> {
        let end = until.unwrap_or(i64::MAX as u64).cast_signed();
        let binds = [slot_bind(&self.query.slots), Bind::text(seen), Bind::bigint(end)];
        let statement = Statement { sql: statements::CHANGED_KEYS, binds: &binds, cached: true };
        let keys = load(&self.session.connection, statement).await?;
        (self.found, self.bytes, self.changes) = (BTreeMap::new(), 0, keys.len());
        let bytes_max = if is_single { BYTES_OF_ONE_MAX } else { CHANGED_BYTES_MAX };
        let mut changed: BTreeMap<String, Vec<ChangedKey>> = BTreeMap::new();
        for row in &keys {
            let table = row.text(0).unwrap_or_default();
            let key = changed_key(row)?;
            self.bytes += key.bytes();
            if self.bytes > bytes_max {
                return Ok(false);
            }
            changed.entry(table).or_default().push(key);
        }
        for (name, keys) in changed {
            for keys in keys.chunks(KEYS_TOGETHER) {
                self.read_keys((name.as_str(), keys), bytes_max).await?;
                if self.bytes > bytes_max {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Reads the rows of some keys of a table, until the keys and rows of the round have more than
    /// `bytes_max` bytes.
    async fn read_keys(
        &mut self,
        (name, keys): (&str, &[ChangedKey]),
        bytes_max: usize,
    ) -> QueryResult<()> {
        let Self { session, tables, copied_to, found, bytes, query, .. } = self;
        let ids = keys.first().map_or(0, |key| key.ids.len());
        let mut sought = ColumnArrays::of_keys(ids);
        let table_rows = found.entry(name.to_owned()).or_default();
        let removed = table_rows.removed.get_or_insert_with(|| ColumnArrays::of_keys(ids));
        for ChangedKey { slot, key, ids } in keys {
            sought.push_key(*slot, key, ids);
            removed.push_key(*slot, key, ids);
        }
        // A table can be dropped only when it has no rows, so all of these keys were removed.
        let Some(table) = tables.iter().find(|table| table.name() == name) else { return Ok(()) };
        let mut binds = sought.binds();
        let is_bounded = match (copied_to, &query.base_cursor) {
            (Some(end), _) if *end.table < *name => return Ok(()),
            (Some(end), _) if *end.table == *name => {
                binds.push(Bind::integer(i32::from(end.slot)));
                binds.push(Bind::text(&end.key));
                binds.extend(id_binds(table, &end.id(table)?));
                true
            }
            (None, CopyCursor::Empty) => return Ok(()),
            (Some(_) | None, _) => false,
        };
        let sql = statements::select_rows(table, is_bounded);
        let statement = Statement { sql: &sql, binds: &binds, cached: true };
        let rows = table_rows.rows.get_or_insert_with(|| ColumnArrays::of_table(table));
        for_each_row(&session.connection, statement, |row| {
            if *bytes <= bytes_max {
                *bytes += rows.push_row(row);
            }
            Ok(())
        })
        .await
    }

    /// Reads the rows after the cursor, until the round is full, and returns the next cursor.
    async fn read_chunk(&mut self) -> RoundResult<CopyCursor> {
        if self.query.base_cursor == CopyCursor::Whole {
            return Ok(Ok(CopyCursor::Whole));
        }
        let budget = self.query.budget.without(self.changes, self.bytes);
        let Self { session, query, tables, copied_to, found, .. } = self;
        let mut chunk = Chunk::new(session, budget);
        for table in tables.iter() {
            let after = copied_to.as_ref().filter(|after| *after.table >= *table.name());
            if after.is_some_and(|after| *after.table > *table.name()) {
                continue;
            }
            let first = after.map_or(0, |after| after.slot);
            for slot in query.slots.iter().filter(|slot| slot.number() >= first) {
                let after = after.filter(|after| after.slot == slot.number());
                let rows = found.entry(table.name().to_owned()).or_default();
                let rows = rows.rows.get_or_insert_with(|| ColumnArrays::of_table(table));
                if let Err(error) = chunk.read((table, *slot), after, rows).await? {
                    return Ok(Err(error));
                }
                if let Some(last) = chunk.take_last() {
                    return Ok(Ok(CopyCursor::Through(last.into())));
                }
            }
        }
        Ok(Ok(CopyCursor::Whole))
    }

    async fn digests(&self) -> QueryResult<Vec<SlotDigest>> {
        digests::of_tables(self.session, &self.tables, &self.query.slots).await
    }

    fn rows(self) -> RoundRows {
        let tables = self.found.into_iter().map(|(table, TableRows { removed, rows })| {
            let row_count = rows.as_ref().map_or(0, ColumnArrays::rows) as u64;
            let [removed, rows] =
                [removed, rows].map(|columns| columns.map_or_else(Vec::new, ColumnArrays::finish));
            RoundTable { table, removed, rows, row_count, unique_indexes: Vec::new() }
        });
        let is_empty = |table: &RoundTable| table.removed.is_empty() && table.rows.is_empty();
        RoundRows { tables: tables.filter(|table| !is_empty(table)).collect() }
    }
}

/// Adds the unique indexes that each table with rows in the round has in the snapshot.
async fn with_unique(session: &MoveSession, mut rows: RoundRows) -> QueryResult<RoundRows> {
    let with_rows = rows.tables.iter().filter(|table| table.row_count > 0);
    let names: Vec<&str> = with_rows.map(|table| table.table.as_str()).collect();
    if names.is_empty() {
        return Ok(rows);
    }
    let binds = [Bind::texts(names.into_iter())];
    let indexes = Statement { sql: statements::UNIQUE_INDEXES, binds: &binds, cached: true };
    for index in load(&session.connection, indexes).await? {
        let (name, columns) = index.text(0).zip(index.text(1)).unwrap_or_default();
        if let Some(table) = rows.tables.iter_mut().find(|table| table.table == name) {
            let columns = serde_json::from_str(&columns).map_err(|error| unreadable(&error))?;
            table.unique_indexes.push(columns);
        }
    }
    Ok(rows)
}

/// Returns the id of the first transaction whose changes are left to a later round, because the
/// round would have too many; `None` if the round can have all changes. A round has the changes of
/// at least one transaction.
///
/// If the database was restored from another server, recorded changes may name ids of that server
/// that the present server has not assigned yet. No round ends before such an id, because its mark
/// would then cover transactions that the present server begins later.
fn last_transaction(
    changed_by: &[(u64, usize)],
    present: &Mark,
    keys_max: usize,
) -> Result<Option<u64>, RoundError> {
    let mut keys = 0_usize;
    for (index, (transaction, count)) in changed_by.iter().enumerate() {
        keys = keys.saturating_add(*count);
        if keys > keys_max && index > 0 && *transaction < snapshot_mark::end(present) {
            return Ok(Some(*transaction));
        }
        if keys > KEYS_OF_ONE_MAX.max(keys_max) {
            return Err(RoundError::LostChanges);
        }
    }
    Ok(None)
}

fn changed_key(row: &RowView) -> QueryResult<ChangedKey> {
    let slot = row.bigint(1).and_then(|slot| u16::try_from(slot).ok());
    let ids = row.text(3).unwrap_or_default();
    Ok(ChangedKey {
        slot: slot.ok_or_else(|| unreadable(&"a slot does not exist"))?,
        key: row.text(2).unwrap_or_default(),
        ids: serde_json::from_str(&ids).map_err(|error| unreadable(&error))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(end: u64) -> Mark {
        Mark::Snapshot { end, running: [].into() }
    }

    #[test]
    fn a_round_with_few_changes_has_all_of_them() {
        let changed = [(10, 3), (11, 4)];
        assert_eq!(last_transaction(&changed, &present(12), 7), Ok(None));
        assert_eq!(last_transaction(&[], &present(12), 7), Ok(None));
    }

    #[test]
    fn a_round_with_too_many_changes_ends_between_two_transactions() {
        let changed = [(10, 3), (11, 4), (12, 1)];
        assert_eq!(last_transaction(&changed, &present(13), 6), Ok(Some(11)));
        assert_eq!(last_transaction(&changed, &present(13), 1), Ok(Some(11)));
    }

    #[test]
    fn a_transaction_that_is_still_open_does_not_make_a_round_larger() {
        let changed = [(10, 3), (12, 4), (13, 1)];
        let base = Mark::Snapshot { end: 10, running: [].into() };
        let present = Mark::Snapshot { end: 14, running: [11].into() };
        assert_eq!(last_transaction(&changed, &present, 3), Ok(Some(12)));
        let mark = snapshot_mark::advanced(&base, 12, &present);
        assert_eq!(mark, Mark::Snapshot { end: 12, running: [11].into() });
        let covered: Vec<u64> = (9..15).filter(|change| mark.covers(*change)).collect();
        assert_eq!(covered, [9, 10], "the open transaction and the later ones are left");
    }

    #[test]
    fn the_keys_of_a_round_count_with_all_columns_of_their_ids() {
        let ids = vec!["12".to_owned(), "345".to_owned()];
        let key = ChangedKey { slot: 7, key: "ada".to_owned(), ids };
        assert_eq!(key.bytes(), 8);
    }

    #[test]
    fn a_round_never_ends_at_a_transaction_of_a_former_server() {
        let changed = [(10, 3), (4_000_000_000, 4)];
        assert_eq!(last_transaction(&changed, &present(14), 3), Ok(None));
    }

    #[test]
    fn changes_that_are_too_many_for_any_round_are_lost() {
        let lost = Err(RoundError::LostChanges);
        let one = [(10, KEYS_OF_ONE_MAX + 1)];
        assert_eq!(last_transaction(&one, &present(14), KEYS_MAX), lost);
        let many = [(10, 1), (12, KEYS_OF_ONE_MAX)];
        assert_eq!(last_transaction(&many, &present(14), KEYS_MAX), Ok(Some(12)));
    }
}
