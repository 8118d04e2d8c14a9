//! `/api/tables/{name}/indexes`: lists, creates and drops the indexes of a table.
//!
//! **Not here:** building an index (`shard_manager::manager`), the form of responses (`schema`).

mod schema;

use std::time::{Duration, Instant};

use actix_web::http::header::LOCATION;
use actix_web::web::{Bytes, Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, delete, get, post};
use serde_json::value::RawValue;
use shard_manager::manager::{IndexCreated, IndexDraft, Indexes};
use shard_manager::table_index::TableIndex;

pub use self::schema::{IndexAnswer, IndexPlanAnswer, IndexRequest, IndexShape, IndexesAnswer};
use crate::app::App;
use crate::body_reader::Members;
use crate::headers::{check_content_type, deadline, refuse_conditions, refuse_row_headers};
use crate::prefer::{Prefer, Preference};
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::{IndexRefusals, LookupRefusals};

/// Maximum number of bytes of a body, which contains a few names and numbers.
const BODY_BYTES_MAX: usize = 16 << 10;
/// Value of `pause_max_ms` if it is not given.
const PAUSE_DEFAULT: Duration = Duration::from_secs(2);
/// Members of the body that creates an index.
const MEMBERS: [&str; 4] = ["name", "columns", "unique", "pause_max_ms"];

/// Lists the indexes of a table, with their states.
#[utoipa::path(
    tag = "tables",
    params(("name" = String, Path, description = "The table's name", example = "orders")),
    responses((status = 200, description = "The indexes, by name", body = IndexesAnswer), LookupRefusals)
)]
#[get("/api/tables/{name}/indexes")]
pub(crate) async fn list_indexes(
    app: Data<App>,
    table: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let (rights, deadline) = (app.rights(&request), Instant::now() + deadline(request.headers())?);
    let records = Indexes::of(app.manager.schema(&rights)).list(&table, deadline).await?;
    let indexes = records.into_iter().map(|record| IndexShape::of(record, &app)).collect();
    let table = table.into_inner();
    Ok(HttpResponse::Ok().json(IndexesAnswer { success: true, table, indexes }))
}

/// Builds an index on every shard, or on none.
///
/// 202 when it is being built: GET shows when it is `ready`, or why it has `failed`. 200 when the
/// table already has it. On files the writes of a shard wait while its index is built. If that
/// is estimated to take longer than `pause_max_ms`, nothing is begun; if it does take longer, the
/// build is stopped and the index fails. With `Prefer: tx=rollback` nothing changes, and the
/// response describes the effect.
#[utoipa::path(
    tag = "tables",
    params(
        ("name" = String, Path, description = "The table's name", example = "orders"),
        ("Prefer" = Option<String>, Header, description = "tx=rollback: only describe the effect"),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000),
    ),
    request_body = IndexRequest,
    responses(
        (status = 200, description = "The index already existed; with tx=rollback, the effect", body = IndexPlanAnswer),
        (status = 202, description = "The index is being built; Location is the list of indexes", body = IndexAnswer),
        IndexRefusals,
    )
)]
#[post("/api/tables/{name}/indexes")]
pub(crate) async fn make_index(
    app: Data<App>,
    table: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let change = Change::of(&request)?;
    check_content_type(request.headers())?;
    let read = app.read_body(&request, payload, BODY_BYTES_MAX, change.deadline).await;
    let draft = draft(&read.map(|(bytes, _share)| bytes)?)?;
    let rights = app.rights(&request);
    let indexes = Indexes::of(app.manager.schema(&rights));
    if change.is_dry_run {
        return plan(&app, indexes, &table, &draft, &change).await;
    }
    match indexes.create(&table, &draft, change.deadline).await? {
        known @ IndexCreated::Known(_) => {
            Ok(HttpResponse::Ok().json(IndexPlanAnswer::of(known, &[], &app)))
        }
        IndexCreated::Begun(record) => Ok(HttpResponse::Accepted()
            .insert_header((LOCATION, format!("/api/tables/{table}/indexes")))
            .json(IndexAnswer::of(IndexShape::of(record, &app)))),
    }
}

