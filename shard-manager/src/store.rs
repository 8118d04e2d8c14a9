//! Store: the engines that keep rows.
//!
//! **Not here:** the traits that they implement (`engine`), the choice of the node (`manager`,
//! `shard`).

pub mod postgres;

pub use sqlite;
