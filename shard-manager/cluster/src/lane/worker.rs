//! Worker: the loop of a lane, which takes batches from the queue and has them applied.
//!
//! **Invariant:** as for the lane: one batch at a time, in order, each operation answered after it is durable.
//! **Not here:** the queue's other end (`lane`), what applies a batch (the engines).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::fault_injector::FaultInjector;
use engine::runtime_pool::RuntimeHandle;
use engine::{
    AsyncWriter, BatchDone, BatchFailure, LaneControls, SchemaChange, WriteGroup, Writer,
};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use model::error::{Error, Outcome};
use model::position::Position;
use model::row_change::RowWrite;
use tokio::sync::mpsc::Receiver;

use super::schema::SchemaOperation;
use super::{
    Applied, BATCH_BYTES_MAX, BATCH_OPERATIONS_MAX, LaneFailure, LaneTimes, Message, Operation,
    State, TAKEN,
};

/// How often it is looked whether there is a node to write to, while there is none.
const READY_LOOK: Duration = Duration::from_millis(25);
/// How often, while nobody waits for one.
const READY_GLANCE: Duration = Duration::from_millis(250);
/// How long that may take before it is said that there is none.
const READY_SOON: Duration = Duration::from_millis(100);
/// How long before its deadline an operation is not tried again: its client is told in time that nothing was stored.
const LAST_TRY: Duration = Duration::from_millis(50);

impl State {
    /// Record of the loop's progress, which is updated when it takes work from the queue.
    fn take_up(&self) {
        self.tally.hold(1);
        self.pulse.begin();
    }

    fn wait_for_node(&self, waits: bool) {
        // It is told after every batch: whoever asks meanwhile should not wait for this.
        if self.waits.load(Ordering::SeqCst) == waits
            || self.waits.swap(waits, Ordering::SeqCst) == waits
        {
            return;
        }
        let shard = &self.shard;
        if waits {
            tracing::warn!(shard, "no node takes writes: they wait for one, until their deadlines");
        } else {
            tracing::info!(shard, "writes go on");
        }
    }
}

/// The loop's side of a lane.
pub(super) struct Worker {
    pub(super) writer: Box<dyn AsyncWriter>,
    waiting: Receiver<Message>,
    queued_bytes: Arc<AtomicUsize>,
    state: Arc<State>,
    /// Closes as the loop ends.
    lives: Option<std::sync::mpsc::Sender<()>>,
}

/// Writer that blocks its thread: the work that it is given is done when a method returns.
struct Blocking(Box<dyn Writer>);

impl AsyncWriter for Blocking {
    fn ready(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(ready(true))
    }

    fn apply<'a>(
        &'a mut self,
        groups: &'a [WriteGroup<'a>],
    ) -> BoxFuture<'a, Result<BatchDone, BatchFailure>> {
        Box::pin(ready(self.0.apply(groups)))
    }

    fn change_schema<'a>(
        &'a mut self,
        change: &'a SchemaChange,
    ) -> BoxFuture<'a, Result<u64, BatchFailure>> {
        Box::pin(ready(self.0.change_schema(change)))
    }

    #[cfg(feature = "sabotage")]
    fn commit_owed(&mut self) {
        self.0.commit_owed();
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.0.close();
        Box::pin(ready(()))
    }
}

impl Worker {
    /// Makes the loop of a thread.
    pub(super) fn of_thread(
        writer: Box<dyn Writer>,
        waiting: Receiver<Message>,
        (queued_bytes, state): (&Arc<AtomicUsize>, &Arc<State>),
    ) -> Self {
        let (queued_bytes, state) = (Arc::clone(queued_bytes), Arc::clone(state));
        let writer = Box::new(Blocking(writer));
        Self { writer, waiting, queued_bytes, state, lives: None }
    }

    /// Works until it is told to stop.
    pub(super) fn run(mut self, LaneControls { fault_injector, pause_barrier }: &LaneControls) {
        while let Some(first) = self.waiting.blocking_recv() {
            self.state.take_up();
            // Before anything is taken: what waits here can still be given up.
            let _turn = fault_injector.wait();
            let _pass = pause_barrier.enter();
            let ended = self.round(first).now_or_never();
            if ended.expect("a writer that blocks its thread is never waited for") {
                break;
            }
        }
        let closed = self.writer.close().now_or_never();
        closed.expect("a writer that blocks its thread is never waited for");
    }

    /// Makes the loop of a task. What it holds of `lives` is dropped as it ends.
    pub(super) fn of_task(
        writer: Box<dyn AsyncWriter>,
        waiting: Receiver<Message>,
        (queued_bytes, state): (&Arc<AtomicUsize>, &Arc<State>),
        lives: std::sync::mpsc::Sender<()>,
    ) -> Self {
        let (queued_bytes, state) = (Arc::clone(queued_bytes), Arc::clone(state));
        Self { writer, waiting, queued_bytes, state, lives: Some(lives) }
    }

