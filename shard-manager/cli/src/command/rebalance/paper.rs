//! Paper: plans a rebalance for a hypothetical cluster that the command line describes, and
//! estimates the bytes and the time of its moves.
//!
//! **Not here:** choosing the moves (`model::slot_plan::paper`).

use std::collections::BTreeMap;

use engine::rebalance_draft::DraftFault;
use indicatif::HumanBytes;
use model::slot_plan::SlotPlan;
use model::slot_plan::pace::MovePace;
use model::slot_plan::paper::HypotheticalCluster;
use moves::limits::{MOVES_MAX, SLOTS_MAX};
use serde::Serialize;

use super::super::CommandError;
use crate::terminal::Terminal;

/// Error message with the form that a description must have.
const FORM: &str = "expected shards=N,add=N,bytes=SIZE, such as shards=1000,add=1,bytes=10T";

/// Plan for a hypothetical cluster, as JSON.
#[derive(Debug, Serialize)]
struct PaperPlan {
    shards: usize,
    shards_after: usize,
    slots: usize,
    moves: usize,
    /// Number of new epochs of the shard map, one for each move.
    epochs: usize,
    givers: usize,
    bytes: u64,
    seconds: f64,
    skew_before: f64,
    skew_planned: f64,
}

/// Parses the description of a hypothetical cluster.
///
/// # Errors
/// Fails with the expected form of a description.
pub(super) fn parse(text: &str) -> Result<HypotheticalCluster, String> {
    let mut members = BTreeMap::new();
    for part in text.split(',') {
        let (name, value) = part.split_once('=').ok_or(FORM)?;
        let value = match name {
            "shards" | "add" => value.parse().ok(),
            "bytes" => bytes(value),
            _ => None,
        };
        let value = value.ok_or_else(|| format!("`{part}`: {FORM}"))?;
        if members.insert(name, value).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    let member = |name: &str| members.get(name).copied().ok_or(FORM);
    let count = |name: &str| Ok::<usize, &str>(member(name)?.try_into().unwrap_or(usize::MAX));
    Ok(HypotheticalCluster {
        shards: count("shards")?,
        add: count("add")?,
        bytes: member("bytes")?,
    })
}

/// Parses a size in bytes: a number, which may end in k, M, G, T or P for a power of a thousand.
fn bytes(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    let power = ['k', 'M', 'G', 'T', 'P'].into_iter().position(|known| known == unit);
    match power {
        None => text.parse().ok(),
        Some(power) => {
            let number: u64 = text[..text.len() - 1].parse().ok()?;
            number.checked_mul(1_000_u64.checked_pow(power as u32 + 1)?)
        }
    }
}

/// Shows the plan for a hypothetical cluster. `rate` limits the copy of each move, in MiB/s.
pub(super) fn run(
    cluster: HypotheticalCluster,
    rate: Option<u32>,
    terminal: &Terminal,
) -> Result<(), CommandError> {
    DraftFault::check_rate(rate).map_err(|fault| CommandError::Refused(fault.to_string()))?;
    let plan = cluster.plan(SLOTS_MAX);
    let plan = plan.map_err(|fault| CommandError::Refused(fault.to_string()))?;
    let paper = PaperPlan::of(cluster, &plan, MovePace::of(rate, MOVES_MAX));
    Ok(terminal.show(&paper, |_| paper.text())?)
}

impl PaperPlan {
    fn of(cluster: HypotheticalCluster, plan: &SlotPlan, pace: MovePace) -> Self {
        let givers = plan.shards.iter().filter(|shard| shard.slots_after < shard.slots);
        Self {
            shards: cluster.shards,
            shards_after: cluster.shards + cluster.add,
            slots: plan.slots(),
            moves: plan.steps.len(),
            epochs: plan.steps.len(),
            givers: givers.count(),
            bytes: plan.bytes().unwrap_or_default(),
            seconds: plan.seconds(pace).unwrap_or_default(),
            skew_before: plan.skew_before,
            skew_planned: plan.skew_planned,
        }
    }

    fn text(&self) -> String {
        [
            ("shards", format!("{} to {}", self.shards, self.shards_after)),
            ("slots", format!("{} of {} shards", self.slots, self.givers)),
            ("moves", format!("{}, each with an epoch of its own", self.moves)),
            ("bytes", HumanBytes(self.bytes).to_string()),
            ("time", format!("about {:.0} s", self.seconds)),
            ("skew", format!("{:.3} to {:.3}", self.skew_before, self.skew_planned)),
        ]
        .map(|(name, value)| format!("{name:<14}{value}"))
        .join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_has_shards_additions_and_a_size() {
        let cluster = HypotheticalCluster { shards: 1_000, add: 1, bytes: 10_000_000_000_000 };
        assert_eq!(parse("shards=1000,add=1,bytes=10T"), Ok(cluster));
        assert_eq!(parse("bytes=10000G,add=1,shards=1000"), Ok(cluster));
        for text in [
            "",
            "shards=1",
            "shards=1,add=1,bytes=",
            "shards=-1,add=1,bytes=1",
            "shards=1,add=1,bytes=1X",
            "shards=1,add=1,bytes=99999999P",
            "shards=1,add=1,bytes=é",
            "shards=1,shards=1,add=1,bytes=1",
            "shards=1,add=1,bytes=1,x=1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
