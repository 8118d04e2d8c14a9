//! Column default: the value that a new row gets in a column that its write leaves out.
//!
//! ```json
//! {"name": "id", "type": "uuid", "default": {"fn": "uuid"}}
//! ```
//! **Invariant:** a constant default has the type of its column, and a function returns values of
//! that type.
//! **Not here:** filling in defaults (`engine::default_values`).

use serde_json::value::RawValue;

use super::Column;
use crate::value::{ColumnType, TypeMismatch, Value, push_json};

/// Default of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnDefault {
    /// Constant value, which is equal for every row.
    Constant(Value),
    /// `{"fn":"uuid"}`: a new UUID of version 7. Such UUIDs are ordered by the time of their
    /// creation.
    NewUuid,
    /// `{"fn":"now"}`: the time of the change.
    Now,
}

// A constant is never NaN, because the numbers of a `Value` are finite.
impl Eq for ColumnDefault {}

/// JSON form of a default that is a function.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct FunctionForm {
    r#fn: String,
}

impl ColumnDefault {
    /// Names of the functions, for messages.
    pub const FUNCTIONS: [&str; 2] = ["uuid", "now"];

    /// Parses the JSON of a default. An object whose only member is `fn` denotes a function, even
    /// for a json column. Returns `None` for `null`, which declares that there is no default.
    ///
    /// # Errors
    /// [`DefaultFault`], which states why a column of this type cannot have the default.
    pub fn parse(kind: ColumnType, json: &RawValue) -> Result<Option<Self>, DefaultFault> {
        if json.get() == "null" {
            return Ok(None);
        }
        if let Ok(form) = serde_json::from_str::<FunctionForm>(json.get()) {
            let function = match &*form.r#fn {
                "uuid" => Self::NewUuid,
                "now" => Self::Now,
                _ => return Err(DefaultFault::NoSuchFunction),
            };
            let fits = match function {
                Self::NewUuid => matches!(kind, ColumnType::Uuid | ColumnType::Text),
                Self::Now => kind == ColumnType::Timestamp,
                Self::Constant(_) => true,
            };
            return if fits { Ok(Some(function)) } else { Err(DefaultFault::OtherType { kind }) };
        }
        kind.read_json(json).map(|value| Some(Self::Constant(value))).map_err(DefaultFault::Value)
    }

    /// Formats the default of a column as JSON.
    pub fn to_json(&self, kind: ColumnType) -> Box<RawValue> {
        let json = match self {
            Self::NewUuid => r#"{"fn":"uuid"}"#.to_owned(),
            Self::Now => r#"{"fn":"now"}"#.to_owned(),
            Self::Constant(Value::Text(json)) if kind == ColumnType::Json => json.clone(),
            Self::Constant(value) => {
                let mut json = Vec::new();
                push_json(&mut json, value);
                String::from_utf8(json).expect("JSON is UTF-8")
            }
        };
        RawValue::from_string(json).expect("a value is written as JSON")
    }

    /// Checks that an id column, or the routing column, may have this default.
    pub(crate) fn check_key(&self, is_routing: bool) -> Result<(), DefaultFault> {
        match self {
            Self::NewUuid => Ok(()),
            Self::Now => Err(DefaultFault::NowAsKey),
            Self::Constant(_) if is_routing => Err(DefaultFault::ConstantAsShardKey),
            Self::Constant(_) => Ok(()),
        }
    }
}

impl Column {
    /// Creates a column without a default.
    pub fn new(name: &str, kind: ColumnType, nullable: bool) -> Self {
        Self { name: name.to_owned(), kind, nullable, default: None }
    }

    /// Formats the default of the column as JSON; `None` if it has none.
    pub fn default_json(&self) -> Option<Box<RawValue>> {
        self.default.as_ref().map(|default| default.to_json(self.kind))
    }
}

/// Reason why a column cannot have a default.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefaultFault {
    /// The constant does not have the type of the column.
    #[error("does not fit: {0}")]
    Value(TypeMismatch),
    /// Null is not permitted in a column that is not nullable.
    #[error("cannot be null, because the column is not nullable: leave it out, or add null: true")]
    Null,
    /// The function is unknown.
    #[error("names an unknown function: use {}", ColumnDefault::FUNCTIONS.join(" or "))]
    NoSuchFunction,
    /// The function returns values of another type.
    #[error(
        "does not fit a {} column: uuid is for uuid and text, now for timestamp",
        kind.name()
    )]
    OtherType {
        /// Type of the column.
        kind: ColumnType,
    },
    /// The default `now` is not permitted in a key: rows that are created at the same moment would
    /// have the same key.
    #[error("cannot be now in a key: two rows of one moment would be one row")]
    NowAsKey,
    /// A constant is not permitted in the routing column: all rows that leave it out would have the
    /// same shard key, and so be on the same shard.
    #[error("cannot be a constant in the routing column: all rows would be on one shard")]
    ConstantAsShardKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_column_has_no_default() {
        let column = Column::new("note", ColumnType::Text, true);
        assert!(column.nullable && column.default_json().is_none());
        assert_eq!((&*column.name, column.kind), ("note", ColumnType::Text));
    }

    fn parse(kind: ColumnType, json: &str) -> Result<Option<ColumnDefault>, DefaultFault> {
        ColumnDefault::parse(kind, serde_json::from_str(json).expect("JSON"))
    }

    #[test]
    fn a_default_reads_as_it_was_written() {
        let kinds = [
            (ColumnType::Text, r#""new""#),
            (ColumnType::Text, r#"{"fn":"uuid"}"#),
            (ColumnType::Bigint, "-7"),
            (ColumnType::Boolean, "true"),
            (ColumnType::Double, "0.5"),
            (ColumnType::Json, r#"{"a":[1,null]}"#),
            (ColumnType::Timestamp, r#"{"fn":"now"}"#),
            (ColumnType::Uuid, r#"{"fn":"uuid"}"#),
        ];
        for (kind, json) in kinds {
            let default = parse(kind, json).expect(json).expect(json);
            assert_eq!(default.to_json(kind).get(), json);
            assert_eq!(parse(kind, default.to_json(kind).get()), Ok(Some(default)));
        }
        assert_eq!(parse(ColumnType::Json, "null"), Ok(None));
    }

    #[test]
    fn a_default_that_does_not_fit_its_column_is_refused() {
        assert!(matches!(parse(ColumnType::Bigint, r#""7""#), Err(DefaultFault::Value(_))));
        let other = |kind| Err(DefaultFault::OtherType { kind });
        assert_eq!(parse(ColumnType::Text, r#"{"fn":"now"}"#), other(ColumnType::Text));
        assert_eq!(parse(ColumnType::Json, r#"{"fn":"uuid"}"#), other(ColumnType::Json));
        let unknown = parse(ColumnType::Uuid, r#"{"fn":"random"}"#);
        assert_eq!(unknown, Err(DefaultFault::NoSuchFunction));
    }
}
