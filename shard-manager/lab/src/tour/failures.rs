//! Failures: chapters about a replica that is lost, a process that is killed, and the consistency
//! levels.

use std::time::Instant;

use cluster::manager::RequestOptions;
use model::consistency::Level;
use model::query::ReadQuery;
use model::row_change::Operation;

use super::{Chapter, SHARDS, Stage};
use crate::dataset::new_user;
use crate::killed_writer::{kill_after, user_ids};
use crate::lab_cluster::{LabCluster, PATIENCE, block_on, failure, options};
use crate::lab_error::LabError;
use crate::node_faults::{until, until_well};

/// Number of replicas of each shard in the chapters that lose a replica.
const REPLICAS: usize = 2;
/// Number of acknowledged rows after which the writing process is killed.
const ACKNOWLEDGED: usize = 100;

pub(super) const REPLICA: Chapter = Chapter {
    title: "Lose a replica",
    intro: "Each shard has a primary and here two replicas, which replay the primary's change log. One of them is cut \
            off: reads go to other nodes, writes continue, and when it is back it replays the changes that it has missed.",
    files: &[
        "shard-manager/cluster/src/shard/replica_set.rs",
        "shard-manager/sqlite/src/applier.rs",
        "shard-manager/postgres/src/replica.rs",
    ],
    shards: SHARDS,
    replicas: REPLICAS,
    grows: false,
    work: replica,
};

pub(super) const CRASH: Chapter = Chapter {
    title: "Kill and recover",
    intro: "A writing process is killed with kill -9, which gives it no chance to finish anything. Every write \
            that was acknowledged is on disk, and the next start finds it.",
    files: &[
        "shard-manager/sqlite/src/writer.rs",
        "shard-manager/sqlite/src/open.rs",
        "shard-manager/postgres/src/writer.rs",
    ],
    shards: SHARDS,
    replicas: 0,
    grows: false,
    work: crash,
};

pub(super) const LEVELS: Chapter = Chapter {
    title: "Levels",
    intro: "A level determines on how many nodes a write is stored before it is acknowledged: `one`, a majority (`quorum`) or `all`. \
            With one of three nodes cut off, two levels work, and one refuses requests instead of weakening its guarantee.",
    files: &[
        "shard-manager/model/src/consistency.rs",
        "shard-manager/cluster/src/shard/majority.rs",
    ],
    shards: SHARDS,
    replicas: REPLICAS,
    grows: false,
    work: levels,
};

fn replica(stage: &Stage<'_>) -> Result<(), LabError> {
    let cluster = &stage.cluster;
    until_well(cluster, stage.guide)?;
    stage.store("user_1", "Ada Lovelace")?;
    let node = "shard1-replica1";
    let cut = stage.cut(|found| found == node)?;
    stage.report(format!("{node} is down: {}", until_down(1, stage)?));
    let (mut written, users) = (0, cluster.table("users")?);
    for number in 0..30 {
        stage.store(&format!("user_{number}"), "Grace Hopper")?;
        written += 1;
    }
    let asked = RequestOptions { level: Level::Quorum, ..options() };
    let read = block_on(cluster.read(ReadQuery::all(&users), None, &asked)).map_err(failure)?;
    stage.report(format!(
        "{written} rows were written meanwhile, and {} were read at level quorum",
        read.rows.len()
    ));
    drop(cut);
    until_well(cluster, stage.guide)?;
    stage.report(format!("{node} is back, and follows its primary again"));
    Ok(())
}

/// Waits until the cluster considers exactly this number of nodes to be down, and returns the
/// reason for the first of them. The cluster notices that a server is cut off at the next request
/// to it or the next probe.
fn until_down(nodes: usize, stage: &Stage<'_>) -> Result<&'static str, LabError> {
    let mut reason = "";
    until(stage.guide, "the nodes that are cut off are known to be down", || {
        let health = stage.cluster.manager().status().health(Instant::now() + PATIENCE);
        let health = block_on(health);
        let all = health.iter().flat_map(|shard| &shard.nodes);
        let down: Vec<_> = all.filter(|node| !node.up).collect();
        let first = down.first().and_then(|node| node.reasons.iter().next());
        reason = first.map_or("", |reason| reason.sentence());
        down.len() == nodes
    })?;
    Ok(reason)
}

fn crash(stage: &Stage<'_>) -> Result<(), LabError> {
    let dir = match &stage.servers {
        Some(servers) => servers.dir()?.to_owned(),
        None => stage.folder.join("killed"),
    };
    let writer = (stage.start_writer)(&dir);
    let kill_servers = || stage.servers.as_ref().map_or(Ok(()), |servers| servers.kill());
    let acknowledged = kill_after(writer, ACKNOWLEDGED, &kill_servers, stage.guide)?;
    let (cluster, opened) = match &stage.servers {
        Some(servers) => {
            stage.report("a process and its servers were killed with kill -9 while it wrote rows");
            servers.start_again()?;
            (LabCluster::connected(&servers.linked().cluster)?, "servers were started")
        }
        None => {
            stage.report("a process was killed with kill -9 while it wrote rows");
            (LabCluster::embedded(dir, SHARDS, 0)?, "files were opened")
        }
    };
    let users = cluster.table("users")?;
    let (mut found, ids) = (0, user_ids(stage.seed));
    for number in &acknowledged {
        let (id, asked) = (ids.of(*number), options());
        let read = cluster.read(ReadQuery::all(&users), Some(&id), &asked);
        found += block_on(read).map_err(failure)?.rows.len();
    }
    if found != acknowledged.len() {
        let line = format!("{found} of {} acknowledged rows are there", acknowledged.len());
        return Err(LabError::Failed(line));
    }
    stage.report(format!("the {opened} again, and every acknowledged row is there"));
    Ok(())
}

fn levels(stage: &Stage<'_>) -> Result<(), LabError> {
    let cluster = &stage.cluster;
    until_well(cluster, stage.guide)?;
    let users = cluster.table("users")?;
    let _cut = stage.cut(|node| node.ends_with("-replica1"))?;
    until_down(SHARDS, stage)?;
    stage.report("one of the two replicas of each shard is cut off");
    for level in Level::ALL {
        let id = format!("at_{}", level.name());
        let placed = cluster.place(&users, Operation::Insert, &id, new_user(&id));
        let placed = placed.map_err(LabError::failed)?;
        let asked = RequestOptions { level, ..options() };
        let line = match block_on(cluster.write(placed, &asked)) {
            Ok(_) => format!("{}: stored", level.name()),
            Err(failure) => format!("{}: refused, {}", level.name(), failure.error),
        };
        stage.report(line);
    }
    Ok(())
}
