//! Cached entries: removes all entries of a cluster from Redis.
//!
//! Entries expire by themselves. A temporary cluster removes its own, because no other cluster uses
//! them.
//!
//! **Invariant:** entries of other clusters are not touched.
//! **Not here:** entries that a write makes invalid (`invalidation`).

use std::time::Duration;

use redis::Cmd;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{FromRedisValue, from_redis_value};

use super::CacheAddress;
use super::connections::connect;

/// Longest duration of a removal.
const REMOVE_MAX: Duration = Duration::from_secs(10);
/// Number of keys that Redis visits at a time.
const KEYS_AT_A_TIME: usize = 1_000;

/// Entries of a cluster in Redis.
#[derive(Clone, Debug)]
pub struct CachedEntries {
    pub(super) address: CacheAddress,
    /// Beginning of the key of each entry.
    pub(super) prefix: String,
}

impl CachedEntries {
    /// Removes all entries. An entry that the cluster stores meanwhile may remain.
    ///
    /// # Errors
    /// A sentence with the reason, if Redis does not answer or refuses a command.
    pub async fn remove(&self) -> Result<(), String> {
        let removed = tokio::time::timeout(REMOVE_MAX, self.scan_and_unlink()).await;
        removed.unwrap_or_else(|_elapsed| Err("it does not answer".to_owned()))
    }

    async fn scan_and_unlink(&self) -> Result<(), String> {
        let mut connection = connect(&self.address).await.map_err(|error| error.to_string())?;
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{}*", self.prefix));
            scan.arg("COUNT").arg(KEYS_AT_A_TIME);
            let (next, keys): (u64, Vec<Vec<u8>>) = send(&mut connection, &scan).await?;
            if !keys.is_empty() {
                let _: u64 = send(&mut connection, redis::cmd("UNLINK").arg(keys)).await?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}

async fn send<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> Result<T, String> {
    let answered = connection.req_packed_command(command).await;
    // The text of an error may repeat what was sent.
    let answered = answered.map_err(|_| "it refuses SCAN or UNLINK".to_owned())?;
    from_redis_value(answered).map_err(|_| "it is not a Redis server".to_owned())
}
