//! `/`, `/errors/{code}`, and what answers at every other path.

use actix_web::http::header::{ACCEPT, LOCATION};
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse, get};
use utoipa::openapi::OpenApi;

use crate::problem::{Code, Problem};

/// The OpenAPI document, and the pages that show it.
pub(crate) const DOCUMENT: &str = "/api-docs/openapi.json";
/// See [`DOCUMENT`].
const PAGES: &str = "/swagger-ui/";

const LINKS: &str = "Tessera: one REST API in front of many databases

  POST /api/write               write a row
  GET  /api/read?table=users    read rows
  POST /api/bulk-write          write many rows
  GET  /api/health              how the shards are
  GET  /api/route?key=user_123  where a key lives
  GET  /api/analytics/metrics   what happened and how fast
       /swagger-ui/             every call, to try out
       /api-docs/openapi.json   the same for programs
";

/// Leads browsers to the documentation and tells others the links.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, description = "The links", body = String, content_type = "text/plain"),
        (status = 303, description = "For browsers: /swagger-ui/"),
        crate::answer::GateRefusals,
    )
)]
#[get("/")]
pub(crate) async fn home(request: HttpRequest) -> HttpResponse {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if accept.contains("text/html") {
        return HttpResponse::SeeOther().insert_header((LOCATION, PAGES)).finish();
    }
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(LINKS)
}

/// Explains an error code.
#[utoipa::path(
    tag = "operations",
    params(("code" = String, Path, description = "The code", example = "TSR101")),
    responses(
        (status = 200, description = "What the code means and what to do", body = String, content_type = "text/html"),
        crate::answer::LookupRefusals,
    )
)]
#[get("/errors/{code}")]
pub(crate) async fn explain_error(name: Path<String>) -> Result<HttpResponse, Problem> {
    let found = Code::ALL.iter().find(|code| code.name() == *name);
    let code = found.ok_or_else(|| Problem::new(Code::TSR111, "there is no such error code"))?;
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{name}</title>\
         <h1>{name} {title}</h1><p>{about}</p><p>HTTP status {status}. {retry}</p></html>\n",
        name = code.name(),
        title = code.title(),
        about = code.about(),
        status = code.status().as_u16(),
        retry = if code.is_retryable() {
            "The same request may succeed later."
        } else {
            "The same request will fail again."
        },
    );
    Ok(HttpResponse::Ok().content_type("text/html; charset=utf-8").body(page))
}

/// Anything else: the path is unknown, or it is known and the method is not.
pub async fn nothing_here(
    request: HttpRequest,
    api: Data<OpenApi>,
) -> Result<HttpResponse, Problem> {
    let path = request.path();
    if path == PAGES.trim_end_matches('/') {
        return Ok(HttpResponse::SeeOther().insert_header((LOCATION, PAGES)).finish());
    }
    let methods = methods(&api, path);
    if methods.is_empty() {
        return Err(Problem::new(Code::TSR111, "there is nothing at this path")
            .hint("/ lists what there is"));
    }
    let detail = format!("this path has {}", methods.join(", "));
    Err(Problem::new(Code::TSR112, detail).allow(methods.join(", ")))
}

/// The methods of a path, as the OpenAPI document knows them: `{name}` stands for one segment.
fn methods(api: &OpenApi, path: &str) -> Vec<&'static str> {
    let matches = |template: &str| {
        template.split('/').count() == path.split('/').count()
            && template
                .split('/')
                .zip(path.split('/'))
                .all(|(a, b)| a == b || (a.starts_with('{') && !b.is_empty()))
    };
    if path == DOCUMENT || path.starts_with(PAGES) {
        return vec!["GET", "HEAD"];
    }
    let Some((_, item)) = api.paths.paths.iter().find(|(template, _)| matches(template)) else {
        return Vec::new();
    };
    let mut methods = Vec::new();
    if item.get.is_some() {
        methods.extend(["GET", "HEAD"]);
    }
    if item.post.is_some() {
        methods.push("POST");
    }
    if item.put.is_some() {
        methods.push("PUT");
    }
    methods
}
