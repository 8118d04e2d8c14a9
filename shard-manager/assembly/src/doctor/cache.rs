//! Cache: checks the Redis server of a configuration.
//!
//! **Invariant:** no finding about the cache is a fault, because a router serves requests without a
//! cache.

use cache::{CacheAddress, inspect};

use super::Finding;

/// Value of `maxmemory-policy` with which Redis evicts nothing, and refuses writes when it is full.
const NO_EVICTION: &str = "noeviction";

/// Queries the Redis server, and returns findings about its memory limit and eviction policy.
pub async fn cache(address: &CacheAddress) -> Vec<Finding> {
    let about = address.redacted();
    let server = match inspect(address).await {
        Ok(server) => server,
        Err(why) => {
            let text = format!("is of no use as a cache: {why}; reads go to the shards meanwhile");
            return vec![Finding::warning(about, text)];
        }
    };
    let memory = server.memory_max.map_or_else(
        || "as much memory as there is".to_owned(),
        |bytes| format!("{} MiB of memory", bytes >> 20),
    );
    let policy = &server.policy;
    let mut found = vec![Finding::good(
        about,
        format!("answers, {}, {memory}, maxmemory-policy {policy}", server.version),
    )];
    if server.memory_max.is_none() {
        found.push(Finding::warning(
            about,
            "has no maxmemory: it takes what it gets until the system ends it; set maxmemory, and maxmemory-policy \
             allkeys-lfu",
        ));
    } else if policy == NO_EVICTION {
        found.push(Finding::warning(
            about,
            "has maxmemory-policy noeviction: once it is full it keeps nothing new; set allkeys-lfu",
        ));
    }
    found
}
