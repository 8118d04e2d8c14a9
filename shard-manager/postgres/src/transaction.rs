//! Transaction: one batch on one connection, from `BEGIN` to a commit that is durable.
//!
//! A batch takes two round trips: the first takes the fence lock, reads the slots that may not be
//! written, and reads and locks the rows; the second stores the results, commits, and reads the
//! position up to which the log is on disk. Plain upserts, which most writes are, need one round
//! trip (`upsert`). Tables with foreign triggers or rules need more than two (`careful`).
//!
//! **Invariant:** an outcome is rejected only if the server has proven, after the commit was sent,
//! that it still answers; otherwise it is unknown.
//! **Not here:** the results of changes (`batch`), lost connections (`writer`).

use std::borrow::Cow;
use std::sync::Arc;

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use diesel_async::AsyncPgConnection;
use engine::WriteGroup;
use model::error::{Error, Outcome};
use model::idempotency;
use model::row_change::RowDone;
use model::table::Table;
use model::value::{ColumnType, Value};

use super::batch::{self, Barred, Batch, Row, Store, TooLarge};
use super::cell;
use super::citus::{self, Citus};
use super::db_error::DbErrorKind;
use super::hazards::{self, Hazards};
use super::statement::{
    Bind, PipelineStep, Prepared, RowView, Statement, pipeline, plain, run, step,
};
use super::statement_cache::{StatementCache, TableStatements};
use super::upsert::InsertPredictor;
use super::{careful, sql};

/// One connection of a lane, and the statements prepared on it.
pub(super) struct LaneSession {
    pub(super) connection: AsyncPgConnection,
    pub(super) prepared: Prepared,
    pub(super) statements: StatementCache,
    pub(super) insert_predictor: InsertPredictor,
    /// Known state of Citus, if the server is a coordinator.
    pub(super) citus: Option<Arc<Citus>>,
}

/// A statement and its values.
pub(super) type Work<'w> = (Cow<'w, str>, Vec<Bind>);

/// A statement that locks rows and returns those that exist.
pub(super) struct Locking<'w> {
    pub(super) sql: Cow<'w, str>,
    pub(super) binds: Vec<Bind>,
    /// Indexes of the rows in the batch.
    pub(super) rows: Vec<usize>,
}

impl Locking<'_> {
    /// Returns the index in the batch of a returned row.
    pub(super) fn place(&self, row: &RowView) -> Option<usize> {
        let number = row.bigint(0).unwrap_or(0) as usize;
        number.checked_sub(1).and_then(|index| self.rows.get(index)).copied()
    }
}

/// A batch that is durable.
pub(super) struct Stored {
    pub(super) rows: Vec<Result<RowDone, Error>>,
    pub(super) position: u64,
}

/// A transaction that failed.
#[derive(Debug)]
pub(super) struct TransactionError {
    pub(super) kind: DbErrorKind,
    pub(super) outcome: Outcome,
    /// True if the connection may be used again.
    pub(super) usable: bool,
    /// True if a smaller batch may succeed.
    pub(super) retry_split: bool,
}

impl TransactionError {
    /// Converts an error before the commit was sent: nothing was stored.
    pub(super) fn before_commit(error: &DieselError) -> Self {
        let kind = DbErrorKind::of(error);
        tracing::warn!(%error, ?kind, "a batch failed before it was committed");
        let retry_split = kind.is_of_rows();
        Self { kind, outcome: Outcome::Rejected, usable: false, retry_split }
    }

    /// Converts an error after the commit was sent. `answers`: the server has answered after it.
    pub(super) fn after_commit(error: &DieselError, answers: bool) -> Self {
        let kind = DbErrorKind::of(error);
        let outcome = if answers { Outcome::Rejected } else { Outcome::Unknown };
        if matches!(kind, DbErrorKind::Constraint(_) | DbErrorKind::Swallowed(_)) && answers {
            tracing::debug!(%error, "a rule of the database refused a batch");
        } else {
            let outcome = outcome.name();
            tracing::warn!(%error, ?kind, outcome, "a batch failed as it was committed");
        }
        let retry_split = answers && kind.is_of_rows();
        let failed = Self { kind, outcome, usable: false, retry_split };
        Self { usable: answers && failed.keeps_session(), ..failed }
    }

