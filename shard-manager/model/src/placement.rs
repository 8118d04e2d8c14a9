//! Placement: the function from a topology to the owner of every slot.
//!
//! A placement is a rule that is applied when a cluster or a table group is created, or when an
//! operator rebalances by it. The resulting table of owners is stored in the catalog, and only that
//! table determines where a slot is.
//!
//! **Invariant:** the table has exactly [`SLOT_COUNT`] owners, all of them shards of the topology.
//! It depends on the rule and the topology alone, and is identical on every machine and in every
//! release; tests compare it with fixed results.
//! **Not here:** the present table and its epoch (`shard_map`); no I/O, no clock, no `async`.

mod contiguous;
mod jump;
pub mod manual;
mod mixer;
mod modulo;
pub mod partitions;
mod rebalance;
mod rendezvous;
pub mod ring;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::keyspace::{Keyspace, SLOT_COUNT};
use crate::topology::{ShardNumber, Topology};
use manual::Manual;
use partitions::Partitions;

pub use rebalance::rebalance;
pub(crate) use rebalance::targets as slot_targets;

/// Rule that assigns slots to shards. Clones share the parameters, so cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Contiguous ranges whose sizes differ by at most one slot. Weights are ignored, except that a
    /// shard of weight 0 gets no slots (`placement/contiguous.rs`).
    #[default]
    Even,
    /// Contiguous ranges in proportion to the shards' weights, each within one slot of its share.
    Weighted,
    /// Named blocks of slots, each with the shard that owns it ([`partitions`]).
    Partitions(Arc<Partitions>),
    /// Slot number modulo the number of shards (`placement/modulo.rs`).
    Modulo,
    /// Consistent hashing ([`ring`]).
    Ring {
        /// Number of points of a shard on the ring for each unit of its weight.
        vnodes: u32,
    },
    /// Weighted rendezvous hashing (`placement/rendezvous.rs`).
    Rendezvous,
    /// Jump consistent hashing (`placement/jump.rs`).
    Jump,
    /// Ranges of slots and their owners, as the configuration lists them ([`manual`]).
    Manual(Arc<Manual>),
}

impl Placement {
    /// Names of all placements, for messages and help.
    pub const NAMES: [&str; 8] =
        ["even", "weighted", "partitions", "modulo", "ring", "rendezvous", "jump", "manual"];

    /// Forms of a placement in the configuration.
    pub const FORMS: &str = "even, weighted, modulo, ring or ring:VNODES, rendezvous, jump, \
        partitions:NAME=WEIGHT>SHARD,… or manual:FIRST-LAST=SHARD,…";

    /// Returns the name used in the catalog and in responses.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Even => "even",
            Self::Weighted => "weighted",
            Self::Partitions(_) => "partitions",
            Self::Modulo => "modulo",
            Self::Ring { .. } => "ring",
            Self::Rendezvous => "rendezvous",
            Self::Jump => "jump",
            Self::Manual(_) => "manual",
        }
    }

    /// Returns true if the weight of a shard determines how many slots it gets. Every placement but
    /// `partitions` and `manual` also gives a shard of weight 0 no slots.
    pub fn is_weighted(&self) -> bool {
        match self {
            Self::Weighted | Self::Ring { .. } | Self::Rendezvous => true,
            Self::Even | Self::Partitions(_) | Self::Modulo | Self::Jump | Self::Manual(_) => false,
        }
    }

    /// Returns the parameters as JSON, for the catalog.
    pub fn parameters(&self) -> String {
        match self {
            Self::Even | Self::Weighted | Self::Modulo | Self::Rendezvous | Self::Jump => {
                "{}".to_owned()
            }
            Self::Partitions(partitions) => partitions.parameters(),
            Self::Ring { vnodes } => format!(r#"{{"vnodes":{vnodes}}}"#),
            Self::Manual(manual) => manual.parameters(),
        }
    }

    /// Restores a placement from the catalog.
    ///
    /// # Errors
    /// [`PlacementError`] if the name is unknown, or if this program would have stored the
    /// parameters in another form.
    pub fn restore(name: &str, parameters: &str) -> Result<Self, PlacementError> {
        let bad = |cause| PlacementError::Parameters { placement: name.to_owned(), cause };
        let placement = match name {
            "partitions" => {
                Self::Partitions(Arc::new(Partitions::restore(parameters).map_err(bad)?))
            }
            "ring" => Self::Ring { vnodes: ring::restore(parameters).map_err(bad)? },
            "manual" => Self::Manual(Arc::new(Manual::restore(parameters).map_err(bad)?)),
            plain => plain.parse()?,
        };
        if placement.name() != name {
            return Err(PlacementError::Unknown(name.to_owned()));
        }
        if placement.parameters() != parameters {
            return Err(bad(format!("they should be {}", placement.parameters())));
        }
        Ok(placement)
    }

    /// Returns the owner of every slot, by slot number.
    ///
    /// # Errors
    /// [`PlacementError`] if the placement names shards that the topology does not have, or if its
    /// ring would have too many points.
    pub fn assign(&self, topology: &Topology) -> Result<Vec<ShardNumber>, PlacementError> {
        let owners = match self {
            Self::Even => {
                contiguous::assign(topology.share_weights().iter().map(|w| u64::from(*w > 0)))
            }
            Self::Weighted => {
                contiguous::assign(topology.share_weights().iter().map(|w| u64::from(*w)))
            }
            Self::Partitions(partitions) => partitions.assign(topology)?,
            Self::Modulo => modulo::assign(topology),
            Self::Ring { vnodes } => ring::assign(*vnodes, topology)?,
            Self::Rendezvous => rendezvous::assign(topology),
            Self::Jump => jump::assign(topology),
            Self::Manual(manual) => manual.assign(topology)?,
        };
        assert_eq!(owners.len(), usize::from(SLOT_COUNT), "every slot has one owner");
        Ok(owners)
    }
}

