//! `GET /api/access/me`, `POST /api/access/check`: the rights of the caller, and the rights of a
//! role. Without access control these routes do not exist.
//!
//! **Not here:** the decision about requests (`access`).

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use serde_json::value::RawValue;
use shard_manager::access::caller::Principal;
use utoipa::ToSchema;

use crate::app::App;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::CommonRefusals;

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
    let gate = app.gate.as_ref().ok_or_else(|| Problem::new(Code::TSR500, "no access control"))?;
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
