//! Lane: the one way to a shard's primary, where waiting writes become one transaction.
//!
//! A bounded queue and a loop on a thread of its own: take everything that waits, apply it in one durable
//! transaction, answer each operation. Nothing waits on a timer: while one batch is committed, the next
//! gathers by itself, so the price of a sync is shared by all who wait (group commit, as in "Implementation
//! Techniques for Main Memory Database Systems", DeWitt et al. 1984).
//!
//! **Invariant:** one batch is in flight; operations are applied in the order in which they came; an
//! operation is answered after its transaction is durable, and never taken after its deadline.
//! **Not here:** SQL (`store`), routing (`manager`).

mod schema;

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::barrier::Gate;
use crate::brake::{Brake, Hold};
use crate::error::{Error, Outcome};
use crate::row::{Part, RowDone, RowWrite};
use crate::store::{BatchDone, BatchFailure, Unit, Writer};
use schema::SchemaOperation;

/// Operations that may wait for one shard. More would only wait past their deadlines.
const QUEUE_MAX: usize = 4_096;
/// Bytes of rows that may wait for one shard, so that a queue of large rows cannot fill memory.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Operations of one transaction: enough to make the sync's share small, few enough to answer soon.
const BATCH_OPERATIONS_MAX: usize = 512;
/// Bytes of rows in one transaction.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How often a patient operation looks whether a full queue has room again. A full queue takes far longer to
/// empty.
const ROOM_LOOK: Duration = Duration::from_millis(5);

/// A queue of writes and the thread that applies them.
pub struct Lane {
    shard: String,
    /// What holds the thread back between two batches.
    pub brake: Arc<Brake>,
    /// What holds it for an instant, to look at all shards at once.
    pub gate: Arc<Gate>,
    queue: SyncSender<Message>,
    queued_bytes: Arc<AtomicUsize>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    Operation(Operation),
    /// Stands alone: what came before it is applied before, what comes after it after.
    Schema(SchemaOperation),
    Stop,
}

/// One client's write, or one chunk of a bulk write.
struct Operation {
    part: Part,
    bytes: usize,
    queued_at: Instant,
    deadline: Instant,
    claim: Arc<Claim>,
    reply: oneshot::Sender<Result<Applied, LaneFailure>>,
}

impl Operation {
    fn unit(&self) -> Unit<'_> {
        Unit { rows: &self.part.rows, whole: self.part.whole.as_deref() }
    }
}

/// What became of an operation that was executed.
#[derive(Debug)]
pub struct Applied {
    /// For each row, in order.
    pub rows: Vec<Result<RowDone, Error>>,
    /// The shard's position that holds them.
    pub position: u64,
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

    /// The client's end: what was not taken never will be.
    fn give_up(&self, error: Error) -> LaneFailure {
        let outcome = if self.decide(ABANDONED) { Outcome::Rejected } else { Outcome::Unknown };
        LaneFailure { error, outcome }
    }
}

