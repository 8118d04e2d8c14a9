//! Parser thread: parses a streamed body either on the thread that receives it, which suits a small
//! body, or on a separate thread, which suits a large one, and moves between the two.
//!
//! **Invariant:** on the receiving thread, a body is parsed in small batches, because other
//! requests wait for that thread.
//! **Not here:** parsing (`row_reader`), the choice of the thread (`stream`).

use actix_web::web::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use super::row_reader::{BATCH_BYTES_MAX, ReaderState, RowBatch, RowReader};
use super::stream::INLINE_BYTES;
use crate::problem::{Code, Problem};

/// Parser of one body, on the receiving thread or on a separate one.
pub(super) enum Parser {
    Inline(Box<RowReader>),
    Threaded(ParserThread),
    /// Placeholder while the parser is moved from one thread to the other.
    Moving,
}

/// Separate thread, which may block and parses one batch ahead of the task that takes the batches.
/// It is kept while bytes keep arriving, so that it reuses the memory of its rows once they are
/// stored.
pub(super) struct ParserThread {
    bytes: Sender<Option<Vec<Bytes>>>,
    batches: Receiver<RowBatch>,
    thread: JoinHandle<Option<Box<RowReader>>>,
}

impl Parser {
    pub(super) fn new(reader: RowReader) -> Self {
        Self::Inline(Box::new(reader))
    }

    /// Returns true if the body is parsed on a separate thread.
    pub(super) fn has_thread(&self) -> bool {
        matches!(self, Self::Threaded(_))
    }

    /// Returns the next batch of rows.
    pub(super) async fn batch(&mut self) -> Result<RowBatch, Problem> {
        match self {
            Self::Inline(reader) => Ok(reader.batch(INLINE_BYTES)),
            // The channel is closed only after the last batch, or because the thread has panicked.
            Self::Threaded(thread) => thread.batches.recv().await.ok_or_else(died),
            Self::Moving => Err(died()),
        }
    }

    /// Passes received bytes, or with `None` the end of the body, to a parser that waits for input.
    pub(super) async fn push(&mut self, bytes: Option<Vec<Bytes>>) {
        match self {
            Self::Inline(reader) => push(reader, bytes),
            // If the thread has ended, `batch` reports that.
            Self::Threaded(thread) => drop(thread.bytes.send(bytes).await),
            Self::Moving => {}
        }
    }

    /// Moves the parser to a separate thread. `needs_input` is true if the reader waits for more
    /// bytes.
    pub(super) fn move_to_thread(&mut self, needs_input: bool) {
        *self = match std::mem::replace(self, Self::Moving) {
            Self::Inline(reader) => Self::Threaded(ParserThread::start(reader, needs_input)),
            other @ (Self::Threaded(_) | Self::Moving) => other,
        };
    }

    /// Moves the parser back to the receiving thread, and ends the separate thread. The parser must
    /// be waiting for input.
    pub(super) async fn move_inline(&mut self) -> Result<(), Problem> {
        match std::mem::replace(self, Self::Moving) {
            Self::Threaded(ParserThread { bytes, thread, batches }) => {
                // The thread waits for more bytes, and ends because there will be none.
                drop(bytes);
                let reader = thread.await.ok().flatten().ok_or_else(died)?;
                drop(batches);
                *self = Self::Inline(reader);
            }
            other @ (Self::Inline(_) | Self::Moving) => *self = other,
        }
        Ok(())
    }
}

impl ParserThread {
    fn start(reader: Box<RowReader>, needs_input: bool) -> Self {
        let (bytes, pushed) = channel(1);
        let (sender, batches) = channel(1);
        let work = move || parse_on_thread(reader, needs_input, pushed, &sender);
        Self { bytes, batches, thread: tokio::task::spawn_blocking(work) }
    }
}

/// Parses batches until the body ends. If the channel `pushed` is closed while the reader waits for
/// input, returns the reader.
fn parse_on_thread(
    mut reader: Box<RowReader>,
    mut needs_input: bool,
    mut pushed: Receiver<Option<Vec<Bytes>>>,
    batches: &Sender<RowBatch>,
) -> Option<Box<RowReader>> {
    loop {
        if needs_input {
            let Some(bytes) = pushed.blocking_recv() else { return Some(reader) };
            push(&mut reader, bytes);
        }
        let batch = reader.batch(BATCH_BYTES_MAX);
        needs_input = matches!(batch.state, ReaderState::NeedsInput);
        let goes_on = needs_input || matches!(batch.state, ReaderState::More);
        if batches.blocking_send(batch).is_err() || !goes_on {
            return None;
        }
    }
}

fn push(reader: &mut RowReader, bytes: Option<Vec<Bytes>>) {
    match bytes {
        Some(parts) => parts.into_iter().for_each(|part| reader.push(part)),
        None => reader.end(),
    }
}

fn died() -> Problem {
    Problem::new(Code::TSR500, "an internal error").outcome("unknown")
}
