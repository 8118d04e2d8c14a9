//! Lifecycle: the runtimes that a manager's backend uses, and the shutdown of a manager.
//!
//! **Not here:** opening (`assembly`), changes of the tables (`schema`).

use engine::runtime_pool::RuntimePool;

use super::Manager;

impl Manager {
    /// Returns the runtimes of the tasks that talk to servers; `None` if no node is a server.
    pub fn runtimes(&self) -> Option<&RuntimePool> {
        self.backend.runtime_pool()
    }

    /// Applies the queued writes and closes the shards. Blocks.
    pub fn close(&self) {
        self.backend.stop_background();
        if let Some(cache) = &self.cache {
            cache.close();
        }
        self.shards.load().iter().for_each(|(_, shard)| shard.close());
        self.backend.release();
    }
}
