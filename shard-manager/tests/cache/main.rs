//! Stories of the cache, each on a Redis of its own: what it may answer, what it must not, and what becomes of those who
//! ask when Redis is not what it should be.
//!
//! Where there is no `redis-server`, every story says so and is passed over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod away;
mod bench;
mod cluster;
mod crowds;
mod races;
mod redis_server;
mod values;
