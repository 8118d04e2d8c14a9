//! Access: keys, roles and denials of a catalog that all routers share.
//!
//! Changes lock the one row of `tessera_access`, so they are made one after another. Each change
//! raises the generation. After a failover, the new primary may lack the last change and give its
//! number to the next one; so the high bits of a generation are the timeline of the server.
//!
//! **Invariant:** two different states never have the same generation.
//! **Not here:** the statements and the rules (`engine::access_store`).

use access::audit::AuditSecret;
use access::audit::chain::AuditHead;
use access::unix_time::UnixTime;
use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::access_store::audit;
use engine::access_store::sql::{self, AccessColumn, AccessRow, AccessStatement, AccessValue};
use engine::access_store::usage::read_sums;
use engine::access_store::{
    AccessChange, AccessError, AccessFacts, AccessMode, AccessState, ChangeAuthor, UsageFlush, plan,
};
use model::value::{ColumnType, Value};

use super::{or_rollback, refused};
use crate::db_error::unreadable;
use crate::statement::{Bind, Statement, for_each_row, run};

/// Begins a transaction whose statements see one snapshot.
const BEGIN_READING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// Begins a transaction that excludes other changes.
const BEGIN_CHANGING: &str = "BEGIN; SELECT FROM tessera_access FOR UPDATE";
/// Commits, and notifies all routers.
const COMMIT: &str = "NOTIFY tessera; COMMIT";
/// Number of bits of the counter in a generation; the higher bits are the timeline.
const COUNTER_BITS: u32 = 40;
const COUNTER_MAX: u64 = (1 << COUNTER_BITS) - 1;
/// Minimum number of generations for which the catalog remembers removed keys.
const BEHIND_MAX: u64 = 10_000;

/// Access to the keys, roles and denials of a catalog, over one of its sessions.
#[derive(Clone, Copy)]
pub struct AccessTables<'c>(pub(super) &'c AsyncPgConnection);

