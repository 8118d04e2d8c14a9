//! Command line: the commands by which an operator inspects, checks, fills, exports and backs up a
//! cluster.
//!
//! **Not here:** the `main` function (`shard-manager`), serving a cluster (`cluster`).
#![forbid(unsafe_code)]

mod command;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

/// Runs the command that the arguments of this process name, and returns its exit code.
pub fn run() -> ExitCode {
    match command::CommandLine::try_parse() {
        Ok(line) => command::run(line),
        Err(error) => command::explain(&error),
    }
}
