//! Environment: the variables by which a router finds a local cluster.
//!
//! **Not here:** reading them (the router).

use super::{LocalCluster, LocalNode};

/// `SHARD_URLS` has the primary of each shard, `REPLICA_URLS` all replicas by shards; each URL ends in the shard's name.
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
