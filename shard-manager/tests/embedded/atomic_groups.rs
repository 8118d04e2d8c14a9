//! Property test of atomic groups: rows that are stored all or none, among independent rows,
//! compared with a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;
use shard_manager::engine::{WriteGroup, Writer};
use shard_manager::error::Error;
use shard_manager::position::TimelineHistory;
use shard_manager::replication::ReplicationState;
use shard_manager::row_change::{Change, Operation, RowWrite};
use shard_manager::store::sqlite::writer::SqliteWriter;

use crate::cases;
use crate::cluster::{Cluster, ints};
use crate::store::{contents, replay};

/// Changes of a few rows; `true` marks changes that form one atomic group.
type Batch = Vec<(bool, Vec<(Operation, u8)>)>;

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let operation = prop::sample::select(Operation::ALL.to_vec());
    let change = (operation, 0..8_u8);
    let group = (any::<bool>(), prop::collection::vec(change, 1..5));
    prop::collection::vec(prop::collection::vec(group, 1..5), 1..6)
}

/// Result of a change, depending on whether the row exists.
fn step(rows: &mut BTreeMap<u8, ()>, operation: Operation, key: u8) -> Result<Change, Error> {
    let there = rows.contains_key(&key);
    match (operation, there) {
        (Operation::Upsert | Operation::Insert, false) => {
            rows.insert(key, ());
            Ok(Change::Created)
        }
        (Operation::Upsert | Operation::Update, true) => Ok(Change::Changed),
        (Operation::Insert, true) => Err(Error::Exists),
        (Operation::Delete, true) => {
            rows.remove(&key);
            Ok(Change::Removed)
        }
        (Operation::Update | Operation::Delete, false) => Err(Error::NoSuchRow),
    }
}

fn model(rows: &mut BTreeMap<u8, ()>, batch: &Batch) -> Vec<Result<Change, Error>> {
    let mut answers = Vec::new();
    for (whole, changes) in batch {
        let before = rows.clone();
        let mut done: Vec<_> = Vec::new();
        for (operation, key) in changes {
            done.push(step(rows, *operation, *key));
            if *whole && done.last().is_some_and(Result::is_err) {
                break;
            }
        }
        match done.last() {
            Some(Err(error)) if *whole => {
                let (culprit, error) = (done.len() - 1, error.clone());
                *rows = before;
                answers.extend((0..changes.len()).map(|at| {
                    if at == culprit {
                        return Err(error.clone());
                    }
                    Err(Error::Undone { row: 100 + culprit, cause: Box::new(error.clone()) })
                }));
            }
            Some(_) | None => answers.extend(done),
        }
    }
    answers
}

#[tokio::test]
async fn atomic_groups_are_stored_or_undone_without_affecting_neighbours() {
    let mut runner = TestRunner::new(cases(1));
    for _ in 0..40 {
        let batches = batches().new_tree(&mut runner).expect("batches").current();
        let cluster = Cluster::with_shards(1);
        let change = |operation: Operation, key: u8| -> RowWrite {
            let json = match operation {
                Operation::Delete => json!({}),
                Operation::Upsert | Operation::Insert | Operation::Update => json!({"value": key}),
            };
            cluster.prepare("kv", operation, &format!("k{key}"), &json.to_string()).1
        };
        let prepared: Vec<Vec<(bool, Vec<RowWrite>)>> = batches
            .iter()
            .map(|batch| {
                let group = |(whole, changes): &(bool, Vec<(Operation, u8)>)| {
                    (*whole, changes.iter().map(|(op, key)| change(*op, *key)).collect())
                };
                batch.iter().map(group).collect()
            })
            .collect();
        let file = cluster.file(1);
        let _dir = cluster.stop();
        let history = TimelineHistory::new(vec![(1, 0)]).expect("a history");
        let replication = Arc::new(ReplicationState::new(history, 0, 0));
        let mut writer = SqliteWriter::open("shard1", &file, &replication).expect("the file opens");
        let mut rows = BTreeMap::new();
        let places: Vec<usize> = (100..110).collect();
        for (batch, prepared) in batches.iter().zip(&prepared) {
            let groups: Vec<WriteGroup<'_>> = prepared
                .iter()
                .map(|(whole, rows)| WriteGroup {
                    rows,
                    atomic_rows: whole.then_some(&places[..rows.len()]),
                })
                .collect();
            let done = writer.apply(&groups).expect("the batch is stored").rows;
            let reported: Vec<_> =
                done.into_iter().map(|row| row.map(|done| done.change)).collect();
            assert_eq!(reported, model(&mut rows, batch), "{batch:?}");
        }
        writer.close();
        let counted = ints(&file, "SELECT rows AS value FROM tessera_counts WHERE name = 'kv'");
        assert_eq!(counted, [rows.len() as i64]);
        let stored = contents(&file);
        assert_eq!(stored.len(), rows.len());
        assert_eq!(
            replay(&file),
            stored,
            "the log has what is stored, and nothing that was undone"
        );
    }
}
