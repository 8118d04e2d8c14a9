//! Move change: a change of a move as one transaction on a primary.
//!
//! ```text
//!   round trip 1: BEGIN, locks, rows of moves, states of slots, clock, position, recorded changes
//!   the rules decide
//!   round trip 2: metadata, rows, recorded changes, COMMIT, position
//! ```
//! The transaction may hold the fence lock between the two round trips, so that writes wait. If the
//! mover hangs between them, the server ends its session after [`HOLD_MAX`], which releases the
//! locks.
//!
//! **Invariant:** all facts are read after the locks were taken; a refused change changes nothing.
//! **Not here:** the rules (crate `moves`), sessions (`move_session`).

use std::borrow::Cow;
use std::time::Duration;

use diesel::QueryResult;
use engine::move_record::move_name;
use engine::slot_move::{MoveChange, MoveChangeError, RoundTable};
use model::idempotency;
use model::keyspace::Slot;
use model::position::Position;
use model::sabotage::{Mutation, StopTime, is_on, reach};
use model::table::Table;
use model::value::{ColumnType, Value};
use moves::cutover::SlotCommit;
use moves::move_row::CopyCursor;
use moves::refusal::MoveRefusal;
use moves::request::MoveRequest;
use moves::request_context::{MoveEffect, RequestContext, RowWork};
use moves::rules::MoveRules;
use moves::shard_metadata::ShardMetadata;

use super::move_metadata::{self, Difference, StoredSnapshotMove, slot_bind};
use super::move_session::MoveSession;
use super::row_type::{MANY_ROWS, RowType};
use super::{recording, snapshot_mark, statements};
use crate::db_error::unreadable;
use crate::lane_session::{TransactionError, ended};
use crate::statement::{Bind, RowView, Statement, Work, load, pipeline, plain, run, step};
use crate::{declarations, sql};

/// Time after which the server ends a session that holds locks and sends nothing.
const HOLD_MAX: Duration = Duration::from_secs(1);
/// Maximum number of rows that one transaction deletes before a copy begins or is abandoned.
const DELETED_MAX: usize = 10_000;

/// Result of an attempt.
pub(super) enum Attempted {
    /// The change was made, or had been made before.
    Changed(MoveChanged),
    /// Nothing was changed.
    Refused(MoveChangeError),
    /// Instead of the change, a batch of rows that were left over was deleted: the change must be
    /// attempted again.
    Deleted,
    /// Triggers that the change needs are not enabled. Nothing was changed.
    Unrecorded,
    /// A row of the round has the same values in a unique index as another row of this shard.
    /// Nothing was changed: the change must be attempted again, and must remove such other rows
    /// first.
    NotUnique,
}

/// Change that was made.
pub(super) struct MoveChanged {
    pub(super) effect: MoveEffect,
    /// Number of the timeline on which it was made.
    pub(super) timeline: u32,
    /// Position of the log after the change; `None` if there was nothing to change.
    pub(super) position: Option<u64>,
    /// True if states of slots have changed.
    pub(super) has_news: bool,
    /// True if the shard has become the owner of slots.
    pub(super) gains_slots: bool,
    /// True if changes of the slots are no longer recorded.
    pub(super) ends_recording: bool,
}

/// State of the shard, read while the locks are held.
struct Seen {
    stored: Vec<StoredSnapshotMove>,
    metadata: ShardMetadata,
    now: u64,
    position: Position,
    has_change: bool,
    is_recorded: bool,
    system: [Bind; 1],
    /// True if the record of the move was stored by a server with another system identifier, and
    /// changes are recorded.
    is_foreign: bool,
}