    /// Starts the loop on the runtime of the handle.
    pub(super) fn spawn(self, fault_injector: Arc<FaultInjector>, runtime: RuntimeHandle) {
        runtime.runtime().spawn(self.serve(fault_injector, runtime));
    }

    async fn serve(mut self, fault_injector: Arc<FaultInjector>, mut runtime: RuntimeHandle) {
        loop {
            tokio::select! {
                biased;
                first = self.waiting.recv() => {
                    let Some(first) = first else { break };
                    self.state.take_up();
                    // Before anything is taken: what waits here can still be given up.
                    let Some(first) = self.until_ready(first).await else {
                        self.state.pulse.rest();
                        continue;
                    };
                    let _turn = fault_injector.wait_on_task().await;
                    if self.round(first).await {
                        break;
                    }
                }
                () = tokio::time::sleep(READY_GLANCE), if self.state.waits.load(Ordering::SeqCst) => {
                    // Nobody writes to find out: health tells that there is a node again.
                    let ready = self.writer.ready().await;
                    self.state.wait_for_node(!ready);
                }
                () = runtime.moved() => {
                    // A connection stays on the runtime that it was made on.
                    self.writer.close().await;
                    self.spawn(fault_injector, runtime);
                    return;
                }
            }
        }
        self.writer.close().await;
    }

    /// Waits until there is a node to write to. Meanwhile what is too late is dropped; `None`, if nothing waits any more.
    async fn until_ready(&mut self, mut first: Message) -> Option<Message> {
        while !self.is_ready().await {
            self.state.wait_for_node(true);
            while is_over(&first) || self.state.stops.load(Ordering::SeqCst) {
                if let Message::Stop = first {
                    return Some(first);
                }
                self.drop_late(first);
                let next = self.waiting.try_recv().ok();
                self.state.tally.hold(usize::from(next.is_some()));
                first = next?;
            }
            tokio::time::sleep(READY_LOOK).await;
        }
        self.state.wait_for_node(false);
        Some(first)
    }

    /// Whether there is a node to write to; to connect may take a while.
    async fn is_ready(&mut self) -> bool {
        let state = Arc::clone(&self.state);
        let mut ready = std::pin::pin!(self.writer.ready());
        tokio::select! {
            biased;
            ready = &mut ready => ready,
            () = tokio::time::sleep(READY_SOON) => {
                state.wait_for_node(true);
                ready.await
            }
        }
    }

    /// Its client looks at a clock of its own, and may be the later of the two: it is told why all the same.
    fn drop_late(&self, message: Message) {
        let error = Error::NoPrimary { shard: self.state.shard.clone() };
        let failure = LaneFailure { error, outcome: Outcome::Rejected };
        match message {
            Message::Operation(operation) => {
                self.queued_bytes.fetch_sub(operation.bytes, Ordering::Relaxed);
                let _ = operation.reply.send(Err(failure));
            }
            Message::Schema(operation) => operation.refuse(failure),
            Message::Probe(_) | Message::Stop => {}
        }
    }

    /// Does what waits now, and tells whether it was told to stop.
    async fn round(&mut self, first: Message) -> bool {
        let (mut schema, mut stopping) = (None, false);
        self.state.pulse.begin();
        let batch = self.gather(first, &mut schema, &mut stopping);
        self.state.tally.apply(batch.len());
        self.execute(batch).await;
        self.state.tally.apply(0);
        #[cfg(feature = "sabotage")]
        self.writer.commit_owed();
        if let Some(operation) = schema {
            self.state.pulse.begin();
            self.change_schema(operation).await;
        }
        self.state.pulse.rest();
        stopping
    }

