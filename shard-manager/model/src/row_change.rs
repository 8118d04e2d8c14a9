//! Row change: one checked change of one row, and its result.
//!
//! **Invariant:** a [`RowWrite`] names only columns of its table, its values have the types of
//! their columns, its id is complete, and its routing column (if the table has one) equals its
//! shard key, so that no row is stored under a wrong key.
//! **Not here:** checks against the stored row, whose existence and version only the shard's writer
//! knows.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::fair_share::FairShare;
use crate::keyspace::{ShardKey, Slot};
use crate::table::Table;
use crate::value::{ColumnType, TypeMismatch, Value, push_json_number};

/// Maximum total size in bytes of the rows that one transaction produces. It also limits an entry
/// of the change log and the rows in a response. Both contain whole rows, so many small changes of
/// large rows may exceed it.
pub const IMAGES_BYTES_MAX: usize = 16 << 20;

/// Maximum size in bytes of the values of a row as JSON, if a change sets only some of them and the
/// others are already stored. A row that is written as a whole needs no such limit, because it fits
/// into the body of a request, which is limited to less. (A CSV row of control characters may
/// become larger as JSON.)
pub const ROW_BYTES_MAX: usize = 3 << 20;

/// Maximum number of bytes by which a row may exceed [`ROW_BYTES_MAX`] after changes that are small
/// enough to be stored without reading the row first.
pub const UNREAD_BYTES_MAX: usize = 1 << 20;

/// Operation on a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Change the given columns of the row, or create the row if it does not exist.
    #[default]
    Upsert,
    /// Create the row; it must not exist.
    Insert,
    /// Change the given columns of the row; it must exist.
    Update,
    /// Remove the row; it must exist.
    Delete,
}

impl Operation {
    /// All operations, for messages.
    pub const ALL: [Self; 4] = [Self::Upsert, Self::Insert, Self::Update, Self::Delete];

    /// Returns the name that the member `op` of a bulk write uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upsert => "upsert",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }

    /// Returns the operation with this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }
}

/// Condition on the stored row. A write is refused if its condition does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// `If-None-Match: *`: the row must not exist.
    Absent,
    /// `If-Match: *`: the row must exist.
    Present,
    /// `If-Match: "7312"`: the row must exist and have one of these versions.
    Versions(Vec<i64>),
}

impl Precondition {
    /// Maximum number of versions in one `If-Match`.
    pub const VERSIONS_MAX: usize = 32;

    /// Returns true if the condition holds for a stored row of this version; `None` means that
    /// there is no row.
    pub fn holds(&self, version: Option<i64>) -> bool {
        match self {
            Self::Absent => version.is_none(),
            Self::Present => version.is_some(),
            Self::Versions(versions) => version.is_some_and(|found| versions.contains(&found)),
        }
    }

    /// Appends the condition to the bytes from which the fingerprint of a write is computed.
    pub fn append_to_fingerprint(&self, out: &mut Vec<u8>) {
        match self {
            Self::Absent => out.extend_from_slice(b";absent"),
            Self::Present => out.extend_from_slice(b";present"),
            Self::Versions(versions) => {
                for version in versions {
                    out.push(b';');
                    push_json_number(out, *version);
                }
            }
        }
    }
}

/// Members of a JSON object as the client sent them: name and raw value, in order.
pub type Fields<'a> = [(Cow<'a, str>, &'a RawValue)];

/// Checked change of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct RowWrite {
    /// Table of the row.
    pub table: Arc<Table>,
    /// Operation on the row.
    pub operation: Operation,
    /// Slot in which the row is stored.
    pub slot: Slot,
    /// The shard key.
    pub key: String,
    /// The values of the id columns, in the table's order.
    pub id: Vec<Value>,
    /// Other columns and their new values, by ascending column index.
    pub set: Vec<(usize, Value)>,
    /// Condition on the stored row.
    pub precondition: Option<Precondition>,
    /// Key under which the outcome is stored, so that a repeated write gets the same response: the
    /// client's idempotency key, followed by the index of the row in a bulk write.
    pub idempotency_key: Option<String>,
    /// True if the response contains the row; false after `Prefer: return=minimal`.
    pub wants_row: bool,
}

