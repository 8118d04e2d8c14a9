//! Access: authenticates the caller of each request (the owner of an API key, a token, a session
//! cookie or a client certificate) and decides whether the request is served.
//!
//! A router without access control has no [`gate::AccessGate`], and nothing here runs. In the mode
//! `observe` the gate decides and counts, but refuses nothing.
//!
//! **Invariant:** the table of [`scopes`] has exactly one entry for each route. While access
//! control is enforced, a request with invalid credentials is refused; it is never served as if it
//! had none.
//! **Not here:** which rows a caller may read and write (the shard manager, which gets the rights
//! of the caller), the meaning of keys, tokens and roles (`shard_manager::access`), the keys of
//! token issuers (`issuers`).

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
