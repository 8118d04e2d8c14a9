//! `GET /api/tables`, `/api/tables/{name}`, `POST /api/tables`: lists, shows and creates tables.

use std::time::{Duration, Instant};

use actix_web::rt;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, get, post};
use serde::Serialize;
use serde_json::value::RawValue;
use shard_manager::access::rights::Rights;
use shard_manager::consistency::Level;
use shard_manager::declaration::{Declaration, DeclarationError, Fault};
use shard_manager::engine::index_record::IndexRecord;
use shard_manager::error::Error;
use shard_manager::manager::{Indexes, TableCreated};
use shard_manager::shard_map::ShardMap;
use shard_manager::table::{Column, ColumnDefault, DefaultFault, Table, closest, in_group};
use utoipa::ToSchema;

use crate::app::App;
use crate::body_reader::Members;
use crate::caller_rights::CallerRights;
use crate::headers::{DataHeaders, check_content_type, refuse_conditions};
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::{LookupRefusals, TableRefusals};
use crate::routes::groups;
use crate::routes::indexes::IndexShape;

/// Maximum number of bytes of a body: several times what a table with the most columns needs.
const BODY_BYTES_MAX: usize = 256 << 10;
/// Longest time in which shards drop what is left of a table whose creation failed; this happens
/// after the response was sent.
const UNDO_MAX: Duration = Duration::from_secs(10);

/// Members of the body that creates a table.
const MEMBERS: [&str; 5] = ["name", "columns", "id", "routing", "group"];
/// Members of a column in that body.
const COLUMN_MEMBERS: [&str; 4] = ["name", "type", "null", "default"];

/// The body that makes a table.
#[derive(ToSchema)]
#[schema(example = json!({"name": "students", "columns": [{"name": "id", "type": "text"},
    {"name": "grade", "type": "text", "null": true}], "id": ["id"], "routing": "id"}))]
pub struct TableRequest {
    /// A lower-case letter, then letters, digits or `_`; no word that SQL, a query string or the
    /// system needs.
    #[schema(max_length = 40, pattern = "^[a-z][a-z0-9_]{0,39}$")]
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    name: String,
    /// The columns, in their order. Every table also has `version`, `created_at` and `updated_at`.
    #[schema(min_items = 1, max_items = 200)]
    #[expect(dead_code, reason = "as above")]
    columns: Vec<ColumnRequest>,
    /// Columns that identify a row among those of its shard key: neither json nor null.
    #[schema(min_items = 1, max_items = 8)]
    #[expect(dead_code, reason = "as above")]
    id: Vec<String>,
    /// The column that is the shard key. Rows of a table without one may be written under any key.
    #[expect(dead_code, reason = "as above")]
    routing: Option<String>,
    /// Table group of the table; by default, the group whose settings name the table, or `main`.
    #[schema(value_type = String, required = false)]
    #[expect(dead_code, reason = "as above")]
    group: Option<String>,
}

/// A column of a table to be made.
#[derive(ToSchema)]
pub struct ColumnRequest {
    /// Name, with the rules for a table's name.
    #[schema(max_length = 40, pattern = "^[a-z][a-z0-9_]{0,39}$")]
    #[expect(dead_code, reason = "as above")]
    name: String,
    /// Type of its values.
    #[serde(rename = "type")]
    #[expect(dead_code, reason = "as above")]
    kind: TypeName,
    /// True if it may be null; false when it is not given.
    #[schema(value_type = bool, required = false)]
    #[expect(dead_code, reason = "as above")]
    null: Option<bool>,
    /// Value of a new row whose write leaves the column out: a value of the column, or
    /// `{"fn":"uuid"}` (a UUID of version 7, for uuid and text), or `{"fn":"now"}` (for timestamp).
    /// An id or a routing column with a default may be left out of a new row.
    #[schema(value_type = Value, required = false)]
    #[expect(dead_code, reason = "as above")]
    default: Option<serde_json::Value>,
}

