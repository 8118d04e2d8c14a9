//! `/api/session`: gives a browser a cookie for an API key, and removes the cookie. Without access
//! control there is no such path.
//!
//! **Invariant:** the key is sent in the body, which neither logs nor browser histories keep. A
//! page of another origin cannot begin a session, because the middleware refuses its request.
//! **Not here:** the sessions of later requests (`gate`).

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, SET_COOKIE};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, delete, post};
use web_kit::login::{LoginRequest, SessionAnswer};

use crate::app::App;
use crate::gate::AccessGate;
use crate::middleware::address_of;
use crate::parameters::Parameters;
use crate::problem::{Code, GateRefusals, LoginRefusals, Problem};

/// Begins the session of a browser: exchanges a key for a cookie that permits GET and HEAD.
#[utoipa::path(
    tag = "operations",
    request_body = LoginRequest,
    responses(
        (status = 200, description = "The session, whose cookie is in Set-Cookie", body = SessionAnswer),
        LoginRefusals,
    )
)]
#[post("/api/session")]
pub(super) async fn begin_session(
    app: Data<App>,
    request: HttpRequest,
    body: Bytes,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string(), &[])?;
    check_content_type(request.headers())?;
    let login: LoginRequest = serde_json::from_slice(&body).map_err(|_| {
        // The parser's error is not used, because it might repeat a part of the key.
        Problem::new(Code::TSR101, "the body must be {\"key\":\"tsr_…\"}")
    })?;
    let (session, cookie, caller) =
        gate(&app)?.begin_session(login.key.trim(), address_of(request.peer_addr()))?;
    let answer = SessionAnswer {
        success: true,
        id: session.key.to_string(),
        role: caller.role.to_string(),
        expires_at: session.expires_at.format(),
    };
    Ok(HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((SET_COOKIE, cookie))
        .json(answer))
}

/// Ends the session of a browser by removing its cookie. Without a session, nothing changes.
#[utoipa::path(
    tag = "operations",
    responses((status = 204, description = "The browser has no session"), GateRefusals)
)]
#[delete("/api/session")]
pub(super) async fn end_session(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string(), &[])?;
    let removal = gate(&app)?.removal();
    Ok(HttpResponse::NoContent().insert_header((SET_COOKIE, removal)).finish())
}

fn gate(app: &App) -> Result<&AccessGate, Problem> {
    app.gate.as_deref().ok_or_else(|| Problem::new(Code::TSR111, "access control is off"))
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = value.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(Code::TSR107, "Content-Type must be application/json"))
}
