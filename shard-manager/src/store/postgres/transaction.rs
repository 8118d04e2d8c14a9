//! Transaction: one batch on one connection, from `BEGIN` to a commit that is durable.
//!
//! Two round trips: the first takes the fence lock, learns which slots may not be written, and
//! reads and locks the rows; the second stores the results, commits, and learns up to where the log
//! is on disk. Plain upserts, which most writes are, need one (`upsert`). Tables that have triggers
//! or rules of others need more (`careful`).
//!
//! **Invariant:** an outcome is called rejected only if the server has proven, after the commit was sent, that it
//! still answers: else it is unknown.
//! **Not here:** what becomes of the rows (`batch`), connections that are lost (`writer`).

use std::borrow::Cow;
use std::sync::Arc;

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use diesel_async::AsyncPgConnection;

use super::batch::{self, Barred, Batch, Row, Store, TooLarge};
use super::cell;
use super::citus::{self, Citus};
use super::hazards::{self, Hazards};
use super::statement::{Bind, Prepared, RowView, Statement, Step, pipeline, plain, run, step};
use super::texts::{TableTexts, Texts};
use super::trouble::Trouble;
use super::upsert::Newness;
use super::{careful, sql};
use crate::error::{Error, Outcome};
use crate::idempotency;
use crate::row_change::RowDone;
use crate::store::Unit;
use crate::table::Table;
use crate::value::{ColumnType, Value};

/// One connection of a lane, and what is prepared on it.
pub(super) struct LaneSession {
    pub(super) connection: AsyncPgConnection,
    pub(super) prepared: Prepared,
    pub(super) texts: Texts,
    pub(super) newness: Newness,
    /// What is known of Citus, if that is what the server is.
    pub(super) citus: Option<Arc<Citus>>,
}

/// A statement and its values.
pub(super) type Work<'w> = (Cow<'w, str>, Vec<Bind>);

/// A statement that locks rows and tells of each that is there.
pub(super) struct Locking<'w> {
    pub(super) sql: Cow<'w, str>,
    pub(super) binds: Vec<Bind>,
    /// Their places in the batch, as it numbers them.
    pub(super) rows: Vec<usize>,
}

impl Locking<'_> {
    /// Place of its row in the batch.
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
        let divisible = trouble.is_of_rows();
        Self { trouble, outcome: Outcome::Rejected, usable: false, divisible }
    }

    /// The commit was sent. `answers`: whether the server has answered after it.
    pub(super) fn after_commit(error: &DieselError, answers: bool) -> Self {
        let trouble = Trouble::of(error);
        let outcome = if answers { Outcome::Rejected } else { Outcome::Unknown };
        if matches!(trouble, Trouble::Constraint(_) | Trouble::Swallowed(_)) && answers {
            tracing::debug!(%error, "a rule of the database refused a batch");
        } else {
            let outcome = outcome.name();
            tracing::warn!(%error, ?trouble, outcome, "a batch failed as it was committed");
        }
        let divisible = answers && trouble.is_of_rows();
        let broken = Self { trouble, outcome, usable: false, divisible };
        Self { usable: answers && broken.keeps_session(), ..broken }
    }

    /// Names the table that swallowed a row, from these changes: if it is unknown, the first is as
    /// good as any.
    pub(super) fn about(mut self, units: &[Unit<'_>]) -> Self {
        if let Trouble::Swallowed(table @ None) = &mut self.trouble {
            let row = units.iter().find_map(|unit| unit.rows.first());
            *table = row.map(|row| row.table.name().to_owned());
        }
        self
    }

    /// Whether what went wrong has nothing to do with the session.
    pub(super) fn keeps_session(&self) -> bool {
        match self.trouble {
            Trouble::Constraint(_)
            | Trouble::Swallowed(_)
            | Trouble::Crossed
            | Trouble::Full
            | Trouble::Late
            | Trouble::Other => true,
            Trouble::ReadOnly | Trouble::Outdated | Trouble::Lost | Trouble::Promoted => false,
        }
    }
}

/// The rows of a table that lie next to each other in a batch.
pub(super) struct Group {
    pub(super) texts: Arc<TableTexts>,
    /// Their places in the batch.
    pub(super) rows: Vec<usize>,
}

