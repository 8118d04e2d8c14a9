//! Mix: the operations of the users, and the share of each operation. Mixes named by a letter are
//! the core workloads of YCSB.
//!
//! **Not here:** making the request of an operation (`requests`).

use std::fmt;

use clap::ValueEnum;

use crate::counters::Operation;
use crate::keys::Dist;
use crate::random::Random;

/// A named mix of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mix {
    /// 70 % writes, 30 % reads (`--writes` sets another share)
    Default,
    /// Update heavy: 50 % writes, 50 % reads; zipf
    A,
    /// Read mostly: 5 % writes, 95 % reads; zipf
    B,
    /// Reads only; zipf
    C,
    /// Read latest: 5 % inserts, 95 % reads of the newest
    D,
    /// Short scans: 5 % inserts, 95 % pages in key order over all shards; zipf
    E,
    /// 50 % reads, 50 % read-modify-write with If-Match; zipf
    F,
    /// Bulk writes of 100 rows
    Bulk,
    /// Keys and values: 50 % PUT, 50 % GET of /api/kv; zipf
    Kv,
    /// Reads of all shards, filtered and ordered
    Scatter,
    /// 70 % writes, 30 % reads, 90 % of them on 1 % of the keys
    Hotkey,
}

impl Mix {
    /// Returns the two operations with their shares in percent, which add up to 100.
    fn shares(self, writes: u32) -> [(Operation, u32); 2] {
        use Operation::{Bulk, Insert, KvGet, KvPut, Modify, Read, Scan, Scatter, Write};
        match self {
            Self::Default | Self::Hotkey => [(Write, writes), (Read, 100 - writes)],
            Self::A => [(Write, 50), (Read, 50)],
            Self::B => [(Write, 5), (Read, 95)],
            Self::C => [(Write, 0), (Read, 100)],
            Self::D => [(Insert, 5), (Read, 95)],
            Self::E => [(Insert, 5), (Scan, 95)],
            Self::F => [(Modify, 50), (Read, 50)],
            Self::Bulk => [(Bulk, 100), (Read, 0)],
            Self::Kv => [(KvPut, 50), (KvGet, 50)],
            Self::Scatter => [(Scatter, 100), (Read, 0)],
        }
    }

    /// Draws the next operation; `writes` is the percentage of writes that `--writes` sets.
    pub(crate) fn next(self, random: &mut Random, writes: u32) -> Operation {
        let [(first, share), (second, _)] = self.shares(writes);
        if random.below(100) < share { first } else { second }
    }

    /// Returns the default distribution of keys, which `--dist` replaces.
    pub(crate) fn dist(self) -> Dist {
        const YCSB: Dist = Dist::Zipf(0.99);
        match self {
            Self::Default | Self::Bulk | Self::Scatter => Dist::Uniform,
            Self::A | Self::B | Self::C | Self::E | Self::F | Self::Kv => YCSB,
            Self::D => Dist::Latest,
            Self::Hotkey => Dist::Hot(1.0),
        }
    }

    /// Returns true if `--writes` has an effect on the mix.
    pub(crate) fn has_writes_share(self) -> bool {
        matches!(self, Self::Default | Self::Hotkey)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_draws_each_operation_by_its_share() {
        let mut random = Random::of_user(1, 0);
        for &mix in Mix::value_variants() {
            let shares = mix.shares(70);
            assert_eq!(shares[0].1 + shares[1].1, 100, "{mix}");
            let drawn: Vec<_> = (0..10_000).map(|_| mix.next(&mut random, 70)).collect();
            for (operation, share) in shares {
                let met = drawn.iter().filter(|&&drawn| drawn == operation).count() as u32 / 100;
                assert!(met.abs_diff(share) <= 2, "{mix}: {operation:?} {met} % of {share}");
            }
        }
    }
}
