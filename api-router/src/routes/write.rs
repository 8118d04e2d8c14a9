//! `POST /api/write`: changes one row.

use std::borrow::Cow;

use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse, post};
use shard_manager::access::rights::Rights;
use shard_manager::engine::default_values::{KeySource, generated_keys, operation_with_keys};
use shard_manager::error::Error;
use shard_manager::keyspace::{KeyError, Keyspace, ShardKey};
use shard_manager::manager;
use shard_manager::row_change::{Operation, RowError, RowWrite};
use shard_manager::shard_map::partitions::{self, keyspace_of, partition_column};
use shard_manager::shard_map::{KeyLocation, ShardMap};
use shard_manager::table::Table;
use shard_manager::value::{TypeMismatch, Value};
use utoipa::ToSchema;

use super::row_write::{WriteAnswer, WriteContext, carry_out, run_blocking};
use crate::app::App;
use crate::body_reader::{self, Members};
use crate::caller_rights::CallerRights;
use crate::headers::check_content_type;
use crate::prefer::Preference;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::WriteRefusals;

/// Members of the body.
const MEMBERS: [&str; 4] = ["table", "op", "data", "shardKey"];

/// The body of a write.
#[derive(ToSchema)]
#[schema(example = json!({"table": "users", "data": {
    "user_id": "user_123", "name": "John Doe", "email": "john@example.com", "partition_key": "A"}}))]
pub struct WriteRequest {
    /// Name of the table, such as `users`; `/api/tables` lists all tables.
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    table: String,
    /// Operation; `upsert` when it is not given.
    #[schema(inline)]
    #[expect(dead_code, reason = "as above")]
    op: Option<OperationName>,
    /// The row's columns. An upsert of a row that exists changes these and keeps the others.
    #[schema(value_type = Object)]
    #[expect(dead_code, reason = "as above")]
    data: serde_json::Value,
    /// The shard key, if neither the header `x-shard-key` nor the table's routing column in `data`
    /// contains it: 1 to 256 bytes, no control characters.
    #[schema(max_length = 256, min_length = 1)]
    #[expect(dead_code, reason = "as above")]
    #[serde(rename = "shardKey")]
    shard_key: Option<String>,
}

/// Operation on a row.
#[derive(serde::Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OperationName {
    /// Change the given columns of the row, or make it.
    Upsert,
    /// Make the row; 409 if it exists.
    Insert,
    /// Change the given columns of the row; 404 if it does not exist.
    Update,
    /// Remove the row; 404 if it does not exist. Give the id columns only.
    Delete,
}

/// Writes one row.
///
/// The response is sent when the row is durable on its shard's primary (and on replicas, if
/// x-consistency requires it): 201 for a new row, 200 for a changed or removed one.
#[utoipa::path(
    tag = "data",
    params(
        ("x-shard-key" = Option<String>, Header, description = "What to route by (or shardKey in query or body); needless where the row has the table's routing column", example = "user_123", max_length = 256),
        ("shardKey" = Option<String>, Query, description = "The shard key, when it is not visible ASCII", max_length = 256),
        ("Prefer" = Option<String>, Header, description = "return=minimal leaves the row out of the answer"),
        ("If-Match" = Option<String>, Header, description = "The versions, in quotes, of which the row must be one; * for any"),
        ("If-None-Match" = Option<String>, Header, description = "*: the row must not exist"),
    ),
    request_body = WriteRequest,
    responses(
        (status = 200, description = "Changed or removed", body = WriteAnswer),
        (status = 201, description = "Made", body = WriteAnswer),
        WriteRefusals,
    )
)]
#[post("/api/write")]
pub(crate) async fn write_row(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let (shard_key, mut context) = WriteContext::parse(&app, &request)?;
    check_content_type(request.headers())?;
    let parameters = Parameters::parse(request.query_string())?;
    let partition = partition_filter(&app, &context.rights, &parameters)?;
    let deadline = context.options.deadline;
    let (bytes, _share) =
        app.read_body(&request, payload, body_reader::WRITE_BYTES_MAX, deadline).await?;
    let keys = WriteKeys { header: shard_key, query: parameters.single("shardKey")?, partition };
    let source = KeySource::of(context.idempotency_key);
    let change = parse_anywhere(&app, &context.rights, (keys, source), bytes).await?;
    context.wants_row = !context.prefer.has(Preference::Minimal);
    Ok(carry_out(&app, &request, context, change).await?.answer(&app))
}

/// Shard keys in the header and in the query string, and the partition in the query string.
struct WriteKeys<'k> {
    header: Option<ShardKey<'k>>,
    query: Option<&'k str>,
    /// Partition column and its value, which locate the row of an update or a delete.
    partition: Option<(String, &'k str)>,
}

