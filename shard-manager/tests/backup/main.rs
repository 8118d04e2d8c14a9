//! What the commands that save and fill a cluster promise, told as tests, through the program where it is asked.

mod backup;
#[expect(dead_code, reason = "it serves other tests too")]
#[path = "../it/cluster.rs"]
mod cluster;
mod command;
mod control;
mod filling;
mod ids;
mod restore;
