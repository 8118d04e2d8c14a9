//! Model: the data types and pure functions that all parts of a cluster share, such as keys, slots,
//! the shard map, tables, queries and errors.
//!
//! **Invariant:** nothing here reads a clock or a file, connects to a database or runs in the
//! background.
//! **Not here:** access to databases (the engines `sqlite` and `postgres`).
#![forbid(unsafe_code)]

pub mod advice;
pub mod consistency;
pub mod csv;
pub mod cursor;
pub mod declaration;
pub mod error;
pub mod fair_share;
pub mod finding;
pub mod group_number;
pub mod idempotency;
pub mod json_members;
pub mod keyspace;
pub mod map_change;
pub mod placement;
pub mod position;
pub mod query;
pub mod reason;
pub mod result_rows;
pub mod row_change;
pub mod sabotage;
pub mod shard_map;
pub mod simulation;
pub mod slot_plan;
pub mod slot_refusal;
pub mod slot_set;
pub mod stats;
pub mod stored_location;
pub mod table;
pub mod table_group;
pub mod table_index;
pub mod token;
pub mod topology;
pub mod value;
