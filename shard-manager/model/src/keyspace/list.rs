//! List: the prefix of a key before the first `:`, or a column of the row, names a partition, which
//! is a block of slots.
//!
//! Source: list partitioning of databases, and the partition table A 30, B 20, C 15, D 25, E 10 of
//! Infra-Crafter. The keys of a partition have slots that no other partition uses, so that a
//! placement can keep them on one shard, or in one country. The keys of a partition are distributed
//! evenly over the slots of its block. A partition with more load than its weight provides for
//! loads its slots more than those of others, and a key that names no existing partition is
//! refused.
//!
//! **Invariant:** the blocks are consecutive, in the given order, with the sizes that
//! [`blocks::cut`] returns; the slot inside a block is XXH3-64 of the whole key modulo the number
//! of slots of the block.
//! **Not here:** the shard of a partition (the placement `partitions`).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::partition_column::{self, PartitionError};
use super::routing_step::RoutingStep;
use super::{KeyError, Slot, blocks, hash};

/// Maximum number of partition names that an error message lists.
pub const NAMES_SHOWN_MAX: usize = 20;

/// A named block of slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Name of the partition.
    pub name: Box<str>,
    /// Share of the slots, relative to the other partitions.
    pub weight: u32,
    /// First slot of the block.
    pub first: Slot,
    /// Last slot of the block.
    pub last: Slot,
}

impl Partition {
    pub(super) fn slot_of(&self, key: &str) -> Slot {
        let size = self.last.0 - self.first.0 + 1;
        Slot(self.first.0 + (hash(key) % u64::from(size)) as u16)
    }

    pub(super) fn explain(&self) -> RoutingStep<'static> {
        let Self { name, first, last, .. } = self;
        RoutingStep::Partition { name: name.to_string(), first: *first, last: *last }
    }
}

/// Partitions and their blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListSpace {
    /// Partitions in the given order.
    partitions: Vec<Partition>,
    /// Hash of each name, ascending, with the index of its partition: a search by number is faster
    /// than one by name.
    by_hash: Vec<(u64, u16)>,
    /// Names of the partitions as error messages list them.
    known: Arc<str>,
    /// Column that names the partition of a row; `None` if the prefix of the shard key names it.
    column: Option<Arc<str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters<'p> {
    #[serde(borrow)]
    partitions: Vec<(std::borrow::Cow<'p, str>, u32)>,
    seed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    column: Option<std::borrow::Cow<'p, str>>,
}

impl ListSpace {
    /// Creates partitions with these names and weights.
    ///
    /// # Errors
    /// Description of the fault, as a clause.
    pub fn new(partitions: Vec<(Box<str>, u32)>) -> Result<Self, String> {
        let named: Vec<(&str, u32)> =
            partitions.iter().map(|(name, weight)| (&**name, *weight)).collect();
        blocks::check(&named)?;
        let mut known: Vec<&str> =
            named.iter().take(NAMES_SHOWN_MAX).map(|(name, _)| *name).collect();
        if named.len() > known.len() {
            known.push("…");
        }
        let known = known.join(", ").into();
        let mut by_hash: Vec<(u64, u16)> =
            named.iter().map(|(name, _)| hash(name)).zip(0..).collect();
        by_hash.sort_unstable();
        let weights: Vec<u64> = named.iter().map(|(_, weight)| u64::from(*weight)).collect();
        let cuts = blocks::cut(weights.iter().copied());
        let partitions = partitions.into_iter().zip(cuts).map(|((name, weight), slots)| {
            Partition { name, weight, first: Slot(slots.start), last: Slot(slots.end - 1) }
        });
        Ok(Self { partitions: partitions.collect(), by_hash, known, column: None })
    }

    /// Parses partitions from `A=30,B=20`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let partitions: Result<Vec<_>, _> = text.split(',').map(blocks::parse_weight).collect();
        Self::new(partitions?)
    }

    pub(super) fn restore(parameters: &str) -> Result<Self, String> {
        let read: Parameters<'_> =
            serde_json::from_str(parameters).map_err(|error| error.to_string())?;
        let partitions = read.partitions.into_iter().map(|(name, weight)| (name.into(), weight));
        Self::new(partitions.collect())?.with_column(read.column.as_deref())
    }

    /// Returns these partitions for a keyspace in which a column of the row, not the shard key,
    /// names the partition.
    ///
    /// # Errors
    /// Reason why the column cannot be used, as a clause.
    pub(super) fn with_column(self, column: Option<&str>) -> Result<Self, String> {
        column.map_or(Ok(()), partition_column::check_name)?;
        Ok(Self { column: column.map(Arc::from), ..self })
    }

    pub(super) fn parameters(&self) -> String {
        let partitions = self.partitions.iter().map(|part| ((&*part.name).into(), part.weight));
        let parameters = Parameters {
            partitions: partitions.collect(),
            seed: 0,
            column: self.column.as_deref().map(Into::into),
        };
        serde_json::to_string(&parameters).expect("names and numbers always serialise")
    }

    /// Returns the partitions in the given order.
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// Returns the column that names the partition of a row; `None` if the prefix of the shard key
    /// names it.
    pub fn column(&self) -> Option<&Arc<str>> {
        self.column.as_ref()
    }

    /// Returns the names of the partitions, at most [`NAMES_SHOWN_MAX`] of them.
    pub(super) fn known(&self) -> Arc<str> {
        Arc::clone(&self.known)
    }

    pub(super) fn slot_of(&self, key: &str) -> Result<Slot, KeyError> {
        Ok(self.partition_of(key)?.slot_of(key))
    }

    pub(super) fn explain(&self, key: &str) -> Result<RoutingStep<'static>, KeyError> {
        Ok(self.partition_of(key)?.explain())
    }

    /// Returns the partition with this name.
    pub(super) fn partition_named(&self, name: &str) -> Result<&Partition, KeyError> {
        self.find(name).ok_or_else(|| {
            let column = self.column.clone().unwrap_or_default();
            PartitionError::Unknown { column, known: self.known() }.into()
        })
    }

    fn partition_of(&self, key: &str) -> Result<&Partition, KeyError> {
        let found = key.split_once(':').and_then(|(name, _)| self.find(name));
        found.ok_or_else(|| KeyError::NoSuchPartition { known: Arc::clone(&self.known) })
    }

    fn find(&self, name: &str) -> Option<&Partition> {
        let wanted = hash(name);
        let first = self.by_hash.partition_point(|(hash, _)| *hash < wanted);
        let same = self.by_hash[first..].iter().take_while(|(hash, _)| *hash == wanted);
        let mut same = same.map(|(_, index)| &self.partitions[usize::from(*index)]);
        same.find(|partition| *partition.name == *name)
    }
}

/// Formats the keyspace as it is written in the configuration.
impl fmt::Display for ListSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.column {
            Some(column) => write!(f, "list({column}):")?,
            None => f.write_str("list:")?,
        }
        for (index, partition) in self.partitions.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}={}", partition.name, partition.weight)?;
        }
        Ok(())
    }
}
