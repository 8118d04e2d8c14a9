//! Write rights: checks whether the client's rights permit a change, and limits the response to the
//! part of the changed row that the client may read.
//!
//! The shard key and the routing column have the same value, so a grant of the key is enough for
//! the routing column. A repeated request with the same idempotency key passes the same checks as
//! the first one: the rights are checked before the request enters the queue, and the response is
//! limited afterwards.
//!
//! **Invariant:** a change is permitted only if a single grant allows its operation, its id, its
//! columns and its key.
//! **Not here:** the choice of the grant (`access::rights`), reads (`read_rights`).

use std::collections::BTreeMap;
use std::sync::Arc;

use access::grant::ColumnSet;
use access::operation::RowOperations;
use access::rights::RowRequest;
use model::error::{Error, Outcome};
use model::json_members::Members;
use model::keyspace::ShardKey;
use model::row_change::{RowDone, RowError, RowWrite};
use model::table::Table;
use model::topology::ShardNumber;

use super::super::Indexes;
use super::{BulkRow, BulkRowDone, Data};

/// Part of a changed row that the client may read.
pub(super) struct ReadablePart<'m> {
    data: Data<'m>,
    /// Operations of the change, and its table; `None` if the client may read everything.
    bounded: Option<(RowOperations, Arc<Table>)>,
    /// Columns that may be read; `None` if the row may not be read at all.
    columns: Option<&'m ColumnSet>,
}

impl<'m> Data<'m> {
    /// Checks a change, and prepares it for the databases. Returns the part of the row that the
    /// response may contain.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::NoSuchTable`] or [`RowError::NoSuchColumn`] if no grant
    /// allows the change.
    #[inline]
    pub(super) fn permit(self, row: &mut RowWrite) -> Result<ReadablePart<'m>, Error> {
        if self.rights.is_all() {
            let columns = Some(&ColumnSet::All);
            return Ok(ReadablePart { data: self, bounded: None, columns });
        }
        self.permit_by_grant(row)
    }

    fn permit_by_grant(self, row: &mut RowWrite) -> Result<ReadablePart<'m>, Error> {
        let table = Arc::clone(row.table.whole());
        let operations = RowOperations::from(row.operation);
        let key = ShardKey::parse(&row.key)?;
        let named = table.id().iter().chain(row.set.iter().map(|(column, _)| column));
        let named = named.filter(|column| Some(**column) != table.routing());
        let columns = named.map(|column| table.column(*column).name.as_str());
        let request = RowRequest { operations, table: table.name(), columns };
        let allowed = self.rights.allow_key(&request, key);
        allowed.map_err(|denied| self.schema().refusal(denied))?;
        let columns = std::iter::empty();
        let read = RowRequest { operations: RowOperations::READ, table: table.name(), columns };
        let columns = self.rights.allow_key(&read, key).ok().map(|allowed| allowed.columns);
        row.wants_row &= columns.is_some();
        row.table = Arc::clone(&table);
        Ok(ReadablePart { data: self, bounded: Some((operations, table)), columns })
    }
}

/// Rows of a bulk write whose changes are permitted, and the outcomes of the others.
pub(super) struct PermittedRows<'m> {
    pub(super) rows: Vec<BulkRow>,
    pub(super) refused: Vec<BulkRowDone>,
    /// Readable part of each permitted row, by the row's index in the request. Empty if the client
    /// may read everything.
    readable: BTreeMap<usize, ReadablePart<'m>>,
}

impl<'m> PermittedRows<'m> {
    /// Checks each row of a bulk write separately.
    pub(super) fn new(data: Data<'m>, rows: Vec<BulkRow>) -> Self {
        let (refused, readable) = (Vec::new(), BTreeMap::new());
        if data.rights.is_all() {
            return Self { rows, refused, readable };
        }
        let mut permitted = Self { rows: Vec::with_capacity(rows.len()), refused, readable };
        for mut row in rows {
            match data.permit(&mut row.row) {
                Ok(readable) => {
                    permitted.readable.insert(row.index, readable);
                    permitted.rows.push(row);
                }
                Err(error) => permitted.refuse(&row, error),
            }
        }
        permitted
    }

