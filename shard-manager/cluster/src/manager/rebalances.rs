//! Rebalances: the manager's interface to plan, begin and list rebalances, and to give orders for
//! them.
//!
//! A rebalance that has begun is stored in the catalog, so it continues even if the router that
//! began it ends. If the engine itself distributes rows over nodes (Citus), the engine plans and
//! carries out rebalances.
//!
//! **Not here:** the choice of slots (`model::slot_plan`), the moves of a rebalance (`rebalancer`),
//! the rules of orders (`engine::rebalance_record`).

mod connections;
pub(super) mod planning;
mod room;
mod stopped;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use engine::move_catalog::MoveListError;
use engine::node_distributor::{DistributorError, NodeDistributor};
use engine::rebalance_catalog::{RebalanceCatalog, RebalanceListError};
use engine::rebalance_draft::RebalanceDraft;
use engine::rebalance_record::{RebalanceId, RebalanceOrder, RebalanceRecord};
use engine::rebalance_view::{PlanView, RebalanceBegun, RebalanceView};
use engine::refusal_code::RefusalCode;
use model::advice::{KeyLoad, SlotLoad};
use model::error::{Error, Outcome};
use model::slot_plan::PlanFault;
use model::topology::ShardNumber;
use moves::limits::KEEP;

use super::nodes::no_epoch;
use super::shards::epoch_to_retry;
use super::time_limits::{by, read_by};
use super::{Manager, MovesError};
use planning::{Planned, RebalancePlans};

pub use stopped::StoppedPlans;

/// Maximum number of attempts to begin a rebalance while the shard map changes.
const TRIES_MAX: usize = 16;
/// Longest time for an engine to list its own rebalances, or to change one.
const ENGINE_MAX: Duration = Duration::from_secs(10);

/// Interface of a [`Manager`] for rebalances.
#[derive(Clone, Copy)]
pub struct Rebalances<'m>(pub(super) &'m Manager);

/// Observed load: the requests of the last minutes, for each slot and for the most requested keys.
#[derive(Clone, Debug, Default)]
pub struct ObservedLoad {
    /// Load of each slot, in slot order.
    pub slots: Vec<SlotLoad>,
    /// The most frequently requested keys.
    pub keys: Vec<KeyLoad>,
}

/// Source of the observed load: the part of a router that counts requests.
pub trait LoadSource: Send + Sync {
    /// Returns the load of the last minutes; `None` if requests are no longer counted. May block
    /// for some milliseconds.
    fn observed(&self) -> Option<ObservedLoad>;
}

