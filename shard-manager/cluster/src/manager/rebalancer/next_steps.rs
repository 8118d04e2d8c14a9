//! Next steps: the steps of a rebalance that may begin now, in the order in which they are tried.
//!
//! **Invariant:** a shard gives slots in one move and takes slots in one at a time. A shard with
//! which no move can begin delays no step of other shards, and one that can take no slots delays no
//! step by which it gives some.
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
    /// The shard can take no slots, but it can give some.
    Target(ShardNumber),
}

/// Steps that may begin, and the places that moves have taken.
#[derive(Clone, Debug, Default)]
pub(super) struct NextSteps {
    /// Index of each step that is left to try, with its source and its target.
    left: VecDeque<(usize, ShardPair)>,
    /// Shards of the moves that are under way or begin.
    taken: Vec<ShardPair>,
    /// Shards whose steps are left out.
    refusing: Vec<RefusingShard>,
}

impl NextSteps {
    /// Returns the steps in their order, beside the moves under way between the shards `taken`.
    pub(super) fn new(
        left: impl IntoIterator<Item = (usize, ShardPair)>,
        taken: Vec<ShardPair>,
    ) -> Self {
        Self { left: left.into_iter().collect(), taken, refusing: Vec::new() }
    }

    /// Returns the next step whose shards are free, and takes a place for its move.
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

    /// Frees the place of the step that was taken last, because this shard refuses its move, and
    /// leaves out the other steps that the shard would refuse.
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

/// Returns the shard with which a move cannot begin; `None` if the error is not about one shard.
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
    fn a_shard_with_which_no_move_can_begin_holds_up_no_step_of_other_shards() {
        let mut next = steps([(0, 1), (0, 1), (0, 2), (3, 1), (1, 3), (3, 4), (5, 2)]);
        assert_eq!(next.take(), Some(0));
        next.leave_out(RefusingShard::Any(ShardNumber(1)));
        assert_eq!(next.take(), Some(2), "the next step of the same source to another target");
        assert_eq!(next.take(), Some(5));
        assert_eq!(next.take(), None, "a move takes slots to the shard 2 already");
    }

    #[test]
    fn a_shard_that_can_take_no_slots_still_gives_some() {
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