/// Returns the partition column and its value that a parameter such as `partition_key=eq.A` names.
/// Refuses all other parameters except `shardKey`. The columns of all keyspaces are accepted,
/// because the table is not known before the body is parsed. A column that is hidden from the
/// caller is treated like an unknown name.
fn partition_filter<'q>(
    app: &App,
    rights: &Rights,
    parameters: &'q Parameters<'_>,
) -> Result<Option<(String, &'q str)>, Problem> {
    let map = app.manager.map();
    let mut columns = partitions::columns(&map);
    if !rights.is_all() && !columns.is_empty() && !parameters.is_empty() {
        let visible = manager::partition_columns(app.manager.schema(rights), &map);
        columns.retain(|column| visible.contains(*column));
    }
    let known: Vec<&str> = std::iter::once("shardKey").chain(columns.iter().copied()).collect();
    parameters.check_names(&known)?;
    let mut found = None;
    for column in columns {
        let Some(filter) = parameters.single(column)? else { continue };
        let wrong = || Problem::new(Code::TSR100, format!("{column} must be one partition"));
        let value = filter.strip_prefix("eq.");
        let value = value.ok_or_else(|| wrong().hint(format!("{column}=eq.value")))?;
        if let Some((other, _)) = found.replace((column.to_owned(), value)) {
            let detail = format!(
                "{other} and {column} both name a partition, but a table has one partition column"
            );
            return Err(Problem::new(Code::TSR100, detail));
        }
    }
    Ok(found)
}

async fn parse_anywhere(
    app: &Data<App>,
    rights: &CallerRights,
    (keys, source): (WriteKeys<'_>, KeySource<'_>),
    bytes: Bytes,
) -> Result<(KeyLocation, RowWrite), Problem> {
    if bytes.len() <= body_reader::INLINE_BYTES_MAX {
        return parse(app, rights, (keys, source), &bytes);
    }
    let WriteKeys { header, query, partition } = keys;
    let (app, rights, query) = (app.clone(), rights.clone(), query.map(str::to_owned));
    let partition = partition.map(|(column, value)| (column, value.to_owned()));
    let header = header.map(|key| key.as_str().to_owned());
    let idempotency_key = source.idempotency_key().map(str::to_owned);
    let work = move || {
        let header = header.as_deref().and_then(|key| ShardKey::parse(key).ok());
        let source = KeySource::of(idempotency_key.as_deref());
        let query = query.as_deref();
        let partition = partition.as_ref().map(|(column, value)| (column.clone(), &**value));
        parse(&app, &rights, (WriteKeys { header, query, partition }, source), &bytes)
    };
    run_blocking(work).await
}

fn parse(
    app: &App,
    rights: &Rights,
    (keys, source): (WriteKeys<'_>, KeySource<'_>),
    body: &[u8],
) -> Result<(KeyLocation, RowWrite), Problem> {
    let members = Members::of_body(body)?;
    members.check_names(&MEMBERS)?;
    let in_body = members.text("shardKey")?;
    let key = one_key(keys.header, keys.query, in_body.as_deref())?;
    let table = app.manager.schema(rights).table(&members.required_text("table")?)?;
    let operation = operation(&members)?;
    let table = app.manager.schema(rights).usable_for(table, operation.into())?;
    let data = members.get("data");
    let data = data.ok_or_else(|| Problem::new(Code::TSR101, "data is missing"))?;
    let data = Members::of_member("data", data)?;
    let is_given = |column: usize| {
        (key.is_some() && table.routing() == Some(column))
            || data.get(&table.column(column).name).is_some()
    };
    let generated = generated_keys(&table, operation, source, is_given);
    let operation = operation_with_keys(&table, operation, source, &generated);
    let derived;
    let key = match key {
        Some(key) => key,
        None => {
            derived = derived_key(&table, &data, &generated)?;
            ShardKey::parse(&derived)
                .map_err(|error| Problem::new(Code::TSR101, format!("the shard key: {error}")))?
        }
    };
    let mut values = RowWrite::values(&table, &data.0).map_err(|error| Problem::from(&error))?;
    values.extend(generated);
    let map = app.manager.map();
    let placed = match &keys.partition {
        Some(partition) => {
            let found = named_partition(&map, (&table, operation), partition, &values)?;
            let place = (key, found.as_deref());
            manager::place_row_in(&map, (&table, operation), place, values)
        }
        None => manager::place_row(&map, &table, operation, key, values),
    };
    Ok(placed.map_err(|error| {
        // The error may reveal what exists, so a caller without a right to the key gets another
        // one.
        let allowed = manager::check_key(app.manager.schema(rights), &table, operation.into(), key);
        allowed.err().unwrap_or(error)
    })?)
}

