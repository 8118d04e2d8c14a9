//! Unsupported headers: refuses requests with a header that their route does not support, so that
//! no client relies on a header without effect.
//!
//! Some headers are ignored where they have no effect, because general clients send them with every
//! request: `Prefer`, which a server may ignore (RFC 7240, section 2), and `If-None-Match`, which a
//! response without a version never matches (RFC 9110, section 13.1.2).
//!
//! **Invariant:** a request for an unknown path or method is not refused here, so that its response
//! names the unknown path or method.
//! **Not here:** the effect of supported headers (`headers`).

use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, IF_MATCH, RANGE};
use actix_web::web::Data;
use analytics::Operation;
use utoipa::openapi::OpenApi;

use crate::data_route::{ACCESS, DataRoute, is_write};
use crate::documented_paths::methods;
use crate::headers::{
    IDEMPOTENCY_KEY, X_CONSISTENCY, X_DEADLINE_MS, X_MAX_STALENESS_MS, X_SHARD_KEY, deadline,
    refuse,
};
use crate::problem::{Problem, X_SESSION_TOKEN};

/// Route whose key is a parameter of the query string.
const PLACEMENT: &str = "/api/route";

/// Route that reads any number of rows, so that it cannot have a condition on the version of one
/// row.
const ROWS: &str = "/api/read";

/// Headers that concern the rows of a response, or the version of one row.
const OF_ROWS: [HeaderName; 4] = [X_CONSISTENCY, X_SESSION_TOKEN, X_MAX_STALENESS_MS, IF_MATCH];

/// Refuses a header that the route of a request does not honour, and an invalid deadline.
///
/// # Errors
/// TSR113 names the header and the remedy.
pub fn refuse_unsupported(
    request: &ServiceRequest,
    route: Option<DataRoute>,
) -> Result<(), Problem> {
    let headers = request.headers();
    let concerns = |name: &HeaderName| headers.contains_key(name);
    let is_row_write = route.is_some_and(|route| route.operation == Operation::Write);
    let is_rows_read = route.is_some_and(|route| route.name() == ROWS);
    // Routes about rows check their deadline themselves.
    let may_be_unsupported = concerns(&RANGE)
        || (!is_row_write && concerns(&IDEMPOTENCY_KEY))
        || (route.is_none() && (concerns(&X_DEADLINE_MS) || concerns(&X_SHARD_KEY)))
        || (route.is_none() && OF_ROWS.iter().any(concerns))
        || (is_row_write && concerns(&X_MAX_STALENESS_MS))
        || (is_rows_read && concerns(&IF_MATCH));
    if !may_be_unsupported || !is_served(request) {
        return Ok(());
    }
    let (path, method) = (request.match_info().as_str(), request.method());
    let hint = "send the request without it; limit, and next_cursor as cursor, page through rows";
    refuse(headers, &RANGE, "ranges are not supported, an answer is sent as a whole", hint)?;
    if !is_row_write {
        let why = "only a write of rows is remembered under it";
        let hint = "send the request without it: it does the same when it is sent again";
        refuse(headers, &IDEMPOTENCY_KEY, why, hint)?;
    }
    let is_write = is_write(route, path, method) && !path.starts_with(ACCESS);
    if is_write {
        let why = "a write is of now";
        refuse(headers, &X_MAX_STALENESS_MS, why, "send it with reads")?;
    }
    if is_rows_read {
        let why = "a read of rows has no condition on a version";
        let hint = "send the request without it, and compare the ETag of a response with one row";
        refuse(headers, &IF_MATCH, why, hint)?;
    }
    if route.is_none() {
        refuse_beside_rows(headers, path)?;
    }
    // Routes that make tables or change shards check the other headers of a write themselves; those
    // that change keys, roles and denials support none of them.
    if route.is_none() && !is_write {
        let why = "this path neither reads nor writes rows";
        for name in &OF_ROWS {
            refuse(headers, name, why, "send the request without it")?;
        }
    }
    Ok(())
}

fn refuse_beside_rows(headers: &HeaderMap, path: &str) -> Result<(), Problem> {
    deadline(headers)?;
    let (why, hint) = match path {
        PLACEMENT => ("the parameter key names the key", "for example /api/route?key=user_123"),
        _ => ("this path is not about the rows of a key", "send the request without it"),
    };
    refuse(headers, &X_SHARD_KEY, why, hint)
}

/// Returns true if the path of a request exists and supports the method of the request.
fn is_served(request: &ServiceRequest) -> bool {
    let Some(api) = request.app_data::<Data<OpenApi>>() else { return false };
    let (path, method): (&str, &Method) = (request.match_info().as_str(), request.method());
    methods(api, path).contains(&method.as_str())
}
