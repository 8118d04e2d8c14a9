//! Moves: the interface of a manager that begins moves of slots, lists them, and accepts orders for
//! them.
//!
//! A move that was begun is a record in the catalog. The process that carries out moves finds it
//! there, so a move continues even if the router that began it ends.
//!
//! **Not here:** the steps of a move (`mover`), the rules of orders (`engine::move_record`), the
//! disk space and the connections of a move (`move_resources`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use engine::move_catalog::{MoveCatalog, MoveListError};
use engine::move_draft::{DraftSlots, MoveDraft};
use engine::move_record::{MoveOrder, MovePhase, MoveRecord, NewMove, NewMoveFault};
use engine::move_view::MoveView;
use engine::rebalance_record::RebalanceId;
use engine::refusal_code::RefusalCode;
use model::error::Error;
use model::keyspace::{KeyError, ShardKey, Slot};
use model::sabotage::{StopTime, reach};
use model::shard_map::{ShardMap, partitions};
use model::slot_set::{SlotSet, SlotSetError, check_known};
use model::table::{Registry, Table};
use model::topology::{ShardNumber, ShardState};
use moves::identity::MoveId;
use moves::limits::KEEP;

use super::Manager;
use super::move_resources::MoveResources;
use super::move_status::MoveTotals;
use super::shards::epoch_to_retry;
use super::time_limits::{by, halfway, read_by};
use crate::shard::Majority;

/// Maximum number of attempts to begin a move while the shard map changes.
const TRIES_MAX: usize = 16;
/// Longest wait for a shard map with the expected epoch.
const UPDATE_MAX: Duration = Duration::from_secs(2);
/// Maximum number of characters of a name that a refusal repeats.
pub(super) const NAME_SHOWN_MAX: usize = 80;

/// Interface of a [`Manager`] for moves of slots.
#[derive(Clone, Copy)]
pub struct Moves<'m>(pub(super) &'m Manager);

/// Reason why a move was not begun, or an order was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MovesError {
    /// The description is out of bounds.
    #[error(transparent)]
    New(#[from] NewMoveFault),
    /// The cluster has no shard with this number.
    #[error("there is no shard of number {}", .0.0)]
    NoShard(ShardNumber),
    /// The cluster has no shard of this name.
    #[error("the cluster has no shard `{0}`")]
    NoShardNamed(String),
    /// The shard key is not valid, so it has no slot.
    #[error("key: {0}")]
    Key(KeyError),
    /// The keyspace needs a partition, but none is given, or the given value is not one.
    #[error("partition: {0}")]
    Partition(KeyError),
    /// A partition is given where the shard key alone determines the slot.
    #[error("partition: the slot of this key depends on no column, so leave it out")]
    NoPartitions,
    /// The cluster has no table of this name.
    #[error("table: there is no table `{0}`")]
    NoTable(String),
    /// Several shards own the slots.
    #[error("the slots belong to {0}: a move takes slots of one shard, so begin one for each")]
    SeveralOwners(String),
    /// The move cannot be retried: it is in progress, or has ended with the slots on the target.
    #[error("the move is {}: a move that was cancelled, rolled back or has failed is retried", .0.name())]
    NoRetry(MovePhase),
    /// The source does not own some of the slots.
    #[error("{shard} does not own the slots {slots}")]
    NotOwned {
        /// Name of the source.
        shard: String,
        /// Slots that it does not own.
        slots: SlotSet,
    },
    /// The cluster has no such slot.
    #[error("slots: {0}")]
    NoSlot(SlotSetError),
    /// The target is not a shard of the slots' group.
    #[error("{shard} is not a shard of group {group}, to which some of the slots belong")]
    OtherGroup {
        /// Name of the target.
        shard: String,
        /// Name of the group.
        group: String,
    },
    /// The target is in a state in which it may not receive slots.
    #[error("{shard} is {}: only a serving shard gets slots", state.name())]
    NotServing {
        /// Name of the target.
        shard: String,
        /// State of the target.
        state: ShardState,
    },
    /// One of the shards is not open on this router.
    #[error("{shard} is not open on this router: try again, or on another router")]
    NotOpen {
        /// Name of the shard.
        shard: String,
    },
    /// Too few replicas of a shard follow its primary.
    #[error(
        "replicas of {shard} must follow its primary, and {found} of {needed} do: a failover \
         could undo the move"
    )]
    NoMajority {
        /// Name of the shard.
        shard: String,
        /// Number of replicas that are needed.
        needed: usize,
        /// Number of replicas that follow.
        found: usize,
    },
    /// Routers that are too old to take part in a move are connected. The value is their number.
    #[error(
        "routers that are too old to take part in a move are connected to the catalog ({0}): end \
         them, or start them with the version of this router"
    )]
    OlderRouters(u64),
    /// The disk of the target has too little room for the rows.
    #[error(
        "the rows of the slots need about {needed} bytes on the disk of {shard}, which has {free} \
         left: free some, or move fewer slots"
    )]
    NoRoom {
        /// Name of the target; names of all targets of a plan that share the disk.
        shard: String,
        /// Estimated bytes of the rows on all of its nodes.
        needed: u64,
        /// Free bytes.
        free: u64,
    },
    /// The server of a shard has too few free connections.
    #[error(
        "{shard} has {free} free connections, and the move takes up to {needed} more: raise {limit}"
    )]
    NoConnections {
        /// Name of the shard.
        shard: String,
        /// Maximum number of connections that movers open in addition to those that they already
        /// have.
        needed: u64,
        /// Number of free connections.
        free: u64,
        /// Server setting that limits the number of connections.
        limit: &'static str,
    },
    /// The catalog did not accept the move or the order.
    #[error(transparent)]
    List(#[from] MoveListError),
    /// The engine distributes rows by itself.
    #[error("this cluster distributes its rows itself")]
    Unsupported,
}

