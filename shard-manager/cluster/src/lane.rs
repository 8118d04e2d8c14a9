//! Lane: the queue of writes to a shard's primary, where waiting writes become one transaction.
//!
//! A bounded queue and a loop: take everything that waits, apply it in one durable transaction,
//! answer each operation. The loop is a thread if the writer blocks, and a task if it waits for a
//! server. Nothing waits for a timer: while one batch is committed, the next one gathers, so that
//! all waiting writes share the cost of a sync (group commit, as in "Implementation Techniques for
//! Main Memory Database Systems", DeWitt et al. 1984).
//!
//! If operations of several tenants wait, and more than one batch, batches are filled in turns of
//! the tenants by [`engine::fair_channel`].
//!
//! **Invariant:** one batch is in flight; operations of one tenant on the same slots are applied in
//! the order of their arrival; an operation is answered after its transaction is durable, and is
//! never taken after its deadline.
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

/// Highest number of queued operations. More would only wait past their deadlines.
const QUEUE_MAX: usize = 4_096;
/// Highest size of all queued rows, so that large rows cannot fill memory.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Highest number of operations in one transaction: enough that each one's share of the sync is
/// small, few enough for short transactions.
const BATCH_OPERATIONS_MAX: usize = 512;
/// Highest size of the rows in one transaction.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Longest wait for a lane's task to end after it was stopped.
const END_MAX: Duration = Duration::from_secs(30);
/// Interval at which an operation that waits for room tries a full queue again. A full queue takes
/// much longer to empty.
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

/// State that the loop shares with the sender of the queue.
#[derive(Debug, Default)]
struct State {
    shard: String,
    /// True while no node accepts writes: queued operations wait for one.
    waits: AtomicBool,
    /// True once the lane stops: queued operations no longer wait for a node.
    stops: AtomicBool,
    /// Counters of the work done.
    tally: Tally,
    /// Progress of the lane's loop.
    pulse: Pulse,
}

/// Handle to wait for the end of a lane.
enum End {
    Thread(JoinHandle<()>),
    /// Channel without messages, which closes when the task or its runtime ends.
    Task(std::sync::mpsc::Receiver<()>),
}

enum Message {
    Operation(Operation),
    /// Change of the tables or slots, applied alone, after all earlier and before all later
    /// operations.
    Solo(SoloOperation),
    /// Probe: waits its turn like a write and changes nothing.
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
    /// The request, if the shard refused the slot of one of its rows: the caller may send such rows
    /// again.
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
    /// Returns the sums for two operations, one after the other.
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

/// Decision about a queued operation: it is executed by the lane or abandoned by the client,
/// whichever decides first.
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
        // Only the lane changes what it has taken.
        let _ = self.0.compare_exchange(TAKEN, WAITING, set, seen);
    }

    /// Abandons the operation for its client: if it was not taken yet, it never will be.
    fn give_up(&self, error: Error) -> LaneFailure {
        let outcome = if self.decide(ABANDONED) { Outcome::Rejected } else { Outcome::Unknown };
        LaneFailure { error, outcome }
    }
}

impl Lane {
    /// Starts a lane with this writer: a thread, or a task on the runtime of its handle.
    ///
    /// # Errors
    /// The error of the system, if no thread can be started.
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

    /// Queues an operation. With `waits_for_room` it waits until a full queue has room for its
    /// tenant, but not past its deadline.
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

    /// Queues an operation; returns it with the reason if the queue does not accept it.
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

    /// Returns the interface for solo changes.
    pub fn solo(&self) -> SoloChanges<'_> {
        SoloChanges(self)
    }

    /// Applies what is queued, closes the writer and ends the loop. Blocks.
    pub fn stop(&self) {
        let Some(end) = self.end.lock().ok().and_then(|mut end| end.take()) else { return };
        self.controls.fault_injector.set(NodeFault::default());
        self.state.stops.store(true, Ordering::SeqCst);
        while let Err(Refused::Full(_)) = self.queue.try_send(Message::Stop, 0) {
            std::thread::sleep(ROOM_LOOK);
        }
        match end {
            // An error means that the loop has already ended.
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
