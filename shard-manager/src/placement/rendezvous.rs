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

/// Shards of one weight. The highest lot among them is the best whatever the weight: most need no logarithm.
struct Class {
    weight: u32,
    /// Hash of the name, and the shard, in the order of names.
    shards: Vec<(u64, ShardIndex)>,
}

pub(super) fn assign(topology: &Topology) -> Vec<ShardIndex> {
    let classes = classes(topology);
    (0..SLOT_COUNT).map(|slot| winner(&classes, mixer::of_slot(slot))).collect()
}

fn classes(topology: &Topology) -> Vec<Class> {
    let mut shards: Vec<_> = topology.shards().iter().zip(topology.indices()).collect();
    shards.sort_unstable_by(|(a, _), (b, _)| (a.weight, &a.name).cmp(&(b.weight, &b.name)));
    let mut classes: Vec<Class> = Vec::new();
    for (spec, index) in shards {
        let shard = (xxhash_rust::xxh3::xxh3_64(spec.name.as_bytes()), index);
        match classes.last_mut() {
            Some(class) if class.weight == spec.weight => class.shards.push(shard),
            Some(_) | None => classes.push(Class { weight: spec.weight, shards: vec![shard] }),
        }
    }
    classes
}

fn winner(classes: &[Class], slot: u64) -> ShardIndex {
    // Weight, lot as `-log2`, shard: of the best so far.
    let mut best: Option<(u32, u64, ShardIndex)> = None;
    for class in classes {
        let (mut lot, mut shard) = (0, class.shards[0].1);
        for &(name, index) in &class.shards {
            let drawn = mixer::mix(slot ^ name);
            if drawn > lot {
                (lot, shard) = (drawn, index);
            }
        }
        let Some((weight, least, _)) = best else {
            best = Some((class.weight, minus_log2(lot), shard));
            continue;
        };
        // `class.weight / own > weight / least`, without division.
        let wins = |own: u64| {
            u128::from(class.weight) * u128::from(least) > u128::from(weight) * u128::from(own)
        };
        // -log2(u) >= 1 - u: who would lose with that loses, and most do.
        if wins(!lot >> (64 - FRACTION_BITS)) && wins(minus_log2(lot)) {
            best = Some((class.weight, minus_log2(lot), shard));
        }
    }
    best.expect("a topology has a shard").2
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
            let told = 64.0 - (lot as f64).log2();
            let own = minus_log2(lot) as f64 / 2_f64.powi(FRACTION_BITS as i32);
            // Both are near, except that `lot + 1` is not `lot` when it is small.
            assert!((told - own).abs() < 1e-9 + 2.0 / lot as f64, "{lot}: {told} {own}");
        }
    }
}
