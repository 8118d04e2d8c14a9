//! Forward: sends requests about the cluster on to routers.
//!
//! **Invariant:** only declared paths are forwarded, and only to routers of the configuration. Of a
//! request only the query string is sent on, and not its credentials. A router's response is
//! returned as JSON, whatever content type it had.
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
/// Longest time for one router.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest response that is sent on.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Longest query string that is sent on.
const QUERY_MAX: usize = 8 << 10;
/// Routers that are tried, one after the other, until one answers.
const TRIES_MAX: usize = 3;

/// Sends a request on to a router that answers.
pub(crate) async fn forward(
    app: &App,
    path: &str,
    request: &HttpRequest,
) -> Result<HttpResponse, Problem> {
    let query = request.query_string();
    if query.len() > QUERY_MAX {
        return Err(Problem::parameter("the query string is too long"));
    }
    let asked = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let members = app.fleet.members();
    let up = members.iter().filter(|member| member.seen().is_up).take(TRIES_MAX);
    for member in up.cloned().collect::<Vec<_>>() {
        match ask(app, &member, &asked).await {
            // The credentials that it refuses are those of the service, not those of the client.
            Ok(answer) if answer.status == 401 => {
                tracing::debug!(router = %member.name, path, "not forwarded: the key is refused");
            }
            Ok(answer) => return Ok(forwarded(answer)),
            Err(cause) => tracing::debug!(router = %member.name, path, "not forwarded: {cause}"),
        }
    }
    Err(Problem::new(Code::TSR001, "no router answers")
        .hint("/api/analytics/metrics lists all routers, and why they are unreachable"))
}

async fn ask(app: &App, member: &Arc<Member>, path: &str) -> Result<ClientResponse, String> {
    let asked = Request::get(path).header("accept", "application/json");
    let asked = app.collecting.router_key.authorize(&member.target, asked).body(Full::default());
    let asked = asked.map_err(|error| error.to_string())?;
    let mut client = HttpClient::new(member.target.clone(), app.collecting.tls.as_ref());
    let answer = client.exchange(asked, PATIENCE, ANSWER_BYTES_MAX).await;
    answer.map_err(|error| error.to_string())
}

/// Status and body as the router sent them, without its headers: to a browser, the body must be
/// data and nothing else.
fn forwarded(answer: ClientResponse) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).ok();
    let is_told = |status: &StatusCode| {
        *status == StatusCode::OK || status.is_client_error() || status.is_server_error()
    };
    let status = status.filter(is_told).unwrap_or(StatusCode::BAD_GATEWAY);
    let said = answer.headers.get(hyper::header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    let is_problem = said.is_some_and(|said| said.starts_with(PROBLEM.as_bytes()));
    let kind = if is_problem { PROBLEM } else { "application/json" };
    HttpResponse::build(status).insert_header((CONTENT_TYPE, kind)).body(answer.body)
}
