//! Command line of the operator: inspects, checks, fills, exports and backs up a cluster.

#![forbid(unsafe_code)]

mod command;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

/// Allocator in which threads do not contend for a lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match command::CommandLine::try_parse() {
        Ok(line) => command::run(line),
        Err(error) => command::explain(&error),
    }
}
