//! Options: parses the options of a placement trial and checks their limits.
//!
//! **Invariant:** an error names the option and its permitted values; no invalid value is replaced
//! by another one.

use std::fmt::Display;

use model::keyspace::{Keyspace, SLOT_COUNT, ShardKey};
use model::placement::{Placement, PlacementError, contradiction};
use model::shard_map::ShardMap;
use model::shard_map::partitions::divided_partition;
use model::simulation::{Load, TopologyChange};
use model::table_group::GroupNumber;
use model::topology::Topology;

use super::{RING_POINTS_MAX, SAMPLE_MAX, SHARDS_MAX, TRIAL_KEYS_MAX};
use crate::key_set::{KeyKind, LabKeys};

/// Seed of the generated keys. It is constant, so that equal options have equal results.
const SEED: u64 = 1;
/// Default number of generated keys.
const KEYS_DEFAULT: u64 = 10_000;
/// Name of the kind of keys for which each slot counts as one key.
const SLOTS: &str = "slots";
/// Name of the option that, after a change, leaves slots with their owners as far as the weights
/// permit, instead of computing the placement again.
const REBALANCE: &str = "rebalance";

/// Options of a trial as strings, as they are in the query string of a URL. Each option has a
/// default.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrialTexts<'t> {
    /// Keyspace, written as in the settings of a cluster. For `range` and `list` without
    /// parameters, the parameters are derived from the generated keys.
    pub keyspace: Option<&'t str>,
    /// Placement, written as in the settings of a cluster, or `rebalance`.
    pub placement: Option<&'t str>,
    /// Weights of the shards, for example `1,1,2`.
    pub weights: Option<&'t str>,
    /// Change of the shards: `add`, `add:2`, `remove:shard2` or `weight:shard1=2`.
    pub change: Option<&'t str>,
    /// Kind of keys that are generated and counted, or `slots` to count slots instead.
    pub kind: Option<&'t str>,
    /// Number of generated keys.
    pub keys: Option<&'t str>,
    /// Keys whose locations are listed, one per line.
    pub sample: Option<&'t str>,
}

/// Options of a trial.
#[derive(Clone, Debug)]
pub struct TrialOptions {
    /// Keyspace, which maps keys to slots.
    pub keyspace: Keyspace,
    /// Placement, which maps slots to shards; `None` for a weighted placement that a change only
    /// rebalances.
    pub algorithm: Option<Placement>,
    /// Shards and their weights before the change.
    pub topology: Topology,
    /// Change of the shards, if one is tried.
    pub change: Option<TopologyChange>,
    /// Keys that are counted for the shares of the shards.
    pub keys: TrialKeys,
    /// Keys whose locations are listed.
    pub sample: Vec<String>,
}

/// Keys that are counted for the shares of the shards.
#[derive(Clone, Debug)]
pub enum TrialKeys {
    /// Each slot counts as one key.
    Slots,
    /// Generated keys.
    Generated(LabKeys),
}

/// Error about an option that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {why}")]
pub struct TrialFault {
    /// Name of the option.
    pub option: &'static str,
    /// Reason why it cannot be used, and the permitted values, as a clause.
    pub why: String,
}

impl TrialFault {
    pub(super) fn new(option: &'static str, why: impl Display) -> Self {
        Self { option, why: why.to_string() }
    }
}

impl TrialOptions {
    /// Parses and checks the options.
    ///
    /// # Errors
    /// [`TrialFault`] about the first option that cannot be used.
    pub fn read(texts: &TrialTexts<'_>) -> Result<Self, TrialFault> {
        let topology = topology(texts.weights.unwrap_or("1,1,1"))?;
        let algorithm = match texts.placement.unwrap_or("weighted") {
            REBALANCE => None,
            text => Some(placement(text, &topology)?),
        };
        let change = texts.change.filter(|text| !text.is_empty()).map(change).transpose()?;
        let keys = keys(texts.kind.unwrap_or(SLOTS), texts.keys)?;
        let keyspace = keyspace(texts.keyspace.unwrap_or("hash"), &keys)?;
        let sample = sample(texts.sample.unwrap_or_default())?;
        let options = Self { keyspace, algorithm, topology, change, keys, sample };
        options.check_fit()?;
        options.check_change()?;
        Ok(options)
    }

    /// Returns an error if no cluster could be created with this keyspace and this placement.
    fn check_fit(&self) -> Result<(), TrialFault> {
        let Some(placement) = &self.algorithm else { return Ok(()) };
        let refused = |why: String| Err(TrialFault::new("placement", why));
        if let Some(why) = contradiction(&self.keyspace, placement) {
            return refused(why);
        }
        let map = ShardMap::first(self.keyspace.clone(), placement.clone(), self.topology.clone());
        let map = map.map_err(|error| TrialFault::new("placement", error))?;
        divided_partition(&map, GroupNumber::MAIN).map_or(Ok(()), refused)
    }

