//! Nodes: the nodes that responded to requests, identified by the headers of their responses.
//!
//! **Invariant:** number 0 stands for an unknown node. Every other number stands for one
//! combination of shard, role and router.
//! **Not here:** deciding whether a node was allowed to respond (the checks).

use std::fmt;

/// The number of a [`Node`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

impl NodeId {
    /// No response, or a response that names no node.
    pub const NONE: Self = Self(0);
}

/// Node that sent a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Value of `x-shard`; empty without that header.
    pub shard: String,
    /// Role that the header `x-served-by` names.
    pub role: Role,
    /// Index of the router to which the request was sent, in `hosts` of the history's header.
    pub host: u16,
}

/// Role of the node that responded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The shard's primary.
    Primary,
    /// A replica of the shard.
    Replica,
    /// The router's cache.
    Cache,
    /// Unknown: the response's header `x-served-by` was absent or had another value.
    Unknown,
}

impl Role {
    /// Returns the role that the header `x-served-by` names.
    pub fn from_wire(text: &str) -> Self {
        match text {
            "primary" => Self::Primary,
            "replica" => Self::Replica,
            "cache" => Self::Cache,
            _ => Self::Unknown,
        }
    }

    /// Returns the name of the role for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Cache => "cache",
            Self::Unknown => "unknown role",
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shard = if self.shard.is_empty() { "unknown shard" } else { &self.shard };
        write!(out, "{shard} {}", self.role.name())
    }
}

/// All nodes of a history. There are at most a few dozen, so a linear search is fast enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes(Vec<Node>);

impl Nodes {
    /// Returns the number of a node, which is added if it is new; 0 if no 16-bit number is left.
    pub fn intern(&mut self, shard: &str, role: Role, host: u16) -> NodeId {
        let known = |node: &Node| node.shard == shard && node.role == role && node.host == host;
        let index = self.0.iter().position(known).unwrap_or_else(|| {
            self.0.push(Node { shard: shard.to_owned(), role, host });
            self.0.len() - 1
        });
        u16::try_from(index + 1).map_or(NodeId::NONE, NodeId)
    }

    /// Returns the node with this number.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.0.get(usize::from(id.0).checked_sub(1)?)
    }
}
