//! Writes: chapters about a write of one row, a read after a write, and a bulk write.

use std::time::{Duration, Instant};

use assembly::delay_replay;
use engine::fault_injector::NodeMode;
use model::query::ReadQuery;
use model::row_change::Operation;
use model::topology::ShardNumber;

use super::{Chapter, SHARDS, Stage};
use crate::dataset::{new_user, user_named};
use crate::lab_cluster::{block_on, failure, options};
use crate::lab_error::LabError;
use crate::node_faults::{InjectedFault, in_mode, inject, until};

/// Number of replicas of each shard in the chapter about sessions.
const REPLICAS: usize = 2;
/// Delay with which paused replicas on servers apply changes, which is longer than the chapter.
const PAUSE: Duration = Duration::from_secs(3_600);
/// Number of rows in the chapter about bulk writes.
const ROWS: u64 = 300;

pub(super) const WRITE: Chapter = Chapter {
    title: "Write a row",
    intro: "A write goes to the queue of its shard. Everything that waits there is stored in one transaction, which \
            is synced to disk before any of the writes is acknowledged.",
    files: &[
        "shard-manager/cluster/src/lane/worker.rs",
        "shard-manager/sqlite/src/writer.rs",
        "shard-manager/postgres/src/writer.rs",
    ],
    shards: SHARDS,
    replicas: 0,
    grows: false,
    work: write,
};

pub(super) const SESSION: Chapter = Chapter {
    title: "Read your write",
    intro: "Replicas answer reads, and a replica may be behind. A session token holds the positions that a client has \
            seen: with a token, a read is answered by a node that has them; without one, by any node.",
    files: &["shard-manager/model/src/token.rs", "shard-manager/cluster/src/shard/reads.rs"],
    shards: SHARDS,
    replicas: REPLICAS,
    grows: false,
    work: session,
};

pub(super) const BULK: Chapter = Chapter {
    title: "Many rows at once",
    intro: "A bulk write divides its rows by shard. Each shard stores its rows in few transactions, and each row has \
            its own outcome: one invalid row does not affect the others.",
    files: &["shard-manager/cluster/src/manager/data/bulk.rs"],
    shards: SHARDS,
    replicas: 0,
    grows: false,
    work: bulk,
};

fn write(stage: &Stage<'_>) -> Result<(), LabError> {
    let users = stage.cluster.table("users")?;
    let row = user_named("user_1", "Ada Lovelace");
    let placed = stage.cluster.place(&users, Operation::Insert, "user_1", row);
    let placed = placed.map_err(LabError::failed)?;
    let written = block_on(stage.cluster.write(placed.clone(), &options())).map_err(failure)?;
    let receipt = written.receipt;
    stage.report(format!("stored: {}", String::from_utf8_lossy(&written.row.json)));
    stage.report(format!(
        "on {}, at position {} of its change log, {:?} in the queue and {:?} in the database",
        stage.cluster.manager().shard_name(receipt.place.shard),
        receipt.position.sequence,
        receipt.times.queue,
        receipt.times.database
    ));
    match block_on(stage.cluster.write(placed, &options())) {
        Err(failure) => {
            stage.report(format!("the same insert again is refused: {}", failure.error))
        }
        Ok(_) => return Err(LabError::failed("a row was inserted twice")),
    }
    Ok(())
}

fn session(stage: &Stage<'_>) -> Result<(), LabError> {
    let (cluster, id) = (&stage.cluster, "user_1");
    let users = cluster.table("users")?;
    let name = |options| -> Result<(String, String), LabError> {
        let read = block_on(cluster.read(ReadQuery::all(&users), Some(id), &options));
        let read = read.map_err(failure)?;
        let rows: Vec<serde_json::Value> =
            serde_json::from_str(&format!("[{}]", String::from_utf8_lossy(read.rows.json())))
                .map_err(LabError::failed)?;
        let name = rows.first().and_then(|row| row["name"].as_str()).unwrap_or("nobody");
        Ok((name.to_owned(), read.served_by.name().to_owned()))
    };
    stage.store(id, "the old name")?;
    let is_everywhere = || {
        let reads = (0..16).map(|_| name(options()));
        reads
            .into_iter()
            .all(|read| read.is_ok_and(|(name, by)| name == "the old name" && by == "replica"))
    };
    until(stage.guide, "the replicas have the first write", is_everywhere)?;
    let place = cluster.place(&users, Operation::Upsert, id, new_user(id));
    let (place, _) = place.map_err(LabError::failed)?;
    let shard = cluster.manager().shard_name(place.shard).to_owned();
    let _paused = pause_replicas(stage, (&shard, place.shard))?;
    stage.report(format!("the replicas of {shard} are paused now"));
    let row = user_named(id, "the new name");
    let placed = cluster.place(&users, Operation::Upsert, id, row).map_err(LabError::failed)?;
    let receipt = block_on(cluster.write(placed, &options())).map_err(failure)?.receipt;
    let (seen, by) = name(options())?;
    stage.report(format!("a read without a token sees {seen}, from a {by}"));
    let mut asked = options();
    cluster.manager().sessions().extend(&mut asked.session, receipt.place.shard, receipt.position);
    let (seen, by) = name(asked)?;
    stage.report(format!("a read with the token of the write sees {seen}, from the {by}"));
    if seen != "the new name" {
        return Err(LabError::failed("a client did not read its own write"));
    }
    Ok(())
}

/// Pauses the replicas of a shard. Replicas in files are paused until the result is dropped, and
/// replicas on servers for longer than the chapter.
fn pause_replicas(
    stage: &Stage<'_>,
    (name, shard): (&str, ShardNumber),
) -> Result<Vec<InjectedFault>, LabError> {
    if let Some(servers) = stage.linked() {
        let of_shard = servers.cluster.address.shards.get(shard.index());
        for replica in of_shard.into_iter().flat_map(|shard| &shard.replicas) {
            delay_replay(replica, PAUSE).map_err(LabError::failed)?;
        }
        return Ok(Vec::new());
    }
    let paused = (1..=REPLICAS).map(|replica| {
        inject(&stage.cluster, &format!("{name}-replica{replica}"), in_mode(NodeMode::Paused))
    });
    paused.collect()
}

fn bulk(stage: &Stage<'_>) -> Result<(), LabError> {
    let users = stage.cluster.table("users")?;
    let place = |operation, id: String| {
        let placed = stage.cluster.place(&users, operation, &id, new_user(&id));
        placed.map_err(LabError::failed)
    };
    let began = Instant::now();
    for number in 0..ROWS {
        let placed = place(Operation::Insert, format!("single_{number}"))?;
        block_on(stage.cluster.write(placed, &options())).map_err(failure)?;
    }
    stage.report(format!("{ROWS} rows, one after another: {:.0?}", began.elapsed()));
    let rows = (0..ROWS).map(|number| place(Operation::Insert, format!("bulk_{number}")));
    let rows: Vec<_> = rows.collect::<Result<_, _>>()?;
    let began = Instant::now();
    let stored = block_on(stage.cluster.write_bulk(rows));
    stage.report(format!("{stored} rows in one bulk write: {:.0?}", began.elapsed()));
    let ids = ["new_1", "bulk_7", "new_2"];
    let rows = ids.map(|id| place(Operation::Insert, id.to_owned()));
    let rows: Vec<_> = rows.into_iter().collect::<Result<_, _>>()?;
    let stored = block_on(stage.cluster.write_bulk(rows));
    stage.report(format!("of three inserts, one of them of an existing row, {stored} were stored"));
    Ok(())
}
