#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub use local_postgres as local;
pub use model::{
    advice, consistency, csv, cursor, declaration, error, idempotency, keyspace, placement,
    position, query, reason, sabotage, shard_map, simulation, table, token, topology, value,
};
pub use model::{json_members as members, result_rows as rows, row_change as row, stats as vitals};

pub mod address;
pub mod backup;
pub mod barrier;
pub mod brake;
pub mod cache;
pub mod control;
pub mod demo_data;
pub mod doctor;
pub mod doubts;
pub mod home;
pub mod import;
pub mod lane;
pub mod lanes;
pub mod manager;
pub mod progress;
pub mod replica_set;
pub mod shard;
pub mod store;