impl Lane {
    /// Starts the thread of a lane over this writer.
    ///
    /// # Errors
    /// The system's, if it has no thread to give.
    pub fn start(shard: &str, writer: impl Writer) -> std::io::Result<Self> {
        let (queue, waiting) = sync_channel(QUEUE_MAX);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let bytes = Arc::clone(&queued_bytes);
        let brake = Arc::new(Brake::default());
        let gate = Arc::new(Gate::default());
        let (obeyed, passed) = (Arc::clone(&brake), Arc::clone(&gate));
        let thread =
            std::thread::Builder::new().name(format!("lane-{shard}")).spawn(move || {
                let (queued_bytes, brake, gate) = (bytes, obeyed, passed);
                Worker { writer, waiting, queued_bytes, brake, gate }.run();
            })?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { shard: shard.to_owned(), brake, gate, queue, queued_bytes, thread })
    }

    /// Applies rows as one operation and waits for the durable outcome, at most until `deadline`.
    ///
    /// Cancel safety: a dropped future cancels nothing; what was queued is applied.
    ///
    /// # Errors
    /// [`LaneFailure`]; its outcome is unknown only if the transaction had begun.
    pub async fn apply(
        &self,
        part: impl Into<Part>,
        deadline: Instant,
    ) -> Result<Applied, LaneFailure> {
        let part = part.into();
        let bytes = part.rows.iter().map(RowWrite::bytes).sum();
        let (reply, answer) = oneshot::channel();
        let claim = Arc::new(Claim::default());
        let queued_at = Instant::now();
        let operation =
            Operation { part, bytes, queued_at, deadline, claim: Arc::clone(&claim), reply };
        self.enqueue(operation).await?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_gone)) => {
                Err(claim.give_up(Error::ShardUnavailable { shard: self.shard.clone() }))
            }
            Err(_elapsed) => Err(claim.give_up(Error::DeadlinePassed)),
        }
    }

    /// Puts an operation into the queue. A patient one waits until there is room, but not past its deadline.
    async fn enqueue(&self, mut operation: Operation) -> Result<(), LaneFailure> {
        loop {
            let Some((back, error)) = self.try_enqueue(operation) else { return Ok(()) };
            let waits = back.part.patient
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
            Err(TrySendError::Disconnected(message)) => {
                (message, Error::ShardUnavailable { shard: self.shard.clone() })
            }
        };
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        match message {
            Message::Operation(operation) => Some((operation, error)),
            Message::Schema(_) | Message::Stop => unreachable!("what was sent is what comes back"),
        }
    }

    /// Whether the thread lives.
    pub fn is_up(&self) -> bool {
        let thread = self.thread.lock();
        thread.is_ok_and(|thread| thread.as_ref().is_some_and(|thread| !thread.is_finished()))
    }

    /// Applies what is queued, closes the writer and ends the thread. Blocks.
    pub fn stop(&self) {
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if let Some(thread) = thread {
            self.brake.set(Hold::default());
            // An error of either means that the thread is gone already.
            let _ = self.queue.send(Message::Stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread's side.
struct Worker<W> {
    writer: W,
    waiting: Receiver<Message>,
    queued_bytes: Arc<AtomicUsize>,
    brake: Arc<Brake>,
    gate: Arc<Gate>,
}

impl<W: Writer> Worker<W> {
    fn run(mut self) {
        let (brake, gate) = (Arc::clone(&self.brake), Arc::clone(&self.gate));
        let mut stopping = false;
        while !stopping {
            let Ok(first) = self.waiting.recv() else { break };
            // Before anything is taken: what waits here can still be given up.
            let _turn = brake.wait();
            let _pass = gate.enter();
            let mut schema = None;
            let batch = self.gather(first, &mut schema, &mut stopping);
            self.execute(batch);
            #[cfg(feature = "sabotage")]
            self.writer.commit_owed();
            if let Some(operation) = schema {
                self.change_schema(operation);
            }
        }
        self.writer.close();
    }

    /// Takes everything that waits, within the limits of one transaction.
    fn gather(
        &self,
        first: Message,
        schema: &mut Option<SchemaOperation>,
        stopping: &mut bool,
    ) -> Vec<Operation> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(message) = next.take() {
            match message {
                Message::Stop => {
                    *stopping = true;
                    break;
                }
                Message::Schema(operation) => {
                    *schema = Some(operation);
                    break;
                }
                Message::Operation(operation) => {
                    self.queued_bytes.fetch_sub(operation.bytes, Ordering::Relaxed);
                    bytes += operation.bytes;
                    batch.extend(take(operation));
                }
            }
            if batch.len() < BATCH_OPERATIONS_MAX && bytes < BATCH_BYTES_MAX {
                next = self.waiting.try_recv().ok();
            }
        }
        batch
    }

    /// Applies a batch. One that fails as a whole is halved until the culprits stand alone.
    fn execute(&mut self, mut batch: Vec<Operation>) {
        if batch.is_empty() {
            return;
        }
        let units: Vec<Unit<'_>> = batch.iter().map(Operation::unit).collect();
        let began = Instant::now();
        match self.writer.apply(&units) {
            Ok(done) => answer_all(batch, done, began),
            Err(BatchFailure { divisible: true, .. }) if batch.len() > 1 => {
                let second = batch.split_off(batch.len() / 2);
                self.execute(batch);
                self.execute(second);
            }
            // What is one whole is not applied in parts.
            Err(BatchFailure { divisible: true, .. })
                if units[0].whole.is_none() && units[0].rows.len() > 1 =>
            {
                match self.apply_parted(units[0].rows) {
                    Ok(done) => answer_all(batch, done, began),
                    Err(failure) => fail_all(batch, &failure),
                }
            }
            Err(BatchFailure { error, outcome, .. }) => {
                fail_all(batch, &LaneFailure { error, outcome });
            }
        }
    }
}

impl<W: Writer> Worker<W> {
    /// The halves of a chunk, and of what fails of them their halves: how a culprit is told from its neighbours.
    /// When the shard itself fails, the rest is not tried; when a commit is in doubt, so is the chunk.
    fn apply_parted(&mut self, changes: &[RowWrite]) -> Result<BatchDone, LaneFailure> {
        let mut done = BatchDone { rows: Vec::with_capacity(changes.len()), position: 0 };
        let (first, second) = changes.split_at(changes.len() / 2);
        let mut parts = vec![second, first];
        while let Some(part) = parts.pop() {
            match self.writer.apply(&[Unit { rows: part, whole: None }]) {
                Ok(applied) => {
                    done.position = applied.position;
                    done.rows.extend(applied.rows);
                }
                Err(BatchFailure { error, outcome: Outcome::Unknown, .. }) => {
                    return Err(LaneFailure { error, outcome: Outcome::Unknown });
                }
                Err(BatchFailure { divisible: true, .. }) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(BatchFailure { error, divisible: true, .. }) => done.rows.push(Err(error)),
                Err(BatchFailure { error, .. }) => {
                    done.rows.resize(changes.len(), Err(error));
                    break;
                }
            }
        }
        Ok(done)
    }
}

/// Claims an operation for execution, unless it is too late for it.
fn take(operation: Operation) -> Option<Operation> {
    if operation.deadline <= Instant::now() {
        let failure = operation.claim.give_up(Error::DeadlinePassed);
        // The client may have left; then nobody needs to know.
        let _ = operation.reply.send(Err(failure));
        return None;
    }
    operation.claim.decide(TAKEN).then_some(operation)
}

fn answer_all(batch: Vec<Operation>, done: BatchDone, began: Instant) {
    let database = began.elapsed();
    let position = done.position;
    let mut results = done.rows.into_iter();
    for operation in batch {
        let rows = results.by_ref().take(operation.part.rows.len()).collect();
        let queue = began.duration_since(operation.queued_at);
        let times = LaneTimes { queue, database };
        let _ = operation.reply.send(Ok(Applied { rows, position, times }));
    }
}

fn fail_all(batch: Vec<Operation>, failure: &LaneFailure) {
    for operation in batch {
        let _ = operation.reply.send(Err(failure.clone()));
    }
}
