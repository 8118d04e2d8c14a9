//! Keyspace: spells the keys of a run so that they are valid in the cluster's keyspace (its rule
//! for distributing keys) and differ from the keys of all other clients.
//!
//! | Keyspace | A key of run `v1x` |
//! |---|---|
//! | hash | `loadtest-v1x-17` |
//! | modulo | `loadtest-v1x-17-8285`: the last digits are the slot |
//! | list, range of text | as for hash, after the name of a partition (`A:`) or a range's start |
//! | range of integers | zeros and 38 digits (run, number), or an integer between split points |
//! | matrix | `@loadtest-v1x-17:s17.loadtest.invalid` |
//! | list, range by a column | as for hash; users have a partition ([`Names::partition`]) |
//!
//! There are too few integers between two split points for a key to contain the number of its run.
//! Such a key is an integer of the range with leading zeros. Keys differ in the integer or in the
//! number of zeros. Each run starts at a different place in the range, and uses at most a quarter
//! of the range's keys. The keys of two concurrent runs may nevertheless be the same. They are not
//! used in a table that is shared with other clients ([`Names::marked`]), where a run finds its
//! rows by its name in the key.
//!
//! With tenants, the key `loadtest-v1x-17` is `loadtest-v1x-t3~17` for the tenant with number 3.
//!
//! **Invariant:** different names in a run have different keys. A key needs no escaping in a header
//! or in a URL.
//! **Not here:** choosing the next number (`keys`), the rows (`own_rows`).

mod integer_range;
mod partitions;
mod tenant;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use serde::Deserialize;

use integer_range::IntegerRange;
use partitions::UserPartitions;
pub(crate) use tenant::TenantKeys;

/// Number of servers over which the users of a matrix keyspace are spread.
const SERVERS: u32 = 256;
/// First digits of integer keys, after the sign. No other program writes integers in this form.
const ZEROS: &str = "0000001";
/// Number of digits of an integer key after [`ZEROS`]: run, kind and two numbers. With the leading
/// 1, the integer has 38 digits, the most that always fit in 128 bits.
const DIGITS: usize = 16 + 1 + 10 + 10;
/// Divisor of a run's number. An integer key contains only the remainder.
const RUNS: u64 = 10_000_000_000_000_000;

/// Maximum number of sessions whose rows can have keys in ranges between split points.
const SESSIONS: u32 = 64;

/// Number of slots over which keys are distributed.
const SLOTS: u32 = 16_384;
/// Distance in slots between successive keys in the keyspace modulo. With key `n` in slot `n`, a
/// small run would stay on the first shard. The distance is odd, so that all slots are reached. It
/// is 0.618 of the number of slots, so that any few successive keys lie far apart (multiplicative
/// hashing: Knuth, "The Art of Computer Programming", volume 3, section 6.4).
const STRIDE: u32 = 10_125;

/// Members of the shard map that describe the form of keys.
#[derive(Deserialize)]
struct ShardMap {
    keyspace: String,
    parameters: serde_json::Value,
}

/// Form of keys that a cluster's keyspace requires.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    /// Any string that begins with one of these prefixes.
    Behind(Vec<String>),
    /// A string that ends in the number of its slot.
    Modulo,
    /// Integers. The list contains the ranges between split points that have enough keys.
    Integers(Vec<IntegerRange>),
    Matrix,
}

/// Purpose of a key, and the numbers that distinguish keys of this purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// A key of a run with a mix of operations.
    Plain(u32),
    /// A register (a row with one value) that all sessions use often.
    Hot(u32),
    /// A register that sessions use less often.
    Cold(u32),
    /// A row that is written once: the numbers of its session and of the row in the session.
    Once(u32, u32),
    /// The accounts of a bank, which share one key.
    Bank(u32),
}

/// Number that stands for the kind [`Name::Once`] in integer keys.
const ONCE: u64 = 3;

/// Keys of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    shape: Shape,
    run: String,
    number: u64,
    /// Tenant to which the keys are restricted, if any.
    tenant: Option<u32>,
    /// Partitions of users, if a column determines the shard of a user.
    partitions: Option<UserPartitions>,
}

