//! Tests of local clusters: real servers, run through the library and through the program.

mod cluster;
mod lab;
mod promotion;
mod refusals;
#[path = "../support/scratch.rs"]
mod scratch;
mod servers;
mod standalone;
