//! Streamed bodies of bulk writes: NDJSON and CSV of any length, in bounded memory.
//!
//! Three things go on at once, and each waits for the next when that is slower: bytes are taken from the socket, a
//! piece of them is taken apart, and each shard stores its rows of the pieces before.
//!
//! **Invariant:** while the shards make no progress, nothing more is read from the socket; the
//! bytes that are held are charged to the room of all bodies; a body that pauses keeps no thread.
//! **Not here:** what a row is (`row`, `feed`), how shards store them (`pipes`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::web::{Bytes, BytesMut, Data, Payload};
use actix_web::{HttpRequest, HttpResponse, rt};
use futures_util::{FutureExt, StreamExt};
use shard_manager::manager::RequestOptions;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::answer::Tally;
use super::feed::{Feed, PIECE_BYTES_MAX, Piece, Shape, Then};
use super::parser::Parser;
use super::pipes::Pipes;
use crate::app::App;
use crate::problem::{Code, Problem};
use crate::room::Share;

/// How long a body may bring nothing.
pub const STALLED_MAX: Duration = Duration::from_secs(30);
/// Time without a byte of the body after which its thread is given back.
const REST: Duration = Duration::from_secs(1);
/// Bytes taken from the socket at once while a thread of its own parses them.
pub const INTAKE_BYTES: usize = 256 << 10;
/// Bytes taken from the socket at once where other requests wait meanwhile; also the text of a
/// piece there.
pub const HERE_BYTES: usize = 64 << 10;
/// Least charge of a streamed body: the bytes taken from its socket, and the rows of one small
/// piece.
const STREAM_BYTES_MIN: usize = 256 << 10;
/// Extra charge for the rows of pieces that a thread of its own makes ahead.
const AHEAD_BYTES: usize = 4 * PIECE_BYTES_MAX;
/// Smaller parts of a body are joined: each would keep the buffer in which it arrived.
const PART_BYTES_MIN: usize = 4 << 10;

/// Carries out a streamed body.
pub(super) async fn write_stream(
    app: &Data<App>,
    request: &HttpRequest,
    payload: Payload,
    shape: Shape,
    options: &RequestOptions,
    began: Instant,
) -> Result<HttpResponse, Problem> {
    let patience = options.deadline.saturating_duration_since(began);
    let share = Rc::new(app.share(request));
    share.grow(STREAM_BYTES_MIN, options.deadline).await?;
    let tally = Rc::new(RefCell::new(Tally::new(app, options.session.clone())));
    let pipes = Pipes::new(app, options, (Rc::clone(&share), patience), &tally);
    let mut body = Body::new(payload, Feed::new(app.clone(), shape, patience), share);
    let (trouble, next_index) = loop {
        let Piece { rows, refused, next_index, then, held } = body.piece().await?;
        refused.into_iter().for_each(|row| tally.borrow_mut().refuse(row));
        pipes.send(rows).await;
        let more = match then {
            Then::More => body.go_on(held).await,
            Then::Hungry => body.feed(held).await,
            Then::Ended => break (None, next_index),
            // Nothing was handed on before the columns were known.
            Then::Refused(problem) => return Err(problem),
            Then::Stopped(problem) => break (Some(problem), next_index),
        };
        if let Err(problem) = more {
            break (Some(problem), next_index);
        }
    };
    body.release();
    pipes.finish().await?;
    let mut tally = tally.borrow_mut();
    match trouble {
        None => {
            let (mut response, answer) = tally.respond(app, request, began, Duration::ZERO);
            Ok(response.json(answer))
        }
        Some(problem) => {
            tally.leave_trail(request);
            Err(tally.partial(app, problem, next_index))
        }
    }
}

/// A body on its way from the socket to rows, with its charge.
struct Body {
    intake: Receiver<Taken>,
    /// Bytes taken from the socket at once.
    most: Rc<Cell<usize>>,
    parser: Parser,
    share: Rc<Share>,
    /// Charge for text.
    text: usize,
    /// Charge for the pieces that a thread of its own makes ahead: nothing while it waits.
    ahead: usize,
}

impl Body {
    fn new(payload: Payload, feed: Feed, share: Rc<Share>) -> Self {
        let most = Rc::new(Cell::new(HERE_BYTES));
        let intake = intake(payload, STALLED_MAX, Rc::clone(&most));
        Self { intake, most, parser: Parser::new(feed), share, text: 0, ahead: 0 }
    }

    async fn piece(&mut self) -> Result<Piece, Problem> {
        self.parser.piece().await
    }

    /// Charges the bytes that are held now; other bodies may wait for bytes that were freed.
    async fn charge(&mut self, held: usize) -> Result<(), Problem> {
        if let Some(more) = held.checked_sub(self.text) {
            self.share.grow(more, Instant::now() + STALLED_MAX).await?;
        } else {
            self.share.shrink(self.text - held);
        }
        self.text = held;
        Ok(())
    }

