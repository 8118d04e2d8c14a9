//! `/health`, `/healthz`, `/docs`, `/openapi.json`, `/version`: commonly used paths, most of which
//! redirect to other routes or return the same as these.
//!
//! **Not here:** the routes that they stand for (`health`, `openapi`).

use actix_web::http::header::LOCATION;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;

use super::health::{self, HealthAnswer};
use crate::app::App;
use crate::documented_paths::PAGES;
use crate::problem::Problem;
use crate::query::Parameters;
use crate::response_headers::CommonRefusals;

/// Returns the state of every node, like /api/health.
#[utoipa::path(
    tag = "aliases",
    responses(
        (status = 200, description = "ok or degraded", body = HealthAnswer),
        (status = 503, description = "down", body = HealthAnswer),
        CommonRefusals,
    )
)]
#[get("/health")]
pub(crate) async fn short_health(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    health::respond(&app, &request).await
}

/// Returns the state of every node, like /api/health.
#[utoipa::path(
    tag = "aliases",
    responses(
        (status = 200, description = "ok or degraded", body = HealthAnswer),
        (status = 503, description = "down", body = HealthAnswer),
        CommonRefusals,
    )
)]
#[get("/healthz")]
pub(crate) async fn healthz(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    health::respond(&app, &request).await
}

/// Redirects to Swagger UI, which explains every call.
#[utoipa::path(
    tag = "aliases",
    responses((status = 303, description = "To /swagger-ui/"), CommonRefusals)
)]
#[get("/docs")]
pub(crate) async fn docs() -> HttpResponse {
    HttpResponse::SeeOther().insert_header((LOCATION, PAGES)).finish()
}

/// Returns the OpenAPI document, like /api-docs/openapi.json.
#[utoipa::path(
    tag = "aliases",
    responses((status = 200, description = "The document", body = serde_json::Value), CommonRefusals)
)]
#[get("/openapi.json")]
pub(crate) async fn openapi_document(api: Data<OpenApi>) -> HttpResponse {
    HttpResponse::Ok().json(&**api)
}

/// The program and its version.
#[derive(Serialize, ToSchema)]
pub struct VersionAnswer {
    /// Always true.
    success: bool,
    /// Always `tessera`.
    name: &'static str,
    /// The version of the router.
    version: &'static str,
}

/// Returns the version of the router.
#[utoipa::path(
    tag = "operations",
    responses((status = 200, description = "The version", body = VersionAnswer), CommonRefusals)
)]
#[get("/version")]
pub(crate) async fn version(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let version = env!("CARGO_PKG_VERSION");
    Ok(HttpResponse::Ok().json(VersionAnswer { success: true, name: "tessera", version }))
}