/// The type of a column.
#[derive(serde::Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TypeName {
    /// UTF-8 without U+0000, compared by bytes.
    Text,
    /// A whole number of 64 bits.
    Bigint,
    /// A finite binary64 number.
    Double,
    /// `true` or `false`.
    Boolean,
    /// A time in UTC with microseconds, as RFC 3339.
    Timestamp,
    /// Any JSON value.
    Json,
    /// A UUID in the hyphenated lower-case form.
    Uuid,
}

/// All tables.
#[derive(Serialize, ToSchema)]
pub struct TablesAnswer {
    /// Always true.
    success: bool,
    /// The tables, by name.
    tables: Vec<TableShape>,
    /// Their indexes, by table and name. Changes by other routers may appear a second later.
    indexes: Vec<IndexShape>,
}

/// A table that was requested, or made.
#[derive(Serialize, ToSchema)]
pub struct TableAnswer {
    /// Always true.
    success: bool,
    /// The table.
    table: TableShape,
    /// Indexes of the table, by name. Changes by other routers may appear a second later.
    indexes: Vec<IndexShape>,
}

/// Columns and keys of a table.
#[derive(Serialize, ToSchema)]
pub struct TableShape {
    /// Name of the table.
    name: String,
    /// Own columns, in the order of the declaration.
    columns: Vec<ColumnShape>,
    /// Columns that identify a row among those of its shard key.
    id: Vec<String>,
    /// The column that is the shard key; null if any key may be used.
    #[schema(required)]
    routing: Option<String>,
    /// Table group of the table; missing if all tables are in one group.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
}

/// Name and type of a column.
#[derive(Serialize, ToSchema)]
pub struct ColumnShape {
    /// Name of the column.
    name: String,
    /// Type of its values.
    #[serde(rename = "type")]
    kind: &'static str,
    /// True if it may be null.
    null: bool,
    /// Value of a new row whose write leaves the column out, as in the request; absent without one.
    #[schema(value_type = Value, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<Box<RawValue>>,
}

/// Lists the tables.
#[utoipa::path(
    tag = "tables",
    responses((status = 200, description = "The tables, by name", body = TablesAnswer), LookupRefusals)
)]
#[get("/api/tables")]
pub(crate) async fn list_tables(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let registry = app.manager.schema(&app.rights(&request)).tables();
    let map = app.manager.map();
    let tables = registry.tables().map(|table| shape(&map, table)).collect();
    let indexes = registry.tables().flat_map(|table| known_indexes(&app, table));
    let indexes = indexes.map(|record| IndexShape::with_table(record, &app)).collect();
    Ok(HttpResponse::Ok().json(TablesAnswer { success: true, tables, indexes }))
}

/// Shows one table.
#[utoipa::path(
    tag = "tables",
    params(("name" = String, Path, description = "The table's name", example = "users")),
    responses((status = 200, description = "The table", body = TableAnswer), LookupRefusals)
)]
#[get("/api/tables/{name}")]
pub(crate) async fn find_table(
    app: Data<App>,
    name: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let table = app.manager.schema(&app.rights(&request)).table(&name)?;
    let indexes = known_indexes(&app, &table);
    Ok(HttpResponse::Ok().json(answer(&app, &table, indexes)))
}

/// Makes a table on every shard, or on none.
///
/// 201 when it was made, and can be used at once; 200 when a table of this name and shape exists;
/// 409 when one with another definition exists.
#[utoipa::path(
    tag = "tables",
    params(("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000)),
    request_body = TableRequest,
    responses(
        (status = 200, description = "The table existed already", body = TableAnswer),
        (status = 201, description = "Made", body = TableAnswer),
        TableRefusals,
    )
)]
#[post("/api/tables")]
pub(crate) async fn make_table(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let DataHeaders { options, .. } = DataHeaders::parse(&app.manager, &request, Instant::now())?;
    refuse_conditions(request.headers())?;
    if options.level != Level::One {
        let detail = "x-consistency must be one: a table is made on every primary, and replicas learn of it \
                      before they serve its rows";
        return Err(Problem::new(Code::TSR113, detail).hint("send the request without it"));
    }
    check_content_type(request.headers())?;
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let (bytes, _share) =
        app.read_body(&request, payload, BODY_BYTES_MAX, options.deadline).await?;
    let table = declaration(&bytes)?.check().map_err(refusal)?;
    let table = in_named_group(&app, table, &bytes)?;
    let rights = app.rights(&request);
    let made = make(&app, rights.clone(), table, options.deadline).await?;
    let (mut response, table) = match &made {
        TableCreated::New(table) => (HttpResponse::Created(), table),
        TableCreated::Known(table) => (HttpResponse::Ok(), table),
    };
    // An existing table may have indexes on columns that are hidden from the caller.
    let view = app.manager.schema(&rights).table(table.name());
    let indexes = view.map(|view| known_indexes(&app, &view)).unwrap_or_default();
    Ok(response.json(answer(&app, table, indexes)))
}