/// Drops an index from every shard.
///
/// 202 when it is being dropped; it is no longer listed once no shard has it.
#[utoipa::path(
    tag = "tables",
    params(
        ("name" = String, Path, description = "The table's name", example = "orders"),
        ("index" = String, Path, description = "The index's name", example = "by_status"),
        ("x-deadline-ms" = Option<u32>, Header, description = "Longest time for an answer; 5000 when not given", minimum = 100, maximum = 60000),
    ),
    responses(
        (status = 202, description = "The index is being dropped", body = IndexAnswer),
        IndexRefusals,
    )
)]
#[delete("/api/tables/{name}/indexes/{index}")]
pub(crate) async fn remove_index(
    app: Data<App>,
    path: Path<(String, String)>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let change = Change::of(&request)?;
    if change.is_dry_run {
        let detail = "prefer must be left out: dropping an index has no preferences";
        return Err(Problem::new(Code::TSR113, detail).hint("GET lists the indexes"));
    }
    let ((table, index), rights) = (path.into_inner(), app.rights(&request));
    let indexes = Indexes::of(app.manager.schema(&rights));
    let record = indexes.remove(&table, &index, change.deadline).await?;
    Ok(HttpResponse::Accepted().json(IndexAnswer::of(IndexShape::of(record, &app))))
}

/// Parsed headers of a request that changes indexes.
struct Change {
    deadline: Instant,
    prefer: Prefer,
    is_dry_run: bool,
}

impl Change {
    /// Parses the headers of a request, which must have no parameters.
    fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let headers = request.headers();
        Parameters::parse(request.query_string())?.check_names(&[])?;
        refuse_row_headers(headers)?;
        refuse_conditions(headers)?;
        let prefer = Prefer::parse_of_change(headers)?;
        let is_dry_run = prefer.has(Preference::Rollback);
        Ok(Self { deadline: Instant::now() + deadline(headers)?, prefer, is_dry_run })
    }
}

/// Responds with the effect that the creation of an index would have, and creates nothing.
async fn plan(
    app: &App,
    indexes: Indexes<'_>,
    table: &str,
    draft: &IndexDraft,
    change: &Change,
) -> Result<HttpResponse, Problem> {
    let (created, pauses) = indexes.plan(table, draft, change.deadline).await?;
    let mut response = HttpResponse::Ok();
    if let Some(applied) = change.prefer.applied(&[Preference::Rollback]) {
        response.insert_header(("preference-applied", applied));
    }
    Ok(response.json(IndexPlanAnswer::of(created, &pauses, app)))
}

fn draft(body: &Bytes) -> Result<IndexDraft, Problem> {
    let members = Members::of_body(body)?;
    members.check_names(&MEMBERS)?;
    let name = members.required_text("name")?;
    let missing = || Problem::new(Code::TSR101, "columns is missing");
    let columns = members.get("columns").ok_or_else(missing)?;
    let columns: Vec<String> = serde_json::from_str(columns.get()).map_err(|_| {
        let most = TableIndex::COLUMNS_MAX;
        Problem::new(Code::TSR101, format!("columns must be an array of 1 to {most} names"))
    })?;
    let is_unique = match members.get("unique").map(RawValue::get) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::new(Code::TSR101, "unique must be true or false")),
    };
    let pause = members.get("pause_max_ms").map(|json| {
        let most = IndexDraft::PAUSE_MAX.as_millis() as u64;
        let pause = json.get().parse::<u64>().ok().filter(|pause| *pause <= most);
        let detail = format!("pause_max_ms must be a whole number from 0 to {most}");
        pause.ok_or_else(|| Problem::new(Code::TSR101, detail))
    });
    let pause_max_ms = pause.unwrap_or(Ok(PAUSE_DEFAULT.as_millis() as u64))?;
    Ok(IndexDraft { name, columns, is_unique, pause_max_ms })
}
