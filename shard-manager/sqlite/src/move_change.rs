//! Move change: the contents of a transaction that changes the state of a move in a primary's file.
//!
//! The transaction reads the shard's metadata, which are its records of moves and the states of the
//! slots. It applies the rules of moves to them, and stores the changed metadata, the rows of the
//! round and an entry of the change log.
//!
//! Before the first round of a copy is stored, and before a copy is abandoned, rows of the slots
//! that already exist in the file are deleted in batches, each in a transaction of its own. Each
//! batch first checks the request against the rules, so a refused request deletes nothing.
//!
//! **Invariant:** a change that is refused, or was already carried out, changes nothing.
//! **Not here:** the commit (`writer/move_change`), the rules (crate `moves`).

use std::cell::RefCell;

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sqlite::SqliteConnection;
use engine::move_record::move_name;
use engine::slot_move::{MoveChange, MoveChangeError, RoundTable};
use model::error::{Error, Outcome};
use model::keyspace::Slot;
use model::position::Position;
use model::sabotage::{Mutation, is_on};
use model::slot_set::SlotSet;
use model::value::format_timestamp;
use moves::mark::Mark;
use moves::move_row::CopyCursor;
use moves::request::MoveRequest;
use moves::request_context::{MoveEffect, RequestContext, RowWork};
use moves::rules::MoveRules;
use moves::shard_metadata::ShardMetadata;

use super::batch::{Counters, run};
use super::connection::Bind;
use super::move_counts::ComparedCounts;
use super::move_line::MoveLine;
use super::move_metadata::{self, Difference};
use super::moving_rows::{self, PrimaryScope};
use super::owned_slots::OwnedSlots;
use super::stored_move::{self, FEED_TIMELINE, StoredMove};
use super::{index_ddl, log, move_entry, move_log, sql};

/// Maximum number of rows that one transaction deletes before a copy begins or is abandoned.
const DELETED_MAX: usize = 1_000;
/// Maximum number of rows that one transaction deletes after a move. Writes of clients wait for
/// this transaction.
const CLEANED_MAX: usize = 200;

/// Effects of a transaction.
pub(super) struct MoveChanged {
    pub(super) counters: Counters,
    /// Bytes that were appended to the log; 0 if there was nothing to change.
    pub(super) logged: u64,
    /// The owned slots after the change; `None` if no state of a slot has changed except by a
    /// fence.
    pub(super) owned: Option<OwnedSlots>,
    /// True if states of slots have changed.
    pub(super) has_news: bool,
    /// Effect of the request; `None` if the transaction only deleted left-over rows, so that the
    /// request must be carried out again.
    pub(super) effect: Option<MoveEffect>,
}

impl MoveChanged {
    fn nothing(counters: Counters, effect: MoveEffect) -> Self {
        Self { counters, logged: 0, owned: None, has_news: false, effect: Some(effect) }
    }
}

/// Carries out a change on a primary, inside a transaction, and logs it. If the change is refused,
/// returns the reason and changes nothing.
pub(super) fn change_and_log(
    connection: &mut SqliteConnection,
    counters: Counters,
    (change, compared): (&MoveChange, &ComparedCounts),
    now: DateTime<Utc>,
) -> QueryResult<Result<MoveChanged, MoveChangeError>> {
    let request = &change.request;
    let stored = stored_move::load(connection)?;
    let slots = slots_of(request, &stored)?;
    let before = move_metadata::load(connection, &stored, &slots, counters.version)?;
    let mut after = before.clone();
    let decided = decide((connection, &stored), (counters, now), request, &mut after)?;
    let effect = match decided {
        Ok(MoveEffect::Repeated) => {
            return Ok(Ok(MoveChanged::nothing(counters, MoveEffect::Repeated)));
        }
        Ok(effect) => effect,
        Err(refusal) => return Ok(Err(refusal.into())),
    };
    let mut entry = Entry { counters, slots: &slots, round: &change.rows.tables, now };
    if deletes_first(request) {
        let lines = moving_rows::removal_lines(connection, &slots, DELETED_MAX)?;
        if !lines.is_empty() {
            entry.counters.position += 1;
            let (id, version) = (move_name(request.move_id()), counters.version);
            let line = MoveLine { id, version, ..MoveLine::default() };
            return entry.append(connection, &line, &lines, None).map(Ok);
        }
    }
    let rows = match rows(connection, change, (&effect, &slots))? {
        Ok(rows) => rows,
        Err(table) => return Ok(Err(MoveChangeError::NoTable { table })),
    };
    if before == after && rows.is_empty() {
        return Ok(Ok(MoveChanged::nothing(counters, effect)));
    }
    entry.counters.position += 1;
    entry.counters.version = after.version as i64;
    let (id, stored, counters) = (request.move_id(), &*stored, entry.counters);
    let (before, after, slots) = (&before, &after, &slots);
    let difference = Difference { id, stored, slots, before, after, counters, now, compared };
    let mut line = difference.line(connection)?;
    line.emptied = deletes_first(request);
    match entry.append(connection, &line, &rows, Some(effect)) {
        Ok(changed) => Ok(Ok(changed)),
        Err(error) => not_unique(connection, error).map(Err),
    }
}

