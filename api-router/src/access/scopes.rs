//! Scopes: the right that each route needs.
//!
//! **Invariant:** each route of the router has exactly one entry in [`ROWS`], and each entry has a
//! route.
//! **Not here:** the rights of a caller (`gate`), the routes themselves (`routes`).

use actix_web::http::Method;
use shard_manager::access::scope::AccessScope;

use crate::data_route::KV;
use crate::documented_paths::{DOCUMENT, fits};

/// Right that a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteNeed {
    /// At least one grant. The shard manager compares the rows of the request with the caller's
    /// grants.
    Rows,
    /// No right: the route is open to everyone.
    Open,
    /// A scope.
    Scope(AccessScope),
}

/// A route with the right that it needs.
#[derive(Clone, Copy, Debug)]
pub struct RouteRow {
    /// The method; HEAD is served as GET.
    pub method: &'static str,
    /// The path, as the OpenAPI document spells it.
    pub path: &'static str,
    /// The right.
    pub need: RouteNeed,
}

const fn row(method: &'static str, path: &'static str, need: RouteNeed) -> RouteRow {
    RouteRow { method, path, need }
}

const ANALYTICS: RouteNeed = RouteNeed::Scope(AccessScope::Analytics);
const OPERATE: RouteNeed = RouteNeed::Scope(AccessScope::Operate);
const KEYS: RouteNeed = RouteNeed::Scope(AccessScope::Keys);
const LAB: RouteNeed = RouteNeed::Scope(AccessScope::Lab);

/// Name that is logged for a request without a route.
pub const NO_ROUTE: &str = "no route";

