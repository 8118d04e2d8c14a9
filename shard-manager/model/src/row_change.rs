//! Row change: one checked change of one row, and its result.
//!
//! **Invariant:** a [`RowWrite`] names only columns of its table, its values fit their types, its
//! id is complete, and its routing column (if the table has one) equals its shard key: no row is
//! stored under a wrong key.
//! **Not here:** the existence and version of the stored row, which only the shard's writer knows.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::fair_share::FairShare;
use crate::keyspace::{ShardKey, Slot};
use crate::table::Table;
use crate::value::{ColumnType, TypeMismatch, Value, push_json_number};

/// Highest size of the rows that one transaction produces, and so of one log entry and of the rows
/// in its response. Both hold whole rows, and a small change may touch many.
pub const IMAGES_BYTES_MAX: usize = 16 << 20;

/// Highest size of the values of a row as JSON, if a change sets some of them and the others are
/// stored already. Rows that are written as a whole are limited by the bodies of their requests:
/// JSON bodies are smaller. (A CSV row of control characters may be larger as JSON.)
pub const ROW_BYTES_MAX: usize = 3 << 20;

/// Bytes by which changes whose rows are not read may together exceed [`ROW_BYTES_MAX`].
pub const UNREAD_BYTES_MAX: usize = 1 << 20;

/// Operation on a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Change the given columns of the row, or create it.
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

    /// Returns the name in `op`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upsert => "upsert",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }

    /// Returns the operation of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }
}

/// Condition on the stored row; a write whose condition does not hold is refused.
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
    /// Highest number of versions in one `If-Match`.
    pub const VERSIONS_MAX: usize = 32;

    /// Returns true if the condition holds for a row of this version; `None` stands for no row.
    pub fn holds(&self, version: Option<i64>) -> bool {
        match self {
            Self::Absent => version.is_none(),
            Self::Present => version.is_some(),
            Self::Versions(versions) => version.is_some_and(|found| versions.contains(&found)),
        }
    }

    /// Appends the condition to the text of a fingerprint.
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

/// Members of a JSON object as received: name and raw value, in order.
pub type Fields<'a> = [(Cow<'a, str>, &'a RawValue)];

/// Checked change of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct RowWrite {
    /// Table of the row.
    pub table: Arc<Table>,
    /// Operation on the row.
    pub operation: Operation,
    /// The slot of the shard key.
    pub slot: Slot,
    /// The shard key.
    pub key: String,
    /// The values of the id columns, in the table's order.
    pub id: Vec<Value>,
    /// Other columns and their new values, by ascending column index.
    pub set: Vec<(usize, Value)>,
    /// Condition on the stored row.
    pub precondition: Option<Precondition>,
    /// Key under which the outcome is stored, to be returned again: the client's key, in a bulk
    /// write with the index of the row.
    pub idempotency_key: Option<String>,
    /// True if the response has the row (`false`: `Prefer: return=minimal`).
    pub wants_row: bool,
}

/// Changes that one shard is requested to apply.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteRequest {
    /// The changes, in the order in which they are applied.
    pub rows: Vec<RowWrite>,
    /// Index of each change in the client's request, if all are applied or none.
    pub atomic_rows: Option<Vec<usize>>,
    /// True to wait for room in a full queue, instead of failing at once.
    pub waits_for_room: bool,
    /// Tenant that makes the changes.
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
    /// [`RowError`] names the member and what is wrong with it.
    pub fn parse(
        table: &Arc<Table>,
        operation: Operation,
        (key, slot): (ShardKey<'_>, Slot),
        fields: &Fields<'_>,
    ) -> Result<Self, RowError> {
        Self::of_values(table, operation, (key, slot), Self::values(table, fields)?)
    }

    /// Parses members of a row to values of their columns.
    ///
    /// # Errors
    /// [`RowError`] names the member and what is wrong with it.
    pub fn values(table: &Table, fields: &Fields<'_>) -> Result<Vec<(usize, Value)>, RowError> {
        // One more than there are members, for the routing column.
        let mut values = Vec::with_capacity(fields.len() + 1);
        for (name, json) in fields {
            values.push(parse_field(table, name, json)?);
        }
        Ok(values)
    }

    /// Checks values that are parsed already: own columns of the table, in any order. In a nullable
    /// json column, the JSON value `null` becomes the absence of a value.
    ///
    /// # Errors
    /// [`RowError`] names the column and what is wrong with it.
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

    /// Returns true if the result of the change depends on the stored row: not if the row is
    /// written as a whole, or deleted.
    pub fn builds_on_stored(&self) -> bool {
        let is_merged = match self.operation {
            // Only the server sets the version and the times.
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

    /// Returns the shard key that the routing column of a row contains, in the stored form of the
    /// column; `None` if the table has no such column, or the row gives no value for it.
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

    /// Returns the approximate memory use of the change.
    pub fn bytes(&self) -> usize {
        let text = |value: &Value| match value {
            Value::Text(text) => text.len(),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Double(_) => 0,
        };
        let id: usize = self.id.iter().map(text).sum();
        let set: usize = self.set.iter().map(|(_, value)| text(value)).sum();
        self.key.len() + id + set + 32 * (self.id.len() + self.set.len() + 4)
    }

    /// Returns the own columns for which the change has no value.
    pub fn absent(&self) -> impl Iterator<Item = usize> {
        self.table.own().filter(|index| {
            !self.table.id().contains(index) && self.set.iter().all(|(column, _)| column != index)
        })
    }

    /// Returns true if the change has no value for some own columns: a stored row keeps them.
    pub fn is_partial(&self) -> bool {
        self.set.len() + self.id.len() < self.table.own().len()
    }

    /// Returns true if a new row would get defaults.
    pub fn needs_defaults(&self) -> bool {
        self.is_partial() && self.absent().any(|index| self.table.column(index).default.is_some())
    }

    /// Returns the first column that a new row needs and for which the change has no value.
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

/// Checks that the stored routing column equals the key byte by byte: `7` and `007` are different
/// keys.
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
    /// Returns the difference that the change makes to the number of rows.
    pub fn rows_added(self) -> i64 {
        match self {
            Self::Created => 1,
            Self::Changed => 0,
            Self::Removed => -1,
        }
    }
}

/// A change that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDone {
    /// Effect on the row.
    pub change: Change,
    /// The shard's counter at this change. It only grows, even when a row is deleted and inserted
    /// again.
    pub version: i64,
    /// The row as JSON, if requested: after the change, or before its removal.
    pub json: Vec<u8>,
    /// True if the stored outcome of an idempotency key is repeated.
    pub replayed: bool,
}

/// Reason why the members of an object are not a row of a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The table has no such column.
    #[error("{table} has no column `{column}`")]
    NoSuchColumn {
        /// The table.
        table: String,
        /// The name given, cut to 80 characters.
        column: String,
        /// A column that may have been meant.
        suggestion: Option<String>,
    },
    /// The column is set by the server only.
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
    /// The value does not have the column's type.
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
        /// Name of the routing column, or a description of it if it is hidden from the caller.
        column: String,
        /// Stored form of its value, cut to the longest key; `None` if it is null.
        stored: Option<String>,
    },
    /// A part of the row's id is missing.
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
    /// A delete gives values beside the id.
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