/// Changes that are sent to one shard together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteRequest {
    /// The changes, in the order in which they are applied.
    pub rows: Vec<RowWrite>,
    /// Index of each change in the client's request, if the changes are one transaction; `None` if
    /// they are independent.
    pub atomic_rows: Option<Vec<usize>>,
    /// True to wait for room if the queue of the shard is full, instead of failing at once.
    pub waits_for_room: bool,
    /// Tenant on whose behalf the changes are made.
    pub share: FairShare,
}

impl From<Vec<RowWrite>> for WriteRequest {
    /// Returns a request for changes that are applied independently.
    fn from(rows: Vec<RowWrite>) -> Self {
        Self { rows, ..Self::default() }
    }
}

impl RowWrite {
    /// Checks the members of a row against its table.
    ///
    /// # Errors
    /// [`RowError`], which names the member and its fault.
    pub fn parse(
        table: &Arc<Table>,
        operation: Operation,
        (key, slot): (ShardKey<'_>, Slot),
        fields: &Fields<'_>,
    ) -> Result<Self, RowError> {
        Self::of_values(table, operation, (key, slot), Self::values(table, fields)?)
    }

    /// Parses the members of a row into values of the columns that they name.
    ///
    /// # Errors
    /// [`RowError`], which names the member and its fault.
    pub fn values(table: &Table, fields: &Fields<'_>) -> Result<Vec<(usize, Value)>, RowError> {
        // One more value is possible: the routing column may be added.
        let mut values = Vec::with_capacity(fields.len() + 1);
        for (name, json) in fields {
            values.push(parse_field(table, name, json)?);
        }
        Ok(values)
    }

    /// Checks parsed values of own columns of the table, in any order. In a nullable json column,
    /// the JSON value `null` becomes SQL null.
    ///
    /// # Errors
    /// [`RowError`], which names the column and its fault.
    pub fn of_values(
        table: &Arc<Table>,
        operation: Operation,
        (key, slot): (ShardKey<'_>, Slot),
        mut values: Vec<(usize, Value)>,
    ) -> Result<Self, RowError> {
        for (column, value) in &mut values {
            let column = table.column(*column);
            if column.nullable && column.kind == ColumnType::Json && is_json_null(value) {
                *value = Value::Null;
            }
        }
        if let Some(routing) = table.routing() {
            match values.iter().find(|(column, _)| *column == routing) {
                Some((_, value)) => check_routing(table, routing, value, key)?,
                None => values.push((routing, routing_value(table, routing, key)?)),
            }
        }
        values.sort_by_key(|(column, _)| *column);
        if let Some(twice) = values.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(RowError::Twice { column: table.column(twice[0].0).name.clone() });
        }
        let id = take_id(table, &mut values)?;
        if operation == Operation::Delete {
            values.retain(|(column, _)| Some(*column) != table.routing());
            if let Some((column, _)) = values.first() {
                return Err(RowError::NotInDelete { column: table.column(*column).name.clone() });
            }
        }
        Ok(Self {
            table: Arc::clone(table),
            operation,
            slot,
            key: key.as_str().to_owned(),
            id,
            set: values,
            precondition: None,
            idempotency_key: None,
            wants_row: true,
        })
    }

    /// Returns true if the result depends on the stored row. It does not if the change writes the
    /// whole row or deletes it, unless a precondition requires a stored row.
    pub fn builds_on_stored(&self) -> bool {
        let is_merged = match self.operation {
            // An upsert of all own columns replaces the row: the server sets the others.
            Operation::Upsert => self.is_partial(),
            Operation::Update => true,
            Operation::Insert | Operation::Delete => false,
        };
        let is_conditional = match &self.precondition {
            Some(Precondition::Present | Precondition::Versions(_)) => true,
            Some(Precondition::Absent) | None => false,
        };
        is_merged || is_conditional
    }

    /// Returns the shard key in the routing column of a row, in its canonical form; `None` if the
    /// table has no visible routing column, or the row has no value for it.
    ///
    /// # Errors
    /// [`RowError::TypeMismatch`] if the value does not fit the column.
    pub fn routing_key(table: &Table, fields: &Fields<'_>) -> Result<Option<String>, RowError> {
        let Some(routing) = table.routing() else { return Ok(None) };
        if !table.visible().has(routing) {
            return Ok(None);
        }
        let column = table.column(routing);
        let found = fields.iter().find(|(name, _)| *name == column.name);
        let Some((_, json)) = found else { return Ok(None) };
        let value = column.kind.read_json(json);
        let value = value
            .map_err(|mismatch| RowError::TypeMismatch { column: column.name.clone(), mismatch })?;
        Ok(value.key_text().map(Cow::into_owned))
    }

    /// Returns the approximate memory use of the change in bytes.
    pub fn bytes(&self) -> usize {
        let text = |value: &Value| match value {
            Value::Text(text) => text.len(),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Double(_) => 0,
        };
        let id: usize = self.id.iter().map(text).sum();
        let set: usize = self.set.iter().map(|(_, value)| text(value)).sum();
        self.key.len() + id + set + 32 * (self.id.len() + self.set.len() + 4)
    }

    /// Returns the table's own columns for which the change has no value.
    pub fn absent(&self) -> impl Iterator<Item = usize> {
        self.table.own().filter(|index| {
            !self.table.id().contains(index) && self.set.iter().all(|(column, _)| column != index)
        })
    }

    /// Returns true if the change has no value for some own columns; a stored row keeps its values
    /// there.
    pub fn is_partial(&self) -> bool {
        self.set.len() + self.id.len() < self.table.own().len()
    }

    /// Returns true if a row that this change creates would get the default of at least one column.
    pub fn needs_defaults(&self) -> bool {
        self.is_partial() && self.absent().any(|index| self.table.column(index).default.is_some())
    }

    /// Returns the first column without a value in this change that a new row cannot do without: it
    /// is not nullable and has no default.
    pub fn missing(&self) -> Option<&str> {
        let columns = self.absent().map(|index| self.table.column(index));
        let mut needed = columns.filter(|column| !column.nullable && column.default.is_none());
        needed.next().map(|column| column.name.as_str())
    }
}

fn parse_field(table: &Table, name: &str, json: &RawValue) -> Result<(usize, Value), RowError> {
    let Some(index) = table.find(name) else {
        return Err(RowError::NoSuchColumn {
            table: table.name().to_owned(),
            column: name.chars().take(80).collect(),
            suggestion: table.visible().suggest(name),
        });
    };
    if !table.own().contains(&index) {
        return Err(RowError::SystemColumn { column: name.to_owned() });
    }
    let column = table.column(index);
    let mismatch = |mismatch| RowError::TypeMismatch { column: name.to_owned(), mismatch };
    let value = column.kind.read_json(json).map_err(mismatch)?;
    if value == Value::Null && !column.nullable {
        return Err(mismatch(TypeMismatch::Null));
    }
    Ok((index, value))
}

/// Returns true if a value of a json column is the JSON value `null`.
fn is_json_null(value: &Value) -> bool {
    matches!(value, Value::Text(text) if text == "null")
}

fn routing_value(table: &Table, routing: usize, key: ShardKey<'_>) -> Result<Value, RowError> {
    let value = table.column(routing).kind.read_text(key.as_str());
    let named = if table.visible().has(routing) { routing } else { Table::SHARD_KEY };
    let column = || table.column(named).name.clone();
    let value = value.map_err(|mismatch| RowError::TypeMismatch { column: column(), mismatch })?;
    check_routing(table, routing, &value, key)?;
    Ok(value)
}

/// Checks that the canonical form of the routing column's value equals the shard key byte by byte:
/// `7` and `007` are different keys.
fn check_routing(
    table: &Table,
    routing: usize,
    value: &Value,
    key: ShardKey<'_>,
) -> Result<(), RowError> {
    let stored = value.key_text();
    if stored.as_deref() == Some(key.as_str()) {
        return Ok(());
    }
    let stored = stored.map(|text| text.chars().take(ShardKey::LEN_MAX).collect());
    let is_visible = table.visible().has(routing);
    let column = if is_visible { &table.column(routing).name } else { "the routing column" };
    Err(RowError::KeyContradicted { column: column.to_owned(), stored })
}

fn take_id(table: &Table, values: &mut Vec<(usize, Value)>) -> Result<Vec<Value>, RowError> {
    let mut id = Vec::with_capacity(table.id().len());
    for wanted in table.id() {
        let found = values.iter().position(|(column, _)| column == wanted);
        let Some(position) = found else {
            return Err(RowError::MissingId {
                table: table.name().to_owned(),
                column: table.column(*wanted).name.clone(),
            });
        };
        id.push(values.remove(position).1);
    }
    Ok(id)
}

/// Effect of a change on its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The row was created.
    Created,
    /// The row was changed.
    Changed,
    /// The row was removed.
    Removed,
}

