//! Rebalance command: requests about rebalances, as clients of the socket write them.
//!
//! **Not here:** the rebalances (`cluster`), the socket (`control`).

use engine::operator_queue::RebalanceAction;
use engine::rebalance_draft::{DraftMembers, RebalanceDraft};
use engine::rebalance_record::{RebalanceId, RebalanceOrder};
use engine::refusal_code::{RefusalCode, with_code};
use serde::{Deserialize, Serialize};

/// Request about rebalances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum RebalanceCommand {
    /// A rebalance is planned.
    Plan(RebalanceWish),
    /// A rebalance begins.
    Begin(RebalanceWish),
    /// An order for a rebalance.
    Order {
        /// Identity of the rebalance.
        id: String,
        /// Name of the [`RebalanceOrder`].
        order: String,
    },
    /// A rebalance is shown.
    Show {
        /// Identity of the rebalance.
        id: String,
    },
    /// All rebalances are shown.
    List,
}

/// Description of a rebalance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RebalanceWish {
    /// Quantity that is to be even; the slots if it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Placement that slots go to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<String>,
    /// Name of the table group whose slots move; all of them if it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Name of the shard that is to be emptied, instead of `by`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<String>,
    /// Highest rate of the copy of each move in MiB/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Seconds for which the sources are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<u64>,
    /// Epoch that the shard map must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

impl RebalanceWish {
    /// Returns the draft of the description.
    ///
    /// # Errors
    /// A sentence for the operator that names the member.
    pub fn draft(&self) -> Result<RebalanceDraft, String> {
        let (by, placement) = (self.by.as_deref(), self.placement.as_deref());
        let group = self.group.as_deref();
        let members = DraftMembers { by, placement, group, rate: self.rate, keep: self.keep };
        let draft = match &self.drain {
            Some(shard) => RebalanceDraft::drain(shard.clone(), &members),
            None => RebalanceDraft::read(&members),
        };
        draft.map_err(|fault| with_code(&fault, Some(RefusalCode::BadRebalance)))
    }
}

impl RebalanceCommand {
    /// Returns the request for the operator queue.
    ///
    /// # Errors
    /// A sentence for the operator about a description or an order that cannot be used.
    pub fn action(self) -> Result<RebalanceAction, String> {
        let identity = |id: &str| {
            let missing =
                || with_code(&"there is no such rebalance", Some(RefusalCode::NoRebalance));
            RebalanceId::parse(id).ok_or_else(missing)
        };
        Ok(match self {
            Self::Plan(wish) => RebalanceAction::Plan(wish.draft()?, wish.epoch),
            Self::Begin(wish) => RebalanceAction::Begin(wish.draft()?, wish.epoch),
            Self::Order { id, order } => {
                let order = RebalanceOrder::parse(&order);
                let order = order.ok_or_else(|| "there is no such order".to_owned())?;
                RebalanceAction::Order(identity(&id)?, order)
            }
            Self::Show { id } => RebalanceAction::Show(identity(&id)?),
            Self::List => RebalanceAction::List,
        })
    }
}
