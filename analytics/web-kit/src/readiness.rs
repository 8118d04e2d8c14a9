//! Readiness: the responses to `/live` and `/ready`.
//!
//! **Not here:** the decision to drain.

use actix_web::HttpResponse;
use actix_web::http::header::RETRY_AFTER;
use serde::Serialize;
use utoipa::ToSchema;

/// State of a process or router.
#[derive(Serialize, ToSchema)]
pub struct StateAnswer {
    /// True if the status is `live` or `ready`.
    success: bool,
    /// `live`, `ready` or `draining`.
    status: &'static str,
}

/// Returns the response of a running process.
pub fn live() -> HttpResponse {
    HttpResponse::Ok().json(StateAnswer { success: true, status: "live" })
}

/// Returns the response to `/ready`: 200, or 503 while the program is draining.
pub fn ready(is_draining: bool) -> HttpResponse {
    if is_draining {
        let state = StateAnswer { success: false, status: "draining" };
        return HttpResponse::ServiceUnavailable().insert_header((RETRY_AFTER, "1")).json(state);
    }
    HttpResponse::Ok().json(StateAnswer { success: true, status: "ready" })
}