impl Names {
    /// Creates the names of a new run for the shard map in a response of `GET /api/shard-map`.
    ///
    /// # Errors
    /// Fails if the tester cannot make keys for the cluster's keyspace.
    pub(crate) fn of_new_run(shard_map: &[u8]) -> anyhow::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Two testers that start in the same microsecond have different process ids.
        let number = (now.as_micros() as u64).wrapping_mul(1 << 12) ^ u64::from(std::process::id());
        Self::of_run(shard_map, number)
    }

    fn of_run(shard_map: &[u8], number: u64) -> anyhow::Result<Self> {
        let map = serde_json::from_slice(shard_map).context("the shard map cannot be read")?;
        let partitions = UserPartitions::of(&map)?;
        Ok(Self { shape: shape(&map)?, run: run_name(number), number, tenant: None, partitions })
    }

    /// Restricts the keys to those that contain [`Names::mark`].
    pub(crate) fn marked(mut self) -> Self {
        if let Shape::Integers(ranges) = &mut self.shape {
            ranges.clear();
        }
        self
    }

    /// Returns the name of the run, which differs from that of any other run.
    pub(crate) fn run(&self) -> &str {
        &self.run
    }

    /// Returns the key for a purpose.
    pub(crate) fn key(&self, name: Name) -> String {
        let (kind, first, second) = match name {
            Name::Plain(number) => (0, 0, number),
            Name::Hot(number) => (1, 0, number),
            Name::Cold(number) => (2, 0, number),
            Name::Once(session, number) => (ONCE, session, number),
            Name::Bank(number) => (4, 0, number),
        };
        // The many rows of a session must be spread over the shards.
        let spread = first.wrapping_add(second);
        match &self.shape {
            Shape::Behind(prefixes) => {
                let prefix = &prefixes[spread as usize % prefixes.len()];
                format!("{prefix}{}", self.text(name))
            }
            Shape::Modulo => format!("{}-{}", self.text(name), slot(spread)),
            Shape::Matrix => {
                format!("@{}:s{}.loadtest.invalid", self.text(name), spread % SERVERS)
            }
            Shape::Integers(inner) => {
                let ranges = inner.len() as u32 + 2;
                let (round, range) = (spread / ranges, spread % ranges);
                let inner = (range as usize).checked_sub(2).map(|index| inner[index]);
                // Session and round determine a row. Only rows of `SESSIONS` sessions fit.
                let sessions = if kind == ONCE { SESSIONS } else { 1 };
                let index = u64::from(round) * u64::from(sessions) + u64::from(first);
                let index = index * integer_range::KINDS + kind;
                let fits = |_: &IntegerRange| first < sessions;
                let key = inner.filter(fits).and_then(|range| range.key(self.number, index));
                key.unwrap_or_else(|| {
                    let is_last = if range < 2 { range == 0 } else { round.is_multiple_of(2) };
                    let sign = if is_last { "" } else { "-" };
                    let run = self.number % RUNS;
                    format!("{sign}{ZEROS}{run:016}{kind}{first:010}{second:010}")
                })
            }
        }
    }

    /// Returns a key of the mix by its number.
    pub(crate) fn plain(&self, number: u32) -> String {
        self.key(Name::Plain(number))
    }

    /// Returns the readable form of a key, which names the run and the purpose.
    fn text(&self, name: Name) -> String {
        let lead = self.lead();
        match name {
            Name::Plain(number) => format!("{lead}{number}"),
            Name::Hot(number) => format!("{lead}h{number}"),
            Name::Cold(number) => format!("{lead}c{number}"),
            Name::Once(session, number) => format!("{lead}b{session}-{number}"),
            Name::Bank(number) => format!("{lead}bank{number}"),
        }
    }

    /// Returns a string that all [`Names::marked`] keys of this run contain, and no other keys.
    pub(crate) fn mark(&self) -> String {
        match &self.shape {
            Shape::Behind(_) | Shape::Modulo | Shape::Matrix => format!("loadtest-{}-", self.run),
            Shape::Integers(_) => format!("{ZEROS}{:016}", self.number % RUNS),
        }
    }

    /// Returns a string that the [`Names::marked`] keys of all runs contain; other keys may contain
    /// it too.
    pub(crate) fn mark_of_any(&self) -> &'static str {
        match &self.shape {
            Shape::Behind(_) | Shape::Modulo | Shape::Matrix => "loadtest-v",
            Shape::Integers(_) => ZEROS,
        }
    }

    /// Returns true for a [`Names::marked`] key of any run of the tester.
    pub(crate) fn is_own(&self, key: &str) -> bool {
        match &self.shape {
            Shape::Behind(_) | Shape::Modulo | Shape::Matrix => {
                let rest = key.split_once("loadtest-").map(|(_, rest)| rest);
                rest.and_then(|rest| rest.split_once('-')).is_some_and(|(run, _)| is_run(run))
            }
            Shape::Integers(_) => {
                let digits = key.strip_prefix('-').unwrap_or(key).strip_prefix(ZEROS);
                digits.is_some_and(|digits| {
                    digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit())
                })
            }
        }
    }
}