    fn refuse(&mut self, row: &BulkRow, error: Error) {
        let outcome = Err((error, Outcome::Rejected));
        self.refused.push(BulkRowDone { index: row.index, place: row.place, outcome });
    }

    /// If a row was refused, refuses all other rows of its shard as well, because the rows of a
    /// shard are one transaction.
    pub(super) fn undo_transactions(&mut self) {
        let mut culprits: BTreeMap<ShardNumber, (usize, Error)> = BTreeMap::new();
        for row in &self.refused {
            let Err((error, _)) = &row.outcome else { continue };
            culprits.entry(row.place.shard).or_insert_with(|| (row.index, error.clone()));
        }
        if culprits.is_empty() {
            return;
        }
        for row in std::mem::take(&mut self.rows) {
            match culprits.get(&row.place.shard) {
                None => self.rows.push(row),
                Some((culprit, cause)) => {
                    let cause = Box::new(cause.clone());
                    self.refuse(&row, Error::Undone { row: *culprit, cause });
                }
            }
        }
    }

    /// Adds the outcomes of the refused rows, and limits the outcomes of the other rows to what the
    /// client may read.
    pub(super) fn complete(self, done: &mut Vec<BulkRowDone>) {
        self.cut(done);
        done.extend(self.refused);
    }

    /// Limits the outcomes of permitted rows to what the client may read.
    pub(super) fn cut(&self, done: &mut [BulkRowDone]) {
        for row in done.iter_mut().filter(|_| !self.readable.is_empty()) {
            let Some(readable) = self.readable.get(&row.index) else { continue };
            readable.cut(row.outcome.as_mut().map_err(|(error, _)| error));
        }
    }
}

impl ReadablePart<'_> {
    /// Limits the outcome of a change to what the client may read and know.
    #[inline]
    pub(super) fn cut(&self, outcome: Result<&mut RowDone, &mut Error>) {
        let Some((operations, table)) = &self.bounded else { return };
        match outcome {
            Ok(done) => self.cut_row(done),
            Err(error) => conceal(error, self.data, *operations, table),
        }
    }

    fn cut_row(&self, done: &mut RowDone) {
        match self.columns {
            Some(ColumnSet::All) => {}
            Some(columns @ ColumnSet::Named(_)) if !done.json.is_empty() => {
                let kept = Members::keep(&done.json, |name| columns.contains(name));
                done.json = kept.unwrap_or_default();
            }
            Some(ColumnSet::Named(_)) | None => done.json.clear(),
        }
    }
}

/// Replaces an error that would reveal something hidden: the name of a column that a new row needs,
/// or of a unique index on columns that the client may not know.
fn conceal(error: &mut Error, data: Data<'_>, operations: RowOperations, whole: &Table) {
    if let Error::Remembered(cause) | Error::Undone { cause, .. } = error {
        return conceal(cause, data, operations, whole);
    }
    if let Error::NotUnique { index } = error {
        if !knows_index(data, whole, index) {
            *error = Error::Constraint { rule: "unique" };
        }
        return;
    }
    if let Error::IndexEntryTooLong { index } = error {
        if index.as_ref().is_some_and(|index| !knows_index(data, whole, index)) {
            *index = None;
        }
        return;
    }
    let Error::Row(RowError::MissingColumn { table, column }) = error else { return };
    if !data.rights.reach().has_column(table, column, operations) {
        *error = Error::Forbidden {
            operations: operations.to_string(),
            table: std::mem::take(table),
            lack: "a new row needs a column that no grant has".to_owned(),
        };
    }
}

/// Returns true if the client may know an index: it may know all columns of the table, or the
/// columns of the index, according to the indexes that were last read.
fn knows_index(data: Data<'_>, table: &Table, index: &str) -> bool {
    let Ok(view) = data.schema().table(table.name()) else { return false };
    let knows_all = || (0..view.columns().len()).all(|column| view.visible().has(column));
    let known = || Indexes::of(data.schema()).known(&view);
    knows_all() || known().iter().any(|record| record.name == index)
}
