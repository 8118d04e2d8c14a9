//! Map change: one change of the shard map, which creates the map of the next epoch.
//!
//! **Invariant:** a change that [`MapChange::apply`] refuses is stored nowhere; a slot never gets
//! an owner that is joining or retired, and a shard that owns slots never becomes retired. No
//! change leaves the slots of a draining shard without a shard that could take them.
//! **Not here:** storing a map (the catalogs), the states of slots that each shard stores.

use crate::keyspace::Slot;
use crate::position::Position;
use crate::shard_map::{MapError, ShardMap, SlotOwner, followed_by};
use crate::slot_set::SlotSet;
use crate::topology::{ShardNumber, ShardSpec, ShardState, Topology, TopologyError};

/// Change of the shard map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapChange {
    /// Some slots get another owner.
    Owners {
        /// The slots, all of which have the same owner.
        slots: SlotSet,
        /// Owner of the slots before the change.
        from: ShardNumber,
        /// Owner of the slots after the change.
        to: ShardNumber,
        /// Position in the history of the new owner at which it accepted the slots, if it is known.
        floor: Option<Position>,
    },
    /// A new shard joins without slots. It gets the next shard number.
    NewShard {
        /// Name of the shard.
        name: String,
        /// Weight of the shard.
        weight: u32,
        /// Address of the shard's servers, without user and password; `None` for a shard on files.
        address: Option<String>,
    },
    /// A shard changes to another state of its life cycle.
    State {
        /// The shard.
        shard: ShardNumber,
        /// The next state.
        state: ShardState,
    },
    /// A shard gets another weight.
    Weight {
        /// The shard.
        shard: ShardNumber,
        /// The weight.
        weight: u32,
    },
}

/// Reason why a change does not apply to a map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapChangeRefusal {
    /// There is no such shard, or it is retired.
    #[error("there is no shard with the number {0}")]
    NoShard(u16),
    /// The change names no slots.
    #[error("no slots are named")]
    NoSlots,
    /// The slots do not belong to the shard.
    #[error("{shard} does not own the slots {slots}")]
    NotOwned {
        /// Name of the shard.
        shard: String,
        /// The slots that the shard does not own.
        slots: SlotSet,
    },
    /// The shard is still joining, so it cannot get slots.
    #[error("{shard} is {}: only a serving or draining shard gets slots", state.name())]
    NotServing {
        /// Name of the shard.
        shard: String,
        /// State of the shard.
        state: ShardState,
    },
    /// The name is not valid for a shard.
    #[error(
        "the name of a shard has 1 to {NAME_MAX} letters, digits, - and _, and begins with a letter"
    )]
    Name,
    /// A shard cannot change from its present state to the requested one.
    #[error("{shard} is {} and cannot become {}", from.name(), to.name())]
    State {
        /// Name of the shard.
        shard: String,
        /// State of the shard.
        from: ShardState,
        /// The next state.
        to: ShardState,
    },
    /// The shard still owns slots, so it cannot be retired.
    #[error("{shard} owns {slots} slots: a shard is retired when it owns none")]
    HasSlots {
        /// Name of the shard.
        shard: String,
        /// Number of its slots.
        slots: usize,
    },
    /// The database of the shard holds the catalog. No change can move the catalog, so the shard
    /// cannot be retired.
    #[error("{shard} holds the catalog of the cluster in its database: it cannot be retired")]
    HoldsCatalog {
        /// Name of the shard.
        shard: String,
    },
    /// The shards after the change would not be a valid topology.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The owners after the change would not be a valid map.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Maximum length of the name of a shard, in bytes.
const NAME_MAX: usize = 63;

impl MapChange {
    /// Returns the shard that this change retires; `None` if it retires none.
    pub fn retired(&self) -> Option<ShardNumber> {
        match self {
            Self::State { shard, state: ShardState::Retired } => Some(*shard),
            Self::State { .. }
            | Self::Owners { .. }
            | Self::NewShard { .. }
            | Self::Weight { .. } => None,
        }
    }

