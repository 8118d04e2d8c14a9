//! Look: what a Redis is like that is to be a cache, for whoever sets one up.
//!
//! **Invariant:** looking changes nothing, and nothing that is told holds a password.
//! **Not here:** what is judged of it (`doctor`).

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::from_redis_value;

use super::CacheAddress;
use super::link::connect;

/// How long it may take.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// What a Redis tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheServer {
    /// `Redis 7.0.15`, or the name and version of another that speaks like it.
    pub version: String,
    /// Bytes of memory that it may use; none if it may use all.
    pub memory_max: Option<u64>,
    /// What makes room when they are used: `allkeys-lfu`, `noeviction`, …
    pub policy: String,
}

/// Asks a Redis what it is.
///
/// # Errors
/// In words: why it could not be asked.
pub async fn look(address: &CacheAddress) -> Result<CacheServer, String> {
    let asked = async {
        let mut connection = connect(address).await.map_err(|trouble| trouble.to_string())?;
        let refused = |_| "it refuses to tell what it is (INFO)".to_owned();
        let told = connection.req_packed_command(&redis::cmd("INFO")).await.map_err(refused)?;
        Ok(read(&from_redis_value::<String>(told).map_err(|_| "it is no Redis".to_owned())?))
    };
    let answer = tokio::time::timeout(LOOK_MAX, asked).await;
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
