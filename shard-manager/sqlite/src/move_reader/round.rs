//! Round: reads one round of a copy in one snapshot: the rows that have changed since the last
//! round, and the next chunk of rows that were not copied yet.
//!
//! Rows are sent in the format of change log lines. For each changed key, a removal is sent, and
//! the row that the key has in the snapshot, if there is one. Changed keys are sent even if the
//! copy has not reached them yet: a later chunk then sends their rows again.
//!
//! If too many keys have changed for one round, or their rows are too large, the round covers the
//! log only up to an entry before the snapshot, and has neither a chunk nor digests.
//!
//! **Invariant:** once a round is stored, the copy has all rows up to the round's cursor with all
//! changes up to the round's mark, a position of the log; every later change is in a later round.
//! **Not here:** storing a round (`move_change`).

use std::collections::{BTreeMap, HashSet};

use diesel::QueryResult;
use engine::copy_key::{CopyKey, format_key};
use engine::slot_move::{
    RoundBudget, RoundError, RoundQuery, RoundRead, RoundRows, RoundTable, row_bytes_max,
};
use model::keyspace::Slot;
use model::row_change::Change;
use model::slot_set::SlotSet;
use model::table::Table;
use model::value::{Value, push_json};
use moves::applied::AppliedRows;
use moves::mark::Mark;
use moves::move_row::CopyCursor;
use moves::round::CopyRound;

use super::{Snapshot, digests};
use crate::connection::{Bind, RowView, Statement, for_each_row, for_each_row_while};
use crate::log::Line;
use crate::moving_rows::{self, push_start};
use crate::row_json::{push_object, value};
use crate::stored_move::FEED_TIMELINE;
use crate::{move_log, sql};

/// Number of changed keys at which a round is full. It is limited because writes on the target wait
/// while a round is stored.
const CHANGES_MAX: usize = 2_000;
/// Number of bytes of changed rows at which a round is full.
const CHANGED_BYTES_MAX: usize = 1 << 20;

type RoundResult<T> = QueryResult<Result<T, RoundError>>;

/// Reads the next round.
pub(super) fn read(snapshot: &mut Snapshot<'_>, query: &RoundQuery) -> RoundResult<RoundRead> {
    let position = snapshot.position()?;
    let Some(stored) = snapshot.stored(query.id)? else { return Ok(Err(RoundError::LostChanges)) };
    let (row, base) = (stored.row()?, &query.base);
    if !row.is_traced {
        return Ok(Err(RoundError::LostChanges));
    }
    let mut reading = RoundReading::begin(snapshot, query)?;
    let mut read_to = position;
    if !base.is_empty() {
        let Some(after) = snapshot.lacks_after(Some(&stored), base, position)? else {
            return Ok(Err(RoundError::LostChanges));
        };
        let found_to = reading.find_changes(snapshot, after)?;
        read_to = reading.read_changes(snapshot)?.or(found_to).unwrap_or(position);
    }
    let cursor = if read_to == position {
        match reading.read_chunk(snapshot, query)? {
            Ok(cursor) => cursor,
            Err(too_large) => return Ok(Err(too_large)),
        }
    } else {
        query.base_cursor.clone()
    };
    // The digests describe the snapshot, so they fit the copy only if this round brings it up to
    // the snapshot.
    let has_all = read_to == position;
    let has_digests = query.wants_digests && has_all;
    let digests = has_digests.then(|| digests::read(snapshot, &reading.slots)).transpose()?;
    let next = base.after_round(row.feed(FEED_TIMELINE), Mark::Entry(read_to));
    let (base, base_cursor): (AppliedRows, CopyCursor) = (base.clone(), query.base_cursor.clone());
    reading.add_unique(snapshot)?;
    Ok(Ok(RoundRead {
        round: CopyRound { base, base_cursor, next, cursor, is_comparison: false },
        changes: reading.changed.len(),
        has_all,
        rows: RoundRows { tables: reading.rows.into_values().collect() },
        digests,
    }))
}

/// Key whose row has changed.
struct ChangedKey {
    /// Position of the first log entry in which the key has changed.
    position: u64,
    /// Log line that removes the row of the key.
    removal: Vec<u8>,
    table: String,
    slot: u16,
    key: String,
    /// Values of the id columns; `None` if the table was dropped.
    id: Option<Vec<Value>>,
}

/// Round that is being read.
struct RoundReading {
    slots: SlotSet,
    /// All tables, sorted by name.
    tables: Vec<Table>,
    changed: Vec<ChangedKey>,
    rows: BTreeMap<String, RoundTable>,
    row_count: usize,
    bytes: usize,
}

impl RoundReading {
    fn begin(snapshot: &mut Snapshot<'_>, query: &RoundQuery) -> QueryResult<Self> {
        Ok(Self {
            slots: query.slots.iter().copied().collect(),
            tables: moving_rows::tables(snapshot.connection)?,
            changed: Vec::new(),
            rows: BTreeMap::new(),
            row_count: 0,
            bytes: 0,
        })
    }

