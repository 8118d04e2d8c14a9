//! Next steps: the steps of a rebalance that may begin now, in the order in which they are tried.
//!
//! **Invariant:** at any time a shard is the source of at most one move and the target of at most
//! one move. A shard with which no move can begin delays no step between other shards, and a shard
//! that cannot be a target delays no step of which it is the source.
//! **Not here:** the steps that may begin (`decision`), beginning moves (`rebalancer`).

use std::collections::VecDeque;

use model::shard_map::ShardMap;
use model::topology::ShardNumber;
use moves::limits::MOVES_MAX;

use crate::manager::MovesError;

/// Source and target of a move.
pub(super) type ShardPair = (ShardNumber, ShardNumber);

/// Shard that cannot take part in a move now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusingShard {
    /// No move of the shard can begin.
    Any(ShardNumber),
    /// The shard cannot be a target, but it can be a source.
    Target(ShardNumber),
}

/// Steps that may begin, and the shards that moves occupy already.
#[derive(Clone, Debug, Default)]
pub(super) struct NextSteps {
    /// Index, source and target of each step that is still to be tried.
    left: VecDeque<(usize, ShardPair)>,
    /// Sources and targets of the moves in progress and of the steps that were taken.
    taken: Vec<ShardPair>,
    /// Shards that cannot take part in a move now: the steps that need them are left out.
    refusing: Vec<RefusingShard>,
}

impl NextSteps {
    /// Creates the steps to try, in this order. `taken` contains the sources and targets of the
    /// moves in progress.
    pub(super) fn new(
        left: impl IntoIterator<Item = (usize, ShardPair)>,
        taken: Vec<ShardPair>,
    ) -> Self {
        Self { left: left.into_iter().collect(), taken, refusing: Vec::new() }
    }

    /// Returns the next step whose shards are free, and marks these shards as taken.
    pub(super) fn take(&mut self) -> Option<usize> {
        if self.taken.len() >= MOVES_MAX {
            return None;
        }
        while let Some((index, pair)) = self.left.pop_front() {
            if self.is_free(pair) {
                self.taken.push(pair);
                return Some(index);
            }
        }
        None
    }

    /// Frees the shards of the step that was taken last, because one of them cannot take part in
    /// its move. Later steps that need that shard in the same role are left out.
    pub(super) fn leave_out(&mut self, refusing: RefusingShard) {
        self.taken.pop();
        self.refusing.push(refusing);
    }

    fn is_free(&self, (from, to): ShardPair) -> bool {
        let is_rival = |(source, target): &ShardPair| *source == from || *target == to;
        let refuses = |refusing: &RefusingShard| match *refusing {
            RefusingShard::Any(shard) => [from, to].contains(&shard),
            RefusingShard::Target(shard) => to == shard,
        };
        !self.taken.iter().any(is_rival) && !self.refusing.iter().any(refuses)
    }
}

/// Returns the shard that prevents a move; `None` if the error is not about a single shard.
pub(super) fn refusing_shard(error: &MovesError, map: &ShardMap) -> Option<RefusingShard> {
    let find = |name: &str| map.topology().find(name);
    match error {
        MovesError::NoShard(number) => Some(RefusingShard::Any(*number)),
        MovesError::NoShardNamed(shard)
        | MovesError::NotOpen { shard }
        | MovesError::NoMajority { shard, .. }
        | MovesError::NoConnections { shard, .. } => find(shard).map(RefusingShard::Any),
        MovesError::OtherGroup { shard, .. }
        | MovesError::NotServing { shard, .. }
        | MovesError::NoRoom { shard, .. } => find(shard).map(RefusingShard::Target),
        MovesError::New(_)
        | MovesError::Key(_)
        | MovesError::Partition(_)
        | MovesError::NoPartitions
        | MovesError::NoTable(_)
        | MovesError::SeveralOwners(_)
        | MovesError::NoRetry(_)
        | MovesError::NotOwned { .. }
        | MovesError::NoSlot(_)
        | MovesError::OlderRouters(_)
        | MovesError::List(_)
        | MovesError::Unsupported => None,
    }
}

#[cfg(test)]
mod tests {
    use model::keyspace::Keyspace;
    use model::placement::Placement;
    use model::topology::Topology;

    use super::*;

    fn steps<const N: usize>(pairs: [(u16, u16); N]) -> NextSteps {
        let pair = |(from, to)| (ShardNumber(from), ShardNumber(to));
        NextSteps::new(pairs.into_iter().map(pair).enumerate(), Vec::new())
    }

    #[test]
    fn a_shard_that_refuses_all_moves_delays_no_step_between_other_shards() {
        let mut next = steps([(0, 1), (0, 1), (0, 2), (3, 1), (1, 3), (3, 4), (5, 2)]);
        assert_eq!(next.take(), Some(0));
        next.leave_out(RefusingShard::Any(ShardNumber(1)));
        assert_eq!(next.take(), Some(2), "the next step of the same source to another target");
        assert_eq!(next.take(), Some(5));
        assert_eq!(next.take(), None, "shard 2 is already the target of a move");
    }

    #[test]
    fn a_shard_that_cannot_be_a_target_can_still_be_a_source() {
        let mut next = steps([(0, 1), (1, 3)]);
        assert_eq!(next.take(), Some(0));
        next.leave_out(RefusingShard::Target(ShardNumber(1)));
        assert_eq!(next.take(), Some(1));
    }

    #[test]
    fn a_refusal_names_the_shard_that_is_left_out() {
        let shards = Topology::with_weights(&[1; 2]).expect("good shards");
        let map = ShardMap::first(Keyspace::Hash, Placement::Even, shards).expect("it fits");
        let (number, shard) = (ShardNumber(1), "shard2".to_owned());
        let (any, target) = (RefusingShard::Any(number), RefusingShard::Target(number));
        for (refusal, refusing) in [
            (MovesError::NotOpen { shard: shard.clone() }, any),
            (MovesError::NoRoom { shard: shard.clone(), needed: 9, free: 1 }, target),
            (MovesError::NoMajority { shard, needed: 2, found: 0 }, any),
        ] {
            assert_eq!(refusing_shard(&refusal, &map), Some(refusing), "{refusal}");
        }
        assert_eq!(refusing_shard(&MovesError::OlderRouters(1), &map), None);
    }
}
