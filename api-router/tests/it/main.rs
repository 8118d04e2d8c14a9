//! Stories told through the real router over HTTP, one binary for all.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod advice;
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
mod figures_kept;
mod figures_known;
mod figures_live;
mod figures_of_errors;
mod frames;
mod ground;
mod harness;
mod idempotency;
mod kv;
mod lab;
mod lab_servers;
mod layering;
mod levels;
mod operations;
#[cfg(feature = "otlp")]
mod otlp;
mod pages;
mod placement;
mod problems;
mod python;
mod random;
mod reads;
mod replicas;
#[cfg(not(feature = "sabotage"))]
mod sabotage;
mod saving;
mod scrape;
mod secrets;
mod served_page;
mod servers;
mod sockets;
mod strategies;
mod streams;
mod streams_live;
mod surface;
mod tables;
mod tls;
mod tokens;
mod traces;
mod transactions;
mod wire;
mod writes;
