//! Deletes: finds the delete that can explain why a read found no row.
//!
//! A read that finds no row has no version. It saw the state before the first write or directly
//! after a delete. [`Deletes::explain`] chooses the lowest possible mark (a point in the order of
//! the row's changes, see `version_bound`). The module `linearizable` contains the proof that the
//! lowest one is the right choice.
//!
//! **Invariant:** the chosen mark is never higher than the state that a correct server has read.
//! **Not here:** the lower bound of the mark, which each check determines for itself.
//!
//! Not detected: a violation that is hidden by a delete of unknown version (without a response, or
//! without a version in the response). Such a delete is accepted as the explanation of any number
//! of absent reads at different points of the order, although it can have happened at only one
//! point.

use super::Row;
use crate::history::{Kind, Outcome};
use crate::version_bound::{OperationIndex, VersionBound};

/// The deletes of one row that may have happened.
#[derive(Default)]
pub(crate) struct Deletes {
    /// Version, start and index of each delete with a known version, in order of version.
    known: Vec<(u64, u64, OperationIndex)>,
    /// Binary tree over `known` that contains the earliest start of each subtree. The root has
    /// index 1, and the leaves are the second half of the vector.
    earliest: Vec<u64>,
    /// Start of each delete of unknown version, in order, with the highest ceiling among this
    /// delete and the deletes before it. The ceiling of a delete is a mark below which the delete
    /// happened.
    free: Vec<(u64, VersionBound)>,
}

impl Deletes {
    pub(crate) fn of(row: &Row<'_>) -> Self {
        let (mut known, mut free) = (Vec::new(), Vec::new());
        let mut lowest_later = None;
        for (place, delete) in row.operations().filter(|(_, one)| one.kind == Kind::Delete) {
            match (row.version(place), delete.outcome) {
                (Some(version), _) => known.push((version, delete.start, place)),
                (None, Outcome::Rejected) => {}
                (None, Outcome::Unknown) => free.push((delete.start, VersionBound::HIGHEST)),
                (None, Outcome::Ok | Outcome::Committed) => {
                    let lowest = lowest_later.get_or_insert_with(|| lowest_changes(row));
                    free.push((delete.start, ceiling(row, lowest, delete.end)));
                }
            }
        }
        known.sort_unstable();
        // The deletes are ordered by start already. Each one stores the highest ceiling so far, so
        // that a lookup needs only the last delete that had begun.
        let mut highest = VersionBound::default();
        for (_, ceiling) in &mut free {
            highest = highest.max(*ceiling);
            *ceiling = highest;
        }
        Self { earliest: tree(&known), known, free }
    }

    /// Returns true if no delete can have happened.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.free.is_empty()
    }

    /// Returns true if a delete happened, or may have happened, at an unknown version.
    pub(crate) fn any_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Returns the delete of the highest known version.
    pub(crate) fn newest(&self) -> Option<(u64, OperationIndex)> {
        self.known.last().map(|&(version, _, place)| (version, place))
    }

    /// Returns the lowest mark, `low` or above, at which the row can have been absent for a read
    /// that ended at `end`, and the delete that removed the row; `None` if there is no such mark.
    pub(crate) fn explain(
        &self,
        low: VersionBound,
        end: u64,
    ) -> Option<(VersionBound, Option<OperationIndex>)> {
        if low.is_start() {
            return Some((low, None));
        }
        let known = self.first_known(low, end);
        let begun = self.free.partition_point(|&(start, _)| start <= end);
        let may_be_free = begun > 0 && self.free[begun - 1].1 > low.after();
        match known {
            Some((mark, place)) if !may_be_free || mark < low.after() => Some((mark, Some(place))),
            Some(_) | None => may_be_free.then(|| (low.after(), None)),
        }
    }

    /// Returns the delete of the lowest version at or above `low` that had begun by `end`.
    fn first_known(&self, low: VersionBound, end: u64) -> Option<(VersionBound, OperationIndex)> {
        let from = self.known.partition_point(|&(version, ..)| VersionBound::at(version) < low);
        let leaves = self.earliest.len() / 2;
        if from >= leaves {
            return None;
        }
        // The search climbs until the subtree to the right contains a start that is early enough,
        // and then descends to the leftmost leaf with such a start.
        let mut node = leaves + from;
        while self.earliest[node] > end {
            while node & 1 == 1 {
                node /= 2;
            }
            if node == 0 {
                return None;
            }
            node += 1;
        }
        while node < leaves {
            node *= 2;
            if self.earliest[node] > end {
                node += 1;
            }
        }
        let (version, _, place) = *self.known.get(node - leaves)?;
        Some((VersionBound::at(version), place))
    }
}

/// Returns, for each index, the lowest mark of all changes at this index or later. The additional
/// last element is the highest mark.
fn lowest_changes(row: &Row<'_>) -> Vec<VersionBound> {
    let mut lowest = vec![VersionBound::HIGHEST; row.indices.len() + 1];
    for place in (0..row.indices.len()).rev() {
        let change = Some(place as OperationIndex).filter(|&place| row.at(place).changes());
        let mark = change
            .and_then(|place| row.version(place))
            .map_or(VersionBound::HIGHEST, VersionBound::at);
        lowest[place] = mark.min(lowest[place + 1]);
    }
    lowest
}

/// Returns the ceiling of a delete whose response contained no version: the lowest mark of the
/// changes that began after its response.
fn ceiling(row: &Row<'_>, lowest: &[VersionBound], end: u64) -> VersionBound {
    let starts = |&index: &u32| row.history.operations[index as usize].start <= end;
    lowest[row.indices.partition_point(starts)]
}

/// Returns the earliest start in every subtree of a complete binary tree.
fn tree(known: &[(u64, u64, OperationIndex)]) -> Vec<u64> {
    if known.is_empty() {
        return Vec::new();
    }
    let leaves = known.len().next_power_of_two();
    let mut earliest = vec![u64::MAX; 2 * leaves];
    for (leaf, (_, start, _)) in known.iter().enumerate() {
        earliest[leaves + leaf] = *start;
    }
    for node in (1..leaves).rev() {
        earliest[node] = earliest[2 * node].min(earliest[2 * node + 1]);
    }
    earliest
}
