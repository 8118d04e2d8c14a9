//! Default values: the values of columns that the write of a new row leaves out.
//!
//! Columns of the row's key are filled before the row is routed. The other columns are filled only
//! after the shard has found that the row is new, so an upsert of an existing row keeps the stored
//! values.
//!
//! **Invariant:** a repetition of a request with an idempotency key generates the same keys as the
//! first request.
//! **Not here:** the form of a default and its checks (`model::table`).

use model::row_change::Operation;
use model::table::{ColumnDefault, Table};
use model::value::Value;
use uuid::{Builder, Uuid};

/// Source of generated values for the key columns that a write leaves out.
#[derive(Clone, Copy, Debug)]
pub enum KeySource<'k> {
    /// The clock and random numbers: UUIDs of version 7.
    New,
    /// The idempotency key of the request, and the number of the row in it: UUIDs of version 8,
    /// computed as a hash of both.
    Repeatable {
        /// The client's idempotency key.
        idempotency_key: &'k str,
        /// Number of the row: 0 in a write of one row, from 1 in a bulk write.
        row: usize,
    },
}

impl<'k> KeySource<'k> {
    /// Returns the source for a write of one row.
    pub fn of(idempotency_key: Option<&'k str>) -> Self {
        Self::of_row(idempotency_key, 0)
    }

    /// Returns the source for the row of this number.
    pub fn of_row(idempotency_key: Option<&'k str>, row: usize) -> Self {
        idempotency_key
            .map_or(Self::New, |idempotency_key| Self::Repeatable { idempotency_key, row })
    }

    /// Returns the idempotency key of the request, if it has one.
    pub fn idempotency_key(self) -> Option<&'k str> {
        match self {
            Self::New => None,
            Self::Repeatable { idempotency_key, .. } => Some(idempotency_key),
        }
    }

    fn uuid(self, table: &str, column: &str) -> Uuid {
        match self {
            Self::New => Uuid::now_v7(),
            Self::Repeatable { idempotency_key, row } => {
                // The names of tables and columns contain no space, so different inputs never give
                // the same string.
                let text = format!("{table} {column} {row} {idempotency_key}");
                let hash = xxhash_rust::xxh3::xxh3_128(text.as_bytes());
                Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid()
            }
        }
    }
}

/// Returns values for the id columns and the routing column that the write of a new row leaves out,
/// as far as they have defaults.
pub fn generated_keys(
    table: &Table,
    operation: Operation,
    source: KeySource<'_>,
    is_given: impl Fn(usize) -> bool,
) -> Vec<(usize, Value)> {
    match operation {
        Operation::Insert | Operation::Upsert => {}
        Operation::Update | Operation::Delete => return Vec::new(),
    }
    let routing = table.routing().filter(|column| !table.id().contains(column));
    let generate = |column: usize| {
        let default = table.column(column).default.as_ref().filter(|_| !is_given(column));
        let value = match default? {
            ColumnDefault::Constant(value) => value.clone(),
            ColumnDefault::NewUuid => {
                let uuid = source.uuid(table.name(), &table.column(column).name);
                Value::Text(uuid.to_string())
            }
            // A column of a key cannot have this default.
            ColumnDefault::Now => return None,
        };
        Some((column, value))
    };
    table.id().iter().copied().chain(routing).filter_map(generate).collect()
}

/// Returns the operation of a write with generated keys. An upsert whose keys are a hash of its
/// idempotency key becomes an insert: when the record of that key has expired, a repetition must
/// not change the row that the first request made.
pub fn operation_with_keys(
    table: &Table,
    operation: Operation,
    source: KeySource<'_>,
    generated: &[(usize, Value)],
) -> Operation {
    let is_hash = |(column, _): &(usize, Value)| {
        table.column(*column).default == Some(ColumnDefault::NewUuid)
    };
    match (operation, source) {
        (Operation::Upsert, KeySource::Repeatable { .. }) if generated.iter().any(is_hash) => {
            Operation::Insert
        }
        (
            Operation::Upsert | Operation::Insert | Operation::Update | Operation::Delete,
            KeySource::New | KeySource::Repeatable { .. },
        ) => operation,
    }
}

