//! Row router: parses a row of a bulk write, from JSON or from CSV fields, and determines its
//! shard.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::value::RawValue;
use shard_manager::engine::default_values::{KeySource, generated_keys, operation_with_keys};
use shard_manager::error::Error;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{Schema, check_key, place_row};
use shard_manager::row_change::{Operation, Precondition, RowError, RowWrite};
use shard_manager::shard_map::partitions::partition_of;
use shard_manager::shard_map::{KeyLocation, ShardMap};
use shard_manager::table::Table;
use shard_manager::value::Value;

use crate::body_reader::{self, Members};
use crate::problem::{Code, Problem};
use crate::routes::write::{null_key, routing_value};

/// Names of the members of a wrapped row: one that has its columns in `data`.
const WRAPPED: [&str; 3] = ["shard_key", "data", "if_version"];

/// Parser and router of the rows of one request, with what these rows have in common.
#[derive(Clone)]
pub(super) struct RowRouter<'k> {
    pub(super) map: Arc<ShardMap>,
    /// Tables as the caller's rights let it see and use them.
    pub(super) schema: Schema<'k>,
    pub(super) table: Arc<Table>,
    pub(super) operation: Operation,
    /// Shard key for rows that do not name one.
    pub(super) key: Option<ShardKey<'k>>,
    /// Idempotency key of the request.
    pub(super) idempotency_key: Option<&'k str>,
}

/// Reason why a row cannot be sent to a shard.
pub(super) struct RowRejection {
    pub(super) problem: Box<Problem>,
    /// Location of the row, if it is known for certain.
    pub(super) place: Option<KeyLocation>,
}

impl From<Problem> for RowRejection {
    fn from(problem: Problem) -> Self {
        Self { problem: Box::new(problem), place: None }
    }
}

type Routed = (KeyLocation, RowWrite);

