//! DDL: creates and drops the tables of clients on a primary, each in one transaction with its
//! declaration, and the indexes of a new shard.
//!
//! **Invariant:** names come from a checked [`Table`]; a change that was already carried out
//! changes nothing, so each may be retried; a table with rows is never dropped.
//! **Not here:** the other shards (`manager`), statements on rows (`sql`), indexes of tables with
//! rows (`shard_indexes`).

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::{IndexChange, SchemaChange};
use model::table::Table;

use super::citus::setup;
use super::db_error::unreadable;
use super::declarations;
use super::lane_session::{LaneSession, TransactionError};
use super::shard_indexes;
use super::slot_moves;
use super::sql;
use super::statement::{Statement, load, run};

/// Lock that lets one router at a time change tables. Writers of rows do not wait for it.
const SCHEMA_LOCK: &str = "SELECT pg_advisory_xact_lock(1950, 2)";

/// Carries out a change and returns the position after it.
pub(super) async fn change(
    session: &mut LaneSession,
    change: &SchemaChange,
) -> Result<u64, TransactionError> {
    let connection = &session.connection;
    let prepared = async {
        run(connection, "BEGIN").await?;
        load(connection, Statement { sql: SCHEMA_LOCK, binds: &[], cached: false }).await?;
        if session.citus.is_some() {
            run(connection, setup::ONE_BY_ONE).await?;
        }
        apply(connection, change, session.citus.is_some()).await
    };
    if let Err(error) = prepared.await {
        let usable = run(connection, "ROLLBACK").await.is_ok();
        return Err(TransactionError { usable, ..TransactionError::before_commit(&error) });
    }
    let committed = run(connection, "COMMIT").await;
    let position = load(connection, Statement { sql: sql::POSITION, binds: &[], cached: true });
    let position = position.await;
    match (committed, position) {
        (Ok(()), Ok(rows)) => {
            Ok(rows.first().and_then(|row| row.bigint(0)).unwrap_or(0).cast_unsigned())
        }
        (Err(error), position) => Err(TransactionError::after_commit(&error, position.is_ok())),
        (Ok(()), Err(error)) => Err(TransactionError::after_commit(&error, false)),
    }
}

async fn apply(
    connection: &AsyncPgConnection,
    change: &SchemaChange,
    is_citus: bool,
) -> QueryResult<()> {
    let table = change.table();
    let known = declarations::find(connection, table.name()).await?;
    if known.as_ref().is_some_and(|known| known != &**table) {
        return Err(unreadable(&"the table exists with another declaration"));
    }
    match (change, known.is_some()) {
        (SchemaChange::Make(_), true) | (SchemaChange::Drop(_), false) => Ok(()),
        (SchemaChange::Make(table), false) => {
            run(connection, &sql::create(table)).await?;
            if is_citus {
                setup::distribute_table(connection, table).await?;
            }
            declarations::store(connection, table).await?;
            slot_moves::record_new_table(connection, table).await
        }
        (SchemaChange::Drop(table), true) => drop_empty(connection, table).await,
        (SchemaChange::Index(change), _) => change_index(connection, change).await,
    }
}

/// Changes an index while no rows are written.
async fn change_index(connection: &AsyncPgConnection, change: &IndexChange) -> QueryResult<()> {
    let sql = match change {
        IndexChange::Make(index) | IndexChange::MakeWithin(index, _) => {
            shard_indexes::create(index, "IF NOT EXISTS ")
        }
        IndexChange::Drop(index) => {
            format!("DROP INDEX IF EXISTS public.{}", index.database_name())
        }
    };
    run(connection, &sql).await
}

async fn drop_empty(connection: &AsyncPgConnection, table: &Table) -> QueryResult<()> {
    // Waits for the writers of the table and lets no new one begin, so that the table stays empty
    // until it is dropped.
    run(connection, &format!("LOCK TABLE public.{} IN ACCESS EXCLUSIVE MODE", table.name()))
        .await?;
    let sql = format!("SELECT 1 FROM public.{} LIMIT 1", table.name());
    let rows = load(connection, Statement { sql: &sql, binds: &[], cached: false }).await?;
    if !rows.is_empty() {
        return Err(unreadable(&"the table is not empty"));
    }
    run(connection, &format!("DROP TABLE public.{}", table.name())).await?;
    slot_moves::drop_recording(connection, table).await?;
    declarations::remove(connection, table.name()).await
}
