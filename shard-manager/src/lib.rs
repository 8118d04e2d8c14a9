#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub use access;
pub use assembly::{self, doctor};
pub use cache;
pub use cluster::{lane, manager, shard};
pub use credential::private_file;
pub use engine::{self, copy_faults, replication};
pub use import::{self, demo_data};
pub use lab;
pub use local_postgres as local;
pub use model::{
    advice, consistency, csv, cursor, declaration, error, fair_share, finding, idempotency,
    json_members, keyspace, map_change, placement, position, query, reason, result_rows,
    row_change, sabotage, shard_map, simulation, slot_plan, slot_refusal, slot_set, stats,
    stored_location, table, table_group, table_index, token, topology, value,
};
pub use moves;

pub mod store;

pub use postgres::node_address;
pub use sqlite::{backup, control};
