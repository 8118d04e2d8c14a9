//! Benchmark of a lane: nanoseconds per write, from the queue to the answer, with a writer that
//! stores nothing, for one tenant and for many.
//!
//! `cargo bench -p shard-manager --bench lane`. "no tenants" is a cluster without access
//! control; "one tenant" is one with it. A bounded number of writes is in flight: few of them fit
//! in one batch and keep the plain order, many wait in turns of their tenants.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use shard_manager::engine::slot_change::{SlotChange, SlotChangeError};
use shard_manager::engine::slot_move::{MoveChange, MoveChangeError};
use shard_manager::engine::{
    BatchDone, BatchFailure, LaneControls, SchemaChange, WriteGroup, Writer, WriterKind,
};
use shard_manager::fair_share::FairShare;
use shard_manager::keyspace::{Keyspace, ShardKey};
use shard_manager::lane::Lane;
use shard_manager::moves::request_context::MoveEffect;
use shard_manager::position::Position;
use shard_manager::row_change::{Change, Operation, RowDone, RowWrite, WriteRequest};
use shard_manager::table::{Column, Table};
use shard_manager::value::{ColumnType, Value};

/// Writes of one run.
const WRITES: usize = 200_000;
/// Number of runs. Odd, so that the median is one of them.
const RUNS: usize = 11;

/// Writer that stores nothing.
struct Nowhere(u64);

impl Writer for Nowhere {
    fn apply(&mut self, groups: &[WriteGroup<'_>]) -> Result<BatchDone, BatchFailure> {
        let rows = groups.iter().flat_map(|group| group.rows).map(|_| {
            self.0 += 1;
            let (change, version, json) = (Change::Changed, 1, Vec::new());
            Ok(RowDone { change, version, json, replayed: false })
        });
        let rows = rows.collect();
        Ok(BatchDone { rows, position: Position { timeline: 1, sequence: self.0 } })
    }

    fn change_schema(&mut self, _: &SchemaChange) -> Result<u64, BatchFailure> {
        Ok(self.0)
    }

    fn change_slots(&mut self, _: &SlotChange) -> Result<u64, SlotChangeError> {
        Err(SlotChangeError::Unsupported { shard: "shard1".to_owned() })
    }

    fn change_move(&mut self, _: &MoveChange) -> Result<MoveEffect, MoveChangeError> {
        Err(MoveChangeError::Unsupported)
    }

    #[cfg(feature = "sabotage")]
    fn commit_owed(&mut self) {}

    fn close(&mut self) {}
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    for in_flight in [64, 2_000] {
        let mut base = None;
        for (name, tenants) in
            [("no tenants", 0), ("one tenant", 1), ("8 tenants", 8), ("1000 tenants", 1_000)]
        {
            let run = || runtime.block_on(run(tenants, in_flight));
            run(); // Warms up.
            let mut runs: Vec<f64> = (0..RUNS).map(|_| run()).collect();
            runs.sort_by(f64::total_cmp);
            let median = runs[RUNS / 2];
            let ratio = median / *base.get_or_insert(median);
            println!(
                "{in_flight:>5} writes in flight, {name:<14} {median:>7.0} ns per write, \
                 {ratio:.3} of the first (median of {RUNS} runs; {:.0} to {:.0})",
                runs[0],
                runs[RUNS - 1]
            );
        }
    }
}

/// Nanoseconds per write.
async fn run(tenants: u64, in_flight: usize) -> f64 {
    let writer = WriterKind::Thread(Box::new(Nowhere(0)));
    let lane = Lane::start("shard1", writer, LaneControls::default()).expect("a thread");
    let row = row();
    let deadline = Instant::now() + Duration::from_secs(600);
    let write = |number: usize| {
        let share = match tenants {
            0 => FairShare::COMMON,
            // Numbers of tenants are spread over all bits.
            _ => {
                FairShare::new((1 + number as u64 % tenants).wrapping_mul(0x9e37_79b9_7f4a_7c15), 1)
            }
        };
        lane.apply(WriteRequest { share, ..vec![row.clone()].into() }, deadline)
    };
    let began = Instant::now();
    let mut sent: FuturesUnordered<_> = (0..in_flight).map(write).collect();
    let mut next = in_flight;
    while let Some(done) = sent.next().await {
        done.expect("it is applied");
        if next < WRITES {
            sent.push(write(next));
            next += 1;
        }
    }
    began.elapsed().as_nanos() as f64 / WRITES as f64
}

fn row() -> RowWrite {
    let id = Column { name: "id".into(), kind: ColumnType::Text, nullable: false, default: None };
    let table = Table::new("t", vec![id], &["id".into()], None).expect("a good table");
    let key = ShardKey::parse("k").expect("a good key");
    RowWrite {
        table: Arc::new(table),
        operation: Operation::Upsert,
        slot: Keyspace::Hash.slot_of(key).expect("a slot"),
        key: "k".to_owned(),
        id: vec![Value::Text("k".to_owned())],
        set: Vec::new(),
        precondition: None,
        idempotency_key: None,
        wants_row: false,
    }
}
