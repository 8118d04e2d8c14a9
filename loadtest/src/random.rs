//! Random: a small, repeatable stream of pseudo-random numbers (SplitMix64).
//!
//! **Invariant:** the same seed and user result in the same numbers, on every machine and in every
//! version.
//! **Not here:** random numbers that must be hard to guess, uneven distributions (`keys`).

use std::convert::Infallible;

use rand::TryRng;

/// Stream of pseudo-random numbers. A clone continues with the same numbers as the original.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Returns the stream of one user of a run.
    pub(crate) fn of_user(seed: u64, user: usize) -> Self {
        Self(mix(seed ^ mix((user as u64).wrapping_add(1))))
    }

    /// Returns a number from 0 to `bound` - 1, all equally likely; 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        // The product of a 32-bit number and `bound`, divided by 2^32, is always less than `bound`.
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// Spreads every bit of `value` over all others.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(mut random: Random) -> Vec<u32> {
        (0..1_000).map(|_| random.below(10)).collect()
    }

    #[test]
    fn a_seed_repeats_and_users_differ() {
        assert_eq!(draw(Random::of_user(1, 0)), draw(Random::of_user(1, 0)));
        assert_ne!(draw(Random::of_user(1, 0)), draw(Random::of_user(1, 1)));
        assert_ne!(draw(Random::of_user(1, 0)), draw(Random::of_user(2, 0)));
    }

    #[test]
    fn every_value_below_the_bound_is_drawn() {
        let drawn = draw(Random::of_user(1, 0));
        assert!((0..10).all(|value| drawn.contains(&value)));
        assert!(drawn.iter().all(|&value| value < 10));
    }
}
