//! Tests of changes of tables and slots in a lane, and of writes whose slots are refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use shard_manager::engine::SchemaChange;
use shard_manager::engine::slot_change::{SlotChange, SlotChangeError, SlotStep};
use shard_manager::error::{Error, Outcome};
use shard_manager::row_change::{RowDone, WriteRequest};
use shard_manager::slot_refusal::SlotRefusal;
use shard_manager::slot_set::SlotSet;

use crate::cluster::deadline;
use crate::lane::{Plan, Story, keys, rejected, row};

#[tokio::test]
async fn a_schema_change_keeps_its_place_among_the_writes_and_runs_alone() {
    let (mut story, first) = Story::occupied(Plan::default()).await;
    let before = story.queue(&["a", "b"], deadline()).await;
    let change = SchemaChange::Make(Arc::clone(&row("x", 0).table));
    let lane = Arc::clone(&story.lane);
    let made = lane.solo().change_schema(change.clone(), deadline());
    tokio::pin!(made);
    let too_late = lane.solo().change_schema(change, Instant::now());
    let after = tokio::select! {
        biased;
        made = &mut made => panic!("it waits: {made:?}"),
        late = too_late => {
            assert_eq!(late, Err(rejected(Error::DeadlinePassed)));
            story.queue(&["c"], deadline()).await
        }
    };
    story.open_gate();
    assert_eq!(keys(first.await), [Ok("first".into())]);
    assert_eq!(keys(before.await), [Ok("a".into()), Ok("b".into())]);
    assert_eq!(made.await, Ok(4));
    assert_eq!(keys(after.await), [Ok("c".into())]);
    assert_eq!(story.applied(), ["first", "a", "b", "table t", "c"], "and the late one never");
}

#[tokio::test]
async fn a_change_of_slots_keeps_its_place_among_the_writes_and_runs_alone() {
    let (mut story, first) = Story::occupied(Plan::default()).await;
    let before = story.queue(&["a", "b"], deadline()).await;
    let slots: SlotSet = [row("a", 0).slot].into_iter().collect();
    let change = SlotChange { slots: slots.clone(), step: SlotStep::Release };
    let lane = Arc::clone(&story.lane);
    let changed = lane.solo().change_slots(change.clone(), deadline());
    tokio::pin!(changed);
    let too_late = lane.solo().change_slots(change, Instant::now());
    let after = tokio::select! {
        biased;
        changed = &mut changed => panic!("it waits: {changed:?}"),
        late = too_late => {
            let (error, outcome) = (Error::DeadlinePassed, Outcome::Rejected);
            assert_eq!(late, Err(SlotChangeError::Failed { error, outcome }));
            story.queue(&["c"], deadline()).await
        }
    };
    story.open_gate();
    assert!(first.await.is_ok() && before.await.is_ok());
    assert_eq!(changed.await, Ok(4));
    assert_eq!(keys(after.await), [Ok("c".into())]);
    let expected = ["first", "a", "b", &format!("slots {slots}"), "c"];
    assert_eq!(story.applied(), expected, "and the late one never");
}

#[tokio::test]
async fn a_request_with_a_refused_slot_is_handed_back() {
    let refusal = SlotRefusal::absent(row("moved", 0).slot);
    let refused = HashMap::from([("moved".to_owned(), refusal)]);
    let (mut story, first) = Story::occupied(Plan { refused, ..Plan::default() }).await;
    let sent = WriteRequest::from(vec![row("a", 0), row("moved", 7)]);
    let mixed = story.queue_request(sent.clone(), deadline()).await;
    let accepted = story.queue(&["b"], deadline()).await;
    story.open_gate();
    assert!(first.await.is_ok_and(|applied| applied.refused.is_none()));
    let mixed = mixed.await.expect("the operation was executed");
    assert_eq!(mixed.refused.as_deref(), Some(&sent));
    assert_eq!(mixed.rows[1], Err(Error::SlotRefused(refusal)));
    assert!(accepted.await.is_ok_and(|applied| applied.refused.is_none()));
}

#[tokio::test]
async fn a_row_after_a_refused_one_is_not_applied_before_it() {
    let refusal = SlotRefusal::absent(row("moved", 0).slot);
    let refused = HashMap::from([("moved".to_owned(), refusal)]);
    // The culprit makes the chunk fall into parts.
    let plan = Plan { refused, culprits: ["bad".into()].into(), ..Plan::default() };
    let (mut story, _first) = Story::occupied(plan).await;
    let chunk = story.queue(&["a", "moved", "bad", "moved"], deadline()).await;
    story.open_gate();
    let done = chunk.await.expect("the operation was executed");
    assert!(done.refused.is_some() && done.rows[0].is_ok());
    let is_refused = |row: &Result<RowDone, Error>| matches!(row, Err(Error::SlotRefused(_)));
    assert!(done.rows[1..].iter().all(is_refused), "{:?}", done.rows);
    // The later row waits with the earlier one of its slot, instead of being sent before it.
    assert_eq!(done.rows[3], done.rows[1]);
}
