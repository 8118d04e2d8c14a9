//! Voiding: whoever writes removes all answers about the key.
//!
//! It is sent after the commit and before the answer, and nobody waits for it. It may be lost, late or refused: what is
//! left behind then serves nobody who has seen the write, and nobody else longer than the bound.
//!
//! **Invariant:** a write never waits for Redis.
//! **Not here:** who writes (`manager`).

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;

use super::Cache;
use super::asking::UNWAITED_MAX;
use super::shape::{About, Name};
use super::tally::Count;

/// Keys of one command.
const CHUNK: usize = 256;

impl Cache {
    /// Voids all answers about these keys: rows of them were written, or may have been.
    pub fn void<'a>(self: &Arc<Self>, written: impl IntoIterator<Item = About<'a>>) {
        let mut keys = Vec::new();
        for about in written {
            let (key, hash) = self.secrets.key(&about);
            self.flights.void(hash);
            if let Some(near) = &self.near {
                near.void(hash);
            }
            self.tally.count(Count::Void);
            keys.push(key);
            if keys.len() == CHUNK {
                self.send_void(std::mem::take(&mut keys));
            }
        }
        if !keys.is_empty() {
            self.send_void(keys);
        }
    }

    /// Removes what is there under a name, because it is no entry of ours.
    pub(super) fn remove(self: &Arc<Self>, name: &Name) {
        self.send_void(vec![name.key.clone()]);
    }

    fn send_void(self: &Arc<Self>, keys: Vec<String>) {
        // Nobody asks while it is open; what is there when it closes is as old as it says.
        if !self.breaker.is_closed() {
            return;
        }
        let count = keys.len();
        let Some(turn) = self.turns.take(count) else {
            self.tally.add(Count::Error, count as u64);
            return;
        };
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let cache = Arc::clone(self);
        let mut sent = Box::pin(async move {
            let _turn = turn;
            let mut cmd = redis::cmd("UNLINK");
            cmd.arg(&keys);
            cache.ask(&cmd, Instant::now() + UNWAITED_MAX).await;
        });
        // So it is on its way before the writer is answered, if there is a connection.
        if sent.as_mut().now_or_never().is_none() {
            self.spawn(sent);
        }
    }
}
