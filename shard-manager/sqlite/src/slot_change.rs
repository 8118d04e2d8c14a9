//! Slot change: changes which slots a shard owns or fences, in its file. A fenced slot is owned,
//! but accepts no writes for a limited time.
//!
//! A primary changes the states of the slots, the numbers of rows, the generation of slots and its
//! position in one transaction, which also appends a line to the change log (`slot_line`). A
//! replica makes the same changes when it replays that line.
//!
//! The rows of a slot that is handed over to another shard stay in the file. From then on they are
//! *foreign*: they are neither read nor written, and are counted in `tessera_foreign_counts`
//! instead of `tessera_counts`. To update both tables, only the rows of the slots that change are
//! counted.
//!
//! **Invariant:** the generation of slots is the position at which the set of owned slots last
//! changed; a fence does not change it.
//! **Not here:** the transaction and its commit (`writer/slot_change`, `applier`), the effects on
//! reads (`owned_slots`).

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use engine::slot_change::{FENCE_MAX, SlotChange, SlotStep};
use model::idempotency;
use model::keyspace::Slot;
use model::slot_set::SlotSet;
use model::table::Table;
use model::value::format_timestamp;

use super::batch::{Counters, run};
use super::connection::{Bind, OpenError, Statement, for_each_row, open};
use super::declarations::{self, unreadable};
use super::owned_slots::{OwnedSlots, SlotState, each_state, json_list};
use super::slot_line::{SlotColumns, SlotLine};
use super::sql;

/// Effects of a change of slots.
pub(super) struct SlotsChanged {
    pub(super) counters: Counters,
    /// Bytes that were appended to the log; 0 if there was nothing to change.
    pub(super) logged: u64,
    /// The owned slots after the change; `None` if the set of owned slots is the same as before.
    pub(super) owned: Option<OwnedSlots>,
}

/// Carries out a change on a primary, inside a transaction, and logs it. If the shard does not own
/// all slots that the change requires, returns the missing slots and changes nothing.
pub(super) fn change_and_log(
    connection: &mut SqliteConnection,
    mut counters: Counters,
    change: &SlotChange,
    now: DateTime<Utc>,
) -> QueryResult<Result<SlotsChanged, SlotSet>> {
    let slots = match changing_slots(connection, change)? {
        Ok(slots) if slots.is_empty() => {
            return Ok(Ok(SlotsChanged { counters, logged: 0, owned: None }));
        }
        Ok(slots) => slots,
        Err(not_owned) => return Ok(Err(not_owned)),
    };
    let line = line(connection, (change.step, &slots), counters, now)?;
    counters.position += 1;
    counters.version = counters.version.max(line.version());
    let owned = apply(connection, &line, counters.position)?;
    let (line, at) = (line.to_line(), format_timestamp(now));
    let Counters { version, position } = counters;
    let entry = [Bind::Int(position), Bind::Text(&at), Bind::Blob(line.as_bytes())];
    run(connection, sql::APPEND_LOG, &entry)?;
    run(connection, sql::SET_COUNTERS, &[Bind::Int(version), Bind::Int(position)])?;
    Ok(Ok(SlotsChanged { counters, logged: line.len() as u64, owned }))
}

/// Makes the shard of a primary's file the owner of those of the given slots of which the file has
/// no record. Called when a start adds table groups. Returns the position of the file.
///
/// # Errors
/// [`OpenError`] if the file cannot be written.
pub(super) fn settle(path: &Path, slots: &SlotSet) -> Result<u64, OpenError> {
    let mut connection = open(path, "")?;
    let settled = connection.immediate_transaction(|connection| {
        let mut unknown = slots.clone();
        each_state(connection, slots, |slot, _| unknown.remove(slot))?;
        let counters = Counters::load(connection)?;
        let change = SlotChange { slots: unknown, step: SlotStep::TakeOver };
        let changed = change_and_log(connection, counters, &change, Utc::now())?;
        Ok(changed.map_or(counters.position, |changed| changed.counters.position))
    });
    let position = settled.map_err(|error: DieselError| OpenError::file(path, error))?;
    Ok(position as u64)
}

/// Returns the slots whose state the change affects. The error contains slots that the shard does
/// not own, but would have to own.
fn changing_slots(
    connection: &mut SqliteConnection,
    change: &SlotChange,
) -> QueryResult<Result<SlotSet, SlotSet>> {
    let mut states = BTreeMap::new();
    each_state(connection, &change.slots, |slot, state| {
        states.insert(slot.number(), state);
    })?;
    let (mut changing, mut not_owned) = (SlotSet::empty(), SlotSet::empty());
    for slot in change.slots.iter() {
        let state = states.get(&slot.number()).copied();
        let owned = state.is_some_and(SlotState::is_owned);
        match change.step {
            SlotStep::Fence { .. } if owned => changing.insert(slot),
            SlotStep::Release if state == Some(SlotState::Fenced) => changing.insert(slot),
            SlotStep::Release if owned => {}
            SlotStep::HandOver { .. } if owned => changing.insert(slot),
            SlotStep::HandOver { to } if state == Some(SlotState::Moved(Some(to))) => {}
            SlotStep::TakeOver if owned => {}
            SlotStep::TakeOver => changing.insert(slot),
            SlotStep::Fence { .. } | SlotStep::Release | SlotStep::HandOver { .. } => {
                not_owned.insert(slot);
            }
        }
    }
    Ok(if not_owned.is_empty() { Ok(changing) } else { Err(not_owned) })
}

