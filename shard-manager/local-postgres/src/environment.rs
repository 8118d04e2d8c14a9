//! Environment: the environment variables by which a router finds the nodes of a local cluster.
//!
//! **Not here:** reading the variables (the router).

use model::topology::Role;

use crate::node::LocalNode;

/// Returns the contents of the environment file: `SHARD_URLS` with the URL of each shard's primary,
/// and `REPLICA_URLS` with those of all replicas, both in the order of the shards. Each URL ends
/// with the shard's name.
pub(super) fn text(nodes: &[LocalNode]) -> String {
    let urls = |role: Role| {
        let nodes = nodes.iter().filter(|node| node.role == role);
        let urls: Vec<String> = nodes.map(|node| node.url(&node.database())).collect();
        urls.join(",")
    };
    format!("SHARD_URLS={}\nREPLICA_URLS={}\n", urls(Role::Primary), urls(Role::Replica))
}
