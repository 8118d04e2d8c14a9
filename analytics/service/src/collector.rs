//! Collector: asks each router once a second for what it has counted since.
//!
//! A router is asked by a task of its own, over one connection: one that hangs, lies or is away delays no other. What was
//! missed while it was away is asked for afterwards, as far back as the router still holds it.
//!
//! **Invariant:** a router is asked one thing at a time, and never waits for anything here.
//! **Not here:** what its answers mean (`frame_response`), which routers there are (`discovery`).

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use rustls::ClientConfig;
use tokio::sync::oneshot;

use crate::clock_offset::ClockOffset;
use crate::fleet::{Member, unix_ms};
use crate::frame_response::{FUTURE_MAX_S, FrameResponse};
use recorder::History;
use recorder::merged;
use recorder::store::HistoryWriter;
use recorder::{Frame, Step};
use web_kit::http_client::{HttpClient, printable};

/// How often a router is asked.
const EVERY: Duration = Duration::from_secs(1);
/// The longest pause between two questions to a router that is away.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer: a router ends one after some 4 MiB.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Most answers taken at once from a router that says that there is more: seven days are some dozens.
const CATCH_UP_MAX: usize = 200;
/// Largest drift of a router's clock from its reading at its start, in ms: messages may be delayed.
const ASTRAY_MAX_MS: u64 = 90_000;
/// How long a router may wait to be asked for until what was kept of it is there.
const LOADING_MAX: Duration = Duration::from_secs(30);

/// Asks a router for ever; ends when it is gone and not to be there any more.
pub(crate) async fn collect(
    member: Arc<Member>,
    history_writer: Option<Arc<HistoryWriter>>,
    tls: Option<Arc<ClientConfig>>,
) {
    if let Some(history_writer) = &history_writer {
        // What is kept already need not be asked for.
        let (done, loaded) = oneshot::channel();
        history_writer.keep(&*member.name, member.history.clone(), move || {
            // Who waits no longer need not know.
            let _ = done.send(());
        });
        let _ = tokio::time::timeout(LOADING_MAX, loaded).await;
    }
    follow(member, tls).await;
}

