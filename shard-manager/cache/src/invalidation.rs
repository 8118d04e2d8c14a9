//! Invalidation: a write removes all cached answers about its key.
//!
//! The invalidation is sent after the commit and before the response, which does not wait for it.
//! It may be lost, late or refused: the entry left behind then serves no session that has seen the
//! write, and serves others only until it is older than the bound.
//!
//! **Invariant:** a write never waits for Redis.
//! **Not here:** writing (`shard-manager`).

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;

use super::Cache;
use super::cache_key::{About, Name};
use super::client::UNWAITED_MAX;
use super::tally::Count;

/// Highest number of keys in one command.
const CHUNK: usize = 256;

impl Cache {
    /// Removes all answers about these keys, whose rows were or may have been written.
    pub fn invalidate<'a>(self: &Arc<Self>, written: impl IntoIterator<Item = About<'a>>) {
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
                self.send_invalidation(std::mem::take(&mut keys));
            }
        }
        if !keys.is_empty() {
            self.send_invalidation(keys);
        }
    }

    /// Removes foreign data stored under a name.
    pub(super) fn remove(self: &Arc<Self>, name: &Name) {
        self.send_invalidation(vec![name.key.clone()]);
    }

    fn send_invalidation(self: &Arc<Self>, keys: Vec<String>) {
        // No read uses Redis while the breaker is open, and afterwards every entry still states its
        // true age.
        if !self.breaker.is_closed() {
            return;
        }
        let count = keys.len();
        let Some(permit) = self.permits.take(count) else {
            self.tally.add(Count::Error, count as u64);
            return;
        };
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let cache = Arc::clone(self);
        let mut sent = Box::pin(async move {
            let _permit = permit;
            let mut cmd = redis::cmd("UNLINK");
            cmd.arg(&keys);
            cache.ask(&cmd, Instant::now() + UNWAITED_MAX).await;
        });
        // On an open connection the command is sent before the response to the client.
        if sent.as_mut().now_or_never().is_none() {
            self.spawn(sent);
        }
    }
}