/// Carries out a change, or a part of it. If `displaces` is true, other rows that have the unique
/// values of rows of the round are removed first.
///
/// A round that does not contain all changes still has its rows in their present state. So one of
/// its rows may have a unique value that another row has given up in a change that the round does
/// not contain. A later round contains that change, and stores the other row again.
pub(super) async fn attempt(
    session: &mut MoveSession,
    (change, displaces): (&MoveChange, bool),
    has_replicas: bool,
) -> Result<Attempted, TransactionError> {
    let seen = match look(session, &change.request, has_replicas).await {
        Ok(Ok(seen)) => seen,
        Ok(Err(holder)) => {
            return abort(session, Attempted::Refused(MoveChangeError::Busy { holder })).await;
        }
        Err(error) => return Err(TransactionError::before_commit(&error)),
    };
    let mut after = seen.metadata.clone();
    let effect = match decide(&seen, &change.request, &mut after) {
        Ok(effect) => effect,
        Err(refusal) => return abort(session, Attempted::Refused(refusal.into())).await,
    };
    let unchanged = |effect| MoveChanged {
        effect,
        timeline: seen.position.timeline,
        position: None,
        has_news: false,
        gains_slots: false,
        ends_recording: false,
    };
    if effect == MoveEffect::Repeated {
        return abort(session, Attempted::Changed(unchanged(effect))).await;
    }
    if recording::begins(&change.request) && !seen.is_recorded {
        return abort(session, Attempted::Unrecorded).await;
    }
    let transaction =
        Transaction { change, displaces, seen: &seen, after: &after, effect: &effect };
    let prepared = transaction.prepare(session).await;
    let (work, kind) = prepared.map_err(|error| TransactionError::before_commit(&error))?;
    match kind {
        WorkKind::NoTable(table) => {
            let refused = MoveChangeError::NoTable { table };
            return abort(session, Attempted::Refused(refused)).await;
        }
        WorkKind::Nothing => return abort(session, Attempted::Changed(unchanged(effect))).await,
        WorkKind::Deletion | WorkKind::Whole => {}
    }
    reach(StopTime::Inside, change.request.name());
    let position = commit(session, &work).await?;
    if matches!(kind, WorkKind::Deletion) {
        return Ok(Attempted::Deleted);
    }
    Ok(Attempted::Changed(MoveChanged {
        timeline: seen.position.timeline,
        position: Some(position),
        has_news: transaction.difference().has_news(),
        gains_slots: transaction.difference().gains_slots(),
        ends_recording: matches!(effect, MoveEffect::Changed(RowWork::EndTraces)),
        effect,
    }))
}

/// Applies the rules of moves to a request: they change the metadata, and their decision is
/// returned.
fn decide(
    seen: &Seen,
    request: &MoveRequest,
    metadata: &mut ShardMetadata,
) -> Result<MoveEffect, MoveRefusal> {
    let context = RequestContext {
        position: seen.position,
        now: seen.now,
        has_change_beyond: &|_, _| seen.has_change,
        rules: MoveRules::in_force(),
    };
    request.apply(metadata, &context)
}

