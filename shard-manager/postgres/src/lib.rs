//! PostgreSQL: the engine whose nodes are servers, reached by diesel-async without libpq.
//!
//! **Invariant:** a session has the requested role when it is handed out, and a commit on it is
//! durable.
//! **Not here:** the SQLite engine, the choice of a node.
#![forbid(unsafe_code)]

pub mod access_session;
pub mod audit;
mod backend;
pub mod backup;
mod batch_results;
mod batch_statements;
mod batch_transaction;
mod binary_value;
pub mod catalog;
mod catalog_follower;
mod catalog_session;
pub mod catalog_watch;
pub mod citus;
mod citus_statements;
mod citus_watch;
mod cluster_sessions;
mod connect_error;
mod db_error;
mod ddl;
mod declarations;
mod dialect;
mod discovery;
pub mod export;
mod free_connections;
pub mod hazards;
mod insert_predictor;
mod json_rows;
mod key_reads;
mod known_slots;
mod lane_session;
mod new_shard_check;
pub mod node;
pub mod node_address;
mod node_role;
pub mod open;
mod position_query;
mod position_samples;
pub mod primary_tracker;
mod proof;
pub mod readers;
mod refusals;
pub mod replay_delay;
pub mod replica;
pub mod requirements;
mod row_arrays;
mod scan;
pub mod session;
mod shard_addresses;
pub mod shard_database;
mod shard_indexes;
pub mod shard_listing;
mod shard_opening;
mod slot_changes;
mod slot_moves;
pub mod slot_session;
mod sql;
mod statement;
mod statement_cache;
pub mod target;
pub mod temporary_database;
pub mod term;
mod timeline_file;
mod timestamp;
mod tls;
mod triggered_tables;
mod upsert_transaction;
pub mod writer;

pub use connect_error::ConnectError;