/// Returns the partition that the query string names for an update or a delete, in the form in
/// which the column is stored.
fn named_partition(
    map: &ShardMap,
    (table, operation): (&Table, Operation),
    (name, partition): &(String, &str),
    values: &[(usize, Value)],
) -> Result<Option<String>, Problem> {
    let column = partition_column(map, table).filter(|column| table.visible().has(*column));
    let column = column.filter(|column| table.column(*column).name == *name);
    let column = column.ok_or_else(|| {
        Problem::new(Code::TSR100, format!("{} is not partitioned by {name}", table.name()))
            .hint(format!("leave {name} out: the shard key determines the location of the row"))
    })?;
    if matches!(operation, Operation::Insert | Operation::Upsert) {
        let detail = format!("{name} in the query is only for updates and deletes");
        return Err(Problem::new(Code::TSR100, detail).hint(format!("give {name} in data")));
    }
    let value = table.column(column).kind.read_text(partition).map_err(|mismatch| {
        Problem::from(&RowError::TypeMismatch { column: name.clone(), mismatch })
    })?;
    match values.iter().find(|(given, _)| *given == column) {
        Some((_, given)) if !may_replace(map, (table, column), given, &value) => {
            let changed = keyspace_of(map, table).map(Keyspace::changed_partition);
            Err(Problem::from(Error::from(changed.unwrap_or(KeyError::UnknownGroup))))
        }
        Some(_) | None => Ok(value.key_text().map(Cow::into_owned)),
    }
}

/// Returns true if a row whose partition column has the value `present` may be given the value
/// `given`: they are equal, or both are in the same range and the value does not identify the row.
fn may_replace(
    map: &ShardMap,
    (table, column): (&Table, usize),
    given: &Value,
    present: &Value,
) -> bool {
    let keyspace = keyspace_of(map, table);
    let slots = |value: &Value| keyspace?.slots_in(&value.key_text()?).ok();
    let is_key = table.routing() == Some(column) || table.id().contains(&column);
    let slots_of_given = slots(given);
    let is_in_range = slots_of_given.is_some() && slots_of_given == slots(present);
    given == present || (!is_key && is_in_range)
}

/// Returns the shard key of a row whose request names none: the value of its routing column, which
/// may be generated.
fn derived_key(
    table: &Table,
    data: &Members<'_>,
    generated: &[(usize, Value)],
) -> Result<String, Problem> {
    let derived = RowWrite::routing_key(table, &data.0);
    if let Some(key) = derived.map_err(|error| Problem::from(&error))? {
        return Ok(key);
    }
    if let Some(key) = routing_value(table, generated) {
        return Ok(key.into_owned());
    }
    let missing = || {
        let problem = Problem::new(Code::TSR104, "a write needs a shard key");
        let routing = table.routing().filter(|column| table.visible().has(*column));
        match routing.map(|routing| &table.column(routing).name) {
            Some(column) => problem.hint(format!(
                "give the row {column}, which is its shard key, or send the header x-shard-key"
            )),
            None => problem.hint("send the header x-shard-key, or shardKey in the body"),
        }
    };
    Err(null_key(table, data).unwrap_or_else(missing))
}

/// Returns the shard key in `values`, which is the value of the routing column; `None` if it is not
/// there.
pub(super) fn routing_value<'v>(
    table: &Table,
    values: &'v [(usize, Value)],
) -> Option<Cow<'v, str>> {
    let (_, value) = values.iter().find(|(column, _)| table.routing() == Some(*column))?;
    value.key_text()
}

/// Returns the problem of a row whose routing column is null, because null is not a shard key;
/// `None` if the row leaves the column out, or the column is hidden from the caller.
pub(super) fn null_key(table: &Table, data: &Members<'_>) -> Option<Problem> {
    let column = table.column(table.routing().filter(|column| table.visible().has(*column))?);
    data.get(&column.name)?;
    let (column, mismatch) = (column.name.clone(), TypeMismatch::Null);
    Some(Problem::from(&RowError::TypeMismatch { column, mismatch }))
}

/// Returns the operation that the member `op` of a body names, or upsert.
pub(super) fn operation(members: &Members<'_>) -> Result<Operation, Problem> {
    let Some(name) = members.text("op")? else { return Ok(Operation::default()) };
    Operation::find(&name)
        .ok_or_else(|| Problem::new(Code::TSR101, "op must be upsert, insert, update or delete"))
}

/// Returns the shard key that is given in the header, the query string or the body. If it is given
/// several times, all must be equal.
pub(super) fn one_key<'k>(
    header: Option<ShardKey<'k>>,
    query: Option<&'k str>,
    body: Option<&'k str>,
) -> Result<Option<ShardKey<'k>>, Problem> {
    let mut agreed = header;
    for (place, text) in [("query", query), ("body", body)] {
        let Some(text) = text else { continue };
        let key = ShardKey::parse(text).map_err(|error| {
            let code = if place == "query" { Code::TSR100 } else { Code::TSR101 };
            Problem::new(code, format!("shardKey: {error}"))
        })?;
        if agreed.is_some_and(|other| other != key) {
            let detail = format!("shardKey in the {place} is another than the one before it");
            return Err(Problem::new(Code::TSR103, detail).hint("send the shard key once"));
        }
        agreed = Some(key);
    }
    Ok(agreed)
}
