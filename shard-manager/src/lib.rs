#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod barrier;
pub mod brake;
pub mod consistency;
pub mod csv;
pub mod home;
pub mod keyspace;
pub mod members;
pub mod position;
pub mod reason;
pub mod sabotage;
pub mod topology;

pub mod doubts;
pub mod local;
pub mod placement;
pub mod replication;
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
pub mod idempotency;
pub mod store;

pub mod lane;
pub mod lanes;

pub mod replica_set;

pub mod backup;
pub mod shard;

pub mod control;

pub mod manager;

pub mod doctor;

pub mod fill;
