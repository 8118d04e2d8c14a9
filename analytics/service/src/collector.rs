//! Collector: requests new frames from each router once a second. A frame holds the request counts
//! of one interval.
//!
//! Each router has its own task and connection, so that a router that hangs, misbehaves or is
//! unreachable delays no other. After an outage, the collector requests the missed frames, as far
//! back as the router still holds them.
//!
//! **Invariant:** there is at most one request to each router at a time, and no router ever waits
//! for this service.
//! **Not here:** parsing responses (`frame_response`), finding routers (`discovery`).

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use rustls::ClientConfig;
use tokio::sync::oneshot;

use crate::clock_offset::ClockOffset;
use crate::fleet::{Member, unix_ms};
use crate::frame_response::{FUTURE_MAX_S, FrameResponse};
use crate::router_key::RouterKey;
use recorder::History;
use recorder::merged;
use recorder::store::HistoryWriter;
use recorder::{Frame, Step};
use web_kit::http_client::{HttpClient, printable};

/// Time between two requests to a router.
const EVERY: Duration = Duration::from_secs(1);
/// Longest pause between two requests to an unreachable router.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Longest wait for one response.
const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum number of bytes of a response. A router sends at most about 4 MiB in one response.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Maximum number of requests without a pause to a router that still has more frames. Fetching
/// seven days takes a few dozen requests.
const CATCH_UP_MAX: usize = 200;
/// Deviation of a router's clock from the expected time, in ms, above which the clock's offset is
/// determined again. Smaller deviations may come from delayed responses.
const ASTRAY_MAX_MS: u64 = 90_000;
/// Longest time that the first request to a router waits for the router's stored history to be
/// read.
const LOADING_MAX: Duration = Duration::from_secs(30);

/// Resources that the collecting tasks of all routers share.
#[derive(Clone)]
pub(crate) struct Collecting {
    /// Writer of the stored history, if there is a store.
    pub history_writer: Option<Arc<HistoryWriter>>,
    /// TLS configuration for connections to routers.
    pub tls: Option<Arc<ClientConfig>>,
    /// Key that is sent to routers.
    pub router_key: RouterKey,
}

/// Reason why the service got no frames from a router.
enum CollectError {
    /// The router refuses the key of the service, or needs one.
    Unauthorized(String),
    /// The router does not respond, or its response has no valid frames.
    Unreachable(String),
}

impl From<String> for CollectError {
    fn from(cause: String) -> Self {
        Self::Unreachable(cause)
    }
}

/// Collects frames from a router. The function returns when the router is unreachable and its name
/// no longer resolves to its address.
pub(crate) async fn collect(member: Arc<Member>, collecting: Collecting) {
    if let Some(history_writer) = &collecting.history_writer {
        // The stored history is read first, so that stored frames are not requested from the router
        // again.
        let (done, loaded) = oneshot::channel();
        history_writer.keep(&*member.name, member.history.clone(), move || {
            // After a timeout there is no receiver any more, so the error is ignored.
            let _ = done.send(());
        });
        let _ = tokio::time::timeout(LOADING_MAX, loaded).await;
    }
    follow(member, collecting).await;
}

