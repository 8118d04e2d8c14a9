//! Changes: maps each refusal of a change of shards or slots, of a move or of a rebalance to its
//! problem.
//!
//! **Invariant:** the mapping is exhaustive; a detail contains no path, and contains an address
//! only if the request does.
//! **Not here:** the codes, and the form of a problem (`problem`).

use shard_manager::assembly::{CITUS_MOVE, CITUS_MOVES};
use shard_manager::engine::catalog_rows::MapChangeError;
use shard_manager::engine::move_catalog::MoveListError;
use shard_manager::engine::new_shard::NewShardRefusal;
use shard_manager::engine::node_distributor::DistributorError;
use shard_manager::engine::refusal_code::RefusalCode;
use shard_manager::engine::slot_change::SlotChangeError;
use shard_manager::error::{Error, Outcome};
use shard_manager::manager::{MovesError, RebalancesError, ShardChangeError, SlotsError};

use super::{Code, Problem};

impl Code {
    /// Returns the code of a refusal.
    pub fn of_refusal(refusal: RefusalCode) -> Self {
        match refusal {
            RefusalCode::NoShard => Self::TSR320,
            RefusalCode::BadShard => Self::TSR321,
            RefusalCode::DatabaseInUse => Self::TSR322,
            RefusalCode::DatabaseUnreachable => Self::TSR323,
            RefusalCode::DatabaseUnsuitable => Self::TSR324,
            RefusalCode::NoCredentials => Self::TSR325,
            RefusalCode::ShardState => Self::TSR326,
            RefusalCode::MapChanged => Self::TSR327,
            RefusalCode::BadFence => Self::TSR328,
            RefusalCode::PlacedByEngine => Self::TSR329,
            RefusalCode::BadMove => Self::TSR330,
            RefusalCode::NoMove => Self::TSR331,
            RefusalCode::MoveState => Self::TSR332,
            RefusalCode::SlotsMove => Self::TSR333,
            RefusalCode::NotOwner => Self::TSR334,
            RefusalCode::BadRebalance => Self::TSR335,
            RefusalCode::NoRebalance => Self::TSR336,
            RefusalCode::RebalanceState => Self::TSR337,
            RefusalCode::RebalanceRuns => Self::TSR338,
            RefusalCode::EngineNeeds => Self::TSR341,
            RefusalCode::NoGroup => Self::TSR350,
        }
    }
}

/// Returns the problem of a change that was refused before anything was begun.
pub fn refused(refusal: RefusalCode, detail: impl Into<String>) -> Problem {
    let problem = Problem::new(Code::of_refusal(refusal), detail).outcome("rejected");
    match refusal {
        RefusalCode::NoShard => problem.hint("/api/shards lists the shards"),
        RefusalCode::NoGroup => problem.hint("/api/groups lists the groups"),
        RefusalCode::BadShard | RefusalCode::BadMove | RefusalCode::BadRebalance => {
            problem.hint("correct the member that the detail names, and send the request again")
        }
        RefusalCode::DatabaseInUse => {
            problem.hint("create an empty database for the shard, and name it by url")
        }
        RefusalCode::DatabaseUnreachable => {
            problem.hint("check host and port, and that the server runs and accepts this router")
        }
        RefusalCode::DatabaseUnsuitable | RefusalCode::EngineNeeds => {
            problem.hint("correct what the detail names, and send the request again")
        }
        RefusalCode::NoCredentials => problem.hint(
            "add the server to SHARD_URLS or REPLICA_URLS of every router, and start them again",
        ),
        RefusalCode::ShardState => {
            problem.hint("/api/shards shows the state and the slots of each shard")
        }
        RefusalCode::MapChanged => {
            problem.hint("look at /api/shards again, and send its epoch as If-Match")
        }
        RefusalCode::BadFence | RefusalCode::NotOwner => {
            problem.hint("/api/shard-map shows the owner of each slot")
        }
        RefusalCode::NoMove => problem.hint("/api/moves lists the moves"),
        RefusalCode::MoveState => {
            problem.hint("the member actions of the move, in /api/moves, lists the commands that it accepts now")
        }
        RefusalCode::SlotsMove => {
            problem.hint("wait for the end of the other move, or leave its slots out")
        }
        RefusalCode::NoRebalance => problem.hint("/api/rebalance lists the rebalances"),
        RefusalCode::RebalanceState => problem.hint(
            "the member actions of the rebalance, in /api/rebalance, lists the commands that it accepts now",
        ),
        RefusalCode::RebalanceRuns => {
            problem.hint("/api/rebalance shows it; POST /api/rebalance/{id}/cancel ends it")
        }
        RefusalCode::PlacedByEngine => problem.hint(CITUS_MOVES),
    }
}