    /// Finds the keys that were changed after a position of the log, until the round is full. If
    /// the round is full, returns the last position that was read; otherwise returns `None`.
    fn find_changes(
        &mut self,
        snapshot: &mut Snapshot<'_>,
        after: u64,
    ) -> QueryResult<Option<u64>> {
        let Self { slots, tables, changed, .. } = self;
        let (mut known, mut bytes, mut last) = (HashSet::new(), 0, None);
        let Snapshot { gate, deadline, .. } = *snapshot;
        move_log::each_change(snapshot.connection, slots, after, |position, lines| {
            super::check_over(gate, deadline)?;
            for raw in lines {
                bytes += raw.len();
                let line = Line::parse(raw)?;
                let table = tables.iter().find(|table| table.name() == line.table);
                let (removal, id) = match table {
                    Some(table) => removal(&line, table)?,
                    // Only an empty table can be dropped, so the log also has the removal of this
                    // row.
                    None if line.change != Change::Removed => continue,
                    None => ([*raw, b"\n"].concat(), None),
                };
                if !known.insert(removal.clone()) {
                    continue;
                }
                let (table, slot, key) = (line.table.to_string(), line.slot, line.key.to_string());
                changed.push(ChangedKey { position, removal, table, slot, key, id });
            }
            let is_full = bytes >= CHANGED_BYTES_MAX || changed.len() >= CHANGES_MAX;
            last = is_full.then_some(position);
            Ok(!is_full)
        })?;
        Ok(last)
    }

    /// Reads the current rows of the changed keys, until the round is full, which may be earlier
    /// than expected because a row may be larger now than when it was logged. In that case returns
    /// the last position of which all keys were read; otherwise returns `None`.
    fn read_changes(&mut self, snapshot: &mut Snapshot<'_>) -> QueryResult<Option<u64>> {
        let mut before = None;
        for index in 0..self.changed.len() {
            snapshot.check()?;
            let position = self.changed[index].position;
            // The keys of one entry are never split between rounds, because a mark is the position
            // of an entry.
            if self.bytes >= CHANGED_BYTES_MAX && before.is_some_and(|before| before != position) {
                self.changed.truncate(index);
                return Ok(Some(position - 1));
            }
            before = Some(position);
            self.read_change(snapshot, index)?;
        }
        Ok(None)
    }

    /// Reads the current row of one changed key.
    fn read_change(&mut self, snapshot: &mut Snapshot<'_>, index: usize) -> QueryResult<()> {
        let Self { tables, changed, rows, row_count, bytes, .. } = self;
        let ChangedKey { removal, table, slot, key, id, .. } = &changed[index];
        let round = round_table(rows, table);
        round.removed.extend_from_slice(removal);
        *bytes += removal.len();
        let found = tables.iter().find(|known| known.name() == table);
        let Some((table, id)) = found.zip(id.as_ref()) else { return Ok(()) };
        let mut binds = vec![Bind::Int(i64::from(*slot)), Bind::Text(key)];
        binds.extend(id.iter().map(Bind::from));
        let sql = sql::select_row(table);
        let statement = Statement { sql: &sql, binds: &binds, cached: true };
        for_each_row(snapshot.connection, statement, |row| {
            let begun = round.rows.len();
            push_row(&mut round.rows, (table, *slot, key), row)?;
            round.row_count += 1;
            *row_count += 1;
            *bytes += round.rows.len() - begun;
            Ok(())
        })
    }

    /// Adds to each table of the round that has rows the unique indexes that the table has in the
    /// snapshot.
    fn add_unique(&mut self, snapshot: &mut Snapshot<'_>) -> QueryResult<()> {
        if self.rows.values().all(|round| round.row_count == 0) {
            return Ok(());
        }
        let indexes = Statement { sql: sql::UNIQUE_COLUMNS, binds: &[], cached: true };
        for_each_row(snapshot.connection, indexes, |row| {
            let name = row.text(0, str::to_owned).unwrap_or_default();
            // A column that is an expression has no name.
            let columns = row.text(1, |names| serde_json::from_str::<Vec<String>>(names).ok());
            let round = self.rows.get_mut(&name).filter(|round| round.row_count > 0);
            if let Some((round, columns)) = round.zip(columns.flatten()) {
                round.unique_indexes.push(columns);
            }
            Ok(())
        })
    }

    /// Reads the rows after the cursor, until the round is full, and returns the next cursor.
    fn read_chunk(
        &mut self,
        snapshot: &mut Snapshot<'_>,
        query: &RoundQuery,
    ) -> RoundResult<CopyCursor> {
        let after = match &query.base_cursor {
            CopyCursor::Whole => return Ok(Ok(CopyCursor::Whole)),
            CopyCursor::Empty => None,
            CopyCursor::Through(key) => Some(CopyKey::parse(key)?),
        };
        let budget = query.budget.without(self.row_count, self.bytes);
        let mut chunk = Chunk { budget, last: None };
        let Self { slots, tables, rows, .. } = self;
        for table in tables.iter() {
            let after = after.as_ref().filter(|after| *after.table >= *table.name());
            if after.is_some_and(|after| *after.table > *table.name()) {
                continue;
            }
            let first = after.map_or(0, |after| after.slot);
            for slot in slots.iter().filter(|slot| slot.number() >= first) {
                let after = after.filter(|after| after.slot == slot.number());
                let round = round_table(rows, table.name());
                if let Err(error) = chunk.read(snapshot, (table, slot, after), round)? {
                    return Ok(Err(error));
                }
                if let Some(last) = chunk.last {
                    return Ok(Ok(CopyCursor::Through(last.into())));
                }
            }
        }
        Ok(Ok(CopyCursor::Whole))
    }
}

