//! Tests of the real router over HTTP, one binary for all.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod access;
mod advice;
mod advice_followed;
mod aliases;
mod backend;
mod backup;
mod bad_input;
mod bit_flips;
mod browser_policy;
mod bulk;
mod cache;
mod cache_config;
mod cache_failures;
mod cache_shared;
mod citus;
mod citus_databases;
mod client;
mod commands;
mod compose;
mod compression;
mod conditions;
mod config;
mod contract;
mod csv_records;
mod databases;
mod declarations;
mod distribution;
mod doctor;
mod durability;
mod earlier_metrics;
mod faults;
mod fences;
mod folders;
mod frames;
mod generated_clients;
mod harness;
mod health;
mod idempotency;
mod import_graph;
mod kv;
mod lab;
mod lab_servers;
mod language;
mod layering;
mod levels;
mod links;
mod lost_files;
mod metrics;
mod metrics_kept;
mod metrics_known;
mod metrics_live;
mod metrics_of_errors;
mod moves;
mod moves_saved;
mod moves_watched;
mod operations;
#[path = "../../../shard-manager/tests/support/other_program.rs"]
mod other_program;
#[cfg(feature = "otlp")]
mod otlp;
mod pages;
mod placement;
#[path = "../../../shard-manager/tests/support/prerequisites.rs"]
mod prerequisites;
mod problem_texts;
mod problems;
mod python;
mod random;
mod reads;
mod rebalance_commands;
mod rebalance_plans;
mod rebalances;
mod rebalances_watched;
mod redis;
mod replicas;
mod request_hints;
#[cfg(not(feature = "sabotage"))]
mod sabotage;
mod scrape;
mod secrets;
mod served_page;
mod servers;
mod shard_key_filters;
mod shard_keys;
mod shards_join;
mod shards_join_servers;
mod shared_routers;
mod sockets;
mod strategies;
mod streams;
mod streams_budget;
mod streams_live;
mod surface;
mod tables;
#[path = "../../../shard-manager/tests/support/tcp_proxy.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod tcp_proxy;
mod tls;
mod tokens;
mod traces;
mod transactions;
mod type_size;
mod unsupported_headers;
mod writes;