/// Returns the problem of a change of which a step failed, with the outcome of the change.
fn failed(error: Error, outcome: Outcome) -> Problem {
    Problem::from(error).outcome(outcome.name())
}

impl From<ShardChangeError> for Problem {
    fn from(error: ShardChangeError) -> Self {
        if let Some(refusal) = error.code() {
            return refused(refusal, detail(&error));
        }
        match error {
            ShardChangeError::NewShard(NewShardRefusal::Failed(error)) => {
                failed(error, Outcome::Unknown)
                    .hint("send the same request again: it goes on from where it ended")
            }
            ShardChangeError::Map(MapChangeError::Unknown(error)) => {
                failed(error, Outcome::Unknown)
                    .hint("/api/shards shows whether the change was made")
            }
            ShardChangeError::Map(MapChangeError::Failed(error))
            | ShardChangeError::Failed(error) => failed(error, Outcome::Rejected),
            ShardChangeError::NoShard { .. }
            | ShardChangeError::Exists { .. }
            | ShardChangeError::NewShard(_)
            | ShardChangeError::Map(_) => Self::from(Error::Internal),
        }
    }
}

/// Returns the detail of a refusal. If the error contains the path of an embedded cluster, which
/// clients must not see, the error goes to the log, and the detail refers to the log.
fn detail(error: &ShardChangeError) -> String {
    let in_files = |place: &str| place.starts_with('/') || place.starts_with('.');
    match error {
        ShardChangeError::NewShard(NewShardRefusal::Unsuitable { place, .. })
            if in_files(place) =>
        {
            tracing::warn!(%error, "a shard cannot join");
            "the data directory has no room for another shard: the log of the router names the reason"
                .to_owned()
        }
        ShardChangeError::NewShard(NewShardRefusal::NotEmpty { place, .. }) if in_files(place) => {
            tracing::warn!(%error, "a shard cannot join");
            "the data directory has a file with the name of the new shard: the log of the router \
             names it"
                .to_owned()
        }
        ShardChangeError::NoShard { .. }
        | ShardChangeError::Exists { .. }
        | ShardChangeError::NewShard(_)
        | ShardChangeError::Map(_)
        | ShardChangeError::Failed(_) => error.to_string(),
    }
}

impl From<SlotsError> for Problem {
    fn from(error: SlotsError) -> Self {
        if let Some(refusal) = error.code() {
            return refused(refusal, error.to_string());
        }
        match error {
            SlotsError::Shard(SlotChangeError::Failed { error, outcome }) => failed(error, outcome),
            SlotsError::Shard(SlotChangeError::Busy { shard }) => {
                Self::new(Code::TSR004, SlotChangeError::Busy { shard: shard.clone() }.to_string())
                    .shard(shard)
                    .hint("send again, or raise x-deadline-ms")
            }
            SlotsError::NoShard(_) => Self::new(Code::TSR201, error.to_string()),
            SlotsError::NoSlots
            | SlotsError::NoSlot(_)
            | SlotsError::Hold
            | SlotsError::Shard(_) => Self::from(Error::Internal),
        }
    }
}

impl From<MovesError> for Problem {
    fn from(error: MovesError) -> Self {
        match (error.code(), error) {
            (Some(refusal), MovesError::Unsupported) => {
                refused(refusal, format!("Citus places its rows itself: {CITUS_MOVE}"))
            }
            (Some(refusal), error @ MovesError::List(MoveListError::TooMany)) => {
                refused(refusal, error.to_string()).hint("/api/moves?state=open lists them")
            }
            (Some(refusal), error) => refused(refusal, error.to_string()),
            (None, MovesError::List(MoveListError::Unread(error))) => {
                failed(error, Outcome::Rejected)
            }
            (None, MovesError::List(MoveListError::Failed(error))) => {
                failed(error, Outcome::Unknown).hint("/api/moves shows whether the change was made")
            }
            (None, _) => Self::from(Error::Internal),
        }
    }
}

