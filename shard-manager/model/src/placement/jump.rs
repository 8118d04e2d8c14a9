//! Jump: jump consistent hashing of slots.
//!
//! Source: Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014. No table
//! and no ring: a slot jumps to ever higher shards until a jump leads beyond the last one. A shard
//! added at the end takes its share and nothing else moves. Shards have no weights and are
//! identified by their number: only the last one can be removed without moving the slots of those
//! after it.
//!
//! **Invariant:** the published function, bit for bit. Its floating point is one division and one
//! multiplication, which IEEE 754 rounds alike on every machine.
//! **Not here:** weights, which are ignored, except that a shard of weight 0 gets no slots.

use super::{mixer, takers};
use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardNumber, Topology};

pub(super) fn assign(topology: &Topology) -> Vec<ShardNumber> {
    let takers = takers(topology);
    let bucket = |slot| jump(mixer::of_slot(slot), takers.len() as i64) as usize;
    (0..SLOT_COUNT).map(|slot| takers[bucket(slot)]).collect()
}

/// Returns the bucket of a key, `0..buckets`, by the paper's function.
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

    /// Compares with values of a C implementation of the paper's listing.
    #[test]
    fn the_function_is_the_published_one() {
        for (key, buckets, golden) in GOLDEN {
            assert_eq!(jump(key, buckets), golden, "{key:#x} of {buckets}");
        }
    }

    const GOLDEN: [(u64, i64, i64); 5] =
        [(1, 1, 0), (42, 57, 43), (0xdead_10cc, 1, 0), (0xdead_10cc, 666, 361), (256, 1024, 520)];
}
