//! `GET /api/access/me`, `POST /api/access/check`: return the rights of the caller, and decide
//! whether a role permits a request. Without access control, the routes below `/api/access` do not
//! exist.
//!
//! **Not here:** the decision about requests (`crate::access`), changes (`keys`, `roles`,
//! `denials`).

mod author;
pub mod denials;
pub mod keys;
pub mod roles;
pub mod session;

use std::time::{Duration, Instant};

use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse, get, post};
use serde::Serialize;
use serde_json::value::RawValue;
use shard_manager::access::caller::Principal;
use shard_manager::access::check::CheckRequest;
use utoipa::ToSchema;

use crate::access::gate::AccessGate;
use crate::app::App;
use crate::body_reader::Members;
use crate::headers::check_content_type;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::{CheckRefusals, CommonRefusals};

/// Maximum number of bytes of the body of a check.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Longest time for the body to arrive.
const BODY_WAIT: Duration = Duration::from_secs(5);
const MEMBERS: [&str; 6] = ["role", "tenant", "operation", "table", "key", "columns"];

/// The caller of a request.
#[derive(Serialize, ToSchema)]
pub struct CallerAnswer {
    /// Always true.
    success: bool,
    /// `on`, or `observe`: requests are not refused.
    mode: &'static str,
    /// `anonymous`, `key`, `token` or `certificate`.
    kind: &'static str,
    /// Id of the key, `sub` of the token, or name in the certificate.
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
    let current = gate.authenticator.get();
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

/// A string, or a list of strings.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum TextOrList {
    /// A single string.
    Text(String),
    /// Several strings.
    List(Vec<String>),
}

/// A request about rows, as a caller with a role would send it.
#[derive(ToSchema)]
pub struct AccessQuestion {
    /// Name of the role.
    #[schema(example = "reader")]
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    role: String,
    /// Tenant of the caller, or a list of tenants.
    #[schema(value_type = TextOrList, required = false)]
    #[expect(dead_code, reason = "as above")]
    tenant: Option<TextOrList>,
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
#[derive(ToSchema)]
pub struct AccessDecision {
    /// Always true.
    #[expect(dead_code, reason = "describes the answer, which is written without building it")]
    success: bool,
    /// True if the request is allowed.
    #[expect(dead_code, reason = "as above")]
    allowed: bool,
    /// Index of the grant that allows it, from 0.
    #[expect(dead_code, reason = "as above")]
    grant: Option<usize>,
    /// Rule of this grant for shard keys: a pattern or a list.
    #[schema(value_type = TextOrList, required = false)]
    #[expect(dead_code, reason = "as above")]
    keys: Option<TextOrList>,
    /// Columns of this grant: `*` or a list.
    #[schema(value_type = TextOrList, required = false)]
    #[expect(dead_code, reason = "as above")]
    columns: Option<TextOrList>,
    /// Missing part of a request that is denied: `table`, `operation`, `column`, `one_grant`,
    /// `key`, `tenant` or `role`.
    #[expect(dead_code, reason = "as above")]
    lacks: Option<String>,
    /// Description of the missing part.
    #[expect(dead_code, reason = "as above")]
    detail: Option<String>,
}

/// Returns the grant of a role that allows a request, or the missing part.
///
/// Nothing is read or written, and neither the table nor the row needs to exist.
#[utoipa::path(
    tag = "access",
    request_body = AccessQuestion,
    responses((status = 200, description = "The decision", body = AccessDecision), CheckRefusals)
)]
#[post("/api/access/check")]
pub(crate) async fn check_access(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let body = read_body(&app, &request, payload).await?;
    let answer = decide(gate(&app)?, &body)?;
    Ok(HttpResponse::Ok().content_type("application/json").body(answer))
}

/// Reads a JSON body of at most [`BODY_BYTES_MAX`] bytes.
async fn read_body(app: &App, request: &HttpRequest, payload: Payload) -> Result<Bytes, Problem> {
    check_content_type(request.headers())?;
    let deadline = Instant::now() + BODY_WAIT;
    let (bytes, _share) = app.read_body(request, payload, BODY_BYTES_MAX, deadline).await?;
    Ok(bytes)
}

fn gate(app: &App) -> Result<&AccessGate, Problem> {
    app.gate.as_deref().ok_or_else(|| Problem::new(Code::TSR111, "access control is off"))
}

fn decide(gate: &AccessGate, body: &[u8]) -> Result<String, Problem> {
    Members::of_body(body)?.check_names(&MEMBERS)?;
    let text = std::str::from_utf8(body).unwrap_or_default();
    let question = CheckRequest::parse(text);
    let question = question.map_err(|error| Problem::new(Code::TSR101, error.to_string()))?;
    let current = gate.authenticator.get();
    let answer = question.decide(current.snapshot().role(question.role())).to_json();
    // The object has at least one member, so `success` and a comma can be put before its members.
    Ok(format!("{{\"success\":true,{}", answer.trim_start_matches('{')))
}
