//! Simulation: computes the shares of the shards under several placements, and the slots that would
//! move if the topology changed.
//!
//! The owners before a change of the topology are compared with those after it: slots that get
//! another owner would have to move.
//!
//! **Invariant:** a slot counts as moved if and only if the name of its owner changes.
//! **Not here:** the map of a real cluster (`shard_map`); moving anything; no I/O, no clock, no
//! `async`.

use std::collections::BTreeMap;
use std::fmt;

use crate::keyspace::{SLOT_COUNT, Slot};
use crate::placement::{Placement, PlacementError, rebalance};
use crate::topology::{ShardNumber, ShardSpec, Topology, TopologyError};

/// Change of a topology whose effect is simulated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopologyChange {
    /// Adds a shard with this weight after all others.
    Add(u32),
    /// Removes the shard with this name.
    Remove(String),
    /// Changes the weight of the shard with this name.
    Reweight(String, u32),
}

impl TopologyChange {
    /// Returns the topology after the change.
    ///
    /// # Errors
    /// [`ChangeError`] if there is no such shard, or the resulting topology is invalid.
    pub fn apply(&self, topology: &Topology) -> Result<Topology, ChangeError> {
        let mut shards = topology.shards().to_vec();
        let find = |name: &str| {
            let found = topology.find(name).map(ShardNumber::index);
            found.ok_or_else(|| ChangeError::NoSuchShard { shard: name.to_owned() })
        };
        match self {
            Self::Add(weight) => {
                let names = (1..).map(|number| format!("shard{number}"));
                let free = |name: &String| topology.find(name).is_none();
                let name = names.skip(shards.len()).find(free).expect("names are endless");
                let weight = positive(&name, *weight)?;
                shards.push(ShardSpec::new(name, weight));
            }
            Self::Remove(name) => drop(shards.remove(find(name)?)),
            Self::Reweight(name, weight) => shards[find(name)?].weight = positive(name, *weight)?,
        }
        Ok(Topology::simulated(shards)?)
    }
}

/// Returns the weight if it is above 0. Weight 0 is refused, because a shard is removed by another
/// kind of change.
fn positive(shard: &str, weight: u32) -> Result<u32, TopologyError> {
    let refused = || TopologyError::Weight { shard: shard.to_owned(), least: 1, weight };
    Some(weight).filter(|weight| *weight > 0).ok_or_else(refused)
}

impl fmt::Display for TopologyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(1) => f.write_str("add a shard"),
            Self::Add(weight) => write!(f, "add a shard of weight {weight}"),
            Self::Remove(name) => write!(f, "remove {name}"),
            Self::Reweight(name, weight) => write!(f, "{name} = {weight}"),
        }
    }
}

/// Reason why a change cannot be simulated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The topology has no shard with this name.
    #[error("there is no shard {shard}")]
    NoSuchShard {
        /// The name.
        shard: String,
    },
    /// The resulting topology is invalid.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The placement cannot be applied to the resulting topology.
    #[error(transparent)]
    Placement(#[from] PlacementError),
}

/// Algorithm that assigns slots to the shards of a topology.
#[derive(Clone, Debug)]
pub enum Algorithm {
    /// The placement is computed again after a change.
    Placement(Placement),
    /// Starting from these owners, a change moves only as many slots as the weights require.
    Rebalance(Vec<ShardNumber>),
}

impl Algorithm {
    /// Returns all placements that have no required parameters, and a rebalance. The rebalance
    /// starts from the owners in `current`, or from those of the placement `weighted` if `current`
    /// is `None`.
    ///
    /// # Errors
    /// [`PlacementError`] if the topology does not fit a placement.
    pub fn all(
        topology: &Topology,
        current: Option<Vec<ShardNumber>>,
    ) -> Result<Vec<Self>, PlacementError> {
        let current = current.map_or_else(|| Placement::Weighted.assign(topology), Ok)?;
        // The names `partitions` and `manual` do not parse without their parameters, so these two
        // placements are left out.
        let simple = Placement::NAMES.iter().filter_map(|name| name.parse().ok());
        Ok(simple.map(Self::Placement).chain([Self::Rebalance(current)]).collect())
    }

    /// Returns the name of the algorithm.
    pub fn name(&self) -> String {
        match self {
            Self::Placement(placement) => placement.to_string(),
            Self::Rebalance(_) => "rebalance".to_owned(),
        }
    }

    fn owners(&self, topology: &Topology) -> Result<Vec<ShardNumber>, PlacementError> {
        match self {
            Self::Placement(placement) => placement.assign(topology),
            Self::Rebalance(current) => Ok(current.clone()),
        }
    }

    /// Returns the owner of every slot after the topology has changed.
    ///
    /// # Errors
    /// [`PlacementError`] if the algorithm cannot handle the topology after the change.
    pub fn owners_after(
        &self,
        before: &Topology,
        after: &Topology,
    ) -> Result<Vec<ShardNumber>, PlacementError> {
        match self {
            Self::Placement(placement) => placement.assign(after),
            Self::Rebalance(current) => Ok(rebalance(current, before, after)),
        }
    }
}

/// Load of each slot: its number of keys, or 1 for every slot if no keys are given.
#[derive(Clone, Debug)]
pub struct Load {
    slots: Vec<u64>,
}

