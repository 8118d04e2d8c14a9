//! Chapters about keys: from a key to a slot, from a slot to a shard, and a hot key.

use std::collections::BTreeMap;

use model::keyspace::routing_step::RoutingStep;
use model::keyspace::{SLOT_COUNT, ShardKey};
use model::query::ReadQuery;

use super::{Chapter, SHARDS, Stage};
use crate::lab_cluster::{block_on, failure, options};
use crate::lab_error::LabError;
use crate::random::Random;

/// Keys that are hashed.
const KEYS: [&str; 4] = ["user_1", "user_2", "user_3", "ada"];
/// Number of reads in the chapter about a hot key, and how many of every ten are of this key.
const READS: u64 = 1_000;
const HOT_OF_TEN: u64 = 6;
/// Number of users in the chapter about a hot key.
const USERS: u64 = 100;

pub(super) const HASH: Chapter = Chapter {
    title: "Hash a key",
    intro: "Every row has a shard key. A hash turns it into a number, and the number into one of 16,384 slots. \
            Similar keys get distant slots, so keys that are used together are spread over all shards.",
    files: &["shard-manager/model/src/keyspace.rs"],
    shards: SHARDS,
    replicas: 0,
    work: hash,
};

pub(super) const SHARD: Chapter = Chapter {
    title: "Find its shard",
    intro: "The shard map has an owner for each slot. Looking a slot up is all that a router does to find a row, \
            however many shards there are; moving a slot changes one entry of the map, and no key is hashed again.",
    files: &[
        "shard-manager/model/src/shard_map.rs",
        "shard-manager/model/src/placement/contiguous.rs",
    ],
    shards: SHARDS,
    replicas: 0,
    work: shard,
};

pub(super) const HOT: Chapter = Chapter {
    title: "A hot key",
    intro: "Hashing spreads keys, not requests. If most requests are for one key, its shard has most of the load, \
            and moving slots cannot help: the key is in one slot, and a slot is on one shard.",
    files: &["shard-manager/model/src/advice/load_judgement.rs", "analytics/recorder/src/hot.rs"],
    shards: SHARDS,
    replicas: 0,
    work: hot,
};

fn hash(stage: &Stage<'_>) -> Result<(), LabError> {
    let map = stage.cluster.manager().map();
    for key in KEYS {
        let parsed = ShardKey::parse(key).map_err(LabError::failed)?;
        let explained = map.keyspace().explain(parsed).map_err(LabError::failed)?;
        let hash = explained.steps.iter().find_map(|step| match step {
            RoutingStep::Hash(hash) => Some(*hash),
            RoutingStep::Integer(_)
            | RoutingStep::Range { .. }
            | RoutingStep::Partition { .. }
            | RoutingStep::Server(_) => None,
        });
        let hash = hash.unwrap_or(0);
        stage.report(format!(
            "{key}: XXH3-64 is {hash:#018x}; modulo {SLOT_COUNT} that is slot {}",
            explained.slot
        ));
    }
    Ok(())
}

fn shard(stage: &Stage<'_>) -> Result<(), LabError> {
    let manager = stage.cluster.manager();
    let map = manager.map();
    for range in map.ranges() {
        let name = manager.shard_name(range.shard);
        stage.report(format!("slots {} to {} belong to {name}", range.first, range.last));
    }
    for key in KEYS {
        let place = map.place(ShardKey::parse(key).map_err(LabError::failed)?);
        let place = place.map_err(LabError::failed)?;
        let name = manager.shard_name(place.shard);
        stage.report(format!("{key} is in slot {}, so on {name}", place.slot));
    }
    Ok(())
}

fn hot(stage: &Stage<'_>) -> Result<(), LabError> {
    let id = |number: u64| format!("user_{number}");
    for number in 0..USERS {
        stage.store(&id(number), "Ada Lovelace")?;
    }
    let users = stage.cluster.table("users")?;
    let mut random = Random::new(1, "hot key");
    let mut reads: BTreeMap<String, u64> = BTreeMap::new();
    for read in 0..READS {
        let number = if read % 10 < HOT_OF_TEN { 0 } else { random.below(USERS) };
        let query = ReadQuery::all(&users);
        let done = block_on(stage.cluster.read(query, Some(&id(number)), &options()));
        if let Some(place) = done.map_err(failure)?.place {
            let name = stage.cluster.manager().shard_name(place.shard).to_owned();
            *reads.entry(name).or_default() += 1;
        }
    }
    for (name, count) in &reads {
        stage.report(format!("{name} has answered {count} of {READS} reads"));
    }
    stage.report(format!(
        "{} % of the reads are of {}: more than the fair share of one of three shards, wherever its slot is",
        HOT_OF_TEN * 10,
        id(0)
    ));
    stage.report("remedies: a cache for reads, replicas, or a key that divides the rows further");
    Ok(())
}
