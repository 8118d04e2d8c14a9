//! Doctor: what a cluster is like before a router starts on it, and what should be mended.
//!
//! A start stops at the first thing that is wrong. This looks at everything, also at what a start does not mind and the
//! day after it does: a crash, a failover, a disk that fills.
//!
//! **Invariant:** looking changes nothing, neither on a server nor in a folder.
//! **Not here:** the router itself, its port and its certificate.

mod cache;
mod files;
mod servers;
mod workers;

pub use crate::finding::{Finding, Verdict};
pub use cache::cache;
pub use files::files;
pub use servers::servers;
