//! Stories of the dashboard: a real browser looks at a real router under real load.
//!
//! They need Chromium and axe-core; `./setup.sh tools` brings both. Without them they fail, for what nobody looked at is
//! not known to work.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod access;
mod browser;
mod connection;
mod figures;
mod load;
mod page;
mod pictures;
mod router;
mod shards;
