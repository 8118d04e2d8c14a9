//! Stories of the cache, each on a Redis of its own: what it may answer, what it must not, and what becomes of those who
//! ask when Redis is not what it should be.
//!
//! Where there is no `redis-server`, every story says so and is passed over.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod admission;
mod bench;
#[path = "../postgres/certificates.rs"]
mod certificates;
mod cluster;
mod concurrent_reads;
mod local_cache;
mod proxy;
mod races;
mod redis_server;
mod redis_unavailable;
#[cfg(feature = "sabotage")]
mod sabotaged;
mod secured;
mod slow;
mod values;
