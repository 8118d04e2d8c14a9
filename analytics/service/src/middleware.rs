//! Middleware: gives each request an id, refuses cross-origin requests and requests without the
//! required rights, and turns problems into responses.
//!
//! **Invariant:** every response has the header `x-request-id` and cannot be shown in a frame of
//! another page. An HTML page always has a content security policy. The response to a refused
//! request is a problem document. Routers follow the same rules.
//! **Not here:** the routes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use actix_web::Error;
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::Data;

use crate::app::App;
use crate::problem::{Code, Problem};
use web_kit::cross_origin::{self, CrossOriginRefusal};
use web_kit::head_response::without_stream;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Content security policy of a response that is not a page.
const NO_PAGE: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
/// Maximum length of an id that a client may choose.
const ID_MAX: usize = 128;

/// Checks and prepares a request before it is routed, and completes its response.
///
/// # Errors
/// Returns errors of the framework; errors of routes become responses.
pub(crate) async fn handle(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let app = request.app_data::<Data<App>>().cloned().expect("the server registers the app");
    let exposure = app.exposure;
    let is_head = request.method() == Method::HEAD;
    if is_head {
        // HEAD is handled like GET; the body is left out when the response is sent.
        request.head_mut().method = Method::GET;
    }
    let id = request_id(request.headers());
    let checked = cross_origin::refuse(request.headers(), exposure).map_err(Problem::from);
    let admitted = checked.and_then(|()| match &app.gate {
        None => Ok(()),
        Some(gate) => gate.admit(
            request.match_info().as_str(),
            (request.headers(), request.query_string()),
            address_of(request.peer_addr()),
        ),
    });
    let mut response = match admitted {
        Err(problem) => request.error_response(problem),
        Ok(()) => next.call(request).await?,
    };
    if let Some(problem) = problem_of(&response) {
        if problem.code == Code::TSR500 {
            tracing::error!(%problem, request_id = id, "a request failed");
        }
        response = response.into_response(problem.respond(&id));
    }
    if is_head {
        response = without_stream(response);
    }
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    if !headers.contains_key(CONTENT_SECURITY_POLICY) {
        headers.insert(CONTENT_SECURITY_POLICY, NO_PAGE);
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(X_REQUEST_ID, id);
    }
    Ok(response)
}

/// Returns the IP address of a client from the address of its connection. All clients whose address
/// is unknown get the unspecified address.
pub(crate) fn address_of(peer: Option<SocketAddr>) -> IpAddr {
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip())
}

/// Returns the id that the client has sent, if it is valid, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(&X_REQUEST_ID).and_then(|value| value.to_str().ok());
    let fits = |id: &&str| {
        (1..=ID_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    given.filter(fits).map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

/// Returns the problem of an error response. Errors that the HTTP framework returns are converted
/// to problems.
fn problem_of(response: &ServiceResponse<BoxBody>) -> Option<Problem> {
    let error = response.response().error();
    if let Some(problem) = error.and_then(|error| error.as_error::<Problem>()) {
        return Some(problem.clone());
    }
    let status = response.status();
    if status == StatusCode::NOT_FOUND && error.is_some() {
        return Some(Problem::new(Code::TSR111, "there is nothing at this path"));
    }
    let error = error?;
    if status.is_client_error() {
        return Some(Problem::new(Code::TSR100, "the request cannot be understood"));
    }
    tracing::error!(%error, "a request failed in the framework");
    Some(Problem::new(Code::TSR500, "an internal error"))
}

impl From<CrossOriginRefusal> for Problem {
    fn from(refusal: CrossOriginRefusal) -> Self {
        Self::new(Code::TSR403, refusal.detail("this service")).hint(refusal.hint())
    }
}
