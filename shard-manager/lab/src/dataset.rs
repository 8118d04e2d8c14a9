//! Dataset: synthetic users, each with one order, which are generated and stored in a cluster.
//!
//! **Not here:** the contents of the rows (`import::demo_data`).

use import::demo_data::{DemoSpec, Plan};
use import::{DemoRows, ImportResult, RowChunk, store_rows};
use model::keyspace::Keyspace;
use model::topology::ShardNumber;
use model::value::Value;

use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, LabRow};
use crate::lab_error::LabError;
use crate::random::Random;

/// Ids of users that are not part of the generated dataset. The ids, and therefore their slots,
/// depend only on a seed and the name of a purpose.
#[derive(Clone, Debug)]
pub(crate) struct UserIds(Random);

impl UserIds {
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        Self(Random::new(seed, purpose))
    }

    /// Returns the id of the user with this number. Different numbers have different ids.
    pub(crate) fn of(&self, number: u64) -> String {
        format!("user_{:016x}", self.0.at(number))
    }
}

/// Returns the plan of a dataset with this number of users. The plan can generate each user and
/// order.
///
/// # Errors
/// [`LabError::Impossible`] if a dataset cannot have this number of users.
pub(crate) fn plan(users: u64, seed: u64) -> Result<Plan, LabError> {
    let spec = DemoSpec { users, weights: None, orders_per_user: 1, seed };
    Plan::new(&spec, &Keyspace::Hash).map_err(LabError::impossible)
}

/// Returns the row of a user with this id who is not part of the generated dataset.
pub(crate) fn new_user(id: &str) -> LabRow {
    user_named(id, "New User")
}

/// Returns the row of a user with this id and name.
pub(crate) fn user_named(id: &str, name: &str) -> LabRow {
    vec![
        ("user_id", Value::Text(id.to_owned())),
        ("name", Value::Text(name.to_owned())),
        ("email", Value::Text(format!("{id}@example.com"))),
    ]
}

/// Generates all rows of a plan and stores them in a cluster.
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

/// Stores the chunks of rows that `next` returns until there are no more. Calls `progress` with the
/// number of a shard and the number of rows that it has just stored.
///
/// # Errors
/// [`LabError`] if `next` fails, or the experiment is cancelled.
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

/// Checks that the expected number of rows is stored and that no row was refused.
///
/// # Errors
/// [`LabError::Failed`] with the reason of the first refused row, if there is one.
pub(crate) fn complete(filled: &ImportResult, expected: u64) -> Result<(), LabError> {
    let stored = filled.total();
    if stored == expected && filled.failed == 0 {
        return Ok(());
    }
    let cause =
        filled.first_failed.first().map_or_else(String::new, |row| format!(": {}", row.cause));
    Err(LabError::Failed(format!("{stored} of {expected} rows are stored{cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_equal_for_equal_seeds_and_different_for_different_ones() {
        let ids = |seed| {
            let ids = UserIds::new(seed, "levels");
            (0..100).map(|number| ids.of(number)).collect::<Vec<_>>()
        };
        assert_eq!(ids(1), ids(1));
        assert!(ids(1).iter().all(|id| !ids(2).contains(id)));
    }
}
