//! Lane: the one way to a shard's primary, where waiting writes become one transaction.
//!
//! A bounded queue and a loop: take everything that waits, apply it in one durable transaction, answer each
//! operation. The loop is a thread if the writer blocks, and a task if it waits for a server.
//! Nothing waits on a timer: while one batch is committed, the next gathers by itself, so the price
//! of a sync is shared by all who wait (group commit, as in "Implementation Techniques for Main
//! Memory Database Systems", DeWitt et al. 1984).
//!
//! **Invariant:** one batch is in flight; operations are applied in the order in which they came; an
//! operation is answered after its transaction is durable, and never taken after its deadline.
//! **Not here:** SQL (the engines), routing (`manager`).

mod pulse;
mod schema;
mod tally;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use engine::fault_injector::NodeFault;
use engine::{LaneControls, WriteGroup, WriterKind};
use model::error::{Error, Outcome};
use model::position::Position;
use model::row_change::{RowDone, RowWrite, WriteRequest};
use pulse::{Probe, Pulse};
use schema::SchemaOperation;
use tally::Tally;
use worker::Worker;

/// Operations that may wait for one shard. More would only wait past their deadlines.
const QUEUE_MAX: usize = 4_096;
/// Bytes of rows that may wait for one shard, so that a queue of large rows cannot fill memory.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Operations of one transaction: enough to make the sync's share small, few enough to answer soon.
const BATCH_OPERATIONS_MAX: usize = 512;
/// Bytes of rows in one transaction.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How long a lane's task may take to end once it was told to.
const END_MAX: Duration = Duration::from_secs(30);
/// How often a patient operation looks whether a full queue has room again. A full queue takes far longer to
/// empty.
const ROOM_LOOK: Duration = Duration::from_millis(5);

/// A queue of writes and the loop that applies them.
pub struct Lane {
    shard: String,
    controls: LaneControls,
    queue: mpsc::Sender<Message>,
    queued_bytes: Arc<AtomicUsize>,
    state: Arc<State>,
    end: Mutex<Option<End>>,
}

/// What the loop and the queue's other end tell each other.
#[derive(Debug, Default)]
struct State {
    shard: String,
    /// There is no node to write to now: what is queued waits for one.
    waits: AtomicBool,
    /// What is queued is not to be waited for.
    stops: AtomicBool,
    /// What the loop has done.
    tally: Tally,
    /// Progress of the lane's loop.
    pulse: Pulse,
}

/// How the end of a lane is awaited.
enum End {
    Thread(JoinHandle<()>),
    /// Nothing is ever sent: it closes as the task ends, or its runtime.
    Task(std::sync::mpsc::Receiver<()>),
}

enum Message {
    Operation(Operation),
    /// Stands alone: what came before it is applied before, what comes after it after.
    Schema(SchemaOperation),
    /// Probe: waits its turn like a write and changes nothing.
    Probe(Probe),
    Stop,
}

/// One client's write, or one chunk of a bulk write.
struct Operation {
    request: WriteRequest,
    bytes: usize,
    queued_at: Instant,
    deadline: Instant,
    claim: Arc<Claim>,
    reply: oneshot::Sender<Result<Applied, LaneFailure>>,
}

impl Operation {
    fn group(&self) -> WriteGroup<'_> {
        WriteGroup { rows: &self.request.rows, atomic_rows: self.request.atomic_rows.as_deref() }
    }
}

/// What became of an operation that was executed.
#[derive(Debug)]
pub struct Applied {
    /// For each row, in order.
    pub rows: Vec<Result<RowDone, Error>>,
    /// The shard's position that holds them.
    pub position: Position,
    /// How long it waited, and how long its transaction took.
    pub times: LaneTimes,
}

/// Where an operation's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneTimes {
    /// In the queue.
    pub queue: Duration,
    /// In the transaction, sync included.
    pub database: Duration,
}

impl LaneTimes {
    /// Those of one operation after another.
    #[must_use]
    pub fn and_then(self, next: Self) -> Self {
        Self { queue: self.queue + next.queue, database: self.database + next.database }
    }

    /// Those of the slower of two that ran beside each other.
    #[must_use]
    pub fn slower(self, other: Self) -> Self {
        if other.queue + other.database > self.queue + self.database { other } else { self }
    }
}

/// An operation that was not applied, or whose fate is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneFailure {
    /// Why.
    pub error: Error,
    /// What became of its rows.
    pub outcome: Outcome,
}

/// Who decides over a queued operation: the lane that takes it, or the client that gives up on it.
#[derive(Debug, Default)]
struct Claim(AtomicU8);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const ABANDONED: u8 = 2;

