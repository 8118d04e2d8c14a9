//! Streamed bodies of bulk writes: NDJSON and CSV of any length, in bounded memory.
//!
//! Three things go on at once, and each waits for the next when that is slower: bytes are taken from the socket, a
//! piece of them is taken apart, and each shard stores its rows of the pieces before.
//!
//! **Invariant:** of one shard at most one chunk is being stored and one waits, in the order of the body; when they
//! do not go on, nothing more is read from the socket.
//! **Not here:** what a row is (`row`, `feed`).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::web::{Bytes, Data, Payload, block};
use actix_web::{HttpResponse, rt};
use futures_util::{FutureExt, StreamExt};
use shard_manager::manager::{BulkRow, Wish};
use shard_manager::topology::ShardIndex;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use super::answer::Tally;
use super::feed::{Feed, Piece, Shape, Then};
use crate::app::App;
use crate::problem::{Code, Problem};

/// How long a body may bring nothing.
pub const STALLED_MAX: Duration = Duration::from_secs(30);
/// Bytes taken from the socket at once.
const INTAKE_BYTES: usize = 256 << 10;
/// Carries out a streamed body.
pub(super) async fn write_stream(
    app: &Data<App>,
    payload: Payload,
    shape: Shape,
    wish: &Wish,
    began: Instant,
) -> Result<HttpResponse, Problem> {
    let patience = wish.deadline.saturating_duration_since(began);
    let mut intake = intake(payload, STALLED_MAX);
    let mut feed = Feed::new(app.clone(), shape);
    let tally = Rc::new(RefCell::new(Tally::new(app, wish.session.clone())));
    let mut pipes = Pipes::new(app, wish, patience, &tally);
    let mut trouble = None;
    loop {
        let (fed, piece) = parse(feed).await?;
        feed = fed;
        for refused in piece.refused {
            tally.borrow_mut().refuse(refused);
        }
        pipes.send(piece.rows).await;
        match piece.then {
            Then::More => {}
            Then::Ended => break,
            // Nothing was handed on before the columns were known.
            Then::Refused(problem) => return Err(problem),
            Then::Stopped(problem) => {
                trouble = Some(problem);
                break;
            }
            Then::Hungry => match intake.recv().await {
                Some(Taken::Bytes(bytes)) => bytes.into_iter().for_each(|part| feed.push(part)),
                Some(Taken::End) => feed.end(),
                Some(Taken::Trouble(problem)) => {
                    trouble = Some(problem);
                    break;
                }
                None => {
                    trouble = Some(broke_off());
                    break;
                }
            },
        }
    }
    drop(intake);
    pipes.finish().await?;
    let mut tally = tally.borrow_mut();
    match trouble {
        None => {
            let (mut response, answer) = tally.respond(app, began, Duration::ZERO);
            Ok(response.json(answer))
        }
        Some(problem) => Err(tally.partial(app, problem, feed.next_index)),
    }
}

/// Takes a piece apart on a thread that may block.
async fn parse(mut feed: Feed) -> Result<(Feed, Piece), Problem> {
    let parsed = block(move || {
        let piece = feed.piece();
        (feed, piece)
    });
    parsed.await.map_err(|_| Problem::new(Code::TSR500, "an internal error"))
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

/// The ways to the shards: each with a chunk that waits and one that is being stored.
struct Pipes {
    senders: Vec<Sender<Vec<BulkRow>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Pipes {
    fn new(app: &Data<App>, wish: &Wish, patience: Duration, tally: &Rc<RefCell<Tally>>) -> Self {
        let count = app.manager.map().topology().len();
        let pipes = (0..).map(ShardIndex).take(count).map(|shard| {
            let (sender, mut chunks) = channel::<Vec<BulkRow>>(1);
            let (app, mut wish, tally) = (app.clone(), wish.clone(), Rc::clone(tally));
            let task = rt::spawn(async move {
                while let Some(rows) = chunks.recv().await {
                    wish.deadline = Instant::now() + patience;
                    let (done, position) = app.manager.write_chunk(shard, rows, &wish).await;
                    let mut tally = tally.borrow_mut();
                    tally.add(&app, done);
                    tally.see(&app, shard, position);
                }
            });
            (sender, task)
        });
        let (senders, tasks) = pipes.unzip();
        Self { senders, tasks }
    }

    /// Hands the rows of a piece on, and waits where there is no room.
    async fn send(&mut self, rows: Vec<BulkRow>) {
        let mut chunks: Vec<Vec<BulkRow>> = self.senders.iter().map(|_| Vec::new()).collect();
        for row in rows {
            chunks[row.place.shard.index()].push(row);
        }
        let chunks = self.senders.iter().zip(chunks).filter(|(_, chunk)| !chunk.is_empty());
        // A pipe ends only when its sender is gone.
        let sent = chunks.map(async |(sender, chunk)| sender.send(chunk).await.is_ok());
        futures_util::future::join_all(sent).await;
    }

    /// Waits until all that was handed on is carried out.
    async fn finish(self) -> Result<(), Problem> {
        drop(self.senders);
        let ended = futures_util::future::join_all(self.tasks).await;
        if ended.iter().all(Result::is_ok) {
            return Ok(());
        }
        Err(Problem::new(Code::TSR500, "an internal error").outcome("unknown"))
    }
}
