//! Middleware: handles every request before and after its route. It sets the request id, refuses
//! requests of foreign web pages and of callers without the necessary rights, renders problems
//! (error responses), compresses responses, and records requests.
//!
//! **Invariant:** every response of a route has `x-request-id`; every refused request gets a
//! problem as its response (a health or readiness report with the result "unhealthy" is not a
//! refusal). Bytes that are not HTTP do not reach the middleware.
//! **Not here:** the work of a route.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage, HttpRequest};
use analytics::cross_origin::{self, CrossOriginRefusal};
use analytics::head_response::without_stream;
use analytics::{ErrorEvent, ErrorLog, Sample, Worker};
use shard_manager::cache::ServedBy;
use shard_manager::keyspace::Slot;
#[cfg(feature = "otlp")]
use shard_manager::topology::ShardNumber;

use crate::access::admission::Admission;
use crate::access::audit;
use crate::access::cors;
use crate::access::scopes;
use crate::app::App;
use crate::browser_policy::{ResponseKind, limit_browser};
use crate::compression::compressed;
use crate::data_route::{DataRoute, data_route, is_write};
use crate::documented_paths::PAGES;
use crate::headers::{X_REQUEST_ID, deadline, request_id};
#[cfg(feature = "otlp")]
use crate::otlp::TracedRequest;
use crate::problem::{self, Code, Problem};
use crate::request_record::{self, RequestRecord};
use crate::response_budget::ResponseBudget;
use crate::trace::{TRACEPARENT, Trace};
use crate::unsupported_headers::refuse_unsupported;

/// Header that reports to clients with `Authorization` that access control is off.
const X_ACCESS: HeaderName = HeaderName::from_static("x-access");

/// Handles a request before its route and the response after it.
///
/// # Errors
/// Errors of the framework; those of a route become responses.
pub async fn handle_request(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let began = Instant::now();
    let app = request.app_data::<Data<App>>().cloned().expect("serve() registers the app");
    let is_head = request.method() == Method::HEAD;
    if is_head {
        // HEAD is routed as GET; the server leaves the body out.
        request.head_mut().method = Method::GET;
    }
    // Use the path as routing decodes it, because a client may percent-encode it. The decoded path
    // exists even for a request that is refused before routing.
    let (path, method) = (request.match_info().as_str(), request.method());
    let route = data_route(path, method);
    let is_write = is_write(route, path, method);
    let kind = kind_of(route, path);
    let trace = Trace::of(request.headers()).or_else(|| app.begin_trace(route));
    let worker = request.app_data::<Rc<Worker>>().cloned();
    // Counts the request as in flight until this is dropped, which happens even if the client
    // disconnects.
    let _in_flight = route.and(worker.as_ref()).map(|worker| worker.begin());
    if route.is_some() && app.keeps_records() {
        request_record::attach(&request);
    }
    audit::begin(app.audit.as_ref(), &request, trace.map(|trace| trace.id));
    let permitted = app.gate.as_ref().and_then(|gate| gate.origins.find(request.headers()));
    let (id, checked) = match request_id(request.headers()) {
        Ok(id) => (id, check(&app, &request, route, permitted.is_some())),
        Err(problem) => (None, Err(problem.into())),
    };
    let id = id.unwrap_or_else(new_request_id);
    audit::name(app.audit.as_ref(), &request, &id);
    let is_authorized = request.headers().contains_key(AUTHORIZATION);
    let mut admission = Admission::default();
    let response = match checked {
        Err(Refused::Problem(problem)) => request.error_response(problem),
        Err(Refused::Preflight) => request.into_response(cors::preflight()),
        // Routes turn their errors into responses; an error here is the framework's own.
        Ok(admitted) => {
            admission = admitted;
            next.call(request).await?
        }
    };
    let problem = problem_of(&app, &response, is_write);
    let (mut response, problem) =
        finish(&app.response_budget, response, problem, (route, is_write, began), &id).await;
    if is_head {
        response = without_stream(response);
    }
    let headers = response.headers_mut();
    limit_browser(headers, kind);
    if let Some(gate) = &app.gate {
        gate.origins.permit(headers, permitted);
        admission.show_limits(headers);
    } else if is_authorized {
        headers.insert(X_ACCESS, HeaderValue::from_static("off"));
    }
    if let Some(trace) = &trace {
        headers.insert(TRACEPARENT, trace.header());
    }
    let context = ResponseContext { route, id: &id, trace, problem: problem.as_ref() };
    context.log(response.request());
    if let Some(route) = route {
        context.record(&app, worker.as_deref(), route, &response, began);
    }
    audit::finish(app.audit.as_ref(), &response, problem.as_ref().map(Problem::code));
    response.headers_mut().insert(X_REQUEST_ID, id);
    Ok(admission.hold(response))
}

