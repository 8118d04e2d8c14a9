//! Local servers: PostgreSQL clusters on this machine, run with its installed programs.
//!
//! A single node that runs in a container of its own is created and run here too (`standalone`).
//!
//! ```text
//! data-postgres/
//!   cluster.json       the nodes and their ports (`manifest`)
//!   cluster.lock       held by the one command that changes the cluster (`cluster_dir`)
//!   password, pgpass   the password of the databases, alone and as a passfile of libpq
//!   tessera.env        SHARD_URLS and REPLICA_URLS, for a router
//!   shard1-primary/    one server (`node`), and so on
//! ```
//!
//! [`LocalCluster::up`] creates and starts a cluster (`local_cluster`) with the servers of each
//! shard (`cluster_update`). A node is *made*, or complete, once all its files have been created.
//!
//! **Invariant:** only `destroy` removes rows that the present primary of a shard has; `rejoin` and
//! `rebuild` may remove rows that only a former primary has. A node that was once complete is
//! rebuilt only if it is a replica and its files are missing, its rewind was interrupted, or a
//! command names it. Only one node of a shard is started as primary: the one promoted last.
//! **Not here:** SQL and tables (`shard-manager`); the decision to promote a replica (the
//! caller of `promote`).
#![forbid(unsafe_code)]

mod cluster_dir;
mod cluster_update;
mod environment;
mod error;
mod local_cluster;
mod local_spec;
mod manifest;
mod node;
mod node_commands;
mod node_dir;
mod os_user;
mod pg_rewind;
mod ports;
mod primary_choice;
mod processes;
mod programs;
mod provision;
mod setting_check;
mod settings;
mod shared_env;
mod standalone;
mod standby_settings;

pub use error::LocalError;
pub use local_cluster::LocalCluster;
pub use local_spec::LocalSpec;
pub use node::{LocalNode, NodeState, Stop};
pub use node_commands::{NodeCommands, Promoted, Rejoined};
pub use node_dir::NodeDir;
pub use programs::{MAJOR_MIN, Programs, VARIABLE};
pub use shared_env::{DATABASE_USER, Peer, Secret};
pub use standalone::{NodeSpec, NodeStatus, StandaloneNode};