impl Load {
    /// Creates a load of 1 for every slot.
    pub fn of_slots() -> Self {
        Self { slots: vec![1; usize::from(SLOT_COUNT)] }
    }

    /// Creates a load of 0 for every slot, to which keys are added.
    pub fn of_keys() -> Self {
        Self { slots: vec![0; usize::from(SLOT_COUNT)] }
    }

    /// Adds one key in this slot.
    pub fn add(&mut self, slot: Slot) {
        self.slots[slot.index()] += 1;
    }

    /// Returns the sum of the loads of all slots.
    pub fn total(&self) -> u64 {
        self.slots.iter().sum()
    }
}

/// Slots and load of one shard.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Share {
    /// The shard.
    pub shard: String,
    /// Weight of the shard.
    pub weight: u32,
    /// Number of slots that the shard owns.
    pub slots: u64,
    /// Number of keys of the shard, or of its slots if no keys are given.
    pub load: u64,
}

/// Distribution of slots and load that an algorithm gives one topology.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Distribution {
    /// Slots and load of each shard.
    pub shards: Vec<Share>,
    /// Load of the fullest shard as a multiple of its fair load, which is proportional to its
    /// weight; 1 is ideal. Shards whose fair load is 0 are left out.
    pub skew: f64,
}

/// Slots and load that a change would move.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Moved {
    /// Description of the change.
    pub change: String,
    /// Minimum fraction of the load that must move, if each shard has exactly its fair load before
    /// and after the change.
    pub needed: f64,
    /// Number of slots that get another owner.
    pub slots: u64,
    /// Number of keys in these slots, or the number of these slots if no keys are given.
    pub load: u64,
    /// Load that moves as a fraction of the total load.
    pub share: f64,
    /// Distribution after the change.
    pub after: Distribution,
}

/// Results of one algorithm for all changes.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Simulated {
    /// Name of the algorithm.
    pub algorithm: String,
    /// Distribution before any change.
    pub before: Distribution,
    /// Result of each change; each one is applied to the original topology.
    pub changes: Vec<Moved>,
}

/// Simulates each change with one algorithm.
///
/// # Errors
/// [`ChangeError`] of the first change that is impossible or that the algorithm cannot handle.
pub fn simulate(
    topology: &Topology,
    algorithm: &Algorithm,
    changes: &[TopologyChange],
    load: &Load,
) -> Result<Simulated, ChangeError> {
    let owners = algorithm.owners(topology)?;
    let mut moves = Vec::with_capacity(changes.len());
    for change in changes {
        let after = change.apply(topology)?;
        let next = algorithm.owners_after(topology, &after)?;
        moves.push(moved(change, (topology, &owners), (&after, &next), load));
    }
    let before = distribution(topology, &owners, load);
    Ok(Simulated { algorithm: algorithm.name(), before, changes: moves })
}

fn moved(
    change: &TopologyChange,
    (before, owners): (&Topology, &[ShardNumber]),
    (after, next): (&Topology, &[ShardNumber]),
    load: &Load,
) -> Moved {
    let (mut slots, mut moved) = (0, 0);
    for ((old, new), load) in owners.iter().zip(next).zip(&load.slots) {
        if before.name(*old) != after.name(*new) {
            slots += 1;
            moved += load;
        }
    }
    Moved {
        change: change.to_string(),
        needed: needed(before, after),
        slots,
        load: moved,
        share: moved as f64 / load.total().max(1) as f64,
        after: distribution(after, next, load),
    }
}

/// Returns the minimum fraction of the load that must move: the sum of the growth of all fair
/// shares that grow.
fn needed(old: &Topology, new: &Topology) -> f64 {
    let (had, demanded) = (fair_shares(old), fair_shares(new));
    let lacks = demanded.iter().map(|(name, share)| {
        let had = had.get(name).copied().unwrap_or_default();
        (share - had).max(0.0)
    });
    lacks.sum()
}

/// Returns the fair share of each member, by name, as a fraction of the total.
fn fair_shares(topology: &Topology) -> BTreeMap<&str, f64> {
    let weights = topology.share_weights();
    let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let share = |number: ShardNumber| f64::from(weights[number.index()]) / total;
    topology.numbers().map(|number| (topology.name(number), share(number))).collect()
}

fn distribution(topology: &Topology, owners: &[ShardNumber], load: &Load) -> Distribution {
    let mut carried = vec![(0, 0); topology.len()];
    for (owner, load) in owners.iter().zip(&load.slots) {
        let (slots, sum) = &mut carried[owner.index()];
        (*slots, *sum) = (*slots + 1, *sum + load);
    }
    let weights = topology.share_weights();
    let all: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let total = load.total().max(1) as f64;
    // A shard without a share has no fair load to which its load could be compared.
    let shares = weights.iter().zip(&carried).filter(|(weight, _)| **weight > 0);
    let multiples =
        shares.map(|(weight, (_, load))| *load as f64 / (total * f64::from(*weight) / all));
    let skew = multiples.fold(0.0, f64::max);
    let shards = topology.members().map(|(number, spec)| {
        let (slots, load) = carried[number.index()];
        Share { shard: spec.name.clone(), weight: spec.weight, slots, load }
    });
    Distribution { shards: shards.collect(), skew }
}
