//! Lane: a queue of writes to a shard's primary, in which waiting writes become one transaction.
//!
//! A lane consists of a bounded queue and a loop. The loop takes the waiting operations, as many as
//! fit into one batch, applies them in one durable transaction, and sends each operation its
//! result. The loop has its own thread if the engine's writer blocks, and is an async task if the
//! writer waits for a server. No write waits for a timer: while one batch is being committed, the
//! next one accumulates in the queue, so all writes of a batch share the cost of one sync to disk
//! (group commit, as in "Implementation Techniques for Main Memory Database Systems", DeWitt et al.
//! 1984).
//!
//! If operations of several tenants wait and they exceed one batch, [`engine::fair_channel`] fills
//! the batches from the tenants in turn.
//!
//! **Invariant:** at most one batch is in flight. Operations of one tenant on the same slots are
//! applied in the order in which they arrived. The result of an operation is sent only after its
//! transaction is durable. An operation is never taken from the queue for execution after its
//! deadline.
//! **Not here:** SQL (the engines), routing (`manager`).

mod lanes;
mod parts;
mod pulse;
mod refused_rows;
mod solo;
mod tally;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use engine::fair_channel::{FairLimits, FairSender, Queued, Refused};
use engine::fault_injector::NodeFault;
use engine::{LaneControls, WriteGroup, WriterKind, fair_channel};
pub use lanes::Lanes;
use model::error::{Error, Outcome};
use model::fair_share::FairShare;
use model::position::Position;
use model::row_change::{RowDone, RowWrite, WriteRequest};
use pulse::{Probe, Pulse};
pub use solo::SoloChanges;
use solo::SoloOperation;
use tally::Tally;
use worker::Worker;

/// Maximum number of queued operations. With more, the last ones would wait until their deadlines
/// had passed.
const QUEUE_MAX: usize = 4_096;
/// Maximum size in bytes of all queued rows together, so that large rows cannot exhaust memory.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Maximum number of operations in one transaction: large enough that each operation bears only a
/// small part of the cost of a sync, and small enough that transactions stay short.
const BATCH_OPERATIONS_MAX: usize = 512;
/// Maximum size in bytes of the rows in one transaction. The last operation may exceed it.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Longest wait for a lane's task to end after the lane was stopped.
const END_MAX: Duration = Duration::from_secs(30);
/// Interval at which an operation that waits for room in a full queue tries again. It takes much
/// longer than this to empty a full queue.
const ROOM_LOOK: Duration = Duration::from_millis(5);

/// A queue of writes and the loop that applies them.
pub struct Lane {
    shard: String,
    controls: LaneControls,
    queue: FairSender<Message>,
    queued_bytes: Arc<AtomicUsize>,
    state: Arc<State>,
    end: Mutex<Option<End>>,
}

/// State that the loop shares with the sending side of the queue.
#[derive(Debug, Default)]
struct State {
    shard: String,
    /// True while no node accepts writes and queued operations wait for one that does.
    waits: AtomicBool,
    /// True once the lane stops: queued operations no longer wait for a node.
    stops: AtomicBool,
    /// Counters of the work done.
    tally: Tally,
    /// Progress of the lane's loop.
    pulse: Pulse,
}

/// Handle with which `Lane::stop` waits until the loop has ended.
enum End {
    Thread(JoinHandle<()>),
    /// Channel without messages, which closes when the task or its runtime ends.
    Task(std::sync::mpsc::Receiver<()>),
}

enum Message {
    Operation(Operation),
    /// Change of the tables, of the slots or of a move. It is applied alone, after all operations
    /// that were queued earlier and before all that are queued later.
    Solo(SoloOperation),
    /// Check of the loop's progress, which waits its turn like a write and changes nothing.
    Probe(Probe),
    Stop,
}

impl Queued for Message {
    fn share(&self) -> Option<(FairShare, usize)> {
        match self {
            Self::Operation(operation) => Some((operation.request.share, operation.bytes)),
            Self::Probe(_) => Some((FairShare::COMMON, 0)),
            Self::Solo(_) | Self::Stop => None,
        }
    }
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

/// Result of an operation that was executed.
#[derive(Debug)]
pub struct Applied {
    /// Results of the rows, in order.
    pub rows: Vec<Result<RowDone, Error>>,
    /// Position of the shard after the transaction.
    pub position: Position,
    /// Time in the queue and in the transaction.
    pub times: LaneTimes,
    /// The request, returned if the shard refused the slot of one of its rows, so that the refused
    /// rows can be sent again.
    pub refused: Option<Box<WriteRequest>>,
}

/// Durations of the phases of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneTimes {
    /// Time in the queue.
    pub queue: Duration,
    /// Time in the transaction, sync included.
    pub database: Duration,
}

impl LaneTimes {
    /// Returns the total times of two operations, one of which ran after the other.
    #[must_use]
    pub fn and_then(self, next: Self) -> Self {
        Self { queue: self.queue + next.queue, database: self.database + next.database }
    }

    /// Returns the times of the slower of two concurrent operations.
    #[must_use]
    pub fn slower(self, other: Self) -> Self {
        if other.queue + other.database > self.queue + self.database { other } else { self }
    }
}

/// Failure of an operation that was not applied, or whose outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneFailure {
    /// Reason of the failure.
    pub error: Error,
    /// Outcome for the rows: rejected or unknown.
    pub outcome: Outcome,
}

/// Decision about a queued operation: either the lane takes it for execution or its client abandons
/// it, whichever happens first.
#[derive(Debug, Default)]
struct Claim(AtomicU8);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const ABANDONED: u8 = 2;

