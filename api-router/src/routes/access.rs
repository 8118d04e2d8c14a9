//! `GET /api/access/me`, `POST /api/access/check`: the rights of the caller, and the rights of a
//! role. Without access control these routes do not exist.
//!
//! **Not here:** the decision about requests (`access`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse, get, post};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shard_manager::access::caller::Principal;
use shard_manager::access::grant::{Grant, KeyBinding};
use shard_manager::access::operation::RowOperations;
use shard_manager::access::rights::{CompiledRole, Rights, RowRequest};
use shard_manager::access::tenant::Tenants;
use shard_manager::keyspace::ShardKey;
use utoipa::ToSchema;

use crate::access::gate::Gate;
use crate::app::App;
use crate::body::Members;
use crate::headers::check_content_type;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::{CommonRefusals, LookupRefusals};

/// Largest body of a check.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Longest time for the body to arrive.
const BODY_WAIT: Duration = Duration::from_secs(5);
const MEMBERS: [&str; 6] = ["role", "tenant", "operation", "table", "key", "columns"];
const UPSERT: &str = "upsert";

/// The caller of a request.
#[derive(Serialize, ToSchema)]
pub struct CallerAnswer {
    /// Always true.
    success: bool,
    /// `on`, or `observe`: requests are not refused.
    mode: &'static str,
    /// `anonymous`, `key` or `token`.
    kind: &'static str,
    /// Id of the key, or `sub` of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// `iss` of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    /// Name of the role.
    role: String,
    /// Tenants of the caller.
    tenants: Vec<String>,
    /// Time from which the credentials are refused: RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// The role with its grants, scopes and limits; null if there is no such role.
    #[schema(value_type = Option<Object>, required)]
    rights: Option<Box<RawValue>>,
}

/// Returns the caller of this request, and what it may do.
#[utoipa::path(
    tag = "access",
    responses((status = 200, description = "The caller", body = CallerAnswer), CommonRefusals)
)]
#[get("/api/access/me")]
pub(crate) async fn describe_caller(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let gate = gate(&app)?;
    let caller = gate.caller(&request);
    let (id, issuer) = match &caller.principal {
        Principal::Anonymous => (None, None),
        Principal::Key(id) => (Some(id.to_string()), None),
        Principal::Token { issuer, subject, .. } => {
            (subject.as_deref().map(str::to_owned), Some(issuer.to_string()))
        }
        Principal::Certificate { name } => (Some(name.to_string()), None),
    };
    let current = gate.current();
    let role = current.snapshot().role(&caller.role).map(|role| role.role().to_json());
    Ok(HttpResponse::Ok().json(CallerAnswer {
        success: true,
        mode: gate.mode().name(),
        kind: caller.principal.kind(),
        id,
        issuer,
        role: caller.role.to_string(),
        tenants: caller.rights.tenants().iter().map(|tenant| tenant.to_string()).collect(),
        expires_at: caller.expires_at.map(|time| time.format()),
        rights: role.and_then(|json| RawValue::from_string(json).ok()),
    }))
}

/// A request about rows, as a role would make it.
#[derive(ToSchema)]
pub struct CheckRequest {
    /// Name of the role.
    #[schema(example = "reader")]
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    role: String,
    /// A tenant, or a list of them.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "as above")]
    tenant: Option<String>,
    /// `read`, `insert`, `update`, `upsert` or `delete`.
    #[schema(example = "read")]
    #[expect(dead_code, reason = "as above")]
    operation: String,
    /// Name of the table.
    #[schema(example = "users")]
    #[expect(dead_code, reason = "as above")]
    table: String,
    /// The shard key; without one the request is about all rows that the role may reach.
    #[expect(dead_code, reason = "as above")]
    key: Option<String>,
    /// Columns that are selected, filtered, sorted or written.
    #[expect(dead_code, reason = "as above")]
    columns: Option<Vec<String>>,
}

/// The decision about a request.
#[derive(Serialize, ToSchema)]
pub struct CheckAnswer {
    /// Always true.
    success: bool,
    /// True if the request is allowed.
    allowed: bool,
    /// Index of the grant that allows it, from 0; null if it is denied.
    #[schema(required)]
    grant: Option<usize>,
    /// Shard keys to which the request is bound: `all`, `listed` or `prefix`; null if it is denied.
    #[schema(required)]
    bound: Option<&'static str>,
    /// Missing part of a request that is denied; null if it is allowed.
    #[schema(required)]
    lacks: Option<String>,
}

