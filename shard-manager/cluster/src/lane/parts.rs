//! Parts: the parts of a batch that remain to be applied, and its suspects. A suspect is an
//! operation that a node has refused when it was the only one in its part.
//!
//! A shard that is unavailable refuses every write, and the writes wait. But a single operation may
//! cause the same error. So a part that is refused again, although a node accepts write sessions,
//! is halved. An operation that is refused as the only one in its part becomes a suspect, and the
//! next part is tried. If that part is applied, the node accepts writes: each suspect is tried a
//! last time, and fails if it is refused again while a node accepts write sessions.
//!
//! **Invariant:** operations on the same slots are applied in order. A suspect fails only if it was
//! refused both before and after a later operation was applied, or if a later operation on one of
//! its slots was applied.
//! **Not here:** applying a part, waiting for a node (`worker`).

use model::error::{Error, Outcome};

use super::{LaneFailure, Operation, TAKEN};

/// Maximum number of suspects. It is small because, while a node refuses all writes, each suspect
/// is tried once per interval.
const SUSPECTS_MAX: usize = 16;

/// Operations that are applied in one transaction.
pub(super) struct BatchPart {
    pub(super) operations: Vec<Operation>,
    pub(super) trial: Trial,
}

/// First, repeated or last attempt to apply a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trial {
    First,
    /// A node has refused the part before.
    Repeated,
    /// A node has refused the part before, and has applied a later one since.
    Last,
}

impl BatchPart {
    fn new(operations: Vec<Operation>, trial: Trial) -> Self {
        Self { operations, trial }
    }
}

/// Parts of a batch that are not applied yet.
pub(super) struct Parts {
    /// The remaining parts in reverse order: the last one is applied next.
    left: Vec<BatchPart>,
    /// Operations that were refused as the only ones in their parts, in order, with their errors.
    /// They precede all parts in `left`.
    suspects: Vec<(Operation, Error)>,
}

impl Parts {
    /// Creates the parts of a batch: one part with all operations.
    pub(super) fn of(batch: Vec<Operation>) -> Self {
        Self { left: vec![BatchPart::new(batch, Trial::First)], suspects: Vec::new() }
    }

    /// Takes the next part to apply.
    pub(super) fn take_next(&mut self) -> Option<BatchPart> {
        loop {
            if self.left.is_empty() {
                self.put_suspects_back();
            }
            let next = self.left.pop()?;
            if !next.operations.is_empty() {
                return Some(next);
            }
        }
    }

    /// Puts back the part that was taken, as two halves.
    pub(super) fn halve(&mut self, mut operations: Vec<Operation>) {
        let second = operations.split_off(operations.len() / 2);
        let halves = [second, operations];
        self.left.extend(halves.map(|operations| BatchPart::new(operations, Trial::First)));
    }

    /// Returns true if only operations that are still in the queue can prove that a node accepts
    /// writes and that this part is at fault.
    pub(super) fn needs_proof(&self, part: &BatchPart) -> bool {
        let is_alone = part.trial == Trial::Repeated && part.operations.len() == 1;
        is_alone && self.is_empty() && self.suspects.len() < SUSPECTS_MAX
    }

    /// Returns the number of all operations, including suspects.
    pub(super) fn count(&self) -> usize {
        let left = self.left.iter().map(|part| part.operations.len());
        left.sum::<usize>() + self.suspects.len()
    }

    /// Appends operations that were queued later.
    pub(super) fn append(&mut self, operations: Vec<Operation>) {
        self.left.insert(0, BatchPart::new(operations, Trial::First));
    }

    /// Records that these operations were applied. Suspects are tried a last time, except those
    /// that have a slot in common with one of these operations: they fail, because they would be
    /// applied after a later operation on the slot.
    pub(super) fn applied(&mut self, applied: &[Operation]) {
        for (operation, error) in self.suspects.drain(..).rev() {
            if applied.iter().any(|later| has_common_slot(&operation, later)) {
                fail(operation, error);
            } else {
                self.left.push(BatchPart::new(vec![operation], Trial::Last));
            }
        }
    }

    /// Records that a part was refused as if no node accepted writes. Returns the error if all
    /// operations must wait for a node.
    pub(super) fn refused(&mut self, part: BatchPart, error: Error) -> Option<Error> {
        let BatchPart { mut operations, trial } = part;
        if trial == Trial::Last {
            operations.into_iter().for_each(|operation| fail(operation, error.clone()));
            return None;
        }
        if trial == Trial::Repeated && operations.len() > 1 {
            self.halve(operations);
            return None;
        }
        if trial == Trial::Repeated
            && self.suspects.len() < SUSPECTS_MAX
            && !self.is_empty()
            && let Some(operation) = operations.pop()
        {
            self.suspects.push((operation, error));
            return None;
        }
        self.wait(BatchPart::new(operations, Trial::Repeated));
        Some(error)
    }

    /// Puts a part and all suspects back: they wait for a node.
    pub(super) fn wait(&mut self, part: BatchPart) {
        self.left.push(BatchPart { trial: Trial::Repeated, ..part });
        self.put_suspects_back();
    }

    /// Puts the suspects back, before the remaining parts.
    fn put_suspects_back(&mut self) {
        for (operation, _) in self.suspects.drain(..).rev() {
            self.left.push(BatchPart::new(vec![operation], Trial::Repeated));
        }
    }

    /// Returns all operations to the waiting state, so that their clients may abandon them.
    pub(super) fn put_back(&self) {
        let waiting = self.left.iter().flat_map(|part| &part.operations);
        waiting.for_each(|operation| operation.claim.put_back());
    }

    /// Removes and returns the operations that are too late.
    pub(super) fn take_late(&mut self, is_late: impl Fn(&Operation) -> bool) -> Vec<Operation> {
        let mut late = Vec::new();
        for part in &mut self.left {
            late.extend(part.operations.extract_if(.., |operation| is_late(operation)));
        }
        late
    }

    /// Takes all operations again, and drops those that their clients have abandoned.
    pub(super) fn take_again(&mut self) {
        for part in &mut self.left {
            part.operations.retain(|operation| operation.claim.decide(TAKEN));
        }
    }

    /// Returns true if no operation is left except suspects.
    pub(super) fn is_empty(&self) -> bool {
        self.left.iter().all(|part| part.operations.is_empty())
    }
}

fn has_common_slot(a: &Operation, b: &Operation) -> bool {
    let of_b = &b.request.rows;
    a.request.rows.iter().any(|row| of_b.iter().any(|other| other.slot == row.slot))
}

fn fail(operation: Operation, error: Error) {
    // The client may have left.
    let _ = operation.reply.send(Err(LaneFailure { error, outcome: Outcome::Rejected }));
}
