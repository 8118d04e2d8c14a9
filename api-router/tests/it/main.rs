//! Stories told through the real router over HTTP, one binary for all.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod aliases;
mod bad_input;
mod bulk;
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
mod faults;
mod figures;
mod ground;
mod harness;
mod idempotency;
mod kv;
mod lab;
mod lab_servers;
mod layering;
mod levels;
mod operations;
mod pages;
mod placement;
mod problems;
mod random;
mod reads;
mod replicas;
#[cfg(not(feature = "sabotage"))]
mod sabotage;
mod saving;
mod secrets;
mod servers;
mod sockets;
mod strategies;
mod streams;
mod streams_live;
mod surface;
mod tables;
mod tls;
mod tokens;
mod transactions;
mod wire;
mod writes;
