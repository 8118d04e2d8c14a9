//! Store: the engines that keep rows.
//!
//! **Not here:** the traits that they implement (`engine`), the choice of the node (`manager`, `shard`).

pub mod postgres;
pub mod sqlite;

pub(crate) use crate::engine::{
    AsyncWriter, BatchDone, BatchFailure, NodeRows, SchemaChange, Scope, TableSize, Unit,
    WorkerNode, Writer, forgetting, row_image as image, schema_intent as intent,
    system_tables as schema, table_declaration as declared,
};
pub(crate) use crate::engine::{cluster_spec as cluster, open_error};