    /// Takes everything that waits, within the limits of one transaction.
    fn gather(
        &mut self,
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
                Message::Probe(probe) => drop(probe),
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
    async fn execute(&mut self, batch: Vec<Operation>) {
        let mut parts = vec![batch];
        while let Some(mut batch) = parts.pop() {
            if batch.is_empty() {
                continue;
            }
            let groups: Vec<WriteGroup<'_>> = batch.iter().map(Operation::group).collect();
            let began = Instant::now();
            match self.writer.apply(&groups).await {
                Ok(done) => {
                    self.state.wait_for_node(false);
                    self.state.pulse.succeeded();
                    self.answer_all(batch, done, began);
                }
                Err(BatchFailure { retry_split: true, .. }) if batch.len() > 1 => {
                    self.state.pulse.begin();
                    let second = batch.split_off(batch.len() / 2);
                    parts.extend([second, batch]);
                }
                // What is one whole is not applied in parts.
                Err(BatchFailure { retry_split: true, .. })
                    if groups[0].atomic_rows.is_none() && groups[0].rows.len() > 1 =>
                {
                    match self.apply_parted(groups[0].rows).await {
                        Ok(done) => {
                            self.state.pulse.succeeded();
                            self.answer_all(batch, done, began);
                        }
                        Err(failure) => fail_all(batch, &failure),
                    }
                }
                // Another node may lead in a moment.
                Err(BatchFailure {
                    error: error @ Error::ShardUnavailable { .. },
                    outcome: Outcome::Rejected,
                    ..
                }) if self.lives.is_some() => {
                    parts.push(self.await_node(batch, error).await);
                }
                Err(BatchFailure { error, outcome, .. }) => {
                    // A lost server is reported elsewhere: its shard has no primary then.
                    let is_storage = self.lives.is_none() || outcome == Outcome::Rejected;
                    if is_storage {
                        self.state.pulse.failed(&error);
                    }
                    fail_all(batch, &LaneFailure { error, outcome });
                }
            }
        }
    }

    /// Keeps operations of which nothing was stored until there is a node to write to. Who cannot wait so long is told.
    async fn await_node(&mut self, mut batch: Vec<Operation>, error: Error) -> Vec<Operation> {
        let Error::ShardUnavailable { shard } = error else {
            unreachable!("nothing else is tried again")
        };
        let error = Error::NoPrimary { shard };
        let failure = LaneFailure { error, outcome: Outcome::Rejected };
        batch.iter().for_each(|operation| operation.claim.put_back());
        loop {
            tokio::time::sleep(READY_LOOK).await;
            let is_ready = self.is_ready().await;
            if !is_ready {
                // What is queued behind it is told why it waits.
                self.state.wait_for_node(true);
            }
            let soon = Instant::now() + LAST_TRY;
            let stops = self.state.stops.load(Ordering::SeqCst);
            let late = batch.extract_if(.., |operation| stops || operation.deadline <= soon);
            fail_all(late.collect(), &failure);
            if is_ready || batch.is_empty() {
                break;
            }
        }
        batch.retain(|operation| operation.claim.decide(TAKEN));
        batch
    }

    /// Tells everybody what became of their rows.
    fn answer_all(&self, batch: Vec<Operation>, done: BatchDone, began: Instant) {
        let database = began.elapsed();
        let position = done.position;
        self.state.tally.add(batch.len(), done.rows.len());
        let mut results = done.rows.into_iter();
        for operation in batch {
            let rows = results.by_ref().take(operation.request.rows.len()).collect();
            let queue = began.duration_since(operation.queued_at);
            let times = LaneTimes { queue, database };
            let _ = operation.reply.send(Ok(Applied { rows, position, times }));
        }
    }

    /// The halves of a chunk, and of what fails of them their halves: how a culprit is told from its neighbours.
    /// When the shard itself fails, the rest is not tried; when a commit is in doubt, so is the chunk.
    async fn apply_parted(&mut self, changes: &[RowWrite]) -> Result<BatchDone, LaneFailure> {
        let mut done =
            BatchDone { rows: Vec::with_capacity(changes.len()), position: Position::default() };
        let (first, second) = changes.split_at(changes.len() / 2);
        let mut parts = vec![second, first];
        while let Some(part) = parts.pop() {
            // Each part is a step forward: many small ones together are no standstill.
            self.state.pulse.begin();
            match self.writer.apply(&[WriteGroup { rows: part, atomic_rows: None }]).await {
                Ok(applied) => {
                    done.position = applied.position;
                    done.rows.extend(applied.rows);
                }
                Err(BatchFailure { error, outcome: Outcome::Unknown, .. }) => {
                    return Err(LaneFailure { error, outcome: Outcome::Unknown });
                }
                Err(BatchFailure { retry_split: true, .. }) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(BatchFailure { error, retry_split: true, .. }) => done.rows.push(Err(error)),
                Err(BatchFailure { error, .. }) => {
                    done.rows.resize(changes.len(), Err(error));
                    break;
                }
            }
        }
        Ok(done)
    }
}

/// Whether nobody waits for a message any more.
fn is_over(message: &Message) -> bool {
    match message {
        Message::Operation(operation) => {
            operation.reply.is_closed() || operation.deadline <= Instant::now()
        }
        Message::Schema(operation) => operation.is_over(),
        Message::Probe(_) | Message::Stop => true,
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

fn fail_all(batch: Vec<Operation>, failure: &LaneFailure) {
    for operation in batch {
        let _ = operation.reply.send(Err(failure.clone()));
    }
}
