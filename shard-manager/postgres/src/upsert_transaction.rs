//! Upsert transaction: batches of plain upserts, stored in one round trip.
//!
//! Most writes replace a row regardless of its state: they have no condition and no idempotency
//! key, and set every column that a new row needs. Such rows need not be read first. They go to the
//! server as arrays, one statement for each table and set of columns. A row occurs once in a
//! statement; a later change of the same row goes into a later statement.
//!
//! **Invariant:** responses and rows equal those of `batch_transaction`, but rows may be larger.
//! **Not here:** the SQL text (`sql`, on Citus `citus::sql`), other changes (`batch_transaction`).

mod groups;

use std::borrow::Cow;
use std::collections::HashMap;

use chrono::Utc;
use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::WriteGroup;
use groups::{Group, groups, row_key, slot_bytes};
use model::error::{Error, Outcome};
use model::row_change::{Change, RowDone, RowWrite};
use model::sabotage::{Mutation, is_on};
use model::slot_refusal::SlotRefusal;
use model::table::Table;
use model::value::{ColumnType, Value, format_timestamp};

use super::binary_value;
use super::citus_statements::{self, Versions};
use super::db_error::DbErrorKind;
use super::hazards::{self, Hazards};
use super::lane_session::{LaneSession, Stored, TransactionError, ended};
use super::refusals;
use super::sql::{self, UpsertMode};
use super::statement::{Bind, PipelineStep, RowView, Statement, Work, load, pipeline, plain, step};

