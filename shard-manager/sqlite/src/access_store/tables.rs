//! Transactions on the access tables of a catalog file.
//!
//! **Not here:** the statements and the rules (`engine::access_store`).

use access::audit::AuditSecret;
use access::audit::chain::AuditHead;
use access::unix_time::UnixTime;
use diesel::Connection;
use diesel::result::{Error as DieselError, QueryResult};
use diesel::sqlite::SqliteConnection;
use engine::access_store::audit;
use engine::access_store::sql::{self, AccessColumn, AccessRow, AccessStatement, AccessValue};
use engine::access_store::usage::read_sums;
use engine::access_store::{
    AccessChange, AccessError, AccessFacts, AccessMode, AccessRefusal, AccessState, ChangeAuthor,
    UsageFlush, now, plan,
};

use crate::connection::{Bind, DbErrorKind, Statement, for_each_row};
use crate::declarations::unreadable;
use crate::sql as texts;

/// Name of the catalog in errors, in place of a shard.
const CATALOG: &str = "the catalog";

/// Reads the access mode.
pub(super) fn mode(connection: &mut SqliteConnection) -> QueryResult<AccessMode> {
    let rows = run(connection, &sql::control())?;
    let name = rows.first().and_then(|row| row.first());
    let mode = match name {
        Some(AccessValue::Text(name)) => AccessMode::find(name),
        Some(AccessValue::Number(_) | AccessValue::NoNumber) | None => None,
    };
    mode.ok_or_else(|| unreadable(&"the row of tessera_access is missing or damaged"))
}

/// Reads everything as of one moment.
pub(super) fn load(connection: &mut SqliteConnection) -> QueryResult<AccessState> {
    connection.transaction(|connection| {
        let [control, keys, roles, denials, sessions] = sql::state();
        let results = [
            run(connection, &control)?,
            run(connection, &keys)?,
            run(connection, &roles)?,
            run(connection, &denials)?,
            run(connection, &sessions)?,
        ];
        AccessState::read(results).map_err(|damage| unreadable(&damage))
    })
}

/// Makes a change in one transaction.
pub(super) fn change(
    connection: &mut SqliteConnection,
    change: &AccessChange,
    author: &ChangeAuthor,
    now: UnixTime,
) -> Result<u64, AccessError> {
    let changed = connection.immediate_transaction(|connection| {
        let results: QueryResult<Vec<Vec<AccessRow>>> =
            sql::facts(change, now).iter().map(|query| run(connection, query)).collect();
        let results: [Vec<AccessRow>; 8] =
            results?.try_into().map_err(|_| DieselError::NotFound)?;
        let facts = AccessFacts::read(results).map_err(|damage| unreadable(&damage))?;
        let plan = plan(change, &facts, author, now).map_err(Unchanged::Refused)?;
        for statement in &plan.statements {
            run(connection, statement)?;
        }
        Ok(plan.generation)
    });
    changed.map_err(|unchanged| match unchanged {
        Unchanged::Refused(refusal) => AccessError::Refused(refusal),
        Unchanged::Failed(error) => {
            tracing::error!(%error, "keys and roles cannot be changed");
            AccessError::Catalog(DbErrorKind::of(&error).error(CATALOG))
        }
    })
}

/// Adds rows and uses of keys in one transaction.
pub(super) fn add_usage(connection: &mut SqliteConnection, flush: &UsageFlush) -> QueryResult<()> {
    connection.immediate_transaction(|connection| {
        if !flush.batch.rows.is_empty() && !run(connection, &flush.begin())?.is_empty() {
            flush.additions().try_for_each(|statement| run(connection, &statement).map(drop))?;
        }
        flush.end().try_for_each(|statement| run(connection, &statement).map(drop))
    })
}

/// Returns the number of rows that each caller has used on a day.
pub(super) fn usage(
    connection: &mut SqliteConnection,
    day: u32,
) -> QueryResult<Vec<(String, u64)>> {
    run(connection, &sql::usage(day)).map(|rows| read_sums(&rows))
}

/// Returns the secret of audit logs; the first call creates it.
pub(super) fn audit_secret(connection: &mut SqliteConnection) -> QueryResult<AuditSecret> {
    let make = audit::make_secret().map_err(|error| unreadable(&error))?;
    connection.immediate_transaction(|connection| {
        run(connection, &make)?;
        let rows = run(connection, &audit::secret())?;
        audit::read_secret(&rows).map_err(|damage| unreadable(&damage))
    })
}

/// Keeps the last line of an audit log.
pub(super) fn keep_audit_head(
    connection: &mut SqliteConnection,
    head: &AuditHead,
    now: UnixTime,
) -> QueryResult<()> {
    connection.immediate_transaction(|connection| {
        let statements = audit::keep_head(head, now);
        statements.iter().try_for_each(|statement| run(connection, statement).map(drop))
    })
}

/// Reads the last lines of all audit logs.
pub(super) fn audit_heads(connection: &mut SqliteConnection) -> QueryResult<Vec<AuditHead>> {
    let rows = run(connection, &audit::heads())?;
    audit::read_heads(&rows).map_err(|damage| unreadable(&damage))
}

/// Suspends every key of a catalog with any schema; an old schema may have no table of keys.
pub(in super::super) fn suspend_keys(connection: &mut SqliteConnection) -> QueryResult<()> {
    for sql in [texts::HAS_ACCESS_KEYS, texts::ANY_ACCESS_KEY] {
        let mut is_found = false;
        for_each_row(connection, Statement { sql, binds: &[], cached: false }, |_| {
            is_found = true;
            Ok(())
        })?;
        if !is_found {
            return Ok(());
        }
    }
    let suspended =
        change(connection, &AccessChange::SuspendAllKeys, &ChangeAuthor::CommandLine, now());
    suspended.map(drop).map_err(|error| unreadable(&error))
}

/// Reason why a transaction was rolled back.
enum Unchanged {
    Refused(AccessRefusal),
    Failed(DieselError),
}

impl From<DieselError> for Unchanged {
    fn from(error: DieselError) -> Self {
        Self::Failed(error)
    }
}

fn run(
    connection: &mut SqliteConnection,
    statement: &AccessStatement,
) -> QueryResult<Vec<AccessRow>> {
    let bind = |value| match value {
        &AccessValue::Number(number) => Bind::Int(number),
        AccessValue::Text(text) => Bind::Text(text),
        AccessValue::NoNumber => Bind::Null,
    };
    let binds: Vec<Bind<'_>> = statement.values.iter().map(bind).collect();
    let mut rows = Vec::new();
    let query = Statement { sql: statement.sql, binds: &binds, cached: false };
    for_each_row(connection, query, |row| {
        let columns = statement.columns.iter().enumerate();
        let cells = columns.map(|(index, column)| match column {
            AccessColumn::Text => {
                AccessValue::Text(row.text(index, str::to_owned).unwrap_or_default())
            }
            AccessColumn::Number => {
                row.int(index).map_or(AccessValue::NoNumber, AccessValue::Number)
            }
        });
        rows.push(cells.collect());
        Ok(())
    })?;
    Ok(rows)
}
