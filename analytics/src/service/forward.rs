//! Forward: questions about the cluster, which routers answer.
//!
//! **Invariant:** only paths that are declared as such are handed on, only to routers of the configuration, and nothing of the
//! request but its query string.
//! **Not here:** figures, which the service answers itself.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse};
use http_body_util::Full;
use hyper::Request;

use super::app::App;
use super::fleet::Member;
use super::problem::{Code, Problem};
use super::wire::{Answer, Wire};

/// How long one router may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is handed on.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Longest query string that is handed on.
const QUERY_MAX: usize = 8 << 10;
/// Routers that are asked, one after the other, until one answers.
const TRIES_MAX: usize = 3;

/// Hands a request on to a router that answers.
pub(super) async fn forward(
    app: &App,
    path: &'static str,
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
            Ok(answer) => return Ok(handed_on(answer)),
            Err(cause) => tracing::debug!(router = %member.name, path, "not handed on: {cause}"),
        }
    }
    Err(Problem::new(Code::TSR001, "no router answers")
        .hint("/api/analytics/metrics tells which routers there are, and why they are away"))
}

async fn ask(app: &App, member: &Arc<Member>, path: &str) -> Result<Answer, String> {
    let asked = Request::get(path).header("accept", "application/json").body(Full::default());
    let asked = asked.map_err(|error| error.to_string())?;
    let mut wire = Wire::new(member.target.clone(), app.tls.as_ref());
    let answer = wire.exchange(asked, PATIENCE, ANSWER_BYTES_MAX).await;
    answer.map_err(|error| error.to_string())
}

/// As the router said it: status, type and body, and no other header.
fn handed_on(answer: Answer) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let kind = answer.headers.get(hyper::header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("application/octet-stream");
    HttpResponse::build(status).insert_header((CONTENT_TYPE, kind)).body(answer.body)
}