impl From<RebalancesError> for Problem {
    fn from(error: RebalancesError) -> Self {
        match (error.code(), error.failure()) {
            (Some(RefusalCode::PlacedByEngine), _)
                if matches!(error, RebalancesError::Unsupported) =>
            {
                Self::from(MovesError::Unsupported)
            }
            (Some(refusal), _) => refused(refusal, error.to_string()),
            (None, Some((failure, outcome))) => {
                let problem = failed(failure.clone(), outcome);
                if outcome == Outcome::Unknown {
                    problem.hint("/api/rebalance shows whether the change was made")
                } else {
                    problem
                }
            }
            (None, None) => Self::from(Error::Internal),
        }
    }
}

impl From<DistributorError> for Problem {
    fn from(error: DistributorError) -> Self {
        match (RefusalCode::of_distributor(&error), error.failure()) {
            (Some(refusal), _) => refused(refusal, error.to_string()),
            (None, Some((failure, outcome))) => failed(failure.clone(), outcome)
                .hint("/api/shards shows whether the change was made"),
            (None, None) => Self::from(Error::Internal),
        }
    }
}

#[cfg(test)]
mod tests {
    use shard_manager::engine::move_record::{MoveOrderFault, MovePhase, NewMoveFault};
    use shard_manager::engine::rebalance_catalog::RebalanceListError;
    use shard_manager::engine::rebalance_record::{RebalanceOrderFault, RebalanceState};
    use shard_manager::slot_plan::PlanFault;
    use shard_manager::slot_set::SlotSet;
    use shard_manager::topology::{ShardNumber, ShardState};

    use super::*;

    #[test]
    fn a_database_that_cannot_be_a_shard_has_a_code_for_each_remedy() {
        let place = || "db4:5432/app".to_owned();
        let cause = || "a reason".to_owned();
        for (refusal, code, status) in [
            (NewShardRefusal::OtherCluster { place: place() }, "TSR322", 409),
            (NewShardRefusal::Lost { place: place(), shard: "east".to_owned() }, "TSR322", 409),
            (NewShardRefusal::OtherAddress { shard: cause(), address: place() }, "TSR326", 409),
            (NewShardRefusal::Unreachable { place: place(), cause: cause() }, "TSR323", 409),
            (NewShardRefusal::Unsuitable { place: place(), cause: cause() }, "TSR324", 409),
            (NewShardRefusal::NoCredentials { host: place() }, "TSR325", 409),
            (NewShardRefusal::Unsupported, "TSR329", 409),
        ] {
            let problem = Problem::from(ShardChangeError::from(refusal));
            assert_eq!((problem.code().name(), problem.status().as_u16()), (code, status));
            assert_eq!(problem.outcome, Some("rejected"));
        }
    }

    #[test]
    fn a_move_that_is_refused_has_a_code_for_each_remedy() {
        let (shard, slots) = (|| "shard1".to_owned(), SlotSet::full);
        let state = ShardState::Draining;
        let move_name = "5f0c1c1e-6c1e-4f7a-9b53-0a8f5b1f2d4e".to_owned();
        for (error, code, status) in [
            (NewMoveFault::SlotCount(65).into(), "TSR330", 400),
            (MovesError::SeveralOwners("shard1, shard2".to_owned()), "TSR330", 400),
            (MovesError::no_table("usres"), "TSR330", 400),
            (MovesError::NoShard(ShardNumber(9)), "TSR320", 404),
            (MovesError::NoShardNamed("shard9".to_owned()), "TSR320", 404),
            (MovesError::NotServing { shard: shard(), state }, "TSR326", 409),
            (MovesError::OlderRouters(2), "TSR326", 409),
            (MoveListError::TooMany.into(), "TSR326", 409),
            (MovesError::NotOwned { shard: shard(), slots: slots() }, "TSR334", 409),
            (MovesError::NoRetry(MovePhase::Copying), "TSR332", 409),
            (MovesError::Unsupported, "TSR329", 409),
            (MoveListError::NoMove.into(), "TSR331", 404),
            (MoveListError::Stale { expected: 1, epoch: 2 }.into(), "TSR327", 412),
            (MoveListError::Order(MoveOrderFault::NotYetMoved).into(), "TSR332", 409),
            (MoveListError::SlotsMove { slots: slots(), move_name }.into(), "TSR333", 409),
        ] {
            let problem = Problem::from(error);
            assert_eq!((problem.code().name(), problem.status().as_u16()), (code, status));
            assert_eq!(problem.outcome, Some("rejected"));
        }
        let unsupported = Problem::from(MovesError::Unsupported);
        assert!(unsupported.detail().contains("citus_move_shard_placement("));
        let failed = Problem::from(MovesError::from(MoveListError::Failed(Error::DeadlinePassed)));
        assert_eq!((failed.code().name(), failed.outcome), ("TSR004", Some("unknown")));
    }

