//! Cached entries: removes all entries of a cluster from Redis.
//!
//! Entries expire by themselves, after about half a minute at most. A temporary cluster, such as
//! one of an experiment, still removes its entries at its end, because nothing will use them.
//!
//! **Invariant:** entries of other clusters are not touched.
//! **Not here:** the removal of entries after a write (`invalidation`).

use std::time::Duration;

use redis::Cmd;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{FromRedisValue, from_redis_value};

use super::CacheAddress;
use super::connections::connect;

/// Time limit for the removal of all entries.
const REMOVE_MAX: Duration = Duration::from_secs(10);
/// Approximate number of keys that Redis visits for each `SCAN` command.
const KEYS_AT_A_TIME: usize = 1_000;

/// Handle for all entries of a cluster in Redis.
#[derive(Clone, Debug)]
pub struct CachedEntries {
    pub(super) address: CacheAddress,
    /// Prefix that the Redis keys of all entries have.
    pub(super) prefix: String,
}

impl CachedEntries {
    /// Removes all entries. An entry that the cluster stores during the removal may remain.
    ///
    /// # Errors
    /// A clause with the reason, if Redis does not respond or refuses a command.
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
    // The text of a Redis error is dropped, because it may repeat what was sent, such as a
    // password.
    let answered = answered.map_err(|_| "it refuses SCAN or UNLINK".to_owned())?;
    from_redis_value(answered).map_err(|_| "it is not a Redis server".to_owned())
}
