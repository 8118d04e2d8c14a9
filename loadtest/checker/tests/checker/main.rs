//! Tests of the checker: each rule by itself, comparisons with brute force on small histories, and
//! histories of simulated servers, one that keeps all guarantees and others that each violate one.

mod allowed_losses;
mod brute;
mod lines;
mod promises;
mod rules;
mod server;
mod small;
