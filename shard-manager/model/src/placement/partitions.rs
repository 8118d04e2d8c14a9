//! Partitions: named blocks of slots, each with a size and an owner.
//!
//! Source: the partition table of Infra-Crafter (A 30, B 20 → shard1; D 25 → shard2; C 15, E 10 →
//! shard3), which is list partitioning with a directory. Together with the keyspace `list` with the
//! same partitions, it lets an operator decide where each set of keys is stored, for example by
//! country or by customer. The distribution is even only if the sizes are chosen well, and a new
//! shard gets nothing until an operator assigns partitions to it.
//!
//! **Invariant:** the blocks are consecutive, in the given order, with the sizes that
//! [`blocks::cut`] returns, so a partition has the same slots here and in a keyspace `list` with
//! the same partitions.
//! **Not here:** the keys of a partition (`keyspace::list`).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{PlacementError, finder};
use crate::keyspace::list::{ListSpace, Partition};
use crate::keyspace::{SLOT_COUNT, blocks};
use crate::topology::{ShardNumber, Topology};

/// Named blocks of slots and their owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partitions {
    blocks: Vec<Block>,
}

/// Block of slots: name, weight, name of the owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Block(Box<str>, u32, Box<str>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    partitions: Vec<Block>,
}

impl Partitions {
    fn new(blocks: Vec<Block>) -> Result<Self, String> {
        let named: Vec<(&str, u32)> = blocks.iter().map(|block| (&*block.0, block.1)).collect();
        blocks::check(&named)?;
        Ok(Self { blocks })
    }

    /// Parses the placement from `A=30>shard1,B=20>shard2`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(|part| {
            let (block, shard) =
                part.split_once('>').ok_or_else(|| format!("`{part}` is not NAME=WEIGHT>SHARD"))?;
            let (name, weight) = blocks::parse_weight(block)?;
            Ok(Block(name, weight, shard.trim().into()))
        });
        Self::new(parts.collect::<Result<_, String>>()?)
    }

    pub(super) fn restore(parameters: &str) -> Result<Self, String> {
        let read: Result<Parameters, _> = serde_json::from_str(parameters);
        Self::new(read.map_err(|error| error.to_string())?.partitions)
    }

    pub(super) fn parameters(&self) -> String {
        let parameters = Parameters { partitions: self.blocks.clone() };
        serde_json::to_string(&parameters).expect("names and numbers always serialise")
    }

    /// Returns true if the blocks have the same names and slots as the partitions of a keyspace.
    pub fn are_blocks_of(&self, list: &ListSpace) -> bool {
        let cuts = blocks::cut(self.blocks.iter().map(|block| u64::from(block.1)));
        let mut pairs = self.blocks.iter().zip(cuts).zip(list.partitions());
        self.blocks.len() == list.partitions().len()
            && pairs.all(|((block, slots), Partition { name, first, last, .. })| {
                block.0 == *name && (slots.start, slots.end) == (first.number(), last.number() + 1)
            })
    }

    pub(super) fn assign(&self, topology: &Topology) -> Result<Vec<ShardNumber>, PlacementError> {
        let mut owners = Vec::with_capacity(usize::from(SLOT_COUNT));
        let find = finder(topology);
        let cuts = blocks::cut(self.blocks.iter().map(|block| u64::from(block.1)));
        for (slots, block) in cuts.zip(&self.blocks) {
            owners.resize(usize::from(slots.end), find(&block.2)?);
        }
        Ok(owners)
    }
}

/// Formats the placement as it is written in the configuration.
impl fmt::Display for Partitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("partitions:")?;
        for (index, Block(name, weight, shard)) in self.blocks.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{name}={weight}>{shard}")?;
        }
        Ok(())
    }
}
