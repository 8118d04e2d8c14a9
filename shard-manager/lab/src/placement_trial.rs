//! Placement trial: computes the slots of each shard and its share of the keys for a keyspace and a
//! placement, and what would move if the shards changed.
//!
//! **Invariant:** a trial depends on its options only, stores nothing, and takes a few
//! milliseconds, because each option has a limit.
//! **Not here:** the comparison of all placements (`strategies`), a cluster.

mod options;

use model::keyspace::{Keyspace, ShardKey};
use model::placement::{Placement, ring};
use model::simulation::{Algorithm, ChangeError, Distribution, Moved, simulate};
use model::topology::{ShardNumber, Topology};
use serde::Serialize;

pub use self::options::{TrialFault, TrialKeys, TrialOptions, TrialTexts};

/// Highest number of shards: more could not be distinguished in a picture.
pub const SHARDS_MAX: usize = 64;
/// Highest number of generated keys.
pub const TRIAL_KEYS_MAX: u64 = 20_000;
/// Highest number of keys whose locations are listed individually.
pub const SAMPLE_MAX: usize = 100;
/// Highest number of points of a ring.
pub const RING_POINTS_MAX: u64 = 1 << 16;
/// Highest number of points of a ring that are listed: a picture has no room for more.
pub const RING_POINTS_SHOWN: usize = 1_024;

/// Slots from the first to the last, inclusive, with their owner.
pub type SlotRun = (u16, u16, String);

/// Result of a trial.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// The keyspace, with its parameters.
    pub keyspace: String,
    /// The placement, with its parameters.
    pub placement: String,
    /// Number of keys, or of slots if there are no keys.
    pub total: u64,
    /// Shares and slots of the shards.
    pub before: TrialState,
    /// Slots and keys that the change moves; `None` without one.
    pub moved: Option<TrialMove>,
    /// Points of the ring, if the placement has one.
    pub ring: Option<TrialRing>,
    /// Locations of the sample keys.
    pub sample: Vec<PlacedKey>,
}

/// Shards with their shares and slots.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrialState {
    /// Shares, and the skew.
    #[serde(flatten)]
    pub shares: Distribution,
    /// Owners of all slots, in order.
    pub runs: Vec<SlotRun>,
}

/// Slots and keys that a change moves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrialMove {
    /// The change.
    pub change: String,
    /// Lowest share that must move so that each shard has the load of its weight.
    pub needed: f64,
    /// Number of slots with another owner.
    pub slots: u64,
    /// Number of keys in these slots, or of slots if there are no keys.
    pub load: u64,
    /// Share of all keys that move.
    pub share: f64,
    /// Shares and slots after the change.
    pub after: TrialState,
}

/// Points of a ring.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrialRing {
    /// Number of all points.
    pub total: u64,
    /// Positions from 0 to 1 and their shards, in the order of the ring; empty if there are too
    /// many.
    pub points: Vec<(f64, String)>,
}

/// Key with its location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlacedKey {
    /// The key.
    pub key: String,
    /// Slot of the key; `None` if the keyspace has none for it.
    pub slot: Option<u16>,
    /// Shard of the key.
    pub shard: Option<String>,
    /// Shard of the key after the change, if there is a change.
    pub after: Option<String>,
    /// Reason why the key has no slot.
    pub reason: Option<String>,
}

/// Owners of all slots, with the names of the shards.
struct Owners {
    names: Vec<String>,
    slots: Vec<ShardNumber>,
}

impl Owners {
    fn new(topology: &Topology, slots: Vec<ShardNumber>) -> Self {
        Self { names: topology.numbers().map(|it| topology.name(it).to_owned()).collect(), slots }
    }

    fn name(&self, shard: ShardNumber) -> String {
        self.names[shard.index()].clone()
    }

    fn runs(&self) -> Vec<SlotRun> {
        let mut runs: Vec<(u16, u16, ShardNumber)> = Vec::new();
        for (slot, shard) in (0..).zip(&self.slots) {
            match runs.last_mut() {
                Some((_, last, owner)) if owner == shard => *last = slot,
                Some(_) | None => runs.push((slot, slot, *shard)),
            }
        }
        runs.into_iter().map(|(first, last, shard)| (first, last, self.name(shard))).collect()
    }
}

