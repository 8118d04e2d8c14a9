//! Command line of the operator: inspects, checks, fills, exports and backs up a cluster.
//!
//! **Not here:** the program (`shard-manager`), serving a cluster (`cluster`).
#![forbid(unsafe_code)]

mod command;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

/// Runs the command of this process's arguments, and returns its exit code.
pub fn run() -> ExitCode {
    match command::CommandLine::try_parse() {
        Ok(line) => command::run(line),
        Err(error) => command::explain(&error),
    }
}
