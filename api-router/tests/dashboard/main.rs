//! Tests of the dashboard: a real browser shows a real router under real load.
//!
//! They need Chromium, axe-core and Redis; `./setup.sh tools` installs them. Without these programs
//! the tests fail, because an unchecked page is not known to work.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod access;
mod advice;
mod browser;
mod cache;
mod connection;
mod documents;
#[path = "../it/earlier_metrics.rs"]
mod earlier_metrics;
mod fleet;
#[path = "../it/folders.rs"]
mod folders;
#[path = "../../../shard-manager/tests/support/free_port.rs"]
mod free_port;
mod gap;
#[path = "../../../shard-manager/tests/support/killed_child.rs"]
mod killed_child;
mod lab;
mod load;
mod login;
mod metrics;
mod moves;
#[path = "../../../shard-manager/tests/support/other_program.rs"]
mod other_program;
mod page;
mod pictures;
#[expect(dead_code, reason = "stories of HTTP ask more of it")]
#[path = "../it/redis.rs"]
mod redis;
mod router;
mod service;
mod shards;