    /// Names the table that swallowed a row: if it is unknown, the table of the first change.
    pub(super) fn about(mut self, writes: &[WriteGroup<'_>]) -> Self {
        if let DbErrorKind::Swallowed(table @ None) = &mut self.kind {
            let row = writes.iter().find_map(|write| write.rows.first());
            *table = row.map(|row| row.table.name().to_owned());
        }
        self
    }

    /// Returns true if the error does not affect the session.
    pub(super) fn keeps_session(&self) -> bool {
        match self.kind {
            DbErrorKind::Constraint(_)
            | DbErrorKind::Swallowed(_)
            | DbErrorKind::Conflict
            | DbErrorKind::Full
            | DbErrorKind::Late
            | DbErrorKind::Other => true,
            DbErrorKind::ReadOnly
            | DbErrorKind::Outdated
            | DbErrorKind::Lost
            | DbErrorKind::Promoted => false,
        }
    }
}

/// Adjacent rows of one table in a batch.
pub(super) struct Group {
    pub(super) statements: Arc<TableStatements>,
    /// Indexes of the rows in the batch.
    pub(super) rows: Vec<usize>,
}

/// Applies writes as one transaction. `alone`: no other router may write meanwhile.
pub(super) async fn apply(
    session: &mut LaneSession,
    writes: &[WriteGroup<'_>],
    alone: bool,
) -> Result<Stored, TransactionError> {
    let mut batch = Batch::new(writes);
    let parts = session.citus.as_ref().map(|citus| citus.parts());
    batch.sort(parts.as_deref());
    let groups = groups(&batch, &mut session.statements);
    let alone = alone || batch::removes(writes);
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
    let position = if groups.iter().any(|group| hazards.meddle(&group.statements.table)) {
        let found = careful::store(session, &batch, &groups).await?;
        batch.stored(writes, &mut rows, &found);
        let kept: Vec<&Group> = groups.iter().filter(|group| group.is_kept_beside()).collect();
        store(session, &batch, &kept).await?
    } else {
        store(session, &batch, &groups.iter().collect::<Vec<_>>()).await?
    };
    Ok(Stored { rows, position })
}

impl Group {
    /// Returns true if the rows are the records of idempotency keys.
    pub(super) fn is_kept_beside(&self) -> bool {
        self.statements.table.name() == idempotency::TABLE.name()
    }
}

fn groups(batch: &Batch, statements: &mut StatementCache) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (at, row) in batch.rows().iter().enumerate() {
        match groups.last_mut().filter(|group| Arc::ptr_eq(&group.statements.table, &row.table)) {
            Some(group) => group.rows.push(at),
            None => groups.push(Group { statements: statements.of(&row.table), rows: vec![at] }),
        }
    }
    groups
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
    let blocks = batch::versions_needed(writes).div_ceil(sql::VERSIONS_OF_BLOCK);
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
    // Versions are drawn after the rows are locked: the next transaction that locks them draws
    // higher ones.
    steps.push(step(connection, Statement { sql: sql::VERSIONS, binds: &drawing, cached: true }));
    // `CREATE TRIGGER` and `CREATE RULE` wait for no lock on rows, so the hazards are read as late
    // as possible.
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
    let slots = strange.iter().filter_map(|row| row.bigint(0)).collect();
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

/// Returns the statements that lock the rows of a group.
pub(super) fn locking<'g>(
    is_citus: bool,
    batch: &Batch,
    (group, rows): (&'g Group, &[usize]),
) -> Vec<(&'g Group, Locking<'g>)> {
    let table = &group.statements.table;
    let statements = if is_citus {
        citus::work::locking(table, batch.rows(), rows)
    } else {
        let sql = Cow::Borrowed(&*group.statements.lock_rows);
        let binds = places(table, batch.rows(), rows);
        vec![Locking { sql, binds, rows: rows.to_vec() }]
    };
    statements.into_iter().map(|locking| (group, locking)).collect()
}

/// Returns the answered columns of a row, which begin at column `first`.
pub(super) fn image(table: &Table, row: &RowView, first: usize) -> Vec<Value> {
    let columns = table.answered().zip(first..);
    let value = |(column, at): (usize, usize)| {
        let kind = table.column(column).kind;
        row.cell(at, |bytes| cell::decode(kind, bytes)).unwrap_or(Value::Null)
    };
    columns.map(value).collect()
}

/// Executes the second round trip.
async fn store(
    session: &mut LaneSession,
    batch: &Batch,
    groups: &[&Group],
) -> Result<u64, TransactionError> {
    let LaneSession { connection, prepared, citus, .. } = session;
    let connection = &*connection;
    let work: Vec<Work<'_>> =
        groups.iter().flat_map(|group| group_work(citus.as_deref(), batch, group)).collect();
    let mut steps: Vec<PipelineStep<'_>> = Vec::with_capacity(work.len() + 2);
    for (sql, binds) in &work {
        steps.push(step(connection, Statement { sql, binds, cached: true }));
    }
    steps.push(plain(connection, "COMMIT"));
    steps.push(step(connection, Statement { sql: sql::POSITION, binds: &[], cached: true }));
    ended(pipeline(prepared, steps).await, citus.is_some())
}

/// Returns the statements that store the rows of a group.
pub(super) fn group_work<'g>(
    citus: Option<&Citus>,
    batch: &Batch,
    group: &'g Group,
) -> Vec<Work<'g>> {
    let ways = [Store::Insert, Store::Update, Store::Remove].into_iter();
    let work = ways.flat_map(|way| {
        let rows = group.rows.iter().copied();
        let rows = rows.filter(|at| batch.rows()[*at].store() == Some(way));
        storing(citus, batch, (group, &rows.collect::<Vec<_>>()), way)
    });
    work.collect()
}

