//! Stories told through the real router over HTTP, one binary for all.

mod harness;
mod layering;