/// Collects frames from a router whose stored history has been read already. Returns like
/// [`collect`].
pub(crate) async fn follow(member: Arc<Member>, collecting: Collecting) {
    let mut poller = RouterPoller::new(member, collecting);
    poller.look_back();
    let mut pause = EVERY;
    loop {
        pause = match poller.catch_up().await {
            Ok(()) => EVERY,
            Err(error) => {
                poller.record_failure(error);
                if !poller.member.is_listed() {
                    return;
                }
                (pause * 2).min(PAUSE_MAX)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// State of collecting from one router.
struct RouterPoller {
    member: Arc<Member>,
    client: HttpClient,
    router_key: RouterKey,
    /// Start of the last fetched frame of each step, by the router's clock.
    after: [u64; 3],
    errors_after: u64,
    /// Start of the router process to whose errors `errors_after` refers.
    started: String,
    /// Offset of the router's clock. The next field is the start time of the router process for
    /// which the offset was determined.
    clock_offset: ClockOffset,
    compared: String,
}

impl RouterPoller {
    /// Creates the state for a router. If the service has collected from this router before, errors
    /// that were fetched already from the router's current process are not requested again.
    fn new(member: Arc<Member>, collecting: Collecting) -> Self {
        let client = HttpClient::new(member.target.clone(), collecting.tls.as_ref());
        let seen = member.seen();
        let (started, errors_after) = (seen.started.clone(), seen.errors_after);
        drop(seen);
        Self {
            member,
            client,
            router_key: collecting.router_key,
            after: [0; 3],
            errors_after,
            started,
            clock_offset: ClockOffset::default(),
            compared: String::new(),
        }
    }

    /// Sets `after` to the last frames in the history, so that only later ones are requested.
    fn look_back(&mut self) {
        for (step, after) in Step::ALL.into_iter().zip(&mut self.after) {
            let frames = self.member.history.frames_after(step, 0, usize::MAX);
            *after = frames.last().map_or(0, |frame| self.clock_offset.theirs(frame.start));
        }
    }

    /// Determines the offset of the router's clock when the router has started or one of the clocks
    /// has jumped. Returns true if, as a result, other frames than those in `response` must be
    /// fetched.
    fn compare_clocks(&mut self, response: &FrameResponse) -> bool {
        let own_ms = unix_ms();
        let is_astray = self.clock_offset.ours(response.at_ms).abs_diff(own_ms) > ASTRAY_MAX_MS;
        if response.started == self.compared && !is_astray {
            return false;
        }
        self.compared.clone_from(&response.started);
        let clock_offset = ClockOffset::between(response.at_ms, own_ms);
        if clock_offset != self.clock_offset {
            self.clock_offset = clock_offset;
            let warning = clock_offset
                .warning()
                .unwrap_or_else(|| "its clock agrees with the clock of this machine".to_owned());
            tracing::warn!(router = %self.member.name, "{warning}");
        }
        // If the router's clock was ahead before, its frames of times that are still to come would
        // block the new frames of the same intervals.
        let next = self.clock_offset.ours(response.at_ms) / 1_000 + FUTURE_MAX_S;
        self.member.history.forget_from(next);
        let before = self.after;
        self.look_back();
        before != self.after
    }

    /// Sends requests until the router has no more new frames.
    async fn catch_up(&mut self) -> Result<(), CollectError> {
        for _ in 0..CATCH_UP_MAX {
            let before = (self.after, self.errors_after);
            let more = self.request_frames().await?;
            if !more || before == (self.after, self.errors_after) {
                break;
            }
        }
        Ok(())
    }

    /// Sends one request, and returns true if the router has more new frames.
    async fn request_frames(&mut self) -> Result<bool, CollectError> {
        let [after_1, after_10, after_60] = self.after;
        let errors_after = self.errors_after;
        let path = format!(
            "/api/analytics/frames?after_1={after_1}&after_10={after_10}&after_60={after_60}&errors_after={errors_after}"
        );
        let request = Request::get(path).header("accept", "application/json");
        let request = self.router_key.authorize(&self.member.target, request).body(Full::default());
        let request = request.map_err(|error| error.to_string())?;
        let answer = self.client.exchange(request, PATIENCE, ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(self.refusal(answer.status, &answer.body).await);
        }
        // Parsing megabytes takes tens of milliseconds, which must not block a thread of the
        // runtime.
        let response =
            tokio::task::spawn_blocking(move || FrameResponse::parse(&answer.body)).await;
        let response = response.map_err(|error| error.to_string())??;
        if self.compare_clocks(&response) {
            // The response is not used: the history may have some of its frames already, and others
            // may be missing.
            return Ok(true);
        }
        if response.started != self.started {
            let is_first =
                std::mem::replace(&mut self.started, response.started.clone()).is_empty();
            if self.errors_after > 0 {
                // A router that was restarted numbers its errors from the start.
                self.errors_after = 0;
                self.take(response, false);
                return Ok(true);
            }
            if !is_first {
                tracing::info!(router = %self.member.name, "the router was restarted");
            }
        }
        let more = response.more;
        self.take(response, true);
        Ok(more)
    }

    /// Adds the frames of a response to the history, and its errors to the log if `with_errors` is
    /// true.
    fn take(&mut self, mut response: FrameResponse, with_errors: bool) {
        for (step, after) in Step::ALL.into_iter().zip(&mut self.after) {
            *after = response.last(step).map_or(*after, |last| last.max(*after));
        }
        let history = &self.member.history;
        let clock_offset = self.clock_offset;
        let at_ms = clock_offset.ours(response.at_ms);
        let started_ms = of_rfc3339(&response.started).map(|ms| clock_offset.ours(ms));
        // Frames of shorter intervals are added first, because longer ones may be computed from
        // them.
        response.frames.sort_by_key(|frame| frame.step);
        for mut frame in response.frames {
            frame.start = clock_offset.ours_s(frame.start);
            history.absorb(whole(frame, history, started_ms));
        }
        if let Some(started_ms) = started_ms.filter(|_| !response.more) {
            // The history now has all frames that the router still holds, so intervals without a
            // frame had no requests.
            history.know_between(started_ms, at_ms);
            let counted = response.counted.into_iter();
            history.know_counted(
                counted
                    .map(|(from, until)| (clock_offset.ours_s(from), clock_offset.ours_s(until))),
            );
        }
        if with_errors {
            self.errors_after = response.errors_seq;
            response.errors.into_iter().for_each(|error| self.member.errors.push(error));
        }
        let mut seen = self.member.seen();
        let had_error = seen.error.take().is_some();
        seen.is_up = true;
        seen.is_unauthorized = false;
        seen.at_ms = Some(unix_ms());
        seen.clock_ms = at_ms;
        seen.clock = clock_offset.warning();
        seen.started = response.started;
        seen.errors_after = self.errors_after;
        seen.now = response.now;
        seen.pulls += 1;
        drop(seen);
        if had_error {
            tracing::info!(router = %self.member.name, "the router answers again");
        }
    }

    /// Returns the reason why a router refuses a request. If the router refuses the key, the key is
    /// read again for the next request, because it may have been rotated.
    async fn refusal(&self, status: u16, body: &[u8]) -> CollectError {
        let cause = refusal(status, body);
        let has_key = self.router_key.is_given();
        let remedy = match (status, has_key) {
            (401, false) => {
                "it needs an API key: name a file with one in router_key_file; its role needs the scope frames"
            }
            (401, true) => {
                "it refuses the key of router_key_file: write one that is in force into the file; its role needs the \
                 scope frames"
            }
            (403, true) => {
                "the key of router_key_file lacks a right: its role needs the scope frames"
            }
            _ => return CollectError::Unreachable(cause),
        };
        if has_key {
            let router_key = self.router_key.clone();
            let _ = tokio::task::spawn_blocking(move || router_key.reload()).await;
        }
        CollectError::Unauthorized(format!("{remedy} ({cause})"))
    }

    fn record_failure(&self, error: CollectError) {
        let (is_unauthorized, cause) = match error {
            CollectError::Unauthorized(cause) => (true, cause),
            CollectError::Unreachable(cause) => (false, cause),
        };
        let mut seen = self.member.seen();
        seen.is_up = false;
        seen.is_unauthorized = is_unauthorized;
        let had_error = seen.error.replace(cause.clone()).is_some();
        drop(seen);
        if !had_error {
            let state = if is_unauthorized { "refuses the service" } else { "is unreachable" };
            tracing::warn!(router = %self.member.name, "the router {state}: {cause}");
        }
    }
}

/// Completes the frame of an interval in which the router was restarted. The router's frame counts
/// only the requests since the restart; the history may have shorter frames of the same interval
/// that count more.
fn whole(frame: Frame, history: &History, started_ms: Option<u64>) -> Frame {
    let started = started_ms.map(|ms| ms / 1_000);
    let is_broken =
        started.is_some_and(|s| frame.start < s && s < frame.start + frame.step.seconds());
    let finer = match frame.step {
        Step::TenSeconds if is_broken => Step::Second,
        Step::Minute if is_broken => Step::TenSeconds,
        Step::Second | Step::TenSeconds | Step::Minute => return frame,
    };
    let (after, end) = (frame.start.saturating_sub(1), frame.start + frame.step.seconds());
    let mut parts = history.frames_after(finer, after, frame.step.seconds() as usize);
    parts.retain(|part| part.start < end);
    let mut sum = merged(frame.step, frame.start, &parts);
    if sum.total() <= frame.total() {
        return frame;
    }
    if frame.step == Step::TenSeconds {
        // Frames of a second contain no keys.
        sum.hot = frame.hot;
    }
    sum
}

/// Parses a time of RFC 3339, in ms since 1970.
fn of_rfc3339(text: &str) -> Option<u64> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(time.timestamp_millis()).ok()
}

/// Describes a response whose status is an error. If its body is a problem document, the
/// description includes the detail.
fn refusal(status: u16, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Said {
        detail: String,
    }
    match serde_json::from_slice::<Said>(body) {
        Ok(Said { detail }) => format!("it answers with status {status}: {}", printable(&detail)),
        Err(_) => format!("it answers with status {status}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fleet::rfc3339;

    /// Returns the state of a new task that collects from the router.
    fn poller(member: &Arc<Member>) -> RouterPoller {
        let router_key = RouterKey::default();
        let collecting = Collecting { history_writer: None, tls: None, router_key };
        RouterPoller::new(Arc::clone(member), collecting)
    }

    /// Returns the response of a router that has started at `started` and has counted `errors`
    /// errors, to a request for the errors after number `after`.
    fn response(started: &str, errors: u64, after: u64) -> FrameResponse {
        let error = |number: u64| {
            json!({
                "time": "2026-11-21T10:00:00.000Z", "code": "TSR201", "status": 503,
                "route": "/api/read", "shard": "shard1", "request_id": format!("id-{number}"),
                "trace_id": null, "message": "shard1 did not answer",
            })
        };
        let body = json!({
            "started": started, "at_ms": unix_ms(), "now": {}, "frames": [],
            "errors": (after..errors).map(error).collect::<Vec<_>>(), "errors_seq": errors,
        });
        FrameResponse::parse(body.to_string().as_bytes()).expect("a valid response")
    }

    #[test]
    fn errors_fetched_before_a_router_disappeared_are_not_requested_again() {
        let [started, restarted] = [7_200_000, 3_600_000].map(|ago| rfc3339(unix_ms() - ago));
        let target = "http://127.0.0.1:3000".parse().expect("a target");
        let member = Arc::new(Member::new("north".to_owned(), target, 1));
        let mut first = poller(&member);
        assert_eq!((&*first.started, first.errors_after), ("", 0));
        first.started.clone_from(&started);
        first.take(response(&started, 3, first.errors_after), true);
        // The router's address was missing from the name for a moment and is listed again, so there
        // is a new task.
        drop(first);
        let mut second = poller(&member);
        assert_eq!((&second.started, second.errors_after), (&started, 3));
        second.take(response(&started, 4, second.errors_after), true);
        assert_eq!(member.errors.total(), 4);
        // A restarted router numbers its errors from 1 again. This response was requested with the
        // old number, so its errors are not added yet.
        second.errors_after = 0;
        second.take(response(&restarted, 2, 4), false);
        let third = poller(&member);
        assert_eq!((&third.started, third.errors_after), (&restarted, 0));
    }
}