    /// Returns an error if there would be too many shards, or too many points of a ring, after the
    /// change.
    fn check_change(&self) -> Result<(), TrialFault> {
        let Some(change) = &self.change else { return Ok(()) };
        let after = change.apply(&self.topology);
        let after = after.map_err(|error| TrialFault::new("change", error))?;
        if after.len() > SHARDS_MAX {
            let why =
                format!("there may be at most {SHARDS_MAX} shards, including after the change");
            return Err(TrialFault::new("change", why));
        }
        let placement = self.algorithm.as_ref();
        let refused = |fault: TrialFault| TrialFault::new("change", fault.why);
        placement.map_or(Ok(()), |placement| check_points(placement, &after)).map_err(refused)
    }

    /// Returns the load of each slot: the number of keys in it, or 1 if slots are counted.
    pub(super) fn load(&self) -> Result<Load, TrialFault> {
        let TrialKeys::Generated(set) = &self.keys else { return Ok(Load::of_slots()) };
        let mut load = Load::of_keys();
        for key in &set.keys {
            let slot = ShardKey::parse(key).and_then(|key| self.keyspace.slot_of(key));
            load.add(slot.map_err(|error| {
                let why = format!(
                    "it has no slot for keys of the kind {}, such as {key}: {error}",
                    set.name
                );
                TrialFault::new("keyspace", why)
            })?);
        }
        Ok(load)
    }
}

fn topology(text: &str) -> Result<Topology, TrialFault> {
    let refused = |why: String| TrialFault::new("weights", why);
    let weights: Result<Vec<u32>, _> = text.split(',').map(|one| one.trim().parse()).collect();
    let example = "give the weight of each shard, such as 1,1,2";
    let weights = weights.map_err(|_| refused(example.to_owned()))?;
    if weights.len() > SHARDS_MAX {
        return Err(refused(format!("there may be at most {SHARDS_MAX} shards")));
    }
    Topology::with_weights(&weights).map_err(|error| refused(error.to_string()))
}

fn placement(text: &str, topology: &Topology) -> Result<Placement, TrialFault> {
    let placement = text.parse::<Placement>().map_err(|error| {
        let why = match error {
            // The message ends with the names of all placements, and a trial also accepts
            // `rebalance`.
            PlacementError::Unknown(_) => format!("{error}, {REBALANCE}"),
            PlacementError::Parameters { .. }
            | PlacementError::NoSuchShard { .. }
            | PlacementError::TooManyPoints { .. } => error.to_string(),
        };
        TrialFault::new("placement", why)
    })?;
    check_points(&placement, topology)?;
    Ok(placement)
}

fn check_points(placement: &Placement, topology: &Topology) -> Result<(), TrialFault> {
    let Placement::Ring { vnodes } = placement else { return Ok(()) };
    let weights = topology.share_weights();
    let points: u64 = weights.iter().map(|weight| u64::from(*weight) * u64::from(*vnodes)).sum();
    if points > RING_POINTS_MAX {
        let why = format!(
            "the ring would have {points} points, and here at most {RING_POINTS_MAX} are computed: \
             use smaller weights or fewer virtual nodes"
        );
        return Err(TrialFault::new("placement", why));
    }
    Ok(())
}

fn change(text: &str) -> Result<TopologyChange, TrialFault> {
    let refused = || {
        TrialFault::new("change", "it must be add, add:WEIGHT, remove:SHARD or weight:SHARD=WEIGHT")
    };
    let number = |text: &str| {
        let weight = text.parse().ok().filter(|weight| *weight <= Topology::WEIGHT_MAX);
        weight.ok_or_else(refused)
    };
    match text.split_once(':') {
        None if text == "add" => Ok(TopologyChange::Add(1)),
        Some(("add", weight)) => Ok(TopologyChange::Add(number(weight)?)),
        Some(("remove", shard)) => Ok(TopologyChange::Remove(shard.to_owned())),
        Some(("weight", rest)) => {
            let (shard, weight) = rest.split_once('=').ok_or_else(refused)?;
            Ok(TopologyChange::Reweight(shard.to_owned(), number(weight)?))
        }
        Some(_) | None => Err(refused()),
    }
}

