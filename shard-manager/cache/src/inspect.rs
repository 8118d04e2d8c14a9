//! Inspect: reads version, memory limit and eviction policy of a Redis server that is to be used as
//! the cache.
//!
//! **Invariant:** an inspection changes nothing, and its result contains no password.
//! **Not here:** the assessment of the result (`doctor`).

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::from_redis_value;

use super::CacheAddress;
use super::connections::connect;

/// Time limit of an inspection.
const INSPECT_MAX: Duration = Duration::from_secs(2);

/// Version and settings of a Redis server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheServer {
    /// Name and version, for example `Redis 7.0.15` or `Valkey 8.0.1`.
    pub version: String,
    /// Memory limit in bytes; `None` if there is none.
    pub memory_max: Option<u64>,
    /// Eviction policy: `allkeys-lfu`, `noeviction`, …
    pub policy: String,
}

/// Reads version and settings of a Redis server.
///
/// # Errors
/// A clause with the reason, if the server cannot be reached or refuses the command.
pub async fn inspect(address: &CacheAddress) -> Result<CacheServer, String> {
    let asked = async {
        let mut connection = connect(address).await.map_err(|error| error.to_string())?;
        let refused = |_| "it refuses INFO, which reports its version and settings".to_owned();
        let reported = connection.req_packed_command(&redis::cmd("INFO")).await.map_err(refused)?;
        Ok(read(
            &from_redis_value::<String>(reported)
                .map_err(|_| "it is not a Redis server".to_owned())?,
        ))
    };
    let answer = tokio::time::timeout(INSPECT_MAX, asked).await;
    answer.unwrap_or_else(|_elapsed| Err("it does not answer".to_owned()))
}

fn read(info: &str) -> CacheServer {
    let find = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(known, _)| *known == name).map(|(_, value)| value.trim())
    };
    let version = match (find("valkey_version"), find("redis_version")) {
        (Some(version), _) => format!("Valkey {version}"),
        (None, Some(version)) => format!("Redis {version}"),
        (None, None) => "an unknown version".to_owned(),
    };
    let memory_max = find("maxmemory").and_then(|bytes| bytes.parse().ok());
    let policy = find("maxmemory_policy").unwrap_or_default().to_owned();
    CacheServer { version, memory_max: memory_max.filter(|bytes| *bytes > 0), policy }
}