    /// Applies this change to a map and returns the map of the next epoch.
    ///
    /// # Errors
    /// [`MapChangeRefusal`] if the map cannot be changed in this way.
    pub fn apply(&self, map: &ShardMap) -> Result<ShardMap, MapChangeRefusal> {
        let epoch = map.epoch() + 1;
        let mut shards = map.topology().shards().to_vec();
        match self {
            Self::Owners { slots, from, to, floor: _ } => {
                check_owners(map, slots, (*from, *to))?;
                let slots = slots.iter().map(Slot::number);
                let changed = slots.map(|slot| SlotOwner { slot, shard: *to, since: epoch });
                return Ok(followed_by(map, epoch, map.topology().clone(), changed)?);
            }
            Self::NewShard { name, weight, address: _ } => {
                if !is_name(name) {
                    return Err(MapChangeRefusal::Name);
                }
                let state = ShardState::Joining;
                shards.push(ShardSpec { state, ..ShardSpec::new(name.clone(), *weight) });
            }
            Self::State { shard, state } => {
                check_state(map, *shard, *state)?;
                let changed = &mut shards[shard.index()];
                let has_served = changed.state == ShardState::Serving;
                changed.state = *state;
                if has_served {
                    check_takers(&shards)?;
                }
            }
            Self::Weight { shard, weight } => {
                member(map, *shard)?;
                shards[shard.index()].weight = *weight;
                if *weight == 0 {
                    check_takers(&shards)?;
                }
            }
        }
        Ok(followed_by(map, epoch, Topology::restore(shards)?, [])?)
    }
}

fn member(map: &ShardMap, shard: ShardNumber) -> Result<&ShardSpec, MapChangeRefusal> {
    let found = map.topology().members().find(|(number, _)| *number == shard);
    found.map(|(_, member)| member).ok_or(MapChangeRefusal::NoShard(shard.0))
}

/// Refuses shards of which some are draining and none could take their slots. The map of an older
/// catalog may have such shards, so topologies do not require this.
fn check_takers(shards: &[ShardSpec]) -> Result<(), TopologyError> {
    let takes = |shard: &ShardSpec| match shard.state {
        ShardState::Joining | ShardState::Serving => shard.weight > 0,
        ShardState::Draining | ShardState::Retired => false,
    };
    let is_draining = |shard: &ShardSpec| shard.state == ShardState::Draining;
    if shards.iter().any(is_draining) && !shards.iter().any(takes) {
        return Err(TopologyError::NoWeight);
    }
    Ok(())
}

fn check_owners(
    map: &ShardMap,
    slots: &SlotSet,
    (from, to): (ShardNumber, ShardNumber),
) -> Result<(), MapChangeRefusal> {
    let (source, target) = (member(map, from)?, member(map, to)?);
    // No new move to a draining shard begins, but the rollback of a move may return slots to it.
    if !matches!(target.state, ShardState::Serving | ShardState::Draining) {
        let (shard, state) = (target.name.clone(), target.state);
        return Err(MapChangeRefusal::NotServing { shard, state });
    }
    if slots.is_empty() {
        return Err(MapChangeRefusal::NoSlots);
    }
    let foreign: SlotSet = slots.iter().filter(|slot| map.owner(*slot) != from).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    Err(MapChangeRefusal::NotOwned { shard: source.name.clone(), slots: foreign })
}

fn check_state(
    map: &ShardMap,
    shard: ShardNumber,
    state: ShardState,
) -> Result<(), MapChangeRefusal> {
    let member = member(map, shard)?;
    let follows = matches!(
        (member.state, state),
        (ShardState::Joining, ShardState::Serving | ShardState::Retired)
            | (ShardState::Serving, ShardState::Draining | ShardState::Retired)
            | (ShardState::Draining, ShardState::Serving | ShardState::Retired)
    );
    if !follows {
        let (name, from) = (member.name.clone(), member.state);
        return Err(MapChangeRefusal::State { shard: name, from, to: state });
    }
    let slots = map.slots_of(shard).count();
    if state == ShardState::Retired && slots > 0 {
        return Err(MapChangeRefusal::HasSlots { shard: member.name.clone(), slots });
    }
    Ok(())
}

/// Returns true if a new shard may have this name. Names of shards are part of file names and HTTP
/// headers.
fn is_name(name: &str) -> bool {
    name.len() <= NAME_MAX
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}
