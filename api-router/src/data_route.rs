//! Data routes: which requests are about rows, and whether they read or write them.
//!
//! **Invariant:** a route's name holds no key, so it may stand in counts and lists.
//! **Not here:** what a route does (`routes`), counting (`middleware`).

use actix_web::http::Method;
use analytics::Operation;

/// The path of values under keys, as the OpenAPI document spells it.
pub const KV: &str = "/api/kv/{key}";
/// What begins so is of [`KV`], whatever follows: slashes belong to the key.
pub const KV_PREFIX: &str = "/api/kv/";

/// Every route about rows, in the order in which they are told. Those that are asked for most stand first.
pub const ROUTES: [&str; 6] = ["/api/write", "/api/read", "/api/bulk-write", KV, "/write", "/read"];

/// A route about rows, and what a request does there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRoute {
    /// Its place in [`ROUTES`].
    pub index: u8,
    /// Read or write.
    pub operation: Operation,
}

impl DataRoute {
    /// The path as it is declared.
    pub fn name(self) -> &'static str {
        ROUTES[usize::from(self.index)]
    }
}

/// The route that a request for this path (decoded as routing decodes it) is counted under, if it is about rows.
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

/// The route that makes tables: not counted among those about rows.
const TABLES: &str = "/api/tables";

/// Whether a refusal must say what became of the request.
pub fn is_write(route: Option<DataRoute>, path: &str, method: &Method) -> bool {
    match route {
        Some(route) => route.operation == Operation::Write,
        None => path == TABLES && method == Method::POST,
    }
}
