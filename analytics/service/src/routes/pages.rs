//! `/`, `/dashboard`, `/live`, `/ready`, `/errors/{code}` and the OpenAPI document.

use actix_web::http::header::{ACCEPT, LOCATION};
use actix_web::web::{Data, Path, block};
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Deserialize;
use utoipa::openapi::OpenApi;

use crate::app::App;
use crate::forward::ask_router;
use crate::parameters::Parameters;
use crate::problem::{Code, GateRefusals, Problem, is_code};
use crate::scrape::scrape;
use recorder::CONTENT_TYPE;
use web_kit::readiness::{self, StateAnswer};
use web_kit::static_assets;

const LINKS: &str = "Tessera analytics: the figures of any number of routers, together

  GET  /dashboard               all of it, on a page
  GET  /api/analytics/metrics   what happened and how fast; ?router=NAME for one of them
  GET  /api/analytics/stream    the same each second
  GET  /api/analytics/errors    what went wrong
  GET  /api/analytics/alerts    what fires, and what has fired recently
  GET  /metrics                 for scrapers
  GET  /api/route?key=user_123  where a key lives; also /api/shards, /api/shard-map, /api/groups, /api/health, /api/advice
       /api-docs/openapi.json   every call, for programs
";

/// Redirects browsers to the dashboard, and returns a list of links to other clients.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, description = "The links", body = String, content_type = "text/plain"),
        (status = 303, description = "For browsers: /dashboard"),
        GateRefusals,
    )
)]
#[get("/")]
pub(super) async fn home(request: HttpRequest) -> HttpResponse {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if accept.contains("text/html") {
        return HttpResponse::SeeOther().insert_header((LOCATION, "/dashboard")).finish();
    }
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(LINKS)
}

/// Reports that the process runs.
#[utoipa::path(
    tag = "operations",
    responses((status = 200, description = "The process runs", body = StateAnswer), GateRefusals)
)]
#[get("/live")]
pub(super) async fn live() -> HttpResponse {
    readiness::live()
}

/// Returns 200 while the service answers requests, even if no router is reachable.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, description = "Ask", body = StateAnswer),
        (status = 503, description = "About to end", body = StateAnswer),
        GateRefusals,
    )
)]
#[get("/ready")]
pub(super) async fn ready(app: Data<App>) -> HttpResponse {
    readiness::ready(app.is_draining())
}

/// Returns metrics in OpenMetrics format: the state of collecting, the alerts, and the last minute
/// of all routers.
///
/// Routers publish their counts since their start themselves.
#[utoipa::path(
    tag = "analytics",
    params(("router" = Option<String>, Query, description = "Only of this router", example = "127.0.0.1:3000")),
    responses((status = 200, description = "The text", body = String, content_type = "application/openmetrics-text"), GateRefusals)
)]
#[get("/metrics")]
pub(super) async fn show_metrics(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let parameters = Parameters::parse(request.query_string(), &["router"])?;
    let router = parameters.get("router").map(str::to_owned);
    app.known(router.as_deref())?;
    let text = block(move || scrape(&app, router.as_deref())).await;
    let text = text.map_err(|_| Problem::new(Code::TSR500, "an internal error"))?;
    Ok(HttpResponse::Ok().content_type(CONTENT_TYPE).body(text))
}

/// Returns the dashboard, a page with live metrics.
#[utoipa::path(
    tag = "analytics",
    responses(
        (status = 200, description = "The page", body = String, content_type = "text/html"),
        (status = 304, description = "The page is the one of If-None-Match"),
        GateRefusals,
    )
)]
#[get("/dashboard")]
pub(super) async fn show_dashboard(request: HttpRequest) -> Result<HttpResponse, Problem> {
    answer(&request, "")
}

/// Returns a file of the dashboard.
#[utoipa::path(
    tag = "analytics",
    params(("file" = String, Path, description = "Name of the file", example = "page.js")),
    responses(
        (status = 200, description = "The file", content((String = "text/javascript"), (String = "text/css"))),
        (status = 304, description = "The file is the one of If-None-Match"),
        GateRefusals,
    )
)]
#[get("/dashboard/{file}")]
pub(super) async fn show_file(
    name: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    answer(&request, &name)
}

fn answer(request: &HttpRequest, name: &str) -> Result<HttpResponse, Problem> {
    static_assets::file(name, request.headers()).ok_or_else(|| {
        Problem::new(Code::TSR111, "the dashboard has no such file").hint("/dashboard is the page")
    })
}

/// Codes of problems, as a router lists them.
#[derive(Deserialize)]
struct RouterCodes {
    errors: Vec<CodeMeaning>,
}

/// Code of a problem and its meaning.
#[derive(Deserialize)]
struct CodeMeaning {
    code: String,
    status: u16,
    title: String,
    about: String,
    retryable: bool,
}

/// Explains an error code.
#[utoipa::path(
    tag = "operations",
    params(("code" = String, Path, description = "The code", example = "TSR100")),
    responses((status = 200, description = "What it means and what to do", body = String, content_type = "text/plain"), GateRefusals)
)]
#[get("/errors/{code}")]
pub(super) async fn explain_code(
    app: Data<App>,
    name: Path<String>,
) -> Result<HttpResponse, Problem> {
    let own = Code::ALL.iter().find(|code| code.name() == *name).map(|code| CodeMeaning {
        code: code.name().to_owned(),
        status: code.status().as_u16(),
        title: code.title().to_owned(),
        about: code.about().to_owned(),
        retryable: code.is_retryable(),
    });
    // A problem that was forwarded from a router may have a code that only routers have.
    let code = match own {
        Some(own) => Some(own),
        None if is_code(&name) => meaning_at_router(&app, &name).await,
        None => None,
    };
    let code = code.ok_or_else(|| {
        let names: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        Problem::new(Code::TSR111, "there is no such error code here")
            .hint(format!("there are {}; a router explains its others", names.join(", ")))
    })?;
    let again = if code.retryable { "may succeed later" } else { "will fail again" };
    let CodeMeaning { code, status, title, about, .. } = code;
    let text = format!("{code} {title} (status {status})\n\n{about}\nThe same request {again}.\n");
    Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(text))
}

/// Returns the meaning of a code according to a router; `None` if no router knows it.
async fn meaning_at_router(app: &App, name: &str) -> Option<CodeMeaning> {
    let answer = ask_router(app, "/errors").await.ok()?;
    let codes: RouterCodes = serde_json::from_slice(&answer.body).ok()?;
    codes.errors.into_iter().find(|code| code.code == name)
}

/// Returns the OpenAPI document.
#[utoipa::path(
    tag = "operations",
    responses((status = 200, description = "The OpenAPI document", body = Object), GateRefusals)
)]
#[get("/api-docs/openapi.json")]
pub(super) async fn show_document(api: Data<OpenApi>) -> HttpResponse {
    HttpResponse::Ok().json(&*api)
}
