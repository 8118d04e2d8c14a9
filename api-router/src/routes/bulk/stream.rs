//! Streamed bodies of bulk writes: NDJSON and CSV of any length, in bounded memory.
//!
//! Three things go on at once, and each waits for the next when that is slower: bytes are taken from the socket, a
//! piece of them is taken apart, and each shard stores its rows of the pieces before.
//!
//! **Invariant:** when the shards do not go on, nothing more is read from the socket.
//! **Not here:** what a row is (`row`, `feed`), how shards store them (`pipes`).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse, rt};
use futures_util::{FutureExt, StreamExt};
use shard_manager::manager::Wish;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::answer::Tally;
use super::feed::{Feed, Piece, Shape, Then};
use super::pipes::Pipes;
use crate::app::App;
use crate::problem::{Code, Problem};

/// How long a body may bring nothing.
pub const STALLED_MAX: Duration = Duration::from_secs(30);
/// Bytes taken from the socket at once.
const INTAKE_BYTES: usize = 256 << 10;

/// Carries out a streamed body, holding as many bytes of rows as `window`.
pub(super) async fn write_stream(
    app: &Data<App>,
    request: &HttpRequest,
    payload: Payload,
    shape: Shape,
    (wish, window): (&Wish, usize),
    began: Instant,
) -> Result<HttpResponse, Problem> {
    let patience = wish.deadline.saturating_duration_since(began);
    let mut intake = intake(payload, STALLED_MAX);
    let mut parser = Parser::start(Feed::new(app.clone(), shape));
    let tally = Rc::new(RefCell::new(Tally::new(app, wish.session.clone())));
    let pipes = Pipes::new(app, wish, (window, patience), &tally);
    let (trouble, next_index) = loop {
        let Piece { rows, refused, next_index, then } = parser.piece().await?;
        refused.into_iter().for_each(|row| tally.borrow_mut().refuse(row));
        pipes.send(rows).await;
        match then {
            Then::More => {}
            Then::Ended => break (None, next_index),
            // Nothing was handed on before the columns were known.
            Then::Refused(problem) => return Err(problem),
            Then::Stopped(problem) => break (Some(problem), next_index),
            Then::Hungry => match intake.recv().await {
                Some(Taken::Bytes(bytes)) => parser.push(Some(bytes)).await,
                Some(Taken::End) => parser.push(None).await,
                Some(Taken::Trouble(problem)) => break (Some(problem), next_index),
                None => break (Some(broke_off()), next_index),
            },
        }
    };
    drop((intake, parser));
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

/// Takes a body apart on a thread that may block, a piece ahead of whoever asks for it. It is one thread for the
/// whole body, so that it gets the memory of its rows back when they are stored.
struct Parser {
    bytes: Sender<Option<Vec<Bytes>>>,
    pieces: Receiver<Piece>,
}

impl Parser {
    fn start(mut feed: Feed) -> Self {
        let (bytes, mut pushed) = channel::<Option<Vec<Bytes>>>(1);
        let (sender, pieces) = channel(1);
        let work = move || {
            loop {
                let piece = feed.piece();
                let (is_hungry, goes_on) =
                    (matches!(piece.then, Then::Hungry), matches!(piece.then, Then::More));
                if sender.blocking_send(piece).is_err() {
                    return;
                }
                if is_hungry {
                    match pushed.blocking_recv() {
                        Some(Some(parts)) => parts.into_iter().for_each(|part| feed.push(part)),
                        Some(None) => feed.end(),
                        None => return,
                    }
                } else if !goes_on {
                    return;
                }
            }
        };
        tokio::task::spawn_blocking(work);
        Self { bytes, pieces }
    }

    async fn piece(&mut self) -> Result<Piece, Problem> {
        let piece = self.pieces.recv().await;
        // It ends after its last piece only, or by a panic.
        piece.ok_or_else(|| Problem::new(Code::TSR500, "an internal error").outcome("unknown"))
    }

    /// Gives a hungry parser more, or tells it that there is no more.
    async fn push(&self, bytes: Option<Vec<Bytes>>) {
        // One that has ended says so by its pieces.
        let _ = self.bytes.send(bytes).await;
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

/// Takes a body from its socket, a little ahead of whoever receives it; one that brings nothing for `stalled_max`
/// breaks off. When nobody receives any more, the server throws the rest away.
pub fn intake(mut payload: Payload, stalled_max: Duration) -> Receiver<Taken> {
    let (sender, receiver) = channel(1);
    rt::spawn(async move {
        let mut last = None;
        while last.is_none() {
            let mut parts = Vec::new();
            last = take(&mut payload, stalled_max, &mut parts).await;
            if !parts.is_empty() && sender.send(Taken::Bytes(parts)).await.is_err() {
                return;
            }
        }
        if let Some(last) = last {
            // Whoever does not receive it has an answer already.
            let _ = sender.send(last).await;
        }
    });
    receiver
}

/// Waits for bytes, and takes with them what is there already. Tells what comes after them, if it came with them.
async fn take(
    payload: &mut Payload,
    stalled_max: Duration,
    parts: &mut Vec<Bytes>,
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
        if bytes >= INTAKE_BYTES {
            return None;
        }
        next = payload.next().now_or_never()?;
    }
}