/// Applies plain upserts as one transaction; `None` if `batch_transaction` must apply the writes.
pub(super) async fn apply(
    session: &mut LaneSession,
    writes: &[WriteGroup<'_>],
) -> Option<Result<Stored, TransactionError>> {
    // An atomic group may be refused as a whole, which needs its rows to be read first. The
    // sabotaged version counter exists only where rows are read first.
    if writes.iter().any(|write| write.atomic_rows.is_some()) || is_on(Mutation::VersionFromOne) {
        return None;
    }
    let parts = session.citus.as_ref().map(|citus| citus.parts());
    let groups = groups(writes, parts.as_deref())?;
    // On Citus, a separate statement must lock each row, which `batch_transaction` does.
    if parts.is_some() && groups.iter().any(|group| !group.locked.is_empty()) {
        return None;
    }
    let count = writes.iter().map(|write| write.rows.len()).sum();
    if parts.is_none() && session.insert_predictor.is_expected() {
        match store(session, &groups, count, true).await {
            Err(TransactionError {
                kind:
                    DbErrorKind::Constraint("unique")
                    // The conflicting row may be the same row.
                    | DbErrorKind::NotUnique(_)
                    | DbErrorKind::Discarded(_),
                outcome: Outcome::Rejected,
                ..
            }) => {
                session.insert_predictor.was_wrong();
            }
            Err(failed) if may_be_raised_alone(&failed, count) => return None,
            stored => return Some(stored),
        }
    }
    match store(session, &groups, count, false).await {
        // A trigger, rule or policy interfered: `batch_transaction` handles that.
        Err(TransactionError {
            kind: DbErrorKind::Discarded(_),
            outcome: Outcome::Rejected,
            usable: true,
            ..
        }) => None,
        // A slot may accept no writes here: `batch_transaction` finds the rows of such slots.
        Err(TransactionError {
            kind: DbErrorKind::Constraint("not null") | DbErrorKind::Other,
            outcome: Outcome::Rejected,
            usable: true,
            ..
        }) if parts.is_some() => None,
        Err(failed) if may_be_raised_alone(&failed, count) => None,
        stored => Some(stored),
    }
}

/// Returns true if a trigger that is not known yet may have refused the only row:
/// `batch_transaction` looks for triggers in its transaction.
fn may_be_raised_alone(failed: &TransactionError, count: usize) -> bool {
    let TransactionError { kind, outcome, usable, .. } = failed;
    count == 1 && *kind == DbErrorKind::Other && *outcome == Outcome::Rejected && *usable
}

async fn store(
    session: &mut LaneSession,
    groups: &[Group<'_>],
    count: usize,
    new: bool,
) -> Result<Stored, TransactionError> {
    let LaneSession { connection, prepared, statements, insert_predictor, citus } = session;
    let connection = &*connection;
    let now = Bind::value(ColumnType::Timestamp, &Value::Text(format_timestamp(Utc::now())));
    let mut work: Vec<Work<'_>> = Vec::with_capacity(groups.len());
    let mut versions = (citus.is_some() && count > 1).then(|| enter(groups, &mut work));
    // For each group, the indexes of its statements that return rows.
    let mut stored = Vec::with_capacity(groups.len());
    for group in groups {
        if let Some(citus) = citus {
            let rows = (&**group.table, &*group.rows, group.shown);
            let parts = citus.parts();
            stored.push(citus_statements::upsert(&mut work, &parts, rows, &now, versions.as_mut()));
            continue;
        }
        if !group.locked.is_empty() {
            let slots = group.locked.iter().map(|(_, row)| i32::from(row.slot.number()));
            let alone = Bind::value(ColumnType::Boolean, &Value::Bool(false));
            work.push((Cow::Borrowed(sql::ENTER), vec![Bind::integers(slots), alone]));
            let hold = statements.of(group.table).hold_rows.clone();
            work.push((Cow::Owned(hold), places(group)));
        }
        let columns = group.rows[0].1.set.iter().map(|(column, _)| *column);
        let lone = count == 1;
        let sql = statements.upsert(
            group.table,
            columns,
            UpsertMode { returns_rows: group.shown, expects_new: new, single_row: lone },
        );
        stored.push(vec![work.len()]);
        let binds = if lone { lone_binds(group, &now) } else { binds(group, &now) };
        work.push((Cow::Owned(sql.to_string()), binds));
    }
    // A single statement is a transaction by itself.
    let bracketed = work.len() > 1;
    let mut steps: Vec<PipelineStep<'_>> = Vec::with_capacity(work.len() + 3);
    if bracketed {
        steps.push(plain(connection, "BEGIN"));
    }
    for (sql, binds) in &work {
        steps.push(step(connection, Statement { sql, binds, cached: true }));
    }
    if bracketed {
        steps.push(plain(connection, "COMMIT"));
    }
    steps.push(step(connection, Statement { sql: sql::POSITION, binds: &[], cached: true }));
    let mut results = pipeline(prepared, steps).await;
    let first = usize::from(bracketed);
    let mut loaded = Vec::with_capacity(groups.len());
    for places in stored {
        let mut reported = Vec::new();
        for at in places {
            reported
                .extend(results[first + at].as_mut().ok().map(std::mem::take).unwrap_or_default());
        }
        loaded.push(reported);
    }
    if let Some(Err(error)) = results.first().filter(|_| bracketed) {
        // Because `BEGIN` failed, each statement was a transaction by itself.
        return Err(TransactionError::after_commit(error, false));
    }
    let position = ended(results, citus.is_some())?;
    let rows = answers(connection, (groups, &loaded), count).await?;
    let made =
        |row: &&Result<RowDone, Error>| matches!(row, Ok(done) if done.change == Change::Created);
    let made = rows.iter().filter(made).count();
    insert_predictor.learn(made as u32, (rows.len() - made) as u32);
    Ok(Stored { rows, position })
}

/// Returns the results of all `count` changes, from the rows that each group has returned.
async fn answers(
    connection: &AsyncPgConnection,
    (groups, loaded): (&[Group<'_>], &[Vec<RowView>]),
    count: usize,
) -> Result<Vec<Result<RowDone, Error>>, TransactionError> {
    let mut rows: Vec<_> = (0..count).map(|_| Err(Error::Internal)).collect();
    for (place, row) in groups.iter().flat_map(|group| &group.rows) {
        let (slot, state) = (row.slot, refusals::NO_LONGER);
        rows[*place] = Err(Error::SlotRefused(SlotRefusal { slot, state }));
    }
    let mut unmatched_rows = 0;
    for (group, loaded) in groups.iter().zip(loaded) {
        unmatched_rows += answer(group, loaded, &mut rows);
    }
    if unmatched_rows > 0 {
        return Err(misplaced_rows_error(unmatched_rows));
    }
    if rows.iter().any(Result::is_err) {
        explain(connection, groups, &mut rows).await;
    }
    Ok(rows)
}

/// Logs the number of rows to which a trigger has given another id, shard key or slot, so that no
/// read finds them, and returns the error.
fn misplaced_rows_error(unmatched_rows: usize) -> TransactionError {
    tracing::error!(
        strays = unmatched_rows,
        "a trigger has stored rows under other ids, shard keys or slots"
    );
    let (kind, outcome) = (DbErrorKind::Other, Outcome::Unknown);
    TransactionError { kind, outcome, usable: true, retry_split: false }
}

/// Finds out why rows were not stored: the database has discarded them, or their slots accept no
/// writes here.
async fn explain(
    connection: &AsyncPgConnection,
    groups: &[Group<'_>],
    rows: &mut [Result<RowDone, Error>],
) {
    let all = groups.iter().flat_map(|group| &group.rows);
    let absent: Vec<_> = all.filter(|(place, _)| rows[*place].is_err()).collect();
    let slots: Vec<i32> = absent.iter().map(|(_, row)| i32::from(row.slot.number())).collect();
    let alone = Bind::value(ColumnType::Boolean, &Value::Bool(false));
    let entering = [Bind::integers(slots.into_iter()), alone];
    let looking = [hazards::names(absent.iter().map(|(_, row)| &*row.table))];
    let asked = async {
        let statement = Statement { sql: sql::ENTER, binds: &entering, cached: true };
        let strange = load(connection, statement).await?;
        let statement = Statement { sql: hazards::OF_TABLES, binds: &looking, cached: true };
        QueryResult::Ok((strange, load(connection, statement).await?))
    };
    let (refused, hazards) = match asked.await {
        Ok((strange, found)) => (refusals::states(&strange), Hazards::of_tables(&found)),
        Err(error) => {
            tracing::warn!(%error, "the reason why rows were not stored cannot be read");
            return;
        }
    };
    for (place, row) in absent {
        match refused.get(&i64::from(row.slot.number())) {
            Some(state) => {
                let (slot, state) = (row.slot, *state);
                rows[*place] = Err(Error::SlotRefused(SlotRefusal { slot, state }));
            }
            None if hazards.may_alter(&row.table) => {
                rows[*place] = Err(Error::Discarded { table: row.table.name().to_owned() });
            }
            // The slot accepted no writes before but does now: without triggers or rules, no other
            // reason is possible.
            None => {}
        }
    }
}

/// On Citus, adds the statement that takes the lock and draws versions before any row is stored.
fn enter(groups: &[Group<'_>], work: &mut Vec<Work<'_>>) -> Versions {
    let rows: Vec<_> = groups.iter().flat_map(|group| &group.rows).collect();
    let slots = rows.iter().map(|(_, row)| i32::from(row.slot.number()));
    let (versions, entering) = Versions::enter(slots);
    work.push(entering);
    versions
}

/// Returns the keys of the rows to lock, as parameters.
fn places(group: &Group<'_>) -> Vec<Bind> {
    let rows = || group.locked.iter().map(|(_, row)| *row);
    let mut binds = vec![
        Bind::integers(rows().map(|row| i32::from(row.slot.number()))),
        Bind::texts(rows().map(|row| row.key.as_str())),
    ];
    for (index, column) in group.table.id().iter().enumerate() {
        let kind = group.table.column(*column).kind;
        binds.push(Bind::values(kind, rows().map(|row| &row.id[index])));
    }
    binds
}

fn binds(group: &Group<'_>, now: &Bind) -> Vec<Bind> {
    let rows = || group.rows.iter().map(|(_, row)| *row);
    let mut binds = Vec::with_capacity(group.rows[0].1.set.len() + 6);
    binds.push(now.clone());
    binds.push(Bind::integers(rows().map(|row| i32::from(row.slot.number()))));
    binds.push(Bind::texts(rows().map(|row| row.key.as_str())));
    for (index, column) in group.table.id().iter().enumerate() {
        let kind = group.table.column(*column).kind;
        binds.push(Bind::values(kind, rows().map(|row| &row.id[index])));
    }
    for (index, (column, _)) in group.rows[0].1.set.iter().enumerate() {
        let kind = group.table.column(*column).kind;
        binds.push(Bind::values(kind, rows().map(|row| &row.set[index].1)));
    }
    binds
}

fn lone_binds(group: &Group<'_>, now: &Bind) -> Vec<Bind> {
    let (_, row) = group.rows[0];
    let mut binds = Vec::with_capacity(row.set.len() + 6);
    binds.extend([now.clone(), Bind::integer(i32::from(row.slot.number())), Bind::text(&row.key)]);
    let ids = group.table.id().iter().zip(&row.id);
    for (column, value) in ids.chain(row.set.iter().map(|(column, value)| (column, value))) {
        binds.push(Bind::value(group.table.column(*column).kind, value));
    }
    binds
}

/// Assigns the returned rows to their changes. Rows normally return in the order in which they were
/// sent, without those whose slot is not owned here or that the database has discarded. If the
/// order differs, rows are matched by their keys. Returns the number of rows that match no change.
fn answer(group: &Group<'_>, loaded: &[RowView], rows: &mut [Result<RowDone, Error>]) -> usize {
    let mut next = 0;
    let mut unmatched_rows = 0;
    let mut by_key: Option<HashMap<Vec<u8>, usize>> = None;
    for row in loaded {
        let skipped = group.rows[next..].iter().position(|(_, change)| is_row(change, row));
        let at = match skipped {
            Some(skipped) => next + skipped,
            None => {
                let index =
                    || group.rows.iter().enumerate().map(|(at, (_, row))| (row_key(row), at));
                let known = by_key.get_or_insert_with(|| index().collect());
                let Some(at) = known.get(&found_key(group.table, row)) else {
                    unmatched_rows += 1;
                    continue;
                };
                *at
            }
        };
        next = (at + 1).min(group.rows.len());
        let (place, change) = group.rows[at];
        rows[place] = Ok(done(change, row, group.shown));
    }
    unmatched_rows
}

fn is_row(change: &RowWrite, row: &RowView) -> bool {
    let table = &change.table;
    let is = |at: usize, wanted: &[u8]| row.cell(at, |found| found == wanted).unwrap_or(false);
    let ids = table.id().iter().zip(&change.id).zip(3..);
    is(2, change.key.as_bytes())
        && is(1, &slot_bytes(change))
        && ids.into_iter().all(|((column, value), at)| {
            let kind = table.column(*column).kind;
            if let (Value::Text(text), ColumnType::Text) = (value, kind) {
                return is(at, text.as_bytes());
            }
            let mut wanted = Vec::with_capacity(16);
            binary_value::encode(&mut wanted, kind, value);
            is(at, &wanted)
        })
}

fn found_key(table: &Table, row: &RowView) -> Vec<u8> {
    let mut key = row.cell(1, <[u8]>::to_vec).unwrap_or_default();
    row.cell(2, |bytes| key.extend_from_slice(bytes));
    for at in 0..table.id().len() {
        key.push(0);
        row.cell(3 + at, |bytes| key.extend_from_slice(bytes));
    }
    key
}

fn done(change: &RowWrite, row: &RowView, shown: bool) -> RowDone {
    let table = &change.table;
    let first = 3 + table.id().len();
    let made = row.boolean(0).unwrap_or(false);
    let version = if shown { table.version() - table.answered().start } else { 0 };
    let version = row.bigint(first + version).unwrap_or(0);
    let mut json = Vec::new();
    if change.wants_row {
        json.reserve(256);
        for (column, at) in table.answered().zip(first..) {
            let column = table.column(column);
            json.extend_from_slice(if json.is_empty() { b"{\"" } else { b",\"" });
            json.extend_from_slice(column.name.as_bytes());
            json.extend_from_slice(b"\":");
            let written =
                row.cell(at, |bytes| binary_value::push_json(&mut json, column.kind, bytes));
            if written.is_none() {
                json.extend_from_slice(b"null");
            }
        }
        json.push(b'}');
    }
    let change = if made { Change::Created } else { Change::Changed };
    RowDone { change, version, json, replayed: false }
}

#[cfg(test)]
mod tests;
