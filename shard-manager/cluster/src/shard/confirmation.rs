//! Confirmation: the decision whether enough replicas have reached a position of the primary.
//!
//! **Invariant:** a position is confirmed only by replicas that have all changes up to it.
//! Positions that replicas report after a promotion do not confirm changes that the promotion has
//! lost.
//! **Not here:** the number of replicas that are needed (`model::consistency`, `majority`), waiting
//! for replicas (`engine::replication`).

use engine::replication::{ReplicationState, Timeline};

/// Returns true if all changes up to a position are durable on at least `needed` replicas. Returns
/// false if `is_kept` returns false, which means that the present timeline lacks some of these
/// changes. Returns `None` if the changes are kept but not confirmed yet.
pub(super) fn confirmed(
    replication: &ReplicationState,
    (sequence, needed): (u64, usize),
    is_kept: impl FnOnce(&Timeline) -> bool,
) -> Option<bool> {
    let is_durable = replication.confirmations(sequence) >= needed;
    // `is_kept` is called after the count: if the counted replicas follow another primary, the
    // timeline of that primary is known by now.
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

    /// Returns a shard of three nodes on its first timeline, led by node 0.
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
    fn a_promotion_during_the_decision_does_not_confirm_changes_that_it_lost() {
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
    fn a_promotion_after_the_count_of_the_replicas_prevents_the_confirmation() {
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
