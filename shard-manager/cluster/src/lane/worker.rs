//! Worker: the loop of a lane, which takes batches from the queue and lets the engine apply them.
//!
//! **Invariant:** batches are applied one at a time, in order; results are sent once durable.
//! **Not here:** the sending side of the queue (`lane`), applying a batch (the engines).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::fair_channel::FairReceiver;
use engine::fault_injector::FaultInjector;
use engine::runtime_pool::RuntimeHandle;
use engine::slot_change::{SlotChange, SlotChangeError};
use engine::slot_move::{MoveChange, MoveChangeError};
use engine::{
    AsyncWriter, BatchDone, BatchFailure, LaneControls, SchemaChange, WriteGroup, Writer,
};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use model::error::{Error, Outcome};
use model::position::Position;
use model::row_change::RowWrite;
use moves::request_context::MoveEffect;

use super::parts::{BatchPart, Parts, Trial};
use super::refused_rows::{is_refused, untried};
use super::solo::SoloOperation;
use super::{
    Applied, BATCH_BYTES_MAX, BATCH_OPERATIONS_MAX, LaneFailure, LaneTimes, Message, Operation,
    State, TAKEN,
};

/// Interval at which the worker checks for a node that accepts writes while operations wait.
const READY_LOOK: Duration = Duration::from_millis(25);
/// Interval at which the worker checks for a node that accepts writes while no operation waits.
const READY_GLANCE: Duration = Duration::from_millis(250);
/// Duration of one such check after which the lane is reported as waiting for a node.
const READY_SOON: Duration = Duration::from_millis(100);
/// Time before the deadline of an operation in which it is no longer retried, so that its client
/// learns in time that nothing was stored.
const LAST_TRY: Duration = Duration::from_millis(50);

impl State {
    /// Records that the loop took work from the queue.
    fn take_up(&self) {
        self.tally.hold(1);
        self.pulse.begin();
    }

    fn wait_for_node(&self, waits: bool) {
        // Called after every batch: loading first keeps the cache line shared with the readers.
        if self.waits.load(Ordering::SeqCst) == waits
            || self.waits.swap(waits, Ordering::SeqCst) == waits
        {
            return;
        }
        let shard = &self.shard;
        if waits {
            tracing::warn!(
                shard,
                "no primary accepts writes; queued writes wait until their deadlines"
            );
        } else {
            tracing::info!(shard, "the primary accepts writes again");
        }
    }
}

/// The receiving side of a lane.
pub(super) struct Worker {
    pub(super) writer: Box<dyn AsyncWriter>,
    waiting: FairReceiver<Message>,
    queued_bytes: Arc<AtomicUsize>,
    pub(super) state: Arc<State>,
    /// Sender of a channel that closes when the loop ends; `None` if the loop has its own thread.
    lives: Option<std::sync::mpsc::Sender<()>>,
}

