//! Topology: the shards of a cluster, with their names and weights.
//!
//! **Invariant:** 1 to [`Topology::SHARDS_MAX`] shards (more in simulations) with distinct names;
//! weights are positive.
//! **Not here:** the slots of a shard (`placement`); the files of a shard (`sqlite`), its servers
//! (`postgres`).

use std::collections::HashSet;
use std::fmt;

/// Index of a shard in its topology; slot tables store it instead of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardIndex(pub u16);

impl ShardIndex {
    /// Returns the index into a list of shards.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Shard with its share of the load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSpec {
    /// `shard1`, `shard2`, …
    pub name: String,
    /// Relative share of the slots under a weighted placement, 1..=[`Topology::WEIGHT_MAX`].
    pub weight: u32,
}

/// All shards of a cluster, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    shards: Vec<ShardSpec>,
}

impl Topology {
    /// Highest number of shards of one router: each embedded shard has a thread, a writer and a
    /// pool of readers.
    pub const SHARDS_MAX: usize = 256;
    /// Highest number of shards in a simulation, which no router serves.
    pub const SIMULATED_SHARDS_MAX: usize = 4_096;
    /// Highest number of replicas of one shard: every write is written again to each of these
    /// files.
    pub const REPLICAS_MAX: usize = 5;
    /// Largest weight: sums of weights times slots stay far below 64 bits.
    pub const WEIGHT_MAX: u32 = 1_000_000;

    /// Creates the shards `shard1 … shardN` with these weights.
    ///
    /// # Errors
    /// [`TopologyError`] if there are none or too many, or a weight is out of range.
    pub fn with_weights(weights: &[u32]) -> Result<Self, TopologyError> {
        Self::new(named(weights))
    }

    /// Creates a topology for simulations, of up to [`Topology::SIMULATED_SHARDS_MAX`] shards.
    ///
    /// # Errors
    /// Errors of [`Topology::with_weights`].
    pub fn simulated_with_weights(weights: &[u32]) -> Result<Self, TopologyError> {
        Self::simulated(named(weights))
    }

    /// Creates a topology of these shards.
    ///
    /// # Errors
    /// [`TopologyError`] if there are none or too many, names repeat or a weight is out of range.
    pub fn new(shards: Vec<ShardSpec>) -> Result<Self, TopologyError> {
        Self::checked(shards, Self::SHARDS_MAX)
    }

    /// Creates a topology for simulations, like [`Topology::new`], of up to
    /// [`Topology::SIMULATED_SHARDS_MAX`] shards.
    ///
    /// # Errors
    /// Errors of [`Topology::new`].
    pub fn simulated(shards: Vec<ShardSpec>) -> Result<Self, TopologyError> {
        Self::checked(shards, Self::SIMULATED_SHARDS_MAX)
    }

    fn checked(shards: Vec<ShardSpec>, most: usize) -> Result<Self, TopologyError> {
        if shards.is_empty() || shards.len() > most {
            return Err(TopologyError::Count { count: shards.len(), most });
        }
        let mut names = HashSet::with_capacity(shards.len());
        for shard in &shards {
            if shard.weight == 0 || shard.weight > Self::WEIGHT_MAX {
                return Err(TopologyError::Weight {
                    shard: shard.name.clone(),
                    weight: shard.weight,
                });
            }
            if !names.insert(&*shard.name) {
                return Err(TopologyError::NameTwice { shard: shard.name.clone() });
            }
        }
        Ok(Self { shards })
    }

    /// Returns the shards in order.
    #[inline]
    pub fn shards(&self) -> &[ShardSpec] {
        &self.shards
    }

    /// Returns the number of shards, at least one.
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
    pub fn name(&self, shard: ShardIndex) -> &str {
        &self.shards[shard.index()].name
    }

    /// Finds a shard by name.
    pub fn find(&self, name: &str) -> Option<ShardIndex> {
        self.indices().find(|&index| self.name(index) == name)
    }

    /// Returns every shard's index, in order.
    pub fn indices(&self) -> impl Iterator<Item = ShardIndex> + use<> {
        (0..self.shards.len() as u16).map(ShardIndex)
    }
}

fn named(weights: &[u32]) -> Vec<ShardSpec> {
    let numbered = (1..).zip(weights);
    let spec = |(number, weight): (usize, &u32)| {
        let name = format!("shard{number}");
        ShardSpec { name, weight: *weight }
    };
    numbered.map(spec).collect()
}

/// Reason why a list of shards is not a topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// There are no shards, or too many.
    #[error("there may be 1 to {most} shards, not {count}")]
    Count {
        /// Requested number of shards.
        count: usize,
        /// Highest number of shards.
        most: usize,
    },
    /// A weight is zero, or more than [`Topology::WEIGHT_MAX`].
    #[error("the weight of {shard} must be 1 to {}, not {weight}", Topology::WEIGHT_MAX)]
    Weight {
        /// Name of the shard.
        shard: String,
        /// The given weight.
        weight: u32,
    },
    /// Two shards have the same name.
    #[error("two shards are called {shard}")]
    NameTwice {
        /// Name of both.
        shard: String,
    },
}

/// Role of a node in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The node that accepts writes.
    Primary,
    /// A node with a slightly delayed copy of the primary's rows.
    Replica,
}

impl Role {
    /// Returns the name in `GET /api/health` and in `x-served-by`.
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