/// Carries out a trial.
///
/// # Errors
/// [`TrialFault`], which names the option that does not fit the others.
pub fn run(options: &TrialOptions) -> Result<Trial, TrialFault> {
    let topology = &options.topology;
    let algorithm = &options.algorithm;
    let load = options.load()?;
    let (owners, algorithm) = match algorithm {
        None => {
            let owners = Placement::Weighted.assign(topology);
            let owners = owners.map_err(|error| TrialFault::new("placement", error))?;
            (owners.clone(), Algorithm::Rebalance(owners))
        }
        Some(placement) => {
            let owners = placement.assign(topology);
            let owners = owners.map_err(|error| TrialFault::new("placement", error))?;
            (owners, Algorithm::Placement(placement.clone()))
        }
    };
    let change = |error: ChangeError| TrialFault::new("change", error);
    let mut simulated =
        simulate(topology, &algorithm, options.change.as_slice(), &load).map_err(change)?;
    let owners = Owners::new(topology, owners);
    let after = match &options.change {
        None => None,
        Some(wanted) => {
            let after = wanted.apply(topology).map_err(change)?;
            let next = algorithm.owners_after(topology, &after);
            let next = next.map_err(|error| TrialFault::new("change", error))?;
            Some(Owners::new(&after, next))
        }
    };
    let sample = options.sample.iter();
    Ok(Trial {
        keyspace: options.keyspace.to_string(),
        placement: algorithm.name(),
        total: load.total(),
        sample: sample.map(|key| place(key, &options.keyspace, &owners, after.as_ref())).collect(),
        ring: ring_of(&algorithm, topology, &owners),
        moved: after.zip(simulated.changes.pop()).map(|(after, moved)| move_of(moved, &after)),
        before: TrialState { shares: simulated.before, runs: owners.runs() },
    })
}

fn move_of(moved: Moved, after: &Owners) -> TrialMove {
    let Moved { change, needed, slots, load, share, after: shares } = moved;
    let after = TrialState { shares, runs: after.runs() };
    TrialMove { change, needed, slots, load, share, after }
}

fn ring_of(algorithm: &Algorithm, topology: &Topology, owners: &Owners) -> Option<TrialRing> {
    let Algorithm::Placement(Placement::Ring { vnodes }) = algorithm else { return None };
    let all = ring::points(*vnodes, topology).ok()?;
    let share = |place: u32| f64::from(place) / 2_f64.powi(32);
    let is_shown = all.len() <= RING_POINTS_SHOWN;
    let shown = all.iter().filter(|_| is_shown);
    let points = shown.map(|(place, shard)| (share(*place), owners.name(*shard))).collect();
    Some(TrialRing { total: all.len() as u64, points })
}

fn place(text: &str, keyspace: &Keyspace, owners: &Owners, after: Option<&Owners>) -> PlacedKey {
    let found = ShardKey::parse(text).and_then(|key| keyspace.slot_of(key));
    let slot = found.as_ref().ok().copied();
    let owner = |owners: &Owners| slot.map(|slot| owners.name(owners.slots[slot.index()]));
    PlacedKey {
        key: text.to_owned(),
        slot: slot.map(|slot| slot.number()),
        shard: owner(owners),
        after: after.and_then(owner),
        reason: found.err().map(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'t>(placement: &'t str, weights: &'t str, change: &'t str) -> TrialTexts<'t> {
        let sample = "user_1\nuser_2";
        let change = Some(change);
        let (placement, weights, sample) = (Some(placement), Some(weights), Some(sample));
        TrialTexts { placement, weights, change, sample, ..TrialTexts::default() }
    }

    fn trial(texts: &TrialTexts<'_>) -> Trial {
        run(&TrialOptions::read(texts).expect("good options")).expect("a trial")
    }

    #[test]
    fn the_slots_that_a_change_moves_are_those_whose_runs_differ() {
        for placement in ["even", "weighted", "modulo", "ring", "ring:8", "rendezvous", "jump"] {
            let trial = trial(&texts(placement, "1,1,2", "add:2"));
            let owner = |runs: &[SlotRun]| {
                let owners = runs.iter().flat_map(|(first, last, shard)| {
                    (*first..=*last).map(|slot| (slot, shard.clone()))
                });
                owners.collect::<Vec<_>>()
            };
            let moved = trial.moved.expect("there is a change");
            let (before, after) = (owner(&trial.before.runs), owner(&moved.after.runs));
            assert_eq!((before.len(), after.len()), (16_384, 16_384), "{placement}");
            assert!((0..).zip(&before).all(|(place, (slot, _))| place == *slot));
            let differ = before.iter().zip(&after).filter(|(old, new)| old != new).count();
            assert_eq!(differ as u64, moved.slots, "{placement}");
            for one in &trial.sample {
                let slot = usize::from(one.slot.expect("hash has a slot for each key"));
                assert_eq!(one.shard.as_ref(), Some(&before[slot].1));
                assert_eq!(one.after.as_ref(), Some(&after[slot].1));
            }
        }
    }

    #[test]
    fn a_rebalance_moves_no_more_than_it_must() {
        let trial = trial(&texts("rebalance", "1,1,1", "add"));
        let moved = trial.moved.expect("there is a change");
        assert!((moved.share - 0.25).abs() < 0.001 && (moved.needed - 0.25).abs() < 0.001);
        assert_eq!(trial.placement, "rebalance");
        assert_eq!(trial.ring, None);
    }

    #[test]
    fn a_keyspace_without_a_slot_for_a_key_reports_the_reason() {
        let texts = TrialTexts {
            keyspace: Some("modulo"),
            sample: Some("user_7\nnobody"),
            ..TrialTexts::default()
        };
        let trial = trial(&texts);
        assert_eq!(trial.sample[0].slot, Some(7));
        assert!(trial.sample[1].reason.as_ref().is_some_and(|why| why.contains("integer")));
        assert_eq!((trial.sample[1].slot, trial.moved), (None, None));
    }
}
