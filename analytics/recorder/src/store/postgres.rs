//! PostgreSQL: history in a PostgreSQL database, without libpq.
//!
//! **Invariant:** every wait for the server is bounded.
//! **Not here:** choosing the frames that stay stored (`store/history_writer`).

use std::time::Duration;

use diesel::dsl::exists;
use diesel::prelude::*;
use diesel::sql_types::Integer;
use diesel::upsert::excluded;
use diesel_async::{
    AsyncConnection, AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::NoTls;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::PostgresAddress;
use super::row::Row;
use super::schema::tessera_history::dsl;
use super::{NextRows, SourceRename, StoreError};
use crate::tls_roots;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/postgres/analytics");

/// Longest time for connecting.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest time for one transaction, and for all migrations. It is longer than [`STATEMENT_MAX`],
/// so that usually the server's own limit is reached first and its error names the cause.
const ANSWER_MAX: Duration = Duration::from_secs(12);
/// Longest time for one statement, enforced by the server.
const STATEMENT_MAX: Duration = Duration::from_secs(10);

/// Statement that takes the advisory lock under which only one program at a time migrates.
const LOCK: &str = "SELECT pg_advisory_lock(1950, 5)";
const UNLOCK: &str = "SELECT pg_advisory_unlock(1950, 5)";
/// Statement that takes the same advisory lock as [`LOCK`], until the end of the transaction.
const TRANSACTION_LOCK: &str = "SELECT pg_advisory_xact_lock(1950, 5)";

/// A connection, and the thread that drives it.
pub(super) struct PostgresStore {
    connection: AsyncPgConnection,
    // Declared last and therefore dropped last: the connection ends on this runtime.
    runtime: Runtime,
}

impl PostgresStore {
    pub(super) fn open(address: &PostgresAddress) -> Result<Self, StoreError> {
        // A migration blocks its thread, so a second thread must drive the connection.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| StoreError::server(address, error))?;
        match runtime.block_on(open_connection(address)) {
            Ok(connection) => Ok(Self { connection, runtime }),
            Err(error) => {
                // The runtime is not joined: a task that still waits for the server ends when its
                // connection is closed, which happens now.
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// Returns the step, the start and the size of each stored frame of a source.
    pub(super) fn frame_sizes(&mut self, source: &str) -> QueryResult<Vec<(i32, i64, i32)>> {
        let length = diesel::dsl::sql::<Integer>("length(frame)");
        let kept = dsl::tessera_history.filter(dsl::source.eq(source));
        let kept = kept.select((dsl::step, dsl::start, length));
        bounded(&self.runtime, kept.load(&mut self.connection))
    }

    /// Returns the next rows, in order.
    pub(super) fn rows(&mut self, next: NextRows<'_>) -> QueryResult<Vec<Row>> {
        let NextRows { source, step, after, most } = next;
        let next = dsl::tessera_history
            .filter(dsl::source.eq(source).and(dsl::step.eq(step)).and(dsl::start.gt(after)))
            .order(dsl::start)
            .limit(most)
            .select((dsl::source, dsl::step, dsl::start, dsl::shape, dsl::frame));
        bounded(&self.runtime, next.load(&mut self.connection))
    }

    /// Stores rows and removes the rows of each source and step before a start, in one
    /// transaction.
    pub(super) fn write(&mut self, rows: &[Row], forget: &[(String, i32, i64)]) -> QueryResult<()> {
        let written = self.connection.transaction(async |connection| {
            for row in rows {
                diesel::insert_into(dsl::tessera_history)
                    .values(row)
                    .on_conflict((dsl::source, dsl::step, dsl::start))
                    .do_update()
                    .set((dsl::shape.eq(excluded(dsl::shape)), dsl::frame.eq(excluded(dsl::frame))))
                    .execute(connection)
                    .await?;
            }
            for (source, step, before) in forget {
                let old = dsl::source.eq(source).and(dsl::step.eq(step)).and(dsl::start.lt(before));
                diesel::delete(dsl::tessera_history.filter(old)).execute(connection).await?;
            }
            Ok(())
        });
        bounded(&self.runtime, written)
    }

    /// Renames the sources of stored rows, unless there are rows with one of the new names already.
    /// An advisory lock makes programs that rename at the same time wait for each other, so that
    /// the rows of a source are not divided among them.
    pub(super) fn rename(&mut self, sources: &[SourceRename; 2]) -> QueryResult<()> {
        let renamed = self.connection.transaction(async |connection| {
            connection.batch_execute(TRANSACTION_LOCK).await?;
            let [frames, counted] = sources;
            let is_own = dsl::source.eq(&*frames.to).or(dsl::source.eq(&*counted.to));
            let own = dsl::tessera_history.filter(is_own);
            let is_stored: bool = diesel::select(exists(own)).get_result(connection).await?;
            if is_stored {
                return Ok(());
            }
            for SourceRename { from, to } in sources {
                diesel::update(dsl::tessera_history.filter(dsl::source.eq(from)))
                    .set(dsl::source.eq(to))
                    .execute(connection)
                    .await?;
            }
            Ok(())
        });
        bounded(&self.runtime, renamed)
    }

    /// Removes rows of a source and step that are newer than `after`.
    pub(super) fn forget_new(&mut self, source: &str, step: i32, after: i64) -> QueryResult<()> {
        let new = dsl::source.eq(source).and(dsl::step.eq(step)).and(dsl::start.gt(after));
        let forgotten = diesel::delete(dsl::tessera_history.filter(new));
        bounded(&self.runtime, forgotten.execute(&mut self.connection)).map(drop)
    }

    /// Removes rows of any source that are older than `before`, also of sources that no longer
    /// exist.
    pub(super) fn forget_old(&mut self, step: i32, before: i64) -> QueryResult<()> {
        let old = dsl::step.eq(step).and(dsl::start.lt(before));
        let forgotten = diesel::delete(dsl::tessera_history.filter(old));
        bounded(&self.runtime, forgotten.execute(&mut self.connection)).map(drop)
    }
}

/// Runs a query for at most [`ANSWER_MAX`]. A server that does not respond in time is treated as
/// unreachable.
fn bounded<T>(runtime: &Runtime, answer: impl Future<Output = QueryResult<T>>) -> QueryResult<T> {
    let late = || {
        let cause = format!("no answer within {} s", ANSWER_MAX.as_secs());
        diesel::result::Error::QueryBuilderError(cause.into())
    };
    let limited = runtime.block_on(async { tokio::time::timeout(ANSWER_MAX, answer).await });
    limited.map_err(|_| late()).and_then(|answer| answer)
}

/// Connects within [`CONNECT_MAX`], and migrates within [`ANSWER_MAX`]. Migrating has a limit too,
/// because a server may accept a connection and never respond.
async fn open_connection(address: &PostgresAddress) -> Result<AsyncPgConnection, StoreError> {
    let late = |lacks: &str, limit: Duration| {
        StoreError::server(address, format!("no {lacks} within {} s", limit.as_secs()))
    };
    let connected = tokio::time::timeout(CONNECT_MAX, connect(address)).await;
    let connection = connected.map_err(|_| late("connection", CONNECT_MAX))??;
    // Migrations block their thread, so they run on another one: here they would also block the
    // timer of the limit.
    let prepared = tokio::spawn(prepare(connection));
    let prepared = tokio::time::timeout(ANSWER_MAX, prepared).await;
    let prepared = prepared.map_err(|_| late("answer", ANSWER_MAX))?;
    let prepared = prepared.map_err(|error| StoreError::server(address, error))?;
    prepared.map_err(|cause| StoreError::server(address, cause))
}

async fn connect(address: &PostgresAddress) -> Result<AsyncPgConnection, StoreError> {
    let server_error = |cause: String| StoreError::server(address, cause);
    let mut config = address.config().map_err(server_error)?;
    if config.get_application_name().is_none() {
        config.application_name("tessera analytics");
    }
    config.connect_timeout(CONNECT_MAX);
    config.options(format!(
        "-c search_path=tessera,public -c client_min_messages=warning -c statement_timeout={}",
        STATEMENT_MAX.as_millis()
    ));
    // The cause is in the source of the driver's error, whose own text is only "db error".
    let failed = |error: tokio_postgres::Error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let said = source.unwrap_or_else(|| error.to_string());
        server_error(tls_roots::explained(&said).map_or(said, str::to_owned))
    };
    let taken = if address.verifies_certificate {
        let tls = tls_roots::client(address.authorities.as_deref());
        let tls = MakeRustlsConnect::new(tls.map_err(|error| server_error(error.to_string()))?);
        let (client, driver) = config.connect(tls).await.map_err(failed)?;
        AsyncPgConnection::try_from_client_and_connection(client, driver).await
    } else {
        let (client, driver) = config.connect(NoTls).await.map_err(failed)?;
        AsyncPgConnection::try_from_client_and_connection(client, driver).await
    };
    taken.map_err(|error| server_error(error.to_string()))
}

/// Migrates the schema, one program at a time.
async fn prepare(mut connection: AsyncPgConnection) -> Result<AsyncPgConnection, String> {
    let failed = |error: diesel::result::Error| error.to_string();
    connection.batch_execute(LOCK).await.map_err(failed)?;
    // `CREATE SCHEMA IF NOT EXISTS` needs the privilege CREATE on the database even if the schema
    // exists, and the role may have lost this privilege.
    connection
        .batch_execute(
            "DO $$ BEGIN IF to_regnamespace('tessera') IS NULL THEN CREATE SCHEMA tessera; END IF; END $$",
        )
        .await
        .map_err(failed)?;
    let mut harness = AsyncMigrationHarness::new(connection);
    let migrated = harness.run_pending_migrations(MIGRATIONS).map(drop);
    migrated.map_err(|error| format!("a migration failed: {error}"))?;
    let mut connection = harness.into_inner();
    connection.batch_execute(UNLOCK).await.map_err(failed)?;
    Ok(connection)
}