impl Manager {
    /// Returns the interface for moves of slots.
    pub fn moves(&self) -> Moves<'_> {
        Moves(self)
    }
}

impl MovesError {
    /// Returns the refusal of a table that does not exist.
    pub fn no_table(name: &str) -> Self {
        Self::NoTable(name.chars().take(NAME_SHOWN_MAX).collect())
    }

    /// Returns the public code; `None` if the catalog cannot be used.
    pub fn code(&self) -> Option<RefusalCode> {
        Some(match self {
            Self::New(_)
            | Self::Key(_)
            | Self::Partition(_)
            | Self::NoPartitions
            | Self::NoTable(_)
            | Self::SeveralOwners(_)
            | Self::NoSlot(_)
            | Self::OtherGroup { .. } => RefusalCode::BadMove,
            Self::NoShard(_) | Self::NoShardNamed(_) => RefusalCode::NoShard,
            Self::NoRetry(_) => RefusalCode::MoveState,
            Self::NotOwned { .. } => RefusalCode::NotOwner,
            Self::NotServing { .. }
            | Self::NotOpen { .. }
            | Self::NoMajority { .. }
            | Self::OlderRouters(_)
            | Self::NoRoom { .. }
            | Self::NoConnections { .. } => RefusalCode::ShardState,
            Self::List(error) => return RefusalCode::of_listed_move(error),
            Self::Unsupported => RefusalCode::PlacedByEngine,
        })
    }
}