/// Chunk that is being read.
struct Chunk {
    /// Number of rows and bytes that the chunk may still take.
    budget: RoundBudget,
    /// Key of the last row, once the chunk is full.
    last: Option<String>,
}

impl Chunk {
    /// Reads rows of one slot of a table, until the chunk is full.
    fn read(
        &mut self,
        snapshot: &mut Snapshot<'_>,
        (table, slot, after): (&Table, Slot, Option<&CopyKey>),
        round: &mut RoundTable,
    ) -> RoundResult<()> {
        snapshot.check()?;
        let slot = slot.number();
        let id = after.map(|after| after.id(table)).transpose()?;
        let mut binds = vec![Bind::Int(i64::from(slot)), Bind::Int(self.budget.rows as i64)];
        if let Some((after, id)) = after.zip(id.as_ref()) {
            binds.push(Bind::Text(&after.key));
            binds.extend(id.iter().map(Bind::from));
        }
        let sql = sql::select_chunk(table, after.is_some());
        let statement = Statement { sql: &sql, binds: &binds, cached: true };
        let mut too_large = false;
        for_each_row_while(snapshot.connection, statement, |row| {
            let begun = round.rows.len();
            let key = row.text(table.answered().len(), str::to_owned).unwrap_or_default();
            push_row(&mut round.rows, (table, slot, &key), row)?;
            round.row_count += 1;
            let bytes = round.rows.len() - begun;
            too_large = bytes > row_bytes_max(table);
            let RoundBudget { rows, bytes: left } = &mut self.budget;
            (*rows, *left) = (rows.saturating_sub(1), left.saturating_sub(bytes));
            if *rows == 0 || *left == 0 {
                self.last = Some(format_key((table.name(), slot, &key), &id_of(row, table)));
            }
            Ok(self.last.is_none() && !too_large)
        })?;
        let table = table.name().to_owned();
        Ok(if too_large { Err(RoundError::RowTooLarge { table }) } else { Ok(()) })
    }
}

fn round_table<'r>(rows: &'r mut BTreeMap<String, RoundTable>, table: &str) -> &'r mut RoundTable {
    let new = || RoundTable { table: table.to_owned(), ..RoundTable::default() };
    rows.entry(table.to_owned()).or_insert_with(new)
}

/// Appends the log line of a query row that begins with the columns that responses contain.
fn push_row(
    lines: &mut Vec<u8>,
    (table, slot, key): (&Table, u16, &str),
    row: &RowView<'_, '_>,
) -> QueryResult<()> {
    push_start(lines, "made", (table.name(), i64::from(slot), key));
    lines.extend_from_slice(b",\"row\":");
    let columns = table.answered().map(|column| table.column(column));
    push_object(lines, row, columns.map(|column| (column.name.as_str(), column.kind)))?;
    lines.extend_from_slice(b"}\n");
    Ok(())
}

/// Returns the values of the id columns of a query row that begins with the columns that responses
/// contain.
fn id_of(row: &RowView<'_, '_>, table: &Table) -> Vec<Value> {
    let first = table.answered().start;
    let id = table.id().iter();
    id.map(|column| value(row, column - first, table.column(*column).kind)).collect()
}

/// Returns the values of the id columns from a log line.
pub(super) fn id_of_line(line: &Line<'_>, table: &Table) -> QueryResult<Vec<Value>> {
    let values = line.values(table)?;
    Ok(match line.change {
        Change::Removed => values,
        Change::Created | Change::Changed => {
            let first = table.answered().start;
            table.id().iter().filter_map(|column| values.get(column - first).cloned()).collect()
        }
    })
}

/// Returns the log line that removes the row of the given line, and the values of its id columns.
fn removal(line: &Line<'_>, table: &Table) -> QueryResult<(Vec<u8>, Option<Vec<Value>>)> {
    let id = id_of_line(line, table)?;
    let mut removal = Vec::new();
    push_start(&mut removal, "removed", (table.name(), i64::from(line.slot), &line.key));
    removal.extend_from_slice(b",\"version\":0,\"row\":{");
    for (index, (column, value)) in table.id().iter().zip(&id).enumerate() {
        removal.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
        removal.extend_from_slice(table.column(*column).name.as_bytes());
        removal.extend_from_slice(b"\":");
        push_json(&mut removal, value);
    }
    removal.extend_from_slice(b"}}\n");
    Ok((removal, Some(id)))
}
