//! Streamed bodies of bulk writes: NDJSON and CSV of any length, in bounded memory.
//!
//! Three stages run at the same time: one receives bytes from the socket, one parses a batch of
//! them, and one, for each shard, stores the rows of earlier batches. A stage waits while the next
//! one is slower.
//!
//! **Invariant:** while the shards make no progress, nothing more is read from the socket. The
//! bytes that a stream holds are charged to the memory budget for bodies. A body whose client
//! pauses occupies no thread.
//! **Not here:** parsing of a row (`row_router`, `row_reader`), storing of rows (`shard_queues`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::web::{Bytes, BytesMut, Data, Payload};
use actix_web::{HttpRequest, HttpResponse, rt};
use futures_util::{FutureExt, StreamExt};
use shard_manager::manager::RequestOptions;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::outcome::BulkOutcome;
use super::parser_thread::Parser;
use super::row_reader::{BATCH_BYTES_MAX, ReaderState, RowBatch, RowReader, StreamOptions};
use super::shard_queues::ShardQueues;
use crate::access::caller_recheck::CallerRecheck;
use crate::access::meter::CallerMeter;
use crate::app::App;
use crate::body_budget::BudgetShare;
use crate::body_reader;
use crate::caller_rights::CallerRights;
use crate::problem::{Code, Problem};

/// Longest time for which no byte of a body may arrive.
pub const STALLED_MAX: Duration = Duration::from_secs(30);
/// Time without a new byte after which a separate parser thread is ended. Also the interval at
/// which the caller of a waiting body is checked again.
const REST: Duration = Duration::from_secs(1);
/// Number of bytes after which no more are received at once, while a separate thread parses them.
pub const INTAKE_BYTES: usize = 256 << 10;
/// Number of bytes after which no more are received at once, while they are parsed on the receiving
/// thread, for which other requests wait. Also the number of bytes of text of a batch on that
/// thread.
pub const INLINE_BYTES: usize = 64 << 10;
/// Number of bytes that every streamed body is charged: for the bytes received from its socket and
/// the rows of one small batch.
const STREAM_BYTES_MIN: usize = 256 << 10;
/// Number of bytes charged in addition for the rows of batches that a separate thread parses ahead.
const AHEAD_BYTES: usize = 4 * BATCH_BYTES_MAX;
/// Number of bytes below which parts of a body are copied together, because each part on its own
/// would keep the whole buffer in which it arrived.
const PART_BYTES_MIN: usize = 4 << 10;

/// Hint for a client whose body ends before it is complete.
const SEND_REST: &str = "send the rest from next_index";
/// Hint for a client whose body ends because a quota is used up.
const REST_LATER: &str = "send the rest from next_index after Retry-After";

/// Carries out a bulk write with a streamed body.
pub(super) async fn write_stream(
    app: &Data<App>,
    request: &HttpRequest,
    payload: Payload,
    stream_options: StreamOptions,
    (rights, options): (&CallerRights, &RequestOptions),
    began: Instant,
) -> Result<HttpResponse, Problem> {
    let patience = options.deadline.saturating_duration_since(began);
    let share = Rc::new(app.open_share(request));
    share.grow(STREAM_BYTES_MIN, options.deadline).await?;
    let outcome = Rc::new(RefCell::new(BulkOutcome::new(options.session.clone())));
    let queues = ShardQueues::new(app, (rights, options), (Rc::clone(&share), patience), &outcome);
    let recheck = CallerRecheck::of(app.gate.as_ref(), request);
    let reader = RowReader::new(app, stream_options, patience);
    let meter = app.meter(request);
    let mut body = Body::new(payload, (reader, recheck), share);
    let mut reached = 0;
    let (failure, next_index) = loop {
        let RowBatch { rows, refused, next_index, state, held } = body.batch().await?;
        if let Err(problem) = body.recheck.check() {
            break (Some(problem), reached);
        }
        reached = next_index;
        refused.into_iter().for_each(|row| outcome.borrow_mut().refuse(row));
        let wait = meter.charge_rows(rows.len());
        queues.send(rows).await;
        if state.continues()
            && let Err(problem) = body.pause(wait, &meter, app).await
        {
            break (Some(problem), next_index);
        }
        let more = match state {
            ReaderState::More => body.continue_reading(held).await,
            ReaderState::NeedsInput => body.wait_for_input(held).await,
            ReaderState::Ended => break (None, next_index),
            // No row can have been queued: this state comes before the columns are known.
            ReaderState::Refused(problem) => return Err(problem),
            ReaderState::Stopped(problem) => break (Some(problem), next_index),
        };
        if let Err(problem) = more {
            break (Some(problem), next_index);
        }
    };
    body.release();
    queues.finish().await?;
    let mut outcome = outcome.borrow_mut();
    meter.charge_shards(outcome.shards());
    match failure {
        None => {
            let (mut response, answer) = outcome.respond(app, request, began, Duration::ZERO);
            Ok(response.json(answer))
        }
        Some(problem) => {
            outcome.update_record(request);
            Err(outcome.partial(app, problem, next_index))
        }
    }
}