/// Creates a table in a separate task, so that a client that disconnects does not leave it on some
/// shards only.
async fn make(
    app: &Data<App>,
    rights: CallerRights,
    table: Table,
    deadline: Instant,
) -> Result<TableCreated, Problem> {
    let (sender, answer) = tokio::sync::oneshot::channel();
    let app = app.clone();
    rt::spawn(async move {
        let made = app.manager.schema(&rights).create_table(table, deadline).await;
        let may_be_left = made.as_ref().is_err_and(|failure| {
            !matches!(failure.error, Error::TableDiffers { .. } | Error::TooManyTables)
        });
        // The client may have disconnected, and then the result is not needed.
        let _ = sender.send(made);
        if may_be_left
            && let Err(error) =
                app.manager.schema(Rights::ALL).undo_tables(Instant::now() + UNDO_MAX).await
        {
            tracing::warn!(%error, "a table that was not made is still on some shards; the next start drops it");
        }
    });
    match answer.await {
        Ok(made) => Ok(made?),
        // The task has panicked. The next start of a router reads from the stored intent how far
        // the creation got.
        Err(_gone) => Err(Problem::new(Code::TSR500, "an internal error").outcome("unknown")),
    }
}

fn answer(app: &App, table: &Table, indexes: Vec<IndexRecord>) -> TableAnswer {
    let indexes = indexes.into_iter().map(|record| IndexShape::of(record, app)).collect();
    let map = app.manager.map();
    TableAnswer { success: true, table: shape(&map, table), indexes }
}

/// Returns the indexes of a table that contain no hidden columns.
fn known_indexes(app: &App, table: &Table) -> Vec<IndexRecord> {
    Indexes::of(app.manager.schema(Rights::ALL)).known(table)
}

fn shape(map: &ShardMap, table: &Table) -> TableShape {
    let name = |column: usize| table.column(column).name.clone();
    let is_shown = |column: &usize| table.visible().has(*column);
    let columns = table.own().filter(is_shown).map(|column| table.column(column));
    let columns = columns.map(|column| ColumnShape {
        name: column.name.clone(),
        kind: column.kind.name(),
        null: column.nullable,
        default: column.default_json(),
    });
    TableShape {
        name: table.name().to_owned(),
        columns: columns.collect(),
        id: table.id().iter().copied().filter(is_shown).map(name).collect(),
        routing: table.routing().filter(is_shown).map(name),
        group: (map.groups().count() > 1).then(|| map.groups().name_of(table.group()).to_owned()),
    }
}

/// Returns the table in the table group that the request names. If it names none, an existing table
/// stays in its group, and a new one gets the group of its name.
fn in_named_group(app: &App, table: Table, body: &[u8]) -> Result<Table, Problem> {
    let map = app.manager.map();
    let group = match Members::of_body(body)?.get("group") {
        Some(json) if json.get() != "null" => groups::find(&map, &text("group", json)?)?,
        Some(_) | None => {
            let known = app.manager.schema(Rights::ALL).tables();
            let known = known.find(table.name()).map(|known| known.group());
            known.unwrap_or_else(|| map.groups().of_new_table(table.name()))
        }
    };
    Ok(in_group(table, group))
}

