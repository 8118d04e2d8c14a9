//! What is promised of nodes of PostgreSQL, told as stories of real servers. They need its programs (`initdb`,
//! `pg_ctl`, `pg_basebackup`); where there are none, the stories say so and end.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod addresses;
mod certificates;
mod cluster;
mod connecting;
mod crash;
mod drafts;
mod equality;
mod faults;
mod fence;
mod opening;
mod questions;
mod requirements;
mod rivals;
mod rows;
mod server;
mod tables;
mod tls;
