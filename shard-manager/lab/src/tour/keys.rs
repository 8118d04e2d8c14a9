//! Keys: chapters about the mapping from keys to slots, the mapping from slots to shards, and hot
//! keys.

use std::time::{Duration, Instant};

use model::advice::{
    BalanceBy, HotSpot, KeyLoad, Observed, ShardOutlook, ShardSize, SlotLoad, advise,
};
use model::keyspace::routing_step::RoutingStep;
use model::keyspace::{SLOT_COUNT, ShardKey, Slot};
use model::query::ReadQuery;
use model::shard_map::KeyLocation;
use recorder::{Labels, Operation, Recorder, Role, Sample, busiest_keys};

use super::{Chapter, SHARDS, Stage};
use crate::lab_cluster::{block_on, failure, options};
use crate::lab_error::LabError;
use crate::random::Random;

/// Keys that the first two chapters map to slots and shards.
const KEYS: [&str; 4] = ["user_1", "user_2", "user_3", "ada"];
/// Number of reads in the chapter about a hot key, enough for the advice to reach a verdict; and
/// the average number of reads of the hot key in every ten reads.
const READS: u64 = 2_000;
const HOT_OF_TEN: u64 = 6;
/// Number of users in the chapter about a hot key.
const USERS: u64 = 100;
/// HTTP route under which the reads are recorded, as a router would record them.
const ROUTE: &str = "/api/read";
/// Number of complete minutes whose requests count, in addition to the current minute.
const MINUTES: u64 = 15;

pub(super) const HASH: Chapter = Chapter {
    title: "Hash a key",
    intro: "Every row has a shard key. A hash turns it into a number, and the number into one of 16,384 slots. \
            Similar keys get distant slots, so keys that are used together are spread over all shards.",
    files: &["shard-manager/model/src/keyspace.rs"],
    shards: SHARDS,
    replicas: 0,
    grows: false,
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
    grows: false,
    work: shard,
};

pub(super) const HOT: Chapter = Chapter {
    title: "A hot key",
    intro: "Hashing spreads keys, not requests. If most requests are for one key, its shard has most of the load, \
            and moving slots cannot help: the key is in one slot, and a slot is on one shard.",
    files: &["analytics/recorder/src/hot.rs", "shard-manager/model/src/advice/load_judgement.rs"],
    shards: SHARDS,
    replicas: 0,
    grows: false,
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
    let recorder = Recorder::new(Labels {
        routes: vec![ROUTE],
        shards: stage.cluster.names(),
        slots: SLOT_COUNT.into(),
    });
    let worker = recorder.worker();
    for number in numbers(stage.seed) {
        let (id, sent) = (id(number), Instant::now());
        let done = block_on(stage.cluster.read(ReadQuery::all(&users), Some(&id), &options()));
        let place = done.map_err(failure)?.place;
        let place = place.ok_or_else(|| LabError::failed("a read of one key has no place"))?;
        worker.record(&sample(&id, place, sent.elapsed()), Instant::now());
    }
    let (load, keys) = observed(&recorder);
    let manager = stage.cluster.manager();
    let map = manager.map();
    let sizes = vec![ShardSize::default(); map.topology().len()];
    let seen =
        Observed { map: &map, load: &load, sizes: &sizes, keys: &keys, open: None, first_slot: 0 };
    let advice = advise(&seen, BalanceBy::Load);
    for ShardOutlook { shard, carries, .. } in &advice.shards {
        let name = manager.shard_name(*shard);
        stage.report(format!("{name} has answered {carries} of {} reads", advice.total));
    }
    stage.report(format!("the advice is `{}`: {}", advice.verdict.name(), advice.because));
    for HotSpot { slot, shard, fair_share, key, key_share, .. } in &advice.hot {
        let (Some(key), Some(key_share)) = (key, key_share) else { continue };
        stage.report(format!(
            "{:.1} % of the reads are of {key}, in slot {slot} on {}; the fair share of a shard is {:.1} %",
            100.0 * key_share,
            manager.shard_name(*shard),
            100.0 * fair_share
        ));
    }
    stage.report("remedies: a cache for reads, replicas, or a key that divides the rows further");
    Ok(())
}

/// Returns the number of the user for each read. Most reads are of one user, which the seed
/// selects; the others are of a random user.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut random = Random::new(seed, "hot key");
    let hot = random.below(USERS);
    (0..READS).map(move |_| match random.below(10) < HOT_OF_TEN {
        true => hot,
        false => random.below(USERS),
    })
}

/// Returns the record of a read as a router would create it.
fn sample(key: &str, place: KeyLocation, elapsed: Duration) -> Sample<'_> {
    Sample {
        route: 0,
        operation: Operation::Read,
        shard: Some(place.shard.0),
        slot: Some(place.slot.number()),
        role: Some(Role::Primary),
        status: 200,
        fanout: 1,
        elapsed,
        queue: Duration::ZERO,
        database: elapsed,
        key: Some(key),
        trace: None,
    }
}

/// Returns the number of requests for each slot and for the most frequent keys, counted as the
/// router counts them for its advice.
fn observed(recorder: &Recorder) -> (Vec<SlotLoad>, Vec<KeyLoad>) {
    let load = recorder.slot_load(MINUTES).into_iter();
    let load = load.map(|slot| SlotLoad { reads: slot.reads, writes: slot.writes }).collect();
    let keys = busiest_keys(recorder, MINUTES).into_iter().filter_map(|busy| {
        Some(KeyLoad { key: busy.key, slot: Slot::new(busy.slot?)?, requests: busy.requests })
    });
    (load, keys.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_reads_are_of_one_user_whom_the_seed_chooses() {
        let read = |seed| numbers(seed).collect::<Vec<_>>();
        assert_eq!(read(1), read(1));
        assert_ne!(read(1), read(2));
        let of = |user| read(1).iter().filter(|number| **number == user).count();
        let counts: Vec<usize> = (0..USERS).map(of).collect();
        assert_eq!(counts.iter().filter(|count| **count > 500).count(), 1, "{counts:?}");
    }
}
