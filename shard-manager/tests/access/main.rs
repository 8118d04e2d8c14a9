//! Tests of the rights of callers at the faces of the manager, on embedded clusters: rows, columns
//! and tables without a grant are as if they were not there.

#![expect(
    unsafe_code,
    reason = "counting allocations needs an allocator, which is an unsafe trait"
)]

mod bound_specs;
mod bound_steps;
mod compared_callers;
#[path = "../../access/tests/access/counted_heap.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod counted_heap;
#[path = "../support/free_port.rs"]
mod free_port;
mod hidden;
mod isolation;
mod off;
#[path = "../support/prerequisites.rs"]
mod prerequisites;
mod reads;
#[path = "../cache/redis_server.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "tests of the cache need more of it")]
mod redis_server;
#[path = "../support/scratch.rs"]
mod scratch;
mod shop;
mod writes;
