//! Triggered tables: stores rows of tables whose triggers or rules may alter them.
//!
//! The statements run, and the rows are read again, before the commit: so the response contains
//! what the database has really stored. Other tables do not pay for these round trips.
//!
//! **Invariant:** if the database has discarded a row without an error, the whole transaction is
//! aborted.
//! **Not here:** detecting such tables (`hazards`), storing positions and records beside the rows
//! (`batch_transaction`).

use std::collections::HashMap;
use std::sync::Arc;

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use model::error::Outcome;
use model::table::Table;
use model::value::Value;

use super::batch_results::{Batch, Row, Store};
use super::batch_statements::{Group, group_work, image, locking};
use super::citus::Citus;
use super::db_error::{DbErrorKind, may_be_raised};
use super::lane_session::{LaneSession, TransactionError};
use super::statement::{Locking, PipelineStep, Statement, Work, load, pipeline, run, step};
use super::statement_cache::TableStatements;

/// Stores the rows of clients in the open transaction, and returns the rows that the database may
/// have altered, by their indexes in the batch.
pub(super) async fn store(
    session: &mut LaneSession,
    batch: &Batch,
    groups: &[Group],
) -> Result<HashMap<usize, Vec<Value>>, TransactionError> {
    let failed = match write(session, batch, groups).await {
        Ok(found) => match discarded(batch, groups, &found) {
            None => return Ok(found),
            Some(table) => {
                let kind = DbErrorKind::Discarded(Some(table.name().to_owned()));
                TransactionError {
                    kind,
                    outcome: Outcome::Rejected,
                    usable: true,
                    retry_split: true,
                }
            }
        },
        Err(error) => return Err(refused(session, (batch, groups), &error).await),
    };
    let usable = failed.keeps_session() && run(&session.connection, "ROLLBACK").await.is_ok();
    Err(TransactionError { usable, ..failed })
}

/// Rolls the transaction back, and converts its error. An exception of a trigger or rule discards
/// the row.
async fn refused(
    session: &LaneSession,
    (batch, groups): (&Batch, &[Group]),
    error: &DieselError,
) -> TransactionError {
    let mut failed = TransactionError::before_commit(error);
    let may_answer = failed.keeps_session() || failed.kind == DbErrorKind::Lost;
    let answers = may_answer && run(&session.connection, "ROLLBACK").await.is_ok();
    if answers && session.citus.is_none() {
        failed = failed.on_living_connection();
    }
    let altered = groups.iter().find(|group| may_be_altered(batch, group));
    if let Some(group) = altered
        && failed.kind == DbErrorKind::Other
        && answers
        && may_be_raised(error)
    {
        failed.kind = DbErrorKind::Discarded(Some(group.statements.table.name().to_owned()));
    }
    TransactionError { usable: answers && failed.keeps_session(), ..failed }
}

/// Returns true if the database may alter rows of the table.
fn may_be_altered(batch: &Batch, group: &Group) -> bool {
    !group.is_idempotency_records() && batch.barred().hazards.may_alter(&group.statements.table)
}

async fn write(
    session: &mut LaneSession,
    batch: &Batch,
    groups: &[Group],
) -> QueryResult<HashMap<usize, Vec<Value>>> {
    let LaneSession { connection, prepared, citus, .. } = session;
    let connection = &*connection;
    let mut work: Vec<Work<'_>> = Vec::new();
    let mut locks: Vec<(&Group, Locking<'_>)> = Vec::new();
    for group in groups.iter().filter(|group| !group.is_idempotency_records()) {
        if batch.barred().hazards.may_rewrite(&group.statements.table) {
            // The plan of a rewritten statement would outlive its rule.
            for (sql, binds) in plain_work(citus.as_deref(), batch, group) {
                let statement = Statement { sql: &sql, binds: &binds, cached: false };
                load(connection, statement).await?;
            }
        } else {
            work.extend(group_work(citus.as_deref(), batch, group));
        }
        let touched = group.rows.iter().copied().filter(|at| batch.rows()[*at].store().is_some());
        let touched: Vec<usize> = touched.collect();
        if may_be_altered(batch, group) && !touched.is_empty() {
            locks.extend(locking(citus.is_some(), batch, (group, &touched)));
        }
    }
    let mut steps: Vec<PipelineStep<'_>> = Vec::with_capacity(work.len() + locks.len());
    for (sql, binds) in &work {
        steps.push(step(connection, Statement { sql, binds, cached: true }));
    }
    for (_, Locking { sql, binds, .. }) in &locks {
        steps.push(step(connection, Statement { sql, binds, cached: true }));
    }
    let results: QueryResult<Vec<_>> = pipeline(prepared, steps).await.into_iter().collect();
    let reported = results?.split_off(work.len());
    let mut found = HashMap::new();
    for ((group, locked), rows) in locks.iter().zip(reported) {
        for row in rows {
            let at = locked.place(&row).ok_or(DieselError::NotFound)?;
            found.insert(at, image(&group.statements.table, &row, 1));
        }
    }
    Ok(found)
}

/// Returns the statements that store the rows of a group whose table has rules: they return
/// nothing, so a rule may rewrite them.
fn plain_work(citus: Option<&Citus>, batch: &Batch, group: &Group) -> Vec<Work<'static>> {
    let statements = Arc::new(TableStatements::plain(&group.statements.table));
    let group = Group { statements, rows: group.rows.clone() };
    let work = group_work(citus, batch, &group).into_iter();
    work.map(|(sql, binds)| (sql.into_owned().into(), binds)).collect()
}

/// Returns the table of the first row that the database has discarded.
fn discarded<'g>(
    batch: &Batch,
    groups: &'g [Group],
    found: &HashMap<usize, Vec<Value>>,
) -> Option<&'g Table> {
    let alterable = groups.iter().filter(|group| may_be_altered(batch, group));
    let mut rows = alterable.flat_map(|group| group.rows.iter().map(move |at| (group, *at)));
    let (group, _) =
        rows.find(|(_, at)| !is_carried_out(&batch.rows()[*at], found.get(at).map(Vec::as_slice)))?;
    Some(&group.statements.table)
}

/// Returns true if the stored row comes from the write: an updated row must have a higher version
/// than before.
fn is_carried_out(row: &Row, found: Option<&[Value]>) -> bool {
    match (row.store(), found) {
        (None, _) | (Some(Store::Insert), Some(_)) | (Some(Store::Remove), None) => true,
        (Some(Store::Update), Some(found)) => {
            let before = row.before.as_deref().and_then(|before| version(&row.table, before));
            version(&row.table, found) > before
        }
        (Some(Store::Insert | Store::Update), None) | (Some(Store::Remove), Some(_)) => false,
    }
}

fn version(table: &Table, image: &[Value]) -> Option<i64> {
    match image.get(table.version() - table.answered().start)? {
        Value::Int(version) => Some(*version),
        Value::Null | Value::Bool(_) | Value::Double(_) | Value::Text(_) => None,
    }
}