fn keys(kind: &str, count: Option<&str>) -> Result<TrialKeys, TrialFault> {
    let count = match count {
        None => KEYS_DEFAULT,
        Some(text) => {
            let count = text.parse().ok().filter(|count| (1..=TRIAL_KEYS_MAX).contains(count));
            let why = format!("there may be 1 to {TRIAL_KEYS_MAX} keys");
            count.ok_or_else(|| TrialFault::new("keys", why))?
        }
    };
    if kind == SLOTS {
        return Ok(TrialKeys::Slots);
    }
    let found = KeyKind::ALL.into_iter().find(|known| known.name() == kind);
    let names = KeyKind::ALL.map(KeyKind::name).join(", ");
    let found = found
        .ok_or_else(|| TrialFault::new("kind", format!("it must be {SLOTS} or one of {names}")))?;
    Ok(TrialKeys::Generated(LabKeys::generated(found, count, SEED)))
}

fn keyspace(text: &str, keys: &TrialKeys) -> Result<Keyspace, TrialFault> {
    if !matches!(text, "range" | "list") {
        return text.parse().map_err(|error| TrialFault::new("keyspace", error));
    }
    let TrialKeys::Generated(set) = keys else {
        let why = format!("{text} without parameters is fitted to keys: give a kind");
        return Err(TrialFault::new("keyspace", why));
    };
    let is_of_form = |keyspace: &Keyspace| keyspace.to_string().starts_with(&format!("{text}:"));
    let fitting = set.keyspaces().into_iter().find(is_of_form);
    fitting.ok_or_else(|| {
        let why = format!("no {text} fits keys of the kind {}", set.name);
        TrialFault::new("keyspace", why)
    })
}

fn sample(text: &str) -> Result<Vec<String>, TrialFault> {
    let keys: Vec<String> = text
        .lines()
        .filter(|line| !line.is_empty())
        .take(SAMPLE_MAX + 1)
        .map(str::to_owned)
        .collect();
    if keys.len() > SAMPLE_MAX {
        let why = format!("there may be at most {SAMPLE_MAX} keys, one per line");
        return Err(TrialFault::new("sample", why));
    }
    Ok(keys)
}

const _: () = assert!(SHARDS_MAX <= SLOT_COUNT as usize, "each shard can have a slot");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_that_cannot_be_used_is_named() {
        let none = TrialTexts::default();
        let many = vec!["1"; SHARDS_MAX + 1].join(",");
        let full = vec!["1"; SHARDS_MAX].join(",");
        let lines = "k\n".repeat(SAMPLE_MAX + 1);
        let bad = [
            ("weights", TrialTexts { weights: Some(""), ..none }),
            ("weights", TrialTexts { weights: Some("1,-1"), ..none }),
            ("weights", TrialTexts { weights: Some("0"), ..none }),
            ("weights", TrialTexts { weights: Some(&many), ..none }),
            ("placement", TrialTexts { placement: Some("best"), ..none }),
            ("placement", TrialTexts { placement: Some("ring:10000"), weights: Some("9"), ..none }),
            ("placement", TrialTexts { placement: Some("partitions:A=1>shard1"), ..none }),
            ("change", TrialTexts { change: Some("grow"), ..none }),
            ("change", TrialTexts { change: Some("add:x"), ..none }),
            ("change", TrialTexts { change: Some("add:0"), ..none }),
            ("change", TrialTexts { change: Some("remove:shard9"), ..none }),
            ("change", TrialTexts { change: Some("weight:shard1"), ..none }),
            ("change", TrialTexts { change: Some("add"), weights: Some(&full), ..none }),
            ("change", TrialTexts { change: Some("remove:shard1"), weights: Some("1"), ..none }),
            ("kind", TrialTexts { kind: Some("names"), ..none }),
            ("keys", TrialTexts { keys: Some("20001"), ..none }),
            ("keys", TrialTexts { keys: Some("0"), ..none }),
            ("keyspace", TrialTexts { keyspace: Some("magic"), ..none }),
            ("keyspace", TrialTexts { keyspace: Some("range"), ..none }),
            ("keyspace", TrialTexts { keyspace: Some("list"), kind: Some("numeric"), ..none }),
            ("keyspace", TrialTexts { keyspace: Some("modulo"), kind: Some("matrix"), ..none }),
            ("sample", TrialTexts { sample: Some(&lines), ..none }),
        ];
        for (option, texts) in bad {
            let read = TrialOptions::read(&texts).and_then(|options| options.load().map(drop));
            assert_eq!(read.expect_err("it is refused").option, option, "{texts:?}");
        }
    }

    #[test]
    fn only_an_unknown_placement_lists_the_names() {
        let why = |text| {
            let texts = TrialTexts { placement: Some(text), ..TrialTexts::default() };
            TrialOptions::read(&texts).expect_err("it is refused").why
        };
        assert!(why("best").ends_with("manual, rebalance"), "{}", why("best"));
        for text in ["ring:9999999", "manual:0-5=shard1", "even:1"] {
            assert!(!why(text).contains(REBALANCE), "{text}: {}", why(text));
        }
    }
}
