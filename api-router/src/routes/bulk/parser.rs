//! Parser: who takes a streamed body apart. A body that brings little is taken apart where it comes in, one that brings
//! much on a thread of its own.
//!
//! **Invariant:** what is taken apart where it comes in is a small piece at a time, for other requests wait meanwhile.
//! **Not here:** taking apart (`feed`), who decides where (`stream`).

use actix_web::web::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use super::feed::{Feed, PIECE_BYTES_MAX, Piece, Then};
use super::stream::HERE_BYTES;
use crate::problem::{Code, Problem};

/// Takes one body apart.
pub(super) enum Parser {
    Here(Box<Feed>),
    Apart(Apart),
    /// It is on its way from one to the other.
    Between,
}

/// A thread that may block, a piece ahead of whoever asks for it. It stays the same while much comes, so that it gets
/// the memory of its rows back when they are stored.
pub(super) struct Apart {
    bytes: Sender<Option<Vec<Bytes>>>,
    pieces: Receiver<Piece>,
    thread: JoinHandle<Option<Box<Feed>>>,
}

impl Parser {
    pub(super) fn new(feed: Feed) -> Self {
        Self::Here(Box::new(feed))
    }

    /// Whether it has a thread of its own.
    pub(super) fn is_apart(&self) -> bool {
        matches!(self, Self::Apart(_))
    }

    /// The next rows.
    pub(super) async fn piece(&mut self) -> Result<Piece, Problem> {
        match self {
            Self::Here(feed) => Ok(feed.piece(HERE_BYTES)),
            // It ends after its last piece only, or by a panic.
            Self::Apart(apart) => apart.pieces.recv().await.ok_or_else(died),
            Self::Between => Err(died()),
        }
    }

    /// Gives a hungry parser more, or tells it that there is no more.
    pub(super) async fn push(&mut self, bytes: Option<Vec<Bytes>>) {
        match self {
            Self::Here(feed) => push(feed, bytes),
            // One that has ended says so by its pieces.
            Self::Apart(apart) => drop(apart.bytes.send(bytes).await),
            Self::Between => {}
        }
    }

    /// Goes on on a thread of its own. One that is hungry has been given nothing since.
    pub(super) fn go_apart(&mut self, is_hungry: bool) {
        *self = match std::mem::replace(self, Self::Between) {
            Self::Here(feed) => Self::Apart(Apart::start(feed, is_hungry)),
            other @ (Self::Apart(_) | Self::Between) => other,
        };
    }

    /// Gives the thread of a hungry parser back.
    pub(super) async fn come_back(&mut self) -> Result<(), Problem> {
        match std::mem::replace(self, Self::Between) {
            Self::Apart(Apart { bytes, thread, pieces }) => {
                // It waits for more, and sees that there will be none.
                drop(bytes);
                let feed = thread.await.ok().flatten().ok_or_else(died)?;
                drop(pieces);
                *self = Self::Here(feed);
            }
            other @ (Self::Here(_) | Self::Between) => *self = other,
        }
        Ok(())
    }
}

impl Apart {
    fn start(feed: Box<Feed>, is_hungry: bool) -> Self {
        let (bytes, pushed) = channel(1);
        let (sender, pieces) = channel(1);
        let work = move || take_apart(feed, is_hungry, pushed, &sender);
        Self { bytes, pieces, thread: tokio::task::spawn_blocking(work) }
    }
}

/// Makes pieces until there is nothing more to make them of; gives a hungry feed back that gets nothing more.
fn take_apart(
    mut feed: Box<Feed>,
    mut is_hungry: bool,
    mut pushed: Receiver<Option<Vec<Bytes>>>,
    pieces: &Sender<Piece>,
) -> Option<Box<Feed>> {
    loop {
        if is_hungry {
            let Some(bytes) = pushed.blocking_recv() else { return Some(feed) };
            push(&mut feed, bytes);
        }
        let piece = feed.piece(PIECE_BYTES_MAX);
        is_hungry = matches!(piece.then, Then::Hungry);
        let goes_on = is_hungry || matches!(piece.then, Then::More);
        if pieces.blocking_send(piece).is_err() || !goes_on {
            return None;
        }
    }
}

fn push(feed: &mut Feed, bytes: Option<Vec<Bytes>>) {
    match bytes {
        Some(parts) => parts.into_iter().for_each(|part| feed.push(part)),
        None => feed.end(),
    }
}

fn died() -> Problem {
    Problem::new(Code::TSR500, "an internal error").outcome("unknown")
}
