//! Tests of PostgreSQL nodes and of clusters of them, with real servers. The tests need the
//! programs `initdb`, `pg_ctl` and `pg_basebackup`; without these programs, the tests of connecting
//! print that they are skipped (or fail if `TESSERA_TEST_REQUIRE` lists `postgres`), and all other
//! tests fail. With LONG_TESTS in the environment, more crashes are tested.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

#[path = "../support/access_contract.rs"]
mod access_contract;
mod access_store;
mod addresses;
mod backing_up;
#[path = "../support/begun_move.rs"]
mod begun_move;
#[path = "../access/bound_specs.rs"]
mod bound_specs;
#[path = "../access/bound_steps.rs"]
mod bound_steps;
mod cached;
mod cancelled_moves;
mod catalog_tables;
mod certificates;
mod certified;
mod checking;
mod cluster;
mod commands;
#[path = "../access/compared_callers.rs"]
mod compared_callers;
mod concurrent_routers;
mod connecting;
mod connections;
mod copied_shards;
mod crash;
mod dumping;
mod engine_parity;
mod exhausted;
mod exporting;
mod failover;
mod fair;
#[path = "../support/fair_steps.rs"]
mod fair_steps;
mod faults;
mod fence;
#[path = "../support/free_port.rs"]
mod free_port;
#[path = "../support/group_contract.rs"]
mod group_contract;
mod groups;
mod isolation;
mod join_refusals;
mod joined_shards;
mod joins;
mod lag;
mod listed_moves;
mod log;
mod lost_epochs;
mod lost_shards;
mod meddling;
#[path = "../support/move_clients.rs"]
mod move_clients;
#[path = "../support/move_contract.rs"]
mod move_contract;
#[path = "../support/move_steps.rs"]
mod move_steps;
mod moved_slots;
mod moves;
mod moves_without_catalog;
mod moves_without_room;
mod moves_without_shard;
#[path = "../support/nested_conditions.rs"]
mod nested_conditions;
mod network;
mod new_shard;
mod opening;
#[path = "../support/prerequisites.rs"]
mod prerequisites;
mod random_changes;
mod random_reads;
mod read_write_steps;
#[path = "../support/rebalance_contract.rs"]
mod rebalance_contract;
mod recorded_changes;
#[path = "../cache/redis_server.rs"]
#[expect(dead_code, reason = "other stories need more of it")]
mod redis_server;
mod repeated_restores;
mod requirements;
mod rights;
mod routed;
mod rows;
#[path = "../support/scratch.rs"]
mod scratch;
mod separate_catalog;
mod server;
mod session_epoch;
mod slot_bits;
mod slot_changes;
mod slot_reads;
mod slot_router;
mod snapshots;
mod tables;
#[path = "../support/tcp_proxy.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod tcp_proxy;
mod tls;
mod vitals;
