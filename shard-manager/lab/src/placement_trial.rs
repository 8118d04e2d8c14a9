//! Placement trial: computes, for a keyspace and a placement, the slots of each shard and its share
//! of the keys, and the slots and keys that would move if the shards changed.
//!
//! **Invariant:** the result depends on the options only; a trial stores nothing, and takes only a
//! few milliseconds, because each option has a limit.
//! **Not here:** the comparison of all placements (`strategies`); a trial uses no cluster.

mod options;

use model::keyspace::{Keyspace, ShardKey};
use model::placement::{Placement, ring};
use model::simulation::{Algorithm, ChangeError, Distribution, Moved, simulate};
use model::topology::{ShardNumber, Topology};
use serde::Serialize;

pub use self::options::{TrialFault, TrialKeys, TrialOptions, TrialTexts};

/// Maximum number of shards. More could not be distinguished in a picture.
pub const SHARDS_MAX: usize = 64;
/// Maximum number of generated keys.
pub const TRIAL_KEYS_MAX: u64 = 20_000;
/// Maximum number of sample keys, whose locations are listed individually.
pub const SAMPLE_MAX: usize = 100;
/// Maximum number of points of a ring that is computed.
pub const RING_POINTS_MAX: u64 = 1 << 16;
/// Maximum number of points of a ring for which the points are listed. A picture has no space for
/// more.
pub const RING_POINTS_SHOWN: usize = 1_024;

/// Run of consecutive slots with the same owner: the first slot, the last slot, and the name of the
/// shard.
pub type SlotRun = (u16, u16, String);

/// Result of a trial.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Keyspace, with its parameters.
    pub keyspace: String,
    /// Placement, with its parameters.
    pub placement: String,
    /// Number of keys that were counted, or of all slots if no keys were counted.
    pub total: u64,
    /// Shares and slots of the shards before a change.
    pub before: TrialState,
    /// Slots and keys that the change of the shards moves; `None` without a change.
    pub moved: Option<TrialMove>,
    /// Points of the ring, if the placement is a ring.
    pub ring: Option<TrialRing>,
    /// Locations of the sample keys.
    pub sample: Vec<PlacedKey>,
}

/// Distribution of the slots and keys over the shards.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrialState {
    /// Share of each shard, and the skew.
    #[serde(flatten)]
    pub shares: Distribution,
    /// Owners of all slots, as runs in ascending order of slots.
    pub runs: Vec<SlotRun>,
}

/// Slots and keys that a change of the shards moves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrialMove {
    /// Description of the change.
    pub change: String,
    /// Smallest fraction of the load that must move so that each shard has the share of its weight.
    pub needed: f64,
    /// Number of slots that get another owner.
    pub slots: u64,
    /// Number of keys in these slots, or of the slots themselves if no keys are counted.
    pub load: u64,
    /// Fraction of all keys that move, or of all slots if no keys are counted.
    pub share: f64,
    /// Shares and slots after the change.
    pub after: TrialState,
}

/// Points of a ring.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrialRing {
    /// Number of all points of the ring.
    pub total: u64,
    /// Position of each point, from 0 to 1, and its shard, in ascending order of position; empty if
    /// there are more than [`RING_POINTS_SHOWN`].
    pub points: Vec<(f64, String)>,
}

/// Sample key with its location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlacedKey {
    /// Shard key.
    pub key: String,
    /// Slot of the key; `None` if the keyspace has no slot for it.
    pub slot: Option<u16>,
    /// Shard that owns the slot before the change.
    pub shard: Option<String>,
    /// Shard that owns the slot after the change; `None` without a change.
    pub after: Option<String>,
    /// Reason why the key has no slot, if it has none.
    pub reason: Option<String>,
}

/// Owner of each slot, and the names of the shards.
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
