//! Snapshot point: holds the writes of all shards until each has got a snapshot.
//!
//! **Invariant:** all snapshots are taken while no shard has a write under way, so every write that
//! was acknowledged before is in them and every later one is not; the shards are those that the
//! catalog lists in its snapshot; the locks are released in any case.
//! **Not here:** reading the snapshots (`backup`).

use std::time::{Duration, Instant};

use chrono::Utc;
use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::open_error::OpenError;
use engine::progress_observer::ProgressObserver;
use engine::save_error::SaveError;
use futures_util::future::{join, join_all};
use model::topology::ShardState;
use model::value::format_timestamp;

use crate::cluster_sessions::{ClusterSessions, ShardSession};
use crate::db_error::DbErrorKind;
use crate::sql;
use crate::statement::{RowView, Statement, load, run};

/// Bounds the wait for a lock and, should this process hang, the time for which it holds one.
const BOUNDS: &str = "SET lock_timeout='500ms'; SET idle_session_timeout='2s'; \
    SET idle_in_transaction_session_timeout='2s'";
const NO_BOUNDS: &str = "SET lock_timeout=0; SET idle_session_timeout=0; \
    SET idle_in_transaction_session_timeout=0";
/// Settings of the session with the catalog, which waits while the shards are read.
const CATALOG_SETTINGS: &str = "SET statement_timeout=0; SET lock_timeout='5s'; \
    SET idle_in_transaction_session_timeout=0";
/// Excludes changes of tables, so that each table is on all shards or on none.
const TABLES_LOCK: &str = "SELECT pg_advisory_lock(1950, 4)";
/// Waits for all writes of a shard, and excludes others.
const FENCE_LOCK: &str = "SELECT pg_advisory_lock(1950, 1)";
const UNLOCK: &str = "SELECT pg_advisory_unlock_all()";
const ONE_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
    SELECT epoch FROM tessera.tessera_cluster";
const SHARDS: &str = "SELECT number,name,state FROM tessera.tessera_shards ORDER BY number";
/// Maximum number of attempts to exclude changes of tables, and to hold all shards.
const HOLDS_MAX: usize = 20;
/// Pause after an attempt to hold all shards, in which the held writes run.
const PAUSE: Duration = Duration::from_millis(100);

/// Moment whose state a copy contains.
pub(super) struct SnapshotPoint {
    /// Position of each shard.
    pub(super) positions: Vec<u64>,
    /// Time at which the snapshots were taken.
    pub(super) at: String,
    /// Time for which writes were held.
    pub(super) held: Duration,
}

/// Takes a snapshot of each shard and of the catalog, all of one moment.
///
/// # Errors
/// [`SaveError::ShardsChanged`] if the catalog lists other shards at this moment than the sessions
/// have; other errors if no snapshots can be taken.
pub(super) async fn take(
    sessions: &ClusterSessions,
    observer: &ProgressObserver<'_>,
) -> Result<SnapshotPoint, SaveError> {
    let catalog = &sessions.catalog.connection;
    let failed = |error| OpenError::node("the catalog", error);
    run(catalog, CATALOG_SETTINGS).await.map_err(failed)?;
    lock_tables(catalog, observer).await?;
    let mut restless = String::new();
    for _ in 0..HOLDS_MAX {
        observer.check()?;
        match hold(sessions).await? {
            Ok(moment) => {
                run(catalog, UNLOCK).await.map_err(failed)?;
                if !is_of_all_shards(sessions).await.map_err(failed)? {
                    return Err(SaveError::ShardsChanged);
                }
                return Ok(moment);
            }
            Err(shard) => restless = shard,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(SaveError::WritesNotPaused { shard: restless })
}

/// Excludes changes of tables. A change that is under way may take long.
async fn lock_tables(
    catalog: &AsyncPgConnection,
    observer: &ProgressObserver<'_>,
) -> Result<(), SaveError> {
    for _ in 0..HOLDS_MAX {
        observer.check()?;
        let locked = lock(catalog, TABLES_LOCK).await;
        if locked.map_err(|error| OpenError::node("the catalog", error))? {
            return Ok(());
        }
    }
    Err(SaveError::WritesNotPaused { shard: "the catalog".to_owned() })
}

/// Returns true if the sessions are those of all shards with rows that the snapshot of the catalog
/// lists.
async fn is_of_all_shards(sessions: &ClusterSessions) -> QueryResult<bool> {
    let statement = Statement { sql: SHARDS, binds: &[], cached: false };
    let listed = load(&sessions.catalog.connection, statement).await?;
    let has_rows = |row: &&RowView| {
        let state = row.text(2).and_then(|state| ShardState::parse(&state));
        state.is_none_or(ShardState::has_rows)
    };
    let listed = listed.iter().filter(has_rows).map(|row| (row.bigint(0), row.text(1)));
    let copied = sessions.shards.iter();
    Ok(listed.eq(copied.map(|shard| (Some(i64::from(shard.number.0)), Some(shard.name.clone())))))
}

/// Takes a lock; returns false if it is not free in time.
async fn lock(connection: &AsyncPgConnection, sql: &str) -> QueryResult<bool> {
    match load(connection, Statement { sql, binds: &[], cached: false }).await {
        Ok(_) => Ok(true),
        Err(error) if DbErrorKind::of(&error) == DbErrorKind::Conflict => Ok(false),
        Err(error) => Err(error),
    }
}

/// Holds all shards and takes the snapshots, or returns the name of a shard whose lock is not free
/// in time.
async fn hold(sessions: &ClusterSessions) -> Result<Result<SnapshotPoint, String>, OpenError> {
    let shards = &sessions.shards;
    let began = Instant::now();
    let locked = join_all(shards.iter().map(async |shard| {
        run(shard.connection(), BOUNDS).await?;
        lock(shard.connection(), FENCE_LOCK).await
    }));
    let locked = locked.await;
    let restless = shards.iter().zip(&locked).find(|(_, locked)| !matches!(locked, Ok(true)));
    let taken = match restless {
        None => Some((snapshots(sessions).await, format_timestamp(Utc::now()))),
        Some(_) => None,
    };
    let released = join_all(shards.iter().map(async |shard| {
        load(shard.connection(), Statement { sql: UNLOCK, binds: &[], cached: false }).await?;
        run(shard.connection(), NO_BOUNDS).await
    }));
    let released = released.await;
    let held = began.elapsed();
    for (shard, locked) in shards.iter().zip(locked) {
        if !locked.map_err(|error| shard.failed(error))? {
            return Ok(Err(shard.name.clone()));
        }
    }
    for (shard, released) in shards.iter().zip(released) {
        released.map_err(|error| shard.failed(error))?;
    }
    let Some((positions, at)) = taken else { return Ok(Err(String::new())) };
    Ok(Ok(SnapshotPoint { positions: positions?, at, held }))
}

async fn snapshots(sessions: &ClusterSessions) -> Result<Vec<u64>, OpenError> {
    let of_shards = join_all(sessions.shards.iter().map(snapshot));
    let (of_shards, of_catalog) =
        join(of_shards, run(&sessions.catalog.connection, ONE_SNAPSHOT)).await;
    of_catalog.map_err(|error| OpenError::node("the catalog", error))?;
    of_shards.into_iter().collect()
}

async fn snapshot(shard: &ShardSession) -> Result<u64, OpenError> {
    shard.begin().await?;
    let statement = Statement { sql: sql::INSERT_POSITION, binds: &[], cached: false };
    let rows = load(shard.connection(), statement).await.map_err(|error| shard.failed(error))?;
    Ok(rows.first().and_then(|row| row.bigint(0)).unwrap_or(0).cast_unsigned())
}