impl Claim {
    fn decide(&self, to: u8) -> bool {
        self.0.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The lane's: nothing was stored of what it took, so its client may give it up again.
    fn put_back(&self) {
        let (set, seen) = (Ordering::AcqRel, Ordering::Acquire);
        // Nobody but the lane changes what it has taken.
        let _ = self.0.compare_exchange(TAKEN, WAITING, set, seen);
    }

    /// The client's end: what was not taken never will be.
    fn give_up(&self, error: Error) -> LaneFailure {
        let outcome = if self.decide(ABANDONED) { Outcome::Rejected } else { Outcome::Unknown };
        LaneFailure { error, outcome }
    }
}

impl Lane {
    /// Starts a lane over this writer: a thread, or a task on the runtime of its handle.
    ///
    /// # Errors
    /// The system's, if it cannot start a thread.
    pub fn start(shard: &str, writer: WriterKind, controls: LaneControls) -> std::io::Result<Self> {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let state = Arc::new(State { shard: shard.to_owned(), ..State::default() });
        let shared = (&queued_bytes, &state);
        let end = match writer {
            WriterKind::Thread(writer) => {
                let worker = Worker::of_thread(writer, waiting, shared);
                let obeyed = controls.clone();
                let thread = std::thread::Builder::new().name(format!("lane-{shard}"));
                End::Thread(thread.spawn(move || worker.run(&obeyed))?)
            }
            WriterKind::Task(writer, runtime) => {
                let (lives, ended) = std::sync::mpsc::channel();
                let worker = Worker::of_task(writer, waiting, shared, lives);
                worker.spawn(Arc::clone(&controls.fault_injector), runtime);
                End::Task(ended)
            }
        };
        let (shard, end) = (shard.to_owned(), Mutex::new(Some(end)));
        Ok(Self { shard, controls, queue, queued_bytes, state, end })
    }

    /// Returns its controls.
    pub fn controls(&self) -> &LaneControls {
        &self.controls
    }

    /// Applies rows as one operation and waits for the durable outcome, at most until `deadline`.
    ///
    /// Cancel safety: a dropped future cancels nothing; what was queued is applied.
    ///
    /// # Errors
    /// [`LaneFailure`]; its outcome is unknown only if the transaction had begun.
    pub async fn apply(
        &self,
        request: impl Into<WriteRequest>,
        deadline: Instant,
    ) -> Result<Applied, LaneFailure> {
        let request = request.into();
        let bytes = request.rows.iter().map(RowWrite::bytes).sum();
        let (reply, answer) = oneshot::channel();
        let claim = Arc::new(Claim::default());
        let queued_at = Instant::now();
        let operation =
            Operation { request, bytes, queued_at, deadline, claim: Arc::clone(&claim), reply };
        self.enqueue(operation).await?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_gone)) => {
                Err(claim.give_up(Error::ShardUnavailable { shard: self.shard.clone() }))
            }
            Err(_elapsed) => Err(claim.give_up(self.late())),
        }
    }

    /// Why an operation was not applied in time.
    fn late(&self) -> Error {
        if self.waits() {
            Error::NoPrimary { shard: self.shard.clone() }
        } else if self.is_stuck() {
            Error::WritesStalled { shard: self.shard.clone() }
        } else {
            Error::DeadlinePassed
        }
    }

    /// Whether there is no node to write to now, so that what is queued waits for one.
    pub fn waits(&self) -> bool {
        self.state.waits.load(Ordering::SeqCst)
    }

    /// Puts an operation into the queue. A patient one waits until there is room, but not past its deadline.
    async fn enqueue(&self, mut operation: Operation) -> Result<(), LaneFailure> {
        loop {
            let Some((back, error)) = self.try_enqueue(operation) else { return Ok(()) };
            let waits = back.request.waits_for_room
                && matches!(error, Error::QueueFull { .. })
                && Instant::now() + ROOM_LOOK < back.deadline;
            if !waits {
                return Err(LaneFailure { error, outcome: Outcome::Rejected });
            }
            operation = back;
            tokio::time::sleep(ROOM_LOOK).await;
        }
    }

    /// Gives back an operation that the queue does not take, and says why.
    fn try_enqueue(&self, operation: Operation) -> Option<(Operation, Error)> {
        let full = || Error::QueueFull { shard: self.shard.clone() };
        let bytes = operation.bytes;
        if self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > QUEUE_BYTES_MAX {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Some((operation, full()));
        }
        let (message, error) = match self.queue.try_send(Message::Operation(operation)) {
            Ok(()) => return None,
            Err(TrySendError::Full(message)) => (message, full()),
            Err(TrySendError::Closed(message)) => {
                (message, Error::ShardUnavailable { shard: self.shard.clone() })
            }
        };
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        match message {
            Message::Operation(operation) => Some((operation, error)),
            Message::Schema(_) | Message::Probe(_) | Message::Stop => {
                unreachable!("what was sent is what comes back")
            }
        }
    }

    /// Whether its loop runs.
    pub fn is_up(&self) -> bool {
        !self.queue.is_closed()
    }

    /// Applies what is queued, closes the writer and ends the loop. Blocks.
    pub fn stop(&self) {
        let Some(end) = self.end.lock().ok().and_then(|mut end| end.take()) else { return };
        self.controls.fault_injector.set(NodeFault::default());
        self.state.stops.store(true, Ordering::SeqCst);
        while let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Stop) {
            std::thread::sleep(ROOM_LOOK);
        }
        match end {
            // An error means that it is gone already.
            End::Thread(thread) => drop(thread.join()),
            End::Task(ended) => drop(ended.recv_timeout(END_MAX)),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.stop();
    }
}
