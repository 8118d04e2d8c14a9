//! Manual: ranges of slots and their owners, as the operator lists them.
//!
//! Source: the command `CLUSTER ADDSLOTSRANGE` of Redis Cluster. Any assignment can be expressed:
//! the map of another cluster, a shard without slots, a shard with a single hot slot. Nothing is
//! computed, so the operator must balance the shards, and must change the ranges when a shard is
//! added or removed.
//!
//! **Invariant:** the ranges are in ascending order, and every slot is in exactly one of them.
//! **Not here:** ranges of keys (the keyspace `range`).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{PlacementError, finder};
use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardNumber, Topology};

/// Ranges of slots and their owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manual {
    ranges: Vec<OwnedRange>,
}

/// Range of slots: first slot, last slot, name of the owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct OwnedRange(u16, u16, Box<str>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    ranges: Vec<OwnedRange>,
}

impl Manual {
    /// Creates the placement from ranges, which may be in any order.
    fn new(mut ranges: Vec<OwnedRange>) -> Result<Self, String> {
        ranges.sort_unstable();
        let mut next = 0;
        for OwnedRange(first, last, _) in &ranges {
            if last < first {
                return Err(format!("the range {first}-{last} ends before it begins"));
            }
            if *last >= SLOT_COUNT {
                return Err(format!("the last slot is {}, not {last}", SLOT_COUNT - 1));
            }
            if *first > next {
                return Err(format!("no shard owns the slots {next} to {}", first - 1));
            }
            if *first < next {
                return Err(format!("slot {first} has two owners"));
            }
            next = last + 1;
        }
        if next < SLOT_COUNT {
            return Err(format!("no shard owns the slots {next} to {}", SLOT_COUNT - 1));
        }
        Ok(Self { ranges })
    }

    /// Parses `0-5461=shard1,5462-16383=shard2`; `7=shard1` is one slot.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(|part| {
            let bad = || format!("`{}` is not FIRST-LAST=SHARD", part.trim());
            let (slots, shard) = part.split_once('=').ok_or_else(bad)?;
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            let number = |text: &str| text.trim().parse().map_err(|_| bad());
            Ok(OwnedRange(number(first)?, number(last)?, shard.trim().into()))
        });
        Self::new(parts.collect::<Result<_, String>>()?)
    }

    pub(super) fn restore(parameters: &str) -> Result<Self, String> {
        let read: Result<Parameters, _> = serde_json::from_str(parameters);
        Self::new(read.map_err(|error| error.to_string())?.ranges)
    }

    pub(super) fn parameters(&self) -> String {
        let parameters = Parameters { ranges: self.ranges.clone() };
        serde_json::to_string(&parameters).expect("names and numbers always serialise")
    }

    pub(super) fn assign(&self, topology: &Topology) -> Result<Vec<ShardNumber>, PlacementError> {
        let mut owners = Vec::with_capacity(usize::from(SLOT_COUNT));
        let find = finder(topology);
        for OwnedRange(_, last, shard) in &self.ranges {
            owners.resize(usize::from(*last) + 1, find(shard)?);
        }
        Ok(owners)
    }
}

/// Formats the placement as it is written in the configuration.
impl fmt::Display for Manual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("manual:")?;
        for (index, OwnedRange(first, last, shard)) in self.ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{first}-{last}={shard}")?;
        }
        Ok(())
    }
}
