//! Transaction: one batch on one connection, from `BEGIN` to a commit that is durable.
//!
//! Two round trips: the first takes the fence lock, learns which slots may not be written, and reads and locks the
//! rows; the second stores what they became, commits, and learns up to where the log is on disk. Plain upserts, which
//! most writes are, need one (`upsert`).
//!
//! **Invariant:** an outcome is called rejected only if the server has proven, after the commit was sent, that it
//! still answers: else it is unknown.
//! **Not here:** what becomes of the rows (`batch`), connections that are lost (`writer`).

use std::collections::BTreeSet;
use std::sync::Arc;

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use diesel_async::AsyncPgConnection;

use super::batch::{self, Batch, Row, Store, TooLarge};
use super::cell;
use super::sql;
use super::statement::{Bind, Prepared, RowView, Statement, Step, pipeline, plain, run, step};
use super::texts::{TableTexts, Texts};
use super::trouble::Trouble;
use super::upsert::Newness;
use crate::error::{Error, Outcome};
use crate::row::RowDone;
use crate::store::Unit;
use crate::table::Table;
use crate::value::{ColumnType, Value};

/// One connection of a lane, and what is prepared on it.
pub(super) struct LaneSession {
    pub(super) connection: AsyncPgConnection,
    pub(super) prepared: Prepared,
    pub(super) texts: Texts,
    pub(super) newness: Newness,
}

/// A batch that is durable.
pub(super) struct Stored {
    pub(super) rows: Vec<Result<RowDone, Error>>,
    pub(super) position: u64,
}

/// A transaction that failed.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) trouble: Trouble,
    pub(super) outcome: Outcome,
    /// Whether the connection may be used again.
    pub(super) usable: bool,
    /// Whether a smaller batch may succeed.
    pub(super) divisible: bool,
}

impl Broken {
    /// Nothing was stored, and nobody is in doubt.
    pub(super) fn before_commit(error: &DieselError) -> Self {
        let trouble = Trouble::of(error);
        tracing::warn!(%error, ?trouble, "a batch failed before it was committed");
        let divisible = matches!(trouble, Trouble::Constraint(_) | Trouble::Other);
        Self { trouble, outcome: Outcome::Rejected, usable: false, divisible }
    }

    /// The commit was sent. `answers`: whether the server has answered after it.
    pub(super) fn after_commit(error: &DieselError, answers: bool) -> Self {
        let trouble = Trouble::of(error);
        let outcome = if answers { Outcome::Rejected } else { Outcome::Unknown };
        if matches!(trouble, Trouble::Constraint(_)) && answers {
            tracing::debug!(%error, "a rule of the database refused a batch");
        } else {
            let outcome = outcome.name();
            tracing::warn!(%error, ?trouble, outcome, "a batch failed as it was committed");
        }
        let divisible = answers && matches!(trouble, Trouble::Constraint(_) | Trouble::Other);
        let broken = Self { trouble, outcome, usable: false, divisible };
        Self { usable: answers && broken.keeps_session(), ..broken }
    }

    /// Whether what went wrong has nothing to do with the session.
    pub(super) fn keeps_session(&self) -> bool {
        match self.trouble {
            Trouble::Constraint(_)
            | Trouble::Crossed
            | Trouble::Full
            | Trouble::Late
            | Trouble::Other => true,
            Trouble::ReadOnly | Trouble::Outdated | Trouble::Lost | Trouble::Promoted => false,
        }
    }
}

/// The rows of a table that lie next to each other in a batch.
struct Group {
    texts: Arc<TableTexts>,
    /// Their places in the batch.
    rows: Vec<usize>,
}

/// Applies units as one transaction. `alone`: no other router may write meanwhile.
pub(super) async fn apply(
    session: &mut LaneSession,
    units: &[Unit<'_>],
    alone: bool,
) -> Result<Stored, Broken> {
    let mut batch = Batch::new(units);
    batch.sort();
    let groups = groups(&batch, &mut session.texts);
    let alone = alone || batch::removes(units);
    let (strange, versions) = enter(session, &mut batch, &groups, units, alone).await?;
    let rows = match batch.run(units, strange, versions) {
        Ok(rows) => rows,
        Err(TooLarge) => {
            let usable = run(&session.connection, "ROLLBACK").await.is_ok();
            let (trouble, outcome) = (Trouble::Other, Outcome::Rejected);
            return Err(Broken { trouble, outcome, usable, divisible: true });
        }
    };
    let position = store(session, &batch, &groups).await?;
    Ok(Stored { rows, position })
}

fn groups(batch: &Batch, texts: &mut Texts) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (at, row) in batch.rows().iter().enumerate() {
        match groups.last_mut().filter(|group| Arc::ptr_eq(&group.texts.table, &row.table)) {
            Some(group) => group.rows.push(at),
            None => groups.push(Group { texts: texts.of(&row.table), rows: vec![at] }),
        }
    }
    groups
}