impl<'m> Moves<'m> {
    /// Begins a move, and returns its record as the catalog lists it. If an epoch is expected, the
    /// shard map must have it.
    ///
    /// # Errors
    /// [`MovesError`]. Only with [`MoveListError::Failed`] may the move have begun despite the
    /// error.
    pub async fn begin(
        self,
        new: NewMove,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<MoveRecord, MovesError> {
        self.begin_as((None, |_| Ok(new.clone())), expected_epoch, deadline).await
    }

    /// Begins a move that is a part of a rebalance, as [`Moves::begin`] does, if the rebalance is
    /// still in progress.
    pub(super) async fn begin_of(
        self,
        rebalance: RebalanceId,
        new: NewMove,
        deadline: Instant,
    ) -> Result<MoveRecord, MovesError> {
        self.begin_as((Some(rebalance), |_| Ok(new.clone())), None, deadline).await
    }

    /// Begins the move that an operator describes, as [`Moves::begin`] does.
    ///
    /// # Errors
    /// [`MovesError`]. Only with [`MoveListError::Failed`] may the move have begun despite the
    /// error.
    pub async fn begin_draft(
        self,
        draft: &MoveDraft,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<MoveRecord, MovesError> {
        let describe = |map: &ShardMap| new_move(map, &self.0.registry.load(), draft);
        self.begin_as((None, describe), expected_epoch, deadline).await
    }

    /// Begins a new move with the description of one that has ended with its slots still on the
    /// source.
    ///
    /// # Errors
    /// [`MovesError`]. Only with [`MoveListError::Failed`] may the move have begun despite the
    /// error.
    pub async fn retry(
        self,
        id: MoveId,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<MoveRecord, MovesError> {
        let ended = read_by(deadline, self.get(id)).await?;
        if !ended.may_retry() {
            return Err(MovesError::NoRetry(ended.phase));
        }
        self.begin(ended.new, expected_epoch, deadline).await
    }

    /// Begins the move that `describe` returns for the newest map. If the map changes meanwhile,
    /// tries again, unless an epoch is expected.
    async fn begin_as(
        self,
        (rebalance, describe): (
            Option<RebalanceId>,
            impl Fn(&ShardMap) -> Result<NewMove, MovesError>,
        ),
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<MoveRecord, MovesError> {
        let catalog = self.catalog()?;
        let begin_once = async || {
            let map = self.map_of(expected_epoch, deadline).await?;
            let new = checked(&map, describe(&map)?)?;
            self.check_shard(new.source, &map)?;
            self.check_shard(new.target, &map)?;
            let soon = halfway(deadline);
            let resources = MoveResources::measure(self.0, &new, &map, soon).await;
            // Checked before the catalog is used, because a server without free connections accepts
            // none to its catalog either.
            resources.check()?;
            if let Some(refusal) = read_by(deadline, self.older_routers()).await? {
                return Err(refusal);
            }
            let mut record = MoveRecord { rebalance, ..MoveRecord::begin(new, Utc::now()) };
            record.progress.rows_expected = resources.rows_expected();
            let late = MoveListError::Failed(Error::DeadlinePassed);
            by(deadline, catalog.begin(&record, map.epoch()), late).await?;
            reach(StopTime::After, "plan");
            self.0.move_announcements.announce();
            Ok(record)
        };
        for _ in 1..TRIES_MAX {
            let begun = begin_once().await;
            let Err(MovesError::List(MoveListError::Stale { expected, epoch })) = &begun else {
                return begun;
            };
            let later = epoch_to_retry((*expected, *epoch), expected_epoch);
            let is_known = self.0.backend.update_map(later, deadline).await.is_ok();
            if expected_epoch.is_some() || !is_known {
                return begun;
            }
        }
        begin_once().await
    }

    /// Returns the newest map, which must have the expected epoch if one is given.
    pub(super) async fn map_of(
        self,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<Arc<ShardMap>, MovesError> {
        let shards = self.0.shards();
        let Some(expected) = expected_epoch else { return Ok(shards.newest_map()) };
        if shards.newest_map().epoch() < expected {
            // An error is ignored: the comparison of the epochs below then fails.
            let wait = deadline.min(Instant::now() + UPDATE_MAX);
            let _ = self.0.backend.update_map(expected, wait).await;
        }
        let map = shards.newest_map();
        if map.epoch() == expected {
            return Ok(map);
        }
        Err(MoveListError::Stale { expected, epoch: map.epoch() }.into())
    }

    /// Returns a move in the form in which responses and commands show it.
    pub fn view(self, record: &MoveRecord) -> MoveView {
        let name = |shard: ShardNumber| self.0.shard_name(shard).to_owned();
        MoveView::of(record, name, Utc::now())
    }

    /// Checks that a shard can take part in a move now.
    pub(super) fn check_shard(self, number: ShardNumber, map: &ShardMap) -> Result<(), MovesError> {
        let name = || map.topology().name(number).to_owned();
        let shard =
            self.0.shards().find(number).ok_or_else(|| MovesError::NotOpen { shard: name() })?;
        shard.primary().moves().ok_or(MovesError::Unsupported)?;
        let majority = Majority::of(&shard);
        let (needed, found) = (majority.needed(), majority.following());
        if found < needed {
            return Err(MovesError::NoMajority { shard: name(), needed, found });
        }
        Ok(())
    }

    /// Returns the error with which every move is refused while routers that are too old for moves
    /// are connected; `None` if none are.
    pub(super) async fn older_routers(self) -> Result<Option<MovesError>, MovesError> {
        let older = self.catalog()?.older_routers().await.map_err(MoveListError::Unread)?;
        Ok((older > 0).then_some(MovesError::OlderRouters(older)))
    }

    /// Returns all moves that have not ended, and the most recent ones that have, the latest first.
    ///
    /// # Errors
    /// [`MovesError::Unsupported`], or the error of the catalog.
    pub async fn list(self) -> Result<Vec<MoveRecord>, MovesError> {
        Ok(self.catalog()?.list().await.map_err(MoveListError::Unread)?)
    }

    /// Returns a move.
    ///
    /// # Errors
    /// [`MoveListError::NoMove`], or the error of the catalog.
    pub async fn get(self, id: MoveId) -> Result<MoveRecord, MovesError> {
        let found = self.catalog()?.get(id).await.map_err(MoveListError::Unread)?;
        Ok(found.ok_or(MoveListError::NoMove)?)
    }

    /// Stores an order for a move in the catalog, and returns the changed record of the move.
    ///
    /// # Errors
    /// [`MovesError::List`].
    pub async fn order(self, id: MoveId, order: MoveOrder) -> Result<MoveRecord, MovesError> {
        let ordered = self.catalog()?.order(id, order).await?;
        self.0.move_announcements.announce_order();
        Ok(ordered)
    }

    /// Returns the moves that have not ended, as this process last read them from the catalog; none
    /// while another process carries out moves.
    pub fn open_here(self) -> Vec<MoveRecord> {
        self.0.move_status.open()
    }

    /// Returns the counts of the work that this process has done for moves.
    pub fn totals(self) -> MoveTotals {
        self.0.move_status.totals()
    }

    fn catalog(self) -> Result<&'m dyn MoveCatalog, MovesError> {
        self.0.backend.move_catalog().ok_or(MovesError::Unsupported)
    }
}

/// Returns the move that a draft describes.
fn new_move(map: &ShardMap, tables: &Registry, draft: &MoveDraft) -> Result<NewMove, MovesError> {
    let number = |name: &str| {
        map.topology().find(name).ok_or_else(|| MovesError::NoShardNamed(name.to_owned()))
    };
    let slots = match &draft.slots {
        DraftSlots::Set(slots) => {
            check_known(slots, map.groups().slot_count()).map_err(MovesError::NoSlot)?;
            slots.clone()
        }
        DraftSlots::OfKey { key, table, partition } => {
            let find = |name: &String| tables.find(name).ok_or_else(|| MovesError::no_table(name));
            let table = table.as_ref().map(find).transpose()?;
            let slot = slot_of_key(map, key, table.map(|table| &**table), partition.as_deref())?;
            [slot].into_iter().collect()
        }
    };
    let target = number(&draft.to)?;
    let source = match &draft.from {
        Some(name) => number(name)?,
        None => owner(map, &slots)?,
    };
    let keep = draft.keep.map_or(KEEP, Duration::from_secs);
    Ok(NewMove { slots, source, target, rate: draft.rate, keep })
}

/// Returns the slot of a shard key in `table`, or in the table group `main` if no table is given.
fn slot_of_key(
    map: &ShardMap,
    key: &str,
    table: Option<&Table>,
    partition: Option<&str>,
) -> Result<Slot, MovesError> {
    let has_partitions = match table {
        Some(table) => partitions::partition_column(map, table).is_some(),
        None => map.keyspace().column().is_some(),
    };
    if partition.is_some() && !has_partitions {
        return Err(MovesError::NoPartitions);
    }
    let key = ShardKey::parse(key).map_err(MovesError::Key)?;
    let found = partitions::explain(map, table, key, partition).map_err(|error| {
        let is_partition = matches!(error, KeyError::Partition(_));
        if is_partition { MovesError::Partition(error) } else { MovesError::Key(error) }
    });
    Ok(found?.slot)
}

/// Returns the shard that owns all of the slots.
fn owner(map: &ShardMap, slots: &SlotSet) -> Result<ShardNumber, MovesError> {
    let owners: BTreeSet<ShardNumber> = slots.iter().map(|slot| map.owner(slot)).collect();
    let names = || owners.iter().map(|owner| map.topology().name(*owner)).collect::<Vec<_>>();
    match owners.first() {
        Some(owner) if owners.len() == 1 => Ok(*owner),
        Some(_) => Err(MovesError::SeveralOwners(names().join(", "))),
        None => Err(NewMoveFault::SlotCount(0).into()),
    }
}

/// Checks a move against the shards and the owners of its slots.
fn checked(map: &ShardMap, new: NewMove) -> Result<NewMove, MovesError> {
    new.check()?;
    let member = |number| {
        let found = map.topology().members().find(|(member, _)| *member == number);
        found.map(|(_, shard)| shard).ok_or(MovesError::NoShard(number))
    };
    let (source, target) = (member(new.source)?, member(new.target)?);
    if target.state != ShardState::Serving {
        let (shard, state) = (target.name.clone(), target.state);
        return Err(MovesError::NotServing { shard, state });
    }
    check_known(&new.slots, map.groups().slot_count()).map_err(MovesError::NoSlot)?;
    if let Some(group) = map.groups().forbids(&new.slots, new.target) {
        let (shard, group) = (target.name.clone(), group.name.clone());
        return Err(MovesError::OtherGroup { shard, group });
    }
    let slots: SlotSet = new.slots.iter().filter(|slot| map.owner(*slot) != new.source).collect();
    if !slots.is_empty() {
        return Err(MovesError::NotOwned { shard: source.name.clone(), slots });
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_a_state_of_the_shard_and_named_with_both_sizes() {
        let refused = MovesError::NoRoom { shard: "shard2".to_owned(), needed: 900, free: 7 };
        assert_eq!(refused.code(), Some(RefusalCode::ShardState));
        let sentence = refused.to_string();
        assert!(["shard2", "900", "7"].iter().all(|part| sentence.contains(part)), "{sentence}");
    }
}