/// Returns the name of a run. The name of no other run begins with it.
fn run_name(mut number: u64) -> String {
    let mut name = "v".to_owned();
    while number > 0 {
        name.extend(char::from_digit((number % 36) as u32, 36));
        number /= 36;
    }
    name
}

fn is_run(text: &str) -> bool {
    let letters = text.strip_prefix('v').unwrap_or_default();
    (10..=13).contains(&letters.len()) && letters.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Returns the slot for a number in the keyspace modulo. Successive numbers get slots far apart.
fn slot(number: u32) -> u32 {
    (number % SLOTS) * STRIDE % SLOTS
}

impl ShardMap {
    /// Returns the split points, or the names of the partitions, from the keyspace's parameters. A
    /// partition is listed there as a pair of its name and its share.
    fn texts(&self, member: &str) -> Vec<&str> {
        let list = self.parameters[member].as_array();
        let items = list.map(Vec::as_slice).unwrap_or_default();
        items.iter().filter_map(|item| item.as_str().or_else(|| item[0].as_str())).collect()
    }
}

/// Returns true if a byte needs no escaping in a URL and is allowed in a header.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte)
}

fn shape(map: &ShardMap) -> anyhow::Result<Shape> {
    let texts = |member| map.texts(member);
    if map.parameters["column"].is_string() {
        return Ok(Shape::Behind(vec![String::new()]));
    }
    let prefixes = match (map.keyspace.as_str(), map.parameters["order"].as_str()) {
        ("hash", _) => vec![String::new()],
        ("modulo", _) => return Ok(Shape::Modulo),
        ("list", _) => texts("partitions").iter().map(|name| format!("{name}:")).collect(),
        ("range", Some("text")) => starts(&texts("splits")),
        ("range", Some("numeric")) => return integers(&texts("splits")).map(Shape::Integers),
        ("matrix", _) => return Ok(Shape::Matrix),
        (other, _) => bail!("the keyspace {other} is not supported by the load tester"),
    };
    let prefixes: Vec<String> =
        prefixes.into_iter().filter(|prefix| prefix.bytes().all(is_plain)).collect();
    anyhow::ensure!(
        !prefixes.is_empty(),
        "no part of the keyspace {} has a name of plain letters and digits, which the tester's keys begin with",
        map.keyspace
    );
    Ok(Shape::Behind(prefixes))
}

/// Returns the ranges between split points that contain an integer.
fn integers(splits: &[&str]) -> anyhow::Result<Vec<IntegerRange>> {
    let splits: Result<Vec<i128>, _> = splits.iter().map(|split| split.parse()).collect();
    let splits = splits.context("a split point of the shard map is not an integer")?;
    Ok(splits.windows(2).filter_map(|ends| IntegerRange::new(ends[0], ends[1])).collect())
}

