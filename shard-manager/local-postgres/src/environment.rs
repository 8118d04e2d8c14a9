//! Environment: variables that let a router find a local cluster.
//!
//! **Not here:** reading them (the router).

use model::topology::Role;

use crate::node::LocalNode;

/// Returns the variables: `SHARD_URLS` with the primary of each shard, `REPLICA_URLS` with all
/// replicas, both in the order of the nodes, which is that of the shards. Each URL ends in the
/// shard's name.
pub(super) fn text(nodes: &[LocalNode]) -> String {
    let urls = |role: Role| {
        let nodes = nodes.iter().filter(|node| node.role == role);
        let urls: Vec<String> = nodes.map(|node| node.url(&node.database())).collect();
        urls.join(",")
    };
    format!("SHARD_URLS={}\nREPLICA_URLS={}\n", urls(Role::Primary), urls(Role::Replica))
}
