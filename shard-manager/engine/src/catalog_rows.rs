//! Catalog rows: the form in which the tables of a catalog store the shard map.
//!
//! **Invariant:** a map that is stored and read again is unchanged.
//! **Not here:** the statements (`sqlite::catalog`, `postgres::catalog`), the catalog's one row
//! with the settings of the cluster (`cluster_spec`).

use diesel::prelude::*;
use model::error::Error;
use model::map_change::{MapChange, MapChangeRefusal};
use model::position::Position;
use model::shard_map::{ShardMap, SlotOwner};
use model::slot_set::SlotSet;
use model::topology::{ShardNumber, ShardSpec, ShardState, Topology};

use super::system_tables::tessera_shards;

/// Constant group name in the rows of all slots, whatever their table group: the number of a slot
/// already determines its group.
pub const GROUP: &str = "main";

/// Row of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Insertable, AsChangeset)]
#[diesel(table_name = tessera_shards)]
pub struct ShardRow {
    /// Number of the shard, primary key.
    pub number: i64,
    /// Name.
    pub name: String,
    /// Weight.
    pub weight: i64,
    /// Name of the state.
    pub state: String,
    /// Address of its servers, without user and password; `None` for files.
    pub address: Option<String>,
}

impl ShardRow {
    /// Returns one row for each shard of a topology, in the order of the shard numbers, with the
    /// address of the shard.
    pub fn of(topology: &Topology, addresses: &[Option<String>]) -> Vec<Self> {
        let addresses = addresses.iter().cloned().chain(std::iter::repeat(None));
        let rows = (0..).zip(topology.shards()).zip(addresses);
        rows.map(|((number, shard), address)| Self::with(number, shard, address)).collect()
    }

    fn with(number: i64, shard: &ShardSpec, address: Option<String>) -> Self {
        let (name, weight) = (shard.name.clone(), i64::from(shard.weight));
        Self { number, name, weight, state: shard.state.name().to_owned(), address }
    }
}

/// Restores the topology from the rows of all shards, in the order of their numbers.
///
/// # Errors
/// A description of the damage.
pub fn topology(rows: &[ShardRow]) -> Result<Topology, String> {
    let shard = |(number, row): (i64, &ShardRow)| {
        if row.number != number {
            return Err(format!("tessera_shards lacks the shard with the number {number}"));
        }
        let state = ShardState::parse(&row.state);
        let state = state.ok_or_else(|| format!("{} has an unknown state", row.name))?;
        let weight = u32::try_from(row.weight);
        let weight = weight.map_err(|_| format!("the weight of {} is out of range", row.name))?;
        Ok(ShardSpec { name: row.name.clone(), weight, state })
    };
    let shards: Result<Vec<ShardSpec>, String> = (0..).zip(rows).map(shard).collect();
    Topology::restore(shards?).map_err(|error| error.to_string())
}

/// Reads the owner of a slot from the columns `slot`, `shard` and `since`; `None` if a number is
/// out of range.
pub fn slot_owner(slot: i64, shard: i64, since: i64) -> Option<SlotOwner> {
    let shard = ShardNumber(u16::try_from(shard).ok()?);
    Some(SlotOwner { slot: u16::try_from(slot).ok()?, shard, since: u64::try_from(since).ok()? })
}

/// Rows that a change of the map stores in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapStep {
    /// The next map.
    pub map: ShardMap,
    /// Row of the shard that is new or has changed.
    pub shard: Option<ShardRow>,
    /// Slots that get another owner.
    pub owners: Option<OwnerStep>,
}

/// Slots that get another owner, and the owners before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerStep {
    /// The slots.
    pub slots: SlotSet,
    /// Their owner before.
    pub from: ShardNumber,
    /// Their owner afterwards.
    pub to: ShardNumber,
    /// Position of the new owner when it accepted the slots, if it is known.
    pub floor: Option<Position>,
}

impl MapStep {
    /// Returns the rows that a change of the stored map stores. `rows` are the present rows of its
    /// shards.
    ///
    /// # Errors
    /// [`MapChangeError`] if the epoch is not the expected one, or the map cannot be changed in
    /// this way.
    pub fn of(
        map: &ShardMap,
        rows: &[ShardRow],
        (change, expected_epoch): (&MapChange, u64),
    ) -> Result<Self, MapChangeError> {
        if map.epoch() != expected_epoch {
            return Err(MapChangeError::Stale { expected: expected_epoch, epoch: map.epoch() });
        }
        let next = change.apply(map)?;
        let mut owners = None;
        let number = match change {
            MapChange::Owners { slots, from, to, floor } => {
                let (slots, from, to, floor) = (slots.clone(), *from, *to, *floor);
                owners = Some(OwnerStep { slots, from, to, floor });
                None
            }
            MapChange::NewShard { .. } => Some(map.topology().len()),
            MapChange::State { shard, .. } | MapChange::Weight { shard, .. } => Some(shard.index()),
        };
        let shard = number.map(|number| {
            let known = rows.get(number).and_then(|row| row.address.clone());
            let address = match change {
                MapChange::NewShard { address, .. } => address.clone(),
                MapChange::Owners { .. } | MapChange::State { .. } | MapChange::Weight { .. } => {
                    known
                }
            };
            ShardRow::with(number as i64, &next.topology().shards()[number], address)
        });
        Ok(Self { map: next, shard, owners })
    }
}

/// Failure of a change of the shard map. Nothing was changed, except perhaps after
/// [`MapChangeError::Unknown`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapChangeError {
    /// Another change came first.
    #[error(
        "the shard map is at epoch {epoch}, not at {expected}: it has changed meanwhile; look at it again"
    )]
    Stale {
        /// Epoch that was expected.
        expected: u64,
        /// Epoch of the catalog.
        epoch: u64,
    },
    /// The map cannot be changed in this way.
    #[error(transparent)]
    Refused(#[from] MapChangeRefusal),
    /// The shard is the source or the target of a move that has not ended.
    #[error(
        "{shard} takes part in the move {move_name}: it is retired once that move has ended, so \
         wait for it, settle it or cancel it"
    )]
    InMove {
        /// Name of the shard.
        shard: String,
        /// Identity of the move.
        move_name: String,
    },
    /// The catalog cannot be used; nothing was changed.
    #[error("{0}")]
    Failed(Error),
    /// The connection was lost before the catalog confirmed the change.
    #[error("the outcome of the change is unknown: {0}")]
    Unknown(Error),
    /// The engine distributes rows by itself and its map never changes.
    #[error("this cluster distributes its rows itself: its shard map has one shard")]
    Unsupported,
}
