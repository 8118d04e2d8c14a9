//! Engine: the traits between the cluster and the engines that store rows, and the code that the
//! engines share.
//!
//! The cluster has chosen the shard and the node before it calls a trait; an engine knows rows, not
//! shards. Methods have no default bodies: each engine decides for itself. A method that waits
//! returns one boxed future, so that callers need not know the engine's type.
//!
//! **Invariant:** nothing here depends on one engine.
//! **Not here:** the engines (`store`), queues and batching (`lane`), the choice of the shard
//! (`manager`).

mod cluster_backend;
pub mod cluster_spec;
pub mod fault_injector;
pub(crate) mod forgetting;
mod node_reader;
pub mod open_error;
mod opened_cluster;
pub mod pause_barrier;
mod replica_node;
pub(crate) mod row_image;
pub mod runtime_pool;
#[cfg(test)]
pub(crate) mod sample_queries;
pub(crate) mod schema_agreement;
pub mod schema_intent;
pub(crate) mod select;
pub(crate) mod system_tables;
pub(crate) mod table_declaration;
mod writer;

use futures_util::future::BoxFuture;

use crate::error::Error;

pub use cluster_backend::{ClusterBackend, ReplicaIsolation, SchemaLock};
pub use node_reader::{
    KeyRead, NodeReader, NodeRows, PrimaryReader, ReadIndex, ScanRead, Scope, TableRows, TableSize,
    WorkerNode,
};
pub use opened_cluster::{OpenedCluster, OpenedReplica, OpenedShard};
pub use replica_node::{NodeLabel, ReplicaNode};
pub use writer::{
    AsyncWriter, BatchDone, BatchFailure, LaneControls, SchemaChange, WRITERS_MAX, WriteGroup,
    WritePartitioner, Writer, WriterKind,
};

/// Future of a request to an engine.
pub type EngineFuture<'a, T> = BoxFuture<'a, Result<T, Error>>;