fn line(
    connection: &mut SqliteConnection,
    (step, slots): (SlotStep, &SlotSet),
    counters: Counters,
    now: DateTime<Utc>,
) -> QueryResult<SlotLine> {
    let ranges = slots.ranges();
    Ok(match step {
        SlotStep::Fence { hold } => SlotLine::Fenced {
            ranges,
            since: format_timestamp(now),
            until: format_timestamp(now + hold.min(FENCE_MAX)),
        },
        SlotStep::Release => SlotLine::Owned { ranges, version: counters.version },
        SlotStep::HandOver { to } => SlotLine::moved(slots, to),
        SlotStep::TakeOver => {
            // Rows that were copied to this shard have versions that another shard assigned, which
            // may be higher.
            let version = highest_version(connection, slots)?.max(counters.version);
            SlotLine::Owned { ranges, version }
        }
    })
}

/// Carries out a line at this position of the log, inside a transaction. Returns the owned slots
/// after the change; `None` if the set of owned slots is the same as before.
pub(super) fn apply(
    connection: &mut SqliteConnection,
    line: &SlotLine,
    position: i64,
) -> QueryResult<Option<OwnedSlots>> {
    let slots = line.slots()?;
    let mut owned = SlotSet::empty();
    each_state(connection, &slots, |slot: Slot, state| {
        if state.is_owned() {
            owned.insert(slot);
        }
    })?;
    // There may also be rows in slots of which the file has no record.
    let foreign = slots.without(&owned);
    if line.is_owned() {
        count_as_own(connection, &foreign)?;
    } else {
        count_as_foreign(connection, &owned)?;
    }
    let SlotColumns { state, fenced_at, until, moved_to } = line.columns();
    let list = json_list(&slots);
    let [fenced_at, until, moved_to] = [&fenced_at, &until, &moved_to]
        .map(|column| column.as_deref().map_or(Bind::Null, Bind::Text));
    let binds = [Bind::Text(&list), Bind::Text(state), fenced_at, until, moved_to];
    run(connection, sql::SET_SLOTS, &binds)?;
    let is_same = if line.is_owned() { owned == slots } else { owned.is_empty() };
    if is_same {
        return Ok(None);
    }
    run(connection, sql::SET_GENERATION, &[Bind::Int(position)])?;
    OwnedSlots::load(connection).map(Some)
}

/// Adds the rows of slots to the counts of own rows, because the shard owns the slots from now on.
fn count_as_own(connection: &mut SqliteConnection, slots: &SlotSet) -> QueryResult<()> {
    each_count(connection, slots, |connection, table, rows| {
        run(connection, sql::ADD_ROWS, &[Bind::Text(table), Bind::Int(rows)])?;
        run(connection, sql::SUBTRACT_FOREIGN_ROWS, &[Bind::Text(table), Bind::Int(rows)])
    })
}

/// Moves the rows of slots to the counts of foreign rows, because the shard no longer owns the
/// slots.
fn count_as_foreign(connection: &mut SqliteConnection, slots: &SlotSet) -> QueryResult<()> {
    each_count(connection, slots, |connection, table, rows| {
        run(connection, sql::SUBTRACT_ROWS, &[Bind::Text(table), Bind::Int(rows)])?;
        run(connection, sql::ADD_FOREIGN_ROWS, &[Bind::Text(table), Bind::Int(rows)])
    })
}

/// Returns the number of rows in some slots, for each table that has some.
pub(super) fn row_counts(
    connection: &mut SqliteConnection,
    slots: &SlotSet,
) -> QueryResult<BTreeMap<String, i64>> {
    let mut counts = BTreeMap::new();
    each_count(connection, slots, |_, table, rows| {
        counts.insert(table.to_owned(), rows);
        Ok(())
    })?;
    Ok(counts)
}

/// Passes the number of rows in some slots to `each`, for each table that has some.
fn each_count(
    connection: &mut SqliteConnection,
    slots: &SlotSet,
    mut each: impl FnMut(&mut SqliteConnection, &str, i64) -> QueryResult<()>,
) -> QueryResult<()> {
    if slots.is_empty() {
        return Ok(());
    }
    let slots = json_list(slots);
    for table in tables(connection)? {
        let rows = number(connection, &sql::count_slots(&table), &slots)?;
        if rows > 0 {
            each(connection, table.name(), rows)?;
        }
    }
    Ok(())
}

/// Returns the highest version of the rows in some slots; 0 if there are none.
fn highest_version(connection: &mut SqliteConnection, slots: &SlotSet) -> QueryResult<i64> {
    let (slots, mut highest) = (json_list(slots), 0);
    for table in tables(connection)? {
        highest = highest.max(number(connection, &sql::max_version(&table), &slots)?);
    }
    Ok(highest.max(number(connection, &sql::max_version(&idempotency::TABLE), &slots)?))
}

fn number(connection: &mut SqliteConnection, sql: &str, slots: &str) -> QueryResult<i64> {
    let (binds, mut number) = ([Bind::Text(slots)], 0);
    for_each_row(connection, Statement { sql, binds: &binds, cached: false }, |row| {
        number = row.int(0).unwrap_or(0);
        Ok(())
    })?;
    Ok(number)
}

fn tables(connection: &mut SqliteConnection) -> QueryResult<Vec<Table>> {
    let declared = declarations::load(connection)?.into_iter();
    let tables = declared.map(|table| table.into_table().map_err(|cause| unreadable(&cause)));
    tables.collect()
}