/// Returns the statements that store these rows of a group in one way.
fn storing<'g>(
    citus: Option<&Citus>,
    batch: &Batch,
    (group, rows): (&'g Group, &[usize]),
    way: Store,
) -> Vec<Work<'g>> {
    let statements = &*group.statements;
    if rows.is_empty() {
        return Vec::new();
    }
    if let Some(citus) = citus {
        return citus::work::storing(&citus.parts(), &statements.table, (batch.rows(), rows), way);
    }
    let (sql, binds) = match way {
        Store::Insert => (&statements.insert, images(&statements.table, batch.rows(), rows)),
        Store::Update => (&statements.update, images(&statements.table, batch.rows(), rows)),
        Store::Remove => (&statements.remove, places(&statements.table, batch.rows(), rows)),
    };
    vec![(Cow::Borrowed(sql), binds)]
}

/// Returns the position after a commit, from the results of all steps: those of the transaction,
/// `COMMIT`, position. On Citus other servers commit for the one that answers.
pub(super) fn ended(
    mut results: Vec<QueryResult<Vec<RowView>>>,
    is_citus: bool,
) -> Result<u64, TransactionError> {
    let position = results.pop();
    let answers = matches!(position, Some(Ok(_)));
    // The last step commits: `COMMIT`, or the only statement.
    let last = results.len().saturating_sub(1);
    let failed = results.into_iter().enumerate();
    let mut failed = failed.filter_map(|(at, result)| Some((at, result.err()?)));
    if let Some((at, error)) = failed.next() {
        let proven = !is_citus || citus::is_rejected(&error, at == last);
        return Err(TransactionError::after_commit(&error, answers && proven));
    }
    match position {
        Some(Ok(rows)) => {
            Ok(rows.first().and_then(|row| row.bigint(0)).unwrap_or(0).cast_unsigned())
        }
        // The rows are stored, but the position that a replica needs to show them is unknown.
        Some(Err(error)) => Err(TransactionError::after_commit(&error, false)),
        None => Ok(0),
    }
}

/// Returns the values of slots, shard keys and ids.
fn places(table: &Table, rows: &[Row], of: &[usize]) -> Vec<Bind> {
    let rows = || of.iter().map(|at| &rows[*at]);
    let mut binds = vec![
        Bind::integers(rows().map(|row| i32::from(row.slot.number()))),
        Bind::texts(rows().map(|row| row.key.as_str())),
    ];
    let ids = table.id().iter().enumerate();
    binds.extend(ids.map(|(index, column)| {
        Bind::values(table.column(*column).kind, rows().map(|row| &row.id[index]))
    }));
    binds
}

/// Returns the values of all columns of existing rows.
fn images(table: &Table, rows: &[Row], of: &[usize]) -> Vec<Bind> {
    let rows = || of.iter().map(|at| &rows[*at]);
    let mut binds = vec![
        Bind::integers(rows().map(|row| i32::from(row.slot.number()))),
        Bind::texts(rows().map(|row| row.key.as_str())),
    ];
    for column in table.answered() {
        let at = column - table.answered().start;
        let values = rows().map(|row| row.after.as_ref().map_or(&NULL, |image| &image[at]));
        binds.push(Bind::values(table.column(column).kind, values));
    }
    binds
}

const NULL: Value = Value::Null;
