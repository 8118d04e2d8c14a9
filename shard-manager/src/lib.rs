#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod consistency;
pub mod csv;
pub mod keyspace;
pub mod members;
pub mod position;
pub mod reason;
pub mod sabotage;
pub mod topology;

pub mod doubts;
pub mod local;
pub mod placement;
pub mod progress;
pub mod shard_map;
pub mod simulation;
pub mod token;
pub mod value;
pub mod vitals;

pub mod table;

pub mod address;
pub mod advice;
pub mod declaration;
pub mod fake;
pub mod query;
pub mod row;

pub mod cursor;
pub mod rows;

pub mod error;

pub mod cache;
pub mod engine;
pub mod idempotency;
pub mod store;

pub mod lane;
pub mod lanes;

pub mod replica_set;

pub mod shard;

pub mod manager;

pub mod assembly;

pub use store::sqlite::{backup, control};

pub mod doctor;

pub mod fill;
