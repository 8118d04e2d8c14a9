//! C10, availability: measures the longest times without a successful operation, and counts
//! operations by outcome. This check only reports; it finds no violations.
//!
//! **Invariant:** an operation without a response is counted for the shard that responded to other
//! operations on the same key.
//! **Not here:** latency, which plain runs of the load tester measure.

use std::collections::BTreeMap;

use crate::history::{Level, NEVER, NodeId, Operation, OperationHistory, Outcome};

/// Availability of each shard at each level, for reads and for changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Availability {
    /// Groups ordered by shard, then with changes before reads, then by level.
    pub groups: Vec<OperationGroup>,
}

/// Results of the operations of one kind, at one level, on one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationGroup {
    /// Name of the shard; empty for keys whose shard no response named.
    pub shard: String,
    /// True for reads, false for changes.
    pub reads: bool,
    /// Requested level.
    pub level: Level,
    /// Number of operations by their outcome.
    pub outcomes: Outcomes,
    /// Longest time from one success to the next one, or from the last success to the last failure.
    pub gap: Option<Gap>,
}

/// Period in which no operation of a group succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// End of the success before the gap.
    pub from: u64,
    /// End of the success after the gap, or of the last failure.
    pub to: u64,
}

impl Gap {
    /// Returns the length of the gap in nanoseconds.
    pub fn nanos(self) -> u64 {
        self.to - self.from
    }
}

/// Number of operations by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Number of operations that succeeded at the requested level.
    pub ok: u64,
    /// Number of writes stored at a lower level than requested.
    pub committed: u64,
    /// Number of operations that were refused.
    pub rejected: u64,
    /// Number of operations whose outcome is unknown.
    pub unknown: u64,
}

impl Outcomes {
    fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Ok => &mut self.ok,
            Outcome::Committed => &mut self.committed,
            Outcome::Rejected => &mut self.rejected,
            Outcome::Unknown => &mut self.unknown,
        } += 1;
    }

    /// Returns the sum of two counts.
    fn and(self, other: Self) -> Self {
        Self {
            ok: self.ok + other.ok,
            committed: self.committed + other.committed,
            rejected: self.rejected + other.rejected,
            unknown: self.unknown + other.unknown,
        }
    }

    /// Returns the number of all operations.
    pub fn total(&self) -> u64 {
        self.ok + self.committed + self.rejected + self.unknown
    }

    /// Returns the fraction of operations whose outcome is unknown; 0 if there are no operations.
    pub fn unknown_ratio(&self) -> f64 {
        self.unknown as f64 / self.total().max(1) as f64
    }
}

impl Availability {
    /// Returns the outcomes of all operations.
    pub fn outcomes(&self) -> Outcomes {
        self.groups.iter().fold(Outcomes::default(), |sum, group| sum.and(group.outcomes))
    }
}

/// Summary over all shards of the operations of one kind at one level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary<'a> {
    /// True for reads, false for changes.
    pub reads: bool,
    /// Requested level.
    pub level: Level,
    /// Number of operations by their outcome.
    pub outcomes: Outcomes,
    /// Longest gap of any shard, and the name of that shard.
    pub worst: Option<(Gap, &'a str)>,
}

impl Availability {
    /// Returns a summary of changes and of reads at each level, over all shards.
    pub fn summaries(&self) -> Vec<Summary<'_>> {
        let mut sums: BTreeMap<(bool, Level), Summary<'_>> = BTreeMap::new();
        for OperationGroup { shard, reads, level, outcomes, gap } in &self.groups {
            let sum = sums.entry((*reads, *level)).or_insert_with(|| Summary {
                reads: *reads,
                level: *level,
                outcomes: Outcomes::default(),
                worst: None,
            });
            sum.outcomes = sum.outcomes.and(*outcomes);
            let longest = sum.worst.map_or(0, |(gap, _)| gap.nanos());
            sum.worst = match gap {
                Some(gap) if gap.nanos() > longest => Some((*gap, shard)),
                Some(_) | None => sum.worst,
            };
        }
        sums.into_values().collect()
    }
}

/// Measures the availability in a history.
pub(crate) fn of(history: &OperationHistory) -> Availability {
    let answering = answering(history);
    let mut order: Vec<u32> = (0..history.operations.len() as u32).collect();
    order.sort_unstable_by_key(|&index| history.operations[index as usize].end);
    let mut groups: BTreeMap<(&str, bool, Level), (Outcomes, Longest)> = BTreeMap::new();
    for index in order {
        let one = &history.operations[index as usize];
        let shard = match shard_of(history, one.node) {
            "" => shard_of(history, answering[one.key.0 as usize]),
            shard => shard,
        };
        let (outcomes, longest) = groups.entry((shard, !changes(one), one.level)).or_default();
        outcomes.count(one.outcome);
        longest.meet(one);
    }
    let group = |((shard, reads, level), (outcomes, longest)): ((&str, _, _), (_, Longest))| {
        OperationGroup { shard: shard.to_owned(), reads, level, outcomes, gap: longest.gap }
    };
    Availability { groups: groups.into_iter().map(group).collect() }
}

/// Returns the shard of a node. The string is empty if there was no node or several shards
/// responded together.
fn shard_of(history: &OperationHistory, node: NodeId) -> &str {
    history.nodes.get(node).map_or("", |node| node.shard.as_str())
}

fn changes(one: &Operation) -> bool {
    one.changes() || one.kind == crate::history::Kind::Replay
}

/// Returns, for each key, a node that responded to requests for the key. A key whose slot moved has
/// had two shards; a node of either is sufficient.
fn answering(history: &OperationHistory) -> Vec<NodeId> {
    let mut nodes = vec![NodeId::NONE; history.keys.len()];
    let has_shard = |one: &&Operation| !shard_of(history, one.node).is_empty();
    for one in history.operations.iter().filter(has_shard) {
        nodes[one.key.0 as usize] = one.node;
    }
    nodes
}

/// Longest gap so far. Operations must be added in the order of their ends.
#[derive(Default)]
struct Longest {
    succeeded: Option<u64>,
    gap: Option<Gap>,
}

impl Longest {
    fn meet(&mut self, one: &Operation) {
        if one.end == NEVER {
            return;
        }
        if let Some(from) = self.succeeded {
            let gap = Gap { from, to: one.end };
            if self.gap.is_none_or(|longest| gap.nanos() > longest.nanos()) {
                self.gap = Some(gap);
            }
        }
        match one.outcome {
            Outcome::Ok | Outcome::Committed => self.succeeded = Some(one.end),
            Outcome::Rejected | Outcome::Unknown => {}
        }
    }
}