/// Converts the violation of a unique index by a row of a round to a refusal of that round. The
/// transaction must then be rolled back.
///
/// # Errors
/// Any other error.
fn not_unique(
    connection: &mut SqliteConnection,
    error: DieselError,
) -> QueryResult<MoveChangeError> {
    let DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, information) = &error else {
        return Err(error);
    };
    let index = index_ddl::broken_unique(connection, information.message())?;
    let refused = |index| MoveChangeError::Failed {
        error: Error::NotUnique { index },
        outcome: Outcome::Rejected,
    };
    index.map(refused).ok_or(error)
}

/// Restarts the recording of changes for moves if the primary's file has an empty log, because such
/// a file was a replica's or comes from a backup. Its position may be lower than that of the file
/// that it replaces. The same positions would then be assigned again to other changes, and a copy
/// that contains the lost changes would look up to date.
pub(super) fn restart_recording(
    connection: &mut SqliteConnection,
    now: DateTime<Utc>,
) -> QueryResult<()> {
    if !log::is_empty(connection)? {
        return Ok(());
    }
    let rows = stored_move::load(connection)?;
    if rows.iter().all(|row| row.traced_after.is_none()) {
        return Ok(());
    }
    connection.immediate_transaction(|connection| {
        let mut counters = Counters::load(connection)?;
        for row in rows.iter().filter(|row| row.traced_after.is_some()) {
            let row = row.clone().recording_restarted(counters.position as u64);
            counters.position += 1;
            let (slots, version) = (row.slot_set()?, counters.version);
            let id = move_name(row.move_id()?);
            let line = MoveLine { id, row: Some(row), version, ..MoveLine::default() };
            let entry = Entry { counters, slots: &slots, round: &[], now };
            entry.append(connection, &line, &[], None)?;
        }
        Ok(())
    })
}

/// Entry of the change log that is being built.
struct Entry<'s> {
    counters: Counters,
    slots: &'s SlotSet,
    /// Tables of the round that is stored.
    round: &'s [RoundTable],
    now: DateTime<Utc>,
}

impl Entry<'_> {
    fn append(
        &self,
        connection: &mut SqliteConnection,
        line: &MoveLine,
        rows: &[u8],
        effect: Option<MoveEffect>,
    ) -> QueryResult<MoveChanged> {
        let Self { counters, slots, round, now } = *self;
        let Counters { version, position } = counters;
        let scope = Some(PrimaryScope { slots, round });
        let owned = move_entry::apply(connection, (line, rows), scope, position)?;
        let mut changes = line.to_line()?;
        changes.extend_from_slice(rows);
        let at = format_timestamp(now);
        let entry = [Bind::Int(position), Bind::Text(&at), Bind::Blob(&changes)];
        run(connection, sql::APPEND_LOG, &entry)?;
        run(connection, sql::SET_COUNTERS, &[Bind::Int(version), Bind::Int(position)])?;
        let (logged, has_news) = (changes.len() as u64, !line.slots.is_empty());
        Ok(MoveChanged { counters, logged, owned, has_news, effect })
    }
}

