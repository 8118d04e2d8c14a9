//! `GET /dashboard` and its files: serves the page that shows all metrics.
//!
//! **Invariant:** the page loads nothing from other hosts, and runs only its own scripts.
//! **Not here:** the files of the page (`analytics::dashboard`), the responses that contain them
//! (`analytics::static_assets`).

use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse, get};
use analytics::static_assets;

use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::LookupRefusals;

/// Shows the live dashboard.
#[utoipa::path(
    tag = "analytics",
    responses(
        (status = 200, description = "The page", body = String, content_type = "text/html"),
        (status = 304, description = "The page is the one of If-None-Match"),
        LookupRefusals,
    )
)]
#[get("/dashboard")]
pub(crate) async fn show_dashboard(request: HttpRequest) -> Result<HttpResponse, Problem> {
    // The query string is ignored here, because the script of the page reads it.
    answer(&request, "")
}

/// Returns a file of the dashboard.
#[utoipa::path(
    tag = "analytics",
    params(("file" = String, Path, description = "Name of the file", example = "page.js")),
    responses(
        (status = 200, description = "The file", content((String = "text/javascript"), (String = "text/css"))),
        (status = 304, description = "The file is the one of If-None-Match"),
        LookupRefusals,
    )
)]
#[get("/dashboard/{file}")]
pub(crate) async fn show_file(
    name: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    answer(&request, &name)
}

fn answer(request: &HttpRequest, name: &str) -> Result<HttpResponse, Problem> {
    static_assets::file(name, request.headers()).ok_or_else(|| {
        Problem::new(Code::TSR111, "the dashboard has no such file").hint("/dashboard is the page")
    })
}
