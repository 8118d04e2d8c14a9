//! Store: the engines that keep rows.
//!
//! **Not here:** the traits that they implement (`engine`), the choice of the node (`manager`,
//! `shard`).

pub use {postgres, sqlite};
