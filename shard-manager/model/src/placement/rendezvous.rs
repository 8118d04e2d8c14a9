//! Rendezvous: each shard draws a random number for each slot, and the shard with the highest
//! weighted number owns the slot.
//!
//! Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998; weights
//! by the logarithmic method (Schindelhauer and Schomaker 2005). A shard that is added, or whose
//! weight grows, only takes slots; a shard that is removed, or whose weight shrinks, only gives
//! slots away. The distribution is random: the number of slots of a shard differs from its share by
//! about the square root of that number, less than with a ring. The computation has to examine
//! every shard for every slot.
//!
//! A number `u` in (0, 1] has the weighted value `weight / -log2(u)`. The logarithm functions of C
//! libraries differ slightly between machines, and a router that placed a slot elsewhere would not
//! find its rows. Therefore the logarithm is computed here with integers, and tests compare it with
//! fixed results.
//!
//! **Invariant:** only integer arithmetic is used; the result depends on the names and weights of
//! the shards, not on their order.
//! **Not here:** the random numbers themselves (`mixer`).

use std::cmp::Reverse;

use super::mixer;
use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardNumber, Topology};

/// Number of fractional bits of a logarithm. The logarithm of the winner among 1000 shards is about
/// 2^-10, so 30 significant bits remain.
const FRACTION_BITS: u32 = 40;

pub(super) fn assign(topology: &Topology) -> Vec<ShardNumber> {
    let weighted = (0..).map(ShardNumber).zip(topology.share_weights());
    let mut takers: Vec<(u32, &str, ShardNumber)> = weighted
        .filter(|(_, weight)| *weight > 0)
        .map(|(shard, weight)| (weight, topology.name(shard), shard))
        .collect();
    // The shards with the highest weights come first, because a shard that leads early is then
    // rarely beaten.
    takers.sort_unstable_by_key(|(weight, name, _)| (Reverse(*weight), *name));
    let hash = |name: &str| xxhash_rust::xxh3::xxh3_64(name.as_bytes());
    let players: Vec<_> =
        takers.iter().map(|(weight, name, _)| (hash(name), u64::from(*weight))).collect();
    let mut hopeful = Vec::new();
    (0..SLOT_COUNT)
        .map(|slot| takers[winner(&players, mixer::of_slot(slot), &mut hopeful)].2)
        .collect()
}

/// Shard that may still win the slot, with its random number `lot` for that slot.
#[derive(Clone, Copy)]
struct Draw {
    index: usize,
    weight: u64,
    lot: u64,
}

/// Returns the index of the player with the highest weighted value for a slot; of equal ones, the
/// first. A player is a shard, given by the hash of its name and its weight.
///
/// `1 - u <= -ln(u) <= (1 - u) / u`, and for the high numbers that win, both bounds are nearly
/// equal. Logarithms are computed only for shards that can still win by these bounds, and there is
/// seldom more than one. `hopeful` is a buffer that is reused between calls.
fn winner(players: &[(u64, u64)], slot: u64, hopeful: &mut Vec<Draw>) -> usize {
    hopeful.clear();
    // Upper bound of the winner's `-ln(u) / weight`. It begins with the largest value whose product
    // with any weight fits into 64 bits.
    let mut most = u64::MAX / u64::from(Topology::WEIGHT_MAX);
    for (index, &(name, weight)) in players.iter().enumerate() {
        let lot = mixer::mix(slot ^ name);
        if missing(lot) <= weight * most {
            hopeful.push(Draw { index, weight, lot });
            most = most.min(at_most(lot) / weight + 1);
        }
    }
    hopeful.retain(|draw| missing(draw.lot) <= draw.weight * most);
    let won =
        hopeful.iter().copied().reduce(|best, draw| if draw.beats(best) { draw } else { best });
    won.map_or(0, |draw| draw.index)
}

impl Draw {
    /// Returns true if the weighted value `weight / -log2(u)` of this shard is higher than that of
    /// `before`.
    fn beats(self, before: Self) -> bool {
        if self.weight == before.weight {
            return self.lot > before.lot;
        }
        let product = |weight, lot| u128::from(weight) * u128::from(minus_log2(lot));
        product(self.weight, before.lot) > product(before.weight, self.lot)
    }
}