impl Change {
    /// Returns the number of rows that the change adds to its table: 1, 0 or -1.
    pub fn rows_added(self) -> i64 {
        match self {
            Self::Created => 1,
            Self::Changed => 0,
            Self::Removed => -1,
        }
    }
}

/// Result of a change that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDone {
    /// Effect on the row.
    pub change: Change,
    /// Version of the row, from a counter of the shard that only grows: the version grows even when
    /// a row is deleted and inserted again.
    pub version: i64,
    /// The row as JSON, if the request wants it: the row after the change, or the removed row.
    pub json: Vec<u8>,
    /// True if the change was not applied again, because its idempotency key already had an
    /// outcome.
    pub replayed: bool,
}

/// Reason why the members of an object are not a valid row of a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The table has no such column.
    #[error("{table} has no column `{column}`")]
    NoSuchColumn {
        /// The table.
        table: String,
        /// Name in the request, truncated to 80 characters.
        column: String,
        /// A column that may have been meant.
        suggestion: Option<String>,
    },
    /// Only the server sets the column.
    #[error("{column} is set by the server and cannot be written")]
    SystemColumn {
        /// The column.
        column: String,
    },
    /// A member occurs twice.
    #[error("{column} is given twice")]
    Twice {
        /// The column.
        column: String,
    },
    /// The value cannot be stored in the column.
    #[error("{column}: {mismatch}")]
    TypeMismatch {
        /// The column.
        column: String,
        /// The fault.
        mismatch: TypeMismatch,
    },
    /// The routing column contradicts the shard key of the request.
    #[error("{column} contradicts the shard key")]
    KeyContradicted {
        /// Name of the routing column, or a description if the column is hidden from the client.
        column: String,
        /// Canonical form of the column's value, truncated to the maximum length of a key; `None`
        /// if the value is null.
        stored: Option<String>,
    },
    /// An id column of the row is missing.
    #[error("{column} is missing: it tells rows of {table} apart")]
    MissingId {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A column that a new row must have is missing.
    #[error("{column} is missing: a new row of {table} needs it")]
    MissingColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A delete gives values for columns other than the id columns.
    #[error("{column} has no meaning in a delete: give the id columns only")]
    NotInDelete {
        /// The column.
        column: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Column;

    #[test]
    fn a_json_null_becomes_null_in_a_nullable_column_and_stays_json_in_a_required_one() {
        let column = |name, nullable| Column::new(name, ColumnType::Json, nullable);
        let id = Column::new("id", ColumnType::Text, false);
        let columns = vec![id, column("optional", true), column("required", false)];
        let table = Table::new("things", columns, &["id".to_owned()], None);
        let table = Arc::new(table.expect("a sound table"));
        let text = |text: &str| Value::Text(text.to_owned());
        let key = ShardKey::parse("k").expect("a key");
        let slot = Slot::new(1).expect("a slot");
        for json in ["null", " null "] {
            let read = || ColumnType::Json.read_text(json).expect("JSON");
            let values = vec![(2, text("null")), (3, read()), (4, read())];
            let row = RowWrite::of_values(&table, Operation::Upsert, (key, slot), values);
            let row = row.expect("a row of the table");
            assert_eq!(row.id, [text("null")], "a text is not JSON");
            assert_eq!(row.set, [(3, Value::Null), (4, text("null"))], "{json:?}");
        }
    }
}
