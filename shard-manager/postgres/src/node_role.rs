//! Node role: the role that a node must have to be used.
//!
//! **Not here:** checking it (`session`).

use std::fmt;

/// Role that a node of an address must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    /// The node accepts writes.
    Primary,
    /// The node is in recovery.
    Replica,
    /// Any role.
    Any,
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Any => "node",
        })
    }
}