impl RowRouter<'_> {
    /// Parses an element of a JSON array, given its index. `wrapped` is true if its columns are in
    /// `data`.
    pub(super) fn item(
        &self,
        wrapped: bool,
        (number, item): (usize, &RawValue),
    ) -> Result<Routed, RowRejection> {
        if item.get().len() > body_reader::WRITE_BYTES_MAX {
            let detail = format!("a row is larger than {} MiB", body_reader::WRITE_BYTES_MAX >> 20);
            return Err(Problem::new(Code::TSR108, detail).into());
        }
        let members = Members::of_member("a row", item)?;
        // Number 0 stands for the row of a single write, which may have the same idempotency key.
        let source = KeySource::of_row(self.idempotency_key, number + 1);
        if wrapped { self.wrapped(&members, source) } else { self.bare(&members, source) }
    }

    /// Parses a line of NDJSON. It is either an object with the columns, or a wrapped row that has
    /// its columns in `data`. The latter is assumed if `data` is an object and the table has no
    /// column of this name.
    pub(super) fn line(&self, line: &[u8]) -> Result<Routed, RowRejection> {
        let members = Members::of_text("the row", line)?;
        let has_data = members.get("data").is_some_and(|data| data.get().starts_with('{'));
        if has_data && self.table.find("data").is_none() {
            self.wrapped(&members, KeySource::New)
        } else {
            self.bare(&members, KeySource::New)
        }
    }

    fn wrapped(
        &self,
        members: &Members<'_>,
        source: KeySource<'_>,
    ) -> Result<Routed, RowRejection> {
        members.check_names(&WRAPPED)?;
        let data = members.get("data");
        let data = data.ok_or_else(|| Problem::new(Code::TSR101, "data is missing"))?;
        let data = Members::of_member("data", data)?;
        let own_key = members.text("shard_key")?;
        let key = self.key(own_key.as_deref(), &data)?;
        let (place, mut row) = self.prepare(key.as_deref(), &data, source)?;
        if let Some(version) = members.get("if_version") {
            let version = self.version(version);
            let version = version.map_err(|problem| RowRejection {
                place: Some(place),
                ..RowRejection::from(problem)
            })?;
            row.precondition = Some(Precondition::Versions(vec![version]));
        }
        Ok((place, row))
    }

    fn bare(&self, data: &Members<'_>, source: KeySource<'_>) -> Result<Routed, RowRejection> {
        let key = self.key(None, data)?;
        self.prepare(key.as_deref(), data, source)
    }

    /// Returns the shard key of a row: `own` if it is given, otherwise the value of the row's
    /// routing column as it is stored.
    fn key<'t>(
        &self,
        own: Option<&'t str>,
        data: &Members<'_>,
    ) -> Result<Option<Cow<'t, str>>, Problem> {
        if let Some(own) = own {
            return Ok(Some(own.into()));
        }
        let derived = RowWrite::routing_key(&self.table, &data.0);
        Ok(derived.map_err(|error| Problem::from(&error))?.map(Into::into))
    }

    fn prepare(
        &self,
        key: Option<&str>,
        data: &Members<'_>,
        source: KeySource<'_>,
    ) -> Result<Routed, RowRejection> {
        let has_key = key.is_some() || self.key.is_some();
        let generated = self.generated(source, has_key, |column| {
            data.get(&self.table.column(column).name).is_some()
        });
        let operation = operation_with_keys(&self.table, self.operation, source, &generated);
        let own = routing_value(&self.table, &generated);
        let key = match (key, &own) {
            (Some(text), _) => parse_key(text)?,
            (None, Some(text)) => parse_key(text)?,
            (None, None) => self.key.ok_or_else(|| no_key(&self.table, data))?,
        };
        let values = RowWrite::values(&self.table, &data.0).map_err(Error::Row);
        let values = values.map(|mut values| {
            values.extend(generated.iter().cloned());
            values
        });
        self.routed(operation, key, values)
    }

    /// Returns generated values for those id and routing columns that a row leaves out and that
    /// have a default. If the row has a shard key, no value is generated for the routing column,
    /// because its value is the key.
    fn generated(
        &self,
        source: KeySource<'_>,
        has_key: bool,
        is_given: impl Fn(usize) -> bool,
    ) -> Vec<(usize, Value)> {
        generated_keys(&self.table, self.operation, source, |column| {
            (has_key && self.table.routing() == Some(column)) || is_given(column)
        })
    }

    /// Routes a row of CSV, given its own shard key, if any, and the values of its columns.
    pub(super) fn fields(
        &self,
        own: Option<&str>,
        mut values: Vec<(usize, Value)>,
    ) -> Result<Routed, RowRejection> {
        let has_key = own.is_some() || self.key.is_some();
        let is_given = |column| values.iter().any(|(given, _)| *given == column);
        values.extend(self.generated(KeySource::New, has_key, is_given));
        let spelled = routing_value(&self.table, &values).map(Cow::into_owned);
        let key = match (own, &spelled) {
            (Some(text), _) => parse_key(text)?,
            (None, Some(text)) => parse_key(text)?,
            (None, None) => self.key.ok_or_else(names_no_key)?,
        };
        self.routed(self.operation, key, Ok(values))
    }

    /// Returns the routed row. If a row contradicts its shard key, either shard may be meant, so
    /// the rejection has no location.
    fn routed(
        &self,
        operation: Operation,
        key: ShardKey<'_>,
        values: Result<Vec<(usize, Value)>, Error>,
    ) -> Result<Routed, RowRejection> {
        let (map, table) = (&self.map, &self.table);
        let located = values.as_ref().map(|values| partition_of(map, table, values));
        let partition = located.ok().flatten().map(Cow::into_owned);
        let prepared = values.and_then(|values| place_row(map, table, operation, key, values));
        match prepared {
            Ok((place, mut row)) => {
                row.wants_row = false;
                Ok((place, row))
            }
            Err(error) => {
                let doubtful = matches!(error, Error::Row(RowError::KeyContradicted { .. }));
                let place = map.locate(table, key, partition.as_deref()).ok();
                let place = place.filter(|_| !doubtful);
                // The error may reveal what exists, so a caller without a right to the key gets
                // another one.
                let allowed = check_key(self.schema, table, operation.into(), key);
                let error = allowed.err().unwrap_or(error);
                Err(RowRejection { place, ..RowRejection::from(Problem::from(error)) })
            }
        }
    }

    fn version(&self, json: &RawValue) -> Result<i64, Problem> {
        if self.operation == Operation::Insert {
            let detail =
                "if_version must be left out of an insert, which makes a row that is not there";
            return Err(Problem::new(Code::TSR101, detail));
        }
        let version = serde_json::from_str(json.get());
        version.map_err(|_| {
            Problem::new(Code::TSR101, "if_version must be a whole number, the version of the row")
        })
    }
}

fn parse_key(text: &str) -> Result<ShardKey<'_>, Problem> {
    ShardKey::parse(text)
        .map_err(|error| Problem::new(Code::TSR101, format!("the row's shard key: {error}")))
}

/// Returns the problem of a row without a shard key, whose routing column is null or missing.
fn no_key(table: &Table, data: &Members<'_>) -> Problem {
    null_key(table, data).unwrap_or_else(names_no_key)
}

fn names_no_key() -> Problem {
    Problem::new(Code::TSR104, "the row names no shard key").hint("give it a shard_key")
}
