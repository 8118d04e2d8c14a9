//! Copy key: the key of the last row of a chunk, in the form in which the cursor of a copy stores
//! it.
//!
//! ```text
//! ["users",9741,"user_123",["user_123"]]
//! ```
//! Rows are copied in the order of tables by name, slots, shard keys and ids.
//!
//! **Invariant:** a key that is written and read again is unchanged, to the last bit of a number.
//! **Not here:** reading the rows (the engines).

use std::fmt;

use model::table::Table;
use model::value::{ColumnType, Value, push_json, push_json_number, push_json_string};

use super::stored_move::DamagedMove;

/// Key of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyKey {
    /// Name of the table.
    pub table: String,
    /// Number of the slot.
    pub slot: u16,
    /// Shard key.
    pub key: String,
    id: Vec<serde_json::Value>,
}

impl CopyKey {
    /// Parses the string form of a cursor.
    ///
    /// # Errors
    /// The string is not a valid key.
    pub fn parse(text: &str) -> Result<Self, DamagedMove> {
        let (table, slot, key, id) = serde_json::from_str(text).map_err(DamagedMove::new)?;
        Ok(Self { table, slot, key, id })
    }

    /// Returns the values of the id columns.
    ///
    /// # Errors
    /// The values do not match the id columns of the table.
    pub fn id(&self, table: &Table) -> Result<Vec<Value>, DamagedMove> {
        let mut values = Vec::with_capacity(self.id.len());
        for (column, json) in table.id().iter().zip(&self.id) {
            let value = match table.column(*column).kind {
                ColumnType::Bigint => json.as_i64().map(Value::Int),
                ColumnType::Double => json.as_f64().map(Value::Double),
                ColumnType::Boolean => json.as_bool().map(Value::Bool),
                ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid | ColumnType::Json => {
                    json.as_str().map(|text| Value::Text(text.to_owned()))
                }
            };
            values.push(value.ok_or_else(|| DamagedMove::new("a cursor does not fit its table"))?);
        }
        if values.len() == table.id().len() {
            Ok(values)
        } else {
            Err(DamagedMove::new("a cursor does not fit its table"))
        }
    }
}

impl fmt::Display for CopyKey {
    /// Writes shard key and id as JSON, without the table and the slot.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id: Vec<String> = self.id.iter().map(serde_json::Value::to_string).collect();
        let key = serde_json::Value::from(&*self.key);
        write!(out, "{key} with id [{}]", id.join(","))
    }
}

/// Formats the key of a row as the string form of a cursor.
pub fn format_key((table, slot, key): (&str, u16, &str), id: &[Value]) -> String {
    let mut text = b"[".to_vec();
    push_json_string(&mut text, table);
    text.push(b',');
    push_json_number(&mut text, slot);
    text.push(b',');
    push_json_string(&mut text, key);
    text.extend_from_slice(b",[");
    for (index, value) in id.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        push_json(&mut text, value);
    }
    text.extend_from_slice(b"]]");
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use model::table::Column;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_shown_without_its_table_and_slot() {
        let id = [Value::Text("a\"b".to_owned()), Value::Int(7)];
        let key = CopyKey::parse(&format_key(("t", 7, "ada"), &id)).expect("a key");
        assert_eq!(key.to_string(), r#""ada" with id ["a\"b",7]"#);
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_written(
            key in ".{1,20}", number in any::<i64>(),
            double in any::<f64>().prop_filter("finite", |double| double.is_finite()),
            truth in any::<bool>(), text in ".{0,20}",
        ) {
            let kinds = [
                ("a", ColumnType::Bigint), ("b", ColumnType::Double),
                ("c", ColumnType::Boolean), ("d", ColumnType::Text),
            ];
            let column = |(name, kind): (&str, ColumnType)| {
                Column { name: name.to_owned(), kind, nullable: false, default: None }
            };
            let ids: Vec<String> = kinds.iter().map(|(name, _)| (*name).to_owned()).collect();
            let table = Table::new("t", kinds.into_iter().map(column).collect(), &ids, None)
                .expect("a table");
            let id = [
                Value::Int(number), Value::Double(double), Value::Bool(truth), Value::Text(text),
            ];
            let written = format_key(("t", 7, &key), &id);
            let read = CopyKey::parse(&written).expect("a key");
            prop_assert_eq!(read.id(&table).expect("an id"), id.to_vec());
            prop_assert_eq!((&*read.table, read.slot, &*read.key), ("t", 7, &*key));
        }
    }
}
