//! Readiness: what `/live` and `/ready` answer.
//!
//! **Not here:** when a program is about to end.

use actix_web::HttpResponse;
use actix_web::http::header::RETRY_AFTER;
use serde::Serialize;
use utoipa::ToSchema;

/// Whether a process or router is well.
#[derive(Serialize, ToSchema)]
pub struct StateAnswer {
    /// Whether it is.
    success: bool,
    /// `event_stream`, `ready` or `draining`.
    status: &'static str,
}

/// The process runs.
pub fn live() -> HttpResponse {
    HttpResponse::Ok().json(StateAnswer { success: true, status: "live" })
}

/// Whether to send requests here.
pub fn ready(is_draining: bool) -> HttpResponse {
    if is_draining {
        let state = StateAnswer { success: false, status: "draining" };
        return HttpResponse::ServiceUnavailable().insert_header((RETRY_AFTER, "1")).json(state);
    }
    HttpResponse::Ok().json(StateAnswer { success: true, status: "ready" })
}
