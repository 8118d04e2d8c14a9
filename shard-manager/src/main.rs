//! The operator's command line: looks at a cluster, checks it, fills it, empties it, and saves it.

#![forbid(unsafe_code)]

mod command;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

/// Allocations of many threads do not wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match command::CommandLine::try_parse() {
        Ok(line) => command::run(line),
        Err(error) => command::explain(&error),
    }
}
