//! `/api/access/denials`: denies access to tenants, and to tokens before they expire.
//!
//! **Invariant:** only a caller with every right can end a denial or make it end earlier, because
//! that gives access back to everyone whom it has denied access.
//! **Not here:** the effect of a denial (`shard_manager::access::denial`).

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse, delete, get, post};
use serde::Serialize;
use serde_json::value::RawValue;
use shard_manager::access::denial::Denial;
use shard_manager::access::unix_time::UnixTime;
use shard_manager::engine::access_store::AccessChange;
use utoipa::ToSchema;

use super::author::Author;
use super::roles::RemovalAnswer;
use crate::access::clock::unix_now;
use crate::app::App;
use crate::body_reader::Members;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::{ChangeRefusals, LookupRefusals};

/// Members that identify the tokens or the tenant to which access is denied.
const SUBJECT: [&str; 5] = ["issuer", "jti", "sub", "tenant", "issued_before"];
const MEMBERS: [&str; 6] = ["issuer", "jti", "sub", "tenant", "issued_before", "until"];

/// All denials.
#[derive(Serialize, ToSchema)]
pub struct DenialList {
    /// Always true.
    success: bool,
    /// The denials.
    #[schema(value_type = Vec<Object>)]
    denials: Vec<Box<RawValue>>,
}

/// One denial.
#[derive(Serialize, ToSchema)]
pub struct DenialAnswer {
    /// Always true.
    success: bool,
    /// The denial.
    #[schema(value_type = Object)]
    denial: Box<RawValue>,
}

/// A denial: of one token, of a subject or of all older tokens of an issuer, or of a tenant.
#[derive(ToSchema)]
#[schema(example = json!({"tenant": "acme", "until": "2027-01-31T12:00:00Z"}))]
pub struct DenialRequest {
    /// `iss` of the tokens; not with `tenant`.
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    issuer: Option<String>,
    /// `jti` of one token.
    #[expect(dead_code, reason = "as above")]
    jti: Option<String>,
    /// `sub` of tokens.
    #[expect(dead_code, reason = "as above")]
    sub: Option<String>,
    /// Tenant, with all its keys and tokens.
    #[expect(dead_code, reason = "as above")]
    tenant: Option<String>,
    /// Time before which the tokens were issued: RFC 3339.
    #[expect(dead_code, reason = "as above")]
    issued_before: Option<String>,
    /// Time in the future at which the denial ends; without it, the denial has no end.
    #[expect(dead_code, reason = "as above")]
    until: Option<String>,
}

/// Lists the denials.
#[utoipa::path(
    tag = "access",
    responses((status = 200, description = "The denials", body = DenialList), LookupRefusals)
)]
#[get("/api/access/denials")]
pub(crate) async fn list_denials(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let (_, catalog) = Author::of(&app, &request, &[])?.known();
    let denials = catalog.denials.iter().filter_map(raw).collect();
    Ok(HttpResponse::Ok().json(DenialList { success: true, denials }))
}

/// Denies a token, a subject, a tenant, or the older tokens of an issuer.
///
/// In force at once here, and within a second in every router.
#[utoipa::path(
    tag = "access",
    params(("x-deadline-ms" = Option<u32>, Header, description = "Longest time for the body to arrive; 5000 by default", minimum = 100, maximum = 60000)),
    request_body = DenialRequest,
    responses((status = 201, description = "The denial", body = DenialAnswer), ChangeRefusals)
)]
#[post("/api/access/denials")]
pub(crate) async fn add_denial(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let mut author = Author::of(&app, &request, &[])?;
    let body = author.read_body(&request, payload).await?;
    Members::of_body(&body)?.check_names(&MEMBERS)?;
    let denial = parse(std::str::from_utf8(&body).unwrap_or_default())?;
    if denial.has_ended(unix_now()) {
        return Err(Problem::new(Code::TSR101, "until: must be a time in the future")
            .hint("DELETE /api/access/denials ends a denial"));
    }
    let (_, catalog) = author.known();
    let end = |denial: &Denial| denial.until.unwrap_or(UnixTime::MAX);
    let is_shorter = |known: &Denial| known.subject == denial.subject && end(&denial) < end(known);
    if catalog.denials.iter().any(is_shorter) {
        author.check_all_powerful()?;
    }
    let shown = raw(&denial).ok_or_else(|| Problem::new(Code::TSR500, "an internal error"))?;
    author.change(&AccessChange::PutDenial(denial)).await?;
    Ok(HttpResponse::Created().json(DenialAnswer { success: true, denial: shown }))
}

/// Ends a denial, which the parameters identify like the members of its body. Needs every right.
#[utoipa::path(
    tag = "access",
    params(
        ("issuer" = Option<String>, Query, description = "iss of the tokens"),
        ("jti" = Option<String>, Query, description = "jti of one token"),
        ("sub" = Option<String>, Query, description = "sub of tokens"),
        ("tenant" = Option<String>, Query, description = "Tenant"),
        ("issued_before" = Option<String>, Query, description = "Time before which tokens were issued"),
    ),
    responses((status = 200, description = "It is ended", body = RemovalAnswer), ChangeRefusals)
)]
#[delete("/api/access/denials")]
pub(crate) async fn remove_denial(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let author = Author::of(&app, &request, &SUBJECT)?;
    let parameters = Parameters::parse(request.query_string())?;
    let mut document = serde_json::Map::new();
    for name in SUBJECT {
        if let Some(text) = parameters.single(name)? {
            document.insert(name.to_owned(), text.into());
        }
    }
    let json = serde_json::Value::from(document).to_string();
    let denial = Denial::parse(&json);
    let denial = denial.map_err(|error| Problem::new(Code::TSR100, error.to_string()))?;
    author.check_all_powerful()?;
    author.change(&AccessChange::RemoveDenial(denial.subject)).await?;
    Ok(HttpResponse::Ok().json(RemovalAnswer { success: true }))
}

fn parse(json: &str) -> Result<Denial, Problem> {
    Denial::parse(json).map_err(|error| Problem::new(Code::TSR101, error.to_string()))
}

fn raw(denial: &Denial) -> Option<Box<RawValue>> {
    RawValue::from_string(denial.to_json()).ok()
}
