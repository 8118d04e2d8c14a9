//! Tests of local clusters: real servers, run through the library and through the program.

mod cluster;
#[path = "../support/free_port.rs"]
mod free_port;
mod lab;
mod promotion;
mod refusals;
#[path = "../support/scratch.rs"]
mod scratch;
mod servers;
mod settings;
mod standalone;