/// Applies units as one transaction. `alone`: no other router may write meanwhile.
pub(super) async fn apply(
    session: &mut LaneSession,
    units: &[Unit<'_>],
    alone: bool,
) -> Result<Stored, Broken> {
    let mut batch = Batch::new(units);
    let parts = session.citus.as_ref().map(|citus| citus.parts());
    batch.sort(parts.as_deref());
    let groups = groups(&batch, &mut session.texts);
    let alone = alone || batch::removes(units);
    let (barred, versions) = enter(session, &mut batch, &groups, units, alone).await?;
    let mut rows = match batch.run(units, barred, versions) {
        Ok(rows) => rows,
        Err(TooLarge) => {
            let usable = run(&session.connection, "ROLLBACK").await.is_ok();
            let (trouble, outcome) = (Trouble::Other, Outcome::Rejected);
            return Err(Broken { trouble, outcome, usable, divisible: true });
        }
    };
    let hazards = &batch.barred().hazards;
    let position = if groups.iter().any(|group| hazards.meddle(&group.texts.table)) {
        let found = careful::store(session, &batch, &groups).await?;
        batch.stored(units, &mut rows, &found);
        let kept: Vec<&Group> = groups.iter().filter(|group| group.is_kept_beside()).collect();
        store(session, &batch, &kept).await?
    } else {
        store(session, &batch, &groups.iter().collect::<Vec<_>>()).await?
    };
    Ok(Stored { rows, position })
}

impl Group {
    /// True if its rows are the records beside those of clients: the answers.
    pub(super) fn is_kept_beside(&self) -> bool {
        self.texts.table.name() == idempotency::TABLE.name()
    }
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
) -> Result<(Barred, Vec<i64>), Broken> {
    let LaneSession { connection, prepared, citus, .. } = session;
    let connection = &*connection;
    let slots = batch.rows().iter().map(|row| i32::from(row.slot.number()));
    let alone = Bind::value(ColumnType::Boolean, &Value::Bool(alone));
    let entering = [Bind::integers(slots.collect::<Vec<_>>().into_iter()), alone];
    let blocks = batch::versions_needed(units).div_ceil(sql::VERSIONS_OF_BLOCK);
    let drawing = [Bind::integer(blocks as i32)];
    let locking: Vec<(&Group, Locking<'_>)> = groups
        .iter()
        .flat_map(|group| locking(citus.is_some(), batch, (group, &group.rows)))
        .collect();
    let looking = [hazards::names(groups.iter().map(|group| &*group.texts.table))];
    let mut steps: Vec<Step<'_>> = vec![
        plain(connection, "BEGIN"),
        step(connection, Statement { sql: sql::ENTER, binds: &entering, cached: true }),
    ];
    for (_, Locking { sql, binds, .. }) in &locking {
        steps.push(step(connection, Statement { sql, binds, cached: true }));
    }
    // Drawn when the rows are locked: whoever has them next draws higher ones.
    steps.push(step(connection, Statement { sql: sql::VERSIONS, binds: &drawing, cached: true }));
    // Making a trigger or a rule waits for no lock on rows, so this is asked as late as possible.
    let looking = Statement { sql: hazards::OF_TABLES, binds: &looking, cached: true };
    steps.push(step(connection, looking));
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
    let slots = strange.iter().filter_map(|row| row.bigint(0)).collect();
    for (group, locked) in &locking {
        for row in results.next().unwrap_or_default() {
            if let Some(at) = locked.place(&row) {
                batch.found(at, image(&group.texts.table, &row, 1));
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

/// Statement that locks the rows of a group.
pub(super) fn locking<'g>(
    is_citus: bool,
    batch: &Batch,
    (group, rows): (&'g Group, &[usize]),
) -> Vec<(&'g Group, Locking<'g>)> {
    let table = &group.texts.table;
    let statements = if is_citus {
        citus::work::locking(table, batch.rows(), rows)
    } else {
        let sql = Cow::Borrowed(&*group.texts.lock_rows);
        let binds = places(table, batch.rows(), rows);
        vec![Locking { sql, binds, rows: rows.to_vec() }]
    };
    statements.into_iter().map(|locking| (group, locking)).collect()
}

/// The answered columns of a row, which begin at `first`.
pub(super) fn image(table: &Table, row: &RowView, first: usize) -> Vec<Value> {
    let columns = table.answered().zip(first..);
    let value = |(column, at): (usize, usize)| {
        let kind = table.column(column).kind;
        row.cell(at, |bytes| cell::decode(kind, bytes)).unwrap_or(Value::Null)
    };
    columns.map(value).collect()
}

/// The second round trip.
async fn store(session: &mut LaneSession, batch: &Batch, groups: &[&Group]) -> Result<u64, Broken> {
    let LaneSession { connection, prepared, citus, .. } = session;
    let connection = &*connection;
    let work: Vec<Work<'_>> =
        groups.iter().flat_map(|group| group_work(citus.as_deref(), batch, group)).collect();
    let mut steps: Vec<Step<'_>> = Vec::with_capacity(work.len() + 2);
    for (sql, binds) in &work {
        steps.push(step(connection, Statement { sql, binds, cached: true }));
    }
    steps.push(plain(connection, "COMMIT"));
    steps.push(step(connection, Statement { sql: sql::POSITION, binds: &[], cached: true }));
    ended(pipeline(prepared, steps).await, citus.is_some())
}

/// Statements that store the rows of a group.
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

/// What stores these rows of a group in one way.
fn storing<'g>(
    citus: Option<&Citus>,
    batch: &Batch,
    (group, rows): (&'g Group, &[usize]),
    way: Store,
) -> Vec<Work<'g>> {
    let texts = &*group.texts;
    if rows.is_empty() {
        return Vec::new();
    }
    if let Some(citus) = citus {
        return citus::work::storing(&citus.parts(), &texts.table, (batch.rows(), rows), way);
    }
    let (sql, binds) = match way {
        Store::Insert => (&texts.insert, images(&texts.table, batch.rows(), rows)),
        Store::Update => (&texts.update, images(&texts.table, batch.rows(), rows)),
        Store::Remove => (&texts.remove, places(&texts.table, batch.rows(), rows)),
    };
    vec![(Cow::Borrowed(sql), binds)]
}

/// The position that is told after a commit, by the results of all steps: those of the transaction, `COMMIT`, position.
/// On Citus others commit for the server that answers.
pub(super) fn ended(
    mut results: Vec<QueryResult<Vec<RowView>>>,
    is_citus: bool,
) -> Result<u64, Broken> {
    let position = results.pop();
    let answers = matches!(position, Some(Ok(_)));
    // What was sent last commits: `COMMIT`, or the only statement.
    let last = results.len().saturating_sub(1);
    let failed = results.into_iter().enumerate();
    let mut failed = failed.filter_map(|(at, result)| Some((at, result.err()?)));
    if let Some((at, error)) = failed.next() {
        let proven = !is_citus || citus::is_rejected(&error, at == last);
        return Err(Broken::after_commit(&error, answers && proven));
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
