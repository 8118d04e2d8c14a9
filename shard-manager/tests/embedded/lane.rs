//! Tests of lanes: a fake writer waits at a gate, and each test decides what is queued meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::{LocalBoxFuture, join_all};
use shard_manager::engine::slot_change::{SlotChange, SlotChangeError};
use shard_manager::engine::slot_move::{MoveChange, MoveChangeError};
use shard_manager::engine::{self, BatchDone, BatchFailure, SchemaChange, WriteGroup, Writer};
use shard_manager::error::{Error, Outcome};
use shard_manager::keyspace::{Keyspace, ShardKey};
use shard_manager::lane::{Applied, Lane, LaneFailure};
use shard_manager::moves::request_context::MoveEffect;
use shard_manager::position::Position;
use shard_manager::row_change::{Change, Operation, RowDone, RowWrite, WriteRequest};
use shard_manager::slot_refusal::SlotRefusal;
use shard_manager::table::{Column, Table};
use shard_manager::value::{ColumnType, Value};

use crate::cluster::deadline;

pub(crate) type Answer = Result<Applied, LaneFailure>;

/// Fake writer: announces each batch, waits at the gate, then does what the plan says.
struct Fake {
    began: Sender<Vec<String>>,
    gate: Receiver<()>,
    plan: Plan,
    applied: Arc<Mutex<Vec<String>>>,
    closed: Sender<()>,
}

#[derive(Clone, Default)]
pub(crate) struct Plan {
    /// Keys that make every batch with them fail.
    pub(crate) culprits: HashSet<String>,
    /// Keys whose batch fails permanently, with this outcome.
    pub(crate) fatal: Option<(String, Outcome)>,
    /// Keys whose slots are refused.
    pub(crate) refused: HashMap<String, SlotRefusal>,
    /// Key that makes the writer panic.
    pub(crate) panics: Option<String>,
}

impl Writer for Fake {
    fn apply(&mut self, groups: &[WriteGroup<'_>]) -> Result<BatchDone, BatchFailure> {
        let changes = groups.iter().flat_map(|group| group.rows);
        let keys: Vec<String> = changes.map(|change| change.key.clone()).collect();
        // The test may have ended; an open gate lets everything through.
        let _ = self.began.send(keys.clone());
        let _ = self.gate.recv();
        if let Some(key) = &self.plan.panics {
            assert!(!keys.contains(key), "the test wants this writer to die");
        }
        let failed =
            |outcome, retry_split| BatchFailure { error: Error::Internal, outcome, retry_split };
        // A row can be in both: it makes its batch fail, and fails permanently when retried alone.
        if keys.iter().any(|key| self.plan.culprits.contains(key)) && keys.len() > 1 {
            return Err(failed(Outcome::Rejected, true));
        }
        if let Some((_, outcome)) = self.plan.fatal.as_ref().filter(|(key, _)| keys.contains(key)) {
            return Err(failed(*outcome, false));
        }
        if keys.iter().any(|key| self.plan.culprits.contains(key)) {
            return Err(failed(Outcome::Rejected, true));
        }
        let mut applied = self.applied.lock().expect("not poisoned");
        let done = keys.into_iter().map(|key| {
            if let Some(refusal) = self.plan.refused.get(&key) {
                return Err(Error::SlotRefused(*refusal));
            }
            applied.push(key.clone());
            let (change, version, json) = (Change::Created, applied.len() as i64, key.into_bytes());
            Ok(RowDone { change, version, json, replayed: false })
        });
        let rows = done.collect();
        let sequence = applied.len() as u64;
        Ok(BatchDone { rows, position: Position { timeline: 1, sequence } })
    }

    /// Announces the table as if it were a key, so that a test sees when its turn came.
    fn change_schema(&mut self, change: &SchemaChange) -> Result<u64, BatchFailure> {
        let mut applied = self.applied.lock().expect("not poisoned");
        applied.push(format!("table {}", change.table().name()));
        Ok(applied.len() as u64)
    }

    /// Announces the slots as if they were a key.
    fn change_slots(&mut self, change: &SlotChange) -> Result<u64, SlotChangeError> {
        let mut applied = self.applied.lock().expect("not poisoned");
        applied.push(format!("slots {}", change.slots));
        Ok(applied.len() as u64)
    }

    fn change_move(&mut self, _: &MoveChange) -> Result<MoveEffect, MoveChangeError> {
        Err(MoveChangeError::Unsupported)
    }

    #[cfg(feature = "sabotage")]
    fn commit_owed(&mut self) {}

    fn close(&mut self) {
        let _ = self.closed.send(());
    }
}

/// The test's handle of a lane with a fake writer.
pub(crate) struct Story {
    pub(crate) lane: Arc<Lane>,
    began: Receiver<Vec<String>>,
    gate: Option<Sender<()>>,
    applied: Arc<Mutex<Vec<String>>>,
    closed: Receiver<()>,
}

impl Story {
    fn begin(plan: Plan) -> Self {
        let (begins, began) = channel();
        let (gate, opened) = channel();
        let (closes, closed) = channel();
        let applied = Arc::new(Mutex::new(Vec::new()));
        let there = Arc::clone(&applied);
        let fake = Fake { began: begins, gate: opened, plan, applied: there, closed: closes };
        let (writer, controls) = (engine::WriterKind::Thread(Box::new(fake)), Default::default());
        let lane = Arc::new(Lane::start("shard1", writer, controls).expect("a thread"));
        Self { lane, began, gate: Some(gate), applied, closed }
    }