/// Entries for all routes. The most frequently used ones come first, because entries are searched
/// in order.
pub const ROWS: [RouteRow; 84] = [
    row("POST", "/api/write", RouteNeed::Rows),
    row("GET", "/api/read", RouteNeed::Rows),
    row("POST", "/api/bulk-write", RouteNeed::Rows),
    row("GET", KV, RouteNeed::Rows),
    row("PUT", KV, RouteNeed::Rows),
    row("DELETE", KV, RouteNeed::Rows),
    row("POST", "/write", RouteNeed::Rows),
    row("GET", "/read", RouteNeed::Rows),
    row("GET", "/api/route", RouteNeed::Rows),
    row("GET", "/api/tables", RouteNeed::Rows),
    row("GET", "/api/tables/{name}", RouteNeed::Rows),
    row("POST", "/api/tables", RouteNeed::Scope(AccessScope::Tables)),
    row("GET", "/api/tables/{name}/indexes", RouteNeed::Rows),
    row("POST", "/api/tables/{name}/indexes", RouteNeed::Scope(AccessScope::Tables)),
    row("DELETE", "/api/tables/{name}/indexes/{index}", RouteNeed::Scope(AccessScope::Tables)),
    row("GET", "/api/shards", OPERATE),
    row("GET", "/api/shards/{name}", OPERATE),
    row("POST", "/api/shards", OPERATE),
    row("PATCH", "/api/shards/{name}", OPERATE),
    row("DELETE", "/api/shards/{name}", OPERATE),
    row("GET", "/api/shard-map", OPERATE),
    row("GET", "/api/groups", OPERATE),
    row("POST", "/api/slots/fence", OPERATE),
    row("POST", "/api/slots/release", OPERATE),
    row("GET", "/api/moves", OPERATE),
    row("GET", "/api/moves/{id}", OPERATE),
    row("POST", "/api/moves", OPERATE),
    row("POST", "/api/moves/{id}/{order}", OPERATE),
    row("GET", "/api/rebalance", OPERATE),
    row("GET", "/api/rebalance/{id}", OPERATE),
    row("POST", "/api/rebalance", OPERATE),
    row("POST", "/api/rebalance/{id}/{order}", OPERATE),
    row("POST", "/api/shards/{name}/drain", OPERATE),
    row("GET", "/api/backup", OPERATE),
    row("GET", "/api/backup/{id}", OPERATE),
    row("POST", "/api/backup", OPERATE),
    row("POST", "/api/backup/{id}/cancel", OPERATE),
    row("GET", "/api/distribution", ANALYTICS),
    row("GET", "/api/advice", ANALYTICS),
    row("GET", "/stats", ANALYTICS),
    row("GET", "/api/analytics/metrics", ANALYTICS),
    row("GET", "/api/analytics/errors", ANALYTICS),
    row("GET", "/api/analytics/stream", ANALYTICS),
    row("GET", "/api/analytics/frames", RouteNeed::Scope(AccessScope::Frames)),
    row("GET", "/metrics", RouteNeed::Scope(AccessScope::Metrics)),
    row("GET", "/api/lab/nodes", LAB),
    row("PUT", "/api/lab/nodes/{node}", LAB),
    row("GET", "/api/lab/writes", LAB),
    row("GET", "/api/lab/placements", LAB),
    row("POST", "/api/lab/levels", LAB),
    row("GET", "/api/access/me", RouteNeed::Open),
    row("POST", "/api/session", RouteNeed::Open),
    row("DELETE", "/api/session", RouteNeed::Open),
    row("POST", "/api/access/check", KEYS),
    row("GET", "/api/access/keys", KEYS),
    row("POST", "/api/access/keys", KEYS),
    row("GET", "/api/access/keys/{id}", KEYS),
    row("DELETE", "/api/access/keys/{id}", KEYS),
    row("POST", "/api/access/keys/{id}/rotate", KEYS),
    row("POST", "/api/access/keys/{id}/resume", KEYS),
    row("GET", "/api/access/roles", KEYS),
    row("GET", "/api/access/roles/{name}", KEYS),
    row("PUT", "/api/access/roles/{name}", KEYS),
    row("DELETE", "/api/access/roles/{name}", KEYS),
    row("GET", "/api/access/denials", KEYS),
    row("POST", "/api/access/denials", KEYS),
    row("DELETE", "/api/access/denials", KEYS),
    // To a caller without the scope `analytics`, the response contains no details.
    row("GET", "/api/health", RouteNeed::Open),
    row("GET", "/health", RouteNeed::Open),
    row("GET", "/healthz", RouteNeed::Open),
    row("GET", "/live", RouteNeed::Open),
    row("GET", "/ready", RouteNeed::Open),
    row("GET", "/", RouteNeed::Open),
    row("GET", "/version", RouteNeed::Open),
    row("GET", "/errors", RouteNeed::Open),
    row("GET", "/errors/{code}", RouteNeed::Open),
    row("GET", "/docs", RouteNeed::Open),
    row("GET", "/openapi.json", RouteNeed::Open),
    row("GET", DOCUMENT, RouteNeed::Open),
    row("GET", "/swagger-ui/{file}", RouteNeed::Open),
    // The pages and their files contain no data: the pages read it from the routes above.
    row("GET", "/dashboard", RouteNeed::Open),
    row("GET", "/dashboard/{file}", RouteNeed::Open),
    row("GET", "/lab", RouteNeed::Open),
    row("GET", "/swagger-ui/", RouteNeed::Open),
];

/// Routes that need no right, but whose responses contain more for some callers.
const PERSONAL: [&str; 4] = ["/api/access/me", "/api/health", "/health", "/healthz"];

impl RouteRow {
    /// Returns true if the response is the same for all callers. The session cookie of a request,
    /// which a browser adds by itself, is then ignored.
    pub fn is_impersonal(&self) -> bool {
        self.need == RouteNeed::Open && !PERSONAL.contains(&self.path)
    }
}

/// Returns true if an entry has the path, with any method.
pub fn has_path(path: &str) -> bool {
    ROWS.iter().any(|row| fits(row.path, path))
}

/// Returns the index in [`ROWS`] of the entry for a request, given its path as decoded by the
/// framework. A request without an entry has no route, and gets 404 or 405.
pub fn find(path: &str, method: &Method) -> Option<usize> {
    ROWS.iter().position(|row| row.method == method.as_str() && fits(row.path, path))
}

/// Returns the route of a request as the OpenAPI document spells it, given its path as decoded by
/// the framework. Unlike the path, it contains no text that a client has chosen.
pub fn route_name(path: &str, method: &Method) -> &'static str {
    find(path, method).map_or(NO_ROUTE, |row| ROWS[row].path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_route_contains_no_text_of_a_client() {
        let name = route_name("/api/access/keys/tsr_secret/rotate", &Method::POST);
        assert_eq!(name, "/api/access/keys/{id}/rotate");
        assert_eq!(route_name("/nowhere/tsr_secret", &Method::GET), NO_ROUTE);
    }
}