/// Takes the locks and reads the state of the shard. If a lock was not free in time, returns a
/// description of its holder instead.
async fn look(
    session: &mut MoveSession,
    request: &MoveRequest,
    has_replicas: bool,
) -> QueryResult<Result<Seen, String>> {
    let system = [session.system_bind()];
    let MoveSession { connection, prepared, timeline, .. } = session;
    let (connection, timeline) = (&*connection, *timeline);
    let (id, slots) = (move_name(request.move_id()), slots_of(request));
    // Without replicas, a round counts as confirmed once it is committed, and the source then
    // deletes the recorded changes that the round contains. So its commit must be durable.
    let is_early = has_replicas
        && matches!(request, MoveRequest::Store(_, round) if round.cursor != CopyCursor::Whole);
    // If the commit is asynchronous, a crash loses the rows and the cursor of the round together.
    // The round that completes the copy commits durably, which makes all earlier rounds durable
    // too.
    let durability = if is_early { "SET LOCAL synchronous_commit=off;" } else { "" };
    let hold = HOLD_MAX.as_millis();
    let begin = format!("BEGIN;{durability}SET LOCAL idle_in_transaction_session_timeout={hold}");
    let truth = |truth| Bind::value(ColumnType::Boolean, &Value::Bool(truth));
    let (begins, records, fences) =
        (slots.is_some(), recording::begins(request), request.takes_fence_lock());
    let locks = [Bind::text(&id), truth(begins), truth(records), truth(fences)];
    let slots = slot_bind(slots.unwrap_or_default());
    let seen = commit_of(request).and_then(|commit| snapshot_mark::text(&commit.applied.mark));
    let seen = Bind::value(ColumnType::Text, &seen.map_or(Value::Null, Value::Text));
    let states = [slots.clone(), Bind::text(&id)];
    let looks_early = is_on(Mutation::OneStatementFence) && commit_of(request).is_some();
    let early: Vec<Bind> = locks.iter().cloned().chain([seen.clone()]).collect();
    let scene = [slots, Bind::text(&id), seen];
    let statement = |sql, binds| step(connection, Statement { sql, binds, cached: true });
    let lock = match looks_early {
        true => statement(statements::LOCK_AND_LOOK, &*early),
        false => statement(statements::LOCK, &locks),
    };
    let mut steps = vec![
        plain(connection, &begin),
        lock,
        statement(statements::MOVES, &system),
        statement(statements::STATES, &states),
        statement(statements::SCENE, &scene),
    ];
    if records {
        steps.push(statement(statements::UNRECORDED, &[]));
    }
    let results: QueryResult<Vec<_>> = pipeline(prepared, steps).await.into_iter().collect();
    let mut results = results?.into_iter().skip(1);
    let mut next = || results.next().unwrap_or_default();
    let locked = next();
    if let Some(holder) = locked.first().and_then(|row| row.text(0)) {
        return Ok(Err(holder));
    }
    let rows = next();
    let stored = move_metadata::stored(&rows)?;
    let is_foreign = |row: &RowView| row.boolean(1) == Some(true);
    let own = stored.iter().zip(&rows).find(|(stored, _)| stored.name() == id);
    let is_foreign = own.is_some_and(|(_, row)| is_foreign(row));
    let moves: Result<Vec<_>, _> = stored.iter().map(StoredSnapshotMove::row).collect();
    let slots = move_metadata::states(&next())?;
    let scene = next();
    let number = |column| {
        let number = scene.first().and_then(|row: &RowView| row.bigint(column));
        number.unwrap_or(0).max(0).cast_unsigned()
    };
    Ok(Ok(Seen {
        metadata: ShardMetadata { slots, moves: moves?, generation: 0, version: number(1) },
        now: number(0),
        position: Position { timeline, sequence: number(2) },
        has_change: match looks_early {
            true => locked.first().and_then(|row| row.boolean(1)) != Some(false),
            false => scene.first().and_then(|row| row.boolean(3)) != Some(false),
        },
        is_recorded: next().is_empty(),
        stored,
        system,
        is_foreign,
    }))
}

/// Ends a transaction that has changed nothing.
async fn abort(
    session: &mut MoveSession,
    attempted: Attempted,
) -> Result<Attempted, TransactionError> {
    let ended = run(&session.connection, "ROLLBACK").await;
    ended.map(|()| attempted).map_err(|error| TransactionError::before_commit(&error))
}

/// Sends the statements of a transaction with its commit, and returns the position after it.
async fn commit(session: &mut MoveSession, work: &[Work<'_>]) -> Result<u64, TransactionError> {
    let MoveSession { connection, prepared, .. } = session;
    let connection = &*connection;
    let mut steps: Vec<_> = work
        .iter()
        .map(|(sql, binds)| step(connection, Statement { sql, binds, cached: true }))
        .collect();
    steps.push(plain(connection, "COMMIT"));
    steps.push(step(connection, Statement { sql: sql::POSITION, binds: &[], cached: true }));
    ended(pipeline(prepared, steps).await, false)
}

/// Part of a change that a transaction carries out.
enum WorkKind {
    /// There is nothing to do.
    Nothing,
    /// Rows that are left over are deleted.
    Deletion,
    /// The whole change.
    Whole,
    /// Nothing can be done, because the round has rows of this table, which does not exist here.
    NoTable(String),
}

/// Transaction of a change that the rules have permitted.
struct Transaction<'t> {
    change: &'t MoveChange,
    /// True if other rows that have the unique values of rows of the round are removed first.
    displaces: bool,
    seen: &'t Seen,
    after: &'t ShardMetadata,
    effect: &'t MoveEffect,
}