/// Returns a prefix for keys in each range of text.
///
/// The prefix is the start of the range. If the start followed by `loadtest` sorts behind the
/// range, a hyphen is added to the start, because a hyphen sorts before all other characters of
/// keys. A range is left out if its keys would nevertheless sort behind it.
fn starts(splits: &[&str]) -> Vec<String> {
    let froms = std::iter::once("").chain(splits.iter().copied());
    let belows = splits.iter().copied().map(Some).chain([None]);
    let stays = |start: &str, below: Option<&str>| {
        below.is_none_or(|below| format!("{start}loadtest-z").as_str() < below)
    };
    let start = |(from, below): (&str, Option<&str>)| {
        [from.to_owned(), format!("{from}-")].into_iter().find(|start| stays(start, below))
    };
    froms.zip(belows).filter_map(start).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NUMBER: u64 = 7_000_000_000_123_456_789;

    fn names(keyspace: &str, parameters: &str) -> Names {
        let map = format!(r#"{{"keyspace":"{keyspace}","parameters":{parameters},"epoch":1}}"#);
        Names::of_run(map.as_bytes(), NUMBER).unwrap()
    }

    fn all() -> Vec<Names> {
        vec![
            names("hash", r#"{"seed":0}"#),
            names("modulo", "{}"),
            names("list", r#"{"partitions":[["A",2],["B",1],["Ω",1]],"seed":0}"#),
            names("range", r#"{"order":"text","splits":["g","n"],"slots":[0,1,2]}"#),
            names("range", r#"{"order":"numeric","splits":["10","20"],"slots":[0,1,2]}"#),
            names("matrix", r#"{"mode":"id"}"#),
        ]
    }

    #[test]
    fn every_keyspace_has_keys_of_a_run_that_never_meet() {
        for names in all().into_iter().chain(all().into_iter().map(Names::marked)) {
            let is_marked = names == names.clone().marked();
            let numbers = || 0..50;
            let keys: Vec<String> = numbers()
                .map(Name::Plain)
                .chain(numbers().map(Name::Hot))
                .chain(numbers().map(Name::Cold))
                .chain(numbers().flat_map(|one| numbers().map(move |two| Name::Once(one, two))))
                .chain(numbers().map(Name::Bank))
                .map(|name| names.key(name))
                .collect();
            let different: HashSet<&String> = keys.iter().collect();
            assert_eq!(different.len(), keys.len());
            for key in &keys {
                assert!(key.len() < 200, "{key}");
                assert!(names.is_own(key) || !is_marked, "{key}");
                assert!(key.contains(&names.mark()) || !is_marked, "{key}");
                assert!(key.contains(names.mark_of_any()) || !is_marked, "{key}");
                assert!(key.bytes().all(|byte| byte.is_ascii_graphic()), "{key}");
            }
        }
    }

    #[test]
    fn keys_are_spelled_as_the_keyspace_demands() {
        let keys: Vec<[String; 2]> =
            all().iter().map(|names| [0, 1].map(|number| names.plain(number))).collect();
        let run = run_name(NUMBER);
        let text = |number: u32| format!("loadtest-{run}-{number}");
        assert_eq!(keys[0], [text(0), text(1)]);
        assert_eq!(keys[1], [text(0) + "-0", text(1) + "-10125"]);
        assert_eq!(keys[2], [format!("A:{}", text(0)), format!("B:{}", text(1))]);
        // "loadtest" lies between g and n, so keys of the first range begin with a hyphen.
        assert_eq!(keys[3], [format!("-{}", text(0)), format!("g{}", text(1))]);
        let digits = format!("1{:016}0{:010}", NUMBER % RUNS, 0);
        assert_eq!(keys[4][0].trim_start_matches('0'), format!("{digits}{:010}", 0));
        assert_eq!(keys[4][1].trim_start_matches(['-', '0']), format!("{digits}{:010}", 1));
        for key in &keys[4] {
            assert!(key.parse::<i128>().is_ok(), "{key}");
        }
        assert_eq!(keys[5][1], format!("@{}:s1.loadtest.invalid", text(1)));
    }

    #[test]
    fn few_keys_reach_all_shards_in_the_keyspace_modulo() {
        let names = names("modulo", "{}");
        for shards in [2, 3, 5, 16] {
            let mut of_shard = vec![0; shards];
            for number in 0..64 {
                let key = names.key(Name::Hot(number));
                let digits = key.rsplit_once('-').unwrap().1;
                let slot: usize = digits.parse().unwrap();
                assert!(slot < SLOTS as usize);
                of_shard[slot * shards / SLOTS as usize] += 1;
            }
            let even = 64 / shards;
            assert!(of_shard.iter().all(|&keys| keys >= even / 2), "{of_shard:?}");
        }
        let slots: HashSet<u32> = (0..SLOTS).map(slot).collect();
        assert_eq!(slots.len(), SLOTS as usize);
    }

    #[test]
    fn every_range_that_contains_an_integer_gets_keys_of_each_purpose() {
        for splits in [
            &[10][..],
            &[10, 20],
            &[10, 11, 12],
            &[-5, 0, 7, 1_000_000, 2_000_000_000_000],
            &[i128::MIN, 0, i128::MAX],
        ] {
            let texts: Vec<String> = splits.iter().map(|split| format!("\"{split}\"")).collect();
            let parameters = format!(r#"{{"order":"numeric","splits":[{}]}}"#, texts.join(","));
            let names = names("range", &parameters);
            let purposes: [fn(u32) -> Name; 5] = [
                Name::Plain,
                Name::Hot,
                Name::Cold,
                |number| Name::Once(number % 3, number),
                Name::Bank,
            ];
            for purpose in purposes {
                let mut keys_of_range = vec![0; splits.len() + 1];
                let mut keys = HashSet::new();
                for number in 0..2_000 {
                    let key = names.key(purpose(number));
                    let integer: i128 = key.parse().unwrap();
                    keys_of_range[splits.partition_point(|split| *split <= integer)] += 1;
                    assert!(keys.insert(key.clone()), "{splits:?}: {key} twice");
                }
                // The absolute value of a key in the first or last range is at least 1e37.
                let is_reached = |range: usize| match (range.checked_sub(1), splits.get(range)) {
                    (None, Some(below)) => *below > -(10_i128.pow(37)),
                    (Some(from), None) => splits[from] <= 10_i128.pow(37),
                    _ => true,
                };
                for (range, count) in keys_of_range.iter().enumerate() {
                    assert!(*count > 0 || !is_reached(range), "{splits:?}: {keys_of_range:?}");
                }
            }
        }
    }

    #[test]
    fn two_runs_have_different_keys_in_a_range_of_a_million_integers() {
        let map =
            br#"{"keyspace":"range","parameters":{"order":"numeric","splits":["0","1000000"]}}"#;
        let keys = |number| {
            let names = Names::of_run(map, number).unwrap();
            (0..1_000).map(|number| names.plain(number)).collect::<HashSet<String>>()
        };
        assert!(keys(NUMBER).is_disjoint(&keys(NUMBER + (1 << 12))));
    }

    #[test]
    fn every_range_of_text_gets_keys_if_one_can_lie_in_it() {
        for (splits, expected) in [
            (&["g", "n"][..], &["-", "g", "n"][..]),
            (&["a"], &["-", "a"]),
            (&["m", "ma", "mz"], &["", "m-", "ma", "mz"]),
            (&["-", "z"], &["-", "z"]),
        ] {
            let starts = starts(splits);
            assert_eq!(starts, expected, "{splits:?}");
            for start in starts {
                let key = format!("{start}loadtest-v1x-7");
                let range = splits.iter().filter(|split| **split <= key.as_str()).count();
                let from = if range == 0 { "" } else { splits[range - 1] };
                assert!(start == from || start == format!("{from}-"), "{splits:?}: {key}");
            }
        }
    }

    #[test]
    fn keys_of_others_are_not_taken_for_own_ones() {
        for names in all() {
            for key in [
                "user_1",
                "loadtest-1",
                "my-loadtest-notes",
                "loadtest-version-2",
                "17",
                "00000017",
            ] {
                assert!(!names.is_own(key), "{key}");
            }
        }
    }

    #[test]
    fn an_unsupported_keyspace_is_named() {
        for (keyspace, parameters, reported) in [
            ("spiral", "{}", "the keyspace spiral is not supported"),
            ("list", r#"{"partitions":[["Ω",1]]}"#, "no part of the keyspace list"),
        ] {
            let map = format!(r#"{{"keyspace":"{keyspace}","parameters":{parameters}}}"#);
            let error = Names::of_run(map.as_bytes(), NUMBER).unwrap_err();
            assert!(error.to_string().contains(reported), "{error}");
        }
    }
}
