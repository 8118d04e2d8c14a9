//! Batch transaction: one batch on one connection, from `BEGIN` to a commit that is durable.
//!
//! A batch takes two round trips: the first takes the fence lock, reads which of the slots accept
//! no writes, and reads and locks the rows; the second stores the results, commits, and reads the
//! position up to which the log is on disk. Plain upserts, which most writes are, need one round
//! trip (`upsert_transaction`). Tables with triggers or rules that Tessera has not created need
//! more than two (`triggered_tables`).
//!
//! **Invariant:** the rows that a batch may touch are locked before its changes are computed.
//! **Not here:** the results of changes (`batch_results`), the outcome of a commit
//! (`lane_session`), lost connections (`writer`).

use diesel::QueryResult;
use engine::WriteGroup;
use model::error::Outcome;
use model::value::{ColumnType, Value};

use super::batch_results::{self, Barred, Batch, Refusal, TooLarge};
use super::batch_statements::{Group, group_work, groups, image, locking};
use super::db_error::DbErrorKind;
use super::hazards::{self, Hazards};
use super::lane_session::{LaneSession, Stored, TransactionError, ended};
use super::statement::{Bind, Locking, PipelineStep, Statement, Work, pipeline, plain, run, step};
use super::{refusals, sql, triggered_tables};

/// End of a transaction in which no statement has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Commit,
    /// The constraints are checked as before a commit, and everything is undone.
    RollBack,
}