/// Charges a successful response to the response budget, or renders the body of an error response
/// from its problem; then compresses the body. Also returns the problem, which may be that the
/// budget is exhausted.
async fn finish(
    budget: &Arc<ResponseBudget>,
    mut response: ServiceResponse<BoxBody>,
    mut problem: Option<Problem>,
    (route, is_write, began): (Option<DataRoute>, bool, Instant),
    id: &HeaderValue,
) -> (ServiceResponse<BoxBody>, Option<Problem>) {
    let mut share = None;
    if problem.is_none() {
        let allowed = || deadline(response.request().headers()).unwrap_or_default();
        let in_any_case = is_never_refused(route, is_write);
        match budget.charge(&response, in_any_case, || began + allowed()).await {
            Ok(charged) => share = charged,
            Err(exhausted) => problem = Some(exhausted),
        }
    }
    if let Some(problem) = &problem {
        let rendered = problem::respond(problem, id.to_str().unwrap_or(""));
        response = response.into_response(rendered);
    }
    response = compressed(response).await;
    if let Some(share) = share {
        response = share.hold(response);
    }
    (response, problem)
}

/// Returns true if the response must be sent even if the response budget is exhausted: a write was
/// already carried out, and metrics and documents must not fail because reads of rows take all the
/// memory.
fn is_never_refused(route: Option<DataRoute>, is_write: bool) -> bool {
    is_write || route.is_none()
}

fn kind_of(route: Option<DataRoute>, path: &str) -> ResponseKind {
    match route {
        Some(_) => ResponseKind::Rows,
        None if path.starts_with(PAGES) => ResponseKind::Documents,
        None => ResponseKind::Other,
    }
}

fn new_request_id() -> HeaderValue {
    let mut text = uuid::Uuid::encode_buffer();
    let text = uuid::Uuid::now_v7().hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).expect("a UUID is visible ASCII")
}

/// Reason why a request does not reach its route.
enum Refused {
    /// The request is refused with this problem.
    Problem(Problem),
    /// A CORS preflight request from a permitted origin, which gets its response without a route.
    Preflight,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Checks a request before its route. Web pages of permitted origins (CORS) do not count as
/// foreign.
fn check(
    app: &App,
    request: &ServiceRequest,
    route: Option<DataRoute>,
    is_permitted: bool,
) -> Result<Admission, Refused> {
    match cross_origin::refuse(request.headers(), app.exposure) {
        Ok(()) => {}
        Err(CrossOriginRefusal::Page) if is_permitted => {}
        Err(refusal) => return Err(Problem::from(refusal).into()),
    }
    if is_permitted && cors::is_preflight(request.method(), request.headers()) {
        return Err(Refused::Preflight);
    }
    let admission = match &app.gate {
        Some(gate) => gate.admit(request)?,
        None => Admission::default(),
    };
    refuse_unsupported(request, route)?;
    Ok(admission)
}

/// Returns the problem of an error response; `None` for a success. An error of the web framework is
/// converted into a problem.
fn problem_of(app: &App, response: &ServiceResponse<BoxBody>, is_write: bool) -> Option<Problem> {
    let error = response.response().error();
    let problem = match error.and_then(|error| error.as_error::<Problem>()) {
        Some(problem) => problem.clone(),
        None => framework_problem(response)?,
    };
    let mut problem = match &app.gate {
        Some(gate) => gate.challenge(response.request(), problem),
        None => problem,
    };
    if is_write {
        problem.ensure_outcome();
    } else {
        problem.outcome = None;
    }
    Some(problem)
}

/// Returns the problem for a request that the web framework, or the documentation pages, refused.
fn framework_problem(response: &ServiceResponse<BoxBody>) -> Option<Problem> {
    let status = response.status();
    if status == StatusCode::NOT_FOUND {
        return Some(Problem::new(Code::TSR111, "there is nothing at this path"));
    }
    let error = response.response().error()?;
    if status.is_client_error() {
        return Some(Problem::new(Code::TSR100, "the request cannot be understood"));
    }
    tracing::error!(%error, "a request failed in the framework");
    Some(Problem::new(Code::TSR500, "an internal error"))
}

impl From<CrossOriginRefusal> for Problem {
    fn from(refusal: CrossOriginRefusal) -> Self {
        Self::new(Code::TSR403, refusal.detail("this router")).hint(refusal.hint())
    }
}

/// Properties of a response that the log and the recorded metrics need.
struct ResponseContext<'a> {
    route: Option<DataRoute>,
    id: &'a HeaderValue,
    trace: Option<Trace>,
    problem: Option<&'a Problem>,
}

