//! Store: re-exports the engines that store rows, under the path that other packages use.
//!
//! **Not here:** the traits that they implement (`engine`), the choice of the node (`manager`,
//! `shard`).

pub use {postgres, sqlite};
