//! `/api/session`: gives a browser a session cookie in exchange for an API key, and removes it.
//!
//! A page cannot keep a key safely, so it sends the key only once. The cookie permits GET and HEAD,
//! for at most an hour and not after the key is revoked or expires.
//!
//! **Invariant:** the key is sent in the body, which is kept by no log and no browser history. A
//! page of another origin cannot begin a session, because its request is refused before it gets
//! here.
//! **Not here:** the sessions of later requests (`access::sessions`).

use actix_web::http::header::{CACHE_CONTROL, HeaderValue, SET_COOKIE};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse, delete, post};
use analytics::login::{LoginRequest, SessionAnswer};

use super::{gate, read_body};
use crate::app::App;
use crate::body_reader::Members;
use crate::problem::Problem;
use crate::query::Parameters;
use crate::response_headers::{CheckRefusals, CommonRefusals};

const MEMBERS: [&str; 1] = ["key"];
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Begins the session of a browser: exchanges a key for a cookie that permits GET and HEAD.
#[utoipa::path(
    tag = "access",
    request_body = LoginRequest,
    responses(
        (status = 200, description = "The session, whose cookie is in Set-Cookie", body = SessionAnswer),
        CheckRefusals,
    )
)]
#[post("/api/session")]
pub(crate) async fn begin_session(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let body = read_body(&app, &request, payload).await?;
    let members = Members::of_body(&body)?;
    members.check_names(&MEMBERS)?;
    let key = members.required_text("key")?;
    let gate = gate(&app)?;
    let (session, cookie, caller) = gate.begin_session(key.trim(), gate.address(&request))?;
    let answer = SessionAnswer {
        success: true,
        id: session.key.to_string(),
        role: caller.role.to_string(),
        expires_at: session.expires_at.format(),
    };
    Ok(HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, NO_STORE))
        .insert_header((SET_COOKIE, cookie))
        .json(answer))
}

/// Ends the session of a browser, which forgets its cookie. Without a session it changes nothing.
#[utoipa::path(
    tag = "access",
    responses((status = 204, description = "The browser has no session"), CommonRefusals)
)]
#[delete("/api/session")]
pub(crate) async fn end_session(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Parameters::parse(request.query_string())?.check_names(&[])?;
    let removal = gate(&app)?.sessions.removal();
    Ok(HttpResponse::NoContent().insert_header((SET_COOKIE, removal)).finish())
}
