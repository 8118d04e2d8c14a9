//! Forward: forwards requests about the cluster to routers.
//!
//! **Invariant:** only declared paths are forwarded, and only to routers of the configuration. Only
//! the query string of a request is forwarded, not its credentials. A router's response is returned
//! with the content type JSON, even if it had another one.
//! **Not here:** metrics, which the service computes itself.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse};
use http_body_util::Full;
use hyper::Request;

use crate::app::App;
use crate::fleet::Member;
use crate::problem::{Code, Problem};
use web_kit::http_client::{ClientResponse, HttpClient};

const PROBLEM: &str = "application/problem+json";
/// Longest wait for the response of one router.
const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum number of bytes of a response that is forwarded.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Maximum number of bytes of a query string that is forwarded.
const QUERY_MAX: usize = 8 << 10;
/// Maximum number of routers that are tried, one after the other, until one responds.
const TRIES_MAX: usize = 3;

/// Forwards a request to a router that responds.
pub(crate) async fn forward(
    app: &App,
    path: &str,
    request: &HttpRequest,
) -> Result<HttpResponse, Problem> {
    let query = request.query_string();
    if query.len() > QUERY_MAX {
        return Err(Problem::parameter("the query string is too long"));
    }
    let path_and_query = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    ask_router(app, &path_and_query).await.map(forwarded)
}

/// Returns the response of the first router that answers a request for this path and query.
pub(crate) async fn ask_router(app: &App, path_and_query: &str) -> Result<ClientResponse, Problem> {
    let path = path_and_query.split_once('?').map_or(path_and_query, |(path, _)| path);
    let members = app.fleet.members();
    let up = members.iter().filter(|member| member.seen().is_up).take(TRIES_MAX);
    for member in up.cloned().collect::<Vec<_>>() {
        match send_request(app, &member, path_and_query).await {
            // The router has refused the credentials of the service, not those of the client, so
            // the client does not get this response.
            Ok(answer) if answer.status == 401 => {
                tracing::debug!(router = %member.name, path, "not forwarded: the key is refused");
            }
            Ok(answer) => return Ok(answer),
            Err(cause) => tracing::debug!(router = %member.name, path, "not forwarded: {cause}"),
        }
    }
    Err(Problem::new(Code::TSR001, "no router answers")
        .hint("/api/analytics/metrics lists all routers, and why they are unreachable"))
}

async fn send_request(
    app: &App,
    member: &Arc<Member>,
    path: &str,
) -> Result<ClientResponse, String> {
    let request = Request::get(path).header("accept", "application/json");
    let request = app.collecting.router_key.authorize(&member.target, request);
    let request = request.body(Full::default()).map_err(|error| error.to_string())?;
    let mut client = HttpClient::new(member.target.clone(), app.collecting.tls.as_ref());
    let answer = client.exchange(request, PATIENCE, ANSWER_BYTES_MAX).await;
    answer.map_err(|error| error.to_string())
}

/// Returns a router's response with its status and body but without its headers, so that a browser
/// treats the body only as data. A status other than 200, 4xx or 5xx becomes 502.
fn forwarded(answer: ClientResponse) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).ok();
    let is_forwarded = |status: &StatusCode| {
        *status == StatusCode::OK || status.is_client_error() || status.is_server_error()
    };
    let status = status.filter(is_forwarded).unwrap_or(StatusCode::BAD_GATEWAY);
    let said = answer.headers.get(hyper::header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    let is_problem = said.is_some_and(|said| said.starts_with(PROBLEM.as_bytes()));
    let kind = if is_problem { PROBLEM } else { "application/json" };
    HttpResponse::build(status).insert_header((CONTENT_TYPE, kind)).body(answer.body)
}
