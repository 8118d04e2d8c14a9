//! Batch results: the results of changes on locked rows, computed before anything is stored.
//!
//! The rows that a batch may touch are read and locked first. The result of each change is then
//! computed here, in order, on row images in memory, by the rules of the embedded engine, and the
//! final rows are stored together. So a refused change does not affect the others, and nothing has
//! to be undone in the database.
//!
//! **Invariant:** each change sees the results of the changes before it; an atomic group has an
//! effect only if all of it succeeds.
//! **Not here:** the rows (`rows`), repeated changes (`idempotency`), SQL, transactions
//! (`batch_transaction`).

mod idempotency;
mod rows;

use std::collections::{BTreeMap, HashMap};

use chrono::Utc;
use engine::WriteGroup;
use engine::atomic_group::{reason_to_undo, undone_error};
use engine::row_image::{self, ServerColumns, push_row};
use model::error::Error;
use model::row_change::{Change, IMAGES_BYTES_MAX, Operation, RowDone, RowWrite};
use model::sabotage::{Mutation, is_on};
use model::slot_refusal::{RefusedState, SlotRefusal};
use model::value::{Value, format_timestamp};

use super::citus::Parts;
use super::hazards::Hazards;
use rows::{LockedRows, RowBefore};
pub(super) use rows::{Row, Store};

/// Error of a batch that is too large for one transaction; smaller batches may succeed.
#[derive(Debug)]
pub(super) struct TooLarge;

/// Reason for which an operation was refused as a whole.
pub(super) struct Refusal {
    pub(super) error: Error,
    /// Index, within an atomic operation, of the change that was refused; the others were undone
    /// with it. `None` if each change is reported with the same error.
    pub(super) culprit: Option<usize>,
}

impl Refusal {
    /// Returns the error to report for the change of this index.
    fn of_change(&self, operation: &WriteGroup<'_>, at: usize) -> Error {
        let Some(culprit) = self.culprit else { return self.error.clone() };
        let places = operation.atomic_rows;
        let place = places.and_then(|places| places.get(culprit)).copied().unwrap_or(culprit);
        undone_error(&self.error, at == culprit, place)
    }

    /// Returns the result of each change of an operation that was refused.
    pub(super) fn results(&self, operation: &WriteGroup<'_>) -> Vec<Result<RowDone, Error>> {
        let changes = 0..operation.rows.len();
        changes.map(|at| Err(self.of_change(operation, at))).collect()
    }
}

/// Slots and tables that take no writes now.
#[derive(Default)]
pub(super) struct Barred {
    /// Slots that the shard refuses, with the reasons.
    pub(super) slots: BTreeMap<i64, RefusedState>,
    /// Hazards of the batch's tables: triggers and rules that Tessera has not created, and UNLOGGED
    /// tables, which accept no writes.
    pub(super) hazards: Hazards,
}

impl Barred {
    /// Returns the first change whose slot or table takes no writes, and the reason.
    fn first_refusal(&self, changes: &[RowWrite]) -> Option<(usize, Error)> {
        let refused = |(at, change)| Some((at, self.refusal(change)?));
        changes.iter().enumerate().find_map(refused)
    }

    fn refusal(&self, change: &RowWrite) -> Option<Error> {
        if let Some(state) = self.slots.get(&i64::from(change.slot.number())) {
            let (slot, state) = (change.slot, *state);
            return Some(Error::SlotRefused(SlotRefusal { slot, state }));
        }
        if self.hazards.is_empty() {
            return None;
        }
        let kept = model::idempotency::key(change)
            .and_then(|_| self.hazards.refusal(&model::idempotency::TABLE));
        self.hazards.refusal(&change.table).or(kept)
    }
}

/// A batch in progress.
pub(super) struct Batch {
    rows: LockedRows,
    barred: Barred,
    versions: std::vec::IntoIter<i64>,
    now: String,
    /// Number of bytes of the rows that the batch has produced so far.
    images: usize,
    /// States of changed rows before each change, in order, with which an atomic group is undone.
    journal: Vec<RowBefore>,
}

