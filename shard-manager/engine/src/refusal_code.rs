//! Refusal code: the public code for a refused change of shards, slots, moves or rebalances. There
//! is one code for each kind of remedy.
//!
//! **Invariant:** a code stands for one remedy, and each refusal that an operator can remedy has a
//! code.
//! **Not here:** the explanations of the codes and their HTTP statuses (the router).

use std::fmt::Display;

use model::map_change::MapChangeRefusal;
use model::topology::TopologyError;

use super::catalog_rows::MapChangeError;
use super::move_catalog::MoveListError;
use super::new_shard::NewShardRefusal;
use super::node_distributor::DistributorError;
use super::rebalance_catalog::RebalanceListError;
use super::slot_change::SlotChangeError;

/// Kind of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// There is no shard of this name, or it has retired.
    NoShard,
    /// The name, the weight or the URL of a new shard cannot be used.
    BadShard,
    /// The database has rows, or belongs to another shard or cluster.
    DatabaseInUse,
    /// The server of the database does not answer.
    DatabaseUnreachable,
    /// The server or the database lacks something that a shard needs.
    DatabaseUnsuitable,
    /// The router has no user and password for the server.
    NoCredentials,
    /// The shard is not in a state that permits the change.
    ShardState,
    /// The shard map does not have the expected epoch.
    MapChanged,
    /// The slots or the duration of a requested fence cannot be used.
    BadFence,
    /// The engine distributes rows by itself.
    PlacedByEngine,
    /// The description of a move cannot be used.
    BadMove,
    /// The catalog lists no such move.
    NoMove,
    /// The move is not in a state that permits the order.
    MoveState,
    /// Another move already has some of the slots.
    SlotsMove,
    /// The source of a move does not own the slots.
    NotOwner,
    /// The description of a rebalance cannot be used.
    BadRebalance,
    /// The catalog lists no such rebalance.
    NoRebalance,
    /// The rebalance is not in a state that permits the order.
    RebalanceState,
    /// Another rebalance is in progress.
    RebalanceRuns,
    /// The engine distributes rows itself, and one of its requirements is not met.
    EngineNeeds,
    /// The cluster has no table group of this name.
    NoGroup,
}

impl RefusalCode {
    /// All kinds, in the order of their codes.
    pub const ALL: [Self; 21] = [
        Self::NoShard,
        Self::BadShard,
        Self::DatabaseInUse,
        Self::DatabaseUnreachable,
        Self::DatabaseUnsuitable,
        Self::NoCredentials,
        Self::ShardState,
        Self::MapChanged,
        Self::BadFence,
        Self::PlacedByEngine,
        Self::BadMove,
        Self::NoMove,
        Self::MoveState,
        Self::SlotsMove,
        Self::NotOwner,
        Self::BadRebalance,
        Self::NoRebalance,
        Self::RebalanceState,
        Self::RebalanceRuns,
        Self::EngineNeeds,
        Self::NoGroup,
    ];