/// The same of a router whose history is kept already.
pub(crate) async fn follow(member: Arc<Member>, tls: Option<Arc<ClientConfig>>) {
    let client = HttpClient::new(member.target.clone(), tls.as_ref());
    let mut poller = RouterPoller {
        member,
        client,
        after: [0; 3],
        errors_after: 0,
        started: String::new(),
        clock_offset: ClockOffset::default(),
        compared: String::new(),
    };
    poller.look_back();
    let mut pause = EVERY;
    loop {
        pause = match poller.catch_up().await {
            Ok(()) => EVERY,
            Err(cause) => {
                poller.away(cause);
                if !poller.member.is_listed() {
                    return;
                }
                (pause * 2).min(PAUSE_MAX)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// What is asked of one router.
struct RouterPoller {
    member: Arc<Member>,
    client: HttpClient,
    /// Last slot that was fetched, by step, in times of the router.
    after: [u64; 3],
    errors_after: u64,
    /// When the router started that told the number of the last error.
    started: String,
    /// Difference of its clock from ours, and the start of the router for which that was found.
    clock_offset: ClockOffset,
    compared: String,
}

impl RouterPoller {
    /// Goes on behind what is in the history already.
    fn look_back(&mut self) {
        for (step, after) in Step::ALL.into_iter().zip(&mut self.after) {
            let frames = self.member.history.frames_after(step, 0, usize::MAX);
            *after = frames.last().map_or(0, |frame| self.clock_offset.theirs(frame.start));
        }
    }

    /// Finds the difference of a router's clock after its start, or after a jump. Returns true if
    /// other slots must be fetched because of it.
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
            let told =
                clock_offset.told().unwrap_or_else(|| "its clock is as this machine's".to_owned());
            tracing::warn!(router = %self.member.name, "{told}");
        }
        // Slots reported by a clock that was ahead would hide those that follow.
        let next = self.clock_offset.ours(response.at_ms) / 1_000 + FUTURE_MAX_S;
        self.member.history.forget_from(next);
        let before = self.after;
        self.look_back();
        before != self.after
    }

    /// Asks until there is no more.
    async fn catch_up(&mut self) -> Result<(), String> {
        for _ in 0..CATCH_UP_MAX {
            let before = (self.after, self.errors_after);
            let more = self.ask().await?;
            if !more || before == (self.after, self.errors_after) {
                break;
            }
        }
        Ok(())
    }

    /// One question and its answer; whether there is more.
    async fn ask(&mut self) -> Result<bool, String> {
        let [after_1, after_10, after_60] = self.after;
        let errors_after = self.errors_after;
        let path = format!(
            "/api/analytics/frames?after_1={after_1}&after_10={after_10}&after_60={after_60}&errors_after={errors_after}"
        );
        let asked = Request::get(path).header("accept", "application/json").body(Full::default());
        let asked = asked.map_err(|error| error.to_string())?;
        let answer = self.client.exchange(asked, PATIENCE, ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(refusal(answer.status, &answer.body));
        }
        // Megabytes of it take tens of milliseconds: not on a thread that others need.
        let response =
            tokio::task::spawn_blocking(move || FrameResponse::parse(&answer.body)).await;
        let response = response.map_err(|error| error.to_string())??;
        if self.compare_clocks(&response) {
            // Some of these slots may be there already, or missing.
            return Ok(true);
        }
        if response.started != self.started {
            let is_first =
                std::mem::replace(&mut self.started, response.started.clone()).is_empty();
            if self.errors_after > 0 {
                // The numbers that were told begin anew with the router.
                self.errors_after = 0;
                self.take(response, false);
                return Ok(true);
            }
            if !is_first {
                tracing::info!(router = %self.member.name, "the router was started anew");
            }
        }
        let more = response.more;
        self.take(response, true);
        Ok(more)
    }

    /// Takes an answer in; its errors only if they are those that were asked for.
    fn take(&mut self, mut response: FrameResponse, with_errors: bool) {
        for (step, after) in Step::ALL.into_iter().zip(&mut self.after) {
            *after = response.last(step).map_or(*after, |last| last.max(*after));
        }
        let history = &self.member.history;
        let clock_offset = self.clock_offset;
        let at_ms = clock_offset.ours(response.at_ms);
        let started_ms = of_rfc3339(&response.started).map(|ms| clock_offset.ours(ms));
        // Shorter slots first: longer ones may be made of them.
        response.frames.sort_by_key(|frame| frame.step);
        for mut frame in response.frames {
            frame.start = clock_offset.ours_s(frame.start);
            history.absorb(whole(frame, history, started_ms));
        }
        if let Some(started_ms) = started_ms.filter(|_| !response.more) {
            // All that it still holds is here: where there is nothing, nothing happened.
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
        let was_away = seen.trouble.take().is_some();
        seen.is_up = true;
        seen.at_ms = Some(unix_ms());
        seen.clock_ms = at_ms;
        seen.clock = clock_offset.told();
        seen.started = response.started;
        seen.now = response.now;
        seen.pulls += 1;
        drop(seen);
        if was_away {
            tracing::info!(router = %self.member.name, "the router answers again");
        }
    }

    fn away(&self, cause: String) {
        let mut seen = self.member.seen();
        seen.is_up = false;
        let was_away = seen.trouble.replace(cause.clone()).is_some();
        drop(seen);
        if !was_away {
            tracing::warn!(router = %self.member.name, "the router is away: {cause}");
        }
    }
}

/// A slot in which a router was started anew holds what it has counted since. What it had counted in it before was told in
/// shorter slots: they may hold more.
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
        // Seconds tell no keys.
        sum.hot = frame.hot;
    }
    sum
}

/// A time in ms since 1970.
fn of_rfc3339(text: &str) -> Option<u64> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(time.timestamp_millis()).ok()
}

/// What a router says that does not tell: the title of its problem, if it is one.
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