/// A body that is received and parsed, with its charge to the memory budget.
struct Body {
    intake: Receiver<Received>,
    /// Number of bytes after which no more are received at once.
    most: Rc<Cell<usize>>,
    parser: Parser,
    /// Check of the caller, made for each batch and for each second in which nothing arrives.
    recheck: CallerRecheck,
    share: Rc<BudgetShare>,
    /// Number of bytes that are charged for unparsed text.
    text: usize,
    /// Number of bytes that are charged for the batches that a separate thread parses ahead; 0
    /// while the parser waits for input.
    ahead: usize,
}

impl Body {
    fn new(
        payload: Payload,
        (reader, recheck): (RowReader, CallerRecheck),
        share: Rc<BudgetShare>,
    ) -> Self {
        let most = Rc::new(Cell::new(INLINE_BYTES));
        let intake = intake(payload, STALLED_MAX, Rc::clone(&most));
        Self { intake, most, parser: Parser::new(reader), recheck, share, text: 0, ahead: 0 }
    }

    async fn batch(&mut self) -> Result<RowBatch, Problem> {
        self.parser.batch().await
    }

    /// Waits for `wait`, so that the caller does not exceed its rate of rows. Meanwhile the rest of
    /// the body waits, so that soon nothing more is read from the socket.
    ///
    /// # Errors
    /// The problem with which the body ends: the daily quota is used up, or the caller has lost its
    /// rights.
    async fn pause(&self, wait: Duration, meter: &CallerMeter, app: &App) -> Result<(), Problem> {
        if let (Err(limited), Some(gate)) = (meter.check_day(), &app.gate)
            && gate.is_enforced()
        {
            return Err(gate.limit_problem(limited).hint(REST_LATER));
        }
        if wait.is_zero() || self.recheck.is_unbounded() {
            return Ok(());
        }
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.share.unless_evicted(tokio::time::sleep(left.min(REST))).await?;
            self.recheck.check()?;
        }
    }

    /// Charges `held` bytes of text instead of the previous number. Bytes that become free may be
    /// given to another body that waits for memory.
    async fn charge(&mut self, held: usize) -> Result<(), Problem> {
        if let Some(more) = held.checked_sub(self.text) {
            self.share.grow(more, Instant::now() + STALLED_MAX).await?;
        } else {
            self.share.shrink(self.text - held);
        }
        self.text = held;
        Ok(())
    }

    /// Prepares for the next batch, when text that has arrived is not parsed yet.
    async fn continue_reading(&mut self, held: usize) -> Result<(), Problem> {
        self.charge(held).await?;
        if !self.parser.has_thread() && self.reserve_ahead() {
            self.most.set(INTAKE_BYTES);
            self.parser.move_to_thread(false);
        }
        if !self.parser.has_thread() {
            // Lets the other requests on this thread continue.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Charges memory for the batches that a separate thread parses ahead. Returns true if that
    /// memory is available.
    fn reserve_ahead(&mut self) -> bool {
        if self.ahead == 0 && self.share.try_grow(AHEAD_BYTES) {
            self.ahead = AHEAD_BYTES;
        }
        self.ahead > 0
    }

    async fn move_inline(&mut self) -> Result<(), Problem> {
        self.most.set(INLINE_BYTES);
        self.parser.move_inline().await
    }

    /// Waits until the client sends more, when all text is parsed, and passes it to the parser.
    async fn wait_for_input(&mut self, held: usize) -> Result<(), Problem> {
        self.share.shrink(std::mem::take(&mut self.ahead));
        self.charge(held).await?;
        match self.next_received().await? {
            Received::Bytes(parts) => {
                let bytes = parts.iter().map(Bytes::len).sum();
                self.share.add_received(bytes);
                self.charge(held + bytes).await?;
                self.choose_thread(bytes).await?;
                self.parser.push(Some(parts)).await;
            }
            Received::End => self.parser.push(None).await,
            Received::Failed(problem) => return Err(problem),
        }
        Ok(())
    }

    /// Chooses the thread for the parser: a separate one if many bytes have arrived at once, or if
    /// it is already there, provided that the memory budget allows it.
    async fn choose_thread(&mut self, bytes: usize) -> Result<(), Problem> {
        let has_thread = self.parser.has_thread();
        let needs_thread = (has_thread || bytes >= INLINE_BYTES) && self.reserve_ahead();
        match (has_thread, needs_thread) {
            (false, true) => {
                self.most.set(INTAKE_BYTES);
                self.parser.move_to_thread(true);
            }
            (true, false) => self.move_inline().await?,
            (true, true) | (false, false) => {}
        }
        Ok(())
    }

    async fn next_received(&mut self) -> Result<Received, Problem> {
        if self.parser.has_thread() {
            let soon = tokio::time::timeout(REST, self.intake.recv());
            if let Ok(received) = self.share.unless_evicted(soon).await? {
                return received.ok_or_else(broke_off);
            }
            self.move_inline().await?;
        }
        while !self.recheck.is_unbounded() {
            let soon = tokio::time::timeout(REST, self.intake.recv());
            match self.share.unless_evicted(soon).await? {
                Ok(received) => return received.ok_or_else(broke_off),
                Err(_elapsed) => self.recheck.check()?,
            }
        }
        let received = self.share.unless_evicted(self.intake.recv()).await?;
        received.ok_or_else(broke_off)
    }

    /// Stops receiving and parsing, and frees the charged memory. Queued rows are still stored.
    fn release(self) {
        let Self { intake, parser, share, text, ahead, .. } = self;
        drop((intake, parser));
        share.shrink(text + ahead);
    }
}

fn broke_off() -> Problem {
    body_reader::incomplete().hint(SEND_REST)
}

/// Part of a body that was received.
#[derive(Debug)]
pub enum Received {
    /// Bytes of the body, in the parts in which they arrived.
    Bytes(Vec<Bytes>),
    /// The body is complete.
    End,
    /// The body cannot be received completely.
    Failed(Problem),
}

/// Starts a task that receives a body: up to about `most` bytes at once, and one such portion ahead
/// of its reader. A body of which no byte arrives for `stalled_max` ends with an error. If the
/// receiver is dropped, the server discards the rest of the body.
pub fn intake(
    payload: Payload,
    stalled_max: Duration,
    most: Rc<Cell<usize>>,
) -> Receiver<Received> {
    let (sender, receiver) = channel(1);
    rt::spawn(take_all(payload, stalled_max, most, sender));
    receiver
}

async fn take_all(
    mut payload: Payload,
    stalled_max: Duration,
    most: Rc<Cell<usize>>,
    sender: Sender<Received>,
) {
    let mut last = None;
    while last.is_none() {
        let mut parts = Parts::default();
        last = take(&mut payload, (stalled_max, most.get()), &mut parts).await;
        let parts = parts.finish();
        if !parts.is_empty() && sender.send(Received::Bytes(parts)).await.is_err() {
            return;
        }
    }
    if let Some(last) = last {
        // If the receiver is gone, the response was already sent.
        let _ = sender.send(last).await;
    }
}

/// Waits for bytes, and also takes those that have already arrived. If the end of the body or an
/// error comes with them, returns it.
async fn take(
    payload: &mut Payload,
    (stalled_max, most): (Duration, usize),
    parts: &mut Parts,
) -> Option<Received> {
    let Ok(mut next) = tokio::time::timeout(stalled_max, payload.next()).await else {
        let detail = format!("the body had no new bytes for {} s", stalled_max.as_secs());
        let problem = Problem::new(Code::TSR004, detail);
        return Some(Received::Failed(problem.hint(SEND_REST)));
    };
    let mut bytes = 0;
    loop {
        match next {
            Some(Ok(part)) => {
                bytes += part.len();
                parts.push(part);
            }
            Some(Err(_)) => return Some(Received::Failed(broke_off())),
            None => return Some(Received::End),
        }
        if bytes >= most {
            return None;
        }
        next = payload.next().now_or_never()?;
    }
}

/// Parts of a body; small parts that follow each other are joined.
#[derive(Default)]
struct Parts {
    whole: Vec<Bytes>,
    small: BytesMut,
}

impl Parts {
    fn push(&mut self, part: Bytes) {
        if part.len() < PART_BYTES_MIN {
            self.small.extend_from_slice(&part);
            return;
        }
        self.flush();
        self.whole.push(part);
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.whole.push(std::mem::take(&mut self.small).freeze());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.flush();
        self.whole
    }
}
