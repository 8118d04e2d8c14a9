//! Integration tests of the shard manager. One binary, so that it links once and tests run in
//! parallel.

#[path = "../support/access_contract.rs"]
mod access_contract;
mod access_store;
mod advice;
mod advice_findings;
mod atomic_groups;
#[path = "../support/begun_move.rs"]
mod begun_move;
mod bounded_indexes;
mod cancelled_moves;
mod catalog;
mod catalog_upgrade;
mod cluster;
mod cursor;
mod declarations;
mod evaluation;
mod failures;
mod fair_channel;
mod fair_lane;
mod fair_queue;
#[path = "../support/fair_steps.rs"]
mod fair_steps;
mod foreign_rows;
#[path = "../support/group_contract.rs"]
mod group_contract;
mod groups;
mod history;
mod idempotency;
#[path = "../support/join_contract.rs"]
mod join_contract;
mod joining;
mod joins;
mod keyspace;
mod keyspaces;
mod lane;
mod lane_refusals;
mod lane_slots;
mod listed_moves;
mod map_changes;
#[path = "../support/move_clients.rs"]
mod move_clients;
#[path = "../support/move_contract.rs"]
mod move_contract;
mod move_pair;
mod move_rounds;
#[path = "../support/move_steps.rs"]
mod move_steps;
mod moved_tokens;
mod movement;
mod moves;
mod moves_audited;
mod named_keys;
#[path = "../support/nested_conditions.rs"]
mod nested_conditions;
mod partition_columns;
mod placement;
mod placements;
#[path = "../support/prerequisites.rs"]
mod prerequisites;
mod promoting_reader;
mod rebalance;
#[path = "../support/rebalance_contract.rs"]
mod rebalance_contract;
mod reference;
mod refused_writes;
mod replicas;
mod replication;
#[cfg(feature = "sabotage")]
mod sabotaged;
mod scans;
mod scatter_gaps;
#[path = "../support/scratch.rs"]
mod scratch;
mod session_epoch;
mod shard_states;
mod slot_changes;
mod slot_moves;
mod slot_nodes;
mod store;
mod tables;
mod token;
mod values;
mod vitals;

/// Configuration for this many cases of a property. The cases are the same in every run, so that a
/// failure is repeatable.
fn cases(count: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config {
        cases: count,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0x7e55e4a),
        ..proptest::test_runner::Config::default()
    }
}
