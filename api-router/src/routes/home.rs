//! `/`: the list of routes; and the responses to requests for unknown paths.

use actix_web::http::header::{ACCEPT, ALLOW, LOCATION};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use utoipa::openapi::OpenApi;

use crate::app::App;
use crate::documented_paths::{DOCUMENT, PAGES, methods};
use crate::problem::{Code, Problem};
use crate::request_hints;

/// Path that the analytics service serves and a router does not.
const ALERTS: &str = "/api/analytics/alerts";
const OF_ALERTS: &str = "the analytics service serves alerts and watches one router or many: start it with \
     `analytics --routers URL`, with the URL of this router, and request the same path there";

/// Route that begins the session of a browser.
const LOGIN: &str = "/api/session";
const WITHOUT_LOGIN: &str = "access control is off, so every request is served without a login: start the router with --access on to need one";

/// Prefixes of the routes that change shards and slots, and make backups.
const CHANGES: [&str; 5] =
    ["/api/shards", "/api/slots", "/api/moves", "/api/rebalance", "/api/backup"];
const WITHOUT_CHANGES: &str = "shards and slots are changed, and backups are made, through a router with access control \
     (--access on), or one that is started with --operate";

/// Methods that change shards.
const CHANGING: [&str; 3] = ["POST", "PATCH", "DELETE"];

/// Path of the page that shows all metrics.
const DASHBOARD: &str = "/dashboard";

const LINKS: &str = "Tessera: one REST API in front of many databases

  POST /api/write               write a row
  GET  /api/read?table=users    read rows
  POST /api/bulk-write          write many rows
  PUT  /api/kv/{key}            put a JSON value under a key
  GET  /api/kv/{key}            get it; DELETE removes it
  GET  /api/tables              the tables and their columns
  POST /api/tables              make a table; POST /api/tables/{name}/indexes builds an index
  GET  /api/health              how the shards are
  GET  /api/route?key=user_123  where a key lives
  GET  /api/distribution        how rows are spread over the shards
  GET  /api/advice              which slots should move so that shards carry their share
  GET  /api/analytics/metrics   what happened and how fast; /api/analytics/stream each second
  GET  /api/analytics/errors    what went wrong
  GET  /metrics                 the same for Prometheus
       /dashboard               all of it on a page
       /lab                     where keys go, and what other strategies would move
       /swagger-ui/             every call, to try out
       /api-docs/openapi.json   the same for programs
       /errors                  the codes of problems
";

/// Redirects browsers to the dashboard, and lists the links for other clients.
#[utoipa::path(
    tag = "operations",
    responses(
        (status = 200, description = "The links", body = String, content_type = "text/plain"),
        (status = 303, description = "For browsers: /dashboard; if nothing is counted, /swagger-ui/"),
        crate::response_headers::CommonRefusals,
    )
)]
#[get("/")]
pub(crate) async fn home(app: Data<App>, request: HttpRequest) -> HttpResponse {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if accept.contains("text/html") {
        let place = if app.analytics.is_some() { DASHBOARD } else { PAGES };
        return HttpResponse::SeeOther().insert_header((LOCATION, place)).finish();
    }
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(LINKS)
}

/// Responds to any other request: the path is unknown, or it is known and the method is not.
pub async fn nothing_here(
    app: Data<App>,
    request: HttpRequest,
    api: Data<OpenApi>,
) -> Result<HttpResponse, Problem> {
    // The path as routing sees it.
    let path = request.match_info().as_str();
    if path == PAGES.trim_end_matches('/') {
        return Ok(HttpResponse::SeeOther().insert_header((LOCATION, PAGES)).finish());
    }
    let methods = methods(&api, path);
    if methods.is_empty() {
        let routes = api.paths.paths.keys().map(String::as_str).chain([DOCUMENT, PAGES]);
        let hint = match path.trim_end_matches('/') {
            ALERTS => OF_ALERTS.to_owned(),
            LOGIN => WITHOUT_LOGIN.to_owned(),
            path if is_change(path) => WITHOUT_CHANGES.to_owned(),
            _ => request_hints::no_such_path(path, routes, |name| {
                app.manager.schema(&app.rights(&request)).table(name).is_ok()
            }),
        };
        return Err(Problem::new(Code::TSR111, "there is nothing at this path").hint(hint));
    }
    let detail = format!("this path has {}", methods.join(", "));
    let may_be_change = is_change(path) && !methods.iter().any(|method| CHANGING.contains(method));
    let hint = match may_be_change && CHANGING.contains(&request.method().as_str()) {
        true => WITHOUT_CHANGES,
        false => request_hints::no_such_method(request.method().as_str()),
    };
    Err(Problem::new(Code::TSR112, detail).hint(hint).header(ALLOW, methods.join(", ")))
}

/// Returns true if shards or slots are changed at this path.
fn is_change(path: &str) -> bool {
    let rest = CHANGES.iter().find_map(|prefix| path.strip_prefix(prefix));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
