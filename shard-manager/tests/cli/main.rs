//! Tests of the command line: the real program, run on clusters that the library creates.

mod access;
mod audit_log;
#[path = "../support/begun_move.rs"]
mod begun_move;
mod check;
mod cluster;
mod credentials;
mod damage;
mod export;
mod files;
#[path = "../support/free_port.rs"]
mod free_port;
mod import;
mod indexes;
mod lab;
mod migrate;
mod moves;
mod placement;
mod places;
#[path = "../support/prerequisites.rs"]
mod prerequisites;
mod rebalances;
#[path = "../cache/redis_server.rs"]
#[expect(clippy::unwrap_used, dead_code, reason = "tests of the cache need more of it")]
mod redis_server;
mod results;
#[path = "../support/scratch.rs"]
mod scratch;
mod shards;
mod slots;
mod speed;
mod status;
mod terminal;
mod unclean;
