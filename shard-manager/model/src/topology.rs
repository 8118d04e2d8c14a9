//! Topology: the shards of a cluster, with their names and weights.
//!
//! A shard keeps its number for ever. Numbers are assigned in ascending order and never reused, so
//! a topology has an entry for every number, including those of retired shards. A member is a shard
//! that is not retired.
//!
//! **Invariant:** there are 1 to [`Topology::SHARDS_MAX`] entries (more in simulations); members
//! have distinct names; at least one member has a weight above 0.
//! **Not here:** the slots of a shard (`placement`), the files of a shard (`sqlite`) or its servers
//! (`postgres`).

use std::collections::HashSet;
use std::fmt;

/// Number of a shard, which is never given to another shard. Shard maps and session tokens store it
/// instead of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardNumber(pub u16);

impl ShardNumber {
    /// Returns the number as an index into a list of all shards.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Shard with its name, weight and state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSpec {
    /// Name of the shard, such as `shard1`.
    pub name: String,
    /// Weight of the shard, 0..=[`Topology::WEIGHT_MAX`]: placements that use weights give it slots
    /// in proportion. It is 0 for a shard that should have no slots.
    pub weight: u32,
    /// State in the life cycle of the shard.
    pub state: ShardState,
}

impl ShardSpec {
    /// Creates a shard in the state serving.
    pub fn new(name: impl Into<String>, weight: u32) -> Self {
        Self { name: name.into(), weight, state: ShardState::Serving }
    }
}

/// State in the life cycle of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShardState {
    /// The shard is being created and owns no slots yet.
    Joining,
    /// The shard may own slots.
    #[default]
    Serving,
    /// The shard may still own slots, but gets no new ones.
    Draining,
    /// The shard owns no slots, and routers no longer open it. Its number is not given to another
    /// shard.
    Retired,
}

impl ShardState {
    /// All states, in the order of the life cycle.
    pub const ALL: [Self; 4] = [Self::Joining, Self::Serving, Self::Draining, Self::Retired];

    /// Returns the name in the catalog and in responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Retired => "retired",
        }
    }

    /// Returns true if a shard in this state may have rows.
    pub fn has_rows(self) -> bool {
        match self {
            Self::Serving | Self::Draining => true,
            Self::Joining | Self::Retired => false,
        }
    }

    /// Finds a state by name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// All shards of a cluster, in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    shards: Vec<ShardSpec>,
}

impl Topology {
    /// Maximum number of shards of a cluster, including retired ones. A router needs a thread, a
    /// writer and a pool of readers for each shard on files.
    pub const SHARDS_MAX: usize = 256;
    /// Maximum number of shards in a simulation, for which no router runs.
    pub const SIMULATED_SHARDS_MAX: usize = 4_096;
    /// Maximum number of replicas of one shard. On files, the router repeats every write on the
    /// file of each replica.
    pub const REPLICAS_MAX: usize = 5;
    /// Maximum weight of a shard. It keeps the sum of all weights, multiplied by the number of
    /// slots, far below 2^64.
    pub const WEIGHT_MAX: u32 = 1_000_000;

    /// Creates a topology of the shards `shard1 … shardN` with these weights.
    ///
    /// # Errors
    /// [`TopologyError`] if there are no shards or too many, or a weight is out of range.
    pub fn with_weights(weights: &[u32]) -> Result<Self, TopologyError> {
        Self::new(named(weights))
    }

    /// Creates a topology like [`Topology::with_weights`] for simulations, with up to
    /// [`Topology::SIMULATED_SHARDS_MAX`] shards.
    ///
    /// # Errors
    /// Errors of [`Topology::with_weights`].
    pub fn simulated_with_weights(weights: &[u32]) -> Result<Self, TopologyError> {
        Self::checked(named(weights), Self::SIMULATED_SHARDS_MAX, 1)
    }

    /// Creates a topology of these shards, whose weights must be above 0.
    ///
    /// # Errors
    /// [`TopologyError`] if there are no shards or too many, two have the same name, or a weight is
    /// out of range.
    pub fn new(shards: Vec<ShardSpec>) -> Result<Self, TopologyError> {
        Self::checked(shards, Self::SHARDS_MAX, 1)
    }

    /// Creates a topology like [`Topology::restore`] for simulations, with up to
    /// [`Topology::SIMULATED_SHARDS_MAX`] shards.
    ///
    /// # Errors
    /// Errors of [`Topology::new`].
    pub fn simulated(shards: Vec<ShardSpec>) -> Result<Self, TopologyError> {
        Self::checked(shards, Self::SIMULATED_SHARDS_MAX, 0)
    }

    /// Restores the topology of an existing cluster, in which weights may be 0 and shards retired.
    ///
    /// # Errors
    /// Errors of [`Topology::new`].
    pub fn restore(shards: Vec<ShardSpec>) -> Result<Self, TopologyError> {
        Self::checked(shards, Self::SHARDS_MAX, 0)
    }