    /// Queues an operation of these rows now; the returned future yields its answer.
    pub(crate) async fn queue(
        &self,
        keys: &[&str],
        deadline: Instant,
    ) -> LocalBoxFuture<'static, Answer> {
        let rows = keys.iter().map(|key| row(key, 0)).collect();
        self.queue_rows(rows, deadline).await
    }

    async fn queue_rows(
        &self,
        rows: Vec<RowWrite>,
        deadline: Instant,
    ) -> LocalBoxFuture<'static, Answer> {
        self.queue_request(WriteRequest::from(rows), deadline).await
    }

    pub(crate) async fn queue_request(
        &self,
        request: WriteRequest,
        deadline: Instant,
    ) -> LocalBoxFuture<'static, Answer> {
        let lane = Arc::clone(&self.lane);
        let mut answer: LocalBoxFuture<'static, Answer> =
            Box::pin(async move { lane.apply(request, deadline).await });
        // A single poll queues the operation.
        tokio::select! {
            biased;
            answered = &mut answer => Box::pin(std::future::ready(answered)),
            () = std::future::ready(()) => answer,
        }
    }

    /// The next batch that reaches the writer.
    pub(crate) fn batch(&self) -> Vec<String> {
        self.began.recv_timeout(Duration::from_secs(20)).expect("a batch begins")
    }

    /// Pauses a first batch at the gate, so that everything after it is queued.
    pub(crate) async fn occupied(plan: Plan) -> (Self, LocalBoxFuture<'static, Answer>) {
        let story = Self::begin(plan);
        let first = story.queue(&["first"], deadline()).await;
        assert_eq!(story.batch(), ["first"]);
        (story, first)
    }

    pub(crate) fn open_gate(&mut self) {
        self.gate = None;
    }

    pub(crate) fn applied(&self) -> Vec<String> {
        self.applied.lock().expect("not poisoned").clone()
    }
}

impl Drop for Story {
    /// Opens the gate if a test fails, so that the lane's thread does not wait for ever.
    fn drop(&mut self) {
        self.open_gate();
    }
}

/// A row with this key; `bytes` of text make it large.
pub(crate) fn row(key: &str, bytes: usize) -> RowWrite {
    static TABLE: std::sync::LazyLock<Arc<Table>> = std::sync::LazyLock::new(|| {
        let id =
            Column { name: "id".into(), kind: ColumnType::Text, nullable: false, default: None };
        Arc::new(Table::new("t", vec![id], &["id".into()], None).expect("a good table"))
    });
    let parsed = ShardKey::parse(key).expect("a good key");
    RowWrite {
        table: Arc::clone(&TABLE),
        operation: Operation::Upsert,
        slot: Keyspace::Hash.slot_of(parsed).expect("a slot"),
        key: key.to_owned(),
        id: vec![Value::Text("x".repeat(bytes))],
        set: Vec::new(),
        precondition: None,
        idempotency_key: None,
        wants_row: true,
    }
}

pub(crate) fn rejected(error: Error) -> LaneFailure {
    LaneFailure { error, outcome: Outcome::Rejected }
}

pub(crate) fn full() -> LaneFailure {
    rejected(Error::QueueFull { shard: "shard1".into() })
}