    #[test]
    fn a_rebalance_that_is_refused_has_a_code_for_each_remedy() {
        let name = || "shard1".to_owned();
        let ended = RebalanceOrderFault::Ended(RebalanceState::Done);
        for (error, code, status) in [
            (PlanFault::Keyspace("it does not fit".to_owned()).into(), "TSR335", 400),
            (RebalancesError::NoLoad, "TSR335", 400),
            (PlanFault::NoTaker.into(), "TSR326", 409),
            (RebalancesError::HoldsCatalog(name()), "TSR326", 409),
            (RebalancesError::Refused("not now".to_owned()), "TSR326", 409),
            (RebalancesError::NoShard(name()), "TSR320", 404),
            (RebalancesError::NoGroup("sesions".to_owned()), "TSR350", 400),
            (RebalancesError::Unsupported, "TSR329", 409),
            (RebalanceListError::NoRebalance.into(), "TSR336", 404),
            (RebalanceListError::Order(ended).into(), "TSR337", 409),
            (RebalanceListError::AlreadyRunning(name()).into(), "TSR338", 409),
            (RebalanceListError::Stale { expected: 1, epoch: 2 }.into(), "TSR327", 412),
        ] {
            let problem = Problem::from(error);
            assert_eq!((problem.code().name(), problem.status().as_u16()), (code, status));
            assert_eq!(problem.outcome, Some("rejected"));
        }
        let failed = RebalanceListError::Failed(Error::DeadlinePassed);
        let failed = Problem::from(RebalancesError::from(failed));
        assert_eq!((failed.code().name(), failed.outcome), ("TSR004", Some("unknown")));
    }

    #[test]
    fn a_change_that_ends_before_the_catalog_was_read_is_rejected() {
        let unread = || MovesError::from(MoveListError::Unread(Error::DeadlinePassed));
        for problem in [Problem::from(unread()), Problem::from(RebalancesError::from(unread()))] {
            assert_eq!((problem.code().name(), problem.outcome), ("TSR004", Some("rejected")));
        }
    }

    #[test]
    fn an_order_that_an_engine_refuses_has_a_code_for_each_remedy() {
        let text = || "a reason".to_owned();
        for (error, code, status) in [
            (DistributorError::BadRebalance { member: "rate", cause: text() }, "TSR335", 400),
            (DistributorError::BadNode { member: "name", cause: text() }, "TSR321", 400),
            (DistributorError::NoNode(text()), "TSR320", 404),
            (DistributorError::NodeState(text()), "TSR326", 409),
            (DistributorError::Need(text()), "TSR341", 409),
            (DistributorError::NoSuchOrder(text()), "TSR329", 409),
            (RebalanceListError::AlreadyRunning("7".to_owned()).into(), "TSR338", 409),
        ] {
            let problem = Problem::from(error.clone());
            assert_eq!((problem.code().name(), problem.status().as_u16()), (code, status));
            let rebalance = Problem::from(RebalancesError::from(error));
            assert_eq!(rebalance.detail(), problem.detail());
        }
        let (error, outcome) = (Error::DeadlinePassed, Outcome::Rejected);
        let failed = Problem::from(DistributorError::Failed { error, outcome });
        assert_eq!((failed.code().name(), failed.outcome), ("TSR004", Some("rejected")));
    }

    #[test]
    fn a_refusal_has_the_same_code_in_commands_and_responses() {
        for refusal in RefusalCode::ALL {
            assert_eq!(Code::of_refusal(refusal).name(), refusal.name());
        }
    }
}
