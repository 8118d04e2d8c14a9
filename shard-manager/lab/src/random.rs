//! Random: generates pseudorandom numbers that depend only on the seed, so they are equal on every
//! machine.
//!
//! The algorithm is SplitMix64 (Steele, Lea and Flood, 2014).

/// Difference between two successive states of the generator.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Generator of pseudorandom numbers.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Creates a generator from a seed and the name of a purpose. Generators with the same seed and
    /// different purposes yield different sequences.
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        let mixed = purpose.bytes().fold(seed, |state, byte| {
            let mut one = Self(state ^ u64::from(byte));
            one.next()
        });
        Self(mixed)
    }

    /// Returns the number at this index of the sequence, counted from 0. Numbers at different
    /// indexes are different.
    pub(crate) fn at(&self, place: u64) -> u64 {
        Self(self.0.wrapping_add(STEP.wrapping_mul(place))).next()
    }

    /// Returns the next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let bits = self.0;
        let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Returns a number from 0 to `bound - 1`. The bound must not be 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Returns a number that is at least 0 and less than 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_seed_and_purpose_only() {
        let drawn = |seed, purpose| {
            let mut random = Random::new(seed, purpose);
            (0..4).map(|_| random.below(1_000)).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1, "keys"), drawn(1, "keys"));
        assert_ne!(drawn(1, "keys"), drawn(2, "keys"));
        assert_ne!(drawn(1, "keys"), drawn(1, "reads"));
        let (places, mut random) = (Random::new(7, "places"), Random::new(7, "places"));
        assert!((0..4).all(|place| places.at(place) == random.next()));
        let mut random = Random::new(7, "share");
        let shares: Vec<f64> = (0..1_000).map(|_| random.share()).collect();
        assert!(shares.iter().all(|share| (0.0..1.0).contains(share)));
    }
}
