//! Data routes: which requests are about rows, and whether they read or write them.
//!
//! **Invariant:** a route's name holds no key, so it may stand in counts and lists.
//! **Not here:** what a route does (`routes`), counting (`gate`).

use actix_web::http::Method;
use analytics::Operation;

/// The path of values under keys, as the OpenAPI document spells it.
pub const KV: &str = "/api/kv/{key}";
/// What begins so is of [`KV`], whatever follows: slashes belong to the key.
pub const KV_PREFIX: &str = "/api/kv/";

/// A route about rows: its name, and what a request does there.
pub type DataRoute = (&'static str, Operation);

/// Paths with one method each. Those that are asked for most stand first.
const PLAIN: [DataRoute; 5] = [
    ("/api/write", Operation::Write),
    ("/api/read", Operation::Read),
    ("/api/bulk-write", Operation::Write),
    ("/write", Operation::Write),
    ("/read", Operation::Read),
];

/// The route that a request for this path (decoded as routing decodes it) is counted under, if it is about rows.
pub fn data_route(path: &str, method: &Method) -> Option<DataRoute> {
    let plain = PLAIN.into_iter().find(|(route, _)| *route == path);
    plain.or_else(|| {
        let operation = if method == Method::GET { Operation::Read } else { Operation::Write };
        path.starts_with(KV_PREFIX).then_some((KV, operation))
    })
}

/// The route that makes tables: not counted among those about rows.
const TABLES: &str = "/api/tables";

/// Whether a refusal must say what became of the request.
pub fn is_write(route: Option<DataRoute>, path: &str, method: &Method) -> bool {
    match route {
        Some((_, operation)) => operation == Operation::Write,
        None => path == TABLES && method == Method::POST,
    }
}