/// Returns the value of a column that the write of a new row leaves out: its default, or null
/// without one. `now` is the time of the write.
pub fn value_in_new_row(default: Option<&ColumnDefault>, now: &str) -> Value {
    match default {
        None => Value::Null,
        Some(ColumnDefault::Constant(value)) => value.clone(),
        Some(ColumnDefault::NewUuid) => Value::Text(Uuid::now_v7().to_string()),
        Some(ColumnDefault::Now) => Value::Text(now.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use model::table::Column;
    use model::value::ColumnType;

    use super::*;

    /// Returns a table whose routing column and id are generated.
    fn table() -> Table {
        let column = |name: &str, default| Column {
            name: name.to_owned(),
            kind: ColumnType::Text,
            nullable: false,
            default,
        };
        let part = ColumnDefault::Constant(Value::Text("main".to_owned()));
        let columns = vec![
            column("tenant", Some(ColumnDefault::NewUuid)),
            column("id", Some(ColumnDefault::NewUuid)),
            column("part", Some(part)),
            column("note", Some(ColumnDefault::NewUuid)),
        ];
        let id = ["id".to_owned(), "part".to_owned()];
        Table::new("notes", columns, &id, Some("tenant")).expect("a table")
    }

    fn names(table: &Table, keys: &[(usize, Value)]) -> Vec<String> {
        keys.iter().map(|(column, _)| table.column(*column).name.clone()).collect()
    }

    #[test]
    fn keys_that_are_left_out_are_generated_for_new_rows_only() {
        let table = table();
        let id = table.id()[0];
        for operation in [Operation::Insert, Operation::Upsert] {
            let keys = generated_keys(&table, operation, KeySource::New, |_| false);
            assert_eq!(names(&table, &keys), ["id", "part", "tenant"]);
            let keys = generated_keys(&table, operation, KeySource::New, |column| column == id);
            assert_eq!(names(&table, &keys), ["part", "tenant"]);
        }
        for operation in [Operation::Update, Operation::Delete] {
            let keys = generated_keys(&table, operation, KeySource::New, |_| false);
            assert_eq!(names(&table, &keys), [""; 0]);
        }
    }

    #[test]
    fn an_upsert_with_a_key_that_is_hashed_from_its_idempotency_key_becomes_an_insert() {
        let table = table();
        let repeatable = KeySource::Repeatable { idempotency_key: "order-7", row: 0 };
        let sent_as = |operation, source, given: &[usize]| {
            let keys = generated_keys(&table, operation, source, |column| given.contains(&column));
            operation_with_keys(&table, operation, source, &keys)
        };
        let (id, tenant) = (table.id()[0], table.routing().expect("declared above"));
        assert_eq!(sent_as(Operation::Upsert, repeatable, &[]), Operation::Insert);
        assert_eq!(sent_as(Operation::Upsert, repeatable, &[id]), Operation::Insert);
        // What is left to generate is a constant, with which an upsert may meet its row.
        assert_eq!(sent_as(Operation::Upsert, repeatable, &[id, tenant]), Operation::Upsert);
        assert_eq!(sent_as(Operation::Upsert, KeySource::New, &[]), Operation::Upsert);
        for operation in [Operation::Insert, Operation::Update, Operation::Delete] {
            assert_eq!(sent_as(operation, repeatable, &[]), operation);
        }
    }

    #[test]
    fn new_ids_are_uuids_of_version_7_and_differ() {
        let made: Vec<_> = (0..2)
            .map(|_| generated_keys(&table(), Operation::Insert, KeySource::New, |_| false))
            .collect();
        assert_ne!(made[0][0], made[1][0]);
        let Value::Text(uuid) = &made[0][0].1 else { panic!("{made:?}") };
        assert_eq!(Uuid::parse_str(uuid).map(|uuid| uuid.get_version_num()), Ok(7));
    }

    #[test]
    fn a_repeated_request_generates_the_keys_of_the_first_one() {
        let generate = |idempotency_key, row| {
            let source = KeySource::Repeatable { idempotency_key, row };
            generated_keys(&table(), Operation::Insert, source, |_| false)
        };
        assert_eq!(generate("order-7", 0), generate("order-7", 0));
        assert_ne!(generate("order-7", 0)[0], generate("order-7", 1)[0]);
        assert_ne!(generate("order-7", 0)[0], generate("order-8", 0)[0]);
        let keys = generate("order-7", 0);
        assert_ne!(keys[0].1, keys[2].1, "columns differ");
    }
}
