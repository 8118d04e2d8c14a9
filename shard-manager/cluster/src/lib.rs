//! Cluster: the open cluster, from a request to the node of the shard that answers it.
//!
//! A manager has one [`shard::Shard`] per shard, which writes through the [`lane::Lanes`] of its
//! primary and reads from its replicas and its primary.
//!
//! **Invariant:** nothing here depends on one engine: nodes are reached by the traits of
//! [`engine`].
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
