//! Confirmation: the decision that enough replicas have a position of the primary.
//!
//! **Invariant:** a position is confirmed only by replicas that have its changes: positions which
//! replicas report after a promotion confirm nothing that the promotion has lost.
//! **Not here:** the number of replicas that are needed (`model::consistency`, `majority`), waiting
//! for replicas (`engine::replication`).

use engine::replication::{ReplicationState, Timeline};

/// Returns true if everything up to a position is durable on as many replicas as needed, and false
/// if `is_kept` returns false for the present timeline. Returns `None` if it is kept, but not
/// confirmed yet.
pub(super) fn confirmed(
    replication: &ReplicationState,
    (sequence, needed): (u64, usize),
    is_kept: impl FnOnce(&Timeline) -> bool,
) -> Option<bool> {
    let is_durable = replication.confirmations(sequence) >= needed;
    // After the count: if replicas were counted that follow another primary, its timeline is known
    // by now.
    if is_kept(replication.timeline()) { is_durable.then_some(true) } else { Some(false) }
}

#[cfg(test)]
mod tests {
    use model::position::{Position, TimelineHistory};

    use super::*;

    /// Last position of the first primary.
    const LAST: Position = Position { timeline: 1, sequence: 100 };
    /// Position that the second primary had when it was promoted.
    const KEPT: Position = Position { timeline: 1, sequence: 90 };

    /// A shard of three nodes on its first timeline, led by node 0.
    fn shard() -> ReplicationState {
        let history = TimelineHistory::new(vec![(1, 0)]).unwrap();
        ReplicationState::new(history, LAST.sequence, 3).with_shared_writers()
    }

    /// Promotes node 1; node 2 follows it, and has a later position than [`LAST`].
    fn promote(shard: &ReplicationState) {
        let history = shard.timeline().history().followed_by(2, KEPT.sequence);
        shard.follow(history, KEPT.sequence, 1);
        shard.update_if_current(2, |shard| shard.replicas().record_durable(2, 120));
    }

    fn decide(shard: &ReplicationState, position: Position) -> Option<bool> {
        confirmed(shard, (position.sequence, 1), |timeline| timeline.history().holds(position))
    }

    #[test]
    fn a_promotion_during_the_decision_confirms_no_change_that_it_lost() {
        let shard = shard();
        assert_eq!(decide(&shard, LAST), None, "no replica has it yet");
        let promoted_after_comparison = confirmed(&shard, (LAST.sequence, 1), |timeline| {
            let is_kept = timeline.history().holds(LAST);
            promote(&shard);
            is_kept
        });
        assert_eq!(promoted_after_comparison, None, "replicas of another timeline were counted");
        assert_eq!(decide(&shard, LAST), Some(false));
    }

    #[test]
    fn a_promotion_after_the_replicas_were_counted_loses_their_confirmation() {
        let shard = shard();
        shard.replicas().record_durable(2, LAST.sequence);
        assert_eq!(decide(&shard, LAST), Some(true));
        let promoted_after_count = confirmed(&shard, (LAST.sequence, 1), |timeline| {
            promote(&shard);
            timeline.history().holds(LAST)
        });
        assert_eq!(promoted_after_count, Some(false));
    }

    #[test]
    fn a_change_that_a_promotion_kept_is_confirmed_by_the_replicas_of_the_new_primary() {
        let shard = shard();
        promote(&shard);
        assert_eq!(decide(&shard, KEPT), Some(true));
    }
}
