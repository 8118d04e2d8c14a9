//! Tests of write lanes whose node refuses writes although its connection is not lost. The writes
//! wait until the node accepts them, but not behind a single operation that a ready node refuses.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, LocalBoxFuture, join_all, ready};
use shard_manager::engine::runtime_pool::RuntimePool;
use shard_manager::engine::slot_change::{SlotChange, SlotChangeError};
use shard_manager::engine::slot_move::{MoveChange, MoveChangeError};
use shard_manager::engine::{
    AsyncWriter, BatchDone, BatchFailure, LaneControls, SchemaChange, WriteGroup, WriterKind,
};
use shard_manager::error::{Error, Outcome};
use shard_manager::lane::Lane;
use shard_manager::moves::request_context::MoveEffect;
use shard_manager::position::Position;
use shard_manager::row_change::{Change, RowDone, RowWrite, WriteRequest};
use tokio::runtime::Handle;

use crate::cluster::deadline;
use crate::lane::{Answer, keys, rejected, row};

/// State of a fake node.
#[derive(Default)]
struct Node {
    /// True if it accepts sessions for writes.
    is_ready: bool,
    /// True if it refuses every write.
    refuses_all: bool,
    /// True if it accepts every write, including those of keys that begin with `bad`.
    accepts_all: bool,
    /// Number of the trial at which it is lost; 0 if it is never lost.
    lost_at: usize,
    /// Number of readiness checks since it was lost.
    checks: usize,
    tried: Vec<Vec<String>>,
    applied: Vec<String>,
}

/// Fake writer. It refuses a batch with a key that begins with `bad`, as if there were no primary,
/// and requires a batch to be split if it has several keys that all begin with `half`.
struct Fake(Arc<Mutex<Node>>);

fn unavailable() -> Error {
    Error::ShardUnavailable { shard: "shard1".into() }
}

impl Fake {
    fn node(&self) -> MutexGuard<'_, Node> {
        self.0.lock().expect("not poisoned")
    }

    fn write(&self, groups: &[WriteGroup<'_>]) -> Result<BatchDone, BatchFailure> {
        let mut node = self.node();
        let rows = groups.iter().flat_map(|group| group.rows);
        let keys: Vec<String> = rows.map(|row| row.key.clone()).collect();
        node.tried.push(keys.clone());
        if node.tried.len() == node.lost_at {
            (node.is_ready, node.checks) = (false, 0);
        }
        let is_bad = !node.accepts_all && keys.iter().any(|key| key.starts_with("bad"));
        if node.refuses_all || is_bad {
            let (error, outcome) = (unavailable(), Outcome::Rejected);
            return Err(BatchFailure { error, outcome, retry_split: false });
        }
        if keys.len() > 1 && keys.iter().all(|key| key.starts_with("half")) {
            let (error, outcome) = (Error::Internal, Outcome::Rejected);
            return Err(BatchFailure { error, outcome, retry_split: true });
        }
        let done = keys.into_iter().map(|key| {
            node.applied.push(key.clone());
            let (change, version) = (Change::Created, node.applied.len() as i64);
            Ok(RowDone { change, version, json: key.into_bytes(), replayed: false })
        });
        let rows = done.collect();
        let sequence = node.applied.len() as u64;
        Ok(BatchDone { rows, position: Position { timeline: 1, sequence } })
    }
}

impl AsyncWriter for Fake {
    fn ready(&mut self) -> BoxFuture<'_, bool> {
        let mut node = self.node();
        node.checks += 1;
        Box::pin(ready(node.is_ready))
    }

    fn apply<'a>(
        &'a mut self,
        groups: &'a [WriteGroup<'a>],
    ) -> BoxFuture<'a, Result<BatchDone, BatchFailure>> {
        Box::pin(ready(self.write(groups)))
    }

    fn change_schema<'a>(
        &'a mut self,
        _: &'a SchemaChange,
    ) -> BoxFuture<'a, Result<u64, BatchFailure>> {
        Box::pin(ready(Ok(0)))
    }

    fn change_slots<'a>(
        &'a mut self,
        _: &'a SlotChange,
    ) -> BoxFuture<'a, Result<u64, SlotChangeError>> {
        Box::pin(ready(Ok(0)))
    }

    fn change_move<'a>(
        &'a mut self,
        _: &'a MoveChange,
    ) -> BoxFuture<'a, Result<MoveEffect, MoveChangeError>> {
        Box::pin(ready(Err(MoveChangeError::Unsupported)))
    }

    #[cfg(feature = "sabotage")]
    fn commit_owed(&mut self) {}

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }
}

/// A lane with a fake node that accepts no sessions yet.
struct Story {
    lane: Arc<Lane>,
    node: Arc<Mutex<Node>>,
}

impl Story {
    fn begin() -> Self {
        let node = Arc::new(Mutex::new(Node::default()));
        let runtime = RuntimePool::new(Handle::current()).handle();
        let writer = WriterKind::Task(Box::new(Fake(Arc::clone(&node))), runtime);
        let lane = Lane::start("shard1", writer, LaneControls::default()).expect("a task");
        Self { lane: Arc::new(lane), node }
    }

    fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().expect("not poisoned")
    }

    /// Queues an operation of one row now; the returned future yields its result.
    async fn queue(&self, key: &str) -> LocalBoxFuture<'static, Answer> {
        self.queue_rows(vec![row(key, 0)]).await
    }

    /// Queues an operation of these rows now.
    async fn queue_rows(&self, rows: Vec<RowWrite>) -> LocalBoxFuture<'static, Answer> {
        let (lane, request) = (Arc::clone(&self.lane), WriteRequest::from(rows));
        let mut answer: LocalBoxFuture<'static, Answer> =
            Box::pin(async move { lane.apply(request, deadline()).await });
        // A single poll queues the operation.
        tokio::select! {
            biased;
            answered = &mut answer => Box::pin(ready(answered)),
            () = ready(()) => answer,
        }
    }

    async fn queue_all(&self, keys: &[&str]) -> Vec<LocalBoxFuture<'static, Answer>> {
        let mut answers = Vec::new();
        for key in keys {
            answers.push(self.queue(key).await);
        }
        answers
    }

    /// Waits until this many further batches have been tried.
    async fn until_tried(&self, more: usize) {
        let all = self.node().tried.len() + more;
        self.until(|node| node.tried.len() >= all).await;
    }

    async fn until(&self, is_met: impl Fn(&Node) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_met(&self.node()) {
            assert!(Instant::now() < deadline, "{:?}", self.node().tried);
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_a_ready_node_always_refuses_fails_and_the_others_are_applied() {
    for culprit in [0, 3, 8] {
        let story = Story::begin();
        let mut names: Vec<String> = (0..10).map(|number| format!("k{number}")).collect();
        names[culprit] = "bad".to_owned();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let answers = story.queue_all(&names).await;
        story.node().is_ready = true;
        for (name, answer) in names.iter().zip(join_all(answers).await) {
            if *name == "bad" {
                assert_eq!(answer.expect_err("refused"), rejected(unavailable()));
            } else {
                assert_eq!(keys(answer), [Ok((*name).to_owned())]);
            }
        }
        let good: Vec<&str> = names.into_iter().filter(|name| *name != "bad").collect();
        assert_eq!(story.node().applied, good, "each once, and in order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_operation_without_others_fails_once_a_later_one_is_applied() {
    let story = Story::begin();
    let culprit = story.queue("bad").await;
    story.node().is_ready = true;
    story.until_tried(3).await;
    let later = story.queue("later").await;
    assert_eq!(keys(later.await), [Ok("later".into())]);
    assert_eq!(culprit.await.expect_err("refused"), rejected(unavailable()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_a_ready_node_refuses_all_writes_they_wait_and_each_is_applied_once() {
    let story = Story::begin();
    let names = ["a", "b", "c", "d", "e", "f"];
    let answers = story.queue_all(&names).await;
    story.node().refuses_all = true;
    story.node().is_ready = true;
    story.until_tried(40).await;
    assert!(story.node().tried.iter().any(|tried| tried.len() == 1), "they were halved");
    story.node().refuses_all = false;
    for (name, answer) in names.into_iter().zip(join_all(answers).await) {
        assert_eq!(keys(answer), [Ok(name.to_owned())]);
    }
    let mut applied = story.node().applied.clone();
    applied.sort();
    assert_eq!(applied, names);
}

/// The node is lost when the first operation is tried on its own: the second time, or the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_operations_wait_for_a_node_that_is_lost_while_they_are_tried_again() {
    const LOST_AT: usize = 6;
    for names in [["bad1", "bad2"], ["bad1", "k"]] {
        let story = Story::begin();
        let answers = story.queue_all(&names).await;
        story.node().lost_at = LOST_AT;
        story.node().is_ready = true;
        story.until(|node| node.tried.len() >= LOST_AT && node.checks >= 2).await;
        {
            let mut node = story.node();
            let tried = &node.tried;
            assert_eq!((tried.len(), &tried[LOST_AT - 1][..]), (LOST_AT, &["bad1".to_owned()][..]));
            (node.accepts_all, node.is_ready) = (true, true);
        }
        for (name, answer) in names.into_iter().zip(join_all(answers).await) {
            assert_eq!(keys(answer), [Ok(name.to_owned())]);
        }
        let mut applied = story.node().applied.clone();
        applied.sort();
        assert_eq!(applied, names, "each once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_operation_fails_if_a_later_chunk_on_its_slot_is_applied_in_halves() {
    let story = Story::begin();
    let culprit = story.queue("bad").await;
    let mut rows = vec![row("half1", 0), row("half2", 0)];
    rows[0].slot = row("bad", 0).slot;
    let chunk = story.queue_rows(rows).await;
    story.node().is_ready = true;
    assert_eq!(keys(chunk.await), [Ok("half1".into()), Ok("half2".into())]);
    assert_eq!(culprit.await.expect_err("refused"), rejected(unavailable()));
    assert_eq!(story.node().tried.last(), Some(&vec!["half2".to_owned()]), "not tried again");
}