/// Explains why keyspace and placement contradict each other, in a sentence that names both
/// settings; `None` if they are compatible.
///
/// The placement `partitions` assigns the partitions of the keyspace `list` to shards. If the
/// keyspace has other partitions, or none, the names in the placement have no meaning.
pub fn contradiction(keyspace: &Keyspace, placement: &Placement) -> Option<String> {
    let Placement::Partitions(partitions) = placement else { return None };
    match keyspace {
        Keyspace::List(list) if partitions.are_blocks_of(list) => None,
        Keyspace::List(list) => Some(format!(
            "keyspace {list} and placement {partitions} have other partitions: give both the same names and \
             weights, in the same order"
        )),
        Keyspace::Hash | Keyspace::Modulo | Keyspace::Range(_) | Keyspace::Matrix(_) => {
            Some(format!(
                "placement {partitions} says where the partitions of keyspace list lie, and keyspace {} has none: \
                 use keyspace list with the same names and weights, or another placement",
                keyspace.name()
            ))
        }
    }
}

/// Formats the placement as it is written in the configuration.
impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Even | Self::Weighted | Self::Modulo | Self::Rendezvous | Self::Jump => {
                f.write_str(self.name())
            }
            Self::Partitions(partitions) => partitions.fmt(f),
            Self::Ring { vnodes } => write!(f, "ring:{vnodes}"),
            Self::Manual(manual) => manual.fmt(f),
        }
    }
}

impl FromStr for Placement {
    type Err = PlacementError;

    fn from_str(text: &str) -> Result<Self, PlacementError> {
        let (name, parameters) = match text.split_once(':') {
            Some((name, parameters)) => (name, Some(parameters)),
            None => (text, None),
        };
        let given = parameters.unwrap_or_default();
        let placement = match (name, parameters) {
            ("even", None) => Ok(Self::Even),
            ("weighted", None) => Ok(Self::Weighted),
            ("modulo", None) => Ok(Self::Modulo),
            ("rendezvous", None) => Ok(Self::Rendezvous),
            ("jump", None) => Ok(Self::Jump),
            ("partitions", _) => Partitions::parse(given).map(|p| Self::Partitions(Arc::new(p))),
            ("ring", _) => ring::parse(parameters).map(|vnodes| Self::Ring { vnodes }),
            ("manual", _) => Manual::parse(given).map(|manual| Self::Manual(Arc::new(manual))),
            ("even" | "weighted" | "modulo" | "rendezvous" | "jump", Some(_)) => {
                Err("there are none".to_owned())
            }
            (_, _) => return Err(PlacementError::Unknown(name.to_owned())),
        };
        placement.map_err(|cause| PlacementError::Parameters { placement: name.to_owned(), cause })
    }
}

/// Reason why a string is not a placement, or why a placement cannot assign owners.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// The name of the placement is unknown.
    #[error("`{0}` is not a placement; there are: {names}", names = Placement::NAMES.join(", "))]
    Unknown(String),
    /// The name is known, but the parameters are invalid.
    #[error("the parameters of placement {placement} cannot be used: {cause}")]
    Parameters {
        /// Name of the placement.
        placement: String,
        /// Description of the fault, as a clause.
        cause: String,
    },
    /// The placement assigns slots to a shard that does not exist.
    #[error("the placement names {shard}, which is none of the {count} shards of the cluster")]
    NoSuchShard {
        /// The name.
        shard: String,
        /// Number of shards of the cluster.
        count: usize,
    },
    /// The sum of all weights, multiplied by the number of virtual nodes, is too large.
    #[error(
        "the ring would have {points} points, and at most {} are allowed: use smaller weights or fewer virtual nodes",
        ring::POINTS_MAX
    )]
    TooManyPoints {
        /// Number of points that the ring would have.
        points: u64,
    },
}

/// Returns the shards that get slots, in order: those with a share weight above 0.
fn takers(topology: &Topology) -> Vec<ShardNumber> {
    let numbered = (0..).map(ShardNumber).zip(topology.share_weights());
    numbered.filter(|(_, weight)| *weight > 0).map(|(number, _)| number).collect()
}

/// Returns a function that finds shards by name. It uses a map, because a placement may name a
/// shard for each slot, and a linear search for each would be slow.
fn finder(topology: &Topology) -> impl Fn(&str) -> Result<ShardNumber, PlacementError> {
    let name = |shard| (topology.name(shard), shard);
    let shards: BTreeMap<&str, ShardNumber> = topology.numbers().map(name).collect();
    move |shard| {
        shards.get(shard).copied().ok_or_else(|| PlacementError::NoSuchShard {
            shard: shard.to_owned(),
            count: shards.len(),
        })
    }
}