/// The first round trip.
async fn enter(
    session: &mut LaneSession,
    batch: &mut Batch,
    groups: &[Group],
    units: &[Unit<'_>],
    alone: bool,
) -> Result<(BTreeSet<i64>, Vec<i64>), Broken> {
    let LaneSession { connection, prepared, .. } = session;
    let connection = &*connection;
    let slots = batch.rows().iter().map(|row| i32::from(row.slot.number()));
    let alone = Bind::value(ColumnType::Boolean, &Value::Bool(alone));
    let entering = [Bind::integers(slots.collect::<Vec<_>>().into_iter()), alone];
    let blocks = batch::versions_needed(units).div_ceil(sql::VERSIONS_OF_BLOCK);
    let drawing = [Bind::integer(blocks as i32)];
    let locking: Vec<Vec<Bind>> =
        groups.iter().map(|group| places(&group.texts.table, batch.rows(), &group.rows)).collect();
    let mut steps: Vec<Step<'_>> = vec![
        plain(connection, "BEGIN"),
        step(connection, Statement { sql: sql::ENTER, binds: &entering, cached: true }),
    ];
    for (group, binds) in groups.iter().zip(&locking) {
        let sql = &*group.texts.lock_rows;
        steps.push(step(connection, Statement { sql, binds, cached: true }));
    }
    // Drawn when the rows are locked: whoever has them next draws higher ones.
    steps.push(step(connection, Statement { sql: sql::VERSIONS, binds: &drawing, cached: true }));
    let results: QueryResult<Vec<_>> = pipeline(prepared, steps).await.into_iter().collect();
    let mut results = match results {
        Ok(results) => results.into_iter().skip(1),
        Err(error) => {
            let broken = Broken::before_commit(&error);
            let usable = broken.keeps_session() && run(connection, "ROLLBACK").await.is_ok();
            return Err(Broken { usable, ..broken });
        }
    };
    let strange = results.next().unwrap_or_default();
    let strange = strange.iter().filter_map(|row| row.bigint(0)).collect();
    for group in groups {
        for row in results.next().unwrap_or_default() {
            let number = row.bigint(0).unwrap_or(0) as usize;
            let at = number.checked_sub(1).and_then(|index| group.rows.get(index));
            if let Some(at) = at {
                batch.found(*at, image(&group.texts.table, &row, 1));
            }
        }
    }
    let versions = results.next().unwrap_or_default();
    let blocks = versions.iter().filter_map(|row| row.bigint(0));
    let versions = blocks.flat_map(|first| first..first + sql::VERSIONS_OF_BLOCK as i64);
    Ok((strange, versions.collect()))
}

/// The answered columns of a row, which begin at `first`.
fn image(table: &Table, row: &RowView, first: usize) -> Vec<Value> {
    let columns = table.answered().zip(first..);
    let value = |(column, at): (usize, usize)| {
        let kind = table.column(column).kind;
        row.cell(at, |bytes| cell::decode(kind, bytes)).unwrap_or(Value::Null)
    };
    columns.map(value).collect()
}

/// The second round trip.
async fn store(session: &mut LaneSession, batch: &Batch, groups: &[Group]) -> Result<u64, Broken> {
    let LaneSession { connection, prepared, .. } = session;
    let connection = &*connection;
    let mut work: Vec<(&str, Vec<Bind>)> = Vec::new();
    for group in groups {
        let texts = &*group.texts;
        let of = |store: Store| -> Vec<usize> {
            let rows = group.rows.iter().copied();
            rows.filter(|at| batch.rows()[*at].store() == Some(store)).collect()
        };
        let whole = |rows: &[usize]| images(&texts.table, batch.rows(), rows);
        let (made, changed, removed) = (of(Store::Insert), of(Store::Update), of(Store::Remove));
        if !made.is_empty() {
            work.push((&texts.insert, whole(&made)));
        }
        if !changed.is_empty() {
            work.push((&texts.update, whole(&changed)));
        }
        if !removed.is_empty() {
            work.push((&texts.remove, places(&texts.table, batch.rows(), &removed)));
        }
    }
    let mut steps: Vec<Step<'_>> = Vec::with_capacity(work.len() + 2);
    for (sql, binds) in &work {
        steps.push(step(connection, Statement { sql, binds, cached: true }));
    }
    steps.push(plain(connection, "COMMIT"));
    steps.push(step(connection, Statement { sql: sql::POSITION, binds: &[], cached: true }));
    ended(pipeline(prepared, steps).await)
}

/// The position that is told after a commit, by the results of all steps: those of the transaction, `COMMIT`, position.
pub(super) fn ended(mut results: Vec<QueryResult<Vec<RowView>>>) -> Result<u64, Broken> {
    let position = results.pop();
    let answers = matches!(position, Some(Ok(_)));
    if let Some(error) = results.into_iter().find_map(Result::err) {
        return Err(Broken::after_commit(&error, answers));
    }
    match position {
        Some(Ok(rows)) => {
            Ok(rows.first().and_then(|row| row.bigint(0)).unwrap_or(0).cast_unsigned())
        }
        // It is stored, but nobody knows up to where a replica must have come to show it.
        Some(Err(error)) => Err(Broken::after_commit(&error, false)),
        None => Ok(0),
    }
}

/// The binds of slots, shard keys and ids.
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

/// The binds of all columns, of rows that are there.
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