    fn checked(
        shards: Vec<ShardSpec>,
        most: usize,
        least_weight: u32,
    ) -> Result<Self, TopologyError> {
        if shards.is_empty() || shards.len() > most {
            return Err(TopologyError::Count { count: shards.len(), most });
        }
        let mut names = HashSet::with_capacity(shards.len());
        for shard in &shards {
            if !(least_weight..=Self::WEIGHT_MAX).contains(&shard.weight) {
                return Err(TopologyError::Weight {
                    shard: shard.name.clone(),
                    least: least_weight,
                    weight: shard.weight,
                });
            }
            if shard.state != ShardState::Retired && !names.insert(&*shard.name) {
                return Err(TopologyError::NameTwice { shard: shard.name.clone() });
            }
        }
        let mut members = shards.iter().filter(|shard| shard.state != ShardState::Retired);
        if members.all(|shard| shard.weight == 0) {
            return Err(TopologyError::NoWeight);
        }
        Ok(Self { shards })
    }

    /// Returns an entry for every number, in order, including those of retired shards.
    #[inline]
    pub fn shards(&self) -> &[ShardSpec] {
        &self.shards
    }

    /// Returns the number of entries, at least 1. All shard numbers are lower.
    #[inline]
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Returns false: a topology has at least one shard.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Returns the name of a shard of this topology.
    pub fn name(&self, shard: ShardNumber) -> &str {
        &self.shards[shard.index()].name
    }

    /// Finds a member by name.
    pub fn find(&self, name: &str) -> Option<ShardNumber> {
        self.members().find(|(_, shard)| shard.name == name).map(|(number, _)| number)
    }

    /// Returns a topology of only the first `count` shards. It leaves out those that joined last,
    /// because numbers are assigned in ascending order.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        Self { shards: self.shards[..count.min(self.shards.len())].to_vec() }
    }

    /// Returns the shards that are not retired, in order.
    pub fn members(&self) -> impl Iterator<Item = (ShardNumber, &ShardSpec)> + Clone {
        let numbered = (0..).map(ShardNumber).zip(&self.shards);
        numbered.filter(|(_, shard)| shard.state != ShardState::Retired)
    }

    /// Returns the weights by which slots are distributed, indexed by shard number; their sum is
    /// above 0. A shard that is not serving has weight 0 here. If no serving shard has a weight
    /// above 0, all members have their own weights instead.
    pub fn share_weights(&self) -> Vec<u32> {
        let weights = |counts: fn(ShardState) -> bool| -> Vec<u32> {
            let weight = |shard: &ShardSpec| if counts(shard.state) { shard.weight } else { 0 };
            self.shards.iter().map(weight).collect()
        };
        let serving = weights(|state| state == ShardState::Serving);
        if serving.iter().any(|weight| *weight > 0) {
            return serving;
        }
        weights(|state| state != ShardState::Retired)
    }

    /// Returns the number of every member, in order.
    pub fn numbers(&self) -> impl Iterator<Item = ShardNumber> + Clone {
        self.members().map(|(number, _)| number)
    }
}

/// Returns the topology for a router that has not opened the joining shards, in which they count as
/// retired.
pub fn without_joining(topology: &Topology) -> Topology {
    let mut shards = topology.shards.clone();
    for shard in shards.iter_mut().filter(|shard| shard.state == ShardState::Joining) {
        shard.state = ShardState::Retired;
    }
    Topology { shards }
}

fn named(weights: &[u32]) -> Vec<ShardSpec> {
    let numbered = (1..).zip(weights);
    let spec = |(number, weight): (usize, &u32)| {
        let name = format!("shard{number}");
        ShardSpec::new(name, *weight)
    };
    numbered.map(spec).collect()
}

/// Reason why a list of shards is not a valid topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// There are no shards, or too many.
    #[error("there may be 1 to {most} shards, not {count}")]
    Count {
        /// Number of shards in the list.
        count: usize,
        /// Maximum number of shards.
        most: usize,
    },
    /// A weight is too low, or above [`Topology::WEIGHT_MAX`].
    #[error("the weight of {shard} must be {least} to {}, not {weight}", Topology::WEIGHT_MAX)]
    Weight {
        /// Name of the shard.
        shard: String,
        /// Minimum weight.
        least: u32,
        /// The given weight.
        weight: u32,
    },
    /// The weights of all members are 0, or a change of the shard map would leave only draining
    /// shards with a weight above 0.
    #[error("at least one shard that is neither retired nor draining must have a weight above 0")]
    NoWeight,
    /// Two shards have the same name.
    #[error("two shards are called {shard}")]
    NameTwice {
        /// Name of both shards.
        shard: String,
    },
}

/// Role of a node in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The node that accepts writes.
    Primary,
    /// A node that follows the primary, so that its rows lag slightly behind.
    Replica,
}

impl Role {
    /// Returns the name that `GET /api/health` and the header `x-served-by` use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