    /// Continues with text that has arrived and is not parsed yet.
    async fn go_on(&mut self, held: usize) -> Result<(), Problem> {
        self.charge(held).await?;
        if !self.parser.is_apart() && self.may_go_ahead() {
            self.most.set(INTAKE_BYTES);
            self.parser.go_apart(false);
        }
        if !self.parser.is_apart() {
            // Other requests wait for this thread.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// True if there is room for the pieces that a thread of its own makes ahead.
    fn may_go_ahead(&mut self) -> bool {
        if self.ahead == 0 && self.share.try_grow(AHEAD_BYTES) {
            self.ahead = AHEAD_BYTES;
        }
        self.ahead > 0
    }

    async fn come_back(&mut self) -> Result<(), Problem> {
        self.most.set(HERE_BYTES);
        self.parser.come_back().await
    }

    /// All text is parsed: waits for the client to bring more.
    async fn feed(&mut self, held: usize) -> Result<(), Problem> {
        self.share.shrink(std::mem::take(&mut self.ahead));
        self.charge(held).await?;
        match self.taken().await? {
            Taken::Bytes(parts) => {
                let bytes = parts.iter().map(Bytes::len).sum();
                self.share.bring(bytes);
                self.charge(held + bytes).await?;
                self.choose_place(bytes).await?;
                self.parser.push(Some(parts)).await;
            }
            Taken::End => self.parser.push(None).await,
            Taken::Trouble(problem) => return Err(problem),
        }
        Ok(())
    }

    /// Moves the parser to a thread of its own if much has arrived, and there is room for that.
    async fn choose_place(&mut self, bytes: usize) -> Result<(), Problem> {
        let is_apart = self.parser.is_apart();
        let goes_apart = (is_apart || bytes >= HERE_BYTES) && self.may_go_ahead();
        match (is_apart, goes_apart) {
            (false, true) => {
                self.most.set(INTAKE_BYTES);
                self.parser.go_apart(true);
            }
            (true, false) => self.come_back().await?,
            (true, true) | (false, false) => {}
        }
        Ok(())
    }

    async fn taken(&mut self) -> Result<Taken, Problem> {
        if self.parser.is_apart() {
            let soon = tokio::time::timeout(REST, self.intake.recv());
            if let Ok(taken) = self.share.unless_cut(soon).await? {
                return taken.ok_or_else(broke_off);
            }
            self.come_back().await?;
        }
        let taken = self.share.unless_cut(self.intake.recv()).await?;
        taken.ok_or_else(broke_off)
    }

    /// Stops reading; rows that were handed on are still stored.
    fn release(self) {
        let Self { intake, parser, share, text, ahead, .. } = self;
        drop((intake, parser));
        share.shrink(text + ahead);
    }
}

fn broke_off() -> Problem {
    Problem::new(Code::TSR101, "the body broke off").hint("send the rest from next_index")
}

/// What was taken from a body.
#[derive(Debug)]
pub enum Taken {
    /// Some of it.
    Bytes(Vec<Bytes>),
    /// Its end.
    End,
    /// It breaks off here.
    Trouble(Problem),
}

/// Reads a body from its socket, up to `most` bytes at once and a little ahead of its reader; a
/// body that brings nothing for `stalled_max` breaks off. Without a reader the server discards the
/// rest.
pub fn intake(payload: Payload, stalled_max: Duration, most: Rc<Cell<usize>>) -> Receiver<Taken> {
    let (sender, receiver) = channel(1);
    rt::spawn(take_all(payload, stalled_max, most, sender));
    receiver
}

async fn take_all(
    mut payload: Payload,
    stalled_max: Duration,
    most: Rc<Cell<usize>>,
    sender: Sender<Taken>,
) {
    let mut last = None;
    while last.is_none() {
        let mut parts = Parts::default();
        last = take(&mut payload, (stalled_max, most.get()), &mut parts).await;
        let parts = parts.finish();
        if !parts.is_empty() && sender.send(Taken::Bytes(parts)).await.is_err() {
            return;
        }
    }
    if let Some(last) = last {
        // Without a receiver the response was already sent.
        let _ = sender.send(last).await;
    }
}

/// Waits for bytes, and takes with them what is there already. Tells what comes after them, if it came with them.
async fn take(
    payload: &mut Payload,
    (stalled_max, most): (Duration, usize),
    parts: &mut Parts,
) -> Option<Taken> {
    let Ok(mut next) = tokio::time::timeout(stalled_max, payload.next()).await else {
        let detail = format!("the body brought nothing for {} s", stalled_max.as_secs());
        let problem = Problem::new(Code::TSR004, detail);
        return Some(Taken::Trouble(problem.hint("send the rest from next_index")));
    };
    let mut bytes = 0;
    loop {
        match next {
            Some(Ok(part)) => {
                bytes += part.len();
                parts.push(part);
            }
            Some(Err(_)) => return Some(Taken::Trouble(broke_off())),
            None => return Some(Taken::End),
        }
        if bytes >= most {
            return None;
        }
        next = payload.next().now_or_never()?;
    }
}

/// Parts of a body, with small ones joined.
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
