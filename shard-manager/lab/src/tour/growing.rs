//! Growing: the chapter in which a shard joins and gets its share of the slots with their rows.

use model::keyspace::SLOT_COUNT;
use model::row_change::Operation;

use super::{Chapter, Stage};
use crate::dataset::new_user;
use crate::growth::add_shard;
use crate::lab_cluster::block_on;
use crate::lab_error::LabError;

/// Number of shards before the new one joins. With more shards, fewer slots move to the new one,
/// which takes less time.
const SHARDS: usize = 7;
/// Number of rows in the chapter.
const ROWS: u64 = 600;

pub(super) const SHARD: Chapter = Chapter {
    title: "Add a shard",
    intro: "An eighth shard joins, and slots move to it until each shard has its share. Rows are copied while they are \
            read and written; only an eighth of all slots move, those of the new shard.",
    files: &["shard-manager/cluster/src/manager/rebalancer.rs", "shard-manager/moves/src/lib.rs"],
    shards: SHARDS,
    replicas: 0,
    grows: true,
    work: grow,
};

fn grow(stage: &Stage<'_>) -> Result<(), LabError> {
    let cluster = &stage.cluster;
    let users = cluster.table("users")?;
    let rows = (0..ROWS).map(|number| {
        let id = format!("user_{number}");
        cluster.place(&users, Operation::Insert, &id, new_user(&id))
    });
    let rows: Vec<_> = rows.collect::<Result<_, _>>().map_err(LabError::failed)?;
    let stored = block_on(cluster.write_bulk(rows));
    stage.report(format!("{stored} rows are on {SHARDS} shards"));
    let joining = stage.servers.as_ref().and_then(|servers| servers.joining());
    let moved = add_shard(cluster, ("shard8", joining), stage.guide)?.slots_moved;
    let share = 100.0 * moved as f64 / f64::from(SLOT_COUNT);
    stage.report(format!(
        "shard8 has joined; {moved} of {SLOT_COUNT} slots moved to it, {share:.1} %"
    ));
    let found = block_on(cluster.count(&users))?;
    if found != ROWS {
        return Err(LabError::Failed(format!("{found} of {ROWS} rows are there")));
    }
    stage.report(format!("all {found} rows are there"));
    Ok(())
}
