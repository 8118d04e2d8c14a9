//! Doctor: checks a cluster before a router starts on it, and reports what to repair.
//!
//! A router that starts stops at the first fault that it finds. The doctor checks everything,
//! including conditions that do not prevent a start but cause problems later: after a crash, after
//! a failover, or when the disk is full.
//!
//! **Invariant:** a check changes nothing, neither on a server nor in a folder.
//! **Not here:** checks of the router's own port and certificate.

mod access;
mod cache;
mod files;
mod servers;
mod workers;

pub use access::{
    access_of_files, access_of_servers, audit_heads_of_files, audit_heads_of_servers,
};
pub use cache::cache;
pub use files::files;
pub use model::finding::{Finding, Severity};
pub use servers::servers;
