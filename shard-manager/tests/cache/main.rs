//! Tests of the cache, each with its own Redis server: correct answers, answers that must never be
//! given, and behaviour while Redis misbehaves.
//!
//! Without a `redis-server` program, every test prints that it is skipped, or fails if
//! `TESSERA_TEST_REQUIRE` lists `redis`.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod admission;
mod bench;
#[path = "../postgres/certificates.rs"]
mod certificates;
mod cluster;
mod concurrent_reads;
#[path = "../support/free_port.rs"]
mod free_port;
mod local_cache;
#[path = "../support/prerequisites.rs"]
mod prerequisites;
mod proxy;
mod races;
mod redis_server;
mod redis_unavailable;
#[cfg(feature = "sabotage")]
mod sabotaged;
#[path = "../support/scratch.rs"]
mod scratch;
mod secured;
mod slow;
#[path = "../support/tcp_proxy.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod tcp_proxy;
mod values;
