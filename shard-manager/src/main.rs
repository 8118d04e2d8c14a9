//! Command line of the operator: inspects, checks, fills, exports and backs up a cluster.

#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Allocator in which threads do not contend for a lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
