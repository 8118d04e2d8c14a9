//! Rebalance catalog: the trait through which a cluster stores the list of its rebalances.
//!
//! **Invariant:** at most one rebalance at a time has not ended.
//! **Not here:** the moves of a rebalance (`move_catalog`), the choice of the router that carries
//! rebalances out: the one that carries out moves.

pub mod change;

use futures_util::future::BoxFuture;
use model::error::Error;

use super::EngineFuture;
use super::rebalance_record::{
    RebalanceId, RebalanceOrder, RebalanceOrderFault, RebalanceRecord, StepStatus,
};

/// Maximum number of rebalances that have ended and are still stored and listed.
pub const ENDED_MAX: usize = 20;

/// Rebalances of a catalog.
pub trait RebalanceCatalog: Send + Sync {
    /// Returns the rebalance that has not ended, if there is one, and the last [`ENDED_MAX`]
    /// rebalances that have ended, the latest first.
    ///
    /// # Errors
    /// The error of the catalog.
    fn list_rebalances(&self) -> EngineFuture<'_, Vec<RebalanceRecord>>;

    /// Returns the rebalance that has not ended, if there is one.
    ///
    /// # Errors
    /// The error of the catalog.
    fn open_rebalance(&self) -> EngineFuture<'_, Option<RebalanceRecord>>;

    /// Lists a new rebalance, if the shard map still has this epoch and no other rebalance is in
    /// progress. A rebalance that is already listed is left unchanged, so that the call can be
    /// repeated.
    ///
    /// # Errors
    /// [`RebalanceListError`].
    fn begin_rebalance<'a>(
        &'a self,
        record: &'a RebalanceRecord,
        epoch: u64,
    ) -> BoxFuture<'a, Result<(), RebalanceListError>>;

    /// Stores an order of an operator for the rebalance in progress and for its moves, and returns
    /// the updated rebalance. Once an order to pause or to cancel is stored, no further move of the
    /// rebalance begins.
    ///
    /// # Errors
    /// [`RebalanceListError`].
    fn order_rebalance(
        &self,
        id: RebalanceId,
        order: RebalanceOrder,
    ) -> BoxFuture<'_, Result<RebalanceRecord, RebalanceListError>>;

    /// Stores the report of the router that carries out the rebalance, and returns the updated
    /// rebalance.
    ///
    /// # Errors
    /// [`RebalanceListError`].
    fn report_rebalance<'a>(
        &'a self,
        id: RebalanceId,
        report: &'a RebalanceReport,
    ) -> BoxFuture<'a, Result<RebalanceRecord, RebalanceListError>>;
}

/// Report of the router that carries a rebalance out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RebalanceReport {
    /// Steps that have changed, by index.
    pub steps: Vec<(usize, StepStatus)>,
    /// Reason why the rebalance waits.
    pub reason: Option<String>,
    /// End of the rebalance, if it ends with this report.
    pub end: Option<RebalanceEnd>,
}

/// End of a rebalance.
#[derive(Clone, Debug, PartialEq)]
pub struct RebalanceEnd {
    /// Measured skew; `None` if it could not be measured.
    pub skew: Option<f64>,
    /// True if the goal of the rebalance was not reached although no step failed.
    pub has_failed: bool,
}

/// Reason why a rebalance was not listed or not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RebalanceListError {
    /// The catalog lists no such rebalance.
    #[error("there is no such rebalance")]
    NoRebalance,
    /// Another rebalance is in progress.
    #[error("the rebalance {0} goes on: wait for its end, or cancel it")]
    AlreadyRunning(String),
    /// The shard map has changed.
    #[error("the shard map has changed: its epoch is {epoch}, not {expected}")]
    Stale {
        /// Expected epoch.
        expected: u64,
        /// Present epoch.
        epoch: u64,
    },
    /// The order does not fit the state of the rebalance, or it has ended.
    #[error(transparent)]
    Order(#[from] RebalanceOrderFault),
    /// The catalog cannot be used. The change may have been stored.
    #[error(transparent)]
    Failed(#[from] Error),
}
