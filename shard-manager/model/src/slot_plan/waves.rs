//! Waves: groups consecutive moves of an advice into waves, within which the parts of different
//! moves may be carried out in any order.
//!
//! An advice may first give a shard a hot slot and then take cool slots from the same shard. If the
//! parts of two such moves were mixed, the shard could be fuller in between than the advice allows.
//!
//! **Invariant:** within a wave no shard both gives and takes slots, so at any time during a wave a
//! taker has at most the load that it has at the end of the wave.
//! **Not here:** the moves of an advice (`advice`), the parts of moves (`steps`).

use std::collections::BTreeSet;

use crate::advice::Move;

/// Splits moves into waves and keeps their order.
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
