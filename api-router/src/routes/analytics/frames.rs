//! `GET /api/analytics/frames`: returns frames, which are the counts of finished time intervals,
//! and new errors, to services that keep them longer than this router does.
//!
//! **Invariant:** the size of a response is limited, no matter how long ago the previous request
//! was. If further frames or errors are available, its member `more` is true.

use std::sync::Arc;

use actix_web::web::{Bytes, Data, block};
use actix_web::{HttpRequest, HttpResponse, get};
use analytics::{ClusterNow, ErrorEvent, ErrorLog, Step};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::access::access_problems;
use crate::app::App;
use crate::metrics_view::MetricsView;
use crate::problem::{Code, Problem};
use crate::query::Parameters;
use crate::response_headers::LookupRefusals;

/// Number of bytes of frames after which a response contains no further frame.
const FRAMES_BYTES_MAX: usize = 4 << 20;
/// Maximum number of frames of one response: as many one-second frames as a router keeps.
const FRAMES_MAX: usize = 900;
/// Maximum number of errors of one response.
const ERRORS_MAX: usize = 1_000;

/// Events since the previous request.
#[derive(Serialize, ToSchema)]
pub(crate) struct FramesAnswer {
    /// Always true.
    success: bool,
    /// Name of the router: `router-` and the port that it serves on.
    router: String,
    /// Start of the router: if it changes, counts begin again.
    started: String,
    /// The router's clock, in milliseconds since 1970.
    at_ms: u64,
    /// The cluster as it is now.
    now: ClusterNow,
    /// Frames of finished intervals, by step, oldest first.
    #[schema(value_type = Vec<Object>)]
    frames: Vec<Box<RawValue>>,
    /// Intervals in which this router, and those before it over the same store, recorded: first
    /// second and the second after the last one, since 1970.
    counted: Vec<(u64, u64)>,
    /// Errors, oldest first.
    #[schema(value_type = Vec<ErrorEvent>)]
    errors: Vec<Arc<ErrorEvent>>,
    /// Number of the last error, to be sent as `errors_after` of the next request.
    errors_seq: u64,
    /// True if there is more already: request again at once.
    more: bool,
}

/// Positions after which frames and errors are requested.
#[derive(Clone, Copy)]
struct After {
    steps: [(Step, u64); 3],
    errors: u64,
}

/// Returns frames, which are the counts of finished intervals, and new errors.
///
/// For services that collect from routers. Histograms are HDR (V2, base64). Frames and errors
/// are kept for a limited time: a late request gets those that are left.
#[utoipa::path(
    tag = "analytics",
    params(
        ("after_1" = Option<u64>, Query, description = "Only frames of one second that begin later, in seconds since 1970", minimum = 0),
        ("after_10" = Option<u64>, Query, description = "Only frames of ten seconds that begin later, in seconds since 1970", minimum = 0),
        ("after_60" = Option<u64>, Query, description = "Only frames of a minute that begin later, in seconds since 1970", minimum = 0),
        ("errors_after" = Option<u64>, Query, description = "Only errors with a higher number", minimum = 0),
    ),
    responses((status = 200, description = "Frames and errors", body = FramesAnswer), LookupRefusals)
)]
#[get("/api/analytics/frames")]
pub(crate) async fn list_frames(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    access_problems::refuse_bound(&app.rights(&request))?;
    let analytics = app.analytics()?;
    let parameters = Parameters::parse(request.query_string())?;
    parameters.check_names(&["after_1", "after_10", "after_60", "errors_after"])?;
    let after = After {
        // Frames of long intervals come first, because there are few of them.
        steps: [
            (Step::Minute, number(&parameters, "after_60")?),
            (Step::TenSeconds, number(&parameters, "after_10")?),
            (Step::Second, number(&parameters, "after_1")?),
        ],
        errors: number(&parameters, "errors_after")?,
    };
    let now = analytics.metrics.now().await;
    let (figures, errors) = (Arc::clone(&analytics.metrics), Arc::clone(&analytics.errors));
    let router = format!("router-{}", app.port);
    let answer = block(move || answer(&figures, &errors, after, now, router)).await;
    let internal = |_| Problem::new(Code::TSR500, "an internal error");
    Ok(HttpResponse::Ok().content_type("application/json").body(answer.map_err(internal)?))
}

fn number(parameters: &Parameters<'_>, name: &str) -> Result<u64, Problem> {
    let Some(text) = parameters.single(name)? else { return Ok(0) };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| {
        Problem::new(Code::TSR100, format!("{name} must be a whole number, 0 or more"))
    })
}

fn answer(
    figures: &MetricsView,
    log: &ErrorLog,
    after: After,
    now: ClusterNow,
    router: String,
) -> Bytes {
    let history = figures.recorder.history();
    let (mut frames, mut bytes, mut more) = (Vec::new(), 0, false);
    for (step, start) in after.steps {
        for frame in history.frames_after(step, start, FRAMES_MAX + 1) {
            more = frames.len() == FRAMES_MAX || bytes > FRAMES_BYTES_MAX;
            if more {
                break;
            }
            let json = serde_json::value::to_raw_value(&*frame);
            let json = json.expect("frames are numbers and texts");
            bytes += json.get().len();
            frames.push(json);
        }
    }
    let (errors, errors_seq) = log.events_after(after.errors, ERRORS_MAX);
    more |= errors.len() == ERRORS_MAX;
    let (started, at_ms) = (now.started.clone(), figures.recorder.at_ms());
    let answer = FramesAnswer {
        success: true,
        router,
        started,
        at_ms,
        now,
        frames,
        counted: history.counted_times().as_slice().to_vec(),
        errors,
        errors_seq,
        more,
    };
    serde_json::to_vec(&answer).expect("frames and errors are numbers and texts").into()
}
