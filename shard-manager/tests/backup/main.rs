//! Tests of the commands that back up, restore and fill a cluster. Where the command line matters,
//! the real program is run.

mod backup;
#[expect(dead_code, reason = "it serves other tests too")]
#[path = "../embedded/cluster.rs"]
mod cluster;
mod command;
mod control;
mod filling;
mod ids;
mod modes;
mod replace;
mod restore;
mod restored_rows;
#[path = "../support/scratch.rs"]
mod scratch;
