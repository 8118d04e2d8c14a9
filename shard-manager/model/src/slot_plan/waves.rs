//! Waves: the moves of an advice in runs, in each of which the order does not matter.
//!
//! An advice may give a shard a hot slot, and then take cool slots from the same shard. The parts
//! of such moves must not be mixed.
//!
//! **Invariant:** within a wave no shard both gives and takes, so a taker has at most what it has
//! at the end of the wave.
//! **Not here:** the moves of an advice (`advice`), the parts of moves (`steps`).

use std::collections::BTreeSet;

use crate::advice::Move;

/// Splits moves, in order, into waves.
pub(super) fn waves(moves: &[Move]) -> Vec<&[Move]> {
    let mut waves = Vec::new();
    let mut rest = moves;
    while !rest.is_empty() {
        let (mut givers, mut takers) = (BTreeSet::new(), BTreeSet::new());
        let belongs = |moved: &&Move| {
            givers.insert(moved.from);
            takers.insert(moved.to);
            givers.is_disjoint(&takers)
        };
        let count = rest.iter().take_while(belongs).count().max(1);
        let (wave, others) = rest.split_at(count);
        waves.push(wave);
        rest = others;
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::ShardNumber;

    fn moved((from, to): (u16, u16)) -> Move {
        Move {
            from: ShardNumber(from),
            to: ShardNumber(to),
            ranges: vec![(0, 0)],
            slots: 1,
            rows: None,
            bytes: None,
            share: 0.0,
            from_share_after: 0.0,
            to_share_after: 0.0,
        }
    }

    #[test]
    fn a_wave_ends_before_a_shard_that_took_gives_and_before_one_that_gave_takes() {
        let moves = [(0, 1), (0, 2), (3, 1), (1, 2), (3, 0)].map(moved);
        let waves: Vec<usize> = waves(&moves).into_iter().map(<[Move]>::len).collect();
        assert_eq!(waves, [3, 2]);
        let back = [(0, 1), (2, 0)].map(moved);
        assert_eq!(super::waves(&back).len(), 2);
        assert!(super::waves(&[]).is_empty());
    }
}