fn declaration(body: &[u8]) -> Result<Declaration, Problem> {
    let members = Members::of_body(body)?;
    members.check_names(&MEMBERS)?;
    let name = members.required_text("name")?;
    let columns = array(&members, "columns")?;
    if columns.len() > Table::COLUMNS_MAX {
        // The number is checked before any column is parsed.
        let fault = Fault::ColumnCount { count: columns.len() };
        return Err(refusal(DeclarationError { member: "columns".to_owned(), fault }));
    }
    let columns = columns.into_iter().enumerate();
    let columns = columns.map(|(index, json)| column(&format!("columns[{index}]"), json));
    let columns = columns.collect::<Result<_, _>>()?;
    let id = array(&members, "id")?.into_iter().enumerate();
    let id = id.map(|(index, json)| text(&format!("id[{index}]"), json));
    let id = id.collect::<Result<_, _>>()?;
    let routing = match members.get("routing") {
        Some(json) if json.get() != "null" => Some(text("routing", json)?),
        Some(_) | None => None,
    };
    Ok(Declaration { name, columns, id, routing })
}

/// Returns the elements of a member that must be an array. Their number is limited by the size of
/// the body.
fn array<'a>(members: &Members<'a>, name: &str) -> Result<Vec<&'a RawValue>, Problem> {
    let missing = || Problem::new(Code::TSR101, format!("{name} is missing"));
    let json = members.get(name).ok_or_else(missing)?;
    serde_json::from_str(json.get())
        .map_err(|_| Problem::new(Code::TSR101, format!("{name} must be an array")))
}

fn text(name: &str, json: &RawValue) -> Result<String, Problem> {
    serde_json::from_str(json.get())
        .map_err(|_| Problem::new(Code::TSR101, format!("{name} must be a string")))
}

fn column(at: &str, json: &RawValue) -> Result<Column, Problem> {
    let members = Members::of_member(at, json)?;
    members.check_names(&COLUMN_MEMBERS).map_err(|problem| problem.within(at))?;
    let required = |name: &str| {
        let missing = || Problem::new(Code::TSR101, format!("{at}.{name} is missing"));
        text(&format!("{at}.{name}"), members.get(name).ok_or_else(missing)?)
    };
    let name = required("name")?;
    let kind = required("type")?;
    let kind = Declaration::find_type(&kind).ok_or_else(|| no_such_type(at, &kind))?;
    let nullable = match members.get("null").map(RawValue::get) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            return Err(Problem::new(Code::TSR101, format!("{at}.null must be true or false")));
        }
    };
    let unfit = |fault| {
        refusal(DeclarationError { member: format!("{at}.default"), fault: Fault::Default(fault) })
    };
    let default = match members.get("default") {
        Some(json) if json.get() == "null" && !nullable => return Err(unfit(DefaultFault::Null)),
        Some(json) => ColumnDefault::parse(kind, json).map_err(unfit)?,
        None => None,
    };
    Ok(Column { name, kind, nullable, default })
}

fn no_such_type(at: &str, given: &str) -> Problem {
    let names = Declaration::TYPES.map(|kind| kind.name());
    let problem = Problem::new(Code::TSR101, format!("{at}.type is none of {}", names.join(", ")));
    match closest(&given.to_lowercase(), names.into_iter()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem,
    }
}

fn refusal(error: DeclarationError) -> Problem {
    let detail = error.to_string();
    match error.fault {
        Fault::ColumnCount { count } if count > 0 => Problem::new(Code::TSR108, detail),
        Fault::ColumnCount { .. }
        | Fault::IdCount { .. }
        | Fault::Name
        | Fault::Twice
        | Fault::NotComparable
        | Fault::Nullable
        | Fault::Default(_)
        | Fault::Unsound(_) => Problem::new(Code::TSR101, detail),
        Fault::Reserved { .. } => {
            Problem::new(Code::TSR101, detail).hint("take another name, or add something to it")
        }
        Fault::NoSuchColumn { suggestion } => {
            let problem = Problem::new(Code::TSR101, detail);
            match suggestion {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem,
            }
        }
    }
}
