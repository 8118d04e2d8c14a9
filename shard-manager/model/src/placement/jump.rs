//! Jump: jump consistent hashing of slots.
//!
//! Source: Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014. The
//! function needs neither a table nor a ring: a slot jumps to ever higher shards, until a jump
//! would lead beyond the last one. A shard that is added at the end takes its share, and no slot
//! moves between other shards. Weights are not supported, and shards are identified by their place
//! in the order: removing any but the last one moves slots of the shards after it as well.
//!
//! **Invariant:** the results are those of the published function, on every machine. Its
//! floating-point operations are one division and one multiplication, whose rounding IEEE 754
//! defines exactly.
//! **Not here:** weights. They are ignored, except that a shard of weight 0 gets no slots.

use super::{mixer, takers};
use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardNumber, Topology};

pub(super) fn assign(topology: &Topology) -> Vec<ShardNumber> {
    let takers = takers(topology);
    let bucket = |slot| jump(mixer::of_slot(slot), takers.len() as i64) as usize;
    (0..SLOT_COUNT).map(|slot| takers[bucket(slot)]).collect()
}

/// Returns the bucket of a key, `0..buckets`, by the function of the paper.
fn jump(mut key: u64, buckets: i64) -> i64 {
    let (mut bucket, mut next) = (-1, 0);
    while next < buckets {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let scale = (1_u64 << 31) as f64 / ((key >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * scale) as i64;
    }
    bucket
}

#[cfg(test)]
mod tests {
    use super::jump;

    /// Compares results with those of a C implementation of the listing in the paper.
    #[test]
    fn the_function_is_the_published_one() {
        for (key, buckets, golden) in GOLDEN {
            assert_eq!(jump(key, buckets), golden, "{key:#x} of {buckets}");
        }
    }

    const GOLDEN: [(u64, i64, i64); 5] =
        [(1, 1, 0), (42, 57, 43), (0xdead_10cc, 1, 0), (0xdead_10cc, 666, 361), (256, 1024, 520)];
}
