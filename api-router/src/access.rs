//! Access: decides which requests are served, from the credentials of a request and the rights of
//! its caller.
//!
//! A router without access control has no [`gate::AccessGate`], and nothing here runs.
//!
//! **Invariant:** a route has exactly one row in the table of [`scopes`]; a request with bad
//! credentials is refused and never served like one without.
//! **Not here:** the decision about rows (the shard manager, which gets the rights of the caller),
//! the meaning of keys, tokens and roles (`shard_manager::access`), the keys of issuers
//! (`issuers`).

pub mod access_problems;
pub mod admission;
pub mod audit;
pub mod caller_recheck;
pub mod certificates;
pub mod client_address;
pub mod clock;
pub mod cors;
pub mod counts;
pub mod credentials;
pub mod files;
pub mod gate;
pub mod meter;
pub mod mode_check;
pub mod scopes;
pub mod sessions;
pub mod sources;
pub mod usage_writer;
pub mod watcher;
