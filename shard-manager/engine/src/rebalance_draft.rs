//! Rebalance draft: a rebalance as an operator describes it, with shards by name.
//!
//! **Invariant:** the rate and the time for which sources are kept are within the limits of a move.
//! **Not here:** the plan that a draft stands for (`cluster`, `model::slot_plan`).

use model::advice::BalanceBy;
use model::placement::{Placement, PlacementError};
use moves::limits::KEEP_MAX;

use super::move_record::{RATE_MAX, RATE_MIN};

/// Values of `by`, for messages.
const BY: &str = "slots, size, load or placement";

/// Goal of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DraftGoal {
    /// Each shard gets its share of the slots.
    Slots,
    /// Bytes or requests are shared by weight.
    Balance(BalanceBy),
    /// Each slot is on the shard to which the given placement assigns it; without one, the
    /// placement of the cluster applies.
    Placement(Option<Placement>),
    /// The shard of this name gives away all of its slots, and then retires.
    Drain(String),
}

/// Rebalance that an operator describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebalanceDraft {
    /// Goal.
    pub goal: DraftGoal,
    /// Name of the table group whose slots move; `None` for all of them.
    pub group: Option<String>,
    /// Maximum rate of the copy of each move in MiB/s; `None` without a limit.
    pub rate: Option<u32>,
    /// Time in seconds for which the sources are kept for a rollback; `None` for the default.
    pub keep: Option<u64>,
}

/// Members of a request that describes a rebalance, before they are checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct DraftMembers<'m> {
    /// Quantity that the rebalance evens out; `slots` if it is not given.
    pub by: Option<&'m str>,
    /// Placement.
    pub placement: Option<&'m str>,
    /// Name of a table group.
    pub group: Option<&'m str>,
    /// Maximum rate of the copy of each move in MiB/s.
    pub rate: Option<u32>,
    /// Time in seconds for which the sources are kept for a rollback.
    pub keep: Option<u64>,
}

/// Reason why a description cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DraftFault {
    /// The value of `by` is unknown.
    #[error("by must be {BY}, not `{0}`")]
    By(String),
    /// A placement is given for another goal.
    #[error("placement is given with by=placement only")]
    PlacementUnexpected,
    /// The placement is unknown.
    #[error("placement: {0}")]
    Placement(PlacementError),
    /// A table group is given for a drain.
    #[error("group is not given with a drain, which empties a shard of the slots of all groups")]
    GroupUnexpected,
    /// The rate is out of bounds.
    #[error("rate must be a whole number of MiB/s from {RATE_MIN} to {RATE_MAX}")]
    Rate,
    /// The time for which sources are kept is out of bounds.
    #[error("keep must be a whole number of seconds from 0 to {}", KEEP_MAX.as_secs())]
    Keep,
}

impl DraftFault {
    /// Checks a rate, in MiB/s.
    ///
    /// # Errors
    /// [`DraftFault::Rate`].
    pub fn check_rate(rate: Option<u32>) -> Result<(), Self> {
        let is_wrong = rate.is_some_and(|rate| !(RATE_MIN..=RATE_MAX).contains(&rate));
        if is_wrong { Err(Self::Rate) } else { Ok(()) }
    }
}

impl RebalanceDraft {
    /// Checks a description, and creates the draft.
    ///
    /// # Errors
    /// [`DraftFault`].
    pub fn read(members: &DraftMembers<'_>) -> Result<Self, DraftFault> {
        let placement = members.placement.map(str::parse::<Placement>).transpose();
        let placement = placement.map_err(DraftFault::Placement)?;
        let goal = match (members.by.unwrap_or("slots"), placement) {
            ("placement", placement) => DraftGoal::Placement(placement),
            ("slots", None) => DraftGoal::Slots,
            (by, None) => {
                let by = BalanceBy::find(by).ok_or_else(|| DraftFault::By(by.to_owned()))?;
                DraftGoal::Balance(by)
            }
            (_, Some(_)) => return Err(DraftFault::PlacementUnexpected),
        };
        Self::bounded(goal, members)
    }

    /// Returns the draft that empties a shard.
    ///
    /// # Errors
    /// [`DraftFault::GroupUnexpected`], [`DraftFault::Rate`], [`DraftFault::Keep`].
    pub fn drain(shard: String, members: &DraftMembers<'_>) -> Result<Self, DraftFault> {
        if members.group.is_some() {
            return Err(DraftFault::GroupUnexpected);
        }
        Self::bounded(DraftGoal::Drain(shard), members)
    }

    fn bounded(goal: DraftGoal, members: &DraftMembers<'_>) -> Result<Self, DraftFault> {
        let DraftMembers { rate, keep, group, .. } = *members;
        DraftFault::check_rate(rate)?;
        if keep.is_some_and(|keep| keep > KEEP_MAX.as_secs()) {
            return Err(DraftFault::Keep);
        }
        Ok(Self { goal, group: group.map(str::to_owned), rate, keep })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_names_one_goal_and_stays_within_bounds() {
        let read = |by, placement| {
            let members = DraftMembers { by, placement, ..DraftMembers::default() };
            RebalanceDraft::read(&members).map(|draft| draft.goal)
        };
        assert_eq!(read(None, None), Ok(DraftGoal::Slots));
        assert_eq!(read(Some("load"), None), Ok(DraftGoal::Balance(BalanceBy::Load)));
        assert_eq!(read(Some("placement"), None), Ok(DraftGoal::Placement(None)));
        let ring = DraftGoal::Placement(Some(Placement::Ring { vnodes: 160 }));
        assert_eq!(read(Some("placement"), Some("ring:160")), Ok(ring));
        assert_eq!(read(Some("rows"), None), Err(DraftFault::By("rows".to_owned())));
        for by in [None, Some("slots"), Some("size")] {
            assert_eq!(read(by, Some("ring")), Err(DraftFault::PlacementUnexpected));
        }
        let odd = read(Some("placement"), Some("circle"));
        assert!(matches!(odd, Err(DraftFault::Placement(_))), "{odd:?}");
        for (rate, keep, fault) in [
            (Some(0), None, DraftFault::Rate),
            (Some(RATE_MAX + 1), None, DraftFault::Rate),
            (None, Some(86_401), DraftFault::Keep),
        ] {
            let members = DraftMembers { rate, keep, ..DraftMembers::default() };
            assert_eq!(RebalanceDraft::read(&members), Err(fault.clone()));
            assert_eq!(RebalanceDraft::drain("shard1".to_owned(), &members), Err(fault));
        }
    }
}