/// Returns `1 - u` with [`FRACTION_BITS`] fractional bits, rounded down.
fn missing(lot: u64) -> u64 {
    !lot >> (64 - FRACTION_BITS)
}

/// Returns an upper bound of `(1 - u) / u` with [`FRACTION_BITS`] fractional bits. It uses only as
/// many bits of `u` as a 64-bit division allows.
fn at_most(lot: u64) -> u64 {
    const BITS: u32 = 63 - FRACTION_BITS;
    ((missing(lot) + 1) << BITS) / (lot >> (64 - BITS)).max(1)
}

/// Returns `-log2((lot + 1) / 2^64)` with [`FRACTION_BITS`] fractional bits, rounded up. The result
/// is never 0, because it stands for a divisor. The bits of the logarithm are found by repeated
/// squaring: whenever the square of a number in [1, 2) reaches 2, the next bit is 1.
fn minus_log2(lot: u64) -> u64 {
    let Some(number) = lot.checked_add(1) else { return 1 };
    let zeros = number.leading_zeros();
    let mut log = u64::from(63 - zeros);
    // Number in [1, 2), with 63 fractional bits.
    let mut rest = number << zeros;
    for _ in 0..FRACTION_BITS {
        let square = u128::from(rest) * u128::from(rest);
        let reaches_two = square >> 127 == 1;
        log = (log << 1) | u64::from(reaches_two);
        rest = (square >> if reaches_two { 64 } else { 63 }) as u64;
    }
    ((64 << FRACTION_BITS) - log).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Draw, FRACTION_BITS, at_most, minus_log2, missing, mixer, winner};
    use crate::topology::Topology;

    proptest! {
        #[test]
        fn the_winner_is_the_same_as_with_every_logarithm_computed(
            players in prop::collection::vec((any::<u64>(), 1..=Topology::WEIGHT_MAX, 0..20_u32), 1..40),
            slot: u64,
        ) {
            let players: Vec<_> = players
                .into_iter()
                .map(|(name, weight, shift)| (name, u64::from((weight >> shift).max(1))))
                .collect();
            let draws = players.iter().enumerate().map(|(index, &(name, weight))| Draw {
                index, weight, lot: mixer::mix(slot ^ name),
            });
            let best = draws.reduce(|best, draw| if draw.beats(best) { draw } else { best });
            let won = winner(&players, slot, &mut Vec::new());
            prop_assert_eq!(Some(won), best.map(|draw| draw.index));
        }

        #[test]
        fn a_logarithm_lies_between_its_bounds(lot: u64, shift in 0..64_u32) {
            for lot in [lot, lot >> shift, !(lot >> shift)] {
                let log = minus_log2(lot) as f64 * std::f64::consts::LN_2;
                prop_assert!(missing(lot) as f64 <= log + 1.0, "{lot}");
                // The logarithm is rounded up by less than two steps of ln 2 each, and the bound is
                // rounded down by less than one.
                prop_assert!(at_most(lot) as f64 >= log - 2.4, "{lot}");
            }
        }
    }

    #[test]
    fn powers_of_two_have_whole_logarithms() {
        for power in 0..64 {
            assert_eq!(minus_log2((1 << power) - 1), (64 - power) << FRACTION_BITS, "2^{power}");
        }
        assert_eq!(minus_log2(u64::MAX), 1);
    }

    #[test]
    fn other_numbers_have_the_logarithm_of_a_library() {
        for lot in (1..64).flat_map(|shift| [(u64::MAX / 3) >> shift, (u64::MAX / 7 * 6) >> shift])
        {
            let reported = 64.0 - (lot as f64 + 1.0).log2();
            let own = minus_log2(lot) as f64 / 2_f64.powi(FRACTION_BITS as i32);
            assert!((reported - own).abs() < 1e-9, "{lot}: {reported} {own}");
        }
    }
}
