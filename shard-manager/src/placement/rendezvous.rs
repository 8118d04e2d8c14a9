//! Rendezvous: every shard draws a lot for every slot, and the highest lot owns it.
//!
//! Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998; weights by the logarithmic
//! method (Schindelhauer and Schomaker 2005). A shard that comes or grows only takes, one that goes or shrinks only
//! gives, and a slot's second choice is known before its first goes. Shares are as even as luck: off by about the
//! square root of a shard's slots, better than a ring; building asks every shard for every slot.
//!
//! A lot `u` in (0, 1] is weighed as `weight / -log2(u)`. The logarithm of a C library is not the same on all machines,
//! and one slot placed otherwise is one slot whose rows are not found: so the logarithm is computed here, in
//! integers, and golden vectors pin it.
//!
//! **Invariant:** only integers; the order of shards does not matter, only names and weights.
//! **Not here:** the lots themselves (`mixer`).

use super::mixer;
use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardIndex, Topology};

/// Bits of a logarithm after the point. Of 1000 shards the winner's is about 2^-10: it keeps 30 good bits.
const FRACTION_BITS: u32 = 40;

pub(super) fn assign(topology: &Topology) -> Vec<ShardIndex> {
    let mut specs: Vec<_> = topology.shards().iter().zip(topology.indices()).collect();
    // The heaviest first: who wins early is rarely beaten.
    specs.sort_unstable_by(|(a, _), (b, _)| (b.weight, &a.name).cmp(&(a.weight, &b.name)));
    let hash = |name: &str| xxhash_rust::xxh3::xxh3_64(name.as_bytes());
    let players: Vec<(u64, u64)> =
        specs.iter().map(|(spec, _)| (hash(&spec.name), u64::from(spec.weight))).collect();
    (0..SLOT_COUNT).map(|slot| specs[winner(&players, mixer::of_slot(slot))].1).collect()
}

/// Which of the shards, given by hash of the name and weight, has the highest weighted lot for a slot; of equal ones
/// the first.
fn winner(players: &[(u64, u64)], slot: u64) -> usize {
    let draw = |name: u64| mixer::mix(slot ^ name);
    // Who has won so far, with which weight and lot, and the lot's logarithm once it is asked for.
    let (first, mut weight) = players[0];
    let (mut best, mut highest, mut least) = (0, draw(first), None);
    for (index, &(name, own_weight)) in players.iter().enumerate().skip(1) {
        let lot = draw(name);
        if own_weight == weight {
            // The higher lot wins, whatever the logarithms are.
            if lot > highest {
                (best, highest, least) = (index, lot, None);
            }
            continue;
        }
        let known = *least.get_or_insert_with(|| minus_log2(highest));
        // -log2(u) >= 1 - u: who would lose with that loses, and most do without a logarithm. 40 bits of a lot times
        // 20 of a weight fit into 64, and a product that does not fit is larger.
        if own_weight.saturating_mul(known) <= weight * (!lot >> (64 - FRACTION_BITS)) {
            continue;
        }
        // `own_weight / own > weight / known`, without division.
        let own = minus_log2(lot);
        if u128::from(own_weight) * u128::from(known) > u128::from(weight) * u128::from(own) {
            (best, weight, highest, least) = (index, own_weight, lot, Some(own));
        }
    }
    best
}

/// `-log2((lot + 1) / 2^64)` with [`FRACTION_BITS`] after the point, rounded up; at least the smallest step, so
/// that nobody divides by zero. The bits of a logarithm are found by squaring: whenever the square of a number in
/// [1, 2) reaches 2, the next bit is 1.
fn minus_log2(lot: u64) -> u64 {
    let Some(number) = lot.checked_add(1) else { return 1 };
    let zeros = number.leading_zeros();
    let mut log = u64::from(63 - zeros);
    // In [1, 2), with 63 bits after the point.
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
    use super::{FRACTION_BITS, minus_log2};

    #[test]
    fn powers_of_two_have_whole_logarithms() {
        for power in 0..64 {
            assert_eq!(minus_log2((1 << power) - 1), (64 - power) << FRACTION_BITS, "2^{power}");
        }
        assert_eq!(minus_log2(u64::MAX), 1);
    }

    #[test]
    fn other_numbers_have_the_logarithm_that_a_library_tells() {
        for lot in (1..64).flat_map(|shift| [(u64::MAX / 3) >> shift, (u64::MAX / 7 * 6) >> shift])
        {
            let told = 64.0 - (lot as f64 + 1.0).log2();
            let own = minus_log2(lot) as f64 / 2_f64.powi(FRACTION_BITS as i32);
            assert!((told - own).abs() < 1e-9, "{lot}: {told} {own}");
        }
    }
}