impl Transaction<'_> {
    fn difference(&self) -> Difference<'_> {
        let (id, seen) = (self.change.request.move_id(), self.seen);
        let name = move_name(id);
        let stored = seen.stored.iter().find(|stored| stored.name() == name);
        let traced_after = stored.and_then(|stored| stored.traced_after);
        let traced_after = traced_after.unwrap_or(seen.position.sequence);
        let (before, after) = (&seen.metadata, self.after);
        let (system, is_foreign) = (seen.system[0].clone(), seen.is_foreign);
        Difference { id, before, after, traced_after, now: seen.now, system, is_foreign }
    }

    /// Returns the slots of the move.
    fn slots(&self) -> Vec<Slot> {
        let (request, seen) = (&self.change.request, self.seen);
        let row =
            self.after.row(request.move_id()).or_else(|| seen.metadata.row(request.move_id()));
        row.map(|row| row.slots.to_vec()).unwrap_or_default()
    }

    /// Returns the statements that carry out the change.
    async fn prepare(&self, session: &MoveSession) -> QueryResult<(Vec<Work<'static>>, WorkKind)> {
        let slots = self.slots();
        if deletes_first(&self.change.request) && delete(session, &slots, DELETED_MAX).await? > 0 {
            return Ok((Vec::new(), WorkKind::Deletion));
        }
        let mut work = self.difference().statements()?;
        let mut deleted = 0;
        match self.effect {
            MoveEffect::Changed(RowWork::StoreRows) => match self.rows(session).await? {
                Ok(rows) => work.extend(rows),
                Err(table) => return Ok((Vec::new(), WorkKind::NoTable(table))),
            },
            MoveEffect::Changed(RowWork::DeleteBatch(most)) => {
                deleted = delete(session, &slots, *most).await?;
            }
            MoveEffect::Changed(RowWork::BeginTraces) => work.push(follow(&slots, true)),
            MoveEffect::Changed(RowWork::EndTraces) => work.push(follow(&slots, false)),
            MoveEffect::Changed(RowWork::TrimTraces(mark)) => {
                let snapshot = snapshot_mark::text(mark).map(|text| Bind::text(&text));
                let trim =
                    |snapshot| (Cow::Borrowed(statements::TRIM), vec![slot_bind(&slots), snapshot]);
                work.extend(snapshot.map(trim));
            }
            MoveEffect::Repeated | MoveEffect::Changed(RowWork::None | RowWork::DeleteRows) => {}
        }
        let is_empty = work.is_empty() && deleted == 0;
        Ok((work, if is_empty { WorkKind::Nothing } else { WorkKind::Whole }))
    }

    /// Returns the statements that store the rows of a round, or the name of a table that is
    /// missing.
    async fn rows(&self, session: &MoveSession) -> QueryResult<Result<Vec<Work<'static>>, String>> {
        let rounds = &self.change.rows.tables;
        if rounds.iter().all(|round| round.removed.is_empty() && round.rows.is_empty()) {
            return Ok(Ok(Vec::new()));
        }
        let tables = tables(session).await?;
        let mut work = Vec::new();
        for round in rounds {
            let Some(table) = tables.iter().find(|table| table.name() == round.table) else {
                if round.rows.is_empty() {
                    // The table was dropped here already, so there are no rows to remove.
                    continue;
                }
                return Ok(Err(round.table.clone()));
            };
            if !round.removed.is_empty() && !is_on(Mutation::CopyForgetsDeletes) {
                let binds = crate::row_arrays::key_binds(table, &round.removed)?;
                work.push((Cow::Owned(statements::remove_rows(table)), binds));
            }
            if !round.rows.is_empty() {
                if self.displaces {
                    work.extend(displacements(session, (table, round)).await?);
                }
                work.push(insertion(session, (table, round)).await?);
            }
        }
        Ok(Ok(work))
    }
}

/// Returns the statement that stores the rows of a round in a table.
async fn insertion(
    session: &MoveSession,
    (table, round): (&Table, &RoundTable),
) -> QueryResult<Work<'static>> {
    // The last round has few rows and is stored while writes wait, so the query for the row type is
    // avoided if there are few rows.
    if round.row_count >= MANY_ROWS
        && let Some(row_type) = RowType::load(session, table).await?
    {
        return Ok((Cow::Owned(row_type.insert(table)), vec![row_type.bind(&round.rows)?]));
    }
    Ok((Cow::Owned(sql::insert(table)), crate::row_arrays::row_binds(table, &round.rows)?))
}