impl AccessTables<'_> {
    /// Reads the mode that routers must have.
    ///
    /// # Errors
    /// The error of the query.
    pub async fn mode(self) -> QueryResult<AccessMode> {
        let rows = load(self.0, &sql::control()).await?;
        let mode = match rows.first().and_then(|row| row.first()) {
            Some(AccessValue::Text(name)) => AccessMode::find(name),
            Some(AccessValue::Number(_) | AccessValue::NoNumber) | None => None,
        };
        mode.ok_or_else(|| unreadable(&"the row of tessera_access is missing or damaged"))
    }

    /// Reads all keys, roles and denials from a server on this timeline.
    ///
    /// # Errors
    /// The error of a query.
    pub async fn state(self, timeline: u32) -> QueryResult<AccessState> {
        let read = async {
            run(self.0, BEGIN_READING).await?;
            let results = load_all(self.0, &sql::state()).await?;
            run(self.0, "COMMIT").await?;
            AccessState::read(results).map_err(|damage| unreadable(&damage))
        };
        let mut state = or_rollback(self.0, read.await).await?;
        state.generation = generation(timeline, state.generation);
        Ok(state)
    }

    /// Reads the current keys, roles and denials from a server on this timeline. If `base` is an
    /// earlier state on the same timeline, only the keys that have changed since are read.
    ///
    /// # Errors
    /// The error of a query.
    pub async fn state_after(
        self,
        timeline: u32,
        base: Option<&AccessState>,
    ) -> QueryResult<AccessState> {
        let base = base.filter(|base| base.generation >> COUNTER_BITS == u64::from(timeline));
        if let Some(base) = base
            && let Some(mut state) = self.changed_state(base).await?
        {
            state.generation = generation(timeline, state.generation);
            return Ok(state);
        }
        self.state(timeline).await
    }

    /// Returns `base` with the changes since its generation; `None` if all keys have to be read.
    /// The generation of the result is the counter of the catalog, still without the timeline.
    async fn changed_state(self, base: &AccessState) -> QueryResult<Option<AccessState>> {
        let since = base.generation & COUNTER_MAX;
        let read = async {
            run(self.0, BEGIN_READING).await?;
            let results = load_all(self.0, &sql::changes(since)).await?;
            run(self.0, "COMMIT").await?;
            base.with_changes(results).map_err(|damage| unreadable(&damage))
        };
        let state = or_rollback(self.0, read.await).await?;
        let known = since..=since.saturating_add(BEHIND_MAX);
        Ok(state.filter(|state| known.contains(&state.generation)))
    }

    /// Makes a change in one transaction of a server on this timeline, and returns the generation
    /// after the change.
    ///
    /// # Errors
    /// [`AccessError::Refused`] if a rule forbids it: then nothing was stored.
    pub async fn change(
        self,
        change: &AccessChange,
        (author, now): (&ChangeAuthor, UnixTime),
        timeline: u32,
    ) -> Result<u64, AccessError> {
        let planned = async {
            run(self.0, BEGIN_CHANGING).await?;
            let results = load_all(self.0, &sql::facts(change, now)).await?;
            AccessFacts::read(results).map_err(|damage| unreadable(&damage))
        };
        let facts = or_rollback(self.0, planned.await).await.map_err(|error| refused(&error))?;
        let plan = match plan(change, &facts, author, now) {
            Ok(plan) => plan,
            Err(refusal) => {
                run(self.0, "ROLLBACK").await.map_err(|error| refused(&error))?;
                return Err(refusal.into());
            }
        };
        let stored = async {
            for statement in &plan.statements {
                load(self.0, statement).await?;
            }
            run(self.0, COMMIT).await
        };
        or_rollback(self.0, stored.await).await.map_err(|error| refused(&error))?;
        Ok(generation(timeline, plan.generation))
    }

    /// Adds the numbers of rows of callers, and the last uses of keys, in one transaction.
    ///
    /// # Errors
    /// The error of a statement. The transaction may have been committed.
    pub async fn add_usage(self, flush: &UsageFlush) -> QueryResult<()> {
        let stored = async {
            // A change of all keys locks the keys in another order, so the row of `tessera_access`
            // is locked first to prevent a deadlock.
            let begin = if flush.key_uses.is_empty() { "BEGIN" } else { BEGIN_CHANGING };
            run(self.0, begin).await?;
            let has_rows = !flush.batch.rows.is_empty();
            if has_rows && !load(self.0, &flush.begin()).await?.is_empty() {
                for statement in flush.additions() {
                    load(self.0, &statement).await?;
                }
            }
            for statement in flush.end() {
                load(self.0, &statement).await?;
            }
            run(self.0, "COMMIT").await
        };
        or_rollback(self.0, stored.await).await
    }

    /// Returns the number of rows of each caller on a day.
    ///
    /// # Errors
    /// The error of the query.
    pub async fn usage(self, day: u32) -> QueryResult<Vec<(String, u64)>> {
        load(self.0, &sql::usage(day)).await.map(|rows| read_sums(&rows))
    }

    /// Returns the secret of the audit logs; the first call creates it.
    ///
    /// # Errors
    /// The error of a statement.
    pub async fn audit_secret(self) -> QueryResult<AuditSecret> {
        let make = audit::make_secret().map_err(|error| unreadable(&error))?;
        load(self.0, &make).await?;
        let rows = load(self.0, &audit::secret()).await?;
        audit::read_secret(&rows).map_err(|damage| unreadable(&damage))
    }

    /// Stores the last line of an audit log durably, unless a later line is stored already.
    ///
    /// # Errors
    /// The error of a statement.
    pub async fn keep_audit_head(self, head: &AuditHead, now: UnixTime) -> QueryResult<()> {
        for statement in audit::keep_head(head, now) {
            load(self.0, &statement).await?;
        }
        Ok(())
    }

    /// Reads the last lines of all audit logs.
    ///
    /// # Errors
    /// The error of the query.
    pub async fn audit_heads(self) -> QueryResult<Vec<AuditHead>> {
        let rows = load(self.0, &audit::heads()).await?;
        audit::read_heads(&rows).map_err(|damage| unreadable(&damage))
    }
}

/// Returns the generation that consists of a timeline and a counter.
fn generation(timeline: u32, counter: u64) -> u64 {
    u64::from(timeline) << COUNTER_BITS | counter
}

async fn load_all<const N: usize>(
    connection: &AsyncPgConnection,
    statements: &[AccessStatement; N],
) -> QueryResult<[Vec<AccessRow>; N]> {
    let mut results = [const { Vec::new() }; N];
    for (statement, rows) in statements.iter().zip(&mut results) {
        *rows = load(connection, statement).await?;
    }
    Ok(results)
}

async fn load(
    connection: &AsyncPgConnection,
    statement: &AccessStatement,
) -> QueryResult<Vec<AccessRow>> {
    let bind = |value: &AccessValue| match value {
        AccessValue::Text(text) => Bind::text(text),
        AccessValue::Number(number) => Bind::bigint(*number),
        AccessValue::NoNumber => Bind::value(ColumnType::Bigint, &Value::Null),
    };
    let binds: Vec<Bind> = statement.values.iter().map(bind).collect();
    let mut rows = Vec::new();
    let query = Statement { sql: statement.sql, binds: &binds, cached: false };
    for_each_row(connection, query, |row| {
        let columns = statement.columns.iter().enumerate();
        let cells = columns.map(|(index, column)| match column {
            AccessColumn::Text => AccessValue::Text(row.text(index).unwrap_or_default()),
            AccessColumn::Number => {
                row.bigint(index).map_or(AccessValue::NoNumber, AccessValue::Number)
            }
        });
        rows.push(cells.collect());
        Ok(())
    })
    .await?;
    Ok(rows)
}
