//! Cluster: an open cluster, which sends each request to a node of the shard that has its rows.
//!
//! The manager of a cluster has one [`shard::Shard`] for each shard. A shard writes through the
//! write queues of its primary ([`lane::Lanes`]), and reads from its replicas and its primary.
//!
//! **Invariant:** nothing here depends on a particular engine: nodes are reached only through the
//! traits of [`engine`].
//! **Not here:** opening a cluster (`assembly`), HTTP, SQL.
#![forbid(unsafe_code)]

pub mod lane;
pub mod manager;
pub mod parking_limits;
pub mod scatter_budget;
pub mod shard;
pub mod shard_list;
pub mod slot_redirects;
pub mod slot_router;
