#![doc = include_str!("../README.md")]

pub mod keyspace;
pub mod topology;

pub mod placement;
pub mod shard_map;
pub mod value;

pub mod table;

pub mod query;
pub mod row;

pub mod rows;

pub mod error;

pub mod store;

pub mod lane;

pub mod shard;

pub mod manager;
