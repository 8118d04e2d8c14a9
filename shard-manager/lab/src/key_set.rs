//! Key set: shard keys like those of real systems, generated from a seed or provided by the user.
//!
//! **Invariant:** the same kind, number of keys and seed yield the same keys on every machine.
//! **Not here:** reading the user's keys from a file (`cli`).

use std::collections::BTreeSet;

use model::keyspace::list::ListSpace;
use model::keyspace::{Keyspace, ShardKey};

use crate::random::Random;

/// Maximum number of keys of a set. All keys of a set are in memory.
pub const KEYS_MAX: u64 = 1_000_000;
/// Number of groups of keys: servers in Matrix ids, or tenants.
const GROUPS: u64 = 50;
/// Maximum number of partitions of a keyspace `list`. Each distinct name before the first colon of
/// a key is a partition; a set with more names is not tried with this keyspace.
const PARTITIONS_MAX: usize = 256;
/// Number of ranges of the keyspaces `range` and `range-text`.
const RANGES: i128 = 64;
/// Fraction of the keys of the kind `hot-end` that are drawn from the last tenth of the range; the
/// others are drawn from the whole range.
const HOT_SHARE: f64 = 0.8;

/// Kind of generated keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// User ids of the Matrix protocol, such as `@user1:s3.example.org`, most of them on a few
    /// servers.
    Matrix,
    /// Consecutive numbers.
    Numeric,
    /// Users of tenants, such as `tenant3:user_1`, most of them of a few tenants.
    Tenants,
    /// Numbers of a range, most of them near its end, as with timestamps and counters.
    HotEnd,
}

impl KeyKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Matrix, Self::Numeric, Self::Tenants, Self::HotEnd];

    /// Returns the name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Matrix => "matrix",
            Self::Numeric => "numeric",
            Self::Tenants => "tenants",
            Self::HotEnd => "hot-end",
        }
    }
}

/// Set of shard keys with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabKeys {
    /// Name of the kind of generated keys, or of the user's file.
    pub name: String,
    /// Shard keys of the set.
    pub keys: Vec<String>,
}

impl LabKeys {
    /// Generates this number of keys of a kind from a seed.
    pub fn generated(kind: KeyKind, count: u64, seed: u64) -> Self {
        let mut random = Random::new(seed, kind.name());
        let key = |number: u64| match kind {
            KeyKind::Matrix => format!("@user{number}:s{}.example.org", group(&mut random)),
            KeyKind::Numeric => number.to_string(),
            KeyKind::Tenants => format!("tenant{}:user_{number}", group(&mut random)),
            KeyKind::HotEnd => hot_end(&mut random, count * 10).to_string(),
        };
        Self { name: kind.name().to_owned(), keys: (0..count).map(key).collect() }
    }

    /// Returns the keyspaces with which the set is tried: those that can map each of its keys to a
    /// slot.
    pub fn keyspaces(&self) -> Vec<Keyspace> {
        let plain = ["hash", "modulo", "matrix:id", "matrix:server"];
        let plain = plain.iter().filter_map(|name| name.parse().ok());
        let ranges = self.ranges().or_else(|| self.text_ranges());
        let all = plain.chain(ranges).chain(self.partitions());
        all.filter(|keyspace: &Keyspace| self.fits(keyspace)).collect()
    }

    /// Returns true if the keyspace can map each of the keys to a slot.
    pub fn fits(&self, keyspace: &Keyspace) -> bool {
        self.keys
            .iter()
            .all(|key| ShardKey::parse(key).is_ok_and(|key| keyspace.slot_of(key).is_ok()))
    }

    /// Returns the keyspace `range` with ranges of equal width between the smallest and the largest
    /// key; `None` if not all keys are integers.
    fn ranges(&self) -> Option<Keyspace> {
        let numbers: Option<Vec<i64>> = self.keys.iter().map(|key| key.parse().ok()).collect();
        let numbers = numbers?;
        let (least, most) =
            (i128::from(*numbers.iter().min()?), i128::from(*numbers.iter().max()?));
        let splits: BTreeSet<i128> =
            (1..RANGES).map(|split| least + (most - least) * split / RANGES).collect();
        let splits: Vec<String> = splits.iter().map(ToString::to_string).collect();
        format!("range:{}", splits.join(",")).parse().ok()
    }

    /// Returns the keyspace `range-text`, whose ranges in alphabetical order of the keys contain
    /// equal numbers of keys.
    fn text_ranges(&self) -> Option<Keyspace> {
        let mut sorted: Vec<&str> = self.keys.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let ranges = RANGES as usize;
        let splits = (1..ranges).map(|split| sorted.get(sorted.len() * split / ranges).copied());
        let splits: Option<BTreeSet<&str>> = splits.collect();
        let splits: Vec<&str> = splits?.into_iter().collect();
        format!("range-text:{}", splits.join(",")).parse().ok()
    }

    /// Returns the keyspace `list`, with a partition of weight 1 for each name before the first
    /// colon; `None` if a key has no colon or there are too many names.
    fn partitions(&self) -> Option<Keyspace> {
        let mut names = BTreeSet::new();
        for key in &self.keys {
            names.insert(key.split_once(':')?.0);
            if names.len() > PARTITIONS_MAX {
                return None;
            }
        }
        let partitions = names.into_iter().map(|name| (name.into(), 1)).collect();
        Some(Keyspace::List(ListSpace::new(partitions).ok()?.into()))
    }
}

/// Returns the number of a random group. Group 0 is the most frequent, and each further group is
/// less frequent than the one before.
fn group(random: &mut Random) -> u64 {
    let cubed = random.share().powi(3);
    (cubed * GROUPS as f64) as u64
}

fn hot_end(random: &mut Random, end: u64) -> u64 {
    let tenth = (end / 10).max(1);
    let is_hot = random.share() < HOT_SHARE;
    if is_hot { end - 1 - random.below(tenth) } else { random.below(end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_equal_for_equal_seeds_and_each_set_has_its_keyspaces() {
        let names = |kind| {
            let set = LabKeys::generated(kind, 500, 3);
            assert_eq!(set, LabKeys::generated(kind, 500, 3));
            assert_eq!(set.keys.len(), 500);
            let spaces = set.keyspaces().into_iter().map(|keyspace| keyspace.to_string());
            let forms = spaces.map(|space| space.split(':').next().unwrap_or_default().to_owned());
            forms.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(KeyKind::Matrix), "hash matrix matrix range-text");
        assert_eq!(names(KeyKind::Numeric), "hash modulo range");
        assert_eq!(names(KeyKind::Tenants), "hash modulo range-text list");
        assert_eq!(names(KeyKind::HotEnd), "hash modulo range");
        let tenants = |seed| LabKeys::generated(KeyKind::Tenants, 9, seed);
        assert_ne!(tenants(3), tenants(4));
    }

    #[test]
    fn ranges_of_text_have_equal_numbers_of_keys() {
        let set = LabKeys::generated(KeyKind::Tenants, 6_400, 3);
        let all = set.keyspaces();
        let text = all.iter().find(|keyspace| keyspace.to_string().starts_with("range-text:"));
        let text = text.expect("texts have ranges");
        let mut counts = std::collections::BTreeMap::new();
        for key in &set.keys {
            let slot = text.slot_of(ShardKey::parse(key).expect("a key")).expect("a slot");
            *counts.entry(slot.number()).or_insert(0) += 1;
        }
        assert_eq!(counts.into_values().collect::<Vec<_>>(), vec![100; 64]);
    }
}
