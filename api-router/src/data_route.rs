//! Data routes: the routes that read or write rows, and the kind of operation of each.
//!
//! **Invariant:** the name of a route contains no shard key, so metrics may use it as a label.
//! **Not here:** the work of a route (`routes`), recording (`middleware`).

use actix_web::http::Method;
use analytics::Operation;

/// Path of the routes for values under keys, as the OpenAPI document spells it.
pub const KV: &str = "/api/kv/{key}";
/// Prefix of every path of [`KV`]: slashes after it belong to the key.
pub const KV_PREFIX: &str = "/api/kv/";

/// Every route about rows, in the order in which metrics list them. The most frequent ones come
/// first.
pub const ROUTES: [&str; 6] = ["/api/write", "/api/read", "/api/bulk-write", KV, "/write", "/read"];

/// A route about rows, and the operation of a request there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRoute {
    /// Index in [`ROUTES`].
    pub index: u8,
    /// Read or write.
    pub operation: Operation,
}

impl DataRoute {
    /// Returns the path as the route declares it.
    pub fn name(self) -> &'static str {
        ROUTES[usize::from(self.index)]
    }
}

/// Returns the route under which a request about rows is recorded; `None` for any other request.
/// `path` is the path as routing decodes it.
pub fn data_route(path: &str, method: &Method) -> Option<DataRoute> {
    let (read, write) = (Operation::Read, Operation::Write);
    let (index, operation) = match path {
        "/api/write" => (0, write),
        "/api/read" => (1, read),
        "/api/bulk-write" => (2, write),
        "/write" => (4, write),
        "/read" => (5, read),
        path if path.starts_with(KV_PREFIX) => {
            (3, if method == Method::GET { read } else { write })
        }
        _ => return None,
    };
    Some(DataRoute { index, operation })
}

/// Prefix of the routes that create tables and indexes, which are not data routes.
const TABLES: &str = "/api/tables";
/// Prefix of the routes about callers and their rights, none of which concerns rows.
pub const ACCESS: &str = "/api/access/";
/// Prefixes of the routes that change shards and slots, move slots, rebalance the cluster, back it
/// up, and change keys, roles and denials.
const CHANGES: [&str; 8] = [
    "/api/shards",
    "/api/slots/",
    "/api/moves",
    "/api/rebalance",
    "/api/backup",
    "/api/access/keys",
    "/api/access/roles",
    "/api/access/denials",
];

/// Returns true if the request writes rows or changes the cluster, so that an error response must
/// report the outcome.
pub fn is_write(route: Option<DataRoute>, path: &str, method: &Method) -> bool {
    match route {
        Some(route) => route.operation == Operation::Write,
        None if path.starts_with(TABLES) => method != Method::GET,
        None => method != Method::GET && CHANGES.iter().any(|prefix| path.starts_with(prefix)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_keys_roles_and_denials_report_their_outcome() {
        let changes = |path: &str, method: &Method| is_write(None, path, method);
        for (method, path) in [
            (Method::POST, "/api/access/keys"),
            (Method::DELETE, "/api/access/keys/000000000000"),
            (Method::POST, "/api/access/keys/000000000000/rotate"),
            (Method::PUT, "/api/access/roles/shop"),
            (Method::POST, "/api/access/denials"),
        ] {
            assert!(changes(path, &method), "{method} {path}");
            assert!(!changes(path, &Method::GET), "GET {path}");
        }
        assert!(!changes("/api/access/check", &Method::POST), "a check changes nothing");
    }
}