impl Claim {
    fn decide(&self, to: u8) -> bool {
        self.0.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Returns an operation of which nothing was stored to the waiting state, so that its client
    /// may abandon it again.
    fn put_back(&self) {
        let (set, seen) = (Ordering::AcqRel, Ordering::Acquire);
        // This succeeds for every operation that was taken: only the lane changes its state.
        let _ = self.0.compare_exchange(TAKEN, WAITING, set, seen);
    }

    /// Abandons the operation for its client. If the lane has not taken it yet, the lane never
    /// will, so the operation is rejected; otherwise its outcome is unknown.
    fn give_up(&self, error: Error) -> LaneFailure {
        let outcome = if self.decide(ABANDONED) { Outcome::Rejected } else { Outcome::Unknown };
        LaneFailure { error, outcome }
    }
}

impl Lane {
    /// Starts a lane with this writer: on a new thread, or as a task on the runtime that comes with
    /// the writer.
    ///
    /// # Errors
    /// The error of the operating system if no thread can be started.
    pub fn start(shard: &str, writer: WriterKind, controls: LaneControls) -> std::io::Result<Self> {
        let (queue, waiting) = fair_channel::channel(FairLimits {
            operations: QUEUE_MAX,
            bytes: QUEUE_BYTES_MAX,
            batch_operations: BATCH_OPERATIONS_MAX,
            batch_bytes: BATCH_BYTES_MAX,
        });
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

    /// Returns the controls of the lane.
    pub fn controls(&self) -> &LaneControls {
        &self.controls
    }

    /// Applies rows as one operation and waits for the durable outcome, at most until `deadline`.
    ///
    /// Cancel safety: dropping the future does not cancel a queued operation: it is still applied,
    /// unless its deadline passes first, or it is dropped while no node accepts writes.
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

    /// Returns the reason why an operation was not applied in time.
    fn late(&self) -> Error {
        if self.waits() {
            Error::NoPrimary { shard: self.shard.clone() }
        } else if self.is_stuck() {
            Error::WritesStalled { shard: self.shard.clone() }
        } else {
            Error::DeadlinePassed
        }
    }

    /// Returns true while no node accepts writes and queued operations wait for one.
    pub fn waits(&self) -> bool {
        self.state.waits.load(Ordering::SeqCst)
    }

    /// Queues an operation. If its request sets `waits_for_room`, waits until a full queue has room
    /// for its tenant, but not past the deadline of the operation.
    async fn enqueue(&self, mut operation: Operation) -> Result<(), LaneFailure> {
        loop {
            let Some((back, error)) = self.try_enqueue(operation) else { return Ok(()) };
            let waits = back.request.waits_for_room
                && matches!(error, Error::QueueFull { .. } | Error::QueueShareExceeded { .. })
                && Instant::now() + ROOM_LOOK < back.deadline;
            if !waits {
                if matches!(error, Error::QueueShareExceeded { .. }) {
                    self.state.tally.refuse();
                }
                return Err(LaneFailure { error, outcome: Outcome::Rejected });
            }
            operation = back;
            tokio::time::sleep(ROOM_LOOK).await;
        }
    }

    /// Queues an operation. If the queue does not accept the operation, returns it with the reason.
    fn try_enqueue(&self, operation: Operation) -> Option<(Operation, Error)> {
        let full = || Error::QueueFull { shard: self.shard.clone() };
        let bytes = operation.bytes;
        let queued_bytes = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if queued_bytes > QUEUE_BYTES_MAX {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Some((operation, full()));
        }
        let sent = self.queue.try_send(Message::Operation(operation), queued_bytes);
        let (message, error) = match sent {
            Ok(()) => return None,
            Err(Refused::Full(message)) => (message, full()),
            Err(Refused::Share(message)) => {
                (message, Error::QueueShareExceeded { shard: self.shard.clone() })
            }
            Err(Refused::Closed(message)) => {
                (message, Error::ShardUnavailable { shard: self.shard.clone() })
            }
        };
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        match message {
            Message::Operation(operation) => Some((operation, error)),
            Message::Solo(_) | Message::Probe(_) | Message::Stop => {
                unreachable!("the queue returns the message that was sent")
            }
        }
    }

    /// Returns true while the loop runs.
    pub fn is_up(&self) -> bool {
        !self.queue.is_closed()
    }

    /// Returns the interface for changes that are applied alone.
    pub fn solo(&self) -> SoloChanges<'_> {
        SoloChanges(self)
    }

    /// Lets the loop apply the queued operations, close the writer and end. Blocks until then; if
    /// the loop is a task, at most for `END_MAX`.
    pub fn stop(&self) {
        let Some(end) = self.end.lock().ok().and_then(|mut end| end.take()) else { return };
        self.controls.fault_injector.set(NodeFault::default());
        self.state.stops.store(true, Ordering::SeqCst);
        let began = Instant::now();
        while let Err(Refused::Full(_)) = self.queue.try_send(Message::Stop, 0) {
            // A thread is joined below in any case, so there is no limit on the wait for it.
            if matches!(end, End::Task(_)) && began.elapsed() >= END_MAX {
                return;
            }
            std::thread::sleep(ROOM_LOOK);
        }
        match end {
            // Errors are ignored: they mean that the loop has ended, or that `END_MAX` has passed.
            End::Thread(thread) => drop(thread.join()),
            End::Task(ended) => drop(ended.recv_timeout(END_MAX.saturating_sub(began.elapsed()))),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.stop();
    }
}
