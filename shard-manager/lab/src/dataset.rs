//! Dataset: synthetic users with an order each, generated into a cluster.
//!
//! **Not here:** the rows themselves (`import::demo_data`).

use import::demo_data::{DemoSpec, Plan};
use import::{DemoRows, ImportResult, RowChunk, store_rows};
use model::keyspace::Keyspace;
use model::topology::ShardNumber;
use model::value::Value;

use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, LabRow};
use crate::lab_error::LabError;

/// Returns the plan of this many users.
///
/// # Errors
/// [`LabError::Impossible`] if there can be no such plan.
pub(crate) fn plan(users: u64, seed: u64) -> Result<Plan, LabError> {
    let spec = DemoSpec { users, weights: None, orders_per_user: 1, seed };
    Plan::new(&spec, &Keyspace::Hash).map_err(LabError::impossible)
}

/// Returns the row of a user who is not part of a plan.
pub(crate) fn new_user(id: &str) -> LabRow {
    user_named(id, "New User")
}

/// Returns the row of a user of this name.
pub(crate) fn user_named(id: &str, name: &str) -> LabRow {
    vec![
        ("user_id", Value::Text(id.to_owned())),
        ("name", Value::Text(name.to_owned())),
        ("email", Value::Text(format!("{id}@example.com"))),
    ]
}

/// Generates all rows into a cluster.
///
/// # Errors
/// [`LabError`] if a row is not stored, or the experiment is cancelled.
pub(crate) fn generate(
    cluster: &LabCluster,
    plan: &Plan,
    observer: &dyn ExperimentObserver,
) -> Result<(), LabError> {
    let mut rows = DemoRows::new(cluster.manager(), plan).map_err(LabError::failed)?;
    let bar = observer.bar("generated", plan.rows());
    let next = || rows.next_chunk().map_err(LabError::failed);
    let filled = store_rows_while(cluster, next, |_, rows| bar.add(rows), observer)?;
    complete(&filled, plan.rows())
}

/// Stores chunks of rows until there are no more, and reports the rows that each shard has stored
/// to `progress`.
///
/// # Errors
/// [`LabError`] if there is no next chunk, or the experiment is cancelled.
pub(crate) fn store_rows_while(
    cluster: &LabCluster,
    mut next: impl FnMut() -> Result<Option<RowChunk>, LabError>,
    progress: impl Fn(usize, u64) + Sync,
    observer: &dyn ExperimentObserver,
) -> Result<ImportResult, LabError> {
    let watched = || {
        observer.check_cancelled()?;
        next()
    };
    let progress = |shard: ShardNumber, rows| progress(shard.index(), rows);
    let (filled, ended) = store_rows(cluster.manager(), watched, progress);
    ended.map(|()| filled)
}

/// Checks that all rows are stored.
///
/// # Errors
/// [`LabError::Failed`] with the first refused row.
pub(crate) fn complete(filled: &ImportResult, expected: u64) -> Result<(), LabError> {
    let stored = filled.total();
    if stored == expected && filled.failed == 0 {
        return Ok(());
    }
    let cause =
        filled.first_failed.first().map_or_else(String::new, |row| format!(": {}", row.cause));
    Err(LabError::Failed(format!("{stored} of {expected} rows are stored{cause}")))
}
