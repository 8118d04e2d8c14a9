//! Environment: variables that let a router find a local cluster.
//!
//! **Not here:** reading them (the router).

use super::{LocalCluster, LocalNode};

/// Returns the variables: `SHARD_URLS` with the primary of each shard, `REPLICA_URLS` with all
/// replicas by shard. Each URL ends in the shard's name.
pub(super) fn text(cluster: &LocalCluster) -> String {
    let urls = |nodes: &mut dyn Iterator<Item = &LocalNode>| {
        let urls: Vec<String> = nodes.map(|node| node.url(&node.database())).collect();
        urls.join(",")
    };
    let (shards, _) = cluster.size();
    let primaries = urls(&mut cluster.primaries());
    let replicas = urls(&mut (0..shards).flat_map(|shard| cluster.replicas_of(shard)));
    format!("SHARD_URLS={primaries}\nREPLICA_URLS={replicas}\n")
}