    /// Returns the code.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoShard => "TSR320",
            Self::BadShard => "TSR321",
            Self::DatabaseInUse => "TSR322",
            Self::DatabaseUnreachable => "TSR323",
            Self::DatabaseUnsuitable => "TSR324",
            Self::NoCredentials => "TSR325",
            Self::ShardState => "TSR326",
            Self::MapChanged => "TSR327",
            Self::BadFence => "TSR328",
            Self::PlacedByEngine => "TSR329",
            Self::BadMove => "TSR330",
            Self::NoMove => "TSR331",
            Self::MoveState => "TSR332",
            Self::SlotsMove => "TSR333",
            Self::NotOwner => "TSR334",
            Self::BadRebalance => "TSR335",
            Self::NoRebalance => "TSR336",
            Self::RebalanceState => "TSR337",
            Self::RebalanceRuns => "TSR338",
            Self::EngineNeeds => "TSR341",
            Self::NoGroup => "TSR350",
        }
    }

    /// Returns the code for a shard that cannot join; `None` if the work failed after it had begun.
    pub fn of_new_shard(refusal: &NewShardRefusal) -> Option<Self> {
        Some(match refusal {
            NewShardRefusal::UrlUnexpected
            | NewShardRefusal::UrlMissing
            | NewShardRefusal::UrlInvalid(_)
            | NewShardRefusal::PasswordInUrl => Self::BadShard,
            NewShardRefusal::NoCredentials { .. } => Self::NoCredentials,
            NewShardRefusal::Unreachable { .. } => Self::DatabaseUnreachable,
            NewShardRefusal::Unsuitable { .. } => Self::DatabaseUnsuitable,
            NewShardRefusal::NotEmpty { .. }
            | NewShardRefusal::OtherCluster { .. }
            | NewShardRefusal::OtherShard { .. }
            | NewShardRefusal::Lost { .. } => Self::DatabaseInUse,
            NewShardRefusal::OtherAddress { .. } => Self::ShardState,
            NewShardRefusal::Unsupported => Self::PlacedByEngine,
            NewShardRefusal::Failed(_) => return None,
        })
    }

    /// Returns the code for a refused change of the shard map; `None` if the catalog cannot be
    /// used.
    pub fn of_map_change(error: &MapChangeError) -> Option<Self> {
        match error {
            MapChangeError::Stale { .. } => Some(Self::MapChanged),
            MapChangeError::Refused(refusal) => Some(Self::of_refused_map(refusal)),
            MapChangeError::InMove { .. } => Some(Self::ShardState),
            MapChangeError::Unsupported => Some(Self::PlacedByEngine),
            MapChangeError::Failed(_) | MapChangeError::Unknown(_) => None,
        }
    }

    fn of_refused_map(refusal: &MapChangeRefusal) -> Self {
        match refusal {
            MapChangeRefusal::NoShard(_) => Self::NoShard,
            MapChangeRefusal::Name
            | MapChangeRefusal::Topology(TopologyError::Weight { .. } | TopologyError::NoWeight) => {
                Self::BadShard
            }
            MapChangeRefusal::NoSlots | MapChangeRefusal::NotOwned { .. } => Self::BadFence,
            MapChangeRefusal::NotServing { .. }
            | MapChangeRefusal::State { .. }
            | MapChangeRefusal::HasSlots { .. }
            | MapChangeRefusal::HoldsCatalog { .. }
            | MapChangeRefusal::Topology(
                TopologyError::Count { .. } | TopologyError::NameTwice { .. },
            )
            | MapChangeRefusal::Map(_) => Self::ShardState,
        }
    }

    /// Returns the code for a move that was not listed or not changed; `None` if the catalog cannot
    /// be used.
    pub fn of_listed_move(error: &MoveListError) -> Option<Self> {
        match error {
            MoveListError::NoMove => Some(Self::NoMove),
            MoveListError::SlotsMove { .. } => Some(Self::SlotsMove),
            MoveListError::Stale { .. } => Some(Self::MapChanged),
            MoveListError::TooMany => Some(Self::ShardState),
            MoveListError::RebalanceNotRunning => Some(Self::RebalanceState),
            MoveListError::Superseded | MoveListError::Order(_) => Some(Self::MoveState),
            MoveListError::Unread(_) | MoveListError::Failed(_) => None,
        }
    }

    /// Returns the code for a rebalance that was not listed or not changed; `None` if the catalog
    /// cannot be used.
    pub fn of_listed_rebalance(error: &RebalanceListError) -> Option<Self> {
        match error {
            RebalanceListError::NoRebalance => Some(Self::NoRebalance),
            RebalanceListError::AlreadyRunning(_) => Some(Self::RebalanceRuns),
            RebalanceListError::Stale { .. } => Some(Self::MapChanged),
            RebalanceListError::Order(_) => Some(Self::RebalanceState),
            RebalanceListError::Failed(_) => None,
        }
    }

    /// Returns the code for a request that an engine did not carry out; `None` if the engine cannot
    /// be used.
    pub fn of_distributor(error: &DistributorError) -> Option<Self> {
        match error {
            DistributorError::BadRebalance { .. } => Some(Self::BadRebalance),
            DistributorError::BadNode { .. } => Some(Self::BadShard),
            DistributorError::NoNode(_) => Some(Self::NoShard),
            DistributorError::NodeState(_) => Some(Self::ShardState),
            DistributorError::NewNode(refusal) => Self::of_new_shard(refusal),
            DistributorError::Need(_) => Some(Self::EngineNeeds),
            DistributorError::NoSuchOrder(_) => Some(Self::PlacedByEngine),
            DistributorError::List(error) => Self::of_listed_rebalance(error),
            DistributorError::Failed { .. } => None,
        }
    }

    /// Returns the code for a refused change of slots; `None` if the shard only cannot carry it out
    /// now.
    pub fn of_slot_change(error: &SlotChangeError) -> Option<Self> {
        match error {
            SlotChangeError::NotOwned { .. } => Some(Self::BadFence),
            SlotChangeError::Unsupported { .. } => Some(Self::PlacedByEngine),
            SlotChangeError::Busy { .. } | SlotChangeError::Failed { .. } => None,
        }
    }
}

/// Returns the message of an error for the operator of a command, followed by the code if there is
/// one.
pub fn with_code(error: &impl Display, code: Option<RefusalCode>) -> String {
    match code {
        Some(code) => format!("{error} ({})", code.name()),
        None => error.to_string(),
    }
}