/// Applies writes as one transaction. If `alone` is true, no other transaction may write to the
/// shard meanwhile.
pub(super) async fn apply(
    session: &mut LaneSession,
    writes: &[WriteGroup<'_>],
    alone: bool,
) -> Result<Stored, TransactionError> {
    apply_until(End::Commit, session, writes, alone).await
}

/// Returns the error with which the database refuses writes, if it does; nothing of them is stored.
pub(super) async fn try_out(
    session: &mut LaneSession,
    writes: &[WriteGroup<'_>],
) -> Result<(), TransactionError> {
    apply_until(End::RollBack, session, writes, false).await.map(drop)
}

async fn apply_until(
    end: End,
    session: &mut LaneSession,
    writes: &[WriteGroup<'_>],
    alone: bool,
) -> Result<Stored, TransactionError> {
    let parts = session.citus.as_ref().map(|citus| citus.parts());
    let mut batch = Batch::new(writes, parts.as_deref());
    let groups = groups(&batch, &mut session.statements);
    let alone = alone || batch_results::removes(writes);
    let (barred, versions) = enter(session, &mut batch, &groups, writes, alone).await?;
    let mut rows = match batch.run(writes, barred, versions) {
        Ok(rows) => rows,
        Err(TooLarge) => {
            let usable = run(&session.connection, "ROLLBACK").await.is_ok();
            let (kind, outcome) = (DbErrorKind::Other, Outcome::Rejected);
            return Err(TransactionError { kind, outcome, usable, retry_split: true });
        }
    };
    let hazards = &batch.barred().hazards;
    let position = if groups.iter().any(|group| hazards.may_alter(&group.statements.table)) {
        let found = triggered_tables::store(session, &batch, &groups).await?;
        batch.stored(writes, &mut rows, &found);
        let records = groups.iter().filter(|group| group.is_idempotency_records());
        let records: Vec<&Group> = records.collect();
        store(session, &batch, &records, end).await?
    } else {
        store(session, &batch, &groups.iter().collect::<Vec<_>>(), end).await?
    };
    Ok(Stored { rows, position })
}

/// Stores the reason for which the database has refused an operation, in one transaction, under the
/// idempotency keys of its changes. If `alone` is true, no other transaction may write to the shard
/// meanwhile.
pub(super) async fn remember_refusal(
    session: &mut LaneSession,
    operation: &WriteGroup<'_>,
    reason: &Refusal,
    alone: bool,
) -> Result<Stored, TransactionError> {
    let writes = std::slice::from_ref(operation);
    let parts = session.citus.as_ref().map(|citus| citus.parts());
    let mut batch = Batch::new(writes, parts.as_deref());
    let groups = groups(&batch, &mut session.statements);
    let (barred, versions) = enter(session, &mut batch, &groups, writes, alone).await?;
    let rows = batch.refuse(operation, (barred, versions), reason);
    let records = groups.iter().filter(|group| group.is_idempotency_records());
    let records: Vec<&Group> = records.collect();
    let position = store(session, &batch, &records, End::Commit).await?;
    Ok(Stored { rows, position })
}

/// Executes the first round trip.
async fn enter(
    session: &mut LaneSession,
    batch: &mut Batch,
    groups: &[Group],
    writes: &[WriteGroup<'_>],
    alone: bool,
) -> Result<(Barred, Vec<i64>), TransactionError> {
    let LaneSession { connection, prepared, citus, .. } = session;
    let connection = &*connection;
    let slots = batch.rows().iter().map(|row| i32::from(row.slot.number()));
    let alone = Bind::value(ColumnType::Boolean, &Value::Bool(alone));
    let entering = [Bind::integers(slots.collect::<Vec<_>>().into_iter()), alone];
    let blocks = batch_results::versions_needed(writes).div_ceil(sql::VERSIONS_OF_BLOCK);
    let drawing = [Bind::integer(blocks as i32)];
    let locking: Vec<(&Group, Locking<'_>)> = groups
        .iter()
        .flat_map(|group| locking(citus.is_some(), batch, (group, &group.rows)))
        .collect();
    let looking = [hazards::names(groups.iter().map(|group| &*group.statements.table))];
    let mut steps: Vec<PipelineStep<'_>> = vec![
        plain(connection, "BEGIN"),
        step(connection, Statement { sql: sql::ENTER, binds: &entering, cached: true }),
    ];
    for (_, Locking { sql, binds, .. }) in &locking {
        steps.push(step(connection, Statement { sql, binds, cached: true }));
    }
    // Versions are drawn after the rows are locked, so the next transaction that locks the same
    // rows draws higher versions.
    steps.push(step(connection, Statement { sql: sql::VERSIONS, binds: &drawing, cached: true }));
    // `CREATE TRIGGER` and `CREATE RULE` do not wait for row locks, so the triggers and rules are
    // read as late as possible.
    let looking = Statement { sql: hazards::OF_TABLES, binds: &looking, cached: true };
    steps.push(step(connection, looking));
    let results: QueryResult<Vec<_>> = pipeline(prepared, steps).await.into_iter().collect();
    let mut results = match results {
        Ok(results) => results.into_iter().skip(1),
        Err(error) => {
            let failed = TransactionError::before_commit(&error);
            let usable = failed.keeps_session() && run(connection, "ROLLBACK").await.is_ok();
            return Err(TransactionError { usable, ..failed });
        }
    };
    let strange = results.next().unwrap_or_default();
    let slots = refusals::states(&strange);
    for (group, locked) in &locking {
        for row in results.next().unwrap_or_default() {
            if let Some(at) = locked.place(&row) {
                batch.found(at, image(&group.statements.table, &row, 1));
            }
        }
    }
    let versions = results.next().unwrap_or_default();
    let blocks = versions.iter().filter_map(|row| row.bigint(0));
    let versions = blocks.flat_map(|first| first..first + sql::VERSIONS_OF_BLOCK as i64);
    let versions = versions.collect();
    let hazards = Hazards::of_tables(&results.next().unwrap_or_default());
    Ok((Barred { slots, hazards }, versions))
}

/// Executes the second round trip.
async fn store(
    session: &mut LaneSession,
    batch: &Batch,
    groups: &[&Group],
    end: End,
) -> Result<u64, TransactionError> {
    let LaneSession { connection, prepared, citus, .. } = session;
    let connection = &*connection;
    let work: Vec<Work<'_>> =
        groups.iter().flat_map(|group| group_work(citus.as_deref(), batch, group)).collect();
    let mut steps: Vec<PipelineStep<'_>> = Vec::with_capacity(work.len() + 3);
    for (sql, binds) in &work {
        steps.push(step(connection, Statement { sql, binds, cached: true }));
    }
    match end {
        End::Commit => steps.push(plain(connection, "COMMIT")),
        End::RollBack => {
            steps.push(plain(connection, "SET CONSTRAINTS ALL IMMEDIATE"));
            steps.push(plain(connection, "ROLLBACK"));
        }
    }
    steps.push(step(connection, Statement { sql: sql::POSITION, binds: &[], cached: true }));
    ended(pipeline(prepared, steps).await, citus.is_some())
}
