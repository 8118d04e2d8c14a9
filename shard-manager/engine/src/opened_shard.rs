//! Opened shard: the nodes of a shard that an engine has opened, for the manager to serve.
//!
//! **Not here:** opening (the engines), serving (`cluster`).

use std::sync::Arc;

use model::reason::Findings;

use super::node_reader::PrimaryReader;
use super::replica_node::ReplicaNode;
use super::writer::{LaneControls, WritePartitioner, WriterKind};
use crate::copy_faults::CopyFaults;
use crate::index_builder::IndexBuilder;
use crate::replication::ReplicationState;
use crate::slot_move::ShardMoves;
use crate::slot_news::SlotNews;

/// Shard that was opened.
pub struct OpenedShard {
    /// Name of the shard.
    pub name: String,
    /// Positions of its nodes.
    pub replication: Arc<ReplicationState>,
    /// Writers of its lanes (write queues): at least one.
    pub writers: Vec<WriterKind>,
    /// Rule that divides changes among the writers, if the engine has one.
    pub partitioner: Option<Arc<dyn WritePartitioner>>,
    /// Controls of its lanes.
    pub controls: LaneControls,
    /// Connections that read the primary.
    pub primary: Arc<dyn PrimaryReader>,
    /// Reasons for a bad state of the primary that were found and still hold.
    pub findings: Arc<Findings>,
    /// Faults found in the rows of its nodes.
    pub copy_faults: Arc<CopyFaults>,
    /// Announcements that the state of the shard's slots has changed.
    pub slot_news: Arc<SlotNews>,
    /// Interfaces for moves; `None` if the engine distributes rows by itself.
    pub moves: Option<ShardMoves>,
    /// Builder of its indexes; `None` if its writer builds them while writes wait.
    pub indexes: Option<Arc<dyn IndexBuilder>>,
    /// The replicas, in the order of the replication state.
    pub replicas: Vec<OpenedReplica>,
}

impl OpenedShard {
    /// Stops the replicas of a shard that will not be served after all. Blocks.
    pub fn stop_replicas(&self) {
        self.replicas.iter().for_each(|replica| replica.node.stop());
    }
}

/// Replica that was opened.
pub struct OpenedReplica {
    /// The node.
    pub node: Arc<dyn ReplicaNode>,
    /// Reasons for a bad state of the replica that were found and still hold.
    pub findings: Arc<Findings>,
}
