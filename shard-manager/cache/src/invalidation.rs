//! Invalidation: a write removes all cached results about the key that it has written.
//!
//! The invalidation is sent after the commit, and on an open connection before the response to the
//! client. The response does not wait for Redis. An invalidation may be lost, late or refused. The
//! outdated entry that remains is then not used for a session that has seen the write, and is used
//! for others only until it is older than the bound.
//!
//! **Invariant:** a write never waits for Redis.
//! **Not here:** writing (`shard-manager`).

use super::Cache;
use super::cache_key::About;
use super::tally::Count;

/// Maximum number of keys in one `UNLINK` command.
const CHUNK: usize = 256;

impl Cache {
    /// Removes all cached results about these keys, whose rows were written or may have been
    /// written.
    pub fn invalidate<'a>(&self, written: impl IntoIterator<Item = About<'a>>) {
        let mut keys = Vec::new();
        for about in written {
            let (key, hash) = self.secrets.key(&about);
            self.shared_reads.invalidate(hash);
            if let Some(local_cache) = &self.local_cache {
                local_cache.invalidate(hash);
            }
            self.tally.count(Count::Invalidation);
            keys.push(key);
            if keys.len() == CHUNK {
                self.client.unlink(std::mem::take(&mut keys));
            }
        }
        if !keys.is_empty() {
            self.client.unlink(keys);
        }
    }
}