/// Adapter for a writer that blocks its thread: it returns futures that are already ready.
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

    fn change_slots<'a>(
        &'a mut self,
        change: &'a SlotChange,
    ) -> BoxFuture<'a, Result<u64, SlotChangeError>> {
        Box::pin(ready(self.0.change_slots(change)))
    }

    fn change_move<'a>(
        &'a mut self,
        change: &'a MoveChange,
    ) -> BoxFuture<'a, Result<MoveEffect, MoveChangeError>> {
        Box::pin(ready(self.0.change_move(change)))
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
    /// Creates a loop that runs on its own thread.
    pub(super) fn of_thread(
        writer: Box<dyn Writer>,
        waiting: FairReceiver<Message>,
        (queued_bytes, state): (&Arc<AtomicUsize>, &Arc<State>),
    ) -> Self {
        let (queued_bytes, state) = (Arc::clone(queued_bytes), Arc::clone(state));
        let writer = Box::new(Blocking(writer));
        Self { writer, waiting, queued_bytes, state, lives: None }
    }

    /// Runs until the lane is stopped.
    pub(super) fn run(mut self, LaneControls { fault_injector, pause_barrier }: &LaneControls) {
        while let Some(first) = self.waiting.blocking_recv() {
            self.state.take_up();
            // Waits before taking operations, so that their clients can still abandon them.
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

    /// Creates a loop that runs as a task. At its end it drops `lives`, which signals the end.
    pub(super) fn of_task(
        writer: Box<dyn AsyncWriter>,
        waiting: FairReceiver<Message>,
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
                    // Waits before taking operations, so that their clients can still abandon them.
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
                    // Without writes only this check notices that a node accepts writes again.
                    let ready = self.writer.ready().await;
                    self.state.wait_for_node(!ready);
                }
                () = runtime.moved() => {
                    // A connection is bound to the old runtime, so it is closed before the loop
                    // moves.
                    self.writer.close().await;
                    self.spawn(fault_injector, runtime);
                    return;
                }
            }
        }
        self.writer.close().await;
    }

    /// Waits for a node that accepts writes. Meanwhile, drops operations whose deadlines have
    /// passed or whose clients have left. Returns `None` if no operation is left.
    async fn until_ready(&mut self, mut first: Message) -> Option<Message> {
        while !self.is_ready().await {
            self.state.wait_for_node(true);
            while is_over(&first) || self.state.stops.load(Ordering::SeqCst) {
                if let Message::Stop = first {
                    return Some(first);
                }
                self.drop_late(first);
                let next = self.waiting.try_next();
                self.state.tally.hold(usize::from(next.is_some()));
                first = next?;
            }
            tokio::time::sleep(READY_LOOK).await;
        }
        self.state.wait_for_node(false);
        Some(first)
    }

    /// Returns true if a node accepts writes. Connecting to it may take a while.
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

    /// Rejects a message that is too late. The client watches the deadline by itself; if it still
    /// waits, it receives the reason from here.
    fn drop_late(&self, message: Message) {
        let error = Error::NoPrimary { shard: self.state.shard.clone() };
        let failure = LaneFailure { error, outcome: Outcome::Rejected };
        match message {
            Message::Operation(operation) => {
                self.queued_bytes.fetch_sub(operation.bytes, Ordering::Relaxed);
                let _ = operation.reply.send(Err(failure));
            }
            Message::Solo(operation) => operation.refuse(failure),
            Message::Probe(_) | Message::Stop => {}
        }
    }

    /// Applies one batch of queued operations, then the solo change that follows it, if there is
    /// one. Returns true if the lane is to stop.
    async fn round(&mut self, first: Message) -> bool {
        let (mut solo, mut stopping) = (None, false);
        self.state.pulse.begin();
        self.waiting.sort(self.queued_bytes.load(Ordering::Relaxed));
        let batch = self.gather(first, &mut solo, &mut stopping);
        self.state.tally.apply(batch.len());
        self.execute(batch, (&mut solo, &mut stopping)).await;
        self.state.tally.apply(0);
        #[cfg(feature = "sabotage")]
        self.writer.commit_owed();
        if let Some(operation) = solo {
            self.state.pulse.begin();
            self.change_alone(operation).await;
        }
        self.state.pulse.rest();
        stopping
    }

    /// Takes queued operations for one transaction, at most up to a solo change or a stop.
    fn gather(
        &mut self,
        first: Message,
        solo: &mut Option<SoloOperation>,
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
                Message::Solo(operation) => {
                    *solo = Some(operation);
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
                next = self.waiting.try_next();
            }
        }
        batch
    }

    /// Applies a batch. A batch that fails as a whole is halved repeatedly, until each failing
    /// operation is alone in its part.
    async fn execute(
        &mut self,
        batch: Vec<Operation>,
        (solo, stopping): (&mut Option<SoloOperation>, &mut bool),
    ) {
        let mut parts = Parts::of(batch);
        while let Some(BatchPart { operations: batch, trial }) = parts.take_next() {
            let groups: Vec<WriteGroup<'_>> = batch.iter().map(Operation::group).collect();
            let began = Instant::now();
            match self.writer.apply(&groups).await {
                Ok(done) => {
                    self.state.wait_for_node(false);
                    self.state.pulse.succeeded();
                    parts.applied(&batch);
                    self.answer_all(batch, done, began);
                }
                Err(BatchFailure { retry_split: true, .. }) if batch.len() > 1 => {
                    self.state.pulse.begin();
                    parts.halve(batch);
                }
                // Only the rows of an operation that is not atomic can be applied separately.
                Err(BatchFailure { retry_split: true, .. })
                    if groups[0].atomic_rows.is_none() && groups[0].rows.len() > 1 =>
                {
                    match self.apply_parted(groups[0].rows).await {
                        Ok(done) => {
                            self.state.pulse.succeeded();
                            // Only a stored row proves that the node accepts writes.
                            if done.rows.iter().any(Result::is_ok) {
                                parts.applied(&batch);
                            }
                            self.answer_all(batch, done, began);
                        }
                        Err(failure) => fail_all(batch, &failure),
                    }
                }
                // The part is tried again: another node may become the primary soon.
                Err(BatchFailure {
                    error: error @ Error::ShardUnavailable { .. },
                    outcome: Outcome::Rejected,
                    ..
                }) if self.lives.is_some() => {
                    let part = BatchPart { operations: batch, trial };
                    refuse(self, &mut parts, (part, error), (&mut *solo, &mut *stopping)).await;
                }
                Err(BatchFailure { error, outcome, .. }) => {
                    // The loss of a server is reported elsewhere, as a shard without a primary.
                    let is_storage = self.lives.is_none() || outcome == Outcome::Rejected;
                    if is_storage {
                        self.state.pulse.failed(&error);
                    }
                    fail_all(batch, &LaneFailure { error, outcome });
                }
            }
        }
    }

    /// Waits until a node accepts writes, after which the operations are applied again: none of
    /// their rows were stored. Meanwhile, operations that are about to miss their deadlines fail.
    async fn await_node(&mut self, parts: &mut Parts, error: Error) {
        let Error::ShardUnavailable { shard } = error else {
            unreachable!("nothing else is tried again")
        };
        let error = Error::NoPrimary { shard };
        let failure = LaneFailure { error, outcome: Outcome::Rejected };
        parts.put_back();
        loop {
            tokio::time::sleep(READY_LOOK).await;
            let is_ready = self.is_ready().await;
            if !is_ready {
                // Queued operations then fail with the reason that there is no primary.
                self.state.wait_for_node(true);
            }
            let soon = Instant::now() + LAST_TRY;
            let stops = self.state.stops.load(Ordering::SeqCst);
            fail_all(parts.take_late(|operation| stops || operation.deadline <= soon), &failure);
            if is_ready || parts.is_empty() {
                break;
            }
        }
        parts.take_again();
    }

    /// Sends the client of each operation the results of its rows.
    fn answer_all(&self, batch: Vec<Operation>, done: BatchDone, began: Instant) {
        let database = began.elapsed();
        let position = done.position;
        self.state.tally.add(batch.len(), done.rows.len());
        let mut results = done.rows.into_iter();
        for operation in batch {
            let Operation { request, queued_at, reply, .. } = operation;
            let rows: Vec<_> = results.by_ref().take(request.rows.len()).collect();
            let times = LaneTimes { queue: began.duration_since(queued_at), database };
            let refused = rows.iter().any(is_refused).then(|| Box::new(request));
            let _ = reply.send(Ok(Applied { rows, position, times, refused }));
        }
    }

    /// Applies a chunk in halves, and divides each half that fails again, to isolate the rows that
    /// cause the failure. If the shard itself fails, the remaining rows are not tried. If the
    /// outcome of one commit is unknown, the outcome of the whole chunk is unknown.
    async fn apply_parted(&mut self, changes: &[RowWrite]) -> Result<BatchDone, LaneFailure> {
        let mut done =
            BatchDone { rows: Vec::with_capacity(changes.len()), position: Position::default() };
        let (first, second) = changes.split_at(changes.len() / 2);
        let mut parts = vec![second, first];
        while let Some(part) = parts.pop() {
            // Each part counts as progress, so that many small parts are not a stall.
            self.state.pulse.begin();
            match self.writer.apply(&[WriteGroup { rows: part, atomic_rows: None }]).await {
                Ok(applied) => {
                    done.position = applied.position;
                    let is_refused = applied.rows.iter().any(is_refused);
                    done.rows.extend(applied.rows);
                    if is_refused {
                        // A later row of a refused slot must not be applied before the refused row.
                        let left = untried(&changes[done.rows.len()..], &done.rows);
                        done.rows.extend(left);
                        break;
                    }
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

/// Handles the refusal of a part: the part is halved or becomes a suspect, or all operations wait
/// for a node. If only later operations can prove that the node accepts writes, some are taken from
/// the queue first.
async fn refuse(
    worker: &mut Worker,
    parts: &mut Parts,
    (part, error): (BatchPart, Error),
    (solo, stopping): (&mut Option<SoloOperation>, &mut bool),
) {
    // A node that is lost refuses everything: no operation is at fault.
    if part.trial != Trial::First && !worker.is_ready().await {
        parts.wait(part);
        return worker.await_node(parts, error).await;
    }
    if parts.needs_proof(&part) && solo.is_none() && !*stopping {
        worker.waiting.sort(worker.queued_bytes.load(Ordering::Relaxed));
        if let Some(next) = worker.waiting.try_next() {
            parts.append(worker.gather(next, solo, stopping));
            worker.state.tally.apply(part.operations.len() + parts.count());
        }
    }
    if let Some(error) = parts.refused(part, error) {
        worker.await_node(parts, error).await;
    }
}

/// Returns true if the client of a message has left or its deadline has passed.
fn is_over(message: &Message) -> bool {
    match message {
        Message::Operation(operation) => {
            operation.reply.is_closed() || operation.deadline <= Instant::now()
        }
        Message::Solo(operation) => operation.is_over(),
        Message::Probe(_) | Message::Stop => true,
    }
}

/// Claims an operation for execution, unless it is too late.
fn take(operation: Operation) -> Option<Operation> {
    if operation.deadline <= Instant::now() {
        let failure = operation.claim.give_up(Error::DeadlinePassed);
        // The client may have left.
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
