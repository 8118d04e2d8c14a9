//! Engine: the traits between the cluster and the engines that store rows, and the code that the
//! engines share.
//!
//! The cluster chooses the shard and the node before it calls an engine, so an engine makes no
//! routing decision. Trait methods have no default bodies, so that each engine must implement them
//! explicitly; the exceptions are methods that only some engines support. An asynchronous method
//! returns a boxed future, so that the traits can be used as `dyn` objects, without the engine's
//! type.
//!
//! **Invariant:** nothing here depends on one engine.
//! **Not here:** the engines (`sqlite`, `postgres`), queues and batching (`lane`), the choice of a
//! shard (`manager`).
#![forbid(unsafe_code)]

pub mod access_store;
pub mod atomic_group;
pub mod audit_report;
pub mod backup_folder;
pub mod backup_id;
pub mod backup_maker;
pub mod backup_summary;
pub mod backup_view;
pub mod catalog_rows;
mod cluster_backend;
pub mod cluster_spec;
pub mod copy_faults;
pub mod copy_key;
pub mod default_values;
pub mod export;
pub mod fair_channel;
pub mod fair_places;
pub mod fair_queue;
pub mod fault_injector;
pub mod group_rows;
pub mod idempotency_expiry;
pub mod index_builder;
pub mod index_catalog;
pub mod index_record;
pub mod manifest_file;
pub mod map_backlog;
pub mod move_catalog;
pub mod move_draft;
pub mod move_record;
pub mod move_rows;
pub mod move_view;
pub mod new_shard;
pub mod node_distributor;
mod node_reader;
pub mod open_error;
mod opened_cluster;
mod opened_shard;
pub mod operator_queue;
pub mod pause_barrier;
pub mod private_file;
pub mod progress_observer;
pub mod published_map;
pub mod read_task;
pub mod rebalance_catalog;
pub mod rebalance_draft;
pub mod rebalance_id;
pub mod rebalance_record;
pub mod rebalance_rows;
pub mod rebalance_view;
pub mod refusal_code;
mod replica_node;
pub mod replication;
pub mod row_hashes;
pub mod row_image;
pub mod runtime_pool;
#[cfg(feature = "sample-queries")]
pub mod sample_queries;
pub mod save_error;
pub mod saved_file;
pub mod schema_agreement;
pub mod schema_intent;
pub mod select;
pub mod slot_change;
pub mod slot_move;
pub mod slot_news;
pub mod sql_list;
pub mod stored_move;
#[expect(missing_docs, reason = "the names of columns are their documentation")]
pub mod system_tables;
pub mod table_declaration;
pub mod unfinished_folder;
mod writer;

use futures_util::future::BoxFuture;

use model::error::Error;

pub use cluster_backend::{ClusterBackend, ReplicaIsolation, SchemaLock};
pub use node_reader::{
    KeyRead, NodeReader, NodeRows, PrimaryReader, ReadIndex, ScanRead, Scope, TableRows, TableSize,
    WorkerNode,
};
pub use opened_cluster::OpenedCluster;
pub use opened_shard::{OpenedReplica, OpenedShard};
pub use replica_node::{NodeLabel, ReplicaNode};
pub use writer::{
    AsyncWriter, BatchDone, BatchFailure, IndexChange, LaneControls, SchemaChange, WRITERS_MAX,
    WriteGroup, WritePartitioner, Writer, WriterKind,
};

/// Boxed future with the result of a request to an engine.
pub type EngineFuture<'a, T> = BoxFuture<'a, Result<T, Error>>;
