//! `GET /dashboard` and its files: the page that shows all of analytics.
//!
//! **Invariant:** the page loads nothing from anywhere else, and runs no script but its own.
//! **Not here:** the page (`analytics::dashboard`).

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
};
use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse, get};
use analytics::dashboard::{self, File};

use crate::answer::LookupRefusals;
use crate::problem::{Code, Problem};
use crate::query::Parameters;

/// What a browser lets the page do.
const POLICY: HeaderValue = HeaderValue::from_static(dashboard::CONTENT_SECURITY_POLICY);
const REFERRER_POLICY: HeaderName = HeaderName::from_static("referrer-policy");

/// Shows what happens, live.
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
    // What stands behind the ? is the page's own business.
    answer(&request, "")
}

/// A file of the dashboard.
#[utoipa::path(
    tag = "analytics",
    params(("file" = String, Path, description = "Its name", example = "page.js")),
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
    let found = dashboard::file(name);
    let File { content_type, body, etag } = found.ok_or_else(|| {
        Problem::new(Code::TSR111, "the dashboard has no such file").hint("/dashboard is the page")
    })?;
    let known = request.headers().get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|list| list.split(',').map(str::trim));
    let is_known = known.any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag);
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header((ETAG, etag))
        // Asked for again each time, and mostly answered in a line: a new router has a new page.
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-cache")))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((REFERRER_POLICY, HeaderValue::from_static("no-referrer")));
    Ok(if is_known { response.finish() } else { response.content_type(content_type).body(body) })
}
