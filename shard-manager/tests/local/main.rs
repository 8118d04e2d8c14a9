//! Tests of local clusters: real servers, run through the library and through the program.

mod cluster;
mod promotion;
mod refusals;
mod servers;
mod standalone;
