//! `/`: lists the routes. Also responds to requests whose path or method is unknown.

use actix_web::http::Method;
use actix_web::http::header::{ACCEPT, ALLOW, LOCATION};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use utoipa::openapi::OpenApi;

use crate::access::scopes::ROWS;
use crate::app::App;
use crate::data_route::data_route;
use crate::documented_paths::{DOCUMENT, PAGES, fits, is_below, methods};
use crate::problem::{Code, Problem};
use crate::request_hints;

/// Path that the analytics service serves, but a router does not.
const ALERTS: &str = "/api/analytics/alerts";
const OF_ALERTS: &str = "the analytics service serves alerts and watches one router or many: start it with \
     `analytics --routers URL`, with the URL of this router, and request the same path there";

const WITHOUT_LOGIN: &str = "access control is off, so every request is served without a login: start the router with --access on to need one";
const WITHOUT_ACCESS: &str =
    "access control is off: start the router with --access on to have keys, roles and checks";
const WITHOUT_LAB: &str =
    "faults of nodes and experiments need a router that is started with --lab";
const WITHOUT_CHANGES: &str = "shards and slots are changed, and backups are made, through a router with access control \
     (--access on), or one that is started with --operate";

/// Prefixes of the routes that only some routers serve, each with the hint for a router that does
/// not.
const OPTIONAL: [(&str, &str); 8] = [
    ("/api/session", WITHOUT_LOGIN),
    ("/api/access/", WITHOUT_ACCESS),
    ("/api/lab/", WITHOUT_LAB),
    ("/api/shards", WITHOUT_CHANGES),
    ("/api/slots/", WITHOUT_CHANGES),
    ("/api/moves", WITHOUT_CHANGES),
    ("/api/rebalance", WITHOUT_CHANGES),
    ("/api/backup", WITHOUT_CHANGES),
];

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
    let links = links(app.analytics.is_some());
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(links)
}

/// Returns the links, without those to metrics and errors if this router records none.
fn links(has_analytics: bool) -> String {
    let lines = LINKS.split_inclusive('\n');
    lines.filter(|line| has_analytics || !is_recorded(line)).collect()
}

/// Returns true if a line of the links is about the metrics and errors that a router records.
fn is_recorded(line: &str) -> bool {
    line.contains(" /api/analytics/") || line.contains(" /metrics ")
}

/// Responds to a request that no route serves: its path is unknown, or the path does not have its
/// method.
pub async fn nothing_here(
    app: Data<App>,
    request: HttpRequest,
    api: Data<OpenApi>,
) -> Result<HttpResponse, Problem> {
    // This is the path as the framework has decoded it for routing.
    let path = request.match_info().as_str();
    if path == PAGES.trim_end_matches('/') {
        return Ok(HttpResponse::SeeOther().insert_header((LOCATION, PAGES)).finish());
    }
    let methods = methods(&api, path);
    if methods.is_empty() {
        let routes = api.paths.paths.keys().map(String::as_str).chain([DOCUMENT, PAGES]);
        let hint = match path.trim_end_matches('/') {
            ALERTS => OF_ALERTS.to_owned(),
            trimmed => match remedy_for_path(&api, trimmed) {
                Some(remedy) => remedy.to_owned(),
                None => request_hints::no_such_path(path, routes, |name| {
                    app.manager.schema(&app.rights(&request)).table(name).is_ok()
                }),
            },
        };
        return Err(Problem::new(Code::TSR111, "there is nothing at this path").hint(hint));
    }
    let detail = format!("this path has {}", methods.join(", "));
    let hint = remedy_for_method(&api, path, request.method());
    Err(Problem::new(Code::TSR112, detail).hint(hint).header(ALLOW, methods.join(", ")))
}

/// Returns the hint for a path that this router does not serve, but others do.
fn remedy_for_path(api: &OpenApi, path: &str) -> Option<&'static str> {
    if !methods(api, path).is_empty() {
        return None;
    }
    ROWS.iter().find(|row| fits(row.path, path)).and_then(|row| remedy_for_route(row.path))
}

/// Returns the hint for a method that a path of this router does not have.
fn remedy_for_method(api: &OpenApi, path: &str, method: &Method) -> String {
    if data_route(path, method).is_some() {
        return request_hints::no_such_method_for_rows(method.as_str()).to_owned();
    }
    let mut known = ROWS.iter().filter(|row| row.method == method.as_str());
    // Other routers may serve the method on this path, or a router may serve it on a path one level
    // below.
    let other = known.clone().find(|row| fits(row.path, path));
    let route = other.or_else(|| known.find(|row| is_below(row.path, path)));
    let served = route.filter(|row| methods(api, row.path).contains(&row.method));
    match (served, route.and_then(|row| remedy_for_route(row.path))) {
        (None, Some(remedy)) => remedy.to_owned(),
        (served, _) => request_hints::no_such_method(method.as_str(), served.map(|row| row.path)),
    }
}

/// Returns the hint for a route that only some routers serve; `None` if all routers serve it.
fn remedy_for_route(route: &str) -> Option<&'static str> {
    OPTIONAL.iter().find(|(prefix, _)| route.starts_with(prefix)).map(|(_, remedy)| *remedy)
}
