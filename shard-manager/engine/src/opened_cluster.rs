//! Opened cluster: the cluster that an engine has opened, for the manager to serve.
//!
//! **Not here:** opening (the engines), serving (`manager`).

use std::sync::Arc;

use arc_swap::ArcSwap;
use model::table::Registry;
use model::token::TokenKey;

use super::cluster_backend::ClusterBackend;
use super::opened_shard::OpenedShard;
use crate::published_map::PublishedMap;

/// Cluster that was opened and serves no requests yet.
pub struct OpenedCluster {
    /// The shard map in force, which the backend replaces when the catalog has a newer one.
    pub map: Arc<PublishedMap>,
    /// The tables, which the backend may replace.
    pub registry: Arc<ArcSwap<Registry>>,
    /// Key that signs session tokens.
    pub token_key: TokenKey,
    /// The members of the map, in order.
    pub shards: Vec<OpenedShard>,
    /// Backend that the shards share. Dropped after them.
    pub backend: Box<dyn ClusterBackend>,
}