/// Reason why a rebalance was not planned or not begun, or an order was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RebalancesError {
    /// There is no plan for the goal.
    #[error(transparent)]
    Plan(#[from] PlanFault),
    /// The cluster has no table group of this name.
    #[error("group: there is no table group `{0}`")]
    NoGroup(String),
    /// The cluster has no shard of this name.
    #[error("the cluster has no shard `{0}`")]
    NoShard(String),
    /// The database of the shard holds the catalog.
    #[error("{0} holds the catalog of the cluster in its database: it cannot be retired")]
    HoldsCatalog(String),
    /// The process counts no requests.
    #[error("by=load needs the analytics of a router, which counts requests: use slots or size")]
    NoLoad,
    /// The sizes of the shards are not known.
    #[error("by=size needs the size of each shard, and {0} does not report it: try again")]
    NoSize(String),
    /// The plan cannot begin now.
    #[error("{0}")]
    Refused(String),
    /// The moves in progress cannot be read, or the map is not the expected one.
    #[error(transparent)]
    Moves(#[from] MovesError),
    /// The catalog did not accept the rebalance or the order.
    #[error(transparent)]
    List(#[from] RebalanceListError),
    /// The engine distributes rows itself, and has not carried out the request.
    #[error(transparent)]
    Distributor(#[from] DistributorError),
    /// The engine distributes rows by itself.
    #[error("this cluster distributes its rows itself")]
    Unsupported,
}

impl RebalancesError {
    /// Returns the public code; `None` if the catalog cannot be used.
    pub fn code(&self) -> Option<RefusalCode> {
        Some(match self {
            Self::Plan(
                PlanFault::Placement(_) | PlanFault::Keyspace(_) | PlanFault::NotServing { .. },
            )
            | Self::NoLoad => RefusalCode::BadRebalance,
            Self::NoGroup(_) => RefusalCode::NoGroup,
            Self::NoShard(_) => RefusalCode::NoShard,
            Self::Plan(
                PlanFault::NoTaker
                | PlanFault::NoTakerOfGroup { .. }
                | PlanFault::NotDrainable { .. },
            )
            | Self::HoldsCatalog(_)
            | Self::NoSize(_)
            | Self::Refused(_) => RefusalCode::ShardState,
            Self::Moves(error) => return error.code(),
            Self::List(error) => return RefusalCode::of_listed_rebalance(error),
            Self::Distributor(error) => return RefusalCode::of_distributor(error),
            Self::Unsupported => RefusalCode::PlacedByEngine,
        })
    }

    /// Returns the error of the catalog or the engine and the outcome of the request, if the
    /// catalog or the engine could not be used.
    pub fn failure(&self) -> Option<(&Error, Outcome)> {
        match self {
            Self::List(RebalanceListError::Failed(error))
            | Self::Moves(MovesError::List(MoveListError::Failed(error))) => {
                Some((error, Outcome::Unknown))
            }
            Self::Moves(MovesError::List(MoveListError::Unread(error))) => {
                Some((error, Outcome::Rejected))
            }
            Self::Distributor(error) => error.failure(),
            Self::Plan(_)
            | Self::NoGroup(_)
            | Self::NoShard(_)
            | Self::HoldsCatalog(_)
            | Self::NoLoad
            | Self::NoSize(_)
            | Self::Refused(_)
            | Self::Moves(_)
            | Self::List(_)
            | Self::Unsupported => None,
        }
    }
}

impl<'m> Rebalances<'m> {
    /// Returns the interface of a manager for rebalances.
    pub fn of(manager: &'m Manager) -> Self {
        Self(manager)
    }

    /// Sets the source of the observed load. Only the first call has an effect.
    pub fn set_load_source(self, source: Arc<dyn LoadSource>) {
        // A second source would count the same requests.
        let _ = self.0.load_source.set(source);
    }

    /// Plans a rebalance, without changing anything. The newest map must have the expected epoch,
    /// if one is given.
    ///
    /// # Errors
    /// [`RebalancesError`].
    pub async fn plan(
        self,
        draft: &RebalanceDraft,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<PlanView, RebalancesError> {
        if let Some(nodes) = distributor(self.0, expected_epoch)? {
            return Ok(nodes.plan_rebalance(draft, deadline).await?);
        }
        let planned = RebalancePlans::of(self.0).planned(draft, expected_epoch, deadline);
        read_by(deadline, async { shown(self.0, &planned.await?).await }).await
    }

    /// Begins a rebalance, if the shard map has the expected epoch and something has to move. If no
    /// epoch is expected and the map changes meanwhile, plans the rebalance again.
    ///
    /// # Errors
    /// [`RebalancesError`]. The rebalance may have begun only if the error is
    /// [`RebalanceListError::Failed`].
    pub async fn begin(
        self,
        draft: &RebalanceDraft,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<RebalanceBegun, RebalancesError> {
        if let Some(nodes) = distributor(self.0, expected_epoch)? {
            return Ok(nodes.begin_rebalance(draft, deadline).await?);
        }
        read_by(deadline, self.check_none_runs()).await?;
        for _ in 1..TRIES_MAX {
            let begun = self.begin_once(draft, expected_epoch, deadline).await;
            let Err(RebalancesError::List(RebalanceListError::Stale { expected, epoch })) = &begun
            else {
                return begun;
            };
            let later = epoch_to_retry((*expected, *epoch), expected_epoch);
            let is_known = self.0.backend.update_map(later, deadline).await.is_ok();
            if expected_epoch.is_some() || !is_known {
                return begun;
            }
        }
        self.begin_once(draft, expected_epoch, deadline).await
    }

    async fn begin_once(
        self,
        draft: &RebalanceDraft,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<RebalanceBegun, RebalancesError> {
        let planned = RebalancePlans::of(self.0).planned(draft, expected_epoch, deadline);
        let planned = read_by(deadline, planned).await?;
        if planned.is_settled() {
            return Ok(RebalanceBegun::Settled(Box::new(planned.view())));
        }
        if let Some(refusal) = planned.refusals.first() {
            return Err(RebalancesError::Refused(refusal.to_string()));
        }
        let Planned { goal, group, plan, map, .. } = planned;
        let keep = draft.keep.map_or(KEEP, Duration::from_secs);
        let record = RebalanceRecord::begin((goal, &plan), (draft.rate, keep), Utc::now());
        let record = RebalanceRecord { group, ..record };
        let begun = self.catalog()?.begin_rebalance(&record, map.epoch());
        by(deadline, begun, RebalanceListError::Failed(Error::DeadlinePassed)).await?;
        tracing::info!(id = record.id.name(), goal = record.goal.name(), "a rebalance begins");
        self.0.move_announcements.announce();
        Ok(RebalanceBegun::Begun(Box::new(self.view(&record))))
    }

    /// Checks that no rebalance is in progress. The catalog checks this again when a rebalance
    /// begins.
    async fn check_none_runs(self) -> Result<(), RebalancesError> {
        let open = self.catalog()?.open_rebalance().await;
        match open.map_err(|error| MovesError::from(MoveListError::Unread(error)))? {
            Some(open) => Err(RebalanceListError::AlreadyRunning(open.id.name()).into()),
            None => Ok(()),
        }
    }

    /// Returns the rebalance in progress and the latest ones that have ended, without their moves,
    /// the latest first.
    ///
    /// # Errors
    /// The error of the catalog or of the engine.
    pub async fn list(self) -> Result<Vec<RebalanceView>, RebalancesError> {
        if let Some(nodes) = self.0.backend.node_distributor() {
            let views = nodes.rebalances(Instant::now() + ENGINE_MAX).await?.into_iter();
            return Ok(views.map(|view| RebalanceView { moves: None, ..view }).collect());
        }
        let records = self.records().await?;
        Ok(records.iter().map(|record| self.summary(record)).collect())
    }

    /// Returns a rebalance with its moves.
    ///
    /// # Errors
    /// [`RebalanceListError::NoRebalance`], or the error of the catalog or of the engine.
    pub async fn get(self, id: &str) -> Result<RebalanceView, RebalancesError> {
        let found = if let Some(nodes) = self.0.backend.node_distributor() {
            let mut views = nodes.rebalances(Instant::now() + ENGINE_MAX).await?.into_iter();
            views.find(|view| view.id == id)
        } else {
            let id = identity(id)?;
            let records = self.records().await?;
            records.iter().find(|record| record.id == id).map(|record| self.view(record))
        };
        Ok(found.ok_or(RebalanceListError::NoRebalance)?)
    }

    /// Gives an order for a rebalance and its moves, and returns the rebalance as it is listed
    /// afterwards.
    ///
    /// # Errors
    /// [`RebalancesError::List`], [`RebalancesError::Distributor`].
    pub async fn order(
        self,
        id: &str,
        order: RebalanceOrder,
    ) -> Result<RebalanceView, RebalancesError> {
        if let Some(nodes) = self.0.backend.node_distributor() {
            return Ok(nodes.order_rebalance(id, order, Instant::now() + ENGINE_MAX).await?);
        }
        let ordered = self.catalog()?.order_rebalance(identity(id)?, order).await?;
        self.0.move_announcements.announce_order();
        Ok(self.view(&ordered))
    }

    /// Returns a rebalance in the form of lists, without its moves.
    pub fn summary(self, record: &RebalanceRecord) -> RebalanceView {
        let map = self.0.shards().newest_map();
        RebalanceView::in_map(record, &map, |shard| self.name(shard), Utc::now())
    }

    /// Returns a rebalance in the form of responses and commands, with its moves.
    fn view(self, record: &RebalanceRecord) -> RebalanceView {
        self.summary(record).with_moves(record, |shard| self.name(shard))
    }

    /// Returns the rebalance that this process carries out, or the last one that has ended, as this
    /// process knows it; `None` if another process carries rebalances out.
    pub fn latest_here(self) -> Option<RebalanceRecord> {
        self.0.rebalance_status.latest()
    }

    async fn records(self) -> Result<Vec<RebalanceRecord>, RebalancesError> {
        let listed = self.catalog()?.list_rebalances().await;
        Ok(listed.map_err(|error| MovesError::from(MoveListError::Unread(error)))?)
    }

    fn name(self, shard: ShardNumber) -> String {
        self.0.shard_name(shard).to_owned()
    }

    fn catalog(self) -> Result<&'m dyn RebalanceCatalog, RebalancesError> {
        self.0.backend.rebalance_catalog().ok_or(RebalancesError::Unsupported)
    }
}

/// Returns a plan in the form of responses. If a rebalance is in progress, that is the first of the
/// plan's refusals (the reasons why the rebalance cannot begin now).
async fn shown(manager: &Manager, planned: &Planned) -> Result<PlanView, RebalancesError> {
    let mut view = planned.view();
    match Rebalances::of(manager).check_none_runs().await {
        Ok(()) => Ok(view),
        Err(RebalancesError::List(open @ RebalanceListError::AlreadyRunning(_))) => {
            view.refusals.insert(0, open.to_string());
            Ok(view)
        }
        Err(error) => Err(error),
    }
}

fn identity(id: &str) -> Result<RebalanceId, RebalanceListError> {
    RebalanceId::parse(id).ok_or(RebalanceListError::NoRebalance)
}

/// Returns the engine's own distributor, if the engine distributes rows itself. There is no epoch
/// then, so it is an error to expect one.
fn distributor(
    manager: &Manager,
    expected_epoch: Option<u64>,
) -> Result<Option<&dyn NodeDistributor>, DistributorError> {
    let Some(nodes) = manager.backend.node_distributor() else { return Ok(None) };
    match expected_epoch {
        None => Ok(Some(nodes)),
        Some(_) => Err(DistributorError::BadRebalance { member: "If-Match", cause: no_epoch() }),
    }
}
