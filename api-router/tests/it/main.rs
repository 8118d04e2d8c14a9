//! Stories told through the real router over HTTP, one binary for all.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod bad_input;
mod bulk;
mod config;
mod contract;
mod durability;
mod figures;
mod harness;
mod layering;
mod operations;
mod placement;
mod problems;
mod random;
mod reads;
mod sockets;
mod surface;
mod writes;
