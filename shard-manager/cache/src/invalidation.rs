//! Invalidation: a write removes all cached answers about its key.
//!
//! The invalidation is sent after the commit and before the response, which does not wait for it.
//! It may be lost, late or refused: the entry left behind then serves no session that has seen the
//! write, and serves others only until it is older than the bound.
//!
//! **Invariant:** a write never waits for Redis.
//! **Not here:** writing (`shard-manager`).

use super::Cache;
use super::cache_key::About;
use super::tally::Count;

/// Highest number of keys in one command.
const CHUNK: usize = 256;

impl Cache {
    /// Removes all answers about these keys, whose rows were or may have been written.
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
