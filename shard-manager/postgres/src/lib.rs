//! PostgreSQL: the engine whose nodes are servers, reached by diesel-async without libpq.
//!
//! **Invariant:** a session has the requested role when it is handed out, and a commit on it is
//! durable.
//! **Not here:** addresses of nodes (`node_address`); the SQLite engine; the choice of a node.
#![forbid(unsafe_code)]

mod backend;
mod batch;
mod careful;
pub mod catalog;
mod catalog_follower;
pub mod catalog_watch;
mod cell;
pub mod citus;
mod connect_error;
mod db_error;
mod ddl;
mod declarations;
mod dialect;
mod discovery;
pub mod hazards;
pub mod node;
pub mod open;
mod page;
mod point;
mod position_query;
pub mod primary_tracker;
mod proof;
pub mod readers;
pub mod replica;
pub mod requirements;
mod scan;
pub mod session;
pub mod shard_database;
mod sql;
mod statement;
mod statement_cache;
mod timestamp;
mod tls;
mod transaction;
mod upsert;
pub mod writer;

pub use connect_error::ConnectError;
