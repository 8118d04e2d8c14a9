//! Placement: from a topology to the owner of every slot.
//!
//! A placement is a recipe, used when a cluster is made; the table it yields is stored in the catalog
//! and from then on the table is what counts.
//!
//! **Invariant:** the table has exactly [`SLOT_COUNT`] owners, all of them shards of the topology.
//! **Not here:** the table in force and its epoch (`shard_map`); no I/O, no clock, no `async`.

use std::str::FromStr;

use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardIndex, Topology};

/// How slots are dealt out to shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Contiguous ranges whose sizes differ by at most one slot; weights are ignored.
    #[default]
    Even,
    /// Contiguous ranges in proportion to the shards' weights, each within one slot of its share.
    Weighted,
}

impl Placement {
    /// Every placement there is, for messages and help.
    pub const ALL: [Self; 2] = [Self::Even, Self::Weighted];

    /// The name used in configuration, catalog and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Even => "even",
            Self::Weighted => "weighted",
        }
    }

    /// The owner of every slot, by slot number.
    pub fn assign(self, topology: &Topology) -> Vec<ShardIndex> {
        let owners = match self {
            Self::Even => contiguous(topology.shards().iter().map(|_| 1)),
            Self::Weighted => contiguous(topology.shards().iter().map(|s| u64::from(s.weight))),
        };
        assert_eq!(owners.len(), usize::from(SLOT_COUNT), "every slot has one owner");
        owners
    }
}

/// Cuts the slots where the running sum of weights passes them: shard `i` ends before slot
/// `ceil(SLOT_COUNT * (w0 + … + wi) / total)`. Rounding the running sum instead of each share keeps
/// every shard within one slot of what its weight demands, and leaves no remainder to hand out.
fn contiguous(weights: impl Iterator<Item = u64> + Clone) -> Vec<ShardIndex> {
    let total: u64 = weights.clone().sum();
    let mut owners = Vec::with_capacity(usize::from(SLOT_COUNT));
    let mut reached = 0;
    for (index, weight) in weights.enumerate() {
        reached += weight;
        let end = (u64::from(SLOT_COUNT) * reached).div_ceil(total) as usize;
        owners.resize(end, ShardIndex(index as u16));
    }
    owners
}

impl FromStr for Placement {
    type Err = UnknownPlacement;

    fn from_str(name: &str) -> Result<Self, UnknownPlacement> {
        let found = Self::ALL.into_iter().find(|placement| placement.name() == name);
        found.ok_or_else(|| UnknownPlacement(name.to_owned()))
    }
}

/// A placement name that means nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no placement; there are: {names}", names = Placement::ALL.map(Placement::name).join(", "))]
pub struct UnknownPlacement(String);
