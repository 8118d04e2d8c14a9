//! Mixer: a fixed function that scrambles 64 bits evenly, for placements that need a pseudo-random
//! number for each slot.
//!
//! Source: the finaliser of SplitMix64 (Steele, Lea and Flood 2014; constants of Stafford's variant
//! 13). It takes only two multiplications, because the placement `rendezvous` calls it 16 million
//! times for 1000 shards.
//!
//! **Invariant:** the function is a bijection of 64-bit integers and never changes.
//! **Not here:** hashing of shard keys (`keyspace::hash`), and of names for a ring (`ring`).

/// 2^64 divided by the golden ratio. The multiples of this number are the inputs of the function;
/// slot 0 gets the first multiple, because the function maps 0 to 0.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

pub(super) fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Returns the pseudo-random number of a slot: output number `slot`, counted from 0, of SplitMix64
/// with seed 0.
pub(super) fn of_slot(slot: u16) -> u64 {
    mix((u64::from(slot) + 1).wrapping_mul(GAMMA))
}