fn gone() -> Error {
    Error::ShardUnavailable { shard: "shard1".into() }
}

/// Keys in the answer to an operation.
pub(crate) fn keys(answer: Answer) -> Vec<Result<String, Error>> {
    let rows = answer.expect("the operation was executed").rows.into_iter();
    rows.map(|row| row.map(|done| String::from_utf8(done.json).expect("a key"))).collect()
}

#[tokio::test]
async fn all_queued_operations_become_one_batch_in_order_of_arrival() {
    let (mut story, first) = Story::occupied(Plan::default()).await;
    let second = story.queue(&["b", "a"], deadline()).await;
    let third = story.queue(&["c"], deadline()).await;
    let fourth = story.queue(&["b"], deadline()).await;
    story.open_gate();
    assert_eq!(story.batch(), ["b", "a", "c", "b"]);
    assert_eq!(keys(first.await), [Ok("first".into())]);
    assert_eq!(keys(second.await), [Ok("b".into()), Ok("a".into())]);
    assert_eq!(keys(third.await), [Ok("c".into())]);
    assert_eq!(keys(fourth.await), [Ok("b".into())]);
    assert_eq!(story.applied(), ["first", "b", "a", "c", "b"]);
}

#[tokio::test]
async fn a_batch_has_at_most_512_operations_and_about_4_mib() {
    let (mut story, first) = Story::occupied(Plan::default()).await;
    let mut answers = vec![first];
    for number in 0..600 {
        answers.push(story.queue(&[&format!("k{number}")], deadline()).await);
    }
    for number in 0..6 {
        let large = row(&format!("large{number}"), 1 << 20);
        answers.push(story.queue_rows(vec![large], deadline()).await);
    }
    story.open_gate();
    assert_eq!(story.batch().len(), 512);
    let rest = story.batch();
    assert_eq!(rest.len(), 88 + 4, "the fourth large row fills 4 MiB");
    assert_eq!(story.batch(), ["large4", "large5"]);
    assert!(join_all(answers).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_failing_operation_fails_alone_and_all_others_are_applied_exactly_once() {
    let plan = Plan { culprits: ["k5".into(), "k6".into()].into(), ..Plan::default() };
    let (mut story, first) = Story::occupied(plan).await;
    let mut answers = Vec::new();
    for number in 0..16 {
        answers.push(story.queue(&[&format!("k{number}")], deadline()).await);
    }
    story.open_gate();
    for (number, answer) in join_all(answers).await.into_iter().enumerate() {
        match number {
            5 | 6 => assert_eq!(answer.expect_err("the culprit"), rejected(Error::Internal)),
            _ => assert_eq!(keys(answer), [Ok(format!("k{number}"))]),
        }
    }
    assert!(first.await.is_ok());
    let good = (0..16).filter(|number| ![5, 6].contains(number)).map(|number| format!("k{number}"));
    let expected: Vec<String> = ["first".to_owned()].into_iter().chain(good).collect();
    assert_eq!(story.applied(), expected, "each once, and in order");
}

#[tokio::test]
async fn a_failing_row_of_a_chunk_fails_alone() {
    let plan = Plan { culprits: ["bad".into()].into(), ..Plan::default() };
    let (mut story, _first) = Story::occupied(plan).await;
    let chunk = story.queue(&["a", "bad", "b"], deadline()).await;
    let other = story.queue(&["c"], deadline()).await;
    story.open_gate();
    assert_eq!(keys(chunk.await), [Ok("a".into()), Err(Error::Internal), Ok("b".into())]);
    assert_eq!(keys(other.await), [Ok("c".into())]);
    assert_eq!(story.applied(), ["first", "a", "b", "c"]);
}

#[tokio::test]
async fn a_row_of_a_chunk_whose_own_commit_is_in_doubt_is_not_called_rejected() {
    let fatal = Some(("doubtful".to_owned(), Outcome::Unknown));
    let plan = Plan { culprits: ["doubtful".into()].into(), fatal, ..Plan::default() };
    let mut story = Story::begin(plan);
    story.open_gate();
    let chunk = story.queue(&["a", "doubtful"], deadline()).await;
    // A row error inside an executed operation means "rejected" to its caller.
    let answer = chunk.await;
    let outcome = answer.map(|applied| applied.rows).map_err(|failure| failure.outcome);
    assert_eq!(outcome, Err(Outcome::Unknown));
}

#[tokio::test]
async fn a_failure_of_the_storage_gives_all_operations_of_the_batch_their_outcome() {
    for outcome in [Outcome::Rejected, Outcome::Unknown] {
        let plan = Plan { fatal: Some(("b".into(), outcome)), ..Plan::default() };
        let (mut story, first) = Story::occupied(plan).await;
        let mut answers = Vec::new();
        for key in ["a", "b", "c"] {
            answers.push(story.queue(&[key], deadline()).await);
        }
        story.open_gate();
        let expected = LaneFailure { error: Error::Internal, outcome };
        for answer in join_all(answers).await {
            assert_eq!(answer.expect_err("all failed"), expected);
        }
        assert!(first.await.is_ok(), "the batch before is not touched");
        let next = story.queue(&["d"], deadline()).await.await;
        assert_eq!(keys(next), [Ok("d".into())], "the next batch is not touched");
        assert_eq!(story.applied(), ["first", "d"]);
    }
}

#[tokio::test]
async fn an_operation_past_its_deadline_is_never_executed() {
    let (mut story, _first) = Story::occupied(Plan::default()).await;
    let soon = Instant::now() + Duration::from_millis(20);
    // The client has left, so only the lane checks the deadline.
    drop(story.queue(&["late"], soon).await);
    let after = story.queue(&["after"], deadline()).await;
    tokio::time::sleep_until((soon + Duration::from_millis(1)).into()).await;
    story.open_gate();
    assert_eq!(story.batch(), ["after"]);
    assert!(after.await.is_ok());
    assert_eq!(story.applied(), ["first", "after"]);
}

#[tokio::test]
async fn a_client_whose_deadline_passes_in_the_queue_learns_that_nothing_was_stored() {
    let (mut story, _first) = Story::occupied(Plan::default()).await;
    let late = story.queue(&["late"], Instant::now() + Duration::from_millis(20)).await;
    assert!(matches!(late.await, Err(LaneFailure { outcome: Outcome::Rejected, .. })));
    let after = story.queue(&["after"], deadline()).await;
    story.open_gate();
    assert_eq!(story.batch(), ["after"]);
    assert!(after.await.is_ok());
    assert_eq!(story.applied(), ["first", "after"]);
}

#[tokio::test]
async fn a_client_whose_deadline_passes_during_its_transaction_learns_that_it_may_be_stored() {
    // On a busy machine the deadline may pass before the batch begins; then a later one is tried.
    for seconds in [1, 4, 16] {
        let mut story = Story::begin(Plan::default());
        let late = story.queue(&["late"], Instant::now() + Duration::from_secs(seconds)).await;
        let Ok(began) = story.began.recv_timeout(Duration::from_secs(seconds)) else { continue };
        assert_eq!(began, ["late"]);
        assert!(matches!(late.await, Err(LaneFailure { outcome: Outcome::Unknown, .. })));
        story.open_gate();
        story.lane.stop();
        assert_eq!(story.applied(), ["late"], "and so it was");
        return;
    }
    panic!("no batch began within 16 s");
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_takes_again_when_it_is_empty() {
    let (mut story, first) = Story::occupied(Plan::default()).await;
    let mut answers = vec![first];
    for _ in 0..4_096 {
        answers.push(story.queue(&["k"], deadline()).await);
    }
    let refused = story.queue(&["refused"], deadline()).await;
    assert_eq!(refused.await.expect_err("full"), full());
    story.open_gate();
    assert!(join_all(answers).await.iter().all(Result::is_ok));
    assert!(story.queue(&["again"], deadline()).await.await.is_ok());
    let applied = story.applied();
    assert_eq!(applied.len(), 4_098);
    assert!(!applied.contains(&"refused".to_owned()));
}

#[tokio::test]
async fn queued_bytes_are_bounded_and_released() {
    let (mut story, first) = Story::occupied(Plan::default()).await;
    let mut answers = vec![first];
    let large = |key: &str| vec![row(key, 21 << 20)];
    for key in ["a", "b", "c"] {
        answers.push(story.queue_rows(large(key), deadline()).await);
    }
    let refused = story.queue_rows(large("d"), deadline()).await;
    assert_eq!(refused.await.expect_err("84 MiB are too many"), full());
    answers.push(story.queue(&["small"], deadline()).await);
    story.open_gate();
    assert!(join_all(answers).await.iter().all(Result::is_ok));
    assert!(story.queue_rows(large("d"), deadline()).await.await.is_ok());
    assert_eq!(story.applied(), ["first", "a", "b", "c", "small", "d"]);
}

#[tokio::test]
async fn an_atomic_group_is_never_applied_in_parts() {
    let plan = Plan { culprits: ["bad".into()].into(), ..Plan::default() };
    let (mut story, _first) = Story::occupied(plan).await;
    let rows = ["a", "bad", "b"].map(|key| row(key, 0)).to_vec();
    let request = WriteRequest { atomic_rows: Some(vec![0, 1, 2]), ..rows.into() };
    let whole = story.queue_request(request, deadline()).await;
    let other = story.queue(&["c"], deadline()).await;
    story.open_gate();
    assert_eq!(whole.await.expect_err("refused as one"), rejected(Error::Internal));
    assert_eq!(keys(other.await), [Ok("c".into())]);
    assert_eq!(story.applied(), ["first", "c"]);
}

#[tokio::test]
async fn a_chunk_that_waits_for_room_does_not_wait_past_its_deadline() {
    let (mut story, first) = Story::occupied(Plan::default()).await;
    let mut answers = vec![first];
    let rows = |key| vec![row(key, 21 << 20)];
    for key in ["a", "b", "c"] {
        answers.push(story.queue_rows(rows(key), deadline()).await);
    }
    let patient = |key| WriteRequest { waits_for_room: true, ..WriteRequest::from(rows(key)) };
    let soon = Instant::now() + Duration::from_millis(50);
    let late = story.queue_request(patient("late"), soon).await;
    assert_eq!(late.await.expect_err("no room in time"), full());
    let waiting = story.queue_request(patient("d"), deadline()).await;
    story.open_gate();
    assert!(waiting.await.is_ok());
    assert!(join_all(answers).await.iter().all(Result::is_ok));
    assert_eq!(story.applied(), ["first", "a", "b", "c", "d"]);
}

#[tokio::test]
async fn stopping_applies_queued_operations_closes_the_writer_and_refuses_new_ones() {
    let (mut story, first) = Story::occupied(Plan::default()).await;
    let second = story.queue(&["second"], deadline()).await;
    let third = story.queue(&["third"], deadline()).await;
    assert!(story.lane.is_up());
    story.open_gate();
    story.lane.stop();
    assert_eq!(story.applied(), ["first", "second", "third"]);
    assert!(join_all([first, second, third]).await.iter().all(Result::is_ok));
    assert!(story.closed.try_recv().is_ok(), "the writer was closed");
    assert!(!story.lane.is_up());
    let later = story.queue(&["later"], deadline()).await.await;
    assert_eq!(later.expect_err("refused"), rejected(gone()));
    story.lane.stop();
    assert!(story.closed.try_recv().is_err(), "and closed once");
}

#[tokio::test]
async fn a_dropped_future_cancels_nothing() {
    let (mut story, first) = Story::occupied(Plan::default()).await;
    drop(first);
    drop(story.queue(&["second"], deadline()).await);
    story.open_gate();
    story.lane.stop();
    assert_eq!(story.applied(), ["first", "second"]);
}

#[tokio::test]
async fn a_writer_that_dies_leaves_its_batch_in_doubt_and_the_shard_unavailable() {
    let plan = Plan { panics: Some("first".into()), ..Plan::default() };
    let (mut story, first) = Story::occupied(plan).await;
    story.open_gate();
    let expected = LaneFailure { error: gone(), outcome: Outcome::Unknown };
    assert_eq!(first.await.expect_err("in doubt"), expected);
    story.lane.stop();
    assert!(!story.lane.is_up());
    let later = story.queue(&["later"], deadline()).await.await;
    assert_eq!(later.expect_err("refused"), rejected(gone()));
    assert_eq!(story.applied(), [""; 0]);
}

#[tokio::test]
async fn operations_queued_behind_a_writer_that_dies_are_rejected() {
    let plan = Plan { panics: Some("first".into()), ..Plan::default() };
    let (mut story, _first) = Story::occupied(plan).await;
    let waiting = story.queue(&["waiting"], deadline()).await;
    story.open_gate();
    assert_eq!(waiting.await.expect_err("not executed"), rejected(gone()));
    assert_eq!(story.applied(), [""; 0]);
}
