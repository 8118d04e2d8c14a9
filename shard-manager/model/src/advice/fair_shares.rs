//! Fair shares: the load that each shard should carry by its weight, compared with its actual load.
//!
//! **Invariant:** the skew, which is the load of the fullest shard as a multiple of its fair share,
//! leaves out shards whose fair share is zero.
//! **Not here:** the load of slots, the verdict (`load_judgement`).

use super::{SKEW_TOLERATED, load_plan};

/// Number of standard deviations by which the requests to a shard may exceed its fair share by
/// chance.
pub(super) const CHANCE: f64 = 4.0;

/// Weights of the shards, by number, and the total that they share.
pub(super) struct FairShares {
    /// Weight of each shard; 0 for a shard that should have no load.
    weights: Vec<u64>,
    total: u64,
}

impl FairShares {
    pub(super) fn new(weights: Vec<u64>, total: u64) -> Self {
        Self { weights, total }
    }

    pub(super) fn weights(&self) -> &[u64] {
        &self.weights
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Returns the number of shards with a weight above 0, which are those that should have load.
    pub(super) fn sharing(&self) -> usize {
        self.weights.iter().filter(|weight| **weight > 0).count()
    }

    /// Returns a load as a fraction of the total.
    pub(super) fn share(&self, load: u64) -> f64 {
        load as f64 / self.total.max(1) as f64
    }

    pub(super) fn fair_share(&self, shard: usize) -> f64 {
        self.weights[shard] as f64 / self.weights.iter().sum::<u64>() as f64
    }

    /// Returns the largest fair share of a shard.
    pub(super) fn largest_fair_share(&self) -> f64 {
        let fair_shares = (0..self.weights.len()).map(|shard| self.fair_share(shard));
        fair_shares.fold(0.0, f64::max)
    }

    /// Returns the load of a shard as a multiple of its fair share; `None` if its fair share is
    /// zero.
    pub(super) fn multiple(&self, loads: &[u64], shard: usize) -> Option<f64> {
        let fair_share = self.fair_share(shard);
        (fair_share > 0.0).then(|| self.share(loads[shard]) / fair_share)
    }

    /// Returns the load of the fullest shard as a multiple of its fair share.
    pub(super) fn skew(&self, loads: &[u64]) -> f64 {
        if self.total == 0 {
            return 1.0;
        }
        (0..loads.len()).filter_map(|shard| self.multiple(loads, shard)).fold(0.0, f64::max)
    }

    /// Returns the shard with the most load among those that should have none; `None` if none of
    /// them has load.
    pub(super) fn fullest_without_share(&self, loads: &[u64]) -> Option<usize> {
        let none = (0..loads.len()).filter(|&shard| self.weights[shard] == 0);
        none.filter(|&shard| loads[shard] > 0).max_by_key(|&shard| loads[shard])
    }

    /// Returns true if a shard has more load than [`SKEW_TOLERATED`] permits, and also more than
    /// chance explains.
    pub(super) fn is_overloaded(&self, loads: &[u64], shard: usize) -> bool {
        let fair = self.fair_share(shard) * self.total as f64;
        loads[shard] as f64 > (fair * SKEW_TOLERATED).max(fair + CHANCE * fair.sqrt())
    }

    /// Returns true if at least one shard is overloaded (`is_overloaded`).
    pub(super) fn is_beyond_chance(&self, loads: &[u64]) -> bool {
        (0..loads.len()).any(|shard| self.is_overloaded(loads, shard))
    }

    /// Returns true if a shard is fuller, in proportion to its weight, than another one.
    pub(super) fn is_fuller(
        &self,
        (loads, shard): (&[u64], usize),
        (other_loads, other): (&[u64], usize),
    ) -> bool {
        load_plan::is_fuller(
            (loads[shard], self.weights[shard]),
            (other_loads[other], self.weights[other]),
        )
    }
}
