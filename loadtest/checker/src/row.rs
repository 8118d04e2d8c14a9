//! Row: the operations on one key, and their versions, including those that can be inferred from
//! other operations.
//!
//! Checking is cheap only for operations with known versions. A write without a version in its
//! response (a row of a bulk write, or a request without a response) gets the version at which its
//! value was read.
//!
//! **Invariant:** operations are ordered by their start, and identified by their index in this
//! order.
//! **Not here:** finding violations. A value that was read at two versions gets the first of these
//! versions here; `identity` reports the contradiction.

mod deletes;

use self::deletes::Deletes;
use crate::history::{Key, Kind, Operation, OperationHistory, Outcome, Value};
use crate::version_bound::OperationIndex;

/// Indices of a history's operations, ordered by key and then by start.
pub(crate) struct ByKey {
    order: Vec<u32>,
    /// Index in `order` at which the operations of each key begin. The last element is the length
    /// of `order`.
    bounds: Vec<u32>,
}

impl ByKey {
    /// Sorts the operations of a history. Only their indices are moved, which have 4 bytes, while
    /// an operation has 64.
    pub(crate) fn new(history: &OperationHistory) -> Self {
        let operations = &history.operations;
        let mut bounds = vec![0_u32; history.keys.len() + 1];
        for operation in operations {
            bounds[operation.key.0 as usize + 1] += 1;
        }
        for key in 1..bounds.len() {
            bounds[key] += bounds[key - 1];
        }
        let mut next = bounds.clone();
        let mut order = vec![0_u32; operations.len()];
        for (index, operation) in operations.iter().enumerate() {
            let place = &mut next[operation.key.0 as usize];
            order[*place as usize] = index as u32;
            *place += 1;
        }
        for key in 1..bounds.len() {
            let range = bounds[key - 1] as usize..bounds[key] as usize;
            order[range].sort_unstable_by_key(|&index| (operations[index as usize].start, index));
        }
        Self { order, bounds }
    }

    /// Returns every key with its indices, including keys without operations.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Key, &[u32])> {
        self.bounds.windows(2).enumerate().map(|(key, bounds)| {
            (Key(key as u32), &self.order[bounds[0] as usize..bounds[1] as usize])
        })
    }
}

/// The operations of one key.
pub(crate) struct Row<'a> {
    pub(crate) history: &'a OperationHistory,
    pub(crate) key: Key,
    /// Indices into the history's operations.
    pub(crate) indices: &'a [u32],
    /// Version that each operation wrote or read; 0 if it is unknown.
    pub(crate) versions: Vec<u64>,
    /// For each read or replay, the index of the change that sent its value.
    owners: Vec<Option<OperationIndex>>,
    /// Deletes that may be the reason why a read found no row.
    pub(crate) deletes: Deletes,
}

impl<'a> Row<'a> {
    pub(crate) fn new(history: &'a OperationHistory, key: Key, indices: &'a [u32]) -> Self {
        let owners = owners(history, indices);
        let versions = versions(history, indices, &owners);
        let mut row = Self { history, key, indices, versions, owners, deletes: Deletes::default() };
        row.deletes = Deletes::of(&row);
        row
    }

    /// Returns the operation with this index.
    pub(crate) fn at(&self, place: OperationIndex) -> &'a Operation {
        &self.history.operations[self.indices[place as usize] as usize]
    }

    /// Returns the version that an operation wrote or read, if it is known.
    pub(crate) fn version(&self, place: OperationIndex) -> Option<u64> {
        Some(self.versions[place as usize]).filter(|&version| version != 0)
    }

    /// Returns the write or delete that sent the value of a read or replay.
    pub(crate) fn owner(&self, place: OperationIndex) -> Option<OperationIndex> {
        self.owners[place as usize]
    }

    /// Returns every operation with its index.
    pub(crate) fn operations(&self) -> impl Iterator<Item = (OperationIndex, &'a Operation)> + '_ {
        (0..self.indices.len() as OperationIndex).map(|place| (place, self.at(place)))
    }

    /// Returns the indices of these operations in the history, each once. They serve as evidence of
    /// a violation.
    pub(crate) fn evidence(&self, places: impl IntoIterator<Item = OperationIndex>) -> Vec<u32> {
        let mut places: Vec<OperationIndex> = places.into_iter().collect();
        places.sort_unstable();
        places.dedup();
        places.into_iter().map(|place| self.indices[place as usize]).collect()
    }
}

/// Returns, for each read and replay, the change that sent its value. The changes are found by
/// binary search in a sorted list of all values that were sent.
fn owners(history: &OperationHistory, indices: &[u32]) -> Vec<Option<OperationIndex>> {
    let at = |place: usize| &history.operations[indices[place] as usize];
    let mut sent: Vec<(Value, OperationIndex)> = (0..indices.len())
        .filter(|&place| at(place).changes())
        .map(|place| (at(place).value, place as OperationIndex))
        .collect();
    sent.sort_unstable();
    let owner = |operation: &Operation| {
        if operation.changes() || operation.value == Value::NONE {
            return None;
        }
        let first = sent.partition_point(|(value, _)| *value < operation.value);
        sent.get(first).filter(|(value, _)| *value == operation.value).map(|(_, place)| *place)
    };
    (0..indices.len()).map(|place| owner(at(place))).collect()
}

/// Returns the version of each operation: from its response, from a read that returned its value,
/// or, for a read, from the write whose value it returned.
fn versions(
    history: &OperationHistory,
    indices: &[u32],
    owners: &[Option<OperationIndex>],
) -> Vec<u64> {
    let at = |place: usize| &history.operations[indices[place] as usize];
    let version_of = |operation: &Operation| match operation.outcome {
        // The response to a read that found no row, or a refusal, may contain a version, but the
        // operation neither wrote nor read this version.
        _ if operation.is_absent_read() => 0,
        Outcome::Ok | Outcome::Committed | Outcome::Unknown => operation.version,
        Outcome::Rejected => 0,
    };
    let mut versions: Vec<u64> = (0..indices.len()).map(|place| version_of(at(place))).collect();
    for (place, owner) in owners.iter().enumerate() {
        let answered = matches!(at(place).outcome, Outcome::Ok | Outcome::Committed);
        if let Some(owner) = owner.map(|owner| owner as usize)
            && answered
            && versions[owner] == 0
        {
            versions[owner] = versions[place];
        }
    }
    for (place, owner) in owners.iter().enumerate() {
        if let Some(owner) = owner
            && versions[place] == 0
            && at(place).kind == Kind::Read
        {
            versions[place] = versions[*owner as usize];
        }
    }
    versions
}