/// Applies the rules of moves to a request, which change the metadata, and returns their decision.
fn decide(
    (connection, stored): (&mut SqliteConnection, &[StoredMove]),
    (counters, now): (Counters, DateTime<Utc>),
    request: &MoveRequest,
    metadata: &mut ShardMetadata,
) -> QueryResult<Result<MoveEffect, moves::refusal::MoveRefusal>> {
    let position = counters.position as u64;
    let file = RefCell::new((connection, Ok(())));
    let has_change_beyond = |slots: &[Slot], mark: &Mark| {
        let (connection, failure) = &mut *file.borrow_mut();
        match lacks(connection, (stored, slots), mark, position) {
            Ok(lacks) => lacks,
            Err(error) => {
                *failure = Err(error);
                true
            }
        }
    };
    let context = RequestContext {
        position: Position { timeline: FEED_TIMELINE, sequence: position },
        now: now.timestamp_millis().max(0) as u64,
        has_change_beyond: &has_change_beyond,
        rules: MoveRules::in_force(),
    };
    let decided = request.apply(metadata, &context);
    let (_, failure) = file.into_inner();
    failure.map(|()| decided)
}

/// Returns true if some recorded change of the slots is after the mark, or if that cannot be ruled
/// out. A mark is the log position up to which a copy has all changes.
fn lacks(
    connection: &mut SqliteConnection,
    (stored, slots): (&[StoredMove], &[Slot]),
    mark: &Mark,
    position: u64,
) -> QueryResult<bool> {
    for row in stored {
        if *row.slots()? != *slots {
            continue;
        }
        let Some(after) = move_log::lacks_after(connection, row, mark, position)? else {
            return Ok(true);
        };
        return move_log::has_change_after(connection, &row.slot_set()?, after);
    }
    Ok(true)
}

/// Returns the log lines of the rows that an effect stores or deletes, or the name of a table that
/// does not exist here.
fn rows(
    connection: &mut SqliteConnection,
    change: &MoveChange,
    (effect, slots): (&MoveEffect, &SlotSet),
) -> QueryResult<Result<Vec<u8>, String>> {
    match effect {
        MoveEffect::Changed(RowWork::StoreRows) => {
            let mut lines = Vec::with_capacity(change.rows.bytes() as usize);
            for round in &change.rows.tables {
                let has_rows = round.row_count > 0;
                if has_rows && moving_rows::table(connection, &round.table)?.is_none() {
                    return Ok(Err(round.table.clone()));
                }
                if !is_on(Mutation::CopyForgetsDeletes) {
                    lines.extend_from_slice(&round.removed);
                }
                lines.extend_from_slice(&round.rows);
            }
            Ok(Ok(lines))
        }
        MoveEffect::Changed(RowWork::DeleteBatch(most)) => {
            moving_rows::removal_lines(connection, slots, (*most).min(CLEANED_MAX)).map(Ok)
        }
        MoveEffect::Repeated | MoveEffect::Changed(_) => Ok(Ok(Vec::new())),
    }
}

/// Returns true if existing rows of the slots must be deleted before the request is carried out.
fn deletes_first(request: &MoveRequest) -> bool {
    if let MoveRequest::Store(_, round) = request {
        return round.base_cursor == CopyCursor::Empty;
    }
    matches!(request, MoveRequest::Discard(_))
}

/// Returns the slots of a request: those that it names, or else those in the stored record of its
/// move.
fn slots_of(request: &MoveRequest, stored: &[StoredMove]) -> QueryResult<SlotSet> {
    if let MoveRequest::Prepare(new) | MoveRequest::Trace(new) = request {
        return Ok(new.slots.iter().copied().collect());
    }
    let id = request.move_id();
    for row in stored {
        if row.move_id()? == id {
            return Ok(row.slot_set()?);
        }
    }
    Ok(SlotSet::empty())
}
