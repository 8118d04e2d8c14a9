//! Parser: chooses the thread that parses a streamed body. A small body is parsed where it arrives,
//! a large one on a thread of its own.
//!
//! **Invariant:** a body that is parsed where it arrives is parsed in small pieces, because other
//! requests wait meanwhile.
//! **Not here:** parsing (`row_reader`), the choice of the thread (`stream`).

use actix_web::web::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use super::row_reader::{Feed, PIECE_BYTES_MAX, Piece, Then};
use super::stream::HERE_BYTES;
use crate::problem::{Code, Problem};

/// Parser of one body.
pub(super) enum Parser {
    Here(Box<Feed>),
    Apart(Apart),
    /// Moving from one to the other.
    Between,
}

/// Blocking thread that works one piece ahead of its reader. It stays the same while much arrives,
/// so that it reuses the memory of its rows once they are stored.
pub(super) struct Apart {
    bytes: Sender<Option<Vec<Bytes>>>,
    pieces: Receiver<Piece>,
    thread: JoinHandle<Option<Box<Feed>>>,
}

impl Parser {
    pub(super) fn new(feed: Feed) -> Self {
        Self::Here(Box::new(feed))
    }

    /// True if it has a thread of its own.
    pub(super) fn is_apart(&self) -> bool {
        matches!(self, Self::Apart(_))
    }

    /// Returns the next rows.
    pub(super) async fn piece(&mut self) -> Result<Piece, Problem> {
        match self {
            Self::Here(feed) => Ok(feed.piece(HERE_BYTES)),
            // The thread ends only after its last piece, or by a panic.
            Self::Apart(apart) => apart.pieces.recv().await.ok_or_else(died),
            Self::Between => Err(died()),
        }
    }

    /// Gives a hungry parser more text, or the end of the body.
    pub(super) async fn push(&mut self, bytes: Option<Vec<Bytes>>) {
        match self {
            Self::Here(feed) => push(feed, bytes),
            // A thread that has ended reports that by its pieces.
            Self::Apart(apart) => drop(apart.bytes.send(bytes).await),
            Self::Between => {}
        }
    }

    /// Continues on a thread of its own. A hungry feed has been given nothing since.
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
                // The thread waits for more, and sees that nothing will come.
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

/// Makes pieces until there is no more text; returns a hungry feed that is given nothing more.
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