/// Returns the grant of a role that allows a request, or the part that lacks.
///
/// Nothing is read or written, and neither the table nor the row needs to exist.
#[utoipa::path(
    tag = "access",
    request_body = CheckRequest,
    responses((status = 200, description = "The decision", body = CheckAnswer), LookupRefusals)
)]
#[post("/api/access/check")]
pub(crate) async fn check_access(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    check_content_type(request.headers())?;
    let deadline = Instant::now() + BODY_WAIT;
    let (bytes, _share) = app.read_body(&request, payload, BODY_BYTES_MAX, deadline).await?;
    Ok(HttpResponse::Ok().json(decide(gate(&app)?, &bytes)?))
}

fn gate(app: &App) -> Result<&Gate, Problem> {
    app.gate.as_deref().ok_or_else(|| Problem::new(Code::TSR111, "access control is off"))
}

fn decide(gate: &Gate, body: &[u8]) -> Result<CheckAnswer, Problem> {
    let members = Members::of_body(body)?;
    members.check_names(&MEMBERS)?;
    let name = members.required_text("role")?;
    let current = gate.current();
    let role = current.snapshot().role(&name).ok_or_else(|| {
        Problem::new(Code::TSR101, "role: there is no such role").hint("check its spelling")
    })?;
    let tenants = tenants(&members, role)?;
    let operation = members.required_text("operation")?;
    let operations = match &*operation {
        UPSERT => Some(RowOperations::UPSERT),
        name => RowOperations::find(name),
    };
    let operations = operations.ok_or_else(|| {
        let known = RowOperations::NAMES;
        Problem::new(Code::TSR101, format!("operation must be one of: {known}, {UPSERT}"))
    })?;
    let table = members.required_text("table")?;
    let columns: Vec<String> = list(&members, "columns", "a list of strings")?.unwrap_or_default();
    let columns = columns.iter().map(String::as_str);
    let request = RowRequest { operations, table: &table, columns };
    let rights = Rights::of(Arc::clone(role), tenants);
    let key = members.text("key")?;
    let decision = match &key {
        Some(key) => {
            let wrong = |error| Problem::new(Code::TSR101, format!("key: {error}"));
            rights.allow_key(&request, ShardKey::parse(key).map_err(wrong)?)
        }
        None => rights.allow_bound(&request),
    };
    Ok(match decision {
        Ok(allowed) => {
            // A grant has its columns in itself, so they name it.
            let allows = |grant: &Grant| std::ptr::eq(grant.columns(), allowed.columns);
            let grant = role.role().grants().iter().position(allows);
            let bound = match allowed.binding {
                KeyBinding::All => "all",
                KeyBinding::Keys(_) => "listed",
                KeyBinding::Prefixes { .. } => "prefix",
            };
            CheckAnswer { success: true, allowed: true, grant, bound: Some(bound), lacks: None }
        }
        Err(denied) => {
            let lacks = Some(denied.to_string());
            CheckAnswer { success: true, allowed: false, grant: None, bound: None, lacks }
        }
    })
}

/// Returns the tenants of a check, which the role must be able to have.
fn tenants(members: &Members<'_>, role: &CompiledRole) -> Result<Tenants, Problem> {
    let wrong = |cause: String| Problem::new(Code::TSR101, format!("tenant: {cause}"));
    let is_list = members.get("tenant").is_some_and(|json| json.get().starts_with('['));
    let texts: Vec<String> = if is_list {
        list(members, "tenant", "a string or a list of strings")?.unwrap_or_default()
    } else {
        members.text("tenant")?.into_iter().collect()
    };
    let tenants = Tenants::parse(texts.iter().map(String::as_str));
    let tenants = tenants.map_err(|error| wrong(error.to_string()))?;
    let separators = role.role().separators();
    tenants.check_separators(separators).map_err(|error| wrong(error.to_string()))?;
    Ok(tenants)
}

fn list<T: for<'de> Deserialize<'de>>(
    members: &Members<'_>,
    name: &str,
    allowed: &str,
) -> Result<Option<T>, Problem> {
    let Some(json) = members.get(name) else { return Ok(None) };
    let wrong = |_| Problem::new(Code::TSR101, format!("{name} must be {allowed}"));
    serde_json::from_str(json.get()).map(Some).map_err(wrong)
}
