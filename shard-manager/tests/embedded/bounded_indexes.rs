//! Tests of the time limit for the build of an index on a file: a build that takes longer leaves
//! nothing.

use std::sync::Arc;
use std::time::Duration;

use shard_manager::engine::{BatchFailure, IndexChange, SchemaChange, WriteGroup, Writer};
use shard_manager::error::{Error, Outcome};
use shard_manager::row_change::Operation::Upsert;
use shard_manager::row_change::RowWrite;
use shard_manager::table_index::TableIndex;

use crate::cluster::{ints, texts};
use crate::slot_nodes::Nodes;

const INDEXES: &str = r"SELECT name AS value FROM sqlite_schema
    WHERE type = 'index' AND name LIKE 'tessera\_ix\_%' ESCAPE '\'";
const POSITION: &str = "SELECT position AS value FROM tessera_shard";

fn build(
    nodes: &mut Nodes,
    index: &Arc<TableIndex>,
    pause_max: Duration,
) -> Result<u64, BatchFailure> {
    let change = IndexChange::MakeWithin(Arc::clone(index), pause_max);
    nodes.primary().changes.change_schema(&SchemaChange::Index(change))
}

/// Stops builds of an index of this many rows, and then completes one.
fn stop_and_complete(rows: i64) {
    let mut nodes = Nodes::new();
    let index = TableIndex::new(&nodes.table(), "by_version", &["version".to_owned()], false);
    let index = Arc::new(index.expect("an index"));
    let changes: Vec<RowWrite> =
        (0..rows).map(|n| nodes.row(Upsert, &format!("u{n}"), n)).collect();
    let group = WriteGroup { rows: &changes, atomic_rows: None };
    nodes.primary().changes.apply(&[group]).expect("the rows are stored");
    for value in 0..2 {
        let before = ints(&nodes.primary_file, POSITION);
        let failure = build(&mut nodes, &index, Duration::ZERO).expect_err("it takes longer");
        let error = Error::IndexPauseExceeded { pause_max_ms: 0 };
        assert_eq!((failure.error, failure.outcome), (error, Outcome::Rejected));
        assert!(texts(&nodes.primary_file, INDEXES).is_empty(), "nothing is left");
        assert_eq!(ints(&nodes.primary_file, POSITION), before, "nothing is logged");
        nodes.put("ada", value);
    }
    nodes.catch_up();
    assert!(texts(&nodes.replica_file, INDEXES).is_empty(), "replicas do not know of it");
    let built = build(&mut nodes, &index, Duration::MAX).expect("it is built");
    nodes.put("ada", 2);
    nodes.catch_up();
    for file in [&nodes.primary_file, &nodes.replica_file] {
        assert_eq!(texts(file, INDEXES).len(), 1);
        assert_eq!(ints(file, "SELECT count(*) AS value FROM kv"), [rows + 1]);
    }
    let again = build(&mut nodes, &index, Duration::ZERO);
    assert_eq!(again, Ok(built + 1), "an index that exists needs no time");
    nodes.primary_dies();
    nodes.put("ada", 3);
}

#[test]
fn a_build_that_is_interrupted_leaves_nothing_and_a_later_one_succeeds() {
    stop_and_complete(3_000);
}

#[test]
fn a_build_that_is_late_before_its_commit_leaves_nothing_and_a_later_one_succeeds() {
    stop_and_complete(1);
}