impl ResponseContext<'_> {
    /// Logs a failure of the router or the cluster under the request id that the client receives.
    fn log(&self, request: &HttpRequest) {
        let Some(problem) = self.problem else { return };
        let request_id = self.id.to_str().unwrap_or("");
        let trace_id = self.trace.map(tracing::field::display);
        // The path may hold a shard key or an API key, which must not be logged.
        let other = || scopes::route_name(request.match_info().as_str(), request.method());
        let path = self.route.map_or_else(other, |route| route.name());
        if problem.code() == Code::TSR500 {
            tracing::error!(%problem, %request_id, trace_id, path, "a request failed");
        } else if problem.code() == Code::TSR005 {
            // The metrics and the list of errors already contain this refusal; a log line for each
            // would add work under overload.
            tracing::debug!(%problem, %request_id, trace_id, path, "a request was shed");
        } else if problem.status().is_server_error() {
            tracing::warn!(%problem, %request_id, trace_id, path, "a request was not served");
        }
    }

    /// Records a request about rows in the metrics, its error in the list of errors, and its trace.
    fn record(
        &self,
        app: &App,
        worker: Option<&Worker>,
        route: DataRoute,
        response: &ServiceResponse<BoxBody>,
        began: Instant,
    ) {
        let extensions = response.request().extensions();
        let Some(record) = extensions.get::<RequestRecord>() else { return };
        let named = self.problem.and_then(|problem| problem.shard.as_deref());
        let found = || app.manager.map().topology().find(named?);
        let now = Instant::now();
        let sample = Sample {
            route: route.index,
            operation: route.operation,
            shard: record.shard.or_else(found).map(|shard| shard.0),
            slot: record.slot.map(Slot::number),
            role: record.served_by.map(counted_role),
            status: response.status().as_u16(),
            fanout: record.fanout,
            elapsed: now.duration_since(began),
            queue: record.queue,
            database: record.database,
            key: record.key(),
            trace: self.trace.map(|trace| trace.id),
        };
        if let (Some(worker), Some(analytics)) = (worker, &app.analytics) {
            if let Some(shard) = sample.shard {
                analytics.metrics.name_shard(&app.manager, shard);
            }
            worker.record(&sample, now);
            self.keep_error(&analytics.errors, route, named);
        }
        #[cfg(feature = "otlp")]
        if let (Some(tracer), Some(trace)) = (&app.tracer, self.trace) {
            let shard = sample.shard.map(|shard| app.manager.shard_name(ShardNumber(shard)));
            let (before, method) = (record.route, response.request().method().as_str());
            tracer.export(&TracedRequest {
                trace,
                sample,
                before,
                method,
                route: route.name(),
                shard,
            });
        }
    }

    fn keep_error(&self, errors: &ErrorLog, route: DataRoute, shard: Option<&str>) {
        let Some(problem) = self.problem else { return };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        errors.push(ErrorEvent {
            at_ms: at.as_millis() as u64,
            code: problem.code().name().into(),
            status: problem.status().as_u16(),
            route: route.name().into(),
            shard: shard.map(str::to_owned),
            request_id: self.id.to_str().unwrap_or("").to_owned(),
            trace_id: self.trace.map(|trace| trace.to_string()),
            message: problem.detail().to_owned(),
        });
    }
}

fn counted_role(served_by: ServedBy) -> analytics::Role {
    match served_by {
        ServedBy::Primary => analytics::Role::Primary,
        ServedBy::Replica => analytics::Role::Replica,
        ServedBy::Cache => analytics::Role::Cache,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::HttpResponse;
    use actix_web::http::header::RETRY_AFTER;
    use actix_web::rt::System;
    use actix_web::test::TestRequest;
    use futures_util::FutureExt as _;

    use super::*;

    fn read() -> Option<DataRoute> {
        data_route("/api/read", &Method::GET)
    }

    /// Returns a response to a request with a deadline of 100 ms.
    fn response(bytes: usize) -> ServiceResponse<BoxBody> {
        let request = TestRequest::default().insert_header(("x-deadline-ms", "100"));
        request.to_srv_response(HttpResponse::Ok().body(vec![0; bytes]))
    }

    #[test]
    fn only_reads_of_rows_may_be_refused_for_want_of_memory() {
        assert!(read().is_some() && !is_never_refused(read(), false));
        assert!(is_never_refused(data_route("/api/write", &Method::POST), true));
        assert!(is_never_refused(None, true), "a table was created");
        assert!(is_never_refused(None, false), "metrics");
    }

    #[test]
    fn a_large_read_is_charged_and_refused_once_the_budget_is_used_up_but_metrics_are_not() {
        let (budget, id) = (Arc::new(ResponseBudget::default()), HeaderValue::from_static("test"));
        let system = System::new();
        let finished = |route| {
            let large = response(128 << 10);
            let state = (route, false, Instant::now());
            system.block_on(finish(&budget, large, None, state, &id))
        };
        let all = response(ResponseBudget::BYTES_MAX);
        let charged = budget.charge(&all, true, Instant::now).now_or_never();
        let share = charged.expect("it does not wait").unwrap();
        let (refused, problem) = finished(read());
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.headers().contains_key(RETRY_AFTER));
        assert_eq!(problem.map(|problem| problem.code()), Some(Code::TSR005));
        let (metrics, problem) = finished(None);
        assert_eq!((metrics.status(), problem.is_none()), (StatusCode::OK, true));
        // The budget has room again once nothing is held.
        drop((share, metrics));
        assert_eq!(finished(read()).0.status(), StatusCode::OK);
    }
}
