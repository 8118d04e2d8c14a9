//! Cluster: the open cluster, from a request to the node of the shard that answers it.
//!
//! A manager has one [`shard::Shard`] per shard, which writes through its [`lanes`] and reads from
//! its primary and its [`replica_set`].
//!
//! **Invariant:** nothing here depends on one engine: nodes are reached through the traits of
//! [`engine`].
//! **Not here:** opening a cluster (`assembly`), HTTP, SQL.
#![forbid(unsafe_code)]

pub mod lane;
pub mod lanes;
pub mod manager;
pub mod replica_set;
pub mod shard;