/// Returns the statements that remove other rows that have the unique values of rows of a round. If
/// the other shard does not have the unique index, both rows may exist there. Then nothing is
/// removed, and the index of this shard refuses the round.
async fn displacements(
    session: &MoveSession,
    (table, round): (&Table, &RoundTable),
) -> QueryResult<Vec<Work<'static>>> {
    let binds = [Bind::text(table.name())];
    let statement = Statement { sql: statements::UNIQUE_COLUMNS, binds: &binds, cached: true };
    let mut work = Vec::new();
    for row in load(&session.connection, statement).await? {
        let names = row.text(0).unwrap_or_default();
        let names: Vec<String> =
            serde_json::from_str(&names).map_err(|error| unreadable(&error))?;
        let column = |name: &String| table.columns().iter().position(|own| own.name == *name);
        // An index on a column that the declaration of the table lacks is skipped.
        let Some(columns) = names.iter().map(column).collect::<Option<Vec<_>>>() else { continue };
        if !round.is_unique(table, &columns) {
            continue;
        }
        let binds = crate::row_arrays::row_binds(table, &round.rows)?;
        work.push((Cow::Owned(statements::displace_rows(table, &columns)), binds));
    }
    Ok(work)
}

fn follow(slots: &[Slot], is_followed: bool) -> Work<'static> {
    let is_followed = Bind::value(ColumnType::Boolean, &Value::Bool(is_followed));
    (Cow::Borrowed(statements::FOLLOW), vec![slot_bind(slots), is_followed])
}

/// Returns all tables that contain rows of clients, sorted by name, including the table of
/// idempotency keys.
pub(super) async fn tables(session: &MoveSession) -> QueryResult<Vec<Table>> {
    let (mut tables, _) = declarations::load(&session.connection).await?;
    if !is_on(Mutation::IdempotencyStays) {
        tables.push(Table::clone(&idempotency::TABLE));
    }
    tables.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(tables)
}

/// Deletes at most `most` rows of these slots, and returns their number, which is 0 only if no rows
/// are left.
async fn delete(session: &MoveSession, slots: &[Slot], most: usize) -> QueryResult<usize> {
    let tables = tables(session).await?;
    let deleted = delete_onwards(session, (&tables, slots), most).await?;
    if deleted == 0 && session.delete_from_start() {
        return delete_onwards(session, (&tables, slots), most).await;
    }
    Ok(deleted)
}

/// Deletes at most `most` rows of these slots, starting in each table at the slot where the last
/// deletion of this session has ended.
async fn delete_onwards(
    session: &MoveSession,
    (tables, slots): (&[Table], &[Slot]),
    most: usize,
) -> QueryResult<usize> {
    let mut left = most;
    for table in tables {
        let first = session.deletes_from(table.name());
        let slots: Vec<Slot> =
            slots.iter().copied().filter(|slot| slot.number() >= first).collect();
        if left == 0 || slots.is_empty() {
            continue;
        }
        let binds = [slot_bind(&slots), Bind::bigint(left as i64)];
        let sql = statements::delete_batch(table);
        let deleted = Statement { sql: &sql, binds: &binds, cached: true };
        let deleted = load(&session.connection, deleted).await?;
        let number = |column| deleted.first().and_then(|row| row.bigint(column));
        let count = number(0).ok_or_else(|| unreadable(&"a deletion has no count"))?;
        if let Some(slot) = number(1).and_then(|slot| u16::try_from(slot).ok()) {
            session.note_deleted(table.name(), slot);
        }
        left = left.saturating_sub(count.max(0) as usize);
    }
    Ok(most - left)
}

/// Returns true if the request requires that existing rows of the slots are deleted first.
fn deletes_first(request: &MoveRequest) -> bool {
    if let MoveRequest::Store(_, round) = request {
        return round.base_cursor == CopyCursor::Empty;
    }
    matches!(request, MoveRequest::Discard(_))
}

fn commit_of(request: &MoveRequest) -> Option<&SlotCommit> {
    let MoveRequest::Commit(_, commit) = request else { return None };
    Some(commit)
}

/// Returns the slots of a request that begins a move on this shard; `None` for other requests.
fn slots_of(request: &MoveRequest) -> Option<&[Slot]> {
    let (MoveRequest::Prepare(new) | MoveRequest::Trace(new)) = request else { return None };
    Some(&new.slots)
}