impl Batch {
    /// Creates a batch of the rows that these changes may touch, none of them read yet. On Citus,
    /// they are grouped by Citus shard.
    pub(super) fn new(groups: &[WriteGroup<'_>], parts: Option<&Parts>) -> Self {
        Self {
            rows: LockedRows::of(groups, parts),
            barred: Barred::default(),
            versions: Vec::new().into_iter(),
            now: format_timestamp(Utc::now()),
            images: 0,
            journal: Vec::new(),
        }
    }

    /// Returns all rows.
    pub(super) fn rows(&self) -> &[Row] {
        self.rows.all()
    }

    /// Records an existing row.
    pub(super) fn found(&mut self, at: usize, image: Vec<Value>) {
        self.rows.found(at, image);
    }

    /// Returns the slots and tables that take no writes now.
    pub(super) fn barred(&self) -> &Barred {
        &self.barred
    }

    /// Computes the results of the changes. Changes of slots and tables that accept no writes are
    /// refused. Each change of a row or of an idempotency record takes one of `versions`.
    ///
    /// # Errors
    /// [`TooLarge`] if the batch must be smaller.
    pub(super) fn run(
        &mut self,
        groups: &[WriteGroup<'_>],
        barred: Barred,
        versions: Vec<i64>,
    ) -> Result<Vec<Result<RowDone, Error>>, TooLarge> {
        (self.barred, self.versions) = (barred, versions.into_iter());
        let count: usize = groups.iter().map(|group| group.rows.len()).sum();
        let mut done = Vec::with_capacity(count);
        for group in groups {
            match group.atomic_rows.filter(|_| !is_on(Mutation::TornTransaction)) {
                Some(places) => done.extend(self.apply_atomic(group.rows, places)),
                None => done.extend(group.rows.iter().map(|change| self.apply_owned(change))),
            }
            // A batch that is too large is split, unless it is one atomic group, which has been
            // refused as a whole.
            if self.images > IMAGES_BYTES_MAX
                && count > 1
                && (group.atomic_rows.is_none() || groups.len() > 1)
            {
                return Err(TooLarge);
            }
        }
        let is_whole = groups.len() == 1 && (count == 1 || groups[0].atomic_rows.is_some());
        if !is_whole && self.rows.all().iter().any(|row| self.hides_a_step(row)) {
            return Err(TooLarge);
        }
        Ok(done)
    }

    /// Returns the results of the changes of an operation that the database has refused for this
    /// reason, and prepares to store the reason under their idempotency keys. A repeated change
    /// gets its first result. If a slot no longer takes writes, nothing is stored.
    pub(super) fn refuse(
        &mut self,
        operation: &WriteGroup<'_>,
        (barred, versions): (Barred, Vec<i64>),
        reason: &Refusal,
    ) -> Vec<Result<RowDone, Error>> {
        (self.barred, self.versions) = (barred, versions.into_iter());
        let changes = operation.rows;
        let barred = self.barred.first_refusal(changes);
        let barred = barred.map(|(culprit, error)| Refusal { error, culprit: Some(culprit) });
        let reason = barred.as_ref().unwrap_or(reason);
        let numbered = changes.iter().enumerate();
        let results =
            numbered.map(|(at, change)| self.undone(change, reason.of_change(operation, at)));
        results.collect()
    }

    /// Returns true if several changes of the batch have written a row that triggers or rules may
    /// alter. The results of the earlier changes are unknown then, because the row is read again
    /// only after the last.
    fn hides_a_step(&self, row: &Row) -> bool {
        row.changes > 1 && self.barred.hazards.may_alter(&row.table)
    }

    /// Replaces computed results with the rows that the database has really stored, both in the
    /// responses and in the records of idempotency keys. `found` has these rows by their indexes.
    pub(super) fn stored(
        &mut self,
        groups: &[WriteGroup<'_>],
        done: &mut [Result<RowDone, Error>],
        found: &HashMap<usize, Vec<Value>>,
    ) {
        // Index of the last change of each row, by the index of the row.
        let mut last: HashMap<usize, usize> = HashMap::new();
        let changes: Vec<&RowWrite> = groups.iter().flat_map(|group| group.rows).collect();
        for (index, change) in changes.iter().enumerate() {
            let at = self.rows.find(&change.table, (change.slot, &change.key), &change.id);
            if let (Some(at), Some(Ok(RowDone { replayed: false, .. }))) = (at, done.get(index)) {
                last.insert(at, index);
            }
        }
        for (at, index) in last {
            let (change, Some(image)) = (changes[index], found.get(&at)) else { continue };
            let Some(Ok(answer)) = done.get_mut(index) else { continue };
            answer.json.clear();
            push_row(&mut answer.json, &change.table, image);
            let version = change.table.version() - change.table.answered().start;
            if let Some(Value::Int(version)) = image.get(version) {
                answer.version = *version;
            }
            self.remember_again(change, answer);
            if !change.wants_row {
                answer.json = Vec::new();
            }
        }
    }

    /// Applies all of these changes, or undoes them and reports for each that it was undone.
    fn apply_atomic(
        &mut self,
        changes: &[RowWrite],
        places: &[usize],
    ) -> Vec<Result<RowDone, Error>> {
        let images = self.images;
        self.journal.clear();
        let mut done = Vec::with_capacity(changes.len());
        // If a slot accepts no writes, none of the changes is tried. Otherwise, if an earlier
        // change were refused because of its row, that outcome would be stored for all changes,
        // even in the slot that accepts no writes.
        let mut refused = self.barred.first_refusal(changes);
        let tried = if refused.is_none() { changes } else { &[] };
        for (at, change) in tried.iter().enumerate() {
            let row = self.apply_owned(change);
            if let Some(error) = reason_to_undo(&row, self.images - images) {
                refused = Some((at, error));
                break;
            }
            done.push(row);
        }
        let Some((culprit, error)) = refused else { return done };
        for (row, after, touched) in std::mem::take(&mut self.journal).into_iter().rev() {
            self.rows.restore(row, after, touched);
        }
        self.images = images;
        let verdict = |at: usize| undone_error(&error, at == culprit, places[culprit]);
        let numbered = changes.iter().enumerate();
        numbered.map(|(at, change)| self.undone(change, verdict(at))).collect()
    }

    /// Returns the result of a change that was undone: `error` or, if the change repeats an earlier
    /// one under its idempotency key, the stored first result.
    fn undone(&mut self, change: &RowWrite, error: Error) -> Result<RowDone, Error> {
        if let Some(answer) = self.replayed(change) {
            return answer;
        }
        let outcome = Err(error);
        self.remember(change, &outcome);
        outcome
    }

    fn apply_owned(&mut self, change: &RowWrite) -> Result<RowDone, Error> {
        if let Some(refusal) = self.barred.refusal(change) {
            return Err(refusal);
        }
        if let Some(answer) = self.replayed(change) {
            return answer;
        }
        let mut outcome = self.apply(change);
        self.remember(change, &outcome);
        if let (Ok(done), false) = (&mut outcome, change.wants_row) {
            done.json = Vec::new();
        }
        // Rows are in memory twice: as images and in responses.
        self.images += outcome.as_ref().map_or(0, |done| done.json.len());
        outcome
    }

    fn apply(&mut self, change: &RowWrite) -> Result<RowDone, Error> {
        let at = self.rows.find(&change.table, (change.slot, &change.key), &change.id);
        let at = at.ok_or(Error::Internal)?;
        let current = self.rows.all()[at].after.clone();
        let kind = row_image::outcome(change, current.as_deref())?;
        let drawn = self.versions.next().ok_or(Error::Internal)?;
        let restarts = is_on(Mutation::VersionFromOne) && kind == Change::Created;
        let version = if restarts { 1 } else { drawn };
        let server_columns = ServerColumns { version, now: &self.now };
        let image = match (kind, current) {
            (Change::Removed, Some(row)) => row,
            (Change::Changed, Some(row)) => row_image::merged_row(change, row, &server_columns)?,
            (Change::Created | Change::Changed | Change::Removed, _) => {
                row_image::new_row(change, &server_columns)
            }
        };
        let mut json = Vec::new();
        if kind != Change::Removed || change.wants_row || change.idempotency_key.is_some() {
            json.reserve(256);
            push_row(&mut json, &change.table, &image);
        }
        self.images += json.len();
        self.journal.push(self.rows.set(at, (kind != Change::Removed).then_some(image)));
        Ok(RowDone { change: kind, version, json, replayed: false })
    }
}

/// Returns true if a change deletes rows.
pub(super) fn removes(groups: &[WriteGroup<'_>]) -> bool {
    let changes = || groups.iter().flat_map(|group| group.rows);
    changes().any(|change| change.operation == Operation::Delete)
}

/// Returns the number of versions that the changes may need: one for each change, and two for the
/// record of each idempotency key, which is written again if an atomic group is undone.
pub(super) fn versions_needed(groups: &[WriteGroup<'_>]) -> usize {
    let changes = groups.iter().flat_map(|group| group.rows);
    changes.map(|change| 1 + 2 * usize::from(change.idempotency_key.is_some())).sum()
}
